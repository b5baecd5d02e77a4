"""The processes of a node: a driver, and workers that run tasks and may submit some themselves.

A *leaf* takes its time and returns nothing. A *part* submits as many leaves as its arguments say,
waits for them all and returns. Processes talk to their daemon as the real ones do: what is
submitted goes out in frames of ``FLUSH_CALLS``, a task that waits lends its CPU out. Where the node
offers lanes, what may ride there does (lanes.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from sim.scale.costs import Costs
from sim.scale.lanes import Callee, Caller
from sim.scale.leaves import Leaves
from sim.scale.world import Thread, World
from skate import messages as m
from skate.config import (
    FLUSH_CALLS,
    FLUSH_DELAY_S,
    LANE_TICK_S,
    LINE_IDLE_S,
    PROTOCOL_VERSION,
    PYTHON,
)
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
    offers_lanes: bool

    def connect(self, client: Program) -> None:
        """It has a line to the node's daemon."""

    def from_client(self, client: Program, batch: list[Any] | None, at: float) -> None:
        """It says something (None: its last word has been said)."""

    def worker_exited(self, client: WorkerProcess) -> None:
        """It has ended."""

    def new_pid(self) -> int:
        """For the next process."""

    def callee(self, worker_id: bytes) -> Callee | None:
        """The end of lanes at this worker."""


class Program:
    """A process with a line to its node's daemon."""

    def __init__(self, node: Host, peer: Client) -> None:
        self.node = node
        self.peer = peer
        self.thread = Thread(node.world)

    def receive(self, batch: list[Any]) -> None:
        """From the daemon."""
        raise NotImplementedError

    def send(self, batch: list[Any] | None, at: float) -> None:
        """To the daemon; None: it has ended."""
        self.node.from_client(self, batch, at)


class Submitter(Program):
    """A process that submits tasks and waits for all of them."""

    has_courier = False  # that reads while nobody waits: a driver's does

    def __init__(self, node: Host, peer: Client) -> None:
        super().__init__(node, peer)
        self.ids: TaskIdCounter
        self.lanes: Caller | None = None
        self._left: list[tuple[int, bytes, int]] = []  # template, arguments, how many
        self._depth = 0
        self._awaited = 0
        self._mine: list[bytes] = []
        self._then: Callable[[], None] | None = None
        self._is_submitting = False
        self._is_due = False
        self._looked_at = 0.0

    @property
    def rode(self) -> int:
        """Tasks that it has sent by lanes."""
        return self.lanes.rode if self.lanes is not None else 0

    def open_for_lanes(self, submitter: bytes) -> None:
        """It has an id, so it may call."""
        node = self.node
        if node.offers_lanes:
            self.lanes = Caller(
                node.world, node.costs, self.thread, submitter, node.callee, self._wake
            )

    def register(self, templates: list[CallTemplate], at: float) -> None:
        """Introduce what it is going to submit."""
        self.send([FUNCTION, *(m.RegisterTemplate(i, t) for i, t in enumerate(templates))], at)
        if self.lanes is not None:
            for template in templates:
                self.lanes.register(template, FUNCTION)

    def submit(
        self, what: list[tuple[int, bytes, int]], depth: int, then: Callable[[], None]
    ) -> None:
        """So many tasks of these templates; ``then``, when all have returned."""
        self._left = what[::-1]
        self._depth = depth
        self._awaited = sum(count for _, _, count in what)
        self._mine = []
        self._then = then
        self._is_submitting = True
        self._looked_at = self.node.world.now
        self._submit_some()

    def _submit_some(self) -> None:
        frame: list[Any] = []
        for _ in range(FLUSH_CALLS):
            if not self._left:
                break
            template, arguments, count = self._left.pop()
            if count > 1:
                self._left.append((template, arguments, count - 1))
            self._submit_one(template, arguments, frame)
        world, lanes = self.node.world, self.lanes
        if self._left:
            if lanes is not None and self._is_time_to_look(lanes):
                self._looked_at = world.now
                self._awaited -= lanes.read()
            world.at(self.thread.spend(0.0), self._submit_some)
        else:
            self._is_submitting = False
            if lanes is not None:
                lanes.flush()
                self._wake()
        if lanes is not None:
            lanes.book.take(frame)
        if not self._left:
            frame += self.before_waiting()
        if frame:
            self.send(frame, self.thread.spend(0.0))

    def _is_time_to_look(self, lanes: Caller) -> bool:
        # Who finds no room looks; a driver has a courier, too, that reads while nobody waits.
        if lanes.overflow >= FLUSH_CALLS:
            lanes.overflow = 0
            return True
        waited_s = self.node.world.now - self._looked_at
        return self.has_courier and waited_s >= LANE_TICK_S and lanes.is_calling

    def _submit_one(self, template: int, arguments: bytes, frame: list[Any]) -> None:
        task_id = self.ids.next_task()
        self._mine.append(task_id + FIRST_RETURN)
        costs, thread, depth = self.node.costs, self.thread, self._depth
        if self.lanes is not None:
            at = thread.spend(0.0)
            if self.lanes.ride(task_id, template, arguments, depth, at):
                thread.spend(costs.lane_submit_s)
                return
        thread.spend(costs.submitter_s)
        frame.append(m.Submit(task_id, template, arguments, depth=depth))

    def before_waiting(self) -> list[Any]:
        """What is said when all is submitted."""
        return []

    def receive(self, batch: list[Any]) -> None:
        """Results are counted."""
        lanes = self.lanes
        for message in batch:
            kind = type(message)
            if kind is m.Ready:
                self._awaited -= 1
                if lanes is not None:
                    lanes.book.ready_from_node(message.object_id)
            elif kind is m.LaneOpen:
                assert lanes is not None
                lanes.opened(message)
            else:
                self.on_message(message)
        self._end_if_all_returned()

    def _wake(self) -> None:
        # Something has come by a lane.
        if not self._is_submitting and not self._is_due:
            self._is_due = True
            self.node.world.at(self.thread.spend(0.0), self._look)

    def _look(self) -> None:
        self._is_due = False
        if self._is_submitting or self.lanes is None:
            return
        words: list[Any] = []
        self._awaited -= self.lanes.read()
        self.lanes.book.take(words)
        if words:
            self.send(words, self.thread.spend(0.0))
        self._end_if_all_returned()

    def _end_if_all_returned(self) -> None:
        if self._then is not None and not self._awaited and not self._left:
            then, self._then = self._then, None
            at = self.thread.spend(0.0)
            mine, self._mine = self._mine, []
            told = mine if self.lanes is None else self.lanes.gone(mine)
            if told:
                self.send([m.Release(told)], at)
            self.node.world.at(at, then)

    def on_message(self, message: Any) -> None:
        """Everything but results."""


class Driver(Submitter):
    """The program that began it all; ``then`` is called once it is connected."""

    has_courier = True

    def __init__(self, node: Host, templates: list[CallTemplate], then: Callable[[], None]) -> None:
        super().__init__(node, Client())
        self._templates = templates
        self._connected = then
        node.connect(self)
        hello = m.Hello(
            PROTOCOL_VERSION, PYTHON, "driver", 1, b"", JobConfig("scale"), lanes=node.offers_lanes
        )
        self.send([hello], node.world.now)

    def on_message(self, message: Any) -> None:
        """Welcome."""
        if isinstance(message, m.Welcome):
            self.ids = TaskIdCounter(message.job_id, message.submitter)
            self.open_for_lanes(message.submitter)
            self.register(self._templates, self.node.world.now)
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
        self._behind = 0  # tasks of the same frame that have not begun
        self._done: list[m.Done] = []  # not sent yet
        self._send_by = 0.0
        self._sent_at = 0.0
        self.open_for_lanes(setup.submitter)
        self.callee = Callee(node.world, node.costs, node.leaves, self.thread, NOTHING, self.send)
        hello = m.Hello(
            PROTOCOL_VERSION, PYTHON, "worker", node.new_pid(), setup.submitter,
            lanes=node.offers_lanes,
        )  # fmt: skip
        self.send([hello], ready_at)

    @property
    def submits(self) -> bool:
        """Whether it has run a part."""
        return self._knows_leaf

    def receive(self, batch: list[Any]) -> None:
        """From the daemon."""
        self._behind = sum(type(message) is m.Run for message in batch)
        super().receive(batch)

    def on_message(self, message: Any) -> None:
        """Run this."""
        kind = type(message)
        if kind is m.Run:
            self._behind -= 1
            if message.template in self._parts:
                self._begin_part(message)
            else:
                self._run_leaf(message)
        elif kind is m.RegisterTemplate:
            if message.template.name == PART:
                self._parts.add(message.number)
        elif kind is m.LaneExpected or kind is m.LaneRevoke:
            self.callee.hear(message)
        elif kind is m.Exit:
            at = self.thread.spend(0.0)
            self.send(None, at)
            self.node.world.at(at, self.node.worker_exited, self)

    def _run_leaf(self, run: m.Run) -> None:
        # One event a task: when it will be over is certain as soon as it is known to the worker.
        node = self.node
        began = self.thread.spend(0.0)
        ended = self.thread.spend(node.leaves.task_s)
        node.leaves.ended(ended)
        done = m.Done(run.task_id, run.attempt, began, ended, NOTHING)
        self._answer(done, self.thread.spend(node.costs.worker_s))

    def _answer(self, done: m.Done, at: float) -> None:
        # As the connection does: at once if nothing is behind it or the line was idle, else soon.
        if self._done and at > self._send_by:
            self._send_done(self._send_by)
        self._done.append(done)
        count = len(self._done)
        is_idle = count == 1 and at - self._sent_at > LINE_IDLE_S
        if not self._behind or is_idle or count >= FLUSH_CALLS:
            self._send_done(at)
        elif count == 1:
            self._send_by = at + FLUSH_DELAY_S

    def _send_done(self, at: float) -> None:
        batch, self._done = self._done, []
        self._sent_at = at
        self.send(batch, at)

    def _begin_part(self, run: m.Run) -> None:
        node = self.node
        began = self.thread.spend(0.0)
        if self._done:
            self._send_done(began)
        if not self._knows_leaf:
            self._knows_leaf = True
            self.register([LEAF], began)

        def over() -> None:
            now = node.world.now
            done = m.Done(run.task_id, run.attempt, began, now, NOTHING)
            self.send([m.Unblocked(), done], now)

        count = int.from_bytes(run.arguments, "big")
        self.submit([(0, NOTHING, count)], run.depth + 1, over)

    def before_waiting(self) -> list[Any]:
        """It is going to wait: its CPU is free for others."""
        return [m.Blocked()]
