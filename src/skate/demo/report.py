"""The output of ``skate demo``: progress bars, the answers, and the table of figures.

Lays out the measurements of demo/run.py; measures nothing itself.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from skate.demo.figures import Answer, Measurement

ID_DIGITS_SHOWN = 12


def make_progress(console: Console) -> Progress:
    """Return a display of bars: they move on a terminal; elsewhere they are printed at the end."""
    name = TextColumn("{task.description}")
    return Progress(name, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console)


def bar_for(progress: Progress, name: str, file_count: int) -> Callable[[int], None]:
    """Add a bar; return the function that moves it on by a number of files."""
    bar = progress.add_task(name, total=file_count)
    return lambda done: progress.advance(bar, done)


def answer_table(answers: Iterable[Answer], files: Sequence[Path]) -> Table:
    """Lay out the results of the queries."""
    table = Table("files with", title="From the index")
    for name in ("files", "uses"):
        table.add_column(name, justify="right")
    table.add_column("most of them in")
    for answer in answers:
        top = "/".join(files[answer.top_file].parts[-2:]) if answer.file_count else "-"
        words = " and ".join(answer.words)
        table.add_row(words, f"{answer.file_count}", f"{answer.use_count:,}", Text(top))
    return table


def summary_table(measured: Measurement) -> Table:
    """Lay out the places of the work, its time, and the bytes that were not copied."""
    tasks_of_pid = Counter(report.pid for report in measured.task_reports)
    workers = ", ".join(f"{pid} ({count})" for pid, count in sorted(tasks_of_pid.items()))
    actors = ", ".join(str(shard.maker_pid) for shard in measured.shards)
    nodes = ", ".join(sorted({r.node_id[:ID_DIGITS_SHOWN] for r in measured.task_reports}))
    words = sum(len(shard.words) for shard in measured.shards)
    postings = sum(len(shard.files) for shard in measured.shards)
    same = Text("yes, every element", "green") if measured.same else Text("NO", "bold red")
    speed_up = measured.sequential_s / measured.parallel_s

    table = Table(show_header=False, title="What that took")
    table.add_row("tasks", f"{len(measured.task_reports)}, on worker pids (tasks) {workers}")
    table.add_row("actors", f"{len(measured.shards)}, on worker pids {actors}")
    table.add_row("node", f"{nodes}, {measured.cpu_count} CPUs, up in {measured.start_s:.2f} s")
    table.add_row("index", f"{words:,} words, {postings:,} (word, file) pairs")
    table.add_row("with skate", f"{measured.parallel_s:.2f} s")
    table.add_row("in one process", f"{measured.sequential_s:.2f} s")
    table.add_row("speed-up", Text(f"{speed_up:.2f} x", "bold"))
    table.add_row("same index", same)
    table.add_row("not copied", _sharing(measured))
    return table


def _sharing(measured: Measurement) -> str:
    """Tell how much of the index was read in place, and by how many other processes."""
    reads = [answer.shared_bytes for answer in measured.answers] + [measured.driver_shared_bytes]
    readers = {answer.report.pid for answer in measured.answers if answer.shared_bytes}
    if measured.driver_shared_bytes:
        readers.add(os.getpid())
    index_bytes = sum(array.nbytes for shard in measured.shards for array in shard.arrays())
    return (
        f"{sum(reads) / 1e6:.1f} MB: {sum(map(bool, reads))} reads by {len(readers)} processes"
        f" of {index_bytes / 1e6:.1f} MB in shared memory"
    )
