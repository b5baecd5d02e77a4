"""A small cluster in virtual time keeps its CPUs busy, wherever the tasks are submitted.

``python -m sim.scale --nodes 100 --tasks 1000000`` is the same at full size: docs/scaling.md.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from sim.scale.cluster import simulate
from sim.scale.costs import Costs

NODES, CPUS, TASKS = 10, 8, 20_000
ENOUGH = 0.95


def test_half_of_the_nodes_keep_all_of_them_busy() -> None:
    outcome = simulate(NODES, TASKS, cpus=CPUS, seed=1)
    assert outcome.share >= ENOUGH
    assert outcome.forwarded >= TASKS // 2 - TASKS // 10  # the others had no work of their own


def test_a_run_follows_from_its_seed_alone() -> None:
    first, again = (simulate(4, 2_000, cpus=4, seed=3) for _ in range(2))
    assert replace(first, wall_s=0.0) == replace(again, wall_s=0.0)
    assert replace(first, wall_s=0.0) != replace(simulate(4, 2_000, cpus=4, seed=4), wall_s=0.0)


def test_one_node_alone_is_limited_by_its_workers() -> None:
    """Nothing is lost but what workers spend beside their tasks, at the beginning and the end."""
    task_s = 0.01
    outcome = simulate(1, 4_000, cpus=8, task_s=task_s)
    assert outcome.forwarded == 0
    assert outcome.sustained == pytest.approx(
        outcome.ideal * task_s / (task_s + Costs().worker_s), rel=0.02
    )


def test_a_daemon_that_is_too_slow_for_its_tasks_is_the_limit() -> None:
    """The costs count: at 5 ms a task, a node daemon does 200 tasks a second and no more."""
    outcome = simulate(1, 500, cpus=8, costs=replace(Costs(), run_s=0.005))
    assert outcome.throughput == pytest.approx(200, rel=0.05)
    assert outcome.busy[0][0] == "the head's node"
    assert outcome.busy[0][1] > 0.95


def test_empty_tasks_are_limited_by_the_daemons_alone() -> None:
    outcome = simulate(3, 30_000, cpus=32, task_s=0.0, is_even=True, lanes=False)
    assert outcome.share == 0.0, "there is no ideal"
    assert outcome.sustained > 1_000
    assert all(share > 0.9 for name, share in outcome.busy if name != "GCS")


def test_empty_tasks_ride_on_lanes_and_node_daemons_are_no_limit() -> None:
    switched, riding = (
        simulate(2, 40_000, cpus=8, task_s=0.0, is_even=True, lanes=lanes)
        for lanes in (False, True)
    )
    assert switched.rode == 0
    assert riding.rode > 30_000
    assert riding.throughput > 2 * switched.throughput


def test_a_program_that_is_slow_to_submit_is_the_limit_of_its_lanes() -> None:
    costs = replace(Costs(), lane_submit_s=0.0005, submitter_s=0.0005)
    outcome = simulate(1, 2_000, cpus=8, task_s=0.0, is_even=True, costs=costs)
    assert outcome.rode > 1_500
    assert outcome.throughput < 2_000
    assert outcome.programs[0] > 0.9
