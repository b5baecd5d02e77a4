"""What a driver shows of its tasks: prints with their name and pid, repeated lines folded."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time

from skate import messages as m
from skate.worker.log_folder import LogFolder


class DriverLog:
    """Prints to stdout; any thread that reads the connection may call it."""

    def __init__(self) -> None:
        color = os.environ.get("RAY_COLOR_PREFIX")
        self._folder = LogFolder(
            enabled=os.environ.get("RAY_DEDUP_LOGS", "1") != "0",
            color=color == "1" or (color is None and _is_terminal()),
        )
        self._lock = threading.Lock()

    def on_lines(self, message: m.LogLines) -> None:
        """A worker has printed."""
        now = time.monotonic()
        with self._lock:
            out: list[str] = []
            for line in message.lines:
                out += self._folder.add(message.name, message.pid, message.stream, line, now)
        self._show(out, sys.stderr if message.stream == 2 else sys.stdout)

    def on_notice(self, message: m.Notice) -> None:
        """The system warns."""
        self._show([f"skate: warning: {message.text}"], sys.stderr)

    def tick(self) -> None:
        """Lines whose window is over."""
        with self._lock:
            out = self._folder.flush(time.monotonic())
        self._show(out, sys.stdout)

    def finish(self) -> None:
        """The session is over: what is still held back."""
        with self._lock:
            out = self._folder.finish()
        self._show(out, sys.stdout)

    def _show(self, lines: list[str], stream: object) -> None:
        if lines:
            # A closed or broken stream is the user's choice and no reason to fail their program.
            with contextlib.suppress(OSError, ValueError):
                print("\n".join(lines), file=stream, flush=True)  # type: ignore[call-overload]


def _is_terminal() -> bool:
    try:
        return sys.stdout.isatty()
    except (AttributeError, ValueError):
        return False
