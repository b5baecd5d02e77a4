"""``skate start`` and ``skate stop``: a node of this machine comes and goes.

Called by the command line only. The work is done by launch/launching.py; this module tells the user
the outcome and the next commands, and stays in the foreground if asked to.

Exit codes: 0 for success, 1 for failure (with a sentence on stderr), 2 for impossible options. With
``--block`` 0 after Ctrl-C or SIGTERM, which stop the node, and 1 if a daemon ends by itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from skate import config
from skate.errors import SkateError
from skate.launch.daemons import Daemons
from skate.launch.launching import NodeRequest, launch, running_sessions, stop_sessions
from skate.launch.session_folder import (
    BY_CLUSTER_UTILS,
    BY_INIT,
    BY_START,
    LiveSession,
    sessions_root,
)

USAGE_EXIT_CODE = 2
"""What click, and most programs, exit with for a command line that cannot be."""


def start(request: NodeRequest, *, block: bool) -> int:
    """Start a node, print the next commands, and stay if that was asked for."""
    with stop_signals():
        try:
            daemons = launch(request, detached=not block)
            if block:
                return _stay(daemons)
            print(_what_next(daemons, block), flush=True)
            return 0
        except Stopped as stopped:
            return 0 if block else 128 + stopped.number  # as a shell reports a signal
        except (SkateError, OSError, TypeError, ValueError) as error:
            return complain_of(error)


def _what_next(daemons: Daemons, block: bool) -> str:
    told = daemons.description
    here = "" if told.is_head else f" of the cluster at {told.head_address}"
    lines = [
        f"Started {'the head of a cluster' if told.is_head else 'a node'}{here} at {told.address}",
        f"  logs: {daemons.path / 'logs'}",
        "",
    ]
    if told.is_head:
        lines += [
            "To add another machine, with the same Python and skate, copy the cluster's token",
            f"  {told.token_file}",
            "to the same place there, mode 0600 (or name it with --token-file), and run there",
            f"  skate start --address {shlex.quote(told.address)}",
            "",
        ]
    lines += [
        "To use the cluster, on this machine:",
        f"  import skate; skate.init()  # or skate.init({told.cluster_address!r})",
        "On a machine that is no part of it, with the token:",
        f"  import skate; skate.init('skate://{told.cluster_address}')",
        "To see what it does:",
        "  skate status",
        f"To stop this node{', and with it the cluster' if told.is_head else ''}:",
        f"  {'Ctrl-C, or ' if block else ''}skate stop",
    ]
    return "\n".join(lines)


def complain(what: str, exit_code: int = 1) -> int:
    """Print a sentence on stderr; returns the exit code."""
    print(f"skate: {what}", file=sys.stderr, flush=True)
    return exit_code


def complain_of(error: Exception) -> int:
    """The same for an error that kept a node from starting."""
    if isinstance(error, OSError) and error.strerror and error.filename is None:
        return complain(error.strerror)  # our own sentence: the errno is for programs
    wrong_options = isinstance(error, TypeError | ValueError)
    return complain(str(error), USAGE_EXIT_CODE if wrong_options else 1)


# ------------------------------------------------------------------------------- foreground


class Stopped(BaseException):
    """A signal asks the command to end; raised at any point of it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def stop_signals() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise ``Stopped``, the first time; later ones change nothing."""
    came: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) == 1:
            raise Stopped(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stay(daemons: Daemons) -> int:
    """Wait until a signal comes, or a daemon ends."""
    try:
        print(_what_next(daemons, True), flush=True)
        ended = wait_for_end(daemons)
        exit_code = complain(
            "; ".join(f"the {role} daemon has ended: {how}" for role, how in ended.items())
            + f". Its log: {daemons.path / 'logs'}"
        )
    except Stopped:
        exit_code = 0
    finally:
        daemons.stop(time.monotonic() + config.STOP_TIMEOUT_S)
    if exit_code == 0:
        print("Stopped.", flush=True)
    return exit_code


def wait_for_end(daemons: Daemons, timeout_s: float | None = None) -> dict[str, str]:
    """The daemons that have ended, by role, with their status; {} if none has in time."""
    poller = select.poll()
    pidfds = []
    try:
        for pid in daemons.pids.values():
            with contextlib.suppress(ProcessLookupError):
                pidfds.append(os.pidfd_open(pid))
                poller.register(pidfds[-1], select.POLLIN)
        if not daemons.ended():
            poller.poll(None if timeout_s is None else timeout_s * 1000)
        return daemons.ended()
    finally:
        for pidfd in pidfds:
            os.close(pidfd)


# ------------------------------------------------------------------------------- stop


def stop(*, force: bool, everything: bool, grace_s: float) -> int:
    """Stop this user's nodes on this machine, and say which."""
    root = sessions_root()
    origins = (BY_START, BY_INIT, BY_CLUSTER_UTILS) if everything else (BY_START,)
    sessions = running_sessions(root, origins)
    if not sessions:
        print(_nothing(root, everything))
        return 0
    stop_sessions(sessions, 0.0 if force else grace_s)
    for session in sessions:
        print(f"Stopped {_name(session)}")
    left = running_sessions(root, origins)
    still_there = [one for one in left if one.folder in {session.folder for session in sessions}]
    for session in still_there:
        complain(f"{_name(session)} could not be stopped; its processes: {session.description}")
    return 1 if still_there else 0


def _name(session: LiveSession) -> str:
    told = session.description
    if not told.address:
        return f"the session of process {told.driver_pid} ({session.folder.name})"
    what = "the head of the cluster" if told.is_head else "a node of the cluster"
    return f"{what} at {told.cluster_address} ({told.address}, {session.folder.name})"


def _nothing(root: Path, everything: bool) -> str:
    said = f"No node that `skate start` made is running here (looked in {root})."
    if not everything and running_sessions(root, (BY_INIT, BY_CLUSTER_UTILS)):
        said += " Sessions that programs have started for themselves end with those (or: --all)."
    return said


# ------------------------------------------------------------------------------- options


def parse_resources(text: str) -> dict[str, float]:
    """--resources: a JSON object; ValueError if it is none."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"--resources is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"""--resources has to be like '{{"tape": 2}}', not {text}""")
    return value


def parse_labels(text: str) -> dict[str, str]:
    """--labels: a JSON object, or key=value,key=value; ValueError if it is neither."""
    value: Any
    if text.lstrip().startswith("{"):
        try:
            value = json.loads(text)
        except ValueError as error:
            raise ValueError(f"--labels is no JSON: {error}") from None
        return dict(value)
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if not all(equals for _, equals, _ in pairs):
        raise ValueError(f"--labels has to be like zone=a,disk=ssd, or JSON, not {text!r}")
    return {key.strip(): value.strip() for key, _, value in pairs}
