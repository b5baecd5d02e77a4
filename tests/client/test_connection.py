"""The client's end of its one connection, against the other end of a real socket."""

from __future__ import annotations

import os
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from skate import messages as m
from skate.client.connection import Connection
from skate.config import SLEEP_AT_MOST_S
from skate.errors import RuntimeClosedError
from skate.net.frame import FrameReader, frame


class Node:
    """The other end: reads what the client sends, and sends what a test wants."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.socket.settimeout(10)
        self._reader = FrameReader(m.decode_to_node)
        self.messages: list[Any] = []
        self.frames = 0

    def read(self, count: int) -> list[Any]:
        """Read until there are so many messages in all."""
        while len(self.messages) < count:
            data = self.socket.recv(1 << 20)
            assert data, "the client has closed"
            self.messages += self._reader.feed(data)
        return self.messages

    def send(self, *messages: Any) -> None:
        self.socket.sendall(frame(messages))


@pytest.fixture
def ends() -> Iterator[tuple[Connection, Node]]:
    ours, theirs = socket.socketpair()
    connection, node = Connection(ours), Node(theirs)
    yield connection, node
    connection.close("the test is over")
    node.socket.close()


def in_threads(count: int, call: Callable[[int], Any]) -> list[Any]:
    """What each call returned or raised."""
    results: list[Any] = [None] * count

    def run(number: int) -> None:
        try:
            results[number] = call(number)
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive(), "a call hangs"
    return results


def test_a_single_message_leaves_without_a_further_call(ends: tuple[Connection, Node]) -> None:
    connection, node = ends
    connection.append(m.Ask(1, "ping", {}))
    assert node.read(1) == [m.Ask(1, "ping", {})]
    for number in range(2, 12):  # behind one another: the courier sees to them
        connection.append(m.Ask(number, "ping", {}))
    assert [ask.number for ask in node.read(11)] == list(range(1, 12))


def test_releases_ride_with_the_next_message_or_leave_before_a_sleep(
    ends: tuple[Connection, Node],
) -> None:
    connection, node = ends
    gone: list[m.Release] = []

    def add_releases(outbox: list[Any]) -> None:
        outbox.extend(gone)
        gone.clear()

    connection.before_flush = add_releases
    first, second = m.Release([b"o" * 20]), m.Release([b"p" * 20])
    gone.append(first)
    connection.push()
    connection.append(m.Ask(1, "ping", {}))
    assert node.read(2) == [m.Ask(1, "ping", {}), first]
    gone.append(second)
    assert not connection.wait_for(lambda: False, 0.01)
    assert node.read(3)[2] == second


def test_appending_never_blocks_and_keeps_the_order(ends: tuple[Connection, Node]) -> None:
    connection, node = ends
    payload = bytes(50_000)
    for number in range(1_000):  # 50 MB that nobody reads
        connection.append(m.Put(struct.pack(">5I", 0, 0, 0, 0, number), payload), len(payload))
    received = node.read(1_000)
    assert [struct.unpack(">5I", put.object_id)[4] for put in received] == list(range(1_000))
    assert all(put.data == payload for put in received)


def test_every_waiting_thread_gets_its_own_answer(ends: tuple[Connection, Node]) -> None:
    connection, node = ends
    answers: dict[int, m.Answer] = {}
    connection.handlers[m.Answer] = lambda answer: answers.setdefault(answer.number, answer)

    def serve() -> None:
        answered = 0
        while answered < 400:
            asks = node.read(answered + 1)[answered:]
            node.send(*(m.Answer(ask.number, ask.number * 2) for ask in reversed(asks)))
            answered += len(asks)

    server = threading.Thread(target=serve)
    server.start()

    def ask(thread: int) -> list[Any]:
        got = []
        for number in range(thread * 50, thread * 50 + 50):
            connection.append(m.Ask(number, "double", {}))
            assert connection.wait_for(lambda number=number: number in answers, 20)
            got.append(answers[number].body)
        return got

    results = in_threads(8, ask)
    server.join()
    assert results == [[2 * n for n in range(t * 50, t * 50 + 50)] for t in range(8)]


def test_a_time_out_is_kept_also_by_threads_that_do_not_read(
    ends: tuple[Connection, Node],
) -> None:
    connection, _ = ends
    begun = time.monotonic()
    assert in_threads(4, lambda _: connection.wait_for(lambda: False, 0.2)) == [False] * 4
    assert 0.2 <= time.monotonic() - begun < 5


def test_a_time_out_is_kept_also_while_something_always_comes(
    ends: tuple[Connection, Node],
) -> None:
    connection, node = ends
    connection.handlers[m.Notice] = lambda notice: node.send(
        notice
    )  # one has come: the next is sent
    node.send(m.Notice("again"))
    begun = time.monotonic()
    assert not connection.wait_for(lambda: time.monotonic() > begun + 5, 0.1)


BREACHES = {
    "garbage": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "a frame too large": struct.pack("<I", 2**32 - 1),
    "a frame that does not decode": struct.pack("<I", 3) + b"\xc1\xc1\xc1",
    "a message for a node": frame([m.Ask(1, "ping", {})]),
    "a message for a worker": frame([m.Exit("go")]),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_a_breach_of_the_protocol_ends_the_connection_for_all_threads(
    ends: tuple[Connection, Node], breach: str
) -> None:
    connection, node = ends
    reasons: list[str] = []
    connection.on_lost = reasons.append
    node.socket.sendall(BREACHES[breach])
    results = in_threads(5, lambda _: connection.wait_for(lambda: False))
    assert [type(result) for result in results] == [RuntimeClosedError] * 5
    assert len(reasons) == 1
    assert "the node daemon" in reasons[0]
    with pytest.raises(RuntimeClosedError):
        connection.append(m.Ask(1, "ping", {}))


@pytest.mark.parametrize("last", [b"", frame([m.Exit("x")])[:-1]])
def test_a_node_that_vanishes_also_in_mid_frame_is_noticed(
    ends: tuple[Connection, Node], last: bytes
) -> None:
    connection, node = ends
    connection.handlers[m.Exit] = lambda message: pytest.fail("half a message was handled")
    node.socket.sendall(last)
    threading.Timer(0.05, node.socket.close).start()
    (result, *_) = in_threads(3, lambda _: connection.wait_for(lambda: False))
    assert isinstance(result, RuntimeClosedError)


def test_what_the_node_said_before_it_vanished_is_still_heard(
    ends: tuple[Connection, Node],
) -> None:
    connection, node = ends
    heard: list[str] = []
    connection.handlers[m.SessionEnds] = lambda message: heard.append(message.reason)
    node.send(m.SessionEnds("good-bye"))
    node.socket.close()
    with pytest.raises(RuntimeClosedError):
        connection.wait_for(lambda: False)
    assert heard == ["good-bye"]


def test_a_fork_does_not_touch_its_parent_s_connection(ends: tuple[Connection, Node]) -> None:
    connection, node = ends
    pid = os.fork()
    if pid == 0:
        try:
            connection.close_in_child()
            connection.append(m.Blocked())
        except RuntimeClosedError:
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    connection.append(m.Ask(1, "ping", {}))
    assert node.read(1) == [m.Ask(1, "ping", {})]


def test_a_quiet_courier_reads_and_sends_at_once(ends: tuple[Connection, Node]) -> None:
    connection, node = ends
    heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
    connection.handlers[m.Notice] = connection.on_lost = heard.put
    connection.start_courier(0.001)
    begin = time.monotonic()
    for number in range(20):
        node.send(m.Notice("a warning"))
        heard.get(timeout=10)
        connection.append(m.Blocked())
        connection.append(m.Blocked())  # for the courier: the line was used just now
        node.read(2 * number + 2)
    node.socket.close()
    assert "closed the connection" in heard.get(timeout=10)
    assert time.monotonic() - begin < 20 * SLEEP_AT_MOST_S / 4
