"""The GCS on the world's clock: the core that ships, with the global scheduler, and its costs."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sim.scale.costs import Costs
from sim.scale.machines import ARENA_BYTES, Node
from sim.scale.network import Network
from sim.scale.world import Server, World
from skate import messages as m
from skate.config import HEARTBEAT_S, PROTOCOL_VERSION
from skate.gcs.gcs_core import GcsCore
from skate.gcs.membership import TICK_S


class Gcs:
    """The GCS: its core, and a clock."""

    def __init__(self, world: World, costs: Costs, network: Network) -> None:
        self._world = world
        self._costs = costs
        self._network = network
        self.core = GcsCore(random=world.random.random)
        self.server = network.gcs = Server(world, self._handle, self._settle)
        self.met: Counter[str] = Counter()
        self._sends: list[tuple[int, Any]] = []
        self._next_watch = 0.0

    def join(self, nodes: list[Node]) -> None:
        """All nodes are there before the measurement begins."""
        for node in nodes:
            total = dict(node.core.scheduler.total)
            place = f"n{node.number}:1"
            joins = m.NodeJoins(
                PROTOCOL_VERSION, node.node_id, 1, place, place, total, {}, ARENA_BYTES
            )
            self.core.handle(node.number, joins, self._world.now)
        infos = [
            m.NodeInfo(n.node_id, f"n{n.number}:1", dict(n.core.scheduler.total), {}) for n in nodes
        ]
        for node in nodes:
            node.core.hear_gcs(m.NodesChanged(infos))
        self._clock()

    def _clock(self) -> None:
        self._world.at(self._world.now + HEARTBEAT_S, self._clock)
        self.server.arrive((-1, ()))

    def _handle(self, item: tuple[int, list[Any]]) -> float:
        number, batch = item
        now = self._world.now
        if number < 0:
            if self.core.is_tick_due or now >= self._next_watch:
                self._next_watch = now + TICK_S
                self._sends += self.core.tick(now)
            return 0.0
        cost = 0.0
        costs = self._costs
        for message in batch:
            sends = self.core.handle(number, message, now)
            self._sends += sends
            self.met[type(message).__name__] += 1
            if isinstance(message, m.Offer):
                cost += costs.gcs_offer_s + costs.gcs_offer_node_s * len(self._network.nodes)
                chosen = sum(len(one.places) for _, one in sends if isinstance(one, m.Placed))
                cost += costs.gcs_offer_place_s * chosen
            elif isinstance(message, m.Events):
                cost += costs.gcs_events_s + costs.gcs_event_byte_s * len(message.batch)
            else:
                cost += costs.gcs_heartbeat_s
        return cost

    def _settle(self, spent_s: float) -> float:
        sends, self._sends = self._sends, []
        batches: dict[int, list[Any]] = {}
        for number, message in sends:
            batches.setdefault(number, []).append(message)
        for number, batch in batches.items():
            self._network.from_gcs(number, batch, self._world.now + spent_s)
        return 0.0
