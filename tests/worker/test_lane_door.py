"""A worker's end of its lanes: real sockets to its node and to callers, and nothing behind them."""

from __future__ import annotations

import errno
import os
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skate import config
from skate import messages as m
from skate.client.connection import Connection
from skate.net import unix_socket
from skate.net.frame import FrameReader, frame
from skate.spec import FORMAT_PICKLE, CallTemplate, JobConfig
from skate.worker.inbox import Inbox
from tests.client.test_connection import Node

CALLER = b"caller7"
WORKER = b"w" * 16
METHOD = CallTemplate("method", b"", "A.g", method="g")
ONE, TWO, THREE = (bytes([number]) * 16 for number in range(1, 4))
LARGE = FORMAT_PICKLE + bytes(config.LANE_VALUE_BYTES)


class Caller:
    """The other end of a lane."""

    def __init__(self, folder: Path, lane: int) -> None:
        self.socket = unix_socket.connect(str(folder / WORKER.hex()))
        self.socket.settimeout(10)
        self._reader = FrameReader(m.decode_to_caller)
        self.send(m.LaneHello(lane, CALLER), m.RegisterTemplate(0, METHOD))

    def send(self, *messages: Any) -> None:
        self.socket.sendall(frame(messages))

    def read(self) -> list[Any]:
        """The next messages; none at the end of the stream."""
        try:
            data = self.socket.recv(1 << 20)
        except ConnectionResetError:
            return []
        return self._reader.feed(data) if data else []


class Callee:
    """The process, and the node's end of its connection."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ours, theirs = socket.socketpair()
        self.node = Node(theirs)
        self.connection = Connection(ours)
        setup = m.WorkerSetup(
            b"jobs", b"n" * 16, b"process", "s", "", 0, JobConfig(), 1,
            actor_id=b"a" * 16, worker_id=WORKER, lanes_dir=str(folder),
        )  # fmt: skip
        self.inbox = Inbox(self.connection, setup, lambda function: None)

    def lane(self, number: int = 1) -> Caller:
        self.expect(number)
        caller = Caller(self.folder, number)
        self.connection.try_read()
        return caller

    def expect(self, number: int) -> None:
        self.node.send(m.LaneExpected(number, CALLER))
        self.connection.try_read()

    def run(self, data: bytes = FORMAT_PICKLE) -> None:
        work = self.inbox.next()
        assert work is not None
        self.inbox.answer(work, m.Done(work.run.task_id, 0, 1.0, 2.0, data))

    def wait(self, seconds: float) -> float:
        """Wait for what never comes; the processor's time that this took."""
        begun = time.process_time()
        assert not self.connection.wait_for(lambda: False, seconds)
        return time.process_time() - begun


@pytest.fixture
def callee(tmp_path: Path) -> Iterator[Callee]:
    callee = Callee(tmp_path)
    yield callee
    callee.inbox.close()
    callee.connection.close("the test is over")
    callee.node.socket.close()


def test_who_waits_for_a_node_that_does_not_read_sleeps(callee: Callee) -> None:
    """A lane's answer may have to wait for the node: then its own socket's room means nothing."""
    caller = callee.lane()
    caller.send(m.Call(ONE, 0, 0, b"", 0))
    callee.connection.try_read()
    size = 1_000_000
    callee.connection.append(m.Put(b"p" * 20, bytes(size)), size)  # more than its socket takes
    callee.run(LARGE)
    assert callee.wait(0.5) < 0.25
    while not any(isinstance(each, m.LaneResult) for each in callee.node.messages):
        callee.node.read(len(callee.node.messages) + 1)
        callee.connection.wait_for(lambda: False, 0.01)
    assert caller.read() == [m.Outcome(ONE, b"", m.AT_NODE)]


def test_who_waits_for_a_caller_that_does_not_read_sleeps(callee: Callee) -> None:
    caller = callee.lane()
    data = FORMAT_PICKLE + bytes(config.LANE_VALUE_BYTES - 1)
    ids = [bytes([number]) * 16 for number in range(60)]
    caller.send(*(m.Call(task_id, number, 0, b"", 0) for number, task_id in enumerate(ids)))
    callee.connection.try_read()
    for _ in ids:
        callee.run(data)
    begun = time.process_time()
    time.sleep(0.5)  # nobody waits: the courier is left with it
    assert time.process_time() - begun < 0.05
    assert callee.wait(0.3) < 0.15
    outcomes: list[Any] = []
    while len(outcomes) < len(ids):
        outcomes += caller.read()
    assert [outcome.task_id for outcome in outcomes] == ids


def test_without_a_descriptor_a_caller_is_told_and_nobody_spins(callee: Callee) -> None:
    callee.expect(1)
    callee.expect(2)
    caller, second = Caller(callee.folder, 1), Caller(callee.folder, 2)
    bounds = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, bounds[0]), bounds[1]))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            while True:
                taken.append(os.dup(0))
        assert callee.wait(0.5) < 0.25
        assert caller.read() == [m.LaneEnds(0)] == second.read()
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, bounds)
    assert callee.lane(3).socket.fileno() >= 0 and len(callee.connection.sources) == 2


@pytest.mark.parametrize(
    "breach",
    [
        m.Call(ONE, 0, 7, b"", 0),
        m.Call(ONE, 0, 0, b"", 0, dependencies=[b"d" * 20], values=[]),
        m.LaneOver(1),
    ],
)
def test_a_caller_that_breaks_the_protocol_loses_its_lane_and_nobody_else(
    callee: Callee, breach: Any
) -> None:
    bad, good = callee.lane(1), callee.lane(2)
    bad.send(breach)
    callee.connection.try_read()
    assert bad.read() == [] and callee.inbox.next() is None
    good.send(m.Call(TWO, 0, 0, b"", 0))
    callee.connection.try_read()
    callee.run()
    assert good.read() == [m.Outcome(TWO, FORMAT_PICKLE)]
