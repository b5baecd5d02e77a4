"""What the tests of many nodes share: remote functions that tell where they run, looks at each
node's store and workers, and the check that nothing of a test is left on any of them.

The fixtures are in conftest.py: ``trio`` is a cluster of three that a whole module uses, so its
tests leave it as they found it; ``fresh_cluster`` is a test's own, for nodes that die.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import psutil

import skate
from skate.cluster_utils import Cluster, ClusterNode
from skate.launch.observer import Observer
from tests.conftest import eventually

SOON_S = 20.0
"""What is awaited comes in a tenth of that, even on a busy machine; what never comes fails here."""

MB = 1 << 20


class Trio:
    """Three nodes with 2 CPUs each: the head, where the driver is, ``a`` and ``b``.

    Each has a resource of its name, so that a test can say where something has to run.
    """

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.head = self.cluster.add_node(num_cpus=2, resources={"head": 100})
        self.a = self.cluster.add_node(
            False, num_cpus=2, resources={"a": 100}, labels={"zone": "east", "disk": "ssd"}
        )
        self.b = self.cluster.add_node(
            False, num_cpus=2, resources={"b": 100}, labels={"zone": "west"}
        )
        self.cluster.wait_for_nodes()
        self.cluster.connect(namespace="trio")

    @property
    def nodes(self) -> list[ClusterNode]:
        """All three."""
        return [self.head, self.a, self.b]


def get(refs: Any) -> Any:
    """The values, or an error rather than a hang."""
    return skate.get(refs, timeout=SOON_S)


def on(name: str) -> dict[str, Any]:
    """Options for what has to run on the node with that resource."""
    return {"resources": {name: 1}}


def ask(node: ClusterNode, method: str = "status") -> dict[str, Any]:
    """A question to one node itself."""
    with Observer(node.node_socket) as observer:
        answer: dict[str, Any] = observer.ask(method)
        return answer


def objects_at(node: ClusterNode) -> tuple[int, int]:
    """(objects, extents of the arena) that the node knows at this moment."""
    answer = ask(node, "store")
    return answer["objects"], answer["extents"]


def used_bytes(node: ClusterNode) -> int:
    """Of its arena."""
    return int(ask(node, "store")["used_bytes"])


def counts(nodes: list[ClusterNode]) -> list[tuple[int, int]]:
    """``objects_at`` of each."""
    return [objects_at(node) for node in nodes]


def assert_back_to(before: list[tuple[int, int]], nodes: list[ClusterNode]) -> None:
    """Every node's store comes to hold what it held before, and no more."""
    give_up_at = time.monotonic() + SOON_S
    while (now := counts(nodes)) != before:
        assert time.monotonic() < give_up_at, f"(objects, extents) of the nodes: {before} -> {now}"
        time.sleep(0.01)


def assert_idle(nodes: list[ClusterNode], actors: int = 0) -> None:
    """All resources of each node come back, and no actor is left but so many in all."""

    def left() -> list[Any]:
        told = [ask(node) for node in nodes]
        found: list[Any] = [
            (row["resources_available"], row["resources_total"])
            for row in told
            if row["resources_available"] != row["resources_total"]
        ]
        alive = sum(sum(n for s, n in row["actors"].items() if s != "DEAD") for row in told)
        return found + ([f"{alive} actors"] if alive != actors else [])

    give_up_at = time.monotonic() + SOON_S
    while found := left():
        assert time.monotonic() < give_up_at, found
        time.sleep(0.01)


def workers_of(node: ClusterNode) -> list[psutil.Process]:
    """The worker processes of a node: grandchildren of its daemon, by way of the zygote."""
    try:
        zygotes = psutil.Process(node.pids["node"]).children()
        return [worker for zygote in zygotes for worker in zygote.children()]
    except psutil.NoSuchProcess:
        return []


def alive_ids() -> set[str]:
    """The ids of the nodes that the GCS counts among the living."""
    return {row["NodeID"] for row in skate.nodes() if row["Alive"]}


def until_given_up(node: ClusterNode, within_s: float = SOON_S) -> None:
    """Until the GCS counts the node among the dead."""
    eventually(lambda: node.node_id not in alive_ids(), f"{node} is given up", within_s)


def node_id() -> str:
    """Of the process that asks."""
    return skate.get_runtime_context().get_node_id()


@skate.remote
def where(*_: Any) -> str:
    """The node that it has run on."""
    return node_id()


@skate.remote
def where_after(seconds: float) -> str:
    """The same, after some work."""
    time.sleep(seconds)
    return node_id()


@skate.remote
def echo(value: Any) -> Any:
    """What it is given."""
    return value


@skate.remote
def zeros(size: int) -> bytes:
    """So many bytes."""
    return bytes(size)


@skate.remote
def filled(size: int, byte: int) -> bytes:
    """So many of that byte."""
    return bytes([byte]) * size


@skate.remote
def both_ends(first: bytes, second: bytes) -> tuple[int, int]:
    """The first byte of the one and the last of the other."""
    return first[0], second[-1]


@skate.remote
def size_of(value: Any) -> int:
    """How long it is."""
    return len(value)


@skate.remote
def wait_for(path: str, value: Any = None) -> Any:
    """Its value, once that file exists; beside it the files PATH.PID tell who waits."""
    Path(f"{path}.{os.getpid()}").touch()
    while not os.path.exists(path):
        time.sleep(0.005)
    return value


def waiting_at(path: Path) -> list[int]:
    """The pids of the processes in ``wait_for``, or that were."""
    return [int(one.suffix[1:]) for one in path.parent.glob(f"{path.name}.*")]


@skate.remote
class Counter:
    """Counts, and tells where it lives."""

    def __init__(self, start: int = 0) -> None:
        self.n = start
        self.kept: Any = None

    def increment(self, by: int = 1) -> int:
        """The new count."""
        self.n += by
        return self.n

    def node(self) -> str:
        """The node that it lives on."""
        return node_id()

    def pid(self) -> int:
        """Its process."""
        return os.getpid()

    def keep(self, value: Any) -> None:
        """Hold it from now on."""
        self.kept = value

    def size_of_kept(self, index: int) -> int:
        """How long the value of a kept ref is."""
        return len(skate.get(self.kept[index]))
