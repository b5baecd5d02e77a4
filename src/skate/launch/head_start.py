"""How a session begins: its folder, the interpreters of its daemons. It loads next to nothing.

A program that starts a session of its own does this first (``begin``), before it loads its own
modules, so that the node loads its modules at the same time. The node gets its configuration and
descriptors later, in one datagram over a socket that is its standard input (``Daemons.start``). If
the other end closes without a word, the node ends.

Called by api/start.py, and by session_folder.py and daemons.py for every other start.
"""

from __future__ import annotations

import _socket  # the half of module socket that is loaded in no time
import fcntl
import os
import sys
import time

TYPE_CHECKING = False  # module typing takes as long to load as a node's interpreter to be started
if TYPE_CHECKING:
    from collections.abc import Iterable

ADDRESS_VARIABLES = ("SKATE_ADDRESS", "RAY_ADDRESS")

_NEEDED = ("skate", "msgspec", "uvloop", "cloudpickle")
_FLAGS = (  # the interpreter's flags that a command line can give
    "bytes_warning", "debug", "dev_mode", "dont_write_bytecode", "ignore_environment", "isolated",
    "no_site", "no_user_site", "optimize", "quiet", "safe_path", "verbose",
)  # fmt: skip
_NOT_FOR_DAEMONS = frozenset({"PYTHONPATH", "SKATE_TOKEN"})


class NewFolder:
    """A session's folder, just made, with its folder of logs; ``lock`` is held."""

    def __init__(self, path: str, name: str, lock: int) -> None:
        self.path = path
        self.name = name
        self.lock = lock


class NodeProcess:
    """A node daemon's process that has no configuration yet.

    ``line`` is our end, a descriptor, of the socket that will bring it.
    """

    def __init__(self, pid: int, line: int) -> None:
        self.pid = pid
        self.line = line


class HeadStart:
    """A session that has begun, until ``Daemons`` takes it over."""

    def __init__(self, folder: NewFolder) -> None:
        self.folder = folder
        self.node = start_node(folder.name, os.path.join(folder.path, "logs"))
        self.is_taken = False

    def drop(self) -> None:
        """Undo a start that was not taken over; nothing is left behind."""
        if self.is_taken:
            return
        import shutil
        import signal

        os.close(self.node.line)
        os.kill(self.node.pid, signal.SIGKILL)
        os.waitpid(self.node.pid, 0)
        os.close(self.folder.lock)
        shutil.rmtree(self.folder.path, ignore_errors=True)


def begin(address: str | None) -> HeadStart | None:
    """Begin a session, if it is certain that ``init(address)`` will want one of its own.

    None if it is not, or if anything is in the way: the later start then tells the reason.
    """
    if address != "local" and (address or any(map(os.environ.get, ADDRESS_VARIABLES))):
        return None
    try:
        if address != "local" and _may_join(root_path()):
            return None
        return HeadStart(make_folder(root_path()))
    except OSError:
        return None


def _may_join(root: str) -> bool:
    """Whether this machine may have a session that is not its driver's alone."""
    if not os.path.isdir(root):
        return False
    for name in os.listdir(root):
        folder = os.path.join(root, name)
        if os.path.lexists(os.path.join(folder, "node.sock")):
            try:
                with open(os.path.join(folder, "session.json"), "rb") as file:
                    if b'"started_by":"init"' not in file.read():
                        return True
            except FileNotFoundError:  # the session is being started, or swept away
                continue
    return False


# ---------------------------------------------------------------------------- folders


def root_path() -> str:
    """The folder of this user's sessions, not yet checked: $SKATE_TEMP_DIR or one in /tmp."""
    given = os.environ.get("SKATE_TEMP_DIR")
    if given:
        return given
    for folder in (*map(os.environ.get, ("TMPDIR", "TEMP", "TMP")), "/tmp"):
        if folder and os.access(folder, os.W_OK | os.X_OK):
            return os.path.join(os.path.abspath(folder), f"skate-{os.getuid()}")
    import tempfile

    return os.path.join(tempfile.gettempdir(), f"skate-{os.getuid()}")


def make_root(path: str) -> None:
    """Make the folder of sessions, if need be, for this user alone; OSError with a reason."""
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
    """Start a node daemon, with the socket that will bring its configuration."""
    pair = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    ours, theirs = (end.detach() for end in pair)
    try:
        return NodeProcess(start_daemon("node", session, logs, stdin=theirs), ours)
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)


def start_daemon(
    role: str, session: str, logs: str, arguments: Iterable[str] = (), stdin: int = -1
) -> int:
    """Run a role of this skate under this interpreter, its prints in a log; returns its pid.

    It inherits all inheritable descriptors, and closes those not its own (skate/__main__.py).
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    files: list[tuple[object, ...]] = [
        (os.POSIX_SPAWN_OPEN, 1, os.path.join(logs, f"{role}.out"), flags, 0o600),
        (os.POSIX_SPAWN_OPEN, 2, os.path.join(logs, f"{role}.err"), flags, 0o600),
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
        if stdin < 0
        else (os.POSIX_SPAWN_DUP2, stdin, 0),
    ]
    command, environ = [*_interpreter(), role, *arguments], _environment(session)
    try:  # the terminal's Ctrl-C is for the starter alone
        return os.posix_spawn(command[0], command, environ, file_actions=files, setsid=True)
    except NotImplementedError:  # the daemon does it itself, a moment later
        return os.posix_spawn(command[0], command, environ, file_actions=files)


def _interpreter() -> list[str]:
    """This process's interpreter and its flags, about to run this very skate."""
    flags: list[str] = []
    if sys.warnoptions or sys._xoptions or any(getattr(sys.flags, name) for name in _FLAGS):
        import subprocess

        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    package = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    # -P: no modules from the script's folder or the current one.
    return [sys.executable, *flags, "-P", os.path.join(package, "__main__.py")]


def _environment(session: str) -> dict[str, str]:
    """This process's environment; SKATE_PATH replaces its module path, with only our needs."""
    environ = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_DAEMONS}
    folders: dict[str, None] = {}
    for name in _NEEDED:
        specs = (finder.find_spec(name, None) for finder in sys.meta_path)
        spec = next(filter(None, specs), None)
        if spec is not None and spec.origin is not None:
            folder = os.path.dirname(os.path.realpath(spec.origin))
            is_package = spec.submodule_search_locations is not None
            folders[os.path.dirname(folder) if is_package else folder] = None
    environ.update(SKATE_SESSION=session, SKATE_PATH=os.pathsep.join(folders), PYTHONUNBUFFERED="1")
    return environ
