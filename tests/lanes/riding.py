"""Whether calls ride: what the node says of its lanes. For tests with real processes."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import skate
from skate.client.runtime import current
from tests.conftest import eventually, store_counts

SOON_S = 20.0
"""What is awaited takes milliseconds; only a hang takes so long."""


def get(refs: Any) -> Any:
    """The values, or an error rather than a hang."""
    return skate.get(refs, timeout=SOON_S)


@contextmanager
def leaves_nothing(cpus: int = 2) -> Iterator[None]:
    """Within a session: CPUs, store and workers are in the end as they were."""
    before = store_counts()
    yield
    gc.collect()  # an error that was caught keeps the frames, and they the refs
    eventually(lambda: skate.available_resources().get("CPU") == cpus, "all CPUs are free", SOON_S)
    eventually(lambda: store_counts() <= before, "the store is as before", SOON_S)
    eventually(lambda: not lanes(-1, actor_id=""), "no worker is lent", SOON_S)


def lanes(caller: int = 0, **which: Any) -> list[dict[str, Any]]:
    """The open lanes of this process, or of another; of all of them if ``caller`` is -1."""
    runtime = current()
    assert runtime is not None, "no session"
    if caller >= 0:
        which["caller_pid"] = caller or os.getpid()
    rows = runtime.ask("status", {})["lanes"]
    return [row for row in rows if {**row, **which, "state": "OPEN"} == row]


def call_until_open(actor: Any, call: Callable[[], Any]) -> int:
    """Call the actor until this process has a lane to it; the pid of the actor."""
    actor_id = actor._actor_id.hex()

    def is_open() -> bool:
        call()
        return bool(lanes(actor_id=actor_id))

    eventually(is_open, "a lane to the actor", SOON_S)
    return int(lanes(actor_id=actor_id)[0]["worker_pid"])


def run_until_lent(task: Callable[[], Any]) -> int:
    """Run tasks until a worker is lent to this process; the pid of one."""

    def is_lent() -> bool:
        for _ in range(10):
            task()
        return bool(lanes(actor_id=""))

    eventually(is_lent, "a lent worker", SOON_S)
    return int((lanes(actor_id="") or [{"worker_pid": 0}])[0]["worker_pid"])
