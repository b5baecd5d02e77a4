"""Whole runs of the node with lanes in virtual time, and the proof that lanes are used in them.

``python -m sim --lanes --seed N`` tells the story of a run that fails here.
"""

from __future__ import annotations

import re
from collections import Counter

import pytest

from sim.lane_workload import LaneSettings
from sim.workload import run

CHUNK = 20

# Runs that failed when this was wrong in the cores.
TELLING_SEEDS = {
    1: "a lane ended that its caller had not been told of",
    70: "a large result came that was promoted, and let go of by all",
    138: "a published result came after its promise was kept, and let go of",
    310: "a caller's next number was below those that a lost lane had brought back",
}


@pytest.mark.parametrize("first", range(0, 60, CHUNK))
def test_no_run_with_lanes_breaks_a_rule(first: int) -> None:
    for seed in range(first, first + CHUNK):
        try:
            run(seed, kind=LaneSettings)
        except Exception as error:
            raise AssertionError(f"python -m sim --lanes --seed {seed}") from error


@pytest.mark.parametrize("seed", TELLING_SEEDS, ids=TELLING_SEEDS.get)
def test_what_once_went_wrong_with_lanes(seed: int) -> None:
    run(seed, kind=LaneSettings)


def test_runs_with_lanes_do_what_they_are_for() -> None:
    """Every message about lanes is said within a few runs, and most calls ride."""
    said: Counter[str] = Counter()
    rode = 0
    for seed in range(20):
        simulator = run(seed, kind=LaneSettings, tell=True)
        assert simulator.story is not None
        rode += simulator.ledger.rode
        for line in simulator.story:
            said.update(re.findall(r"(?:-|<|=)[->=] (?:lane \d+ \[)?(\w+)\(", line))
            said.update(re.findall(r"LaneClosed\(.*(how=\d)", line))
    assert rode > 500
    assert said.keys() >= {
        "LaneExpected", "LaneListening", "LaneOpen", "LaneHello", "Outcome", "LaneEnds",
        "LaneOver", "LaneRevoke", "LaneNotes", "LaneResult", "Promote", "Publish", "Fulfil",
        "CallSkipped", "how=1", "how=2",
    }  # fmt: skip
