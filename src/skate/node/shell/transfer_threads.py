"""Bulk data to and from other nodes: the threads of transfer.py, tied to the node's loop and core.

An object is lent to another node's thread by pinning it, which only the loop's thread may do. The
outcome of a fetch is told to the core there as well.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import socket
from collections.abc import Callable

from skate import config
from skate.net.handshake import LineHello
from skate.node.shell.transfer import DataServer, Fetcher
from skate.node.shell.turns import Turns
from skate.objects.object_store import SEALED


class Transfers:
    """See the module's docstring."""

    def __init__(
        self, turns: Turns, arena_fd: int, dial_data: Callable[[bytes], socket.socket]
    ) -> None:
        self._turns = turns
        self._server = DataServer(self._lend, self._give_back, arena_fd)
        self._fetcher = Fetcher(dial_data, arena_fd, self._on_done)

    def serve(self, sock: socket.socket, hello: LineHello) -> None:
        """A data connection of another node, in a thread of its own."""
        self._server.serve(sock)

    def fetch(self, object_id: bytes, offset: int, size: int, node_id: bytes) -> None:
        """Copy an object from a node into this place of our arena."""
        self._fetcher.fetch(object_id, offset, size, node_id)

    def cancel(self, object_id: bytes) -> None:
        """Stop the fetch of an object."""
        self._fetcher.cancel(object_id)

    def close(self) -> None:
        """The node ends: end all transfers."""
        self._server.close()
        self._fetcher.close()

    # ------------------------------------------------------------------ called in other threads

    def _lend(self, object_id: bytes) -> tuple[int, int] | str:
        answer: concurrent.futures.Future[tuple[int, int] | str] = concurrent.futures.Future()
        loop = self._turns.loop

        def pin() -> None:
            if not answer.set_running_or_notify_cancel():
                return  # the waiting thread has given up
            store = self._turns.core.store
            stored = store.objects.get(object_id)
            if stored is None or stored.state is not SEALED:
                answer.set_result("gone")
            else:
                store.pin(object_id)
                answer.set_result((stored.offset, stored.size))

        try:
            loop.call_soon_threadsafe(pin)
            return answer.result(config.TRANSFER_SILENCE_S)
        except RuntimeError:  # the loop has ended
            return "gone"
        except concurrent.futures.TimeoutError:  # the loop is busy for very long
            return "gone" if answer.cancel() else answer.result()

    def _give_back(self, object_id: bytes) -> None:
        self._in_loop(lambda: self._turns.core.store.unpin(object_id))

    def _on_done(self, object_id: bytes, ok: bool, size: int, seconds: float, why: str) -> None:
        self._in_loop(lambda: self._turns.core.fetched(object_id, why, size, seconds))

    def _in_loop(self, what: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and the core with it
            self._turns.loop.call_soon_threadsafe(self._turns.turn, what)
