"""Objects of other homes: held here, registered there, and given up in order. Pure.

Counts of references live at an object's home (its home is in its id). This node is a holder like
any process: it tells the home of its first hold and of its last release. The rule for every
hand-over is that the giver keeps its hold until the receiver's is registered. One queue keeps the
rule: a message that lets go of something elsewhere (a task's ``Returned``, a ``Release``) leaves
only after every ``Hold`` sent before it is acknowledged.

A home may live and be unreachable: each new line to it begins with a Hold of all that is held here,
and messages that waited for a Hold on the old line wait for that one. The wait has an end: nothing
waits for a home that is out of reach, until it answers. An object handed over meanwhile may be
lost; its reader gets an error.

A task from another home brings refs that its home holds until the task has returned. This node
tells their homes nothing, unless a process, a task or an object of this node comes to hold them as
well.

This part does not ask for values (finding.py), move bytes (pulls.py) or count references
(objects/object_store.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from skate import messages as m
from skate.ids import HOME_BYTES, home_of
from skate.node.finding import Finding
from skate.node.hears import ANSWERER, hears
from skate.node.node_table import NodeTable
from skate.node.outbox import Outbox
from skate.objects.object_store import ObjectStore
from skate.rows import Client, OtherNode


class _Waiting:
    """A message that may leave once all Holds that were sent before it are registered."""

    __slots__ = ("barrier", "message", "to_whom")

    def __init__(self, barrier: dict[OtherNode, int], to_whom: Any, message: Any) -> None:
        self.barrier = barrier  # by home: the number of its last Hold that must be answered
        self.to_whom = to_whom  # another node, by the line to it or as a client of this one
        self.message = message


class _Return(NamedTuple):
    """The end of a task or an actor, for its home; it came here after ``since`` new Holds."""

    client: Client
    message: m.Returned | m.ActorNews
    since: int


class _Forwarding(Protocol):
    def kept_at(self, host: OtherNode) -> list[bytes]: ...


class Borrowing:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        store: ObjectStore,
        nodes: NodeTable,
        finding: Finding,
        forwarding: _Forwarding,
    ) -> None:
        self._outbox = outbox
        self._store = store
        self._nodes = nodes
        self._finding = finding
        self._forwarding = forwarding
        self.new_holds = 0  # Holds of objects that their homes counted as not held
        self._returns: list[_Return] = []  # of this turn
        self._releases: list[tuple[OtherNode, list[bytes]]] = []  # of results kept elsewhere
        self._waiting: deque[_Waiting] = deque()
        self._unregistered: dict[OtherNode, None] = {}  # homes with a Hold under way
        # Objects that their homes count as held here; with the Release, if one still waits.
        self._told: dict[bytes, m.Release | None] = {}

    def leave(self, client: Client, message: m.Returned | m.ActorNews, since: int = -1) -> None:
        """Send a home, at the end of the turn, a message that ends its holds for a task or actor.

        ``since``: the count of ``new_holds`` when the task or actor came here. No object held
        before came with it.
        """
        self._returns.append(_Return(client, message, since))

    def release(self, home: OtherNode, object_ids: list[bytes]) -> None:
        """Let go, at the end of the turn, of results that this node keeps for us."""
        self._releases.append((home, object_ids))

    def settle(self) -> None:
        """At the end of a turn: tell homes which objects are held now and which no more."""
        store = self._store
        if not (store.to_register or store.to_release or self._returns or self._releases):
            return
        leave: list[tuple[Any, Any]] = []
        returns, self._returns = self._returns, []
        if store.to_register or store.to_release:
            changed = dict.fromkeys([*store.to_register, *store.to_release])
            store.to_register, store.to_release = [], []
            leave += self._tell_homes(list(changed))
        leave += [(home, m.Release(object_ids)) for home, object_ids in self._releases]
        self._releases = []
        is_out_of_reach = self._nodes.is_out_of_reach
        barrier = {h: h.holds_sent for h in self._unregistered if not is_out_of_reach(h)}
        for client, message, since in returns:
            # A task lets go of objects that came with it, so only younger Holds can be of those. An
            # object held before is held for other tasks as well, and their Returned waits.
            self._leave({h: n for h, n in barrier.items() if h.new_hold > since}, client, message)
        for home, release in leave:
            self._leave(barrier, home, release)

    def _leave(self, barrier: dict[OtherNode, int], to_whom: Any, message: Any) -> None:
        # Messages to one recipient keep their order, but a task's Returned may overtake others.
        if barrier or (
            not isinstance(message, m.Returned)
            and any(entry.to_whom is to_whom for entry in self._waiting)
        ):
            self._waiting.append(_Waiting(barrier, to_whom, message))
        else:
            self._send(to_whom, message)

    def _tell_homes(self, changed: list[bytes]) -> list[tuple[OtherNode, m.Release]]:
        """Send Holds of newly held objects; return the Releases of those no longer held."""
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
                if release is not None:  # held again, before the Release left
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
        self._outbox.send_node(home, m.Hold(object_ids, list(kept)))
        home.holds_sent += 1
        self._unregistered[home] = None

    def _is_registered(self, object_id: bytes) -> bool:
        stored = self._store.objects.get(object_id)
        return stored is not None and stored.is_registered

    def _by_home(self, object_ids: list[bytes]) -> list[tuple[OtherNode, list[bytes]]]:
        # Dead homes need not be told.
        groups: dict[OtherNode, list[bytes]] = {}
        for object_id in object_ids:
            home = self._nodes.home_of(object_id)
            if home is not None:
                groups.setdefault(home, []).append(object_id)
        return list(groups.items())

    @hears(m.Registered, ANSWERER)
    def on_registered(self, home: OtherNode, message: m.Registered) -> None:
        """A home has registered so many Holds of this node."""
        home.holds_registered = message.count
        if home.holds_registered == home.holds_sent:
            self._unregistered.pop(home, None)
        self._let_go()

    def _let_go(self) -> None:
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, deque()
        behind: set[int] = set()  # recipients with a message that still waits
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
            self._outbox.send(to_whom, message)
            return
        if isinstance(message, m.Release):
            for object_id in message.object_ids:
                if self._told.get(object_id) is message:
                    del self._told[object_id]
            if not message.object_ids:
                return
        self._outbox.send_node(to_whom, message)

    def home_lost(self, home: OtherNode, *, was_used: bool) -> None:
        """Values asked of this home must be found elsewhere. If it lives, it keeps the objects held
        here and the results made for this home, until a new line tells which are held now."""
        self._unregistered.pop(home, None)
        prefix = home.node_id[:HOME_BYTES]
        for object_id in [i for i in self._told if home_of(i) == prefix]:
            del self._told[object_id]
        releases = [entry.message for entry in self._waiting if entry.to_whom is home]
        # Home alive: keep the Releases of results that it made for this home. The refs inside a
        # result go with it, so each Release still waits for its Holds.
        left = [r for r in releases if home.is_alive and not _is_of_home(r.object_ids, prefix)]
        kept = [object_id for release in left for object_id in release.object_ids]
        self._releases = [pair for pair in self._releases if pair[0] is not home]
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
            # The first Hold on the new line names all that is held.
            self._hold(home, held, [*self._forwarding.kept_at(home), *kept])
        is_hopeless = not home.is_alive or self._nodes.is_out_of_reach(home)
        for entry in self._waiting:
            if home in entry.barrier:
                entry.barrier = {**entry.barrier, home: home.holds_sent}
                if is_hopeless:
                    del entry.barrier[home]
        for stored in mine:
            if stored.is_asked:
                stored.is_asked = False
                self._finding.ask_home(stored)
                if home.is_alive:
                    self._finding.home_silent(stored, is_hopeless)
        if not home.is_alive:
            self._store.drop_home(prefix)
        self._let_go()

    def is_idle(self) -> bool:
        """Whether nothing waits for an answer of a home; for tests and the simulator."""
        return not (
            self._waiting or self._unregistered or self._told or self._returns or self._releases
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
