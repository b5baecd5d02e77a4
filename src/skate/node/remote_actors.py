"""Actors that live on another node than their caller, or than their home. Pure.

Part of the node core. An actor's home is the node whose process created it: it owns the actor's
life (its place, its restarts on other nodes, its handles). Its *host* runs its process, restarts it
in place, and tells the home (``ActorNews``); the home tells the GCS, and the GCS every node that
watches. A *caller's* node sends calls to the host directly, in order per caller.

On every node but the host an actor is a *proxy* in the router's table: the same lines and backlog
as for a local actor, but calls are forwarded instead of handed to a process. When the host is lost,
calls in flight wait in limbo until the home, or the GCS, says what became of the actor.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from skate import messages as m
from skate.config import ACTOR_UNKNOWN_S
from skate.errors import ErrorRecord, encode_error
from skate.ids import handle_id, submitter_of
from skate.node.error_payload import error_payload
from skate.node.validity import check_call
from skate.rows import Actor, Client, OtherNode, Task, Template
from skate.spec import FORMAT_ERROR, ActorOptions
from skate.states import (
    TASK_FAILED,
    TASK_FINISHED,
    TASK_FORWARDED,
    TASK_MOVES,
    TASK_READY,
    ActorState,
    advance,
)

if TYPE_CHECKING:
    from skate.node.node_core import NodeCore

ALIVE, DEAD = ActorState.ALIVE, ActorState.DEAD


class RemoteActors:
    """See the module's docstring."""

    def __init__(self, core: NodeCore) -> None:
        self._core = core
        self._unknown: dict[bytes, float] = {}  # proxies that nothing is known of, since when
        self._limbo: dict[bytes, list[Task]] = {}  # calls that were in flight at a lost host
        core.neighbours.handlers[m.ActorNews] = self._on_news

    # ------------------------------------------------------------------ the caller's node

    def proxy(self, actor_id: bytes, call: Task, in_order: bool) -> Actor | None:
        """A stand-in for an actor of another home; None if its id is of this home."""
        if not self._core.store.is_foreign(actor_id):
            return None
        return self._stand_in(actor_id, call.template, call.owner, in_order)

    def _stand_in(
        self, actor_id: bytes, template: Template, owner: Client, in_order: bool
    ) -> Actor:
        # Of its creation nothing is known here but the id, and nothing is asked.
        core = self._core
        creation = Task(actor_id, template, b"", None, None, owner, 0, core.now)
        actor = Actor(creation, ActorOptions(in_order=in_order), owner)
        actor.is_proxy = True
        core.actors.router.add(actor)
        core.store.watched.add(handle_id(actor_id))  # from its first call on it is held here
        self._unknown[actor_id] = core.now
        core.gcs.append(m.WatchActor(actor_id))
        return actor

    def hold_handle(self, call: Task, actor: Actor) -> None:
        """While a call is under way the actor has a handle: its home must not end it before."""
        if actor.is_proxy:
            self._core.store.hold(handle_id(actor.id))
            call.holds_handle = True

    def on_actor_changed(self, message: m.ActorChanged) -> None:
        """The GCS tells what has become of an actor that is called from here."""
        core = self._core
        actor = core.actors.router.actors.get(message.actor_id)
        if actor is None or not actor.is_proxy or actor.state is DEAD:
            return
        state = ActorState(message.state)
        if state is DEAD:
            text = message.cause or "it has ended"
            kind = message.cause_kind or "ActorDiedError"
            record = ErrorRecord(kind, text, {"actor_id": actor.id.hex()})
            self._proxy_died(actor, FORMAT_ERROR + encode_error(record))
        elif state is ALIVE:
            host = core.neighbours.by_id.get(message.node_id)
            if host is not None:
                self._unknown.pop(actor.id, None)
                self.hosted_at(actor, host, message.life)

    def hosted_at(self, actor: Actor, host: OtherNode, life: int) -> None:
        """The actor is alive there: what waits for it may go."""
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
        self._core.actors.router.now_alive(actor)

    def _leave_limbo(self, actor: Actor) -> None:
        # The host that had them is lost; the actor lives again elsewhere.
        calls = self._limbo.pop(actor.id, [])
        self._core.actors.resubmit(
            actor, calls, f"The node that hosted actor {actor.id.hex()} is lost."
        )

    def _proxy_died(self, actor: Actor, cause: bytes) -> None:
        core = self._core
        self._unknown.pop(actor.id, None)
        actor.state = DEAD
        actor.cause = cause
        router = core.actors.router
        in_flight, waiting = router.take_all(actor)
        calls = [*self._limbo.pop(actor.id, []), *waiting, *router.take_early(actor)]
        # Those in flight come back from the host, with its own words, unless it is lost too.
        for call in in_flight:
            actor.in_flight[call.id] = call
        for call in calls:
            core.fail_task(call, cause)
        self.forget_if_unused(actor)

    def forward_call(self, actor: Actor, call: Task) -> None:
        """Send a call to the actor's host."""
        core = self._core
        host = actor.host
        assert host is not None
        number = core.neighbours.introduce(host, call.template)
        caller = submitter_of(call.id)
        key = (actor.id, caller)
        sequence = host.lines.get(key, 0)
        host.lines[key] = sequence + 1
        host.calls[call.id] = call
        core.neighbours.send(
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
                core.forwarder.inputs_of(call),
                call.retries_left,
                actor.life,
            ),
        )

    def on_returned(self, host: OtherNode, message: m.Returned) -> bool:
        """A call has been answered by the actor's host; False if it is not known (any more)."""
        core = self._core
        call = host.calls.pop(message.task_id, None)
        if call is None:
            return False
        actor: Actor = call.actor
        core.actors.router.answered(actor, call.id)
        call.state = TASK_FAILED if message.failed else TASK_FINISHED
        core.forwarder.store_results(call, host, message)
        core.drop_arguments(call)
        if actor.is_proxy:
            self.forget_if_unused(actor)
        elif not actor.has_handles:
            core.actors.end_if_drained(actor)
        return True

    # ------------------------------------------------------------------ the home

    def forward_creation(self, task: Task, host: OtherNode) -> None:
        """The global scheduler has chosen a host for an actor of this home."""
        core = self._core
        actor: Actor = task.actor
        number = core.neighbours.introduce(host, task.template)
        actor.host = host
        actor.life += 1
        if actor.state is ActorState.DEPENDENCIES_UNREADY:
            actor.move(ActorState.PENDING_CREATION)
        core.neighbours.send(
            host,
            m.ForwardActor(
                task.id,
                number,
                actor.options,
                task.arguments,
                task.dependencies,
                task.nested,
                core.forwarder.inputs_of(task),
                actor.restarts,
                actor.life,
            ),
        )
        if not actor.has_handles and actor.is_drained():
            core.neighbours.send(host, m.EndActor(actor.id))

    def given_back(self, host: OtherNode, task_id: bytes, life: int) -> Task | None:
        """The construction that a node was to host and will not, if there is still to be one.

        A call is sent again, if it was to an older ``life`` of the actor; else it fails, and the
        host has closed its number.
        """
        call = host.calls.pop(task_id, None)
        if call is not None and life:
            self._call_again(host, call, life)
            return None
        if call is not None:
            self._core.actors.router.answered(call.actor, call.id)
            text = "The node that hosts the actor has ended the job of this call."
            self._core.fail_task(call, error_payload("ActorUnavailableError", text))
            return None
        actor = self._core.actors.router.actors.get(task_id)
        if actor is None or actor.host is not host or actor.creation.state is not TASK_FORWARDED:
            return None
        actor.host = None
        return actor.creation

    def _call_again(self, host: OtherNode, call: Task, life: int) -> None:
        # The actor was placed anew, maybe on the same node, and this node reads of it first here.
        core = self._core
        actor: Actor = call.actor
        actor.in_flight.pop(call.id, None)
        call.state = TASK_READY
        if actor.state is DEAD:
            core.fail_task(call, actor.cause)
            return
        if actor.host is host and life > actor.life:
            self.forget_lines(actor)
            actor.life = life
        core.actors.router.again(actor, [call])
        core.actors.router.go_on(actor)

    def _on_news(self, host: OtherNode, message: m.ActorNews) -> None:
        core = self._core
        actor = core.actors.router.actors.get(message.actor_id)
        if actor is None or actor.host is not host or actor.state is DEAD:
            return
        state = ActorState(message.state)
        actor.restarts = message.restarts
        actor.host_pid = message.pid
        if state is ALIVE:
            if actor.state is not ALIVE:
                actor.move(ALIVE)
                if actor.creation.state not in (TASK_FINISHED, TASK_FAILED):
                    actor.creation.state = TASK_FINISHED
            core.actors.report(actor)
            if actor.options.max_restarts == 0:
                core.drop_arguments(actor.creation)
            core.actors.router.now_alive(actor)
            if not actor.has_handles:
                core.actors.end_if_drained(actor)
        elif state is DEAD:
            for call in actor.in_flight.values():  # what has run it has returned before its news
                host.calls.pop(call.id, None)
            core.actors.die(actor, message.cause)
        else:  # restarted in place: its host keeps the calls
            core.actors.report(actor, state)

    def node_lost(self, host: OtherNode, calls: dict[bytes, Task], why: str) -> None:
        """A host is gone: the home places its actors anew, callers wait to hear of that."""
        core = self._core
        text = f"node {host.node_id.hex()} ({host.address}), which hosted it, is lost: {why}"
        by_actor: dict[bytes, list[Task]] = {}
        for call in calls.values():
            call.state = TASK_READY
            by_actor.setdefault(call.actor.id, []).append(call)
        for actor in list(core.actors.router.actors.values()):
            lost = by_actor.pop(actor.id, [])
            if actor.host is not host:
                self._lost_behind(actor, lost)
                continue
            actor.host = None
            if not actor.is_proxy:
                core.actors.host_lost(actor, text)
                continue
            for call in lost:
                actor.in_flight.pop(call.id, None)
            self._limbo.setdefault(actor.id, []).extend(lost)
            if actor.state is DEAD:
                for call in self._limbo.pop(actor.id):
                    core.fail_task(call, actor.cause)
            else:
                actor.state = ActorState.RESTARTING
                self._unknown[actor.id] = core.now
                # The home may be gone as well; the GCS says so, or where the actor lives now.
                core.gcs.append(m.WatchActor(actor.id))
        for lost in by_actor.values():  # it was hosted here since, and has ended
            for call in lost:
                core.fail_task(call, call.actor.cause or core.actors.unknown(call.actor.id))

    def _lost_behind(self, actor: Actor, calls: list[Task]) -> None:
        # They were in flight at a host that the actor had left already.
        core = self._core
        for call in calls:
            actor.in_flight.pop(call.id, None)
        if actor.state is DEAD:
            for call in calls:
                core.fail_task(call, actor.cause)
        elif calls:
            core.actors.resubmit(actor, calls, "The node that hosted the actor is lost.")
            core.actors.router.go_on(actor)

    @property
    def is_waiting(self) -> bool:
        """Whether some actor may have to be given up."""
        return bool(self._unknown)

    def tick(self) -> None:
        """Give up actors that nobody has ever heard of."""
        core = self._core
        for actor_id, since in list(self._unknown.items()):
            if core.now - since > ACTOR_UNKNOWN_S:
                del self._unknown[actor_id]
                actor = core.actors.router.actors.get(actor_id)
                if actor is not None and core.neighbours.home_of(actor_id) is None:
                    self._proxy_died(actor, core.actors.unknown(actor_id))

    def end_job(self, job_id: bytes) -> list[Task]:
        """A job is over: its calls, and the proxies of its actors."""
        tasks: list[Task] = []
        for actor_id, calls in list(self._limbo.items()):
            tasks += [call for call in calls if call.template.job_id == job_id]
            left = [call for call in calls if call.template.job_id != job_id]
            if left:
                self._limbo[actor_id] = left
            else:
                del self._limbo[actor_id]
        for neighbour in self._core.neighbours.by_id.values():
            for call in [c for c in neighbour.calls.values() if c.template.job_id == job_id]:
                del neighbour.calls[call.id]
                call.actor.in_flight.pop(call.id, None)
                tasks.append(call)
        return tasks

    def forget_if_unused(self, actor: Actor) -> None:
        """A proxy goes when nothing here has a handle, and nobody who may call again has called.

        While a process lives whose calls have been counted, the count has to be kept; those of a
        dead actor fail whatever their number.
        """
        handle = handle_id(actor.id)
        is_held = handle in self._core.store.objects
        if not is_held and actor.is_drained() and (actor.state is DEAD or not actor.lines):
            self.forget(actor)
        else:  # a handle may come here again, and go again
            self._core.store.watched.add(handle)

    def caller_gone(self) -> None:
        """A process has ended: look after the proxies that it has called."""
        for actor in [a for a in self._core.actors.router.actors.values() if a.is_proxy]:
            self.forget_if_unused(actor)

    def forget(self, actor: Actor) -> list[Task]:
        """A proxy is of no use any more; the calls to it of which nobody will hear."""
        self._unknown.pop(actor.id, None)
        calls = self._limbo.pop(actor.id, [])
        self._core.actors.router.actors.pop(actor.id, None)
        self._core.store.watched.discard(handle_id(actor.id))
        self.forget_lines(actor)
        self._core.gcs.append(m.WatchActor(actor.id, False))
        return calls

    def forget_lines(self, actor: Actor) -> None:
        """The numbers of the calls that went to its hosts."""
        for other in self._core.neighbours.by_id.values():
            for key in [key for key in other.lines if key[0] == actor.id]:
                del other.lines[key]

    # ------------------------------------------------------------------ the host

    def on_forward_actor(self, peer: Client, message: m.ForwardActor) -> None:
        """Host an actor of another home."""
        core = self._core
        core.guests.received += 1
        template = peer.templates.get(message.template)
        if template is None or template.job_id not in core.jobs:
            # Its job has ended, as the home hears too.
            core.send(peer, m.GivenBack([message.task_id], "the job has ended here"))
            return
        if core.scheduler.missing(template.spec.demand):  # the bundle that it was sent to is gone
            reason = "this node does not have the resources (any more)"
            core.send(peer, m.GivenBack([message.task_id], reason))
            return
        task = Task(
            message.task_id,
            template,
            message.arguments,
            message.dependencies,
            None,
            peer,
            0,
            core.now,
        )
        check_call(task.id, template.spec, "actor")
        actor = Actor(task, message.options, peer)
        actor.restarts = message.restarts
        actor.life = message.life
        task.actor = actor
        task.is_bound = True
        self._replace_older(actor)
        core.guests.borrow_inputs(task, message.inputs)
        core.forwarder.take(task)

    def _replace_older(self, actor: Actor) -> None:
        # A proxy, for callers of this node; or an older life, whose home had lost sight of it.
        core = self._core
        router = core.actors.router
        old = router.actors.get(actor.id)
        if old is not None and not old.is_proxy and old.state is not DEAD:
            core.actors.die(old, core.actors.unknown(actor.id))
        router.add(actor)
        if old is None or not old.is_proxy:
            return
        self._unknown.pop(actor.id, None)
        core.store.watched.discard(handle_id(actor.id))  # its home counts handles, and says
        core.gcs.append(m.WatchActor(actor.id, False))
        actor.lines, actor.backlog = old.lines, old.backlog
        for line in actor.lines.values():
            for early in line.early.values():
                if early is not None:
                    early.actor = actor
        # Those in flight at its former host come back from there, or are lost with it.
        for call in [*actor.backlog, *self._away(old)]:
            call.actor = actor
        lost = self._limbo.pop(actor.id, [])
        for call in lost:
            call.actor = actor
        core.actors.resubmit(actor, lost, "The node that hosted the actor is lost.")

    def is_called_here(self, creation: Task) -> bool:
        """Whether other nodes take this one for the actor's host: it has lived here, or has been
        called from there, as it had lived here before its home placed it anew."""
        actor: Actor = creation.actor
        return (
            actor.state is ActorState.RESTARTING
            or any(call.owner.node_id for call in actor.backlog)
            or any(type(caller) is tuple for caller in actor.lines)
        )

    def give_back(self, task: Task, node_id: bytes) -> None:
        """An actor of another home waits here for room, and that node has it: its home sends it
        there. What is called from here goes to it as before it came."""
        core = self._core
        actor: Actor = task.actor
        core.send(actor.creator, m.GivenBack([task.id], "another node has room for it", node_id))
        task.state = advance(TASK_MOVES, task.state, TASK_FAILED)
        core.drop_arguments(task)
        del core.actors.router.actors[actor.id]
        self._leave_proxy(actor)

    def _leave_proxy(self, actor: Actor) -> Actor | None:
        """The actor has left: what is called from here goes to where it will be, in order."""
        calls = [*actor.backlog, *actor.in_flight.values(), *self._away(actor)]
        calls += [c for line in actor.lines.values() for c in line.early.values() if c]
        if not actor.lines and not calls:
            return None
        creation = actor.creation
        proxy = self._stand_in(actor.id, creation.template, creation.owner, actor.options.in_order)
        proxy.lines, proxy.backlog = actor.lines, actor.backlog
        for call in calls:
            call.actor = proxy
            if not call.holds_handle:
                self.hold_handle(call, proxy)
        return proxy

    def _away(self, actor: Actor) -> list[Task]:
        """Its calls from here that are at hosts, be they former ones."""
        neighbours = self._core.neighbours.by_id.values()
        return [call for host in neighbours for call in host.calls.values() if call.actor is actor]

    def on_forward_call(self, peer: Client, message: m.ForwardCall) -> None:
        """A call from another node to an actor that is hosted here."""
        core = self._core
        actor = core.actors.router.actors.get(message.actor_id)
        if actor is not None and not actor.is_proxy and message.life < actor.life:
            core.send(peer, m.GivenBack([message.task_id], "restarted", b"", actor.life))
            return
        template = peer.templates.get(message.template)
        if template is None or template.job_id not in core.jobs:
            self._refuse_call(peer, message)
            return
        task = Task(
            message.task_id,
            template,
            message.arguments,
            message.dependencies,
            None,
            peer,
            0,
            core.now,
        )
        check_call(task.id, template.spec, "method")
        task.sequence = message.sequence
        task.attempt = message.attempt
        task.retries_left = message.retries_left
        task.line = (peer, message.caller)
        core.guests.adopt_returns(peer, task)
        core.guests.borrow_inputs(task, message.inputs)
        if actor is None or actor.is_proxy:
            core.fail_task(task, core.actors.unknown(message.actor_id))
            return
        task.actor = actor
        if actor.state is DEAD:
            core.fail_task(task, actor.cause)
        elif core.wait_for_inputs_here(task):
            core.guests.stand_behind(task)
            core.actors.router.arrived(actor, task.line, task)

    def _refuse_call(self, peer: Client, message: m.ForwardCall) -> None:
        # The job of its caller has ended here, before the caller's node has heard of that: the
        # numbers stay gapless.
        router = self._core.actors.router
        actor = router.actors.get(message.actor_id)
        if actor is not None and not actor.is_proxy:
            router.failed_before_delivery(actor, (peer, message.caller), message.sequence)
        self._core.send(peer, m.GivenBack([message.task_id], "the job has ended here"))

    def on_end_actor(self, peer: Client, message: m.EndActor) -> None:
        """Its home tells that no handle is left."""
        actor = self._core.actors.router.actors.get(message.actor_id)
        if actor is not None and actor.creator is peer:
            actor.has_handles = False
            self._core.actors.end_if_drained(actor)

    def home_lost(self, peer: Client) -> None:
        """The home of hosted actors is dead, or has given this node up and restarts them."""
        for actor in list(self._core.actors.router.actors.values()):
            if actor.creator is peer and not actor.is_proxy:
                is_alive = peer.node_id in self._core.neighbours.by_id
                own = self._take_own_calls(actor) if is_alive else None
                if actor.state is not DEAD:
                    self._core.actors.die(actor, self._core.actors.unknown(actor.id))
                self._core.actors.router.actors.pop(actor.id, None)
                if own is not None and (proxy := self._leave_proxy(own)) is not None:
                    why = "The node that hosted the actor has lost its home."
                    self._core.actors.resubmit(proxy, list(own.in_flight.values()), why)

    def _take_own_calls(self, actor: Actor) -> Actor:
        # As an actor that has been called from here only.
        own = Actor(actor.creation, actor.options, actor.creator)
        for call in self._away(actor):
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

    def is_guest(self, actor: Actor) -> bool:
        """Whether the actor is hosted here for another home."""
        return not actor.is_proxy and self._core.store.is_foreign(actor.id)
