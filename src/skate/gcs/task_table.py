"""The tasks that live longer than an event batch, with their state and node.

`TaskHandlers` enters what nodes report; short tasks never appear here, only in the event log.

Invariants, all asserted by `check()`: there are at most `max_tasks` rows. Tasks that find no place
are counted in `untracked`, so that a reader knows when the table is not complete.

A row is a report: the node that sent it moves the task, this table does not.
"""

from __future__ import annotations

from typing import Any

import msgspec

from skate.config import EVENT_LOG_TASKS
from skate.gcs.table import Table
from skate.states import TaskState


class TaskRow(msgspec.Struct, frozen=True):
    """A task that has not ended, as its node last reported it."""

    task_id: bytes
    name: str
    state: TaskState
    node_id: bytes


class TaskTable:
    """Tasks under way; `max_tasks` of them at most."""

    def __init__(self, max_tasks: int = EVENT_LOG_TASKS) -> None:
        self.tasks: Table[bytes, TaskRow] = Table()
        self.untracked = 0
        self._max_tasks = max_tasks

    def change(self, task_id: bytes, name: str, state: int, node_id: bytes) -> None:
        """A task is in this state (a TaskState) on this node. ValueError for no TaskState."""
        known = TaskState(state)
        if len(self.tasks) >= self._max_tasks and task_id not in self.tasks:
            self.untracked += 1
            return
        self.tasks.put(task_id, TaskRow(task_id, name, known, node_id))

    def end(self, task_id: bytes) -> None:
        """The task has ended. Nothing changes if the table does not have it."""
        self.tasks.remove(task_id)

    def drop_node(self, node_id: bytes) -> None:
        """The node is dead, and nobody reports on its tasks any more."""
        for row in self.tasks.rows():
            if row.node_id == node_id:
                self.tasks.remove(row.task_id)

    def counts(self) -> dict[str, int]:
        """How many tasks are in each state that any is in."""
        counts: dict[str, int] = {}
        for row in self.tasks.rows():
            counts[row.state.name] = counts.get(row.state.name, 0) + 1
        return counts

    def check(self) -> None:
        """Assert the invariants above."""
        self.tasks.check()
        assert len(self.tasks) <= self._max_tasks


def view_task(row: TaskRow) -> dict[str, Any]:
    """A task as plain data, ids in hex."""
    return {
        "task_id": row.task_id.hex(),
        "name": row.name,
        "state": row.state.name,
        "node_id": row.node_id.hex(),
    }
