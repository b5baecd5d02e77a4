"""Process hygiene: three calls of Linux that Python lacks (prctl), and others.

On other systems those three do nothing: daemons still end on the EOF of their lifeline pipe.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterable

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent(parent_pid: int) -> None:
    """SIGKILL for this process when its parent ends. The parent's main thread has to be the one
    that forks: the kernel sends the signal when the *thread* that forked ends."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # the parent ended before the call above
        os._exit(1)


def adopt_orphans() -> None:
    """Descendants whose parent ends become children of this process, instead of init's."""
    if _libc is not None:
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def set_process_name(name: str) -> None:
    """The short name (15 bytes) that ps and top show."""
    if _libc is not None:
        _libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def children(pid: int) -> list[int]:
    """The living children of a process; empty where the kernel does not tell."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                found += [int(child) for child in file.read().split()]
    except OSError:
        pass
    return found


def close_all_but(kept: Iterable[int]) -> None:
    """Close all inherited descriptors except these."""
    below = 3
    for fd in sorted(fd for fd in kept if fd >= below):
        os.closerange(below, fd)
        below = fd + 1
    os.closerange(below, os.sysconf("SC_OPEN_MAX"))
