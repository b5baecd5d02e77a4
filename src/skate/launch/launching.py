"""Starts nodes of a cluster on this machine, and stops them.

Called by `skate start`, `stop` and `symmetric-run` and by ``cluster_utils``. ``launch`` first does
all steps that can fail in this process, so that a user reads one sentence at once: it checks the
token and TLS files, reaches the head, binds the port. Then the daemons start (launch/daemons.py),
and it returns once the node is registered with its GCS.

A detached node outlives this process: a session of its own (setsid), the folder's lock held by the
node daemon, no pipe to end on. It ends by ``stop_sessions``.

Errors: ValueError for settings that cannot be, AuthenticationError for the token, OSError for the
network and files, SystemFailureError for daemons that do not come up; each a sentence for the user.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from skate import config
from skate.api.label_syntax import check_node_labels
from skate.errors import SystemFailureError
from skate.launch import addresses, machine
from skate.launch.daemons import Daemons, NodeSettings
from skate.launch.observer import Observer
from skate.launch.session_folder import (
    BY_START,
    LiveSession,
    SessionFolder,
    described_sessions,
    has_traces,
    sessions_root,
    sweep,
)
from skate.net import cluster_token
from skate.net.dialing import RefusedError, dial
from skate.net.handshake import LineHello
from skate.net.tls import load_tls
from skate.node.shell.leftovers import kill_session, marked, marked_sessions

if TYPE_CHECKING:
    from skate.net.tls import Tls

HEAD_PORT = 6379
"""Of a head, unless another is asked for; Ray's."""

LOOK_AGAIN_S = 0.02
"""Between looks at daemons that start or end."""

LET_GO_WITHIN_S = 0.5
"""After a SIGKILL, until the kernel has closed what the process had open."""

REGISTERED_ASKED_EVERY_S = 0.25
"""How long a node that starts has for one answer before its processes are looked at again."""


@dataclass(frozen=True)
class NodeRequest:
    """A user's request, by the options of `skate start`; None is the default."""

    head_address: str = ""  # HOST:PORT of the head to join; "" to be the head
    port: int = 0  # 0: any that is free
    ip: str = ""  # this machine's, to listen on and to tell others; "": all, and the default one
    host: str = ""  # to tell others, while listening on all
    num_cpus: float | None = None
    num_gpus: float | None = None
    resources: dict[str, float] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    object_store_memory: float | None = None
    token_file: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_ca: str | None = None
    driver_kept_s: float = config.DRIVER_KEPT_S  # a remote driver may be cut off for this long
    head_silent_s: float = config.HEAD_SILENT_S  # the head may be silent for this long
    wait_s: float = 0.0  # for a head that does not listen yet


def launch(
    request: NodeRequest, *, started_by: str = BY_START, detached: bool = False, wait: bool = True
) -> Daemons:
    """Start a node, and the GCS if it is the head; with ``wait`` return once it is registered."""
    check_node_labels(request.labels)
    store_bytes = machine.store_bytes(request.object_store_memory)
    _resources(request, store_bytes, "127.0.0.1")  # wrong resources are reported first
    tls = load_tls(request.tls_cert, request.tls_key, request.tls_ca)
    folder = SessionFolder()
    daemons = Daemons(folder, started_by=started_by, detached=detached)
    try:
        token_file = cluster_token.token_file(
            sessions_root(), request.token_file, not request.head_address, folder.path / "token"
        )
        host = request.ip or request.host
        if request.head_address:
            token = cluster_token.read_token(token_file)
            own_ip = reach_head(request.head_address, token, tls, request.wait_s)
            host = host or own_ip
        host = host or addresses.default_ip()
        with addresses.listen(request.ip, request.port) as listener:
            settings = NodeSettings(
                _resources(request, store_bytes, host),
                store_bytes,
                host,
                request.labels,
                request.head_address,
                str(token_file),
                _absolute(request.tls_cert),
                _absolute(request.tls_key),
                _absolute(request.tls_ca),
                request.driver_kept_s,
                request.head_silent_s,
            )
            daemons.start(settings, listener)
        if wait:
            await_registered(daemons, time.monotonic() + config.START_TIMEOUT_S)
    except BaseException:
        daemons.stop(time.monotonic() + config.STOP_TIMEOUT_S)
        raise
    return daemons


def _resources(request: NodeRequest, store_bytes: int, host: str) -> dict[str, int]:
    return machine.node_resources(
        request.num_cpus,
        request.num_gpus,
        request.resources,
        store_bytes,
        host,
        is_head=not request.head_address,
    )


def _absolute(path: str | None) -> str:
    return os.path.abspath(path) if path else ""  # daemons run in another folder


def reach_head(address: str, token: bytes, tls: Tls | None, wait_s: float) -> str:
    """This machine's IP address as the head sees it; tries for ``wait_s`` until the head listens.

    With a head on this very machine it is the address of the default route, as other machines
    have to reach this node too. RefusedError if the head runs another Python: it would refuse.
    """
    give_up_at = time.monotonic() + wait_s
    while True:
        try:
            sock, ok = dial(address, LineHello("probe", pid=os.getpid()), token, tls=tls)
        except RefusedError:
            raise
        except OSError:
            if time.monotonic() >= give_up_at:
                raise
            time.sleep(LOOK_AGAIN_S * 10)
            continue
        if ok.python != config.PYTHON:
            sock.close()
            raise RefusedError(
                f"the head at {address} runs Python {ok.python[:20]!r}, this machine "
                f"{config.PYTHON}: pickles do not travel between minor versions: use the same one "
                "on every machine"
            )
        with sock:
            ip = str(sock.getsockname()[0])
        return addresses.default_ip() if addresses.is_loopback(ip) else ip


def await_registered(daemons: Daemons, deadline: float) -> None:
    """Return once the GCS counts the node among the living; SystemFailureError if it does not."""
    while True:
        last_words = ""
        try:
            with Observer(daemons.node_socket) as observer:
                try:
                    while not _is_registered(observer, daemons.description.node_id):
                        daemons.check_started(deadline)
                    return
                except SystemFailureError:
                    last_words = observer.last_words
        except OSError:
            pass  # the node has died already, and closed its socket
        daemons.await_death()
        if last_words:
            raise SystemFailureError(f"the node could not start: {last_words}")
        daemons.check_started(deadline)
        time.sleep(LOOK_AGAIN_S)


def _is_registered(observer: Observer, node_id: str) -> bool:
    try:
        rows = observer.ask("nodes", timeout_s=REGISTERED_ASKED_EVERY_S)
    except TimeoutError:
        return False
    return any(row["NodeID"] == node_id and row["Alive"] for row in rows)


# ---------------------------------------------------------------------------------- stop


def running_sessions(root: Path, started_by: Iterable[str]) -> list[LiveSession]:
    """The sessions of these origins with any process left, whether or not it answers."""
    origins, alive = set(started_by), marked_sessions()
    return [
        one
        for one in described_sessions(root)
        if one.description.started_by in origins and one.folder.name in alive
    ]


def stop_sessions(sessions: list[LiveSession], grace_s: float) -> None:
    """End all of them at once, with ``grace_s`` to end by themselves; then nothing is left.

    Without any grace they are killed at once.
    """
    deadline = time.monotonic() + grace_s
    for session in sessions:
        told = session.description
        # Only a process that carries the session's mark: the pid may be reused by now.
        if grace_s > 0 and told.node_pid in marked(session.folder.name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(told.node_pid, signal.SIGTERM)
    left = sessions
    while left and time.monotonic() < deadline:
        time.sleep(LOOK_AGAIN_S)
        alive = marked_sessions()
        left = [one for one in left if one.folder.name in alive]
    for session in left:
        kill_session(session.folder.name)
    # A killed process frees its session's lock a moment after its mark has gone.
    deadline = time.monotonic() + LET_GO_WITHIN_S
    sweep(sessions_root())
    while any(has_traces(one.folder) for one in sessions) and time.monotonic() < deadline:
        time.sleep(LOOK_AGAIN_S)
        sweep(sessions_root())
