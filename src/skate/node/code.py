"""Functions and call templates that clients register, and demands that no node can meet. Pure."""

from __future__ import annotations

from skate import messages as m
from skate.config import RESOURCE_UNITS
from skate.node.event_notes import EventNotes
from skate.node.hears import CLIENTS, NODE, hears
from skate.node.identity import Identity
from skate.node.jobs import Jobs
from skate.node.node_table import NodeTable
from skate.node.outbox import Outbox
from skate.node.validity import check_template
from skate.rows import Client, Job, Template
from skate.scheduler.group_names import parse_name
from skate.scheduler.local_scheduler import LocalScheduler
from skate.spec import CallTemplate, amount_text


class Code:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        me: Identity,
        scheduler: LocalScheduler,
        nodes: NodeTable,
        jobs: Jobs,
        notes: EventNotes,
    ) -> None:
        self._outbox = outbox
        self._me = me
        self._scheduler = scheduler
        self._nodes = nodes
        self._jobs = jobs
        self._notes = notes

    @hears(m.RegisterFunction, *CLIENTS, NODE)
    def on_register_function(self, client: Client, message: m.RegisterFunction) -> None:
        """Step 0 of figure a: the function goes to the function table of the GCS."""
        if client.job is not None:
            client.job.function_ids[message.function_id] = None
        if message.function_id not in self._jobs.functions:
            self._jobs.functions[message.function_id] = message
            self._outbox.to_gcs(m.FunctionStored(message.function_id, message.name, message.data))
            self._notes.state("function", message.function_id, "EXPORTED", message.name, client.pid)

    @hears(m.RegisterTemplate, *CLIENTS, NODE)
    def on_register_template(self, client: Client, message: m.RegisterTemplate) -> None:
        """A client names a template by a number, for calls on this connection."""
        spec = message.template
        job = client.job
        if client.node_id:
            job = self._jobs.by_id.get(message.job_id)
            if job is None:  # the job has ended: its messages are dropped
                if not any(
                    spec.function_id in other.function_ids for other in self._jobs.by_id.values()
                ):
                    self._jobs.functions.pop(spec.function_id, None)
                return
            if spec.function_id in self._jobs.functions:
                job.function_ids[spec.function_id] = None
        assert job is not None
        check_template(spec, spec.function_id in job.function_ids)
        template = client.templates[message.number] = self._jobs.template_of(job, spec)
        if client.node_id or spec.kind == "method":
            return
        missing = self._scheduler.missing(spec.demand)
        if missing:
            template.is_plain = False
            # A template bound to one node fails, with the reason, if that node cannot hold it.
            where = spec.strategy
            is_bound = where is not None and where.kind == "NODE" and not where.soft
            if not spec.group and not is_bound and not self._fits_elsewhere(spec):
                self._warn_infeasible(job, template, missing)

    def _fits_elsewhere(self, spec: CallTemplate) -> bool:
        return any(
            all(other.info.resources.get(name, 0) >= units for name, units in spec.demand)
            for other in self._nodes.by_id.values()
        )

    def _warn_infeasible(
        self, job: Job, template: Template, missing: dict[str, tuple[int, int]]
    ) -> None:
        what = "actor" if template.spec.kind == "actor" else "task"
        most, everywhere = dict(self._scheduler.total), dict(self._scheduler.total)
        for other in self._nodes.by_id.values():
            for name, units in other.info.resources.items():
                most[name] = max(most.get(name, 0), units)
                everywhere[name] = everywhere.get(name, 0) + units
        where = "on any one node" if self._nodes.alive else "in all"
        parts = ", ".join(
            f"{_amount(name, asked)} {name} asked but {_amount(name, most.get(name, 0))} {where}"
            for name, (asked, _) in missing.items()
        )
        total_text = ", ".join(
            f"{name}: {_amount(name, units)}"
            for name, units in everywhere.items()
            if not name.startswith("node:") and parse_name(name) is None
        )
        advice = (
            "Ask for less, or let a node with that join (skate start --address=..., with "
            "--num-cpus or --resources)."
            if self._me.is_cluster
            else "Ask for less, or start with more (init(num_cpus=..., resources=...))."
        )
        self._jobs.tell_driver(
            job,
            m.Notice(
                f"The {what} {template.spec.name} cannot be scheduled on any node: {parts}. It "
                f"waits until a node with that joins; this cluster has {{{total_text}}}. {advice}"
            ),
        )

    def warn_of_rules(self, template: Template, reason: str) -> None:
        """Tell the driver, once, that no node meets the label rules of its tasks or actors."""
        job = self._jobs.by_id.get(template.job_id)
        if job is None or template.is_warned:
            return
        template.is_warned = True
        what = "actor" if template.spec.kind == "actor" else "task"
        text = (
            f"The {what} {template.spec.name} cannot be scheduled: "
            f"{reason.removeprefix('infeasible: ')}. It waits until such a node joins. Ask for "
            "other labels, or let a node with them join (skate start --address=... --labels=...)."
        )
        self._jobs.tell_driver(job, m.Notice(text))


def _amount(name: str, units: int) -> str:
    return amount_text(name, units / RESOURCE_UNITS)
