"""The processes of a node: a driver, and workers that run tasks and may submit some themselves.

A *leaf* takes its time and returns nothing. A *part* submits as many leaves as its arguments say,
waits for them all and returns. Processes talk to their daemon as the real ones do: what is
submitted goes out in frames of ``FLUSH_CALLS``, a task that waits lends its CPU out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from sim.scale.costs import Costs
from sim.scale.leaves import Leaves
from sim.scale.world import World
from skate import messages as m
from skate.config import FLUSH_CALLS, PROTOCOL_VERSION, PYTHON
from skate.ids import FIRST_RETURN, TaskIdCounter
from skate.rows import Client, Worker
from skate.spec import FORMAT_MSGPACK, CallTemplate, JobConfig, Strategy

CPU = (("CPU", 10_000),)
FUNCTION = m.RegisterFunction(b"f" * 16, b"", "leaf")
LEAF = CallTemplate("task", FUNCTION.function_id, "leaf", CPU, max_retries=3)
PART = "part"
NOTHING = FORMAT_MSGPACK + b"\xc0"


def leaf_on(node_id: bytes) -> CallTemplate:
    """A leaf that is bound to this node."""
    return CallTemplate(
        "task", FUNCTION.function_id, "leaf", CPU, max_retries=3, strategy=_bound_to(node_id)
    )


def part_on(node_id: bytes) -> CallTemplate:
    """A part that is bound to this node."""
    return CallTemplate(
        "task", FUNCTION.function_id, PART, CPU, max_retries=3, strategy=_bound_to(node_id)
    )


def _bound_to(node_id: bytes) -> Strategy:
    return Strategy("NODE", node_id)


class Host(Protocol):
    """What a process asks of the machine that it runs on."""

    world: World
    costs: Costs
    leaves: Leaves

    def connect(self, client: Program) -> None:
        """It has a line to the node's daemon."""

    def from_client(self, client: Program, batch: list[Any] | None, at: float) -> None:
        """It says something (None: its last word has been said)."""

    def worker_exited(self, client: WorkerProcess) -> None:
        """It has ended."""

    def new_pid(self) -> int:
        """For the next process."""


class Program:
    """A process with a line to its node's daemon."""

    def __init__(self, node: Host, peer: Client) -> None:
        self.node = node
        self.peer = peer

    def receive(self, batch: list[Any]) -> None:
        """From the daemon."""
        raise NotImplementedError

    def send(self, batch: list[Any] | None, at: float) -> None:
        """To the daemon; None: it has ended."""
        self.node.from_client(self, batch, at)


class Submitter(Program):
    """A process that submits tasks and waits for all of them."""

    def __init__(self, node: Host, peer: Client) -> None:
        super().__init__(node, peer)
        self.ids: TaskIdCounter
        self._left: list[tuple[int, bytes, int]] = []  # template, arguments, how many
        self._depth = 0
        self._awaited = 0
        self._mine: list[bytes] = []
        self._then: Callable[[], None] | None = None

    def submit(
        self, what: list[tuple[int, bytes, int]], depth: int, then: Callable[[], None]
    ) -> None:
        """So many tasks of these templates; ``then``, when all have returned."""
        self._left = what[::-1]
        self._depth = depth
        self._awaited = sum(count for _, _, count in what)
        self._mine = []
        self._then = then
        self._submit_some()

    def _submit_some(self) -> None:
        frame: list[Any] = []
        while self._left and len(frame) < FLUSH_CALLS:
            template, arguments, count = self._left.pop()
            some = min(count, FLUSH_CALLS - len(frame))
            for _ in range(some):
                task_id = self.ids.next_task()
                self._mine.append(task_id + FIRST_RETURN)
                frame.append(m.Submit(task_id, template, arguments, depth=self._depth))
            if count > some:
                self._left.append((template, arguments, count - some))
        world = self.node.world
        done_at = world.now + len(frame) * self.node.costs.submitter_s
        if self._left:
            world.at(done_at, self._submit_some)
        else:
            frame += self.before_waiting()
        self.send(frame, done_at)

    def before_waiting(self) -> list[Any]:
        """What is said when all is submitted."""
        return []

    def receive(self, batch: list[Any]) -> None:
        """Results are counted."""
        for message in batch:
            if type(message) is m.Ready:
                self._awaited -= 1
            else:
                self.on_message(message)
        if self._then is not None and not self._awaited and not self._left:
            then, self._then = self._then, None
            self.send([m.Release(self._mine)], self.node.world.now)
            self._mine = []
            then()

    def on_message(self, message: Any) -> None:
        """Everything but results."""


class Driver(Submitter):
    """The program that began it all; ``then`` is called once it is connected."""

    def __init__(self, node: Host, templates: list[CallTemplate], then: Callable[[], None]) -> None:
        super().__init__(node, Client())
        self._templates = templates
        self._connected = then
        node.connect(self)
        hello = m.Hello(PROTOCOL_VERSION, PYTHON, "driver", 1, b"", JobConfig("scale"))
        self.send([hello], node.world.now)

    def on_message(self, message: Any) -> None:
        """Welcome."""
        if isinstance(message, m.Welcome):
            self.ids = TaskIdCounter(message.job_id, message.submitter)
            templates = [m.RegisterTemplate(i, spec) for i, spec in enumerate(self._templates)]
            self.send([FUNCTION, *templates], self.node.world.now)
            self._connected()


class WorkerProcess(Submitter):
    """Runs one task after the other."""

    def __init__(
        self, node: Host, peer: Client, worker: Worker, setup: m.WorkerSetup, ready_at: float
    ) -> None:
        super().__init__(node, peer)
        self.worker = worker
        self.ids = TaskIdCounter(setup.job_id, setup.submitter)
        self._parts: set[int] = set()  # templates that are
        self._knows_leaf = False
        self._free_at = 0.0
        hello = m.Hello(PROTOCOL_VERSION, PYTHON, "worker", node.new_pid(), setup.submitter)
        self.send([hello], ready_at)

    def on_message(self, message: Any) -> None:
        """Run this."""
        kind = type(message)
        if kind is m.Run:
            if message.template in self._parts:
                self._begin_part(message)
            else:
                self._run_leaf(message)
        elif kind is m.RegisterTemplate:
            if message.template.name == PART:
                self._parts.add(message.number)
        elif kind is m.Exit:
            at = max(self.node.world.now, self._free_at)
            self.send(None, at)
            self.node.world.at(at, self.node.worker_exited, self)

    def _run_leaf(self, run: m.Run) -> None:
        # One event a task: when it will be over is certain as soon as it is known to the worker.
        node = self.node
        began = max(node.world.now, self._free_at)
        ended = began + node.leaves.task_s
        self._free_at = ended + node.costs.worker_s
        node.leaves.ended(ended)
        self.send([m.Done(run.task_id, run.attempt, began, ended, NOTHING)], self._free_at)

    def _begin_part(self, run: m.Run) -> None:
        node = self.node
        began = max(node.world.now, self._free_at)
        if not self._knows_leaf:
            self._knows_leaf = True
            self.send([FUNCTION, m.RegisterTemplate(0, LEAF)], began)

        def over() -> None:
            now = node.world.now
            done = m.Done(run.task_id, run.attempt, began, now, NOTHING)
            self.send([m.Unblocked(), done], now)

        count = int.from_bytes(run.arguments, "big")
        self.submit([(0, NOTHING, count)], run.depth + 1, over)

    def before_waiting(self) -> list[Any]:
        """It is going to wait: its CPU is free for others."""
        return [m.Blocked()]
