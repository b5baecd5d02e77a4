"""The lanes of a process as a caller, between its runtime, its node and a worker's socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from skate import messages as m
from skate.client.connection import Connection
from skate.client.runtime import Runtime
from skate.config import FLUSH_CALLS
from skate.net import unix_socket
from skate.spec import FORMAT_RAW, CallTemplate
from tests.client.test_connection import Node

PAGE = 4096
WORKER = b"w" * 16
LANE = m.LaneOpen(1, WORKER, template=0, window=8)


class Ends:
    """A process, the other end of its connection, and a worker that listens for it."""

    def __init__(self, folder: Path) -> None:
        arena = folder / "arena"
        arena.write_bytes(bytes(PAGE))
        self.worker = unix_socket.listen(str(folder / WORKER.hex()), 1)
        ours, theirs = socket.socketpair()
        self.node = Node(theirs)
        self.runtime = Runtime(
            Connection(ours),
            job_id=b"jobs",
            node_id=b"n" * 16,
            submitter=b"process",
            session="s",
            arena_path=str(arena),
            arena_bytes=PAGE,
            namespace="",
            is_driver=True,
            lanes_dir=str(folder),
        )
        spec = CallTemplate("task", b"f" * 16, "f", (("CPU", 10_000),), max_retries=3)
        self.runtime.register(spec, b"code", "f")

    def submit(self) -> bytes:
        return self.runtime.submit(0, b"", None, None, 1)[0]

    def rides(self, ref: bytes) -> bool:
        return self.runtime.lanes is not None and self.runtime.lanes.are_riding([ref])


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    ends = Ends(tmp_path)
    yield ends
    ends.runtime.connection.close("the test is over")
    ends.node.socket.close()
    ends.worker.close()


def test_the_node_is_not_asked_for_a_value_that_another_thread_takes_in(ends: Ends) -> None:
    """The courier has a value between promised and here: only its lane could bring it."""
    ends.node.send(LANE)
    ends.runtime.connection.try_read()
    ref = ends.submit()
    assert ends.rides(ref)
    ends.runtime.values.promised.discard(ref)  # how taking it in begins
    ends.runtime.want([ref])
    ends.runtime.values.on_ready(m.Ready(ref, FORMAT_RAW + b"value"))
    assert ends.runtime.get([ref], 1.0) == [b"value"]
    ends.runtime.connection.append(m.Unblocked())
    ends.runtime.connection.flush()
    heard = ends.node.read(3)
    while not isinstance(heard[-1], m.Unblocked):
        heard = ends.node.read(len(heard) + 1)
    assert not any(isinstance(message, m.Want) for message in heard)


def test_a_burst_that_never_waits_sees_that_a_lane_was_opened(ends: Ends) -> None:
    assert not ends.rides(ends.submit())
    ends.node.send(LANE)
    refs = [ends.submit() for _ in range(FLUSH_CALLS)]
    assert not ends.rides(refs[0]) and ends.rides(refs[-1])
