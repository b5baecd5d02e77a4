"""When a demand that waits is owed what becomes free."""

from __future__ import annotations

from itertools import pairwise

from skate.config import KEPT_FREE_MAX_S, KEPT_FREE_S, RESOURCE_PATIENCE_S
from skate.scheduler.patience import is_owed

STEP_S = 0.5


def changes(until_s: float) -> list[float]:
    """When being owed begins and ends, by turns."""
    times = [STEP_S * step for step in range(int(until_s / STEP_S))]
    return [time for last, time in pairwise(times) if is_owed(last) != is_owed(time)]


def test_nothing_is_owed_before_patience_is_at_its_end() -> None:
    assert not is_owed(0.0) and not is_owed(RESOURCE_PATIENCE_S)
    assert is_owed(RESOURCE_PATIENCE_S + 0.01)


def test_turns_grow_and_are_followed_by_pauses_as_long() -> None:
    times = [time - RESOURCE_PATIENCE_S for time in changes(1_000.0)]
    assert times[0] == STEP_S  # just after the patience
    turn_s = KEPT_FREE_S
    began = 0.0
    for ended, again in zip(times[1::2], times[2::2], strict=False):
        assert ended - began == turn_s
        assert again - ended == turn_s
        began, turn_s = again, min(2 * turn_s, KEPT_FREE_MAX_S)
    assert turn_s == KEPT_FREE_MAX_S


def test_who_has_waited_for_a_year_is_answered_as_fast() -> None:
    year_s = 365 * 86_400.0
    turns = [is_owed(year_s + step) for step in range(int(4 * KEPT_FREE_MAX_S))]
    assert 0.4 < sum(turns) / len(turns) < 0.6
