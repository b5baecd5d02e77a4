"""The members of the cluster: the node table, the job table and the failure detector.

`GcsCore` and its parts call it when a node joins, speaks or leaves, and ask `silent` now and then.
A node that was given up never comes back under its id: it rejoins as a new node.

Invariants, all asserted by `check()`: a peer speaks for at most one living node; no two living
nodes begin with the same `HOME_BYTES`, by which ids name their home; a job runs only on a living
node; living nodes and running jobs are never dropped, of the others the newest stay.

endings.py decides what the end of a node means for actors, objects and tasks.
"""

from __future__ import annotations

from typing import Any

import msgspec

from skate.config import NODE_SILENCE_S, PROTOCOL_VERSION
from skate.gcs.table import Table
from skate.ids import HOME_BYTES, JOB_ID_BYTES, NODE_ID_BYTES
from skate.messages import Heartbeat, JobChanged, NodeInfo, NodeJoins
from skate.scheduler.group_names import parse_name
from skate.scheduler.label_rules import labels_of
from skate.spec import resources_of, with_store
from skate.states import NODE_MOVES, NodeState, advance

ENDED_KEPT = 1_000
"""Dead nodes, and ended jobs, that stay listed: enough for people to look back, and bounded."""

TICK_S = 1.0
"""How often `silent` is asked. A much longer pause means that the GCS itself was not listening."""


class NodeRow(msgspec.Struct):
    """A node: what it `said` when it joined, and its last heartbeat. Times are wall seconds.

    `resources` are its totals now: those that it said, and what bundles of placement groups add.
    """

    node_id: bytes
    peer: int
    said: NodeJoins
    resources: dict[str, int]
    joined: float
    heard: float
    state: NodeState = NodeState.ALIVE
    ended: float = 0.0
    cause: str = ""
    load: Heartbeat | None = None


class JobRow(msgspec.Struct):
    """A job, and the node that its driver is connected to. Times are wall seconds."""

    job_id: bytes
    node_id: bytes
    driver_pid: int
    entrypoint: str
    namespace: str
    alive: bool
    started: float
    ended: float = 0.0


class LostNode(msgspec.Struct, frozen=True):
    """A node that has just been given up, and its jobs, which have ended with it."""

    node: NodeRow
    jobs: list[JobRow]
    now: float

    @property
    def why(self) -> str:
        """The reason why all on the node is gone, for people."""
        return f"node {self.node.node_id.hex()} is dead: {self.node.cause}"


class Membership:
    """Nodes and jobs. `silence_s` is how long a node may say nothing; None trusts its connection.

    A connection within one machine tells the end of a process by itself, and a daemon that a
    debugger has stopped is not dead; so a local session uses None.
    """

    def __init__(self, silence_s: float | None = NODE_SILENCE_S) -> None:
        self.nodes: Table[bytes, NodeRow] = Table(history=ENDED_KEPT)
        self.jobs: Table[bytes, JobRow] = Table(history=ENDED_KEPT)
        self.by_peer: dict[int, NodeRow] = {}  # the living nodes, in the order they joined
        self._silence_s = silence_s
        self._homes: dict[bytes, NodeRow] = {}  # likewise, by `HOME_BYTES` of the id
        self._ticked = 0.0
        self._last_job = 0

    def join(self, message: NodeJoins, peer: int, now: float) -> str:
        """Enter a node. Returns "", or a sentence that says why it is refused."""
        if peer in self.by_peer:
            return "this connection speaks for a node already"
        if message.protocol != PROTOCOL_VERSION:
            return (
                f"this cluster speaks protocol {PROTOCOL_VERSION}, the node {message.protocol}:"
                " both sides need the same version of skate"
            )
        if len(message.node_id) != NODE_ID_BYTES:
            return f"a NodeID has {NODE_ID_BYTES} bytes, not {len(message.node_id)}"
        known = self.nodes.get(message.node_id)
        if known is not None:
            return f"node {message.node_id.hex()} is known already, as {known.state.name}"
        if self.home(message.node_id[:HOME_BYTES]) is not None:
            return (
                f"another living node's id begins with {message.node_id[:HOME_BYTES].hex()} too, by"
                " which objects name their home: start this node again, it gets a new id"
            )
        row = NodeRow(message.node_id, peer, message, message.resources, joined=now, heard=now)
        self.nodes.put(row.node_id, row)
        self._homes[row.node_id[:HOME_BYTES]] = row
        self.by_peer[peer] = row
        return ""

    def row(self, node_id: bytes) -> NodeRow:
        """The row of a node that has joined, and that is not forgotten."""
        row = self.nodes.get(node_id)
        assert row is not None, f"no row of node {node_id.hex()}"
        return row

    def home(self, prefix: bytes) -> NodeRow | None:
        """The living node whose id begins with these `HOME_BYTES`."""
        return self._homes.get(prefix)

    def hear(self, node_id: bytes, now: float) -> None:
        """The node has sent a message."""
        row = self.nodes.get(node_id)
        if row is not None:
            row.heard = now

    def load(self, node_id: bytes, heartbeat: Heartbeat) -> None:
        """The node's load has changed."""
        row = self.nodes.get(node_id)
        if row is not None:
            row.load = heartbeat
            self.nodes.put(node_id, row)

    def silent(self, now: float) -> list[NodeRow]:
        """The living nodes that have been silent for too long; the caller ends them.

        After a pause of the GCS itself (a long answer, a suspended machine, a clock that jumped)
        every node is given its full time again: the GCS has not read their latest messages yet.
        """
        paused = not 0.0 <= now - self._ticked <= 2 * TICK_S
        self._ticked = now
        if self._silence_s is None:
            return []
        alive = self.alive()
        if paused:
            for row in alive:
                row.heard = now
        return [row for row in alive if now - row.heard > self._silence_s]

    def alive(self) -> list[NodeRow]:
        """The living nodes, in the order in which they joined."""
        return list(self._homes.values())

    def change_resources(self, node_id: bytes, resources: dict[str, int]) -> None:
        """The node's totals are these now: bundles of a placement group have come or gone."""
        row = self.nodes.get(node_id)
        if row is not None:
            row.resources = resources
            self.nodes.put(node_id, row)

    def end_node(self, node_id: bytes, cause: str, now: float) -> list[JobRow]:
        """The node is dead; returns its jobs, which end with it. IllegalMove if it was dead."""
        row = self.nodes.get(node_id)
        if row is None:
            raise KeyError(node_id)
        row.state = advance(NODE_MOVES, row.state, NodeState.DEAD)
        del self._homes[node_id[:HOME_BYTES]]
        del self.by_peer[row.peer]
        row.ended, row.cause = now, cause
        self.nodes.put(node_id, row)
        self.nodes.retire(node_id)
        jobs = [job for job in self.jobs.rows() if job.alive and job.node_id == node_id]
        for job in jobs:
            self._end_job(job, now)
        return jobs

    def next_job_id(self) -> bytes:
        """A JobID that was never given before in this cluster."""
        self._last_job += 1
        return self._last_job.to_bytes(JOB_ID_BYTES, "big")

    def change_job(self, node_id: bytes, message: JobChanged) -> bool:
        """A job of this node began or ended; False if that was known. An ended job stays ended.

        ValueError for an id of the wrong length, as nodes take ids of ended jobs apart.
        """
        if len(message.job_id) != JOB_ID_BYTES:
            raise ValueError(f"a JobID of {len(message.job_id)} bytes")
        row = self.jobs.get(message.job_id)
        if row is None:
            row = JobRow(
                message.job_id,
                node_id,
                message.driver_pid,
                message.entrypoint,
                message.namespace,
                alive=True,
                started=message.at,
            )
            self.jobs.put(row.job_id, row)
            if message.alive:
                return True
        if not row.alive or message.alive:
            return False
        self._end_job(row, message.at)
        return True

    def _end_job(self, row: JobRow, now: float) -> None:
        row.alive, row.ended = False, now
        self.jobs.put(row.job_id, row)
        self.jobs.retire(row.job_id)

    def check(self) -> None:
        """Assert the invariants above."""
        self.nodes.check()
        self.jobs.check()
        alive = [row for row in self.nodes.rows() if row.state is NodeState.ALIVE]
        assert alive == self.alive()
        assert [row.node_id[:HOME_BYTES] for row in alive] == list(self._homes)
        assert [(row.peer, row) for row in alive] == list(self.by_peer.items())
        living = {row.node_id for row in self.alive()}
        assert all(job.node_id in living for job in self.jobs.rows() if job.alive)


def info_of(row: NodeRow) -> NodeInfo:
    """A node as the other nodes need to know it."""
    alive = row.state is NodeState.ALIVE
    return NodeInfo(row.node_id, row.said.address, row.resources, row.said.labels, alive)


def available_on(row: NodeRow) -> dict[str, int]:
    """The free resources of the node, as of its last heartbeat, for people."""
    load = row.load
    return row.resources if load is None else with_store(load.available, load.store_used_bytes)


def for_people(resources: dict[str, int]) -> dict[str, float]:
    """Amounts as users write them; the names that placement groups make are left out."""
    own = {name: units for name, units in resources.items() if parse_name(name) is None}
    return resources_of(own)


def view_node(row: NodeRow) -> dict[str, Any]:
    """A node as `nodes()` shows it: Ray's keys (and its second `alive`), then skate's own."""
    alive = row.state is NodeState.ALIVE
    # A node in a local session has no port: its address is the path of its socket.
    said = row.said
    local = said.address.startswith("/")
    host, _, port = ("127.0.0.1", "", "") if local else said.address.rpartition(":")
    load = row.load
    return {
        "NodeID": row.node_id.hex(),
        "Alive": alive,
        "alive": alive,
        "NodeManagerAddress": host or said.address,
        "NodeManagerHostname": said.hostname,
        "NodeManagerPort": int(port) if host and port.isdecimal() else 0,
        # One port a machine serves all of these.
        "ObjectManagerPort": int(port) if host and port.isdecimal() else 0,
        "MetricsExportPort": 0,
        "MetricsAgentPort": 0,
        "DashboardAgentListenPort": 0,
        "RuntimeEnvAgentPort": 0,
        "NodeName": host or said.address,
        "ObjectStoreSocketName": said.address if local else "",
        "RayletSocketName": said.address if local else "",
        "Resources": for_people(row.resources) if alive else {},
        "Labels": labels_of(row.node_id, said.labels),
        "DeathReason": 0 if alive else 1,
        "DeathReasonMessage": row.cause,
        "pid": said.pid,
        "joined": row.joined,
        "ended": row.ended,
        "available": for_people(available_on(row)) if alive else {},
        "queued": load.queued if load and alive else 0,
        "running": load.running if load and alive else 0,
        "object_store_bytes": said.object_store_bytes,
        "object_store_used_bytes": load.store_used_bytes if load and alive else 0,
    }


def view_job(row: JobRow) -> dict[str, Any]:
    """A job as plain data, ids in hex, times in wall seconds (0.0: not yet)."""
    return {
        "job_id": row.job_id.hex(),
        "node_id": row.node_id.hex(),
        "driver_pid": row.driver_pid,
        "entrypoint": row.entrypoint,
        "namespace": row.namespace,
        "alive": row.alive,
        "started": row.started,
        "ended": row.ended,
    }
