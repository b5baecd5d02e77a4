"""The arena against event lists, and against a naive model that writes an owner on every page."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from skate.objects.arena import Arena

PAGE = 4096


def filled(pages: int) -> Arena:
    """An arena of that many pages, each of them an extent of its own."""
    arena = Arena(pages * PAGE)
    assert [arena.allocate(PAGE) for _ in range(pages)] == [page * PAGE for page in range(pages)]
    return arena


def test_a_new_arena_is_one_clean_hole() -> None:
    arena = Arena(8 * PAGE)
    arena.check()
    assert (len(arena), arena.used_bytes, arena.high_water_bytes) == (0, 0, 0)
    assert arena.largest_hole_bytes == arena.capacity_bytes == 8 * PAGE
    assert arena.trim() == []


def test_capacity_is_rounded_down_so_that_no_extent_leaves_the_file() -> None:
    arena = Arena(3 * PAGE - 1)
    assert arena.capacity_bytes == 2 * PAGE
    assert arena.allocate(2 * PAGE + 1) is None
    assert arena.allocate(2 * PAGE) == 0


@pytest.mark.parametrize(("capacity_bytes", "page_bytes"), [(PAGE - 1, PAGE), (0, PAGE), (10, 0)])
def test_an_arena_without_a_page_is_refused(capacity_bytes: int, page_bytes: int) -> None:
    with pytest.raises(ValueError, match="page"):
        Arena(capacity_bytes, page_bytes)


@pytest.mark.parametrize(
    ("asked", "granted"), [(0, 1), (1, 1), (PAGE - 1, 1), (PAGE, 1), (PAGE + 1, 2), (2 * PAGE, 2)]
)
def test_sizes_are_rounded_up_to_pages(asked: int, granted: int) -> None:
    arena = Arena(4 * PAGE)
    offset = arena.allocate(asked)
    assert offset == 0
    assert arena.size_of(offset) == arena.used_bytes == arena.high_water_bytes == granted * PAGE
    assert arena.free(offset) == granted * PAGE


def test_a_negative_size_is_an_error_and_changes_nothing() -> None:
    arena = Arena(PAGE)
    with pytest.raises(ValueError, match="-1"):
        arena.allocate(-1)
    assert arena.allocate(PAGE) == 0


def test_more_than_the_capacity_is_never_granted() -> None:
    arena = Arena(2 * PAGE)
    assert arena.allocate(2 * PAGE + 1) is None
    assert (len(arena), arena.used_bytes) == (0, 0)


def test_the_lowest_hole_that_fits_is_taken_not_the_best() -> None:
    arena = filled(8)
    for page in (1, 2, 3, 6):  # holes: pages 1 to 3, page 6
        arena.free(page * PAGE)
    assert arena.allocate(PAGE) == 1 * PAGE  # page 6 would have been the exact fit
    assert arena.allocate(2 * PAGE) == 2 * PAGE
    assert arena.allocate(2 * PAGE) is None
    assert arena.allocate(PAGE) == 6 * PAGE
    assert arena.largest_hole_bytes == 0
    arena.check()


def test_enough_bytes_in_pieces_are_not_enough() -> None:
    arena = filled(4)
    arena.free(0)
    arena.free(2 * PAGE)
    assert arena.allocate(2 * PAGE) is None
    assert arena.largest_hole_bytes == PAGE


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (1, 3, 2), (2, 1, 3)])
def test_a_freed_extent_merges_with_the_holes_on_both_sides(order: tuple[int, ...]) -> None:
    arena = filled(5)
    for page in order:
        arena.free(page * PAGE)
        arena.check()
    assert arena.largest_hole_bytes == 3 * PAGE
    assert arena.trim() == [(PAGE, 3 * PAGE)]
    assert arena.allocate(3 * PAGE) == PAGE


@pytest.mark.parametrize("offset", [0, PAGE, 2 * PAGE, -PAGE, 1])
def test_freeing_what_is_not_live_is_loud_and_harmless(offset: int) -> None:
    arena = Arena(8 * PAGE)
    arena.allocate(PAGE)
    arena.allocate(3 * PAGE)
    arena.free(0)
    if offset == PAGE:  # the only live extent: free it once, rightly
        arena.free(offset)
    used_bytes = arena.used_bytes
    with pytest.raises(KeyError, match=f"offset {offset}: freed twice or never allocated"):
        arena.free(offset)
    with pytest.raises(KeyError, match=f"offset {offset}"):
        arena.size_of(offset)
    assert arena.used_bytes == used_bytes
    arena.check()


def test_trim_hands_out_each_stale_span_once() -> None:
    arena = filled(6)
    for page in (1, 2, 4):
        arena.free(page * PAGE)
    assert arena.trim() == [(PAGE, 2 * PAGE), (4 * PAGE, PAGE)]
    assert arena.trim() == []
    assert arena.allocate(PAGE) == PAGE  # dirties page 1 again, page 2 stays clean
    assert arena.trim() == []
    arena.free(PAGE)
    assert arena.trim() == [(PAGE, PAGE)]


def test_trim_leaves_out_what_was_never_used() -> None:
    arena = Arena(1000 * PAGE)
    for _ in range(3):
        arena.allocate(PAGE)
    arena.free(2 * PAGE)
    assert arena.high_water_bytes == 3 * PAGE
    assert arena.trim() == [(2 * PAGE, PAGE)]
    assert arena.high_water_bytes == 2 * PAGE


def test_high_water_stays_after_a_free_and_falls_with_a_trim() -> None:
    arena = filled(4)
    for page in (3, 2, 0):
        arena.free(page * PAGE)
    assert arena.high_water_bytes == 4 * PAGE
    assert arena.trim() == [(0, PAGE), (2 * PAGE, 2 * PAGE)]
    assert arena.high_water_bytes == 2 * PAGE  # page 1 lives
    assert arena.allocate(2 * PAGE) == 2 * PAGE
    assert arena.high_water_bytes == 4 * PAGE


def test_steady_use_stays_on_the_same_warm_pages() -> None:
    arena = Arena(1000 * PAGE)
    for _ in range(100):
        offset = arena.allocate(5 * PAGE)
        assert offset == 0
        arena.free(offset)
    assert arena.high_water_bytes == 5 * PAGE


@settings(max_examples=50, deadline=None)
@given(st.data(), st.lists(st.integers(0, 9 * PAGE), min_size=1, max_size=60))
def test_freeing_all_in_any_order_leaves_one_hole(data: st.DataObject, sizes: list[int]) -> None:
    arena = Arena(100 * PAGE)
    offsets = [offset for size in sizes if (offset := arena.allocate(size)) is not None]
    for offset in data.draw(st.permutations(offsets)):
        arena.free(offset)
        arena.check()
    assert (len(arena), arena.used_bytes) == (0, 0)
    assert arena.largest_hole_bytes == arena.capacity_bytes
    assert arena.allocate(arena.capacity_bytes) == 0


PAGES = 16
UNIT = 8  # bytes a page: allocation works the same for any page size, and examples stay readable


class ArenaMachine(RuleBasedStateMachine):
    """The model: the extent that owns each page, and whether each page may hold memory."""

    def __init__(self) -> None:
        super().__init__()
        self.arena = Arena(PAGES * UNIT, UNIT)
        self.owners: list[int | None] = [None] * PAGES
        self.warm = [False] * PAGES

    def live(self) -> list[int]:
        return sorted({owner for owner in self.owners if owner is not None})

    def lowest_fit(self, pages: int) -> int | None:
        for first in range(PAGES - pages + 1):
            if all(owner is None for owner in self.owners[first : first + pages]):
                return first
        return None

    @rule(size_bytes=st.integers(0, 5 * UNIT) | st.integers(0, (PAGES + 2) * UNIT))
    def allocate(self, size_bytes: int) -> None:
        pages = max(1, (size_bytes + UNIT - 1) // UNIT)
        first = self.lowest_fit(pages)
        assert self.arena.allocate(size_bytes) == (None if first is None else first * UNIT)
        if first is not None:
            self.owners[first : first + pages] = [first * UNIT] * pages
            self.warm[first : first + pages] = [True] * pages

    @precondition(lambda self: self.live())
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from(self.live()))
        assert self.arena.free(offset) == self.owners.count(offset) * UNIT
        self.owners = [None if owner == offset else owner for owner in self.owners]

    @rule(offset=st.integers(-UNIT, (PAGES + 1) * UNIT))
    def free_what_is_not_live(self, offset: int) -> None:
        if offset not in self.live():
            with pytest.raises(KeyError):
                self.arena.free(offset)

    @rule()
    def trim(self) -> None:
        spans = self.arena.trim()
        assert spans == sorted(spans)
        covered = [page for start, size in spans for page in pages_of(start, size)]
        assert len(covered) == len(set(covered))
        assert all(self.owners[page] is None for page in covered)
        stale = {page for page in range(PAGES) if self.warm[page] and self.owners[page] is None}
        assert stale <= set(covered)
        assert all(pages_of(start, size)[-1] in stale for start, size in spans)
        self.warm = [owner is not None for owner in self.owners]
        assert self.arena.trim() == []

    @invariant()
    def agrees_with_the_model(self) -> None:
        arena, live = self.arena, self.live()
        arena.check()
        assert len(arena) == len(live)
        assert [arena.size_of(offset) for offset in live] == [
            self.owners.count(offset) * UNIT for offset in live
        ]
        assert arena.used_bytes == (PAGES - self.owners.count(None)) * UNIT
        fitting = [pages for pages in range(1, PAGES + 1) if self.lowest_fit(pages) is not None]
        assert arena.largest_hole_bytes == max(fitting, default=0) * UNIT
        touched = [page + 1 for page in range(PAGES) if self.warm[page]]
        assert arena.high_water_bytes == max(touched, default=0) * UNIT

    def teardown(self) -> None:
        for offset in self.live():
            self.arena.free(offset)
        self.arena.check()
        assert self.arena.largest_hole_bytes == PAGES * UNIT


def pages_of(start: int, size: int) -> range:
    return range(start // UNIT, (start + size) // UNIT)


ArenaMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestArenaMachine = ArenaMachine.TestCase
