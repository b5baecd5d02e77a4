"""What tasks and heartbeats cost the daemons: CPU time of real processes, for sim/scale.

``python -m benchmarks.daemon_costs`` prints them, medians of seven rounds. What messages cost is
measured on thousands of empty tasks at a time, when many share a frame; what a frame costs, on
tasks one by one, which sleep for a moment, so that every frame is one message and a wake-up: of a
task at home four frames, of one elsewhere two to or from a process and two to or from a node, at
each of the two daemons. What a worker uses for a task is measured at 3,200 tasks a second that
sleep for 10 ms each. Tasks that go by the switch may be retried after exceptions, so none rides on
a lane. What a frame costs a daemon that is busy anyway is measured with 32 processes that ask it
for a sign of life again and again, a question a frame, against as many questions in one frame.
What lanes cost is measured on a thousand empty tasks at a time, of which the results are read when
all are there; frames of many calls are part of that.

CPU time comes from the kernel's scheduler, in nanoseconds, over all threads of a process. Only the
GCS's work on offers and events is measured on its core alone, with the encoding of its messages, as
it depends on the number of nodes, and there is one machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import socket
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
from skate.client.stream import Stream
from skate.cluster_utils import Cluster, ClusterNode
from skate.config import EVENT_BATCH_S, HEARTBEAT_S, LANE_NOTES, PROTOCOL_VERSION, PYTHON
from skate.gcs.gcs_core import GcsCore
from skate.net import unix_socket
from skate.net.cluster_token import read_token
from skate.net.dialing import dial
from skate.net.event_batch import encode_events
from skate.net.frame import FrameReader, frame, frames
from skate.net.handshake import LineHello
from skate.util.scheduling_strategies import NodeAffinitySchedulingStrategy

CPUS = 32
TASK_S = 0.01
TASKS = 6_400
ONE_BY_ONE = 500
MOMENT_S = 0.002
FRAMES_A_TASK = 4  # Submit, Run, Done, Ready; or Submit, Forward, Returned, Ready; and so on
SETTLE_S = 0.3
IDLE_S = 3.0
LANE_CPUS = 2
LANE_TASKS = 1_000
LANE_BURSTS = 20
LANE_FRAMES = 5_000
LANE_REST_S = 0.012  # lanes stay for 20 ms
ASKERS = 32
ASKED = 500  # rounds
PLAYED_NODES = 300
OFFERS = 30
EVENTS = 2_000
EVENT_BATCHES = 40
EVENT = (
    "T", b"t" * 16, 0, "nap", b"jjjj", 1, b"w" * 16, 1.0, 1.0, 1.0, 1.0, 1.0, 4, "",
    b"n" * 16, "task", 1, 1.0, 10, True,
)  # fmt: skip
NODE_COUNTS = (1, 1_000)


@skate.remote
def rider() -> None:
    """The smallest task that rides on a lane, where there is one."""


@skate.remote(retry_exceptions=True)
def nothing() -> None:
    """The smallest task by the switch."""


@skate.remote(retry_exceptions=True)
def nap(seconds: float) -> None:
    """Occupy a worker, and no CPU."""
    time.sleep(seconds)


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


def heartbeat_costs() -> dict[str, float]:
    """Of hundreds of nodes that only say that they live: what the GCS, and the head's node, spend.

    The nodes are connections of this process, each proven and joined as a node's; what receives is
    real. So messages share wake-ups, as they do in a large cluster.
    """
    cluster = Cluster(initialize_head=True)
    try:
        head = cluster.list_all_nodes()[0]
        token = read_token(head.token_file)
        (node_rate,), gcs_rate = idle_rates([head])
        lines = [_played_node(number, cluster.address, token) for number in range(PLAYED_NODES)]
        load = frame([m.Heartbeat({"CPU": CPUS * 10_000}, 0, 0, 0, TASK_S)])
        _beat(lines, load, HEARTBEAT_S)
        before = cpu_s([head.pids["gcs"]]), cpu_s([head.pids["node"]])
        begin = time.perf_counter()
        sent = _beat(lines, load, IDLE_S)
        seconds = time.perf_counter() - begin
        gcs_s = cpu_s([head.pids["gcs"]]) - before[0] - gcs_rate * seconds
        node_s = cpu_s([head.pids["node"]]) - before[1] - node_rate * seconds
        events = _event_costs(head, lines[0])
        for line in lines:
            line.close()
        return {"relay_s": node_s / sent, "gcs_heartbeat_s": gcs_s / sent, **events}
    finally:
        cluster.shutdown()


def _played_node(number: int, head: str, token: bytes) -> socket.socket:
    node_id = number.to_bytes(4, "big") + os.urandom(12)
    line = dial(head, LineHello("gcs", node_id=node_id, pid=number + 1), token).sock
    place, total = f"played:{number + 1}", {"CPU": CPUS * 10_000}
    joins = m.NodeJoins(PROTOCOL_VERSION, node_id, number + 1, place, place, total, {}, 1)
    line.sendall(frame([joins]))
    line.setblocking(False)
    return line


def _event_costs(head: ClusterNode, line: socket.socket) -> dict[str, float]:
    """Of task events in large batches, which another node sends to the GCS through the head."""
    batch = m.Events(EVENTS, encode_events([EVENT] * EVENTS), 0)
    data = b"".join(frames([batch]))
    line.setblocking(True)
    time.sleep(SETTLE_S)
    before = cpu_s([head.pids["gcs"]]), cpu_s([head.pids["node"]])
    for _ in range(EVENT_BATCHES):
        line.sendall(data)
        time.sleep(EVENT_BATCH_S / 5)
    time.sleep(SETTLE_S)
    size = len(data) * EVENT_BATCHES
    return {
        "relay_byte_s": (cpu_s([head.pids["node"]]) - before[1]) / size,
        "gcs_event_byte_s": (cpu_s([head.pids["gcs"]]) - before[0]) / size,
    }


def _beat(lines: list[socket.socket], load: bytes, seconds: float) -> int:
    """Each line says this every tenth of a second, one after the other; how often in all."""
    sent = 0
    begin = time.perf_counter()
    while (passed := time.perf_counter() - begin) < seconds:
        line = lines[sent % len(lines)]
        due = sent * HEARTBEAT_S / len(lines)
        if passed < due:
            time.sleep(due - passed)
        line.send(load)
        sent += 1
        with contextlib.suppress(BlockingIOError):
            line.recv(1 << 20)  # what nodes are told of each other
    return sent


def task_costs() -> dict[str, float]:
    """Of tasks that run at home, and of tasks that run on another node."""
    cluster = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": CPUS})
    try:
        head = cluster.list_all_nodes()[0]
        home = [head.pids["node"]]
        skate.get([nap.remote(TASK_S) for _ in range(4 * CPUS)])
        tick_rate = idle_rates([head])[0][0]

        me = time.process_time()
        submit_s, run_s = _in_two_parts(nothing, block, home, tick_rate)
        submitter_s = (time.process_time() - me) / TASKS  # with what it takes to get the results
        worker_s = _worker_s(head)
        alone_s = _one_by_one(nap, home, tick_rate)
        frame_s = (alone_s - submit_s - run_s) / FRAMES_A_TASK

        other = cluster.add_node(num_cpus=CPUS)
        host = [other.pids["node"]]
        there = {"scheduling_strategy": NodeAffinitySchedulingStrategy(other.node_id, soft=False)}
        far, far_block = nothing.options(**there), block.options(**there)
        skate.get([nap.options(**there).remote(TASK_S) for _ in range(4 * CPUS)])
        at_home = _in_two_parts(far, far_block, home, tick_rate)
        at_host = _in_two_parts(far, far_block, host, tick_rate)
        both_s = _one_by_one(nap.options(**there), home + host, 2 * tick_rate)
        line_frames_s = both_s - sum(at_home) - sum(at_host) - FRAMES_A_TASK * frame_s
        return {
            "frame_s": frame_s,
            "line_frame_s": line_frames_s / FRAMES_A_TASK,
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


def lane_costs() -> dict[str, float]:
    """Of tasks that ride on lanes: what they cost their caller, the worker and the node daemon."""
    cluster = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": LANE_CPUS})
    try:
        head = cluster.list_all_nodes()[0]
        daemon, workers = [head.pids["node"]], worker_pids(head)
        for _ in range(LANE_BURSTS):
            _ride(LANE_TASKS)  # until there are lanes
        tick_rate = idle_rates([head])[0][0]
        _ride(LANE_TASKS)
        workers = worker_pids(head)
        count = LANE_BURSTS * LANE_TASKS
        before = cpu_s(daemon), cpu_s(workers), time.process_time(), time.perf_counter()
        submit_s = sum(_ride(LANE_TASKS) for _ in range(LANE_BURSTS))
        seconds = time.perf_counter() - before[3]
        node_s = (cpu_s(daemon) - before[0] - seconds * tick_rate) / count
        caller_s = (time.process_time() - before[2]) / count
        return {
            "lane_submit_s": submit_s / count,
            "lane_outcome_s": caller_s - submit_s / count,
            "lane_worker_s": (cpu_s(workers) - before[1]) / count,
            "lane_row_s": node_s,
        }
    finally:
        cluster.shutdown()


def lane_frame_costs() -> dict[str, float]:
    """Of one frame with one outcome, written by one process and read by another that is awake."""
    ours, theirs = socket.socketpair()
    heard: list[m.Outcome] = []

    def end(reason: str) -> None:
        raise AssertionError(reason)

    out = Stream(ours, m.decode_to_callee, {}, end, "the caller")
    back = Stream(theirs, m.decode_to_caller, {m.Outcome: heard.append}, end, "the worker")
    begin = time.thread_time()
    for _ in range(LANE_FRAMES):
        out.outbox.append(m.Outcome(b"t" * 16, b"value"))
        out.flush()
        back.read()
    seconds = time.thread_time() - begin
    assert len(heard) == LANE_FRAMES
    ours.close()
    theirs.close()
    return {"lane_frame_s": seconds / LANE_FRAMES / 2}


def busy_frame_costs() -> dict[str, float]:
    """Of one frame of a local process, read or written by a daemon that has more to do already."""
    cluster = Cluster(initialize_head=True)
    try:
        head = cluster.list_all_nodes()[0]
        lines = [unix_socket.connect(head.node_socket) for _ in range(ASKERS)]
        for line in lines:
            line.sendall(frame([m.Hello(PROTOCOL_VERSION, PYTHON, "observer", os.getpid())]))
        together_s = _question_s(head, lines[:1], ASKERS)
        apart_s = _question_s(head, lines, 1)
        for line in lines:
            line.close()
        # Apart, a question and its answer have a frame each; together, ASKERS of them share two.
        return {"busy_frame_s": (apart_s - together_s) / (2 - 2 / ASKERS)}
    finally:
        cluster.shutdown()


def _question_s(
    node: ClusterNode, lines: list[socket.socket], questions: int, rest_s: float = 0.0
) -> float:
    """CPU seconds of the daemon for one question, when each line asks so many in a frame.

    Each belongs to a process of its own that sleeps until it is answered, as a worker does.
    """
    daemon, idle_rate = [node.pids["node"]], idle_rates([node])[0][0]
    fork = multiprocessing.get_context("fork")
    askers = [fork.Process(target=_ask, args=(line, questions, rest_s)) for line in lines]
    before, begin = cpu_s(daemon), time.perf_counter()
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
        assert asker.exitcode == 0
    idle_s = (time.perf_counter() - begin) * idle_rate
    return (cpu_s(daemon) - before - idle_s) / (ASKED * len(lines) * questions)


def _ask(line: socket.socket, questions: int, rest_s: float) -> None:
    reader = FrameReader(m.decode_to_client)
    data = frame([m.Ask(number, "ping", {}) for number in range(questions)])
    for _ in range(ASKED):
        line.sendall(data)
        answers = 0
        while answers < questions:
            heard = reader.feed(line.recv(1 << 18))
            answers += sum(isinstance(message, m.Answer) for message in heard)
        time.sleep(rest_s)


def _ride(count: int) -> float:
    """So many tasks at a time; CPU seconds of the thread that submits them."""
    begin = time.thread_time()
    refs = [rider.remote() for _ in range(count)]
    seconds = time.thread_time() - begin
    time.sleep(LANE_REST_S)  # all have run: nobody looks for what is to come
    skate.get(refs)
    return seconds


def _one_by_one(nap: Any, daemons: list[int], idle_rate: float) -> float:
    """CPU seconds of these daemons for one task when there is no other."""
    before, begin = cpu_s(daemons), time.perf_counter()
    for _ in range(ONE_BY_ONE):
        skate.get(nap.remote(MOMENT_S))
    idle_s = (time.perf_counter() - begin) * idle_rate
    return (cpu_s(daemons) - before - idle_s) / ONE_BY_ONE


def _worker_s(node: ClusterNode) -> float:
    """CPU seconds of a worker for one task, when all workers are busy."""
    workers = worker_pids(node)
    before = cpu_s(workers)
    skate.get([nap.remote(TASK_S) for _ in range(TASKS)])
    return (cpu_s(workers) - before) / TASKS


def _in_two_parts(
    nothing: Any, block: Any, daemon: list[int], idle_rate: float
) -> tuple[float, float]:
    """CPU seconds a task of a daemon until tasks wait on a node, and from then on.

    While every CPU there is taken, tasks are taken in and no more.
    """
    with tempfile.NamedTemporaryFile() as file:
        blockers = [block.remote(file.name) for _ in range(CPUS)]
        time.sleep(SETTLE_S)
        before, begin = cpu_s(daemon), time.perf_counter()
        refs = [nothing.remote() for _ in range(TASKS)]
        time.sleep(SETTLE_S)
        taken_in, then = cpu_s(daemon), time.perf_counter()
    skate.get(blockers)
    skate.get(refs)
    del refs
    time.sleep(SETTLE_S)
    after, end = cpu_s(daemon), time.perf_counter()
    return (
        (taken_in - before - (then - begin) * idle_rate) / TASKS,
        (after - taken_in - (end - then) * idle_rate) / TASKS,
    )


def gcs_costs() -> dict[str, float]:
    """Of the GCS's core: offers of as many tasks as there may be in one, and batches of events."""
    few, many = (_offer_s(count, is_idle=False) for count in NODE_COUNTS)
    a_node = (many - few) / (NODE_COUNTS[1] - NODE_COUNTS[0])
    chosen = _offer_s(NODE_COUNTS[1], is_idle=True)
    return {
        "gcs_offer_s": max(0.0, few - NODE_COUNTS[0] * a_node),
        "gcs_offer_node_s": a_node,
        "gcs_offer_place_s": (chosen - many) / (NODE_COUNTS[1] - 1),
        "gcs_events_s": _events_s(1),
    }


def _core_with_nodes(count: int) -> GcsCore:
    core = GcsCore(None, random=random.Random(1).random)
    total = {"CPU": CPUS * 10_000}
    for number in range(count):
        node_id = number.to_bytes(4, "big") * 4
        joins = m.NodeJoins(PROTOCOL_VERSION, node_id, 1, f"h:{number}", "h", total, {}, 1)
        core.handle(number, joins, 1.0)
    return core


def _offer_s(nodes: int, *, is_idle: bool) -> float:
    """Of an offer to nodes that all get some of it, or are all too busy to be of use."""
    core = _core_with_nodes(nodes)
    free, queued = ({"CPU": CPUS * 10_000}, 0) if is_idle else ({"CPU": 0}, 100_000)
    seconds = []
    for number in range(OFFERS):
        load = m.Heartbeat(free, queued, 0, 0, TASK_S, 10_000 * number)
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
    batch = m.encode([m.Events(count, encode_events([EVENT] * count), 0)])
    seconds = []
    for _ in range(100):
        begin = time.thread_time()
        core.handle(0, m.decode_to_gcs(batch)[0], 1.0)
        seconds.append(time.thread_time() - begin)
    return statistics.median(seconds)


def costs_of(figures: dict[str, float]) -> Costs:
    """For the simulation."""
    return replace(Costs(), **{name: figures[name] for name in MEASURED if name in figures})


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Of each figure; a difference of two noisy ones may come out below nothing."""
    return {name: max(0.0, statistics.median(r[name] for r in rounds)) for name in rounds[0]}


def one_round() -> dict[str, float]:
    """All figures, once."""
    figures = {**task_costs(), **lane_costs(), **lane_frame_costs(), **gcs_costs()}
    figures |= heartbeat_costs()
    figures |= busy_frame_costs()
    figures["lane_row_s"] -= figures["frame_s"] / LANE_NOTES  # what the frames of its rows cost
    return figures


def main() -> None:
    """Print all figures, in microseconds: an argument for ``python -m sim.scale --costs``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="of 20 s; medians are printed")
    options = parser.parse_args()
    figures = medians([one_round() for _ in range(options.rounds)])
    print(json.dumps({name: round(seconds * 1e6, 4) for name, seconds in figures.items()}))


if __name__ == "__main__":
    main()
