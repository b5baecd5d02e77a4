"""The event log of the GCS: the newest batches of all nodes, and rows and traces of them.

The log keeps batches as nodes sent them (net/event_batch.py has their format) and opens them only
for a reader's question.

A row, which is what readers get, is one state change as plain data with ids in hex: "time", "kind"
("task", "object" or the kind of an S event), "id", "name", "state", "node_id", "worker_pid" are in
every row; what else there is depends on the kind.

Invariants: the log holds at most `max_tasks` events, or one batch; events that do not fit are
counted. A later event of the same attempt replaces an earlier one. Two S events in a row that give
the same state to the same thing are one change, whichever node reports it first.

A batch that cannot be read is counted and skipped; other batches are read all the same.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from skate.config import EVENT_LOG_TASKS
from skate.ids import FIRST_RETURN, OBJECT_ID_BYTES, task_of
from skate.net.event_batch import (
    Event,
    ObjectEvent,
    StateEvent,
    TaskEvent,
    decode_events,
    encode_events,
)
from skate.states import TaskState

Row = dict[str, Any]

ROWS_MAX = 50_000
"""Rows of one answer, the newest: some 20 MB, well below what a frame may carry."""

RUNNING = "RUNNING"
"""The one state in rows that is no TaskState: only the worker knows it, and reports it later."""

STORED = "STORED"  # of results: stored by their node, and sent on to processes that wait for them
DELIVERED = "DELIVERED"

OBJECTS_LANE = 0  # no process has this pid, so the row of a node's objects cannot meet a worker's
LANE_SHIFT = 22  # pids are below 2^22: tids of a worker's further lanes cannot meet a pid


class EventLog:
    """The newest batches of all nodes, `max_tasks` events in all."""

    def __init__(self, max_tasks: int = EVENT_LOG_TASKS) -> None:
        self._batches: deque[tuple[int, bytes]] = deque()
        self._max_tasks = max_tasks
        self.kept = 0  # events in the log
        self.dropped = 0  # events that nodes dropped, and that this log has let go
        self.unreadable = 0  # batches in the log that did not decode when they were read last

    def append(self, batch: bytes, count: int, dropped: int) -> None:
        """Keep a batch of `count` events, whose sender had to drop `dropped` before it."""
        self.dropped += max(0, dropped)
        if count <= 0:
            return
        self._batches.append((count, batch))
        self.kept += count
        while self.kept > self._max_tasks and len(self._batches) > 1:
            oldest, _ = self._batches.popleft()
            self.kept -= oldest
            self.dropped += oldest

    def record(self, kind: str, any_id: bytes, state: str, at: float, text: str, pid: int) -> None:
        """Enter a state change that the GCS itself has seen: of a node, job, actor, ..."""
        self.append(encode_events([("S", kind, any_id, state, at, text, pid)]), 1, 0)

    def rows(self, since: float = 0.0, limit: int = ROWS_MAX) -> list[Row]:
        """The newest `limit` state changes after the moment `since`, by time."""
        return _rows_of(self._events(), since, limit)

    def story(self, any_id: bytes, limit: int = ROWS_MAX) -> list[Row]:
        """The newest `limit` rows that concern this id, by time.

        These are rows with this id, or with an id that begins with it (a task's objects, a job's
        tasks). For an object, the task that makes it is included; for a worker or an actor, the
        tasks that it ran.
        """
        events = self._events()
        hosts = {any_id} | {
            event.worker_id
            for event in events
            if type(event) is TaskEvent and event.kind == "actor" and event.task_id == any_id
        }
        hosts.discard(b"")
        chosen = [event for event in events if _concerns(event, any_id, hosts)]
        return _rows_of(chosen, 0.0, limit)

    def timeline(self) -> list[Row]:
        """The log as a Chrome trace (chrome://tracing, Perfetto): a process a node, a row a worker.

        "ts" and "dur" are microseconds of the wall clock; args "submitted" is seconds.
        """
        return _Timeline().of(self._events())

    def check(self) -> None:
        """Assert the invariants above."""
        assert self.kept == sum(count for count, _ in self._batches)
        assert self.kept <= self._max_tasks or len(self._batches) == 1
        assert all(count > 0 for count, _ in self._batches)

    def _events(self) -> list[Event]:
        """Every event in the log, but of each attempt only the latest."""
        attempts: dict[tuple[bytes, int], TaskEvent] = {}
        others: list[Event] = []
        self.unreadable = 0
        for _, batch in self._batches:
            try:
                events = decode_events(batch)
            except msgspec.MsgspecError:
                self.unreadable += 1
                continue
            for event in events:
                if type(event) is TaskEvent:
                    attempts[event.task_id, event.attempt] = event
                else:
                    others.append(event)
        # Events of one turn have one time: objects and functions come before their tasks.
        return [*others, *attempts.values()]


# ------------------------------------------------------------------------------------ rows


def _concerns(event: Event, any_id: bytes, hosts: set[bytes]) -> bool:
    if type(event) is TaskEvent:
        whole = any_id if len(any_id) != OBJECT_ID_BYTES else task_of(any_id)
        return event.task_id.startswith(whole) or event.worker_id in hosts
    own = event.object_id if type(event) is ObjectEvent else event.id  # type: ignore[union-attr]
    return own.startswith(any_id)


def _rows_of(events: list[Event], since: float, limit: int) -> list[Row]:
    """Rows by time; only those that are returned are ever built."""
    moments: list[tuple[float, int, Event, str]] = []
    for event in events:
        for at, state in _changes(event):
            moments.append((at, len(moments), event, state))
    moments.sort()  # by time, then by arrival; the number is unique, so events are never compared
    kept = []
    last: dict[tuple[str, bytes], str] = {}
    for moment in moments:
        event = moment[2]
        if type(event) is StateEvent:
            if last.get((event.kind, event.id)) == event.state:
                continue
            last[event.kind, event.id] = event.state
        if moment[0] > since:
            kept.append(moment)
    newest = kept[max(0, len(kept) - limit) :]
    return [_row(at, event, state) for at, _, event, state in newest]


def _changes(event: Event) -> list[tuple[float, str]]:
    """The (time, state) of every change that an event tells of."""
    if type(event) is ObjectEvent:
        return [(event.at, event.what)]
    if type(event) is StateEvent:
        return [(event.at, event.state)]
    assert type(event) is TaskEvent
    steps = [
        (event.submitted, TaskState.WAITING.name),
        (event.ready, TaskState.READY.name),
        (event.sent, TaskState.SENT.name),
        (event.started, RUNNING),
    ]
    changes = [step for step in steps if step[0]]
    if event.state in (TaskState.FINISHED, TaskState.FAILED):
        ended = event.ended or max((at for at, _ in changes), default=0.0)
        changes.append((ended, TaskState(event.state).name))
    if event.stored:
        changes.append((event.stored, STORED))
        if event.delivered:
            changes.append((event.stored, DELIVERED))
    return changes


def _row(at: float, event: Event, state: str) -> Row:
    if type(event) is TaskEvent:
        if state in (STORED, DELIVERED):
            return _result_row(at, event, state)
        return {
            "time": at,
            "kind": "task",
            "id": event.task_id.hex(),
            "name": event.name,
            "state": state,
            "node_id": event.node_id.hex(),
            "worker_pid": event.worker_pid,
            "worker_id": event.worker_id.hex(),
            "attempt": event.attempt,
            "task_kind": event.kind,
            "job_id": event.job_id.hex(),
            "submitter_pid": event.submitter_pid,
            "error_type": event.error_type if state == TaskState.FAILED.name else "",
        }
    if type(event) is ObjectEvent:
        return {
            "time": at,
            "kind": "object",
            "id": event.object_id.hex(),
            "name": "",
            "state": state,
            "node_id": event.node_id.hex(),
            "worker_pid": event.pid,
            "size": event.size,
        }
    assert type(event) is StateEvent
    return {
        "time": at,
        "kind": event.kind,
        "id": event.id.hex(),
        "name": "",
        "state": state,
        "node_id": event.id.hex() if event.kind == "node" else "",
        "worker_pid": event.pid,
        "text": event.text,
    }


def _result_row(at: float, event: TaskEvent, state: str) -> Row:
    """A row of the one small result of a task, which has no event of its own."""
    return {
        "time": at,
        "kind": "object",
        "id": (event.task_id + FIRST_RETURN).hex(),
        "name": "",
        "state": state,
        "node_id": event.node_id.hex(),
        "worker_pid": event.worker_pid if state == STORED else event.submitter_pid,
        "size": event.result_bytes,
    }


# -------------------------------------------------------------------------------- timeline


class _Timeline:
    """Builds one Chrome trace.

    A worker has one row. Calls of an actor that run side by side would hide each other in one row,
    so calls that overlap go to further rows of the same worker.
    """

    def __init__(self) -> None:
        self._trace: list[Row] = []
        self._nodes: dict[bytes, int] = {}  # the number of each node: Chrome wants integers
        self._lanes: dict[tuple[int, int], list[float]] = {}  # (node, worker): when each is free

    def of(self, events: list[Event]) -> list[Row]:
        tasks = [event for event in events if type(event) is TaskEvent]
        for task in sorted(tasks, key=lambda task: (task.started or task.ended, task.ended)):
            self._add_task(task)
        objects = [event for event in events if type(event) is ObjectEvent]
        for event in sorted(objects, key=lambda event: event.at):
            self._add_object(event)
        return self._trace

    def _add_task(self, task: TaskEvent) -> None:
        if task.started and task.ended:
            node = self._node(task.node_id)
            shape: Row = {
                "ph": "X",
                "ts": _microseconds(task.started),
                "dur": round(max(0.0, task.ended - task.started) * 1e6, 3),
                "pid": node,
                "tid": self._lane(node, task.worker_pid, task.started, task.ended),
            }
        elif task.ended and task.worker_pid and task.state == TaskState.FAILED:
            # The worker died with the task, so the time when it began is unknown.
            node = self._node(task.node_id)
            tid = self._lane(node, task.worker_pid, task.ended, task.ended)
            shape = {
                "ph": "i",
                "s": "t",
                "ts": _microseconds(task.ended),
                "pid": node,
                "tid": tid,
            }
        else:
            return
        queued = task.started - task.submitted if task.started and task.submitted else 0.0
        arguments = {
            "task_id": task.task_id.hex(),
            "attempt": task.attempt,
            "submitted": task.submitted,
            "queued_us": round(max(0.0, queued) * 1e6, 3),
            "error": task.error_type,
        }
        self._trace.append({"name": task.name, "cat": task.kind, **shape, "args": arguments})

    def _add_object(self, event: ObjectEvent) -> None:
        node = self._node(event.node_id)
        if (node, OBJECTS_LANE) not in self._lanes:
            self._lanes[node, OBJECTS_LANE] = []
            self._describe("thread_name", node, OBJECTS_LANE, "objects")
        arguments = {"object_id": event.object_id.hex(), "size": event.size, "pid": event.pid}
        self._trace.append(
            {
                "name": event.what,
                "cat": "object",
                "ph": "i",
                "s": "t",
                "ts": _microseconds(event.at),
                "pid": node,
                "tid": OBJECTS_LANE,
                "args": arguments,
            }
        )

    def _node(self, node_id: bytes) -> int:
        number = self._nodes.get(node_id)
        if number is None:
            number = self._nodes[node_id] = len(self._nodes) + 1
            self._describe("process_name", number, 0, f"node {node_id.hex()[:8]}")
        return number

    def _lane(self, node: int, worker_pid: int, started: float, ended: float) -> int:
        """The tid of the worker's first row that is free at `started`; busy until `ended`."""
        lanes = self._lanes.setdefault((node, worker_pid), [])
        for index, free_at in enumerate(lanes):
            if free_at <= started:
                lanes[index] = max(started, ended)
                return worker_pid + (index << LANE_SHIFT)
        lanes.append(max(started, ended))
        index = len(lanes) - 1
        tid = worker_pid + (index << LANE_SHIFT)
        self._describe(
            "thread_name", node, tid, f"worker {worker_pid}" + (f" ({index + 1})" if index else "")
        )
        return tid

    def _describe(self, what: str, pid: int, tid: int, name: str) -> None:
        self._trace.append(
            {"name": what, "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}
        )


def _microseconds(at: float) -> float:
    return round(at * 1e6, 3)
