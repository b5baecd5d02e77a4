"""init, shutdown, is_initialized: a driver's session, on daemons of its own or in a cluster.

If there is no cluster to join (launch/joining.py), ``init()`` starts a GCS and a node daemon that
live for this process, on sockets that it has bound itself, and connects at once: nobody polls for
anybody. Else it connects to the node that this machine has in the cluster, and leaves it as it was.
When a daemon of its own, or that node, dies, the session ends: the courier notices within a tenth
of a second, says what died and where its log is, and leaves nothing behind.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from skate import config
from skate import messages as m
from skate.client import runtime as runtime_module
from skate.client.connection import Connection
from skate.client.driver_log import DriverLog
from skate.client.runtime import Runtime
from skate.errors import GetTimeoutError, LocalNodeDiedError, RuntimeClosedError, SystemFailureError
from skate.launch import joining, machine
from skate.launch.daemons import Daemons, JoinedNode, NodeHost, NodeSettings
from skate.launch.head_start import HeadStart
from skate.launch.session_folder import (
    Description,
    LiveSession,
    SessionFolder,
    read_description,
    sessions_root,
)
from skate.spec import JobConfig
from skate.version import __version__

ADDRESS = "127.0.0.1"  # of a node of this process's own: nobody else comes to it

# Modules for the first call: loaded while the node still loads its own.
NEXT_MODULES = ("skate.api.submission", "skate.api.objects", "skate.objects.by_value")

_lock = threading.RLock()
_session: Session | None = None

_TWICE = "skate.init() was called twice. Call shutdown() first, or pass ignore_reinit_error=True."
_INSIDE = (
    "init() cannot be called inside a task or actor: it is connected. In a module that drivers and "
    "workers import, pass ignore_reinit_error=True."
)

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

    def __init__(self, runtime: Runtime, folder: Path, told: Description) -> None:
        self.dashboard_url = ""
        self.python_version = ".".join(map(str, sys.version_info[:3]))
        self.ray_version = self.skate_version = __version__
        self.ray_commit = ""
        self.address_info = {
            "node_ip_address": told.host,
            "address": told.cluster_address or str(folder),
            "gcs_address": told.cluster_address or str(folder / "gcs.sock"),
            "session_dir": str(folder) if folder.name else "",  # "": on another machine
            "object_store_address": runtime.mapping.path,
            "raylet_socket_name": told.node_socket,
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
        info = self.address_info
        return f"SkateContext({info['session_dir'] or info['address']})"


class Session:
    """A driver's session: the node that it is connected to, the connection, its end."""

    def __init__(self, job: JobConfig, host: NodeHost) -> None:
        self.pid = os.getpid()
        self.host = host
        self.ended = False
        self.end_reason = ""  # the node's own reason, then the way it ended
        self._described = False
        self._is_leaving = False  # the node is told so, and will close the line
        self._is_lost = False
        self._is_said = False
        self._describing = threading.Lock()
        self._ending = threading.RLock()
        self.log = DriverLog()
        try:
            self.connection = self._connect()
            self.runtime = self._join(job)
        except BaseException:
            host.stop(time.monotonic() + config.STOP_TIMEOUT_S)
            raise

    # ------------------------------------------------------------------ start

    def _connect(self) -> Connection:
        try:
            return Connection(self.host.connect())
        except OSError:  # no listener: the node has died already
            self.host.await_death()
            self.host.check_started(time.monotonic() + config.START_TIMEOUT_S)
            raise

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
        deadline = time.monotonic() + config.START_TIMEOUT_S
        try:
            connection.append(
                m.Hello(
                    config.PROTOCOL_VERSION,
                    config.PYTHON,
                    "driver",
                    self.pid,
                    job=job,
                    lanes=config.LANES,
                )
            )
            while not connection.wait_for(lambda: welcomes or refusals, 0.05):
                self.host.check_started(deadline)
        except RuntimeClosedError as error:
            self.host.await_death()
            self.host.check_started(deadline)
            raise SystemFailureError(f"the session ended while it started: {error}") from None
        if refusals:
            raise SystemFailureError(f"the node refused this driver: {refusals[0].reason}")
        self.host.welcomed()
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
            lanes_dir=welcome.lanes_dir,
        )
        connection.on_lost = self._on_lost
        connection.raise_closed = self._raise_closed  # type: ignore[method-assign]
        connection.on_tick = self.log.tick
        connection.start_courier(config.COURIER_TICK_S)
        return runtime

    # ------------------------------------------------------------------ the end

    def _on_session_ends(self, message: m.SessionEnds) -> None:
        self.end_reason = message.reason
        self.host.node_ends()

    def _on_lost(self, reason: str) -> None:
        # Called by whichever thread reads, under the reader's lock: the work is another thread's.
        if self._is_leaving:
            return  # no death: the node has heard, before ``end`` has closed our side
        self._is_lost = True
        threading.Thread(target=self._end_badly, name="skate-end", daemon=True).start()

    def _end_badly(self) -> None:
        """A daemon died: say so, and leave nothing behind."""
        self._say_end()
        self.end()

    def _say_end(self) -> None:
        # Once; the program may end, and come by `shutdown`, before the thread has begun.
        self._describe_end()
        with self._describing:
            if self._is_said:
                return
            self._is_said = True
            with contextlib.suppress(OSError, ValueError, AttributeError):
                print(f"skate: {self.end_reason}", file=sys.stderr, flush=True)

    def _describe_end(self) -> None:
        with self._describing:
            if not self._described:
                self.end_reason = self.host.obituary(self.end_reason)
                self._described = True

    def _raise_closed(self) -> None:
        if self._is_leaving or self.connection.closed == "shutdown":
            raise RuntimeClosedError("skate was shut down: call init() again")
        if self.connection.closed.startswith("this process was forked"):
            raise RuntimeClosedError(self.connection.closed)
        self._describe_end()
        if not self.host.node_socket:  # the node is on another machine, and may live
            raise RuntimeClosedError(self.end_reason)
        raise LocalNodeDiedError(self.end_reason)

    def shutdown(self) -> None:
        """End in good order: last prints first."""
        if self._is_lost:
            self._say_end()
        deadline = time.monotonic() + config.STOP_TIMEOUT_S
        if not self.connection.closed:
            with contextlib.suppress(Exception):
                self._await_logs()
                deadline = time.monotonic() + config.STOP_TIMEOUT_S
            self._is_leaving = not self.connection.closed
            with contextlib.suppress(Exception):
                self.connection.append(m.Leaving("shutdown"))
                self.connection.flush()
        self.end(deadline)

    def _await_logs(self) -> None:
        """Until all that tasks have printed is shown, as long as it keeps coming."""
        give_up_at = time.monotonic() + config.LOG_FLUSH_MAX_S
        while True:
            shown = self.log.lines_shown
            try:
                self.runtime.ask("flush_logs", {}, config.STOP_TIMEOUT_S / 2)
                return
            except GetTimeoutError:
                if self.log.lines_shown == shown or time.monotonic() > give_up_at:
                    return

    def end(self, deadline: float | None = None) -> None:
        """Close, stop the daemons, remove files. Any thread, any number of times.

        Once it has returned, it is done: a thread that comes second waits for the first, and after
        an interrupt (Ctrl-C) whoever comes next does the rest.
        """
        with self._ending:
            if self.ended:
                return
            self.connection.close("shutdown")
            self.host.stop(deadline or time.monotonic() + config.STOP_TIMEOUT_S)
            self.runtime.mapping.close()
            self.log.finish()
            self.ended = True

    def context(self) -> SkateContext:
        """What ``init()`` returns."""
        return SkateContext(self.runtime, self.host.path, self.host.description)


# ---------------------------------------------------------------------------- public functions


def start(
    address: str | None,
    of_a_node: dict[str, Any],
    *,
    local_mode: bool,
    ignore_reinit_error: bool,
    namespace: str | None,
    log_to_driver: bool | None,
    others: dict[str, Any],
    begun: HeadStart | None,
) -> SkateContext:
    """``init()``, whose parameters api/start.py explains; ``of_a_node`` are those of a node."""
    global _session
    with _lock:
        runtime = runtime_module.current()
        if runtime is not None and (is_initialized() or not runtime.is_driver):
            if not ignore_reinit_error:
                raise RuntimeError(_TWICE if runtime.is_driver else _INSIDE)
            return _context_of(runtime)
        _check_others(local_mode, others)
        _check_strings(of_a_node["resources"], of_a_node["labels"], namespace)
        wanted = joining.wanted(address)
        of_a_node.update({name: others.get(name) for name in ("_system_config", "_node_name")})
        found = None if wanted.is_remote else joining.find(wanted)
        if found is not None:
            joining.refuse_settings(found, **of_a_node)
        _forget_ended()
        job = _job_config(namespace, log_to_driver)
        _session = Session(job, _host_of(wanted, found, of_a_node, begun))
        runtime_module.set_current(_session.runtime)
        return _session.context()


def _context_of(runtime: Runtime) -> SkateContext:
    if _session is not None:
        return _session.context()
    folder = sessions_root() / runtime.session  # in a worker
    try:
        told = read_description(folder)
    except (OSError, ValueError):
        told = Description(str(folder / "node.sock"))
    return SkateContext(runtime, folder, told)


def _host_of(
    wanted: joining.Wanted,
    found: LiveSession | None,
    of_a_node: dict[str, Any],
    begun: HeadStart | None,
) -> NodeHost:
    """The node to connect to: on another machine, one that was found here, or one of our own."""
    if wanted.is_remote:
        return _connect_remote(wanted, of_a_node)
    if found is not None:
        return JoinedNode(found)
    return _start_daemons(_settings_of(of_a_node), begun)


def _settings_of(given: dict[str, Any]) -> NodeSettings:
    """The settings of a node of this program's own."""
    store = machine.store_bytes(given["object_store_memory"])
    total = machine.node_resources(
        given["num_cpus"], given["num_gpus"], given["resources"], store, ADDRESS
    )
    return NodeSettings(total, store, ADDRESS, dict(given["labels"] or {}))


def _start_daemons(settings: NodeSettings, begun: HeadStart | None) -> Daemons:
    if begun is None:
        daemons = Daemons(SessionFolder())
    else:
        daemons = Daemons(SessionFolder(begun.folder), node=begun.node)
        begun.is_taken = True
    try:
        daemons.start(settings)
        for module in NEXT_MODULES:
            importlib.import_module(module)
    except BaseException:
        daemons.stop(time.monotonic() + config.STOP_TIMEOUT_S)
        raise
    return daemons


def _connect_remote(wanted: joining.Wanted, of_a_node: dict[str, Any]) -> NodeHost:
    """A node on another machine: skate://HOST:PORT."""
    from skate.launch import remote_node

    remote_node.refuse_settings(**of_a_node)
    return remote_node.RemoteNode(wanted.address, wanted.source)


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


def _check_strings(resources: Any, labels: Any, namespace: Any) -> None:
    if resources is not None and not isinstance(resources, dict):
        raise TypeError(f"resources has to be a dict of name to amount, not {resources!r}")
    if labels is not None:
        from skate.api.label_syntax import check_node_labels

        check_node_labels(labels)
    if namespace is not None and not (isinstance(namespace, str) and namespace):
        raise ValueError(f"namespace has to be a string that is not empty, not {namespace!r}")


def _job_config(namespace: str | None, log_to_driver: bool | None) -> JobConfig:
    if log_to_driver is None:
        log_to_driver = os.environ.get("RAY_LOG_TO_DRIVER", "1") != "0"
    main = sys.modules.get("__main__")
    try:
        folder = os.getcwd()
    except FileNotFoundError:  # it was removed under the program
        folder = os.sep
    # Entries that are no folder or archive (markers of import hooks) stay as they are.
    path = [
        os.path.normpath(os.path.join(folder, part)) if os.path.exists(part or ".") else part
        for part in sys.path
    ]
    if not getattr(main, "__file__", None) and folder not in path:
        path.insert(0, folder)
    return JobConfig(
        namespace=namespace or os.urandom(16).hex(),
        environ={name: value for name, value in os.environb.items() if name != b"SKATE_TOKEN"},
        sys_path=[os.fsencode(part) for part in path],
        working_dir=os.fsencode(folder),
        entrypoint=_printable(sys.argv[0]) if sys.argv else "",
        log_to_driver=log_to_driver,
    )


def _printable(text: str) -> str:
    """A name that is not valid Unicode, with its odd bytes escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def _forget_ended() -> None:
    """A session that ended by itself leaves the place to a new one."""
    global _session
    if _session is not None:
        if _session.pid == os.getpid():
            _session.end()  # waits, if another thread is at it
        _session = None
        runtime_module.set_current(None)


def shutdown(*, wait_for_processes: bool = False, _exiting_interpreter: bool = False) -> None:
    """End the session and all of its processes; nothing is done if there is none."""
    global _session
    with _lock:
        session = _session
        if session is None or session.pid != os.getpid():
            return
        runtime_module.set_current(None)
        session.shutdown()
        _session = None  # only now: the next call, or the exit, takes up an interrupted one


def is_initialized() -> bool:
    """Whether this process is connected."""
    runtime = runtime_module.current()
    return runtime is not None and not runtime.connection.closed


def current_session() -> Session | None:
    """The session that this driver is in."""
    return _session


def _after_fork() -> None:
    global _session, _lock
    _lock = threading.RLock()
    if _session is not None:
        _session.host.abandon_in_child()
        _session = None


def _at_exit() -> None:
    try:
        shutdown()
    except KeyboardInterrupt:  # a second Ctrl-C: at once, then; the daemons tidy up by themselves
        if _session is not None:
            _session.host.abandon()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork)
