"""Where a task's microseconds go: CPU time of each process per task, one by one and in bulk.

``python -m benchmarks.task_microseconds``. CPU time, not elapsed: a shared machine's noise stays
out of it. One by one, waiting processes look for their answer for a moment before they sleep
(config.SPIN_S), which is counted here as CPU time of driver and worker.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

import skate

TASKS_IN_BULK = 30_000
TASKS_ONE_BY_ONE = 5_000


def _cpu_seconds(processes: dict[str, list[psutil.Process]]) -> dict[str, float]:
    return {
        role: sum(sum(process.cpu_times()[:2]) for process in group)
        for role, group in processes.items()
    }


def _processes(session_dir: str) -> dict[str, list[psutil.Process]]:
    description = json.loads((Path(session_dir) / "session.json").read_text())
    node = psutil.Process(description["node_pid"])
    zygote = node.children()
    return {
        "driver": [psutil.Process()],
        "node daemon": [node],
        "GCS": [psutil.Process(description["gcs_pid"])],
        "workers": [worker for parent in zygote for worker in parent.children()],
    }


def main() -> None:
    """Print the table."""
    context = skate.init(num_cpus=2)

    @skate.remote
    def nothing(x: int) -> int:
        return x

    skate.get([nothing.remote(i) for i in range(2_000)])
    processes = _processes(context.address_info["session_dir"])
    table = Table(title="CPU microseconds a task")
    for column in ("", *processes, "elapsed", "tasks/s"):
        table.add_column(column, justify="right")
    for name, count in (("one by one", TASKS_ONE_BY_ONE), ("1,000 at a time", TASKS_IN_BULK)):
        before, start = _cpu_seconds(processes), time.perf_counter()
        if name == "one by one":
            for i in range(count):
                skate.get(nothing.remote(i))
        else:
            for _ in range(count // 1_000):
                skate.get([nothing.remote(i) for i in range(1_000)])
        elapsed = time.perf_counter() - start
        after = _cpu_seconds(processes)
        table.add_row(
            name,
            *(f"{(after[role] - before[role]) / count * 1e6:.1f}" for role in processes),
            f"{elapsed / count * 1e6:.1f}",
            f"{count / elapsed:,.0f}",
        )
    Console().print(table)
    skate.shutdown()


if __name__ == "__main__":
    main()
