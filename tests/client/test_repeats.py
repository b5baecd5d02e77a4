"""The log folder as event lists: lines of workers in, what the driver prints out."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from skate.client import repeats as log_folder
from skate.client.repeats import LogFolder

WINDOW_S = 5.0


def add(folder: LogFolder, pid: int, line: str, now: float, name: str = "f") -> list[str]:
    return folder.add(name, pid, 1, line, now)


def test_a_line_is_printed_with_its_source() -> None:
    folder = LogFolder()
    assert folder.add("f", 123, 1, "hello", 0.0) == ["(f pid=123) hello"]
    assert folder.add("Actor.g", 124, 2, "oops", 0.0) == ["(Actor.g pid=124) oops"]
    assert folder.add("", 125, 1, "importing", 0.0) == ["(pid=125) importing"]


def test_only_the_source_is_coloured() -> None:
    folder = LogFolder(color=True)
    assert add(folder, 1, "hello", 0.0) == ["\033[36m(f pid=1)\033[0m hello"]
    add(folder, 2, "hello", 0.0)
    add(folder, 3, "hello", 0.0)
    assert folder.finish() == ["\033[36m(f pid=3)\033[0m hello [repeated 2x across workers]"]


def test_the_same_line_of_other_processes_is_told_once_at_the_end_of_the_window() -> None:
    folder = LogFolder(WINDOW_S)
    assert add(folder, 1, "loss is 0.1", 0.0) == ["(f pid=1) loss is 0.1"]
    assert add(folder, 2, "loss is 0.2", 1.0) == []
    assert add(folder, 3, "loss is 0.3", 2.0) == []
    assert add(folder, 2, "loss is 0.4", 3.0) == []
    assert folder.flush(4.9) == []
    assert folder.flush(5.0) == ["(f pid=2) loss is 0.4 [repeated 3x across workers]"]
    assert folder.flush(100.0) == folder.finish() == []


def test_addresses_do_not_make_lines_differ() -> None:
    folder = LogFolder(WINDOW_S)
    add(folder, 1, "freed <Node at 0x7f3a00beef10>", 0.0)
    assert add(folder, 2, "freed <Node at 0x7FFFdeadbeef>", 0.0) == []


def test_one_repetition_is_told_as_it_was() -> None:
    folder = LogFolder(WINDOW_S)
    add(folder, 1, "ready", 0.0)
    assert add(folder, 2, "ready", 0.1) == []
    assert folder.flush(6.0) == ["(f pid=2) ready"]


def test_a_process_is_never_folded_with_itself() -> None:
    folder = LogFolder(WINDOW_S)
    for second in range(12):
        assert add(folder, 1, f"tick {second}", float(second)) == [f"(f pid=1) tick {second}"]
    assert folder.finish() == []


def test_the_first_process_is_printed_on_while_others_are_folded() -> None:
    folder = LogFolder(WINDOW_S)
    add(folder, 1, "tick", 0.0)
    assert add(folder, 2, "tick", 0.1) == []
    assert add(folder, 1, "tick", 1.0) == ["(f pid=1) tick"]
    assert add(folder, 2, "tick", 1.1) == []
    assert folder.flush(5.0) == ["(f pid=2) tick [repeated 2x across workers]"]


def test_a_line_that_keeps_coming_stays_folded() -> None:
    folder = LogFolder(WINDOW_S)
    add(folder, 1, "step 0", 0.0)
    add(folder, 2, "step 0", 0.0)
    add(folder, 3, "step 0", 0.0)
    assert len(folder.flush(5.0)) == 1
    assert add(folder, 2, "step 1", 6.0) == []
    assert folder.flush(10.0) == ["(f pid=2) step 1"]
    assert add(folder, 2, "step 2", 11.0) == ["(f pid=2) step 2"], "that window was the last"


def test_blank_lines_and_bare_numbers_are_never_held_back() -> None:
    folder = LogFolder(WINDOW_S)
    for line in ("", "   ", "42", "-1.5", "(3, 4)"):
        assert add(folder, 1, line, 0.0) == [f"(f pid=1) {line}"]
        assert add(folder, 2, line, 0.0) == [f"(f pid=2) {line}"]


def test_a_late_tick_holds_nothing_back_for_a_window_that_is_over() -> None:
    folder = LogFolder(WINDOW_S)
    add(folder, 1, "hello", 0.0)
    add(folder, 2, "hello", 1.0)
    assert add(folder, 3, "hello", 60.0) == ["(f pid=2) hello", "(f pid=3) hello"]


def test_finish_tells_what_is_held_back_in_order() -> None:
    folder = LogFolder(WINDOW_S)
    for line in ("first", "second"):
        add(folder, 1, line, 0.0)
    for line in ("second", "first"):
        add(folder, 2, line, 0.1)
    assert folder.finish() == ["(f pid=2) first", "(f pid=2) second"]
    assert folder.finish() == []


def test_switched_off_it_holds_nothing_back() -> None:
    folder = LogFolder(WINDOW_S, enabled=False)
    assert add(folder, 1, "hello", 0.0) == ["(f pid=1) hello"]
    assert add(folder, 2, "hello", 0.0) == ["(f pid=2) hello"]
    assert folder.finish() == []


def test_many_different_lines_end_the_oldest_window_early_but_lose_nothing() -> None:
    folder = LogFolder(WINDOW_S)
    add(folder, 1, "wanted", 0.0)
    add(folder, 2, "wanted", 0.0)
    printed = []
    for number in range(log_folder.MAX_WINDOWS):
        printed += add(folder, 1, "a" * (number % 64) + "b" * (number // 64 + 1), 0.0)
    assert printed.count("(f pid=2) wanted") == 1
    assert len(printed) == log_folder.MAX_WINDOWS + 1
    assert folder.finish() == []


LINES = st.tuples(
    st.integers(1, 4), st.sampled_from(["tick 1", "tick 2", "warning", "", "7"]), st.integers(0, 4)
)


@given(st.lists(LINES, max_size=40))
def test_every_line_is_printed_or_counted(events: list[tuple[int, str, int]]) -> None:
    folder = LogFolder(WINDOW_S)
    printed: list[str] = []
    now = 0.0
    for pid, line, later in events:
        now += later
        printed += add(folder, pid, line, now)
    printed += folder.finish()
    counts = [re.search(r" \[repeated (\d+)x across workers\]$", line) for line in printed]
    assert sum(int(count[1]) if count else 1 for count in counts) == len(events)
