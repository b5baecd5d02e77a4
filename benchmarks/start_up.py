"""How soon the first result is there, and what a session with nothing to do costs.

``python -m benchmarks.start_up`` installs skate as a user would: a wheel, in a fresh environment,
where pip compiles it. Then, in turn, it starts a bare interpreter (``python -c pass``) until its
end, and a program that imports skate, calls ``init()`` and gets the result of one task, until that
is there. Only the ratio of the two means something on another machine. Then it looks at an idle
session: CPU time of each of its processes, from the kernel's scheduler.

``--busy`` keeps one core busy meanwhile. ``--imports`` tells instead what each process imports, and
for how long: its interpreters run with ``-X importtime``, which daemons take over from the driver.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from skate.node.shell.leftovers import marked

ROOT = Path(__file__).resolve().parent.parent
SETTLE_S = 12.0
"""After the first result: what slows down in a quiet session has done so by then."""

PROGRAM = """
import time
begun = time.monotonic()
import skate

@skate.remote
def f():
    return 1

imported = time.monotonic()
context = skate.init("local", num_cpus=2)
connected = time.monotonic()
skate.get(f.remote())
print(begun, imported, connected, time.monotonic(), context["session_dir"], flush=True)
input()
"""

BUSY = "while True: pass"

STEPS = ("interpreter", "import skate", "init()", "first result")


def install(folder: Path) -> str:
    """Install this skate into an environment of its own; its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    python = str(folder / "venv" / "bin" / "python")
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheels = folder / "wheels"
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(wheels), str(ROOT)], check=True)
    (wheel,) = wheels.glob("skate-*.whl")
    subprocess.run([*pip, "install", str(wheel)], check=True)
    return python


def environment(folder: Path) -> dict[str, str]:
    """Of the programs under test: nothing of this one's Python, sessions in a folder apart."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**mine, "SKATE_TEMP_DIR": str(folder / "sessions")}


@contextlib.contextmanager
def session(
    python: str, folder: Path, *flags: str
) -> Iterator[tuple[subprocess.Popen[str], list[float], Path]]:
    """The program, its result being there: its process, seconds by step, its session's folder."""
    begin = time.monotonic()
    with subprocess.Popen(
        [python, *flags, "-c", PROGRAM],
        env=environment(folder),
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if flags else None,
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        *stamps, path = process.stdout.readline().split()
        moments = [begin, *map(float, stamps)]
        yield process, [b - a for a, b in itertools.pairwise(moments)], Path(path)
        if process.returncode is None:
            process.communicate("\n")


def bare_start(python: str, folder: Path) -> float:
    """Seconds of an interpreter that does nothing."""
    begin = time.monotonic()
    subprocess.run([python, "-c", "pass"], env=environment(folder), cwd=folder, check=True)
    return time.monotonic() - begin


def report_start(python: str, folder: Path, rounds: int) -> None:
    """Medians of some rounds, bare and whole starts in turn."""
    bare: list[float] = []
    steps: list[list[float]] = []
    for number in range(rounds + 1):
        seconds = bare_start(python, folder)
        with session(python, folder) as (_, taken, _):
            pass
        if number:  # the first round is to warm up
            bare.append(seconds)
            steps.append(taken)
    start = statistics.median(bare)
    totals = [sum(taken) for taken in steps]
    total = statistics.median(totals)
    print(f"a bare interpreter         {start * 1e3:7.1f} ms   (best {min(bare) * 1e3:.1f})")
    for step, times in zip(STEPS, zip(*steps, strict=True), strict=True):
        print(f"  {step:<24} {statistics.median(times) * 1e3:7.1f} ms")
    print(f"until the first result     {total * 1e3:7.1f} ms   (best {min(totals) * 1e3:.1f})")
    print(
        f"in bare starts             {total / start:7.1f}      (best {min(totals) / min(bare):.1f})"
    )


def report_idle(python: str, folder: Path, seconds: float) -> None:
    """CPU of each process of a session that has nothing to do."""
    with session(python, folder) as (process, _, path):
        time.sleep(SETTLE_S)
        pids = [process.pid, *marked(path.name)]
        names = {pid: Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids}
        begin, before = time.monotonic(), {pid: cpu_s(pid) for pid in pids}
        time.sleep(seconds)
        used = {pid: cpu_s(pid) - before[pid] for pid in pids}
        passed = time.monotonic() - begin
    for pid, spent in used.items():
        name = "driver" if pid == process.pid else names[pid]
        print(f"  {name:<24} {100 * spent / passed:7.3f} % of a core")
    print(f"an idle session            {100 * sum(used.values()) / passed:7.3f} % of a core")


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far, all threads."""
    stats = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(stat.read_text().split()[0]) for stat in stats) / 1e9


def report_imports(python: str, folder: Path) -> None:
    """What each process imports: the whole, and the slowest modules by themselves."""
    with session(python, folder, "-X", "importtime") as (process, _, path):
        logs = {"driver": process.communicate("\n")[1]}
    for role in ("node", "gcs"):
        with contextlib.suppress(FileNotFoundError):
            logs[role] = (path / "logs" / f"{role}.err").read_text()
    for name, log in logs.items():
        found = re.findall(r"import time: +(\d+) \| +\d+ \| *(\S+)", log)
        rows = sorted(((int(own), module) for own, module in found), reverse=True)
        print(f"{name}: {len(rows)} modules, {sum(own for own, _ in rows) / 1e3:.0f} ms")
        print("  " + ", ".join(f"{module} {own / 1e3:.1f}" for own, module in rows[:30]))


def main() -> None:
    """Install, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--idle-seconds", type=float, default=20.0, help="0: not measured")
    parser.add_argument("--busy", action="store_true", help="with one core kept busy")
    parser.add_argument("--imports", action="store_true", help="what each process imports")
    parser.add_argument("--python", help="one that skate is installed for: nothing is installed")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="skate-start-")))
        python = options.python or install(folder)
        if options.imports:
            report_imports(python, folder)
            return
        if options.busy:
            other = stack.enter_context(subprocess.Popen([python, "-c", BUSY]))
            stack.callback(other.kill)
        report_start(python, folder, options.rounds)
        if options.idle_seconds:
            report_idle(python, folder, options.idle_seconds)


if __name__ == "__main__":
    main()
