"""The whole GCS as event lists: messages of peers in, messages to peers out."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skate.config import PROTOCOL_VERSION
from skate.error_records import decode_error
from skate.gcs.gcs_core import GcsCore
from skate.gcs.questions import BODIES
from skate.messages import (
    ActorChanged,
    Answer,
    Ask,
    BundlesReserved,
    Events,
    FunctionStored,
    Heartbeat,
    JobChanged,
    NodeJoins,
    NodesChanged,
    ObjectsChanged,
    Offer,
    Refused,
    StillAlive,
    TasksChanged,
    WatchActor,
)
from skate.net.event_batch import encode_events
from skate.states import ActorState, TaskState

NODE_1, NODE_2 = b"1" * 16, b"2" * 16
JOB = b"\0\0\0\1"
ACTOR = JOB + b"A" * 12
OBJECT = JOB + b"O" * 16


def joins(node_id: bytes) -> NodeJoins:
    return NodeJoins(PROTOCOL_VERSION, node_id, 42, "/s/node.sock", "host", {"CPU": 20_000}, {}, 99)


def actor(state: ActorState, name: str = "n") -> ActorChanged:
    return ActorChanged(ACTOR, int(state), "Counter", name, "space", NODE_1, 5, "", 2.0)


def with_nodes(*node_ids: bytes, silence_s: float | None = 5.0) -> GcsCore:
    """A core with these nodes, as peers 1, 2, ..."""
    core = GcsCore(silence_s, random=lambda: 0.5)
    for peer, node_id in enumerate(node_ids, start=1):
        sends = core.handle(peer, joins(node_id), now=1.0)
        assert all(isinstance(message, NodesChanged) for _, message in sends)
    return core


def ask(core: GcsCore, method: str, peer: int = 9, **body: Any) -> Any:
    """The body of the answer."""
    ((to, answer),) = core.handle(peer, Ask(5, method, body), now=3.0)
    assert isinstance(answer, Answer)
    assert (to, answer.number, answer.error) == (peer, 5, b"")
    core.check()
    return answer.body


def error_of(core: GcsCore, method: str, **body: Any) -> str:
    ((to, answer),) = core.handle(9, Ask(5, method, body), now=3.0)
    assert isinstance(answer, Answer)
    assert (to, answer.number, answer.body) == (9, 5, None)
    record = decode_error(answer.error)
    assert record.kind == "UsageError"
    return record.message


def test_what_is_asked_wrongly_is_answered_by_an_error() -> None:
    core = with_nodes(NODE_1)
    assert "'no_such'" in error_of(core, "no_such")
    assert "key" in error_of(core, "kv_put", value=b"1")
    assert "key" in error_of(core, "kv_put", key=7, value=b"1")
    assert "16" in error_of(core, "reserve_actor_name", name="n", namespace="", actor_id=b"A")
    assert "empty" in error_of(core, "reserve_actor_name", name="", namespace="", actor_id=ACTOR)
    assert "furniture" in error_of(core, "watch", table="furniture")
    assert ask(core, "kv_list", a_key_of_the_future=1) == []


def test_every_answer_is_plain_messagepack() -> None:
    core = with_nodes(NODE_1)
    core.handle(1, JobChanged(JOB, 7, "main.py", "space", True, 1.0), 2.0)
    core.handle(1, actor(ActorState.ALIVE), 2.0)
    core.handle(1, ObjectsChanged([(OBJECT, 1000)], []), 2.0)
    core.handle(1, TasksChanged([(b"t" * 16, "f", int(TaskState.SENT), NODE_1)], []), 2.0)
    body = {
        "name": "n",
        "namespace": "space",
        "actor_id": ACTOR,
        "spec": b"",
        "object_id": OBJECT,
        "id": ACTOR,
        "key": b"k",
        "value": b"v",
        "table": "actors",
        "group_id": b"G" * 16,
        "bundles": [{"CPU": 10_000}],
    }
    for method in BODIES:
        sends = core.handle(9, Ask(1, method, body), 3.0)
        if method == "wait_placement_group":
            sends = core.handle(1, BundlesReserved(b"G" * 16, 1, True), 3.0)
        (answer,) = (message for _, message in sends if isinstance(message, Answer))
        assert answer.error == b"", method
        again = msgspec.msgpack.decode(msgspec.msgpack.encode(answer), type=Answer)
        assert again.body == answer.body, method


def test_a_peer_that_is_no_node_may_ask_and_nothing_else() -> None:
    core = with_nodes(NODE_1)
    assert core.handle(9, Heartbeat({}, 0, 0, 0, 0.0), 2.0) == [
        (9, Refused("Heartbeat from a peer that is no node"))
    ]
    assert [node["NodeID"] for node in ask(core, "nodes")] == [NODE_1.hex()]


def test_a_busy_node_is_not_given_up_and_a_busy_head_speaks_for_all_behind_it() -> None:
    """The head passes on what the others say, so their silence means nothing while it is busy."""
    core = with_nodes(NODE_1, NODE_2)
    for second in range(2, 30):
        assert core.handle(9, StillAlive(NODE_1, is_head=True), float(second)) == []
        assert core.tick(second + 0.1) == []
    sent = []
    for second in range(30, 40):
        core.handle(9, StillAlive(NODE_1, is_head=False), float(second))
        sent += core.tick(second + 0.1)
    assert [(to, type(one)) for to, one in sent if isinstance(one, Refused)] == [(2, Refused)]
    assert core.membership.alive()[0].node_id == NODE_1
    core.check()


def test_a_node_that_joins_twice_is_refused() -> None:
    core = with_nodes(NODE_1)
    ((to, refused),) = core.handle(2, joins(NODE_1), 2.0)
    assert (to, type(refused)) == (2, Refused)
    ((to, refused),) = core.handle(1, joins(NODE_2), 2.0)
    assert (to, type(refused)) == (1, Refused)
    assert len(ask(core, "nodes")) == 1


def test_a_broken_life_cycle_is_told_to_its_node_alone() -> None:
    core = with_nodes(NODE_1, NODE_2)
    core.handle(1, actor(ActorState.ALIVE), 2.0)
    ((to, refused),) = core.handle(1, actor(ActorState.PENDING_CREATION), 2.0)
    assert to == 1
    assert isinstance(refused, Refused)
    assert "ALIVE -> PENDING_CREATION" in refused.reason
    ((to, refused),) = core.handle(2, TasksChanged([(b"t", "f", 99, NODE_2)], []), 2.0)
    assert (to, type(refused)) == (2, Refused)
    core.check()


def test_the_name_of_an_actor_from_reservation_to_death() -> None:
    core = with_nodes(NODE_1)
    name: dict[str, Any] = {"name": "n", "namespace": "space"}
    assert ask(core, "get_actor", **name) is None
    mine = {**name, "actor_id": ACTOR, "class_name": "Counter", "spec": b"methods"}
    assert ask(core, "reserve_actor_name", peer=1, **mine) == {"actor_id": None}
    other = {**name, "actor_id": b"B" * 16}
    assert ask(core, "reserve_actor_name", peer=1, **other) == {"actor_id": ACTOR}
    assert ask(core, "get_actor", **name)["state"] == "DEPENDENCIES_UNREADY"
    core.handle(1, actor(ActorState.ALIVE), 2.0)
    row = ask(core, "get_actor", **name)
    assert (row["actor_id"], row["node_id"], row["spec"]) == (ACTOR, NODE_1, b"methods")
    assert (row["class_name"], row["state"], row["pid"]) == ("Counter", "ALIVE", 5)
    assert ask(core, "get_actor", actor_id=ACTOR) == row
    core.handle(1, actor(ActorState.DEAD), 2.0)
    assert ask(core, "get_actor", **name) is None
    assert ask(core, "reserve_actor_name", peer=1, **other) == {"actor_id": None}
    assert [row["state"] for row in ask(core, "list_actors")] == ["DEAD", "DEPENDENCIES_UNREADY"]


def test_the_end_of_a_job_frees_the_names_that_it_only_reserved() -> None:
    core = with_nodes(NODE_1)
    core.handle(1, JobChanged(JOB, 7, "", "", True, 1.0), 1.0)
    ask(core, "reserve_actor_name", peer=1, name="n", namespace="", actor_id=ACTOR)
    core.handle(1, JobChanged(JOB, 7, "", "", False, 2.0), 2.0)
    assert ask(core, "get_actor", name="n") is None


def test_who_asks_where_an_object_is_gets_an_answer_once_it_is_somewhere() -> None:
    core = with_nodes(NODE_1, NODE_2)
    assert ask(core, "locate", peer=2, object_id=OBJECT, wait=False) is None
    assert core.handle(2, Ask(7, "locate", {"object_id": OBJECT}), 2.0) == []
    core.handle(9, Ask(8, "locate", {"object_id": OBJECT}), 2.0)
    core.peer_lost(9, 2.0)
    there = {"size": 1000, "nodes": [NODE_1]}
    assert core.handle(1, ObjectsChanged([(OBJECT, 1000)], []), 2.0) == [(2, Answer(7, there))]
    assert ask(core, "locate", object_id=OBJECT) == there
    core.handle(1, ObjectsChanged([], [OBJECT]), 2.0)
    assert ask(core, "locate", object_id=OBJECT, wait=False) is None


def test_with_a_node_goes_all_that_was_there() -> None:
    core = with_nodes(NODE_1, NODE_2)
    core.handle(1, JobChanged(JOB, 7, "main.py", "space", True, 1.0), 1.0)
    core.handle(1, actor(ActorState.ALIVE), 1.0)
    core.handle(1, ObjectsChanged([(OBJECT, 1000)], []), 1.0)
    core.handle(2, ObjectsChanged([(OBJECT, 1000)], []), 1.0)
    core.handle(1, TasksChanged([(b"t" * 16, "f", int(TaskState.SENT), NODE_1)], []), 1.0)
    core.peer_lost(1, 4.0)
    assert core.node_count == 1
    summary = ask(core, "summary")
    assert summary["nodes"] == {"ALIVE": 1, "DEAD": 1}
    assert summary["jobs"] == {"RUNNING": 0, "FINISHED": 1}
    assert (summary["actors"], summary["tasks"]) == ({"DEAD": 1}, {})
    assert ask(core, "locate", object_id=OBJECT) == {"size": 1000, "nodes": [NODE_2]}
    (row,) = ask(core, "list_actors")
    assert NODE_1.hex() in row["cause"]
    states = [(row["kind"], row["state"]) for row in ask(core, "story", id=ACTOR)]
    assert states == [("actor", "ALIVE"), ("actor", "DEAD")]
    assert core.peer_lost(1, 5.0) == []  # nothing is left to end


def test_a_silent_node_is_given_up_and_told() -> None:
    core = with_nodes(NODE_1, NODE_2)
    sends = []
    for second in range(1, 9):
        core.handle(2, Heartbeat({}, 0, 0, 0, 0.0), float(second))
        sends += core.tick(float(second))
        core.check()
    (_, (to, refused)) = sends
    assert to == 1
    assert isinstance(refused, Refused)
    assert "silent for 6.0 s" in refused.reason
    ((_, refused),) = core.handle(1, Heartbeat({}, 0, 0, 0, 0.0), 9.0)
    assert isinstance(refused, Refused)


def test_events_come_back_as_rows() -> None:
    core = with_nodes(NODE_1)
    batch = encode_events([("S", "worker", b"W" * 16, "IDLE", 2.0, "", 8)])
    core.handle(1, Events(1, batch, 4), 2.0)
    core.handle(1, FunctionStored(b"hash", "f", b"code"), 2.5)
    core.handle(1, FunctionStored(b"hash", "f", b"code"), 2.6)
    assert [(row["kind"], row["state"]) for row in ask(core, "events", since=1.5)] == [
        ("worker", "IDLE"),
        ("function", "STORED"),
    ]
    assert ask(core, "functions", id=b"hash") == b"code"
    assert ask(core, "summary")["events"] == {"kept": 3, "dropped": 4}


def test_a_watcher_reads_only_what_has_changed() -> None:
    core = with_nodes(NODE_1)
    first = ask(core, "watch", table="nodes")
    assert [row["NodeID"] for row in first["rows"]] == [NODE_1.hex()]
    core.handle(2, joins(NODE_2), 2.0)
    second = ask(core, "watch", table="nodes", since=first["version"])
    assert [row["NodeID"] for row in second["rows"]] == [NODE_2.hex()]
    assert ask(core, "watch", table="nodes", since=second["version"])["rows"] == []


def test_lists_are_cut_to_their_newest_rows() -> None:
    core = with_nodes(NODE_1)
    ids = [JOB + bytes([number]) * 16 for number in range(3)]
    core.handle(1, ObjectsChanged([(one, 1) for one in ids], []), 2.0)
    assert [row["object_id"] for row in ask(core, "objects", limit=2)] == [
        one.hex() for one in ids[1:]
    ]
    assert ask(core, "objects", limit=0) == []


PEERS = st.integers(1, 3)
OBJECTS = st.integers(0, 2).map(lambda n: JOB + bytes([n]) * 16)
ACTORS = st.integers(0, 2).map(lambda n: JOB + bytes([n]) * 12)
GROUPS = st.integers(0, 1).map(lambda n: JOB + bytes([n]) * 12)
GROUP = {"bundles": [{"CPU": 10_000}] * 2, "strategy": "STRICT_SPREAD", "job_id": JOB}
MESSAGES = st.one_of(
    st.sampled_from([NODE_1, NODE_2]).map(joins),
    st.builds(
        ActorChanged,
        ACTORS,
        st.sampled_from([int(state) for state in ActorState]),
        st.just("C"),
        st.sampled_from(["", "n"]),
        st.just(""),
        st.sampled_from([NODE_1, NODE_2]),
        st.just(5),
        st.just(""),
        st.just(1.0),
    ),
    st.builds(
        ObjectsChanged,
        st.lists(st.tuples(OBJECTS, st.just(7)), max_size=2),
        st.lists(OBJECTS, max_size=2),
        st.lists(OBJECTS, max_size=2),
    ),
    st.builds(
        Offer,
        st.integers(1, 2),
        st.sampled_from([(("CPU", 10_000),), (("GPU", 10_000),)]),
        st.integers(0, 3),
        st.integers(0, 9),
        st.just(0.5),
        must_leave=st.booleans(),
    ),
    st.builds(WatchActor, ACTORS, st.booleans()),
    st.builds(
        JobChanged,
        st.just(JOB),
        st.just(1),
        st.just(""),
        st.just(""),
        st.booleans(),
        st.just(1.0),
    ),
    ACTORS.map(
        lambda one: Ask(1, "reserve_actor_name", {"name": "n", "namespace": "", "actor_id": one})
    ),
    OBJECTS.map(lambda one: Ask(2, "locate", {"object_id": one})),
    GROUPS.map(lambda one: Ask(3, "create_placement_group", {"group_id": one, **GROUP})),
    GROUPS.map(lambda one: Ask(4, "remove_placement_group", {"group_id": one})),
    GROUPS.map(lambda one: Ask(5, "wait_placement_group", {"group_id": one})),
    st.builds(BundlesReserved, GROUPS, st.integers(1, 3), st.booleans()),
)


@pytest.mark.parametrize("silence_s", [None, 3.0])
@given(moves=st.lists(st.one_of(st.tuples(PEERS, MESSAGES), PEERS, st.none()), max_size=40))
def test_no_order_of_messages_and_losses_breaks_the_tables(
    silence_s: float | None, moves: list[tuple[int, Any] | int | None]
) -> None:
    """A message of a peer, the loss of a peer, or a second that passes."""
    core = GcsCore(silence_s, random=lambda: 0.5)
    now = 1.0
    asked = answered = 0
    for move in moves:
        if move is None:
            now += 1.0
            sends = core.tick(now)
        elif isinstance(move, int):
            sends = core.peer_lost(move, now)
        else:
            sends = core.handle(*move, now)
            asked += isinstance(move[1], Ask)
        answered += sum(isinstance(message, Answer) for _, message in sends)
        for peer, message in sends:
            if isinstance(message, Refused):
                core.peer_lost(peer, now)  # as the shell does
        core.check()
    assert answered <= asked
