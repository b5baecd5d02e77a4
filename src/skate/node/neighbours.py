"""The other nodes of the cluster, and what this one has with each of them as their client. Pure.

Part of the node core. To run a task elsewhere, or to hold an object of another home, a node is a
client of that other node: over a line that it opened itself (the shell's business: it dials when
there is something in an outbox, and keeps the line across broken connections, net/lasting.py).
What the other wants of this node comes over the line that the other opened, as from any client.

A neighbour is *dead* when the GCS says so, and *cut off* when it cannot be reached though the GCS
has not given it up. In both cases all that was under way there is lost (``lost``); to one that is
cut off a new line is opened as soon as there is something to say again. One that is not heard on
any of them for ``SILENT_NODE_S`` is *out of reach*: what can do without it waits for it no more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from skate import messages as m
from skate.config import AVOID_S, DEAD_NODES_KEPT, LINK_KEPT_S, SILENT_NODE_S
from skate.ids import HOME_BYTES, home_of, job_of
from skate.rows import OtherNode, Template

if TYPE_CHECKING:
    from skate.node.node_core import NodeCore


class Neighbours:
    """See the module's docstring."""

    def __init__(self, core: NodeCore) -> None:
        self._core = core
        self.by_home: dict[bytes, OtherNode] = {}
        core.store.homes = self.by_home
        self.by_id: dict[bytes, OtherNode] = {}
        self.alive = 0
        self.dirty: list[OtherNode] = []
        self.dead: dict[bytes, None] = {}  # the newest that the GCS has given up
        self._dead_links: list[OtherNode] = []  # whose lines the shell has to close
        self.handlers: dict[type, Callable[[OtherNode, Any], None]] = {m.Part: self._on_part}

    # ------------------------------------------------------------------ who there is

    def on_nodes_changed(self, message: m.NodesChanged) -> None:
        """The GCS tells of nodes that have joined, changed or died."""
        for info in message.nodes:
            known = self.by_id.get(info.node_id)
            if info.node_id == self._core.node_id:
                continue
            if known is not None:
                known.info = info
                if not info.alive and known.is_alive:
                    self.died(known)
            elif info.alive:
                neighbour = OtherNode(info)
                self.by_id[info.node_id] = neighbour
                self.by_home[info.node_id[:HOME_BYTES]] = neighbour
                self.alive += 1
                self._core.store.home = self._core.node_id[:HOME_BYTES]  # there are others now

    def died(self, neighbour: OtherNode) -> None:
        """The GCS has given it up."""
        neighbour.is_alive = False
        self.alive -= 1
        del self.by_id[neighbour.node_id]
        del self.by_home[neighbour.node_id[:HOME_BYTES]]
        self.dead[neighbour.node_id] = None
        if len(self.dead) > DEAD_NODES_KEPT:
            del self.dead[next(iter(self.dead))]
        self._dead_links.append(neighbour)
        self._core.pulls.node_died(neighbour.node_id)
        self.lost(neighbour, "it died")
        self._core.desk.node_died(neighbour.node_id)
        self._core.job_desk.node_died(neighbour.node_id)

    def take_dead(self) -> list[OtherNode]:
        """Those that have died since the shell last asked."""
        dead, self._dead_links = self._dead_links, []
        return dead

    def cut_off(self, neighbour: OtherNode) -> None:
        """It cannot be reached, though it may be alive."""
        if neighbour.is_alive:
            now = self._core.now
            # A line that was not given up for longer was well, if nothing came back on it.
            if not neighbour.silent_since or now - neighbour.cut_at > LINK_KEPT_S:
                neighbour.silent_since = now
            neighbour.cut_at = now
            self.lost(neighbour, "it cannot be reached")

    def lost(self, neighbour: OtherNode, why: str) -> None:
        """All that was under way there will not come back."""
        tasks, neighbour.tasks = neighbour.tasks, {}
        calls = neighbour.calls
        was_used = neighbour.holds_sent > 0 or neighbour.numbers > 0
        neighbour.start_afresh()
        core = self._core
        core.borrowing.home_lost(neighbour, was_used=was_used)
        core.desk.may_have_run([*tasks.values(), *calls.values()])
        core.forwarder.node_lost(neighbour, tasks, why)
        core.remote_actors.node_lost(neighbour, calls, why)

    def unreachable(self) -> list[bytes]:
        """Those that could not be reached a short while ago."""
        since = self._core.now - AVOID_S
        return [n.node_id for n in self.by_id.values() if n.cut_at > since]

    def is_out_of_reach(self, neighbour: OtherNode) -> bool:
        """Whether it lives, and has not been heard for so long that it is waited for no more."""
        since = neighbour.silent_since
        return bool(since) and self._core.now - since >= SILENT_NODE_S

    def home_of(self, any_id: bytes) -> OtherNode | None:
        """The living home of a foreign task, actor or object."""
        return self.by_home.get(home_of(any_id))

    # ------------------------------------------------------------------ talking

    def send(self, neighbour: OtherNode, message: Any) -> None:
        """Queue a message; it leaves at the end of the turn, or once there is a line."""
        if neighbour.is_alive:
            if not neighbour.outbox:
                self.dirty.append(neighbour)
            neighbour.outbox.append(message)

    def handle(self, neighbour: OtherNode, message: Any) -> None:
        """What a neighbour says on the line that this node opened."""
        if neighbour.is_alive:
            neighbour.silent_since = 0.0
            self.handlers[type(message)](neighbour, message)

    def _on_part(self, neighbour: OtherNode, part: m.Part) -> None:
        for message in neighbour.parts.take(part):
            neighbour.parts.clear()
            self.handle(neighbour, message)

    def introduce(self, neighbour: OtherNode, template: Template) -> int:
        """The number of this template there; tells its job, its function and it the first time."""
        number = neighbour.templates.get(template)
        if number is not None:
            return number
        core = self._core
        job = core.jobs[template.job_id]
        if job.id not in neighbour.jobs:
            neighbour.jobs.add(job.id)
            self.send(
                neighbour,
                m.Introduce(job.id, job.config, job.driver_node, job.driver_pid),
            )
        function_id = template.spec.function_id
        if function_id and (job.id, function_id) not in neighbour.functions:
            neighbour.functions.add((job.id, function_id))
            self.send(neighbour, core.functions[function_id])
        number = neighbour.templates[template] = neighbour.numbers
        neighbour.numbers += 1
        self.send(neighbour, m.RegisterTemplate(number, template.spec, job.id))
        return number

    def forget_job(self, job_id: bytes) -> None:
        """The job is over: its templates will not be used again."""
        actors = self._core.actors.router.actors
        for neighbour in self.by_id.values():
            neighbour.jobs.discard(job_id)
            neighbour.functions = {key for key in neighbour.functions if key[0] != job_id}
            for template in [t for t in neighbour.templates if t.job_id == job_id]:
                del neighbour.templates[template]
            for key in [key for key in neighbour.lines if job_of(key[0]) == job_id]:
                if key[0] not in actors:  # else it is detached, or its home has yet to say
                    del neighbour.lines[key]
            for tasks in (neighbour.tasks, neighbour.calls):
                for task_id in [i for i, task in tasks.items() if task.template.job_id == job_id]:
                    del tasks[task_id]

    def check(self) -> None:
        """Assert the invariants; for tests and the simulator."""
        assert self.alive == len(self.by_id) == len(self.by_home)
        for neighbour in self.by_id.values():
            assert neighbour.is_alive
            assert 0 <= neighbour.holds_registered <= neighbour.holds_sent
            for task in neighbour.tasks.values():
                assert task.host is neighbour
