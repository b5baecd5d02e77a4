"""The connections of a node's own clients: drivers, workers and observers of its machine."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from typing import Any

from skate import config
from skate import messages as m
from skate.net.frame import BadFrame, FrameReader, frames
from skate.node.shell.turns import Turns
from skate.rows import Client

log = logging.getLogger("skate.node")


class ClientLink(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, shell: Turns, client: Client) -> None:
        self.shell = shell
        self.client = client
        self.reader = FrameReader(m.decode_to_node)
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: Any) -> None:
        """Check the client's user (the same as ours) before anything is read."""
        self.transport = transport
        self.client.link = self
        transport.set_write_buffer_limits(high=config.WRITE_BACKLOG_BYTES)
        self.shell.core.add_client(self.client)
        if self.client.worker is None:
            sock = transport.get_extra_info("socket")
            if peer_uid(sock) != os.getuid():
                log.warning("refused a connection of another user")
                transport.abort()
                return
            self.shell.loop.call_later(config.HELLO_TIMEOUT_S, self._expect_hello)

    def _expect_hello(self) -> None:
        if not self.client.role and self.transport is not None:
            log.warning("closed a connection that said nothing for %.0f s", config.HELLO_TIMEOUT_S)
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """A turn of the switch."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return  # the client was refused, or broke the protocol: drop its bytes
        shell = self.shell
        core = shell.core
        core.begin(shell.clock())
        client = self.client
        try:
            handlers = core.handlers[client.role]
            for message in self.reader.feed(data):
                if client.role:
                    handlers[type(message)](client, message)
                elif not transport.is_closing():
                    core.handle(client, message)
                    handlers = core.handlers[client.role]
        except Exception as error:  # any error here is due to this client's message
            self._break_off(error)
        core.end_turn()
        shell.write_out()

    def _break_off(self, error: Exception) -> None:
        """End this connection, and this one alone; the log tells a bug of ours by its traceback."""
        log.warning(
            "closed the connection of %s %d: %s: %s",
            self.client.role or "a stranger",
            self.client.pid,
            type(error).__name__,
            error,
            exc_info=not isinstance(error, BadFrame),
        )
        if self.transport is not None:
            self.transport.abort()

    def pause_writing(self) -> None:
        """The client does not read: hold pushes back."""
        self.client.paused = True

    def stop_asking(self) -> None:
        """The client reads nothing at all: stop reading from it until it does."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()
        self.client.paused = False
        self.shell.push_deferred(self.client)

    def connection_lost(self, error: Exception | None) -> None:
        """EOF, reset, or closed by us."""
        core = self.shell.core
        core.begin(self.shell.clock())
        self.transport = None
        core.client_lost(self.client)
        core.end_turn()
        self.shell.write_out()

    def write_out(self, outbox: list[Any]) -> None:
        """Send these; stop reading from a client that reads nothing at all."""
        transport = self.transport
        if transport is not None:
            transport.writelines(frames(outbox))
            if self.client.paused and transport.get_write_buffer_size() > config.UNREAD_MAX_BYTES:
                self.stop_asking()

    def close(self) -> None:
        """Close once all written bytes have left."""
        if self.transport is not None:
            self.transport.close()


def peer_uid(sock: Any) -> int:
    """The user at the other end of a unix socket."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", data)[1])
