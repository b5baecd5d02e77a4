"""The node's decisions, behind one door: messages and events in, an outbox out. Pure.

The shell (node/shell/node_shell.py), the simulators and the played nodes of tests drive it the same
way. For each batch of events: ``begin`` with the time; ``handle`` for each message of a client,
``hear_node`` and ``hear_gcs`` for those of other nodes and of the GCS, or another event below; then
``end_turn``. The node's messages are then in ``outbox``, to be written. For processes, transfers
and the like it asks the ``Shell`` that it was given.

The core has no rules of its own: each part (wiring.py has them all) declares the messages that it
handles. Invariants are those of the parts; ``check`` calls them all.
"""

from __future__ import annotations

from typing import Any

from skate import messages as m
from skate.config import LANES
from skate.node.hears import ANSWERER, CLIENTS, GCS, NODE, collect, hears
from skate.node.identity import Identity
from skate.node.wiring import Parts
from skate.node.world import Shell
from skate.objects.arena import Arena
from skate.rows import Client, OtherNode, Worker


class NodeCore:
    """See the module's docstring."""

    def __init__(
        self,
        node_id: bytes,
        session: str,
        resources: dict[str, int],
        arena: Arena,
        arena_path: str,
        shell: Shell,
        python: str,
        *,
        is_cluster: bool = False,
        lanes: bool = LANES,
    ) -> None:
        self.me = Identity(
            node_id, session, arena_path, python, is_cluster=is_cluster, offers_lanes=lanes
        )
        self.parts = parts = Parts(self.me, shell, resources, arena)
        tables = parts.tables
        self.clock, self.outbox = tables.clock, tables.outbox
        self.store, self.scheduler = tables.store, tables.scheduler
        self.nodes, self.router, self.clients = tables.nodes, tables.router, tables.clients
        self.jobs = parts.jobs
        self.handlers = collect([*parts.all(), self])
        self._of_nodes, self._of_gcs = self.handlers[ANSWERER], self.handlers[GCS]

    # ------------------------------------------------------------------ what happens

    def begin(self, now: float) -> None:
        """The time of the events that follow: wall-clock seconds that never run backwards."""
        self.clock.now = now

    def handle(self, client: Client, message: Any) -> None:
        """Take a message of a client. An exception means that the client is broken: its connection
        has to end."""
        handler = self.handlers[client.role].get(type(message))
        if handler is not None and client.alive:
            handler(client, message)
        elif client.alive:  # else the message follows the client's last one, in the same read
            raise ValueError(f"{type(message).__name__} of {client.role or 'a stranger'}")

    def hear_node(self, other: OtherNode, message: Any) -> None:
        """Take a message of another node, on the line that this node has opened."""
        if other.is_alive:
            other.silent_since = 0.0
            self._of_nodes[type(message)](other, message)

    def hear_gcs(self, message: Any) -> None:
        """Take a message of the GCS."""
        self._of_gcs[type(message)](message)

    @hears(m.Part, *CLIENTS, NODE)
    def on_part(self, client: Client, part: m.Part) -> None:
        """Take a part of a client's message that was too large for one frame."""
        for message in client.parts.take(part):
            client.parts.clear()
            self.handle(client, message)

    @hears(m.Part, ANSWERER)
    def on_part_of_node(self, other: OtherNode, part: m.Part) -> None:
        """The same, of another node."""
        for message in other.parts.take(part):
            other.parts.clear()
            self.hear_node(other, message)

    def add_client(self, client: Client) -> None:
        """A connection was accepted (or made, for a worker)."""
        if not client.alive:
            return  # its process ended before its connection was up
        self.clients[client] = None
        if client.node_id:
            self.store.home = self.me.home  # its line may come before the GCS's news of it
        if client.worker is not None:
            client.worker.client = client
            client.job = self.jobs.by_id.get(client.worker.pool.job_id)

    def client_lost(self, client: Client) -> None:
        """A client's connection is closed, by either end."""
        self.parts.endings.client_lost(client)

    def resume(self, client: Client) -> None:
        """A client that did not read does so again."""
        self.parts.values.resume(client)

    def worker_exited(self, worker: Worker, status: int, begun: bytes = b"") -> None:
        """A worker's process is reaped; ``status`` is an exit code, or minus a signal.

        ``begun``: the task that it had begun last, if any.
        """
        self.parts.workers.exited(worker, status, begun)

    def worker_not_started(self, worker: Worker) -> None:
        """A worker's process was never started."""
        self.parts.workers.not_started(worker)

    def cut_off(self, other: OtherNode) -> None:
        """The line to another node is given up: it cannot be reached."""
        self.parts.other_nodes.cut_off(other)

    def fetched(self, object_id: bytes, why: str, size: int, seconds: float) -> None:
        """The shell has fetched an object, or failed to (``why``)."""
        self.parts.pulls.fetched(object_id, why, size, seconds)

    def deadline_passed(self) -> None:
        """``deadline`` has come: try pulls again; the end of the turn sees to leases."""
        self.parts.pulls.retry()

    def tick(self) -> None:
        """Every tenth of a second: end idle workers and stragglers, fail creators that wait, offer
        tasks that wait too long."""
        parts = self.parts
        if self.store.queue:
            parts.full_store.tick()
        parts.workers.tick()
        parts.placing.tick()
        parts.rebalancing.tick()
        parts.finding.tick()
        parts.pulls.tick()
        parts.actor_proxies.tick()
        parts.lanes.tick()

    def end_turn(self) -> None:
        """After each batch of events: hand out resources and space that became free."""
        parts, store = self.parts, self.store
        if parts.lanes.touched:
            parts.lanes.settle()
        # First the failures, and the ends of actors, with all that follow from them.
        while parts.running.doomed or store.freed_handles:
            parts.running.fail_doomed()
            parts.actor_life.handles_gone()
        # Then creators get free space, before tasks that may want some.
        if store.queue:
            for creation in store.serve_queue(self.clock.now):
                parts.puts.space_given(creation)
        if store.copies.has_questions:
            parts.puts.revoke()
        # Groups take back and set aside resources before tasks get the free ones.
        parts.groups.settle()
        if parts.leases.is_active:
            parts.leases.before_dispatch(self.clock.now)
        self.scheduler.dispatch(self.clock.now)
        if parts.leases.is_active:
            parts.leases.turn(self.clock.now)
        if store.queue:
            parts.full_store.dispatch()
        # Then freed objects are reported, tasks that cannot run here are offered, and at last
        # other homes hear which of their objects are held and which no more.
        if store.freed:
            freed, store.freed = store.freed, []
            parts.forwarding.freed(freed)
            self.outbox.to_gcs(m.ObjectsChanged([], [], freed))
        parts.rebalancing.flush()
        parts.placing.flush()
        parts.borrowing.settle()

    # ------------------------------------------------------------------ what the shell asks

    def deadline(self) -> float | None:
        """When ``deadline_passed`` has to be called, without any event before."""
        pulls = self.parts.pulls.deadline()
        leases = self.parts.leases.deadline() if self.parts.leases.lent else None
        return min((at for at in (pulls, leases) if at is not None), default=None)

    def take_dead(self) -> list[OtherNode]:
        """The nodes that have died since the last call: their lines have to be closed."""
        return self.parts.other_nodes.take_dead()

    def heartbeat(self) -> m.Heartbeat:
        """The load at this moment."""
        return self.parts.load.heartbeat()

    def flush_events(self) -> None:
        """Send the GCS the events so far, and the rows that its tables lack."""
        self.parts.notes.flush()

    def check(self) -> None:
        """Assert the invariants of all parts; for tests and the simulator."""
        parts = self.parts
        self.store.check()
        held = parts.actor_resources.held()
        for name, units in parts.groups.bundles.held().items():
            held[name] = held.get(name, 0) + units
        self.scheduler.check(held)
        self.router.check()
        self.nodes.check()
        parts.borrowing.check()
        parts.pulls.check()
        parts.placing.check()
        parts.lanes.check()
        parts.leases.check()
