"""Learn to balance a pole with evolution strategies, the paper's example of a training loop.

Shows many small tasks in rounds, and one big object that all of them read: the table of noise lies
once in shared memory, so that a task is told *where* in it to look and sends back two rewards
instead of a perturbation. Perturbations are tried in both directions and count by their rank.

Run it with:  python examples/evolution_strategies.py [ROUNDS [PERTURBATIONS]]   (needs NumPy)
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np

import skate

STEP_LIMIT = 300
DEVIATION = 0.5
POLICY_SIZE = 4


def balance(policy: Any, seed: int) -> int:
    """Return for how many steps of 20 ms a linear policy keeps the pole on a cart upright."""
    x, speed, angle, spin = np.random.default_rng(seed).uniform(-0.1, 0.1, 4).tolist()
    by_x, by_speed, by_angle, by_spin = policy.tolist()
    for step in range(STEP_LIMIT):
        if abs(x) > 2.4 or abs(angle) > 0.21:
            return step
        to_the_right = by_x * x + by_speed * speed + by_angle * angle + by_spin * spin > 0
        sine, cosine = math.sin(angle), math.cos(angle)
        pull = ((10.0 if to_the_right else -10.0) + 0.05 * spin * spin * sine) / 1.1
        twist = (9.8 * sine - cosine * pull) / (0.5 * (4 / 3 - 0.1 * cosine * cosine / 1.1))
        x, speed = x + 0.02 * speed, speed + 0.02 * (pull - 0.05 * twist * cosine / 1.1)
        angle, spin = angle + 0.02 * spin, spin + 0.02 * twist
    return STEP_LIMIT


@skate.remote
def try_both_ways(policy: Any, noise: Any, start: int, seed: int) -> tuple[int, int]:
    """Return the rewards of the policy moved along a slice of the noise, and against it."""
    change = DEVIATION * noise[start : start + POLICY_SIZE]
    return balance(policy + change, seed), balance(policy - change, seed)


def improve(policy: Any, changes: Any, rewards: Any) -> Any:
    """Move the policy along each perturbation by how much better it ranked than its opposite."""
    ranks = rewards.ravel().argsort(kind="stable").argsort(kind="stable").reshape(rewards.shape)
    weights = (ranks[:, 0] - ranks[:, 1]) / ranks.size
    return policy + weights @ changes / (len(changes) * DEVIATION)


def main(rounds: int = 6, perturbations: int = 24) -> None:
    """Train from a policy that only ever pushes to the left; test it on starts not trained on."""
    skate.init()
    random = np.random.default_rng(7)
    noise = random.normal(size=250_000)
    shared_noise = skate.put(noise)
    policy = np.zeros(POLICY_SIZE)
    for done in range(rounds + 1):
        steps = np.mean([balance(policy, 10_000 + test) for test in range(10)])
        print(f"after {done} rounds: balanced for {steps:5.1f} of {STEP_LIMIT} steps")
        starts = random.integers(len(noise) - POLICY_SIZE, size=perturbations).tolist()
        tries = [
            try_both_ways.remote(policy, shared_noise, start, seed=done * perturbations + number)
            for number, start in enumerate(starts)
        ]
        changes = np.array([noise[start : start + POLICY_SIZE] for start in starts])
        policy = improve(policy, changes, np.array(skate.get(tries)))
    assert steps > 0.9 * STEP_LIMIT, "the policy did not learn to balance"
    skate.shutdown()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
