"""Calls of actors on this node: from their arrival to their answer. Pure.

The router (actor_router.py) keeps them in order; this part holds their arguments, hands them to the
actor's process or sends them to its host, and sees to those that fail or are made again.
"""

from __future__ import annotations

from typing import Protocol

from skate import messages as m
from skate.error_records import ErrorRecord, encode_error
from skate.node.actor_births import ActorBirths
from skate.node.actor_life import ActorLife
from skate.node.actor_names import ActorNames
from skate.node.actor_router import ActorRouter
from skate.node.clock import Clock
from skate.node.finding import Finding
from skate.node.guests import Guests
from skate.node.hears import CLIENTS, hears
from skate.node.introductions import Introductions
from skate.node.outbox import Outbox
from skate.node.pulls import Pulls
from skate.node.running import Running
from skate.node.validity import check_call, read_error
from skate.node.values import Values
from skate.objects.object_store import PENDING, REMOTE, ObjectStore
from skate.rows import Actor, Client, Task, Worker
from skate.spec import FORMAT_ERROR
from skate.states import TASK_MOVES, ActorState, TaskState, advance

_NO_PLACE = ("ActorUnschedulableError", "ActorPlacementGroupRemoved")
ALIVE, DEAD = ActorState.ALIVE, ActorState.DEAD


class _ActorProxies(Protocol):
    def proxy(self, actor_id: bytes, call: Task, in_order: bool) -> Actor | None: ...

    def hold_handle(self, call: Task, actor: Actor) -> None: ...

    def forward_call(self, actor: Actor, call: Task) -> None: ...


class _Lanes(Protocol):
    def comes_back(self, client: Client, task: Task, number: int) -> bool: ...

    def actor_of(self, number: int) -> Actor | None: ...

    def answered(self, actor: Actor, call: Task) -> None: ...


class ActorCalls:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        clock: Clock,
        outbox: Outbox,
        store: ObjectStore,
        router: ActorRouter,
        introductions: Introductions,
        values: Values,
        pulls: Pulls,
        finding: Finding,
        running: Running,
        guests: Guests,
        actor_names: ActorNames,
        actor_life: ActorLife,
        actor_births: ActorBirths,
        actor_proxies: _ActorProxies,
        lanes: _Lanes,
    ) -> None:
        self._clock = clock
        self._outbox = outbox
        self._store = store
        self._router = router
        self._introductions = introductions
        self._values = values
        self._pulls = pulls
        self._finding = finding
        self._running = running
        self._guests = guests
        self._actor_names = actor_names
        self._actor_life = actor_life
        self._actor_births = actor_births
        self._actor_proxies = actor_proxies
        self._lanes = lanes

    @hears(m.CallActor, *CLIENTS)
    def on_call(self, client: Client, message: m.CallActor) -> None:
        """A method call from a process of this node."""
        task = Task(
            message.task_id,
            client.templates[message.template],
            message.arguments,
            message.dependencies,
            message.nested,
            client,
            0,
            self._clock.now,
        )
        check_call(task.id, task.template.spec, "method")
        task.sequence = message.sequence
        actor = self._router.actors.get(message.actor_id)
        if not message.lane:
            self._running.promise_returns(client, task)
        elif not self._lanes.comes_back(client, task, message.lane):
            return
        elif actor is None:
            actor = self._lanes.actor_of(message.lane)
        if actor is None:
            actor = self._actor_proxies.proxy(message.actor_id, task, message.in_order)
        if actor is None:
            self._running.hold_arguments(task, here=True)
            if message.actor_id in self._actor_names.unborn:
                self._actor_names.unborn[message.actor_id].calls.append(task)
            elif task.state is TaskState.WAITING:
                self._running.fail(task, self._actor_names.unknown(message.actor_id))
            return
        task.actor = actor
        if actor.is_proxy:
            self._actor_proxies.hold_handle(task, actor)
        if task.dependencies is not None or task.nested is not None:
            self._running.hold_arguments(task, here=actor.host is None and not actor.is_proxy)
            if task.state is TaskState.FAILED:
                return  # task_failed has closed its number
        if actor.state is DEAD:
            self._running.fail(task, actor.cause)
        else:
            self._router.arrived(actor, client, task)

    def call_early(self, actor: Actor, call: Task) -> None:
        """A call overtook its actor's creation; the actor is here now."""
        call.actor = actor
        if call.state is not TaskState.WAITING:
            self._router.failed_before_delivery(actor, call.line, call.sequence)
        elif actor.state is DEAD:
            self._running.fail(call, actor.cause)
        else:
            self._router.arrived(actor, call.line, call)
        if not call.owner.alive:
            self._router.caller_gone(call.owner)

    def arguments_ready(self, call: Task) -> None:
        """The arguments of a call are there."""
        actor: Actor | None = call.actor
        if actor is None:
            return  # its actor is not there yet
        if actor.fetching is call:
            call.state = advance(TASK_MOVES, call.state, TaskState.READY)
            self._go_on(actor)
        else:
            self._router.arguments_ready(actor, call.line, call)

    def deliver(self, actor: Actor, call: Task) -> None:
        """The router lets a call through: to the actor's process, or to its host."""
        if actor.host is not None:
            call.state = TaskState.FORWARDED  # from WAITING or READY, like SENT below
            call.sent_at = self._clock.now
            self._actor_proxies.forward_call(actor, call)
            return
        if call.dependencies is not None and self._fetch_first(actor, call):
            return
        assert actor.worker is not None
        client = actor.worker.client
        template = call.template
        if template.number not in client.known_templates:
            self._introductions.to_worker(client, template)
        call.state = TaskState.SENT  # from WAITING or READY: the router lets no other through
        call.sent_at = self._clock.now
        values = None
        if call.dependencies is not None:
            values = self._values.values_of(call.dependencies)
        if not client.outbox:
            self._outbox.clients.append(client)
        run = m.Run(
            call.id, call.attempt, template.number, call.arguments, call.dependencies, values
        )
        if call.line in actor.gated:
            run.sequence = call.sequence
            run.caller = actor.gated[call.line]
        client.outbox.append(run)

    def skip(self, actor: Actor, caller_id: bytes, sequence: int) -> None:
        """Tell the process not to wait for this call: it will not come."""
        if actor.worker is not None:
            self._outbox.send(actor.worker.client, m.CallSkipped(caller_id, sequence))

    def _fetch_first(self, actor: Actor, call: Task) -> bool:
        # The call waited while the actor lived elsewhere: its inputs may lie elsewhere too, or
        # be lost with that node. The calls behind it wait as well.
        objects = self._store.objects
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
            self._running.doom(call, failed)
            return True
        for stored in missing:
            if stored.waiters is None:
                stored.waiters = []
            stored.waiters.append(call)
            if stored.state is REMOTE:
                self._pulls.want(stored)
            elif stored.is_foreign:
                self._finding.ask_home(stored)
        return True

    def _go_on(self, actor: Actor) -> None:
        actor.fetching = None
        if actor.state is ALIVE:
            self._router.now_alive(actor)

    def on_done(self, worker: Worker, done: m.Done) -> None:
        """The process has run the constructor or a call."""
        actor: Actor = worker.actor
        if actor.worker is not worker:
            return  # the actor was killed: its calls have failed already
        if done.task_id == actor.id:
            self._actor_births.constructed(actor, done)
            return
        call = actor.in_flight.get(done.task_id)
        if call is None or call.attempt != done.attempt:
            return
        if done.retry and call.retries_left != 0 and not self._guests.is_orphan(call):
            call.next_attempt()
            call.state = advance(TASK_MOVES, call.state, TaskState.READY)
            self._values.abandon_results(call)
            self._router.retry(actor, call)
            return
        self._router.answered(actor, done.task_id)
        self._running.complete(call, done, worker)
        self._lanes.answered(actor, call)
        if not actor.has_handles:
            self._actor_life.end_if_drained(actor)

    def undelivered_lost(self, calls: list[Task]) -> None:
        """Calls that no client waits for were taken out of the router."""
        for actor in {call.actor.id: call.actor for call in calls}.values():
            if actor.fetching in calls:
                self._go_on(actor)
            if not actor.has_handles:
                self._actor_life.end_if_drained(actor)

    def task_failed(self, task: Task, payload: bytes, was_waiting: bool) -> None:
        """A call or a constructor failed before it ran: an argument failed, or the actor died."""
        actor: Actor = task.actor
        if task is actor.creation:
            record = read_error(payload)
            if record.kind in _NO_PLACE and not record.chain:  # which tells it all
                self._actor_life.die(actor, payload)
                return
            cause = ErrorRecord(
                kind="ActorDiedError",
                message=f"The actor {actor.options.class_name} was never created: an argument of "
                f"its constructor failed.\n{record.message}",
                fields={"actor_id": actor.id.hex(), "actor_init_failed": True},
                pickled_cause=record.pickled_cause,
            )
            self._actor_life.die(actor, FORMAT_ERROR + encode_error(cause))
        elif actor.fetching is task:
            self._router.dropped(actor, task)
            self._go_on(actor)
        elif was_waiting and actor.state is not DEAD:
            self._router.failed_before_delivery(actor, task.line, task.sequence)
            if not actor.has_handles:
                self._actor_life.end_if_drained(actor)

    def resubmit(self, actor: Actor, calls: list[Task], why: str) -> None:
        """Make calls again, if they may be, that were in flight when their process was lost."""
        again = []
        for call in calls:
            if self._guests.is_orphan(call):
                self._guests.orphan_ended(call)
            elif call.retries_left != 0:
                call.next_attempt()
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
                self._running.fail(call, FORMAT_ERROR + encode_error(unavailable))
        self._router.again(actor, again)
