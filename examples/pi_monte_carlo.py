"""Estimate pi from random points: tasks, references, and results taken as they come.

Every batch of points is one task with a seed of its own, so the answer is the same on every run,
whichever worker a batch happens to run on and in whatever order the batches end.

Run it with:  python examples/pi_monte_carlo.py [BATCHES [SAMPLES_IN_A_BATCH]]
"""

from __future__ import annotations

import math
import random
import sys

import skate


@skate.remote
def count_inside(seed: int, samples: int) -> int:
    """Return how many of ``samples`` random points of the unit square lie within the circle."""
    uniform = random.Random(seed).random
    return sum(uniform() ** 2 + uniform() ** 2 <= 1.0 for _ in range(samples))


def estimate_pi(batches: int, samples: int) -> float:
    """Start every batch at once, then fold the counts in as they arrive."""
    pending = [count_inside.remote(seed, samples) for seed in range(batches)]
    inside = finished = 0
    while pending:
        ready, pending = skate.wait(pending, num_returns=1)
        inside += sum(skate.get(ready))
        finished += len(ready)
        if finished % 4 == 0:
            print(f"after {finished:3} batches: {4 * inside / (finished * samples):.4f}")
    return 4 * inside / (batches * samples)


def main(batches: int = 16, samples: int = 50_000) -> None:
    """Estimate, and say how far off the estimate is."""
    skate.init()
    estimate = estimate_pi(batches, samples)
    error = abs(estimate - math.pi)
    points = batches * samples
    # The standard error of this estimate is 1.64 / sqrt(points): five of them is never by chance.
    assert error < 5 * 1.64 / math.sqrt(points), "these points are not uniform"
    print(f"pi is about {estimate:.6f} ({points:,} points, off by {error:.6f})")
    skate.shutdown()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
