"""What must hold, always and at the end; and the ledger of what processes saw, to check it against.

``Ledger`` is told of every begun task, every value read, every fault; ``Memory`` of every span of
one arena that is written or mapped. ``check_turn`` looks into a core after a turn, ``check_idle``
when all programs are over and all refs dropped, ``check_empty`` when the drivers have left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sim.roles import Conditions, LocalProcess, Machine
from sim.simulator import Simulator
from sim.story import short
from skate.error_records import ErrorRecord
from skate.ids import HOME_BYTES, home_of, job_of
from skate.node.node_core import NodeCore
from skate.rows import SchedulingClass, may_leave
from skate.spec import CallTemplate
from skate.states import LaneState, WorkerState

LOSSES = ("ObjectLostError", "OwnerDiedError")
OUT_OF_REACH = "ObjectFetchTimedOutError"
OF_NODE_DEATHS = (
    "NodeDiedError",
    "ActorDiedError",
    "ActorUnavailableError",
    "TaskUnschedulableError",
    "ActorUnschedulableError",
)
WAITS_TICKS = 12  # over a second: so long no task may wait while another node idles


class Memory:
    """One arena: what lies in it, and who reads or writes it at this moment."""

    def __init__(self, name: str) -> None:
        self._name = name
        # offset -> size, whose value was written there last, the refs inside it
        self.extents: dict[int, tuple[int, bytes, list[bytes]]] = {}
        self.maps: dict[tuple[Any, int], tuple[int, int]] = {}  # (who, offset) -> size, count
        self.writing: dict[bytes, tuple[Any, int, int]] = {}
        self._lent: dict[bytes, tuple[int, int]] = {}  # to transfers -> offset, count

    def write(self, writer: Any, object_id: bytes, offset: int, size: int) -> None:
        """Somebody writes an extent: nobody may read or write any of it meanwhile."""
        end = offset + size
        for (reader, start), (length, _) in self.maps.items():
            assert end <= start or start + length <= offset, (
                f"{self._name}: {object_id.hex()} is written where {reader.name} reads"
            )
        for lent, (start, _) in self._lent.items():
            length = self.extents[start][0]
            assert end <= start or start + length <= offset, (
                f"{self._name}: {object_id.hex()} is written where {lent.hex()} is being sent from"
            )
        for other, (_, start, length) in self.writing.items():
            assert end <= start or start + length <= offset, (
                f"{self._name}: {object_id.hex()} and {other.hex()} are written to one place"
            )
        old = [s for s, e in self.extents.items() if s < end and offset < s + e[0]]
        for start in old:
            del self.extents[start]
        self.writing[object_id] = (writer, offset, size)
        self.extents[offset] = (size, object_id, [])

    def contain(self, object_id: bytes, contains: list[bytes]) -> None:
        """There are refs in the value that is being written."""
        _, offset, size = self.writing[object_id]
        self.extents[offset] = (size, object_id, contains)

    def written(self, object_id: bytes) -> None:
        """Its writer says that it is complete."""
        self.writing.pop(object_id, None)

    def map(self, reader: Any, object_id: bytes, offset: int, size: int) -> None:
        """Somebody maps a span, which has to hold that object."""
        found = self.extents.get(offset)
        assert found is not None and found[:2] == (size, object_id), (
            f"{self._name}: {object_id.hex()} is not at its place: {found}"
        )
        assert object_id not in self.writing, f"{object_id.hex()} is read before it is complete"
        _, count = self.maps.get((reader, offset), (size, 0))
        self.maps[reader, offset] = (size, count + 1)

    def unmap(self, reader: Any, offset: int) -> None:
        """The mapping is gone."""
        size, count = self.maps.pop((reader, offset))
        if count > 1:
            self.maps[reader, offset] = (size, count - 1)

    def lend(self, object_id: bytes, offset: int) -> list[bytes]:
        """It is being sent to another node; the refs inside it."""
        _, written, contains = self.extents[offset]
        assert written == object_id, f"{self._name} lends {written.hex()} as {object_id.hex()}"
        _, count = self._lent.get(object_id, (offset, 0))
        self._lent[object_id] = (offset, count + 1)
        return contains

    def uploads(self, object_id: bytes) -> int:
        """To how many it is being sent."""
        return self._lent.get(object_id, (0, 0))[1]

    def take_back(self, object_id: bytes) -> None:
        """It has been sent."""
        offset, count = self._lent.pop(object_id)
        if count > 1:
            self._lent[object_id] = (offset, count - 1)

    def died(self, process: Any) -> None:
        """A process's mappings and half-written extents go with it."""
        for key in [key for key in self.maps if key[0] is process]:
            del self.maps[key]
        for object_id in [o for o, entry in self.writing.items() if entry[0] is process]:
            del self.writing[object_id]


class Run:
    """One beginning of a task."""

    __slots__ = ("process", "retried")

    def __init__(self, process: LocalProcess) -> None:
        self.process = process
        self.retried = False  # it said that it wants to be retried


class Ledger:
    """See the module's docstring."""

    def __init__(
        self,
        clock: Simulator,
        settings: Conditions,
        machines: Sequence[Machine],
        parents: dict[bytes, bytes],
    ) -> None:
        self._clock = clock
        self._settings = settings
        self._machines = machines
        self._parents = parents  # of tasks, actors and puts: the tasks and calls that made them
        self.runs: dict[bytes, list[Run]] = {}
        self.attempts: set[tuple[Machine, bytes, int]] = set()
        self.calls: dict[bytes, tuple[LocalProcess, int]] = {}  # call -> caller, number
        self.last_call: dict[tuple[LocalProcess, LocalProcess], int] = {}  # host, caller -> number
        self.values: dict[bytes, list[bytes]] = {}  # what was read -> the refs inside it
        self.made_at: dict[bytes, dict[Machine, None]] = {}  # large ones: by whom
        self.found_in: dict[bytes, dict[bytes, None]] = {}  # ref -> values and tasks that had it
        self.disturbed: dict[Machine, None] = {}  # nodes that were cut off from others
        # Of each node's queues: (task, node that could run it) -> for how many ticks.
        self._idle_beside: dict[Machine, dict[tuple[bytes, Machine], int]] = {}
        self.deaths = 0
        self.node_deaths = 0
        self.cuts = 0
        self.given_up: set[bytes] = set()  # tasks and calls, with the line to their host
        self.moved = 0  # tasks that began on another node than their home
        self.tasks = 0
        self.rode = 0  # calls that were sent on lanes
        self.values_read = 0
        self.errors: dict[str, int] = {}

    # ------------------------------------------------------------------ tasks

    def began(
        self,
        process: LocalProcess,
        task_id: bytes,
        attempt: int,
        spec: CallTemplate,
        in_order: bool,
    ) -> None:
        """A worker has begun a task: at most once, unless it died with it or it was retried."""
        node = process.node
        runs = self.runs.setdefault(task_id, [])
        # Who was cut off runs what it has, though its home may have had it run elsewhere since.
        nodes = [node, *(run.process.node for run in runs)]
        excused = any(one in self.disturbed for one in nodes)
        key = (node, task_id, attempt)
        assert key not in self.attempts or excused, f"an attempt ran twice: {task_id.hex()}"
        self.attempts.add(key)
        if runs and spec.kind != "actor":
            last = runs[-1]
            assert last.retried or last.process.dead or excused, (
                f"a task ran twice: {task_id.hex()}"
            )
            assert spec.max_retries != 0, f"an at-most-once task ran twice: {task_id.hex()}"
            lost = len({run.process.node for run in runs if self._is_disturbed(run.process.node)})
            assert spec.max_retries < 0 or len(runs) <= (spec.max_retries + 1) * (lost + 1) - 1, (
                f"{task_id.hex()} was retried {len(runs)} times, allowed are {spec.max_retries}"
            )
        if spec.kind == "method" and in_order and not (runs and runs[-1].retried) and not excused:
            self._check_order(process, task_id, attempt)
        runs.append(Run(process))
        self.tasks += 1
        self.moved += home_of(task_id) != node.core.me.node_id[:HOME_BYTES]

    def _check_order(self, process: LocalProcess, task_id: bytes, attempt: int) -> None:
        caller, number = self.calls[task_id]
        last_number = self.last_call.get((process, caller), -1)
        if caller.node in self.disturbed and attempt:
            return
        if any(run.retried for run in self.runs[task_id]):
            return
        assert number > last_number, f"call {number} ran after {last_number}: {task_id.hex()}"
        self.last_call[process, caller] = number

    def _is_disturbed(self, node: Machine) -> bool:
        return node.dead or node in self.disturbed

    def look_at_queues(self, node: Machine) -> None:
        """At each tick of a node: does a task wait there that another node could run at once?"""
        if self._settings.is_disturbed(self._clock.now):
            self._idle_beside.clear()
            return
        before = self._idle_beside.get(node, {})
        beside: dict[tuple[bytes, Machine], int] = {}
        for queue in node.core.scheduler.ready:
            task = next((t for t in queue if may_leave(t) and t.template.is_plain), None)
            if task is None or queue.pool.failed_starts:
                continue
            for other in self._machines:
                if other is node or other.dead or self._settings.is_cut(node, other):
                    continue
                if _is_idle(other.core, queue):
                    beside[task.id, other] = before.get((task.id, other), 0) + 1
                    assert beside[task.id, other] < WAITS_TICKS, (
                        f"{short(task.id)} waits on {node.name} while {other.name} is idle"
                    )
        self._idle_beside[node] = beside

    # ------------------------------------------------------------------ values

    def read(self, object_id: bytes, written: bytes, contains: list[bytes]) -> None:
        """A value has to be that of its object, and the same for everybody."""
        assert written == object_id, f"{object_id.hex()} has the value of {written.hex()}"
        before = self.values.setdefault(object_id, contains)
        assert before == contains or self.cuts, f"{object_id.hex()} has two values"
        self.values_read += 1

    def found(self, object_id: bytes, inside: bytes) -> None:
        """A ref was found inside a value, or among the arguments of a task."""
        self.found_in.setdefault(object_id, {})[inside] = None

    def failed(self, object_id: bytes, record: ErrorRecord, reader: bytes = b"") -> None:
        """An error instead of a value: only such as this run's faults can cause.

        ``reader``: the task or call that reads it.
        """
        kind = record.kind
        self.errors[kind] = self.errors.get(kind, 0) + 1
        if kind in self._settings.possible_errors():
            return
        if self._is_excused(object_id, kind, record):
            return
        if kind in LOSSES and self._was_given_up(reader, record):
            return
        raise AssertionError(f"{object_id.hex()} became {kind}: {record.message}")

    def _was_given_up(self, reader: bytes, record: ErrorRecord) -> bool:
        # Its home runs the task again elsewhere: it holds nothing for what that still does, nor
        # what is in a value that it has made in the meantime.
        lost = bytes.fromhex(str(record.fields.get("object_ref_hex", "")))
        if any(inside[:16] in self.given_up for inside in self.found_in.get(lost, ())):
            return True
        while reader:
            if reader in self.given_up:
                return True
            reader = self._parents.get(reader, b"")
        return False

    def _has_ended(self, job_id: bytes) -> bool:
        return any(job_id in node.core.parts.jobs.ended for node in self._machines)

    def _is_excused(self, object_id: bytes, kind: str, record: ErrorRecord) -> bool:
        if self.cuts and (kind in OF_NODE_DEATHS or kind == OUT_OF_REACH):
            return True
        if self.cuts and kind in LOSSES and self._settings.is_lossy:
            return True
        if kind in OF_NODE_DEATHS:
            return self.node_deaths > 0
        if kind == "OwnerDiedError" and self._settings.jobs_meet and self.node_deaths:
            return True  # that of a driver, and its job
        if kind in LOSSES and self._has_ended(job_of(object_id)):
            return True  # a process reads on while its own job is being ended
        if kind in LOSSES:
            return self._is_lost(bytes.fromhex(str(record.fields.get("object_ref_hex", ""))))
        return False

    def _is_lost(self, object_id: bytes) -> bool:
        # With a node that had it, with its home, or with the home of what it was found in, which
        # alone held it then.
        front, seen = [object_id], {object_id}
        while front:
            any_id = front.pop()
            nodes = list(self.made_at.get(any_id, ()))
            nodes += [n for n in self._machines if n.core.me.node_id[:4] == home_of(any_id)]
            if any(node.dead for node in nodes):
                return True
            more = [one for one in self.found_in.get(any_id, ()) if one not in seen]
            front += more
            seen.update(more)
        return False

    # ------------------------------------------------------------------ faults

    def process_died(self) -> None:
        """A process has ended."""
        self.deaths += 1

    def node_died(self, node: Machine) -> None:
        """A machine is gone."""
        self.node_deaths += 1

    def cut_off(self, one: Machine, other: Machine) -> None:
        """A line between two nodes was given up, though both may live."""
        if not one.dead and not other.dead:
            self.cuts += 1
            neighbour = one.core.nodes.by_id.get(other.core.me.node_id)
            if neighbour is not None:
                self.given_up.update(neighbour.tasks, neighbour.calls)
            self.disturbed[one] = None
            self.disturbed[other] = None

    def refused(self, node: Machine, reason: str) -> None:
        """The GCS has refused a node, or given it up."""
        assert node in self._settings.frozen, f"{node.name} was refused: {reason}"
        self.cuts += 1
        self.disturbed[node] = None


def _is_idle(core: NodeCore, queue: SchedulingClass) -> bool:
    scheduler = core.scheduler
    return (
        not scheduler.ready
        and not scheduler.placing
        and not core.store.queue
        and not scheduler.claimed
        and scheduler.fits(queue.demand)
    )


def check_turn(core: NodeCore, *, full: bool) -> None:
    """After a turn: nothing is left undone, and, if ``full``, all invariants of the parts."""
    assert not core.parts.running.doomed and not core.store.freed_handles
    scheduler = core.scheduler
    if len(scheduler.ready) == 1 and not scheduler.placing and not scheduler.claimed:
        queue = next(iter(scheduler.ready))
        assert not (queue.pool.idle and scheduler.fits(queue.demand)), "a worker and a task idle"
    for worker_id in [*core.parts.workers.exits, *core.parts.workers.lost]:
        worker = scheduler.workers[worker_id]
        assert worker.state in (WorkerState.STARTING, WorkerState.ENDING), "a dead worker has work"
    if full:
        core.check()
        for worker in scheduler.workers.values():
            if worker.state is WorkerState.LEASED:
                assert worker.tasks or worker.lane is not None, "a lease without a task"
            assert worker.state is not WorkerState.IDLE or not worker.tasks


def check_programs(processes: list[Any]) -> None:
    """When nothing happens any more: every program has come to its end."""
    for process in processes:
        if not process.dead:
            for fiber in process.fibers:
                raise AssertionError(f"{process.name} waits for ever: {fiber.waits_for}")
            server = getattr(process, "server", None)
            assert not (server and server.queue), f"{process.name} has calls not begun"


def _check_nothing_stored(core: NodeCore) -> None:
    store = core.store
    rows = [
        f"{short(stored.id)} {stored.state.name} holds={stored.holds} pins={stored.pins}"
        f"{' foreign' if stored.is_foreign else ''}{' cached' if stored.id in store.cached else ''}"
        for stored in store.objects.values()
    ]
    assert not rows, f"{short(core.me.node_id)} keeps {rows}"
    left = [short(i) for i in (*store.creations, *store.arriving, *store.watched)]
    assert not left, f"{short(core.me.node_id)} has {left}"
    assert not store.arena.used_bytes and not store.queue
    assert not store.inline_bytes, (
        f"{short(core.me.node_id)} counts {store.inline_bytes} bytes inline"
    )


def check_idle(core: NodeCore, processes: list[Any]) -> None:
    """All programs are over and have dropped all refs: nothing is left but idle workers."""
    core.check()
    for process in processes:
        if not process.dead:
            assert not process.counter.counts and not process.counter.journal
            process.check_lanes_idle()
            assert not process.peer.held, f"{process.name} holds {len(process.peer.held)}"
            assert not process.peer.pins
            assert not process.peer.deferred
    _check_nothing_stored(core)
    scheduler = core.scheduler
    for lane in core.parts.tables.lanes.values():
        assert lane.state is LaneState.OPEN and lane.caller.alive, f"lane {lane.number}"
        assert not lane.promised and not lane.begun and not lane.awaiting
        assert lane.number in lane.worker.lanes and lane.worker.actor is not None, "still lent"
    assert not scheduler.queued() and not scheduler.ready and not scheduler.emptied
    assert scheduler.available == scheduler.total, scheduler.available
    for worker in scheduler.workers.values():
        assert worker.state is WorkerState.IDLE and not worker.tasks, worker.state.name
        assert not worker.load_s and worker.actor is None
    actors = [
        f"{short(actor.id)} {actor.state.name} handles={actor.has_handles}"
        f"{' proxy' if actor.is_proxy else ''}{' hosted elsewhere' if actor.host else ''}"
        for actor in core.router.actors.values()
    ]
    assert not actors and not core.parts.actor_resources.lent_cpu, (
        f"{short(core.me.node_id)} has {actors}"
    )
    assert not core.parts.workers.exits and not core.parts.workers.lost
    cpus = scheduler.total["CPU"] // 10_000
    assert len(scheduler.workers) <= cpus, "idle workers beyond the CPUs"


def check_empty(core: NodeCore) -> None:
    """The drivers have left: nothing remembers them."""
    core.check()
    scheduler = core.scheduler
    peers = [peer for peer in core.clients if not peer.node_id]
    assert not peers and not core.jobs.by_id, f"{short(core.me.node_id)} has {core.jobs.by_id}"
    assert not core.jobs.templates and not core.jobs.functions, list(core.jobs.functions)
    _check_nothing_stored(core)
    assert not scheduler.workers and not scheduler.pools and not scheduler.classes
    assert not scheduler.ready and not scheduler.placing
    assert scheduler.available == scheduler.total
    assert not core.router.actors and not core.parts.workers.exits and not core.parts.workers.lost
    assert not core.parts.asking.asked
