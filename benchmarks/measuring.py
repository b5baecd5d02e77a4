"""The stopwatch and the scales: the same for every system that is measured.

Called by the three operations modules, in the child process of the system under test. Only the
standard library and psutil: it runs under whichever interpreter the system is installed for.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import psutil

BLOCK_S = 0.005  # the clock is read this often: no cost even where an operation takes 1 µs
WARM_UP_SHARE = 0.5  # of the measured time, before it
SETTLE_S = 2.0  # after init: daemons that finish their start in the background are not idle


@dataclass(frozen=True)
class Sizes:
    """How much of everything; ``scaled`` for a quick look whether it works at all."""

    seconds: float = 0.6
    """Measured after a warm-up of half of it: what goes one by one is at its lasting pace then."""
    large_put_s: float = 2.0
    """Longer, as a store that frees late has fast and slow phases of up to a second: the mean of
    several counts."""
    idle_s: float = 10.0
    settle_s: float = SETTLE_S
    batch: int = 1_000
    chain: int = 100
    actors: int = 40
    large_bytes: int = 100_000_000

    def scaled(self, factor: float) -> Sizes:
        """Everything times ``factor``, but at least a little."""
        return Sizes(
            seconds=self.seconds * factor,
            large_put_s=self.large_put_s * factor,
            idle_s=max(0.05, self.idle_s * factor),
            settle_s=self.settle_s * factor,
            batch=max(2, round(self.batch * factor)),
            chain=max(2, round(self.chain * factor)),
            actors=max(2, round(self.actors * factor)),
            large_bytes=max(8_000, round(self.large_bytes * factor) // 8 * 8),
        )


Measurement = Callable[[], Mapping[str, float]]


def measure(table: Iterable[tuple[tuple[str, ...], Measurement]], only: str) -> dict[str, float]:
    """Run the measurements of which at least one row's title contains ``only``."""
    results: dict[str, float] = {}
    for titles, measurement in table:
        if any(only.lower() in title.lower() for title in titles):
            results.update(measurement())
    return results


def rate(
    operation: Callable[[], object], seconds: float, finish: Callable[[], object] | None = None
) -> float:
    """Warm up, then repeat an operation for ``seconds``; return how often a second.

    ``finish`` runs at the end and within the measured time: it waits for what was only begun.
    """
    block = _warm_up(operation, seconds * WARM_UP_SHARE)
    if finish is not None:
        finish()
    count = 0
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds or not count:
        for _ in itertools.repeat(None, block):
            operation()
        count += block
    if finish is not None:
        finish()
    return count / (time.perf_counter() - begin)


def _warm_up(operation: Callable[[], object], seconds: float) -> int:
    """Repeat an operation, at least once; return how many of it fill ``BLOCK_S``."""
    count = 0
    begin = time.perf_counter()
    while True:
        operation()
        count += 1
        elapsed = time.perf_counter() - begin
        if elapsed >= seconds:
            return max(1, int(count / max(elapsed, 1e-6) * BLOCK_S))


def paired_rates(
    first: Callable[[], object], second: Callable[[], object], seconds: float
) -> tuple[float, float]:
    """The rates of two operations done in turn, so that both see the same machine."""
    _pairs(first, second, seconds * WARM_UP_SHARE)
    return _pairs(first, second, seconds)


def _pairs(
    first: Callable[[], object], second: Callable[[], object], seconds: float
) -> tuple[float, float]:
    spent = [0.0, 0.0]
    count = 0
    while sum(spent) < seconds or not count:
        for index, operation in enumerate((first, second)):
            begin = time.perf_counter()
            operation()
            spent[index] += time.perf_counter() - begin
        count += 1
    return count / spent[0], count / spent[1]


def unique_memory_mib(pid: int) -> float:
    """The memory that would be free if this process ended; 0 if it has."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return float(psutil.Process(pid).memory_full_info().uss) / (1 << 20)
    return 0.0


def idle_load(sizes: Sizes) -> tuple[float, float]:
    """(CPU in percent of one core, unique memory in MiB) of this process and all below it."""
    time.sleep(sizes.settle_s)
    pids = _tree()
    begin, before = time.perf_counter(), _cpu_seconds(pids)
    time.sleep(sizes.idle_s)
    after, end = _cpu_seconds(pids), time.perf_counter()
    # Looking for processes costs CPU time, so it comes before and after what is counted.
    after |= _cpu_seconds(_tree() - pids)
    used = sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items())
    return 100 * used / (end - begin), sum(unique_memory_mib(pid) for pid in after)


def _tree() -> set[int]:
    here = psutil.Process()
    return {process.pid for process in [here, *here.children(recursive=True)]}


def _cpu_seconds(pids: Iterable[int]) -> dict[int, float]:
    """By each process's CPU clock (Linux): ticks are too coarse, as 0.3 % of 10 s is 3 of them."""
    seconds = {}
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended
            seconds[pid] = time.clock_gettime((~pid << 3) | 2)
    return seconds


def wait_until_gone(pids: Iterable[int], timeout_s: float = 30.0) -> None:
    """Wait for processes to end, so that their end costs the next measurement nothing."""
    give_up_at = time.monotonic() + timeout_s
    for pid in pids:
        while psutil.pid_exists(pid) and time.monotonic() < give_up_at:
            time.sleep(0.01)


def arguments(description: str) -> argparse.ArgumentParser:
    """The command line that all children have in common."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--only", default="", help="only rows whose title contains this")
    parser.add_argument("--scale", type=float, default=1.0, help="sizes and times, times this")
    parser.add_argument("--idle-seconds", type=float, default=Sizes.idle_s)
    return parser


def sizes_of(options: argparse.Namespace) -> Sizes:
    """The sizes that the command line asks for."""
    return Sizes(idle_s=options.idle_seconds).scaled(options.scale)


def report(results: Mapping[str, Mapping[str, float]]) -> None:
    """Print results (system, row, value) as the last line, for ``compare`` to read."""
    print(json.dumps(results), flush=True)
