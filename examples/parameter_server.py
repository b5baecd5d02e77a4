"""Train a model with a parameter server: one actor holds the weights, tasks compute gradients.

Synchronous: each round averages one gradient of every shard; the result is the same on every run.
Asynchronous: a gradient is applied as soon as it is there, though the weights may have moved on.

Run it with:  python examples/parameter_server.py [ROUNDS [SHARDS]]   (needs NumPy)
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

import skate

TRUE_WEIGHTS = np.linspace(-2.0, 2.0, 20)


@skate.remote
class ParameterServer:  # of a logistic regression
    def __init__(self, weights: Any, learning_rate: float) -> None:
        self.weights, self.learning_rate = weights, learning_rate

    def step(self, *gradients: Any) -> Any:
        """Move against the mean of ``gradients`` and return the new weights."""
        self.weights = self.weights - self.learning_rate * np.mean(gradients, axis=0)
        return self.weights


def make_shard(seed: int) -> tuple[Any, Any]:
    """Return 2,000 random rows and, for each, which side of the true plane it lies on."""
    inputs = np.random.default_rng(seed).normal(size=(2_000, len(TRUE_WEIGHTS)))
    return inputs, inputs @ TRUE_WEIGHTS > 0


@skate.remote
def gradient(weights: Any, shard: tuple[Any, Any]) -> Any:
    """Return the gradient of the logistic loss over one shard of the data."""
    inputs, labels = shard
    return inputs.T @ (1 / (1 + np.exp(-inputs @ weights)) - labels) / len(labels)


def train_synchronously(weights: Any, rounds: int, shards: list[Any]) -> Any:
    """Chain all rounds by their references: nothing waits until the very end."""
    server = ParameterServer.remote(weights, learning_rate=2.0)
    for _ in range(rounds):
        weights = server.step.remote(*[gradient.remote(weights, shard) for shard in shards])
    return skate.get(weights)


def train_asynchronously(weights: Any, rounds: int, shards: list[Any]) -> Any:
    """Keep one gradient under way for every shard; apply whichever is ready first."""
    server = ParameterServer.remote(weights, learning_rate=1.0)
    shard_of = {gradient.remote(weights, shard): shard for shard in shards}
    for _ in range(rounds * len(shards)):
        (first,), _ = skate.wait(list(shard_of), num_returns=1)
        shard, weights = shard_of.pop(first), server.step.remote(first)
        shard_of[gradient.remote(weights, shard)] = shard
    return skate.get(weights)


def main(rounds: int = 40, shard_count: int = 4) -> None:
    """Train both ways and report the share of unseen rows that each gets right."""
    skate.init()
    shards = [skate.put(make_shard(seed)) for seed in range(shard_count)]
    inputs, labels = make_shard(seed=1_000)
    for train in (train_synchronously, train_asynchronously):
        weights = train(np.zeros(len(TRUE_WEIGHTS)), rounds, shards)
        accuracy = np.mean((inputs @ weights > 0) == labels)
        assert accuracy > 0.95, f"{train.__name__} did not learn"
        print(f"{train.__name__}: {accuracy:.2%} of {len(labels):,} unseen rows are right")
    skate.shutdown()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
