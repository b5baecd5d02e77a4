"""The paper's end-to-end example, "putting everything together": one add(a, b), step by step.

Figure a is the way of a task from its definition to its run, figure b the way of its result to
whoever asked for it. On one node the steps between nodes fall away (the offer to the global
scheduler, the copies); all others can be read in the event log.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import skate
from skate.client import runtime
from tests.api.waiting import until

Row = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with skate.init(num_cpus=2):
        yield


@skate.remote
def add(a: int, b: int) -> int:
    return a + b


@skate.remote
def value_of(path: str, value: int) -> int:
    until(lambda: os.path.exists(path), 30)
    return value


@skate.remote
def read(refs: list[Any]) -> Any:
    return skate.get(refs[0])


def ask(question: str, **body: Any) -> Any:
    found = runtime.current()
    assert found is not None
    return found.ask(question, body)


def story(ref: Any) -> list[Row]:
    """The event log's rows of an object and of the task that makes it."""
    return list(ask("story", id=ref.binary()))


def states(rows: list[Row]) -> list[str]:
    return [row["state"] for row in rows]


def only(rows: list[Row], **wanted: Any) -> Row:
    """The one row that has these values."""
    (found,) = [row for row in rows if wanted.items() <= row.items()]
    return found


def test_figure_a_and_b_can_be_followed_in_the_event_log() -> None:
    """Figure 7: the function is exported to the function table; the driver submits add(a, b) to
    its local scheduler, which checks that a and b are there; a worker runs it with both out of the
    local object store, and its result is stored, entered, and handed to who waits for it."""
    begin = max((row["time"] for row in ask("events")), default=0.0)

    # A function of its own: the one above may have been exported by another test.
    @skate.remote
    def add_once(a: int, b: int) -> int:
        return a + b

    a, b = skate.put(1), skate.put(2)
    c = add_once.remote(a, b)
    assert skate.get(c) == 3

    rows = [row for row in ask("events", since=begin) if row["kind"] != "worker"]
    driver = os.getpid()
    worker = only(rows, kind="task", state="RUNNING")["worker_pid"]
    assert worker != driver
    task_id, c_id = c.task_id(), c.hex()
    expected = [
        # a and b are put into the object store by the user's program
        {"kind": "object", "id": a.hex(), "state": "PUT", "worker_pid": driver},
        {"kind": "object", "id": b.hex(), "state": "PUT", "worker_pid": driver},
        # figure a, 0: the function goes to the function table
        {"kind": "function", "state": "EXPORTED", "text": "add_once", "worker_pid": driver},
        # 1: the task is submitted to the local scheduler, which keeps it (2 to 4 fall away)
        {"kind": "task", "id": task_id, "state": "WAITING", "submitter_pid": driver},
        # 5: all its inputs are here (6 and 7, the copy of a missing one, fall away)
        {"kind": "task", "id": task_id, "state": "READY"},
        # 8: local scheduling: a worker is chosen, 9: it runs add on the values out of the store
        {"kind": "task", "id": task_id, "state": "SENT", "worker_pid": worker},
        {"kind": "task", "id": task_id, "state": "RUNNING", "worker_pid": worker},
        {"kind": "task", "id": task_id, "state": "FINISHED", "worker_pid": worker},
        # figure b, 3: the result is stored, 7: and handed to the program
        {"kind": "object", "id": c_id, "state": "STORED", "worker_pid": worker},
        {"kind": "object", "id": c_id, "state": "DELIVERED", "worker_pid": driver},
    ]
    # The GCS enters the function at its own time, beside the task's way.
    rows = [row for row in rows if (row["kind"], row["state"]) != ("function", "STORED")]
    assert len(rows) == len(expected), [(row["kind"], row["state"]) for row in rows]
    for row, wanted in zip(rows, expected, strict=True):
        assert wanted.items() <= row.items()
    times = [row["time"] for row in rows]
    assert times == sorted(times)


def test_the_function_table_holds_the_function() -> None:
    """Section 4.1: the GCS's function table holds every remote function; workers load it."""
    begin = max((row["time"] for row in ask("events")), default=0.0)

    @skate.remote
    def exported() -> str:
        return "loaded"

    assert skate.get(exported.remote()) == "loaded"
    row = only(ask("events", since=begin), kind="function", state="EXPORTED")
    pickled = ask("functions", id=bytes.fromhex(row["id"]))
    import pickle

    assert pickle.loads(pickled)() == "loaded"


def test_a_task_waits_until_its_inputs_are_there(tmp_path: Path) -> None:
    """Section 4.2.3: a task is only dispatched once all its inputs are local."""
    gate = tmp_path / "gate"
    late = value_of.remote(str(gate), 1)
    total = add.remote(late, skate.put(2))
    assert skate.wait([total], timeout=0)[0] == []
    gate.touch()
    assert skate.get(total) == 3
    finished = only(story(late), kind="object", state="STORED")["time"]
    rows = story(total)
    assert states(rows) == ["WAITING", "READY", "SENT", "RUNNING", "FINISHED", "STORED",
                            "DELIVERED"]  # fmt: skip
    assert only(rows, state="WAITING")["time"] < finished <= only(rows, state="READY")["time"]


def test_a_get_before_the_result_registers_and_is_called_back(tmp_path: Path) -> None:
    """Figure 7b, 1 to 6: a get for an object that does not exist yet registers with the object's
    entry; when the object is created, whoever registered is told and receives it."""
    gate = tmp_path / "gate"
    c = value_of.remote(str(gate), 3)
    reader = read.remote([c])
    until(lambda: "WANTED" in states(story(c)))
    gate.touch()
    assert skate.get(reader) == 3
    rows = story(c)
    reader_pid = only(story(reader), state="RUNNING")["worker_pid"]
    order = [(row["state"], row["worker_pid"]) for row in rows if row["kind"] == "object"]
    maker_pid = only(rows, state="RUNNING")["worker_pid"]
    assert order[0] == ("WANTED", reader_pid)
    assert sorted(order[1:]) == [
        ("DELIVERED", min(os.getpid(), reader_pid)),
        ("DELIVERED", max(os.getpid(), reader_pid)),
        ("STORED", maker_pid),
    ]


def test_a_large_result_is_sealed_in_shared_memory_and_in_the_object_table() -> None:
    """Section 4.2.3: the object store holds inputs and outputs of tasks in shared memory; the
    object table of the GCS holds where each object is."""
    numpy = pytest.importorskip("numpy")

    @skate.remote
    def ones(count: int) -> Any:
        return numpy.ones(count)

    c = ones.remote(100_000)
    assert skate.get(c).sum() == 100_000
    sealed = only(story(c), kind="object", state="SEALED")
    assert sealed["size"] >= 800_000
    node_id = skate.nodes()[0]["NodeID"]
    located = ask("locate", object_id=c.binary(), wait=False)
    assert [found.hex() for found in located["nodes"]] == [node_id]
    assert located["size"] == sealed["size"]


def test_a_failed_task_and_what_depends_on_it_say_so_in_the_event_log() -> None:
    """Section 4.1: the event log serves debugging: what failed, with what, and what never ran."""

    @skate.remote
    def fail() -> int:
        raise ZeroDivisionError

    broken = fail.remote()
    total = add.remote(broken, 1)
    with pytest.raises(ZeroDivisionError):
        skate.get(total)
    assert only(story(broken), state="FAILED")["error_type"] == "ZeroDivisionError"
    rows = story(total)
    assert "RUNNING" not in states(rows)
    assert only(rows, state="FAILED")["error_type"] == "ZeroDivisionError"
