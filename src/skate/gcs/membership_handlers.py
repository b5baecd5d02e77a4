"""Nodes and jobs, as the GCS hears of them: joins, heartbeats, jobs that begin and end.

A peer that sends `NodeJoins` speaks for that node until the node is dead (endings.py says what that
means). A new node reads of all living ones, and they read of it. Its heartbeats go to the parts
that place work.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from skate.gcs import questions
from skate.gcs.event_log import EventLog
from skate.gcs.hears import Asker, Body, answers, hears, hears_anyone
from skate.gcs.membership import (
    Membership,
    NodeRow,
    available_on,
    for_people,
    info_of,
    view_job,
    view_node,
)
from skate.gcs.outbox import Outbox
from skate.messages import Heartbeat, JobChanged, NodeJoins, NodesChanged, Refused, StillAlive
from skate.states import NodeState


class PlacesWork(Protocol):
    """A part that chooses nodes, and has to know the living ones and their load."""

    def node_joined(self, node: NodeRow, now: float) -> None:
        """A new node, with all its resources free."""

    def heartbeat(self, node: NodeRow, load: Heartbeat) -> None:
        """The load of a node."""


class EndsJobs(Protocol):
    """A part that ends all that belongs to a job."""

    def end_job(self, job_id: bytes, now: float, but: int) -> None:
        """The job is over; the node at peer `but` knows."""


class MembershipHandlers:
    """See the module's docstring. `placing` are told of nodes in this order."""

    def __init__(
        self,
        membership: Membership,
        outbox: Outbox,
        log: EventLog,
        placing: Sequence[PlacesWork],
        endings: EndsJobs,
    ) -> None:
        self._membership = membership
        self._outbox = outbox
        self._log = log
        self._placing = placing
        self._endings = endings

    # ------------------------------------------------------------------------- messages

    @hears_anyone(NodeJoins)
    def on_node_joins(self, peer: int, message: NodeJoins, now: float) -> None:
        """A node wants to belong to the cluster."""
        refusal = self._membership.join(message, peer, now)
        if refusal:
            self._outbox.send(peer, Refused(refusal))
            return
        node = self._membership.by_peer[peer]
        for part in self._placing:
            part.node_joined(node, now)
        self._log.record("node", node.node_id, "ALIVE", now, message.hostname, message.pid)
        alive = [info_of(row) for row in self._membership.alive()]
        self._outbox.send(peer, NodesChanged(alive))
        self._outbox.tell_nodes(NodesChanged(alive[-1:]), but=peer)

    @hears_anyone(StillAlive)
    def on_still_alive(self, _peer: int, message: StillAlive, now: float) -> None:
        """A node lives, but is too busy for its heartbeat. The head passes on those of all others,
        so while it is busy, all of them count as heard."""
        for row in self._membership.alive() if message.is_head else ():
            self._membership.hear(row.node_id, now)
        self._membership.hear(message.node_id, now)

    @hears(Heartbeat)
    def on_heartbeat(self, node: NodeRow, message: Heartbeat, _now: float) -> None:
        """The node's load."""
        self._membership.load(node.node_id, message)
        for part in self._placing:
            part.heartbeat(node, message)

    @hears(JobChanged)
    def on_job_changed(self, node: NodeRow, message: JobChanged, now: float) -> None:
        """A job has begun or ended."""
        if not self._membership.change_job(node.node_id, message):
            return
        state = "RUNNING" if message.alive else "FINISHED"
        text, pid = message.entrypoint, message.driver_pid
        self._log.record("job", message.job_id, state, message.at, text, pid)
        if not message.alive:
            self._endings.end_job(message.job_id, now, but=node.peer)

    # ------------------------------------------------------------------------- questions

    @answers(questions.Nodes)
    def nodes(self, _asker: Asker, _ask: questions.Nodes, _now: float) -> Body:
        """All nodes, for people."""
        return [view_node(row) for row in self._membership.nodes.rows()]

    @answers(questions.ListJobs)
    def list_jobs(self, _asker: Asker, _ask: questions.ListJobs, _now: float) -> Body:
        """All jobs, for people."""
        return [view_job(row) for row in self._membership.jobs.rows()]

    @answers(questions.NextJobId)
    def next_job_id(self, _asker: Asker, _ask: questions.NextJobId, _now: float) -> Body:
        """An id for a new job."""
        return self._membership.next_job_id()

    @answers(questions.ClusterResources)
    def cluster_resources(
        self, _asker: Asker, _ask: questions.ClusterResources, _now: float
    ) -> Body:
        """The total resources of all living nodes."""
        return for_people(_sum(row.resources for row in self._membership.alive()))

    @answers(questions.AvailableResources)
    def available_resources(
        self, _asker: Asker, _ask: questions.AvailableResources, _now: float
    ) -> Body:
        """The free resources of all living nodes."""
        free = for_people(_sum(available_on(row) for row in self._membership.alive()))
        return {name: amount for name, amount in free.items() if amount > 0}

    def counts(self) -> dict[str, Any]:
        """How many nodes and jobs there are, by state."""
        nodes, jobs = self._membership.nodes.rows(), self._membership.jobs.rows()
        alive = sum(row.state is NodeState.ALIVE for row in nodes)
        running = sum(row.alive for row in jobs)
        return {
            "nodes": {"ALIVE": alive, "DEAD": len(nodes) - alive},
            "jobs": {"RUNNING": running, "FINISHED": len(jobs) - running},
        }

    def check(self) -> None:
        """Assert the invariants of the tables."""
        self._membership.check()


def _sum(parts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for name, units in part.items():
            total[name] = total.get(name, 0) + units
    return total
