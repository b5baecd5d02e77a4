"""Strategies, labels and selectors: what may be written, what it comes to, what it does.

The sessions are of one node, so "the other node" is always one that does not exist; what happens
between several is told in tests/cluster.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from typing import Any

import pytest

import skate
from skate.api.label_syntax import check_node_labels, selector_rules
from skate.api.options import check_actor_options, check_task_options
from skate.api.placement import ANYWHERE, placement_of
from skate.client.runtime import Surroundings
from skate.spec import LabelRule, Strategy
from skate.util.placement_group import PlacementGroup
from skate.util.scheduling_strategies import (
    DoesNotExist,
    Exists,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
    PlacementGroupSchedulingStrategy,
)

NODE = "0123456789abcdef" * 2
NOWHERE = Surroundings()


def placed(**options: Any) -> Any:
    """Where a task with these options goes, submitted outside of any group."""
    check_task_options(options, decorator=True)
    check_actor_options(options)
    return placement_of(options, NOWHERE, "f", ())


# ---------------------------------------------------------------------------- label syntax


@pytest.mark.parametrize(
    ("text", "op", "values"),
    [
        ("a", "in", ("a",)),
        ("us-west_2.b", "in", ("us-west_2.b",)),
        ("", "in", ("",)),
        ("in", "in", ("in",)),
        ("x" * 63, "in", ("x" * 63,)),
        ("!a", "not in", ("a",)),
        ("in(a)", "in", ("a",)),
        ("in(a, b,c)", "in", ("a", "b", "c")),
        ("!in(a,b)", "not in", ("a", "b")),
    ],
)
def test_what_a_selector_may_want(text: str, op: str, values: tuple[str, ...]) -> None:
    assert selector_rules({"key": text}) == (LabelRule("key", op, values),)


@pytest.mark.parametrize(
    "text",
    ["-a", "a_", "!", "!!a", "in()", "in(a", "in(a,)", "in(a,!b)", "out(a)", "a b", "x" * 64, "é"],
)
def test_what_a_selector_may_not_want(text: str) -> None:
    with pytest.raises(ValueError, match="label 'key'"):
        selector_rules({"key": text})


@pytest.mark.parametrize("key", ["a", "A.b-c_9", "example.org/a", "ray.io/zone", "a" * 253 + "/b"])
def test_keys_of_labels(key: str) -> None:
    assert selector_rules({key: "v"}) == (LabelRule(key, "in", ("v",)),)
    check_node_labels({key: "v", "other": ""})


@pytest.mark.parametrize(
    "key",
    ["", "-a", "a-", "a b", "x" * 64, "/a", "a/", "a..b/c", "-a/b", "a" * 254 + "/b", "a/b/c"],
)
def test_what_cannot_be_the_key_of_a_label(key: str) -> None:
    for check in (selector_rules, check_node_labels):
        with pytest.raises(ValueError, match="label key"):
            check({key: "v"})


def test_labels_have_to_be_strings() -> None:
    for check in (selector_rules, check_node_labels):
        for wrong in ({"a": 1}, {1: "a"}, {"a": None}, ["a"], "a"):
            with pytest.raises(TypeError):
                check(wrong)


def test_a_node_is_not_told_its_own_id() -> None:
    with pytest.raises(ValueError, match="given by skate"):
        skate.init(num_cpus=1, labels={"ray.io/node-id": NODE})
    with pytest.raises(ValueError, match="value of a label"):
        skate.init(num_cpus=1, labels={"zone": "not this!"})
    assert not skate.is_initialized()


# ------------------------------------------------------------------------------ strategies


def test_strategies_as_they_travel() -> None:
    assert placed() is placed(num_cpus=2) is ANYWHERE
    assert placed(scheduling_strategy="DEFAULT") == ANYWHERE
    assert placed(scheduling_strategy="SPREAD").strategy == Strategy(kind="SPREAD")
    node_id = bytes.fromhex(NODE)
    hard = NodeAffinitySchedulingStrategy(NODE, soft=False, _fail_on_unavailable=True)
    assert placed(scheduling_strategy=hard).strategy == Strategy(
        kind="NODE", node_id=node_id, fail_if_busy=True
    )
    soft = NodeAffinitySchedulingStrategy(NODE, True, _spill_on_unavailable=True)
    assert placed(scheduling_strategy=soft).strategy == Strategy(
        kind="NODE", node_id=node_id, soft=True, spill_if_busy=True
    )
    labels = NodeLabelSchedulingStrategy(
        {"zone": In("a", "b"), "disk": Exists()}, soft={"gpu": DoesNotExist(), "os": NotIn("x")}
    )
    assert placed(scheduling_strategy=labels).strategy == Strategy(
        rules=(LabelRule("disk", "exists"), LabelRule("zone", "in", ("a", "b"))),
        soft_rules=(LabelRule("gpu", "absent"), LabelRule("os", "not in", ("x",))),
    )


def test_selectors_go_with_every_strategy() -> None:
    zone, disk = LabelRule("zone", "in", ("a",)), LabelRule("disk", "exists")
    assert placed(label_selector={"zone": "a"}).strategy == Strategy(rules=(zone,))
    spread = placed(scheduling_strategy="SPREAD", label_selector={"zone": "a"})
    assert spread.strategy == Strategy(kind="SPREAD", rules=(zone,))
    strategy = NodeLabelSchedulingStrategy({"disk": Exists()})
    both = placed(
        scheduling_strategy=strategy,
        label_selector={"zone": "a"},
        fallback_strategy=[{"label_selector": {"zone": "!b"}}, {"label_selector": {}}],
    )
    # A strategy's own rules hold, whatever the alternatives to the selector.
    assert both.strategy == Strategy(
        rules=(disk, zone),
        fallbacks=((disk, LabelRule("zone", "not in", ("b",))), (disk,)),
    )
    assert placed(label_selector={}, fallback_strategy=[]) == ANYWHERE


@pytest.mark.parametrize(
    "node_id", ["", "node", "0" * 32, NODE[:-1], NODE + "00", "z" * 32, 7, None, b"short"]
)
def test_what_is_no_id_of_a_node(node_id: Any) -> None:
    with pytest.raises(ValueError, match="32 hexadecimal digits"):
        NodeAffinitySchedulingStrategy(node_id, soft=False)


def test_ids_of_nodes_may_be_objects() -> None:
    assert NodeAffinitySchedulingStrategy(bytes.fromhex(NODE), soft=True).node_id == NODE  # type: ignore[arg-type]


def test_strategies_that_contradict_themselves() -> None:
    with pytest.raises(ValueError, match="soft=True"):
        NodeAffinitySchedulingStrategy(NODE, False, _spill_on_unavailable=True)
    with pytest.raises(ValueError, match="soft=False"):
        NodeAffinitySchedulingStrategy(NODE, True, _fail_on_unavailable=True)
    with pytest.raises(ValueError, match="both be empty"):
        NodeLabelSchedulingStrategy({}, soft={})
    for wrong in ({"zone": "a"}, {1: Exists()}, {"-": Exists()}, [Exists()]):
        with pytest.raises(ValueError):
            NodeLabelSchedulingStrategy(wrong)  # type: ignore[arg-type]
    for operator in (In, NotIn):
        with pytest.raises(ValueError, match="at least one"):
            operator()
        with pytest.raises(ValueError, match="must be str"):
            operator("a", 1)


def test_strategies_of_groups_check_themselves() -> None:
    empty = PlacementGroup.empty()
    for wrong in ({"placement_group": "mine"}, {"placement_group_bundle_index": "0"},
                  {"placement_group_bundle_index": True},
                  {"placement_group_capture_child_tasks": 1}):  # fmt: skip
        with pytest.raises(TypeError):
            PlacementGroupSchedulingStrategy(**{"placement_group": empty, **wrong})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least -1"):
        PlacementGroupSchedulingStrategy(empty, -2)
    for none in (empty, None):
        assert placed(scheduling_strategy=PlacementGroupSchedulingStrategy(none)) == ANYWHERE
        assert placed(placement_group=none) == ANYWHERE
        with pytest.raises(ValueError, match="there is no placement group"):
            placed(scheduling_strategy=PlacementGroupSchedulingStrategy(none, 0))
    with pytest.raises(ValueError, match="there is no placement group"):
        placed(placement_group_bundle_index=1)
    assert placed(placement_group_capture_child_tasks=True) == ANYWHERE  # of nothing


def test_strategies_may_be_pickled_and_read() -> None:
    for strategy in (
        NodeAffinitySchedulingStrategy(NODE, soft=True),
        NodeLabelSchedulingStrategy({"zone": In("a"), "b": NotIn("c")}, soft={"d": DoesNotExist()}),
        PlacementGroupSchedulingStrategy(PlacementGroup.empty(), -1, True),
    ):
        copy = pickle.loads(pickle.dumps(strategy))
        assert repr(copy) == repr(strategy)
        assert type(strategy).__name__ in repr(strategy)


# --------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("option", "value", "kind"),
    [
        ("label_selector", {"zone": "a b"}, ValueError),
        ("label_selector", {"zone": ["a"]}, TypeError),
        ("label_selector", {"a b": "c"}, ValueError),
        ("fallback_strategy", {"label_selector": {}}, TypeError),
        ("fallback_strategy", ["zone"], TypeError),
        ("fallback_strategy", [{}], ValueError),
        ("fallback_strategy", [{"label_selector": {}, "num_cpus": 1}], ValueError),
        ("fallback_strategy", [{"label_selector": {"zone": "()"}}], ValueError),
        ("scheduling_strategy", "SPRAED", ValueError),
        ("scheduling_strategy", object(), TypeError),
        ("placement_group", "mine", ValueError),
        ("placement_group", object(), TypeError),
        ("placement_group_bundle_index", -2, ValueError),
        ("placement_group_bundle_index", "0", TypeError),
        ("placement_group_capture_child_tasks", 1, TypeError),
    ],
)
def test_options_that_are_refused(option: str, value: Any, kind: type[Exception]) -> None:
    @skate.remote
    def task() -> None:
        pass

    @skate.remote
    class Actor:
        pass

    for target in (task, Actor):
        with pytest.raises(kind, match=option):
            target.options(**{option: value})


@pytest.mark.parametrize(
    "options",
    [
        {"placement_group": PlacementGroup.empty()},
        {"placement_group_bundle_index": 0},
        {"placement_group_capture_child_tasks": True},
    ],
)
def test_old_options_do_not_go_with_a_strategy(options: dict[str, Any]) -> None:
    for strategy in ("SPREAD", PlacementGroupSchedulingStrategy(PlacementGroup.empty())):
        with pytest.raises(ValueError):
            placed(scheduling_strategy=strategy, **options)
    unset = {"placement_group": None, "placement_group_bundle_index": -1}
    assert placed(scheduling_strategy="SPREAD", **unset).strategy == Strategy(kind="SPREAD")


# ---------------------------------------------------------------------------- real sessions


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    with skate.init(num_cpus=2, labels={"zone": "north", "example.org/disk": "ssd"}):
        yield


@skate.remote
def where() -> str:
    return str(skate.get_runtime_context().get_node_id())


@skate.remote
class Where:
    def where(self) -> str:
        return str(skate.get_runtime_context().get_node_id())


def runs(**options: Any) -> bool:
    """Whether a task and an actor with these options both run on the only node there is."""
    here = skate.get_runtime_context().get_node_id()
    actor = Where.options(**options).remote()
    refs = [where.options(**options).remote(), actor.where.remote()]
    return bool(skate.get(refs, timeout=30) == [here, here])


def test_strategies_that_the_only_node_meets(session: None) -> None:
    here = skate.get_runtime_context().get_node_id()
    assert runs(scheduling_strategy="SPREAD")
    assert runs(scheduling_strategy="DEFAULT")
    assert runs(scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False))
    assert runs(scheduling_strategy=NodeAffinitySchedulingStrategy(NODE, soft=True))
    assert runs(scheduling_strategy=NodeLabelSchedulingStrategy({"zone": In("south", "north")}))
    assert runs(
        scheduling_strategy=NodeLabelSchedulingStrategy(
            {"example.org/disk": Exists(), "gpu": DoesNotExist()}, soft={"zone": In("south")}
        )
    )
    assert runs(label_selector={"zone": "in(north, south)", "example.org/disk": "!hdd"})
    assert runs(label_selector={"ray.io/node-id": here})
    assert runs(
        label_selector={"zone": "south"}, fallback_strategy=[{"label_selector": {"zone": "north"}}]
    )


def test_a_node_that_has_nothing_to_do_is_soon_not_busy_any_more(session: None) -> None:
    here = skate.get_runtime_context().get_node_id()
    strategy = NodeAffinitySchedulingStrategy(here, soft=False, _fail_on_unavailable=True)
    whole = where.options(num_cpus=2, scheduling_strategy=strategy)
    for _ in range(3):
        until = time.monotonic() + 10
        while True:
            try:
                assert skate.get(whole.remote(), timeout=30) == here
                break
            except skate.exceptions.TaskUnschedulableError:
                assert time.monotonic() < until, "it is taken for busy for ever"
                time.sleep(0.1)


def test_a_node_that_does_not_exist_is_an_error(session: None) -> None:
    strategy = NodeAffinitySchedulingStrategy(NODE, soft=False)
    with pytest.raises(skate.exceptions.TaskUnschedulableError, match=NODE):
        skate.get(where.options(scheduling_strategy=strategy).remote(), timeout=30)
    actor = Where.options(scheduling_strategy=strategy).remote()
    with pytest.raises(
        (skate.exceptions.ActorUnschedulableError, skate.exceptions.ActorDiedError), match=NODE
    ):
        skate.get(actor.where.remote(), timeout=30)


def test_what_no_node_meets_waits(session: None) -> None:
    waiting = [
        where.options(label_selector={"zone": "south"}).remote(),
        where.options(
            scheduling_strategy=NodeLabelSchedulingStrategy({"zone": NotIn("north")})
        ).remote(),
        where.options(
            label_selector={"zone": "south"},
            fallback_strategy=[{"label_selector": {"zone": "!north"}}],
        ).remote(),
        Where.options(label_selector={"gpu": "a100"}).remote().where.remote(),
    ]
    runs()  # what comes later is not held up by them
    ready, _ = skate.wait(waiting, num_returns=len(waiting), timeout=0.5)
    assert ready == []


def test_labels_of_a_node(session: None) -> None:
    (node,) = skate.nodes()
    assert node["Labels"] == {
        "zone": "north",
        "example.org/disk": "ssd",
        "ray.io/node-id": node["NodeID"],
    }
    assert skate.get_runtime_context().get_node_labels() == node["Labels"]
