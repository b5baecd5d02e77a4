"""Async actors: one event loop that runs many calls at once."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import skate
from skate import exceptions
from tests.api.waiting import until, until_gone


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with skate.init(num_cpus=2):
        yield


@skate.remote
class Gate:
    """Calls wait inside it until another call opens it."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.inside = 0
        self.most = 0

    async def enter(self, value: Any = None) -> Any:
        self.inside += 1
        self.most = max(self.most, self.inside)
        await self.open.wait()
        self.inside -= 1
        return value

    async def unlock(self) -> None:
        self.open.set()

    def count(self) -> int:
        return self.inside

    async def peak(self) -> int:
        return self.most

    async def pid(self) -> int:
        return os.getpid()


@skate.remote
def echo(value: Any) -> Any:
    return value


@skate.remote
def fail(text: str) -> None:
    raise ValueError(text)


@skate.remote
def wait_for(path: str) -> str:
    until(lambda: os.path.exists(path), 30)
    return "opened"


def test_a_thousand_calls_are_under_way_at_once() -> None:
    gate = Gate.remote()
    answers = [gate.enter.remote(number) for number in range(999)]
    skate.get(gate.unlock.remote(), timeout=20)
    assert skate.get(answers, timeout=20) == list(range(999))
    assert skate.get(gate.peak.remote()) == 999


def test_max_concurrency_bounds_what_is_under_way() -> None:
    gate = Gate.options(max_concurrency=3).remote()
    answers = [gate.enter.remote(number) for number in range(2)]
    until(lambda: skate.get(gate.count.remote()) == 2)
    more = [gate.enter.remote(number) for number in range(2, 10)]
    # The third place is taken by one of those now, so this one has to wait behind them all.
    unlock = gate.unlock.remote()
    assert skate.wait([unlock, *answers, *more], timeout=0.1)[0] == []
    skate.kill(gate)
    for ref in [unlock, *answers, *more]:
        with pytest.raises(exceptions.ActorDiedError):
            skate.get(ref)


def test_never_more_than_max_concurrency_run() -> None:
    @skate.remote(max_concurrency=4)
    class Busy:
        def __init__(self) -> None:
            self.inside = self.most = 0

        async def work(self) -> int:
            self.inside += 1
            self.most = max(self.most, self.inside)
            for _ in range(5):
                await asyncio.sleep(0)
            self.inside -= 1
            return self.most

    busy = Busy.remote()
    assert max(skate.get([busy.work.remote() for _ in range(200)])) == 4


def test_calls_begin_in_the_order_of_their_caller() -> None:
    @skate.remote
    class Recorder:
        def __init__(self) -> None:
            self.seen: list[int] = []

        async def record(self, number: int) -> None:
            self.seen.append(number)
            await asyncio.sleep(0)

        def all(self) -> list[int]:
            return self.seen

    recorder = Recorder.remote()
    skate.get([recorder.record.remote(number) for number in range(2_000)])
    assert skate.get(recorder.all.remote()) == list(range(2_000))


def test_a_pending_argument_holds_back_its_own_call_only(tmp_path: Path) -> None:
    gate = Gate.remote()
    path = tmp_path / "gate"
    late = gate.enter.remote(wait_for.remote(str(path)))
    skate.get(gate.unlock.remote(), timeout=10)
    assert skate.get(gate.enter.remote("early"), timeout=10) == "early"
    assert skate.wait([late], timeout=0)[0] == []
    path.touch()
    assert skate.get(late, timeout=10) == "opened"


def test_refs_are_awaited_inside() -> None:
    @skate.remote
    class Waiter:
        async def one(self, value: int) -> int:
            return int(await echo.remote(value))

        async def all(self, count: int) -> list[int]:
            return list(await asyncio.gather(*[echo.remote(n) for n in range(count)]))

        async def nested(self, refs: list[Any]) -> list[Any]:
            return [await ref for ref in refs]

        async def twice(self, refs: list[Any]) -> bool:
            (ref,) = refs
            first, second = await asyncio.gather(ref, ref)
            return bool(first == second == await ref)

        async def error(self, refs: list[Any]) -> str:
            try:
                await refs[0]
            except ValueError as error:
                return str(error)
            return "none"

    waiter = Waiter.remote()
    assert skate.get(waiter.one.remote(3)) == 3
    assert skate.get(waiter.all.remote(100)) == list(range(100))
    assert skate.get(waiter.nested.remote([echo.remote("a"), skate.put("b")])) == ["a", "b"]
    assert skate.get(waiter.twice.remote([echo.remote(1)])) is True
    assert "no luck" in skate.get(waiter.error.remote([fail.remote("no luck")]))


def test_awaiting_does_not_block_the_loop(tmp_path: Path) -> None:
    @skate.remote
    class Waiter:
        async def wait(self, refs: list[Any]) -> Any:
            return await refs[0]

        async def first(self, slow: list[Any]) -> int:
            waiting = [ref.as_future() for ref in [*slow, echo.remote(7)]]
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            return int(done.pop().result())

        async def impatient(self, slow: list[Any]) -> str:
            try:
                await asyncio.wait_for(slow[0].as_future(), 0.01)
            except TimeoutError:
                return "too late"
            return "in time"

        def ping(self) -> str:
            return "pong"

    path = tmp_path / "gate"
    slow = wait_for.remote(str(path))
    waiter = Waiter.remote()
    waiting = [waiter.wait.remote([slow]) for _ in range(10)]
    assert skate.get(waiter.ping.remote(), timeout=10) == "pong"
    assert skate.get(waiter.first.remote([slow]), timeout=10) == 7
    assert skate.get(waiter.impatient.remote([slow]), timeout=10) == "too late"
    path.touch()
    assert skate.get(waiting, timeout=10) == ["opened"] * 10


def test_async_actors_call_each_other_without_deadlock() -> None:
    @skate.remote
    class Peer:
        async def meet(self, others: list[Any], depth: int) -> int:
            if not depth:
                return 1
            return sum(await asyncio.gather(*[o.meet.remote(others, depth - 1) for o in others]))

    peers = [Peer.remote() for _ in range(2)]
    assert skate.get(peers[0].meet.remote(peers, 5), timeout=20) == 32


def test_get_inside_blocks_and_answers() -> None:
    @skate.remote
    class Getter:
        async def get(self) -> int:
            return int(skate.get(echo.remote(1)))

        async def wait(self) -> int:
            return len(skate.wait([echo.remote(1), echo.remote(2)], num_returns=2)[0])

        def put(self) -> Any:
            return skate.get(skate.put([1, 2]))

    getter = Getter.remote()
    answers = [getter.get.remote(), getter.wait.remote(), getter.put.remote()]
    assert skate.get(answers, timeout=10) == [1, 2, [1, 2]]


def test_a_call_that_came_while_get_was_blocking_is_not_forgotten(tmp_path: Path) -> None:
    @skate.remote
    class Getter:
        async def get(self, refs: list[Any]) -> Any:
            return skate.get(refs[0])

        async def ping(self) -> str:
            return "pong"

    path = tmp_path / "gate"
    getter = Getter.remote()
    blocking = getter.get.remote([wait_for.remote(str(path))])
    pings = [getter.ping.remote() for _ in range(5)]
    assert skate.wait([blocking, *pings], timeout=0.05)[0] == []
    path.touch()
    assert skate.get([blocking, *pings], timeout=10) == ["opened", *["pong"] * 5]


def test_calls_read_by_somebody_else_wake_the_loop(tmp_path: Path) -> None:
    @skate.remote
    class Getter:
        def __init__(self) -> None:
            self.event = asyncio.Event()

        async def block_then_wait(self, refs: list[Any]) -> str:
            skate.get(refs[0])  # reads the call of set(), which the loop must not miss
            await self.event.wait()
            return "set"

        async def get_in_thread(self, refs: list[Any]) -> Any:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(None, skate.get, refs[0])

        async def set(self) -> None:
            self.event.set()

    for number in range(5):
        path = tmp_path / str(number)
        getter = Getter.remote()
        waiting = getter.block_then_wait.remote([wait_for.remote(str(path))])
        setting = getter.set.remote()
        path.touch()
        assert skate.get([waiting, setting], timeout=10) == ["set", None]

        late = tmp_path / f"late {number}"
        slow = wait_for.remote(str(late))
        threads = [getter.get_in_thread.remote([slow]) for _ in range(3)]
        for _ in range(50):  # one by one, while threads of the actor read too
            assert skate.get(getter.set.remote(), timeout=10) is None
        late.touch()
        assert skate.get(threads, timeout=10) == ["opened"] * 3


def test_a_blocking_get_lends_the_cpu() -> None:
    @skate.remote(num_cpus=2)
    class Greedy:
        async def work(self) -> list[int]:
            return list(skate.get([echo.remote(1), echo.remote(2)]))

    greedy = Greedy.remote()
    assert skate.get(greedy.work.remote(), timeout=20) == [1, 2]
    assert "CPU" not in skate.available_resources()


def test_sync_methods_run_on_the_loop() -> None:
    @skate.remote
    class Mixed:
        def __init__(self) -> None:
            self.thread = threading.get_ident()

        def sync(self) -> tuple[bool, bool]:
            return asyncio.get_running_loop() is not None, threading.get_ident() == self.thread

        async def asynchronous(self) -> tuple[bool, bool]:
            return asyncio.get_running_loop() is not None, threading.get_ident() == self.thread

    mixed = Mixed.remote()
    assert skate.get([mixed.sync.remote(), mixed.asynchronous.remote()]) == [(True, True)] * 2


def test_what_the_constructor_and_background_tasks_do() -> None:
    @skate.remote
    class Ticker:
        def __init__(self) -> None:
            self.ticks = 0
            self.task = asyncio.get_running_loop().create_task(self.tick())

        async def tick(self) -> None:
            while True:
                self.ticks += 1
                await asyncio.sleep(0.001)

        async def count(self) -> int:
            return self.ticks

    ticker = Ticker.remote()
    until(lambda: skate.get(ticker.count.remote()) > 5)


def test_exceptions_and_several_returns() -> None:
    @skate.remote
    class Odd:
        async def error(self) -> None:
            await asyncio.sleep(0)
            raise KeyError("odd")

        @skate.method(num_returns=2)
        async def two(self) -> tuple[int, int]:
            return 1, 2

        async def lock(self) -> Any:
            return threading.Lock()

        async def cancelled(self) -> None:
            raise asyncio.CancelledError

        async def fine(self) -> str:
            return "fine"

    odd = Odd.remote()
    with pytest.raises(KeyError) as caught:
        skate.get(odd.error.remote())
    assert "Odd.error" in str(caught.value) and "in error" in str(caught.value)
    assert skate.get(odd.two.remote()) == [1, 2]
    with pytest.raises(TypeError, match="lock"):
        skate.get(odd.lock.remote())
    with pytest.raises(exceptions.RayError):
        skate.get(odd.cancelled.remote(), timeout=10)
    assert skate.get(odd.fine.remote(), timeout=10) == "fine"


def test_the_context_belongs_to_the_call() -> None:
    @skate.remote
    class Contextual:
        async def task_id(self) -> tuple[str | None, str | None]:
            before = skate.get_runtime_context().get_task_id()
            await asyncio.sleep(0.001)
            return before, skate.get_runtime_context().get_task_id()

    contextual = Contextual.remote()
    refs = [contextual.task_id.remote() for _ in range(20)]
    assert skate.get(refs) == [(ref.task_id(), ref.task_id()) for ref in refs]


def test_exit_actor_lets_the_others_finish() -> None:
    @skate.remote
    class Leaver:
        def __init__(self) -> None:
            self.left = asyncio.Event()

        async def wait(self) -> str:
            await self.left.wait()
            return "finished"

        async def leave(self) -> None:
            self.left.set()
            skate.actor.exit_actor()

        async def pid(self) -> int:
            return os.getpid()

    leaver = Leaver.remote()
    pid = skate.get(leaver.pid.remote())
    waiting = leaver.wait.remote()
    with pytest.raises(exceptions.ActorDiedError, match="exit_actor"):
        skate.get(leaver.leave.remote(), timeout=10)
    assert skate.get(waiting, timeout=10) == "finished"
    until_gone(pid)
    with pytest.raises(exceptions.ActorDiedError, match="exit_actor"):
        skate.get(leaver.pid.remote(), timeout=10)


def test_the_last_handle_ends_it_after_its_calls() -> None:
    @skate.remote
    class Sleeper:
        async def pid(self) -> int:
            await asyncio.sleep(0.05)
            return os.getpid()

    sleeper = Sleeper.remote()
    answers = [sleeper.pid.remote() for _ in range(10)]
    del sleeper
    (pid,) = set(skate.get(answers, timeout=10))
    until_gone(pid)


def test_kill_ends_what_is_under_way() -> None:
    gate = Gate.remote()
    pid = skate.get(gate.pid.remote())
    answers = [gate.enter.remote() for _ in range(5)]
    until(lambda: skate.get(gate.count.remote()) == 5)
    skate.kill(gate)
    for ref in answers:
        with pytest.raises(exceptions.ActorDiedError):
            skate.get(ref, timeout=10)
    until_gone(pid)


def test_a_crash_fails_all_that_is_under_way() -> None:
    @skate.remote
    class Fragile:
        async def wait(self) -> None:
            await asyncio.sleep(30)

        async def crash(self) -> None:
            os._exit(9)

    fragile = Fragile.remote()
    refs = [fragile.wait.remote(), fragile.wait.remote(), fragile.crash.remote()]
    for ref in refs:
        with pytest.raises(exceptions.ActorDiedError, match="code 9"):
            skate.get(ref, timeout=10)


def test_the_driver_awaits_refs_too(tmp_path: Path) -> None:
    gate = Gate.remote()
    path = tmp_path / "gate"

    async def main() -> list[Any]:
        slow = asyncio.ensure_future(wait_for.remote(str(path)).as_future())
        entered = [gate.enter.remote(number) for number in range(50)]
        await gate.unlock.remote()
        answers = await asyncio.gather(*entered)
        path.touch()
        with pytest.raises(ValueError, match="awaited"):
            await fail.remote("awaited")
        return [*answers, await slow]

    assert asyncio.run(main()) == [*range(50), "opened"]


def test_concurrent_futures_of_refs(tmp_path: Path) -> None:
    path = tmp_path / "gate"
    future = wait_for.remote(str(path)).future()
    assert not future.done()
    path.touch()
    assert future.result(timeout=10) == "opened"
    with pytest.raises(ValueError, match="future"):
        fail.remote("future").future().result(timeout=10)
    called = threading.Event()
    echo.remote(1).future().add_done_callback(lambda _: called.set())
    assert called.wait(10)


def test_large_values_and_concurrency() -> None:
    np = pytest.importorskip("numpy")

    @skate.remote
    class Arrays:
        async def double(self, array: Any) -> Any:
            await asyncio.sleep(0)
            return array * 2

    arrays = Arrays.remote()
    refs = [arrays.double.remote(np.full(100_000, float(n))) for n in range(10)]
    for number, value in enumerate(skate.get(refs, timeout=20)):
        assert value[0] == 2 * number and not value.flags.writeable
