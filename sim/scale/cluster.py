"""A cluster at work: who submits what, and how fast it is done.

Before time is taken, every node has its workers and knows the functions: a warm-up has run as many
tasks on each node as it has CPUs. Then a driver on the head begins, and the clock stops when it has
its results. Two ways to submit:

- *half*: the driver sends one task to every second node, which submits its share of the work from
  there and waits for it. The other nodes get theirs from the global scheduler alone.
- *one*: the driver submits everything itself.
"""

from __future__ import annotations

import gc
import math
import time
from collections import Counter
from dataclasses import dataclass

from sim.scale.costs import Costs
from sim.scale.gcs_machine import Gcs
from sim.scale.leaves import Leaves
from sim.scale.machines import Node
from sim.scale.network import Network
from sim.scale.programs import LEAF, NOTHING, Driver, WorkerProcess, leaf_on, part_on
from sim.scale.world import World

GIVE_UP_S = 2_000.0  # of virtual time
WORKER_START_S = 0.005  # of a zygote, for one fork; no time at all in the warm-up


@dataclass(frozen=True)
class Outcome:
    """What came of a run. ``busy`` are the daemons' shares of one core, the busiest first;
    ``programs`` those of the busiest worker that submits, and of the busiest that only runs."""

    nodes: int
    cpus: int
    tasks: int
    submitters: int
    seed: int
    task_s: float
    seconds: float
    sustained: float  # tasks a second, without the beginning and the end
    busy: list[tuple[str, float]]
    programs: tuple[float, float]
    rode: int  # tasks, on lanes
    forwarded: int  # tasks, so often
    given_back: int
    met: dict[str, int]  # messages to the GCS, by kind
    events: int
    wall_s: float

    @property
    def ideal(self) -> float:
        """Tasks a second if all CPUs did nothing else; infinite, if tasks are empty."""
        return self.nodes * self.cpus / self.task_s if self.task_s else math.inf

    @property
    def throughput(self) -> float:
        """Tasks a second, from the first submission to the last result."""
        return self.tasks / self.seconds

    @property
    def share(self) -> float:
        """Of the ideal."""
        return self.throughput / self.ideal


class SimulatedCluster:
    """Nodes, the GCS, and what lies between them."""

    def __init__(
        self,
        nodes: int,
        cpus: int,
        task_s: float,
        seed: int = 0,
        costs: Costs | None = None,
        *,
        lanes: bool = True,
    ) -> None:
        self.world = World(seed)
        self.cpus = cpus
        self.seed = seed
        self.leaves = Leaves(task_s)
        costs = costs or Costs()
        network = Network(self.world, costs)
        self.nodes = [
            Node(self.world, costs, network, self.leaves, number, cpus, offers_lanes=lanes)
            for number in range(nodes)
        ]
        by_id = {node.node_id: node for node in self.nodes}
        for node in self.nodes:
            node.others = by_id
        self.gcs = Gcs(self.world, costs, network)
        self.gcs.join(self.nodes)
        for node in self.nodes:
            node.start_clock()

    # ------------------------------------------------------------------ work

    def work(self, tasks: int, *, one_driver: bool = False, is_even: bool = False) -> Outcome:
        """Warm up, then run so many leaves, submitted on half of the nodes, on one, or on all."""
        wall = time.perf_counter()
        submitters = [] if one_driver else self.nodes[:: 1 if is_even else 2]
        templates = [
            LEAF,
            *(leaf_on(node.node_id) for node in self.nodes),
            *(part_on(node.node_id) for node in submitters),
        ]
        is_done: list[str] = []
        driver = Driver(self.nodes[0], templates, lambda: is_done.append("connected"))
        self.world.run_until(lambda: bool(is_done), GIVE_UP_S)
        warm_up = [(1 + node.number, NOTHING, self.cpus) for node in self.nodes]
        driver.submit(warm_up, 0, lambda: is_done.append("warm"))
        self.world.run_until(lambda: len(is_done) == 2, GIVE_UP_S)

        if one_driver:
            work = [(0, NOTHING, tasks)]
        else:
            first, count = 1 + len(self.nodes), len(submitters)
            shares = [tasks // count + (number < tasks % count) for number in range(count)]
            work = [(first + i, share.to_bytes(4, "big"), 1) for i, share in enumerate(shares)]
        for node in self.nodes:
            node.forking_s = WORKER_START_S
        began = self.world.now
        self.leaves.begin()
        servers = {node_name(node): node.server for node in self.nodes}
        servers["GCS"] = self.gcs.server
        before = {name: server.busy_s for name, server in servers.items()}
        met = Counter(self.gcs.met)
        spent = {process: process.thread.busy_s for process in self._processes()}
        forwarded = sum(node.forwarded for node in self.nodes)
        driver.submit(work, 0, lambda: is_done.append("over"))
        self.world.run_until(lambda: len(is_done) == 3, GIVE_UP_S)

        seconds = self.world.now - began
        busy = [(name, (s.busy_s - before[name]) / seconds) for name, s in servers.items()]
        return Outcome(
            nodes=len(self.nodes),
            cpus=self.cpus,
            tasks=tasks,
            submitters=len(submitters) or 1,
            seed=self.seed,
            task_s=self.leaves.task_s,
            seconds=seconds,
            sustained=self.leaves.sustained(tasks),
            programs=(
                self._busiest(spent, seconds, submits=True),
                self._busiest(spent, seconds, submits=False),
            ),
            rode=driver.rode + sum(process.rode for process in self._processes()),
            busy=sorted(busy, key=lambda pair: -pair[1]),
            forwarded=sum(node.forwarded for node in self.nodes) - forwarded,
            given_back=sum(node.given_back for node in self.nodes),
            met=dict(self.gcs.met - met),
            events=self.world.events,
            wall_s=time.perf_counter() - wall,
        )

    def _processes(self) -> list[WorkerProcess]:
        return [process for node in self.nodes for process in node.processes.values()]

    def _busiest(
        self, before: dict[WorkerProcess, float], seconds: float, *, submits: bool
    ) -> float:
        spent = (
            process.thread.busy_s - before.get(process, 0.0)
            for process in self._processes()
            if process.submits is submits
        )
        return max(spent, default=0.0) / seconds

    def check(self) -> None:
        """The cores' own invariants."""
        for node in self.nodes:
            node.core.check()
        self.gcs.core.scheduler.check()


def node_name(node: Node) -> str:
    """For people."""
    if node.number == 0:
        return "the head's node"
    return f"node {node.number}" + ("" if node.number % 2 else " (submits)")


def simulate(
    nodes: int,
    tasks: int,
    *,
    cpus: int = 32,
    task_s: float = 0.01,
    seed: int = 0,
    one_driver: bool = False,
    is_even: bool = False,
    costs: Costs | None = None,
    lanes: bool = True,
) -> Outcome:
    """One run, from start to end. Python's cycle collector rests: it would look at all, in vain."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        cluster = SimulatedCluster(nodes, cpus, task_s, seed, costs, lanes=lanes)
        outcome = cluster.work(tasks, one_driver=one_driver, is_even=is_even)
        if nodes <= 100:
            cluster.check()
        return outcome
    finally:
        if was_enabled:
            gc.enable()
