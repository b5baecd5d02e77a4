"""A node's start configuration, and its own files: arena and sockets."""

from __future__ import annotations

import contextlib
import fcntl
import os

import msgspec

from skate.config import DRIVER_KEPT_S, HEAD_SILENT_S, LANES_FOLDER
from skate.net import unix_socket


class NodeConfig(msgspec.Struct):
    """A node's start configuration; it comes as JSON.

    Without ``head_address`` the GCS is on this machine, behind ``gcs_socket``; with it (HOST:PORT
    of the head's node) the GCS is reached through that node. ``held_fds`` are descriptors that
    only have to stay open for as long as the node lives: the lock of the session folder, so that no
    sweep takes the session for dead, and on the head the GCS's lifeline, so that the GCS ends with
    the node, however the node ends.
    """

    session_dir: str
    session: str
    node_id: str  # hex
    listen_fd: int  # a listening unix socket, for clients on this machine
    gcs_socket: str
    resources: dict[str, int]
    object_store_bytes: int
    lifeline_fd: int = -1  # a pipe from the parent, EOF ends the node; -1: the node has no parent
    labels: dict[str, str] = {}
    address: str = "127.0.0.1"  # HOST:PORT for others to dial; the host alone if none do
    local: bool = True  # ends with its GCS, and with its last driver
    tcp_fd: int = -1  # a listening TCP socket, for other machines
    head_address: str = ""
    token_file: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    tls_ca: str = ""
    held_fds: list[int] = []
    head_silent_s: float = HEAD_SILENT_S  # the head may be silent for this long
    driver_kept_s: float = DRIVER_KEPT_S  # a remote driver may be cut off for this long

    def inherited_fds(self) -> list[int]:
        """The descriptors that came with the process and are for the daemon alone."""
        fds = [self.listen_fd, self.tcp_fd, self.lifeline_fd, *self.held_fds]
        return [fd for fd in fds if fd >= 0]

    def renumber(self, fds: list[int]) -> None:
        """Set the numbers that the descriptors have here, in the order of ``inherited_fds``."""
        here = dict(zip(self.inherited_fds(), fds, strict=True))
        self.listen_fd = here[self.listen_fd]
        self.tcp_fd = here.get(self.tcp_fd, -1)
        self.lifeline_fd = here.get(self.lifeline_fd, -1)
        self.held_fds = [here[fd] for fd in self.held_fds]


def arena_file(cfg: NodeConfig) -> tuple[str, str]:
    """The arena's path, and a warning if it is not in shared memory."""
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


def remove_files(cfg: NodeConfig, arena_path: str, *, keep_socket: bool = False) -> None:
    """The arena and the sockets; logs stay, and the node's own socket if it is to live again."""
    paths = [arena_path]
    if not keep_socket:
        paths.append(os.path.join(cfg.session_dir, "node.sock"))
    if not cfg.head_address:
        paths.append(cfg.gcs_socket)  # a local GCS ends with its node, and may be dead
    for path in paths:
        with contextlib.suppress(OSError):
            os.unlink(path)
    unix_socket.remove_all(os.path.join(cfg.session_dir, LANES_FOLDER))
