"""Throughput against nodes, in virtual time: ``python -m benchmarks.scaling --write-docs``.

The paper's chart of scalability, with the classes that ship (sim/scale), from one node to a
thousand, a second of work for each: submitted on all nodes, as in the paper, and on every
other one, so that half of it has to find its way. It writes docs/scaling.svg and the table of
docs/scaling.md; the seed of every run is 0, and printed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from sim.scale.cluster import Outcome, simulate
from sim.scale.costs import Costs

NODES = (1, 3, 10, 30, 100, 300, 1_000)
CPUS = 32
TASK_S = 0.01
SECONDS = 1.0
SEED = 0
DOCS = Path(__file__).resolve().parents[1] / "docs"
MARKS = ("<!-- chart -->", "<!-- /chart -->")
HEAD = "the head's node"
WAYS = {True: "submitted on all nodes", False: "submitted on every other node"}


def run(job: tuple[int, bool, Costs]) -> Outcome:
    """One point of the chart."""
    nodes, is_even, costs = job
    tasks = int(nodes * CPUS * SECONDS / TASK_S)
    return simulate(nodes, tasks, cpus=CPUS, task_s=TASK_S, seed=SEED, is_even=is_even, costs=costs)


def as_table(outcomes: dict[tuple[int, bool], Outcome]) -> str:
    """Markdown, a row for each number of nodes."""
    lines = [
        "| nodes | all submit: tasks/s | of the ideal | while all run | "
        "every other: tasks/s | of the ideal | while all run | busiest daemons then, of one core |",
        "|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for nodes in NODES:
        even, half = outcomes[nodes, True], outcomes[nodes, False]
        busy = dict(half.busy)
        others = max((s for name, s in half.busy if name not in ("GCS", HEAD)), default=0.0)
        lines.append(
            f"| {nodes:,} | {even.throughput:,.0f} | {even.share:.1%} | {_sustained(even)} | "
            f"{half.throughput:,.0f} | {half.share:.1%} | {_sustained(half)} | "
            f"GCS {busy['GCS']:.0%}, {HEAD} {busy[HEAD]:.0%}, another node {others:.0%} |"
        )
    return "\n".join(lines) + "\n"


def _sustained(outcome: Outcome) -> str:
    return f"{outcome.sustained / outcome.ideal:.1%}"


def draw(path: Path, outcomes: dict[tuple[int, bool], Outcome]) -> None:
    """The chart as SVG, the same bytes for the same figures."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "skate"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    ideal = [nodes * CPUS / TASK_S for nodes in NODES]
    axes.plot(NODES, ideal, color="0.7", linestyle="--", label="ideal: all CPUs run tasks only")
    for is_even, marker in ((True, "o"), (False, "s")):
        rates = [outcomes[nodes, is_even].throughput for nodes in NODES]
        axes.plot(NODES, rates, marker=marker, label=WAYS[is_even])
    axes.set(xscale="log", yscale="log")
    axes.set(xlabel="nodes of 32 CPUs", ylabel="tasks of 10 ms a second")
    axes.grid(True, alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def _put_between_marks(page: Path, table: str) -> None:
    before, _, rest = page.read_text(encoding="utf-8").partition(MARKS[0] + "\n")
    _, _, after = rest.partition(MARKS[1] + "\n")
    page.write_text(f"{before}{MARKS[0]}\n{table}{MARKS[1]}\n{after}", encoding="utf-8")


def measured(costs: Costs, processes: int) -> Iterator[tuple[tuple[int, bool], Outcome]]:
    """All points, as they come."""
    jobs = [(nodes, is_even, costs) for nodes in reversed(NODES) for is_even in WAYS]
    with ProcessPoolExecutor(processes) as pool:
        for (nodes, is_even, _), outcome in zip(jobs, pool.map(run, jobs), strict=True):
            yield (nodes, is_even), outcome


def main() -> int:
    """Run all, and tell."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--costs", default="{}", help='as JSON, in microseconds: {"run_s": 70}')
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--write-docs", action="store_true", help="the chart and its table")
    options = parser.parse_args()
    given: dict[str, Any] = json.loads(options.costs)
    costs = replace(Costs(), **{name: value * 1e-6 for name, value in given.items()})
    outcomes = {}
    for key, outcome in measured(costs, options.processes):
        outcomes[key] = outcome
        print(
            f"{key[0]:,} nodes, {WAYS[key[1]]}, seed {SEED}: {outcome.throughput:,.0f} tasks/s, "
            f"{outcome.share:.1%}; while all run {outcome.sustained / outcome.ideal:.1%}; "
            f"{outcome.busy[:2]}; {outcome.wall_s:.0f} s",
            flush=True,
        )
    table = as_table(outcomes)
    print(table)
    if options.write_docs:
        _put_between_marks(DOCS / "scaling.md", table)
        draw(DOCS / "scaling.svg", outcomes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
