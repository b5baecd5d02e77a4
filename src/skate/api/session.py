"""init, shutdown, is_initialized: a driver's session and the daemons that it starts.

``init()`` binds both sockets itself, hands them to a GCS and a node daemon as it starts them, and
connects at once: nobody polls for anybody. The daemons end on the EOF of a pipe that only this
process holds, so they end however it ends. When one of them dies, the session ends: the courier
notices within a tenth of a second, says what died and where its log is, and leaves nothing behind.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from skate import config
from skate import messages as m
from skate.api import machine
from skate.api.driver_log import DriverLog
from skate.api.session_folder import SessionFolder
from skate.errors import LocalNodeDiedError, RuntimeClosedError, SystemFailureError
from skate.spec import JobConfig
from skate.worker import runtime as runtime_module
from skate.worker.connection import Connection
from skate.worker.runtime import Runtime

_lock = threading.RLock()
_session: Session | None = None

# Ray's parameters that have no effect here, or none yet that a program would notice.
_ACCEPTED = frozenset(
    {
        "include_dashboard", "dashboard_host", "dashboard_port", "configure_logging",
        "logging_level", "logging_format", "logging_config", "job_config", "_temp_dir",
        "_node_ip_address", "_system_config", "_metrics_export_port", "_memory", "_node_name",
        "_plasma_directory", "_driver_object_store_memory", "_enable_object_reconstruction",
        "enable_resource_isolation", "_skip_env_hook", "allow_multiple",
    }
)  # fmt: skip
_NOT_YET = frozenset(
    {
        "runtime_env", "object_spilling_directory", "cgroup_path", "system_reserved_cpu",
        "system_reserved_memory", "proxy_server_url", "_tracing_startup_hook", "_redis_username",
        "_redis_password",
    }
)  # fmt: skip


class SkateContext:
    """What ``init()`` returns; as a context manager it shuts down at its end."""

    def __init__(self, session: Session) -> None:
        from skate import __version__

        self.dashboard_url = ""
        self.python_version = ".".join(map(str, sys.version_info[:3]))
        self.ray_version = self.skate_version = __version__
        self.ray_commit = ""
        runtime = session.runtime
        self.address_info = {
            "node_ip_address": session.address,
            "address": str(session.folder.path),
            "gcs_address": str(session.folder.path / "gcs.sock"),
            "session_dir": str(session.folder.path),
            "object_store_address": runtime.mapping.path,
            "raylet_socket_name": str(session.folder.path / "node.sock"),
            "webui_url": "",
            "node_id": runtime.node_id.hex(),
        }

    def __getitem__(self, key: str) -> Any:
        return self.address_info[key]

    def __enter__(self) -> SkateContext:
        return self

    def __exit__(self, *_: object) -> None:
        shutdown()

    def disconnect(self) -> None:
        """The same as ``shutdown()``."""
        shutdown()

    def __repr__(self) -> str:
        return f"SkateContext({self.address_info['session_dir']})"


class Session:
    """A local session: its daemons, its connection, its end."""

    def __init__(self, job: JobConfig, resources: dict[str, int], store_bytes: int,
                 labels: dict[str, str]) -> None:  # fmt: skip
        self.pid = os.getpid()
        self.address = "127.0.0.1"
        self.folder = SessionFolder()
        self.ended = False
        self.end_reason = ""
        self._end_lock = threading.Lock()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._lifelines: list[int] = []
        self.log = DriverLog()
        try:
            self._start_daemons(resources, store_bytes, labels)
            self.connection = self._connect()
            self.runtime = self._join(job)
        except BaseException:
            self._stop_daemons()
            self.folder.close()
            raise

    # ------------------------------------------------------------------ start

    def _start_daemons(
        self, resources: dict[str, int], store_bytes: int, labels: dict[str, str]
    ) -> None:
        path = self.folder.path
        node_id = os.urandom(16).hex()
        gcs_socket, node_socket = str(path / "gcs.sock"), str(path / "node.sock")
        gcs_listener, node_listener = _listen(gcs_socket), _listen(node_socket)
        with gcs_listener, node_listener:
            self._spawn(
                "node",
                node_listener.fileno(),
                lambda lifeline: [
                    "--config",
                    json.dumps(
                        {
                            "session_dir": str(path),
                            "session": self.folder.name,
                            "node_id": node_id,
                            "listen_fd": node_listener.fileno(),
                            "gcs_socket": gcs_socket,
                            "lifeline_fd": lifeline,
                            "resources": resources,
                            "object_store_bytes": store_bytes,
                            "labels": labels,
                            "address": self.address,
                        }
                    ),
                ],
            )
            self._spawn(
                "gcs",
                gcs_listener.fileno(),
                lambda lifeline: [
                    "--session-dir", str(path), "--listen-fd", str(gcs_listener.fileno()),
                    "--lifeline-fd", str(lifeline), "--local",
                ],
            )  # fmt: skip
        self.folder.write_description(
            session=self.folder.name,
            driver_pid=self.pid,
            node_pid=self._processes["node"].pid,
            gcs_pid=self._processes["gcs"].pid,
            node_socket=node_socket,
            started=time.time(),
        )

    def _spawn(self, role: str, listen_fd: int, arguments: Any) -> None:
        read_end, write_end = os.pipe()
        environ = dict(os.environ, SKATE_SESSION=self.folder.name, PYTHONUNBUFFERED="1")
        # The daemons import this very skate, however the driver found it.
        package = str(Path(__file__).resolve().parents[2])
        environ["PYTHONPATH"] = os.pathsep.join(
            part for part in (package, os.environ.get("PYTHONPATH", "")) if part
        )
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        out = os.open(self.folder.logs / f"{role}.out", flags, 0o600)
        err = os.open(self.folder.logs / f"{role}.err", flags, 0o600)
        try:
            self._processes[role] = subprocess.Popen(
                [sys.executable, "-m", "skate", role, *arguments(read_end)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                pass_fds=(listen_fd, read_end),
                env=environ,
                cwd="/",
                start_new_session=True,  # the terminal's Ctrl-C is for the driver alone
            )
        finally:
            os.close(out)
            os.close(err)
            os.close(read_end)
        self._lifelines.append(write_end)

    def _connect(self) -> Connection:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self.folder.path / "node.sock"))
        return Connection(sock)

    def _join(self, job: JobConfig) -> Runtime:
        connection = self.connection
        welcomes: list[m.Welcome] = []
        refusals: list[m.Refused] = []
        connection.handlers.update(
            {
                m.Welcome: welcomes.append,
                m.Refused: refusals.append,
                m.LogLines: self.log.on_lines,
                m.Notice: self.log.on_notice,
                m.SessionEnds: self._on_session_ends,
            }
        )
        connection.append(
            m.Hello(config.PROTOCOL_VERSION, config.PYTHON, "driver", self.pid, job=job)
        )
        deadline = time.monotonic() + config.START_TIMEOUT_S
        while not connection.wait_for(lambda: welcomes or refusals, 0.05):
            self._check_started(deadline)
        if refusals:
            raise SystemFailureError(f"the node refused this driver: {refusals[0].reason}")
        welcome = welcomes[0]
        runtime = Runtime(
            connection,
            job_id=welcome.job_id,
            node_id=welcome.node_id,
            submitter=welcome.submitter,
            session=welcome.session,
            arena_path=welcome.arena_path,
            arena_bytes=welcome.arena_bytes,
            namespace=welcome.namespace,
            is_driver=True,
        )
        connection.on_lost = self._on_lost
        connection.raise_closed = self._raise_closed  # type: ignore[method-assign]
        connection.on_tick = self.log.tick
        connection.start_courier(config.COURIER_TICK_S)
        return runtime

    def _check_started(self, deadline: float) -> None:
        for role, process in self._processes.items():
            if process.poll() is not None:
                raise SystemFailureError(
                    f"the {role} daemon ended while it started: {_how(process.returncode)}\n"
                    + self._log_tail(role)
                )
        if time.monotonic() > deadline:
            raise SystemFailureError(
                f"the node daemon did not answer within {config.START_TIMEOUT_S:.0f} s\n"
                + self._log_tail("node")
            )

    def _log_tail(self, role: str) -> str:
        path = self.folder.logs / f"{role}.err"
        with contextlib.suppress(OSError):
            lines = path.read_text(errors="replace").splitlines()[-15:]
            return f"Its log, {path}, ends with:\n    " + "\n    ".join(lines)
        return f"Its log: {path}"

    # ------------------------------------------------------------------ the end

    def _on_session_ends(self, message: m.SessionEnds) -> None:
        self.end_reason = message.reason

    def _on_lost(self, reason: str) -> None:
        # Called by whichever thread reads, under the reader's lock: the work is another thread's.
        threading.Thread(target=self._end_badly, name="skate-end", daemon=True).start()

    def _end_badly(self) -> None:
        """A daemon died: say so, and leave nothing behind."""
        self._describe_end()
        print(f"skate: {self.end_reason}", file=sys.stderr, flush=True)
        self.end()

    def _describe_end(self) -> None:
        with self._end_lock:
            if self.end_reason.endswith("."):
                return
            deadline = time.monotonic() + 0.5
            dead: dict[str, int] = {}
            while not dead and time.monotonic() < deadline:
                dead = {
                    role: process.returncode
                    for role, process in self._processes.items()
                    if process.poll() is not None
                }
                if not dead:
                    time.sleep(0.005)
            role = "gcs" if "gcs" in dead and dead["gcs"] != 0 else "node"
            how = f" ({_how(dead[role])})" if role in dead else ""
            name = {"gcs": "The GCS process", "node": "The node daemon"}[role]
            why = f" It said: {self.end_reason}." if self.end_reason and role == "node" else ""
            self.end_reason = (
                f"{name} of this session died{how}.{why} The session is over: its tasks, actors "
                f"and objects are gone. Its log: {self.folder.logs / (role + '.err')}."
            )

    def _raise_closed(self) -> None:
        if self.connection.closed == "shutdown":
            raise RuntimeClosedError("skate was shut down: call init() again")
        if self.connection.closed.startswith("this process was forked"):
            raise RuntimeClosedError(self.connection.closed)
        self._describe_end()
        raise LocalNodeDiedError(self.end_reason)

    def shutdown(self) -> None:
        """End in good order: last prints first."""
        if not self.connection.closed:
            with contextlib.suppress(Exception):
                self.runtime.ask("flush_logs", {}, 1.0)
            with contextlib.suppress(Exception):
                self.connection.append(m.Leaving("shutdown"))
                self.connection.flush()
        self.end()

    def end(self) -> None:
        """Close, stop the daemons, remove files. Any thread, any number of times."""
        with self._end_lock:
            if self.ended:
                return
            self.ended = True
        self.connection.close("shutdown")
        self._stop_daemons()
        self.runtime.mapping.close()
        self.folder.close()
        self.log.finish()

    def _stop_daemons(self) -> None:
        for fd in self._lifelines:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._lifelines.clear()
        deadline = time.monotonic() + config.STOP_TIMEOUT_S
        for role, process in self._processes.items():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if role == "node" and process.returncode != 0:
                _kill_session(self.folder.name)

    def abandon_in_child(self) -> None:
        """After a fork: the parent's daemons live by the parent's pipe ends alone."""
        for fd in self._lifelines:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._lifelines.clear()


def _listen(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.bind(path)
    except OSError as error:
        sock.close()
        if len(path) > 100:
            raise OSError(
                f"the path of a session's socket may have about 100 characters, {path} has "
                f"{len(path)}: set SKATE_TEMP_DIR to a shorter folder"
            ) from error
        raise
    sock.listen(128)
    return sock


def _how(status: int) -> str:
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"killed by signal {-status}, {signal.Signals(-status).name}"
        return f"killed by signal {-status}"
    return f"exit code {status}"


def _kill_session(name: str) -> None:
    """SIGKILL to whatever carries this session's name in its environment."""
    marker = b"SKATE_SESSION=" + name.encode()
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with contextlib.suppress(OSError), open(f"/proc/{entry}/environ", "rb") as file:
            if marker in file.read().split(b"\0"):
                os.kill(int(entry), signal.SIGKILL)


# ---------------------------------------------------------------------------- public functions


def init(
    address: str | None = None,
    *,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    resources: dict[str, float] | None = None,
    labels: dict[str, str] | None = None,
    object_store_memory: float | None = None,
    local_mode: bool = False,
    ignore_reinit_error: bool = False,
    namespace: str | None = None,
    log_to_driver: bool | None = None,
    **others: Any,
) -> SkateContext:
    """Start skate on this machine and connect to it.

    ``num_cpus``, ``num_gpus``: what tasks may use (default: what the machine has; fractions are
    fine). ``resources``: custom ones, name to amount. ``object_store_memory``: bytes (default 30 %
    of the memory, at least 75 MiB). ``namespace``: where named actors are looked up (default: one
    of its own). ``log_to_driver``: whether prints of tasks appear here (default True).
    Raises RuntimeError on a second call, unless ``ignore_reinit_error``. Ray: ``ray.init``.
    """
    global _session
    with _lock:
        if is_initialized():
            if ignore_reinit_error:
                assert _session is not None
                return SkateContext(_session)
            raise RuntimeError(
                "skate.init() was called twice. Call shutdown() first, or pass "
                "ignore_reinit_error=True."
            )
        if runtime_module.current() is not None:
            raise RuntimeError("init() cannot be called inside a task or actor: it is connected")
        _check_others(local_mode, others)
        _check_address(address)
        _check_strings(resources, labels, namespace)
        _forget_ended()
        store = machine.store_bytes(object_store_memory)
        total = machine.node_resources(num_cpus, num_gpus, resources, store, "127.0.0.1")
        job = _job_config(namespace, log_to_driver)
        _session = Session(job, total, store, dict(labels or {}))
        runtime_module.set_current(_session.runtime)
        return SkateContext(_session)


def _check_others(local_mode: bool, others: dict[str, Any]) -> None:
    if local_mode:
        raise RuntimeError(
            "local_mode is not supported (Ray has removed it as well). Use num_cpus=1 and a "
            "debugger in the function called directly."
        )
    for name, value in others.items():
        if name in _NOT_YET:
            if value:
                raise NotImplementedError(f"init({name}=...) is not supported yet")
        elif name not in _ACCEPTED:
            raise RuntimeError(f"Unknown keyword argument(s) for init(): {name}")


def _check_address(address: str | None) -> None:
    source = "init(address=...)"
    if address is None:
        for variable in ("SKATE_ADDRESS", "RAY_ADDRESS"):
            if os.environ.get(variable):
                address, source = os.environ[variable], variable
                break
    if address is not None and not isinstance(address, str):
        raise TypeError(f"address has to be a string, not {address!r}")
    if address in (None, "", "local"):
        return
    if address == "auto":
        raise ConnectionError(
            f"Could not find a running skate cluster ({source} is 'auto'): this version of skate "
            "runs on one machine, which init() without an address starts."
        )
    raise NotImplementedError(
        f"{source} is {address!r}: joining a cluster is not supported yet; this version of skate "
        "runs on one machine, which init() without an address starts."
    )


def _check_strings(resources: Any, labels: Any, namespace: Any) -> None:
    if resources is not None and not isinstance(resources, dict):
        raise TypeError(f"resources has to be a dict of name to amount, not {resources!r}")
    if labels is not None and not (
        isinstance(labels, dict)
        and all(isinstance(x, str) for pair in labels.items() for x in pair)
    ):
        raise TypeError(f"labels has to be a dict of strings to strings, not {labels!r}")
    if namespace is not None and not (isinstance(namespace, str) and namespace):
        raise ValueError(f"namespace has to be a string that is not empty, not {namespace!r}")


def _job_config(namespace: str | None, log_to_driver: bool | None) -> JobConfig:
    if log_to_driver is None:
        log_to_driver = os.environ.get("RAY_LOG_TO_DRIVER", "1") != "0"
    main = sys.modules.get("__main__")
    main_file = getattr(main, "__file__", None) or ""
    path = [os.path.abspath(part) for part in sys.path]
    if not main_file and os.getcwd() not in path:
        path.insert(0, os.getcwd())
    return JobConfig(
        namespace=namespace or os.urandom(16).hex(),
        environ=dict(os.environ),
        sys_path=path,
        working_dir=os.getcwd(),
        entrypoint=sys.argv[0] if sys.argv else "",
        log_to_driver=log_to_driver,
        main_file=main_file,
    )


def _forget_ended() -> None:
    """A session that ended by itself leaves the place to a new one."""
    global _session
    if _session is not None:
        if _session.pid == os.getpid():
            _session.end()
        _session = None
        runtime_module.set_current(None)


def shutdown(*, wait_for_processes: bool = False, _exiting_interpreter: bool = False) -> None:
    """End the session and all of its processes; nothing is done if there is none."""
    global _session
    with _lock:
        session, _session = _session, None
        if session is None or session.pid != os.getpid():
            return
        runtime_module.set_current(None)
        session.shutdown()


def is_initialized() -> bool:
    """Whether this process is connected."""
    runtime = runtime_module.current()
    return runtime is not None and not runtime.connection.closed


def connected() -> Runtime:
    """The runtime; starts a session if the program has not (Ray: auto-init)."""
    runtime = runtime_module.current()
    if runtime is not None:
        return runtime
    if os.environ.get("RAY_ENABLE_AUTO_CONNECT", "1") == "0":
        raise RuntimeClosedError("skate is not started: call init() first")
    init()
    runtime = runtime_module.current()
    assert runtime is not None
    return runtime


def current_session() -> Session | None:
    """The session that this driver started."""
    return _session


def _after_fork() -> None:
    global _session, _lock
    _lock = threading.RLock()
    if _session is not None:
        _session.abandon_in_child()
        _session = None


atexit.register(shutdown)
os.register_at_fork(after_in_child=_after_fork)
