"""Where is this value? Homes are asked, and the GCS where a home cannot tell. Pure.

The home of an object (the node whose process created its ref) knows its value, or which nodes have
it. When no node that is known to have a value can be reached, its home is asked to fetch it and to
be the source. When the home is dead or silent, the GCS is asked for copies. A value without any
copy becomes an error for the clients and tasks that wait.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from skate import messages as m
from skate.config import HOME_FETCHES_MAX, REACH_AGAIN_S, SILENT_NODE_S
from skate.node.asking import Asking
from skate.node.clock import Clock
from skate.node.error_payload import error_payload
from skate.node.hears import ANSWERER, hears
from skate.node.identity import Identity
from skate.node.node_table import NodeTable
from skate.node.outbox import Outbox
from skate.node.pulls import Pulls
from skate.node.values import Values
from skate.objects.object_store import PENDING, REMOTE, ObjectStore
from skate.objects.stored_object import StoredObject
from skate.rows import OtherNode
from skate.states import OBJECT_MOVES, ObjectState, advance


class _Forwarding(Protocol):
    kept_elsewhere: dict[bytes, OtherNode]


class Finding:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        clock: Clock,
        outbox: Outbox,
        me: Identity,
        store: ObjectStore,
        nodes: NodeTable,
        asking: Asking,
        values: Values,
        pulls: Pulls,
        forwarding: _Forwarding,
    ) -> None:
        self._clock = clock
        self._outbox = outbox
        self._me = me
        self._store = store
        self._nodes = nodes
        self._asking = asking
        self._values = values
        self._pulls = pulls
        self._forwarding = forwarding
        self._home_fetches: dict[bytes, int] = {}  # how often a home was asked to be the source
        # Values of this home whose keeper lives and cannot be reached: since when, when again.
        self._unreached: dict[bytes, tuple[float, float]] = {}

    # ------------------------------------------------------------------ asking homes

    def ask_home(self, stored: StoredObject) -> None:
        """A client or task here wants a foreign object's value, and this node does not know it."""
        if stored.is_asked or stored.owner is not None:
            return  # the home was asked already, or the value is being made here
        stored.is_asked = True
        home = self._nodes.home_of(stored.id)
        if home is None:
            self.find_orphan(stored)
            return
        self._outbox.send_node(home, m.Want([stored.id]))

    @hears(m.Ready, ANSWERER)
    def on_ready(self, home: OtherNode, message: m.Ready) -> None:
        """A home tells a value, or that it cannot have it now."""
        if message.offset == m.TROUBLE:  # the home cannot have it now: no value to keep
            self.home_failed(message.object_id, message.data)
            return
        self.value_known(message.object_id, message.data, 0, ())

    @hears(m.Located, ANSWERER)
    def on_located(self, home: OtherNode, message: m.Located) -> None:
        """A home tells which nodes have a value."""
        self.value_known(message.object_id, b"", message.size, message.nodes)

    def value_known(
        self, object_id: bytes, data: bytes, size: int, nodes: Any
    ) -> StoredObject | None:
        """A foreign object's value, or the nodes that have it."""
        stored = self._store.objects.get(object_id)
        if stored is None:
            return None
        stored.is_asked = False
        others = [node_id for node_id in nodes if node_id != self._me.node_id]
        if stored.state is PENDING:
            if size:
                self._store.set_remote(stored, size, others, None)
            else:
                self._store.fulfil_inline(stored, data, None)
            self._values.announce(stored)
        elif size and stored.state is REMOTE:
            stored.nodes = list(dict.fromkeys([*others, *(stored.nodes or ())]))
            self._pulls.relocated(stored)
        return stored

    def orphan(self, stored: StoredObject) -> None:
        """An object's home is dead, and no node has a copy."""
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
            self._values.announce(stored)

    # ------------------------------------------------------------------ what could not be fetched

    def fetched(self, object_id: bytes) -> None:
        """A copy has arrived: earlier failures are over."""
        self._home_fetches.pop(object_id, None)
        self._unreached.pop(object_id, None)

    def fetch_failed(self, object_id: bytes, tried: list[bytes]) -> None:
        """No node that has the value could be reached from here."""
        stored = self._store.objects.get(object_id)
        if stored is None or stored.state is not REMOTE:
            return
        self._have_home_fetch(stored, tried)

    def _have_home_fetch(self, stored: StoredObject, tried: list[bytes]) -> None:
        # This node cannot reach the nodes that have the value; its home perhaps can.
        object_id = stored.id
        home = self._nodes.home_of(object_id) if stored.is_foreign else None
        fetches = self._home_fetches.get(object_id, 0)
        if home is None or fetches >= HOME_FETCHES_MAX:
            self._home_fetches.pop(object_id, None)
            if home is None:
                self._keeper_unreachable(stored, tried)
            else:
                how = "cannot be reached from this one, and its home could not pass it on"
                self._values.tell_trouble(stored, self._unreachable_payload(stored, tried, how))
            return
        self._home_fetches[object_id] = fetches + 1
        stored.nodes = None
        stored.state = advance(OBJECT_MOVES, stored.state, ObjectState.PENDING)
        stored.is_asked = True
        self._outbox.send_node(home, m.Unreachable(object_id, tried))

    def _keeper_unreachable(self, stored: StoredObject, tried: list[bytes]) -> None:
        if stored.id not in self._forwarding.kept_elsewhere:
            self.nowhere(stored)
            return
        now = self._clock.now
        since, _ = self._unreached.get(stored.id, (now, now))
        if now - since < SILENT_NODE_S:
            self._unreached[stored.id] = (since, now + REACH_AGAIN_S)
            return
        del self._unreached[stored.id]
        how = f"could not be reached for {SILENT_NODE_S:g} s"
        self._values.tell_trouble(stored, self._unreachable_payload(stored, tried, how))

    def home_failed(self, object_id: bytes, payload: bytes) -> None:
        """The home was asked to be the source, and cannot have the value now."""
        self._home_fetches.pop(object_id, None)
        stored = self._store.objects.get(object_id)
        if stored is not None and stored.state is PENDING:
            stored.is_asked = False
            self._values.tell_trouble(stored, payload)

    def _unreachable_payload(self, stored: StoredObject, tried: list[bytes], how: str) -> bytes:
        names = ", ".join(node_id.hex() for node_id in tried) or "none"
        return error_payload(
            "ObjectFetchTimedOutError",
            f"Object {stored.id.hex()} could not be fetched: the nodes that have it ({names}) "
            f"{how}.",
            object_ref_hex=stored.id.hex(),
        )

    def tick(self) -> None:
        """Forget values found by other ways; try again those that are due."""
        for object_id in list(self._home_fetches):
            stored = self._store.objects.get(object_id)
            if stored is None or stored.state not in (PENDING, REMOTE):
                del self._home_fetches[object_id]
        for object_id, (since, due) in list(self._unreached.items()):
            stored = self._store.objects.get(object_id)
            is_remote = stored is not None and stored.state is REMOTE
            if stored is None or not is_remote or not (stored.waiters or stored.subscribers):
                del self._unreached[object_id]
            elif due <= self._clock.now:
                self._unreached[object_id] = (since, math.inf)  # until this try has failed as well
                self._pulls.want(stored)

    # ------------------------------------------------------------------ values that are nowhere

    def find_orphan(self, stored: StoredObject) -> None:
        """An object's home is dead: does any node have a copy?"""
        self._ask_for_copies(stored.id, lambda body: self._orphan_found(stored.id, body))

    def _orphan_found(self, object_id: bytes, body: object) -> None:
        stored = self._store.objects.get(object_id)
        if stored is None:
            return
        others = []
        if isinstance(body, dict):
            others = [n for n in body["nodes"] if n in self._nodes.by_id]
        if others and isinstance(body, dict):
            self.value_known(object_id, b"", body["size"], others)
        else:
            self.orphan(stored)

    def home_silent(self, stored: StoredObject, is_final: bool) -> None:
        """The home lives, but cannot be reached from here: does another node have a copy?

        If not, and if ``is_final``, the clients and tasks that wait here get an error.
        """
        self._ask_for_copies(stored.id, lambda body: self._sought(stored.id, body, is_final))

    def _sought(self, object_id: bytes, body: object, is_final: bool) -> None:
        stored = self._store.objects.get(object_id)
        if stored is None or stored.state is not PENDING or not stored.is_asked:
            return
        others = self._within_reach(body)
        if others and isinstance(body, dict):
            self.value_known(object_id, b"", body["size"], others)
        elif is_final:
            stored.is_asked = False
            self._values.tell_trouble(stored, self._home_payload(stored))

    def _within_reach(self, body: object) -> list[bytes]:
        lost = self._nodes.unreachable()
        told = body["nodes"] if isinstance(body, dict) else []
        return [n for n in told if n in self._nodes.by_id and n not in lost]

    def _home_payload(self, stored: StoredObject) -> bytes:
        return error_payload(
            "ObjectFetchTimedOutError",
            f"Object {stored.id.hex()} could not be fetched: its home, the node whose process "
            f"created its ref, lives but could not be reached for {SILENT_NODE_S:g} s, and no "
            "other node within reach has a copy.",
            object_ref_hex=stored.id.hex(),
        )

    def nowhere(self, stored: StoredObject, cut_off: Sequence[bytes] = ()) -> None:
        """No known node has the value any more, or the nodes that have it are cut off from here."""
        if stored.state is not REMOTE:
            return
        self._pulls.drop(stored.id)
        stored.nodes = None
        if cut_off and stored.is_foreign and (stored.waiters or stored.subscribers):
            self._have_home_fetch(stored, list(cut_off))
            return
        if stored.is_foreign:
            stored.state = advance(OBJECT_MOVES, stored.state, ObjectState.PENDING)
            stored.size = 0
            stored.is_asked = False
            if stored.waiters or stored.subscribers:
                self.ask_home(stored)
            return
        self._ask_for_copies(stored.id, lambda body: self._copies_found(stored.id, body))

    def _copies_found(self, object_id: bytes, body: object) -> None:
        """The GCS names the nodes with a copy of an object of this home, made for tasks there."""
        stored = self._store.objects.get(object_id)
        if stored is None or stored.state is not REMOTE or stored.nodes:
            return
        stored.nodes = self._within_reach(body) or None
        if stored.nodes:
            if stored.waiters or stored.subscribers:
                self._pulls.want(stored)
            return
        payload = error_payload(
            "ObjectLostError",
            f"Object {object_id.hex()} is lost: every node that had a copy of it has died.",
            object_ref_hex=object_id.hex(),
        )
        self._store.fulfil_inline(stored, payload, None)
        self._values.announce(stored)

    def _ask_for_copies(self, object_id: bytes, then: Callable[[Any], None]) -> None:
        body = {"object_id": object_id, "wait": False}
        self._asking.ask("locate", body, then)

    def copies_lost(self, host: OtherNode) -> None:
        """A node is gone with its copies; or it cannot be reached, and keeps its results for this
        home until it can."""
        kept = self._forwarding.kept_elsewhere
        cut_off = [host.node_id] if host.is_alive else []
        for stored in list(self._store.objects.values()):
            if stored.nodes and host.node_id in stored.nodes and kept.get(stored.id) is not host:
                stored.nodes.remove(host.node_id)
                if stored.state is REMOTE and not stored.nodes:
                    self.nowhere(stored, cut_off)

    def is_idle(self) -> bool:
        """Whether nothing is sought; for tests and the simulator."""
        return not self._home_fetches and not self._unreached
