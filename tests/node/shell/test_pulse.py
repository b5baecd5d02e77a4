"""A busy loop's thread tells the GCS that the node lives: on real sockets, in real time."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from skate import messages as m
from skate.net.frame import FrameReader
from skate.node.shell.pulse import Pulse
from tests.conftest import eventually

NODE = b"n" * 16
SOON_S = 10.0


class Gcs:
    """The other end: hands out connections and reads what is said on them."""

    def __init__(self) -> None:
        self.ends: list[socket.socket] = []
        self.failures = 0

    def connect(self) -> socket.socket:
        if self.failures:
            self.failures -= 1
            raise ConnectionRefusedError("not now")
        ours, theirs = socket.socketpair()
        ours.settimeout(SOON_S)
        self.ends.append(ours)
        return theirs

    def heard(self, count: int) -> list[object]:
        reader = FrameReader(m.decode_to_gcs)
        found: list[object] = []
        while len(found) < count:
            found += reader.feed(self.ends[-1].recv(4096))
        return found


@pytest.fixture
def gcs() -> Iterator[Gcs]:
    made = Gcs()
    yield made
    for end in made.ends:
        end.close()


def until_connected(gcs: Gcs) -> None:
    eventually(lambda: gcs.ends, "a connection of the pulse", SOON_S)


@pytest.mark.parametrize("is_head", [True, False])
def test_a_loop_that_does_not_come_round_is_spoken_for(gcs: Gcs, is_head: bool) -> None:
    pulse = Pulse(NODE, is_head, gcs.connect)
    pulse.start()
    until_connected(gcs)
    assert gcs.heard(2) == [m.StillAlive(NODE, is_head)] * 2

    def hung_up() -> bool:
        pulse.beat()  # the loop is back
        try:
            return not gcs.ends[-1].recv(4096, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False

    eventually(hung_up, "the end of the pulse's connection", SOON_S)
    pulse.close()


def test_it_tries_again_when_the_gcs_could_not_be_reached(gcs: Gcs) -> None:
    gcs.failures = 2
    pulse = Pulse(NODE, False, gcs.connect)
    pulse.start()
    until_connected(gcs)
    assert gcs.heard(1) == [m.StillAlive(NODE, False)]
    pulse.close()
