"""Large objects in the stores of several nodes: where copies lie, what one store cannot hold."""

from __future__ import annotations

import asyncio

import pytest

import skate
from skate.cluster_utils import Cluster
from tests.cluster.many_nodes import (
    MB,
    SOON_S,
    assert_back_to,
    both_ends,
    filled,
    get,
    on,
    size_of,
    used_bytes,
    where,
    zeros,
)
from tests.conftest import eventually


def test_one_object_to_every_node_and_gone_from_every_node(fresh_cluster: Cluster) -> None:
    fresh_cluster.add_node(num_cpus=1, resources={"n0": 1})
    for number in range(1, 5):
        fresh_cluster.add_node(False, num_cpus=1, resources={f"n{number}": 1})
    fresh_cluster.wait_for_nodes()
    fresh_cluster.connect()
    nodes = fresh_cluster.list_all_nodes()
    size = 20 * MB
    ref = skate.put(bytes(size))
    assert get([size_of.options(**on(f"n{i}")).remote(ref) for i in range(1, 5)]) == [size] * 4
    assert all(used_bytes(node) >= size for node in nodes)
    del ref
    eventually(lambda: not any(used_bytes(node) for node in nodes), "all copies are dropped")
    assert_back_to([(0, 0)] * 5, nodes)


def test_more_data_than_one_store_holds(fresh_cluster: Cluster) -> None:
    for number in range(3):
        fresh_cluster.add_node(
            wait=number == 0,
            num_cpus=1,
            resources={f"n{number}": 100},
            object_store_memory=100 * MB,
        )
    fresh_cluster.wait_for_nodes()
    fresh_cluster.connect()
    # 228 MB, of which the driver's node could hold 100.
    size = 19 * MB
    refs = [zeros.options(**on(f"n{i % 3}")).remote(size) for i in range(12)]
    skate.wait(refs, num_returns=12, timeout=SOON_S, fetch_local=False)
    # Either of the others is sent all of them; copies make way for the next ones.
    sizes = [size_of.options(**on(f"n{1 + i % 2}")).remote(ref) for i, ref in enumerate(refs)]
    sizes += [size_of.options(**on(f"n{2 - i % 2}")).remote(ref) for i, ref in enumerate(refs)]
    assert get(sizes) == [size] * 24
    for _ in range(len(refs)):
        assert len(get(refs.pop())) == size
    del sizes
    assert_back_to([(0, 0)] * 3, fresh_cluster.list_all_nodes())


def small_and_large(cluster: Cluster) -> list[skate.ObjectRef[bytes]]:
    """A driver's node that can hold five of the twelve results of another node."""
    cluster.add_node(num_cpus=1, resources={"near": 100}, object_store_memory=100 * MB)
    cluster.add_node(num_cpus=2, resources={"far": 100}, object_store_memory=400 * MB)
    cluster.wait_for_nodes()
    cluster.connect()
    refs = [zeros.options(**on("far")).remote(19 * MB + i) for i in range(12)]
    skate.wait(refs, num_returns=12, timeout=SOON_S, fetch_local=False)
    return refs


def test_a_driver_reads_more_than_its_node_can_hold_and_keeps_all_refs(
    fresh_cluster: Cluster,
) -> None:
    refs = small_and_large(fresh_cluster)
    for _ in range(2):
        for number, ref in enumerate(refs):
            assert len(get(ref)) == 19 * MB + number
    # A value that is in use stays what it was, whatever is fetched meanwhile.
    kept = get(refs[0])
    assert [len(get(ref)) for ref in refs[1:]] == [19 * MB + i for i in range(1, 12)]
    assert kept == bytes(19 * MB)
    del kept, refs, ref
    assert_back_to([(0, 0)] * 2, fresh_cluster.list_all_nodes())


def test_waiting_for_more_than_a_node_can_hold(fresh_cluster: Cluster) -> None:
    """Each is here once: that counts, though it makes way for the next."""
    refs = small_and_large(fresh_cluster)
    ready, rest = skate.wait(refs, num_returns=12, timeout=SOON_S)
    assert (len(ready), rest) == (12, [])
    assert [len(get(ref)) for ref in ready] == [19 * MB + i for i in range(12)]
    while refs:
        (one,), refs = skate.wait(refs, timeout=SOON_S)
        assert len(get(one)) >= 19 * MB


def test_futures_of_more_than_a_node_can_hold(fresh_cluster: Cluster) -> None:
    refs = small_and_large(fresh_cluster)

    async def sizes() -> list[int]:
        return [len(await ref) for ref in refs]

    assert asyncio.run(sizes()) == [19 * MB + i for i in range(12)]
    futures = [ref.future() for ref in refs]
    found = []
    while futures:
        found.append(len(futures.pop(0).result(SOON_S)))
    assert found == [19 * MB + i for i in range(12)]


def test_a_task_reads_more_than_its_node_can_hold(fresh_cluster: Cluster) -> None:
    @skate.remote(num_cpus=0)
    def read(refs: list[skate.ObjectRef[bytes]]) -> list[int]:
        return [len(skate.get(ref)) for _ in range(2) for ref in refs]

    refs = small_and_large(fresh_cluster)
    sizes = get([read.options(**on("near")).remote(refs) for _ in range(2)])
    assert sizes == [[19 * MB + i for i in range(12)] * 2] * 2


def test_a_get_of_more_than_a_node_can_hold_at_once_says_so(fresh_cluster: Cluster) -> None:
    refs = small_and_large(fresh_cluster)
    with pytest.raises(skate.exceptions.ObjectStoreFullError):
        get(refs)
    assert [len(get(ref)) for ref in refs] == [19 * MB + i for i in range(12)]  # no harm is done


def test_a_large_input_draws_its_task_to_where_it_lies(fresh_cluster: Cluster) -> None:
    fresh_cluster.add_node(num_cpus=2)
    fresh_cluster.add_node(False, num_cpus=2)
    there = fresh_cluster.add_node(False, num_cpus=2, resources={"there": 1})
    fresh_cluster.wait_for_nodes()
    fresh_cluster.connect()
    assert fresh_cluster.head_node is not None
    ref = zeros.options(**on("there")).remote(40 * MB)
    skate.wait([ref], fetch_local=False, timeout=SOON_S)
    # Asked one after the other: all CPUs are free, so nothing but the input decides.
    assert [get(where.remote(ref)) for _ in range(3)] == [there.node_id] * 3
    assert used_bytes(fresh_cluster.head_node) == 0


def test_tasks_whose_inputs_fit_only_pair_by_pair_all_run(fresh_cluster: Cluster) -> None:
    """Each waits for an input that has no room beside those which the others have got."""
    fresh_cluster.add_node(num_cpus=3, resources={"small": 100}, object_store_memory=75 * MB)
    for number in range(2):
        fresh_cluster.add_node(num_cpus=1, resources={f"n{number}": 100})
    fresh_cluster.wait_for_nodes()
    fresh_cluster.connect()
    refs = [filled.options(**on(f"n{i % 2}")).remote(30 * MB, i) for i in range(6)]
    skate.wait(refs, num_returns=6, timeout=SOON_S, fetch_local=False)
    pairs = [(0, 1), (2, 3), (4, 5), (0, 1), (1, 2), (2, 0)]
    ends = [both_ends.options(**on("small")).remote(refs[a], refs[b]) for a, b in pairs]
    assert get(ends) == [(a, b) for a, b in pairs]
