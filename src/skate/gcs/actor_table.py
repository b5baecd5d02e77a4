"""Actors: their life cycle, and their names, unique within a namespace.

A node reserves the name before it creates a named actor, then reports the actor's states. Reports
may be merged on their way, so a row moves to any state that `ACTOR_MOVES` can reach from its own; a
report for a dead actor is too late and changes nothing.

Invariants, all asserted by `check()`: a name belongs to an actor that is not dead and that bears
it; an actor bears its name from reservation to death; living actors are never dropped, of the dead
the newest `DEAD_KEPT` stay.

It places and restarts nothing. The actor's home node does, and reports, wherever the actor lives.
An actor's `spec` (options, methods) is opaque bytes of its home.
"""

from __future__ import annotations

from typing import Any

import msgspec

from skate.gcs.table import Table
from skate.ids import job_of
from skate.messages import ActorChanged
from skate.states import ACTOR_MOVES, ActorState, IllegalMove

DEAD_KEPT = 10_000
"""Dead actors that stay listed, at some 500 bytes each."""


def _reachable(start: ActorState) -> frozenset[ActorState]:
    found: dict[ActorState, None] = {}
    front = [start]
    while front:
        for state in ACTOR_MOVES[front.pop()]:
            if state not in found:
                found[state] = None
                front.append(state)
    return frozenset(found)


_REACHABLE = {state: _reachable(state) for state in ActorState}


class ActorRow(msgspec.Struct):
    """An actor. `reporter` is the node that speaks for it; `node_id` where it lives, b"": nowhere.

    Until its first report a row is no more than a reserved name.
    """

    actor_id: bytes
    reporter: bytes
    name: str = ""
    namespace: str = ""
    class_name: str = ""
    state: ActorState = ActorState.DEPENDENCIES_UNREADY
    node_id: bytes = b""
    pid: int = 0
    cause: str = ""
    cause_kind: str = ""
    life: int = 0
    restarts: int = 0
    created: float = 0.0  # of the first report, and of the last one; wall seconds
    changed: float = 0.0
    reported: bool = False
    spec: bytes = b""


class ActorTable:
    """Actors by id, and the ids of the named ones by (namespace, name)."""

    def __init__(self, dead_kept: int = DEAD_KEPT) -> None:
        self.actors: Table[bytes, ActorRow] = Table(history=dead_kept)
        self._names: dict[tuple[str, str], bytes] = {}

    def reserve(
        self, name: str, namespace: str, actor_id: bytes, reporter: bytes = b""
    ) -> bytes | None:
        """Take the name for this actor; the id of the other actor that has it, or None.

        ValueError if the name is empty, or if the actor is dead or has another name.
        """
        if not name:
            raise ValueError("an actor's name cannot be empty")
        holder = self._names.get((namespace, name))
        if holder is not None:
            return None if holder == actor_id else holder
        row = self.actors.get(actor_id)
        if row is None:
            row = ActorRow(actor_id, reporter)
        elif row.name or row.state is ActorState.DEAD:
            raise ValueError(f"actor {actor_id.hex()} is {row.state.name}, its name {row.name!r}")
        row.name, row.namespace = name, namespace
        self._names[namespace, name] = actor_id
        self.actors.put(actor_id, row)
        return None

    def release_name(self, name: str, namespace: str, actor_id: bytes | None = None) -> bool:
        """Give the name back; if an actor is given, only if that one has it. True if it was taken.

        A row that was no more than a reservation goes with its name.
        """
        holder = self._names.get((namespace, name))
        if holder is None or (actor_id is not None and holder != actor_id):
            return False
        del self._names[namespace, name]
        row = self.actors.get(holder)
        assert row is not None
        if row.reported:
            row.name = ""
            self.actors.put(holder, row)
        else:
            self.actors.remove(holder)
        return True

    def never_born(
        self, actor_id: bytes, name: str, namespace: str, cause: str, now: float
    ) -> bool:
        """The creator is gone and had only reserved the name; False if it did create the actor.

        The actor is listed as dead: a process that has found it by its name may ask for it later.
        """
        row = self.actors.get(actor_id) or ActorRow(actor_id, b"")
        if row.reported or row.state is ActorState.DEAD:
            return False
        row.state, row.cause, row.changed = ActorState.DEAD, cause, now
        self._bury(row)
        row.name, row.namespace = name, namespace  # which may be another actor's by now
        return True

    def put_spec(self, actor_id: bytes, spec: bytes, reporter: bytes = b"") -> None:
        """Keep what other nodes need to make handles of this actor."""
        row = self.actors.get(actor_id) or ActorRow(actor_id, reporter)
        if row.state is not ActorState.DEAD:
            row.spec = spec
            self.actors.put(actor_id, row)

    def change(self, reporter: bytes, message: ActorChanged) -> bool:
        """Take a report; True if the state is new. ValueError for a state that does not exist.

        The first report also takes the actor's name, if it is free; an actor whose name is taken
        lives without one. IllegalMove if no moves lead from the old state to the new one.
        """
        state = ActorState(message.state)
        row = self.actors.get(message.actor_id)
        if row is not None and row.state is ActorState.DEAD:
            return False
        news = row is None or not row.reported or row.state is not state
        if row is None:
            row = ActorRow(message.actor_id, reporter)
        elif not row.reported:
            row.reporter = reporter  # a reservation belongs to the peer that asked for it
        elif news and state not in _REACHABLE[row.state]:
            raise IllegalMove(f"ActorState {row.state.name} -> {state.name}: {row.actor_id.hex()}")
        claims = message.name and not row.name and not row.reported
        if claims and state is not ActorState.DEAD:
            self.reserve(message.name, message.namespace, row.actor_id, reporter)
            row = self.actors.get(row.actor_id) or row
        self._take_report(row, state, message)
        if state is ActorState.DEAD:
            self._bury(row)
        return news

    def end_job(self, job_id: bytes) -> list[bytes]:
        """The job is over: actors whose names it has reserved will never be created.

        Returns those actors; their rows and names are gone.
        """
        removed = []
        for row in self.actors.rows():
            is_unborn = not row.reported and row.state is not ActorState.DEAD
            if is_unborn and job_of(row.actor_id) == job_id:
                self._names.pop((row.namespace, row.name), None)
                self.actors.remove(row.actor_id)
                removed.append(row.actor_id)
        return removed

    def end_node(self, node_id: bytes, cause: str, now: float) -> list[ActorRow]:
        """The node is dead, and the actors that it reported are; returns these, the oldest first.

        An actor that lived there but that another node reports may be restarted by that node.
        """
        lost = [
            row
            for row in self.actors.rows()
            if row.state is not ActorState.DEAD and row.reporter == node_id
        ]
        for row in lost:
            row.state, row.cause, row.changed = ActorState.DEAD, cause, now
            self._bury(row)
        return lost

    def find(self, name: str, namespace: str) -> ActorRow | None:
        """The actor that bears this name, or None."""
        actor_id = self._names.get((namespace, name))
        return None if actor_id is None else self.actors.get(actor_id)

    def names(self, namespace: str | None = None) -> list[list[str]]:
        """The names that living actors bear, as [namespace, name], sorted; None: everywhere."""
        return sorted(list(pair) for pair in self._names if namespace in (None, pair[0]))

    def counts(self) -> dict[str, int]:
        """How many actors are in each state that any is in."""
        counts: dict[str, int] = {}
        for row in self.actors.rows():
            counts[row.state.name] = counts.get(row.state.name, 0) + 1
        return counts

    def _take_report(self, row: ActorRow, state: ActorState, message: ActorChanged) -> None:
        row.state, row.cause, row.changed = state, message.cause, message.at
        row.cause_kind, row.life = message.cause_kind, message.life
        row.node_id, row.pid, row.restarts = message.node_id, message.pid, message.restarts
        row.class_name = message.class_name or row.class_name
        if not row.name:  # a name is indexed with the namespace that it was reserved in
            row.namespace = row.namespace or message.namespace
        if not row.reported:
            row.reported, row.created = True, message.at
        self.actors.put(row.actor_id, row)

    def _bury(self, row: ActorRow) -> None:
        """Free the name (the row still tells it), and let the row become history."""
        if row.name:
            self._names.pop((row.namespace, row.name), None)
        row.spec = b""
        self.actors.put(row.actor_id, row)
        self.actors.retire(row.actor_id)

    def check(self) -> None:
        """Assert the invariants above."""
        self.actors.check()
        bearers = {
            (row.namespace, row.name): row.actor_id
            for row in self.actors.rows()
            if row.name and row.state is not ActorState.DEAD
        }
        assert bearers == self._names


def view_actor(row: ActorRow) -> dict[str, Any]:
    """An actor as plain data for people: ids in hex, times in wall seconds, no spec."""
    return {
        "actor_id": row.actor_id.hex(),
        "class_name": row.class_name,
        "name": row.name,
        "namespace": row.namespace,
        "state": row.state.name,
        "node_id": row.node_id.hex(),
        "pid": row.pid,
        "cause": row.cause,
        "restarts": row.restarts,
        "created": row.created,
        "changed": row.changed,
    }
