"""Count words with map and reduce, over the text of some packages of the standard library.

Shows tasks with several results (``num_returns``): a map task returns one dict for each reducer, so
that each reducer is given exactly the parts it needs and the driver only ever holds references.
Words are dealt to reducers by CRC-32, as ``hash`` of a str differs from process to process.

Run it with:  python examples/map_reduce_text.py [REDUCERS, 2 or more]
"""

from __future__ import annotations

import asyncio
import email
import json
import logging
import re
import sys
import unittest
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import skate

PACKAGES = (asyncio, email, json, logging, unittest)
WORD = re.compile(r"[a-z]{4,}")


def count_words(paths: Sequence[Path]) -> Counter[str]:
    """Count the words of some files, in this process."""
    counts: Counter[str] = Counter()
    for path in paths:
        counts.update(WORD.findall(path.read_text(encoding="utf-8", errors="replace").lower()))
    return counts


@skate.remote
def map_words(paths: Sequence[Path], reducers: int) -> list[dict[str, int]]:
    """Count the words of some files, split into one dict for each reducer."""
    parts: list[dict[str, int]] = [{} for _ in range(reducers)]
    for word, count in count_words(paths).items():
        parts[zlib.crc32(word.encode()) % reducers][word] = count
    return parts


@skate.remote
def reduce_words(*parts: dict[str, int]) -> Counter[str]:
    """Add up the counts of the words that were dealt to this reducer."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return total


def main(reducers: int = 4) -> None:
    """Count in parallel, count again in this process, compare, print the commonest words."""
    folders = [Path(str(package.__file__)).parent for package in PACKAGES]
    paths = sorted(path for folder in folders for path in folder.rglob("*.py"))
    chunks = [paths[start : start + 12] for start in range(0, len(paths), 12)]

    skate.init()
    mapper = map_words.options(num_returns=reducers)
    mapped = [mapper.remote(chunk, reducers) for chunk in chunks]
    reduced = [reduce_words.remote(*column) for column in zip(*mapped, strict=True)]
    counts: Counter[str] = sum(skate.get(reduced), Counter())
    assert counts == count_words(paths), "map and reduce disagree with a plain count"
    print(f"{counts.total():,} words in {len(paths)} files, {len(counts):,} different ones")
    for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:8]:
        print(f"{word:>12} {count:6,}")
    skate.shutdown()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
