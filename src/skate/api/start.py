"""``init()``: its parameters, and the head start that it gives the node.

It loads little, so that the node's interpreter runs before this one loads the session.
"""

from __future__ import annotations

import sys

from skate.launch import head_start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from skate.api.session import SkateContext


def init(
    address: str | None = None,
    *,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    resources: dict[str, float] | None = None,
    labels: dict[str, str] | None = None,
    object_store_memory: float | None = None,
    local_mode: bool = False,
    ignore_reinit_error: bool = False,
    namespace: str | None = None,
    log_to_driver: bool | None = None,
    **others: Any,
) -> SkateContext:
    """Connect to a cluster, or start skate on this machine and connect to that.

    ``address``: "HOST:PORT" of a cluster that this machine has a node of; "auto" for the one that
    `skate start` runs here; "local" for a session of this program's own; "skate://HOST:PORT" (or
    "ray://...") of a node of a cluster that this machine is no part of (launch/remote_node.py). By
    default SKATE_ADDRESS or RAY_ADDRESS says it, or what runs here is joined, or else a session is
    started.

    Of a session of its own: ``num_cpus``, ``num_gpus``: what tasks may use (default: what the
    machine has; fractions are fine). ``resources``: custom ones, name to amount. ``labels`` of the
    node. ``object_store_memory``: bytes (default 30 % of the memory, at least 75 MiB). A cluster
    has what its nodes were started with: ValueError.

    ``namespace``: where named actors are looked up (default: one of its own). ``log_to_driver``:
    whether prints of tasks appear here (default True).
    Raises RuntimeError on a second call, unless ``ignore_reinit_error``. Ray: ``ray.init``.
    """
    begun = head_start.begin(address) if "skate.api.session" not in sys.modules else None
    try:
        from skate.api import session

        return session.start(
            address,
            {
                "num_cpus": num_cpus,
                "num_gpus": num_gpus,
                "resources": resources,
                "labels": labels,
                "object_store_memory": object_store_memory,
            },
            local_mode=local_mode,
            ignore_reinit_error=ignore_reinit_error,
            namespace=namespace,
            log_to_driver=log_to_driver,
            others=others,
            begun=begun,
        )
    finally:
        if begun is not None:
            begun.drop()
