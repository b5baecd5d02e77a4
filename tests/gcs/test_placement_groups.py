"""Placement groups: event lists first, then a whole small cluster in any order, with the bundles
and the local schedulers of real nodes at the other ends of its lines.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from skate.config import GROUP_RETRY_S, RESERVE_TIMEOUT_S
from skate.errors import decode_error
from skate.gcs.bundle_choice import STRATEGIES, NodeRoom, Wanted, choose
from skate.gcs.placement_groups import GroupRow, PlacementGroups, view_group
from skate.messages import (
    Answer,
    BundlesReserved,
    CommitBundles,
    Heartbeat,
    ReserveBundles,
    ReturnBundles,
)
from skate.scheduler.bundles import Bundles
from skate.scheduler.group_names import bundle_resources, rewrite_demand
from skate.scheduler.local_scheduler import LocalScheduler
from skate.spec import Demand, LabelRule, demand_of
from skate.states import PlacementGroupState

G, H = b"G" * 16, b"H" * 16
JOB = b"\0\0\0\1"
CPU = {"CPU": 1.0}


def group_row(
    *bundles: dict[str, float],
    group_id: bytes = G,
    strategy: str = "PACK",
    name: str = "",
    made: float = 100.0,
    **options: Any,
) -> GroupRow:
    return GroupRow(
        group_id,
        name,
        "space",
        [demand_of(bundle) for bundle in bundles],
        strategy,
        options.get("job_id", JOB),
        options.get("detached", False),
        options.get("rules", []),
        options.get("soft_target", b""),
        made,
        [b""] * len(bundles),
        [0] * len(bundles),
    )


class Gcs:
    """The groups, and nodes that are letters: peer 1 is node a, and so on."""

    def __init__(self, **nodes: dict[str, float]) -> None:
        self.groups = PlacementGroups(self._on_state, self._on_resources)
        self.totals: dict[str, dict[str, int]] = {}
        self.log: list[str] = []
        self.now = 100.0
        for letter, resources in nodes.items():
            self.join(letter, resources)

    def _on_resources(self, changes: dict[bytes, dict[str, int]]) -> list[Any]:
        for node_id, total in changes.items():
            self.totals[node_id[:1].decode()] = total
        return []

    def _on_state(self, row: GroupRow, now: float) -> list[Any]:
        self.log.append(row.state.name)
        return []

    def join(self, letter: str, resources: dict[str, float]) -> list[str]:
        self.groups.node_joined(
            letter.encode() * 16,
            ord(letter) - 96,
            dict(demand_of(resources)),
            {"letter": letter},
            self.now,
        )
        return self.sent()

    def sent(self) -> list[str]:
        """What went out: "a reserve 1: 0 2" is bundles 0 and 2 to node a in attempt 1."""
        self.groups.check()
        lines = []
        for peer, message in self.groups.take_sends():
            letter = chr(peer + 96)
            if isinstance(message, ReserveBundles):
                indexes = " ".join(str(index) for index, _ in message.bundles)
                lines.append(f"{letter} reserve {message.attempt}: {indexes}")
            elif isinstance(message, CommitBundles):
                lines.append(f"{letter} commit {message.attempt}")
            elif isinstance(message, ReturnBundles):
                lines.append(f"{letter} return {message.attempt}")
            elif isinstance(message, Answer):
                text = decode_error(message.error).message if message.error else message.body
                lines.append(f"peer {peer} answer {message.number}: {text}")
        return lines

    def create(self, row: GroupRow) -> list[str]:
        self.groups.create(row)
        return self.sent()

    def answer(self, letter: str, attempt: int, is_reserved: bool = True) -> list[str]:
        message = BundlesReserved(G, attempt, is_reserved)
        self.groups.reserved(letter.encode() * 16, message, self.now)
        return self.sent()

    def die(self, letter: str) -> list[str]:
        self.groups.node_lost(letter.encode() * 16, self.now)
        return self.sent()

    def tick(self, seconds: float = GROUP_RETRY_S) -> list[str]:
        self.now += seconds
        self.groups.tick(self.now)
        return self.sent()

    def heartbeat(self, letter: str, free: dict[str, float]) -> None:
        self.groups.heartbeat(letter.encode() * 16, dict(demand_of(free)))

    def remove(self, group_id: bytes = G) -> list[str]:
        self.groups.remove(group_id, self.now)
        return self.sent()

    def row(self, group_id: bytes = G) -> GroupRow:
        row = self.groups.groups.get(group_id)
        assert row is not None
        return row

    def where(self) -> str:
        """The nodes of the group's bundles."""
        return "".join(node_id[:1].decode() or "-" for node_id in self.row().nodes)


def created(strategy: str = "STRICT_SPREAD", **nodes: dict[str, float]) -> Gcs:
    """A cluster with a group of two bundles on nodes a and b."""
    gcs = Gcs(a=CPU, b=CPU)
    gcs.create(group_row(CPU, CPU, strategy=strategy))
    gcs.answer("a", 1)
    assert gcs.answer("b", 1) == ["a commit 1", "b commit 1"]
    for letter, resources in nodes.items():
        assert gcs.join(letter, resources) == []
    return gcs


# ------------------------------------------------------------------------------- two phases


def test_a_group_is_created_when_all_its_nodes_have_said_yes() -> None:
    gcs = Gcs(a={"CPU": 2}, b=CPU)
    assert gcs.create(group_row(CPU, CPU, CPU)) == ["a reserve 1: 0 1", "b reserve 1: 2"]
    assert gcs.answer("b", 1) == []
    assert gcs.row().state is PlacementGroupState.PENDING
    assert gcs.answer("a", 1) == ["a commit 1", "b commit 1"]
    assert gcs.row().state is PlacementGroupState.CREATED
    assert gcs.where() == "aab"
    assert gcs.log == ["PENDING", "CREATED"]
    assert not gcs.groups.is_tick_due


def test_a_node_then_has_the_groups_names_until_the_group_goes() -> None:
    gcs = created()
    expected = {**dict(demand_of(CPU)), **bundle_resources(G, 1, demand_of(CPU))}
    assert gcs.totals["b"] == expected
    gcs.remove()
    assert gcs.totals["b"] == dict(demand_of(CPU))


def test_one_no_and_the_others_give_back() -> None:
    gcs = Gcs(a=CPU, b=CPU, c=CPU)
    gcs.create(group_row(CPU, CPU, CPU, strategy="STRICT_SPREAD"))
    gcs.answer("a", 1)
    # c may say yes still.
    assert gcs.answer("b", 1, False) == ["a return 1", "c return 1"]
    assert gcs.row().state is PlacementGroupState.PENDING
    assert gcs.row().reason.startswith("a node that seemed to have room")
    assert gcs.answer("c", 1) == ["c return 1"]
    assert gcs.tick() == ["a reserve 2: 0", "b reserve 2: 1", "c reserve 2: 2"]


def test_after_a_no_the_others_are_asked_at_once() -> None:
    gcs = Gcs(a=CPU, b=CPU, c=CPU)
    assert gcs.create(group_row(CPU)) == ["a reserve 1: 0"]
    assert gcs.answer("a", 1, False) == ["b reserve 2: 0"]
    assert gcs.answer("b", 2, False) == ["c reserve 3: 0"]
    assert gcs.answer("c", 3, False) == []
    assert gcs.tick() == ["a reserve 4: 0"]


def test_pauses_grow_and_end_when_a_node_has_more_free() -> None:
    gcs = Gcs(a=CPU)
    gcs.heartbeat("a", {})
    assert gcs.create(group_row(CPU)) == []
    assert (gcs.row().scheduling, gcs.row().reason) == (
        "NO_RESOURCES",
        "what it needs is in use by others",
    )
    for _ in range(5):
        gcs.tick(2.0)
    assert view_group(gcs.row())["stats"]["highest_retry_delay_ms"] == 1_000
    gcs.heartbeat("a", {"CPU": 0.5})
    assert gcs.tick(0.05) == []
    gcs.heartbeat("a", CPU)
    assert gcs.tick(0.05) == ["a reserve 1: 0"]


def test_who_does_not_answer_is_left_out_and_gives_back_what_it_may_have() -> None:
    gcs = Gcs(a=CPU, b=CPU)
    assert gcs.create(group_row(CPU)) == ["a reserve 1: 0"]
    assert gcs.tick(RESERVE_TIMEOUT_S) == []
    assert gcs.tick() == ["a return 1", "b reserve 2: 0"]
    assert gcs.answer("a", 1) == ["a return 1"]
    assert gcs.answer("b", 2) == ["b commit 2"]


def test_a_second_answer_changes_nothing() -> None:
    gcs = Gcs(a=CPU, b=CPU)
    gcs.create(group_row(CPU, CPU, strategy="STRICT_SPREAD"))
    assert gcs.answer("a", 1) == []
    assert gcs.answer("a", 1) == []
    assert gcs.answer("b", 1) == ["a commit 1", "b commit 1"]
    assert gcs.answer("b", 1) == []
    assert gcs.answer("b", 1, False) == []


def test_two_groups_do_not_run_for_the_same_cpu() -> None:
    gcs = Gcs(a=CPU, b=CPU)
    assert gcs.create(group_row(CPU)) == ["a reserve 1: 0"]
    assert gcs.create(group_row(CPU, group_id=H)) == ["b reserve 1: 0"]
    gcs.heartbeat("a", CPU)  # from before it has heard of it
    third = b"T" * 16
    assert gcs.create(group_row(CPU, group_id=third)) == []
    gcs.answer("a", 1)
    gcs.heartbeat("a", {})
    gcs.heartbeat("a", CPU)  # and free again
    assert gcs.tick() == ["a reserve 1: 0"]


def test_a_group_that_no_node_can_ever_hold_waits_for_a_node() -> None:
    gcs = Gcs(a=CPU)
    assert gcs.create(group_row({"CPU": 1}, {"GPU": 1})) == []
    row = gcs.row()
    assert (row.scheduling, row.reason) == ("INFEASIBLE", "no node has GPU: 1 for bundle 1")
    assert gcs.groups.is_tick_due
    assert gcs.join("b", {"GPU": 2}) == ["a reserve 1: 0", "b reserve 1: 1"]


def test_label_rules_of_bundles() -> None:
    gcs = Gcs(a=CPU, b=CPU)
    rules = [(LabelRule("letter", "in", ("b",)),), ()]
    assert gcs.create(group_row(CPU, CPU, rules=rules)) == ["b reserve 1: 0", "a reserve 1: 1"]


def test_a_soft_target_is_taken_if_it_can_be() -> None:
    gcs = Gcs(a=CPU, b={"CPU": 4})
    row = group_row(CPU, strategy="STRICT_PACK", soft_target=b"b" * 16)
    assert gcs.create(row) == ["b reserve 1: 0"]


# --------------------------------------------------------------------------- nodes that die


def test_a_node_that_dies_before_the_commit_is_replaced() -> None:
    gcs = Gcs(a=CPU, b=CPU, c=CPU)
    gcs.create(group_row(CPU, CPU, strategy="STRICT_SPREAD"))
    gcs.answer("a", 1)
    assert gcs.die("b") == ["a return 1", "a reserve 2: 0", "c reserve 2: 1"]
    gcs.answer("a", 2)
    assert gcs.answer("c", 2) == ["a commit 2", "c commit 2"]
    assert gcs.where() == "ac"


def test_only_lost_bundles_are_placed_anew() -> None:
    gcs = created(c=CPU)
    assert gcs.die("b") == ["c reserve 2: 1"]
    assert gcs.row().state is PlacementGroupState.RESCHEDULING
    assert gcs.where() == "a-"
    assert gcs.answer("c", 2) == ["c commit 2"]
    assert gcs.where() == "ac"
    assert gcs.log == ["PENDING", "CREATED", "RESCHEDULING", "CREATED"]
    assert gcs.answer("a", 1) == []  # of the first attempt: it is in use
    assert gcs.remove() == ["a return -1", "c return -1"]


def test_what_is_placed_anew_keeps_to_the_strategy() -> None:
    gcs = created()
    gcs.heartbeat("a", {"CPU": 8})
    assert gcs.die("b") == []
    assert gcs.row().reason == "there are no 2 different nodes that can hold one bundle each"
    assert gcs.join("c", CPU) == ["c reserve 2: 1"]


def test_a_survivor_that_dies_while_the_lost_are_placed_anew() -> None:
    gcs = created(c=CPU)
    assert gcs.die("b") == ["c reserve 2: 1"]
    assert gcs.die("a") == ["c return 2"]
    assert gcs.where() == "--"
    assert gcs.join("d", CPU) == ["c reserve 3: 0", "d reserve 3: 1"]
    assert gcs.answer("c", 2) == ["c return 2"]
    gcs.answer("c", 3)
    gcs.answer("d", 3)
    assert gcs.where() == "cd"


def test_strict_pack_moves_as_a_whole() -> None:
    gcs = Gcs(a={"CPU": 2})
    gcs.create(group_row(CPU, CPU, strategy="STRICT_PACK"))
    gcs.answer("a", 1)
    assert gcs.die("a") == []
    assert gcs.join("b", CPU) == []
    assert gcs.join("c", {"CPU": 2}) == ["c reserve 2: 0 1"]


# ------------------------------------------------------------------------------- removal


def test_removal_while_it_is_reserved() -> None:
    gcs = Gcs(a=CPU, b=CPU)
    gcs.create(group_row(CPU, CPU, strategy="STRICT_SPREAD"))
    gcs.answer("a", 1)
    assert gcs.remove() == ["a return -1", "b return -1"]
    assert gcs.answer("b", 1) == ["b return 1"]
    assert gcs.answer("b", 1, False) == []
    assert gcs.row().state is PlacementGroupState.REMOVED
    assert not gcs.groups.is_tick_due


def test_removal_while_the_lost_are_placed_anew() -> None:
    gcs = created(c=CPU)
    gcs.die("b")
    assert gcs.remove() == ["a return -1", "c return -1"]
    assert gcs.where() == "--"


def test_removal_of_what_is_not_there() -> None:
    gcs = created()
    assert not gcs.groups.remove(H, 1.0)
    assert gcs.groups.remove(G, 1.0)
    assert not gcs.groups.remove(G, 1.0)


def test_an_unknown_group_that_a_node_has_reserved_is_given_back() -> None:
    gcs = Gcs(a=CPU)
    assert gcs.answer("a", 7) == ["a return 7"]


def test_a_job_takes_its_groups_along_but_not_the_detached_ones() -> None:
    gcs = Gcs(a={"CPU": 4})
    other = b"\0\0\0\2"
    kinds = [{}, {"detached": True}, {"job_id": other}, {}]
    for number, options in enumerate(kinds):
        gcs.create(group_row(CPU, group_id=bytes([number]) * 16, **options))
    gcs.groups.end_job(JOB, gcs.now)
    gcs.sent()
    states = [row.state.name for row in gcs.groups.groups.rows()]
    assert states == ["REMOVED", "PENDING", "PENDING", "REMOVED"]
    assert "its job 00000001 has ended" in gcs.row(bytes(16)).reason


# ------------------------------------------------------------------------ names and waiters


def test_waiters_are_answered_once_it_is_created() -> None:
    gcs = Gcs(a=CPU)
    gcs.create(group_row(CPU))
    gcs.groups.wait(G, (20, 1))
    gcs.groups.wait(G, (21, 2))
    gcs.groups.wait(G, (20, 3))
    gcs.groups.forget_peer(21)
    answers = ["peer 20 answer 1: True", "peer 20 answer 3: True"]
    assert gcs.answer("a", 1) == ["a commit 1", *answers]
    gcs.groups.wait(G, (20, 4))
    assert gcs.sent() == ["peer 20 answer 4: True"]
    gcs.die("a")
    gcs.groups.wait(G, (20, 5))  # it is not there just now
    assert gcs.sent() == []
    assert gcs.join("b", CPU) == ["b reserve 2: 0"]
    assert gcs.answer("b", 2) == ["b commit 2", "peer 20 answer 5: True"]


def test_waiters_are_told_that_it_was_removed() -> None:
    gcs = Gcs(a=CPU)
    gcs.create(group_row({"CPU": 7}))
    gcs.groups.wait(G, (20, 1))
    gone = f"placement group {G.hex()} is no more: it was removed"
    assert gcs.remove() == [f"peer 20 answer 1: {gone}"]
    gcs.groups.wait(G, (20, 2))
    assert gcs.sent() == [f"peer 20 answer 2: {gone}"]
    gcs.groups.wait(H, (20, 3))
    (line,) = gcs.sent()
    assert "there is no placement group 4848" in line


def test_what_is_to_run_in_a_removed_group_can_never_be_placed() -> None:
    gcs = Gcs(a=CPU)
    gcs.create(group_row(CPU))
    demand = rewrite_demand(demand_of(CPU), G, 0)
    assert gcs.groups.why_gone(demand) == gcs.groups.why_gone(demand_of(CPU)) == ""
    gcs.remove()
    assert "is no more: it was removed" in gcs.groups.why_gone(demand)
    assert "removed long ago" in gcs.groups.why_gone(rewrite_demand((), H, -1))


def test_what_waits_and_why() -> None:
    gcs = created()
    assert gcs.groups.pending() == []
    gcs.die("b")
    (row,) = gcs.groups.pending()
    assert (row["name"], row["demand"], row["count"]) == (f"placement group {G.hex()}", CPU, 1)
    assert "2 different nodes" in row["reason"]
    gcs.create(group_row({"CPU": 2}, {"CPU": 3}, group_id=H, name="large"))
    row = gcs.groups.pending()[1]
    assert (row["name"], row["demand"]) == ("placement group large", {"CPU": 5})
    assert gcs.groups.counts() == {"RESCHEDULING": 1, "PENDING": 1}


def test_names_are_unique_among_groups_that_live() -> None:
    gcs = Gcs()
    gcs.create(group_row(CPU, name="n"))
    with pytest.raises(ValueError, match="named 'n' in namespace 'space' already"):
        gcs.create(group_row(CPU, group_id=H, name="n"))
    assert gcs.groups.find("n", "space") is gcs.row()
    assert gcs.groups.find("n", "") is None
    gcs.remove()
    assert gcs.groups.find("n", "space") is None
    gcs.create(group_row(CPU, group_id=H, name="n"))
    assert gcs.groups.find("n", "space") is gcs.row(H)


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (group_row(), "1 to 10000 bundles: 0"),
        (group_row({}), "asks for nothing"),
        (group_row(CPU, strategy="SCATTER"), "no strategy 'SCATTER'"),
        (group_row(CPU, group_id=b"short"), "16 bytes"),
        (group_row(CPU, rules=[(), ()]), "2 lists of rules for 1 bundles"),
        (group_row(CPU, soft_target=b"a" * 16), "goes with STRICT_PACK"),
        (group_row({"GPU": 1.5}), "whole ones only"),
        (group_row({"bundle": 1}), "a name that groups make"),
        (group_row({f"CPU_group_{G.hex()}": 1}), "a name that groups make"),
    ],
)
def test_what_cannot_be_a_group_is_refused(row: GroupRow, text: str) -> None:
    gcs = Gcs(a=CPU)
    with pytest.raises(ValueError, match=text):
        gcs.create(row)
    gcs.groups.check()
    assert not gcs.groups.is_tick_due


def test_a_group_of_the_same_id_is_refused() -> None:
    gcs = created()
    with pytest.raises(ValueError, match="already"):
        gcs.create(group_row(CPU))


def test_the_table_in_rays_words() -> None:
    gcs = Gcs(a={"CPU": 2, "oar": 1})
    gcs.create(group_row({"CPU": 1.5, "oar": 1}, CPU, name="n"))
    view = view_group(gcs.row())
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(view), strict=False) == view
    assert view["state"] == "PENDING"
    assert view["bundles"] == {0: {"CPU": 1.5, "oar": 1.0}, 1: {"CPU": 1.0}}
    assert view["bundles_to_node_id"] == {0: "", 1: ""}
    assert view["stats"]["scheduling_state"] == "INFEASIBLE"
    gcs = created()
    gcs.now += 1
    view = view_group(gcs.row())
    assert view["placement_group_id"] == G.hex()
    assert view["strategy"] == "STRICT_SPREAD"
    assert view["bundles_to_node_id"] == {0: "61" * 16, 1: "62" * 16}
    assert view["stats"] == {
        "end_to_end_creation_latency_ms": 0.0,
        "scheduling_latency_ms": 0.0,
        "scheduling_attempt": 1,
        "highest_retry_delay_ms": 0.0,
        "scheduling_state": "FINISHED",
    }


# ------------------------------------------------------------------- a cluster, in any order


class PlayedNode:
    """A node with real bundles, whose lines to and from the GCS deliver when they are told to."""

    def __init__(self, resources: dict[str, float]) -> None:
        self.resources = dict(demand_of(resources))
        self.scheduler = LocalScheduler(
            self.resources, lambda w, t: None, lambda p: None, lambda t: None
        )
        self.bundles = Bundles(self.scheduler)
        self.inbox: deque[Any] = deque()
        self.outbox: deque[Any] = deque()
        self.leases: list[Demand] = []

    def take(self, demand: Demand) -> None:
        if self.scheduler.fits(demand):
            self.scheduler.take(demand)
            self.leases.append(demand)

    def end_lease(self, index: int) -> None:
        self.scheduler.give_back(self.leases.pop(index % len(self.leases)))
        self.bundles.settle()

    def deliver(self) -> None:
        message = self.inbox.popleft()
        if isinstance(message, ReserveBundles):
            self.outbox.append(self.bundles.reserve(message))
        elif isinstance(message, CommitBundles):
            self.bundles.commit(message)
        else:
            assert isinstance(message, ReturnBundles)
            self.bundles.give_back(message)

    def heartbeat(self) -> None:
        self.outbox.append(Heartbeat(dict(self.scheduler.available), 0, 0, 0, 0.0))

    def check(self) -> None:
        held = Counter(self.bundles.held())
        for demand in self.leases:
            held.update(dict(demand))
        self.scheduler.check(dict(held))
        self.bundles.check()

    def has(self) -> dict[tuple[bytes, int], bool]:
        """The bundles here: whether each is committed."""
        return {
            (group_id, index): bundle.is_committed
            for group_id, bundles in self.bundles.groups.items()
            for index, bundle in bundles.items()
        }


AMOUNTS = st.fixed_dictionaries(
    {}, optional={"CPU": st.sampled_from([0.5, 1.0, 2.0]), "oar": st.just(1.0)}
).filter(bool)
ROOMS = st.fixed_dictionaries(
    {"CPU": st.sampled_from([1.0, 2.0, 4.0]), "oar": st.sampled_from([0.0, 1.0, 2.0])}
)
JOBS = [JOB, b"\0\0\0\2"]


class AnyOrder(RuleBasedStateMachine):
    """Joins, deaths, tasks that come first, removals, delays and second answers."""

    def __init__(self) -> None:
        super().__init__()
        self.groups = PlacementGroups(lambda *_: [], self._on_resources)
        self.nodes: dict[bytes, PlayedNode] = {}
        self.peers: dict[int, bytes] = {}
        self.totals: dict[bytes, dict[str, int]] = {}
        self.now = 1_000.0
        self.count = 0
        self.asked: dict[int, bytes] = {}  # questions under way: their group

    def _on_resources(self, changes: dict[bytes, dict[str, int]]) -> list[Any]:
        self.totals.update(changes)
        return []

    def _send(self) -> None:
        for peer, message in self.groups.take_sends():
            if isinstance(message, Answer):
                group_id = self.asked.pop(message.number)  # KeyError: answered twice
                row = self.groups.groups.get(group_id)
                assert row is not None
                is_there = row.state is PlacementGroupState.CREATED
                assert is_there == (message.body is True) == (not message.error)
            else:
                node = self.nodes.get(self.peers[peer])
                if node is not None:
                    node.inbox.append(message)

    def _living(self) -> list[bytes]:
        return list(self.nodes)

    def _rows(self, *states: str) -> list[GroupRow]:
        rows = self.groups.groups.rows()
        return [row for row in rows if not states or row.state.name in states]

    # ---- nodes

    @precondition(lambda self: len(self.nodes) < 5)
    @rule(resources=ROOMS)
    def join(self, resources: dict[str, float]) -> None:
        self.count += 1
        node_id = self.count.to_bytes(16, "big")
        self.peers[self.count] = node_id
        node = self.nodes[node_id] = PlayedNode(resources)
        self.totals[node_id] = node.resources
        self.groups.node_joined(node_id, self.count, node.resources, {}, self.now)
        self._send()

    @precondition(lambda self: self.nodes)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        node_id = data.draw(st.sampled_from(self._living()))
        del self.nodes[node_id], self.totals[node_id]
        self.groups.node_lost(node_id, self.now)
        self._send()

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), most=st.integers(1, 4))
    def to_node(self, data: st.DataObject, most: int) -> None:
        node = self.nodes[data.draw(st.sampled_from(self._living()))]
        for _ in range(min(most, len(node.inbox))):
            node.deliver()

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), twice=st.booleans())
    def from_node(self, data: st.DataObject, twice: bool) -> None:
        node_id = data.draw(st.sampled_from(self._living()))
        self._from_node(node_id, twice)

    def _from_node(self, node_id: bytes, twice: bool = False) -> None:
        node = self.nodes[node_id]
        if not node.outbox:
            return
        message = node.outbox.popleft()
        for _ in range(2 if twice else 1):
            if isinstance(message, Heartbeat):
                self.groups.heartbeat(node_id, message.available)
            else:
                self.groups.reserved(node_id, message, self.now)
            self._send()

    @rule()
    def everything_is_delivered(self) -> None:
        """Once there and back."""
        for node_id, node in self.nodes.items():
            while node.inbox:
                node.deliver()
            while node.outbox:
                self._from_node(node_id)

    @precondition(lambda self: self.nodes)
    @rule(data=st.data())
    def heartbeat(self, data: st.DataObject) -> None:
        self.nodes[data.draw(st.sampled_from(self._living()))].heartbeat()

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), resources=AMOUNTS)
    def task_begins(self, data: st.DataObject, resources: dict[str, float]) -> None:
        node = self.nodes[data.draw(st.sampled_from(self._living()))]
        node.take(demand_of(resources))

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), resources=AMOUNTS, bundle=st.integers(-1, 2))
    def task_in_a_group_begins(
        self, data: st.DataObject, resources: dict[str, float], bundle: int
    ) -> None:
        node = self.nodes[data.draw(st.sampled_from(self._living()))]
        for group_id in node.bundles.groups:
            node.take(rewrite_demand(demand_of(resources), group_id, bundle))

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), index=st.integers(0, 9))
    def task_ends(self, data: st.DataObject, index: int) -> None:
        node = self.nodes[data.draw(st.sampled_from(self._living()))]
        if node.leases:
            node.end_lease(index)

    # ---- users

    @rule(
        bundles=st.lists(AMOUNTS, min_size=1, max_size=3),
        strategy=st.sampled_from(STRATEGIES),
        job_id=st.sampled_from(JOBS),
        detached=st.booleans(),
    )
    def create(
        self, bundles: list[dict[str, float]], strategy: str, job_id: bytes, detached: bool
    ) -> None:
        self.count += 1
        self.groups.create(
            group_row(
                *bundles,
                group_id=self.count.to_bytes(16, "big"),
                strategy=strategy,
                made=self.now,
                job_id=job_id,
                detached=detached,
            )
        )
        self._send()

    @precondition(lambda self: self._rows())
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        row = data.draw(st.sampled_from(self._rows()))
        self.groups.remove(row.group_id, self.now)
        self._send()

    @precondition(lambda self: self._rows())
    @rule(data=st.data())
    def wait(self, data: st.DataObject) -> None:
        row = data.draw(st.sampled_from(self._rows()))
        self.count += 1
        self.asked[self.count] = row.group_id
        self.groups.wait(row.group_id, (0, self.count))
        self._send()

    @rule(job_id=st.sampled_from(JOBS))
    def end_job(self, job_id: bytes) -> None:
        self.groups.end_job(job_id, self.now)
        self._send()

    @rule(seconds=st.sampled_from([0.05, 0.1, 1.0, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        if self.groups.is_tick_due:
            self.groups.tick(self.now)
            self._send()

    # ---- what holds

    @invariant()
    def all_parts_are_sound(self) -> None:
        self.groups.check()
        for node in self.nodes.values():
            node.check()

    @invariant()
    def no_bundle_is_committed_twice(self) -> None:
        committed = Counter(
            key for node in self.nodes.values() for key, is_it in node.has().items() if is_it
        )
        assert all(count == 1 for count in committed.values())

    @invariant()
    def who_waits_is_answered_in_time(self) -> None:
        for group_id in self.asked.values():
            row = self.groups.groups.get(group_id)
            assert row is not None and row.state.name in ("PENDING", "RESCHEDULING")

    def _quiet(self) -> None:
        """Deliver everything, tick after tick, until nothing has changed for a while."""
        for _ in range(60):
            for _ in range(3):
                self.everything_is_delivered()
            for node in self.nodes.values():
                node.heartbeat()
            self.time_passes(GROUP_RETRY_S)

    def teardown(self) -> None:
        for node in self.nodes.values():
            while node.leases:
                node.end_lease(0)
        self._quiet()
        self._nothing_is_forgotten()
        self._who_waits_waits_for_room()
        for row in self._rows():
            self.groups.remove(row.group_id, self.now)
            self._send()
        self._quiet()
        self.all_parts_are_sound()
        assert not self.asked
        for node_id, node in self.nodes.items():
            assert node.scheduler.available == node.scheduler.total == node.resources
            assert self.totals[node_id] == node.resources

    def _nothing_is_forgotten(self) -> None:
        for node_id, node in self.nodes.items():
            assert node.has() == {
                (row.group_id, index): True
                for row in self._rows()
                for index, where in enumerate(row.nodes)
                if where == node_id
            }
            assert self.totals[node_id] == node.scheduler.total

    def _who_waits_waits_for_room(self) -> None:
        rooms = [
            NodeRoom(node_id, node.resources, node.scheduler.available, {})
            for node_id, node in self.nodes.items()
        ]
        for row in self._rows("PENDING", "RESCHEDULING"):
            wanted = [
                Wanted(index, demand)
                for index, demand in enumerate(row.bundles)
                if not row.nodes[index]
            ]
            placed = Counter(node_id for node_id in row.nodes if node_id)
            assert choose(wanted, row.strategy, rooms, placed) is None


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=120, stateful_step_count=60, deadline=None)
