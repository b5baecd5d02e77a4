"""What everything in a run shares: the clock, the settings, the ledger, who the processes are.

A broken rule raises AssertionError. The cores are the ones that ship; only sockets, processes and
the clock are simulated.
"""

from __future__ import annotations

from collections.abc import Sequence

from sim.invariants import Ledger
from sim.roles import Conditions, LocalProcess, Machine
from sim.simulator import Simulator
from skate.rows import Client


class World(Simulator):
    """See the module's docstring. ``machines`` grows as nodes join."""

    def __init__(
        self, settings: Conditions, seed: int, machines: Sequence[Machine], *, tell: bool = False
    ) -> None:
        super().__init__(seed, settings.delay_s, settings.stall_s, tell=tell)
        self.settings = settings
        self.processes: dict[Client, LocalProcess] = {}  # of all nodes, the dead ones too
        self.in_order: dict[bytes, bool] = {}  # of each actor
        self.births: dict[bytes, int] = {}  # of tasks, actors and puts: which came first
        self.parents: dict[bytes, bytes] = {}  # the tasks and calls that made them
        self.roots: dict[bytes, int] = {}  # the births of the drivers' calls that led to them
        self.ledger = Ledger(self, settings, machines, self.parents)
        self._machines = machines

    def name(self, peer: Client) -> str:
        """Who it is, for the story."""
        if peer in self.processes:
            return self.processes[peer].name
        for machine in self._machines:
            if machine.core.me.node_id == peer.node_id:
                return machine.name
        return "?"
