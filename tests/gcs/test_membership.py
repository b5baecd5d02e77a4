"""Node and job tables, and the failure detector with its clock's own failures."""

from __future__ import annotations

import pytest

from skate.config import PROTOCOL_VERSION
from skate.gcs.membership import Membership, view_node
from skate.messages import Heartbeat, JobChanged, NodeJoins

A, B = b"A" * 16, b"B" * 16
JOB = b"\0\0\0\1"


def joins(node_id: bytes = A, **fields: object) -> NodeJoins:
    message = NodeJoins(
        PROTOCOL_VERSION, node_id, 42, "/tmp/s/node.sock", "host", {"CPU": 20_000}, {"a": "b"}, 99
    )
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def job(alive: bool, at: float) -> JobChanged:
    return JobChanged(JOB, 7, "main.py", "space", alive, at)


def two_nodes(silence_s: float | None = 5.0) -> Membership:
    membership = Membership(silence_s)
    assert membership.join(joins(A), 1, now=100.0) == ""
    assert membership.join(joins(B), 2, now=100.0) == ""
    membership.silent(100.0)
    return membership


def given_up(membership: Membership, now: float) -> list[bytes]:
    membership.check()
    return [row.node_id for row in membership.silent(now)]


def test_only_the_silent_node_is_given_up() -> None:
    membership = two_nodes()
    found = []
    for second in range(101, 108):
        membership.hear(B, float(second))
        found.append(given_up(membership, float(second)))
    assert found == [[], [], [], [], [], [A], [A]]


def test_after_a_pause_of_the_gcs_itself_nobody_is_given_up_at_once() -> None:
    membership = two_nodes()
    assert given_up(membership, 160.0) == []  # suspended for a minute
    for second in (161.0, 162.0, 163.0, 164.0, 165.0):
        assert given_up(membership, second) == []
    assert given_up(membership, 166.0) == [A, B]


def test_a_clock_that_was_set_back_gives_nobody_up_and_still_works() -> None:
    membership = two_nodes()
    assert given_up(membership, 50.0) == []
    found = [given_up(membership, 50.0 + second) for second in range(1, 7)]
    assert found == [[], [], [], [], [], [A, B]]


def test_where_connections_tell_all_silence_says_nothing() -> None:
    membership = two_nodes(silence_s=None)
    assert [given_up(membership, 100.0 + second) for second in range(20)] == [[]] * 20


def test_a_node_of_another_protocol_or_given_up_before_is_refused() -> None:
    membership = two_nodes()
    assert "protocol" in membership.join(joins(b"C" * 16, protocol=99), 3, 101.0)
    assert "16 bytes" in membership.join(joins(b"short"), 3, 101.0)
    assert "ALIVE" in membership.join(joins(A), 3, 101.0)
    membership.end_node(A, "gone", 102.0)
    assert "DEAD" in membership.join(joins(A), 3, 103.0)
    membership.check()


def test_a_dead_node_takes_its_jobs_along_and_stays_listed() -> None:
    membership = two_nodes()
    assert membership.change_job(A, job(True, 101.0))
    assert [row.job_id for row in membership.end_node(A, "gone", 102.0)] == [JOB]
    row = membership.nodes.get(A)
    assert row is not None
    view = view_node(row)
    assert (view["Alive"], view["Resources"], view["DeathReasonMessage"]) == (False, {}, "gone")
    (ended,) = membership.jobs.rows()
    assert (ended.alive, ended.ended) == (False, 102.0)
    membership.check()


def test_an_ended_job_stays_ended() -> None:
    membership = two_nodes()
    news = [membership.change_job(A, job(alive, at)) for alive, at in [(True, 1), (True, 2)]]
    news += [membership.change_job(A, job(alive, at)) for alive, at in [(False, 3), (True, 4)]]
    assert news == [True, False, True, False]
    (row,) = membership.jobs.rows()
    assert (row.alive, row.started, row.ended) == (False, 1, 3)


def test_job_ids_count_up() -> None:
    membership = Membership()
    assert [membership.next_job_id() for _ in range(2)] == [b"\0\0\0\1", b"\0\0\0\2"]


def test_a_node_is_shown_in_ray_s_keys_and_with_its_load() -> None:
    membership = two_nodes()
    membership.load(A, Heartbeat({"CPU": 5_000}, 3, 2, 10, 0.1))
    view = view_node(membership.alive()[0])
    assert view["NodeID"] == A.hex()
    assert view["Resources"] == {"CPU": 2.0}
    assert (view["available"], view["queued"], view["running"]) == ({"CPU": 0.5}, 3, 2)
    assert (view["NodeManagerAddress"], view["RayletSocketName"]) == (
        "127.0.0.1",
        "/tmp/s/node.sock",
    )
    membership.join(joins(b"C" * 16, address="10.0.0.7:4321"), 3, 101.0)
    remote = view_node(membership.alive()[2])
    assert (remote["NodeManagerAddress"], remote["NodeManagerPort"]) == ("10.0.0.7", 4321)


def test_an_id_that_is_none_is_no_job() -> None:
    """An empty one would be the beginning of every id, and end the calls of all jobs."""
    membership = two_nodes()
    for job_id in (b"", b"\0\0\0", b"\0\0\0\1\0"):
        with pytest.raises(ValueError, match="JobID"):
            membership.change_job(A, JobChanged(job_id, 7, "main.py", "space", False, 101.0))
    assert membership.jobs.rows() == []
