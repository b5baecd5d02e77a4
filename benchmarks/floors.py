"""The floors: what the bare machine takes for the least that a system does in an operation.

``compare`` starts it once a round, in turn with the systems, under skate's interpreter. Nothing of
skate takes part but its way of waiting and how long it looks before it sleeps. The floor of large
values, a plain copy, is measured beside the puts, in operations.py.
"""

from __future__ import annotations

import os
import pickle
import select
import socket
import subprocess
import sys
import time

from benchmarks import rows
from benchmarks.measuring import Sizes, arguments, measure, rate, report, sizes_of
from skate.config import SPIN_S

MESSAGE = bytes(85)
MESSAGE_BYTES = len(pickle.dumps(MESSAGE))
assert MESSAGE_BYTES == 100


class End:
    """One end of a socket pair, which waits as skate's client does (client/connection.py)."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def send(self, message: bytes) -> None:
        """Pickle a message and send it."""
        self.sock.sendall(pickle.dumps(message))

    def receive(self) -> bytes:
        """The next message, unpickled; b"" at the end."""
        data = self._receive()
        return pickle.loads(data) if data else b""

    def _receive(self) -> bytes:
        # It looks for a while, and then sleeps.
        until = time.monotonic() + SPIN_S
        while True:
            try:
                return self.sock.recv(4 * MESSAGE_BYTES)
            except BlockingIOError:
                if time.monotonic() < until:
                    os.sched_yield()
                else:
                    self._poll.poll()

    def send_back_all(self) -> None:
        """Answer every message with itself, until the other end is closed."""
        while message := self.receive():
            self.send(message)


def round_trip_s(sizes: Sizes) -> float:
    """Seconds that a message of 100 bytes takes to another process and back, pickled and unpickled
    both ways."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if not pid:
        try:
            ours.close()
            End(theirs).send_back_all()
        finally:
            os._exit(0)
    theirs.close()
    end = End(ours)

    def round_trip() -> None:
        end.send(MESSAGE)
        if end.receive() != MESSAGE:
            raise RuntimeError("the answer is not what was sent")

    try:
        return 1 / rate(round_trip, sizes.seconds)
    finally:
        ours.close()
        os.waitpid(pid, 0)


def start_s(sizes: Sizes) -> float:
    """Seconds that an interpreter takes to start, do nothing, and end."""
    command = [sys.executable, "-c", "pass"]
    return 1 / rate(lambda: subprocess.run(command, check=True), sizes.seconds)


def run(sizes: Sizes, only: str) -> dict[str, float]:
    """Measure the floors of the rows whose titles contain ``only``, and of init: it always runs."""
    calls = tuple(row.title for row in rows.ROWS if row.floor is rows.ROUND_TRIP)
    results = measure([(calls, lambda: {rows.ROUND_TRIP.title: round_trip_s(sizes)})], only)
    return results | {rows.BARE_START.title: start_s(sizes)}


def main() -> None:
    """Entry of the child."""
    options = arguments(__doc__ or "").parse_args()
    report({rows.FLOOR: run(sizes_of(options), options.only)})


if __name__ == "__main__":
    main()
