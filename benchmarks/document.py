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
from benchmarks.rows import COPY, NAME_OF_SYSTEM, ROWS, SKATE, Results, Row, Verdict

PAGE = "benchmarks.md"
CHART = "benchmarks.svg"
MARKS = ("<!-- ratios -->", "<!-- /ratios -->")
COMMAND = "python -m benchmarks.compare --write-docs"


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


def verdict_text(verdict: Verdict) -> str:
    """One word on a bar."""
    return {True: "met", False: "missed", None: "not measured"}[verdict.met]


def write(
    folder: Path, results: Results, systems: Sequence[str], rounds: int, versions: Sequence[str]
) -> Iterator[Path]:
    """Write the page and, if matplotlib is there, the chart; the paths."""
    folder.mkdir(exist_ok=True)
    has_chart = importlib.util.find_spec("matplotlib") is not None
    page = folder / PAGE
    page.write_text(as_page(results, systems, rounds, versions, has_chart), encoding="utf-8")
    yield page
    readme = folder.parent / "README.md"
    if readme.exists():
        update_readme(readme, page.read_text(encoding="utf-8"))
        yield readme
    if has_chart:
        draw(folder / CHART, results, systems)
        yield folder / CHART


def short_table(page: str) -> str:
    """The ratios alone, out of the page's table: for the first screen of README.md."""
    lines = [line.strip("| \n").split(" | ") for line in page.splitlines() if line[:2] == "| "]
    header = lines[0]
    columns = [header.index("skate ÷ Ray"), header.index("skate ÷ Pool")]
    out = [
        "| how many times as fast, or as frugal | as Ray 2.60 | as `multiprocessing.Pool` |",
        "|---|---:|---:|",
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


def as_page(
    results: Results,
    systems: Sequence[str],
    rounds: int,
    versions: Sequence[str],
    has_chart: bool,
) -> str:
    """The whole page."""
    names = [NAME_OF_SYSTEM[system] for system in systems]
    header = ["operation", "skate", *(c for n in names for c in (n, f"skate ÷ {n}")), "bar"]
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
        f" a process of its own, with its default settings, one after the other, {rounds} times"
        " over. The figures are the medians of the rounds, ± half of the distance between the best"
        " and the worst one; a ratio is how many times as fast (or as frugal) skate is. The"
        " operations are in [benchmarks/operations.py](../benchmarks/operations.py): the same code"
        " for skate and Ray.",
        "",
        *([f"![How many times as fast skate is]({CHART})", ""] if has_chart else []),
        "| " + " | ".join(header) + " |",
        "|---" + "|---:" * (len(header) - 2) + "|---|",
    ]
    for row in ROWS:
        cells = [row.title, value_text(results, SKATE, row)]
        for system in systems:
            cells += [value_text(results, system, row), ratio_text(results, system, row)]
        bars = [f"{v.bar}: {verdict_text(v)}" for v in rows.verdicts(results, row)]
        lines.append("| " + " | ".join([*cells, "; ".join(bars)]) + " |")
    large = next(row for row in ROWS if row.title == rows.PUT_LARGE)
    lines += [
        "",
        f"A plain copy of 100 MB into a shared mapping that was used before made"
        f" {value_text(results, COPY, large)}, measured in turn with skate's puts. Puts of small"
        " values count once the system has taken them all in. The memory of an actor is that of the"
        " largest of the 40. Idle means: nothing was asked of the session since its first result;"
        " the figures include the program that called init().",
    ]
    return "\n".join(lines) + "\n"


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
