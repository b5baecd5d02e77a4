"""A node that joins gets what waits for others; each test has a cluster of its own."""

from __future__ import annotations

from pathlib import Path

import skate
from skate.cluster_utils import Cluster
from tests.cluster.many_nodes import Counter, get, wait_for, waiting_at, where
from tests.conftest import eventually


def test_what_waits_for_a_busy_node_goes_to_one_that_joins(
    fresh_cluster: Cluster, tmp_path: Path
) -> None:
    """Whatever it is and however it was placed: only affinity and groups bind it for good."""
    fresh_cluster.add_node(num_cpus=0)
    fresh_cluster.add_node(num_cpus=2, labels={"zone": "east"})
    fresh_cluster.connect()
    go = tmp_path / "go"
    blockers = [wait_for.remote(str(go)) for _ in range(2)]
    eventually(lambda: len(waiting_at(go)) == 2, "the node has no CPU left")
    east = {"label_selector": {"zone": "east"}}
    actors = [Counter.options(num_cpus=1, **options).remote() for options in ({}, east)]
    refs = [actor.increment.remote() for actor in actors]
    refs += [
        where.options(**options).remote()
        for options in ({}, east, {"scheduling_strategy": "SPREAD"})
    ]
    assert skate.wait(refs, timeout=0.5)[0] == []
    joined = fresh_cluster.add_node(num_cpus=4, labels={"zone": "east"})
    assert get(refs) == [1, 1, *[joined.node_id] * 3]
    go.touch()
    get(blockers)
