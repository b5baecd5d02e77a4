"""The global scheduler: chooses nodes for tasks that their own node offers to others.

The paper's rule: of the nodes that can hold the demand, the one with the smallest estimated wait,

    queue length x average task time  +  remote input bytes / average bandwidth

and one of them at random if several have it. A node with free resources makes nobody wait for its
queue, for as long as they last. An offer may have many equal tasks, which fill the nodes like
water. The offering node is one of them: it keeps the tasks that it would not finish clearly later
than others.

The GCS (or a simulator) tells it of nodes and their heartbeats, hands it offers, and sends on
the answers, (node, `Placed`) pairs. An offer that no node can hold waits here, with a reason for
people, and `tick` answers it once nodes have changed.

Invariants (`check`): an offer that waits was made by a living node, and has a count and a reason;
no more tasks are placed than were offered; no task is placed on a node that cannot hold it, that
the rules exclude or that the offering node cannot reach.

Deliberately absent: the tasks themselves. Only counts and demands come here. A placed task that
gets lost on its way is offered again by its node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import heapify, heapreplace
from math import inf

import msgspec

from skate.config import MOVE_GAIN_S, MOVE_GAIN_SHARE, RESOURCE_PATIENCE_S, UNKNOWN_TASK_S
from skate.error_records import ErrorRecord, encode_error
from skate.messages import Demanded, Heartbeat, Offer, Placed
from skate.scheduler.label_rules import meets
from skate.scheduler.node_view import NodeView
from skate.scheduler.why_pending import why_never, why_no_room, why_pending, why_rules_unmet
from skate.spec import Demand, Strategy

DEFAULT = Strategy()

EXPIRE_EVERY_S = 0.01
"""How often nodes are searched for placed tasks that got lost: it costs a look at each node."""

GRAINS = 64
"""A node gets this part of a large offer at once, rather than one task: each node that is chosen
costs a message, and choosing it costs as much as passing over forty others."""

GRAIN_S = 0.1
"""But never more tasks than take this long one after the other: by so much may queues differ."""

ABLE_KEPT = 1_000
"""Kinds of tasks for which the able nodes are remembered."""

Answers = list[tuple[bytes, Placed]]
Shares = dict[bytes, int]  # NodeID -> how many tasks


class _Waiting(msgspec.Struct):
    """An offer that no node can hold, or of actors that no node has room for."""

    offer: Offer
    reason: str
    since: float


class _Candidate:
    """A candidate for the tasks of one offer: when the next one that it gets would begin."""

    __slots__ = ("count", "free", "is_home", "node_id", "queue_s", "task_s", "transfer_s")

    def __init__(self, node_id: bytes, transfer_s: float, task_s: float) -> None:
        self.node_id = node_id
        self.transfer_s = transfer_s
        self.task_s = task_s
        self.queue_s = 0.0  # of the tasks before these
        self.free = 0  # tasks that find free resources; negative: tasks that go before these
        self.is_home = False  # the offering node itself
        self.count = 0

    def wait_s(self) -> float:
        """The estimate for the next task, which counts itself as the last of its queue."""
        place = self.count + 1 - self.free
        wait_s = self.transfer_s
        if place > 0:
            wait_s += self.queue_s + place * self.task_s
        return (wait_s - MOVE_GAIN_S) / (1 + MOVE_GAIN_SHARE) if self.is_home else wait_s


class GlobalScheduler:
    """See the module's docstring. `random` gives a number in [0, 1), to break ties."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._nodes: dict[bytes, NodeView] = {}  # in the order in which they joined
        # The nodes that may run a kind of task, however busy; cleared when any node changes.
        self._able: dict[tuple[Demand, Strategy], list[NodeView]] = {}
        self._expired_at = 0.0  # when nodes were last searched for placed tasks that got lost
        self._waiting: dict[tuple[bytes, int], _Waiting] = {}  # by offering node and number
        self._joined = 0
        self._spread_last = 0  # the order of the node that the last SPREAD task went to
        self._waits_for_room = False  # an offer that a heartbeat alone may give a place
        self._is_stale = False  # nodes have changed since the last tick

    # ------------------------------------------------------------------------------- nodes

    def node_joined(
        self, node_id: bytes, resources: Mapping[str, int], labels: Mapping[str, str]
    ) -> None:
        """A node that was not known before; `resources` are its totals."""
        if node_id in self._nodes:
            raise ValueError(f"node {node_id.hex()} has joined already")
        self._joined += 1
        self._nodes[node_id] = NodeView(node_id, self._joined, resources, labels)
        self._nodes_changed()

    def node_changed(self, node_id: bytes, resources: Mapping[str, int]) -> None:
        """Bundles of a placement group have come to the node or gone: its totals are these now."""
        view = self._nodes.get(node_id)
        if view is not None:
            view.change(resources)
            self._nodes_changed()

    def node_left(self, node_id: bytes) -> None:
        """The node is dead, and its offers are void."""
        self.withdraw(node_id)
        if self._nodes.pop(node_id, None) is not None:
            self._nodes_changed()

    def _nodes_changed(self) -> None:
        self._able.clear()
        self._is_stale = bool(self._waiting)

    def heartbeat(self, node_id: bytes, load: Heartbeat) -> None:
        """The node's load."""
        view = self._nodes.get(node_id)
        if view is not None:
            view.heard(load)
            self._is_stale = self._is_stale or self._waits_for_room

    # ------------------------------------------------------------------------------ offers

    def offer(self, node_id: bytes, offer: Offer, now: float) -> Answers:
        """Choose nodes; an offer of the same number that waits is replaced.

        A `count` of 0 takes that one back, and is not answered. ValueError for a demand that
        cannot be one.
        """
        if offer.count < 0 or any(units <= 0 for _, units in offer.demand):
            raise ValueError(f"an offer of {offer.count} tasks that demand {offer.demand}")
        key = (node_id, offer.number)
        self._waiting.pop(key, None)
        if not offer.count:
            return []
        placed = self._decide(node_id, offer, now)
        if placed.reason:
            self._keep(node_id, offer, placed, now)
        return [(node_id, placed)]

    def _keep(self, node_id: bytes, offer: Offer, placed: Placed, since: float) -> None:
        # Tasks that have found a place do not wait any more.
        offer.count -= sum(count for _, count in placed.places)
        self._waiting[node_id, offer.number] = _Waiting(offer, placed.reason, since)

    def give_up(self, is_hopeless: Callable[[Offer], bool]) -> list[tuple[bytes, Offer]]:
        """Forget waiting offers that can never be placed; the caller answers the nodes of these."""
        found = [(k, it.offer) for k, it in self._waiting.items() if is_hopeless(it.offer)]
        for key, _ in found:
            del self._waiting[key]
        return [(key[0], offer) for key, offer in found]

    def withdraw(self, node_id: bytes) -> None:
        """Forget the waiting offers of this node."""
        for key in [key for key in self._waiting if key[0] == node_id]:
            del self._waiting[key]

    def tick(self, now: float) -> Answers:
        """Try waiting offers again if nodes have changed, the oldest first."""
        if not self._is_stale:
            return []
        self._is_stale = self._waits_for_room = False
        answers: Answers = []
        for key, waiting in list(self._waiting.items()):
            patient = now - waiting.since < RESOURCE_PATIENCE_S
            placed = self._decide(key[0], waiting.offer, now, patient=patient)
            if not placed.reason:
                del self._waiting[key]
            elif placed.reason == waiting.reason and not placed.places:
                continue
            else:
                self._keep(key[0], waiting.offer, placed, waiting.since)
            answers.append((key[0], placed))
        return answers

    @property
    def is_tick_due(self) -> bool:
        """Whether `tick` may have an answer."""
        return self._is_stale and bool(self._waiting)

    def pending(self) -> list[Demanded]:
        """The offers that wait here, and why."""
        return [demanded for _, demanded in self.pending_by_node()]

    def pending_by_node(self) -> list[tuple[bytes, Demanded]]:
        """Likewise, each with the node that has offered it."""
        return [
            (node_id, Demanded(it.offer.name, dict(it.offer.demand), it.offer.count, it.reason))
            for (node_id, _), it in self._waiting.items()
        ]

    # ------------------------------------------------------------------------------ choice

    def _decide(self, home_id: bytes, offer: Offer, now: float, *, patient: bool = True) -> Placed:
        strategy = offer.strategy or DEFAULT
        places: Shares = {}
        try:
            if strategy.kind == "NODE":
                answer = self._bound(home_id, offer, strategy, places, now)
                if answer is not None:
                    return answer
            elif strategy.kind not in ("DEFAULT", "SPREAD"):
                raise ValueError(f"a strategy is DEFAULT, SPREAD or NODE, not {strategy.kind!r}")
            nodes = self._candidates(home_id, offer, strategy, now)
            if not nodes:
                views = list(self._nodes.values())
                unmet = why_rules_unmet(offer, strategy, views)
                reason = unmet or why_pending(offer, strategy, views, home_id)
                return Placed(offer.number, [], reason=reason, rules_unmet=bool(unmet))
        except ValueError as error:  # the strategy is none
            return Placed(offer.number, [], error=_error("UsageError", str(error)))
        if offer.is_actor:
            return self._into_room(home_id, offer, nodes, places, now, patient=patient)
        left = offer.count - sum(places.values())
        if strategy.kind == "SPREAD":
            shares = self._spread(home_id, offer, nodes, left)
        else:
            shares = self._fill(home_id, offer, nodes, left)
        for node_id, count in shares:
            if node_id == home_id and strategy.kind != "SPREAD":
                # Count only tasks that start at once: the others may be in its queue already.
                count = self._nodes[home_id].room(offer.demand, count)
            if count:
                self._place(home_id, offer, node_id, count, places, now)
        return _placed(home_id, offer, places)

    def _bound(
        self, home_id: bytes, offer: Offer, strategy: Strategy, places: Shares, now: float
    ) -> Placed | None:
        """The answer for NODE; None: the rest of the tasks may go to any node."""
        view = self._nodes.get(strategy.node_id)
        problem = why_never(offer, strategy, view)
        if problem or view is None:
            return None if strategy.soft else _unschedulable(offer, problem)
        here = view.node_id == home_id
        if view.node_id in offer.avoid or (here and offer.must_leave):
            if strategy.soft:
                return None
            reason = f"it is bound to node {view.node_id.hex()}, which cannot take it now"
            return Placed(offer.number, [], reason=reason)
        view.expire(now)
        count = offer.count
        if strategy.spill_if_busy or strategy.fail_if_busy:
            ahead = max(0, offer.queued - count) if here else 0
            count = max(0, view.room(offer.demand, count + ahead) - ahead)
        if count:
            self._place(home_id, offer, view.node_id, count, places, now)
        if count == offer.count:
            return _placed(home_id, offer, places)
        if strategy.spill_if_busy and strategy.soft:
            return None
        problem = f"node {view.node_id.hex()} is busy, and its strategy says not to wait for it"
        return _unschedulable(offer, problem, list(places.items()))

    def _candidates(
        self, home_id: bytes, offer: Offer, strategy: Strategy, now: float
    ) -> list[NodeView]:
        """The nodes that may run it, whether they are busy or not, in the order they joined."""
        if not 0.0 <= now - self._expired_at < EXPIRE_EVERY_S:
            self._expired_at = now
            for view in self._nodes.values():
                view.expire(now)
        if offer.must_leave or offer.avoid:
            excluded = {*offer.avoid, home_id} if offer.must_leave else set(offer.avoid)
            return self._fitting(offer.demand, strategy, excluded)
        key = offer.demand, strategy
        able = self._able.get(key)
        if able is None:
            if len(self._able) >= ABLE_KEPT:
                self._able.clear()
            able = self._able[key] = self._fitting(offer.demand, strategy, set())
        return able

    def _fitting(self, demand: Demand, strategy: Strategy, excluded: set[bytes]) -> list[NodeView]:
        able = [
            view
            for view in self._nodes.values()
            if view.can_hold(demand) and view.node_id not in excluded
        ]
        for rules in (strategy.rules, *strategy.fallbacks):
            fitting = [view for view in able if meets(view.labels, rules)] if rules else able
            if fitting:
                preferred = [view for view in fitting if meets(view.labels, strategy.soft_rules)]
                return preferred or fitting
        return []

    def _fill(
        self, home_id: bytes, offer: Offer, nodes: list[NodeView], count: int
    ) -> list[tuple[bytes, int]]:
        """Each task to the node with the smallest estimate, one after the other.

        Ties go to the node with the fewest tasks of this offer, then to a random one. The cost is
        O((nodes + tasks) log nodes) at most, as a node is given its sure share at once. In a busy
        cluster few nodes are better than the home, and it is little more than a look at each node.
        """
        random = self._random
        held, total = _bytes_held(offer)
        demand, task_s = offer.demand, _task_s(offer)
        first, least = demand[0] if demand else ("", 0)
        heap: list[tuple[float, int, float, int, _Candidate]] = []
        if count and any(view.node_id == home_id for view in nodes):
            candidate = self._home_candidate(home_id, offer, count, (total, held), task_s)
            candidate.count = count - 1
            never_s = candidate.wait_s()  # a node where a first task would wait longer gets none
            candidate.count = 0
            heap.append((candidate.wait_s(), 0, random(), -1, candidate))
        else:
            never_s = inf
        busy_s = never_s - task_s  # a queue that is longer is too long
        for number, view in enumerate(nodes):
            if view.queue_s > busy_s and view.free.get(first, 0) < least:
                continue  # most of them in a busy cluster, so this comes first
            node_id = view.node_id
            transfer_s = (total - held.get(node_id, 0)) / view.bytes_per_s if total else 0.0
            if transfer_s > never_s or node_id == home_id:
                continue
            free = view.room(demand, count)
            if not free and transfer_s + view.queue_s + task_s > never_s:
                continue
            candidate = _Candidate(node_id, transfer_s, task_s)
            candidate.free = free
            candidate.queue_s = view.queue_s
            heap.append((candidate.wait_s(), 0, random(), number, candidate))
        heapify(heap)
        grain = max(1, min(count // GRAINS, int(GRAIN_S / task_s)))
        rooms = sum(max(0, entry[4].free) for entry in heap)  # what is left of all free resources
        while count:
            _, _, _, number, candidate = heap[0]
            room = max(0, candidate.free - candidate.count)
            if room:
                share = min(room, count, max(grain, count // (len(heap) + 1)))
                rooms -= share
            else:
                # At the end all queues are level, at least an even share above the lowest of now;
                # so an even share of what must queue is never too much for the lowest. Tasks that
                # find room elsewhere lift no queue: there may be that many fewer.
                share = min(count, max(grain, (count - rooms) // (len(heap) + 1)))
            candidate.count += share
            count -= share
            heapreplace(heap, (candidate.wait_s(), candidate.count, random(), number, candidate))
        chosen = sorted(heap, key=lambda entry: entry[3])
        return [(entry[4].node_id, entry[4].count) for entry in chosen if entry[4].count]

    def _home_candidate(
        self,
        home_id: bytes,
        offer: Offer,
        count: int,
        inputs: tuple[int, dict[bytes, int]],
        task_s: float,
    ) -> _Candidate:
        view = self._nodes[home_id]
        total, held = inputs
        candidate = _Candidate(home_id, (total - held.get(home_id, 0)) / view.bytes_per_s, task_s)
        # The tasks in its queue that it does not offer go first.
        ahead = max(0, offer.queued - offer.count)
        candidate.free = view.room(offer.demand, count + ahead) - ahead
        candidate.is_home = True
        return candidate

    def _into_room(
        self,
        home_id: bytes,
        offer: Offer,
        nodes: list[NodeView],
        places: Shares,
        now: float,
        *,
        patient: bool,
    ) -> Placed:
        """Actors go to nodes with room, the home first, or wait.

        They hold their resources for life, so the length of a queue behind them has no meaning.

        Where tasks come and go, heartbeats may never show room. After a while such a node gets the
        actor all the same, and owes it the next room (local_scheduler).
        """
        left = offer.count - sum(places.values())
        ring = self._in_turn(home_id, offer, nodes)
        while left and (ring := [view for view in ring if view.room(offer.demand, 1)]):
            share = max(1, left // len(ring))  # few rounds, however many actors
            for view in ring[:left]:
                count = view.room(offer.demand, share)
                self._place(home_id, offer, view.node_id, count, places, now)
                self._spread_last = view.order
                left -= count
        if left and not patient:
            busy = [view for view in nodes if view.ends_tasks and view.node_id != home_id]
            for view in sorted(busy, key=lambda view: view.queue_s)[:left]:
                self._place(home_id, offer, view.node_id, 1, places, now)
                left -= 1
        placed = _placed(home_id, offer, places)
        if left and not any(view.node_id == home_id for view in nodes):
            self._waits_for_room = True
            placed.reason = why_no_room(offer, nodes)
        return placed

    def _in_turn(self, home_id: bytes, offer: Offer, nodes: list[NodeView]) -> list[NodeView]:
        # SPREAD: the next node first. Else nodes that lack least of the inputs, then the home.
        if offer.strategy is not None and offer.strategy.kind == "SPREAD":
            return sorted(nodes, key=lambda view: (view.order <= self._spread_last, view.order))
        held, total = _bytes_held(offer)
        keyed = [
            (
                (total - held.get(view.node_id, 0)) / view.bytes_per_s,
                view.node_id != home_id,
                self._random(),
                view.order,
                view,
            )
            for view in nodes
        ]
        return [entry[4] for entry in sorted(keyed, key=lambda entry: entry[:4])]

    def _spread(
        self, home_id: bytes, offer: Offer, nodes: list[NodeView], count: int
    ) -> list[tuple[bytes, int]]:
        """One task to each node in turn: first to nodes with room, and then to all."""
        first = next((i for i, v in enumerate(nodes) if v.order > self._spread_last), 0)
        ring = nodes[first:] + nodes[:first]
        rooms = []
        for view in ring:
            ahead = max(0, offer.queued - offer.count) if view.node_id == home_id else 0
            rooms.append(max(0, view.room(offer.demand, count + ahead) - ahead))
        shares = [0] * len(ring)
        last = -1
        turn = [number for number, room in enumerate(rooms) if room]
        while count and turn:
            for last in turn[:count]:
                shares[last] += 1
            count = max(0, count - len(turn))
            turn = [number for number in turn if rooms[number] > shares[number]]
        for _ in range(count):
            last = (last + 1) % len(ring)
            shares[last] += 1
        self._spread_last = ring[last].order
        return [(view.node_id, share) for view, share in zip(ring, shares, strict=True) if share]

    def _place(
        self, home_id: bytes, offer: Offer, node_id: bytes, count: int, places: Shares, now: float
    ) -> None:
        places[node_id] = places.get(node_id, 0) + count
        if node_id == home_id:
            self._nodes[node_id].stay(offer.demand, count, _task_s(offer))
        else:
            self._nodes[node_id].place(offer.demand, count, _task_s(offer), now)

    def check(self) -> None:
        """Assert the invariants above."""
        for view in self._nodes.values():
            view.check()
        for (demand, strategy), able in self._able.items():
            assert able == self._fitting(demand, strategy, set())
        for (node_id, number), waiting in self._waiting.items():
            assert node_id in self._nodes
            assert number == waiting.offer.number
            assert waiting.offer.count > 0 and waiting.reason


def _task_s(offer: Offer) -> float:
    """The expected run time of each task."""
    return offer.average_s if offer.average_s > 0 else UNKNOWN_TASK_S


def _bytes_held(offer: Offer) -> tuple[dict[bytes, int], int]:
    """How many bytes of the inputs each node has already, and how many there are."""
    held: dict[bytes, int] = {}
    total = 0
    for nodes, size in offer.inputs:
        total += size
        for node_id in nodes:
            held[node_id] = held.get(node_id, 0) + size
    return held, total


def _placed(home_id: bytes, offer: Offer, places: Shares) -> Placed:
    """The answer; tasks that stay at home are not named in it."""
    return Placed(offer.number, [pair for pair in places.items() if pair[0] != home_id])


def _unschedulable(
    offer: Offer, problem: str, places: list[tuple[bytes, int]] | None = None
) -> Placed:
    kind = "ActorUnschedulableError" if offer.is_actor else "TaskUnschedulableError"
    return Placed(offer.number, places or [], error=_error(kind, problem))


def _error(kind: str, problem: str) -> bytes:
    return encode_error(ErrorRecord(kind, problem))
