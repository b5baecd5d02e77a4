"""Large values of a process: space in the node's arena to write them, and the way to read them.

A process on the node's machine maps the arena and writes and reads in place. A remote driver shares
no memory with its node: it sends and receives large values in pieces.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import cast

from skate import messages as m
from skate.client.connection import Connection
from skate.client.value_table import ValueTable
from skate.config import DRIVER_CHUNK_BYTES
from skate.objects.mapping import ArenaMapping
from skate.objects.serialization import Serialized, error_of


class Extents:
    """See the module's docstring."""

    def __init__(
        self, connection: Connection, mapping: ArenaMapping, values: ValueTable, *, is_remote: bool
    ) -> None:
        self._connection = connection
        self._mapping = mapping
        self._values = values
        self._write: Callable[[m.Extent, Serialized], None]
        self._write = self._send_pieces if is_remote else self._write_in_place
        self.granted: dict[bytes, m.Extent] = {}  # what has been asked for and is not yet taken
        self._arriving: tuple[bytes, mmap.mmap] | None = None  # a large value, in pieces
        connection.handlers[m.Extent] = self._on_extent
        if is_remote:
            connection.handlers[m.Chunk] = self._on_chunk

    # ------------------------------------------------------------------ writing

    def write(self, object_id: bytes, serialized: Serialized) -> m.Value:
        """Write a payload into the arena; what is left to do is to seal it.

        ObjectStoreFullError if there is no room.
        """
        self._connection.append(m.CreateExtent(object_id, serialized.size))
        granted = self.granted
        self._connection.wait_for(lambda: object_id in granted)
        extent = granted.pop(object_id)
        if extent.error:
            raise error_of(extent.error)
        self._write(extent, serialized)
        return m.Value(b"", extent.offset, serialized.size)

    def _write_in_place(self, extent: m.Extent, serialized: Serialized) -> None:
        target = self._mapping.writable(extent.offset, serialized.size)
        serialized.write_into(target)
        target.release()

    def _send_pieces(self, extent: m.Extent, serialized: Serialized) -> None:
        """Have the node write a payload into its arena."""
        with mmap.mmap(-1, serialized.size) as memory:
            with memoryview(memory) as whole:
                serialized.write_into(whole)
            for start in range(0, serialized.size, DRIVER_CHUNK_BYTES):
                piece = memory[start : start + DRIVER_CHUNK_BYTES]
                self._connection.append(m.PutChunk(extent.object_id, start, piece), len(piece))
                self._connection.drain()

    def _on_extent(self, extent: m.Extent) -> None:
        self.granted[extent.object_id] = extent

    # ------------------------------------------------------------------ reading

    def read(self, object_id: bytes, offset: int, size: int) -> memoryview:
        """A view of a value in the arena; its space is pinned until the last view is gone."""
        view, is_new = self._mapping.read(object_id, offset, size)
        if is_new:
            self._connection.append(m.Pin([object_id]))
        return view

    def _on_chunk(self, chunk: m.Chunk) -> None:
        # May run twice for one piece (connection.py), so nothing is counted.
        object_id, end = chunk.object_id, chunk.offset + len(chunk.data)
        if chunk.offset == 0:
            self._arriving = object_id, mmap.mmap(-1, chunk.total)  # as aligned as the arena
        arriving = self._arriving
        if arriving is None or arriving[0] != object_id:
            return  # it has arrived, or nobody wants it any more
        if object_id not in self._values.counts:
            self._arriving = None
            return
        memory = arriving[1]
        memory[chunk.offset : end] = chunk.data
        if end == chunk.total:
            whole = cast("bytes", memoryview(memory).toreadonly())
            self._values.on_ready(m.Ready(object_id, whole))
            self._arriving = None
