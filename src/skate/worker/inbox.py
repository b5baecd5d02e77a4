"""What a worker is to run and has not begun, whichever way it came; templates; the order to end.

The loop of the worker (task_loop, threaded_actor, async_actor) takes work with ``next`` and brings
what it came to with ``answer``. Work comes from the node, or by a lane from whoever calls
(lane_server.py decides about those, lane_door.py has their sockets). Whoever pops decides: it has
begun, or it is handed back, never both. Any thread may pop.

The lane server is asked under the connection's lock; what it has for the node leaves it before
anything else joins the outbox.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from skate import messages as m
from skate.client.connection import Connection
from skate.spec import CallTemplate
from skate.worker.lane_door import LaneDoor
from skate.worker.lane_server import LaneServer, Work


class Inbox:
    """See the module's docstring. ``on_work`` is called when some has come."""

    def __init__(
        self,
        connection: Connection,
        setup: m.WorkerSetup,
        on_function: Callable[[m.RegisterFunction], None],
    ) -> None:
        self._connection = connection
        self._is_actor = bool(setup.actor_id)
        self._server = server = LaneServer(is_actor=self._is_actor)
        self._door = LaneDoor(connection, server, setup, on_function, self._arrived)
        self.queue = server.queue
        self.templates: dict[int, CallTemplate] = {}  # by the node's number
        self.exit_reason = ""  # why this process is to end, once it is
        self.is_restless = False  # ``rest`` has something new to look at
        self.on_work: Callable[[], None] = lambda: None
        connection.handlers.update(
            {m.Run: self._on_run, m.RegisterTemplate: self._on_template, m.Exit: self.on_exit}
        )

    def close(self) -> None:
        """The process ends: no more callers."""
        self._door.close()

    # ------------------------------------------------------------------ what comes

    def _on_run(self, run: m.Run) -> None:
        if self._server.has_left:
            return
        spec = self.templates[run.template]
        if run.sequence < 0:  # nearly always: it is in order as it comes
            self.queue.append(Work(run, spec))
        else:
            with self._connection.lock:
                self._server.on_run(run, spec)
        self.on_work()

    def _arrived(self) -> None:
        self.is_restless = True
        self.on_work()

    def _on_template(self, message: m.RegisterTemplate) -> None:
        self.templates[message.number] = message.template

    def on_exit(self, message: m.Exit) -> None:
        """The node wants this process to end: what was received by then is run."""
        if self._server.lanes:
            self._door.read_all()
            with self._connection.lock:
                self._server.retire()
                self._door.flush_locked()
        self.exit_reason = message.reason or "asked to end"
        self.on_work()

    # ------------------------------------------------------------------ what runs

    def next(self) -> Work | None:
        """Take what is to run now; None if there is nothing, or it was handed back meanwhile."""
        server = self._server
        with self._connection.lock:  # also without a lane: another thread may let one in just now
            work = server.next()
            if work is None and server.lanes:
                self._door.flush_locked()  # some may have been answered without having run
        return work

    def answer(self, work: Work, done: m.Done) -> None:
        """What a call came to: on its way at once if there is nothing else to do."""
        connection = self._connection
        if work.lane is not None:
            with connection.lock:
                self._server.outcome(work, done)
                self._door.answered_locked(work.lane, time.monotonic())
        elif self.queue:
            connection.append(done, len(done.data))
        else:
            with connection.lock:
                connection.outbox.append(done)
                connection.flush_locked()

    def answer_and_next(self, work: Work, done: m.Done, now: float) -> Work | None:
        """Both, in one step: what a call came to, and what is to run behind it."""
        lane = work.lane
        if lane is None:
            self.answer(work, done)
            return self.next()
        server, door = self._server, self._door
        with self._connection.lock:
            server.outcome(work, done)
            door.answered_locked(lane, now)
            if not self.queue:
                return None
            following = server.next()
            if following is None:
                door.flush_locked()
        return following

    def answer_later(self, work: Work, done: m.Done) -> None:
        """What a call of a lane came to; the next flush of the connection sends it."""
        with self._connection.lock:
            self._server.outcome(work, done)
            self._door.queue_locked(work.lane)

    def expect(self) -> bool:
        """The next call will come the way the last did; False if that was not by a lane."""
        self._connection.hint = self._door.last
        return self._door.last is not None

    def rest(self) -> float | None:
        """There is nothing to run: end what is idle; seconds to the next look, if there is one.

        To be called again when that time is over, or ``is_restless``.
        """
        self.is_restless = False
        self.expect()
        if not self._server.lanes:
            return None
        with self._connection.lock:
            due_s = self._server.tick(time.monotonic())
            self._door.flush_locked()
        return due_s

    # ------------------------------------------------------------------ what does not

    def leave(self, reason: str) -> None:
        """End after what runs now: say so first, so that the node expects the exit."""
        with self._connection.lock:
            self._server.leave()
            self._door.flush_locked()
            self._connection.append_locked(m.Leaving(reason))
        self.exit_reason = reason

    def hand_back(self) -> None:
        """Give back all that has not begun. Not for actors."""
        task_ids: list[bytes] = []
        connection, queue = self._connection, self.queue
        with connection.lock:
            self._server.hand_back()
            lanes = []
            while True:
                try:
                    work = queue.popleft()
                except IndexError:
                    break
                if work.lane is None:
                    task_ids.append(work.run.task_id)
                else:  # of a caller that has died: it is taken
                    lanes.append(work)
            queue.extend(lanes)
            if self._server.to_node or self._server.lanes:
                self._door.flush_locked()
            if task_ids:
                connection.append_locked(m.HandBack(task_ids))
                connection.flush_locked()

    def long(self, work: Work, started: float) -> None:
        """What runs takes its time: the node is told what it is."""
        if work.lane is not None:
            with self._connection.lock:
                self._server.long(work, started)
                self._door.flush_locked()

    def block(self) -> None:
        """The running task waits: what is behind it goes back, and what comes meanwhile."""
        with self._connection.lock:
            self._server.block()
        self.hand_back()

    def unblock(self) -> None:
        """It goes on."""
        self._server.unblock()
