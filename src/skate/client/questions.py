"""Questions that a process asks its node (or, through it, the GCS), and their answers.

Each question has a number, which its answer repeats. ``ask`` waits for the answer; ``wait_answer``
is for questions that are answered once something has happened, which may take for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from skate import messages as m
from skate.client.connection import Connection
from skate.errors import GetTimeoutError
from skate.objects.serialization import error_of
from skate.spec import FORMAT_ERROR

Block = Callable[[Callable[[], bool], float | None], bool]
"""Wait until a condition holds, and lend out the CPU meanwhile; whether it holds in time."""


class Questions:
    """See the module's docstring."""

    def __init__(self, connection: Connection, block: Block) -> None:
        self._connection = connection
        self._block = block
        self._count = 0
        self._answers: dict[int, m.Answer] = {}
        self._open: dict[tuple[str, bytes], int] = {}  # what wait_answer() has asked
        connection.handlers[m.Answer] = self._on_answer

    def ask(self, method: str, body: dict[str, Any], timeout_s: float | None = None) -> Any:
        """The answer's body, or its error raised. GetTimeoutError if it takes too long.

        ValueError, TypeError or OverflowError for a body that no message can carry.
        """
        m.encode(body)  # here, where it can be told: behind others it would be in their way
        with self._connection.lock:
            number = self._ask_locked(method, body)
        answers = self._answers
        if not self._connection.wait_for(lambda: number in answers, timeout_s):
            raise GetTimeoutError(f"no answer to {method!r} within {timeout_s} s")
        answer = answers.pop(number)
        if answer.error:
            raise error_of(FORMAT_ERROR + answer.error)
        return answer.body

    def wait_answer(
        self, method: str, body: dict[str, Any], about: bytes, timeout_s: float | None
    ) -> bool:
        """Whether a question that is answered once something has happened is answered in time.

        An error is raised. In a worker, the CPU is lent out meanwhile. If the time is over, the
        next call for the same method and ``about`` waits for the same answer.
        """
        key = method, about
        answers = self._answers
        while True:
            with self._connection.lock:
                number = self._open.get(key)
                if number is None:
                    number = self._open[key] = self._ask_locked(method, body)

            def is_over(number: int = number) -> bool:
                # Another thread may wait for the same answer, and take it.
                return number in answers or self._open.get(key) != number

            if not self._block(is_over, timeout_s):
                return False
            if self._open.get(key) == number:  # before the answer goes, or others would miss it
                self._open.pop(key, None)
            answer = answers.pop(number, None)
            if answer is not None:
                if answer.error:
                    raise error_of(FORMAT_ERROR + answer.error)
                return True

    def _ask_locked(self, method: str, body: dict[str, Any]) -> int:
        self._count += 1
        self._connection.append_locked(m.Ask(self._count, method, body))
        return self._count

    def _on_answer(self, answer: m.Answer) -> None:
        self._answers[answer.number] = answer
