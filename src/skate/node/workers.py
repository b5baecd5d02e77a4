"""The lives of a node's worker processes: started, lost, buried, retired. Pure.

A worker is buried (its tasks retried, its resources free) once both its EOF and its exit status are
in, in either order: the worker's last messages come before the EOF, and the status tells why it
died. With the status comes the task that the worker had begun last. Those before it have begun too,
though their results had not left the process: each of them costs a retry.
"""

from __future__ import annotations

from typing import Any, Protocol

from skate import messages as m
from skate.config import (
    ACTOR_SHUTDOWN_GRACE_S,
    EXIT_GRACE_S,
    IDLE_WORKER_S,
    RESOURCE_UNITS,
    STDERR_TAIL_LINES,
    WORKER_START_ATTEMPTS,
)
from skate.node.clock import Clock
from skate.node.error_payload import error_payload
from skate.node.exit_status import NOT_STARTED, describe_status
from skate.node.identity import Identity
from skate.node.jobs import Jobs
from skate.node.outbox import Outbox
from skate.node.puts import Puts
from skate.node.running import Running
from skate.node.world import Shell
from skate.objects.object_store import ObjectStore
from skate.rows import Client, Job, Pool, Task, Template, Worker
from skate.scheduler.local_scheduler import LocalScheduler
from skate.states import WORKER_ENDING, WORKER_LEASED, WORKER_STARTING


class _Guests(Protocol):
    def is_orphan(self, task: Task) -> bool: ...

    def orphan_ended(self, task: Task) -> None: ...


class _ActorLife(Protocol):
    def worker_died(self, worker: Worker, status: int) -> None: ...


class _Endings(Protocol):
    def client_lost(self, client: Client) -> None: ...


class _Lanes(Protocol):
    def buried(self, worker: Worker, status: int) -> None: ...


class Workers:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        clock: Clock,
        outbox: Outbox,
        me: Identity,
        shell: Shell,
        store: ObjectStore,
        scheduler: LocalScheduler,
        jobs: Jobs,
        puts: Puts,
        running: Running,
        guests: _Guests,
        actor_life: _ActorLife,
        endings: _Endings,
        lanes: _Lanes,
    ) -> None:
        self._clock = clock
        self._outbox = outbox
        self._me = me
        self._shell = shell
        self._store = store
        self._scheduler = scheduler
        self._jobs = jobs
        self._puts = puts
        self._running = running
        self._guests = guests
        self._actor_life = actor_life
        self._endings = endings
        self._lanes = lanes
        self.hopeless: dict[Pool, str] = {}  # pools whose workers fail to start: the last one's end
        self.exits: dict[bytes, tuple[Worker, int]] = {}  # exit statuses ahead of their EOF
        self.lost: dict[bytes, Worker] = {}  # EOFs ahead of their exit status
        self.ending: dict[bytes, float] = {}  # workers asked to end: the tick that first saw each

    def connection_lost(self, client: Client) -> None:
        """A worker's connection has ended."""
        worker = client.worker
        assert worker is not None
        self.lost[worker.id] = worker
        if worker.id not in self.exits:
            self._shell.kill_worker(worker)
            self._going(worker)
        self._bury(worker.id)

    def is_reaped(self, worker: Worker) -> bool:
        """Whether the process is gone, and not only its connection."""
        return worker.id in self.exits or worker.id not in self._scheduler.workers

    def _going(self, worker: Worker) -> None:
        # First sign of a worker's end: it gets no more tasks, as they would count as begun.
        self._scheduler.lost(worker)
        if worker.actor is not None:
            worker.actor.window = 0

    def start(self, pool: Pool) -> None:
        """Start a process for this pool, unless the pool is hopeless."""
        job = self._jobs.by_id.get(pool.job_id)
        if job is None or pool.failed_starts >= WORKER_START_ATTEMPTS:
            return
        worker = Worker(self._shell.new_id(), pool, self._clock.now)
        self._scheduler.add_worker(worker)
        self.start_process(worker, job, b"", None)

    def start_process(self, worker: Worker, job: Job, actor_id: bytes, actor: Any) -> None:
        """Have the zygote fork a process for this worker."""
        worker.submitter = self._me.new_submitter()
        self._shell.start_worker(
            worker,
            m.WorkerSetup(
                job_id=job.id,
                node_id=self._me.node_id,
                submitter=worker.submitter,
                session=self._me.session,
                arena_path=self._me.arena_path,
                arena_bytes=self._store.arena.capacity_bytes,
                job=job.config,
                threads=worker.pool.threads,
                actor_id=actor_id,
                actor=actor,
                worker_id=worker.id,
                lanes_dir=self._me.lanes_dir,
            ),
        )

    def exited(self, worker: Worker, status: int, begun: bytes = b"") -> None:
        """The process is reaped; ``status`` is an exit code, or minus a signal.

        ``begun``: the task that it had begun last, if any.
        """
        if worker.id in self._scheduler.workers:
            worker.last_begun = begun
            self.exits[worker.id] = (worker, status)
            if worker.id not in self.lost:
                self._going(worker)
            self._bury(worker.id)

    def not_started(self, worker: Worker) -> None:
        """The process was never started, nor perhaps its connection; ``stderr_tail`` tells why."""
        self.exited(worker, NOT_STARTED)
        if worker.id in self.exits and worker.client is None:
            self.lost[worker.id] = worker
            self._bury(worker.id)

    def end(self, worker: Worker) -> None:
        """A worker's job is over: end it; the tasks that it leaves run nowhere else."""
        if worker.client is not None and worker.client.alive:
            self._shell.close(worker.client)
            self._endings.client_lost(worker.client)  # drop its remaining messages
        else:
            self._shell.kill_worker(worker)

    def _bury(self, worker_id: bytes) -> None:
        # Both the EOF and the exit status have to be in: the worker's last messages come before
        # the EOF, and the status tells why it died.
        if worker_id not in self.exits or worker_id not in self.lost:
            return
        worker, status = self.exits.pop(worker_id)
        del self.lost[worker_id]
        self.ending.pop(worker_id, None)
        if worker.client is not None:
            self._puts.memory_lost(worker.client)
        never_ran = worker.state is WORKER_STARTING
        unfinished = self._scheduler.remove_worker(worker)
        self._leave(worker, unfinished, status, never_ran)
        if worker.lanes:
            self._lanes.buried(worker, status)

    def _leave(self, worker: Worker, unfinished: list[Task], status: int, never_ran: bool) -> None:
        # The actor, or the tasks, that a dead process leaves.
        if worker.actor is not None:
            self._actor_life.worker_died(worker, status)
            return
        if never_ran:
            worker.pool.failed_starts += 1
            if worker.pool.failed_starts == WORKER_START_ATTEMPTS:
                self.hopeless[worker.pool] = self.describe_exit(worker, status)
        if worker.pool.job_id not in self._jobs.by_id:
            self._running.drop_tasks(unfinished)
        elif unfinished:
            begun = 1 + next((i for i, t in enumerate(unfinished) if t.id == worker.last_begun), 0)
            how = self.describe_exit(worker, status)
            self.retry_unfinished(worker, unfinished, begun, status, how)

    def retry_unfinished(
        self, worker: Worker, unfinished: list[Task], begun: int, status: int, how: str
    ) -> None:
        """Retry a dead worker's tasks, in their order: the first ``begun`` have begun, no others.

        The first task counts as begun in any case: a task whose mere arrival kills its worker must
        not go to one worker after the other, for ever.
        """
        again: list[Task] = []
        for number, task in enumerate(unfinished):
            if self._guests.is_orphan(task):
                self._guests.orphan_ended(task)  # no home waits for it
            elif number and number >= begun:
                again.append(task)
            elif task.retries_left == 0:
                self._running.fail(task, self._crash_payload(worker, task, status, how))
            else:
                task.retries_left -= task.retries_left > 0
                again.append(task)
        for task in reversed(again):  # each goes to the front of its queue
            task.attempt += 1
            if task.owner.node_id:
                task.is_bound = True  # a guest's attempts are counted here
            if not task.missing:  # a lane's task may still lack an input that is under way
                self._scheduler.requeue(task)

    def _starts_failed(self, pool: Pool, how: str) -> None:
        # Pool with other workers: they may take the tasks, or a later start may succeed (the
        # machine is short of processes, say). Without any, nothing would ever run the tasks.
        workers = self._scheduler.workers.values()
        if any(w.pool is pool and w.state is WORKER_LEASED for w in workers):
            pool.failed_starts = WORKER_START_ATTEMPTS - 1
            return
        pool.failed_starts = 0
        payload = error_payload(
            "WorkerCrashedError",
            f"No worker could be started, {WORKER_START_ATTEMPTS} times in a row. The last one: "
            f"{how}",
        )
        for queue in [q for q in self._scheduler.ready if q.pool is pool]:
            for task in self._scheduler.withdraw_all(queue):
                self._running.fail(task, payload)

    def _crash_payload(self, worker: Worker, task: Task, status: int, how: str) -> bytes:
        return error_payload(
            "WorkerCrashedError",
            f"The worker process (pid {worker.pid}) died while it ran the task "
            f"{task.template.spec.name}: {how}",
            pid=worker.pid,
            exit_status=status,
            task_id=task.id.hex(),
        )

    def describe_exit(self, worker: Worker, status: int) -> str:
        """How a process ended, and the tail of its stderr, for an error message."""
        tail = self._shell.stderr_tail(worker)[-STDERR_TAIL_LINES:]
        text = describe_status(status)
        if status == NOT_STARTED and tail:
            return f"{text}: {tail[-1]}"
        if tail:
            text += "\nThe last lines of its stderr:\n    " + "\n    ".join(tail)
        return text

    def count_call(self, worker: Worker, template: Template) -> None:
        """A task with ``max_calls`` has run: retire the worker once it has run so many."""
        calls = worker.calls.get(template.number, 0) + 1
        worker.calls[template.number] = calls
        if calls >= template.spec.max_calls and worker.state is WORKER_LEASED:
            self.retire(worker, f"max_calls={template.spec.max_calls} of {template.spec.name}")

    def retire(self, worker: Worker, reason: str) -> None:
        """Ask a worker to end in good order."""
        self._scheduler.end_worker(worker)
        self._outbox.send(worker.client, m.Exit(reason))

    def _end_straggler(self, worker: Worker) -> None:
        """Kill a worker that was asked to end, if its exit handlers or last calls do not end."""
        since = self.ending.setdefault(worker.id, self._clock.now)
        grace_s = EXIT_GRACE_S if worker.actor is None else ACTOR_SHUTDOWN_GRACE_S
        if self._clock.now - since > grace_s:
            self._shell.kill_worker(worker)

    def tick(self) -> None:
        """End idle workers and stragglers; fail the tasks of pools that cannot start any."""
        if self.hopeless:
            hopeless, self.hopeless = self.hopeless, {}
            for pool, how in hopeless.items():
                self._starts_failed(pool, how)
        keep = self._scheduler.total.get("CPU", 0) // RESOURCE_UNITS
        for worker in self._scheduler.idle_beyond(keep, self._clock.now, IDLE_WORKER_S):
            self.retire(worker, "idle, and more workers than CPUs")
        for worker in self._scheduler.workers.values():
            if worker.state is WORKER_ENDING:
                self._end_straggler(worker)
