"""Actors and their callers on different nodes: order, handles, restarts, and the end of each."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import skate
from skate.exceptions import ActorDiedError, RayActorError
from tests.cluster.many_nodes import (
    MB,
    Counter,
    Trio,
    assert_back_to,
    assert_idle,
    counts,
    get,
    node_id,
    on,
    size_of,
    wait_for,
    waiting_at,
)
from tests.conftest import eventually


@skate.remote(num_cpus=0)
class Register:
    """Writes down who has called with what."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def note(self, who: str, number: int, _: Any = None) -> int:
        self.seen.append((who, number))
        return len(self.seen)

    def all_seen(self) -> list[tuple[str, int]]:
        return self.seen


@skate.remote(num_cpus=0)
def call_often(register: Any, who: str, count: int) -> list[int]:
    return skate.get([register.note.remote(who, number) for number in range(count)])


def test_calls_of_each_caller_are_in_order_whichever_node_it_is_on(trio: Trio) -> None:
    register = Register.options(**on("a")).remote()
    callers = [
        call_often.options(**on(name)).remote(register, f"{name}{copy}", 200)
        for name in ("head", "a", "b")
        for copy in range(2)
    ]
    mine = get([register.note.remote("driver", number) for number in range(200)])
    assert mine == sorted(mine)
    for numbers in get(callers):
        assert numbers == sorted(numbers)
    seen = get(register.all_seen.remote())
    assert len(seen) == 7 * 200
    for who in {name for name, _ in seen}:
        assert [number for name, number in seen if name == who] == list(range(200))


def test_a_call_that_waits_for_its_argument_keeps_its_place(trio: Trio, tmp_path: Path) -> None:
    register = Register.options(**on("a")).remote()
    go = tmp_path / "go"
    slow = wait_for.options(**on("b")).remote(str(go), 0)
    first = register.note.remote("driver", 0, slow)
    rest = [register.note.remote("driver", number, skate.put(bytes(MB))) for number in range(1, 4)]
    assert skate.wait(rest, timeout=0.3)[0] == []
    go.touch()
    assert get([first, *rest]) == [1, 2, 3, 4]


def test_handles_passed_on_are_counted_on_every_node(trio: Trio) -> None:
    @skate.remote(num_cpus=0)
    class Friend:
        def __init__(self, other: Any) -> None:
            self.other = other

        def ask(self) -> int:
            return skate.get(self.other.increment.remote())

        def forget(self) -> None:
            self.other = None

    counter = Counter.options(num_cpus=0, **on("a")).remote()
    friends = [Friend.options(**on(name)).remote(counter) for name in ("head", "b")]
    pid = get(counter.pid.remote())
    del counter
    assert get([friend.ask.remote() for friend in friends]) in ([1, 2], [2, 1])
    get(friends[0].forget.remote())
    assert get(friends[1].ask.remote()) == 3
    get(friends[1].forget.remote())
    eventually(lambda: not _exists(pid), "no handle is left, the actor ends")


def _exists(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_an_actor_created_by_a_task_on_a_third_node(trio: Trio) -> None:
    @skate.remote
    def create() -> Any:
        return Counter.options(num_cpus=0, **on("b")).remote(10)

    counter = get(create.options(**on("a")).remote())
    assert get(counter.node.remote()) == trio.b.node_id
    assert get([counter.increment.remote() for _ in range(50)]) == list(range(11, 61))


def test_large_arguments_and_results_of_methods(trio: Trio) -> None:
    @skate.remote(num_cpus=0)
    class Doubler:
        def double(self, data: bytes) -> bytes:
            return data + data

    before = counts(trio.nodes)
    doubler = Doubler.options(**on("a")).remote()
    once = doubler.double.remote(skate.put(bytes(2 * MB)))
    twice = doubler.double.remote(once)
    assert get(size_of.options(**on("b")).remote(twice)) == 8 * MB
    assert len(get(twice)) == 8 * MB
    del doubler, once, twice
    assert_back_to(before, trio.nodes)


def test_named_actors_are_found_from_every_node(trio: Trio) -> None:
    @skate.remote(num_cpus=0)
    def count(name: str) -> int:
        return skate.get(skate.get_actor(name).increment.remote())

    counter = Counter.options(num_cpus=0, name="tally", **on("b")).remote()
    assert get(counter.increment.remote()) == 1
    for expected, name in enumerate(("head", "a", "b"), start=2):
        assert get(count.options(**on(name)).remote("tally")) == expected
    with pytest.raises(ValueError, match="tally"):
        get(Counter.options(num_cpus=0, name="tally").remote().increment.remote())
    skate.kill(counter)
    eventually(lambda: not _is_named("tally"), "the name of a killed actor is free")


def _is_named(name: str) -> bool:
    try:
        skate.get_actor(name)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("killer", ["driver", "task on a third node"])
def test_kill_ends_it_wherever_it_is(trio: Trio, killer: str) -> None:
    @skate.remote(num_cpus=0)
    def kill(handle: Any) -> None:
        skate.kill(handle)

    counter = Counter.options(**on("a")).remote()
    pid = get(counter.pid.remote())
    if killer == "driver":
        skate.kill(counter)
    else:
        get(kill.options(**on("b")).remote(counter))
    eventually(lambda: not _exists(pid), "its process has ended")
    with pytest.raises(ActorDiedError):
        get(counter.increment.remote())


def test_a_killed_worker_restarts_its_actor_in_place(trio: Trio) -> None:
    counter = Counter.options(max_restarts=1, max_task_retries=-1, **on("a")).remote(5)
    assert get(counter.increment.remote()) == 6
    pid = get(counter.pid.remote())
    os.kill(pid, signal.SIGKILL)
    # From two nodes, calls wait for the new life.
    there = call_often_counter.options(**on("b")).remote(counter)
    assert get(counter.increment.remote()) >= 6
    assert len(get(there)) == 10
    assert get(counter.node.remote()) == trio.a.node_id
    again = get(counter.pid.remote())
    assert again != pid
    os.kill(again, signal.SIGKILL)
    with pytest.raises(ActorDiedError):
        get(counter.increment.remote())


@skate.remote(num_cpus=0)
def call_often_counter(counter: Any) -> list[int]:
    return skate.get([counter.increment.remote() for _ in range(10)])


def test_calls_under_way_when_the_worker_is_killed(trio: Trio, tmp_path: Path) -> None:
    @skate.remote(num_cpus=0)
    class Slow:
        def wait_for(self, path: str) -> str:
            while not os.path.exists(path):
                Path(f"{path}.{os.getpid()}").touch()
                time.sleep(0.005)
            return node_id()

    for retries in (0, 1):
        go = tmp_path / f"go{retries}"
        slow = Slow.options(max_restarts=1, max_task_retries=retries, **on("a")).remote()
        ref = slow.wait_for.remote(str(go))
        eventually(lambda go=go: waiting_at(go), "the call runs")
        (pid,) = waiting_at(go)
        os.kill(pid, signal.SIGKILL)
        if retries:
            eventually(lambda go=go: len(waiting_at(go)) == 2, "it runs again")
            go.touch()
            assert get(ref) == trio.a.node_id
        else:
            with pytest.raises(RayActorError):
                get(ref)
            go.touch()
            assert get(slow.wait_for.remote(str(go))) == trio.a.node_id
        del slow


def test_an_error_in_the_constructor_elsewhere_reaches_every_caller(trio: Trio) -> None:
    @skate.remote(num_cpus=0)
    class Broken:
        def __init__(self) -> None:
            raise LookupError("no such thing")

        def method(self) -> None: ...

    @skate.remote(num_cpus=0)
    def call(handle: Any) -> str:
        try:
            skate.get(handle.method.remote())
        except ActorDiedError as error:
            return str(error)
        return "it lives"

    broken = Broken.options(**on("a")).remote()
    told = call.options(**on("b")).remote(broken)
    with pytest.raises(ActorDiedError, match="no such thing"):
        get(broken.method.remote())
    assert "no such thing" in get(told)


def test_an_async_actor_elsewhere_serves_many_at_once(trio: Trio) -> None:
    @skate.remote(num_cpus=0)
    class Gate:
        def __init__(self) -> None:
            import asyncio

            self.event = asyncio.Event()

        async def wait(self) -> int:
            await self.event.wait()
            return 1

        async def open(self) -> None:
            self.event.set()

    gate = Gate.options(**on("a")).remote()
    waiting = [gate.wait.remote() for _ in range(100)]
    get(gate.open.remote())
    assert sum(get(waiting)) == 100


def test_actors_spread_over_the_nodes_and_end_with_their_handles(trio: Trio) -> None:
    actors = [
        Counter.options(num_cpus=0.5, scheduling_strategy="SPREAD").remote() for _ in range(6)
    ]
    places = get([actor.node.remote() for actor in actors])
    assert {places.count(node.node_id) for node in trio.nodes} == {2}
    pids = get([actor.pid.remote() for actor in actors])
    del actors
    eventually(lambda: not any(_exists(pid) for pid in pids), "all have ended")
    assert_idle(trio.nodes)
