"""What tasks and actors print reaches the user: with its source, in order, whole and in time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import RunProgram

SOURCES = str(Path(__file__).resolve().parents[2] / "src")


def lines_of(text: str, name: str) -> list[str]:
    """What was printed under this name, without the prefix."""
    return re.findall(rf"^\({re.escape(name)} pid=\d+\) (.*)$", text, flags=re.M)


def test_every_way_to_print_arrives_in_order(run_program: RunProgram) -> None:
    outcome = run_program(
        """
        import os, subprocess, sys
        import skate

        @skate.remote
        def speak():
            print("one")
            print("two", "and", "a half")
            sys.stdout.write("three\\n")
            os.write(1, b"four\\n")
            subprocess.run([sys.executable, "-c", "print('five')"])
            os.system("echo six")
            sys.stdout.buffer.write(b"seven\\n")
            print("caf\\u00e9 \\U0001f409 \\udcff")
            os.write(1, b"binary \\xff\\x00 garbage\\n")
            print()
            print("several\\nlines")
            print("to stderr", file=sys.stderr)
            os.write(2, b"also\\n")
            print("no end of line", end="")

        @skate.remote
        class Speaker:
            def speak(self):
                print("of an actor")
        @skate.remote
        class Named:
            def __repr__(self):
                return f"Named(7)"
            def speak(self):
                print("of a named actor")

        skate.init(num_cpus=1)
        skate.get(speak.remote())
        skate.get(Speaker.remote().speak.remote())
        skate.get(Named.remote().speak.remote())
        """
    )
    assert outcome.returncode == 0
    assert lines_of(outcome.stdout, "speak") == [
        "one", "two and a half", "three", "four", "five", "six", "seven", "café 🐉 \\udcff",
        "binary \ufffd\0 garbage", "", "several", "lines", "no end of line",
    ]  # fmt: skip
    assert lines_of(outcome.stderr, "speak") == ["to stderr", "also"]
    assert lines_of(outcome.stdout, "Speaker") == ["of an actor"]
    assert lines_of(outcome.stdout, "Named(7)") == ["of a named actor"]


def test_the_last_lines_before_the_end_are_not_lost(run_program: RunProgram) -> None:
    outcome = run_program(
        """
        import skate

        @skate.remote
        def speak(i):
            for j in range(30_000):
                print(f"{i} {j:06} {'x' * 60}")

        skate.init(num_cpus=2)
        skate.get([speak.remote(i) for i in range(3)])
        """,
        environ={"RAY_DEDUP_LOGS": "0"},
    )
    assert outcome.stderr == ""
    lines = lines_of(outcome.stdout, "speak")
    assert len(lines) == 90_000
    for i in range(3):
        numbers = [int(line.split()[1]) for line in lines if line.startswith(f"{i} ")]
        assert numbers == list(range(30_000))


def test_the_last_words_of_a_worker_that_dies_arrive(run_program: RunProgram) -> None:
    outcome = run_program(
        """
        import os, signal, skate

        @skate.remote(max_retries=0)
        def die():
            print("last words", end="")
            os.kill(os.getpid(), signal.SIGKILL)

        skate.init(num_cpus=1)
        try:
            skate.get(die.remote())
        except skate.exceptions.WorkerCrashedError:
            pass
        """
    )
    assert lines_of(outcome.stdout, "die") == ["last words"], outcome.stderr


def test_repeated_lines_of_several_workers_are_folded(run_program: RunProgram) -> None:
    source = """
        import skate

        @skate.remote
        class Speaker:
            def speak(self):
                print("the same warning")

        skate.init(num_cpus=2)
        speakers = [Speaker.remote() for _ in range(8)]
        skate.get([speaker.speak.remote() for speaker in speakers])
    """
    lines = lines_of(run_program(source).stdout, "Speaker")
    assert lines == ["the same warning", "the same warning [repeated 7x across workers]"]
    unfolded = run_program(source, environ={"RAY_DEDUP_LOGS": "0"})
    assert lines_of(unfolded.stdout, "Speaker") == ["the same warning"] * 8


def test_log_to_driver_off_leaves_the_files(run_program: RunProgram) -> None:
    outcome = run_program(
        """
        import skate

        @skate.remote
        def speak():
            print("into the file alone")

        folder = skate.init(num_cpus=1, log_to_driver=False)["session_dir"]
        skate.get(speak.remote())
        print(folder)
        """
    )
    (folder,) = outcome.stdout.splitlines()
    texts = [path.read_text() for path in (Path(folder) / "logs").glob("worker-*.out")]
    assert "into the file alone\n" in "".join(texts)


def test_a_line_longer_than_any_bound_arrives_in_pieces(run_program: RunProgram) -> None:
    outcome = run_program(
        """
        import skate

        @skate.remote
        def speak():
            print("x" * 3_000_000)
            print("after")

        skate.init(num_cpus=1)
        skate.get(speak.remote())
        """
    )
    *pieces, last = lines_of(outcome.stdout, "speak")
    assert "".join(pieces) == "x" * 3_000_000
    assert last == "after"


def test_a_stream_that_knows_few_characters_gets_the_others_escaped(
    run_program: RunProgram,
) -> None:
    outcome = run_program(
        """
        import skate

        @skate.remote
        def speak():
            print("caf\\u00e9")

        skate.init(num_cpus=1)
        skate.get(speak.remote())
        """,
        environ={"PYTHONIOENCODING": "ascii"},
    )
    assert lines_of(outcome.stdout, "speak") == ["caf\\xe9"]


class Watched:
    """A program whose output is read while it runs."""

    def __init__(self, source: str, folder: Path) -> None:
        script = folder / "program.py"
        script.write_text(textwrap.dedent(source))
        self.process = subprocess.Popen(
            [sys.executable, str(script)],
            env={**os.environ, "PYTHONPATH": SOURCES, "RAY_DEDUP_LOGS": "0"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def end(self) -> None:
        """It waits for its stdin's end."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.read()
        assert self.process.wait(10) == 0


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Callable[[str], Watched]]:
    """Start a program and read along."""
    started: list[Watched] = []

    def begin(source: str) -> Watched:
        started.append(Watched(source, tmp_path))
        return started[-1]

    yield begin
    for one in started:
        one.process.kill()
        one.process.wait()
        for stream in (one.process.stdin, one.process.stdout):
            assert stream is not None
            stream.close()


def test_prints_appear_while_the_driver_is_elsewhere(watch: Callable[[str], Watched]) -> None:
    program = watch(
        """
        import sys, time, skate

        @skate.remote
        def speak():
            print("begun")
            print("a row of dots ", end="")
            for _ in range(3):
                print(".", end="")
            time.sleep(600)

        skate.init(num_cpus=1)
        ref = speak.remote()
        sys.stdin.read()
        """
    )
    assert program.line().endswith("begun")
    assert program.line().endswith("a row of dots ...")
    program.end()


def test_a_flood_stalls_nobody_and_costs_bounded_memory(watch: Callable[[str], Watched]) -> None:
    program = watch(
        """
        import json, os, psutil, sys, time, skate

        @skate.remote
        def flood(path):
            line = "x" * 80
            while not os.path.exists(path):
                for _ in range(100):
                    print(line)

        @skate.remote
        def add(a, b):
            return a + b

        folder = skate.init(num_cpus=2)["session_dir"]
        node = psutil.Process(json.load(open(folder + "/session.json"))["node_pid"])
        assert skate.get(add.remote(1, 2)) == 3
        path = folder + "/enough"
        ref = flood.remote(path)
        before = node.memory_info().rss
        longest = 0.0
        end = time.monotonic() + 3
        while time.monotonic() < end:
            begun = time.monotonic()
            skate.get(add.remote(1, 2))
            longest = max(longest, time.monotonic() - begun)
        grown = node.memory_info().rss - before
        open(path, "w").close()
        skate.get(ref)
        os.write(1, f"longest {longest:.3f} grown {grown}\\n".encode())
        sys.stdin.read()
        """
    )
    begun = time.monotonic()
    for line in iter(program.line, ""):
        if line.startswith("longest"):
            break
    words = line.split()
    assert float(words[1]) < 1.0
    assert int(words[3]) < 40 << 20
    assert time.monotonic() - begun < 30
    program.end()
