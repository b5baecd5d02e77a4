"""The driver's end of its line to a node on another machine: a socket that outlives connections.

A client's connection (client/connection.py) polls, sends and receives on one socket, from several
threads that Ctrl-C may interrupt anywhere. It keeps doing so on ``plain``, one end of a pair of
unix sockets; a thread of this object, which no signal interrupts, has the other end and the TCP
connection, and passes frames on as they are. It counts their messages and keeps what the node has
not seen (net/lasting.py). When the TCP connection breaks it makes another, for as long as the node
keeps the other end, and both sides go on where they were: the client notices nothing but a pause.

``plain`` ends when the line does; ``why`` says then what has become of it. When the client closes
``plain``, what it has said is still delivered, then that it leaves, and the node is given
``DRIVER_LINGER_S`` to read that.

Only whole frames are passed on, in either direction. At most ``DRIVER_UNSEEN_BYTES`` that the node
has not seen are taken from the client, and no more from the node than the client reads: who does
not read holds up who writes.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable

import msgspec

from skate import config
from skate import messages as m
from skate.errors import AuthenticationError
from skate.net.dialing import RefusedError, dial
from skate.net.frame import HEADER_BYTES, BadFrame, cut, frame
from skate.net.handshake import LineHello, LineOk
from skate.net.lasting import LastingLine, LineBroken
from skate.net.tls import Tls

RECONNECT_S = 0.05
"""After the connection has broken, before another is tried; then each time twice as late."""

RECONNECT_MAX_S = 1.0
"""Up to this."""

READ_BYTES = 256 << 10
"""In one system call."""

UNREAD_BYTES = 4 << 20
"""Read for the client and not yet taken by it: then the node is not read either."""

WAKE_AT_LEAST_S = 0.5
"""How often it is looked whether the node has been silent for too long."""

_SEEN = frame([m.Seen(0)])[HEADER_BYTES:-1]
"""How a frame begins that is a ``Seen`` and nothing else; a node sends no others."""

_decode_seen = msgspec.msgpack.Decoder(list[m.Seen]).decode


class _Broken(Exception):
    """This connection has ended; the line has not."""


class _Over(Exception):
    """The line has ended."""


class _Frames:
    """Frames on their way out of one socket: those that wait, the first of them half sent."""

    def __init__(self) -> None:
        self._waiting: deque[memoryview] = deque()
        self.size = 0

    def add(self, data: bytes) -> None:
        self._waiting.append(memoryview(data))
        self.size += len(data)

    def send(self, send: Callable[[memoryview], int]) -> bool:
        """Send what can be sent without blocking; whether anything was."""
        moved = False
        with contextlib.suppress(BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            while self._waiting:
                data = self._waiting[0]
                sent = send(data)
                moved = True
                self.size -= sent
                if sent == len(data):
                    self._waiting.popleft()
                else:
                    self._waiting[0] = data[sent:]
        return moved


class _Cutter:
    """Cuts what one socket gives into whole frames."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._held = 0
        self._need = HEADER_BYTES

    def feed(self, data: bytes) -> list[tuple[bytes, int]]:
        """The frames that are whole now, each with the number of its messages."""
        self._parts.append(data)
        self._held += len(data)
        if self._held < self._need:
            return []
        found, rest, self._need = cut(b"".join(self._parts) if len(self._parts) > 1 else data)
        self._parts, self._held = [rest] if rest else [], len(rest)
        return found


class RemoteLine:
    """See the module's docstring. The constructor connects; net/dialing.py says what it raises."""

    def __init__(self, address: str, token: bytes, tls: Tls | None) -> None:
        self.address = address
        self.why = ""  # it is over
        self._token = token
        self._tls = tls
        self._session_id = os.urandom(16)
        self._line = LastingLine()
        self._tcp, ok = self._dial(config.DIAL_TIMEOUT_S)
        self.node_id = ok.node_id
        self.session = ok.session
        self._node_ends = False
        self._is_closed = False  # by the client
        self._close_by = 0.0  # then: the end of our patience
        self._heard = self._spoke = time.monotonic()
        self._from_client = _Cutter()
        self._to_client = _Frames()
        self._from_node = _Cutter()
        self._to_node = _Frames()
        self.plain, self._theirs = socket.socketpair()
        self._theirs.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="skate-line", daemon=True)
        _lines.add(self)
        self._thread.start()

    def node_ends(self) -> None:
        """The node has said that it ends: nobody will answer at its address."""
        self._node_ends = True

    def finish(self, deadline: float) -> None:
        """``plain`` is closed: wait until the node has read everything, or the deadline."""
        self._thread.join(max(0.0, deadline - time.monotonic()))

    def await_end(self, timeout_s: float) -> None:
        """``plain`` has ended: wait for the reason."""
        self._thread.join(timeout_s)

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        try:
            while True:
                try:
                    while True:
                        self._turn()
                except _Broken as error:
                    self._reconnect(str(error))
        except _Over as error:
            self.why = str(error)
        except (BadFrame, LineBroken) as error:
            self.why = f"the connection to the node at {self.address} cannot go on: {error}"
        except Exception as error:
            self.why = f"the connection to the node at {self.address} failed: {error!r}"
            raise
        finally:
            self._cut()
            with contextlib.suppress(OSError):
                self._theirs.close()

    def _turn(self) -> None:
        """Move what can be moved; if that is nothing, wait."""
        moved = self._read_node()
        moved |= self._to_client.send(self._send_client)
        if not self._is_closed and self._line.kept_bytes < config.DRIVER_UNSEEN_BYTES:
            moved |= self._read_client()
        try:
            moved |= self._to_node.send(self._tcp.send)
        except OSError as error:
            raise _Broken(_text(error)) from None
        if moved:
            return
        now = time.monotonic()
        if self._is_closed and now > self._close_by:
            raise _Over("closed by this program")
        if now - self._heard > config.DRIVER_SILENCE_S:
            raise _Broken(f"it has been silent for {now - self._heard:.0f} s")
        if now - self._spoke > config.DRIVER_PING_S:
            self._spoke = now
            self._to_node.add(frame([self._line.tell()]))
            return
        self._wait()

    def _wait(self) -> None:
        # Made anew each time: who is not asked may not wake us by hanging up.
        poll = select.poll()
        events = select.POLLIN if self._may_read_node else 0
        events |= select.POLLOUT if self._to_node.size else 0
        if events:
            poll.register(self._tcp, events)
        events = 0
        if not self._is_closed:
            if self._line.kept_bytes < config.DRIVER_UNSEEN_BYTES:
                events |= select.POLLIN
            if self._to_client.size:
                events |= select.POLLOUT
        if events:
            poll.register(self._theirs, events)
        poll.poll(1000 * WAKE_AT_LEAST_S)

    @property
    def _may_read_node(self) -> bool:
        return self._to_client.size < UNREAD_BYTES

    def _read_node(self) -> bool:
        if not self._may_read_node:
            self._heard = time.monotonic()  # it is we who do not listen
            return False
        try:
            data = self._tcp.recv(READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except OSError as error:
            raise _Broken(_text(error)) from None
        if not data:
            if self._is_closed and not self._to_node.size:
                raise _Over("closed by this program")
            raise _Broken("closed by the other side")
        self._heard = time.monotonic()
        line = self._line
        for whole, count in self._from_node.feed(data):
            if whole.startswith(_SEEN, HEADER_BYTES):
                line.seen(_decode_seen(whole[HEADER_BYTES:])[0].count)
                continue
            line.forwarded(count, len(whole))
            if not self._is_closed:
                self._to_client.add(whole)
        if seen := line.due_seen():
            self._to_node.add(frame([seen]))
        return True

    def _read_client(self) -> bool:
        try:
            data = self._theirs.recv(READ_BYTES)
        except BlockingIOError:
            return False
        except ConnectionResetError:  # closed, with something unread
            data = b""
        if not data:
            self._client_closed()
            return True
        for whole, count in self._from_client.feed(data):
            self._send_node(whole, count)
        return True

    def _client_closed(self) -> None:
        self._is_closed = True
        self._close_by = time.monotonic() + config.DRIVER_LINGER_S
        self._send_node(frame([m.Leaving("shutdown")]), 1)

    def _send_node(self, whole: bytes, count: int) -> None:
        self._line.forward(whole, count)
        self._to_node.add(whole)
        self._spoke = time.monotonic()

    def _send_client(self, data: memoryview) -> int:
        if self._is_closed:
            return len(data)
        try:
            return self._theirs.send(data, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            raise
        except OSError:  # it has closed; what it said before is read next
            return len(data)

    # ------------------------------------------------------------------ connections

    def _dial(self, timeout_s: float) -> tuple[socket.socket, LineOk]:
        hello = LineHello(
            "driver", session_id=self._session_id, received=self._line.received, pid=os.getpid()
        )
        sock, ok = dial(self.address, hello, self._token, tls=self._tls, timeout_s=timeout_s)
        sock.setblocking(False)
        return sock, ok

    def _reconnect(self, why: str) -> None:
        """Another connection, on which both sides go on. _Over if there is none to be had."""
        self._cut()
        # What is half sent or half received is sent again, whole.
        self._from_node, self._to_node = _Cutter(), _Frames()
        began = time.monotonic()
        pause_s = RECONNECT_S
        last = why
        while True:
            if self._is_closed or self._node_ends or self._client_has_hung_up():
                patience_s = config.DRIVER_LINGER_S
            else:
                patience_s = config.DRIVER_KEPT_S
            left_s = began + patience_s - time.monotonic()
            if self._node_ends:
                raise _Over("the node has ended")
            if left_s <= 0:
                raise _Over(
                    f"the connection to the node at {self.address} broke ({why}), and for "
                    f"{time.monotonic() - began:.0f} s there was no other to be had: {last}"
                )
            try:
                sock, ok = self._dial(min(config.DIAL_TIMEOUT_S, left_s))
            except (RefusedError, AuthenticationError) as error:
                raise _Over(
                    f"the connection to the node at {self.address} broke ({why}), and it cannot "
                    f"go on: {error}"
                ) from None
            except OSError as error:
                last = str(error)
            else:
                self._resume(sock, ok)
                return
            self._pause(min(pause_s, left_s))
            pause_s = min(2 * pause_s, RECONNECT_MAX_S)

    def _resume(self, sock: socket.socket, ok: LineOk) -> None:
        self._tcp = sock
        if ok.node_id != self.node_id:
            raise _Over(
                f"the node at {self.address} is gone, and another has taken its place: the job "
                "has ended"
            )
        for data in self._line.resume(ok.received):
            self._to_node.add(data)
        self._heard = time.monotonic()

    def _pause(self, pause_s: float) -> None:
        """Wait, but not for a client that has gone."""
        poll = select.poll()
        poll.register(self._theirs, 0)  # POLLHUP comes unasked
        if poll.poll(1000 * pause_s):
            time.sleep(RECONNECT_S)

    def _client_has_hung_up(self) -> bool:
        poll = select.poll()
        poll.register(self._theirs, 0)
        return bool(poll.poll(0))

    def _cut(self) -> None:
        with contextlib.suppress(OSError):
            self._tcp.close()

    def close_in_child(self) -> None:
        """After a fork: the parent's connection, which no thread serves here."""
        for sock in (self._tcp, self._theirs):
            with contextlib.suppress(OSError):
                os.close(sock.detach())


def _text(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


_lines: weakref.WeakSet[RemoteLine] = weakref.WeakSet()


def _close_all_in_child() -> None:
    for line in list(_lines):
        line.close_in_child()


os.register_at_fork(after_in_child=_close_all_in_child)
