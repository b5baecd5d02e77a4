"""Exported functions and the key-value store: nodes store functions, any peer reads and puts."""

from __future__ import annotations

from typing import Any

from skate.gcs import questions
from skate.gcs.event_log import EventLog
from skate.gcs.function_table import FunctionTable, KeyValueStore
from skate.gcs.hears import Asker, Body, answers, hears
from skate.gcs.membership import NodeRow
from skate.messages import FunctionStored


class FunctionHandlers:
    """Functions by id."""

    def __init__(self, functions: FunctionTable, log: EventLog) -> None:
        self._functions = functions
        self._log = log

    @hears(FunctionStored)
    def on_function_stored(self, _node: NodeRow, message: FunctionStored, now: float) -> None:
        """A node has a function that may be new."""
        if self._functions.store(message.function_id, message.name, message.data):
            self._log.record("function", message.function_id, "STORED", now, message.name, 0)

    @answers(questions.Functions)
    def function(self, _asker: Asker, ask: questions.Functions, _now: float) -> Body:
        """The bytes of a function."""
        return self._functions.data(ask.id)

    def counts(self) -> dict[str, Any]:
        """How many functions there are."""
        return {"functions": len(self._functions.functions)}

    def check(self) -> None:
        """Assert the invariants of the table."""
        self._functions.functions.check()


class KeyValueHandlers:
    """The cluster's key-value store."""

    def __init__(self, key_values: KeyValueStore) -> None:
        self._key_values = key_values

    @answers(questions.KvPut)
    def put(self, _asker: Asker, ask: questions.KvPut, _now: float) -> Body:
        """Store a value."""
        return self._key_values.put(ask.namespace, ask.key, ask.value, ask.overwrite)

    @answers(questions.KvGet)
    def get(self, _asker: Asker, ask: questions.KvGet, _now: float) -> Body:
        """Read a value."""
        return self._key_values.get(ask.namespace, ask.key)

    @answers(questions.KvDel)
    def delete(self, _asker: Asker, ask: questions.KvDel, _now: float) -> Body:
        """Take out keys."""
        return self._key_values.delete(ask.namespace, ask.key, ask.by_prefix)

    @answers(questions.KvList)
    def keys(self, _asker: Asker, ask: questions.KvList, _now: float) -> Body:
        """The keys that begin so."""
        return self._key_values.keys(ask.namespace, ask.prefix)

    @answers(questions.KvExists)
    def exists(self, _asker: Asker, ask: questions.KvExists, _now: float) -> Body:
        """Whether there is such a key."""
        return self._key_values.get(ask.namespace, ask.key) is not None

    def counts(self) -> dict[str, Any]:
        """How many keys there are."""
        return {"key_values": len(self._key_values)}

    def check(self) -> None:
        """Nothing can disagree in a plain dictionary."""
