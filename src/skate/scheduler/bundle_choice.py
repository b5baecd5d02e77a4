"""Which nodes the bundles of a placement group go to. Pure: a view of the nodes in, a choice out.

Called by placement_groups.py. The strategies, as in Ray:

    STRICT_PACK    all on one node             PACK    on as few nodes as possible
    STRICT_SPREAD  each on a node of its own   SPREAD  on as many nodes as possible

Bundles with equal demand and label rules are of one *kind*, and everything is counted by kind, so a
thousand equal bundles cost little more than one. STRICT_SPREAD and the first round of SPREAD are a
maximum matching of bundles to nodes, hence exact. PACK fills the node that holds most of the
bundles left, then the next one. Where PACK or SPREAD get stuck that way, a search for any
arrangement follows, of at most `SEARCH_STEPS` steps: packing in several resources has no quick
exact answer.

Of equally good nodes, packing prefers the fullest and spreading the emptiest, and nodes with GPUs
come last for groups without GPUs. Devices are not known here, only amounts: a node may still
refuse.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heappop, heapreplace
from typing import NamedTuple

from skate.scheduler.label_rules import meets, rules_text
from skate.spec import Demand, LabelRule, resources_of

STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")

SEARCH_STEPS = 20_000
"""Bounds a search to some 20 ms: the GCS has other work, and the group is tried again."""


class NodeRoom(NamedTuple):
    """A node that may be chosen: what it has, and what of it is free."""

    node_id: bytes
    total: Mapping[str, int]
    free: Mapping[str, int]
    labels: Mapping[str, str]


class Wanted(NamedTuple):
    """A bundle to be placed: its number in the group, its demand, the rules for its node."""

    bundle: int
    demand: Demand
    rules: tuple[LabelRule, ...] = ()


def choose(
    wanted: Sequence[Wanted],
    strategy: str,
    nodes: Iterable[NodeRoom],
    placed: Mapping[bytes, int],
    soft_target: bytes = b"",
) -> dict[int, bytes] | None:
    """The node of each bundle by its number, or None if there is no room now.

    `placed` counts the bundles of the group that some nodes have already. `soft_target` is the node
    that STRICT_PACK takes if it can.
    """
    choice = _Choice(wanted, list(nodes), placed)
    if strategy == "STRICT_PACK":
        return choice.on_one_node(soft_target)
    if strategy == "STRICT_SPREAD":
        return choice.on_distinct_nodes()
    if strategy == "SPREAD":
        return choice.on_many_nodes()
    if strategy == "PACK":
        return choice.on_few_nodes()
    raise ValueError(f"no strategy {strategy!r}, only {', '.join(STRATEGIES)}")


def why_not(
    wanted: Sequence[Wanted],
    strategy: str,
    nodes: Iterable[NodeRoom],
    placed: Mapping[bytes, int],
) -> tuple[bool, str]:
    """Why there is no choice: True if these nodes could never hold the bundles, and a sentence."""
    empty = [NodeRoom(node.node_id, node.total, node.total, node.labels) for node in nodes]
    if not empty:
        return True, "there is no node"
    for one in wanted:
        if not any(meets(n.labels, one.rules) and _fits(one.demand, n.free) for n in empty):
            rules = f" {rules_text(one.rules)}" if one.rules else ""
            return True, f"no node{rules} has {_amounts(one.demand)} for bundle {one.bundle}"
    if choose(wanted, strategy, empty, placed) is not None:
        return False, "what it needs is in use by others"
    if strategy == "STRICT_PACK":
        return True, f"no single node has {_amounts(_sum(wanted))} for all of its bundles"
    if strategy == "STRICT_SPREAD":
        count = len(wanted) + len(placed)
        return True, f"there are no {count} different nodes that can hold one bundle each"
    return True, f"all {len(empty)} nodes together cannot hold its bundles"


class _Kind:
    """Equal bundles, and the nodes (by position) that have room for one of them."""

    __slots__ = ("demand", "fitting", "items", "rules")

    def __init__(self, demand: Demand, rules: tuple[LabelRule, ...]) -> None:
        self.demand = demand
        self.rules = rules
        self.items: list[int] = []
        self.fitting: list[int] = []


class _Choice:
    """One choice under way: what is left free on nodes, and the node given to each bundle."""

    def __init__(
        self, wanted: Sequence[Wanted], nodes: list[NodeRoom], placed: Mapping[bytes, int]
    ) -> None:
        self.wanted = wanted
        self.nodes = nodes
        self.counts = [placed.get(node.node_id, 0) for node in nodes]
        self.is_elsewhere = sum(self.counts) < sum(placed.values())
        self.given: dict[int, bytes] = {}
        self._left: dict[
            int, dict[str, int]
        ] = {}  # free resources of the nodes that were given a bundle
        self._together = _sum(wanted)
        self._wants_gpu = any(name == "GPU" for name, _ in self._together)
        kinds: dict[tuple[Demand, tuple[LabelRule, ...]], _Kind] = {}
        for one in wanted:
            kind = kinds.get((one.demand, one.rules))
            if kind is None:
                kind = kinds[one.demand, one.rules] = _Kind(one.demand, one.rules)
            kind.items.append(one.bundle)
        for kind in kinds.values():
            kind.fitting = [
                position
                for position, node in enumerate(nodes)
                if _fits(kind.demand, node.free) and meets(node.labels, kind.rules)
            ]
        # The hardest kinds first: those that few nodes can hold, then the largest.
        self.kinds = sorted(
            kinds.values(),
            key=lambda k: (len(k.fitting), -max((u for _, u in k.demand), default=0)),
        )

    # ------------------------------------------------------------------ the strategies

    def on_one_node(self, soft_target: bytes) -> dict[int, bytes] | None:
        """All on one node: the fullest that can hold them."""
        if self.is_elsewhere or sum(count > 0 for count in self.counts) > 1:
            return None
        together = self._together
        best: tuple[tuple[object, ...], NodeRoom] | None = None
        for position, node in enumerate(self.nodes):
            if not self.counts[position] and any(self.counts):
                continue
            if not _fits(together, node.free):
                continue
            if not all(meets(node.labels, kind.rules) for kind in self.kinds):
                continue
            rank = (node.node_id != soft_target, *self._spare(position, together), position)
            if best is None or rank < best[0]:
                best = rank, node
        if best is None:
            return None
        return {one.bundle: best[1].node_id for one in self.wanted}

    def on_distinct_nodes(self) -> dict[int, bytes] | None:
        """Each bundle on a node of its own, which has none of the group yet."""
        return self.given if self._match() else None

    def on_many_nodes(self) -> dict[int, bytes] | None:
        """Each bundle on a node of its own as far as possible; the others where the fewest are."""
        if self._match():
            return self.given
        for kind in self.kinds:
            heap = [
                (self.counts[position], order, position)
                for order, position in enumerate(self._emptiest(kind))
            ]
            heapify(heap)
            for item in kind.items:
                if item in self.given:
                    continue
                while heap:
                    count, order, position = heap[0]
                    if not _fits(kind.demand, self._room(position)):
                        heappop(heap)
                    elif count != self.counts[position]:
                        heapreplace(heap, (self.counts[position], order, position))
                    else:
                        break
                if not heap:
                    return self._search(spread=True)
                self._give(item, kind.demand, heap[0][2])
        return self.given

    def on_few_nodes(self) -> dict[int, bytes] | None:
        """The next node is always the one that holds most of the bundles left.

        Nodes that have bundles of the group come first.
        """
        left = [len(kind.items) for kind in self.kinds]
        usable = dict.fromkeys(position for kind in self.kinds for position in kind.fitting)
        heap = [self._pack_rank(position, left) for position in usable]
        heapify(heap)
        while any(left):
            while heap:
                # Since a node was ranked, what it can take has only become less.
                rank = self._pack_rank(heap[0][-1], left)
                if rank <= heap[0]:
                    break
                heapreplace(heap, rank)
            if not heap or not heap[0][1]:
                return self._search(spread=False)
            position = heappop(heap)[-1]
            for number, count in enumerate(self._takes(position, left)):
                kind = self.kinds[number]
                start = len(kind.items) - left[number]
                for item in kind.items[start : start + count]:
                    self._give(item, kind.demand, position)
                left[number] -= count
        return self.given

    # ------------------------------------------------------------------ inside

    def _match(self) -> bool:
        # Match as many bundles as possible to different nodes: augmenting paths, over kinds instead
        # of single bundles. A matched bundle stays matched, but its node may change.
        owner: dict[int, tuple[int, int]] = {}  # node -> (kind, bundle)
        whole = True
        fitting = [[p for p in self._emptiest(k) if not self.counts[p]] for k in self.kinds]
        untried = [iter(positions) for positions in fitting]
        for number, kind in enumerate(self.kinds):
            for item in kind.items:
                position = next((p for p in untried[number] if p not in owner), None)
                if position is not None:
                    owner[position] = (number, item)
                elif not _augment(number, item, owner, fitting):
                    whole = False
                    break  # nor is there a node for another one of this kind
        demands = [kind.demand for kind in self.kinds]
        for position, (number, item) in owner.items():
            self._give(item, demands[number], position)
        return whole

    def _search(self, *, spread: bool) -> dict[int, bytes] | None:
        # Backtracking, for any arrangement at all. Equal bundles keep the order of their nodes:
        # which of them is where does not matter.
        self._left.clear()
        items = [(kind, item) for kind in self.kinds for item in kind.items]
        nodes: list[int] = []  # of the first items: which of their kind's fitting nodes
        order = {k: self._emptiest(k) if spread else self._fullest(k) for k in self.kinds}
        start, steps = 0, SEARCH_STEPS
        while len(nodes) < len(items):
            kind, _ = items[len(nodes)]
            fitting = order[kind]
            while start < len(fitting) and not _fits(kind.demand, self._room(fitting[start])):
                start += 1
                steps -= 1
            steps -= 1
            if steps < 0:
                return None
            if start < len(fitting):
                self._add(kind.demand, fitting[start], -1)
                nodes.append(start)
                is_equal = len(nodes) < len(items) and items[len(nodes)][0] is kind
                start = start if is_equal else 0
            elif nodes:
                start = nodes.pop()
                kind, _ = items[len(nodes)]
                self._add(kind.demand, order[kind][start], 1)
                start += 1
            else:
                return None
        return {
            item: self.nodes[order[kind][node]].node_id
            for (kind, item), node in zip(items, nodes, strict=True)
        }

    def _room(self, position: int) -> Mapping[str, int]:
        return self._left.get(position) or self.nodes[position].free

    def _give(self, item: int, demand: Demand, position: int) -> None:
        self.given[item] = self.nodes[position].node_id
        self.counts[position] += 1
        self._add(demand, position, -1)

    def _add(self, demand: Demand, position: int, sign: int) -> None:
        left = self._left.get(position)
        if left is None:
            left = self._left[position] = dict(self.nodes[position].free)
        for name, units in demand:
            left[name] += sign * units

    def _takes(self, position: int, left: list[int]) -> list[int]:
        # How many bundles of each kind fit on the node, the hardest kinds first.
        room = dict(self._room(position))
        labels = self.nodes[position].labels
        counts = []
        for kind, most in zip(self.kinds, left, strict=True):
            count = most
            for name, units in kind.demand:
                count = min(count, room.get(name, 0) // units)
            if count > 0 and not meets(labels, kind.rules):
                count = 0
            for name, units in kind.demand:
                if count > 0:
                    room[name] -= count * units
            counts.append(max(0, count))
        return counts

    def _pack_rank(self, position: int, left: list[int]) -> tuple[bool, int, bool, float, int]:
        # The smallest rank is the best. Nodes that have bundles of the group come first.
        count = sum(self._takes(position, left))
        has_gpu, spare = self._spare(position, self._together)
        return (not (self.counts[position] and count), -count, has_gpu, spare, position)

    def _spare(self, position: int, demand: Demand) -> tuple[bool, float]:
        # Whether the GPUs of the node would idle, and what it has beyond the demand, as shares.
        node = self.nodes[position]
        spare = 0.0
        for name, units in demand:
            spare += (node.free.get(name, 0) - units) / max(1, node.total.get(name, 0))
        return not self._wants_gpu and "GPU" in node.total, spare

    def _emptiest(self, kind: _Kind) -> list[int]:
        def rank(position: int) -> tuple[bool, float, int]:
            has_gpu, spare = self._spare(position, kind.demand)
            return has_gpu, -spare, position

        return sorted(kind.fitting, key=rank)

    def _fullest(self, kind: _Kind) -> list[int]:
        return sorted(kind.fitting, key=lambda p: (*self._spare(p, kind.demand), p))


def _augment(
    number: int, item: int, owner: dict[int, tuple[int, int]], fitting: list[list[int]]
) -> bool:
    """A node for this bundle of kind `number`, by moving others on to nodes without an owner."""
    came_from: dict[int, int] = {}  # node -> the kind that wants it
    via: dict[int, int] = {number: -1}  # kind -> the node that one of it would leave
    queue = [number]
    for kind in queue:
        for position in fitting[kind]:
            if position in came_from:
                continue
            came_from[position] = kind
            if position in owner:
                other = owner[position][0]
                if other not in via:
                    via[other] = position
                    queue.append(other)
                continue
            while kind != number:
                owner[position] = owner[via[kind]]
                position = via[kind]
                kind = came_from[position]
            owner[position] = (number, item)
            return True
    return False


def _fits(demand: Demand, free: Mapping[str, int]) -> bool:
    return all(free.get(name, 0) >= units for name, units in demand)


def _sum(wanted: Iterable[Wanted]) -> Demand:
    units: dict[str, int] = {}
    for one in wanted:
        for name, more in one.demand:
            units[name] = units.get(name, 0) + more
    return tuple(sorted(units.items()))


def _amounts(demand: Demand) -> str:
    return ", ".join(f"{name}: {amount:g}" for name, amount in resources_of(demand).items())
