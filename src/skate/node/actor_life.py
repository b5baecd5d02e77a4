"""How an actor of this node goes on, and ends: restarts, kills, handles, its job. Pure.

An actor ends when its last counted handle goes (after the calls that were made), by ``kill``, by
``exit_actor``, with its job, or when its process dies and no restart is left.

Invariant: a DEAD actor has a cause and no calls.
"""

from __future__ import annotations

from typing import Protocol

from skate import messages as m
from skate.error_records import decode_error
from skate.ids import handle_id
from skate.node.actor_names import ActorNames
from skate.node.actor_reports import ActorReports
from skate.node.actor_resources import ActorResources
from skate.node.actor_router import ActorRouter
from skate.node.hears import CLIENTS, NODE, hears
from skate.node.identity import Identity
from skate.node.node_table import NodeTable
from skate.node.outbox import Outbox
from skate.node.placing import Placing
from skate.node.running import Running
from skate.node.workers import Workers
from skate.node.world import Shell
from skate.objects.object_store import ObjectStore
from skate.rows import Actor, Client, Job, Task, Worker
from skate.scheduler.local_scheduler import LocalScheduler
from skate.states import TASK_MOVES, ActorState, TaskState, WorkerState, advance

ALIVE, DEAD, RESTARTING = ActorState.ALIVE, ActorState.DEAD, ActorState.RESTARTING


class _ActorCalls(Protocol):
    def resubmit(self, actor: Actor, calls: list[Task], why: str) -> None: ...


class _ActorProxies(Protocol):
    def forget_if_unused(self, actor: Actor) -> None: ...

    def forget_lines(self, actor: Actor) -> None: ...


class _Endings(Protocol):
    def actor_ended(self, actor_id: bytes, job_id: bytes) -> None: ...


class ActorLife:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        me: Identity,
        shell: Shell,
        store: ObjectStore,
        scheduler: LocalScheduler,
        nodes: NodeTable,
        router: ActorRouter,
        running: Running,
        workers: Workers,
        placing: Placing,
        actor_names: ActorNames,
        actor_resources: ActorResources,
        actor_reports: ActorReports,
        actor_calls: _ActorCalls,
        actor_proxies: _ActorProxies,
        endings: _Endings,
    ) -> None:
        self._outbox = outbox
        self._me = me
        self._shell = shell
        self._store = store
        self._scheduler = scheduler
        self._nodes = nodes
        self._router = router
        self._running = running
        self._workers = workers
        self._placing = placing
        self._actor_names = actor_names
        self._actor_resources = actor_resources
        self._actor_reports = actor_reports
        self._actor_calls = actor_calls
        self._actor_proxies = actor_proxies
        self._endings = endings

    # ------------------------------------------------------------------ handles

    def handles_gone(self) -> None:
        """End the actors whose last handle has gone."""
        handles, self._store.freed_handles = self._store.freed_handles, []
        for counted in handles:
            self._handle_gone(counted)

    def _handle_gone(self, counted: bytes) -> None:
        """No process, task or object holds a handle any more: end after the calls made."""
        actor = self._router.actors.get(counted[:16])
        if actor is None or (actor.options.detached and actor.state is not DEAD):
            return
        if actor.is_proxy:
            self._actor_proxies.forget_if_unused(actor)
            return
        if actor.is_guest:
            return  # a former proxy that moved here: its home counts and sends EndActor
        actor.has_handles = False
        self.end_if_drained(actor)

    def end_if_drained(self, actor: Actor) -> None:
        """The actor has no handle: end it, unless calls are under way or still to be made."""
        if actor.state is DEAD:
            if actor.host is not None:
                self._outbox.send_node(actor.host, m.EndActor(actor.id))
            self._router.actors.pop(actor.id, None)
            if actor.options.name:  # a client that got it by its name is not counted, and may ask
                self._actor_names.note_death(actor.id, actor.cause)
            if actor.options.detached:  # lines of other actors go with their job
                self._actor_proxies.forget_lines(actor)
        elif actor.leaving or not actor.is_drained():
            return
        elif actor.host is not None:
            actor.leaving = actor.state is ALIVE
            self._outbox.send_node(actor.host, m.EndActor(actor.id))
        elif actor.state is ALIVE and actor.worker is not None:
            actor.leaving = True
            if actor.worker.state is WorkerState.ACTOR:  # else it ends already
                self._scheduler.end_worker(actor.worker)
                self._outbox.send(actor.worker.client, m.Exit("its last handle is gone"))
        elif actor.state is ActorState.DEPENDENCIES_UNREADY and actor.creation in (
            self._scheduler.placing
        ):
            missing = self._scheduler.missing(actor.creation.template.spec.demand)
            if missing:  # the actor could never have started
                self.die(
                    actor,
                    self._actor_reports.cause_of_death(
                        actor, "its last handle went before it could start"
                    ),
                )

    # ------------------------------------------------------------------ its process

    def leaving(self, actor: Actor, reason: str) -> None:
        """The process says that it ends on purpose (exit_actor)."""
        if actor.state is DEAD or actor.worker is None or actor.leaving:
            return
        actor.leaving = True
        actor.cause = self._actor_reports.cause_of_death(actor, reason)
        if actor.worker.state is WorkerState.ACTOR:
            self._scheduler.end_worker(actor.worker)
        # exit_actor came from another thread: wake the process's reader.
        self._outbox.send(actor.worker.client, m.Exit(reason))

    @hears(m.KillActor, *CLIENTS, NODE)
    def on_kill(self, client: Client, message: m.KillActor) -> None:
        """ray.kill: the process goes now, by SIGKILL."""
        actor = self._router.actors.get(message.actor_id)
        if actor is None or actor.is_proxy:
            home = self._nodes.home_of(message.actor_id)
            if home is not None:
                self._outbox.send_node(home, message)
            return
        if actor.state is DEAD:
            return
        if actor.host is not None:
            self._outbox.send_node(actor.host, message)
        if message.no_restart:
            self.die(actor, self._actor_reports.cause_of_death(actor, "it was killed with kill()"))
        elif actor.worker is not None:
            self._shell.kill_worker(actor.worker)

    def worker_died(self, worker: Worker, status: int) -> None:
        """The process of an actor is gone."""
        actor: Actor = worker.actor
        self._actor_resources.give_back(actor)
        if actor.state is DEAD:
            return
        actor.worker = None
        if actor.leaving:
            self.die(
                actor,
                actor.cause or self._actor_reports.cause_of_death(actor, "its last handle is gone"),
            )
            return
        how = self._workers.describe_exit(worker, status)
        cause = self._actor_reports.cause_of_death(
            actor,
            f"its process (pid {worker.pid}) died: {how}" if worker.pid else f"its process: {how}",
            pid=worker.pid,
            status=status,
        )
        left = actor.options.max_restarts - actor.restarts
        if actor.options.max_restarts < 0 or left > 0:
            actor.creation.is_bound = True  # its callers send their calls here
            self._restart(actor, cause)
        else:
            self.die(actor, cause)

    def host_lost(self, actor: Actor, why: str) -> None:
        """The node that hosted an actor of this home is gone."""
        if actor.state is DEAD:
            return
        cause = self._actor_reports.cause_of_death(actor, why)
        left = actor.options.max_restarts - actor.restarts
        if actor.leaving or not actor.has_handles:
            self.die(actor, cause)
        elif actor.state is ActorState.PENDING_CREATION:  # the actor has never lived: place it anew
            task = actor.creation
            task.host = None
            task.is_bound = False
            task.state = advance(TASK_MOVES, task.state, TaskState.OFFERED)
            self._placing.place_when_ready(task)
        elif actor.options.max_restarts < 0 or left > 0:
            actor.creation.is_bound = False
            self._restart(actor, cause)
        else:
            self.die(actor, cause)

    def _restart(self, actor: Actor, cause: bytes) -> None:
        in_flight, waiting = self._router.take_all(actor)
        actor.restarts += 1
        if actor.state is not RESTARTING:
            actor.move(RESTARTING)
        self._actor_reports.report(actor)
        self._router.process_lost(actor)
        self._router.again(actor, waiting)
        self._actor_calls.resubmit(actor, in_flight, decode_error(cause[1:]).message)
        self._router.let_go_all(actor)
        actor.creation.state = TaskState.WAITING  # a new life of the same spec
        actor.creation.is_here = False
        self._placing.place(actor.creation)

    # ------------------------------------------------------------------ death

    def die(self, actor: Actor, cause: bytes) -> None:
        """The actor is dead for good: its calls fail."""
        actor.cause = cause
        actor.move(DEAD)
        if actor.creation in self._scheduler.placing:
            self._scheduler.withdraw(actor.creation)
        if actor.creation.state not in (TaskState.FINISHED, TaskState.FAILED):
            actor.creation.state = advance(TASK_MOVES, actor.creation.state, TaskState.FAILED)
        worker, actor.worker = actor.worker, None
        if worker is not None:
            self._shell.kill_worker(worker)
        actor.fetching = None
        in_flight, waiting = self._router.take_all(actor)
        for call in [*in_flight, *waiting, *self._router.take_early(actor)]:
            if actor.host is not None:
                actor.host.calls.pop(call.id, None)
            self._running.fail(call, cause)
        self._running.drop_arguments(actor.creation)
        self._actor_reports.report(actor)
        is_guest = actor.is_guest
        if actor.options.detached and not is_guest:
            actor.has_handles = handle_id(actor.id) in self._store.objects
        if not actor.has_handles:
            self.end_if_drained(actor)
        if not is_guest:
            self._endings.actor_ended(actor.id, actor.creation.template.job_id)

    def is_own_job(self, actor: Actor | None) -> bool:
        """Whether the actor is detached: its job ends with it, as others do with their driver."""
        return actor is not None and actor.options.detached and self._me.is_cluster

    def end_job(self, job: Job) -> tuple[list[Task], list[Task]]:
        """The job is over: forget its actors (the core kills their processes) and its calls.

        Of a proxy, only the job's calls go: the home tells of the actor itself. Returns the
        constructions and calls that will not run, and the calls of other jobs, which have to fail.
        """
        tasks: list[Task] = []
        calls: list[Task] = []
        for actor in list(self._router.actors.values()):
            is_of_job = not actor.is_proxy and actor.creation.template.job_id == job.id
            if not is_of_job or self.is_own_job(actor):
                tasks += self._router.take_job(actor, job.id)
                if not actor.is_proxy and not actor.has_handles:
                    self.end_if_drained(actor)
                continue
            in_flight, waiting = self._router.take_all(actor)
            calls += [*in_flight, *waiting, *self._router.take_early(actor)]
            actor.cause = actor.cause or self._actor_reports.cause_of_death(
                actor, "its job has ended"
            )
            actor.fetching = None
            if actor.host is not None:
                for call in in_flight:
                    actor.host.calls.pop(call.id, None)
            if actor.state is not DEAD:
                actor.move(DEAD)
                self._actor_reports.report(actor)
            self._running.drop_arguments(actor.creation)
            tasks.append(actor.creation)
            actor.worker = None
            self._router.actors.pop(actor.id, None)
        tasks += [call for call in calls if call.template.job_id == job.id]
        return tasks, [call for call in calls if call.template.job_id != job.id]
