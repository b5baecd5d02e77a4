"""A worker's stdout and stderr: lines carry the name of the task that printed them.

When the name has changed since the last write, a marker line goes first (node/shell/log_tail.py
reads and removes it). Output of native code and of programs that a task starts takes the last name.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

MARKER = "\x1eskate-name:"


class NamedStream(io.TextIOWrapper):
    """An unbuffered text stream that marks whose lines they are.

    Unbuffered, so that a row of dots is seen while it grows, and that a crash loses nothing.
    """

    def __init__(self, fd: int, name_of: Callable[[], str]) -> None:
        super().__init__(
            io.FileIO(fd, "wb", closefd=False),
            encoding="utf-8",
            errors="backslashreplace",
            write_through=True,
        )
        self._name_of = name_of
        self._last = ""
        self._at_line_start = True

    def write(self, text: str) -> int:
        """Write, after a marker where the name has changed."""
        if text and self._at_line_start:
            name = " ".join(self._name_of().split())
            if name != self._last:
                self._last = name
                super().write(f"{MARKER}{name}\n")
        if text:
            self._at_line_start = text.endswith("\n")
        return super().write(text)


def name_output(name_of: Callable[[], str]) -> None:
    """Replace sys.stdout and sys.stderr by named streams on descriptors 1 and 2."""
    sys.stdout = NamedStream(1, name_of)
    sys.stderr = NamedStream(2, name_of)
