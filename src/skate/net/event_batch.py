"""Events on their way to the GCS: the format, and a node's bounded batch of them.

A node collects events as plain tuples in an `EventBatch` and sends them as one opaque batch. The
GCS keeps batches as they are (gcs/event_log.py) and decodes them only when somebody asks. The tuple
forms, with times in seconds of the wall clock (0.0: did not happen) and ids as bytes:

    ("T", task_id, attempt, name, job_id, worker_pid, worker_id, submitted, ready, sent, started,
          ended, state, error_type, node_id, kind, submitter_pid, stored, result_bytes, delivered)
          one attempt of a task; `state` is a TaskState, `kind` is "task", "actor" or "method".
          `stored` is when its one small result was stored, and `delivered` whether it was sent to
          the submitter at once; such results have no events of their own, but rows like those of
    ("L", worker_pid, worker_id, node_id, submitter_pid, rows)
          calls of one lane, as their worker has told (`messages.LaneRow`): as many "T" of the first
          attempt, submitted, ready, sent and begun at one time
    ("O", object_id, what, size, at, pid, node_id)
          `what` is "PUT", "STORED" (in the node's own memory), "SEALED" (in the arena), "WANTED",
          "DELIVERED", "FREED" or "PULLED"; size in bytes
    ("S", kind, id, state, at, text, pid)
          `kind` is "node", "job", "actor", "worker", "function" or "placement_group"

Invariant: a batch that holds `max_events` events takes no more; those that come are counted.

This module gives events no meaning: the GCS makes rows and timelines of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from skate.config import EVENT_BACKLOG
from skate.ids import job_of
from skate.messages import Events, LaneRow


class TaskEvent(msgspec.Struct, array_like=True, tag="T", gc=False):
    """One attempt of a task, up to now."""

    task_id: bytes
    attempt: int
    name: str
    job_id: bytes
    worker_pid: int
    worker_id: bytes
    submitted: float
    ready: float
    sent: float
    started: float
    ended: float
    state: int
    error_type: str
    node_id: bytes
    kind: str
    submitter_pid: int
    stored: float = 0.0
    result_bytes: int = 0
    delivered: bool = False


class LaneEvent(msgspec.Struct, array_like=True, tag="L", gc=False):
    """Calls of one lane."""

    worker_pid: int
    worker_id: bytes
    node_id: bytes
    submitter_pid: int
    rows: list[LaneRow]

    def tasks(self) -> Iterator[TaskEvent]:
        """Each as the event of a task."""
        for row in self.rows:
            at = row.started
            yield TaskEvent(
                row.task_id, 0, row.name, job_of(row.task_id), self.worker_pid, self.worker_id,
                at, at, at, at, row.ended, row.state, row.error_type, self.node_id, row.kind,
                self.submitter_pid, row.ended, row.result_bytes, True,
            )  # fmt: skip


class ObjectEvent(msgspec.Struct, array_like=True, tag="O", gc=False):
    """A step in an object's life."""

    object_id: bytes
    what: str
    size: int
    at: float
    pid: int
    node_id: bytes


class StateEvent(msgspec.Struct, array_like=True, tag="S", gc=False):
    """A state change of anything that is neither a task nor an object."""

    kind: str
    id: bytes
    state: str
    at: float
    text: str
    pid: int


Event = TaskEvent | ObjectEvent | StateEvent

encode_events: Callable[[list[tuple[Any, ...]]], bytes] = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Event | LaneEvent]).decode


def decode_events(batch: bytes) -> list[Event]:
    """The events of a batch, in order."""
    events: list[Event] = []
    for event in _decode(batch):
        if isinstance(event, LaneEvent):
            events += event.tasks()
        else:
            events.append(event)
    return events


class EventBatch:
    """A node's events that the GCS does not have yet; at most `max_events`, later ones dropped."""

    __slots__ = ("_count", "_dropped", "_events", "_max_events")

    def __init__(self, max_events: int = EVENT_BACKLOG) -> None:
        self._events: list[tuple[Any, ...]] = []
        self._max_events = max_events
        self._count = 0
        self._dropped = 0

    def __len__(self) -> int:
        return self._count

    def add(self, event: tuple[Any, ...], count: int = 1) -> None:
        """Keep an event, in one of the tuple forms above, or count it as dropped.

        ``count``: of so many, if it is an "L".
        """
        if self._count < self._max_events:
            self._events.append(event)
            self._count += count
        else:
            self._dropped += count

    def take(self, limit: int = EVENT_BACKLOG) -> Events | None:
        """All of it as a message to the GCS, and start afresh; None if nothing has happened.

        ``limit``: of more tasks and objects than that, the newest go and the others count as
        dropped. State changes all go: they are few, and no later event tells the same.
        """
        if not self._events and not self._dropped:
            return None
        events, count = self._events, self._count
        if count > limit:
            events, count = _newest(events, limit)
        message = Events(count, encode_events(events), self._dropped + self._count - count)
        self._events = []
        self._count = 0
        self._dropped = 0
        return message


def _newest(events: list[tuple[Any, ...]], limit: int) -> tuple[list[tuple[Any, ...]], int]:
    # In order, and how many these are; the row of a lane that comes to the limit is whole.
    kept: list[tuple[Any, ...]] = []
    others = states = 0
    for event in reversed(events):
        if event[0] == "S":
            states += 1
        elif others < limit:
            others += len(event[5]) if event[0] == "L" else 1
        else:
            continue
        kept.append(event)
    return kept[::-1], others + states
