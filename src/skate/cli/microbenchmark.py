"""``skate microbenchmark``: the speed of the basic operations on this machine.

The cases have the names of Ray's, and do as many operations at a time or, where that would take
seconds, fewer; a result is a rate, so the two can be compared. Each case is prepared, runs once
unmeasured, and is then repeated for a bounded time.

Workers import this module, as its remote functions and classes run there.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import click

import skate

BATCH = 1_000
SMALL_BATCH = 100
CLIENTS = 4
LARGE_OBJECT_BYTES = 100 * 1024 * 1024
LARGE_PUTS_PER_CLIENT = 3
REFS_IN_AN_OBJECT = 10_000

Operation = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One measurement: ``prepare`` returns the operation to repeat, worth ``scale`` units."""

    name: str
    prepare: Callable[[], Operation]
    scale: float = 1.0
    unit: str = "per second"
    needs_numpy: bool = False


@dataclass(frozen=True)
class Result:
    """The rates of one case, in ``unit``: one for each round, and their summary."""

    name: str
    unit: str
    median: float
    spread: float
    rounds: list[float]


def run_microbenchmark(
    *,
    seconds: float = 1.0,
    rounds: int = 3,
    name_filter: str = "",
    as_json: bool = False,
    write: Callable[[str], object] = click.echo,
) -> int:
    """Measure every case whose name contains ``name_filter`` and write the results.

    Each case takes about ``seconds``, split into ``rounds``, and at least one repetition a round.
    It writes the median of the rounds and half the distance between the fastest and the slowest.
    The exit code is 1 if no case has such a name.
    """
    cases = [case for case in make_cases() if name_filter.lower() in case.name.lower()]
    if not cases:
        click.echo(f"no case has {name_filter!r} in its name", err=True)
        return 1
    started_here = not skate.is_initialized()
    if started_here:
        skate.init()
    try:
        results = []
        for case in cases:
            if case.needs_numpy and importlib.util.find_spec("numpy") is None:
                click.echo(f"{case.name}: left out, as NumPy is not installed", err=True)
                continue
            results.append(measure(case, seconds, rounds))
            if not as_json:
                write(as_line(results[-1]))
    finally:
        if started_here:
            skate.shutdown()
    if as_json:
        write(json.dumps([asdict(result) for result in results], indent=2))
    return 0


def measure(case: Case, seconds: float, rounds: int) -> Result:
    """Prepare a case, run it once to warm up, and measure it for ``rounds`` equal times."""
    operation = case.prepare()
    operation()
    rates = [case.scale * _rate(operation, seconds / rounds) for _ in range(rounds)]
    spread = (max(rates) - min(rates)) / 2
    return Result(case.name, case.unit, statistics.median(rates), spread, rates)


def _rate(operation: Operation, seconds: float) -> float:
    """Repeat an operation for ``seconds``, at least once; return the repetitions a second."""
    count = 0
    begin = time.perf_counter()
    while True:
        operation()
        count += 1
        elapsed = time.perf_counter() - begin
        if elapsed >= seconds:
            return count / elapsed


def as_line(result: Result) -> str:
    """Return a result as one line of text."""
    digits = 0 if result.median >= 100 else 2
    rate = f"{result.median:,.{digits}f} +- {result.spread:,.{digits}f}"
    return f"{result.name:<52} {result.unit:>12} {rate:>22}"


# Tasks and actors, which run in workers.


@skate.remote
def small_value() -> bytes:
    """Return next to nothing."""
    return b"ok"


@skate.remote
def put_small_values(count: int) -> None:
    """Put small objects, one after the other."""
    for _ in range(count):
        skate.put(0)


@skate.remote
def put_large_arrays(count: int) -> None:
    """Put large arrays, one after the other."""
    array = _large_array()
    for _ in range(count):
        skate.put(array)


@skate.remote
def object_of_refs(count: int) -> list[Any]:
    """Return one object that contains references to many others."""
    return [skate.put(1) for _ in range(count)]


@skate.remote
def call_in_turn(actors: list[Any], count: int) -> None:
    """Call some actors in turn and wait for all the answers."""
    skate.get([actors[number % len(actors)].small_value.remote() for number in range(count)])


class Actor:
    """Answers with next to nothing, or makes tasks do so."""

    def small_value(self) -> bytes:
        """Return next to nothing."""
        return b"ok"

    def small_value_arg(self, value: object) -> bytes:
        """Take an argument and return next to nothing."""
        return b"ok"

    def run_tasks(self, count: int) -> None:
        """Submit small tasks and wait for all of them."""
        skate.get([small_value.remote() for _ in range(count)])


class AsyncActor:
    """Answers with next to nothing from an event loop."""

    async def small_value(self) -> bytes:
        """Return next to nothing."""
        return b"ok"

    async def small_value_arg(self, value: object) -> bytes:
        """Let other calls run, then return next to nothing."""
        await asyncio.sleep(0)
        return b"ok"


class Client:
    """Calls other actors, so that the driver is not the bottleneck."""

    def __init__(self, servers: list[Any]) -> None:
        self.servers = servers

    def call_each(self, count: int) -> None:
        """Call every server ``count`` times and wait for all the answers."""
        for server in self.servers:
            skate.get([server.small_value.remote() for _ in range(count)])

    def call_each_with_arg(self, count: int) -> None:
        """Call every server ``count`` times with a reference and wait for all the answers."""
        value = skate.put(0)
        for server in self.servers:
            skate.get([server.small_value_arg.remote(value) for _ in range(count)])


RemoteActor: Any = skate.remote(Actor)
RemoteAsyncActor: Any = skate.remote(AsyncActor)
RemoteClient: Any = skate.remote(Client)


# The cases. The functions below prepare a case and return the operation to repeat.


def make_cases() -> list[Case]:
    """Return every case, in the order in which they are measured."""
    return [*_object_cases(), *_task_cases(), *_actor_cases(), *_async_actor_cases()]


def _object_cases() -> Iterator[Case]:
    gigabytes = LARGE_OBJECT_BYTES / 1e9
    many_gigabytes = gigabytes * CLIENTS * LARGE_PUTS_PER_CLIENT
    gb = "GB per second"
    yield Case("single client get calls (Plasma Store)", _get_small)
    yield Case("single client put calls (Plasma Store)", lambda: lambda: skate.put(0))
    yield Case("multi client put calls (Plasma Store)", _put_from_tasks, 10 * SMALL_BATCH)
    yield Case("single client put gigabytes", _put_large, gigabytes, gb, True)
    yield Case("multi client put gigabytes", _put_large_from_tasks, many_gigabytes, gb, True)
    yield Case("single client get object containing 10k refs", _get_object_of_refs)


def _task_cases() -> Iterator[Case]:
    yield Case("single client tasks and get batch", lambda: _run_batch)
    yield Case("single client wait 1k refs", lambda: _wait_batch)
    yield Case("single client tasks sync", lambda: lambda: skate.get(small_value.remote()))
    yield Case("single client tasks async", lambda: _run_batch, BATCH)
    yield Case("multi client tasks async", _run_tasks_from_actors, CLIENTS * BATCH)


def _actor_cases() -> Iterator[Case]:
    def concurrent() -> Any:
        return RemoteActor.options(max_concurrency=16).remote()

    count = _server_count()
    yield Case("1:1 actor calls sync", lambda: _call_sync(RemoteActor.remote()))
    yield Case("1:1 actor calls async", lambda: _call_async(RemoteActor.remote()), BATCH)
    yield Case("1:1 actor calls concurrent", lambda: _call_async(concurrent()), BATCH)
    yield Case("1:n actor calls async", lambda: _call_from_one(RemoteActor), count * BATCH)
    yield Case("n:n actor calls async", lambda: _call_from_tasks(RemoteActor), CLIENTS * BATCH)
    yield Case(
        "n:n actor calls with arg async", lambda: _call_from_clients(RemoteActor), count * BATCH
    )


def _async_actor_cases() -> Iterator[Case]:
    count = _server_count()
    yield Case("1:1 async-actor calls sync", lambda: _call_sync(RemoteAsyncActor.remote()))
    yield Case("1:1 async-actor calls async", lambda: _call_async(RemoteAsyncActor.remote()), BATCH)
    yield Case(
        "1:1 async-actor calls with args async",
        lambda: _call_async_with_args(RemoteAsyncActor.remote()),
        BATCH,
    )
    yield Case(
        "1:n async-actor calls async", lambda: _call_from_one(RemoteAsyncActor), count * BATCH
    )
    yield Case(
        "n:n async-actor calls async", lambda: _call_from_tasks(RemoteAsyncActor), CLIENTS * BATCH
    )


def _server_count() -> int:
    """Return the number of actors in the 1:n and n:n cases: half the number of CPUs."""
    return max(1, (os.cpu_count() or 1) // 2)


def _large_array() -> Any:
    import numpy as np

    return np.zeros(LARGE_OBJECT_BYTES // 8, dtype=np.int64)


def _get_small() -> Operation:
    value = skate.put(0)
    return lambda: skate.get(value)


def _put_from_tasks() -> Operation:
    return lambda: skate.get([put_small_values.remote(SMALL_BATCH) for _ in range(10)])


def _put_large() -> Operation:
    array = _large_array()
    return lambda: skate.put(array)


def _put_large_from_tasks() -> Operation:
    return lambda: skate.get(
        [put_large_arrays.remote(LARGE_PUTS_PER_CLIENT) for _ in range(CLIENTS)]
    )


def _get_object_of_refs() -> Operation:
    container = object_of_refs.remote(REFS_IN_AN_OBJECT)
    return lambda: skate.get(container)


def _run_batch() -> None:
    skate.get([small_value.remote() for _ in range(BATCH)])


def _wait_batch() -> None:
    pending = [small_value.remote() for _ in range(BATCH)]
    while pending:
        _, pending = skate.wait(pending)


def _run_tasks_from_actors() -> Operation:
    actors = [RemoteActor.remote() for _ in range(CLIENTS)]
    return lambda: skate.get([actor.run_tasks.remote(BATCH) for actor in actors])


def _call_sync(actor: Any) -> Operation:
    return lambda: skate.get(actor.small_value.remote())


def _call_async(actor: Any) -> Operation:
    return lambda: skate.get([actor.small_value.remote() for _ in range(BATCH)])


def _call_async_with_args(actor: Any) -> Operation:
    return lambda: skate.get([actor.small_value_arg.remote(n) for n in range(BATCH)])


def _call_from_one(actor_class: Any) -> Operation:
    client = RemoteClient.remote([actor_class.remote() for _ in range(_server_count())])
    return lambda: skate.get(client.call_each.remote(BATCH))


def _call_from_tasks(actor_class: Any) -> Operation:
    actors = [actor_class.remote() for _ in range(_server_count())]
    return lambda: skate.get([call_in_turn.remote(actors, BATCH) for _ in range(CLIENTS)])


def _call_from_clients(actor_class: Any) -> Operation:
    clients = [RemoteClient.remote([actor_class.remote()]) for _ in range(_server_count())]
    return lambda: skate.get([client.call_each_with_arg.remote(BATCH) for client in clients])
