"""The benchmarks run, every row that is compared is measured, and bars are judged as they say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks import before_after, document, record, rows
from benchmarks.busy import busy
from benchmarks.measuring import Sizes, idle_load, rate
from benchmarks.record import Record
from benchmarks.rows import FLOORS, ROWS, Bar, Row, Verdict

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


def test_a_comparison_with_the_pool_prints_rates_and_what_it_demands(tmp_path: Path) -> None:
    finished = run_module(
        "benchmarks.compare", "--rounds", "1", "--scale", "0.01", "--peers", "pool",
        "--only", "tasks one by one", "--busy", "1", "--json", str(tmp_path / "run.json"),
    )  # fmt: skip
    assert finished.returncode in (0, 1), finished.stderr  # the bars are not the point at this size
    line = next(x for x in finished.stdout.splitlines() if "tasks one by one" in x)
    assert line.count("/s ±") == 2 and " round trips " in line
    assert "2x Pool" in finished.stdout and "8x Ray: not measured" in finished.stdout
    assert "5 round trips or less: " in finished.stdout and "beside 1 busy" in finished.stdout
    run = record.read(tmp_path / "run.json")
    assert run.rounds == 1 and run.busy == 1
    assert run.results[rows.SKATE][rows.TASK_SYNC][0] > 0
    assert run.results[rows.FLOOR].keys() == {rows.ROUND_TRIP.title, rows.BARE_START.title}


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
    results[rows.FLOOR] = {rows.ROUND_TRIP.title: [1 / 24]}
    page = document.as_page(Record(results, ("ray",), 1, ("Ray 2",)), has_chart=False)
    assert document.COMMAND in page and document.CHART not in page
    assert ", beside Ray 2." in page
    assert all(f"| {row.title} | 12.0" in page for row in ROWS)
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1, "a row with a cell too many or too few"
    assert (
        f"| {rows.PUT_SMALL} | 12.0/s ±0% | 2 round trips | 2.00/s ±0% | 6x | 40x Ray: missed |"
        in page
    )
    assert page.endswith(document.HOW)


def test_the_short_table_has_the_floors_beside_the_ratios() -> None:
    results = {
        rows.SKATE: {rows.TASK_SYNC: [100.0]},
        rows.RAY: {rows.TASK_SYNC: [10.0]},
        rows.POOL: {rows.TASK_SYNC: [50.0]},
        rows.FLOOR: {rows.ROUND_TRIP.title: [0.002]},
    }
    page = document.as_page(Record(results, (rows.RAY, rows.POOL), 1), has_chart=False)
    assert f"| {rows.TASK_SYNC} | 10x | 2x | 5 round trips |" in document.short_table(page)


def test_costs_are_counted_in_floors_and_in_plain_tasks() -> None:
    results = {
        rows.SKATE: {
            rows.TASK_SYNC: [1_000.0],
            rows.NESTED: [400.0],
            rows.INIT: [0.3],
            rows.PUT_LARGE: [8.0],
            rows.READ_LARGE: [50.0],
        },
        rows.FLOOR: {rows.ROUND_TRIP.title: [0.0002], rows.BARE_START.title: [0.02]},
        rows.COPY: {rows.PUT_LARGE: [10.0]},
    }

    def floors(title: str) -> float | None:
        return rows.floors(results, rows.ROW_OF_TITLE[title])

    assert floors(rows.TASK_SYNC) == pytest.approx(5)
    assert floors(rows.NESTED) == pytest.approx(12.5)
    assert floors(rows.INIT) == pytest.approx(15)
    assert floors(rows.PUT_LARGE) == pytest.approx(1.25)  # 8 GB/s where a copy makes 10
    assert floors(rows.READ_LARGE) == pytest.approx(2)  # 20 ms for what is copied in 10
    assert floors(rows.GET_LARGE) is None and floors(rows.IDLE_CPU) is None
    bars = {
        title: list(rows.verdicts(results, rows.ROW_OF_TITLE[title]))
        for title in (rows.TASK_SYNC, rows.NESTED, rows.INIT)
    }
    assert Verdict("5 round trips or less", True) in bars[rows.TASK_SYNC]
    assert bars[rows.NESTED] == [Verdict("2 plain tasks or less", False, "2.5")]
    assert Verdict("10 starts or less", False) in bars[rows.INIT]


def test_every_floor_is_measured() -> None:
    finished = run_module("benchmarks.floors", "--scale", "0.05")
    assert finished.returncode == 0, finished.stderr
    measured = json.loads(finished.stdout.splitlines()[-1])[rows.FLOOR]
    assert measured.keys() == {floor.title for floor in FLOORS if floor.system == rows.FLOOR}
    # Between any two processes: less than a ms; an interpreter: more than that.
    assert 0 < measured[rows.ROUND_TRIP.title] < 0.001 < measured[rows.BARE_START.title]


def test_what_goes_one_by_one_is_measured_for_long_enough() -> None:
    assert Sizes().seconds >= 0.5
    calls: list[float] = []
    pause = 0.01
    rate(lambda: (calls.append(time.perf_counter()), time.sleep(pause)), 0.2)
    assert calls[-1] - calls[0] >= 0.3 - 2 * pause  # the warm-up, then what was asked for


def has_ended(pid: int) -> bool:
    give_up_at = time.monotonic() + 20
    while psutil.pid_exists(pid) and time.monotonic() < give_up_at:
        time.sleep(0.01)
    return not psutil.pid_exists(pid)


def test_busy_programs_compute_and_end_with_the_run() -> None:
    with pytest.raises(KeyboardInterrupt), busy(2) as pids:
        for pid in pids:
            give_up_at = time.monotonic() + 20
            while psutil.Process(pid).cpu_times().user < 0.1:
                assert time.monotonic() < give_up_at, "it does not compute"
                time.sleep(0.01)
            assert psutil.Process(pid).nice() == psutil.Process().nice()
        raise KeyboardInterrupt
    assert not any(map(psutil.pid_exists, pids))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_busy_programs_end_if_the_run_is_killed(number: signal.Signals) -> None:
    program = (
        "import os, sys; from benchmarks.busy import busy\n"
        "with busy(1) as pids:\n"
        f"    print(*pids, flush=True); os.kill(os.getpid(), {int(number)})"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, timeout=TIMEOUT_S
    )
    assert finished.returncode == -number
    assert has_ended(int(finished.stdout))


def test_the_load_of_an_idle_session_counts_its_processes_alone() -> None:
    sizes = Sizes(idle_s=0.5, settle_s=0.0)
    quiet_percent, _ = idle_load(sizes)
    with busy(1):
        busy_percent, _ = idle_load(sizes)
    assert quiet_percent < 5 < busy_percent


def test_rows_that_became_worse_are_marked(tmp_path: Path) -> None:
    old = {rows.TASK_SYNC: [99.0, 100.0, 101.0], rows.CHAIN: [90.0, 100.0, 110.0], rows.INIT: [1.0]}
    new = {rows.TASK_SYNC: [95.1], rows.CHAIN: [94.0], rows.INIT: [1.06]}
    for name, values in (("old", old), ("new", new)):
        Record({rows.SKATE: values}, (), 3).write(tmp_path / f"{name}.json")
    before, after = (record.read(tmp_path / f"{name}.json") for name in ("old", "new"))

    def mark(title: str) -> str:
        return before_after.mark(before, after, rows.ROW_OF_TITLE[title])

    assert mark(rows.TASK_SYNC) == ""  # 4.9 % less
    assert mark(rows.CHAIN) == "[red]worse[/red], rounds overlap"
    assert mark(rows.INIT) == "[red]worse[/red]"  # longer is worse
    assert mark(rows.WAIT) == ""  # not measured
    paths = str(tmp_path / "old.json"), str(tmp_path / "new.json")
    finished = run_module("benchmarks.before_after", *paths)
    assert finished.returncode == 1, finished.stderr
    assert finished.stdout.count("worse") == 2
    assert run_module("benchmarks.before_after", paths[0], paths[0]).returncode == 0


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
