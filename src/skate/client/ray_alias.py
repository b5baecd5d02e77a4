"""Let ``import ray`` mean skate, for programs that were written for Ray.

``install_ray_alias`` is called by ``skate run`` before the program starts, and by every worker that
finds ``SKATE_ALIAS_RAY`` set. From then on ``ray`` and ``ray.x.y`` are the very same module objects
as ``skate`` and ``skate.x.y``, so that classes, exceptions and state exist once, however a program
spells them.

Deliberately absent: anything that hides the difference from a program that looks for it. Modules
keep their skate names, and what skate does not have raises ``ModuleNotFoundError`` under its Ray
name.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    # Not at run time: its import would cost the skate command half as much again as all the rest.
    from importlib.abc import Loader

ALIAS_VARIABLE = "SKATE_ALIAS_RAY"


class _AliasLoader:
    """Hands out a skate module under a second name, and leaves the module as it was."""

    def __init__(self, skate_name: str) -> None:
        self._skate_name = skate_name
        self._own_spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the skate module itself; the import system files it under the Ray name."""
        module = importlib.import_module(self._skate_name)
        self._own_spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Undo the one thing that the import system has changed in the module."""
        module.__spec__ = self._own_spec


class _AliasFinder:
    """Answers for ``ray`` and everything below it."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Return a spec that leads to the skate module, or None if there is no such module."""
        root, _, rest = fullname.partition(".")
        if root != "ray":
            return None
        skate_name = f"skate.{rest}" if rest else "skate"
        skate_spec = importlib.util.find_spec(skate_name)
        if skate_spec is None:
            return None
        is_package = skate_spec.submodule_search_locations is not None
        loader = cast("Loader", _AliasLoader(skate_name))
        return ModuleSpec(fullname, loader, is_package=is_package)


def install_ray_alias() -> None:
    """Make ``import ray`` mean skate, here and in the processes that this one starts.

    Calling it again changes nothing. Raises ``RuntimeError`` if another ``ray`` has been imported
    already: its objects are in use by then, and would not mix with skate's.
    """
    present = sys.modules.get("ray")
    if present is not None and present.__name__ != "skate":
        origin = getattr(present, "__file__", None) or "an unknown place"
        raise RuntimeError(
            f"cannot let 'import ray' mean skate: ray has already been imported from {origin}"
        )
    os.environ[ALIAS_VARIABLE] = "1"
    if not any(isinstance(finder, _AliasFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AliasFinder())
