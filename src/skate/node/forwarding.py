"""Tasks of this home at other nodes: sent there, returned, given back. Pure.

The spec goes to the chosen node directly and the result comes back. Only the home tracks a task: a
node that would rather not run it gives it back. A node keeps large results that it has made until
this home lets go of them (``kept_elsewhere``).

Invariant (``check``): a FORWARDED task is at exactly one other node; a task that is given up
elsewhere is placed again or fails.
"""

from __future__ import annotations

from typing import Protocol

from skate import messages as m
from skate.ids import return_id
from skate.node.borrowing import Borrowing
from skate.node.error_payload import error_payload
from skate.node.finding import Finding
from skate.node.guests import Guests
from skate.node.hears import ANSWERER, hears
from skate.node.identity import Identity
from skate.node.introductions import Introductions
from skate.node.node_table import NodeTable
from skate.node.outbox import Outbox
from skate.node.placing import Placing
from skate.node.running import Running
from skate.node.values import Values
from skate.objects.object_store import INLINE, SEALED, ObjectStore
from skate.rows import OtherNode, Task
from skate.states import (
    TASK_FAILED,
    TASK_FINISHED,
    TASK_FORWARDED,
    TASK_MOVES,
    TASK_OFFERED,
    advance,
)


class _ActorProxies(Protocol):
    def call_returned(self, host: OtherNode, message: m.Returned) -> bool: ...


class _ActorHome(Protocol):
    def forward_creation(self, task: Task, host: OtherNode) -> None: ...

    def given_back(self, host: OtherNode, task_id: bytes, life: int) -> Task | None: ...


class Forwarding:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        me: Identity,
        store: ObjectStore,
        nodes: NodeTable,
        introductions: Introductions,
        values: Values,
        finding: Finding,
        borrowing: Borrowing,
        running: Running,
        guests: Guests,
        placing: Placing,
        actor_proxies: _ActorProxies,
        actor_home: _ActorHome,
    ) -> None:
        self._outbox = outbox
        self._me = me
        self._store = store
        self._nodes = nodes
        self._introductions = introductions
        self._values = values
        self._finding = finding
        self._borrowing = borrowing
        self._running = running
        self._guests = guests
        self._placing = placing
        self._actor_proxies = actor_proxies
        self._actor_home = actor_home
        self.kept_elsewhere: dict[bytes, OtherNode] = {}  # results kept by their makers for us

    def forward(self, task: Task, host: OtherNode) -> None:
        """Send the task to the node that is to run it."""
        task.state = advance(TASK_MOVES, task.state, TASK_FORWARDED)
        task.host = host
        if task.template.spec.kind == "actor":
            self._actor_home.forward_creation(task, host)
            return
        number = self._introductions.to_node(host, task.template)
        host.tasks[task.id] = task
        self._outbox.send_node(
            host,
            m.Forward(
                task.id,
                task.attempt,
                number,
                task.arguments,
                task.dependencies,
                task.nested,
                self.inputs_of(task),
                task.depth,
                task.retries_left,
                task.is_bound,
                task.waited_s,
            ),
        )

    def inputs_of(self, task: Task) -> list[m.Input] | None:
        """The values of a task's dependencies, or their locations."""
        if task.dependencies is None:
            return None
        inputs = []
        for object_id in task.dependencies:
            stored = self._store.objects[object_id]
            if stored.state is INLINE:
                inputs.append(m.Input(stored.data))
            else:
                stored.is_shared = True
                here = [self._me.node_id] if stored.state is SEALED else []
                inputs.append(m.Input(b"", stored.size, here + list(stored.nodes or ())))
        return inputs

    @hears(m.Returned, ANSWERER)
    def on_returned(self, host: OtherNode, message: m.Returned) -> None:
        """Another node tells that a task or a call has ended there."""
        task = host.tasks.pop(message.task_id, None)
        if task is None:
            if not self._actor_proxies.call_returned(host, message):
                self._let_go_of_results(host, message)
            return
        outcome = TASK_FAILED if message.failed else TASK_FINISHED
        task.state = advance(TASK_MOVES, task.state, outcome)
        self.store_results(task, host, message)
        self._running.drop_arguments(task)

    def store_results(self, task: Task, host: OtherNode, message: m.Returned) -> None:
        """Keep the results of a task or call that ran elsewhere, or their locations."""
        give_up: list[bytes] = []
        for index, result in enumerate(message.results):
            object_id = return_id(task.id, index)
            size = result.value.size
            if size:
                if self._values.store_remote(object_id, size, host.node_id, result.contains):
                    self.kept_elsewhere[object_id] = host
                else:
                    give_up.append(object_id)
            else:
                self._values.store_result(object_id, result.value, result.contains)
                if result.contains:
                    give_up.append(object_id)
        if give_up:
            self._borrowing.release(host, give_up)

    def _let_go_of_results(self, host: OtherNode, message: m.Returned) -> None:
        # The job has ended, or the task has failed here already: no client wants the results.
        kept = [
            return_id(message.task_id, index)
            for index, result in enumerate(message.results)
            if result.value.size or result.contains
        ]
        if kept:
            self._borrowing.release(host, kept)

    def kept_at(self, host: OtherNode) -> list[bytes]:
        """The results that this node keeps for this home."""
        return [object_id for object_id, maker in self.kept_elsewhere.items() if maker is host]

    def freed(self, object_ids: list[bytes]) -> None:
        """Nothing holds these results any more: their makers need not keep them."""
        for object_id in object_ids:
            host = self.kept_elsewhere.pop(object_id, None)
            if host is not None and host.is_alive:
                self._borrowing.release(host, [object_id])

    @hears(m.GivenBack, ANSWERER)
    def on_given_back(self, host: OtherNode, message: m.GivenBack) -> None:
        """Another node will not run these tasks: find another place."""
        for task_id in message.task_ids:
            task = host.tasks.pop(task_id, None)
            if task is None:
                task = self._actor_home.given_back(host, task_id, message.life)
            if task is None:
                continue
            task.host = None
            task.waited_s = message.waited_s
            task.state = advance(TASK_MOVES, task.state, TASK_OFFERED)
            if message.node_id:
                if message.node_id == self._me.node_id:
                    # The GCS has placed it here, and counts it as on its way until it is received.
                    self._guests.received += 1
                self._placing.send_to(task, message.node_id)
            else:
                self._placing.offer_anew(task)

    def end_job(self, job_id: bytes) -> list[Task]:
        """The job is over: take out its tasks elsewhere, which will not come back."""
        return [
            task
            for other in self._nodes.by_id.values()
            for task in other.tasks.values()
            if task.template.job_id == job_id
        ]

    def is_idle(self) -> bool:
        """Whether no node keeps a result for this home; for tests and the simulator."""
        return not self.kept_elsewhere

    def node_lost(self, host: OtherNode, tasks: dict[bytes, Task], why: str) -> None:
        """A node is lost: run its tasks again elsewhere, if they may be; its copies are gone.

        If it lives, it still keeps its results for this home.
        """
        if not host.is_alive:
            for object_id in self.kept_at(host):
                del self.kept_elsewhere[object_id]
        self._finding.copies_lost(host)
        for task in tasks.values():
            task.host = None
            task.is_bound = False
            if task.retries_left == 0:
                self._running.fail(
                    task,
                    error_payload(
                        "NodeDiedError",
                        f"The task {task.template.spec.name} was on node {host.node_id.hex()} "
                        f"({host.address}) when {why}, and it has no retries left.",
                        task_id=task.id.hex(),
                        node_id=host.node_id.hex(),
                    ),
                )
                continue
            task.next_attempt()
            task.state = advance(TASK_MOVES, task.state, TASK_OFFERED)
            self._placing.place_when_ready(task)
