"""Calls that ride, and calls that do not, in any mix: order, refs, waiting, threads, forks, end."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import skate
from skate import exceptions
from tests.api.waiting import until_gone
from tests.conftest import eventually
from tests.lanes.riding import SOON_S, call_until_open, get, lanes, leaves_nothing, run_until_lent

# Workers need not import this module, and with it pytest, to run its functions.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

KB = 1 << 10


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with skate.init(num_cpus=2):
        yield


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    with leaves_nothing():
        yield


@skate.remote
def echo(value: Any) -> Any:
    return value


@skate.remote
def when(path: str, value: Any) -> Any:
    while not os.path.exists(path):
        time.sleep(0.002)
    return value


@skate.remote
def fails(text: str) -> None:
    raise ValueError(text)


@skate.remote
def read_nested(box: list[Any]) -> Any:
    return skate.get(box[0], timeout=SOON_S)


@skate.remote
class Log:
    """Remembers what came, in the order in which it ran."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.kept: Any = None

    def add(self, number: int, *rest: Any) -> int:
        self.seen.append(number)
        return number

    def all(self) -> list[int]:
        return self.seen

    def echo(self, value: Any) -> Any:
        return value

    def fails(self, text: str) -> None:
        raise ValueError(text)

    def keep(self, box: Any) -> None:
        self.kept = box

    def read_kept(self) -> Any:
        return skate.get(self.kept[0], timeout=SOON_S)

    def wait_for(self, path: str) -> str:
        while not os.path.exists(path):
            time.sleep(0.002)
        return path

    def refs(self) -> list[Any]:
        return [skate.put("in a list"), echo.remote("of a task")]

    def fork(self) -> int:
        child = multiprocessing.get_context("fork").Process(target=int)
        child.start()
        child.join()
        return child.exitcode or 0

    def exit(self) -> None:
        skate.actor.exit_actor()

    def pid(self) -> int:
        return os.getpid()


def log_with_lane() -> Any:
    """An actor that this process has a lane to."""
    made = Log.remote()
    opened(made)
    return made


def opened(log: Any) -> int:
    return call_until_open(log, lambda: get(log.pid.remote()))


def lent() -> int:
    return run_until_lent(lambda: get(echo.remote(0)))


# ------------------------------------------------------------------ order


def test_order_holds_over_all_ways_for_a_call_to_go(tmp_path: Path) -> None:
    log = log_with_lane()
    for round_ in range(4):
        gate = tmp_path / str(round_)
        pending = when.remote(str(gate), "late")
        small, large = skate.put("small"), bytes(200 * KB)
        refs = []
        for number in range(200):
            kind = (number * 7 + round_) % 10
            if kind == 0:
                refs.append(log.add.remote(number, pending))
            elif kind == 1:
                refs.append(log.add.remote(number, large))
            elif kind == 2:
                refs.append(log.add.remote(number, [small]))
            elif kind == 3:
                refs.append(log.add.remote(number, small))
            elif kind == 4:
                refs.append(log.add.remote(number, echo.remote(number)))
            elif kind == 5:
                refs.append(log.add.options(num_returns=2).remote(number)[0])
            else:
                refs.append(log.add.remote(number))
            if number == 150:
                gate.touch()
        plain = [ref for number, ref in enumerate(refs) if (number * 7 + round_) % 10 != 5]
        assert get(plain) == [n for n in range(200) if (n * 7 + round_) % 10 != 5]
        seen = get(log.all.remote())[-200:]
        assert seen == list(range(200))


def test_a_call_whose_argument_failed_holds_nobody_up() -> None:
    log = log_with_lane()
    bad = fails.remote("broken")
    refs = [log.add.remote(n, *([bad] if n % 5 == 2 else ())) for n in range(50)]
    for number, ref in enumerate(refs):
        if number % 5 == 2:
            with pytest.raises(ValueError, match="broken"):
                get(ref)
        else:
            assert get(ref) == number
    assert get(log.all.remote()) == [n for n in range(50) if n % 5 != 2]


# ------------------------------------------------------------------ refs


@pytest.mark.parametrize("is_read", [True, False])
def test_a_result_goes_on_by_every_way_that_a_ref_has(tmp_path: Path, *, is_read: bool) -> None:
    log = log_with_lane()
    other = Log.remote()
    opened(other)
    lent()
    for make in (log.echo.remote, echo.remote):
        for number in range(30):
            ref = make(number)
            if is_read:
                assert get(ref) == number
            ways = number % 6
            if ways == 0:
                assert get(echo.remote(ref)) == number
            elif ways == 1:
                assert get(read_nested.remote([ref])) == number
            elif ways == 2:
                assert get(get(skate.put([ref]))[0]) == number
            elif ways == 3:
                assert get(get(echo.remote([ref]))[0]) == number
            elif ways == 4:
                again = cloudpickle.loads(cloudpickle.dumps(ref))
                del ref
                assert get(again) == number
            else:
                other.keep.remote([ref])
                del ref
                assert get(other.read_kept.remote()) == number
    get(other.keep.remote(None))


def test_a_ref_whose_last_holder_here_goes_at_once() -> None:
    log = log_with_lane()
    lent()
    boxes = [read_nested.remote([make(n)]) for n in range(50) for make in (echo.remote,)]
    boxes += [read_nested.remote([log.echo.remote(n)]) for n in range(50)]
    assert get(boxes) == [*range(50), *range(50)]


def test_calls_that_nobody_waits_for_run_and_leave_nothing() -> None:
    log = log_with_lane()
    lent()
    for number in range(1000):
        log.add.remote(number)
        echo.remote(number)
    assert get(log.all.remote()) == list(range(1000))


def test_a_chain_of_tasks_passes_each_result_on() -> None:
    lent()
    for start in range(5):
        ref = echo.remote(start)
        for _ in range(100):
            ref = echo.remote(ref)
        assert get(ref) == start


# ------------------------------------------------------------------ waiting


def test_wait_over_results_of_all_ways(tmp_path: Path) -> None:
    log = log_with_lane()
    lent()
    gate = tmp_path / "gate"
    late = [when.remote(str(gate), 1), log.wait_for.remote(str(gate)), log.echo.remote("behind")]
    here = [
        echo.remote(1),
        echo.remote(bytes(300 * KB)),
        echo.options(max_retries=0).remote(2),
        skate.put(3),
        skate.put(bytes(300 * KB)),
    ]
    ready, rest = skate.wait([*late, *here], num_returns=5, timeout=SOON_S)
    assert (ready, rest) == (here, late)
    assert skate.wait(late, timeout=0) == ([], late)
    assert skate.wait(late, timeout=0.01) == ([], late)
    for timeout in (0, 0.001, 0.01):
        with pytest.raises(exceptions.GetTimeoutError):
            skate.get(late[2], timeout=timeout)
    gate.touch()
    ready, rest = skate.wait([*late, *here], num_returns=8, timeout=SOON_S)
    assert (ready, rest) == ([*late, *here], [])
    assert skate.get(late[2], timeout=0) == "behind"


def test_futures_and_await_in_a_driver() -> None:
    log = log_with_lane()
    lent()
    refs = [make(n) for n in range(100) for make in (log.echo.remote, echo.remote)]
    expected = [n for n in range(100) for _ in range(2)]
    assert [ref.future().result(SOON_S) for ref in refs] == expected

    async def gathers() -> list[Any]:
        found = []
        for _ in range(10):
            refs = [make(n) for n in range(10) for make in (log.echo.remote, echo.remote)]
            found += await asyncio.gather(*refs)
            found.append(await log.echo.remote("one"))
        return found

    each = [*(n for n in range(10) for _ in range(2)), "one"]
    assert asyncio.run(asyncio.wait_for(gathers(), SOON_S)) == each * 10


def test_sixteen_threads_call_the_same_actor_and_tasks() -> None:
    log = log_with_lane()

    def work(thread: int) -> None:
        for number in range(60):
            both = (thread, number)
            match number % 4:
                case 0:
                    assert get(log.echo.remote(both)) == both
                case 1:
                    assert get(echo.remote(both)) == both
                case 2:
                    refs = [make(both) for make in (log.echo.remote, echo.remote) * 5]
                    assert get(refs) == [both] * 10
                case _:
                    assert get(echo.remote(log.echo.remote(both))) == both

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(work, range(16)))


# ------------------------------------------------------------------ forks


def test_forks_in_a_driver_and_in_an_actor_leave_lanes_alone() -> None:
    log = log_with_lane()
    context = multiprocessing.get_context("fork")
    for _ in range(5):
        lent()
        before = [log.add.remote(n) for n in range(50)] + [echo.remote(n) for n in range(50)]
        child = context.Process(target=int)
        child.start()
        forks = log.fork.remote()
        behind = [log.add.remote(n) for n in range(50)] + [echo.remote(n) for n in range(50)]
        assert get(before) == [*range(50), *range(50)]
        child.join(SOON_S)
        assert child.exitcode == 0
        assert get(behind) == [*range(50), *range(50)]
        assert get(forks) == 0
        assert opened(log) == get(log.pid.remote())


def test_a_caller_that_ends_while_its_fork_lives_is_known_to_be_gone(tmp_path: Path) -> None:
    log = log_with_lane()

    @skate.remote(num_cpus=0)
    class Forks:
        def fork(self, log: Any, path: str) -> tuple[int, int]:
            skate.get([log.echo.remote(n) for n in range(10)])
            skate.get([log.echo.remote(n) for n in range(10)])
            child = os.fork()
            if child == 0:
                while not os.path.exists(path):
                    time.sleep(0.002)
                os._exit(0)
            return os.getpid(), child

    path = tmp_path / "path"
    caller = Forks.remote()
    pid, child = get(caller.fork.remote(log, str(path)))
    skate.kill(caller)
    until_gone(pid)
    eventually(lambda: not lanes(pid), "its lane is over", SOON_S)
    assert get(log.echo.remote(1)) == 1
    path.touch()
    until_gone(child)


# ------------------------------------------------------------------ what comes back


def test_large_results_errors_and_refs_in_results() -> None:
    log = log_with_lane()
    lent()
    for _ in range(3):
        for size in (10 * KB, 20 * KB, 300 * KB, 5 << 20):
            data = os.urandom(64) * (size // 64)
            assert get([log.echo.remote(data), echo.remote(data)]) == [data, data]
        refs = [make(bytes(300 * KB)) for make in (log.echo.remote, echo.remote) * 5]
        assert [len(value) for value in get(refs)] == [300 * KB] * 10
        for make in (log.fails.remote, fails.remote):
            with pytest.raises(ValueError, match="so"):
                get(make("so"))
        assert get(get(log.refs.remote())) == ["in a list", "of a task"]
        assert get(echo.options(num_returns=2).remote((1, 2))) == [1, 2]
        assert get(log.echo.options(num_returns=2).remote((1, 2))) == [1, 2]
        assert log.echo.options(num_returns=0).remote(1) is None
        assert get([log.echo.remote(n) for n in range(20)]) == list(range(20))


@pytest.mark.parametrize("way", ["exit_actor", "kill", "terminate"])
def test_an_actor_ends_with_calls_in_flight(way: str) -> None:
    log = log_with_lane()
    first = [log.add.remote(n) for n in range(20)]
    if way == "exit_actor":
        log.exit.remote()
    elif way == "terminate":
        log.__ray_terminate__.remote()
    else:
        assert get(first) == list(range(20))
        skate.kill(log)
    behind = [log.add.remote(n) for n in range(20)]
    assert get(first) == list(range(20))
    for ref in behind:
        with pytest.raises(exceptions.ActorDiedError):
            get(ref)


def test_what_is_called_behind_kill_is_run_by_nobody_or_by_the_next_process() -> None:
    for _ in range(30):
        log = log_with_lane()
        skate.kill(log)
        with pytest.raises(exceptions.ActorDiedError):
            get(log.add.remote(1))


def test_a_restart_by_kill_loses_no_call_that_may_be_retried() -> None:
    log = Log.options(max_restarts=-1, max_task_retries=-1).remote()
    for _ in range(20):
        pid = opened(log)
        refs = [log.add.remote(n) for n in range(100)]
        skate.kill(log, no_restart=False)
        refs += [log.add.remote(n) for n in range(100, 200)]
        assert get(refs) == list(range(200))
        seen = get(log.all.remote())
        assert seen == sorted(set(seen))
        assert opened(log) != pid


def test_calls_of_a_handle_that_goes_at_once_are_run(tmp_path: Path) -> None:
    for number in range(5):
        log = Log.remote()
        opened(log)
        gate = str(tmp_path / str(number))
        waits = log.wait_for.remote(gate)
        last = [log.add.remote(n) for n in range(50)][-1]
        del log
        Path(gate).touch()
        assert get([waits, last]) == [gate, 49]


# ------------------------------------------------------------------ blocking


def test_a_lent_worker_that_waits_lends_its_cpu(tmp_path: Path) -> None:
    @skate.remote
    def nested(depth: int) -> int:
        return 0 if depth == 0 else 1 + skate.get(nested.remote(depth - 1), timeout=SOON_S)

    @skate.remote
    def waits(box: list[Any]) -> Any:
        return skate.get(box[0], timeout=SOON_S)

    lent()
    assert get([nested.remote(5) for _ in range(20)]) == [5] * 20
    gates = [tmp_path / str(n) for n in range(8)]
    late = [when.options(num_cpus=0).remote(str(gate), 1) for gate in gates]
    lent()
    refs = [waits.remote([ref]) for ref in late]  # more than there are CPUs
    assert get([echo.remote(n) for n in range(100)]) == list(range(100))
    for gate in gates:
        gate.touch()
    assert get(refs) == [1] * 8


def test_a_thread_that_does_not_read_keeps_no_other_from_its_result() -> None:
    log = log_with_lane()
    stop = threading.Event()

    def computes() -> None:
        while not stop.is_set():
            sum(range(1000))

    thread = threading.Thread(target=computes)
    thread.start()
    try:
        for _ in range(5):
            refs = [log.add.remote(n) for n in range(100)]
            assert get(refs) == list(range(100))
    finally:
        stop.set()
        thread.join()
