"""What clients say about objects, and who is told when one is there. Pure.

Part of the node core: puts, extents, holds, pins and wants of its clients go to the object store
(objects/object_store.py), and values go to whoever submitted their task, asked for them, or waits
with a task for them. An owner that does not read is told later (``resume``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from skate import messages as m
from skate.config import WRITE_BACKLOG_BYTES
from skate.ids import return_id
from skate.node.error_payload import error_payload
from skate.objects.object_store import INLINE, PENDING, REMOTE, SEALED, Creation, StoredObject
from skate.rows import Client, OtherNode, Task
from skate.states import TASK_MOVES, TASK_WAITING, advance

if TYPE_CHECKING:
    from skate.node.node_core import NodeCore

PUSH_BYTES = 64
"""About what a push takes beside the value: ids and numbers."""


class ObjectDesk:
    """See the module's docstring."""

    def __init__(self, core: NodeCore) -> None:
        self._core = core
        self._store = core.store
        self._store.holders = self.holders
        # What nodes hold whose line has ended, though they live: until they say what they hold.
        self.parked: dict[bytes, set[bytes]] = {}

    def on_put(self, peer: Client, message: m.Put) -> None:
        """A small value from its creator, who holds it."""
        stored = self._store.promise(message.object_id, peer)
        peer.held.add(message.object_id)
        self._store.fulfil_inline(stored, message.data, message.contains)
        self._core.notes.object(message.object_id, "PUT", len(message.data), peer.pid)

    def on_create_extent(self, peer: Client, message: m.CreateExtent) -> None:
        """Space in the arena, now or when there is some."""
        if message.size <= 0:
            raise ValueError(f"an extent of {message.size} bytes")
        creation = self._store.create(peer, message.object_id, message.size, self._core.now)
        if creation.offset is not None:
            self._core.send(peer, m.Extent(message.object_id, creation.offset))
        elif message.size > self._store.arena.capacity_bytes:
            self.refuse(creation)

    def space_given(self, creation: Creation) -> None:
        """There is space now for who has waited."""
        if creation.creator is self._core.pulls.creator:
            self._core.pulls.space_given(creation)
        else:
            self._core.send(creation.creator, m.Extent(creation.object_id, creation.offset or 0))

    def refuse(self, creation: Creation) -> None:
        """There is no space for it, and there will be none soon."""
        self._store.abandon(creation)
        if creation.creator is self._core.pulls.creator:
            payload = self._full_store_payload(creation.size)
            self._core.pulls.refused(creation.object_id, payload)
            return
        self._core.send(
            creation.creator,
            m.Extent(creation.object_id, 0, self._full_store_payload(creation.size)),
        )

    def _full_store_payload(self, size: int) -> bytes:
        arena = self._store.arena
        larger = (
            "skate start --object-store-memory"
            if self._core.is_cluster
            else "init(object_store_memory=...)"
        )
        lines = [
            f"The object store is full: {size:,} bytes are needed in one piece, "
            f"{arena.used_bytes:,} of {arena.capacity_bytes:,} are in use and "
            f"the largest free piece has {arena.largest_hole_bytes:,}. "
            "The largest objects and who holds them:"
        ]
        for stored in self._store.largest(5):
            lines.append(
                f"    {stored.id.hex()}  {stored.size / 1e6:.1f} MB  {self._holders(stored)}"
            )
        lines.append(
            f"Drop references that are no longer needed (del), or have a larger store ({larger})."
        )
        return error_payload(
            "ObjectStoreFullError",
            "\n".join(lines),
            needed_bytes=size,
            used_bytes=arena.used_bytes,
            capacity_bytes=arena.capacity_bytes,
        )

    def _holders(self, stored: StoredObject) -> str:
        names = []
        for peer in self._core.peers:
            if stored.id in peer.held:
                names.append(f"a reference in {peer.role} {peer.pid}")
            if stored.id in peer.pins:
                names.append(f"mapped by {peer.role} {peer.pid}")
        others = stored.holds - sum(stored.id in peer.held for peer in self._core.peers)
        if others > 0:
            names.append(f"{others} task argument(s) or containing object(s)")
        return "; ".join(names) or "nobody (about to be freed)"

    def on_seal(self, peer: Client, message: m.Seal) -> None:
        """A put's bytes are in the arena; its creator holds it."""
        stored = self._store.promise(message.object_id, peer)
        peer.held.add(message.object_id)
        self._store.seal(stored, message.contains)
        self._core.notes.object(message.object_id, "SEALED", stored.size, peer.pid)
        self._core.gcs.append(m.ObjectsChanged([(stored.id, stored.size)], []))

    def on_hold(self, peer: Client, message: m.Hold) -> None:
        """A process has come to know these refs. Its giver still holds them (DESIGN 6).

        The first Hold on a line between nodes that is not their first names all that is held.
        """
        if peer.node_id in self.parked and not peer.holds_heard:
            parked = self.parked.pop(peer.node_id)
            named = {*message.object_ids, *message.kept}
            peer.held |= parked & named
            self._release_parked(parked - named)
        for object_id in message.object_ids:
            if object_id not in peer.held and self._store.hold(object_id):
                peer.held.add(object_id)
        if peer.node_id:
            peer.holds_heard += 1
            self._core.send(peer, m.Registered(peer.holds_heard))

    def on_release(self, peer: Client, message: m.Release) -> None:
        """A process has lost its last ref to these."""
        held = peer.held
        if peer.node_id:
            gone = [object_id for object_id in message.object_ids if object_id in held]
            held.difference_update(gone)
            self._release_for_home(gone)
            return
        release = self._store.release
        for object_id in message.object_ids:
            if object_id in held:
                held.remove(object_id)
                release(object_id)

    def _release_for_home(self, object_ids: Iterable[bytes]) -> None:
        # What was made here for another home is released by that home when nobody holds it any
        # more, anywhere: of a copy nobody would be told then.
        for object_id in object_ids:
            self._store.forget(object_id)
            self._store.release(object_id, borrowed=True)

    def holder_lost(self, peer: Client) -> None:
        """A client is gone, and all that it held. What it writes to or has mapped stays until it is
        reaped, if it is a worker."""
        self._store.stop_waiting(peer)
        if peer.worker is None or self._core.workers.is_reaped(peer.worker):
            self.memory_lost(peer)
        if peer.node_id:
            self._park(peer)
            self._release_for_home(sorted(peer.held))
        else:
            for object_id in sorted(peer.held):  # a set's order differs between processes
                self._store.release(object_id)
        peer.held.clear()

    def _park(self, peer: Client) -> None:
        # A node that lives holds what it held, though its line has ended: it will make another.
        if peer.node_id not in self._core.neighbours.by_id:
            return
        objects = self._store.objects
        made = {i for i in peer.held if i in objects and objects[i].state is not PENDING}
        left = {i for i in peer.held if not self._store.is_foreign(i)} | made
        peer.held -= left
        parked = self.parked.setdefault(peer.node_id, set())
        self._release_parked(left & parked)  # one hold is enough
        parked |= left

    def _release_parked(self, object_ids: set[bytes]) -> None:
        self._release_for_home(sorted(i for i in object_ids if self._store.is_foreign(i)))
        for object_id in sorted(object_ids):
            if not self._store.is_foreign(object_id):
                self._store.release(object_id)

    def node_died(self, node_id: bytes) -> None:
        """The GCS has given a node up: it holds nothing any more."""
        self._release_parked(self.parked.pop(node_id, set()))

    def memory_lost(self, peer: Client) -> None:
        """A client can neither read nor write the arena any more."""
        self._store.abandon_all_of(peer)
        self._store.copies.peer_lost(peer)
        for object_id, count in peer.pins.items():
            for _ in range(count):
                self._store.unpin(object_id)
        peer.pins.clear()

    def on_pin(self, peer: Client, message: m.Pin) -> None:
        """A process has mapped these spans."""
        for object_id in message.object_ids:
            if object_id in self._store.objects:
                self._store.pin(object_id)
                peer.pins[object_id] = peer.pins.get(object_id, 0) + 1

    def on_unpin(self, peer: Client, message: m.Unpin) -> None:
        """The last view into these is gone."""
        for object_id in message.object_ids:
            count = peer.pins.get(object_id, 0)
            if not count:
                continue
            if count == 1:
                del peer.pins[object_id]
            else:
                peer.pins[object_id] = count - 1
            self._store.unpin(object_id)

    def holders(self, object_id: bytes) -> int:
        """How many clients hold it."""
        held = sum(object_id in peer.held for peer in self._core.peers)
        return held + sum(object_id in parked for parked in self.parked.values())

    def revoke(self) -> None:
        """Space is wanted: ask clients to forget where copies lie that they have not mapped."""
        number, asked = self._store.copies.take_questions()
        for peer, object_ids in asked.items():
            self._core.send(peer, m.Revoke(number, object_ids))

    def on_revoked(self, peer: Client, message: m.Revoked) -> None:
        """A client has forgotten where these lie."""
        for object_id in message.object_ids:
            self._store.copies.forgotten(object_id, peer, message.number)

    def on_want(self, peer: Client, message: m.Want) -> None:
        """Steps 1 and 2 of figure b: send it, or remember who waits for it."""
        for object_id in message.object_ids:
            stored = self._store.objects.get(object_id)
            if stored is None:
                self._core.send(peer, m.Ready(object_id, self.lost_payload(object_id)))
            elif stored.state is not PENDING and (stored.state is not REMOTE or peer.node_id):
                self._push(peer, stored, asked=True)
            else:
                if stored.subscribers is None:
                    stored.subscribers = []
                if peer not in stored.subscribers:  # it may have let go of it, and got it again
                    stored.subscribers.append(peer)
                self._core.notes.object(object_id, "WANTED", 0, peer.pid)
                if stored.state is REMOTE:
                    self._core.pulls.want(stored)
                elif stored.is_foreign:
                    self._core.borrowing.ask_home(stored)

    def on_unreachable(self, peer: Client, message: m.Unreachable) -> None:
        """Another node cannot fetch an object of this home: be its source."""
        stored = self._store.objects.get(message.object_id)
        if stored is None:
            self._core.send(peer, m.Ready(message.object_id, self.lost_payload(message.object_id)))
        elif stored.state is REMOTE:
            if stored.subscribers is None:
                stored.subscribers = []
            stored.subscribers.append(peer)
            self._core.pulls.want(stored)
        else:
            self._push(peer, stored)

    def store_result(self, object_id: bytes, value: m.Value, contains: list[bytes] | None) -> bool:
        """A promised value is here (step 3 of figure b): keep it if wanted, tell who waits.

        Whether the submitter was told.
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
            self._core.gcs.append(m.ObjectsChanged([(object_id, stored.size)], []))
        elif stored is None or self._has_value(stored):
            return False
        else:
            self._store.fulfil_inline(stored, value.data, contains)
        return self.announce(stored)

    def _has_value(self, stored: StoredObject) -> bool:
        # For a home that had lost sight of this node, it has been an error, or made elsewhere.
        return stored.state is INLINE or stored.state is SEALED

    def store_remote(
        self, object_id: bytes, size: int, node_id: bytes, contains: list[bytes] | None
    ) -> bool:
        """A promised value is in another node's arena; False if nobody wants it any more."""
        stored = self._store.objects.get(object_id)
        if stored is None or stored.state is not PENDING:
            return False
        self._store.set_remote(stored, size, [node_id], contains)
        self.announce(stored)
        return True

    def copy_arrived(self, stored: StoredObject) -> None:
        """A copy of a value from elsewhere is in this node's arena now."""
        self._store.seal_copy(stored)
        self._core.gcs.append(m.ObjectsChanged([(stored.id, stored.size)], []))
        self.announce(stored)

    def announce(self, stored: StoredObject) -> bool:
        """Tell everyone who waits for an object that it is there; whether its owner was told."""
        owner = stored.owner
        told = owner is not None and owner.alive and not owner.node_id and stored.id in owner.held
        if stored.id in self._store.copies:  # that there is a value it knows; the place, if it asks
            told = False
        if told:
            self._push(owner, stored)
            if owner.is_remote and stored.size:
                told = False  # only that it is there: whether it has asked, is seen below
        if stored.state is REMOTE:
            self._announce_remote(stored)
            return told
        if stored.subscribers:
            for peer in stored.subscribers:
                if peer.alive and not (told and peer is owner):
                    self._push(peer, stored, asked=True)
                    self._core.notes.object(stored.id, "DELIVERED", stored.size, peer.pid)
            stored.subscribers = None
        if stored.waiters:
            waiters, stored.waiters = stored.waiters, None
            for task in waiters:
                self._core.input_ready(task, stored)
        return told

    def _announce_remote(self, stored: StoredObject) -> None:
        # It exists, and not here: for other nodes and for tasks to be placed that is enough.
        subscribers, stored.subscribers = stored.subscribers or (), None
        waiters, stored.waiters = stored.waiters or (), None
        for peer in subscribers:
            if peer.alive and peer.node_id:
                self._push(peer, stored)
        stored.subscribers = [p for p in subscribers if p.alive and not p.node_id] or None
        stored.waiters = [task for task in waiters if task.is_here] or None
        for task in waiters:
            if not task.is_here:
                self._core.input_ready(task, stored)
        if stored.subscribers or stored.waiters:
            self._core.pulls.want(stored)

    def _push(self, peer: Client, stored: StoredObject, *, asked: bool = False) -> None:
        if peer.is_remote and stored.state is SEALED:
            self._push_far(peer, stored, asked)
            return
        if peer.paused:
            peer.deferred.append(stored.id)
            return
        if not peer.outbox:
            self._core.dirty.append(peer)
        if not peer.node_id:
            offset = m.ELSEWHERE if stored.state is REMOTE else stored.offset
            if stored.state is SEALED:
                self._store.copies.told(stored.id, peer)
            peer.outbox.append(m.Ready(stored.id, stored.data, offset, stored.size))
        elif stored.state is INLINE:
            peer.outbox.append(m.Ready(stored.id, stored.data))
        else:
            stored.is_shared = True
            peer.outbox.append(m.Located(stored.id, stored.size, self.locations(stored)))

    def _push_far(self, peer: Client, stored: StoredObject, asked: bool) -> None:
        # A driver without shared memory. The shell sends the bytes in pieces, as fast as they are
        # read, and then lets go of the pin.
        if asked:
            self._store.pin(stored.id)
            peer.pins[stored.id] = peer.pins.get(stored.id, 0) + 1
            self._core.send(peer, m.Ready(stored.id, b"", stored.offset, stored.size))
        else:
            self._core.send(peer, m.Ready(stored.id, b"", m.ELSEWHERE, stored.size))

    def locations(self, stored: StoredObject) -> list[bytes]:
        """The nodes that have it in their arena, as far as is known here; this one first."""
        here = [self._core.node_id] if stored.state is SEALED else []
        return here + list(stored.nodes or ())

    def place_when_ready(self, task: Task) -> None:
        """A task whose node is lost: place it again, as soon as its inputs exist."""
        failed: bytes | None = None
        missing = 0
        for object_id in task.dependencies or ():
            stored = self._store.objects[object_id]
            if stored.is_error:
                failed = stored.data
            elif stored.state is PENDING:
                missing += 1
                if stored.waiters is None:
                    stored.waiters = []
                stored.waiters.append(task)
                if stored.is_foreign:  # its copies were lost with the node: its home knows more
                    self._core.borrowing.ask_home(stored)
        if missing or failed is not None:
            task.is_here = False
            task.missing = missing
            task.state = advance(TASK_MOVES, task.state, TASK_WAITING)
        if failed is not None:
            self._core.doomed.append((task, failed))
        elif not missing:
            self._core.forwarder.place(task)

    def may_have_run(self, tasks: list[Task]) -> None:
        """Tasks and calls that were under way at a node that is lost. Others may have copies of
        what they returned there, of which this home was not told: if so, the GCS was."""
        for task in tasks:
            for index in range(task.template.spec.num_returns):
                stored = self._store.objects.get(return_id(task.id, index))
                if stored is not None:
                    stored.is_shared = True

    def copies_lost(self, host: OtherNode) -> None:
        """A node is gone, and what lay in its arena with it; or it cannot be reached: what it keeps
        for this home will be there when it can."""
        kept = self._core.forwarder.kept_elsewhere
        cut_off = [host.node_id] if host.is_alive else []
        for stored in list(self._store.objects.values()):
            if stored.nodes and host.node_id in stored.nodes and kept.get(stored.id) is not host:
                stored.nodes.remove(host.node_id)
                if stored.state is REMOTE and not stored.nodes:
                    self._core.pulls.nowhere(stored, cut_off)

    def resume(self, peer: Client) -> None:
        """The peer reads again: push what was held back, as far as it is still wanted.

        Not more than a turn's worth: whether the peer takes it is seen once it is written. Who
        calls this does so again in its next turn, if something is left and the peer still reads.
        """
        peer.paused = False
        left = WRITE_BACKLOG_BYTES
        while peer.deferred and left > 0:
            stored = self._store.objects.get(peer.deferred.popleft())
            if stored is None:
                continue
            if stored.state is PENDING:  # what was here made room, and where else it was is lost
                self.on_want(peer, m.Want([stored.id]))
                continue
            self._push(peer, stored)
            left -= PUSH_BYTES + len(stored.data)

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

    def lost_payload(self, object_id: bytes) -> bytes:
        """The value of an object that nobody knows."""
        return error_payload(
            "ObjectLostError",
            f"Object {object_id.hex()} is not known to this cluster: its last reference is gone, "
            "or the ref came from another session.",
            object_ref_hex=object_id.hex(),
        )
