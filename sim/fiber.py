"""What a simulated program holds, and the calls that it can make: the API of a simulated process.

Programs (sim/workload.py) are generators; whatever has to wait is used with ``yield from``.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import msgspec

from sim.process import Process, Running
from sim.roles import Program
from skate import messages as m
from skate.client.value_table import Wait
from skate.error_records import decode_error
from skate.ids import HANDLE_INDEX, handle_id, is_handle_id, return_id
from skate.spec import FORMAT_ERROR, FORMAT_PICKLE, ActorOptions, CallTemplate
from skate.worker.lane_server import Work

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[bytes, list[bytes]]).decode


class Failed(Exception):
    """A program meets an error: its own, or that of a value it got."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class Fiber(Running):
    """One program that runs in a process: what it holds, and the calls it can make."""

    def __init__(self, process: Process, run: m.Run | None, random: Random) -> None:
        super().__init__(process.simulator.now)
        self.process = process
        self.run = run
        self.random = random
        self.refs: list[bytes] = []
        self.handles: list[bytes] = []  # ids of actors
        self.weak: list[bytes] = []  # ids of actors that were found by name: not counted
        self.views: list[bytes] = []
        self.work: Work | None = None  # what it runs, in a worker
        self.depth = run.depth if run is not None else -1

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
        if not nested and process.lanes.submit(
            number, task_id, arguments, dependencies, self.depth + 1
        ):
            process.simulator.ledger.rode += 1
            return refs
        process.lanes.escape([*dependencies, *nested])
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
        process.lanes.escape([*dependencies, *nested])
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
        in_order = process.simulator.in_order[actor_id]
        if not nested and process.lanes.call(
            actor_id, number, task_id, sequence, arguments, dependencies, in_order=in_order
        ):
            process.simulator.ledger.rode += 1
            return refs
        process.lanes.escape([*dependencies, *nested])
        process.post(
            m.CallActor(
                task_id,
                actor_id,
                sequence,
                number,
                arguments,
                dependencies or None,
                nested or None,
                in_order,
            )
        )
        return refs

    def _promise(self, task_id: bytes, spec: CallTemplate) -> list[bytes]:
        self._gives_birth(task_id)
        refs = [return_id(task_id, index) for index in range(spec.num_returns)]
        for object_id in refs:
            self.process.values.promise(object_id)
        self.refs += refs
        return refs

    def put(self, contains: list[bytes]) -> bytes:
        """Put a small value."""
        process = self.process
        object_id = process.ids.next_put()
        self._gives_birth(object_id)
        data = payload(object_id, contains)
        process.values.put(object_id, m.Ready(object_id, data, contains=bool(contains)))
        self.refs.append(object_id)
        process.lanes.escape(contains)
        process.post(m.Put(object_id, data, contains or None))
        return object_id

    def put_large(self, size: int, contains: list[bytes]) -> Program:
        """Put a value into the arena; its ref."""
        process = self.process
        object_id = process.ids.next_put()
        self._gives_birth(object_id)
        offset = yield from self.write_extent(object_id, size)
        process.values.put(object_id, m.Ready(object_id, b"", offset, size))
        process.node.memory.contain(object_id, contains)
        self.refs.append(object_id)
        process.node.memory.written(object_id)
        process.lanes.escape(contains)
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
        values = self.process.values
        values.forget_troubles(object_ids)
        values.reads.append(object_ids)
        try:
            came = False
            while not all(object_id in values.here for object_id in object_ids):
                wait = Wait(values, object_ids, len(object_ids), anywhere=False)
                came = yield ("ready", wait, timeout_s)
                if not came:
                    break
            else:
                came = True
            for object_id in object_ids:
                ready = values.here.get(object_id)
                if ready is not None:
                    self.read(object_id, ready)
            return came
        finally:
            values.reads.remove(object_ids)

    def wait(
        self,
        object_ids: Sequence[bytes],
        count: int,
        timeout_s: float | None,
        *,
        anywhere: bool = False,
    ) -> Program:
        """Wait for some, here or (``anywhere``) on any node."""
        with Wait(self.process.values, object_ids, count, anywhere=anywhere) as wait:
            yield ("ready", wait, timeout_s)

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


def _born_as(object_id: bytes) -> bytes:
    # A return with its task, an actor's handle with the actor, a put by itself.
    is_put = object_id[16:] > HANDLE_INDEX
    return object_id if is_put else object_id[:16]


def payload(object_id: bytes, contains: list[bytes]) -> bytes:
    """A value that says which object it is, and the refs inside it."""
    return FORMAT_PICKLE + _encode((object_id, contains))
