"""An actor with ``max_concurrency`` > 1 and no async method: calls run on a pool of threads.

The main thread runs the constructor and then only reads, for all of them. The actor lends its CPU
while every call that runs waits in get/wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial

from skate import messages as m
from skate.client.connection import Connection
from skate.client.runtime import Runtime
from skate.worker.executor import Executor
from skate.worker.inbox import Inbox
from skate.worker.lane_server import Work


class ThreadedLoop:
    """Hands each call to a pool of threads."""

    def __init__(
        self,
        connection: Connection,
        runtime: Runtime,
        inbox: Inbox,
        executor: Executor,
        max_concurrency: int,
    ) -> None:
        self._connection = connection
        self._inbox = inbox
        self._executor = executor
        self._pool = ThreadPoolExecutor(max_concurrency, thread_name_prefix="skate-actor")
        self._lock = threading.Lock()
        self._running = 0
        self._waiting = 0
        self._lent = False
        runtime.blocking = self._lend_cpu

    def run(self) -> None:
        """Until asked to end; what was delivered before that is run."""
        inbox = self._inbox
        queue = inbox.queue

        def is_due() -> bool:
            return bool(queue or inbox.exit_reason or inbox.is_restless)

        while True:
            self._connection.wait_for(is_due, inbox.rest())
            while (work := inbox.next()) is not None:
                if work.spec.kind == "actor":
                    self._run(work)
                else:
                    self._pool.submit(copy_context().run, self._run, work)
            if inbox.exit_reason:
                self._pool.shutdown(wait=True)
                return

    def _run(self, work: Work) -> None:
        with self._lock:
            self._running += 1
            self._tell()
        self._executor.execute(work.run, work.spec, partial(self._answer, work))

    def _answer(self, work: Work, done: m.Done) -> None:
        with self._lock:
            self._running -= 1
            self._tell()
        self._inbox.answer(work, done)
        if self._inbox.exit_reason:
            # exit_actor in a pool thread: wake the main thread, which reads and would not notice.
            self._connection.flush()

    def _lend_cpu(self) -> Callable[[], None]:
        with self._lock:
            self._waiting += 1
            self._tell()
        return self._go_on

    def _go_on(self) -> None:
        with self._lock:
            self._waiting -= 1
            if not self._connection.closed:
                self._tell()

    def _tell(self) -> None:
        lent = 0 < self._running <= self._waiting
        if lent != self._lent:
            self._lent = lent
            self._connection.append(m.Blocked() if lent else m.Unblocked())
