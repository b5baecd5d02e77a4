"""The jobs that a node knows: functions, templates, and messages for their drivers. Pure.

A job is a driver's program, and lives as long as the driver. In a cluster a *detached* actor has a
job of its own (``found``), which its home ends when the actor is dead for good. So the tasks,
actors, placement groups and puts of the actor do not belong to the driver that created it, and end
with the actor, as a driver's do.

This part does not end jobs (endings.py).
"""

from __future__ import annotations

from skate import messages as m
from skate.config import ENDED_JOBS_KEPT
from skate.ids import JOB_ID_BYTES
from skate.node.clock import Clock
from skate.node.hears import NODE, hears
from skate.node.identity import Identity
from skate.node.node_table import NodeTable
from skate.node.outbox import Outbox
from skate.node.world import Shell
from skate.rows import Client, Job, Template
from skate.scheduler.local_scheduler import LocalScheduler
from skate.spec import CallTemplate


class Jobs:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        clock: Clock,
        outbox: Outbox,
        me: Identity,
        shell: Shell,
        scheduler: LocalScheduler,
        nodes: NodeTable,
        clients: dict[Client, None],
    ) -> None:
        self._clock = clock
        self._outbox = outbox
        self._me = me
        self._shell = shell
        self._scheduler = scheduler
        self._nodes = nodes
        self._clients = clients
        self.by_id: dict[bytes, Job] = {}
        self.functions: dict[bytes, m.RegisterFunction] = {}
        self.templates: dict[tuple[bytes, CallTemplate], Template] = {}
        self.template_count = 0
        self.ended: dict[bytes, None] = {}  # the newest, so that a late message starts none anew

    def template_of(self, job: Job, spec: CallTemplate) -> Template:
        """The template of a job for calls of this kind."""
        key = (job.id, spec)
        template = self.templates.get(key)
        if template is None:
            self.template_count += 1
            queue = self._scheduler.class_of(job.id, spec)
            template = self.templates[key] = Template(self.template_count, job.id, spec, queue)
        return template

    def found(self, actor_id: bytes, class_name: str, template: Template) -> Template:
        """Make a detached actor's job; returns the template of that job to create the actor by."""
        parent = self.by_id[template.job_id]
        job = Job(self._shell.new_id()[:JOB_ID_BYTES], parent.config, None, self._me.node_id, 0)
        job.actor_id, job.parent = actor_id, parent.id
        job.function_ids[template.spec.function_id] = None
        self.by_id[job.id] = job
        entrypoint = f"detached actor {class_name}"
        self._outbox.to_gcs(
            m.JobChanged(job.id, 0, entrypoint, parent.config.namespace, True, self._clock.now)
        )
        return self.template_of(job, template.spec)

    def forget(self, job: Job) -> None:
        """The job is over: its functions and templates go, if no other job has them."""
        self.by_id.pop(job.id, None)
        self.note_end(job.id)
        for key in [k for k in self.templates if k[0] == job.id]:
            del self.templates[key]
        for client in self._clients:
            if client.node_id:
                for number in [n for n, t in client.templates.items() if t.job_id == job.id]:
                    del client.templates[number]
        for function_id in job.function_ids:
            if not any(function_id in other.function_ids for other in self.by_id.values()):
                self.functions.pop(function_id, None)

    def note_end(self, job_id: bytes) -> None:
        """Remember that this job is over: a late message must not start it anew."""
        self.ended[job_id] = None
        if len(self.ended) > ENDED_JOBS_KEPT:
            del self.ended[next(iter(self.ended))]

    # ------------------------------------------------------------------ what drivers are told

    def tell_driver(self, job: Job, message: m.LogLines | m.Notice) -> None:
        """Show something at the job's driver, on this node or another."""
        parent = self.by_id.get(job.parent)
        node = self._nodes.by_id.get(job.driver_node)
        if job.driver is not None:
            self._outbox.send(job.driver, message)
        elif parent is not None:
            self.tell_driver(parent, message)
        elif node is not None:
            self._outbox.send_node(node, m.ForDriver(job.id, message))

    @hears(m.ForDriver, NODE)
    def on_for_driver(self, client: Client, message: m.ForDriver) -> None:
        """Another node has something to show at the driver of a job."""
        job = self.by_id.get(message.job_id)
        if job is not None:
            self.tell_driver(job, message.message)

    @hears(m.FlushLogs, NODE)
    def on_flush_logs(self, client: Client, message: m.FlushLogs) -> None:
        """A driver ends, and its node asks for all that was printed here."""
        self._shell.flush_logs(client, message)

    @hears(m.LogsFlushed, NODE)
    def on_logs_flushed(self, client: Client, message: m.LogsFlushed) -> None:
        """Another node has sent all of its prints."""
        self._shell.logs_flushed(client, message)

    def prints_of(self, job_id: bytes) -> set[bytes]:
        """The jobs whose prints this job's driver shows, as far as this node knows."""
        shown = {job_id}
        for job in self.by_id.values():  # a child comes after its parent
            if job.parent in shown:
                shown.add(job.id)
        return shown
