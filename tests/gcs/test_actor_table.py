"""Actors: whose name it is through reservations, deaths and races, and which moves are believed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skate.gcs.actor_table import ActorTable
from skate.messages import ActorChanged
from skate.states import ActorState, IllegalMove

NODE = b"N" * 16
JOB = b"\0\0\0\1"
A, B = JOB + b"A" * 12, b"\0\0\0\2" + b"B" * 12
UNREADY, PENDING = ActorState.DEPENDENCIES_UNREADY, ActorState.PENDING_CREATION
ALIVE, RESTARTING, DEAD = ActorState.ALIVE, ActorState.RESTARTING, ActorState.DEAD


def report(actor_id: bytes, state: ActorState, name: str = "", at: float = 1.0) -> ActorChanged:
    return ActorChanged(actor_id, int(state), "Counter", name, "space", NODE, 5, "", at)


def name_holder(table: ActorTable, name: str = "n") -> bytes | None:
    table.check()
    row = table.find(name, "space")
    return None if row is None else row.actor_id


def test_the_first_to_reserve_a_name_has_it_until_death() -> None:
    table = ActorTable()
    assert table.reserve("n", "space", A) is None
    assert table.reserve("n", "space", A) is None  # asked again
    assert table.reserve("n", "space", B) == A
    assert table.reserve("n", "elsewhere", B) is None
    assert table.change(NODE, report(A, ALIVE, "n"))
    assert name_holder(table) == A
    assert table.change(NODE, report(A, DEAD, "n"))
    assert name_holder(table) is None
    row = table.actors.get(A)
    assert row is not None
    assert row.name == "n"  # whoever lists the dead still reads it


def test_a_reservation_given_back_leaves_nothing() -> None:
    table = ActorTable()
    table.reserve("n", "space", A)
    assert not table.release_name("n", "space", B)
    assert table.release_name("n", "space", A)
    assert not table.release_name("n", "space", A)
    assert (name_holder(table), len(table.actors)) == (None, 0)


def test_a_report_from_another_namespace_does_not_keep_a_name_beyond_death() -> None:
    """The name was reserved in the nameless namespace; reports say "space"."""
    table = ActorTable()
    table.reserve("n", "", A)
    table.change(NODE, report(A, ALIVE, "n"))
    table.check()
    table.change(NODE, report(A, DEAD, "n"))
    table.check()
    assert table.reserve("n", "", B) is None


def test_an_actor_that_was_only_named_dies_and_leaves_its_name_to_the_next() -> None:
    table = ActorTable()
    table.reserve("n", "space", A)
    table.release_name("n", "space", A)
    table.reserve("n", "space", B)
    assert table.never_born(A, "n", "space", "gone", 1.0)
    assert not table.never_born(A, "n", "space", "gone", 1.0)
    assert name_holder(table) == B
    row = table.actors.get(A)
    assert row is not None
    assert (row.name, row.state) == ("n", DEAD)
    table.check()


def test_a_late_death_report_does_not_take_the_name_of_the_next_actor() -> None:
    table = ActorTable()
    table.reserve("n", "space", A)
    table.change(NODE, report(A, ALIVE, "n"))
    table.release_name("n", "space", A)
    assert table.reserve("n", "space", B) is None
    table.change(NODE, report(A, DEAD, "n"))
    assert name_holder(table) == B


def test_an_actor_that_comes_too_late_for_its_name_lives_without_one() -> None:
    table = ActorTable()
    table.reserve("n", "space", A)
    assert table.change(NODE, report(B, PENDING, "n"))
    assert table.change(NODE, report(B, ALIVE, "n"))
    assert name_holder(table) == A
    row = table.actors.get(B)
    assert row is not None
    assert (row.name, row.state) == ("", ALIVE)


def test_a_first_report_takes_a_free_name() -> None:
    table = ActorTable()
    table.change(NODE, report(A, UNREADY, "n"))
    assert name_holder(table) == A


def test_the_end_of_a_job_frees_what_it_reserved_and_never_created() -> None:
    table = ActorTable()
    table.reserve("n", "space", A)
    table.reserve("m", "space", B)
    table.end_job(JOB)
    assert (name_holder(table, "n"), name_holder(table, "m")) == (None, B)


@pytest.mark.parametrize(("name", "text"), [("", "empty"), ("second", "'n'")])
def test_a_name_that_cannot_be_is_an_error(name: str, text: str) -> None:
    table = ActorTable()
    table.reserve("n", "space", A)
    with pytest.raises(ValueError, match=text):
        table.reserve(name, "space", A)
    table.check()


def test_merged_reports_are_believed_and_backward_ones_are_not() -> None:
    table = ActorTable()
    assert table.change(NODE, report(A, UNREADY))
    assert table.change(NODE, report(A, ALIVE))  # PENDING_CREATION in between was not sent
    assert not table.change(NODE, report(A, ALIVE))
    with pytest.raises(IllegalMove, match="ALIVE -> PENDING_CREATION"):
        table.change(NODE, report(A, PENDING))
    assert table.change(NODE, report(A, RESTARTING))
    assert table.change(NODE, report(A, DEAD))
    assert not table.change(NODE, report(A, ALIVE))  # too late
    assert table.counts() == {"DEAD": 1}


def test_a_dead_node_s_actors_die_with_their_reservations() -> None:
    table = ActorTable()
    table.reserve("n", "space", A, reporter=NODE)
    table.change(NODE, report(B, ALIVE, "m"))
    assert [row.actor_id for row in table.end_node(NODE, "gone", 9.0)] == [A, B]
    assert (name_holder(table, "n"), name_holder(table, "m")) == (None, None)
    assert table.end_node(NODE, "gone", 9.0) == []


def test_an_actor_outlives_the_node_that_hosts_it_as_long_as_its_home_lives() -> None:
    table, home = ActorTable(), b"H" * 16
    table.change(home, report(A, ALIVE))  # it lives on NODE
    assert table.end_node(NODE, "gone", 9.0) == []
    assert table.change(home, report(A, RESTARTING))
    assert [row.actor_id for row in table.end_node(home, "gone", 9.0)] == [A]


def test_who_reports_an_actor_first_speaks_for_it_whoever_reserved_its_name() -> None:
    table = ActorTable()
    table.reserve("n", "space", A, reporter=b"R" * 16)
    table.change(NODE, report(A, ALIVE, "n"))
    assert table.end_node(b"R" * 16, "gone", 9.0) == []
    assert [row.actor_id for row in table.end_node(NODE, "gone", 9.0)] == [A]


def test_the_dead_are_history_and_bounded() -> None:
    table = ActorTable(dead_kept=2)
    for number in range(4):
        table.change(NODE, report(bytes([number]) * 16, DEAD))
    table.change(NODE, report(A, ALIVE))
    assert table.counts() == {"DEAD": 2, "ALIVE": 1}
    table.check()


def test_a_job_s_end_takes_no_name_that_another_actor_bears_by_now() -> None:
    table = ActorTable()
    table.reserve("n", "space", A, NODE)
    table.end_node(NODE, "gone", 1.0)
    table.reserve("n", "space", B, NODE)
    table.end_job(A[:4])
    assert name_holder(table, "n") == B
    table.check()


MOVES = st.one_of(
    st.tuples(st.just("reserve"), st.integers(0, 3), st.integers(0, 1)),
    st.tuples(st.just("release"), st.integers(0, 3), st.integers(0, 1)),
    st.tuples(st.just("unborn"), st.integers(0, 3), st.integers(0, 1)),
    st.tuples(st.just("spec"), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("job"), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("node"), st.just(0), st.just(0)),
    st.tuples(st.sampled_from([state.name for state in ActorState]), st.integers(0, 3), st.just(0)),
)


@given(st.lists(MOVES, max_size=40))
def test_no_order_of_events_breaks_the_table(moves: list[tuple[str, int, int]]) -> None:
    table = ActorTable(dead_kept=1)
    for what, who, which in moves:
        actor_id = bytes([who]) * 16
        name = "ab"[which]
        try:
            if what == "reserve":
                table.reserve(name, "space", actor_id, NODE)
            elif what == "release":
                table.release_name(name, "space", actor_id)
            elif what == "unborn":
                table.never_born(actor_id, name, "space", "gone", 1.0)
            elif what == "spec":
                table.put_spec(actor_id, b"spec", NODE)
            elif what == "job":
                table.end_job(actor_id[:4])
            elif what == "node":
                table.end_node(NODE, "gone", 1.0)
            else:
                table.change(NODE, report(actor_id, ActorState[what], "ab"[who % 2]))
        except (IllegalMove, ValueError):
            pass  # refused, and nothing may have changed for the worse
        table.check()
