"""The node's side of the event log: compact rows, batched to the GCS, bounded. Pure.

The GCS keeps so many events of all nodes together. Once nodes are many, a batch holds no more than
twice the node's share of that: the GCS would let the rest go as soon as the others' batches are
there, after the head's node and the GCS have spent their time on it.

Their format is that of ``EventBatch``; only the GCS opens them.
"""

from __future__ import annotations

from typing import Protocol

from skate import messages as m
from skate.config import EVENT_BACKLOG, EVENT_LOG_TASKS, EVENT_SHARE_MIN
from skate.net.event_batch import EventBatch
from skate.node.clock import Clock
from skate.node.identity import Identity
from skate.node.node_table import NodeTable
from skate.node.outbox import Outbox
from skate.node.validity import read_error
from skate.objects.object_store import ObjectStore
from skate.rows import Lane, Task, Worker


class _TaskReport(Protocol):
    def flush(self) -> None: ...


class EventNotes:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        clock: Clock,
        outbox: Outbox,
        me: Identity,
        store: ObjectStore,
        nodes: NodeTable,
        task_report: _TaskReport,
    ) -> None:
        self._clock = clock
        self._outbox = outbox
        self._me = me
        self._store = store
        self._nodes = nodes
        self._task_report = task_report
        self.batch = EventBatch()

    def task(
        self,
        task: Task,
        started: float,
        ended: float,
        worker: Worker | None,
        error: bytes,
        stored: float = 0.0,
        result_bytes: int = 0,
        delivered: bool = False,
    ) -> None:
        """One compact row for all state changes of a task (net/event_batch.py).

        ``stored`` is when its one small result was stored; other results have rows of their own.
        """
        spec = task.template.spec
        if not spec.events:
            return
        error_type = ""
        if error:
            record = read_error(error)
            error_type = str(record.fields.get("cause_type", record.kind))
        self.batch.add(
            (
                "T",
                task.id,
                task.attempt,
                spec.name,
                task.template.job_id,
                worker.pid if worker else 0,
                worker.id if worker else b"",
                task.submitted_at,
                task.ready_at,
                task.sent_at,
                started,
                ended,
                int(task.state),
                error_type,
                self._me.node_id,
                spec.kind,
                task.owner.pid,
                stored,
                result_bytes,
                delivered,
            )
        )

    def lane_calls(self, rows: list[m.LaneRow], lane: Lane) -> None:
        """Calls of a lane that have run: one row for all of them."""
        worker = lane.worker
        row = ("L", worker.pid, worker.id, self._me.node_id, lane.caller.pid, rows)
        self.batch.add(row, len(rows))

    def object(self, object_id: bytes, what: str, size: int, pid: int) -> None:
        """A step in an object's life."""
        self.batch.add(("O", object_id, what, size, self._clock.now, pid, self._me.node_id))

    def state(self, kind: str, any_id: bytes, state: str, text: str, pid: int) -> None:
        """A node's, job's, actor's, worker's or function's change of state."""
        self.batch.add(("S", kind, any_id, state, self._clock.now, text, pid))

    def flush(self) -> None:
        """Send the GCS the events so far, as one opaque batch, and the rows its tables lack."""
        share = EVENT_LOG_TASKS // (self._nodes.alive + 1)
        message = self.batch.take(min(EVENT_BACKLOG, max(EVENT_SHARE_MIN, 2 * share)))
        if message is not None:
            self._outbox.to_gcs(message)
        store = self._store
        if store.dropped:
            dropped, store.dropped = store.dropped, {}
            self._outbox.to_gcs(m.ObjectsChanged([], list(dropped)))
        self._task_report.flush()
