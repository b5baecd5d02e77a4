"""A node that has lost its head: it has ended all work, waits for the head, and begins anew.

The cluster has given such a node up, or is about to, and runs its work elsewhere: its further work
could do harm (decision 0010). So it comes back under a new NodeID, with only its listening sockets:
it runs its own program again, in the same process.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time

import msgspec

from skate import config
from skate.errors import AuthenticationError
from skate.net.cluster_token import read_token
from skate.net.dialing import dial
from skate.net.handshake import LineHello
from skate.net.tls import load_tls
from skate.node.shell.node_config import NodeConfig

AGAIN_S = 0.5
"""Between two attempts to reach the head."""

log = logging.getLogger("skate.node")


def begin_anew(cfg: NodeConfig) -> None:
    """Wait for the head and become a new node; returns if it does not come back in time."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _describe(cfg, waits_for_head=True)
    if not _head_answers(cfg):
        return
    cfg.node_id = os.urandom(16).hex()
    _describe(cfg, node_id=cfg.node_id, waits_for_head=False)
    for fd in cfg.inherited_fds():
        os.set_inheritable(fd, True)
    arguments = list(sys.orig_argv)
    if "--config" in arguments:  # this node has begun anew before
        del arguments[arguments.index("--config") :]
    arguments += ["--config", msgspec.json.encode(cfg).decode()]
    # SKATE_PATH as its starter gave it; skate/__main__.py took it out of the environment.
    os.environ["SKATE_PATH"] = os.pathsep.join(sys.path)
    log.info("the head is back: this node joins anew, as %s", cfg.node_id)
    sys.stderr.flush()
    os.execv(sys.executable, arguments)


def _describe(cfg: NodeConfig, **changed: str | bool) -> None:
    """The session's description tells it to `init()`, `skate status` and their like."""
    path = os.path.join(cfg.session_dir, "session.json")
    try:
        with open(path, encoding="utf-8") as file:
            told = json.load(file)
        told.update(changed)
        with open(path + ".new", "w", encoding="utf-8") as file:
            json.dump(told, file)
        os.replace(path + ".new", path)
    except (OSError, ValueError) as error:
        log.warning("%s could not be brought up to date: %s", path, error)


def _head_answers(cfg: NodeConfig) -> bool:
    tls = load_tls(cfg.tls_cert, cfg.tls_key, cfg.tls_ca)
    deadline = time.monotonic() + config.HEAD_LOST_S
    while time.monotonic() < deadline:
        if _is_orphan(cfg):
            return False  # the parent of this node has ended
        try:
            hello = LineHello("probe", pid=os.getpid())
            dial(
                cfg.head_address, hello, read_token(cfg.token_file), tls=tls, timeout_s=AGAIN_S * 4
            ).sock.close()
        except (OSError, AuthenticationError) as error:  # another cluster may have the address now
            log.info("the head does not answer: %s", error)
            time.sleep(AGAIN_S)
        else:
            return True
    log.error(
        "the head at %s did not answer for %.0f s: this node ends",
        cfg.head_address,
        config.HEAD_LOST_S,
    )
    return False


def _is_orphan(cfg: NodeConfig) -> bool:
    """Whether the parent that this node lives for has gone."""
    if cfg.lifeline_fd < 0:
        return False
    os.set_blocking(cfg.lifeline_fd, False)
    try:
        return os.read(cfg.lifeline_fd, 1) == b""
    except BlockingIOError:
        return False
