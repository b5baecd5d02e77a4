"""An object from one node's arena to another's, beside a bare ``sendfile`` -> ``recv_into``.

``python -m benchmarks.transfer``. Two processes on this machine, each with an arena file in shared
memory, over loopback. What is beside it is the least that anybody would write by hand: one
connection, ``sendfile`` out of the file, ``recv_into`` a mapping of the other file. Both do the
same in turn, round by round, into a file that is fresh (every page is touched for the first time)
and into one whose pages exist already, which is what an arena is after a while; medians count.

The bar: at least 70 % of the bare transfer, into a fresh file. Small objects: under 1 ms.
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import multiprocessing
import os
import socket
import statistics
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

from rich.console import Console
from rich.table import Table

from skate.node.shell.transfer import DataServer, Fetcher

BAR = 0.70
SMALL_BAR_S = 0.001
OBJECT_BYTES = 1_000_000_000
SMALL_BYTES = (100 << 10, 1 << 20)
SMALL_REPEATS = 200
REQUEST = struct.Struct("<Q")


@contextlib.contextmanager
def arena(size: int) -> Iterator[int]:
    """A file in shared memory without a name; its memory is gone with the descriptor."""
    path = f"/dev/shm/skate-benchmark-{os.getpid()}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.unlink(path)
        os.ftruncate(fd, size)
        yield fd
    finally:
        os.close(fd)


def serve(size: int, line: Connection) -> None:
    """The process that has the object: a bare server, and skate's."""
    with arena(size) as fd, contextlib.ExitStack() as stack:
        pattern = os.urandom(1 << 20)
        for offset in range(0, size, len(pattern)):
            os.pwrite(fd, pattern[: size - offset], offset)

        def lend(object_id: bytes) -> tuple[int, int]:
            return 0, int.from_bytes(object_id, "little")

        server = DataServer(lend, lambda object_id: None, fd)
        places = []
        for target in (lambda sock: serve_bare(sock, fd), server.serve):
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            places.append(listener.getsockname())
            threading.Thread(target=accept, args=(listener, target), daemon=True).start()
        line.send(places)
        with contextlib.suppress(EOFError):
            line.recv()


def accept(listener: socket.socket, serve_one: Callable[[socket.socket], None]) -> None:
    """A thread for each connection."""
    while True:
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve_one, args=(sock,), daemon=True).start()


def serve_bare(sock: socket.socket, fd: int) -> None:
    """Send so many bytes as are asked for, again and again."""
    with sock:
        while request := sock.recv(REQUEST.size):
            left, offset = REQUEST.unpack(request)[0], 0
            while left:
                sent = os.sendfile(sock.fileno(), fd, offset, left)
                offset, left = offset + sent, left - sent


def fetch_bare(place: tuple[str, int], fd: int, size: int) -> float:
    """Seconds for a transfer by hand."""
    with socket.create_connection(place) as sock, mmap.mmap(fd, size) as mapping:
        view = memoryview(mapping)
        began = time.perf_counter()
        sock.sendall(REQUEST.pack(size))
        offset = 0
        while offset < size:
            offset += sock.recv_into(view[offset:])
        seconds = time.perf_counter() - began
        view.release()
    return seconds


class SkateFetch:
    """The receiving side of a node, waited for."""

    def __init__(self, place: tuple[str, int], fd: int, streams: int) -> None:
        self._done = threading.Event()
        self._why = ""
        self._fetcher = Fetcher(
            lambda node_id: self._dial(place), fd, self._on_done, streams=streams
        )

    def _dial(self, place: tuple[str, int]) -> socket.socket:
        sock = socket.create_connection(place)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def _on_done(self, object_id: bytes, ok: bool, size: int, seconds: float, why: str) -> None:
        self._why = why
        self._done.set()

    def fetch(self, size: int) -> float:
        """Seconds for an object, from the request to the call that tells that it is there."""
        self._done.clear()
        began = time.perf_counter()
        self._fetcher.fetch(size.to_bytes(8, "little"), 0, size, b"node")
        self._done.wait()
        seconds = time.perf_counter() - began
        if self._why != "ok":
            raise RuntimeError(f"the fetch failed: {self._why}")
        return seconds

    def close(self) -> None:
        """End its threads."""
        self._fetcher.close()


def measure_large(
    places: list[tuple[str, int]], size: int, rounds: int, streams: list[int], is_fresh: bool
) -> dict[str, list[float]]:
    """Bytes a second: by hand and by skate, in turn."""
    rates: dict[str, list[float]] = {}
    bare = "bare, by hand"
    for _ in range(rounds):
        for count in (0, *streams):
            with arena(size) as fd:
                if not is_fresh:
                    os.posix_fallocate(fd, 0, size)
                if count == 0:
                    rates.setdefault(bare, []).append(size / fetch_bare(places[0], fd, size))
                    continue
                skate = SkateFetch(places[1], fd, count)
                name = f"skate, {count} connection{'s' * (count > 1)}"
                try:
                    rates.setdefault(name, []).append(size / skate.fetch(size))
                finally:
                    skate.close()
    return rates


def measure_small(place: tuple[str, int]) -> dict[int, float]:
    """Median seconds of small objects over a connection that is kept."""
    medians = {}
    with arena(max(SMALL_BYTES)) as fd:
        skate = SkateFetch(place, fd, 1)
        for size in SMALL_BYTES:
            medians[size] = statistics.median(skate.fetch(size) for _ in range(SMALL_REPEATS))
        skate.close()
    return medians


def main() -> int:
    """Print the table; 1 if a bar was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--bytes", type=int, default=OBJECT_BYTES, help="of the large object")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2, 4], help="connections")
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    sender = context.Process(target=serve, args=(options.bytes, theirs), daemon=True)
    sender.start()
    theirs.close()
    try:
        places = ours.recv()
        is_met = report(places, options)
    finally:
        ours.close()
        sender.join()
    return 0 if is_met else 1


def report(places: list[tuple[str, int]], options: argparse.Namespace) -> bool:
    """Measure and print; whether the bars were met."""
    title = f"{options.bytes / 1e9:g} GB from arena to arena, medians of {options.rounds} rounds"
    table = Table(title=title)
    for column in ("", "fresh pages", "of bare", "existing pages", "of bare"):
        table.add_column(column, justify="left" if not column else "right")
    fresh, existing = (
        measure_large(places, options.bytes, options.rounds, options.streams, is_fresh)
        for is_fresh in (True, False)
    )
    shares = []
    bare = next(iter(fresh))
    for name in fresh:
        cells = []
        for rates in (fresh, existing):
            rate = statistics.median(rates[name])
            cells += [f"{rate / 1e9:.2f} GB/s", f"{rate / statistics.median(rates[bare]):.0%}"]
        shares.append(statistics.median(fresh[name]) / statistics.median(fresh[bare]))
        table.add_row(name, *cells)
    console = Console()
    console.print(table)
    is_met = min(shares) >= BAR
    console.print(f"at least {BAR:.0%} of bare, fresh pages: {'met' if is_met else 'missed'}")
    for size, seconds in measure_small(places[1]).items():
        is_small_met = seconds < SMALL_BAR_S
        is_met = is_met and is_small_met
        console.print(
            f"{size >> 10} KiB over a kept connection: {seconds * 1e6:.0f} µs "
            f"(under {SMALL_BAR_S * 1e3:g} ms: {'met' if is_small_met else 'missed'})"
        )
    return is_met


if __name__ == "__main__":
    sys.exit(main())
