"""The operations, written once against Ray's API: ``--api skate`` and ``--api ray`` run the same.

``compare`` starts it as a child for each system and round; it prints one line of JSON. The
functions and classes in here run in workers.
"""

from __future__ import annotations

import contextlib
import importlib
import mmap
import os
import time
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

from benchmarks import rows
from benchmarks.measuring import (
    Measurement,
    Sizes,
    arguments,
    idle_load,
    measure,
    paired_rates,
    rate,
    report,
    sizes_of,
    unique_memory_mib,
    wait_until_gone,
)


def nothing() -> None:
    """Take nothing, return nothing."""


def same(value: object) -> object:
    """Return the argument."""
    return value


class Actor:
    """Answers with next to nothing."""

    def nothing(self) -> None:
        """Take nothing, return nothing."""

    def pid(self) -> int:
        """Return the process that the actor lives in."""
        return os.getpid()


class AsyncActor:
    """Answers with nothing, from an event loop."""

    async def nothing(self) -> None:
        """Take nothing, return nothing."""


class Operations:
    """All operations with one ``api``, a module that speaks Ray's API. ``init`` comes first."""

    def __init__(self, api: ModuleType, sizes: Sizes) -> None:
        self.api: Any = api
        self.sizes = sizes
        self.nothing = self.api.remote(nothing)
        self.same = self.api.remote(same)
        self.copy_rate = 0.0  # of PUT_LARGE's payload, in GB/s, measured beside it

    def table(self) -> list[tuple[tuple[str, ...], Measurement]]:
        """(the rows that it gives, what to run), in the order to run them."""

        def one(title: str, value: Callable[[], float]) -> tuple[tuple[str, ...], Measurement]:
            return (title,), lambda: {title: value()}

        return [
            # Idle comes before anything that makes more workers or imports NumPy here.
            ((rows.IDLE_CPU, rows.IDLE_MEMORY), self.idle),
            one(rows.TASK_SYNC, self.task_sync),
            one(rows.NESTED, self.nested),
            one(rows.TASK_BATCH, self.task_batch),
            one(rows.TASK_BATCH_ARGUMENT, self.task_batch_argument),
            one(rows.CHAIN, self.chain),
            one(rows.ACTOR_SYNC, lambda: self.calls_sync(Actor)),
            one(rows.ACTOR_BATCH, lambda: self.calls_batch(Actor)),
            one(rows.ASYNC_ACTOR_SYNC, lambda: self.calls_sync(AsyncActor)),
            one(rows.ASYNC_ACTOR_BATCH, lambda: self.calls_batch(AsyncActor)),
            one(rows.PUT_SMALL, self.put_small),
            one(rows.GET_SMALL, self.get_small),
            one(rows.WAIT, self.wait),
            one(rows.PUT_LARGE, self.put_large),
            one(rows.GET_LARGE, self.get_large),
            one(rows.READ_LARGE, self.read_large),
            ((rows.CREATE_ACTORS, rows.ACTOR_MEMORY), self.create_actors),
        ]

    # ------------------------------------------------------------------ the session

    def init(self) -> float:
        """Seconds from ``init()`` to the first result of a task."""
        begin = time.perf_counter()
        self.api.init()
        self.round_trip()
        return time.perf_counter() - begin

    def idle(self) -> Mapping[str, float]:
        """What a session costs that does nothing, with this process."""
        cpu_percent, memory_mib = idle_load(self.sizes)
        return {rows.IDLE_CPU: cpu_percent, rows.IDLE_MEMORY: memory_mib}

    def round_trip(self) -> None:
        """One task, there and back: what was sent before it has been taken in by then."""
        self.api.get(self.nothing.remote())

    # ------------------------------------------------------------------ tasks

    def task_sync(self) -> float:
        """Tasks a second, the next one submitted when the last one's result is here."""
        return rate(self.round_trip, self.sizes.seconds)

    def nested(self) -> float:
        """Tasks a second that each call another and wait for it, one by one."""
        api, inner = self.api, self.nothing

        def outer() -> None:
            api.get(inner.remote())

        remote = api.remote(outer).remote
        return rate(lambda: api.get(remote()), self.sizes.seconds)

    def task_batch(self) -> float:
        """Tasks a second, many submitted before the first result is asked for."""
        get, remote, batch = self.api.get, self.nothing.remote, self.sizes.batch
        return batch * rate(lambda: get([remote() for _ in range(batch)]), self.sizes.seconds)

    def task_batch_argument(self) -> float:
        """The same with an int that goes there and back."""
        get, remote, batch = self.api.get, self.same.remote, self.sizes.batch
        return batch * rate(lambda: get([remote(n) for n in range(batch)]), self.sizes.seconds)

    def chain(self) -> float:
        """Tasks a second, where each takes the result of the one before."""
        remote = self.same.remote

        def one_chain() -> None:
            link = 0
            for _ in range(self.sizes.chain):
                link = remote(link)
            self.api.get(link)

        return self.sizes.chain * rate(one_chain, self.sizes.seconds)

    def wait(self) -> float:
        """Results a second, taken as they come, one at a time."""

        def one_batch() -> None:
            pending = [self.nothing.remote() for _ in range(self.sizes.batch)]
            while pending:
                _, pending = self.api.wait(pending)

        return self.sizes.batch * rate(one_batch, self.sizes.seconds)

    # ------------------------------------------------------------------ actors

    def calls_sync(self, actor_class: type) -> float:
        """Calls a second, the next one made when the last one's answer is here."""
        actor = self.api.remote(actor_class).remote()
        get, call = self.api.get, actor.nothing.remote
        return rate(lambda: get(call()), self.sizes.seconds)

    def calls_batch(self, actor_class: type) -> float:
        """Calls a second, many made before the first answer is asked for."""
        actor = self.api.remote(actor_class).remote()
        get, call, batch = self.api.get, actor.nothing.remote, self.sizes.batch
        return batch * rate(lambda: get([call() for _ in range(batch)]), self.sizes.seconds)

    def create_actors(self) -> Mapping[str, float]:
        """Actors a second until each has answered; and the largest one's unique memory."""
        count, spent, memory_mib = 0, 0.0, 0.0
        remote_class = self.api.remote(Actor)
        while spent < self.sizes.seconds:
            begin = time.perf_counter()
            actors = [remote_class.remote() for _ in range(self.sizes.actors)]
            pids = self.api.get([actor.pid.remote() for actor in actors])
            spent += time.perf_counter() - begin
            count += len(actors)
            memory_mib = max(memory_mib, *map(unique_memory_mib, pids))
            del actors
            wait_until_gone(pids)
        return {rows.CREATE_ACTORS: count / spent, rows.ACTOR_MEMORY: memory_mib}

    # ------------------------------------------------------------------ objects

    def put_small(self) -> float:
        """Puts a second, until the system has taken in all of them."""
        put = self.api.put
        return rate(lambda: put(0), self.sizes.seconds, finish=self.round_trip)

    def get_small(self) -> float:
        """Gets a second of one small object."""
        get, ref = self.api.get, self.api.put(0)
        return rate(lambda: get(ref), self.sizes.seconds)

    def put_large(self) -> float:
        """GB a second into memory that was used before; beside it, a copy without any system."""
        array = self._large_array()
        with _plain_copy(array) as copy:
            puts, copies = paired_rates(lambda: self.api.put(array), copy, self.sizes.large_put_s)
        self.copy_rate = copies * array.nbytes / 1e9
        return puts * float(array.nbytes) / 1e9

    def measure_copy(self) -> None:
        """A copy alone: the floor of gets, where puts were not asked for."""
        array = self._large_array()
        with _plain_copy(array) as copy:
            self.copy_rate = rate(copy, self.sizes.seconds) * array.nbytes / 1e9

    def get_large(self) -> float:
        """Gets a second of one large array: a view, its contents left alone."""
        get, ref = self.api.get, self.api.put(self._large_array())
        return rate(lambda: get(ref), self.sizes.seconds)

    def read_large(self) -> float:
        """The same, with every element read once."""
        get, ref = self.api.get, self.api.put(self._large_array())
        return rate(lambda: get(ref).sum(), self.sizes.seconds)

    def _large_array(self) -> Any:
        import numpy as np

        # Not zeros: those would all be one page of the machine's memory, and stay in its cache.
        return np.arange(self.sizes.large_bytes // 8, dtype=np.float64)


@contextlib.contextmanager
def _plain_copy(array: Any) -> Iterator[Callable[[], None]]:
    """A copy of an array into a shared mapping, which is warm after the first one."""
    payload = memoryview(array).cast("B")
    with mmap.mmap(-1, len(payload)) as mapping, memoryview(mapping) as target:

        def copy() -> None:
            target[:] = payload

        yield copy


def run(api: ModuleType, sizes: Sizes, only: str = "") -> dict[str, dict[str, float]]:
    """Measure everything in a session of its own: system, row, value."""
    operations = Operations(api, sizes)
    results = {rows.INIT: operations.init()}
    try:
        results |= measure(operations.table(), only)
        if not operations.copy_rate and results.keys() & {rows.GET_LARGE, rows.READ_LARGE}:
            operations.measure_copy()
    finally:
        api.shutdown()
    copies = {rows.PUT_LARGE: operations.copy_rate} if operations.copy_rate else {}
    return {api.__name__: results, rows.COPY: copies}


def main() -> None:
    """Entry of the child."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--api", choices=(rows.SKATE, rows.RAY), default=rows.SKATE)
    options = parser.parse_args()
    report(run(importlib.import_module(options.api), sizes_of(options), options.only))


if __name__ == "__main__":
    main()
