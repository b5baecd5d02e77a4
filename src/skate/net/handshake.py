"""The handshake of two machines before the first message: both prove the token, then a hello.

Pure: bytes in, bytes out; nonces come from outside. ``DialHandshake`` is the side that connected
(net/dialing.py), ``AcceptHandshake`` the side that listens (node/shell/doorman.py).

    dialling side                                accepting side
    start | flags, purpose, nonce         ->
                                          <-     start | flags, nonce
    HMAC of both preludes                 ->
                                          <-     HMAC of both preludes, or NO
    [TLS starts here, if both use it]
    LineHello                             ->
                                          <-     LineOk | LineRefused

A start is a magic text, another for each side, and the protocol's version: these ten bytes stay as
they are in every version to come, so that any two versions can tell each other apart. The HMACs
are keyed with the token and cover the side that speaks and every byte of both preludes: version,
TLS or not, purpose, both nonces. So none can be sent back to its maker, used again, or used for
something else. The two records at the end carry their length, at most ``HELLO_MAX_BYTES``.

Invariants: until the other side has proven the token, it is told nothing but a start, a nonce,
whether TLS is used, and ``NO``, which is always the same; and none of its bytes reach a decoder.
``wants`` never asks for bytes beyond the handshake: an owner that reads no more leaves the first
message in the socket; one that reads more finds it in ``rest``.

Not here: secrecy. Without TLS, a machine on the wire can read, and change, all that follows.
"""

from __future__ import annotations

import enum
import hmac
from collections.abc import Callable
from struct import Struct
from typing import Annotated, NamedTuple

import msgspec

from skate.config import (
    HELLO_MAX_BYTES,
    HELLO_REASON_MAX_CHARS,
    PROTOCOL_VERSION,
    PYTHON,
)

NONCE_BYTES = 32
NO = b"skate: no\n"
"""All that a stranger is told, whatever it did wrong. As long as a start, so it is read as one."""

PURPOSES = ("node", "driver", "gcs", "data", "probe")
"""What a connection is for: a node's or a driver's line, the way to the GCS, bulk data, a look."""

_DIALLING = b"\x93skate>\n"
_ACCEPTING = b"\x93skate<\n"
_START = Struct("<8sH")
_DIALLING_REST = Struct("<H8s32s")
_ACCEPTING_REST = Struct("<H32s")
_LENGTH = Struct("<I")
_MAC_BYTES = 32
_TLS_FLAG = 1

assert len(NO) == _START.size


class LineHello(msgspec.Struct, array_like=True, tag=1):
    """The dialling side: its id, and the connection's purpose.

    ``session_id`` names the lasting line (net/lasting.py) that this connection begins or resumes,
    ``received`` is how many of its messages have come here before.
    """

    purpose: str
    python: str = PYTHON
    node_id: bytes = b""
    session_id: bytes = b""
    received: Annotated[int, msgspec.Meta(ge=0)] = 0
    pid: int = 0


class LineOk(msgspec.Struct, array_like=True, tag=2):
    """Accepted; the accepting side's id. ``session_id`` and ``received`` as in ``LineHello``."""

    node_id: bytes
    session_id: bytes = b""
    received: Annotated[int, msgspec.Meta(ge=0)] = 0
    session: str = ""
    python: str = PYTHON  # a probe may run another; a node that means to join looks at it


class LineRefused(msgspec.Struct, array_like=True, tag=3):
    """Refused, with the reason, in a sentence for a human who has the token."""

    reason: str


class Identity(NamedTuple):
    """The accepting side, for a ``LineOk`` of the doorman's own."""

    node_id: bytes
    session: str
    python: str = PYTHON


class Refusal(enum.Enum):
    """The kind of failure in ``DialHandshake.refused``: whether to try again depends on it."""

    BUSY = "the door is full, or was shut without a word: the same attempt may work soon"
    TOKEN = "one side does not know the other's token"
    BROKEN = "what answers does not speak skate, or broke off"
    ANSWERED = "a peer that knows the token, or tells its version or use of TLS, says no"


_encode = msgspec.msgpack.Encoder().encode
_decode_hello = msgspec.msgpack.Decoder(LineHello).decode
_decode_answer = msgspec.msgpack.Decoder(LineOk | LineRefused).decode


class _Handshake:
    """Takes the bytes of one step after the other off the bytes that were fed."""

    def __init__(self, token: bytes, tls: bool) -> None:
        self.authenticated = False
        self.wants_tls = False
        self.done = False
        self.refused = ""
        self._token = token
        self._tls = tls
        self._transcript = b""
        self._held = b""
        self._size = 0
        self._step: Callable[[bytes], bytes]

    @property
    def wants(self) -> int:
        """The number of bytes that the next step lacks; 0: the other side has to wait now."""
        return max(0, self._size - len(self._held))

    @property
    def rest(self) -> bytes:
        """The bytes behind the handshake: the start of the first messages."""
        return self._held

    def feed(self, data: bytes) -> bytes:
        """Take these bytes; returns the bytes to send. Look at the attributes afterwards."""
        self._held += data
        out = b""
        while self._size and len(self._held) >= self._size:
            part, self._held = self._held[: self._size], self._held[self._size :]
            self._size = 0
            out += self._step(part)
        return out

    def tls_started(self) -> bytes:
        """TLS, which ``wants_tls`` asked for, is up: go on inside it, with these bytes first."""
        self.wants_tls = False
        if self._held:  # bytes in the clear, where none may come: injected on the wire
            return self._refuse("bytes in the clear where TLS was to begin")
        return self._greet()

    def _authenticate(self) -> bytes:
        self.authenticated = True
        if not self._tls:
            return self._greet()
        self.wants_tls = True
        return b""

    def _greet(self) -> bytes:
        """The first step after authentication, and TLS."""
        raise NotImplementedError

    def _refuse(self, reason: str) -> bytes:
        self.refused = reason
        self._size = 0
        return b""

    def _expect(self, size: int, step: Callable[[bytes], bytes]) -> None:
        self._size, self._step = size, step

    def _expect_record(self, step: Callable[[bytes], bytes]) -> None:
        def on_length(part: bytes) -> bytes:
            size = _LENGTH.unpack(part)[0]
            if not 0 < size <= HELLO_MAX_BYTES:
                return self._refuse(f"a hello of {size:,} bytes; at most {HELLO_MAX_BYTES:,}")
            self._expect(size, step)
            return b""

        self._expect(_LENGTH.size, on_length)

    def _mac(self, magic: bytes) -> bytes:
        """The HMAC of the side with this magic, over all bytes of both sides."""
        return hmac.digest(self._token, magic + self._transcript, "sha256")


class AcceptHandshake(_Handshake):
    """The side that listens.

    ``refused`` is for the log. Once ``peer_hello`` is there, the owner calls ``answer``.
    """

    def __init__(
        self, token: bytes, nonce: bytes, *, python: str = PYTHON, tls: bool = False
    ) -> None:
        super().__init__(token, tls)
        self.purpose = ""
        self.peer_hello: LineHello | None = None
        self._nonce = nonce
        self._python = python
        self._expect(_START.size, self._on_start)

    def answer(self, answer: LineOk | str) -> bytes:
        """The owner's answer to ``peer_hello``: accepted, or a sentence with the reason."""
        if isinstance(answer, str):
            return self._turn_away(answer)
        self.done = True
        return _record(answer)

    def _on_start(self, part: bytes) -> bytes:
        magic, version = _START.unpack(part)
        if magic != _DIALLING:
            return self._shut(f"it does not speak skate: its first bytes are {part!r}")
        self._transcript = part
        if version != PROTOCOL_VERSION:
            self._refuse(f"it speaks protocol version {version}, this node {PROTOCOL_VERSION}")
            return _START.pack(_ACCEPTING, PROTOCOL_VERSION)
        self._expect(_DIALLING_REST.size, self._on_prelude)
        return b""

    def _on_prelude(self, part: bytes) -> bytes:
        flags, purpose, _ = _DIALLING_REST.unpack(part)
        self.purpose = purpose.rstrip(b"\x00").decode("ascii", "replace")
        ours = _START.pack(_ACCEPTING, PROTOCOL_VERSION)
        ours += _ACCEPTING_REST.pack(_TLS_FLAG if self._tls else 0, self._nonce)
        self._transcript += part + ours
        if bool(flags & _TLS_FLAG) != self._tls:
            self._refuse("this node requires TLS" if self._tls else "this node does not use TLS")
        else:
            self._expect(_MAC_BYTES, self._on_mac)
        return ours

    def _on_mac(self, part: bytes) -> bytes:
        if not hmac.compare_digest(part, self._mac(_DIALLING)):
            return self._shut("it does not know the cluster token")
        return self._mac(_ACCEPTING) + self._authenticate()

    def _greet(self) -> bytes:
        self._expect_record(self._on_hello)
        return b""

    def _on_hello(self, part: bytes) -> bytes:
        try:
            hello = _decode_hello(part)
        except Exception as error:  # also bad text encoding or depth
            return self._turn_away(f"a hello that does not decode: {error}")
        if hello.purpose != self.purpose or hello.purpose not in PURPOSES:
            known = ", ".join(PURPOSES)
            return self._turn_away(f"nobody connects for {hello.purpose!r} here; known are {known}")
        if hello.python != self._python and hello.purpose != "probe":
            return self._turn_away(
                f"the node runs Python {self._python}, who connects runs {hello.python[:20]!r}; "
                "pickles do not travel between minor versions: use the same one on every machine"
            )
        self.peer_hello = hello
        return b""

    def _shut(self, reason: str) -> bytes:
        self._refuse(reason)
        return NO

    def _turn_away(self, reason: str) -> bytes:
        """Refuse a peer that has proven the token: it may know the reason."""
        self._refuse(reason[:HELLO_REASON_MAX_CHARS])
        return _record(LineRefused(self.refused))


class DialHandshake(_Handshake):
    """The side that connected. ``refused`` is a sentence for the user; it names ``address``."""

    def __init__(
        self, token: bytes, nonce: bytes, hello: LineHello, address: str, *, tls: bool = False
    ) -> None:
        super().__init__(token, tls)
        self.peer_hello: LineOk | None = None
        self.refusal = Refusal.BROKEN
        self._nonce = nonce
        self._hello = hello
        self._address = address
        self._is_skate = False

    def begin(self) -> bytes:
        """The first bytes to send."""
        purpose = self._hello.purpose.encode("ascii")
        self._transcript = _START.pack(_DIALLING, PROTOCOL_VERSION) + _DIALLING_REST.pack(
            _TLS_FLAG if self._tls else 0, purpose, self._nonce
        )
        self._expect(_START.size, self._on_start)
        return self._transcript

    def lost(self, detail: str = "") -> None:
        """The other side has closed the connection, or it broke."""
        if self.refused:
            return
        if not self._is_skate:
            self._on_other_words(self._held)
            return
        because = f" ({detail})" if detail else ""
        guess = ""
        if not self.authenticated:
            guess = "; a token of another cluster is the usual reason"
        elif self._tls:  # asyncio's servers tell no reason
            guess = "; a --tls-cert that was not signed by its --tls-ca is the usual reason"
        self._refuse(f"{self._address} broke off the handshake{because}: its log tells why{guess}")

    def timed_out(self, timeout_s: float) -> None:
        """The other side has been silent for as long as the owner waits."""
        if not self.refused:
            self._refuse(
                f"{self._address} accepted the connection and did not finish the handshake within "
                f"{timeout_s:.3g} s: check that this is the port of a skate node, and its log"
            )

    def _on_start(self, part: bytes) -> bytes:
        if part == NO:
            return self._fail(
                Refusal.BUSY,
                f"{self._address} is busy with connections that have not shown the token: "
                "try again in some seconds",
            )
        magic, version = _START.unpack(part)
        if magic != _ACCEPTING:
            return self._on_other_words(part)
        if version != PROTOCOL_VERSION:
            return self._fail(
                Refusal.ANSWERED,
                f"{self._address} speaks version {version} of skate's protocol, this side version "
                f"{PROTOCOL_VERSION}: install the same release of skate on both",
            )
        self._is_skate = True
        self._transcript += part
        self._expect(_ACCEPTING_REST.size, self._on_prelude)
        return b""

    def _on_other_words(self, said: bytes) -> bytes:
        if said:
            return self._fail(
                Refusal.BROKEN,
                f"what answers at {self._address} is not skate (it says {said[:10]!r}): check "
                "the port",
            )
        return self._fail(
            Refusal.BUSY,
            f"{self._address} closed the connection without a word: check that this is the port "
            "of a skate node, and its log",
        )

    def _on_prelude(self, part: bytes) -> bytes:
        self._transcript += part
        flags, _ = _ACCEPTING_REST.unpack(part)
        theirs = bool(flags & _TLS_FLAG)
        if theirs and not self._tls:
            return self._fail(
                Refusal.ANSWERED,
                f"the cluster at {self._address} requires TLS: give this side its certificate, "
                "key and authority (--tls-cert, --tls-key, --tls-ca)",
            )
        if self._tls and not theirs:
            return self._fail(
                Refusal.ANSWERED,
                f"the cluster at {self._address} does not use TLS, and this side was told to: "
                "give --tls-cert, --tls-key and --tls-ca on every side, or on none",
            )
        self._expect(len(NO), self._on_first_of_mac)
        return self._mac(_DIALLING)

    def _on_first_of_mac(self, first: bytes) -> bytes:
        if first == NO:
            return self._fail(
                Refusal.TOKEN,
                f"the cluster at {self._address} refused the token: use that cluster's own (the "
                "file cluster_token in the folder of sessions on its head machine), by "
                "SKATE_TOKEN, SKATE_TOKEN_FILE or --token-file",
            )
        self._expect(_MAC_BYTES - len(first), lambda last: self._on_mac(first + last))
        return b""

    def _on_mac(self, part: bytes) -> bytes:
        if not hmac.compare_digest(part, self._mac(_ACCEPTING)):
            return self._fail(
                Refusal.TOKEN,
                f"what answers at {self._address} has not proven that it knows the cluster token: "
                "check the address, it may be another's machine",
            )
        return self._authenticate()

    def _greet(self) -> bytes:
        self._expect_record(self._on_answer)
        return _record(self._hello)

    def _on_answer(self, part: bytes) -> bytes:
        try:
            answer = _decode_answer(part)
        except Exception as error:  # also bad text encoding or depth
            return self._refuse(f"{self._address} sent an answer that does not decode: {error}")
        if isinstance(answer, LineRefused):
            return self._fail(
                Refusal.ANSWERED, f"{self._address} refused the connection: {answer.reason}"
            )
        self.peer_hello = answer
        self.done = True
        return b""

    def _fail(self, kind: Refusal, reason: str) -> bytes:
        self.refusal = kind
        return self._refuse(reason)


def _record(message: msgspec.Struct) -> bytes:
    payload = _encode(message)
    if len(payload) > HELLO_MAX_BYTES:
        raise ValueError(f"a hello of {len(payload):,} bytes; at most {HELLO_MAX_BYTES:,}")
    return _LENGTH.pack(len(payload)) + payload
