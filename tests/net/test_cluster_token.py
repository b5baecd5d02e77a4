"""The cluster's token: made once, whole, for its user alone; and read only if nobody else can."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from skate.config import TOKEN_MAX_CHARS, TOKEN_MIN_CHARS
from skate.errors import AuthenticationError
from skate.net.cluster_token import FILE_NAME, find_token, read_token, token_file

A_TOKEN = "0123456789abcdef0123"
ANOTHER = "another-token-of-24-char"


@pytest.fixture(autouse=True)
def no_token_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SKATE_TOKEN", raising=False)
    monkeypatch.delenv("SKATE_TOKEN_FILE", raising=False)


def stored(path: Path, text: str | bytes = A_TOKEN, mode: int = 0o600) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return path


def head(root: Path, option: str | None = None) -> Path:
    return token_file(root, option, True, root / "private")


def test_a_head_makes_one_for_its_user_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = head(tmp_path)
    finally:
        os.umask(before)
    assert path == tmp_path / FILE_NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    token = read_token(path)
    assert len(token) == 64 and int(token, 16)
    assert os.listdir(tmp_path) == [FILE_NAME], "no draft is left"


def test_and_the_next_head_uses_it(tmp_path: Path) -> None:
    token = read_token(head(tmp_path))
    assert read_token(head(tmp_path)) == token == find_token(tmp_path)


def test_no_two_are_alike(tmp_path: Path) -> None:
    folders = [tmp_path / str(n) for n in range(5)]
    for folder in folders:
        folder.mkdir()
    assert len({read_token(head(folder)) for folder in folders}) == 5


def test_heads_that_start_at_a_time_have_the_same(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from skate.net.cluster_token import read_token, token_file\n"
        "root = pathlib.Path(sys.argv[1]); sys.stdin.readline()\n"
        "print(read_token(token_file(root, None, True, root / 'private')).decode())"
    )
    sources = str(Path(__file__).resolve().parents[2] / "src")
    heads = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": sources},
        )
        for _ in range(4)
    ]
    for one in heads:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    printed = {one.communicate(timeout=60)[0] for one in heads}
    assert len(printed) == 1 and len(printed.pop().strip()) == 64
    assert os.listdir(tmp_path) == [FILE_NAME]


def test_a_node_that_is_no_head_makes_none(tmp_path: Path) -> None:
    with pytest.raises(AuthenticationError, match="Copy the file cluster_token"):
        token_file(tmp_path, None, False, tmp_path / "private")
    with pytest.raises(AuthenticationError, match="SKATE_TOKEN"):
        find_token(tmp_path)
    assert not os.listdir(tmp_path)


def test_where_it_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An option, then the variables, then the folder of sessions."""
    stored(tmp_path / FILE_NAME, "token-of-the-folder-")
    assert find_token(tmp_path) == b"token-of-the-folder-"
    monkeypatch.setenv("SKATE_TOKEN_FILE", str(stored(tmp_path / "named", "token-of-the-file---")))
    assert find_token(tmp_path) == b"token-of-the-file---"
    monkeypatch.setenv("SKATE_TOKEN", " token-of-the-variable\n")
    assert find_token(tmp_path) == b"token-of-the-variable"
    option = str(stored(tmp_path / "option", "token-of-the-option-"))
    assert find_token(tmp_path, option) == b"token-of-the-option-"


def test_a_head_takes_what_it_is_given_and_makes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKATE_TOKEN", ANOTHER)
    path = head(tmp_path)
    assert path == tmp_path / "private" and read_token(path) == ANOTHER.encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    monkeypatch.delenv("SKATE_TOKEN")
    with pytest.raises(AuthenticationError, match="No such file"):
        head(tmp_path, str(tmp_path / "misspelt"))
    assert not (tmp_path / FILE_NAME).exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o666, 0o644])
def test_what_others_can_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    path = stored(tmp_path / "token", mode=mode)
    with pytest.raises(AuthenticationError, match=f"mode {mode:04o}.*chmod 600") as caught:
        read_token(path)
    assert A_TOKEN not in str(caught.value)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_what_only_its_user_can_read_is_read(tmp_path: Path, mode: int) -> None:
    assert read_token(stored(tmp_path / "token", A_TOKEN + "\n", mode)) == A_TOKEN.encode()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file to another user")
def test_the_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = stored(tmp_path / "token")
    os.chown(path, 12_345, -1)
    with pytest.raises(AuthenticationError, match=r"another user \(uid 12345\)"):
        read_token(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "has 0 characters"),
        (b"   \n", "has 0 characters"),
        (b"x" * (TOKEN_MIN_CHARS - 1), f"from {TOKEN_MIN_CHARS}"),
        (b"x" * (TOKEN_MAX_CHARS + 1), "more than 4,096"),
        (b"x" * 2_000_000, "more than 4,096"),
        (b"several words in a file of notes", "not one word"),
        (bytes(range(1, 30)), "not one word"),
        ("schlüsselschlüssel".encode(), "not one word"),
    ],
)
def test_what_is_no_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes, words: str
) -> None:
    with pytest.raises(AuthenticationError, match=words) as caught:
        read_token(stored(tmp_path / "token", text))
    assert str(tmp_path) in str(caught.value)
    if text.strip() and len(text) < 100_000:  # longer ones do not fit an environment
        monkeypatch.setitem(os.environb, b"SKATE_TOKEN", text)
        with pytest.raises(AuthenticationError, match=words):
            find_token(tmp_path)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)  # reading one would wait for a writer
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(AuthenticationError, match="is not a file"):
            read_token(path)


def test_a_link_leads_to_its_file(tmp_path: Path) -> None:
    """As secrets are mounted in containers; what counts is who can read the file itself."""
    link = tmp_path / "link"
    link.symlink_to(stored(tmp_path / "token"))
    assert read_token(link) == A_TOKEN.encode()
    (tmp_path / "token").chmod(0o644)
    with pytest.raises(AuthenticationError, match="mode 0644"):
        read_token(link)
