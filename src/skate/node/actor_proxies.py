"""Stand-ins for actors that live elsewhere, on the node of their callers. Pure.

A *proxy* stands in the router's table: the same call orders and backlog as for a local actor, but
calls are forwarded to the actor's host instead of handed to a process. When the host is lost, calls
in flight wait in limbo until the home, or the GCS, says what became of the actor.
"""

from __future__ import annotations

from skate import messages as m
from skate.config import ACTOR_UNKNOWN_S
from skate.error_records import ErrorRecord, encode_error
from skate.ids import handle_id, submitter_of
from skate.node.actor_calls import ActorCalls
from skate.node.actor_life import ActorLife
from skate.node.actor_names import ActorNames
from skate.node.actor_router import ActorRouter
from skate.node.clock import Clock
from skate.node.forwarding import Forwarding
from skate.node.hears import GCS, hears
from skate.node.introductions import Introductions
from skate.node.node_table import NodeTable
from skate.node.outbox import Outbox
from skate.node.running import Running
from skate.objects.object_store import ObjectStore
from skate.rows import Actor, Client, OtherNode, Task, Template
from skate.spec import FORMAT_ERROR, ActorOptions
from skate.states import TASK_FAILED, TASK_FINISHED, TASK_READY, ActorState

ALIVE, DEAD = ActorState.ALIVE, ActorState.DEAD


class ActorProxies:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        clock: Clock,
        outbox: Outbox,
        store: ObjectStore,
        nodes: NodeTable,
        router: ActorRouter,
        introductions: Introductions,
        running: Running,
        forwarding: Forwarding,
        actor_names: ActorNames,
        actor_life: ActorLife,
        actor_calls: ActorCalls,
    ) -> None:
        self._clock = clock
        self._outbox = outbox
        self._store = store
        self._nodes = nodes
        self._router = router
        self._introductions = introductions
        self._running = running
        self._forwarding = forwarding
        self._actor_names = actor_names
        self._actor_life = actor_life
        self._actor_calls = actor_calls
        self.unknown: dict[bytes, float] = {}  # proxies without news of their actor, since when
        self.limbo: dict[bytes, list[Task]] = {}  # calls that were in flight at a lost host

    def proxy(self, actor_id: bytes, call: Task, in_order: bool) -> Actor | None:
        """A stand-in for an actor of another home; None if its id is of this home."""
        if not self._store.is_foreign(actor_id):
            return None
        return self.stand_in(actor_id, call.template, call.owner, in_order)

    def stand_in(self, actor_id: bytes, template: Template, owner: Client, in_order: bool) -> Actor:
        """A new proxy."""
        # A proxy's creation task is a placeholder: only its id is used.
        creation = Task(actor_id, template, b"", None, None, owner, 0, self._clock.now)
        actor = Actor(creation, ActorOptions(in_order=in_order), owner)
        actor.is_proxy = True
        self._router.add(actor)
        self._store.watched.add(handle_id(actor_id))  # this node holds it from its first call on
        self.unknown[actor_id] = self._clock.now
        self._outbox.to_gcs(m.WatchActor(actor_id))
        return actor

    def hold_handle(self, call: Task, actor: Actor) -> None:
        """A call under way holds a handle, so that the home does not end the actor before."""
        if actor.is_proxy:
            self._store.hold(handle_id(actor.id))
            call.holds_handle = True

    @hears(m.ActorChanged, GCS)
    def on_actor_changed(self, message: m.ActorChanged) -> None:
        """The GCS tells the new state of an actor that is called from here."""
        actor = self._router.actors.get(message.actor_id)
        if actor is None or not actor.is_proxy or actor.state is DEAD:
            return
        state = ActorState(message.state)
        if state is DEAD:
            text = message.cause or "it has ended"
            kind = message.cause_kind or "ActorDiedError"
            record = ErrorRecord(kind, text, {"actor_id": actor.id.hex()})
            self._proxy_died(actor, FORMAT_ERROR + encode_error(record))
        elif state is ALIVE:
            host = self._nodes.by_id.get(message.node_id)
            if host is not None:
                self.unknown.pop(actor.id, None)
                self.hosted_at(actor, host, message.life)

    def hosted_at(self, actor: Actor, host: OtherNode, life: int) -> None:
        """The actor is alive at this host: calls that wait for it may go."""
        is_same = actor.host is host and actor.life == life
        if is_same and actor.state is ALIVE:
            return
        if not is_same:
            self.forget_lines(actor)
        actor.life = life
        actor.host = host
        if actor.is_proxy:
            actor.state = ALIVE
        self._leave_limbo(actor)
        self._router.now_alive(actor)

    def _leave_limbo(self, actor: Actor) -> None:
        # The host of these calls is lost; the actor lives again elsewhere.
        calls = self.limbo.pop(actor.id, [])
        self._actor_calls.resubmit(
            actor, calls, f"The node that hosted actor {actor.id.hex()} is lost."
        )

    def _proxy_died(self, actor: Actor, cause: bytes) -> None:
        self.unknown.pop(actor.id, None)
        actor.state = DEAD
        actor.cause = cause
        router = self._router
        in_flight, waiting = router.take_all(actor)
        calls = [*self.limbo.pop(actor.id, []), *waiting, *router.take_early(actor)]
        # Calls in flight come back from the host with its own error, unless it is lost too.
        for call in in_flight:
            actor.in_flight[call.id] = call
        for call in calls:
            self._running.fail(call, cause)
        self.forget_if_unused(actor)

    # ------------------------------------------------------------------ calls

    def forward_call(self, actor: Actor, call: Task) -> None:
        """Send a call to the actor's host."""
        host = actor.host
        assert host is not None
        number = self._introductions.to_node(host, call.template)
        caller = submitter_of(call.id)
        key = (actor.id, caller)
        sequence = host.lines.get(key, 0)
        host.lines[key] = sequence + 1
        host.calls[call.id] = call
        self._outbox.send_node(
            host,
            m.ForwardCall(
                call.id,
                actor.id,
                caller,
                sequence,
                call.attempt,
                number,
                call.arguments,
                call.dependencies,
                call.nested,
                self._forwarding.inputs_of(call),
                call.retries_left,
                actor.life,
            ),
        )

    def call_returned(self, host: OtherNode, message: m.Returned) -> bool:
        """The actor's host has answered a call; False if this node does not know the call."""
        call = host.calls.pop(message.task_id, None)
        if call is None:
            return False
        actor: Actor = call.actor
        self._router.answered(actor, call.id)
        call.state = TASK_FAILED if message.failed else TASK_FINISHED
        self._forwarding.store_results(call, host, message)
        self._running.drop_arguments(call)
        if actor.is_proxy:
            self.forget_if_unused(actor)
        elif not actor.has_handles:
            self._actor_life.end_if_drained(actor)
        return True

    def away(self, actor: Actor) -> list[Task]:
        """The actor's calls from here that are at hosts, former ones included."""
        neighbours = self._nodes.by_id.values()
        return [call for host in neighbours for call in host.calls.values() if call.actor is actor]

    # ------------------------------------------------------------------ ends

    def node_lost(self, host: OtherNode, calls: dict[bytes, Task], why: str) -> None:
        """A host is gone: homes place its actors anew; the callers' calls wait for the news."""
        text = f"node {host.node_id.hex()} ({host.address}), which hosted it, is lost: {why}"
        by_actor: dict[bytes, list[Task]] = {}
        for call in calls.values():
            call.state = TASK_READY
            by_actor.setdefault(call.actor.id, []).append(call)
        for actor in list(self._router.actors.values()):
            lost = by_actor.pop(actor.id, [])
            if actor.host is not host:
                self._lost_behind(actor, lost)
                continue
            actor.host = None
            if not actor.is_proxy:
                self._actor_life.host_lost(actor, text)
                continue
            for call in lost:
                actor.in_flight.pop(call.id, None)
            self.limbo.setdefault(actor.id, []).extend(lost)
            if actor.state is DEAD:
                for call in self.limbo.pop(actor.id):
                    self._running.fail(call, actor.cause)
            else:
                actor.state = ActorState.RESTARTING
                self.unknown[actor.id] = self._clock.now
                # The home may be gone as well: the GCS tells that, or the actor's new host.
                self._outbox.to_gcs(m.WatchActor(actor.id))
        for lost in by_actor.values():  # the actor has since been hosted here, and has ended
            for call in lost:
                self._running.fail(
                    call, call.actor.cause or self._actor_names.unknown(call.actor.id)
                )

    def _lost_behind(self, actor: Actor, calls: list[Task]) -> None:
        # The calls were in flight at a host that the actor had left already.
        for call in calls:
            actor.in_flight.pop(call.id, None)
        if actor.state is DEAD:
            for call in calls:
                self._running.fail(call, actor.cause)
        elif calls:
            self._actor_calls.resubmit(actor, calls, "The node that hosted the actor is lost.")
            self._router.go_on(actor)

    @property
    def is_waiting(self) -> bool:
        """Whether ``tick`` may have to give up an actor."""
        return bool(self.unknown)

    def tick(self) -> None:
        """Give up actors that no node has ever heard of."""
        for actor_id, since in list(self.unknown.items()):
            if self._clock.now - since > ACTOR_UNKNOWN_S:
                del self.unknown[actor_id]
                actor = self._router.actors.get(actor_id)
                if actor is not None and self._nodes.home_of(actor_id) is None:
                    self._proxy_died(actor, self._actor_names.unknown(actor_id))

    def end_job(self, job_id: bytes) -> list[Task]:
        """A job is over: take out its calls and the proxies of its actors."""
        tasks: list[Task] = []
        for actor_id, calls in list(self.limbo.items()):
            tasks += [call for call in calls if call.template.job_id == job_id]
            left = [call for call in calls if call.template.job_id != job_id]
            if left:
                self.limbo[actor_id] = left
            else:
                del self.limbo[actor_id]
        for other in self._nodes.by_id.values():
            for call in [c for c in other.calls.values() if c.template.job_id == job_id]:
                del other.calls[call.id]
                call.actor.in_flight.pop(call.id, None)
                tasks.append(call)
        return tasks

    def forget_if_unused(self, actor: Actor) -> None:
        """A proxy goes when it has no handle here, and no caller that may call again.

        The count of a caller's calls has to be kept while that process lives; calls of a dead
        actor fail whatever their number.
        """
        handle = handle_id(actor.id)
        is_held = handle in self._store.objects
        if not is_held and actor.is_drained() and (actor.state is DEAD or not actor.lines):
            self.forget(actor)
        else:  # a handle may come here again, and go again
            self._store.watched.add(handle)

    def forget_unused(self) -> None:
        """A job is over: forget the proxies that no other job uses."""
        for actor in [actor for actor in self._router.actors.values() if actor.is_proxy]:
            self.forget_if_unused(actor)

    def caller_gone(self) -> None:
        """A process has ended: forget the proxies that it alone used."""
        for actor in [a for a in self._router.actors.values() if a.is_proxy]:
            self.forget_if_unused(actor)

    def forget(self, actor: Actor) -> list[Task]:
        """Forget a proxy; returns its calls in limbo, which will get no answer."""
        self.unknown.pop(actor.id, None)
        calls = self.limbo.pop(actor.id, [])
        self._router.actors.pop(actor.id, None)
        self._store.watched.discard(handle_id(actor.id))
        self.forget_lines(actor)
        self._outbox.to_gcs(m.WatchActor(actor.id, False))
        return calls

    def forget_lines(self, actor: Actor) -> None:
        """Forget the numbers of the calls that went to the actor's hosts."""
        for other in self._nodes.by_id.values():
            for key in [key for key in other.lines if key[0] == actor.id]:
                del other.lines[key]
