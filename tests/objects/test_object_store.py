"""The object directory as event lists: who keeps an object, what goes with it, who gets space."""

from __future__ import annotations

import pytest

from skate.objects.arena import Arena
from skate.objects.object_store import INLINE, PENDING, SEALED, ObjectStore

PAGE = 4096
A, B, C = b"a" * 20, b"b" * 20, b"c" * 20
ME = "a peer"


def store_of(pages: int) -> ObjectStore:
    return ObjectStore(Arena(pages * PAGE))


def put(store: ObjectStore, object_id: bytes, contains: list[bytes] | None = None) -> None:
    store.fulfil_inline(store.promise(object_id, ME), b"value", contains)


def put_large(store: ObjectStore, object_id: bytes, pages: int) -> None:
    creation = store.create(ME, object_id, pages * PAGE, 0.0)
    assert creation.offset is not None
    store.seal(store.promise(object_id, ME), None)


def test_an_object_lives_as_long_as_its_last_hold() -> None:
    store = store_of(4)
    put(store, A)
    assert store.objects[A].state is INLINE and store.inline_bytes == 5
    assert store.hold(A)
    store.release(A)
    store.check()
    assert A in store.objects
    store.release(A)
    assert not store.objects and store.inline_bytes == 0
    assert not store.hold(A)  # who comes later is told so
    store.release(A)  # and may let go of what it never got


def test_a_sealed_object_gives_its_space_back_and_says_so() -> None:
    store = store_of(4)
    put_large(store, A, 3)
    assert store.objects[A].state is SEALED and store.arena.used_bytes == 3 * PAGE
    store.release(A)
    assert store.arena.used_bytes == 0 and list(store.dropped) == [A]


def test_a_span_is_not_reused_while_anybody_maps_it() -> None:
    store = store_of(4)
    put_large(store, A, 4)
    store.pin(A)
    store.pin(A)
    store.release(A)
    store.unpin(A)
    store.check()
    assert store.create(ME, B, PAGE, 0.0).offset is None
    store.unpin(A)
    assert [creation.object_id for creation in store.serve_queue(1.0)] == [B]
    assert A not in store.objects


def test_what_only_a_freed_object_contained_goes_with_it() -> None:
    store = store_of(4)
    put(store, A)
    put(store, B, [A, A])
    put(store, C, [B])
    for object_id in (A, B):
        store.release(object_id)
    store.check()
    assert len(store.objects) == 3
    store.release(C)
    assert not store.objects and store.inline_bytes == 0


def test_a_chain_of_a_hundred_thousand_objects_goes_at_once() -> None:
    store = store_of(4)
    last: bytes | None = None
    for number in range(100_000):
        object_id = number.to_bytes(20, "big")
        put(store, object_id, [last] if last is not None else None)
        if last is not None:
            store.release(last)
        last = object_id
    assert last is not None
    store.release(last)
    assert not store.objects


def test_a_contained_ref_that_is_gone_already_is_left_out() -> None:
    store = store_of(4)
    put(store, B, [A])
    assert store.objects[B].contains == []
    put(store, A)  # an id never comes again; were it to, B has no part in it
    store.release(B)
    assert store.objects[A].holds == 1


def test_the_end_of_watched_ids_is_told_however_they_go() -> None:
    store = store_of(4)
    put(store, A)
    put(store, B, [A])
    store.watched |= {A, B}
    store.release(A)
    assert store.freed_handles == []
    store.release(B)
    assert store.freed_handles == [B, A] and not store.watched


def test_a_result_that_nobody_waits_for_any_more_is_pending_no_more() -> None:
    store = store_of(4)
    assert store.promise(A, ME).state is PENDING
    store.release(A)
    assert not store.objects


def test_creators_get_space_in_the_order_they_came() -> None:
    store = store_of(4)
    put_large(store, A, 3)
    assert store.create(ME, B, 3 * PAGE, 1.0).offset is None
    assert store.create(ME, C, PAGE, 2.0).offset is None  # it would fit, but it is not its turn
    assert store.serve_queue(2.0) == []
    store.release(A)
    assert [c.object_id for c in store.serve_queue(3.0)] == [B, C]
    store.check()


def test_a_creator_that_waits_in_vain_is_told_only_if_nothing_moves() -> None:
    store = store_of(4)
    put_large(store, A, 4)
    store.create(ME, B, PAGE, 10.0)
    assert store.expired(11.9, 2.0) == []
    put(store, C)
    store.release(C)  # a small object frees no space
    store.serve_queue(11.9)
    assert [c.object_id for c in store.expired(12.0, 2.0)] == [B]


def test_any_space_that_is_freed_renews_hope() -> None:
    store = store_of(4)
    put_large(store, A, 2)
    put_large(store, C, 2)
    store.create(ME, B, 4 * PAGE, 10.0)
    store.release(A)
    store.serve_queue(11.5)
    assert store.expired(13.0, 2.0) == []
    assert [c.object_id for c in store.expired(13.5, 2.0)] == [B]


def test_one_that_can_never_fit_is_told_at_once() -> None:
    store = store_of(4)
    put_large(store, A, 4)
    store.create(ME, B, PAGE, 10.0)
    store.create(ME, C, 5 * PAGE, 10.0)
    assert [c.object_id for c in store.expired(10.0, 2.0)] == [C]


def test_the_extents_of_a_dead_writer_are_free_again() -> None:
    store = store_of(4)
    store.create(ME, A, 3 * PAGE, 0.0)
    store.create(ME, B, 2 * PAGE, 0.0)
    store.create("another", C, 2 * PAGE, 0.0)
    store.abandon_all_of(ME)
    store.check()
    assert [c.object_id for c in store.serve_queue(1.0)] == [C]


def test_an_attempt_that_asks_again_leaves_no_extent_behind() -> None:
    store = store_of(4)
    store.create(ME, A, 3 * PAGE, 0.0)
    assert store.create(ME, A, 2 * PAGE, 0.0).offset == 0
    store.check()
    assert store.arena.used_bytes == 2 * PAGE


@pytest.mark.parametrize("is_waiting", [False, True])
def test_only_a_granted_extent_can_be_sealed(is_waiting: bool) -> None:
    store = store_of(4)
    if is_waiting:
        put_large(store, B, 4)
        store.create(ME, A, PAGE, 0.0)
    stored = store.promise(A, ME)
    with pytest.raises(KeyError):
        store.seal(stored, None)
    assert stored.state is PENDING
    store.check()


def test_the_largest_objects_are_named() -> None:
    store = store_of(10)
    for object_id, pages in ((A, 1), (B, 3), (C, 2)):
        put_large(store, object_id, pages)
    assert [stored.id for stored in store.largest(2)] == [B, C]
