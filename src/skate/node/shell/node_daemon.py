"""The node daemon's process: sockets, the zygote, the arena file, log tailing around the core.

``python -m skate node --config JSON``. It forks its zygote first, while nothing is loaded but what
node and workers have in common; the two load their own at the same time. Then it starts the event
loop. All decisions are the core's (node_core); this module moves bytes, forks, kills, and cleans
up: when it ends, by whatever way it can notice, no process, socket or shared-memory file of its
session is left.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import warnings

import msgspec

import skate.messages  # noqa: F401 - what node and workers have in common
from skate.node.shell import linux, zygote
from skate.node.shell.node_config import NodeConfig

# What every worker needs, or its user's code will touch: loaded once, shared by all workers.
WARM_MODULES = (
    "skate.objects.by_value",
    "skate.worker.worker_main",
    "skate.api.actor_handle",
    "skate.api.runtime_context",
    "skate.api.decorator",
    "skate.api.objects",
    "skate.api.session",
    "skate.exceptions",
)


def _run_worker(line: socket.socket) -> None:
    from skate.worker.worker_main import main as worker_main

    worker_main(line)


def _fork_zygote(cfg: NodeConfig) -> tuple[socket.socket, int]:
    fds = cfg.inherited_fds()
    for fd in fds:
        os.set_inheritable(fd, False)
    return zygote.start(_run_worker, fds, WARM_MODULES)


def main(argv: list[str]) -> None:
    """Entry of the role."""
    cfg = msgspec.json.decode(argv[argv.index("--config") + 1], type=NodeConfig)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    linux.adopt_orphans()
    zygote_line, zygote_pid = _fork_zygote(cfg)
    linux.set_process_name("skate:node")
    warnings.simplefilter("ignore")  # that they be errors is meant for the user's own code
    # Only now: the event loop's modules are not the workers' business.
    from skate.node.shell.node_shell import run

    gc.enable()
    sys.exit(run(cfg, zygote_line, zygote_pid))
