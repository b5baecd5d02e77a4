"""The node's line to its zygote: requests for processes, reports of their starts and exits."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from skate.node.exit_status import describe_status
from skate.node.shell import zygote

RETRY_S = 0.002
"""A burst of forks has filled the line to the zygote: how soon to try again."""

STATUS_WITHIN_S = 0.2
"""The zygote has closed its line: how long to wait for the exit status that tells why."""


class ZygoteLine:
    """See the module's docstring.

    ``on_report`` gets each report; ``on_end`` is told, in a sentence, that the zygote has died.
    """

    def __init__(
        self,
        sock: socket.socket,
        pid: int,
        on_report: Callable[[dict[str, Any]], None],
        on_end: Callable[[str], None],
    ) -> None:
        self.sock = sock
        self.pid = pid
        self._on_report = on_report
        self._on_end = on_end
        self._backlog: deque[tuple[bytes, socket.socket | None]] = deque()
        self._loop: asyncio.AbstractEventLoop

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read its reports on this loop."""
        self._loop = loop
        self.sock.setblocking(False)
        loop.add_reader(self.sock.fileno(), self.on_readable)

    def ask(self, request: bytes, line: socket.socket | None) -> None:
        """Send a request, with the worker's end of its line, as soon as there is room."""
        self._backlog.append((request, line))
        if len(self._backlog) == 1:
            self._send()

    def _send(self) -> None:
        backlog = self._backlog
        while backlog:
            request, line = backlog[0]
            try:
                if line is None:
                    self.sock.send(request)
                else:
                    socket.send_fds(self.sock, [request], [line.fileno()])
            except OSError as error:
                # ETOOMANYREFS: more descriptors under way than this process may have open.
                if error.errno in (errno.EAGAIN, errno.ENOBUFS, errno.ETOOMANYREFS):
                    self._loop.call_later(RETRY_S, self._send)
                    return
                self.died()
                return
            backlog.popleft()
            if line is not None:
                line.close()

    def on_readable(self) -> None:
        """Reports of starts and exits."""
        while True:
            try:
                data = self.sock.recv(zygote.MAX_REQUEST_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.EINTR:
                    continue
                data = b""
            if not data:
                self._loop.remove_reader(self.sock.fileno())
                self.died()
                return
            self._on_report(zygote.decode_report(data))

    def died(self, status: int | None = None) -> None:
        """The zygote's end of the line is closed, or it was reaped: say how it died, and end."""
        deadline = time.monotonic() + STATUS_WITHIN_S
        with contextlib.suppress(ChildProcessError):
            while status is None and time.monotonic() < deadline:
                pid, found = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    status = os.waitstatus_to_exitcode(found)
                else:
                    time.sleep(0.001)
        how = describe_status(status) if status is not None else "its line is closed"
        self._on_end(f"the zygote (pid {self.pid}) of this node died: {how}")
