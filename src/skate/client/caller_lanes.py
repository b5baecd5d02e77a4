"""The lanes of a process as a caller: their sockets, between the lane book and the connection.

Under the runtime, which tries here first with each call. What rides, and what the node is told, the
book decides (lane_book.py); a lane's socket is read by whoever leads (connection.py).

All calls into the book are made under the connection's lock. What the node has to be told leaves
the book before anything else joins the outbox.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Any

from skate import messages as m
from skate.client.connection import Connection
from skate.client.lane_book import GONE, CallerLane, LaneBook, values_of
from skate.client.stream import Stream, StreamSource
from skate.client.value_table import ValueTable
from skate.config import FLUSH_CALLS, LANE_VALUE_BYTES
from skate.ids import TaskIdCounter
from skate.net import unix_socket
from skate.objects.reference_counter import ReferenceCounter

JOURNAL_MAX = 128
"""Births and deaths of refs that may wait while all calls ride: nothing else would drain them."""


class LaneSocket(StreamSource):
    """One lane's end at its caller; a source of the connection."""

    __slots__ = ("_connection", "_lanes", "lane")

    def __init__(
        self, lanes: CallerLanes, connection: Connection, lane: CallerLane, sock: socket.socket
    ) -> None:
        self._lanes = lanes
        self._connection = connection
        self.lane = lane
        handlers: dict[type, Callable[[Any], None]] = {
            m.Outcome: lambda outcome: self._on_outcomes([outcome]),
            m.LaneEnds: self._on_ends,
        }
        self.stream = Stream(
            sock, m.decode_to_caller, handlers, self._on_eof, "the worker",
            m.Outcome, self._on_outcomes,
        )  # fmt: skip

    def flush(self) -> bool:
        """Send what the book has queued, the lock being held; whether the socket took all."""
        lane, stream = self.lane, self.stream
        if lane.owes_node:
            # The callee may forget what was promoted only once the node has it.
            self._lanes.tell_node()
            self._connection.flush_locked()
            lane.owes_node = self._connection.stream.has_unsent
        if lane.out:
            if stream.outbox:  # an interrupt came between the two steps below
                stream.flush()
            stream.outbox, lane.out = lane.out, []
        return stream.flush()

    def _on_outcomes(self, outcomes: list[m.Outcome]) -> None:
        lanes, lane = self._lanes, self.lane
        # First: whoever finds the book to have one ("ours") takes it from the table.
        lanes.values.on_all_ready(values_of(outcomes))
        with self._connection.lock:
            lanes.book.on_outcomes(lane, outcomes)
            if lanes.book.to_node:
                lanes.tell_node()
                self._connection.flush_locked()
        if lane.state is GONE:
            self.close()

    def _on_ends(self, message: m.LaneEnds) -> None:
        with self._connection.lock:
            self._lanes.book.on_end(self.lane, message.taken)
            self._lanes.tell_node()
            self._connection.flush_locked()
        if self.lane.state is GONE:
            self.close()

    def _on_eof(self, reason: str) -> None:
        with self._connection.lock:
            self._lanes.book.on_eof(self.lane)
            self._lanes.tell_node()
            self._connection.flush_locked()
        self.close()

    def close(self) -> None:
        """It is over."""
        self._connection.remove_source(self)
        self._lanes.sockets.pop(self.lane.number, None)
        self.stream.sock.close()

    def abandon(self) -> None:
        """In a fork of the process: it is the parent's."""
        os.close(self.stream.sock.detach())


class CallerLanes:
    """See the module's docstring."""

    def __init__(
        self,
        connection: Connection,
        values: ValueTable,
        references: ReferenceCounter,
        ids: TaskIdCounter,
        submitter: bytes,
        lanes_dir: str,
        sequences: dict[bytes, int],
    ) -> None:
        self._connection = connection
        self._references = references
        self._ids = ids
        self._lanes_dir = lanes_dir
        self.values = values
        self.book = LaneBook(submitter, references, values, sequences)
        self.sockets: dict[int, LaneSocket] = {}
        self._overflow = 0  # tasks that might ride, and found no room, since ``look``
        connection.handlers[m.LaneOpen] = self._on_open
        connection.handlers[m.Ready] = self._on_ready
        connection.is_calling = self._is_calling

    # ------------------------------------------------------------------ calls

    def ride_task(
        self, template: int, arguments: bytes, dependencies: list[bytes] | None, depth: int
    ) -> list[bytes] | None:
        """Send a task by a lane, if it may ride: the id of its result. The lock is held."""
        book = self.book
        task_class = book.task_classes[template]
        if task_class is None or len(arguments) > LANE_VALUE_BYTES:
            return None
        if self._connection.closed:
            return None  # what the node would be sent tells why
        lane = values = None
        if task_class.lanes:
            if dependencies is None:
                lane = book.task_lane(task_class)
            else:
                found = book.values_for(dependencies, task_class)
                if found is not None:
                    lane, values = found
                    lane = lane or book.task_lane(task_class)
            if task_class.is_loaded:
                book.ask(task_class, template, monotonic())
                self.tell_node()
        if lane is None:
            book.ask(task_class, template, monotonic())
            self.tell_node()
            self._overflow += 1
            return None
        task_id = self._ids.next_task()
        return self._send(lane, task_id, template, arguments, -1, depth, dependencies, values)

    def look(self) -> None:
        """A burst goes by the switch: has a lane been opened, or one got room again? The lock is
        not held. Else a program that only submits would not see it before it waits."""
        if self._overflow >= FLUSH_CALLS:
            self._overflow = 0
            self._connection.try_read()

    def ride_call(
        self,
        actor_id: bytes,
        template: int,
        arguments: bytes,
        dependencies: list[bytes] | None,
        sequence: int,
        *,
        in_order: bool,
    ) -> list[bytes] | None:
        """Send an actor's call by a lane, if it may ride; else None. The lock is held."""
        book = self.book
        if not book.method_rides[template] or len(arguments) > LANE_VALUE_BYTES:
            return None
        lane = book.actor_lane(actor_id)
        if lane is None or self._connection.closed:
            return None
        values = None
        if dependencies is not None:
            found = book.values_for(dependencies, None)
            if found is None:
                return None
            values = found[1]
        lane.in_order = in_order
        task_id = self._ids.next_task()
        return self._send(lane, task_id, template, arguments, sequence, 0, dependencies, values)

    def _send(
        self,
        lane: CallerLane,
        task_id: bytes,
        template: int,
        arguments: bytes,
        sequence: int,
        depth: int,
        dependencies: list[bytes] | None,
        values: list[bytes] | None,
    ) -> list[bytes]:
        object_id = self.book.send(
            lane, task_id, template, arguments, sequence, depth, dependencies, values
        )
        self.values.promise(object_id)
        connection = self._connection
        connection.hint = source = self.sockets[lane.number]
        if len(lane.out) >= FLUSH_CALLS or len(lane.unanswered) == 1:
            connection.flush_source(source)
        elif source not in connection.queued:
            connection.queue_source(source)
        if len(self._references.journal) > JOURNAL_MAX:
            connection.flush_locked()
        return [object_id]

    def are_riding(self, object_ids: Iterable[bytes]) -> bool:
        """Whether all of these that are not here are to come by lanes."""
        here, local = self.values.here, self.book.local
        return all(object_id in here or object_id in local for object_id in object_ids)

    def not_riding(self, object_ids: list[bytes]) -> list[bytes]:
        """Those that the node can be asked for; the lock is held. The others are here, or come by
        lanes, and it does not know them. (While another thread takes one in, the table of values
        has it neither as promised nor as here.)"""
        local = self.book.local
        return (
            [object_id for object_id in object_ids if object_id not in local]
            if local
            else (object_ids)
        )

    # ------------------------------------------------------------------ refs

    def escape(self, object_ids: Sequence[bytes]) -> None:
        """Refs to these leave the process, or their ids do; the lock is held."""
        book = self.book
        if book.local:
            for object_id in object_ids:
                if object_id in book.local:
                    book.escape(object_id)
            self.tell_node()

    # ------------------------------------------------------------------ what the node says, hears

    def _on_open(self, message: m.LaneOpen) -> None:
        # May run twice: what is ready the first time is used again.
        source = self.sockets.get(message.lane)
        if source is None:
            try:
                path = os.path.join(self._lanes_dir, message.worker.hex())
                sock = unix_socket.connect(path, timeout_s=0)
            except OSError:
                with self._connection.lock:
                    self.book.not_connected(message)
                    self.tell_node()
                    self._connection.flush_locked()
                return
            source = LaneSocket(self, self._connection, self.book.connected(message), sock)
            self.sockets[message.lane] = source
        with self._connection.lock:
            self._connection.add_source(source)
            self.book.offer(source.lane)
            self._connection.flush_source(source)

    def _on_ready(self, ready: m.Ready) -> None:
        book = self.book
        if book.local or book.promised:
            with self._connection.lock:
                book.ready_from_node(ready.object_id)
                self.tell_node()
        self.values.on_ready(ready)

    def tell_node(self) -> None:
        """Queue what the book has for the node; the lock is held."""
        if self.book.to_node:
            self.book.take(self._connection.outbox)
            self._connection.appended_locked()

    def _is_calling(self) -> bool:
        return any(source.lane.unanswered for source in list(self.sockets.values()))
