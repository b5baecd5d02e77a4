"""A call's template, function and job, made known before the call itself. Pure.

Workers and other nodes are told of each the first time that it is needed.
"""

from __future__ import annotations

from skate import messages as m
from skate.ids import job_of
from skate.node.actor_router import ActorRouter
from skate.node.jobs import Jobs
from skate.node.node_table import NodeTable
from skate.node.outbox import Outbox
from skate.rows import Client, OtherNode, Template


class Introductions:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        nodes: NodeTable,
        router: ActorRouter,
        jobs: Jobs,
    ) -> None:
        self._outbox = outbox
        self._nodes = nodes
        self._router = router
        self._jobs = jobs

    def to_worker(self, client: Client, template: Template) -> None:
        """Tell a worker of a template, and of its function, before its first call of it."""
        if template.number in client.known_templates:
            return
        client.known_templates.add(template.number)
        function_id = template.spec.function_id
        if function_id and function_id not in client.known_functions:
            client.known_functions.add(function_id)
            self._outbox.send(client, self._jobs.functions[function_id])
        self._outbox.send(client, m.RegisterTemplate(template.number, template.spec))

    def to_node(self, other: OtherNode, template: Template) -> int:
        """The template's number at that node; the first time, sends job, function and template."""
        number = other.templates.get(template)
        if number is not None:
            return number
        job = self._jobs.by_id[template.job_id]
        if job.id not in other.jobs:
            other.jobs.add(job.id)
            self._outbox.send_node(
                other,
                m.Introduce(job.id, job.config, job.driver_node, job.driver_pid),
            )
        function_id = template.spec.function_id
        if function_id and (job.id, function_id) not in other.functions:
            other.functions.add((job.id, function_id))
            self._outbox.send_node(other, self._jobs.functions[function_id])
        number = other.templates[template] = other.numbers
        other.numbers += 1
        self._outbox.send_node(other, m.RegisterTemplate(number, template.spec, job.id))
        return number

    def forget_job(self, job_id: bytes) -> None:
        """The job is over: its templates will not be used again."""
        actors = self._router.actors
        for other in self._nodes.by_id.values():
            other.jobs.discard(job_id)
            other.functions = {key for key in other.functions if key[0] != job_id}
            for template in [t for t in other.templates if t.job_id == job_id]:
                del other.templates[template]
            for key in [key for key in other.lines if job_of(key[0]) == job_id]:
                if key[0] not in actors:  # else it is detached, or its home has not told its end
                    del other.lines[key]
            for tasks in (other.tasks, other.calls):
                for task_id in [i for i, task in tasks.items() if task.template.job_id == job_id]:
                    del tasks[task_id]
