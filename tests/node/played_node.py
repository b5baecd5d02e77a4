"""A node core whose shell only takes notes, and clients that a test plays by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from skate import messages as m
from skate.config import (
    INLINE_MAX_BYTES,
    PROTOCOL_VERSION,
    PYTHON,
)
from skate.error_records import ErrorRecord, decode_error, encode_error
from skate.ids import TaskIdCounter, return_id
from skate.node.node_core import NodeCore
from skate.objects.arena import Arena
from skate.rows import Client, Job, Worker
from skate.spec import FORMAT_ERROR, ActorOptions, CallTemplate, JobConfig, demand_of

CPU = demand_of({"CPU": 1.0})
PAGE = 4096
LARGE = INLINE_MAX_BYTES + 1
KILLED = -9


class Node:
    """A core whose shell only takes notes; this test plays all of its clients."""

    def __init__(self, cpus: int = 1, pages: int = 1_000, *, lanes: bool = False) -> None:
        self.ids = itertools.count(1)
        self.started: list[Worker] = []
        self.killed: list[Worker] = []
        self.closed: list[Client] = []
        self.ended: list[Job] = []
        total = {"CPU": cpus * 10_000}
        arena = Arena(pages * PAGE)
        self.core = NodeCore(b"n" * 16, "s", total, arena, "", self, PYTHON, lanes=lanes)
        self.core.begin(1_000.0)

    # The shell.

    def start_worker(self, worker: Worker, setup: m.WorkerSetup) -> None:
        worker.client = Client()
        worker.client.worker = worker
        self.started.append(worker)

    def kill_worker(self, worker: Worker) -> None:
        self.killed.append(worker)

    def close(self, peer: Client) -> None:
        self.closed.append(peer)

    def stderr_tail(self, worker: Worker) -> list[str]:
        return ["last words"]

    def new_id(self) -> bytes:
        return next(self.ids).to_bytes(4, "big") * 4

    def job_ended(self, job: Job, reason: str) -> None:
        self.ended.append(job)

    def answer_locally(self, peer: Client, question: m.Ask) -> bool:
        return False

    # The clients.

    def say(self, peer: Client, *messages: Any) -> None:
        """One turn with these messages of one client."""
        for message in messages:
            self.core.handle(peer, message)
        self.turn()

    def turn(self) -> None:
        self.core.end_turn()
        self.core.check()

    def said(self, peer: Client) -> list[Any]:
        """What the client has been told since."""
        said, peer.outbox = peer.outbox, []
        if peer in self.core.outbox.clients:
            self.core.outbox.clients.remove(peer)
        return said

    def came_up(self, *, lanes: bool = False) -> Client:
        """The next process that was asked for comes up."""
        worker = self.started.pop(0)
        peer: Client = worker.client
        self.core.add_client(peer)
        pid = 500 + len(self.core.clients)
        self.say(peer, m.Hello(PROTOCOL_VERSION, PYTHON, "worker", pid, lanes=lanes))
        return peer

    def lose(
        self,
        peer: Client,
        status: int = KILLED,
        *,
        exit_first: bool = False,
        begun: bytes = b"",
    ) -> None:
        """A worker's EOF and exit status, in either order; ``begun`` is the last task that had."""
        assert peer.worker is not None
        steps: list[Callable[[], None]] = [
            lambda: self.core.client_lost(peer),
            lambda: self.core.worker_exited(peer.worker, status, begun),  # type: ignore[arg-type]
        ]
        for step in reversed(steps) if exit_first else steps:
            step()
            self.turn()

    def is_clean(self) -> bool:
        """Whether nothing but idle workers is left."""
        core = self.core
        return not (
            core.store.objects
            or len(core.store.arena)
            or core.store.creations
            or core.store.arriving
            or core.router.actors
            or core.scheduler.queued()
        ) and (core.scheduler.available == core.scheduler.total)


class Program:
    """A driver or worker that submits."""

    def __init__(self, node: Node, peer: Client | None = None, *, lanes: bool = False) -> None:
        self.node = node
        self.numbers: dict[CallTemplate, int] = {}
        self.sequences: dict[bytes, int] = {}
        if peer is None:
            self.peer = Client()
            node.core.add_client(self.peer)
            job = JobConfig()
            node.say(self.peer, m.Hello(PROTOCOL_VERSION, PYTHON, "driver", 7, b"", job, lanes))
            welcome = node.said(self.peer)[0]
            self.ids = TaskIdCounter(welcome.job_id, welcome.submitter)
        else:
            self.peer = peer
            assert peer.job is not None and peer.worker is not None
            self.ids = TaskIdCounter(peer.job.id, peer.submitter)

    def number(self, kind: str = "task", name: str = "f", **options: Any) -> int:
        values = {"max_retries": 3, "demand": () if kind == "method" else CPU, **options}
        spec = CallTemplate(kind, b"" if kind == "method" else name.encode(), name, **values)
        if spec not in self.numbers:
            self.numbers[spec] = len(self.numbers)
            if kind != "method":
                self.node.core.handle(self.peer, m.RegisterFunction(name.encode(), b"code", name))
            self.node.core.handle(self.peer, m.RegisterTemplate(self.numbers[spec], spec))
        return self.numbers[spec]

    def submit(
        self,
        dependencies: list[bytes] | None = None,
        nested: list[bytes] | None = None,
        **options: Any,
    ) -> bytes:
        """Submit a task; its first return."""
        number = self.number(**options)
        task_id = self.ids.next_task()
        self.node.say(self.peer, m.Submit(task_id, number, b"args", dependencies, nested))
        return return_id(task_id, 0)

    def put(self, contains: list[bytes] | None = None) -> bytes:
        object_id = self.ids.next_put()
        self.node.say(self.peer, m.Put(object_id, b"\x03put", contains))
        return object_id

    def create(
        self, dependencies: list[bytes] | None = None, running: Any = (), **options: Any
    ) -> bytes:
        """Create an actor; its id."""
        number = self.number("actor", "Actor", running_demand=running)
        actor_id = self.ids.next_task()
        self.node.say(
            self.peer,
            m.CreateActor(
                actor_id, number, ActorOptions(class_name="Actor", **options), b"", dependencies
            ),
        )
        return actor_id

    def call(
        self, actor_id: bytes, dependencies: list[bytes] | None = None, **options: Any
    ) -> bytes:
        """Call a method; its return."""
        number = self.number("method", **{"max_retries": 0, **options})
        task_id = self.ids.next_task()
        sequence = self.sequences.get(actor_id, 0)
        self.sequences[actor_id] = sequence + 1
        message = m.CallActor(task_id, actor_id, sequence, number, b"", dependencies)
        self.node.say(self.peer, message)
        return return_id(task_id, 0)

    def release(self, *object_ids: bytes) -> None:
        self.node.say(self.peer, m.Release(list(object_ids)))

    def values(self) -> dict[bytes, bytes]:
        """What arrived: object -> data."""
        ready = [x for x in self.node.said(self.peer) if isinstance(x, m.Ready)]
        assert len({x.object_id for x in ready}) == len(ready), "told twice"
        return {x.object_id: x.data for x in ready}

    def errors(self) -> dict[bytes, str]:
        """What arrived as an error: object -> kind."""
        return {
            object_id: decode_error(data[1:]).kind
            for object_id, data in self.values().items()
            if data[:1] == FORMAT_ERROR
        }


def runs(node: Node, worker: Client) -> list[bytes]:
    """The task ids that a worker was sent."""
    return [x.task_id for x in node.said(worker) if isinstance(x, m.Run)]


def done(object_id: bytes, attempt: int = 0, data: bytes = b"\x03value", **fields: Any) -> m.Done:
    return m.Done(object_id[:16], attempt, 1.0, 1.001, data, **fields)


def failed(object_id: bytes, attempt: int = 0, retry: bool = False) -> m.Done:
    payload = FORMAT_ERROR + encode_error(ErrorRecord("TaskError", "it raised"))
    return done(object_id, attempt, payload, failed=True, retry=retry)


def setting(cpus: int = 1, **options: Any) -> tuple[Node, Program, Client]:
    """A node with a driver and its first worker."""
    node = Node(cpus, **options)
    driver = Program(node)
    return node, driver, node.came_up()
