"""The node daemon's clock: the regular checks, and how often they run.

Ten times a second: prints of workers, time-outs of the core, heartbeat and events. Twice a second
once a local session has been quiet for a while, until the next event: the shell (its only caller)
tells so at the end of each turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from skate import config
from skate import messages as m
from skate.node.node_core import NodeCore
from skate.node.shell.log_forwarder import LogForwarder


class Ticker:
    """See the module's docstring. ``look_around`` and ``trim`` are what the shell does at a tick,
    and after a time in which the load has not changed; ``write_out`` ends a turn."""

    def __init__(
        self,
        core: NodeCore,
        logs: LogForwarder,
        clock: Callable[[], float],
        *,
        is_local: bool,
        look_around: Callable[[], None],
        trim: Callable[[], None],
        write_out: Callable[[], None],
    ) -> None:
        self._core = core
        self._logs = logs
        self._clock = clock
        self._is_local = is_local
        self._look_around = look_around
        self._trim = trim
        self._write_out = write_out
        self.dozing: asyncio.Future[None] | None = None  # a quiet node waits for its next tick
        self._now = self._eventful_at = self._changed_at = self._events_at = clock()
        self._load: m.Heartbeat | None = None
        self._offers = 0
        self._more = 0

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            if self._now - self._eventful_at < config.QUIET_AFTER_S:
                await asyncio.sleep(config.HEARTBEAT_S)
            else:
                await self._doze()
            self._tick()

    async def _doze(self) -> None:
        loop = asyncio.get_running_loop()
        self.dozing = loop.create_future()
        timer = loop.call_later(config.QUIET_TICK_S, self.wake)
        await self.dozing
        timer.cancel()
        self.dozing = None
        if self._core.clock.now != self._now:
            await asyncio.sleep(config.HEARTBEAT_S)

    def wake(self) -> None:
        """An event has come: end the doze."""
        if self.dozing is not None and not self.dozing.done():
            self.dozing.set_result(None)

    def _tick(self) -> None:
        core = self._core
        if core.clock.now != self._now:  # there was a turn besides the ticks
            self._eventful_at = core.clock.now
        now = self._now = self._clock()
        core.begin(now)
        if self._logs.poll():
            self._eventful_at = now
        if now - self._events_at >= config.EVENT_BATCH_S:
            self._events_at = now
            core.flush_events()
        self._look_around()
        self._report_load(now)
        # After the heartbeat: offers are placed by the newest figures.
        core.tick()
        core.end_turn()
        self._write_out()

    def _report_load(self, now: float) -> None:
        core = self._core
        load = core.heartbeat()
        offers = core.parts.placing.offer_count
        if load != self._load or offers != self._offers:
            self._more = 1 + config.STAY_HEARTBEATS  # until all placed tasks have been counted
        if load != self._load:
            self._load = load
            self._changed_at = now
        if load.running or load.queued or not self._is_local:
            self._eventful_at = now
        self._offers = offers
        if self._more or not self._is_local:
            self._more = max(0, self._more - 1)
            core.outbox.to_gcs(load)
        if now - self._changed_at > config.TRIM_AFTER_S:
            self._changed_at = now
            self._trim()
            if self._is_local:
                core.outbox.to_gcs(load)
