"""``python -m benchmarks.before_after BEFORE.json AFTER.json``: every row of two comparisons.

The files are those of ``python -m benchmarks.compare --json FILE``. A row that became worse by
more than 5 % is marked, and the exit code is 1 then. Rounds that overlap are told of: with them a
change may be chance. The floors stand below, unjudged: if they moved, the machine did.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks import document, record, rows
from benchmarks.record import Record
from benchmarks.rows import FLOORS, ROWS, SKATE, Row

WORSE_SHARE = 0.05
TABLE_WIDTH = 160


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("before", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("after", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(before: Path, after: Path) -> None:
    """Print every row of two comparisons, and mark what became worse by more than 5 %."""
    old, new = record.read(before), record.read(after)
    console = Console()
    console.width = max(console.width, TABLE_WIDTH)
    console.print(as_table(old, new))
    sys.exit(any(is_worse(old, new, row) for row in ROWS))


def as_table(old: Record, new: Record) -> Table:
    """Each row's figures, in its unit and in floors, and how many times as good it became."""
    table = Table(title=f"{how(old)} before, {how(new)} after", row_styles=["", "dim"])
    table.add_column("operation", no_wrap=True)
    for title in ("before", "after", "floors before", "after", "as good"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in ROWS:
        factor = times_as_good(old, new, row)
        table.add_row(
            row.title,
            *(document.value_text(run.results, SKATE, row) for run in (old, new)),
            *(document.floors_text(run.results, row) for run in (old, new)),
            "-" if factor is None else f"{factor:.2f}x",
            mark(old, new, row),
        )
    table.add_section()
    for floor in FLOORS:
        texts = [document.floor_text(run.results, floor) for run in (old, new)]
        table.add_row(document.name_of_floor(floor), *texts)
    return table


def how(run: Record) -> str:
    """The rounds of a comparison, and what else the machine had to do."""
    beside = f" beside {document.busy_text(run.busy)}" if run.busy else ""
    return f"{run.rounds} round{'s' * (run.rounds > 1)}{beside}"


def times_as_good(old: Record, new: Record, row: Row) -> float | None:
    """How many times as fast, or as frugal, skate became; None without both medians."""
    before, after = (rows.median(run.results, SKATE, row) for run in (old, new))
    if not before or not after:
        return None
    return before / after if row.lower_is_better else after / before


def is_worse(old: Record, new: Record, row: Row) -> bool:
    """Whether a row lost more than is let pass."""
    before, after = (rows.median(run.results, SKATE, row) for run in (old, new))
    if not before or after is None:
        return False
    change = (after - before) / before
    return (change if row.lower_is_better else -change) > WORSE_SHARE


def mark(old: Record, new: Record, row: Row) -> str:
    """What to say of a row that became worse."""
    if not is_worse(old, new, row):
        return ""
    before, after = (run.results[SKATE][row.title] for run in (old, new))
    overlap = min(before) <= max(after) and min(after) <= max(before)
    return "[red]worse[/red]" + (", rounds overlap" if overlap else "")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.before_after")
