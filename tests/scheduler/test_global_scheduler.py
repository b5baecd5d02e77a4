"""Which node a task goes to: the paper's estimate, free resources first, strategies, waiting."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from skate.config import (
    MOVE_GAIN_S,
    MOVE_GAIN_SHARE,
    PLACED_UNSEEN_S,
    RESOURCE_PATIENCE_S,
    UNKNOWN_BYTES_PER_S,
    UNKNOWN_TASK_S,
)
from skate.error_records import ErrorRecord, decode_error
from skate.messages import Heartbeat, Offer, Placed
from skate.scheduler.global_scheduler import GlobalScheduler
from skate.spec import Demand, LabelRule, Strategy

HOME, A, B, C = (letter * 16 for letter in (b"h", b"a", b"b", b"c"))
CPU: Demand = (("CPU", 10_000),)
GPU: Demand = (("GPU", 10_000),)
NOW = 100.0
TASK_S = 1.0
MEGABYTE = 1 << 20


def cluster(*nodes: bytes, cpus: int = 2, seed: int = 1) -> GlobalScheduler:
    """A scheduler that knows these nodes, all idle."""
    scheduler = GlobalScheduler(random.Random(seed).random)
    for node_id in nodes:
        scheduler.node_joined(node_id, {"CPU": cpus * 10_000}, {})
    return scheduler


def load(
    scheduler: GlobalScheduler,
    node_id: bytes,
    cpus: int,
    queued: int = 0,
    task_s: float = TASK_S,
    **rest: Any,
) -> None:
    scheduler.heartbeat(node_id, Heartbeat({"CPU": cpus * 10_000}, queued, 0, 0, task_s, **rest))


def answer(
    scheduler: GlobalScheduler, count: int = 1, *, now: float = NOW, home: bytes = HOME, **rest: Any
) -> Placed:
    """What an offer is answered with; of tasks that wait in the home's queue, if not told else."""
    fields = {"number": 7, "demand": CPU, "queued": count, "average_s": TASK_S, **rest}
    ((to, placed),) = scheduler.offer(home, Offer(count=count, **fields), now)
    assert (to, placed.number) == (home, fields["number"])
    scheduler.check()
    return placed


def shares(scheduler: GlobalScheduler, count: int = 1, **rest: Any) -> dict[bytes, int]:
    placed = answer(scheduler, count, **rest)
    assert (placed.reason, placed.error) == ("", b"")
    assert sum(n for _, n in placed.places) <= count
    return dict(placed.places)


def error_of(placed: Placed) -> ErrorRecord:
    assert placed.error
    return decode_error(placed.error)


# The estimate.


def test_queue_length_times_average_task_time_decides_among_the_busy() -> None:
    """The paper's first term. The node with the longer queue wins, as its tasks are shorter."""
    scheduler = cluster(HOME, A, B)
    load(scheduler, A, 0, queued=4, task_s=1.0)
    load(scheduler, B, 0, queued=10, task_s=0.1)
    assert shares(scheduler, must_leave=True) == {B: 1}


def test_remote_input_bytes_over_bandwidth_are_part_of_the_wait() -> None:
    """The paper's second term: three megabytes at 1 MB/s are worse than two tasks of a second."""
    inputs = [([A], 2 * MEGABYTE), ([A, C], MEGABYTE)]
    scheduler = cluster(HOME, A, B, C)
    load(scheduler, A, 0, queued=1, bandwidth=float(MEGABYTE))
    load(scheduler, B, 1, bandwidth=float(MEGABYTE))  # free, but it lacks everything
    load(scheduler, C, 1, bandwidth=0.9 * MEGABYTE)  # free, and lacks two of three
    assert shares(scheduler, must_leave=True, inputs=inputs) == {A: 1}
    load(scheduler, A, 0, queued=2, bandwidth=float(MEGABYTE))
    assert shares(scheduler, must_leave=True, inputs=inputs) == {C: 1}


def test_the_offering_node_fetches_what_it_lacks_too() -> None:
    inputs = [([A], 10 * int(UNKNOWN_BYTES_PER_S))]
    scheduler = cluster(HOME, A)
    assert shares(scheduler, inputs=inputs) == {A: 1}
    assert shares(scheduler, inputs=[([HOME], 10 * int(UNKNOWN_BYTES_PER_S))]) == {}


def test_free_resources_make_nobody_wait_for_the_queue_behind_others() -> None:
    """Ten wait for something that is not CPU; a CPU is free all the same."""
    scheduler = cluster(HOME, A, B)
    load(scheduler, A, 1, queued=10)
    load(scheduler, B, 0, queued=0)
    assert shares(scheduler, must_leave=True) == {A: 1}


def test_ties_are_broken_at_random() -> None:
    chosen = set()
    for seed in range(20):
        scheduler = cluster(HOME, A, B, C, seed=seed)
        chosen |= set(shares(scheduler, must_leave=True))
    assert chosen == {A, B, C}


def test_one_offer_fills_equal_nodes_evenly() -> None:
    scheduler = cluster(HOME, A, B, C, cpus=8)
    assert shares(scheduler, 12, must_leave=True) == {A: 4, B: 4, C: 4}


@pytest.mark.parametrize(("task_s", "most", "apart"), [(0.01, 130, 10), (1.0, 999, 1)])
def test_many_short_tasks_go_to_few_nodes_and_long_ones_evenly(
    task_s: float, most: int, apart: int
) -> None:
    """Each node that is chosen is a message; 0.1 s of difference between nodes is little."""
    nodes = [number.to_bytes(16, "big") for number in range(999)]
    scheduler = cluster(HOME, *nodes, cpus=1)
    for node_id in nodes:
        load(scheduler, node_id, 0, task_s=task_s)
    placed = shares(scheduler, 1_280, must_leave=True, average_s=task_s)
    assert sum(placed.values()) == 1_280
    assert len(placed) <= most
    assert max(placed.values()) - (min(placed.values()) if len(placed) == 999 else 0) <= apart


def test_free_resources_are_filled_first_and_then_the_shortest_queue() -> None:
    scheduler = cluster(HOME, A, B, cpus=4)
    load(scheduler, A, 3)
    load(scheduler, B, 0, queued=2)
    assert shares(scheduler, 4, must_leave=True) == {A: 4}


# Actors.


def test_an_actor_is_sent_to_where_there_is_room_or_waits_for_it() -> None:
    """A queue behind actors tells nothing: they may hold what they have for ever."""
    scheduler = cluster(HOME, A, B, cpus=1)
    load(scheduler, A, 0)
    load(scheduler, B, 0)
    placed = answer(scheduler, 2, must_leave=True, is_actor=True)
    assert placed.places == []
    assert "waits for free resources: all 2 nodes" in placed.reason
    load(scheduler, B, 1)
    ((_, placed),) = scheduler.tick(NOW + 0.1)
    assert placed.places == [(B, 1)] and placed.reason
    load(scheduler, B, 0, received=1)
    assert scheduler.tick(NOW + 0.2) == []
    load(scheduler, A, 1)
    ((_, placed),) = scheduler.tick(NOW + 0.3)
    assert (placed.places, placed.reason) == ([(A, 1)], "")
    assert scheduler.pending() == []
    scheduler.check()


def test_an_actor_that_its_home_can_hold_waits_there() -> None:
    scheduler = cluster(HOME, A, cpus=1)
    load(scheduler, HOME, 0)
    load(scheduler, A, 0)
    assert shares(scheduler, is_actor=True) == {}
    load(scheduler, A, 1)
    assert shares(scheduler, is_actor=True) == {A: 1}


def test_an_actor_does_not_starve_where_tasks_leave_no_room_to_be_seen() -> None:
    """After a while it is sent to the shortest queue: that node owes it the next room."""
    scheduler = cluster(HOME, A, B, C, cpus=1)
    for node_id, queued, running in ((A, 9, 1), (B, 5, 1), (C, 0, 0)):  # C is full of actors
        scheduler.heartbeat(node_id, Heartbeat({"CPU": 0}, queued, running, 0, 0.1))
    assert answer(scheduler, must_leave=True, is_actor=True).reason
    scheduler.heartbeat(A, Heartbeat({"CPU": 0}, 9, 1, 0, 0.1))
    assert scheduler.tick(NOW + RESOURCE_PATIENCE_S / 2) == []
    scheduler.heartbeat(A, Heartbeat({"CPU": 0}, 9, 1, 0, 0.1))
    ((_, placed),) = scheduler.tick(NOW + RESOURCE_PATIENCE_S)
    assert (placed.places, placed.reason) == ([(B, 1)], "")


# Who stays.


def test_a_task_stays_unless_it_is_clearly_earlier_elsewhere() -> None:
    scheduler = cluster(HOME, A)
    load(scheduler, HOME, 0)
    load(scheduler, A, 0, queued=3)
    assert shares(scheduler, queued=4) == {}  # 4 s here, 4 s there
    assert shares(scheduler, queued=6) == {A: 1}
    load(scheduler, A, 2)
    short = MOVE_GAIN_S / 2
    assert shares(scheduler, average_s=short) == {}  # not worth the way
    assert shares(scheduler, average_s=2 * short + 0.001) == {A: 1}


def test_of_a_long_queue_each_of_two_nodes_gets_half() -> None:
    scheduler = cluster(HOME, A)
    load(scheduler, HOME, 0)
    load(scheduler, A, 0)
    (moved,) = shares(scheduler, 1_000).values()
    # The waits differ by no more than the gain that a move is to have.
    assert moved <= 500
    here, there = (1_000 - moved) * TASK_S, moved * TASK_S
    assert here <= there * (1 + MOVE_GAIN_SHARE) + MOVE_GAIN_S + 2 * TASK_S


def test_what_the_offering_node_can_start_at_once_stays() -> None:
    scheduler = cluster(HOME, A, cpus=8)
    assert shares(scheduler, 5) == {}
    assert shares(scheduler, 5) == {A: 2}  # though no heartbeat has told of the first five
    for _ in range(2):
        load(scheduler, HOME, 2)
    load(scheduler, A, 8, received=2)
    assert shares(scheduler, 8) == {A: 6}
    for _ in range(2):
        load(scheduler, HOME, 2)
    load(scheduler, A, 8, received=8)
    assert shares(scheduler, 3, queued=5) == {A: 3}  # two that are not offered go first


def test_a_node_with_no_average_yet_is_taken_for_a_cautious_one() -> None:
    scheduler = cluster(HOME, A)
    load(scheduler, HOME, 0)
    load(scheduler, A, 0, queued=5, task_s=0.0)
    assert shares(scheduler, queued=5, average_s=0.0) == {}
    assert shares(scheduler, queued=8, average_s=-1.0) == {A: 1}
    assert UNKNOWN_TASK_S > MOVE_GAIN_S  # or nobody would ever move without an average


def test_two_nodes_that_offer_at_once_do_not_get_the_same_free_cpu() -> None:
    scheduler = cluster(HOME, C, A, cpus=2)
    for node_id in (HOME, C):
        load(scheduler, node_id, 0)
    assert shares(scheduler, 2) == {A: 2}
    assert shares(scheduler, 1, home=C) == {}
    load(scheduler, A, 2, received=1)  # one has come, and has ended already
    assert shares(scheduler, 2, home=C) == {A: 1}
    assert shares(scheduler, 2, now=NOW + PLACED_UNSEEN_S + 1) == {A: 2}  # the others got lost


# Who may be chosen at all.


def test_only_nodes_that_could_hold_the_demand_and_can_be_reached_are_chosen() -> None:
    scheduler = cluster(HOME, A, B)
    scheduler.node_joined(C, {"CPU": 10_000, "GPU": 10_000}, {})
    load(scheduler, C, 0, queued=50)
    assert shares(scheduler, demand=GPU, must_leave=True) == {C: 1}
    assert shares(scheduler, must_leave=True, avoid=[A]) == {B: 1}


ZONE_A, ZONE_B = (LabelRule("zone", "in", (zone,)) for zone in "ab")


def zones() -> GlobalScheduler:
    """Home in no zone; A in zone a, B in zone b."""
    scheduler = cluster(HOME)
    scheduler.node_joined(A, {"CPU": 20_000}, {"zone": "a"})
    scheduler.node_joined(B, {"CPU": 20_000}, {"zone": "b"})
    return scheduler


def test_rules_hold_whether_or_not_the_offering_node_says_that_they_must_leave() -> None:
    assert shares(zones(), strategy=Strategy(rules=(ZONE_B,))) == {B: 1}
    named = LabelRule("ray.io/node-id", "in", (A.hex(),))
    assert shares(zones(), strategy=Strategy(rules=(named,))) == {A: 1}


def test_fallbacks_take_the_place_of_rules_that_no_node_meets() -> None:
    nowhere = LabelRule("zone", "in", ("c",))
    strategy = Strategy(rules=(nowhere,), fallbacks=((nowhere,), (ZONE_B,), (ZONE_A,)))
    assert shares(zones(), strategy=strategy) == {B: 1}


def test_soft_rules_count_only_if_a_node_meets_them() -> None:
    scheduler = zones()
    load(scheduler, B, 0, queued=3)
    soft = Strategy(soft_rules=(ZONE_B,))
    assert shares(scheduler, strategy=soft) == {B: 1}
    assert shares(scheduler, strategy=soft, avoid=[B], must_leave=True) == {A: 1}


# SPREAD and NODE.

SPREAD = Strategy("SPREAD")


def test_spread_goes_round() -> None:
    scheduler = cluster(HOME, A, B, cpus=8)
    assert shares(scheduler, 7, strategy=SPREAD) == {A: 2, B: 2}  # and three stay
    one_by_one = [shares(scheduler, strategy=SPREAD) for _ in range(6)]
    assert one_by_one == [{A: 1}, {B: 1}, {}] * 2


def test_spread_prefers_room_and_then_is_even_again() -> None:
    scheduler = cluster(HOME, A, B, cpus=4)
    load(scheduler, HOME, 0)
    load(scheduler, A, 1)
    assert shares(scheduler, 3, strategy=SPREAD) == {A: 1, B: 2}
    again = shares(scheduler, 5, strategy=SPREAD)  # room for two is left, on B
    assert again == {A: 1, B: 3}


def test_spread_remembers_what_stays_though_no_heartbeat_has_told() -> None:
    scheduler = cluster(HOME, A, cpus=2)
    placed = [shares(scheduler, strategy=SPREAD) for _ in range(4)]
    assert sum(len(one) for one in placed) == 2
    load(scheduler, A, 2)
    assert shares(scheduler, 2, strategy=SPREAD) == {A: 1}  # both are full: one each again


def test_a_task_for_one_node_goes_there_busy_or_not() -> None:
    scheduler = cluster(HOME, A, B)
    load(scheduler, B, 0, queued=9)
    assert shares(scheduler, 3, strategy=Strategy("NODE", B)) == {B: 3}
    assert shares(scheduler, strategy=Strategy("NODE", B, soft=True)) == {B: 1}
    assert shares(scheduler, strategy=Strategy("NODE", HOME)) == {}


@pytest.mark.parametrize(
    ("strategy", "demand", "says"),
    [
        (Strategy("NODE", C), CPU, "is dead or was never part"),
        (Strategy("NODE", A), GPU, "that node does not have GPU 1 (it has 0)"),
        (Strategy("NODE", A, rules=(ZONE_A,)), CPU, "no node with label zone = a"),
    ],
)
def test_a_task_for_a_node_that_can_never_take_it_fails(
    strategy: Strategy, demand: Demand, says: str
) -> None:
    record = error_of(answer(cluster(HOME, A), strategy=strategy, demand=demand))
    assert record.kind == "TaskUnschedulableError"
    assert says in record.message
    assert strategy.node_id.hex() in record.message
    placed = answer(cluster(HOME, A), strategy=strategy, demand=demand, is_actor=True)
    assert error_of(placed).kind == "ActorUnschedulableError"


def test_a_task_that_only_prefers_a_node_goes_elsewhere_if_that_one_cannot() -> None:
    scheduler = cluster(HOME, A)
    for node_id in (C, HOME):
        strategy = Strategy("NODE", node_id, soft=True)
        assert shares(scheduler, strategy=strategy, must_leave=True) == {A: 1}
    assert shares(scheduler, strategy=Strategy("NODE", A, soft=True), avoid=[A]) == {}


def test_spill_if_busy_leaves_the_preferred_node_what_it_has_room_for() -> None:
    scheduler = cluster(HOME, A, B, cpus=2)
    load(scheduler, HOME, 0)
    strategy = Strategy("NODE", A, soft=True, spill_if_busy=True)
    assert shares(scheduler, 4, strategy=strategy) == {A: 2, B: 2}


def test_fail_if_busy_places_what_has_room_and_fails_the_rest() -> None:
    scheduler = cluster(HOME, A, cpus=2)
    strategy = Strategy("NODE", A, fail_if_busy=True)
    placed = answer(scheduler, 3, strategy=strategy)
    assert placed.places == [(A, 2)]
    assert "is busy" in error_of(placed).message
    here = Strategy("NODE", HOME, fail_if_busy=True)
    placed = answer(scheduler, 3, strategy=here)
    assert placed.places == [(HOME, 2)]  # or nobody could tell which of them fail
    assert placed.error


@pytest.mark.parametrize(
    ("strategy", "says"),
    [
        (Strategy("ANYWHERE"), "'ANYWHERE'"),
        (Strategy(rules=(LabelRule("zone", "like", ("a",)),)), "'like'"),
    ],
)
def test_a_strategy_that_is_none_is_the_user_s_error(strategy: Strategy, says: str) -> None:
    record = error_of(answer(cluster(HOME, A), strategy=strategy))
    assert record.kind == "UsageError"
    assert says in record.message


@pytest.mark.parametrize("fields", [{"count": -1}, {"demand": (("CPU", 0),)}])
def test_an_offer_that_is_none_is_the_node_s_error(fields: dict[str, Any]) -> None:
    offer = Offer(**{"number": 1, "demand": CPU, "count": 1, "queued": 0, "average_s": 0, **fields})
    with pytest.raises(ValueError, match="an offer of"):
        cluster(HOME).offer(HOME, offer, NOW)


# Waiting.


def test_what_no_node_can_hold_waits_until_one_joins() -> None:
    scheduler = cluster(HOME, A)
    placed = answer(scheduler, 3, demand=GPU, must_leave=True, name="train")
    assert (placed.places, placed.error) == ([], b"")
    assert placed.reason == "infeasible: no node has GPU 1 (the most that one has is 0)"
    (row,) = scheduler.pending()
    assert (row.name, row.demand, row.count, row.reason) == (
        "train",
        {"GPU": 10_000},
        3,
        placed.reason,
    )
    scheduler.tick(NOW)
    assert not scheduler.is_tick_due
    scheduler.node_joined(C, {"GPU": 10_000}, {})
    assert scheduler.is_tick_due
    assert scheduler.tick(NOW) == [(HOME, Placed(7, [(C, 3)]))]
    assert scheduler.tick(NOW) == []
    assert scheduler.pending() == []


def test_what_waits_is_placed_once_a_bundle_has_come() -> None:
    group = "ab" * 16
    demand: Demand = ((f"CPU_group_{group}", 10_000),)
    scheduler = cluster(HOME, A)
    reason = answer(scheduler, demand=demand, must_leave=True).reason
    assert f"a bundle of placement group {group} with CPU 1" in reason
    scheduler.node_changed(A, {"CPU": 20_000, f"CPU_group_{group}": 20_000})
    assert scheduler.tick(NOW) == [(HOME, Placed(7, [(A, 1)]))]
    scheduler.node_changed(A, {"CPU": 20_000})
    assert answer(scheduler, demand=demand, must_leave=True).reason


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"strategy": Strategy(rules=(LabelRule("zone", "in", ("x",)),))}, "no node with label"),
        (
            {"strategy": Strategy(rules=(ZONE_A,)), "demand": (("CPU", 15_000), ("GPU", 10_000))},
            "no single node has CPU 1.5 and GPU 1 together",
        ),
        ({"strategy": Strategy(rules=(ZONE_A,)), "demand": GPU}, "has GPU 1"),
        ({"must_leave": True, "avoid": [A, B, C]}, "cannot reach"),
    ],
)
def test_the_reason_says_what_is_missing(fields: dict[str, Any], says: str) -> None:
    scheduler = zones()
    scheduler.node_joined(C, {"CPU": 10_000, "GPU": 10_000}, {"zone": "c"})
    assert says in answer(scheduler, **fields).reason


def test_a_new_reason_is_told() -> None:
    scheduler = cluster(HOME)
    big: Demand = (("CPU", 80_000),)
    first = answer(scheduler, demand=big, must_leave=True).reason
    scheduler.node_joined(A, {"CPU": 40_000}, {})
    ((_, placed),) = scheduler.tick(NOW)
    assert placed.places == []
    assert placed.reason != first
    assert "4" in placed.reason


def test_an_offer_is_taken_back_by_count_0_and_replaced_by_the_same_number() -> None:
    scheduler = cluster(HOME)
    answer(scheduler, 5, demand=GPU, must_leave=True)
    answer(scheduler, 2, demand=GPU, must_leave=True)
    assert [row.count for row in scheduler.pending()] == [2]
    assert scheduler.offer(HOME, Offer(7, GPU, 0, 0, 0.0), NOW) == []
    assert scheduler.pending() == []
    scheduler.node_joined(C, {"GPU": 10_000}, {})
    assert scheduler.tick(NOW) == []


def test_with_the_offering_node_goes_what_it_has_offered() -> None:
    scheduler = cluster(HOME, A)
    answer(scheduler, demand=GPU, must_leave=True)
    answer(scheduler, demand=GPU, must_leave=True, home=A)
    scheduler.node_left(HOME)
    assert len(scheduler.pending()) == 1
    scheduler.withdraw(A)
    assert scheduler.pending() == []


def test_what_is_bound_to_a_node_out_of_reach_waits_and_fails_once_that_is_dead() -> None:
    scheduler = cluster(HOME, A)
    placed = answer(scheduler, strategy=Strategy("NODE", A), avoid=[A])
    assert A.hex() in placed.reason
    scheduler.node_left(A)
    ((_, placed),) = scheduler.tick(NOW)
    assert error_of(placed).kind == "TaskUnschedulableError"
    assert scheduler.pending() == []


# Scale, and anything at all.


def test_a_thousand_nodes_take_ten_thousand_tasks_in_a_few_thousand_steps() -> None:
    nodes, tasks = 1_000, 10_000
    source = random.Random(3)
    draws = 0

    def counted() -> float:
        nonlocal draws
        draws += 1
        return source.random()

    scheduler = GlobalScheduler(counted)
    ids = [number.to_bytes(16, "big") for number in range(nodes)]
    for node_id in ids:
        scheduler.node_joined(node_id, {"CPU": 40_000}, {"zone": "a"})
        load(scheduler, node_id, source.randrange(5), queued=source.randrange(20), task_s=0.1)
    started = time.process_time()
    placed = shares(scheduler, tasks, home=ids[0], average_s=0.01)
    spent = time.process_time() - started
    assert sum(placed.values()) > 0.9 * tasks
    # One draw for each node and for each portion, of which there are far fewer than tasks.
    assert draws < 7 * nodes
    assert spent < 1.0  # seven milliseconds where this was written


LOADS = st.tuples(
    st.integers(0, 4),  # free CPUs
    st.integers(0, 6),  # queued
    st.sampled_from([0.0, 0.25, 1.0]),  # average task time
    st.sampled_from([0.0, float(MEGABYTE)]),  # bandwidth
    st.booleans(),  # whether it has the input
)


@given(
    loads=st.lists(LOADS, min_size=1, max_size=6),
    count=st.integers(1, 60),
    extra=st.integers(0, 5),
    average_s=st.sampled_from([0.0, 0.1, 1.0]),
    must_leave=st.booleans(),
)
@example(  # the nearest node is the lowest before seven places that are free, though far
    loads=[
        (4, 1, 0.0, float(MEGABYTE), False),
        (4, 1, 0.0, 0.0, True),
        (3, 1, 1.0, float(MEGABYTE), False),
    ],
    count=12,
    extra=3,
    average_s=1.0,
    must_leave=True,
)
def test_many_at_once_are_placed_as_one_by_one(
    loads: list[tuple[int, int, float, float, bool]],
    count: int,
    extra: int,
    average_s: float,
    must_leave: bool,
) -> None:
    """Against the estimate written out: each task to whoever has the smallest, one after another.

    Ties may fall differently, so the waits are compared and not the nodes.
    """
    ids = [HOME, *(bytes([65 + number]) * 16 for number in range(len(loads)))]
    scheduler = cluster(*ids, cpus=4)
    load(scheduler, HOME, 0)
    inputs = [([i for i, one in zip(ids[1:], loads, strict=True) if one[4]], 2 * MEGABYTE)]
    task_s = average_s or UNKNOWN_TASK_S
    for node_id, (free, queued, node_task_s, bandwidth, _) in zip(ids[1:], loads, strict=True):
        load(scheduler, node_id, free, queued, node_task_s, bandwidth=bandwidth)

    def wait_s(number: int, placed: int) -> float:
        """Of the next task to be placed on this node, if it has got so many."""
        if number == 0:
            fetched = 2 * MEGABYTE / UNKNOWN_BYTES_PER_S
            stays = fetched + (extra + placed + 1) * task_s
            return (stays - MOVE_GAIN_S) / (1 + MOVE_GAIN_SHARE)
        free, queued, node_task_s, bandwidth, has_it = loads[number - 1]
        fetched = 0.0 if has_it else 2 * MEGABYTE / (bandwidth or UNKNOWN_BYTES_PER_S)
        if placed < free:
            return fetched
        return fetched + queued * (node_task_s or UNKNOWN_TASK_S) + (placed + 1 - free) * task_s

    got = shares(
        scheduler,
        count,
        queued=count + extra,
        average_s=average_s,
        inputs=inputs,
        must_leave=must_leave,
    )
    counts = [count - sum(got.values()), *(got.get(node_id, 0) for node_id in ids[1:])]
    waits = [wait_s(number, k) for number, n in enumerate(counts) for k in range(n)]
    expected = []
    ideal = [0] * len(ids)
    for _ in range(count):
        number = min(range(must_leave, len(ids)), key=lambda i: wait_s(i, ideal[i]))
        expected.append(wait_s(number, ideal[number]))
        ideal[number] += 1
    assert sorted(waits) == pytest.approx(sorted(expected))
    assert not (must_leave and counts[0])


NODES = [HOME, A, B, C]
STRATEGIES = [
    None,
    SPREAD,
    Strategy(rules=(ZONE_A,), fallbacks=((ZONE_B,),)),
    Strategy(soft_rules=(ZONE_B,)),
    *(Strategy("NODE", node_id) for node_id in NODES),
    *(Strategy("NODE", node_id, soft=True, spill_if_busy=True) for node_id in NODES),
    *(Strategy("NODE", node_id, fail_if_busy=True) for node_id in NODES),
]
NODE = st.sampled_from(NODES)
EVENTS = st.one_of(
    st.tuples(st.just("join"), NODE, st.sampled_from([{"CPU": 20_000}, {"GPU": 10_000}])),
    st.tuples(st.just("leave"), NODE, st.none()),
    st.tuples(st.just("change"), NODE, st.sampled_from([{"CPU": 40_000}, {"CPU": 10_000}])),
    st.tuples(st.just("beat"), NODE, st.integers(0, 20)),
    st.tuples(st.just("tick"), NODE, st.sampled_from([0.1, 3.0])),
    st.tuples(
        st.just("offer"),
        NODE,
        st.builds(
            Offer,
            number=st.integers(1, 3),
            demand=st.sampled_from([CPU, GPU, (), (("CPU", 5_000), ("GPU", 10_000))]),
            count=st.integers(0, 9),
            queued=st.integers(0, 12),
            average_s=st.sampled_from([-1.0, 0.0, 0.5]),
            strategy=st.sampled_from(STRATEGIES),
            must_leave=st.booleans(),
            avoid=st.lists(NODE, max_size=2),
        ),
    ),
)


@given(st.lists(EVENTS, max_size=40))
def test_no_order_of_events_breaks_it(events: list[tuple[str, bytes, Any]]) -> None:
    scheduler = GlobalScheduler(random.Random(5).random)
    living: dict[bytes, dict[str, int]] = {}
    labels = {A: {"zone": "a"}, B: {"zone": "b"}}
    open_offers: dict[tuple[bytes, int], Offer] = {}
    received = dict.fromkeys(NODES, 0)
    now = NOW
    for what, node_id, argument in events:
        answers: list[tuple[bytes, Placed]] = []
        if what == "join":
            if node_id not in living:
                scheduler.node_joined(node_id, argument, labels.get(node_id, {}))
                living[node_id] = argument
                received[node_id] = 0
        elif node_id not in living:
            continue
        elif what == "leave":
            scheduler.node_left(node_id)
            del living[node_id]
            open_offers = {key: one for key, one in open_offers.items() if key[0] != node_id}
        elif what == "change":
            scheduler.node_changed(node_id, argument)
            living[node_id] = argument
        elif what == "beat":
            received[node_id] += argument
            beat = Heartbeat(dict(living[node_id]), argument, 0, 0, 0.1, received[node_id])
            scheduler.heartbeat(node_id, beat)
        elif what == "tick":
            now += argument
            answers = scheduler.tick(now)
            assert not scheduler.is_tick_due
        else:
            open_offers[node_id, argument.number] = argument
            answers = scheduler.offer(node_id, argument, now)
            assert len(answers) == (argument.count > 0)
        scheduler.check()
        for home, placed in answers:
            offer = open_offers[home, placed.number]
            is_soft = offer.strategy is None or offer.strategy.kind != "NODE"
            assert sum(count for _, count in placed.places) <= offer.count
            for target, count in placed.places:
                assert count > 0
                assert target != home or placed.error
                assert target not in offer.avoid
                assert all(living[target].get(name, 0) >= units for name, units in offer.demand)
            if placed.reason or placed.error:
                assert not (placed.reason and placed.error)
            elif offer.must_leave and is_soft:
                assert sum(count for _, count in placed.places) == offer.count
        waiting = sum(1 for _ in scheduler.pending())
        assert waiting <= len(open_offers)
