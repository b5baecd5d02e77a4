"""The runtime of this process, for every call of the API that needs one: Ray's auto-init."""

from __future__ import annotations

import os

from skate.client import runtime as runtime_module
from skate.client.runtime import Runtime
from skate.errors import RuntimeClosedError


def connected() -> Runtime:
    """The runtime; starts a session if the program has not."""
    return runtime_module.current() or _start()


def _start() -> Runtime:
    if os.environ.get("RAY_ENABLE_AUTO_CONNECT", "1") == "0":
        raise RuntimeClosedError("skate is not started: call init() first")
    if runtime_module.forked:
        raise RuntimeClosedError(
            "this process was forked from one that uses skate, and cannot use its connection: "
            "let the parent make the calls, or call init() here for a session of its own"
        )
    from skate.api import start

    start.init(ignore_reinit_error=True)  # another thread may be quicker
    runtime = runtime_module.current()
    assert runtime is not None
    return runtime
