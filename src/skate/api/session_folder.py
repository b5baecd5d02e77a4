"""Session folders: where they are, what is in them, and sweeping those that ended badly."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from skate.config import SESSIONS_KEPT
from skate.node.leftovers import kill_session

TRACES = ("gcs.sock", "node.sock", "arena")
"""What a session that ended badly leaves in its folder; "arena" tells where the arena file is."""


def sessions_root() -> Path:
    """This user's folder of sessions: $SKATE_TEMP_DIR or <temp>/skate-<uid>; 0700."""
    given = os.environ.get("SKATE_TEMP_DIR")
    root = Path(given) if given else Path(tempfile.gettempdir()) / f"skate-{os.getuid()}"
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _no_folder(root, error) from None
    if root.stat().st_uid != os.getuid():
        raise PermissionError(
            f"{root} belongs to another user; set SKATE_TEMP_DIR to a folder of your own"
        )
    return root


def _no_folder(path: Path, error: OSError) -> OSError:
    return OSError(
        error.errno,
        f"the folder for sessions, {path}, cannot be made: {error.strerror}. Set SKATE_TEMP_DIR to "
        "one that can",
    )


class SessionFolder:
    """One session's folder; its lock is held by the driver that made it."""

    def __init__(self) -> None:
        root = sessions_root()
        sweep(root)
        stamp = time.strftime("%Y%m%d-%H%M%S")
        for attempt in range(1000):
            self.name = f"session_{stamp}_{os.getpid()}" + (f"_{attempt}" if attempt else "")
            self.path = root / self.name
            try:
                self.path.mkdir(mode=0o700)
                break
            except FileExistsError:
                continue
            except OSError as error:
                raise _no_folder(self.path, error) from None
        self.logs = self.path / "logs"
        self.logs.mkdir(mode=0o700)
        self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)  # a sweep may look in at this very moment

    def write_description(self, **fields: Any) -> None:
        """session.json: who belongs to it, for `skate status`."""
        (self.path / "session.json").write_text(json.dumps(fields))

    def close(self) -> None:
        """The session is over: remove what is not a log."""
        clean(self.path)
        self.unlock()

    def unlock(self) -> None:
        """Let go of the lock: the session is over, or this is a fork of the driver."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)


def clean(path: Path) -> None:
    """Remove a session's sockets and arena file."""
    with contextlib.suppress(OSError):
        arena = (path / "arena").read_text()
        if os.path.basename(arena).startswith("skate-"):
            os.unlink(arena)
    for name in TRACES:
        with contextlib.suppress(OSError):
            (path / name).unlink()


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
            if any(os.path.lexists(folder / name) for name in TRACES):
                kill_session(folder.name)
                clean(folder)
            if number < len(folders) - SESSIONS_KEPT:
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)
