"""``skate demo`` does its job, proves it, and looks as it should, on a terminal and in a pipe."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from skate.demo.run import shared_spans

pytest.importorskip("numpy")

SOURCES = Path(__file__).resolve().parents[2] / "src"
COMMAND = [sys.executable, "-m", "skate", "demo"]
TIMEOUT_S = 120


def environment(**variables: str) -> dict[str, str]:
    search_path = os.pathsep.join([str(SOURCES), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": search_path, "COLUMNS": "120", **variables}


def test_demo_makes_the_same_index_and_shares_it_without_a_copy() -> None:
    finished = subprocess.run(
        COMMAND, env=environment(), capture_output=True, text=True, timeout=TIMEOUT_S
    )
    printed = finished.stdout
    assert finished.returncode == 0, printed + finished.stderr
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", printed), "control characters in a pipe"
    assert re.search(r"same index +│ yes, every element", printed)
    assert re.search(r"speed-up +│ \d+\.\d\d x", printed)
    assert re.search(r"│ lambda +│ +\d+ │ +[\d,]+ │ \S+\.py", printed)
    sharing = re.search(r"not copied +│ ([\d.]+) MB: (\d+) reads by (\d+) processes", printed)
    assert sharing is not None
    megabytes, reads, processes = float(sharing[1]), int(sharing[2]), int(sharing[3])
    assert megabytes > 10 and reads == 5 and processes >= 2
    tasks = re.search(r"tasks +│ (\d+), on worker pids \(tasks\) (.*?) +│", printed)
    assert tasks is not None
    assert int(tasks[1]) == sum(map(int, re.findall(r"\((\d+)\)", tasks[2])))


def test_demo_moves_its_bars_on_a_terminal() -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(COMMAND, env=environment(TERM="xterm-256color"), stdout=theirs)
    os.close(theirs)
    printed = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # how a terminal says that nobody writes to it any more
            break
        if not part:
            break
        printed += part
    os.close(ours)
    assert process.wait(timeout=TIMEOUT_S) == 0
    assert printed.count(b"\x1b[2K") > 5, "the bars were not redrawn"
    assert b"yes, every element" in printed


def test_demo_says_how_to_get_numpy(tmp_path: Path) -> None:
    missing = "raise ModuleNotFoundError(\"No module named 'numpy'\", name='numpy')"
    (tmp_path / "numpy.py").write_text(missing)
    variables = environment()
    variables["PYTHONPATH"] = os.pathsep.join([str(tmp_path), variables["PYTHONPATH"]])
    finished = subprocess.run(
        COMMAND, env=variables, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert finished.returncode == 1
    assert finished.stdout == "The demo needs NumPy: pip install 'skate[demo]'\n"


def test_shared_spans_are_those_that_the_kernel_marks_as_shared() -> None:
    maps = (
        "00400000-00452000 r-xp 00000000 08:02 173521      /usr/bin/with a space\n"
        "7f00-7fff rw-s 00000000 00:01 12                  /dev/shm/arena (deleted)\n"
        "8000-9000 r--s 00001000 00:01 12\n"
        "7ffc0-7ffe0 rw-p 00000000 00:00 0                 [stack]\n"
    )
    assert shared_spans(maps) == [(0x7F00, 0x7FFF), (0x8000, 0x9000)]
