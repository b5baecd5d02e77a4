"""What a node tells the GCS of its load: each heartbeat, and when queues grow long. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skate.messages import Heartbeat

if TYPE_CHECKING:
    from skate.node.node_core import NodeCore


def load_of(core: NodeCore) -> Heartbeat:
    """The load at this moment, with what waits and why."""
    scheduler = core.scheduler
    return Heartbeat(
        available=scheduler.free_soon(),
        queued=scheduler.queued(),
        running=sum(len(worker.tasks) for worker in scheduler.workers.values()),
        store_used_bytes=core.store.arena.used_bytes,
        average_task_s=scheduler.average_task_s,
        received=core.guests.received,
        bandwidth=core.pulls.bandwidth,
        pending=core.questions.pending(),
        attainable=scheduler.attainable(),
    )
