"""The table of tasks under way: bounded, and rid of what a dead node reported."""

from __future__ import annotations

import pytest

from skate.gcs.task_table import TaskTable
from skate.states import TaskState


def test_over_its_bound_it_counts_instead_of_growing() -> None:
    table = TaskTable(max_tasks=2)
    for number in range(3):
        table.change(bytes([number]), "f", TaskState.READY, b"A")
    table.change(b"\0", "f", TaskState.SENT, b"A")  # known already: no new place needed
    table.check()
    assert (table.counts(), table.untracked) == ({"SENT": 1, "READY": 1}, 1)
    table.end(b"\2")  # never had a place
    table.end(b"\0")
    assert table.counts() == {"READY": 1}


def test_a_dead_node_s_tasks_are_forgotten() -> None:
    table = TaskTable()
    table.change(b"1", "f", TaskState.SENT, b"A")
    table.change(b"2", "f", TaskState.SENT, b"B")
    table.drop_node(b"A")
    assert list(table.tasks) == [b"2"]


def test_a_state_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match="99"):
        TaskTable().change(b"1", "f", 99, b"A")
