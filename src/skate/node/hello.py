"""Who a client is: its Hello, or the sentence that refuses it. Pure."""

from __future__ import annotations

from skate import messages as m
from skate.config import PROTOCOL_VERSION
from skate.node.actor_births import ActorBirths
from skate.node.clock import Clock
from skate.node.hears import STRANGER, hears
from skate.node.identity import Identity
from skate.node.jobs import Jobs
from skate.node.outbox import Outbox
from skate.node.workers import Workers
from skate.node.world import Shell
from skate.objects.object_store import ObjectStore
from skate.rows import Client, Job
from skate.scheduler.local_scheduler import LocalScheduler


class Doorkeeper:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        clock: Clock,
        outbox: Outbox,
        me: Identity,
        shell: Shell,
        store: ObjectStore,
        scheduler: LocalScheduler,
        jobs: Jobs,
        workers: Workers,
        actor_births: ActorBirths,
    ) -> None:
        self._clock = clock
        self._outbox = outbox
        self._me = me
        self._shell = shell
        self._store = store
        self._scheduler = scheduler
        self._jobs = jobs
        self._workers = workers
        self._actor_births = actor_births
        self.warnings: list[str] = []  # for every driver, at its start

    @hears(m.Hello, STRANGER)
    def on_hello(self, client: Client, hello: m.Hello) -> None:
        """A client introduces itself; one that does not fit is refused in a sentence."""
        if client.role:
            raise ValueError("Hello twice")
        reason = self._why_refuse(client, hello)
        if reason:
            self._outbox.send(client, m.Refused(reason))
            self._shell.close(client)
            return
        client.role = hello.role
        client.pid = hello.pid
        client.speaks_lanes = hello.lanes
        if hello.role == "driver":
            self._welcome_driver(client, hello)
        elif hello.role == "node":
            client.node_id = hello.worker_id
        elif hello.role == "worker" and client.worker is not None:
            client.worker.pid = hello.pid
            client.submitter = client.worker.submitter
            if client.worker.id in self._workers.exits:
                return  # the worker is dead already: only its last messages are still coming
            if client.worker.actor is not None:
                self._scheduler.actor_worker_ready(client.worker)
                self._actor_births.worker_ready(client.worker)
            else:
                self._scheduler.worker_ready(client.worker, self._clock.now)

    def _why_refuse(self, client: Client, hello: m.Hello) -> str:
        if hello.protocol != PROTOCOL_VERSION:
            return (
                f"this node speaks protocol {PROTOCOL_VERSION}, you speak {hello.protocol}: "
                "install the same version of skate on both sides"
            )
        if hello.role not in ("driver", "worker", "observer", "node"):
            return f"unknown role {hello.role!r}"
        if hello.role == "node" and not self._is_node(client, hello):
            return "a node is known by its TCP connection, and by nothing else"
        if hello.role == "worker" and client.worker is None:
            return "workers are started by their node and by nobody else"
        if hello.role != "observer" and hello.python != self._me.python:
            return (
                f"this node runs Python {self._me.python}, you run {hello.python}: objects cannot "
                "be exchanged between minor versions"
            )
        return ""

    def _is_node(self, client: Client, hello: m.Hello) -> bool:
        # The shell has entered the id that the handshake has proved.
        return bool(client.node_id) and client.node_id == hello.worker_id

    def _welcome_driver(self, client: Client, hello: m.Hello) -> None:
        if hello.job is None:
            raise ValueError("a driver's Hello without its job")
        job_id = self._shell.new_id()[:4]
        job = Job(job_id, hello.job, client, self._me.node_id, hello.pid)
        client.job = job
        self._jobs.by_id[job_id] = job
        client.submitter = self._me.new_submitter()
        self._outbox.send(
            client,
            m.Welcome(
                node_id=self._me.node_id,
                job_id=job_id,
                submitter=client.submitter,
                session=self._me.session,
                arena_path="" if client.is_remote else self._me.arena_path,
                arena_bytes=self._store.arena.capacity_bytes,
                namespace=hello.job.namespace,
                lanes_dir="" if client.is_remote else self._me.lanes_dir,
            ),
        )
        for warning in self.warnings:
            self._outbox.send(client, m.Notice(warning))
        self._outbox.to_gcs(
            m.JobChanged(
                job_id, hello.pid, hello.job.entrypoint, hello.job.namespace, True, self._clock.now
            )
        )
        pool = self._scheduler.pool(job_id, 1)
        for _ in range(self._scheduler.total.get("CPU", 0) // 10_000):
            self._workers.start(pool)
