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
from skate import messages as m
from skate.config import ACTOR_LANE_IDLE_S
from skate.spec import CallTemplate, demand_of

_encode = msgspec.msgpack.Encoder().encode

METHODS = [
    CallTemplate("method", b"", "plain"),
    CallTemplate("method", b"", "patient", max_retries=2),
    CallTemplate("method", b"", "stubborn", max_retries=2, retry_exceptions=True),
    CallTemplate("method", b"", "two", num_returns=2),
]
TASKS = [
    CallTemplate("task", b"quick", "quick", demand_of({"CPU": 1.0}), max_retries=1),
    CallTemplate("task", b"brisk", "brisk", demand_of({"CPU": 1.0}), max_retries=1),
    CallTemplate("task", b"small", "small", demand_of({"CPU": 0.5}), max_retries=1),
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


class LeaseSettings(LaneSettings):
    """Short tasks as well: one by one, in bursts, in chains, and of tasks that call tasks."""

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self.actor_share = random.choice([0.0, 0.15])
        self.drivers = random.choice([1, 1, 2])
        self.delay_s = random.choice([5e-5, 5e-5, 2e-4])
        self.quick_share = random.choice([0.5, 0.9])
        self.task_s = random.choice([2e-5, 2e-4, 1e-3])
        self.quick_left = random.randrange(100, 1_500)
        self.tasks_left = random.randrange(10, 100)
        self.long_share = random.choice([0.0, 0.01, 0.05])

    def _duration(self, random: Random) -> float:
        if random.random() < self.long_share:
            return random.random() * 0.1
        return self.task_s * random.random() * 3

    def _step(self, fiber: Fiber, is_driver: bool) -> Program:
        if fiber.random.random() < self.quick_share and (is_driver or fiber.depth < 2):
            yield from self._quick(fiber, is_driver)
        else:
            yield from super()._step(fiber, is_driver)

    def task(self, fiber: Fiber, run: m.Run, spec: CallTemplate) -> Program:
        """Two classes of the quick ones call nothing."""
        if spec not in TASKS[:2]:
            return (yield from super().task(fiber, run, spec))
        yield ("sleep", self._duration(fiber.random))
        self._mishaps(fiber, spec)
        size = self._size(fiber.random) if fiber.random.random() < 0.05 else 0
        return [(size, self._contents(fiber, spec))]

    def _quick(self, fiber: Fiber, is_driver: bool) -> Program:
        random = fiber.random
        spec = random.choice(TASKS)
        made: list[bytes] = []
        is_chain = random.random() < 0.2
        one_by_one = random.random() < 0.5
        for _ in range(random.choice([*BURSTS, 100]) if is_driver else random.choice([1, 1, 3])):
            self.quick_left -= 1
            if self.quick_left < 0:
                return
            dependencies = made[-1:] if is_chain else []
            if random.random() < 0.1:
                dependencies = sample(random, fiber.refs, 2)
            made += fiber.submit(spec, _encode([]), dependencies, [])
            if one_by_one and not is_chain:
                yield from fiber.get(made[-1:])
        chance = random.random()
        if chance < 0.5:
            yield from fiber.get(made)
        elif chance < 0.6:
            fiber.put(sample(random, made, 2))
        elif chance < 0.8:
            while fiber.refs and fiber.refs[-1] in made:
                fiber.drop(len(fiber.refs) - 1)
        if random.random() < 0.2:
            yield ("sleep", random.random() * 0.06)  # leases end meanwhile
