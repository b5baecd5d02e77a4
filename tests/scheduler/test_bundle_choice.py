"""Where bundles go, by strategy: small clusters by example, and against trying everything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skate.scheduler.bundle_choice import STRATEGIES, NodeRoom, Wanted, choose, why_not
from skate.scheduler.label_rules import meets
from skate.spec import LabelRule, demand_of

CPU = {"CPU": 1.0}


def node(name: str, total: dict[str, float], free: dict[str, float] | None = None) -> NodeRoom:
    """A node named by one letter, labelled with it."""
    units = dict(demand_of(total))
    left = units if free is None else dict(demand_of(free))
    return NodeRoom(name.encode() * 16, units, left, {"name": name})


def bundles(*amounts: dict[str, float], rules: tuple[LabelRule, ...] = ()) -> list[Wanted]:
    return [Wanted(index, demand_of(amount), rules) for index, amount in enumerate(amounts)]


def chosen(
    strategy: str, wanted: list[Wanted], nodes: list[NodeRoom], placed: str = "", soft: str = ""
) -> str | None:
    """The letters of the nodes, bundle by bundle."""
    counts = Counter(letter.encode() * 16 for letter in placed)
    choice = choose(wanted, strategy, nodes, counts, soft.encode() * 16)
    if choice is None:
        return None
    return "".join(choice[one.bundle][:1].decode() for one in wanted)


THREE = [node("a", {"CPU": 4}), node("b", {"CPU": 2}), node("c", {"CPU": 8})]


def test_strict_pack_takes_the_fullest_node_that_can_hold_all() -> None:
    assert chosen("STRICT_PACK", bundles(CPU, CPU), THREE) == "bb"
    assert chosen("STRICT_PACK", bundles(CPU, CPU, CPU), THREE) == "aaa"
    assert chosen("STRICT_PACK", bundles({"CPU": 5}, {"CPU": 4}), THREE) is None


def test_strict_pack_takes_its_soft_target_if_that_can_hold_all() -> None:
    assert chosen("STRICT_PACK", bundles(CPU, CPU), THREE, soft="c") == "cc"
    assert chosen("STRICT_PACK", bundles(CPU, CPU, CPU), THREE, soft="b") == "aaa"
    assert chosen("STRICT_PACK", bundles(CPU), THREE, soft="z") == "b"


def test_pack_takes_as_few_nodes_as_it_can() -> None:
    assert chosen("PACK", bundles(CPU, CPU), THREE) == "bb"
    assert chosen("PACK", bundles(*[CPU] * 9), THREE) == "c" * 8 + "b"
    assert chosen("PACK", bundles(*[CPU] * 14), THREE) == "c" * 8 + "aaaabb"
    assert chosen("PACK", bundles(*[CPU] * 15), THREE) is None


def test_pack_goes_where_the_group_is_already() -> None:
    assert chosen("PACK", bundles(CPU, CPU), THREE, placed="c") == "cc"
    assert chosen("PACK", bundles(CPU, CPU, CPU), THREE, placed="b") == "bba"


def test_pack_finds_room_where_filling_the_best_node_first_does_not() -> None:
    nodes = [node("a", {"CPU": 12}), node("b", {"CPU": 12})]
    sizes = [6.0, 4.0, 4.0, 4.0, 3.0, 3.0]
    assert chosen("PACK", bundles(*({"CPU": size} for size in sizes)), nodes) == "abbbaa"


def test_spread_takes_as_many_nodes_as_it_can() -> None:
    assert sorted(chosen("SPREAD", bundles(CPU, CPU, CPU), THREE) or "") == ["a", "b", "c"]
    spread = chosen("SPREAD", bundles(*[CPU] * 5), THREE)
    assert sorted(Counter(spread or "").values()) == [1, 2, 2]
    assert chosen("SPREAD", bundles(*[CPU] * 14), THREE) is not None
    assert chosen("SPREAD", bundles(*[CPU] * 15), THREE) is None


def test_spread_goes_where_the_group_is_not() -> None:
    assert sorted(chosen("SPREAD", bundles(CPU, CPU), THREE, placed="c") or "") == ["a", "b"]
    assert sorted(chosen("SPREAD", bundles(CPU, CPU, CPU), THREE, placed="cc") or "")[:2] == [
        "a",
        "a",
    ]


def test_spread_finds_room_where_one_each_first_does_not() -> None:
    nodes = [node("a", {"CPU": 4}), node("b", {"CPU": 4}), node("c", {"CPU": 3})]
    wanted = bundles({"CPU": 4}, {"CPU": 2}, {"CPU": 3}, {"CPU": 2})
    assert chosen("SPREAD", wanted, nodes) in ("abcb", "baca")


def test_strict_spread_moves_bundles_over_until_each_has_a_node() -> None:
    wanted = bundles(CPU, {"CPU": 3}, {"CPU": 5})
    assert chosen("STRICT_SPREAD", wanted, THREE) == "bac"
    assert chosen("STRICT_SPREAD", bundles(*[CPU] * 4), THREE) is None
    assert chosen("STRICT_SPREAD", bundles(CPU, CPU), THREE, placed="c") in ("ab", "ba")
    assert chosen("STRICT_SPREAD", bundles(*[CPU] * 3), THREE, placed="c") is None
    assert chosen("STRICT_SPREAD", bundles({"CPU": 5}, {"CPU": 5}), THREE) is None


def test_a_chain_of_bundles_moves_on() -> None:
    """The first two take the nodes that the third needs, as long as nobody else wants them."""
    nodes = [node(letter, CPU) for letter in "xyz"]
    wanted = [
        Wanted(index, demand_of(CPU), (LabelRule("name", "in", tuple(letters)),))
        for index, letters in enumerate(["xy", "yz", "xy"])
    ]
    for strategy in ("SPREAD", "STRICT_SPREAD"):
        assert chosen(strategy, wanted, nodes) == "xzy"


def test_gpus_are_left_to_those_who_want_them() -> None:
    nodes = [node("g", {"CPU": 1, "GPU": 1}), node("h", {"CPU": 8})]
    for strategy in STRATEGIES:
        assert chosen(strategy, bundles(CPU), nodes) == "h"
        assert chosen(strategy, bundles({"GPU": 1.0}), nodes) == "g"


def test_label_rules() -> None:
    rule = (LabelRule("name", "in", ("a", "b")),)
    for strategy in STRATEGIES:
        assert chosen(strategy, bundles(CPU, rules=rule), THREE) in ("a", "b")
    assert chosen("PACK", bundles({"CPU": 4}, {"CPU": 4}, rules=rule), THREE) is None
    assert chosen("SPREAD", bundles(CPU, CPU, CPU, rules=rule), THREE) in ("aba", "baa", "aab")


def test_what_is_busy_is_told_from_what_can_never_be() -> None:
    busy = [node("a", {"CPU": 4}, {"CPU": 1}), node("b", {"CPU": 4}, {"CPU": 1})]
    assert why_not(bundles({"CPU": 3}), "PACK", busy, {}) == (
        False,
        "what it needs is in use by others",
    )
    for wanted, strategy, text in (
        (bundles(CPU, {"GPU": 2}), "PACK", "no node has GPU: 2 for bundle 1"),
        (bundles({"CPU": 3}, {"CPU": 3}), "STRICT_PACK", "no single node has CPU: 6 for all"),
        (bundles(CPU, CPU, CPU), "STRICT_SPREAD", "no 3 different nodes"),
        (bundles(*[{"CPU": 3.0}] * 3), "PACK", "all 2 nodes together"),
        (bundles(CPU, rules=(LabelRule("x", "exists"),)), "PACK", "no node with label x has"),
    ):
        is_infeasible, reason = why_not(wanted, strategy, busy, {})
        assert is_infeasible and text in reason, reason
    assert why_not(bundles(CPU), "PACK", [], {}) == (True, "there is no node")


def test_a_strategy_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="STRICT_SPREAD"):
        choose(bundles(CPU), "SCATTER", THREE, {})


def test_a_thousand_bundles_on_a_thousand_nodes() -> None:
    """Every strategy ends, with bundles of two kinds, on nodes of two kinds, all of them full."""
    nodes = [
        NodeRoom(number.to_bytes(16, "big"), free, free, {})
        for number in range(1_000)
        for free in [{"CPU": 20_000} if number % 2 else {"CPU": 10_000, "oar": 10_000}]
    ]
    wanted = bundles(*[{"CPU": 2.0}, {"CPU": 1.0, "oar": 1.0}] * 500)
    for strategy in ("PACK", "SPREAD", "STRICT_SPREAD"):
        choice = choose(wanted, strategy, nodes, {})
        assert choice is not None and len(set(choice.values())) == 1_000


# ------------------------------------------------------------------- against trying everything

AMOUNT = st.fixed_dictionaries(
    {}, optional={"CPU": st.sampled_from([1.0, 2.0, 3.0]), "oar": st.just(1.0)}
)


def allowed(strategy: str, places: tuple[int, ...], placed: list[int]) -> bool:
    """Whether the strategy may put bundles there."""
    used = [*places, *placed]
    if strategy == "STRICT_PACK":
        return len(set(used)) == 1
    if strategy == "STRICT_SPREAD":
        return len(set(used)) == len(used)
    return True


def arrangements(
    strategy: str, wanted: list[Wanted], nodes: list[NodeRoom], placed: list[int]
) -> Iterator[tuple[int, ...]]:
    """Every arrangement that is possible."""
    for places in product(range(len(nodes)), repeat=len(wanted)):
        left = [dict(one.free) for one in nodes]
        for one, place in zip(wanted, places, strict=True):
            for name, units in one.demand:
                left[place][name] = left[place].get(name, 0) - units
        fit = all(units >= 0 for free in left for units in free.values())
        labels = all(
            meets(nodes[place].labels, one.rules) for one, place in zip(wanted, places, strict=True)
        )
        if fit and labels and allowed(strategy, places, placed):
            yield places


@settings(max_examples=400, deadline=None)
@given(
    strategy=st.sampled_from(STRATEGIES),
    amounts=st.lists(AMOUNT.filter(bool), min_size=1, max_size=4),
    rooms=st.lists(
        st.fixed_dictionaries(
            {"CPU": st.sampled_from([1.0, 2.0, 4.0]), "oar": st.sampled_from([0.0, 1.0, 2.0])}
        ),
        min_size=1,
        max_size=4,
    ),
    letters=st.lists(st.sets(st.sampled_from("abcd")), min_size=4, max_size=4),
    survivors=st.lists(st.integers(0, 3), max_size=2),
)
def test_a_choice_is_found_exactly_if_there_is_one(
    strategy: str,
    amounts: list[dict[str, float]],
    rooms: list[dict[str, float]],
    letters: list[set[str]],
    survivors: list[int],
) -> None:
    nodes = [node("abcd"[number], room) for number, room in enumerate(rooms)]
    wanted = [
        Wanted(
            index,
            demand_of(amount),
            (LabelRule("name", "in", tuple(sorted(letters[index]))),) if letters[index] else (),
        )
        for index, amount in enumerate(amounts)
    ]
    placed = [number for number in survivors if number < len(nodes)]
    if not allowed(strategy, (), placed) and placed:
        placed = placed[:1]
    possible = list(arrangements(strategy, wanted, nodes, placed))
    counts = Counter(nodes[number].node_id for number in placed)
    choice = choose(wanted, strategy, nodes, counts)
    if choice is None:
        assert not possible
        assert why_not(wanted, strategy, nodes, counts)[0]
        return
    order = [one.node_id for one in nodes]
    places = tuple(order.index(choice[one.bundle]) for one in wanted)
    assert places in possible
    if strategy == "PACK" and any(len({*p, *placed}) == 1 for p in possible):
        assert len({*places, *placed}) == 1
    if strategy == "SPREAD" and not placed:
        could_all_differ = any(len(set(p)) == len(wanted) for p in possible)
        assert not could_all_differ or len(set(places)) == len(wanted)
