"""The first step of a session: what it starts, what it leaves behind, what daemons inherit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from skate.launch import head_start

INHERITS = """
import os
from pathlib import Path
import skate
from skate.node.shell.leftovers import marked

_, end = os.pipe()
os.set_inheritable(end, True)
pipe = os.readlink(f"/proc/self/fd/{end}")
context = skate.init("local", num_cpus=1)
skate.nodes()  # the GCS runs as well
pids = marked(Path(context["session_dir"]).name)
names = sorted({Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids})
held = [os.readlink(fd) for pid in pids for fd in Path(f"/proc/{pid}/fd").iterdir()]
print(",".join(names), pipe in held)
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in head_start.ADDRESS_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("SKATE_TEMP_DIR", str(tmp_path))
    return tmp_path


def test_a_head_start_that_was_in_vain_leaves_nothing_behind(root: Path) -> None:
    begun = head_start.begin(None)
    assert begun is not None
    assert [str(folder) for folder in root.iterdir()] == [begun.folder.path]
    begun.drop()
    assert not list(root.iterdir())
    with pytest.raises(ProcessLookupError):
        os.kill(begun.node.pid, 0)


@pytest.mark.parametrize("address", ["auto", "10.0.0.1:6379", "skate://10.0.0.1:6379"])
def test_there_is_none_for_who_joins_a_cluster(root: Path, address: str) -> None:
    assert head_start.begin(address) is None
    assert not list(root.iterdir())


def test_there_is_none_where_a_cluster_may_be_joined(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = root / "session_of_another"
    folder.mkdir()
    (folder / "node.sock").touch()
    (folder / "session.json").write_text('{"node_socket":"","started_by":"start"}')
    assert head_start.begin(None) is None
    (folder / "session.json").unlink()
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert head_start.begin(None) is None


def test_daemons_inherit_no_descriptor_of_the_program(root: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", INHERITS], capture_output=True, text=True, timeout=60, cwd=root
    )
    assert finished.returncode == 0, finished.stderr
    names, is_held = finished.stdout.split()
    assert {"skate:node", "skate:gcs", "skate:zygote"} <= set(names.split(","))
    assert is_held == "False"


def test_decorating_and_looking_up_init_load_nothing_that_takes_time() -> None:
    program = "import skate, sys; skate.remote(lambda: 1); skate.init; print(*sys.modules)"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    finished = subprocess.run(
        [sys.executable, "-S", "-c", program], capture_output=True, text=True, env=environ
    )
    loaded = set(finished.stdout.split())
    assert "skate.launch.head_start" in loaded
    assert not {"typing", "msgspec", "asyncio", "socket", "subprocess", "inspect"} & loaded
