"""What the GCS task table is told: tasks that live longer than an event batch. Pure.

Part of the node core, called when events are flushed. Short tasks cost nothing here: they are only
in the event log. What is told is derived from the queues each time and compared with what was told
last; both are bounded, the tasks nearest to running first.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING

from skate import messages as m
from skate.config import EVENT_BATCH_S, TASKS_LOOKED_AT, TASKS_REPORTED
from skate.rows import Task

if TYPE_CHECKING:
    from skate.node.node_core import NodeCore


class TaskReport:
    """See the module's docstring."""

    def __init__(self, core: NodeCore) -> None:
        self._core = core
        self._told: dict[bytes, int] = {}  # the state that each task was last reported in

    def flush(self) -> None:
        """Report what has changed since the last time, if anything has."""
        born_before = self._core.now - EVENT_BATCH_S
        tasks = islice(chain(self._sent(), self._ready(), self._waiting()), TASKS_LOOKED_AT)
        old = (t for t in tasks if t.submitted_at <= born_before and t.template.spec.events)
        now = {task.id: task for task in islice(old, TASKS_REPORTED)}
        ended = [task_id for task_id in self._told if task_id not in now]
        rows = [
            (task.id, task.template.spec.name, int(task.state), self._core.node_id)
            for task in now.values()
            if self._told.get(task.id) != task.state
        ]
        if rows or ended:
            self._told = {task_id: int(task.state) for task_id, task in now.items()}
            self._core.gcs.append(m.TasksChanged(rows, ended))

    def _sent(self) -> Iterator[Task]:
        for worker in self._core.scheduler.workers.values():
            yield from worker.tasks.values()
        for actor in self._core.actors.router.actors.values():
            yield from actor.in_flight.values()

    def _ready(self) -> Iterator[Task]:
        yield from self._core.scheduler.placing
        for queue in self._core.scheduler.ready:
            yield from queue
        for actor in self._core.actors.router.actors.values():
            yield from actor.backlog

    def _waiting(self) -> Iterator[Task]:
        for stored in islice(self._core.store.objects.values(), TASKS_LOOKED_AT):
            yield from stored.waiters or ()
