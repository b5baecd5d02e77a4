"""The engine inside every driver and worker: submit, put, get, wait, over the one connection.

api/ and the worker call it. It turns calls into messages and counts the refs of this process. Its
parts: ``values`` knows what has come (value_table.py), ``extents`` writes and reads large values,
``futures`` calls back, ``questions`` asks. ``current()`` is the one runtime of the process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

from skate import config
from skate import messages as m
from skate.client.caller_lanes import CallerLanes
from skate.client.connection import Connection
from skate.client.extents import Extents
from skate.client.futures import Futures
from skate.client.questions import Questions
from skate.client.templates import Templates
from skate.client.value_table import ValueTable, Wait, first_error
from skate.config import BLOCKED_AFTER_S, INLINE_MAX_BYTES
from skate.errors import GetTimeoutError, SkateError
from skate.ids import FIRST_RETURN, TaskIdCounter, return_id
from skate.objects.mapping import ArenaMapping
from skate.objects.reference_counter import ReferenceCounter, process_journal
from skate.objects.serialization import Serialized, deserialize, error_of, serialize
from skate.spec import FORMAT_ERROR, CallTemplate

_ERROR_TAG = FORMAT_ERROR[0]

# What the current thread or coroutine executes, and its template; None in a driver.
current_call: ContextVar[tuple[m.Run, CallTemplate] | None] = ContextVar("skate_call", default=None)


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
        lanes_dir: str = "",
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
        self.values = ValueTable(self.references.counts, connection.append)
        self.extents = Extents(connection, self.mapping, self.values, is_remote=self.is_remote)
        self.futures = Futures(connection, self.values, self.want)
        self.questions = Questions(connection, self.block)
        self.when_ready = self.futures.when_ready
        self.ask, self.wait_answer = self.questions.ask, self.questions.wait_answer
        templates = Templates(connection)
        self.register = templates.register
        self.ids = TaskIdCounter(job_id, submitter)
        self.sequences: dict[bytes, int] = {}  # next call number per actor
        self.blocking: Callable[[], Callable[[], None]] | None = None  # set by the worker
        self.surroundings = Surroundings()
        connection.before_flush = self._before_flush
        connection.handlers[m.Ready] = self.values.on_ready
        self.lanes: CallerLanes | None = None
        if lanes_dir and config.LANES:
            self.lanes = CallerLanes(
                connection,
                self.values,
                self.references,
                self.ids,
                submitter,
                lanes_dir,
                self.sequences,
            )
            templates.on_new = self.lanes.book.register
        connection.handlers[m.Revoke] = self.values.on_revoke

    # ------------------------------------------------------------------ what leaves

    def _before_flush(self, outbox: list[Any]) -> None:
        # Under the connection's lock. Holds go before releases (reference_counter).
        if self.references.journal:
            new, gone = self.references.drain()
            if gone:
                self.values.drop(gone)
            if self.lanes is not None:
                new, gone = self.lanes.book.back(new), self.lanes.book.gone(gone)
            if new:
                # Before all else: a Done in the outbox lets go of the arguments they came with.
                outbox.insert(0, m.Hold(new))
            if gone:
                outbox.append(m.Release(gone))
        dead = self.mapping.dead
        if dead:
            outbox.append(m.Unpin([dead.popleft() for _ in range(len(dead))]))

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
        call = current_call.get()
        depth = 0 if call is None else call[0].depth + 1
        with self.connection.lock:
            if self.lanes is not None:
                if returns == 1 and nested is None:
                    riding = self.lanes.ride_task(template, arguments, dependencies, depth)
                    if riding is not None:
                        return riding
                self.lanes.escape(dependencies or ())
            task_id = self.ids.next_task()
            object_ids = self._promise(task_id, returns)
            self.connection.append_locked(
                m.Submit(task_id, template, arguments, dependencies, nested, depth), len(arguments)
            )
        if self.lanes is not None:
            self.lanes.look()
        return object_ids

    def _promise(self, task_id: bytes, returns: int) -> list[bytes]:
        if returns == 1:  # nearly always
            object_ids = [task_id + FIRST_RETURN]
        else:
            object_ids = [return_id(task_id, index) for index in range(returns)]
        for object_id in object_ids:
            self.values.promise(object_id)
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
            sequence = self.sequences.get(actor_id, 0)
            if self.lanes is not None:
                if returns == 1 and nested is None:
                    riding = self.lanes.ride_call(
                        actor_id, template, arguments, dependencies, sequence, in_order=in_order
                    )
                    if riding is not None:
                        return riding
                self.lanes.escape(dependencies or ())
            task_id = self.ids.next_task()
            object_ids = self._promise(task_id, returns)
            call = m.CallActor(
                task_id,
                actor_id,
                sequence,
                template,
                arguments,
                dependencies,
                nested,
                in_order,
            )
            connection = self.connection
            if connection.closed:
                connection.raise_closed()
            outbox = connection.outbox
            # In one, or an interrupt would leave a number that never comes, and the actor waits.
            self.sequences[actor_id] = sequence + 1
            outbox.append(call)
            connection.queued_locked(len(arguments))
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
            self.escape_locked(dependencies or ())
            self.references.born_here(counted_id)
            self.connection.append_locked(
                m.CreateActor(actor_id, template, options, arguments, dependencies, nested),
                len(arguments),
            )

    def kill_actor(self, actor_id: bytes, *, no_restart: bool) -> None:
        """Have the actor's process killed: before any later call of this process runs."""
        with self.connection.lock:
            if self.lanes is not None:
                self.lanes.book.leave(actor_id)
            self.connection.append_locked(m.KillActor(actor_id, no_restart))

    def escape_locked(self, object_ids: Sequence[bytes]) -> None:
        """Refs to these leave the process, or their ids do; the caller holds the lock."""
        if self.lanes is not None:
            self.lanes.escape(object_ids)

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
                contains = bool(serialized.contains)
                self.values.put(object_id, m.Ready(object_id, data, contains=contains))
                connection.append_locked(m.Put(object_id, data, serialized.contains), len(data))
            return object_id
        with connection.lock:
            object_id = self.ids.next_put()
        value = self.extents.write(object_id, serialized)
        ready = m.Ready(object_id, b"", value.offset, value.size)
        with connection.lock:
            self.values.put(object_id, None if self.is_remote else ready)
            connection.append_locked(m.Seal(object_id, serialized.contains))
        return object_id

    def value_of(self, ready: m.Ready | m.Value, object_id: bytes) -> Any:
        """The Python value of what has arrived; raises if it is an error."""
        if ready.size:
            return deserialize(self.extents.read(object_id, ready.offset, ready.size))
        data = ready.data
        if data[0] == _ERROR_TAG:
            raise error_of(data)
        return deserialize(data)

    def want(self, object_ids: Sequence[bytes]) -> None:
        """Ask for those that would not come by themselves."""
        missing = self.values.missing(object_ids)
        if missing:
            with self.connection.lock:
                # The holds of refs just unpickled have to be counted before their values come.
                self.connection.flush_locked()
                if self.lanes is not None:  # a value that just comes by a lane: nobody else has it
                    missing = self.lanes.not_riding(missing)
                if missing:
                    self.values.asked(missing)
                    self.connection.append_locked(m.Want(missing))

    def get(self, object_ids: Sequence[bytes], timeout_s: float | None) -> list[Any]:
        """The values, in order; the first error that is found is raised at once."""
        values = self.values
        values.forget_troubles(object_ids)
        if len(object_ids) == 1:
            ready = values.here.get(object_ids[0])
            if ready is not None and not ready.size:  # a small one: it has no place to be lost
                return [self.value_of(ready, object_ids[0])]
        values.reads.append(object_ids)
        try:
            deadline = None if timeout_s is None else time.monotonic() + timeout_s
            out: list[Any] = []
            while not self._get(object_ids, timeout_s, out):
                # The place of a copy was forgotten as it was looked for: it has to come anew.
                timeout_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            return out
        except SkateError:
            values.gave_up(object_ids)
            raise
        finally:
            values.reads.remove(object_ids)

    def _get(self, object_ids: Sequence[bytes], timeout_s: float | None, out: list[Any]) -> bool:
        """Append the values that ``out`` has not; whether it has all of them now."""
        here = self.values.here
        if any(object_id not in here for object_id in object_ids):
            self.want(object_ids)
            if timeout_s == 0:
                self._poll(object_ids)
            if not self._wait_values(object_ids, timeout_s):
                late = [object_id for object_id in object_ids if object_id not in here]
                if late:
                    raise GetTimeoutError(
                        f"get() timed out after {timeout_s} s: {len(late)} of {len(object_ids)} "
                        f"objects were not ready, the first is {late[0].hex()}"
                    )
        for object_id in object_ids[len(out) :]:
            ready = here.get(object_id)
            if ready is None:
                break
            data = ready.data
            if data and data[0] != _ERROR_TAG:  # a small one: nearly always
                out.append(deserialize(data))
            else:
                out.append(self.value_of(ready, object_id))
        if len(out) < len(object_ids):  # an error came before the rest did
            error = first_error(here, object_ids)
            if error is not None:
                raise error_of(error)
        return len(out) == len(object_ids)

    def get_here(self, object_id: bytes) -> list[Any]:
        """The value, if it is in this process or on its node; its error is raised."""
        needed = (object_id,)
        self.values.reads.append(needed)
        try:
            ready = self.values.here.get(object_id)
            if ready is not None:
                return [self.value_of(ready, object_id)]
            if self.connection.closed:
                self.connection.raise_closed()
            return []
        finally:
            self.values.reads.remove(needed)

    def _wait_values(self, object_ids: Sequence[bytes], timeout_s: float | None) -> bool:
        values, here = self.values, self.values.here
        todo = list(reversed(object_ids))
        seen = -1

        def ready() -> bool:
            nonlocal seen
            while todo and todo[-1] in here:
                todo.pop()
            if not todo:
                return True
            if seen != values.errors_seen:
                seen = values.errors_seen
                return first_error(here, object_ids) is not None
            return False

        return self.block(ready, timeout_s, object_ids)

    def block(
        self,
        ready: Callable[[], bool],
        timeout_s: float | None,
        awaited: Sequence[bytes] | None = None,
    ) -> bool:
        """Wait; in a worker, the CPU is lent out meanwhile.

        Not at once, if all that is ``awaited`` is to come by lanes: it may take microseconds, and
        to tell the node would take longer.
        """
        if self.blocking is None or ready():
            return self.connection.wait_for(ready, timeout_s)
        if awaited is not None and self.lanes is not None and self.lanes.are_riding(awaited):
            first_s = BLOCKED_AFTER_S if timeout_s is None else min(BLOCKED_AFTER_S, timeout_s)
            if self.connection.wait_for(ready, first_s):
                return True
            timeout_s = None if timeout_s is None else timeout_s - first_s
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
        wait = Wait(self.values, object_ids, count, anywhere=anywhere)
        found = wait.positions()
        if len(found) >= count:
            return found
        with wait:
            self.want(wait.unheard_of())
            if timeout_s == 0:
                self._poll(object_ids)
            else:
                self.block(wait.is_over, timeout_s, object_ids)
            return wait.positions()

    def _poll(self, object_ids: Sequence[bytes]) -> None:
        """Read what is at hand, honestly: what the node has by now counts."""
        if self.values.wanted.isdisjoint(object_ids):
            self.connection.flush()
            self.connection.try_read()
        else:
            self.ask("ping", {})


_current: Runtime | None = None
forked = False  # whether this process is a fork of one that was connected, and has no own runtime


def escape(object_id: bytes) -> None:
    """A ref leaves this process, or its id does, by whatever way (ObjectRef)."""
    runtime = _current
    if runtime is not None and runtime.lanes is not None and object_id in runtime.lanes.book.local:
        with runtime.connection.lock:
            runtime.lanes.escape((object_id,))


def current() -> Runtime | None:
    """The runtime of this process, if it is connected."""
    return _current


def set_current(runtime: Runtime | None) -> None:
    """Connect (or disconnect) this process."""
    global _current, forked
    _current = runtime
    if runtime is not None:
        forked = False


def _after_fork_in_child() -> None:
    # The parent's connection is the parent's; a fork inside a task or a driver starts without one.
    global forked
    if _current is not None:
        _current.connection.close_in_child()
        set_current(None)
        forked = True


os.register_at_fork(after_in_child=_after_fork_in_child)
