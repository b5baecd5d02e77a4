"""What the demo measures: filled in by the run and its tasks, laid out by the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skate.demo.index import ShardIndex


@dataclass(frozen=True)
class TaskReport:
    """Where a task ran, and how much there was to do."""

    pid: int
    node_id: str
    file_count: int = 0


@dataclass(frozen=True)
class Answer:
    """What a query found, and how many bytes of the index its task read where they lay."""

    words: tuple[str, ...]
    file_count: int
    use_count: int
    top_file: int
    report: TaskReport
    shared_bytes: int


@dataclass(frozen=True)
class Measurement:
    """All that the closing table is made of."""

    task_reports: list[TaskReport]
    answers: list[Answer]
    shards: list[ShardIndex]
    driver_shared_bytes: int
    same: bool
    cpu_count: int
    start_s: float
    parallel_s: float
    sequential_s: float
