"""What of the operations Dask distributed can do, with a local cluster of its default make.

Left out: ``wait`` one at a time (its own way is ``as_completed``), and the creation of actors (they
share the workers' processes).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks import rows
from benchmarks.measuring import (
    Measurement,
    Sizes,
    arguments,
    idle_load,
    measure,
    rate,
    report,
    sizes_of,
)


def nothing() -> None:
    """Take nothing, return nothing."""


def same(value: object) -> object:
    """Return the argument."""
    return value


def outer() -> None:
    """Call a task and wait for it; the thread's place goes to others meanwhile."""
    from distributed import worker_client

    with worker_client() as client:
        client.submit(nothing, pure=False).result()


class Actor:
    """Answers with next to nothing."""

    def nothing(self) -> None:
        """Take nothing, return nothing."""


class AsyncActor:
    """Answers with nothing, from an event loop."""

    async def nothing(self) -> None:
        """Take nothing, return nothing."""


class Operations:
    """All operations with one Dask client. Nothing is ``pure``: that would run it once only."""

    def __init__(self, client: Any, sizes: Sizes) -> None:
        self.client = client
        self.sizes = sizes

    def table(self) -> list[tuple[tuple[str, ...], Measurement]]:
        """(the rows that it gives, what to run), in the order to run them."""

        def one(title: str, value: Callable[[], float]) -> tuple[tuple[str, ...], Measurement]:
            return (title,), lambda: {title: value()}

        def idle() -> dict[str, float]:
            cpu_percent, memory_mib = idle_load(self.sizes)
            return {rows.IDLE_CPU: cpu_percent, rows.IDLE_MEMORY: memory_mib}

        return [
            ((rows.IDLE_CPU, rows.IDLE_MEMORY), idle),
            one(rows.TASK_SYNC, lambda: rate(self.round_trip, self.sizes.seconds)),
            one(rows.NESTED, self.nested),
            one(rows.TASK_BATCH, lambda: self.task_batch(nothing)),
            one(rows.TASK_BATCH_ARGUMENT, lambda: self.task_batch(same)),
            one(rows.CHAIN, self.chain),
            one(rows.ACTOR_SYNC, lambda: self.calls_sync(Actor)),
            one(rows.ACTOR_BATCH, lambda: self.calls_batch(Actor)),
            one(rows.ASYNC_ACTOR_SYNC, lambda: self.calls_sync(AsyncActor)),
            one(rows.ASYNC_ACTOR_BATCH, lambda: self.calls_batch(AsyncActor)),
            one(rows.PUT_SMALL, lambda: rate(lambda: self.put(0), self.sizes.seconds)),
            one(rows.GET_SMALL, lambda: rate(self.put(0).result, self.sizes.seconds)),
            one(rows.PUT_LARGE, self.put_large),
            one(rows.GET_LARGE, self.get_large),
        ]

    def submit(self, function: Callable[..., object], *values: object) -> Any:
        """Submit a task."""
        return self.client.submit(function, *values, pure=False)

    def put(self, value: object) -> Any:
        """Store a value."""
        return self.client.scatter(value, hash=False)

    def round_trip(self) -> None:
        """One task, there and back."""
        self.submit(nothing).result()

    def nested(self) -> float:
        """Tasks a second that each call another and wait for it, one by one."""
        return rate(lambda: self.submit(outer).result(), self.sizes.seconds)

    def task_batch(self, function: Callable[..., object]) -> float:
        """Tasks a second, many submitted before the first result is asked for."""
        batch = self.sizes.batch
        values: list[tuple[object, ...]] = [
            () if function is nothing else (n,) for n in range(batch)
        ]

        def one_batch() -> None:
            self.client.gather([self.submit(function, *value) for value in values])

        return batch * rate(one_batch, self.sizes.seconds)

    def chain(self) -> float:
        """Tasks a second, where each takes the result of the one before."""

        def one_chain() -> None:
            link: Any = 0
            for _ in range(self.sizes.chain):
                link = self.submit(same, link)
            link.result()

        return self.sizes.chain * rate(one_chain, self.sizes.seconds)

    def calls_sync(self, actor_class: type) -> float:
        """Calls a second, the next one made when the last one's answer is here."""
        actor = self.client.submit(actor_class, actor=True).result()
        return rate(lambda: actor.nothing().result(), self.sizes.seconds)

    def calls_batch(self, actor_class: type) -> float:
        """Calls a second, many made before the first answer is asked for."""
        actor = self.client.submit(actor_class, actor=True).result()
        batch = self.sizes.batch

        def one_batch() -> None:
            pending = [actor.nothing() for _ in range(batch)]
            [call.result() for call in pending]

        return batch * rate(one_batch, self.sizes.seconds)

    def put_large(self) -> float:
        """GB a second to a worker."""
        array = self._large_array()
        return float(array.nbytes) / 1e9 * rate(lambda: self.put(array), self.sizes.large_put_s)

    def get_large(self) -> float:
        """Gets a second of one large array."""
        return rate(self.put(self._large_array()).result, self.sizes.seconds)

    def _large_array(self) -> Any:
        import numpy as np

        return np.arange(self.sizes.large_bytes // 8, dtype=np.float64)


def run(sizes: Sizes, only: str) -> dict[str, float]:
    """Measure with a local cluster."""
    from distributed import Client  # type: ignore[import-not-found,unused-ignore]

    begin = time.perf_counter()
    with Client(dashboard_address=None) as client:
        operations = Operations(client, sizes)
        operations.round_trip()
        results = {rows.INIT: time.perf_counter() - begin}
        return results | measure(operations.table(), only)


def main() -> None:
    """Entry of the child."""
    options = arguments(__doc__ or "").parse_args()
    report({rows.DASK: run(sizes_of(options), options.only)})


if __name__ == "__main__":
    main()
