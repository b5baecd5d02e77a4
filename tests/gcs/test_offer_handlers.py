"""Offers and placement groups in the GCS, without the core: an offer ends with its group."""

from __future__ import annotations

from skate.error_records import decode_error
from skate.gcs import questions
from skate.gcs.event_log import EventLog
from skate.gcs.group_handlers import GroupHandlers
from skate.gcs.membership import Membership, NodeRow
from skate.gcs.offer_handlers import OfferHandlers
from skate.gcs.outbox import Outbox
from skate.messages import BundlesReserved, NodesChanged, Offer, Placed, ReserveBundles
from skate.scheduler.global_scheduler import GlobalScheduler
from skate.scheduler.group_names import rewrite_demand
from skate.spec import Demand, demand_of
from tests.gcs.joined import NODE_A, NODE_B, join, lose

GROUP = b"G" * 16
ONE_CPU = demand_of({"CPU": 1.0})
A, B = 1, 2  # peers


class Placing:
    """Both parts, and nodes A and B with two CPUs each."""

    def __init__(self) -> None:
        self.membership = Membership(None)
        self.outbox = Outbox(self.membership.by_peer)
        scheduler = GlobalScheduler(lambda: 0.5)
        self.groups = GroupHandlers(self.membership, scheduler, self.outbox, EventLog())
        self.offers = OfferHandlers(scheduler, self.groups.groups, self.membership, self.outbox)
        self.a = self._joined(NODE_A, A)
        self.b = self._joined(NODE_B, B)

    def _joined(self, node_id: bytes, peer: int) -> NodeRow:
        node = join(self.membership, node_id, peer)
        for part in (self.offers, self.groups):
            part.node_joined(node, 1.0)
        return node

    def offer(self, demand: Demand, number: int = 1) -> None:
        """A task that node A cannot run."""
        message = Offer(number, demand, 1, 1, 0.1, must_leave=True, name="f")
        self.offers.on_offer(self.a, message, 2.0)

    def reserve_group(self) -> int:
        """A group of one CPU; the peer of the node that is asked to set it aside."""
        ask = questions.CreatePlacementGroup(GROUP, [{"CPU": 10_000}])
        assert self.groups.create((A, 7), ask, 2.0) is None
        self.groups.settle()
        ((peer, reserve),) = self.outbox.take()
        assert isinstance(reserve, ReserveBundles)
        return peer

    def placed(self) -> list[tuple[int, Placed]]:
        self.groups.settle()
        self.offers.check()
        self.groups.check()
        return [(p, message) for p, message in self.outbox.take() if isinstance(message, Placed)]


def in_group() -> Demand:
    return rewrite_demand(ONE_CPU, GROUP, -1)


def test_an_offer_goes_to_the_other_node_until_that_one_is_dead() -> None:
    placing = Placing()
    placing.offer(ONE_CPU)
    assert placing.placed() == [(A, Placed(1, [(NODE_B, 1)]))]
    lost = lose(placing.membership, placing.b)
    placing.offers.node_lost(lost)
    placing.groups.node_lost(lost)
    placing.offer(ONE_CPU, number=2)
    ((peer, placed),) = placing.placed()
    assert (peer, placed.places) == (A, [])
    assert placed.reason  # waits, and is listed with that reason
    (row,) = placing.offers.pending((B, 1), questions.Pending(), 2.0)
    assert (row["name"], row["reason"], row["node_id"]) == ("f", placed.reason, NODE_A.hex())


def test_an_offer_that_waits_for_a_group_ends_with_the_group() -> None:
    placing = Placing()
    placing.reserve_group()
    placing.offer(in_group())
    ((_, waits),) = placing.placed()
    assert "not ready yet" in waits.reason
    assert placing.groups.remove((A, 8), questions.RemovePlacementGroup(GROUP), 3.0) is True
    ((peer, placed),) = placing.placed()
    assert (peer, placed.number, placed.places) == (A, 1, [])
    error = decode_error(placed.error)
    assert error.kind == "TaskPlacementGroupRemoved"
    assert "it was removed" in error.message
    placing.offer(in_group(), number=2)  # and no later one waits in vain
    ((_, late),) = placing.placed()
    assert decode_error(late.error).kind == "TaskPlacementGroupRemoved"
    assert placing.offers.pending((A, 9), questions.Pending(), 4.0) == []


def test_an_offer_for_a_group_is_placed_where_the_bundle_is_committed() -> None:
    placing = Placing()
    peer = placing.reserve_group()
    node = placing.membership.by_peer[peer]
    placing.groups.on_bundles_reserved(node, BundlesReserved(GROUP, 1, True), 2.0)
    placing.groups.settle()
    told = [to for to, message in placing.outbox.take() if isinstance(message, NodesChanged)]
    assert told == [A, B]  # what the node has in total now
    message = Offer(1, in_group(), 1, 1, 0.1)
    other = placing.b if node is placing.a else placing.a
    placing.offers.on_offer(other, message, 2.0)
    assert placing.placed() == [(other.peer, Placed(1, [(node.node_id, 1)]))]
