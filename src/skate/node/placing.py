"""Here, or somewhere else? The upper half of the bottom-up scheduler, at a task's home. Pure.

Local first: a task is offered to the global scheduler when its strategy asks for it, when it cannot
run here, or when its large inputs lie elsewhere; rebalancing.py offers tasks that would wait here
for long. The answer (``Placed``) names nodes.

Invariant (``check``): an OFFERED task is in exactly one offer.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from skate import messages as m
from skate.config import LOCALITY_BYTES
from skate.node.clock import Clock
from skate.node.guests import Guests
from skate.node.hears import GCS, hears
from skate.node.identity import Identity
from skate.node.node_table import NodeTable
from skate.node.outbox import Outbox
from skate.node.running import Running
from skate.node.values import Values
from skate.objects.object_store import INLINE, PENDING, REMOTE, SEALED, ObjectStore
from skate.rows import OtherNode, SchedulingClass, Task, Template
from skate.scheduler.local_scheduler import LocalScheduler
from skate.spec import FORMAT_ERROR, Demand
from skate.states import (
    TASK_MOVES,
    TASK_OFFERED,
    TASK_PULLING,
    TASK_WAITING,
    advance,
)


class Offered:
    """Tasks that the global scheduler was asked to place."""

    __slots__ = ("avoid", "reason", "tasks")

    def __init__(self, tasks: list[Task], avoid: list[bytes]) -> None:
        self.tasks = deque(tasks)
        self.avoid = avoid  # nodes that could not be reached at the time of the offer
        self.reason = "the global scheduler is choosing a node"


class _Forwarding(Protocol):
    def forward(self, task: Task, host: OtherNode) -> None: ...


class _Rebalancing(Protocol):
    def is_placed(self, message: m.Placed) -> bool: ...


class _Code(Protocol):
    def warn_of_rules(self, template: Template, reason: str) -> None: ...


class Placing:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        clock: Clock,
        outbox: Outbox,
        me: Identity,
        store: ObjectStore,
        scheduler: LocalScheduler,
        nodes: NodeTable,
        values: Values,
        running: Running,
        guests: Guests,
        forwarding: _Forwarding,
        rebalancing: _Rebalancing,
        code: _Code,
    ) -> None:
        self._clock = clock
        self._outbox = outbox
        self._me = me
        self._store = store
        self._scheduler = scheduler
        self._nodes = nodes
        self._values = values
        self._running = running
        self._guests = guests
        self._forwarding = forwarding
        self._rebalancing = rebalancing
        self._code = code
        self.offers: dict[int, Offered] = {}
        self.offer_count = 0  # of all offers ever sent
        self.batches: dict[Any, list[Task]] = {}  # to be offered at the end of this turn

    # ------------------------------------------------------------------ choosing

    def place(self, task: Task) -> None:
        """A task's inputs exist, here or elsewhere: run it here, or have a node chosen for it."""
        spec = task.template.spec
        strategy = spec.strategy
        if strategy is not None and strategy.kind == "NODE" and not strategy.rules:
            if strategy.node_id == self._me.node_id:
                if not self._scheduler.missing(spec.demand) and not strategy.fail_if_busy:
                    task.is_bound = True
                    self.take(task)
                    return
            elif not strategy.soft and not strategy.fail_if_busy and task.owner is not None:
                host = self._nodes.by_id.get(strategy.node_id)
                if host is not None and _can_hold(host.info.resources, spec.demand):
                    task.is_bound = True
                    self._forwarding.forward(task, host)
                    return
        if task.is_bound or (strategy is None and not self._is_better_offered(task)):
            self.take(task)
        else:
            self._offer(task)

    def _is_better_offered(self, task: Task) -> bool:
        spec = task.template.spec
        if spec.group and self._scheduler.missing(spec.demand):
            return True  # the GCS knows where the group is, or that it is gone
        if not self._nodes.alive:
            return False
        if self._scheduler.missing(spec.demand):
            return True
        return self._bytes_elsewhere(task) >= LOCALITY_BYTES

    def _bytes_elsewhere(self, task: Task) -> int:
        objects = self._store.objects
        inputs = (objects[i] for i in task.dependencies or ())
        return sum(stored.size for stored in inputs if stored.state is REMOTE)

    def take(self, task: Task) -> None:
        """Run a task here, once its inputs are here."""
        missing = 0
        for object_id in task.dependencies or ():
            stored = self._store.objects[object_id]
            if stored.is_error:  # the input was lost while a node was being chosen
                self._running.fail(task, stored.data, dependant=True)
                return
            if stored.state is not INLINE and stored.state is not SEALED:
                missing += 1
        if not missing:
            self._scheduler.enqueue(task, self._clock.now)
            return
        task.state = advance(TASK_MOVES, task.state, TASK_PULLING)
        task.missing = missing
        task.is_here = True
        for object_id in task.dependencies or ():
            stored = self._store.objects[object_id]
            if stored.state is INLINE or stored.state is SEALED:
                continue
            self._values.wait(task, stored)

    def place_when_ready(self, task: Task) -> None:
        """A task whose node is lost: place it again, as soon as its inputs exist."""
        failed: bytes | None = None
        missing = 0
        for object_id in task.dependencies or ():
            stored = self._store.objects[object_id]
            if stored.is_error:
                failed = stored.data
            elif stored.state is PENDING:
                missing += 1
                # Copies lost with the node: the input's home knows more.
                self._values.wait(task, stored)
        if missing or failed is not None:
            task.is_here = False
            task.missing = missing
            task.state = advance(TASK_MOVES, task.state, TASK_WAITING)
        if failed is not None:
            self._running.doom(task, failed)
        elif not missing:
            self.place(task)

    # ------------------------------------------------------------------ offers

    def _offer(self, task: Task) -> None:
        if task.state is not TASK_OFFERED:  # a task whose node was lost is OFFERED already
            task.state = advance(TASK_MOVES, task.state, TASK_OFFERED)
        far = self._bytes_elsewhere(task) >= LOCALITY_BYTES
        spec = task.template.spec
        key = task.id if far else (task.template.queue, spec.strategy, spec.kind)
        self.batches.setdefault(key, []).append(task)

    def offer_anew(self, task: Task) -> None:
        """A task's node is lost, or has given it back: offer it again at the end of this turn."""
        self.batches.setdefault(task.id, []).append(task)

    def next_number(self) -> int:
        """The number of a new offer."""
        self.offer_count += 1
        return self.offer_count

    def flush(self) -> None:
        """At the end of a turn: offer the tasks that this turn has brought."""
        if self.batches:
            batches, self.batches = self.batches, {}
            for tasks in batches.values():
                self._send_offer([t for t in tasks if t.state is TASK_OFFERED])

    def _send_offer(self, tasks: list[Task]) -> None:
        if not tasks:
            return
        first = tasks[0]
        spec = first.template.spec
        avoid = self._nodes.unreachable()
        number = self.next_number()
        self.offers[number] = Offered(tasks, avoid)
        self._outbox.to_gcs(
            m.Offer(
                number=number,
                demand=spec.demand,
                count=len(tasks),
                queued=first.template.queue.count + len(tasks),
                average_s=first.template.average_s,
                strategy=spec.strategy,
                inputs=self._inputs_for_offer(first),
                # A group's bundle may still be reserved here.
                must_leave=not spec.group and bool(self._scheduler.missing(spec.demand)),
                avoid=avoid,
                name=spec.name,
                is_actor=spec.kind == "actor",
            )
        )

    def _inputs_for_offer(self, task: Task) -> list[tuple[list[bytes], int]]:
        inputs = []
        for object_id in task.dependencies or ():
            stored = self._store.objects[object_id]
            if stored.size:
                here = [self._me.node_id] if stored.state is SEALED else []
                inputs.append((here + list(stored.nodes or ()), stored.size))
        return inputs

    @hears(m.Placed, GCS)
    def on_placed(self, message: m.Placed) -> None:
        """The global scheduler has answered an offer."""
        if self._rebalancing.is_placed(message):
            return
        offered = self.offers.get(message.number)
        if offered is None:
            return
        tasks = offered.tasks
        for node_id, count in message.places:
            for _ in range(min(count, len(tasks))):
                task = tasks.popleft()
                if task.state is TASK_OFFERED:  # else the task has failed, or its actor was killed
                    self.send_to(task, node_id)
        if not tasks:
            del self.offers[message.number]
        elif message.error:
            del self.offers[message.number]
            for task in tasks:
                if task.state is TASK_OFFERED:
                    self._running.fail(task, FORMAT_ERROR + message.error)
        elif message.reason:
            offered.reason = message.reason  # another answer will follow
            if message.rules_unmet:
                self._code.warn_of_rules(tasks[0].template, message.reason)
        else:
            del self.offers[message.number]
            for task in tasks:
                if task.state is TASK_OFFERED:
                    self.take(task)

    def send_to(self, task: Task, node_id: bytes) -> None:
        """The node ``node_id`` was chosen for the task."""
        if not task.template.may_move:
            task.is_bound = True  # the node was chosen for more than its load
        if node_id == self._me.node_id:
            self.take(task)
            return
        host = self._nodes.by_id.get(node_id)
        if host is None:  # the node has died since
            task.is_bound = False
            self.offer_anew(task)
        else:
            self._forwarding.forward(task, host)

    def tick(self) -> None:
        """After each heartbeat: offer tasks that cannot run here, or may go elsewhere by now."""
        self._offer_again()
        self._offer_what_can_not_run_here()

    def _offer_what_can_not_run_here(self) -> None:
        # Tasks whose bundle was reserved here and given back before the commit go up even from a
        # node that is alone: the GCS knows the group's state.
        for queue in list(self._scheduler.ready):
            if self._scheduler.missing(queue.demand) and self._may_go_up(queue.head()):
                self._offer_all(queue)
        for task in list(self._scheduler.placing):
            if task.is_bound or task.owner.node_id or not self._may_go_up(task):
                continue
            if self._scheduler.missing(task.template.spec.demand):
                self._scheduler.withdraw(task)
                self._offer(task)

    def _may_go_up(self, task: Task) -> bool:
        return bool(self._nodes.alive or task.template.spec.group)

    def _offer_all(self, queue: SchedulingClass) -> None:
        # The tasks were queued while this node was alone, or had more resources.
        for task in queue.clear():
            if task.is_bound:
                queue.push(task)
            elif task.owner.node_id:
                self._guests.give_back(task, "this node does not have the resources", b"")
            else:
                self._offer(task)
        self._scheduler.forget_if_empty(queue)

    def _offer_again(self) -> None:
        # Offers waiting in the GCS exclude nodes that could not be reached; some can be by now.
        avoid: list[bytes] | None = None
        for number, offered in list(self.offers.items()):
            if offered.avoid:
                avoid = self._nodes.unreachable() if avoid is None else avoid
                if avoid != offered.avoid:
                    # The offer gets a new number: an answer to the old one may be under way.
                    del self.offers[number]
                    self._withdraw(number)
                    self._send_offer([t for t in offered.tasks if t.state is TASK_OFFERED])

    def _withdraw(self, number: int) -> None:
        self._outbox.to_gcs(m.Offer(number, (), 0, 0, 0.0))

    # ------------------------------------------------------------------ ends and views

    def end_job(self, job_id: bytes) -> list[Task]:
        """The job is over: withdraw its offers and return their tasks."""
        tasks: list[Task] = []
        for number, offered in list(self.offers.items()):
            if offered.tasks and offered.tasks[0].template.job_id == job_id:
                del self.offers[number]
                tasks += offered.tasks
                self._withdraw(number)
        for key, batch in list(self.batches.items()):
            if batch[0].template.job_id == job_id:
                del self.batches[key]
                tasks += batch
        return tasks

    def pending(self) -> list[m.Demanded]:
        """The tasks that wait for a node, for people."""
        rows = []
        for offered in self.offers.values():
            if offered.tasks:
                spec = offered.tasks[0].template.spec
                rows.append(
                    m.Demanded(spec.name, dict(spec.demand), len(offered.tasks), offered.reason)
                )
        return rows

    def is_idle(self) -> bool:
        """Whether nothing is offered; for tests and the simulator."""
        return not (self.offers or self.batches)

    def check(self) -> None:
        """Assert the invariants; for tests and the simulator."""
        for offered in self.offers.values():
            assert offered.tasks


def _can_hold(resources: dict[str, int], demand: Demand) -> bool:
    return all(resources.get(name, 0) >= units for name, units in demand)
