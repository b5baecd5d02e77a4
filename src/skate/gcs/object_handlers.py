"""Large objects, as nodes report them: locations of copies, questions, and copies to forget."""

from __future__ import annotations

from typing import Any

from skate.gcs import questions
from skate.gcs.hears import LATER, Asker, Body, answers, hears
from skate.gcs.membership import LostNode, Membership, NodeRow
from skate.gcs.object_table import ObjectRow, ObjectTable, view_object
from skate.gcs.outbox import Outbox
from skate.messages import Answer, Forget, ObjectsChanged


class ObjectHandlers:
    """See the module's docstring."""

    def __init__(self, objects: ObjectTable, membership: Membership, outbox: Outbox) -> None:
        self._objects = objects
        self._membership = membership
        self._outbox = outbox

    @hears(ObjectsChanged)
    def on_objects_changed(self, node: NodeRow, message: ObjectsChanged, _now: float) -> None:
        """The node has sealed objects, dropped copies, or freed objects whose home it is."""
        late = [object_id for object_id, _ in message.added if object_id in self._objects.freed]
        if late:
            self._outbox.send(node.peer, Forget(late))
        for object_id, size in message.added:
            if object_id in self._objects.freed:
                continue
            for peer, number in self._objects.add(node.node_id, object_id, size):
                self._outbox.send(peer, Answer(number, {"size": size, "nodes": [node.node_id]}))
        for object_id in message.dropped:
            self._objects.drop(node.node_id, object_id)
        copies: dict[bytes, list[bytes]] = {}
        for object_id in message.freed:
            for holder in self._objects.free(object_id):
                if holder != node.node_id:
                    copies.setdefault(holder, []).append(object_id)
        for holder, ids in copies.items():
            self._outbox.send(self._membership.row(holder).peer, Forget(ids))

    @answers(questions.Locate)
    def locate(self, asker: Asker, ask: questions.Locate, _now: float) -> Body:
        """The locations of an object, at once or once it has one."""
        if ask.wait:
            row = self._objects.wait(ask.object_id, asker)
            return LATER if row is None else _where(row)
        row = self._objects.objects.get(ask.object_id)
        return None if row is None else _where(row)

    @answers(questions.ObjectRows)
    def list_objects(self, _asker: Asker, ask: questions.ObjectRows, _now: float) -> Body:
        """The objects that are sealed anywhere, for people."""
        return [view_object(row) for row in self._objects.objects.newest(ask.limit)]

    def peer_lost(self, peer: int) -> None:
        """The peer is gone, and waits for no object any more."""
        self._objects.forget_peer(peer)

    def node_lost(self, lost: LostNode) -> None:
        """The copies on the node are gone."""
        self._objects.drop_node(lost.node.node_id)

    def counts(self) -> dict[str, Any]:
        """How many objects there are, and their bytes."""
        return {"objects": len(self._objects.objects), "object_bytes": self._objects.total_bytes}

    def check(self) -> None:
        """Assert the invariants of the table, and that copies are on living nodes only."""
        self._objects.check()
        living = {row.node_id for row in self._membership.alive()}
        assert all(row.nodes.keys() <= living for row in self._objects.objects.rows())


def _where(row: ObjectRow) -> dict[str, Any]:
    return {"size": row.size, "nodes": list(row.nodes)}
