"""Tasks of other homes that run here. Pure.

A node that has connected is a client with the role "node". It introduces jobs, templates and
functions, forwards tasks, and gets their results back. It holds each result like any process that
submits: this node keeps a result that is large or contains refs until the home lets go.

When that client is lost, the home is dead, or has given this node up and runs its tasks elsewhere.
Tasks that have not begun are dropped; those that run are *orphans*, and no node hears of their end.
If an orphan comes back as a new attempt, its process is killed, and the new attempt waits until the
process is gone; a new attempt of an actor's call waits until the actor is done with the old one.
"""

from __future__ import annotations

from typing import Protocol

from skate import messages as m
from skate.ids import job_of, return_id
from skate.node.actor_router import ActorRouter
from skate.node.borrowing import Borrowing
from skate.node.clock import Clock
from skate.node.finding import Finding
from skate.node.hears import NODE, hears
from skate.node.jobs import Jobs
from skate.node.node_table import NodeTable
from skate.node.outbox import Outbox
from skate.node.running import Running
from skate.node.validity import check_call
from skate.node.values import Values
from skate.node.world import Shell
from skate.objects.object_store import PENDING, SEALED, ObjectStore
from skate.objects.stored_object import StoredObject
from skate.rows import Client, Job, Task
from skate.scheduler.local_scheduler import LocalScheduler
from skate.spec import FORMAT_ERROR
from skate.states import TASK_FAILED, TASK_MOVES, TASK_PULLING, TASK_READY, TASK_WAITING, advance


class _Placing(Protocol):
    def take(self, task: Task) -> None: ...


class _ActorCalls(Protocol):
    def arguments_ready(self, call: Task) -> None: ...

    def undelivered_lost(self, calls: list[Task]) -> None: ...


class _Endings(Protocol):
    def on_over(self, message: m.JobOver) -> None: ...


class Guests:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        clock: Clock,
        outbox: Outbox,
        shell: Shell,
        store: ObjectStore,
        scheduler: LocalScheduler,
        nodes: NodeTable,
        router: ActorRouter,
        jobs: Jobs,
        values: Values,
        finding: Finding,
        borrowing: Borrowing,
        running: Running,
        placing: _Placing,
        actor_calls: _ActorCalls,
        endings: _Endings,
    ) -> None:
        self._clock = clock
        self._outbox = outbox
        self._shell = shell
        self._store = store
        self._scheduler = scheduler
        self._nodes = nodes
        self._router = router
        self._jobs = jobs
        self._values = values
        self._finding = finding
        self._borrowing = borrowing
        self._running = running
        self._placing = placing
        self._actor_calls = actor_calls
        self._endings = endings
        self.received = 0  # tasks ever forwarded here: the global scheduler compares
        self._orphans: dict[bytes, Task] = {}  # tasks of lost homes, at workers and actors
        self._behind: dict[bytes, Task] = {}  # new attempts, behind orphans

    @hears(m.Introduce, NODE)
    def on_introduce(self, client: Client, message: m.Introduce) -> None:
        """A job of another node: its workers are configured as its driver was."""
        if message.driver_node in self._nodes.dead:
            self._endings.on_over(m.JobOver(message.job_id))
        if message.job_id not in self._jobs.by_id and message.job_id not in self._jobs.ended:
            self._jobs.by_id[message.job_id] = Job(
                message.job_id, message.job, None, message.driver_node, message.driver_pid
            )

    @hears(m.Forward, NODE)
    def on_forward(self, client: Client, message: m.Forward) -> None:
        """A task to run here; its home holds its refs until it has returned."""
        self.received += 1
        template = client.templates.get(message.template)
        if template is None or template.job_id not in self._jobs.by_id:
            if job_of(message.task_id) not in self._jobs.ended:
                raise ValueError(f"a task with the unknown template {message.template}")
            # Task of a job that has ended: its home will hear of the end as well.
            self._outbox.send(client, m.GivenBack([message.task_id], "the job has ended here"))
            return
        task = Task(
            message.task_id,
            template,
            message.arguments,
            message.dependencies,
            None,
            client,
            message.depth,
            self._clock.now,
        )
        check_call(task.id, template.spec, "task")
        task.attempt = message.attempt
        task.retries_left = message.retries_left
        task.is_bound = message.is_bound
        task.waited_s = message.waited_s
        self.adopt_returns(client, task)
        failed = self.borrow_inputs(task, message.inputs)
        if failed:
            self._running.fail(task, failed, dependant=True)
        elif self._scheduler.missing(template.spec.demand):
            self.give_back(task, "this node does not have the resources (any more)", b"")
        elif task.id in self._orphans:
            self._behind[task.id] = task
            worker = self._orphans[task.id].worker
            assert worker is not None  # a task that its worker handed back is no orphan any more
            self._shell.kill_worker(worker)
        else:
            self._placing.take(task)

    def adopt_returns(self, client: Client, task: Task) -> None:
        """The task's returns are made here; its home holds each of them."""
        task.came_after = self._borrowing.new_holds
        for index in range(task.template.spec.num_returns):
            object_id = return_id(task.id, index)
            if object_id not in client.held:
                self._store.adopt(object_id, client)
                client.held.add(object_id)

    def borrow_inputs(self, task: Task, inputs: list[m.Input] | None) -> bytes:
        """Hold the dependencies, and note their values or locations.

        Returns the error that one of them is, if any: an object of this home, freed after this node
        had given the other one up.
        """
        failed = b""
        for object_id, given in zip(task.dependencies or (), inputs or (), strict=True):
            stored = self._store.borrow(object_id)
            if stored.is_foreign and stored.owner is None and (given.data or given.size):
                self._finding.value_known(object_id, given.data, given.size, given.nodes or ())
            # Else the object is made here, or is of this home: the other node's knowledge of it
            # comes from here, or its maker will tell.
            elif not stored.is_foreign and stored.holds == 1 and stored.state is PENDING:
                payload = self._values.lost_payload(object_id)
                self._store.fulfil_inline(stored, payload, None)
            if stored.is_error:
                failed = stored.data
        return failed

    def completed(self, task: Task, results: list[m.Result], failed: bool) -> None:
        """A guest task or call has ended here: tell its home, and keep results to be fetched."""
        home = task.owner
        told = []
        done: list[bytes] = []
        for index, result in enumerate(results):
            object_id = return_id(task.id, index)
            stored = self._store.objects.get(object_id)
            if stored is not None and object_id in home.held:
                result = self._as_stored(stored, result)
                if not result.value.size and not result.contains:
                    done.append(object_id)  # the home has the whole value and will not ask again
            told.append(result)
        returned = m.Returned(task.id, task.attempt, told, failed)
        self._borrowing.leave(home, returned, task.came_after)
        for object_id in done:
            home.held.discard(object_id)
            self._store.release(object_id, borrowed=True)

    def _as_stored(self, stored: StoredObject, result: m.Result) -> m.Result:
        """The result for the home: the value that other clients here have read.

        An earlier attempt may have made it, if the home gave this node up before it returned.
        """
        if stored.state is SEALED:
            return m.Result(m.Value(b"", 0, stored.size), stored.contains)
        value = result.value
        if stored.is_error and not value.size and value.data[:1] != FORMAT_ERROR:
            # This node held only an error, that the value is lost. The home need not know.
            if result.contains:
                self._store.take_contents(stored, result.contains)
            return result
        return m.Result(m.Value(stored.data), stored.contains)

    def give_back(self, task: Task, reason: str, node_id: bytes) -> None:
        """The task will not run here; its home finds another place (``node_id``, if given)."""
        task.state = advance(TASK_MOVES, task.state, TASK_FAILED)
        self._running.drop_arguments(task)
        home = task.owner
        self._outbox.send(home, m.GivenBack([task.id], reason, node_id, waited_s=task.waited_s))
        for stored in self.disown_returns(task):
            self._finding.ask_home(stored)

    def disown_returns(self, task: Task) -> list[StoredObject]:
        """The task's returns are made elsewhere, if at all; gives those still waited for here."""
        home = task.owner
        left = []
        for index in range(task.template.spec.num_returns):
            object_id = return_id(task.id, index)
            if object_id in home.held:
                home.held.discard(object_id)
                stored = self._store.objects[object_id]
                stored.owner = None
                self._store.release(object_id, borrowed=True)
                if stored.holds and stored.state is PENDING:
                    left.append(stored)
        return left

    def is_orphan(self, task: Task) -> bool:
        """True if the home that forwarded this task is lost."""
        return bool(task.owner.node_id) and not task.owner.alive

    def orphan_ended(self, task: Task) -> None:
        """An orphan has run, or its worker is dead or will not run it: it is over."""
        task.state = TASK_FAILED
        self._running.drop_arguments(task)
        self._orphans.pop(task.id, None)
        behind = self._behind.pop(task.id, None)
        if behind is None or behind.state is not TASK_WAITING:
            return
        if behind.actor is None:
            self._placing.take(behind)
            return
        behind.missing -= 1
        if not behind.missing:
            self._actor_calls.arguments_ready(behind)

    def stand_behind(self, call: Task) -> None:
        """The actor is still at an older attempt of this call: the older one ends first."""
        if call.id in self._orphans:
            self._behind[call.id] = call
            call.missing += 1  # so that its caller's next calls wait as well

    def drop_orphans(self, task_ids: list[bytes]) -> None:
        """A worker has handed these back: drop the orphans among them."""
        for task_id in task_ids:
            task = self._orphans.get(task_id)
            if task is not None and task.state is TASK_READY:
                self._scheduler.withdraw(task)
                self.orphan_ended(task)

    def end_job(self, job_id: bytes) -> list[Task]:
        """The job is over: its new attempts behind orphans will not run."""
        tasks = [task for task in self._behind.values() if task.template.job_id == job_id]
        for task in tasks:
            del self._behind[task.id]
        return tasks

    def home_lost(self, client: Client) -> None:
        """A home is lost: no client waits for its tasks; drop those that have not begun."""
        dropped = [task for task in self._behind.values() if task.owner is client]
        for task in dropped:
            del self._behind[task.id]
        for worker in self._scheduler.workers.values():
            for task in worker.tasks.values():
                if task.owner is client:
                    self._orphans[task.id] = task
        for actor in self._router.actors.values():
            for call in actor.in_flight.values():
                if call.owner is client:
                    self._orphans[call.id] = call
        calls = self._router.take_node(client)
        dropped += calls
        for queue in list(self._scheduler.ready):
            for task in [t for t in queue if t.owner is client]:
                self._scheduler.withdraw(task)
                dropped.append(task)
        pulling = {
            task.id: task  # by id, as a task may wait for several inputs
            for stored in self._store.objects.values()
            for task in stored.waiters or ()
            if task.owner is client and task.state is TASK_PULLING
        }
        dropped += pulling.values()
        for task in dropped:
            if task.state in (TASK_WAITING, TASK_READY, TASK_PULLING):
                task.state = advance(TASK_MOVES, task.state, TASK_FAILED)
                self._running.drop_arguments(task)
        self._actor_calls.undelivered_lost(calls)
        for stored in list(self._store.objects.values()):
            if stored.owner is client:
                stored.owner = None  # a value of it will be made elsewhere, if at all
                if stored.state is PENDING and (stored.waiters or stored.subscribers):
                    self._finding.ask_home(stored)
