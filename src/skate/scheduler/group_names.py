"""The names of a placement group's resources, and a demand written in them.

Bundle 2 of group G with {"CPU": 4} gives its node the resources "CPU_group_2_<G in hex>" and
"CPU_group_<G in hex>" (as Ray names them): the *indexed* and the *wildcard* name. Who wants that
bundle takes from both, who wants any bundle of the group from the second alone; so the second is
never more than is free in all bundles of the node together. "bundle_group_..." is there for what
asks for nothing else: it, too, runs where the group is, and ends with it.

Called by the API (to write a call's demand), by scheduler/bundles.py and by the GCS. Pure; knows
no state.
"""

from __future__ import annotations

import re

from skate.config import RESOURCE_UNITS
from skate.spec import Demand

GROUP_ID_BYTES = 16

BUNDLE_UNITS = 1_000 * RESOURCE_UNITS
"""Of "bundle_group_..." in each bundle: more than tasks could ever run there at once."""

BUNDLE_SHARE_UNITS = RESOURCE_UNITS // 1_000
"""Of that, what each task or actor in the group takes."""

_NAME = re.compile(r"(.+)_group_(?:([0-9]+)_)?([0-9a-f]{32})")


def wildcard_name(resource: str, group_id: bytes) -> str:
    """The name of a resource in whichever bundle of the group."""
    return f"{resource}_group_{group_id.hex()}"


def indexed_name(resource: str, group_id: bytes, bundle: int) -> str:
    """The name of a resource in one bundle of the group."""
    return f"{resource}_group_{bundle}_{group_id.hex()}"


def parse_name(name: str) -> tuple[str, bytes, int] | None:
    """(resource, group, bundle) of a name of a group; bundle -1: any. None for all other names."""
    if "_group_" not in name:
        return None
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    resource, bundle, group = found.groups()
    return resource, bytes.fromhex(group), -1 if bundle is None else int(bundle)


def bundle_resources(group_id: bytes, bundle: int, demand: Demand) -> dict[str, int]:
    """What a bundle that was made of ``demand`` gives to its node.

    Bundles of one group on one node share the wildcard names: their units add up there.
    """
    given: dict[str, int] = {}
    for resource, units in (*demand, ("bundle", BUNDLE_UNITS)):
        given[indexed_name(resource, group_id, bundle)] = units
        given[wildcard_name(resource, group_id)] = units
    return given


def rewrite_demand(demand: Demand, group_id: bytes, bundle: int) -> Demand:
    """The demand of a task or actor that is to run in a bundle of the group; -1: in any.

    Never empty, so that a call that needs nothing is bound to the group all the same. For an actor
    both demands are rewritten: what places it and what it holds while it lives.
    """
    if len(group_id) != GROUP_ID_BYTES:
        raise ValueError(f"a placement group's id has {GROUP_ID_BYTES} bytes, not {len(group_id)}")
    if bundle < -1:
        raise ValueError(f"a bundle is 0, 1, ... or -1 for any, not {bundle}")
    pairs: list[tuple[str, int]] = []
    for resource, units in (*demand, ("bundle", BUNDLE_SHARE_UNITS)):
        pairs.append((wildcard_name(resource, group_id), units))
        if bundle >= 0:
            pairs.append((indexed_name(resource, group_id, bundle), units))
    return tuple(sorted(pairs))


def uses_group(demand: Demand, group_id: bytes) -> bool:
    """Whether the demand takes anything of the group."""
    ending = "_" + group_id.hex()
    return any(name.endswith(ending) and parse_name(name) is not None for name, _ in demand)


def is_cpu(name: str) -> bool:
    """Whether this is CPU, the machine's or a group's: what a task gives back while it waits."""
    return name == "CPU" or (name.startswith("CPU_group_") and parse_name(name) is not None)
