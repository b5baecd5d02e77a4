"""The locations and size of each large object, and the questions that wait for a location.

`ObjectHandlers` enters what nodes seal and drop. A question for an object that is nowhere yet is
kept (figure b of the paper: the callback is registered in the object table) and handed out with the
first location. Small objects travel inline and never appear here.

Invariants, all asserted by `check()`: every row has a location; no question waits for an object
that has one; the index by node agrees with the rows.

It moves no bytes and counts no references.
"""

from __future__ import annotations

from typing import Any

import msgspec

from skate.gcs.table import Table

FREED_KEPT = 10_000
"""Freed objects that are remembered: another node may report a copy a moment later."""

Waiter = tuple[int, int]  # peer, and the number of its question


class ObjectRow(msgspec.Struct):
    """An object of `size` bytes and the nodes that hold a copy, the first to seal it first."""

    object_id: bytes
    size: int
    nodes: dict[bytes, None]


class ObjectTable:
    """Locations of sealed objects."""

    def __init__(self) -> None:
        self.objects: Table[bytes, ObjectRow] = Table()
        self.total_bytes = 0  # each object counted once, however many copies there are
        self.freed: dict[bytes, None] = {}  # the newest; a copy reported later is to be forgotten
        self._on_node: dict[bytes, dict[bytes, None]] = {}
        self._waiters: dict[bytes, list[Waiter]] = {}

    def add(self, node_id: bytes, object_id: bytes, size: int) -> list[Waiter]:
        """The node has a copy now; returns the questions that waited for one.

        ValueError for a negative size.
        """
        if size < 0:
            raise ValueError(f"an object of {size} bytes")
        row = self.objects.get(object_id)
        if row is None:
            row = ObjectRow(object_id, size, {})
            self.total_bytes += size
        row.nodes[node_id] = None
        self.objects.put(object_id, row)
        self._on_node.setdefault(node_id, {})[object_id] = None
        return self._waiters.pop(object_id, [])

    def drop(self, node_id: bytes, object_id: bytes) -> None:
        """The node has no copy any more. Nothing changes if it had none."""
        row = self.objects.get(object_id)
        if row is None or node_id not in row.nodes:
            return
        del row.nodes[node_id]
        held = self._on_node[node_id]
        del held[object_id]
        if not held:
            del self._on_node[node_id]
        if row.nodes:
            self.objects.put(object_id, row)
        else:
            self.objects.remove(object_id)
            self.total_bytes -= row.size

    def free(self, object_id: bytes) -> list[bytes]:
        """The object is freed: no ref to it is left. Returns the nodes that had a copy."""
        self.freed[object_id] = None
        if len(self.freed) > FREED_KEPT:
            del self.freed[next(iter(self.freed))]
        row = self.objects.get(object_id)
        nodes = [] if row is None else list(row.nodes)
        for node_id in nodes:
            self.drop(node_id, object_id)
        return nodes

    def drop_node(self, node_id: bytes) -> None:
        """All copies on the node are gone."""
        for object_id in list(self._on_node.get(node_id, ())):
            self.drop(node_id, object_id)

    def wait(self, object_id: bytes, waiter: Waiter) -> ObjectRow | None:
        """The row; or None, and the next `add` of the object returns this waiter."""
        row = self.objects.get(object_id)
        if row is None:
            self._waiters.setdefault(object_id, []).append(waiter)
        return row

    def forget_peer(self, peer: int) -> None:
        """The peer is gone, and its questions with it."""
        for object_id, waiters in list(self._waiters.items()):
            left = [waiter for waiter in waiters if waiter[0] != peer]
            if left:
                self._waiters[object_id] = left
            else:
                del self._waiters[object_id]

    def check(self) -> None:
        """Assert the invariants above."""
        self.objects.check()
        rows = self.objects.rows()
        assert all(row.nodes for row in rows)
        assert self.total_bytes == sum(row.size for row in rows)
        assert all(self._waiters.values())
        assert not any(object_id in self.objects for object_id in self._waiters)
        pairs = {(node_id, row.object_id) for row in rows for node_id in row.nodes}
        assert pairs == {(node, one) for node, held in self._on_node.items() for one in held}
        assert all(self._on_node.values())


def view_object(row: ObjectRow) -> dict[str, Any]:
    """An object as plain data, ids in hex, size in bytes."""
    return {
        "object_id": row.object_id.hex(),
        "size": row.size,
        "node_ids": [node_id.hex() for node_id in row.nodes],
    }
