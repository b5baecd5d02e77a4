"""Where an asyncio connection waits until its handshake is over; then it gets its real protocol.

Used by both sides, after the token is proven and TLS, if any, is up: node/shell/doorman.py and
``dial_async`` (net/dialing.py) await ``heard``, decide, and call ``hand_over`` or ``abort`` with
no await in between. Whatever the peer has sent meanwhile is handed over too, in order.
"""

from __future__ import annotations

import asyncio
from typing import Any

from skate import config
from skate.net.handshake import AcceptHandshake, DialHandshake


class Anteroom(asyncio.Protocol):
    """The protocol of the connection for that time."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, handshake: AcceptHandshake | DialHandshake
    ) -> None:
        self.transport: Any = None
        self.error: Exception | None = None
        """Why the connection was lost, if that is known."""
        self._handshake = handshake
        self.is_lost = False
        self._over: asyncio.Future[None] = loop.create_future()

    async def heard(self) -> bool:
        """Wait for the peer's part of the handshake; False if it is gone instead."""
        await self._over
        return not self.is_lost

    def hand_over(self, protocol: asyncio.Protocol) -> None:
        """Give the connection to this protocol, with the bytes that have come already."""
        transport = self.transport
        transport.set_protocol(protocol)
        if not transport.is_closing():
            transport.resume_reading()  # delivers nothing before this turn of the loop is over
        protocol.connection_made(transport)
        rest = self._handshake.rest
        if rest and not transport.is_closing():
            protocol.data_received(rest)

    def abort(self) -> None:
        """Cut the connection, if there is one."""
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: Any) -> None:
        """Go on with the handshake: TLS, if it was agreed on, is up only now."""
        self.transport = transport
        transport.set_write_buffer_limits(high=config.WRITE_BACKLOG_BYTES)
        if self._handshake.wants_tls:
            self._write(self._handshake.tls_started())
        self._look()

    def data_received(self, data: bytes) -> None:
        """The peer's part of the handshake, and perhaps more."""
        self._write(self._handshake.feed(data))
        self._look()

    def connection_lost(self, error: Exception | None) -> None:
        """The peer is gone, or refused by TLS."""
        self.error = error
        self.is_lost = True
        if not self._over.done():
            self._over.set_result(None)

    def _write(self, data: bytes) -> None:
        if data:
            self.transport.write(data)

    def _look(self) -> None:
        if self._handshake.wants or self._over.done():
            return
        if not self.transport.is_closing():
            self.transport.pause_reading()
        self._over.set_result(None)
