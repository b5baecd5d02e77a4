"""The placing options of a task or actor, resolved: its strategy, group and demand there.

Called by remote_function and actor_handle when they make a call template, with options that are
checked (options.py). It depends on where the caller runs: what is submitted in a capturing
placement group goes to that group unless it says otherwise. A call that asks for nothing, outside
of such a group, costs one comparison here.

Errors: ValueError for a bundle that the group does not have, and for needs that no bundle (or not
the one that was named) could ever meet. Ray: the same, at ``remote()``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from skate.api.group_handle import GroupHandle, PlacementGroupID
from skate.client.runtime import Surroundings
from skate.scheduler.group_names import rewrite_demand
from skate.spec import Demand, LabelRule, Strategy, demand_of, resources_of

PLACING_OPTIONS = frozenset(
    {
        "scheduling_strategy", "label_selector", "fallback_strategy", "placement_group",
        "placement_group_bundle_index", "placement_group_capture_child_tasks",
    }
)  # fmt: skip

_DEFAULT = Strategy()


class Placement(NamedTuple):
    """Where a call goes; the fields are those of ``CallTemplate``."""

    strategy: Strategy | None = None
    group: bytes = b""
    bundle: int = -1
    capture: bool = False

    def demand(self, demand: Demand) -> Demand:
        """The demand as it has to be asked for there."""
        return rewrite_demand(demand, self.group, self.bundle) if self.group else demand


ANYWHERE = Placement()


def placement_of(
    options: Mapping[str, Any], around: Surroundings, name: str, needs: Demand
) -> Placement:
    """Where a call named ``name`` with these options goes, if it is submitted ``around`` here.

    ``needs`` is what a bundle has to have for it: all that it is placed with.
    """
    if not around.captures and PLACING_OPTIONS.isdisjoint(options):
        return ANYWHERE
    given = options.get("scheduling_strategy")
    strategy = _DEFAULT
    group: GroupHandle | None = None
    bundle, captures = -1, False
    if isinstance(given, str):
        strategy = Strategy(kind=given)
    elif given is not None and hasattr(given, "as_spec"):
        strategy = given.as_spec()
    else:
        group, bundle, captures = _group_of(options, given, around)
        if group is not None:
            _check_bundle(group, bundle, name, needs)
    strategy = _with_labels(strategy, options)
    return Placement(
        None if strategy == _DEFAULT else strategy,
        b"" if group is None else group.id.binary(),
        bundle,
        captures,
    )


def _group_of(
    options: Mapping[str, Any], given: Any, around: Surroundings
) -> tuple[GroupHandle | None, int, bool]:
    # "default" is the group of who submits, if that captures; None is no group.
    group: GroupHandle | str | None
    if given is not None:
        group = given.placement_group
        bundle = given.placement_group_bundle_index
        captures = given.placement_group_capture_child_tasks
    else:
        group = options.get("placement_group", "default")
        bundle = options.get("placement_group_bundle_index")
        captures = options.get("placement_group_capture_child_tasks")
    bundle = -1 if bundle is None else bundle
    captures = around.captures if captures is None else captures
    if isinstance(group, str):
        mine = around.group if captures else b""
        group = GroupHandle(PlacementGroupID(mine)) if mine else None
    if group is not None and group.is_empty:
        group = None
    if group is None:
        if bundle != -1:
            raise ValueError(
                f"placement_group_bundle_index is {bundle}, but there is no placement group: give "
                "both, in a PlacementGroupSchedulingStrategy"
            )
        return None, -1, False
    return group, bundle, captures


def _check_bundle(group: GroupHandle, bundle: int, name: str, needs: Demand) -> None:
    bundles = group.bundle_specs
    if bundle >= len(bundles):
        raise ValueError(
            f"placement_group_bundle_index is {bundle}, but {group!r} has {len(bundles)} "
            f"bundle{'s' if len(bundles) > 1 else ''}: 0 to {len(bundles) - 1}, or -1 for any"
        )
    offered = [dict(demand_of(one)) for one in (bundles if bundle < 0 else [bundles[bundle]])]
    if not any(all(one.get(what, 0) >= units for what, units in needs) for one in offered):
        raise ValueError(
            f"{name} needs {resources_of(needs)}, which does not fit into "
            f"{'any bundle' if bundle < 0 else f'bundle {bundle}'} of {group!r} with {bundles}. "
            "Ask for less, or make a group with larger bundles (an actor without num_cpus needs "
            "1 CPU to be created)."
        )


def _with_labels(strategy: Strategy, options: Mapping[str, Any]) -> Strategy:
    """The strategy with the rules of ``label_selector`` and ``fallback_strategy`` as well."""
    selector = options.get("label_selector")
    fallbacks = options.get("fallback_strategy")
    if not selector and not fallbacks:
        return strategy
    from skate.api.label_syntax import selector_rules

    own = strategy.rules

    def rules(selector: dict[str, str] | None) -> tuple[LabelRule, ...]:
        return own + selector_rules(selector or {})

    return msgspec.structs.replace(
        strategy,
        rules=rules(selector),
        fallbacks=tuple(rules(one["label_selector"]) for one in fallbacks or ()),
    )
