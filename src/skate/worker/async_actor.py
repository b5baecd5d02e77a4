"""An actor with async methods: one event loop on the main thread runs all of its calls.

The loop itself reads the connection (``add_reader``), so a call costs no thread switch. Whoever
else reads it (a method that blocks in get, a thread of the user's) wakes the loop for the calls
that it finds. As in Ray, plain methods run on the loop too, one at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from skate import config
from skate import messages as m
from skate.client.connection import Connection, Source
from skate.client.runtime import Runtime, current_call
from skate.worker.executor import Executor
from skate.worker.inbox import Inbox
from skate.worker.lane_server import Work

LOOKS = 8
"""In one step of a loop that has nothing else to do: some ten microseconds."""


class AsyncLoop:
    """Runs the calls of an async actor, at most ``max_concurrency`` at a time."""

    def __init__(
        self,
        connection: Connection,
        runtime: Runtime,
        inbox: Inbox,
        executor: Executor,
        max_concurrency: int,
    ) -> None:
        self._connection = connection
        self._runtime = runtime
        self._inbox = inbox
        self._executor = executor
        self._free = max_concurrency
        self._waiting: deque[Work] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flush_due = False
        self._reading = False  # the loop is
        self._woken = False
        self._is_looking = False
        self._look_until = 0.0
        self._lanes = select.epoll()  # the loop reads if one of these sources is readable
        self._read: set[Source] = set()  # those in it
        self._resting: asyncio.TimerHandle | None = None
        self._rests_long = False
        self._thread = 0
        self._over: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop

    def run(self) -> None:
        """Until asked to end."""
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = self._loop.create_future()
        self._thread = threading.get_ident()
        self._runtime.futures.call_soon = self._call_soon
        self._runtime.blocking = self._lend_cpu
        self._inbox.on_work = self._on_work
        self._connection.on_sources = self._on_sources
        self._on_sources()
        self._loop.add_reader(self._connection.sock.fileno(), self._on_readable)
        self._loop.add_reader(self._lanes.fileno(), self._on_readable)
        self._connection.flush()
        self._on_readable()
        await self._over
        self._loop.remove_reader(self._connection.sock.fileno())
        while self._tasks:
            await asyncio.wait(list(self._tasks))
        self._loop.remove_reader(self._lanes.fileno())
        self._inbox.on_work = lambda: None  # what the end of the program reads wakes no loop
        self._connection.flush()

    def _call_soon(self, callback: Any) -> None:
        self._loop.call_soon_threadsafe(callback)

    def _on_work(self) -> None:
        if not self._reading or threading.get_ident() != self._thread:
            self._wake()

    def _on_sources(self) -> None:
        """Have the loop read the lanes that there are now, and no others.

        Any thread calls this, one at a time, and before it closes a lane. So not the loop's own
        table of descriptors: by the time that the loop sees to it, a number may be another file's.
        """
        now = set(self._connection.sources)
        for source in self._read - now:
            with contextlib.suppress(OSError, ValueError):  # it was closed, and so is out
                self._lanes.unregister(source)
        for source in now - self._read:
            with contextlib.suppress(ValueError):
                self._lanes.register(source, select.EPOLLIN)
        self._read = now

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._on_readable)

    def _lend_cpu(self) -> Callable[[], None]:
        """A method blocks the loop in get or wait: nothing else runs meanwhile."""
        if threading.get_ident() != self._thread:
            return lambda: None
        self._connection.append(m.Blocked())
        return self._go_on

    def _go_on(self) -> None:
        if not self._connection.closed:
            self._connection.append(m.Unblocked())

    def _on_readable(self) -> None:
        self._woken = False
        self._reading = True
        self._connection.try_read()
        self._reading = False
        self._take_in()

    def _look(self) -> None:
        """Look for the next call for a moment before the loop sleeps: to wake it takes longer."""
        look = self._connection.look
        self._reading = True
        found = look()
        for _ in range(0 if found or self._tasks else LOOKS):  # nothing else wants the loop
            os.sched_yield()
            if look():
                found = True
                break
        self._reading = False
        if found:
            self._take_in()
        if found or time.monotonic() < self._look_until:
            os.sched_yield()
            self._loop.call_soon(self._look)
        else:
            self._is_looking = False

    def _look_for_a_while(self) -> None:
        self._look_until = time.monotonic() + config.SPIN_LONG_S
        if not self._is_looking:
            self._is_looking = True
            self._loop.call_soon(self._look)

    def _take_in(self) -> None:
        while (work := self._inbox.next()) is not None:
            if work.spec.kind == "actor":
                self._executor.execute(work.run, work.spec, partial(self._finish, work))
            elif self._free > 0:
                self._start(work)
            else:
                self._waiting.append(work)
        self._rest()
        over = self._over
        if self._inbox.exit_reason and not self._waiting and over is not None and not over.done():
            over.set_result(None)

    def _rest(self) -> None:
        if self._resting is None:
            due_s = self._inbox.rest()
            if due_s is not None:
                self._rests_long = due_s > config.LEASE_IDLE_S
                self._resting = self._loop.call_later(due_s, self._rested)

    def _rested(self) -> None:
        self._resting = None
        self._rest()

    def _start(self, work: Work) -> None:
        self._free -= 1
        task = self._loop.create_task(self._run(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, work: Work) -> None:
        executor, run, spec = self._executor, work.run, work.spec
        current_call.set((run, spec))
        started = time.monotonic()
        try:
            function, arguments, keywords = executor.prepare(run, spec)
            value = function(*arguments, **keywords)
            if inspect.isawaitable(value):
                value = await value
            done = executor.done(run, spec, value, started)
        except BaseException as error:
            done = executor.ended_by(run, spec, error, started)
        self._finish(work, done)
        self._free += 1
        if self._waiting:
            self._start(self._waiting.popleft())
        elif self._inbox.exit_reason:
            self._on_readable()

    def _finish(self, work: Work, done: m.Done) -> None:
        if work.lane is None:
            self._connection.append(done, len(done.data))
        else:
            self._inbox.answer_later(work, done)
        if len(self._tasks) < 2 and not self._waiting:  # no other answer could share the frame
            self._flush()
        elif not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        self._connection.flush()
        if self._resting is not None and self._rests_long:  # rows of what has ended leave sooner
            self._resting.cancel()
            self._rested()
        if self._inbox.expect():
            self._look_for_a_while()
        if self._inbox.queue or self._inbox.exit_reason:
            self._on_readable()
