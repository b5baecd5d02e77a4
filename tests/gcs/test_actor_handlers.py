"""Actors in the GCS, without the core: who is told what becomes of an actor, and when."""

from __future__ import annotations

from skate.gcs import questions
from skate.gcs.actor_handlers import ActorHandlers
from skate.gcs.actor_table import ActorTable
from skate.gcs.event_log import EventLog
from skate.gcs.membership import Membership
from skate.gcs.outbox import Outbox
from skate.messages import ActorChanged, WatchActor
from skate.states import ActorState
from tests.gcs.joined import NODE_A, NODE_B, join, lose

JOB = b"\0\0\0\1"
ACTOR = JOB + NODE_A[:4] + b"\0" * 8
"""Its home is node A."""
A, B = 1, 2  # peers


class Actors:
    """The part, nodes A and B, and what was said since the last look."""

    def __init__(self) -> None:
        self.membership = Membership(None)
        self.outbox = Outbox(self.membership.by_peer)
        self.log = EventLog()
        self.part = ActorHandlers(ActorTable(), self.membership, self.outbox, self.log)
        self.a = join(self.membership, NODE_A, A)
        self.b = join(self.membership, NODE_B, B)

    def report(self, state: ActorState, at: float = 2.0) -> None:
        message = ActorChanged(ACTOR, int(state), "Counter", "n", "space", NODE_A, 5, "", at)
        self.part.on_actor_changed(self.a, message, at)

    def reserve(self, namespace: str = "space") -> None:
        ask = questions.ReserveActorName("n", namespace, ACTOR)
        assert self.part.reserve_name((A, 1), ask, 2.0) == {"actor_id": None}

    def news(self) -> list[tuple[int, str]]:
        """To which peer, and the state that it reads."""
        self.part.check()
        sends = self.outbox.take()
        assert all(isinstance(message, ActorChanged) for _, message in sends)
        return [(peer, ActorState(message.state).name) for peer, message in sends]  # type: ignore[attr-defined]


def test_a_watcher_reads_each_change_until_the_death_and_nothing_after() -> None:
    actors = Actors()
    actors.part.on_watch_actor(actors.b, WatchActor(ACTOR, True), 2.0)
    assert actors.news() == []  # nobody has reported it, and its home lives
    actors.report(ActorState.PENDING_CREATION)
    actors.report(ActorState.ALIVE)
    actors.report(ActorState.DEAD)
    actors.report(ActorState.ALIVE)  # too late
    assert actors.news() == [(B, "PENDING_CREATION"), (B, "ALIVE"), (B, "DEAD")]
    assert not actors.part.is_watching


def test_a_watcher_of_an_actor_that_was_never_reported_learns_of_the_death_of_its_home() -> None:
    actors = Actors()
    actors.part.on_watch_actor(actors.b, WatchActor(ACTOR, True), 2.0)
    lost = lose(actors.membership, actors.a)
    actors.part.watcher_lost(lost)
    actors.part.node_lost(lost)
    assert actors.news() == [(B, "DEAD")]


def test_a_dead_node_is_told_of_no_actor_that_died_with_it() -> None:
    actors = Actors()
    actors.report(ActorState.ALIVE)
    for node in (actors.a, actors.b):
        actors.part.on_watch_actor(node, WatchActor(ACTOR, True), 2.0)
    assert actors.news() == [(A, "ALIVE"), (B, "ALIVE")]
    lost = lose(actors.membership, actors.a)
    actors.part.watcher_lost(lost)
    actors.part.node_lost(lost)
    assert actors.news() == [(B, "DEAD")]
    rows = [(row["state"], row["text"]) for row in actors.log.story(ACTOR)]
    assert rows == [("ALIVE", "Counter"), ("DEAD", lost.why)]


def test_who_waits_for_a_reserved_actor_is_told_at_the_end_of_the_turn_in_which_its_job_ends() -> (
    None
):
    actors = Actors()
    actors.reserve()
    actors.part.on_watch_actor(actors.b, WatchActor(ACTOR, True), 2.0)
    actors.part.job_over(b"\0\0\0\2", 3.0)  # of another job
    actors.part.settle()
    assert actors.news() == []
    actors.part.job_over(JOB, 3.0)
    assert actors.news() == []  # others speak first
    actors.part.settle()
    assert actors.news() == [(B, "DEAD")]
    actors.part.settle()
    assert actors.news() == []  # once
    assert actors.part.named_actors((A, 1), questions.NamedActors(), 3.0) == []
