"""Keyed rows that remember when they changed: under every table of the GCS.

A watcher keeps the version that it has seen and asks `changes_since` it: no callbacks, no list of
watchers to leak, and a watcher that was away for long gets the whole table once.

Invariants, all asserted by `check()`:
  - versions grow by one with each change, and no two changes share one;
  - every row, and each of the newest `REMOVALS_KEPT` removed keys, has exactly one version;
  - at most `history` rows are retired; a row that is not retired is never dropped by the table.

It does not know what a row is, and a row that is changed in place must be `put` again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

import msgspec

K = TypeVar("K")
V = TypeVar("V")

REMOVALS_KEPT = 1_000
"""Removed keys that a watcher is told of; one that missed more than these reads the whole table."""


class Changes(msgspec.Struct, Generic[K, V]):
    """What happened to a table since a version.

    The watcher asks with `version` next time. If not `complete`, `rows` is the whole table, and
    all other rows of the watcher are gone; `removed` is then empty.
    """

    version: int
    rows: dict[K, V]
    removed: list[K]
    complete: bool


class Table(Generic[K, V]):
    """Rows by key. `history` bounds the retired ones (`retire`); None keeps them all."""

    def __init__(self, history: int | None = None) -> None:
        self.version = 0
        self._rows: dict[K, V] = {}
        self._history = history
        self._retired: dict[K, None] = {}  # the longest retired first
        self._changed: dict[K, int] = {}  # the version of each row, the oldest change first
        self._removed: dict[K, int] = {}  # likewise, of the newest removed keys
        self._forgotten = 0  # the newest version of a removal that is no longer remembered

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def __iter__(self) -> Iterator[K]:
        return iter(self._rows)

    def get(self, key: K) -> V | None:
        """The row, or None."""
        return self._rows.get(key)

    def rows(self) -> list[V]:
        """All rows, the first put first."""
        return list(self._rows.values())

    def newest(self, limit: int) -> list[V]:
        """The `limit` rows that came last, the oldest of them first."""
        rows = self.rows()
        return rows[max(0, len(rows) - limit) :]

    def put(self, key: K, row: V) -> None:
        """Add or replace a row, or record that it was changed in place. It is no longer retired."""
        self._rows[key] = row
        self._retired.pop(key, None)
        self._changed.pop(key, None)
        self._removed.pop(key, None)
        self.version += 1
        self._changed[key] = self.version

    def remove(self, key: K) -> V | None:
        """Take a row out and return it; None, and no change, if there is none."""
        if key not in self._rows:
            return None
        row = self._rows.pop(key)
        self._retired.pop(key, None)
        del self._changed[key]
        self.version += 1
        self._removed[key] = self.version
        if len(self._removed) > REMOVALS_KEPT:
            self._forgotten = self._removed.pop(next(iter(self._removed)))
        return row

    def retire(self, key: K) -> None:
        """The row is history from now on. It stays until `history` others were retired after it.

        KeyError if there is no such row.
        """
        if key not in self._rows:
            raise KeyError(key)
        self._retired[key] = None
        while self._history is not None and len(self._retired) > self._history:
            self.remove(next(iter(self._retired)))

    def changes_since(self, version: int) -> Changes[K, V]:
        """The changes that a watcher has to learn if it has seen `version`; 0 asks for all rows.

        The cost grows with the number of changes, not of rows.
        """
        if version < self._forgotten or version > self.version:
            return Changes(self.version, dict(self._rows), [], complete=False)
        keys = _newer(self._changed, version)
        rows = {key: self._rows[key] for key in keys}
        return Changes(self.version, rows, _newer(self._removed, version), complete=True)

    def check(self) -> None:
        """Assert the invariants above."""
        assert self._changed.keys() == self._rows.keys()
        assert not self._removed.keys() & self._rows.keys()
        assert self._retired.keys() <= self._rows.keys()
        assert self._history is None or len(self._retired) <= self._history
        assert len(self._removed) <= REMOVALS_KEPT
        for versions in (list(self._changed.values()), list(self._removed.values())):
            assert versions == sorted(set(versions))
        newest = [*self._changed.values(), *self._removed.values()]
        assert len(newest) == len(set(newest))
        assert max(newest, default=self._forgotten) == self.version


def _newer(versions: dict[K, int], than: int) -> list[K]:
    """The keys with a version above `than`, the oldest change first."""
    keys = []
    for key, version in reversed(versions.items()):
        if version <= than:
            break
        keys.append(key)
    keys.reverse()
    return keys
