"""Any number of threads may call the API, in drivers and tasks; forks of either are safe."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle
import pytest

import skate
from tests.conftest import RunProgram, eventually

# Workers need not import this module, and with it pytest, to run its functions.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

SOON_S = 20.0  # a bound for what takes milliseconds; only a hang reaches it


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with skate.init(num_cpus=2):
        yield


@skate.remote
def echo(value: Any) -> Any:
    return value


@skate.remote
def call(function: Callable[[], Any]) -> Any:
    return function()


def in_threads(work: Callable[[int], Any], count: int) -> list[Any]:
    """The results of ``work(0)`` to ``work(count - 1)``, all at once."""
    results: list[Any] = [None] * count
    failures: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            results[number] = work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results


# --- threads ---------------------------------------------------------------------------------


def test_eight_threads_with_two_hundred_tasks_each() -> None:
    def work(thread: int) -> Any:
        out = []
        for n in range(200):
            ref = echo.remote((thread, n))
            if n % 3 == 0:
                out.append(skate.get(ref))
            elif n % 3 == 1:
                out.append(skate.get(skate.get(skate.put([ref]))[0]))
            else:
                ready, _ = skate.wait([ref])
                out.append(skate.get(ready)[0])
        return out

    for thread, out in enumerate(in_threads(work, 8)):
        assert out == [(thread, n) for n in range(200)]


def test_threads_with_large_objects() -> None:
    def work(thread: int) -> Any:
        for n in range(10):
            data = bytes([thread, n]) * 100_000
            assert skate.get(echo.remote(skate.put(data))) == data
        return True

    assert in_threads(work, 6) == [True] * 6


def test_threads_that_use_new_functions_and_actors_at_once() -> None:
    def work(thread: int) -> Any:
        @skate.remote
        def mine(x: int) -> int:
            return x + thread

        @skate.remote(num_cpus=0)
        class Mine:
            def add(self, x: int) -> int:
                return x + thread

        actor = Mine.remote()
        return skate.get([mine.remote(1), actor.add.remote(2)])

    assert in_threads(work, 6) == [[1 + n, 2 + n] for n in range(6)]


def test_a_function_shared_by_threads_at_its_first_call() -> None:
    @skate.remote
    def fresh(x: int) -> int:
        return x

    assert in_threads(lambda n: skate.get(fresh.remote(n)), 16) == list(range(16))


def test_time_outs_of_some_do_not_disturb_others() -> None:
    @skate.remote(num_cpus=0)
    def wait_for(path: str) -> str:
        import time

        while not os.path.exists(path):
            time.sleep(0.002)
        return path

    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "gate")
        late = wait_for.remote(path)
        impatient = threading.Barrier(3)

        def work(thread: int) -> Any:
            if thread % 2:
                for _ in range(20):
                    with pytest.raises(skate.exceptions.GetTimeoutError):
                        skate.get(late, timeout=0.001)
                if impatient.wait(SOON_S) == 0:
                    open(path, "w").close()
            return skate.get(late, timeout=SOON_S)

        assert in_threads(work, 6) == [path] * 6


def test_threads_inside_a_task() -> None:
    @skate.remote
    def parallel() -> Any:
        return in_threads(lambda n: skate.get([echo.remote(n), skate.put(n)]), 6)

    assert skate.get(parallel.remote(), timeout=SOON_S) == [[n, n] for n in range(6)]


def test_auto_init_by_many_threads_starts_one_session(run_program: RunProgram) -> None:
    done = run_program(
        """
        import threading, skate
        @skate.remote
        def f(x): return x
        sessions, failures = set(), []
        barrier = threading.Barrier(8)
        def work(n):
            try:
                barrier.wait()
                assert skate.get(f.remote(n)) == n
                sessions.add(skate.get_runtime_context().get_session_name())
            except BaseException as error:
                failures.append(error)
        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for t in threads: t.start()
        for t in threads: t.join()
        print(len(sessions), failures)
        """
    )
    assert done.stdout == "1 []\n", done.stderr


def test_init_and_everything_else_off_the_main_thread(run_program: RunProgram) -> None:
    done = run_program(
        """
        import threading, skate
        def work():
            skate.init(num_cpus=1)
            f = skate.remote(lambda x: x + 1)
            print(skate.get(f.remote(1)))
            skate.shutdown()
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        print(skate.is_initialized())
        """
    )
    assert done.stdout == "2\nFalse\n", done.stderr


def test_threads_that_block_while_the_session_is_shut_down(run_program: RunProgram) -> None:
    done = run_program(
        """
        import threading, time, skate
        skate.init(num_cpus=1)
        @skate.remote
        def sleep(): time.sleep(600)
        refs = [sleep.remote() for _ in range(3)]
        ended = []
        def work(ref):
            try:
                skate.get(ref)
            except skate.exceptions.RaySystemError as error:
                ended.append(error)
            except Exception as error:
                ended.append(error)
        threads = [threading.Thread(target=work, args=(ref,)) for ref in refs]
        for t in threads: t.start()
        time.sleep(0.2)
        skate.shutdown()
        for t in threads: t.join(10)
        print([t.is_alive() for t in threads], {type(e).__name__ for e in ended})
        """
    )
    assert done.stdout == "[False, False, False] {'RuntimeClosedError'}\n", done.stderr


# --- forks -----------------------------------------------------------------------------------


def fork_and_report(work: Callable[[], Any]) -> str:
    """Run ``work`` in a forked child; what it returned or raised, as text."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            text = f"returned {work()!r}"
        except BaseException as error:
            text = f"raised {type(error).__name__}: {error}"
        os.write(write_end, text.encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        text = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0
    return text


def test_a_fork_of_the_driver_may_not_use_the_api_and_the_driver_goes_on() -> None:
    ref, actor_free = echo.remote(1), skate.put(2)
    for use in (
        lambda: skate.get(ref),
        lambda: echo.remote(1),
        lambda: skate.put(1),
        lambda: skate.wait([ref]),
        lambda: skate.nodes(),
    ):
        text = fork_and_report(use)
        assert text.startswith("raised RuntimeClosedError"), text
        assert "fork" in text
    assert fork_and_report(skate.is_initialized) == "returned False"
    assert fork_and_report(skate.shutdown) == "returned None"
    assert skate.get([ref, actor_free, echo.remote(3)]) == [1, 2, 3]


def test_a_fork_while_other_threads_use_the_api() -> None:
    over = threading.Event()

    def work(thread: int) -> Any:
        if thread:
            while not over.is_set():
                skate.get([echo.remote(n) for n in range(20)])
            return None
        try:
            return [fork_and_report(lambda: 5) for _ in range(15)]
        finally:
            over.set()

    assert in_threads(work, 4)[0] == ["returned 5"] * 15
    assert skate.get(echo.remote("still well")) == "still well"


def test_a_fork_inside_a_task_may_not_use_the_api_and_the_task_goes_on() -> None:
    @skate.remote
    def forks(box: Any) -> Any:
        text = fork_and_report(lambda: skate.get(box[0]))
        plain = fork_and_report(lambda: sum(range(10)))
        return text, plain, skate.get(box[0])

    text, plain, value = skate.get(forks.remote([skate.put("value")]), timeout=SOON_S)
    assert text.startswith("raised RuntimeClosedError")
    assert "fork" in text
    assert plain == "returned 45"
    assert value == "value"


def test_a_forked_child_that_returns_from_the_task_ends_quietly() -> None:
    @skate.remote
    def forks() -> Any:
        return os.fork()  # both of them return

    for _ in range(3):
        pid = skate.get(forks.remote(), timeout=SOON_S)
        assert pid != 0
        eventually(lambda pid=pid: not alive(pid), "the child has ended")
    assert skate.get(echo.remote("still well")) == "still well"


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_inside_a_task(method: str) -> None:
    @skate.remote
    def uses_processes() -> Any:
        import multiprocessing

        with multiprocessing.get_context(method).Pool(2) as pool:
            return pool.map(abs, [-1, -2, -3])

    assert skate.get(uses_processes.remote(), timeout=SOON_S) == [1, 2, 3]


def test_multiprocessing_in_the_driver(run_program: RunProgram) -> None:
    done = run_program(
        """
        import multiprocessing, skate
        @skate.remote
        def f(x): return x
        def in_child(queue):
            try:
                skate.get(f.remote(1))
            except skate.exceptions.RaySystemError:
                queue.put("a system error")
            except Exception as error:
                queue.put(type(error).__name__)
        if __name__ == "__main__":
            skate.init(num_cpus=1)
            assert skate.get(f.remote(1)) == 1
            context = multiprocessing.get_context("fork")
            queue = context.Queue()
            child = context.Process(target=in_child, args=(queue,))
            child.start()
            print(queue.get())
            child.join()
            print(child.exitcode, skate.get(f.remote(2)))
        """
    )
    assert done.stdout == "RuntimeClosedError\n0 2\n", done.stderr


def test_a_forked_child_may_start_a_session_of_its_own(run_program: RunProgram) -> None:
    done = run_program(
        """
        import os, sys, skate
        skate.init(num_cpus=1)
        mine = skate.get_runtime_context().get_session_name()
        f = skate.remote(lambda x: x + 1)
        assert skate.get(f.remote(1)) == 2
        pid = os.fork()
        if pid == 0:
            skate.init(num_cpus=1)
            assert skate.get_runtime_context().get_session_name() != mine
            print(skate.get(f.remote(2)), flush=True)
            skate.shutdown()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        print(skate.get(f.remote(3)))
        """
    )
    assert done.stdout == "3\n4\n", done.stderr


def test_subprocesses_of_a_task_inherit_nothing_of_ours() -> None:
    @skate.remote
    def descriptors() -> str:
        import subprocess

        return subprocess.run(
            [sys.executable, "-c", "import os; print(len(os.listdir('/proc/self/fd')))"],
            capture_output=True,
            text=True,
        ).stdout

    assert int(skate.get(descriptors.remote(), timeout=SOON_S)) == 4  # 0, 1, 2 and the folder
