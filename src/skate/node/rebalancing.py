"""Queued tasks and actors that wait here too long are offered to other nodes. Pure.

Ready tasks, and actors that wait for room, keep their turn here until the global scheduler has
named a node with room. Only then they leave.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Protocol

from skate import messages as m
from skate.config import (
    OFFER_TASKS_MAX,
    REBALANCE_LOOK_S,
    REBALANCE_RETRY_MAX_S,
    REBALANCE_WAIT_S,
    UNKNOWN_TASK_S,
)
from skate.node.clock import Clock
from skate.node.forwarding import Forwarding
from skate.node.guests import Guests
from skate.node.load import Load
from skate.node.node_table import NodeTable
from skate.node.outbox import Outbox
from skate.node.placing import Placing
from skate.rows import SchedulingClass, Task, may_leave
from skate.scheduler.local_scheduler import LocalScheduler
from skate.spec import Demand, Strategy

_Kind = tuple[bytes, Demand, Strategy | None]  # of actors: job, demand, rules


class _ActorGuests(Protocol):
    def is_called_here(self, creation: Task) -> bool: ...

    def give_back(self, task: Task, node_id: bytes) -> None: ...


class Rebalancing:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        clock: Clock,
        outbox: Outbox,
        scheduler: LocalScheduler,
        nodes: NodeTable,
        load: Load,
        guests: Guests,
        placing: Placing,
        forwarding: Forwarding,
        actor_guests: _ActorGuests,
    ) -> None:
        self._clock = clock
        self._outbox = outbox
        self._scheduler = scheduler
        self._nodes = nodes
        self._load = load
        self._guests = guests
        self._placing = placing
        self._forwarding = forwarding
        self._actor_guests = actor_guests
        # Offers of queued tasks, with their rules, and of actors: they stay queued meanwhile.
        self.queue_offers: dict[int, tuple[SchedulingClass, Strategy | None]] = {}
        self.actor_offers: dict[int, _Kind] = {}
        self._look_at = 0.0  # when queues are checked next
        self._told_at = 0.0  # when the GCS last heard of the load here
        self._due: dict[SchedulingClass, tuple[float, float]] = {}  # next offer, and the back-off

    def tick(self) -> None:
        """After each heartbeat: offer queued tasks and actors that would wait too long."""
        self._told_at = self._clock.now
        if self._nodes.alive:
            self._offer_what_waits()
            self._offer_actors()

    def flush(self) -> None:
        """At the end of a turn: the same for queues, if they were not checked of late."""
        if self._nodes.alive and self._scheduler.ready and self._clock.now >= self._look_at:
            self._offer_what_waits()

    def is_placed(self, message: m.Placed) -> bool:
        """Whether the answer belongs to an offer of this part; if so, it has acted on it."""
        if message.number in self.queue_offers:
            self._on_queue_placed(message)
        elif message.number in self.actor_offers:
            self._on_room(message)
        else:
            return False
        return True

    def end_job(self, job_id: bytes) -> None:
        """The job is over: its queues are gone."""
        for number, (queue, _) in list(self.queue_offers.items()):
            if queue.pool.job_id == job_id:
                del self.queue_offers[number]
        for queue in [q for q in self._due if q.pool.job_id == job_id]:
            del self._due[queue]

    def is_idle(self) -> bool:
        """Whether nothing is offered; for tests and the simulator."""
        return not (self.queue_offers or self.actor_offers)

    # ------------------------------------------------------------------ queues

    def _offer_what_waits(self) -> None:
        self._look_at = self._clock.now + REBALANCE_LOOK_S
        for queue in self._scheduler.ready:
            due, pause = self._due.get(queue, (0.0, REBALANCE_WAIT_S))
            if not queue.count or self._clock.now < due or self._wait_s(queue) <= REBALANCE_WAIT_S:
                continue
            if self._clock.now - due > REBALANCE_RETRY_MAX_S:
                # Queue that has just grown: those of other nodes may have as well. All nodes tell
                # their load first, or each would take the others for idle.
                self._due[queue] = (self._clock.now + REBALANCE_LOOK_S, REBALANCE_WAIT_S)
                self._tell_load()
                continue
            self._due[queue] = (self._clock.now + pause, min(2 * pause, REBALANCE_RETRY_MAX_S))
            self._tell_load()
            self._offer_queue(queue)

    def _tell_load(self) -> None:
        if self._clock.now > self._told_at:
            self._told_at = self._clock.now
            self._outbox.to_gcs(self._load.heartbeat())

    def _wait_s(self, queue: SchedulingClass) -> float:
        average = queue.head().template.average_s
        wait_s = self._unserved_s(queue)
        if average >= 0:
            wait_s = max(wait_s, queue.count * average / max(1, len(queue.leased)))
        return wait_s

    def _unserved_s(self, queue: SchedulingClass) -> float:
        # For how long the class sent no task to a worker, though one waited: other classes may
        # have all resources, or a task may take longer than the earlier ones did.
        since = queue.head().ready_at
        for worker in queue.leased.values():
            for task in worker.tasks.values():
                since = max(since, task.sent_at)
        return self._clock.now - since

    def _offer_queue(self, queue: SchedulingClass) -> None:
        if any(offered is queue for offered, _ in self.queue_offers.values()):
            return
        # Offer only tasks that may move. The GCS counts each placed task as on its way to the
        # chosen node; one that never arrives makes that node look busy.
        movable = filter(may_leave, islice(queue, OFFER_TASKS_MAX))
        for rules, count in Counter(task.template.rules for task in movable).items():
            self._offer_some(queue, rules, count)

    def _offer_some(self, queue: SchedulingClass, rules: Strategy | None, count: int) -> None:
        template = queue.head().template
        # Assume that a task will wait as long again as it has: as if so many tasks went first.
        task_s = template.average_s if template.average_s > 0 else UNKNOWN_TASK_S
        ahead = max(queue.count - count, int(self._unserved_s(queue) / task_s))
        number = self._placing.next_number()
        self.queue_offers[number] = (queue, rules)
        self._outbox.to_gcs(
            m.Offer(
                number=number,
                demand=queue.demand,
                count=count,
                queued=count + ahead,
                average_s=template.average_s,
                strategy=rules,
                avoid=self._nodes.unreachable(),
                name=template.spec.name,
            )
        )

    def _on_queue_placed(self, message: m.Placed) -> None:
        queue, rules = self.queue_offers.pop(message.number)
        for node_id, count in message.places:
            host = self._nodes.by_id.get(node_id)
            if host is None or not queue.count:
                continue
            self._due[queue] = (self._clock.now + REBALANCE_WAIT_S, REBALANCE_WAIT_S)
            waited_s = self._clock.now - queue.waiting_since if queue.waiting_since else 0.0
            for task in queue.take_back(count, rules):
                task.waited_s = waited_s
                if task.owner.node_id:
                    self._guests.give_back(task, "another node has room for it", node_id)
                else:
                    self._forwarding.forward(task, host)
        self._scheduler.forget_if_empty(queue)

    # ------------------------------------------------------------------ actors

    def _offer_actors(self) -> None:
        # The actors keep their turn here meanwhile.
        waiting: dict[_Kind, list[Task]] = {}
        for task in self._scheduler.placing:
            if self._waits_for_long(task):
                waiting.setdefault(_kind_of(task), []).append(task)
        for kind, tasks in waiting.items():
            if kind not in self.actor_offers.values():
                number = self._placing.next_number()
                self.actor_offers[number] = kind
                self._ask_for_room(number, tasks)

    def _ask_for_room(self, number: int, tasks: list[Task]) -> None:
        template = tasks[0].template
        self._outbox.to_gcs(
            m.Offer(
                number=number,
                demand=template.spec.demand,
                count=len(tasks),
                queued=len(tasks),
                average_s=-1.0,
                strategy=template.rules,
                avoid=self._nodes.unreachable(),
                name=template.spec.name,
                is_actor=True,
            )
        )

    def _on_room(self, message: m.Placed) -> None:
        kind = self.actor_offers.pop(message.number)
        placing = self._scheduler.placing
        ready = [t for t in placing if self._waits_for_long(t) and _kind_of(t) == kind]
        for node_id, count in message.places:
            host = self._nodes.by_id.get(node_id)
            if host is None:
                continue
            for task in ready[:count]:
                self._scheduler.withdraw(task)
                if task.owner.node_id:
                    self._actor_guests.give_back(task, node_id)
                else:
                    self._forwarding.forward(task, host)
            del ready[:count]

    def _waits_for_long(self, task: Task) -> bool:
        """Whether an actor may go to another node now. It was sent here for room that others may
        have taken first."""
        waited_s = self._clock.now - task.ready_at
        is_free = may_leave(task)
        if task.owner.node_id:
            is_free = task.template.may_move and not self._actor_guests.is_called_here(task)
        return is_free and waited_s > REBALANCE_WAIT_S


def _kind_of(task: Task) -> _Kind:
    template = task.template
    return template.job_id, template.spec.demand, template.rules
