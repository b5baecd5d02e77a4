"""The door of a node, with real sockets: members get in, strangers learn nothing."""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from skate import config
from skate.net import unix_socket
from skate.net.dialing import RefusedError, dial
from skate.net.handshake import NO, NONCE_BYTES, PURPOSES, DialHandshake, LineHello, LineOk
from skate.net.tls import Tls
from tests.conftest import eventually
from tests.net.certificates import Authority
from tests.net.house import HEARD_WITHIN_S, NODE_ID, SESSION, TOKEN, House, receive_all

PRELUDE_BYTES = 44  # of the door: magic, version, flags, nonce
SECRETS = (NODE_ID, SESSION.encode(), config.PYTHON.encode(), TOKEN)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(params=["clear", "tls"])
def tls(request: pytest.FixtureRequest, authority: Authority) -> Tls | None:
    return authority.tls() if request.param == "tls" else None


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> float:
    """Strangers have less time than in real life."""
    monkeypatch.setattr(config, "HELLO_TIMEOUT_S", 0.4)
    return config.HELLO_TIMEOUT_S


def handshake(purpose: str = "node", token: bytes = TOKEN, nonce: bytes = b"n") -> DialHandshake:
    hello = LineHello(purpose, node_id=b"caller", received=3)
    return DialHandshake(token, nonce * NONCE_BYTES, hello, "here")


def begin(house: House, side: DialHandshake) -> tuple[socket.socket, bytes]:
    """A connection up to the door's prelude; and our answer to it."""
    sock = house.stranger()
    sock.sendall(side.begin())
    return sock, side.feed(exactly(sock, PRELUDE_BYTES))


def exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        assert part, f"the end, after {data!r}"
        data += part
    return data


def is_over(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


# ---------------------------------------------------------------------------------- members


@pytest.mark.parametrize("purpose", ["node", "driver", "data"])
def test_a_member_is_led_to_its_route(purpose: str, tls: Tls | None) -> None:
    with House(tls=tls) as house:
        line = house.dial(purpose)
        with line.sock as sock:
            sock.sendall(b"hello there")
            assert exactly(sock, 11) == b"hello there"
        received = 0 if purpose == "data" else 4
        assert line.ok == LineOk(NODE_ID, b"", received, SESSION)
        eventually(lambda: not house.lines, "the node's side has ended too")


def test_the_hello_reaches_the_route(tls: Tls | None) -> None:
    with House(tls=tls) as house:
        with house.dial("driver").sock:
            eventually(lambda: house.lines, "the line is there")
            assert house.lines[0].hello.purpose == "driver"
            assert house.lines[0].hello.node_id == b"caller"
        with house.dial("data").sock:
            eventually(lambda: house.data_hellos, "the thread is there")
            assert house.data_hellos[0].received == 3


def test_a_probe_is_answered_and_over(tls: Tls | None) -> None:
    with House(tls=tls) as house:
        line = house.dial("probe")
        with line.sock as sock:
            assert line.ok == LineOk(NODE_ID, b"", 0, SESSION)
            assert receive_all(sock) == b""


def test_between_the_route_and_its_protocol_there_is_no_turn_of_the_loop(tls: Tls | None) -> None:
    """Or a line's old connection might still receive what the answer says it has not."""
    with House(tls=tls) as house:
        for _ in range(20):
            house.dial().sock.close()
        assert len(house.turns_at_made) == 20
        assert house.turns_at_made == house.turns_at_route


@pytest.mark.parametrize("piece", [1, 5, 10_000])
@pytest.mark.parametrize("purpose", ["node", "data"])
def test_messages_right_behind_the_hello_are_not_lost(purpose: str, piece: int) -> None:
    with House() as house:
        side = handshake(purpose)
        sock, mac = begin(house, side)
        with sock:
            sock.sendall(mac)
            stream = side.feed(exactly(sock, 32)) + b"these are the first frames"
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for start in range(0, len(stream), piece):
                sock.sendall(stream[start : start + piece])
            while not side.done:
                side.feed(exactly(sock, side.wants))
            assert exactly(sock, 26) == b"these are the first frames"


def test_one_who_says_all_and_leaves_is_heard(tls: Tls | None) -> None:
    with House(tls=tls) as house:
        with house.dial().sock as sock:
            sock.sendall(b"last words")
        eventually(lambda: house.turns_at_made and not house.lines, "the line came and went")


def test_connections_have_the_options_of_a_line(tls: Tls | None) -> None:
    with House(tls=tls) as house, house.dial().sock as ours:
        eventually(lambda: house.lines, "the line is there")
        theirs = house.lines[0].transport.get_extra_info("socket")
        for sock in (ours, theirs):
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_a_bug_of_a_route_is_not_hushed_up() -> None:
    with House() as house:
        with pytest.raises(ConnectionError):
            dial(house.address, LineHello("node", node_id=b"breaks things"), TOKEN)
        (complaint,) = house.complaints
        assert isinstance(complaint["exception"], RuntimeError)
        house.complaints.clear()
        house.dial().sock.close()


# ---------------------------------------------------------------------------------- strangers


def test_one_who_says_nothing(soon: float, caplog: pytest.LogCaptureFixture) -> None:
    with House() as house, house.stranger() as sock:
        began = time.monotonic()
        assert receive_all(sock) == NO
        assert time.monotonic() - began < soon + 5.0
        assert f"127.0.0.1:{sock.getsockname()[1]}" in caplog.text
        assert "no token within 0.4 s" in caplog.text


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x00" * 10,
        b"\xff" * 5_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03",  # a TLS hello
        struct.pack("<I", 2**32 - 1) * 4,
        struct.pack("<I", 12) + b"\x91\x93\x3c\x01\xa6status",  # a frame
        b"\x93skate<\n\x01\x00" + bytes(42),  # what the door itself says
    ],
)
def test_one_who_says_what_is_not_skate(garbage: bytes) -> None:
    with House() as house, house.stranger() as sock:
        sock.sendall(garbage)
        assert receive_all(sock) == NO


def test_one_who_stops_in_the_middle(soon: float) -> None:
    side = handshake()
    begun = side.begin()
    with House() as house, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(house.stranger()) for _ in begun]
        for size, sock in enumerate(socks):
            sock.sendall(begun[:size])
        for sock in socks:
            assert receive_all(sock) == NO


def test_one_who_says_a_byte_at_a_time(soon: float) -> None:
    """The time is for all of the proof, not for each byte."""
    begun = handshake().begin()
    with House() as house, house.stranger() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.monotonic()
        for byte in begun:
            if is_over(sock):
                break
            sock.sendall(bytes([byte]))
            select.select([sock], [], [], soon / 10)
        assert receive_all(sock) == NO
        assert time.monotonic() - began < soon + 5.0


@pytest.mark.parametrize("purpose", PURPOSES)
@pytest.mark.parametrize("mac", [bytes(32), b"\xff" * 32])
def test_one_who_knows_everything_but_the_token(
    purpose: str, mac: bytes, tls: Tls | None, caplog: pytest.LogCaptureFixture
) -> None:
    with House(tls=tls) as house:
        side = DialHandshake(
            b"a guess, and a wrong one", bytes(32), LineHello(purpose), "x", tls=tls is not None
        )
        sock, _ = begin(house, side)
        with sock:
            sock.sendall(mac)
            assert receive_all(sock) == NO
        eventually(lambda: "does not know the cluster token" in caplog.text, "it is logged")
        assert not house.lines and not house.data_hellos


def test_the_maker_of_a_mac_gets_it_back(soon: float) -> None:
    """A stranger plays a node for a dialler, and gives what it hears there to the door."""
    honest = handshake()
    with House() as house, house.stranger() as sock:
        sock.sendall(honest.begin())
        # The door's own start as the stranger's, back to it: the two sides differ.
        prelude = exactly(sock, PRELUDE_BYTES)
        with house.stranger() as other:
            other.sendall(prelude)
            assert receive_all(other) == NO
        # The door proves nothing before we do; so there is no MAC of its own to give it back.
        assert receive_all(sock) == NO


def test_a_recording_of_a_member(soon: float) -> None:
    side = handshake()
    with House() as house:
        recorded = side.begin()
        sock, mac = begin(house, side)
        with sock:
            sock.sendall(mac)
            hello = side.feed(exactly(sock, 32))
            sock.sendall(hello)
            while not side.done:
                side.feed(exactly(sock, side.wants))
            recorded += mac + hello
        for _ in range(3):
            with house.stranger() as again:
                again.sendall(recorded)
                heard = receive_all(again)
                assert len(heard) == PRELUDE_BYTES + len(NO) and heard.endswith(NO)
        assert len(house.turns_at_made) == 1, "only the honest one"


def test_what_strangers_hear_is_always_the_same(soon: float) -> None:
    """Of a start, its nonce is fresh; nothing else differs, and nothing tells of the cluster."""
    heard = set()
    nonces = set()
    with House() as house:
        for mac in (bytes(32), b"\x01" * 32, NO * 4):
            sock, _ = begin(house, handshake())
            sock.close()
            side = handshake()
            with house.stranger() as other:
                other.sendall(side.begin() + mac[:32])
                data = receive_all(other)
            heard.add(data[:12] + data[PRELUDE_BYTES:])
            nonces.add(data[12:PRELUDE_BYTES])
            assert not any(secret in data for secret in SECRETS)
    assert len(heard) == 1 and len(nonces) == 3
    assert heard.pop().endswith(NO)


@pytest.mark.parametrize("size", [2**32 - 1, config.HELLO_MAX_BYTES + 1, 0])
@pytest.mark.parametrize("purpose", ["node", "data"])
def test_a_member_who_promises_too_much(purpose: str, size: int) -> None:
    with House() as house:
        side = handshake(purpose)
        sock, mac = begin(house, side)
        with sock:
            sock.sendall(mac)
            exactly(sock, 32)
            sock.sendall(struct.pack("<I", size))
            receive_all(sock)
        assert not house.lines


@pytest.mark.parametrize("purpose", ["node", "data"])
def test_a_member_who_does_not_go_on(
    purpose: str, tls: Tls | None, soon: float, caplog: pytest.LogCaptureFixture
) -> None:
    """With the token, but neither TLS nor a hello: it has its time, and no more."""
    with House(tls=tls) as house:
        side = DialHandshake(TOKEN, bytes(32), LineHello(purpose), "x", tls=tls is not None)
        sock, mac = begin(house, side)
        with sock:
            sock.sendall(mac)
            exactly(sock, 32)
            assert receive_all(sock) == b""
        eventually(lambda: f"({purpose})" in caplog.text, "it is logged")


@pytest.mark.parametrize("purpose", ["node", "data"])
def test_a_member_who_says_what_is_not_tls(purpose: str, authority: Authority) -> None:
    with House(tls=authority.tls()) as house:
        side = DialHandshake(TOKEN, bytes(32), LineHello(purpose), "x", tls=True)
        sock, mac = begin(house, side)
        with sock:
            sock.sendall(mac)
            exactly(sock, 32)
            sock.sendall(b"in the clear, this" * 10)
            receive_all(sock)
        house.dial().sock.close()


def test_five_hundred_strangers_do_not_keep_a_member_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "HELLO_TIMEOUT_S", 3.0)
    with House() as house, contextlib.ExitStack() as stack:
        with house.dial().sock as before:
            strangers = [stack.enter_context(house.stranger()) for _ in range(500)]
            first = strangers[: config.UNAUTHENTICATED_MAX]
            for sock in strangers[config.UNAUTHENTICATED_MAX :]:  # the newest, and at once
                assert receive_all(sock) == NO
            assert not any(is_over(sock) for sock in first)
            began = time.monotonic()
            before.sendall(b"we talk")
            assert exactly(before, 7) == b"we talk"
            assert house.call(lambda: len(house.lines)) == 1
            house.dial(timeout_s=config.DIAL_TIMEOUT_S).sock.close()
            assert time.monotonic() - began < config.HELLO_TIMEOUT_S + 5.0
        for sock in first:
            assert receive_all(sock) == NO


def test_no_flood_of_connections_fills_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with House() as house:
        for _ in range(100):
            with house.stranger() as sock:
                sock.sendall(b"abcdefghij")
                assert receive_all(sock) == NO
        lines = [r for r in caplog.records if "refused" in r.message]
        assert len(lines) == config.REFUSALS_LOGGED
    assert f"refused {100 - config.REFUSALS_LOGGED} more connections" in caplog.text


def test_what_a_stranger_says_cannot_forge_a_line_of_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with House() as house, house.stranger() as sock:
        sock.sendall(b"\n12:00:00 I am the node\n")
        receive_all(sock)
        eventually(lambda: caplog.records, "it is logged")
        assert all("\n" not in record.getMessage() for record in caplog.records)


def test_out_of_descriptors_is_not_out_of_service(caplog: pytest.LogCaptureFixture) -> None:
    with House() as house, socket.socket() as sock:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        with open("/dev/null") as last:
            first_free = last.fileno()
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (first_free, before[1]))
            sock.connect(("127.0.0.1", house.port))
            eventually(lambda: "cannot accept" in caplog.text, "the door has noticed")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        sock.settimeout(HEARD_WITHIN_S)
        sock.sendall(b"abcdefghij")
        assert receive_all(sock) == NO


def test_a_door_that_is_closed(soon: float) -> None:
    with House() as house:
        waiting = house.stranger()
        line = house.dial()
        with waiting, line.sock as sock:
            eventually(lambda: house.lines, "the line is there")
            house.call(house.doorman.close)
            assert receive_all(waiting) == b""
            with pytest.raises(ConnectionRefusedError):
                house.stranger()
            sock.sendall(b"lines stay, they are the routes' own")
            assert exactly(sock, 36).startswith(b"lines stay")


# ---------------------------------------------------------------------------------- the GCS


class Gcs:
    """The GCS's unix socket, and a connection that came through the door to it."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "gcs.sock")
        self.listener = unix_socket.listen(self.path)
        self.listener.settimeout(HEARD_WITHIN_S)

    def accept(self) -> socket.socket:
        sock, _ = self.listener.accept()
        sock.settimeout(HEARD_WITHIN_S)
        return sock


@pytest.fixture
def gcs(tmp_path: Path) -> Iterator[Gcs]:
    one = Gcs(tmp_path)
    yield one
    one.listener.close()


def test_the_way_to_the_gcs(gcs: Gcs, tls: Tls | None) -> None:
    with House(tls=tls, gcs_socket=gcs.path) as house:
        line = house.dial("gcs")
        assert line.ok == LineOk(NODE_ID, b"", 0, SESSION)
        with line.sock as node, gcs.accept() as server:
            node.sendall(b"a question")
            assert exactly(server, 10) == b"a question"
            server.sendall(b"an answer")
            assert exactly(node, 9) == b"an answer"


def test_a_gcs_that_speaks_first(gcs: Gcs, tls: Tls | None) -> None:
    with House(tls=tls, gcs_socket=gcs.path) as house:

        def speak() -> None:
            with gcs.accept() as server:
                server.sendall(b"welcome, and goodbye")

        thread = threading.Thread(target=speak)
        thread.start()
        with house.dial("gcs").sock as node:
            assert receive_all(node) == b"welcome, and goodbye"
        thread.join(HEARD_WITHIN_S)


def test_messages_right_behind_the_hello_reach_the_gcs(gcs: Gcs) -> None:
    with House(gcs_socket=gcs.path) as house:
        side = handshake("gcs")
        sock, mac = begin(house, side)
        with sock:
            sock.sendall(mac)
            sock.sendall(side.feed(exactly(sock, 32)) + b"the first frames")
            with gcs.accept() as server:
                assert exactly(server, 16) == b"the first frames"


@pytest.mark.parametrize("to_gcs", [True, False])
def test_who_does_not_read_holds_up_who_writes(gcs: Gcs, to_gcs: bool, tls: Tls | None) -> None:
    """And loses nothing by it. The door keeps little of what is under way."""
    with (
        House(tls=tls, gcs_socket=gcs.path) as house,
        house.dial("gcs").sock as node,
        gcs.accept() as server,
    ):
        writer, reader = (node, server) if to_gcs else (server, node)
        chunk = bytes(range(256)) * 1_024
        total = 256 * len(chunk)
        written: list[int] = []

        def write() -> None:
            for _ in range(total // len(chunk)):
                writer.sendall(chunk)
                written.append(len(chunk))

        thread = threading.Thread(target=write)
        thread.start()
        while select.select([], [writer], [], 0.3)[1]:
            pass  # until the writer has been held up for a while
        assert sum(written) < 24 << 20, "socket buffers, and one bound of our own"
        got = 0
        while got < total:
            data = reader.recv(1 << 20)
            assert data == (chunk * (len(data) // len(chunk) + 2))[got % 256 :][: len(data)]
            got += len(data)
        thread.join(HEARD_WITHIN_S)
        assert not thread.is_alive()


@pytest.mark.parametrize("from_gcs", [True, False])
def test_half_an_end_is_passed_on(gcs: Gcs, from_gcs: bool) -> None:
    with (
        House(gcs_socket=gcs.path) as house,
        house.dial("gcs").sock as node,
        gcs.accept() as server,
    ):
        one, other = (server, node) if from_gcs else (node, server)
        one.sendall(b"my last")
        one.shutdown(socket.SHUT_WR)
        assert receive_all(other) == b"my last"
        other.sendall(b"and mine")
        other.shutdown(socket.SHUT_WR)
        assert receive_all(one) == b"and mine"


@pytest.mark.parametrize("from_gcs", [True, False])
@pytest.mark.parametrize("abruptly", [True, False])
def test_an_end_is_passed_on(gcs: Gcs, from_gcs: bool, abruptly: bool, tls: Tls | None) -> None:
    with (
        House(tls=tls, gcs_socket=gcs.path) as house,
        house.dial("gcs").sock as node,
        gcs.accept() as server,
    ):
        one, other = (server, node) if from_gcs else (node, server)
        if abruptly:  # a reset, over TCP
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.close()
        assert receive_all(other) == b""


def test_closing_the_door_cuts_the_ways_to_the_gcs(gcs: Gcs, tls: Tls | None) -> None:
    with (
        House(tls=tls, gcs_socket=gcs.path) as house,
        house.dial("gcs").sock as node,
        gcs.accept() as server,
    ):
        house.call(house.doorman.close)
        assert receive_all(node) == b"" and receive_all(server) == b""


def test_no_gcs_here(tls: Tls | None) -> None:
    with House(tls=tls) as house, pytest.raises(RefusedError, match="head"):
        house.dial("gcs")


def test_no_gcs_any_more(gcs: Gcs, tls: Tls | None) -> None:
    gcs.listener.close()
    with (
        House(tls=tls, gcs_socket=gcs.path) as house,
        pytest.raises(RefusedError, match="does not answer"),
    ):
        house.dial("gcs")


def test_a_gcs_that_is_slow_to_accept(tmp_path: Path) -> None:
    """Its queue is full for a moment: the door waits, nobody else has to, and nothing piles up."""
    path = str(tmp_path / "gcs.sock")
    with unix_socket.listen(path, backlog=0) as listener, House(gcs_socket=path) as house:
        filler = unix_socket.connect(path, 0.0)
        side = handshake("gcs")
        node, mac = begin(house, side)
        node.sendall(mac)
        node.sendall(side.feed(exactly(node, 32)))
        sent = 0
        node.setblocking(False)
        while select.select([], [node], [], 0.3)[1]:
            sent += node.send(b"m" * 65_536)
            assert sent < 24 << 20, "socket buffers, and little more"
        assert not is_over(node)
        with house.dial().sock as line:
            line.sendall(b"meanwhile")
            assert exactly(line, 9) == b"meanwhile"
        listener.accept()[0].close()
        filler.close()
        with node, listener.accept()[0] as server:
            server.settimeout(HEARD_WITHIN_S)
            assert exactly(server, sent) == b"m" * sent
