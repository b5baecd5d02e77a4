"""Surroundings that are against us: what still works, and what says clearly why it does not."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import textwrap
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Leftovers, RunProgram

SOURCES = Path(__file__).resolve().parents[2] / "src"

WORKS = """
import skate

@skate.remote
def add(a, b):
    return a + b

@skate.remote
class Counter:
    def __init__(self):
        self.n = 0
    def increment(self):
        self.n += 1
        return self.n

context = skate.init(num_cpus=2, object_store_memory=80 * 1024 * 1024)
assert skate.get([add.remote(i, 1) for i in range(100)]) == list(range(1, 101))
counter = Counter.remote()
assert skate.get([counter.increment.remote() for _ in range(10)])[-1] == 10
data = bytes(range(256)) * 40_000
assert skate.get(add.remote(skate.put(data), b"!")) == data + b"!"
print("works", context["session_dir"])
skate.shutdown()
"""


def run(
    arguments: list[str],
    *,
    cwd: Path | None = None,
    environ: dict[str, str] | None = None,
    before: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(SOURCES), **(environ or {})},
        preexec_fn=before,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Path]:
    """A program that exercises everything, in a folder of its own."""
    folder = tmp_path / "program"
    folder.mkdir()
    path = folder / "program.py"
    path.write_text(WORKS)
    yield path


def expect_works(outcome: subprocess.CompletedProcess[str], leftovers: Leftovers) -> Path:
    """It did everything, without a warning, and left nothing; the session's folder."""
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stderr == ""
    (line,) = outcome.stdout.splitlines()
    folder = Path(line.removeprefix("works "))
    leftovers.assert_gone(folder.name)
    return folder


# ---------------------------------------------------------------------------- folders, paths


def test_a_session_folder_too_deep_for_a_socket_s_path(
    script: Path, tmp_path: Path, no_leftovers: Leftovers
) -> None:
    deep = tmp_path / ("d" * 80) / ("é" * 60)
    outcome = run([sys.executable, str(script)], environ={"SKATE_TEMP_DIR": str(deep)})
    folder = expect_works(outcome, no_leftovers)
    assert folder.parent == deep
    assert not list(folder.glob("*.sock"))


def test_status_of_a_session_in_a_folder_that_deep(tmp_path: Path) -> None:
    deep = str(tmp_path / ("d" * 120))
    program = """
        import subprocess, sys, skate
        skate.init(num_cpus=1)
        subprocess.run([sys.executable, "-m", "skate", "status"])
    """
    outcome = run(
        [sys.executable, "-c", textwrap.dedent(program)],
        environ={"SKATE_TEMP_DIR": deep, "COLUMNS": "200"},
    )
    assert outcome.returncode == 0, outcome.stderr
    assert "CPU 0 of 1" in outcome.stdout


def test_a_temporary_folder_that_is_no_folder_is_named(script: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    outcome = run([sys.executable, str(script)], environ={"SKATE_TEMP_DIR": str(file / "skate")})
    assert outcome.returncode == 1
    last = outcome.stderr.splitlines()[-1]
    assert str(file / "skate") in last
    assert "SKATE_TEMP_DIR" in last


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unwritable for root")
def test_a_temporary_folder_that_cannot_be_written_is_named(script: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    outcome = run([sys.executable, str(script)], environ={"SKATE_TEMP_DIR": str(tmp_path / "s")})
    tmp_path.chmod(0o700)
    assert outcome.returncode == 1
    assert "SKATE_TEMP_DIR" in outcome.stderr.splitlines()[-1]


def test_a_working_folder_that_was_deleted(
    script: Path, tmp_path: Path, no_leftovers: Leftovers
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()

    def delete() -> None:
        os.chdir(gone)
        os.rmdir(gone)

    expect_works(run([sys.executable, str(script)], before=delete), no_leftovers)


def test_a_folder_whose_name_is_no_text(tmp_path: Path, no_leftovers: Leftovers) -> None:
    folder = os.fsencode(tmp_path) + b"/odd \xff name"
    os.mkdir(folder)
    with open(folder + b"/helper.py", "w") as file:
        file.write("def value():\n    return 5\n")
    with open(folder + b"/program.py", "w") as file:
        file.write(WORKS + "\nimport helper\n")
    outcome = subprocess.run(
        [sys.executable, b"program.py"],
        cwd=folder,
        env={**os.environb, b"PYTHONPATH": os.fsencode(SOURCES), b"ODD": b"\xfe\xff"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    expect_works(outcome, no_leftovers)


# ---------------------------------------------------------------------------- the interpreter

SHADOWS = ["asyncio", "argparse", "code", "json", "logging", "messages", "signal", "struct", "uuid"]


def test_modules_beside_the_script_do_not_break_the_daemons(
    script: Path, no_leftovers: Leftovers
) -> None:
    # The driver has these of the standard library already, the daemons import them later.
    for name in SHADOWS:
        (script.parent / f"{name}.py").write_text(f"raise ImportError('the wrong {name}')\n")
    script.write_text(
        "import sys\nfolder = sys.path.pop(0)\nimport asyncio, argparse, json, logging, signal\n"
        f"import uuid, code, skate\nsys.path.insert(0, folder)\n{WORKS}"
    )
    expect_works(run([sys.executable, str(script)], cwd=script.parent), no_leftovers)


@pytest.mark.parametrize("flags", [["-I"], ["-E", "-s"], ["-O"], ["-X", "utf8=0"], ["-W", "error"]])
def test_an_interpreter_with_flags(flags: list[str], script: Path, no_leftovers: Leftovers) -> None:
    # -I and -E do not see PYTHONPATH: the program itself says where skate is.
    script.write_text(f"import sys\nsys.path.append({str(SOURCES)!r})\n{WORKS}")
    expect_works(run([sys.executable, *flags, str(script)]), no_leftovers)


def test_an_environment_that_turns_warnings_into_errors(
    script: Path, no_leftovers: Leftovers
) -> None:
    outcome = run([sys.executable, str(script)], environ={"PYTHONWARNINGS": "error"})
    expect_works(outcome, no_leftovers)


def test_an_almost_empty_environment(script: Path, no_leftovers: Leftovers) -> None:
    outcome = subprocess.run(
        [sys.executable, str(script)],
        env={"PYTHONPATH": str(SOURCES), "SKATE_TEMP_DIR": os.environ["SKATE_TEMP_DIR"]},
        capture_output=True,
        text=True,
        timeout=60,
    )
    expect_works(outcome, no_leftovers)


@pytest.mark.slow
def test_skate_installed_in_a_venv_of_its_own(
    script: Path, tmp_path: Path, no_leftovers: Leftovers
) -> None:
    # Not editable, and what it needs lies elsewhere: in the folder of this test's interpreter.
    home = tmp_path / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    (packages,) = (home / "lib").glob("python*/site-packages")
    subprocess.run(["cp", "-r", str(SOURCES / "skate"), str(packages)], check=True)
    import msgspec

    (packages / "others.pth").write_text(str(Path(msgspec.__file__).parents[1]) + "\n")
    outcome = subprocess.run(
        [str(home / "bin" / "python"), str(script)],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    expect_works(outcome, no_leftovers)


# ---------------------------------------------------------------------------- little of anything


def test_few_descriptors(script: Path, no_leftovers: Leftovers) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))

    script.write_text(
        WORKS.replace(
            "print(",
            "arrays = skate.get([skate.put(bytes(200_000)) for _ in range(60)])\n"
            "assert all(len(array) == 200_000 for array in arrays)\nprint(",
        )
    )
    expect_works(run([sys.executable, str(script)], before=limit), no_leftovers)


def test_more_actors_than_descriptors_is_an_error_and_not_the_end(
    run_program: RunProgram,
) -> None:
    outcome = run_program(
        """
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
        import skate

        @skate.remote(num_cpus=0)
        class Actor:
            def ping(self):
                return 1

        @skate.remote
        def one():
            return 1

        skate.init(num_cpus=1)
        actors = [Actor.remote() for _ in range(150)]
        refs = [actor.ping.remote() for actor in actors]
        fine = failed = 0
        for ref in refs:
            try:
                fine += skate.get(ref, timeout=30)
            except skate.exceptions.ActorDiedError as error:
                failed += 1
                text = str(error)
        print(fine + failed, fine > 10, failed > 10)
        print(text)
        del actors, refs, ref
        print("still", skate.get(one.remote(), timeout=30))
        """
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.startswith("150 True True")
    assert "Too many open files" in outcome.stdout
    assert outcome.stdout.endswith("still 1\n")


def test_an_object_store_larger_than_shared_memory_goes_to_disk_with_a_warning(
    run_program: RunProgram, no_leftovers: Leftovers
) -> None:
    shared = os.statvfs("/dev/shm")
    too_much = shared.f_bavail * shared.f_frsize + (1 << 30)
    outcome = run_program(WORKS.replace("80 * 1024 * 1024", str(too_much)))
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.startswith("works")
    assert "skate: warning: /dev/shm has" in outcome.stderr
    folder = Path(outcome.stdout.split()[1])
    no_leftovers.assert_gone(folder.name)
    assert not [path for path in folder.iterdir() if path.name.startswith("skate-")]


def test_a_daemon_that_dies_at_its_start_shows_its_log(script: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        "import sys\nif 'node' in sys.orig_argv:\n    raise SystemExit('no node on this machine')\n"
    )
    home = tmp_path / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    (packages,) = (home / "lib").glob("python*/site-packages")
    import msgspec

    folders = [str(Path(msgspec.__file__).parents[1]), str(SOURCES), str(broken)]
    (packages / "others.pth").write_text("\n".join(folders) + "\n")
    outcome = run([str(home / "bin" / "python"), str(script)], environ={"PYTHONPATH": ""})
    assert outcome.returncode == 1
    assert "SystemFailureError: the node daemon ended while it started: exit code 1" in (
        outcome.stderr
    )
    assert "no node on this machine" in outcome.stderr
    assert "node.err" in outcome.stderr
