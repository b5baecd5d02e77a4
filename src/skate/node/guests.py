"""Tasks of other homes that run here. Pure.

Part of the node core: a node that has connected is a peer with the role "node". It introduces jobs,
templates and functions, forwards tasks, and gets back what they return. It holds each result like
any process that submits: what is large, or contains refs, is kept here until it lets go.

When that peer is lost its home is dead, or has given this node up and runs its tasks elsewhere:
those that have not begun are dropped, and nobody is told of the others (*orphans*). If one of these
comes back as a new attempt, its process is killed, and the new attempt waits until it is gone; that
of an actor's call waits until the actor is done with the old one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skate import messages as m
from skate.ids import job_of, return_id
from skate.node.validity import check_call
from skate.objects.object_store import PENDING, SEALED, StoredObject
from skate.rows import Client, Job, Task
from skate.spec import FORMAT_ERROR
from skate.states import (
    TASK_FAILED,
    TASK_MOVES,
    TASK_PULLING,
    TASK_READY,
    TASK_WAITING,
    advance,
)

if TYPE_CHECKING:
    from skate.node.node_core import NodeCore


class Guests:
    """See the module's docstring."""

    def __init__(self, core: NodeCore) -> None:
        self._core = core
        self.received = 0  # tasks forwarded here, ever: the global scheduler compares
        self._orphans: dict[bytes, Task] = {}  # at workers and actors
        self._behind: dict[bytes, Task] = {}  # new attempts, behind orphans

    def on_introduce(self, peer: Client, message: m.Introduce) -> None:
        """A job of another node: its workers are configured as its driver was."""
        core = self._core
        if message.driver_node in core.neighbours.dead:
            core.job_desk.on_over(m.JobOver(message.job_id))
        if message.job_id not in core.jobs and message.job_id not in core.job_desk.ended:
            core.jobs[message.job_id] = Job(
                message.job_id, message.job, None, message.driver_node, message.driver_pid
            )

    def on_forward(self, peer: Client, message: m.Forward) -> None:
        """A task to run here; its home holds its refs until it has returned."""
        core = self._core
        self.received += 1
        template = peer.templates.get(message.template)
        if template is None or template.job_id not in core.jobs:
            if job_of(message.task_id) not in core.job_desk.ended:
                raise ValueError(f"a task with the unknown template {message.template}")
            # Its home will hear of that end as well.
            core.send(peer, m.GivenBack([message.task_id], "the job has ended here"))
            return
        task = Task(
            message.task_id,
            template,
            message.arguments,
            message.dependencies,
            None,
            peer,
            message.depth,
            core.now,
        )
        check_call(task.id, template.spec, "task")
        task.attempt = message.attempt
        task.retries_left = message.retries_left
        task.is_bound = message.is_bound
        self.adopt_returns(peer, task)
        failed = self.borrow_inputs(task, message.inputs)
        if failed:
            core.fail_task(task, failed, dependant=True)
        elif core.scheduler.missing(template.spec.demand):
            self.give_back(task, "this node does not have the resources (any more)", b"")
        elif task.id in self._orphans:
            self._behind[task.id] = task
            worker = self._orphans[task.id].worker
            assert worker is not None  # what a worker hands back is no orphan any more
            core.shell.kill_worker(worker)
        else:
            core.forwarder.take(task)

    def adopt_returns(self, peer: Client, task: Task) -> None:
        """The home holds each return of the task, which is made here."""
        task.came_after = self._core.borrowing.new_holds
        for index in range(task.template.spec.num_returns):
            object_id = return_id(task.id, index)
            if object_id not in peer.held:
                self._core.store.adopt(object_id, peer)
                peer.held.add(object_id)

    def borrow_inputs(self, task: Task, inputs: list[m.Input] | None) -> bytes:
        """Hold the dependencies, and take down their values or where they lie.

        The error that one of them is, if any: its home is here, and has freed it after it had lost
        sight of the other node.
        """
        core = self._core
        failed = b""
        for object_id, given in zip(task.dependencies or (), inputs or (), strict=True):
            stored = core.store.borrow(object_id)
            if stored.is_foreign and stored.owner is None and (given.data or given.size):
                core.borrowing.value_known(object_id, given.data, given.size, given.nodes or ())
            # Else it is made here, or its home is here: what the other node knows comes from here,
            # or will be told by who has made it.
            elif not stored.is_foreign and stored.holds == 1 and stored.state is PENDING:
                payload = core.desk.lost_payload(object_id)
                core.store.fulfil_inline(stored, payload, None)
            if stored.is_error:
                failed = stored.data
        return failed

    def completed(self, task: Task, results: list[m.Result], failed: bool) -> None:
        """A task or call of another home has ended here: tell it, and keep what it has to fetch."""
        core = self._core
        home = task.owner
        told = []
        done: list[bytes] = []
        for index, result in enumerate(results):
            object_id = return_id(task.id, index)
            stored = core.store.objects.get(object_id)
            if stored is not None and object_id in home.held:
                result = self._as_stored(stored, result)
                if not result.value.size and not result.contains:
                    done.append(object_id)  # its home has all of it, and will not ask for more
            told.append(result)
        returned = m.Returned(task.id, task.attempt, told, failed)
        core.borrowing.leave(home, returned, task.came_after)
        for object_id in done:
            home.held.discard(object_id)
            core.store.release(object_id, borrowed=True)

    def _as_stored(self, stored: StoredObject, result: m.Result) -> m.Result:
        """What the home is told: it is to have the value that others here have read.

        An earlier attempt may have made it, if its home lost sight of this node before it returned.
        """
        if stored.state is SEALED:
            return m.Result(m.Value(b"", 0, stored.size), stored.contains)
        value = result.value
        if stored.is_error and not value.size and value.data[:1] != FORMAT_ERROR:
            # All that was known here was that it is lost. The home need not know that.
            if result.contains:
                self._core.store.take_contents(stored, result.contains)
            return result
        return m.Result(m.Value(stored.data), stored.contains)

    def give_back(self, task: Task, reason: str, node_id: bytes) -> None:
        """It will not run here; its home finds another place (``node_id``, if there is one)."""
        core = self._core
        task.state = advance(TASK_MOVES, task.state, TASK_FAILED)
        core.drop_arguments(task)
        home = task.owner
        core.send(home, m.GivenBack([task.id], reason, node_id))
        for stored in self.disown_returns(task):
            core.borrowing.ask_home(stored)

    def disown_returns(self, task: Task) -> list[StoredObject]:
        """The returns of the task are not made here, but elsewhere, if at all; those that somebody
        here waits for."""
        home = task.owner
        left = []
        for index in range(task.template.spec.num_returns):
            object_id = return_id(task.id, index)
            if object_id in home.held:
                home.held.discard(object_id)
                stored = self._core.store.objects[object_id]
                stored.owner = None
                self._core.store.release(object_id, borrowed=True)
                if stored.holds and stored.state is PENDING:
                    left.append(stored)
        return left

    def is_orphan(self, task: Task) -> bool:
        """Whether nobody wants to know what becomes of the task."""
        return bool(task.owner.node_id) and not task.owner.alive

    def orphan_ended(self, task: Task) -> None:
        """It has run, or its worker is dead, or will not run it: it is over."""
        core = self._core
        task.state = TASK_FAILED
        core.drop_arguments(task)
        self._orphans.pop(task.id, None)
        behind = self._behind.pop(task.id, None)
        if behind is None or behind.state is not TASK_WAITING:
            return
        if behind.actor is None:
            core.forwarder.take(behind)
            return
        behind.missing -= 1
        if not behind.missing:
            core.actors.arguments_ready(behind)

    def stand_behind(self, call: Task) -> None:
        """A call to an actor that is still at an older attempt of it: that ends first."""
        if call.id in self._orphans:
            self._behind[call.id] = call
            call.missing += 1  # so what its caller calls next waits as well

    def drop_orphans(self, task_ids: list[bytes]) -> None:
        """A worker has handed these back: nobody wants the orphans among them to be run."""
        for task_id in task_ids:
            task = self._orphans.get(task_id)
            if task is not None and task.state is TASK_READY:
                queue = task.template.queue
                queue.take_out(task)
                if not queue.count:
                    self._core.scheduler.ready.pop(queue, None)
                self.orphan_ended(task)

    def end_job(self, job_id: bytes) -> list[Task]:
        """The job is over: what waits behind orphans will not run."""
        tasks = [task for task in self._behind.values() if task.template.job_id == job_id]
        for task in tasks:
            del self._behind[task.id]
        return tasks

    def home_lost(self, peer: Client) -> None:
        """Nobody waits for its tasks: drop those that have not begun."""
        core = self._core
        dropped = [task for task in self._behind.values() if task.owner is peer]
        for task in dropped:
            del self._behind[task.id]
        for worker in core.scheduler.workers.values():
            for task in worker.tasks.values():
                if task.owner is peer:
                    self._orphans[task.id] = task
        for actor in core.actors.router.actors.values():
            for call in actor.in_flight.values():
                if call.owner is peer:
                    self._orphans[call.id] = call
        calls = core.actors.router.take_node(peer)
        dropped += calls
        for queue in list(core.scheduler.ready):
            for task in [t for t in queue if t.owner is peer]:
                queue.take_out(task)
                dropped.append(task)
            if not queue.count:
                del core.scheduler.ready[queue]
        pulling = {
            task.id: task  # it may wait for several inputs
            for stored in core.store.objects.values()
            for task in stored.waiters or ()
            if task.owner is peer and task.state is TASK_PULLING
        }
        dropped += pulling.values()
        for task in dropped:
            if task.state in (TASK_WAITING, TASK_READY, TASK_PULLING):
                task.state = advance(TASK_MOVES, task.state, TASK_FAILED)
                core.drop_arguments(task)
        core.actors.undelivered_lost(calls)
        for stored in list(core.store.objects.values()):
            if stored.owner is peer:
                stored.owner = None  # if it is made, then elsewhere
                if stored.state is PENDING and (stored.waiters or stored.subscribers):
                    core.borrowing.ask_home(stored)
