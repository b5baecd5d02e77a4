"""Sign of life of a node whose event loop is too busy for its heartbeat. A thread of the daemon.

The loop calls `beat` each time it sends a heartbeat. If none has been sent for `PULSE_AFTER_S` (a
driver with a million tasks has just ended, say), this thread tells the GCS that the node lives, on
a connection of its own: the loop may have written half a frame on the other one. While the loop is
well it only looks at the clock, and opens nothing.

A loop without a heartbeat for `STUCK_S` will not recover: this thread falls silent, and the GCS
gives the node up as if it had died.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable

from skate.config import PULSE_AFTER_S, STUCK_S
from skate.messages import StillAlive
from skate.net.frame import frame

log = logging.getLogger("skate.node")


class Pulse:
    """See the module's docstring. `connect` gives a blocking socket to the GCS, or OSError."""

    def __init__(self, node_id: bytes, is_head: bool, connect: Callable[[], socket.socket]) -> None:
        self._frame = frame([StillAlive(node_id, is_head)])
        self._connect = connect
        self._beaten_at = time.monotonic()
        self._line: socket.socket | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="skate-pulse", daemon=True)

    def start(self) -> None:
        """Watch from now on."""
        self._beaten_at = time.monotonic()
        self._thread.start()

    def beat(self) -> None:
        """The loop is alive."""
        self._beaten_at = time.monotonic()

    def close(self) -> None:
        """Be silent from now on."""
        self._end.set()

    def _run(self) -> None:
        while not self._end.wait(PULSE_AFTER_S):
            silent_s = time.monotonic() - self._beaten_at
            if silent_s < PULSE_AFTER_S:
                self._hang_up()
            elif silent_s < STUCK_S:
                self._say()
        self._hang_up()

    def _say(self) -> None:
        try:
            if self._line is None:
                self._line = self._connect()
                self._line.settimeout(PULSE_AFTER_S)
            self._line.sendall(self._frame)
        except OSError as error:
            log.warning("could not tell the GCS that this busy node lives: %s", error)
            self._hang_up()

    def _hang_up(self) -> None:
        if self._line is not None:
            with contextlib.suppress(OSError):
                self._line.close()
            self._line = None
