"""Frames: a little-endian u32 length, then a MessagePack array of messages.

Pure. ``FrameReader`` is fed whatever a socket gave and returns the payloads that are whole; a
length out of bounds raises ``BadFrame``, and whoever owns the connection closes that one and
nothing else. A half frame of a peer that vanished is simply never returned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any

import msgspec

from skate import messages
from skate.config import MAX_FRAME_BYTES

_LENGTH = Struct("<I")
HEADER_BYTES = _LENGTH.size


class BadFrame(ValueError):
    """The peer broke the protocol; its connection has to be closed."""


def frame(batch: Sequence[msgspec.Struct]) -> bytes:
    """One frame that carries the batch. FrameTooLarge if it is larger than a frame may be."""
    payload = messages.encode(batch)
    if len(payload) > MAX_FRAME_BYTES:
        raise FrameTooLarge(
            f"a frame of {len(payload):,} bytes is over the bound of {MAX_FRAME_BYTES:,}"
        )
    return _LENGTH.pack(len(payload)) + payload


def frames(batch: Sequence[msgspec.Struct]) -> list[bytes]:
    """As many frames as the batch needs. FrameTooLarge if one message alone is over the bound."""
    try:
        return [frame(batch)]
    except FrameTooLarge:
        if len(batch) == 1:
            raise
        half = len(batch) // 2
        return [*frames(batch[:half]), *frames(batch[half:])]


class FrameTooLarge(ValueError):
    """A batch is over the bound of a frame; ``frames`` divides it."""


class FrameReader:
    """Cuts a byte stream into batches of messages, decoded by ``decode``."""

    __slots__ = ("_buffer", "_decode", "_need")

    def __init__(self, decode: Callable[[Any], list[Any]]) -> None:
        self._decode = decode
        self._buffer = bytearray()
        self._need = HEADER_BYTES

    def feed(self, data: bytes | bytearray | memoryview) -> list[Any]:
        """All messages that are whole now, in order. Raises BadFrame on the first bad one."""
        buffer = self._buffer
        if not buffer:
            # The common case: exactly one whole frame in one read; nothing is copied.
            size = len(data)
            if (
                HEADER_BYTES <= size <= HEADER_BYTES + MAX_FRAME_BYTES
                and _LENGTH.unpack_from(data)[0] == size - HEADER_BYTES
            ):
                return self._open(memoryview(data)[HEADER_BYTES:])
        buffer += data
        if len(buffer) < self._need:
            return []
        out: list[Any] = []
        start, end = 0, len(buffer)
        view = memoryview(buffer)
        try:
            while True:
                if end - start < HEADER_BYTES:
                    self._need = HEADER_BYTES
                    break
                size = _LENGTH.unpack_from(view, start)[0]
                if size > MAX_FRAME_BYTES:
                    raise BadFrame(f"a frame of {size:,} bytes; at most {MAX_FRAME_BYTES:,}")
                if end - start - HEADER_BYTES < size:
                    self._need = HEADER_BYTES + size
                    break
                start += HEADER_BYTES
                out += self._open(view[start : start + size])
                start += size
        finally:
            view.release()
        del buffer[:start]
        return out

    def _open(self, payload: memoryview) -> list[Any]:
        try:
            return self._decode(payload)
        except Exception as error:  # of its depth, its encoding or its size as well
            raise BadFrame(f"a frame that does not decode: {error}") from None
        finally:
            payload.release()
