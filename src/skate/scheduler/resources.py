"""What a node has of each resource, and what of it is free. Pure.

Amounts are whole units (``config.RESOURCE_UNITS`` to one). Devices (GPUs) are counted one by one,
also those of placement groups, under the names of their bundles (bundles.py).
"""

from __future__ import annotations

from skate.config import RESOURCE_UNITS
from skate.scheduler.group_names import is_cpu
from skate.spec import Demand


class Resources:
    """See the module's docstring."""

    def __init__(self, total: dict[str, int]) -> None:
        self.total = dict(total)
        self.available = dict(total)
        self.gpu_free = [RESOURCE_UNITS] * (total.get("GPU", 0) // RESOURCE_UNITS)
        # What is free of each device, by resource name: also of a placement group's (bundles.py).
        self.gpus: dict[str, list[int]] = {"GPU": self.gpu_free}

    def missing(self, demand: Demand) -> dict[str, tuple[int, int]]:
        """What this node can never give: resource -> (asked, total). Empty if feasible."""
        return {
            name: (units, self.total.get(name, 0))
            for name, units in demand
            if units > self.total.get(name, 0)
        }

    def fits(self, demand: Demand) -> bool:
        """Whether the demand can be met right now."""
        available = self.available
        gpus = self.gpus
        for name, units in demand:
            if available.get(name, 0) < units:
                return False
            if name in gpus and self._pick_gpus(demand, units) is None:
                return False
        return True

    def _pick_gpus(self, demand: Demand, units: int) -> list[int] | None:
        # In a bundle of a group, it takes as much of the bundle's name and of the group's: from
        # devices that both have.
        tables = [self.gpus[name] for name, _ in demand if name in self.gpus]
        free = tables[0] if len(tables) == 1 else [min(left) for left in zip(*tables, strict=True)]
        if units >= RESOURCE_UNITS:
            whole = [i for i, left in enumerate(free) if left == RESOURCE_UNITS]
            count = units // RESOURCE_UNITS
            return whole[:count] if len(whole) >= count else None
        # A fraction goes where it fits tightest, so that whole devices stay whole.
        fitting = [i for i, left in enumerate(free) if left >= units]
        return [min(fitting, key=lambda i: (free[i], i))] if fitting else None

    def take(self, demand: Demand) -> list[int] | None:
        """Subtract the demand; the GPUs that were given, if any."""
        gpus = None
        for name, units in demand:
            self.available[name] = self.available.get(name, 0) - units
            if name in self.gpus:
                if gpus is None:
                    gpus = self._pick_gpus(demand, units) or []
                for index in gpus:
                    self.gpus[name][index] -= min(units, RESOURCE_UNITS)
        return gpus

    def give_back(self, demand: Demand, gpus: list[int] | None = None) -> None:
        """Add the demand again."""
        for name, units in demand:
            self.available[name] += units
            if name in self.gpus:
                for index in gpus or ():
                    self.gpus[name][index] += min(units, RESOURCE_UNITS)

    def lend_cpu(self, demand: Demand) -> None:
        """Who holds this waits in get or wait: its CPU, and only that, may serve another."""
        for name, units in demand:
            if is_cpu(name):
                self.available[name] += units

    def take_back_cpu(self, demand: Demand) -> None:
        """It goes on. This may oversubscribe for a moment rather than deadlock."""
        for name, units in demand:
            if is_cpu(name):
                self.available[name] -= units
