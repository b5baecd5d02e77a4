"""Nodes that have joined, for tests that build a part of the GCS without the core."""

from __future__ import annotations

from skate.config import PROTOCOL_VERSION
from skate.gcs.membership import LostNode, Membership, NodeRow
from skate.messages import NodeJoins

NODE_A, NODE_B, NODE_C = b"a" * 16, b"b" * 16, b"c" * 16


def join(membership: Membership, node_id: bytes, peer: int, cpus: int = 2) -> NodeRow:
    """A node at this peer."""
    message = NodeJoins(
        PROTOCOL_VERSION, node_id, 42, "host:1", "host", {"CPU": cpus * 10_000}, {}, 99
    )
    assert membership.join(message, peer, 1.0) == ""
    return membership.by_peer[peer]


def lose(membership: Membership, node: NodeRow, now: float = 3.0) -> LostNode:
    """The node is dead; what its parts are told."""
    return LostNode(node, membership.end_node(node.node_id, "it crashed", now), now)
