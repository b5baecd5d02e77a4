"""How an actor comes to life on this node: created, placed, constructed. Pure.

The arguments of its constructor are held until it is DEAD, or ALIVE and never to be restarted.
"""

from __future__ import annotations

from typing import Protocol

from skate import messages as m
from skate.error_records import ErrorRecord, encode_error
from skate.ids import handle_id
from skate.node.actor_life import ActorLife
from skate.node.actor_names import ActorNames
from skate.node.actor_reports import ActorReports
from skate.node.actor_router import ActorRouter
from skate.node.clock import Clock
from skate.node.event_notes import EventNotes
from skate.node.hears import CLIENTS, hears
from skate.node.identity import Identity
from skate.node.introductions import Introductions
from skate.node.jobs import Jobs
from skate.node.outbox import Outbox
from skate.node.placing import Placing
from skate.node.running import Running
from skate.node.validity import check_call, read_error
from skate.node.values import Values
from skate.node.workers import Workers
from skate.node.world import Shell
from skate.objects.object_store import ObjectStore
from skate.rows import Actor, Client, Task, Worker
from skate.scheduler.local_scheduler import LocalScheduler
from skate.spec import FORMAT_ERROR
from skate.states import TASK_MOVES, ActorState, TaskState, advance

ALIVE = ActorState.ALIVE


class _ActorCalls(Protocol):
    def call_early(self, actor: Actor, call: Task) -> None: ...


class ActorBirths:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        clock: Clock,
        outbox: Outbox,
        me: Identity,
        shell: Shell,
        store: ObjectStore,
        scheduler: LocalScheduler,
        router: ActorRouter,
        jobs: Jobs,
        notes: EventNotes,
        introductions: Introductions,
        values: Values,
        running: Running,
        workers: Workers,
        placing: Placing,
        actor_names: ActorNames,
        actor_reports: ActorReports,
        actor_life: ActorLife,
        actor_calls: _ActorCalls,
    ) -> None:
        self._clock = clock
        self._outbox = outbox
        self._me = me
        self._shell = shell
        self._store = store
        self._scheduler = scheduler
        self._router = router
        self._jobs = jobs
        self._notes = notes
        self._introductions = introductions
        self._values = values
        self._running = running
        self._workers = workers
        self._placing = placing
        self._actor_names = actor_names
        self._actor_reports = actor_reports
        self._actor_life = actor_life
        self._actor_calls = actor_calls

    @hears(m.CreateActor, *CLIENTS)
    def on_create(self, client: Client, message: m.CreateActor) -> None:
        """A new actor; its creator holds the handle from here on."""
        template = client.templates[message.template]
        check_call(message.task_id, template.spec, "actor")
        if message.task_id in self._router.actors:
            raise ValueError(f"a second actor {message.task_id.hex()}")
        options = message.options
        if options.detached and self._me.is_cluster:
            template = self._jobs.found(message.task_id, options.class_name, template)
        task = Task(
            message.task_id,
            template,
            message.arguments,
            message.dependencies,
            message.nested,
            client,
            0,
            self._clock.now,
        )
        actor = Actor(task, options, client)
        task.actor = actor
        self._router.add(actor)
        counted = handle_id(actor.id)
        stored = self._store.promise(counted, client)
        self._store.fulfil_inline(stored, b"", None)
        self._store.watched.add(counted)
        client.held.add(counted)
        self._actor_reports.report(actor)
        if self._running.hold_arguments(task):
            self._placing.place(task)
        unborn = self._actor_names.unborn.pop(actor.id, None)
        if unborn is not None:
            for call in unborn.calls:
                self._actor_calls.call_early(actor, call)

    def place(self, task: Task) -> None:
        """The placement demand is free: keep the running demand and fork the process."""
        actor: Actor = task.actor
        job = self._jobs.by_id.get(task.template.job_id)
        if job is None:
            return
        if actor.state is ActorState.DEPENDENCIES_UNREADY:
            actor.move(ActorState.PENDING_CREATION)
        actor.gpus = self._scheduler.take(task.template.spec.running_demand)
        actor.placed = True
        pool = self._scheduler.pool(job.id, task.template.spec.threads)
        worker = Worker(self._shell.new_id(), pool, self._clock.now)
        worker.actor = actor
        actor.worker = worker
        self._scheduler.workers[worker.id] = worker
        task.state = advance(TASK_MOVES, task.state, TaskState.SENT)
        task.sent_at = self._clock.now
        self._workers.start_process(worker, job, actor.id, actor.options)

    def worker_ready(self, worker: Worker) -> None:
        """The process is up: run the constructor."""
        actor: Actor = worker.actor
        if actor.worker is not worker:
            return  # killed while it started
        task = actor.creation
        self._introductions.to_worker(worker.client, task.template)
        values = self._values.values_of(task.dependencies) if task.dependencies else None
        self._outbox.send(
            worker.client,
            m.Run(
                task.id,
                actor.restarts,
                task.template.number,
                task.arguments,
                task.dependencies,
                values,
                0,
                actor.gpus,
            ),
        )

    def constructed(self, actor: Actor, done: m.Done) -> None:
        """The constructor has run, or raised."""
        task = actor.creation
        worker = actor.worker
        assert worker is not None
        if done.failed:
            record = read_error(done.data)
            cause = ErrorRecord(
                kind="ActorDiedError",
                message=f"The actor {actor.options.class_name} died because its __init__ raised an "
                f"exception:\n{record.message}",
                fields={
                    "actor_id": actor.id.hex(),
                    "actor_init_failed": True,
                    "cause_type": str(record.fields.get("cause_type", "")),
                },
                pickled_cause=record.pickled_cause,
            )
            task.state = advance(TASK_MOVES, task.state, TaskState.FAILED)
            self._notes.task(task, done.started, done.ended, worker, done.data)
            left = actor.cause if actor.leaving else b""  # exit_actor() in the constructor
            self._actor_life.die(actor, left or FORMAT_ERROR + encode_error(cause))
            return
        task.state = advance(TASK_MOVES, task.state, TaskState.FINISHED)
        self._notes.task(task, done.started, done.ended, worker, b"")
        actor.move(ALIVE)
        self._actor_reports.report(actor)
        if actor.options.max_restarts == 0:
            self._running.drop_arguments(task)
        self._router.now_alive(actor)
        if not actor.has_handles:
            self._actor_life.end_if_drained(actor)
