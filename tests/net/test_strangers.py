"""Whoever reaches the port of a running cluster without its token gets "no", and nothing else.

A cluster at work, as `skate start` makes it, and strangers at its TCP port: pickles that would run
code, whole conversations as members hold them, wrong tokens, recordings of real members; then
another user of the machine at its unix sockets; then members, who have the token and say nonsense.
The driver must not notice, no daemon may end or grow, no code of theirs may run.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import skate
from skate import config
from skate import messages as m
from skate.cluster_utils import Cluster
from skate.errors import AuthenticationError
from skate.ids import FIRST_RETURN
from skate.net.dialing import Dialled, RefusedError, dial
from skate.net.frame import frame
from skate.net.handshake import NO, PURPOSES, AcceptHandshake, DialHandshake, LineHello, LineOk
from skate.spec import CallTemplate, JobConfig
from skate.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tests.conftest import eventually
from tests.net.house import receive_all
from tests.net.test_hostile_peers import TO_GCS, TO_NODE, Nonsense

HEARD_WITHIN_S = 15.0
GROWTH_MAX_BYTES = 48 << 20
START_BYTES = 44  # all of the node's prelude: magic, version, flags, nonce
NOBODY = 65_534


class Place:
    """A cluster of two nodes, and a thread of its driver that goes on working on both."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.head = self.cluster.add_node(num_cpus=2, resources={"head": 100})
        self.other = self.cluster.add_node(num_cpus=2, resources={"other": 100})
        self.cluster.connect()
        self.token = Path(self.cluster.token_file).read_bytes().strip()
        self.daemons = [psutil.Process(pid) for pid in self._pids()]
        self.errors: list[BaseException] = []
        self._guest: socket.socket | None = None
        self.rounds = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def take_in(self, node_id: bytes, address: str = "0.0.0.0:1") -> None:
        """A node joins that is none; the one before it leaves."""
        self.let_go()
        hello = LineHello("gcs", node_id=node_id, session_id=node_id, pid=os.getpid())
        self._guest = dial(self.head.address, hello, self.token).sock
        joins = m.NodeJoins(config.PROTOCOL_VERSION, node_id, 1, address, "x", {}, {}, 0)
        self._guest.sendall(frame([joins]))
        # The answer comes by way of the head's node, behind the news of the one that has joined.
        eventually(
            lambda: any(row["NodeID"] == node_id.hex() for row in skate.nodes()), "it has joined"
        )

    def let_go(self) -> None:
        """The node that was taken in leaves."""
        if self._guest is not None:
            self._guest.close()
            self._guest = None

    def _pids(self) -> list[int]:
        return [pid for node in (self.head, self.other) for pid in node.pids.values() if pid]

    def _work(self) -> None:
        @skate.remote(num_cpus=0)
        class Counter:
            def __init__(self) -> None:
                self.n = 0

            def increment(self) -> int:
                self.n += 1
                return self.n

        @skate.remote(num_cpus=0)
        def double(data: bytes) -> bytes:
            return data + data

        try:
            counter = Counter.options(resources={"other": 1}).remote()
            here = double.options(resources={"head": 1})
            there = double.options(resources={"other": 1})
            while not self._stop.wait(0.005):
                self.rounds += 1
                ref = here.remote(there.remote(bytes(150_000)))
                assert len(skate.get(ref, timeout=60)) == 600_000
                assert skate.get(counter.increment.remote(), timeout=60) == self.rounds
        except BaseException as error:
            self.errors.append(error)

    def check(self) -> None:
        """The driver has noticed nothing and goes on, on both nodes."""
        rounds = self.rounds
        eventually(lambda: self.errors or self.rounds > rounds + 2, "the driver goes on", 60)
        assert not self.errors, self.errors
        assert all(one.is_running() for one in self.daemons)
        assert sum(row["Alive"] for row in skate.nodes()) == 2
        for node in (self.head, self.other):
            assert "internal error" not in (node.logs / "node.err").read_text()

    def end(self) -> None:
        self._stop.set()
        self._thread.join()
        self.cluster.shutdown()


@pytest.fixture(scope="module")
def running(skate_temp_dir: Path) -> Iterator[Place]:
    place = Place()
    yield place
    place.end()


@pytest.fixture
def place(running: Place) -> Iterator[Place]:
    """The cluster; afterwards its driver has noticed nothing and no daemon has grown."""
    before = [(one, one.memory_info().rss) for one in running.daemons]
    yield running
    running.let_go()
    running.check()
    for process, rss in before:
        eventually(
            lambda process=process, rss=rss: process.memory_info().rss < rss + GROWTH_MAX_BYTES,
            f"{process} has given its memory back",
        )


def connect(address: str) -> socket.socket:
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=HEARD_WITHIN_S)


def say(address: str, data: bytes) -> bytes:
    """As a stranger; all that is heard until the node hangs up."""
    with connect(address) as sock:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(data)
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
        return receive_all(sock)


def assert_tells_nothing(heard: bytes, place: Place) -> None:
    """At most the start of a handshake, which is the same for all, and NO."""
    start = b""
    if len(heard) >= START_BYTES:
        start, heard = heard[:START_BYTES], heard[START_BYTES:]
        assert start.startswith(b"\x93skate<\n")
    assert heard in (b"", NO)
    for secret in (place.token, bytes.fromhex(place.head.node_id), b"session"):
        assert secret not in start


class Bomb:
    """A pickle that creates a file where it is opened."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.marker, "w")


def a_hello(role: str) -> m.Hello:
    return m.Hello(config.PROTOCOL_VERSION, config.PYTHON, role, os.getpid(), b"", JobConfig())


def conversations(bomb: bytes) -> Iterator[tuple[str, bytes]]:
    """What members of a cluster, and clients of a node, say; each is well formed."""
    template = CallTemplate("task", bytes(16), "run")
    task_id, object_id = bytes(16), bytes(16) + FIRST_RETURN
    function = m.RegisterFunction(bytes(16), bomb, "run")
    call = m.Submit(task_id, 0, bomb)
    for role in ("driver", "worker", "observer", "node"):
        messages = [a_hello(role), function, m.RegisterTemplate(0, template), call]
        yield f"a {role}'s Submit", frame(messages)
    yield "a question", frame([a_hello("observer"), m.Ask(1, "nodes", {})])
    yield "a value, please", frame([a_hello("driver"), m.Want([object_id])])
    joins = m.NodeJoins(config.PROTOCOL_VERSION, bytes(16), 1, "1.2.3.4:5", "h", {}, {}, 0)
    yield "NodeJoins", frame([joins, m.Ask(1, "nodes", {})])
    yield "Fetch", frame([m.Fetch(object_id, 0, 100, bytes(16))])
    job = m.Introduce(bytes(4), JobConfig(), bytes(16), 1)
    forward = m.Forward(task_id, 0, 0, bomb)
    yield "Forward", frame([job, function, m.RegisterTemplate(0, template, bytes(4)), forward])
    yield "a bare pickle", bomb
    yield "a framed pickle", struct.pack("<I", len(bomb)) + bomb


KINDS = [kind for kind, _ in conversations(b"")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("behind", ["nothing", "a start", "a wrong proof"])
def test_a_stranger_hears_nothing_but_no_and_runs_nothing(
    place: Place, tmp_path: Path, kind: str, behind: str
) -> None:
    marker = tmp_path / "it ran"
    data = dict(conversations(pickle.dumps(Bomb(marker))))[kind]
    hello = LineHello("driver", session_id=bytes(16))
    start = DialHandshake(b"", bytes(32), hello, "").begin()
    before = {"nothing": b"", "a start": start, "a wrong proof": start + bytes(32)}[behind]
    for node in (place.head, place.other):
        assert_tells_nothing(say(node.address, before + data), place)
    assert not marker.exists()


@pytest.mark.parametrize("purpose", PURPOSES)
def test_a_wrong_token_opens_no_door(place: Place, purpose: str) -> None:
    right = place.token
    for token in (b"", right[:-1], right + b"x", right.upper(), right[::-1], bytes(len(right))):
        with pytest.raises(AuthenticationError, match="refused the token"):
            dial(place.head.address, LineHello(purpose, session_id=bytes(16)), token)


def test_recordings_of_real_members_open_no_door(place: Place) -> None:
    for purpose in ("node", "driver", "gcs", "data", "probe"):
        recorded = b""
        own_id = os.urandom(16)
        hello = LineHello(purpose, node_id=own_id, session_id=own_id, pid=os.getpid())
        if purpose == "node":
            place.take_in(own_id)
        side = DialHandshake(place.token, os.urandom(32), hello, place.head.address)
        with connect(place.head.address) as sock:
            out = side.begin()
            while out or not side.done:
                sock.sendall(out)
                recorded += out
                assert not side.refused, side.refused
                out = side.feed(sock.recv(side.wants)) if side.wants else b""
        for address in (place.head.address, place.other.address):
            for _ in range(2):
                heard = say(address, recorded)
                assert_tells_nothing(heard, place)
                assert heard.endswith(NO)


def test_a_node_s_own_proof_sent_back_to_it_proves_nothing(place: Place) -> None:
    """Between the two nodes: each is asked to prove itself to the other by a stranger."""
    hello = LineHello("node", node_id=bytes(16))
    side = DialHandshake(b"not the token", os.urandom(32), hello, "")
    with connect(place.head.address) as one, connect(place.other.address) as other:
        begin = side.begin()
        one.sendall(begin)
        other.sendall(begin)
        preludes = [_exactly(sock, START_BYTES) for sock in (one, other)]
        # No node proves anything first: there is no MAC to be had, and none that fits is known.
        for sock, theirs in ((one, preludes[1]), (other, preludes[0])):
            sock.sendall(theirs[:32])
            assert receive_all(sock) == NO


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = sock.recv(count - len(data))
        assert part
        data += part
    return data


def test_an_impostor_is_told_nothing_by_a_member(place: Place) -> None:
    """Who listens where a node should be learns neither the token nor a proof that he can use."""
    heard: list[bytes] = []

    def impersonate(listener: socket.socket) -> None:
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(HEARD_WITHIN_S)
            side = AcceptHandshake(b"another token, long enough", os.urandom(32))
            while side.wants:
                data = sock.recv(side.wants)
                if not data:
                    break
                heard.append(data)
                sock.sendall(side.feed(data))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=impersonate, args=(listener,))
        thread.start()
        with pytest.raises(AuthenticationError):
            dial(f"127.0.0.1:{listener.getsockname()[1]}", LineHello("node"), place.token)
        thread.join()
    assert place.token not in b"".join(heard)
    # What it was shown does not fit any other node's nonce.
    assert say(place.head.address, b"".join(heard)).endswith(NO)


def test_noise_at_every_port(place: Place) -> None:
    rng = random.Random("noise")
    starts = [
        *(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"SSH-2.0-x\r\n"),
        *(b"\x93skate>\n", b"\x93skate<\n", NO, b"\xff" * 100, b"\0" * 64),
    ]
    for number in range(400):
        data = rng.choice(starts)[: rng.choice([1, 5, 64])] + rng.randbytes(rng.choice([0, 9, 99]))
        if number % 4:
            with connect(place.head.address) as sock, contextlib.suppress(OSError):
                sock.sendall(data)
        else:
            assert b"session" not in say(place.head.address, data)


def test_strangers_that_stay_keep_nobody_out(place: Place) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(config.UNAUTHENTICATED_MAX + 50):
            stack.enter_context(connect(place.head.address))
        place.check()  # the members' lines are up; a new one waits for the strangers to be sent off
        with member(place, "probe").sock:
            pass


# ---------------------------------------------------------------------------- another user


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("opened", [False, True])
def test_another_user_of_the_machine_is_not_heard(place: Place, opened: bool) -> None:
    """The folder keeps him out; where somebody has opened it all, the kernel tells who he is."""
    folder = place.head.session_dir
    paths = [folder / "node.sock", folder / "gcs.sock"]
    way = [Path(os.environ["SKATE_TEMP_DIR"]), folder]
    assert all(path.stat().st_mode & 0o077 == 0 for path in way)
    modes = [(path, path.stat().st_mode & 0o7777) for path in (*way, *paths)]
    try:
        if opened:
            for path, _ in modes:
                path.chmod(0o777)
        heard = as_nobody(lambda: [ask_as_nobody(path) for path in paths])
    finally:
        for path, mode in modes:
            path.chmod(mode)
    assert heard == ([b""] * 2 if opened else [b"PermissionError"] * 2)


def ask_as_nobody(path: Path) -> bytes:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(HEARD_WITHIN_S)
        try:
            sock.connect(str(path))
        except PermissionError:
            return b"PermissionError"
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(frame([a_hello("observer"), m.Ask(1, "nodes", {})]))
        return receive_all(sock)


def as_nobody(function: Callable[[], list[bytes]]) -> list[bytes]:
    """What it returns in a child of another user: a fork, since that one may read no program."""
    inside, ours = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(inside)
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            os.write(ours, pickle.dumps(function()))
        finally:
            os._exit(0)
    os.close(ours)
    with open(inside, "rb") as answer:
        data = answer.read()
    os.waitpid(child, 0)
    assert data, "the other user's process failed"
    return list(pickle.loads(data))


# ---------------------------------------------------------------------------- members


def member(place: Place, purpose: str, address: str = "") -> Dialled:
    own_id = os.urandom(16)
    hello = LineHello(purpose, node_id=own_id, session_id=own_id, pid=os.getpid())
    if purpose == "node":
        place.take_in(own_id)
    until = time.monotonic() + HEARD_WITHIN_S
    while True:
        try:
            line = dial(address or place.head.address, hello, place.token)
        except RefusedError:
            raise
        except ConnectionError:  # that node has not heard yet that this one has joined
            assert purpose == "node" and time.monotonic() < until
        else:
            line.sock.settimeout(HEARD_WITHIN_S)
            return line


def test_a_node_that_has_not_joined_opens_no_line(place: Place) -> None:
    for address in (place.head.address, place.other.address):
        own_id = os.urandom(16)
        hello = LineHello("node", node_id=own_id, session_id=own_id, pid=os.getpid())
        with pytest.raises(ConnectionError):
            dial(address, hello, place.token)


def test_a_member_who_wants_what_nobody_offers_is_told_so(place: Place) -> None:
    with pytest.raises(RefusedError, match="nobody connects for"):
        dial(place.head.address, LineHello("dashboard"), place.token)
    with pytest.raises(RefusedError, match="GCS is not on this machine"):
        dial(place.other.address, LineHello("gcs"), place.token)


@pytest.mark.parametrize("purpose", ["node", "driver", "gcs", "data"])
def test_a_member_who_talks_nonsense_loses_its_own_line(place: Place, purpose: str) -> None:
    """Garbage, half a frame and the end, a frame that promises too much, messages of others."""
    wrong = {
        "node": [m.Submit(bytes(16), 0, b""), m.NodeJoins(1, b"", 1, "", "", {}, {}, 0)],
        "driver": [m.Forward(bytes(16), 0, 0, b""), m.Fetch(bytes(20), 0, 1, b"")],
        "gcs": [m.Submit(bytes(16), 0, b""), m.Fetch(bytes(20), 0, 1, b"")],
        "data": [m.Submit(bytes(16), 0, b""), m.Returned(bytes(16), 0, [])],
    }[purpose]
    for data in (
        b"\x00" * 100,
        b"\xff" * 100,
        struct.pack("<I", config.MAX_FRAME_BYTES + 1),
        struct.pack("<I", 5) + b"\xdd\xff\xff\xff\xff",
        struct.pack("<I", 3) + b"\x91\x91\xc0",
        *(frame([message]) for message in wrong),
    ):
        with member(place, purpose).sock as sock:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(data)
            receive_all(sock)  # until it is closed, and not for ever
        with member(place, purpose).sock as sock:
            sock.sendall(data[:3])


def test_what_a_member_fetches_and_is_not_there_is_gone(place: Place) -> None:
    with member(place, "data").sock as sock:
        for object_id in (bytes(20), b"", os.urandom(20), bytes(5_000 // 2)):
            sock.sendall(frame([m.Fetch(object_id, 0, 100, bytes(16))]))
            size = struct.unpack("<I", _exactly(sock, 4))[0]
            (lent,) = m.decode_to_fetcher(_exactly(sock, size))
            assert lent == m.Lent("gone")


def test_what_a_member_fetches_is_that_object_and_nothing_around_it(place: Place) -> None:
    secret, wanted = skate.put(b"s" * 200_000), skate.put(b"w" * 200_000)
    bounds = [(-1, 10), (0, 1 << 40), (150_000, 100_000), (1 << 62, 1 << 62), (-200_000, 200_000)]
    for offset, length in bounds:
        with member(place, "data").sock as sock:
            sock.sendall(frame([m.Fetch(wanted.binary(), offset, length, bytes(16))]))
            sock.shutdown(socket.SHUT_WR)
            assert b"s" * 10 not in receive_all(sock)
    assert len(skate.get(secret)) == 200_000


@pytest.mark.parametrize("purpose", ["node", "driver", "gcs"])
def test_well_formed_nonsense_of_members(place: Place, purpose: str) -> None:
    """Messages of the right types with any content, as many as two seconds take."""
    rng = random.Random(purpose)
    kinds = TO_GCS if purpose == "gcs" else TO_NODE
    until = time.monotonic() + 2.0
    cases = 0
    while time.monotonic() < until:
        cases += 1
        nonsense = Nonsense(rng)
        first: list[Any] = []
        if purpose == "driver":
            first = [a_hello("driver")]
        elif purpose == "gcs":
            identity = rng.randbytes(16)
            first = [m.NodeJoins(config.PROTOCOL_VERSION, identity, 1, "0.0.0.0:1", "x", {}, {}, 0)]
        elif rng.random() < 0.8:
            job = nonsense.ids[4]
            nonsense.ids.append(job)
            function, template = nonsense.ids[0], CallTemplate("task", nonsense.ids[0], "run")
            first = [
                m.Introduce(job, JobConfig(), rng.randbytes(16), 1),
                m.RegisterFunction(function, b"\x80", "run"),
                m.RegisterTemplate(0, template, job),
            ]
        address = rng.choice([place.head.address, place.other.address])
        line = member(place, purpose, place.head.address if purpose == "gcs" else address)
        with line.sock as sock, contextlib.suppress(OSError):
            sock.sendall(frame(first + [nonsense.message(rng.choice(kinds)) for _ in range(6)]))
    assert cases > 20
    place.let_go()
    eventually(
        lambda: sum(row["Alive"] for row in skate.nodes()) == 2, "only the real nodes are left", 30
    )


def let_in(listener: socket.socket, token: bytes, node_id: bytes) -> socket.socket:
    """Accept a line, whoever opens it, and say that nothing has come over it so far."""
    sock, _ = listener.accept()
    sock.settimeout(HEARD_WITHIN_S)
    side = AcceptHandshake(token, os.urandom(32))
    while side.peer_hello is None:
        assert not side.refused, side.refused
        sock.sendall(side.feed(_exactly(sock, side.wants)))
    sock.sendall(side.answer(LineOk(node_id, side.peer_hello.session_id)))
    return sock


@pytest.mark.parametrize("how", ["forgets the line", "is another cluster's"])
def test_a_node_that_does_not_know_its_own_line_any_more_costs_that_line_alone(
    place: Place, how: str
) -> None:
    """It has acknowledged messages, and knows nothing of them when the line is resumed."""

    @skate.remote(num_cpus=0, max_retries=0)
    def f() -> None: ...

    node_id = os.urandom(16)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(HEARD_WITHIN_S)
        place.take_in(node_id, f"127.0.0.1:{listener.getsockname()[1]}")
        there = NodeAffinitySchedulingStrategy(node_id.hex(), soft=False)
        ref = f.options(scheduling_strategy=there).remote()
        with let_in(listener, place.token, node_id) as sock:
            first = _exactly(sock, struct.unpack("<I", _exactly(sock, 4))[0])
            sock.sendall(frame([m.Seen(len(m.decode_to_node(first)))]))
        if how == "is another cluster's":
            sock, _ = listener.accept()
            with sock:
                side = AcceptHandshake(b"another token of another cluster", os.urandom(32))
                with contextlib.suppress(OSError, AssertionError):
                    while not side.refused:
                        sock.sendall(side.feed(_exactly(sock, side.wants)))
        else:
            with let_in(listener, place.token, node_id) as sock:
                receive_all(sock)
        with pytest.raises(skate.exceptions.NodeDiedError):
            skate.get(ref, timeout=HEARD_WITHIN_S)
    assert all(process.is_running() for process in place.daemons)
