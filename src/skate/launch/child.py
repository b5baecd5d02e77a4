"""A process that this one has started: its life, exit status and end.

In place of subprocess.Popen, for processes that were started without loading that.
"""

from __future__ import annotations

import os
import select
import signal
import threading


class Child:
    """A child process; any thread may call it. ``returncode`` is as in subprocess."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """The exit status; None while the child lives."""
        with self._lock:
            if self.returncode is None:
                try:
                    pid, status = os.waitpid(self.pid, os.WNOHANG)
                    if pid:
                        self.returncode = os.waitstatus_to_exitcode(status)
                except ChildProcessError:  # the program waits for any child, and got this one
                    self.returncode = 0
            return self.returncode

    def wait(self, timeout_s: float | None = None) -> int | None:
        """The exit status; None if the child lives after so long a time."""
        if self.poll() is None:
            try:
                descriptor = os.pidfd_open(self.pid)
            except ProcessLookupError:
                return self.poll()
            try:
                ended = select.poll()
                ended.register(descriptor, select.POLLIN)
                ended.poll(None if timeout_s is None else 1000 * timeout_s)
            finally:
                os.close(descriptor)
        return self.poll()

    def send(self, number: int) -> None:
        """Send a signal, if the child lives."""
        with self._lock:
            if self.returncode is None:
                os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send(signal.SIGKILL)
