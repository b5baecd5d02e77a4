"""Unix sockets in folders of any depth: listen and connect.

A socket's address holds 107 bytes of path, and a session's folder may well be deeper than that
(a temporary folder of a batch system, a test's own). Where the path is too long, its folder is
opened and the socket is named through the descriptor. Called by drivers, the node daemon and
``skate status``. On systems without /proc a long path is an error that says what to do.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

PATH_MAX_BYTES = 107  # of sockaddr_un.sun_path, without the final zero


def listen(path: str, backlog: int = 128) -> socket.socket:
    """A listening socket at this path. OSError if the system refuses."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        with _address(path) as address:
            sock.bind(address)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def connect(path: str, timeout_s: float | None = None) -> socket.socket:
    """A socket connected to the listener at this path. OSError if there is none."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(timeout_s)
        with _address(path) as address:
            sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def remove_all(folder: str) -> None:
    """Remove the sockets in a folder, if it is there, and the folder."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, name))
        os.rmdir(folder)


@contextlib.contextmanager
def _address(path: str) -> Iterator[str]:
    """The path, or a shorter one for the same place that holds as long as the context does."""
    length = len(os.fsencode(path))
    if length <= PATH_MAX_BYTES:
        yield path
        return
    if not os.path.isdir("/proc/self/fd"):
        raise OSError(
            f"the path of a session's socket may have {PATH_MAX_BYTES} bytes here, {path} has "
            f"{length}: set SKATE_TEMP_DIR to a shorter folder"
        )
    folder, name = os.path.split(path)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)
