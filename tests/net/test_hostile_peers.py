"""Whatever a peer sends to a daemon, only that peer's connection ends.

Thousands of connections to the sockets of a session that is at work: garbage, half frames, frames
that promise too much, messages that are well formed and make no sense, peers that vanish, that
never read, that send a byte at a time. The session's own driver must not notice, the daemons must
not grow, and no bug may hide behind a closed connection.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import struct
import threading
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

import skate
from skate import config
from skate import messages as m
from skate.ids import FIRST_RETURN
from skate.net.frame import FrameReader, frame
from skate.spec import CallTemplate, JobConfig
from tests.conftest import eventually

CASES = 1_500  # of each kind; some ten seconds in all
GROWTH_MAX_BYTES = 64 << 20  # measured: 45-50; without a bound it would be 120

TO_NODE: tuple[type, ...] = typing.get_args(m.ToNode)
TO_GCS: tuple[type, ...] = typing.get_args(m.ToGcs)


class Session:
    """The session under attack, and a thread of its driver that goes on working."""

    def __init__(self) -> None:
        context = skate.init(num_cpus=2, object_store_memory=100 << 20)
        self.folder = Path(context.address_info["session_dir"])
        described = json.loads((self.folder / "session.json").read_text())
        self.node = psutil.Process(described["node_pid"])
        self.gcs = psutil.Process(described["gcs_pid"])
        self.errors: list[BaseException] = []
        self.rounds = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        @skate.remote
        def add(a: int, b: int) -> int:
            return a + b

        @skate.remote
        class Counter:
            def __init__(self) -> None:
                self.n = 0

            def increment(self) -> int:
                self.n += 1
                return self.n

        try:
            counter = Counter.remote()
            while not self._stop.wait(0.002):
                self.rounds += 1
                refs = [add.remote(add.remote(i, 1), 1) for i in range(5)]
                assert skate.get(refs, timeout=60) == [2, 3, 4, 5, 6]
                assert skate.get(counter.increment.remote(), timeout=60) == self.rounds
                array = bytes(200_000)
                assert skate.get(skate.put(array), timeout=60) == array
        except BaseException as error:
            self.errors.append(error)

    def check(self) -> None:
        """The driver has noticed nothing and goes on."""
        rounds = self.rounds
        eventually(lambda: self.errors or self.rounds > rounds + 2, "the driver goes on", 60)
        assert not self.errors, self.errors
        assert self.node.is_running() and self.gcs.is_running()

    def log(self, role: str) -> str:
        return (self.folder / "logs" / f"{role}.err").read_text()

    def end(self) -> None:
        self._stop.set()
        self._thread.join()
        skate.shutdown()


@pytest.fixture(scope="module")
def running(skate_temp_dir: Path) -> Iterator[Session]:
    session = Session()
    yield session
    session.end()


@pytest.fixture
def session(running: Session) -> Iterator[Session]:
    """The session; afterwards its driver has noticed nothing and its daemons have not grown."""
    before = [(one, one.memory_info().rss) for one in (running.node, running.gcs)]
    yield running
    running.check()
    for process, rss in before:
        eventually(
            lambda process=process, rss=rss: process.memory_info().rss < rss + GROWTH_MAX_BYTES,
            f"{process} has given its memory back",
        )
    assert "internal error" not in running.log("node")


class Peer:
    """A stranger's connection."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))  # waits while others are being accepted
        self.socket.settimeout(10)

    def send(self, data: bytes) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, TimeoutError):
            self.socket.sendall(data)

    def received(self) -> bytes:
        """All that comes until the other side closes."""
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while more := self.socket.recv(1 << 16):
                data += more
        return data

    def close(self) -> None:
        self.socket.close()


def attack(path: Path, data: bytes) -> None:
    peer = Peer(path)
    peer.send(data)
    peer.close()


# --------------------------------------------------------------------------- nonsense, typed

METHODS = [
    *("ping", "nodes", "actor_info", "status", "store", "locate", "flush_logs", "events", "watch"),
    *("reserve_actor_name", "release_actor_name", "kv_put", "kv_get", "kv_list", "functions"),
    *("get_actor", "list_actors", "timeline", "story", "summary"),
]
KEYS = [
    *("actor_id", "id", "name", "namespace", "key", "value", "limit", "wait", "object_id"),
    *("prefix", "since", "table"),
]
NUMBERS = [0, 1, 2, 3, -1, 16, 255, 1 << 20, (1 << 31) - 1, 1 << 32, (1 << 63) - 1, -(1 << 63)]


class Nonsense:
    """Well-formed messages with fields of the right type and any content."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.ids = [rng.randbytes(size) for size in (16, 16, 20, 20, 4, 0)]

    def id(self) -> bytes:
        rng = self.rng
        known = rng.choice(self.ids)
        return rng.choice([known, known, known[:16] + FIRST_RETURN, rng.randbytes(20)])

    def value(self, kind: Any) -> Any:
        rng = self.rng
        origin = typing.get_origin(kind)
        arguments = typing.get_args(kind)
        if origin in (typing.Union, types.UnionType):
            return self.value(rng.choice(arguments))
        if origin is list:
            return [self.value(arguments[0]) for _ in range(rng.choice([0, 1, 2, 5]))]
        if origin is tuple and arguments[-1:] == (Ellipsis,):
            return tuple(self.value(arguments[0]) for _ in range(rng.choice([0, 1, 2])))
        if origin is tuple:
            return tuple(map(self.value, arguments))
        if origin is dict:
            return {
                self.value(arguments[0]): self.value(arguments[1])
                for _ in range(rng.choice([0, 2]))
            }
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return self.message(kind)
        simple: dict[Any, Callable[[], Any]] = {
            int: lambda: rng.choice(NUMBERS),
            float: lambda: rng.choice([0.0, -1.0, 1e300, float("nan"), float("inf"), 1.5]),
            bool: lambda: rng.random() < 0.5,
            bytes: self.id,
            str: lambda: rng.choice(
                ["", "CPU", "GPU", "task", "actor", "method", "nodes", "\0ü" * 9]
            ),
            type(None): lambda: None,
        }
        return simple.get(kind, lambda: rng.choice([None, 7, "text", [1, [2]], {"actor_id": 1}]))()

    def message(self, kind: type) -> Any:
        hints = typing.get_type_hints(kind)
        message = kind(*(self.value(hints[name]) for name in kind.__struct_fields__))
        if kind is m.Hello and self.rng.random() < 0.8:
            return hello(self.rng.choice(["observer", "observer", "driver"]))
        if kind is m.Ask and self.rng.random() < 0.8:
            body = {key: self.value(self.rng.choice([bytes, int, str])) for key in KEYS}
            return m.Ask(message.number, self.rng.choice(METHODS), body)
        return message


def hello(role: str = "driver", **changed: Any) -> m.Hello:
    fields = {
        "protocol": config.PROTOCOL_VERSION,
        "python": config.PYTHON,
        "role": role,
        "pid": os.getpid(),
        "job": JobConfig(namespace="hostile", log_to_driver=False) if role == "driver" else None,
    }
    return m.Hello(**{**fields, **changed})


def registered(nonsense: Nonsense) -> list[Any]:
    """A function that no worker can open, and templates of each kind for it."""
    function_id = nonsense.rng.randbytes(16)
    templates = [
        CallTemplate("task", function_id, "hostile", num_returns=nonsense.rng.choice([0, 1, 3])),
        CallTemplate("actor", function_id, "Hostile", demand=(("CPU", 10_000),)),
        CallTemplate("method", b"", "hostile"),
    ]
    return [
        m.RegisterFunction(function_id, b"garbage", "hostile"),
        *(m.RegisterTemplate(number, one) for number, one in enumerate(templates)),
    ]


# ----------------------------------------------------------------------------------- attacks


def garbage(rng: random.Random, types_: tuple[type, ...]) -> bytes:
    return rng.randbytes(rng.choice([1, 3, 4, 5, 60, 1_000, 70_000]))


def damaged_frames(rng: random.Random, types_: tuple[type, ...]) -> bytes:
    nonsense = Nonsense(rng)
    data = bytearray()
    for _ in range(rng.choice([1, 3])):
        data += frame([nonsense.message(rng.choice(types_)) for _ in range(3)])
    how = rng.choice(["bytes", "length", "cut", "insert", "whole"])
    if how == "bytes":
        for _ in range(rng.choice([1, 5])):
            data[rng.randrange(4, len(data))] = rng.randrange(256)
    elif how == "length":
        data[:4] = struct.pack(
            "<I", rng.choice([0, 1, len(data), config.MAX_FRAME_BYTES + 1, 2**32 - 1])
        )
    elif how == "cut":
        del data[rng.randrange(len(data)) :]
    elif how == "insert":
        at = rng.randrange(len(data))
        data[at:at] = rng.randbytes(rng.choice([1, 4]))
    return bytes(data)


def well_formed_nonsense(rng: random.Random, types_: tuple[type, ...]) -> bytes:
    nonsense = Nonsense(rng)
    return frame([nonsense.message(rng.choice(types_)) for _ in range(rng.choice([1, 4, 20]))])


def greeted_nonsense(rng: random.Random, types_: tuple[type, ...]) -> bytes:
    nonsense = Nonsense(rng)
    batch: list[Any] = [hello("driver")]
    if rng.random() < 0.8:
        batch += registered(nonsense)
    right_template = {m.Submit: 0, m.CreateActor: 1, m.CallActor: 2}
    calls = (*right_template, m.CreateExtent, m.Put, m.Seal, m.Want, m.Release, m.KillActor)
    for _ in range(rng.choice([1, 10, 30])):
        message = nonsense.message(rng.choice(types_ if rng.random() < 0.1 else calls))
        if rng.random() < 0.9:  # nearly right, so that it is heard for long
            if type(message) in right_template:
                message.template = right_template[type(message)]
                message.task_id = rng.randbytes(16)
                nonsense.ids += [message.task_id, message.task_id + FIRST_RETURN]
            elif isinstance(message, m.Put | m.CreateExtent):
                message.object_id = rng.randbytes(20)
                nonsense.ids.append(message.object_id)
            if isinstance(message, m.CreateExtent):
                message.size = rng.choice([1, 5_000, 1 << 20, 1 << 40])
        batch.append(message)
    return frame(batch)


ATTACKS = [garbage, damaged_frames, well_formed_nonsense]


@pytest.mark.parametrize("kind", ATTACKS)
@pytest.mark.parametrize("target", ["node.sock", "gcs.sock"])
def test_nonsense_ends_its_own_connection_alone(
    session: Session, target: str, kind: Callable[..., bytes]
) -> None:
    rng = random.Random(f"{target} {kind.__name__}")
    types_ = TO_NODE if target == "node.sock" else TO_GCS
    for _ in range(CASES):
        attack(session.folder / target, kind(rng, types_))


def test_nonsense_of_a_driver_ends_its_own_job_alone(session: Session) -> None:
    rng = random.Random("driver")
    for _ in range(CASES // 5):  # each has workers forked for it
        attack(session.folder / "node.sock", greeted_nonsense(rng, TO_NODE))


def test_nonsense_of_a_node_ends_its_own_membership_alone(session: Session) -> None:
    rng = random.Random("node")
    for _ in range(CASES):
        nonsense = Nonsense(rng)
        joins = m.NodeJoins(
            config.PROTOCOL_VERSION, rng.randbytes(16), 1, "nowhere", "nobody", {}, {}, 0
        )
        batch = [nonsense.message(rng.choice(TO_GCS)) for _ in range(6)]
        attack(session.folder / "gcs.sock", frame([joins, *batch]))
    eventually(
        lambda: [row["Alive"] for row in skate.nodes()].count(True) == 1, "only the real node"
    )


# -------------------------------------------------------------------------- single manners


def test_a_peer_that_sends_a_byte_at_a_time_is_understood(session: Session) -> None:
    peer = Peer(session.folder / "node.sock")
    for byte in frame([hello("observer"), m.Ask(5, "ping", {})]):
        peer.send(bytes([byte]))
    assert peer.socket.recv(1 << 16) == frame([m.Answer(5)])
    peer.close()


def test_a_peer_that_vanishes_in_the_middle_of_a_large_frame_leaves_nothing(
    session: Session,
) -> None:
    for _ in range(20):
        peer = Peer(session.folder / "node.sock")
        peer.send(struct.pack("<I", config.MAX_FRAME_BYTES) + bytes(2 << 20))
        peer.close()


def test_a_peer_that_never_reads_costs_a_bounded_amount_of_memory(session: Session) -> None:
    peer = Peer(session.folder / "node.sock")
    peer.send(frame([hello("observer")]))
    peer.socket.settimeout(2)
    questions = memoryview(frame([m.Ask(1, "status", {})] * 1_000) * 250)
    sent = 0
    before = session.node.memory_info().rss
    with pytest.raises(TimeoutError):  # the node hears no more of it
        while sent < len(questions):
            sent += peer.socket.send(questions[sent:])
    assert session.node.memory_info().rss < before + GROWTH_MAX_BYTES
    session.check()
    # Once it reads, it is heard again.
    peer.socket.settimeout(30)

    def ask_the_rest() -> None:
        with contextlib.suppress(OSError):  # until the connection is shut below
            peer.socket.sendall(questions[sent:])

    rest = threading.Thread(target=ask_the_rest)
    rest.start()
    reader = FrameReader(m.decode_to_client)
    answers = 0
    while answers < 100_000:
        answers += len(reader.feed(peer.socket.recv(1 << 20)))
    peer.socket.shutdown(socket.SHUT_RDWR)
    rest.join()
    peer.close()


def test_a_huge_array_of_nothing(session: Session) -> None:
    head = b"\x93\x13\xdd\xff\xff\xff\xff"  # Put-like, with an array of 2**32 - 1 elements
    for payload in (b"\xdd\xff\xff\xff\xff", b"\x91" + head, b"\x91" * 100_000, b"\x81" * 5_000):
        for target in ("node.sock", "gcs.sock"):
            peer = Peer(session.folder / target)
            peer.send(struct.pack("<I", len(payload)) + payload)
            assert peer.received() == b""
            peer.close()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"protocol": 99}, "install the same version of skate on both sides"),
        ({"python": "3.10"}, "objects cannot be exchanged between minor versions"),
        ({"role": "worker"}, "workers are started by their node and by nobody else"),
        ({"role": "king"}, "unknown role 'king'"),
    ],
)
def test_who_does_not_fit_is_refused_in_a_sentence(
    session: Session, wrong: dict[str, Any], sentence: str
) -> None:
    peer = Peer(session.folder / "node.sock")
    # What comes behind it in the same breath is not heard, and does not drown the answer.
    peer.send(frame([hello(**wrong), m.Ask(1, "ping", {}), m.Blocked()]))
    (refused,) = m.decode_to_client(peer.received()[4:])
    assert isinstance(refused, m.Refused)
    assert sentence in refused.reason
    peer.close()


def test_an_observer_may_ask_and_nothing_else(session: Session) -> None:
    for message in (m.Put(bytes(20), b"\3x"), m.Want([bytes(20)]), m.Blocked(), m.KillActor(b"")):
        peer = Peer(session.folder / "node.sock")
        peer.send(frame([hello("observer"), message]))
        assert peer.received() == b""
        peer.close()


def test_the_session_goes_on_when_a_second_driver_leaves(session: Session) -> None:
    peer = Peer(session.folder / "node.sock")
    peer.send(frame([hello("driver")]))
    (welcome,) = m.decode_to_client(peer.socket.recv(1 << 16)[4:])
    assert isinstance(welcome, m.Welcome)
    peer.send(frame([m.Leaving("done")]))
    assert peer.received() == b""
    peer.close()
