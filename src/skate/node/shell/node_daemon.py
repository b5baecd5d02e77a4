"""The node daemon's process: sockets, the zygote, the arena file, log tailing around the core.

``python -m skate node``. It forks its zygote first, while nothing is loaded but what node and
workers have in common; the two load their own at the same time. Then it is told what it is to be,
over its standard input (launch/head_start.py), and starts the event loop. All decisions are the
core's (node_core); this module moves bytes, forks, kills, and cleans up: when it ends, by whatever
way it can notice, no process, socket or shared-memory file of its session is left.
"""

from __future__ import annotations

import gc
import importlib
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

# What both the node and its workers need, as far as it takes time: loaded before they part.
COMMON_MODULES = ("skate.messages", "inspect", "logging", "pickle", "threading")

# What every worker needs, or its user's code will touch: loaded once, shared by all workers.
WARM_MODULES = (
    "skate.objects.by_value",
    "skate.worker.worker_main",
    "skate.api.actor_handle",
    "skate.api.runtime_context",
    "skate.api.decorator",
    "skate.api.objects",
    "skate.exceptions",
)


def _run_worker(line: socket.socket) -> None:
    from skate.worker.worker_main import main as worker_main

    worker_main(line)


def _starter() -> socket.socket:
    """The socket that came as standard input; nobody after us reads from that."""
    line = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return line


def _told(line: socket.socket) -> NodeConfig | None:
    """What this node is to be; None if whoever started it has thought better of it, or died."""
    with line:
        data, fds, _, _ = socket.recv_fds(line, CONFIG_MAX_BYTES, DESCRIPTORS_MAX)
    if not data:
        return None
    cfg = msgspec.json.decode(data, type=NodeConfig)
    cfg.renumber(fds)
    return cfg


def _inherited(argv: list[str]) -> NodeConfig:
    """What this node is, and its descriptors, if it has begun anew (rejoin.py)."""
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
    warnings.simplefilter("ignore")  # that they be errors is meant for the user's own code
    # Only now: the event loop's modules are not the workers' business.
    from skate.node.shell.node_shell import run

    if starter is not None:
        cfg = _told(starter)
    gc.freeze()  # what is loaded stays: no collection need look at it
    gc.enable()
    sys.exit(run(cfg, zygote_line, zygote_pid) if cfg is not None else 0)
