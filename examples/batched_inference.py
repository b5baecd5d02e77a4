"""Run a model over batches with a few actors that share one copy of its weights.

Shows ``put``: the weights go into shared memory once, and every actor works on that very memory.
NumPy arrays that come from there are views without a copy, and are read-only for that reason.
Each batch goes to whichever actor is free; the answers come back in the order of the batches.

Run it with:  python examples/batched_inference.py [ACTORS [BATCHES]]   (needs NumPy)
"""

from __future__ import annotations

import itertools
import sys
from typing import Any

import numpy as np

import skate

LAYERS = (256, 1024, 512, 10)


def make_weights() -> list[Any]:
    """Return the matrices of a small random network (about 3 MB)."""
    random = np.random.default_rng(0)
    shapes = itertools.pairwise(LAYERS)
    return [random.normal(0, rows**-0.5, (rows, cols)).astype("f4") for rows, cols in shapes]


def make_batch(number: int) -> Any:
    """Return one batch of 128 inputs; the same number gives the same batch."""
    return np.random.default_rng(1_000 + number).normal(size=(128, LAYERS[0])).astype("f4")


@skate.remote
class Predictor:  # of one batch at a time, with the shared weights
    def __init__(self, weights: list[Any]) -> None:
        assert not any(matrix.flags.writeable for matrix in weights), "a private copy"
        self.weights = weights

    def predict(self, batch: Any) -> Any:
        """Return the class of each row of a batch."""
        for matrix in self.weights[:-1]:
            batch = np.maximum(batch @ matrix, 0)
        return np.argmax(batch @ self.weights[-1], axis=1)


def predict_all(actors: list[Any], batches: int) -> list[Any]:
    """Keep two batches with every actor; give the next one to whichever answers first."""
    idle, answers = actors * 2, []
    busy: dict[Any, Any] = {}
    for number in range(batches):
        if not idle:
            (done,), _ = skate.wait(list(busy), num_returns=1)
            idle.append(busy.pop(done))
        actor = idle.pop()
        answers.append(actor.predict.remote(make_batch(number)))
        busy[answers[-1]] = actor
    return list(skate.get(answers))


def main(actor_count: int = 2, batches: int = 24) -> None:
    """Count how many rows fall into each class."""
    skate.init()
    weights = make_weights()
    shared = skate.put(weights)
    actors = [Predictor.remote(shared) for _ in range(actor_count)]
    answers = predict_all(actors, batches)
    megabytes = sum(matrix.nbytes for matrix in weights) / 1e6
    print(f"{actor_count} actors share one copy of {megabytes:.1f} MB of weights")
    for first in range(0, batches, 8):
        row_counts = np.bincount(np.concatenate(answers[first : first + 8]), minlength=LAYERS[-1])
        print(f"rows by class from batch {first:2}:", *row_counts)
    skate.shutdown()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
