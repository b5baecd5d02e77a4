"""Three hosts: network namespaces with addresses of their own, joined by a bridge, and cut cables.

Each namespace has its own loopback, addresses and routes, so nothing that works only on 127.0.0.1
passes here. A cable is cut by taking its end out of the bridge: packets vanish without a word, as
on a real network. Needs root and ``ip``; where either is missing the reason is told, and
SKATE_REQUIRE_NAMESPACES=1 (.ci/run) makes it a failure.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from skate.config import LINK_KEPT_S
from tests.conftest import eventually

SOURCES = str(Path(__file__).resolve().parents[2] / "src")
HEAD_PORT = 6379
NETWORK = "10.213.77"
CUT_S = LINK_KEPT_S + 3.0  # a cut that outlives the lines, on both sides


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=20)


def why_not() -> str:
    """Why there can be no namespaces here; "" if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "there is no `ip` command (package iproute2)"
    name = f"skp{os.getpid()}"
    try:
        run("ip", "netns", "add", name)
        run("ip", "netns", "del", name)
        run("ip", "link", "add", f"skq{os.getpid() % 100000}", "type", "bridge")
        run("ip", "link", "del", f"skq{os.getpid() % 100000}")
    except subprocess.CalledProcessError as error:
        return f"this machine forbids network namespaces: {error.stderr.strip()}"
    return ""


class Host:
    """One namespace, with its own folder for sessions."""

    def __init__(self, net: Net, number: int, folder: Path) -> None:
        self.name = f"sk{net.tag}n{number}"
        self.port = f"sk{net.tag}p{number}"  # of the bridge; the cable's other end
        self.ip = f"{NETWORK}.{number + 1}"
        self.folder = folder / self.name
        self.folder.mkdir(mode=0o700)
        run("ip", "netns", "add", self.name)
        inner = f"sk{net.tag}e{number}"
        run("ip", "link", "add", self.port, "type", "veth", "peer", "name", inner)
        run("ip", "link", "set", inner, "netns", self.name)
        run("ip", "link", "set", self.port, "master", net.bridge, "up")
        self.ip_inside("link", "set", "lo", "up")
        self.ip_inside("addr", "add", f"{self.ip}/24", "dev", inner)
        self.ip_inside("link", "set", inner, "up")
        self.environ = {
            **os.environ,
            "SKATE_TEMP_DIR": str(self.folder),
            "SKATE_TOKEN_FILE": str(folder / "token"),
            "PYTHONPATH": SOURCES,
        }

    def ip_inside(self, *words: str) -> None:
        run("ip", "-n", self.name, *words)

    def skate(self, *words: str, check: bool = True) -> str:
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, sys.executable, "-m", "skate", *words],
            env=self.environ, capture_output=True, text=True, timeout=40,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def program(self, source: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["ip", "netns", "exec", self.name, sys.executable, "-u", "-c", source],
            env=self.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def cut(self) -> None:
        """Pull the cable."""
        run("ip", "link", "set", self.port, "nomaster")

    def mend(self, net: Net) -> None:
        """Plug it in again."""
        run("ip", "link", "set", self.port, "master", net.bridge, "up")


class Net:
    """The bridge and the three hosts."""

    def __init__(self, folder: Path) -> None:
        self.tag = f"{os.getpid() % 100000:x}"
        self.bridge = f"sk{self.tag}br"
        run("ip", "link", "add", self.bridge, "type", "bridge")
        run("ip", "link", "set", self.bridge, "up")
        self.hosts = [Host(self, number, folder) for number in range(3)]

    def unreachable(self, one: Host, other: Host, *, is_cut: bool) -> None:
        """Cut (or mend) the cable between two hosts alone: each drops what is for the other."""
        for here, there in ((one, other), (other, one)):
            here.ip_inside("route", "add" if is_cut else "del", "blackhole", f"{there.ip}/32")

    def remove(self) -> None:
        for host in self.hosts:
            host.skate("stop", check=False)
            subprocess.run(["ip", "netns", "del", host.name], capture_output=True)
            subprocess.run(["ip", "link", "del", host.port], capture_output=True)
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True)


@pytest.fixture
def net(skate_temp_dir: Path, tmp_path: Path) -> Iterator[Net]:
    reason = why_not()
    if reason:
        if os.environ.get("SKATE_REQUIRE_NAMESPACES") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    folder = skate_temp_dir / f"hosts{time.monotonic_ns()}"
    folder.mkdir()
    token = folder / "token"
    token.write_text("a-token-of-thirty-two-characters")
    token.chmod(0o600)
    net = Net(folder)
    try:
        head, *others = net.hosts
        small = ["--num-cpus", "2", "--object-store-memory", str(100 << 20)]
        head.skate("start", "--head", "--node-ip-address", head.ip, *small)
        for number, host in enumerate(others):
            host.skate(
                "start", "--address", f"{head.ip}:{HEAD_PORT}",
                "--resources", f'{{"w{number}": 10}}', *small,
            )  # fmt: skip
        yield net
    finally:
        net.remove()


PROLOGUE = f"""
import time
import numpy as np
import skate
skate.init("{NETWORK}.1:{HEAD_PORT}")

@skate.remote
def where(*_):
    return skate.get_runtime_context().get_node_id()

@skate.remote
def ones(count):
    return np.ones(count, dtype=np.uint8)

@skate.remote
def total(array):
    return int(array.sum())

W0, W1 = {{"w0": 1}}, {{"w1": 1}}

def alive():
    return sum(node["Alive"] for node in skate.nodes())

def until(condition, what, seconds=20):
    give_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up_at, what
        time.sleep(0.05)
"""


def finish(program: subprocess.Popen[str], said: str = "") -> str:
    rest, _ = program.communicate(timeout=60)
    assert program.returncode == 0, said + rest
    return said + rest


def read_until(program: subprocess.Popen[str], word: str) -> str:
    assert program.stdout is not None
    said = ""
    for line in program.stdout:
        said += line
        if line.strip() == word:
            return said
    raise AssertionError(f"the program ended without {word!r}:\n{said}")


@pytest.mark.slow
def test_three_hosts_make_a_cluster_and_objects_travel_between_workers(net: Net) -> None:
    said = finish(
        net.hosts[0].program(
            PROLOGUE
            + """
addresses = sorted(node["NodeManagerAddress"] for node in skate.nodes())
print(addresses)
made = ones.options(resources=W0).remote(20_000_000)
print(skate.get(total.options(resources=W1).remote(made), timeout=30))
print(skate.get(made, timeout=30).sum())
"""
        )
    )
    assert str([host.ip for host in net.hosts]) in said
    assert said.count("20000000") == 2
    listed = net.hosts[1].skate("status")
    assert all(host.ip in listed for host in net.hosts)


@pytest.mark.slow
def test_a_cut_cable_between_two_workers_stops_neither(net: Net) -> None:
    program = net.hosts[0].program(
        PROLOGUE
        + """
made = ones.options(resources=W0).remote(5_000_000)
skate.wait([made], fetch_local=False)
print("made", flush=True)
until(lambda: __import__("os").path.exists(FLAG), "the cable is cut", 30)
# What lies behind the cut comes by way of its home, which reaches both.
print("fetched", skate.get(total.options(resources=W1).remote(made), timeout=50), flush=True)
print("alive", alive(), flush=True)
both = [where.options(resources=r).remote() for r in (W0, W1)]
print(len(skate.get(both, timeout=30)) == 2, flush=True)
""".replace("FLAG", repr(str(net.hosts[0].folder / "cut")))
    )
    said = read_until(program, "made")
    net.unreachable(net.hosts[1], net.hosts[2], is_cut=True)
    (net.hosts[0].folder / "cut").touch()
    said = finish(program, said)
    assert "fetched 5000000" in said and "alive 3" in said and "True" in said


@pytest.mark.slow
def test_a_result_on_the_other_side_of_a_cut_is_there_once_the_cable_is_mended(net: Net) -> None:
    """The cut is longer than a line is kept; whoever waits is told nothing worse than to wait."""
    flag = net.hosts[1].folder / "cut"
    program = net.hosts[1].program(
        PROLOGUE
        + """
made = ones.options(resources=W1).remote(5_000_000)
skate.wait([made], fetch_local=False)
print("made", flush=True)
until(lambda: __import__("os").path.exists(FLAG), "the cable is cut", 30)
late = where.options(resources=W1).remote()  # what the line breaks on
try:
    skate.get(made, timeout=CUT_S)
except skate.exceptions.GetTimeoutError:
    print("waits", flush=True)
print("fetched", len(skate.get(made, timeout=50)), flush=True)
print("late", len(skate.get(late, timeout=50)), flush=True)
""".replace("FLAG", repr(str(flag))).replace("CUT_S", str(CUT_S))
    )
    said = read_until(program, "made")
    net.unreachable(net.hosts[1], net.hosts[2], is_cut=True)
    flag.touch()
    said += read_until(program, "waits")
    net.unreachable(net.hosts[1], net.hosts[2], is_cut=False)
    said = finish(program, said)
    assert "fetched 5000000" in said and "late 32" in said


@pytest.mark.slow
def test_a_node_cut_off_from_the_head_is_given_up_and_comes_back_as_a_new_one(net: Net) -> None:
    head, lost = net.hosts[0], net.hosts[2]
    program = head.program(
        PROLOGUE
        + """
@skate.remote(max_retries=2)
def long(): time.sleep(3); return skate.get_runtime_context().get_node_id()
first = skate.get(where.options(resources=W1).remote(), timeout=10)
work = [long.options(scheduling_strategy="SPREAD").remote() for _ in range(6)]
print("ready", flush=True)
until(lambda: alive() == 2, "the silent node is given up", 15)
print("given up", flush=True)
done = skate.get(work, timeout=60)
assert first not in done, "a result of a node that was given up"
print("done elsewhere", flush=True)
until(lambda: alive() == 3, "it comes back", 40)
second = skate.get(where.options(resources=W1).remote(), timeout=20)
print("new node", second != first, flush=True)
"""
    )
    said = read_until(program, "ready")
    began = time.monotonic()
    lost.cut()
    said += read_until(program, "given up")
    assert time.monotonic() - began < 8.5  # five seconds of silence, noticed within a second or two
    eventually(lambda: not workers_in(lost), "its workers are ended", 15)
    said += read_until(program, "done elsewhere")
    lost.mend(net)
    said = finish(program, said)
    assert "new node True" in said


def workers_in(host: Host) -> list[int]:
    """The worker processes of a host, by their session folder and name."""
    import psutil

    found = []
    for process in psutil.process_iter(["name"]):
        if process.info["name"].startswith("skate:worker"):
            try:
                if process.environ().get("SKATE_TEMP_DIR") == str(host.folder):
                    found.append(process.pid)
            except psutil.Error:
                continue
    return found
