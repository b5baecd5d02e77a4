"""The node daemon's process: sockets, the zygote, the arena file, log tailing around the core.

``python -m skate node --config JSON``. It forks its zygote first, while nothing but the
interpreter is loaded, then starts the event loop. All decisions are the core's (node_core); this
module moves bytes, forks, kills, and cleans up: when it ends, by whatever way it can notice, no
process, socket or shared-memory file of its session is left.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
import warnings

import msgspec

from skate.node import linux, zygote

# What every worker needs, or its user's code will touch: loaded once, shared by all workers.
WARM_MODULES = (
    "cloudpickle",
    "skate.worker.worker_main",
    "skate.api.actor_handle",
    "skate.api.cluster",
    "skate.api.decorator",
    "skate.api.objects",
    "skate.api.session",
    "skate.exceptions",
)


class NodeConfig(msgspec.Struct):
    """What a node is started with; passed as JSON on its command line."""

    session_dir: str
    session: str
    node_id: str  # hex
    listen_fd: int
    gcs_socket: str
    lifeline_fd: int
    resources: dict[str, int]
    object_store_bytes: int
    labels: dict[str, str] = {}
    address: str = "127.0.0.1"
    local: bool = True  # ends with its GCS, and with its last driver


def _run_worker(line: socket.socket) -> None:
    from skate.worker.worker_main import main as worker_main

    worker_main(line)


def _fork_zygote() -> tuple[socket.socket, int]:
    for module in WARM_MODULES:
        importlib.import_module(module)
    return zygote.start(_run_worker)


def main(argv: list[str]) -> None:
    """Entry of the role."""
    cfg = msgspec.json.decode(argv[argv.index("--config") + 1], type=NodeConfig)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    linux.adopt_orphans()
    zygote_line, zygote_pid = _fork_zygote()
    linux.set_process_name("skate:node")
    warnings.simplefilter("ignore")  # that they be errors is meant for the user's own code
    # Only now: the event loop's modules are not the workers' business.
    from skate.node.node_shell import run

    sys.exit(run(cfg, zygote_line, zygote_pid))


def arena_file(cfg: NodeConfig) -> tuple[str, str]:
    """Where the arena goes, and a warning if that is not shared memory."""
    name = f"skate-{os.getuid()}-{cfg.session}-{cfg.node_id[:8]}"
    try:
        room = os.statvfs("/dev/shm")
        if room.f_bavail * room.f_frsize >= cfg.object_store_bytes:
            return f"/dev/shm/{name}", ""
        free = room.f_bavail * room.f_frsize
        warning = (
            f"/dev/shm has {free / 1e6:.0f} MB free, the object store may grow to "
            f"{cfg.object_store_bytes / 1e6:.0f} MB: it is kept in {cfg.session_dir} instead, "
            "which is slower. Enlarge /dev/shm (docker run --shm-size) or ask for a smaller "
            "object_store_memory."
        )
    except OSError:
        warning = f"there is no /dev/shm here: the object store is kept in {cfg.session_dir}"
    return os.path.join(cfg.session_dir, name), warning


def create_arena(path: str, size: int) -> int:
    """The arena file, sparse and 0600, its lock held: a file without a lock is stale."""
    import fcntl

    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.ftruncate(fd, size)
    return fd


