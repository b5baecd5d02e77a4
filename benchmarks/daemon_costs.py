"""What tasks and heartbeats cost the daemons: CPU time of real processes, for sim/scale.

``python -m benchmarks.daemon_costs`` prints them. Tasks sleep for 10 ms on nodes of 32 CPUs, so
that they occupy workers and no CPU: what the daemons use is what 3,200 tasks a second cost them.
CPU time comes from the kernel's scheduler, in nanoseconds, over all threads of a process. Only the
GCS's work on offers and events is measured on its core alone, with the encoding of its messages, as
it depends on the number of nodes, and there is one machine.
"""

from __future__ import annotations

import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

import skate
from sim.scale.costs import MEASURED, Costs
from skate import messages as m
from skate.cluster_utils import Cluster, ClusterNode
from skate.config import HEARTBEAT_S, PROTOCOL_VERSION
from skate.gcs.event_log import encode_events
from skate.gcs.gcs_core import GcsCore
from skate.util.scheduling_strategies import NodeAffinitySchedulingStrategy

CPUS = 32
TASK_S = 0.01
TASKS = 6_400
SETTLE_S = 0.3
IDLE_S = 3.0
OFFERS = 30
NODE_COUNTS = (1, 1_000)


@skate.remote
def nap() -> None:
    """Occupy a worker, and no CPU."""
    time.sleep(TASK_S)


@skate.remote
def block(path: str) -> None:
    """Occupy a worker until this file is gone."""
    while Path(path).exists():
        time.sleep(0.01)


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds of these processes so far, all threads."""
    nanoseconds = 0
    for pid in pids:
        for stat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            nanoseconds += int(stat.read_text().split()[0])
    return nanoseconds / 1e9


def worker_pids(node: ClusterNode) -> list[int]:
    """The workers of a node: children of its zygote."""
    daemon = psutil.Process(node.pids["node"])
    return [worker.pid for zygote in daemon.children() for worker in zygote.children()]


def idle_rates(nodes: list[ClusterNode]) -> tuple[list[float], float]:
    """CPU seconds a second of each node daemon, and of the GCS, while nobody asks for anything."""
    gcs = nodes[0].pids["gcs"]
    begin = time.perf_counter()
    before = [cpu_s([node.pids["node"]]) for node in nodes], cpu_s([gcs])
    time.sleep(IDLE_S)
    after = [cpu_s([node.pids["node"]]) for node in nodes], cpu_s([gcs])
    seconds = time.perf_counter() - begin
    rates = [(x - y) / seconds for x, y in zip(after[0], before[0], strict=True)]
    return rates, (after[1] - before[1]) / seconds


def heartbeat_costs(nodes: list[ClusterNode]) -> dict[str, float]:
    """Of an idle cluster with many nodes: what the GCS, and the head's node for it, spend."""
    rates, gcs_rate = idle_rates(nodes)
    others = rates[1:]
    messages_a_second = len(nodes) / HEARTBEAT_S
    relayed = rates[0] - statistics.median(others)
    return {
        "relay_s": max(0.0, relayed) / (messages_a_second - 1 / HEARTBEAT_S),
        "gcs_heartbeat_s": gcs_rate / messages_a_second,
    }


def task_costs() -> dict[str, float]:
    """Of tasks that run at home, and of tasks that run on another node."""
    cluster = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": CPUS})
    try:
        head = cluster.list_all_nodes()[0]
        home = [head.pids["node"]]
        skate.get([nap.remote() for _ in range(4 * CPUS)])
        tick_rate = idle_rates([head])[0][0]

        me = time.process_time()
        submit_s, run_s, worker_s = _in_two_parts(head, nap, block, home, tick_rate)
        submitter_s = (time.process_time() - me) / TASKS  # with what it takes to get the results

        other = cluster.add_node(num_cpus=CPUS)
        host = [other.pids["node"]]
        there = {"scheduling_strategy": NodeAffinitySchedulingStrategy(other.node_id, soft=False)}
        far, far_block = nap.options(**there), block.options(**there)
        skate.get([far.remote() for _ in range(4 * CPUS)])
        at_home = _in_two_parts(other, far, far_block, home, tick_rate)
        at_host = _in_two_parts(other, far, far_block, host, tick_rate)
        return {
            "submit_s": submit_s,
            "run_s": run_s,
            "forward_s": at_home[0] - submit_s,
            "returned_s": at_home[1],
            "guest_s": at_host[0],
            "guest_run_s": at_host[1],
            "tick_s": tick_rate * HEARTBEAT_S,
            "submitter_s": submitter_s,
            "worker_s": worker_s,
        }
    finally:
        cluster.shutdown()


def _in_two_parts(
    node: ClusterNode, nap: Any, block: Any, daemon: list[int], idle_rate: float
) -> tuple[float, float, float]:
    """CPU seconds a task of a daemon until tasks wait on a node, and from then on; of the workers.

    While every CPU there is taken, tasks are taken in and no more.
    """
    with tempfile.NamedTemporaryFile() as file:
        blockers = [block.remote(file.name) for _ in range(CPUS)]
        time.sleep(SETTLE_S)
        before, begin = cpu_s(daemon), time.perf_counter()
        refs = [nap.remote() for _ in range(TASKS)]
        time.sleep(SETTLE_S)
        taken_in, then = cpu_s(daemon), time.perf_counter()
        workers = worker_pids(node)
        at_work = cpu_s(workers)
    skate.get(blockers)
    skate.get(refs)
    del refs
    time.sleep(SETTLE_S)
    after, end = cpu_s(daemon), time.perf_counter()
    return (
        (taken_in - before - (then - begin) * idle_rate) / TASKS,
        (after - taken_in - (end - then) * idle_rate) / TASKS,
        (cpu_s(workers) - at_work) / TASKS,
    )


def gcs_costs() -> dict[str, float]:
    """Of the GCS's core: offers of as many tasks as there may be in one, and batches of events."""
    few, many = (_offer_s(count) for count in NODE_COUNTS)
    a_node = (many - few) / (NODE_COUNTS[1] - NODE_COUNTS[0])
    small, large = (_events_s(count) for count in (1, 1_000))
    return {
        "gcs_offer_s": max(0.0, few - NODE_COUNTS[0] * a_node),
        "gcs_offer_node_s": a_node,
        "gcs_events_s": small,
        "gcs_event_s": max(0.0, large - small) / 999,
    }


def _core_with_nodes(count: int) -> GcsCore:
    core = GcsCore(None, random=random.Random(1).random)
    total = {"CPU": CPUS * 10_000}
    for number in range(count):
        node_id = number.to_bytes(4, "big") * 4
        joins = m.NodeJoins(PROTOCOL_VERSION, node_id, 1, f"h:{number}", "h", total, {}, 1)
        core.handle(number, joins, 1.0)
    return core


def _offer_s(nodes: int) -> float:
    core = _core_with_nodes(nodes)
    total = {"CPU": CPUS * 10_000}
    seconds = []
    for number in range(OFFERS):
        load = m.Heartbeat(total, 0, 0, 0, TASK_S, 10_000 * number)
        for peer in range(nodes):
            core.handle(peer, load, 1.0 + number)
        offer = m.encode([m.Offer(number, (("CPU", 10_000),), 10_000, 20_000, TASK_S)])
        begin = time.thread_time()
        (message,) = m.decode_to_gcs(offer)
        for _, answer in core.handle(0, message, 1.0 + number):
            m.encode([answer])
        seconds.append(time.thread_time() - begin)
    return statistics.median(seconds)


def _events_s(count: int) -> float:
    core = _core_with_nodes(1)
    event = (
        "T", b"t" * 16, 0, "nap", b"jjjj", 1, b"w" * 16, 1.0, 1.0, 1.0, 1.0, 1.0, 4, "",
        b"n" * 16, "task", 1, 1.0, 10, True,
    )  # fmt: skip
    batch = m.encode([m.Events(count, encode_events([event] * count), 0)])
    seconds = []
    for _ in range(100):
        begin = time.thread_time()
        core.handle(0, m.decode_to_gcs(batch)[0], 1.0)
        seconds.append(time.thread_time() - begin)
    return statistics.median(seconds)


def costs_of(figures: dict[str, float]) -> Costs:
    """For the simulation."""
    return replace(Costs(), **{name: figures[name] for name in MEASURED if name in figures})


def main() -> None:
    """Print what can be measured without a large cluster, as microseconds."""
    figures = {**task_costs(), **gcs_costs()}
    cluster = Cluster(initialize_head=True)
    for _ in range(9):
        cluster.add_node(wait=False)
    cluster.wait_for_nodes()
    figures |= heartbeat_costs(cluster.list_all_nodes())
    cluster.shutdown()
    print(json.dumps({name: round(seconds * 1e6, 2) for name, seconds in figures.items()}))


if __name__ == "__main__":
    main()
