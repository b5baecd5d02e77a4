"""Large values of a driver on another machine: in pieces, between its line and the arena.

Called by the line (node/shell/lines.py). Out: the core tells that the driver wants a value, and
pins it; here its bytes are read, a piece at a time, bounded by the bytes that the driver has not
acknowledged, and the pin is let go of. In: pieces of an extent that the driver was given are
written there; a piece outside of it is a ValueError, which ends the line.

Values go one after the other: a piece is known by its object's id alone.
"""

from __future__ import annotations

import os
from collections import deque
from functools import partial
from typing import Any

from skate import messages as m
from skate.config import DRIVER_CHUNK_BYTES
from skate.node.shell.turns import Turns
from skate.rows import Client


class FarValues:
    """See the module's docstring."""

    def __init__(self, turns: Turns, arena_fd: int, peer: Client) -> None:
        self._turns = turns
        self._arena_fd = arena_fd
        self._peer = peer
        self._waiting: deque[m.Ready] = deque()
        self._sent = 0  # bytes of the first value

    def take(self, batch: list[Any]) -> list[Any]:
        """Take the large values out of a batch, for their turn; returns the rest."""
        large = [one for one in batch if type(one) is m.Ready and one.size and one.offset >= 0]
        if not large:
            return batch
        self._waiting += large
        return [one for one in batch if not (type(one) is m.Ready and one.size and one.offset >= 0)]

    def next(self) -> m.Chunk | None:
        """The next piece, if there is any."""
        if not self._waiting:
            return None
        value = self._waiting[0]
        length = min(DRIVER_CHUNK_BYTES, value.size - self._sent)
        data = os.pread(self._arena_fd, length, value.offset + self._sent)
        piece = m.Chunk(value.object_id, self._sent, value.size, data)
        self._sent += len(data)
        if self._sent == value.size:
            self._waiting.popleft()
            self._sent = 0
            unpin = partial(self._turns.core.handle, self._peer, m.Unpin([value.object_id]))
            # Freed space starts a turn, which must not begin in the middle of writing out.
            self._turns.loop.call_soon(self._turns.turn, unpin)
        return piece

    def write(self, piece: m.PutChunk) -> None:
        """A piece of a value that the driver puts."""
        creation = self._turns.core.store.creations.get(piece.object_id)
        if creation is None or creation.creator is not self._peer or creation.offset is None:
            raise ValueError(f"a piece of {piece.object_id.hex()}, for which no space was given")
        end = piece.offset + len(piece.data)
        if not 0 <= piece.offset <= end <= creation.size:
            raise ValueError(
                f"bytes {piece.offset:,} to {end:,} of {piece.object_id.hex()}, which has "
                f"{creation.size:,}"
            )
        view, position = memoryview(piece.data), creation.offset + piece.offset
        while view:
            written = os.pwrite(self._arena_fd, view, position)
            view, position = view[written:], position + written
