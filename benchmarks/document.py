"""docs/benchmarks.md and docs/benchmarks.svg, and the words that they share with the terminal.

The page describes the machine by its number of cores and its Python alone, and names the command
that makes it, so that every figure in it can be had again. The chart needs matplotlib; without it,
only the page is written.
"""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import rows
from benchmarks.record import Record
from benchmarks.rows import FLOORS, NAME_OF_SYSTEM, ROWS, SKATE, Floor, Results, Row, Verdict

PAGE = "benchmarks.md"
CHART = "benchmarks.svg"
MARKS = ("<!-- ratios -->", "<!-- /ratios -->")
COMMAND = "python -m benchmarks.compare --write-docs"
FLOORS_COLUMN = "as bare floor"
SHORT_COLUMNS = {
    "skate ÷ Ray": "as Ray 2.60",
    "skate ÷ Pool": "as `multiprocessing.Pool`",
    FLOORS_COLUMN: "cost in [bare floors](docs/benchmarks.md#the-bare-floors)",
}
NOTES = (
    "Puts of small values count once the system has taken them all in. The memory of an actor is"
    " that of the largest of the 40. Idle means: nothing was asked of the session since its first"
    " result; the figures include the program that called init()."
)
HOW = """\
## The bare floors

Microseconds of one machine say little about another. What they have in common is the floor: the
least that an operation can cost, done by the bare machine. The benchmark measures the floors
itself, in every round, in turn with the systems. The column "as bare floor" is how many of them
one operation of skate costs.

- **A round trip**, for calls, tasks, and small values: 100 bytes of pickle go to another process
  over a Unix socket pair, and back, unpickled and pickled at each end. Both ends wait as skate's
  client does: they look for 100 µs, with a yield of the core after each look, before they sleep.
  [benchmarks/floors.py](../benchmarks/floors.py) has it.
- **A start**, for `init()` and for new actors: `python -c pass` of skate's interpreter, from its
  start to its end.
- **A copy**, for large values: 100 MB into a shared mapping that was used before, in turn with
  skate's puts. A put has to copy; a get gives a view, so it may cost less than its floor.

What goes one by one is measured for 0.6 s after a warm-up of 0.3 s, so it is the lasting pace.
skate's modules are compiled before the first round, as pip does when it installs them, and
`PYTHONDONTWRITEBYTECODE` is not passed on.

## More runs

```sh
python -m benchmarks.compare --only "one by one"          # some rows
python -m benchmarks.compare --busy 1                     # while another program computes
python -m benchmarks.compare --json before.json           # the figures of all rounds
python -m benchmarks.before_after before.json after.json  # two runs, row by row
python -m benchmarks.start_up                             # init() by steps; who is not quite idle
```
"""


def value_text(results: Results, system: str, row: Row) -> str:
    """A system's median, with its unit, and spread; a dash if it was not measured."""
    value = rows.median(results, system, row)
    if value is None:
        return "-"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    space = "" if row.unit.startswith("/") else " "
    return f"{value:,.{digits}f}{space}{row.unit} ±{rows.spread(results, system, row):.0%}"


def ratio_text(results: Results, system: str, row: Row) -> str:
    """Skate's ratio to a system."""
    factor = rows.ratio(results, system, row)
    if factor is None:
        return "-"
    return f"{factor:.0f}x" if factor >= 10 else f"{factor:.2g}x"


def floors_text(results: Results, row: Row) -> str:
    """How many of its bare floor a row's operation costs."""
    count = rows.floors(results, row)
    if count is None or row.floor is None:
        return "-"
    return f"{count:.0f} {row.floor.what}" if count >= 10 else f"{count:.2g} {row.floor.what}"


def floor_text(results: Results, floor: Floor) -> str:
    """How long a floor took; a dash if it was not measured."""
    seconds = rows.floor_s(results, floor)
    if seconds is None:
        return "-"
    return f"{1e6 * seconds:.1f} µs" if seconds < 1e-3 else f"{1e3 * seconds:.1f} ms"


def name_of_floor(floor: Floor) -> str:
    """What a floor is, in words."""
    return "copy of 100 MB into warm memory" if floor is rows.PLAIN_COPY else floor.title


def busy_text(count: int) -> str:
    """The programs that computed beside a run."""
    return f"{count} busy program{'s' * (count > 1)}"


def verdict_text(verdict: Verdict) -> str:
    """A word on a bar, and the figure if no column has it."""
    word = {True: "met", False: "missed", None: "not measured"}[verdict.met]
    return f"{word} ({verdict.measured})" if verdict.measured else word


def write(folder: Path, run: Record) -> Iterator[Path]:
    """Write the page and, if matplotlib is there, the chart; the paths."""
    folder.mkdir(exist_ok=True)
    has_chart = importlib.util.find_spec("matplotlib") is not None
    page = folder / PAGE
    page.write_text(as_page(run, has_chart), encoding="utf-8")
    yield page
    readme = folder.parent / "README.md"
    if readme.exists():
        update_readme(readme, page.read_text(encoding="utf-8"))
        yield readme
    if has_chart:
        draw(folder / CHART, run.results, run.systems)
        yield folder / CHART


def short_table(page: str) -> str:
    """The ratios alone, out of the page's table: for the first screen of README.md."""
    lines = [line.strip("| \n").split(" | ") for line in page.splitlines() if line[:2] == "| "]
    header = lines[0]
    # A page of before the floors were measured has no such column.
    shown = {column: name for column, name in SHORT_COLUMNS.items() if column in header}
    columns = [header.index(column) for column in shown]
    out = [
        f"| how many times as fast, or as frugal | {' | '.join(shown.values())} |",
        "|---" + "|---:" * len(shown) + "|",
    ]
    for cells in lines[1:]:
        out.append("| " + " | ".join([cells[0], *(cells[column] for column in columns)]) + " |")
    return "\n".join(out) + "\n"


def update_readme(readme: Path, page: str) -> None:
    """Put the short table between its marks."""
    before, _, rest = readme.read_text(encoding="utf-8").partition(MARKS[0] + "\n")
    _, _, after = rest.partition(MARKS[1] + "\n")
    text = before + MARKS[0] + "\n" + short_table(page) + MARKS[1] + "\n" + after
    readme.write_text(text, encoding="utf-8")


def as_page(run: Record, has_chart: bool) -> str:
    """The whole page."""
    versions = run.versions
    lines = [
        "# Benchmarks",
        "",
        "skate beside what a user would pick instead on one machine. This page is made by",
        "",
        "```sh",
        "pip install -e '.[bench]'",
        COMMAND,
        "```",
        "",
        f"on {os.cpu_count()} cores, under Python {platform.python_version()}"
        f"{', beside ' if versions else ''}{' and '.join(versions)}. Every system ran in"
        f" a process of its own, with its default settings, one after the other, {run.rounds} times"
        " over. The figures are the medians of the rounds, ± half of the distance between the best"
        " and the worst one; a ratio is how many times as fast (or as frugal) skate is. The"
        " operations are in [benchmarks/operations.py](../benchmarks/operations.py): the same code"
        " for skate and Ray.",
        "",
        *([f"![How many times as fast skate is]({CHART})", ""] if has_chart else []),
        *_table(run),
        "",
        floors_sentence(run.results),
        "",
        NOTES,
        "",
        HOW,
    ]
    return "\n".join(lines)


def _table(run: Record) -> Iterator[str]:
    names = [NAME_OF_SYSTEM[system] for system in run.systems]
    ratios = (column for name in names for column in (name, f"skate ÷ {name}"))
    header = ["operation", "skate", FLOORS_COLUMN, *ratios, "bar"]
    yield "| " + " | ".join(header) + " |"
    yield "|---" + "|---:" * (len(header) - 2) + "|---|"
    for row in ROWS:
        cells = [row.title, value_text(run.results, SKATE, row), floors_text(run.results, row)]
        for system in run.systems:
            cells += [value_text(run.results, system, row), ratio_text(run.results, system, row)]
        bars = [f"{v.bar}: {verdict_text(v)}" for v in rows.verdicts(run.results, row)]
        yield "| " + " | ".join([*cells, "; ".join(bars)]) + " |"


def floors_sentence(results: Results) -> str:
    """What the floors took."""
    took = [f"{name_of_floor(floor)} {floor_text(results, floor)}" for floor in FLOORS]
    return f"The bare floors: {'; '.join(took)}."


def draw(path: Path, results: Results, systems: Sequence[str]) -> None:
    """The ratios on a log scale, a mark where a bar stands."""
    import matplotlib  # type: ignore[import-not-found,unused-ignore]

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "skate"  # the same figures give the same file
    from matplotlib import pyplot  # type: ignore[import-not-found,unused-ignore]

    shown = [row for row in ROWS if any(rows.ratio(results, s, row) for s in systems)]
    height = 0.8 / len(systems)
    figure, axes = pyplot.subplots(figsize=(9, 0.45 * len(shown) + 1.5))
    for index, system in enumerate(systems):
        name = NAME_OF_SYSTEM[system]
        places = [place + height * (index - (len(systems) - 1) / 2) for place in range(len(shown))]
        factors = [rows.ratio(results, system, row) for row in shown]
        pairs = [(p, f) for p, f in zip(places, factors, strict=True) if f is not None]
        axes.barh([p for p, _ in pairs], [f - 1 for _, f in pairs], height, 1, label=name)
        _mark_bars(
            axes, system, dict(zip([row.title for row in shown], places, strict=True)), height
        )
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(shown)), [row.title for row in shown])
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.set_xlabel("skate is this many times as fast (left of 1: slower); black marks: the bars")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _mark_bars(axes: Any, system: str, places: dict[str, float], height: float) -> None:
    for row in ROWS:
        for bar in row.bars:
            if bar.against == system and row.title in places:
                place = places[row.title]
                axes.vlines(bar.times, place - height / 2, place + height / 2, color="black", lw=2)
