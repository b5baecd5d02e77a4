"""The rows of a node's object directory: objects, and extents that are being written. Data alone.

Made and changed by the object store; the parts of the node core read them.
"""

from __future__ import annotations

from typing import Any

from skate.spec import FORMAT_ERROR
from skate.states import ObjectState


class StoredObject:
    """One row of the directory."""

    __slots__ = (
        "borrowed",
        "contains",
        "data",
        "holds",
        "id",
        "idle",
        "is_asked",
        "is_foreign",
        "is_forgotten",
        "is_registered",
        "is_shared",
        "nodes",
        "offset",
        "owner",
        "pins",
        "size",
        "state",
        "subscribers",
        "waiters",
    )

    def __init__(self, object_id: bytes, owner: Any, is_foreign: bool = False) -> None:
        self.id = object_id
        self.owner = owner  # the client that submitted its task or put it: it is told unasked
        self.state = ObjectState.PENDING
        self.data = b""
        self.offset = 0
        self.size = 0
        self.holds = 0
        self.idle = 0  # of these, by objects and arguments of tasks that contain a ref to it
        self.borrowed = 0  # foreign: of these, for its home: tasks to run, results to keep
        self.pins = 0
        self.waiters: list[Any] | None = None  # tasks held back until it is here
        self.subscribers: list[Any] | None = None  # clients that asked for it
        self.contains: list[bytes] | None = None
        self.is_foreign = is_foreign
        self.is_registered = False  # foreign: its home knows that it is held here
        self.is_asked = False  # foreign: its home was asked for the value
        self.is_forgotten = False  # foreign: its home has freed it; a copy is of no use
        self.is_shared = False  # at home: other nodes may have copies
        self.nodes: list[bytes] | None = None  # other nodes that have it in their arena

    @property
    def is_error(self) -> bool:
        """Whether the value is an error; errors are always inline."""
        return self.state is ObjectState.INLINE and self.data[:1] == FORMAT_ERROR


class Creation:
    """An extent that is being written, or waits for space (``offset`` is None)."""

    __slots__ = ("creator", "explained", "is_copy", "object_id", "offset", "since", "size")

    def __init__(
        self, creator: Any, object_id: bytes, size: int, since: float, is_copy: bool
    ) -> None:
        self.creator = creator
        self.is_copy = is_copy
        self.object_id = object_id
        self.size = size
        self.since = since
        self.offset: int | None = None
        self.explained = False  # whether the user has been told why it waits
