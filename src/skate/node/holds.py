"""The holders of this node's objects: processes here, and other nodes. Pure.

A client tells of its first ref to an object (``Hold``) and of the end of its last (``Release``). A
live node whose line has ended keeps its holds: they are *parked* until its next line tells which
objects it holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from skate import messages as m
from skate.node.hears import CLIENTS, GCS, NODE, hears
from skate.node.node_table import NodeTable
from skate.node.outbox import Outbox
from skate.node.puts import Puts
from skate.objects.object_store import PENDING, ObjectStore
from skate.rows import Client, Worker


class _Workers(Protocol):
    def is_reaped(self, worker: Worker) -> bool: ...


class Holds:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        store: ObjectStore,
        nodes: NodeTable,
        clients: dict[Client, None],
        puts: Puts,
        workers: _Workers,
    ) -> None:
        self._outbox = outbox
        self._store = store
        self._nodes = nodes
        self._clients = clients
        self._puts = puts
        self._workers = workers
        # Holds of live nodes whose line has ended, until their next line tells which remain.
        self.parked: dict[bytes, set[bytes]] = {}

    @hears(m.Hold, *CLIENTS, NODE)
    def on_hold(self, client: Client, message: m.Hold) -> None:
        """A process has come to know these refs; their giver still holds them.

        The first Hold on a line between nodes that is not their first names all that is held.
        """
        if client.node_id in self.parked and not client.holds_heard:
            parked = self.parked.pop(client.node_id)
            named = {*message.object_ids, *message.kept}
            client.held |= parked & named
            self._release_parked(parked - named)
        for object_id in message.object_ids:
            if object_id not in client.held and self._store.hold(object_id):
                client.held.add(object_id)
        if client.node_id:
            client.holds_heard += 1
            self._outbox.send(client, m.Registered(client.holds_heard))

    @hears(m.Release, *CLIENTS, NODE)
    def on_release(self, client: Client, message: m.Release) -> None:
        """A process has lost its last ref to these."""
        held = client.held
        if client.node_id:
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
        # Results made here for another home: that home releases them when nothing holds them
        # anywhere, and then no message would free a copy.
        for object_id in object_ids:
            self._store.forget(object_id)
            self._store.release(object_id, borrowed=True)

    def holder_lost(self, client: Client) -> None:
        """A client is gone, and its holds with it. A worker's extents, written or mapped, stay
        until it is reaped."""
        self._store.stop_waiting(client)
        if client.worker is None or self._workers.is_reaped(client.worker):
            self._puts.memory_lost(client)
        if client.node_id:
            self._park(client)
            self._release_for_home(sorted(client.held))
        else:
            for object_id in sorted(client.held):  # a set's order differs between processes
                self._store.release(object_id)
        client.held.clear()

    def _park(self, client: Client) -> None:
        # A live node keeps its holds, though its line has ended: it will make another line.
        if client.node_id not in self._nodes.by_id:
            return
        objects = self._store.objects
        made = {i for i in client.held if i in objects and objects[i].state is not PENDING}
        left = {i for i in client.held if not self._store.is_foreign(i)} | made
        client.held -= left
        parked = self.parked.setdefault(client.node_id, set())
        self._release_parked(left & parked)  # one hold is enough
        parked |= left

    def _release_parked(self, object_ids: set[bytes]) -> None:
        self._release_for_home(sorted(i for i in object_ids if self._store.is_foreign(i)))
        for object_id in sorted(object_ids):
            if not self._store.is_foreign(object_id):
                self._store.release(object_id)

    def node_died(self, node_id: bytes) -> None:
        """The GCS has given a node up: its holds are gone."""
        self._release_parked(self.parked.pop(node_id, set()))

    def holders(self, object_id: bytes) -> int:
        """The number of clients that hold an object."""
        held = sum(object_id in client.held for client in self._clients)
        return held + sum(object_id in parked for parked in self.parked.values())

    @hears(m.Forget, GCS)
    def on_forget(self, message: m.Forget) -> None:
        """The GCS tells that nothing holds these objects any more."""
        for object_id in message.object_ids:
            self._store.forget(object_id)
