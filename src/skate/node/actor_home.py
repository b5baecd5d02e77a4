"""Actors of this home that live on other nodes. Pure.

An actor's home is the node whose process created it: it owns the actor's life (its place, its
restarts on other nodes, its handles). Its *host* runs its process, restarts it in place, and tells
the home (``ActorNews``); the home tells the GCS, and the GCS every node that watches.
"""

from __future__ import annotations

from skate import messages as m
from skate.node.actor_life import ActorLife
from skate.node.actor_proxies import ActorProxies
from skate.node.actor_reports import ActorReports
from skate.node.actor_router import ActorRouter
from skate.node.error_payload import error_payload
from skate.node.forwarding import Forwarding
from skate.node.hears import ANSWERER, hears
from skate.node.introductions import Introductions
from skate.node.outbox import Outbox
from skate.node.running import Running
from skate.rows import Actor, OtherNode, Task
from skate.states import TASK_FAILED, TASK_FINISHED, TASK_FORWARDED, TASK_READY, ActorState

ALIVE, DEAD = ActorState.ALIVE, ActorState.DEAD


class ActorHome:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        router: ActorRouter,
        introductions: Introductions,
        running: Running,
        forwarding: Forwarding,
        actor_reports: ActorReports,
        actor_life: ActorLife,
        actor_proxies: ActorProxies,
    ) -> None:
        self._outbox = outbox
        self._router = router
        self._introductions = introductions
        self._running = running
        self._forwarding = forwarding
        self._actor_reports = actor_reports
        self._actor_life = actor_life
        self._actor_proxies = actor_proxies

    def forward_creation(self, task: Task, host: OtherNode) -> None:
        """The global scheduler has chosen a host for an actor of this home."""
        actor: Actor = task.actor
        number = self._introductions.to_node(host, task.template)
        actor.host = host
        actor.life += 1
        if actor.state is ActorState.DEPENDENCIES_UNREADY:
            actor.move(ActorState.PENDING_CREATION)
        self._outbox.send_node(
            host,
            m.ForwardActor(
                task.id,
                number,
                actor.options,
                task.arguments,
                task.dependencies,
                task.nested,
                self._forwarding.inputs_of(task),
                actor.restarts,
                actor.life,
            ),
        )
        if not actor.has_handles and actor.is_drained():
            self._outbox.send_node(host, m.EndActor(actor.id))

    def given_back(self, host: OtherNode, task_id: bytes, life: int) -> Task | None:
        """The construction that a node refuses to host, if the actor still needs one.

        A call is sent again, if it was to an older ``life`` of the actor; else it fails, and the
        host has closed its number.
        """
        call = host.calls.pop(task_id, None)
        if call is not None and life:
            self._call_again(host, call, life)
            return None
        if call is not None:
            self._router.answered(call.actor, call.id)
            text = "The node that hosts the actor has ended the job of this call."
            self._running.fail(call, error_payload("ActorUnavailableError", text))
            return None
        actor = self._router.actors.get(task_id)
        if actor is None or actor.host is not host or actor.creation.state is not TASK_FORWARDED:
            return None
        actor.host = None
        return actor.creation

    def _call_again(self, host: OtherNode, call: Task, life: int) -> None:
        # The actor was placed anew, maybe on the same node; this node learns of it here first.
        actor: Actor = call.actor
        actor.in_flight.pop(call.id, None)
        call.state = TASK_READY
        if actor.state is DEAD:
            self._running.fail(call, actor.cause)
            return
        if actor.host is host and life > actor.life:
            self._actor_proxies.forget_lines(actor)
            actor.life = life
        self._router.again(actor, [call])
        self._router.go_on(actor)

    @hears(m.ActorNews, ANSWERER)
    def on_news(self, host: OtherNode, message: m.ActorNews) -> None:
        """The host of an actor of this home tells of its life."""
        actor = self._router.actors.get(message.actor_id)
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
            self._actor_reports.report(actor)
            if actor.options.max_restarts == 0:
                self._running.drop_arguments(actor.creation)
            self._router.now_alive(actor)
            if not actor.has_handles:
                self._actor_life.end_if_drained(actor)
        elif state is DEAD:
            for call in actor.in_flight.values():  # calls that ran came back before the news
                host.calls.pop(call.id, None)
            self._actor_life.die(actor, message.cause)
        else:  # restarted in place: its host keeps the calls
            self._actor_reports.report(actor, state)
