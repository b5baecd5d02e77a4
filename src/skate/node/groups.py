"""Placement groups on this node: reserved and returned as the GCS says; the end of users. Pure.

Around scheduler/bundles.py. When a group is removed, or its place here is given back, its tasks and
actors here end and fail for good: no node would ever have room for them.
"""

from __future__ import annotations

from skate import messages as m
from skate.node.actor_life import ActorLife
from skate.node.actor_resources import ActorResources
from skate.node.actor_router import ActorRouter
from skate.node.clock import Clock
from skate.node.error_payload import error_payload
from skate.node.hears import GCS, hears
from skate.node.jobs import Jobs
from skate.node.outbox import Outbox
from skate.node.running import Running
from skate.node.world import Shell
from skate.rows import Task
from skate.scheduler.bundles import Bundles
from skate.scheduler.group_names import uses_group
from skate.scheduler.local_scheduler import LocalScheduler
from skate.states import ActorState


class Groups:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        clock: Clock,
        outbox: Outbox,
        shell: Shell,
        scheduler: LocalScheduler,
        router: ActorRouter,
        jobs: Jobs,
        running: Running,
        actor_resources: ActorResources,
        actor_life: ActorLife,
    ) -> None:
        self._clock = clock
        self._outbox = outbox
        self._shell = shell
        self._scheduler = scheduler
        self._router = router
        self._jobs = jobs
        self._running = running
        self._actor_resources = actor_resources
        self._actor_life = actor_life
        self.bundles = Bundles(scheduler)

    @hears(m.ReserveBundles, GCS)
    def on_reserve(self, message: m.ReserveBundles) -> None:
        """Phase one."""
        answer = self.bundles.reserve(message)
        if answer is not None:
            self._outbox.to_gcs(answer)

    @hears(m.CommitBundles, GCS)
    def on_commit(self, message: m.CommitBundles) -> None:
        """Phase two."""
        self.bundles.commit(message)
        self._look_again(message.group_id)

    @hears(m.ReturnBundles, GCS)
    def on_return(self, message: m.ReturnBundles) -> None:
        """A group has no place here, or no more."""
        if message.attempt == -1:
            self._take_back_lent(message.group_id)
        in_use = self.bundles.give_back(message)
        self._look_again(message.group_id)
        if in_use:
            self._end_users(message.group_id)

    def _look_again(self, group_id: bytes) -> None:
        # The resources that the group's templates demand may have just appeared here, or gone.
        scheduler = self._scheduler
        for template in self._jobs.templates.values():
            spec = template.spec
            if spec.group == group_id and spec.kind != "method":
                template.is_plain = spec.strategy is None and not scheduler.missing(spec.demand)

    def _take_back_lent(self, group_id: bytes) -> None:
        # Actor whose method waits in get/wait: with the kill under way, it may still say that it
        # goes on. It holds the group's CPU again until its process is gone, as tasks do (`lost`).
        lent = self._actor_resources.lent_cpu
        actors = [w.actor for w in self._scheduler.workers.values() if w.actor is not None]
        for actor in [actor for actor in actors if actor.id in lent]:
            if uses_group(actor.creation.template.spec.running_demand, group_id):
                self._actor_resources.unblocked(actor)

    def _end_users(self, group_id: bytes) -> None:
        for worker in self.bundles.users(group_id):
            for task in list(worker.tasks.values()):
                self._fail(task)
            worker.tasks.clear()
            worker.load_s = 0.0
            self._scheduler.lost(
                worker
            )  # else its last messages could make it idle, and bring it more tasks
            self._shell.kill_worker(worker)
        for task in self.bundles.take_waiting(group_id):
            self._fail(task)
        for actor in list(self._router.actors.values()):
            if actor.is_proxy or actor.host is not None or actor.state is ActorState.DEAD:
                continue
            if uses_group(actor.creation.template.spec.demand, group_id):
                self._actor_life.die(actor, self._payload("actor", actor.options.class_name))

    def _fail(self, task: Task) -> None:
        spec = task.template.spec
        self._running.fail(task, self._payload(spec.kind, spec.name))

    def _payload(self, what: str, name: str) -> bytes:
        kind = "ActorPlacementGroupRemoved" if what == "actor" else "TaskPlacementGroupRemoved"
        return error_payload(
            kind,
            f"The {what} {name} was in a placement group that has been removed, or that has lost "
            "its place on this node.",
        )

    def settle(self) -> None:
        """Each turn: take back resources that leases of a removed group have freed, and set aside
        for the next group those that tasks have freed."""
        if self.bundles.leaving:
            self.bundles.settle()
        if self.bundles.claim is not None:
            self._scheduler.release_emptied(self._clock.now)
            answer = self.bundles.serve_claim()
            if answer is not None:
                self._outbox.to_gcs(answer)
