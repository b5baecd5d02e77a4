"""How actors end: last handle, kill, exit, errors, crashes, restarts, the end of their job."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import skate
from skate import exceptions
from skate.client import runtime
from tests.api.waiting import is_running, opened, until, until_gone

SOURCES = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with skate.init(num_cpus=2):
        yield


@skate.remote
class Counter:
    def __init__(self, value: int = 0) -> None:
        self.value = value

    def add(self, amount: int = 1) -> int:
        self.value += amount
        return self.value

    def pid(self) -> int:
        return os.getpid()

    def wait_for(self, path: str) -> str:
        return opened(path)

    def raise_signal(self, number: int) -> None:
        print("last words", file=sys.stderr, flush=True)
        os.kill(os.getpid(), number)
        until(lambda: False, 30)

    def os_exit(self, code: int) -> None:
        os._exit(code)

    def sys_exit(self, code: int) -> None:
        sys.exit(code)

    def exit_actor(self) -> str:
        skate.actor.exit_actor()
        return "never"


def started(counter: Any) -> int:
    """The pid of the actor, which has started then."""
    return int(skate.get(counter.pid.remote()))


# -------------------------------------------------------------------------------- last handle


def test_the_process_ends_when_the_last_handle_goes() -> None:
    counter = Counter.remote()
    pid = started(counter)
    other = counter
    del counter
    assert is_running(pid)
    assert skate.get(other.add.remote()) == 1
    del other
    until_gone(pid)


def test_calls_made_before_the_last_handle_went_are_run(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    counter = Counter.remote()
    pid = started(counter)
    first = counter.wait_for.remote(str(gate))
    answers = [counter.add.remote() for _ in range(100)]
    del counter
    gate.write_text("open")
    assert skate.get(first) == "open"
    assert skate.get(answers) == list(range(1, 101))
    until_gone(pid)


def test_calls_made_before_the_constructor_has_run_are_run_without_a_handle(
    tmp_path: Path,
) -> None:
    @skate.remote
    class Slow:
        def __init__(self, path: str, text: str) -> None:
            until(lambda: os.path.exists(path), 30)
            self.text = text

        def read(self) -> tuple[str, int]:
            return self.text, os.getpid()

    @skate.remote
    def text() -> str:
        return "late"

    gate = tmp_path / "gate"
    answer = Slow.remote(str(gate), text.remote()).read.remote()
    gate.touch()
    value, pid = skate.get(answer)
    assert value == "late"
    until_gone(pid)


def test_a_call_with_a_pending_argument_is_run_after_the_last_handle_went(tmp_path: Path) -> None:
    @skate.remote
    def wait_for(path: str) -> int:
        until(lambda: os.path.exists(path), 30)
        return 10

    gate = tmp_path / "gate"
    counter = Counter.remote(1)
    pid = started(counter)
    answer = counter.add.remote(wait_for.remote(str(gate)))
    del counter
    gate.touch()
    assert skate.get(answer) == 11
    until_gone(pid)


def test_a_bound_method_keeps_the_actor_alive() -> None:
    add = Counter.remote().add
    assert skate.get([add.remote() for _ in range(3)]) == [1, 2, 3]


def test_handles_in_objects_tasks_and_actors_keep_the_actor_alive() -> None:
    @skate.remote
    class Keeper:
        def __init__(self) -> None:
            self.kept: list[Any] = []

        def keep(self, handles: list[Any]) -> None:
            self.kept = handles

        def add(self) -> int:
            return int(skate.get(self.kept[0].add.remote()))

        def drop(self) -> None:
            self.kept.clear()

    counter = Counter.remote()
    pid = started(counter)
    stored = skate.put([counter])
    del counter
    assert skate.get(skate.get(stored)[0].add.remote()) == 1
    keeper = Keeper.remote()
    skate.get(keeper.keep.remote(stored))
    del stored
    assert skate.get(keeper.add.remote()) == 2
    assert is_running(pid)
    skate.get(keeper.drop.remote())
    until_gone(pid)


def test_an_actor_ends_with_the_actor_that_alone_knew_it() -> None:
    @skate.remote
    class Parent:
        def __init__(self) -> None:
            self.child = Counter.remote()

        def pids(self) -> list[int]:
            return [os.getpid(), skate.get(self.child.pid.remote())]

    parent = Parent.remote()
    pids = skate.get(parent.pids.remote())
    skate.kill(parent)
    for pid in pids:
        until_gone(pid)


def test_an_actor_outlives_the_task_that_made_it_if_its_handle_does() -> None:
    @skate.remote
    def make(keep: bool) -> tuple[int, Any]:
        counter = Counter.remote()
        return started(counter), counter if keep else None

    pid, counter = skate.get(make.remote(True))
    other_pid, _ = skate.get(make.remote(False))
    until_gone(other_pid)
    assert skate.get(counter.add.remote()) == 1
    assert is_running(pid)


def test_shutdown_hook_and_exit_handlers_run_at_a_graceful_end(tmp_path: Path) -> None:
    @skate.remote
    class Hooked:
        def __init__(self, path: str) -> None:
            import atexit

            self.path = Path(path)
            atexit.register(self.note, "atexit")

        def note(self, text: str) -> None:
            with self.path.open("a") as file:
                file.write(text + "\n")

        def __ray_shutdown__(self) -> None:
            self.note("shutdown")

        def pid(self) -> int:
            return os.getpid()

        def exit(self) -> None:
            skate.actor.exit_actor()

    ends: dict[str, Any] = {
        "scope": lambda actor: None,
        "terminate": lambda actor: actor.__ray_terminate__.remote(),
        "exit": lambda actor: actor.exit.remote(),
        "kill": skate.kill,
    }
    for name, end in ends.items():
        hooked = Hooked.remote(str(tmp_path / name))
        pid = skate.get(hooked.pid.remote())
        end(hooked)
        del hooked
        until_gone(pid)
        note = tmp_path / name
        expected = [] if name == "kill" else ["shutdown", "atexit"]
        assert (note.read_text().split() if note.exists() else []) == expected, name


# ----------------------------------------------------------------------------- kill and exit


def test_kill_ends_the_process_and_fails_what_is_pending(tmp_path: Path) -> None:
    counter = Counter.remote()
    pid = started(counter)
    gate = tmp_path / "never"
    pending = [counter.wait_for.remote(str(gate)), counter.add.remote()]
    skate.kill(counter)
    for ref in [*pending, counter.add.remote()]:
        with pytest.raises(exceptions.ActorDiedError, match=r"kill\(\)") as caught:
            skate.get(ref, timeout=10)
        assert caught.value.actor_id == counter._actor_id.hex()
        assert isinstance(caught.value, exceptions.RayActorError)
    until_gone(pid)
    skate.kill(counter)  # of a dead actor: nothing


def test_kill_of_an_actor_that_has_not_started(tmp_path: Path) -> None:
    @skate.remote
    class Never:
        def __init__(self, _: Any = None) -> None:
            until(lambda: False, 30)

        def work(self) -> None: ...

    @skate.remote
    def wait_for(path: str) -> None:
        until(lambda: os.path.exists(path), 30)

    gate = tmp_path / "gate"
    # Constructing; waiting for an argument; waiting for resources.
    waiting = [
        Never.remote(),
        Never.remote(wait_for.remote(str(gate))),
        Never.options(num_cpus=2).remote(),
    ]
    for never in waiting:
        answer = never.work.remote()
        skate.kill(never)
        with pytest.raises(exceptions.ActorDiedError):
            skate.get(answer, timeout=10)
    gate.touch()
    until(lambda: skate.available_resources().get("CPU") == 2)
    assert skate.get(Counter.remote().add.remote()) == 1


def test_kill_takes_handles_only() -> None:
    with pytest.raises(ValueError, match="actor handle"):
        skate.kill(skate.put(1))


def test_exit_actor_ends_in_good_order() -> None:
    counter = Counter.options(max_restarts=3).remote()
    pid = started(counter)
    before = counter.add.remote()
    leaving, after = counter.exit_actor.remote(), counter.add.remote()
    assert skate.get(before) == 1
    for ref in (leaving, after):
        with pytest.raises(exceptions.ActorDiedError, match="exit_actor"):
            skate.get(ref, timeout=10)
    until_gone(pid)
    with pytest.raises(exceptions.ActorDiedError):  # intended: it is not restarted
        skate.get(counter.add.remote(), timeout=10)


def test_exit_actor_is_for_actors() -> None:
    with pytest.raises(TypeError, match="actor"):
        skate.actor.exit_actor()

    @skate.remote
    def task() -> None:
        skate.actor.exit_actor()

    with pytest.raises(TypeError, match="actor"):
        skate.get(task.remote())


def test_terminate_runs_what_was_called_before() -> None:
    counter = Counter.remote()
    pid = started(counter)
    answers = [counter.add.remote() for _ in range(10)]
    counter.__ray_terminate__.remote()
    assert skate.get(answers) == list(range(1, 11))
    until_gone(pid)


# --------------------------------------------------------------------------- constructor errors


def test_a_constructor_that_raises_fails_every_call_with_its_traceback() -> None:
    @skate.remote
    class Broken:
        def __init__(self, text: str) -> None:
            raise RuntimeError(text)

        def work(self) -> None: ...

    broken = Broken.options(max_restarts=5).remote("no database")
    for _ in range(2):
        with pytest.raises(exceptions.ActorDiedError) as caught:
            skate.get(broken.work.remote(), timeout=10)
        text = str(caught.value)
        assert "RuntimeError: no database" in text and "in __init__" in text
        assert "Broken" in text
        assert caught.value.actor_init_failed


def test_a_constructor_whose_argument_failed_is_never_run(tmp_path: Path) -> None:
    @skate.remote
    def fail() -> None:
        raise KeyError("argument")

    @skate.remote
    class Never:
        def __init__(self, value: Any, path: str) -> None:
            Path(path).touch()

        def work(self) -> None: ...

    trace = tmp_path / "ran"
    never = Never.remote(fail.remote(), str(trace))
    with pytest.raises(exceptions.ActorDiedError, match="KeyError") as caught:
        skate.get(never.work.remote(), timeout=10)
    assert caught.value.actor_init_failed
    assert not trace.exists()


def test_a_constructor_may_wait_for_refs() -> None:
    @skate.remote
    def value() -> int:
        return 5

    counter = Counter.remote(value.remote())
    assert skate.get(counter.add.remote(value.remote())) == 10


def test_sys_exit_in_a_method_ends_the_call_and_a_constructor_ends_the_actor() -> None:
    @skate.remote
    class Quitter:
        def __init__(self) -> None:
            sys.exit(3)

        def work(self) -> None: ...

    with pytest.raises(exceptions.ActorDiedError):
        skate.get(Quitter.remote().work.remote(), timeout=10)
    counter = Counter.remote()
    with pytest.raises(exceptions.RayError):
        skate.get(counter.sys_exit.remote(3), timeout=10)


# --------------------------------------------------------------------------------- crashes


@pytest.mark.parametrize(
    ("method", "argument", "said"),
    [
        ("raise_signal", signal.SIGKILL, "SIGKILL"),
        ("raise_signal", signal.SIGSEGV, "SIGSEGV"),
        ("raise_signal", signal.SIGTERM, "SIGTERM"),
        ("os_exit", 7, "code 7"),
    ],
)
def test_a_crash_says_how_the_process_died(method: str, argument: int, said: str) -> None:
    counter = Counter.remote()
    crash = getattr(counter, method).remote(int(argument))
    behind = counter.add.remote()
    for ref in (crash, behind, counter.add.remote()):
        with pytest.raises(exceptions.ActorDiedError) as caught:
            skate.get(ref, timeout=10)
        assert said in str(caught.value) and "Counter" in str(caught.value)
        if method == "raise_signal":
            assert "last words" in str(caught.value)


def test_an_actor_is_restarted_as_often_as_it_may_and_starts_afresh() -> None:
    counter = Counter.options(max_restarts=2).remote(10)
    for _ in range(2):
        assert skate.get(counter.add.remote()) == 11
        pid = started(counter)
        with pytest.raises(exceptions.RayActorError):
            skate.get(counter.raise_signal.remote(int(signal.SIGKILL)), timeout=10)
        until(lambda pid=pid: alive_pid(counter) not in (0, pid))  # type: ignore[misc]
    os.kill(started(counter), signal.SIGKILL)
    with pytest.raises(exceptions.ActorDiedError, match="SIGKILL"):
        skate.get([counter.add.remote() for _ in range(2)], timeout=10)


def alive_pid(counter: Any) -> int:
    """The pid of the actor's process now; 0 while there is none."""
    try:
        return started(counter)
    except exceptions.ActorUnavailableError:
        return 0


def test_a_call_that_was_hit_by_a_crash_says_that_it_may_have_run() -> None:
    counter = Counter.options(max_restarts=1).remote()
    started(counter)
    crash = counter.os_exit.remote(1)
    with pytest.raises(exceptions.ActorUnavailableError, match="may or may not have run"):
        skate.get(crash, timeout=10)
    until(lambda: alive_pid(counter))
    assert skate.get(counter.add.remote(), timeout=10) == 1


def test_max_task_retries_runs_a_call_again_after_a_crash(tmp_path: Path) -> None:
    @skate.remote(max_restarts=-1, max_task_retries=2)
    class Phoenix:
        def burn(self, path: str, times: int) -> int:
            with open(path, "a") as file:
                file.write("x")
            count = os.path.getsize(path)
            if count <= times:
                os._exit(1)
            return count

        def last(self) -> str:
            return "after"

    phoenix = Phoenix.remote()
    answers = [phoenix.burn.remote(str(tmp_path / "a"), 2), phoenix.last.remote()]
    assert skate.get(answers, timeout=20) == [3, "after"]
    with pytest.raises(exceptions.ActorUnavailableError):
        skate.get(phoenix.burn.remote(str(tmp_path / "b"), 3), timeout=20)
    assert skate.get(phoenix.last.remote(), timeout=20) == "after"


def test_a_restarted_actor_knows_it_and_gets_its_arguments_again() -> None:
    @skate.remote(max_restarts=1, max_task_retries=1)
    class Knowing:
        def __init__(self, value: list[int]) -> None:
            self.value = value

        def look(self) -> tuple[bool, list[int], int]:
            again = skate.get_runtime_context().was_current_actor_reconstructed
            return again, self.value, os.getpid()

    ref = skate.put([1, 2, 3])
    knowing = Knowing.remote(ref)
    del ref
    again, value, pid = skate.get(knowing.look.remote())
    assert (again, value) == (False, [1, 2, 3])
    os.kill(pid, signal.SIGKILL)
    until_gone(pid)
    again, value, _ = skate.get(knowing.look.remote(), timeout=10)
    assert (again, value) == (True, [1, 2, 3])


def test_kill_with_restart_counts_as_a_crash() -> None:
    counter = Counter.options(max_restarts=1, max_task_retries=-1).remote()
    pid = started(counter)
    assert skate.get(counter.add.remote()) == 1
    skate.kill(counter, no_restart=False)
    until_gone(pid)
    assert skate.get(counter.add.remote(), timeout=10) == 1
    assert started(counter) != pid
    skate.kill(counter, no_restart=False)
    with pytest.raises(exceptions.ActorDiedError):
        skate.get([counter.wait_for.remote("/never"), counter.add.remote()], timeout=10)


def test_calls_made_while_an_actor_restarts_are_run_in_order() -> None:
    counter = Counter.options(max_restarts=1).remote()
    pid = started(counter)
    os.kill(pid, signal.SIGKILL)
    until_gone(pid)
    refs = [counter.add.remote() for _ in range(100)]
    answers = []
    for ref in refs:  # a few may have met the dead process, none runs twice or out of turn
        try:
            answers.append(skate.get(ref, timeout=10))
        except exceptions.ActorUnavailableError:
            continue
    assert answers == list(range(1, len(answers) + 1))
    assert skate.get(counter.add.remote(), timeout=10) == len(answers) + 1


def test_the_cpu_of_a_dead_actor_is_free_again() -> None:
    until(lambda: skate.available_resources().get("CPU") == 2)
    counter = Counter.options(num_cpus=2).remote()
    pid = started(counter)
    assert "CPU" not in skate.available_resources()
    os.kill(pid, signal.SIGKILL)
    until(lambda: skate.available_resources().get("CPU") == 2)


def test_a_crash_while_the_last_handle_goes_leaves_nothing_behind() -> None:
    for _ in range(30):
        counter = Counter.options(num_cpus=1).remote()
        counter.os_exit.remote(1)
        del counter
    for _ in range(10):
        counter = Counter.options(num_cpus=1).remote()
        skate.kill(counter)
        del counter
    assert skate.get(Counter.options(num_cpus=2).remote().add.remote(), timeout=20) == 1
    until(lambda: skate.available_resources().get("CPU") == 2)
    until(lambda: actors_known() == {})


def actors_known() -> dict[str, int]:
    """How many actors the node remembers, by state."""
    gc.collect()  # tracebacks of the tests before hold handles in their frames
    found = runtime.current()
    assert found is not None
    return dict(found.ask("status", {})["actors"])


def test_actors_that_ended_are_forgotten() -> None:
    counters = [Counter.remote(number) for number in range(50)]
    skate.get([counter.add.remote() for counter in counters])
    for counter in counters[:10]:
        skate.kill(counter)
    for counter in counters[10:20]:
        counter.exit_actor.remote()
    del counters, counter
    until(lambda: actors_known() == {})


# ---------------------------------------------------------------------------- end of the job


def run_driver(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program that is a driver of its own."""
    path = os.pathsep.join([str(SOURCES), str(SOURCES.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )


MAKE_ACTORS = """
    import os, signal, sys
    import skate

    @skate.remote
    class Actor:
        def pid(self):
            return os.getpid()

    @skate.remote
    class Parent:
        def __init__(self):
            self.child = Actor.remote()
        def pids(self):
            return [os.getpid(), skate.get(self.child.pid.remote())]

    skate.init(num_cpus=1)
    actors = [Actor.options(max_restarts=-1).remote(), Actor.options(name="x").remote()]
    parent = Parent.remote()
    pids = skate.get([actor.pid.remote() for actor in actors]) + skate.get(parent.pids.remote())
    print(*pids, flush=True)
"""


@pytest.mark.parametrize(
    "end",
    ["skate.shutdown()", "pass", "1 / 0", "os._exit(1)", "os.kill(os.getpid(), signal.SIGKILL)"],
)
def test_actors_end_with_the_driver_however_it_ends(end: str) -> None:
    finished = run_driver(textwrap.dedent(MAKE_ACTORS) + end)
    pids = [int(word) for word in finished.stdout.split()]
    assert len(pids) == 4, finished.stderr
    for pid in pids:
        until_gone(pid, 2.0)


def test_a_handle_of_an_ended_session_fails_plainly() -> None:
    finished = run_driver(
        """
        import pickle
        import skate

        @skate.remote
        class Actor:
            def work(self):
                return 1

        skate.init(num_cpus=1)
        actor = Actor.remote()
        print(skate.get(actor.work.remote()))
        skate.shutdown()
        skate.init(num_cpus=1)
        try:
            skate.get(actor.work.remote(), timeout=10)
        except skate.exceptions.RayActorError as error:
            print(type(error).__name__)
        try:
            skate.kill(actor)
        except ValueError as error:
            print(type(error).__name__)
        print(skate.get(Actor.remote().work.remote()))
        """
    )
    expected = ["1", "ActorDiedError", "ActorHandleNotFoundError", "1"]
    assert finished.stdout.split() == expected, finished.stderr
