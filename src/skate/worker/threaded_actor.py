"""An actor with ``max_concurrency`` > 1 and no async method: calls run on a pool of threads.

The main thread runs the constructor and then only reads, for all of them.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING

from skate import messages as m

if TYPE_CHECKING:
    from skate.worker.worker_main import Worker


class ThreadedLoop:
    """Hands each call to a pool of threads."""

    def __init__(self, worker: Worker, max_concurrency: int) -> None:
        self._worker = worker
        self._pool = ThreadPoolExecutor(max_concurrency, thread_name_prefix="skate-actor")

    def run(self) -> None:
        """Until asked to end; what was delivered before that is run."""
        worker = self._worker
        queue = worker.queue
        while True:
            worker.connection.wait_for(lambda: queue or worker.exit_reason)
            while queue:
                run = queue.popleft()
                if worker.templates[run.template].kind == "actor":
                    self._run(run)
                else:
                    self._pool.submit(copy_context().run, self._run, run)
            if worker.exit_reason:
                self._pool.shutdown(wait=True)
                return

    def _run(self, run: m.Run) -> None:
        self._worker.execute(run, self._answer)

    def _answer(self, done: m.Done) -> None:
        self._worker.connection.append(done, len(done.data))
        if self._worker.exit_reason:
            # exit_actor in a pool thread: wake the main thread, which reads and would not notice.
            self._worker.connection.flush()
