"""Placement groups: what the GCS says to nodes and users, as event lists."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from skate.config import (
    GROUP_RETRY_S,
    KEPT_FREE_S,
    RESERVE_TIMEOUT_S,
    RESOURCE_PATIENCE_S,
)
from skate.error_records import decode_error
from skate.gcs.group_row import GroupRow, view_group
from skate.gcs.placement_groups import PlacementGroups
from skate.messages import (
    Answer,
    BundlesReserved,
    CommitBundles,
    ReserveBundles,
    ReturnBundles,
)
from skate.scheduler.group_names import bundle_resources, rewrite_demand
from skate.spec import LabelRule, demand_of
from skate.states import PlacementGroupState
from tests.gcs.group_rows import CPU, JOB, G, H, group_row


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
                verb = "claim" if message.is_claim else "reserve"
                lines.append(f"{letter} {verb} {message.attempt}: {indexes}")
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

    def answer(
        self, letter: str, attempt: int, is_reserved: bool = True, group_id: bytes = G
    ) -> list[str]:
        message = BundlesReserved(group_id, attempt, is_reserved)
        self.groups.reserved(letter.encode() * 16, message, self.now)
        return self.sent()

    def die(self, letter: str) -> list[str]:
        self.groups.node_lost(letter.encode() * 16, self.now)
        return self.sent()

    def tick(self, seconds: float = GROUP_RETRY_S) -> list[str]:
        self.now += seconds
        self.groups.tick(self.now)
        return self.sent()

    def heartbeat(
        self, letter: str, free: dict[str, float], attainable: dict[str, float] | None = None
    ) -> None:
        could = None if attainable is None else dict(demand_of(attainable))
        self.groups.heartbeat(letter.encode() * 16, dict(demand_of(free)), could)

    def ticks(self, seconds: float) -> list[str]:
        """What goes out in so long a time, which may be a little longer."""
        until = self.now + seconds
        lines: list[str] = []
        while self.now <= until:
            lines += self.tick()
        return lines

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


def busy(**nodes: dict[str, float]) -> Gcs:
    """Nodes on which tasks have everything."""
    gcs = Gcs(**nodes)
    for letter, resources in nodes.items():
        gcs.heartbeat(letter, {}, resources)
    return gcs


def test_who_has_waited_long_claims_what_tasks_have() -> None:
    gcs = busy(a=CPU, b=CPU)
    assert gcs.create(group_row(CPU, CPU, strategy="STRICT_SPREAD")) == []
    assert gcs.ticks(RESOURCE_PATIENCE_S - 2 * GROUP_RETRY_S) == []
    assert gcs.ticks(2 * GROUP_RETRY_S) == ["a claim 1: 0", "b claim 1: 1"]
    assert gcs.answer("b", 1) == []
    assert gcs.ticks(KEPT_FREE_S / 2) == []
    assert gcs.answer("a", 1) == ["a commit 1", "b commit 1"]


def test_nothing_is_claimed_that_actors_have() -> None:
    gcs = busy(a=CPU, b={})
    gcs.create(group_row(CPU, CPU, strategy="STRICT_SPREAD"))
    assert gcs.ticks(20.0) == []


def test_a_claim_whose_turn_is_over_is_called_off_and_nobody_claims_for_as_long() -> None:
    gcs = busy(a=CPU, b=CPU)
    gcs.create(group_row(CPU, CPU, strategy="STRICT_SPREAD"))
    gcs.ticks(RESOURCE_PATIENCE_S)
    gcs.answer("b", 1)
    turn_s = KEPT_FREE_S
    for attempt in (1, 2, 3):
        assert gcs.ticks(turn_s) == [f"a return {attempt}", f"b return {attempt}"]
        assert gcs.ticks(turn_s - 3 * GROUP_RETRY_S) == []
        again = attempt + 1
        lines = gcs.ticks(3 * GROUP_RETRY_S)
        assert lines == [f"a claim {again}: 0", f"b claim {again}: 1"]
        turn_s *= 2


def test_one_group_claims_at_a_time_and_who_was_in_vain_comes_after_the_others() -> None:
    gcs = busy(a=CPU)
    gcs.create(group_row(CPU, group_id=G))
    gcs.create(group_row(CPU, group_id=H))
    assert gcs.ticks(RESOURCE_PATIENCE_S) == ["a claim 1: 0"]
    assert gcs.row(G).attempt == 1
    lines = gcs.ticks(2 * KEPT_FREE_S + 3 * GROUP_RETRY_S)
    assert lines == ["a return 1", "a claim 1: 0"]
    assert gcs.row(H).attempt == 1
    assert gcs.answer("a", 1, group_id=H) == ["a commit 1"]
    gcs.heartbeat("a", {}, {})
    assert gcs.ticks(2.0) == []
    gcs.remove(H)
    gcs.heartbeat("a", {}, CPU)
    assert gcs.ticks(2.0) == ["a claim 2: 0"]


def test_a_claim_goes_with_its_group_and_the_next_one_follows() -> None:
    gcs = busy(a=CPU)
    gcs.create(group_row(CPU, group_id=G))
    gcs.create(group_row(CPU, group_id=H))
    gcs.ticks(RESOURCE_PATIENCE_S)
    assert gcs.remove(G) == ["a return -1"]
    assert gcs.tick() == ["a claim 1: 0"]
    assert gcs.answer("a", 1, group_id=G) == ["a return 1"], "its yes was under way"
    assert gcs.answer("a", 1, group_id=H) == ["a commit 1"]


def test_a_claim_that_a_node_refuses_goes_to_the_others() -> None:
    gcs = busy(a=CPU, b=CPU)
    gcs.create(group_row(CPU))
    assert gcs.ticks(RESOURCE_PATIENCE_S) == ["a claim 1: 0"]
    assert gcs.answer("a", 1, False) == ["b claim 2: 0"]
    assert gcs.answer("b", 2, False) == []
    assert gcs.ticks(1.5) == ["a claim 3: 0"]


def test_a_claimed_node_that_dies_is_replaced() -> None:
    gcs = busy(a=CPU, b=CPU, c=CPU)
    gcs.create(group_row(CPU, CPU, strategy="STRICT_SPREAD"))
    assert gcs.ticks(RESOURCE_PATIENCE_S) == ["a claim 1: 0", "b claim 1: 1"]
    gcs.answer("a", 1)
    assert gcs.die("b") == ["a return 1", "a claim 2: 0", "c claim 2: 1"]


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
