"""A look at a session from outside: questions to its node over a connection of their own.

An observer belongs to no job and holds nothing, and its end does not touch the session. Called by
``skate status``, and by code that waits for a cluster to come up or to end. The node passes
questions that it cannot answer on to the GCS (gcs/questions.py). Errors: OSError if no node listens
or answers in time, SystemFailureError for a session that refuses or breaks off.
"""

from __future__ import annotations

import contextlib
import os
import time
from types import TracebackType
from typing import Any

from skate import messages as m
from skate.config import PROTOCOL_VERSION, PYTHON
from skate.error_records import decode_error
from skate.errors import SystemFailureError
from skate.net import unix_socket
from skate.net.frame import FrameReader, frame

ANSWER_TIMEOUT_S = 5.0
"""A daemon answers within milliseconds, or on a loaded machine within a second."""

_READ_BYTES = 256 << 10


class Observer:
    """One connection; questions are answered in order, by one thread at a time."""

    def __init__(self, node_socket: str, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self._reader = FrameReader(m.decode_to_client)
        self._asked = 0
        self._answers: dict[int, m.Answer] = {}
        self.last_words = ""  # the node's reason for its refusal or its end
        self._line = unix_socket.connect(node_socket, timeout_s)
        self._send(m.Hello(PROTOCOL_VERSION, PYTHON, "observer", os.getpid()))

    def ask(self, method: str, body: dict[str, Any] | None = None,
            timeout_s: float = ANSWER_TIMEOUT_S) -> Any:  # fmt: skip
        """The answer's body; TimeoutError if it does not come in time (it is dropped, then)."""
        self._asked += 1
        number = self._asked
        self._send(m.Ask(number, method, body or {}))
        deadline = time.monotonic() + timeout_s
        while number not in self._answers:
            self._line.settimeout(max(0.001, deadline - time.monotonic()))
            data = self._receive()
            if not data:
                raise SystemFailureError("the session has just ended")
            for message in self._reader.feed(data):
                self._take(message)
        answer = self._answers[number]
        self._answers.clear()
        if answer.error:
            raise SystemFailureError(decode_error(answer.error).message)
        return answer.body

    def _receive(self) -> bytes:
        try:
            return self._line.recv(_READ_BYTES)
        except ConnectionError:
            return b""

    def _take(self, message: Any) -> None:
        if isinstance(message, m.Refused | m.SessionEnds):
            self.last_words = message.reason
            raise SystemFailureError(message.reason)
        if isinstance(message, m.Answer):
            self._answers[message.number] = message

    def _send(self, message: Any) -> None:
        # A node that has hung up already: its last words can still be read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._line.sendall(frame([message]))

    def close(self) -> None:
        """Hang up."""
        self._line.close()

    def __enter__(self) -> Observer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
