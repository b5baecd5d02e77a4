"""What a stream makes of the bytes it reads: messages one by one, or many of a kind at once."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from skate import messages as m
from skate.client.stream import Stream
from skate.net.frame import frame


class Reader:
    """One end of a lane, that notes what its handlers are given."""

    def __init__(self) -> None:
        self.peer, self.sock = socket.socketpair()
        self.seen: list[Any] = []
        self.is_interrupted = False
        self.stream = Stream(
            self.sock, m.decode_to_caller,
            {m.Outcome: self.seen.append, m.LaneEnds: self.seen.append},
            self.seen.append, "the worker", m.Outcome, self.on_many,
        )  # fmt: skip

    def on_many(self, outcomes: list[m.Outcome]) -> None:
        self.seen.append(list(outcomes))
        if self.is_interrupted:
            self.is_interrupted = False
            raise KeyboardInterrupt


@pytest.fixture
def reader() -> Iterator[Reader]:
    reader = Reader()
    yield reader
    reader.peer.close()
    reader.sock.close()


OUTCOMES = [m.Outcome(bytes([number]), b"data") for number in range(3)]


def test_outcomes_of_several_frames_are_handed_over_at_once(reader: Reader) -> None:
    reader.peer.sendall(frame(OUTCOMES[:1]) + frame(OUTCOMES[1:]))
    assert reader.stream.read()
    assert reader.seen == [OUTCOMES]


def test_among_other_messages_they_keep_their_place(reader: Reader) -> None:
    mixed = [OUTCOMES[0], m.LaneEnds(3), OUTCOMES[1]]
    reader.peer.sendall(frame(mixed))
    assert reader.stream.read()
    assert reader.seen == mixed


def test_an_interrupt_has_them_all_handed_over_again_before_what_comes_next(reader: Reader) -> None:
    reader.is_interrupted = True
    reader.peer.sendall(frame(OUTCOMES[:2]))
    with pytest.raises(KeyboardInterrupt):
        reader.stream.read()
    reader.peer.sendall(frame(OUTCOMES[2:]))
    assert reader.stream.read()
    assert reader.seen == [OUTCOMES[:2], OUTCOMES[:2], OUTCOMES[2:]]
