"""The relay in front of a TLS socket: a plain one, to all who use it."""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from skate.net.tls_relay import plain_end
from tests.conftest import eventually
from tests.net.certificates import Authority
from tests.net.house import HEARD_WITHIN_S, House, receive_all


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[socket.socket, ssl.SSLSocket]]:
    """The plain end, and the TLS socket at the far side of the line."""
    tls = Authority(tmp_path).tls()
    near, far = socket.socketpair()
    far.settimeout(HEARD_WITHIN_S)
    wrapped: list[ssl.SSLSocket] = []
    thread = threading.Thread(
        target=lambda: wrapped.append(tls.accepting.wrap_socket(far, server_side=True))
    )
    thread.start()
    plain = plain_end(tls.dialling.wrap_socket(near))
    thread.join(HEARD_WITHIN_S)
    plain.settimeout(HEARD_WITHIN_S)
    with plain, wrapped[0]:
        yield plain, wrapped[0]
    eventually(
        lambda: not any(thread.name == "skate-tls" for thread in threading.enumerate()),
        "the relay has ended with its connection",
    )


def test_both_ways_at_a_time(pair: tuple[socket.socket, ssl.SSLSocket]) -> None:
    plain, far = pair
    data = os.urandom(3_000_000)
    heard: dict[str, bytes] = {}

    def echo() -> None:
        while part := far.recv(10_000):
            far.sendall(part)

    def read() -> None:
        heard["back"] = b""
        while len(heard["back"]) < len(data):
            heard["back"] += plain.recv(100_000)

    threads = [threading.Thread(target=echo), threading.Thread(target=read)]
    for thread in threads:
        thread.start()
    plain.sendall(data)
    threads[1].join(HEARD_WITHIN_S)
    plain.close()
    threads[0].join(HEARD_WITHIN_S)
    assert heard["back"] == data


def test_it_can_be_polled(pair: tuple[socket.socket, ssl.SSLSocket]) -> None:
    plain, far = pair
    assert plain.send(b"x", socket.MSG_DONTWAIT) == 1
    far.sendall(b"y" * 40_000)  # more than a record of TLS: nothing may stay behind unseen
    got = b""
    while len(got) < 40_000:
        assert select.select([plain], [], [], HEARD_WITHIN_S)[0]
        got += plain.recv(10_000, socket.MSG_DONTWAIT)
    assert not select.select([plain], [], [], 0)[0]


def test_the_far_end_is_our_end(pair: tuple[socket.socket, ssl.SSLSocket]) -> None:
    plain, far = pair
    far.sendall(b"last words")
    far.close()
    assert receive_all(plain) == b"last words"


def test_our_end_is_the_far_end(pair: tuple[socket.socket, ssl.SSLSocket]) -> None:
    """Even with something unread on our side, what we said last arrives."""
    plain, far = pair
    far.sendall(b"z" * 100_000)
    plain.sendall(b"last words")
    plain.close()
    far.suppress_ragged_eofs = True
    assert receive_all(far) == b"last words"


def test_who_does_not_read_holds_up_who_writes(pair: tuple[socket.socket, ssl.SSLSocket]) -> None:
    plain, far = pair
    plain.setblocking(False)
    sent = 0
    while select.select([], [plain], [], 0.3)[1]:
        sent += plain.send(bytes(65_536))
        assert sent < 16 << 20
    plain.setblocking(True)
    got = 0
    while got < sent:
        got += len(far.recv(1 << 20))


def test_a_forked_child_does_not_keep_it_open(tmp_path: Path) -> None:
    """Or the node would not see that a driver has died whose child lives on."""
    with House(tls=Authority(tmp_path).tls()) as house:
        sock = house.dial().sock
        assert isinstance(sock, ssl.SSLSocket)
        plain = plain_end(sock)
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            plain.close()
            os.close(write_end)
            os.read(read_end, 1)
            os._exit(0)
        try:
            eventually(lambda: house.lines, "the line is there")
            plain.close()
            eventually(lambda: not house.lines, "and gone, though the child is not")
        finally:
            os.close(write_end)
            os.waitpid(child, 0)
            os.close(read_end)
