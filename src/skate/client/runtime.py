"""The engine inside every driver and worker: submit, put, get, wait, over the one connection.

Under api/ (its only caller, with worker_main). It turns calls into messages, keeps the values that
have arrived as long as a ref to them exists in this process, and counts those refs. ``current()``
is the one runtime of the process.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import pickle
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Sequence
from contextvars import ContextVar
from typing import Any, cast

from skate import messages as m
from skate.client.connection import Connection
from skate.config import (
    DRIVER_CHUNK_BYTES,
    FUNCTION_WARN_BYTES,
    INLINE_MAX_BYTES,
    MAX_FUNCTION_BYTES,
)
from skate.errors import (
    ClusterFailureError,
    GetTimeoutError,
    decode_error,
    raise_form,
)
from skate.ids import FIRST_RETURN, TaskIdCounter, return_id
from skate.objects.mapping import ArenaMapping
from skate.objects.reference_counter import ReferenceCounter, process_journal
from skate.objects.serialization import Serialized, deserialize, serialize
from skate.spec import FORMAT_ERROR, CallTemplate

_ERROR_TAG = FORMAT_ERROR[0]

UNANSWERED_KEPT = 1_000
"""Answers that may still come for what was let go; most of those that are not here yet never do."""

# The Run message of the task that the current thread or coroutine executes; None in a driver.
current_run: ContextVar[m.Run | None] = ContextVar("skate_run", default=None)


class Surroundings:
    """The placement group in which this process runs something now, and whether that captures.

    An object stands for one stay: while it is the same, so is what a call template comes to.
    """

    __slots__ = ("captures", "group")

    def __init__(self, group: bytes = b"", captures: bool = False) -> None:
        self.group = group
        self.captures = captures  # whether what is submitted here goes to the group as well


class Runtime:
    """See the module's docstring."""

    def __init__(
        self,
        connection: Connection,
        *,
        job_id: bytes,
        node_id: bytes,
        submitter: bytes,
        session: str,
        arena_path: str,
        arena_bytes: int,
        namespace: str,
        is_driver: bool,
    ) -> None:
        self.connection = connection
        self.job_id = job_id
        self.node_id = node_id
        self.session = session
        self.namespace = namespace
        self.is_driver = is_driver
        self.worker_id = submitter.ljust(16, b"\x00")
        self.references = ReferenceCounter(process_journal)
        self.is_remote = not arena_path  # no memory is shared with the node
        self.mapping = ArenaMapping(arena_path, arena_bytes)
        self._arriving: tuple[bytes, mmap.mmap] | None = None  # a large value, in pieces
        self.values: dict[bytes, m.Ready] = {}
        self.promised: set[bytes] = set()  # results of our own calls: they come unasked
        self.wanted: set[bytes] = set()  # asked for
        self._unanswered: dict[bytes, None] = {}  # asked for when their last ref went
        self.elsewhere: set[bytes] = set()  # values that are there, on another node
        self.fetching: set[bytes] = set()  # promised ones that are to be fetched if they are
        self._troubles: set[bytes] = set()  # could not be had when they were asked for last
        self._gets: list[Sequence[bytes]] = []  # what get() calls need, until they have it
        self._waits: dict[int, set[bytes]] = {}  # of each wait() call: what was here meanwhile
        self.errors_seen = 0  # grows with every error that arrives
        self.answers: dict[int, m.Answer] = {}
        self.extents: dict[bytes, m.Extent] = {}
        self.ids = TaskIdCounter(job_id, submitter)
        self.sequences: dict[bytes, int] = {}  # next call number per actor
        self.blocking: Callable[[], Callable[[], None]] | None = None  # set by the worker
        self.surroundings = Surroundings()
        self._functions: set[bytes] = set()
        self._templates: dict[CallTemplate, int] = {}
        self._ask_count = 0
        self._open: dict[tuple[str, bytes], int] = {}  # questions that wait_answer() has asked
        self._callbacks: dict[bytes, list[Callable[[], None]]] = {}
        self._due: deque[Callable[[], None]] = deque()
        self._futures_thread: threading.Thread | None = None
        self.call_soon: Callable[[Callable[[], None]], None] | None = None  # an async actor's loop
        connection.before_flush = self._before_flush
        connection.handlers.update(
            {
                m.Ready: self._on_ready,
                m.Answer: self._on_answer,
                m.Extent: self._on_extent,
                m.Revoke: self._on_revoke,
            }
        )
        if self.is_remote:
            connection.handlers[m.Chunk] = self._on_chunk

    # ------------------------------------------------------------------ what arrives

    def _on_ready(self, message: m.Ready) -> None:
        object_id = message.object_id
        self.promised.discard(object_id)
        if message.offset == m.ELSEWHERE:
            self._on_elsewhere(object_id)
            return
        if object_id in self._unanswered and self._is_old(message):
            return
        if self.wanted:
            self.wanted.discard(object_id)
        if object_id not in self.references.counts:
            return  # the last ref went while it was under way
        if message.offset == m.TROUBLE:
            self._troubles.add(object_id)
        elif self._troubles:
            self._troubles.discard(object_id)
        if self.elsewhere:
            self.elsewhere.discard(object_id)
        self.values[object_id] = message
        if object_id not in self.references.counts:  # it went in the meantime
            self.values.pop(object_id, None)
            return
        data = message.data
        if data and data[0] == _ERROR_TAG:
            self.errors_seen += 1
        if self._callbacks:
            with self.connection.lock:
                due = self._callbacks.pop(object_id, ())
            for callback in due:
                if self.call_soon is not None:
                    self.call_soon(callback)
                else:
                    self._due.append(callback)

    def _is_old(self, ready: m.Ready) -> bool:
        # Its ref was let go of after it was asked for, and has come back since: the node may have
        # sent this before it read of that, and given its place to another value behind it.
        object_id = ready.object_id
        is_old = bool(ready.size) and object_id in self.references.counts
        if is_old and object_id in self.wanted:
            self.connection.append(m.Want([object_id]))
        self._unanswered.pop(object_id, None)
        return is_old

    def _on_elsewhere(self, object_id: bytes) -> None:
        if object_id not in self.references.counts:
            self.wanted.discard(object_id)
            return
        self.elsewhere.add(object_id)
        # One that was asked for may have come, and gone before this process could be told.
        if object_id in self.fetching or object_id in self.wanted:
            self.fetching.discard(object_id)
            self.wanted.add(object_id)
            self.connection.append(m.Want([object_id]))

    def _on_revoke(self, message: m.Revoke) -> None:
        # Taken out first and then looked for in get(), which does it the other way round: so what
        # is being read is never forgotten.
        forgotten = []
        for object_id in message.object_ids:
            if object_id in self.values:
                for seen in list(self._waits.values()):
                    seen.add(object_id)
            ready = self.values.pop(object_id, None)
            if ready is not None:
                # A copy of the list: if another thread's get ends meanwhile, none is passed over.
                if any(object_id in needed for needed in list(self._gets)):
                    self.values[object_id] = ready
                    continue
                self.elsewhere.add(object_id)
            forgotten.append(object_id)
        if forgotten:
            self.connection.append(m.Revoked(message.number, forgotten))

    def _on_answer(self, answer: m.Answer) -> None:
        self.answers[answer.number] = answer

    def _on_extent(self, extent: m.Extent) -> None:
        self.extents[extent.object_id] = extent

    def _on_chunk(self, chunk: m.Chunk) -> None:
        # May run twice for one piece (connection.py), so nothing is counted.
        object_id, end = chunk.object_id, chunk.offset + len(chunk.data)
        if chunk.offset == 0:
            self._arriving = object_id, mmap.mmap(-1, chunk.total)  # as aligned as the arena
        arriving = self._arriving
        if arriving is None or arriving[0] != object_id:
            return  # it has arrived, or nobody wants it any more
        if object_id not in self.references.counts:
            self._arriving = None
            return
        memory = arriving[1]
        memory[chunk.offset : end] = chunk.data
        if end == chunk.total:
            self._on_ready(m.Ready(object_id, cast("bytes", memoryview(memory).toreadonly())))
            self._arriving = None

    def _before_flush(self, outbox: list[Any]) -> None:
        # Under the connection's lock. Holds go before releases (reference_counter).
        if self.references.journal:
            new, gone = self.references.drain()
            if new:
                # Before all else: a Done in the outbox lets go of the arguments they came with.
                outbox.insert(0, m.Hold(new))
            if gone:
                outbox.append(m.Release(gone))
                values, promised, wanted = self.values, self.promised, self.wanted
                if self._troubles:
                    self._troubles.difference_update(gone)
                if self.fetching:  # also those that came at once to where they are wanted
                    self.fetching.difference_update(gone)
                for object_id in gone:
                    # If a ref to it comes back, its value has to be asked for.
                    if values.pop(object_id, None) is None:
                        promised.discard(object_id)
                        if object_id in wanted:
                            wanted.discard(object_id)
                            self._unanswered[object_id] = None
                        self.elsewhere.discard(object_id)
                if len(self._unanswered) > UNANSWERED_KEPT:
                    young = list(self._unanswered)[UNANSWERED_KEPT // 2 :]
                    self._unanswered = dict.fromkeys(young)
        dead = self.mapping.dead
        if dead:
            outbox.append(m.Unpin([dead.popleft() for _ in range(len(dead))]))

    # ------------------------------------------------------------------ functions, templates

    def register(self, spec: CallTemplate, pickled: bytes | None, name: str) -> int:
        """This connection's number for a template; sends it, and its function, the first time."""
        with self.connection.lock:
            number = self._templates.get(spec)
            if number is None:
                if pickled is not None and spec.function_id not in self._functions:
                    self._functions.add(spec.function_id)
                    self.connection.append_locked(
                        m.RegisterFunction(spec.function_id, pickled, name), len(pickled)
                    )
                number = self._templates[spec] = len(self._templates)
                self.connection.append_locked(m.RegisterTemplate(number, spec))
        return number

    def enter(self, group: bytes, captures: bool) -> None:
        """What runs in this process from now on is in this placement group (b"": in none)."""
        around = self.surroundings
        if group != around.group or captures != around.captures:
            self.surroundings = Surroundings(group, captures)

    # ------------------------------------------------------------------ tasks

    def submit(
        self,
        template: int,
        arguments: bytes,
        dependencies: list[bytes] | None,
        nested: list[bytes] | None,
        returns: int,
    ) -> list[bytes]:
        """Submit a task with any number of returns; their ids, each held once."""
        run = current_run.get()
        depth = 0 if run is None else run.depth + 1
        with self.connection.lock:
            task_id = self.ids.next_task()
            object_ids = self._promise(task_id, returns)
            self.connection.append_locked(
                m.Submit(task_id, template, arguments, dependencies, nested, depth), len(arguments)
            )
        return object_ids

    def _promise(self, task_id: bytes, returns: int) -> list[bytes]:
        if returns == 1:  # nearly always
            object_ids = [task_id + FIRST_RETURN]
        else:
            object_ids = [return_id(task_id, index) for index in range(returns)]
        for object_id in object_ids:
            self.references.counts[object_id] = 1
            self.promised.add(object_id)
        return object_ids

    def call_actor(
        self,
        actor_id: bytes,
        template: int,
        arguments: bytes,
        dependencies: list[bytes] | None,
        nested: list[bytes] | None,
        returns: int,
        in_order: bool = True,
    ) -> list[bytes]:
        """Call a method; the ids of its returns, each held once."""
        with self.connection.lock:
            task_id = self.ids.next_task()
            object_ids = self._promise(task_id, returns)
            sequence = self.sequences.get(actor_id, 0)
            self.sequences[actor_id] = sequence + 1
            self.connection.append_locked(
                m.CallActor(
                    task_id,
                    actor_id,
                    sequence,
                    template,
                    arguments,
                    dependencies,
                    nested,
                    in_order,
                ),
                len(arguments),
            )
        return object_ids

    def create_actor(
        self,
        actor_id: bytes,
        counted_id: bytes,
        template: int,
        options: Any,
        arguments: bytes,
        dependencies: list[bytes] | None,
        nested: list[bytes] | None,
    ) -> None:
        """Create an actor, whose handle is held once."""
        with self.connection.lock:
            self.references.born_here(counted_id)
            self.connection.append_locked(
                m.CreateActor(actor_id, template, options, arguments, dependencies, nested),
                len(arguments),
            )

    def new_task_id(self) -> bytes:
        """A fresh TaskID (an actor's id is that of its construction)."""
        with self.connection.lock:
            return self.ids.next_task()

    # ------------------------------------------------------------------ objects

    def put(self, value: Any) -> bytes:
        """Store a value; its id, held once. ObjectStoreFullError if there is no room."""
        return self.put_serialized(serialize(value))

    def put_serialized(self, serialized: Serialized) -> bytes:
        """Store a payload; its id, held once."""
        connection = self.connection
        if serialized.size <= INLINE_MAX_BYTES:
            data = serialized.to_bytes()
            with connection.lock:
                object_id = self.ids.next_put()
                self.references.counts[object_id] = 1
                self.values[object_id] = m.Ready(object_id, data)
                connection.append_locked(m.Put(object_id, data, serialized.contains), len(data))
            return object_id
        with connection.lock:
            object_id = self.ids.next_put()
        value = self.write_extent(object_id, serialized)
        with connection.lock:
            self.references.counts[object_id] = 1
            if self.is_remote:
                self.elsewhere.add(object_id)
            else:
                self.values[object_id] = m.Ready(object_id, b"", value.offset, value.size)
            connection.append_locked(m.Seal(object_id, serialized.contains))
        return object_id

    def write_extent(self, object_id: bytes, serialized: Serialized) -> m.Value:
        """Write a payload into the arena; what is left to do is to seal it."""
        self.connection.append(m.CreateExtent(object_id, serialized.size))
        extents = self.extents
        self.connection.wait_for(lambda: object_id in extents)
        extent = extents.pop(object_id)
        if extent.error:
            raise self.error_of(extent.error)
        if self.is_remote:
            self._send_extent(object_id, serialized)
            return m.Value(b"", extent.offset, serialized.size)
        target = self.mapping.writable(extent.offset, serialized.size)
        serialized.write_into(target)
        target.release()
        return m.Value(b"", extent.offset, serialized.size)

    def _send_extent(self, object_id: bytes, serialized: Serialized) -> None:
        """Have the node write a payload into its arena."""
        with mmap.mmap(-1, serialized.size) as memory:
            with memoryview(memory) as whole:
                serialized.write_into(whole)
            for start in range(0, serialized.size, DRIVER_CHUNK_BYTES):
                piece = memory[start : start + DRIVER_CHUNK_BYTES]
                self.connection.append(m.PutChunk(object_id, start, piece), len(piece))
                self.connection.drain()

    def error_of(self, payload: bytes) -> BaseException:
        """The exception that an error payload stands for."""
        return raise_form(decode_error(payload[1:]), pickle.loads)

    def value_of(self, ready: m.Ready | m.Value, object_id: bytes) -> Any:
        """The Python value of what has arrived; raises if it is an error."""
        if ready.size:
            view, is_new = self.mapping.read(object_id, ready.offset, ready.size)
            if is_new:
                self.connection.append(m.Pin([object_id]))
            return deserialize(view)
        data = ready.data
        if data[0] == _ERROR_TAG:
            raise self.error_of(data)
        return deserialize(data)

    def want(self, object_ids: Sequence[bytes]) -> None:
        """Ask for those that would not come by themselves."""
        unknown = set(object_ids).difference(self.values)
        promised = unknown & self.promised
        if promised:
            self.fetching |= promised
            promised -= self.elsewhere  # looked at after the entry: a reader does it the other way
        missing = list(unknown - promised - self.wanted)
        if missing:
            with self.connection.lock:
                # The holds of refs just unpickled have to be counted before their values come.
                self.connection.flush_locked()
                for object_id in missing:  # refs of an older session: the answer has to count
                    self.references.counts.setdefault(object_id, 1)
                self.wanted.update(missing)
                self.connection.append_locked(m.Want(missing))

    def get(self, object_ids: Sequence[bytes], timeout_s: float | None) -> list[Any]:
        """The values, in order; the first error that is found is raised at once."""
        self._forget_troubles(object_ids)
        if len(object_ids) == 1:
            ready = self.values.get(object_ids[0])
            if ready is not None and not ready.size:  # a small one: it has no place to be lost
                return [self.value_of(ready, object_ids[0])]
        self._gets.append(object_ids)
        try:
            deadline = None if timeout_s is None else time.monotonic() + timeout_s
            out: list[Any] = []
            while not self._get(object_ids, timeout_s, out):
                # The place of a copy was forgotten as it was looked for: it has to come anew.
                timeout_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            return out
        finally:
            self._gets.remove(object_ids)

    def _forget_troubles(self, object_ids: Sequence[bytes]) -> None:
        # What could not be had when it was asked for last can perhaps be had now.
        if self._troubles:
            for object_id in self._troubles.intersection(object_ids):
                self._troubles.discard(object_id)
                self.values.pop(object_id, None)

    def _get(self, object_ids: Sequence[bytes], timeout_s: float | None, out: list[Any]) -> bool:
        """Append the values that ``out`` has not; whether it has all of them now."""
        values = self.values
        if any(object_id not in values for object_id in object_ids):
            self.want(object_ids)
            if timeout_s == 0:
                self._poll(object_ids)
            if not self._wait_values(object_ids, timeout_s):
                late = [object_id for object_id in object_ids if object_id not in values]
                if late:
                    raise GetTimeoutError(
                        f"get() timed out after {timeout_s} s: {len(late)} of {len(object_ids)} "
                        f"objects were not ready, the first is {late[0].hex()}"
                    )
        for object_id in object_ids[len(out) :]:
            ready = values.get(object_id)
            if ready is None:
                break
            out.append(self.value_of(ready, object_id))
        if len(out) < len(object_ids):  # an error came before the rest did
            for object_id in object_ids:
                ready = values.get(object_id)
                if ready is not None and ready.data[:1] == FORMAT_ERROR:
                    raise self.error_of(ready.data)
        return len(out) == len(object_ids)

    def get_here(self, object_id: bytes) -> list[Any]:
        """The value, if it is in this process or on its node; its error is raised."""
        needed = (object_id,)
        self._gets.append(needed)
        try:
            ready = self.values.get(object_id)
            if ready is not None:
                return [self.value_of(ready, object_id)]
            if self.connection.closed:
                self.connection.raise_closed()
            return []
        finally:
            self._gets.remove(needed)

    def _wait_values(self, object_ids: Sequence[bytes], timeout_s: float | None) -> bool:
        values = self.values
        todo = list(reversed(object_ids))
        seen = -1

        def ready() -> bool:
            nonlocal seen
            while todo and todo[-1] in values:
                todo.pop()
            if not todo:
                return True
            if seen != self.errors_seen:
                seen = self.errors_seen
                for object_id in object_ids:
                    found = values.get(object_id)
                    if found is not None and found.data[:1] == FORMAT_ERROR:
                        return True
            return False

        return self.block(ready, timeout_s)

    def block(self, ready: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait; in a worker, the CPU is lent out meanwhile."""
        if self.blocking is None or ready():
            return self.connection.wait_for(ready, timeout_s)
        self.connection.push()
        self.connection.try_read()
        if ready():
            return True
        go_on = self.blocking()
        try:
            return self.connection.wait_for(ready, timeout_s)
        finally:
            go_on()

    def wait(
        self,
        object_ids: Sequence[bytes],
        count: int,
        timeout_s: float | None,
        *,
        anywhere: bool = False,
    ) -> list[int]:
        """Positions of the first ``count`` that are ready, in input order; fewer on time-out.

        Ready is what is on this node; with ``anywhere``, what is on any node.
        """
        elsewhere: set[bytes] = self.elsewhere if anywhere else set()
        found = self._ready_positions(object_ids, count, elsewhere)
        if len(found) >= count:
            return found
        seen: set[bytes] = set()
        self._waits[id(seen)] = seen
        try:
            return self._wait(object_ids, count, timeout_s, elsewhere, seen, anywhere=anywhere)
        finally:
            del self._waits[id(seen)]

    def _wait(
        self,
        object_ids: Sequence[bytes],
        count: int,
        timeout_s: float | None,
        elsewhere: set[bytes],
        seen: set[bytes],
        *,
        anywhere: bool,
    ) -> list[int]:
        if anywhere:
            self.want(list(set(object_ids) - self.promised - elsewhere))
        else:
            self.want(object_ids)
        if timeout_s == 0:
            self._poll(object_ids)
            return self._ready_positions(object_ids, count, elsewhere)
        values = self.values
        missing = set(object_ids).difference(values)
        few_enough = len(object_ids) - count

        def ready() -> bool:
            # A set operation: with thousands of refs, a loop here would be felt. What was here once
            # counts, though its space may have been wanted since.
            nonlocal missing
            missing = missing.difference(values, seen)
            return len(missing) <= few_enough or (
                bool(elsewhere) and len(missing - elsewhere) <= few_enough
            )

        self.block(ready, timeout_s)
        return self._ready_positions(object_ids, count, elsewhere, missing)

    def _poll(self, object_ids: Sequence[bytes]) -> None:
        """Read what is at hand, honestly: what the node has by now counts."""
        if self.wanted.isdisjoint(object_ids):
            self.connection.flush()
            self.connection.try_read()
        else:
            self.ask("ping", {})

    def _ready_positions(
        self,
        object_ids: Sequence[bytes],
        count: int,
        elsewhere: set[bytes],
        missing: Container[bytes] | None = None,
    ) -> list[int]:
        """``missing``: those that have not been here; by default, those that are not."""
        values = self.values
        found = []
        for position, object_id in enumerate(object_ids):
            is_here = object_id in values if missing is None else object_id not in missing
            if is_here or object_id in elsewhere:
                found.append(position)
                if len(found) == count:
                    break
        return found

    # ------------------------------------------------------------------ futures

    def when_ready(self, object_id: bytes, callback: Callable[[], None]) -> None:
        """Call back once the value is here, from a thread of ours or the async actor's loop.

        At once, if it is here already.
        """
        self._forget_troubles([object_id])
        due = []
        with self.connection.lock:
            self._callbacks.setdefault(object_id, []).append(callback)
            # Looked for after the entry, while a reader stores it before it looks for entries.
            if object_id in self.values:
                due = self._callbacks.pop(object_id)
        if not due:  # after the entry: what has come and was forgotten meanwhile is asked for again
            self.want([object_id])
        for ready in due:
            if self.call_soon is not None:
                self.call_soon(ready)
            else:
                ready()
        if not due and self.call_soon is None:
            self._start_futures_thread()

    def _start_futures_thread(self) -> None:
        with self.connection.lock:
            if self._futures_thread is not None and self._futures_thread.is_alive():
                return
            self._futures_thread = threading.Thread(
                target=self._serve_futures, name="skate-futures", daemon=True
            )
            self._futures_thread.start()

    def _serve_futures(self) -> None:
        # Ends when nothing is outstanding: an idle process has no reader.
        while True:
            try:
                self.connection.wait_for(lambda: self._due or not self._callbacks)
            except ClusterFailureError:  # the connection is gone, for whatever reason
                with self.connection.lock:
                    orphans = [c for group in self._callbacks.values() for c in group]
                    self._callbacks.clear()
                for callback in orphans:
                    callback()
                return
            while self._due:
                self._due.popleft()()
            with self.connection.lock:
                if not self._callbacks and not self._due:
                    self._futures_thread = None
                    return

    # ------------------------------------------------------------------ questions

    def ask(self, method: str, body: dict[str, Any], timeout_s: float | None = None) -> Any:
        """Ask the node (or, through it, the GCS); the answer's body, or its error raised.

        ValueError, TypeError or OverflowError for a body that no message can carry.
        """
        m.encode(body)  # here, where it can be told: behind others it would be in their way
        with self.connection.lock:
            number = self._ask_locked(method, body)
        answers = self.answers
        if not self.connection.wait_for(lambda: number in answers, timeout_s):
            raise GetTimeoutError(f"no answer to {method!r} within {timeout_s} s")
        answer = answers.pop(number)
        if answer.error:
            raise self.error_of(FORMAT_ERROR + answer.error)
        return answer.body

    def _ask_locked(self, method: str, body: dict[str, Any]) -> int:
        self._ask_count += 1
        self.connection.append_locked(m.Ask(self._ask_count, method, body))
        return self._ask_count

    def wait_answer(
        self, method: str, body: dict[str, Any], about: bytes, timeout_s: float | None
    ) -> bool:
        """Whether a question that is answered once something has happened is answered in time.

        An error is raised. In a worker, the CPU is lent out meanwhile. If the time is over, the
        next call for the same method and ``about`` waits for the same answer.
        """
        key = method, about
        answers = self.answers
        while True:
            with self.connection.lock:
                number = self._open.get(key)
                if number is None:
                    number = self._open[key] = self._ask_locked(method, body)

            def is_over(number: int = number) -> bool:
                # Another thread may wait for the same answer, and take it.
                return number in answers or self._open.get(key) != number

            if not self.block(is_over, timeout_s):
                return False
            if self._open.get(key) == number:  # before the answer goes, or others would miss it
                self._open.pop(key, None)
            answer = answers.pop(number, None)
            if answer is not None:
                if answer.error:
                    raise self.error_of(FORMAT_ERROR + answer.error)
                return True


_current: Runtime | None = None
forked = False  # whether this process is a fork of one that was connected, and has no own runtime


def current() -> Runtime | None:
    """The runtime of this process, if it is connected."""
    return _current


def set_current(runtime: Runtime | None) -> None:
    """Connect (or disconnect) this process."""
    global _current, forked
    _current = runtime
    if runtime is not None:
        forked = False


def function_id_of(pickled: bytes, name: str) -> bytes:
    """The content hash that names a function. ValueError if it is too large to be one."""
    if len(pickled) > MAX_FUNCTION_BYTES:
        raise ValueError(
            f"The remote function {name} is too large ({len(pickled) / 1e6:.0f} MB, at most "
            f"{MAX_FUNCTION_BYTES / 1e6:.0f} MB). It probably captures a large array or other "
            "object. Store that with put() and pass the ref as an argument instead."
        )
    if len(pickled) > FUNCTION_WARN_BYTES:
        import warnings

        warnings.warn(
            f"The remote function {name} is very large ({len(pickled) / 1e6:.0f} MB). Check that "
            "it does not capture a large array by accident; put() that and pass the ref.",
            stacklevel=4,
        )
    return hashlib.blake2b(pickled, digest_size=16).digest()


def _after_fork_in_child() -> None:
    # The parent's connection is the parent's; a fork inside a task or a driver starts without one.
    global forked
    if _current is not None:
        _current.connection.close_in_child()
        set_current(None)
        forked = True


os.register_at_fork(after_in_child=_after_fork_in_child)
