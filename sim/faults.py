"""What goes wrong between nodes, and with whole nodes: when, drawn from the seed.

Connections break (and are made again: a lasting line hides that), two nodes cannot reach each other
for a while, for so long that they give each other up, or until every program has come to its end;
nodes die, stall so that the GCS gives them up though they live, lose their connection to the GCS
(and begin anew under another id), and join late.

The head is never cut off for good: it alone has some of everything, and what can run nowhere else
would rightly wait for ever.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from skate.config import LINK_GIVE_UP_S, NODE_SILENCE_S

if TYPE_CHECKING:
    from sim.cluster import Cluster
    from sim.node import SimulatedNode
    from sim.roles import Machine

BREAKS_MAX = 60
FREEZE_S = NODE_SILENCE_S + 3.0


class Faults:
    """See the module's docstring."""

    def __init__(
        self, random: Random, nodes: int, kinds: tuple[str, ...], *, is_calm: bool
    ) -> None:
        self._random = random
        self.breaks = random.choice([0, 0, random.randrange(1, BREAKS_MAX)])
        self.within_s = random.choice([0.2, 1.0, 3.0])
        self.joins = random.choice([0, 0, 1]) if nodes > 1 else 0
        others = nodes - 1
        kind = "calm" if is_calm or not others else random.choice(kinds)
        self.deaths = random.randrange(1, others + 1) if kind == "deaths" else 0
        self.cuts = random.randrange(1, 4) if kind == "cuts" else 0
        self.short_cuts = random.randrange(1, 6) if kind == "short cuts" else 0
        self.long_cuts = random.randrange(1, 4) if kind == "long cuts" else 0
        self.endless_cuts = random.randrange(1, 3) if kind == "endless cuts" else 0
        self.freezes = 1 if kind == "freezes" else 0
        self.losses_of_gcs = random.randrange(1, 3) if kind == "GCS losses" else 0
        self.frozen: dict[SimulatedNode, None] = {}
        self._cut: dict[tuple[int, int], int] = {}  # pairs of nodes that cannot connect
        self._endless: list[tuple[int, int]] = []  # of these, until all programs are over
        self.last = -1e9  # when the newest fault began or ended, but for broken connections
        self._simulator: Cluster

    def begin(self, simulator: Cluster) -> None:
        """Put all of it on the clock."""
        self._simulator = simulator
        random = self._random
        for count, what in (
            (self.breaks, self._break),
            (self.joins, self._join),
            (self.deaths, self._kill),
            (self.short_cuts, self._cut_short),
            (self.cuts, self._cut_long),
            (self.long_cuts, self._cut_longer),
            (self.endless_cuts, self._cut_for_good),
            (self.freezes, self._freeze),
            (self.losses_of_gcs, self._lose_gcs),
        ):
            for _ in range(count):
                simulator.at(random.random() * self.within_s, what)

    def is_cut(self, one: Machine, other: Machine) -> bool:
        """Whether no connection can be made between two nodes now."""
        return _pair(one, other) in self._cut

    def is_under_way(self, now: float) -> bool:
        """Whether the cluster may still be busy with a fault."""
        return now - self.last < 2 * LINK_GIVE_UP_S or bool(self._cut)

    # ------------------------------------------------------------------ each of them

    def _break(self) -> None:
        wires = [w for w in self._simulator.wires if not w.opener.dead and not w.acceptor.dead]
        if wires:
            self._random.choice(wires).break_up()

    def _join(self) -> None:
        self._simulator.add_node()

    def _victims(self) -> list[SimulatedNode]:
        return [node for node in self._simulator.alive if node.number]

    def _kill(self) -> None:
        victims = self._victims()
        if victims:
            self.last = self._simulator.now
            self._random.choice(victims).die()

    def _cut_short(self) -> None:
        self._cut_for(self._random.random() * LINK_GIVE_UP_S * 0.3)

    def _cut_long(self) -> None:
        self._cut_for(LINK_GIVE_UP_S * (0.9 + self._random.choice([0.5, 4.0])))

    def _cut_longer(self) -> None:
        self._cut_for(LINK_GIVE_UP_S * (0.9 + self._random.choice([0.5, 1.5, 4.0, 12.0])))

    def _cut_for(self, seconds: float) -> None:
        pair = self._cut_two(self._simulator.alive)
        if pair is not None:
            self._simulator.tell("for", f"{seconds:.3f} s")
            self._simulator.at(seconds, self._mend, pair)

    def _cut_for_good(self) -> None:
        pair = self._cut_two(self._victims())
        if pair is not None:
            self._endless.append(pair)

    def _cut_two(self, nodes: list[SimulatedNode]) -> tuple[int, int] | None:
        if len(nodes) < 2:
            return None
        one, other = self._random.sample(nodes, 2)
        pair = _pair(one, other)
        self._cut[pair] = self._cut.get(pair, 0) + 1
        self.last = self._simulator.now
        self._simulator.tell(one.name, "and", other.name, "cannot connect")
        for wire in self._simulator.wires:
            if _pair(wire.opener, wire.acceptor) == pair:
                wire.break_up()
        return pair

    def mend_all(self) -> None:
        """The programs are over: now all can reach each other."""
        while self._endless:
            self._mend(self._endless.pop())

    def _mend(self, pair: tuple[int, int]) -> None:
        self._simulator.tell("nodes", pair, "can connect again")
        self.last = self._simulator.now
        self._cut[pair] -= 1
        if not self._cut[pair]:
            del self._cut[pair]

    def _freeze(self) -> None:
        victims = self._victims()
        if victims:
            victim = self._random.choice(victims)
            self._simulator.tell(victim.name, "is not heard by the GCS")
            self.last = self._simulator.now
            self.frozen[victim] = None
            assert victim.gcs is not None
            victim.gcs.up.stall(FREEZE_S)
            self._simulator.at(FREEZE_S, self._thaw)

    def _lose_gcs(self) -> None:
        gcs = self._simulator.gcs
        assert gcs is not None
        victims = [node for node in self._victims() if gcs.has_joined(node.core.me.node_id)]
        if victims:
            victim = self._random.choice(victims)
            self._simulator.tell(victim.name, "loses its connection to the GCS")
            self.last = self._simulator.now
            self.frozen[victim] = None
            self._simulator.ledger.refused(victim, "its connection to the GCS has ended")
            assert victim.gcs is not None
            # Whoever reads of it first: the other side may need all its time-out for that.
            late = [0.0, self._random.random() * NODE_SILENCE_S]
            self._random.shuffle(late)
            victim.gcs.break_up(*late)

    def _thaw(self) -> None:
        self.last = self._simulator.now


KINDS = ("none", "none", "deaths", "deaths", "short cuts", "cuts", "freezes")
LONG_KINDS = ("long cuts", "GCS losses")
ENDLESS_KINDS = (*LONG_KINDS, "endless cuts")


def _pair(one: Machine, other: Machine) -> tuple[int, int]:
    return min(one.number, other.number), max(one.number, other.number)
