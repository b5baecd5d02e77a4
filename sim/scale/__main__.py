"""``python -m sim.scale --nodes N --tasks N``: throughput, share of the ideal, busiest daemon.

``--task-ms 0``: empty tasks, so that what limits are processes and daemons alone. ``--even``: all
nodes submit, one process on each.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

from sim.scale.cluster import Outcome, simulate
from sim.scale.costs import Costs

SHOWN = 5


def rate(outcome: Outcome) -> str:
    """Tasks a second; of empty ones there is no ideal to compare with."""
    per_second = f"{outcome.throughput:,.0f} tasks/s"
    sustained = f"{outcome.sustained:,.0f}"
    if outcome.task_s:
        per_second += f", {outcome.share:.1%} of the ideal {outcome.ideal:,.0f}"
        sustained = f"{outcome.sustained / outcome.ideal:.1%}"
    return f"{per_second}; {sustained} while all run; {outcome.seconds:.2f} s of virtual time"


def main() -> None:
    """Run once and tell."""
    parser = argparse.ArgumentParser(prog="python -m sim.scale", description=__doc__)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--cpus", type=int, default=32, help="of each node")
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--task-ms", type=float, default=10.0, help="how long each runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one-driver", action="store_true", help="one program submits everything")
    parser.add_argument("--even", action="store_true", help="all nodes submit, not every other")
    parser.add_argument("--no-lanes", action="store_true", help="all tasks go by the nodes")
    parser.add_argument("--costs", default="{}", help='as JSON, in microseconds: {"run_s": 70}')
    options = parser.parse_args()
    given = {name: value * 1e-6 for name, value in json.loads(options.costs).items()}
    outcome = simulate(
        options.nodes,
        options.tasks,
        cpus=options.cpus,
        task_s=options.task_ms / 1_000,
        seed=options.seed,
        one_driver=options.one_driver,
        is_even=options.even,
        costs=replace(Costs(), **given),
        lanes=not options.no_lanes,
    )
    print(
        f"seed {outcome.seed}: {outcome.tasks:,} tasks of {options.task_ms:g} ms on "
        f"{outcome.nodes} nodes x {outcome.cpus} CPUs, submitted on {outcome.submitters}"
    )
    print(rate(outcome))
    busy = ", ".join(f"{name} {share:.0%}" for name, share in outcome.busy[:SHOWN])
    print(f"busiest daemons, of one core: {busy}")
    caller, worker = outcome.programs
    print(f"busiest program that submits {caller:.0%}, busiest worker beside {worker:.0%}")
    print(
        f"on lanes: {outcome.rode:,}; forwarded: {outcome.forwarded:,}, "
        f"given back: {outcome.given_back:,}; "
        f"told the GCS: {outcome.met}"
    )
    print(f"{outcome.events:,} events in {outcome.wall_s:.1f} s")


if __name__ == "__main__":
    main()
