"""The object directory of one node: values, who holds them, who waits for them, where they lie.

Pure; its caller is the node core. An object is PENDING (a task has promised it), INLINE (the node
keeps the bytes) or SEALED (it lies in the arena). It lives while anything holds it: a process that
has a ref, a task that uses it, an object that contains a ref to it. A sealed object's span is also
kept while a process has it mapped (a pin), even after the last hold is gone.

Invariants (``check``): an object in the directory has holds > 0 or pins > 0; every extent belongs
to exactly one sealed object or one unsealed creation; contained ids are held once per container.
What it does not do: decide who is told (the node core does), read or write any byte of a value.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from skate.objects.arena import Arena
from skate.spec import FORMAT_ERROR
from skate.states import ObjectState

PENDING, INLINE, SEALED = ObjectState.PENDING, ObjectState.INLINE, ObjectState.SEALED


class StoredObject:
    """One row of the directory."""

    __slots__ = (
        "contains",
        "data",
        "holds",
        "id",
        "offset",
        "owner",
        "pins",
        "size",
        "state",
        "subscribers",
        "waiters",
    )

    def __init__(self, object_id: bytes, owner: Any) -> None:
        self.id = object_id
        self.owner = owner  # the peer that submitted its task or put it: it is told unasked
        self.state = PENDING
        self.data = b""
        self.offset = 0
        self.size = 0
        self.holds = 0
        self.pins = 0
        self.waiters: list[Any] | None = None  # tasks held back until it is there
        self.subscribers: list[Any] | None = None  # peers that asked for it
        self.contains: list[bytes] | None = None

    @property
    def is_error(self) -> bool:
        """Whether the value is an error; errors are always inline."""
        return self.state is INLINE and self.data[:1] == FORMAT_ERROR


class Creation:
    """An extent that is being written, or waits for space (``offset`` is None)."""

    __slots__ = ("creator", "explained", "object_id", "offset", "since", "size")

    def __init__(self, creator: Any, object_id: bytes, size: int, since: float) -> None:
        self.creator = creator
        self.object_id = object_id
        self.size = size
        self.since = since
        self.offset: int | None = None
        self.explained = False  # whether the user has been told why it waits


class ObjectStore:
    """See the module's docstring."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.objects: dict[bytes, StoredObject] = {}
        self.creations: dict[bytes, Creation] = {}  # unsealed, by object
        self.queue: deque[Creation] = deque()  # creators that wait for space, in order
        self.space_freed = False  # since serve_queue last looked
        self.last_freed = 0.0  # when it last found that
        self.dropped: list[bytes] = []  # sealed objects gone since the caller last looked
        self.freed_handles: list[bytes] = []  # ids whose last hold went; see on_freed
        self.watched: set[bytes] = set()  # ids whose end the caller wants in freed_handles
        self.inline_bytes = 0

    # ------------------------------------------------------------------ values

    def promise(self, object_id: bytes, owner: Any) -> StoredObject:
        """A task will make it; its submitter holds it once. ValueError if it exists already."""
        stored = StoredObject(object_id, owner)
        stored.holds = 1
        if self.objects.setdefault(object_id, stored) is not stored:
            raise ValueError(f"a second object {object_id.hex()}")
        return stored

    def fulfil_inline(
        self, stored: StoredObject, data: bytes, contains: list[bytes] | None
    ) -> None:
        """The value is there, in the node's own memory."""
        stored.state = INLINE
        stored.data = data
        self.inline_bytes += len(data)
        if contains:
            self._take_contents(stored, contains)

    def seal(self, stored: StoredObject, contains: list[bytes] | None) -> None:
        """The extent created for this object is written. KeyError if there is none."""
        creation = self.creations[stored.id]
        if creation.offset is None:
            raise KeyError("sealed before there was space for it")
        del self.creations[stored.id]
        stored.state = SEALED
        stored.offset = creation.offset
        stored.size = creation.size
        if contains:
            self._take_contents(stored, contains)

    def _take_contents(self, stored: StoredObject, contains: list[bytes]) -> None:
        kept = []
        for inner in contains:
            inside = self.objects.get(inner)
            if inside is not None:
                inside.holds += 1
                kept.append(inner)
        stored.contains = kept

    # ------------------------------------------------------------------ holds and pins

    def hold(self, object_id: bytes) -> bool:
        """One more hold; False if the object is not known (it was freed, or never was)."""
        stored = self.objects.get(object_id)
        if stored is None:
            return False
        stored.holds += 1
        return True

    def release(self, object_id: bytes) -> None:
        """One hold less; the last one frees it, and what only it contained."""
        stored = self.objects.get(object_id)
        if stored is None:
            return
        stored.holds -= 1
        if stored.holds > 0:
            return
        assert stored.holds == 0, f"{object_id.hex()} was released more often than held"
        if object_id in self.watched:
            self.watched.discard(object_id)
            self.freed_handles.append(object_id)
        if stored.pins == 0:
            self._free(stored)

    def pin(self, object_id: bytes) -> None:
        """A process has mapped the span."""
        stored = self.objects.get(object_id)
        if stored is not None:
            stored.pins += 1

    def unpin(self, object_id: bytes) -> None:
        """Its last view there is gone."""
        stored = self.objects.get(object_id)
        if stored is None:
            return
        stored.pins -= 1
        if stored.pins == 0 and stored.holds == 0:
            self._free(stored)

    def _free(self, stored: StoredObject) -> None:
        stack = [stored]
        while stack:  # a loop, not recursion: lists of refs can nest a thousand deep
            stored = stack.pop()
            del self.objects[stored.id]
            if stored.state is SEALED:
                self.arena.free(stored.offset)
                self.space_freed = True
                self.dropped.append(stored.id)
            elif stored.state is INLINE:
                self.inline_bytes -= len(stored.data)
            stored.state = ObjectState.FREED
            for inner in stored.contains or ():
                inside = self.objects.get(inner)
                if inside is None:
                    continue
                inside.holds -= 1
                if inside.holds == 0:
                    if inner in self.watched:
                        self.watched.discard(inner)
                        self.freed_handles.append(inner)
                    if inside.pins == 0:
                        stack.append(inside)

    # ------------------------------------------------------------------ space

    def create(self, creator: Any, object_id: bytes, size: int, now: float) -> Creation:
        """Space for an object; ``offset`` stays None while there is none (first come, first
        served)."""
        left = self.creations.get(object_id)
        if left is not None:  # of an attempt that gave up half-way
            if left.creator is not creator:
                raise ValueError(f"another process is making {object_id.hex()}")
            self.abandon(left)
        creation = Creation(creator, object_id, size, now)
        if not self.queue:
            creation.offset = self.arena.allocate(size)
        if creation.offset is None:
            self.queue.append(creation)
        self.creations[object_id] = creation
        return creation

    def serve_queue(self, now: float) -> list[Creation]:
        """Creations that got their space now, in order."""
        if self.space_freed:
            self.space_freed = False
            self.last_freed = now
        served = []
        while self.queue:
            offset = self.arena.allocate(self.queue[0].size)
            if offset is None:
                break
            creation = self.queue.popleft()
            creation.offset = offset
            served.append(creation)
        return served

    def abandon(self, creation: Creation) -> None:
        """The creator is gone or gave up: an unsealed extent is nobody's."""
        self.creations.pop(creation.object_id, None)
        if creation.offset is None:
            self.queue.remove(creation)
        else:
            self.arena.free(creation.offset)
            self.space_freed = True

    def abandon_all_of(self, creator: Any) -> None:
        """All that this peer was writing or waiting to write."""
        for creation in [c for c in self.creations.values() if c.creator is creator]:
            self.abandon(creation)

    def expired(self, now: float, grace_s: float) -> list[Creation]:
        """Creations that waited ``grace_s`` during which nothing at all was freed; all fit the
        arena only if something goes, so whoever is first has to be told."""
        if not self.queue:
            return []
        first = self.queue[0]
        too_large = [c for c in self.queue if c.size > self.arena.capacity_bytes]
        if now - max(first.since, self.last_freed) >= grace_s:
            return [first, *(c for c in too_large if c is not first)]
        return too_large

    def largest(self, count: int) -> list[StoredObject]:
        """The largest sealed objects, for the error of a full store."""
        sealed = [o for o in self.objects.values() if o.state is SEALED]
        return sorted(sealed, key=lambda o: -o.size)[:count]

    def check(self) -> None:
        """Assert the invariants; for tests and the simulator."""
        extents: dict[int, int] = {}
        for stored in self.objects.values():
            assert stored.holds > 0 or stored.pins > 0, f"{stored.id.hex()} lives without a hold"
            assert stored.holds >= 0 and stored.pins >= 0
            if stored.state is SEALED:
                assert stored.offset not in extents
                extents[stored.offset] = stored.size
        for creation in self.creations.values():
            if creation.offset is not None:
                assert creation.offset not in extents
                extents[creation.offset] = creation.size
        assert len(extents) == len(self.arena), "an extent without an owner, or the reverse"
        self.arena.check()
