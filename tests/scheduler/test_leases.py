"""Leases beside the local scheduler: any order of events, and what must hold after each.

The two ends of a lane are played: a worker that was asked back says its last word some time later.
"""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from skate.config import (
    LANE_BUDGET_S,
    LANE_WINDOW_CALLS,
    LEASE_AGAIN_S,
    LEASE_PATIENCE_S,
    LEASE_PIPELINE_S,
)
from skate.rows import Client, Lane, Pool, Task, Template, Worker
from skate.scheduler.leases import Ask, Leases, window_of
from skate.scheduler.local_scheduler import LocalScheduler
from skate.spec import CallTemplate, demand_of
from skate.states import TASK_WAITING, WorkerState

KINDS = ("one", "half", "wide")
DEMANDS = {"one": {"CPU": 1.0}, "half": {"CPU": 0.5}, "wide": {"CPU": 2.0}}


class World:
    """A scheduler with leases; processes come up, and give lanes back, when the test says so."""

    def __init__(self, cpus: int = 3) -> None:
        self.now = 1_000.0
        self.count = 0
        self.starting: deque[Worker] = deque()
        self.revoked: deque[Lane] = deque()
        self.granted: list[Lane] = []
        self.placed: list[Task] = []
        self.scheduler = LocalScheduler(
            {"CPU": cpus * 10_000}, lambda worker, task: None, self.start, self.place
        )
        self.leases = Leases(
            scheduler=self.scheduler,
            may_meet=lambda caller, worker: True,
            lend=self.lend,
            revoke=self.revoke,
        )
        self.callers = [Client() for _ in range(3)]
        self.templates: dict[tuple[bytes, str], Template] = {}
        for caller in (0, 2):
            for _ in range(cpus):
                self.start(self.template(self.job(caller), "one").queue.pool)
        self.come_up()

    # What the scheduler and the leases ask for.

    def start(self, pool: Pool) -> None:
        self.count += 1
        worker = Worker(self.count.to_bytes(16, "big"), pool, self.now)
        self.scheduler.add_worker(worker)
        self.starting.append(worker)

    def place(self, task: Task) -> None:
        self.scheduler.take(task.template.spec.demand)
        self.placed.append(task)

    def lend(self, ask: Ask, worker: Worker, window: int) -> Lane:
        assert not self.scheduler.placing, "an actor waits"
        for queue in self.scheduler.ready:
            assert queue is ask.template.queue, "another class waits"
            assert queue.head().owner is ask.caller, "another caller waits"
        self.count += 1
        lane = Lane(self.count, ask.caller, worker, None)
        lane.queue = ask.template.queue
        self.scheduler.lend(worker, lane.queue, lane)
        self.granted.append(lane)
        return lane

    def revoke(self, lane: Lane) -> None:
        assert not lane.is_revoked, "asked back twice"
        lane.is_revoked = True
        self.revoked.append(lane)

    # What happens.

    def template(self, job: bytes, kind: str, name: str = "task") -> Template:
        if (job, kind + name) not in self.templates:
            spec = CallTemplate(name, b"f", kind, demand_of(DEMANDS[kind]), max_retries=3)
            queue = self.scheduler.class_of(job, spec)
            made = Template(len(self.templates), job, spec, queue)
            made.average_s = 0.0001
            self.templates[job, kind + name] = made
        return self.templates[job, kind + name]

    def submit(self, caller: int, kind: str, name: str = "task") -> Task:
        self.count += 1
        template = self.template(self.job(caller), kind, name)
        owner = self.callers[caller]
        task_id = self.count.to_bytes(16, "big")
        task = Task(task_id, template, b"", None, None, owner, 0, self.now)
        assert task.state is TASK_WAITING
        self.scheduler.enqueue(task, self.now)
        return task

    def job(self, caller: int) -> bytes:
        return b"job%d" % (caller // 2)  # the first two are of one job

    def ask(self, caller: int, kind: str) -> None:
        template = self.template(self.job(caller), kind)
        queue, client = template.queue, self.callers[caller]
        lent = self.leases.lent.values()
        have = sum(x.caller is client and x.queue is queue and not x.is_revoked for x in lent)
        self.leases.asked(client, template.number, template, have, self.now)

    def turn(self) -> None:
        self.leases.before_dispatch(self.now)
        self.scheduler.dispatch(self.now)
        self.leases.turn(self.now)
        held: dict[str, int] = {}
        for task in self.placed:
            for resource, units in task.template.spec.demand:
                held[resource] = held.get(resource, 0) + units
        self.scheduler.check(held)
        self.leases.check()

    def come_up(self) -> None:
        while self.starting:
            self.scheduler.worker_ready(self.starting.popleft(), self.now)

    def give_back(self) -> None:
        """The last word of the worker that was asked back first."""
        lane = self.revoked.popleft()
        self.leases.returned(lane)
        self.scheduler.take_back(lane.worker)

    def busy(self) -> list[Worker]:
        return [w for w in self.scheduler.workers.values() if w.tasks]

    def finish(self, worker: Worker) -> None:
        self.scheduler.finished(worker, next(iter(worker.tasks)), 0.0001)

    def settle(self) -> None:
        """All that was asked back comes back, until no more is asked."""
        while self.revoked:
            self.give_back()
            self.turn()
            self.come_up()
            self.turn()


class AnyEvents(RuleBasedStateMachine):
    """Callers submit, ask, and get; workers finish, block, die; time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    def teardown(self) -> None:
        """If all goes well from now on, everything runs and every worker comes back."""
        world = self.world
        for worker in list(world.scheduler.workers.values()):
            world.scheduler.unblocked(worker)
        for task in world.placed:  # the actors end
            world.scheduler.give_back(task.template.spec.demand)
        world.placed.clear()
        for _ in range(300):
            world.now += LEASE_PATIENCE_S
            world.turn()
            world.come_up()
            world.settle()
            for worker in world.busy():
                world.finish(worker)
            world.turn()
            for task in world.placed:
                world.scheduler.give_back(task.template.spec.demand)
            world.placed.clear()
        assert not world.scheduler.queued(), "what could have run never did"
        for lane in list(world.leases.lent.values()):  # those that nobody wanted idle out
            world.leases.returned(lane)
            world.scheduler.take_back(lane.worker)
        world.turn()
        assert world.scheduler.available == world.scheduler.total

    @rule(caller=st.integers(0, 2), kind=st.sampled_from(KINDS), count=st.integers(1, 4))
    def submit(self, caller: int, kind: str, count: int) -> None:
        for _ in range(count):
            self.world.submit(caller, kind)
        self.world.turn()

    @rule(caller=st.integers(0, 2), kind=st.sampled_from(KINDS))
    def create_an_actor(self, caller: int, kind: str) -> None:
        self.world.submit(caller, kind, "actor")
        self.world.turn()

    @precondition(lambda self: self.world.placed)
    @rule()
    def an_actor_ends(self) -> None:
        task = self.world.placed.pop()
        self.world.scheduler.give_back(task.template.spec.demand)
        self.world.turn()

    @rule(caller=st.integers(0, 2), kind=st.sampled_from(KINDS))
    def ask(self, caller: int, kind: str) -> None:
        self.world.ask(caller, kind)
        self.world.turn()

    @rule()
    def workers_come_up(self) -> None:
        self.world.come_up()
        self.world.turn()

    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        busy = [w for w in self.world.busy() if w.state is WorkerState.LEASED]
        if busy:
            self.world.finish(data.draw(st.sampled_from(busy)))
            self.world.turn()

    @precondition(lambda self: self.world.revoked)
    @rule()
    def give_back(self) -> None:
        self.world.give_back()
        self.world.turn()

    @rule(data=st.data())
    def idle_out(self, data: st.DataObject) -> None:
        lent = [x for x in self.world.leases.lent.values() if x.worker.state is WorkerState.LEASED]
        if lent:
            lane = data.draw(st.sampled_from(lent))
            if lane.is_revoked:
                self.world.revoked.remove(lane)
            self.world.leases.returned(lane)
            self.world.scheduler.take_back(lane.worker)
            self.world.turn()

    @rule(data=st.data())
    def block(self, data: st.DataObject) -> None:
        leased = [w for w in self.world.scheduler.workers.values() if w.state is WorkerState.LEASED]
        if leased:
            worker = data.draw(st.sampled_from(leased))
            self.world.scheduler.handed_back(worker, list(worker.tasks)[1:])
            self.world.scheduler.blocked(worker)
            self.world.turn()

    @rule(data=st.data())
    def unblock(self, data: st.DataObject) -> None:
        workers = self.world.scheduler.workers.values()
        blocked = [w for w in workers if w.state is WorkerState.BLOCKED]
        if blocked:
            self.world.scheduler.unblocked(data.draw(st.sampled_from(blocked)))
            self.world.turn()

    @rule(data=st.data())
    def lent_worker_dies(self, data: st.DataObject) -> None:
        lent = list(self.world.leases.lent.values())
        if lent:
            lane = data.draw(st.sampled_from(lent))
            if lane.is_revoked:
                self.world.revoked.remove(lane)
            self.world.scheduler.lost(lane.worker)
            self.world.turn()
            self.world.scheduler.remove_worker(lane.worker)
            self.world.leases.returned(lane)
            lane.worker.lane = None
            self.world.turn()

    @rule(seconds=st.sampled_from([0.001, LEASE_PATIENCE_S, LEASE_AGAIN_S]))
    def time_passes(self, seconds: float) -> None:
        self.world.now += seconds
        self.world.turn()

    @invariant()
    def no_task_waits_for_a_lent_worker_that_was_not_asked_back(self) -> None:
        """Of others at once, and of its own caller once it has been patient for long enough."""
        world, scheduler = self.world, self.world.scheduler
        lent = world.leases.lent.values()
        coming = dict(scheduler.available)
        for lane in lent:
            if lane.is_revoked and lane.worker.state is WorkerState.LEASED and lane.queue:
                for name, units in lane.queue.demand:
                    coming[name] += units
        for queue in scheduler.ready:
            head = queue.head()
            for lane in lent:
                if lane.is_revoked or lane.worker.state is not WorkerState.LEASED:
                    continue
                own = head.owner is lane.caller and lane.queue is queue
                if own and world.now < head.ready_at + LEASE_PATIENCE_S:
                    continue
                assert lane.queue is not None
                gain = dict(lane.queue.demand)
                serves = all(
                    coming.get(name, 0) < units <= coming.get(name, 0) + gain.get(name, 0)
                    for name, units in queue.demand
                )
                alone = len(scheduler.ready) == 1 and not scheduler.placing
                assert not (serves and alone), "it would have been enough"


AnyEvents.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyEvents = AnyEvents.TestCase


@pytest.mark.parametrize("average_s", [0.0, 1e-9, 1e-5, 1e-4, LEASE_PIPELINE_S, 0.004])
def test_a_window_is_bounded_in_time_and_number(average_s: float) -> None:
    window = window_of(average_s)
    assert 1 <= window <= LANE_WINDOW_CALLS
    assert window == 1 or window * average_s <= LANE_BUDGET_S
