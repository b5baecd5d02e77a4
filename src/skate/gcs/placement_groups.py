"""Placement groups in the GCS: made, placed, placed anew after a node's death, removed. Pure.

`GcsCore` calls it with what users ask, what nodes answer and what becomes of nodes and jobs, and
sends what `take_sends` gives; `tick` within `config.HEARTBEAT_S` while `is_tick_due`.

A group that waits (PENDING, or RESCHEDULING if it was CREATED before) has at most one *attempt*
under way. An attempt is two phases: `ReserveBundles` to each chosen node (bundle_choice.py); when
all have said yes, `CommitBundles` to all of them and the group is CREATED. If one says no, dies, or
is silent for too long, `ReturnBundles` goes to all others that have said or may say yes, and the
group is tried again: at once with the nodes that have not refused yet, then ever later, but always
as soon as a node joins or has more free. The bundles that it has already stay where they are.

A stream of small tasks never leaves enough free at one moment. So a group that has waited for
`RESOURCE_PATIENCE_S` has a *claim* next: an attempt on nodes that could hold it if the tasks that
run there ended (`Heartbeat.attainable`; actors and bundles stay), which keep for it what becomes
free, and say yes once it is enough. Nothing is killed. Its way: the claim is refused at once by a
node where more than tasks is in the way, and the group claims others; or all say yes, and it is
CREATED; or its turn is over (patience.py: the task that it waits for may never end), and for as
long as the turn was nobody claims anything, so that the nodes do at least half of their work. There
is one claim in the cluster at a time, so no two groups wait for each other's half; it is given to
the group that had the shortest turns so far, of those to the oldest. A claim ends like any attempt
with the group, with a node that dies, or with the GCS (a node that loses it ends its work).

Between two heartbeats of a node this counts itself what it has reserved there, so two groups do not
run for the same free CPU. What users submit may still be faster: then the node says no.

Invariants, asserted by `check()`: a bundle is committed on one living node, or on none; a group is
CREATED exactly if all of its bundles are; one group claims at most; an answer to an attempt that is
no more is answered by `ReturnBundles`; a name belongs to one group that is not removed; each waiter
is answered once.

It does not choose nodes, and ends nobody who uses a group: the nodes do (scheduler/bundles.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from skate.config import (
    BUNDLES_MAX,
    GROUP_RETRY_MAX_S,
    GROUP_RETRY_S,
    GROUPS_TRIED_COST,
    KEPT_FREE_MAX_S,
    KEPT_FREE_S,
    RESERVE_TIMEOUT_S,
    RESOURCE_PATIENCE_S,
    RESOURCE_UNITS,
)
from skate.errors import ErrorRecord, encode_error
from skate.gcs.table import Table
from skate.messages import (
    Answer,
    BundlesReserved,
    CommitBundles,
    ReserveBundles,
    ReturnBundles,
)
from skate.scheduler.bundle_choice import STRATEGIES, NodeRoom, Wanted, choose, why_not
from skate.scheduler.group_names import GROUP_ID_BYTES, bundle_resources, parse_name
from skate.scheduler.label_rules import labels_of
from skate.scheduler.patience import next_turn_s
from skate.spec import Demand, LabelRule, resources_of
from skate.states import PLACEMENT_GROUP_MOVES, PlacementGroupState, advance

Send = tuple[int, msgspec.Struct]
Waiter = tuple[int, int]  # peer, number of its question
Changes = dict[bytes, dict[str, int]]  # node -> what it has in total now

PENDING = PlacementGroupState.PENDING
PREPARED = PlacementGroupState.PREPARED
CREATED = PlacementGroupState.CREATED
RESCHEDULING = PlacementGroupState.RESCHEDULING
REMOVED = PlacementGroupState.REMOVED

REMOVED_KEPT = 1_000
"""Removed groups that stay listed."""


class GroupRow(msgspec.Struct):
    """A placement group. `nodes` and `attempts` go with `bundles`: where each of them is committed
    (b"": nowhere), and since which attempt. Times are wall seconds."""

    group_id: bytes
    name: str
    namespace: str
    bundles: list[Demand]
    strategy: str
    job_id: bytes
    detached: bool
    rules: list[tuple[LabelRule, ...]]
    soft_target: bytes
    made: float
    nodes: list[bytes]
    attempts: list[int]
    state: PlacementGroupState = PENDING
    attempt: int = 0  # the last one, counted from 1
    reason: str = ""  # why it waits, or why it was removed
    scheduling: str = "QUEUED"  # Ray's word for that
    created: float = 0.0
    reserving_s: float = 0.0  # what the two phases took
    longest_delay_s: float = 0.0

    def move(self, to: PlacementGroupState) -> None:
        """Change state; illegal moves raise."""
        self.state = advance(PLACEMENT_GROUP_MOVES, self.state, to)


class _Attempt:
    """A reservation under way."""

    __slots__ = ("awaited", "is_claim", "number", "places", "since", "within_s")

    def __init__(
        self,
        number: int,
        places: dict[bytes, list[int]],
        since: float,
        claim_s: float,
    ) -> None:
        self.number = number
        self.places = places  # node -> bundles
        self.awaited = dict.fromkeys(places)  # nodes that have not answered
        self.since = since
        self.is_claim = claim_s > 0
        self.within_s = claim_s or RESERVE_TIMEOUT_S

    def is_late(self, now: float) -> bool:
        """Whether it has taken too long; or the clock was set back, and it may have."""
        return not 0.0 <= now - self.since <= self.within_s


class _Waiting:
    """A group that has bundles to be placed."""

    __slots__ = (
        "attempt",
        "claim_at",
        "claim_s",
        "delay_s",
        "no_claim",
        "not_before",
        "refused",
    )

    def __init__(self, now: float) -> None:
        self.attempt: _Attempt | None = None
        self.claim_at = now + RESOURCE_PATIENCE_S  # not before
        self.claim_s = KEPT_FREE_S  # how long its next claim may take
        self.no_claim: dict[bytes, None] = {}  # nodes that have refused its claim
        self.not_before = now
        self.delay_s = GROUP_RETRY_S
        self.refused: dict[bytes, None] = {}  # nodes that said no since the last pause


class _Node:
    """A living node: what it has without groups, what is free, what groups add to it.

    `attainable` is what would be free if tasks ended. `unseen` is what was reserved there and is
    not in `free` yet: what for (group, attempt), how much, and whether the node has answered, so
    that its next heartbeat counts it.
    """

    __slots__ = ("added", "attainable", "free", "labels", "node_id", "peer", "total", "unseen")

    def __init__(
        self, node_id: bytes, peer: int, total: dict[str, int], labels: dict[str, str]
    ) -> None:
        self.node_id = node_id
        self.peer = peer
        self.total = dict(total)
        self.labels = labels_of(node_id, labels)
        self.free = dict(total)
        self.attainable = self.free
        self.added: dict[str, int] = {}
        self.unseen: dict[tuple[bytes, int], tuple[dict[str, int], bool]] = {}

    def room(self, *, to_claim: bool = False) -> NodeRoom:
        """The node as one that may be chosen, with what is free or what may become free there."""
        free = self.attainable if to_claim else self.free
        if self.unseen:
            free = dict(free)
            for units, _ in self.unseen.values():
                for name, taken in units.items():
                    free[name] = free.get(name, 0) - taken
        return NodeRoom(self.node_id, self.total, free, self.labels)

    def add(self, resources: dict[str, int], sign: int) -> None:
        """Bundles have come (1) or gone (-1) with these resources."""
        for name, units in resources.items():
            left = self.added.get(name, 0) + sign * units
            if left:
                self.added[name] = left
            else:
                del self.added[name]


class PlacementGroups:
    """See the module's docstring.

    Two are told of what happens, and say whom to tell: `on_state` that a group has another state
    (or waits for another reason), `on_resources` what nodes have in total now that bundles have
    come to them or gone.
    """

    def __init__(
        self,
        on_state: Callable[[GroupRow, float], list[Send]],
        on_resources: Callable[[Changes], list[Send]],
    ) -> None:
        self.groups: Table[bytes, GroupRow] = Table(history=REMOVED_KEPT)
        self._on_state = on_state
        self._on_resources = on_resources
        self._nodes: dict[bytes, _Node] = {}
        self._waiting: dict[bytes, _Waiting] = {}  # the one that is to be tried next first
        self._names: dict[tuple[str, str], bytes] = {}
        self._waiters: dict[bytes, list[Waiter]] = {}
        self._sends: list[Send] = []
        self._has_grown = False  # some node has more free than before
        self._nobody_claims_until = 0.0

    def take_sends(self) -> list[Send]:
        """What is to be sent because of the calls since the last time."""
        sends, self._sends = self._sends, []
        return sends

    @property
    def is_tick_due(self) -> bool:
        """Whether some group waits."""
        return bool(self._waiting)

    # -------------------------------------------------------------------------- what users ask

    def create(self, row: GroupRow) -> None:
        """Enter a new group and try to place it. ValueError if it cannot be."""
        _check(row)
        if row.group_id in self.groups:
            raise ValueError(f"there is a placement group {row.group_id.hex()} already")
        name = row.namespace, row.name
        if row.name and name in self._names:
            raise ValueError(
                f"there is a placement group named {row.name!r} in namespace {row.namespace!r}"
                " already: remove it first, or take another name"
            )
        if row.name:
            self._names[name] = row.group_id
        self._waiting[row.group_id] = _Waiting(row.made)
        self._changed(row, row.made)
        self._try(row, row.made)

    def remove(self, group_id: bytes, now: float, reason: str = "it was removed") -> bool:
        """Give back all that the group has; whether there was such a group."""
        row = self.groups.get(group_id)
        if row is None or row.state is REMOVED:
            return False
        involved = dict.fromkeys(node_id for node_id in row.nodes if node_id)
        waiting = self._waiting.pop(group_id, None)
        if waiting is not None and waiting.attempt is not None:
            involved.update(dict.fromkeys(waiting.attempt.places))
        for node_id in involved:
            node = self._nodes[node_id]
            for key in [key for key in node.unseen if key[0] == group_id]:
                del node.unseen[key]
            self._sends.append((node.peer, ReturnBundles(group_id)))
        committed = {index: node_id for index, node_id in enumerate(row.nodes) if node_id}
        row.nodes = [b""] * len(row.bundles)
        row.reason, row.scheduling = reason, "REMOVED"
        row.move(REMOVED)
        if row.name:
            del self._names[row.namespace, row.name]
        self._changed(row, now)
        self.groups.retire(group_id)
        self._move_resources(row, committed, -1)
        self._answer(row)
        return True

    def wait(self, group_id: bytes, waiter: Waiter) -> None:
        """Answer this question once the group is created: True, or an error if it never will be."""
        row = self.groups.get(group_id)
        if row is None:
            text = f"there is no placement group {group_id.hex()}: it was removed long ago"
            error = encode_error(ErrorRecord("TaskPlacementGroupRemoved", text))
            self._sends.append((waiter[0], Answer(waiter[1], None, error)))
            return
        self._waiters.setdefault(group_id, []).append(waiter)
        if row.state in (CREATED, REMOVED):
            self._answer(row)

    def forget_peer(self, peer: int) -> None:
        """The peer is gone: it waits for nothing any more."""
        for group_id, waiters in list(self._waiters.items()):
            left = [waiter for waiter in waiters if waiter[0] != peer]
            if left:
                self._waiters[group_id] = left
            else:
                del self._waiters[group_id]

    def why_gone(self, demand: Demand) -> str:
        """Why a task or actor with this demand can never be placed, if its group is no more."""
        for name, _ in demand:
            found = parse_name(name)
            if found is not None:
                row = self.groups.get(found[1])
                if row is None:
                    return f"there is no placement group {found[1].hex()}: it was removed long ago"
                return _gone(row) if row.state is REMOVED else ""
        return ""

    def pending(self) -> list[dict[str, Any]]:
        """The groups that wait, for people: what they need yet, and why they wait."""
        rows = []
        for group_id in self._waiting:
            row = self._row(group_id)
            left = [d for d, node_id in zip(row.bundles, row.nodes, strict=True) if not node_id]
            units: dict[str, int] = {}
            for name, more in (pair for demand in left for pair in demand):
                units[name] = units.get(name, 0) + more
            rows.append(
                {
                    "name": f"placement group {row.name or group_id.hex()}",
                    "demand": resources_of(units),
                    "count": 1,
                    "reason": row.reason,
                    "node_id": "",
                }
            )
        return rows

    def counts(self) -> dict[str, int]:
        """How many groups there are, by state."""
        counts: dict[str, int] = {}
        for row in self.groups.rows():
            counts[row.state.name] = counts.get(row.state.name, 0) + 1
        return counts

    def find(self, name: str, namespace: str) -> GroupRow | None:
        """The group of this name that is not removed."""
        return self.groups.get(self._names.get((namespace, name), b""))

    # --------------------------------------------------------------------- what becomes of nodes

    def node_joined(
        self,
        node_id: bytes,
        peer: int,
        total: dict[str, int],
        labels: dict[str, str],
        now: float,
    ) -> None:
        """A node with all of this free."""
        self._nodes[node_id] = _Node(node_id, peer, total, labels)
        self._has_grown = True
        self.tick(now)

    def heartbeat(
        self, node_id: bytes, free: dict[str, int], attainable: dict[str, int] | None = None
    ) -> None:
        """What is free on a node, and what would be if its tasks ended; reservations that it has
        answered are in that."""
        node = self._nodes.get(node_id)
        if node is None:
            return
        before, node.free = node.free, free
        node.attainable = attainable or free
        if node.unseen:
            node.unseen = {key: pair for key, pair in node.unseen.items() if not pair[1]}
        if self._waiting and not self._has_grown:
            self._has_grown = any(free.get(name, 0) > before.get(name, 0) for name in node.total)

    def node_lost(self, node_id: bytes, now: float) -> None:
        """The node is dead, and with it the bundles that it had."""
        if self._nodes.pop(node_id, None) is None:
            return
        for row in self.groups.rows():
            lost = [index for index, where in enumerate(row.nodes) if where == node_id]
            waiting = self._waiting.get(row.group_id)
            attempt = waiting.attempt if waiting is not None else None
            if not lost and (attempt is None or node_id not in attempt.places):
                continue
            for index in lost:
                row.nodes[index] = b""
            if waiting is None:
                waiting = self._waiting[row.group_id] = _Waiting(now)
                row.move(RESCHEDULING)
            elif attempt is not None:
                self._abort(row, waiting)  # what is left of the group may want another choice
            row.reason = f"node {node_id.hex()} is dead"
            waiting.not_before = now
            self._changed(row, now)
        self.tick(now)

    def end_job(self, job_id: bytes, now: float) -> None:
        """The job has ended: so do its groups, but for the detached ones."""
        for row in self.groups.rows():
            if row.job_id == job_id and not row.detached and row.state is not REMOVED:
                self.remove(row.group_id, now, f"its job {job_id.hex()} has ended")

    # --------------------------------------------------------------------------- two phases

    def reserved(self, node_id: bytes, message: BundlesReserved, now: float) -> None:
        """A node has answered."""
        row = self.groups.get(message.group_id)
        node = self._nodes.get(node_id)
        if node is None:
            return
        waiting = self._waiting.get(message.group_id)
        attempt = waiting.attempt if waiting is not None else None
        if (
            row is None
            or waiting is None
            or attempt is None
            or attempt.number != message.attempt
            or node_id not in attempt.places
        ):
            self._answer_late(row, node, message)
        elif node_id in attempt.awaited:
            if message.is_reserved:
                del attempt.awaited[node_id]
                key = message.group_id, message.attempt
                if key in node.unseen:
                    node.unseen[key] = node.unseen[key][0], True
                if not attempt.awaited:
                    self._commit(row, attempt, now)
            elif attempt.is_claim:
                waiting.no_claim[node_id] = None
                self._abort(row, waiting, but=node_id)
                self._claim_next(now)
            else:
                waiting.refused[node_id] = None
                self._abort(row, waiting, but=node_id)
                self._try(row, now)

    def tick(self, now: float) -> None:
        """Give up on nodes that do not answer, and try again what is to be tried."""
        for group_id, waiting in list(self._waiting.items()):
            attempt = waiting.attempt
            if attempt is not None and attempt.is_late(now):
                if attempt.is_claim:
                    self._nobody_claims_until = now + waiting.claim_s
                    waiting.claim_s = next_turn_s(waiting.claim_s)
                else:
                    waiting.refused.update(attempt.awaited)
                self._abort(self._row(group_id), waiting)
                waiting.not_before = now
        grown, self._has_grown = self._has_grown, False
        cost = 0
        for group_id, waiting in list(self._waiting.items()):
            if grown:
                waiting.not_before, waiting.delay_s = now, GROUP_RETRY_S
            # After a pause of the clock, or if it was set back, nobody waits longer for that.
            is_due = not now < waiting.not_before <= now + GROUP_RETRY_MAX_S
            if waiting.attempt is None and is_due and cost < GROUPS_TRIED_COST:
                row = self._row(group_id)
                cost += len(self._nodes) + len(row.bundles)
                # Behind the others, so that each has its turn though a tick tries only so many.
                self._waiting[group_id] = self._waiting.pop(group_id)
                self._try(row, now)
        self._claim_next(now)

    def _claim_next(self, now: float) -> None:
        waiting = self._waiting
        if any(one.attempt is not None and one.attempt.is_claim for one in waiting.values()):
            return
        if now < self._nobody_claims_until <= now + KEPT_FREE_MAX_S:
            return
        due = [
            (one.claim_s, self._row(group_id).made, group_id)
            for group_id, one in waiting.items()
            if one.attempt is None and not now < one.claim_at <= now + GROUP_RETRY_MAX_S
        ]
        cost = 0
        for _, _, group_id in sorted(due):
            row = self._row(group_id)
            cost += len(self._nodes) + len(row.bundles)
            if self._claim(row, now) or cost >= GROUPS_TRIED_COST:
                return

    def _claim(self, row: GroupRow, now: float) -> bool:
        waiting = self._waiting[row.group_id]
        rooms = [
            node.room(to_claim=True)
            for node in self._nodes.values()
            if node.node_id not in waiting.no_claim
        ]
        choice = choose(_wanted(row), row.strategy, rooms, _placed(row), row.soft_target)
        if choice is None:
            waiting.no_claim.clear()
            waiting.claim_at = now + GROUP_RETRY_MAX_S
            return False
        self._reserve(row, waiting, choice, now, waiting.claim_s)
        return True

    def _try(self, row: GroupRow, now: float) -> None:
        waiting = self._waiting[row.group_id]
        wanted, placed = _wanted(row), _placed(row)
        rooms = [node.room() for node in self._nodes.values()]
        willing = [room for room in rooms if room.node_id not in waiting.refused]
        choice = choose(wanted, row.strategy, willing, placed, row.soft_target)
        if choice is not None:
            self._reserve(row, waiting, choice, now)
            return
        if waiting.refused:
            is_infeasible = False
            reason = "a node that seemed to have room had none, or did not answer"
            waiting.refused.clear()
        else:
            is_infeasible, reason = why_not(wanted, row.strategy, rooms, placed)
        waiting.not_before = now + waiting.delay_s
        row.longest_delay_s = max(row.longest_delay_s, waiting.delay_s)
        waiting.delay_s = min(2 * waiting.delay_s, GROUP_RETRY_MAX_S)
        scheduling = "INFEASIBLE" if is_infeasible else "NO_RESOURCES"
        if (reason, scheduling) != (row.reason, row.scheduling):
            row.reason, row.scheduling = reason, scheduling
            self.groups.put(row.group_id, row)

    def _reserve(
        self,
        row: GroupRow,
        waiting: _Waiting,
        choice: dict[int, bytes],
        now: float,
        claim_s: float = 0.0,
    ) -> None:
        places: dict[bytes, list[int]] = {}
        for index in sorted(choice):
            places.setdefault(choice[index], []).append(index)
        row.attempt += 1
        row.scheduling = "SCHEDULING_STARTED"
        row.reason = "its bundles are being reserved"
        self.groups.put(row.group_id, row)
        attempt = waiting.attempt = _Attempt(row.attempt, places, now, claim_s)
        for node_id, indexes in places.items():
            node = self._nodes[node_id]
            units: dict[str, int] = {}
            for index in indexes:
                for name, more in row.bundles[index]:
                    units[name] = units.get(name, 0) + more
            node.unseen[row.group_id, row.attempt] = units, False
            bundles = [(index, row.bundles[index]) for index in indexes]
            message = ReserveBundles(row.group_id, row.attempt, bundles, attempt.is_claim)
            self._sends.append((node.peer, message))

    def _abort(self, row: GroupRow, waiting: _Waiting, but: bytes = b"") -> None:
        attempt, waiting.attempt = waiting.attempt, None
        assert attempt is not None
        for node_id in attempt.places:
            node = self._nodes.get(node_id)
            if node is None:
                continue
            node.unseen.pop((row.group_id, attempt.number), None)
            if node_id != but:
                self._sends.append((node.peer, ReturnBundles(row.group_id, attempt.number)))

    def _commit(self, row: GroupRow, attempt: _Attempt, now: float) -> None:
        del self._waiting[row.group_id]
        row.move(PREPARED)
        placed: dict[int, bytes] = {}
        for node_id, indexes in attempt.places.items():
            message = CommitBundles(row.group_id, attempt.number)
            self._sends.append((self._nodes[node_id].peer, message))
            for index in indexes:
                row.nodes[index], row.attempts[index] = node_id, attempt.number
                placed[index] = node_id
        row.move(CREATED)
        row.created = row.created or now
        row.reserving_s = now - attempt.since
        row.reason, row.scheduling = "", "FINISHED"
        self._changed(row, now)
        self._move_resources(row, placed, 1)
        self._answer(row)

    def _answer_late(self, row: GroupRow | None, node: _Node, message: BundlesReserved) -> None:
        # To an attempt that is over. What came of it is in use, or not wanted any more.
        if not message.is_reserved:
            return
        if row is not None and (node.node_id, message.attempt) in zip(
            row.nodes, row.attempts, strict=True
        ):
            return
        self._sends.append((node.peer, ReturnBundles(message.group_id, message.attempt)))

    # ------------------------------------------------------------------------------- inside

    def _row(self, group_id: bytes) -> GroupRow:
        row = self.groups.get(group_id)
        assert row is not None, f"no row of placement group {group_id.hex()}"
        return row

    def _changed(self, row: GroupRow, now: float) -> None:
        self.groups.put(row.group_id, row)
        self._sends += self._on_state(row, now)

    def _move_resources(self, row: GroupRow, where: dict[int, bytes], sign: int) -> None:
        changed: Changes = {}
        for index, node_id in where.items():
            node = self._nodes[node_id]
            node.add(bundle_resources(row.group_id, index, row.bundles[index]), sign)
            changed[node_id] = {}
        for node_id in changed:
            node = self._nodes[node_id]
            changed[node_id] = {**node.total, **node.added}
        if changed:
            self._sends += self._on_resources(changed)

    def _answer(self, row: GroupRow) -> None:
        for peer, number in self._waiters.pop(row.group_id, ()):
            answer = Answer(number, True)
            if row.state is REMOVED:
                error = encode_error(ErrorRecord("TaskPlacementGroupRemoved", _gone(row)))
                answer = Answer(number, None, error)
            self._sends.append((peer, answer))

    def check(self) -> None:
        """Assert the invariants above."""
        self.groups.check()
        names: dict[tuple[str, str], bytes] = {}
        added: dict[bytes, dict[str, int]] = {node_id: {} for node_id in self._nodes}
        for row in self.groups.rows():
            waiting = self._waiting.get(row.group_id)
            assert (row.state in (PENDING, RESCHEDULING)) == (waiting is not None), row
            assert (row.state is CREATED) == all(row.nodes), row
            assert len(row.nodes) == len(row.attempts) == len(row.bundles)
            if row.name and row.state is not REMOVED:
                assert (row.namespace, row.name) not in names
                names[row.namespace, row.name] = row.group_id
            for index, node_id in enumerate(row.nodes):
                if node_id:
                    assert node_id in self._nodes and row.state is not REMOVED
                    given = bundle_resources(row.group_id, index, row.bundles[index])
                    for name, units in given.items():
                        added[node_id][name] = added[node_id].get(name, 0) + units
            used = [node_id for node_id in row.nodes if node_id]
            if row.strategy == "STRICT_PACK":
                assert len(set(used)) <= 1
            if row.strategy == "STRICT_SPREAD":
                assert len(set(used)) == len(used)
            if waiting is not None and waiting.attempt is not None:
                self._check_attempt(row, waiting.attempt)
            assert row.group_id not in self._waiters or waiting is not None
        attempts = [waiting.attempt for waiting in self._waiting.values()]
        assert sum(attempt is not None and attempt.is_claim for attempt in attempts) <= 1
        assert names == self._names
        assert self._waiting.keys() <= set(self.groups)
        assert self._waiters.keys() <= set(self.groups)
        for node_id, node in self._nodes.items():
            assert node.added == added[node_id]
            for group_id, number in node.unseen:
                row_ = self._row(group_id)
                assert row_.state is not REMOVED and number <= row_.attempt

    def _check_attempt(self, row: GroupRow, attempt: _Attempt) -> None:
        assert attempt.number == row.attempt and attempt.awaited
        assert attempt.awaited.keys() <= attempt.places.keys() <= self._nodes.keys()
        placed = sorted(index for indexes in attempt.places.values() for index in indexes)
        assert placed == [index for index, node_id in enumerate(row.nodes) if not node_id]


def _wanted(row: GroupRow) -> list[Wanted]:
    """The bundles that are nowhere."""
    return [
        Wanted(index, demand, row.rules[index] if row.rules else ())
        for index, demand in enumerate(row.bundles)
        if not row.nodes[index]
    ]


def _placed(row: GroupRow) -> dict[bytes, int]:
    """How many bundles each node has."""
    placed: dict[bytes, int] = {}
    for node_id in row.nodes:
        if node_id:
            placed[node_id] = placed.get(node_id, 0) + 1
    return placed


def _gone(row: GroupRow) -> str:
    return f"placement group {row.group_id.hex()} is no more: {row.reason}"


def _check(row: GroupRow) -> None:
    if len(row.group_id) != GROUP_ID_BYTES:
        raise ValueError(f"the id of a placement group has {GROUP_ID_BYTES} bytes")
    if row.strategy not in STRATEGIES:
        raise ValueError(f"no strategy {row.strategy!r}, only {', '.join(STRATEGIES)}")
    if not 0 < len(row.bundles) <= BUNDLES_MAX:
        raise ValueError(f"a placement group has 1 to {BUNDLES_MAX} bundles: {len(row.bundles)}")
    if row.rules and len(row.rules) != len(row.bundles):
        raise ValueError(f"{len(row.rules)} lists of rules for {len(row.bundles)} bundles")
    if row.soft_target and row.strategy != "STRICT_PACK":
        raise ValueError(f"a soft target goes with STRICT_PACK, not with {row.strategy}")
    for index, demand in enumerate(row.bundles):
        if not demand or any(units <= 0 for _, units in demand):
            raise ValueError(f"bundle {index} asks for nothing, or for less: {demand}")
        for name, units in demand:
            if name == "bundle" or parse_name(name) is not None:
                raise ValueError(f"{name!r} in bundle {index} is a name that groups make")
            if name == "GPU" and units > RESOURCE_UNITS and units % RESOURCE_UNITS:
                raise ValueError(f"bundle {index} asks for parts of several GPUs: whole ones only")


def view_group(row: GroupRow) -> dict[str, Any]:
    """A group as `placement_group_table` shows it: Ray's keys, then skate's own; ids in hex."""
    is_created = row.created > 0
    return {
        "placement_group_id": row.group_id.hex(),
        "name": row.name,
        "bundles": {index: resources_of(demand) for index, demand in enumerate(row.bundles)},
        "bundles_to_node_id": {index: node_id.hex() for index, node_id in enumerate(row.nodes)},
        "strategy": row.strategy,
        "state": row.state.name,
        "stats": {
            "end_to_end_creation_latency_ms": (row.created - row.made) * 1e3 if is_created else 0.0,
            "scheduling_latency_ms": row.reserving_s * 1e3,
            "scheduling_attempt": row.attempt,
            "highest_retry_delay_ms": row.longest_delay_s * 1e3,
            "scheduling_state": row.scheduling,
        },
        "namespace": row.namespace,
        "creator_job_id": row.job_id.hex(),
        "is_detached": row.detached,
        "reason": row.reason,
        "made": row.made,
    }
