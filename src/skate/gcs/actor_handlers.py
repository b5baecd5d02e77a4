"""Actors, as the GCS hears of them: reports and names, and the nodes that watch an actor.

A node that watches an actor is told each change of it, the last of which is its death. It is told
too if nobody can report the actor any more: its home is dead, or its job ended before creating it.

Invariants (`check`): those of both tables; only living nodes watch, and no dead actor is watched.
"""

from __future__ import annotations

from typing import Any

from skate.gcs import questions
from skate.gcs.actor_table import ActorRow, ActorTable, view_actor
from skate.gcs.actor_watch import ActorWatch
from skate.gcs.event_log import EventLog
from skate.gcs.hears import Asker, Body, answers, hears
from skate.gcs.membership import LostNode, Membership, NodeRow
from skate.gcs.outbox import Outbox, Send
from skate.ids import home_of
from skate.messages import ActorChanged, WatchActor
from skate.states import ActorState

NEVER_BORN = "the process that had reserved its name ended before it had created it"


class ActorHandlers:
    """See the module's docstring."""

    def __init__(
        self, actors: ActorTable, membership: Membership, outbox: Outbox, log: EventLog
    ) -> None:
        self._actors = actors
        self._membership = membership
        self._outbox = outbox
        self._log = log
        self._watch = ActorWatch()
        self._never_born: list[Send] = []  # news of this turn

    @property
    def is_watching(self) -> bool:
        """Whether any node watches an actor."""
        return bool(self._watch.watched())

    # ------------------------------------------------------------------------- messages

    @hears(ActorChanged)
    def on_actor_changed(self, node: NodeRow, message: ActorChanged, _now: float) -> None:
        """A report of the node that speaks for the actor."""
        if self._actors.change(node.node_id, message):
            state = ActorState(message.state).name
            text = message.cause or message.class_name
            self._log.record("actor", message.actor_id, state, message.at, text, message.pid)
        self._tell_watchers(message.actor_id)  # an actor that was dead already has no watchers

    @hears(WatchActor)
    def on_watch_actor(self, node: NodeRow, message: WatchActor, now: float) -> None:
        """A node begins to watch an actor, or ends that."""
        actor_id = message.actor_id
        if not message.watch:
            self._watch.unwatch(node.peer, actor_id)
            return
        self._watch.watch(node.peer, actor_id)
        news = self._news_of(actor_id, now)
        if news is None:
            return
        if news.state == ActorState.DEAD:
            self._watch.unwatch(node.peer, actor_id)
        self._outbox.send(node.peer, news)

    # ------------------------------------------------------------------------- questions

    @answers(questions.ReserveActorName)
    def reserve_name(self, asker: Asker, ask: questions.ReserveActorName, _now: float) -> Body:
        """The name is this actor's, unless another has it."""
        other = self._actors.reserve(ask.name, ask.namespace, ask.actor_id, self._node_at(asker))
        row = self._actors.actors.get(ask.actor_id)
        if other is None and row is not None:
            row.class_name = ask.class_name or row.class_name
            row.spec = ask.spec or row.spec
        return {"actor_id": other}

    @answers(questions.ReleaseActorName)
    def release_name(self, _asker: Asker, ask: questions.ReleaseActorName, now: float) -> Body:
        """The name is free again."""
        is_released = self._actors.release_name(ask.name, ask.namespace, ask.actor_id)
        if ask.actor_id is not None and self._actors.never_born(
            ask.actor_id, ask.name, ask.namespace, NEVER_BORN, now
        ):
            self._tell_of_unborn(ask.actor_id, now)
        return is_released

    @answers(questions.PutActorSpec)
    def put_spec(self, asker: Asker, ask: questions.PutActorSpec, _now: float) -> Body:
        """Keep what other nodes need to make handles."""
        self._actors.put_spec(ask.actor_id, ask.spec, self._node_at(asker))

    @answers(questions.GetActor)
    def get_actor(self, _asker: Asker, ask: questions.GetActor, _now: float) -> Body:
        """A living actor by id or by name."""
        if ask.actor_id is not None:
            row = self._actors.actors.get(ask.actor_id)
        else:
            row = self._actors.find(ask.name, ask.namespace)
        return None if row is None or row.state is ActorState.DEAD else _actor_for_nodes(row)

    @answers(questions.ListActors)
    def list_actors(self, _asker: Asker, ask: questions.ListActors, _now: float) -> Body:
        """All actors, for people."""
        return [view_actor(row) for row in self._actors.actors.newest(ask.limit)]

    @answers(questions.NamedActors)
    def named_actors(self, _asker: Asker, ask: questions.NamedActors, _now: float) -> Body:
        """The names in use."""
        return self._actors.names(ask.namespace)

    # ------------------------------------------------------------------------- ends

    def watcher_lost(self, lost: LostNode) -> None:
        """A node is dead: it watches no actor any more."""
        self._watch.forget_peer(lost.node.peer)

    def node_lost(self, lost: LostNode) -> None:
        """A node is dead, and so are the actors that it spoke for."""
        for actor in self._actors.end_node(lost.node.node_id, lost.why, lost.now):
            self._log.record("actor", actor.actor_id, "DEAD", lost.now, lost.why, actor.pid)
        # Actors that the node has not reported yet: no other node will.
        for actor_id in self._watch.watched():
            news = self._news_of(actor_id, lost.now)
            if news is not None and news.state == ActorState.DEAD:
                for peer in self._watch.watchers(actor_id):
                    self._outbox.send(peer, news)
                self._watch.end_actor(actor_id)

    def job_over(self, job_id: bytes, now: float) -> None:
        """A job is over: actors that it has only reserved will never be created."""
        for actor_id in self._actors.end_job(job_id):
            self._tell_of_unborn(actor_id, now)

    def settle(self) -> None:
        """At the end of a turn: tell of actors that will never be."""
        self._outbox.send_all(self._never_born)
        self._never_born = []

    # ------------------------------------------------------------------------- inside

    def _node_at(self, asker: Asker) -> bytes:
        node = self._membership.by_peer.get(asker[0])
        return b"" if node is None else node.node_id

    def _news_of(self, actor_id: bytes, now: float) -> ActorChanged | None:
        """The news of an actor for a watcher; None until a node has reported the actor."""
        row = self._actors.actors.get(actor_id)
        if row is not None and (row.reported or row.state is ActorState.DEAD):
            return _row_as_news(row)
        home = home_of(actor_id)
        if self._membership.home(home) is not None:
            return None
        return _death(actor_id, f"the node that created it, {home.hex()}..., is dead", now)

    def _tell_watchers(self, actor_id: bytes) -> None:
        row = self._actors.actors.get(actor_id)
        peers = self._watch.watchers(actor_id)
        if row is None or not peers:
            return
        if row.state is ActorState.DEAD:
            self._watch.end_actor(actor_id)
        self._outbox.send_all((peer, _row_as_news(row)) for peer in peers)

    def _tell_of_unborn(self, actor_id: bytes, now: float) -> None:
        # The actor had its name and could be called; no node will report it any more.
        news = _death(actor_id, NEVER_BORN, now)
        self._never_born += [(peer, news) for peer in self._watch.watchers(actor_id)]
        self._watch.end_actor(actor_id)

    def counts(self) -> dict[str, Any]:
        """The number of actors in each state."""
        return {"actors": self._actors.counts()}

    def check(self) -> None:
        """Assert the invariants above."""
        self._actors.check()
        self._watch.check()
        for actor_id in self._watch.watched():
            actor = self._actors.actors.get(actor_id)
            assert actor is None or actor.state is not ActorState.DEAD
            assert all(peer in self._membership.by_peer for peer in self._watch.watchers(actor_id))


def _actor_for_nodes(row: ActorRow) -> dict[str, Any]:
    """An actor as another node needs it: ids and spec as bytes."""
    return view_actor(row) | {
        "actor_id": row.actor_id,
        "node_id": row.node_id,
        "spec": row.spec,
    }


def _row_as_news(row: ActorRow) -> ActorChanged:
    return ActorChanged(
        row.actor_id,
        int(row.state),
        row.class_name,
        row.name,
        row.namespace,
        row.node_id,
        row.pid,
        row.cause,
        row.changed,
        row.restarts,
        row.cause_kind,
        row.life,
    )


def _death(actor_id: bytes, cause: str, now: float) -> ActorChanged:
    return ActorChanged(actor_id, int(ActorState.DEAD), "", "", "", b"", 0, cause, now)
