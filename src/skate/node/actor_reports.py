"""Reports of an actor's life and death, for the GCS, its home and its callers. Pure."""

from __future__ import annotations

from typing import Any

from skate import messages as m
from skate.error_records import ErrorRecord, decode_error, encode_error
from skate.node.actor_router import ActorRouter
from skate.node.borrowing import Borrowing
from skate.node.clock import Clock
from skate.node.event_notes import EventNotes
from skate.node.identity import Identity
from skate.node.outbox import Outbox
from skate.rows import Actor
from skate.spec import FORMAT_ERROR
from skate.states import ActorState


class ActorReports:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        clock: Clock,
        outbox: Outbox,
        me: Identity,
        router: ActorRouter,
        notes: EventNotes,
        borrowing: Borrowing,
    ) -> None:
        self._clock = clock
        self._outbox = outbox
        self._me = me
        self._router = router
        self._notes = notes
        self._borrowing = borrowing

    def cause_of_death(self, actor: Actor, why: str, **fields: Any) -> bytes:
        """The error value for the actor's callers."""
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
        options = actor.options
        worker = actor.worker
        state = actor.state if state is None else state
        pid = worker.pid if worker else actor.host_pid
        if actor.is_guest:
            news = m.ActorNews(actor.id, int(state), actor.restarts, pid, actor.cause)
            self._borrowing.leave(actor.creator, news)
            return
        cause = decode_error(actor.cause[1:]) if actor.cause else None
        self._outbox.to_gcs(
            m.ActorChanged(
                actor.id,
                int(state),
                options.class_name,
                options.name,
                options.namespace,
                self._me.node_id if actor.host is None else actor.host.node_id,
                pid,
                cause.message if cause else "",
                self._clock.now,
                actor.restarts,
                cause.kind if cause else "",
                actor.life,
            )
        )
        self._notes.state("actor", actor.id, state.name, options.class_name, pid)

    def info(self, body: dict[str, Any]) -> Any:
        """The facts that a handle from get_actor needs."""
        actor = self._router.actors.get(body["actor_id"])
        if actor is None:
            return None
        return {"options": m.encode(actor.options), "state": actor.state.name}

    def counts(self) -> dict[str, int]:
        """The number of actors in each state."""
        counts: dict[str, int] = {}
        for actor in self._router.actors.values():
            counts[actor.state.name] = counts.get(actor.state.name, 0) + 1
        return counts
