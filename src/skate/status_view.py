"""What ``skate status`` prints: the live sessions of this user, found by their folders.

A session is live if something listens on its node's socket; folders of sessions that have ended are
passed over. What a session says of itself comes from ``skate.status.collect``; this module only
finds sessions and lays out tables, and changes nothing.
"""

from __future__ import annotations

import importlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from skate.net import unix_socket

CONNECT_TIMEOUT_S = 2.0
BYTE_RESOURCES = ("memory", "object_store_memory")
ID_DIGITS_SHOWN = 12


@dataclass(frozen=True)
class LiveSession:
    """A session folder whose node answers, and what ``session.json`` says in it."""

    folder: Path
    description: Mapping[str, Any]

    def is_named(self, address: str) -> bool:
        """Return whether a user means this session by ``address``."""
        names = {self.folder.name, str(self.folder), str(self.description["node_socket"])}
        return address in names or os.path.realpath(address) == os.path.realpath(self.folder)


def session_root() -> Path:
    """Return the folder that holds the session folders of this user."""
    configured = os.environ.get("SKATE_TEMP_DIR")
    return Path(configured or Path(tempfile.gettempdir()) / f"skate-{os.getuid()}")


def live_sessions(root: Path) -> Iterator[LiveSession]:
    """Yield the sessions under ``root`` that can be asked, the oldest first."""
    for folder in sorted(root.glob("session_*")):
        if folder.is_symlink():
            continue  # a second name for one of the others
        try:
            description = json.loads((folder / "session.json").read_text())
            node_socket = str(description["node_socket"])
        except (OSError, ValueError, LookupError, TypeError):
            continue  # being written, or being swept away
        if _answers(node_socket):
            yield LiveSession(folder, description)


def _answers(socket_path: str) -> bool:
    try:
        unix_socket.connect(socket_path, CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def show_status(address: str | None = None, *, console: Console | None = None) -> int:
    """Print the live sessions, or the one that ``address`` names; return the exit code.

    The exit code is 1 if there is no such session, or if none of them could be read.
    """
    console = console or Console()
    root = session_root()
    sessions = list(live_sessions(root))
    if address is not None:
        sessions = [session for session in sessions if session.is_named(address)]
    if not sessions:
        what = "No live skate session" if address is None else f"No live skate session {address}"
        console.print(Text(f"{what} in {root}."), soft_wrap=True)
        return 1
    return 0 if sum([_show_session(session, console) for session in sessions]) else 1


def _show_session(session: LiveSession, console: Console) -> bool:
    """Print all there is to say about one session; return whether it could be read."""
    started = time.localtime(float(session.description.get("started", 0)))
    console.print()
    console.print(Text(session.folder.name, style="bold"), soft_wrap=True)
    console.print(
        f"  since {time.strftime('%Y-%m-%d %H:%M:%S', started)}"
        f", driver pid {session.description.get('driver_pid', '-')}"
        f", node pid {session.description.get('node_pid', '-')}"
        f", gcs pid {session.description.get('gcs_pid', '-')}",
        highlight=False,
    )
    console.print(Text(f"  logs in {session.folder / 'logs'}"), soft_wrap=True)
    try:
        report = importlib.import_module("skate.status").collect(session.folder)
    except Exception as error:  # one session that is just ending must not hide the others
        console.print(Text(f"  cannot be read: {type(error).__name__}: {error}"), soft_wrap=True)
        return False
    _show_report(report, console)
    return True


def _show_report(report: Mapping[str, Any], console: Console) -> None:
    console.print(node_table(report["nodes"]))
    if report["pending"]:
        console.print(pending_table(report["pending"]))
    else:
        console.print("  nothing is waiting for resources")
    actors = ", ".join(f"{count} {state}" for state, count in sorted(report["actors"].items()))
    console.print(f"  actors: {actors or 'none'}", highlight=False)
    store = report["object_store"]
    console.print(
        f"  object store: {format_bytes(store['used_bytes'])} of"
        f" {format_bytes(store['capacity_bytes'])} in {store['objects']} objects",
        highlight=False,
    )


def node_table(nodes: Sequence[Mapping[str, Any]]) -> Table:
    """Lay out the nodes: one row for each, with what of its resources is in use."""
    table = Table("node", "state", "in use", "labels", title="nodes", title_justify="left")
    for node in nodes:
        available = node["resources_available"]
        in_use = [
            f"{name} {_amount(name, total - available.get(name, 0))} of {_amount(name, total)}"
            for name, total in sorted(node["resources_total"].items())
        ]
        labels = [f"{key}={value}" for key, value in sorted(node["labels"].items())]
        state = Text("alive", "green") if node["alive"] else Text("dead", "red")
        short_id = str(node["node_id"])[:ID_DIGITS_SHOWN]
        table.add_row(short_id, state, Text("\n".join(in_use)), Text("\n".join(labels)))
    return table


def pending_table(pending: Sequence[Mapping[str, Any]]) -> Table:
    """Lay out the work that waits for resources, and why it waits."""
    table = Table("waiting", "count", "each needs", "why", title="pending", title_justify="left")
    for row in pending:
        needs = [f"{name} {_amount(name, value)}" for name, value in sorted(row["demand"].items())]
        table.add_row(
            Text(str(row["name"])),
            str(row["count"]),
            Text(", ".join(needs) or "nothing"),
            Text(str(row["reason"])),
        )
    return table


def format_bytes(count: float) -> str:
    """Return a number of bytes in the largest unit that leaves at least one: ``1.5 GiB``."""
    if count < 1024:
        return f"{count:.0f} bytes"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"


def _amount(resource: str, value: float) -> str:
    return format_bytes(value) if resource in BYTE_RESOURCES else f"{value:g}"
