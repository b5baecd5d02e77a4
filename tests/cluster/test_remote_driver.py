"""init("skate://HOST:PORT"): drivers without a node of their own, over connections that break."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skate import config
from skate.launch.daemons import Daemons
from skate.launch.launching import NodeRequest, launch
from skate.launch.observer import Observer
from tests.cluster.cutting_proxy import CuttingProxy
from tests.conftest import Leftovers, eventually
from tests.net.certificates import Authority

SOURCES = str(Path(__file__).resolve().parents[2] / "src")
STORE_BYTES = 300 << 20
KEPT_S = 1.5
"""Of the nodes of a test that waits until they give a driver up."""

Drive = Callable[..., "subprocess.Popen[str]"]

RESULT_BYTES = 95_000
RESULTS = int(1.2 * config.KEPT_MAX_BYTES / RESULT_BYTES)


class Nodes:
    """Nodes of one cluster on this machine, all with one token."""

    def __init__(self, folder: Path) -> None:
        self.token_file = folder / "token"
        self.token_file.write_text("a-token-for-these-tests\n")
        self.token_file.chmod(0o600)
        self.started: list[Daemons] = []

    def add(self, **wanted: object) -> Daemons:
        head = {"head_address": self.started[0].description.address} if self.started else {}
        request = NodeRequest(
            ip="127.0.0.1",
            num_cpus=2,
            object_store_memory=STORE_BYTES,
            token_file=str(self.token_file),
            **{**head, **wanted},  # type: ignore[arg-type]
        )
        self.started.append(launch(request, started_by="test"))
        return self.started[-1]

    @property
    def address(self) -> str:
        return self.started[0].description.address

    def jobs_alive(self) -> int:
        return len(self.drivers())

    def drivers(self) -> list[int]:
        """The process ids of those whose jobs go on."""
        with Observer(self.started[0].node_socket) as observer:
            return [row["driver_pid"] for row in observer.ask("list_jobs") if row["alive"]]

    def objects(self) -> int:
        """Extents that the arena of the head has."""
        with Observer(self.started[0].node_socket) as observer:
            return int(observer.ask("store")["extents"])

    def is_idle(self) -> bool:
        """Whether the head runs no task."""
        with Observer(self.started[0].node_socket) as observer:
            status = observer.ask("status")
        return bool(status["resources_available"]["CPU"] == 2)

    def stop(self) -> None:
        for node in reversed(self.started):
            node.stop(time.monotonic() + config.STOP_TIMEOUT_S)


@pytest.fixture
def nodes(tmp_path: Path, skate_temp_dir: Path) -> Iterator[Nodes]:
    made = Nodes(tmp_path)
    try:
        yield made
    finally:
        made.stop()
    for node in made.started:
        Leftovers(skate_temp_dir).assert_gone(node.description.session)


@pytest.fixture
def drive(nodes: Nodes, tmp_path: Path) -> Iterator[Drive]:
    """Start a driver program with nothing of this process's environment but the token."""
    running: list[subprocess.Popen[str]] = []

    def start(source: str, address: str, **environ: str) -> subprocess.Popen[str]:
        folder = tmp_path / f"driver{len(running)}"
        folder.mkdir()
        script = folder / "program.py"
        script.write_text(f"import skate\nADDRESS = {address!r}\n" + textwrap.dedent(source))
        program = subprocess.Popen(
            [sys.executable, "-u", str(script)],
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": os.pathsep.join([SOURCES, "/no/such/folder"]),
                "SKATE_TEMP_DIR": str(folder),
                "SKATE_TOKEN_FILE": str(nodes.token_file),
                **environ,
            },
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(program)
        return program

    yield start
    for program in running:
        program.kill()
        program.communicate()


def result(program: subprocess.Popen[str], timeout_s: float = 60.0) -> tuple[str, str]:
    """What a driver printed; it has to end well."""
    out, err = program.communicate(timeout=timeout_s)
    assert program.returncode == 0, f"exit code {program.returncode}\n{out}\n{err}"
    return out, err


def await_line(program: subprocess.Popen[str], expected: str) -> None:
    assert program.stdout is not None
    for line in program.stdout:
        if line.strip() == expected:
            return
    pytest.fail(f"the driver ended before it said {expected!r}: {program.communicate()[1]}")


EVERYTHING = """
    import sys, time
    import numpy as np

    context = skate.init(ADDRESS, namespace="far")
    place = ADDRESS.partition("://")[2]
    assert context.address_info["address"] == place
    assert context["session_dir"] == context["raylet_socket_name"] == ""
    assert repr(context) == f"SkateContext({place})"
    assert len(skate.nodes()) == 2 and skate.cluster_resources()["CPU"] == 4

    @skate.remote
    def add(a, b=0):
        return a + b

    @skate.remote
    def ones(count):
        return np.ones(count)

    @skate.remote(num_returns=2)
    def halves(array):
        print("halving", len(array))
        return array[: len(array) // 2], array[len(array) // 2 :]

    @skate.remote
    def fail():
        raise KeyError("lost")

    @skate.remote
    class Counter:
        def __init__(self):
            self.count = 0
        def add(self, n=1):
            self.count += n
            return self.count
        def array(self):
            return np.arange(300_000)

    assert skate.get([add.remote(i, b=1) for i in range(500)]) == list(range(1, 501))
    # 10 MB up, there and back again; nobody may write to it, as with shared memory.
    array = np.arange(1_300_000, dtype=np.int64)
    ref = skate.put(array)
    assert skate.wait([ref], timeout=0, fetch_local=False)[0] == [ref]
    back = skate.get(ref)
    assert (back == array).all() and not back.flags.writeable and back.ctypes.data % 64 == 0
    assert skate.get(skate.put(b"x" * 2_000_000)) == b"x" * 2_000_000
    first, second = skate.get(halves.remote(array))      # large argument, large results
    assert (np.concatenate([first, second]) == array).all()
    first, second = skate.get(halves.remote(ref))
    assert len(first) == len(second) == 650_000
    # The second node: a large result there, and the value in a task of the first.
    there = ones.options(resources={"second": 1}).remote(500_000)
    assert skate.get(there).sum() == 500_000
    assert skate.get(add.remote(there, 1)).sum() == 1_000_000
    # Only what is asked for is sent; what is dropped on the way does no harm.
    unread = [ones.remote(200_000) for _ in range(20)]
    assert len(skate.wait(unread, num_returns=20, timeout=30, fetch_local=False)[0]) == 20
    for index in range(10):
        try:
            skate.get(ones.remote(3_000_000), timeout=0.05)
        except skate.exceptions.GetTimeoutError:
            pass
    assert skate.get(unread[7]).sum() == 200_000

    counter = Counter.options(name="counter").remote()
    assert skate.get([counter.add.remote() for _ in range(300)]) == list(range(1, 301))
    assert skate.get(skate.get_actor("counter").add.remote(5)) == 305
    assert skate.get(counter.array.remote())[-1] == 299_999
    ready, rest = skate.wait([add.remote(i) for i in range(10)], num_returns=10, timeout=30)
    assert len(ready) == 10 and not rest
    try:
        skate.get(fail.remote())
    except KeyError:
        print("it failed")
    group = skate.util.placement_group([{"CPU": 1}], strategy="PACK")
    assert group.wait(30)
    assert skate.get(add.options(placement_group=group).remote(1, 2)) == 3
    try:
        skate.put(np.zeros(100_000_000))
    except skate.exceptions.ObjectStoreFullError:
        print("it is full")
    skate.shutdown()
    print("all right")
"""


@pytest.mark.parametrize("scheme", ["skate", "ray"])
def test_the_whole_api_from_afar(nodes: Nodes, drive: Drive, scheme: str) -> None:
    nodes.add()
    nodes.add(resources={"second": 1})
    out, _ = result(drive(EVERYTHING, f"{scheme}://{nodes.address}"), 90)
    for line in ("it failed", "it is full", "halving 1300000", "all right"):
        assert line in out
    eventually(lambda: nodes.jobs_alive() == 0, "shutdown() ends the job at once", 2.0)
    eventually(lambda: nodes.objects() == 0, "its objects are freed", 2.0)


STREAM = """
    import sys
    import numpy as np

    skate.init(ADDRESS)
    print("ready")

    @skate.remote
    def square(x):
        return x * x

    @skate.remote
    def reversed_(array):
        return array[::-1].copy()

    @skate.remote
    class Notes:
        def __init__(self):
            self.seen = []
        def note(self, number):
            self.seen.append(number)
            return len(self.seen)
        def all(self):
            return self.seen

    notes = Notes.remote()
    calls = 0
    for part in range(int(sys.argv[1]) if len(sys.argv) > 1 else 12):
        squares = [square.remote(i) for i in range(200)]
        marks = [notes.note.remote(calls + i) for i in range(100)]
        array = np.arange(part, part + 700_000)
        ref = skate.put(array)
        turned = reversed_.remote(array)
        assert (skate.get(turned, timeout=60) == array[::-1]).all()
        assert (skate.get(ref, timeout=60) == array).all()
        assert (skate.get(reversed_.remote(ref), timeout=60) == array[::-1]).all()
        assert skate.get(squares, timeout=60) == [i * i for i in range(200)]
        assert skate.get(marks, timeout=60) == [calls + 1 + i for i in range(100)]
        calls += 100
        assert skate.get(square.remote(part), timeout=60) == part * part
    assert skate.get(notes.all.remote(), timeout=60) == list(range(calls))
    print("all right")
"""


@pytest.mark.parametrize(
    ("reset", "with_tls"), [(True, False), (False, False), (True, True)], ids=["rst", "fin", "tls"]
)
def test_nothing_is_lost_or_done_twice_when_connections_break(
    nodes: Nodes, drive: Drive, tmp_path: Path, reset: bool, with_tls: bool
) -> None:
    environ = {}
    options = {}
    if with_tls:
        authority = Authority(tmp_path)
        cert, key = authority.member()
        options = {"tls_cert": cert, "tls_key": key, "tls_ca": authority.ca}
        environ = {f"SKATE_{name.upper()}": value for name, value in options.items()}
    nodes.add(**options)
    chance = random.Random(7)
    with CuttingProxy(nodes.address) as proxy:
        program = drive(STREAM, f"skate://{proxy.address}", **environ)
        await_line(program, "ready")  # what breaks before is an attempt that has failed
        give_up_at = time.monotonic() + 100
        while program.poll() is None and time.monotonic() < give_up_at:
            try:
                program.wait(chance.uniform(0.02, 0.4))
            except subprocess.TimeoutExpired:
                proxy.cut(reset=reset)
        out, _ = result(program, 10)
    assert "all right" in out
    assert proxy.cuts >= 5


@pytest.mark.slow
def test_results_that_pour_in_while_it_is_away_wait_for_the_driver(
    nodes: Nodes, drive: Drive
) -> None:
    """More of them than the node keeps for a line without a connection."""
    source = f"""
        skate.init(ADDRESS)
        @skate.remote
        def small(i):
            return bytes([i % 256]) * {RESULT_BYTES}
        refs = [small.remote(i) for i in range({RESULTS})]
        skate.get(refs[0])
        print("submitted")
        for i, ref in enumerate(refs):
            assert skate.get(ref) == bytes([i % 256]) * {RESULT_BYTES}
        print("all right")
    """
    nodes.add()
    with CuttingProxy(nodes.address) as proxy:
        program = drive(source, f"skate://{proxy.address}")
        await_line(program, "submitted")
        proxy.close_door()
        eventually(lambda: nodes.is_idle(), "all have run", 25.0)
        proxy.open_door()
        out, _ = result(program)
    assert "all right" in out


def test_a_connection_that_swallows_everything_is_replaced(nodes: Nodes, drive: Drive) -> None:
    """No reset and no end of file: only that the node says nothing tells that it is broken."""
    source = """
        skate.init(ADDRESS)
        @skate.remote
        def double(x):
            return 2 * x
        print("ready")
        number = 0
        while skate.get(double.remote(number)) == 2 * number:
            number += 1
            if number % 100 == 0:
                print("another hundred")
    """
    nodes.add()
    with CuttingProxy(nodes.address) as proxy:
        program = drive(source, f"skate://{proxy.address}")
        await_line(program, "ready")
        proxy.swallow()
        assert proxy.connections == 1
        eventually(lambda: proxy.connections == 2, "a new connection", 2 * config.DRIVER_SILENCE_S)
        for _ in range(3):
            await_line(program, "another hundred")


def test_ctrl_c_works_while_the_connection_is_away(nodes: Nodes, drive: Drive) -> None:
    source = """
        skate.init(ADDRESS)
        @skate.remote
        def double(x):
            return 2 * x
        assert skate.get(double.remote(4)) == 8
        try:
            print("ready")
            while True:
                skate.get(double.remote(1))
        except KeyboardInterrupt:
            print("interrupted")
        later = [double.remote(i) for i in range(500)]  # kept here until they can be sent
        print("submitted")
        assert skate.get(later) == [2 * i for i in range(500)]
        print("all right")
    """
    nodes.add()
    with CuttingProxy(nodes.address) as proxy:
        program = drive(source, f"skate://{proxy.address}")
        await_line(program, "ready")
        proxy.close_door()
        program.send_signal(signal.SIGINT)
        await_line(program, "interrupted")
        await_line(program, "submitted")
        proxy.open_door()
        out, _ = result(program)
    assert "all right" in out


def test_who_is_away_for_too_long_is_told_so_and_its_job_ends(nodes: Nodes, drive: Drive) -> None:
    source = """
        import time
        skate.init(ADDRESS)
        @skate.remote
        def forever():
            time.sleep(1000)
        ref = forever.remote()
        skate.wait([ref], timeout=0.1)
        print("ready")
        try:
            skate.get(ref)
        except skate.exceptions.RuntimeClosedError as error:
            print("lost:", error)
        assert not skate.is_initialized()
        print("all right")
    """
    nodes.add(driver_kept_s=KEPT_S)
    with CuttingProxy(nodes.address) as proxy:
        program = drive(source, f"skate://{proxy.address}")
        await_line(program, "ready")
        assert nodes.jobs_alive() == 1
        proxy.close_door()
        eventually(lambda: nodes.jobs_alive() == 0, "the node gives the driver up")
        proxy.open_door()
        out, err = result(program)
    assert "it did not come back within 1.5 s" in out and "all right" in out
    assert proxy.address in err  # said to whoever looks, even if the program is not in the API


def test_a_killed_driver_is_missed_after_the_grace(nodes: Nodes, drive: Drive) -> None:
    source = """
        import numpy as np, time
        skate.init(ADDRESS)
        ref = skate.put(np.zeros(1_000_000))
        print("ready")
        time.sleep(1000)
    """
    nodes.add(driver_kept_s=KEPT_S)
    program = drive(source, f"skate://{nodes.address}")
    await_line(program, "ready")
    eventually(lambda: nodes.objects() == 1, "what it has put is there")
    program.kill()
    killed = time.monotonic()
    eventually(lambda: nodes.jobs_alive() == 0, "its job has ended")
    assert time.monotonic() - killed > KEPT_S / 2
    eventually(lambda: nodes.objects() == 0, "what it held is freed")


def test_a_driver_that_says_nothing_is_given_up_though_its_connection_stands(
    nodes: Nodes, drive: Drive
) -> None:
    """As behind a relay that goes on answering for a machine that has gone."""
    source = """
        import time
        skate.init(ADDRESS)
        print("ready")
        time.sleep(1000)  # says nothing either, but its line does
    """
    nodes.add(driver_kept_s=0.5)
    idle, stopped = (drive(source, f"skate://{nodes.address}") for _ in range(2))
    for program in (idle, stopped):
        await_line(program, "ready")
    stopped.send_signal(signal.SIGSTOP)
    eventually(lambda: nodes.jobs_alive() == 1, "the silent one is given up", 20.0)
    assert nodes.drivers() == [idle.pid]


def test_a_node_whose_head_has_frozen_ends_its_work(nodes: Nodes, drive: Drive) -> None:
    """Its connection stands, and only silence tells; who asks the GCS would wait for ever."""
    source = """
        import time
        skate.init(ADDRESS)
        assert len(skate.nodes()) == 2
        print("ready")
        try:
            while True:
                skate.nodes()
                time.sleep(0.1)
        except skate.exceptions.SkateError as error:
            print(type(error).__name__, error)
    """
    head = nodes.add()
    joined = nodes.add(head_silent_s=5.0)
    program = drive(source, f"skate://{joined.description.address}")
    await_line(program, "ready")
    daemon = head.pids["node"]
    os.kill(daemon, signal.SIGSTOP)
    try:
        out, _ = result(program)
    finally:
        os.kill(daemon, signal.SIGCONT)
    assert "othing was heard of the cluster's head for 5 s" in out


def test_a_node_that_ends_is_not_waited_for(nodes: Nodes, drive: Drive) -> None:
    source = """
        import time
        skate.init(ADDRESS)
        print("ready")
        began = time.monotonic()
        while skate.is_initialized():
            time.sleep(0.05)
        assert time.monotonic() - began < 10
        print("all right")
    """
    nodes.add()
    program = drive(source, f"skate://{nodes.address}")
    await_line(program, "ready")
    os.kill(nodes.started[0].pids["node"], signal.SIGTERM)
    out, err = result(program)
    assert "all right" in out and "asked to end" in err


def test_a_piece_outside_of_its_extent_ends_the_line(nodes: Nodes, drive: Drive) -> None:
    source = """
        from skate import messages as m
        from skate.client.runtime import current
        skate.init(ADDRESS)
        runtime = current()
        runtime.connection.append(m.CreateExtent(runtime.ids.next_put(), 1000))
        object_id = runtime.ids.next_put()
        runtime.connection.append(m.CreateExtent(object_id, 1000))
        runtime.connection.wait_for(lambda: object_id in runtime.extents.granted)
        runtime.connection.append(m.PutChunk(object_id, 990, b"x" * 11))
        try:
            skate.nodes()
        except skate.exceptions.RuntimeClosedError as error:
            print("lost:", error)
    """
    nodes.add()
    out, _ = result(drive(source, f"skate://{nodes.address}"))
    assert "bytes 990 to 1,001" in out and nodes.started[0].ended() == {}


@pytest.mark.parametrize(
    ("address", "environ", "expected"),
    [
        ("skate://no-such-host.invalid:6379", {}, "ConnectionError: no machine of the name"),
        ("skate://127.0.0.1:1", {}, "ConnectionError: nobody listens at 127.0.0.1:1"),
        ("skate://127.0.0.1", {}, "ValueError: init(address=...) is 'skate://127.0.0.1'"),
        ("http://127.0.0.1:80", {}, "expected skate://HOST:PORT"),
        ("HERE", {"SKATE_TOKEN": "another-token-altogether"}, "AuthenticationError"),
        ("HERE", {"SKATE_TOKEN_FILE": "/no/such/file"}, "AuthenticationError"),
        ("HERE", {"SKATE_TLS_CERT": "/no/such/file"}, "ValueError: TLS needs all of"),
    ],
)
def test_why_there_is_no_connection(
    nodes: Nodes, drive: Drive, address: str, environ: dict[str, str], expected: str
) -> None:
    if address == "HERE":
        nodes.add()
        address = f"skate://{nodes.address}"
    _, err = drive("skate.init(ADDRESS)", address, **environ).communicate(timeout=30)
    assert expected in err.splitlines()[-1]


def test_a_driver_with_tls_and_a_cluster_without(
    nodes: Nodes, drive: Drive, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.member()
    environ = {"SKATE_TLS_CERT": cert, "SKATE_TLS_KEY": key, "SKATE_TLS_CA": authority.ca}
    nodes.add()
    program = drive("skate.init(ADDRESS)", f"skate://{nodes.address}", **environ)
    _, err = program.communicate(timeout=30)
    assert "ConnectionError" in err or "RefusedError" in err
    assert "TLS" in err.splitlines()[-1]


def test_a_node_is_not_started_from_afar(nodes: Nodes, drive: Drive) -> None:
    program = drive("skate.init('skate://127.0.0.1:1', num_cpus=2)", "")
    _, err = program.communicate(timeout=30)
    assert "num_cpus: not with skate://HOST:PORT" in err.splitlines()[-1]
