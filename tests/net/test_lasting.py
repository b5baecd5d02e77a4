"""Lasting lines: whatever breaks, each side handles what the other sent, in order, once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skate import config
from skate import messages as m
from skate.net.frame import FrameReader, frame
from skate.net.lasting import LastingLine, LineBroken


def numbered(first: int, count: int, size: int = 0) -> list[Any]:
    return [m.Ask(number, "x" * size, {}) for number in range(first, first + count)]


def read(data: bytes) -> list[Any]:
    return FrameReader(m.decode_to_node).feed(data)


class End:
    """One side as a shell would run it: a line that stays, and a connection's reader that goes."""

    def __init__(self, seen_after: int) -> None:
        self.line = LastingLine(seen_after_messages=seen_after)
        self.sent = 0
        self.handled: list[int] = []
        self.connected = False
        self.wire = b""  # on its way to the other side

    def send(self, count: int, size: int) -> None:
        data = b"".join(self.line.outgoing(numbered(self.sent, count, size)))
        self.sent += count
        if self.connected:
            self.wire += data

    def connect(self, peer_received: int) -> None:
        self.reader = FrameReader(m.decode_to_node)
        self.connected = True
        self.wire = b"".join(self.line.resume(peer_received))

    def receive(self, data: bytes) -> None:
        found = self.reader.feed(data)
        self.handled += [message.number for message in self.line.incoming(found, len(data))]
        if seen := self.line.due_seen():
            self.wire += frame([seen])


class Pair:
    """Two ends and the connection between them, which loses all that is on its way when it is
    cut; either side may notice later than the other, and goes on sending into nothing."""

    def __init__(self, seen_after: int) -> None:
        self.ends = [End(seen_after), End(seen_after)]
        self.is_whole = False

    def deliver(self, to: int, size: int) -> None:
        """So many bytes; they go nowhere if the connection is cut."""
        receiver, sender = self.ends[to], self.ends[1 - to]
        data, sender.wire = sender.wire[:size], sender.wire[size:]
        if self.is_whole:
            receiver.receive(data)

    def cut(self) -> None:
        self.is_whole = False

    def notice(self, side: int) -> None:
        if not self.is_whole:
            self.ends[side].connected = False

    def connect(self) -> None:
        """As in the handshake: each tells what it has, then each sends again what is missing."""
        one, other = self.ends
        told = one.line.received, other.line.received
        one.connect(told[1])
        other.connect(told[0])
        self.is_whole = True

    def check(self) -> None:
        for side, end in enumerate(self.ends):
            assert end.handled == list(range(end.line.received))
            assert end.line.received <= self.ends[1 - side].sent


sides = st.integers(0, 1)
steps = st.one_of(
    st.tuples(st.just("send"), sides, st.integers(1, 5), st.sampled_from([0, 3, 400])),
    st.tuples(st.just("deliver"), sides, st.integers(1, 60)),
    st.tuples(st.just("deliver"), sides, st.just(100_000)),
    st.tuples(st.just("cut")),
    st.tuples(st.just("notice"), sides),
    st.tuples(st.just("connect")),
)


@settings(max_examples=400)
@given(st.integers(1, 6), st.lists(steps, max_size=60))
def test_each_side_handles_what_was_sent_in_order_and_once(
    seen_after: int, script: list[tuple[Any, ...]]
) -> None:
    pair = Pair(seen_after)
    for name, *arguments in script:
        if name == "send":
            side, count, size = arguments
            pair.ends[side].send(count, size)
        else:
            act: Callable[..., None] = getattr(pair, name)
            act(*arguments)
        pair.check()
    pair.connect()
    for _ in range(3):  # what is delivered may make the other side say Seen
        pair.deliver(0, 1 << 20)
        pair.deliver(1, 1 << 20)
    pair.check()
    for side, end in enumerate(pair.ends):
        assert end.line.received == pair.ends[1 - side].sent
        assert len(read(b"".join(end.line.resume(end.sent)))) == 0
        assert end.line.kept_bytes == 0


def test_nothing_is_kept_that_was_seen() -> None:
    line = LastingLine()
    first = line.outgoing(numbered(0, 3))
    second = line.outgoing(numbered(3, 2))
    assert line.kept_bytes == sum(map(len, first + second))
    assert line.incoming([m.Seen(3)]) == []
    assert line.kept_bytes == sum(map(len, second))
    assert line.resume(3) == second
    assert line.resume(5) == [] and line.kept_bytes == 0


def test_seen_is_not_counted_and_not_handled() -> None:
    line = LastingLine()
    line.outgoing(numbered(0, 1))
    asks = numbered(0, 2)
    assert line.incoming([asks[0], m.Seen(1), asks[1]]) == asks
    assert line.received == 2


def test_an_old_seen_changes_nothing() -> None:
    line = LastingLine()
    line.outgoing(numbered(0, 1))
    rest = line.outgoing(numbered(1, 1))
    line.incoming([m.Seen(1), m.Seen(0)])
    assert line.resume(1) == rest


def test_the_sender_is_told_after_so_many_messages() -> None:
    line = LastingLine(seen_after_messages=3)
    line.incoming(numbered(0, 2))
    assert line.due_seen() is None
    line.incoming(numbered(2, 1))
    assert line.due_seen() == m.Seen(3)
    assert line.due_seen() is None


def test_or_after_so_many_bytes() -> None:
    line = LastingLine(seen_after_bytes=1_000)
    line.incoming(numbered(0, 1), 600)
    assert line.due_seen() is None
    line.incoming([], 600)  # half a frame
    assert line.due_seen() == m.Seen(1)
    line.incoming([], 5_000)
    assert line.due_seen() is None, "there is nothing to tell"


def test_the_handshake_tells_too() -> None:
    line = LastingLine(seen_after_messages=3)
    line.incoming(numbered(0, 2))
    line.resume(0)
    line.incoming(numbered(2, 2))
    assert line.due_seen() is None


def test_large_batches_are_counted_frame_by_frame() -> None:
    line = LastingLine()
    parts = line.outgoing(numbered(0, 6, config.READ_TURN_BYTES // 2))
    assert len(parts) > 2
    counts = [len(read(part)) for part in parts]
    assert sum(counts) == line.sent == 6
    assert line.resume(counts[0]) == parts[1:]
    line.incoming([m.Seen(counts[0] + counts[1])])
    assert line.kept_bytes == sum(map(len, parts[2:]))


def test_a_message_that_fits_no_frame_counts_as_its_parts() -> None:
    line, other = LastingLine(), LastingLine()
    data = line.outgoing([m.Put(b"p" * 20, bytes(config.MAX_FRAME_BYTES)), *numbered(0, 1)])
    for part in data[:10]:
        other.incoming(read(part))
    assert line.resume(other.received) == data[10:], "a connection broke in the middle"
    for part in data[10:]:
        other.incoming(read(part))
    assert other.received == line.sent == len(data)


def test_an_empty_batch_is_no_frame() -> None:
    assert LastingLine().outgoing([]) == []


@pytest.mark.parametrize(("received", "why"), [(5, "5"), (1, "no frame ends"), (2**63, "sent")])
def test_a_peer_that_counts_otherwise_ends_the_line(received: int, why: str) -> None:
    line = LastingLine()
    line.outgoing(numbered(0, 2))
    line.outgoing(numbered(2, 2))
    with pytest.raises(LineBroken, match=why):
        line.resume(received)


def test_a_peer_that_has_begun_anew_ends_the_line() -> None:
    line = LastingLine()
    line.outgoing(numbered(0, 2))
    line.incoming([m.Seen(2)])
    with pytest.raises(LineBroken, match="begun anew"):
        line.resume(0)


def test_a_peer_that_has_seen_more_than_was_sent_ends_the_line() -> None:
    with pytest.raises(LineBroken, match="0 were sent"):
        LastingLine().incoming([m.Seen(1)])


def test_a_line_that_only_passes_frames_on_counts_as_the_other_side_does() -> None:
    """Somebody between a client and its node, who makes and reads no messages."""
    passing, node = LastingLine(seen_after_messages=3), LastingLine()
    first, second = frame(numbered(0, 2)), frame(numbered(2, 1))
    passing.forward(first, 2)
    passing.forward(second, 1)
    assert node.incoming(read(first)) == numbered(0, 2)
    assert passing.resume(node.received) == [second]
    node.incoming(read(second))
    passing.seen(node.tell().count)
    assert passing.kept_bytes == 0
    with pytest.raises(LineBroken, match="3 were sent"):
        passing.seen(4)
    for data in node.outgoing(numbered(0, 3)):
        passing.forwarded(3, len(data))
    assert passing.due_seen() == m.Seen(3) and passing.due_seen() is None
    assert passing.tell() == m.Seen(3)


def test_a_line_says_when_it_keeps_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "KEPT_MAX_BYTES", 5_000)
    line = LastingLine()
    while not line.is_full:
        assert line.kept_bytes <= config.KEPT_MAX_BYTES
        line.outgoing(numbered(line.sent, 1, 1_000))
    line.incoming([m.Seen(line.sent)])
    assert not line.is_full
