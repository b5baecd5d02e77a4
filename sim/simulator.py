"""Virtual time: a heap of events, a clock, a source of chance, and the story of a run.

Everything follows from one seed. The world is quiet when nothing has happened for some time but
what happens by the clock alone: heartbeats, ticks and the time-outs of cores. What the events are
is not known here (sim/cluster.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Any

from sim.story import short
from skate.config import HEARTBEAT_S

STORY_LINES = 20_000  # of one run, kept while telling
QUIET_TICKS = 45  # nothing but the clock for so long: longer than most time-outs of the core
PATIENT_TICKS = 130  # longer than any
LONGEST_RUN_S = 2_000.0  # of virtual time: beyond, something goes round in circles


class Timer:
    """Something to happen; ``cancel`` it and it will not."""

    __slots__ = ("arguments", "call", "is_background")

    def __init__(
        self, call: Callable[..., None], arguments: tuple[Any, ...], is_background: bool
    ) -> None:
        self.call: Callable[..., None] | None = call
        self.arguments = arguments
        self.is_background = is_background


class Simulator:
    """See the module's docstring."""

    def __init__(self, seed: int, delay_s: float, stall_s: float, *, tell: bool = False) -> None:
        self.random = Random(seed)
        self.now = 1_000.0
        self.story: deque[str] | None = deque(maxlen=STORY_LINES) if tell else None
        self.events = 0
        self._delay_s = delay_s
        self._stall_s = stall_s
        self._heap: list[tuple[float, int, Timer]] = []
        self._count = 0
        self._next_tick = self.now + HEARTBEAT_S
        self._pending = 0  # timers that are not in the background

    def tick(self) -> None:
        """What happens at each heartbeat."""

    def is_due(self) -> bool:
        """Whether something is to happen by the clock alone, later than most time-outs."""
        return False

    # ------------------------------------------------------------------ time

    def at(
        self,
        delay_s: float,
        call: Callable[..., None],
        *arguments: Any,
        is_background: bool = False,
    ) -> Timer:
        """Call once that much time has passed."""
        self._count += 1
        timer = Timer(call, arguments, is_background)
        self._pending += not is_background
        heappush(self._heap, (self.now + delay_s, self._count, timer))
        return timer

    def cancel(self, timer: Timer | None) -> None:
        """It is not to happen, if it has not yet."""
        if timer is not None and timer.call is not None:
            timer.call = None
            self._pending -= not timer.is_background

    def delay(self) -> float:
        """How long one batch is under way: mostly short, sometimes a stall."""
        chance = self.random.random()
        if chance < 0.97:
            return self._delay_s * (0.3 + chance)
        return self._stall_s * self.random.random()

    def tell(self, *words: Any) -> None:
        """One line of the story, if it is being told; ids are shortened."""
        if self.story is not None:
            text = " ".join(short(w) for w in words)
            self.story.append(f"{self.now - 1_000:10.6f}  {text}")

    def run_until_quiet(self) -> None:
        """Let everything happen that is going to happen by itself."""
        quiet = 0
        while quiet < QUIET_TICKS or (quiet < PATIENT_TICKS and self.is_due()):
            quiet = 0 if self._run_to_tick() else quiet + (not self._pending)
            if self.now > 1_000.0 + LONGEST_RUN_S:
                raise AssertionError("the run does not come to an end")

    def run_while(self, condition: Callable[[], bool], most_s: float) -> None:
        """Let everything happen until this holds no more, or for so long."""
        end = self.now + most_s
        while self.now < end and condition():
            self._run_to_tick()

    def _run_to_tick(self) -> bool:
        """Up to the next tick, and that; whether anything has happened but by the clock."""
        has_happened = False
        while self._heap and self._heap[0][0] <= self._next_tick:
            self.now, _, timer = heappop(self._heap)
            if timer.call is None:
                continue
            self.events += 1
            call, timer.call = timer.call, None
            if not timer.is_background:
                self._pending -= 1
                has_happened = True
            call(*timer.arguments)
        self.now = self._next_tick
        self._next_tick += HEARTBEAT_S
        self.tick()
        return has_happened
