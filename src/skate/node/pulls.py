"""Values from other nodes, brought into this node's arena when they are needed here. Pure.

Around the pull manager (objects/pull_manager.py), which merges requests, chooses sources and bounds
the pulls under way. Space for a copy is asked of the object store like any other extent; the bytes
are moved by the shell's threads (node/shell/transfer.py). A value that no known node can give is
the business of finding.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from skate.node.asking import Asking
from skate.node.clock import Clock
from skate.node.identity import Identity
from skate.node.values import Values
from skate.node.world import Shell
from skate.objects.object_store import REMOTE, ObjectStore
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
from skate.objects.stored_object import Creation, StoredObject
from skate.rows import Client, Task


class _Puts(Protocol):
    def refuse(self, creation: Creation) -> None: ...


class _Finding(Protocol):
    def fetched(self, object_id: bytes) -> None: ...

    def fetch_failed(self, object_id: bytes, tried: list[bytes]) -> None: ...


class Pulls:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        clock: Clock,
        me: Identity,
        shell: Shell,
        store: ObjectStore,
        asking: Asking,
        values: Values,
        puts: _Puts,
        finding: _Finding,
    ) -> None:
        self._clock = clock
        self._shell = shell
        self._store = store
        self._asking = asking
        self._values = values
        self._puts = puts
        self._finding = finding
        self.creator = Client()  # owns the extents of copies while they are being written
        self.creator.role = "transfer"
        self._manager = PullManager(me.node_id, self._choose)
        self._is_acting = False

    @property
    def bandwidth(self) -> float:
        """Average bytes a second of transfers to this node; 0 before the first."""
        return self._manager.bandwidth

    def _choose(self, sources: Sequence[bytes]) -> bytes:
        number = int.from_bytes(self._shell.new_id()[:4], "big")
        return sources[number % len(sources)]

    # ------------------------------------------------------------------ who wants what

    def want(self, stored: StoredObject) -> None:
        """A client or task here needs a value that lies elsewhere."""
        urgent = bool(stored.waiters)
        nodes = stored.nodes or ()
        self._manager.want(stored.id, stored.size, nodes, urgent, self._clock.now)
        self._act()

    def prefer(self, object_ids: list[bytes]) -> None:
        """Pull these before all others."""
        self._manager.prefer(object_ids)
        self._act()

    def relocated(self, stored: StoredObject) -> None:
        """More locations of an object are known."""
        self._manager.learned(stored.id, stored.nodes or (), self._clock.now)
        self._act()

    def node_died(self, node_id: bytes) -> None:
        """Nothing comes from a dead node any more."""
        self._manager.node_died(node_id)
        self._act()

    def tick(self) -> None:
        """Try again pulls that are due; stop those that nothing needs any more."""
        if not len(self._manager):
            return
        for object_id in list(self._store.arriving):
            stored = self._store.objects.get(object_id)
            if stored is None or not (stored.waiters or stored.subscribers):
                self._manager.drop(object_id)
        self.retry()

    def drop(self, object_id: bytes) -> None:
        """Stop the pull of an object."""
        self._manager.drop(object_id)
        self._act()

    def retry(self) -> None:
        """Try again pulls that are due."""
        self._manager.tick(self._clock.now)
        self._act()

    def deadline(self) -> float | None:
        """When ``retry`` has to be called."""
        return self._manager.deadline() if len(self._manager) else None

    # ------------------------------------------------------------------ what happens

    def space_given(self, creation: Creation) -> None:
        """A copy has got its space."""
        self._manager.extent_ready(creation.object_id, creation.offset or 0, self._clock.now)
        self._act()

    def refused(self, object_id: bytes, payload: bytes) -> None:
        """A copy gets no space, and none soon: tell the clients and tasks that wait for it."""
        self._manager.extent_refused(object_id)
        stored = self._store.objects.get(object_id)
        if stored is not None:
            others = self._take_those_that_fit(stored)
            self._values.tell_trouble(stored, payload)
            if others:
                stored.waiters = others
                self.want(stored)
        self._act()

    def _take_those_that_fit(self, stored: StoredObject) -> list[Task]:
        # Task whose inputs can never all be here: it alone is to fail.
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

    def fetched(self, object_id: bytes, why: str, size: int, seconds: float) -> None:
        """The shell has fetched an object, or failed to (``why``)."""
        self._manager.fetch_done(object_id, why == "ok", size, seconds, why, self._clock.now)
        self._act()

    # ------------------------------------------------------------------ actions

    def _act(self) -> None:
        if self._is_acting:
            return  # the call under way takes these actions as well
        self._is_acting = True
        try:
            while actions := self._manager.take_actions():
                for action in actions:
                    self._perform(action)
        finally:
            self._is_acting = False

    def _perform(self, action: Action) -> None:
        object_id = action.object_id
        match action:
            case MakeRoom():
                creation = self._store.create(
                    self.creator, object_id, action.size, self._clock.now, is_copy=True
                )
                if creation.offset is not None:
                    self.space_given(creation)
                elif action.size > self._store.arena.capacity_bytes:
                    self._puts.refuse(creation)
            case AbandonExtent():
                waiting = self._store.arriving.get(object_id)
                if waiting is not None:
                    self._store.abandon(waiting)
            case StartFetch():
                self._shell.fetch(object_id, action.offset, action.size, action.node_id)
            case CancelFetch():
                self._shell.cancel_fetch(object_id)
            case Locate():
                self._asking.ask(
                    "locate",
                    {"object_id": object_id, "wait": False},
                    lambda body: self._on_located(object_id, body),
                )
            case Arrived():
                self._on_arrived(object_id)
            case Failed():
                if action.why != "full":  # else ``refused`` has told the clients already
                    self._finding.fetch_failed(object_id, action.tried)

    def _on_located(self, object_id: bytes, body: object) -> None:
        nodes = body["nodes"] if isinstance(body, dict) else []
        self._manager.located(object_id, nodes, self._clock.now)
        self._act()

    def _on_arrived(self, object_id: bytes) -> None:
        self._finding.fetched(object_id)
        stored = self._store.objects.get(object_id)
        if stored is not None and stored.state is REMOTE:
            self._values.copy_arrived(stored)
        else:
            self._store.abandon(self._store.arriving[object_id])

    def is_idle(self) -> bool:
        """Whether no pull is under way."""
        return not len(self._manager)

    def check(self) -> None:
        """Assert the invariants; for tests and the simulator."""
        self._manager.check()
