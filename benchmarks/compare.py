"""``python -m benchmarks.compare``: skate beside Ray, multiprocessing.Pool and Dask, right here.

Every system runs in a child process of its own, one at a time; a round runs each once, in an order
that moves on by one each round, so that a machine that slows down slows down all. What counts is
the median of the rounds. The exit code is 1 if a bar is missed, 0 if all that could be judged are
met. Peers that are not installed are left out: ``pip install 'skate[bench]'`` brings them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks import document, rows
from benchmarks.rows import (
    COPY,
    DASK,
    NAME_OF_SYSTEM,
    POOL,
    RAY,
    ROWS,
    SKATE,
    Results,
    Row,
    Verdict,
)

ROOT = Path(__file__).resolve().parent.parent
CHILD_TIMEOUT_S = 240.0
PEER_IDLE_S = 4.0  # skate's own idling is watched for longer: a bar hangs on it
TABLE_WIDTH = 220  # room for every column; a table takes no more than it needs
BUSY_PERCENT = 15.0  # others' use of all CPUs, past which the figures say little


class Child(NamedTuple):
    """How to run a system: the module that measures it, its arguments, the package it needs."""

    module: str
    arguments: tuple[str, ...]
    package: str = ""


CHILDREN = {
    SKATE: Child("benchmarks.operations", ("--api", "skate")),
    POOL: Child("benchmarks.pool_operations", ()),
    RAY: Child("benchmarks.operations", ("--api", "ray"), "ray"),
    DASK: Child("benchmarks.dask_operations", (), "distributed"),
}
PEERS = tuple(system for system in CHILDREN if system != SKATE)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--only", default="", metavar="TEXT", help="Only rows whose title contains TEXT.")
@click.option("--peers", default=",".join(PEERS), show_default=True, help="What to run beside it.")
@click.option(
    "--python-peers",
    default=sys.executable,
    metavar="PATH",
    help="The interpreter that has the peers, if it is not this one.",
)
@click.option("--scale", default=1.0, help="Sizes and times, times this: for a quick look.")
@click.option(
    "--write-docs", is_flag=True, help="Write docs/benchmarks.md and docs/benchmarks.svg."
)
def main(
    rounds: int, only: str, peers: str, python_peers: str, scale: float, write_docs: bool
) -> None:
    """Measure skate beside its peers; print rates, ratios, and whether the bars are met."""
    if not any(only.lower() in row.title.lower() for row in ROWS):
        raise click.BadParameter(f"no row has {only!r} in its title", param_hint="--only")
    if write_docs and (only or scale != 1.0):
        raise click.UsageError("--write-docs is for whole runs: without --only and --scale")
    console = Console()
    # Where a table of this width does not fit, broken lines are easier to read than cut cells.
    console.width = max(console.width, TABLE_WIDTH)
    pythons = {SKATE: sys.executable}
    versions: list[str] = []
    for peer in filter(None, peers.split(",")):
        if peer not in PEERS:
            raise click.BadParameter(
                f"{peer!r} is none of {', '.join(PEERS)}", param_hint="--peers"
            )
        version = version_of(python_peers, CHILDREN[peer].package)
        if version is None:
            console.print(f"{NAME_OF_SYSTEM[peer]} is not installed, so it is left out.")
            continue
        pythons[peer] = python_peers
        if version:
            versions.append(f"{NAME_OF_SYSTEM[peer]} {version}")
    busy_percent = psutil.cpu_percent(1.0)
    if busy_percent > BUSY_PERCENT:
        console.print(
            f"[yellow]Other programs use {busy_percent:.0f} % of this machine's CPUs:"
            " the figures will say little.[/yellow]"
        )
    results = measure_rounds(pythons, rounds, ("--only", only, "--scale", str(scale)), console)
    shown = [row for row in ROWS if row.title in results[SKATE]]
    systems = [system for system in (RAY, POOL, DASK) if system in results]
    console.print(as_table(results, shown, systems))
    if write_docs:
        for path in document.write(ROOT / "docs", results, systems, rounds, versions):
            console.print(f"written: {path.relative_to(ROOT)}")
    missed = [
        f"{row.title}: {verdict.bar}"
        for row in shown
        for verdict in rows.verdicts(results, row)
        if verdict.met is False
    ]
    for line in missed:
        console.print(f"[red]missed[/red] {line}")
    sys.exit(bool(missed))


def version_of(python: str, package: str) -> str | None:
    """The version of a package under an interpreter; None if it is not there. "" needs none."""
    if not package:
        return ""
    ask = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
    answer = subprocess.run([python, "-c", ask, package], capture_output=True, text=True)
    return answer.stdout.strip() if answer.returncode == 0 else None


def measure_rounds(
    pythons: dict[str, str], rounds: int, arguments: Sequence[str], console: Console
) -> Results:
    """Run every system once a round; the values of all rounds."""
    results: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    systems = list(pythons)
    for number in range(rounds):
        first = number % len(systems)
        for system in systems[first:] + systems[:first]:
            what = f"round {number + 1} of {rounds}: {NAME_OF_SYSTEM[system]}"
            with console.status(what):
                measured = run_child(system, pythons[system], arguments)
            for measured_system, values in measured.items():
                if measured_system == COPY and system != SKATE:
                    continue  # skate's put is compared with the copies made in between its own
                for title, value in values.items():
                    results[measured_system][title].append(value)
    return results


def run_child(system: str, python: str, arguments: Sequence[str]) -> dict[str, dict[str, float]]:
    """Run one system once. ClickException, with its last words, if that fails."""
    child = CHILDREN[system]
    idle = () if system == SKATE else ("--idle-seconds", str(PEER_IDLE_S))
    try:
        finished = subprocess.run(
            [python, "-m", child.module, *child.arguments, *idle, *arguments],
            cwd=ROOT,
            env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},  # measuring is no use to report
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CHILD_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise click.ClickException(
            f"{NAME_OF_SYSTEM[system]} took more than {CHILD_TIMEOUT_S:.0f} s"
        ) from None
    if finished.returncode != 0:
        raise click.ClickException(
            f"{NAME_OF_SYSTEM[system]} ended with exit code {finished.returncode}:\n"
            + finished.stderr[-4_000:]
        )
    # The last line of its output: workers may have printed before it.
    measured: dict[str, dict[str, float]] = json.loads(finished.stdout.splitlines()[-1])
    return measured


def as_table(results: Results, shown: Sequence[Row], systems: Sequence[str]) -> Table:
    """Rates with the spread of the rounds, skate's ratio to each peer, and the bars."""
    table = Table(
        title="medians of all rounds ± half the range of the rounds", row_styles=["", "dim"]
    )
    table.add_column("operation", no_wrap=True)
    table.add_column("skate", justify="right", no_wrap=True)
    for system in systems:
        table.add_column(NAME_OF_SYSTEM[system], justify="right", no_wrap=True)
        table.add_column(f"÷ {NAME_OF_SYSTEM[system]}", justify="right", no_wrap=True)
    table.add_column("bar", no_wrap=True)
    for row in shown:
        cells = [row.title, document.value_text(results, SKATE, row)]
        for system in systems:
            cells.append(document.value_text(results, system, row))
            cells.append(document.ratio_text(results, system, row))
        cells.append("\n".join(map(_coloured, rows.verdicts(results, row))))
        table.add_row(*cells)
    return table


def _coloured(verdict: Verdict) -> str:
    colour = {True: "green", False: "red", None: "yellow"}[verdict.met]
    return f"[{colour}]{verdict.bar}: {document.verdict_text(verdict)}[/{colour}]"


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.compare")
