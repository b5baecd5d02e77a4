"""A placement group as the GCS keeps it: its row, its checks, its missing bundles, its view.

`PlacementGroups` (placement_groups.py) makes and moves rows; this module decides nothing.
"""

from __future__ import annotations

from typing import Any

import msgspec

from skate.config import BUNDLES_MAX, RESOURCE_UNITS
from skate.scheduler.bundle_choice import STRATEGIES, Wanted
from skate.scheduler.group_names import GROUP_ID_BYTES, parse_name
from skate.spec import Demand, LabelRule, resources_of
from skate.states import PLACEMENT_GROUP_MOVES, PlacementGroupState, advance


class GroupRow(msgspec.Struct):
    """A placement group. `nodes` and `attempts` go with `bundles`: where each of them is committed
    (b"": nowhere), and since which attempt. Times are wall seconds."""

    group_id: bytes
    name: str
    namespace: str
    bundles: list[Demand]
    strategy: str
    job_id: bytes
    detached: bool
    rules: list[tuple[LabelRule, ...]]
    soft_target: bytes
    made: float
    nodes: list[bytes]
    attempts: list[int]
    state: PlacementGroupState = PlacementGroupState.PENDING
    attempt: int = 0  # the last one, counted from 1
    reason: str = ""  # why it waits, or why it was removed
    scheduling: str = "QUEUED"  # Ray's word for that
    created: float = 0.0
    reserving_s: float = 0.0  # what the two phases took
    longest_delay_s: float = 0.0

    def move(self, to: PlacementGroupState) -> None:
        """Change state; illegal moves raise."""
        self.state = advance(PLACEMENT_GROUP_MOVES, self.state, to)


def wanted_of(row: GroupRow) -> list[Wanted]:
    """The bundles that are nowhere."""
    return [
        Wanted(index, demand, row.rules[index] if row.rules else ())
        for index, demand in enumerate(row.bundles)
        if not row.nodes[index]
    ]


def placed_of(row: GroupRow) -> dict[bytes, int]:
    """How many bundles each node has."""
    placed: dict[bytes, int] = {}
    for node_id in row.nodes:
        if node_id:
            placed[node_id] = placed.get(node_id, 0) + 1
    return placed


def gone_text(row: GroupRow) -> str:
    """Why a removed group can be used no more."""
    return f"placement group {row.group_id.hex()} is no more: {row.reason}"


def check_group(row: GroupRow) -> None:
    """ValueError, with a sentence for the user, for a group that can never exist."""
    if len(row.group_id) != GROUP_ID_BYTES:
        raise ValueError(f"the id of a placement group has {GROUP_ID_BYTES} bytes")
    if row.strategy not in STRATEGIES:
        raise ValueError(f"no strategy {row.strategy!r}, only {', '.join(STRATEGIES)}")
    if not 0 < len(row.bundles) <= BUNDLES_MAX:
        raise ValueError(f"a placement group has 1 to {BUNDLES_MAX} bundles: {len(row.bundles)}")
    if row.rules and len(row.rules) != len(row.bundles):
        raise ValueError(f"{len(row.rules)} lists of rules for {len(row.bundles)} bundles")
    if row.soft_target and row.strategy != "STRICT_PACK":
        raise ValueError(f"a soft target goes with STRICT_PACK, not with {row.strategy}")
    for index, demand in enumerate(row.bundles):
        if not demand or any(units <= 0 for _, units in demand):
            raise ValueError(f"bundle {index} asks for nothing, or for less: {demand}")
        for name, units in demand:
            if name == "bundle" or parse_name(name) is not None:
                raise ValueError(f"{name!r} in bundle {index} is a name that groups make")
            if name == "GPU" and units > RESOURCE_UNITS and units % RESOURCE_UNITS:
                raise ValueError(f"bundle {index} asks for parts of several GPUs: whole ones only")


def view_group(row: GroupRow) -> dict[str, Any]:
    """A group as `placement_group_table` shows it: Ray's keys, then skate's own; ids in hex."""
    is_created = row.created > 0
    return {
        "placement_group_id": row.group_id.hex(),
        "name": row.name,
        "bundles": {index: resources_of(demand) for index, demand in enumerate(row.bundles)},
        "bundles_to_node_id": {index: node_id.hex() for index, node_id in enumerate(row.nodes)},
        "strategy": row.strategy,
        "state": row.state.name,
        "stats": {
            "end_to_end_creation_latency_ms": (row.created - row.made) * 1e3 if is_created else 0.0,
            "scheduling_latency_ms": row.reserving_s * 1e3,
            "scheduling_attempt": row.attempt,
            "highest_retry_delay_ms": row.longest_delay_s * 1e3,
            "scheduling_state": row.scheduling,
        },
        "namespace": row.namespace,
        "creator_job_id": row.job_id.hex(),
        "is_detached": row.detached,
        "reason": row.reason,
        "made": row.made,
    }
