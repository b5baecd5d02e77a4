"""Values of objects, and the clients and tasks that wait for them. Pure.

A value goes to the client that submitted its task, to clients that asked for it (``Want``), and to
tasks that wait for it. An owner that does not read is told later (``resume``). Bringing values from
other nodes is the business of pulls.py and finding.py.
"""

from __future__ import annotations

from typing import Protocol

from skate import messages as m
from skate.config import WRITE_BACKLOG_BYTES
from skate.ids import return_id
from skate.node.error_payload import error_payload
from skate.node.event_notes import EventNotes
from skate.node.hears import CLIENTS, NODE, hears
from skate.node.identity import Identity
from skate.node.outbox import Outbox
from skate.objects.object_store import INLINE, PENDING, REMOTE, SEALED, ObjectStore
from skate.objects.stored_object import StoredObject
from skate.rows import Client, Task

PUSH_BYTES = 64
"""About what a push takes beside the value: ids and numbers."""


class _Pulls(Protocol):
    def want(self, stored: StoredObject) -> None: ...


class _Finding(Protocol):
    def ask_home(self, stored: StoredObject) -> None: ...


class _Running(Protocol):
    def input_ready(self, task: Task, stored: StoredObject) -> None: ...

    def doom(self, task: Task, payload: bytes) -> None: ...


class Values:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        me: Identity,
        store: ObjectStore,
        notes: EventNotes,
        pulls: _Pulls,
        finding: _Finding,
        running: _Running,
    ) -> None:
        self._outbox = outbox
        self._me = me
        self._store = store
        self._notes = notes
        self._pulls = pulls
        self._finding = finding
        self._running = running

    # ------------------------------------------------------------------ waiting

    def wait(self, task: Task, stored: StoredObject) -> None:
        """Have the task wait for a value (``Running.input_ready``), and have the value looked for.

        A value on another node is pulled; an unknown value of another home is asked of that home; a
        value that is being made here comes by itself.
        """
        if stored.waiters is None:
            stored.waiters = []
        stored.waiters.append(task)
        if stored.state is REMOTE:
            self._pulls.want(stored)
        elif stored.is_foreign:
            self._finding.ask_home(stored)

    @hears(m.Want, *CLIENTS, NODE)
    def on_want(self, client: Client, message: m.Want) -> None:
        """Steps 1 and 2 of figure b: send a value, or remember the client that waits for it."""
        for object_id in message.object_ids:
            stored = self._store.objects.get(object_id)
            if stored is None:
                self._outbox.send(client, m.Ready(object_id, self.lost_payload(object_id)))
            elif stored.state is not PENDING and (stored.state is not REMOTE or client.node_id):
                self._push(client, stored, asked=True)
            else:
                if stored.subscribers is None:
                    stored.subscribers = []
                if client not in stored.subscribers:  # it may have let go and got the ref again
                    stored.subscribers.append(client)
                self._notes.object(object_id, "WANTED", 0, client.pid)
                if stored.state is REMOTE:
                    self._pulls.want(stored)
                elif stored.is_foreign:
                    self._finding.ask_home(stored)

    @hears(m.Unreachable, NODE)
    def on_unreachable(self, client: Client, message: m.Unreachable) -> None:
        """Another node cannot fetch an object of this home: be its source."""
        stored = self._store.objects.get(message.object_id)
        if stored is None:
            self._outbox.send(
                client, m.Ready(message.object_id, self.lost_payload(message.object_id))
            )
        elif stored.state is REMOTE:
            if stored.subscribers is None:
                stored.subscribers = []
            stored.subscribers.append(client)
            self._pulls.want(stored)
        else:
            self._push(client, stored)

    # ------------------------------------------------------------------ what has come

    def store_result(self, object_id: bytes, value: m.Value, contains: list[bytes] | None) -> bool:
        """A promised value is here (step 3 of figure b): keep it if wanted, tell its waiters.

        Returns whether the submitter was told.
        """
        stored = self._store.objects.get(object_id)
        if value.size:
            creation = self._store.creations.get(object_id)
            if creation is None or creation.offset != value.offset:
                raise ValueError(f"a result in an extent that was never given: {object_id.hex()}")
            if stored is None or self._has_value(stored):
                self._store.abandon(creation)
                return False
            self._store.seal(stored, contains)
            self._outbox.to_gcs(m.ObjectsChanged([(object_id, stored.size)], []))
        elif stored is None or self._has_value(stored):
            return False
        else:
            self._store.fulfil_inline(stored, value.data, contains)
        return self.announce(stored)

    def _has_value(self, stored: StoredObject) -> bool:
        # Home that had given this node up: the value was an error before, or made elsewhere.
        return stored.state is INLINE or stored.state is SEALED

    def store_remote(
        self, object_id: bytes, size: int, node_id: bytes, contains: list[bytes] | None
    ) -> bool:
        """A promised value is in another node's arena; False if nothing wants it any more."""
        stored = self._store.objects.get(object_id)
        if stored is None or stored.state is not PENDING:
            return False
        self._store.set_remote(stored, size, [node_id], contains)
        self.announce(stored)
        return True

    def copy_arrived(self, stored: StoredObject) -> None:
        """A copy of a value from elsewhere is in this node's arena now."""
        self._store.seal_copy(stored)
        self._outbox.to_gcs(m.ObjectsChanged([(stored.id, stored.size)], []))
        self.announce(stored)

    def announce(self, stored: StoredObject) -> bool:
        """Tell all that wait for an object that it exists; returns whether its owner was told."""
        owner = stored.owner
        told = owner is not None and owner.alive and not owner.node_id and stored.id in owner.held
        if stored.id in self._store.copies:  # the owner knows of the value, and may ask its place
            told = False
        if told:
            self._push(owner, stored)
            if owner.is_remote and stored.size:
                told = False  # told of its existence only; if it has asked, it is pushed below
        if stored.state is REMOTE:
            self._announce_remote(stored)
            return told
        if stored.subscribers:
            for client in stored.subscribers:
                if client.alive and not (told and client is owner):
                    self._push(client, stored, asked=True)
                    self._notes.object(stored.id, "DELIVERED", stored.size, client.pid)
            stored.subscribers = None
        if stored.waiters:
            waiters, stored.waiters = stored.waiters, None
            for task in waiters:
                self._running.input_ready(task, stored)
        return told

    def _announce_remote(self, stored: StoredObject) -> None:
        # A value elsewhere is enough for other nodes, and for tasks to be placed.
        subscribers, stored.subscribers = stored.subscribers or (), None
        waiters, stored.waiters = stored.waiters or (), None
        for client in subscribers:
            if client.alive and client.node_id:
                self._push(client, stored)
        stored.subscribers = [p for p in subscribers if p.alive and not p.node_id] or None
        stored.waiters = [task for task in waiters if task.is_here] or None
        for task in waiters:
            if not task.is_here:
                self._running.input_ready(task, stored)
        if stored.subscribers or stored.waiters:
            self._pulls.want(stored)

    def tell_trouble(self, stored: StoredObject, payload: bytes) -> None:
        """This node cannot have the value now, though it is intact elsewhere: tell its waiters."""
        subscribers, stored.subscribers = stored.subscribers or (), None
        waiters, stored.waiters = stored.waiters or (), None
        for client in subscribers:
            self._outbox.send(client, m.Ready(stored.id, payload, m.TROUBLE))
        for task in waiters:
            self._running.doom(task, payload)

    # ------------------------------------------------------------------ pushing

    def _push(self, client: Client, stored: StoredObject, *, asked: bool = False) -> None:
        if client.is_remote and stored.state is SEALED:
            self._push_far(client, stored, asked)
            return
        if client.paused:
            client.deferred.append(stored.id)
            return
        if not client.outbox:
            self._outbox.clients.append(client)
        if not client.node_id:
            offset = m.ELSEWHERE if stored.state is REMOTE else stored.offset
            if stored.state is SEALED:
                self._store.copies.told(stored.id, client)
            ready = m.Ready(stored.id, stored.data, offset, stored.size)
            if stored.contains and client.speaks_lanes:
                ready.contains = True
            client.outbox.append(ready)
        elif stored.state is INLINE:
            client.outbox.append(m.Ready(stored.id, stored.data))
        else:
            stored.is_shared = True
            client.outbox.append(m.Located(stored.id, stored.size, self.locations(stored)))

    def _push_far(self, client: Client, stored: StoredObject, asked: bool) -> None:
        # Driver without shared memory: the shell sends the bytes in pieces, as fast as the driver
        # reads, and then lets go of the pin.
        if asked:
            self._store.pin(stored.id)
            client.pins[stored.id] = client.pins.get(stored.id, 0) + 1
            self._outbox.send(client, m.Ready(stored.id, b"", stored.offset, stored.size))
        else:
            self._outbox.send(client, m.Ready(stored.id, b"", m.ELSEWHERE, stored.size))

    def resume(self, client: Client) -> None:
        """The client reads again: push the values held back, as far as they are still wanted.

        At most a turn's worth: only writing shows whether the client takes it. The caller calls
        again in its next turn, if values are left and the client still reads.
        """
        client.paused = False
        left = WRITE_BACKLOG_BYTES
        while client.deferred and left > 0:
            stored = self._store.objects.get(client.deferred.popleft())
            if stored is None:
                continue
            if stored.state is PENDING:  # the copy here made room, and the others are lost
                self.on_want(client, m.Want([stored.id]))
                continue
            self._push(client, stored)
            left -= PUSH_BYTES + len(stored.data)

    # ------------------------------------------------------------------ views

    def locations(self, stored: StoredObject) -> list[bytes]:
        """The nodes that have an object in their arena, as far as known here; this one first."""
        here = [self._me.node_id] if stored.state is SEALED else []
        return here + list(stored.nodes or ())

    def values_of(self, object_ids: list[bytes]) -> list[m.Value]:
        """The values (or arena spans) of objects that are all here."""
        values = []
        for object_id in object_ids:
            stored = self._store.objects[object_id]
            if stored.state is INLINE:
                values.append(m.Value(stored.data))
            else:
                values.append(m.Value(b"", stored.offset, stored.size))
        return values

    def abandon_results(self, task: Task) -> None:
        """An attempt failed after it had taken space for (some of) its results."""
        for index in range(task.template.spec.num_returns):
            creation = self._store.creations.get(return_id(task.id, index))
            if creation is not None:
                self._store.abandon(creation)

    def may_have_run(self, tasks: list[Task]) -> None:
        """A node with tasks and calls under way is lost. They may have returned there, and other
        nodes may have copies, of which the GCS has heard and this home has not."""
        for task in tasks:
            for index in range(task.template.spec.num_returns):
                stored = self._store.objects.get(return_id(task.id, index))
                if stored is not None:
                    stored.is_shared = True

    def lost_payload(self, object_id: bytes) -> bytes:
        """The error value of an object that no node knows."""
        return error_payload(
            "ObjectLostError",
            f"Object {object_id.hex()} is not known to this cluster: its last reference is gone, "
            "or the ref came from another session.",
            object_ref_hex=object_id.hex(),
        )
