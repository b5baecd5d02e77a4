"""The object directory of one node: values, with their holders, waiters and places.

Pure; its caller is the node core. An object is PENDING (a task has promised it), INLINE (the node
keeps the bytes), SEALED (it lies in the arena) or REMOTE (it lies in the arena of other nodes). It
lives while anything holds it: a process that has a ref, a task that uses it, an object that
contains a ref to it. A sealed object's span is also kept while a process has it mapped (a pin),
even after the last hold is gone.

Objects of other homes (*foreign*, by their id) are known here while something here holds them. The
home counts *borrowed* holds itself: those for a task that it has sent, or for a result that it will
fetch. The first other hold is to be registered there (``to_register``), and the end of the last one
told (``to_release``). A copy of a foreign object that nothing here holds any more stays as a cache,
until its home frees the object (``forget``) or the space is wanted (``make_room``). A held copy
goes once no process knows its place (objects/copies.py).

Invariants (``check``): an object in the directory has holds > 0 or pins > 0 or is a cached copy;
every extent belongs to exactly one sealed object or one unsealed creation; contained ids are held
once per container; a registered object is held, and not only borrowed.
The store does not decide which clients are told (the node core does), and reads or writes no byte
of a value.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container
from typing import Any

from skate.ids import home_of, job_of
from skate.objects.arena import Arena
from skate.objects.copies import Copies
from skate.objects.stored_object import Creation, StoredObject
from skate.states import OBJECT_MOVES, ObjectState, advance

PENDING, INLINE, SEALED = ObjectState.PENDING, ObjectState.INLINE, ObjectState.SEALED
REMOTE = ObjectState.REMOTE


class ObjectStore:
    """See the module's docstring."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.home = b""  # the first bytes of the NodeID, once there are other nodes
        self.homes: Container[bytes] = ()  # likewise of the other living nodes
        self.to_register: list[bytes] = []  # foreign objects held since the caller last looked
        self.to_release: list[bytes] = []  # registered ones held no more
        self.freed: list[bytes] = []  # freed objects of this home; other nodes may have copies
        self.cached: dict[bytes, None] = {}  # foreign copies that nothing holds, the oldest first
        self.holders: Callable[[bytes], int] = lambda object_id: 0  # clients that hold an object
        self.objects: dict[bytes, StoredObject] = {}
        self.copies = Copies(self)  # of foreign and own objects, held here
        self.creations: dict[bytes, Creation] = {}  # unsealed, by object
        # Copies under way: apart, as a task that its home has given up may make the same object.
        self.arriving: dict[bytes, Creation] = {}
        self.queue: deque[Creation] = deque()  # creators that wait for space, in order
        self.space_freed = False  # since serve_queue last looked
        self.last_freed = 0.0  # when serve_queue last found freed space
        self.dropped: dict[bytes, None] = {}  # sealed objects gone since the caller last looked
        self.freed_handles: list[bytes] = []  # ids whose last hold went; see on_freed
        self.watched: set[bytes] = set()  # ids whose end the caller wants in freed_handles
        self.inline_bytes = 0

    # ------------------------------------------------------------------ values

    def promise(self, object_id: bytes, owner: Any) -> StoredObject:
        """A task will make the object; its submitter holds it once. ValueError if it exists."""
        if self.home and home_of(object_id) != self.home:
            raise ValueError(f"an object of another home: {object_id.hex()}")
        stored = StoredObject(object_id, owner)
        stored.holds = 1
        if self.objects.setdefault(object_id, stored) is not stored:
            raise ValueError(f"a second object {object_id.hex()}")
        return stored

    def is_foreign(self, object_id: bytes) -> bool:
        """Whether another node is the object's home."""
        return bool(self.home) and home_of(object_id) != self.home

    def borrow(self, object_id: bytes) -> StoredObject:
        """One more hold for a task of another home, which has its own: nothing to register."""
        stored = self.objects.get(object_id)
        if stored is None:
            stored = StoredObject(object_id, None, self.is_foreign(object_id))
            self.objects[object_id] = stored
        elif stored.holds == 0:
            self._held_again(stored)
        stored.holds += 1
        if stored.is_foreign:
            stored.borrowed += 1
        return stored

    def adopt(self, object_id: bytes, owner: Any) -> StoredObject:
        """A result of another home's task, to be made here: held once, for that home."""
        stored = self.borrow(object_id)
        stored.owner = owner
        return stored

    def set_remote(
        self, stored: StoredObject, size: int, nodes: list[bytes], contains: list[bytes] | None
    ) -> None:
        """The value is in the arenas of these nodes."""
        stored.state = REMOTE
        stored.size = size
        stored.nodes = list(nodes)
        stored.is_shared = True
        if contains:
            self.take_contents(stored, contains)

    def fulfil_inline(
        self, stored: StoredObject, data: bytes, contains: list[bytes] | None
    ) -> None:
        """The value has come, into the node's own memory."""
        stored.state = INLINE
        stored.data = data
        stored.size = 0  # an earlier, large value may have been lost
        stored.nodes = None
        self.inline_bytes += len(data)
        if contains:
            self.take_contents(stored, contains)

    def seal(self, stored: StoredObject, contains: list[bytes] | None) -> None:
        """The extent created for this object is written. KeyError if there is none."""
        self._seal(stored, self.creations)
        if contains:
            self.take_contents(stored, contains)

    def _seal(self, stored: StoredObject, table: dict[bytes, Creation]) -> None:
        creation = table[stored.id]
        if creation.offset is None:
            raise KeyError("sealed before there was space for it")
        del table[stored.id]
        self.dropped.pop(stored.id, None)  # it is back before its loss was reported
        stored.state = SEALED
        stored.offset = creation.offset
        stored.size = creation.size

    def prefer(self, object_ids: Container[bytes]) -> None:
        """Creators that wait for space for these objects go first."""
        first = [creation for creation in self.queue if creation.object_id in object_ids]
        rest = [creation for creation in self.queue if creation.object_id not in object_ids]
        self.queue = deque([*first, *rest])

    def seal_copy(self, stored: StoredObject) -> None:
        """The extent for a copy of a value from elsewhere is written."""
        self._seal(stored, self.arriving)
        self.copies.add(stored.id)

    def evict(self, object_id: bytes) -> None:
        """Drop a copy, though it is held: it has to be fetched again before it is read."""
        stored = self.objects[object_id]
        self.copies.remove(object_id)
        stored.state = advance(OBJECT_MOVES, stored.state, REMOTE)
        self._space_is_free(stored)

    def _space_is_free(self, stored: StoredObject) -> None:
        self.arena.free(stored.offset)
        self.space_freed = True
        self.dropped[stored.id] = None

    def take_contents(self, stored: StoredObject, contains: list[bytes]) -> None:
        """The value contains these refs: hold their objects as long as it is kept."""
        stored.contains = [inner for inner in contains if self.hold(inner, idle=True)]

    # ------------------------------------------------------------------ holds and pins

    def hold(self, object_id: bytes, *, idle: bool = False) -> bool:
        """One more hold; False if the object is unknown (freed, or never made).

        ``idle``: by an object or task that contains a ref to it and does not need the value here.
        """
        stored = self.objects.get(object_id)
        if stored is None:
            if not self.is_foreign(object_id):
                return False
            stored = self.objects[object_id] = StoredObject(object_id, None, True)
        if stored.is_foreign:
            if stored.holds == 0:
                self._held_again(stored)
            if not stored.is_registered:
                stored.is_registered = True
                self.to_register.append(object_id)
        stored.holds += 1
        stored.idle += idle
        return True

    def _held_again(self, stored: StoredObject) -> None:
        if stored.id in self.cached:
            del self.cached[stored.id]
            self.copies.add(stored.id)

    def release(self, object_id: bytes, *, borrowed: bool = False, idle: bool = False) -> None:
        """One hold (or loan) less; the last one frees the object, and objects held only by it."""
        stored = self.objects.get(object_id)
        if stored is None:
            return
        stored.holds -= 1
        stored.idle -= idle
        if borrowed and stored.is_foreign:
            stored.borrowed -= 1
        if stored.holds > 0:
            if stored.is_registered and stored.holds == stored.borrowed:
                stored.is_registered = False
                self.to_release.append(object_id)
            return
        assert stored.holds == 0, f"{object_id.hex()} was released more often than held"
        if object_id in self.watched:
            self.watched.discard(object_id)
            self.freed_handles.append(object_id)
        if stored.is_registered:
            stored.is_registered = False
            self.to_release.append(object_id)
        if stored.pins == 0:
            self._free(stored)

    def pin(self, object_id: bytes) -> None:
        """A process has mapped the span."""
        stored = self.objects.get(object_id)
        if stored is not None:
            stored.pins += 1
            self.cached.pop(object_id, None)

    def unpin(self, object_id: bytes) -> None:
        """A process has dropped its last view of the span."""
        stored = self.objects.get(object_id)
        if stored is None:
            return
        stored.pins -= 1
        if stored.pins == 0:
            if stored.holds == 0:
                self._free(stored)
            else:
                self.copies.used(object_id)

    def _free(self, stored: StoredObject, *, cache: bool = True) -> None:
        stack = [stored]
        while stack:  # a loop, not recursion: lists of refs can nest a thousand deep
            stored = stack.pop()
            self.copies.remove(stored.id)
            if cache and stored.is_foreign and stored.state is SEALED and self._may_cache(stored):
                self.cached[stored.id] = None
                continue
            del self.objects[stored.id]
            if stored.is_shared and not stored.is_foreign:
                self.freed.append(stored.id)
            if stored.state is SEALED:
                self._space_is_free(stored)
            elif stored.state is INLINE:
                self.inline_bytes -= len(stored.data)
            stored.state = ObjectState.FREED
            for inner in stored.contains or ():
                inside = self.objects.get(inner)
                if inside is None:
                    continue
                inside.holds -= 1
                inside.idle -= 1
                if inside.is_registered and inside.holds == inside.borrowed:
                    inside.is_registered = False
                    self.to_release.append(inner)
                if inside.holds == 0:
                    if inner in self.watched:
                        self.watched.discard(inner)
                        self.freed_handles.append(inner)
                    if inside.pins == 0:
                        stack.append(inside)

    def _may_cache(self, stored: StoredObject) -> bool:
        # No result made here that contains refs: its home holds those now. No object of a dead
        # home: no message would tell when it is of no use any more.
        return not stored.contains and not stored.is_forgotten and home_of(stored.id) in self.homes

    def forget(self, object_id: bytes) -> None:
        """The home has freed an object: drop its copy here, now or once nothing uses it."""
        stored = self.objects.get(object_id)
        if stored is None or not stored.is_foreign:
            return
        stored.is_forgotten = True
        if object_id in self.cached:
            self._uncache(stored)

    def _uncache(self, stored: StoredObject) -> None:
        del self.cached[stored.id]
        self._free(stored, cache=False)

    def drop_home(self, home: bytes) -> None:
        """A home is dead and will not tell when its objects are freed: drop their copies now."""
        for object_id in [i for i in self.cached if home_of(i) == home]:
            self._uncache(self.objects[object_id])

    def end_job(self, job_id: bytes) -> None:
        """A job has ended: drop the copies of its objects."""
        for object_id in [i for i in self.cached if job_of(i) == job_id]:
            self._uncache(self.objects[object_id])

    # ------------------------------------------------------------------ space

    def make_room(self) -> bool:
        """Drop the cached copy used longest ago, or else a copy that is held and not used; False
        if there is none."""
        if not self.cached:
            return self.copies.make_room()
        self._uncache(self.objects[next(iter(self.cached))])
        return True

    def create(
        self, creator: Any, object_id: bytes, size: int, now: float, *, is_copy: bool = False
    ) -> Creation:
        """Space for an object; ``offset`` stays None while there is none (first come, first
        served)."""
        table = self._table(is_copy)
        left = table.get(object_id)
        if left is not None:  # an earlier attempt gave up half-way
            if left.creator is not creator:
                raise ValueError(f"another process is making {object_id.hex()}")
            self.abandon(left)
        creation = Creation(creator, object_id, size, now, is_copy)
        if not self.queue:
            creation.offset = self._allocate(size, now)
        if creation.offset is None:
            self.queue.append(creation)
        table[object_id] = creation
        return creation

    def _table(self, is_copy: bool) -> dict[bytes, Creation]:
        return self.arriving if is_copy else self.creations

    def _allocate(self, size: int, now: float) -> int | None:
        offset = self.arena.allocate(size)
        if offset is None and size <= self.arena.capacity_bytes:
            while offset is None and self.make_room():
                offset = self.arena.allocate(size)
            if offset is None:
                self.copies.ask_for(size, now)
        return offset

    def serve_queue(self, now: float) -> list[Creation]:
        """Creations that got their space now, in order."""
        if self.space_freed:
            self.space_freed = False
            self.last_freed = now
        served = []
        while self.queue:
            offset = self._allocate(self.queue[0].size, now)
            if offset is None:
                break
            creation = self.queue.popleft()
            creation.offset = offset
            served.append(creation)
        return served

    def abandon(self, creation: Creation) -> None:
        """The creator is gone or gave up: free its unsealed extent."""
        self._table(creation.is_copy).pop(creation.object_id, None)
        if creation.offset is None:
            self.queue.remove(creation)
        else:
            self.arena.free(creation.offset)
            self.space_freed = True

    def stop_waiting(self, creator: Any) -> None:
        """A client wants no space any more."""
        for creation in [c for c in self.queue if c.creator is creator]:
            self.abandon(creation)

    def abandon_all_of(self, creator: Any) -> None:
        """Abandon all creations of a client."""
        for creation in [c for c in self.creations.values() if c.creator is creator]:
            self.abandon(creation)

    def expired(self, now: float, grace_s: float) -> list[Creation]:
        """Creations to be refused: the first one, if no space at all was freed for ``grace_s``, and
        those larger than the arena."""
        if not self.queue:
            return []
        first = self.queue[0]
        too_large = [c for c in self.queue if c.size > self.arena.capacity_bytes]
        if now - max(first.since, self.last_freed) >= grace_s and not self.copies.is_hopeful(now):
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
            assert stored.holds > 0 or stored.pins > 0 or stored.id in self.cached, (
                f"{stored.id.hex()} lives without a hold"
            )
            assert 0 <= stored.borrowed <= stored.holds
            assert stored.is_registered == (stored.is_foreign and stored.holds > stored.borrowed)
            assert (stored.id in self.cached) <= (stored.holds == 0 and stored.pins == 0)
            assert stored.is_foreign == self.is_foreign(stored.id)
            assert stored.holds >= stored.idle >= 0 and stored.pins >= 0
            if stored.state is SEALED:
                assert stored.offset not in extents
                extents[stored.offset] = stored.size
        for creation in (*self.creations.values(), *self.arriving.values()):
            if creation.offset is not None:
                assert creation.offset not in extents
                extents[creation.offset] = creation.size
        assert len(extents) == len(self.arena), "an extent without an owner, or the reverse"
        self.arena.check()
        self.copies.check()
