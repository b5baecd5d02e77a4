"""The output of ``skate status``: this user's live sessions and clusters on this machine.

Sessions are found by their folders (launch/session_folder.py). A cluster is shown once, however
many of its nodes are here. A session's state comes from ``skate.cli.status.collect``; this module
only lays out tables, and changes no live session. Leftovers of killed sessions are removed.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from skate.launch.session_folder import BY_INIT, LiveSession, live_sessions, sessions_root, sweep
from skate.spec import amount_text, format_bytes

ID_DIGITS_SHOWN = 12
HIDDEN_RESOURCES = ("node:",)  # one of each on each node, for tasks that are bound to it


def show_status(address: str | None = None, *, console: Console | None = None) -> int:
    """Print the live sessions, or the one that ``address`` names; return the exit code.

    The exit code is 1 if there is no such session, or if none of them could be read.
    """
    console = console or Console()
    root = sessions_root()
    sweep(root)  # or the arena of a killed node would stay in memory
    sessions = list(live_sessions(root))
    if address is not None:
        sessions = [session for session in sessions if _is_meant(session, address)]
    sessions = _one_of_each(sessions)
    if not sessions:
        what = "No live skate session" if address is None else f"No live skate session {address}"
        console.print(Text(f"{what} in {root}."), soft_wrap=True)
        return 1
    return 0 if sum([_show_session(session, console) for session in sessions]) else 1


def _is_meant(session: LiveSession, address: str) -> bool:
    if session.is_named(address):
        return True
    told = session.description
    if not told.address or "/" in address or ":" not in address:
        return False
    from skate.launch.addresses import is_same

    return any(is_same(name, address) for name in {told.address, told.cluster_address})


def _one_of_each(sessions: Sequence[LiveSession]) -> list[LiveSession]:
    """One session of each cluster with several nodes here, the head's if that is among them."""
    from skate.launch.addresses import is_same

    found: list[LiveSession] = []
    for session in sessions:
        told = session.description
        name = told.cluster_address or told.node_socket
        for place, other in enumerate(found):
            known = other.description
            # A node knows its head by the name in its options: localhost, say.
            if is_same(name, known.cluster_address or known.node_socket):
                if told.is_head:
                    found[place] = session
                break
        else:
            found.append(session)
    return found


def _show_session(session: LiveSession, console: Console) -> bool:
    """Print the state of one session; return whether it could be read."""
    told = session.description
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(told.started))
    pids = {
        "driver": told.driver_pid if told.started_by == BY_INIT else 0,
        "node": told.node_pid,
        "gcs": told.gcs_pid,
    }
    console.print()
    if told.address:
        console.print(Text(f"cluster at {told.cluster_address}", style="bold"), soft_wrap=True)
        here = "its head" if told.is_head else "a node of it"
        console.print(Text(f"  {here} is here: {told.address}, {session.folder.name}"))
    else:
        console.print(Text(session.folder.name, style="bold"), soft_wrap=True)
    console.print(
        f"  since {started}" + "".join(f", {role} pid {pid}" for role, pid in pids.items() if pid),
        highlight=False,
    )
    console.print(Text(f"  logs in {session.folder / 'logs'}"), soft_wrap=True)
    if told.headless:
        console.print(Text(f"  {told.headless}"), soft_wrap=True)
        return False
    try:
        report = importlib.import_module("skate.cli.status").collect(session.folder)
    except Exception as error:  # one session that is just ending must not hide the others
        console.print(Text(f"  cannot be read: {type(error).__name__}: {error}"), soft_wrap=True)
        return False
    _show_report(report, console)
    return True


def _show_report(report: Mapping[str, Any], console: Console) -> None:
    console.print(node_table(report["nodes"]))
    alive = [node for node in report["nodes"] if node["alive"]]
    if len(alive) > 1:
        in_use = ", ".join(_in_use(*totals(alive)))
        console.print(Text(f"  all {len(alive)} nodes: {in_use}"), soft_wrap=True)
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


def totals(nodes: Sequence[Mapping[str, Any]]) -> tuple[dict[str, float], dict[str, float]]:
    """All resources of these nodes, and the available part."""
    total: dict[str, float] = {}
    available: dict[str, float] = {}
    for node in nodes:
        for name, amount in node["resources_total"].items():
            total[name] = total.get(name, 0) + amount
        for name, amount in node["resources_available"].items():
            available[name] = available.get(name, 0) + amount
    return total, available


def _in_use(total: Mapping[str, float], available: Mapping[str, float]) -> list[str]:
    return [
        f"{name} {amount_text(name, size - available.get(name, 0))} of {amount_text(name, size)}"
        for name, size in sorted(total.items())
        if not name.startswith(HIDDEN_RESOURCES)
    ]


def node_table(nodes: Sequence[Mapping[str, Any]]) -> Table:
    """Lay out the nodes: one row for each, with its resources in use."""
    table = Table("node", "state", "in use", "labels", title="nodes", title_justify="left")
    for node in nodes:
        in_use = _in_use(node["resources_total"], node["resources_available"])
        labels = [f"{key}={value}" for key, value in sorted(node["labels"].items())]
        state = Text("alive", "green") if node["alive"] else Text("dead", "red")
        if not node["alive"] and node.get("cause"):
            in_use = [str(node["cause"])]
        name = str(node["node_id"])[:ID_DIGITS_SHOWN]
        if node.get("address"):
            name += f"\n{node['address']}"
        table.add_row(Text(name), state, Text("\n".join(in_use)), Text("\n".join(labels)))
    return table


def pending_table(pending: Sequence[Mapping[str, Any]]) -> Table:
    """Lay out the work that waits for resources, with the reasons."""
    table = Table("waiting", "count", "each needs", "why", title="pending", title_justify="left")
    for row in pending:
        needs = [
            f"{name} {amount_text(name, value)}" for name, value in sorted(row["demand"].items())
        ]
        table.add_row(
            Text(str(row["name"])),
            str(row["count"]),
            Text(", ".join(needs) or "nothing"),
            Text(str(row["reason"])),
        )
    return table
