"""However a session ends, nothing of it is left within two seconds, and the user is told why.

Each test runs a real driver program and ends it, or one of its daemons, in one way.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import psutil
import pytest

from tests.conftest import Leftovers

SOURCES = str(Path(__file__).resolve().parents[2] / "src")

# What every program does first: a session that is busy in all the ways that make ending hard.
PREAMBLE = """
import os, signal, subprocess, sys, threading, time
import skate

context = skate.init(num_cpus=4)
SESSION = context.address_info["session_dir"]

@skate.remote
def add(a, b):
    return a + b

@skate.remote(num_cpus=0)
def stubborn():
    # In C code, deaf to SIGTERM and SIGINT.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    # A daemon in the classic way: two forks and a session of its own.
    subprocess.run(["setsid", "-f", "sleep", "601"])
    open(os.path.join(SESSION, f"stubborn-{os.getpid()}"), "w").close()
    sum(range(10**12))

@skate.remote(num_cpus=0)
class Counter:
    def __init__(self):
        self.n = 0
    def increment(self):
        self.n += 1
        return self.n

def ready():
    print("ready", SESSION, flush=True)

def be_busy():
    global counters, busy
    counters = [Counter.remote() for _ in range(5)]
    busy = [stubborn.remote() for _ in range(2)]
    skate.get([counter.increment.remote() for counter in counters])
    while sum(name.startswith("stubborn-") for name in os.listdir(SESSION)) < 2:
        time.sleep(0.01)
    ready()
"""


class Program:
    """A driver in a process of its own; its stderr is collected while it runs."""

    def __init__(self, source: str, folder: Path, **options: object) -> None:
        script = folder / "program.py"
        script.write_text(PREAMBLE + textwrap.dedent(source))
        self.process = subprocess.Popen(
            [sys.executable, str(script)],
            env={**os.environ, "PYTHONPATH": SOURCES},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a terminal's foreground group, so to speak
            **options,  # type: ignore[call-overload]
        )
        self._errors: list[str] = []
        self._reader = threading.Thread(target=self._collect, args=(self.process.stderr,))
        self._reader.start()
        self.session_dir = Path()

    def _collect(self, stream: IO[str]) -> None:
        self._errors.extend(stream)

    def wait_ready(self) -> str:
        """Until it has printed that it is ready; the session's name."""
        word, path = (self.expect("ready") + " ").split(" ", 1)
        assert word == "ready"
        self.session_dir = Path(path.strip())
        return self.session_dir.name

    def expect(self, start: str) -> str:
        """The next line that begins so."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(start):
                return line.rstrip("\n")
        pytest.fail(f"the program ended without {start!r}:\n{self.end()[1]}")

    def pid_of(self, role: str) -> int:
        """The pid of a daemon of its session."""
        description = json.loads((self.session_dir / "session.json").read_text())
        if role in ("node", "gcs"):
            return int(description[f"{role}_pid"])
        zygote = psutil.Process(description["node_pid"]).children()[0].pid
        if role == "zygote":
            return zygote
        assert role == "worker"
        return psutil.Process(zygote).children()[0].pid

    def end(self, within_s: float = 10.0) -> tuple[int, str]:
        """Wait for its end: exit code and what it wrote to stderr."""
        try:
            status = self.process.wait(within_s)
        finally:
            if self.process.poll() is None:
                self.process.kill()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status, "".join(self._errors)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Start a program: its source after the preamble."""
    programs: list[Program] = []

    def begin(source: str, **options: object) -> Program:
        programs.append(Program(source, tmp_path, **options))
        return programs[-1]

    yield begin
    for program in programs:
        program.end()


ENDINGS = {
    "the last line": "",
    "shutdown": "skate.shutdown()",
    "exception": "raise ValueError('of the user')",
    "sys.exit": "sys.exit(3)",
    "os._exit": "os._exit(4)",
    "abort": "os.abort()",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_is_left_when_a_busy_program_ends(
    ending: str, start: Callable[..., Program], no_leftovers: Leftovers
) -> None:
    program = start(f"be_busy()\n{ENDINGS[ending]}")
    name = program.wait_ready()
    status, errors = program.end()
    no_leftovers.assert_gone(name)
    expected = {"exception": 1, "sys.exit": 3, "os._exit": 4, "abort": -signal.SIGABRT}
    assert status == expected.get(ending, 0), errors
    if ending == "exception":
        assert errors.strip().endswith("ValueError: of the user")
    elif ending != "abort":
        assert errors == ""


WAITS = {
    "in get": "skate.get(busy)",
    "in wait": "skate.wait(busy, timeout=600)",
    "in a long computation": "while True: pass",
    "in time.sleep": "time.sleep(600)",
}


@pytest.mark.parametrize("wait", WAITS)
def test_ctrl_c_is_a_keyboard_interrupt_wherever_the_program_is(
    wait: str, start: Callable[..., Program], no_leftovers: Leftovers
) -> None:
    program = start(f"be_busy()\n{WAITS[wait]}\n")
    name = program.wait_ready()
    os.killpg(program.process.pid, signal.SIGINT)  # as a terminal does it: to the whole group
    status, errors = program.end()
    assert status == -signal.SIGINT, errors
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert errors.count("Traceback") == 1, errors
    no_leftovers.assert_gone(name)


@pytest.mark.parametrize("pause_s", [0.0, 0.005, 0.05])
def test_ctrl_c_twice(
    pause_s: float, start: Callable[..., Program], no_leftovers: Leftovers
) -> None:
    # The second one lands in the exit handlers, in the middle of shutdown().
    program = start("be_busy()\nskate.get(busy)")
    name = program.wait_ready()
    program.process.send_signal(signal.SIGINT)
    time.sleep(pause_s)
    program.process.send_signal(signal.SIGINT)
    status, errors = program.end()
    assert status != 0, errors
    no_leftovers.assert_gone(name)


def test_a_program_that_catches_ctrl_c_goes_on_with_its_session(
    start: Callable[..., Program], no_leftovers: Leftovers
) -> None:
    program = start(
        """
        be_busy()
        for _ in range(3):
            try:
                print("waiting", flush=True)
                skate.get(busy)
            except KeyboardInterrupt:
                print("caught", skate.get(add.remote(1, 2)), flush=True)
        """
    )
    name = program.wait_ready()
    for _ in range(3):
        program.expect("waiting")
        program.process.send_signal(signal.SIGINT)
        assert program.expect("caught") == "caught 3"
    assert program.end() == (0, "")
    no_leftovers.assert_gone(name)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_nothing_is_left_when_the_driver_is_killed(
    number: int, start: Callable[..., Program], no_leftovers: Leftovers
) -> None:
    program = start("be_busy()\nskate.get(busy)")
    name = program.wait_ready()
    program.process.send_signal(number)
    status, errors = program.end()
    no_leftovers.assert_gone(name)
    assert (status, errors) == (-number, "")


@pytest.mark.parametrize("role", ["node", "gcs", "zygote"])
def test_a_daemon_that_hangs_does_not_keep_a_program_from_ending(
    role: str, start: Callable[..., Program], no_leftovers: Leftovers
) -> None:
    program = start("be_busy()\ninput()\n", stdin=subprocess.PIPE)
    name = program.wait_ready()
    os.kill(program.pid_of(role), signal.SIGSTOP)
    program.process.communicate("\n", timeout=10)
    no_leftovers.assert_gone(name)
    assert program.process.returncode == 0


def test_twenty_actors_and_a_queue_of_tasks_end_with_a_killed_driver(
    start: Callable[..., Program], no_leftovers: Leftovers
) -> None:
    program = start(
        """
        counters = [Counter.options(num_cpus=0).remote() for _ in range(20)]
        skate.get([counter.increment.remote() for counter in counters])

        @skate.remote
        def sleep(seconds):
            time.sleep(seconds)

        refs = [sleep.remote(600) for _ in range(1000)]
        array = skate.put(bytes(10**7))
        ready()
        skate.get(refs)
        """
    )
    name = program.wait_ready()
    program.process.kill()
    program.end()
    no_leftovers.assert_gone(name)


# ------------------------------------------------------------------------- a daemon dies

DAEMONS = {"node": "The node daemon", "gcs": "The GCS", "zygote": "The zygote"}


@pytest.mark.parametrize(
    ("role", "number"),
    [
        *((role, number) for role in DAEMONS for number in (signal.SIGKILL, signal.SIGTERM)),
        ("node", signal.SIGSEGV),
    ],
)
def test_the_death_of_a_daemon_is_told_and_ends_the_session(
    role: str, number: signal.Signals, start: Callable[..., Program], no_leftovers: Leftovers
) -> None:
    program = start(
        """
        be_busy()
        errors = []

        def wait(call):
            try:
                call()
            except BaseException as error:
                errors.append(error)

        blocked = [lambda: skate.get(busy[0]), lambda: skate.get(busy), lambda: skate.wait(busy)]
        threads = [threading.Thread(target=wait, args=(call,)) for call in blocked]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for call in [
            lambda: skate.get(busy[0]), lambda: add.remote(1, 2), lambda: skate.put(1),
            lambda: skate.wait(busy), lambda: counters[0].increment.remote(), skate.nodes,
            lambda: skate.put(bytes(10**7)), Counter.remote,
        ]:
            wait(call)
        print("errors", {type(error).__name__ for error in errors}, len(errors))
        print("texts", {str(error) for error in errors}, flush=True)
        assert not skate.is_initialized()
        again = skate.init(num_cpus=1)
        print("again", skate.get(add.remote(1, 2)), again.address_info["session_dir"], flush=True)
        """
    )
    name = program.wait_ready()
    pid = program.pid_of(role)
    os.kill(pid, number)
    no_leftovers.assert_gone(name)
    assert program.expect("errors") == "errors {'LocalNodeDiedError'} 11"
    texts = program.expect("texts")
    again = program.expect("again").split()
    assert again[1] == "3"
    status, errors = program.end()
    assert status == 0, errors
    no_leftovers.assert_gone(Path(again[2]).name)
    told = errors.splitlines()
    assert len(told) == 1, errors
    assert str(program.session_dir / "logs") in told[0]
    assert texts.startswith("texts {'" + told[0].removeprefix("skate: ")[:40]), texts
    if number != signal.SIGTERM or role == "zygote":
        assert told[0].startswith(f"skate: {DAEMONS[role]} (pid {pid})")
        assert f"killed by signal {int(number)} ({number.name})" in told[0]
    else:
        assert f"skate: {DAEMONS[role]}" in told[0]
        assert "SIGTERM" in told[0]


def test_a_driver_that_computes_is_told_at_once(
    start: Callable[..., Program], no_leftovers: Leftovers
) -> None:
    program = start(
        """
        be_busy()
        while not os.path.exists(SESSION + "/go on"):
            pass  # never in the API
        """
    )
    name = program.wait_ready()
    os.kill(program.pid_of("node"), signal.SIGKILL)
    no_leftovers.assert_gone(name)
    (program.session_dir / "go on").touch()
    status, errors = program.end()
    assert status == 0
    assert errors.startswith("skate: The node daemon")


def test_a_killed_worker_harms_its_task_alone(
    start: Callable[..., Program], no_leftovers: Leftovers
) -> None:
    program = start(
        """
        @skate.remote(max_retries=0)
        def sleep(path):
            open(path, "w").close()
            time.sleep(600)

        ready()
        ref = sleep.remote(SESSION + "/begun")
        try:
            skate.get(ref)
        except skate.exceptions.WorkerCrashedError as error:
            print("error", str(error).splitlines()[0], flush=True)
        print("sum", skate.get(add.remote(1, 2)), flush=True)
        """
    )
    name = program.wait_ready()
    while not (program.session_dir / "begun").exists():
        time.sleep(0.01)
    zygote = psutil.Process(program.pid_of("zygote"))
    for worker in zygote.children():
        worker.kill()
    assert "signal 9 (SIGKILL)" in program.expect("error")
    assert program.expect("sum") == "sum 3"
    assert program.end() == (0, "")
    no_leftovers.assert_gone(name)


@pytest.mark.parametrize(
    "victims",
    [("node", "gcs"), ("driver", "node"), ("driver", "gcs"), ("driver", "zygote"),
     ("zygote", "node", "gcs")],
)  # fmt: skip
def test_nothing_is_left_when_several_processes_are_killed_at_once(
    victims: tuple[str, ...], start: Callable[..., Program], no_leftovers: Leftovers
) -> None:
    program = start("be_busy()\nskate.get(busy)")
    name = program.wait_ready()
    pids = [program.process.pid if role == "driver" else program.pid_of(role) for role in victims]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    status, errors = program.end()
    no_leftovers.assert_gone(name)
    assert status != 0
    assert "driver" in victims or "skate: The " in errors


def test_what_is_left_after_everything_was_killed_is_swept_by_the_next_session(
    start: Callable[..., Program], no_leftovers: Leftovers, skate_temp_dir: Path
) -> None:
    living = start("be_busy()\nskate.get(busy)")
    living_name = living.wait_ready()
    killed = start("be_busy()\nskate.get(busy)")
    killed_name = killed.wait_ready()
    for role in ("gcs", "node"):
        os.kill(killed.pid_of(role), signal.SIGSTOP)  # so that none can tidy up for another
    pids = [killed.pid_of("gcs"), killed.pid_of("node"), killed.process.pid]
    for pid in reversed(pids):
        os.kill(pid, signal.SIGKILL)
    killed.end()
    assert no_leftovers.find(killed_name), "nothing is left that could be swept"

    third = start("ready()")
    third_name = third.wait_ready()
    third.end()
    no_leftovers.assert_gone(killed_name)
    no_leftovers.assert_gone(third_name)
    # The living one has not lost anything.
    assert any("shared memory" in line for line in no_leftovers.find(living_name))
    assert any(line.startswith("socket") for line in no_leftovers.find(living_name))
    living.process.send_signal(signal.SIGINT)
    living.end()
    no_leftovers.assert_gone(living_name)


def test_sessions_in_a_row_leave_no_threads_and_descriptors(no_leftovers: Leftovers) -> None:
    import skate

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    @skate.remote
    def f() -> int:
        return 1

    counts = []
    for _ in range(3):
        skate.init(num_cpus=1)
        no_leftovers.watch()
        assert skate.get(f.remote()) == 1
        skate.shutdown()
        counts.append((descriptors(), threading.active_count()))
    assert counts[0] == counts[1] == counts[2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_when_a_program_is_ended_while_it_starts(
    number: int, tmp_path: Path, no_leftovers: Leftovers
) -> None:
    root = Path(os.environ["SKATE_TEMP_DIR"])
    before = set(root.glob("session_*"))
    for step in range(6):
        program = subprocess.Popen(
            [sys.executable, "-c", "import skate; skate.init(num_cpus=1)"],
            env={**os.environ, "PYTHONPATH": SOURCES},
            stderr=subprocess.DEVNULL,
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            program.wait(0.08 + 0.05 * step)  # a moment, not a condition: any will do
        program.send_signal(number)
        program.wait(10)
    for folder in set(root.glob("session_*")) - before:
        no_leftovers.assert_gone(folder.name)
