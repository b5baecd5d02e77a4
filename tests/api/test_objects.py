"""Objects on a real engine: every kind of value, zero-copy arrays, and that nothing is left over.

Most tests share a session of 2 CPUs. Those of a full store have sessions of 75 and 80 MB.
"""

from __future__ import annotations

import gc
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle
import numpy as np
import pytest

import skate
from tests.conftest import RunProgram, eventually, store_counts

# Workers need not import this module, and with it pytest, to run its functions.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

SOON_S = 20.0  # a bound for what takes milliseconds; only a hang reaches it
MB = 1_000_000


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    with skate.init(num_cpus=2, object_store_memory=400 * MB):
        yield


@pytest.fixture
def empty_after(session: None) -> Iterator[None]:
    """The test starts and ends with a store that holds nothing at all."""
    assert_nothing_is_stored()
    yield
    assert_nothing_is_stored()


def assert_nothing_is_stored() -> None:
    gc.collect()
    eventually(lambda: store_counts() == (0, 0), f"the store is empty: {store_counts()}", 5.0)


@skate.remote
def echo(value: Any) -> Any:
    return value


@skate.remote
def array(count: int, fill: float = 1.0) -> Any:
    return np.full(count, fill)


# --- every kind of value ---------------------------------------------------------------------


class Thing:
    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.x == self.x  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return self.x


VALUES = [
    None,
    True,
    0,
    -(10**40),
    3.5,
    1 + 2j,
    "",
    "ünï\U0001f40d",
    "\udcff",  # not valid Unicode
    b"",
    b"x" * 101,
    b"y" * (100 << 10),  # around the bound between message and arena
    b"z" * ((100 << 10) - 1),
    b"large" * MB,
    bytearray(b"abc"),
    bytearray(b"large" * 50_000),
    "long text" * 50_000,
    [],
    (),
    {},
    [1, [2, [3, (4, {"five": {6}})]]],
    {(1, 2): frozenset({3}), None: ...},
    range(10),
    int,
    len,
    Thing(5),
    [Thing(1), Thing(2)],
    list(range(50_000)),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: f"{type(value).__name__}")
def test_a_value_comes_back_as_it_went(session: None, value: Any) -> None:
    for ref in (skate.put(value), echo.remote(value), echo.remote(skate.put(value))):
        back = skate.get(ref)
        assert type(back) is type(value)
        assert back == value


def test_identity_within_one_object_is_kept(session: None) -> None:
    shared = [1]
    back = skate.get(skate.put([shared, shared]))
    assert back[0] is back[1]
    loop: list[Any] = []
    loop.append(loop)
    back = skate.get(echo.remote(loop))
    assert back[0] is back


def test_a_get_is_a_value_of_its_own(session: None) -> None:
    ref = skate.put([1, 2])
    skate.get(ref).append(3)
    assert skate.get(ref) == [1, 2]


def test_a_lambda_and_a_local_class_as_values(session: None) -> None:
    class Local:
        def answer(self) -> int:
            return 42

    back = skate.get(echo.remote({"f": lambda x: x + 1, "object": Local()}))
    assert back["f"](1) == 2
    assert back["object"].answer() == 42


# --- arrays ----------------------------------------------------------------------------------

ARRAYS = {
    "one number": np.array(3.5),
    "three": np.arange(3),
    "just inline": np.arange(12_000),
    "just beyond": np.arange(13_000),
    "large": np.arange(300_000, dtype=np.float32).reshape(300, 1000),
    "fortran": np.asfortranarray(np.arange(200_000).reshape(200, 1000)),
    "strided": np.arange(200_000)[::2],
    "transposed": np.arange(60_000).reshape(200, 300).T,
    "empty": np.empty(0),
    "empty 3d": np.empty((3, 0, 4)),
    "bool": np.arange(200_000) % 3 == 0,
    "text": np.array(["a", "bcd"] * 30_000),
    "objects": np.array([None, "x", [1]], dtype=object),
    "dates": np.arange("2020-01-01", "2020-12-31", dtype="datetime64[D]"),
    "structured": np.zeros(20_000, dtype=[("x", "f8"), ("name", "S5"), ("at", "i4", 3)]),
    "record": np.rec.array([(1, 2.0)] * 10_000, dtype=[("a", "i4"), ("b", "f8")]),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_comes_back_as_it_went(session: None, name: str) -> None:
    value = ARRAYS[name]
    for ref in (skate.put(value), echo.remote(value)):
        back = skate.get(ref)
        assert type(back) is type(value)
        assert back.dtype == value.dtype
        assert back.shape == value.shape
        assert back.flags.f_contiguous == value.flags.f_contiguous or name == "strided"
        assert np.array_equal(back, value)


@pytest.mark.parametrize("count", [1, 10, 100, 10_000, 1_000_000])
def test_what_get_returns_is_read_only_at_every_size(session: None, count: int) -> None:
    for ref in (skate.put(np.ones(count)), array.remote(count)):
        back = skate.get(ref)
        assert not back.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            back[0] = 2
        assert back.copy().flags.writeable


def test_arguments_are_read_only_too(session: None) -> None:
    @skate.remote
    def write(values: Any) -> None:
        values[0] = 1

    for count in (10, 1_000_000):
        for argument in (np.zeros(count), skate.put(np.zeros(count))):
            with pytest.raises(ValueError, match="read-only"):
                skate.get(write.remote(argument))


def test_two_gets_share_the_memory(session: None) -> None:
    ref = skate.put(np.arange(MB))
    first, second = skate.get(ref), skate.get(ref)
    assert np.shares_memory(first, second)


def test_getting_a_large_array_copies_nothing(session: None) -> None:
    """Its bytes lie in the mapped arena file, in driver and worker alike."""

    def mapped_file(values: Any) -> str:
        address = values.__array_interface__["data"][0]
        with open("/proc/self/maps") as maps:
            for line in maps:
                low, high = (int(part, 16) for part in line.split()[0].split("-"))
                if low <= address and address + values.nbytes <= high:
                    return line.split(maxsplit=5)[-1].strip()
        return "nowhere"

    @skate.remote
    def where(values: Any) -> str:
        return mapped_file(values)

    ref = skate.put({"deep": [np.ones(MB)]})
    inside = skate.get(ref)["deep"][0]
    arena = skate.get(where.remote(skate.put(np.ones(MB))))
    assert "skate" in arena
    assert mapped_file(inside) == arena


def test_arrays_inside_containers_are_aligned(session: None) -> None:
    value = [np.arange(n, dtype=np.float64) for n in (101, 1, 5000, 33)] + [np.int8([1, 2, 3])]
    for ref in (skate.put(value), skate.put([*value, bytes(200_000)])):
        for back in skate.get(ref)[:4]:
            assert back.flags.aligned
            assert back.__array_interface__["data"][0] % 8 == 0


def test_a_hundred_megabytes_there_and_back(empty_after: None) -> None:
    @skate.remote
    def total(values: Any) -> float:
        return float(values.sum())

    @skate.remote
    def make() -> Any:
        return np.ones(100 * MB // 8)

    ref = skate.put(np.full(100 * MB // 8, 2.0))
    assert skate.get(total.remote(ref)) == 2.0 * (100 * MB // 8)
    del ref
    assert skate.get(make.remote()).sum() == 100 * MB // 8


class Provider:
    """Offers its bytes out of band, as Arrow buffers and data frames do."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Provider, (pickle.PickleBuffer(self.data),)


@pytest.mark.parametrize("size", [0, 5, 1_000, 300_000])
def test_buffers_of_other_libraries_are_views_as_well(session: None, size: int) -> None:
    content = os.urandom(size)
    back = skate.get(skate.put([Provider(content), Provider(bytearray(content))]))
    for provider in back:
        assert bytes(provider.data) == content
        assert memoryview(provider.data).readonly


def test_a_buffer_that_is_not_contiguous_is_an_error_of_its_own(session: None) -> None:
    with pytest.raises((TypeError, ValueError), match="put"):
        skate.put(Provider(memoryview(bytes(1000))[::2]))


def test_a_memoryview_arrives_as_bytes(session: None) -> None:
    assert skate.get(skate.put({"a": [memoryview(b"x")]})) == {"a": [b"x"]}


# --- views and pins --------------------------------------------------------------------------


def test_a_view_outlives_its_ref_and_its_array(empty_after: None) -> None:
    ref = skate.put(np.arange(MB))
    back = skate.get(ref)
    part = back[10:20]
    del ref, back
    # New objects of the same size would land on the span if it were free.
    others = [skate.put(np.zeros(MB)) for _ in range(4)]
    assert list(part) == list(range(10, 20))
    assert store_counts()[1] == 5
    del part
    eventually(lambda: store_counts()[1] == 4, "the span is free once its last view is gone")
    del others


def test_a_worker_that_keeps_a_view_keeps_the_span(session: None) -> None:
    assert_nothing_is_stored()

    @skate.remote(num_cpus=0)
    class Keeper:
        def keep(self, values: Any) -> None:
            self.values = values

        def look(self) -> float:
            return float(self.values.sum())

    keeper = Keeper.remote()
    skate.get(keeper.keep.remote(skate.put(np.ones(MB))))
    others = [skate.put(np.zeros(MB)) for _ in range(4)]
    assert skate.get(keeper.look.remote()) == MB
    del others, keeper
    assert_nothing_is_stored()


def test_a_killed_worker_gives_its_pins_back(session: None) -> None:
    @skate.remote(max_retries=0)
    def die(values: Any, more: Any) -> None:
        os.kill(os.getpid(), 9)

    ref = die.remote(skate.put(np.ones(MB)), [skate.put(np.ones(MB))])
    with pytest.raises(skate.exceptions.WorkerCrashedError):
        skate.get(ref)
    del ref
    assert_nothing_is_stored()


def test_a_worker_killed_while_it_writes_its_result(session: None) -> None:
    @skate.remote(max_retries=0)
    def die() -> Any:
        class Deadly:
            def __reduce__(self) -> Any:
                os.kill(os.getpid(), 9)
                return int, ()

        return [np.ones(MB), Deadly()]

    with pytest.raises(skate.exceptions.WorkerCrashedError):
        skate.get(die.options(num_returns=2).remote())
    assert_nothing_is_stored()


# --- when objects go -------------------------------------------------------------------------


def test_put_and_results_go_with_their_last_ref(empty_after: None) -> None:
    refs = [skate.put(n) for n in range(100)]
    refs += [skate.put(np.ones(MB)) for _ in range(3)]
    refs += [echo.remote(n) for n in range(100)]
    refs += [array.remote(MB) for _ in range(3)]
    skate.wait(refs, num_returns=len(refs))
    assert store_counts() == (206, 6)


def test_results_that_nobody_waited_for(empty_after: None) -> None:
    for _ in range(20):
        array.remote(MB // 4)
        echo.remote("dropped")


def test_refs_inside_objects(empty_after: None) -> None:
    inner = skate.put(np.ones(MB))
    outer = skate.put({"a": [inner]})
    del inner
    eventually(lambda: store_counts() == (2, 1), "the container holds what it contains")
    found = skate.get(outer)["a"][0]
    del outer
    assert skate.get(found)[0] == 1
    del found


def test_a_thousand_containers_in_each_other(empty_after: None) -> None:
    ref = skate.put(np.ones(MB))
    for _ in range(1000):
        ref = skate.put([ref])
    depth, value = 0, skate.get(ref)
    while type(value) is list:
        value, depth = skate.get(value[0]), depth + 1
    assert depth == 1000
    del value


def test_refs_inside_arguments_and_results(empty_after: None) -> None:
    @skate.remote
    def repack(box: Any) -> Any:
        return [box[0], skate.put(np.full(MB, 2.0)), echo.remote(np.full(MB, 3.0))]

    refs = skate.get(repack.remote([skate.put(np.full(MB, 1.0))]))
    assert [skate.get(ref)[0] for ref in refs] == [1.0, 2.0, 3.0]


def test_a_result_with_refs_that_nobody_reads(empty_after: None) -> None:
    @skate.remote
    def repack(box: Any) -> Any:
        return [box[0], skate.put(np.ones(MB))]

    ref = repack.remote([skate.put(np.ones(MB))])
    skate.wait([ref])


def test_arguments_of_tasks_that_fail(empty_after: None) -> None:
    @skate.remote
    def fail(values: Any, box: Any) -> None:
        raise ValueError("no")

    ref = fail.remote(skate.put(np.ones(MB)), [skate.put(np.ones(MB))])
    after = echo.remote(ref)
    with pytest.raises(ValueError, match="no"):
        skate.get(after)
    del ref, after


def test_arguments_too_large_for_the_message(empty_after: None) -> None:
    assert skate.get(echo.remote(np.ones(MB)))[0] == 1.0
    assert skate.get(echo.options(num_returns=2).remote([np.ones(MB), skate.put(1)]))[0][0] == 1.0


def test_refs_kept_by_an_actor_and_actor_handles_in_objects(session: None) -> None:
    assert_nothing_is_stored()

    @skate.remote(num_cpus=0)
    class Keeper:
        def keep(self, box: Any) -> None:
            self.box = box

        def read(self) -> Any:
            return float(skate.get(self.box[0])[0])

    keeper = Keeper.remote()
    skate.get(keeper.keep.remote([skate.put(np.full(MB, 7.0))]))
    eventually(lambda: store_counts()[1] == 1, "the actor's ref holds the object")
    assert skate.get(keeper.read.remote()) == 7.0
    boxed = skate.put([keeper])
    del keeper
    handle = skate.get(boxed)[0]
    del boxed
    assert skate.get(handle.read.remote()) == 7.0
    del handle
    assert_nothing_is_stored()


def test_a_ref_that_went_and_came_back_before_its_value(session: None) -> None:
    """The process forgets a promised result, then meets its ref again inside another object."""
    gate = skate.put(None)

    @skate.remote
    def slow(_: Any) -> str:
        time.sleep(0.05)
        return "late"

    ref = slow.remote(gate)
    box = skate.put([ref])
    del ref
    skate.get(echo.remote(1))  # the release has been sent
    other = slow.remote(gate)
    skate.get(other)
    found = skate.get(box)[0]
    assert skate.get(found, timeout=SOON_S) == "late"


def test_a_process_forgets_what_it_has_released(session: None) -> None:
    from skate.client.runtime import current

    runtime = current()
    assert runtime is not None
    skate.get([echo.remote(n) for n in range(100)])
    for _ in range(500):
        echo.remote(0)
    skate.get(echo.remote(0))
    assert_nothing_is_stored()
    assert runtime.values.is_empty(), "values or promises of results that were dropped"
    assert not runtime.references.counts


def test_refs_die_in_threads_and_cycles_without_loss(session: None) -> None:
    """Refs that are made, passed on, collected and unpickled in many threads at once."""

    def churn(seed: int) -> None:
        for n in range(60):
            ref = skate.put([seed, n])
            cycle: list[Any] = [ref]
            cycle.append(cycle)
            box = skate.put([ref])
            del ref
            if n % 20 == 0:
                gc.collect()
            assert skate.get(skate.get(box)[0]) == [seed, n]
            assert skate.get(echo.remote(cycle[0])) == [seed, n]

    in_threads(churn, 6)
    assert_nothing_is_stored()


def in_threads(work: Callable[[int], None], count: int) -> None:
    failures: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


# --- a ref is a small value ------------------------------------------------------------------


def test_a_refs_own_methods(session: None) -> None:
    ref = skate.put(1)
    assert ref == skate.ObjectRef.from_hex(ref.hex()) == skate.ObjectRef.from_binary(ref.binary())
    assert hash(ref) == hash(skate.ObjectRef.from_hex(ref.hex()))
    assert len(ref.binary()) == skate.ObjectRef.size()
    assert not ref.is_nil()
    assert skate.ObjectRef.nil().is_nil()
    assert ref.hex() in repr(ref)
    assert ref.hex().startswith(ref.job_id())
    assert ref != skate.put(1)
    assert skate.get(skate.ObjectRef.from_hex(ref.hex())) == 1


# --- a full store ----------------------------------------------------------------------------


def test_a_full_store_names_sizes_and_holders_and_breaks_nothing(run_program: RunProgram) -> None:
    done = run_program(
        """
        import os, numpy as np, skate
        skate.init(num_cpus=2, object_store_memory=80_000_000)
        big = skate.put(np.ones(50_000_000 // 8))
        view = skate.get(big)
        other = skate.put(np.ones(20_000_000 // 8))
        def refused(make):
            try:
                make()
            except skate.exceptions.ObjectStoreFullError as error:
                text = str(error)
                assert "30,000,192 bytes" in text and "79,998,976" in text, text
                assert "50.0 MB" in text and "20.0 MB" in text, text
                assert big.hex() in text and f"driver {os.getpid()}" in text, text
            else:
                raise AssertionError("it was not refused")
        data = np.ones(30_000_000 // 8)
        @skate.remote
        def make(): return np.ones(30_000_000 // 8)
        @skate.remote
        def take(values): return float(values[0])
        made = make.remote()
        refused(lambda: take.remote(data))
        refused(lambda: skate.get(made))
        # Nothing else is broken: small ones, and large ones that fit.
        assert skate.get([skate.put(1), take.remote(big)]) == [1, 1.0]
        assert skate.get(skate.put(np.ones(500_000)))[0] == 1
        del big
        assert view[0] == 1.0
        refused_still = False
        try:
            skate.put(data)
        except skate.exceptions.ObjectStoreFullError:
            refused_still = True
        assert refused_still, "a view still reads that memory"
        del view, other
        # And when there is room again, all is as before.
        for _ in range(5):
            assert skate.get(take.remote(data)) == 1.0
            assert skate.get(make.remote())[0] == 1.0
            skate.put(data)
        print("fine")
        """
    )
    assert done.stdout == "fine\n", done.stderr


def test_an_object_larger_than_the_store_is_refused_at_once(run_program: RunProgram) -> None:
    done = run_program(
        """
        import time, numpy as np, skate
        skate.init(num_cpus=1, object_store_memory=75 << 20)
        started = time.monotonic()
        try:
            skate.put(np.ones(10_000_000))
        except skate.exceptions.ObjectStoreFullError as error:
            assert "80,000,192 bytes" in str(error) and "78,643,200" in str(error), error
        assert time.monotonic() - started < 1.5
        print(skate.get(skate.put(1)))
        """
    )
    assert done.stdout == "1\n", done.stderr


def test_a_pipeline_of_30_mb_results_through_a_store_of_75_mb(run_program: RunProgram) -> None:
    """What is consumed makes room for what waits to be created, whoever holds the CPUs."""
    done = run_program(
        """
        import os, time, numpy as np, skate
        skate.init(num_cpus=2, object_store_memory=75 << 20)
        @skate.remote
        def make(n): return np.full(30_000_000 // 8, float(n))
        @skate.remote
        def total(values): return float(values[0])
        # One after another.
        for n in range(6):
            assert skate.get(make.remote(n))[0] == n
        # Producers and consumers as tasks: consumers have to run while producers wait for room.
        assert skate.get([total.remote(make.remote(n)) for n in range(12)]) == list(range(12))
        # Consumers that are submitted last of all.
        made = [make.remote(n) for n in range(8)]
        sums = [total.remote(ref) for ref in made]
        del made
        assert skate.get(sums) == list(range(8))
        # Producers that wait for space bring no more producers into the world.
        from skate.client.runtime import current
        sums = [total.remote(make.remote(n)) for n in range(20)]
        most = 0
        while skate.wait(sums, num_returns=20, timeout=0.01)[1]:
            most = max(most, current().ask("status", {})["workers"])
        assert skate.get(sums) == list(range(20))
        assert most <= 6, most
        # A consumer that needs a task of its own while producers have all the CPUs.
        @skate.remote
        def plus_one(x): return x + 1
        @skate.remote
        def nested_total(values): return skate.get(plus_one.remote(float(values[0])))
        sums = [nested_total.remote(make.remote(n)) for n in range(8)]
        assert skate.get(sums) == [n + 1 for n in range(8)]
        # Consumers that take longer than a creator is left waiting without a word.
        @skate.remote
        def slow_total(values, path):
            open(path, "w").close()
            time.sleep(2.4)
            return float(values[0])
        paths = [f"{__file__}.{n}" for n in range(2)]
        sums = [slow_total.remote(make.remote(n), path) for n, path in enumerate(paths)]
        while not all(os.path.exists(path) for path in paths):
            time.sleep(0.01)
        assert skate.get(skate.put(np.ones(30_000_000 // 8)))[0] == 1
        assert skate.get(sums) == [0, 1]
        print("fine")
        """
    )
    assert done.stdout == "fine\n", done.stderr
    assert "The object store is full (60 of 79 MB): 30.0 MB wait" in done.stderr


def test_creators_wait_while_others_free(run_program: RunProgram) -> None:
    done = run_program(
        """
        import threading, time, numpy as np, skate
        skate.init(num_cpus=2, object_store_memory=80_000_000)
        data = np.ones(35_000_000 // 8)
        def work():
            for _ in range(6):
                ref = skate.put(data)
                assert skate.get(ref)[0] == 1.0
                del ref
        failures = []
        def guarded():
            try: work()
            except BaseException as error: failures.append(error)
        threads = [threading.Thread(target=guarded) for _ in range(4)]
        for t in threads: t.start()
        for t in threads: t.join()
        assert not failures, failures
        # One creator waits more than the grace, while space keeps coming and going in front of it.
        held = [skate.put(np.ones(35_000_000 // 8)) for _ in range(2)]
        def let_go():
            time.sleep(1.0)
            held.pop()
        threading.Thread(target=let_go).start()
        assert skate.get(skate.put(data))[0] == 1.0
        print("fine")
        """
    )
    assert done.stdout == "fine\n", done.stderr
