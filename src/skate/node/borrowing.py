"""Objects of other homes: held here, registered there, asked for, and given up in order. Pure.

Part of the node core. Counts of references live at an object's home (DESIGN 6; its home is in its
id). This node is a holder like any process: it tells the home of its first hold and of its last
release. The rule for every hand-over, that the giver keeps its hold until the receiver's is
registered, is kept by one queue: what lets go of something elsewhere (a task's ``Returned``, a
``Release``) leaves only after every ``Hold`` that was sent before it is acknowledged.

A task from another home brings refs that its home holds until the task has returned: for those
nothing is told, unless a process, a task or an object of this node comes to hold them as well.

What it does not do: move bytes (pull_desk.py), count (objects/object_store.py).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from skate import messages as m
from skate.ids import home_of
from skate.node.error_payload import error_payload
from skate.node.neighbours import Neighbour
from skate.node.peer import Peer
from skate.objects.object_store import PENDING, REMOTE, StoredObject

if TYPE_CHECKING:
    from skate.node.node_core import NodeCore

Barrier = list[tuple[Neighbour, int]]  # of each home, up to which Hold it has to have answered


class Borrowing:
    """See the module's docstring."""

    def __init__(self, core: NodeCore) -> None:
        self._core = core
        self._store = core.store
        self.returns: list[tuple[Peer, m.Returned | m.ActorNews]] = []  # of this turn
        self.releases: list[tuple[Neighbour, list[bytes]]] = []  # of results kept elsewhere
        self._waiting: deque[tuple[Barrier, Any, Any]] = deque()  # (barrier, to whom, message)
        self._unregistered: dict[Neighbour, None] = {}  # those with a Hold under way
        core.neighbours.handlers.update(
            {
                m.Registered: self._on_registered,
                m.Ready: self._on_ready,
                m.Located: self._on_located,
            }
        )

    # ------------------------------------------------------------------ holding and letting go

    def settle(self) -> None:
        """At the end of a turn: tell homes what is held and what is no more."""
        store = self._store
        if store.to_register:
            self._register()
        if not (store.to_release or self.returns or self.releases):
            return
        barrier = [(home, home.holds_sent) for home in self._unregistered]
        leave: list[tuple[Any, Any]] = []
        for home, object_ids in self._by_home(store.to_release):
            leave.append((home, m.Release(object_ids)))
        leave += self.returns
        leave += [(home, m.Release(object_ids)) for home, object_ids in self.releases]
        store.to_release = []
        self.returns = []
        self.releases = []
        for to_whom, message in leave:
            if barrier or self._waiting:
                self._waiting.append((barrier, to_whom, message))
            else:
                self._send(to_whom, message)

    def _register(self) -> None:
        object_ids, self._store.to_register = self._store.to_register, []
        held = [i for i in object_ids if self._is_registered(i)]
        for home, ids in self._by_home(held):
            self._core.neighbours.send(home, m.Hold(ids))
            home.holds_sent += 1
            self._unregistered[home] = None

    def _is_registered(self, object_id: bytes) -> bool:
        stored = self._store.objects.get(object_id)
        return stored is not None and stored.is_registered

    def _by_home(self, object_ids: list[bytes]) -> list[tuple[Neighbour, list[bytes]]]:
        # Of homes that are dead nothing has to be told.
        groups: dict[Neighbour, list[bytes]] = {}
        for object_id in object_ids:
            home = self._core.neighbours.home_of(object_id)
            if home is not None:
                groups.setdefault(home, []).append(object_id)
        return list(groups.items())

    def _on_registered(self, home: Neighbour, message: m.Registered) -> None:
        home.holds_registered = message.count
        if home.holds_registered == home.holds_sent:
            self._unregistered.pop(home, None)
        self._let_go()

    def _let_go(self) -> None:
        while self._waiting:
            barrier, to_whom, message = self._waiting[0]
            if any(home.is_alive and home.holds_registered < sent for home, sent in barrier):
                return
            self._waiting.popleft()
            self._send(to_whom, message)

    def _send(self, to_whom: Any, message: Any) -> None:
        if isinstance(to_whom, Neighbour):
            self._core.neighbours.send(to_whom, message)
        else:
            self._core.send(to_whom, message)

    # ------------------------------------------------------------------ asking for values

    def ask_home(self, stored: StoredObject) -> None:
        """Somebody here wants the value of a foreign object that is not known here."""
        if stored.is_asked or stored.owner is not None:
            return  # it was asked for, or it is being made here
        stored.is_asked = True
        home = self._core.neighbours.home_of(stored.id)
        if home is None:
            self._core.pulls.find_orphan(stored)
            return
        home.wanted.add(stored.id)
        self._core.neighbours.send(home, m.Want([stored.id]))

    def _on_ready(self, home: Neighbour, message: m.Ready) -> None:
        home.wanted.discard(message.object_id)
        self.value_known(message.object_id, message.data, 0, ())

    def _on_located(self, home: Neighbour, message: m.Located) -> None:
        home.wanted.discard(message.object_id)
        self.value_known(message.object_id, b"", message.size, message.nodes)

    def value_known(
        self, object_id: bytes, data: bytes, size: int, nodes: Any
    ) -> StoredObject | None:
        """A foreign object's value, or the nodes that have it."""
        stored = self._store.objects.get(object_id)
        if stored is None:
            return None
        stored.is_asked = False
        others = [node_id for node_id in nodes if node_id != self._core.node_id]
        if stored.state is PENDING:
            if size:
                self._store.set_remote(stored, size, others, None)
            else:
                self._store.fulfil_inline(stored, data, None)
            self._core.desk.announce(stored)
        elif size and stored.state is REMOTE:
            stored.nodes = list(dict.fromkeys([*others, *(stored.nodes or ())]))
            self._core.pulls.relocated(stored)
        return stored

    # ------------------------------------------------------------------ homes that are gone

    def home_lost(self, home: Neighbour, why: str) -> None:
        """What it was asked for has to be found elsewhere; what it was told is forgotten there."""
        self._unregistered.pop(home, None)
        prefix = home.node_id[:4]
        self.releases = [pair for pair in self.releases if pair[0] is not home]
        for stored in list(self._store.objects.values()):
            if not stored.is_foreign or home_of(stored.id) != prefix:
                continue
            if stored.is_registered and home.is_alive:
                self._store.to_register.append(stored.id)  # on a new line
            if stored.is_asked:
                stored.is_asked = False
                self.ask_home(stored)
        if not home.is_alive:
            self._store.drop_home(prefix)
        self._let_go()

    def orphan(self, stored: StoredObject) -> None:
        """Its home is dead, and no node has a copy."""
        if stored.state is PENDING or stored.state is REMOTE:
            self._store.fulfil_inline(
                stored,
                error_payload(
                    "OwnerDiedError",
                    f"Object {stored.id.hex()} is lost: its home, the node whose process created "
                    "its ref, has died, and no other node has a copy.",
                    object_ref_hex=stored.id.hex(),
                ),
                None,
            )
            self._core.desk.announce(stored)

    def is_idle(self) -> bool:
        """Whether nothing waits for an answer of a home; for tests and the simulator."""
        return not (self._waiting or self._unregistered or self.returns or self.releases)

    def check(self) -> None:
        """Assert the invariants; for tests and the simulator."""
        for home in self._unregistered:
            assert home.holds_registered < home.holds_sent
