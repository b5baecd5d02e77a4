"""``skate microbenchmark`` measures what it is asked to and says so in a form to be compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from skate.cli.microbenchmark import Case, as_line, make_cases, measure

SOURCES = Path(__file__).resolve().parents[2] / "src"
TIMEOUT_S = 120


def microbenchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    search_path = os.pathsep.join([str(SOURCES), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "skate", "microbenchmark", *arguments],
        env={**os.environ, "PYTHONPATH": search_path},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def test_every_case_runs() -> None:
    """With no time to spend each case runs once in each round: also the ones that few look at."""
    finished = microbenchmark("--seconds", "0", "--rounds", "1", "--json")
    assert finished.returncode == 0, finished.stderr
    results = json.loads(finished.stdout)
    cases = make_cases()
    measured = {result["name"] for result in results}
    assert measured >= {case.name for case in cases if not case.needs_numpy}
    assert all(result["median"] > 0 and len(result["rounds"]) == 1 for result in results)


def test_a_filter_leaves_the_cases_with_that_text() -> None:
    finished = microbenchmark("--seconds", "0", "--filter", "TASKS SYNC")
    assert finished.returncode == 0, finished.stderr
    assert [line[:24] for line in finished.stdout.splitlines()] == ["single client tasks sync"]
    assert microbenchmark("--filter", "no such case").returncode == 1


def test_names_are_unique() -> None:
    names = [case.name for case in make_cases()]
    assert len(set(names)) == len(names)


def test_a_rate_counts_units_and_not_the_warm_up() -> None:
    calls = []

    def prepare_fails_if_repeated() -> object:
        calls.append("prepare")
        return lambda: calls.append("run")

    case = Case("name", prepare_fails_if_repeated, scale=1000.0)  # type: ignore[arg-type]
    result = measure(case, seconds=0.0, rounds=3)
    assert calls == ["prepare", "run", "run", "run", "run"]
    assert len(result.rounds) == 3 and result.median == sorted(result.rounds)[1]
    assert result.spread == pytest.approx((max(result.rounds) - min(result.rounds)) / 2)
    assert as_line(result).startswith("name ")
