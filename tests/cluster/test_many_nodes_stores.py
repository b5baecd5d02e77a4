"""Large objects in the stores of several nodes: where copies lie, what one store cannot hold."""

from __future__ import annotations

import skate
from skate.cluster_utils import Cluster
from tests.cluster.many_nodes import (
    MB,
    SOON_S,
    assert_back_to,
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
