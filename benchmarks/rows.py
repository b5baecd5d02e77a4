"""What is compared, and what is demanded of skate: one ``Row`` an operation. Pure.

A row's title is also its key in the results of every system. ``verdicts`` applies the bars.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

SKATE, RAY, POOL, DASK = "skate", "ray", "pool", "dask"
COPY, FLOOR = "copy", "floor"  # measured beside the systems
NAME_OF_SYSTEM = {
    SKATE: "skate",
    RAY: "Ray",
    POOL: "Pool",
    DASK: "Dask",
    COPY: "a plain copy",
    FLOOR: "the bare floors",
}

INIT = "init until the first result"
TASK_SYNC = "tasks one by one"
NESTED = "a task that calls a small task and waits, one by one"
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

LARGE_GB = 0.1  # the large rows' array


@dataclass(frozen=True)
class Floor:
    """The least that an operation can cost: something that the bare machine does.

    ``system`` and ``title`` are where its values lie in the results; ``what`` counts them.
    """

    system: str
    title: str
    what: str
    unit: str = "s"


ROUND_TRIP = Floor(FLOOR, "bare round trip between two processes", "round trips")
BARE_START = Floor(FLOOR, "start of a bare interpreter", "starts")
PLAIN_COPY = Floor(COPY, PUT_LARGE, "copies", "GB/s")
FLOORS = (ROUND_TRIP, BARE_START, PLAIN_COPY)


@dataclass(frozen=True)
class Bar:
    """``times`` as fast as system ``against``, at least."""

    against: str
    times: float


@dataclass(frozen=True)
class Row:
    """One operation.

    Bars beside ``bars``: ``at_most`` is one in the row's own unit, ``at_most_floors`` one in what
    the bare machine takes, and ``at_most_tasks`` one in plain tasks, one by one.
    """

    title: str
    unit: str = "/s"
    bars: tuple[Bar, ...] = ()
    at_most: float | None = None
    lower_is_better: bool = False
    floor: Floor | None = None
    at_most_floors: float | None = None
    at_most_tasks: float | None = None


ROWS = (
    Row(INIT, "s", (Bar(RAY, 10),), None, True, BARE_START, at_most_floors=10),
    Row(TASK_SYNC, bars=(Bar(RAY, 8), Bar(POOL, 2)), floor=ROUND_TRIP, at_most_floors=5),
    Row(NESTED, floor=ROUND_TRIP, at_most_tasks=2),
    Row(TASK_BATCH, bars=(Bar(RAY, 25), Bar(POOL, 3)), floor=ROUND_TRIP),
    Row(TASK_BATCH_ARGUMENT, bars=(Bar(RAY, 25), Bar(POOL, 3)), floor=ROUND_TRIP),
    Row(CHAIN, bars=(Bar(RAY, 25),), floor=ROUND_TRIP),
    Row(ACTOR_SYNC, bars=(Bar(RAY, 10),), floor=ROUND_TRIP, at_most_floors=5),
    Row(ACTOR_BATCH, bars=(Bar(RAY, 25),), floor=ROUND_TRIP),
    Row(ASYNC_ACTOR_SYNC, bars=(Bar(RAY, 4),), floor=ROUND_TRIP, at_most_floors=7),
    Row(ASYNC_ACTOR_BATCH, bars=(Bar(RAY, 15),), floor=ROUND_TRIP),
    Row(PUT_SMALL, bars=(Bar(RAY, 40),), floor=ROUND_TRIP),
    Row(GET_SMALL, bars=(Bar(RAY, 20),), floor=ROUND_TRIP),
    Row(PUT_LARGE, "GB/s", (Bar(RAY, 2), Bar(COPY, 0.7)), floor=PLAIN_COPY),
    Row(GET_LARGE, bars=(Bar(RAY, 1),), floor=PLAIN_COPY),
    Row(READ_LARGE, floor=PLAIN_COPY),
    Row(WAIT, bars=(Bar(RAY, 20),), floor=ROUND_TRIP),
    Row(CREATE_ACTORS, bars=(Bar(RAY, 50),), floor=BARE_START),
    Row(ACTOR_MEMORY, "MiB", at_most=8, lower_is_better=True),
    Row(IDLE_CPU, "%", at_most=0.3, lower_is_better=True),
    Row(IDLE_MEMORY, "MiB", at_most=120, lower_is_better=True),
)
ROW_OF_TITLE = {row.title: row for row in ROWS}

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


def floor_s(results: Results, floor: Floor) -> float | None:
    """How long the bare machine takes for one, by the median of the rounds."""
    rounds = results.get(floor.system, {}).get(floor.title)
    return _seconds(floor.unit, statistics.median(rounds)) if rounds else None


def floors(results: Results, row: Row) -> float | None:
    """How many of its floor one of a row's operations costs; None if it has none."""
    ours = median(results, SKATE, row)
    bare_s = None if row.floor is None else floor_s(results, row.floor)
    return _seconds(row.unit, ours) / bare_s if ours and bare_s else None


def plain_tasks(results: Results, row: Row) -> float | None:
    """How many plain tasks, one by one, one of a row's operations costs."""
    ours = median(results, SKATE, row)
    plain = median(results, SKATE, ROW_OF_TITLE[TASK_SYNC])
    return plain / ours if ours and plain else None


def _seconds(unit: str, value: float) -> float:
    if unit == "s":
        return value
    return LARGE_GB / value if unit == "GB/s" else 1 / value


@dataclass(frozen=True)
class Verdict:
    """One bar, and whether it was met: None if what it takes was not measured.

    ``measured`` is what it was held against, where no column of the table shows that.
    """

    bar: str
    met: bool | None
    measured: str = ""


def verdicts(results: Results, row: Row) -> Iterator[Verdict]:
    """Apply the bars of a row."""
    for bar in row.bars:
        factor = ratio(results, bar.against, row)
        met = None if factor is None else factor >= bar.times
        yield Verdict(f"{bar.times:g}x {NAME_OF_SYSTEM[bar.against]}", met)
    if row.floor is not None and row.at_most_floors is not None:
        count = floors(results, row)
        met = None if count is None else count <= row.at_most_floors
        yield Verdict(f"{row.at_most_floors:g} {row.floor.what} or less", met)
    if row.at_most_tasks is not None:
        count = plain_tasks(results, row)
        met, measured = None, ""
        if count is not None:
            met, measured = count <= row.at_most_tasks, f"{count:.2g}"
        yield Verdict(f"{row.at_most_tasks:g} plain tasks or less", met, measured)
    if row.at_most is not None:
        ours = median(results, SKATE, row)
        met = None if ours is None else ours < row.at_most
        yield Verdict(f"under {row.at_most:g} {row.unit}", met)
