"""Workers that are lent to callers, who send them tasks themselves; and when they are taken back.

Pure; beside the local scheduler, whose resources and queues it reads. A caller of many short tasks
asks for a worker (``asked``). It gets an idle one if nothing waits: no task, no actor, no group; or
(``before_dispatch``) one that has just become free, if only its own tasks of the class wait and as
many others as are lent go on serving those. As soon as something waits that a lent worker's
resources could serve, ``turn`` has workers taken back, the last lent first, until what they hold is
enough: at once, unless it is the caller's own overflow of the same class, which is patient for a
moment, longer if it is served. So with contention between callers there are no leases, and all that
the local scheduler promises (turns, patience, claims) holds as without them.

Invariants: a worker is lent only while nothing of others waits; none is asked back twice; a caller
has at most as many as there are CPUs.
What it does not do: talk to workers (``lend`` and ``revoke`` of node/lanes.py do), or free what a
worker holds: its last word does, or its burial.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from skate.config import (
    LANE_BUDGET_S,
    LANE_WINDOW_CALLS,
    LEASE_AGAIN_S,
    LEASE_ASK_AGAIN_S,
    LEASE_LONG_PATIENCE_S,
    LEASE_MAX_TASK_S,
    LEASE_PATIENCE_S,
    LEASE_PIPELINE_S,
    LEASE_SLOW_S,
    RESOURCE_UNITS,
)
from skate.rows import Client, Lane, SchedulingClass, Task, Template, Worker, weight_of
from skate.scheduler.group_names import is_cpu
from skate.scheduler.local_scheduler import LocalScheduler
from skate.spec import Demand
from skate.states import WORKER_BLOCKED, WORKER_LEASED


class Ask(NamedTuple):
    """What a caller wants a worker for."""

    caller: Client
    number: int  # of the template, the caller's own
    template: Template
    have: int  # lanes of the class that the caller had
    at: float


class Leases:
    """See the module's docstring. ``may_meet`` tells whether the two may have a lane."""

    def __init__(
        self,
        *,
        scheduler: LocalScheduler,
        may_meet: Callable[[Client, Worker], bool],
        lend: Callable[[Ask, Worker, int], Lane],
        revoke: Callable[[Lane], None],
    ) -> None:
        self._scheduler = scheduler
        self._may_meet = may_meet
        self._lend = lend
        self._revoke = revoke
        self.asks: dict[tuple[Client, SchedulingClass], Ask] = {}
        self.lent: dict[int, Lane] = {}  # in the order lent; those taken back stay until they come
        self._none_before = 0.0  # something had to wait: so long nothing is lent
        self._turn_at = 0.0  # when ``turn`` looked last
        self._slow: dict[SchedulingClass, float] = {}  # whose tasks were too long, until then

    @property
    def is_active(self) -> bool:
        """Whether ``turn`` may have something to do."""
        return bool(self.asks or self.lent)

    def asked(self, caller: Client, number: int, template: Template, have: int, now: float) -> None:
        """A caller would like one more worker for this template's class."""
        self.asks[caller, template.queue] = Ask(caller, number, template, have, now)

    def returned(self, lane: Lane) -> None:
        """The worker is back, or dead."""
        self.lent.pop(lane.number, None)

    def caller_gone(self, caller: Client) -> None:
        """It wants nothing any more."""
        for key in [key for key in self.asks if key[0] is caller]:
            del self.asks[key]

    def ran(self, lane: Lane, seconds: float, count: int, now: float) -> None:
        """So many tasks of a lane ran for so long each: if long, others should share the class."""
        if lane.average_s < 0:
            lane.average_s = seconds
        else:
            lane.average_s += weight_of(count) * (seconds - lane.average_s)
        if lane.average_s > LEASE_MAX_TASK_S and lane.queue is not None and not lane.is_revoked:
            self._slow[lane.queue] = now + LEASE_SLOW_S
            self._revoke(lane)

    # ------------------------------------------------------------------ each turn

    def before_dispatch(self, now: float) -> None:
        """A worker that has just become free may be lent before more of its borrower's own tasks
        fill it: a burst that is quicker than the node would never leave an idle one behind."""
        if self.asks:
            self._scheduler.release_emptied(now)
            self._grant(now)

    def turn(self, now: float) -> None:
        """After dispatch: take back what others wait for, or lend what nobody does."""
        self._turn_at = now
        if self.lent:
            self._take_back(now)
        if self.asks:
            self._grant(now)

    def deadline(self) -> float | None:
        """When a caller's own overflow will have been patient for long enough."""
        due = [
            lane.queue.head().ready_at + patience_s
            for lane in self.lent.values()
            for patience_s in (LEASE_PATIENCE_S, LEASE_LONG_PATIENCE_S)
            if lane.queue is not None and lane.queue.count and not lane.is_revoked
        ]
        return min((at for at in due if at > self._turn_at), default=None)

    def _take_back(self, now: float) -> None:
        coming = dict(self._scheduler.available)
        for lane in self.lent.values():
            if lane.is_revoked:
                _add(coming, self._gain(lane))
        for demand, count, head in self._unserved():
            for _ in range(count):
                if not self._cover(demand, head, coming, now):
                    break
                for name, units in demand:
                    coming[name] = coming.get(name, 0) - units

    def _unserved(self) -> Iterator[tuple[Demand, int, Task | None]]:
        # What waits for resources that ending tasks could free: demand, how many, and the first.
        scheduler = self._scheduler
        if scheduler.claimed:
            yield scheduler.claimed, 1, None
        for task in scheduler.placing:
            demand = task.template.spec.demand
            if scheduler.could_be_met(demand):
                yield demand, 1, None
        for queue in scheduler.ready:
            if not scheduler.fits(queue.demand) and scheduler.could_be_met(queue.demand):
                yield queue.demand, queue.count, queue.head()

    def _cover(self, demand: Demand, head: Task | None, coming: dict[str, int], now: float) -> bool:
        # Have as much come back as this needs; False if that cannot be had now.
        if _fits(demand, coming):
            return True
        chosen: list[Lane] = []
        reach = dict(coming)
        for lane in reversed(self.lent.values()):
            if lane.is_revoked or not self._may_take(lane, head, now):
                continue
            gain = self._gain(lane)
            if not any(reach.get(n, 0) < u and any(n == g for g, _ in gain) for n, u in demand):
                continue
            chosen.append(lane)
            _add(reach, gain)
            if _fits(demand, reach):
                break
        if not _fits(demand, reach):
            return False
        for lane in chosen:
            self._none_before = now + LEASE_AGAIN_S
            self._revoke(lane)
        coming.update(reach)
        return True

    def _may_take(self, lane: Lane, head: Task | None, now: float) -> bool:
        if head is None or head.owner is not lane.caller or head.template.queue is not lane.queue:
            return True
        others, lent = self._serving(head.template.queue, lane.caller)
        return now >= head.ready_at + (
            LEASE_LONG_PATIENCE_S if others >= lent else LEASE_PATIENCE_S
        )

    def _serving(self, queue: SchedulingClass, caller: Client) -> tuple[int, int]:
        # Workers of a class that the node sends tasks to, and those that are lent.
        others = lent = 0
        for worker in queue.leased.values():
            if worker.lane is not None:
                lent += not worker.lane.is_revoked
            elif worker.state is WORKER_LEASED and worker.client is not caller:
                others += 1
        return others, lent

    def _gain(self, lane: Lane) -> Demand:
        # What comes back with its worker. One that is lost frees it too, only not for being asked.
        worker = lane.worker
        if worker.lease is None or worker.state not in (WORKER_LEASED, WORKER_BLOCKED):
            return ()
        if worker.state is WORKER_BLOCKED:  # its CPU is lent out already
            return tuple(pair for pair in worker.lease.demand if not is_cpu(pair[0]))
        return worker.lease.demand

    def _grant(self, now: float) -> None:
        for key, ask in list(self.asks.items()):
            if now - ask.at > LEASE_ASK_AGAIN_S:
                del self.asks[key]
            elif now >= self._none_before and self._may_have(ask, now) and not self._waits(ask):
                del self.asks[key]
                worker = ask.template.queue.pool.idle[-1]
                lane = self._lend(ask, worker, window_of(ask.template.average_s))
                self.lent[lane.number] = lane

    def _waits(self, ask: Ask) -> bool:
        # Whether somebody waits who would be served by this worker. The caller's own tasks are, as
        # long as others serve them that are at least as many as are lent.
        scheduler, queue = self._scheduler, ask.template.queue
        if scheduler.placing or scheduler.claimed:
            return True
        for other in scheduler.ready:
            if other.count and (other is not queue or other.head().owner is not ask.caller):
                return True
        if not queue.count:
            return False
        others, lent = self._serving(queue, ask.caller)
        return others + _room(queue.demand, scheduler.available) - 1 < lent + 1

    def _may_have(self, ask: Ask, now: float) -> bool:
        queue, average_s = ask.template.queue, ask.template.average_s
        idle = queue.pool.idle
        if not idle or not 0 <= average_s <= LEASE_MAX_TASK_S:
            return False
        if self._slow and self._slow.get(queue, 0.0) > now:
            return False
        have = [x for x in self.lent.values() if x.caller is ask.caller and not x.is_revoked]
        if sum(lane.queue is queue for lane in have) > ask.have:
            return False  # one is on its way to it
        cpus = self._scheduler.total.get("CPU", 0) // RESOURCE_UNITS
        return (
            len(have) < cpus
            and self._may_meet(ask.caller, idle[-1])
            and self._scheduler.fits(queue.demand)
        )

    def forget_job(self, job_id: bytes) -> None:
        """The job is over: its classes are no more."""
        for queue in [queue for queue in self._slow if queue.pool.job_id == job_id]:
            del self._slow[queue]

    def check(self) -> None:
        """Assert the invariants; for tests and the simulator."""
        lent = {w.lane.number for w in self._scheduler.workers.values() if w.lane is not None}
        assert lent <= set(self.lent), "a worker is lent and nobody will take it back"
        for lane in self.lent.values():
            assert lane.worker.lane is lane


def window_of(average_s: float) -> int:
    """How many tasks of this average may be unanswered at a lent worker."""
    if average_s > LEASE_PIPELINE_S:
        return 1
    if average_s * LANE_WINDOW_CALLS <= LANE_BUDGET_S:
        return LANE_WINDOW_CALLS
    return int(LANE_BUDGET_S / average_s)


def _room(demand: Demand, free: dict[str, int]) -> int:
    return min((free.get(name, 0) // units for name, units in demand if units), default=1_000)


def _fits(demand: Demand, free: dict[str, int]) -> bool:
    return all(free.get(name, 0) >= units for name, units in demand)


def _add(free: dict[str, int], demand: Demand) -> None:
    for name, units in demand:
        free[name] = free.get(name, 0) + units
