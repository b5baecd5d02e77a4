"""This machine's CPUs, memory and GPUs, as a process in a container sees them."""

from __future__ import annotations

import os

from skate.config import ARENA_MAX_BYTES, ARENA_MIN_BYTES, ARENA_SHARE, RESOURCE_LIMIT
from skate.spec import demand_of


def cpu_count() -> int:
    """CPUs that this process may use: its affinity, cut by the cgroup's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        if quota != "max":
            count = min(count or 1, max(1, -(-int(quota) // int(period))))
    except (OSError, ValueError):
        pass
    return count or 1


def memory_bytes() -> int:
    """Memory of the machine, or of its cgroup if that has less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        with open("/sys/fs/cgroup/memory.max") as file:
            text = file.read().strip()
        if text != "max":
            total = min(total, int(text))
    except (OSError, ValueError):
        pass
    return total


def gpu_count() -> int:
    """NVIDIA devices that this process may see."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([part for part in visible.split(",") if part.strip() not in ("", "-1")])
    try:
        return len(os.listdir("/proc/driver/nvidia/gpus"))
    except OSError:
        return 0


def store_bytes(given: float | None) -> int:
    """The size of the object store: as given, or Ray's share of the memory."""
    if given is None:
        size = min(int(memory_bytes() * ARENA_SHARE), ARENA_MAX_BYTES)
        return max(size, ARENA_MIN_BYTES)
    _check_amount("object_store_memory", given)
    if given < ARENA_MIN_BYTES:
        raise ValueError(
            f"object_store_memory is {int(given):,} bytes; at least {ARENA_MIN_BYTES:,} are needed"
        )
    return int(given)


def _check_amount(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} has to be a number, not {value!r}")
    if not 0 <= value <= RESOURCE_LIMIT:  # false for NaN as well
        raise ValueError(f"{name} has to be from 0 to {RESOURCE_LIMIT:g}, not {value!r}")


def node_resources(
    num_cpus: float | None,
    num_gpus: float | None,
    resources: dict[str, float] | None,
    object_store_bytes: int,
    address: str,
    *,
    is_head: bool = True,
) -> dict[str, int]:
    """The node's resources in fixed-point units, under Ray's names."""
    if num_cpus is not None:
        _check_amount("num_cpus", num_cpus)
    if num_gpus is not None:
        _check_amount("num_gpus", num_gpus)
        if num_gpus != int(num_gpus):
            raise ValueError(f"num_gpus has to be a whole number, not {num_gpus!r}")
    total: dict[str, float] = {
        "CPU": cpu_count() if num_cpus is None else num_cpus,
        "GPU": gpu_count() if num_gpus is None else num_gpus,
        "memory": max(0, int(memory_bytes() * 0.7)),
        "object_store_memory": object_store_bytes,
        f"node:{address}": 1.0,
    }
    if is_head:
        total["node:__internal_head__"] = 1.0
    for name, amount in (resources or {}).items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"the name of a resource has to be a string, not {name!r}")
        if name in ("CPU", "GPU", "memory", "object_store_memory"):
            raise ValueError(f"resources may not contain {name!r}; it has a parameter of its own")
        _check_amount(f"resources[{name!r}]", amount)
        total[name] = amount
    return dict(demand_of(total))
