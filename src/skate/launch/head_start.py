"""How a session begins: its folder, the interpreters of its daemons. It loads next to nothing.

A program that starts a session of its own does this first (``begin``), before it loads what it
needs itself, so that the node loads at the same time what that needs. What it is to be the node
learns later, over a socket that is its standard input (``Daemons.start``): its configuration and
its descriptors, in one datagram. If the other end closes without a word it ends.

Called by api/start.py, and by session_folder.py and daemons.py for every other start.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import NamedTuple

ADDRESS_VARIABLES = ("SKATE_ADDRESS", "RAY_ADDRESS")

_NEEDED = ("skate", "msgspec", "uvloop", "cloudpickle")
_NOT_FOR_DAEMONS = frozenset({"PYTHONPATH", "SKATE_TOKEN"})


class NewFolder(NamedTuple):
    """A session's folder, just made, with its folder of logs; ``lock`` is held."""

    path: str
    name: str
    lock: int


class NodeProcess(NamedTuple):
    """A node daemon's process that does not know yet what it is to be."""

    process: subprocess.Popen[bytes]
    line: socket.socket


class HeadStart:
    """A session that has begun, until ``Daemons`` takes it over."""

    def __init__(self, folder: NewFolder) -> None:
        self.folder = folder
        self.node = start_node(folder.name, os.path.join(folder.path, "logs"))
        self.is_taken = False

    def drop(self) -> None:
        """If it was not taken: it was in vain, and leaves nothing behind."""
        if self.is_taken:
            return
        import shutil

        self.node.line.close()
        self.node.process.kill()
        self.node.process.wait()
        os.close(self.folder.lock)
        shutil.rmtree(self.folder.path, ignore_errors=True)


def begin(address: str | None) -> HeadStart | None:
    """Begin a session, if it is plain that ``init(address)`` will want one of its own.

    None if it is not, or if anything is in the way: whoever starts it then says what.
    """
    if address != "local":
        if address or any(os.environ.get(name) for name in ADDRESS_VARIABLES):
            return None
        if _may_join(root_path()):
            return None
    try:
        return HeadStart(make_folder(root_path()))
    except OSError:
        return None


def _may_join(root: str) -> bool:
    """Whether a session is here that is not its driver's alone."""
    with contextlib.suppress(OSError):
        for name in os.listdir(root):
            folder = os.path.join(root, name)
            if os.path.lexists(os.path.join(folder, "node.sock")):
                with open(os.path.join(folder, "session.json"), "rb") as file:
                    if b'"started_by":"init"' not in file.read():
                        return True
        return False
    return True


# ---------------------------------------------------------------------------- folders


def root_path() -> str:
    """The folder of this user's sessions, as yet unchecked: $SKATE_TEMP_DIR or one in /tmp."""
    given = os.environ.get("SKATE_TEMP_DIR")
    if given:
        return given
    for folder in (*map(os.environ.get, ("TMPDIR", "TEMP", "TMP")), "/tmp"):
        if folder and os.access(folder, os.W_OK | os.X_OK):
            return os.path.join(os.path.abspath(folder), f"skate-{os.getuid()}")
    import tempfile

    return os.path.join(tempfile.gettempdir(), f"skate-{os.getuid()}")


def make_root(path: str) -> None:
    """Make the folder of sessions, if need be, for this user alone; OSError says why not."""
    try:
        os.makedirs(path, 0o700, exist_ok=True)
    except OSError as error:
        raise _not_made(path, error) from None
    if os.stat(path).st_uid != os.getuid():
        raise PermissionError(
            f"{path} belongs to another user; set SKATE_TEMP_DIR to a folder of your own"
        )


def make_folder(root: str) -> NewFolder:
    """Make a new session's folder under ``root``."""
    make_root(root)
    stamp = f"session_{time.strftime('%Y%m%d-%H%M%S')}_{os.getpid()}"
    for attempt in range(1000):
        name = f"{stamp}_{attempt}" if attempt else stamp
        path = os.path.join(root, name)
        try:
            os.mkdir(path, 0o700)
            break
        except FileExistsError:
            continue
        except OSError as error:
            raise _not_made(path, error) from None
    os.mkdir(os.path.join(path, "logs"), 0o700)
    lock = os.open(os.path.join(path, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)  # a sweep may look in at this very moment
    return NewFolder(path, name, lock)


def _not_made(path: str, error: OSError) -> OSError:
    return OSError(
        error.errno,
        f"the folder for sessions, {path}, cannot be made: {error.strerror}. Set SKATE_TEMP_DIR to "
        "one that can",
    )


# ---------------------------------------------------------------------------- daemons


def start_node(session: str, logs: str) -> NodeProcess:
    """Start a node daemon, and the socket that will tell it what it is to be."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        try:
            return NodeProcess(start_daemon("node", session, logs, stdin=theirs.fileno()), ours)
        except BaseException:
            ours.close()
            raise


def start_daemon(
    role: str,
    session: str,
    logs: str,
    arguments: Iterable[str] = (),
    fds: Iterable[int] = (),
    stdin: int = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Run a role of this skate under this interpreter; what it prints goes to a log."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    out = os.open(os.path.join(logs, f"{role}.out"), flags, 0o600)
    err = os.open(os.path.join(logs, f"{role}.err"), flags, 0o600)
    try:
        return subprocess.Popen(
            [*_interpreter(), role, *arguments],
            stdin=stdin,
            stdout=out,
            stderr=err,
            pass_fds=tuple(fds),
            env=_environment(session),
            cwd="/",
            start_new_session=True,  # the terminal's Ctrl-C is for who started them alone
        )
    finally:
        os.close(out)
        os.close(err)


def _interpreter() -> list[str]:
    """This process's interpreter and its flags, about to run this very skate."""
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    package = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    # -P: neither the folder of what it runs nor the current one becomes a place of modules.
    return [sys.executable, *flags, "-P", os.path.join(package, "__main__.py")]


def _environment(session: str) -> dict[str, str]:
    """This process's, but for its modules: those that skate needs are named one by one."""
    environ = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_DAEMONS}
    folders: dict[str, None] = {}
    for name in _NEEDED:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            folder = os.path.dirname(os.path.realpath(spec.origin))
            is_package = spec.submodule_search_locations is not None
            folders[os.path.dirname(folder) if is_package else folder] = None
    environ.update(SKATE_SESSION=session, SKATE_PATH=os.pathsep.join(folders), PYTHONUNBUFFERED="1")
    return environ
