"""Held copies of values that other nodes have too: evicted when their space is wanted. Pure.

Part of the object store. A copy that nothing holds is cached and may go at any time
(``ObjectStore.cached``). This module has the copies that processes hold, and whose place they may
know. Such a copy goes only if it is known to lie elsewhere, no process has it mapped, no task uses
it, and no process knows its place:

    KNOWN     processes were told its place (``told``), and may map it at any time
    ASKED     space is wanted: these processes were asked to forget it (``messages.Revoke``)
    UNKNOWN   all have forgotten it or ended: it may go, the copy used longest ago first

A process that needs the value keeps it: a get of many waits for the others. It is asked again after
a while, if space is still wanted, but the store does not count on it, nor on a process that
computes and reads late. A mapping made before the question came is known here before the answer, as
both come on one line. A process told the place again after a question is KNOWN again, whatever it
answers. So no bytes are overwritten while a process reads them.

Invariant (``check``): a copy is sealed, and held or mapped.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from itertools import islice
from typing import Any, Protocol

from skate.ids import home_of
from skate.objects.stored_object import StoredObject
from skate.states import ObjectState

ASK_AGAIN_S = 0.5
"""Who was asked for so long without a copy going is asked again."""

LOOKED_AT = 100
"""Copies, at a time: those in use are the next time's last."""

_NEVER = float("-inf")


class Store(Protocol):
    """The part of the object store that copies use."""

    @property
    def objects(self) -> Mapping[bytes, StoredObject]:
        """The directory."""

    @property
    def homes(self) -> Container[bytes]:
        """The first bytes of the NodeIDs of the other living nodes."""

    def holders(self, object_id: bytes, /) -> int:
        """The number of clients that hold the object."""

    def evict(self, object_id: bytes) -> None:
        """Drop a copy, though it is held."""


class _Copy:
    __slots__ = ("asked_at", "told")

    def __init__(self) -> None:
        # Clients that know its place, with the number of the question to forget it that followed;
        # 0: none followed.
        self.told: dict[Any, int] = {}
        self.asked_at = _NEVER


class Copies:
    """See the module's docstring."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._copies: dict[bytes, _Copy] = {}  # the copy used longest ago first
        self._questions: dict[Any, list[bytes]] = {}  # client -> objects, since the last take
        self._number = 1  # of these questions
        self._refused_at = _NEVER

    def __contains__(self, object_id: bytes) -> bool:
        return object_id in self._copies

    def add(self, object_id: bytes) -> None:
        """A copy has arrived, or one that was cached is held again."""
        self._copies[object_id] = _Copy()

    def remove(self, object_id: bytes) -> None:
        """The copy is gone, or not held any more."""
        self._copies.pop(object_id, None)

    def used(self, object_id: bytes) -> None:
        """A copy's last mapping is gone: it is now the one used last."""
        copy = self._copies.pop(object_id, None)
        if copy is not None:
            self._copies[object_id] = copy

    def told(self, object_id: bytes, peer: Any) -> None:
        """A client is told a copy's place."""
        copy = self._copies.get(object_id)
        if copy is not None:
            copy.told[peer] = 0

    def forgotten(self, object_id: bytes, peer: Any, number: int) -> None:
        """A client has forgotten a copy's place, as it was asked to."""
        copy = self._copies.get(object_id)
        if copy is None or copy.told.get(peer) != number:
            return
        del copy.told[peer]
        if not copy.told and self._may_go(object_id):
            self._store.evict(object_id)

    @property
    def has_questions(self) -> bool:
        """Whether any client is to be asked."""
        return bool(self._questions)

    def take_questions(self) -> tuple[int, dict[Any, list[bytes]]]:
        """The questions' number, and for each client the objects whose places it is to forget."""
        questions, self._questions = self._questions, {}
        self._number += 1
        return self._number - 1, questions

    def peer_lost(self, peer: Any) -> None:
        """A client is gone."""
        for copy in self._copies.values():
            copy.told.pop(peer, None)

    def make_room(self) -> bool:
        """Drop one copy that nothing uses and no client knows; False if there is none."""
        for object_id, copy in list(islice(self._copies.items(), LOOKED_AT)):
            if copy.told:
                continue
            if self._may_go(object_id):
                self._store.evict(object_id)
                return True
            self.used(object_id)
        return False

    def ask_for(self, size: int, now: float) -> None:
        """So many bytes are wanted: have clients forget the places of copies."""
        for object_id, copy in list(islice(self._copies.items(), LOOKED_AT)):
            if size <= 0:
                return
            if not self._may_go(object_id):
                self.used(object_id)
                continue
            is_late = now - copy.asked_at >= ASK_AGAIN_S
            if not is_late or copy.asked_at == _NEVER:
                size -= self._store.objects[object_id].size
            else:
                self.used(object_id)
            if copy.told and is_late:
                copy.asked_at = now
                for peer in copy.told:
                    copy.told[peer] = self._number
                    self._questions.setdefault(peer, []).append(object_id)

    def refused(self, now: float) -> None:
        """A creator was refused space: the copies that it needed may go now, so ask again."""
        self._refused_at = now
        for copy in self._copies.values():
            copy.asked_at = _NEVER

    def is_hopeful(self, now: float) -> bool:
        """Whether the questions since the last refusal may still make room."""
        return bool(self._copies) and now - self._refused_at < ASK_AGAIN_S

    def may_be_taken(self, object_id: bytes, uses: int) -> bool:
        """Whether a copy may go if so many tasks that use it wait for it again."""
        copy = self._copies.get(object_id)
        return copy is not None and not copy.told and self._may_go(object_id, uses)

    def _may_go(self, object_id: bytes, uses: int = 0) -> bool:
        store = self._store
        stored = store.objects[object_id]
        if stored.pins or stored.is_forgotten or not _is_elsewhere(stored, store):
            return False
        # Further holds are of tasks, which need the copy here or send other nodes to it.
        return stored.holds <= stored.idle + store.holders(object_id) + uses

    def check(self) -> None:
        """Assert the invariant."""
        for object_id in self._copies:
            stored = self._store.objects[object_id]
            assert stored.state is ObjectState.SEALED
            assert stored.holds > 0 or stored.pins > 0


def _is_elsewhere(stored: StoredObject, store: Store) -> bool:
    # Nodes that had it dead: its home may know of no copy but this one. Home dead: other nodes
    # keep the value only as long as something there holds it.
    is_kept = not stored.is_foreign or home_of(stored.id) in store.homes
    return bool(stored.nodes) and is_kept
