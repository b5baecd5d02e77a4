"""The example programs, run as a user runs them, print what their arithmetic says they must.

Each example is run twice: on skate, and on the few lines below that carry out every call at once,
in the order of the program, in one process. What does not depend on timing must come out the same,
so a lost, repeated, swapped or reordered value fails here even where it still looks plausible.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
EXAMPLES = REPOSITORY / "examples"
TIMEOUT_S = 60

SEQUENTIAL_SKATE = """
class ObjectRef:
    def __init__(self, value):
        self.value = value

def init(*args, **options): pass
shutdown = init

def put(value):
    for each in value if isinstance(value, list) else ():
        each.setflags(write=False)  # like everything that is read from shared memory
    return ObjectRef(value)

def get(refs):
    return [ref.value for ref in refs] if isinstance(refs, list) else refs.value

def wait(refs, *, num_returns=1):
    return refs[:num_returns], refs[num_returns:]

class Callable:
    def __init__(self, function, num_returns=1):
        self.function, self.num_returns = function, num_returns

    def options(self, num_returns):
        return Callable(self.function, num_returns)

    def remote(self, *args, **named):
        values = [arg.value if isinstance(arg, ObjectRef) else arg for arg in args]
        result = self.function(*values, **named)
        return ObjectRef(result) if self.num_returns == 1 else [ObjectRef(each) for each in result]

class Handle:
    def __init__(self, instance):
        self.instance = instance

    def __getattr__(self, name):
        return Callable(getattr(self.instance, name))

class ActorClass:
    def __init__(self, cls):
        self.cls = cls

    def remote(self, *args, **named):
        return Handle(Callable(self.cls).remote(*args, **named).value)

def remote(target):
    return ActorClass(target) if isinstance(target, type) else Callable(target)
"""


@dataclass
class Example:
    """What to run, what must be seen in its output, and which lines may differ between runs."""

    name: str
    expected: str
    timing_dependent: str = r"(?!)"
    arguments: tuple[str, ...] = ()
    needs: str = "re"


CASES = [
    Example("pi_monte_carlo", r"pi is about 3\.1[34]\d+ \(800,000 points", r"after .*"),
    Example("pi_monte_carlo", r"about 3\.\d+ \(4,000 points", r"after .*", ("4", "1000")),
    Example("map_reduce_text", r"[\d,]+ words in \d+ files, [\d,]+ different ones\n +self +\d"),
    Example("map_reduce_text", r"[\d,]+ words in \d+ files", arguments=("2",)),
    Example("actor_tree", r"a tree of 15 actors, .*\n.*: 15 30 180 1680\n"),
    Example("actor_tree", r"a tree of 13 actors, .*\n.*: 13 26 156 1456\n", arguments=("2", "3")),
    Example(
        "parameter_server",
        r"train_synchronously: 9\d\.\d+% .*\ntrain_asynchronously: 9\d\.\d+% ",
        r"train_asynchronously: .*",
        needs="numpy",
    ),
    Example("batched_inference", r"one copy of 3\.2 MB(.*\n.*: [\d ]+){3}", needs="numpy"),
    Example(
        "evolution_strategies",
        r"after 0 rounds: balanced for +9\.0 of 300(.*\n)+after 6 rounds: balanced for 300\.0 ",
        needs="numpy",
    ),
]


def run_example(case: Example, skate_folder: Path) -> str:
    """Run an example on the skate in a folder and return what it printed to standard output."""
    search_path = os.pathsep.join([str(skate_folder), os.environ.get("PYTHONPATH", "")])
    finished = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{case.name}.py"), *case.arguments],
        env={**os.environ, "PYTHONPATH": search_path},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join([case.name, *case.arguments]))
def test_example_prints_what_a_sequential_run_prints(case: Example, tmp_path: Path) -> None:
    pytest.importorskip(case.needs)
    (tmp_path / "skate.py").write_text(SEQUENTIAL_SKATE)

    printed = run_example(case, REPOSITORY / "src")
    assert re.search(case.expected, printed), printed
    masked = re.compile(case.timing_dependent)
    expected = run_example(case, tmp_path)
    assert masked.sub("", printed) == masked.sub("", expected)


def test_every_example_is_covered_and_stays_short() -> None:
    programs = {path.stem: path.read_text() for path in EXAMPLES.glob("*.py")}
    assert {case.name for case in CASES} == set(programs)
    for name, text in programs.items():
        assert len(text.splitlines()) < 80, f"{name} is no longer a short example"
        assert f"Run it with:  python examples/{name}.py" in text
