"""The GCS and the node daemon of a local session, as the driver that started them sees them.

The session (its only caller) starts them with listening sockets that it bound itself, asks what
became of them when the connection breaks, and stops them. They end on the EOF of a pipe that only
this process holds, so they end however it ends.

Invariants: after ``stop`` no process of the session is left; nothing of the driver but its
interpreter, its flags and its environment reaches the daemons: no folder of modules of its own,
which might shadow one of the standard library.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from skate import config
from skate.api.session_folder import SessionFolder
from skate.errors import SystemFailureError
from skate.net import unix_socket
from skate.node.exit_status import describe_status
from skate.node.leftovers import kill_session

DEATH_NOTICED_WITHIN_S = 0.5
"""After the connection broke, how long to wait for the exit status that tells why."""

LOG_LINES_QUOTED = 15
"""Of a daemon that did not start, in the error: enough for a traceback."""

_NAMES = {"node": "the node daemon", "gcs": "the GCS"}
_NEEDED = ("skate", "msgspec", "uvloop", "cloudpickle")


class Daemons:
    """See the module's docstring."""

    def __init__(self, folder: SessionFolder) -> None:
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._lifelines: list[int] = []
        self.gcs_socket = str(folder.path / "gcs.sock")
        self.node_socket = str(folder.path / "node.sock")

    # ------------------------------------------------------------------ start

    def start(
        self, resources: dict[str, int], store_bytes: int, labels: dict[str, str], address: str
    ) -> None:
        """Bind the sockets and start both; OSError if that cannot be."""
        folder = self._folder
        gcs_listener = unix_socket.listen(self.gcs_socket)
        node_listener = unix_socket.listen(self.node_socket)
        with gcs_listener, node_listener:
            node_config = {
                "session_dir": str(folder.path),
                "session": folder.name,
                "node_id": os.urandom(16).hex(),
                "listen_fd": node_listener.fileno(),
                "gcs_socket": self.gcs_socket,
                "resources": resources,
                "object_store_bytes": store_bytes,
                "labels": labels,
                "address": address,
            }
            self._spawn(
                "node",
                node_listener.fileno(),
                lambda lifeline: [
                    "--config", json.dumps({**node_config, "lifeline_fd": lifeline})
                ],
            )  # fmt: skip
            self._spawn(
                "gcs",
                gcs_listener.fileno(),
                lambda lifeline: [
                    "--session-dir", str(folder.path),
                    "--listen-fd", str(gcs_listener.fileno()),
                    "--lifeline-fd", str(lifeline),
                    "--local",
                ],
            )  # fmt: skip
        folder.write_description(
            session=folder.name,
            driver_pid=os.getpid(),
            node_pid=self._processes["node"].pid,
            gcs_pid=self._processes["gcs"].pid,
            node_socket=self.node_socket,
            started=time.time(),
        )

    def _spawn(self, role: str, listen_fd: int, arguments: Callable[[int], list[str]]) -> None:
        read_end, write_end = os.pipe()
        self._lifelines.append(write_end)
        logs = self._folder.logs
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        out = os.open(logs / f"{role}.out", flags, 0o600)
        err = os.open(logs / f"{role}.err", flags, 0o600)
        try:
            self._processes[role] = subprocess.Popen(
                [*_interpreter(), role, *arguments(read_end)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                pass_fds=(listen_fd, read_end),
                env=_environment(self._folder.name),
                cwd="/",
                start_new_session=True,  # the terminal's Ctrl-C is for the driver alone
            )
        finally:
            os.close(out)
            os.close(err)
            os.close(read_end)

    def check_started(self, deadline: float) -> None:
        """While they start: SystemFailureError, with its log, if one has died or takes too long."""
        for role, process in self._processes.items():
            if process.poll() is not None:
                raise SystemFailureError(
                    f"{_NAMES[role]} ended while it started: {_how(process.returncode)}\n"
                    + self._log_tail(role)
                )
        if time.monotonic() > deadline:
            raise SystemFailureError(
                f"the node daemon did not answer within {config.START_TIMEOUT_S:.0f} s\n"
                + self._log_tail("node")
            )

    def await_death(self) -> None:
        """The connection has broken while they start: let the exit status arrive."""
        self._wait_dead("")

    def _log_tail(self, role: str) -> str:
        path = self._log_path(role)
        with contextlib.suppress(OSError):
            lines = path.read_text(errors="replace").splitlines()[-LOG_LINES_QUOTED:]
            return f"Its log, {path}, ends with:\n    " + "\n    ".join(lines)
        return f"Its log: {path}"

    def _log_path(self, role: str) -> Path:
        return self._folder.logs / f"{role}.err"

    # ------------------------------------------------------------------ the end

    def obituary(self, said: str) -> str:
        """What has died, how, and where its log is. ``said`` is what the node told at its end."""
        dead = self._wait_dead(said)
        culprits = [role for role, status in dead.items() if status]
        if not culprits and "gcs" in dead:
            culprits = ["gcs"]
        if culprits:
            what = "; ".join(
                f"{_NAMES[role]} (pid {self._processes[role].pid}) died: {_how(dead[role])}"
                for role in culprits
            )
        else:
            what = said or "the node daemon has closed the connection to this program"
        path = self._log_path("gcs" if culprits == ["gcs"] else "node")
        return (
            f"{what[0].upper()}{what[1:]}. The session is over: its tasks, actors and objects are "
            f"gone. Its log: {path}"
        )

    def _wait_dead(self, said: str) -> dict[str, int]:
        """The exit statuses, once there is one that explains the end."""
        deadline = time.monotonic() + DEATH_NOTICED_WITHIN_S
        while True:
            statuses = {role: process.poll() for role, process in self._processes.items()}
            dead = {role: status for role, status in statuses.items() if status is not None}
            if any(dead.values()) or (said and "node" in dead) or time.monotonic() > deadline:
                return dead
            time.sleep(0.005)

    def stop(self, deadline: float) -> None:
        """End both and all of their processes: by themselves until the deadline, then by force."""
        self.abandon()
        for process in self._processes.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if any(process.returncode for process in self._processes.values()):
            kill_session(self._folder.name)

    def abandon(self) -> None:
        """Let go of the pipes: the daemons end once no other process holds them."""
        while self._lifelines:
            with contextlib.suppress(OSError):
                os.close(self._lifelines.pop())


def _interpreter() -> list[str]:
    """The driver's interpreter and its flags, about to run this very skate."""
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    # -P: neither the folder of what it runs nor the current one becomes a place of modules.
    return [sys.executable, *flags, "-P", str(Path(__file__).resolve().parents[1] / "__main__.py")]


def _environment(session: str) -> dict[str, str]:
    """The driver's, but for its modules: those that skate needs are named one by one."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    folders: dict[str, None] = {}
    for name in _NEEDED:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            origin = Path(spec.origin).resolve()
            is_package = spec.submodule_search_locations is not None
            folders[str(origin.parents[1 if is_package else 0])] = None
    environ.update(
        SKATE_SESSION=session, SKATE_PATH=os.pathsep.join(folders), PYTHONUNBUFFERED="1"
    )
    return environ


def _how(status: int) -> str:
    if status < 0:
        return describe_status(status)
    if status == 0:
        return "it was asked to end (SIGTERM)"
    return f"exit code {status}"
