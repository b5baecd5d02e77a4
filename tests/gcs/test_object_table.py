"""Locations of objects, against a naive model of who holds what and who waits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skate.gcs.object_table import ObjectTable

SMALL = st.integers(0, 2)
MOVES = st.tuples(st.sampled_from(["add", "drop", "wait", "node", "peer"]), SMALL, SMALL)


def test_who_waits_is_told_with_the_first_location_and_only_then() -> None:
    table = ObjectTable()
    assert table.wait(b"o", (1, 10)) is None
    assert table.wait(b"o", (2, 20)) is None
    assert table.add(b"A", b"o", 500) == [(1, 10), (2, 20)]
    assert table.add(b"B", b"o", 500) == []
    row = table.wait(b"o", (3, 30))
    assert row is not None
    assert (row.size, list(row.nodes)) == (500, [b"A", b"B"])


def test_an_object_counts_once_and_goes_with_its_last_copy() -> None:
    table = ObjectTable()
    table.add(b"A", b"o", 500)
    table.add(b"B", b"o", 500)
    table.add(b"B", b"p", 7)
    assert table.total_bytes == 507
    table.drop_node(b"B")
    assert (list(table.objects), table.total_bytes) == ([b"o"], 500)
    table.drop(b"B", b"o")  # told twice
    table.drop(b"A", b"o")
    assert (len(table.objects), table.total_bytes) == (0, 0)
    table.check()


@given(st.lists(MOVES, max_size=50))
def test_it_agrees_with_a_naive_model(moves: list[tuple[str, int, int]]) -> None:
    table = ObjectTable()
    held: set[tuple[int, int]] = set()  # (node, object)
    waiting: list[tuple[int, int]] = []  # (peer, object)
    for what, who, which in moves:
        object_id, node_id = bytes([which]), bytes([who])
        if what == "add":
            told = table.add(node_id, object_id, which + 1)
            assert sorted(told) == sorted((peer, 0) for peer, one in waiting if one == which)
            waiting = [pair for pair in waiting if pair[1] != which]
            held.add((who, which))
        elif what == "drop":
            table.drop(node_id, object_id)
            held.discard((who, which))
        elif what == "wait":
            row = table.wait(object_id, (who, 0))
            nodes = {bytes([node]) for node, one in held if one == which}
            assert (set() if row is None else set(row.nodes)) == nodes
            if row is None:
                waiting.append((who, which))
        elif what == "node":
            table.drop_node(node_id)
            held = {pair for pair in held if pair[0] != who}
        else:
            table.forget_peer(who)
            waiting = [pair for pair in waiting if pair[0] != who]
        table.check()
    assert {(n[0], row.object_id[0]) for row in table.objects.rows() for n in row.nodes} == held
