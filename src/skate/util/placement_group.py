"""``ray.util.placement_group``: groups of bundles of resources that are set aside together."""

from __future__ import annotations

from skate.api.bundle_groups import (
    PlacementGroup,
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from skate.api.group_handle import PlacementGroupID

__all__ = [
    "PlacementGroup",
    "PlacementGroupID",
    "get_current_placement_group",
    "get_placement_group",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
]
