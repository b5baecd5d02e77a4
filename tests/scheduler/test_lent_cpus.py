"""The CPUs that workers lend while they wait for space in a full object store."""

from __future__ import annotations

from skate.config import RESOURCE_UNITS
from skate.rows import Pool, Task, Template, Worker
from skate.scheduler.local_scheduler import LocalScheduler
from skate.spec import CallTemplate, demand_of

JOB = b"job1"


class Node:
    """A scheduler of 2 CPUs (and whatever else), each of them taken by a short producer."""

    def __init__(self, **others: float) -> None:
        self.log: list[str] = []
        self.asked = 0
        self.scheduler = LocalScheduler(
            dict(demand_of({"CPU": 2, **others})), self._send, self._start, lambda task: None
        )
        self.template = self._template(CPU=1)
        self.add_workers(2)
        self.submit("p1", "p2")
        self.scheduler.dispatch(0.0)
        assert self.take_log() == ["p1 to w2", "p2 to w1"]

    def _send(self, worker: Worker, task: Task) -> None:
        self.log.append(f"{task.id.decode()} to {worker.id.decode()}")

    def _start(self, pool: Pool) -> None:
        self.asked += 1

    def _template(self, **demand: float) -> Template:
        spec = CallTemplate("task", b"", "f", demand_of(demand), max_retries=3)
        template = Template(0, JOB, spec, self.scheduler.class_of(JOB, spec))
        template.average_s = 0.1  # too long for a second one to be sent ahead
        return template

    def add_workers(self, count: int) -> None:
        for _ in range(count):
            worker = Worker(
                b"w%d" % (len(self.scheduler.workers) + 1), self.template.queue.pool, 0.0
            )
            self.scheduler.add_worker(worker)
            self.scheduler.worker_ready(worker, 0.0)

    def submit(self, *names: str, depth: int = 0, template: Template | None = None) -> None:
        for name in names:
            task = Task(name.encode(), template or self.template, b"", None, None, None, depth, 0.0)
            self.scheduler.enqueue(task, 0.0)

    def lend(self, cpus: float) -> list[str]:
        """A turn while workers with so many CPUs wait; consumers are named c. What was sent."""
        self.scheduler.dispatch(0.0)
        self.scheduler.dispatch_lent(
            round(cpus * RESOURCE_UNITS), lambda task: task.id.startswith(b"c"), 0.0
        )
        return self.take_log()

    def take_log(self) -> list[str]:
        log, self.log = self.log, []
        return log


def test_consumers_run_on_lent_cpus_and_producers_do_not() -> None:
    node = Node()
    node.add_workers(4)
    node.submit("p3", "p4", "c1", "p5", "c2", "c3")
    assert node.lend(2) == ["c1 to w6", "c2 to w5"]
    assert node.lend(2) == []  # both lent CPUs are in use


def test_nested_tasks_run_too_since_a_consumer_may_wait_for_them() -> None:
    node = Node()
    node.add_workers(4)
    node.submit("p3", "p4")
    node.submit("n1", depth=1)
    node.submit("c1")
    assert node.lend(2) == ["c1 to w6", "n1 to w5"]


def test_nothing_is_sent_behind_a_consumer_so_that_no_producer_waits_on_its_cpu() -> None:
    node = Node()
    node.template.average_s = 0.0001  # so short that dozens would be sent ahead
    node.add_workers(1)
    node.submit("c1")
    assert node.lend(1) == ["c1 to w3"]
    node.submit("p3")
    node.scheduler.dispatch(0.0)
    assert "p3 to w3" not in node.take_log()


def test_a_worker_is_started_for_a_consumer_one_at_a_time() -> None:
    node = Node()
    node.submit("p3", "c1", "c2")
    assert node.lend(2) == []
    assert node.asked == 1
    node.add_workers(1)
    assert node.lend(2) == ["c1 to w3"]
    assert node.asked == 2


def test_only_cpus_are_lent() -> None:
    node = Node(special=1)
    node.add_workers(4)
    special = node._template(CPU=1, special=1)
    node.submit("c1", "c2", template=special)
    assert node.lend(2) == ["c1 to w6"]


def test_when_the_cpus_come_back_all_adds_up() -> None:
    node = Node()
    node.add_workers(2)
    node.submit("c1", "c2")
    node.lend(2)
    scheduler = node.scheduler
    for worker in list(scheduler.workers.values()):
        for task_id in list(worker.tasks):
            assert scheduler.finished(worker, task_id, 0.1) is not None
    scheduler.dispatch(0.0)
    scheduler.check()
    assert scheduler.available == scheduler.total
