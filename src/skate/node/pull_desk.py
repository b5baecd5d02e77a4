"""Values from other nodes, brought into this node's arena when somebody here needs them. Pure.

Part of the node core, around the pull manager (objects/pull_manager.py), which merges requests,
chooses sources and bounds what is under way. Space for a copy is asked of the object store like any
other extent; the bytes are moved by the shell's threads (node/shell/transfer.py). When no node that
is known to have a value can be reached, its home is asked to fetch it and to be the source.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from skate import messages as m
from skate.config import HOME_FETCHES_MAX, REACH_AGAIN_S, SILENT_NODE_S
from skate.node.error_payload import error_payload
from skate.objects.object_store import PENDING, REMOTE, Creation, StoredObject
from skate.objects.pull_manager import (
    AbandonExtent,
    Action,
    Arrived,
    CancelFetch,
    Failed,
    Locate,
    MakeRoom,
    PullManager,
    StartFetch,
)
from skate.rows import Client, Task
from skate.states import OBJECT_MOVES, ObjectState, advance

if TYPE_CHECKING:
    from skate.node.node_core import NodeCore


class PullDesk:
    """See the module's docstring."""

    def __init__(self, core: NodeCore) -> None:
        self._core = core
        self._store = core.store
        self.creator = Client()  # whose extents the copies are, while they are being written
        self.creator.role = "transfer"
        self._manager = PullManager(core.node_id, self._choose)
        self._home_fetches: dict[bytes, int] = {}  # how often a home was asked to be the source
        # Values of this home whose keeper lives and cannot be reached: since when, when again.
        self._unreached: dict[bytes, tuple[float, float]] = {}
        self._is_acting = False

    @property
    def bandwidth(self) -> float:
        """Average bytes a second of transfers to this node; 0 before the first."""
        return self._manager.bandwidth

    def _choose(self, sources: Sequence[bytes]) -> bytes:
        number = int.from_bytes(self._core.shell.new_id()[:4], "big")
        return sources[number % len(sources)]

    # ------------------------------------------------------------------ who wants what

    def want(self, stored: StoredObject) -> None:
        """Somebody here needs the value, which lies elsewhere."""
        urgent = bool(stored.waiters)
        nodes = stored.nodes or ()
        self._manager.want(stored.id, stored.size, nodes, urgent, self._core.now)
        self._act()

    def prefer(self, object_ids: list[bytes]) -> None:
        """These are needed before all others."""
        self._manager.prefer(object_ids)
        self._act()

    def relocated(self, stored: StoredObject) -> None:
        """More is known of where it lies."""
        self._manager.learned(stored.id, stored.nodes or (), self._core.now)
        self._act()

    def node_died(self, node_id: bytes) -> None:
        """Nothing comes from there any more."""
        self._manager.node_died(node_id)
        self._act()

    def tick(self) -> None:
        """Try again what is due; stop what nobody needs any more."""
        for object_id in list(self._home_fetches):
            stored = self._store.objects.get(object_id)
            if stored is None or stored.state not in (PENDING, REMOTE):
                del self._home_fetches[object_id]
        self._reach_again()
        if not len(self._manager):
            return
        for object_id in list(self._store.arriving):
            stored = self._store.objects.get(object_id)
            if stored is None or not (stored.waiters or stored.subscribers):
                self._manager.drop(object_id)
        self.retry()

    def _reach_again(self) -> None:
        for object_id, (since, due) in list(self._unreached.items()):
            stored = self._store.objects.get(object_id)
            is_remote = stored is not None and stored.state is REMOTE
            if stored is None or not is_remote or not (stored.waiters or stored.subscribers):
                del self._unreached[object_id]
            elif due <= self._core.now:
                self._unreached[object_id] = (since, math.inf)  # until that has failed as well
                self.want(stored)

    def retry(self) -> None:
        """Try again what is due."""
        self._manager.tick(self._core.now)
        self._act()

    def deadline(self) -> float | None:
        """When ``retry`` has something to do."""
        return self._manager.deadline() if len(self._manager) else None

    # ------------------------------------------------------------------ what happens

    def space_given(self, creation: Creation) -> None:
        """There is space for a copy."""
        self._manager.extent_ready(creation.object_id, creation.offset or 0, self._core.now)
        self._act()

    def refused(self, object_id: bytes, payload: bytes) -> None:
        """There is no space for a copy, and there will be none soon: tell who waits for it."""
        self._manager.extent_refused(object_id)
        stored = self._store.objects.get(object_id)
        if stored is not None:
            others = self._take_those_that_fit(stored)
            self._tell(stored, payload)
            if others:
                stored.waiters = others
                self.want(stored)
        self._act()

    def _take_those_that_fit(self, stored: StoredObject) -> list[Task]:
        # If one that waits can never have all its inputs here, it alone is to fail.
        objects, capacity = self._store.objects, self._store.arena.capacity_bytes
        waiters = stored.waiters or []
        fit = [
            task
            for task in waiters
            if sum(objects[i].size for i in task.dependencies or ()) <= capacity
        ]
        if len(fit) in (0, len(waiters)):
            return []
        stored.waiters = [task for task in waiters if task not in fit]
        return fit

    def _tell(self, stored: StoredObject, payload: bytes) -> None:
        # Of this node's trouble, not the object's: its value is what it was.
        subscribers, stored.subscribers = stored.subscribers or (), None
        waiters, stored.waiters = stored.waiters or (), None
        for peer in subscribers:
            self._core.send(peer, m.Ready(stored.id, payload, m.TROUBLE))
        for task in waiters:
            self._core.doomed.append((task, payload))

    def fetched(self, object_id: bytes, why: str, size: int, seconds: float) -> None:
        """The shell has fetched (or not) what it was asked to."""
        self._manager.fetch_done(object_id, why == "ok", size, seconds, why, self._core.now)
        self._act()

    # ------------------------------------------------------------------ actions

    def _act(self) -> None:
        if self._is_acting:
            return  # whoever is at it takes these as well
        self._is_acting = True
        try:
            while actions := self._manager.take_actions():
                for action in actions:
                    self._perform(action)
        finally:
            self._is_acting = False

    def _perform(self, action: Action) -> None:
        core = self._core
        object_id = action.object_id
        match action:
            case MakeRoom():
                creation = self._store.create(
                    self.creator, object_id, action.size, core.now, is_copy=True
                )
                if creation.offset is not None:
                    self.space_given(creation)
                elif action.size > self._store.arena.capacity_bytes:
                    core.desk.refuse(creation)
            case AbandonExtent():
                waiting = self._store.arriving.get(object_id)
                if waiting is not None:
                    self._store.abandon(waiting)
            case StartFetch():
                core.shell.fetch(object_id, action.offset, action.size, action.node_id)
            case CancelFetch():
                core.shell.cancel_fetch(object_id)
            case Locate():
                core.questions.ask_for_core(
                    "locate",
                    {"object_id": object_id, "wait": False},
                    lambda body: self._on_located(object_id, body),
                )
            case Arrived():
                self._on_arrived(object_id)
            case Failed():
                if action.why != "full":  # else ``refused`` has told already
                    self._on_failed(object_id, action.tried)

    def _on_located(self, object_id: bytes, body: object) -> None:
        nodes = body["nodes"] if isinstance(body, dict) else []
        self._manager.located(object_id, nodes, self._core.now)
        self._act()

    def _on_arrived(self, object_id: bytes) -> None:
        self._home_fetches.pop(object_id, None)
        self._unreached.pop(object_id, None)
        stored = self._store.objects.get(object_id)
        if stored is not None and stored.state is REMOTE:
            self._core.desk.copy_arrived(stored)
        else:
            self._store.abandon(self._store.arriving[object_id])

    def _on_failed(self, object_id: bytes, tried: list[bytes]) -> None:
        stored = self._store.objects.get(object_id)
        if stored is None or stored.state is not REMOTE:
            return
        self._have_home_fetch(stored, tried)

    def _have_home_fetch(self, stored: StoredObject, tried: list[bytes]) -> None:
        # The nodes that have it cannot be reached from here; from its home perhaps they can.
        object_id = stored.id
        home = self._core.neighbours.home_of(object_id) if stored.is_foreign else None
        fetches = self._home_fetches.get(object_id, 0)
        if home is None or fetches >= HOME_FETCHES_MAX:
            self._home_fetches.pop(object_id, None)
            if home is None:
                self._keeper_unreachable(stored, tried)
            else:
                how = "cannot be reached from this one, and its home could not pass it on"
                self._tell(stored, self._unreachable_payload(stored, tried, how))
            return
        self._home_fetches[object_id] = fetches + 1
        stored.nodes = None
        stored.state = advance(OBJECT_MOVES, stored.state, ObjectState.PENDING)
        stored.is_asked = True
        self._core.neighbours.send(home, m.Unreachable(object_id, tried))

    def _keeper_unreachable(self, stored: StoredObject, tried: list[bytes]) -> None:
        if stored.id not in self._core.forwarder.kept_elsewhere:
            self.nowhere(stored)
            return
        now = self._core.now
        since, _ = self._unreached.get(stored.id, (now, now))
        if now - since < SILENT_NODE_S:
            self._unreached[stored.id] = (since, now + REACH_AGAIN_S)
            return
        del self._unreached[stored.id]
        how = f"could not be reached for {SILENT_NODE_S:g} s"
        self._tell(stored, self._unreachable_payload(stored, tried, how))

    def home_failed(self, object_id: bytes, payload: bytes) -> None:
        """Its home, which was asked to be the source, cannot have it now."""
        self._home_fetches.pop(object_id, None)
        stored = self._store.objects.get(object_id)
        if stored is not None and stored.state is PENDING:
            stored.is_asked = False
            self._tell(stored, payload)

    def _unreachable_payload(self, stored: StoredObject, tried: list[bytes], how: str) -> bytes:
        names = ", ".join(node_id.hex() for node_id in tried) or "none"
        return error_payload(
            "ObjectFetchTimedOutError",
            f"Object {stored.id.hex()} could not be fetched: the nodes that have it ({names}) "
            f"{how}.",
            object_ref_hex=stored.id.hex(),
        )

    # ------------------------------------------------------------------ values that are nowhere

    def find_orphan(self, stored: StoredObject) -> None:
        """Its home is dead: does any node have a copy?"""
        self._ask_for_copies(stored.id, lambda body: self._orphan_found(stored.id, body))

    def _orphan_found(self, object_id: bytes, body: object) -> None:
        stored = self._store.objects.get(object_id)
        if stored is None:
            return
        others = []
        if isinstance(body, dict):
            others = [n for n in body["nodes"] if n in self._core.neighbours.by_id]
        if others and isinstance(body, dict):
            self._core.borrowing.value_known(object_id, b"", body["size"], others)
        else:
            self._core.borrowing.orphan(stored)

    def home_silent(self, stored: StoredObject, is_final: bool) -> None:
        """Its home lives, but cannot be reached from here: does another node have a copy?

        If not, and if ``is_final``, whoever waits for it here is told.
        """
        self._ask_for_copies(stored.id, lambda body: self._sought(stored.id, body, is_final))

    def _sought(self, object_id: bytes, body: object, is_final: bool) -> None:
        stored = self._store.objects.get(object_id)
        if stored is None or stored.state is not PENDING or not stored.is_asked:
            return
        others = self._within_reach(body)
        if others and isinstance(body, dict):
            self._core.borrowing.value_known(object_id, b"", body["size"], others)
        elif is_final:
            stored.is_asked = False
            self._tell(stored, self._home_payload(stored))

    def _within_reach(self, body: object) -> list[bytes]:
        neighbours = self._core.neighbours
        lost = neighbours.unreachable()
        told = body["nodes"] if isinstance(body, dict) else []
        return [n for n in told if n in neighbours.by_id and n not in lost]

    def _home_payload(self, stored: StoredObject) -> bytes:
        return error_payload(
            "ObjectFetchTimedOutError",
            f"Object {stored.id.hex()} could not be fetched: its home, the node whose process "
            f"created its ref, lives but could not be reached for {SILENT_NODE_S:g} s, and no "
            "other node within reach has a copy.",
            object_ref_hex=stored.id.hex(),
        )

    def nowhere(self, stored: StoredObject, cut_off: Sequence[bytes] = ()) -> None:
        """No node that is known to have had it has it any more, or those that have it are cut off
        from here."""
        if stored.state is not REMOTE:
            return
        self._manager.drop(stored.id)
        self._act()
        stored.nodes = None
        if cut_off and stored.is_foreign and (stored.waiters or stored.subscribers):
            self._have_home_fetch(stored, list(cut_off))
            return
        if stored.is_foreign:
            stored.state = advance(OBJECT_MOVES, stored.state, ObjectState.PENDING)
            stored.size = 0
            stored.is_asked = False
            if stored.waiters or stored.subscribers:
                self._core.borrowing.ask_home(stored)
            return
        self._ask_for_copies(stored.id, lambda body: self._copies_found(stored.id, body))

    def _copies_found(self, object_id: bytes, body: object) -> None:
        """Of an object of this home: nodes that made a copy for a task of theirs may have it."""
        stored = self._store.objects.get(object_id)
        if stored is None or stored.state is not REMOTE or stored.nodes:
            return
        stored.nodes = self._within_reach(body) or None
        if stored.nodes:
            if stored.waiters or stored.subscribers:
                self.want(stored)
            return
        payload = error_payload(
            "ObjectLostError",
            f"Object {object_id.hex()} is lost: every node that had a copy of it has died.",
            object_ref_hex=object_id.hex(),
        )
        self._store.fulfil_inline(stored, payload, None)
        self._core.desk.announce(stored)

    def _ask_for_copies(self, object_id: bytes, then: Callable[[Any], None]) -> None:
        body = {"object_id": object_id, "wait": False}
        self._core.questions.ask_for_core("locate", body, then)

    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return not len(self._manager) and not self._home_fetches and not self._unreached

    def check(self) -> None:
        """Assert the invariants; for tests and the simulator."""
        self._manager.check()
