"""get and wait on a real engine: order, time-outs, many refs, wrong arguments, asyncio, futures."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import skate
from tests.conftest import RunProgram, eventually, store_counts

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
def fail(text: str) -> None:
    raise ValueError(text)


@skate.remote(num_cpus=0)
def after(path: str, value: Any = None) -> Any:
    """Its value once the file is there."""
    give_up_at = time.monotonic() + SOON_S
    while not Path(path).exists():
        if time.monotonic() > give_up_at:
            raise TimeoutError(path)
        time.sleep(0.002)
    return value


class Gate:
    """What waits for it goes on when it is opened; opened at the end of the test in any case."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> None:
        self.path.touch()

    def ref(self, value: Any = None) -> Any:
        return after.remote(str(self.path), value)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.open()


# --- get -------------------------------------------------------------------------------------


def test_a_list_keeps_its_order_and_its_repetitions() -> None:
    slow, quick = echo.remote("slow"), skate.put("quick")
    assert skate.get([quick, slow, quick]) == ["quick", "slow", "quick"]
    assert skate.get([]) == []


def test_ten_thousand_results_in_one_get() -> None:
    refs = [echo.remote(n) for n in range(10_000)]
    assert skate.get(refs) == list(range(10_000))


def test_ten_thousand_puts_in_one_get() -> None:
    refs = [skate.put(n) for n in range(10_000)]
    assert skate.get(refs) == list(range(10_000))


def test_many_refs_of_somebody_else_in_one_get() -> None:
    """Their values have to be asked for: 150 MB of them, more than fits a frame."""

    @skate.remote
    def make(count: int) -> Any:
        return [skate.put(bytes([n % 256]) * 99_000) for n in range(count)]

    refs = skate.get(make.remote(1500))
    values = skate.get(refs, timeout=60)
    assert [value[0] for value in values] == [n % 256 for n in range(1500)]


def test_many_refs_in_one_get_inside_a_task() -> None:
    @skate.remote
    def total(refs: Any) -> int:
        return sum(skate.get(refs))

    refs = [echo.remote(n) for n in range(2000)] + [skate.put(n) for n in range(2000)]
    assert skate.get(total.remote(refs)) == 2 * sum(range(2000))


@pytest.mark.parametrize("wrong", [(), (1,), "text", 5, None, {}, {1}, [1], [None], ["a"]])
def test_get_takes_a_ref_or_a_list_of_refs(wrong: Any) -> None:
    with pytest.raises(ValueError, match="ObjectRef"):
        skate.get(wrong)


def test_a_tuple_or_mixed_list_of_refs_is_refused() -> None:
    ref = skate.put(1)
    for wrong in ((ref,), {ref}, iter([ref]), [ref, 1], [[ref]]):
        with pytest.raises(ValueError, match="ObjectRef"):
            skate.get(wrong)


@pytest.mark.parametrize("wrong", [-1, -0.001])
def test_a_negative_timeout_is_refused(wrong: float) -> None:
    ref = skate.put(1)
    with pytest.raises(ValueError, match="timeout"):
        skate.get(ref, timeout=wrong)
    with pytest.raises(ValueError, match="timeout"):
        skate.wait([ref], timeout=wrong)
    for not_a_number in ("1", [], True):
        with pytest.raises(TypeError, match="timeout"):
            skate.get(ref, timeout=not_a_number)  # type: ignore[arg-type]


def test_get_gives_up_after_its_timeout_and_can_be_called_again(gate: Gate) -> None:
    ready, late = skate.put(1), gate.ref("late")
    started = time.monotonic()
    with pytest.raises(skate.exceptions.GetTimeoutError, match=r"1 of 2") as caught:
        skate.get([ready, late], timeout=0.05)
    assert 0.05 <= time.monotonic() - started < 5
    assert isinstance(caught.value, TimeoutError)
    assert late.hex() in str(caught.value)
    gate.open()
    assert skate.get([ready, late], timeout=SOON_S) == [1, "late"]


def test_timeout_zero_is_a_poll(gate: Gate) -> None:
    late = gate.ref()
    with pytest.raises(skate.exceptions.GetTimeoutError):
        skate.get(late, timeout=0)
    assert skate.get(skate.put(1), timeout=0) == 1


def test_a_poll_finds_what_is_there_though_it_was_never_asked_for() -> None:
    @skate.remote
    def make() -> Any:
        return [skate.put("there")]

    ref = skate.get(make.remote())[0]
    assert skate.get(ref, timeout=0) == "there"


def test_the_first_error_is_raised_before_the_rest_is_there(gate: Gate) -> None:
    late = gate.ref()
    with pytest.raises(ValueError, match="at once"):
        skate.get([late, echo.remote(1), fail.remote("at once")], timeout=SOON_S)


def test_a_ref_that_nobody_knows_is_an_error_and_no_hang() -> None:
    with pytest.raises(skate.exceptions.ObjectLostError, match="not known"):
        skate.get(skate.ObjectRef.from_hex("00" * skate.ObjectRef.size()), timeout=SOON_S)
    with pytest.raises(skate.exceptions.ObjectLostError):
        skate.get(echo.remote(skate.ObjectRef.from_hex("00" * skate.ObjectRef.size())))


def test_a_ref_of_an_older_session_is_an_error_and_no_hang(run_program: RunProgram) -> None:
    done = run_program(
        """
        import skate
        skate.init(num_cpus=1)
        @skate.remote
        def f(x): return x
        old, handle = skate.put(1), f.remote(2)
        skate.get(handle)
        skate.shutdown()
        skate.init(num_cpus=1)
        for ref in (old, handle):
            for call in (lambda: skate.get(ref), lambda: skate.get(f.remote(ref))):
                try:
                    call()
                except skate.exceptions.ObjectLostError as error:
                    assert "session" in str(error)
                else:
                    raise AssertionError
        del old, handle, ref
        print(skate.get(f.remote(5)))
        """
    )
    assert done.stdout == "5\n", done.stderr


# --- put -------------------------------------------------------------------------------------


def test_put_refuses_a_ref_and_an_owner() -> None:
    ref = skate.put(1)
    with pytest.raises(TypeError, match="put"):
        skate.put(ref)
    assert skate.get(skate.get(skate.put([ref]))[0]) == 1
    with pytest.raises(ValueError, match="_owner"):
        skate.put(1, _owner="me")


# --- wait ------------------------------------------------------------------------------------


def test_wait_returns_one_by_default_and_the_rest(gate: Gate) -> None:
    late = gate.ref()
    quick = echo.remote(1)
    assert skate.wait([late, quick]) == ([quick], [late])
    gate.open()
    assert skate.wait([late], timeout=SOON_S) == ([late], [])


def test_wait_never_returns_more_than_asked_for_and_keeps_the_order(gate: Gate) -> None:
    late = gate.ref()
    refs = [echo.remote(n) for n in range(10)]
    skate.get(refs)
    mixed = [*refs[:3], late, *refs[3:]]
    for count in (1, 2, 5, 10):
        ready, rest = skate.wait(mixed, num_returns=count)
        assert ready == refs[:count]
        assert rest == [ref for ref in mixed if ref not in ready]


def test_wait_gives_up_after_its_timeout_with_what_it_has(gate: Gate) -> None:
    late, other = gate.ref(), gate.ref()
    ready = skate.put(1)
    started = time.monotonic()
    assert skate.wait([late, ready, other], num_returns=2, timeout=0.05) == (
        [ready],
        [late, other],
    )
    assert time.monotonic() - started >= 0.05


def test_wait_with_timeout_zero_sees_what_is_there() -> None:
    @skate.remote
    def make() -> Any:
        return [skate.put("a"), skate.put("b")]

    first, second = skate.get(make.remote())
    assert skate.wait([first, second], num_returns=2, timeout=0) == ([first, second], [])


def test_a_failed_task_counts_as_ready(gate: Gate) -> None:
    late, failed = gate.ref(), fail.remote("no")
    assert skate.wait([late, failed], timeout=SOON_S) == ([failed], [late])


def test_wait_for_all_of_a_thousand_and_one_at_a_time() -> None:
    refs = [echo.remote(n) for n in range(1000)]
    ready, rest = skate.wait(refs, num_returns=1000)
    assert (ready, rest) == (refs, [])
    left, seen = [echo.remote(n) for n in range(1000)], []
    while left:
        (one,), left = skate.wait(left)
        seen.append(skate.get(one))
    assert sorted(seen) == list(range(1000))


def test_wait_does_not_fetch_what_it_is_not_asked_to() -> None:
    refs = [skate.put(1)]
    assert skate.wait(refs, fetch_local=False) == (refs, [])


def test_wait_refuses_what_makes_no_sense() -> None:
    ref, other = skate.put(1), skate.put(2)
    with pytest.raises(TypeError, match="list"):
        skate.wait(ref)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="list"):
        skate.wait((ref, other))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="list"):
        skate.wait([ref, 5])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="unique"):
        skate.wait([ref, other, ref])
    for count in (0, -1, 3):
        with pytest.raises(ValueError, match="return"):
            skate.wait([ref, other], num_returns=count)
    with pytest.raises(TypeError, match="num_returns"):
        skate.wait([ref], num_returns=1.0)  # type: ignore[arg-type]
    assert skate.wait([]) == ([], [])


# --- asyncio and futures ---------------------------------------------------------------------


def test_awaiting_refs_in_a_driver(gate: Gate) -> None:
    async def work() -> None:
        assert await echo.remote(1) == 1
        assert await skate.put("put") == "put"
        refs = [echo.remote(n) for n in range(100)]
        assert await asyncio.gather(*refs) == list(range(100))
        with pytest.raises(ValueError, match="awaited"):
            await fail.remote("awaited")
        done, pending = await asyncio.wait([echo.remote(2).as_future()], timeout=SOON_S)
        assert [future.result() for future in done] == [2]
        assert not pending

    asyncio.run(work())


def test_an_await_does_not_stop_the_loop(gate: Gate) -> None:
    async def work() -> Any:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while ticks < 5:
                await asyncio.sleep(0.001)
                ticks += 1
            gate.open()  # had the loop stood still, nobody would open it

        ticking = asyncio.create_task(tick())
        value = await gate.ref("value")
        await ticking
        return value

    assert asyncio.run(work()) == "value"


def test_an_await_can_be_cancelled_and_the_ref_awaited_again(gate: Gate) -> None:
    async def work() -> Any:
        ref = gate.ref("value")
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(ref.as_future(), 0.02)
        gate.open()
        return await ref

    assert asyncio.run(work()) == "value"


def test_awaiting_inside_a_task() -> None:
    @skate.remote
    def total(refs: Any) -> int:
        async def work() -> int:
            return sum(await asyncio.gather(*refs))

        return asyncio.run(work())

    assert skate.get(total.remote([echo.remote(n) for n in range(20)])) == sum(range(20))


def test_concurrent_futures(gate: Gate) -> None:
    futures = [echo.remote(n).future() for n in range(50)]
    assert [future.result(SOON_S) for future in futures] == list(range(50))
    with pytest.raises(ValueError, match="in a future"):
        fail.remote("in a future").future().result(SOON_S)
    late = gate.ref("late").future()
    with pytest.raises(concurrent.futures.TimeoutError):
        late.result(0.02)
    called: list[Any] = []
    late.add_done_callback(lambda future: called.append(future.result()))
    gate.open()
    assert late.result(SOON_S) == "late"
    eventually(lambda: called == ["late"], "the callback has been called")


def test_a_future_that_is_over_keeps_nothing_until_the_collector_comes() -> None:
    async def waited() -> int:
        return await echo.remote(2)

    gc.collect()  # what earlier tests have left
    gc.disable()
    try:
        assert echo.remote(1).future().result(SOON_S) == 1
        assert asyncio.run(waited()) == 2
        eventually(lambda: store_counts() == (0, 0), "the store is empty")
    finally:
        gc.enable()


def test_futures_of_a_session_that_ends_do_not_hang(run_program: RunProgram) -> None:
    done = run_program(
        """
        import os, signal, skate
        session = skate.init(num_cpus=1)
        @skate.remote
        def sleep():
            import time
            time.sleep(600)
        future = sleep.remote().future()
        other = sleep.remote().future()
        skate.shutdown()
        print(type(future.exception(10)).__name__)
        """
    )
    assert done.stdout == "RuntimeClosedError\n", done.stderr


def test_a_shutdown_that_takes_its_time_is_no_death_of_the_node(run_program: RunProgram) -> None:
    """The node closes the line once it has heard that the driver leaves: a thread that waits sees
    the end of the line before the main thread, which is slow here, has closed its own."""
    done = run_program(
        """
        import sys, time, skate
        skate.init(num_cpus=1)
        @skate.remote
        def sleep():
            time.sleep(600)
        future = sleep.remote().future()
        sys.settrace(lambda frame, event, argument: time.sleep(0.01))
        skate.shutdown()
        sys.settrace(None)
        print(type(future.exception(10)).__name__)
        """
    )
    assert (done.stdout, done.stderr) == ("RuntimeClosedError\n", "")


# --- several at once -------------------------------------------------------------------------


def test_threads_that_get_and_wait_for_the_same_refs(gate: Gate) -> None:
    late = [gate.ref(n) for n in range(5)]
    results: list[Any] = []

    def get_all() -> None:
        results.append(skate.get(late, timeout=SOON_S))

    def wait_all() -> None:
        ready, _ = skate.wait(late, num_returns=5, timeout=SOON_S)
        results.append(skate.get(ready))

    def get_soon() -> None:
        try:
            skate.get(late, timeout=0.01)
        except skate.exceptions.GetTimeoutError:
            results.append(list(range(5)))

    threads = [threading.Thread(target=f) for f in (get_all, wait_all, get_soon, get_all)]
    for thread in threads:
        thread.start()
    threads[2].join()  # the one that gives up hands the reading over to the others
    gate.open()
    for thread in threads:
        thread.join()
    assert results == [list(range(5))] * 4


def test_dropping_refs_while_others_get(gate: Gate) -> None:
    """Refs go in one thread while their values arrive in another."""
    over = threading.Event()

    def drop() -> None:
        while not over.is_set():
            skate.wait([[echo.remote(n) for n in range(20)][-1]])

    thread = threading.Thread(target=drop)
    thread.start()
    try:
        for n in range(50):
            assert skate.get([echo.remote(n + k) for k in range(10)]) == list(range(n, n + 10))
    finally:
        over.set()
        thread.join()
    gc.collect()  # earlier tests have left refs in the cycles of their exceptions
    eventually(lambda: store_counts() == (0, 0), "the store is empty")
