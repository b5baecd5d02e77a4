"""The GCS of a simulated cluster: the core that ships, and its connection to each node.

A node whose connection breaks is given up, and ends its work as soon as it reads of that itself; it
comes back as another node (node/shell/rejoin.py). A connection may also stall for so long that the
node is given up for its silence.
"""

from __future__ import annotations

from typing import Any, Protocol

from sim.roles import Machine
from sim.wires import Line
from sim.world import World
from skate import messages as m
from skate.gcs.gcs_core import GcsCore


class Member(Machine, Protocol):
    """A node that has joined, or wants to."""

    def from_gcs(self, batch: list[Any]) -> None:
        """A batch of the GCS."""

    def lost_gcs(self) -> None:
        """Its connection to the GCS has ended."""


class GcsLink:
    """A node's connection to the GCS."""

    def __init__(self, gcs: SimulatedGcs, node: Member, number: int) -> None:
        self._gcs = gcs
        self.node = node
        self.number = number
        self.up = Line(gcs.simulator, self._arrived_at_gcs)
        self.down = Line(gcs.simulator, self._arrived_at_node)
        self.is_over = False
        self._is_broken = False

    def send(self, batch: list[Any]) -> None:
        """From the node."""
        for message in batch:
            if not isinstance(message, m.Heartbeat | m.Events):
                self._gcs.simulator.tell(self.node.name, "-> GCS", message)
        is_background = all(isinstance(message, m.Heartbeat) for message in batch)
        self.up.send(m.decode_to_gcs(m.encode(batch)), is_background=is_background)

    def _arrived_at_gcs(self, batch: list[Any] | None) -> None:
        if not self._is_broken:
            self._gcs.arrived(self, batch)

    def _arrived_at_node(self, batch: list[Any]) -> None:
        if not self._is_broken:
            self.node.from_gcs(batch)

    def break_up(self, gcs_reads_s: float, node_reads_s: float) -> None:
        """What is under way is lost; each side reads of it after so long."""
        if self.is_over or self._is_broken:
            return
        self._is_broken = True
        simulator = self._gcs.simulator
        simulator.at(gcs_reads_s, self._gcs.arrived, self, None)
        simulator.at(node_reads_s, self.node.lost_gcs)

    def name(self) -> str:
        """Whose it is, for the story."""
        return self.node.name


class SimulatedGcs:
    """See the module's docstring."""

    def __init__(self, simulator: World) -> None:
        self.simulator = simulator
        self.core = GcsCore(random=simulator.random.random)
        self._links: dict[int, GcsLink] = {}

    def has_joined(self, node_id: bytes) -> bool:
        """Whether this node has ever joined."""
        return node_id in self.core.membership.nodes

    def connect(self, node: Member) -> GcsLink:
        """A node's new connection."""
        link = GcsLink(self, node, len(self._links) + 1)
        self._links[link.number] = link
        return link

    def arrived(self, link: GcsLink, batch: list[Any] | None) -> None:
        """A batch of a node, or its EOF."""
        now = self.simulator.now
        if link.is_over:
            return
        if batch is None:
            link.is_over = True
            self.simulator.tell("GCS: EOF of", link.name())
            self._send(self.core.peer_lost(link.number, now))
            return
        for message in batch:
            self._send(self.core.handle(link.number, message, now))

    def tick(self) -> None:
        """By the clock."""
        self._send(self.core.tick(self.simulator.now))

    def _send(self, sends: list[tuple[int, Any]]) -> None:
        batches: dict[int, list[Any]] = {}
        for number, message in sends:
            batches.setdefault(number, []).append(message)
        for number, batch in batches.items():
            link = self._links[number]
            for message in batch:
                self.simulator.tell(link.name(), "<- GCS", message)
            link.down.send(m.decode_from_gcs(m.encode(batch)))
            if isinstance(batch[-1], m.Refused) and not link.is_over:  # and closed
                link.is_over = True
                self.simulator.ledger.refused(link.node, batch[-1].reason)
                self._send(self.core.peer_lost(number, self.simulator.now))
