"""The node's decisions: who gets which message, task, object and worker. Pure.

The shell (node_daemon) or the simulator feeds it: ``handle(peer, message)`` for each message of a
connection, ``peer_lost``, ``worker_exited``, ``tick``; after each batch ``end_turn``. What it
decides goes to the peers' outboxes, to ``gcs`` (messages for the GCS) and to the ``Shell`` it was
given (start or kill a process). ``now`` is set by the caller before each batch; seconds that never
run backwards, on the wall clock's scale.

Invariants: those of its parts (``check`` calls them all); every accepted task ends in exactly one
of FINISHED and FAILED, and then each of its returns that anybody holds has a value; a worker is
buried (its tasks retried, its resources free) once both its EOF and its exit status are in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from skate import messages as m
from skate.config import PROTOCOL_VERSION, RESOURCE_UNITS
from skate.errors import encode_error, with_dependant
from skate.ids import FIRST_RETURN, HOME_BYTES, SUBMITTER_BYTES, handle_id, return_id
from skate.node.actor_manager import ActorManager
from skate.node.borrowing import Borrowing
from skate.node.error_payload import error_payload
from skate.node.event_notes import EventNotes
from skate.node.forwarder import Forwarder
from skate.node.full_store import FullStore
from skate.node.group_desk import GroupDesk
from skate.node.guests import Guests
from skate.node.job_desk import JobDesk
from skate.node.neighbours import Neighbours
from skate.node.object_desk import ObjectDesk
from skate.node.pull_desk import PullDesk
from skate.node.question_desk import QuestionDesk
from skate.node.remote_actors import RemoteActors
from skate.node.task_report import TaskReport
from skate.node.validity import check_call, check_template, read_error
from skate.node.worker_keeper import WorkerKeeper
from skate.objects.arena import Arena
from skate.objects.object_store import PENDING, REMOTE, ObjectStore, StoredObject
from skate.rows import Client, Job, Task, Template, Worker
from skate.scheduler.group_names import parse_name
from skate.scheduler.local_scheduler import LocalScheduler
from skate.spec import FORMAT_ERROR, CallTemplate, amount_text
from skate.states import (
    TASK_FAILED,
    TASK_FINISHED,
    TASK_MOVES,
    TASK_PULLING,
    TASK_WAITING,
    advance,
)


class Shell(Protocol):
    """What the core asks of the world. Calls return at once; outcomes come back as events."""

    def start_worker(self, worker: Worker, setup: m.WorkerSetup) -> None:
        """Fork a worker; its connection arrives as a peer with ``peer.worker`` set.

        ``peer_lost`` and ``worker_exited`` both follow, in either order, even if it never came up.
        """

    def kill_worker(self, worker: Worker) -> None:
        """SIGKILL; ``worker_exited`` follows."""

    def close(self, peer: Client) -> None:
        """Close the connection once its outbox is written; ``peer_lost`` follows."""

    def stderr_tail(self, worker: Worker) -> list[str]:
        """The last lines of a worker's stderr."""

    def new_id(self) -> bytes:
        """16 fresh random bytes."""

    def fetch(self, object_id: bytes, offset: int, size: int, node_id: bytes) -> None:
        """Copy an object from that node's arena to this place in ours; ``fetched`` follows."""

    def cancel_fetch(self, object_id: bytes) -> None:
        """Stop that; ``fetched`` follows all the same."""

    def flush_logs(self, peer: Client, message: m.FlushLogs) -> None:
        """The node of a driver that ends asks for all that was printed."""

    def logs_flushed(self, peer: Client, message: m.LogsFlushed) -> None:
        """Another node has sent all of it."""

    def job_ended(self, job: Job, reason: str) -> None:
        """A driver is gone; a local session ends with it."""

    def answer_locally(self, peer: Client, question: m.Ask) -> bool:
        """Whether the shell itself answers this (now or later)."""


class _Unheard(dict[type, Callable[[Client, Any], None]]):
    """The handlers of who may still say anything, and nobody listens."""

    def get(self, key: Any, default: Any = None) -> Any:
        return lambda peer, message: None


class NodeCore:
    """See the module's docstring."""

    def __init__(
        self,
        node_id: bytes,
        session: str,
        resources: dict[str, int],
        arena: Arena,
        arena_path: str,
        shell: Shell,
        python: str,
    ) -> None:
        self.node_id = node_id
        self.session = session
        self.arena_path = arena_path
        self.python = python
        self.shell = shell
        self.now = 0.0
        self.store = ObjectStore(arena)
        self.workers = WorkerKeeper(self)
        self.scheduler = LocalScheduler(
            resources, self._send_task, self.workers.start, lambda task: self.actors.place(task)
        )
        self.actors = ActorManager(self)
        self.peers: dict[Client, None] = {}
        self.dirty: list[Client] = []  # peers with something in the outbox
        self.jobs: dict[bytes, Job] = {}
        self.submitters = 0  # processes that were given a number so far
        self.functions: dict[bytes, m.RegisterFunction] = {}
        self.templates: dict[tuple[bytes, CallTemplate], Template] = {}
        self.template_count = 0
        self.gcs: list[Any] = []  # messages for the GCS
        self.is_cluster = False  # whether it outlives its drivers; set by the shell
        self.job_desk = JobDesk(self)
        self.neighbours = Neighbours(self)
        self.borrowing = Borrowing(self)
        self.forwarder = Forwarder(self)
        self.guests = Guests(self)
        self.pulls = PullDesk(self)
        self.groups = GroupDesk(self)
        self.remote_actors = RemoteActors(self)
        self.desk = ObjectDesk(self)
        self.full_store = FullStore(self)
        self.notes = EventNotes(self)
        self.task_report = TaskReport(self)
        self.warnings: list[str] = []  # what every driver is told at its start
        self.doomed: deque[tuple[Task, bytes]] = deque()  # tasks with a failed input
        self.questions = QuestionDesk(self)
        ask: dict[type, Callable[[Client, Any], None]] = {m.Ask: self.questions.on_ask}
        driver: dict[type, Callable[[Client, Any], None]] = {
            m.RegisterFunction: self.on_register_function,
            m.RegisterTemplate: self.on_register_template,
            m.Submit: self.on_submit,
            m.CreateActor: self.actors.on_create,
            m.CallActor: self.actors.on_call,
            m.KillActor: self.actors.on_kill,
            m.Leaving: self.on_leaving,
            m.Put: self.desk.on_put,
            m.CreateExtent: self.desk.on_create_extent,
            m.Seal: self.desk.on_seal,
            m.Hold: self.desk.on_hold,
            m.Release: self.desk.on_release,
            m.Pin: self.desk.on_pin,
            m.Unpin: self.desk.on_unpin,
            m.Revoked: self.desk.on_revoked,
            m.Want: self.desk.on_want,
            **ask,
        }
        worker: dict[type, Callable[[Client, Any], None]] = {
            **driver,
            m.Done: self.on_done,
            m.HandBack: self.on_hand_back,
            m.Blocked: self.on_blocked,
            m.Unblocked: self.on_unblocked,
        }
        node: dict[type, Callable[[Client, Any], None]] = {
            m.Introduce: self.guests.on_introduce,
            m.RegisterFunction: self.on_register_function,
            m.RegisterTemplate: self.on_register_template,
            m.Forward: self.guests.on_forward,
            m.ForwardActor: self.remote_actors.on_forward_actor,
            m.ForwardCall: self.remote_actors.on_forward_call,
            m.EndActor: self.remote_actors.on_end_actor,
            m.KillActor: self.actors.on_kill,
            m.Hold: self.desk.on_hold,
            m.Release: self.desk.on_release,
            m.Want: self.desk.on_want,
            m.Unreachable: self.desk.on_unreachable,
            m.ForDriver: self.job_desk.on_for_driver,
            m.FlushLogs: lambda peer, message: self.shell.flush_logs(peer, message),
            m.LogsFlushed: lambda peer, message: self.shell.logs_flushed(peer, message),
        }
        # What a client of each role may say; before its Hello only that.
        for handlers in (driver, worker, node):
            handlers[m.Part] = self._on_part
        self.handlers: dict[str, dict[type, Callable[[Client, Any], None]]] = {
            "": {m.Hello: self.on_hello},
            "observer": ask,
            "driver": driver,
            "worker": worker,
            "node": node,
            "over": _Unheard(),
        }
        self.gcs_handlers: dict[type, Callable[[Any], None]] = {
            m.Answer: self.questions.on_gcs_answer,
            m.Placed: self.forwarder.on_placed,
            m.NodesChanged: self.neighbours.on_nodes_changed,
            m.JobOver: self.job_desk.on_over,
            m.Forget: self.on_forget,
            m.ActorChanged: self.remote_actors.on_actor_changed,
            m.ReserveBundles: self.groups.on_reserve,
            m.CommitBundles: self.groups.on_commit,
            m.ReturnBundles: self.groups.on_return,
        }

    # ------------------------------------------------------------------ peers

    def send(self, peer: Client, message: Any) -> None:
        """Queue a message for a peer; it leaves at the end of the turn."""
        if peer.alive:
            if not peer.outbox:
                self.dirty.append(peer)
            peer.outbox.append(message)

    def handle(self, peer: Client, message: Any) -> None:
        """One message. An exception means that the peer is broken: its connection has to end."""
        handler = self.handlers[peer.role].get(type(message))
        if handler is not None and peer.alive:
            handler(peer, message)
        elif peer.alive:  # else it is behind its last word, in the same read
            raise ValueError(f"{type(message).__name__} of {peer.role or 'a stranger'}")

    def _on_part(self, peer: Client, part: m.Part) -> None:
        for message in peer.parts.take(part):
            peer.parts.clear()
            self.handle(peer, message)

    def end_turn(self) -> None:
        """After each batch of events: hand out what became free."""
        store = self.store
        while self.doomed or store.freed_handles:
            self._settle()
        if store.queue:
            for creation in store.serve_queue(self.now):
                self.desk.space_given(creation)
        if store.copies.has_questions:
            self.desk.revoke()
        self.groups.settle()
        self.scheduler.dispatch(self.now)
        if store.queue:
            self.full_store.dispatch()
        if store.freed:
            freed, store.freed = store.freed, []
            self.forwarder.freed(freed)
            self.gcs.append(m.ObjectsChanged([], [], freed))
        self.forwarder.flush()
        self.borrowing.settle()

    def _settle(self) -> None:
        # A loop and no recursion: ten thousand tasks may hang on each other in a chain.
        while self.doomed:
            task, payload = self.doomed.popleft()
            if task.state is TASK_WAITING or task.state is TASK_PULLING:
                self.fail_task(task, payload, dependant=True)
        handles, self.store.freed_handles = self.store.freed_handles, []
        for counted in handles:
            self.actors.handle_gone(counted)

    def add_peer(self, peer: Client) -> None:
        """A connection was accepted (or made, for a worker)."""
        if not peer.alive:
            return  # its process ended before its connection was up
        self.peers[peer] = None
        if peer.node_id:
            self.store.home = self.node_id[:HOME_BYTES]  # it may be ahead of what the GCS says
        if peer.worker is not None:
            peer.worker.peer = peer
            peer.job = self.jobs.get(peer.worker.pool.job_id)

    def on_hello(self, peer: Client, hello: m.Hello) -> None:
        """A client says who it is; one that does not fit is refused in a sentence."""
        if peer.role:
            raise ValueError("Hello twice")
        reason = self._why_refuse(peer, hello)
        if reason:
            self.send(peer, m.Refused(reason))
            self.shell.close(peer)
            return
        peer.role = hello.role
        peer.pid = hello.pid
        if hello.role == "driver":
            self._welcome_driver(peer, hello)
        elif hello.role == "node":
            peer.node_id = hello.worker_id
        elif hello.role == "worker" and peer.worker is not None:
            peer.worker.pid = hello.pid
            if peer.worker.id in self.workers.exits:
                return  # it is dead already: only its last words are still coming
            if peer.worker.actor is not None:
                self.scheduler.actor_worker_ready(peer.worker)
                self.actors.worker_ready(peer.worker)
            else:
                self.scheduler.worker_ready(peer.worker, self.now)

    def _why_refuse(self, peer: Client, hello: m.Hello) -> str:
        if hello.protocol != PROTOCOL_VERSION:
            return (
                f"this node speaks protocol {PROTOCOL_VERSION}, you speak {hello.protocol}: "
                "install the same version of skate on both sides"
            )
        if hello.role not in ("driver", "worker", "observer", "node"):
            return f"unknown role {hello.role!r}"
        if hello.role == "node" and not self._is_node(peer, hello):
            return "a node is known by its TCP connection, and by nothing else"
        if hello.role == "worker" and peer.worker is None:
            return "workers are started by their node and by nobody else"
        if hello.role != "observer" and hello.python != self.python:
            return (
                f"this node runs Python {self.python}, you run {hello.python}: objects cannot be "
                "exchanged between minor versions"
            )
        return ""

    def _is_node(self, peer: Client, hello: m.Hello) -> bool:
        # The shell has entered its id, which the handshake has proved.
        return bool(peer.node_id) and peer.node_id == hello.worker_id

    def _welcome_driver(self, peer: Client, hello: m.Hello) -> None:
        if hello.job is None:
            raise ValueError("a driver's Hello without its job")
        job_id = self.shell.new_id()[:4]
        job = Job(job_id, hello.job, peer, self.node_id, hello.pid)
        peer.job = job
        self.jobs[job_id] = job
        self.send(
            peer,
            m.Welcome(
                node_id=self.node_id,
                job_id=job_id,
                submitter=self.new_submitter(),
                session=self.session,
                arena_path="" if peer.is_remote else self.arena_path,
                arena_bytes=self.store.arena.capacity_bytes,
                namespace=hello.job.namespace,
            ),
        )
        for warning in self.warnings:
            self.send(peer, m.Notice(warning))
        self.gcs.append(
            m.JobChanged(
                job_id, hello.pid, hello.job.entrypoint, hello.job.namespace, True, self.now
            )
        )
        pool = self.scheduler.pool(job_id, 1)
        for _ in range(self.scheduler.total.get("CPU", 0) // 10_000):
            self.workers.start(pool)

    def new_submitter(self) -> bytes:
        """The id of a process as a creator of tasks and objects (ids.py)."""
        self.submitters += 1
        number = self.submitters.to_bytes(SUBMITTER_BYTES - HOME_BYTES, "big")
        return self.node_id[:HOME_BYTES] + number

    def peer_lost(self, peer: Client) -> None:
        """The connection is closed, by whatever end."""
        if not peer.alive:
            return
        peer.alive = False
        role, peer.role = peer.role, ""  # handle() takes no more of its messages
        peer.outbox.clear()
        peer.deferred.clear()
        self.peers.pop(peer, None)
        if not peer.node_id:
            self.actors.router.caller_gone(peer)
            self.remote_actors.caller_gone()
        self.actors.creator_gone(peer)
        self.desk.holder_lost(peer)
        if role == "driver" and peer.job is not None:
            self.job_desk.end(peer.job)
        if role == "node":
            self.guests.home_lost(peer)
            self.remote_actors.home_lost(peer)
        if peer.worker is not None:
            self.workers.connection_lost(peer)

    def on_forget(self, message: m.Forget) -> None:
        """The GCS tells that nobody holds these any more."""
        for object_id in message.object_ids:
            self.store.forget(object_id)

    # ------------------------------------------------------------------ functions and templates

    def on_register_function(self, peer: Client, message: m.RegisterFunction) -> None:
        """Step 0 of figure a: the function goes to the function table of the GCS."""
        if peer.job is not None:
            peer.job.function_ids[message.function_id] = None
        if message.function_id not in self.functions:
            self.functions[message.function_id] = message
            self.gcs.append(m.FunctionStored(message.function_id, message.name, message.data))
            self.notes.state("function", message.function_id, "EXPORTED", message.name, peer.pid)

    def on_register_template(self, peer: Client, message: m.RegisterTemplate) -> None:
        """What calls on this connection mean by a number."""
        spec = message.template
        job = peer.job
        if peer.node_id:
            job = self.jobs.get(message.job_id)
            if job is None:  # it has ended: what comes of it is dropped
                if not any(spec.function_id in other.function_ids for other in self.jobs.values()):
                    self.functions.pop(spec.function_id, None)
                return
            if spec.function_id in self.functions:
                job.function_ids[spec.function_id] = None
        assert job is not None
        check_template(spec, spec.function_id in job.function_ids)
        template = peer.templates[message.number] = self.template_of(job, spec)
        if peer.node_id or spec.kind == "method":
            return
        missing = self.scheduler.missing(spec.demand)
        if missing:
            template.is_plain = False
            # What is bound to one node fails if that cannot hold it, with the reason.
            where = spec.strategy
            is_bound = where is not None and where.kind == "NODE" and not where.soft
            if not spec.group and not is_bound and not self._fits_elsewhere(spec):
                self._warn_infeasible(job, template, missing)

    def template_of(self, job: Job, spec: CallTemplate) -> Template:
        """The template of a job for calls of this kind."""
        key = (job.id, spec)
        template = self.templates.get(key)
        if template is None:
            self.template_count += 1
            queue = self.scheduler.class_of(job.id, spec)
            template = self.templates[key] = Template(self.template_count, job.id, spec, queue)
        return template

    def _fits_elsewhere(self, spec: CallTemplate) -> bool:
        return any(
            all(other.info.resources.get(name, 0) >= units for name, units in spec.demand)
            for other in self.neighbours.by_id.values()
        )

    def _warn_infeasible(
        self, job: Job, template: Template, missing: dict[str, tuple[int, int]]
    ) -> None:
        what = "actor" if template.spec.kind == "actor" else "task"
        most, everywhere = dict(self.scheduler.total), dict(self.scheduler.total)
        for other in self.neighbours.by_id.values():
            for name, units in other.info.resources.items():
                most[name] = max(most.get(name, 0), units)
                everywhere[name] = everywhere.get(name, 0) + units
        where = "on any one node" if self.neighbours.alive else "in all"
        parts = ", ".join(
            f"{_amount(name, asked)} {name} asked but {_amount(name, most.get(name, 0))} {where}"
            for name, (asked, _) in missing.items()
        )
        total_text = ", ".join(
            f"{name}: {_amount(name, units)}"
            for name, units in everywhere.items()
            if not name.startswith("node:") and parse_name(name) is None
        )
        advice = (
            "Ask for less, or let a node with that join (skate start --address=..., with "
            "--num-cpus or --resources)."
            if self.is_cluster
            else "Ask for less, or start with more (init(num_cpus=..., resources=...))."
        )
        self.job_desk.tell_driver(
            job,
            m.Notice(
                f"The {what} {template.spec.name} cannot be scheduled on any node: {parts}. It "
                f"waits until a node with that joins; this cluster has {{{total_text}}}. {advice}"
            ),
        )

    def warn_of_rules(self, template: Template, reason: str) -> None:
        """Tell the driver, once, that no node meets the label rules of its tasks or actors."""
        job = self.jobs.get(template.job_id)
        if job is None or template.is_warned:
            return
        template.is_warned = True
        what = "actor" if template.spec.kind == "actor" else "task"
        text = (
            f"The {what} {template.spec.name} cannot be scheduled: "
            f"{reason.removeprefix('infeasible: ')}. It waits until such a node joins. Ask for "
            "other labels, or let a node with them join (skate start --address=... --labels=...)."
        )
        self.job_desk.tell_driver(job, m.Notice(text))

    # ------------------------------------------------------------------ tasks

    def on_submit(self, peer: Client, message: m.Submit) -> None:
        """Steps 1 and 5 of figure a: a task is here; are its inputs?"""
        template = peer.templates[message.template]
        task_id = message.task_id
        task = Task(
            task_id,
            template,
            message.arguments,
            message.dependencies,
            message.nested,
            peer,
            message.depth,
            self.now,
        )
        check_call(task_id, template.spec, "task")
        self.promise_returns(peer, task)
        if task.dependencies is None and task.nested is None:
            if template.is_plain:  # nearly always
                self.scheduler.enqueue(task, self.now)
            else:
                self.forwarder.place(task)
        elif self.hold_arguments(task):
            self.forwarder.place(task)

    def promise_returns(self, peer: Client, task: Task) -> None:
        """The submitter holds each return of the task."""
        count = task.template.spec.num_returns
        if count == 1:
            object_id = task.id + FIRST_RETURN
            self.store.promise(object_id, peer)
            peer.held.add(object_id)
            return
        for index in range(count):
            object_id = return_id(task.id, index)
            self.store.promise(object_id, peer)
            peer.held.add(object_id)

    def hold_arguments(self, task: Task, *, here: bool = False) -> bool:
        """Hold what the task uses; whether all of it exists. A failed input fails the task.

        ``here``: and is in this node's own store.
        """
        store = self.store
        objects = store.objects
        task.is_here = here
        if task.nested is not None:
            task.nested = [i for i in task.nested if store.hold(i, idle=True)]
        failed: bytes | None = None
        for object_id in task.dependencies or ():
            if not store.hold(object_id):
                failed = self.desk.lost_payload(object_id)
                continue
            stored = objects[object_id]
            if stored.state is PENDING or (here and stored.state is REMOTE):
                task.missing += 1
                if stored.waiters is None:
                    stored.waiters = []
                stored.waiters.append(task)
                if stored.state is REMOTE:
                    self.pulls.want(stored)
                elif stored.is_foreign:
                    self.borrowing.ask_home(stored)
            elif stored.is_error:
                failed = stored.data
        if failed is not None:
            self.fail_task(task, failed, dependant=True)
            return False
        return task.missing == 0

    def wait_for_inputs_here(self, task: Task) -> bool:
        """Have the (borrowed) inputs of a call brought here; False if one has failed it."""
        task.is_here = True
        failed: bytes | None = None
        for object_id in task.dependencies or ():
            stored = self.store.objects[object_id]
            if stored.is_error:
                failed = stored.data
            elif stored.state is PENDING or stored.state is REMOTE:
                task.missing += 1
                if stored.waiters is None:
                    stored.waiters = []
                stored.waiters.append(task)
                if stored.state is REMOTE:
                    self.pulls.want(stored)
                else:
                    self.borrowing.ask_home(stored)
        if failed is not None:
            self.fail_task(task, failed, dependant=True)
        return failed is None

    def _send_task(self, worker: Worker, task: Task) -> None:
        """The scheduler has chosen: hand the task to the worker."""
        peer = worker.peer
        self.introduce(peer, task.template)
        values = None
        if task.dependencies is not None:
            values = self.desk.values_of(task.dependencies)
        self.send(
            peer,
            m.Run(
                task.id,
                task.attempt,
                task.template.number,
                task.arguments,
                task.dependencies,
                values,
                task.depth,
                task.gpus,
            ),
        )

    def introduce(self, peer: Client, template: Template) -> None:
        """Tell a worker of a template, and of its function, before its first call of it."""
        if template.number in peer.known_templates:
            return
        peer.known_templates.add(template.number)
        function_id = template.spec.function_id
        if function_id and function_id not in peer.known_functions:
            peer.known_functions.add(function_id)
            self.send(peer, self.functions[function_id])
        self.send(peer, m.RegisterTemplate(template.number, template.spec))

    def on_done(self, peer: Client, done: m.Done) -> None:
        """A worker has run a task (or an actor's call): store, tell, go on."""
        worker = peer.worker
        assert worker is not None
        if worker.actor is not None:
            self.actors.on_done(worker, done)
            return
        task = self.scheduler.finished(worker, done.task_id, done.ended - done.started)
        if task is None or task.attempt != done.attempt:
            return  # an older attempt: nobody waits for it
        if done.retry and task.retries_left != 0 and not self.guests.is_orphan(task):
            task.retries_left -= task.retries_left > 0
            task.attempt += 1
            if task.owner.node_id:
                task.is_bound = True  # its attempts are counted here
            self.desk.abandon_results(task)
            self.scheduler.requeue(task)
            return
        self.complete(task, done, worker)
        if task.template.spec.max_calls:
            self.workers.count_call(worker, task.template)

    def complete(self, task: Task, done: m.Done, worker: Worker) -> None:
        """Store the results of a task that has run."""
        if self.guests.is_orphan(task):
            self.desk.abandon_results(task)
            self.guests.orphan_ended(task)
            return
        state = TASK_FAILED if done.failed else TASK_FINISHED
        results = done.results
        if done.failed:
            self.desk.abandon_results(task)
            count = task.template.spec.num_returns
            if results is None and count != 1:
                results = [m.Result(m.Value(done.data))] * count
        told = False
        if results is None:
            told = self.desk.store_result(task.id + FIRST_RETURN, m.Value(done.data), None)
        else:
            for index, result in enumerate(results):
                self._store_one_of(task, return_id(task.id, index), result, worker)
        task.state = advance(TASK_MOVES, task.state, state)
        if task.owner.node_id:
            self.guests.completed(task, results or [m.Result(m.Value(done.data))], done.failed)
        self.notes.task(
            task,
            done.started,
            done.ended,
            worker,
            done.data if done.failed else b"",
            self.now if results is None else 0.0,
            len(done.data),
            told,
        )
        self.drop_arguments(task)

    def _store_one_of(self, task: Task, object_id: bytes, result: m.Result, worker: Worker) -> None:
        told = self.desk.store_result(object_id, result.value, result.contains)
        value = result.value
        size, what = (value.size, "SEALED") if value.size else (len(value.data), "STORED")
        self.notes.object(object_id, what, size, worker.pid)
        if told:
            self.notes.object(object_id, "DELIVERED", size, task.owner.pid)

    def input_ready(self, task: Task, stored: StoredObject) -> None:
        """An object that the task waits for is there."""
        if task.state is not TASK_WAITING and task.state is not TASK_PULLING:
            return  # another input has failed it
        if stored.is_error:
            self.doomed.append((task, stored.data))
            return
        task.missing -= 1
        if task.missing == 0:
            if task.template.spec.kind == "method":
                self.actors.arguments_ready(task)
            elif task.is_here:
                self.scheduler.enqueue(task, self.now)
            else:
                self.forwarder.place(task)

    def fail_task(self, task: Task, payload: bytes, *, dependant: bool = False) -> None:
        """The task will not run (again): each of its returns is this error."""
        if dependant:
            record = with_dependant(read_error(payload), task.template.spec.name)
            payload = FORMAT_ERROR + encode_error(record)
        was_waiting = task.state is TASK_WAITING
        task.state = advance(TASK_MOVES, task.state, TASK_FAILED)
        if self.guests.is_orphan(task):
            self.guests.orphan_ended(task)
            if task.actor is not None:
                self.actors.task_failed(task, payload, was_waiting)
            return
        # What a process has begun to write of them stays its own until it is reaped.
        for index in range(task.template.spec.num_returns):
            self.desk.store_result(return_id(task.id, index), m.Value(payload), None)
        if task.owner.node_id:
            results = [m.Result(m.Value(payload))] * task.template.spec.num_returns
            self.guests.completed(task, results, True)
        self.notes.task(task, 0.0, self.now, task.worker, payload)
        self.drop_arguments(task)
        if task.actor is not None:
            self.actors.task_failed(task, payload, was_waiting)

    def drop_arguments(self, task: Task) -> None:
        """The task needs its inputs no more."""
        borrowed = bool(task.owner.node_id)
        for object_id in task.dependencies or ():
            self.store.release(object_id, borrowed=borrowed)
        for object_id in task.nested or ():
            self.store.release(object_id, idle=True)
        task.dependencies = task.nested = None
        task.arguments = b""
        if task.holds_handle:
            task.holds_handle = False
            self.store.release(handle_id(task.actor.id))

    def drop_tasks(self, tasks: list[Task]) -> None:
        """Their job is over. First all go, then whoever of another job holds a result is told."""
        dropped = []
        for task in tasks:
            if task.state not in (TASK_FINISHED, TASK_FAILED):
                task.state = TASK_FAILED
                dropped.append(task)
        for task in dropped:
            self.drop_arguments(task)
        for task in dropped:
            if task.owner.node_id:
                self.guests.disown_returns(task)  # nor will its home ask for them
            for index in range(task.template.spec.num_returns):
                object_id = return_id(task.id, index)
                if object_id in self.store.objects:
                    payload = error_payload(
                        "OwnerDiedError",
                        f"Object {object_id.hex()} was never made: the job of its task "
                        f"{task.template.spec.name} has ended.",
                        object_ref_hex=object_id.hex(),
                    )
                    self.desk.store_result(object_id, m.Value(payload), None)

    def on_hand_back(self, peer: Client, message: m.HandBack) -> None:
        """A worker will not run these: others may."""
        assert peer.worker is not None
        self.scheduler.handed_back(peer.worker, message.task_ids)
        self.guests.drop_orphans(message.task_ids)

    def on_blocked(self, peer: Client, message: m.Blocked) -> None:
        """A worker's task waits: its CPU is free for another."""
        worker = peer.worker
        assert worker is not None
        if worker.actor is not None:
            self.actors.blocked(worker.actor)
        else:
            self.scheduler.blocked(worker)

    def on_unblocked(self, peer: Client, message: m.Unblocked) -> None:
        """It goes on."""
        worker = peer.worker
        assert worker is not None
        if worker.actor is not None:
            self.actors.unblocked(worker.actor)
        else:
            self.scheduler.unblocked(worker)

    # ------------------------------------------------------------------ workers

    def on_leaving(self, peer: Client, message: m.Leaving) -> None:
        """A client ends on purpose."""
        if peer.role == "driver":
            self.peer_lost(peer)
            self.shell.close(peer)
        elif peer.worker is not None and peer.worker.actor is not None:
            self.actors.leaving(peer.worker.actor, message.reason)

    # ------------------------------------------------------------------ questions

    # ------------------------------------------------------------------ time

    def tick(self) -> None:
        """Every tenth of a second: end idle workers and stragglers, fail creators that wait, offer
        what waits too long."""
        if self.store.queue:
            self.full_store.tick()
        self.workers.tick()
        self.forwarder.tick()
        self.pulls.tick()
        self.remote_actors.tick()

    def check(self) -> None:
        """Assert the invariants of all parts; for tests and the simulator."""
        self.store.check()
        held = self.actors.held_resources()
        for name, units in self.groups.bundles.held().items():
            held[name] = held.get(name, 0) + units
        self.scheduler.check(held)
        self.actors.router.check()
        self.neighbours.check()
        self.borrowing.check()
        self.pulls.check()
        self.forwarder.check()


def _amount(name: str, units: int) -> str:
    return amount_text(name, units / RESOURCE_UNITS)
