"""Placement groups: questions of users, answers of nodes, and news of groups for both.

The groups themselves are placement_groups.py. Bundles change what a node has in total, so this part
tells the membership, the global scheduler and all nodes; a removed group ends the offers that are
bound to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from skate.gcs import questions
from skate.gcs.event_log import EventLog
from skate.gcs.group_row import GroupRow, view_group
from skate.gcs.hears import LATER, Asker, Body, answers, hears
from skate.gcs.membership import LostNode, Membership, NodeRow, info_of
from skate.gcs.offer_handlers import group_is_gone
from skate.gcs.outbox import Outbox, Send
from skate.gcs.placement_groups import Changes, PlacementGroups
from skate.messages import BundlesReserved, Heartbeat, NodesChanged, Offer
from skate.scheduler.group_names import uses_group
from skate.states import PlacementGroupState


class PlacesOffers(Protocol):
    """A part with offers that wait, some of them for the resources of a group."""

    def node_changed(self, node_id: bytes, resources: dict[str, int]) -> None:
        """The node's totals are these now."""

    def give_up(self, is_hopeless: Callable[[Offer], bool]) -> list[tuple[bytes, Offer]]:
        """Forget these offers; the caller answers the nodes that made them."""


class GroupHandlers:
    """See the module's docstring."""

    def __init__(
        self, membership: Membership, scheduler: PlacesOffers, outbox: Outbox, log: EventLog
    ) -> None:
        self.groups = PlacementGroups(self._on_state, self._on_resources)
        self._membership = membership
        self._scheduler = scheduler
        self._outbox = outbox
        self._log = log

    # ------------------------------------------------------------------------- messages

    @hears(BundlesReserved)
    def on_bundles_reserved(self, node: NodeRow, message: BundlesReserved, now: float) -> None:
        """A node has set bundles aside, or cannot."""
        self.groups.reserved(node.node_id, message, now)

    # ------------------------------------------------------------------------- questions

    @answers(questions.CreatePlacementGroup)
    def create(self, _asker: Asker, ask: questions.CreatePlacementGroup, now: float) -> Body:
        """Enter a group, which is placed in its own time."""
        job = self._membership.jobs.get(ask.job_id)
        if job is not None and not job.alive and not ask.detached:
            raise ValueError(f"job {ask.job_id.hex()} has ended, and its groups with it")
        self.groups.create(_row_of(ask, now))

    @answers(questions.RemovePlacementGroup)
    def remove(self, _asker: Asker, ask: questions.RemovePlacementGroup, now: float) -> Body:
        """Remove a group and give back its bundles."""
        return self.groups.remove(ask.group_id, now)

    @answers(questions.WaitPlacementGroup)
    def wait(self, asker: Asker, ask: questions.WaitPlacementGroup, _now: float) -> Body:
        """Answered once the group is created or removed."""
        self.groups.wait(ask.group_id, asker)
        return LATER

    @answers(questions.PlacementGroupTable)
    def table(self, _asker: Asker, ask: questions.PlacementGroupTable, _now: float) -> Body:
        """All groups, or one, for people."""
        if ask.group_id is None:
            return [view_group(row) for row in self.groups.groups.rows()]
        row = self.groups.groups.get(ask.group_id)
        return [] if row is None else [view_group(row)]

    @answers(questions.GetPlacementGroup)
    def get(self, _asker: Asker, ask: questions.GetPlacementGroup, _now: float) -> Body:
        """A group by its name."""
        row = self.groups.find(ask.name, ask.namespace)
        return None if row is None else view_group(row)

    # ------------------------------------------------------------------------- nodes and jobs

    def node_joined(self, node: NodeRow, now: float) -> None:
        """There is one more node to choose."""
        self.groups.node_joined(node.node_id, node.peer, node.resources, node.said.labels, now)

    def heartbeat(self, node: NodeRow, load: Heartbeat) -> None:
        """The load of a node."""
        self.groups.heartbeat(node.node_id, load.available, load.attainable)

    def peer_lost(self, peer: int) -> None:
        """The peer is gone, and waits for no group any more."""
        self.groups.forget_peer(peer)

    def node_lost(self, lost: LostNode) -> None:
        """The bundles on the node are gone; their groups want others."""
        self.groups.node_lost(lost.node.node_id, lost.now)

    def job_over(self, job_id: bytes, now: float) -> None:
        """The groups of the job are removed, but for the detached ones."""
        self.groups.end_job(job_id, now)

    def tick(self, now: float) -> None:
        """Try waiting groups again."""
        self.groups.tick(now)

    def settle(self) -> None:
        """At the end of a turn: tell the groups' new states."""
        self._outbox.send_all(self.groups.take_sends())

    # ------------------------------------------------------------------------- inside

    def _on_state(self, row: GroupRow, now: float) -> list[Send]:
        text = row.reason or row.name
        self._log.record("placement_group", row.group_id, row.state.name, now, text, 0)
        if row.state is not PlacementGroupState.REMOVED:
            return []
        hopeless = self._scheduler.give_up(lambda offer: uses_group(offer.demand, row.group_id))
        sends: list[Send] = []
        for node_id, offer in hopeless:
            placed = group_is_gone(offer, self.groups.why_gone(offer.demand))
            sends.append((self._membership.row(node_id).peer, placed))
        return sends

    def _on_resources(self, changes: Changes) -> list[Send]:
        for node_id, resources in changes.items():
            self._membership.change_resources(node_id, resources)
            self._scheduler.node_changed(node_id, resources)
        changed = NodesChanged([info_of(self._membership.row(node_id)) for node_id in changes])
        return [(peer, changed) for peer in self._membership.by_peer]

    def counts(self) -> dict[str, Any]:
        """How many groups there are, by state."""
        return {"placement_groups": self.groups.counts()}

    def check(self) -> None:
        """Assert the invariants of the groups."""
        self.groups.check()


def _row_of(ask: questions.CreatePlacementGroup, now: float) -> GroupRow:
    bundles = [tuple(sorted(bundle.items())) for bundle in ask.bundles]
    return GroupRow(
        ask.group_id,
        ask.name,
        ask.namespace,
        bundles,
        ask.strategy,
        ask.job_id,
        ask.detached,
        ask.bundle_rules,
        ask.soft_target,
        now,
        [b""] * len(bundles),
        [0] * len(bundles),
    )
