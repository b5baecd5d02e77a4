"""Tasks under way and the event log, as nodes report them and people ask for them."""

from __future__ import annotations

from typing import Any

from skate.gcs import questions
from skate.gcs.event_log import EventLog
from skate.gcs.hears import Asker, Body, answers, hears
from skate.gcs.membership import LostNode, NodeRow
from skate.gcs.task_table import TaskTable, view_task
from skate.messages import Events, TasksChanged


class TaskHandlers:
    """The tasks that live longer than an event batch."""

    def __init__(self, tasks: TaskTable) -> None:
        self._tasks = tasks

    @hears(TasksChanged)
    def on_tasks_changed(self, _node: NodeRow, message: TasksChanged, _now: float) -> None:
        """A node's report: the states of its tasks, and the tasks that have ended."""
        for task_id, name, state, where in message.rows:
            self._tasks.change(task_id, name, state, where)
        for task_id in message.ended:
            self._tasks.end(task_id)

    @answers(questions.Tasks)
    def list_tasks(self, _asker: Asker, ask: questions.Tasks, _now: float) -> Body:
        """The tasks under way, for people."""
        return [view_task(row) for row in self._tasks.tasks.newest(ask.limit)]

    def node_lost(self, lost: LostNode) -> None:
        """A node is dead, and its reports with it."""
        self._tasks.drop_node(lost.node.node_id)

    def counts(self) -> dict[str, Any]:
        """How many tasks there are, by state, and how many found no place in the table."""
        return {"tasks": self._tasks.counts(), "tasks_untracked": self._tasks.untracked}

    def check(self) -> None:
        """Assert the invariants of the table."""
        self._tasks.check()


class EventHandlers:
    """The event log."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    @hears(Events)
    def on_events(self, _node: NodeRow, message: Events, _now: float) -> None:
        """A node's batch; it is opened for a reader's question."""
        self._log.append(message.batch, message.count, message.dropped)

    @answers(questions.EventRows)
    def events(self, _asker: Asker, ask: questions.EventRows, _now: float) -> Body:
        """The newest rows."""
        return self._log.rows(ask.since, ask.limit)

    @answers(questions.Story)
    def story(self, _asker: Asker, ask: questions.Story, _now: float) -> Body:
        """The rows that concern one id."""
        return self._log.story(ask.id, ask.limit)

    @answers(questions.Timeline)
    def timeline(self, _asker: Asker, _ask: questions.Timeline, _now: float) -> Body:
        """A Chrome trace."""
        return self._log.timeline()

    def counts(self) -> dict[str, Any]:
        """How many events are kept, and how many were dropped."""
        return {"events": {"kept": self._log.kept, "dropped": self._log.dropped}}

    def check(self) -> None:
        """Assert the invariants of the log."""
        self._log.check()
