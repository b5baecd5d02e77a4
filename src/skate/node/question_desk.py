"""Questions of clients: answered here, by the shell, or by the GCS. Pure.

Part of the node core. What the node knows is answered at once; the rest is forwarded and the answer
comes back in its own time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from skate import messages as m
from skate.node.peer import Peer
from skate.spec import resources_of

if TYPE_CHECKING:
    from skate.node.node_core import NodeCore


class QuestionDesk:
    """See the module's docstring."""

    def __init__(self, core: NodeCore) -> None:
        self._core = core
        self.asked: dict[int, tuple[Peer, int]] = {}  # forwarded questions
        self.ask_count = 0

    def on_ask(self, peer: Peer, question: m.Ask) -> None:
        """Answer here what is known here; the rest goes to the GCS and comes back."""
        local = self._local_answers().get(question.method)
        if local is not None:
            self._core.send(peer, m.Answer(question.number, local(question.body)))
        elif not self._core.shell.answer_locally(peer, question):
            self._core.notes.flush()
            number = self.ask_gcs(peer, question)
            if question.method == "reserve_actor_name":
                self._core.actors.reserving[number] = question.body

    def ask_gcs(self, peer: Peer, question: m.Ask) -> int:
        """Forward a question; the number that its answer will have."""
        self.ask_count += 1
        self.asked[self.ask_count] = (peer, question.number)
        self._core.gcs.append(m.Ask(self.ask_count, question.method, question.body))
        return self.ask_count

    def on_gcs_answer(self, answer: m.Answer) -> None:
        """The GCS has answered a question that was forwarded."""
        peer, number = self.asked.pop(answer.number)
        if answer.number in self._core.actors.reserving:
            self._core.actors.on_reserved(peer, answer)
        self._core.send(peer, m.Answer(number, answer.body, answer.error))

    def _local_answers(self) -> dict[str, Callable[[dict[str, Any]], Any]]:
        return {
            "cluster_resources": lambda body: resources_of(self._core.scheduler.total),
            "available_resources": lambda body: {
                name: x for name, x in resources_of(self._core.scheduler.available).items() if x > 0
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

    def status(self) -> dict[str, Any]:
        """What `skate status` shows of this node."""
        pending = []
        for queue in self._core.scheduler.classes.values():
            if queue.count:
                missing = self._core.scheduler.missing(queue.demand)
                reason = (
                    "no node has that: " + ", ".join(sorted(missing))
                    if missing
                    else "waits for free resources"
                )
                pending.append(
                    {
                        "name": queue.head().template.spec.name,
                        "demand": resources_of(queue.demand),
                        "count": queue.count,
                        "reason": reason,
                    }
                )
        for task in self._core.scheduler.placing:
            demand = task.template.spec.demand
            missing = self._core.scheduler.missing(demand)
            pending.append(
                {
                    "name": task.template.spec.name,
                    "demand": resources_of(demand),
                    "count": 1,
                    "reason": "no node has that: " + ", ".join(sorted(missing))
                    if missing
                    else "waits for free resources",
                }
            )
        return {
            "node_id": self._core.node_id.hex(),
            "resources_total": resources_of(self._core.scheduler.total),
            "resources_available": resources_of(self._core.scheduler.available),
            "pending": pending,
            "actors": self._core.actors.counts(),
            "workers": len(self._core.scheduler.workers),
            "object_store": {
                "used_bytes": self._core.store.arena.used_bytes,
                "capacity_bytes": self._core.store.arena.capacity_bytes,
                "objects": len(self._core.store.objects),
            },
        }
