"""Wait for what another process does, without sleeping longer than needed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil


def until(condition: Callable[[], object], within_s: float = 10.0) -> None:
    """Return as soon as the condition holds; fail by its name if it does not in time."""
    give_up_at = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up_at, f"not within {within_s} s: {condition}"
        time.sleep(0.005)


def opened(path: str) -> str:
    """Wait until the file has a text; the text. How a test tells a slow task to go on."""
    until(lambda: os.path.exists(path) and os.path.getsize(path), 30)
    return Path(path).read_text()


def is_running(pid: int) -> bool:
    """Whether the process lives; one that has ended and is not reaped yet does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def until_gone(pid: int, within_s: float = 10.0) -> None:
    """Return as soon as the process has ended."""
    until(lambda: not is_running(pid), within_s)
