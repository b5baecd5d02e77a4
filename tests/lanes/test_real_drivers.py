"""Several drivers on one node whose calls ride: each gets its share, and none waits for a stopped
one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import psutil
import pytest

import skate
from skate.cluster_utils import Cluster
from tests.api.waiting import until_gone
from tests.conftest import eventually
from tests.lanes.riding import SOON_S, call_until_open, get, lanes

# Workers need not import this module, and with it pytest, to run its functions.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

SOURCES = str(Path(__file__).resolve().parents[2] / "src")

PREAMBLE = """
import os, sys, time
import skate

skate.init(address=sys.argv[1], namespace="lanes")

@skate.remote
def small(value):
    return value

def expect(word):
    assert sys.stdin.readline().strip() == word
"""


@skate.remote(num_cpus=0)
class Log:
    """Remembers who called, in the order in which it ran."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def add(self, who: str, number: int) -> int:
        self.seen.append((who, number))
        return number

    def of(self, who: str) -> list[int]:
        return [number for name, number in self.seen if name == who]


class Driver:
    """A program of its own, and the lines that it prints."""

    def __init__(self, address: str, source: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", PREAMBLE + textwrap.dedent(source), address],
            env={**os.environ, "PYTHONPATH": SOURCES},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid

    def tell(self, word: str) -> None:
        """A line for it to read."""
        assert self.process.stdin is not None
        print(word, file=self.process.stdin, flush=True)

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        said = self.process.stdout.readline().strip()
        assert said, "the program has ended"
        return said

    def end(self) -> None:
        """It is over."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=SOON_S)


Start = Callable[[str], Driver]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    made.connect(namespace="lanes")
    yield made
    skate.shutdown()
    made.shutdown()


@pytest.fixture
def start(cluster: Cluster) -> Iterator[Start]:
    """Start a driver."""
    drivers: list[Driver] = []

    def begin(source: str) -> Driver:
        drivers.append(Driver(cluster.address, source))
        return drivers[-1]

    yield begin
    for driver in drivers:
        driver.end()
    eventually(lambda: skate.available_resources().get("CPU") == 2, "all CPUs are free", SOON_S)


CALLS = """
log = skate.get_actor(sys.stdin.readline().strip())
for _ in range(3):
    skate.get([log.add.remote("warm", 0) for _ in range(5)])
refs = [log.add.remote("other", n) for n in range(5000)]
skate.wait(refs, timeout=0)
print("sent")
expect("go")
print(skate.get(refs, timeout=20) == list(range(5000)))
"""


def named_log(name: str) -> Any:
    log = Log.options(name=name).remote()
    call_until_open(log, lambda: get(log.add.remote("mine", -1)))
    return log


def test_a_stopped_caller_holds_up_nobody_and_gets_all_when_it_goes_on(start: Start) -> None:
    log = named_log("of a stopped caller")
    for _ in range(3):
        other = start(CALLS)
        other.tell("of a stopped caller")
        assert other.line() == "sent"
        os.kill(other.pid, signal.SIGSTOP)
        eventually(
            lambda other=other: psutil.Process(other.pid).status() == psutil.STATUS_STOPPED,  # type: ignore[misc]
            "it is stopped",
        )
        for _ in range(5):
            refs = [log.add.remote("mine", n) for n in range(300)]
            assert get(refs) == list(range(300))
        os.kill(other.pid, signal.SIGCONT)
        other.tell("go")
        assert other.line() == "True"
        assert get(log.of.remote("other"))[-5000:] == list(range(5000))
        other.end()


def test_a_killed_driver_leaves_no_lane_and_the_actor_goes_on(start: Start) -> None:
    log = named_log("of a killed caller")
    other = start(CALLS)
    other.tell("of a killed caller")
    assert other.line() == "sent"
    os.kill(other.pid, signal.SIGKILL)
    refs = [log.add.remote("mine", n) for n in range(300)]
    assert get(refs) == list(range(300))
    until_gone(other.pid)
    eventually(lambda: not lanes(other.pid), "its lanes are gone", SOON_S)
    seen = get(log.of.remote("other"))
    assert seen == list(range(len(seen)))


def test_a_detached_actor_is_called_from_two_jobs_in_the_order_of_each(start: Start) -> None:
    log = Log.options(name="kept", lifetime="detached").remote()
    source = """
    log = skate.get_actor("kept")
    name = str(os.getpid())
    for burst in range(20):
        refs = [log.add.remote(name, burst * 50 + n) for n in range(50)]
        assert skate.get(refs, timeout=20) == list(range(burst * 50, burst * 50 + 50))
    print("done")
    """
    drivers = [start(source), start(source)]
    for driver in drivers:
        assert driver.line() == "done"
    for driver in drivers:
        assert get(log.of.remote(str(driver.pid))) == list(range(1000))
    skate.kill(log)


BURSTS = """
skate.get([small.remote(n) for n in range(100)])
print("ready")
expect("go")
until = time.monotonic() + 2.0
count = 0
while time.monotonic() < until:
    values = skate.get([small.remote(n) for n in range(200)], timeout=20)
    assert values == list(range(200))
    count += 200
print(count)
"""


def test_two_drivers_that_burst_get_about_the_same(start: Start) -> None:
    drivers = [start(BURSTS), start(BURSTS)]
    for driver in drivers:
        assert driver.line() == "ready"
    for driver in drivers:
        driver.tell("go")
    counts = [int(driver.line()) for driver in drivers]
    assert min(counts) > 0.2 * sum(counts), counts


def test_a_task_of_the_whole_node_gets_its_turn_while_a_driver_bursts(start: Start) -> None:
    @skate.remote(num_cpus=2)
    def whole() -> str:
        return "had its turn"

    driver = start(BURSTS.replace("2.0", "4.0"))
    assert driver.line() == "ready"
    driver.tell("go")
    eventually(lambda: lanes(driver.pid, actor_id=""), "a worker is lent to it", SOON_S)
    turns = 0
    over = threading.Event()

    def watch() -> None:
        driver.line()
        over.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    while not over.is_set():
        assert skate.get(whole.remote(), timeout=2.0) == "had its turn"
        turns += 1
    watcher.join()
    assert turns >= 2
