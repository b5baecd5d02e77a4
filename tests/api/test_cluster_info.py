"""What a program can learn of the cluster, and of itself: nodes, resources, timeline, context."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import skate
from skate import exceptions
from skate.client import runtime
from tests.api.waiting import until

MIB = 1 << 20


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with skate.init(
        num_cpus=2,
        num_gpus=2,
        resources={"oar": 3},
        object_store_memory=100 * MIB,
        labels={"zone": "north"},
        namespace="here",
    ):
        yield


@skate.remote
def context() -> dict[str, Any]:
    return describe()


def describe() -> dict[str, Any]:
    """All that the context tells in this place."""
    found = skate.get_runtime_context()
    return {
        "pid": os.getpid(),
        "job": found.get_job_id(),
        "node": found.get_node_id(),
        "worker": found.get_worker_id(),
        "task": found.get_task_id(),
        "name": found.get_task_name(),
        "function": found.get_task_function_name(),
        "actor": found.get_actor_id(),
        "actor name": found.get_actor_name(),
        "namespace": found.namespace,
        "session": found.get_session_name(),
        "labels": found.get_node_labels(),
        "again": found.was_current_actor_reconstructed,
    }


@skate.remote
class Actor:
    def context(self) -> dict[str, Any]:
        return describe()

    def me(self) -> Any:
        return skate.get_runtime_context().current_actor

    def assigned(self) -> dict[str, float]:
        return skate.get_runtime_context().get_assigned_resources()

    def gpus(self) -> tuple[list[int], str | None, dict[str, list[str]]]:
        accelerators = skate.get_runtime_context().get_accelerator_ids()
        return skate.get_gpu_ids(), os.environ.get("CUDA_VISIBLE_DEVICES"), accelerators


# -------------------------------------------------------------------------------- the cluster


def test_nodes_tell_who_and_what_is_there() -> None:
    (node,) = skate.nodes()
    assert node["Alive"] is node["alive"] is True
    assert node["NodeID"] == skate.get_runtime_context().get_node_id()
    assert node["Resources"]["CPU"] == 2 and node["Resources"]["oar"] == 3
    assert node["Labels"]["zone"] == "north"
    for key in ("NodeManagerAddress", "NodeManagerHostname", "NodeManagerPort", "NodeName",
                "ObjectManagerPort", "ObjectStoreSocketName", "RayletSocketName",
                "MetricsExportPort", "DeathReason", "DeathReasonMessage"):  # fmt: skip
        assert key in node


def test_cluster_resources_are_what_init_was_told() -> None:
    resources = skate.cluster_resources()
    assert all(type(amount) is float for amount in resources.values())
    assert (resources["CPU"], resources["GPU"], resources["oar"]) == (2, 2, 3)
    assert resources["object_store_memory"] == 100 * MIB
    assert resources["memory"] > 0
    assert resources["node:__internal_head__"] == 1


def test_what_objects_fill_of_the_store_is_not_available() -> None:
    def available() -> float:
        return skate.available_resources()["object_store_memory"]

    until(lambda: available() == 100 * MIB)
    kept = skate.put(bytes(10 * MIB))
    until(lambda: 89 * MIB < available() < 91 * MIB)
    (node,) = skate.nodes()
    assert node["Resources"]["object_store_memory"] == 100 * MIB
    del kept
    until(lambda: available() == 100 * MIB)


def test_available_resources_leave_out_what_is_used_up(tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")

    @skate.remote(num_cpus=2, resources={"oar": 1.5})
    def hold(path: str) -> None:
        until(lambda: os.path.exists(path), 30)

    held = hold.remote(gate)
    until(lambda: skate.available_resources().get("oar") == 1.5)
    assert "CPU" not in skate.available_resources()
    Path(gate).touch()
    skate.get(held)
    until(lambda: skate.available_resources() == skate.cluster_resources())


def test_tasks_and_actors_see_the_same_cluster() -> None:
    @skate.remote
    def look() -> tuple[Any, Any]:
        return skate.nodes()[0]["NodeID"], skate.cluster_resources()

    assert skate.get(look.remote()) == (skate.nodes()[0]["NodeID"], skate.cluster_resources())


# --------------------------------------------------------------------------------- the caller


def test_the_context_of_the_driver() -> None:
    mine = describe()
    assert mine["task"] is mine["name"] is mine["function"] is None
    assert mine["actor"] is mine["actor name"] is None
    assert mine["namespace"] == "here"
    assert mine["session"].startswith("session_")
    found = skate.get_runtime_context()
    assert (Path(found.get_temp_dir()) / mine["session"] / "logs").is_dir()
    for forbidden in (
        lambda: found.current_actor,
        found.get_assigned_resources,
        found.is_canceled,
    ):
        with pytest.raises(RuntimeError):
            forbidden()
    assert skate.get_gpu_ids() == []


def test_the_context_of_a_task() -> None:
    ref = context.remote()
    named = context.options(name="my name").remote()
    mine, theirs, other = describe(), skate.get(ref), skate.get(named)
    for key in ("job", "node", "namespace", "session", "labels"):
        assert theirs[key] == mine[key], key
    assert theirs["pid"] != mine["pid"] and theirs["worker"] != mine["worker"]
    assert theirs["task"] == ref.task_id() and other["task"] == named.task_id()
    assert (theirs["name"], other["name"]) == ("context", "my name")
    assert theirs["function"] == other["function"] == f"{__name__}.context"
    assert theirs["actor"] is theirs["actor name"] is None


def test_the_context_of_an_actor() -> None:
    actor = Actor.options(name="me").remote()
    ref = actor.context.remote()
    theirs = skate.get(ref)
    assert theirs["actor"] == actor._actor_id.hex()
    assert (theirs["actor name"], theirs["again"]) == ("me", False)
    assert theirs["task"] == ref.task_id()
    assert (theirs["name"], theirs["function"]) == ("Actor.context", f"{__name__}.Actor.context")
    assert skate.get(actor.context.options(name="special").remote())["name"] == "special"
    me = skate.get(actor.me.remote())
    assert me == actor
    assert skate.get(me.context.remote())["pid"] == theirs["pid"]
    assert skate.get(Actor.remote().context.remote())["actor name"] == ""


def test_threads_of_a_task_know_their_task() -> None:
    @skate.remote
    def in_thread() -> tuple[str | None, str]:
        found: list[str] = []

        def look() -> None:
            found.append(skate.get_runtime_context().get_worker_id())
            skate.get(skate.put(1))

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        return found[0], skate.get_runtime_context().get_worker_id()

    first, second = skate.get(in_thread.remote())
    assert first == second


def test_assigned_resources_and_gpus() -> None:
    default, greedy = Actor.remote(), Actor.options(num_gpus=1, resources={"oar": 0.5}).remote()
    assert skate.get(default.assigned.remote()) == {}
    assert skate.get(greedy.assigned.remote()) == {"CPU": 1, "GPU": 1, "oar": 0.5}
    assert skate.get(default.gpus.remote())[0] == []
    ids, visible, accelerators = skate.get(greedy.gpus.remote())
    assert len(ids) == 1 and visible == str(ids[0])
    assert accelerators == {"GPU": [str(ids[0])]}
    other_ids, _, _ = skate.get(Actor.options(num_gpus=1).remote().gpus.remote())
    assert set(ids) | set(other_ids) == {0, 1}

    @skate.remote(num_gpus=0.5)
    def half() -> dict[str, float]:
        return skate.get_runtime_context().get_assigned_resources()

    assert skate.get(half.remote()) == {"CPU": 1, "GPU": 0.5}


# ------------------------------------------------------------------------------ the timeline


def test_the_timeline_has_a_row_for_each_worker_and_every_task(tmp_path: Path) -> None:
    @skate.remote
    def shown(number: int) -> int:
        return os.getpid()

    @skate.remote
    def failing() -> None:
        raise ValueError

    actor = Actor.remote()
    pids = set(skate.get([shown.remote(number) for number in range(10)]))
    actor_pid = skate.get(actor.context.remote())["pid"]
    with pytest.raises(ValueError):
        skate.get(failing.remote())
    events = skate.timeline()
    assert events is not None
    spans = [event for event in events if event["ph"] == "X"]
    assert sum(event["name"] == "shown" for event in spans) == 10
    assert {event["tid"] for event in spans if event["name"] == "shown"} == pids
    (method,) = [e for e in spans if e["name"] == "Actor.context" and e["tid"] == actor_pid]
    assert method["cat"] == "method" and method["dur"] > 0
    assert [e["args"]["error"] for e in spans if e["name"] == "failing"] == ["ValueError"]
    rows = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    assert {rows[pid] for pid in pids} == {f"worker {pid}" for pid in pids}

    file = tmp_path / "trace.json"
    assert skate.timeline(str(file)) is None
    assert len(json.loads(file.read_text())) >= len(events)


def test_the_task_table_shows_what_runs_and_what_waits(tmp_path: Path) -> None:
    connected = runtime.current()
    assert connected is not None

    @skate.remote
    def hold(path: str) -> str:
        until(lambda: os.path.exists(path), 30)
        return path

    @skate.remote
    def after(path: str) -> None:
        pass

    def table() -> dict[str, str]:
        rows = connected.ask("tasks", {})
        return {row["name"]: row["state"] for row in rows if row["name"] in ("hold", "after")}

    last = after.remote(hold.remote(str(tmp_path / "go")))
    until(lambda: table() == {"hold": "SENT", "after": "WAITING"})
    (tmp_path / "go").touch()
    skate.get(last)
    until(lambda: table() == {})


def test_tasks_without_events_are_not_shown() -> None:
    @skate.remote(enable_task_events=False)
    def hidden() -> int:
        return 1

    assert skate.get(hidden.remote()) == 1
    events = skate.timeline()
    assert events is not None
    assert not [event for event in events if event["name"] == "hidden"]


def test_questions_end_with_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
import os, skate
skate.init(num_cpus=1)
skate.shutdown()
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
for ask in (skate.nodes, skate.cluster_resources, skate.timeline, skate.get_runtime_context):
    try:
        ask()
    except skate.exceptions.RayError as error:
        print(type(error).__name__)
"""
    import subprocess
    import sys

    sources = str(Path(skate.__file__).resolve().parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([sources, os.environ.get("PYTHONPATH", "")]))
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert finished.stdout.split() == ["RuntimeClosedError"] * 4, finished.stderr
    assert issubclass(exceptions.RuntimeClosedError, exceptions.RayError)
