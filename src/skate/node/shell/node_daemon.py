"""The node daemon's process: sockets, the zygote, the arena file, log tailing around the core.

``python -m skate node``. It forks its zygote first, when only the modules common to node and
workers are loaded; the two load their own at the same time. Then it gets its configuration over
standard input (launch/head_start.py), and starts the event loop. All decisions are the core's
(node_core); this module moves bytes, forks, kills, and cleans up: after any end that it can notice,
no process, socket or shared-memory file of its session is left.
"""

from __future__ import annotations

import gc
import importlib
import mmap
import os
import signal
import socket
import sys
import warnings

import msgspec

from skate.node.shell import linux, zygote
from skate.node.shell.node_config import NodeConfig

CONFIG_MAX_BYTES = 256 << 10  # as much as a datagram holds
DESCRIPTORS_MAX = 16  # at most five are used

# Slow modules that both the node and its workers need: loaded before the fork.
COMMON_MODULES = ("skate.messages", "inspect", "logging", "pickle", "threading")

# Modules that every worker or its user's code needs: loaded once, shared by all workers.
WARM_MODULES = (
    "skate.objects.by_value",
    "skate.worker.worker_main",
    "skate.api.actor_handle",
    "skate.api.runtime_context",
    "skate.api.decorator",
    "skate.api.objects",
    "skate.exceptions",
)


def _run_worker(line: socket.socket, begun: mmap.mmap) -> None:
    from skate.worker.worker_main import main as worker_main

    worker_main(line, begun)


def _starter() -> socket.socket:
    """The socket that came as standard input; no later reader uses it."""
    line = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return line


def _told(line: socket.socket) -> NodeConfig | None:
    """This node's configuration; None if its starter has given up or died."""
    with line:
        data, fds, _, _ = socket.recv_fds(line, CONFIG_MAX_BYTES, DESCRIPTORS_MAX)
    if not data:
        return None
    cfg = msgspec.json.decode(data, type=NodeConfig)
    cfg.renumber(fds)
    return cfg


def _inherited(argv: list[str]) -> NodeConfig:
    """The configuration and descriptors of a node that has begun anew (rejoin.py)."""
    cfg = msgspec.json.decode(argv[argv.index("--config") + 1], type=NodeConfig)
    for fd in cfg.inherited_fds():
        os.set_inheritable(fd, False)
    return cfg


def main(argv: list[str]) -> None:
    """Entry of the role."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cfg = _inherited(argv) if "--config" in argv else None
    linux.close_all_but(cfg.inherited_fds() if cfg is not None else ())
    starter = _starter() if cfg is None else None
    fds = [starter.fileno()] if starter is not None else cfg.inherited_fds() if cfg else []
    linux.adopt_orphans()
    for module in COMMON_MODULES:
        importlib.import_module(module)
    zygote_line, zygote_pid = zygote.start(_run_worker, fds, WARM_MODULES)
    linux.set_process_name("skate:node")
    warnings.simplefilter("ignore")  # PYTHONWARNINGS=error is meant for the user's own code
    # Imported after the fork: workers do not need the event loop's modules.
    from skate.node.shell.node_shell import run

    if starter is not None:
        cfg = _told(starter)
    gc.freeze()  # loaded modules stay: no collection has to look at them
    gc.enable()
    sys.exit(run(cfg, zygote_line, zygote_pid) if cfg is not None else 0)
