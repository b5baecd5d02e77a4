"""What programs do with placement groups and detached actors, beside what they do in a cluster.

Drivers, and methods of detached actors, make a group, wait for it, run tasks and actors in its
bundles, and remove it. While they have a group they wait for nothing but tasks in it, which use
nothing else; so whoever waits for a group waits for others that can go on. A group that the head
could hold alone is waited for without a time-out, and has to become ready: actors leave two of its
CPUs to others, and it never dies. Any other is given up after a while.

Detached actors are named, so that other drivers find them when their own has ended, also while they
have tasks, actors and groups of their own. When all programs are over somebody kills those that are
left, and nothing of what they owned may be left either.
"""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec

from sim.cluster import Cluster
from sim.cluster_workload import ClusterSettings
from sim.driver_process import DriverProcess
from sim.faults import LONG_KINDS
from sim.fiber import Fiber
from sim.roles import Program
from sim.worker_process import WorkerProcess
from skate import messages as m
from skate.ids import job_of
from skate.scheduler.group_names import GROUP_ID_BYTES, rewrite_demand
from skate.spec import ActorOptions, CallTemplate, demand_of
from skate.states import ActorState

_encode = msgspec.msgpack.Encoder().encode

SURE = (  # on the head alone
    ([1.0], "PACK"),
    ([1.0, 1.0], "PACK"),
    ([1.0, 1.0], "STRICT_PACK"),
    ([2.0], "SPREAD"),
    ([0.5, 1.0, 0.5], "SPREAD"),
)
UNSURE = (
    ([1.0, 1.0], "STRICT_SPREAD"),
    ([2.0, 2.0], "STRICT_SPREAD"),
    ([1.0] * 4, "PACK"),
    ([2.0, 1.0, 1.0], "SPREAD"),
    ([4.0], "STRICT_PACK"),
)
POLLS = 30
POLL_S = 0.2
USE_S = 0.3  # so long a program waits for what it runs in a group


class GroupSettings(ClusterSettings):
    """As ``ClusterSettings``, with the shares of what is new."""

    def __init__(self, random: Random, nodes: int) -> None:
        super().__init__(random, nodes)
        self.name_share = 0.1
        self.jobs_meet = True
        self.group_share = random.choice([0.05, 0.15, 0.3])
        self.detached_share = random.choice([0.0, 0.5, 0.8])
        if self.detached_share and random.random() < 0.7:
            self.early_end_share = 0.5
        self.is_streaming = random.random() < 0.3  # so much that nothing is ever free by itself
        if self.is_streaming:
            self.tasks_left += 600
            self.task_s = 3e-2
        self.is_closing = False
        self.groups_wanted = 0
        self.groups_ready = 0

    def possible_errors(self) -> set[str]:
        """What a value may be instead of a value."""
        removed = {"TaskPlacementGroupRemoved", "ActorPlacementGroupRemoved"}
        return super().possible_errors() | removed | {"ActorDiedError", "OwnerDiedError"}

    # ------------------------------------------------------------------ the end

    def close(self, simulator: Cluster, number: int) -> DriverProcess:
        """All programs are over: kill the detached actors that are left."""
        self.is_closing = True
        return DriverProcess(simulator.alive[0], number)

    def driver(self, fiber: Fiber) -> Program:
        """A driver's program."""
        if not self.is_closing:
            return (yield from super().driver(fiber))
        cluster = fiber.process.simulator
        assert isinstance(cluster, Cluster) and cluster.gcs is not None
        for row in cluster.gcs.core.actors.actors.rows():
            if row.state is not ActorState.DEAD:
                fiber.process.post(m.KillActor(row.actor_id, True))
        yield ("sleep", 0.0)
        return "stay"

    # ------------------------------------------------------------------ programs

    def task(self, fiber: Fiber, run: m.Run, spec: CallTemplate) -> Program:
        """What a task, a constructor or a method does."""
        if not spec.group:
            return (yield from super().task(fiber, run, spec))
        yield ("sleep", self._duration(fiber.random))
        self._mishaps(fiber, spec)
        return [(0, [])] * (spec.num_returns if spec.kind != "actor" else 0)

    def _step(self, fiber: Fiber, is_driver: bool) -> Program:
        if is_driver and fiber.random.random() < self.group_share:
            yield from self._use_group(fiber)
        elif is_driver and self.is_streaming and fiber.random.random() < 0.15:
            for _ in range(60):
                self._spawn(fiber)
        else:
            yield from super()._step(fiber, is_driver)

    def _actor_options(self, random: Random, name: str = "") -> ActorOptions:
        options = super()._actor_options(random, name)
        if name and random.random() < self.detached_share:
            options.detached = True
        return options

    def _actor_template(self, random: Random) -> CallTemplate:
        # All CPUs but two of each node may go to actors for good: groups need more than that.
        self._bound_actors.clear()
        return super()._actor_template(random)

    def _method(self, fiber: Fiber) -> Program:
        yield from super()._method(fiber)
        process = fiber.process
        assert isinstance(process, WorkerProcess) and process.kept is not None
        options = process.options
        if options is None or not options.detached:
            return
        chance = fiber.random.random()
        if chance < 0.2 and self._may_spawn():
            process.kept.create_actor(
                super()._actor_template(fiber.random), ActorOptions(), _encode([]), [], []
            )
        elif chance < 0.3 and not options.max_restarts:  # the next life would not know of it
            yield from self._use_group(fiber)

    # ------------------------------------------------------------------ groups

    def _use_group(self, fiber: Fiber) -> Program:
        random = fiber.random
        is_sure = random.random() < 0.7
        amounts, strategy = random.choice(SURE if is_sure else UNSURE)
        group_id = random.randbytes(GROUP_ID_BYTES)
        question: dict[str, Any] = {
            "group_id": group_id,
            "bundles": [dict(demand_of({"CPU": amount})) for amount in amounts],
            "strategy": strategy,
            "job_id": job_of(fiber.process.ids.next_task()),
        }
        self.groups_wanted += 1
        yield from fiber.ask("create_placement_group", question, may_fail=True)
        if is_sure:
            yield from fiber.ask("wait_placement_group", {"group_id": group_id}, may_fail=True)
            self.groups_ready += 1
        else:
            yield from self._poll(fiber, group_id)
        yield from self._use_bundles(fiber, group_id, amounts)
        yield from fiber.ask("remove_placement_group", {"group_id": group_id})

    def _poll(self, fiber: Fiber, group_id: bytes) -> Program:
        for _ in range(fiber.random.randrange(POLLS)):
            rows = yield from fiber.ask("placement_group_table", {"group_id": group_id})
            if rows and rows[0]["state"] == "CREATED":
                self.groups_ready += 1
                return
            yield ("sleep", POLL_S)

    def _use_bundles(self, fiber: Fiber, group_id: bytes, amounts: list[float]) -> Program:
        random = fiber.random
        refs: list[bytes] = []
        for _ in range(random.randrange(6)):
            if not self._may_spawn():
                break
            index = random.randrange(-1, len(amounts))
            demand = {"CPU": min(amounts) if index < 0 else amounts[index]}
            retries = random.choice([0, 1, 3])
            refs += fiber.submit(_in_group("task", group_id, index, demand, retries), NONE, [], [])
        if random.random() < 0.4 and self._may_spawn():
            spec = _in_group("actor", group_id, random.randrange(-1, len(amounts)), {"CPU": 0.5})
            options = ActorOptions(class_name="Actor", max_restarts=random.choice([0, -1]))
            actor_id = fiber.create_actor(spec, options, NONE, [], [])
            method = CallTemplate("method", b"", "method", max_retries=random.choice([0, -1]))
            for _ in range(random.randrange(4)):
                if self._may_spawn():
                    refs += fiber.call(actor_id, method, NONE, [], [])
        if refs and random.random() < 0.8:
            yield from fiber.wait(refs, len(refs), USE_S)


NONE = _encode([])


def _in_group(
    kind: str, group_id: bytes, index: int, demand: dict[str, float], max_retries: int = 0
) -> CallTemplate:
    rewritten = rewrite_demand(demand_of(demand), group_id, index)
    return CallTemplate(
        kind,
        b"in_group",
        "in_group",
        rewritten,
        rewritten if kind == "actor" else (),
        max_retries=max_retries,
        group=group_id,
        bundle=index,
    )


class GroupCutSettings(GroupSettings):
    """The same where nodes cannot reach each other for long, or lose the GCS.

    Not without end: what is bound to a bundle would rightly wait as long.
    """

    fault_kinds = LONG_KINDS
