"""The table under all GCS tables: what a watcher learns, and what history keeps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skate.gcs import table
from skate.gcs.table import Table

KEYS = st.integers(0, 5)
MOVES = st.one_of(
    st.tuples(st.just("put"), KEYS, st.integers()),
    st.tuples(st.just("remove"), KEYS, st.just(0)),
    st.tuples(st.just("retire"), KEYS, st.just(0)),
    st.tuples(st.just("watch"), st.integers(0, 2), st.just(0)),
)


def test_a_watcher_learns_each_change_once_in_order() -> None:
    rows: Table[str, int] = Table()
    rows.put("a", 1)
    rows.put("b", 2)
    seen = rows.changes_since(0)
    assert (seen.rows, seen.removed, seen.complete) == ({"a": 1, "b": 2}, [], True)
    rows.put("a", 3)
    rows.remove("b")
    rows.put("c", 4)
    news = rows.changes_since(seen.version)
    assert (list(news.rows.items()), news.removed) == ([("a", 3), ("c", 4)], ["b"])
    assert rows.changes_since(news.version) == table.Changes(news.version, {}, [], True)


def test_a_key_that_came_back_is_not_reported_as_removed() -> None:
    rows: Table[str, int] = Table()
    rows.put("a", 1)
    version = rows.version
    rows.remove("a")
    rows.put("a", 2)
    news = rows.changes_since(version)
    assert (news.rows, news.removed) == ({"a": 2}, [])


def test_history_drops_the_longest_retired_row_and_never_a_live_one() -> None:
    rows: Table[int, str] = Table(history=2)
    for key in range(5):
        rows.put(key, "live")
    for key in (3, 1, 4):
        rows.retire(key)
    assert list(rows) == [0, 1, 2, 4]
    rows.put(1, "live again")
    rows.retire(0)
    rows.retire(2)
    rows.put(4, "live again")
    assert sorted(rows) == [0, 1, 2, 4]
    rows.check()


def test_a_row_that_is_not_there_cannot_retire() -> None:
    with pytest.raises(KeyError):
        Table[int, str]().retire(1)


def test_a_watcher_from_another_life_of_the_table_reads_everything() -> None:
    rows: Table[str, int] = Table()
    rows.put("a", 1)
    news = rows.changes_since(99)
    assert (news.rows, news.complete, news.version) == ({"a": 1}, False, 1)


@given(st.lists(MOVES, max_size=60))
def test_a_watcher_that_applies_changes_always_has_the_table(
    moves: list[tuple[str, int, int]],
) -> None:
    """Whenever it looks, however much it missed, and also past the bound on removals."""
    bound, table.REMOVALS_KEPT = table.REMOVALS_KEPT, 2
    try:
        rows: Table[int, int] = Table(history=2)
        copies: list[dict[int, int]] = [{}, {}, {}]
        versions = [0, 0, 0]
        for what, key, value in [*moves, *(("watch", who, 0) for who in range(3))]:
            if what == "put":
                rows.put(key, value)
            elif what == "remove":
                rows.remove(key)
            elif what == "retire" and key in rows:
                rows.retire(key)
            elif what == "watch":
                news = rows.changes_since(versions[key])
                copies[key] = copies[key] if news.complete else {}
                copies[key] |= news.rows
                for gone in news.removed:
                    copies[key].pop(gone, None)
                versions[key] = news.version
                assert copies[key] == {one: rows.get(one) for one in rows}
            rows.check()
    finally:
        table.REMOVALS_KEPT = bound
