"""Callbacks for values that are awaited without blocking: concurrent futures and ``await``.

A callback runs on the loop of an async actor (``call_soon``), else in a thread of ours, which lives
while a callback is outstanding: it waits like any other caller, so it may read for everyone.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from skate.client.connection import Connection
from skate.client.value_table import ValueTable
from skate.errors import ClusterFailureError

Callback = Callable[[], None]


class Futures:
    """See the module's docstring. ``want`` asks for values that would not come by themselves."""

    def __init__(
        self,
        connection: Connection,
        values: ValueTable,
        want: Callable[[Sequence[bytes]], None],
    ) -> None:
        self._connection = connection
        self._values = values
        self._want = want
        self._callbacks: dict[bytes, list[Callback]] = {}
        self._due: deque[Callback] = deque()
        self._thread: threading.Thread | None = None
        self.call_soon: Callable[[Callback], None] | None = None  # an async actor's loop
        values.watched = self._callbacks
        values.on_watched = self._on_arrival

    def when_ready(self, object_id: bytes, callback: Callback) -> None:
        """Call back once the value is here, from a thread of ours or the async actor's loop.

        At once, if it is here already.
        """
        self._values.forget_troubles([object_id])
        due = []
        with self._connection.lock:
            self._callbacks.setdefault(object_id, []).append(callback)
            # Looked for after the entry, while a reader stores it before it looks for entries.
            if object_id in self._values.here:
                due = self._callbacks.pop(object_id)
        if not due:  # after the entry: what has come and was forgotten meanwhile is asked for again
            self._want([object_id])
        for ready in due:
            if self.call_soon is not None:
                self.call_soon(ready)
            else:
                ready()
        if not due and self.call_soon is None:
            self._start_thread()

    def _on_arrival(self, object_id: bytes) -> None:
        with self._connection.lock:
            due = self._callbacks.pop(object_id, ())
        for callback in due:
            if self.call_soon is not None:
                self.call_soon(callback)
            else:
                self._due.append(callback)

    def _start_thread(self) -> None:
        with self._connection.lock:
            if self._thread is not None and self._thread.is_alive():
                return
            self._thread = threading.Thread(target=self._serve, name="skate-futures", daemon=True)
            self._thread.start()

    def _serve(self) -> None:
        # Ends when nothing is outstanding: an idle process has no reader.
        while True:
            try:
                self._connection.wait_for(lambda: self._due or not self._callbacks)
            except ClusterFailureError:  # the connection is gone, for whatever reason
                with self._connection.lock:
                    orphans = [c for group in self._callbacks.values() for c in group]
                    self._callbacks.clear()
                for callback in orphans:
                    callback()
                return
            while self._due:
                self._due.popleft()()
            with self._connection.lock:
                if not self._callbacks and not self._due:
                    self._thread = None
                    return
