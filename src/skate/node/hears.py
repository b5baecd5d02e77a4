"""The table of handlers: one part of the node for each message and sender's role. Pure.

A handler says so beside its definition::

    @hears(m.Put, *CLIENTS)
    def on_put(self, client: Client, message: m.Put) -> None: ...

and ``collect`` makes the tables that the core dispatches by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

STRANGER = ""  # a connection before its Hello
DRIVER, WORKER, OBSERVER = "driver", "worker", "observer"
CLIENTS = (DRIVER, WORKER)
NODE = "node"  # a node that has opened a line to this one
ANSWERER = "answerer"  # a node that answers on the line that this one has opened
GCS = "gcs"
OVER = "over"  # a client whose job is over: its messages are dropped
ROLES = (STRANGER, *CLIENTS, OBSERVER, NODE, ANSWERER, GCS)

Handler = Callable[..., None]
Method = TypeVar("Method", bound=Handler)


def hears(message: type, *roles: str) -> Callable[[Method], Method]:
    """Mark a method as the handler of this message from senders of these roles."""

    def mark(method: Method) -> Method:
        method.__dict__.setdefault("heard", []).append((message, roles))
        return method

    return mark


class _Unheard(dict[type, Handler]):
    """Accepts and drops every message: the job of its sender is over."""

    def __missing__(self, key: type) -> Handler:
        return _drop

    def get(self, key: Any, default: Any = None) -> Handler:
        return _drop


def _drop(sender: Any, message: Any) -> None: ...


def collect(parts: Iterable[object]) -> dict[str, dict[type, Handler]]:
    """The handlers of all parts, by role and message. AssertionError if there are two for one."""
    tables: dict[str, dict[type, Handler]] = {role: {} for role in ROLES}
    for part in parts:
        for name, method in vars(type(part)).items():
            for message, roles in getattr(method, "heard", ()):
                for role in roles:
                    table = tables[role]
                    assert message not in table, f"two handlers of {message.__name__} ({role!r})"
                    table[message] = getattr(part, name)
    tables[OVER] = _Unheard()
    return tables
