"""``ray.util``: what is there beside the core. Names are imported when they are first used.

``placement_group`` is a function here and a module under the same name, as in Ray. The import
system puts every module that it has loaded into its package, and would put that one in the
function's place (again under the name ``ray``, alias.py); this package does not take it.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skate.api.actor_handle import list_named_actors
    from skate.util.placement_group import (
        get_current_placement_group,
        get_placement_group,
        placement_group,
        placement_group_table,
        remove_placement_group,
    )

_HOMES = {
    "get_current_placement_group": "skate.util.placement_group",
    "get_placement_group": "skate.util.placement_group",
    "list_named_actors": "skate.api.actor_handle",
    "placement_group": "skate.util.placement_group",
    "placement_group_table": "skate.util.placement_group",
    "remove_placement_group": "skate.util.placement_group",
}
_SUBMODULES = ("scheduling_strategies",)

__all__ = [
    "get_current_placement_group",
    "get_placement_group",
    "list_named_actors",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
]


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and name in _HOMES):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is not None:
        value = getattr(importlib.import_module(home), name)
        globals()[name] = value
        return value
    if name in _SUBMODULES:
        return importlib.import_module(f"skate.util.{name}")
    raise AttributeError(f"module 'skate.util' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted((*__all__, *_SUBMODULES))
