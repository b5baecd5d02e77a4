"""The world: a heap of events in virtual time, nodes, the GCS, and the story of a run.

Everything follows from one seed. The cores are the ones that ship; only sockets, processes and the
clock are simulated. With one node there is no GCS, as nothing of what it says concerns a node that
is alone; what the node tells it is dropped.

The world is quiet when nothing has happened for some time but what happens by the clock alone:
heartbeats, ticks and the time-outs of cores. It knows nothing of what processes do (sim/process.py,
sim/workload.py) nor of what must hold (sim/invariants.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import TYPE_CHECKING, Any

from sim.gcs import SimulatedGcs
from sim.invariants import Ledger
from sim.node import SimulatedNode
from sim.story import short
from sim.wires import LastingWire
from skate.config import HEARTBEAT_S
from skate.rows import Client

if TYPE_CHECKING:
    from sim.process import Process
    from sim.workload import Settings

STORY_LINES = 20_000  # of one run, kept while telling
QUIET_TICKS = 45  # nothing but the clock for so long: longer than most time-outs of the core
PATIENT_TICKS = 130  # longer than any
LONGEST_RUN_S = 2_000.0  # of virtual time: beyond, something goes round in circles


class Timer:
    """Something to happen; ``cancel`` it and it will not."""

    __slots__ = ("arguments", "call", "is_background")

    def __init__(
        self, call: Callable[..., None], arguments: tuple[Any, ...], is_background: bool
    ) -> None:
        self.call: Callable[..., None] | None = call
        self.arguments = arguments
        self.is_background = is_background


class Simulator:
    """See the module's docstring. A broken rule raises AssertionError."""

    def __init__(self, settings: Settings, seed: int, *, tell: bool = False) -> None:
        self.settings = settings
        self.random = Random(seed)
        self.now = 1_000.0
        self.story: deque[str] | None = deque(maxlen=STORY_LINES) if tell else None
        self.ledger = Ledger(self)
        self.processes: dict[Client, Process] = {}  # of all nodes, the dead ones too
        self.wires: list[LastingWire] = []
        self.in_order: dict[bytes, bool] = {}  # of each actor
        self.births: dict[bytes, int] = {}  # of tasks, actors and puts: which came first
        self.parents: dict[bytes, bytes] = {}  # the tasks and calls that made them
        self.roots: dict[bytes, int] = {}  # the births of the drivers' calls that led to them
        self.events = 0
        self._heap: list[tuple[float, int, Timer]] = []
        self._count = 0
        self._next_tick = self.now + HEARTBEAT_S
        self._pending = 0  # timers that are not in the background
        self.nodes: list[SimulatedNode] = []
        self.by_id: dict[bytes, SimulatedNode] = {}
        self.gcs = SimulatedGcs(self) if settings.is_cluster else None

    def add_node(self) -> SimulatedNode:
        """One more machine."""
        node = SimulatedNode(self, len(self.nodes))
        self.nodes.append(node)
        self.by_id[node.core.me.node_id] = node
        node.start()
        return node

    def rejoin(self, node: SimulatedNode) -> None:
        """The machine of a node that has ended its work is another node now."""
        self.settings.add_machine(len(self.nodes), node.number)
        self.add_node()

    @property
    def alive(self) -> list[SimulatedNode]:
        """The nodes that live."""
        return [node for node in self.nodes if not node.dead]

    # ------------------------------------------------------------------ time

    def at(
        self,
        delay_s: float,
        call: Callable[..., None],
        *arguments: Any,
        is_background: bool = False,
    ) -> Timer:
        """Call once that much time has passed."""
        self._count += 1
        timer = Timer(call, arguments, is_background)
        self._pending += not is_background
        heappush(self._heap, (self.now + delay_s, self._count, timer))
        return timer

    def cancel(self, timer: Timer | None) -> None:
        """It is not to happen, if it has not yet."""
        if timer is not None and timer.call is not None:
            timer.call = None
            self._pending -= not timer.is_background

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
        quiet = 0
        while quiet < QUIET_TICKS or (quiet < PATIENT_TICKS and self._something_is_due()):
            quiet = 0 if self._run_to_tick() else quiet + (not self._pending)
            if self.now > 1_000.0 + LONGEST_RUN_S:
                raise AssertionError("the run does not come to an end")

    def run_while(self, condition: Callable[[], bool], most_s: float) -> None:
        """Let everything happen until this holds no more, or for so long."""
        end = self.now + most_s
        while self.now < end and condition():
            self._run_to_tick()

    def _run_to_tick(self) -> bool:
        """Up to the next tick, and that; whether anything has happened but by the clock."""
        has_happened = False
        while self._heap and self._heap[0][0] <= self._next_tick:
            self.now, _, timer = heappop(self._heap)
            if timer.call is None:
                continue
            self.events += 1
            call, timer.call = timer.call, None
            if not timer.is_background:
                self._pending -= 1
                has_happened = True
            call(*timer.arguments)
        self.now = self._next_tick
        self._next_tick += HEARTBEAT_S
        self._tick()
        return has_happened

    def _something_is_due(self) -> bool:
        return any(node.core.parts.actor_proxies.is_waiting for node in self.alive)

    def _tick(self) -> None:
        for node in self.alive:
            if node.phase_s:
                self.at(node.phase_s, node.tick, is_background=True)
            else:
                node.tick()
        if self.gcs is not None:
            self.gcs.tick()

    # ------------------------------------------------------------------ who it is

    def name(self, peer: Client) -> str:
        """Who it is, for the story."""
        if peer in self.processes:
            return self.processes[peer].name
        if peer.node_id in self.by_id:
            return self.by_id[peer.node_id].name
        return "?"
