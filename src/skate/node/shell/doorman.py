"""The node daemon's TCP door: everything between an accept and the first message.

Accepts in the node's event loop and never blocks it. A stranger has ``HELLO_TIMEOUT_S`` to prove
the cluster token (net/handshake.py), ``UNAUTHENTICATED_MAX`` of them at a time; further ones are
sent away with the same word as any other. Then, after TLS if it is configured, the hello tells the
connection's purpose:

    node, driver   the route decides, and gives the protocol that the connection has from then on
    gcs            bytes go to the GCS's unix socket and back (net/pipe.py); on the head only
    data           a thread of its own, with a blocking socket, closed when the route returns
    probe          an answer, and the end

Invariants: a stranger hears nothing beyond net/handshake.py. From the call of a route to
``connection_made`` of its protocol there is no turn of the loop, so the route's answer still holds
then. Each refusal is logged, with peer and reason, at most ``REFUSALS_LOGGED`` at a time.

Not here: the messages of nodes and drivers; local clients, which come by the unix socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass

from skate import config
from skate.net import unix_socket
from skate.net.anteroom import Anteroom
from skate.net.dialing import set_options
from skate.net.handshake import (
    NO,
    NONCE_BYTES,
    AcceptHandshake,
    Identity,
    LineHello,
    LineOk,
)
from skate.net.pipe import PipeEnd
from skate.net.tls import Tls

GCS_AGAIN_S = 0.02
"""The GCS has more connections than it has accepted: how soon to try again."""

log = logging.getLogger("skate.node")

Admission = tuple[LineOk, Callable[[], asyncio.Protocol]] | str
"""What a route says: come in, with whom to talk to from now on; or why not. ``NOT_YET``: close it
without an answer, so that the other side tries again."""

NOT_YET = ""


@dataclass(frozen=True)
class Routes:
    """Where connections go, by their purpose; those without a route are refused."""

    node: Callable[[LineHello], Admission] | None = None
    driver: Callable[[LineHello], Admission] | None = None
    data: Callable[[socket.socket, LineHello], None] | None = None
    """Called in a thread, with a blocking socket (an SSLSocket under TLS); returns at its end."""
    gcs_socket: str | None = None
    """The path of the GCS's unix socket."""


class Doorman:
    """See the module's docstring. Everything but data routes runs in the loop's thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket.socket,
        token: bytes,
        tls: Tls | None,
        identity: Identity,
        routes: Routes,
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._token = token
        self._tls = tls
        self._identity = identity
        self._routes = routes
        self._strangers = 0
        self._guests: set[asyncio.Task[None]] = set()  # handshakes under way
        self._pipes: weakref.WeakSet[PipeEnd] = weakref.WeakSet()
        self._accept_again: asyncio.TimerHandle | None = None
        self._refusals = _RefusalLog(loop)
        self._is_closed = False

    def start(self) -> None:
        """Accept from now on."""
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener.fileno(), self._on_acceptable)

    def close(self) -> None:
        """Accept no more, and cut connections without a route: handshakes and pipes to the GCS."""
        if self._is_closed:
            return
        self._is_closed = True
        self._loop.remove_reader(self._listener.fileno())
        if self._accept_again is not None:
            self._accept_again.cancel()
        self._listener.close()
        self._refusals.close()
        for task in self._guests:
            task.cancel()
        for pipe in list(self._pipes):
            pipe.abort()

    # ------------------------------------------------------------------ accepting

    def _on_acceptable(self) -> None:
        for _ in range(config.ACCEPTS_PER_TURN):
            try:
                sock, place = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:
                continue  # the peer left before we accepted
            except OSError as error:  # no descriptor left, or no memory
                log.error("cannot accept connections for now: %s", error)
                self._loop.remove_reader(self._listener.fileno())
                self._accept_again = self._loop.call_later(config.ACCEPT_AGAIN_S, self.start)
                return
            who = _name(place)
            sock.setblocking(False)
            if self._strangers >= config.UNAUTHENTICATED_MAX:
                self._refusals.add(who, f"{self._strangers} others have yet to show the token")
                _say_no(sock)
            else:
                self._receive(sock, who)

    def _receive(self, sock: socket.socket, who: str) -> None:
        self._strangers += 1
        task = self._loop.create_task(self._meet(sock, who))
        self._guests.add(task)
        task.add_done_callback(self._on_met)

    def _on_met(self, task: asyncio.Task[None]) -> None:
        self._guests.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler(
                {"message": "a connection could not be received", "exception": error}
            )

    async def _meet(self, sock: socket.socket, who: str) -> None:
        """From the accept to the connection's purpose."""
        handshake = AcceptHandshake(
            self._token,
            os.urandom(NONCE_BYTES),
            python=self._identity.python,
            tls=self._tls is not None,
        )
        try:
            await self._authenticate(sock, handshake)
        except BaseException:
            sock.close()
            raise
        finally:
            self._strangers -= 1
        if handshake.refused:
            self._refusals.add(who, handshake.refused)
            _shut(sock)
        elif handshake.purpose == "data":
            threading.Thread(
                target=self._run_data, args=(sock, handshake, who), name="skate-data", daemon=True
            ).start()
        else:
            await self._let_in(sock, handshake, who)

    async def _authenticate(self, sock: socket.socket, handshake: AcceptHandshake) -> None:
        """Run until the peer has proven the token, or ``refused`` tells why it has not."""
        loop = self._loop
        try:
            async with asyncio.timeout(config.HELLO_TIMEOUT_S):
                set_options(sock)
                while not (handshake.authenticated or handshake.refused):
                    data = await loop.sock_recv(sock, handshake.wants)
                    if not data:
                        handshake.refused = "it left without showing the token"
                    elif out := handshake.feed(data):
                        await loop.sock_sendall(sock, out)
        except TimeoutError:
            handshake.refused = f"it showed no token within {config.HELLO_TIMEOUT_S:.3g} s"
            with contextlib.suppress(OSError):
                sock.send(NO)
        except OSError as error:
            handshake.refused = f"the connection broke: {error}"

    # ------------------------------------------------------------------ members of the cluster

    async def _let_in(self, sock: socket.socket, handshake: AcceptHandshake, who: str) -> None:
        """TLS if need be, the hello, and the protocol that it leads to."""
        room = Anteroom(self._loop, handshake)
        pipe: PipeEnd | None = None
        try:
            async with asyncio.timeout(config.HELLO_TIMEOUT_S):
                await self._enter(room, sock)
                if handshake.peer_hello is not None and handshake.purpose == "gcs":
                    pipe = await self._lay_pipe()
            if room.is_lost:
                raise room.error or ConnectionResetError("it left")
        except BaseException as error:
            room.abort()
            if pipe is not None:
                pipe.abort()
            if isinstance(error, TimeoutError):
                handshake.refused = f"it said no hello within {config.HELLO_TIMEOUT_S:.3g} s"
            elif isinstance(error, ssl.SSLError):
                handshake.refused = f"TLS failed: {error}"
            elif isinstance(error, OSError):
                handshake.refused = f"no hello: {error}"
            else:
                raise
        else:
            try:
                self._decide(room, handshake, pipe)
            except BaseException:  # a bug of a route
                room.abort()
                raise
        if handshake.refused:
            self._refusals.add(f"{who} ({handshake.purpose})", handshake.refused)

    async def _enter(self, room: Anteroom, sock: socket.socket) -> None:
        """Wait for the hello, or its refusal by the handshake. OSError if the peer leaves."""
        if self._tls is None:
            await self._loop.connect_accepted_socket(lambda: room, sock)
        else:
            await self._loop.connect_accepted_socket(
                lambda: room,
                sock,
                ssl=self._tls.accepting,
                ssl_shutdown_timeout=config.HELLO_TIMEOUT_S,
            )
        if not await room.heard():
            raise room.error or ConnectionResetError("it left without a hello")

    def _decide(self, room: Anteroom, handshake: AcceptHandshake, pipe: PipeEnd | None) -> None:
        """Answer the hello, and hand the connection over or close it; all in this turn."""
        transport = room.transport
        hello = handshake.peer_hello
        if hello is None:  # refused by the handshake itself, and the peer was told
            transport.close()
            return
        admission = self._admission(hello, pipe)
        if isinstance(admission, str):
            if admission != NOT_YET:
                transport.write(handshake.answer(admission))
            transport.close()
            return
        ok, factory = admission
        transport.write(handshake.answer(ok))
        if hello.purpose == "probe":
            transport.close()
        else:
            room.hand_over(factory())

    def _admission(self, hello: LineHello, pipe: PipeEnd | None) -> Admission:
        routes = self._routes
        ok = LineOk(self._identity.node_id, session=self._identity.session)
        if hello.purpose == "probe":
            return ok, asyncio.Protocol
        if hello.purpose == "gcs":
            if pipe is not None:
                return ok, lambda: pipe
            if routes.gcs_socket is None:
                return "the GCS is not on this machine: give the address of the cluster's head"
            return "the GCS of this cluster does not answer: the log of its head tells more"
        route = routes.node if hello.purpose == "node" else routes.driver
        if route is None:
            return f"no {hello.purpose} may connect here"
        return route(hello)

    async def _lay_pipe(self) -> PipeEnd | None:
        """Our end of a pipe to the GCS; None if there is no GCS here, or none that answers."""
        path = self._routes.gcs_socket
        while path is not None:
            try:
                line = unix_socket.connect(path, 0.0)
            except BlockingIOError:  # the GCS has not accepted the last ones yet
                await asyncio.sleep(GCS_AGAIN_S)
            except OSError as error:
                log.warning("no way to the GCS: %s", error)
                return None
            else:
                return await self._join(line)
        return None

    async def _join(self, line: socket.socket) -> PipeEnd:
        near, far = PipeEnd.join()
        await self._loop.create_unix_connection(lambda: far, sock=line)
        self._pipes.add(near)
        return near

    # ------------------------------------------------------------------ bulk data, in its thread

    def _run_data(self, sock: socket.socket, handshake: AcceptHandshake, who: str) -> None:
        try:
            sock.settimeout(config.HELLO_TIMEOUT_S)
            if self._tls is not None:
                sock = self._tls.accepting.wrap_socket(sock, server_side=True)
            self._hear(sock, handshake)
        except OSError as error:
            handshake.refused = f"TLS failed: {error}" if _is_tls(error) else f"no hello: {error}"
        with sock:
            hello, route = handshake.peer_hello, self._routes.data
            if handshake.refused or hello is None or route is None:
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    self._loop.call_soon_threadsafe(
                        self._refusals.add, f"{who} (data)", handshake.refused
                    )
                return
            try:
                sock.settimeout(None)
                route(sock, hello)
            except Exception:
                log.exception("the data connection of %s failed", who)

    def _hear(self, sock: socket.socket, handshake: AcceptHandshake) -> None:
        """The hello, and the answer to it."""
        out = handshake.tls_started() if handshake.wants_tls else b""
        while handshake.wants:
            data = sock.recv(handshake.wants)
            if not data:
                raise ConnectionResetError("it left without a hello")
            out += handshake.feed(data)
        if handshake.peer_hello is not None:
            ok = LineOk(self._identity.node_id, session=self._identity.session)
            refusal = "" if self._routes.data is not None else "no data connections here"
            out += handshake.answer(refusal or ok)
        sock.sendall(out)


class _RefusalLog:
    """Log lines about refusals: enough for a reader, and bounded against strangers."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, who: str, why: str) -> None:
        """Log it, or count it."""
        if self._timer is None:
            self._timer = self._loop.call_later(config.REFUSALS_LOGGED_WITHIN_S, self.close)
        self._count += 1
        if self._count <= config.REFUSALS_LOGGED:
            log.warning("refused the connection of %s: %s", who, why)

    def close(self) -> None:
        """The window is over: log how many refusals were only counted."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        more = self._count - config.REFUSALS_LOGGED
        if more > 0:
            log.warning("refused %d more connections", more)
        self._count = 0


def _say_no(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.send(NO)
    _shut(sock)


def _shut(sock: socket.socket) -> None:
    """Close; unread bytes would make it a reset, which may overtake our last message."""
    with contextlib.suppress(OSError):
        sock.recv(config.HELLO_MAX_BYTES)
    sock.close()


def _is_tls(error: OSError) -> bool:
    return isinstance(error, ssl.SSLError)


def _name(place: tuple[str, int]) -> str:
    host, port = place[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
