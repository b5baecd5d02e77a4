"""A plain socket in front of a TLS one, for a client's connection (client/connection.py).

The client polls, sends and receives on one socket from several threads, and any of its steps may be
interrupted; OpenSSL allows neither. So a thread owns the TLS socket, and a pair of unix sockets
leads to it. Only a driver on another machine, over TLS, has this; it costs a copy each way.

Each direction holds one piece at most, so a reader that stops holds up the writer. When either side
ends, bytes under way are still delivered, then the other side is closed.
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

PIECE_BYTES = 64 << 10
"""Four records of TLS: larger pieces save little."""

LINGER_S = 1.0
"""After our end of the line: how long the other side may take to read it. To close with something
unread would be a reset, and could take our last words with it."""


def plain_end(sock: ssl.SSLSocket) -> socket.socket:
    """A blocking socket for this connection, which belongs to the relay from now on."""
    ours, theirs = socket.socketpair()
    relay = _Relay(sock, theirs)
    threading.Thread(target=relay.run, name="skate-tls", daemon=True).start()
    return ours


class _Relay:
    def __init__(self, tls: ssl.SSLSocket, plain: socket.socket) -> None:
        tls.setblocking(False)
        plain.setblocking(False)
        self._tls = tls
        self._plain = plain
        self._to_plain = b""
        self._to_tls = b""
        self._tls_events = 0
        self._is_read = True  # the plain end is still read
        _relays.add(self)

    def run(self) -> None:
        """Until one side ends."""
        try:
            while True:
                self._tls_events = 0
                if not (self._from_tls() | self._from_plain()):
                    self._wait()
        except (OSError, EOFError):
            pass  # the reader of the other side finds out the reason
        finally:
            self._close()

    def _wait(self) -> None:
        plain_events = select.POLLOUT if self._to_plain else 0
        plain_events |= 0 if self._to_tls else select.POLLIN
        poll = select.poll()  # each time anew: a hang-up of an unregistered socket must not wake us
        for sock, events in ((self._plain, plain_events), (self._tls, self._tls_events)):
            if events:
                poll.register(sock, events)
        poll.poll()

    def _from_tls(self) -> bool:
        """Move the bytes that can be moved; returns whether any were."""
        if not self._is_read:
            return False
        if not self._to_plain:
            try:
                self._to_plain = self._tls.recv(PIECE_BYTES)
            except ssl.SSLWantReadError:
                self._tls_events |= select.POLLIN
                return False
            except ssl.SSLWantWriteError:
                self._tls_events |= select.POLLOUT
                return False
            if not self._to_plain:
                raise EOFError
        try:
            sent = self._plain.send(self._to_plain)
        except BlockingIOError:
            return False
        except OSError:  # closed, but its earlier bytes have yet to be passed on
            self._is_read = False
            self._to_plain = b""
            return True
        self._to_plain = self._to_plain[sent:]
        return True

    def _from_plain(self) -> bool:
        if not self._to_tls:
            try:
                self._to_tls = self._plain.recv(PIECE_BYTES)
            except BlockingIOError:
                return False
            except ConnectionResetError:  # closed, with something unread
                self._to_tls = b""
            if not self._to_tls:
                self._linger()
                raise EOFError
        try:
            sent = self._tls.send(self._to_tls)
        except ssl.SSLWantReadError:
            self._tls_events |= select.POLLIN
            return False
        except ssl.SSLWantWriteError:
            self._tls_events |= select.POLLOUT
            return False
        self._to_tls = self._to_tls[sent:]
        return True

    def _linger(self) -> None:
        self._tls.shutdown(socket.SHUT_WR)
        self._tls.settimeout(LINGER_S)
        give_up_at = time.monotonic() + LINGER_S
        while socket.socket.recv(self._tls, PIECE_BYTES) and time.monotonic() < give_up_at:
            pass  # drop ciphertext: its reader has gone

    def _close(self) -> None:
        for sock in (self._tls, self._plain):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def close_in_child(self) -> None:
        """In a forked child: close the parent's connection, which no thread serves here."""
        for sock in (self._tls, self._plain):
            with contextlib.suppress(OSError):
                os.close(sock.detach())


_relays: weakref.WeakSet[_Relay] = weakref.WeakSet()


def _close_all_in_child() -> None:
    for relay in list(_relays):
        relay.close_in_child()


os.register_at_fork(after_in_child=_close_all_in_child)
