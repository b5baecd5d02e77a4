"""Programs that call actors of their own node often, in bursts and one by one, so that lanes open.

Most calls could ride; results are read, passed on, put, and forgotten while they are under way, and
now and then nobody calls for so long that lanes end by themselves.
"""

from __future__ import annotations

from random import Random

import msgspec

from sim.fiber import Fiber
from sim.roles import Program
from sim.workload import Settings, sample
from skate.config import ACTOR_LANE_IDLE_S
from skate.spec import CallTemplate

_encode = msgspec.msgpack.Encoder().encode

METHODS = [
    CallTemplate("method", b"", "plain"),
    CallTemplate("method", b"", "patient", max_retries=2),
    CallTemplate("method", b"", "stubborn", max_retries=2, retry_exceptions=True),
    CallTemplate("method", b"", "two", num_returns=2),
]
BURSTS = [1, 1, 2, 3, 8, 30]


class LaneSettings(Settings):
    """See the module's docstring."""

    has_lanes = True

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self.calls_left = random.randrange(50, 500)
        self.burst_share = random.choice([0.3, 0.6, 0.9])
        self.rest_share = random.choice([0.0, 0.0, 0.02])

    def _step(self, fiber: Fiber, is_driver: bool) -> Program:
        random = fiber.random
        if is_driver and random.random() < self.rest_share:
            yield ("sleep", ACTOR_LANE_IDLE_S * 1.5 * random.random())
        elif fiber.handles and random.random() < self.burst_share and (is_driver or self._brief):
            yield from self._burst(fiber, is_driver)
        else:
            yield from super()._step(fiber, is_driver)

    @property
    def _brief(self) -> bool:
        return self.tasks_forget_calls

    def _burst(self, fiber: Fiber, is_driver: bool) -> Program:
        random = fiber.random
        actor_id = random.choice(fiber.handles)
        method = random.choice(METHODS[:2]) if random.random() < 0.9 else random.choice(METHODS)
        made: list[bytes] = []
        for _ in range(random.choice(BURSTS)):
            self.calls_left -= 1
            if self.calls_left < 0:
                return
            dependencies = sample(random, fiber.refs, 1) if random.random() < 0.2 else []
            nested = sample(random, fiber.refs, 1) if random.random() < 0.05 else []
            refs = fiber.call(actor_id, method, _encode(nested), dependencies, nested)
            made += refs
            if random.random() < 0.1:
                yield ("sleep", self._duration(random))
            if not is_driver:
                for _ in refs:
                    fiber.drop(len(fiber.refs) - 1)
        if not is_driver:
            return
        chance = random.random()
        if chance < 0.4:
            yield from fiber.get(made)
        elif chance < 0.5:
            fiber.put(sample(random, made, 2))
        elif chance < 0.6:
            while fiber.refs and fiber.refs[-1] in made:
                fiber.drop(len(fiber.refs) - 1)
