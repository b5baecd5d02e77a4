"""Frames: a little-endian u32 length, then a MessagePack array of messages.

A message too large for a frame (a task with hundreds of small arguments) travels as ``Part``s. They
count as messages like others until their receiver gives them to a ``PartReader``.

Pure. ``FrameReader`` is fed a socket's bytes and returns the payloads that are whole; a length out
of bounds raises ``BadFrame``, and the connection's owner closes that one and nothing else. A half
frame of a peer that vanished is never returned.
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
    """A batch is over the bound of a frame; ``frames`` divides it, and messages as well."""


def frame(batch: Sequence[msgspec.Struct]) -> bytes:
    """One frame that carries the batch. FrameTooLarge if it is larger than a frame may be."""
    return _with_length(messages.encode(batch))


def frames(batch: Sequence[msgspec.Struct]) -> list[bytes]:
    """Frames of about ``config.READ_TURN_BYTES`` each, so that turns stay short."""
    return [data for data, _ in counted_frames(batch)]


def counted_frames(batch: Sequence[msgspec.Struct]) -> list[tuple[bytes, int]]:
    """The same frames, each with the number of its messages."""
    out = []
    # A slice at a time: a backlog of large values is not encoded as a whole only to be divided.
    for start in range(0, len(batch) or 1, SLICE_MESSAGES):
        part = batch[start : start + SLICE_MESSAGES] if len(batch) > SLICE_MESSAGES else batch
        payload = messages.encode(part)
        bound = READ_TURN_BYTES if len(part) > 1 else MAX_FRAME_BYTES
        if len(payload) <= bound:
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
        if size + len(data) > MAX_FRAME_BYTES:
            out += [(frame([piece]), 1) for piece in _pieces(_array([data]))]
            continue
        parts.append(data)
        size += len(data)
    if parts:
        out.append((_with_length(_array(parts)), len(parts)))
    return out


def _pieces(payload: bytes) -> list[messages.Part]:
    """A message as pieces, each of which fits a frame."""
    starts = range(0, len(payload), READ_TURN_BYTES)
    return [
        messages.Part(number, payload[at : at + READ_TURN_BYTES], at == starts[-1])
        for number, at in enumerate(starts)
    ]


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

    Has no state: an interrupted caller may call again. Raises BadFrame.
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
    """Whole frames as they are, for a caller that only passes them on: ``split`` undecoded.

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


class PartReader:
    """Puts a message together that came as ``Part``s, decoded by ``decode``.

    A part that is taken twice (an interrupt came before that was noted) changes nothing.
    """

    __slots__ = ("_decode", "_pieces")

    def __init__(self, decode: Callable[[Any], list[Any]]) -> None:
        self._decode = decode
        self._pieces: list[bytes] = []

    def take(self, part: messages.Part) -> list[Any]:
        """The message, if this was its last part. BadFrame if they make none."""
        if part.number and not self._pieces:
            return []  # it was cleared just now
        self._pieces[part.number :] = [part.data]
        if not part.is_last:
            return []
        if len(self._pieces) != part.number + 1:
            raise BadFrame(f"part {part.number} of a message of which others are missing")
        try:
            return self._decode(b"".join(self._pieces))
        except Exception as error:
            raise BadFrame(f"a message in parts that does not decode: {error}") from None

    def clear(self) -> None:
        """The message has been handled."""
        self._pieces = []


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
