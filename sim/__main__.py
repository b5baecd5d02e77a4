"""``python -m sim --seed N --runs K``: K runs from seed N on; one that fails tells its story."""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from sim.cluster import Cluster
from sim.cluster_workload import ClusterSettings, CutSettings, run_cluster
from sim.group_workload import GroupCutSettings, GroupSettings
from sim.lane_workload import LaneSettings, LeaseSettings
from sim.workload import Settings, run

KINDS: dict[tuple[bool, bool], type[ClusterSettings]] = {  # with groups, with long cuts
    (False, False): ClusterSettings,
    (True, False): GroupSettings,
    (False, True): CutSettings,
    (True, True): GroupCutSettings,
}


def main() -> int:
    """Entry; the exit code is 1 if a run failed."""
    parser = argparse.ArgumentParser(prog="python -m sim", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--runs", type=int, default=1, help="how many seeds, one after the other")
    parser.add_argument("--nodes", type=int, default=0, help="of a cluster; 0: one node alone")
    parser.add_argument("--groups", action="store_true", help="with placement groups, too")
    parser.add_argument("--lanes", action="store_true", help="one node alone, actors by lanes")
    parser.add_argument("--leases", action="store_true", help="the same, and tasks as well")
    parser.add_argument("--cuts", action="store_true", help="nodes that are cut off for long")
    parser.add_argument("--lines", type=int, default=120, help="of a failed run's story")
    parser.add_argument("--grep", default="", help="only lines of the story with this in it")
    parser.add_argument("--quiet", action="store_true", help="print only what fails")
    options = parser.parse_args()
    kind: type[Settings] = KINDS[options.groups, options.cuts]
    if options.lanes or options.leases:
        kind, options.nodes = LeaseSettings if options.leases else LaneSettings, 0
    for seed in range(options.seed, options.seed + options.runs):
        began = time.perf_counter()
        try:
            simulator = one_run(seed, options.nodes, kind)
        except Exception:
            print(f"seed {seed} FAILED")
            tell(seed, options.nodes, options.lines, options.grep, kind)
            return 1
        if not options.quiet:
            ledger = simulator.ledger
            print(
                f"seed {seed}: {ledger.tasks} tasks, {simulator.events} events, "
                f"{ledger.rode} on lanes, {ledger.values_read} values, {ledger.deaths} deaths, "
                f"{ledger.errors or ''} "
                f"{simulator.now - 1_000:.1f} s in {time.perf_counter() - began:.3f} s"
            )
    return 0


def one_run(seed: int, nodes: int, kind: type[Settings], *, tell: bool = False) -> Cluster:
    """A run on so many nodes."""
    if nodes:
        assert issubclass(kind, ClusterSettings)
        return run_cluster(seed, nodes, tell=tell, kind=kind)
    return run(seed, tell=tell, kind=kind if issubclass(kind, LaneSettings) else Settings)


def tell(seed: int, nodes: int, lines: int, grep: str, kind: type[Settings]) -> None:
    """Run the seed once more, and print how it came to its end."""
    try:
        one_run(seed, nodes, kind, tell=True)
    except Exception as error:
        story = [line for line in error.simulator.story if grep in line]  # type: ignore[attr-defined]
        print("\n".join(story[-lines:]))
        traceback.print_exc(file=sys.stdout)


if __name__ == "__main__":
    sys.exit(main())
