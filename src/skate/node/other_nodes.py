"""Nodes that join, die, or cannot be reached: the parts that hear of it, in order. Pure.

Another node is *dead* when the GCS says so, and *cut off* when it cannot be reached though the GCS
has not given it up. In both cases all work under way there is lost. The next message for a node
that is cut off opens a new line. A node not heard on any line for ``SILENT_NODE_S`` is *out of
reach*: nothing that can do without it waits for it any more.
"""

from __future__ import annotations

from skate import messages as m
from skate.config import LINK_KEPT_S
from skate.node.actor_proxies import ActorProxies
from skate.node.borrowing import Borrowing
from skate.node.clock import Clock
from skate.node.endings import Endings
from skate.node.forwarding import Forwarding
from skate.node.hears import GCS, hears
from skate.node.holds import Holds
from skate.node.identity import Identity
from skate.node.node_table import NodeTable
from skate.node.pulls import Pulls
from skate.node.values import Values
from skate.objects.object_store import ObjectStore
from skate.rows import OtherNode


class OtherNodes:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        clock: Clock,
        me: Identity,
        store: ObjectStore,
        nodes: NodeTable,
        values: Values,
        pulls: Pulls,
        borrowing: Borrowing,
        holds: Holds,
        forwarding: Forwarding,
        actor_proxies: ActorProxies,
        endings: Endings,
    ) -> None:
        self._clock = clock
        self._me = me
        self._store = store
        self._nodes = nodes
        self._values = values
        self._pulls = pulls
        self._borrowing = borrowing
        self._holds = holds
        self._forwarding = forwarding
        self._actor_proxies = actor_proxies
        self._endings = endings
        self._dead_links: list[OtherNode] = []  # the shell has to close their lines

    @hears(m.NodesChanged, GCS)
    def on_nodes_changed(self, message: m.NodesChanged) -> None:
        """The GCS tells of nodes that have joined, changed or died."""
        for info in message.nodes:
            known = self._nodes.by_id.get(info.node_id)
            if info.node_id == self._me.node_id:
                continue
            if known is not None:
                known.info = info
                if not info.alive and known.is_alive:
                    self.node_died(known)
            elif info.alive:
                self._nodes.add(info)
                self._store.home = self._me.home  # there are other homes now

    def node_died(self, other: OtherNode) -> None:
        """The GCS has given a node up."""
        self._nodes.remove(other)
        self._dead_links.append(other)
        self._pulls.node_died(other.node_id)
        self._node_lost(other, "it died")
        self._holds.node_died(other.node_id)
        self._endings.drivers_died(other.node_id)

    def take_dead(self) -> list[OtherNode]:
        """The nodes that have died since the shell last asked."""
        dead, self._dead_links = self._dead_links, []
        return dead

    def cut_off(self, other: OtherNode) -> None:
        """A node cannot be reached, though it may be alive."""
        if other.is_alive:
            now = self._clock.now
            # The line lasted longer than a lost one would: it was well, though nothing came back.
            if not other.silent_since or now - other.cut_at > LINK_KEPT_S:
                other.silent_since = now
            other.cut_at = now
            self._node_lost(other, "it cannot be reached")

    def _node_lost(self, other: OtherNode, why: str) -> None:
        """All work under way at a node is lost."""
        tasks, other.tasks = other.tasks, {}
        calls = other.calls
        was_used = other.holds_sent > 0 or other.numbers > 0
        other.start_afresh()
        self._borrowing.home_lost(other, was_used=was_used)
        self._values.may_have_run([*tasks.values(), *calls.values()])
        self._forwarding.node_lost(other, tasks, why)
        self._actor_proxies.node_lost(other, calls, why)
