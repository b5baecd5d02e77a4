"""skate: remote functions, actors and shared objects on one machine or many; Ray's API.

``import skate as ray`` is the only line that a Ray Core program changes. Names are imported when
they are first used, so that ``import skate`` costs nothing and daemons load only what is theirs.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # module typing is not needed before the first call, and takes a while
if TYPE_CHECKING:
    from typing import Any

    from skate import exceptions, util
    from skate.api.actor_handle import (
        ActorClass,
        ActorHandle,
        get_actor,
        kill,
        method,
    )
    from skate.api.decorator import remote
    from skate.api.object_ref import ObjectRef
    from skate.api.objects import get, put, wait
    from skate.api.runtime_context import (
        available_resources,
        cluster_resources,
        get_gpu_ids,
        get_runtime_context,
        nodes,
        timeline,
    )
    from skate.api.session import is_initialized, shutdown
    from skate.api.start import init
    from skate.version import __version__

_HOMES = {
    "__version__": "skate.version",
    "ActorClass": "skate.api.actor_handle",
    "ActorHandle": "skate.api.actor_handle",
    "ObjectID": "skate.api.object_ref",
    "ObjectRef": "skate.api.object_ref",
    "available_resources": "skate.api.runtime_context",
    "cluster_resources": "skate.api.runtime_context",
    "get": "skate.api.objects",
    "get_actor": "skate.api.actor_handle",
    "get_gpu_ids": "skate.api.runtime_context",
    "get_runtime_context": "skate.api.runtime_context",
    "init": "skate.api.start",
    "is_initialized": "skate.api.session",
    "kill": "skate.api.actor_handle",
    "method": "skate.api.actor_handle",
    "nodes": "skate.api.runtime_context",
    "put": "skate.api.objects",
    "remote": "skate.api.decorator",
    "shutdown": "skate.api.session",
    "timeline": "skate.api.runtime_context",
    "wait": "skate.api.objects",
}
_SUBMODULES = ("actor", "cluster_utils", "exceptions", "util")

__all__ = [
    "ActorClass",
    "ActorHandle",
    "ObjectRef",
    "__version__",
    "available_resources",
    "cluster_resources",
    "exceptions",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "init",
    "is_initialized",
    "kill",
    "method",
    "nodes",
    "put",
    "remote",
    "shutdown",
    "timeline",
    "util",
    "wait",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is not None:
        value = getattr(importlib.import_module(home), "ObjectRef" if name == "ObjectID" else name)
        globals()[name] = value
        return value
    if name in _SUBMODULES:
        return importlib.import_module(f"skate.{name}")
    raise AttributeError(f"module 'skate' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
