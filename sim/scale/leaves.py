"""What the small tasks of a run take, and when they ended: for the rate while all run."""

from __future__ import annotations

from collections import Counter

BIN_S = 0.01  # of the histogram of what ended when
FROM, TO = 0.1, 0.9  # between these shares of all tasks, the rate is the sustained one


class Leaves:
    """Tasks of ``task_s`` each; those that have ended, by when."""

    def __init__(self, task_s: float) -> None:
        self.task_s = task_s
        self._ended: Counter[int] = Counter()

    def begin(self) -> None:
        """Count from here on: what has ended before was the warm-up."""
        self._ended.clear()

    def ended(self, at: float) -> None:
        """One has, or will have."""
        self._ended[int(at / BIN_S)] += 1

    def sustained(self, tasks: int) -> float:
        """Tasks a second, without the beginning and the end of so many."""
        ended, first, last = 0, None, None
        between = 0
        for when in sorted(self._ended):
            if ended >= FROM * tasks and first is None:
                first = when
            if first is not None:
                between += self._ended[when]
                last = when
            ended += self._ended[when]
            if ended >= TO * tasks and first is not None:
                break
        if first is None or last is None:
            return 0.0
        return between / ((last + 1 - first) * BIN_S)
