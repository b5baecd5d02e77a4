"""The state of one live session, or of the cluster that it is part of.

For ``skate status`` (status_view.py, its only caller), which looks and never changes anything.
Errors: OSError if no node listens or answers in time, SystemFailureError for a session that refuses
or breaks off.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from skate.launch.observer import Observer
from skate.launch.session_folder import read_description
from skate.scheduler.label_rules import NODE_ID_LABEL


def collect(session_folder: Path) -> dict[str, Any]:
    """The nodes of a session or a cluster, its waiting work, actors and object store.

    Keys: "nodes" (rows with node_id, address, alive, cause of death, resources_total,
    resources_available, labels), "pending" (rows with name, demand, count, reason, node_id),
    "actors" (state to count), "workers" (their number on the node that was asked) and
    "object_store" (used_bytes, capacity_bytes, objects), of all nodes.
    """
    description = read_description(session_folder)
    with Observer(description.node_socket) as observer:
        status = observer.ask("status")
        nodes = observer.ask("nodes")
        pending = observer.ask("pending")
        summary = observer.ask("summary") if description.address else None
    store, actors = status["object_store"], status["actors"]
    if summary is not None:
        actors = summary["actors"]
        store = {
            "used_bytes": _sum(nodes, status, "object_store_used_bytes", store["used_bytes"]),
            "capacity_bytes": _sum(nodes, status, "object_store_bytes", store["capacity_bytes"]),
            "objects": max(summary["objects"], store["objects"]),
        }
    return {
        "nodes": [_node_row(node, status) for node in nodes],
        "pending": _merged(_pending(status, pending)),
        "actors": {state: count for state, count in actors.items() if count},
        "workers": status["workers"],
        "object_store": store,
    }


def _sum(nodes: list[dict[str, Any]], status: dict[str, Any], key: str, asked: int) -> int:
    """The sum over all living nodes; the asked node's is newer than its last heartbeat."""
    others = (node for node in nodes if node["Alive"] and node["NodeID"] != status["node_id"])
    return asked + sum(int(node[key]) for node in others)


def _node_row(node: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
    # The asked node knows its load now; of others the GCS knows the last heartbeat.
    asked = node["NodeID"] == status["node_id"]
    port = node["NodeManagerPort"]
    return {
        "node_id": node["NodeID"],
        "address": f"{node['NodeManagerAddress']}:{port}" if port else "",
        "alive": node["Alive"],
        "cause": node["DeathReasonMessage"],
        "resources_total": node["Resources"],
        "resources_available": status["resources_available"] if asked else node["available"],
        # Every node has the label of its id, which is shown anyway.
        "labels": {key: x for key, x in node["Labels"].items() if key != NODE_ID_LABEL},
    }


def _pending(status: dict[str, Any], of_gcs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Work that waits on the asked node, as it tells itself, and elsewhere, as the GCS knows."""
    here = [{**row, "node_id": status["node_id"]} for row in status["pending"]]
    known = {(row["name"], _key(row["demand"])) for row in here}
    return here + [
        row
        for row in of_gcs
        if row["node_id"] != status["node_id"] or (row["name"], _key(row["demand"])) not in known
    ]


def _merged(pending: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge rows: a thousand actors that wait for the same, on any node, are one row."""
    rows: dict[str, dict[str, Any]] = {}
    for row in pending:
        key = _key([row["name"], row["demand"], row["reason"]])
        if key in rows:
            rows[key]["count"] += row["count"]
        else:
            rows[key] = dict(row)
    return list(rows.values())


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
