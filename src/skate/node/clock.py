"""The time of a turn, for all parts of the node. Pure."""

from __future__ import annotations


class Clock:
    """``now`` is set by the caller of the core before each batch of events.

    Wall-clock seconds that never run backwards.
    """

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now = 0.0
