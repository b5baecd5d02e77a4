"""A run's nodes and their GCS. With one node there is no GCS: what the node tells it is dropped."""

from __future__ import annotations

from sim.gcs import SimulatedGcs
from sim.node import SimulatedNode
from sim.process import Process
from sim.roles import Conditions
from sim.wires import LastingWire
from sim.worker_process import WorkerProcess
from sim.world import World


class Cluster(World):
    """See the module's docstring."""

    def __init__(self, settings: Conditions, seed: int, *, tell: bool = False) -> None:
        self.nodes: list[SimulatedNode] = []
        super().__init__(settings, seed, self.nodes, tell=tell)
        self.by_id: dict[bytes, SimulatedNode] = {}
        self.wires: list[LastingWire] = []
        self.gcs = SimulatedGcs(self) if settings.is_cluster else None

    def add_node(self) -> SimulatedNode:
        """One more machine."""
        node = SimulatedNode(
            self,
            len(self.nodes),
            self.gcs,
            self.by_id,
            self.wires,
            start_worker=WorkerProcess,
            rejoin=self._rejoin,
        )
        self.nodes.append(node)
        self.by_id[node.core.me.node_id] = node
        node.start()
        return node

    def _rejoin(self, node: SimulatedNode) -> None:
        """The machine of a node that has ended its work is another node now."""
        self.settings.add_machine(len(self.nodes), node.number)
        self.add_node()

    @property
    def alive(self) -> list[SimulatedNode]:
        """The nodes that live."""
        return [node for node in self.nodes if not node.dead]

    def all_processes(self) -> list[Process]:
        """Of all nodes, the dead ones too, in order of their birth."""
        return [one for one in self.processes.values() if isinstance(one, Process)]

    def tick(self) -> None:
        """Of each node's clock, and of the GCS's."""
        for node in self.alive:
            if node.phase_s:
                self.at(node.phase_s, node.tick, is_background=True)
            else:
                node.tick()
        if self.gcs is not None:
            self.gcs.tick()

    def is_due(self) -> bool:
        """Whether an actor waits for something that happens by the clock."""
        return any(node.core.parts.actor_proxies.is_waiting for node in self.alive)
