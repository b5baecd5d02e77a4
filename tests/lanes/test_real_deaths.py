"""A caller or a callee is killed while calls ride between them: what runs again, who hears what."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import skate
from skate import exceptions
from tests.api.waiting import until_gone
from tests.conftest import eventually
from tests.lanes.riding import SOON_S, call_until_open, get, lanes, leaves_nothing, run_until_lent

# Workers need not import this module, and with it pytest, to run its functions.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with skate.init(num_cpus=2):
        yield


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    with leaves_nothing():
        yield


@skate.remote
def echo(value: Any) -> Any:
    return value


def note(path: str, line: object) -> None:
    with open(path, "a") as file:
        file.write(f"{line}\n")


def noted(path: Path) -> Counter[str]:
    return Counter(path.read_text().split()) if path.exists() else Counter()


@skate.remote
def dies_once(path: str, number: int, deadly: int) -> int:
    """Its process is killed when the deadly number runs for the first time."""
    is_first = not os.path.exists(path + ".dead")
    note(path, number)
    if number == deadly and is_first:
        note(path + ".dead", number)
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@skate.remote(max_retries=1)
def dies(path: str) -> None:
    note(path, "ran")
    os.kill(os.getpid(), signal.SIGKILL)


@skate.remote
class Log:
    """Remembers who called, with which number, in the order in which it ran."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def add(self, who: str, number: int) -> int:
        self.seen.append((who, number))
        return number

    def add_or_die(self, who: str, number: int, deadly: int, path: str) -> tuple[int, int]:
        if number == deadly and not os.path.exists(path):
            note(path, number)
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen.append((who, number))
        return number, os.getpid()

    def of(self, who: str) -> list[int]:
        return [number for name, number in self.seen if name == who]

    def pid(self) -> int:
        return os.getpid()

    def wait_for(self, path: str) -> None:
        while not os.path.exists(path):
            time.sleep(0.002)

    def die(self) -> None:
        print("my last words", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


@skate.remote(num_cpus=0)
class Caller:
    """A worker that calls an actor, and dies."""

    def warm(self, log: Any) -> int:
        skate.get([log.add.remote("warm", 1) for _ in range(5)])
        return os.getpid()

    def sends_and_dies(self, log: Any, gate: str, count: int) -> None:
        """What it sent is unanswered when its process is killed."""
        refs = [log.wait_for.remote(gate)]
        refs += [log.add.remote("dead", n) for n in range(count)]
        skate.wait(refs, timeout=0.05)  # all has left
        note(gate + ".sent", 1)
        os.kill(os.getpid(), signal.SIGKILL)

    def keeps(self, log: Any, count: int) -> list[Any]:
        """Refs of calls that may not have run yet."""
        self.refs = [log.add.remote("kept", n) for n in range(count)]
        return self.refs

    def burst(self, log: Any, who: str, deadly: int, path: str) -> list[tuple[int, int]]:
        refs = [log.add_or_die.remote(who, n, deadly, path) for n in range(150)]
        answers: list[tuple[int, int]] = skate.get(refs, timeout=SOON_S)
        return answers

    def of_tasks(self, count: int) -> list[Any]:
        skate.get([echo.remote(0) for _ in range(50)])
        return [echo.remote(n) for n in range(count)]


def opened(log: Any) -> int:
    return call_until_open(log, lambda: get(log.pid.remote()))


# ------------------------------------------------------------------ the callee


def test_a_lent_worker_is_killed_while_it_waits() -> None:
    for _ in range(5):
        pid = run_until_lent(lambda: get(echo.remote(0)))
        if pid:
            os.kill(pid, signal.SIGKILL)
        assert get([echo.remote(n) for n in range(300)]) == list(range(300))


def test_a_task_that_kills_its_lent_worker_runs_again_and_so_does_what_was_behind(
    tmp_path: Path,
) -> None:
    for deadly in (0, 7, 60):
        path = tmp_path / str(deadly)
        run_until_lent(lambda: get(echo.remote(0)))
        refs = [dies_once.remote(str(path), number, deadly) for number in range(100)]
        assert get(refs) == list(range(100))
        ran = noted(path)
        assert ran[str(deadly)] == 2
        assert max(ran.values()) == 2
        assert len(ran) == 100


def test_a_task_without_retries_left_names_the_signal(tmp_path: Path) -> None:
    path = tmp_path / "path"
    run_until_lent(lambda: get(echo.remote(0)))
    deadly = dies.remote(str(path))
    behind = [echo.remote(n) for n in range(50)]
    with pytest.raises(exceptions.WorkerCrashedError) as caught:
        get(deadly)
    assert "SIGKILL" in str(caught.value)
    assert "the task dies" in str(caught.value)
    assert get(behind) == list(range(50))
    assert noted(path) == {"ran": 2}


def test_an_actor_dies_by_a_call_with_others_behind_it() -> None:
    log = Log.remote()
    opened(log)
    assert get([log.add.remote("me", n) for n in range(30)]) == list(range(30))
    refs = [log.die.remote(), *(log.add.remote("me", n) for n in range(30))]
    for ref in refs:
        with pytest.raises(exceptions.ActorDiedError) as caught:
            get(ref)
        assert "SIGKILL" in str(caught.value)
        assert "my last words" in str(caught.value)
    with pytest.raises(exceptions.ActorDiedError, match="SIGKILL"):
        get(log.pid.remote())


def test_an_idle_actor_is_killed_and_the_next_calls_hear_of_it() -> None:
    log = Log.remote()
    os.kill(opened(log), signal.SIGKILL)
    for ref in [log.add.remote("me", n) for n in range(30)]:
        with pytest.raises(exceptions.ActorDiedError, match="SIGKILL"):
            get(ref)


def test_a_call_that_was_hit_may_have_run_and_those_behind_it_run_in_order(tmp_path: Path) -> None:
    log = Log.options(max_restarts=-1).remote()
    pid = opened(log)
    path = str(tmp_path / "path")
    refs = [log.add_or_die.remote("me", n, 40, path) for n in range(100)]
    failed = []
    for number, ref in enumerate(refs):
        try:
            assert get(ref)[0] == number
        except exceptions.ActorUnavailableError:
            failed.append(number)
    assert 40 in failed
    seen = get(log.of.remote("me"))
    assert seen == sorted(set(seen))  # in order, and none twice
    assert opened(log) != pid


def test_lanes_open_again_after_a_restart_and_every_caller_s_order_holds(tmp_path: Path) -> None:
    log = Log.options(max_restarts=-1, max_task_retries=-1).remote()
    callers = [Caller.remote() for _ in range(2)]
    pid = opened(log)
    for life in range(3):
        path = str(tmp_path / str(life))
        for caller in callers:
            get(caller.warm.remote(log))
        names = [f"{life}.{index}" for index in range(3)]
        theirs = [
            caller.burst.remote(log, name, 70 if caller is callers[0] else -1, path)
            for caller, name in zip(callers, names, strict=False)
        ]
        ours = [log.add_or_die.remote(names[2], n, -1, path) for n in range(150)]
        results = [*get(theirs), get(ours)]
        assert [[n for n, _ in answers] for answers in results] == [list(range(150))] * 3
        now = opened(log)
        assert now != pid
        for name in names:
            seen = get(log.of.remote(name))
            assert seen == sorted(set(seen))
        pid = now
        for caller in callers:
            its_pid = get(caller.warm.remote(log))
            eventually(
                lambda caller=caller, its_pid=its_pid: (
                    get(caller.warm.remote(log)) and lanes(its_pid, worker_pid=pid)  # noqa: B023
                ),
                "the caller has a lane again",
                SOON_S,
            )


# ------------------------------------------------------------------ the caller


def test_what_a_killed_caller_sent_runs_in_order_and_others_go_on(tmp_path: Path) -> None:
    log, caller = Log.remote(), Caller.remote()
    opened(log)
    pid = get(caller.warm.remote(log))
    eventually(
        lambda: get(caller.warm.remote(log)) and lanes(pid, actor_id=log._actor_id.hex()),
        "the caller has a lane",
        SOON_S,
    )
    gate = tmp_path / "gate"
    lost = caller.sends_and_dies.remote(log, str(gate), 200)
    until_gone(pid, SOON_S)
    ours = [log.add.remote("me", n) for n in range(100)]
    gate.touch()
    assert get(ours) == list(range(100))
    assert get(log.of.remote("me")) == list(range(100))
    eventually(lambda: get(log.of.remote("dead")) == list(range(200)), "all of them ran", SOON_S)
    with pytest.raises(exceptions.ActorDiedError):
        get(lost)
    eventually(lambda: not lanes(pid), "its lane is gone", SOON_S)


def test_results_that_others_hold_outlive_their_caller(tmp_path: Path) -> None:
    log = Log.remote()
    for is_blocked in (False, True):
        caller = Caller.remote()
        pid = get(caller.warm.remote(log))
        gate = tmp_path / "gate"
        blocks = log.wait_for.remote(str(gate)) if is_blocked else None
        refs = get(caller.keeps.remote(log, 30))
        os.kill(pid, signal.SIGKILL)
        until_gone(pid)
        gate.touch()
        assert get(refs) == list(range(30))
        del blocks, refs
        gate.unlink()


def test_results_of_tasks_that_others_hold_outlive_their_caller() -> None:
    for _ in range(3):
        caller = Caller.remote()
        refs = get(caller.of_tasks.remote(100))
        skate.kill(caller)
        assert get(refs) == list(range(100))
