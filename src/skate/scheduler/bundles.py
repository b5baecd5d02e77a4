"""The node's side of placement groups: bundles reserved, committed, given back. Pure.

A reserved bundle has taken its demand out of the node's free resources, as a task would. Committed,
it offers the same amounts again under the names of its group (group_names.py), which the local
scheduler treats like any other resource; of GPUs, the very devices that the bundle has taken.

A reservation may be a *claim*: if only running tasks are in the way, it waits until enough of them
have ended, and no other demand is given what they free (``LocalScheduler.claimed``). A claim ends
when it can be reserved, or when the GCS calls it off; so it needs no time-out here.

Called by the node core with the words of the GCS: ``reserve``, ``commit`` and ``give_back``, in the
order in which they come; in each turn ``settle`` while ``leaving`` is not empty, and
``serve_claim`` while there is a claim. Whatever uses a group that is given back has to be ended by
the core (``users``, ``take_waiting``, and its actors and tasks for which
``group_names.uses_group`` holds): from that moment on nothing new fits, what was free is free
again, and the rest follows as those leases end.

Invariants (``check``, and ``LocalScheduler.check`` with ``held``): total = available + in use, of
each name and of the resources under it, at every step; no device is given twice; no name of a
group outlives the group's last bundle and lease; there is at most one claim, of a group with no
reservation of the same attempt, and the scheduler knows its demand.
Names stand in the scheduler's ``total`` from the reservation on, with nothing available before the
commit: a task that comes ahead of the commit, by another line, waits instead of being refused.
"""

from __future__ import annotations

from skate.config import RESOURCE_UNITS
from skate.messages import BundlesReserved, CommitBundles, ReserveBundles, ReturnBundles
from skate.rows import Task, Worker
from skate.scheduler.group_names import (
    bundle_resources,
    indexed_name,
    uses_group,
    wildcard_name,
)
from skate.scheduler.local_scheduler import LocalScheduler
from skate.spec import Demand


class Bundle:
    """A bundle on this node: what it has taken, and which reservation it came with."""

    __slots__ = ("attempt", "demand", "gpus", "is_committed")

    def __init__(self, attempt: int, demand: Demand, gpus: list[int] | None) -> None:
        self.attempt = attempt
        self.demand = demand
        self.gpus = gpus
        self.is_committed = False


class _Leaving:
    """A group that was given back while leases hold some of it."""

    __slots__ = ("held", "names")

    def __init__(self, names: list[str], held: dict[str, int]) -> None:
        self.names = names  # all of the group's, here
        self.held = held  # of the resources under them: what is still to be freed


class Bundles:
    """See the module's docstring."""

    def __init__(self, scheduler: LocalScheduler) -> None:
        self._scheduler = scheduler
        self.groups: dict[bytes, dict[int, Bundle]] = {}
        self.leaving: dict[bytes, _Leaving] = {}
        self.claim: ReserveBundles | None = None

    # ------------------------------------------------------------------ words of the GCS

    def reserve(self, message: ReserveBundles) -> BundlesReserved | None:
        """Set all of these bundles aside, or none. Returns None if they are claimed instead."""
        is_reserved = self._has(message) or self._reserve(message)
        if not is_reserved and message.is_claim and self._make_claim(message):
            return None
        return BundlesReserved(message.group_id, message.attempt, is_reserved)

    def serve_claim(self) -> BundlesReserved | None:
        """The answer to the claim, once enough has become free for it."""
        claim = self.claim
        if claim is None or not self._reserve(claim):
            return None
        self._end_claim()
        return BundlesReserved(claim.group_id, claim.attempt, True)

    def commit(self, message: CommitBundles) -> None:
        """The whole group is reserved: tasks may use what this attempt has set aside."""
        scheduler = self._scheduler
        for index, bundle in self.groups.get(message.group_id, {}).items():
            if bundle.attempt != message.attempt or bundle.is_committed:
                continue
            bundle.is_committed = True
            given = bundle_resources(message.group_id, index, bundle.demand)
            for name, units in given.items():
                scheduler.available[name] += units
            for name, units in bundle.demand:
                if name == "GPU":
                    for table in self._gpu_tables(message.group_id, index):
                        for device in bundle.gpus or ():
                            table[device] += min(units, RESOURCE_UNITS)

    def give_back(self, message: ReturnBundles) -> bool:
        """Free what this attempt has reserved, or (-1) all that the group has here.

        Whether there were bundles that tasks may use: then the caller ends whatever does.
        """
        group_id = message.group_id
        bundles = self.groups.get(group_id, {})
        claim = self.claim
        if claim is not None and claim.group_id == group_id:
            self._end_claim(message.attempt)
        for index, bundle in list(bundles.items()):
            if not bundle.is_committed and message.attempt in (-1, bundle.attempt):
                del bundles[index]
                self._undo(group_id, index, bundle)
        if not bundles:
            self.groups.pop(group_id, None)
            return False
        if message.attempt != -1:
            return False  # a committed bundle goes with its group only
        self._leave(group_id, self.groups.pop(group_id))
        self.settle()
        return True

    def settle(self) -> None:
        """Free what leases on returned groups have released since the last call."""
        for group_id, group in list(self.leaving.items()):
            self._settle(group_id, group)

    # ------------------------------------------------------------------ who uses a group

    def users(self, group_id: bytes) -> list[Worker]:
        """The workers whose lease is on the group; the caller finds actors itself."""
        return [
            worker
            for worker in self._scheduler.workers.values()
            if worker.lease is not None and uses_group(worker.lease.demand, group_id)
        ]

    def take_waiting(self, group_id: bytes) -> list[Task]:
        """Take the ready tasks and actor creations that want the group out of their queues."""
        scheduler = self._scheduler
        tasks = [t for t in scheduler.placing if uses_group(t.template.spec.demand, group_id)]
        for task in tasks:
            scheduler.withdraw(task)
        for queue in [queue for queue in scheduler.ready if uses_group(queue.demand, group_id)]:
            tasks += scheduler.withdraw_all(queue)
        return tasks

    # ------------------------------------------------------------------ inside

    def _has(self, message: ReserveBundles) -> bool:
        # The same reservation was asked for before, and made.
        bundles = self.groups.get(message.group_id, {})
        return all(
            index in bundles and bundles[index].attempt == message.attempt
            for index, _ in message.bundles
        )

    def _reserve(self, message: ReserveBundles) -> bool:
        scheduler, group_id = self._scheduler, message.group_id
        if group_id in self.leaving:
            return False
        known = self.groups.get(group_id, {})
        taken: dict[int, Bundle] = {}
        owed = {} if message is self.claim else scheduler.owed_to_claim()
        for index, demand in message.bundles:
            if index in known or index in taken or not _can_be_a_bundle(demand):
                break
            if not scheduler.fits_beside(demand, owed):
                break
            taken[index] = Bundle(message.attempt, demand, scheduler.take(demand))
        else:
            for index, bundle in taken.items():
                self._name(group_id, index, bundle.demand)
            self.groups.setdefault(group_id, {}).update(taken)
            return True
        for bundle in taken.values():
            scheduler.give_back(bundle.demand, bundle.gpus)
        return False

    def _make_claim(self, message: ReserveBundles) -> bool:
        # A claim must not wait for what only the end of an actor or of a group could free.
        known = self.groups.get(message.group_id, {})
        units: dict[str, int] = {}
        for index, demand in message.bundles:
            if index in known or not _can_be_a_bundle(demand):
                return False
            for name, more in demand:
                units[name] = units.get(name, 0) + more
        attainable = self._scheduler.attainable()
        if self.claim is not None or message.group_id in self.leaving:
            return False
        if any(attainable.get(name, 0) < wanted for name, wanted in units.items()):
            return False
        self.claim = message
        self._scheduler.claimed = tuple(sorted(units.items()))
        return True

    def _end_claim(self, attempt: int = -1) -> None:
        if self.claim is not None and attempt in (-1, self.claim.attempt):
            self.claim = None
            self._scheduler.claimed = ()

    def _name(self, group_id: bytes, index: int, demand: Demand) -> None:
        scheduler = self._scheduler
        for name, units in bundle_resources(group_id, index, demand).items():
            scheduler.total[name] = scheduler.total.get(name, 0) + units
            scheduler.available.setdefault(name, 0)
        if any(name == "GPU" for name, _ in demand):
            devices = len(scheduler.gpu_free)
            for name in (indexed_name("GPU", group_id, index), wildcard_name("GPU", group_id)):
                scheduler.gpus.setdefault(name, [0] * devices)

    def _undo(self, group_id: bytes, index: int, bundle: Bundle) -> None:
        # Of a bundle that was never committed, nothing can be in use.
        scheduler = self._scheduler
        for name, units in bundle_resources(group_id, index, bundle.demand).items():
            scheduler.total[name] -= units
            if not scheduler.total[name]:
                self._drop(name)
        scheduler.give_back(bundle.demand, bundle.gpus)

    def _leave(self, group_id: bytes, bundles: dict[int, Bundle]) -> None:
        # The names of the group get a total of 0, and a negative amount available while they are
        # in use: so the sums hold, and nothing new fits.
        scheduler = self._scheduler
        names: dict[str, None] = {}
        held: dict[str, int] = {}
        for index, bundle in bundles.items():
            names.update(dict.fromkeys(bundle_resources(group_id, index, bundle.demand)))
            for resource, units in bundle.demand:
                held[resource] = held.get(resource, 0) + units
        for name in names:
            scheduler.available[name] -= scheduler.total[name]
            scheduler.total[name] = 0
        self.leaving[group_id] = _Leaving(list(names), held)

    def _settle(self, group_id: bytes, group: _Leaving) -> None:
        # All users take from the wildcard names, so what these lack is in use.
        available = self._scheduler.available
        for resource, held in group.held.items():
            name = wildcard_name(resource, group_id)
            in_use = max(0, -available[name])
            if in_use < held:
                available[resource] += held - in_use
                group.held[resource] = in_use
            if resource == "GPU":
                table = self._scheduler.gpus[name]
                for device, units in enumerate(table):
                    self._scheduler.gpu_free[device] += units
                    table[device] = 0
        # A worker that waits in get or wait has lent its CPU, and will take it again.
        if not any(available[name] for name in group.names) and not self.users(group_id):
            del self.leaving[group_id]
            for name in group.names:
                self._drop(name)

    def _drop(self, name: str) -> None:
        del self._scheduler.total[name]
        del self._scheduler.available[name]
        self._scheduler.gpus.pop(name, None)

    def _gpu_tables(self, group_id: bytes, index: int) -> tuple[list[int], list[int]]:
        tables = self._scheduler.gpus
        indexed, wildcard = indexed_name("GPU", group_id, index), wildcard_name("GPU", group_id)
        return tables[indexed], tables[wildcard]

    # ------------------------------------------------------------------ views

    def held(self) -> dict[str, int]:
        """What bundles hold, for the check of the scheduler; what actors hold comes on top."""
        held: dict[str, int] = {}
        for group_id, bundles in self.groups.items():
            for index, bundle in bundles.items():
                pairs = list(bundle.demand)
                if not bundle.is_committed:
                    pairs += bundle_resources(group_id, index, bundle.demand).items()
                for name, units in pairs:
                    held[name] = held.get(name, 0) + units
        for group in self.leaving.values():
            for name, units in group.held.items():
                held[name] = held.get(name, 0) + units
        return held

    def check(self) -> None:
        """Assert that the scheduler has exactly the names of these groups, and sound devices."""
        scheduler = self._scheduler
        claim = self.claim
        assert bool(scheduler.claimed) == (claim is not None)
        totals: dict[str, int] = {}
        for group_id, bundles in self.groups.items():
            assert bundles and group_id not in self.leaving
            if claim is not None and claim.group_id == group_id:
                assert all(bundle.attempt != claim.attempt for bundle in bundles.values())
            for index, bundle in bundles.items():
                for name, units in bundle_resources(group_id, index, bundle.demand).items():
                    totals[name] = totals.get(name, 0) + units
        for group in self.leaving.values():
            totals.update(dict.fromkeys(group.names, 0))
        named = {name: units for name, units in scheduler.total.items() if "_group_" in name}
        assert named == totals, (named, totals)
        assert scheduler.available.keys() == scheduler.total.keys()
        for name, table in scheduler.gpus.items():
            assert all(0 <= left <= RESOURCE_UNITS for left in table), name
            if totals.get(name):
                assert scheduler.available[name] == sum(table), name


def _can_be_a_bundle(demand: Demand) -> bool:
    # Several devices are given whole: 1.5 GPUs cannot be set aside.
    return all(
        units > 0 and (name != "GPU" or units <= RESOURCE_UNITS or not units % RESOURCE_UNITS)
        for name, units in demand
    )
