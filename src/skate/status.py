"""What one live session says of itself, for ``skate status`` (status_view.py, its only caller).

A connection of its own, as an observer: it belongs to no job, holds nothing, and whatever becomes
of it, the session goes on. It looks and never changes anything. Errors: OSError if nobody listens
or nobody answers in time, SystemFailureError for a session that refuses or breaks off.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from skate import messages as m
from skate.config import PROTOCOL_VERSION, PYTHON
from skate.errors import SystemFailureError, decode_error
from skate.net import unix_socket
from skate.net.frame import FrameReader, frame

ANSWER_TIMEOUT_S = 5.0
_QUESTIONS = ("status", "nodes")
_READ_BYTES = 256 << 10


def collect(session_folder: Path) -> dict[str, Any]:
    """The nodes of a session with their load, what waits for resources, actors, object store.

    Keys: "nodes" (rows with node_id, alive, resources_total, resources_available, labels),
    "pending" (rows with name, demand, count, reason), "actors" (state to count), "workers" (their
    number) and "object_store" (used_bytes, capacity_bytes, objects).
    """
    description = json.loads((session_folder / "session.json").read_text())
    status, nodes = _ask(str(description["node_socket"]))
    return {
        "nodes": [_node_row(node, status) for node in nodes],
        "pending": _merged(status["pending"]),
        "actors": {state: count for state, count in status["actors"].items() if count},
        "workers": status["workers"],
        "object_store": status["object_store"],
    }


def _ask(node_socket: str) -> list[Any]:
    """The answers to all questions, in their order."""
    hello = m.Hello(PROTOCOL_VERSION, PYTHON, "observer", os.getpid())
    asks = [m.Ask(number, method, {}) for number, method in enumerate(_QUESTIONS)]
    answers: dict[int, Any] = {}
    reader = FrameReader(m.decode_to_client)
    with unix_socket.connect(node_socket, ANSWER_TIMEOUT_S) as line:
        line.sendall(frame([hello, *asks]))
        while len(answers) < len(asks):
            data = line.recv(_READ_BYTES)
            if not data:
                raise SystemFailureError("the session has just ended")
            for message in reader.feed(data):
                _take(message, answers)
    return [answers[ask.number] for ask in asks]


def _take(message: Any, answers: dict[int, Any]) -> None:
    if isinstance(message, m.Refused | m.SessionEnds):
        raise SystemFailureError(message.reason)
    if isinstance(message, m.Answer):
        if message.error:
            raise SystemFailureError(decode_error(message.error).message)
        answers[message.number] = message.body


def _node_row(node: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
    # The node that was asked knows its load now; of others the GCS knows the last heartbeat.
    asked = node["NodeID"] == status["node_id"]
    return {
        "node_id": node["NodeID"],
        "alive": node["Alive"],
        "resources_total": node["Resources"],
        "resources_available": status["resources_available"] if asked else node["available"],
        "labels": node["Labels"],
    }


def _merged(pending: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for a thousand actors that wait for the same."""
    rows: dict[str, dict[str, Any]] = {}
    for row in pending:
        key = json.dumps([row["name"], row["demand"], row["reason"]], sort_keys=True)
        if key in rows:
            rows[key]["count"] += row["count"]
        else:
            rows[key] = dict(row)
    return list(rows.values())
