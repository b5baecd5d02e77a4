"""A client's one connection: an outbox that flushes in batches, and a leader that reads for all.

Writing: ``append`` never blocks. The outbox leaves at once when the line has been idle or the last
frame left because a thread began to wait, else at 64 messages, 64 KiB or after 1 ms (the courier
thread sees to that), and always before its process blocks. Releases alone make no frame of their
own until the process sleeps: mostly the next message takes them along. What the socket does not
take stays in user space.

Reading: a thread that blocks in the API reads for everyone (the leader);
others that block wait for it. No thread reads while none is blocked, but for the courier of a
driver, which ten times a second reads what is at hand: prints of tasks, and the EOF of a dead node.

Other sources (lanes, and the socket where they are accepted) are read by the same leader: whoever
waits looks at the line to the node and at them, and sleeps on all of them at once. While it looks
before it sleeps, it looks mostly where the next answer is expected (``hint``).

Interrupts: Ctrl-C may raise KeyboardInterrupt at any call in the main thread, also here, and the
program may go on afterwards (a notebook does): stream.py has the rule.

Locks: ``lock`` guards the outbox, ids and reference counts; ``_leader`` is held by who reads. No
user code runs under either. ``ObjectRef.__del__`` and pin callbacks take none (reference journal).
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from skate import config
from skate import messages as m
from skate.client.stream import Stream
from skate.errors import RuntimeClosedError
from skate.net.frame import BadFrame, PartReader

_AT_ONCE = (False,)
"""For ``extend(map(lock.acquire, _AT_ONCE))``: no interrupt can come between having a lock and
knowing so."""

LOOKS_AT_OTHERS = 8
"""Of so many looks for an answer one is at all sources, the others where it is expected."""


class Source(Protocol):
    """What a process reads beside the line to its node. Only the leader calls ``read``."""

    def fileno(self) -> int:
        """The descriptor that becomes readable; -1 once it is closed."""

    @property
    def has_unsent(self) -> bool:
        """Whether the socket has not taken all that it was given."""

    def read(self) -> bool:
        """Handle what has arrived, without blocking; whether something had."""

    def flush(self) -> bool:
        """Send what is queued, under the connection's lock; whether that has succeeded.

        It may be the socket's fault if not, or the node's, whose line has to take something first.
        """

    def close(self) -> None:
        """The connection is closed: so is this."""

    def abandon(self) -> None:
        """This process is a fork: the descriptor is the parent's, and nothing else is touched."""


class Connection:
    """See the module's docstring. ``handlers`` maps message types to what a reader does."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.lock = threading.Lock()
        self.handlers: dict[type, Callable[[Any], None]] = {m.Part: self._on_part}
        self.before_flush: Callable[[list[Any]], None] = lambda outbox: None
        self.on_lost: Callable[[str], None] = lambda reason: None
        self.on_tick: Callable[[], float | None] = lambda: None
        self.on_sources: Callable[[], None] = lambda: None  # they are others than before
        self.closed = ""  # why, once it is
        self._bytes = 0
        self._last_flush = 0.0
        self._pushed = False  # a wait has begun since the last frame: one will for the next, too
        self.stream = Stream(sock, m.decode_to_client, self.handlers, self.lost, "the node daemon")
        self.sources: tuple[Source, ...] = ()
        self.hint: Source | None = None  # where the next answer is expected, if not from the node
        self.is_calling: Callable[[], bool] = lambda: False  # whether a source owes an answer
        self.queued: dict[Source, None] = {}  # those with something that is not flushed yet
        self._waits_s = 0.01  # how long waits took of late, on average
        self._backlog: dict[Source, None] = {}  # those that could not send all
        self._changing = threading.Lock()  # held while the sources change, by whichever thread
        self._parts = PartReader(m.decode_to_client)
        self._leader = threading.Lock()
        self._turn = threading.Condition()
        self._followers = 0
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._poll_both = select.poll()
        self._poll_both.register(sock, select.POLLIN | select.POLLOUT)
        self._wake = threading.Lock()
        self._wake.acquire()
        self._armed = False
        self._courier: threading.Thread | None = None
        self._courier_tick_s: float | None = None
        self._bell = -1  # an eventfd that wakes a courier which dozes
        self._is_dozing = False
        self.pid = os.getpid()

    # ------------------------------------------------------------------ writing

    def append(self, message: Any, size: int = 0) -> None:
        """Queue a message; the caller does not hold the lock."""
        with self.lock:
            self.append_locked(message, size)

    def append_locked(self, message: Any, size: int = 0) -> None:
        """Queue a message; the caller holds the lock."""
        if self.closed:
            self.raise_closed()
        self.outbox.append(message)
        self.queued_locked(size)

    def queued_locked(self, size: int = 0) -> None:
        """A message was put into the outbox: it leaves at once, or soon; the lock is held."""
        self._bytes += size
        count = len(self.outbox)
        if count >= config.FLUSH_CALLS or self._bytes >= config.FLUSH_BYTES:
            self.flush_locked()
        elif count == 1:
            if self._pushed or time.monotonic() - self._last_flush > config.LINE_IDLE_S:
                self._pushed = False
                self.flush_locked()
            else:
                self.arm()

    def flush(self) -> None:
        """Send everything that is queued, and what the reference journal holds."""
        with self.lock:
            self.flush_locked()

    def flush_locked(self) -> None:
        """The same, for a caller that holds the lock."""
        outbox = self.outbox
        self.before_flush(outbox)
        self._last_flush = time.monotonic()
        if self.queued:
            self._flush_queued()
        if not outbox:
            return
        self._bytes = 0
        if not self.stream.flush():
            self.arm()

    def appended_locked(self) -> None:
        """Something was put into the outbox directly; the caller holds the lock."""
        if len(self.outbox) >= config.FLUSH_CALLS:
            self.flush_locked()
        else:
            self.arm()

    def push(self) -> None:
        """Send what is queued. Releases alone wait for the next message, or for a sleep."""
        if self.outbox:
            self.flush()
        elif self.queued:
            with self.lock:
                self._flush_queued()

    @property
    def outbox(self) -> list[Any]:
        """What is queued for the node."""
        return self.stream.outbox

    @property
    def _unsent(self) -> bool:
        return self.stream.has_unsent or bool(self._backlog)

    def _await_room(self, timeout_ms: float) -> None:
        """Sleep until one of the sockets that have not taken all takes more."""
        poll = select.poll()
        is_full = self.stream.has_unsent
        if is_full:
            poll.register(self.sock, select.POLLOUT)
        for source in list(self._backlog):
            if source.has_unsent:
                is_full = _register(poll, source, select.POLLOUT) or is_full
        if is_full:
            poll.poll(timeout_ms)

    def _send_rest(self) -> None:
        with self.lock:
            self.stream.pump()
            for source in list(self._backlog):
                if source.flush():
                    self._backlog.pop(source, None)

    def queue_source(self, source: Source) -> None:
        """A source has something to send, soon; the caller holds the lock."""
        if source not in self.queued:
            self.queued[source] = None
            self.arm()

    def _flush_queued(self) -> None:
        for source in list(self.queued):
            self.flush_source(source)

    def flush_source(self, source: Source) -> None:
        """Send what is queued at another source; the caller holds the lock."""
        self.queued.pop(source, None)
        if not source.flush():
            self._backlog[source] = None
            self.arm()

    def add_source(self, source: Source) -> None:
        """From now on this is read as well."""
        with self._changing:
            if source not in self.sources:
                self.sources = (*self.sources, source)
            for poll in (self._poll, self._poll_both):
                poll.register(source, select.POLLIN)
            self.on_sources()

    def remove_source(self, source: Source) -> None:
        """It is over; its descriptor is closed behind this."""
        with self._changing:
            if source in self.sources:
                for poll in (self._poll, self._poll_both):
                    with contextlib.suppress(KeyError, ValueError):
                        poll.unregister(source)
            self.sources = tuple(other for other in self.sources if other is not source)
            self.on_sources()
        self._backlog.pop(source, None)
        self.queued.pop(source, None)
        if self.hint is source:
            self.hint = None

    def drain(self) -> None:
        """Return once the kernel has taken all that is for the node: so no more piles up here."""
        self.flush()
        writable = select.poll()
        writable.register(self.sock, select.POLLOUT)
        while self.stream.has_unsent:
            if self.closed:
                self.raise_closed()
            writable.poll(1000 * config.SLEEP_AT_MOST_S)
            self._send_rest()
            self.try_read()

    # ------------------------------------------------------------------ reading

    def wait_for(self, ready: Callable[[], Any], timeout_s: float | None = None) -> bool:
        """Read for everyone until ``ready()``; False if that took longer than the time-out.

        Raises RuntimeClosedError (or what ``raise_closed`` makes of it) if the connection ends.
        """
        if ready():
            return True
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self.push()
        self._pushed = True
        while True:
            leads: list[bool] = []
            try:
                leads.extend(map(self._leader.acquire, _AT_ONCE))
                if leads[0]:
                    return self._lead(ready, deadline)
            finally:
                if leads and leads[0]:
                    self._leader.release()  # as a call of ours, it could be interrupted before
                    if self._followers:
                        self._notify()
            self.flush()
            with self._turn:
                self._followers += 1
                try:
                    if ready():
                        return True
                    if not self._leader.locked():
                        continue  # take it outside of the condition
                    left = config.SLEEP_AT_MOST_S
                    if deadline is not None:
                        left = min(left, deadline - time.monotonic())
                        if left <= 0:
                            return False
                    self._turn.wait(left)
                finally:
                    self._followers -= 1
            if ready():
                return True

    def _lead(self, ready: Callable[[], Any], deadline: float | None) -> bool:
        nap_s = config.SLEEP_AT_MOST_S
        began = time.monotonic()
        while True:
            if ready():
                self._waits_s += 0.125 * (min(time.monotonic() - began, 0.01) - self._waits_s)
                return True
            if self.closed:
                self.raise_closed()
            if not self._unsent and self._spin():
                if deadline is not None and time.monotonic() >= deadline:
                    return bool(ready())  # however much comes: time is over
                continue
            self.flush()  # no answer for now: before a sleep, releases leave as well
            if self._backlog:
                self._send_rest()
            poll = self._poll_all() if self._backlog else self._poll
            if self.stream.has_unsent and poll is self._poll:
                poll = self._poll_both
            left = nap_s
            if deadline is not None:
                left = deadline - time.monotonic()
            events = poll.poll(1000 * max(0.0, min(left, nap_s)))
            if not events and left <= 0:
                return False
            nap_s = config.SLEEP_AT_MOST_S if events else min(2 * nap_s, config.LONGEST_SLEEP_S)
            if self._unsent:
                self._send_rest()
            if events and any(what & ~select.POLLOUT for _, what in events):
                self.read_at_hand()
                if self._followers:
                    self._notify()
            if left <= 0:
                return bool(ready())

    def _spin(self) -> bool:
        """Look for an answer for a moment before sleeping; whether one came.

        Waking a process on an idle core costs more than a whole small task (measured: 4,500 tasks
        a second one by one without this, 13,000 with it). The yield gives the core to whoever has
        something to do, so on a busy machine this costs next to nothing.
        """
        is_short = self._waits_s < config.SPIN_LONG_S
        until = time.monotonic() + (config.SPIN_LONG_S if is_short else config.SPIN_S)
        looks = 0
        while time.monotonic() < until and not self.closed:
            hint = self.hint
            looks += 1
            if hint is not None and looks % LOOKS_AT_OTHERS:
                found = hint.read()
            else:
                found = self.read_at_hand()
            if found:
                if self._followers:
                    self._notify()
                return True
            os.sched_yield()
        return False

    def _poll_all(self) -> select.poll:
        """For a sleep while some sockets have not taken all: made anew, as that is rare."""
        poll = select.poll()
        both = select.POLLIN | select.POLLOUT
        poll.register(self.sock, both if self.stream.has_unsent else select.POLLIN)
        for source in self.sources:
            waits = source in self._backlog and source.has_unsent
            _register(poll, source, both if waits else select.POLLIN)
        return poll

    def _notify(self) -> None:
        with self._turn:
            self._turn.notify_all()

    def read_at_hand(self) -> bool:
        """Handle what has arrived, without blocking; the caller holds ``_leader``."""
        found = self.stream.read()
        for source in self.sources:
            if source.read():
                found = True
        return found

    def _on_part(self, part: m.Part) -> None:
        try:
            messages = self._parts.take(part)
        except BadFrame as error:
            self.lost(f"the node daemon broke the protocol: {error}")
            return
        for message in messages:
            self.handlers[type(message)](message)
        if part.is_last:
            self._parts.clear()

    def try_read(self) -> bool:
        """Handle what has arrived; whether something had, or another thread is at it."""
        found = False
        leads: list[bool] = []
        try:
            leads.extend(map(self._leader.acquire, _AT_ONCE))
            if not leads[0]:
                return True
            while not self.closed and self.read_at_hand():
                found = True
        finally:
            if leads and leads[0]:
                self._leader.release()
                if self._followers:
                    self._notify()
        return found

    def look(self) -> bool:
        """Look once where the next message is expected, without blocking; whether one was there.

        For an event loop that looks before it sleeps, as ``wait_for`` does.
        """
        hint = self.hint
        if hint is None:
            return False
        leads: list[bool] = []
        try:
            leads.extend(map(self._leader.acquire, _AT_ONCE))
            return leads[0] and hint.read()
        finally:
            if leads and leads[0]:
                self._leader.release()
                if self._followers:
                    self._notify()

    # ------------------------------------------------------------------ the courier

    def arm(self) -> None:
        """Have the courier flush within a millisecond; the caller holds the lock."""
        if not self._armed:
            self._armed = True
            if self._courier is None:
                self.start_courier(None)
            with contextlib.suppress(RuntimeError):  # ``close`` has done so
                self._wake.release()
            if self._is_dozing:
                os.eventfd_write(self._bell, 1)

    def start_courier(self, tick_s: float | None) -> None:
        """Start the helper thread; with a tick, it also reads what is at hand that often."""
        self._courier_tick_s = tick_s
        if tick_s is not None:
            self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._courier = threading.Thread(
            target=self._run_courier, name="skate-courier", daemon=True
        )
        self._courier.start()

    def _run_courier(self) -> None:
        try:
            self._carry(self._courier_tick_s)
        finally:
            with self.lock:
                self._drop_bell()

    def _carry(self, tick_s: float | None) -> None:
        wait_s: float | None = tick_s
        is_quiet = False
        read_at = 0.0
        events = select.poll()  # two threads must not use one at a time
        if tick_s is not None:
            events.register(self.sock, select.POLLIN)
            events.register(self._bell, select.POLLIN)
        while not self.closed:
            if is_quiet:
                self._doze(events)
                wait_s = 0.0
            armed = self._wake.acquire(timeout=-1 if wait_s is None else wait_s)
            if self.closed:
                return
            if armed:
                time.sleep(config.FLUSH_DELAY_S)
            with self.lock:
                if armed:
                    self._armed = False
                if not self.closed:
                    self.flush_locked()
            if self._unsent:
                self._await_room(50)
                self._send_rest()
                with self.lock:
                    if self._unsent:
                        self.arm()
            is_quiet = False
            if tick_s is not None and (not armed or time.monotonic() - read_at > tick_s):
                # In a burst the program's own threads read; in between, nobody else might.
                is_quiet = not self.try_read() and not armed
                read_at = time.monotonic()
            next_s = self.on_tick()
            wait_s = next_s if next_s is not None else tick_s
            is_left = tick_s is not None and not self._leader.locked()  # to the courier to read
            if is_left and self.sources and self.is_calling():
                wait_s = config.LANE_TICK_S

    def _doze(self, events: select.poll) -> None:
        """The courier has found nothing to do: wait for something to read or to send, or a while.

        So a quiet program costs next to nothing, and yet prints and the end of the node show at
        once. A busy one is left alone between ticks: what it reads itself would wake us as well.
        """
        with self.lock:
            if self._armed or self.closed:
                return
            self._is_dozing = True
            if self.sources:
                events = select.poll()
                events.register(self.sock, select.POLLIN)
                events.register(self._bell, select.POLLIN)
                for source in self.sources:
                    _register(events, source, select.POLLIN)
        events.poll(1000 * config.SLEEP_AT_MOST_S)
        with self.lock:
            self._is_dozing = False
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._bell)

    def _drop_bell(self) -> None:
        bell, self._bell, self._is_dozing = self._bell, -1, False
        if bell >= 0:
            os.close(bell)

    # ------------------------------------------------------------------ the end

    def lost(self, reason: str) -> None:
        """The other side is gone."""
        if not self.closed:
            self.closed = reason
            self.on_lost(reason)
            self._notify()

    def raise_closed(self) -> None:
        """What a call on a closed connection raises; the session knows more and may replace it."""
        raise RuntimeClosedError(self.closed)

    def close(self, reason: str) -> None:
        """Close our end."""
        if not self.closed:
            self.closed = reason
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        for source in self.sources:
            source.close()
        with contextlib.suppress(RuntimeError):
            self._wake.release()
        self._notify()

    def close_in_child(self) -> None:
        """After a fork by the user's program: the parent's connection is not ours to use."""
        self.closed = "this process was forked from one that uses skate; call init() here"
        self.lock = threading.Lock()
        self._leader = threading.Lock()
        self._turn = threading.Condition()
        self._changing = threading.Lock()
        self.stream.outbox = []
        sources, self.sources = self.sources, ()
        for source in sources:
            with contextlib.suppress(OSError):
                source.abandon()
        with contextlib.suppress(OSError):
            self._drop_bell()
            os.close(self.sock.detach())


def _register(poll: select.poll, source: Source, events: int) -> bool:
    """Have a source polled; False if another thread has just closed it."""
    try:
        poll.register(source, events)
    except ValueError:
        return False
    return True
