"""Placement groups on this node: what the GCS says of them, and what becomes of their users. Pure.

Part of the node core, around scheduler/bundles.py. When a group is removed, or its place here is
given back, whatever runs in it is ended and fails for good: nobody would ever have room for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skate import messages as m
from skate.node.error_payload import error_payload
from skate.rows import Task
from skate.scheduler.bundles import Bundles
from skate.scheduler.group_names import uses_group
from skate.states import ActorState

if TYPE_CHECKING:
    from skate.node.node_core import NodeCore


class GroupDesk:
    """See the module's docstring."""

    def __init__(self, core: NodeCore) -> None:
        self._core = core
        self.bundles = Bundles(core.scheduler)

    def on_reserve(self, message: m.ReserveBundles) -> None:
        """Phase one."""
        answer = self.bundles.reserve(message)
        if answer is not None:
            self._core.gcs.append(answer)

    def on_commit(self, message: m.CommitBundles) -> None:
        """Phase two."""
        self.bundles.commit(message)
        self._look_again(message.group_id)

    def on_return(self, message: m.ReturnBundles) -> None:
        """The group has no place here (any more)."""
        if message.attempt == -1:
            self._take_back_lent(message.group_id)
        in_use = self.bundles.give_back(message)
        self._look_again(message.group_id)
        if in_use:
            self._end_users(message.group_id)

    def _look_again(self, group_id: bytes) -> None:
        # What the group's templates demand may just have appeared here, or gone.
        scheduler = self._core.scheduler
        for template in self._core.templates.values():
            spec = template.spec
            if spec.group == group_id and spec.kind != "method":
                template.is_plain = spec.strategy is None and not scheduler.missing(spec.demand)

    def _take_back_lent(self, group_id: bytes) -> None:
        # Whose method waits in get/wait may yet say that it goes on, with the signal on its way:
        # until its process is gone it holds the group's CPU again, as a task does (`lost`).
        core = self._core
        lent = core.actors.lent_cpu
        actors = [w.actor for w in core.scheduler.workers.values() if w.actor is not None]
        for actor in [actor for actor in actors if actor.id in lent]:
            if uses_group(actor.creation.template.spec.running_demand, group_id):
                core.actors.unblocked(actor)

    def _end_users(self, group_id: bytes) -> None:
        core = self._core
        for worker in self.bundles.users(group_id):
            for task in list(worker.tasks.values()):
                self._fail(task)
            worker.tasks.clear()
            worker.load_s = 0.0
            core.scheduler.lost(
                worker
            )  # or what it still says could make it idle, and be sent more
            core.shell.kill_worker(worker)
        for task in self.bundles.take_waiting(group_id):
            self._fail(task)
        for actor in list(core.actors.router.actors.values()):
            if actor.is_proxy or actor.host is not None or actor.state is ActorState.DEAD:
                continue
            if uses_group(actor.creation.template.spec.demand, group_id):
                core.actors.die(actor, self._payload("actor", actor.options.class_name))

    def _fail(self, task: Task) -> None:
        spec = task.template.spec
        self._core.fail_task(task, self._payload(spec.kind, spec.name))

    def _payload(self, what: str, name: str) -> bytes:
        kind = "ActorPlacementGroupRemoved" if what == "actor" else "TaskPlacementGroupRemoved"
        return error_payload(
            kind,
            f"The {what} {name} was in a placement group that has been removed, or that has lost "
            "its place on this node.",
        )

    def settle(self) -> None:
        """Each turn: take back what the leases of a group that is gone have let go of, and set
        aside for the group that is next what tasks have."""
        if self.bundles.leaving:
            self.bundles.settle()
        if self.bundles.claim is not None:
            self._core.scheduler.release_emptied(self._core.now)
            answer = self.bundles.serve_claim()
            if answer is not None:
                self._core.gcs.append(answer)
