"""The cluster's token: its file, and the file's permissions.

A client with the token may run code as the cluster's user, so a file that others can read is
refused. The head makes a token if there is none; every other node and every remote driver needs the
same. Called at the start of a node (launch/launching.py) and by both ends of a connection.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from skate.config import TOKEN_MAX_CHARS, TOKEN_MIN_CHARS
from skate.errors import AuthenticationError

FILE_NAME = "cluster_token"
"""In the folder of sessions: found by every node and driver of this user on this machine."""

TOKEN_VARIABLE, FILE_VARIABLE = "SKATE_TOKEN", "SKATE_TOKEN_FILE"


def read_token(path: str | Path) -> bytes:
    """The token in a file; AuthenticationError with the reason if it is no good."""
    try:
        # Not blocking: the path may be a pipe, which would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            _check_file(Path(path), os.fstat(descriptor))
            token = os.read(descriptor, TOKEN_MAX_CHARS + 2).strip()
        finally:
            os.close(descriptor)
    except OSError as error:
        raise AuthenticationError(
            f"the cluster's token cannot be read from {path}: {error.strerror}"
        ) from None
    return check_token(token, str(path))


def _check_file(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise AuthenticationError(f"{path} is not a file: the cluster's token is to be in it")
    if status.st_uid not in (os.getuid(), 0):
        raise AuthenticationError(
            f"{path} belongs to another user (uid {status.st_uid}), who could change the cluster's "
            "token: use a file of your own"
        )
    mode = stat.S_IMODE(status.st_mode)
    # Another user's file (root's, for a secret that Kubernetes mounts) may be ours by our group.
    forbidden = 0o077 if status.st_uid == os.getuid() else 0o027
    if mode & forbidden:
        raise AuthenticationError(
            f"{path} has mode {mode:04o}: others could read or change the cluster's token, which "
            f"lets whoever has it run code here. chmod 600 {path}"
        )


def check_token(token: bytes, source: str) -> bytes:
    """The token itself; AuthenticationError if it is too short, or too long, to be one."""
    if not TOKEN_MIN_CHARS <= len(token) <= TOKEN_MAX_CHARS:
        size = len(token) if len(token) <= TOKEN_MAX_CHARS else f"more than {TOKEN_MAX_CHARS:,}"
        raise AuthenticationError(
            f"the cluster's token in {source} has {size} characters; from {TOKEN_MIN_CHARS} to "
            f"{TOKEN_MAX_CHARS:,} are expected, such as `openssl rand -hex 32` prints"
        )
    if not (token.isascii() and token.decode("ascii").isprintable()) or b" " in token:
        raise AuthenticationError(
            f"the cluster's token in {source} is not one word of printable ASCII characters, such "
            "as `openssl rand -hex 32` prints"
        )
    return token


def given_file(option: str | None) -> Path | None:
    """The token file that the user has named, as an option or in the environment."""
    named = option or os.environ.get(FILE_VARIABLE)
    return Path(named).absolute() if named else None


def given_token() -> bytes:
    """The token in the environment; b"" if there is none."""
    token = os.environb.get(TOKEN_VARIABLE.encode(), b"").strip()
    return check_token(token, TOKEN_VARIABLE) if token else b""


def find_token(root: Path, option: str | None = None) -> bytes:
    """The dialler's token: --token-file, SKATE_TOKEN, SKATE_TOKEN_FILE, or `root`'s."""
    if option is None and (token := given_token()):
        return token
    return read_token(given_file(option) or _existing(root / FILE_NAME))


def write_token(path: Path, token: bytes) -> None:
    """A new file with a token, for this user alone; FileExistsError if there is one."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(token + b"\n")


def new_token() -> bytes:
    """256 random bits, in hexadecimal."""
    return secrets.token_hex(32).encode()


def token_file(root: Path, option: str | None, is_head: bool, private: Path) -> Path:
    """The file with a node's token, checked; a head makes one if there is none.

    A token from the environment is written to `private`, a file in the session's folder: a
    daemon's environment is handed on to more processes than need it.
    """
    if option is None and (token := given_token()):
        write_token(private, token)
        return private
    path = given_file(option)
    if path is None:
        path = root / FILE_NAME
        if is_head and not path.exists():
            _make(path)
        _existing(path)
    read_token(path)
    return path


def _existing(path: Path) -> Path:
    if not path.exists():
        raise AuthenticationError(
            f"this machine does not have the cluster's token. Copy the file {FILE_NAME} of the "
            f"head's machine ({path} there as well, if nothing else was asked for) to {path} "
            f"here, or name it with --token-file or {FILE_VARIABLE}, or set {TOKEN_VARIABLE}"
        )
    return path


def _make(path: Path) -> None:
    """Make a new token file, complete once it is visible; keep another's, if that was quicker."""
    # A unique name: a draft left by a crash must not be in the way for ever.
    draft = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    write_token(draft, new_token())
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
