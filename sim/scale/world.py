"""Virtual time, and a daemon as a server: what arrives waits until it has time for it.

A server handles what has arrived in turns, as an event loop does: all that lies there, up to
``TURN_S`` of work. What it sends leaves at the end of the turn. One process has one thread, so
while it works nothing else happens in it; its cores beside are the workers'.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Any

TURN_S = 0.001
EPOCH_S = 1_000.0
"""When virtual time begins: some cores read a time of zero as "never"."""


class World:
    """A heap of calls to be made, in virtual time."""

    def __init__(self, seed: int) -> None:
        self.now = EPOCH_S
        self.random = Random(seed)
        self.events = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def at(self, when: float, call: Callable[..., None], *arguments: Any) -> None:
        """Call it then; of the same instant, the first that was said."""
        self._count += 1
        heappush(self._heap, (when, self._count, call, arguments))

    def run_until(self, is_over: Callable[[], bool], give_up_s: float) -> None:
        """Let time pass; AssertionError if it does not come to its end."""
        heap = self._heap
        give_up_at = self.now + give_up_s
        while not is_over():
            self.now, _, call, arguments = heappop(heap)
            self.events += 1
            call(*arguments)
            assert self.now < give_up_at, f"nothing came of it for {give_up_s} virtual seconds"


class Server:
    """A process that takes in one thing after the other; ``handle`` and ``settle`` say what of it.

    Both give the seconds that they cost; ``settle`` ends a turn, and is told when that will be.
    """

    def __init__(
        self,
        world: World,
        handle: Callable[[Any], float],
        settle: Callable[[float], float],
    ) -> None:
        self._world = world
        self._handle = handle
        self._settle = settle
        self._waiting: deque[Any] = deque()
        self._is_due = False
        self._free_at = 0.0
        self.was_idle = False  # before this turn: what came has woken it up
        self.busy_s = 0.0

    def arrive(self, item: Any) -> None:
        """Something for it; it is handled as soon as there is time."""
        self._waiting.append(item)
        if not self._is_due:
            now = self._world.now
            if self._free_at <= now:
                self.was_idle = True
                self._turn()
            else:
                self._is_due = True
                self._world.at(self._free_at, self._turn)

    def _turn(self) -> None:
        self._is_due = False
        waiting = self._waiting
        cost = 0.0
        while waiting and cost < TURN_S:
            cost += self._handle(waiting.popleft())
        cost += self._settle(cost)
        self.busy_s += cost
        self._free_at = self._world.now + cost
        self.was_idle = False
        if waiting:
            self._is_due = True
            self._world.at(self._free_at, self._turn)


class Thread:
    """What one process can do at a time: one thing. ``busy_s`` is what it has done so far."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.free_at = 0.0
        self.busy_s = 0.0

    def spend(self, seconds: float) -> float:
        """Work for so long, as soon as it is free; when that will be done."""
        self.free_at = max(self._world.now, self.free_at) + seconds
        self.busy_s += seconds
        return self.free_at
