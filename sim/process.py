"""What a simulated driver and a simulated worker have in common: one connection, and programs.

A process keeps the protocol as the real ones do. The real ReferenceCounter counts its refs, and the
real ValueTable knows what has come of them. A process runs programs: generators that yield whenever
they have to wait, with a tuple that says for what. Each flush sends, in this order: holds of refs
newly found, the messages in between, unpins, releases.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sim.lanes import CallerEnd
from sim.node import SimulatedNode
from sim.roles import Program
from sim.wires import Line
from skate import messages as m
from skate.client.value_table import ValueTable
from skate.config import FLUSH_CALLS, FLUSH_DELAY_S, LINE_IDLE_S
from skate.ids import TaskIdCounter
from skate.objects.reference_counter import ReferenceCounter
from skate.rows import Client
from skate.spec import CallTemplate

JOURNAL_FLUSH_S = 0.1  # a process that says nothing else sends its releases this often


class Running:
    """A program under way in a process, and what it waits for.

    One of ("sleep", seconds), ("extent", object id), ("answer", number of the question) and
    ("ready", Wait, time-out in seconds or None).
    """

    def __init__(self, now: float) -> None:
        self.program: Program
        self.waits_for: Any = None
        self.blocked = False
        self.began = now


class Process:
    """One connection, and all that runs behind it."""

    def __init__(self, node: SimulatedNode, peer: Client, name: str) -> None:
        simulator = node.simulator
        self.node = node
        self.simulator = simulator
        self.peer = peer
        self.name = name
        self.dead = False
        self.counter = ReferenceCounter()
        self.ids: TaskIdCounter
        self.values = ValueTable(self.counter.counts, self.post)
        self.sequences: dict[bytes, int] = {}
        self.lanes = CallerEnd(simulator, self, self.counter, self.values, node.listeners)
        self.fibers: dict[Running, None] = {}
        self.inbound = Line(simulator, self._arrive)
        self.outbound = Line(simulator, lambda item: node.from_client(peer, item))
        self._outbox: list[Any] = []
        self._last_flush = 0.0
        self._flush_due = False
        self._journal_due = False
        self._numbers: dict[CallTemplate, int] = {}
        self._functions: set[bytes] = set()
        self._views: dict[bytes, tuple[int, int]] = {}  # mapped: offset, count of views
        self._unpin: list[bytes] = []
        self._asked = 0

    # ------------------------------------------------------------------ writing

    def post(self, message: Any) -> None:
        """Queue a message; it leaves at once, with 64 others, or within a millisecond."""
        self._take_lanes()
        had = len(self._outbox)
        self._outbox.append(message)
        self._flush_in_time(had)

    def say(self) -> None:
        """What is said of lanes is queued likewise."""
        had = len(self._outbox)
        self._take_lanes()
        if len(self._outbox) > had:
            self._flush_in_time(had)

    def _take_lanes(self) -> None:
        self.lanes.take(self._outbox)

    def _flush_in_time(self, had: int) -> None:
        if len(self._outbox) >= FLUSH_CALLS:
            self.flush()
        elif not had:
            if self.simulator.now - self._last_flush > LINE_IDLE_S:
                self.flush()
            elif not self._flush_due:
                self._flush_due = True
                self.simulator.at(FLUSH_DELAY_S, self._timed_flush)

    def _timed_flush(self) -> None:
        self._flush_due = False
        self.flush()

    def flush(self) -> None:
        """Send all that there is to say."""
        if self.dead:
            return
        self._take_lanes()
        new, gone = self.counter.drain()
        released = gone
        if self.lanes.book is not None:
            new, released = self.lanes.book.back(new), self.lanes.book.gone(gone)
        batch: list[Any] = [m.Hold(new)] if new else []
        batch += self._outbox
        self._outbox.clear()
        if self._unpin:
            batch.append(m.Unpin(self._unpin))
            self._unpin = []
        if released:
            batch.append(m.Release(released))
        if gone:
            self.values.drop(gone)
        self._last_flush = self.simulator.now
        if batch:
            self.outbound.send(m.decode_to_node(m.encode(batch)))

    def template(self, spec: CallTemplate) -> int:
        """This connection's number for a template."""
        number = self._numbers.get(spec)
        if number is None:
            function = m.RegisterFunction(spec.function_id, b"code", spec.name)
            if spec.function_id and spec.function_id not in self._functions:
                self._functions.add(spec.function_id)
                self.post(function)
            number = self._numbers[spec] = len(self._numbers)
            self.post(m.RegisterTemplate(number, spec))
            self.lanes.register(spec, function if spec.function_id else None)
        return number

    def ask(self, method: str, body: dict[str, Any]) -> int:
        """Ask the node (or the GCS); the number of the answer to come."""
        self._asked += 1
        self.post(m.Ask(self._asked, method, body))
        self.flush()
        return self._asked

    # ------------------------------------------------------------------ refs and views

    def born(self, object_id: bytes) -> None:
        """One more ref, out of a pickle."""
        self.counter.journal.append((object_id,))
        self._journal_soon()

    def died(self, object_id: bytes) -> None:
        """One ref less."""
        self.counter.journal.append(object_id)
        self._journal_soon()

    def _journal_soon(self) -> None:
        if not self._journal_due:
            self._journal_due = True
            self.simulator.at(JOURNAL_FLUSH_S, self._journal_flush)

    def _journal_flush(self) -> None:
        self._journal_due = False
        self.flush()

    def map(self, object_id: bytes, offset: int, size: int) -> None:
        """One more view of a span; the first one maps it."""
        _, count = self._views.get(object_id, (offset, 0))
        if not count:
            self.node.memory.map(self, object_id, offset, size)
            self.post(m.Pin([object_id]))
        self._views[object_id] = (offset, count + 1)

    def unmap(self, object_id: bytes) -> None:
        """One view less; the last one unmaps."""
        offset, count = self._views.pop(object_id)
        if count > 1:
            self._views[object_id] = (offset, count - 1)
        else:
            self.node.memory.unmap(self, offset)
            self._unpin.append(object_id)
            self._journal_soon()

    # ------------------------------------------------------------------ reading

    def _arrive(self, batch: list[Any] | None) -> None:
        if self.dead:
            return
        if batch is None:
            self.die(0)
            return
        for message in batch:
            if isinstance(message, m.Ready):
                self.lanes.ready(message)
                self.values.on_ready(message)
            elif isinstance(message, m.Revoke):
                self.values.on_revoke(message)
            else:
                self.on_message(message)
        self.look_around()

    def look_around(self) -> None:
        """Something has come: go on with what waited for it."""
        self.values.check()
        for fiber in list(self.fibers):
            self._look(fiber)
        self.after_batch()

    def on_message(self, message: Any) -> None:
        """Everything but values."""
        if isinstance(message, m.LaneOpen):
            self.lanes.open(message)
            return
        if isinstance(message, m.Extent):
            for fiber in list(self.fibers):
                if fiber.waits_for == ("extent", message.object_id):
                    self.go_on(fiber, message)
                    return
            raise AssertionError(f"an extent that nobody waits for: {message.object_id.hex()}")
        if isinstance(message, m.Answer):
            for fiber in list(self.fibers):
                if fiber.waits_for == ("answer", message.number):
                    self.go_on(fiber, message)
                    return
            raise AssertionError(f"an answer that nobody waits for: {message}")
        assert not isinstance(message, m.Refused), message

    def after_batch(self) -> None:
        """What a worker does with new runs."""

    # ------------------------------------------------------------------ fibers

    def start(self, fiber: Running, program: Program) -> None:
        """Run a program until it waits."""
        fiber.program = program
        self.fibers[fiber] = None
        self.go_on(fiber, None)

    def go_on(self, fiber: Running, value: Any) -> None:
        """Resume a program with what it waited for."""
        simulator = self.simulator
        while not self.dead:
            fiber.waits_for = None
            try:
                wait = fiber.program.send(value)
            except StopIteration as stop:
                if fiber in self.fibers:
                    del self.fibers[fiber]
                    self.finished(fiber, stop.value)
                return
            fiber.waits_for = wait
            if wait[0] == "sleep":
                simulator.at(wait[1], self._slept, fiber, wait)
                return
            if wait[0] in ("extent", "answer"):
                return
            _, ready, timeout_s = wait
            if ready.is_over():
                value = True
                continue
            self._want(ready.unheard_of())
            if timeout_s is not None:
                simulator.at(timeout_s, self._timed_out, fiber, wait)
            self.block(fiber)
            self.flush()
            return

    def _slept(self, fiber: Running, wait: Any) -> None:
        if not self.dead and fiber.waits_for is wait:
            self.go_on(fiber, None)

    def _timed_out(self, fiber: Running, wait: Any) -> None:
        if not self.dead and fiber.waits_for is wait:
            self.unblock(fiber)
            self.go_on(fiber, False)

    def _look(self, fiber: Running) -> None:
        wait = fiber.waits_for
        if wait is not None and wait[0] == "ready" and wait[1].is_over():
            self.unblock(fiber)
            self.go_on(fiber, True)

    def _want(self, object_ids: Sequence[bytes]) -> None:
        missing = self.values.missing(object_ids)
        if missing:
            self.flush()  # the holds of refs just found come first
            self.values.asked(missing)
            self.post(m.Want(missing))

    def block(self, fiber: Running) -> None:
        """It is going to wait."""

    def unblock(self, fiber: Running) -> None:
        """It goes on."""

    def finished(self, fiber: Running, result: Any) -> None:
        """A program is over."""

    # ------------------------------------------------------------------ the end

    def die(self, status: int) -> None:
        """The process ends, now and at any place."""
        if self.dead:
            return
        self.simulator.tell(self.name, "ends with", status)
        self.vanish()
        self.outbound.send(None)
        self.lanes.died()

    def check_lanes_idle(self) -> None:
        """It holds nothing, so nothing is under way on its lanes."""
        self.lanes.check_idle()

    def vanish(self) -> None:
        """It is gone, and nobody is told."""
        if not self.dead:
            self.dead = True
            self.fibers.clear()
            self.node.memory.died(self)
            self.simulator.ledger.process_died()
