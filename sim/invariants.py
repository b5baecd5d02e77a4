"""What must hold, always and at the end; and the ledger of what processes saw, to check it against.

``Ledger`` is told of every begun task, every value read and every span of shared memory written or
mapped. ``check_turn`` looks into the core after a turn, ``check_idle`` when all programs are over
and all refs dropped, ``check_empty`` when the drivers have left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skate.node.node_core import NodeCore
from skate.spec import CallTemplate
from skate.states import WorkerState

if TYPE_CHECKING:
    from sim.process import Process
    from sim.simulator import Simulator


class Run:
    """One beginning of a task."""

    __slots__ = ("process", "retried")

    def __init__(self, process: Process) -> None:
        self.process = process
        self.retried = False  # it said that it wants to be retried


class Ledger:
    """See the module's docstring."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self.runs: dict[bytes, list[Run]] = {}
        self.attempts: set[tuple[bytes, int]] = set()
        self.calls: dict[bytes, tuple[Process, int]] = {}  # call -> caller, number
        self.last_call: dict[tuple[Process, Process], int] = {}  # host, caller -> number
        self.memory: dict[int, tuple[int, bytes]] = {}  # offset -> size, what was written last
        self.maps: dict[tuple[Process, int], tuple[int, int]] = {}  # (who, offset) -> size, count
        self.writing: dict[bytes, tuple[Process, int, int]] = {}
        self.deaths = 0
        self.tasks = 0
        self.values_read = 0
        self.errors: dict[str, int] = {}

    # ------------------------------------------------------------------ tasks

    def began(
        self, process: Process, task_id: bytes, attempt: int, spec: CallTemplate, in_order: bool
    ) -> None:
        """A worker has begun a task: at most once, unless it died with it or it was retried."""
        assert (task_id, attempt) not in self.attempts, f"an attempt ran twice: {task_id.hex()}"
        self.attempts.add((task_id, attempt))
        runs = self.runs.setdefault(task_id, [])
        if runs and spec.kind != "actor":
            last = runs[-1]
            assert last.retried or last.process.dead, f"a task ran twice: {task_id.hex()}"
            assert spec.max_retries != 0, f"an at-most-once task ran twice: {task_id.hex()}"
        if spec.kind == "method" and in_order and not any(run.retried for run in runs):
            caller, number = self.calls[task_id]
            last_number = self.last_call.get((process, caller), -1)
            assert number > last_number, f"call {number} ran after {last_number}: {task_id.hex()}"
            self.last_call[process, caller] = number
        runs.append(Run(process))
        self.tasks += 1

    # ------------------------------------------------------------------ values

    def read(self, object_id: bytes, written: bytes) -> None:
        """A value has to be that of its object."""
        assert written == object_id, f"{object_id.hex()} has the value of {written.hex()}"
        self.values_read += 1

    def failed(self, object_id: bytes, kind: str, message: str) -> None:
        """An error instead of a value: only such as this run's faults can cause."""
        self.errors[kind] = self.errors.get(kind, 0) + 1
        allowed = self._simulator.settings.possible_errors()
        assert kind in allowed, f"{object_id.hex()} became {kind}: {message}"

    # ------------------------------------------------------------------ shared memory

    def write(self, process: Process, object_id: bytes, offset: int, size: int) -> None:
        """Somebody writes an extent: nobody may read or write any of it meanwhile."""
        end = offset + size
        for (reader, start), (length, _) in self.maps.items():
            assert end <= start or start + length <= offset, (
                f"{object_id.hex()} is written where {reader.name} reads"
            )
        for other, (writer, start, length) in self.writing.items():
            assert end <= start or start + length <= offset, (
                f"{object_id.hex()} and {other.hex()} ({writer.name}) are written to one place"
            )
        old = [s for s, (length, _) in self.memory.items() if s < end and offset < s + length]
        for start in old:
            del self.memory[start]
        self.writing[object_id] = (process, offset, size)
        self.memory[offset] = (size, object_id)

    def written(self, object_id: bytes) -> None:
        """Its writer says that it is complete."""
        self.writing.pop(object_id, None)

    def map(self, process: Process, object_id: bytes, offset: int, size: int) -> None:
        """Somebody maps a span, which has to hold that object."""
        found = self.memory.get(offset)
        assert found == (size, object_id), f"{object_id.hex()} is not at its place: {found}"
        _, count = self.maps.get((process, offset), (size, 0))
        self.maps[process, offset] = (size, count + 1)

    def unmap(self, process: Process, offset: int) -> None:
        """The mapping is gone."""
        size, count = self.maps.pop((process, offset))
        if count > 1:
            self.maps[process, offset] = (size, count - 1)

    def died(self, process: Process) -> None:
        """Its mappings and half-written extents go with it."""
        self.deaths += 1
        for key in [key for key in self.maps if key[0] is process]:
            del self.maps[key]
        for object_id in [o for o, entry in self.writing.items() if entry[0] is process]:
            del self.writing[object_id]


def check_turn(core: NodeCore, *, full: bool) -> None:
    """After a turn: nothing is left undone, and, if ``full``, all invariants of the parts."""
    assert not core.doomed and not core.store.freed_handles
    scheduler = core.scheduler
    if len(scheduler.ready) == 1 and not scheduler.placing:
        queue = next(iter(scheduler.ready))
        assert not (queue.pool.idle and scheduler.fits(queue.demand)), "a worker and a task idle"
    for worker_id in [*core.workers.exits, *core.workers.lost]:
        worker = scheduler.workers[worker_id]
        assert worker.state in (WorkerState.STARTING, WorkerState.ENDING), "a dead worker has work"
    if full:
        core.check()
        for worker in scheduler.workers.values():
            if worker.state is WorkerState.LEASED:
                assert worker.tasks, "a lease without a task"
            assert worker.state is not WorkerState.IDLE or not worker.tasks


def check_programs(processes: list[Any]) -> None:
    """When nothing happens any more: every program has come to its end."""
    for process in processes:
        if not process.dead:
            for fiber in process.fibers:
                raise AssertionError(f"{process.name} waits for ever: {fiber.waits_for}")
            assert not getattr(process, "queue", None), f"{process.name} has calls not begun"


def check_idle(core: NodeCore, processes: list[Process]) -> None:
    """All programs are over and have dropped all refs: nothing is left but idle workers."""
    core.check()
    for process in processes:
        if not process.dead:
            assert not process.counter.counts and not process.counter.journal
            assert not process.peer.held, f"{process.name} holds {len(process.peer.held)}"
            assert not process.peer.pins
            assert not process.peer.deferred
    store = core.store
    assert not store.objects, [o.hex() for o in store.objects]
    assert not store.arena.used_bytes and not store.creations and not store.queue
    assert not store.watched and not store.inline_bytes
    scheduler = core.scheduler
    assert not scheduler.queued() and not scheduler.ready and not scheduler.emptied
    assert scheduler.available == scheduler.total, scheduler.available
    for worker in scheduler.workers.values():
        assert worker.state is WorkerState.IDLE and not worker.tasks, worker.state.name
        assert not worker.load_s and worker.actor is None
    assert not core.actors.router.actors and not core.actors.lent_cpu
    assert not core.workers.exits and not core.workers.lost
    cpus = scheduler.total["CPU"] // 10_000
    assert len(scheduler.workers) <= cpus, "idle workers beyond the CPUs"


def check_empty(core: NodeCore) -> None:
    """The drivers have left: nothing remembers them."""
    core.check()
    store, scheduler = core.store, core.scheduler
    assert not core.peers and not core.jobs and not core.templates and not core.functions
    assert not store.objects and not store.arena.used_bytes and not store.creations
    assert not store.queue and not store.watched and not store.inline_bytes
    assert not scheduler.workers and not scheduler.pools and not scheduler.classes
    assert not scheduler.ready and not scheduler.placing
    assert scheduler.available == scheduler.total
    assert not core.actors.router.actors and not core.workers.exits and not core.workers.lost
    assert not core.questions.asked
