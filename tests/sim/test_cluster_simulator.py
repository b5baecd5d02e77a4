"""Whole runs of a cluster in virtual time: delays, broken and cut lines, deaths of everything.

``python -m sim --nodes N --seed S`` tells the story of a run that fails here.
"""

from __future__ import annotations

import pytest

from sim.cluster_workload import CutSettings, run_cluster
from sim.group_workload import GroupCutSettings, GroupSettings

RUNS = 60

# Runs that failed when this was wrong in the cores, or in the simulation: seed, number of nodes.
TELLING_SEEDS = {
    (701254, 4): "nobody asked the home of an input that was lost with the task's node",
    (712274, 4): "the same, by another way",
    (700264, 2): "what a node gave back to its home counted as on its way for ever",
    (720664, 2): "the end of an orphan freed the space into which its result was being copied",
    (720703, 6): "the same, on six nodes",
    (720694, 2): "a proxy to a dead actor stayed, as its handle had come and gone before",
    (31004, 3): "a node took the first tasks of another before it had heard of that node",
    (700132, 3): "a driver bound tasks to one of the first nodes before that had joined",
}


@pytest.mark.parametrize("nodes", [2, 3, 4, 6])
def test_no_run_breaks_a_rule(nodes: int) -> None:
    for seed in range(RUNS):
        try:
            run_cluster(seed, nodes)
        except Exception as error:
            raise AssertionError(f"python -m sim --nodes {nodes} --seed {seed}") from error


@pytest.mark.parametrize(("seed", "nodes"), TELLING_SEEDS, ids=TELLING_SEEDS.values())
def test_what_once_went_wrong(seed: int, nodes: int) -> None:
    run_cluster(seed, nodes)


@pytest.mark.parametrize("nodes", [3, 4])
def test_no_run_with_nodes_out_of_reach_breaks_a_rule(nodes: int) -> None:
    for seed in range(RUNS):
        try:
            run_cluster(seed, nodes, kind=CutSettings)
        except Exception as error:
            raise AssertionError(f"python -m sim --cuts --nodes {nodes} --seed {seed}") from error


# The same, of runs with placement groups and detached actors.
TELLING_SEEDS_OF_GROUPS = {
    (71, 4): "who had let go of an actor and got it again was not noticed to let go of it",
    (13, 3): "a worker that its group's removal was ending counted as one that works",
    (1026, 2): "an actor that came ahead of its bundle's commit was not told of the group's end",
}


@pytest.mark.parametrize("nodes", [2, 3, 4])
@pytest.mark.parametrize("kind", [GroupSettings, GroupCutSettings])
def test_no_run_with_groups_and_detached_actors_breaks_a_rule(
    nodes: int, kind: type[GroupSettings]
) -> None:
    cuts = "--cuts " if kind is GroupCutSettings else ""
    for seed in range(RUNS):
        try:
            run_cluster(seed, nodes, kind=kind)
        except Exception as error:
            raise AssertionError(
                f"python -m sim --groups {cuts}--nodes {nodes} --seed {seed}"
            ) from error


@pytest.mark.parametrize(
    ("seed", "nodes"), TELLING_SEEDS_OF_GROUPS, ids=TELLING_SEEDS_OF_GROUPS.values()
)
def test_what_once_went_wrong_with_groups(seed: int, nodes: int) -> None:
    run_cluster(seed, nodes, kind=GroupSettings)


def test_runs_with_groups_make_them_and_let_detached_actors_outlive_their_drivers() -> None:
    wanted = ready = outlived = 0
    for seed in range(30):
        simulator = run_cluster(seed, 3, kind=GroupSettings)
        settings, gcs = simulator.settings, simulator.gcs
        assert isinstance(settings, GroupSettings) and gcs is not None
        wanted += settings.groups_wanted
        ready += settings.groups_ready
        jobs = gcs.core.membership.jobs.rows()
        ends = [job.ended for job in jobs if not job.entrypoint.startswith("detached")]
        outlived += sum(
            job.entrypoint.startswith("detached") and job.ended > min(ends) for job in jobs
        )
    assert ready > 0.8 * wanted > 100
    assert outlived > 5


def test_a_run_follows_from_its_seed_alone() -> None:
    first, again = run_cluster(7, 3, tell=True), run_cluster(7, 3, tell=True)
    assert first.story is not None and again.story is not None
    assert list(first.story) == list(again.story)


def test_runs_do_what_they_are_for() -> None:
    """Nodes die, lines are cut, processes end within a few runs; else the rules check nothing."""
    ledgers = [run_cluster(seed, 4).ledger for seed in range(30)]
    assert sum(ledger.node_deaths for ledger in ledgers) > 5
    assert sum(ledger.cuts for ledger in ledgers) > 3
    assert sum(ledger.deaths for ledger in ledgers) > 30
    assert sum(ledger.values_read for ledger in ledgers) > 3_000
