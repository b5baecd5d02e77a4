"""When a demand that waits is owed what becomes free, and when others may have that. Pure.

Who has waited for ``config.RESOURCE_PATIENCE_S`` is owed its demand, so that it is not starved by
smaller ones. But what it still lacks may be held by a task that never ends, and meanwhile the rest
would idle: so it is owed for turns of ``KEPT_FREE_S``, each followed by as long a time in which it
is not; each turn is twice as long as the one before, up to ``KEPT_FREE_MAX_S``. Whatever ends
within that ends within one of the turns, and whatever does not costs half of the rest at most.
"""

from __future__ import annotations

from skate.config import KEPT_FREE_MAX_S, KEPT_FREE_S, RESOURCE_PATIENCE_S


def is_owed(waited_s: float) -> bool:
    """Whether a demand that has waited for so long is owed what becomes free now."""
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
