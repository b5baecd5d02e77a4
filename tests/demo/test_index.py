"""The index of the demo says of every word what a plain count says."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

np = pytest.importorskip("numpy")

from skate.demo.index import (  # noqa: E402
    Chunk,
    ShardBuilder,
    ShardIndex,
    find,
    find_all,
    library_files,
    parse_chunk,
    shard_of,
    split_evenly,
)

SHARDS = 3
WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "Alpha", "_beta", "a1"]


def write_files(folder: Path, texts: list[str]) -> list[Path]:
    paths = [folder / f"{number:03}.py" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    return paths


def build(chunks: list[Chunk]) -> list[ShardIndex]:
    builders = [ShardBuilder() for _ in range(SHARDS)]
    for chunk in chunks:
        for builder, part in zip(builders, parse_chunk(chunk, SHARDS), strict=True):
            builder.add(part)
    return [builder.build() for builder in builders]


def test_every_word_is_found_where_it_is_and_as_often(tmp_path: Path) -> None:
    random_words = random.Random(5)
    texts = [" ".join(random_words.choices(WORDS, k=9)) for _ in range(40)]
    shards = build(list(split_evenly(write_files(tmp_path, texts), 7)))
    counts = [Counter(text.split()) for text in texts]
    for word in WORDS:
        files, uses = find(word, shards)
        expected = [(number, count[word]) for number, count in enumerate(counts) if word in count]
        assert list(zip(files.tolist(), uses.tolist(), strict=True)) == expected
    assert sum(len(shard.words) for shard in shards) == len(WORDS)


def test_the_order_in_which_parts_are_added_makes_no_difference(tmp_path: Path) -> None:
    texts = [f"{WORDS[number % 5]} {WORDS[number % 3]} shared" for number in range(30)]
    chunks = list(split_evenly(write_files(tmp_path, texts), 6))
    forwards, backwards = build(chunks), build(chunks[::-1])
    assert all(ours.equals(theirs) for ours, theirs in zip(forwards, backwards, strict=True))
    fewer = build(chunks[1:])
    assert not all(ours.equals(theirs) for ours, theirs in zip(forwards, fewer, strict=True))


def test_a_search_for_several_words_finds_the_files_that_have_all(tmp_path: Path) -> None:
    paths = write_files(tmp_path, ["one two", "two two one one", "two", "one three"])
    shards = build([Chunk(0, tuple(paths))])
    files, uses = find_all(["one", "two"], shards)
    assert (files.tolist(), uses.tolist()) == ([0, 1], [2, 4])
    assert find_all(["one", "absent"], shards)[0].tolist() == []


@pytest.mark.parametrize("word", ["absent", "", "zzzz", "x" * 100])
def test_a_word_that_is_in_no_file_is_not_found(word: str, tmp_path: Path) -> None:
    shards = build([Chunk(0, tuple(write_files(tmp_path, ["some text", ""])))])
    assert [part.tolist() for part in find(word, shards)] == [[], []]


def test_bytes_that_are_no_text_and_empty_files_do_no_harm(tmp_path: Path) -> None:
    broken, empty = tmp_path / "a.py", tmp_path / "b.py"
    broken.write_bytes(b"\xff\xfe before \x00\x80 after \xc3")
    empty.write_bytes(b"")
    shards = build([Chunk(0, (broken, empty))])
    assert find("before", shards)[0].tolist() == find("after", shards)[0].tolist() == [0]
    assert all(not len(shard.words) for shard in build([Chunk(0, (empty,))]))


def test_chunks_hold_every_file_once_and_in_order(tmp_path: Path) -> None:
    paths = write_files(tmp_path, ["x" * (number * 37 % 101) for number in range(50)])
    chunks = list(split_evenly(paths, 8))
    assert [path for chunk in chunks for path in chunk.paths] == paths
    for chunk in chunks:
        assert paths[chunk.first_number] == chunk.paths[0]
    assert 6 <= len(chunks) <= 9


def test_words_are_dealt_alike_in_every_process() -> None:
    assert [shard_of(word, 5) for word in ("lambda", "yield", "self")] == [3, 4, 4]


def test_the_library_is_found_without_what_was_installed_beside_it() -> None:
    files = library_files()
    assert any(path.name == "argparse.py" for path in files)
    assert not any({"site-packages", "dist-packages"} & set(path.parts) for path in files)
    assert files == sorted(files)
