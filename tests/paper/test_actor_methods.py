"""What the paper says of actors: stateful workers, whose methods form a chain."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import skate
from skate.client import runtime
from tests.api.waiting import until


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with skate.init(num_cpus=2):
        yield


@skate.remote
class Simulator:
    def __init__(self, seed: int) -> None:
        self.state = [seed]

    def step(self, *actions: Any) -> list[Any]:
        self.state.extend(actions)
        return list(self.state)


def story(any_id: bytes) -> list[dict[str, Any]]:
    found = runtime.current()
    assert found is not None
    return list(found.ask("story", {"id": any_id}))


def test_a_method_depends_on_the_one_before_it() -> None:
    """Section 3.2: to capture the state, a stateful edge leads from each method to the one that
    was called after it on the same actor: all methods of an actor form a chain."""
    simulator = Simulator.remote(0)
    futures = [simulator.step.remote(number) for number in range(1, 50)]
    for number, state in enumerate(skate.get(futures), 1):
        assert state == list(range(number + 1))


def test_methods_may_take_futures_and_return_futures_for_tasks(tmp_path: Path) -> None:
    """Section 3.1: a method execution is like a task: it takes objects or futures, is executed
    remotely, and returns futures that can be passed on without waiting."""

    @skate.remote
    def policy(path: str) -> str:
        until(lambda: os.path.exists(path), 30)
        return "action"

    @skate.remote
    def length(rollout: list[Any]) -> int:
        return len(rollout)

    gate = tmp_path / "gate"
    simulator = Simulator.remote("start")
    rollout = simulator.step.remote(policy.remote(str(gate)))
    count = length.remote(rollout)
    assert skate.wait([rollout, count], timeout=0)[0] == []
    gate.touch()
    assert skate.get([rollout, count]) == [["start", "action"], 2]


def test_a_handle_lets_other_tasks_invoke_the_actor() -> None:
    """Section 3.1: a handle to an actor can be passed to other actors or tasks."""

    @skate.remote
    def drive(simulator: Any, action: int) -> list[Any]:
        return list(skate.get(simulator.step.remote(action)))

    simulator = Simulator.remote(0)
    skate.get([drive.remote(simulator, action) for action in (1, 2, 3)])
    assert sorted(skate.get(simulator.step.remote())) == [0, 1, 2, 3]


def test_an_actor_process_runs_what_it_exposes_one_by_one() -> None:
    """Section 4.1: an actor is a stateful process that executes, when invoked, only the methods
    it exposes, serially, and each depends on the state that the previous one left."""
    simulator = Simulator.remote(0)
    refs = [simulator.step.remote(number) for number in range(20)]
    skate.get(refs)
    rows = [row for ref in refs for row in story(ref.binary())]
    running = [row for row in rows if row["state"] == "RUNNING"]
    finished = [row for row in rows if row["state"] == "FINISHED"]
    assert len({row["worker_pid"] for row in running}) == 1
    for done, begun in zip(finished, running[1:], strict=False):
        assert done["time"] <= begun["time"]


def test_the_life_of_an_actor_is_in_the_event_log() -> None:
    """Section 4.1: the GCS knows the system's whole control state, actors among it."""
    simulator = Simulator.remote(0)
    actor_id = simulator._actor_id.binary()
    pid = skate.get(simulator.__ray_call__.remote(lambda _: os.getpid()))
    skate.kill(simulator)
    until(lambda: any(row["state"] == "DEAD" for row in story(actor_id)))
    rows = [row for row in story(actor_id) if row["kind"] == "actor"]
    assert [row["state"] for row in rows] == ["DEPENDENCIES_UNREADY", "ALIVE", "DEAD"]
    assert rows[1]["worker_pid"] == pid
    assert "kill" in rows[2]["text"]
