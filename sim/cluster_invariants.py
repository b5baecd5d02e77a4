"""What must hold of several nodes and the GCS together, beside what holds of each node alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.story import short
from skate.gcs.gcs_core import GcsCore
from skate.node.node_core import NodeCore
from skate.states import ActorState, PlacementGroupState

if TYPE_CHECKING:
    from sim.cluster import Cluster


def check_cluster_idle(simulator: Cluster) -> None:
    """All programs are over and have dropped all refs: no node has anything with another."""
    assert simulator.gcs is not None
    for node in simulator.alive:
        _check_apart(node.core)
        assert not node.core.parts.asking.asked
        bundles = node.core.parts.groups.bundles
        assert not bundles.groups and not bundles.leaving, f"{node.name} has bundles"
        assert bundles.claim is None, f"{node.name} keeps what becomes free for a group"
    _check_gcs(simulator.gcs.core)


def _check_apart(core: NodeCore) -> None:
    for neighbour in core.nodes.by_id.values():
        names = [short(i) for i in (*neighbour.tasks, *neighbour.calls)]
        assert not names, f"{short(core.me.node_id)} has {names} at {short(neighbour.node_id)}"
        assert not neighbour.outbox
        assert neighbour.holds_sent == neighbour.holds_registered
    for peer in core.clients:
        if peer.node_id:
            assert not peer.held and not peer.pins and not peer.outbox
    apart = core.parts.placing, core.parts.rebalancing, core.parts.forwarding
    assert all(part.is_idle() for part in apart), "offers, or results that others keep"
    assert core.parts.borrowing.is_idle(), "words that wait for others"
    assert core.parts.pulls.is_idle() and core.parts.finding.is_idle(), "transfers"
    assert not core.parts.actor_proxies.is_waiting


def _check_gcs(core: GcsCore) -> None:
    core.check()
    assert not core.objects.objects.rows(), "objects in the table that are nowhere"
    assert not core.scheduler.pending()
    groups = core.groups.counts()
    assert groups.keys() <= {PlacementGroupState.REMOVED.name}, groups
    states = core.actors.counts().keys()
    assert states <= {ActorState.DEAD.name}, states
    assert not core.is_watching, "actors are watched"


def check_cluster_empty(simulator: Cluster) -> None:
    """The drivers have left: nothing remembers them."""
    check_cluster_idle(simulator)
    assert simulator.gcs is not None
    core = simulator.gcs.core
    assert not any(job.alive for job in core.membership.jobs.rows())
    assert not core.tasks.counts(), "tasks in the table"
    for node in simulator.alive:
        for neighbour in node.core.nodes.by_id.values():
            left = [*neighbour.templates, *neighbour.lines]
            assert not left, f"{node.name} knows {left} at {short(neighbour.node_id)}"
        for peer in node.core.clients:
            assert not peer.templates, f"{node.name} knows {peer.templates}"
