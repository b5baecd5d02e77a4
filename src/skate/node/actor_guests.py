"""Actors of other homes that are hosted here. Pure.

Their homes count their handles and end them. A caller's node sends its calls here directly, in
order per caller. When a guest leaves, calls from here go on to where it will be.
"""

from __future__ import annotations

from collections import deque

from skate import messages as m
from skate.ids import handle_id
from skate.node.actor_calls import ActorCalls
from skate.node.actor_life import ActorLife
from skate.node.actor_names import ActorNames
from skate.node.actor_proxies import ActorProxies
from skate.node.actor_router import ActorRouter
from skate.node.clock import Clock
from skate.node.guests import Guests
from skate.node.hears import NODE, hears
from skate.node.jobs import Jobs
from skate.node.node_table import NodeTable
from skate.node.outbox import Outbox
from skate.node.placing import Placing
from skate.node.running import Running
from skate.node.validity import check_call
from skate.objects.object_store import ObjectStore
from skate.rows import Actor, Client, Task
from skate.scheduler.local_scheduler import LocalScheduler
from skate.states import TASK_FAILED, TASK_MOVES, TASK_READY, ActorState, advance

DEAD = ActorState.DEAD


class ActorGuests:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        clock: Clock,
        outbox: Outbox,
        store: ObjectStore,
        scheduler: LocalScheduler,
        nodes: NodeTable,
        router: ActorRouter,
        jobs: Jobs,
        running: Running,
        guests: Guests,
        placing: Placing,
        actor_names: ActorNames,
        actor_life: ActorLife,
        actor_calls: ActorCalls,
        actor_proxies: ActorProxies,
    ) -> None:
        self._clock = clock
        self._outbox = outbox
        self._store = store
        self._scheduler = scheduler
        self._nodes = nodes
        self._router = router
        self._jobs = jobs
        self._running = running
        self._guests = guests
        self._placing = placing
        self._actor_names = actor_names
        self._actor_life = actor_life
        self._actor_calls = actor_calls
        self._actor_proxies = actor_proxies

    @hears(m.ForwardActor, NODE)
    def on_forward_actor(self, client: Client, message: m.ForwardActor) -> None:
        """Host an actor of another home."""
        self._guests.received += 1
        template = client.templates.get(message.template)
        if template is None or template.job_id not in self._jobs.by_id:
            # Its job has ended, as the home hears too.
            self._outbox.send(client, m.GivenBack([message.task_id], "the job has ended here"))
            return
        if self._scheduler.missing(template.spec.demand):  # the bundle that it was sent to is gone
            reason = "this node does not have the resources (any more)"
            self._outbox.send(client, m.GivenBack([message.task_id], reason))
            return
        task = Task(
            message.task_id,
            template,
            message.arguments,
            message.dependencies,
            None,
            client,
            0,
            self._clock.now,
        )
        check_call(task.id, template.spec, "actor")
        actor = Actor(task, message.options, client)
        actor.restarts = message.restarts
        actor.life = message.life
        actor.is_guest = True
        task.actor = actor
        task.is_bound = True
        self._replace_older(actor)
        self._guests.borrow_inputs(task, message.inputs)
        self._placing.take(task)

    def _replace_older(self, actor: Actor) -> None:
        # The older actor is a proxy for callers here, or a former life that its home lost.
        router = self._router
        old = router.actors.get(actor.id)
        if old is not None and not old.is_proxy and old.state is not DEAD:
            self._actor_life.die(old, self._actor_names.unknown(actor.id))
        router.add(actor)
        if old is None or not old.is_proxy:
            return
        self._actor_proxies.unknown.pop(actor.id, None)
        self._store.watched.discard(handle_id(actor.id))  # its home counts the handles
        self._outbox.to_gcs(m.WatchActor(actor.id, False))
        actor.lines, actor.backlog = old.lines, old.backlog
        for line in actor.lines.values():
            for early in line.early.values():
                if early is not None:
                    early.actor = actor
        # Calls in flight at the former host come back from there, or are lost with it.
        for call in [*actor.backlog, *self._actor_proxies.away(old)]:
            call.actor = actor
        lost = self._actor_proxies.limbo.pop(actor.id, [])
        for call in lost:
            call.actor = actor
        self._actor_calls.resubmit(actor, lost, "The node that hosted the actor is lost.")

    def is_called_here(self, creation: Task) -> bool:
        """Whether other nodes take this one for the actor's host: it has lived here, or other nodes
        called it here in an earlier life, before its home placed it anew."""
        actor: Actor = creation.actor
        return (
            actor.state is ActorState.RESTARTING
            or any(call.owner.node_id for call in actor.backlog)
            or any(type(caller) is tuple for caller in actor.lines)
        )

    def give_back(self, task: Task, node_id: bytes) -> None:
        """A guest waits here for room, and another node has it: its home sends the actor there.
        Calls from here go to that node, as before the actor came."""
        actor: Actor = task.actor
        self._outbox.send(
            actor.creator, m.GivenBack([task.id], "another node has room for it", node_id)
        )
        task.state = advance(TASK_MOVES, task.state, TASK_FAILED)
        self._running.drop_arguments(task)
        del self._router.actors[actor.id]
        self._leave_proxy(actor)

    def _leave_proxy(self, actor: Actor) -> Actor | None:
        """The actor has left: calls from here follow it to its next host, in order."""
        calls = [*actor.backlog, *actor.in_flight.values(), *self._actor_proxies.away(actor)]
        calls += [c for line in actor.lines.values() for c in line.early.values() if c]
        if not actor.lines and not calls:
            return None
        creation = actor.creation
        proxy = self._actor_proxies.stand_in(
            actor.id, creation.template, creation.owner, actor.options.in_order
        )
        proxy.lines, proxy.backlog = actor.lines, actor.backlog
        for call in calls:
            call.actor = proxy
            if not call.holds_handle:
                self._actor_proxies.hold_handle(call, proxy)
        return proxy

    @hears(m.ForwardCall, NODE)
    def on_forward_call(self, client: Client, message: m.ForwardCall) -> None:
        """A call from another node to an actor that is hosted here."""
        actor = self._router.actors.get(message.actor_id)
        if actor is not None and not actor.is_proxy and message.life < actor.life:
            self._outbox.send(client, m.GivenBack([message.task_id], "restarted", b"", actor.life))
            return
        template = client.templates.get(message.template)
        if template is None or template.job_id not in self._jobs.by_id:
            self._refuse_call(client, message)
            return
        task = Task(
            message.task_id,
            template,
            message.arguments,
            message.dependencies,
            None,
            client,
            0,
            self._clock.now,
        )
        check_call(task.id, template.spec, "method")
        task.sequence = message.sequence
        task.attempt = message.attempt
        task.retries_left = message.retries_left
        task.line = (client, message.caller)
        self._guests.adopt_returns(client, task)
        self._guests.borrow_inputs(task, message.inputs)
        if actor is None or actor.is_proxy:
            self._running.fail(task, self._actor_names.unknown(message.actor_id))
            return
        task.actor = actor
        if actor.state is DEAD:
            self._running.fail(task, actor.cause)
        elif self._running.wait_for_inputs_here(task):
            self._guests.stand_behind(task)
            self._router.arrived(actor, task.line, task)

    def _refuse_call(self, client: Client, message: m.ForwardCall) -> None:
        # The caller's job has ended here, and the caller's node does not know yet: close the
        # number, so that the numbers stay gapless.
        router = self._router
        actor = router.actors.get(message.actor_id)
        if actor is not None and not actor.is_proxy:
            router.failed_before_delivery(actor, (client, message.caller), message.sequence)
        self._outbox.send(client, m.GivenBack([message.task_id], "the job has ended here"))

    @hears(m.EndActor, NODE)
    def on_end_actor(self, client: Client, message: m.EndActor) -> None:
        """The home of an actor says that no handle is left."""
        actor = self._router.actors.get(message.actor_id)
        if actor is not None and actor.creator is client:
            actor.has_handles = False
            self._actor_life.end_if_drained(actor)

    def home_lost(self, client: Client) -> None:
        """A home is dead, or has given this node up: its actors here end; it restarts them."""
        for actor in list(self._router.actors.values()):
            if actor.creator is client and not actor.is_proxy:
                is_alive = client.node_id in self._nodes.by_id
                own = self._take_own_calls(actor) if is_alive else None
                if actor.state is not DEAD:
                    self._actor_life.die(actor, self._actor_names.unknown(actor.id))
                self._router.actors.pop(actor.id, None)
                if own is not None and (proxy := self._leave_proxy(own)) is not None:
                    why = "The node that hosted the actor has lost its home."
                    self._actor_calls.resubmit(proxy, list(own.in_flight.values()), why)

    def _take_own_calls(self, actor: Actor) -> Actor:
        # The copy is an actor that was called from here only.
        own = Actor(actor.creation, actor.options, actor.creator)
        for call in self._actor_proxies.away(actor):
            call.actor = own
        for caller in [key for key in actor.lines if type(key) is not tuple]:
            own.lines[caller] = actor.lines.pop(caller)
        own.backlog = deque(call for call in actor.backlog if not call.owner.node_id)
        actor.backlog = deque(call for call in actor.backlog if call.owner.node_id)
        for call in [call for call in actor.in_flight.values() if not call.owner.node_id]:
            own.in_flight[call.id] = actor.in_flight.pop(call.id)
        fetching = actor.fetching
        if fetching is not None and fetching in own.backlog:  # the next host will
            fetching.state = advance(TASK_MOVES, fetching.state, TASK_READY)
        return own
