"""Extents of the arena: written, mapped and let go of by clients. Pure.

Puts, extents, seals and pins of clients go to the object store (objects/object_store.py). A client
that waits for space is told when it has some, or that it will get none.
"""

from __future__ import annotations

from skate import messages as m
from skate.node.clock import Clock
from skate.node.error_payload import error_payload
from skate.node.event_notes import EventNotes
from skate.node.hears import CLIENTS, hears
from skate.node.identity import Identity
from skate.node.outbox import Outbox
from skate.node.pulls import Pulls
from skate.objects.object_store import ObjectStore
from skate.objects.stored_object import Creation, StoredObject
from skate.rows import Client


class Puts:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        clock: Clock,
        outbox: Outbox,
        me: Identity,
        store: ObjectStore,
        clients: dict[Client, None],
        notes: EventNotes,
        pulls: Pulls,
    ) -> None:
        self._clock = clock
        self._outbox = outbox
        self._me = me
        self._store = store
        self._clients = clients
        self._notes = notes
        self._pulls = pulls

    @hears(m.Put, *CLIENTS)
    def on_put(self, client: Client, message: m.Put) -> None:
        """A small value from its creator, which holds it."""
        stored = self._store.promise(message.object_id, client)
        client.held.add(message.object_id)
        self._store.fulfil_inline(stored, message.data, message.contains)
        self._notes.object(message.object_id, "PUT", len(message.data), client.pid)

    @hears(m.CreateExtent, *CLIENTS)
    def on_create_extent(self, client: Client, message: m.CreateExtent) -> None:
        """A client asks for space in the arena: it gets it now, or when some is free."""
        if message.size <= 0:
            raise ValueError(f"an extent of {message.size} bytes")
        creation = self._store.create(client, message.object_id, message.size, self._clock.now)
        if creation.offset is not None:
            self._outbox.send(client, m.Extent(message.object_id, creation.offset))
        elif message.size > self._store.arena.capacity_bytes:
            self.refuse(creation)

    def space_given(self, creation: Creation) -> None:
        """A creator that waited has got its space."""
        if creation.creator is self._pulls.creator:
            self._pulls.space_given(creation)
        else:
            self._outbox.send(creation.creator, m.Extent(creation.object_id, creation.offset or 0))

    def refuse(self, creation: Creation) -> None:
        """A creator gets no space, and none soon."""
        self._store.abandon(creation)
        if creation.creator is self._pulls.creator:
            payload = self._full_store_payload(creation.size)
            self._pulls.refused(creation.object_id, payload)
            return
        self._outbox.send(
            creation.creator,
            m.Extent(creation.object_id, 0, self._full_store_payload(creation.size)),
        )

    def _full_store_payload(self, size: int) -> bytes:
        arena = self._store.arena
        larger = (
            "skate start --object-store-memory"
            if self._me.is_cluster
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
        for client in self._clients:
            if stored.id in client.held:
                names.append(f"a reference in {client.role} {client.pid}")
            if stored.id in client.pins:
                names.append(f"mapped by {client.role} {client.pid}")
        others = stored.holds - sum(stored.id in client.held for client in self._clients)
        if others > 0:
            names.append(f"{others} task argument(s) or containing object(s)")
        return "; ".join(names) or "nobody (about to be freed)"

    @hears(m.Seal, *CLIENTS)
    def on_seal(self, client: Client, message: m.Seal) -> None:
        """A put's bytes are in the arena; its creator holds it."""
        stored = self._store.promise(message.object_id, client)
        client.held.add(message.object_id)
        self._store.seal(stored, message.contains)
        self._notes.object(message.object_id, "SEALED", stored.size, client.pid)
        self._outbox.to_gcs(m.ObjectsChanged([(stored.id, stored.size)], []))

    @hears(m.Pin, *CLIENTS)
    def on_pin(self, client: Client, message: m.Pin) -> None:
        """A process has mapped these spans."""
        for object_id in message.object_ids:
            if object_id in self._store.objects:
                self._store.pin(object_id)
                client.pins[object_id] = client.pins.get(object_id, 0) + 1

    @hears(m.Unpin, *CLIENTS)
    def on_unpin(self, client: Client, message: m.Unpin) -> None:
        """A process has dropped its last view into these."""
        for object_id in message.object_ids:
            count = client.pins.get(object_id, 0)
            if not count:
                continue
            if count == 1:
                del client.pins[object_id]
            else:
                client.pins[object_id] = count - 1
            self._store.unpin(object_id)

    def memory_lost(self, client: Client) -> None:
        """A client can neither read nor write the arena any more."""
        self._store.abandon_all_of(client)
        self._store.copies.peer_lost(client)
        for object_id, count in client.pins.items():
            for _ in range(count):
                self._store.unpin(object_id)
        client.pins.clear()

    def revoke(self) -> None:
        """Space is wanted: ask clients to forget the places of copies that they have not mapped."""
        number, asked = self._store.copies.take_questions()
        for client, object_ids in asked.items():
            self._outbox.send(client, m.Revoke(number, object_ids))

    @hears(m.Revoked, *CLIENTS)
    def on_revoked(self, client: Client, message: m.Revoked) -> None:
        """A client has forgotten the places of these."""
        for object_id in message.object_ids:
            self._store.copies.forgotten(object_id, client, message.number)
