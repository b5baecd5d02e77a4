"""The work of ``skate demo``: an inverted index, word -> its files, and its count in each.

Plain functions and one class over NumPy arrays. They know nothing of tasks or actors: demo/run.py
runs them on skate and then, the very same ones, one after the other in one process.

Invariant: an index does not depend on the order in which its parts were added, so that two indexes
of the same files are equal array by array.
"""

from __future__ import annotations

import os
import re
import sysconfig
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# Whole words of 2 to 40 characters: the array of words has as many bytes for each as the longest.
WORD = re.compile(r"\b[A-Za-z_][A-Za-z0-9_]{1,39}\b", re.ASCII)
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "__pycache__"}

Integers = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Chunk:
    """Some files that are next to each other in the list of all files."""

    first_number: int
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class PartialPostings:
    """The part of one chunk in one shard: for each word a run of (file, count) pairs."""

    words: list[str]
    run_lengths: Integers
    files: Integers
    counts: Integers


@dataclass(frozen=True)
class ShardIndex:
    """All the words of one shard, sorted; those of word ``i`` are ``starts[i]:starts[i + 1]``."""

    words: npt.NDArray[np.bytes_]
    starts: npt.NDArray[np.int64]
    files: Integers
    counts: Integers
    maker_pid: int

    def arrays(self) -> list[npt.NDArray[Any]]:
        """Return the arrays that make up the index."""
        return [self.words, self.starts, self.files, self.counts]

    def equals(self, other: ShardIndex) -> bool:
        """Return whether every element of every array is the same."""
        return all(map(np.array_equal, self.arrays(), other.arrays()))


def library_files() -> list[Path]:
    """Return the source files of this interpreter's standard library, sorted."""
    root = Path(sysconfig.get_path("stdlib"))
    files = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
        files += [Path(folder, name) for name in names if name.endswith(".py")]
    return sorted(files)


def split_evenly(files: Sequence[Path], chunk_count: int) -> Iterator[Chunk]:
    """Split the files into about ``chunk_count`` chunks of about as many bytes each."""
    sizes = [path.stat().st_size for path in files]
    bytes_per_chunk = sum(sizes) / chunk_count
    first = size = 0
    for number, file_size in enumerate(sizes):
        size += file_size
        if size >= bytes_per_chunk or number == len(files) - 1:
            yield Chunk(first, tuple(files[first : number + 1]))
            first, size = number + 1, 0


def shard_of(word: str, shard_count: int) -> int:
    """Return the shard of a word: not by ``hash``, which differs from process to process."""
    return zlib.crc32(word.encode()) % shard_count


def parse_chunk(chunk: Chunk, shard_count: int) -> list[PartialPostings]:
    """Count the words in each file of a chunk; return one part for each shard."""
    runs: dict[str, list[tuple[int, int]]] = {}
    for number, path in enumerate(chunk.paths, start=chunk.first_number):
        text = path.read_bytes().decode("utf-8", errors="replace")
        for word, count in Counter(WORD.findall(text)).items():
            runs.setdefault(word, []).append((number, count))
    words_of_shard: list[list[str]] = [[] for _ in range(shard_count)]
    for word in runs:
        words_of_shard[shard_of(word, shard_count)].append(word)
    return [_pack(words, [runs[word] for word in words]) for words in words_of_shard]


def _pack(words: list[str], runs: list[list[tuple[int, int]]]) -> PartialPostings:
    pairs = np.array([pair for run in runs for pair in run], dtype=np.int32).reshape(-1, 2)
    run_lengths = np.array([len(run) for run in runs], dtype=np.int32)
    return PartialPostings(words, run_lengths, pairs[:, 0].copy(), pairs[:, 1].copy())


class ShardBuilder:
    """Collects the parts of one shard, in any order, and merges them into its index."""

    def __init__(self) -> None:
        self._parts: list[PartialPostings] = []

    def add(self, part: PartialPostings) -> None:
        """Take in the part of one chunk."""
        self._parts.append(part)

    def build(self) -> ShardIndex:
        """Merge all parts."""
        words = sorted({word for part in self._parts for word in part.words})
        number_of = {word: number for number, word in enumerate(words)}
        numbers = [
            np.repeat([number_of[word] for word in part.words], part.run_lengths)
            for part in self._parts
        ]
        word_numbers = np.concatenate(numbers).astype(np.int64)
        files = np.concatenate([part.files for part in self._parts])
        counts = np.concatenate([part.counts for part in self._parts])
        order = np.lexsort((files, word_numbers))
        starts = np.searchsorted(word_numbers[order], np.arange(len(words) + 1))
        return ShardIndex(
            words=np.array(words, dtype=np.bytes_),
            starts=starts.astype(np.int64),
            files=files[order],
            counts=counts[order],
            maker_pid=os.getpid(),
        )


def find(word: str, shards: Sequence[ShardIndex]) -> tuple[Integers, Integers]:
    """Return the numbers of the files that contain a word, with the count in each."""
    shard = shards[shard_of(word, len(shards))]
    place = int(np.searchsorted(shard.words, word.encode()))
    if place == len(shard.words) or shard.words[place] != word.encode():
        return shard.files[:0], shard.counts[:0]
    run = slice(shard.starts[place], shard.starts[place + 1])
    return shard.files[run], shard.counts[run]


def find_all(words: Sequence[str], shards: Sequence[ShardIndex]) -> tuple[Integers, Integers]:
    """Return the files that contain all of some words, with the sum of the counts in each."""
    files, counts = find(words[0], shards)
    for word in words[1:]:
        more_files, more_counts = find(word, shards)
        files, ours, theirs = np.intersect1d(files, more_files, True, return_indices=True)
        counts = counts[ours] + more_counts[theirs]
    return files, counts
