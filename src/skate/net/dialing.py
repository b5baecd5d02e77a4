"""Connecting to another machine of the cluster: from an address to the first message.

``dial`` blocks, for drivers and the threads that move bulk data; ``dial_async`` is for daemons.
Both return once the other side has accepted, and both fail with one sentence that names the
address and the thing to check:

    ConnectionError      no node is there, or it does not answer as a skate node does; also, as its
    subclass RefusedError, a node that refused: trying again changes nothing
    AuthenticationError  the token is not that of the cluster

A door that is full of strangers (or that was shut without a word) is tried again until the time is
up. Anything else is tried once: only the caller knows how long to go on.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from skate import config
from skate.errors import AuthenticationError
from skate.net import tls as tls_module
from skate.net.anteroom import Anteroom
from skate.net.handshake import NONCE_BYTES, DialHandshake, LineHello, LineOk, Refusal
from skate.net.tls import Tls

_P = TypeVar("_P", bound=asyncio.Protocol)


class RefusedError(ConnectionError):
    """A node is there and has refused, in a sentence; it would do so again."""


class Dialled(NamedTuple):
    """An accepted connection. No byte behind the handshake has been read off the socket."""

    sock: socket.socket
    """Blocking, without a time-out; an ``ssl.SSLSocket`` if TLS is used."""
    ok: LineOk


def split_address(address: str) -> tuple[str, int]:
    """HOST and PORT of "HOST:PORT" or "[IPv6]:PORT". ValueError if it is neither."""
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    numeric = port.isascii() and port.isdigit() and 0 < int(port) < 65536
    if not (colon and host and numeric) or (":" in host and not bracketed):
        raise ValueError(
            f"{address!r} is no address: expected HOST:PORT, as in node1:6380, 10.0.0.7:6380 or "
            "[fd00::7]:6380"
        )
    return host, int(port)


def set_options(sock: socket.socket) -> None:
    """Set the options of every TCP connection between machines: no delay, silent ends noticed."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", config.KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", config.KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", config.KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", int(config.UNACKNOWLEDGED_S * 1000)),
    ):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


# ---------------------------------------------------------------------------------- blocking


def dial(
    address: str,
    hello: LineHello,
    token: bytes,
    *,
    tls: Tls | None = None,
    timeout_s: float = config.DIAL_TIMEOUT_S,
) -> Dialled:
    """Connect, prove the token, say hello. See the module's docstring for what it raises."""
    deadline = time.monotonic() + timeout_s
    for pause_s in _pauses():
        handshake = DialHandshake(
            token, os.urandom(NONCE_BYTES), hello, address, tls=tls is not None
        )
        sock = _connect(address, deadline, timeout_s)
        try:
            sock = _shake(sock, handshake, tls, address, deadline, timeout_s)
            sock.settimeout(None)
        except BaseException:
            sock.close()
            raise
        if handshake.peer_hello is not None:
            return Dialled(sock, handshake.peer_hello)
        sock.close()
        if not _may_try_again(handshake, deadline - time.monotonic(), pause_s):
            raise _failure(handshake)
        time.sleep(pause_s)
    raise AssertionError("there is always another pause")


def _connect(address: str, deadline: float, timeout_s: float) -> socket.socket:
    host, port = split_address(address)
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise _no_such_host(address, host, error) from None
    failed: OSError | None = None
    for family, kind, protocol, _, place in places:
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:  # IPv6 may be known by name only
            failed = error
            continue
        try:
            sock.settimeout(_left(deadline))
            sock.connect(place)
            _refuse_ourselves(sock)
            set_options(sock)
            return sock
        except OSError as error:
            sock.close()
            failed = error
        except BaseException:
            sock.close()
            raise
    raise _unreachable(address, failed, timeout_s)


def _shake(
    sock: socket.socket,
    handshake: DialHandshake,
    tls: Tls | None,
    address: str,
    deadline: float,
    timeout_s: float,
) -> socket.socket:
    """Run the handshake to its end, good or bad; returns the socket to use from now on."""
    try:
        out = handshake.begin()
        while True:
            if handshake.wants_tls and tls is not None:
                sock.settimeout(_left(deadline))
                sock = tls.dialling.wrap_socket(sock)
                out += handshake.tls_started()
            if out:
                sock.settimeout(_left(deadline))
                sock.sendall(out)
            if not handshake.wants:
                return sock
            sock.settimeout(_left(deadline))
            data = sock.recv(handshake.wants)
            if not data:
                handshake.lost()
                return sock
            out = handshake.feed(data)
    except TimeoutError:
        handshake.timed_out(timeout_s)
    except ssl.SSLEOFError:
        handshake.lost()
    except ssl.SSLError as error:
        sock.close()  # a socket made by TLS is not known to the caller
        raise RefusedError(tls_module.failure(address, error)) from None
    except OSError as error:
        handshake.lost(error.strerror or str(error))
    except BaseException:
        sock.close()
        raise
    return sock


def _left(deadline: float) -> float:
    """A time-out of a socket; zero would mean not to block at all."""
    return max(0.001, deadline - time.monotonic())


# ---------------------------------------------------------------------------------- asyncio


async def dial_async(
    address: str,
    hello: LineHello,
    token: bytes,
    factory: Callable[[LineOk], _P],
    *,
    tls: Tls | None = None,
    timeout_s: float = config.DIAL_TIMEOUT_S,
) -> tuple[asyncio.Transport, _P]:
    """The same in an event loop: the connection gets the protocol that ``factory`` makes.

    The factory and ``connection_made`` are called in the same turn of the loop that finds the
    other side's ok; ``data_received`` gets the bytes behind it next.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    for pause_s in _pauses():
        handshake = DialHandshake(
            token, os.urandom(NONCE_BYTES), hello, address, tls=tls is not None
        )
        sock = await _connect_async(loop, address, deadline, timeout_s)
        try:
            async with asyncio.timeout_at(deadline):
                room = await _enter(loop, sock, handshake, tls, address)
        except TimeoutError:
            handshake.timed_out(timeout_s)
            room = None
        ok = handshake.peer_hello
        if room is not None and ok is not None:
            try:
                protocol = factory(ok)
            except BaseException:
                room.abort()
                raise
            room.hand_over(protocol)
            return room.transport, protocol
        if room is not None:
            room.abort()
        if not _may_try_again(handshake, deadline - loop.time(), pause_s):
            raise _failure(handshake)
        await asyncio.sleep(pause_s)
    raise AssertionError("there is always another pause")


async def _connect_async(
    loop: asyncio.AbstractEventLoop, address: str, deadline: float, timeout_s: float
) -> socket.socket:
    host, port = split_address(address)
    failed: OSError | None = None
    try:
        async with asyncio.timeout_at(deadline):
            places = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            for family, kind, protocol, _, place in places:
                try:
                    sock = socket.socket(family, kind, protocol)
                except OSError as error:
                    failed = error
                    continue
                try:
                    sock.setblocking(False)
                    await loop.sock_connect(sock, place)
                    _refuse_ourselves(sock)
                    set_options(sock)
                    return sock
                except OSError as error:
                    sock.close()
                    failed = error
                except BaseException:
                    sock.close()
                    raise
    except (socket.gaierror, UnicodeError) as error:
        raise _no_such_host(address, host, error) from None
    except TimeoutError as error:
        failed = error
    raise _unreachable(address, failed, timeout_s)


async def _enter(
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket,
    handshake: DialHandshake,
    tls: Tls | None,
    address: str,
) -> Anteroom | None:
    """The rest of the handshake; None if it has failed without leaving a connection."""
    room = Anteroom(loop, handshake)
    try:
        if not await _prove(loop, sock, handshake):
            return None
        if handshake.wants_tls and tls is not None:
            await loop.create_connection(
                lambda: room,
                sock=sock,
                ssl=tls.dialling,
                server_hostname="",  # not compared (net/tls.py)
                ssl_shutdown_timeout=config.HELLO_TIMEOUT_S,
            )
        else:
            await loop.create_connection(lambda: room, sock=sock)
        if await room.heard():
            return room
        if room.error is not None:
            raise room.error
        handshake.lost()
        return None
    except ssl.SSLEOFError:
        handshake.lost()
        return None
    except ssl.SSLError as error:
        raise RefusedError(tls_module.failure(address, error)) from None
    except TimeoutError:
        room.abort()
        raise
    except OSError as error:
        handshake.lost(error.strerror or str(error))
        return None
    except BaseException:
        room.abort()
        raise


async def _prove(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, handshake: DialHandshake
) -> bool:
    """The part before TLS, on the bare socket, which is closed if it fails."""
    try:
        await loop.sock_sendall(sock, handshake.begin())
        while handshake.wants and not handshake.authenticated:
            data = await loop.sock_recv(sock, handshake.wants)
            if not data:
                handshake.lost()
            elif out := handshake.feed(data):
                await loop.sock_sendall(sock, out)
    except BaseException:
        sock.close()
        raise
    if handshake.refused:
        sock.close()
    return not handshake.refused


# ---------------------------------------------------------------------------------- failures


def _pauses() -> Iterator[float]:
    pause_s = config.DIAL_AGAIN_S
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, config.DIAL_AGAIN_MAX_S)


def _may_try_again(handshake: DialHandshake, left_s: float, pause_s: float) -> bool:
    return handshake.refusal is Refusal.BUSY and left_s > pause_s


def _failure(handshake: DialHandshake) -> Exception:
    reason = handshake.refused
    if handshake.refusal is Refusal.TOKEN:
        return AuthenticationError(reason)
    if handshake.refusal is Refusal.ANSWERED:
        return RefusedError(reason)
    return ConnectionError(reason)


def _no_such_host(address: str, host: str, error: Exception) -> ConnectionError:
    why = error.strerror if isinstance(error, OSError) else str(error)
    return ConnectionError(
        f"no machine of the name {host!r} is known here ({why}): check the address {address}, or "
        "give an IP address"
    )


def _unreachable(address: str, error: OSError | None, timeout_s: float) -> ConnectionError:
    if isinstance(error, ConnectionRefusedError):
        return ConnectionError(
            f"nobody listens at {address}: check the host and the port, and that `skate start` "
            "has run there"
        )
    if isinstance(error, TimeoutError):
        return ConnectionError(
            f"{address} cannot be reached: no answer within {timeout_s:.3g} s; check the address, "
            "and that no firewall is in between"
        )
    why = (error.strerror or str(error)) if error is not None else "it has no address"
    return ConnectionError(f"{address} cannot be reached: {why}; check the address and the network")


def _refuse_ourselves(sock: socket.socket) -> None:
    """A connect to a free port of this machine may, by chance, meet itself."""
    if sock.getsockname() == sock.getpeername():
        raise ConnectionRefusedError
