"""Objects between arenas over real sockets: whole, over several connections, and not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from skate import config
from skate import messages as m
from skate.net.data_line import DataLine
from skate.net.tls import Tls
from skate.node.shell.transfer import DataServer, Fetcher
from tests.conftest import eventually
from tests.net.certificates import Authority

ARENA_BYTES = 64 << 20
SHORT_S = 0.2  # a silence that a test can wait for
NODE = b"the other node"

Outcome = tuple[bool, int, str]


def arena(folder: Path, name: str) -> int:
    fd = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.ftruncate(fd, ARENA_BYTES)
    return fd


class Source:
    """A node that has objects: an arena, a data server, and a listener in front of it."""

    def __init__(self, folder: Path, tls: Tls | None = None, silence_s: float = 5.0) -> None:
        self.fd = arena(folder, "source")
        self.tls = tls
        self.objects: dict[bytes, tuple[int, int] | str] = {}
        self.pins: Counter[bytes] = Counter()
        self.lent = 0
        self.connections = 0
        self._end = 0
        self._lock = threading.Lock()
        self.server = DataServer(self._lend, self._give_back, self.fd, silence_s=silence_s)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.place = self.listener.getsockname()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def put(self, object_id: bytes, size: int) -> bytes:
        """A new object of random bytes."""
        data = os.urandom(min(size, 1 << 20))
        data = (data * -(-size // len(data)))[:size]
        with self._lock:
            self.objects[object_id] = self._end, size
            os.pwrite(self.fd, data, self._end)
            self._end += -(-size // 4096) * 4096
        return data

    def _lend(self, object_id: bytes) -> tuple[int, int] | str:
        with self._lock:
            answer = self.objects.get(object_id, "gone")
            if not isinstance(answer, str):
                self.pins[object_id] += 1
                self.lent += 1
            return answer

    def _give_back(self, object_id: bytes) -> None:
        with self._lock:
            self.pins[object_id] -= 1
            assert self.pins[object_id] >= 0

    def pinned(self) -> int:
        with self._lock:
            return self.pins.total()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                self.connections += 1
                thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self.tls is not None:
                sock = self.tls.accepting.wrap_socket(sock, server_side=True)
            self.server.serve(sock)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.server.close()
        for thread in self._threads:
            thread.join(5.0)
        assert self.pinned() == 0, "an object was not given back"
        os.close(self.fd)


class Puller:
    """A node that fetches: an arena and a fetcher; outcomes are waited for by object."""

    def __init__(
        self,
        folder: Path,
        dial: Callable[[bytes], socket.socket],
        *,
        fd: int | None = None,
        **settings: Any,
    ) -> None:
        self.fd = arena(folder, "puller") if fd is None else fd
        self.dialled = 0
        self._dial = dial
        self._outcomes: dict[bytes, list[Outcome]] = {}
        self._changed = threading.Condition()
        self.fetcher = Fetcher(self._count, self.fd, self._on_done, **settings)

    def _count(self, node_id: bytes) -> socket.socket:
        self.dialled += 1
        return self._dial(node_id)

    def _on_done(self, object_id: bytes, ok: bool, size: int, seconds: float, why: str) -> None:
        assert seconds >= 0
        with self._changed:
            self._outcomes.setdefault(object_id, []).append((ok, size, why))
            self._changed.notify_all()

    def outcome(self, object_id: bytes) -> str:
        """Why the fetch of an object ended; fails if it does not, or was told wrongly."""
        with self._changed:
            ended = self._changed.wait_for(lambda: self._outcomes.get(object_id), 20.0)
            assert ended, f"no outcome of {object_id!r}"
            ok, size, why = self._outcomes[object_id].pop(0)
            assert not self._outcomes[object_id], "two outcomes of one fetch"
        assert ok == (why == "ok") and (size > 0) == ok
        return why

    def fetch(self, object_id: bytes, size: int, offset: int = 0) -> str:
        self.fetcher.fetch(object_id, offset, size, NODE)
        return self.outcome(object_id)

    def read(self, size: int, offset: int = 0) -> bytes:
        return os.pread(self.fd, size, offset)

    def close(self) -> None:
        self.fetcher.close()
        eventually(lambda: not fetch_threads(), "the threads that fetch are gone")
        os.close(self.fd)


def fetch_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("skate-fetch")]


def to(source: Source) -> Callable[[bytes], socket.socket]:
    def dial(node_id: bytes) -> socket.socket:
        assert node_id == NODE
        sock = socket.create_connection(source.place)
        if source.tls is not None:
            return source.tls.dialling.wrap_socket(sock)
        return sock

    return dial


def same(got: bytes, expected: bytes) -> bool:
    """Whether they are equal; a failure does not print megabytes."""
    return hashlib.sha256(got).digest() == hashlib.sha256(expected).digest()


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, tmp_path: Path) -> Tls | None:
    return Authority(tmp_path).tls() if request.param == "tls" else None


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Source]:
    source = Source(tmp_path)
    yield source
    source.close()


@pytest.fixture
def puller(tmp_path: Path, source: Source) -> Iterator[Puller]:
    puller = Puller(tmp_path, to(source))
    yield puller
    puller.close()


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small objects are divided as large ones are."""
    monkeypatch.setattr(config, "TRANSFER_CHUNK_BYTES", 256 << 10)


# ---------------------------------------------------------------------------------- it arrives


@pytest.mark.parametrize("size", [1, 4095, 100 << 10, (1 << 20) + 1, (5 << 20) + 77])
def test_an_object_arrives_whole_and_nothing_beside_it_is_touched(
    tmp_path: Path, tls: Tls | None, small_chunks: None, size: int
) -> None:
    source = Source(tmp_path, tls)
    puller = Puller(tmp_path, to(source), streams=3)
    source.put(b"another", 5000)
    data = source.put(b"object", size)
    offset = 1 << 20
    assert puller.fetch(b"object", size, offset) == "ok"
    assert same(puller.read(size, offset), data)
    assert not any(puller.read(4096, offset - 4096)) and not any(puller.read(4096, offset + size))
    eventually(lambda: source.pinned() == 0, "given back")
    puller.close()
    source.close()


def test_a_connection_serves_many_objects(source: Source, puller: Puller) -> None:
    for number in range(20):
        data = source.put(b"%d" % number, 100_000 + number)
        assert puller.fetch(b"%d" % number, len(data)) == "ok"
        assert same(puller.read(len(data)), data)
    assert puller.dialled == 1


def test_many_fetches_at_a_time_are_few_threads(
    source: Source, puller: Puller, small_chunks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "TRANSFER_THREADS", 5)
    expected = {}
    for number in range(40):
        object_id, offset = b"%d" % number, number << 20
        expected[object_id] = offset, source.put(object_id, 20_000 * (number + 1))
    for object_id, (offset, data) in expected.items():
        puller.fetcher.fetch(object_id, offset, len(data), NODE)
        assert len(fetch_threads()) <= 5
    for object_id, (offset, data) in expected.items():
        assert puller.outcome(object_id) == "ok"
        assert same(puller.read(len(data), offset), data)
    assert puller.dialled <= 5


def test_all_connections_of_a_pull_count_as_one(
    source: Source, tmp_path: Path, small_chunks: None
) -> None:
    """Nobody else pulls, and still there are more connections than pulls may be served."""
    puller = Puller(tmp_path, to(source), streams=4)
    data = source.put(b"object", 12 << 20)
    assert puller.fetch(b"object", len(data)) == "ok"
    assert same(puller.read(len(data)), data)
    assert 1 < puller.dialled <= 4 and source.lent >= puller.dialled
    puller.close()


def test_without_splice_the_bytes_are_copied(source: Source, tmp_path: Path) -> None:
    """A file opened for appending takes no splice; written from its begin, it is the same."""
    fd = os.open(tmp_path / "appended", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    puller = Puller(tmp_path, to(source), fd=fd, streams=1)
    data = source.put(b"object", 3 << 20)
    more = source.put(b"more", 100_000)
    assert puller.fetch(b"object", len(data)) == "ok"
    assert puller.fetch(b"more", len(more), len(data)) == "ok"
    assert same(puller.read(len(data)), data) and same(puller.read(len(more), len(data)), more)
    puller.close()


def test_a_connection_that_was_closed_meanwhile_is_replaced(source: Source, tmp_path: Path) -> None:
    socks = []

    def dial(node_id: bytes) -> socket.socket:
        socks.append(to(source)(node_id))
        return socks[-1]

    puller = Puller(tmp_path, dial)
    data = source.put(b"object", 200_000)
    assert puller.fetch(b"object", len(data)) == "ok"
    socks[0].shutdown(socket.SHUT_RDWR)  # as if the server had gone
    assert puller.fetch(b"object", len(data), 1 << 20) == "ok"
    assert same(puller.read(len(data), 1 << 20), data)
    assert len(socks) == 2
    puller.close()


def test_idle_connections_are_closed_and_idle_threads_end(source: Source, tmp_path: Path) -> None:
    puller = Puller(tmp_path, to(source), idle_s=0.05)
    data = source.put(b"object", 200_000)
    for _ in range(2):
        assert puller.fetch(b"object", len(data)) == "ok"
        eventually(lambda: not fetch_threads(), "the thread has ended")
    assert puller.dialled == 2
    puller.close()


# ---------------------------------------------------------------------------------- it does not


def test_an_object_that_is_not_there_is_gone(source: Source, puller: Puller) -> None:
    assert puller.fetch(b"object", 1000) == "gone"
    source.objects[b"object"] = "busy"
    assert puller.fetch(b"object", 1000) == "busy"
    data = source.put(b"object", 1000)
    assert puller.fetch(b"object", 1000) == "ok"
    assert puller.read(1000) == data
    assert puller.dialled == 1


def test_an_object_of_another_size_is_refused(source: Source, puller: Puller) -> None:
    source.put(b"object", 5000)
    assert puller.fetch(b"object", 4000) == "unreachable"
    assert not any(puller.read(5000))


def test_nobody_there(source: Source, tmp_path: Path) -> None:
    def dial(node_id: bytes) -> socket.socket:
        raise ConnectionRefusedError("nobody listens")

    puller = Puller(tmp_path, dial)
    assert puller.fetch(b"object", 1000) == "unreachable"
    puller.close()


def test_an_arena_without_room_is_an_error_and_no_signal(source: Source, tmp_path: Path) -> None:
    """A full /dev/shm kills whoever writes to a mapping of it; to the file, it is an error."""
    fd = os.open("/dev/full", os.O_RDWR)
    with pytest.raises(OSError) as caught:
        os.pwrite(fd, b"x", 0)
    assert caught.value.errno == errno.ENOSPC
    puller = Puller(tmp_path, to(source), fd=fd)
    source.put(b"object", 100_000)
    assert puller.fetch(b"object", 100_000) == "unreachable"
    puller.close()


class PlayedSender:
    """The other end of one connection, played by the test."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        ours, self._theirs = socket.socketpair()
        self.sock = ours
        self.line = DataLine(ours, 10.0)
        self.puller = Puller(folder, lambda node_id: self._theirs, **settings)

    def expect(self, kind: type) -> Any:
        message = self.line.read(m.decode_to_sender)
        assert isinstance(message, kind), message
        return message

    def close(self) -> None:
        self.line.close()
        self.puller.close()


def test_a_silent_sender_is_given_up(tmp_path: Path) -> None:
    sender = PlayedSender(tmp_path, silence_s=SHORT_S)
    began = time.monotonic()
    assert sender.puller.fetch(b"object", 1000) == "unreachable"
    assert time.monotonic() - began >= SHORT_S
    sender.close()


def test_a_slow_sender_is_not(tmp_path: Path) -> None:
    """Silence is measured from byte to byte, however long the whole takes."""
    sender = PlayedSender(tmp_path, silence_s=2 * SHORT_S)
    sender.puller.fetcher.fetch(b"object", 0, 6, NODE)
    sender.expect(m.Fetch)
    sender.line.send(m.Lent("ok", 6))
    tick = threading.Event()
    for byte in b"slowly":
        tick.wait(SHORT_S / 2)
        sender.sock.sendall(bytes([byte]))
    sender.expect(m.Arrived)
    sender.line.send(m.Confirmed())
    assert sender.puller.outcome(b"object") == "ok"
    assert sender.puller.read(6) == b"slowly"
    sender.close()


@pytest.mark.parametrize("sent", [0, 500, 1000])
def test_a_sender_that_dies_half_way(tmp_path: Path, sent: int) -> None:
    """Also when every byte is here: without the confirmation they may be another object's."""
    sender = PlayedSender(tmp_path)
    sender.puller.fetcher.fetch(b"object", 0, 1000, NODE)
    sender.expect(m.Fetch)
    sender.line.send(m.Lent("ok", 1000))
    sender.sock.sendall(bytes(sent))
    if sent == 1000:
        sender.expect(m.Arrived)
    sender.line.cut()
    assert sender.puller.outcome(b"object") == "unreachable"
    sender.close()


@pytest.mark.parametrize(
    "answer", [m.Confirmed(), m.Lent("perhaps"), m.Lent("ok", 7)], ids=lambda a: str(a)
)
def test_a_sender_that_breaks_the_protocol(tmp_path: Path, answer: Any) -> None:
    sender = PlayedSender(tmp_path)
    sender.puller.fetcher.fetch(b"object", 0, 1000, NODE)
    sender.expect(m.Fetch)
    sender.line.send(answer)
    assert sender.puller.outcome(b"object") == "unreachable"
    sender.close()


def test_a_connection_that_fails_leaves_its_work_to_the_others(
    source: Source, tmp_path: Path, small_chunks: None
) -> None:
    dialled = []

    def dial(node_id: bytes) -> socket.socket:
        dialled.append(node_id)
        if len(dialled) == 2:
            raise ConnectionRefusedError("one is enough")
        sock = to(source)(node_id)
        if len(dialled) == 3:
            sock.shutdown(socket.SHUT_RDWR)
        return sock

    puller = Puller(tmp_path, dial, streams=4)
    data = source.put(b"object", 16 << 20)
    assert puller.fetch(b"object", len(data)) == "ok"
    assert same(puller.read(len(data)), data)
    puller.close()


# ---------------------------------------------------------------------------------- cancelled


def test_a_cancelled_fetch_ends_at_once_and_writes_no_more(tmp_path: Path) -> None:
    sender = PlayedSender(tmp_path)
    sender.puller.fetcher.fetch(b"object", 0, 1000, NODE)
    sender.expect(m.Fetch)
    sender.line.send(m.Lent("ok", 1000))
    sender.sock.sendall(bytes(10))
    sender.puller.fetcher.cancel(b"object")
    assert sender.puller.outcome(b"object") == "cancelled"
    with contextlib.suppress(OSError):
        sender.sock.sendall(b"x" * 990)
    assert not any(sender.puller.read(1000))
    sender.puller.fetcher.cancel(b"object")  # too late, and no harm
    sender.close()


def test_what_waits_for_a_thread_is_cancelled_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "TRANSFER_THREADS", 1)
    sender = PlayedSender(tmp_path)
    sender.puller.fetcher.fetch(b"first", 0, 1000, NODE)
    sender.expect(m.Fetch)
    sender.puller.fetcher.fetch(b"second", 4096, 1000, NODE)
    with pytest.raises(ValueError, match="already"):
        sender.puller.fetcher.fetch(b"second", 8192, 1000, NODE)
    sender.puller.fetcher.cancel(b"second")
    sender.puller.fetcher.cancel(b"first")
    assert sender.puller.outcome(b"first") == "cancelled"
    assert sender.puller.outcome(b"second") == "cancelled"
    sender.close()


def test_the_end_of_the_fetcher_ends_every_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "TRANSFER_THREADS", 1)
    sender = PlayedSender(tmp_path)
    sender.puller.fetcher.fetch(b"first", 0, 1000, NODE)
    sender.expect(m.Fetch)
    sender.puller.fetcher.fetch(b"second", 4096, 1000, NODE)
    sender.puller.fetcher.close()
    assert sender.puller.outcome(b"first") == "cancelled"
    assert sender.puller.outcome(b"second") == "cancelled"
    assert sender.puller.fetch(b"third", 1000) == "cancelled"
    sender.close()


# ---------------------------------------------------------------------------------- the sender


class PlayedPuller:
    """A connection to a data server, played by the test."""

    def __init__(self, source: Source, buffer_bytes: int = 0) -> None:
        self.sock = socket.socket()
        if buffer_bytes:  # of the kernel's: little arrives that is not read
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        self.sock.connect(source.place)
        self.line = DataLine(self.sock, 10.0)

    def ask(self, object_id: bytes, length: int, pull: bytes, offset: int = 0) -> str:
        """Ask for a piece, and read it."""
        self.line.send(m.Fetch(object_id, offset, length, pull))
        lent = self.line.read(m.decode_to_fetcher)
        if lent.why == "ok":
            left = length
            while left:
                left -= len(self.sock.recv(left))
        return str(lent.why)

    def arrived(self) -> None:
        self.line.send(m.Arrived())
        assert self.line.read(m.decode_to_fetcher) == m.Confirmed()

    def is_closed(self) -> bool:
        """Wait for the end of the connection."""
        with contextlib.suppress(ConnectionResetError):
            while self.sock.recv(1 << 20):
                pass
        return True

    def close(self) -> None:
        self.line.close()


def test_an_object_is_kept_from_the_first_piece_to_the_arrival(source: Source) -> None:
    source.put(b"object", 10_000)
    puller = PlayedPuller(source)
    for offset in (0, 4096, 8192):
        assert puller.ask(b"object", 1000, b"pull", offset) == "ok"
        assert source.pinned() == 1
    puller.arrived()
    eventually(lambda: source.pinned() == 0, "given back")
    puller.close()


def test_so_many_pulls_of_an_object_are_served_and_no_more(source: Source) -> None:
    source.put(b"object", 10_000)
    source.put(b"another", 10_000)
    pullers = [PlayedPuller(source) for _ in range(5)]
    for number in range(config.UPLOADS_PER_OBJECT):
        assert pullers[number].ask(b"object", 10_000, b"pull %d" % number) == "ok"
    assert pullers[2].ask(b"object", 10_000, b"one more") == "busy"
    assert pullers[2].ask(b"another", 10_000, b"one more") == "ok"
    assert pullers[3].ask(b"object", 10_000, b"pull 0") == "ok"  # it is served already
    pullers[0].arrived()
    assert pullers[4].ask(b"object", 10_000, b"one more") == "busy"  # pullers[3] goes on with 0
    pullers[3].arrived()
    # The source hears of that in another thread than the one that is asked.
    eventually(lambda: pullers[4].ask(b"object", 10_000, b"one more") == "ok", "the end of pull 0")
    for puller in pullers:
        puller.close()
    eventually(lambda: source.pinned() == 0, "given back")


def test_a_connection_too_many_is_told_busy(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "TRANSFER_SERVED_MAX", 1)
    source.put(b"object", 10_000)
    welcome = PlayedPuller(source)
    assert welcome.ask(b"object", 10_000, b"pull") == "ok"
    one_more = PlayedPuller(source)
    assert one_more.ask(b"object", 10_000, b"another") == "busy"
    assert one_more.is_closed()
    welcome.arrived()
    welcome.close()
    one_more.close()


def test_a_dead_puller_leaves_nothing_pinned(source: Source) -> None:
    source.put(b"object", 10_000)
    puller = PlayedPuller(source)
    assert puller.ask(b"object", 10_000, b"pull") == "ok"
    assert source.pinned() == 1
    puller.close()
    eventually(lambda: source.pinned() == 0, "given back")


@pytest.mark.parametrize("reads", [True, False])
def test_a_puller_that_stands_still_leaves_nothing_pinned(tmp_path: Path, reads: bool) -> None:
    """Whether it does not read, or never says that all has arrived: it is not believed then."""
    source = Source(tmp_path, silence_s=SHORT_S)
    size = 32 << 20
    source.put(b"object", size)
    puller = PlayedPuller(source)
    if reads:
        assert puller.ask(b"object", size, b"pull") == "ok"
    else:
        puller.line.send(m.Fetch(b"object", 0, size, b"pull"))
    eventually(lambda: source.lent, "lent")
    eventually(lambda: source.pinned() == 0, "given back")
    with contextlib.suppress(OSError):
        puller.line.send(m.Arrived())
    assert puller.is_closed()
    puller.close()
    source.close()


def test_one_connection_of_a_pull_may_wait_for_another(tmp_path: Path) -> None:
    silence_s = 2 * SHORT_S
    source = Source(tmp_path, silence_s=silence_s)
    size = 32 << 20
    source.put(b"object", size)
    waiting, busy = PlayedPuller(source), PlayedPuller(source, buffer_bytes=64 << 10)
    assert waiting.ask(b"object", 1000, b"pull") == "ok"
    busy.line.send(m.Fetch(b"object", 0, size, b"pull"))
    assert busy.line.read(m.decode_to_fetcher) == m.Lent("ok", size)
    # Slowly, but never silent for so long.
    left, tick = size, threading.Event()
    give_up_at = time.monotonic() + 3 * silence_s
    while time.monotonic() < give_up_at:
        left -= len(busy.sock.recv(min(left, 64 << 10)))
        tick.wait(silence_s / 20)
    while left:
        left -= len(busy.sock.recv(left))
    busy.arrived()
    waiting.arrived()
    waiting.close()
    busy.close()
    source.close()


@pytest.mark.parametrize(
    "message",
    [
        m.Arrived(),
        m.Fetch(b"object", 0, 10_001, b"pull"),
        m.Fetch(b"object", -1, 10, b"pull"),
        m.Fetch(b"object", 0, 0, b"pull"),
        m.Confirmed(),
        b"\xff\xff\xff\xff",
        b"\x05\x00\x00\x00hello",
    ],
    ids=lambda message: str(message)[:40],
)
def test_nonsense_ends_its_connection_and_no_other(source: Source, message: Any) -> None:
    source.put(b"object", 10_000)
    honest, other = PlayedPuller(source), PlayedPuller(source)
    assert honest.ask(b"object", 1000, b"honest") == "ok"
    if isinstance(message, bytes):
        other.sock.sendall(message)
    else:
        other.line.send(message)
    assert other.is_closed()
    assert honest.ask(b"object", 1000, b"honest") == "ok"
    honest.arrived()
    honest.close()
    other.close()


def test_a_server_that_closes_gives_everything_back(source: Source) -> None:
    source.put(b"object", 10_000)
    puller = PlayedPuller(source)
    assert puller.ask(b"object", 10_000, b"pull") == "ok"
    source.server.close()
    assert puller.is_closed()
    eventually(lambda: source.pinned() == 0, "given back")
    late = PlayedPuller(source)
    assert late.is_closed()
    puller.close()
    late.close()
