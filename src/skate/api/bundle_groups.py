"""Placement groups: bundles of resources, on one node or several, set aside all or none.

What users import as ``skate.util.placement_group``. A group is made at once and created in its own
time by the GCS, which reserves its bundles on nodes; what is scheduled into it waits until then.
It goes with its job unless it is detached, or by ``remove_placement_group``; what runs in it then
is ended.

The ids and bundles of a group never change, so a ``PlacementGroup`` may be pickled and compared.
Not here: where a call goes (placement.py), and all that happens to a group (the GCS).
"""

from __future__ import annotations

import warnings
from typing import Any

from skate.api.connected import connected
from skate.api.group_handle import GroupHandle, PlacementGroupID, bundles_in, row_of
from skate.api.label_syntax import selector_rules
from skate.api.object_ref import ObjectRef
from skate.api.objects import put
from skate.api.options import check_amount
from skate.api.remote_function import RemoteFunction
from skate.api.strategies import PlacementGroupSchedulingStrategy, node_id_from
from skate.errors import UsageError
from skate.scheduler.group_names import parse_name
from skate.scheduler.label_rules import NODE_ID_LABEL
from skate.spec import LabelRule, demand_of

STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")


class PlacementGroup(GroupHandle):
    """A handle to a placement group, made by ``placement_group``. Ray: the same."""

    @staticmethod
    def empty() -> PlacementGroup:
        """A handle that stands for no group."""
        return PlacementGroup(PlacementGroupID.nil())

    def ready(self) -> ObjectRef[PlacementGroup]:
        """A ref of this group, which is there once the group is created.

        Its value is made by a task in the group, so ``get`` and ``wait`` work as with any ref; if
        the group is removed it is a ``TaskPlacementGroupRemoved``.
        """
        if self.is_empty:
            return put(self)
        inside = _itself.options(scheduling_strategy=PlacementGroupSchedulingStrategy(self))
        ref: ObjectRef[PlacementGroup] = inside.remote(self)
        return ref

    def wait(self, timeout_seconds: float = 30) -> bool:
        """Whether the group is created within that time.

        An error if there is no such group (any more).
        """
        if isinstance(timeout_seconds, bool) or not isinstance(timeout_seconds, int | float):
            raise TypeError(f"timeout_seconds must be a number, not {timeout_seconds!r}")
        if not timeout_seconds >= 0:
            raise ValueError(f"timeout_seconds must be at least 0, not {timeout_seconds}")
        if self.is_empty:
            return True
        group_id = self.id.binary()
        if timeout_seconds == 0:  # an answer would be too late, even if the group is created
            row = row_of(group_id)
            if row is not None and row["state"] != "REMOVED":
                return bool(row["state"] == "CREATED")
        limit_s = timeout_seconds or None  # for a group that is gone, an error comes at once
        question = {"group_id": group_id}
        return connected().wait_answer("wait_placement_group", question, group_id, limit_s)


def _return_it(group: PlacementGroup) -> PlacementGroup:
    return group


# Does nothing and needs nothing, so it may run as often as nodes die.
_itself = RemoteFunction(
    _return_it,
    {"num_cpus": 0, "max_retries": -1, "name": "PlacementGroup.ready", "enable_task_events": False},
)


def placement_group(
    bundles: list[dict[str, float]],
    strategy: str | None = None,
    name: str = "",
    lifetime: str | None = None,
    _soft_target_node_id: str | None = None,
    bundle_label_selector: list[dict[str, str]] | None = None,
    topology_strategy: dict[str, str] | None = None,
) -> PlacementGroup:
    """Have these bundles set aside, all or none; at once the group, which is created later.

    ``strategy``: "PACK" (the default: on as few nodes as possible), "SPREAD" (on as many as
    possible), "STRICT_PACK" (all on one node), "STRICT_SPREAD" (each on a node of its own).
    ``name``: for ``get_placement_group``. ``lifetime`` "detached": it outlives its job.
    ``bundle_label_selector``: one label selector for each bundle. ``topology_strategy``: may give
    the strategy as ``{"ray.io/node-id": "SPREAD"}``; other labels are not supported yet.
    ValueError for anything that cannot be such a group, and if its name is taken. Ray:
    ``ray.util.placement_group``.
    """
    chosen = _strategy_of(strategy, topology_strategy)
    _check_bundles(bundles)
    target = _soft_target(_soft_target_node_id, chosen)
    rules = _bundle_rules(bundle_label_selector, len(bundles))
    if not isinstance(name, str):
        raise TypeError(f"the name of a placement group must be a str, not {name!r}")
    if lifetime not in (None, "detached"):
        raise ValueError(f"the lifetime of a placement group is None or 'detached': {lifetime!r}")
    specs = [{resource: float(amount) for resource, amount in one.items()} for one in bundles]
    runtime = connected()
    group_id = runtime.new_task_id()
    question = {
        "group_id": group_id,
        "name": name,
        "namespace": runtime.namespace,
        "bundles": [dict(demand_of(one)) for one in specs],
        "strategy": chosen,
        "job_id": runtime.job_id,
        "detached": lifetime == "detached",
        "bundle_rules": rules,
        "soft_target": target,
    }
    try:
        runtime.ask("create_placement_group", question)
    except UsageError as error:  # the name is taken, or there are too many bundles
        raise ValueError(f"placement_group(): {error}") from None
    return PlacementGroup(PlacementGroupID(group_id), specs)


def remove_placement_group(placement_group: PlacementGroup) -> None:
    """Give back all that the group has set aside; tasks and actors that use it are ended.

    Nothing is done for a group that is gone already.
    """
    group = _group(placement_group, "remove_placement_group")
    if not group.is_empty:
        connected().ask("remove_placement_group", {"group_id": group.id.binary()})


def get_placement_group(placement_group_name: str) -> PlacementGroup:
    """The group that was made with this name in the caller's namespace. ValueError if none was."""
    name = placement_group_name
    if not isinstance(name, str) or not name:
        raise ValueError(f"the name of a placement group is a str that is not empty, not {name!r}")
    runtime = connected()
    row = runtime.ask("get_placement_group", {"name": name, "namespace": runtime.namespace})
    if row is None:
        raise ValueError(
            f"Failed to look up placement group with name {name!r} in namespace "
            f"{runtime.namespace!r}: there is none, or it was removed."
        )
    return PlacementGroup(
        PlacementGroupID(bytes.fromhex(row["placement_group_id"])), bundles_in(row)
    )


def get_current_placement_group() -> PlacementGroup | None:
    """The group in which the running task or actor is; None if there is none, as in a driver."""
    group_id = connected().surroundings.group
    return PlacementGroup(PlacementGroupID(group_id)) if group_id else None


def placement_group_table(placement_group: PlacementGroup | None = None) -> dict[str, Any]:
    """What is known of a group ({} if nothing is), or of all: id in hexadecimal to such a dict.

    Keys are Ray's: "placement_group_id", "name", "bundles" and "bundles_to_node_id" (both by the
    bundle's index), "strategy", "state" (PENDING, PREPARED, CREATED, RESCHEDULING or REMOVED) and
    "stats".
    """
    if placement_group is not None:
        group = _group(placement_group, "placement_group_table")
        return row_of(group.id.binary()) or {}
    rows = connected().ask("placement_group_table", {})
    return {row["placement_group_id"]: row for row in rows}


def _group(value: Any, function: str) -> PlacementGroup:
    if not isinstance(value, PlacementGroup):
        raise TypeError(f"{function}() takes a PlacementGroup, not {value!r}")
    return value


# ------------------------------------------------------------------ checks


def _strategy_of(strategy: Any, topology: Any) -> str:
    if topology is None:
        if strategy is None:
            return STRATEGIES[0]
        return _one_of_strategies(strategy)
    if strategy is not None:
        raise ValueError(
            f"give strategy or topology_strategy, not both: {{{NODE_ID_LABEL!r}: {strategy!r}}} "
            "says the same as the strategy"
        )
    if not isinstance(topology, dict):
        raise ValueError(f"topology_strategy must be a dict of label to strategy: {topology!r}")
    for value in topology.values():
        _one_of_strategies(value)
    if others := [key for key in topology if key != NODE_ID_LABEL]:
        raise NotImplementedError(
            f"skate does not support topology_strategy for {others} yet, only for {NODE_ID_LABEL!r}"
        )
    return str(topology.get(NODE_ID_LABEL, STRATEGIES[0]))


def _one_of_strategies(value: Any) -> str:
    if value not in STRATEGIES:
        raise ValueError(
            f"{value!r} is no strategy of placement groups: they are {', '.join(STRATEGIES)}"
        )
    return str(value)


def _check_bundles(bundles: Any) -> None:
    if not isinstance(bundles, list) or not bundles:
        raise ValueError(
            "bundles must be a list that is not empty, of dicts of resource name to amount, such "
            f"as [{{'CPU': 1}}, {{'GPU': 1}}], not {bundles!r}"
        )
    for index, bundle in enumerate(bundles):
        what = f"bundles[{index}]"
        if not isinstance(bundle, dict):
            raise ValueError(f"{what} must be a dict of resource name to amount, not {bundle!r}")
        for resource, amount in bundle.items():
            if not isinstance(resource, str) or not isinstance(amount, int | float):
                raise ValueError(f"{what} must map str to numbers, not {resource!r} to {amount!r}")
            if not resource or resource == "bundle" or parse_name(resource) is not None:
                raise ValueError(f"{resource!r} cannot be the name of a resource in {what}")
            check_amount(f"{what}[{resource!r}]", amount, resource)
        if not any(bundle.values()):
            raise ValueError(f"{what} asks for nothing: {bundle!r}")
        if "object_store_memory" in bundle:
            warnings.warn(
                "'object_store_memory' in a bundle is deprecated: it sets nothing aside in the "
                "object store",
                DeprecationWarning,
                stacklevel=3,
            )


def _soft_target(node_id: Any, strategy: str) -> bytes:
    if not node_id:
        return b""
    if strategy != "STRICT_PACK":
        raise ValueError(f"_soft_target_node_id needs the strategy 'STRICT_PACK', not {strategy!r}")
    return node_id_from(node_id, "_soft_target_node_id")


def _bundle_rules(selectors: Any, count: int) -> list[tuple[LabelRule, ...]]:
    if selectors is None:
        return []
    if not isinstance(selectors, list) or len(selectors) != count:
        raise ValueError(
            f"bundle_label_selector must be a list with one selector for each of the {count} "
            f"bundles, not {selectors!r}"
        )
    try:
        return [selector_rules(selector) for selector in selectors]
    except TypeError as error:  # Ray: a ValueError, too
        raise ValueError(f"bundle_label_selector: {error}") from None
