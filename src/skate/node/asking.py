"""Questions to the GCS: of clients, which the node passes on, and of the node itself. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from skate import messages as m
from skate.node.hears import GCS, hears
from skate.node.outbox import Outbox
from skate.rows import Client


class Asking:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        outbox: Outbox,
    ) -> None:
        self._outbox = outbox
        self.asked: dict[int, tuple[Client, int]] = {}  # passed on: client, and its own number
        self.ask_count = 0
        self._own: dict[int, Callable[[Any], None]] = {}  # the node's own questions
        self._heard_first: dict[int, Callable[[m.Answer], None]] = {}  # before the asking client

    def pass_on(
        self, client: Client, question: m.Ask, first: Callable[[m.Answer], None] | None = None
    ) -> None:
        """Pass a client's question on; ``first`` hears the answer before the client does."""
        self.ask_count += 1
        if first is not None:
            self._heard_first[self.ask_count] = first
        self.asked[self.ask_count] = (client, question.number)
        self._outbox.to_gcs(m.Ask(self.ask_count, question.method, question.body))

    def ask(self, method: str, body: dict[str, Any], then: Callable[[Any], None]) -> None:
        """A question of the node itself; ``then`` gets the answer's body."""
        self.ask_count += 1
        self._own[self.ask_count] = then
        self._outbox.to_gcs(m.Ask(self.ask_count, method, body))

    @hears(m.Answer, GCS)
    def on_answer(self, answer: m.Answer) -> None:
        """The GCS has answered a question that was passed on, or one of the node's own."""
        own = self._own.pop(answer.number, None)
        if own is not None:
            own(answer.body)
            return
        client, number = self.asked.pop(answer.number)
        first = self._heard_first.pop(answer.number, None)
        if first is not None:
            first(answer)
        self._outbox.send(client, m.Answer(number, answer.body, answer.error))
