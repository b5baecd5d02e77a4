"""The local scheduler of one node: queues by class, resources, and leases of workers.

Pure; its caller is the node core, which tells it of ready tasks, of workers that come, block and
go, and calls ``dispatch`` once a turn. Tasks with the same demand, job and thread count form a
scheduling class; deeper tasks of a class go first (a blocked parent waits for its nested call). A
worker is *leased* to a class: it holds the class's resources while it has tasks, and short tasks
are sent ahead to it (``config.PIPELINE_*``); it alone may hand them back (decision 0010).

While one class alone has tasks, its workers are topped up as they go. When several want the same
resources they take leases in turn, and a lease ends with the tasks that it began with. A class (or
an actor) that has waited for ``config.RESOURCE_PATIENCE_S`` is owed its demand: later ones may not
take that, so that an endless stream of small demands cannot starve a large one. It is owed in ever
longer turns only (patience.py), as a task that never ends may hold the rest. A placement group that
the GCS has sent here to claim resources that tasks free (bundles.py) is owed these before all
others, until the GCS calls it off.

Invariants (``check``): for each resource, total = available + leases (less the CPU of blocked
workers) + actors; every SENT task is at exactly one worker; a blocked worker is sent nothing;
after ``dispatch`` a leased worker has tasks.
The scheduler resolves no arguments, knows no sockets or processes, and chooses no other nodes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from skate.config import (
    MAX_WORKER_STARTS,
    PIPELINE_BUDGET_S,
    PIPELINE_MAX_TASKS,
    PIPELINE_PAIR_S,
    RESOURCE_PATIENCE_S,
)
from skate.rows import Lane, Pool, SchedulingClass, Task, Template, Worker, weight_of
from skate.scheduler.group_names import is_cpu, parse_name
from skate.scheduler.patience import is_owed
from skate.scheduler.resources import Resources
from skate.spec import CallTemplate, Demand
from skate.states import (
    TASK_MOVES,
    TASK_READY,
    TASK_SENT,
    WORKER_ACTOR,
    WORKER_BLOCKED,
    WORKER_DEAD,
    WORKER_ENDING,
    WORKER_IDLE,
    WORKER_LEASED,
    WORKER_STARTING,
    advance,
)

PoolKey = tuple[bytes, int]  # job, threads: a worker serves one of these for life

UNKNOWN_S = 3600.0  # assumed run time of a task that has never run: no task goes behind it


class LocalScheduler(Resources):
    """See the module's docstring. ``send`` and ``start_worker`` are what it decides:

    ``send(worker, task)`` hands a task over; ``start_worker(pool)`` asks for one more process.
    """

    def __init__(
        self,
        total: dict[str, int],
        send: Callable[[Worker, Task], None],
        start_worker: Callable[[Pool], None],
        place_actor: Callable[[Task], None],
    ) -> None:
        super().__init__(total)
        self.pools: dict[PoolKey, Pool] = {}
        self.classes: dict[tuple[PoolKey, Demand, str], SchedulingClass] = {}
        self.ready: dict[SchedulingClass, None] = {}  # classes with tasks, next to serve first
        self.placing: deque[Task] = deque()  # actor creations that wait for resources
        self.claimed: Demand = ()  # the claim of the placement group that is next
        self.workers: dict[bytes, Worker] = {}
        self.emptied: list[Worker] = []  # workers whose last task ended or left this turn
        self.average_task_s = 0.0
        self._send = send
        self._start_worker = start_worker
        self._place_actor = place_actor

    # ------------------------------------------------------------------ queues

    def class_of(self, job_id: bytes, spec: CallTemplate) -> SchedulingClass:
        """The class that a template's tasks queue in."""
        key = ((job_id, spec.threads), spec.demand, "task")
        found = self.classes.get(key)
        if found is None:
            pool = self.pool(job_id, spec.threads)
            found = self.classes[key] = SchedulingClass(pool, spec.demand)
        return found

    def pool(self, job_id: bytes, threads: int) -> Pool:
        """The worker pool of a job and thread count."""
        key = (job_id, threads)
        pool = self.pools.get(key)
        if pool is None:
            pool = self.pools[key] = Pool(job_id, threads)
        return pool

    def enqueue(self, task: Task, now: float) -> None:
        """Queue a task whose arguments are all here."""
        task.state = advance(TASK_MOVES, task.state, TASK_READY)
        task.ready_at = now
        if task.template.spec.kind == "actor":
            self.placing.append(task)
            return
        queue = task.template.queue
        queue.push(task)
        if task.waited_s:
            # It has been patient at other nodes: a move does not send it to the end of the line.
            if queue.count == 1:
                queue.waiting_since = now - min(task.waited_s, RESOURCE_PATIENCE_S)
            task.waited_s = 0.0
        self.ready[queue] = None

    def requeue(self, task: Task) -> None:
        """Queue a task first that was sent: it comes back unbegun, or is to run again."""
        task.state = advance(TASK_MOVES, task.state, TASK_READY)
        task.worker = None
        task.gpus = None
        queue = task.template.queue
        queue.push(task, front=True)
        self.ready[queue] = None

    def withdraw(self, task: Task) -> None:
        """Take a ready task, or an actor creation that waits for resources, out of its queue."""
        if task.template.spec.kind == "actor":
            self.placing.remove(task)
            return
        task.template.queue.take_out(task)
        self.forget_if_empty(task.template.queue)

    def withdraw_all(self, queue: SchedulingClass) -> list[Task]:
        """Take all tasks of a class out."""
        self.ready.pop(queue, None)
        return queue.clear()

    def forget_if_empty(self, queue: SchedulingClass) -> None:
        """Tasks were taken out of this class: stop serving it if it has none."""
        if not queue.count:
            self.ready.pop(queue, None)

    def end_job(self, job_id: bytes) -> list[Task]:
        """The job is over: forget its queues, return their tasks. Its workers die by themselves."""
        tasks = [task for task in self.placing if task.template.job_id == job_id]
        for task in tasks:
            self.placing.remove(task)
        for key, queue in list(self.classes.items()):
            if queue.pool.job_id == job_id:
                tasks += self.withdraw_all(queue)
                del self.classes[key]
        for pool_key in [key for key in self.pools if key[0] == job_id]:
            del self.pools[pool_key]
        return tasks

    # ------------------------------------------------------------------ workers

    def add_worker(self, worker: Worker) -> None:
        """A worker process is being started for its pool."""
        self.workers[worker.id] = worker
        worker.pool.starting += 1

    def worker_ready(self, worker: Worker, now: float) -> None:
        """The worker has said hello."""
        worker.pool.starting -= 1
        worker.pool.failed_starts = 0
        worker.move(WORKER_IDLE)
        worker.idle_since = now
        worker.pool.idle.append(worker)

    def actor_worker_ready(self, worker: Worker) -> None:
        """The process of an actor has said hello."""
        worker.move(WORKER_ACTOR)

    def remove_worker(self, worker: Worker) -> list[Task]:
        """A worker is gone; returns its unfinished tasks, in the order they would have run."""
        if worker.state is WORKER_STARTING and worker.actor is None:
            worker.pool.starting -= 1
        if worker.state is WORKER_IDLE:
            worker.pool.idle.remove(worker)
        self._end_lease(worker)
        worker.move(WORKER_DEAD)
        del self.workers[worker.id]
        unfinished = list(worker.tasks.values())
        worker.tasks.clear()
        worker.load_s = 0.0
        return unfinished

    def lost(self, worker: Worker) -> None:
        """A worker's connection or process has gone, the other will follow: send it no tasks.

        Its resources stay taken until ``remove_worker``: a GPU is free when its process is gone.
        """
        if worker.state is WORKER_IDLE:
            worker.pool.idle.remove(worker)
        self.unblocked(worker)
        if worker.state not in (WORKER_STARTING, WORKER_ENDING):
            worker.move(WORKER_ENDING)

    def end_worker(self, worker: Worker) -> None:
        """A worker has been asked to end: send it no more tasks."""
        if worker.state is WORKER_IDLE:
            worker.pool.idle.remove(worker)
        self._end_lease(worker)
        worker.move(WORKER_ENDING)

    def idle_beyond(self, count: int, now: float, idle_s: float) -> list[Worker]:
        """Workers that may end: idle for ``idle_s``, and beyond the ``count`` to keep."""
        idle = [w for pool in self.pools.values() for w in pool.idle]
        surplus = len(idle) - count
        if surplus <= 0:
            return []
        idle.sort(key=lambda w: w.idle_since)
        return [w for w in idle[:surplus] if now - w.idle_since >= idle_s]

    def blocked(self, worker: Worker) -> None:
        """A worker's task waits in get/wait: its CPU (and only that) may serve another."""
        if worker.state is not WORKER_LEASED:
            return
        worker.move(WORKER_BLOCKED)
        assert worker.lease is not None
        self.lend_cpu(worker.lease.demand)

    def unblocked(self, worker: Worker) -> None:
        """A worker's task goes on; this may oversubscribe for a moment rather than deadlock."""
        if worker.state is not WORKER_BLOCKED:
            return
        worker.move(WORKER_LEASED)
        assert worker.lease is not None
        self.take_back_cpu(worker.lease.demand)
        if not worker.tasks:
            self.emptied.append(worker)

    def handed_back(self, worker: Worker, task_ids: list[bytes]) -> None:
        """The worker will not run these: put them at the front of their queue, order kept."""
        for task_id in reversed(task_ids):
            task = worker.tasks.pop(task_id, None)
            if task is None:
                continue
            worker.load_s -= task.expected_s
            self.requeue(task)
        worker.stalled = bool(worker.tasks)
        if not worker.tasks:
            self.emptied.append(worker)

    def finished(self, worker: Worker, task_id: bytes, seconds: float) -> Task | None:
        """A worker is done with a task; None if it did not have it (an older attempt)."""
        task = worker.tasks.pop(task_id, None)
        if task is None:
            return None
        template = task.template
        worker.stalled = False
        if worker.tasks:
            worker.load_s -= task.expected_s
        else:
            worker.load_s = 0.0
            self.emptied.append(worker)
        self.ran(template, seconds)
        return task

    def ran(self, template: Template | None, seconds: float, count: int = 1) -> None:
        """So many tasks have run for so long each."""
        if template is not None:
            template.ran(seconds, count)
        self.average_task_s += weight_of(count) * (seconds - self.average_task_s)

    # ------------------------------------------------------------------ dispatch

    def release_emptied(self, now: float) -> None:
        """Free the resources of workers whose last task has ended this turn."""
        for worker in self.emptied:
            self._release_if_empty(worker, now)
        self.emptied.clear()

    def dispatch(self, now: float) -> None:
        """Send the tasks that can run now. Called once a turn, after all of its events."""
        if self.emptied:
            self.release_emptied(now)
        ready = self.ready
        if len(ready) == 1 and not self.placing and not self.claimed:
            queue = next(iter(ready))
            self._serve(queue, now)
            if not queue.count:
                ready.clear()
        elif ready or self.placing:
            self._share(now)

    def _serve(self, queue: SchedulingClass, now: float) -> None:
        # Class that is alone: it takes all free resources, then tops its workers up.
        idle = queue.pool.idle
        while queue.count and self.fits(queue.demand):
            if not idle:
                self._start_workers(queue)
                break
            self._lease(idle.pop(), queue, now)
        if queue.count:
            self._fill(queue.leased.values(), queue, now)

    def dispatch_lent(self, lent: int, wanted: Callable[[Task], bool], now: float) -> None:
        """Send ``wanted`` tasks, and nested ones, also on so many CPU units of workers that wait
        for space in the object store. Called after ``dispatch`` has sent the tasks that fit."""
        for queue in list(self.ready):
            while queue.count and self._fits_lent(queue.demand, lent):
                task = queue.find(wanted) or queue.find(lambda task: task.depth > 0)
                if task is None:
                    break
                if not queue.pool.idle:
                    if not queue.pool.starting:
                        self._start_worker(queue.pool)
                    break
                queue.take_out(task)
                self._lease(queue.pool.idle.pop(), queue, now, task)
            if not queue.count:
                del self.ready[queue]

    def _fits_lent(self, demand: Demand, lent: int) -> bool:
        others = tuple(pair for pair in demand if pair[0] != "CPU")
        cpus = sum(units for name, units in demand if name == "CPU")
        return cpus <= self.available.get("CPU", 0) + lent and self.fits(others)

    def _share(self, now: float) -> None:
        # A class that no ending task could serve (infeasible, or an actor has it) is no rival.
        owed = self.owed_to_claim()
        actor_waits = self._place_actors(now, owed)
        rivals = [queue for queue in self.ready if self.could_be_met(queue.demand)]
        if len(rivals) == 1 and not actor_waits and not self.claimed:
            self._serve(rivals[0], now)
        else:
            self._take_turns(rivals, now, owed)
        for queue in rivals:
            if not queue.count:
                del self.ready[queue]

    def _take_turns(self, rivals: list[SchedulingClass], now: float, owed: dict[str, int]) -> None:
        # One lease for each class in turn. A served class goes to the end of ``ready``, also for
        # the next dispatch; a class that has waited too long comes first, and is owed the rest.
        late = now - RESOURCE_PATIENCE_S
        rivals = sorted(rivals, key=lambda q: min(q.waiting_since or late, late))
        fresh: list[Worker] = []
        while rivals:
            again = []
            for queue in rivals:
                if not self.fits_beside(queue.demand, owed):
                    if not queue.waiting_since:
                        queue.waiting_since = now
                    elif is_owed(now - queue.waiting_since):
                        self._owe(queue.demand, owed)
                elif not queue.pool.idle:
                    self._start_workers(queue)
                else:
                    worker = queue.pool.idle.pop()
                    self._lease(worker, queue, now)
                    fresh.append(worker)
                    del self.ready[queue]
                    self.ready[queue] = None
                    if queue.count:
                        again.append(queue)
            rivals = again
        for lease in dict.fromkeys(worker.lease for worker in fresh):
            if lease is not None and lease.count:
                self._fill([w for w in fresh if w.lease is lease], lease, now)

    def _place_actors(self, now: float, owed: dict[str, int]) -> bool:
        # Returns whether a creation waits for resources that ending tasks will give back.
        waits = False
        refused: set[Demand] = set()
        for _ in range(len(self.placing)):
            task = self.placing.popleft()
            demand = task.template.spec.demand
            if demand not in refused and self.fits_beside(demand, owed):
                self._place_actor(task)
                continue
            self.placing.append(task)
            if demand not in refused and self.could_be_met(demand):
                waits = True
                if is_owed(now - task.ready_at):
                    self._owe(demand, owed)
            refused.add(demand)
        return waits

    def could_be_met(self, demand: Demand) -> bool:
        """Whether running tasks, just by ending, could make it fit. Resources of actors and
        waiting tasks do not count: they may come back only after others have run."""
        for name, units in demand:
            free = self.available.get(name, 0)
            if free >= units:
                continue
            for worker in self.workers.values():
                if worker.state is WORKER_LEASED and worker.lease is not None:
                    free += sum(held for other, held in worker.lease.demand if other == name)
            if free < units:
                return False
        return True

    def owed_to_claim(self) -> dict[str, int]:
        """The resources that are kept for the placement group that is next."""
        owed: dict[str, int] = {}
        if self.claimed:
            self._owe(self.claimed, owed)
        return owed

    def fits_beside(self, demand: Demand, owed: dict[str, int]) -> bool:
        """Whether the demand can be met right now from resources not owed to others."""
        if owed:
            for name, units in demand:
                if self.available.get(name, 0) - owed.get(name, 0) < units:
                    return False
        return self.fits(demand)

    def _owe(self, demand: Demand, owed: dict[str, int]) -> None:
        for name, units in demand:
            # CPUs are set aside only while CPUs are lacking: they need not idle while, say, the
            # only GPU is busy for an hour.
            if name != "CPU" or self.available.get(name, 0) - owed.get(name, 0) < units:
                owed[name] = owed.get(name, 0) + units

    def _lease(
        self, worker: Worker, queue: SchedulingClass, now: float, task: Task | None = None
    ) -> None:
        worker.move(WORKER_LEASED)
        worker.lease = queue
        worker.gpus = self.take(queue.demand)
        queue.leased[worker.id] = worker
        queue.waiting_since = 0.0
        worker.stalled = task is not None  # on a lent CPU: no task is sent after it
        self._send_one(worker, queue.pop() if task is None else task, now)

    def lend(self, worker: Worker, queue: SchedulingClass, lane: Lane) -> None:
        """Lend an idle worker to a caller that sends it tasks of this class itself: the worker
        holds their demand, and gets none from here."""
        queue.pool.idle.remove(worker)
        worker.move(WORKER_LEASED)
        worker.lease = queue
        worker.gpus = self.take(queue.demand)
        worker.lane = lane
        queue.leased[worker.id] = worker

    def take_back(self, worker: Worker) -> None:
        """A lent worker runs no task of its caller any more."""
        worker.lane = None
        self.emptied.append(worker)

    def _fill(self, workers: Iterable[Worker], queue: SchedulingClass, now: float) -> None:
        able = [w for w in workers if w.state is WORKER_LEASED and not w.stalled and w.lane is None]
        for number, worker in enumerate(able):
            for _ in range(-(-queue.count // (len(able) - number))):  # an even share of the rest
                if not self._has_room(worker, queue.head()):
                    break
                self._send_one(worker, queue.pop(), now)
                if not queue.count:
                    return

    def _has_room(self, worker: Worker, task: Task) -> bool:
        # Unknown run times, one-call workers and tasks that a crash has sent back go alone: the
        # last so that the next crash blames the right task.
        template = task.template
        average = template.average_s
        if average < 0 or task.attempt or template.spec.max_calls or worker.gpus:
            return False
        if template.spec.max_retries == 0:
            return False  # at-most-once task: it must be certain whether it had begun
        held = len(worker.tasks)
        if held == 1:
            first = next(iter(worker.tasks.values()))
            if first.attempt or first.template.spec.max_calls:
                return False
            if average <= PIPELINE_PAIR_S and worker.load_s <= PIPELINE_PAIR_S:
                return True
        return held < PIPELINE_MAX_TASKS and worker.load_s + average <= PIPELINE_BUDGET_S

    def _send_one(self, worker: Worker, task: Task, now: float) -> None:
        task.state = TASK_SENT  # from READY: queues hold no other
        task.worker = worker
        task.gpus = worker.gpus
        task.sent_at = now
        average = task.template.average_s
        task.expected_s = average if average >= 0 else UNKNOWN_S
        worker.tasks[task.id] = task
        worker.load_s += task.expected_s
        self._send(worker, task)

    def _start_workers(self, queue: SchedulingClass) -> None:
        fit = queue.count
        for name, units in queue.demand:
            if units > 0:
                fit = min(fit, self.available.get(name, 0) // units)
        for _ in range(min(fit, MAX_WORKER_STARTS) - queue.pool.starting):
            self._start_worker(queue.pool)

    def _release_if_empty(self, worker: Worker, now: float) -> None:
        if worker.lease is None or worker.tasks or worker.state is not WORKER_LEASED:
            return
        if worker.lane is not None:
            return
        self._end_lease(worker)
        worker.move(WORKER_IDLE)
        worker.idle_since = now
        worker.stalled = False
        worker.pool.idle.append(worker)

    def _end_lease(self, worker: Worker) -> None:
        lease = worker.lease
        if lease is None:
            return
        demand = lease.demand
        if worker.state is WORKER_BLOCKED:  # a blocked worker has given its CPU back already
            demand = tuple(pair for pair in demand if not is_cpu(pair[0]))
        self.give_back(demand, worker.gpus)
        lease.leased.pop(worker.id, None)
        worker.lease = None
        worker.gpus = None

    # ------------------------------------------------------------------ views

    def free_soon(self) -> dict[str, int]:
        """The free resources, less those that ready tasks take once their workers have started."""
        free = dict(self.available)
        for name, units in self.claimed:
            free[name] = max(0, free.get(name, 0) - units)
        for queue in self.ready:
            fit = queue.count
            for name, units in queue.demand:
                fit = min(fit, max(0, free.get(name, 0)) // units)
            for name, units in queue.demand if fit > 0 else ():
                free[name] -= fit * units
        return free

    def attainable(self) -> dict[str, int]:
        """The node's own resources that would be free if all running tasks ended now."""
        free = {n: units for n, units in self.available.items() if parse_name(n) is None}
        for worker in self.workers.values():
            if worker.state is WORKER_LEASED and worker.lease is not None:
                for name, units in worker.lease.demand:
                    if name in free:
                        free[name] += units
        return free

    def queued(self) -> int:
        """The number of ready tasks, and of actor creations that wait for resources."""
        return sum(queue.count for queue in self.classes.values()) + len(self.placing)

    def check(self, held_by_actors: dict[str, int] | None = None) -> None:
        """Assert the invariants; for tests and the simulator."""
        used = dict(held_by_actors or {})
        for worker in self.workers.values():
            assert worker.lease is None or worker.id in worker.lease.leased
            assert worker.lane is None or not worker.tasks, "tasks at a worker that is lent"
            assert worker.lane is None or worker.lease is worker.lane.queue
            for task in worker.tasks.values():
                assert task.worker is worker and task.state is TASK_SENT
            if worker.lease is not None:
                assert worker.state in (
                    WORKER_LEASED,
                    WORKER_BLOCKED,
                    WORKER_ENDING,
                )
                for name, units in worker.lease.demand:
                    if not (is_cpu(name) and worker.state is WORKER_BLOCKED):
                        used[name] = used.get(name, 0) + units
        for name, total in self.total.items():
            assert self.available[name] + used.get(name, 0) == total, (
                f"{name}: {self.available[name]} free + {used.get(name, 0)} used != {total}"
            )
        if "GPU" in self.total:
            assert sum(self.gpu_free) == self.available["GPU"], "GPUs do not add up"
        for pool in self.pools.values():
            assert all(worker.state is WORKER_IDLE for worker in pool.idle)
        for queue in self.classes.values():
            assert queue.count == sum(len(q) for q in queue.by_depth.values())
            assert bool(queue.count) == (queue in self.ready)
