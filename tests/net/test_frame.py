"""Frames: whatever arrives, in whatever pieces, is a list of right messages or BadFrame."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skate import messages as m
from skate.config import MAX_FRAME_BYTES, READ_TURN_BYTES
from skate.net.frame import (
    BadFrame,
    FrameReader,
    FrameTooLarge,
    PartReader,
    counted_frames,
    cut,
    frame,
    frames,
    split,
)

BATCHES: list[list[Any]] = [
    [],
    [m.Blocked()],
    [m.Hold([b"a" * 20, b"b" * 20]), m.Want([b"a" * 20]), m.Release([])],
    [m.Submit(b"t" * 16, 3, b"x" * 1_000, None, [b"r" * 20], 7)],
    [m.Done(b"t" * 16, 0, 1.5, 2.5, b"", [m.Result(m.Value(b"v"), [b"r" * 20])])],
    [m.Ask(1, "status", {"deep": [{"a": None}, 1.5, "text", b"bytes"]})],
    [m.Put(b"p" * 20, b"y" * 70_000)],
]
STREAM = b"".join(frame(batch) for batch in BATCHES)
MESSAGES = [message for batch in BATCHES for message in batch]


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in pairwise(edges):
        yield data[start:end]


@settings(max_examples=200)
@given(st.lists(st.integers(0, 10**9), max_size=30))
def test_messages_do_not_depend_on_how_the_stream_is_cut(cuts: list[int]) -> None:
    reader = FrameReader(m.decode_to_node)
    got = [message for piece in pieces(STREAM, cuts) for message in reader.feed(piece)]
    assert got == MESSAGES


def test_byte_by_byte() -> None:
    reader = FrameReader(m.decode_to_node)
    data = frame(BATCHES[2])
    got = [reader.feed(data[i : i + 1]) for i in range(len(data))]
    assert got[-1] == BATCHES[2] and not any(got[:-1])


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_kind_of_buffer_and_none_of_it_is_kept(kind: type) -> None:
    data = bytearray(frame(BATCHES[6]) + frame(BATCHES[1])[:3])
    reader = FrameReader(m.decode_to_node)
    assert reader.feed(kind(data)) == BATCHES[6]
    data.clear()  # BufferError if a view of it were left
    assert reader.feed(frame(BATCHES[1])[3:]) == BATCHES[1]


def test_a_half_frame_is_never_returned() -> None:
    data = frame(BATCHES[3])
    for size in range(len(data)):
        assert FrameReader(m.decode_to_node).feed(data[:size]) == []


def test_split_says_what_is_missing() -> None:
    data = frame(BATCHES[3])
    assert split(data + data[:10], m.decode_to_node) == (BATCHES[3], data[:10], len(data))
    assert split(data + data[:2], m.decode_to_node) == (BATCHES[3], data[:2], 4)


@pytest.mark.parametrize("length", [MAX_FRAME_BYTES + 1, 1 << 31, (1 << 32) - 1])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_length_out_of_bounds_is_refused_before_the_bytes_come(
    length: int, at_once: bool
) -> None:
    reader = FrameReader(m.decode_to_node)
    header = struct.pack("<I", length)
    if not at_once:
        assert reader.feed(header[:2]) == []
        header = header[2:]
    with pytest.raises(BadFrame, match=f"{length:,}"):
        reader.feed(header)


def framed(payload: bytes) -> bytes:
    return struct.pack("<I", len(payload)) + payload


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x90\x90",  # something behind the batch
        b"\xc0",
        b"\x01",
        b"\x91\x92\x0e\x00\xff",
        msgspec.msgpack.encode([[99, b"x"]]),  # a tag nobody has
        msgspec.msgpack.encode([[22, "not a list"]]),  # a field of the wrong type
        msgspec.msgpack.encode([[22]]),  # a field is missing
        msgspec.msgpack.encode([[24, [1, 2]]]),
        msgspec.msgpack.encode({"a": 1}),
        b"\x91" * 100_000,  # deeper than any stack
        b"\x91\x94\x3c\x00\xa1x\x81\xa1k" + b"\x91" * 50_000,  # and where anything is allowed
        b"\x91\x94\x3c\x00\xa1\xff\x80",  # text that is not UTF-8
        b"\xdd\xff\xff\xff\xff",  # an array of four billion
        b"\x91\xc6\xff\xff\xff\xff",
        b"\x91\x94\x3c\x00\xa1x\x81\x90\x01",  # a key that cannot be one
    ],
)
def test_a_payload_that_is_no_batch_is_a_bad_frame(payload: bytes) -> None:
    with pytest.raises(BadFrame):
        FrameReader(m.decode_to_node).feed(framed(payload))


def test_thousands_of_broken_streams() -> None:
    """Bits flipped, bytes cut out and put in, garbage: BadFrame or messages, nothing else."""
    chance = random.Random(20)
    small = b"".join(frame(batch) for batch in BATCHES[:6])
    decoders = [m.decode_to_node, m.decode_to_client, m.decode_to_gcs, m.decode_from_gcs]
    bad = 0
    for _ in range(6_000):
        data = bytearray(small)
        for _ in range(chance.randrange(1, 5)):
            at = chance.randrange(len(data))
            how = chance.randrange(4)
            if how == 0:
                data[at] ^= 1 << chance.randrange(8)
            elif how == 1:
                del data[at : at + chance.randrange(1, 40)]
            elif how == 2:
                data[at:at] = chance.randbytes(chance.randrange(1, 40))
            else:
                data[at : at + 8] = chance.randbytes(8)
        reader = FrameReader(chance.choice(decoders))
        try:
            for piece in pieces(bytes(data), [chance.randrange(10**6) for _ in range(3)]):
                for message in reader.feed(piece):
                    assert isinstance(message, msgspec.Struct)
        except BadFrame:
            bad += 1
    assert 3_000 < bad < 6_000


def test_garbage_payloads_of_a_right_length() -> None:
    chance = random.Random(21)
    for _ in range(6_000):
        payload = b"\x91" + chance.randbytes(chance.randrange(1, 60))
        try:
            for message in FrameReader(m.decode_to_node).feed(framed(payload)):
                assert isinstance(message, msgspec.Struct)
        except BadFrame:
            pass


@pytest.mark.parametrize("count", [0, 1, 15, 16, 65_535, 65_536])
def test_cut_counts_messages_without_reading_them(count: int) -> None:
    whole = frame([m.Seen(1)] * count)
    more = frame([m.Exit("now")])
    assert cut(whole + more + more[:-1]) == ([(whole, count), (more, 1)], more[:-1], len(more))
    assert cut(whole[:3]) == ([], whole[:3], 4)


@pytest.mark.parametrize("payload", [b"", b"\xc0", b"\x81\x01\x02", b"\xdc\x00", b"\xdd\x00\x00"])
def test_what_is_no_batch_cannot_be_counted(payload: bytes) -> None:
    with pytest.raises(BadFrame):
        cut(framed(payload))


def test_cut_refuses_a_length_out_of_bounds() -> None:
    with pytest.raises(BadFrame):
        cut(struct.pack("<I", MAX_FRAME_BYTES + 1))


def test_large_batches_are_divided_and_arrive_as_one_stream() -> None:
    batch = [m.Put(bytes([n]) * 20, b"z" * (READ_TURN_BYTES // 3)) for n in range(10)]
    parts = frames(batch)
    assert len(parts) > 3
    assert all(len(part) <= READ_TURN_BYTES + 4 for part in parts)
    reader = FrameReader(m.decode_to_node)
    assert [message for part in parts for message in reader.feed(part)] == batch
    assert len(frames(batch[:1])) == 1


@pytest.mark.parametrize("size", [1, 90_000])
def test_a_backlog_is_encoded_a_slice_at_a_time(size: int) -> None:
    batch = [m.Put(n.to_bytes(20, "big"), bytes(size)) for n in range(2_500)]
    parts = counted_frames(batch)
    assert all(len(part) <= READ_TURN_BYTES + 4 for part, _ in parts)
    assert [cut(part)[0][0][1] for part, _ in parts] == [count for _, count in parts]
    reader = FrameReader(m.decode_to_node)
    assert [message for part, _ in parts for message in reader.feed(part)] == batch
    assert frames([]) == [frame([])]


@pytest.mark.parametrize("before", [[], [m.Blocked()]])
def test_a_message_over_the_bound_travels_in_parts(before: list[Any]) -> None:
    message = m.Put(b"p" * 20, bytes(MAX_FRAME_BYTES))
    with pytest.raises(FrameTooLarge):
        frame([message])
    reader = FrameReader(m.decode_to_node)
    came: list[Any] = []
    for data, count in counted_frames([*before, message, m.Unblocked()]):
        assert len(data) < 2 * READ_TURN_BYTES
        came += (found := reader.feed(data))
        assert len(found) == count
    parts = came[len(before) : -1]
    whole = PartReader(m.decode_to_node)
    assert [one for part in parts for one in whole.take(part)] == [message]
    assert whole.take(parts[-1]) == [message], "taken again after an interrupt"
    whole.clear()
    assert whole.take(parts[-1]) == [], "and after that"


@pytest.mark.parametrize(
    "parts", [[m.Part(0, b"\x91\x91"), m.Part(2, b"\x0e", True)], [m.Part(0, b"\xc1", True)]]
)
def test_parts_that_make_no_message_are_a_bad_frame(parts: list[m.Part]) -> None:
    reader = PartReader(m.decode_to_node)
    with pytest.raises(BadFrame):
        for part in parts:
            reader.take(part)
