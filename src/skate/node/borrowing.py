"""Objects of other homes: held here, registered there, asked for, and given up in order. Pure.

Part of the node core. Counts of references live at an object's home (DESIGN 6; its home is in its
id). This node is a holder like any process: it tells the home of its first hold and of its last
release. The rule for every hand-over, that the giver keeps its hold until the receiver's is
registered, is kept by one queue: what lets go of something elsewhere (a task's ``Returned``, a
``Release``) leaves only after every ``Hold`` that was sent before it is acknowledged.

A home that lives but cannot be reached is told of all that is held here on each new line, and what
waits for a Hold on the old one waits for that one; but not without end. One that is out of reach is
waited for no more until it answers: what is handed over meanwhile may be lost (who reads it is
told), and who waits here for a value that no other node has gets an error.

A task from another home brings refs that its home holds until the task has returned: for those
nothing is told, unless a process, a task or an object of this node comes to hold them as well.

What it does not do: move bytes (pull_desk.py), count (objects/object_store.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from skate import messages as m
from skate.ids import HOME_BYTES, home_of
from skate.node.error_payload import error_payload
from skate.objects.object_store import PENDING, REMOTE, StoredObject
from skate.rows import Client, OtherNode

if TYPE_CHECKING:
    from skate.node.node_core import NodeCore


class _Waiting:
    """What may leave once all Holds that were sent before it are registered."""

    __slots__ = ("barrier", "message", "to_whom")

    def __init__(self, barrier: dict[OtherNode, int], to_whom: Any, message: Any) -> None:
        self.barrier = barrier  # of each home, up to which Hold it has to have answered
        self.to_whom = to_whom  # a neighbour, or the peer that another node is
        self.message = message


class _Return(NamedTuple):
    """That a task or an actor has ended, for its home; it came here after so many new Holds."""

    peer: Client
    message: m.Returned | m.ActorNews
    since: int


class Borrowing:
    """See the module's docstring."""

    def __init__(self, core: NodeCore) -> None:
        self._core = core
        self._store = core.store
        self.new_holds = 0  # Holds of what their homes had not been told before
        self.returns: list[_Return] = []  # of this turn
        self.releases: list[tuple[OtherNode, list[bytes]]] = []  # of results kept elsewhere
        self._waiting: deque[_Waiting] = deque()
        self._unregistered: dict[OtherNode, None] = {}  # those with a Hold under way
        # What homes have been told of, until they are told the end: a Release that still waits.
        self._told: dict[bytes, m.Release | None] = {}
        core.neighbours.handlers.update(
            {
                m.Registered: self._on_registered,
                m.Ready: self._on_ready,
                m.Located: self._on_located,
            }
        )

    # ------------------------------------------------------------------ holding and letting go

    def leave(self, peer: Client, message: m.Returned | m.ActorNews, since: int = -1) -> None:
        """Tell a home, at the end of the turn, what lets go of what it holds for it here.

        ``since``: how many ``new_holds`` there were when that came here. Nothing that was held
        before came with it.
        """
        self.returns.append(_Return(peer, message, since))

    def settle(self) -> None:
        """At the end of a turn: tell homes what is held and what is no more."""
        store = self._store
        if not (store.to_register or store.to_release or self.returns or self.releases):
            return
        leave: list[tuple[Any, Any]] = []
        returns, self.returns = self.returns, []
        if store.to_register or store.to_release:
            changed = dict.fromkeys([*store.to_register, *store.to_release])
            store.to_register, store.to_release = [], []
            leave += self._tell_homes(list(changed))
        leave += [(home, m.Release(object_ids)) for home, object_ids in self.releases]
        self.releases = []
        is_out_of_reach = self._core.neighbours.is_out_of_reach
        barrier = {h: h.holds_sent for h in self._unregistered if not is_out_of_reach(h)}
        for peer, message, since in returns:
            # A task lets go of what came with it: only Holds that are younger can be of that. What
            # was held before is held for others as well, whose Returned waits.
            self._leave({h: n for h, n in barrier.items() if h.new_hold > since}, peer, message)
        for home, release in leave:
            self._leave(barrier, home, release)

    def _leave(self, barrier: dict[OtherNode, int], to_whom: Any, message: Any) -> None:
        # In order for each recipient, but that a task's Returned may go ahead of others.
        if barrier or (
            not isinstance(message, m.Returned)
            and any(entry.to_whom is to_whom for entry in self._waiting)
        ):
            self._waiting.append(_Waiting(barrier, to_whom, message))
        else:
            self._send(to_whom, message)

    def _tell_homes(self, changed: list[bytes]) -> list[tuple[OtherNode, m.Release]]:
        """Send Holds, and return the Releases to be sent: of what is not as the home believes."""
        new: list[bytes] = []
        gone: list[bytes] = []
        for object_id in changed:
            is_told = object_id in self._told
            if not self._is_registered(object_id):
                if is_told and self._told[object_id] is None:
                    gone.append(object_id)
            elif not is_told:
                new.append(object_id)
            else:
                release = self._told[object_id]
                if release is not None:  # held again, before its home was told that it is not
                    release.object_ids.remove(object_id)
                    self._told[object_id] = None
        for home, ids in self._by_home(new):
            self.new_holds += 1
            home.new_hold = self.new_holds
            self._hold(home, ids)
        releases = []
        for home, ids in self._by_home(gone):
            release = m.Release(ids)
            self._told.update(dict.fromkeys(ids, release))
            releases.append((home, release))
        return releases

    def _hold(self, home: OtherNode, object_ids: list[bytes], kept: Sequence[bytes] = ()) -> None:
        self._told.update(dict.fromkeys(object_ids))
        self._core.neighbours.send(home, m.Hold(object_ids, list(kept)))
        home.holds_sent += 1
        self._unregistered[home] = None

    def _is_registered(self, object_id: bytes) -> bool:
        stored = self._store.objects.get(object_id)
        return stored is not None and stored.is_registered

    def _by_home(self, object_ids: list[bytes]) -> list[tuple[OtherNode, list[bytes]]]:
        # Of homes that are dead nothing has to be told.
        groups: dict[OtherNode, list[bytes]] = {}
        for object_id in object_ids:
            home = self._core.neighbours.home_of(object_id)
            if home is not None:
                groups.setdefault(home, []).append(object_id)
        return list(groups.items())

    def _on_registered(self, home: OtherNode, message: m.Registered) -> None:
        home.holds_registered = message.count
        if home.holds_registered == home.holds_sent:
            self._unregistered.pop(home, None)
        self._let_go()

    def _let_go(self) -> None:
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, deque()
        behind: set[int] = set()  # recipients for whom something waits still
        for entry in waiting:
            is_late = any(home.holds_registered < sent for home, sent in entry.barrier.items())
            may_overtake = isinstance(entry.message, m.Returned)
            if is_late or (id(entry.to_whom) in behind and not may_overtake):
                behind.add(id(entry.to_whom))
                self._waiting.append(entry)
            else:
                self._send(entry.to_whom, entry.message)

    def _send(self, to_whom: Any, message: Any) -> None:
        if not isinstance(to_whom, OtherNode):
            self._core.send(to_whom, message)
            return
        if isinstance(message, m.Release):
            for object_id in message.object_ids:
                if self._told.get(object_id) is message:
                    del self._told[object_id]
            if not message.object_ids:
                return
        self._core.neighbours.send(to_whom, message)

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
        self._core.neighbours.send(home, m.Want([stored.id]))

    def _on_ready(self, home: OtherNode, message: m.Ready) -> None:
        if message.offset == m.TROUBLE:  # of its home now: no value, and nothing to keep
            self._core.pulls.home_failed(message.object_id, message.data)
            return
        self.value_known(message.object_id, message.data, 0, ())

    def _on_located(self, home: OtherNode, message: m.Located) -> None:
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

    def home_lost(self, home: OtherNode, *, was_used: bool) -> None:
        """What it was asked for has to be found elsewhere. What it was told it keeps, if it lives,
        and what it made for this home, until it is told on a new line what of that is held now."""
        self._unregistered.pop(home, None)
        prefix = home.node_id[:HOME_BYTES]
        for object_id in [i for i in self._told if home_of(i) == prefix]:
            del self._told[object_id]
        releases = [entry.message for entry in self._waiting if entry.to_whom is home]
        # What is inside of a result that was made there goes if that does: still not too soon.
        left = [r for r in releases if home.is_alive and not _is_of_home(r.object_ids, prefix)]
        kept = [object_id for release in left for object_id in release.object_ids]
        self.releases = [pair for pair in self.releases if pair[0] is not home]
        self._waiting = deque(
            entry for entry in self._waiting if entry.to_whom is not home or entry.message in left
        )
        mine = [
            stored
            for stored in self._store.objects.values()
            if stored.is_foreign and home_of(stored.id) == prefix
        ]
        held = [stored.id for stored in mine if stored.is_registered]
        if home.is_alive and was_used:
            # On a new line, where it tells that this is all.
            self._hold(home, held, [*self._core.forwarder.kept_at(home), *kept])
        is_hopeless = not home.is_alive or self._core.neighbours.is_out_of_reach(home)
        for entry in self._waiting:
            if home in entry.barrier:
                entry.barrier = {**entry.barrier, home: home.holds_sent}
                if is_hopeless:
                    del entry.barrier[home]
        for stored in mine:
            if stored.is_asked:
                stored.is_asked = False
                self.ask_home(stored)
                if home.is_alive:
                    self._core.pulls.home_silent(stored, is_hopeless)
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
        return not (
            self._waiting or self._unregistered or self._told or self.returns or self.releases
        )

    def check(self) -> None:
        """Assert the invariants; for tests and the simulator."""
        for home in self._unregistered:
            assert home.holds_registered < home.holds_sent
        waiting = [entry.message for entry in self._waiting]
        for object_id, release in self._told.items():
            if release is None:
                assert self._is_registered(object_id) or object_id in self._store.to_release
            else:
                assert object_id in release.object_ids and release in waiting


def _is_of_home(object_ids: list[bytes], prefix: bytes) -> bool:
    return not object_ids or home_of(object_ids[0]) == prefix
