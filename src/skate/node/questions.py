"""Questions of clients: answered here, by the shell, or by the GCS. Pure.

The node answers at once from its own state; other questions are passed on, and their answers come
back later.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from skate import messages as m
from skate.config import PENDING_ROWS
from skate.node.actor_names import ActorNames
from skate.node.actor_reports import ActorReports
from skate.node.asking import Asking
from skate.node.event_notes import EventNotes
from skate.node.hears import CLIENTS, OBSERVER, hears
from skate.node.identity import Identity
from skate.node.node_table import NodeTable
from skate.node.outbox import Outbox
from skate.node.world import Shell
from skate.objects.object_store import ObjectStore
from skate.rows import Client, Lane
from skate.scheduler.local_scheduler import LocalScheduler
from skate.spec import Demand, resources_of, with_store

OF_ALL_NODES = ("cluster_resources", "available_resources")


class Questions:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        me: Identity,
        shell: Shell,
        store: ObjectStore,
        scheduler: LocalScheduler,
        nodes: NodeTable,
        notes: EventNotes,
        asking: Asking,
        actor_names: ActorNames,
        actor_reports: ActorReports,
        lanes: dict[int, Lane],
    ) -> None:
        self._outbox = outbox
        self._me = me
        self._shell = shell
        self._store = store
        self._scheduler = scheduler
        self._nodes = nodes
        self._notes = notes
        self._asking = asking
        self._actor_names = actor_names
        self._actor_reports = actor_reports
        self._lanes = lanes

    @hears(m.Ask, *CLIENTS, OBSERVER)
    def on_ask(self, client: Client, question: m.Ask) -> None:
        """Answer from this node's state, or pass the question on to the GCS."""
        if question.method == "actor_info" and self._actor_reports.info(question.body) is None:
            question = m.Ask(question.number, "get_actor", {"actor_id": question.body["actor_id"]})
        local = self._local_answers().get(question.method)
        if question.method in OF_ALL_NODES and self._nodes.alive:
            local = None  # the GCS knows those of all nodes
        if local is not None:
            self._outbox.send(client, m.Answer(question.number, local(question.body)))
        elif not self._shell.answer_locally(client, question):
            self._notes.flush()
            first = None
            if question.method == "reserve_actor_name":
                first = partial(self._actor_names.on_reserved, client, question.body)
            self._asking.pass_on(client, question, first)

    def _local_answers(self) -> dict[str, Callable[[dict[str, Any]], Any]]:
        return {
            "cluster_resources": lambda body: resources_of(self._scheduler.total),
            "available_resources": lambda body: {
                name: x for name, x in self._available().items() if x > 0
            },
            "actor_info": self._actor_reports.info,
            "ping": lambda body: None,
            "store": lambda body: {
                "used_bytes": self._store.arena.used_bytes,
                "capacity_bytes": self._store.arena.capacity_bytes,
                "objects": len(self._store.objects),
                "extents": len(self._store.arena),
            },
            "status": lambda body: self.status(),
            "lane": lambda body: self._lane(self._lanes.get(body["lane"])),
        }

    def pending(self) -> list[m.Demanded]:
        """The work that waits on this node, with reasons, for people; the GCS adds its own."""
        rows = []
        scheduler = self._scheduler
        for queue in scheduler.classes.values():
            if queue.count:
                name = queue.head().template.spec.name
                rows.append(self._demanded(name, queue.demand, queue.count))
        for task in list(scheduler.placing)[:PENDING_ROWS]:
            rows.append(self._demanded(task.template.spec.name, task.template.spec.demand, 1))
        return rows[:PENDING_ROWS]

    def _demanded(self, name: str, demand: Demand, count: int) -> m.Demanded:
        missing = self._scheduler.missing(demand)
        reason = (
            "no node has that: " + ", ".join(sorted(missing))
            if missing
            else "waits for free resources"
        )
        return m.Demanded(name, dict(demand), count, reason)

    def _available(self) -> dict[str, float]:
        return resources_of(with_store(self._scheduler.available, self._store.arena.used_bytes))

    def status(self) -> dict[str, Any]:
        """This node's rows of `skate status`."""
        pending = [
            {
                "name": row.name,
                "demand": resources_of(row.demand),
                "count": row.count,
                "reason": row.reason,
            }
            for row in self.pending()
        ]
        return {
            "node_id": self._me.node_id.hex(),
            "resources_total": resources_of(self._scheduler.total),
            "resources_available": self._available(),
            "pending": pending,
            "actors": self._actor_reports.counts(),
            "workers": len(self._scheduler.workers),
            "lanes": [self._lane(lane) for lane in self._lanes.values()],
            "object_store": {
                "used_bytes": self._store.arena.used_bytes,
                "capacity_bytes": self._store.arena.capacity_bytes,
                "objects": len(self._store.objects),
            },
        }

    def _lane(self, lane: Lane | None) -> dict[str, Any] | None:
        # For a caller that waits on a lane: the process that should answer, and its current work.
        if lane is None:
            return None
        return {
            "lane": lane.number,
            "state": lane.state.name,
            "caller_pid": lane.caller.pid,
            "worker_pid": lane.worker.pid,
            "actor_id": lane.actor.id.hex() if lane.actor is not None else "",
            "is_revoked": lane.is_revoked,
            "running": [
                {"name": begun.name, "since": begun.started, "behind": begun.behind}
                for begun in lane.begun.values()
            ],
        }
