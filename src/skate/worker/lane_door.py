"""The sockets of a worker's lanes: it listens once a caller is expected, and speaks with each.

Under the inbox. What is taken, answered and handed back is the lane server's to decide; here its
words go out, and what callers say comes in. The leader reads (connection.py).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

from skate import config
from skate import messages as m
from skate.client.connection import Connection
from skate.client.stream import Stream, StreamSource
from skate.config import FLUSH_CALLS
from skate.net import unix_socket
from skate.net.frame import frame
from skate.worker.lane_server import OVER, CalleeLane, LaneServer

FLUSH_AFTER_S = config.LANE_LOOK_S / 2
"""Answers wait for others to share a frame for so long, while there is more to run."""

_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
_CREDENTIALS = struct.Struct("3i")


class CalleeSocket(StreamSource):
    """One caller's lane at its worker; a source of the connection."""

    __slots__ = ("_door", "lane")

    def __init__(self, door: LaneDoor, sock: socket.socket) -> None:
        self._door = door
        self.lane: CalleeLane | None = None  # until it has said hello
        handlers: dict[type, Callable[[Any], None]] = {
            m.LaneHello: self._on_hello,
            m.RegisterFunction: door.on_function,
            m.RegisterTemplate: self._on_template,
            m.Call: lambda call: self._on_calls([call]),
        }
        self.stream = Stream(
            sock, m.decode_to_callee, handlers, self._on_eof, "the caller", m.Call, self._on_calls
        )

    def flush(self) -> bool:
        """Send what the server has queued, the lock being held; whether the socket took all."""
        lane, stream = self.lane, self.stream
        if lane is None:
            return stream.flush()
        if lane.owes_node:
            # That the node has a result is said once it has.
            self._door.tell_node()
            self._door.connection.flush_locked()
            if self._door.connection.stream.has_unsent:
                return False
            lane.owes_node = False
        if lane.out:
            if stream.outbox:  # an interrupt came between the two steps below
                stream.flush()
            stream.outbox, lane.out = lane.out, []
        is_sent = stream.flush()
        if is_sent and lane.state is OVER:
            self.close()
        return is_sent

    def _on_hello(self, hello: m.LaneHello) -> None:
        if self.lane is not None:
            return  # after an interrupt
        connection = self._door.connection
        with connection.lock:
            self.lane = self._door.server.on_hello(hello)
            if self.lane is None:
                self.stream.outbox.append(m.LaneEnds(0))
                self.stream.flush()
            else:
                self._door.sockets[self.lane.number] = self
        if self.lane is None:
            self.close()

    def _on_template(self, message: m.RegisterTemplate) -> None:
        if self.lane is not None:
            self._door.server.on_template(self.lane, message)

    def _on_calls(self, calls: list[m.Call]) -> None:
        lane, door = self.lane, self._door
        if lane is None:
            self._on_eof("a call before the hello")
            return
        for call in calls:
            values = call.values
            if call.template not in lane.templates or (
                values is not None and len(values) != len(call.dependencies or ())
            ):
                self._on_eof("a call that nobody can run")
                return
        with door.connection.lock:
            door.server.on_calls(lane, calls)
            if lane.out and door.server.is_blocked:
                door.flush_locked()
        door.last = self
        door.on_work()

    def _on_eof(self, reason: str) -> None:
        if self.lane is not None:
            with self._door.connection.lock:
                self._door.server.on_eof(self.lane)
                self._door.flush_locked()
        self.close()
        self._door.on_work()

    def close(self) -> None:
        """It is over."""
        self._door.connection.remove_source(self)
        if self.lane is not None:
            self._door.sockets.pop(self.lane.number, None)
        if self._door.last is self:
            self._door.last = None
        self.stream.sock.close()

    def abandon(self) -> None:
        """In a fork of the process: it is the parent's."""
        os.close(self.stream.sock.detach())


class LaneDoor:
    """See the module's docstring; itself a source: the socket where callers connect."""

    def __init__(
        self,
        connection: Connection,
        server: LaneServer,
        setup: m.WorkerSetup,
        on_function: Callable[[m.RegisterFunction], None],
        on_work: Callable[[], None],
    ) -> None:
        self.connection = connection
        self.server = server
        self.on_function = on_function
        self.on_work = on_work
        self.sockets: dict[int, CalleeSocket] = {}
        self._path = os.path.join(setup.lanes_dir, setup.worker_id.hex())
        self._listener: socket.socket | None = None
        self._spare = -1  # a descriptor to answer a caller with when there is no other
        self._flushed_at = 0.0
        self.last: CalleeSocket | None = None  # by whom the last call came
        connection.handlers.update(
            {
                m.LaneExpected: self._on_expected,
                m.LaneRevoke: self._on_revoke,
                m.Publish: self._on_publish,
                m.CallSkipped: self._on_skipped,
            }
        )

    # ------------------------------------------------------------------ what the node says

    def _on_expected(self, message: m.LaneExpected) -> None:
        error = self._listen()
        with self.connection.lock:
            if not error:
                self.server.on_expected(message)
            self.connection.append_locked(m.LaneListening(message.lane, error))
            self.connection.flush_locked()
        self.on_work()

    def _listen(self) -> str:
        if self._listener is None:
            try:
                listener = unix_socket.listen(self._path, config.LANES_PER_PROCESS)
            except OSError as error:
                return str(error)
            listener.setblocking(False)
            self._listener = listener
            self._keep_spare()
            self.connection.add_source(self)
        return ""

    def _on_revoke(self, message: m.LaneRevoke) -> None:
        self.read_all()
        with self.connection.lock:
            self.server.on_revoke(message.lane)
            self.flush_locked()
        self.on_work()

    def _on_publish(self, message: m.Publish) -> None:
        with self.connection.lock:
            self.server.on_publish(message)
            self.tell_node()

    def _on_skipped(self, message: m.CallSkipped) -> None:
        with self.connection.lock:
            self.server.on_skipped(message)
        self.on_work()

    def tell_node(self) -> None:
        """Queue what the server has for the node; the lock is held."""
        if self.server.to_node:
            self.server.take(self.connection.outbox)
            self.connection.appended_locked()

    # ------------------------------------------------------------------ callers

    def fileno(self) -> int:
        """The descriptor to poll."""
        return -1 if self._listener is None else self._listener.fileno()

    has_unsent = False

    def read(self) -> bool:
        """Accept who has connected; whether somebody had."""
        found = False
        while self._listener is not None:
            try:
                sock, _ = self._listener.accept()
            except OSError as error:
                if error.errno in _NO_DESCRIPTORS and self._turn_away():
                    continue
                return found  # nobody is there
            found = True
            self._accept(sock)
        return found

    def _keep_spare(self) -> None:
        if self._spare < 0:
            with contextlib.suppress(OSError):
                self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _turn_away(self) -> bool:
        """No descriptor is left: tell a caller that its lane is over. Whether one was there.

        If it went on waiting, so would its calls, and who sleeps on the listener would never.
        """
        self._drop_spare()
        try:
            assert self._listener is not None
            sock, _ = self._listener.accept()
            with sock, contextlib.suppress(OSError):
                sock.send(frame([m.LaneEnds(0)]), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            return False
        finally:
            self._keep_spare()
        return True

    def _drop_spare(self) -> None:
        spare, self._spare = self._spare, -1
        if spare >= 0:
            os.close(spare)

    def _accept(self, sock: socket.socket) -> None:
        data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        if _CREDENTIALS.unpack(data)[1] != os.getuid():
            sock.close()
            return
        sock.setblocking(False)
        self.connection.add_source(CalleeSocket(self, sock))

    def read_all(self) -> None:
        """Accept and read all that has arrived. By the leader only."""
        self.read()
        for source in self.connection.sources:
            if isinstance(source, CalleeSocket):
                while source.read():
                    pass

    def flush(self) -> bool:
        """A listener has nothing to send."""
        return True

    # ------------------------------------------------------------------ answers

    def answered_locked(self, lane: CalleeLane, now: float) -> None:
        """A call has an outcome: send it, unless others may soon share its frame."""
        if self.server.to_node:
            self.tell_node()
        source = self.sockets.get(lane.number)
        if source is None:
            return
        is_last = not self.server.queue
        if not is_last and len(lane.out) < FLUSH_CALLS:
            if now - self._flushed_at < FLUSH_AFTER_S:
                if source not in self.connection.queued:
                    self.connection.queue_source(source)
                return
            self._flushed_at = now
        if is_last:
            self.flush_locked()
        else:
            self.connection.flush_source(source)

    def queue_locked(self, lane: CalleeLane | None) -> None:
        """A call has an outcome: it leaves with the next flush; the lock is held."""
        self.tell_node()
        source = None if lane is None else self.sockets.get(lane.number)
        if source is not None:
            self.connection.queue_source(source)

    def flush_locked(self) -> None:
        """Send all that there is for the node and for callers; the lock is held."""
        if self.server.to_node:
            self.tell_node()
            self.connection.flush_locked()
        for source in list(self.sockets.values()):
            lane = source.lane
            if lane is not None and (lane.out or lane.state is OVER):
                self.connection.flush_source(source)

    def close(self) -> None:
        """No more callers."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
            listener.close()
        self._drop_spare()

    def abandon(self) -> None:
        """In a fork of the process: it is the parent's."""
        listener, self._listener = self._listener, None
        if listener is not None:
            os.close(listener.detach())
        self._drop_spare()
