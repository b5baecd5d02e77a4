"""What lies between daemons: how long words are under way, and the way to the GCS.

A node other than the head speaks to the GCS through the head's node daemon, as in life.
"""

from __future__ import annotations

from typing import Any

from sim.scale.costs import Costs
from sim.scale.world import Server, World

# Where something for a node comes from.
CLIENT = "client"  # a process of this machine, or another node that wants something of this one
NEIGHBOUR = "neighbour"  # a node of which this one wanted something
GCS = "GCS"
CLOCK = "clock"
RELAY = "relay"  # between another node and the GCS, through the head

HEAD = 0


class Network:
    """Carries what daemons say to each other. ``nodes`` and ``gcs`` are entered as they are made.

    What arrives at a node is (where from, who, messages); at the GCS, (node, messages).
    """

    def __init__(self, world: World, costs: Costs) -> None:
        self.nodes: list[Server] = []
        self.gcs: Server
        self._world = world
        self._costs = costs

    def to_gcs(self, number: int, batch: list[Any], at: float) -> None:
        """From a node; the head's daemon passes on what comes from others."""
        if number == HEAD:
            self._world.at(at + self._costs.local_delay_s, self.gcs.arrive, (number, batch))
        else:
            at += self._costs.remote_delay_s
            self._world.at(at, self.nodes[HEAD].arrive, (RELAY, (number, True), batch))

    def from_gcs(self, number: int, batch: list[Any], at: float) -> None:
        """To a node."""
        head = self.nodes[HEAD]
        at += self._costs.local_delay_s
        if number == HEAD:
            self._world.at(at, head.arrive, (GCS, None, batch))
        else:
            self._world.at(at, head.arrive, (RELAY, (number, False), batch))

    def relay(self, whose: tuple[int, bool], batch: list[Any], at: float) -> None:
        """The head's daemon has passed it on."""
        number, is_up = whose
        if is_up:
            self._world.at(at + self._costs.local_delay_s, self.gcs.arrive, (number, batch))
        else:
            at += self._costs.remote_delay_s
            self._world.at(at, self.nodes[number].arrive, (GCS, None, batch))
