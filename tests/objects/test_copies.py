"""Copies of what other nodes have too: which of them make room, and never under a reader."""

from __future__ import annotations

from collections import Counter

import pytest

from skate.objects.arena import Arena
from skate.objects.copies import ASK_AGAIN_S
from skate.objects.object_store import REMOTE, SEALED, ObjectStore

PAGE = 4096
HOME, OTHER = b"home", b"othr"
A, B, C, NEW = (b"jobs" + HOME + letter * 12 for letter in (b"a", b"b", b"c", b"n"))
FOREIGN = b"jobs" + OTHER + b"f" * 12
NODE = b"n" * 16
ONE, TWO = "a process", "another"


class Fixture:
    """A store of four pages, and who holds what in it."""

    def __init__(self) -> None:
        self.store = ObjectStore(Arena(4 * PAGE))
        self.store.home, self.store.homes = HOME, {OTHER}
        self.held: Counter[bytes] = Counter()
        self.store.holders = self.held.__getitem__

    def copy(self, object_id: bytes, pages: int = 2) -> None:
        """A value of another node that one process holds is fetched."""
        if object_id == FOREIGN:
            self.store.hold(object_id)
        else:
            self.store.promise(object_id, ONE)
        self.held[object_id] += 1
        stored = self.store.objects[object_id]
        self.store.set_remote(stored, pages * PAGE, [NODE], None)
        creation = self.store.create("transfer", object_id, pages * PAGE, 0.0, is_copy=True)
        assert creation.offset is not None
        self.store.seal_copy(stored)

    def wants(self, pages: int, now: float = 1.0) -> bool:
        """Whether a creator finds space, at once or after the next turn."""
        left = self.store.creations.get(NEW)
        if left is not None:
            self.store.abandon(left)
        found = self.store.create(ONE, NEW, pages * PAGE, now).offset is not None
        self.store.check()
        return found

    def state(self, object_id: bytes) -> object:
        return self.store.objects[object_id].state


@pytest.fixture
def fixture() -> Fixture:
    return Fixture()


def test_a_copy_that_is_held_and_not_used_makes_room(fixture: Fixture) -> None:
    fixture.copy(A)
    fixture.copy(B)
    fixture.store.pin(A)
    fixture.store.unpin(A)  # used last
    assert fixture.wants(2)
    assert (fixture.state(A), fixture.state(B)) == (SEALED, REMOTE)
    assert fixture.store.dropped == {B: None}  # nobody fetches it from here now
    assert fixture.store.objects[B].holds == 1


@pytest.mark.parametrize("why", ["mapped", "task", "only copy", "home is dead", "forgotten"])
def test_what_is_used_or_nowhere_else_stays(fixture: Fixture, why: str) -> None:
    object_id = A if why in ("mapped", "task") else FOREIGN
    fixture.copy(object_id, 4)
    stored = fixture.store.objects[object_id]
    match why:
        case "mapped":
            fixture.store.pin(object_id)
        case "task":
            fixture.store.hold(object_id)
        case "only copy":
            stored.nodes = None
        case "home is dead":
            fixture.store.homes = set()
        case "forgotten":
            fixture.store.forget(object_id)
    assert not fixture.wants(1)
    assert stored.state is SEALED


def test_a_ref_inside_another_object_does_not_keep_a_copy_here(fixture: Fixture) -> None:
    fixture.copy(A, 4)
    fixture.store.fulfil_inline(fixture.store.promise(B, ONE), b"value", [A])
    assert fixture.wants(4)


def test_who_knows_its_place_is_asked_first(fixture: Fixture) -> None:
    copies = fixture.store.copies
    fixture.copy(A, 4)
    copies.told(A, ONE)
    copies.told(A, TWO)
    assert not fixture.wants(4)
    number, asked = copies.take_questions()
    assert asked == {ONE: [A], TWO: [A]}
    assert not fixture.wants(4) and not copies.has_questions  # once is enough for a while
    copies.forgotten(A, ONE, number)
    assert fixture.state(A) is SEALED
    copies.forgotten(A, TWO, number)
    assert fixture.state(A) is REMOTE
    assert fixture.wants(4)


def test_a_reader_that_came_first_keeps_it(fixture: Fixture) -> None:
    fixture.copy(A, 4)
    fixture.store.copies.told(A, ONE)
    assert not fixture.wants(4)
    number, _ = fixture.store.copies.take_questions()
    fixture.store.pin(A)  # on one line with the answer, and before it
    fixture.store.copies.forgotten(A, ONE, number)
    assert fixture.state(A) is SEALED
    fixture.store.unpin(A)
    assert fixture.wants(4)


def test_an_answer_does_not_count_for_a_place_that_was_told_behind_the_question(
    fixture: Fixture,
) -> None:
    copies = fixture.store.copies
    fixture.copy(A, 4)
    copies.told(A, ONE)
    assert not fixture.wants(4)
    old, _ = copies.take_questions()
    copies.told(A, ONE)
    assert not fixture.wants(4, now=1.0 + ASK_AGAIN_S)
    new, asked = copies.take_questions()
    assert asked == {ONE: [A]} and new != old
    copies.forgotten(A, ONE, old)
    assert fixture.state(A) is SEALED
    copies.forgotten(A, ONE, new)
    assert fixture.state(A) is REMOTE


def test_a_process_that_ends_knows_nothing_any_more(fixture: Fixture) -> None:
    fixture.copy(A, 4)
    fixture.store.copies.told(A, ONE)
    assert not fixture.wants(4)
    fixture.store.copies.peer_lost(ONE)
    assert fixture.wants(4)


def test_who_does_not_answer_holds_up_no_other_copies(fixture: Fixture) -> None:
    copies = fixture.store.copies
    for object_id, peer in ((A, ONE), (B, TWO)):
        fixture.copy(object_id)
        copies.told(object_id, peer)
    assert not fixture.wants(2)
    assert copies.take_questions()[1] == {ONE: [A]}
    assert not fixture.wants(2, now=1.0 + ASK_AGAIN_S)
    number, asked = copies.take_questions()
    assert asked == {ONE: [A], TWO: [B]}
    copies.forgotten(B, TWO, number)
    assert fixture.wants(2, now=1.0 + ASK_AGAIN_S)
    assert (fixture.state(A), fixture.state(B)) == (SEALED, REMOTE)


def test_no_more_are_asked_for_than_are_needed(fixture: Fixture) -> None:
    copies = fixture.store.copies
    for object_id in (A, B, C):
        fixture.copy(object_id, 1)
        copies.told(object_id, ONE)
    fixture.copy(FOREIGN, 1)
    copies.told(FOREIGN, ONE)
    assert not fixture.wants(2)
    assert copies.take_questions()[1] == {ONE: [A, B]}
