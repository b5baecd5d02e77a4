"""The node daemon of a session, and its GCS if that is here, for the process that started them.

A driver's own session, `skate start`, `symmetric-run` and `cluster_utils` start them through
``Daemons``, with listening sockets that are bound first, so that errors are immediate. When the
connection breaks, the session asks how they ended, and stops them. ``JoinedNode`` is the same for a
driver that found a node running: it starts and stops nothing.

Ends: the node ends on the EOF of a pipe, its lifeline, that only its starter holds; a detached node
has none and ends on SIGTERM, or with its GCS. The GCS of a driver's own session has such a lifeline
too; the lifeline of a cluster's GCS is held by the head's node, so it ends with that node.

Invariants: after ``stop`` no process of the session is left; only the interpreter, its flags and
the environment of the starter reach the daemons: no folder of its modules, which might shadow the
standard library, and no cluster token.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec

from skate import config
from skate.errors import SystemFailureError
from skate.launch.child import Child
from skate.launch.head_start import NodeProcess, start_daemon, start_node
from skate.launch.session_folder import (
    BY_INIT,
    Description,
    LiveSession,
    SessionFolder,
    read_description,
)
from skate.net import unix_socket
from skate.node.exit_status import describe_status
from skate.node.shell.leftovers import kill_session, marked
from skate.node.shell.node_config import NodeConfig

DEATH_NOTICED_WITHIN_S = 0.5
"""After the connection broke, how long to wait for the exit status that tells why."""

LOG_LINES_QUOTED = 15
"""Of a daemon that did not start, in the error: enough for a traceback."""

_NAMES = {"node": "the node daemon", "gcs": "the GCS"}


class NodeHost(Protocol):
    """A node, as the session of a driver that is connected to it sees it."""

    path: Path  # the session's folder
    node_socket: str
    description: Description  # the content of session.json

    def connect(self) -> socket.socket:
        """A connection for the driver. OSError if nobody listens."""

    def check_started(self, deadline: float) -> None:
        """Raise an error if the node cannot answer, or if the deadline is over."""

    def welcomed(self) -> None:
        """The node has let the driver in."""

    def await_death(self) -> None:
        """The connection has broken: wait until the reason can be known."""

    def node_ends(self) -> None:
        """The node has told that it ends."""

    def obituary(self, said: str) -> str:
        """The daemons that died, and how. ``said`` is the node's own reason at its end."""

    def stop(self, deadline: float) -> None:
        """The session is over."""

    def abandon(self) -> None:
        """The session is over, and there is no time left."""

    def abandon_in_child(self) -> None:
        """This process is a fork of the one whose session it is."""


@dataclass(frozen=True)
class NodeSettings:
    """A node's start settings. ``host`` is this machine as other nodes know it."""

    resources: dict[str, int]
    store_bytes: int
    host: str
    labels: dict[str, str] = field(default_factory=dict)
    head_address: str = ""
    token_file: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    tls_ca: str = ""
    driver_kept_s: float = config.DRIVER_KEPT_S
    head_silent_s: float = config.HEAD_SILENT_S


class Daemons:
    """See the module's docstring. ``detached``: they outlive this process."""

    def __init__(
        self,
        folder: SessionFolder,
        *,
        started_by: str = BY_INIT,
        detached: bool = False,
        node: NodeProcess | None = None,
    ) -> None:
        self._folder = folder
        self._started_by = started_by
        self._detached = detached
        self._processes: dict[str, Child] = {}
        self._node = node  # if its process runs already
        if node is not None:
            self._processes["node"] = Child(node.pid)
        self._lifelines: list[int] = []
        self._gcs_listener: socket.socket | None = None  # until the GCS has it
        self.path = folder.path
        self.gcs_socket = str(folder.path / "gcs.sock")
        self.node_socket = str(folder.path / "node.sock")
        self.description = Description(self.node_socket, folder.name)

    # ------------------------------------------------------------------ start

    def start(self, settings: NodeSettings, tcp: socket.socket | None = None) -> None:
        """Bind the unix sockets and start this session's daemons; OSError if that fails.

        ``tcp`` listens for the rest of a cluster; without it the session is its driver's alone, and
        its GCS starts once the node has welcomed that (``welcomed``).
        """
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(unix_socket.listen(self.node_socket))
            cfg = self._node_config(settings, listener, tcp)
            if self._detached:
                cfg.held_fds.append(self._folder.lock)
            else:
                cfg.lifeline_fd = self._lifeline(stack)
            gcs_lifeline = -1
            if not settings.head_address:
                self._gcs_listener = unix_socket.listen(self.gcs_socket)
                if tcp is not None:
                    gcs_lifeline = _held_by_node(cfg, stack)
            self._tell_node(cfg)
            self.description = Description(
                self.node_socket,
                session=self._folder.name,
                started_by=self._started_by,
                driver_pid=0 if self._detached else os.getpid(),
                node_pid=self._processes["node"].pid,
                node_id=cfg.node_id,
                host=settings.host,
                address="" if tcp is None else cfg.address,
                head_address=cfg.head_address,
                token_file=cfg.token_file,
                started=time.time(),
            )
            if tcp is not None:
                self._start_gcs(gcs_lifeline)
                self._folder.write_description(self.description)

    def _tell_node(self, cfg: NodeConfig) -> None:
        """Start the node's process, if need be, and send it its configuration."""
        node = self._node
        if node is None:
            node = start_node(self._folder.name, str(self._folder.logs))
            self._processes["node"] = Child(node.pid)
        self._node = None
        # A process that has died by now is noticed later.
        with socket.socket(fileno=node.line) as line, contextlib.suppress(BrokenPipeError):
            socket.send_fds(line, [msgspec.json.encode(cfg)], cfg.inherited_fds())

    def welcomed(self) -> None:
        """The node has let the driver in: start the GCS, which its first task can do without."""
        with contextlib.ExitStack() as stack:
            self._start_gcs(self._lifeline(stack), "--local")
        self._folder.write_description(self.description)

    def _start_gcs(self, lifeline: int, *flags: str) -> None:
        listener, self._gcs_listener = self._gcs_listener, None
        if listener is None:
            return  # the GCS is on another machine
        with listener:
            fd = listener.fileno()
            arguments = [
                "--session-dir", str(self.path),
                "--listen-fd", str(fd),
                "--lifeline-fd", str(lifeline),
                "--parent", str(os.getpid()),
                *flags,
            ]  # fmt: skip
            for inherited in (fd, lifeline):
                os.set_inheritable(inherited, True)
            self._processes["gcs"] = Child(
                start_daemon("gcs", self._folder.name, str(self._folder.logs), arguments)
            )
            os.set_inheritable(lifeline, False)
        self.description.gcs_pid = self._processes["gcs"].pid

    def _node_config(
        self, settings: NodeSettings, listener: socket.socket, tcp: socket.socket | None
    ) -> NodeConfig:
        return NodeConfig(
            session_dir=str(self.path),
            session=self._folder.name,
            node_id=os.urandom(16).hex(),
            listen_fd=listener.fileno(),
            gcs_socket=self.gcs_socket,
            resources=settings.resources,
            object_store_bytes=settings.store_bytes,
            labels=settings.labels,
            address=settings.host if tcp is None else _address(settings.host, tcp),
            local=tcp is None,
            tcp_fd=-1 if tcp is None else tcp.fileno(),
            head_address=settings.head_address,
            token_file=settings.token_file,
            tls_cert=settings.tls_cert,
            tls_key=settings.tls_key,
            tls_ca=settings.tls_ca,
            driver_kept_s=settings.driver_kept_s,
            head_silent_s=settings.head_silent_s,
        )

    def _lifeline(self, stack: contextlib.ExitStack) -> int:
        """The read end of a pipe whose write end only this process has."""
        read_end, write_end = os.pipe()
        self._lifelines.append(write_end)
        stack.callback(os.close, read_end)
        return read_end

    def connect(self) -> socket.socket:
        """A connection for the driver. OSError if nobody listens."""
        return unix_socket.connect(self.node_socket)

    def check_started(self, deadline: float) -> None:
        """At the start: SystemFailureError, with its log, if a daemon died or takes too long."""
        for role, process in self._processes.items():
            if (status := process.poll()) is not None:
                raise SystemFailureError(
                    f"{_NAMES[role]} ended while it started: {_how(status)}\n"
                    + self._log_tail(role)
                )
        if time.monotonic() > deadline:
            raise SystemFailureError(
                f"the node daemon did not answer within {config.START_TIMEOUT_S:.0f} s\n"
                + self._log_tail("node")
            )

    def await_death(self) -> None:
        """The connection has broken at the start: let the exit status arrive."""
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

    def node_ends(self) -> None:
        """Nothing: its exit status tells."""

    def obituary(self, said: str) -> str:
        """The dead daemon, its status and its log. ``said`` is the node's own reason at its end."""
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
        """The exit statuses, once one of them explains the end."""
        deadline = time.monotonic() + DEATH_NOTICED_WITHIN_S
        while True:
            statuses = {role: process.poll() for role, process in self._processes.items()}
            dead = {role: status for role, status in statuses.items() if status is not None}
            if any(dead.values()) or (said and "node" in dead) or time.monotonic() > deadline:
                return dead
            time.sleep(0.005)

    @property
    def pids(self) -> dict[str, int]:
        """The daemons' processes, by role ("node", "gcs"); also of those that have ended."""
        return {role: process.pid for role, process in self._processes.items()}

    def ended(self) -> dict[str, str]:
        """The daemons that have ended, by role, and how."""
        statuses = {role: process.poll() for role, process in self._processes.items()}
        return {role: _how(status) for role, status in statuses.items() if status is not None}

    def kill(self) -> None:
        """SIGKILL to the node daemon: the machine goes down without a word."""
        self._processes["node"].kill()

    def stop(self, deadline: float) -> None:
        """End all and their processes: by themselves until the deadline, then by force."""
        self.abandon()
        if self._node is not None:
            os.close(self._node.line)  # the node ends on EOF instead of a configuration
            self._node = None
        if self._detached:
            for process in self._processes.values():
                process.send(signal.SIGTERM)
        for process in self._processes.values():
            if process.wait(max(0.0, deadline - time.monotonic())) is None:
                process.kill()
                process.wait()
        failed = any(process.returncode for process in self._processes.values())
        if failed or self._detached:  # a signal may have come while one was being started
            kill_session(self._folder.name)
        self._folder.close()

    def abandon(self) -> None:
        """Let go of the pipes: the daemons end once no other process holds them."""
        if self._gcs_listener is not None:
            self._gcs_listener.close()
        while self._lifelines:
            with contextlib.suppress(OSError):
                os.close(self._lifelines.pop())

    def abandon_in_child(self) -> None:
        """After a fork: the parent's daemons live by the parent's pipe ends alone."""
        self.abandon()
        self._folder.unlock()


class JoinedNode:
    """A node that was running, and that goes on when this process leaves it."""

    def __init__(self, session: LiveSession) -> None:
        self.path = session.folder
        self.description = session.description
        self.node_socket = session.description.node_socket

    def connect(self) -> socket.socket:
        """A connection for the driver. OSError if nobody listens."""
        return unix_socket.connect(self.node_socket)

    def check_started(self, deadline: float) -> None:
        """SystemFailureError if the node has not answered by the deadline, or has lost its head."""
        with contextlib.suppress(OSError, ValueError):  # the folder is being swept away
            if headless := read_description(self.path).headless:
                raise SystemFailureError(
                    f"{headless}: call init() again later. Its log: {self._log}"
                )
        if time.monotonic() > deadline:
            raise SystemFailureError(
                f"the node daemon of {self._name} (pid {self.description.node_pid}) did not answer "
                f"within {config.START_TIMEOUT_S:.0f} s. Its log: {self._log}"
            )

    def welcomed(self) -> None:
        """Nothing."""

    def await_death(self) -> None:
        """Nothing: the exit status is for the node's starter."""

    def node_ends(self) -> None:
        """Nothing."""

    def obituary(self, said: str) -> str:
        """The node's end, as far as another process can tell."""
        told = self.description
        deadline = time.monotonic() + DEATH_NOTICED_WITHIN_S
        while is_alive := told.node_pid in marked(told.session):
            if said or time.monotonic() > deadline:
                break
            time.sleep(0.005)
        what = said or (
            f"the node daemon (pid {told.node_pid}) "
            + ("has closed the connection to this program" if is_alive else "died")
        )
        return (
            f"{what[0].upper()}{what[1:]}. This program has lost its place in {self._name}: its "
            f"tasks, actors and objects are gone. The node's log: {self._log}"
        )

    def stop(self, deadline: float) -> None:
        """Nothing: the node is not ours to end."""

    def abandon(self) -> None:
        """Nothing."""

    def abandon_in_child(self) -> None:
        """Nothing."""

    @property
    def _name(self) -> str:
        return f"the cluster at {self.description.cluster_address}"

    @property
    def _log(self) -> Path:
        return self.path / "logs" / "node.err"


def _held_by_node(cfg: NodeConfig, stack: contextlib.ExitStack) -> int:
    """The read end of a pipe whose write end only the node has."""
    read_end, write_end = os.pipe()
    for end in (read_end, write_end):
        stack.callback(os.close, end)
    cfg.held_fds.append(write_end)
    return read_end


def _address(host: str, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _how(status: int) -> str:
    if status < 0:
        return describe_status(status)
    if status == 0:
        return "it was asked to end (SIGTERM)"
    return f"exit code {status}"
