"""The GCS of a cluster, as event lists: what its nodes are told, and what it places where."""

from __future__ import annotations

from typing import Any

from skate.config import PROTOCOL_VERSION
from skate.gcs.gcs_core import GcsCore
from skate.gcs.outbox import Send
from skate.messages import (
    ActorChanged,
    Answer,
    Ask,
    BundlesReserved,
    CommitBundles,
    Demanded,
    Forget,
    Heartbeat,
    JobChanged,
    JobOver,
    NodeInfo,
    NodeJoins,
    NodesChanged,
    ObjectsChanged,
    Offer,
    Placed,
    Refused,
    ReserveBundles,
    WatchActor,
)
from skate.scheduler.group_names import bundle_resources, indexed_name, rewrite_demand
from skate.states import ActorState

A, B, C = b"a" * 16, b"b" * 16, b"c" * 16
JOB = b"\0\0\0\1"
GROUP = b"G" * 16
ACTOR = JOB + A[:4] + b"\0" * 8
"""Created on A."""
ONE, TWO = (JOB + A[:4] + bytes([number]) * 12 for number in (1, 2))


def joins(node_id: bytes, **resources: int) -> NodeJoins:
    return NodeJoins(
        PROTOCOL_VERSION, node_id, 42, f"{node_id[:1].decode()}:1", "host", resources, {}, 1
    )


def info(node_id: bytes, alive: bool = True, **resources: int) -> NodeInfo:
    total = resources or {"CPU": 20_000}
    return NodeInfo(node_id, f"{node_id[:1].decode()}:1", total, {}, alive)


def cluster(*node_ids: bytes) -> GcsCore:
    """A core with these nodes, as peers 1, 2, ..."""
    core = GcsCore(5.0, random=lambda: 0.5)
    for peer, node_id in enumerate(node_ids, start=1):
        core.handle(peer, joins(node_id, CPU=20_000), 1.0)
    return core


def tell(core: GcsCore, peer: int, message: Any, now: float = 2.0) -> list[Send]:
    sends = core.handle(peer, message, now)
    core.check()
    return sends


def ask(core: GcsCore, method: str, **body: Any) -> Any:
    ((_, answer),) = tell(core, 1, Ask(5, method, body))
    assert isinstance(answer, Answer)
    assert answer.error == b""
    return answer.body


def actor(state: ActorState, node_id: bytes, restarts: int = 0, pid: int = 5) -> ActorChanged:
    return ActorChanged(ACTOR, int(state), "C", "", "", node_id, pid, "", 2.0, restarts)


def ask_for_group(core: GcsCore) -> None:
    """Of one bundle, which node A is asked for."""
    body = {"group_id": GROUP, "bundles": [{"CPU": 10_000}], "job_id": JOB}
    (_, (peer, reserve)) = tell(core, 9, Ask(5, "create_placement_group", body))
    assert (peer, reserve) == (1, ReserveBundles(GROUP, 1, [(0, (("CPU", 10_000),))]))


# Nodes.


def test_a_new_node_reads_of_all_and_all_read_of_it() -> None:
    core = cluster()
    assert tell(core, 1, joins(A, CPU=20_000)) == [(1, NodesChanged([info(A)]))]
    tell(core, 2, joins(B, CPU=20_000))
    assert tell(core, 3, joins(C, GPU=1)) == [
        (3, NodesChanged([info(A), info(B), info(C, GPU=1)])),
        (1, NodesChanged([info(C, GPU=1)])),
        (2, NodesChanged([info(C, GPU=1)])),
    ]


def test_the_others_read_of_a_death_by_lost_connection_or_silence() -> None:
    core = cluster(A, B, C)
    assert core.peer_lost(3, 2.0) == [
        (1, NodesChanged([info(C, alive=False)])),
        (2, NodesChanged([info(C, alive=False)])),
    ]
    sends: list[Send] = []
    for second in range(2, 9):
        tell(core, 1, Heartbeat({}, 0, 0, 0, 0.0), float(second))
        sends += core.tick(float(second))
    (gone, refused) = sends
    assert gone == (1, NodesChanged([info(B, alive=False)]))
    assert (refused[0], type(refused[1])) == (2, Refused)
    core.check()


def test_a_node_whose_id_begins_like_that_of_a_living_one_is_refused() -> None:
    core = cluster(A)
    twin = A[:4] + b"z" * 12
    ((to, refused),) = tell(core, 2, joins(twin))
    assert to == 2
    assert isinstance(refused, Refused)
    assert A[:4].hex() in refused.reason
    core.peer_lost(1, 2.0)
    ((to, _),) = tell(core, 3, joins(twin))
    assert to == 3


def test_the_resources_of_a_group_are_told_to_all_and_used() -> None:
    core = cluster(A, B)
    ask_for_group(core)
    demand = rewrite_demand((("CPU", 10_000),), GROUP, -1)
    ((_, waits),) = tell(core, 2, Offer(1, demand, 1, 1, 0.0, must_leave=True))
    assert isinstance(waits, Placed) and waits.reason
    total = {"CPU": 20_000, **bundle_resources(GROUP, 0, (("CPU", 10_000),))}
    changed = NodesChanged([info(A, **total)])
    assert tell(core, 1, BundlesReserved(GROUP, 1, True)) == [
        (1, CommitBundles(GROUP, 1)),
        (1, changed),
        (2, changed),
    ]
    assert core.is_tick_due
    assert core.tick(2.0) == [(2, Placed(1, [(A, 1)]))]


# Jobs.


def test_the_end_of_a_job_is_told_to_all_but_who_reports_it() -> None:
    core = cluster(A, B, C)
    assert tell(core, 1, JobChanged(JOB, 7, "", "", True, 1.0)) == []
    over = JobOver(JOB)
    assert tell(core, 1, JobChanged(JOB, 7, "", "", False, 2.0)) == [(2, over), (3, over)]
    assert tell(core, 1, JobChanged(JOB, 7, "", "", False, 2.0)) == []


def test_a_job_ends_with_the_node_of_its_driver_and_frees_names_reserved_anywhere() -> None:
    core = cluster(A, B)
    tell(core, 2, JobChanged(JOB, 7, "", "", True, 1.0))
    assert ask(core, "reserve_actor_name", name="n", namespace="", actor_id=ACTOR)
    assert core.peer_lost(2, 2.0) == [
        (1, NodesChanged([info(B, alive=False)])),
        (1, JobOver(JOB)),
    ]
    assert ask(core, "get_actor", name="n") is None


# Objects.


def test_copies_of_what_nobody_holds_are_forgotten_everywhere_else() -> None:
    core = cluster(A, B, C)
    tell(core, 1, ObjectsChanged([(ONE, 10)], []))
    tell(core, 2, ObjectsChanged([(ONE, 10), (TWO, 20)], []))
    tell(core, 3, ObjectsChanged([(TWO, 20)], []))
    assert tell(core, 1, ObjectsChanged([], [ONE], [ONE, TWO, b"?" * 20])) == [
        (2, Forget([ONE, TWO])),
        (3, Forget([TWO])),
    ]
    assert ask(core, "objects") == []
    assert tell(core, 2, ObjectsChanged([], [ONE, TWO])) == []  # it says that it has


# Actors.


def test_a_watcher_reads_the_row_at_once_and_each_change_until_death() -> None:
    core = cluster(A, B, C)
    assert tell(core, 3, WatchActor(ACTOR)) == []  # nobody has reported it
    pending, alive = actor(ActorState.PENDING_CREATION, B, pid=0), actor(ActorState.ALIVE, B)
    assert tell(core, 1, pending) == [(3, pending)]
    assert tell(core, 1, alive) == [(3, alive)]
    assert tell(core, 2, WatchActor(ACTOR)) == [(2, alive)]
    moved = actor(ActorState.ALIVE, C, restarts=1, pid=6)  # its restart was too quick to be told
    assert tell(core, 1, moved) == [(3, moved), (2, moved)]
    assert tell(core, 3, WatchActor(ACTOR, watch=False)) == []
    dead = actor(ActorState.DEAD, C)
    assert tell(core, 1, dead) == [(2, dead)]
    assert tell(core, 1, actor(ActorState.ALIVE, C)) == []  # too late
    ((to, late),) = tell(core, 3, WatchActor(ACTOR))
    assert (to, late) == (3, dead)


def test_a_lost_watcher_is_told_nothing() -> None:
    core = cluster(A, B)
    tell(core, 2, WatchActor(ACTOR))
    core.peer_lost(2, 2.0)
    assert tell(core, 1, actor(ActorState.ALIVE, A)) == []


def test_an_actor_whose_host_dies_is_its_home_s_to_decide_upon() -> None:
    core = cluster(A, B, C)
    tell(core, 1, actor(ActorState.ALIVE, B))
    tell(core, 3, WatchActor(ACTOR))
    sends = core.peer_lost(2, 2.0)
    assert {type(message) for _, message in sends} == {NodesChanged}
    restarting = actor(ActorState.RESTARTING, b"", restarts=1, pid=0)
    assert tell(core, 1, restarting) == [(3, restarting)]


def test_an_actor_dies_with_its_home_also_if_that_had_not_reported_it() -> None:
    core = cluster(A, B, C)
    unknown = JOB + A[:4] + b"\7" * 8
    tell(core, 1, actor(ActorState.ALIVE, B))
    for actor_id in (ACTOR, unknown):
        tell(core, 3, WatchActor(actor_id))
    sends = core.peer_lost(1, 4.0)
    core.check()
    news = [message for peer, message in sends if peer == 3 and type(message) is ActorChanged]
    assert [(one.actor_id, ActorState(one.state).name) for one in news] == [
        (ACTOR, "DEAD"),
        (unknown, "DEAD"),
    ]
    assert A.hex() in news[0].cause
    assert A[:4].hex() in news[1].cause
    ((_, late),) = tell(core, 2, WatchActor(unknown))
    assert isinstance(late, ActorChanged)
    assert late.state == ActorState.DEAD


# Placing.


def test_an_offer_is_answered_to_its_node_and_one_that_waits_once_a_node_comes() -> None:
    core = cluster(A, B)
    tell(core, 1, Heartbeat({"CPU": 0}, 5, 2, 0, 1.0))
    offer = Offer(1, (("CPU", 10_000),), 3, 5, 1.0)
    assert tell(core, 1, offer) == [(1, Placed(1, [(B, 3)]))]  # they fit, or queue, earlier
    ((to, placed),) = tell(core, 2, Offer(4, (("GPU", 1),), 1, 1, 0.0, name="f"))
    assert (to, placed.places) == (2, [])
    assert not core.is_tick_due
    tell(core, 3, joins(C, GPU=1))
    assert core.is_tick_due
    assert core.tick(2.0) == [(2, Placed(4, [(C, 1)]))]


def test_an_offer_that_is_none_ends_its_node_s_connection_alone() -> None:
    core = cluster(A, B)
    ((to, refused),) = tell(core, 2, Offer(1, (("CPU", -1),), 1, 0, 0.0))
    assert (to, type(refused)) == (2, Refused)


def test_resources_are_summed_over_living_nodes_without_those_of_groups() -> None:
    core = cluster(A, B, C)
    core.peer_lost(3, 2.0)
    name = indexed_name("CPU", GROUP, 0)
    ask_for_group(core)
    tell(core, 1, BundlesReserved(GROUP, 1, True))
    tell(core, 1, Heartbeat({"CPU": 1_000, "GPU": 0}, 0, 0, 0, 0.0))
    tell(core, 2, Heartbeat({"CPU": 2_000, name: 20_000}, 0, 0, 0, 0.0))
    assert ask(core, "cluster_resources") == {"CPU": 4.0}
    assert ask(core, "available_resources") == {"CPU": 0.3}
    rows = {row["NodeID"]: row for row in ask(core, "nodes")}
    assert rows[B.hex()]["available"] == {"CPU": 0.2}
    assert rows[B.hex()]["Resources"] == {"CPU": 2.0}


def test_what_waits_is_listed_with_its_reason_and_place() -> None:
    core = cluster(A, B)
    demanded = Demanded("g", {"CPU": 10_000}, 9, "waits for free resources")
    tell(core, 2, Heartbeat({"CPU": 0}, 9, 2, 0, 0.1, pending=[demanded]))
    tell(core, 1, Offer(4, (("GPU", 5_000),), 2, 2, 0.0, name="f"))
    rows = ask(core, "pending")
    reason = rows[1].pop("reason")
    assert "no node has GPU 0.5" in reason
    assert rows == [
        {
            "name": "g",
            "demand": {"CPU": 1.0},
            "count": 9,
            "reason": demanded.reason,
            "node_id": B.hex(),
        },
        {"name": "f", "demand": {"GPU": 0.5}, "count": 2, "node_id": A.hex()},
    ]
    core.peer_lost(2, 2.0)
    assert len(ask(core, "pending")) == 1
