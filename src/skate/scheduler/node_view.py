"""One node as the global scheduler sees it: what it can hold, what is free, how long its queue is.

The node tells its load with each heartbeat; in between, the scheduler adds the tasks that it has
placed there. A placed task counts here until the node has counted it (`received`), or until it must
have got lost; so two offers within a tenth of a second do not get the same free CPU.

Invariant (`check`): free resources and queue are those of the last heartbeat, less (and plus) the
tasks that are *unseen*: placed, and not in that heartbeat.

It does not choose; see `global_scheduler`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from skate.config import (
    HEARTBEAT_S,
    PLACED_UNSEEN_S,
    STAY_HEARTBEATS,
    UNKNOWN_BYTES_PER_S,
    UNKNOWN_TASK_S,
)
from skate.messages import Heartbeat
from skate.scheduler.label_rules import labels_of
from skate.spec import Demand


class _Unseen:
    """Equal tasks that were placed on a node and are not in its heartbeat yet."""

    __slots__ = ("at", "count", "demand", "task_s")

    def __init__(self, at: float, count: int, demand: Demand, task_s: float) -> None:
        self.at = at
        self.count = count
        self.demand = demand
        self.task_s = task_s


class NodeView:
    """A living node. `order` counts nodes as they joined."""

    __slots__ = (
        "_load",
        "_staying",
        "_unseen",
        "bytes_per_s",
        "free",
        "labels",
        "node_id",
        "order",
        "queue_s",
        "total",
    )

    def __init__(
        self, node_id: bytes, order: int, total: Mapping[str, int], labels: Mapping[str, str]
    ) -> None:
        self.node_id = node_id
        self.order = order
        self.total = dict(total)
        self.labels = labels_of(node_id, labels)
        self._load = Heartbeat(dict(total), 0, 0, 0, 0.0)
        self._unseen: deque[_Unseen] = deque()  # the first placed first
        # Heartbeats left (the next may have been under way already), demand, count, task_s.
        self._staying: list[tuple[int, Demand, int, float]] = []
        self._count_up()

    def change(self, total: Mapping[str, int]) -> None:
        """Bundles have come or gone; until the next heartbeat, free resources change by as much."""
        available = dict(self._load.available)
        for name in {**self.total, **total}:
            change = total.get(name, 0) - self.total.get(name, 0)
            available[name] = available.get(name, 0) + change
        self.total = dict(total)
        self._load.available = available
        self._count_up()

    def heard(self, load: Heartbeat) -> None:
        """A heartbeat: the first `received` of all tasks placed here are in its figures."""
        arrived = load.received - self._load.received
        # A copy, so that `change` does not alter the message, which others hold too.
        self._load = Heartbeat(
            load.available,
            load.queued,
            load.running,
            load.store_used_bytes,
            load.average_task_s,
            load.received,
            load.bandwidth,
        )
        unseen = self._unseen
        while arrived > 0 and unseen:
            first = unseen[0]
            if first.count > arrived:
                first.count -= arrived
                break
            arrived -= first.count
            unseen.popleft()
        if self._staying:
            self._staying = [(left - 1, d, n, s) for left, d, n, s in self._staying if left > 1]
        self._count_up()

    def place(self, demand: Demand, count: int, task_s: float, now: float) -> None:
        """This many tasks are on their way to the node."""
        unseen = self._unseen
        last = unseen[-1] if unseen else None
        if (
            last is not None
            and last.demand == demand
            and last.task_s == task_s
            and 0.0 <= now - last.at < HEARTBEAT_S
        ):
            last.count += count
        else:
            unseen.append(_Unseen(now, count, demand, task_s))
        self._add(demand, count, task_s)

    def stay(self, demand: Demand, count: int, task_s: float) -> None:
        """This many of the tasks that the node offered stay there; its queue did not count them."""
        self._staying.append((STAY_HEARTBEATS, demand, count, task_s))
        self._count_up()

    def expire(self, now: float) -> None:
        """Forget placed tasks that must have got lost, also if the clock was set back."""
        unseen = self._unseen
        if not unseen or 0.0 <= now - unseen[0].at <= PLACED_UNSEEN_S:
            return
        while unseen and not 0.0 <= now - unseen[0].at <= PLACED_UNSEEN_S:
            unseen.popleft()
        self._count_up()

    @property
    def ends_tasks(self) -> bool:
        """Whether tasks run there, whose ends will free resources."""
        return self._load.running > 0

    def can_hold(self, demand: Demand) -> bool:
        """Whether the node could run such a task if it ran nothing else."""
        total = self.total
        for name, units in demand:  # noqa: SIM110 - at once for each node: four times as fast
            if units > total.get(name, 0):
                return False
        return True

    def room(self, demand: Demand, most: int) -> int:
        """How many such tasks the node can start at once, at most `most`."""
        free = self.free
        for name, units in demand:
            room = free.get(name, 0) // units
            if room < most:
                most = room
        return most if most > 0 else 0

    def _count_up(self) -> None:
        load = self._load
        self.free = dict(load.available)
        self.queue_s = load.queued * (load.average_task_s or UNKNOWN_TASK_S)
        self.bytes_per_s = load.bandwidth or float(UNKNOWN_BYTES_PER_S)
        for _, demand, count, task_s in self._staying:
            self._add(demand, count, task_s)
        for placed in self._unseen:
            self._add(placed.demand, placed.count, placed.task_s)

    def _add(self, demand: Demand, count: int, task_s: float) -> None:
        # Tasks that find room run at once, the others queue.
        running = self.room(demand, count)
        for name, units in demand:
            self.free[name] = self.free.get(name, 0) - running * units
        self.queue_s += (count - running) * task_s

    def check(self) -> None:
        """Assert the invariant above."""
        assert all(placed.count > 0 for placed in self._unseen)
        assert all(0 < one[0] <= STAY_HEARTBEATS for one in self._staying)
        free, queue_s = self.free, self.queue_s
        self._count_up()
        assert {n: u for n, u in free.items() if u} == {n: u for n, u in self.free.items() if u}
        assert abs(queue_s - self.queue_s) <= 1e-6 * max(1.0, queue_s)
