"""Session folders: their places and contents, and sweeping those that ended badly.

A session is one node of this machine with its workers, and with its GCS unless that is elsewhere;
``session.json`` in its folder describes them. It is live if its node listens on its socket. Called
by the code that starts, joins, shows or stops sessions.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from skate.config import LANES_FOLDER, SESSIONS_KEPT
from skate.launch import head_start
from skate.launch.head_start import NewFolder
from skate.net import unix_socket
from skate.node.shell.leftovers import kill_session

CONNECT_TIMEOUT_S = 2.0
"""To the socket of a session that may be dead, or stopped by a debugger."""

BY_INIT, BY_START, BY_CLUSTER_UTILS = "init", "start", "cluster_utils"
"""Who starts sessions: a driver for itself, `skate start`, a test that plays several machines."""

TRACES = ("gcs.sock", "node.sock", "arena")
"""What a session that ended badly leaves in its folder; "arena" tells where the arena file is."""


class Description(msgspec.Struct):
    """session.json. Addresses are HOST:PORT, and "" in a session that is its driver's alone."""

    node_socket: str
    session: str = ""
    started_by: str = BY_INIT
    driver_pid: int = 0  # of the process that started it and that it ends with, if there is one
    node_pid: int = 0
    gcs_pid: int = 0  # 0 if the GCS is on another machine
    node_id: str = ""  # hex
    host: str = "127.0.0.1"  # this machine, as other nodes know it
    address: str = ""  # of this node
    head_address: str = ""  # of the head's node, unless this is it
    token_file: str = ""
    started: float = 0.0
    waits_for_head: bool = False  # the head is lost, no question is answered (node/shell/rejoin.py)

    @property
    def cluster_address(self) -> str:
        """The cluster's name: the address of its head's node."""
        return self.head_address or self.address

    @property
    def headless(self) -> str:
        """A sentence if this node has lost its head, else ""."""
        if not self.waits_for_head:
            return ""
        return f"this node has lost its head at {self.head_address} and waits for it"

    @property
    def is_head(self) -> bool:
        """Whether the cluster's GCS is here."""
        return not self.head_address


@dataclass(frozen=True)
class LiveSession:
    """A session folder whose node answers, and the content of its ``session.json``."""

    folder: Path
    description: Description

    def is_named(self, address: str) -> bool:
        """Return whether a user means this session by ``address``."""
        told = self.description
        names = {self.folder.name, str(self.folder), told.node_socket} | {
            name for name in (told.address, told.head_address) if name
        }
        return address in names or os.path.realpath(address) == os.path.realpath(self.folder)


def sessions_root() -> Path:
    """This user's folder of sessions: $SKATE_TEMP_DIR or <temp>/skate-<uid>; 0700."""
    root = head_start.root_path()
    head_start.make_root(root)
    return Path(root)


class SessionFolder:
    """One session's folder; its lock is held by the process that made it, and by its heirs."""

    def __init__(self, made: NewFolder | None = None) -> None:
        root = sessions_root()
        sweep(root)
        made = made or head_start.make_folder(str(root))
        self.name, self._lock = made.name, made.lock
        self.path = Path(made.path)
        self.logs = self.path / "logs"

    @property
    def lock(self) -> int:
        """The descriptor of the lock: a process that inherits it keeps the session from a sweep."""
        return self._lock

    def write_description(self, description: Description) -> None:
        """Write session.json: complete from the first moment that it can be seen."""
        draft = self.path / "session.json.new"
        draft.write_bytes(msgspec.json.encode(description))
        draft.rename(self.path / "session.json")

    def close(self) -> None:
        """The session is over: remove all files but logs."""
        clean(self.path)
        self.unlock()

    def unlock(self) -> None:
        """Let go of the lock: the session is over, or this is a fork of the driver."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)


def read_description(folder: Path) -> Description:
    """session.json; OSError or ValueError if there is none, or none yet."""
    return msgspec.json.decode((folder / "session.json").read_bytes(), type=Description)


def described_sessions(root: Path) -> Iterator[LiveSession]:
    """The sessions under ``root``, dead or alive, the oldest first."""
    for folder in sorted(root.glob("session_*")):
        if folder.is_symlink():
            continue  # a second name for one of the others
        with contextlib.suppress(OSError, ValueError):  # being written, or swept away
            yield LiveSession(folder, read_description(folder))


def live_sessions(root: Path) -> Iterator[LiveSession]:
    """Yield the sessions under ``root`` that answer, the oldest first."""
    return (one for one in described_sessions(root) if is_live(one))


def is_live(session: LiveSession) -> bool:
    """Whether the node listens on its socket."""
    try:
        unix_socket.connect(session.description.node_socket, CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def clean(path: Path) -> None:
    """Remove a session's sockets and arena file."""
    with contextlib.suppress(OSError):
        arena = (path / "arena").read_text()
        if os.path.basename(arena).startswith("skate-"):
            os.unlink(arena)
    for name in TRACES:
        with contextlib.suppress(OSError):
            (path / name).unlink()
    unix_socket.remove_all(str(path / LANES_FOLDER))


def has_traces(folder: Path) -> bool:
    """Whether a session still has files that it removes at its end."""
    return any(os.path.lexists(folder / name) for name in TRACES)


def sweep(root: Path) -> None:
    """Clean up after sessions whose every process was killed; keep only the newest logs."""
    folders = sorted(p for p in root.glob("session_*") if p.is_dir() and not p.is_symlink())
    for number, folder in enumerate(folders):
        try:
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # alive
        else:
            if has_traces(folder):
                kill_session(folder.name)
                clean(folder)
            if number < len(folders) - SESSIONS_KEPT:
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)
