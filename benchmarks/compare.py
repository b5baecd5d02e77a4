"""``python -m benchmarks.compare``: skate beside Ray, multiprocessing.Pool and Dask, right here.

Every system, and the bare floors (floors.py), runs in a child process of its own, one at a time; a
round runs each once, in an order that moves on by one each round, so that a machine that slows down
slows down all. What counts is the median of the rounds. The exit code is 1 if a bar is missed, 0 if
all that could be judged are met. Peers that are not installed are left out: ``pip install
'skate[bench]'`` brings them.
"""

from __future__ import annotations

import compileall
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

import skate
from benchmarks import document, rows
from benchmarks.busy import busy
from benchmarks.record import Record
from benchmarks.rows import (
    COPY,
    DASK,
    FLOOR,
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
    FLOOR: Child("benchmarks.floors", ()),
    SKATE: Child("benchmarks.operations", ("--api", "skate")),
    POOL: Child("benchmarks.pool_operations", ()),
    RAY: Child("benchmarks.operations", ("--api", "ray"), "ray"),
    DASK: Child("benchmarks.dask_operations", (), "distributed"),
}
PEERS = (POOL, RAY, DASK)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
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
    "--busy",
    "busy_count",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Keep N other processes computing all the while.",
)
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the values of all rounds, for benchmarks.before_after.",
)
@click.option(
    "--write-docs", is_flag=True, help="Write docs/benchmarks.md and docs/benchmarks.svg."
)
def main(
    rounds: int,
    only: str,
    peers: str,
    python_peers: str,
    scale: float,
    busy_count: int,
    json_path: Path | None,
    write_docs: bool,
) -> None:
    """Measure skate beside its peers; print rates, ratios, and whether the bars are met."""
    if not any(only.lower() in row.title.lower() for row in ROWS):
        raise click.BadParameter(f"no row has {only!r} in its title", param_hint="--only")
    if write_docs and (only or scale != 1.0 or busy_count):
        raise click.UsageError("--write-docs goes without --only, --scale and --busy")
    console = Console()
    # Where a table of this width does not fit, broken lines are easier to read than cut cells.
    console.width = max(console.width, TABLE_WIDTH)
    pythons, versions = installed(peers, python_peers, console)
    prepare(console)
    arguments = ("--only", only, "--scale", str(scale))
    with busy(busy_count):
        results = measure_rounds(pythons, rounds, arguments, busy_count, console)
    systems = tuple(system for system in (RAY, POOL, DASK) if system in results)
    run = Record(results, systems, rounds, versions, busy_count)
    if json_path is not None:
        run.write(json_path)
    console.print(as_table(run))
    console.print(document.floors_sentence(results))
    if write_docs:
        for path in document.write(ROOT / "docs", run):
            console.print(f"written: {path.relative_to(ROOT)}")
    missed = [
        f"{row.title}: {verdict.bar}"
        for row in shown(run)
        for verdict in rows.verdicts(results, row)
        if verdict.met is False
    ]
    for line in missed:
        console.print(f"[red]missed[/red] {line}")
    sys.exit(bool(missed))


def installed(
    peers: str, python_peers: str, console: Console
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The interpreter of each system that can be measured, and the versions of the peers."""
    pythons = {FLOOR: sys.executable, SKATE: sys.executable}
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
    return pythons, tuple(versions)


def prepare(console: Console) -> None:
    """Compile skate's modules, as an installation does; warn if the machine is not quiet."""
    if not compileall.compile_dir(Path(skate.__file__).parent, quiet=2):
        console.print("[yellow]skate's modules could not be compiled: it starts slowly.[/yellow]")
    busy_percent = psutil.cpu_percent(1.0)
    if busy_percent > BUSY_PERCENT:
        console.print(
            f"[yellow]Other programs use {busy_percent:.0f} % of this machine's CPUs:"
            " the figures will say little.[/yellow]"
        )


def child_environment() -> dict[str, str]:
    """What children inherit: what a user has, whose Python keeps what it has compiled."""
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}  # measuring is no use to report
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment


def version_of(python: str, package: str) -> str | None:
    """The version of a package under an interpreter; None if it is not there. "" needs none."""
    if not package:
        return ""
    ask = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
    answer = subprocess.run([python, "-c", ask, package], capture_output=True, text=True)
    return answer.stdout.strip() if answer.returncode == 0 else None


def measure_rounds(
    pythons: dict[str, str],
    rounds: int,
    arguments: Sequence[str],
    busy_count: int,
    console: Console,
) -> Results:
    """Run every system once a round; the values of all rounds."""
    results: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    systems = list(pythons)
    timeout_s = CHILD_TIMEOUT_S * (1 + busy_count)  # they take their share of the CPUs
    for number in range(rounds):
        first = number % len(systems)
        for system in systems[first:] + systems[:first]:
            what = f"round {number + 1} of {rounds}: {NAME_OF_SYSTEM[system]}"
            with console.status(what):
                measured = run_child(system, pythons[system], arguments, timeout_s)
            for measured_system, values in measured.items():
                if measured_system == COPY and system != SKATE:
                    continue  # skate's put is compared with the copies made in between its own
                for title, value in values.items():
                    results[measured_system][title].append(value)
    return results


def run_child(
    system: str, python: str, arguments: Sequence[str], timeout_s: float
) -> dict[str, dict[str, float]]:
    """Run one system once. ClickException, with its last words, if that fails."""
    child = CHILDREN[system]
    idle = () if system == SKATE else ("--idle-seconds", str(PEER_IDLE_S))
    try:
        finished = subprocess.run(
            [python, "-m", child.module, *child.arguments, *idle, *arguments],
            cwd=ROOT,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        raise click.ClickException(
            f"{NAME_OF_SYSTEM[system]} took more than {timeout_s:.0f} s"
        ) from None
    if finished.returncode != 0:
        raise click.ClickException(
            f"{NAME_OF_SYSTEM[system]} ended with exit code {finished.returncode}:\n"
            + finished.stderr[-4_000:]
        )
    # The last line of its output: workers may have printed before it.
    measured: dict[str, dict[str, float]] = json.loads(finished.stdout.splitlines()[-1])
    return measured


def shown(run: Record) -> list[Row]:
    """The rows that were measured."""
    return [row for row in ROWS if row.title in run.results[SKATE]]


def as_table(run: Record) -> Table:
    """Rates with the spread of the rounds, skate's ratio to floor and peers, and the bars."""
    beside = f", beside {document.busy_text(run.busy)}" if run.busy else ""
    table = Table(
        title=f"medians of all rounds ± half the range of the rounds{beside}",
        row_styles=["", "dim"],
    )
    table.add_column("operation", no_wrap=True)
    table.add_column("skate", justify="right", no_wrap=True)
    table.add_column(document.FLOORS_COLUMN, justify="right", no_wrap=True)
    for system in run.systems:
        table.add_column(NAME_OF_SYSTEM[system], justify="right", no_wrap=True)
        table.add_column(f"÷ {NAME_OF_SYSTEM[system]}", justify="right", no_wrap=True)
    table.add_column("bar", no_wrap=True)
    for row in shown(run):
        cells = [row.title, document.value_text(run.results, SKATE, row)]
        cells.append(document.floors_text(run.results, row))
        for system in run.systems:
            cells.append(document.value_text(run.results, system, row))
            cells.append(document.ratio_text(run.results, system, row))
        cells.append("\n".join(map(_coloured, rows.verdicts(run.results, row))))
        table.add_row(*cells)
    return table


def _coloured(verdict: Verdict) -> str:
    colour = {True: "green", False: "red", None: "yellow"}[verdict.met]
    return f"[{colour}]{verdict.bar}: {document.verdict_text(verdict)}[/{colour}]"


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.compare")
