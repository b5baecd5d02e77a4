"""The node's messages, until the end of the turn. Pure.

The shell (or the simulator) writes them: to each client in ``clients`` and each node in ``nodes``
its own outbox, and ``gcs`` to the GCS.
"""

from __future__ import annotations

from typing import Any

from skate.rows import Client, OtherNode


class Outbox:
    """See the module's docstring."""

    __slots__ = ("clients", "gcs", "nodes")

    def __init__(self) -> None:
        self.clients: list[Client] = []  # with a message in their outbox
        self.nodes: list[OtherNode] = []  # likewise
        self.gcs: list[Any] = []

    def send(self, client: Client, message: Any) -> None:
        """Queue a message for a client, or for a node that has opened a line to this one."""
        if client.alive:
            if not client.outbox:
                self.clients.append(client)
            client.outbox.append(message)

    def send_node(self, node: OtherNode, message: Any) -> None:
        """Queue a message for another node; it leaves once there is a line."""
        if node.is_alive:
            if not node.outbox:
                self.nodes.append(node)
            node.outbox.append(message)

    def to_gcs(self, message: Any) -> None:
        """Queue a message for the GCS."""
        self.gcs.append(message)
