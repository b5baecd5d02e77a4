"""The demo's figures: filled in by the run and its tasks, laid out by the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skate.demo.index import ShardIndex


@dataclass(frozen=True)
class TaskReport:
    """The place of a task, and the amount of its work."""

    pid: int
    node_id: str
    file_count: int = 0


@dataclass(frozen=True)
class Answer:
    """The result of a query, and the bytes of the index that its task read in place."""

    words: tuple[str, ...]
    file_count: int
    use_count: int
    top_file: int
    report: TaskReport
    shared_bytes: int


@dataclass(frozen=True)
class Measurement:
    """All figures of the closing table."""

    task_reports: list[TaskReport]
    answers: list[Answer]
    shards: list[ShardIndex]
    driver_shared_bytes: int
    same: bool
    cpu_count: int
    start_s: float
    parallel_s: float
    sequential_s: float
