"""The end of a client or a job: the parts that hear of it, in order. Pure.

A client ends with its connection. A job ends with its driver, at the driver's node first, which
tells the GCS, which tells every other node; or with the detached actor that it belongs to. The end
of another node is in other_nodes.py.
"""

from __future__ import annotations

from skate import messages as m
from skate.node.actor_guests import ActorGuests
from skate.node.actor_life import ActorLife
from skate.node.actor_names import ActorNames
from skate.node.actor_proxies import ActorProxies
from skate.node.actor_router import ActorRouter
from skate.node.clock import Clock
from skate.node.forwarding import Forwarding
from skate.node.guests import Guests
from skate.node.hears import CLIENTS, GCS, OVER, hears
from skate.node.holds import Holds
from skate.node.identity import Identity
from skate.node.introductions import Introductions
from skate.node.jobs import Jobs
from skate.node.lanes import Lanes
from skate.node.node_table import NodeTable
from skate.node.outbox import Outbox
from skate.node.placing import Placing
from skate.node.rebalancing import Rebalancing
from skate.node.running import Running
from skate.node.workers import Workers
from skate.node.world import Shell
from skate.objects.object_store import ObjectStore
from skate.rows import Client, Job
from skate.scheduler.local_scheduler import LocalScheduler


class Endings:
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
        nodes: NodeTable,
        router: ActorRouter,
        clients: dict[Client, None],
        jobs: Jobs,
        introductions: Introductions,
        holds: Holds,
        running: Running,
        workers: Workers,
        guests: Guests,
        placing: Placing,
        forwarding: Forwarding,
        rebalancing: Rebalancing,
        actor_names: ActorNames,
        actor_life: ActorLife,
        actor_proxies: ActorProxies,
        actor_guests: ActorGuests,
        lanes: Lanes,
    ) -> None:
        self._clock = clock
        self._outbox = outbox
        self._me = me
        self._shell = shell
        self._store = store
        self._scheduler = scheduler
        self._nodes = nodes
        self._router = router
        self._clients = clients
        self._jobs = jobs
        self._introductions = introductions
        self._holds = holds
        self._running = running
        self._workers = workers
        self._guests = guests
        self._placing = placing
        self._forwarding = forwarding
        self._rebalancing = rebalancing
        self._actor_names = actor_names
        self._actor_life = actor_life
        self._actor_proxies = actor_proxies
        self._actor_guests = actor_guests
        self._lanes = lanes

    # ------------------------------------------------------------------ clients

    def client_lost(self, client: Client) -> None:
        """The connection is closed, by either end."""
        if not client.alive:
            return
        client.alive = False
        role, client.role = client.role, ""  # handle() takes no more of its messages
        client.outbox.clear()
        client.deferred.clear()
        self._clients.pop(client, None)
        self._lanes.caller_lost(client)
        if not client.node_id:
            self._router.caller_gone(client)
            self._actor_proxies.caller_gone()
        self._actor_names.creator_gone(client)
        self._holds.holder_lost(client)
        if role == "driver" and client.job is not None:
            self.end_job(client.job)
        if role == "node":
            self._guests.home_lost(client)
            self._actor_guests.home_lost(client)
        if client.worker is not None:
            self._workers.connection_lost(client)

    @hears(m.Leaving, *CLIENTS)
    def on_leaving(self, client: Client, message: m.Leaving) -> None:
        """A client ends on purpose."""
        if client.role == "driver":
            self.client_lost(client)
            self._shell.close(client)
        elif client.worker is not None and client.worker.actor is not None:
            self._actor_life.leaving(client.worker.actor, message.reason)

    # ------------------------------------------------------------------ jobs

    def actor_ended(self, actor_id: bytes, job_id: bytes) -> None:
        """An actor of this home is dead for good; a job of its own ends with it."""
        job = self._jobs.by_id.get(job_id)
        if job is not None and job.actor_id == actor_id:
            self.end_job(job)

    def end_job(self, job: Job) -> None:
        """The job's driver, or the detached actor that it belongs to, is gone."""
        self._jobs.forget(job)
        self._end_workers(job.id)
        tasks = self._scheduler.end_job(job.id)
        own, calls = self._actor_life.end_job(job)
        tasks += own
        tasks += self._placing.end_job(job.id)
        self._rebalancing.end_job(job.id)
        self._lanes.end_job(job.id)
        tasks += self._forwarding.end_job(job.id)
        tasks += self._actor_proxies.end_job(job.id)
        tasks += self._guests.end_job(job.id)
        for stored in self._store.objects.values():
            tasks += [t for t in stored.waiters or () if t.template.job_id == job.id]
        self._running.drop_tasks(tasks)
        for call in calls:
            self._running.fail(call, call.actor.cause)
        self._actor_proxies.forget_unused()
        self._store.end_job(job.id)
        self._introductions.forget_job(job.id)
        driver, job.driver = job.driver, None
        if driver is not None or job.actor_id:
            self._tell_gcs(job)
        if driver is not None:
            self._shell.job_ended(job, "its driver is gone")

    def _end_workers(self, job_id: bytes) -> None:
        for worker in list(self._scheduler.workers.values()):
            if worker.pool.job_id != job_id:
                continue
            if not self._actor_life.is_own_job(worker.actor):
                self._workers.end(worker)
            elif worker.client is not None and worker.client.alive:
                worker.client.role = OVER  # dead actor's process: drop its remaining messages

    def _tell_gcs(self, job: Job) -> None:
        config = job.config
        self._outbox.to_gcs(
            m.JobChanged(
                job.id, job.driver_pid, config.entrypoint, config.namespace, False, self._clock.now
            )
        )

    @hears(m.JobOver, GCS)
    def on_over(self, message: m.JobOver) -> None:
        """The GCS tells the end of a job whose driver was elsewhere."""
        job = self._jobs.by_id.get(message.job_id)
        if job is None:
            self._jobs.note_end(message.job_id)
        elif job.driver is None:
            self.end_job(job)

    def drivers_died(self, node_id: bytes) -> None:
        """A node and its drivers have died. The GCS tells so as well, if it knows their jobs."""
        for job in list(self._jobs.by_id.values()):
            if job.driver is None and job.driver_node == node_id:
                self.end_job(job)
