"""Detached actors in a cluster: what they own, and who notices that their drivers end."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import skate
from skate.cluster_utils import Cluster
from skate.util.placement_group import placement_group, placement_group_table
from skate.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from tests.api.waiting import is_running
from tests.cluster.many_nodes import (
    MB,
    Counter,
    ask,
    assert_idle,
    get,
    on,
    size_of,
    used_bytes,
    wait_for,
    waiting_at,
)
from tests.conftest import eventually


@skate.remote(num_cpus=0)
class Owner:
    """Has tasks, an actor, a placement group and a large value of its own."""

    def __init__(self, go: str, there: str) -> None:
        self.tasks = [wait_for.options(**on(name)).remote(go, name) for name in ("head", there)]
        self.tasks += [wait_for.options(num_cpus=2).remote(go, "queued") for _ in range(3)]
        self.child = Counter.options(num_cpus=0, **on(there)).remote(7)
        self.group = placement_group([{there: 1}])
        self.value = skate.put(bytes(MB))

    def ready(self) -> tuple[int, bool]:
        return skate.get(self.child.pid.remote()), self.group.wait(10)

    def use(self) -> tuple[list[str], int, bool, int]:
        is_there = self.group.wait(10)
        count = skate.get(self.child.increment.remote())
        inside = size_of.options(
            num_cpus=0,
            resources={"a": 1},
            scheduling_strategy=PlacementGroupSchedulingStrategy(self.group),
        ).remote(self.value)
        return skate.get(self.tasks), count, is_there, skate.get(inside)


def test_what_a_detached_actor_owns_outlives_the_driver_and_ends_with_the_actor(
    fresh_cluster: Cluster, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    head = fresh_cluster.add_node(num_cpus=2, resources={"head": 100})
    a = fresh_cluster.add_node(False, num_cpus=2, resources={"a": 100})
    fresh_cluster.wait_for_nodes()
    fresh_cluster.connect(namespace="kept")
    owner = Owner.options(name="owner", lifetime="detached", **on("a")).remote(str(go), "a")
    pid, is_there = get(owner.ready.remote())
    assert is_there
    eventually(lambda: len(waiting_at(go)) == 2, "its tasks run")
    skate.shutdown()

    fresh_cluster.connect(namespace="kept")
    owner = skate.get_actor("owner")
    assert get(owner.ready.remote()) == (pid, True)
    assert len(waiting_at(go)) == 2, "none of its tasks was ended and run again"
    go.touch()
    assert get(owner.use.remote()) == (["head", "a", *["queued"] * 3], 8, True, MB)
    (group,) = placement_group_table().values()
    assert group["state"] == "CREATED"

    skate.kill(owner)
    eventually(lambda: not is_running(pid), "its actor ends with it")
    eventually(
        lambda: [row["state"] for row in placement_group_table().values()] == ["REMOVED"],
        "and so does its placement group",
    )
    assert_idle([head, a])
    eventually(lambda: [used_bytes(node) for node in (head, a)] == [0, 0], "and its value is gone")


def test_a_driver_that_calls_a_detached_actor_of_another_driver_notices_nothing_of_its_end(
    fresh_cluster: Cluster, tmp_path: Path
) -> None:
    head = fresh_cluster.add_node(num_cpus=1)
    fresh_cluster.add_node(False, num_cpus=2, resources={"a": 100})
    fresh_cluster.wait_for_nodes()
    program = f"""
import skate, sys
skate.init({fresh_cluster.address!r}, namespace="kept")

@skate.remote(num_cpus=0)
class Echo:
    def wait_for(self, path):
        import os, time
        while not os.path.exists(path):
            time.sleep(0.005)
        return path

echo = Echo.options(name="echo", lifetime="detached", resources={{"a": 1}}).remote()
skate.get(echo.wait_for.remote("/"))
print("made", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "made\n"
        fresh_cluster.connect(namespace="kept")
        echo = skate.get_actor("echo")
        go = tmp_path / "go"
        ref = echo.wait_for.remote(str(go))
        assert skate.wait([ref], timeout=0.3)[0] == []
        other.communicate("")
    eventually(
        lambda: sum(bool(row["alive"]) for row in ask(head, "list_jobs")) == 2,
        "this driver's job and the actor's own are left",
    )
    go.touch()
    assert get(ref) == str(go)
    assert get(echo.wait_for.remote("/")) == "/"
    skate.kill(echo)


def test_late_words_of_a_killed_detached_actor_are_no_fault(skate_temp_dir: Path) -> None:
    """Its job ends with it at once; what its process had said by then is read after that."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        skate.init(address=cluster.address, namespace="late")
        for round_number in range(5):
            options = {"name": f"talker {round_number}", "lifetime": "detached", "num_cpus": 0}
            talker = Talker.options(**options).remote()
            skate.get(talker.start.remote(), timeout=20)
            skate.kill(talker)
            eventually(lambda name=options["name"]: not _is_there(name), "its name is free")
        assert cluster.head_node is not None
        log = (cluster.head_node.session_dir / "logs" / "node.err").read_text()
        assert "closed the connection" not in log, log
    finally:
        skate.shutdown()
        cluster.shutdown()


def _is_there(name: str) -> bool:
    try:
        skate.get_actor(name)
    except ValueError:
        return False
    return True


@skate.remote
class Talker:
    """Says something to its node without end."""

    def start(self) -> None:
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._talk, daemon=True)
        self.thread.start()

    def _talk(self) -> None:
        while not self.ended.is_set():
            skate.put(1)
