"""The log tail against real files that grow, are torn anywhere, vanish and are truncated."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skate import config
from skate.node.shell import log_tail
from skate.node.shell.log_tail import LogChunk, LogTail, tail_lines

WORKER = b"w" * 16
OTHER = b"o" * 16
LONGEST = config.LOG_LINE_MAX_BYTES


class Log:
    """One worker's log file, appended to as a worker does."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def write(self, *pieces: bytes) -> None:
        with open(self.path, "ab") as file:
            file.write(b"".join(pieces))


@pytest.fixture
def tail() -> Iterator[LogTail]:
    tail = LogTail()
    yield tail
    tail.close()


@pytest.fixture
def log(tmp_path: Path, tail: LogTail) -> Log:
    log = Log(tmp_path / "worker.out")
    tail.watch(WORKER, 7, log.path, 1)
    return log


def name_marker(name: str) -> bytes:
    return f"\x1eskate-name:{name}\n".encode()


def lines_of(chunks: list[LogChunk]) -> list[str]:
    return [line for chunk in chunks for line in chunk.lines]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_only_what_is_new_is_delivered(tail: LogTail, log: Log) -> None:
    log.write(b"one\n\ntwo\n")
    assert tail.poll(0.0) == [LogChunk(WORKER, 7, 1, "", ["one", "", "two"])]
    assert tail.poll(0.1) == []
    log.write(b"three\n")
    assert tail.poll(0.2) == [LogChunk(WORKER, 7, 1, "", ["three"])]


def test_a_file_may_come_to_exist_after_it_is_watched(tail: LogTail, log: Log) -> None:
    assert tail.poll(0.0) == []
    log.write(b"late\n")
    assert lines_of(tail.poll(0.1)) == ["late"]


def test_each_stream_has_its_own_lines_and_name(tail: LogTail, log: Log, tmp_path: Path) -> None:
    errors = Log(tmp_path / "worker.err")
    tail.watch(WORKER, 7, errors.path, 2)
    log.write(name_marker("f"), b"out\n")
    errors.write(b"err\n")
    assert tail.poll(0.0) == [
        LogChunk(WORKER, 7, 1, "f", ["out"]),
        LogChunk(WORKER, 7, 2, "", ["err"]),
    ]


def test_a_name_holds_from_its_marker_on(tail: LogTail, log: Log) -> None:
    log.write(b"before\n", name_marker("f"), b"a\nb\n", name_marker("Actor.g"), b"c\n")
    assert [(chunk.name, chunk.lines) for chunk in tail.poll(0.0)] == [
        ("", ["before"]),
        ("f", ["a", "b"]),
        ("Actor.g", ["c"]),
    ]
    log.write(b"d\n")
    assert tail.poll(0.1) == [LogChunk(WORKER, 7, 1, "Actor.g", ["d"])]


def test_a_marker_ends_the_text_that_a_task_left_unfinished(tail: LogTail, log: Log) -> None:
    log.write(name_marker("f"), b"no line end", name_marker("g"), b"next\n")
    assert [(chunk.name, chunk.lines) for chunk in tail.poll(0.0)] == [
        ("f", ["no line end"]),
        ("g", ["next"]),
    ]


def test_a_partial_line_waits_a_second_and_is_then_shown_once(tail: LogTail, log: Log) -> None:
    log.write(b"Loading")
    assert tail.poll(5.0) == []
    assert tail.poll(5.9) == []
    assert lines_of(tail.poll(6.0)) == ["Loading"]
    assert tail.poll(8.0) == []
    log.write(b"\nready\n")
    assert lines_of(tail.poll(8.1)) == ["ready"], "the end of a line that was shown is no blank one"


def test_dots_that_never_end_a_line_are_shown_all_the_same(tail: LogTail, log: Log) -> None:
    shown = []
    for eighth in range(20):
        log.write(b".")
        shown += lines_of(tail.poll(eighth / 8))
    assert shown == ["." * 9, "." * 9], "a partial line is as old as its first byte"


def test_a_line_completed_in_time_does_not_age_the_next(tail: LogTail, log: Log) -> None:
    log.write(b"a")
    assert tail.poll(0.0) == []
    log.write(b"b\nc")
    assert lines_of(tail.poll(0.75)) == ["ab"]
    assert tail.poll(1.5) == []
    assert lines_of(tail.poll(1.75)) == ["c"]


def test_an_unfinished_marker_is_no_partial_line(tail: LogTail, log: Log) -> None:
    whole = name_marker("f")
    for cut in range(1, len(whole)):
        log.write(b"text", whole[:cut])
        assert lines_of(tail.poll(cut * 10.0)) == []
        assert lines_of(tail.poll(cut * 10.0 + 1)) == ["text"]
        assert tail.drain() == []
        log.write(whole[cut:])
        assert tail.poll(cut * 10.0 + 2) == []


def test_a_progress_bar_shows_its_last_state(tail: LogTail, log: Log) -> None:
    log.write(b"\r 10%|#   |\r 90%|### |\r100%|####|\nWindows line\r\nodd end\r\r\n\r\n")
    assert lines_of(tail.poll(0.0)) == ["100%|####|", "Windows line", "odd end", ""]


def test_an_unfinished_progress_bar_is_shown_as_it_stands(tail: LogTail, log: Log) -> None:
    log.write(b"\r10%")
    tail.poll(0.0)
    log.write(b"\r20%\r")
    assert lines_of(tail.poll(1.0)) == ["20%"]
    log.write(b"\r30%\r   \r")  # and wipes itself out
    assert tail.poll(2.0) == []
    assert tail.drain() == []


def test_a_bar_of_many_states_is_one_line_however_long(tail: LogTail, log: Log) -> None:
    states = b"".join(b"\r%06d" % state for state in range(100_000))
    log.write(states, b"\n")
    polled = [lines_of(tail.poll(0.0)) for _ in range(4)]
    assert polled == [[], [], ["099999"], []]


def test_a_long_line_is_cut_between_characters(tail: LogTail, log: Log) -> None:
    text = "x" + "€" * LONGEST  # three bytes each, so that the bound falls inside of one
    log.write(text.encode(), b"\nnext\n")
    *pieces, last = lines_of(tail.poll(0.0))
    assert "".join(pieces) == text and last == "next"
    assert all(LONGEST - 3 < len(piece.encode()) <= LONGEST for piece in pieces[:-1])


@pytest.mark.parametrize("length", [LONGEST, LONGEST + 1, 2 * LONGEST])
def test_a_long_line_that_is_written_slowly_has_no_blank_end(
    tail: LogTail, log: Log, length: int
) -> None:
    log.write(b"x" * length)
    pieces = lines_of(tail.poll(0.0))
    log.write(b"\n")
    pieces += lines_of(tail.poll(0.1))
    assert "".join(pieces) == "x" * length
    assert all(0 < len(piece) <= LONGEST for piece in pieces)


def test_bytes_that_are_no_text_lose_no_line(tail: LogTail, log: Log) -> None:
    log.write(b"\xff\xfe\nok\n", b"\x80" * (LONGEST + 5), b"\nend\n")
    first, second, *junk, last = lines_of(tail.poll(0.0))
    assert (first, second, last) == ("\ufffd\ufffd", "ok", "end")
    assert "".join(junk) == "\ufffd" * (LONGEST + 5)


def test_a_noisy_worker_is_read_in_turns(tail: LogTail, log: Log, tmp_path: Path) -> None:
    quiet = Log(tmp_path / "quiet.out")
    tail.watch(OTHER, 8, quiet.path, 1)
    count = 3 * log_tail.POLL_BYTES // 8
    log.write(b"".join(b"%07d\n" % number for number in range(count)))
    quiet.write(b"me too\n")
    first = tail.poll(0.0)
    assert sum(len(line) + 1 for line in first[0].lines) <= log_tail.POLL_BYTES
    assert first[-1] == LogChunk(OTHER, 8, 1, "", ["me too"])
    numbers = [*first[0].lines, *lines_of(tail.poll(0.1)), *lines_of(tail.poll(0.2))]
    assert numbers == [f"{number:07}" for number in range(count)]


def test_drain_takes_what_is_left_of_one_worker(tail: LogTail, log: Log, tmp_path: Path) -> None:
    other = Log(tmp_path / "other.out")
    tail.watch(OTHER, 8, other.path, 1)
    count = 3 * log_tail.POLL_BYTES // 8
    log.write(b"".join(b"%07d\n" % number for number in range(count)), b"last words")
    other.write(b"unfinished")
    assert lines_of(tail.drain(WORKER)) == [*(f"{n:07}" for n in range(count)), "last words"]
    assert tail.drain(WORKER) == []
    assert tail.drain(b"unknown") == []
    assert tail.drain() == [LogChunk(OTHER, 8, 1, "", ["unfinished"])]


def test_drain_is_bounded_and_the_rest_is_not_lost(tail: LogTail, log: Log) -> None:
    count = log_tail.DRAIN_BYTES // 1024 + 3
    log.write((b"x" * 1023 + b"\n") * count)
    assert len(lines_of(tail.drain())) == count - 3
    assert len(lines_of(tail.poll(0.0))) == 3


def test_a_truncated_file_is_read_from_its_start(tail: LogTail, log: Log) -> None:
    log.write(b"one\ntwo\nunfinished")
    assert lines_of(tail.poll(0.0)) == ["one", "two"]
    os.truncate(log.path, 0)
    assert lines_of(tail.poll(0.1)) == ["unfinished"]
    log.write(b"new\n")
    assert lines_of(tail.poll(0.2)) == ["new"]


def test_a_deleted_file_is_read_to_its_end(tail: LogTail, log: Log) -> None:
    log.write(b"one\n")
    tail.poll(0.0)
    log.write(b"two\n")
    os.unlink(log.path)
    assert lines_of(tail.poll(0.1)) == ["two"]


def test_a_pipe_in_place_of_a_file_does_not_block(tail: LogTail, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    tail.watch(WORKER, 7, str(tmp_path / "pipe"), 1)
    assert tail.poll(0.0) == tail.drain() == []


@pytest.mark.parametrize(
    "end",
    [
        lambda tail: tail.forget(WORKER),
        lambda tail: tail.close(),
    ],
)
def test_no_descriptor_stays_open(tmp_path: Path, end: Callable[[LogTail], None]) -> None:
    before = descriptors()
    tail = LogTail()
    for stream, name in ((1, "out"), (2, "err"), (2, "err"), (2, "other")):
        log = Log(tmp_path / name)
        log.write(b"x\n")
        tail.watch(WORKER, 7, log.path, stream)
        tail.poll(0.0)
    assert descriptors() == before + 2
    end(tail)
    assert descriptors() == before
    assert tail.poll(1.0) == tail.drain() == []
    tail.forget(WORKER)
    tail.close()


def test_watching_the_same_path_again_repeats_no_line(tail: LogTail, log: Log) -> None:
    log.write(b"one\n")
    assert lines_of(tail.poll(0.0)) == ["one"]
    tail.watch(WORKER, 7, log.path, 1)
    assert tail.poll(0.1) == []


WRITTEN = st.one_of(
    st.text(alphabet="ab €\r", max_size=6).map(str.encode),
    st.sampled_from([b"\n", b"\n", b"\r\n", b"\x1e", b"\x1eskate-", name_marker("f")]),
    st.just(b"\n" + name_marker("g")),
)


@given(pieces=st.lists(WRITTEN, max_size=12), data=st.data())
def test_lines_do_not_depend_on_how_the_bytes_arrive(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], data: st.DataObject
) -> None:
    """Whatever is torn where, the lines and their names are those of the file read at once."""
    content = b"".join(pieces) + b"\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=6)))
    folder = tmp_path_factory.mktemp("logs")
    assert deliver(Log(folder / "torn"), content, cuts) == deliver(Log(folder / "once"), content)


def deliver(log: Log, content: bytes, cuts: list[int] | None = None) -> list[tuple[str, str]]:
    tail = LogTail()
    tail.watch(WORKER, 7, log.path, 1)
    named = []
    cuts = cuts or []
    for start, end in zip([0, *cuts], [*cuts, len(content)], strict=True):
        log.write(content[start:end])
        named += [(chunk.name, line) for chunk in tail.poll(0.0) for line in chunk.lines]
    tail.close()
    return named


def test_tail_lines_are_the_last_ones_without_markers(tmp_path: Path) -> None:
    log = Log(tmp_path / "err")
    log.write(name_marker("f"), b"one\n\nt\xffo\n", name_marker("g"), b"bar\r100%\nlast words")
    assert tail_lines(log.path, 3) == ["t\ufffdo", "100%", "last words"]
    assert tail_lines(log.path, 50) == ["one", "", "t\ufffdo", "100%", "last words"]
    assert tail_lines(log.path, 0) == []


def test_tail_lines_of_a_large_file_are_whole_lines(tmp_path: Path) -> None:
    log = Log(tmp_path / "err")
    log.write(b"".join(b"line %d\n" % number for number in range(10_000)))
    lines = tail_lines(log.path, 100_000)
    assert 1_000 < len(lines) <= log_tail.TAIL_BYTES // len(b"line 8000\n")
    assert lines == [f"line {number}" for number in range(10_000 - len(lines), 10_000)]


def test_tail_lines_of_one_endless_line_are_its_end(tmp_path: Path) -> None:
    log = Log(tmp_path / "err")
    log.write(b"x" * 100_000, b"the cause\n")
    [line] = tail_lines(log.path, 5)
    assert line.endswith("xthe cause") and len(line) < log_tail.TAIL_BYTES


def test_tail_lines_of_a_missing_or_empty_file_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert tail_lines(str(tmp_path / "empty"), 5) == []
    assert tail_lines(str(tmp_path / "missing"), 5) == []
    assert tail_lines(str(tmp_path), 5) == []
