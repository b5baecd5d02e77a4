"""Several programs on one cluster, from several of its nodes: none notices the others' ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import skate
from skate.cluster_utils import ClusterNode
from tests.cluster.many_nodes import (
    Counter,
    Trio,
    assert_back_to,
    assert_idle,
    counts,
    get,
    on,
    workers_of,
)
from tests.conftest import eventually

SOURCES = str(Path(__file__).resolve().parents[2] / "src")

PROLOGUE = """
import os, sys, time
import skate

@skate.remote
class Counter:
    def __init__(self):
        self.n = 0
        self.kept = None
    def increment(self):
        self.n += 1
        return self.n
    def keep(self, value):
        self.kept = value

@skate.remote
def zeros(size):
    return bytes(size)

@skate.remote
def size_of(value):
    return len(value)

@skate.remote
def forever():
    while True:
        time.sleep(1)

def on(name):
    return {"resources": {name: 1}}
"""

USES_EVERYTHING = """
name = sys.argv[1]
others = [n for n in ("head", "a", "b") if n != name]
counters = [Counter.options(num_cpus=0.1, name=f"{n} of {name}", **on(n)).remote() for n in others]
large = [zeros.options(**on(n)).remote(400_000) for n in others] + [skate.put(bytes(400_000))]
assert skate.get([size_of.options(**on(n)).remote(x) for n in others for x in large],
                 timeout=20) == [400_000] * 6
assert sum(skate.get([c.increment.remote() for c in counters for _ in range(20)])) == 2 * 210
skate.get([c.keep.remote(large) for c in counters])
nested = skate.put([large, counters])
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a program as a driver on a node; killed at the latest when the test ends."""
    running: list[subprocess.Popen[str]] = []

    def begin(node: ClusterNode, source: str, *arguments: str) -> subprocess.Popen[str]:
        script = tmp_path / f"program{len(running)}.py"
        script.write_text(
            PROLOGUE + f"skate.init({node.address!r})\n" + textwrap.dedent(source)
        )
        running.append(
            subprocess.Popen(
                [sys.executable, "-u", str(script), *arguments],
                env={**os.environ, "PYTHONPATH": SOURCES},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return running[-1]

    yield begin
    for program in running:
        program.kill()
        program.communicate()


def finish(program: subprocess.Popen[str]) -> tuple[str, str]:
    said, complained = program.communicate(timeout=40)
    assert program.returncode == 0, complained
    return said, complained


def said_line(program: subprocess.Popen[str], word: str) -> None:
    assert program.stdout is not None
    for line in program.stdout:
        if line.strip() == word:
            return
    raise AssertionError(f"no {word!r}: {program.communicate()[1]}")


def jobs_left(nodes: list[ClusterNode]) -> int:
    return len(workers_of(nodes[0])) + len(workers_of(nodes[1])) + len(workers_of(nodes[2]))


def test_drivers_on_all_nodes_at_once(trio: Trio, start: Start) -> None:
    before = counts(trio.nodes)
    names = {"head": trio.head, "a": trio.a, "b": trio.b}
    programs = [start(names[name], USES_EVERYTHING, name) for name in names]
    counter = Counter.options(num_cpus=0, **on("b")).remote()
    assert get([counter.increment.remote() for _ in range(50)])[-1] == 50
    for program in programs:
        assert finish(program) == ("", "")
    assert_idle(trio.nodes, actors=2)  # ours: at its host and, by its row, at its home
    assert get(counter.increment.remote()) == 51
    del counter
    assert_back_to(before, trio.nodes)


@pytest.mark.parametrize("name", ["head", "a"])
@pytest.mark.parametrize("how", ["exit", "error", "kill"])
def test_the_end_of_a_driver_leaves_nothing_on_any_node(
    trio: Trio, start: Start, name: str, how: str
) -> None:
    before = counts(trio.nodes)
    ends = {
        "exit": "os._exit(0)",
        "error": "raise SystemExit(0)",
        "kill": "sys.stdin.read() or time.sleep(60)",
    }[how]
    busy = """
    running = [forever.options(num_cpus=0.1, **on(n)).remote() for n in ("head", "a", "b")]
    waiting = [size_of.remote(running[0]), zeros.options(resources={"nowhere": 1}).remote(5)]
    print("busy", flush=True)
    """
    node = {"head": trio.head, "a": trio.a}[name]
    source = USES_EVERYTHING + textwrap.dedent(busy) + ends
    program = start(node, source, name)
    if how == "kill":
        said_line(program, "busy")
        program.send_signal(signal.SIGKILL)
    program.communicate(timeout=40)
    assert_idle(trio.nodes)
    assert_back_to(before, trio.nodes)
    pending = [row for row in skate.nodes() if row["Alive"] and row.get("pending")]
    assert not pending
    with pytest.raises(ValueError, match="of"):
        skate.get_actor(f"b of {name}")
    # Its workers too: those that are left belong to this driver, and are idle ones.
    eventually(lambda: not _workers_of_other_jobs(trio), "no worker of that job is left")


def _workers_of_other_jobs(trio: Trio) -> list[str]:
    own = skate.get_runtime_context().get_job_id()
    found = []
    for node in trio.nodes:
        for worker in workers_of(node):
            try:
                command = " ".join(worker.cmdline())
            except Exception:
                continue
            if own not in command and "idle" not in command and worker.status() != "zombie":
                found.append(command)
    return [command for command in found if "forever" in command or "Counter" in command]


def test_names_of_one_driver_are_found_by_another_in_its_namespace(
    trio: Trio, start: Start
) -> None:
    owner = start(
        trio.a,
        """
        skate.shutdown()
        skate.init(sys.argv[1], namespace="trio")
        counter = Counter.options(num_cpus=0, name="shared", **on("b")).remote()
        print(skate.get(counter.increment.remote()), flush=True)
        print("there", flush=True)
        sys.stdin.read()
        time.sleep(60)
        """,
        trio.a.address,
    )
    said_line(owner, "there")
    shared: Any = skate.get_actor("shared")
    assert get([shared.increment.remote() for _ in range(3)]) == [2, 3, 4]
    owner.kill()
    owner.communicate()
    with pytest.raises(skate.exceptions.RayActorError):
        while True:
            get(shared.increment.remote())
    eventually(lambda: not _is_named("shared"), "its name is free")


def _is_named(name: str) -> bool:
    try:
        skate.get_actor(name)
    except ValueError:
        return False
    return True


def test_prints_of_every_node_reach_their_own_driver_and_no_other(
    trio: Trio, start: Start
) -> None:
    speak = """
    me = sys.argv[1]

    @skate.remote
    def speak(number):
        print(f"line {number} for {me}")
        print(f"error {number} for {me}", file=sys.stderr)

    @skate.remote
    class Speaker:
        def speak(self):
            print(f"an actor for {me}")

    skate.get([speak.options(**on(n)).remote(i) for i in range(5) for n in ("head", "a", "b")])
    skate.get([Speaker.options(num_cpus=0, **on(n)).remote().speak.remote() for n in ("a", "b")])
    """
    programs = {name: start(node, speak, name) for name, node in (("x", trio.head), ("y", trio.b))}
    for name, program in programs.items():
        out, error = finish(program)
        lines = re.findall(r"\(speak pid=\d+[^)]*\) (line \d) for (\w)", out)
        assert sorted(lines) == sorted([(f"line {i}", name) for i in range(5)] * 3), out
        assert len(re.findall(rf"\(speak pid=\d+[^)]*\) error \d for {name}", error)) == 15, error
        assert len(re.findall(rf"\(Speaker pid=\d+[^)]*\) an actor for {name}", out)) == 2, out


def test_a_driver_on_another_node_than_the_head_is_killed_with_its_node(
    trio: Trio, start: Start
) -> None:
    late = trio.cluster.add_node(num_cpus=1, resources={"late": 1})
    before = counts(trio.nodes)
    program = start(
        late,
        USES_EVERYTHING.replace("sys.argv[1]", "'late'").replace('("head", "a", "b")', '("a", "b")')
        + "print('there', flush=True)\nforever.options(**on('a')).remote()\ntime.sleep(60)",
    )
    said_line(program, "there")
    trio.cluster.remove_node(late, allow_graceful=False)
    program.communicate(timeout=20)
    assert program.returncode not in (0, None)
    assert_idle(trio.nodes)
    assert_back_to(before, trio.nodes)
