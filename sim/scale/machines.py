"""A node with its workers and programs, on the world's clock.

The decisions are those of the core that ships: NodeCore with its local scheduler and forwarder.
Here is what its shell does: carry messages, keep the clock of heartbeats, start workers. Messages
are passed on as they are; encoding them is in the costs.
"""

from __future__ import annotations

from typing import Any

from sim.scale.costs import Costs
from sim.scale.lanes import Callee
from sim.scale.leaves import Leaves
from sim.scale.network import CLIENT, CLOCK, GCS, NEIGHBOUR, RELAY, Network
from sim.scale.programs import Program, WorkerProcess
from sim.scale.world import Server, World
from skate import messages as m
from skate.config import EVENT_BATCH_S, HEARTBEAT_S, PYTHON, RESOURCE_UNITS
from skate.ids import HOME_BYTES, home_of
from skate.node.node_core import NodeCore
from skate.objects.arena import Arena
from skate.rows import Client, Job, Worker

LANE_WORDS = {
    m.LaneWanted, m.LaneExpected, m.LaneListening, m.LaneOpen, m.LaneRevoke, m.LaneOver,
    m.LaneClosed,
}  # fmt: skip
"""By which a lane comes and goes: few, each counted as a submitted task is."""

ARENA_BYTES = 1 << 30  # nothing here is that large


class Node:
    """One machine. What arrives is (where from, who, messages); no messages: that was the last."""

    def __init__(
        self,
        world: World,
        costs: Costs,
        network: Network,
        leaves: Leaves,
        number: int,
        cpus: int,
        *,
        offers_lanes: bool,
    ) -> None:
        self.world = world
        self.costs = costs
        self.leaves = leaves
        self.offers_lanes = offers_lanes
        self.number = number
        self._network = network
        self.node_id = number.to_bytes(HOME_BYTES, "big") + self.world.random.randbytes(12)
        total = {"CPU": cpus * RESOURCE_UNITS}
        self.core = NodeCore(
            self.node_id, "sim", total, Arena(ARENA_BYTES), "", NodeShell(self), PYTHON,
            lanes=offers_lanes,
        )  # fmt: skip
        self.core.begin(self.world.now)
        self.server = Server(self.world, self._handle, self._settle)
        network.nodes.append(self.server)
        self.others: dict[bytes, Node] = {}  # all nodes, by id
        self.forking_s = 0.0  # of the zygote, for one worker
        self.clients: dict[Client, Program] = {}
        self.processes: dict[bytes, WorkerProcess] = {}  # workers, by id
        self.openers: dict[Client, Node] = {}  # who has opened the line that this peer is
        self._incoming: dict[Node, Client] = {}
        self._since_events = 0.0
        self.forwarded = 0  # tasks of this home, so often
        self.given_back = 0

    # ------------------------------------------------------------------ turns

    def _handle(self, item: tuple[str, Any, list[Any] | None]) -> float:
        kind, who, batch = item
        core = self.core
        core.begin(self.world.now)
        if kind is CLOCK:
            self._tick()
            return self.costs.tick_s
        if kind is RELAY:
            assert batch is not None
            size = sum(len(message.batch) for message in batch if isinstance(message, m.Events))
            spent_s = self.costs.relay_s + size * self.costs.relay_byte_s
            self._network.relay(who, batch, self.world.now + spent_s)
            return spent_s
        if batch is None:
            core.client_lost(who)
            return 0.0
        cost = 0.0
        if kind is GCS:
            for message in batch:
                assert not isinstance(message, m.Refused), message.reason
                core.hear_gcs(message)
            return self.costs.relay_s  # about the same
        if kind is CLIENT:
            if who not in core.clients:
                core.add_client(who)
            cost += self.costs.line_frame_s if who.node_id else self._frame_s()
            for message in batch:
                cost += self._cost(message)
                core.handle(who, message)
        else:
            cost += self.costs.line_frame_s
            for message in batch:
                cost += self._cost(message)
                core.hear_node(who, message)
        return cost

    def _settle(self, spent_s: float) -> float:
        core = self.core
        core.end_turn()
        cost = 0.0
        to_clients: list[tuple[Program, list[Any]]] = []
        to_nodes: list[tuple[Node, Any]] = []
        is_first = self.server.was_idle  # whose wake-up counts
        while core.outbox.clients:
            dirty, core.outbox.clients = core.outbox.clients, []
            for peer in dirty:
                batch, peer.outbox = peer.outbox, []
                cost += sum(map(self._cost, batch))
                if not peer.node_id:
                    cost += self.costs.frame_s if is_first else self.costs.busy_frame_s
                    is_first = False
                else:
                    cost += self.costs.line_frame_s
                if peer.node_id:
                    opener = self.openers[peer]
                    who = opener.core.nodes.by_id[self.node_id]
                    to_nodes.append((opener, (NEIGHBOUR, who, batch)))
                else:
                    to_clients.append((self.clients[peer], batch))
        outbox = core.outbox
        while outbox.nodes:
            others, outbox.nodes = outbox.nodes, []
            for neighbour in others:
                batch, neighbour.outbox = neighbour.outbox, []
                cost += self.costs.line_frame_s + sum(map(self._cost, batch))
                other = self.others[neighbour.node_id]
                to_nodes.append((other, (CLIENT, other.peer_of(self), batch)))
        world = self.world
        leaves_at = world.now + spent_s + cost
        near = leaves_at + self.costs.local_delay_s
        for client, batch in to_clients:
            world.at(near, client.receive, batch)
        far = leaves_at + self.costs.remote_delay_s
        for other, item in to_nodes:
            world.at(far, other.server.arrive, item)
        if core.outbox.gcs:
            batch, core.outbox.gcs = core.outbox.gcs, []
            self._network.to_gcs(self.number, batch, leaves_at)
        return cost

    def _frame_s(self) -> float:
        # To read one: a turn that began with a wake-up has no other before it.
        return self.costs.frame_s if self.server.was_idle else self.costs.busy_frame_s

    def _cost(self, message: Any) -> float:
        # Of a message that comes or goes. Ready, Release and the like are counted with their task.
        kind = type(message)
        costs = self.costs
        if kind is m.Run or kind is m.Done:
            return (costs.run_s if self._is_own(message.task_id) else costs.guest_run_s) / 2
        if kind is m.Submit:
            return costs.submit_s
        if kind is m.Forward:
            if not self._is_own(message.task_id):
                return costs.guest_s
            self.forwarded += 1
            return costs.forward_s
        if kind is m.LaneNotes:
            return costs.lane_row_s * len(message.rows)
        if kind in LANE_WORDS:
            return costs.submit_s
        if kind is m.Returned:
            return costs.returned_s if self._is_own(message.task_id) else 0.0
        if kind is m.GivenBack:
            self.given_back += self._is_own(message.task_ids[0])
            return costs.forward_s
        return 0.0

    def _is_own(self, task_id: bytes) -> bool:
        return home_of(task_id) == self.node_id[:HOME_BYTES]

    def peer_of(self, opener: Node) -> Client:
        """The line that this other node has opened to this one."""
        peer = self._incoming.get(opener)
        if peer is None:
            peer = self._incoming[opener] = Client()
            peer.node_id = opener.node_id
            peer.role = "node"
            self.openers[peer] = opener
        return peer

    # ------------------------------------------------------------------ the clock

    def start_clock(self) -> None:
        """Tick from now on; every node in a phase of its own."""
        self.world.at(self.world.now + self.world.random.random() * HEARTBEAT_S, self._clock)

    def _clock(self) -> None:
        self.world.at(self.world.now + HEARTBEAT_S, self._clock)
        self.server.arrive((CLOCK, None, None))

    def _tick(self) -> None:
        # As the shell does it.
        core = self.core
        self._since_events += HEARTBEAT_S
        if self._since_events >= EVENT_BATCH_S:
            self._since_events = 0.0
            core.flush_events()
        core.outbox.to_gcs(core.heartbeat())
        core.tick()

    # ------------------------------------------------------------------ programs

    def connect(self, client: Program) -> None:
        """A process of this machine has a line to the daemon."""
        self.clients[client.peer] = client

    def new_pid(self) -> int:
        """For the next process."""
        return 1_000 + len(self.clients)

    def callee(self, worker_id: bytes) -> Callee | None:
        """The end of lanes at this worker."""
        process = self.processes.get(worker_id)
        return process.callee if process is not None else None

    def from_client(self, client: Program, batch: list[Any] | None, at: float) -> None:
        """It says something (None: its last word has been said)."""
        at += self.costs.local_delay_s
        self.world.at(at, self.server.arrive, (CLIENT, client.peer, batch))

    def worker_exited(self, client: WorkerProcess) -> None:
        """The zygote has reaped it."""
        self.core.begin(self.world.now)
        self.core.worker_exited(client.worker, 0)
        del self.clients[client.peer]
        del self.processes[client.worker.id]


class NodeShell:
    """What the core asks of the world."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._forked_at = 0.0

    def start_worker(self, worker: Worker, setup: m.WorkerSetup) -> None:
        """The zygote forks one after the other."""
        node = self._node
        now = node.world.now
        self._forked_at = max(now, self._forked_at) + node.forking_s
        peer = Client()
        peer.worker = worker
        worker.client = peer
        process = WorkerProcess(node, peer, worker, setup, self._forked_at)
        node.processes[worker.id] = process
        node.connect(process)

    def kill_worker(self, worker: Worker) -> None:
        """It has gone by itself: nothing here crashes."""

    def close(self, peer: Client) -> None:
        """No program leaves before the end."""

    def stderr_tail(self, worker: Worker) -> list[str]:
        """Nothing was printed."""
        return []

    def new_id(self) -> bytes:
        """16 random bytes."""
        return self._node.world.random.randbytes(16)

    def fetch(self, object_id: bytes, offset: int, size: int, node_id: bytes) -> None:
        """Results are small here."""
        raise AssertionError("there is nothing to fetch")

    def cancel_fetch(self, object_id: bytes) -> None:
        """There is none."""

    def flush_logs(self, peer: Client, message: m.FlushLogs) -> None:
        """Nothing was printed."""

    def logs_flushed(self, peer: Client, message: m.LogsFlushed) -> None:
        """Nothing was printed."""

    def job_ended(self, job: Job, reason: str) -> None:
        """The only job lasts to the end."""

    def answer_locally(self, peer: Client, question: m.Ask) -> bool:
        """Nobody asks."""
        return False
