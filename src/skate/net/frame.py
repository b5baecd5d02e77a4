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
from skate.config import MAX_FRAME_BYTES, READ_TURN_BYTES

_LENGTH = Struct("<I")
HEADER_BYTES = _LENGTH.size

SLICE_MESSAGES = 1_000
"""At most in one frame: of the smallest this is a full socket buffer, of the largest 100 MB."""

_ARRAY_BYTES = 3
"""The head of a MessagePack array with a length of two bytes."""


class BadFrame(ValueError):
    """The peer broke the protocol; its connection has to be closed."""


class FrameTooLarge(ValueError):
    """A batch is over the bound of a frame; ``frames`` divides it."""


def frame(batch: Sequence[msgspec.Struct]) -> bytes:
    """One frame that carries the batch. FrameTooLarge if it is larger than a frame may be."""
    return _with_length(messages.encode(batch))


def frames(batch: Sequence[msgspec.Struct]) -> list[bytes]:
    """As many frames as keep each at about ``config.READ_TURN_BYTES``, so that turns stay short.

    FrameTooLarge if one message alone is over the bound of a frame.
    """
    return [data for data, _ in counted_frames(batch)]


def counted_frames(batch: Sequence[msgspec.Struct]) -> list[tuple[bytes, int]]:
    """The same frames, each with the number of its messages."""
    out = []
    # A slice at a time: a backlog of large values is not encoded as a whole only to be divided.
    for start in range(0, len(batch) or 1, SLICE_MESSAGES):
        part = batch[start : start + SLICE_MESSAGES] if len(batch) > SLICE_MESSAGES else batch
        payload = messages.encode(part)
        if len(payload) <= READ_TURN_BYTES or len(part) == 1:
            out.append((_with_length(payload), len(part)))
        else:
            out += _one_by_one(part)
    return out


def _one_by_one(batch: Sequence[msgspec.Struct]) -> list[tuple[bytes, int]]:
    """Frames of a batch that is too large for one: each message encoded once, and put together."""
    out: list[tuple[bytes, int]] = []
    parts: list[bytes] = []
    size = _ARRAY_BYTES
    for message in batch:
        data = messages.encode(message)
        if parts and size + len(data) > READ_TURN_BYTES:
            out.append((_with_length(_array(parts)), len(parts)))
            parts, size = [], _ARRAY_BYTES
        parts.append(data)
        size += len(data)
    out.append((_with_length(_array(parts)), len(parts)))
    return out


def _array(parts: list[bytes]) -> bytes:
    """The MessagePack array of at most ``SLICE_MESSAGES`` messages that are encoded already."""
    return b"".join((b"\xdc", len(parts).to_bytes(2, "big"), *parts))


def _with_length(payload: bytes) -> bytes:
    if len(payload) > MAX_FRAME_BYTES:
        raise FrameTooLarge(
            f"a frame of {len(payload):,} bytes is over the bound of {MAX_FRAME_BYTES:,}"
        )
    return _LENGTH.pack(len(payload)) + payload


def split(
    data: bytes | bytearray | memoryview, decode: Callable[[Any], list[Any]]
) -> tuple[list[Any], bytes, int]:
    """(messages of all whole frames, the rest, how many bytes the rest needs to be whole).

    Has no state: whoever is interrupted may simply ask again. Raises BadFrame.
    """
    out: list[Any] = []
    view = memoryview(data)
    start, end, need = 0, len(view), HEADER_BYTES
    while end - start >= HEADER_BYTES:
        size = _LENGTH.unpack_from(view, start)[0]
        if size > MAX_FRAME_BYTES:
            raise BadFrame(f"a frame of {size:,} bytes; at most {MAX_FRAME_BYTES:,}")
        need = HEADER_BYTES + size
        if end - start < need:
            break
        try:
            messages_here = decode(view[start + HEADER_BYTES : start + need])
        except Exception as error:  # of its text's encoding and its depth too, which have their own
            raise BadFrame(f"a frame that does not decode: {error}") from None
        out = out + messages_here if out else messages_here
        start += need
        need = HEADER_BYTES
    return out, bytes(view[start:]) if start < end else b"", need


def cut(data: bytes) -> tuple[list[tuple[bytes, int]], bytes, int]:
    """Whole frames as they are, for who only passes them on: ``split`` without decoding.

    ([(frame, how many messages are in it)], the rest, how many bytes the rest needs to be whole).
    """
    out: list[tuple[bytes, int]] = []
    start, end, need = 0, len(data), HEADER_BYTES
    while end - start >= HEADER_BYTES:
        size = _LENGTH.unpack_from(data, start)[0]
        if size > MAX_FRAME_BYTES:
            raise BadFrame(f"a frame of {size:,} bytes; at most {MAX_FRAME_BYTES:,}")
        need = HEADER_BYTES + size
        if end - start < need:
            break
        out.append((data[start : start + need], _message_count(data, start + HEADER_BYTES, size)))
        start += need
        need = HEADER_BYTES
    return out, data[start:], need


def _message_count(data: bytes, start: int, size: int) -> int:
    """The length of the MessagePack array that a payload is."""
    first = data[start] if size else 0
    if first & 0xF0 == 0x90:
        return first & 0x0F
    width = {0xDC: 2, 0xDD: 4}.get(first, 0)
    if not width or size <= width:
        raise BadFrame("a frame that is no array of messages")
    return int.from_bytes(data[start + 1 : start + 1 + width], "big")


class FrameReader:
    """Cuts a byte stream into batches of messages, decoded by ``decode``."""

    __slots__ = ("_decode", "_held", "_need", "_parts")

    def __init__(self, decode: Callable[[Any], list[Any]]) -> None:
        self._decode = decode
        self._parts: list[bytes] = []  # of a frame that is not whole yet
        self._held = 0
        self._need = HEADER_BYTES

    def feed(self, data: bytes | bytearray | memoryview) -> list[Any]:
        """All messages that are whole now, in order. Raises BadFrame on the first bad one."""
        if self._parts:
            self._parts.append(bytes(data))
            self._held += len(data)
            if self._held < self._need:
                return []
            data = b"".join(self._parts)
        out, rest, self._need = split(data, self._decode)
        self._parts = [rest] if rest else []
        self._held = len(rest)
        return out
