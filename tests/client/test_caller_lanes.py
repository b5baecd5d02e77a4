"""The lanes of a process as a caller, between its runtime, its node and a worker's socket."""

from __future__ import annotations

import gc
import linecache
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

from skate import messages as m
from skate.client.connection import Connection
from skate.client.runtime import Runtime
from skate.config import COURIER_TICK_S, FLUSH_CALLS
from skate.errors import RuntimeClosedError
from skate.ids import FIRST_RETURN
from skate.net import unix_socket
from skate.net.frame import FrameReader, frame
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
        self.worker = unix_socket.listen(str(folder / WORKER.hex()), 8)
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


def test_a_call_after_the_end_of_the_node_says_so_though_there_is_a_lane(ends: Ends) -> None:
    connection = ends.runtime.connection
    ends.node.send(LANE)
    connection.try_read()
    assert ends.rides(ends.submit())
    ends.node.socket.close()
    connection.try_read()
    with pytest.raises(RuntimeClosedError, match="node daemon"):
        ends.submit()
    connection.close("the session ends")
    with pytest.raises(RuntimeClosedError, match="node daemon"):
        ends.submit()


def test_the_courier_leaves_a_lane_to_the_thread_that_waits_for_it(ends: Ends) -> None:
    connection = ends.runtime.connection
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        ticks += 1

    ends.node.send(LANE)
    connection.try_read()
    assert ends.rides(ends.submit())
    connection.on_tick = tick
    connection.start_courier(COURIER_TICK_S)
    assert not connection.wait_for(lambda: False, 1.0)
    assert ticks <= 1.5 / COURIER_TICK_S


class Interrupt(BaseException):
    """As Ctrl-C raises it, at a line of our choice."""


def interrupted_at(line: int, call: Callable[[], object]) -> bool:
    """Whether the call was interrupted, at so many lines of the caller's lanes and their book.

    Python raises no interrupt where a ``with`` is left.
    """
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> object:
        nonlocal count
        code = frame.f_code
        if not code.co_filename.endswith(("caller_lanes.py", "lane_book.py", "connection.py")):
            return None
        text = linecache.getline(code.co_filename, frame.f_lineno).strip()
        if event == "line" and code.co_name != "try_read" and not text.startswith("with "):
            count += 1
            if count == line:
                raise Interrupt
        return trace

    sys.settrace(trace)  # type: ignore[arg-type]
    try:
        call()
    except Interrupt:
        return True
    finally:
        sys.settrace(None)
    return False


def test_a_lane_that_is_opened_while_an_interrupt_comes_takes_calls_and_is_read(
    tmp_path: Path,
) -> None:
    line, goes_on = 0, True
    while goes_on:
        line += 1
        folder = tmp_path / str(line)
        folder.mkdir()
        ends = Ends(folder)
        connection = ends.runtime.connection
        try:
            ends.node.send(LANE)
            goes_on = interrupted_at(line, connection.try_read)
            gc.collect()  # of a socket that was not noted yet
            ends.submit()  # neither fails nor spoils anything
            connection.try_read()
            ref = ends.submit()
            assert ends.rides(ref), line
            connection.flush()
            ends.worker.settimeout(10)
            while True:  # an interrupt may have connected in vain
                lane = ends.worker.accept()[0]
                lane.settimeout(10)
                data = lane.recv(1 << 20)
                if data:
                    break
            called = FrameReader(m.decode_to_callee).feed(data)
            assert called[0] == m.LaneHello(1, b"process"), line
            assert called[-1].task_id + FIRST_RETURN == ref
            answers = [
                m.Outcome(call.task_id, FORMAT_RAW + b"value")
                for call in called
                if isinstance(call, m.Call)
            ]
            lane.sendall(frame(answers))
            connection.hint = None  # a thread that was here meanwhile would look elsewhere
            assert ends.runtime.get([ref], 5.0) == [b"value"]
            lane.close()
        finally:
            connection.close("the test is over")
            ends.node.socket.close()
            ends.worker.close()
    assert line > 30
