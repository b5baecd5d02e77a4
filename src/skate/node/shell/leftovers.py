"""The processes of a session, found by the mark that each of them carries, and their end.

Daemons, workers and the programs that tasks have started have SKATE_SESSION in their environment.
The callers are those that find a session ended badly: the driver if a daemon was killed, the GCS if
driver and node were, the next driver if all were. A program that a task started with an environment
of its own is out of reach here; the node, being the subreaper, ends those as well.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator

_MARK = b"SKATE_SESSION="

KILL_WITHIN_S = 1.0
"""New ones may be forked while the old ones are being killed: how long to go on looking."""


def marked(session: str) -> list[int]:
    """The pids of this session's processes, but for the caller's own. Zombies carry no mark."""
    return [pid for pid, name in _marks() if name == session]


def marked_sessions() -> set[str]:
    """The sessions of which any process is left, but for the caller's own."""
    return {name for _, name in _marks()}


def _marks() -> Iterator[tuple[int, str]]:
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with contextlib.suppress(OSError), open(f"/proc/{entry}/environ", "rb") as file:
            for variable in file.read().split(b"\0"):
                if variable.startswith(_MARK):
                    yield int(entry), os.fsdecode(variable[len(_MARK) :])


def kill_session(session: str) -> None:
    """SIGKILL to all of the session's processes, but for the caller; until none is left."""
    if not session:
        raise ValueError("a session without a name would be everything")
    deadline = time.monotonic() + KILL_WITHIN_S
    while os.path.isdir("/proc/self") and (pids := marked(session)):
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return
        time.sleep(0.002)
