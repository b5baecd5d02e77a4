"""The ``skate`` command as a user meets it: in a process of its own, by its output and exit code.

``skate run`` is held against ``python`` itself: the same program must see the same world, print the
same, fail with the same traceback, and end with the same exit code.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[2] / "src"
TIMEOUT_S = 60

Finished = subprocess.CompletedProcess[str]


def python(*arguments: str, folder: Path, **variables: str) -> Finished:
    """Run this interpreter in a folder, with skate to be found."""
    search_path = os.pathsep.join([str(SOURCES), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": search_path, **variables},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def skate(*arguments: str, folder: Path, **variables: str) -> Finished:
    """Run the ``skate`` command in a folder."""
    return python("-m", "skate", *arguments, folder=folder, **variables)


def write_program(folder: Path, text: str, name: str = "program.py") -> str:
    (folder / name).write_text(textwrap.dedent(text))
    return name


def test_help_lists_every_command(tmp_path: Path) -> None:
    finished = skate("--help", folder=tmp_path)
    assert finished.returncode == 0
    commands = (
        "run", "demo", "microbenchmark", "start", "status", "stop", "symmetric-run", "version"
    )  # fmt: skip
    for command in commands:
        assert f"\n  {command} " in finished.stdout


def test_an_unknown_command_is_a_usage_error(tmp_path: Path) -> None:
    finished = skate("swim", folder=tmp_path)
    assert finished.returncode == 2
    assert "No such command 'swim'" in finished.stderr


@pytest.mark.parametrize("command", ["start", "stop", "status", "symmetric-run"])
def test_help_of_a_command_costs_no_daemon_s_imports(command: str, tmp_path: Path) -> None:
    finished = skate(command, "--help", folder=tmp_path, PYTHONPROFILEIMPORTTIME="1")
    assert finished.returncode == 0
    assert finished.stdout.startswith(f"Usage: skate {command} ")
    assert not re.search(r"\b(asyncio|uvloop|msgspec|rich)\b", finished.stderr)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("start",), "--head or --address"),
        (("start", "--address", "nowhere"), "HOST:PORT"),
        (("start", "--head", "--port", "-1"), "--port"),
        (("stop", "--grace-period", "-1"), "--grace-period"),
        (("symmetric-run", "--", "true"), "--address"),
        (("symmetric-run", "--address", "a:1"), "COMMAND"),
        (("symmetric-run", "--address", "a:1", "--min-nodes", "0", "--", "true"), "--min-nodes"),
        (("symmetric-run", "--address", "a:1", "--labels", "x", "--", "true"), "--labels"),
    ],
)
def test_a_command_line_that_cannot_be_is_a_usage_error(
    arguments: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    finished = skate(*arguments, folder=tmp_path, SKATE_TEMP_DIR=str(tmp_path))
    assert finished.returncode == 2
    assert says in finished.stderr and "Traceback" not in finished.stderr
    assert list(tmp_path.glob("session_*")) == []


def test_version_names_skate_and_python(tmp_path: Path) -> None:
    finished = skate("version", folder=tmp_path)
    assert finished.returncode == 0
    assert finished.stdout.startswith("skate ")
    assert f"Python {sys.version.split()[0]}" in finished.stdout


def test_the_command_imports_nothing_heavy_before_it_is_needed(tmp_path: Path) -> None:
    program = "import sys, skate.cli.main; print([name for name in sys.modules if '.' not in name])"
    finished = python("-c", program, folder=tmp_path)
    heavy = {"numpy", "rich", "uvloop", "multiprocessing"}
    assert not heavy & set(json.loads(finished.stdout.replace("'", '"'))), finished.stderr


WORLD = """
    import os, sys
    from pathlib import Path
    import neighbour
    print(sys.argv, sys.path[0], __name__, __file__, neighbour.__file__, __spec__ is None)
    print(sys.modules["__main__"].__dict__ is globals(), __package__)
"""

ENDINGS = {
    "end": "print('done')",
    "exit code": "import sys; sys.exit(7)",
    "exit message": "raise SystemExit('enough')",
    "exception": "def f():\n    return 1 / 0\nf()",
    "chained": "try:\n    {}['a']\nexcept KeyError as e:\n    raise ValueError('b') from e",
    "syntax error": "x = (",
    "own hook": "import sys\nsys.excepthook = lambda *a: print('hook', a[2].tb_lineno)\n1 / 0",
    "interrupt": "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)",
    "end of file": "raise EOFError",
    "click": "import click\nraise click.UsageError('not for skate to handle')",
    "at exit": (
        "import atexit, pickle\nclass Mine: pass\n"
        "atexit.register(lambda: print(type(pickle.loads(pickle.dumps(Mine())))))"
    ),
}


def assert_same_ending(ours: Finished, pythons: Finished) -> None:
    assert ours.stdout == pythons.stdout
    assert ours.stderr == pythons.stderr
    assert ours.returncode == pythons.returncode


@pytest.mark.parametrize("ending", ENDINGS)
def test_run_ends_as_python_ends(ending: str, tmp_path: Path) -> None:
    program = write_program(tmp_path, ENDINGS[ending])
    assert_same_ending(skate("run", program, folder=tmp_path), python(program, folder=tmp_path))


@pytest.mark.parametrize("arguments", [(), ("-m", "--help", "--", "x y")])
def test_run_shows_a_program_the_world_that_python_shows_it(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "inner").mkdir()
    write_program(tmp_path, "", "inner/neighbour.py")
    program = write_program(tmp_path, WORLD, "inner/program.py")
    ours = skate("run", program, *arguments, folder=tmp_path)
    assert_same_ending(ours, python(program, *arguments, folder=tmp_path))
    assert "inner/neighbour.py" in ours.stdout


def test_run_follows_a_link_to_a_program_as_python_does(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    write_program(tmp_path, "", "inner/neighbour.py")
    write_program(tmp_path, WORLD, "inner/program.py")
    (tmp_path / "link.py").symlink_to("inner/program.py")
    ours = skate("run", "link.py", folder=tmp_path)
    assert_same_ending(ours, python("link.py", folder=tmp_path))


@pytest.mark.parametrize("name", ["package.program", "package"])
def test_run_of_a_module_is_as_under_python(name: str, tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    write_program(tmp_path, "", "neighbour.py")
    write_program(tmp_path, "", "package/__init__.py")
    write_program(tmp_path, WORLD, "package/program.py")
    write_program(tmp_path, WORLD, "package/__main__.py")
    ours = skate("run", "-m", name, "--help", folder=tmp_path)
    assert_same_ending(ours, python("-m", name, "--help", folder=tmp_path))


def test_run_of_a_folder_runs_its_main(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    write_program(tmp_path, "import sys; print(sys.argv, __name__)", "inner/__main__.py")
    ours = skate("run", "inner", "x", folder=tmp_path)
    assert_same_ending(ours, python("inner", "x", folder=tmp_path))


@pytest.mark.parametrize(
    ("arguments", "said", "exit_code"),
    [
        (("nothing.py",), "can't open file", 2),
        (("-m", "nothing"), "No module named nothing", 1),
        (("-m", "nothing.at_all"), "No module named 'nothing'", 1),
        (("-m", "json"), "No module named json.__main__", 1),
    ],
)
def test_run_says_what_there_is_not(
    arguments: tuple[str, ...], said: str, exit_code: int, tmp_path: Path
) -> None:
    finished = skate("run", *arguments, folder=tmp_path)
    assert said in finished.stderr
    assert "Traceback" not in finished.stderr
    assert finished.returncode == exit_code == python(*arguments, folder=tmp_path).returncode


def test_a_signal_ends_a_program_as_under_python(tmp_path: Path) -> None:
    program = write_program(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
    assert skate("run", program, folder=tmp_path).returncode == -signal.SIGTERM


def test_ray_and_its_submodules_are_the_very_same_modules_as_skates(tmp_path: Path) -> None:
    program = write_program(
        tmp_path,
        """
        import sys
        import ray
        import ray.exceptions as ray_exceptions
        from ray import remote
        import skate
        import skate.exceptions
        assert ray is skate
        assert ray_exceptions is ray.exceptions is skate.exceptions
        assert remote is skate.remote
        assert sys.modules["ray.exceptions"] is sys.modules["skate.exceptions"]
        assert skate.__spec__.name == "skate", "the alias has left its mark"
        assert skate.exceptions.__spec__.name == "skate.exceptions"
        assert not hasattr(skate.exceptions, "__path__")
        try:
            import ray.nothing.at_all
        except ModuleNotFoundError as error:
            print(error)
        """,
    )
    finished = skate("run", program, folder=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == "No module named 'ray.nothing'\n"


def test_the_alias_comes_before_a_ray_that_is_installed(tmp_path: Path) -> None:
    write_program(tmp_path, "raise AssertionError('the wrong ray')", "ray.py")
    program = write_program(tmp_path, "import ray, skate; print(ray is skate)")
    assert skate("run", program, folder=tmp_path).stdout == "True\n"


def test_the_alias_is_refused_once_another_ray_is_in_use(tmp_path: Path) -> None:
    write_program(tmp_path, "", "ray.py")
    program = write_program(
        tmp_path,
        """
        import ray
        from skate.client.ray_alias import install_ray_alias
        try:
            install_ray_alias()
        except RuntimeError as error:
            print(error)
        """,
    )
    printed = python(program, folder=tmp_path).stdout
    assert "ray has already been imported from" in printed
    assert str(tmp_path / "ray.py") in printed


def test_tasks_and_actors_of_a_program_written_for_ray_see_the_alias(tmp_path: Path) -> None:
    write_program(tmp_path, "import ray\ndef modules():\n    return ray.__name__\n", "helper.py")
    program = write_program(
        tmp_path,
        """
        import ray
        import helper

        @ray.remote
        def task():
            import ray.exceptions
            return [ray.exceptions.__name__, helper.modules(), ray.get(ray.put("nested"))]

        @ray.remote
        class Actor:
            def call(self):
                from ray import get
                return get(task.remote())

        @ray.remote
        def fail():
            raise ValueError("as expected")

        print(ray.get([task.remote(), Actor.remote().call.remote()]))
        try:
            ray.get(fail.remote())
        except ray.exceptions.RayTaskError as error:
            print(isinstance(error, ValueError), type(error).__name__)
        """,
    )
    finished = skate("run", program, folder=tmp_path)
    assert finished.returncode == 0, finished.stderr
    answer = ["skate.exceptions", "skate", "nested"]
    assert finished.stdout.splitlines()[0] == str([answer, answer])
    assert finished.stdout.splitlines()[1].startswith("True ")


def test_status_without_a_session_says_so(tmp_path: Path) -> None:
    finished = skate("status", folder=tmp_path, SKATE_TEMP_DIR=str(tmp_path))
    assert finished.stdout.startswith(f"No live skate session in {tmp_path}")
    assert finished.returncode == 1


def test_status_shows_the_session_that_runs(tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    program = write_program(
        tmp_path,
        """
        import subprocess, sys
        import numpy
        import skate

        @skate.remote
        class Actor:
            def ready(self):
                return True

        skate.init(num_cpus=3, resources={"sonar": 2})
        actor = Actor.options(resources={"sonar": 1}).remote()
        skate.get(actor.ready.remote())
        kept = skate.put(numpy.zeros(1 << 20, dtype="u1"))
        waiting = Actor.options(resources={"sonar": 2}).remote()
        command = [sys.executable, "-m", "skate", "status"]
        sys.exit(subprocess.run(command, timeout=30).returncode)
        """,
    )
    # Not under tmp_path: the path of a unix socket may have no more than about 100 characters.
    with tempfile.TemporaryDirectory(prefix="skate-") as root:
        finished = python(program, folder=tmp_path, COLUMNS="140", SKATE_TEMP_DIR=root)
    assert finished.returncode == 0, finished.stderr
    assert "of 3" in finished.stdout
    assert "sonar 1 of 2" in finished.stdout
    assert "1 ALIVE" in finished.stdout
    assert "object store: 1.0 MiB of " in finished.stdout
