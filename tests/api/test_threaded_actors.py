"""Actors with max_concurrency: their calls run on threads, side by side."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import skate
from skate import exceptions
from tests.api.waiting import until, until_gone


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with skate.init(num_cpus=2):
        yield


@skate.remote
class Meeting:
    """A call returns once as many as were invited are inside together."""

    def __init__(self, guests: int = 1) -> None:
        self.barrier = threading.Barrier(guests)
        self.main = threading.get_ident()
        self.lock = threading.Lock()
        self.inside = self.most = 0

    def join(self, number: int) -> tuple[int, bool]:
        self.barrier.wait(30)
        return number, threading.get_ident() == self.main

    def count(self) -> int:
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        threading.Event().wait(0.002)
        with self.lock:
            self.inside -= 1
        return self.most

    def pid(self) -> int:
        return os.getpid()

    def wait_for(self, path: str) -> str:
        until(lambda: os.path.exists(path), 30)
        return "opened"

    def exit(self) -> None:
        skate.actor.exit_actor()

    def fail(self) -> None:
        raise KeyError("threaded")

    def thread_name(self) -> str:
        return threading.current_thread().name


@skate.remote
def echo(value: Any) -> Any:
    return value


def test_calls_are_really_concurrent() -> None:
    meeting = Meeting.options(max_concurrency=8).remote(8)
    answers = skate.get([meeting.join.remote(number) for number in range(8)], timeout=20)
    # All eight inside at once, each on a thread of the pool and none on the main thread.
    assert answers == [(number, False) for number in range(8)]


def test_never_more_threads_than_max_concurrency() -> None:
    meeting = Meeting.options(max_concurrency=3).remote()
    assert max(skate.get([meeting.count.remote() for _ in range(60)])) == 3


def test_a_call_that_waits_holds_back_nobody(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    meeting = Meeting.options(max_concurrency=2).remote()
    slow = meeting.wait_for.remote(str(gate))
    pids = skate.get([meeting.pid.remote() for _ in range(20)], timeout=10)
    assert len(set(pids)) == 1
    assert skate.wait([slow], timeout=0)[0] == []
    gate.touch()
    assert skate.get(slow) == "opened"


def test_pending_arguments_hold_back_their_own_call_only(tmp_path: Path) -> None:
    @skate.remote
    def wait_for(path: str) -> int:
        until(lambda: os.path.exists(path), 30)
        return 5

    @skate.remote(max_concurrency=2)
    class Echo:
        def echo(self, value: Any) -> Any:
            return value

    gate = tmp_path / "gate"
    actor = Echo.remote()
    late = actor.echo.remote(wait_for.remote(str(gate)))
    assert skate.get(actor.echo.remote(1), timeout=10) == 1
    gate.touch()
    assert skate.get(late) == 5


def test_every_thread_may_use_the_whole_api() -> None:
    @skate.remote(max_concurrency=8)
    class User:
        def use(self, number: int) -> int:
            refs = [echo.remote(number) for _ in range(5)]
            ready, rest = skate.wait(refs, num_returns=2)
            stored = skate.put(number)
            return sum(skate.get([*ready, *rest])) + int(skate.get(stored))

    user = User.remote()
    assert skate.get([user.use.remote(n) for n in range(40)], timeout=30) == [
        6 * n for n in range(40)
    ]


def test_the_cpu_is_lent_while_all_calls_wait() -> None:
    @skate.remote(num_cpus=2, max_concurrency=4)
    class Greedy:
        def work(self, number: int) -> int:
            return int(skate.get(echo.remote(number)))

    greedy = Greedy.remote()
    assert skate.get([greedy.work.remote(n) for n in range(20)], timeout=20) == list(range(20))
    until(lambda: "CPU" not in skate.available_resources())
    del greedy
    until(lambda: skate.available_resources().get("CPU") == 2)


def test_the_context_belongs_to_the_call() -> None:
    @skate.remote(max_concurrency=4)
    class Contextual:
        def __init__(self) -> None:
            self.barrier = threading.Barrier(4)

        def ids(self) -> tuple[str | None, str | None]:
            before = skate.get_runtime_context().get_task_id()
            self.barrier.wait(30)
            return before, skate.get_runtime_context().get_task_id()

    contextual = Contextual.remote()
    refs = [contextual.ids.remote() for _ in range(4)]
    assert skate.get(refs, timeout=20) == [(ref.task_id(), ref.task_id()) for ref in refs]


def test_exceptions_leave_the_threads_alive() -> None:
    meeting = Meeting.options(max_concurrency=2).remote()
    for _ in range(5):
        with pytest.raises(KeyError, match="threaded"):
            skate.get(meeting.fail.remote())
    assert skate.get(meeting.pid.remote(), timeout=10)


def test_exit_actor_from_a_thread_lets_the_others_finish(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    meeting = Meeting.options(max_concurrency=4).remote()
    pid = skate.get(meeting.pid.remote())
    slow = meeting.wait_for.remote(str(gate))
    with pytest.raises(exceptions.ActorDiedError, match="exit_actor"):
        skate.get(meeting.exit.remote(), timeout=10)
    gate.touch()
    assert skate.get(slow, timeout=10) == "opened"
    until_gone(pid)
    with pytest.raises(exceptions.ActorDiedError, match="exit_actor"):
        skate.get(meeting.pid.remote(), timeout=10)


def test_the_last_handle_ends_it_after_its_calls(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    meeting = Meeting.options(max_concurrency=2).remote()
    pid = skate.get(meeting.pid.remote())
    answers = [meeting.wait_for.remote(str(gate)) for _ in range(5)]
    del meeting
    gate.touch()
    assert skate.get(answers, timeout=10) == ["opened"] * 5
    until_gone(pid)


def test_kill_ends_all_threads(tmp_path: Path) -> None:
    meeting = Meeting.options(max_concurrency=4).remote()
    pid = skate.get(meeting.pid.remote())
    pending = [meeting.wait_for.remote(str(tmp_path / "never")) for _ in range(6)]
    skate.kill(meeting)
    for ref in pending:
        with pytest.raises(exceptions.ActorDiedError):
            skate.get(ref, timeout=10)
    until_gone(pid)


def test_a_constructor_that_raises(tmp_path: Path) -> None:
    @skate.remote(max_concurrency=4)
    class Broken:
        def __init__(self) -> None:
            raise OSError("no disk")

        def work(self) -> None: ...

    broken = Broken.remote()
    for ref in [broken.work.remote() for _ in range(3)]:
        with pytest.raises(exceptions.ActorDiedError, match="no disk"):
            skate.get(ref, timeout=10)


def test_calls_made_before_the_constructor_has_run_wait_for_it(tmp_path: Path) -> None:
    @skate.remote(max_concurrency=4)
    class Slow:
        def __init__(self, path: str) -> None:
            until(lambda: os.path.exists(path), 30)
            self.ready = True

        def is_ready(self) -> bool:
            return self.ready

    gate = tmp_path / "gate"
    slow = Slow.remote(str(gate))
    answers = [slow.is_ready.remote() for _ in range(10)]
    gate.touch()
    assert skate.get(answers, timeout=10) == [True] * 10
