"""The ends of nodes and jobs: the parts that hear of them, in order.

Each step is one part that forgets its own. The order is the two tuples below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from skate.gcs.event_log import EventLog
from skate.gcs.membership import LostNode, Membership, NodeRow, info_of
from skate.gcs.outbox import Outbox
from skate.messages import JobOver, NodesChanged


class HearsNodeLost(Protocol):
    """A part that keeps something of each node."""

    def node_lost(self, lost: LostNode) -> None:
        """The node is dead, and its row says so already."""


class HearsJobOver(Protocol):
    """A part that keeps something of each job."""

    def job_over(self, job_id: bytes, now: float) -> None:
        """The job is over."""


class HearsBoth(HearsNodeLost, HearsJobOver, Protocol):
    """A part that keeps something of both."""


class HearsWatchers(HearsBoth, Protocol):
    """Likewise, and nodes watch what it keeps."""

    def watcher_lost(self, lost: LostNode) -> None:
        """The node watches nothing any more."""


class Endings:
    """The ends of nodes and jobs."""

    def __init__(
        self,
        membership: Membership,
        outbox: Outbox,
        log: EventLog,
        *,
        offers: HearsNodeLost,
        groups: HearsBoth,
        actors: HearsWatchers,
        objects: HearsNodeLost,
        tasks: HearsNodeLost,
    ) -> None:
        self._membership = membership
        self._outbox = outbox
        self._log = log
        self._node_lost: tuple[Callable[[LostNode], None], ...] = (
            actors.watcher_lost,  # first: no news of what follows is for the dead node
            offers.node_lost,  # before anything is placed anew: nothing may go to the dead node
            groups.node_lost,  # before its jobs end: their groups return nothing to the dead node
            self._tell_of_lost_node,  # before JobOver: nodes read why those jobs are over
            self._end_jobs,  # before its actors: a name that was only reserved is not a lost actor
            actors.node_lost,  # after its jobs: their reserved actors are told of already
            objects.node_lost,  # of copies: concerns no other step
            tasks.node_lost,  # of reports: concerns no other step
        )
        self._job_over: tuple[Callable[[bytes, float], None], ...] = (
            actors.job_over,  # actors that it had only reserved will never be created
            groups.job_over,  # their bundles are free for others
        )

    def end_node(self, node: NodeRow, cause: str, now: float) -> None:
        """The node is given up, or its connection has ended; `cause` is half a sentence."""
        jobs = self._membership.end_node(node.node_id, cause, now)
        lost = LostNode(node, jobs, now)
        for step in self._node_lost:
            step(lost)

    def end_job(self, job_id: bytes, now: float, but: int = -1) -> None:
        """The job is over; all nodes are told, but for the one at peer `but`, which knows."""
        self._outbox.tell_nodes(JobOver(job_id), but)
        for step in self._job_over:
            step(job_id, now)

    def _tell_of_lost_node(self, lost: LostNode) -> None:
        node, now = lost.node, lost.now
        self._outbox.tell_nodes(NodesChanged([info_of(node)]))
        self._log.record("node", node.node_id, "DEAD", now, node.cause, node.said.pid)

    def _end_jobs(self, lost: LostNode) -> None:
        for job in lost.jobs:
            self._log.record("job", job.job_id, "FINISHED", lost.now, lost.why, job.driver_pid)
            self.end_job(job.job_id, lost.now)
