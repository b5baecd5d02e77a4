"""``skate status`` finds the sessions that live, and shows what they say of themselves."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from skate.cli.status_view import node_table, pending_table, show_status
from skate.launch.session_folder import live_sessions
from skate.spec import format_bytes


@pytest.fixture
def root() -> Iterator[Path]:
    # Not tmp_path: the path of a unix socket may have no more than about 100 characters.
    with tempfile.TemporaryDirectory(prefix="skate-") as folder:
        yield Path(folder)


def write_session(root: Path, name: str, description: Any = None) -> Path:
    folder = root / name
    folder.mkdir()
    node_socket = str(folder / "node.sock")
    text = json.dumps({"session": name, "node_socket": node_socket, "started": 0.0})
    (folder / "session.json").write_text(text if description is None else description)
    return folder


@contextmanager
def listening(folder: Path) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "node.sock"))
        listener.listen()
        yield


def printed(renderable: Any, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_only_sessions_whose_node_answers_are_live(root: Path) -> None:
    write_session(root, "session_2_never_listened")
    write_session(root, "session_3_half_written", '{"session": "ses')
    write_session(root, "session_4_without_socket", "{}")
    (root / "session_5_empty").mkdir()
    (root / "session_latest").symlink_to("session_6_alive")
    killed = write_session(root, "session_1_killed")
    with listening(killed):
        pass  # its socket file stays, as after kill -9
    with listening(write_session(root, "session_6_alive")):
        (session,) = live_sessions(root)
    assert session.folder.name == "session_6_alive"


def test_a_session_is_named_by_name_folder_or_socket(root: Path) -> None:
    folder = write_session(root, "session_1")
    with listening(folder):
        (session,) = live_sessions(root)
    for address in ("session_1", str(folder), f"{folder}/", str(folder / "node.sock")):
        assert session.is_named(address)
    assert not session.is_named("session_2")
    assert not session.is_named(str(root))


def test_no_session_of_that_name_is_said_plainly(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKATE_TEMP_DIR", str(root))
    console = Console(file=io.StringIO(), width=200)
    with listening(write_session(root, "session_1")):
        assert show_status("session_2", console=console) == 1
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert said == f"No live skate session session_2 in {root}.\n"


def test_a_cluster_is_shown_once_under_whatever_name_its_nodes_know_the_head(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKATE_TEMP_DIR", str(root))
    console = Console(file=io.StringIO(), width=200)
    with contextlib.ExitStack() as stack:
        for name, told in (
            ("session_1_node", {"address": "127.0.0.1:8", "head_address": "localhost:7"}),
            ("session_2_head", {"address": "127.0.0.1:7"}),
            ("session_3_node", {"address": "127.0.0.1:9", "head_address": "127.0.0.1:7"}),
            ("session_4_other", {"address": "127.0.0.1:6"}),
        ):
            told["node_socket"] = str(root / name / "node.sock")
            stack.enter_context(listening(write_session(root, name, json.dumps(told))))
        show_status(console=console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert said.count("cluster at") == 2
    assert "its head is here: 127.0.0.1:7, session_2_head" in said
    assert "session_4_other" in said


def test_nodes_show_what_is_in_use_and_who_is_dead() -> None:
    alive = {
        "node_id": "ab" * 16,
        "alive": True,
        "resources_total": {"CPU": 4.0, "memory": 2.0**31, "[odd]": 1},
        "resources_available": {"CPU": 1.5, "memory": 2.0**30},
        "labels": {"zone": "[red]a"},
    }
    dead = {**alive, "node_id": "cd" * 16, "alive": False, "resources_total": {}}
    table = printed(node_table([alive, dead]))
    for text in ("abababababab ", "CPU 2.5 of 4", "1.0 GiB of 2.0 GiB", "[odd] 1 of 1"):
        assert text in table
    assert "zone=[red]a" in table
    assert "dead" in table


def test_waiting_work_shows_its_count_needs_and_reason() -> None:
    rows = [
        {"name": "train", "demand": {"GPU": 1}, "count": 7, "reason": "no node has a GPU"},
        {"name": "free", "demand": {}, "count": 1, "reason": "[bold]waits"},
    ]
    table = printed(pending_table(rows))
    for text in ("train", "7", "GPU 1", "no node has a GPU", "nothing", "[bold]waits"):
        assert text in table


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (1.5 * 2**30, "1.5 GiB"),
     (2**50, "1024.0 TiB")],
)  # fmt: skip
def test_bytes_are_shown_in_a_readable_unit(count: float, text: str) -> None:
    assert format_bytes(count) == text
