"""What of the operations ``multiprocessing.Pool`` can do: tasks without dependencies."""

from __future__ import annotations

import multiprocessing
import os
import time

from benchmarks import rows
from benchmarks.measuring import Sizes, arguments, measure, rate, report, sizes_of


def nothing() -> None:
    """Take nothing, return nothing."""


def same(value: object) -> object:
    """Return the argument."""
    return value


def run(sizes: Sizes, only: str) -> dict[str, float]:
    """Measure with a pool of as many processes as there are CPUs."""
    batch = sizes.batch
    begin = time.perf_counter()
    with multiprocessing.Pool(os.cpu_count()) as pool:
        pool.apply(nothing)
        results = {rows.INIT: time.perf_counter() - begin}

        def task_batch() -> None:
            pending = [pool.apply_async(nothing) for _ in range(batch)]
            [result.get() for result in pending]

        def task_batch_argument() -> None:
            pending = [pool.apply_async(same, (n,)) for n in range(batch)]
            [result.get() for result in pending]

        return results | measure(
            [
                (
                    (rows.TASK_SYNC,),
                    lambda: {rows.TASK_SYNC: rate(lambda: pool.apply(nothing), sizes.seconds)},
                ),
                (
                    (rows.TASK_BATCH,),
                    lambda: {rows.TASK_BATCH: batch * rate(task_batch, sizes.seconds)},
                ),
                (
                    (rows.TASK_BATCH_ARGUMENT,),
                    lambda: {
                        rows.TASK_BATCH_ARGUMENT: batch * rate(task_batch_argument, sizes.seconds)
                    },
                ),
            ],
            only,
        )


def main() -> None:
    """Entry of the child."""
    options = arguments(__doc__ or "").parse_args()
    report({rows.POOL: run(sizes_of(options), options.only)})


if __name__ == "__main__":
    main()
