"""The other nodes of the cluster, and whether they can be reached. Pure.

To run a task elsewhere, or to hold an object of another home, a node is a client of that other
node: over a line that it opened itself (the shell dials when there is something in an outbox, and
keeps the line across broken connections, net/lasting.py). The other node's requests come over the
line that it has opened, as from any client.

Nodes that join, die or are cut off are entered by other_nodes.py.
"""

from __future__ import annotations

from skate.config import AVOID_S, DEAD_NODES_KEPT, SILENT_NODE_S
from skate.ids import HOME_BYTES, home_of
from skate.messages import NodeInfo
from skate.node.clock import Clock
from skate.rows import OtherNode
from skate.states import TASK_FORWARDED


class NodeTable:
    """See the module's docstring."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self.by_id: dict[bytes, OtherNode] = {}
        self.by_home: dict[bytes, OtherNode] = {}
        self.alive = 0
        self.dead: dict[bytes, None] = {}  # the newest nodes that the GCS has given up

    def add(self, info: NodeInfo) -> None:
        """A node has joined."""
        other = OtherNode(info)
        self.by_id[info.node_id] = other
        self.by_home[info.node_id[:HOME_BYTES]] = other
        self.alive += 1

    def remove(self, other: OtherNode) -> None:
        """The GCS has given a node up."""
        other.is_alive = False
        self.alive -= 1
        del self.by_id[other.node_id]
        del self.by_home[other.node_id[:HOME_BYTES]]
        self.dead[other.node_id] = None
        if len(self.dead) > DEAD_NODES_KEPT:
            del self.dead[next(iter(self.dead))]

    def home_of(self, any_id: bytes) -> OtherNode | None:
        """The living home of a foreign task, actor or object."""
        return self.by_home.get(home_of(any_id))

    def unreachable(self) -> list[bytes]:
        """The nodes that could not be reached a short while ago."""
        since = self._clock.now - AVOID_S
        return [other.node_id for other in self.by_id.values() if other.cut_at > since]

    def is_out_of_reach(self, other: OtherNode) -> bool:
        """Whether a node lives, but has been silent so long that nothing waits for it any more."""
        since = other.silent_since
        return bool(since) and self._clock.now - since >= SILENT_NODE_S

    def check(self) -> None:
        """Assert the invariants; for tests and the simulator."""
        assert self.alive == len(self.by_id) == len(self.by_home)
        for other in self.by_id.values():
            assert other.is_alive
            assert 0 <= other.holds_registered <= other.holds_sent
            for task in other.tasks.values():
                assert task.host is other and task.state is TASK_FORWARDED
