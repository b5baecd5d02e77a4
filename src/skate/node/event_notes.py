"""The node's side of the event log: compact rows, batched to the GCS, bounded. Pure.

The rows' formats are those of gcs/event_log.py, which alone opens them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skate import messages as m
from skate.config import EVENT_BACKLOG
from skate.node.validity import read_error
from skate.scheduler.local_scheduler import Task, Worker

if TYPE_CHECKING:
    from skate.node.node_core import NodeCore


class EventNotes:
    """See the module's docstring."""

    def __init__(self, core: NodeCore) -> None:
        self._core = core
        self.events: list[tuple[Any, ...]] = []
        self._dropped = 0

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
        """One compact row for all state changes of a task (gcs/event_log.py).

        ``stored`` is when its one small result was stored; other results have rows of their own.
        """
        spec = task.template.spec
        if not spec.events:
            return
        error_type = ""
        if error:
            record = read_error(error)
            error_type = str(record.fields.get("cause_type", record.kind))
        self._note(
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
                self._core.node_id,
                spec.kind,
                task.owner.pid,
                stored,
                result_bytes,
                delivered,
            )
        )

    def object(self, object_id: bytes, what: str, size: int, pid: int) -> None:
        """An object's life, for the event log."""
        self._note(("O", object_id, what, size, self._core.now, pid, self._core.node_id))

    def state(self, kind: str, any_id: bytes, state: str, text: str, pid: int) -> None:
        """A node's, job's, actor's, worker's or function's change of state."""
        self._note(("S", kind, any_id, state, self._core.now, text, pid))

    def _note(self, event: tuple[Any, ...]) -> None:
        if len(self.events) < EVENT_BACKLOG:
            self.events.append(event)
        else:
            self._dropped += 1

    def flush(self) -> None:
        """Hand the events so far to the GCS as one opaque batch."""
        if self.events or self._dropped:
            events, self.events = self.events, []
            self._core.gcs.append(m.Events(len(events), m.encode(events), self._dropped))
            self._dropped = 0
        store = self._core.store
        if store.dropped:
            dropped, store.dropped = store.dropped, []
            self._core.gcs.append(m.ObjectsChanged([], dropped))
