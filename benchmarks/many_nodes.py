"""The bars of many nodes, on one host: ``python -m benchmarks.many_nodes``.

Each figure is a ratio within one run, and the median of several. Nodes are real node daemons of a
``cluster_utils.Cluster``, each with its own store, workers and TCP port, on loopback. The transfer
of one large object has a benchmark of its own (benchmarks/transfer.py), and so has the scale that
does not fit one machine (``python -m sim.scale``).
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

import skate
from benchmarks.measuring import unique_memory_mib
from skate.cluster_utils import Cluster, ClusterNode
from skate.util.scheduling_strategies import NodeAffinitySchedulingStrategy

BATCH = 1_000
BATCH_ROUNDS = 10
CALLS = 300
INPUT_BYTES = 100_000_000
INPUTS = 16
NODES = 20
CLUSTER_TASKS = 2_000
ROUNDS = 3


@skate.remote
def echo(value: Any) -> Any:
    """The smallest task."""
    return value


@skate.remote
def make(size: int) -> Any:
    """A large result."""
    return np.ones(size, dtype=np.uint8)


@skate.remote
def use(array: Any) -> int:
    """A task with a large input, of which it reads one byte."""
    return int(array[0])


@contextmanager
def cluster_of(nodes: int, cpus: int, store_bytes: int = 200 << 20) -> Iterator[Cluster]:
    """A cluster of so many nodes, and this process as its driver."""
    options = {"num_cpus": cpus, "object_store_memory": store_bytes}
    cluster = Cluster(initialize_head=True, head_node_args=options)
    for _ in range(nodes - 1):
        cluster.add_node(**options, wait=False)
    cluster.wait_for_nodes(60)
    skate.init(address=cluster.address)
    try:
        yield cluster
    finally:
        skate.shutdown()
        cluster.shutdown()


def rate_of_batches(call: Any) -> float:
    """Tasks a second, a thousand at a time: the median batch."""
    skate.get([call.remote(0) for _ in range(BATCH)])
    seconds = []
    for _ in range(BATCH_ROUNDS):
        began = time.perf_counter()
        skate.get([call.remote(0) for _ in range(BATCH)])
        seconds.append(time.perf_counter() - began)
    return BATCH / statistics.median(seconds)


def spread() -> float:
    """Tasks spread over four nodes against one node with the same CPUs: the share of its rate."""
    with cluster_of(1, 4):
        alone = rate_of_batches(echo)
    with cluster_of(4, 1):
        spread_out = rate_of_batches(echo.options(scheduling_strategy="SPREAD"))
    return spread_out / alone


def hop() -> float:
    """What one hop adds to a task's latency, in local latencies."""
    with cluster_of(2, 1) as cluster:
        other = NodeAffinitySchedulingStrategy(cluster.worker_nodes[0].node_id, soft=False)
        calls = (echo, echo.options(scheduling_strategy=other))
        latencies: tuple[list[float], list[float]] = ([], [])
        for round_ in range(CALLS + 20):
            for call, seen in zip(calls, latencies, strict=True):
                began = time.perf_counter()
                skate.get(call.remote(0))
                if round_ >= 20:  # the first ones start workers and open lines
                    seen.append(time.perf_counter() - began)
    local, remote = (statistics.median(seen) for seen in latencies)
    return remote / local - 1


def locality() -> float:
    """The paper's experiment: mean latency of tasks placed without a look at their inputs, against
    those that the scheduler places."""
    with cluster_of(2, 1, 1 << 30) as cluster:
        nodes = [
            NodeAffinitySchedulingStrategy(node.node_id, soft=False)
            for node in cluster.list_all_nodes()
        ]
        dice = random.Random(1)
        means = []
        for aware in (True, False):
            seconds = []
            for _ in range(INPUTS):
                input_ = make.options(scheduling_strategy=dice.choice(nodes)).remote(INPUT_BYTES)
                skate.wait([input_], fetch_local=False)
                call = use if aware else use.options(scheduling_strategy=dice.choice(nodes))
                began = time.perf_counter()
                skate.get(call.remote(input_))
                seconds.append(time.perf_counter() - began)
                del input_
            means.append(statistics.mean(seconds))
    return means[1] / means[0]


def memory_of(node: ClusterNode) -> float:
    """Unique memory of a node: its daemon, zygote and workers, in MiB."""
    daemon = psutil.Process(node.pids["node"])
    return sum(unique_memory_mib(p.pid) for p in (daemon, *daemon.children(recursive=True)))


def twenty_nodes() -> tuple[float, float]:
    """(seconds from the first start to the last stop, the largest node's unique memory in MiB)."""
    began = time.perf_counter()
    with cluster_of(NODES, 1, 100 << 20) as cluster:
        call = echo.options(scheduling_strategy="SPREAD")
        skate.get([call.remote(i) for i in range(CLUSTER_TASKS)])
        measuring = time.perf_counter()
        memory = max(memory_of(node) for node in cluster.list_all_nodes())
        measured_s = time.perf_counter() - measuring
    return time.perf_counter() - began - measured_s, memory


def main() -> int:
    """Measure everything; 1 if a bar is missed."""
    table = Table("what", "figure", "spread", "bar", "")
    missed = 0

    def row(what: str, figures: list[float], unit: str, bar: float, *, at_most: bool) -> None:
        nonlocal missed
        middle = statistics.median(figures)
        met = middle < bar if at_most else middle >= bar
        missed += not met
        spread_text = f"{min(figures):.3g} - {max(figures):.3g}"
        sign = "<" if at_most else ">="
        verdict = "" if met else "missed"
        table.add_row(what, f"{middle:.3g}{unit}", spread_text, f"{sign} {bar:g}{unit}", verdict)

    def several(measure: Callable[[], float]) -> list[float]:
        return [measure() for _ in range(ROUNDS)]

    row("tasks over 4 nodes / one node", several(spread), "", 0.5, at_most=False)
    row("latency added by a hop / local", several(hop), "", 2.0, at_most=True)
    row("mean latency without / with locality", several(locality), "x", 10, at_most=False)
    twenty = [twenty_nodes() for _ in range(ROUNDS)]
    row("20 nodes: start, 2,000 tasks, stop", [s for s, _ in twenty], " s", 60, at_most=True)
    row("20 nodes: unique memory of one", [mib for _, mib in twenty], " MiB", 60, at_most=True)
    Console().print(table)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
