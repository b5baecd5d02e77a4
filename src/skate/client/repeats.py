"""What a driver prints of its workers' lines: each with its source, repetitions folded into one.

A hundred workers that all warn of the same thing should cost the reader two lines, not a hundred.
The driver adds every line it receives and prints what comes back; on a tick it prints what is due.

The first process to print a line opens a window for it and is printed as ever, also when it says
the same again: who prints "tick" in a loop wants to see it. The same line from other processes is
held back until the window ends, then told once, with the latest text and the count. Two lines are
the same if they differ in numbers and hexadecimal addresses alone. Lines without any letter are
never held back: in a line of numbers, the numbers are what it says.

Invariants:
  - every line is either returned by `add` or counted in exactly one line returned later;
  - windows are kept in the order in which they end; there are at most MAX_WINDOWS of them.

It does not print, reads no clock (`now` is in monotonic seconds) and no environment.
"""

from __future__ import annotations

import re

from skate import config

MAX_WINDOWS = 4_096  # lines remembered at a time; past that, the oldest window ends early
LONGEST_FOLDED = 4_096  # characters: a longer line is data, and would be kept in memory for long

_VARYING = re.compile(r"0[xX][0-9a-fA-F]+|\d+")
_LETTER = re.compile(r"[^\W\d_]")
_CYAN, _PLAIN = "\033[36m", "\033[0m"


class _Window:
    """One line within its window: who opened it, until when, and what is held back."""

    __slots__ = ("ends_at", "held", "latest", "opener")

    def __init__(self, opener: int, ends_at: float) -> None:
        self.opener = opener
        self.ends_at = ends_at
        self.held = 0
        self.latest = ""


class LogFolder:
    """Formats lines as `(name pid=123) text`, and folds those of several processes.

    `window_s` is how long a repetition is held back. With `enabled` false nothing is ever held
    back. With `color` the prefix is cyan.
    """

    def __init__(
        self, window_s: float = config.LOG_FOLD_S, *, enabled: bool = True, color: bool = False
    ) -> None:
        self._window_s = window_s
        self._enabled = enabled
        self._color = color
        self._windows: dict[str, _Window] = {}  # by the line without what varies

    def add(self, name: str, pid: int, stream: int, line: str, now: float) -> list[str]:
        """Take a line of a worker; what to print now: lines that are due, and this one unless it
        is held back. Both streams (1 stdout, 2 stderr) are treated alike."""
        printed = self.flush(now)
        text = self._format(name, pid, line)
        if not self._enabled or len(line) > LONGEST_FOLDED:
            return [*printed, text]
        kind = _VARYING.sub("", line)
        window = self._windows.get(kind)
        if window is not None and window.opener != pid:
            window.held += 1
            window.latest = text
            return printed
        if window is None and _LETTER.search(kind):
            if len(self._windows) >= MAX_WINDOWS:
                oldest = self._windows.pop(next(iter(self._windows)))
                printed += _told(oldest)
            self._windows[kind] = _Window(pid, now + self._window_s)
        return [*printed, text]

    def flush(self, now: float) -> list[str]:
        """What is due: the repetitions whose window has ended."""
        due: list[str] = []
        while self._windows:
            kind, window = next(iter(self._windows.items()))
            if window.ends_at > now:
                break
            del self._windows[kind]
            due += _told(window)
            if window.held > 1:  # worth folding, so go on: a new window, without an opening line
                self._windows[kind] = _Window(window.opener, now + self._window_s)
        return due

    def finish(self) -> list[str]:
        """Everything that is still held back; then it starts afresh."""
        windows, self._windows = self._windows, {}
        return [line for window in windows.values() for line in _told(window)]

    def _format(self, name: str, pid: int, line: str) -> str:
        source = f"({name} pid={pid})" if name else f"(pid={pid})"
        return f"{_CYAN}{source}{_PLAIN} {line}" if self._color else f"{source} {line}"


def _told(window: _Window) -> list[str]:
    """The one line for all that a window held back; none if it held nothing."""
    if window.held == 0:
        return []
    if window.held == 1:
        return [window.latest]
    return [f"{window.latest} [repeated {window.held}x across workers]"]
