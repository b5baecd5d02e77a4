"""The ends of jobs, wherever their driver was, and what is said to their drivers. Pure.

Part of the node core. A job ends with its driver: at the driver's node first, which tells the GCS,
which tells every other node. All that the job has here goes: workers, tasks, actors, templates,
copies of objects.

In a cluster a *detached* actor has a job of its own (``found``), which its home ends when the actor
is dead for good. So what the actor owns (its tasks, its actors and placement groups, what it puts)
has nothing to do with the driver that created it, and ends with the actor, as a driver's
does. The actor itself is not touched by the end of its own job: its home has ended it before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skate import messages as m
from skate.config import ENDED_JOBS_KEPT
from skate.ids import JOB_ID_BYTES
from skate.rows import Client, Job, Template

if TYPE_CHECKING:
    from skate.node.node_core import NodeCore


class JobDesk:
    """See the module's docstring."""

    def __init__(self, core: NodeCore) -> None:
        self._core = core
        self.ended: dict[bytes, None] = {}  # the newest, so that a late word starts none anew

    def found(self, actor_id: bytes, class_name: str, template: Template) -> Template:
        """Make a job of a detached actor; the template to create it by, which is the job's."""
        core = self._core
        parent = core.jobs[template.job_id]
        job = Job(core.shell.new_id()[:JOB_ID_BYTES], parent.config, None, core.node_id, 0)
        job.actor_id, job.parent = actor_id, parent.id
        job.function_ids[template.spec.function_id] = None
        core.jobs[job.id] = job
        entrypoint = f"detached actor {class_name}"
        core.gcs.append(
            m.JobChanged(job.id, 0, entrypoint, parent.config.namespace, True, core.now)
        )
        return core.template_of(job, template.spec)

    def actor_ended(self, actor_id: bytes, job_id: bytes) -> None:
        """An actor of this home is dead for good: so is its job, if it is one of its own."""
        job = self._core.jobs.get(job_id)
        if job is not None and job.actor_id == actor_id:
            self.end(job)

    def end(self, job: Job) -> None:
        """Its driver is gone."""
        core = self._core
        self._forget(job)
        self._end_workers(job.id)
        tasks = core.scheduler.end_job(job.id)
        own, calls = core.actors.end_job(job)
        tasks += own
        tasks += core.forwarder.end_job(job.id)
        tasks += core.remote_actors.end_job(job.id)
        tasks += core.guests.end_job(job.id)
        for stored in core.store.objects.values():
            tasks += [t for t in stored.waiters or () if t.template.job_id == job.id]
        core.drop_tasks(tasks)
        for call in calls:
            core.fail_task(call, call.actor.cause)
        core.actors.forget_proxies()
        core.store.end_job(job.id)
        core.neighbours.forget_job(job.id)
        driver, job.driver = job.driver, None
        if driver is not None or job.actor_id:
            self._tell_gcs(job)
        if driver is not None:
            core.shell.job_ended(job, "its driver is gone")

    def _end_workers(self, job_id: bytes) -> None:
        core = self._core
        for worker in list(core.scheduler.workers.values()):
            if worker.pool.job_id != job_id:
                continue
            if not core.actors.is_own_job(worker.actor):
                core.workers.end(worker)
            elif worker.peer is not None and worker.peer.alive:
                worker.peer.role = "over"  # its actor is dead, and it ends; what it says comes late

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
        elif job.driver is None:
            self.end(job)

    def node_died(self, node_id: bytes) -> None:
        """So its drivers did. The GCS says so as well, if it has ever heard of them."""
        for job in list(self._core.jobs.values()):
            if job.driver is None and job.driver_node == node_id:
                self.end(job)

    # ------------------------------------------------------------------ what drivers are told

    def tell_driver(self, job: Job, message: m.LogLines | m.Notice) -> None:
        """Show something at the job's driver, wherever that is."""
        core = self._core
        parent = core.jobs.get(job.parent)
        node = core.neighbours.by_id.get(job.driver_node)
        if job.driver is not None:
            core.send(job.driver, message)
        elif parent is not None:
            self.tell_driver(parent, message)
        elif node is not None:
            core.neighbours.send(node, m.ForDriver(job.id, message))

    def on_for_driver(self, peer: Client, message: m.ForDriver) -> None:
        """Another node has something to show at the driver of a job."""
        job = self._core.jobs.get(message.job_id)
        if job is not None:
            self.tell_driver(job, message.message)

    def prints_of(self, job_id: bytes) -> set[bytes]:
        """The jobs whose prints are shown at the driver of this one, as far as is known here."""
        shown = {job_id}
        for job in self._core.jobs.values():  # a child comes after its parent
            if job.parent in shown:
                shown.add(job.id)
        return shown
