"""What every test shares: a session folder of its own, an engine that is always shut down, and
the check that a session left nothing behind.

Nothing here imports skate at the top, so tests of a pure core stay as fast as the core.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import settings

LEFTOVERS_GONE_WITHIN_S = 2.0
"""The promise of skate: this long after a session's end, however it ended, nothing is left."""

# Run in the background by a shell, everything here would ignore Ctrl-C and a hang-up, and so would
# each program that a test starts: ignored signals are inherited.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGQUIT, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

# No deadline per example: on a busy two-core machine it measures the neighbours.
settings.register_profile("skate", deadline=None, max_examples=100)
settings.load_profile("skate")


@pytest.fixture(scope="session", autouse=True)
def skate_temp_dir() -> Iterator[Path]:
    """The folder for all sessions of this test process, so that parallel ones never meet.

    Not pytest's own tmp_path: a unix socket's path may have 107 bytes, and that one is long.
    """
    folder = Path(tempfile.mkdtemp(prefix="skate-test-"))
    before = os.environ.get("SKATE_TEMP_DIR")
    os.environ["SKATE_TEMP_DIR"] = str(folder)
    yield folder
    if before is None:
        del os.environ["SKATE_TEMP_DIR"]
    else:
        os.environ["SKATE_TEMP_DIR"] = before
    shutil.rmtree(folder, ignore_errors=True)


def _engine_is_running() -> bool:
    if "skate.api.session" not in sys.modules:
        return False
    import skate

    return skate.is_initialized()


def _shut_down_engine() -> None:
    if _engine_is_running():
        import skate

        skate.shutdown()


@pytest.fixture(autouse=True)
def engine_is_shut_down() -> Iterator[None]:
    """End the engine that a test started. One that a wider fixture started stays that fixture's."""
    belongs_to_wider_fixture = _engine_is_running()
    yield
    if not belongs_to_wider_fixture:
        _shut_down_engine()


def eventually(condition: Callable[[], object], what: str, timeout_s: float = 10.0) -> None:
    """Return as soon as the condition holds; fail, naming what was awaited, if it never does."""
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > give_up_at:
            pytest.fail(f"not within {timeout_s} s: {what}")
        time.sleep(0.01)


def store_counts() -> tuple[int, int]:
    """(objects, extents of the arena) that this session's node knows at this moment."""
    from skate.client.runtime import current

    runtime = current()
    assert runtime is not None, "no session"
    answer = runtime.ask("store", {})
    return answer["objects"], answer["extents"]


RunProgram = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run_program(tmp_path: Path) -> RunProgram:
    """Run a driver program as a user does: a script in a folder of its own, a fresh interpreter."""

    def run(
        source: str, *, environ: dict[str, str] | None = None, timeout_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        script = tmp_path / "program.py"
        script.write_text(textwrap.dedent(source))
        sources = str(Path(__file__).resolve().parent.parent / "src")
        return subprocess.run(
            [sys.executable, str(script)],
            env={**os.environ, "PYTHONPATH": sources, **(environ or {})},
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    return run


class Leftovers:
    """What is left of a session: its processes, its shared-memory files, its sockets."""

    def __init__(self, temp_dir: Path) -> None:
        self._temp_dir = temp_dir
        self.watched: list[str] = []

    def watch(self, session_name: str | None = None) -> str:
        """Check this session when the test ends; None means the one this process is in now."""
        if session_name is None:
            import skate

            session_name = skate.get_runtime_context().get_session_name()
        assert session_name, "a session without a name would match anything"
        self.watched.append(session_name)
        return session_name

    def assert_gone(self, session_name: str) -> None:
        """Fail unless everything of the session is gone within LEFTOVERS_GONE_WITHIN_S."""
        give_up_at = time.monotonic() + LEFTOVERS_GONE_WITHIN_S
        while left := self.find(session_name):
            if time.monotonic() > give_up_at:
                listing = "\n  ".join(left)
                pytest.fail(
                    f"{LEFTOVERS_GONE_WITHIN_S} s after the end of {session_name}:\n  {listing}"
                )
            time.sleep(0.02)

    def find(self, session_name: str) -> list[str]:
        """One line for each thing of the session that exists at this moment."""
        return [
            *self._processes(session_name),
            *self._shared_memory(session_name),
            *self._sockets(session_name),
        ]

    def _processes(self, session_name: str) -> Iterator[str]:
        for process in psutil.process_iter():
            if process.pid == os.getpid():
                continue
            try:
                command = " ".join(process.cmdline())
                its_session = process.environ().get("SKATE_SESSION")
                if session_name == its_session or session_name in command:
                    yield f"process {process.pid} ({process.status()}): {command[:120]}"
            except psutil.Error:
                continue  # gone meanwhile, a zombie, or another user's

    def _shared_memory(self, session_name: str) -> Iterator[str]:
        for file in Path("/dev/shm").glob("*"):
            if session_name in file.name:
                yield f"shared memory {file}"

    def _sockets(self, session_name: str) -> Iterator[str]:
        # os.walk and not rglob: the folder may vanish under our eyes, and should.
        paths = (Path(f, name) for f, _, names in os.walk(self._temp_dir) for name in names)
        files = (str(path) for path in paths if path.is_socket())
        bound = (str(socket.laddr) for socket in psutil.net_connections(kind="unix"))
        for path in sorted({*files, *bound}):
            if session_name in path:
                yield f"socket {path}"


@pytest.fixture
def no_leftovers(skate_temp_dir: Path) -> Iterator[Leftovers]:
    """Call `no_leftovers.watch()` after init(): the test fails if that session leaves anything.

    The name of another process's session is an argument of `watch`. To check in the middle of a
    test, say after a `kill -9`, call `assert_gone(name)`.
    """
    leftovers = Leftovers(skate_temp_dir)
    yield leftovers
    if leftovers.watched:
        _shut_down_engine()
    for session_name in leftovers.watched:
        leftovers.assert_gone(session_name)
