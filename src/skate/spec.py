"""What travels with a task: its call template, its demand, the job it belongs to.

Resources are fixed point (``config.RESOURCE_UNITS`` to one), so that sums of fractions are exact.
"""

from __future__ import annotations

import msgspec

from skate.config import RESOURCE_UNITS

BYTE_RESOURCES = ("memory", "object_store_memory")
Demand = tuple[tuple[str, int], ...]  # sorted pairs of resource name and fixed-point units


def demand_of(resources: dict[str, float]) -> Demand:
    """The fixed-point demand of a mapping of resource name to amount; zeros are dropped."""
    units = ((name, round(amount * RESOURCE_UNITS)) for name, amount in resources.items())
    return tuple(sorted(pair for pair in units if pair[1]))


def resources_of(demand: Demand | dict[str, int]) -> dict[str, float]:
    """The amounts of a fixed-point demand, as users write them."""
    pairs = demand.items() if isinstance(demand, dict) else demand
    return {name: units / RESOURCE_UNITS for name, units in pairs}


def amount_text(name: str, amount: float) -> str:
    """An amount of a resource for people: ``0.5``, or ``1.5 GiB`` of one that counts bytes."""
    return format_bytes(amount) if name in BYTE_RESOURCES else f"{amount:g}"


def format_bytes(count: float) -> str:
    """Return a number of bytes in the largest unit that leaves at least one: ``1.5 GiB``."""
    if count < 1024:
        return f"{count:.0f} bytes"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"


def with_store(free: dict[str, int], used_bytes: int) -> dict[str, int]:
    """What is free, as people are told it: nobody demands object store memory, objects fill it."""
    name = "object_store_memory"
    if not used_bytes or name not in free:
        return free
    return {**free, name: max(0, free[name] - used_bytes * RESOURCE_UNITS)}


class LabelRule(msgspec.Struct, array_like=True, frozen=True):
    """One condition on a node's label ``key``; ``op`` is "in", "not in", "exists" or "absent"."""

    key: str
    op: str
    values: tuple[str, ...] = ()


class Strategy(msgspec.Struct, array_like=True, frozen=True):
    """Which nodes a task or actor may go to. ``kind`` is DEFAULT, SPREAD or NODE.

    NODE: to ``node_id``; if it is ``soft`` and that node cannot, to any other. ``rules`` have to
    hold of the node; ``soft_rules`` only if some node with the resources meets them. If no living
    node meets ``rules``, the ``fallbacks`` take their place one after the other.
    """

    kind: str = "DEFAULT"
    node_id: bytes = b""
    soft: bool = False
    spill_if_busy: bool = False  # soft NODE: elsewhere also when it is only busy
    fail_if_busy: bool = False  # NODE: an error, rather than waiting, when it is busy
    rules: tuple[LabelRule, ...] = ()
    soft_rules: tuple[LabelRule, ...] = ()
    fallbacks: tuple[tuple[LabelRule, ...], ...] = ()


class CallTemplate(msgspec.Struct, array_like=True, frozen=True):
    """All that repeated calls of one remote function (or method) share; registered once a line.

    ``kind`` is "task", "actor" (a constructor) or "method". ``demand`` is what a task holds while
    it runs; an actor's ``demand`` is what it needs to be placed, ``running_demand`` what it keeps.
    ``threads`` is the value for OMP_NUM_THREADS.
    """

    kind: str
    function_id: bytes
    name: str
    demand: Demand = ()
    running_demand: Demand = ()
    num_returns: int = 1
    max_retries: int = 0
    retry_exceptions: bool | bytes = False  # bytes: a pickled tuple of exception classes
    max_calls: int = 0
    threads: int = 1
    events: bool = True
    method: str = ""  # of a method: what to call; ``name`` is what people see
    strategy: Strategy | None = None  # None: DEFAULT
    group: bytes = b""  # its placement group; ``demand`` then names that group's resources
    bundle: int = -1  # of the group; -1: any
    capture: bool = False  # whether what it submits goes to the group as well


class ActorOptions(msgspec.Struct, array_like=True):
    """What an actor is created with, beside its constructor's template."""

    name: str = ""
    namespace: str = ""
    class_name: str = ""
    methods: dict[str, dict[str, object]] = {}
    max_restarts: int = 0
    max_task_retries: int = 0
    max_concurrency: int = 1
    is_async: bool = False
    in_order: bool = True
    detached: bool = False
    # Per method: (name, kind, has a default) of each parameter, so that every handle can check.
    signatures: dict[str, list[tuple[str, int, bool]]] = {}
    max_pending_calls: int = -1  # per handle; -1: any number


class JobConfig(msgspec.Struct, array_like=True):
    """A driver's world, which its workers take over: environment, module path, folder.

    Those three are bytes, as the system has them: they need not be valid Unicode.
    """

    namespace: str = ""
    environ: dict[bytes, bytes] = {}
    sys_path: list[bytes] = []
    working_dir: bytes = b""
    entrypoint: str = ""
    log_to_driver: bool = True


# The first byte of every payload says how it is written, so that another language can join.
FORMAT_RAW = b"\x01"  # a bytes object as it is
FORMAT_MSGPACK = b"\x02"  # plain data; reserved for other languages
FORMAT_PICKLE = b"\x03"  # pickle 5, buffers inside or behind it
FORMAT_ERROR = b"\x04"  # an encoded ErrorRecord: get() raises it
