"""Questions of observers: the changes of a table since a version, and a summary of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from skate.gcs import questions
from skate.gcs.hears import Asker, Body, answers
from skate.gcs.table import Table

Watched = tuple[Table[bytes, Any], Callable[[Any], dict[str, Any]]]
"""A table, and how people see one of its rows."""


class Counts(Protocol):
    """A part with something to count."""

    def counts(self) -> dict[str, Any]:
        """Its lines of the summary."""


class WatchHandlers:
    """`watched` are the tables by their names, `counted` the parts in the order of the summary."""

    def __init__(self, watched: Mapping[str, Watched], counted: Sequence[Counts]) -> None:
        self._watched = watched
        self._counted = counted

    @answers(questions.Watch)
    def watch(self, _asker: Asker, ask: questions.Watch, _now: float) -> Body:
        """The changes in one table."""
        if ask.table not in self._watched:
            raise ValueError(f"no table {ask.table!r}, only {', '.join(self._watched)}")
        table, view = self._watched[ask.table]
        changes = table.changes_since(ask.since)
        return {
            "version": changes.version,
            "rows": [view(row) for row in changes.rows.values()],
            "removed": [key.hex() for key in changes.removed],
            "complete": changes.complete,
        }

    @answers(questions.Summary)
    def summary(self, _asker: Asker, _ask: questions.Summary, _now: float) -> Body:
        """Counts for each table."""
        return {name: value for part in self._counted for name, value in part.counts().items()}
