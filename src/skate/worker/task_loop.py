"""The plain loop of a worker: tasks, or the calls of an actor, one by one on the main thread.

What waits behind a task can be handed back: when the task blocks in get or wait, or runs for more
than 25 ms (the courier thread sees to that). An actor's calls are never handed back.

The loop notes each task before it runs it, in memory that outlives the process (``begun``): the
result of one may leave the process only after the next has begun, and is lost if that one kills it.
"""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Callable

from skate import config
from skate import messages as m
from skate.client.connection import Connection
from skate.client.runtime import Runtime
from skate.worker.executor import Executor
from skate.worker.inbox import Inbox
from skate.worker.lane_server import Work


class TaskLoop:
    """See the module's docstring."""

    def __init__(
        self,
        connection: Connection,
        runtime: Runtime,
        inbox: Inbox,
        executor: Executor,
        *,
        hands_back: bool,
        clock_offset: float,
        begun: mmap.mmap,
    ) -> None:
        self._connection = connection
        self._inbox = inbox
        self._executor = executor
        self._hands_back = hands_back
        self._clock_offset = clock_offset
        self._begun = begun
        self._begun_at = 0.0  # when the running task began; 0: none runs
        self._is_blocked = False  # the main thread's task waits in get/wait
        self._courier_is_awake = False
        self._last_active = 0.0
        self._next: Work | None = None  # what is to run next; it counts as begun
        self._main_thread = threading.get_ident()
        self._running: Work | None = None
        inbox.on_work = self._on_work
        connection.on_tick = self._tick
        runtime.blocking = self._lend_cpu

    def _on_work(self) -> None:
        if self._is_blocked:  # sent before the node had heard of it
            self._hand_back()

    def run(self) -> None:
        """Run tasks (or calls), one by one, until asked to end."""
        inbox, connection, executor = self._inbox, self._connection, self._executor
        execute = executor.execute
        queue, begun = inbox.queue, self._begun
        looked_at = 0.0

        def is_due() -> bool:
            return bool(queue or inbox.exit_reason or inbox.is_restless)

        while True:
            connection.wait_for(is_due, inbox.rest())
            work = inbox.next()
            now = time.monotonic()
            while work is not None:  # else there is nothing, or the courier has handed it back
                begun[:] = work.run.task_id
                self._running = work
                self._begun_at = now
                if not self._courier_is_awake:
                    self._courier_is_awake = True
                    self._last_active = now  # or it would sleep again, if this is short
                    with connection.lock:
                        connection.arm()
                execute(work.run, work.spec, self._answer, now)
                now = executor.ended_at  # about when the next begins
                if now - looked_at > config.LANE_LOOK_S and connection.sources:
                    connection.try_read()  # while there is work, nobody else looks
                    looked_at = now = time.monotonic()
                work = self._next
            if inbox.exit_reason:
                return

    def _answer(self, done: m.Done) -> None:
        self._begun_at = 0.0
        work, self._running = self._running, None
        assert work is not None
        self._next = self._inbox.answer_and_next(work, done, self._executor.ended_at)

    def _hand_back(self) -> None:
        if self._hands_back:
            self._inbox.hand_back()

    def _tick(self) -> float | None:
        """Called by the courier: hand back what waits behind a long task; seconds to the next.

        While tasks run, somebody has to look at what the node sends ahead: the main thread may be
        deep in user code. A second after the last task, the courier sleeps until the next.
        """
        now = time.monotonic()
        begun = self._begun_at
        if begun:
            self._last_active = now
            if now - begun >= config.HAND_BACK_AFTER_S - 0.005:
                self._connection.try_read()
                if begun == self._begun_at:
                    self._hand_back()
                    work = self._running
                    if work is not None:
                        self._inbox.long(work, begun + self._clock_offset)
            return config.HAND_BACK_AFTER_S
        if now - self._last_active < 1.0:
            return config.HAND_BACK_AFTER_S
        self._courier_is_awake = False
        if self._begun_at:  # it began while we fell asleep
            self._courier_is_awake = True
            return config.HAND_BACK_AFTER_S
        return None

    def _lend_cpu(self) -> Callable[[], None]:
        """The running task is about to wait: what to call when it goes on."""
        if threading.get_ident() != self._main_thread or not self._begun_at:
            return lambda: None
        begun, self._begun_at = self._begun_at, 0.0
        self._is_blocked = True
        if self._hands_back:
            self._inbox.block()
        self._connection.append(m.Blocked())

        def go_on() -> None:
            self._is_blocked = False
            self._inbox.unblock()
            self._begun_at = begun
            if not self._connection.closed:
                self._connection.append(m.Unblocked())

        return go_on
