"""The pulls of objects from other nodes into this node's arena: order and sources. Pure.

The node core reports wants and events, and performs the manager's actions, in order and before it
reports anything else from outside (events that an action itself causes may be reported at once):

    MakeRoom       get an extent: ``extent_ready`` (or ``extent_refused``) follows
    AbandonExtent  the extent is not needed, whether it was granted or still waits
    StartFetch     node/shell/transfer.py brings the bytes: ``fetch_done`` follows
    CancelFetch    stop a fetch; ``fetch_done`` still follows, and only then the extent is free
    Locate         ask which nodes have the object: ``located`` follows
    Arrived        the bytes are in the extent: seal it
    Failed         the object could not be had

An object is pulled once, however many ask. Pulls are admitted in the order in which they were
wanted, urgent ones first, within a bound of objects and of bytes: the first task's inputs are
complete before the last task's have begun.

Broadcast: a node serves ``UPLOADS_PER_OBJECT`` pulls of an object and answers the others "busy". A
node told "busy" asks the directory after a short while, and tries one of all copies by chance. So
each round of transfers triples the copies, and no node serves more than a few for each.

Invariants (``check``): a pull is queued or active; active ones keep to the bounds, or are alone; a
fetch has an extent, a source that is not known to have failed, and ends with ``fetch_done``; a pull
that waits for a time or an answer has a time after which it goes on. Every pull ends: with
``Arrived``, with ``Failed``, or because it was dropped.

The manager does not count the clients and tasks that want an object (the core calls ``drop`` after
the last), and does not rebuild lost objects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple

from skate import config


class MakeRoom(NamedTuple):
    """Create an extent for a copy of this object."""

    object_id: bytes
    size: int


class AbandonExtent(NamedTuple):
    """Give the extent of this copy back, or its place in the queue for one."""

    object_id: bytes


class StartFetch(NamedTuple):
    """Bring the object from this node into its extent."""

    object_id: bytes
    offset: int
    size: int
    node_id: bytes


class CancelFetch(NamedTuple):
    """Stop bringing it."""

    object_id: bytes


class Locate(NamedTuple):
    """Ask the GCS which nodes have it."""

    object_id: bytes


class Arrived(NamedTuple):
    """The object is here."""

    object_id: bytes


class Failed(NamedTuple):
    """No pull is possible: ``why`` is "lost" (on none of the nodes ``tried``) or "full"."""

    object_id: bytes
    tried: list[bytes]
    why: str


Action = MakeRoom | AbandonExtent | StartFetch | CancelFetch | Locate | Arrived | Failed


class PullState(Enum):
    """Where a pull is."""

    QUEUED = "queued"  # for its turn
    ROOM = "room"  # asked for an extent
    LOCATING = "locating"  # no source is left: asked for others
    WAITING = "waiting"  # its sources were busy
    FETCHING = "fetching"


QUEUED, ROOM, LOCATING, WAITING, FETCHING = PullState


class _Pull:
    __slots__ = (
        "asked",
        "backoff_s",
        "busy",
        "due",
        "failed",
        "is_dropped",
        "is_urgent",
        "nodes",
        "object_id",
        "offset",
        "size",
        "source",
        "state",
    )

    def __init__(self, object_id: bytes, size: int) -> None:
        self.object_id = object_id
        self.size = size
        self.state = QUEUED
        self.is_urgent = False
        self.is_dropped = False  # dropped while it is fetched
        self.offset = -1
        self.nodes: dict[bytes, None] = {}  # nodes that may have it, in the order of becoming known
        self.failed: dict[bytes, None] = {}  # nodes not to be tried (again)
        self.source = b""  # of the fetch under way
        self.busy = b""  # the node that was busy last
        self.backoff_s = config.BUSY_RETRY_S
        self.due = 0.0  # WAITING: try again; LOCATING: ask again
        self.asked = 0  # Locates without an answer


class PullManager:
    """See the module's docstring. ``choose`` picks one of several sources, at random.

    ``node_id`` is this node's own: it is no source, though a late table may still name it.
    """

    def __init__(
        self,
        node_id: bytes,
        choose: Callable[[Sequence[bytes]], bytes],
        *,
        pulls_at_once: int = config.PULLS_AT_ONCE,
        bytes_at_once: int = config.PULL_BYTES_AT_ONCE,
    ) -> None:
        self._node_id = node_id
        self._choose = choose
        self._pulls_at_once = pulls_at_once
        self._bytes_at_once = bytes_at_once
        self._pulls: dict[bytes, _Pull] = {}
        self._urgent: dict[bytes, _Pull] = {}  # queued, in order
        self._later: dict[bytes, _Pull] = {}  # queued behind the urgent ones
        self._active: dict[bytes, _Pull] = {}
        self._active_bytes = 0
        self._average_bytes = 0.0
        self._average_s = 0.0
        self._actions: list[Action] = []

    def __contains__(self, object_id: bytes) -> bool:
        """Whether an object is being pulled, and not only to be cancelled."""
        pull = self._pulls.get(object_id)
        return pull is not None and not pull.is_dropped

    def __len__(self) -> int:
        return len(self._pulls)

    @property
    def bandwidth(self) -> float:
        """Average bytes a second of transfers to this node; 0 before the first.

        The average bytes of a fetch by its average seconds: each fetch counts by its size. Many
        small objects, which take a moment on any network, do not hide its bandwidth.
        """
        return self._average_bytes / self._average_s if self._average_s else 0.0

    def take_actions(self) -> list[Action]:
        """The actions since the last call, in their order."""
        actions, self._actions = self._actions, []
        return actions

    # ------------------------------------------------------------------ what is wanted

    def want(
        self, object_id: bytes, size: int, nodes: Sequence[bytes], urgent: bool, now: float
    ) -> None:
        """Pull this object, which these nodes are said to have."""
        pull = self._pulls.get(object_id)
        if pull is None:
            pull = self._pulls[object_id] = _Pull(object_id, size)
            pull.is_urgent = urgent
            (self._urgent if urgent else self._later)[object_id] = pull
        elif urgent and not pull.is_urgent:
            pull.is_urgent = True
            if pull.state is QUEUED:
                del self._later[object_id]
                self._urgent[object_id] = pull
        pull.is_dropped = False
        self._learn(pull, nodes, now)
        self._admit()

    def drop(self, object_id: bytes) -> None:
        """Nothing here needs the object any more."""
        pull = self._pulls.get(object_id)
        if pull is None or pull.is_dropped:
            return
        if pull.state is FETCHING:
            pull.is_dropped = True
            self._actions.append(CancelFetch(object_id))
            return
        if pull.state is not QUEUED:
            self._actions.append(AbandonExtent(object_id))
        self._end(pull)

    def prefer(self, object_ids: Sequence[bytes]) -> None:
        """Pull these first: others that wait for an extent wait for their turn again."""
        pulls = (self._pulls.get(object_id) for object_id in object_ids)
        chosen = {pull.object_id: pull for pull in pulls if pull and pull.state is QUEUED}
        if not chosen:
            return
        back: dict[bytes, _Pull] = {}
        for object_id, pull in list(self._active.items()):
            if pull.state is ROOM and object_id not in object_ids:
                del self._active[object_id]
                self._active_bytes -= pull.size
                self._actions.append(AbandonExtent(object_id))
                pull.state = QUEUED
                (back if pull.is_urgent else self._later)[object_id] = pull
        for object_id, pull in chosen.items():
            self._later.pop(object_id, None)
            pull.is_urgent = True
        self._urgent = {**chosen, **back, **self._urgent}
        self._admit()

    # ------------------------------------------------------------------ what has happened

    def extent_ready(self, object_id: bytes, offset: int, now: float) -> None:
        """The store has given an extent to the copy."""
        pull = self._pulls.get(object_id)
        if pull is not None and pull.state is ROOM:
            pull.offset = offset
            self._go_on(pull, now)

    def extent_refused(self, object_id: bytes) -> None:
        """The store has no room for the copy, and will have none soon."""
        pull = self._pulls.get(object_id)
        if pull is not None and pull.state is ROOM:
            self._actions.append(Failed(object_id, list(pull.failed), "full"))
            self._end(pull)

    def located(self, object_id: bytes, nodes: Sequence[bytes], now: float) -> None:
        """The GCS answers: these nodes have the object by now."""
        pull = self._pulls.get(object_id)
        if pull is None:
            return
        pull.asked = max(0, pull.asked - 1)
        self._learn(pull, nodes, now)
        if pull.state is LOCATING and not pull.asked:
            self._fail(pull)

    def learned(self, object_id: bytes, nodes: Sequence[bytes], now: float) -> None:
        """Another node tells, unasked, that these nodes have the object too."""
        pull = self._pulls.get(object_id)
        if pull is not None:
            self._learn(pull, nodes, now)

    def fetch_done(
        self, object_id: bytes, ok: bool, bytes_: int, seconds: float, why: str, now: float
    ) -> None:
        """A fetch has ended; no thread writes to the extent any more.

        ``why`` is "ok", "busy", "gone" (the source has it no more), "unreachable" or "cancelled".
        """
        pull = self._pulls.get(object_id)
        if pull is None or pull.state is not FETCHING:
            return
        source, pull.source = pull.source, b""
        if ok:
            self._measure(bytes_, seconds)
        if pull.is_dropped:
            self._actions.append(AbandonExtent(object_id))
            self._end(pull)
        elif ok:
            self._actions.append(Arrived(object_id))
            self._end(pull)
        elif why == "busy":
            pull.state = WAITING
            pull.busy = source
            pull.due = now + pull.backoff_s
            pull.backoff_s = min(2 * pull.backoff_s, config.BUSY_RETRY_MAX_S)
            self._locate(pull)
        else:
            if why != "cancelled":
                pull.failed[source] = None
            self._go_on(pull, now)

    def node_died(self, node_id: bytes) -> None:
        """The GCS has given a node up: nothing comes from there any more."""
        for pull in self._pulls.values():
            pull.failed[node_id] = None
            if pull.source == node_id and not pull.is_dropped:
                self._actions.append(CancelFetch(pull.object_id))

    # ------------------------------------------------------------------ time

    def deadline(self) -> float | None:
        """When ``tick`` has to be called; None if no pull waits for a time."""
        dues = [p.due for p in self._active.values() if p.state in (WAITING, LOCATING)]
        return min(dues, default=None)

    def tick(self, now: float) -> None:
        """Try pulls again that were told "busy"; ask again where no answer came."""
        for pull in list(self._active.values()):
            if pull.due > now:
                continue
            if pull.state is WAITING:
                self._go_on(pull, now)
            elif pull.state is LOCATING:
                pull.asked = 0  # the answers got lost
                self._locate(pull)
                pull.due = now + config.LOCATE_AGAIN_S

    # ------------------------------------------------------------------ the life of a pull

    def _admit(self) -> None:
        while self._urgent or self._later:
            queue = self._urgent or self._later
            pull = next(iter(queue.values()))
            if self._active and (
                len(self._active) >= self._pulls_at_once
                or self._active_bytes + pull.size > self._bytes_at_once
            ):
                return
            del queue[pull.object_id]
            self._active[pull.object_id] = pull
            self._active_bytes += pull.size
            pull.state = ROOM
            self._actions.append(MakeRoom(pull.object_id, pull.size))

    def _end(self, pull: _Pull) -> None:
        object_id = pull.object_id
        del self._pulls[object_id]
        self._urgent.pop(object_id, None)
        self._later.pop(object_id, None)
        if self._active.pop(object_id, None) is not None:
            self._active_bytes -= pull.size
        self._admit()

    def _learn(self, pull: _Pull, nodes: Sequence[bytes], now: float) -> None:
        for node_id in nodes:
            if node_id != self._node_id:
                pull.nodes[node_id] = None
        if pull.state is LOCATING and self._sources(pull):
            self._go_on(pull, now)

    def _sources(self, pull: _Pull) -> list[bytes]:
        return [node_id for node_id in pull.nodes if node_id not in pull.failed]

    def _go_on(self, pull: _Pull, now: float) -> None:
        """A pull has its extent and no fetch: fetch from a source, or ask for sources."""
        sources = self._sources(pull)
        if not sources:
            pull.state = LOCATING
            pull.due = now + config.LOCATE_AGAIN_S
            self._locate(pull)
            return
        if len(sources) > 1 and pull.busy in sources:
            sources.remove(pull.busy)
        pull.busy = b""
        pull.state = FETCHING
        pull.source = sources[0] if len(sources) == 1 else self._choose(sources)
        self._actions.append(StartFetch(pull.object_id, pull.offset, pull.size, pull.source))

    def _locate(self, pull: _Pull) -> None:
        pull.asked += 1
        self._actions.append(Locate(pull.object_id))

    def _fail(self, pull: _Pull) -> None:
        self._actions.append(AbandonExtent(pull.object_id))
        tried = [node_id for node_id in pull.nodes if node_id in pull.failed]
        self._actions.append(Failed(pull.object_id, tried, "lost"))
        self._end(pull)

    def _measure(self, bytes_: int, seconds: float) -> None:
        weight = config.AVERAGE_WEIGHT if self._average_s else 1.0
        self._average_bytes += weight * (bytes_ - self._average_bytes)
        self._average_s += weight * (max(seconds, 1e-6) - self._average_s)

    # ------------------------------------------------------------------ for tests

    def check(self) -> None:
        """Assert the invariants of the module; for tests and the simulator."""
        queued = {**self._urgent, **self._later}
        assert not (self._urgent.keys() & self._later.keys()), "queued twice"
        assert not (queued.keys() & self._active.keys()), "queued and active"
        assert self._pulls.keys() == queued.keys() | self._active.keys(), "neither"
        assert all(pull.state is QUEUED for pull in queued.values())
        assert all(not pull.is_urgent for pull in self._later.values())
        assert self._active_bytes == sum(pull.size for pull in self._active.values())
        if len(self._active) > 1:
            assert len(self._active) <= self._pulls_at_once, "too many pulls at once"
            assert self._active_bytes <= self._bytes_at_once, "too many bytes at once"
        if queued:
            assert self._active, "something waits, and for nothing"
        for pull in self._active.values():
            fetching = pull.state is FETCHING
            assert pull.state is not QUEUED
            assert bool(pull.source) == fetching, "a source without a fetch, or the reverse"
            assert (pull.offset < 0) == (pull.state is ROOM), "an extent too early, or too late"
            assert fetching or not pull.is_dropped, "dropped, and still here"
            assert pull.state is not LOCATING or pull.asked, "waits for an answer to nothing"
            assert pull.state not in (WAITING, LOCATING) or pull.due > 0
