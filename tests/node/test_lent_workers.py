"""Workers that are lent for tasks: a driver asks, the node lends, and takes back for others."""

from __future__ import annotations

from typing import Any

import pytest

from skate import messages as m
from skate.config import (
    LANE_WINDOW_CALLS,
    LEASE_AGAIN_S,
    LEASE_ASK_AGAIN_S,
    LEASE_LONG_PATIENCE_S,
    LEASE_MAX_TASK_S,
    LEASE_PATIENCE_S,
    LEASE_SLOW_S,
)
from skate.error_records import decode_error
from skate.ids import return_id
from skate.rows import Client
from skate.spec import FORMAT_ERROR, demand_of
from skate.states import WorkerState
from tests.node.played_node import Node, Program, done


class Scene:
    """A node with idle workers, and a driver whose tasks' run time is known."""

    def __init__(self, cpus: int = 2, seconds: float = 0.0001) -> None:
        self.node = Node(cpus, lanes=True)
        self.driver = Program(self.node, lanes=True)
        self.workers = [self.node.came_up(lanes=True) for _ in range(cpus)]
        self.seconds = seconds
        self.now = 1_000.0
        self.run_one()

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.node.core.begin(self.now)

    def run_one(self, **options: Any) -> None:
        """One task, the long way."""
        result = self.driver.submit(**options)
        worker = self.busy()
        self.node.say(worker, m.Done(result[:16], 0, 1.0, 1.0 + self.seconds, b"\x03value"))
        self.driver.release(result)
        for client in [*self.workers, self.driver.peer]:
            self.node.said(client)

    def busy(self) -> Client:
        return next(w for w in self.workers if w.worker is not None and w.worker.tasks)

    def ask(self, program: Program | None = None, have: int = 0, **options: Any) -> None:
        program = program or self.driver
        number = program.number("task", **options)
        self.node.say(program.peer, m.LaneWanted(number, have))

    def expected(self) -> list[tuple[Client, int]]:
        """Who was told to expect a caller, and on which lane."""
        return [
            (worker, x.lane)
            for worker in self.workers
            for x in self.node.said(worker)
            if isinstance(x, m.LaneExpected)
        ]

    def lent(self, **options: Any) -> tuple[Client, int]:
        """A worker that is lent, and its lane."""
        self.ask(**options)
        [(worker, number)] = self.expected()
        self.node.say(worker, m.LaneListening(number))
        return worker, number

    def on_lane(self, count: int, retries: int = 3, **fields: Any) -> list[m.Submit]:
        """Tasks that ride; as they would come to the node if they came back."""
        number = self.driver.number(max_retries=retries)
        ids = [self.driver.ids.next_task() for _ in range(count)]
        return [m.Submit(task_id, number, b"args", **fields) for task_id in ids]

    def back(self, lane: int, how: int, tasks: list[m.Submit]) -> list[Any]:
        for task in tasks:
            task.lane = lane
        return [m.LaneClosed(lane, how, len(tasks)), *tasks]

    def told(self, kind: type[Any], client: Client) -> list[Any]:
        return [x for x in self.node.said(client) if isinstance(x, kind)]

    @property
    def free(self) -> int:
        return self.node.core.scheduler.available["CPU"] // 10_000

    def ends(self) -> None:
        """All leave; nothing may be left."""
        core = self.node.core
        for client in [c for c in core.clients if c.role == "driver"]:
            core.client_lost(client)
            self.node.turn()
        for worker in list(core.scheduler.workers.values()):
            if worker.client is not None:
                self.node.lose(worker.client)
        assert not core.parts.tables.lanes and not core.parts.leases.lent
        assert self.node.is_clean()


def ids(said: list[Any]) -> list[bytes]:
    return [x.task_id for x in said if isinstance(x, m.Run)]


# ---------------------------------------------------------------------------------- lending


def test_an_idle_worker_is_lent_and_holds_the_resources_of_the_class() -> None:
    scene = Scene()
    worker, number = scene.lent()
    assert scene.free == 1
    opened = scene.told(m.LaneOpen, scene.driver.peer)
    assert opened == [
        m.LaneOpen(number, worker.worker.id, b"", scene.driver.number(), LANE_WINDOW_CALLS // 2)
    ]
    scene.node.say(worker, m.LaneOver(number))
    scene.node.say(scene.driver.peer, m.LaneClosed(number, m.OVER, 0))
    assert scene.free == 2 and worker.worker.state is WorkerState.IDLE
    scene.ends()


@pytest.mark.parametrize(
    "seconds, window", [(0.00001, 1_000), (0.0005, 100), (0.0011, 1), (0.0049, 1)]
)
def test_the_window_is_by_time(seconds: float, window: int) -> None:
    """p and A: what would wait longer belongs in the node's queue."""
    scene = Scene(seconds=seconds)
    scene.lent()
    assert scene.told(m.LaneOpen, scene.driver.peer)[0].window == pytest.approx(window, abs=1)
    scene.ends()


def test_nothing_is_lent_for_tasks_that_are_long_or_of_unknown_length() -> None:
    scene = Scene(seconds=LEASE_MAX_TASK_S * 1.2)
    scene.ask()
    scene.ask(name="never ran")
    assert not scene.expected()
    scene.ends()


@pytest.mark.parametrize(
    "options",
    [
        {"max_retries": 0},
        {"max_calls": 1},
        {"retry_exceptions": True},
        {"num_returns": 2},
        {"group": b"g" * 16},
    ],
)
def test_nothing_is_lent_for_tasks_that_may_not_ride(options: dict[str, Any]) -> None:
    scene = Scene()
    number = scene.driver.number(**options)
    scene.driver.peer.templates[number].average_s = 0.0001
    scene.ask(**options)
    assert not scene.expected()
    scene.ends()


def test_nothing_is_lent_while_something_waits() -> None:
    scene = Scene(cpus=1)
    running, waiting = scene.driver.submit(), scene.driver.submit(demand=demand_of({"CPU": 0.5}))
    scene.ask()
    assert not scene.expected()
    scene.pass_time(LEASE_ASK_AGAIN_S / 2)
    worker = scene.busy()
    scene.node.say(worker, done(running))
    scene.node.said(worker)
    scene.node.say(worker, done(waiting))
    assert scene.expected(), "an ask is remembered for a moment"
    scene.ends()


def test_an_ask_is_forgotten_after_a_moment() -> None:
    scene = Scene(cpus=1)
    running = scene.driver.submit()
    scene.ask()
    scene.pass_time(2 * LEASE_ASK_AGAIN_S)
    scene.node.say(scene.busy(), done(running))
    assert not scene.expected() and not scene.node.core.parts.leases.asks
    scene.ends()


def test_a_caller_has_one_worker_an_ask_and_as_many_as_cpus() -> None:
    scene = Scene(cpus=2)
    scene.lent()
    scene.ask(have=0)
    assert not scene.expected(), "its ask crossed the first lane"
    scene.ask(have=1)
    assert len(scene.expected()) == 1
    scene.ask(have=2)
    assert not scene.expected() and scene.free == 0
    scene.ends()


@pytest.mark.parametrize("silent", ["caller", "worker"])
def test_nobody_is_lent_without_the_consent_of_both(silent: str) -> None:
    scene = Scene(cpus=1)
    client = scene.driver.peer if silent == "caller" else scene.workers[0]
    client.speaks_lanes = False
    scene.ask()
    assert not scene.expected() and scene.free == 1
    scene.ends()


def test_a_worker_that_cannot_listen_is_idle_again() -> None:
    scene = Scene(cpus=1)
    scene.ask()
    [(worker, number)] = scene.expected()
    scene.node.say(worker, m.LaneListening(number, "path too long"))
    assert scene.free == 1 and not scene.node.core.parts.tables.lanes
    result = scene.driver.submit()
    assert ids(scene.node.said(worker)) == [result[:16]]
    scene.ends()


# ---------------------------------------------------------------------------------- taking back


def test_another_job_has_a_worker_taken_back_at_once_and_gets_it_with_its_last_word() -> None:
    scene = Scene(cpus=1)
    worker, number = scene.lent()
    other = Program(scene.node)
    scene.workers.append(scene.node.came_up())
    result = other.submit()
    assert scene.told(m.LaneRevoke, worker) == [m.LaneRevoke(number)]
    assert scene.free == 0 and not ids(scene.node.said(scene.workers[1]))
    other.submit()
    assert not scene.node.said(worker), "once is enough"
    scene.node.say(worker, m.LaneOver(number))
    assert ids(scene.node.said(scene.workers[1])) == [result[:16]]
    scene.ends()


def test_a_worker_that_is_taken_back_before_it_listens_is_not_offered() -> None:
    scene = Scene(cpus=1)
    scene.ask()
    [(worker, number)] = scene.expected()
    Program(scene.node).submit()
    assert scene.told(m.LaneRevoke, worker) == [m.LaneRevoke(number)]
    scene.node.say(worker, m.LaneListening(number))
    assert not scene.told(m.LaneOpen, scene.driver.peer)
    scene.node.say(worker, m.LaneOver(number))
    assert scene.free == 1 and not scene.node.core.parts.tables.lanes
    scene.ends()


def test_an_actor_that_waits_for_a_place_has_a_worker_taken_back() -> None:
    scene = Scene(cpus=1)
    worker, number = scene.lent()
    scene.driver.create(running=demand_of({"CPU": 1.0}))
    assert scene.told(m.LaneRevoke, worker) == [m.LaneRevoke(number)]
    scene.node.say(worker, m.LaneOver(number))
    assert scene.node.started, "its process is being started"
    scene.ends()


def test_the_callers_own_overflow_is_patient_for_a_moment() -> None:
    """o: older tasks in the node may not starve while newer ones ride."""
    scene = Scene(cpus=1)
    worker, number = scene.lent()
    result = scene.driver.submit()
    assert not scene.told(m.LaneRevoke, worker)
    due = scene.node.core.parts.leases.deadline()
    assert due == scene.now + LEASE_PATIENCE_S
    scene.pass_time(LEASE_PATIENCE_S)
    scene.node.turn()
    assert scene.told(m.LaneRevoke, worker) == [m.LaneRevoke(number)]
    scene.node.say(worker, m.LaneOver(number))
    assert ids(scene.node.said(worker)) == [result[:16]]
    scene.ends()


def burst(scene: Scene) -> tuple[Client, int]:
    """More tasks than workers take; one ends all of its own. Who is lent, and the lane."""
    while not scene.node.core.scheduler.queued():
        scene.driver.submit()
    for _ in range(100):
        scene.driver.submit()
    scene.ask()
    assert not scene.expected(), "all are busy"
    worker = scene.workers[0]
    tasks = list(worker.worker.tasks)
    scene.node.say(worker, *(m.Done(x, 0, 1.0, 1.0 + scene.seconds, b"\x03value") for x in tasks))
    [(lent, number)] = scene.expected()
    return lent, number


def test_a_burst_gets_a_worker_though_its_own_tasks_wait_and_others_serve_them() -> None:
    """Else a burst that is quicker than the node would never ride: no worker is ever idle."""
    scene = Scene(cpus=3)
    lent, number = burst(scene)
    scene.node.say(lent, m.LaneListening(number))
    assert scene.told(m.LaneOpen, scene.driver.peer)
    scene.ask(have=1)
    assert not scene.expected(), "at least as many serve those that wait"
    scene.pass_time(LEASE_PATIENCE_S)
    scene.node.turn()
    assert not scene.told(m.LaneRevoke, lent)
    scene.pass_time(LEASE_LONG_PATIENCE_S)
    scene.node.turn()
    assert scene.told(m.LaneRevoke, lent) == [m.LaneRevoke(number)]
    scene.ends()


def test_the_last_lent_go_first_and_no_more_than_are_needed() -> None:
    scene = Scene(cpus=3)
    lent = [scene.lent(have=have) for have in range(3)]
    other = Program(scene.node)
    other.submit()
    assert [bool(scene.told(m.LaneRevoke, worker)) for worker, _ in lent] == [False, False, True]
    other.submit()
    assert [bool(scene.told(m.LaneRevoke, worker)) for worker, _ in lent] == [False, True, False]
    scene.ends()


def test_what_no_lent_worker_could_serve_takes_none_back() -> None:
    scene = Scene(cpus=2)
    worker, _ = scene.lent()
    scene.driver.submit(demand=demand_of({"CPU": 5.0}))
    assert not scene.told(m.LaneRevoke, worker)
    # Nor does what fits beside it.
    scene.driver.submit(demand=demand_of({"CPU": 0.5}))
    assert not scene.told(m.LaneRevoke, worker)
    scene.ends()


def test_after_something_had_to_wait_nothing_is_lent_for_a_moment() -> None:
    scene = Scene(cpus=1)
    worker, number = scene.lent()
    other = Program(scene.node)
    scene.workers.append(scene.node.came_up())
    result = other.submit()
    scene.node.say(worker, m.LaneOver(number))
    scene.node.say(scene.workers[1], done(result))
    scene.node.said(worker)
    scene.ask()
    assert not scene.expected()
    scene.pass_time(LEASE_AGAIN_S)
    scene.ask()
    assert len(scene.expected()) == 1
    scene.ends()


def test_a_class_whose_tasks_have_become_long_is_shared_again() -> None:
    scene = Scene(cpus=1)
    worker, number = scene.lent()
    tasks = scene.on_lane(2)
    rows = [
        m.LaneRow(task.task_id, "f", "task", 1.0, 1.0 + 20 * LEASE_MAX_TASK_S, 3, "", 9, 0)
        for task in tasks
    ]
    scene.node.say(worker, m.LaneNotes(number, rows))
    assert scene.told(m.LaneRevoke, worker) == [m.LaneRevoke(number)]
    scene.node.say(worker, m.LaneOver(number))
    template = scene.driver.peer.templates[scene.driver.number()]
    assert template.average_s > LEASE_MAX_TASK_S
    template.average_s = 0.0001  # short tasks have run since
    scene.ask()
    assert not scene.expected()
    scene.pass_time(LEASE_SLOW_S + 0.01)
    scene.ask()
    assert len(scene.expected()) == 1
    scene.ends()


def test_a_lent_worker_whose_task_waits_lends_its_cpu_and_is_sent_nothing() -> None:
    """Scenario 14, and one CPU: the task that it waits for has to run."""
    scene = Scene(cpus=1)
    worker, number = scene.lent()
    scene.node.say(worker, m.Blocked())
    nested = Program(scene.node, worker, lanes=True)
    result = nested.submit()
    scene.workers.append(scene.node.came_up())
    assert ids(scene.node.said(scene.workers[1])) == [result[:16]]
    assert not ids(scene.node.said(worker))
    scene.node.say(scene.workers[1], done(result))
    scene.node.say(worker, m.Unblocked())
    assert scene.free == 0 and worker.worker.state is WorkerState.LEASED
    scene.node.say(worker, m.LaneOver(number))
    assert scene.free == 1
    scene.ends()


# ---------------------------------------------------------------------------------- deaths


@pytest.mark.parametrize("word", ["first", "late"])
def test_of_a_dead_workers_unanswered_tasks_the_first_may_have_begun(word: str) -> None:
    scene = Scene(cpus=1)
    worker, number = scene.lent()
    tasks = scene.on_lane(3, retries=1)
    said = scene.back(number, m.LOST, tasks)
    if word == "first":
        scene.node.say(scene.driver.peer, *said)
        assert scene.free == 0 and not scene.node.started, "it may live"
    scene.node.lose(worker)
    assert scene.free == 1, "its burial frees what it held"
    if word == "late":
        scene.node.say(scene.driver.peer, *said)
    assert not scene.node.core.parts.tables.lanes
    fresh = scene.node.came_up(lanes=True)
    scene.workers = [fresh]
    runs = []
    while True:
        new = [x for x in scene.node.said(fresh) if isinstance(x, m.Run)]
        if not new:
            break
        runs += new
        scene.node.say(fresh, *(done(return_id(x.task_id, 0), x.attempt) for x in new))
    assert [(x.task_id, x.attempt) for x in runs] == [(task.task_id, 1) for task in tasks]
    scene.driver.release(*(return_id(task.task_id, 0) for task in tasks))
    scene.ends()


def test_the_task_that_a_worker_died_of_fails_once_its_retries_are_used_up() -> None:
    scene = Scene(cpus=1)
    worker, number = scene.lent()
    tasks = scene.on_lane(1, retries=1)
    scene.node.lose(worker)
    scene.node.say(scene.driver.peer, *scene.back(number, m.LOST, tasks))
    fresh = scene.node.came_up()
    assert ids(scene.node.said(fresh)) == [tasks[0].task_id]
    scene.node.lose(fresh)
    ready = scene.told(m.Ready, scene.driver.peer)
    record = decode_error(ready[0].data[1:])
    assert record.kind == "WorkerCrashedError" and "last words" in record.message
    scene.ends()


@pytest.mark.parametrize("has_run", [False, True])
def test_of_a_dead_workers_tasks_those_that_had_begun_pay_with_a_retry(has_run: bool) -> None:
    """Two of three; or all, if its lane had ended and it had begun something else since."""
    scene = Scene(cpus=1)
    worker, number = scene.lent()
    tasks = scene.on_lane(3, retries=1)
    last = tasks[1].task_id
    if has_run:
        scene.node.say(worker, m.LaneOver(number))
        last = b"a task of others"
    scene.node.lose(worker, begun=last)
    scene.node.say(scene.driver.peer, *scene.back(number, m.LOST, tasks))
    for task in tasks:
        fresh = scene.node.came_up()
        assert ids(scene.node.said(fresh)) == [task.task_id]
        scene.node.lose(fresh, begun=task.task_id)
        is_over = has_run or task is not tasks[2]
        assert bool(scene.told(m.Ready, scene.driver.peer)) == is_over
    scene.ends()


def test_lost_tasks_that_need_each_other_run_one_after_the_other() -> None:
    """Scenario 12: the chain's inputs are results that were lost with the worker as well."""
    scene = Scene(cpus=1)
    worker, number = scene.lent()
    first = scene.on_lane(1)[0]
    second = scene.on_lane(1, dependencies=[return_id(first.task_id, 0)])[0]
    scene.node.say(scene.driver.peer, *scene.back(number, m.LOST, [first, second]))
    scene.node.lose(worker)
    fresh = scene.node.came_up()
    assert ids(scene.node.said(fresh)) == [first.task_id]
    scene.node.say(fresh, done(return_id(first.task_id, 0), 1))
    run = scene.told(m.Run, fresh)[0]
    assert run.task_id == second.task_id and run.attempt == 1
    assert run.values == [m.Value(b"\x03value")]
    scene.node.say(fresh, done(return_id(second.task_id, 0), 1))
    scene.ends()


def test_a_lost_task_does_not_run_before_the_burial_though_its_input_comes() -> None:
    scene = Scene(cpus=2)
    worker, number = scene.lent()
    pending = scene.driver.submit()
    lost = scene.on_lane(1, dependencies=[pending])
    scene.node.say(scene.driver.peer, *scene.back(number, m.LOST, lost))
    other = scene.busy()
    scene.node.say(other, done(pending))
    assert lost[0].task_id not in ids(scene.node.said(other))
    scene.node.lose(worker)
    assert ids(scene.node.said(other)) == [lost[0].task_id]
    scene.ends()


def test_what_was_handed_back_or_refused_runs_as_any_other_task() -> None:
    """Scenarios 6 and 7: 64 tasks crossed LaneEnds; one needs what the worker has not kept."""
    scene = Scene(cpus=1)
    worker, number = scene.lent()
    refused = scene.on_lane(1)[0]
    refused.lane = number
    scene.node.say(scene.driver.peer, refused)
    crossed = scene.on_lane(64)
    scene.node.say(scene.driver.peer, *scene.back(number, m.HANDED_BACK, crossed))
    scene.node.say(worker, m.LaneOver(number))
    assert scene.node.core.parts.tables.lanes, "what was taken may still be on its way"
    scene.node.say(scene.driver.peer, m.LaneClosed(number, m.OVER, 0))
    assert not scene.node.core.parts.tables.lanes
    ran: list[m.Run] = []
    while new := scene.told(m.Run, worker):
        ran += new
        scene.node.say(worker, *(done(return_id(x.task_id, 0)) for x in new))
    assert [x.task_id for x in ran] == [refused.task_id, *(task.task_id for task in crossed)]
    assert all(x.attempt == 0 for x in ran)
    scene.ends()


def test_a_dead_callers_worker_is_free_once_it_is_done() -> None:
    scene = Scene(cpus=1)
    worker, number = scene.lent()
    other = Program(scene.node)
    scene.driver.peer.job = None  # its job goes on
    scene.node.core.client_lost(scene.driver.peer)
    scene.node.turn()
    assert scene.told(m.LaneRevoke, worker) == [m.LaneRevoke(number)]
    assert scene.free == 0
    scene.node.say(worker, m.LaneOver(number))
    assert scene.free == 1 and not scene.node.core.parts.tables.lanes
    assert other.values() == {}


def test_the_heartbeat_counts_a_lent_worker_once_its_task_takes_its_time() -> None:
    scene = Scene(cpus=1)
    worker, number = scene.lent()
    assert scene.node.core.heartbeat().running == 0
    task = scene.on_lane(1)[0]
    scene.node.say(worker, m.LaneBegun(number, task.task_id, "f", scene.now, 0))
    assert scene.node.core.heartbeat().running == 1
    assert FORMAT_ERROR not in [x.data[:1] for x in scene.told(m.Ready, scene.driver.peer)]
    scene.ends()
