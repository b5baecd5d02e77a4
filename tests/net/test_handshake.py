"""The handshake, without a network: both ends, every way to fail, and what a stranger can do."""

from __future__ import annotations

import random
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skate.config import HELLO_MAX_BYTES, PROTOCOL_VERSION, PYTHON
from skate.net.handshake import (
    NO,
    NONCE_BYTES,
    PURPOSES,
    AcceptHandshake,
    DialHandshake,
    LineHello,
    LineOk,
    Refusal,
)

TOKEN = b"correct horse battery staple"
HELLO = LineHello("node", PYTHON, b"n" * 16, b"s" * 16, 7, 123)
OK = LineOk(b"m" * 16, b"s" * 16, 9, "session_x")
PRELUDE_BYTES = 52  # of the dialling side: magic, version, flags, purpose, nonce


def dialler(
    token: bytes = TOKEN, hello: LineHello = HELLO, nonce: bytes = b"d" * NONCE_BYTES, **how: Any
) -> DialHandshake:
    return DialHandshake(token, nonce, hello, "node1:6380", **how)


def acceptor(
    token: bytes = TOKEN, nonce: bytes = b"a" * NONCE_BYTES, **how: Any
) -> AcceptHandshake:
    return AcceptHandshake(token, nonce, **how)


def talk(
    dial: DialHandshake, accept: AcceptHandshake, answer: LineOk | str = OK, piece: int = 1_000
) -> tuple[bytes, bytes]:
    """Until neither has anything to say; what each has sent. ``piece``: so many bytes at a time."""
    said = [dial.begin(), b""]
    todo = [said[0], b""]
    while todo[0] or todo[1] or (accept.wants_tls and dial.wants_tls):
        part, todo[0] = todo[0][:piece], todo[0][piece:]
        out = accept.feed(part)
        if accept.peer_hello is not None and not accept.done and not accept.refused:
            out += accept.answer(answer)
        part, todo[1] = todo[1][:piece], todo[1][piece:]
        back = dial.feed(part)
        if accept.wants_tls and dial.wants_tls:
            out += accept.tls_started()
            back += dial.tls_started()
        said[0] += back
        said[1] += out
        todo[0] += back
        todo[1] += out
    return said[0], said[1]


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("piece", [1, 7, 1_000])
@pytest.mark.parametrize("purpose", PURPOSES)
def test_two_that_know_the_token_meet(purpose: str, piece: int, tls: bool) -> None:
    hello = LineHello(purpose, PYTHON, b"n" * 16)
    dial, accept = dialler(hello=hello, tls=tls), acceptor(tls=tls)
    talk(dial, accept, piece=piece)
    assert accept.done and accept.peer_hello == hello and accept.purpose == purpose
    assert dial.done and dial.peer_hello == OK
    assert not dial.refused and not accept.refused
    assert not dial.rest and not accept.rest and not dial.wants and not accept.wants


def test_what_comes_behind_the_handshake_is_handed_over() -> None:
    dial, accept = dialler(), acceptor()
    accepted = accept.feed(dial.begin())
    mac = dial.feed(accepted)
    hello = dial.feed(accept.feed(mac))
    assert accept.feed(hello + b"the first") == b""
    assert accept.feed(b" frames") == b""
    dial.feed(accept.answer(OK) + b"and those of the other side")
    assert accept.rest == b"the first frames"
    assert dial.rest == b"and those of the other side"


@given(st.integers(1, 40), st.booleans())
def test_who_reads_no_more_than_wanted_reads_nothing_of_what_follows(most: int, tls: bool) -> None:
    dial, accept = dialler(tls=tls), acceptor(tls=tls)
    streams = [dial.begin(), b""]
    for _ in range(2_000):
        for side, here in enumerate((accept, dial)):
            part = streams[side][: min(most, here.wants)]
            streams[side] = streams[side][len(part) :]
            streams[1 - side] += here.feed(part)
            assert not here.rest or here.wants
            if accept.wants_tls and dial.wants_tls:
                streams[1] += accept.tls_started()
                streams[0] += dial.tls_started()
        if accept.peer_hello is not None and not accept.done:
            streams[1] += accept.answer(OK) + b"behind"
    assert dial.done and streams == [b"", b"behind"]


def test_a_wrong_token_is_one_sentence_for_the_user_and_no_for_the_stranger() -> None:
    dial, accept = dialler(token=b"another token altogether"), acceptor()
    _, answered = talk(dial, accept)
    assert accept.refused == "it does not know the cluster token" and not accept.authenticated
    assert answered.endswith(NO) and len(answered) == 44 + len(NO)
    assert dial.refusal is Refusal.TOKEN
    assert dial.refused.startswith("the cluster at node1:6380 refused the token: ")
    assert "SKATE_TOKEN" in dial.refused and "--token-file" in dial.refused


def test_an_impostor_without_the_token_is_found_out() -> None:
    """One that lets everybody in, to hear what they have to say."""
    dial = dialler()
    begun = dial.begin()
    honest = acceptor().feed(begun)
    mac = dial.feed(honest)
    assert len(mac) == 32
    out = dial.feed(b"\x00" * 32)
    assert out == b"" and not dial.authenticated and dial.refusal is Refusal.TOKEN
    assert "has not proven" in dial.refused


def test_a_mac_sent_back_to_its_maker_proves_nothing() -> None:
    dial = dialler()
    dial_mac = dial.feed(acceptor().feed(dial.begin()))
    assert dial.feed(dial_mac) == b"" and dial.refusal is Refusal.TOKEN

    # Nor with the same nonce on both sides.
    accept = acceptor(nonce=b"z" * NONCE_BYTES)
    dial = dialler(nonce=b"z" * NONCE_BYTES)
    dial_mac = dial.feed(accept.feed(dial.begin()))
    assert dial.feed(dial_mac) == b"" and dial.refused


def test_a_recording_opens_no_door() -> None:
    recorded, _ = talk(dialler(), acceptor())
    again = acceptor(nonce=b"b" * NONCE_BYTES)
    answered = again.feed(recorded)
    assert answered.endswith(NO) and not again.authenticated and again.peer_hello is None


def test_nor_does_one_of_the_accepting_side_deceive_a_dialler() -> None:
    _, recorded = talk(dialler(), acceptor())
    dial = dialler(nonce=b"e" * NONCE_BYTES)
    dial.begin()
    dial.feed(recorded)
    assert dial.refusal is Refusal.TOKEN and dial.peer_hello is None


@pytest.mark.parametrize("at", range(PRELUDE_BYTES))
def test_no_byte_of_the_prelude_may_change_on_the_way(at: int) -> None:
    """Version, TLS, purpose, nonce: the proof is for what both have really said."""
    dial, accept = dialler(), acceptor()
    begun = bytearray(dial.begin())
    begun[at] ^= 0x40
    answered = accept.feed(bytes(begun))
    if not accept.refused:
        answered = accept.feed(dial.feed(answered))
        assert answered == NO
    assert accept.refused and not accept.authenticated


@pytest.mark.parametrize("at", range(44))
def test_nor_of_the_answer(at: int) -> None:
    dial, accept = dialler(), acceptor()
    answered = bytearray(accept.feed(dial.begin()))
    answered[at] ^= 0x40
    mac = dial.feed(bytes(answered))
    assert dial.refused or accept.feed(mac) == NO


@pytest.mark.parametrize("version", [0, PROTOCOL_VERSION + 1, 65_535])
def test_another_version_is_told_with_both_numbers(version: int) -> None:
    begun = bytearray(dialler().begin())
    begun[8:10] = struct.pack("<H", version)
    accept = acceptor()
    answered = accept.feed(bytes(begun))
    assert len(answered) == 10, "a start and nothing else"
    assert str(version) in accept.refused and str(PROTOCOL_VERSION) in accept.refused

    dial = dialler()
    dial.begin()
    dial.feed(answered[:8] + struct.pack("<H", version))
    assert dial.refusal is Refusal.ANSWERED
    assert f"version {version} " in dial.refused and f"version {PROTOCOL_VERSION}:" in dial.refused
    assert not dial.wants


@pytest.mark.parametrize(
    ("dials", "accepts", "said"), [(False, True, "requires TLS"), (True, False, "does not use TLS")]
)
def test_tls_on_one_side_only(dials: bool, accepts: bool, said: str) -> None:
    dial, accept = dialler(tls=dials), acceptor(tls=accepts)
    talk(dial, accept)
    assert dial.refusal is Refusal.ANSWERED
    assert said in dial.refused and "--tls-ca" in dial.refused
    assert accept.refused and not accept.authenticated


def test_bytes_in_the_clear_do_not_get_into_tls() -> None:
    dial, accept = dialler(tls=True), acceptor(tls=True)
    mac = dial.feed(accept.feed(dial.begin()))
    proof = accept.feed(mac + b"\x00\x00\x00\x05hello")
    assert accept.tls_started() == b"" and "in the clear" in accept.refused
    dial.feed(proof + b"x")
    assert dial.tls_started() == b"" and "in the clear" in dial.refused


def test_another_python_is_refused_in_a_sentence() -> None:
    dial, accept = dialler(hello=LineHello("driver", "3.99")), acceptor()
    talk(dial, accept)
    assert dial.refusal is Refusal.ANSWERED and accept.refused in dial.refused
    assert PYTHON in dial.refused and "3.99" in dial.refused and "node1:6380" in dial.refused


def test_a_probe_may_run_any_python() -> None:
    dial = dialler(hello=LineHello("probe", "3.99"))
    talk(dial, acceptor())
    assert dial.done


def test_an_unknown_purpose_is_refused_in_a_sentence() -> None:
    dial, accept = dialler(hello=LineHello("pancake")), acceptor()
    talk(dial, accept)
    assert "'pancake'" in dial.refused and "probe" in dial.refused
    assert not accept.done


def test_the_purpose_that_was_proven_is_the_purpose() -> None:
    dial, accept = dialler(hello=LineHello("probe")), acceptor()
    mac = dial.feed(accept.feed(dial.begin()))
    accept.feed(mac)
    record = msgspec.msgpack.encode(LineHello("gcs"))
    accept.feed(struct.pack("<I", len(record)) + record)
    assert accept.refused and accept.peer_hello is None


def test_the_owner_may_refuse_with_a_sentence_of_any_length() -> None:
    dial, accept = dialler(), acceptor()
    talk(dial, accept, "this node is going down: " + "é" * 100_000)
    assert dial.refused.startswith("node1:6380 refused the connection: this node is going down")
    assert not dial.done and not accept.done


@pytest.mark.parametrize("size", [0, HELLO_MAX_BYTES + 1, 2**32 - 1])
def test_a_record_has_a_bound(size: int) -> None:
    for_accept, for_dial = acceptor(), dialler()
    proof = for_accept.feed(for_dial.feed(for_accept.feed(for_dial.begin())))
    for_accept.feed(struct.pack("<I", size))
    for_dial.feed(proof + struct.pack("<I", size))
    for side in (for_accept, for_dial):
        assert f"{size:,} bytes" in side.refused and side.wants == 0


@pytest.mark.parametrize(
    "payload",
    [
        b"\x00",
        b"\x91" * 4_000,
        msgspec.msgpack.encode([1, "node", PYTHON, b"", b"", -1]),  # less than nothing received
        msgspec.msgpack.encode([1, "node", 3.11]),
        msgspec.msgpack.encode([9, "node"]),
        b"\x92\x01\xa2\xff\xff",
    ],
)
def test_a_record_that_does_not_decode_is_refused(payload: bytes) -> None:
    accept, dial = acceptor(), dialler()
    proof = accept.feed(dial.feed(accept.feed(dial.begin())))
    dial.feed(proof)
    record = struct.pack("<I", len(payload)) + payload
    told = accept.feed(record)
    assert accept.refused and accept.peer_hello is None
    assert dial.feed(told) == b"" and dial.refused

    second = dialler()
    other = acceptor()
    second.feed(other.feed(second.feed(other.feed(second.begin()))))
    second.feed(record)
    assert second.refused and second.peer_hello is None


def test_thousands_of_strangers_learn_nothing() -> None:
    """Whatever they send: a start, a nonce, and NO; never a hello decoded, never an exception."""
    chance = random.Random(7)
    honest = dialler().begin()
    secrets = [b"session_x", b"m" * 8, PYTHON.encode(), b"node"]
    for _ in range(5_000):
        accept = acceptor()
        data = bytearray(honest + chance.randbytes(chance.randrange(80)))
        for _ in range(chance.randrange(4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        if chance.random() < 0.3:
            data = bytearray(chance.randbytes(chance.randrange(200)))
        told = b""
        while data:
            size = chance.randrange(1, 60)
            told += accept.feed(bytes(data[:size]))
            del data[:size]
        assert not accept.authenticated and accept.peer_hello is None
        assert len(told) <= 44 + len(NO)
        assert not any(secret in told for secret in secrets)


@pytest.mark.parametrize(
    "said", [b"HTTP/1.1 400 Bad Request\r\n", b"SSH-2.0-OpenSSH_9.6\r\n", b"\x00" * 10]
)
def test_what_is_not_skate_is_told_from_it(said: bytes) -> None:
    dial = dialler()
    dial.begin()
    assert dial.feed(said) == b""
    assert dial.refusal is Refusal.BROKEN
    assert "node1:6380 is not skate" in dial.refused and repr(said[:10]) in dial.refused


def test_an_echo_is_not_skate() -> None:
    dial = dialler()
    assert dial.feed(dial.begin()) == b"" and "is not skate" in dial.refused


def test_a_full_door_may_be_tried_again() -> None:
    dial = dialler()
    dial.begin()
    dial.feed(NO)
    assert dial.refusal is Refusal.BUSY and "node1:6380" in dial.refused


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        (b"", Refusal.BUSY, "without a word"),
        (b"220 hi", Refusal.BROKEN, "is not skate"),
    ],
)
def test_a_door_shut_at_once(said: bytes, kind: Refusal, words: str) -> None:
    dial = dialler()
    dial.begin()
    dial.feed(said)
    dial.lost()
    assert dial.refusal is kind and words in dial.refused


def test_a_door_shut_later() -> None:
    dial = dialler()
    dial.feed(acceptor().feed(dial.begin()))
    dial.lost("reset")
    assert dial.refusal is Refusal.BROKEN
    assert "broke off the handshake (reset)" in dial.refused and "token" in dial.refused


def test_the_first_reason_stays() -> None:
    dial = dialler(token=b"another token altogether")
    talk(dial, acceptor())
    before = dial.refused
    dial.lost()
    dial.timed_out(5.0)
    assert dial.refused == before


def test_silence_is_told_with_its_length() -> None:
    dial = dialler()
    dial.begin()
    dial.timed_out(2.5)
    assert "2.5 s" in dial.refused and "node1:6380" in dial.refused
