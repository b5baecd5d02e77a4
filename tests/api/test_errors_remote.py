"""What a caller sees when a task raises, when its worker dies, when something will not pickle."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import skate
from skate.exceptions import RayTaskError, TaskError, WorkerCrashedError
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


def error_of(ref: Any) -> Any:
    with pytest.raises(BaseException) as caught:
        skate.get(ref, timeout=SOON_S)
    return caught.value


def counted(path: Path) -> int:
    """How often this has been called with the path, this time included."""
    with open(path, "a") as file:
        file.write("x")
    return path.stat().st_size


# --- a task raises ---------------------------------------------------------------------------


def test_the_error_is_of_the_causes_class_too() -> None:
    @skate.remote
    def look_up(table: Any, key: str) -> Any:
        return table[key]

    error = error_of(look_up.remote({}, "missing"))
    assert isinstance(error, KeyError)
    assert isinstance(error, TaskError)
    assert isinstance(error, RayTaskError)
    assert type(error.cause) is KeyError
    assert error.cause.args == ("missing",)
    assert error.function_name == "look_up"
    assert error.pid != os.getpid()


def test_an_error_class_of_the_users_own_with_an_odd_constructor() -> None:
    class Odd(Exception):
        def __init__(self, first: int, *, second: str) -> None:
            super().__init__(f"{first} and {second}")
            self.first, self.second = first, second

    def fail() -> None:
        raise Odd(1, second="two")

    error = error_of(call.remote(fail))
    assert isinstance(error, Odd)
    assert (error.first, error.second) == (1, "two")  # type: ignore[attr-defined]
    assert "1 and two" in str(error)
    assert isinstance(error_of(echo.remote(call.remote(fail))), Odd)


def test_the_traceback_shows_the_users_lines_and_none_of_skates() -> None:
    def inner(x: int) -> float:
        return 1 / x

    @skate.remote
    def outer() -> Any:
        return inner(0)

    text = str(error_of(outer.remote()))
    assert "in outer" in text
    assert "in inner" in text
    assert "return 1 / x" in text
    assert "ZeroDivisionError: division by zero" in text
    assert "worker_main" not in text
    assert str(Path(skate.__file__).parent) + os.sep not in text


def test_causes_and_contexts_are_in_the_traceback() -> None:
    def fail() -> None:
        try:
            {}["k"]  # type: ignore[index]
        except KeyError as error:
            raise RuntimeError("wrapped") from error

    text = str(error_of(call.remote(fail)))
    assert text.index("KeyError: 'k'") < text.index("direct cause") < text.index("wrapped")


def test_an_error_group() -> None:
    def fail() -> None:
        raise ExceptionGroup("several", [ValueError("a"), TypeError("b")])

    ref = call.remote(fail)
    try:
        skate.get(ref)
    except* ValueError as group:
        assert group.exceptions
    except* TypeError:
        pass
    else:
        raise AssertionError


def test_errors_pass_through_dependants_that_never_run(tmp_path: Path) -> None:
    @skate.remote
    def source() -> None:
        raise ValueError("at the source")

    @skate.remote
    def middle(value: Any) -> None:
        (tmp_path / "ran").touch()

    @skate.remote(num_returns=2)
    def end(first: Any, second: Any) -> Any:
        (tmp_path / "ran").touch()

    first, second = end.remote(1, middle.remote(source.remote()))
    for ref in (first, second):
        error = error_of(ref)
        assert isinstance(error, ValueError)
        lines = str(error)
        assert lines.index("middle() did not run: it depends on source()") < lines.index(
            "end() did not run: it depends on middle()"
        )
    assert not (tmp_path / "ran").exists()


def test_a_chain_of_a_thousand_dependants_of_an_error() -> None:
    ref = call.remote(lambda: 1 / 0)
    refs = [ref]
    for _ in range(1000):
        refs.append(echo.remote(refs[-1]))
    error = error_of(refs[-1])
    assert isinstance(error, ZeroDivisionError)
    assert len(str(error)) < 10_000


def test_an_error_inside_a_nested_task_shows_both_tracebacks() -> None:
    @skate.remote
    def inner() -> None:
        raise LookupError("deep inside")

    @skate.remote
    def outer() -> Any:
        return skate.get(inner.remote())

    error = error_of(outer.remote())
    assert isinstance(error, LookupError)
    assert "in inner" in str(error)
    assert "in outer" in str(error)
    assert type(error.cause) is LookupError


def test_an_error_can_be_pickled_and_passed_on() -> None:
    error = error_of(call.remote(lambda: {}["key"]))
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, KeyError)
    assert str(again) == str(error)
    assert isinstance(skate.get(echo.remote(error)), KeyError)


def test_returning_an_exception_is_not_raising_it() -> None:
    back = skate.get(echo.remote(ValueError("a value")))
    assert type(back) is ValueError


def test_a_huge_message_is_cut_and_breaks_nothing() -> None:
    def fail() -> None:
        raise ValueError("x" * 80_000_000 + "the end")

    error = error_of(call.remote(fail))
    assert isinstance(error, ValueError)
    assert len(str(error)) < 1_000_000
    assert "the end" in str(error)
    assert skate.get(echo.remote("still well")) == "still well"


def test_a_huge_attribute_of_an_error_breaks_nothing() -> None:
    def fail() -> None:
        error = ValueError("carries much")
        error.data = bytes(80_000_000)  # type: ignore[attr-defined]
        raise error

    error = error_of(call.remote(fail))
    assert isinstance(error, ValueError)
    assert "carries much" in str(error)
    assert skate.get(echo.remote("still well")) == "still well"


def test_endless_recursion_in_a_task() -> None:
    def forever(n: int = 0) -> int:
        return forever(n + 1) + 1

    error = error_of(call.remote(forever))
    assert isinstance(error, RecursionError)
    assert len(str(error)) < 100_000


def test_an_argument_and_a_result_too_deep_to_pickle() -> None:
    def deep() -> Any:
        value: list[Any] = []
        for _ in range(100_000):
            value = [value]
        return value

    with pytest.raises(TypeError, match="argument 0 of echo"):
        echo.remote(deep())
    assert "Recursion" in str(error_of(call.remote(deep)))
    assert skate.get(echo.remote("still well")) == "still well"


@pytest.mark.parametrize(
    "leave",
    [
        lambda: sys.exit("I leave"),
        lambda: sys.exit(3),
        lambda: (_ for _ in ()).throw(KeyboardInterrupt()),
        lambda: (_ for _ in ()).throw(GeneratorExit()),
        lambda: next(iter(())),
    ],
    ids=["exit text", "exit code", "KeyboardInterrupt", "GeneratorExit", "StopIteration"],
)
def test_what_would_end_the_driver_arrives_as_a_plain_task_error(leave: Any) -> None:
    def do() -> None:
        leave()

    ref = call.remote(do)
    error = error_of(ref)
    assert type(error) is TaskError
    assert error.cause is not None
    assert skate.get(echo.remote("still well")) == "still well"


def test_an_error_of_an_unknown_class_arrives_as_text() -> None:
    """The class lies in a module that only the worker can import."""

    def fail() -> None:
        import types

        module = types.ModuleType("only_there")
        sys.modules["only_there"] = module
        exec("class Strange(Exception): pass", module.__dict__)
        raise module.Strange("from far away")

    error = error_of(call.remote(fail))
    assert isinstance(error, TaskError)
    assert "Strange: from far away" in str(error)


def test_an_error_that_cannot_be_pickled_arrives_as_text() -> None:
    class Holds(Exception):
        def __init__(self, text: str) -> None:
            super().__init__(text)
            self.lock = threading.Lock()

    def fail() -> None:
        raise Holds("with a lock")

    error = error_of(call.remote(fail))
    assert isinstance(error, TaskError)
    assert "with a lock" in str(error)
    assert isinstance(error.cause, skate.exceptions.UnserializableException) or isinstance(
        error, Holds
    )


def test_an_error_whose_text_cannot_be_made() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    def fail() -> None:
        raise Mute()

    assert isinstance(error_of(call.remote(fail)), TaskError)


# --- retries of errors -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("retry", "raised", "runs"),
    [
        (False, ValueError, 1),
        (True, ValueError, 3),
        ([ValueError], ValueError, 3),
        ([ArithmeticError], ZeroDivisionError, 3),
        ([ArithmeticError], ValueError, 1),
        ((OSError, ValueError), ValueError, 3),
        (True, KeyboardInterrupt, 1),
    ],
)
def test_which_errors_are_retried(tmp_path: Path, retry: Any, raised: Any, runs: int) -> None:
    @skate.remote(max_retries=2, retry_exceptions=retry)
    def fail() -> None:
        counted(tmp_path / "runs")
        raise raised("again")

    error_of(fail.remote())
    assert (tmp_path / "runs").stat().st_size == runs


def test_a_retried_task_may_succeed_with_its_arguments(tmp_path: Path) -> None:
    class Flaky(Exception):
        pass

    @skate.remote(retry_exceptions=[Flaky], num_returns=2)
    def third_time(big: Any, box: Any) -> Any:
        if counted(tmp_path / "runs") < 3:
            raise Flaky
        return len(big), skate.get(box[0])

    refs = third_time.remote(skate.put(bytes(300_000)), [skate.put("boxed")])
    assert skate.get(refs, timeout=SOON_S) == [300_000, "boxed"]


# --- a worker dies ---------------------------------------------------------------------------


def crash_by_signal(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("die", "says"),
    [
        (crash_by_signal(signal.SIGKILL), "SIGKILL"),
        (crash_by_signal(signal.SIGSEGV), "SIGSEGV"),
        (crash_by_signal(signal.SIGTERM), "SIGTERM"),
        (lambda: os._exit(3), "code 3"),
        (lambda: os._exit(0), "code 0"),
        (os.abort, "SIGABRT"),
    ],
    ids=["SIGKILL", "SIGSEGV", "SIGTERM", "_exit(3)", "_exit(0)", "abort"],
)
def test_a_dead_worker_says_how_it_died_and_its_last_words(die: Any, says: str) -> None:
    @skate.remote(max_retries=0)
    def last_words() -> None:
        print("to stdout")
        print("my last words", file=sys.stderr, flush=True)
        die()

    error = error_of(last_words.remote())
    assert type(error) is WorkerCrashedError
    text = str(error)
    assert says in text
    assert "last_words" in text
    assert "my last words" in text
    assert "to stdout" not in text
    assert "skate-name" not in text
    assert re.search(r"pid \d+", text)


def test_the_dependants_of_a_crashed_task_fail_with_it() -> None:
    @skate.remote(max_retries=0)
    def die() -> None:
        os._exit(7)

    error = error_of(echo.remote(die.remote()))
    assert type(error) is WorkerCrashedError
    assert "code 7" in str(error)
    assert "echo() did not run" in str(error)


def test_a_crashed_task_is_retried_and_may_succeed(tmp_path: Path) -> None:
    @skate.remote
    def third_time(values: Any, box: Any) -> Any:
        if counted(tmp_path / "runs") < 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return len(values), skate.get(box[0])

    ref = third_time.remote(skate.put(bytes(300_000)), [echo.remote("boxed")])
    assert skate.get(ref, timeout=SOON_S) == (300_000, "boxed")


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_task_that_always_crashes_runs_once_more_than_its_retries(
    tmp_path: Path, retries: int
) -> None:
    @skate.remote(max_retries=retries)
    def die() -> None:
        counted(tmp_path / "runs")
        os._exit(1)

    assert type(error_of(die.remote())) is WorkerCrashedError
    assert (tmp_path / "runs").stat().st_size == retries + 1


def test_every_run_counts_also_of_tasks_that_travel_together(tmp_path: Path) -> None:
    """What short tasks come to leaves their worker together, and is lost if a later one kills it:
    which had begun is known all the same."""

    @skate.remote(max_retries=1)
    def work(n: int) -> int:
        counted(tmp_path / str(n))
        if n % 20 == 13:
            os._exit(1)
        return n

    skate.get([work.remote(0) for _ in range(50)])
    refs = {n: work.remote(n) for n in range(1, 100)}
    for n, ref in refs.items():
        if n % 20 == 13:
            assert type(error_of(ref)) is WorkerCrashedError
            assert (tmp_path / str(n)).stat().st_size == 2
        else:
            assert skate.get(ref, timeout=SOON_S) == n
            assert (tmp_path / str(n)).stat().st_size <= 2


def test_tasks_sent_ahead_to_a_worker_that_dies_run_elsewhere_and_once(tmp_path: Path) -> None:
    @skate.remote(max_retries=1)
    def work(n: int) -> int:
        if n == 70 and counted(tmp_path / "killer") == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return n

    skate.get([work.remote(0) for _ in range(50)])  # known to be short: many travel together
    assert skate.get([work.remote(n) for n in range(150)], timeout=SOON_S) == list(range(150))


def test_a_killed_worker_gives_its_resources_back() -> None:
    @skate.remote(max_retries=0, num_cpus=2)
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(3):
        assert type(error_of(die.remote())) is WorkerCrashedError
    eventually(lambda: skate.available_resources().get("CPU") == 2.0, "both CPUs are free again")


def test_a_worker_killed_while_it_waits_for_another_task(tmp_path: Path) -> None:
    @skate.remote(max_retries=0, num_cpus=2)
    def parent() -> Any:
        @skate.remote(num_cpus=2)
        def child(pid: int) -> None:
            os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)

        return skate.get(child.remote(os.getpid()))

    assert type(error_of(parent.remote())) is WorkerCrashedError
    eventually(lambda: skate.available_resources().get("CPU") == 2.0, "both CPUs are free again")
    assert skate.get(echo.remote(1), timeout=SOON_S) == 1


def test_the_memory_of_a_thread_that_crashes_the_process() -> None:
    """A signal that a thread of the task raises ends the worker as well."""

    def die() -> None:
        threading.Thread(target=lambda: os._exit(5)).start()
        time.sleep(60)

    error = error_of(call.options(max_retries=0).remote(die))
    assert "code 5" in str(error)


def test_the_drivers_own_signals_and_handlers_are_left_alone() -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


# --- what cannot be pickled ------------------------------------------------------------------


def test_an_argument_that_cannot_be_pickled_names_the_culprit() -> None:
    lock = threading.Lock()
    with pytest.raises(TypeError, match=r"argument 1 of echo|argument 'value' of echo"):
        echo.remote(value={"deep": [1, lock]})
    with pytest.raises(TypeError, match=r"(?s)deep.*\[1\].*lock"):
        echo.remote({"deep": [1, lock]})


def test_a_put_value_that_cannot_be_pickled_names_the_culprit() -> None:
    class Holder:
        def __init__(self) -> None:
            self.fine = 1
            self.handle = threading.Lock()

    with pytest.raises(TypeError, match=r"(?s)put\(\).*\.handle.*lock"):
        skate.put([Holder()])


def test_a_closure_that_cannot_be_pickled_names_the_culprit() -> None:
    lock = threading.Lock()

    @skate.remote
    def uses_lock() -> Any:
        return lock

    with pytest.raises(TypeError, match=r"(?s)uses_lock.*captures lock"):
        uses_lock.remote()


def test_a_result_that_cannot_be_pickled_names_the_culprit() -> None:
    def lock_inside() -> Any:
        return {"one": 1, "two": [threading.Lock()]}

    error = error_of(call.remote(lock_inside))
    assert isinstance(error, TypeError)
    assert re.search(r"(?s)result of call.*\['two'\]\[0\].*lock", str(error)), str(error)

    error = error_of(call.options(num_returns=2).remote(lambda: (1, threading.Lock()))[1])
    assert "lock" in str(error)


def test_a_result_that_is_a_generator_or_an_open_file() -> None:
    error = error_of(call.remote(lambda: (n for n in range(3))))
    assert "generator" in str(error)
    error = error_of(call.remote(lambda: sys.stderr))
    assert "Stream" in str(error)


def test_an_argument_that_loads_nowhere() -> None:
    """It pickles, but the worker cannot make it again: that is the task's error, not a crash."""

    class Broken:
        def __reduce__(self) -> Any:
            return int, ("not a number",)

    error = error_of(echo.remote(Broken()))
    assert isinstance(error, ValueError)
    assert "not a number" in str(error)
    assert isinstance(error_of(skate.put(Broken())), ValueError)


def test_a_function_whose_module_the_workers_cannot_import() -> None:
    import types

    module = types.ModuleType("only_here")
    exec("def f(): return 1", module.__dict__)
    sys.modules["only_here"] = module
    try:
        error = error_of(skate.remote(module.f).remote())
    finally:
        del sys.modules["only_here"]
    assert "only_here" in str(error)
    assert isinstance(error, ModuleNotFoundError)


# --- errors that nobody asked for ------------------------------------------------------------


def test_errors_of_dropped_refs_do_no_harm() -> None:
    for _ in range(50):
        call.remote(lambda: 1 / 0)
        call.options(num_returns=0).remote(lambda: 1 / 0)
    assert skate.get(echo.remote("still well")) == "still well"


def test_ctrl_c_in_a_get_leaves_the_session_usable(run_program: RunProgram) -> None:
    done = run_program(
        """
        import os, signal, threading, time, skate
        skate.init(num_cpus=2)
        @skate.remote
        def sleep(s):
            time.sleep(s)
            return s
        skate.get(sleep.remote(0))
        slow = sleep.remote(30)
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        try:
            skate.get(slow)
        except KeyboardInterrupt:
            print("interrupted")
        print(skate.get(sleep.remote(0.01), timeout=10))
        """
    )
    assert done.stdout == "interrupted\n0.01\n", done.stderr


def test_nothing_is_left_in_the_worker_of_a_task_that_failed() -> None:
    """The next task does not see the exception of the one before."""

    @skate.remote
    def look() -> Any:
        return sys.exc_info()[0] is None

    for _ in range(4):
        with contextlib.suppress(ZeroDivisionError):
            skate.get(call.remote(lambda: 1 / 0))
        assert skate.get(look.remote())
