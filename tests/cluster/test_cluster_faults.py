"""Nodes that die, join and are cut off, with real processes: what was theirs goes on elsewhere."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import skate
from skate.cluster_utils import Cluster, ClusterNode
from skate.util.placement_group import placement_group
from tests.conftest import eventually

STORE_BYTES = 100 << 20


@pytest.fixture
def cluster(skate_temp_dir: Any) -> Iterator[Cluster]:
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": STORE_BYTES}
    )
    yield cluster
    skate.shutdown()
    cluster.shutdown()


def worker_node(cluster: Cluster, **options: Any) -> ClusterNode:
    node: ClusterNode = cluster.add_node(
        **{"num_cpus": 2, "object_store_memory": STORE_BYTES, "resources": {"w": 4}, **options}
    )
    return node


def kill(cluster: Cluster, node_id: str) -> None:
    node = next(n for n in cluster.list_all_nodes() if n.node_id == node_id)
    cluster.remove_node(node, allow_graceful=False)


@skate.remote(resources={"w": 1})
def busy(seconds: float) -> str:
    time.sleep(seconds)  # what the task does, not a wait of the test
    return skate.get_runtime_context().get_node_id()


@skate.remote(resources={"w": 0.1}, num_cpus=0)
class Number:
    def __init__(self) -> None:
        self.calls = 0

    def node(self) -> str:
        self.calls += 1
        return skate.get_runtime_context().get_node_id()


def test_tasks_of_a_dead_node_run_again_elsewhere(cluster: Cluster) -> None:
    first, second = worker_node(cluster), worker_node(cluster)
    skate.init(address=cluster.address)
    refs = [busy.remote(0.7) for _ in range(4)]
    rows = {first.node_id, second.node_id}
    eventually(
        lambda: sum(n["running"] > 0 for n in skate.nodes() if n["NodeID"] in rows) == 2,
        "both nodes have work",
    )
    kill(cluster, first.node_id)
    assert set(skate.get(refs, timeout=30)) <= {second.node_id, first.node_id}
    assert skate.get(refs[0], timeout=1)
    eventually(lambda: skate.cluster_resources()["w"] == 4, "its resources are gone at once", 2)


def test_a_task_without_retries_tells_which_node_it_was_on(cluster: Cluster) -> None:
    node = worker_node(cluster)
    skate.init(address=cluster.address)
    ref = busy.options(max_retries=0).remote(60)
    eventually(
        lambda: any(n["running"] for n in skate.nodes() if n["NodeID"] == node.node_id), "it runs"
    )
    kill(cluster, node.node_id)
    with pytest.raises(skate.exceptions.NodeDiedError, match=node.node_id):
        skate.get(ref, timeout=10)


def test_an_object_that_was_on_the_dead_node_alone_is_lost_and_says_so(cluster: Cluster) -> None:
    node = worker_node(cluster)
    skate.init(address=cluster.address)

    @skate.remote(resources={"w": 1})
    def make() -> Any:
        return np.ones(2_000_000, dtype=np.uint8)

    lost, kept = make.remote(), make.remote()
    assert skate.get(kept, timeout=10).sum() == 2_000_000  # a copy of this one is here now
    skate.wait([lost], fetch_local=False, timeout=10)
    kill(cluster, node.node_id)
    with pytest.raises(skate.exceptions.ObjectLostError, match="died"):
        skate.get(lost, timeout=10)
    assert skate.get(kept, timeout=10).sum() == 2_000_000


def test_an_actor_is_restarted_on_another_node(cluster: Cluster) -> None:
    worker_node(cluster), worker_node(cluster)
    skate.init(address=cluster.address)
    actor = Number.options(max_restarts=1, max_task_retries=2).remote()
    mortal = Number.remote()
    before = skate.get(actor.node.remote(), timeout=10)
    where_mortal = skate.get(mortal.node.remote(), timeout=10)
    kill(cluster, before)
    after = skate.get(actor.node.remote(), timeout=20)
    assert after != before
    if where_mortal == before:
        with pytest.raises(skate.exceptions.ActorDiedError, match=before):
            skate.get(mortal.node.remote(), timeout=10)
    else:
        assert skate.get(mortal.node.remote(), timeout=10) == where_mortal


def test_a_parent_without_retries_dies_with_its_node(cluster: Cluster) -> None:
    worker_node(cluster)
    skate.init(address=cluster.address)
    lone = cluster.add_node(num_cpus=1, resources={"lone": 1}, object_store_memory=STORE_BYTES)

    @skate.remote(resources={"lone": 1}, max_retries=0)
    def children() -> None:
        skate.get([busy.remote(60) for _ in range(2)])

    ref = children.remote()
    eventually(lambda: skate.available_resources().get("w", 0) == 2, "its children run")
    kill(cluster, lone.node_id)
    with pytest.raises(skate.exceptions.NodeDiedError):
        skate.get(ref, timeout=10)


def test_a_node_that_joins_an_overloaded_cluster_gets_work_within_a_second(
    cluster: Cluster,
) -> None:
    skate.init(address=cluster.address)
    plain = busy.options(resources={})
    refs = [plain.remote(0.2) for _ in range(60)]
    skate.get(refs[0], timeout=10)
    node = worker_node(cluster)
    joined = time.monotonic()
    eventually(
        lambda: any(n["running"] for n in skate.nodes() if n["NodeID"] == node.node_id),
        "it has work",
        10,
    )
    assert time.monotonic() - joined < 1.0
    assert node.node_id in skate.get(refs, timeout=30)


def test_what_no_node_can_run_waits_for_one_that_can(cluster: Cluster) -> None:
    skate.init(address=cluster.address)
    waiting = [busy.remote(0.0), Number.remote().node.remote()]
    group = placement_group([{"w": 1}])
    assert skate.wait(waiting, num_returns=2, timeout=0.5)[0] == []
    assert not group.wait(0)
    node = worker_node(cluster)
    assert skate.get(waiting, timeout=10) == [node.node_id] * 2
    assert group.wait(10)


def test_a_group_that_lost_a_node_takes_another_place(cluster: Cluster) -> None:
    first = worker_node(cluster)
    skate.init(address=cluster.address)
    group = placement_group([{"w": 4}])
    assert group.wait(10)
    second = worker_node(cluster)
    kill(cluster, first.node_id)
    in_group = busy.options(placement_group=group, resources={"w": 1}, num_cpus=0)
    assert skate.get(in_group.remote(0.0), timeout=20) == second.node_id


def test_a_node_that_was_given_up_ends_its_work_and_comes_back_as_a_new_one(
    cluster: Cluster,
) -> None:
    node = worker_node(cluster)
    skate.init(address=cluster.address)
    assert skate.get(busy.remote(0.0), timeout=10) == node.node_id
    os.kill(node.pids["node"], signal.SIGSTOP)  # as good as a cable that is cut: silence
    silent_since = time.monotonic()
    try:
        eventually(lambda: sum(n["Alive"] for n in skate.nodes()) == 1, "it is given up", 10)
        assert time.monotonic() - silent_since < 8
    finally:
        os.kill(node.pids["node"], signal.SIGCONT)
    assert skate.get(busy.remote(0.0), timeout=20) != node.node_id
    assert [n["Alive"] for n in skate.nodes() if n["NodeID"] == node.node_id] == [False]


def test_other_drivers_do_not_notice(cluster: Cluster, run_program: Any) -> None:
    node = worker_node(cluster)
    skate.init(address=cluster.address)
    actor = Number.options(resources={}).remote()
    program = f"""
        import skate
        skate.init(address={cluster.address!r})
        @skate.remote(resources={{"w": 1}})
        def work(): return 1
        assert skate.get([work.remote() for _ in range(50)]) == [1] * 50
    """
    for _ in range(2):
        result = run_program(program)
        assert result.returncode == 0, result.stderr
    assert skate.get(actor.node.remote(), timeout=10)
    assert node.is_alive
