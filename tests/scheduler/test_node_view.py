"""A node between two heartbeats: what was placed there counts until the node counts it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skate.config import PLACED_UNSEEN_S, UNKNOWN_TASK_S
from skate.messages import Heartbeat
from skate.scheduler.node_view import STAY_HEARTBEATS, NodeView
from skate.spec import Demand

CPU: Demand = (("CPU", 10_000),)
GPU: Demand = (("GPU", 10_000),)


def view(cpus: int = 4) -> NodeView:
    return NodeView(b"N" * 16, 1, {"CPU": cpus * 10_000}, {"zone": "a"})


def load(
    cpus: int, queued: int = 0, task_s: float = 0.5, received: int = 0, bandwidth: float = 0.0
) -> Heartbeat:
    return Heartbeat({"CPU": cpus * 10_000}, queued, 0, 0, task_s, received, bandwidth)


def test_a_node_that_has_said_nothing_yet_is_free() -> None:
    node = view()
    assert (node.room(CPU, 99), node.queue_s) == (4, 0.0)
    assert node.can_hold(CPU)
    assert not node.can_hold(GPU)
    assert node.room((), 99) == 99  # what needs nothing has room anywhere


def test_a_queue_is_its_length_times_the_average_task() -> None:
    node = view()
    node.heard(load(0, queued=6, task_s=0.5))
    assert node.queue_s == pytest.approx(3.0)
    node.heard(load(0, queued=6, task_s=0.0))
    assert node.queue_s == pytest.approx(6 * UNKNOWN_TASK_S)


def test_what_is_placed_takes_room_and_then_queues_until_the_node_has_counted_it() -> None:
    node = view()
    node.place(CPU, 6, 2.0, now=1.0)
    assert (node.room(CPU, 99), node.queue_s) == (0, pytest.approx(4.0))
    node.heard(load(4, received=0))  # none has arrived
    assert (node.room(CPU, 99), node.queue_s) == (0, pytest.approx(4.0))
    node.heard(load(1, received=3))  # three run
    assert (node.room(CPU, 99), node.queue_s) == (0, pytest.approx(4.0))
    node.heard(load(0, queued=2, task_s=1.0, received=6))
    assert (node.room(CPU, 99), node.queue_s) == (0, pytest.approx(2.0))
    node.check()


@pytest.mark.parametrize("later", [1.0 + PLACED_UNSEEN_S + 0.01, 0.5])
def test_what_got_lost_on_its_way_is_forgotten(later: float) -> None:
    """Also if the clock was set back: it must not count for as long as that takes to catch up."""
    node = view()
    node.place(CPU, 4, 1.0, now=1.0)
    node.expire(1.0 + PLACED_UNSEEN_S)
    assert node.room(CPU, 99) == 0
    node.expire(later)
    assert node.room(CPU, 99) == 4


def test_what_stays_counts_until_it_must_be_in_a_heartbeat() -> None:
    node = view()
    node.stay(CPU, 3, 1.0)
    assert node.room(CPU, 99) == 1
    for _ in range(STAY_HEARTBEATS - 1):
        node.heard(load(4))
        assert node.room(CPU, 99) == 1
    node.heard(load(4))
    assert node.room(CPU, 99) == 4


def test_bundles_that_come_and_go_change_what_it_can_hold() -> None:
    bundle: Demand = (("CPU_group_0_" + "ab" * 16, 20_000),)
    node = view()
    node.heard(load(1))
    node.change({"CPU": 40_000, bundle[0][0]: 20_000})
    assert node.can_hold(bundle)
    assert (node.room(bundle, 9), node.room(CPU, 9)) == (1, 1)
    node.change({"CPU": 40_000})
    assert (node.can_hold(bundle), node.room(bundle, 9), node.room(CPU, 9)) == (False, 0, 1)
    node.check()


def test_the_heartbeat_of_others_is_not_written_into() -> None:
    node, beat = view(), load(4)
    node.heard(beat)
    node.place(CPU, 2, 1.0, now=1.0)
    node.change({"CPU": 80_000})
    assert beat == load(4)


EVENTS = st.one_of(
    st.tuples(st.just("place"), st.sampled_from([CPU, GPU, ()]), st.integers(1, 9)),
    st.tuples(st.just("stay"), st.sampled_from([CPU, ()]), st.integers(1, 9)),
    st.tuples(st.just("heard"), st.integers(-1, 4), st.integers(0, 9)),
    st.tuples(st.just("wait"), st.sampled_from([0.05, 1.0, -3.0]), st.just(0)),
    st.tuples(st.just("change"), st.integers(1, 6), st.just(0)),
)


@given(st.lists(EVENTS, max_size=30))
def test_no_order_of_events_breaks_the_sums(events: list[tuple[str, object, int]]) -> None:
    node, now, received = view(), 10.0, 0
    for what, argument, number in events:
        if what == "place":
            node.place(argument, number, 0.5, now)  # type: ignore[arg-type]
        elif what == "stay":
            node.stay(argument, number, 0.5)  # type: ignore[arg-type]
        elif what == "heard":
            received += number
            node.heard(load(int(str(argument)), queued=number, received=received))
        elif what == "change":
            node.change({"CPU": int(str(argument)) * 10_000, "GPU": 10_000})
        else:
            now += float(str(argument))
            node.expire(now)
        node.check()
        assert node.queue_s >= 0.0
        assert 0 <= node.room(CPU, 99) <= 10
