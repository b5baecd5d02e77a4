"""What happens while creators wait for space in a full object store. Pure.

``dispatch`` is called at the end of a turn and ``tick`` ten times a second while anybody waits. Two
things keep a small store as correct as a large one: a worker that waits for space lends its CPU to
tasks whose end frees some (docs/decisions/0011-store-progress.md), and a creator is refused only
when nothing that runs, or is about to, would free anything.

Several waiting tasks may each have some of their inputs, and no space for the rest. If nothing has
moved for a moment, and nothing will, the oldest waiting task goes first: its pulls go before all
others, and copies that only waiting tasks use make way for them and are pulled again later. The
oldest task stays the same until it has run, so tasks never take inputs from each other in turn.

The CPUs lent at one time are at most those of the node, so producers that wait never multiply.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from skate import messages as m
from skate.config import FULL_STORE_GRACE_S, MAKE_WAY_AFTER_S
from skate.node.clock import Clock
from skate.node.jobs import Jobs
from skate.node.pulls import Pulls
from skate.node.puts import Puts
from skate.objects.object_store import PENDING, REMOTE, SEALED, ObjectStore
from skate.objects.stored_object import Creation, StoredObject
from skate.rows import Task, Worker
from skate.scheduler.local_scheduler import LocalScheduler
from skate.states import TASK_PULLING, TASK_WAITING, WorkerState

_LEASED = WorkerState.LEASED


class FullStore:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        clock: Clock,
        store: ObjectStore,
        scheduler: LocalScheduler,
        jobs: Jobs,
        pulls: Pulls,
        puts: Puts,
    ) -> None:
        self._clock = clock
        self._store = store
        self._scheduler = scheduler
        self._jobs = jobs
        self._pulls = pulls
        self._puts = puts

    def dispatch(self) -> None:
        """Run consumers on the CPUs of waiting producers."""
        lent = 0
        for worker in self._waiting_workers().values():
            if worker.state is _LEASED and worker.lease is not None:
                lent += sum(units for name, units in worker.lease.demand if name == "CPU")
        if lent:
            lent = min(lent, self._scheduler.total.get("CPU", 0))
            self._scheduler.dispatch_lent(lent, self._uses_space, self._clock.now)

    def tick(self) -> None:
        """Make way, or refuse creators that wait in vain; explain the wait of the others."""
        store, now = self._store, self._clock.now
        if now - max(store.queue[0].since, store.last_freed) < MAKE_WAY_AFTER_S:
            return
        comes = self._space_will_come()
        if not comes:
            comes = self._make_way()
        expired = store.expired(now, FULL_STORE_GRACE_S)
        for creation in expired:
            if not comes:
                self._puts.refuse(creation)
                self._store.copies.refused(self._clock.now)
            elif not creation.explained:
                creation.explained = True
                self._explain(creation)

    def _make_way(self) -> bool:
        """Help the oldest task that waits for copies; returns whether something will move now."""
        store, objects = self._store, self._store.objects
        waiting = self._waiting_tasks()
        complete = (
            task
            for task in waiting
            if all(objects[i].state is not PENDING for i in task.dependencies or ())
        )
        oldest = next(complete, None)
        needed = list(oldest.dependencies or ()) if oldest is not None else []
        missing = [i for i in needed if objects[i].state is REMOTE]
        if oldest is not None and all(self._is_under_way(i) for i in missing):
            return True
        before = store.queue[0]
        self._pulls.prefer(missing)
        store.prefer(missing)
        if not store.queue:
            return True
        first = store.queue[0]
        taken = []
        uses = Counter(i for task in reversed(waiting) for i in task.dependencies or ())
        for object_id, count in uses.items():  # the youngest task's copies first
            if store.arena.largest_hole_bytes >= first.size:
                break
            if object_id not in needed and store.copies.may_be_taken(object_id, count):
                store.evict(object_id)
                taken.append(objects[object_id])
        for stored in taken:
            self._wait_again(stored, waiting)
        return bool(taken) or first is not before

    def _waiting_tasks(self) -> list[Task]:
        tasks = {
            task.id: task
            for stored in self._store.objects.values()
            for task in stored.waiters or ()
            if task.is_here and task.state in (TASK_WAITING, TASK_PULLING)
        }
        return sorted(tasks.values(), key=lambda task: (task.submitted_at, task.id))

    def _is_under_way(self, object_id: bytes) -> bool:
        creation = self._store.arriving.get(object_id)
        return creation is not None and creation.offset is not None

    def _wait_again(self, stored: StoredObject, waiting: list[Task]) -> None:
        stored.waiters = [
            task for task in waiting for i in task.dependencies or () if i == stored.id
        ]
        for task in stored.waiters:
            task.missing += 1
        self._pulls.want(stored)

    def _waiting_workers(self) -> dict[bytes, Worker]:
        workers = (creation.creator.worker for creation in self._store.queue)
        return {worker.id: worker for worker in workers if worker is not None}

    def _uses_space(self, task: Task) -> bool:
        return any(True for _ in self._spans_of(task))

    def _spans_of(self, task: Task) -> Iterator[bytes]:
        objects = self._store.objects
        for object_id in (*(task.dependencies or ()), *(task.nested or ())):
            stored = objects.get(object_id)
            # A nested ref, or an inline container, may lead to a span of the arena.
            if stored is not None and (stored.state is SEALED or stored.contains):
                yield object_id

    def _space_will_come(self) -> bool:
        """Whether only tasks hold some object, and none of them waits for anything."""
        stuck = self._waiting_workers()
        holds: Counter[bytes] = Counter()
        for worker in self._scheduler.workers.values():
            if worker.state is _LEASED and worker.id not in stuck:
                for task in worker.tasks.values():
                    holds.update(self._spans_of(task))
        if not holds:
            return False  # no task runs whose end would free space
        for queue in self._scheduler.ready:
            for task in queue:
                holds.update(self._spans_of(task))
        objects = self._store.objects
        return any(objects[object_id].holds <= count for object_id, count in holds.items())

    def _explain(self, creation: Creation) -> None:
        creator = creation.creator
        job = creator.job
        if job is None and creator.worker is not None:
            job = self._jobs.by_id.get(creator.worker.pool.job_id)
        if job is not None:
            arena = self._store.arena
            self._jobs.tell_driver(
                job,
                m.Notice(
                    f"The object store is full ({arena.used_bytes / 1e6:.0f} of "
                    f"{arena.capacity_bytes / 1e6:.0f} MB): {creation.size / 1e6:.1f} MB wait "
                    "until running tasks let go of their arguments."
                ),
            )
