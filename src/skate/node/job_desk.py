"""The end of jobs, wherever their driver was, and what is said to their drivers. Pure.

Part of the node core. A job ends with its driver: at the driver's node first, which tells the GCS,
which tells every other node. All that the job has here goes: workers, tasks, actors, templates,
copies of objects. In a cluster its *detached* actors stay, and with them as much of the job as they
need to live, be restarted and submit tasks; the rest follows when the last of them has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skate import messages as m
from skate.config import ENDED_JOBS_KEPT
from skate.node.peer import Job, Peer
from skate.scheduler.local_scheduler import Task
from skate.states import TASK_OFFERED, TASK_READY

if TYPE_CHECKING:
    from skate.node.node_core import NodeCore


class JobDesk:
    """See the module's docstring."""

    def __init__(self, core: NodeCore) -> None:
        self._core = core
        self.ended: dict[bytes, None] = {}  # the newest, so that a late word starts none anew

    def end(self, job: Job) -> None:
        """Its driver is gone."""
        core = self._core
        stay = core.actors.detached(job.id) if core.is_cluster else []
        stays = bool(stay or job.kept_by)
        if not stays:
            self._forget(job)
        elif job.is_over:
            return
        job.is_over = True
        self._end_workers(job.id, {id(actor.worker) for actor in stay})
        tasks = core.scheduler.end_job(job.id, keep_classes=stays)
        own, calls = core.actors.end_job(job, stay)
        tasks += own
        tasks += core.forwarder.end_job(job.id)
        tasks += core.remote_actors.end_job(job.id)
        tasks += core.guests.end_job(job.id)
        for stored in core.store.objects.values():
            tasks += [t for t in stored.waiters or () if t.template.job_id == job.id]
        births = {actor.id: actor.creation for actor in stay}
        core.drop_tasks([t for t in tasks if t is not births.get(t.id)])
        self._place_again({t.id: t for t in tasks if t is births.get(t.id)})
        for call in calls:
            core.fail_task(call, call.actor.cause)
        core.store.end_job(job.id)
        core.neighbours.forget_job(job.id)
        driver, job.driver = job.driver, None
        if driver is not None:
            self._tell_gcs(job)
            core.shell.job_ended(job, "its driver is gone")

    def end_if_over(self, job_id: bytes) -> None:
        """A detached actor of it has ended: was it the last that kept the job?"""
        job = self._core.jobs.get(job_id)
        if job is None or not job.is_over or job.kept_by:
            return
        if not self._core.actors.detached(job_id):
            self.end(job)

    def on_kept(self, job: Job, node_id: bytes) -> None:
        """Another node tells that the driver has ended, and that actors there keep the job.

        It may be quicker than the GCS, whose word must not end what those actors submit meanwhile.
        """
        job.kept_by.add(node_id)
        self.end(job)

    def _place_again(self, births: dict[bytes, Task]) -> None:
        # Of actors that stay, and were taken out with what goes. One that waits for its inputs
        # does so still.
        core = self._core
        for task in births.values():
            if task.state is TASK_READY:
                core.scheduler.placing.append(task)
            elif task.state is TASK_OFFERED:
                core.desk.place_when_ready(task)

    def _end_workers(self, job_id: bytes, stay: set[int]) -> None:
        core = self._core
        for worker in list(core.scheduler.workers.values()):
            if worker.pool.job_id == job_id and id(worker) not in stay:
                core.workers.end(worker)

    def _forget(self, job: Job) -> None:
        core = self._core
        core.jobs.pop(job.id, None)
        self._note_end(job.id)
        for key in [k for k in core.templates if k[0] == job.id]:
            del core.templates[key]
        for peer in core.peers:
            if peer.node_id:
                for number in [n for n, t in peer.templates.items() if t.job_id == job.id]:
                    del peer.templates[number]
        for function_id in job.function_ids:
            if not any(function_id in other.function_ids for other in core.jobs.values()):
                core.functions.pop(function_id, None)

    def _note_end(self, job_id: bytes) -> None:
        self.ended[job_id] = None
        if len(self.ended) > ENDED_JOBS_KEPT:
            del self.ended[next(iter(self.ended))]

    def _tell_gcs(self, job: Job) -> None:
        core = self._core
        config = job.config
        core.gcs.append(
            m.JobChanged(
                job.id, job.driver_pid, config.entrypoint, config.namespace, False, core.now
            )
        )

    def on_over(self, message: m.JobOver) -> None:
        """The GCS tells that a job, whose driver was elsewhere, has ended."""
        job = self._core.jobs.get(message.job_id)
        if job is None:
            self._note_end(message.job_id)
        elif job.driver is None and not job.is_over:
            self.end(job)

    def node_died(self, node_id: bytes) -> None:
        """So its drivers did. The GCS says so as well, if it has ever heard of them."""
        for job in list(self._core.jobs.values()):
            if job.driver is None and job.driver_node == node_id and not job.is_over:
                self.end(job)
            if node_id in job.kept_by:
                job.kept_by.discard(node_id)
                self.end_if_over(job.id)

    # ------------------------------------------------------------------ what drivers are told

    def tell_driver(self, job: Job, message: m.LogLines | m.Notice) -> None:
        """Show something at the job's driver, wherever that is."""
        core = self._core
        if job.driver is not None:
            core.send(job.driver, message)
            return
        node = core.neighbours.by_id.get(job.driver_node)
        if node is not None and not job.is_over:
            core.neighbours.send(node, m.ForDriver(job.id, message))

    def on_for_driver(self, peer: Peer, message: m.ForDriver) -> None:
        """Another node has something to show at the driver of a job."""
        job = self._core.jobs.get(message.job_id)
        if job is not None and job.driver is not None:
            self._core.send(job.driver, message.message)
