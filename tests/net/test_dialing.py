"""Dialling out, blocking and in an event loop: getting in, and each way to fail in one sentence."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop

from skate import config
from skate.errors import AuthenticationError
from skate.net.dialing import RefusedError, dial, dial_async, split_address
from skate.net.handshake import NO, LineHello
from skate.net.tls import Tls, load_tls
from tests.net.certificates import Authority
from tests.net.house import HEARD_WITHIN_S, NODE_ID, SESSION, TOKEN, Heard, House, echoed

WAYS = ["dial", "dial_async"]
HELLO = LineHello("node", node_id=b"caller", session_id=b"line", received=41)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"), "stranger")


def fail(
    way: str,
    address: str,
    *,
    hello: LineHello = HELLO,
    tls: Tls | None = None,
    timeout_s: float = HEARD_WITHIN_S,
    expect: type[Exception] = ConnectionError,
) -> str:
    """Dial in vain; the sentence, which names the address."""
    with pytest.raises(expect) as caught:
        echoed(way, address, b"bye", hello, tls, timeout_s)
    sentence = str(caught.value)
    assert address in sentence and "\n" not in sentence and len(sentence) < 400
    return sentence


@contextlib.contextmanager
def server(answer: bytes, *, closes: bool = True) -> Iterator[tuple[str, list[int]]]:
    """Something that is not skate: hears a little, says this, and perhaps closes."""
    listener = socket.create_server(("127.0.0.1", 0))
    served: list[int] = []
    kept: list[socket.socket] = []

    def run() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                served.append(1)
                sock.settimeout(HEARD_WITHIN_S)
                with contextlib.suppress(OSError):
                    sock.recv(4_096)
                    sock.sendall(answer)
                if closes:
                    sock.close()
                else:
                    kept.append(sock)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}", served
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(HEARD_WITHIN_S)
        for sock in kept:
            sock.close()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("over_tls", [False, True])
@pytest.mark.parametrize("size", [0, 1, 2_000_000])
def test_a_member_gets_in(way: str, over_tls: bool, size: int, authority: Authority) -> None:
    """Also with TLS, where each side has a certificate of its own; large writes arrive whole."""
    words = b"x" * size + b"bye"
    with House(tls=authority.tls("node") if over_tls else None) as house:
        own = authority.tls("other") if over_tls else None
        ok, heard = echoed(way, house.address, words, HELLO, own, HEARD_WITHIN_S)
        assert heard == words
        assert (ok.node_id, ok.session_id, ok.received) == (NODE_ID, b"line", 42)
        assert ok.session == SESSION


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("over_tls", [False, True])
def test_a_wrong_token(way: str, over_tls: bool, authority: Authority) -> None:
    tls = authority.tls() if over_tls else None
    with House(token=b"the token of another cluster", tls=tls) as house:
        sentence = fail(way, house.address, tls=tls, expect=AuthenticationError)
        assert "refused the token" in sentence and "SKATE_TOKEN" in sentence


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("over_tls", [False, True])
def test_a_refusal_of_the_node(way: str, over_tls: bool, authority: Authority) -> None:
    tls = authority.tls() if over_tls else None
    with House(tls=tls) as house:
        for hello, words in (
            (LineHello("node", node_id=b"unwelcome"), "we had a quarrel"),
            (LineHello("node", "3.99"), "3.99"),
            (LineHello("gcs"), "head"),
            (LineHello("dinner"), "dinner"),
        ):
            sentence = fail(way, house.address, hello=hello, tls=tls, expect=RefusedError)
            assert words in sentence


@pytest.mark.parametrize("way", WAYS)
def test_tls_on_one_side_only(way: str, authority: Authority) -> None:
    with House(tls=authority.tls()) as house:
        assert "requires TLS" in fail(way, house.address, expect=RefusedError)
    with House() as house:
        sentence = fail(way, house.address, tls=authority.tls(), expect=RefusedError)
        assert "does not use TLS" in sentence


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("purpose", ["node", "data"])
def test_a_node_of_another_authority(
    way: str, purpose: str, authority: Authority, stranger: Authority
) -> None:
    """Who dials sees that the certificate is not of this cluster, though the token is."""
    with House(tls=stranger.tls(ca=authority.ca)) as house:
        hello = LineHello(purpose)
        sentence = fail(way, house.address, hello=hello, tls=authority.tls(), expect=RefusedError)
        assert "was not signed by this cluster's authority" in sentence and "--tls-ca" in sentence


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("purpose", ["node", "data"])
def test_a_dialler_of_another_authority(
    way: str, purpose: str, authority: Authority, stranger: Authority
) -> None:
    """The node refuses; under TLS 1.3 the dialler learns of it only after its own part."""
    with House(tls=authority.tls()) as house:
        tls = stranger.tls(ca=authority.ca)
        sentence = fail(way, house.address, hello=LineHello(purpose), tls=tls)
        assert "--tls-cert" in sentence and "signed by" in sentence


@pytest.mark.parametrize("way", WAYS)
def test_no_such_host(way: str) -> None:
    sentence = fail(way, "no-such-host.invalid:6380")
    assert "'no-such-host.invalid'" in sentence and "IP address" in sentence


@pytest.mark.parametrize("way", WAYS)
def test_nobody_listens(way: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    assert "nobody listens" in fail(way, address)


@pytest.mark.parametrize("way", WAYS)
def test_a_network_that_swallows_everything(way: str) -> None:
    """A listener whose queue is full answers no more, as a firewall that drops packets does."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        place = listener.getsockname()
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(place)
        sentence = fail(way, f"127.0.0.1:{place[1]}", timeout_s=0.3)
    assert "no answer within 0.3 s" in sentence and "firewall" in sentence


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("closes", [True, False])
@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x93skate>\n\x01\x00"])
def test_a_port_that_is_not_skates(way: str, closes: bool, answer: bytes) -> None:
    with server(answer, closes=closes) as (address, served):
        sentence = fail(way, address)
        assert "is not skate" in sentence and repr(answer[:10]) in sentence
        assert len(served) == 1, "there is no use in trying again"


@pytest.mark.parametrize("way", WAYS)
def test_a_few_words_and_the_end(way: str) -> None:
    with server(b"bye\r\n") as (address, _):
        assert "is not skate" in fail(way, address)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("answer", [b"", b"\x93ska"])
def test_silence(way: str, answer: bytes) -> None:
    with server(answer, closes=False) as (address, _):
        sentence = fail(way, address, timeout_s=0.3)
        assert "did not finish the handshake within 0.3 s" in sentence


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("answer", "words"), [(b"", "without a word"), (NO, "is busy")])
def test_a_door_that_is_shut_at_once_is_tried_again(way: str, answer: bytes, words: str) -> None:
    """It may have been full for a moment."""
    with server(answer) as (address, served):
        assert words in fail(way, address, timeout_s=0.5)
        assert 2 <= len(served) <= 8


@pytest.mark.parametrize("way", WAYS)
def test_a_node_that_is_killed_during_the_handshake(way: str) -> None:
    start = b"\x93skate<\n" + config.PROTOCOL_VERSION.to_bytes(2, "little")
    with server(start + bytes(34)) as (address, _):
        assert "broke off the handshake" in fail(way, address)


@pytest.mark.parametrize("way", WAYS)
def test_another_version_of_the_protocol(way: str) -> None:
    theirs = config.PROTOCOL_VERSION + 1
    with server(b"\x93skate<\n" + theirs.to_bytes(2, "little")) as (address, _):
        sentence = fail(way, address, expect=RefusedError)
        assert f"version {theirs} " in sentence
        assert f"version {config.PROTOCOL_VERSION}:" in sentence


@pytest.mark.parametrize("way", WAYS)
def test_the_other_addresses_of_a_name_are_tried(way: str) -> None:
    """A machine may be known by an IPv6 address that leads nowhere: "localhost" often is."""
    with House() as house:
        hello = LineHello("node")
        _, heard = echoed(way, f"localhost:{house.port}", b"bye", hello, None, HEARD_WITHIN_S)
        assert heard == b"bye"


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("node1:6380", "node1", 6380),
        ("10.0.0.7:1", "10.0.0.7", 1),
        ("[fd00::7]:65535", "fd00::7", 65535),
    ],
)
def test_addresses(address: str, host: str, port: int) -> None:
    assert split_address(address) == (host, port)


@pytest.mark.parametrize(
    "address", ["", "node1", "node1:", ":6380", "node1:x", "node1:0", "node1:65536", "fd00::7:6380"]
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        dial(address, HELLO, TOKEN)


def test_a_dial_that_is_cancelled_leaves_no_connection() -> None:
    with server(b"", closes=False) as (address, served):

        async def run() -> None:
            dialling = asyncio.ensure_future(dial_async(address, HELLO, TOKEN, Heard))
            while not served:
                await asyncio.sleep(0.01)
            dialling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await dialling

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run())


def test_a_factory_that_fails_leaves_no_connection() -> None:
    def refuse(_: Any) -> Heard:
        raise LookupError("nobody is home")

    async def run(house: House) -> None:
        with pytest.raises(LookupError):
            await dial_async(house.address, HELLO, TOKEN, refuse)

    with House() as house, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(house))


def test_tls_files_that_are_wrong(authority: Authority, stranger: Authority) -> None:
    cert, key = authority.member("one")
    _, other_key = authority.member("two")
    assert load_tls(None, None, None) is None
    for files, words in (
        ((cert, key, None), "missing: --tls-ca"),
        ((cert, None, ""), "missing: --tls-key and --tls-ca"),
        ((cert, key, "/does/not/exist"), "--tls-ca /does/not/exist cannot be read"),
        ((cert, other_key, authority.ca), "are not a certificate and its unencrypted key"),
        ((key, cert, authority.ca), "are not a certificate"),
        ((cert, key, key), "is not a certificate"),
    ):
        with pytest.raises(ValueError, match=words):
            load_tls(*files)
