"""The benchmarks run, every row that is compared is measured, and bars are judged as they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import document, rows
from benchmarks.measuring import rate
from benchmarks.rows import ROWS, Bar, Row, Verdict

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 60
PUT = Row("put", bars=(Bar(rows.RAY, 10),))
START = Row("start", "s", bars=(Bar(rows.RAY, 10),), lower_is_better=True)


def run_module(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    search_path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": search_path},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def test_every_operation_runs_and_every_row_is_measured() -> None:
    finished = run_module("benchmarks.operations", "--scale", "0.01")
    assert finished.returncode == 0, finished.stderr
    measured = json.loads(finished.stdout.splitlines()[-1])
    assert list(measured) == [rows.SKATE, rows.COPY]
    assert measured[rows.SKATE].keys() == {row.title for row in ROWS}
    assert measured[rows.COPY][rows.PUT_LARGE] > 0
    # So short a look at an idle session may see no CPU time at all.
    assert all(v > 0 for title, v in measured[rows.SKATE].items() if title != rows.IDLE_CPU)


def test_a_comparison_with_the_pool_prints_rates_and_what_it_demands() -> None:
    finished = run_module(
        "benchmarks.compare", "--rounds", "1", "--scale", "0.01", "--peers", "pool",
        "--only", "tasks one by one",
    )  # fmt: skip
    assert finished.returncode in (0, 1), finished.stderr  # the bars are not the point at this size
    line = next(x for x in finished.stdout.splitlines() if "tasks one by one" in x)
    assert line.count("/s ±") == 2
    assert "1.2x Pool" in finished.stdout and "8x Ray: not measured" in finished.stdout


def test_a_bar_is_met_missed_or_cannot_be_judged() -> None:
    results = {"skate": {"put": [90.0, 110.0, 100.0], "start": [0.2]}}
    assert list(rows.verdicts(results, PUT)) == [Verdict("10x Ray", None)]
    with_ray = results | {"ray": {"put": [10.0, 1.0, 90.0], "start": [1.9]}}
    assert list(rows.verdicts(with_ray, PUT)) == [Verdict("10x Ray", True)]
    assert list(rows.verdicts(with_ray, START)) == [Verdict("10x Ray", False)]  # 9.5 times as fast
    assert rows.spread(with_ray, "skate", PUT) == pytest.approx(0.1)
    frugal = Row("start", "s", at_most=0.2)
    assert list(rows.verdicts(results, frugal)) == [Verdict("under 0.2 s", False)]


def test_the_page_holds_every_row_and_the_command_that_makes_it() -> None:
    results = {"skate": {row.title: [12.0] for row in ROWS}, "ray": {rows.PUT_SMALL: [2.0]}}
    page = document.as_page(results, ["ray"], rounds=1, versions=["Ray 2"], has_chart=False)
    assert document.COMMAND in page and document.CHART not in page
    assert ", beside Ray 2." in page
    assert all(f"| {row.title} | 12.0" in page for row in ROWS)
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1, "a row with a cell too many or too few"
    assert f"| {rows.PUT_SMALL} | 12.0/s ±0% | 2.00/s ±0% | 6x | 40x Ray: missed |" in page


def test_transfers_are_measured_beside_bare_ones() -> None:
    finished = run_module(
        "benchmarks.transfer", "--rounds", "1", "--bytes", "3000000", "--streams", "2"
    )
    assert finished.returncode in (0, 1), finished.stderr  # the bars are not the point at this size
    for line in ("bare, by hand", "skate, 2 connections", "fresh pages:", "over a kept connection"):
        assert line in finished.stdout


def test_what_was_only_begun_counts_until_it_is_finished() -> None:
    done: list[str] = []
    rate(lambda: done.append("begun"), 0.0, finish=lambda: done.append("finished"))
    assert done[-1] == "finished" and done.count("finished") == 2  # after the warm-up and the end


def test_the_readme_shows_the_ratios_of_the_page() -> None:
    """A page measured anew without its short table would leave old figures in README.md."""
    root = Path(__file__).resolve().parents[1]
    page = (root / "docs" / document.PAGE).read_text(encoding="utf-8")
    readme = (root / "README.md").read_text(encoding="utf-8")
    assert document.MARKS[0] + "\n" + document.short_table(page) + document.MARKS[1] in readme


def test_the_start_is_measured_in_starts_of_a_bare_interpreter() -> None:
    finished = run_module(
        "benchmarks.start_up", "--python", sys.executable, "--rounds", "1", "--idle-seconds", "0"
    )
    assert finished.returncode == 0, finished.stderr
    (line,) = (x for x in finished.stdout.splitlines() if x.startswith("in bare starts"))
    assert float(line.split()[3]) > 1
