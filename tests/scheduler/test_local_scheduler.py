"""The local scheduler as event lists, and against random events with its promises checked."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from skate.config import (
    MAX_WORKER_STARTS,
    PIPELINE_MAX_TASKS,
    RESOURCE_PATIENCE_S,
    RESOURCE_UNITS,
)
from skate.rows import Pool, Task, Template, Worker
from skate.scheduler.local_scheduler import LocalScheduler
from skate.spec import CallTemplate, demand_of
from skate.states import TaskState, WorkerState

JOB = b"job1"
CPU = {"CPU": 1.0}


class Node:
    """A scheduler, the workers it asked for, and a log of what it decided."""

    def __init__(self, resources: dict[str, float]) -> None:
        total = dict(demand_of(resources))
        self.scheduler = LocalScheduler(total, self._send, self._start, self._place)
        self.now = 1_000.0
        self.log: list[str] = []
        self.starting: list[Worker] = []
        self.tasks: dict[str, Task] = {}
        self.templates: dict[Any, Template] = {}
        self.placed: list[Task] = []
        self._count = 0

    def _send(self, worker: Worker, task: Task) -> None:
        self.log.append(f"{task.id.decode()} to {worker.id.decode()}")

    def _start(self, pool: Pool) -> None:
        self._count += 1
        worker = Worker(b"w%d" % self._count, pool, self.now)
        self.scheduler.add_worker(worker)
        self.starting.append(worker)

    def _place(self, task: Task) -> None:
        self.scheduler.take(task.template.spec.running_demand)
        self.placed.append(task)

    def template(self, name: str, demand: dict[str, float] = CPU, **options: Any) -> Template:
        """The template of a kind of task; ``average`` presets its run time."""
        average = options.pop("average", None)
        spec = CallTemplate(
            options.pop("kind", "task"),
            b"",
            name,
            demand_of(demand),
            **{"max_retries": 3, **options},
        )
        template = self.templates.get(spec)
        if template is None:
            queue = self.scheduler.class_of(JOB, spec)
            template = Template(len(self.templates), JOB, spec, queue)
            self.templates[spec] = template
        if average is not None:
            template.average_s = average
        return template

    def submit(self, template: Template, *names: str, depth: int = 0) -> None:
        """Tasks whose arguments are there."""
        for name in names:
            task = Task(name.encode(), template, b"", None, None, None, depth, self.now)
            self.tasks[name] = task
            self.scheduler.enqueue(task, self.now)

    def turn(self, *, up: bool = True) -> list[str]:
        """End the turn; workers that are asked for come up at once. What was sent."""
        self.log.clear()
        self.scheduler.dispatch(self.now)
        while up and self.starting:
            for worker in self.starting:
                self.scheduler.worker_ready(worker, self.now)
            self.starting.clear()
            self.scheduler.dispatch(self.now)
        self.scheduler.check(self.held_by_actors())
        return list(self.log)

    def held_by_actors(self) -> dict[str, int]:
        """What placed actors keep."""
        held: dict[str, int] = {}
        for task in self.placed:
            for name, units in task.template.spec.running_demand:
                held[name] = held.get(name, 0) + units
        return held

    def worker_of(self, name: str) -> Worker:
        """Where a task is."""
        worker = self.tasks[name].worker
        assert worker is not None
        return worker

    def done(self, name: str, seconds: float = 0.01) -> None:
        """Its worker has run it."""
        task = self.tasks[name]
        assert self.scheduler.finished(self.worker_of(name), task.id, seconds) is task
        task.state = TaskState.FINISHED


def test_tasks_of_unknown_length_go_one_to_a_worker_and_wait_for_nobody() -> None:
    node = Node({"CPU": 2})
    node.submit(node.template("f"), "a", "b", "c")
    assert node.turn() == ["a to w2", "b to w1"]
    node.done("b")
    assert node.turn() == ["c to w1"]


def test_short_tasks_are_sent_ahead_up_to_the_bounds() -> None:
    node = Node({"CPU": 1})
    node.submit(node.template("f", average=1e-6), *(f"t{i}" for i in range(100)))
    sent = node.turn()
    assert sent == [f"t{i} to w1" for i in range(PIPELINE_MAX_TASKS)]
    node.done("t0", 1e-6)
    assert node.turn() == [f"t{PIPELINE_MAX_TASKS} to w1"]


def test_work_is_divided_before_it_is_sent_ahead() -> None:
    node = Node({"CPU": 2})
    node.submit(node.template("f", average=1e-6), *(f"t{i}" for i in range(6)))
    sent = node.turn()
    assert sorted(line.split()[-1] for line in sent) == ["w1"] * 3 + ["w2"] * 3


@pytest.mark.parametrize(("average", "ahead"), [(0.015, 2), (0.021, 1), (5.0, 1)])
def test_one_task_waits_behind_a_shortish_one_and_none_behind_a_long_one(
    average: float, ahead: int
) -> None:
    node = Node({"CPU": 1})
    node.submit(node.template("f", average=average), "a", "b", "c")
    assert len(node.turn()) == ahead


def test_nothing_goes_behind_a_task_of_unknown_or_long_run_time_of_its_class() -> None:
    node = Node({"CPU": 1})
    node.submit(node.template("new"), "unknown")
    node.submit(node.template("short", average=1e-5), "a")
    assert node.turn() == ["unknown to w1"]
    node.done("unknown", 2.0)
    node.submit(node.template("new"), "long")
    assert node.turn() == ["a to w1"]
    node.done("a", 1e-5)
    node.submit(node.template("short"), "b")
    assert node.turn() == ["long to w1"]


def test_a_worker_is_filled_again_after_its_template_got_faster() -> None:
    """Loads are what was expected when sent: an average that falls leaves no ghost behind."""
    node = Node({"CPU": 1})
    template = node.template("f", average=0.019)
    names = [f"t{i}" for i in range(400)]
    node.submit(template, *names)
    at_worker = len(node.turn())
    assert at_worker == 2
    for name in names[:60]:
        node.done(name, 1e-5)
        at_worker += len(node.turn()) - 1
    assert at_worker == PIPELINE_MAX_TASKS


def test_at_most_once_tasks_never_wait_at_a_worker() -> None:
    node = Node({"CPU": 1})
    node.submit(node.template("f", average=1e-6, max_retries=0), "a", "b")
    assert node.turn() == ["a to w1"]


def test_nothing_waits_behind_the_last_call_of_a_worker() -> None:
    node = Node({"CPU": 1})
    node.submit(node.template("mortal", average=1e-6, max_calls=1), "a")
    node.submit(node.template("plain", average=1e-6), "b")
    assert node.turn() == ["a to w1"]


def test_a_task_that_a_crash_sent_back_goes_first_and_alone() -> None:
    node = Node({"CPU": 1})
    node.submit(node.template("f", average=1e-6), "a", "b", "c")
    assert node.turn() == ["a to w1", "b to w1", "c to w1"]
    worker = node.worker_of("a")
    node.scheduler.lost(worker)
    unfinished = node.scheduler.remove_worker(worker)
    assert [task.id for task in unfinished] == [b"a", b"b", b"c"]
    for task in reversed(unfinished):
        task.attempt += 1
        node.scheduler.requeue(task)
    node.submit(node.template("f"), "d")
    assert node.turn() == ["a to w2"]
    for done, following in (("a", "b"), ("b", "c")):
        node.done(done, 1e-6)
        assert node.turn() == [f"{following} to w2"]  # not "d" behind it either
    node.done("c", 1e-6)
    assert node.turn() == ["d to w2"]


def test_a_lost_worker_is_sent_nothing_and_keeps_its_resources_until_it_is_gone() -> None:
    node = Node({"CPU": 1})
    node.submit(node.template("f", average=1e-6), "a")
    node.turn()
    worker = node.worker_of("a")
    node.scheduler.lost(worker)
    node.submit(node.template("f"), "b")
    assert node.turn() == []
    assert node.scheduler.remove_worker(worker) == [node.tasks["a"]]
    assert node.turn() == ["b to w2"]


def test_a_lost_idle_worker_is_not_chosen() -> None:
    node = Node({"CPU": 1})
    node.submit(node.template("f"), "a")
    node.turn()
    node.done("a")
    node.turn()
    node.scheduler.lost(node.worker_of("a"))
    node.submit(node.template("f"), "b")
    assert node.turn() == ["b to w2"]


def test_a_blocked_worker_lends_its_cpu_and_nothing_else() -> None:
    node = Node({"CPU": 1, "disk": 1})
    parent = node.template("parent", {"CPU": 1, "disk": 1})
    node.submit(parent, "p")
    node.turn()
    node.submit(parent, "q")
    node.submit(node.template("child"), "c", depth=1)
    assert node.turn() == []
    node.scheduler.blocked(node.worker_of("p"))
    assert node.turn() == ["c to w2"]
    node.scheduler.unblocked(node.worker_of("p"))  # oversubscribed for a moment
    assert node.turn() == [] and node.scheduler.available["CPU"] == -RESOURCE_UNITS
    node.done("c")
    node.done("p")
    assert node.turn() == ["q to w1"]


def test_a_blocked_worker_that_dies_gives_its_cpu_back_once() -> None:
    node = Node({"CPU": 1})
    node.submit(node.template("f"), "a")
    node.turn()
    worker = node.worker_of("a")
    node.scheduler.blocked(worker)
    node.scheduler.lost(worker)
    node.scheduler.remove_worker(worker)
    node.turn()
    assert node.scheduler.available == node.scheduler.total


def test_what_is_handed_back_keeps_its_place_and_its_order() -> None:
    node = Node({"CPU": 1})
    template = node.template("f", average=1e-6)
    node.submit(template, "a", "b", "c")
    node.turn()
    worker = node.worker_of("a")
    node.submit(template, "d")
    node.scheduler.handed_back(worker, [b"b", b"c"])
    assert node.turn() == []  # the task is a long one after all: nothing more goes behind it
    node.scheduler.blocked(worker)
    assert node.turn() == ["b to w2", "c to w2", "d to w2"]


def test_deeper_tasks_go_first_as_their_parents_wait_for_them() -> None:
    node = Node({"CPU": 1})
    template = node.template("f")
    node.submit(template, "first", "second")
    node.turn()
    node.submit(template, "child", depth=1)
    node.submit(template, "grandchild", depth=2)
    order = []
    for name in ("first", "grandchild", "child", "second"):
        node.done(name)
        order += node.turn()
    assert order == ["grandchild to w1", "child to w1", "second to w1"]


def test_two_classes_take_turns() -> None:
    node = Node({"CPU": 1})
    node.submit(node.template("f"), *(f"f{i}" for i in range(4)))
    node.submit(node.template("g", {"CPU": 0.9}), *(f"g{i}" for i in range(4)))
    order = [line.split()[0] for line in node.turn()]
    while len(order) < 8:
        node.done(order[-1], 5.0)
        order += [line.split()[0] for line in node.turn()]
    assert order == ["f0", "g0", "f1", "g1", "f2", "g2", "f3", "g3"]


def test_a_class_in_need_of_what_is_not_there_holds_nobody_back() -> None:
    node = Node({"CPU": 2, "GPU": 1})
    node.submit(node.template("train", {"CPU": 1, "GPU": 1}), "t0", "t1")
    node.submit(node.template("huge", {"CPU": 64}), "never")
    names = [f"f{i}" for i in range(40)]
    node.submit(node.template("f", average=1e-6), *names)
    sent = node.turn()
    assert "t0 to w2" in sent
    ran = [line.split()[0] for line in sent]
    for _ in range(20):
        for name in [n for n in names if node.tasks[n].state is TaskState.SENT]:
            node.done(name, 1e-6)
        ran += [line.split()[0] for line in node.turn()]
        node.now += RESOURCE_PATIENCE_S  # the CPU does not wait with t1 for its GPU
    assert set(ran) == {"t0", *names}


def until_large_runs(node: Node) -> None:
    """One small task ends every 0.1 s: never are both CPUs free by themselves."""
    began = node.now
    while node.tasks["large"].state is not TaskState.SENT:
        running = [t for t in node.tasks.values() if t.state is TaskState.SENT]
        node.now += 0.1
        node.done(min(running, key=lambda t: t.sent_at).id.decode(), 0.2)
        node.turn()
        assert node.now - began < RESOURCE_PATIENCE_S + 0.5


def test_a_large_demand_is_not_starved_by_an_endless_stream_of_small_ones() -> None:
    node = Node({"CPU": 2})
    small = node.template("small")
    node.submit(small, *(f"s{i}" for i in range(1_000)))
    node.turn()
    node.submit(node.template("large", {"CPU": 2}), "large")
    until_large_runs(node)
    node.done("large")
    assert len(node.turn()) == 2  # and then the small ones go on


@pytest.mark.parametrize("away_s", [10, 50, 100, 190])
def test_a_wait_that_ended_long_ago_without_a_lease_is_not_counted_again(away_s: int) -> None:
    node = Node({"CPU": 2})
    small, large = node.template("small"), node.template("large", {"CPU": 2})
    node.submit(small, *(f"s{i}" for i in range(1_000)))
    node.turn()
    node.submit(large, "gone")
    node.turn()
    node.scheduler.ready.pop(large.queue)
    assert large.queue.take_back(1, None) == [node.tasks["gone"]]  # another node runs it
    node.now += away_s
    node.submit(large, "large")
    began = node.now
    until_large_runs(node)
    assert node.now - began > RESOURCE_PATIENCE_S


def test_a_demand_that_was_patient_at_other_nodes_need_not_be_so_again() -> None:
    """Or a task that moves between busy nodes more often than they are patient never runs."""
    node = Node({"CPU": 2})
    small, large = node.template("small"), node.template("large", {"CPU": 2})
    node.submit(small, *(f"s{i}" for i in range(1_000)))
    node.turn()
    task = Task(b"large", large, b"", None, None, None, 0, node.now)
    task.waited_s = 0.9 * RESOURCE_PATIENCE_S
    node.tasks["large"] = task
    node.scheduler.enqueue(task, node.now)
    began = node.now
    until_large_runs(node)
    assert node.now - began < 0.1 * RESOURCE_PATIENCE_S + 0.5
    node.done("large")
    node.turn()
    node.submit(large, "fresh")  # patience that has had its reward is not counted again
    node.tasks["large"] = node.tasks["fresh"]
    began = node.now
    until_large_runs(node)
    assert node.now - began > RESOURCE_PATIENCE_S


def test_beside_a_task_that_never_ends_a_large_demand_does_not_keep_the_rest_idle() -> None:
    node = Node({"CPU": 2})
    node.submit(node.template("endless"), "endless")
    node.turn()
    node.submit(node.template("large", {"CPU": 2}), "large")
    small = node.template("small")
    ran = 0
    longest_pause = pause = 0.0
    for number in range(1_000):
        name = f"s{number}"
        node.submit(small, name)
        idle = 0
        while node.turn() == [] and node.tasks[name].state is not TaskState.SENT:
            node.now += 0.1
            idle += 1
            assert idle < 100_000
        pause = 0.1 * idle
        longest_pause = max(longest_pause, pause)
        node.now += 0.1
        node.done(name, 0.1)
        ran += 1
    assert longest_pause > 2 * RESOURCE_PATIENCE_S, "it was given the chance to fit"
    assert ran * 0.1 > (node.now - 1_000.0) / 3, "the other CPU has worked for half of the time"
    node.done("endless")
    assert "large to w1" in node.turn() or "large to w2" in node.log


def test_a_claim_comes_before_all_that_waits() -> None:
    node = Node({"CPU": 3})
    small = node.template("small", average=1e-3)
    node.submit(small, *(f"s{i}" for i in range(100)))
    node.turn()
    node.scheduler.claimed = demand_of({"CPU": 2})
    assert node.scheduler.attainable() == {"CPU": 30_000}
    first, second, _ = node.scheduler.workers.values()
    _end_all_of(node, first)
    assert node.turn() == [], "it is kept"
    assert node.scheduler.free_soon() == {"CPU": 0}
    _end_all_of(node, second)
    node.scheduler.release_emptied(node.now)
    demand = node.scheduler.claimed
    assert node.scheduler.fits(demand), "what a bundle takes now"
    node.scheduler.take(demand)
    node.scheduler.claimed = ()
    node.scheduler.give_back(demand)
    node.turn()
    assert sum(worker.lease is not None for worker in node.scheduler.workers.values()) == 3


def _end_all_of(node: Node, worker: Worker) -> None:
    for task in list(worker.tasks.values()):
        node.done(task.id.decode())


def test_nothing_is_set_aside_for_what_an_actor_will_not_give_back() -> None:
    node = Node({"CPU": 2})
    node.submit(node.template("Actor", kind="actor", running_demand=demand_of(CPU)), "actor")
    node.turn()
    assert len(node.placed) == 1
    node.submit(node.template("large", {"CPU": 2}), "large")
    node.submit(node.template("small"), "s0", "s1", "s2")
    for name in ("s0", "s1"):
        assert len(node.turn()) == 1
        node.now += 2 * RESOURCE_PATIENCE_S
        node.done(name, 5.0)
    assert node.turn() == ["s2 to w1"]


def test_nothing_is_set_aside_that_a_waiting_parent_may_never_give_back() -> None:
    node = Node({"CPU": 1, "disk": 1})
    node.submit(node.template("parent", {"CPU": 1, "disk": 1}), "parent")
    node.turn()
    node.scheduler.blocked(node.worker_of("parent"))
    node.submit(node.template("parent"), "rival")  # CPU alone
    node.submit(node.template("disk", {"CPU": 1, "disk": 1}), "wants the disk")
    node.submit(node.template("child", {"CPU": 0.5}), "c0", "c1", "c2")
    ran: list[str] = []
    for _ in range(6):
        ran += [line.split(" to ")[0] for line in node.turn()]
        node.now += 2 * RESOURCE_PATIENCE_S
        for name in ("rival", "c0", "c1", "c2"):
            if node.tasks[name].state is TaskState.SENT:
                node.done(name)
    assert sorted(ran) == ["c0", "c1", "c2", "rival"]


def test_an_actor_is_placed_although_one_class_could_use_every_cpu() -> None:
    node = Node({"CPU": 1})
    node.submit(node.template("f", average=1e-6), *(f"t{i}" for i in range(300)))
    sent = [line.split()[0] for line in node.turn()]
    node.submit(node.template("Actor", kind="actor"), "actor")
    for name in sent:
        node.turn()
        node.done(name, 1e-6)
    node.turn()
    assert [task.id for task in node.placed] == [b"actor"]


def test_gpus_are_given_by_number_and_fractions_share_one() -> None:
    node = Node({"CPU": 8, "GPU": 3})
    node.submit(node.template("half", {"GPU": 0.5}), "h0", "h1")
    node.turn()
    node.submit(node.template("two", {"GPU": 2}), "two", "later")
    node.turn()
    gpus = {name: task.gpus for name, task in node.tasks.items()}
    assert gpus == {"h0": [0], "h1": [0], "two": [1, 2], "later": None}
    node.done("h0")
    node.done("two")
    node.turn()
    assert node.tasks["later"].gpus == [1, 2]
    node.done("h1")
    node.done("later")
    node.turn()
    assert node.scheduler.gpu_free == [RESOURCE_UNITS] * 3


def test_no_more_forks_than_can_run_or_than_the_bound() -> None:
    node = Node({"CPU": 3})
    node.submit(node.template("f"), *(f"t{i}" for i in range(1_000)))
    node.turn(up=False)
    assert len(node.starting) == 3
    node.turn(up=False)
    assert len(node.starting) == 3
    node.submit(node.template("free", {}), *(f"z{i}" for i in range(1_000)))
    node.turn(up=False)
    assert len(node.starting) == MAX_WORKER_STARTS


def test_a_worker_that_dies_before_its_hello_is_started_again() -> None:
    node = Node({"CPU": 1})
    node.submit(node.template("f"), "a")
    node.turn(up=False)
    dead = node.starting.pop()
    node.scheduler.lost(dead)
    assert node.scheduler.remove_worker(dead) == []
    assert node.turn() == ["a to w2"]


def test_the_longest_idle_workers_beyond_the_cpus_may_end() -> None:
    node = Node({"CPU": 3})
    node.submit(node.template("f"), "a", "b", "c")
    node.turn()
    for name in ("b", "a", "c"):
        node.now += 1.0
        node.done(name)
        node.turn()
    surplus = node.scheduler.idle_beyond(1, node.now, 1.0)
    assert surplus == [node.worker_of("b"), node.worker_of("a")]
    assert node.scheduler.idle_beyond(1, node.now, 1.5) == [node.worker_of("b")]


def test_the_end_of_a_job_leaves_no_queue_behind() -> None:
    node = Node({"CPU": 1})
    node.submit(node.template("f"), "a", "b", "c")
    node.submit(node.template("Actor", {"CPU": 2}, kind="actor"), "actor")
    node.turn()
    dropped = {task.id for task in node.scheduler.end_job(JOB)}
    assert dropped == {b"b", b"c", b"actor"}
    assert node.scheduler.queued() == 0
    worker = node.worker_of("a")
    node.scheduler.lost(worker)
    node.scheduler.remove_worker(worker)
    assert node.turn() == []
    assert node.scheduler.available == node.scheduler.total


class AnyEvents(RuleBasedStateMachine):
    """Submit, finish, block, hand back, die, in any order: nothing is lost, nobody idles."""

    KINDS = (
        ("plain", {"CPU": 1.0}, {}),
        ("short", {"CPU": 1.0}, {"average": 1e-5}),
        ("once", {"CPU": 1.0}, {"max_retries": 0}),
        ("half", {"CPU": 0.5}, {}),
        ("wide", {"CPU": 2.0}, {}),
        ("free", {}, {}),
        ("gpu", {"CPU": 1.0, "GPU": 0.5}, {}),
        ("huge", {"CPU": 99.0}, {}),
        ("threads", {"CPU": 1.0}, {"threads": 4}),
    )

    def __init__(self) -> None:
        super().__init__()
        self.node = Node({"CPU": 3, "GPU": 1})
        self.count = 0
        self.dying: list[Worker] = []

    def _workers(self, *states: WorkerState) -> list[Worker]:
        return [w for w in self.node.scheduler.workers.values() if w.state in states]

    def _turn(self) -> None:
        self.node.now += 0.05
        self.node.turn(up=False)
        self._nobody_idles()

    def _nobody_idles(self) -> None:
        """Only what is owed to a class that has waited too long may lie idle."""
        scheduler = self.node.scheduler
        late = self.node.now - RESOURCE_PATIENCE_S
        if any(0 < queue.waiting_since < late for queue in scheduler.ready):
            return
        for queue in scheduler.ready:
            assert not (queue.pool.idle and scheduler.fits(queue.demand))
            if scheduler.fits(queue.demand):
                assert queue.pool.starting

    @rule(kind=st.sampled_from(KINDS), count=st.integers(1, 8), depth=st.integers(0, 2))
    def submit(self, kind: Any, count: int, depth: int) -> None:
        name, demand, options = kind
        template = self.node.template(name, demand, **dict(options))
        names = [f"{name}{self.count + i}" for i in range(count)]
        self.count += count
        self.node.submit(template, *names, depth=depth)
        self._turn()

    @precondition(lambda self: self.node.starting)
    @rule()
    def worker_comes_up(self) -> None:
        self.node.scheduler.worker_ready(self.node.starting.pop(0), self.node.now)
        self._turn()

    @rule(data=st.data(), seconds=st.sampled_from([1e-5, 1e-3, 0.5]))
    def finish(self, data: st.DataObject, seconds: float) -> None:
        busy = [w for w in self._workers(WorkerState.LEASED) if w.tasks]
        if busy:
            worker = data.draw(st.sampled_from(busy))
            self.node.done(next(iter(worker.tasks)).decode(), seconds)
            self._turn()

    @rule(data=st.data())
    def block(self, data: st.DataObject) -> None:
        leased = self._workers(WorkerState.LEASED)
        if leased:
            worker = data.draw(st.sampled_from(leased))
            self.node.scheduler.handed_back(worker, list(worker.tasks)[1:])
            self.node.scheduler.blocked(worker)
            self._turn()
            assert len(worker.tasks) == 1

    @rule(data=st.data())
    def unblock(self, data: st.DataObject) -> None:
        blocked = self._workers(WorkerState.BLOCKED)
        if blocked:
            self.node.scheduler.unblocked(data.draw(st.sampled_from(blocked)))
            self._turn()

    @rule(data=st.data())
    def hand_back(self, data: st.DataObject) -> None:
        leased = self._workers(WorkerState.LEASED)
        if leased:
            worker = data.draw(st.sampled_from(leased))
            self.node.scheduler.handed_back(worker, list(worker.tasks)[1:])
            self._turn()

    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        alive = self._workers(WorkerState.IDLE, WorkerState.LEASED, WorkerState.BLOCKED)
        if alive:
            worker = data.draw(st.sampled_from(alive))
            self.node.scheduler.lost(worker)
            self.dying.append(worker)
            before = list(worker.tasks)
            self._turn()
            assert list(worker.tasks) == before

    @precondition(lambda self: self.dying)
    @rule()
    def bury(self) -> None:
        for task in self.node.scheduler.remove_worker(self.dying.pop()):
            task.attempt += 1
            self.node.scheduler.requeue(task)
        self._turn()

    @invariant()
    def every_task_is_in_one_place(self) -> None:
        scheduler = self.node.scheduler
        queued = [task for queue in scheduler.ready for task in queue]
        sent = [task for worker in scheduler.workers.values() for task in worker.tasks.values()]
        unfinished = [t for t in self.node.tasks.values() if t.state is not TaskState.FINISHED]
        assert sorted(t.id for t in queued + sent) == sorted(t.id for t in unfinished)

    def teardown(self) -> None:
        """Whatever happened: if all goes well from now on, all that is feasible gets done."""
        node, scheduler = self.node, self.node.scheduler
        while self.dying:
            self.bury()
        for _ in range(1_000):
            for worker in self._workers(WorkerState.BLOCKED):
                scheduler.unblocked(worker)
            for worker in self._workers(WorkerState.LEASED):
                node.done(next(iter(worker.tasks)).decode(), 0.001)
            node.now += 0.1
            node.turn()
            if not self._workers(WorkerState.LEASED):
                break
        left = {t.template.spec.name for t in node.tasks.values() if t.state is TaskState.READY}
        assert left <= {"huge"}
        assert scheduler.available == scheduler.total


AnyEvents.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAnyEvents = AnyEvents.TestCase
