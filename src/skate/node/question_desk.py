"""Questions of clients: answered here, by the shell, or by the GCS. Pure.

Part of the node core. What the node knows is answered at once; the rest is forwarded and the answer
comes back in its own time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from skate import messages as m
from skate.config import PENDING_ROWS
from skate.rows import Client
from skate.spec import Demand, resources_of, with_store

if TYPE_CHECKING:
    from skate.node.node_core import NodeCore


OF_ALL_NODES = ("cluster_resources", "available_resources")


class QuestionDesk:
    """See the module's docstring."""

    def __init__(self, core: NodeCore) -> None:
        self._core = core
        self.asked: dict[int, tuple[Client, int]] = {}  # forwarded questions
        self.ask_count = 0
        self._own: dict[int, Callable[[Any], None]] = {}  # the core's own questions

    def on_ask(self, peer: Client, question: m.Ask) -> None:
        """Answer here what is known here; the rest goes to the GCS and comes back."""
        if question.method == "actor_info" and self._core.actors.info(question.body) is None:
            question = m.Ask(question.number, "get_actor", {"actor_id": question.body["actor_id"]})
        local = self._local_answers().get(question.method)
        if question.method in OF_ALL_NODES and self._core.neighbours.alive:
            local = None  # the GCS knows of all of them
        if local is not None:
            self._core.send(peer, m.Answer(question.number, local(question.body)))
        elif not self._core.shell.answer_locally(peer, question):
            self._core.notes.flush()
            number = self.ask_gcs(peer, question)
            if question.method == "reserve_actor_name":
                self._core.actors.reserving[number] = question.body

    def ask_gcs(self, peer: Client, question: m.Ask) -> int:
        """Forward a question; the number that its answer will have."""
        self.ask_count += 1
        self.asked[self.ask_count] = (peer, question.number)
        self._core.gcs.append(m.Ask(self.ask_count, question.method, question.body))
        return self.ask_count

    def ask_for_core(self, method: str, body: dict[str, Any], then: Callable[[Any], None]) -> None:
        """A question of the core itself; ``then`` gets the answer's body."""
        self.ask_count += 1
        self._own[self.ask_count] = then
        self._core.gcs.append(m.Ask(self.ask_count, method, body))

    def on_gcs_answer(self, answer: m.Answer) -> None:
        """The GCS has answered a question that was forwarded, or that is the core's own."""
        own = self._own.pop(answer.number, None)
        if own is not None:
            own(answer.body)
            return
        peer, number = self.asked.pop(answer.number)
        if answer.number in self._core.actors.reserving:
            self._core.actors.on_reserved(peer, answer)
        self._core.send(peer, m.Answer(number, answer.body, answer.error))

    def _local_answers(self) -> dict[str, Callable[[dict[str, Any]], Any]]:
        return {
            "cluster_resources": lambda body: resources_of(self._core.scheduler.total),
            "available_resources": lambda body: {
                name: x for name, x in self._available().items() if x > 0
            },
            "actor_info": self._core.actors.info,
            "ping": lambda body: None,
            "store": lambda body: {
                "used_bytes": self._core.store.arena.used_bytes,
                "capacity_bytes": self._core.store.arena.capacity_bytes,
                "objects": len(self._core.store.objects),
                "extents": len(self._core.store.arena),
            },
            "status": lambda body: self.status(),
        }

    def pending(self) -> list[m.Demanded]:
        """What waits on this node, and why, for people; the GCS knows of what waits there."""
        rows = []
        scheduler = self._core.scheduler
        for queue in scheduler.classes.values():
            if queue.count:
                name = queue.head().template.spec.name
                rows.append(self._demanded(name, queue.demand, queue.count))
        for task in list(scheduler.placing)[:PENDING_ROWS]:
            rows.append(self._demanded(task.template.spec.name, task.template.spec.demand, 1))
        return rows[:PENDING_ROWS]

    def _demanded(self, name: str, demand: Demand, count: int) -> m.Demanded:
        missing = self._core.scheduler.missing(demand)
        reason = (
            "no node has that: " + ", ".join(sorted(missing))
            if missing
            else "waits for free resources"
        )
        return m.Demanded(name, dict(demand), count, reason)

    def _available(self) -> dict[str, float]:
        core = self._core
        return resources_of(with_store(core.scheduler.available, core.store.arena.used_bytes))

    def status(self) -> dict[str, Any]:
        """What `skate status` shows of this node."""
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
            "node_id": self._core.node_id.hex(),
            "resources_total": resources_of(self._core.scheduler.total),
            "resources_available": self._available(),
            "pending": pending,
            "actors": self._core.actors.counts(),
            "workers": len(self._core.scheduler.workers),
            "object_store": {
                "used_bytes": self._core.store.arena.used_bytes,
                "capacity_bytes": self._core.store.arena.capacity_bytes,
                "objects": len(self._core.store.objects),
            },
        }
