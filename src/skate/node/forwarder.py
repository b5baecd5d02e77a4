"""Tasks of this home that run elsewhere: offered, forwarded, returned, given back. Pure.

Part of the node core: the upper half of the bottom-up scheduler (DESIGN 5), as the home of a task
sees it. Local first: a task goes up to the global scheduler when its strategy asks for it, when it
cannot run here, when its large inputs lie elsewhere, or when it would wait here for long
(``tick``). The answer names nodes; the spec goes there directly and the result comes back. Only the
home tracks a task: a node that would rather not run it gives it back.

Invariants (``check``): an OFFERED task is in exactly one offer, a FORWARDED one at exactly one
neighbour; a task that is given up elsewhere is placed again or fails.
"""

from __future__ import annotations

from collections import Counter, deque
from itertools import islice
from typing import TYPE_CHECKING, Any

from skate import messages as m
from skate.config import (
    LOCALITY_BYTES,
    OFFER_TASKS_MAX,
    SPILL_LOOK_S,
    SPILL_RETRY_MAX_S,
    SPILL_WAIT_S,
    UNKNOWN_TASK_S,
)
from skate.ids import return_id
from skate.node.error_payload import error_payload
from skate.node.load import load_of
from skate.objects.object_store import INLINE, REMOTE, SEALED
from skate.rows import OtherNode, SchedulingClass, Task, may_leave
from skate.spec import FORMAT_ERROR, Demand, Strategy
from skate.states import (
    TASK_FAILED,
    TASK_FINISHED,
    TASK_FORWARDED,
    TASK_MOVES,
    TASK_OFFERED,
    TASK_PULLING,
    advance,
)

if TYPE_CHECKING:
    from skate.node.node_core import NodeCore


_Kind = tuple[bytes, Demand, Strategy | None]  # of actors: job, demand, rules


class Offered:
    """Tasks that the global scheduler was asked to place."""

    __slots__ = ("avoid", "reason", "tasks")

    def __init__(self, tasks: list[Task], avoid: list[bytes]) -> None:
        self.tasks = deque(tasks)
        self.avoid = avoid  # nodes that could not be reached then
        self.reason = "the global scheduler is choosing a node"


class Forwarder:
    """See the module's docstring."""

    def __init__(self, core: NodeCore) -> None:
        self._core = core
        self.offers: dict[int, Offered] = {}
        # Offers of what is queued here meanwhile: tasks, with their rules, and actors.
        self.spills: dict[int, tuple[SchedulingClass, Strategy | None]] = {}
        self.actor_spills: dict[int, _Kind] = {}
        self.kept_elsewhere: dict[bytes, OtherNode] = {}  # results that their maker keeps for us
        self.offer_count = 0  # ever
        self._batches: dict[Any, list[Task]] = {}  # to be offered at the end of this turn
        self._look_at = 0.0  # when queues are looked at next
        self._told_at = 0.0  # when the GCS was told of the load here
        self._due: dict[SchedulingClass, tuple[float, float]] = {}  # next spill, and the back-off
        core.neighbours.handlers.update(
            {m.Returned: self._on_returned, m.GivenBack: self._on_given_back}
        )

    # ------------------------------------------------------------------ choosing

    def place(self, task: Task) -> None:
        """Its inputs exist, here or elsewhere: run it here, or have a node chosen for it."""
        core = self._core
        spec = task.template.spec
        strategy = spec.strategy
        if strategy is not None and strategy.kind == "NODE" and not strategy.rules:
            if strategy.node_id == core.node_id:
                if not core.scheduler.missing(spec.demand) and not strategy.fail_if_busy:
                    task.is_bound = True
                    self.take(task)
                    return
            elif not strategy.soft and not strategy.fail_if_busy and task.owner is not None:
                host = core.neighbours.by_id.get(strategy.node_id)
                if host is not None and _can_hold(host.info.resources, spec.demand):
                    task.is_bound = True
                    self.forward(task, host)
                    return
        if task.is_bound or (strategy is None and not self._is_better_offered(task)):
            self.take(task)
        else:
            self._offer(task)

    def _is_better_offered(self, task: Task) -> bool:
        core = self._core
        spec = task.template.spec
        if spec.group and core.scheduler.missing(spec.demand):
            return True  # the GCS knows where the group is, or that it is gone
        if not core.neighbours.alive:
            return False
        if core.scheduler.missing(spec.demand):
            return True
        return self._bytes_elsewhere(task) >= LOCALITY_BYTES

    def _bytes_elsewhere(self, task: Task) -> int:
        objects = self._core.store.objects
        inputs = (objects[i] for i in task.dependencies or ())
        return sum(stored.size for stored in inputs if stored.state is REMOTE)

    def take(self, task: Task) -> None:
        """Run it here, once its inputs are."""
        core = self._core
        missing = 0
        for object_id in task.dependencies or ():
            stored = core.store.objects[object_id]
            if stored.is_error:  # it was lost while a node was being chosen
                core.fail_task(task, stored.data, dependant=True)
                return
            if stored.state is not INLINE and stored.state is not SEALED:
                missing += 1
        if not missing:
            core.scheduler.enqueue(task, core.now)
            return
        task.state = advance(TASK_MOVES, task.state, TASK_PULLING)
        task.missing = missing
        task.is_here = True
        for object_id in task.dependencies or ():
            stored = core.store.objects[object_id]
            if stored.state is INLINE or stored.state is SEALED:
                continue
            if stored.waiters is None:
                stored.waiters = []
            stored.waiters.append(task)
            if stored.state is REMOTE:
                core.pulls.want(stored)
            elif stored.is_foreign:
                core.borrowing.ask_home(stored)

    def _offer(self, task: Task) -> None:
        if task.state is not TASK_OFFERED:  # it is, if its node was lost
            task.state = advance(TASK_MOVES, task.state, TASK_OFFERED)
        far = self._bytes_elsewhere(task) >= LOCALITY_BYTES
        spec = task.template.spec
        key = task.id if far else (task.template.queue, spec.strategy, spec.kind)
        self._batches.setdefault(key, []).append(task)

    def flush(self) -> None:
        """At the end of a turn: offer what this turn has brought, or has shown to wait too long."""
        core = self._core
        if core.neighbours.alive and core.scheduler.ready and core.now >= self._look_at:
            self._spill_what_waits()
        if self._batches:
            batches, self._batches = self._batches, {}
            for tasks in batches.values():
                self._send_offer([t for t in tasks if t.state is TASK_OFFERED])

    def _send_offer(self, tasks: list[Task]) -> None:
        if not tasks:
            return
        core = self._core
        first = tasks[0]
        spec = first.template.spec
        avoid = core.neighbours.unreachable()
        self.offer_count += 1
        self.offers[self.offer_count] = Offered(tasks, avoid)
        core.gcs.append(
            m.Offer(
                number=self.offer_count,
                demand=spec.demand,
                count=len(tasks),
                queued=first.template.queue.count + len(tasks),
                average_s=first.template.average_s,
                strategy=spec.strategy,
                inputs=self._inputs_for_offer(first),
                # A bundle may still come to be here.
                must_leave=not spec.group and bool(core.scheduler.missing(spec.demand)),
                avoid=avoid,
                name=spec.name,
                is_actor=spec.kind == "actor",
            )
        )

    def _inputs_for_offer(self, task: Task) -> list[tuple[list[bytes], int]]:
        inputs = []
        for object_id in task.dependencies or ():
            stored = self._core.store.objects[object_id]
            if stored.size:
                here = [self._core.node_id] if stored.state is SEALED else []
                inputs.append((here + list(stored.nodes or ()), stored.size))
        return inputs

    def on_placed(self, message: m.Placed) -> None:
        """The global scheduler has chosen."""
        if message.number in self.spills:
            self._on_spill_placed(message)
            return
        if message.number in self.actor_spills:
            self._on_room(message)
            return
        offered = self.offers.get(message.number)
        if offered is None:
            return
        tasks = offered.tasks
        for node_id, count in message.places:
            for _ in range(min(count, len(tasks))):
                task = tasks.popleft()
                if task.state is TASK_OFFERED:  # else it has failed, or its actor was killed
                    self._send_to(task, node_id)
        if not tasks:
            del self.offers[message.number]
        elif message.error:
            del self.offers[message.number]
            for task in tasks:
                if task.state is TASK_OFFERED:
                    self._core.fail_task(task, FORMAT_ERROR + message.error)
        elif message.reason:
            offered.reason = message.reason  # and it will answer again
            if message.rules_unmet:
                self._core.warn_of_rules(tasks[0].template, message.reason)
        else:
            del self.offers[message.number]
            for task in tasks:
                if task.state is TASK_OFFERED:
                    self.take(task)

    def _send_to(self, task: Task, node_id: bytes) -> None:
        core = self._core
        if not task.template.may_move:
            task.is_bound = True  # chosen for more than its load
        if node_id == core.node_id:
            self.take(task)
            return
        host = core.neighbours.by_id.get(node_id)
        if host is None:  # it has died since
            task.is_bound = False
            self._batches.setdefault(task.id, []).append(task)
        else:
            self.forward(task, host)

    # ------------------------------------------------------------------ what waits here too long

    def tick(self) -> None:
        """After each heartbeat: offer what would wait too long, though it is queued here."""
        core = self._core
        self._told_at = core.now
        self._offer_again()
        self._offer_what_can_not_run_here()
        if not core.neighbours.alive:
            return
        self._spill_what_waits()
        self._spill_actors()

    def _spill_actors(self) -> None:
        # They keep their turn here meanwhile.
        core = self._core
        waiting: dict[_Kind, list[Task]] = {}
        for task in core.scheduler.placing:
            if self._waits_for_long(task):
                waiting.setdefault(_kind_of(task), []).append(task)
        for kind, tasks in waiting.items():
            if kind not in self.actor_spills.values():
                self.offer_count += 1
                self.actor_spills[self.offer_count] = kind
                self._ask_for_room(tasks)

    def _ask_for_room(self, tasks: list[Task]) -> None:
        template = tasks[0].template
        self._core.gcs.append(
            m.Offer(
                number=self.offer_count,
                demand=template.spec.demand,
                count=len(tasks),
                queued=len(tasks),
                average_s=-1.0,
                strategy=template.rules,
                avoid=self._core.neighbours.unreachable(),
                name=template.spec.name,
                is_actor=True,
            )
        )

    def _on_room(self, message: m.Placed) -> None:
        kind = self.actor_spills.pop(message.number)
        placing = self._core.scheduler.placing
        ready = [t for t in placing if self._waits_for_long(t) and _kind_of(t) == kind]
        for node_id, count in message.places:
            host = self._core.neighbours.by_id.get(node_id)
            if host is None:
                continue
            for task in ready[:count]:
                placing.remove(task)
                if task.owner.node_id:
                    self._core.remote_actors.give_back(task, node_id)
                else:
                    self.forward(task, host)
            del ready[:count]

    def _spill_what_waits(self) -> None:
        core = self._core
        self._look_at = core.now + SPILL_LOOK_S
        for queue in core.scheduler.ready:
            due, pause = self._due.get(queue, (0.0, SPILL_WAIT_S))
            if not queue.count or core.now < due or self._wait_s(queue) <= SPILL_WAIT_S:
                continue
            if core.now - due > SPILL_RETRY_MAX_S:
                # It has grown of late, as those of other nodes may have: first all say so, or each
                # would take the others for idle.
                self._due[queue] = (core.now + SPILL_LOOK_S, SPILL_WAIT_S)
                self._tell_load()
                continue
            self._due[queue] = (core.now + pause, min(2 * pause, SPILL_RETRY_MAX_S))
            self._tell_load()
            self._spill(queue)

    def _tell_load(self) -> None:
        core = self._core
        if core.now > self._told_at:
            self._told_at = core.now
            core.gcs.append(load_of(core))

    def _offer_what_can_not_run_here(self) -> None:
        # What waited for a bundle that was reserved here, and was given back before the commit,
        # goes up also from a node that is alone: the GCS knows what has become of the group.
        core = self._core
        for queue in list(core.scheduler.ready):
            if core.scheduler.missing(queue.demand) and self._may_go_up(queue.head()):
                self._offer_all(queue)
        for task in list(core.scheduler.placing):
            if task.is_bound or task.owner.node_id or not self._may_go_up(task):
                continue
            if core.scheduler.missing(task.template.spec.demand):
                core.scheduler.placing.remove(task)
                self._offer(task)

    def _may_go_up(self, task: Task) -> bool:
        return bool(self._core.neighbours.alive or task.template.spec.group)

    def _offer_all(self, queue: SchedulingClass) -> None:
        # They were queued while this node was alone, or had more than it has now.
        for task in queue.clear():
            if task.is_bound:
                queue.push(task)
            elif task.owner.node_id:
                self._core.guests.give_back(task, "this node does not have the resources", b"")
            else:
                self._offer(task)
        if not queue.count:
            self._core.scheduler.ready.pop(queue, None)

    def _offer_again(self) -> None:
        # What waits in the GCS and may not go to a node that could not be reached then: now it may.
        avoid: list[bytes] | None = None
        for number, offered in list(self.offers.items()):
            if offered.avoid:
                avoid = self._core.neighbours.unreachable() if avoid is None else avoid
                if avoid != offered.avoid:
                    # Under a new number: an answer to the old one may be under way.
                    del self.offers[number]
                    self._withdraw(number)
                    self._send_offer([t for t in offered.tasks if t.state is TASK_OFFERED])

    def _withdraw(self, number: int) -> None:
        self._core.gcs.append(m.Offer(number, (), 0, 0, 0.0))

    def _waits_for_long(self, task: Task) -> bool:
        """Whether an actor may go to another node now. It was sent here for the room that there
        was, and others may have taken that first."""
        waited_s = self._core.now - task.ready_at
        is_free = may_leave(task)
        if task.owner.node_id:
            is_free = task.template.may_move and not self._core.remote_actors.is_called_here(task)
        return is_free and waited_s > SPILL_WAIT_S

    def _wait_s(self, queue: SchedulingClass) -> float:
        average = queue.head().template.average_s
        wait_s = self._unserved_s(queue)
        if average >= 0:
            wait_s = max(wait_s, queue.count * average / max(1, len(queue.leased)))
        return wait_s

    def _unserved_s(self, queue: SchedulingClass) -> float:
        # Since when nothing of the class was sent to a worker, though something waited: others may
        # have all resources, or a task may take longer than they did so far.
        since = queue.head().ready_at
        for worker in queue.leased.values():
            for task in worker.tasks.values():
                since = max(since, task.sent_at)
        return self._core.now - since

    def _spill(self, queue: SchedulingClass) -> None:
        if any(spilled is queue for spilled, _ in self.spills.values()):
            return
        # Those that have to stay are not offered: what is placed and does not come would count as
        # on its way, and keep others from an idle node.
        movable = filter(may_leave, islice(queue, OFFER_TASKS_MAX))
        for rules, count in Counter(task.template.rules for task in movable).items():
            self._offer_queued(queue, rules, count)

    def _offer_queued(self, queue: SchedulingClass, rules: Strategy | None, count: int) -> None:
        core = self._core
        template = queue.head().template
        # What has waited for so long will wait for as long again, as if so many tasks went first.
        task_s = template.average_s if template.average_s > 0 else UNKNOWN_TASK_S
        ahead = max(queue.count - count, int(self._unserved_s(queue) / task_s))
        self.offer_count += 1
        self.spills[self.offer_count] = (queue, rules)
        core.gcs.append(
            m.Offer(
                number=self.offer_count,
                demand=queue.demand,
                count=count,
                queued=count + ahead,
                average_s=template.average_s,
                strategy=rules,
                avoid=core.neighbours.unreachable(),
                name=template.spec.name,
            )
        )

    def _on_spill_placed(self, message: m.Placed) -> None:
        core = self._core
        queue, rules = self.spills.pop(message.number)
        for node_id, count in message.places:
            host = core.neighbours.by_id.get(node_id)
            if host is None or not queue.count:
                continue
            self._due[queue] = (core.now + SPILL_WAIT_S, SPILL_WAIT_S)
            for task in queue.take_back(count, rules):
                if task.owner.node_id:
                    core.guests.give_back(task, "another node has room for it", node_id)
                else:
                    self.forward(task, host)
        if not queue.count:
            core.scheduler.ready.pop(queue, None)

    # ------------------------------------------------------------------ elsewhere

    def forward(self, task: Task, host: OtherNode) -> None:
        """Send the task to the node that is to run it."""
        core = self._core
        task.state = advance(TASK_MOVES, task.state, TASK_FORWARDED)
        task.host = host
        if task.template.spec.kind == "actor":
            core.remote_actors.forward_creation(task, host)
            return
        number = core.neighbours.introduce(host, task.template)
        host.tasks[task.id] = task
        core.neighbours.send(
            host,
            m.Forward(
                task.id,
                task.attempt,
                number,
                task.arguments,
                task.dependencies,
                task.nested,
                self.inputs_of(task),
                task.depth,
                task.retries_left,
                task.is_bound,
            ),
        )

    def inputs_of(self, task: Task) -> list[m.Input] | None:
        """The values of its dependencies, or where they are."""
        if task.dependencies is None:
            return None
        inputs = []
        for object_id in task.dependencies:
            stored = self._core.store.objects[object_id]
            if stored.state is INLINE:
                inputs.append(m.Input(stored.data))
            else:
                stored.is_shared = True
                here = [self._core.node_id] if stored.state is SEALED else []
                inputs.append(m.Input(b"", stored.size, here + list(stored.nodes or ())))
        return inputs

    def _on_returned(self, host: OtherNode, message: m.Returned) -> None:
        task = host.tasks.pop(message.task_id, None)
        if task is None:
            if not self._core.remote_actors.on_returned(host, message):
                self._let_go_of_results(host, message)
            return
        outcome = TASK_FAILED if message.failed else TASK_FINISHED
        task.state = advance(TASK_MOVES, task.state, outcome)
        self.store_results(task, host, message)
        self._core.drop_arguments(task)

    def store_results(self, task: Task, host: OtherNode, message: m.Returned) -> None:
        """Keep the results of a task or call that ran elsewhere, or where they are kept."""
        core = self._core
        give_up: list[bytes] = []
        for index, result in enumerate(message.results):
            object_id = return_id(task.id, index)
            size = result.value.size
            if size:
                if core.desk.store_remote(object_id, size, host.node_id, result.contains):
                    self.kept_elsewhere[object_id] = host
                else:
                    give_up.append(object_id)
            else:
                core.desk.store_result(object_id, result.value, result.contains)
                if result.contains:
                    give_up.append(object_id)
        if give_up:
            core.borrowing.releases.append((host, give_up))

    def _let_go_of_results(self, host: OtherNode, message: m.Returned) -> None:
        # Its job has ended, or it has failed here already: nobody wants what is kept there.
        kept = [
            return_id(message.task_id, index)
            for index, result in enumerate(message.results)
            if result.value.size or result.contains
        ]
        if kept:
            self._core.borrowing.releases.append((host, kept))

    def kept_at(self, host: OtherNode) -> list[bytes]:
        """The results that this node keeps for this home."""
        return [object_id for object_id, maker in self.kept_elsewhere.items() if maker is host]

    def freed(self, object_ids: list[bytes]) -> None:
        """Nobody holds these any more: their makers need not keep them."""
        for object_id in object_ids:
            host = self.kept_elsewhere.pop(object_id, None)
            if host is not None and host.is_alive:
                self._core.borrowing.releases.append((host, [object_id]))

    def _on_given_back(self, host: OtherNode, message: m.GivenBack) -> None:
        for task_id in message.task_ids:
            task = host.tasks.pop(task_id, None)
            if task is None:
                task = self._core.remote_actors.given_back(host, task_id, message.life)
            if task is None:
                continue
            task.host = None
            task.state = advance(TASK_MOVES, task.state, TASK_OFFERED)
            if message.node_id:
                if message.node_id == self._core.node_id:
                    # It counts as placed here, and as on its way until it has been received.
                    self._core.guests.received += 1
                self._send_to(task, message.node_id)
            else:
                self._batches.setdefault(task.id, []).append(task)

    # ------------------------------------------------------------------ ends

    def node_lost(self, host: OtherNode, tasks: dict[bytes, Task], why: str) -> None:
        """Its tasks are run again elsewhere if they may be; its copies are gone.

        But for the results that it keeps for this home, if it lives.
        """
        core = self._core
        if not host.is_alive:
            for object_id in self.kept_at(host):
                del self.kept_elsewhere[object_id]
        core.desk.copies_lost(host)
        for task in tasks.values():
            task.host = None
            task.is_bound = False
            if task.retries_left == 0:
                core.fail_task(
                    task,
                    error_payload(
                        "NodeDiedError",
                        f"The task {task.template.spec.name} was on node {host.node_id.hex()} "
                        f"({host.address}) when {why}, and it has no retries left.",
                        task_id=task.id.hex(),
                        node_id=host.node_id.hex(),
                    ),
                )
                continue
            task.retries_left -= task.retries_left > 0
            task.attempt += 1
            task.state = advance(TASK_MOVES, task.state, TASK_OFFERED)
            core.desk.place_when_ready(task)

    def end_job(self, job_id: bytes) -> list[Task]:
        """The job is over: withdraw its offers; the tasks that will not come back."""
        tasks: list[Task] = []
        for number, offered in list(self.offers.items()):
            if offered.tasks and offered.tasks[0].template.job_id == job_id:
                del self.offers[number]
                tasks += offered.tasks
                self._withdraw(number)
        for number, (queue, _) in list(self.spills.items()):
            if queue.pool.job_id == job_id:
                del self.spills[number]
        for queue in [q for q in self._due if q.pool.job_id == job_id]:
            del self._due[queue]
        for key, batch in list(self._batches.items()):
            if batch[0].template.job_id == job_id:
                del self._batches[key]
                tasks += batch
        for neighbour in self._core.neighbours.by_id.values():
            tasks += [t for t in neighbour.tasks.values() if t.template.job_id == job_id]
        return tasks

    def pending(self) -> list[m.Demanded]:
        """What waits for a node, for people."""
        rows = []
        for offered in self.offers.values():
            if offered.tasks:
                spec = offered.tasks[0].template.spec
                rows.append(
                    m.Demanded(spec.name, dict(spec.demand), len(offered.tasks), offered.reason)
                )
        return rows

    def is_idle(self) -> bool:
        """Whether nothing of this home is anywhere else; for tests and the simulator."""
        spills = self.spills or self.actor_spills
        return not (self.offers or spills or self.kept_elsewhere or self._batches)

    def check(self) -> None:
        """Assert the invariants; for tests and the simulator."""
        for offered in self.offers.values():
            assert offered.tasks
        for neighbour in self._core.neighbours.by_id.values():
            assert all(task.state is TASK_FORWARDED for task in neighbour.tasks.values())


def _kind_of(task: Task) -> _Kind:
    template = task.template
    return template.job_id, template.spec.demand, template.rules


def _can_hold(resources: dict[str, int], demand: Any) -> bool:
    return all(resources.get(name, 0) >= units for name, units in demand)
