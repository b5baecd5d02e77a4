"""The programs of the overview of Ray that skate was written to run as they stand.

The programs are quoted with their comments. Where a text begins with ``@ray.remote`` it takes for
granted that ``import ray`` has been said before; that line is added and nothing else is changed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parent.parent / "src"
TIMEOUT_S = 60

THE_THREE_KINDS_OF_PROCESSES = """\
@ray.remote
def f(x):
    # ==== 工作器进程 ====
    return x * x

@ray.remote
class Counter(object):
    def __init__(self):
        # ==== 行动器进程 ====
        self.value = 0

    def increment(self):
        # ==== 行动器进程 ====
        self.value += 1
        return self.value

if __name__ == "__main__":
    # ==== 驱动器进程 ====
    object_ref = f.remote(2)
    assert ray.get(object_ref) == 4

    counter = Counter.remote()
    refs = []
    for i in range(10):
        ref = counter.increment.remote()
        refs.append(ref)
    for i, ref in enumerate(refs):
        assert ray.get(ref) == i + 1
"""

START_AND_STOP = """\
import ray
ray.init()  # 启动
assert ray.is_initialized() == True

ray.shutdown()  # 关闭
assert ray.is_initialized() == False
"""

# 头节点地址 stands for the address of a head node, as in SKATE_ADDRESS: this one needs a cluster.
START_WITH_AN_ADDRESS = """\
import ray
ray.init(address=头节点地址)  # 启动
assert ray.is_initialized() == True

ray.shutdown()  # 关闭
assert ray.is_initialized() == False
"""

ONE_TASK = """\
@ray.remote
def f(x):
    return x * x

object_ref = f.remote(2)
assert ray.get(object_ref) == 4
"""

needs_cluster = pytest.mark.skip(reason="needs the address of a head node")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(THE_THREE_KINDS_OF_PROCESSES, id="the three kinds of processes"),
        pytest.param(START_AND_STOP, id="start and stop"),
        pytest.param(START_WITH_AN_ADDRESS, id="start with an address", marks=needs_cluster),
        pytest.param(ONE_TASK, id="one task"),
    ],
)
def test_program_runs_unchanged(text: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    heading = "" if text.startswith("import ray\n") else "import ray\n"
    program.write_text(f"{heading}{text}print('the end')\n", encoding="utf-8")
    search_path = os.pathsep.join([str(SOURCES), os.environ.get("PYTHONPATH", "")])
    finished = subprocess.run(
        [sys.executable, "-m", "skate", "run", str(program)],
        env={**os.environ, "PYTHONPATH": search_path},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == "the end\n"
    assert "Traceback" not in finished.stderr
