"""When a demand that waits is owed what becomes free, and when others may have it. Pure.

A demand that has waited for ``config.RESOURCE_PATIENCE_S`` is owed what becomes free, so that
smaller demands do not starve it. But a task that never ends may hold what it still lacks, and the
resources kept for it would idle. So it is owed in turns: the first takes ``KEPT_FREE_S``, each
later one twice as long as the one before, up to ``KEPT_FREE_MAX_S``, and each is followed by a
pause as long as itself. A task that ends within ``KEPT_FREE_MAX_S`` ends within one of the turns; a
task that never ends costs at most half of the use of what is kept.
"""

from __future__ import annotations

from skate.config import KEPT_FREE_MAX_S, KEPT_FREE_S, RESOURCE_PATIENCE_S


def is_owed(waited_s: float) -> bool:
    """Whether a demand that has waited this long is owed what becomes free now."""
    since_s = waited_s - RESOURCE_PATIENCE_S
    if since_s <= 0:
        return False
    turn_s = KEPT_FREE_S
    while since_s >= 2 * turn_s and turn_s < KEPT_FREE_MAX_S:
        since_s -= 2 * turn_s
        turn_s = next_turn_s(turn_s)
    return since_s % (2 * turn_s) < turn_s


def next_turn_s(turn_s: float) -> float:
    """How long the turn after this one is."""
    return min(2 * turn_s, KEPT_FREE_MAX_S)
