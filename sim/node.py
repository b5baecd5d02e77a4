"""One simulated machine: a NodeCore, its clients, its lines to others, its arena, its death.

The node's shell (node/shell/node_shell.py) in virtual time: batches of clients, of other nodes and
of the GCS are turns of the core; what the core has to say leaves after each. A process that dies
sends its EOF behind what it had sent, and its exit status by another way, so either may come first.
A machine that dies says nothing at all: everybody else finds its connections closed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from sim.gcs import GcsLink, SimulatedGcs
from sim.invariants import Memory, check_turn
from sim.lanes import CalleeEnd
from sim.roles import LocalProcess
from sim.wires import LastingWire
from sim.world import World
from skate import messages as m
from skate.config import (
    EVENT_BATCH_S,
    HEARTBEAT_S,
    PROTOCOL_VERSION,
    PYTHON,
    TRANSFER_SILENCE_S,
    UPLOADS_PER_OBJECT,
)
from skate.node.node_core import NodeCore
from skate.objects.arena import Arena
from skate.objects.object_store import SEALED
from skate.rows import Client, Job, Worker

REDIAL_S = 0.1  # of a transfer
REJOIN_S = 0.5  # as in node/shell/rejoin.py


def node_id_of(number: int) -> bytes:
    """The NodeID of a simulated node: readable, and known before it is there."""
    return b"n" * 16 if number < 0 else b"n%03d-node-------" % number


class Transfer:
    """An object on its way from another node's arena."""

    __slots__ = ("is_cancelled", "object_id", "offset", "since", "size", "source")

    def __init__(
        self, object_id: bytes, offset: int, size: int, source: SimulatedNode, since: float
    ) -> None:
        self.object_id = object_id
        self.offset = offset
        self.size = size
        self.source = source
        self.since = since
        self.is_cancelled = False


class SimulatedNode:
    """See the module's docstring."""

    def __init__(
        self,
        simulator: World,
        number: int,
        gcs: SimulatedGcs | None,
        others: dict[bytes, SimulatedNode],
        wires: list[LastingWire],
        *,
        start_worker: Callable[[SimulatedNode, Client, Worker], LocalProcess],
        rejoin: Callable[[SimulatedNode], None],
    ) -> None:
        settings = simulator.settings
        self.simulator = simulator
        self.number = number
        self._gcs = gcs
        self._others = others  # all nodes, by id
        self._wires = wires
        self._rejoin = rejoin
        self.name = f"n{number:03d}"
        self.dead = False
        self.phase_s = simulator.random.random() * HEARTBEAT_S if settings.is_cluster else 0.0
        self.memory = Memory(self.name)
        self.core = NodeCore(
            node_id_of(number if settings.is_cluster else -1),
            "sim",
            settings.resources_of(number),
            Arena(settings.arena_bytes),
            "",
            SimulatedShell(self, start_worker),
            PYTHON,
            is_cluster=settings.is_cluster,
            lanes=settings.has_lanes,
        )
        self.core.begin(simulator.now)
        self.incoming: dict[Client, LastingWire] = {}  # the lines that others have opened
        self.gcs: GcsLink | None = None
        self.processes: dict[Client, LocalProcess] = {}
        self.listeners: dict[bytes, CalleeEnd] = {}  # of workers that live, by their ids
        self.turns = 0
        self._turn_due = False
        self._since_events = 0.0
        self._transfers: dict[bytes, Transfer] = {}
        self._armed_for = math.inf

    def start(self) -> None:
        """Join the cluster, if there is one."""
        if self._gcs is None:
            return
        core = self.core
        self.gcs = self._gcs.connect(self)
        total, labels = dict(core.scheduler.total), {"number": str(self.number)}
        core.outbox.gcs.insert(
            0,
            m.NodeJoins(
                PROTOCOL_VERSION,
                core.me.node_id,
                self.number,
                f"{self.name}:1",
                self.name,
                total,
                labels,
                core.store.arena.capacity_bytes,
            ),
        )
        self._write_gcs()

    # ------------------------------------------------------------------ the switch

    def from_client(self, peer: Client, item: Any) -> None:
        """A batch (or, None, the EOF) arrives at the node."""
        if self.dead:
            return
        simulator = self.simulator
        core = self.core
        core.begin(simulator.now)
        if item is None:
            simulator.tell("EOF of", simulator.name(peer))
            core.client_lost(peer)
        else:
            for message in item:
                simulator.tell(simulator.name(peer), "->", message)
                core.handle(peer, message)
        self.turn_soon()

    def from_gcs(self, batch: list[Any]) -> None:
        """A batch of the GCS."""
        if self.dead:
            return
        self.core.begin(self.simulator.now)
        for message in batch:
            if isinstance(message, m.Refused):
                self.die()
                return
            self.core.hear_gcs(message)
        self.turn_soon()

    def lost_gcs(self) -> None:
        """Its connection to the GCS has ended: it ends its work, and comes back as another."""
        if not self.dead:
            self.die()
            self.simulator.at(REJOIN_S, self._rejoin, self)

    def worker_exited(self, worker: Worker, status: int, begun: bytes) -> None:
        """The zygote has reaped a worker."""
        if self.dead:
            return
        self.simulator.tell(self.name, "exit status", status, "of worker", worker.id)
        self.core.begin(self.simulator.now)
        self.core.worker_exited(worker, status, begun)
        self.turn_soon()

    def turn_soon(self) -> None:
        """Several batches may fall into one turn."""
        if not self._turn_due:
            self._turn_due = True
            self.simulator.at(self.simulator.random.random() * 1e-4, self._turn)

    def _turn(self) -> None:
        self._turn_due = False
        if self.dead:
            return
        core = self.core
        core.begin(self.simulator.now)
        core.end_turn()
        self.turns += 1
        check_turn(core, full=self.turns % self.simulator.settings.check_every == 0)
        self.write_out()
        if self.gcs is None:
            core.outbox.gcs.clear()
            core.parts.notes.batch.take()
            core.store.dropped.clear()

    def tick(self) -> None:
        """The clock of the node's shell."""
        if self.dead:
            return
        core = self.core
        core.begin(self.simulator.now)
        core.tick()
        self._turn()
        if self.gcs is None or self.dead:
            return
        self.simulator.ledger.look_at_queues(self)
        self._since_events += HEARTBEAT_S
        if self._since_events >= EVENT_BATCH_S:
            self._since_events = 0.0
            core.parts.notes.batch.take()
            core.flush_events()
        core.outbox.to_gcs(core.heartbeat())
        self._write_gcs()

    # ------------------------------------------------------------------ writing

    def write_out(self) -> None:
        """One batch to each peer, neighbour and GCS that there is something for."""
        core = self.core
        while core.outbox.clients:
            dirty, core.outbox.clients = core.outbox.clients, []
            for peer in dirty:
                self.write_out_peer(peer)
        outbox = core.outbox
        while outbox.nodes:
            others, outbox.nodes = outbox.nodes, []
            for neighbour in others:
                if not neighbour.is_alive or not neighbour.outbox:
                    continue
                batch, neighbour.outbox = neighbour.outbox, []
                if neighbour.link is None:
                    acceptor = self._others[neighbour.node_id]
                    neighbour.link = LastingWire(self.simulator, self, neighbour, acceptor)
                    self._wires.append(neighbour.link)
                neighbour.link.write(batch)
        self._forget_dead()
        self._write_gcs()
        self._arm_deadline()

    def _forget_dead(self) -> None:
        for neighbour in self.core.take_dead():
            if neighbour.link is not None:
                neighbour.link.close()
                neighbour.link = None
            for wire in list(self.incoming.values()):
                if wire.opener.core.me.node_id == neighbour.node_id:
                    wire.end("the cluster has given that node up")

    def _write_gcs(self) -> None:
        if self.core.outbox.gcs and self.gcs is not None:
            batch, self.core.outbox.gcs = self.core.outbox.gcs, []
            self.gcs.send(batch)

    def write_out_peer(self, peer: Client) -> None:
        """What the core has for this peer; a driver may be slow to read it."""
        if not peer.outbox or peer not in self.core.clients:
            return
        batch, peer.outbox = peer.outbox, []
        if peer.node_id:
            self.incoming[peer].write_back(batch)
            return
        simulator = self.simulator
        for message in batch:
            simulator.tell(simulator.name(peer), "<-", message)
        simulator.processes[peer].inbound.send(m.decode_to_client(m.encode(batch)))
        if not peer.paused and simulator.random.random() < simulator.settings.pause_share:
            peer.paused = True
            simulator.at(simulator.random.random() * 0.05, self._resume, peer)

    def _resume(self, peer: Client) -> None:
        if self.dead:
            return
        self.core.begin(self.simulator.now)
        self.core.resume(peer)
        self.write_out()

    def connect(self, peer: Client, process: LocalProcess) -> None:
        """A process's line to the node exists; the node learns of it a little later."""
        self.simulator.processes[peer] = self.processes[peer] = process
        self.simulator.at(self.simulator.delay(), self._connected, peer)

    def _connected(self, peer: Client) -> None:
        if self.dead:
            return
        self.core.begin(self.simulator.now)
        self.core.add_client(peer)
        self.write_out_peer(peer)

    # ------------------------------------------------------------------ transfers

    def fetch(self, object_id: bytes, offset: int, size: int, node_id: bytes) -> None:
        """A thread copies an object from another node's arena into ours."""
        simulator = self.simulator
        simulator.tell(self.name, "fetches", object_id, "from", node_id)
        assert object_id not in self._transfers
        source = self._others[node_id]
        transfer = Transfer(object_id, offset, size, source, simulator.now)
        self._transfers[object_id] = transfer
        self.memory.write(simulator, object_id, offset, size)
        simulator.at(simulator.delay(), self._borrow, transfer)

    def cancel_fetch(self, object_id: bytes) -> None:
        """It is told to stop."""
        if object_id in self._transfers:
            self._transfers[object_id].is_cancelled = True

    def _borrow(self, transfer: Transfer) -> None:
        simulator = self.simulator
        source, object_id = transfer.source, transfer.object_id
        if self.dead:
            return
        is_cut = simulator.settings.is_cut(self, source)
        if transfer.is_cancelled:
            self._fetched(transfer, "cancelled")
        elif source.dead:
            self._fetched(transfer, "unreachable")
        elif is_cut and simulator.now - transfer.since > TRANSFER_SILENCE_S:
            simulator.ledger.cut_off(self, source)
            self._fetched(transfer, "unreachable")
        elif is_cut:
            simulator.at(REDIAL_S, self._borrow, transfer)
        else:
            stored = source.core.store.objects.get(object_id)
            if stored is None or stored.state is not SEALED:
                self._fetched(transfer, "gone")
            elif source.memory.uploads(object_id) >= UPLOADS_PER_OBJECT:
                self._fetched(transfer, "busy")
            else:
                source.core.store.pin(object_id)
                contains = source.memory.lend(object_id, stored.offset)
                seconds = simulator.delay() + transfer.size / simulator.settings.bytes_per_s
                simulator.at(seconds, self._give_back, transfer, contains)

    def _give_back(self, transfer: Transfer, contains: list[bytes]) -> None:
        simulator = self.simulator
        source, object_id = transfer.source, transfer.object_id
        if not source.dead:
            source.memory.take_back(object_id)
            source.core.store.unpin(object_id)
            source.turn_soon()
        if self.dead:
            return
        if source.dead:
            self._fetched(transfer, "unreachable")
        elif simulator.settings.is_cut(self, source) or transfer.is_cancelled:
            transfer.since = simulator.now  # broken off
            self._borrow(transfer)
        else:
            self.memory.contain(object_id, contains)
            self._fetched(transfer, "ok")

    def _fetched(self, transfer: Transfer, why: str) -> None:
        simulator = self.simulator
        simulator.tell(self.name, "has fetched", transfer.object_id, why)
        del self._transfers[transfer.object_id]
        self.memory.written(transfer.object_id)
        self.core.begin(simulator.now)
        seconds = simulator.now - transfer.since
        self.core.fetched(transfer.object_id, why, transfer.size, seconds)
        self.turn_soon()

    def _arm_deadline(self) -> None:
        due = self.core.deadline()
        if due is not None and due < self._armed_for:
            self._armed_for = due
            self.simulator.at(max(0.001, due - self.simulator.now), self._deadline_passed)

    def _deadline_passed(self) -> None:
        self._armed_for = math.inf
        if not self.dead:
            self.core.begin(self.simulator.now)
            self.core.deadline_passed()
            self._turn()

    # ------------------------------------------------------------------ the end

    def die(self) -> None:
        """The machine is gone, with all that ran there."""
        if self.dead:
            return
        simulator = self.simulator
        simulator.tell(self.name, "dies")
        self.dead = True
        for process in self.processes.values():
            process.vanish()
        simulator.ledger.node_died(self)
        for wire in self._wires:
            if wire.opener is self or wire.acceptor is self:
                wire.break_up()
        if self.gcs is not None:
            self.gcs.up.send(None)


class SimulatedShell:
    """What the core asks of the world."""

    def __init__(
        self,
        node: SimulatedNode,
        start_worker: Callable[[SimulatedNode, Client, Worker], LocalProcess],
    ) -> None:
        self._node = node
        self._start_worker = start_worker
        self._simulator = node.simulator

    def start_worker(self, worker: Worker, setup: m.WorkerSetup) -> None:
        """Fork."""
        peer = Client()
        peer.worker = worker
        worker.client = peer
        process = self._start_worker(self._node, peer, worker)
        self._node.connect(peer, process)
        self._node.core.outbox.send(peer, setup)

    def kill_worker(self, worker: Worker) -> None:
        """SIGKILL."""
        process = self._simulator.processes[worker.client]
        self._simulator.at(self._simulator.random.random() * 0.002, process.die, -9)

    def close(self, peer: Client) -> None:
        """Close after what is queued has been written."""
        self._node.write_out_peer(peer)
        self._simulator.processes[peer].inbound.send(None)

    def stderr_tail(self, worker: Worker) -> list[str]:
        """Nothing was printed."""
        return []

    def new_id(self) -> bytes:
        """16 random bytes."""
        return self._simulator.random.randbytes(16)

    def fetch(self, object_id: bytes, offset: int, size: int, node_id: bytes) -> None:
        """Copy an object from that node's arena."""
        self._node.fetch(object_id, offset, size, node_id)

    def cancel_fetch(self, object_id: bytes) -> None:
        """Stop that."""
        self._node.cancel_fetch(object_id)

    def flush_logs(self, peer: Client, message: m.FlushLogs) -> None:
        """Nothing was printed."""

    def logs_flushed(self, peer: Client, message: m.LogsFlushed) -> None:
        """Nothing was printed."""

    def job_ended(self, job: Job, reason: str) -> None:
        """The session goes on with the other drivers."""

    def answer_locally(self, peer: Client, question: m.Ask) -> bool:
        """Never."""
        return False
