"""Where tasks go in a cluster: by load, by resources, by labels, by what their options say."""

from __future__ import annotations

import time
from collections import Counter as Tally
from pathlib import Path
from typing import Any

import pytest

import skate
from skate.exceptions import ActorUnschedulableError, TaskUnschedulableError
from skate.util.scheduling_strategies import (
    Exists,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
)
from tests.cluster.many_nodes import (
    Counter,
    Trio,
    get,
    node_id,
    on,
    wait_for,
    waiting_at,
    where,
    where_after,
)
from tests.conftest import eventually


def test_a_queue_on_one_node_is_shared_with_all(trio: Trio) -> None:
    # Each worker imports this module at its first task, which takes longer than the tasks below.
    get([where_after.options(**on(name)).remote(0.1) for name in ("head", "a", "b") * 2])
    began = time.monotonic()
    places = get([where_after.remote(0.25) for _ in range(24)])
    took = time.monotonic() - began
    tally = Tally(places)
    assert set(tally) == {node.node_id for node in trio.nodes}
    assert min(tally.values()) >= 4
    assert took < 24 * 0.25 / 2, "faster than the driver's node alone, whatever the machine does"


@pytest.mark.parametrize("busy", ["head", "a"])
def test_no_task_waits_for_a_second_while_a_node_is_free(
    trio: Trio, tmp_path: Path, busy: str
) -> None:
    """On the driver's node, and on another where a task submits."""
    go = tmp_path / "go"
    blockers = [wait_for.options(**on(busy)).remote(str(go)) for _ in range(2)]
    eventually(lambda: len(waiting_at(go)) == 2, "that node has no CPU left")

    @skate.remote(num_cpus=0, max_retries=0)
    def submit() -> tuple[float, list[str]]:
        began = time.monotonic()
        places = skate.get([where.remote() for _ in range(3)])
        return time.monotonic() - began, places

    took, places = get(submit.options(**on(busy)).remote())
    assert took < 1.0
    home = next(node for node in trio.nodes if node.node_id == _id_of(trio, busy))
    assert home.node_id not in places
    go.touch()
    get(blockers)


def _id_of(trio: Trio, name: str) -> str:
    return {"head": trio.head, "a": trio.a, "b": trio.b}[name].node_id


def test_a_task_that_waits_in_get_lends_its_cpu_to_its_children(trio: Trio) -> None:
    @skate.remote
    def parent(depth: int) -> int:
        return 1 if depth == 0 else sum(skate.get([parent.remote(depth - 1) for _ in range(3)]))

    assert get([parent.options(**on(name)).remote(3) for name in ("a", "b")]) == [27, 27]


def test_custom_resources_bound_what_runs_at_once(trio: Trio, tmp_path: Path) -> None:
    @skate.remote(num_cpus=0, resources={"a": 60})
    def greedy(folder: str) -> int:
        import os

        mark = Path(folder) / f"{os.getpid()}"
        mark.touch()
        running = len(list(Path(folder).iterdir()))
        time.sleep(0.02)  # the work
        mark.unlink()
        return running

    assert set(get([greedy.remote(str(tmp_path)) for _ in range(6)])) == {1}


def test_spread_takes_the_nodes_in_turn(trio: Trio) -> None:
    # What waits for a node's first workers to start may go to another that has some already.
    get([where.options(**on(name)).remote() for name in ("head", "a", "b") for _ in range(8)])
    spread = where.options(scheduling_strategy="SPREAD")
    tally = Tally(get([spread.remote() for _ in range(60)]))
    assert set(tally) == {node.node_id for node in trio.nodes}
    assert min(tally.values()) >= 15


def test_affinity_hard_and_soft_from_every_node(trio: Trio) -> None:
    @skate.remote(num_cpus=0)
    def submit(target: str) -> str:
        strategy = NodeAffinitySchedulingStrategy(target, soft=False)
        return skate.get(where.options(scheduling_strategy=strategy).remote())

    for name in ("head", "a", "b"):
        for target in trio.nodes:
            assert get(submit.options(**on(name)).remote(target.node_id)) == target.node_id
    unknown = "ab" * 16
    hard = NodeAffinitySchedulingStrategy(unknown, soft=False)
    with pytest.raises(TaskUnschedulableError, match=unknown):
        get(where.options(scheduling_strategy=hard).remote())
    with pytest.raises(ActorUnschedulableError, match=unknown):
        get(Counter.options(scheduling_strategy=hard).remote().increment.remote())
    soft = NodeAffinitySchedulingStrategy(unknown, soft=True)
    assert get(where.options(scheduling_strategy=soft).remote()) in {n.node_id for n in trio.nodes}


def test_affinity_waits_for_its_node_and_for_no_other(trio: Trio, tmp_path: Path) -> None:
    go = tmp_path / "go"
    blockers = [wait_for.options(**on("a")).remote(str(go)) for _ in range(2)]
    eventually(lambda: len(waiting_at(go)) == 2, "node a has no CPU left")
    there = NodeAffinitySchedulingStrategy(trio.a.node_id, soft=False)
    ref = where.options(scheduling_strategy=there).remote()
    assert skate.wait([ref], timeout=0.5)[0] == []
    go.touch()
    assert get(ref) == trio.a.node_id
    get(blockers)


@pytest.mark.parametrize(
    ("rules", "names"),
    [
        ({"hard": {"zone": In("east")}}, {"a"}),
        ({"hard": {"zone": In("east", "west")}}, {"a", "b"}),
        ({"hard": {"zone": NotIn("east"), "disk": NotIn("ssd")}}, {"head", "b"}),
        ({"hard": {"disk": Exists()}}, {"a"}),
        ({"hard": {"zone": Exists()}, "soft": {"zone": In("west")}}, {"b"}),
        ({"hard": {}, "soft": {"zone": In("nowhere")}}, {"head", "a", "b"}),
    ],
)
def test_labels(trio: Trio, rules: dict[str, Any], names: set[str]) -> None:
    strategy = NodeLabelSchedulingStrategy(**rules)
    allowed = {_id_of(trio, name) for name in names}
    places = set(get([where.options(scheduling_strategy=strategy).remote() for _ in range(6)]))
    assert places <= allowed
    actor = Counter.options(num_cpus=0, scheduling_strategy=strategy).remote()
    assert get(actor.node.remote()) in allowed


def test_a_label_selector_of_a_task_and_of_an_actor(trio: Trio) -> None:
    assert get(where.options(label_selector={"zone": "west"}).remote()) == trio.b.node_id
    neither = where.options(label_selector={"disk": "!ssd", "zone": "in(east, west)"})
    assert get(neither.remote()) == (trio.b.node_id)
    actor = Counter.options(num_cpus=0, label_selector={"zone": "east"}).remote()
    assert get(actor.node.remote()) == trio.a.node_id


def test_what_nobody_can_run_waits_and_says_why(trio: Trio) -> None:
    ref = where.options(resources={"tape": 1}).remote()
    assert skate.wait([ref], timeout=0.3)[0] == []
    from skate.cli.status import collect

    def reasons() -> str:
        rows = collect(trio.head.session_dir)["pending"]
        return " ".join(str(row) for row in rows if row["name"].endswith("where"))

    eventually(lambda: "tape" in reasons(), "status tells what is missing")
    late = trio.cluster.add_node(num_cpus=1, resources={"tape": 1})
    assert get(ref) == late.node_id
    del ref
    trio.cluster.remove_node(late)
    eventually(lambda: "tape" not in skate.cluster_resources(), "it has left")


def test_tasks_too_large_for_the_drivers_node_go_where_there_is_room(trio: Trio) -> None:
    late = trio.cluster.add_node(num_cpus=5)
    assert get([where.options(num_cpus=4).remote() for _ in range(3)]) == [late.node_id] * 3
    assert get(Counter.options(num_cpus=5).remote().node.remote()) == late.node_id
    trio.cluster.remove_node(late)
    eventually(lambda: skate.cluster_resources()["CPU"] == 6, "it has left")


def test_a_long_queue_moves_to_nodes_that_join(trio: Trio) -> None:
    refs = [where_after.remote(0.15) for _ in range(120)]
    late = trio.cluster.add_node(num_cpus=4)
    places = Tally(get(refs))
    assert places[late.node_id] >= 4
    assert sum(places.values()) == 120
    del refs
    trio.cluster.remove_node(late)
    eventually(lambda: skate.cluster_resources()["CPU"] == 6, "it has left")


def test_tasks_submitted_by_many_tasks_on_many_nodes(trio: Trio) -> None:
    @skate.remote
    def leaf(number: int) -> tuple[int, str]:
        return number, node_id()

    @skate.remote(num_cpus=0)
    def submit(first: int) -> list[tuple[int, str]]:
        return skate.get([leaf.remote(number) for number in range(first, first + 100)])

    refs = [submit.options(**on(("head", "a", "b")[i % 3])).remote(i * 100) for i in range(6)]
    told = [row for rows in get(refs) for row in rows]
    assert [number for number, _ in told] == list(range(600))
