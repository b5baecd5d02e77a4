"""The event log: what is dropped is counted, rows tell each change once, the timeline loads."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skate.gcs.event_log import EventLog
from skate.net.event_batch import encode_events
from skate.states import TaskState

NODE = b"N" * 16
WORKER = b"W" * 16
JOB = b"\0\0\0\1"
TASK = JOB + b"s" * 6 + b"\0\0\0\0\0\1"


def task_event(
    task_id: bytes = TASK,
    *,
    attempt: int = 0,
    times: tuple[float, float, float, float, float] = (1.0, 2.0, 3.0, 4.0, 5.0),
    state: TaskState = TaskState.FINISHED,
    error: str = "",
    kind: str = "task",
    worker: tuple[int, bytes] = (77, WORKER),
) -> tuple[Any, ...]:
    pid, worker_id = worker
    head = ("T", task_id, attempt, "f", JOB, pid, worker_id)
    return (*head, *times, int(state), error, NODE, kind, 10)


def object_event(object_id: bytes, what: str, at: float) -> tuple[Any, ...]:
    return ("O", object_id, what, 1000, at, 77, NODE)


def log_of(*events: tuple[Any, ...]) -> EventLog:
    log = EventLog(1000)
    log.append(encode_events(list(events)), len(events), 0)
    return log


def steps(rows: list[dict[str, Any]]) -> list[tuple[float, str, str]]:
    return [(row["time"], row["kind"], row["state"]) for row in rows]


def test_one_event_of_a_task_becomes_one_row_for_each_change() -> None:
    rows = log_of(task_event()).rows()
    assert [(row["time"], row["state"]) for row in rows] == [
        (1.0, "WAITING"),
        (2.0, "READY"),
        (3.0, "SENT"),
        (4.0, "RUNNING"),
        (5.0, "FINISHED"),
    ]
    assert {row["id"] for row in rows} == {TASK.hex()}
    assert (rows[0]["name"], rows[0]["node_id"], rows[0]["worker_pid"]) == ("f", NODE.hex(), 77)


def test_what_did_not_happen_has_no_row_and_only_the_failure_has_the_error() -> None:
    died = task_event(times=(1.0, 2.0, 3.0, 0.0, 9.0), state=TaskState.FAILED, error="OSError")
    rows = log_of(died).rows()
    assert [row["state"] for row in rows] == ["WAITING", "READY", "SENT", "FAILED"]
    assert [row["error_type"] for row in rows] == ["", "", "", "OSError"]


def test_a_later_event_of_the_same_attempt_replaces_the_earlier_one() -> None:
    early = task_event(times=(1.0, 2.0, 0.0, 0.0, 0.0), state=TaskState.READY)
    rows = log_of(early, task_event(), task_event(attempt=1, times=(6, 7, 8, 9, 10))).rows()
    assert [(row["attempt"], row["time"]) for row in rows] == [
        *((0, float(at)) for at in range(1, 6)),
        *((1, float(at)) for at in range(6, 11)),
    ]


def test_rows_of_all_batches_are_merged_by_time() -> None:
    log = EventLog(1000)
    log.append(encode_events([object_event(TASK + b"\0\0\0\0", "SEALED", 4.5)]), 1, 0)
    log.append(encode_events([task_event()]), 1, 0)
    assert steps(log.rows(since=3.0)) == [
        (4.0, "task", "RUNNING"),
        (4.5, "object", "SEALED"),
        (5.0, "task", "FINISHED"),
    ]
    assert steps(log.rows(limit=1)) == [(5.0, "task", "FINISHED")]
    assert log.rows(limit=0) == []


def test_a_state_told_by_the_node_and_by_the_gcs_is_one_change() -> None:
    actor = b"A" * 16
    log = EventLog(1000)
    for state, at, text in [
        ("ALIVE", 1.0, "of the table"),
        ("ALIVE", 1.0, "of the node"),
        ("RESTARTING", 2.0, ""),
        ("ALIVE", 3.0, ""),
    ]:
        log.append(encode_events([("S", "actor", actor, state, at, text, 5)]), 1, 0)
    rows = log.rows()
    assert [row["state"] for row in rows] == ["ALIVE", "RESTARTING", "ALIVE"]
    assert rows[0]["text"] == "of the table"
    assert [row["state"] for row in log.rows(since=2.5)] == ["ALIVE"]


def test_a_story_holds_a_task_and_its_objects_and_nothing_else() -> None:
    other = TASK[:-1] + b"\2"
    result, put = TASK + b"\0\0\0\0", other + b"\xff\xff\xff\xff"
    log = log_of(
        task_event(),
        task_event(other),
        object_event(result, "SEALED", 4.9),
        object_event(put, "PUT", 4.0),
    )
    ids = {row["id"] for row in log.story(TASK)}
    assert ids == {TASK.hex(), result.hex()}
    assert {row["id"] for row in log.story(result)} == {TASK.hex(), result.hex()}
    assert {row["id"] for row in log.story(JOB)} == {
        one.hex() for one in (TASK, other, result, put)
    }
    assert log.story(b"?" * 16) == []


def test_the_story_of_an_actor_holds_the_calls_that_it_ran_in_every_life() -> None:
    actor = JOB + b"s" * 6 + b"\0\0\0\0\0\7"
    first, second, stranger = (7, b"1" * 16), (8, b"2" * 16), (9, b"3" * 16)
    calls = [JOB + b"s" * 6 + number.to_bytes(6, "big") for number in (11, 12, 13)]
    log = log_of(
        task_event(actor, kind="actor", worker=first),
        task_event(calls[0], kind="method", worker=first),
        task_event(actor, kind="actor", attempt=1, worker=second),
        task_event(calls[1], kind="method", worker=second),
        task_event(calls[2], kind="method", worker=stranger),
    )
    told = {row["id"] for row in log.story(actor)}
    assert told == {actor.hex(), calls[0].hex(), calls[1].hex()}


def test_a_task_that_no_worker_took_is_in_no_other_story() -> None:
    unsent = task_event(times=(1, 2, 0, 0, 3), state=TaskState.FAILED, worker=(0, b""))
    actor = b"A" * 16
    born = task_event(actor, kind="actor", state=TaskState.FAILED, worker=(0, b""))
    assert {row["id"] for row in log_of(unsent, born).story(actor)} == {actor.hex()}


def test_over_the_bound_the_oldest_batch_goes_and_is_counted() -> None:
    log = EventLog(max_tasks=4)
    for number in range(3):
        event = task_event(TASK[:-1] + bytes([number]))
        log.append(encode_events([event, event]), 2, dropped=1)
        log.check()
    assert (log.kept, log.dropped) == (4, 2 + 3)
    assert TASK[:-1].hex() + "00" not in {row["id"] for row in log.rows()}


def test_one_batch_that_cannot_be_read_hides_no_other() -> None:
    log = EventLog(100)
    log.append(b"\xc1 nonsense", 3, 0)
    log.append(encode_events([("Z", b"?")]), 1, 0)
    log.append(encode_events([task_event()]), 1, 0)
    assert len(log.rows()) == 5
    assert log.unreadable == 2


@given(st.lists(st.tuples(st.integers(-1, 6), st.integers(0, 3)), max_size=30))
def test_every_event_is_kept_or_counted(batches: list[tuple[int, int]]) -> None:
    log = EventLog(max_tasks=8)
    for count, dropped in batches:
        log.append(b"\x90", count, dropped)
        log.check()
    assert log.kept + log.dropped == sum(max(0, count) + dropped for count, dropped in batches)


# -------------------------------------------------------------------------------- timeline


def slices(trace: list[dict[str, Any]], phase: str) -> list[dict[str, Any]]:
    return [entry for entry in trace if entry["ph"] == phase]


def test_the_timeline_names_a_process_a_node_and_a_row_a_worker() -> None:
    trace = log_of(
        task_event(times=(1.0, 1.5, 2.0, 4.0, 5.5)),
        object_event(TASK + b"\0\0\0\0", "SEALED", 5.0),
    ).timeline()
    assert json.loads(json.dumps(trace)) == trace
    names = {
        (entry["name"], entry["pid"], entry["tid"]): entry["args"]["name"]
        for entry in slices(trace, "M")
    }
    assert names == {
        ("process_name", 1, 0): f"node {NODE.hex()[:8]}",
        ("thread_name", 1, 77): "worker 77",
        ("thread_name", 1, 0): "objects",
    }
    (task,) = slices(trace, "X")
    assert (task["ts"], task["dur"], task["pid"], task["tid"]) == (4e6, 1.5e6, 1, 77)
    assert task["args"] == {
        "task_id": TASK.hex(),
        "attempt": 0,
        "submitted": 1.0,
        "queued_us": 3e6,
        "error": "",
    }
    (sealed,) = slices(trace, "i")
    assert (sealed["name"], sealed["ts"], sealed["tid"]) == ("SEALED", 5e6, 0)


def test_calls_that_ran_side_by_side_never_share_a_row() -> None:
    spans = [(1.0, 5.0), (2.0, 3.0), (2.5, 6.0), (3.0, 4.0), (5.0, 7.0)]
    events = [
        task_event(TASK[:-1] + bytes([number]), times=(0.5, 0.6, 0.7, *span), kind="method")
        for number, span in enumerate(spans)
    ]
    rows: dict[int, list[tuple[float, float]]] = {}
    trace = log_of(*events).timeline()
    for entry in slices(trace, "X"):
        rows.setdefault(entry["tid"], []).append((entry["ts"], entry["ts"] + entry["dur"]))
    assert sorted(len(row) for row in rows.values()) == [1, 2, 2]
    for row in rows.values():
        row.sort()
        assert all(before[1] <= after[0] for before, after in pairwise(row))
    named = [entry["args"]["name"] for entry in slices(trace, "M")][1:]
    assert named == ["worker 77", "worker 77 (2)", "worker 77 (3)"]


def test_a_task_whose_worker_died_shows_as_an_instant() -> None:
    died = task_event(times=(1.0, 2.0, 3.0, 0.0, 9.0), state=TaskState.FAILED, error="Crashed")
    (mark,) = slices(log_of(died).timeline(), "i")
    assert (mark["ts"], mark["tid"], mark["args"]["error"]) == (9e6, 77, "Crashed")


@pytest.mark.parametrize("times", [(1.0, 0.0, 0.0, 0.0, 0.0), (1.0, 2.0, 3.0, 0.0, 0.0)])
def test_a_task_that_has_not_run_is_not_in_the_timeline(times: tuple[float, ...]) -> None:
    event = task_event(times=times, state=TaskState.SENT)  # type: ignore[arg-type]
    assert log_of(event).timeline() == []
