"""The plain state that the parts of a node share; each table has its invariants. Pure."""

from __future__ import annotations

from typing import NamedTuple

from skate.node.actor_router import ActorRouter
from skate.node.clock import Clock
from skate.node.identity import Identity
from skate.node.node_table import NodeTable
from skate.node.outbox import Outbox
from skate.node.world import Shell
from skate.objects.object_store import ObjectStore
from skate.rows import Client, Lane
from skate.scheduler.local_scheduler import LocalScheduler


class Tables(NamedTuple):
    """The tables by name; wiring.py gives each part those that it uses."""

    clock: Clock
    outbox: Outbox
    me: Identity
    shell: Shell
    store: ObjectStore
    scheduler: LocalScheduler
    nodes: NodeTable
    router: ActorRouter
    clients: dict[Client, None]
    lanes: dict[int, Lane]
