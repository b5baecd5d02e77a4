"""Reports to the GCS task table: tasks that live longer than an event batch. Pure.

Called when events are flushed. Short tasks cost nothing here: they are only in the event log. Each
report is derived from the queues and compared with the last one; both are bounded, with the tasks
nearest to running first.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice

from skate import messages as m
from skate.config import EVENT_BATCH_S, TASKS_LOOKED_AT, TASKS_REPORTED
from skate.node.actor_router import ActorRouter
from skate.node.clock import Clock
from skate.node.identity import Identity
from skate.node.outbox import Outbox
from skate.objects.object_store import ObjectStore
from skate.rows import Lane, Task
from skate.scheduler.local_scheduler import LocalScheduler
from skate.states import TASK_SENT


class TaskReport:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        clock: Clock,
        outbox: Outbox,
        me: Identity,
        store: ObjectStore,
        scheduler: LocalScheduler,
        router: ActorRouter,
        lanes: dict[int, Lane],
    ) -> None:
        self._clock = clock
        self._outbox = outbox
        self._me = me
        self._store = store
        self._scheduler = scheduler
        self._router = router
        self._lanes = lanes
        self._told: dict[bytes, int] = {}  # the state that each task was last reported in

    def flush(self) -> None:
        """Report the changes since the last time, if there are any."""
        born_before = self._clock.now - EVENT_BATCH_S
        tasks = islice(chain(self._sent(), self._ready(), self._waiting()), TASKS_LOOKED_AT)
        old = (t for t in tasks if t.submitted_at <= born_before and t.template.spec.events)
        now = {t.id: (t.template.spec.name, int(t.state)) for t in islice(old, TASKS_REPORTED)}
        for lane in self._lanes.values():
            for begun in lane.begun.values():
                now[begun.task_id] = (begun.name, int(TASK_SENT))
        ended = [task_id for task_id in self._told if task_id not in now]
        rows = [
            (task_id, name, state, self._me.node_id)
            for task_id, (name, state) in now.items()
            if self._told.get(task_id) != state
        ]
        if rows or ended:
            self._told = {task_id: state for task_id, (_, state) in now.items()}
            self._outbox.to_gcs(m.TasksChanged(rows, ended))

    def _sent(self) -> Iterator[Task]:
        for worker in self._scheduler.workers.values():
            yield from worker.tasks.values()
        for actor in self._router.actors.values():
            yield from actor.in_flight.values()

    def _ready(self) -> Iterator[Task]:
        yield from self._scheduler.placing
        for queue in self._scheduler.ready:
            yield from queue
        for actor in self._router.actors.values():
            yield from actor.backlog

    def _waiting(self) -> Iterator[Task]:
        for stored in islice(self._store.objects.values(), TASKS_LOOKED_AT):
            yield from stored.waiters or ()
