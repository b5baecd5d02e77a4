"""The resources of this node that its actors hold. Pure.

An actor holds its running demand exactly while it is ``placed``, from the start of a process to its
burial. While its method waits in get or wait, its CPU is lent out.
"""

from __future__ import annotations

from skate.rows import Actor
from skate.scheduler.group_names import is_cpu
from skate.scheduler.local_scheduler import LocalScheduler
from skate.states import ActorState

DEAD = ActorState.DEAD


class ActorResources:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        scheduler: LocalScheduler,
    ) -> None:
        self._scheduler = scheduler
        self.lent_cpu: set[bytes] = set()  # actors whose method waits in get/wait

    def give_back(self, actor: Actor) -> None:
        """The actor's process is gone."""
        if actor.placed:
            actor.placed = False
            demand = actor.creation.template.spec.running_demand
            if actor.id in self.lent_cpu:
                self.lent_cpu.discard(actor.id)
                demand = tuple(pair for pair in demand if not is_cpu(pair[0]))
            self._scheduler.give_back(demand, actor.gpus)
            actor.gpus = None

    def blocked(self, actor: Actor) -> None:
        """A method waits in get/wait: the actor's CPU, if it holds one, may serve another."""
        if actor.state is DEAD:  # its process is being ended: what it holds stays taken until then
            return
        if actor.placed and actor.id not in self.lent_cpu:
            self.lent_cpu.add(actor.id)
            self._scheduler.lend_cpu(actor.creation.template.spec.running_demand)

    def unblocked(self, actor: Actor) -> None:
        """The method goes on."""
        if actor.placed and actor.id in self.lent_cpu:
            self.lent_cpu.discard(actor.id)
            self._scheduler.take_back_cpu(actor.creation.template.spec.running_demand)

    def held(self) -> dict[str, int]:
        """The resources that actors hold now, for the scheduler's check."""
        held: dict[str, int] = {}
        for worker in self._scheduler.workers.values():
            actor = worker.actor
            if actor is not None and actor.placed:
                for name, units in actor.creation.template.spec.running_demand:
                    if is_cpu(name) and actor.id in self.lent_cpu:
                        continue
                    held[name] = held.get(name, 0) + units
        return held
