"""Tasks on a real engine: any function, any argument, any depth, resources and workers.

One session of 2 CPUs, 4 (pretended) GPUs and one custom resource serves the whole module; what
needs another driver program, or another session, runs as a program of its own.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import skate
from skate import exceptions
from skate.client.runtime import current
from skate.config import MAX_FRAME_BYTES
from skate.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tests.conftest import RunProgram, eventually

# Workers need not import this module, and with it pytest, to run its functions.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

SOON_S = 20.0  # a bound for what takes milliseconds; only a hang reaches it


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with skate.init(num_cpus=2, num_gpus=4, resources={"special": 1}):
        yield


def status() -> Any:
    runtime = current()
    assert runtime is not None
    return runtime.ask("status", {})


def wait_for_file(path: str) -> None:
    """In a task: busy until the driver (or a sister task) creates the file."""
    give_up_at = time.monotonic() + SOON_S
    while not os.path.exists(path):
        if time.monotonic() > give_up_at:
            raise TimeoutError(path)
        time.sleep(0.002)


@skate.remote
def echo(value: Any) -> Any:
    return value


@skate.remote
def add(a: Any, b: Any = 10, *rest: Any, c: Any = 0, **named: Any) -> Any:
    return a + b + sum(rest) + c + sum(named.values())


@skate.remote
def busy_until(path: str) -> int:
    wait_for_file(path)
    return os.getpid()


# --- which functions -------------------------------------------------------------------------


def test_a_closure_takes_its_variables_along() -> None:
    offset = [100, 23]

    def shifted(x: int) -> int:
        return x + offset[0] + offset[1]

    @skate.remote
    def outer(x: int) -> int:
        return shifted(x)

    assert skate.get(outer.remote(1)) == 124


def test_a_lambda_and_a_builtin() -> None:
    assert skate.get(skate.remote(lambda x: x * 3).remote(4)) == 12
    assert skate.get(skate.remote(len).remote([1, 2, 3])) == 3


def test_a_recursive_function_that_was_never_importable() -> None:
    def factorial(n: int) -> int:
        return 1 if n < 2 else n * factorial(n - 1)

    assert skate.get(skate.remote(factorial).remote(10)) == 3628800


def test_a_closure_over_a_ref_keeps_its_object() -> None:
    def make() -> Any:
        ref = skate.put("still here")

        @skate.remote
        def read() -> Any:
            return skate.get(ref)

        return read.remote()

    assert skate.get(make(), timeout=SOON_S) == "still here"


def test_the_same_name_defined_again_is_another_function() -> None:
    results = []
    for factor in (2, 3):

        @skate.remote
        def times(x: int, factor: int = factor) -> int:
            return x * factor

        results.append(times.remote(10))
    assert skate.get(results) == [20, 30]


def test_functions_and_classes_of_the_main_script(run_program: RunProgram) -> None:
    done = run_program(
        """
        import skate
        BASE = 5
        class Point:
            def __init__(self, x): self.x = x
            def __eq__(self, other): return type(self) is type(other) and self.x == other.x
        def double(x): return 2 * x
        @skate.remote
        def f(x): return Point(double(x.x) + BASE)
        if __name__ == "__main__":
            skate.init(num_cpus=1)
            result = skate.get(f.remote(Point(4)))
            assert type(result) is Point and result == Point(13), result
            print("fine")
        """
    )
    assert done.stdout == "fine\n", done.stderr


def test_a_module_beside_the_script(run_program: RunProgram, tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text(
        "import skate\n"
        "SCALE = 7\n"
        "def scaled(x): return x * SCALE\n"
        "@skate.remote\n"
        "def remote_scaled(x): return scaled(x)\n"
    )
    done = run_program(
        """
        import skate, beside
        @skate.remote
        def f(x):
            import beside
            return beside.scaled(x)
        print(skate.get([f.remote(2), beside.remote_scaled.remote(3)]))
        """
    )
    assert done.stdout == "[14, 21]\n", done.stderr


def test_a_module_of_a_package_run_with_dash_m(tmp_path: Path) -> None:
    import subprocess

    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "part.py").write_text("def plus_one(x): return x + 1\n")
    (package / "program.py").write_text(
        "import skate\n"
        "from .part import plus_one\n"
        "@skate.remote\n"
        "def f(x):\n"
        "    from package.part import plus_one as again\n"
        "    return again(plus_one(x))\n"
        "if __name__ == '__main__':\n"
        "    print(skate.get(f.remote(1)))\n"
    )
    sources = str(Path(skate.__file__).resolve().parent.parent)
    done = subprocess.run(
        [sys.executable, "-m", "package.program"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": sources},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "3\n", done.stderr


def test_cells_of_a_notebook() -> None:
    """Code without a file, executed piece by piece in ``__main__``, as kernels do it."""
    import subprocess

    cells = [
        "import skate; skate.init(num_cpus=1)",
        "K = 3\nclass Thing:\n    value = 1",
        "def helper(x): return x + K",
        "@skate.remote\ndef f(x):\n    t = Thing(); t.value = helper(x)\n    return t",
        "t = skate.get(f.remote(1)); assert type(t) is Thing, t; print(t.value)",
        "def helper(x): return x - K",  # defined anew: an older export knows the older one
        "@skate.remote\ndef f(x): return helper(x)",
        "print(skate.get(f.remote(1)))",
    ]
    program = (
        f"import sys\nfor n, cell in enumerate({cells!r}):\n"
        "    exec(compile(cell, f'<cell {n}>', 'exec'), sys.modules['__main__'].__dict__)\n"
    )
    done = subprocess.run(
        [sys.executable],
        input=program,
        env={**os.environ, "PYTHONPATH": str(Path(skate.__file__).resolve().parent.parent)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "4\n-2\n", done.stderr


def test_the_drivers_environment_path_and_folder_reach_the_workers(
    run_program: RunProgram, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "far_away.py").write_text("def answer(): return 42\n")
    folder = tmp_path / "folder"
    folder.mkdir()
    done = run_program(
        f"""
        import os, sys
        sys.path.append({str(elsewhere)!r})
        os.chdir({str(folder)!r})
        os.environ["GREETING"] = "hällo"
        os.environ.pop("GONE")
        import far_away, skate
        @skate.remote
        def look():
            import far_away
            environ = os.environ
            return environ["GREETING"], "GONE" in environ, os.getcwd(), far_away.answer()
        assert skate.get(look.remote()) == ("hällo", False, {str(folder)!r}, 42)
        print("fine")
        """,
        environ={"GONE": "x"},
    )
    assert done.stdout == "fine\n", done.stderr


def test_an_environment_that_is_not_unicode_does_no_harm(run_program: RunProgram) -> None:
    done = run_program(
        """
        import os, skate
        @skate.remote
        def look(): return os.environb[b"ODD"]
        print(skate.get(look.remote()))
        """,
        environ={"ODD": os.fsdecode(b"\xff\xfe")},
    )
    assert done.stdout == "b'\\xff\\xfe'\n", done.stderr


# --- arguments -------------------------------------------------------------------------------


def test_positional_keyword_and_default_arguments() -> None:
    refs = [
        add.remote(1),
        add.remote(1, 2),
        add.remote(1, b=2),
        add.remote(a=1, b=2, c=3),
        add.remote(1, 2, 3, 4, c=5, other=6),
    ]
    assert skate.get(refs) == [11, 3, 3, 6, 21]


def test_arguments_that_do_not_fit_are_refused_at_the_call() -> None:
    @skate.remote
    def two(a: int, b: int, *, key: int = 0) -> int:
        return a + b + key

    for args, kwargs in [((1,), {}), ((1, 2, 3), {}), ((1, 2), {"other": 1}), ((1,), {"a": 1})]:
        with pytest.raises(TypeError, match="two"):
            two.remote(*args, **kwargs)
    assert skate.get(two.remote(1, 2, key=3)) == 6


def test_refs_as_arguments_are_waited_for_and_replaced() -> None:
    one, two = echo.remote(1), skate.put(2)
    assert skate.get(add.remote(one, two, one, c=two, other=one)) == 7


def test_refs_inside_containers_stay_refs() -> None:
    @skate.remote
    def look(items: Any, table: Any) -> Any:
        assert type(items[0]) is skate.ObjectRef, items
        assert type(table["ref"]) is skate.ObjectRef, table
        return skate.get([*items, table["ref"]])

    ref = echo.remote("a")
    assert skate.get(look.remote([ref], {"ref": skate.put("b")})) == ["a", "b"]


def test_a_nested_ref_is_not_waited_for(tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")

    @skate.remote
    def open_gate(refs: Any) -> Any:
        Path(gate).touch()  # had the ref been waited for, nobody would ever do this
        return skate.get(refs[0])

    pid = skate.get(open_gate.remote([busy_until.remote(gate)]), timeout=SOON_S)
    assert isinstance(pid, int)


def test_a_nested_ref_outlives_the_drivers_own() -> None:
    @skate.remote
    def read(refs: Any) -> Any:
        return skate.get(refs[0])

    def call() -> Any:
        return read.remote([skate.put("kept by the task")])

    assert skate.get(call(), timeout=SOON_S) == "kept by the task"


def test_large_arguments_beside_refs() -> None:
    blob = bytes(range(256)) * 2000

    @skate.remote
    def check(a: Any, b: Any, *, c: Any) -> Any:
        return len(a), b, c == blob

    assert skate.get(check.remote(blob, echo.remote("b"), c=skate.put(blob))) == (
        len(blob),
        "b",
        True,
    )


def test_many_calls_with_every_kind_of_argument_keep_apart() -> None:
    refs = [add.remote(n, echo.remote(n) if n % 3 == 0 else n, c=n) for n in range(300)]
    assert skate.get(refs) == [3 * n for n in range(300)]


def test_a_chain_of_a_thousand() -> None:
    ref = skate.put(0)
    for _ in range(1000):
        ref = add.remote(ref, 1)
    assert skate.get(ref, timeout=SOON_S) == 1000


# --- returns ---------------------------------------------------------------------------------


def test_no_return_one_return_many_returns() -> None:
    @skate.remote(num_returns=0)
    def none() -> None: ...

    @skate.remote(num_returns=3)
    def three() -> Any:
        return 1, "two", [3]

    assert none.remote() is None
    refs = three.remote()
    assert isinstance(refs, list)
    assert skate.get(refs) == [1, "two", [3]]
    assert skate.get(three.options(num_returns=1).remote()) == (1, "two", [3])


@pytest.mark.parametrize(("value", "says"), [((1, 2), "returned 2"), (5, "int"), (None, "None")])
def test_a_wrong_number_of_returns(value: Any, says: str) -> None:
    refs = echo.options(num_returns=3).remote(value)
    for ref in refs:
        with pytest.raises(ValueError, match=f"(?s)num_returns=3.*{says}"):
            skate.get(ref)


def test_bad_options_are_refused_where_they_are_written() -> None:
    with pytest.raises(ValueError, match="num_returns"):
        echo.options(num_returns=-1)
    with pytest.raises(TypeError, match="num_returns"):
        echo.options(num_returns=1.5)
    with pytest.raises(ValueError, match=r"(?s)num_gpu_typo.*num_gpus"):
        echo.options(num_gpu_typo=1)
    with pytest.raises(ValueError, match="max_calls"):
        echo.options(max_calls=1)
    with pytest.raises(TypeError):
        skate.remote(3)  # type: ignore[call-overload]


def test_what_cannot_be_a_task_says_so() -> None:
    with pytest.raises(TypeError, match=r"echo\.remote\(\)"):
        echo(1)

    async def later() -> None: ...

    with pytest.raises(ValueError, match="async def"):
        skate.remote(later)


def test_options_replace_only_what_they_name() -> None:
    @skate.remote(num_returns=2, resources={"special": 0.5})
    def context() -> Any:
        here = skate.get_runtime_context()
        return here.get_task_name(), here.get_assigned_resources()

    named = context.options(name="other")
    assert skate.get(named.remote()) == ["other", {"CPU": 1.0, "special": 0.5}]
    assert skate.get(named.options(num_cpus=0).remote()) == ["other", {"special": 0.5}]
    assert skate.get(context.remote()) == ["context", {"CPU": 1.0, "special": 0.5}]


def test_a_function_is_pickled_once_whatever_its_options() -> None:
    class Counted:
        pickled = 0

        def __reduce__(self) -> Any:
            Counted.pickled += 1
            return int, (5,)

    five: Any = Counted()

    @skate.remote
    def read() -> Any:
        return five

    refs = [read.options(num_cpus=0.5, name=f"read {n}").remote() for n in range(5)]
    assert skate.get([*refs, read.remote()]) == [5] * 6
    assert Counted.pickled == 1


# --- nesting ---------------------------------------------------------------------------------


def test_tasks_nested_forty_deep_on_two_cpus() -> None:
    @skate.remote
    def down(n: int) -> int:
        return 0 if n == 0 else 1 + skate.get(down.remote(n - 1))

    assert skate.get(down.remote(40), timeout=60) == 40


def test_wide_nesting_while_all_cpus_are_taken_by_parents() -> None:
    @skate.remote
    def parent(n: int) -> int:
        return sum(skate.get([add.remote(n, k) for k in range(10)]))

    assert skate.get([parent.remote(n) for n in range(8)], timeout=60) == [
        10 * n + 45 for n in range(8)
    ]


FIB = """
    import threading, skate
    from skate.client.runtime import current
    skate.init(num_cpus={cpus})
    @skate.remote
    def fib(n):
        return n if n < 2 else sum(skate.get([fib.remote(n - 1), fib.remote(n - 2)]))
    most, over = 0, threading.Event()
    def watch():
        global most
        while not over.wait(0.02):
            most = max(most, current().ask("status", {{}})["workers"])
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    print(skate.get(fib.remote(12), timeout=50))
    over.set()
    watcher.join()
    print(most)
"""


@pytest.mark.parametrize("cpus", [1, 2])
def test_recursion_needs_few_workers(run_program: RunProgram, cpus: int) -> None:
    """233 + 232 calls; on the way down 12 wait for each other, not hundreds."""
    done = run_program(FIB.format(cpus=cpus))
    result, most = done.stdout.split()
    assert result == "144", done.stderr
    assert int(most) <= 14 * cpus + 8


def test_a_blocked_task_lends_its_cpu_and_nothing_else(tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")

    @skate.remote(num_cpus=2, resources={"special": 1})
    def parent(gate: str) -> Any:
        child = busy_until.remote(gate)
        skate.wait([child], timeout=0.001)  # it may take the CPUs back between two waits
        return skate.get(child)

    ref = parent.remote(gate)
    # The child runs on a CPU of the parent, which has them all.
    eventually(
        lambda: skate.available_resources().get("CPU") == 1.0, "the child took one CPU of two"
    )
    assert "special" not in skate.available_resources()
    Path(gate).touch()
    skate.get(ref, timeout=SOON_S)
    eventually(lambda: skate.available_resources().get("special") == 1.0, "all was given back")
    eventually(lambda: skate.available_resources().get("CPU") == 2.0, "all was given back")


def test_workers_beyond_the_cpus_go_after_about_a_second() -> None:
    @skate.remote
    def down(n: int) -> int:
        return 0 if n == 0 else skate.get(down.remote(n - 1))

    skate.get(down.remote(8))
    eventually(lambda: status()["workers"] <= 2, "only as many workers as CPUs are left", 6.0)
    assert skate.get(echo.remote(1)) == 1


# --- resources -------------------------------------------------------------------------------


def test_four_halves_run_at_once_on_two_cpus(tmp_path: Path) -> None:
    @skate.remote(num_cpus=0.5)
    def meet(me: int) -> int:
        (tmp_path / str(me)).touch()
        for other in range(4):
            wait_for_file(str(tmp_path / str(other)))
        return me

    assert skate.get([meet.remote(n) for n in range(4)], timeout=SOON_S) == [0, 1, 2, 3]


def test_a_custom_resource_bounds_who_runs_at_once(tmp_path: Path) -> None:
    @skate.remote(num_cpus=0, resources={"special": 1})
    def alone() -> None:
        path = tmp_path / "here"
        path.touch(exist_ok=False)
        time.sleep(0.005)
        path.unlink()

    skate.get([alone.remote() for _ in range(10)], timeout=SOON_S)


def test_gpus_are_given_by_index_and_shown_to_the_task(tmp_path: Path) -> None:
    @skate.remote(num_gpus=2, num_cpus=0)
    def two(me: str, other: str) -> Any:
        (tmp_path / me).touch()
        wait_for_file(str(tmp_path / other))
        return skate.get_gpu_ids(), os.environ["CUDA_VISIBLE_DEVICES"]

    (first, shown), (second, _) = skate.get(
        [two.remote("a", "b"), two.remote("b", "a")], timeout=SOON_S
    )
    assert sorted(first + second) == [0, 1, 2, 3]
    assert shown == ",".join(map(str, first))


def test_fractions_share_a_gpu_and_whole_ones_are_not_shared() -> None:
    @skate.remote(num_gpus=0.25, num_cpus=0)
    def quarter() -> Any:
        return skate.get_gpu_ids()

    assert all(len(ids) == 1 for ids in skate.get([quarter.remote() for _ in range(4)]))
    with pytest.raises(ValueError, match="num_gpus"):
        quarter.options(num_gpus=1.5)


def test_a_worker_that_had_a_gpu_ends_so_that_the_gpus_memory_is_free() -> None:
    @skate.remote(num_gpus=1)
    def pid() -> int:
        return os.getpid()

    assert len({skate.get(pid.remote()) for _ in range(3)}) == 3


def test_a_worker_kept_after_a_gpu_task_shows_none_to_the_next() -> None:
    @skate.remote(max_calls=0)
    def visible() -> Any:
        return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES"), skate.get_gpu_ids()

    mine = os.environ.get("CUDA_VISIBLE_DEVICES")
    with_gpu = {skate.get(visible.options(num_gpus=1).remote())[0] for _ in range(4)}
    seen = [skate.get(visible.remote()) for _ in range(8)]
    assert {pid for pid, _, _ in seen} & with_gpu, "no worker ran both kinds"
    assert {(shown, tuple(ids)) for _, shown, ids in seen} == {(mine, ())}


def test_the_drivers_own_choice_of_gpus_is_divided(run_program: RunProgram) -> None:
    done = run_program(
        """
        import os, skate
        skate.init(num_cpus=1)
        @skate.remote(num_gpus=1)
        def f(): return os.environ["CUDA_VISIBLE_DEVICES"]
        print(skate.cluster_resources()["GPU"], skate.get(f.remote()))
        """,
        environ={"CUDA_VISIBLE_DEVICES": "5,7"},
    )
    assert done.stdout == "2.0 5\n", done.stderr


def test_an_infeasible_demand_warns_at_once_naming_what_is_missing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    seen = ""

    def warned(*words: str) -> bool:
        nonlocal seen
        seen += capfd.readouterr().err
        return all(word in seen for word in words)

    greedy = echo.options(num_cpus=64, resources={"moon": 2}, name="moonwalk")
    ref = greedy.remote(1)
    eventually(lambda: warned("moonwalk", "moon", "64 CPU", "2 in all"), "the warning", 2.0)
    assert skate.wait([ref], timeout=0) == ([], [ref])
    assert skate.get(echo.remote("others run"), timeout=SOON_S) == "others run"


def test_what_fails_at_once_is_not_said_to_wait(capfd: pytest.CaptureFixture[str]) -> None:
    here = NodeAffinitySchedulingStrategy(skate.get_runtime_context().get_node_id(), soft=False)
    bound = echo.options(num_cpus=64, scheduling_strategy=here, name="bound")
    with pytest.raises(exceptions.TaskUnschedulableError, match="does not have CPU 64"):
        skate.get(bound.remote(1), timeout=SOON_S)
    greedy = echo.options(num_cpus=64, name="waits")
    ref = greedy.remote(1)
    seen = ""

    def warned() -> bool:
        nonlocal seen
        seen += capfd.readouterr().err
        return "waits cannot be scheduled" in seen

    eventually(warned, "the warning of the other", 2.0)
    assert "bound" not in seen
    del ref


def test_labels_that_no_node_has_are_warned_of_once(capfd: pytest.CaptureFixture[str]) -> None:
    seen = ""

    def warned(*words: str) -> bool:
        nonlocal seen
        seen += capfd.readouterr().err
        return all(word in seen for word in words)

    @skate.remote
    class Moonbase:
        """An actor that has no place here."""

    far = echo.options(label_selector={"orbit": "moon"}, name="moonwalk")
    refs = [far.remote(number) for number in range(3)]
    base = Moonbase.options(label_selector={"orbit": "in(moon,mars)"}).remote()  # type: ignore[attr-defined]
    eventually(lambda: warned("task moonwalk", "actor Moonbase", "orbit", "mars"), "both", 2.0)
    assert skate.wait(refs, num_returns=3, timeout=0.5) == ([], refs)
    assert not warned("nothing more")
    assert seen.count("moonwalk") == 1
    del base


def test_max_calls_ends_the_worker_after_so_many() -> None:
    @skate.remote(max_calls=3)
    def pid() -> int:
        return os.getpid()

    # One at a time, so that they go to whichever worker is free: none may run a fourth.
    pids = [skate.get(pid.remote()) for _ in range(12)]
    assert max(pids.count(one) for one in pids) <= 3


def test_native_threads_follow_the_cpus_unless_the_user_chose(
    run_program: RunProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = """
        import os, skate
        skate.init(num_cpus=4)
        @skate.remote
        def threads(): return os.environ["OMP_NUM_THREADS"]
        print(skate.get([threads.options(num_cpus=n).remote() for n in (0, 0.5, 1, 3)]))
        """
    environ = {"OMP_NUM_THREADS": "7"}
    assert run_program(program, environ=environ).stdout == "['7', '7', '7', '7']\n"
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert run_program(program).stdout == "['1', '1', '1', '3']\n"


# --- fairness --------------------------------------------------------------------------------


def test_short_tasks_do_not_wait_behind_a_long_one(tmp_path: Path) -> None:
    """Also those that were sent ahead to its worker when nobody knew that it is long."""
    gate = str(tmp_path / "gate")

    @skate.remote
    def work(path: str) -> int:
        if path:
            wait_for_file(path)
        return 1

    skate.get([work.remote("") for _ in range(200)])  # by now it is known to be short
    refs = [work.remote("") for _ in range(50)]
    long = work.remote(gate)
    refs += [work.remote("") for _ in range(50)]
    started = time.monotonic()
    assert skate.get(refs, timeout=SOON_S) == [1] * 100
    assert time.monotonic() - started < 1.0
    assert skate.wait([long], timeout=0) == ([], [long])
    Path(gate).touch()
    assert skate.get(long, timeout=SOON_S) == 1


def test_a_large_demand_is_not_starved_by_an_endless_stream_of_small_ones() -> None:
    @skate.remote(num_cpus=2)
    def large() -> str:
        return "ran"

    over = threading.Event()

    def stream() -> None:
        pending = [echo.remote(n) for n in range(20)]
        while not over.is_set():
            _, pending = skate.wait(pending)
            pending.append(echo.remote(0))

    thread = threading.Thread(target=stream)
    thread.start()
    try:
        assert skate.get(large.remote(), timeout=SOON_S) == "ran"
    finally:
        over.set()
        thread.join()


# --- large functions -------------------------------------------------------------------------


def test_a_function_that_drags_a_large_object_along_warns_and_a_huge_one_is_refused() -> None:
    big, huge = bytes(11 << 20), bytes(70 << 20)
    with pytest.warns(UserWarning, match=r"takes_big.*(large|put)"):

        @skate.remote
        def takes_big() -> int:
            return len(big)

        assert skate.get(takes_big.remote(), timeout=SOON_S) == len(big)

    @skate.remote
    def takes_huge() -> int:
        return len(huge)

    with pytest.raises(ValueError, match=r"takes_huge.*too large"):
        takes_huge.remote()


def test_many_small_values_make_one_large_message() -> None:
    """Each is inline; together they are more than a frame may carry."""
    count = MAX_FRAME_BYTES // 99_000 + 10

    @skate.remote
    def total(*values: bytes) -> int:
        return sum(map(len, values))

    @skate.remote(num_returns=count)
    def many() -> list[bytes]:
        return [bytes(99_000)] * count

    refs = [skate.put(bytes(99_000)) for _ in range(count)]
    assert skate.get(total.remote(*refs)) == count * 99_000
    assert skate.get(total.remote(*many.remote())) == count * 99_000
