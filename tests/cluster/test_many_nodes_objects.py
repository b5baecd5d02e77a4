"""Values on their way between nodes: results, arguments, and the refs inside them."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

import skate
from skate.exceptions import GetTimeoutError, RayTaskError
from tests.cluster.many_nodes import (
    MB,
    SOON_S,
    Counter,
    Trio,
    assert_back_to,
    counts,
    echo,
    get,
    node_id,
    on,
    size_of,
    used_bytes,
    wait_for,
    zeros,
)


@pytest.mark.parametrize("size", [0, 10, 100_000, 200_000, 10 * MB])
def test_results_and_arguments_of_any_size_travel_both_ways(trio: Trio, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    assert get(echo.options(**on("a")).remote(data)) == data
    assert get(size_of.options(**on("b")).remote(skate.put(data))) == len(data)
    # From one to another, the driver's node aside.
    made = zeros.options(**on("a")).remote(size)
    assert get(size_of.options(**on("b")).remote(made)) == size
    assert len(get(made)) == size


def test_several_results_of_one_task_small_and_large(trio: Trio) -> None:
    @skate.remote(num_returns=3)
    def three() -> tuple[int, bytes, str]:
        return 1, bytes(5 * MB), node_id()

    small, large, node = three.options(**on("a")).remote()
    assert get([small, node]) == [1, trio.a.node_id]
    assert get(size_of.options(**on("b")).remote(large)) == 5 * MB


def test_refs_in_arguments_and_results_across_nodes(trio: Trio) -> None:
    @skate.remote
    def sizes(refs: list[Any]) -> list[int]:
        return [len(skate.get(ref)) for ref in refs]

    @skate.remote
    def make() -> list[Any]:
        return [skate.put(bytes(3 * MB)), skate.put(b"small"), zeros.remote(7)]

    here = [skate.put(bytes(2 * MB)), zeros.options(**on("b")).remote(2 * MB), skate.put(b"abc")]
    assert get(sizes.options(**on("a")).remote(here)) == [2 * MB, 2 * MB, 3]
    made = get(make.options(**on("a")).remote())
    assert [len(value) for value in get(made)] == [3 * MB, 5, 7]
    # Refs of one node's, in a list of another node's, to the third.
    nested = get(make.options(**on("a")).remote())
    assert get(sizes.options(**on("b")).remote(nested)) == [3 * MB, 5, 7]


def test_a_ref_handed_on_outlives_all_who_had_it_before(trio: Trio) -> None:
    @skate.remote
    def hand_on(refs: list[Any]) -> list[Any]:
        return refs

    ref = skate.put(bytes(2 * MB))
    far = hand_on.options(**on("a")).remote([ref])
    del ref
    farther = hand_on.options(**on("b")).remote(get(far))
    del far
    (back,) = get(farther)
    del farther
    assert len(get(back)) == 2 * MB


def test_an_actor_elsewhere_keeps_what_nobody_else_holds(trio: Trio) -> None:
    before = counts(trio.nodes)
    keeper = Counter.options(**on("a")).remote()
    mine = skate.put(bytes(2 * MB))
    other = zeros.options(**on("b")).remote(2 * MB)
    get(keeper.keep.remote([mine, other]))
    del mine, other
    assert get([keeper.size_of_kept.remote(i) for i in (0, 1)]) == [2 * MB, 2 * MB]
    get(keeper.keep.remote(None))
    del keeper
    assert_back_to(before, trio.nodes)


def test_tasks_submit_tasks_from_every_node(trio: Trio) -> None:
    @skate.remote
    def tree(depth: int) -> set[str]:
        places = {node_id()}
        if depth:
            children = [tree.options(**on(name)).remote(depth - 1) for name in ("head", "a", "b")]
            for found in skate.get(children):
                places |= found
        return places

    assert get(tree.options(**on("a")).remote(2)) == {node.node_id for node in trio.nodes}


def test_a_chain_of_tasks_whose_values_never_pass_the_driver(trio: Trio) -> None:
    @skate.remote
    def longer(data: bytes) -> bytes:
        return data + bytes(MB)

    ref = skate.put(b"")
    for step in range(9):
        ref = longer.options(**on(("a", "b", "head")[step % 3])).remote(ref)
    assert len(get(ref)) == 9 * MB


def test_an_error_comes_back_with_the_remote_traceback(trio: Trio) -> None:
    def deep_inside() -> None:
        raise KeyError("not here")

    @skate.remote(max_retries=0)
    def fails() -> None:
        deep_inside()

    ref = fails.options(**on("a")).remote()
    with pytest.raises(KeyError, match="not here") as caught:
        get(ref)
    assert isinstance(caught.value, RayTaskError)
    assert "deep_inside" in str(caught.value) and "fails" in str(caught.value)
    # And passes through a task on a third node that depends on it.
    with pytest.raises(KeyError, match="not here"):
        get(size_of.options(**on("b")).remote(ref))


def test_wait_does_or_does_not_fetch(trio: Trio) -> None:
    ref = zeros.options(**on("a")).remote(8 * MB)
    before = used_bytes(trio.head)
    ready, rest = skate.wait([ref], fetch_local=False, timeout=SOON_S)
    assert (ready, rest) == ([ref], [])
    assert used_bytes(trio.head) == before and used_bytes(trio.a) >= 8 * MB
    ready, rest = skate.wait([ref], timeout=SOON_S)
    assert (ready, rest) == ([ref], [])
    assert used_bytes(trio.head) >= before + 8 * MB


def test_wait_tells_what_is_ready_elsewhere_from_what_is_not(trio: Trio, tmp_path: Any) -> None:
    go = tmp_path / "go"
    slow, quick = [], []
    for name in ("a", "b"):
        there = {"num_cpus": 0, **on(name)}
        slow.append(wait_for.options(**there).remote(str(go), name))
        quick += [zeros.options(**there).remote(size) for size in (1, MB)]
    for fetch_local in (False, True):
        ready, rest = skate.wait(
            slow + quick, num_returns=4, timeout=SOON_S, fetch_local=fetch_local
        )
        assert (ready, rest) == (quick, slow)
    with pytest.raises(GetTimeoutError):
        skate.get(slow[0], timeout=0.05)
    go.touch()
    assert get(slow) == ["a", "b"]


def test_many_threads_of_a_driver_fetch_the_same_at_once(trio: Trio) -> None:
    ref = zeros.options(**on("a")).remote(8 * MB)
    lengths: list[int] = []
    threads = [threading.Thread(target=lambda: lengths.append(len(get(ref)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lengths == [8 * MB] * 8


def test_a_value_read_in_place_stays_true_while_its_view_lives(trio: Trio) -> None:
    import numpy as np

    @skate.remote
    def ones() -> Any:
        return np.ones(4 * MB, dtype=np.uint8)

    ref = ones.options(**on("a")).remote()
    array = get(ref)
    del ref
    # Others come and go where it lay, here and there.
    for _ in range(4):
        assert len(get(zeros.options(**on("a")).remote(6 * MB))) == 6 * MB
    assert int(array.sum()) == 4 * MB


def test_thousands_of_small_results_leave_no_trace(trio: Trio) -> None:
    before = counts(trio.nodes)
    refs = [echo.options(**on("ab"[i % 2])).remote(i) for i in range(2_000)]
    assert get(refs) == list(range(2_000))
    del refs
    assert_back_to(before, trio.nodes)


def test_get_with_a_timeout_does_not_wait_for_another_node(trio: Trio, tmp_path: Any) -> None:
    go = tmp_path / "go"
    ref = wait_for.options(**on("a")).remote(str(go))
    began = time.monotonic()
    with pytest.raises(GetTimeoutError):
        skate.get(ref, timeout=0.2)
    assert time.monotonic() - began < 5
    go.touch()
    assert get(ref) is None
