"""Values to bytes and back: plain pickle for exact builtins, cloudpickle for the rest.

Only drivers and workers call this; daemons never open a payload. A payload is one format byte
(spec.FORMAT_*), then: raw bytes as they are; or, for pickles, a u32 count of out-of-band buffers,
their (offset, length) as u64 pairs, the pickle, and the buffers, 64-byte aligned (small ones:
16-byte) relative to the payload's start, so that arrays lie aligned in the arena.

``ObjectRef.__reduce__`` and its like report their ids to the ``contained`` list of the pickling
under way (a thread-local): so refs inside values are found at C speed.
"""

from __future__ import annotations

import pickle
import struct
import threading
from pickle import loads
from typing import Any

from skate.error_records import decode_error, raise_form
from skate.spec import FORMAT_PICKLE, FORMAT_RAW

_COUNT = struct.Struct("<I")
_PAIR = struct.Struct("<QQ")
_HEADER = len(FORMAT_PICKLE) + _COUNT.size
ALIGNMENT_BYTES = 64
_SMALL_ALIGNMENT = 16  # of a buffer that would lie mostly in its padding otherwise
_LARGE_BUFFER_BYTES = 256
_LARGE_PICKLE_BYTES = 4096

# Types whose plain pickle is complete and loads anywhere: no class of the user's can hide inside.
ATOMS = frozenset({int, float, bool, str, bytes, type(None), complex})
NO_BUFFERS = FORMAT_PICKLE + _COUNT.pack(0)
NONE = NO_BUFFERS + pickle.dumps(None, 5)  # the payload of most results
NO_ARGUMENTS = b""  # a call without arguments, or with its arguments as the last dependency


class Placeholder:
    """Stands in pickled arguments for dependency number ``index``."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index

    def __reduce__(self) -> tuple[Any, ...]:
        return Placeholder, (self.index,)


class Pickling(threading.local):
    """The refs and buffers that this thread's pickling has met so far."""

    contained: list[bytes] | None = None


pickling = Pickling()


class Serialized:
    """A value ready to be written: parts, and the refs inside it."""

    __slots__ = ("buffers", "contains", "head", "size")

    def __init__(
        self, head: bytes, buffers: list[memoryview], contains: list[bytes] | None
    ) -> None:
        self.contains = contains
        self.buffers = buffers
        self.head = head
        if not buffers:
            self.size = len(head)
            return
        table = bytearray(FORMAT_PICKLE + _COUNT.pack(len(buffers)))
        offset = _HEADER + _PAIR.size * len(buffers) + len(head)
        for buffer in buffers:
            align = ALIGNMENT_BYTES if buffer.nbytes >= _LARGE_BUFFER_BYTES else _SMALL_ALIGNMENT
            offset = -(-offset // align) * align
            table += _PAIR.pack(offset, buffer.nbytes)
            offset += buffer.nbytes
        self.head = bytes(table) + head
        self.size = offset

    def to_bytes(self) -> bytes:
        """The payload in one piece."""
        if not self.buffers:
            return self.head
        out = bytearray(self.size)
        self.write_into(memoryview(out))
        return bytes(out)

    def write_into(self, target: memoryview) -> None:
        """The payload into memory of at least ``size`` bytes."""
        target[: len(self.head)] = self.head
        position = len(self.head)
        for index, buffer in enumerate(self.buffers):
            offset, length = _PAIR.unpack_from(self.head, _HEADER + _PAIR.size * index)
            if offset != position:
                target[position:offset] = bytes(offset - position)
            target[offset : offset + length] = buffer
            position = offset + length


class _RawSerialized(Serialized):
    """A large bytes object: the format byte and the bytes, copied once."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        super().__init__(FORMAT_RAW, [], None)
        self._data = data
        self.size = 1 + len(data)

    def to_bytes(self) -> bytes:
        return FORMAT_RAW + self._data

    def write_into(self, target: memoryview) -> None:
        target[0:1] = FORMAT_RAW
        target[1 : self.size] = self._data


def serialize(value: Any) -> Serialized:
    """A value's payload. Errors of the value's own pickling are passed on."""
    kind = type(value)
    if kind is bytes:
        return _RawSerialized(value)
    if kind in ATOMS:
        return Serialized(NO_BUFFERS + pickle.dumps(value, 5), [], None)
    return _serialize_any(value)


def _serialize_any(value: Any) -> Serialized:
    buffers: list[memoryview] = []

    def out_of_band(buffer: pickle.PickleBuffer) -> bool:
        # Small buffers too: inside the pickle they would come back writable, unlike large ones.
        buffers.append(buffer.raw())
        return False

    from skate.objects import by_value

    outer = pickling.contained
    found: list[bytes] = []
    pickling.contained = found
    try:
        data = by_value.dumps(value, out_of_band)
    finally:
        pickling.contained = outer
    if buffers:
        return Serialized(data, buffers, found or None)
    return Serialized(NO_BUFFERS + data, [], found or None)


def deserialize(payload: Any) -> Any:
    """The value of a payload (bytes or memoryview) that is not an error."""
    if isinstance(payload, bytes):
        if payload == NONE:
            return None
        if payload.startswith(NO_BUFFERS):
            # A copy of a small value costs less than a view of it.
            is_small = len(payload) < _LARGE_PICKLE_BYTES
            return loads(payload[_HEADER:] if is_small else memoryview(payload)[_HEADER:])
        if payload[:1] == FORMAT_RAW:
            return payload[1:]
        payload = memoryview(payload)
    tag = bytes(payload[:1])
    if tag == FORMAT_RAW:
        return bytes(payload[1:])
    if tag != FORMAT_PICKLE:
        raise ValueError(f"a payload of an unknown format ({tag!r})")
    (count,) = _COUNT.unpack_from(payload, 1)
    pairs = [_PAIR.unpack_from(payload, _HEADER + _PAIR.size * i) for i in range(count)]
    start = _HEADER + _PAIR.size * count
    buffers = [payload[offset : offset + length] for offset, length in pairs]
    return pickle.loads(payload[start:], buffers=buffers)


def error_of(payload: bytes) -> BaseException:
    """The exception that an error payload stands for; a new one at each call."""
    return raise_form(decode_error(payload[1:]), pickle.loads)
