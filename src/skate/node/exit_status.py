"""How a process ended, in words."""

from __future__ import annotations

NOT_STARTED = 256
"""In the place of an exit code: there never was a process."""


def describe_status(status: int) -> str:
    """An exit status in words: exit code, or minus the signal."""
    if status == NOT_STARTED:
        return "it could not be started"
    if status >= 0:
        return f"it exited with code {status}" + (
            " (sys.exit or os._exit in the task?)" if status in (0, 1) else ""
        )
    name = _SIGNALS.get(-status, "")
    hint = _SIGNAL_HINTS.get(-status, "")
    return f"killed by signal {-status}{f' ({name})' if name else ''}{f'; {hint}' if hint else ''}"


_SIGNALS = {
    1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE",
    9: "SIGKILL", 11: "SIGSEGV", 13: "SIGPIPE", 14: "SIGALRM", 15: "SIGTERM", 24: "SIGXCPU",
    31: "SIGSYS",
}  # fmt: skip
_SIGNAL_HINTS = {
    9: "somebody killed it, or the machine ran out of memory (see dmesg)",
    11: "a crash in native code",
    6: "native code called abort()",
    7: "bad memory access, often a full /dev/shm or disk",
}
