"""Nodes and their GCS, all of them cores, and the lines between them, which a test may hold up."""

from __future__ import annotations

import itertools
from typing import Any

from skate import messages as m
from skate.config import HEARTBEAT_S, PROTOCOL_VERSION, PYTHON
from skate.gcs.gcs_core import GcsCore
from skate.gcs.outbox import Send
from skate.ids import handle_id
from skate.node.node_core import NodeCore
from skate.objects.arena import Arena
from skate.rows import Client, OtherNode
from skate.spec import ActorOptions, Strategy
from tests.node.played_node import PAGE, Node, Program, done, runs

Way = tuple[str, str]
"""From whom to whom; the GCS is "gcs". A node answers another on the line that this one opened."""


class ClusterNode(Node):
    """A node of a ``Cluster``."""

    def __init__(self, cluster: Cluster, name: str, total: dict[str, int], pages: int) -> None:
        self.cluster = cluster
        self.name = name
        self.ids = itertools.count(1 + 1_000 * len(cluster.nodes))
        self.started, self.killed, self.closed, self.ended = [], [], [], []
        arena = Arena(pages * PAGE)
        self.core = NodeCore(
            name.encode() * 16, "s", total, arena, "", self, PYTHON, is_cluster=True
        )
        self.core.begin(cluster.now)
        self.number = len(cluster.nodes) + 1  # as a peer of the GCS
        self.openers: dict[str, Client] = {}  # who has opened a line to this node
        self.is_dead = False
        self.fetches: list[tuple[bytes, int, bytes]] = []  # under way: object, size, from whom

    def fetch(self, object_id: bytes, offset: int, size: int, node_id: bytes) -> None:
        self.fetches.append((object_id, size, node_id))

    def fetched(self) -> list[bytes]:
        """All that is under way to this node arrives; what that was."""
        fetches, self.fetches = self.fetches, []
        for object_id, size, _ in fetches:
            self.core.fetched(object_id, "ok", size, 0.001)
            self.turn()
        self.cluster.run()
        return [object_id for object_id, _, _ in fetches]

    def cancel_fetch(self, object_id: bytes) -> None: ...

    def turn(self) -> None:
        super().turn()
        self.cluster.collect()

    def actor_up(self) -> Client:
        """The process of an actor comes up, ahead of the workers that were asked for."""
        self.started.sort(key=lambda worker: worker.actor is None)
        return self.came_up()

    def state_of(self, object_id: bytes) -> str:
        return self.core.store.objects[object_id].state.name

    def actor_state(self, actor_id: bytes) -> str:
        return self.core.router.actors[actor_id].state.name


class Cluster:
    """See the module's docstring. ``held`` are the ways on which nothing arrives now."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.gcs = GcsCore(random=lambda: 0.5)
        self.nodes: dict[str, ClusterNode] = {}
        self.held: set[Way] = set()
        self._asked: dict[Way, list[Any]] = {}  # on the line that the first has opened
        self._answered: dict[Way, list[Any]] = {}  # on the line that the second has opened
        self._renewed: set[Way] = set()  # lines that were given up by who had opened them

    def add(self, name: str, cpus: int = 1, *, pages: int = 1_000, **resources: int) -> ClusterNode:
        total = {what: 10_000 * count for what, count in {"CPU": cpus, **resources}.items()}
        node = ClusterNode(self, name, total, pages)
        self.nodes[name] = node
        node.core.outbox.to_gcs(
            m.NodeJoins(
                PROTOCOL_VERSION,
                node.core.me.node_id,
                1,
                f"{name}:1",
                name,
                total,
                {},
                PAGE * pages,
            )
        )
        self.run()
        return node

    # What happens to it.

    def run(self) -> None:
        """Until nothing is on its way but what is held."""
        self.collect()
        while self._step():
            pass

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += HEARTBEAT_S
            for node in self._living():
                node.core.begin(self.now)
                scheduler = node.core.scheduler
                load = (dict(scheduler.available), scheduler.queued(), 0, 0)
                received = node.core.parts.guests.received
                beat = m.Heartbeat(*load, scheduler.average_task_s, received)
                node.core.outbox.to_gcs(beat)
                node.core.tick()
                node.turn()
            self._gcs_sends(self.gcs.tick(self.now))
            self.run()

    def die(self, name: str) -> None:
        """The node's machine is gone."""
        self.nodes[name].is_dead = True
        for lines in (self._asked, self._answered):
            for way in [way for way in lines if name in way]:
                del lines[way]
        self._gcs_sends(self.gcs.peer_lost(self.nodes[name].number, self.now))
        self.run()
        for node in self._living():
            self._line_ends(name, node)
        self.run()

    def cut(self, opener: str, to: str) -> None:
        """One node gives its line to another up; the other reads of that with the next line."""
        self._asked.pop((opener, to), None)
        self._answered.pop((to, opener), None)
        self._renewed.add((opener, to))
        node = self.nodes[opener]
        node.core.begin(self.now)
        node.core.cut_off(self.neighbour(opener, to))
        node.turn()
        self.run()

    def line_ends(self, opener: str, to: str) -> None:
        """A node gives up the line that another has opened to it: that was away for too long."""
        self._line_ends(opener, self.nodes[to])
        self.run()

    # What a test looks at.

    def neighbour(self, name: str, other: str) -> OtherNode:
        return self.nodes[name].core.nodes.by_id[self.nodes[other].core.me.node_id]

    def on_its_way(self, sender: str, to: str) -> list[str]:
        return [type(message).__name__ for message in self._asked.get((sender, to), [])]

    # The lines.

    def collect(self) -> None:
        """Put on the lines what the nodes have said in this turn."""
        for node in self._living():
            name = node.name
            self._asked.setdefault((name, "gcs"), []).extend(node.core.outbox.gcs)
            node.core.outbox.gcs.clear()
            outbox = node.core.outbox
            dirty, outbox.nodes = outbox.nodes, []
            for other in dirty:
                way = (name, self._name_of(other.node_id))
                self._asked.setdefault(way, []).extend(other.outbox)
                other.outbox.clear()
            for opener, peer in node.openers.items():
                self._answered.setdefault((name, opener), []).extend(node.said(peer))

    def _step(self) -> bool:
        ways = [(self._asked, way) for way in self._asked]
        ways += [(self._answered, way) for way in self._answered]
        moved = False
        for lines, way in ways:
            messages = lines.get(way)
            sender, to = way
            if not messages or way in self.held or (to != "gcs" and self.nodes[to].is_dead):
                continue
            moved = True
            lines[way] = []
            if to == "gcs":
                for message in m.decode_to_gcs(m.encode(messages)):
                    self._gcs_sends(self.gcs.handle(self.nodes[sender].number, message, self.now))
            elif sender == "gcs":
                self._from_gcs(self.nodes[to], messages)
            elif lines is self._asked:
                self._from_opener(sender, self.nodes[to], messages)
            else:
                neighbour = self.neighbour(to, sender)
                for message in m.decode_to_client(m.encode(messages)):
                    self.nodes[to].core.hear_node(neighbour, message)
                self.nodes[to].turn()
        return moved

    def _from_gcs(self, node: ClusterNode, messages: list[Any]) -> None:
        for message in m.decode_from_gcs(m.encode(messages)):
            node.core.hear_gcs(message)
        node.turn()

    def _from_opener(self, opener: str, node: ClusterNode, messages: list[Any]) -> None:
        if (opener, node.name) in self._renewed:
            self._renewed.discard((opener, node.name))
            self._line_ends(opener, node)
        peer = node.openers.get(opener)
        if peer is None:
            peer = node.openers[opener] = Client()
            peer.node_id = self.nodes[opener].core.me.node_id
            peer.role = "node"
            node.core.add_client(peer)
        for message in m.decode_to_node(m.encode(messages)):
            node.core.handle(peer, message)
        node.turn()

    def _line_ends(self, opener: str, node: ClusterNode) -> None:
        peer = node.openers.pop(opener, None)
        if peer is not None:
            node.core.client_lost(peer)
            node.turn()

    def _gcs_sends(self, sends: list[Send]) -> None:
        names = {node.number: node.name for node in self.nodes.values()}
        for number, message in sends:
            self._asked.setdefault(("gcs", names[number]), []).append(message)

    def _name_of(self, node_id: bytes) -> str:
        return next(name for name, node in self.nodes.items() if node.core.me.node_id == node_id)

    def _living(self) -> list[ClusterNode]:
        return [node for node in self.nodes.values() if not node.is_dead]


def to_node(node: ClusterNode, *, soft: bool = False) -> Strategy:
    return Strategy("NODE", node.core.me.node_id, soft=soft)


def create(driver: Program, options: dict[str, Any] | None = None, **template: Any) -> bytes:
    """Create an actor, with these options and this template; its id."""
    template = {"demand": (), "running_demand": (), **template}
    number = driver.number("actor", "Actor", **template)
    actor_id = driver.ids.next_task()
    chosen = ActorOptions(class_name="Actor", **(options or {}))
    driver.node.say(driver.peer, m.CreateActor(actor_id, number, chosen, b""))
    return actor_id


def comes_alive(node: ClusterNode, actor_id: bytes, attempt: int = 0) -> Client:
    """The actor's process comes up on this node, and has constructed it."""
    process = node.actor_up()
    node.cluster.run()
    assert runs(node, process) == [actor_id]
    node.say(process, done(actor_id, attempt))
    node.cluster.run()
    return process


def user_of(actor_id: bytes, driver: Program, node: ClusterNode) -> Program:
    """A task on that node that has a handle of the actor."""
    driver.submit(nested=[handle_id(actor_id)], strategy=to_node(node), name="user")
    node.cluster.run()
    worker = node.came_up()
    node.cluster.run()
    assert runs(node, worker)
    user = Program(node, worker)
    node.say(worker, m.Hold([handle_id(actor_id)]))
    return user
