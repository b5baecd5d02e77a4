"""Placement groups as a node and its clients meet them: questions to the GCS, and what follows."""

from __future__ import annotations

from typing import Any

from skate.config import HEARTBEAT_S, PROTOCOL_VERSION, RESERVE_TIMEOUT_S
from skate.error_records import decode_error
from skate.gcs.gcs_core import GcsCore
from skate.gcs.outbox import Send
from skate.messages import (
    Answer,
    Ask,
    BundlesReserved,
    CommitBundles,
    JobChanged,
    NodeJoins,
    NodesChanged,
    Offer,
    Placed,
    Refused,
    ReserveBundles,
    ReturnBundles,
)
from skate.scheduler.group_names import rewrite_demand
from skate.spec import LabelRule

A, B = b"a" * 16, b"b" * 16
GROUP = b"G" * 16
JOB = b"\0\0\0\1"
CPU = (("CPU", 10_000),)
DRIVER = 9


def cluster(*node_ids: bytes) -> GcsCore:
    """Nodes of 2 CPUs, as peers 1, 2, ...; a job whose driver is on the first."""
    core = GcsCore(5.0, random=lambda: 0.5)
    for peer, node_id in enumerate(node_ids, start=1):
        joins = NodeJoins(PROTOCOL_VERSION, node_id, 1, "h:1", "h", {"CPU": 20_000}, {}, 1)
        core.handle(peer, joins, 1.0)
    core.handle(1, JobChanged(JOB, 7, "", "", True, 1.0), 1.0)
    return core


def tell(core: GcsCore, peer: int, message: Any) -> list[Send]:
    """Without the news of changed nodes."""
    sends = core.handle(peer, message, 2.0)
    core.check()
    return [(to, what) for to, what in sends if not isinstance(what, NodesChanged)]


def ask(core: GcsCore, method: str, **body: Any) -> Any:
    sends = tell(core, DRIVER, Ask(5, method, body))
    (answer,) = (message for _, message in sends if isinstance(message, Answer))
    assert answer.error == b"", decode_error(answer.error)
    return answer.body


def create(core: GcsCore, *bundles: int, **options: Any) -> list[Send]:
    """Bundles of so many CPUs."""
    body = {
        "group_id": GROUP,
        "bundles": [{"CPU": count * 10_000} for count in bundles],
        "job_id": JOB,
        **options,
    }
    first, *others = tell(core, DRIVER, Ask(5, "create_placement_group", body))
    assert first == (DRIVER, Answer(5))
    return others


def error_in(message: Any) -> tuple[str, str]:
    record = decode_error(message.error)
    return record.kind, record.message


def test_from_the_question_to_the_answer() -> None:
    core = cluster(A, B)
    assert create(core, 1, 1, strategy="SPREAD") == [
        (1, ReserveBundles(GROUP, 1, [(0, CPU)])),
        (2, ReserveBundles(GROUP, 1, [(1, CPU)])),
    ]
    assert tell(core, DRIVER, Ask(6, "wait_placement_group", {"group_id": GROUP})) == []
    assert tell(core, 1, BundlesReserved(GROUP, 1, True)) == []
    assert tell(core, 2, BundlesReserved(GROUP, 1, True)) == [
        (1, CommitBundles(GROUP, 1)),
        (2, CommitBundles(GROUP, 1)),
        (DRIVER, Answer(6, True)),
    ]
    (row,) = ask(core, "placement_group_table", group_id=GROUP)
    assert (row["state"], row["bundles_to_node_id"]) == ("CREATED", {0: A.hex(), 1: B.hex()})
    states = [row["state"] for row in ask(core, "story", id=GROUP)]
    assert states == ["PENDING", "CREATED"]
    assert ask(core, "summary")["placement_groups"] == {"CREATED": 1}
    watched = ask(core, "watch", table="placement_groups")
    assert [row["placement_group_id"] for row in watched["rows"]] == [GROUP.hex()]
    assert ask(core, "remove_placement_group", group_id=GROUP) is True
    assert ask(core, "remove_placement_group", group_id=GROUP) is False
    assert ask(core, "remove_placement_group", group_id=b"?" * 16) is False
    assert [row["state"] for row in ask(core, "placement_group_table")] == ["REMOVED"]


def test_by_name() -> None:
    core = cluster(A)
    create(core, 1, name="n", namespace="space")
    assert ask(core, "get_placement_group", name="n", namespace="") is None
    row = ask(core, "get_placement_group", name="n", namespace="space")
    assert row["placement_group_id"] == GROUP.hex()
    assert ask(core, "placement_group_table", group_id=b"?" * 16) == []


def test_rules_come_as_plain_messagepack() -> None:
    core = cluster(A, B)
    node_b = ["ray.io/node-id", "in", [B.hex()]]
    assert create(core, 1, bundle_rules=[[node_b]]) == [
        (2, ReserveBundles(GROUP, 1, [(0, CPU)])),
    ]
    assert create(core, 1, group_id=b"H" * 16, bundle_rules=[(LabelRule(*node_b[:2], (A.hex(),)),)])


def test_what_cannot_be_a_group_is_answered_by_an_error() -> None:
    core = cluster(A)
    body = {"group_id": GROUP, "bundles": [], "job_id": JOB}
    ((_, answer),) = tell(core, DRIVER, Ask(5, "create_placement_group", body))
    assert error_in(answer) == (
        "UsageError",
        "a placement group has 1 to 10000 bundles: 0",
    )


def test_a_job_that_has_ended_makes_only_detached_groups() -> None:
    core = cluster(A)
    core.handle(1, JobChanged(JOB, 7, "", "", False, 2.0), 2.0)
    body = {"group_id": GROUP, "bundles": [{"CPU": 1}], "job_id": JOB}
    ((_, answer),) = tell(core, DRIVER, Ask(5, "create_placement_group", body))
    assert "job 00000001 has ended" in error_in(answer)[1]
    assert create(core, 1, detached=True)


def test_a_job_takes_its_groups_along_however_it_ends() -> None:
    core = cluster(A, B)
    create(core, 2)
    tell(core, 1, BundlesReserved(GROUP, 1, True))
    ends = tell(core, 1, JobChanged(JOB, 7, "", "", False, 2.0))
    assert (1, ReturnBundles(GROUP)) in ends
    core = cluster(A, B)
    create(core, 1, 1, strategy="STRICT_SPREAD")
    sends = core.peer_lost(1, 2.0)  # the driver's node
    core.check()
    assert (2, ReturnBundles(GROUP, 1)) in sends
    assert core.groups.counts() == {"REMOVED": 1}


def test_a_waiter_that_is_gone_is_not_answered() -> None:
    core = cluster(A)
    create(core, 1)
    tell(core, DRIVER, Ask(6, "wait_placement_group", {"group_id": GROUP}))
    core.peer_lost(DRIVER, 2.0)
    assert tell(core, 1, BundlesReserved(GROUP, 1, True)) == [(1, CommitBundles(GROUP, 1))]


def test_what_waits_for_a_removed_group_fails() -> None:
    core = cluster(A, B)
    create(core, 4)
    task = Offer(1, rewrite_demand(CPU, GROUP, 0), 3, 3, 0.0, must_leave=True)
    actor = Offer(2, rewrite_demand((), GROUP, -1), 1, 1, 0.0, must_leave=True, is_actor=True)
    other = Offer(3, (("GPU", 1),), 1, 1, 0.0, must_leave=True)
    for offer in (task, actor, other):
        ((_, placed),) = tell(core, 2, offer)
        assert isinstance(placed, Placed) and placed.reason
    sends = tell(core, DRIVER, Ask(5, "remove_placement_group", {"group_id": GROUP}))
    failed = {m.number: error_in(m)[0] for to, m in sends if to == 2 and isinstance(m, Placed)}
    assert failed == {1: "TaskPlacementGroupRemoved", 2: "ActorPlacementGroupRemoved"}
    ((_, late),) = tell(core, 1, task)
    assert "is no more: it was removed" in error_in(late)[1]
    assert len(ask(core, "pending")) == 1


def test_groups_that_wait_are_listed_and_ticks_are_due() -> None:
    core = cluster(A)
    create(core, 4)
    (row,) = ask(core, "pending")
    assert (row["demand"], row["node_id"]) == ({"CPU": 4.0}, "")
    assert "has CPU: 4 for bundle 0" in row["reason"]
    assert core.is_tick_due
    joins = NodeJoins(PROTOCOL_VERSION, B, 1, "h:1", "h", {"CPU": 40_000}, {}, 1)
    assert (2, ReserveBundles(GROUP, 1, [(0, (("CPU", 40_000),))])) in tell(core, 2, joins)
    core.tick(2.0 + RESERVE_TIMEOUT_S)
    sends = core.tick(2.0 + RESERVE_TIMEOUT_S + HEARTBEAT_S)
    assert (2, ReturnBundles(GROUP, 1)) in sends
    core.check()


def test_only_a_node_says_what_it_has_reserved() -> None:
    core = cluster(A)
    create(core, 1)
    ((to, refused),) = tell(core, DRIVER, BundlesReserved(GROUP, 1, True))
    assert (to, type(refused)) == (DRIVER, Refused)
    assert core.groups.counts() == {"PENDING": 1}
