"""Offers to the global scheduler: tasks that nodes would rather not run, and their places."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from skate.error_records import ErrorRecord, encode_error
from skate.gcs import questions
from skate.gcs.hears import Asker, Body, answers, hears
from skate.gcs.membership import LostNode, Membership, NodeRow
from skate.gcs.outbox import Outbox
from skate.messages import Demanded, Heartbeat, Offer, Placed
from skate.scheduler.global_scheduler import GlobalScheduler
from skate.spec import Demand, resources_of


class KnowsGroups(Protocol):
    """The part that keeps placement groups; an offer may be bound to a group's resources."""

    def why_gone(self, demand: Demand) -> str:
        """Why this demand can never be met, if its group is no more; else ""."""

    def pending(self) -> list[dict[str, Any]]:
        """The groups that wait, for people."""


class OfferHandlers:
    """See the module's docstring."""

    def __init__(
        self,
        scheduler: GlobalScheduler,
        groups: KnowsGroups,
        membership: Membership,
        outbox: Outbox,
    ) -> None:
        self._scheduler = scheduler
        self._groups = groups
        self._membership = membership
        self._outbox = outbox

    @hears(Offer)
    def on_offer(self, node: NodeRow, message: Offer, now: float) -> None:
        """A node asks where to run tasks, or takes that back."""
        why = self._groups.why_gone(message.demand) if message.count else ""
        if why:
            self._outbox.send(node.peer, group_is_gone(message, why))
        else:
            self._answer(self._scheduler.offer(node.node_id, message, now))

    @answers(questions.Pending)
    def pending(self, _asker: Asker, _ask: questions.Pending, _now: float) -> Body:
        """All waiting work: on nodes, for a node, and placement groups."""
        rows = [
            _view_demanded(node.node_id, demanded)
            for node in self._membership.alive()
            if node.load is not None
            for demanded in node.load.pending
        ]
        rows += [_view_demanded(*pair) for pair in self._scheduler.pending_by_node()]
        return rows + self._groups.pending()

    def node_joined(self, node: NodeRow, _now: float) -> None:
        """There is one more node to choose."""
        self._scheduler.node_joined(node.node_id, node.resources, node.said.labels)

    def heartbeat(self, node: NodeRow, load: Heartbeat) -> None:
        """The load of a node."""
        self._scheduler.heartbeat(node.node_id, load)

    def node_lost(self, lost: LostNode) -> None:
        """A node is dead: it is chosen no more, and its offers are forgotten."""
        self._scheduler.node_left(lost.node.node_id)

    def tick(self, now: float) -> None:
        """Place waiting offers, if nodes have changed."""
        self._answer(self._scheduler.tick(now))

    def _answer(self, answers: Iterable[tuple[bytes, Placed]]) -> None:
        for node_id, placed in answers:
            self._outbox.send(self._membership.row(node_id).peer, placed)

    def check(self) -> None:
        """Assert the invariants of the global scheduler."""
        self._scheduler.check()


def group_is_gone(offer: Offer, why: str) -> Placed:
    """The answer to an offer that is bound to a removed placement group."""
    kind = "ActorPlacementGroupRemoved" if offer.is_actor else "TaskPlacementGroupRemoved"
    return Placed(offer.number, [], error=encode_error(ErrorRecord(kind, why)))


def _view_demanded(node_id: bytes, demanded: Demanded) -> dict[str, Any]:
    return {
        "name": demanded.name,
        "demand": resources_of(demanded.demand),
        "count": demanded.count,
        "reason": demanded.reason,
        "node_id": node_id.hex(),
    }
