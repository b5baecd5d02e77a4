"""Several nodes on one machine that play a cluster; nothing of them survives the test that did."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import skate
from skate.cluster_utils import Cluster
from tests.conftest import Leftovers, RunProgram, eventually

SOURCES = str(Path(__file__).resolve().parents[2] / "src")


@pytest.fixture
def cluster(fresh_cluster: Cluster) -> Cluster:
    """A cluster without nodes; the test fails if one of those that it adds leaves anything."""
    return fresh_cluster


@skate.remote
def where() -> str:
    return skate.get_runtime_context().get_node_id()


def alive() -> set[str]:
    return {row["NodeID"] for row in skate.nodes() if row["Alive"]}


def test_nodes_come_and_go(cluster: Cluster) -> None:
    head = cluster.add_node(num_cpus=2)
    assert cluster.head_node is head and cluster.worker_nodes == []
    assert cluster.address == cluster.gcs_address == head.address
    first = cluster.add_node(num_cpus=3, resources={"tape": 2}, labels={"zone": "a"})
    second = cluster.add_node(num_gpus=1)
    assert cluster.list_all_nodes() == [head, first, second]
    assert len({node.unique_id for node in cluster.list_all_nodes()}) == 3
    assert len({node.address for node in cluster.list_all_nodes()}) == 3

    cluster.connect(namespace="mine")
    assert skate.get_runtime_context().namespace == "mine"
    assert skate.get_runtime_context().get_node_id() == head.node_id
    total = skate.cluster_resources()
    assert (total["CPU"], total["GPU"], total["tape"]) == (6.0, 1.0, 2.0)  # one CPU by default
    assert total["node:__internal_head__"] == 1.0
    assert total["object_store_memory"] == 3 * (150 << 20)
    labels = {row["NodeID"]: row["Labels"] for row in skate.nodes()}
    assert labels[first.node_id]["zone"] == "a" and "zone" not in labels[head.node_id]
    assert skate.get(where.options(resources={"tape": 1}).remote(), timeout=30) == first.node_id

    cluster.remove_node(first)
    cluster.wait_for_nodes()
    assert not first.is_alive and alive() == {head.node_id, second.node_id}
    cluster.remove_node(second, allow_graceful=False)
    cluster.wait_for_nodes()
    assert alive() == {head.node_id}
    assert skate.get(where.remote(), timeout=30) == head.node_id
    with pytest.raises(ValueError, match="removed"):
        cluster.remove_node(second)
    cluster.shutdown()
    cluster.shutdown()
    assert not skate.is_initialized()
    assert cluster.list_all_nodes() == []


def test_several_nodes_start_at_the_same_time(cluster: Cluster) -> None:
    cluster.add_node()
    for _ in range(3):
        cluster.add_node(wait=False)
    cluster.wait_for_nodes()
    cluster.connect()
    assert len(alive()) == 4
    assert cluster.remaining_processes_alive()


def test_a_killed_node_is_missed(cluster: Cluster) -> None:
    cluster.add_node()
    node = cluster.add_node()
    node.kill()
    eventually(lambda: not node.is_alive, "the killed daemon has ended")
    assert not cluster.remaining_processes_alive()
    cluster.connect()
    eventually(lambda: node.node_id not in alive(), "the GCS gives the killed node up")
    with pytest.raises(TimeoutError, match=node.address):
        cluster.wait_for_nodes(timeout=0)
    cluster.remove_node(node)
    cluster.wait_for_nodes()


def test_a_driver_connects_to_the_node_that_it_names(cluster: Cluster) -> None:
    head = cluster.add_node()
    other = cluster.add_node()
    for address, expected in ((head.address, head), (other.address, other)):
        context = skate.init(address)
        assert context.address_info["address"] == cluster.address
        assert skate.get_runtime_context().gcs_address == cluster.address
        assert skate.get_runtime_context().get_node_id() == expected.node_id
        assert {row["NodeID"] for row in skate.nodes()} == {head.node_id, other.node_id}
        skate.shutdown()
    assert cluster.remaining_processes_alive()
    # Only what `skate start` runs is joined unasked.
    with pytest.raises(ConnectionError, match="auto"):
        skate.init("auto")
    skate.init(num_cpus=1)
    assert skate.get_runtime_context().gcs_address != cluster.address


def test_a_head_at_once_and_a_driver_on_it(no_leftovers: Leftovers) -> None:
    cluster = Cluster(
        initialize_head=True, connect=True, head_node_args={"num_cpus": 5, "include_dashboard": 0}
    )
    name = no_leftovers.watch()
    assert cluster.head_node is not None and cluster.head_node.session_dir.name == name
    assert skate.cluster_resources()["CPU"] == 5.0
    cluster.shutdown()
    assert not skate.is_initialized()


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"num_cpu": 1}, TypeError, "num_cpu"),
        ({"num_cpus": -1}, ValueError, "num_cpus"),
        ({"resources": {"CPU": 1}}, ValueError, "CPU"),
        ({"labels": {"a b": "c"}}, ValueError, "a b"),
        ({"tls_cert": "c.pem"}, ValueError, "tls-key"),
    ],
)
def test_a_node_that_cannot_be_is_refused_before_anything_starts(
    cluster: Cluster, arguments: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        cluster.add_node(**arguments)
    assert cluster.list_all_nodes() == []


def test_what_needs_a_head_says_so() -> None:
    with pytest.raises(RuntimeError, match="initialize_head"):
        Cluster(connect=True)
    with pytest.raises(RuntimeError, match="add_node"):
        Cluster().connect()


def test_without_its_head_a_node_is_of_no_use(cluster: Cluster) -> None:
    head = cluster.add_node()
    cluster.add_node()
    cluster.remove_node(head)
    with pytest.raises(TimeoutError):
        cluster.wait_for_nodes(timeout=0)
    with pytest.raises(RuntimeError, match="head"):
        cluster.connect()


PROGRAM = """
import os, sys, time
import skate
from skate.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, connect=True)
cluster.add_node(num_cpus=2)

@skate.remote
def sleep():
    time.sleep(600)

refs = [sleep.remote() for _ in range(3)]
print(*(node.session_dir.name for node in cluster.list_all_nodes()), flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_of_a_test_that_was_killed(
    number: int, tmp_path: Path, no_leftovers: Leftovers
) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM + "time.sleep(600)"],
        env={**os.environ, "PYTHONPATH": SOURCES},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    names = program.stdout.readline().split()
    program.send_signal(number)
    program.communicate(timeout=20)
    assert len(names) == 2
    for name in names:
        no_leftovers.assert_gone(name)


def test_nothing_is_left_of_a_program_that_just_ends(
    run_program: RunProgram, no_leftovers: Leftovers
) -> None:
    done = run_program(PROGRAM)
    assert (done.returncode, done.stderr) == (0, "")
    for name in done.stdout.split():
        no_leftovers.assert_gone(name)


def test_a_fork_of_the_test_neither_ends_the_nodes_nor_keeps_them(
    run_program: RunProgram, no_leftovers: Leftovers
) -> None:
    done = run_program(
        PROGRAM
        + """
inside, ours = os.pipe()
if os.fork() == 0:
    assert cluster.list_all_nodes() == []
    cluster.shutdown()
    os.close(ours)
    os.read(inside, 1)  # until the parent is gone, and the test has looked
    os._exit(0)
cluster.wait_for_nodes()
assert cluster.remaining_processes_alive()
"""
    )
    assert (done.returncode, done.stderr) == (0, "")
    for name in done.stdout.split():
        no_leftovers.assert_gone(name)
