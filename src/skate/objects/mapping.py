"""The arena file as one client sees it: mapped once, written and read through that mapping.

A read hands out a read-only memoryview over a ctypes array that lies on the object's span. Every
NumPy array, slice and memoryview made from it refers to that array (its exporter), so the array's
weakref dies exactly with the last of them: that is the pin. The weakref's callback
may run anywhere, so it only appends to ``dead`` (a deque that the owner drains).

One mapping for all: a fresh one for each object would cost a page fault for each 64 KiB that is
read, each time, and a VMA and a descriptor an object (docs/decisions/0006).
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections import deque
from typing import Any


class ArenaMapping:
    """See the module's docstring. Thread-safe as far as the GIL makes dict and deque so."""

    def __init__(self, path: str, size: int) -> None:
        self.path = path
        self._size = size
        self._map: mmap.mmap | None = None
        self._live: dict[bytes, weakref.ref[Any]] = {}
        self.dead: deque[bytes] = deque()  # objects whose last view is gone, to be unpinned

    def _mapping(self) -> mmap.mmap:
        if self._map is None:
            fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            try:
                self._map = mmap.mmap(fd, self._size)
            finally:
                os.close(fd)
        return self._map

    def writable(self, offset: int, size: int) -> memoryview:
        """The span of an extent that this process was given to write."""
        return memoryview(self._mapping())[offset : offset + size]

    def read(self, object_id: bytes, offset: int, size: int) -> tuple[memoryview, bool]:
        """(the object's bytes, read-only; whether the node has to be told of a new pin)."""
        known = self._live.get(object_id)
        span = known() if known is not None else None
        is_new = span is None
        if span is None:
            import ctypes  # only processes that read large objects load it

            span = (ctypes.c_ubyte * size).from_buffer(self._mapping(), offset)
            live, dead = self._live, self.dead

            def gone(ref: weakref.ref[Any]) -> None:
                if live.get(object_id) is ref:
                    del live[object_id]
                dead.append(object_id)

            live[object_id] = weakref.ref(span, gone)
        return memoryview(span).cast("B").toreadonly(), is_new

    def close(self) -> None:
        """Forget the file; views that the user holds stay valid."""
        self._live.clear()
        self._map = None
