"""``skate demo``: a real job on real input, in a few seconds, beside the same job in one process.

The job is an inverted index over the sources of Python's standard library. Tasks parse chunks of
files, two actors or more each merge a shard of the words, the merged arrays lie in shared memory,
and the last tasks answer queries on those very arrays. The closing table says what that took; all
its figures were measured in this run, and the index is compared with one made without skate.

Workers import this module: NumPy and rich are imported where they are used.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import skate
from skate.demo.figures import Answer, Measurement, TaskReport

if TYPE_CHECKING:
    from rich.console import Console

    from skate.demo.index import Chunk, PartialPostings, ShardIndex

QUERIES = (("async", "await", "yield"), ("lambda",), ("memoryview", "mmap"), ("socket", "timeout"))
CHUNKS_PER_CPU = 16
MAPS_FILE = Path("/proc/self/maps")


def run_demo(*, console: Console | None = None) -> int:
    """Run the demo and return the exit code: 0 only if both ways made the same index."""
    from rich.console import Console

    console = console or Console()
    try:
        from skate.demo.index import library_files
    except ModuleNotFoundError as error:
        if error.name != "numpy":
            raise
        console.print("The demo needs NumPy: pip install 'skate[demo]'", markup=False)
        return 1
    files = library_files()
    if not files:
        console.print("This Python has no source files of its standard library to index.")
        return 1

    started_here = not skate.is_initialized()
    begin = time.perf_counter()
    if started_here:
        skate.init()
    start_s = time.perf_counter() - begin
    try:
        return _run(files, start_s, console)
    finally:
        if started_here:
            skate.shutdown()


def _run(files: Sequence[Path], start_s: float, console: Console) -> int:
    from skate.demo.index import split_evenly
    from skate.demo.report import answer_table, bar_for, make_progress, summary_table

    cpu_count = max(1, int(skate.cluster_resources().get("CPU", 1)))
    shard_count = max(2, cpu_count // 2)
    chunks = list(split_evenly(files, CHUNKS_PER_CPU * cpu_count))
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    console.print(
        f"Which words are in which of the {len(files)} files ({megabytes:.1f} MB) of Python's"
        f" standard library? {len(chunks)} tasks parse, {shard_count} actors merge.",
        highlight=False,
    )
    with make_progress(console) as progress:
        advance = bar_for(progress, f"skate, {cpu_count} CPUs", len(files))
        begin = time.perf_counter()
        shard_refs, reports = index_with_skate(chunks, shard_count, advance)
        parallel_s = time.perf_counter() - begin
        advance = bar_for(progress, "one process", len(files))
        begin = time.perf_counter()
        expected = index_in_one_process(chunks, shard_count, advance)
        sequential_s = time.perf_counter() - begin

    answers = skate.get([answer_query.remote(words, *shard_refs) for words in QUERIES])
    shards = skate.get(shard_refs)
    measured = Measurement(
        task_reports=[*reports, *(answer.report for answer in answers)],
        answers=answers,
        shards=shards,
        driver_shared_bytes=shared_bytes(shards),
        same=all(ours.equals(theirs) for ours, theirs in zip(shards, expected, strict=True)),
        cpu_count=cpu_count,
        start_s=start_s,
        parallel_s=parallel_s,
        sequential_s=sequential_s,
    )
    console.print(answer_table(answers, files))
    console.print(summary_table(measured))
    return 0 if measured.same else 1


def index_with_skate(
    chunks: Sequence[Chunk], shard_count: int, advance: Callable[[int], None]
) -> tuple[list[Any], list[TaskReport]]:
    """Build the index with tasks and actors; return references to its shards.

    The parts go from the tasks straight to the actors: the driver waits for the reports only.
    """
    from skate.demo.index import ShardBuilder

    builders = [skate.remote(ShardBuilder).remote() for _ in range(shard_count)]
    parser = parse_and_report.options(num_returns=shard_count + 1)
    pending = []
    for chunk in chunks:
        *parts, report = parser.remote(chunk, shard_count)
        for builder, part in zip(builders, parts, strict=True):
            builder.add.remote(part)
        pending.append(report)
    shard_refs = [builder.build.remote() for builder in builders]

    reports: list[TaskReport] = []
    while pending:
        ready, pending = skate.wait(pending, num_returns=1)
        for report in skate.get(ready):
            advance(report.file_count)
            reports.append(report)
    skate.wait(shard_refs, num_returns=shard_count)
    return shard_refs, reports


def index_in_one_process(
    chunks: Sequence[Chunk], shard_count: int, advance: Callable[[int], None]
) -> list[ShardIndex]:
    """Build the index with the same functions, called one after the other."""
    from skate.demo.index import ShardBuilder, parse_chunk

    builders = [ShardBuilder() for _ in range(shard_count)]
    for chunk in chunks:
        for builder, part in zip(builders, parse_chunk(chunk, shard_count), strict=True):
            builder.add(part)
        advance(len(chunk.paths))
    return [builder.build() for builder in builders]


@skate.remote
def parse_and_report(chunk: Chunk, shard_count: int) -> list[PartialPostings | TaskReport]:
    """Parse a chunk: one result for each shard, and one that says where this was done."""
    from skate.demo.index import parse_chunk

    return [*parse_chunk(chunk, shard_count), _report(len(chunk.paths))]


@skate.remote
def answer_query(words: tuple[str, ...], *shards: ShardIndex) -> Answer:
    """Find the files that contain all of some words, on the arrays in shared memory."""
    from skate.demo.index import find_all

    files, counts = find_all(words, shards)
    top_file = int(files[counts.argmax()]) if len(files) else -1
    return Answer(words, len(files), int(counts.sum()), top_file, _report(), shared_bytes(shards))


def _report(file_count: int = 0) -> TaskReport:
    return TaskReport(os.getpid(), skate.get_runtime_context().get_node_id(), file_count)


def shared_bytes(shards: Iterable[ShardIndex]) -> int:
    """Return how many bytes of other processes' arrays this process reads without a copy.

    The operating system is the witness: an array counts only if its first byte lies in a mapping
    that is shared with other processes.
    """
    spans = shared_spans(MAPS_FILE.read_text()) if MAPS_FILE.exists() else []
    return sum(
        array.nbytes
        for shard in shards
        if shard.maker_pid != os.getpid()
        for array in shard.arrays()
        if any(begin <= array.ctypes.data < end for begin, end in spans)
    )


def shared_spans(maps: str) -> list[tuple[int, int]]:
    """Return the address ranges of the shared mappings in the text of a Linux ``maps`` file."""
    spans = []
    for line in maps.splitlines():
        addresses, permissions, *_ = line.split()
        if permissions.endswith("s"):
            begin, end = addresses.split("-")
            spans.append((int(begin, 16), int(end, 16)))
    return spans
