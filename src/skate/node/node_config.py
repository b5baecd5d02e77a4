"""What a node is started with, and the files that are its own: arena and sockets."""

from __future__ import annotations

import contextlib
import fcntl
import os

import msgspec


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
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.ftruncate(fd, size)
    return fd


def remove_files(cfg: NodeConfig, arena_path: str) -> None:
    """The arena and the sockets; logs stay."""
    paths = [arena_path, os.path.join(cfg.session_dir, "node.sock")]
    if cfg.local:
        paths.append(cfg.gcs_socket)  # its GCS may be dead
    for path in paths:
        with contextlib.suppress(OSError):
            os.unlink(path)
