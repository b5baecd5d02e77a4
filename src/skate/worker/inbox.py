"""What the node has sent a worker and has not begun: runs, their templates, the order to end.

The loop of the worker (task_loop, threaded_actor, async_actor) pops runs from ``queue``. Whoever
pops a run decides: it has begun, or it is handed back, never both. Any thread may pop.
"""

from __future__ import annotations

from collections import deque

from skate import messages as m
from skate.client.connection import Connection
from skate.spec import CallTemplate


class Inbox:
    """See the module's docstring."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.queue: deque[m.Run] = deque()
        self.templates: dict[int, CallTemplate] = {}  # by the node's number
        self.exit_reason = ""  # why this process is to end, once it is
        connection.handlers.update(
            {
                m.Run: self.queue.append,
                m.RegisterTemplate: self._on_template,
                m.Exit: self.on_exit,
            }
        )

    def _on_template(self, message: m.RegisterTemplate) -> None:
        self.templates[message.number] = message.template

    def on_exit(self, message: m.Exit) -> None:
        """The node wants this process to end."""
        self.exit_reason = message.reason or "asked to end"

    def leave(self, reason: str) -> None:
        """End after what runs now: say so first, so that the node expects the exit."""
        self._connection.append(m.Leaving(reason))
        self.exit_reason = reason
        self.queue.clear()

    def hand_back(self) -> None:
        """Give back all that has not begun."""
        task_ids = []
        while True:
            try:
                task_ids.append(self.queue.popleft().task_id)
            except IndexError:
                break
        if task_ids:
            self._connection.append(m.HandBack(task_ids))
            self._connection.flush()
