"""Two connections joined: the bytes of each go out at the other.

Used by node/shell/doorman.py on the head, between a node elsewhere and the GCS's unix socket. Each
side reads only as fast as the other can be written to. An end of either (half-closed, closed,
broken) is passed on at once. Bytes are not looked at.
"""

from __future__ import annotations

import asyncio
from typing import Any

from skate import config


class PipeEnd(asyncio.Protocol):
    """The protocol of one of the two connections; ``join`` makes both."""

    def __init__(self) -> None:
        self.transport: Any = None
        self._other: PipeEnd
        self._early = b""  # came before the other connection was there
        self._is_lost = False
        self._has_ended = False

    @staticmethod
    def join() -> tuple[PipeEnd, PipeEnd]:
        """Two ends of one pipe, in no order."""
        one, other = PipeEnd(), PipeEnd()
        one._other, other._other = other, one
        return one, other

    def abort(self) -> None:
        """Cut both connections."""
        for end in (self, self._other):
            if end.transport is not None:
                end.transport.abort()

    def connection_made(self, transport: Any) -> None:
        """Write the bytes that the other end has read already."""
        self.transport = transport
        transport.set_write_buffer_limits(high=config.WRITE_BACKLOG_BYTES)
        other = self._other
        if other._early:
            transport.write(other._early)
            other._early = b""
        if other._is_lost:
            transport.close()
        elif other._has_ended:
            other.eof_received()

    def data_received(self, data: bytes) -> None:
        """Write at the other end."""
        if self._other.transport is not None:
            self._other.transport.write(data)
        else:  # the other end is not connected yet, for a turn of the loop or two
            self._early += data

    def pause_writing(self) -> None:
        """This end's peer does not read: stop reading at the other end."""
        transport = self._other.transport
        if not transport.is_closing():
            transport.pause_reading()

    def resume_writing(self) -> None:
        """This end's peer reads again."""
        self._other._resume()

    def eof_received(self) -> bool:
        """This end's peer sends no more, though it may still read."""
        self._has_ended = True
        theirs = self._other.transport
        if theirs is None:
            return True
        if self._other._has_ended or not theirs.can_write_eof():
            theirs.close()
            return False
        if not theirs.is_closing():
            theirs.write_eof()
        return bool(self.transport.can_write_eof())  # TLS has no half-closed state

    def connection_lost(self, error: Exception | None) -> None:
        """One end is lost: close the other."""
        self._is_lost = True
        theirs = self._other.transport
        if theirs is None:
            return
        if error is None:
            theirs.close()
        else:
            theirs.abort()

    def _resume(self) -> None:
        if not (self._has_ended or self.transport.is_closing()):
            self.transport.resume_reading()
