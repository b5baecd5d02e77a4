"""The TCP side of a node daemon: lines to other nodes, from them, and to the head's GCS.

Around net/dialing.py and node/shell/doorman.py. A line between two nodes outlives its connections
(net/lasting.py): it ends when the GCS gives the other node up, or when it could not be connected
for ``LINK_GIVE_UP_S``. Each node opens the lines on which it is the client; messages on lines that
others opened are a client's, and go to the core as such.

The node shell owns this and calls ``write_out``; a local session has no TCP and never imports it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable
from typing import Any

from skate import config
from skate import messages as m
from skate.errors import AuthenticationError
from skate.net import unix_socket
from skate.net.dialing import RefusedError, dial, dial_async
from skate.net.frame import BadFrame, FrameReader, frame
from skate.net.handshake import Identity, LineHello, LineOk
from skate.net.lasting import LastingLine, LineBroken
from skate.net.tls import Tls
from skate.node.shell.doorman import NOT_YET, Admission, Doorman, Routes
from skate.node.shell.far_values import FarValues
from skate.node.shell.node_config import NodeConfig
from skate.node.shell.turns import Turns
from skate.rows import Client, OtherNode

RECONNECT_S = 0.05
"""After a line has broken, before it is dialled again; then each time twice as late."""

RECONNECT_MAX_S = 1.0
"""Up to this."""

log = logging.getLogger("skate.node")


class OutgoingLine:
    """A line that this node has opened, to run tasks and hold objects at the other."""

    def __init__(self, lines: Lines, neighbour: OtherNode) -> None:
        self._lines = lines
        self._neighbour = neighbour
        self._session_id = os.urandom(16)
        self._line = LastingLine()
        self._connection: _Dialled | None = None
        self._dialling: asyncio.Task[None] | None = None

    def write(self, batch: list[Any]) -> None:
        """Send a batch, now or once there is a connection."""
        out = self._line.outgoing(batch)
        if self._connection is not None:
            self._connection.write(out)
        elif self._line.is_full:
            self._give_up("too much waits to be sent to it")
        else:
            self._dial()

    def close(self) -> None:
        """The other node is given up: close its line."""
        if self._dialling is not None:
            self._dialling.cancel()
        if self._connection is not None:
            self._connection.abort()
            self._connection = None

    def _dial(self) -> None:
        if self._dialling is None:
            self._dialling = self._lines.turns.loop.create_task(self._keep_dialling())

    async def _keep_dialling(self) -> None:
        lines = self._lines
        loop = lines.turns.loop
        deadline = loop.time() + config.LINK_GIVE_UP_S
        pause_s = RECONNECT_S
        try:
            while True:
                hello = LineHello(
                    "node",
                    node_id=lines.identity.node_id,
                    session_id=self._session_id,
                    received=self._line.received,
                    pid=os.getpid(),
                )
                try:
                    await dial_async(
                        self._neighbour.address,
                        hello,
                        lines.token,
                        self._connected,
                        tls=lines.tls,
                        timeout_s=max(0.1, deadline - loop.time()),
                    )
                except (RefusedError, AuthenticationError, LineBroken) as error:
                    self._give_up(str(error))  # another node answers, or has forgotten the line
                    return
                except OSError as error:
                    if loop.time() + pause_s > deadline:
                        self._give_up(str(error))
                        return
                else:
                    return
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, RECONNECT_MAX_S)
        finally:
            self._dialling = None

    def _connected(self, ok: LineOk) -> _Dialled:
        if ok.node_id != self._neighbour.node_id:
            raise RefusedError(
                f"at {self._neighbour.address} is another node now: {ok.node_id.hex()}"
            )
        out = self._line.resume(ok.received)
        self._connection = _Dialled(self, out)
        return self._connection

    def on_data(self, messages: list[Any], size: int) -> m.Seen | None:
        """Hand over messages of the other node; returns an acknowledgement, if one is due."""
        core = self._lines.turns.core
        for message in self._line.incoming(messages, size):
            core.hear_node(self._neighbour, message)
        return self._line.due_seen()

    def on_lost(self, connection: _Dialled, why: str) -> None:
        """The connection has ended; the line has not."""
        if connection is self._connection:
            self._connection = None
            if self._neighbour.is_alive and self._neighbour.link is self:
                log.info("the line to %s broke: %s", self._neighbour.address, why)
                self._dial()

    def broken(self, error: Exception) -> None:
        """The other node's bytes make no sense: give the line up."""
        self._give_up(f"{type(error).__name__}: {error}")

    def _give_up(self, why: str) -> None:
        neighbour = self._neighbour
        if neighbour.link is not self:
            return
        neighbour.link = None
        self.close()
        log.warning("gave up the line to node %s: %s", neighbour.address, why)
        turns = self._lines.turns
        turns.turn(lambda: turns.core.cut_off(neighbour))


class _Dialled(asyncio.Protocol):
    """One connection of an outgoing line."""

    def __init__(self, line: OutgoingLine, first: list[bytes]) -> None:
        self._line = line
        self._first = first
        self._reader = FrameReader(m.decode_to_client)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        _tell_ends_soon(transport)
        if self._first:
            transport.writelines(self._first)

    def write(self, out: list[bytes]) -> None:
        """Write frames of the line."""
        if self._transport is not None:
            self._transport.writelines(out)

    def abort(self) -> None:
        """Cut it."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        turns = self._line._lines.turns

        def take() -> None:
            try:
                seen = self._line.on_data(self._reader.feed(data), len(data))
            except (BadFrame, LineBroken, KeyError) as error:
                self._line.broken(error)
                return
            if seen is not None:
                self.write([frame([seen])])

        turns.turn(take)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._line.on_lost(self, str(error or "closed by the other side"))


class IncomingLine:
    """A line that another node, or a driver on another machine, has opened: a peer of the core."""

    def __init__(self, lines: Lines, peer: Client, session_id: bytes, kept_s: float) -> None:
        self._lines = lines
        self.peer = peer
        self.session_id = session_id
        self.line = LastingLine()
        self._kept_s = kept_s
        self.heard = 0.0  # when its connection began or last received a message
        self.connection: _Accepted | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self.values = FarValues(lines.turns, lines.arena_fd, peer) if peer.is_remote else None

    def resumed(self, received: int) -> Callable[[], _Accepted]:
        """A connection is about to be made; LineBroken if the line cannot go on over it."""
        if self.connection is not None:
            self.connection.cut()
            self.connection = None
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        out = self.line.resume(received)

        def made() -> _Accepted:
            self.heard = self._lines.turns.loop.time()
            self.connection = _Accepted(self, out)
            return self.connection

        return made

    def write_out(self, batch: list[Any]) -> None:
        """Send a batch, now or on the next connection."""
        if self.values is not None:
            batch = self.values.take(batch)
        out = self.line.outgoing(batch)
        if self.connection is not None:
            self.connection.write(out)
            self.go_on()
        elif self.line.is_full:
            self.end("it was away for too much to be kept")

    def go_on(self) -> None:
        """Send pieces of large values, as far as the driver reads them."""
        if self.values is None:
            return
        line = self.line
        while (
            self.connection is not None
            and self.peer.alive
            and not self.peer.paused
            and line.kept_bytes < config.DRIVER_UNSEEN_BYTES
            and (piece := self.values.next()) is not None
        ):
            self.connection.write(line.outgoing([piece]))

    def ping(self, now: float) -> None:
        """Send a sign of life; a driver that hears nothing for long connects anew.

        The kernel tells of a driver whose machine has gone, unless something between the two (a
        relay, a forwarded port) goes on answering for it: then only its silence tells. The driver
        may be silent much longer than the node, as it may be stopped, or busy in C with the GIL.
        """
        if self.connection is None:
            return
        if now - self.heard > config.DRIVER_MUTE * self._kept_s:
            log.info("%s %d has said nothing for %.0f s", self.peer.role, self.peer.pid,
                     now - self.heard)  # fmt: skip
            self.connection.abort()
            return
        self.connection.write([frame([self.line.tell()])])

    def handle(self, message: Any) -> None:
        """Take one message of the other side. An exception means that the line has to end."""
        if type(message) is m.PutChunk and self.values is not None:
            self.values.write(message)
        else:
            self._lines.turns.core.handle(self.peer, message)

    def on_lost(self, connection: _Accepted) -> None:
        """The connection is lost: keep the line's messages for a while, as it may come back."""
        if connection is self.connection:
            self.connection = None
            # A driver's results stay in the store meanwhile: the line's memory is bounded.
            self.peer.paused = self.peer.is_remote
            loop = self._lines.turns.loop
            why = f"it did not come back within {self._kept_s:g} s"
            self._expiry = loop.call_later(self._kept_s, self.end, why)

    def end(self, why: str) -> None:
        """Give the peer up."""
        if self._expiry is not None:
            self._expiry.cancel()
        if self.connection is not None:
            self.connection.cut()
            self.connection = None
        if self._lines.incoming.pop(self.session_id, None) is not None:
            self._lines.gave_up(self.session_id, why)
            log.info("gave up the line from %s %d: %s", self.peer.role, self.peer.pid, why)
            turns = self._lines.turns
            turns.turn(lambda: turns.core.client_lost(self.peer))

    def close(self) -> None:
        """The core has done with it: close once the queued messages are written."""
        self._lines.incoming.pop(self.session_id, None)
        if self._expiry is not None:
            self._expiry.cancel()
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()
        turns = self._lines.turns
        turns.loop.call_soon(turns.turn, lambda: turns.core.client_lost(self.peer))


class _Accepted(asyncio.Protocol):
    """One connection of an incoming line."""

    def __init__(self, line: IncomingLine, first: list[bytes]) -> None:
        self._line = line
        self._first = first
        self._reader = FrameReader(m.decode_to_node)
        self._transport: asyncio.Transport | None = None
        self._is_cut = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=config.WRITE_BACKLOG_BYTES)
        _tell_ends_soon(transport)
        peer = self._line.peer
        peer.paused = False  # the last connection may have ended while paused
        if self._first:
            transport.writelines(self._first)
        if peer.is_remote and not peer.paused:
            self._line._lines.turns.loop.call_soon(self.resume_writing)

    def write(self, out: list[bytes]) -> None:
        """Write frames of the line."""
        if self._transport is not None:
            self._transport.writelines(out)

    def abort(self) -> None:
        """Cut the connection, as the network might."""
        if self._transport is not None:
            self._transport.abort()

    def cut(self) -> None:
        """Stop reading, and cut it."""
        self._is_cut = True
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Close once everything is written."""
        self._is_cut = True
        if self._transport is not None:
            self._transport.close()

    def pause_writing(self) -> None:
        self._line.peer.paused = not self._line.peer.node_id

    def resume_writing(self) -> None:
        line = self._line
        turns = line._lines.turns
        if line.connection is self and line.peer.alive:
            line.peer.paused = False
            turns.push_deferred(line.peer)
            line.go_on()

    def data_received(self, data: bytes) -> None:
        if self._is_cut:
            return
        line = self._line
        turns = line._lines.turns
        peer = line.peer
        line.heard = turns.loop.time()

        def take() -> None:
            try:
                for message in line.line.incoming(self._reader.feed(data), len(data)):
                    line.handle(message)
            except Exception as error:
                log.warning(
                    "ended the line from %s %s: %s: %s",
                    peer.role or "a stranger",
                    peer.node_id.hex() or peer.pid,
                    type(error).__name__,
                    error,
                    exc_info=not isinstance(error, BadFrame | LineBroken),
                )
                line.end(f"it broke the protocol: {error}")
                return
            seen = line.line.due_seen()
            if seen is not None:
                self.write([frame([seen])])

        turns.turn(take)
        line.go_on()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._line.on_lost(self)


class Lines:
    """See the module's docstring."""

    def __init__(
        self, turns: Turns, cfg: NodeConfig, arena_fd: int, token: bytes, tls: Tls | None
    ) -> None:
        self.turns = turns
        self.cfg = cfg
        self.arena_fd = arena_fd
        self.token = token
        self.tls = tls
        self.identity = Identity(turns.core.me.node_id, cfg.session)
        self.incoming: dict[bytes, IncomingLine] = {}
        self._given_up: dict[bytes, str] = {}  # the newest ended lines, with the reason
        self._doorman: Doorman | None = None
        self._pinging: asyncio.TimerHandle | None = None

    def open(self, listener: socket.socket, serve_data: Callable[..., None]) -> None:
        """Let others in."""
        cfg = self.cfg
        self._doorman = Doorman(
            self.turns.loop,
            listener,
            self.token,
            self.tls,
            self.identity,
            Routes(
                node=self._on_node,
                driver=self._on_driver,
                data=serve_data,
                gcs_socket=None if cfg.head_address else cfg.gcs_socket,
            ),
        )
        self._doorman.start()
        self._ping_drivers()

    def _ping_drivers(self) -> None:
        now = self.turns.loop.time()
        for line in self.incoming.values():
            if line.peer.is_remote:
                line.ping(now)
        self._pinging = self.turns.loop.call_later(config.DRIVER_PING_S, self._ping_drivers)

    def close(self) -> None:
        """Cut everything."""
        if self._doorman is not None:
            self._doorman.close()
        if self._pinging is not None:
            self._pinging.cancel()
        for neighbour in self.turns.core.nodes.by_id.values():
            if neighbour.link is not None:
                neighbour.link.close()
        for line in list(self.incoming.values()):
            line.close()

    # ------------------------------------------------------------------ lines of others

    def _on_node(self, hello: LineHello) -> Admission:
        core = self.turns.core
        if hello.node_id in core.nodes.dead:
            return "this node was given up by the cluster: it has to join anew"
        if hello.node_id not in core.nodes.by_id:
            return NOT_YET  # the GCS told it of this node first; its home must be known here
        line = self.incoming.get(hello.session_id)
        if line is None:
            if hello.received or hello.session_id in self._given_up:
                return "this line is over: the other side was away for too long"
            for old in [x for x in self.incoming.values() if x.peer.node_id == hello.node_id]:
                old.end("it has opened a new one")
            peer = Client()
            peer.node_id = hello.node_id
            peer.role = "node"
            peer.pid = hello.pid
            line = self._take_in(peer, hello, config.LINK_KEPT_S)
        return self._admit(line, hello)

    def _on_driver(self, hello: LineHello) -> Admission:
        line = self.incoming.get(hello.session_id)
        if line is None:
            if hello.received or hello.session_id in self._given_up:
                why = self._given_up.get(hello.session_id, "this node does not know it (any more)")
                return f"this driver's line is over, and with it its job: {why}"
            peer = Client()
            peer.is_remote = True
            line = self._take_in(peer, hello, self.cfg.driver_kept_s)
        return self._admit(line, hello)

    def gave_up(self, session_id: bytes, why: str) -> None:
        """A line has ended: a peer that comes back to it hears so, even if it has received nothing
        on it yet; a driver hears the reason."""
        self._given_up[session_id] = why
        if len(self._given_up) > config.ENDED_JOBS_KEPT:
            del self._given_up[next(iter(self._given_up))]

    def _take_in(self, peer: Client, hello: LineHello, kept_s: float) -> IncomingLine:
        line = IncomingLine(self, peer, hello.session_id, kept_s)
        peer.link = line
        self.incoming[hello.session_id] = line
        self.turns.core.add_client(peer)
        return line

    def _admit(self, line: IncomingLine, hello: LineHello) -> Admission:
        try:
            made = line.resumed(hello.received)
        except LineBroken as error:
            line.end(str(error))
            return f"this line cannot go on: {error}"
        ok = LineOk(
            self.identity.node_id, line.session_id, line.line.received, self.identity.session
        )
        return ok, made

    # ------------------------------------------------------------------ our lines

    def write_out(self) -> None:
        """Write the core's messages for other nodes."""
        outbox = self.turns.core.outbox
        while outbox.nodes:
            dirty, outbox.nodes = outbox.nodes, []
            for neighbour in dirty:
                if not neighbour.is_alive or not neighbour.outbox:
                    continue
                batch, neighbour.outbox = neighbour.outbox, []
                if neighbour.link is None:
                    neighbour.link = OutgoingLine(self, neighbour)
                neighbour.link.write(batch)

    def forget_dead(self) -> None:
        """Close the lines to nodes that the GCS has given up."""
        for neighbour in self.turns.core.take_dead():
            if neighbour.link is not None:
                neighbour.link.close()
                neighbour.link = None
            for line in list(self.incoming.values()):
                if line.peer.node_id == neighbour.node_id:
                    line.end("the cluster has given that node up")

    def dial_data(self, node_id: bytes) -> socket.socket:
        """A blocking connection for bulk data, for a transfer thread. OSError if it fails."""
        neighbour = self.turns.core.nodes.by_id.get(node_id)
        if neighbour is None:
            raise ConnectionError(f"node {node_id.hex()} is not in the cluster (any more)")
        return self._dial_blocking("data", neighbour.address)

    def dial_gcs_blocking(self) -> socket.socket:
        """Another connection to the GCS, for a thread. OSError if it fails."""
        cfg = self.cfg
        if not cfg.head_address:
            return unix_socket.connect(cfg.gcs_socket, config.PULSE_AFTER_S)
        return self._dial_blocking("gcs", cfg.head_address)

    def _dial_blocking(self, purpose: str, address: str) -> socket.socket:
        hello = LineHello(purpose, node_id=self.identity.node_id, pid=os.getpid())
        timeout_s = config.TRANSFER_SILENCE_S
        return dial(address, hello, self.token, tls=self.tls, timeout_s=timeout_s).sock

    async def dial_gcs(
        self, address: str, factory: Callable[[], asyncio.Protocol]
    ) -> asyncio.Transport:
        """The connection to the GCS, through the head's node."""
        hello = LineHello("gcs", node_id=self.identity.node_id, pid=os.getpid())
        transport, _ = await dial_async(
            address, hello, self.token, lambda ok: factory(), tls=self.tls
        )
        _tell_ends_soon(transport)
        return transport


def _tell_ends_soon(transport: asyncio.BaseTransport) -> None:
    """Have the kernel give the connection up as soon as a node would be given up."""
    sock = transport.get_extra_info("socket")
    with contextlib.suppress(OSError, AttributeError):
        sock.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(config.NODE_SILENCE_S * 1000)
        )
