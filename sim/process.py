"""Simulated drivers and workers: they keep to the protocol as the real ones do.

A process has one connection, counts its refs with the real ReferenceCounter, and runs *fibers*:
generators (sim/workload.py) that yield whenever they have to wait. A task worker runs its queue one
by one, hands back what waits behind a long task or a blocked one, and batches its ``Done``s; an
actor's process runs calls in order, or all at once if it is concurrent. Each flush sends, in this
order: holds of refs newly found, the messages in between, unpins, releases.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

from sim.wires import Line
from skate import messages as m
from skate.config import (
    FLUSH_CALLS,
    FLUSH_DELAY_S,
    HAND_BACK_AFTER_S,
    LINE_IDLE_S,
    PROTOCOL_VERSION,
    PYTHON,
)
from skate.error_records import ErrorRecord, decode_error, encode_error
from skate.ids import HANDLE_INDEX, TaskIdCounter, handle_id, is_handle_id, return_id
from skate.objects.reference_counter import ReferenceCounter
from skate.rows import Client, Worker
from skate.spec import FORMAT_ERROR, FORMAT_PICKLE, ActorOptions, CallTemplate, JobConfig

if TYPE_CHECKING:
    from sim.node import SimulatedNode
    from sim.simulator import Simulator

Program = Generator[Any, Any, Any]
JOURNAL_FLUSH_S = 0.1  # a process that says nothing else sends its releases this often

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[bytes, list[bytes]]).decode


class Failed(Exception):
    """A program meets an error: its own, or that of a value it got."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class Fiber:
    """One program that runs in a process: what it holds, and the calls it can make."""

    def __init__(self, process: Process, run: m.Run | None, random: Random) -> None:
        self.process = process
        self.run = run
        self.random = random
        self.program: Program
        self.refs: list[bytes] = []
        self.handles: list[bytes] = []  # ids of actors
        self.weak: list[bytes] = []  # ids of actors that were found by name: not counted
        self.views: list[bytes] = []
        self.waits_for: Any = None
        self.came: set[bytes] = set()  # of what it waits for, since it does
        self.blocked = False
        self.began = process.simulator.now
        self.depth = run.depth if run is not None else -1

    def needs(self, object_id: bytes) -> bool:
        """Whether it waits for this value and others, to read them all at once."""
        wait = self.waits_for
        return (
            wait is not None
            and wait[0] == "values"
            and wait[2] == len(wait[1])
            and object_id in wait[1]
        )

    # ------------------------------------------------------------------ calls

    def submit(
        self,
        spec: CallTemplate,
        arguments: bytes,
        dependencies: list[bytes],
        nested: list[bytes],
    ) -> list[bytes]:
        """Submit a task; its refs."""
        process = self.process
        number = process.template(spec)
        task_id = process.ids.next_task()
        refs = self._promise(task_id, spec)
        process.post(
            m.Submit(
                task_id, number, arguments, dependencies or None, nested or None, self.depth + 1
            )
        )
        return refs

    def create_actor(
        self,
        spec: CallTemplate,
        options: ActorOptions,
        arguments: bytes,
        dependencies: list[bytes],
        nested: list[bytes],
        actor_id: bytes = b"",
    ) -> bytes:
        """Create an actor; its id, whose handle this fiber now has."""
        process = self.process
        number = process.template(spec)
        actor_id = actor_id or process.ids.next_task()
        process.counter.born_here(handle_id(actor_id))
        process.simulator.in_order[actor_id] = options.in_order
        self._gives_birth(actor_id)
        self.handles.append(actor_id)
        process.post(
            m.CreateActor(
                actor_id, number, options, arguments, dependencies or None, nested or None
            )
        )
        return actor_id

    def call(
        self,
        actor_id: bytes,
        spec: CallTemplate,
        arguments: bytes,
        dependencies: list[bytes],
        nested: list[bytes],
    ) -> list[bytes]:
        """Call a method; its refs."""
        process = self.process
        number = process.template(spec)
        task_id = process.ids.next_task()
        sequence = process.sequences.get(actor_id, 0)
        process.sequences[actor_id] = sequence + 1
        process.simulator.ledger.calls[task_id] = (process, sequence)
        refs = self._promise(task_id, spec)
        process.post(
            m.CallActor(
                task_id,
                actor_id,
                sequence,
                number,
                arguments,
                dependencies or None,
                nested or None,
                process.simulator.in_order[actor_id],
            )
        )
        return refs

    def _promise(self, task_id: bytes, spec: CallTemplate) -> list[bytes]:
        self._gives_birth(task_id)
        refs = [return_id(task_id, index) for index in range(spec.num_returns)]
        for object_id in refs:
            self.process.counter.born_here(object_id)
            self.process.promised.add(object_id)
        self.refs += refs
        return refs

    def put(self, contains: list[bytes]) -> bytes:
        """Put a small value."""
        process = self.process
        object_id = process.ids.next_put()
        self._gives_birth(object_id)
        data = payload(object_id, contains)
        process.counter.born_here(object_id)
        process.values[object_id] = m.Ready(object_id, data)
        self.refs.append(object_id)
        process.post(m.Put(object_id, data, contains or None))
        return object_id

    def put_large(self, size: int, contains: list[bytes]) -> Program:
        """Put a value into the arena; its ref."""
        process = self.process
        object_id = process.ids.next_put()
        self._gives_birth(object_id)
        offset = yield from self.write_extent(object_id, size)
        process.counter.born_here(object_id)
        process.values[object_id] = m.Ready(object_id, b"", offset, size)
        process.node.memory.contain(object_id, contains)
        self.refs.append(object_id)
        process.node.memory.written(object_id)
        process.post(m.Seal(object_id, contains or None))
        return object_id

    def write_extent(self, object_id: bytes, size: int) -> Program:
        """Space for an object, written; where. Raises Failed if there is none."""
        process = self.process
        process.post(m.CreateExtent(object_id, size))
        process.flush()
        extent = yield ("extent", object_id)
        if extent.error:
            record = decode_error(extent.error[1:])
            process.simulator.ledger.failed(object_id, record)
            raise Failed(record.kind)
        process.node.memory.write(process, object_id, extent.offset, size)
        process.simulator.ledger.made_at.setdefault(object_id, {})[process.node] = None
        yield ("sleep", size / 4e9)
        return extent.offset

    # ------------------------------------------------------------------ values

    def get(self, object_ids: Sequence[bytes], timeout_s: float | None = None) -> Program:
        """Wait for all; whether they came. The refs inside values become refs of this fiber."""
        came = yield ("values", list(object_ids), len(object_ids), timeout_s)
        for object_id in object_ids:
            ready = self.process.values.get(object_id)
            assert ready is not None or not came
            if ready is not None:
                self.read(object_id, ready)
        return came

    def wait(
        self,
        object_ids: Sequence[bytes],
        count: int,
        timeout_s: float | None,
        *,
        anywhere: bool = False,
    ) -> Program:
        """Wait for some, here or (``anywhere``) on any node."""
        yield ("anywhere" if anywhere else "values", list(object_ids), count, timeout_s)

    def ask(self, method: str, body: dict[str, Any], *, may_fail: bool = False) -> Program:
        """The answer to a question; None if it is an error, which has to be possible."""
        number = self.process.ask(method, body)
        answer = yield ("answer", number)
        assert may_fail or not answer.error, decode_error(answer.error)
        return answer.body

    def read(self, object_id: bytes, value: m.Ready | m.Value) -> str:
        """Look at a value; the kind of its error, or nothing."""
        process = self.process
        ledger = process.simulator.ledger
        if value.size:
            process.map(object_id, value.offset, value.size)
            self.views.append(object_id)
            _, written, contains = process.node.memory.extents[value.offset]
            ledger.read(object_id, written, contains)
        elif value.data[:1] == FORMAT_ERROR:
            record = decode_error(value.data[1:])
            ledger.failed(object_id, record, self.run.task_id if self.run is not None else b"")
            return record.kind
        else:
            written, contains = _decode(value.data[1:])
            ledger.read(object_id, written, contains)
        for inner in contains:
            ledger.found(inner, object_id)
            self.know(inner)
        return ""

    def know(self, object_id: bytes) -> None:
        """A ref comes out of a pickle."""
        self.process.born(object_id)
        if is_handle_id(object_id):
            self.handles.append(object_id[:16])
        else:
            self.refs.append(object_id)

    def is_older(self, object_id: bytes) -> bool:
        """Whether it is older than the driver's call that has led to this one: it cannot depend on
        what that one has led to."""
        simulator = self.process.simulator
        return self.run is None or (
            simulator.births[_born_as(object_id)] < simulator.roots[self.run.task_id]
        )

    def _gives_birth(self, any_id: bytes) -> None:
        simulator = self.process.simulator
        simulator.births[any_id] = number = len(simulator.births)
        run = self.run
        if run is not None:
            simulator.parents[any_id] = run.task_id
        simulator.roots[any_id] = number if run is None else simulator.roots[run.task_id]

    def drop(self, position: int) -> None:
        """Forget one ref."""
        self.process.died(self.refs.pop(position))

    def drop_handle(self, position: int) -> None:
        """Forget one handle."""
        self.process.died(handle_id(self.handles.pop(position)))

    def drop_view(self, position: int) -> None:
        """Forget one view of a large value."""
        self.process.unmap(self.views.pop(position))

    def drop_all(self) -> None:
        """The end of the program's scope."""
        for object_id in self.refs:
            self.process.died(object_id)
        for actor_id in self.handles:
            self.process.died(handle_id(actor_id))
        for object_id in self.views:
            self.process.unmap(object_id)
        self.refs.clear()
        self.handles.clear()
        self.weak.clear()
        self.views.clear()


class Process:
    """One connection, and all that runs behind it."""

    def __init__(self, node: SimulatedNode, peer: Client, name: str) -> None:
        simulator = node.simulator
        self.node = node
        self.simulator: Simulator = simulator
        self.peer = peer
        self.name = name
        self.dead = False
        self.counter = ReferenceCounter()
        self.ids: TaskIdCounter
        self.values: dict[bytes, m.Ready] = {}
        self.promised: set[bytes] = set()
        self.wanted: set[bytes] = set()
        self.elsewhere: set[bytes] = set()  # values that are there, on another node
        self.fetching: set[bytes] = set()  # promised ones that are to be fetched if they are
        self.sequences: dict[bytes, int] = {}
        self.fibers: dict[Fiber, None] = {}
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
        self._outbox.append(message)
        if len(self._outbox) >= FLUSH_CALLS:
            self.flush()
        elif len(self._outbox) == 1:
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
        new, gone = self.counter.drain()
        batch: list[Any] = [m.Hold(new)] if new else []
        batch += self._outbox
        self._outbox.clear()
        if self._unpin:
            batch.append(m.Unpin(self._unpin))
            self._unpin = []
        if gone:
            batch.append(m.Release(gone))
            for object_id in gone:
                if self.values.pop(object_id, None) is None:
                    # If a ref to it comes back, its value has to be asked for.
                    self.promised.discard(object_id)
                    self.wanted.discard(object_id)
                    self.elsewhere.discard(object_id)
                    self.fetching.discard(object_id)
        self._last_flush = self.simulator.now
        if batch:
            self.outbound.send(m.decode_to_node(m.encode(batch)))

    def template(self, spec: CallTemplate) -> int:
        """This connection's number for a template."""
        number = self._numbers.get(spec)
        if number is None:
            if spec.function_id and spec.function_id not in self._functions:
                self._functions.add(spec.function_id)
                self.post(m.RegisterFunction(spec.function_id, b"code", spec.name))
            number = self._numbers[spec] = len(self._numbers)
            self.post(m.RegisterTemplate(number, spec))
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
                self._on_ready(message)
            elif isinstance(message, m.Revoke):
                self._on_revoke(message)
            else:
                self.on_message(message)
        for fiber in list(self.fibers):
            self._look(fiber)
        self.after_batch()

    def _on_ready(self, ready: m.Ready) -> None:
        object_id = ready.object_id
        self.promised.discard(object_id)
        if object_id not in self.counter.counts:
            self.wanted.discard(object_id)
            return
        if ready.offset >= 0 or ready.offset == m.TROUBLE:
            self.wanted.discard(object_id)
            self.elsewhere.discard(object_id)
            self.values[object_id] = ready
            return
        self.elsewhere.add(object_id)
        if object_id in self.fetching or object_id in self.wanted:
            self.fetching.discard(object_id)
            self.wanted.add(object_id)
            self.post(m.Want([object_id]))

    def _on_revoke(self, revoke: m.Revoke) -> None:
        forgotten = []
        for object_id in revoke.object_ids:
            if any(fiber.needs(object_id) for fiber in self.fibers):
                continue
            if self.values.pop(object_id, None) is not None:
                self.elsewhere.add(object_id)
            forgotten.append(object_id)
        if forgotten:
            self.post(m.Revoked(revoke.number, forgotten))

    def on_message(self, message: Any) -> None:
        """Everything but values."""
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

    def start(self, fiber: Fiber, program: Program) -> None:
        """Run a program until it waits."""
        fiber.program = program
        self.fibers[fiber] = None
        self.go_on(fiber, None)

    def go_on(self, fiber: Fiber, value: Any) -> None:
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
            fiber.came.clear()
            if wait[0] == "sleep":
                simulator.at(wait[1], self._slept, fiber, wait)
                return
            if wait[0] in ("extent", "answer"):
                return
            if self._has_come(fiber, wait):
                value = True
                continue
            self._want(wait[1], anywhere=wait[0] == "anywhere")
            if wait[3] is not None:
                simulator.at(wait[3], self._timed_out, fiber, wait)
            self.block(fiber)
            self.flush()
            return

    def _slept(self, fiber: Fiber, wait: Any) -> None:
        if not self.dead and fiber.waits_for is wait:
            self.go_on(fiber, None)

    def _timed_out(self, fiber: Fiber, wait: Any) -> None:
        if not self.dead and fiber.waits_for is wait:
            self.unblock(fiber)
            self.go_on(fiber, False)

    def _look(self, fiber: Fiber) -> None:
        wait = fiber.waits_for
        if wait is not None and wait[0] in ("values", "anywhere") and self._has_come(fiber, wait):
            self.unblock(fiber)
            self.go_on(fiber, True)

    def _has_come(self, fiber: Fiber, wait: Any) -> bool:
        # What was here once counts, though its space may have been wanted since.
        fiber.came.update(object_id for object_id in wait[1] if object_id in self.values)
        came = sum(object_id in fiber.came for object_id in wait[1])
        if wait[0] == "anywhere":
            came += sum(object_id in self.elsewhere for object_id in wait[1])
        return came >= int(wait[2])

    def _want(self, object_ids: list[bytes], *, anywhere: bool) -> None:
        random = self.simulator.random
        if anywhere:
            known = self.promised | self.elsewhere
            object_ids = [object_id for object_id in object_ids if object_id not in known]
        else:
            self.fetching.update(self.promised.intersection(object_ids))
        missing = [
            object_id
            for object_id in object_ids
            if object_id not in self.values
            and object_id not in self.wanted
            and (object_id not in self.promised or random.random() < 0.1)
        ]
        if missing:
            self.flush()  # the holds of refs just found come first
            self.wanted.update(missing)
            self.post(m.Want(missing))

    def block(self, fiber: Fiber) -> None:
        """It is going to wait."""

    def unblock(self, fiber: Fiber) -> None:
        """It goes on."""

    def finished(self, fiber: Fiber, result: Any) -> None:
        """A program is over."""

    # ------------------------------------------------------------------ the end

    def die(self, status: int) -> None:
        """The process ends, now and at any place."""
        if self.dead:
            return
        self.simulator.tell(self.name, "ends with", status)
        self.vanish()
        self.outbound.send(None)

    def vanish(self) -> None:
        """It is gone, and nobody is told."""
        if not self.dead:
            self.dead = True
            self.fibers.clear()
            self.node.memory.died(self)
            self.simulator.ledger.process_died()


class DriverProcess(Process):
    """A user's program."""

    def __init__(self, node: SimulatedNode, number: int) -> None:
        super().__init__(node, Client(), f"driver{number}")
        self.fiber: Fiber | None = None
        node.connect(self.peer, self)
        job = JobConfig(f"n{number}")
        self.post(m.Hello(PROTOCOL_VERSION, PYTHON, "driver", 100 + number, b"", job))

    def on_message(self, message: Any) -> None:
        """Welcome starts the program."""
        if isinstance(message, m.Welcome):
            self.ids = TaskIdCounter(message.job_id, message.submitter)
            self.fiber = Fiber(self, None, Random(self.simulator.random.random()))
            self.start(self.fiber, self.simulator.settings.driver(self.fiber))
        else:
            super().on_message(message)

    def finished(self, fiber: Fiber, result: Any) -> None:
        """The program's scope ends; the connection stays."""
        fiber.drop_all()
        if result == "leave":
            self.leave()

    def leave(self) -> None:
        """shutdown()."""
        if not self.dead:
            self.post(m.Leaving("shutdown"))
            self.flush()
            self.die(0)


class WorkerProcess(Process):
    """A worker: of tasks, or of one actor."""

    def __init__(self, node: SimulatedNode, peer: Client, worker: Worker) -> None:
        super().__init__(node, peer, f"worker{len(node.simulator.processes)}")
        self.worker = worker
        self.queue: deque[m.Run] = deque()
        self.templates: dict[int, CallTemplate] = {}
        self.functions: set[bytes] = set()
        self.running: Fiber | None = None
        self.exiting = False
        self.options: ActorOptions | None = None
        self.kept: Fiber | None = None  # what outlives a call: the actor's own state
        self._hand_back_due = False

    @property
    def in_order(self) -> bool:
        """Whether calls run one by one."""
        return self.options is None or self.options.in_order

    # ------------------------------------------------------------------ messages

    def on_message(self, message: Any) -> None:
        """What only workers are sent."""
        if isinstance(message, m.Run):
            assert message.template in self.templates, "a run of an unknown template"
            if self.running is not None and self.running.blocked and self.options is None:
                self.post(m.HandBack([message.task_id]))
                self.flush()
            else:
                self.queue.append(message)
        elif isinstance(message, m.RegisterTemplate):
            function_id = message.template.function_id
            assert not function_id or function_id in self.functions, "code that never came"
            self.templates[message.number] = message.template
        elif isinstance(message, m.RegisterFunction):
            self.functions.add(message.function_id)
        elif isinstance(message, m.WorkerSetup):
            self._set_up(message)
        elif isinstance(message, m.Exit):
            self.exiting = True
        else:
            super().on_message(message)

    def _set_up(self, setup: m.WorkerSetup) -> None:
        simulator = self.simulator
        self.ids = TaskIdCounter(setup.job_id, setup.submitter)
        self.options = setup.actor
        self.kept = Fiber(self, None, Random(simulator.random.random()))
        if simulator.random.random() < simulator.settings.stillborn_share:
            self.die(1)
            return
        pid = 1_000 + len(simulator.processes)
        hello = m.Hello(PROTOCOL_VERSION, PYTHON, "worker", pid, setup.submitter)
        simulator.at(simulator.random.random() * 0.003, self.post, hello)

    def after_batch(self) -> None:
        """Begin what can begin; look after what waits behind a long task."""
        while self.queue and (self.running is None or not self.in_order) and not self.dead:
            self._begin(self.queue.popleft())
        if self.exiting and not self.fibers and not self.queue:
            self.flush()
            self.die(0)
        if self.queue and self.running is not None and self.options is None:
            self._hand_back_later(self.running)

    # ------------------------------------------------------------------ hand-backs

    def _hand_back_later(self, running: Fiber) -> None:
        if not self._hand_back_due:
            self._hand_back_due = True
            now = self.simulator.now
            due = max(0.0, running.began + HAND_BACK_AFTER_S - now)
            self.simulator.at(due, self._hand_back_if_long)

    def _hand_back_if_long(self) -> None:
        self._hand_back_due = False
        running = self.running
        if self.dead or running is None or not self.queue:
            return
        if self.simulator.now - running.began >= HAND_BACK_AFTER_S - 1e-9:
            self._hand_back()
        else:
            self._hand_back_later(running)

    def _hand_back(self) -> None:
        if self.queue:
            self.post(m.HandBack([run.task_id for run in self.queue]))
            self.queue.clear()
            self.flush()

    def block(self, fiber: Fiber) -> None:
        """The main thread waits: what has not begun goes back, the CPU is lent out."""
        if fiber is self.running and self.in_order:
            fiber.blocked = True
            if self.options is None:
                self._hand_back()
            self.post(m.Blocked())

    def unblock(self, fiber: Fiber) -> None:
        """It goes on."""
        if fiber.blocked:
            fiber.blocked = False
            self.post(m.Unblocked())

    # ------------------------------------------------------------------ runs

    def _begin(self, run: m.Run) -> None:
        simulator = self.simulator
        spec = self.templates[run.template]
        simulator.tell(self.name, "begins", run.task_id, run.attempt, spec.name)
        simulator.ledger.began(self, run.task_id, run.attempt, spec, self.in_order)
        fiber = Fiber(self, run, Random(simulator.random.random()))
        self.running = fiber
        settings = simulator.settings
        if simulator.random.random() < settings.death_share:
            simulator.at(simulator.random.random() * 0.03, self.die, -9)
        self.start(fiber, self._run(fiber, run, spec))

    def _run(self, fiber: Fiber, run: m.Run, spec: CallTemplate) -> Program:
        started = self.simulator.now
        results: list[m.Result] = []
        try:
            assert len(run.values or ()) == len(run.dependencies or ())
            for object_id, value in zip(run.dependencies or (), run.values or (), strict=True):
                assert not fiber.read(object_id, value), "an error as an argument"
            outcome = yield from self.simulator.settings.task(fiber, run, spec)
            for index, (size, contains) in enumerate(outcome):
                object_id = return_id(run.task_id, index)
                if size:
                    offset = yield from fiber.write_extent(object_id, size)
                    self.node.memory.contain(object_id, contains)
                    self.node.memory.written(object_id)
                    value = m.Value(b"", offset, size)
                else:
                    value = m.Value(payload(object_id, contains))
                results.append(m.Result(value, contains or None))
        except Failed as failed:
            error = FORMAT_ERROR + encode_error(ErrorRecord(failed.kind, "in a task"))
            return self._failed(fiber, run, spec, started, error)
        ended = self.simulator.now
        if len(results) == 1 and not results[0].value.size and not results[0].contains:
            return m.Done(run.task_id, run.attempt, started, ended, results[0].value.data)
        return m.Done(run.task_id, run.attempt, started, ended, results=results)

    def _failed(
        self, fiber: Fiber, run: m.Run, spec: CallTemplate, started: float, error: bytes
    ) -> m.Done:
        results = None
        if spec.num_returns != 1:
            results = [m.Result(m.Value(error)) for _ in range(spec.num_returns)]
        retry = spec.retry_exceptions is True
        for index in range(spec.num_returns):
            self.node.memory.written(return_id(run.task_id, index))
        if retry:
            self.simulator.ledger.runs[run.task_id][-1].retried = True
        now = self.simulator.now
        return m.Done(run.task_id, run.attempt, started, now, error, results, True, retry)

    def finished(self, fiber: Fiber, result: Any) -> None:
        """A task or call is over: tell, and go on with the next."""
        if fiber is self.running:
            self.running = None
        fiber.drop_all()
        if self.queue:
            self.post(result)
        else:
            self._outbox.append(result)
            self.flush()
        self.simulator.at(0.0, self._next)

    def _next(self) -> None:
        if not self.dead:
            self.after_batch()

    def leave(self, reason: str) -> None:
        """exit_actor()."""
        self.post(m.Leaving(reason))
        self.exiting = True
        self.queue.clear()

    def die(self, status: int) -> None:
        """The zygote reaps it, and says so by its own way."""
        if not self.dead:
            super().die(status)
            simulator = self.simulator
            delay = simulator.random.random() ** 3 * 0.02
            simulator.at(delay, self.node.worker_exited, self.worker, status)


def _born_as(object_id: bytes) -> bytes:
    # A return with its task, an actor's handle with the actor, a put by itself.
    is_put = object_id[16:] > HANDLE_INDEX
    return object_id if is_put else object_id[:16]


def payload(object_id: bytes, contains: list[bytes]) -> bytes:
    """A value that says which object it is, and the refs inside it."""
    return FORMAT_PICKLE + _encode((object_id, contains))
