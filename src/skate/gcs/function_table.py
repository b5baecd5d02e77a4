"""Exported code by the hash of its bytes, and the cluster's key-value store.

Nodes store a function once; the same bytes have the same id, so a second copy changes nothing.
Workers get functions from their nodes, and nodes from each other: this table is for people. It
keeps only the functions stored last, or a cluster that serves job after job would keep the code of
all. The key-value store has namespaces, like Ray's internal one.

Invariant: a function, once stored, never changes. Nothing here opens a function or a value.
"""

from __future__ import annotations

import msgspec

from skate.gcs.table import Table

FUNCTIONS_KEPT = 10_000
FUNCTION_BYTES_KEPT = 64 << 20
"""The table keeps no more functions, and no more bytes of functions, than these."""


class FunctionRow(msgspec.Struct, frozen=True):
    """A pickled function or class, and the name that its author gave it."""

    function_id: bytes
    name: str
    data: bytes


class FunctionTable:
    """Functions by id."""

    def __init__(self) -> None:
        self.functions: Table[bytes, FunctionRow] = Table()
        self._bytes = 0

    def store(self, function_id: bytes, name: str, data: bytes) -> bool:
        """Keep a function; False if it was here already."""
        if function_id in self.functions:
            return False
        self.functions.put(function_id, FunctionRow(function_id, name, data))
        self._bytes += len(data)
        while self._is_too_much():
            oldest = self.functions.remove(next(iter(self.functions)))
            assert oldest is not None
            self._bytes -= len(oldest.data)
        return True

    def _is_too_much(self) -> bool:
        count = len(self.functions)
        return count > FUNCTIONS_KEPT or (count > 1 and self._bytes > FUNCTION_BYTES_KEPT)

    def data(self, function_id: bytes) -> bytes | None:
        """The pickled function, or None."""
        row = self.functions.get(function_id)
        return None if row is None else row.data


class KeyValueStore:
    """Bytes by namespace and key; a namespace exists as long as it has a key."""

    def __init__(self) -> None:
        self._spaces: dict[str, dict[bytes, bytes]] = {}

    def __len__(self) -> int:
        return sum(len(space) for space in self._spaces.values())

    def put(self, namespace: str, key: bytes, value: bytes, overwrite: bool = True) -> bool:
        """Store a value; True if the key is new. Without `overwrite` an older value stays."""
        space = self._spaces.setdefault(namespace, {})
        new = key not in space
        if new or overwrite:
            space[key] = value
        return new

    def get(self, namespace: str, key: bytes) -> bytes | None:
        """The value, or None."""
        return self._spaces.get(namespace, {}).get(key)

    def delete(self, namespace: str, key: bytes, by_prefix: bool = False) -> int:
        """Take out the key, or all keys that begin with it; returns how many were taken out."""
        space = self._spaces.get(namespace, {})
        keys = self.keys(namespace, key) if by_prefix else [key] if key in space else []
        for one in keys:
            del space[one]
        if not space:
            self._spaces.pop(namespace, None)
        return len(keys)

    def keys(self, namespace: str, prefix: bytes = b"") -> list[bytes]:
        """The keys that begin with `prefix`, sorted."""
        return sorted(key for key in self._spaces.get(namespace, {}) if key.startswith(prefix))
