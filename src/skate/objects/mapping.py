"""The arena file as one client sees it: mapped once for writing, a span a time for reading.

A read maps its span read-only; NumPy arrays and memoryviews made from it keep the mapping alive,
and its weakref dies exactly with the last of them: that is the pin (DESIGN 6). The weakref's
callback may run anywhere, so it only appends to ``dead`` (a deque that the owner drains).
Near the bounds on mappings and descriptors, reads copy instead: slower, but never an error.
"""

from __future__ import annotations

import mmap
import os
import resource
import weakref
from collections import deque

from skate.config import MAPPING_RESERVE, PAGE_BYTES

_MAX_MAPPINGS_DEFAULT = 65_530


def _mapping_bound() -> int:
    """How many spans this process may map: each costs a VMA and (before 3.13) a descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 65_536) if hard != resource.RLIM_INFINITY else 65_536
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (ValueError, OSError):
            pass
    try:
        with open("/proc/sys/vm/max_map_count") as file:
            maps = int(file.read())
    except OSError:
        maps = _MAX_MAPPINGS_DEFAULT
    return int(min(soft, maps) * (1 - MAPPING_RESERVE))


class ArenaMapping:
    """See the module's docstring. Thread-safe as far as the GIL makes dict and deque so."""

    def __init__(self, path: str, size: int) -> None:
        self.path = path
        self._size = size
        self._fd = -1
        self._write: memoryview | None = None
        self._live: dict[bytes, weakref.ref[mmap.mmap]] = {}
        self._bound = 0
        self.dead: deque[bytes] = deque()  # objects whose mapping is gone, to be unpinned

    def _open(self) -> int:
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            self._bound = _mapping_bound()
        return self._fd

    def writable(self, offset: int, size: int) -> memoryview:
        """The span of an extent that this process was given to write."""
        if self._write is None:
            self._write = memoryview(mmap.mmap(self._open(), self._size))
        return self._write[offset : offset + size]

    def read(self, object_id: bytes, offset: int, size: int) -> tuple[memoryview, bool]:
        """(the object's bytes, whether this made a new mapping that the node has to pin)."""
        known = self._live.get(object_id)
        mapping = known() if known is not None else None
        if mapping is not None:
            return memoryview(mapping)[:size], False
        fd = self._open()
        if len(self._live) >= self._bound:
            return memoryview(os.pread(fd, size, offset)), False
        length = -(-size // PAGE_BYTES) * PAGE_BYTES
        mapping = mmap.mmap(fd, length, access=mmap.ACCESS_READ, offset=offset)
        live, dead = self._live, self.dead

        def gone(ref: weakref.ref[mmap.mmap]) -> None:
            if live.get(object_id) is ref:
                del live[object_id]
            dead.append(object_id)

        live[object_id] = weakref.ref(mapping, gone)
        return memoryview(mapping)[:size], True

    def close(self) -> None:
        """Forget the file; views that the user holds stay valid."""
        self._live.clear()
        self._write = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
