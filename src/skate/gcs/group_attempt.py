"""The state of `PlacementGroups` while groups wait: attempts under way, and room on nodes.

Plain state with the few rules that concern one of them alone. placement_groups.py explains attempts
and claims, and decides.
"""

from __future__ import annotations

from skate.config import GROUP_RETRY_S, KEPT_FREE_S, RESERVE_TIMEOUT_S, RESOURCE_PATIENCE_S
from skate.scheduler.bundle_choice import NodeRoom
from skate.scheduler.label_rules import labels_of


class Attempt:
    """A reservation under way."""

    __slots__ = ("awaited", "is_claim", "number", "places", "since", "within_s")

    def __init__(
        self,
        number: int,
        places: dict[bytes, list[int]],
        since: float,
        claim_s: float,
    ) -> None:
        self.number = number
        self.places = places  # node -> bundles
        self.awaited = dict.fromkeys(places)  # nodes that have not answered
        self.since = since
        self.is_claim = claim_s > 0
        self.within_s = claim_s or RESERVE_TIMEOUT_S

    def is_late(self, now: float) -> bool:
        """True if it has taken too long, or if the clock was set back, which hides that."""
        return not 0.0 <= now - self.since <= self.within_s


class Waiting:
    """A group that has bundles to be placed."""

    __slots__ = (
        "attempt",
        "claim_at",
        "claim_s",
        "delay_s",
        "no_claim",
        "not_before",
        "refused",
    )

    def __init__(self, now: float) -> None:
        self.attempt: Attempt | None = None
        self.claim_at = now + RESOURCE_PATIENCE_S  # not before
        self.claim_s = KEPT_FREE_S  # how long its next claim may take
        self.no_claim: dict[bytes, None] = {}  # nodes that have refused its claim
        self.not_before = now
        self.delay_s = GROUP_RETRY_S
        self.refused: dict[bytes, None] = {}  # nodes that said no since the last pause


class GroupNode:
    """A living node: its own resources, the free ones, and those that groups add.

    `attainable` is what would be free if tasks ended. `unseen` are reservations that `free` does
    not account for yet, by group and attempt: the amounts, and whether the node has answered. The
    next heartbeat after the answer accounts for them.
    """

    __slots__ = ("added", "attainable", "free", "labels", "node_id", "peer", "total", "unseen")

    def __init__(
        self, node_id: bytes, peer: int, total: dict[str, int], labels: dict[str, str]
    ) -> None:
        self.node_id = node_id
        self.peer = peer
        self.total = dict(total)
        self.labels = labels_of(node_id, labels)
        self.free = dict(total)
        self.attainable = self.free
        self.added: dict[str, int] = {}
        self.unseen: dict[tuple[bytes, int], tuple[dict[str, int], bool]] = {}

    def room(self, *, to_claim: bool = False) -> NodeRoom:
        """The node for bundle_choice.py: what is free, or (`to_claim`) what may become free."""
        free = self.attainable if to_claim else self.free
        if self.unseen:
            free = dict(free)
            for units, _ in self.unseen.values():
                for name, taken in units.items():
                    free[name] = free.get(name, 0) - taken
        return NodeRoom(self.node_id, self.total, free, self.labels)

    def add(self, resources: dict[str, int], sign: int) -> None:
        """Bundles have come (1) or gone (-1) with these resources."""
        for name, units in resources.items():
            left = self.added.get(name, 0) + sign * units
            if left:
                self.added[name] = left
            else:
                del self.added[name]
