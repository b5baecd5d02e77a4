"""What is compared, and what is demanded of skate: one ``Row`` an operation. Pure.

A row's title is also its key in the results of every system. ``verdicts`` applies the bars.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

SKATE, RAY, POOL, DASK, COPY = "skate", "ray", "pool", "dask", "copy"
NAME_OF_SYSTEM = {
    SKATE: "skate",
    RAY: "Ray",
    POOL: "Pool",
    DASK: "Dask",
    COPY: "a plain copy",
}

INIT = "init until the first result"
TASK_SYNC = "tasks one by one"
TASK_BATCH = "1,000 tasks at a time, no argument"
TASK_BATCH_ARGUMENT = "1,000 tasks at a time, small argument"
CHAIN = "chain of 100 dependent tasks"
ACTOR_SYNC = "actor calls one by one"
ACTOR_BATCH = "1,000 actor calls at a time"
ASYNC_ACTOR_SYNC = "async-actor calls one by one"
ASYNC_ACTOR_BATCH = "1,000 async-actor calls at a time"
PUT_SMALL = "put small"
GET_SMALL = "get small"
PUT_LARGE = "put 100 MB, warm"
GET_LARGE = "get 100 MB"
READ_LARGE = "get 100 MB and add it up"
WAIT = "wait one at a time over 1,000 refs"
CREATE_ACTORS = "creating 40 actors"
ACTOR_MEMORY = "unique memory of an actor's process"
IDLE_CPU = "idle: CPU of one core"
IDLE_MEMORY = "idle: unique memory of all processes"


@dataclass(frozen=True)
class Bar:
    """``times`` as fast as system ``against``, at least."""

    against: str
    times: float


@dataclass(frozen=True)
class Row:
    """One operation. ``at_most`` is a bar in the row's own unit."""

    title: str
    unit: str = "/s"
    bars: tuple[Bar, ...] = ()
    at_most: float | None = None
    lower_is_better: bool = False


ROWS = (
    Row(INIT, "s", (Bar(RAY, 10),), lower_is_better=True),
    Row(TASK_SYNC, bars=(Bar(RAY, 8), Bar(POOL, 1.2))),
    Row(TASK_BATCH, bars=(Bar(RAY, 25), Bar(POOL, 2.5))),
    Row(TASK_BATCH_ARGUMENT, bars=(Bar(RAY, 25), Bar(POOL, 2.5))),
    Row(CHAIN, bars=(Bar(RAY, 10),)),
    Row(ACTOR_SYNC, bars=(Bar(RAY, 4),)),
    Row(ACTOR_BATCH, bars=(Bar(RAY, 15),)),
    Row(ASYNC_ACTOR_SYNC, bars=(Bar(RAY, 4),)),
    Row(ASYNC_ACTOR_BATCH, bars=(Bar(RAY, 15),)),
    Row(PUT_SMALL, bars=(Bar(RAY, 40),)),
    Row(GET_SMALL, bars=(Bar(RAY, 20),)),
    Row(PUT_LARGE, "GB/s", (Bar(RAY, 2), Bar(COPY, 0.7))),
    Row(GET_LARGE, bars=(Bar(RAY, 1),)),
    Row(READ_LARGE),
    Row(WAIT, bars=(Bar(RAY, 20),)),
    Row(CREATE_ACTORS, bars=(Bar(RAY, 50),)),
    Row(ACTOR_MEMORY, "MiB", at_most=8, lower_is_better=True),
    Row(IDLE_CPU, "%", at_most=1, lower_is_better=True),
    Row(IDLE_MEMORY, "MiB", at_most=120, lower_is_better=True),
)

# system -> row title -> one value a round
Results = Mapping[str, Mapping[str, Sequence[float]]]


def median(results: Results, system: str, row: Row) -> float | None:
    """The median of a system's rounds; None if it was not measured."""
    rounds = results.get(system, {}).get(row.title)
    return statistics.median(rounds) if rounds else None


def spread(results: Results, system: str, row: Row) -> float:
    """Half the distance between the best and the worst round, as a share of the median."""
    rounds = results[system][row.title]
    middle = statistics.median(rounds)
    return (max(rounds) - min(rounds)) / 2 / middle if middle else 0.0


def ratio(results: Results, system: str, row: Row) -> float | None:
    """How many times as fast (or as frugal) as ``system`` skate is; None without both values."""
    ours, theirs = median(results, SKATE, row), median(results, system, row)
    if not ours or not theirs:
        return None
    return theirs / ours if row.lower_is_better else ours / theirs


@dataclass(frozen=True)
class Verdict:
    """One bar, and whether it was met: None if what it takes was not measured."""

    bar: str
    met: bool | None


def verdicts(results: Results, row: Row) -> Iterator[Verdict]:
    """Apply the bars of a row."""
    for bar in row.bars:
        factor = ratio(results, bar.against, row)
        met = None if factor is None else factor >= bar.times
        yield Verdict(f"{bar.times:g}x {NAME_OF_SYSTEM[bar.against]}", met)
    if row.at_most is not None:
        ours = median(results, SKATE, row)
        met = None if ours is None else ours < row.at_most
        yield Verdict(f"under {row.at_most:g} {row.unit}", met)
