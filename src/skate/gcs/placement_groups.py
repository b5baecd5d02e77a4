"""Placement groups in the GCS: made, placed, placed anew after a node's death, removed. Pure.

`GcsCore` calls it with questions of users, answers of nodes and changes of nodes and jobs, and
sends the messages of `take_sends`; `tick` within `config.HEARTBEAT_S` while `is_tick_due`.

A group that waits (PENDING, or RESCHEDULING if it was CREATED before) has at most one *attempt*
under way. An attempt is two phases: `ReserveBundles` to each chosen node (bundle_choice.py); when
all have said yes, `CommitBundles` to all of them and the group is CREATED. If one says no, dies, or
is silent for too long, `ReturnBundles` goes to all others that have said or may say yes, and the
group is tried again: at once with the nodes that have not refused yet, then ever later, but always
as soon as a node joins or has more free. The bundles that it has already stay where they are.

A stream of small tasks never leaves enough free at one moment. So a group that has waited for
`RESOURCE_PATIENCE_S` has a *claim* next: an attempt on nodes that could hold it if the tasks that
run there ended (`Heartbeat.attainable`; actors and bundles stay). Those nodes keep for the group
what becomes free, and say yes once it is enough. Nothing is killed. A claim ends in one of three
ways:

  - a node where more than tasks is in the way refuses at once, and the group claims other nodes;
  - all nodes say yes, and the group is CREATED;
  - its turn is over (patience.py: the task that it waits for may never end). Then no group claims
    anything for as long as the turn was, so that nodes do at least half of their work.

There is one claim in the cluster at a time, so no two groups hold half of what the other needs. The
next claim is for the group whose turns were shortest so far; of several, for the oldest. Like any
attempt, a claim also ends with its group, with a node that dies, or with the GCS (a node that loses
the GCS ends its work).

Between two heartbeats of a node, this module counts what it has reserved there itself, so that two
groups do not compete for the same free CPU. A task may still take that CPU first; then the node
refuses the bundle.

Invariants, asserted by `check()`: a bundle is committed on one living node, or on none; a group is
CREATED exactly if all of its bundles are committed; at most one group has a claim; a node that says
yes to an attempt that is over is sent `ReturnBundles`; a name belongs to one group that is not
removed; each waiter is answered once.

bundle_choice.py chooses the nodes. Nodes themselves end what uses a removed group
(scheduler/bundles.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from skate.config import (
    GROUP_RETRY_MAX_S,
    GROUP_RETRY_S,
    GROUPS_TRIED_COST,
    KEPT_FREE_MAX_S,
)
from skate.error_records import ErrorRecord, encode_error
from skate.gcs.group_attempt import Attempt, GroupNode, Waiting
from skate.gcs.group_row import GroupRow, check_group, gone_text, placed_of, wanted_of
from skate.gcs.outbox import Send
from skate.gcs.table import Table
from skate.messages import Answer, BundlesReserved, CommitBundles, ReserveBundles, ReturnBundles
from skate.scheduler.bundle_choice import choose, why_not
from skate.scheduler.group_names import bundle_resources, parse_name
from skate.scheduler.patience import next_turn_s
from skate.spec import Demand, resources_of
from skate.states import PlacementGroupState

Waiter = tuple[int, int]  # peer, number of its question
Changes = dict[bytes, dict[str, int]]  # node -> its total resources now

PENDING = PlacementGroupState.PENDING
PREPARED = PlacementGroupState.PREPARED
CREATED = PlacementGroupState.CREATED
RESCHEDULING = PlacementGroupState.RESCHEDULING
REMOVED = PlacementGroupState.REMOVED

REMOVED_KEPT = 1_000
"""Removed groups that stay listed."""


class PlacementGroups:
    """See the module's docstring.

    `on_state` is called when a group has a new state, or a new reason to wait; `on_resources` with
    the totals of nodes when bundles have come to them or gone. Both return messages to be sent.
    """

    def __init__(
        self,
        on_state: Callable[[GroupRow, float], list[Send]],
        on_resources: Callable[[Changes], list[Send]],
    ) -> None:
        self.groups: Table[bytes, GroupRow] = Table(history=REMOVED_KEPT)
        self._on_state = on_state
        self._on_resources = on_resources
        self._nodes: dict[bytes, GroupNode] = {}
        self._waiting: dict[bytes, Waiting] = {}  # in the order in which they are tried next
        self._names: dict[tuple[str, str], bytes] = {}
        self._waiters: dict[bytes, list[Waiter]] = {}
        self._sends: list[Send] = []
        self._has_grown = False  # some node has more free than before
        self._nobody_claims_until = 0.0

    def take_sends(self) -> list[Send]:
        """The messages that the calls since the last `take_sends` have caused."""
        sends, self._sends = self._sends, []
        return sends

    @property
    def is_tick_due(self) -> bool:
        """Whether some group waits."""
        return bool(self._waiting)

    # -------------------------------------------------------------------------- what users ask

    def create(self, row: GroupRow) -> None:
        """Enter a new group and try to place it. ValueError if it cannot be."""
        check_group(row)
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
        self._waiting[row.group_id] = Waiting(row.made)
        self._changed(row, row.made)
        self._try(row, row.made)

    def remove(self, group_id: bytes, now: float, reason: str = "it was removed") -> bool:
        """Remove a group and give back its bundles. False if there is no such group."""
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
                return gone_text(row) if row.state is REMOVED else ""
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
        self._nodes[node_id] = GroupNode(node_id, peer, total, labels)
        self._has_grown = True
        self.tick(now)

    def heartbeat(
        self, node_id: bytes, free: dict[str, int], attainable: dict[str, int] | None = None
    ) -> None:
        """The load of a node: its free resources, and those free if its tasks ended.

        Both amounts already exclude the reservations that the node has answered.
        """
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
                waiting = self._waiting[row.group_id] = Waiting(now)
                row.move(RESCHEDULING)
            elif attempt is not None:
                self._abort(row, waiting)  # the rest of the group may want another choice
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
        """Give up on nodes that do not answer, and try due groups again."""
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
            # A clock that paused or was set back makes no group wait longer.
            is_due = not now < waiting.not_before <= now + GROUP_RETRY_MAX_S
            if waiting.attempt is None and is_due and cost < GROUPS_TRIED_COST:
                row = self._row(group_id)
                cost += len(self._nodes) + len(row.bundles)
                # To the end of the line: a tick tries only some groups, and each has its turn.
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
        choice = choose(wanted_of(row), row.strategy, rooms, placed_of(row), row.soft_target)
        if choice is None:
            waiting.no_claim.clear()
            waiting.claim_at = now + GROUP_RETRY_MAX_S
            return False
        self._reserve(row, waiting, choice, now, waiting.claim_s)
        return True

    def _try(self, row: GroupRow, now: float) -> None:
        waiting = self._waiting[row.group_id]
        wanted, placed = wanted_of(row), placed_of(row)
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
        waiting: Waiting,
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
        attempt = waiting.attempt = Attempt(row.attempt, places, now, claim_s)
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

    def _abort(self, row: GroupRow, waiting: Waiting, but: bytes = b"") -> None:
        attempt, waiting.attempt = waiting.attempt, None
        assert attempt is not None
        for node_id in attempt.places:
            node = self._nodes.get(node_id)
            if node is None:
                continue
            node.unseen.pop((row.group_id, attempt.number), None)
            if node_id != but:
                self._sends.append((node.peer, ReturnBundles(row.group_id, attempt.number)))

    def _commit(self, row: GroupRow, attempt: Attempt, now: float) -> None:
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

    def _answer_late(self, row: GroupRow | None, node: GroupNode, message: BundlesReserved) -> None:
        # The attempt is over. Its bundles on this node are either committed, or to be returned.
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
                error = encode_error(ErrorRecord("TaskPlacementGroupRemoved", gone_text(row)))
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

    def _check_attempt(self, row: GroupRow, attempt: Attempt) -> None:
        assert attempt.number == row.attempt and attempt.awaited
        assert attempt.awaited.keys() <= attempt.places.keys() <= self._nodes.keys()
        placed = sorted(index for indexes in attempt.places.values() for index in indexes)
        assert placed == [index for index, node_id in enumerate(row.nodes) if not node_id]
