"""What a driver shows of its tasks: prints with their name and pid, repeated lines folded."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from typing import Any

from skate import messages as m
from skate.client.repeats import LogFolder

STDOUT, STDERR = 1, 2


class DriverLog:
    """Prints to stdout; any thread that reads the connection may call it."""

    def __init__(self) -> None:
        color = os.environ.get("RAY_COLOR_PREFIX")
        self._folders = {  # by stream: a line comes out where it was written to
            stream: LogFolder(
                enabled=os.environ.get("RAY_DEDUP_LOGS", "1") != "0",
                color=color == "1" or (color is None and _is_terminal()),
            )
            for stream in (STDOUT, STDERR)
        }
        self._lock = threading.Lock()
        self.lines_shown = 0

    def on_lines(self, message: m.LogLines) -> None:
        """A worker has printed."""
        now = time.monotonic()
        with self._lock:
            out: list[str] = []
            folder = self._folders[message.stream]
            for line in message.lines:
                out += folder.add(message.name, message.pid, message.stream, line, now)
        self._show(out, message.stream)

    def on_notice(self, message: m.Notice) -> None:
        """The system warns."""
        self._show([f"skate: warning: {message.text}"], STDERR)

    def tick(self) -> None:
        """Lines whose window is over."""
        for stream, folder in self._folders.items():
            with self._lock:
                out = folder.flush(time.monotonic())
            self._show(out, stream)

    def finish(self) -> None:
        """The session is over: what is still held back."""
        for stream, folder in self._folders.items():
            with self._lock:
                out = folder.finish()
            self._show(out, stream)

    def _show(self, lines: list[str], number: int) -> None:
        if not lines:
            return
        stream: Any = sys.stderr if number == STDERR else sys.stdout
        self.lines_shown += len(lines)
        text = "\n".join(lines)
        # A closed or broken stream is the user's choice and no reason to fail their program.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            try:
                print(text, file=stream, flush=True)
            except UnicodeEncodeError:
                encoding = stream.encoding or "ascii"
                text = text.encode(encoding, "backslashreplace").decode(encoding)
                print(text, file=stream, flush=True)


def _is_terminal() -> bool:
    try:
        return sys.stdout.isatty()
    except (AttributeError, ValueError):
        return False
