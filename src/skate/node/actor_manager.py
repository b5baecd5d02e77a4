"""The lives of the actors that a node hosts: placed, constructed, restarted, ended. Pure.

Part of the node core (its only caller). Calls are the router's business; this module decides what
happens to an actor, and to its calls when its process ends. An actor ends when its last counted
handle goes (after the calls that were made), by ``kill``, by ``exit_actor``, with its job, or when
its process dies and no restart is left.

Invariants: an actor holds its running demand exactly while ``placed``, from the start of a process
to its burial; a DEAD actor has a cause and no calls; the arguments of its constructor are held
until it is DEAD, or ALIVE and never to be restarted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skate import messages as m
from skate.config import DEAD_ACTORS_KEPT
from skate.errors import ErrorRecord, decode_error, encode_error
from skate.ids import handle_id
from skate.node.actor_router import ActorRouter
from skate.node.validity import check_call, read_error
from skate.objects.object_store import PENDING, REMOTE
from skate.rows import Actor, Client, Job, Task, Worker
from skate.scheduler.group_names import is_cpu
from skate.spec import FORMAT_ERROR
from skate.states import TASK_MOVES, ActorState, TaskState, WorkerState, advance

if TYPE_CHECKING:
    from skate.node.node_core import NodeCore

_NO_PLACE = ("ActorUnschedulableError", "ActorPlacementGroupRemoved")
ALIVE, DEAD, RESTARTING = ActorState.ALIVE, ActorState.DEAD, ActorState.RESTARTING


class UnbornActor:
    """An actor that has its name and can be called, but whose CreateActor is still to come."""

    __slots__ = ("calls", "creator", "name", "namespace")

    def __init__(self, creator: Client, name: str, namespace: str) -> None:
        self.creator = creator
        self.name = name
        self.namespace = namespace
        self.calls: list[Task] = []


class ActorManager:
    """See the module's docstring."""

    def __init__(self, core: NodeCore) -> None:
        self.core = core
        self.router = ActorRouter(self._deliver)
        self.lent_cpu: set[bytes] = set()  # actors whose method waits in get/wait
        self.reserving: dict[int, dict[str, Any]] = {}  # questions for a name, under way
        self.unborn: dict[bytes, UnbornActor] = {}  # they have their name, and no CreateActor yet
        self.dead_by_name: dict[bytes, bytes] = {}  # why the newest of these died

    # ------------------------------------------------------------------ birth

    def on_reserved(self, peer: Client, answer: m.Answer) -> None:
        """The GCS has given a name to an actor, or not; from now on others may find and call it.

        Its CreateActor is still to come: calls that overtake it wait for it.
        """
        asked = self.reserving.pop(answer.number)
        if not answer.error and answer.body["actor_id"] is None:
            self.unborn[asked["actor_id"]] = UnbornActor(peer, asked["name"], asked["namespace"])
            if not peer.alive:
                self.creator_gone(peer)

    def creator_gone(self, peer: Client) -> None:
        """A process has ended: what it has named and not created, it will not create."""
        for actor_id in [i for i, unborn in self.unborn.items() if unborn.creator is peer]:
            unborn = self.unborn.pop(actor_id)
            body = {"name": unborn.name, "namespace": unborn.namespace, "actor_id": actor_id}
            self.core.questions.ask_gcs(peer, m.Ask(0, "release_actor_name", body))
            for call in unborn.calls:
                if call.state is TaskState.WAITING:
                    self.core.fail_task(call, self.unknown(actor_id))

    def on_create(self, peer: Client, message: m.CreateActor) -> None:
        """A new actor; its creator holds the handle from here on."""
        core = self.core
        template = peer.templates[message.template]
        check_call(message.task_id, template.spec, "actor")
        if message.task_id in self.router.actors:
            raise ValueError(f"a second actor {message.task_id.hex()}")
        options = message.options
        if options.detached and core.is_cluster:
            template = core.job_desk.found(message.task_id, options.class_name, template)
        task = Task(
            message.task_id,
            template,
            message.arguments,
            message.dependencies,
            message.nested,
            peer,
            0,
            core.now,
        )
        actor = Actor(task, options, peer)
        task.actor = actor
        self.router.add(actor)
        counted = handle_id(actor.id)
        stored = core.store.promise(counted, peer)
        core.store.fulfil_inline(stored, b"", None)
        core.store.watched.add(counted)
        peer.held.add(counted)
        self.report(actor)
        if core.hold_arguments(task):
            core.forwarder.place(task)
        unborn = self.unborn.pop(actor.id, None)
        if unborn is not None:
            for call in unborn.calls:
                self._call_early(actor, call)

    def arguments_ready(self, call: Task) -> None:
        """The arguments of a call are there."""
        actor: Actor | None = call.actor
        if actor is None:
            return  # its actor is not there yet
        if actor.fetching is call:
            call.state = advance(TASK_MOVES, call.state, TaskState.READY)
            self._go_on(actor)
        else:
            self.router.arguments_ready(actor, call.line, call)

    def place(self, task: Task) -> None:
        """The placement demand is free: keep the running demand and fork the process."""
        actor: Actor = task.actor
        core = self.core
        job = core.jobs.get(task.template.job_id)
        if job is None:
            return
        if actor.state is ActorState.DEPENDENCIES_UNREADY:
            actor.move(ActorState.PENDING_CREATION)
        actor.gpus = core.scheduler.take(task.template.spec.running_demand)
        actor.placed = True
        pool = core.scheduler.pool(job.id, task.template.spec.threads)
        worker = Worker(core.shell.new_id(), pool, core.now)
        worker.actor = actor
        actor.worker = worker
        core.scheduler.workers[worker.id] = worker
        task.state = advance(TASK_MOVES, task.state, TaskState.SENT)
        task.sent_at = core.now
        core.workers.start_process(worker, job, actor.id, actor.options)

    def worker_ready(self, worker: Worker) -> None:
        """The process is up: run the constructor."""
        actor: Actor = worker.actor
        if actor.worker is not worker:
            return  # killed while it started
        task = actor.creation
        core = self.core
        core.introduce(worker.peer, task.template)
        values = core.desk.values_of(task.dependencies) if task.dependencies else None
        core.send(
            worker.peer,
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

    # ------------------------------------------------------------------ calls

    def on_call(self, peer: Client, message: m.CallActor) -> None:
        """A method call from a process of this node."""
        core = self.core
        task = Task(
            message.task_id,
            peer.templates[message.template],
            message.arguments,
            message.dependencies,
            message.nested,
            peer,
            0,
            core.now,
        )
        check_call(task.id, task.template.spec, "method")
        task.sequence = message.sequence
        core.promise_returns(peer, task)
        actor = self.router.actors.get(message.actor_id)
        if actor is None:
            actor = core.remote_actors.proxy(message.actor_id, task, message.in_order)
        if actor is None:
            core.hold_arguments(task, here=True)
            if message.actor_id in self.unborn:
                self.unborn[message.actor_id].calls.append(task)
            elif task.state is TaskState.WAITING:
                core.fail_task(task, self.unknown(message.actor_id))
            return
        task.actor = actor
        if actor.is_proxy:
            core.remote_actors.hold_handle(task, actor)
        if task.dependencies is not None or task.nested is not None:
            core.hold_arguments(task, here=actor.host is None and not actor.is_proxy)
            if task.state is TaskState.FAILED:
                return  # task_failed has closed its number
        if actor.state is DEAD:
            core.fail_task(task, actor.cause)
        else:
            self.router.arrived(actor, peer, task)

    def _call_early(self, actor: Actor, call: Task) -> None:
        """A call that came before its actor: the actor is here now."""
        call.actor = actor
        if call.state is not TaskState.WAITING:
            self.router.failed_before_delivery(actor, call.line, call.sequence)
        elif actor.state is DEAD:
            self.core.fail_task(call, actor.cause)
        else:
            self.router.arrived(actor, call.line, call)
        if not call.owner.alive:
            self.router.caller_gone(call.owner)

    def unknown(self, actor_id: bytes) -> bytes:
        """The cause of death of an actor that nobody knows any more."""
        if actor_id in self.dead_by_name:
            return self.dead_by_name[actor_id]
        record = ErrorRecord(
            kind="ActorDiedError",
            message=f"Actor {actor_id.hex()} is not known to this cluster: the handle comes from "
            "another session, or the actor ended long ago.",
            fields={"actor_id": actor_id.hex()},
        )
        return FORMAT_ERROR + encode_error(record)

    def _deliver(self, actor: Actor, call: Task) -> None:
        core = self.core
        if actor.host is not None:
            call.state = TaskState.FORWARDED  # from WAITING or READY, like SENT below
            call.sent_at = core.now
            core.remote_actors.forward_call(actor, call)
            return
        if call.dependencies is not None and self._fetch_first(actor, call):
            return
        assert actor.worker is not None
        peer = actor.worker.peer
        template = call.template
        if template.number not in peer.known_templates:
            core.introduce(peer, template)
        call.state = TaskState.SENT  # from WAITING or READY: the router lets no other through
        call.sent_at = core.now
        values = None
        if call.dependencies is not None:
            values = core.desk.values_of(call.dependencies)
        if not peer.outbox:
            core.dirty.append(peer)
        peer.outbox.append(
            m.Run(call.id, call.attempt, template.number, call.arguments, call.dependencies, values)
        )

    def _fetch_first(self, actor: Actor, call: Task) -> bool:
        # Inputs of a call that waited while the actor lived elsewhere may lie elsewhere too, or
        # have been lost with that node. The calls behind it wait as well.
        objects = self.core.store.objects
        inputs = [objects[i] for i in call.dependencies or ()]
        failed = next((stored.data for stored in inputs if stored.is_error), None)
        missing = [stored for stored in inputs if stored.state in (REMOTE, PENDING)]
        if not missing and failed is None:
            return False
        del actor.in_flight[call.id]
        actor.backlog.appendleft(call)
        actor.fetching = call
        actor.window = 0
        call.state = advance(TASK_MOVES, call.state, TaskState.PULLING)
        call.is_here = True
        call.missing = len(missing)
        if failed is not None:
            self.core.doomed.append((call, failed))
            return True
        for stored in missing:
            if stored.waiters is None:
                stored.waiters = []
            stored.waiters.append(call)
            if stored.state is REMOTE:
                self.core.pulls.want(stored)
            elif stored.is_foreign:
                self.core.borrowing.ask_home(stored)
        return True

    def _go_on(self, actor: Actor) -> None:
        actor.fetching = None
        if actor.state is ALIVE:
            self.router.now_alive(actor)

    def on_done(self, worker: Worker, done: m.Done) -> None:
        """The process has run the constructor or a call."""
        actor: Actor = worker.actor
        if actor.worker is not worker:
            return  # the actor was killed: its calls have failed already
        if done.task_id == actor.id:
            self._constructed(actor, done)
            return
        call = actor.in_flight.get(done.task_id)
        if call is None or call.attempt != done.attempt:
            return
        if done.retry and call.retries_left != 0 and not self.core.guests.is_orphan(call):
            call.retries_left -= call.retries_left > 0
            call.attempt += 1
            call.state = advance(TASK_MOVES, call.state, TaskState.READY)
            self.core.desk.abandon_results(call)
            self.router.retry(actor, call)
            return
        self.router.answered(actor, done.task_id)
        self.core.complete(call, done, worker)
        if not actor.has_handles:
            self.end_if_drained(actor)

    def _constructed(self, actor: Actor, done: m.Done) -> None:
        core = self.core
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
            core.notes.task(task, done.started, done.ended, worker, done.data)
            left = actor.cause if actor.leaving else b""  # exit_actor() in the constructor
            self.die(actor, left or FORMAT_ERROR + encode_error(cause))
            return
        task.state = advance(TASK_MOVES, task.state, TaskState.FINISHED)
        core.notes.task(task, done.started, done.ended, worker, b"")
        actor.move(ALIVE)
        self.report(actor)
        if actor.options.max_restarts == 0:
            core.drop_arguments(task)
        self.router.now_alive(actor)
        if not actor.has_handles:
            self.end_if_drained(actor)

    def undelivered_lost(self, calls: list[Task]) -> None:
        """These were taken out, as nobody waits for them."""
        for actor in {call.actor.id: call.actor for call in calls}.values():
            if actor.fetching in calls:
                self._go_on(actor)
            if not actor.has_handles:
                self.end_if_drained(actor)

    def task_failed(self, task: Task, payload: bytes, was_waiting: bool) -> None:
        """A call (or a constructor) failed before it ran: arguments failed, or the actor died."""
        actor: Actor = task.actor
        if task is actor.creation:
            record = read_error(payload)
            if record.kind in _NO_PLACE and not record.chain:  # which tells it all
                self.die(actor, payload)
                return
            cause = ErrorRecord(
                kind="ActorDiedError",
                message=f"The actor {actor.options.class_name} was never created: an argument of "
                f"its constructor failed.\n{record.message}",
                fields={"actor_id": actor.id.hex(), "actor_init_failed": True},
                pickled_cause=record.pickled_cause,
            )
            self.die(actor, FORMAT_ERROR + encode_error(cause))
        elif actor.fetching is task:
            actor.backlog.remove(task)
            self._go_on(actor)
        elif was_waiting and actor.state is not DEAD:
            self.router.failed_before_delivery(actor, task.line, task.sequence)
            if not actor.has_handles:
                self.end_if_drained(actor)

    # ------------------------------------------------------------------ death

    def handle_gone(self, counted: bytes) -> None:
        """No process, task or object holds a handle any more: end after the calls made."""
        actor = self.router.actors.get(counted[:16])
        if actor is None or (actor.options.detached and actor.state is not DEAD):
            return
        if actor.is_proxy:
            self.core.remote_actors.forget_if_unused(actor)
            return
        if self.core.remote_actors.is_guest(actor):
            return  # it was a proxy before it moved here: its home counts, and says (EndActor)
        actor.has_handles = False
        self.end_if_drained(actor)

    def end_if_drained(self, actor: Actor) -> None:
        """It has no handle: end it, unless calls are under way or still to be made."""
        if actor.state is DEAD:
            if actor.host is not None:
                self.core.neighbours.send(actor.host, m.EndActor(actor.id))
            self.router.actors.pop(actor.id, None)
            if actor.options.name:  # who got it by its name may ask, and is not counted
                self.dead_by_name[actor.id] = actor.cause
                if len(self.dead_by_name) > DEAD_ACTORS_KEPT:
                    del self.dead_by_name[next(iter(self.dead_by_name))]
            if actor.options.detached:  # of others the lines go with their job
                self.core.remote_actors.forget_lines(actor)
        elif actor.leaving or not actor.is_drained():
            return
        elif actor.host is not None:
            actor.leaving = actor.state is ALIVE
            self.core.neighbours.send(actor.host, m.EndActor(actor.id))
        elif actor.state is ALIVE and actor.worker is not None:
            actor.leaving = True
            if actor.worker.state is WorkerState.ACTOR:  # else it ends already
                self.core.scheduler.end_worker(actor.worker)
                self.core.send(actor.worker.peer, m.Exit("its last handle is gone"))
        elif actor.state is ActorState.DEPENDENCIES_UNREADY and actor.creation in (
            self.core.scheduler.placing
        ):
            missing = self.core.scheduler.missing(actor.creation.template.spec.demand)
            if missing:  # it could never have started
                self.die(actor, self._cause(actor, "its last handle went before it could start"))

    def leaving(self, actor: Actor, reason: str) -> None:
        """The process says that it ends on purpose (exit_actor)."""
        if actor.state is DEAD or actor.worker is None or actor.leaving:
            return
        actor.leaving = True
        actor.cause = self._cause(actor, reason)
        if actor.worker.state is WorkerState.ACTOR:
            self.core.scheduler.end_worker(actor.worker)
        # Wakes the process's reader, if it was another thread that called exit_actor.
        self.core.send(actor.worker.peer, m.Exit(reason))

    def on_kill(self, peer: Client, message: m.KillActor) -> None:
        """ray.kill: the process goes now, by SIGKILL."""
        actor = self.router.actors.get(message.actor_id)
        if actor is None or actor.is_proxy:
            home = self.core.neighbours.home_of(message.actor_id)
            if home is not None:
                self.core.neighbours.send(home, message)
            return
        if actor.state is DEAD:
            return
        if actor.host is not None:
            self.core.neighbours.send(actor.host, message)
        if message.no_restart:
            self.die(actor, self._cause(actor, "it was killed with kill()"))
        elif actor.worker is not None:
            self.core.shell.kill_worker(actor.worker)

    def worker_died(self, worker: Worker, status: int) -> None:
        """The process of an actor is gone."""
        actor: Actor = worker.actor
        self._give_back(actor)
        if actor.state is DEAD:
            return
        actor.worker = None
        if actor.leaving:
            self.die(actor, actor.cause or self._cause(actor, "its last handle is gone"))
            return
        how = self.core.workers.describe_exit(worker, status)
        cause = self._cause(
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
        cause = self._cause(actor, why)
        left = actor.options.max_restarts - actor.restarts
        if actor.leaving or not actor.has_handles:
            self.die(actor, cause)
        elif actor.state is ActorState.PENDING_CREATION:  # it has never lived: place it anew
            task = actor.creation
            task.host = None
            task.is_bound = False
            task.state = advance(TASK_MOVES, task.state, TaskState.OFFERED)
            self.core.desk.place_when_ready(task)
        elif actor.options.max_restarts < 0 or left > 0:
            actor.creation.is_bound = False
            self._restart(actor, cause)
        else:
            self.die(actor, cause)

    def _restart(self, actor: Actor, cause: bytes) -> None:
        in_flight, waiting = self.router.take_all(actor)
        actor.restarts += 1
        if actor.state is not RESTARTING:
            actor.move(RESTARTING)
        self.report(actor)
        self.router.again(actor, waiting)
        self.resubmit(actor, in_flight, decode_error(cause[1:]).message)
        actor.creation.state = TaskState.WAITING  # a new life of the same spec
        actor.creation.is_here = False
        self.core.forwarder.place(actor.creation)

    def resubmit(self, actor: Actor, calls: list[Task], why: str) -> None:
        """Calls that were in flight when their process was lost: again, if that is allowed."""
        again = []
        for call in calls:
            if self.core.guests.is_orphan(call):
                self.core.guests.orphan_ended(call)
            elif call.retries_left != 0:
                call.retries_left -= call.retries_left > 0
                call.attempt += 1
                if call.state is not TaskState.READY:
                    call.state = advance(TASK_MOVES, call.state, TaskState.READY)
                again.append(call)
            else:
                unavailable = ErrorRecord(
                    kind="ActorUnavailableError",
                    message=f"{why}\nThe actor is being restarted; this call may or may not have "
                    "run (max_task_retries allows running it again).",
                    fields={"actor_id": actor.id.hex()},
                )
                self.core.fail_task(call, FORMAT_ERROR + encode_error(unavailable))
        self.router.again(actor, again)

    def die(self, actor: Actor, cause: bytes) -> None:
        """The actor is dead for good: its calls fail."""
        core = self.core
        actor.cause = cause
        actor.move(DEAD)
        if actor.creation in core.scheduler.placing:
            core.scheduler.placing.remove(actor.creation)
        if actor.creation.state not in (TaskState.FINISHED, TaskState.FAILED):
            actor.creation.state = advance(TASK_MOVES, actor.creation.state, TaskState.FAILED)
        worker, actor.worker = actor.worker, None
        if worker is not None:
            core.shell.kill_worker(worker)
        actor.fetching = None
        in_flight, waiting = self.router.take_all(actor)
        for call in [*in_flight, *waiting, *self.router.take_early(actor)]:
            if actor.host is not None:
                actor.host.calls.pop(call.id, None)
            core.fail_task(call, cause)
        core.drop_arguments(actor.creation)
        self.report(actor)
        is_guest = core.remote_actors.is_guest(actor)
        if actor.options.detached and not is_guest:
            actor.has_handles = handle_id(actor.id) in core.store.objects
        if not actor.has_handles:
            self.end_if_drained(actor)
        if not is_guest:
            core.job_desk.actor_ended(actor.id, actor.creation.template.job_id)

    def _give_back(self, actor: Actor) -> None:
        if actor.placed:
            actor.placed = False
            demand = actor.creation.template.spec.running_demand
            if actor.id in self.lent_cpu:
                self.lent_cpu.discard(actor.id)
                demand = tuple(pair for pair in demand if not is_cpu(pair[0]))
            self.core.scheduler.give_back(demand, actor.gpus)
            actor.gpus = None

    def blocked(self, actor: Actor) -> None:
        """A method waits in get/wait: the actor's CPU, if it holds one, may serve another."""
        if actor.state is DEAD:  # its process is being ended: what it holds stays taken until then
            return
        if actor.placed and actor.id not in self.lent_cpu:
            self.lent_cpu.add(actor.id)
            for name, units in actor.creation.template.spec.running_demand:
                if is_cpu(name):
                    self.core.scheduler.available[name] += units

    def unblocked(self, actor: Actor) -> None:
        """It goes on."""
        if actor.placed and actor.id in self.lent_cpu:
            self.lent_cpu.discard(actor.id)
            for name, units in actor.creation.template.spec.running_demand:
                if is_cpu(name):
                    self.core.scheduler.available[name] -= units

    def is_own_job(self, actor: Actor | None) -> bool:
        """Whether the actor is detached, and so its job's driver, as it were."""
        return actor is not None and actor.options.detached and self.core.is_cluster

    def forget_proxies(self) -> None:
        """A job is over: of actors elsewhere, those that nobody else has called are forgotten."""
        for actor in [actor for actor in self.router.actors.values() if actor.is_proxy]:
            self.core.remote_actors.forget_if_unused(actor)

    def end_job(self, job: Job) -> tuple[list[Task], list[Task]]:
        """The job is over: forget its actors (the core kills their processes) and its calls.

        Of proxies, only its calls go: what becomes of an actor elsewhere its home will say. Returns
        the constructions and calls that will not run, and the calls of other jobs, which have to
        fail.
        """
        tasks: list[Task] = []
        calls: list[Task] = []
        for actor in list(self.router.actors.values()):
            is_of_job = not actor.is_proxy and actor.creation.template.job_id == job.id
            if not is_of_job or self.is_own_job(actor):
                tasks += self.router.take_job(actor, job.id)
                if not actor.is_proxy and not actor.has_handles:
                    self.end_if_drained(actor)
                continue
            in_flight, waiting = self.router.take_all(actor)
            calls += [*in_flight, *waiting, *self.router.take_early(actor)]
            actor.cause = actor.cause or self._cause(actor, "its job has ended")
            actor.fetching = None
            if actor.host is not None:
                for call in in_flight:
                    actor.host.calls.pop(call.id, None)
            if actor.state is not DEAD:
                actor.move(DEAD)
                self.report(actor)
            self.core.drop_arguments(actor.creation)
            tasks.append(actor.creation)
            actor.worker = None
            self.router.actors.pop(actor.id, None)
        tasks += [call for call in calls if call.template.job_id == job.id]
        return tasks, [call for call in calls if call.template.job_id != job.id]

    # ------------------------------------------------------------------ views

    def _cause(self, actor: Actor, why: str, **fields: Any) -> bytes:
        options = actor.options
        name = f" named {options.name!r}" if options.name else ""
        record = ErrorRecord(
            kind="ActorDiedError",
            message=f"The actor {options.class_name}{name} ({actor.id.hex()}) has died: {why}",
            fields={"actor_id": actor.id.hex(), **fields},
        )
        return FORMAT_ERROR + encode_error(record)

    def report(self, actor: Actor, state: ActorState | None = None) -> None:
        """Tell the GCS, or the actor's home, of a change in its life."""
        core = self.core
        options = actor.options
        worker = actor.worker
        state = actor.state if state is None else state
        pid = worker.pid if worker else actor.host_pid
        if core.remote_actors.is_guest(actor):
            news = m.ActorNews(actor.id, int(state), actor.restarts, pid, actor.cause)
            core.borrowing.leave(actor.creator, news)
            return
        cause = decode_error(actor.cause[1:]) if actor.cause else None
        core.gcs.append(
            m.ActorChanged(
                actor.id,
                int(state),
                options.class_name,
                options.name,
                options.namespace,
                core.node_id if actor.host is None else actor.host.node_id,
                pid,
                cause.message if cause else "",
                core.now,
                actor.restarts,
                cause.kind if cause else "",
                actor.life,
            )
        )
        core.notes.state("actor", actor.id, state.name, options.class_name, pid)

    def info(self, body: dict[str, Any]) -> Any:
        """What a handle from get_actor has to know."""
        actor = self.router.actors.get(body["actor_id"])
        if actor is None:
            return None
        return {"options": m.encode(actor.options), "state": actor.state.name}

    def counts(self) -> dict[str, int]:
        """How many actors there are, by state."""
        counts: dict[str, int] = {}
        for actor in self.router.actors.values():
            counts[actor.state.name] = counts.get(actor.state.name, 0) + 1
        return counts

    def held_resources(self) -> dict[str, int]:
        """What actors hold now, for the scheduler's check."""
        held: dict[str, int] = {}
        for worker in self.core.scheduler.workers.values():
            actor = worker.actor
            if actor is not None and actor.placed:
                for name, units in actor.creation.template.spec.running_demand:
                    if is_cpu(name) and actor.id in self.lent_cpu:
                        continue
                    held[name] = held.get(name, 0) + units
        return held
