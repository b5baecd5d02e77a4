"""The world around a NodeCore: a heap of events, lines with random delays, processes that die.

Everything follows from one seed. The core is the one that ships; only sockets, processes and the
clock are simulated. Each connection is two first-in-first-out lines; a batch takes a random time.
A process that dies sends its EOF behind what it had sent, and its exit status by another way, so
either may come first.

It knows nothing of what processes do (sim/process.py, sim/workload.py) nor of what must hold
(sim/invariants.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import TYPE_CHECKING, Any

from sim.invariants import Ledger, check_turn
from skate import messages as m
from skate.config import HEARTBEAT_S, PYTHON
from skate.node.node_core import NodeCore
from skate.node.peer import Job, Peer
from skate.objects.arena import Arena
from skate.scheduler.local_scheduler import Worker

if TYPE_CHECKING:
    from sim.process import Process
    from sim.workload import Settings

STORY_LINES = 20_000  # of one run, kept while telling
QUIET_TICKS = 45  # nothing but the clock for so long: longer than any time-out of the core
LONGEST_RUN_S = 2_000.0  # of virtual time: beyond, something goes round in circles


class Line:
    """One direction of one connection: batches arrive in order, each after a random time."""

    def __init__(self, simulator: Simulator, arrive: Callable[[Any], None]) -> None:
        self._simulator = simulator
        self._arrive = arrive
        self._busy_until = 0.0

    def send(self, item: Any) -> None:
        """Deliver after everything that was sent before."""
        simulator = self._simulator
        at = max(self._busy_until, simulator.now + simulator.delay())
        self._busy_until = at
        simulator.at(at - simulator.now, self._arrive, item)


class Simulator:
    """See the module's docstring. ``run`` returns when all is over; a broken rule raises."""

    def __init__(self, settings: Settings, seed: int, *, tell: bool = False) -> None:
        self.settings = settings
        self.random = Random(seed)
        self.now = 1_000.0
        self.story: deque[str] | None = deque(maxlen=STORY_LINES) if tell else None
        self.ledger = Ledger(self)
        self.core = NodeCore(
            b"n" * 16,
            "sim",
            settings.resources,
            Arena(settings.arena_bytes),
            "",
            SimulatedShell(self),
            PYTHON,
        )
        self.core.now = self.now
        self.processes: dict[Peer, Process] = {}
        self.contents: dict[bytes, list[bytes]] = {}  # refs inside large objects
        self.turns = 0
        self.events = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self._turn_due = False

    # ------------------------------------------------------------------ time

    def at(self, delay_s: float, call: Callable[..., None], *arguments: Any) -> None:
        """Call once that much time has passed."""
        self._count += 1
        heappush(self._heap, (self.now + delay_s, self._count, call, arguments))

    def delay(self) -> float:
        """How long one batch is under way: mostly short, sometimes a stall."""
        chance = self.random.random()
        if chance < 0.97:
            return self.settings.delay_s * (0.3 + chance)
        return self.settings.stall_s * self.random.random()

    def tell(self, *words: Any) -> None:
        """One line of the story, if it is being told; ids are shortened."""
        if self.story is not None:
            text = " ".join(short(w) for w in words)
            self.story.append(f"{self.now - 1_000:10.6f}  {text}")

    def run_until_quiet(self) -> None:
        """Let everything happen that is going to happen by itself."""
        next_tick = self.now + HEARTBEAT_S
        quiet = 0
        while quiet < QUIET_TICKS:
            if self._heap and self._heap[0][0] <= next_tick:
                self.now, _, call, arguments = heappop(self._heap)
                self.events += 1
                quiet = 0
                call(*arguments)
            else:
                self.now = next_tick
                next_tick += HEARTBEAT_S
                quiet += not self._heap
                self.core.now = self.now
                self.core.tick()
                self._turn()
                if self.now > 1_000.0 + LONGEST_RUN_S:
                    raise AssertionError("the run does not come to an end")

    # ------------------------------------------------------------------ the switch

    def from_client(self, peer: Peer, item: Any) -> None:
        """A batch (or, None, the EOF) arrives at the node."""
        core = self.core
        core.now = self.now
        if item is None:
            self.tell("EOF of", self.name(peer))
            core.peer_lost(peer)
        else:
            for message in item:
                self.tell(self.name(peer), "->", message)
                core.handle(peer, message)
        self._turn_soon()

    def worker_exited(self, worker: Worker, status: int) -> None:
        """The zygote has reaped a worker."""
        self.tell("exit status", status, "of worker", worker.id)
        self.core.now = self.now
        self.core.workers.exited(worker, status)
        self._turn_soon()

    def _turn_soon(self) -> None:
        # Several batches may fall into one turn.
        if not self._turn_due:
            self._turn_due = True
            self.at(self.random.random() * 1e-4, self._turn)

    def _turn(self) -> None:
        self._turn_due = False
        core = self.core
        core.now = self.now
        core.end_turn()
        self.turns += 1
        check_turn(core, full=self.turns % self.settings.check_every == 0)
        self.write_out()
        core.gcs.clear()
        core.notes.batch.take()
        core.store.dropped.clear()

    def write_out(self) -> None:
        """One batch to each peer that has something."""
        core = self.core
        while core.dirty:
            dirty, core.dirty = core.dirty, []
            for peer in dirty:
                self.write_out_peer(peer)

    def write_out_peer(self, peer: Peer) -> None:
        """What the core has for this peer; a driver may be slow to read it."""
        if not peer.outbox or peer not in self.core.peers:
            return
        batch, peer.outbox = peer.outbox, []
        for message in batch:
            self.tell(self.name(peer), "<-", message)
        self.processes[peer].inbound.send(m.decode_to_client(m.encode(batch)))
        if not peer.paused and self.random.random() < self.settings.pause_share:
            peer.paused = True
            self.at(self.random.random() * 0.05, self._resume, peer)

    def _resume(self, peer: Peer) -> None:
        self.core.now = self.now
        self.core.desk.resume(peer)
        self.write_out()

    def connect(self, peer: Peer, process: Process) -> None:
        """A process's line to the node exists; the node learns of it a little later."""
        self.processes[peer] = process
        self.at(self.delay(), self._connected, peer)

    def _connected(self, peer: Peer) -> None:
        self.core.now = self.now
        self.core.add_peer(peer)
        self.write_out_peer(peer)

    def name(self, peer: Peer) -> str:
        """Who it is, for the story."""
        return self.processes[peer].name if peer in self.processes else "?"


class SimulatedShell:
    """What the core asks of the world."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    def start_worker(self, worker: Worker, setup: m.WorkerSetup) -> None:
        """Fork."""
        from sim.process import WorkerProcess

        simulator = self._simulator
        peer = Peer()
        peer.worker = worker
        worker.peer = peer
        process = WorkerProcess(simulator, peer, worker)
        simulator.connect(peer, process)
        simulator.core.send(peer, setup)

    def kill_worker(self, worker: Worker) -> None:
        """SIGKILL."""
        process = self._simulator.processes[worker.peer]
        self._simulator.at(self._simulator.random.random() * 0.002, process.die, -9)

    def close(self, peer: Peer) -> None:
        """Close after what is queued has been written."""
        self._simulator.write_out_peer(peer)
        self._simulator.processes[peer].inbound.send(None)

    def stderr_tail(self, worker: Worker) -> list[str]:
        """Nothing was printed."""
        return []

    def new_id(self) -> bytes:
        """16 random bytes."""
        return self._simulator.random.randbytes(16)

    def job_ended(self, job: Job, reason: str) -> None:
        """The session goes on with the other drivers."""

    def answer_locally(self, peer: Peer, question: m.Ask) -> bool:
        """Never."""
        return False


def short(word: Any) -> str:
    """Ids as their distinctive digits, messages without their defaults."""
    if isinstance(word, bytes):
        return word.hex()[8:14] + "." + word.hex()[26:] if len(word) > 12 else repr(word)
    if isinstance(word, list | tuple):
        return "[" + " ".join(short(w) for w in word) + "]"
    if hasattr(word, "__struct_fields__"):
        fields = ((name, getattr(word, name)) for name in word.__struct_fields__)
        shown = " ".join(f"{name}={short(x)}" for name, x in fields if x or x == 0)
        return f"{type(word).__name__}({shown})"
    return str(word)
