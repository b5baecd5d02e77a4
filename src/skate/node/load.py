"""Reports of this node's load to the GCS: each heartbeat, and when queues grow long. Pure."""

from __future__ import annotations

from typing import Protocol

from skate import messages as m
from skate.objects.object_store import ObjectStore
from skate.rows import Worker
from skate.scheduler.local_scheduler import LocalScheduler


class _Pulls(Protocol):
    @property
    def bandwidth(self) -> float: ...


class _Guests(Protocol):
    received: int


class _Questions(Protocol):
    def pending(self) -> list[m.Demanded]: ...


class Load:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        store: ObjectStore,
        scheduler: LocalScheduler,
        pulls: _Pulls,
        guests: _Guests,
        questions: _Questions,
    ) -> None:
        self._store = store
        self._scheduler = scheduler
        self._pulls = pulls
        self._guests = guests
        self._questions = questions

    def heartbeat(self) -> m.Heartbeat:
        """The load at this moment, with the work that waits and the reasons."""
        scheduler = self._scheduler
        return m.Heartbeat(
            available=scheduler.free_soon(),
            queued=scheduler.queued(),
            running=sum(_running(worker) for worker in scheduler.workers.values()),
            store_used_bytes=self._store.arena.used_bytes,
            average_task_s=scheduler.average_task_s,
            received=self._guests.received,
            bandwidth=self._pulls.bandwidth,
            pending=self._questions.pending(),
            attainable=scheduler.attainable(),
        )


def _running(worker: Worker) -> int:
    # Lent worker: the node hears only of its longer tasks.
    return len(worker.tasks) if worker.lane is None else bool(worker.lane.begun)
