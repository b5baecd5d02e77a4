"""Large objects in the stores of several nodes: copies everywhere, and more than one store holds."""

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
    # 240 MB, of which the driver's node could hold 100.
    refs = [zeros.options(**on(f"n{i % 3}")).remote(20 * MB) for i in range(12)]
    skate.wait(refs, num_returns=12, timeout=SOON_S, fetch_local=False)
    for ref in refs:  # each comes here in its turn; copies make way for the next
        assert len(get(ref)) == 20 * MB
    sizes = [size_of.options(**on(f"n{(i + 1) % 3}")).remote(ref) for i, ref in enumerate(refs)]
    assert get(sizes) == [20 * MB] * 12
    del refs, sizes, ref
    assert_back_to([(0, 0)] * 3, fresh_cluster.list_all_nodes())
