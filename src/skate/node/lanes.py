"""Lanes between processes of this node: their introduction and their end. Pure.

A lane is a socket on which one process calls another (docs/decisions/0012-direct-lanes.md). The
node tells the worker whom to expect, then the caller where to connect; what is said on the lane it
does not see. It learns from both ends that the lane is over: from the worker by ``LaneOver`` or its
burial, from the caller by its last ``LaneClosed`` or its death. What the caller hands back it runs
as any other call; what was lost with the worker it judges once the process is buried, and never
before, so that no call runs twice at a time.

Invariants (``check``): a record is in the tables of both ends for as long as it is not GONE; a lent
worker has exactly one record, and is sent no tasks; the resources that it holds are freed by
LaneOver or by its burial, and by nothing else.
"""

from __future__ import annotations

from skate import messages as m
from skate.config import (
    LANE_AFTER_CALLS,
    LANE_LOST_GRACE_S,
    LANES_PER_PROCESS,
)
from skate.error_records import decode_error
from skate.ids import FIRST_RETURN, submitter_of
from skate.node.actor_calls import ActorCalls
from skate.node.actor_reports import ActorReports
from skate.node.actor_router import ActorRouter
from skate.node.clock import Clock
from skate.node.hears import CLIENTS, WORKER, hears
from skate.node.identity import Identity
from skate.node.jobs import Jobs
from skate.node.lane_values import LaneValues
from skate.node.outbox import Outbox
from skate.node.running import Running
from skate.node.workers import Workers
from skate.node.world import Shell
from skate.objects.object_store import PENDING, ObjectStore
from skate.rows import Actor, Client, Lane, Task, Worker
from skate.scheduler.leases import Ask, Leases
from skate.scheduler.local_scheduler import LocalScheduler
from skate.spec import CallTemplate
from skate.states import (
    TASK_FAILED,
    TASK_FINISHED,
    WORKER_ACTOR,
    WORKER_BLOCKED,
    WORKER_LEASED,
    ActorState,
    LaneState,
)

ALIVE, DEAD = ActorState.ALIVE, ActorState.DEAD
EXPECTED, OPEN, OVER, LOST, ORPHAN, GONE = LaneState


class Lanes:
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
        router: ActorRouter,
        lanes: dict[int, Lane],
        leases: Leases,
        jobs: Jobs,
        running: Running,
        workers: Workers,
        actor_calls: ActorCalls,
        actor_reports: ActorReports,
        lane_values: LaneValues,
    ) -> None:
        self._clock = clock
        self._outbox = outbox
        self._me = me
        self._shell = shell
        self._store = store
        self._scheduler = scheduler
        self._router = router
        self._lanes = lanes
        self._leases = leases
        self._jobs = jobs
        self._running = running
        self._workers = workers
        self._actor_calls = actor_calls
        self._actor_reports = actor_reports
        self._lane_values = lane_values
        self._numbers = 0  # given so far
        self.touched: list[Lane] = []  # whose caller has said all of a word: see ``settle``

    # ------------------------------------------------------------------ introduction

    def answered(self, actor: Actor, call: Task) -> None:
        """A call has gone the long way: the next of its caller may go by a lane."""
        caller = call.line
        if not self._me.offers_lanes or type(caller) is not Client or not caller.speaks_lanes:
            return
        if not caller.alive:
            return
        line = self._router.line(actor, caller)
        line.answered += 1
        worker = actor.worker
        if (
            line.answered < LANE_AFTER_CALLS
            or line.lane is not None
            or line.early
            or line.hold
            or not line.is_current
            or actor.state is not ALIVE
            or actor.leaving
            or worker is None
            or caller is worker.client
            or not self.may_meet(caller, worker)
            or any(waiting.line is caller for waiting in actor.backlog)
        ):
            return
        lane = self._introduce(caller, worker, actor)
        line.lane = lane
        following = -1
        if actor.options.in_order:
            following = self._router.gate(actor, caller, caller.submitter)
        self._expect(lane, following)

    def may_meet(self, caller: Client, worker: Worker) -> bool:
        """Whether these two may have a lane."""
        return (
            caller.speaks_lanes
            and worker.listens
            and worker.client.speaks_lanes
            and not caller.is_remote
            and len(caller.lanes) < LANES_PER_PROCESS
            and len(worker.lanes) < LANES_PER_PROCESS
        )

    def _introduce(self, caller: Client, worker: Worker, actor: Actor | None) -> Lane:
        self._numbers += 1
        lane = Lane(self._numbers, caller, worker, actor)
        self._lanes[lane.number] = caller.lanes[lane.number] = worker.lanes[lane.number] = lane
        return lane

    def _expect(self, lane: Lane, following: int) -> None:
        self._outbox.send(
            lane.worker.client, m.LaneExpected(lane.number, lane.caller.submitter, following)
        )

    @hears(m.LaneWanted, *CLIENTS)
    def on_wanted(self, client: Client, message: m.LaneWanted) -> None:
        """A caller has many tasks of a class: it may be lent a worker at the end of the turn."""
        template = client.templates[message.template]
        if self._me.offers_lanes and template.is_plain and _may_ride(template.spec):
            self._leases.asked(client, message.template, template, message.have, self._clock.now)

    def lend(self, ask: Ask, worker: Worker, window: int) -> Lane:
        """An idle worker is lent to a caller."""
        lane = self._introduce(ask.caller, worker, None)
        lane.queue = ask.template.queue
        lane.template = ask.number
        lane.window = window
        self._scheduler.lend(worker, lane.queue, lane)
        self._expect(lane, -1)
        return lane

    @hears(m.LaneListening, WORKER)
    def on_listening(self, client: Client, message: m.LaneListening) -> None:
        """The worker is ready for its caller, or cannot be."""
        lane = self._of_worker(client, message.lane)
        if lane is None:
            return
        if message.error:
            lane.worker.listens = False  # nor for others
            self._free(lane)
            self._finish(lane)
        elif (
            lane.state is EXPECTED
            and not lane.is_revoked  # else its last word comes at once
            and lane.worker.state in (WORKER_ACTOR, WORKER_LEASED, WORKER_BLOCKED)
        ):
            lane.move(OPEN)
            actor_id = lane.actor.id if lane.actor is not None else b""
            self._outbox.send(
                lane.caller,
                m.LaneOpen(lane.number, lane.worker.id, actor_id, lane.template, lane.window),
            )

    def revoke(self, lane: Lane) -> None:
        """Nothing more is to be taken on it."""
        if not lane.is_revoked:
            lane.is_revoked = True
            self._outbox.send(lane.worker.client, m.LaneRevoke(lane.number))

    def _of_worker(self, client: Client, number: int) -> Lane | None:
        lane = self._lanes.get(number)
        if lane is not None and lane.worker is not client.worker:
            raise ValueError(f"lane {number} is another worker's")
        return lane

    def _of_caller(self, client: Client, number: int) -> Lane | None:
        lane = self._lanes.get(number)
        if lane is not None and lane.caller is not client:
            raise ValueError(f"lane {number} is another caller's")
        return lane

    # ------------------------------------------------------------------ what its ends say

    @hears(m.LaneOver, WORKER)
    def on_over(self, client: Client, message: m.LaneOver) -> None:
        """The worker runs nothing of it any more."""
        lane = self._of_worker(client, message.lane)
        if lane is None:
            return
        lane.begun.clear()
        lane.has_run = True
        self._free(lane)
        if lane.state is EXPECTED:  # the worker is on its way out: the caller was not told
            self._finish(lane)
            return
        if lane.state is ORPHAN:
            if not lane.adopted:
                self._finish(lane)
            return
        lane.move(OVER)
        self.touched.append(lane)

    @hears(m.LaneClosed, *CLIENTS)
    def on_closed(self, client: Client, message: m.LaneClosed) -> None:
        """A word of the caller; so many of its calls follow."""
        lane = self._of_caller(client, message.lane)
        if lane is None:
            return
        if lane.last_word != m.HANDED_BACK or lane.awaiting or message.count < 0:
            raise ValueError(f"lane {message.lane} is closed twice")
        lane.how = message.how
        lane.awaiting = message.count
        if message.how != m.HANDED_BACK:
            lane.last_word = message.how
        if message.how == m.OVER and lane.state is OPEN:
            self.revoke(lane)
        if message.how == m.LOST:
            lane.lost_at = self._clock.now
        if not lane.awaiting:
            self.touched.append(lane)

    def comes_back(self, client: Client, task: Task, number: int) -> bool:
        """A call that was sent on a lane comes to the node. Whether it goes on as a fresh one; else
        it is over, or waits for the worker's burial."""
        lane = self._of_caller(client, number)
        goes_on = self._lane_values.promise_again(client, task, lane)
        if lane is None or not lane.awaiting:
            return goes_on  # refused there
        lane.awaiting -= 1
        if not lane.awaiting:
            self.touched.append(lane)  # it may be the last of a word
        if lane.how != m.LOST or not goes_on:
            return goes_on
        task.actor = lane.actor
        if lane.actor is not None and lane.actor.state is DEAD:
            return True  # to its death
        self._running.hold_arguments(task, here=lane.actor is not None)
        if task.state is not TASK_FAILED:
            task.missing += 1  # the burial
            lane.adopted.append(task)
            if lane.actor is not None:
                self._router.came_back(lane.actor, client, task.sequence)
        return False

    def actor_of(self, number: int) -> Actor | None:
        """The actor that a lane leads to, which may have been forgotten since."""
        lane = self._lanes.get(number)
        return lane.actor if lane is not None else None

    # ------------------------------------------------------------------ ends

    def caller_lost(self, caller: Client) -> None:
        """A client is gone: its lanes go once their workers are done with them."""
        self._leases.caller_gone(caller)
        for lane in list(caller.lanes.values()):
            if lane.state in (EXPECTED, OPEN):
                lane.move(ORPHAN)
                self.revoke(lane)
            elif lane.state is LOST:
                self._decide(lane)
                self._finish(lane)
            elif not lane.adopted:
                self._finish(lane)

    def end_job(self, job_id: bytes) -> None:
        """A job is over: its callers and workers go by themselves, and their lanes with them."""
        self._leases.forget_job(job_id)

    def buried(self, worker: Worker, status: int) -> None:
        """A worker's process is gone, and what became of its actor is decided."""
        for lane in list(worker.lanes.values()):
            if worker.lane is lane:  # what it held is free already
                self._leases.returned(lane)
                worker.lane = None
            lane.begun.clear()
            lane.status = status
            lane.obituary = self._obituary(worker, status)
            if lane.state is EXPECTED:
                self._finish(lane)
            elif lane.is_closed:
                self._decide(lane)
                self._finish(lane)
            else:
                lane.move(LOST)

    def _obituary(self, worker: Worker, status: int) -> str:
        how = self._workers.describe_exit(worker, status)
        if worker.actor is None:
            return how
        text = f"its process (pid {worker.pid}) died: {how}"
        cause = self._actor_reports.cause_of_death(
            worker.actor, text, pid=worker.pid, status=status
        )
        return decode_error(cause[1:]).message

    def settle(self) -> None:
        """Each turn: end the lanes of which both ends have said their last word."""
        touched, self.touched = self.touched, []
        for lane in touched:
            if lane.state not in (OVER, LOST) or not lane.is_closed:
                continue
            if lane.last_word == m.LOST and lane.state is OVER:
                continue  # what became of the rest its burial tells
            self._decide(lane)
            self._finish(lane)

    def _decide(self, lane: Lane) -> None:
        # What was lost with the worker: as what the node itself had sent there.
        adopted, lane.adopted = lane.adopted, []
        lost: list[Task] = []
        for task in adopted:
            if task.state is TASK_FAILED:
                continue
            task.missing -= 1
            stored = self._store.objects.get(task.id + FIRST_RETURN)
            if stored is None or stored.state is PENDING:
                lost.append(task)
            else:  # its result had gone to the node
                task.state = TASK_FINISHED
                self._running.drop_arguments(task)
        if not lost:
            return
        actor = lane.actor
        if lost[0].template.job_id not in self._jobs.by_id:
            self._running.drop_tasks(lost)
        elif actor is None:
            begun = sum(_has_begun(lane, task) for task in lost)
            self._workers.retry_unfinished(lane.worker, lost, begun, lane.status, lane.obituary)
        elif actor.state is DEAD:
            for call in lost:
                self._running.fail(call, actor.cause)
        else:
            self._call_again(actor, lost, lane.obituary)

    def _call_again(self, actor: Actor, calls: list[Task], why: str) -> None:
        ready = [call for call in calls if not call.missing or not call.retries_left]
        self._actor_calls.resubmit(actor, ready, why)
        for call in calls:
            if call.missing and call.state is not TASK_FAILED:
                call.next_attempt()
                self._router.arrived(actor, call.line, call)
        self._router.go_on(actor)

    def _free(self, lane: Lane) -> None:
        # Of a lent worker: what it holds.
        if lane.worker.lane is lane:
            self._leases.returned(lane)
            self._scheduler.take_back(lane.worker)

    def _finish(self, lane: Lane) -> None:
        lane.move(GONE)
        caller, actor = lane.caller, lane.actor
        del self._lanes[lane.number]
        del lane.worker.lanes[lane.number]
        del caller.lanes[lane.number]
        if not caller.alive:
            self._lane_values.fail_promised(lane)
        line = actor.lines.get(caller) if actor is not None else None
        if line is not None and line.lane is lane:
            line.lane = None
            line.answered = 0
            if line.hold and actor is not None:
                self._router.let_go(actor, caller)

    def tick(self) -> None:
        """Kill what lives without its lane: its calls could not be judged before it is buried."""
        for lane in self._lanes.values():
            waits = lane.last_word == m.LOST and lane.state is not LOST
            if waits and self._clock.now - lane.lost_at > LANE_LOST_GRACE_S:
                self._shell.kill_worker(lane.worker)

    def check(self) -> None:
        """Assert the invariants; for tests and the simulator."""
        for number, lane in self._lanes.items():
            assert lane.number == number and lane.state is not GONE
            assert lane.worker.lanes[number] is lane and lane.caller.lanes[number] is lane
            assert lane.caller.alive or lane.state is ORPHAN or lane.adopted
            assert lane.state in (EXPECTED, OPEN, ORPHAN) or lane.worker.lane is not lane
            assert (lane.actor is None) == (lane.queue is not None)
            if lane.actor is not None and lane.caller.alive:
                line = lane.actor.lines.get(lane.caller)
                assert line is None or line.lane is lane
        for worker in self._scheduler.workers.values():
            if worker.lane is not None:
                assert worker.lane.number in self._lanes and worker.lease is worker.lane.queue


def _has_begun(lane: Lane, task: Task) -> bool:
    # Whether a task that was lost with its worker had begun. Ids ascend on a lane. A lane that was
    # over by then is no longer what the worker's last task tells of: all of it counts as begun.
    last = lane.worker.last_begun
    return lane.has_run or (submitter_of(task.id) == submitter_of(last) and task.id <= last)


def _may_ride(spec: CallTemplate) -> bool:
    # As the caller judges (decision 0012): else it would have no use for the worker.
    return (
        spec.kind == "task"
        and spec.num_returns == 1
        and spec.max_retries != 0
        and not (spec.retry_exceptions or spec.max_calls or spec.group)
        and all(name != "GPU" for name, _ in spec.demand)
    )
