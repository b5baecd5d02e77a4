"""The marks beside handlers: found once each, and never two for one message."""

from __future__ import annotations

import pytest

from skate.gcs import questions
from skate.gcs.hears import ANSWERS, HEARS, Asker, Body, answers, collect, hears
from skate.gcs.membership import NodeRow
from skate.messages import Heartbeat


class Ear:
    """Hears one message and answers one question."""

    def __init__(self) -> None:
        self.heard: list[float] = []

    @hears(Heartbeat)
    def on_heartbeat(self, _node: NodeRow, _message: Heartbeat, now: float) -> None:
        self.heard.append(now)

    @answers(questions.KvGet)
    def get(self, _asker: Asker, ask: questions.KvGet, _now: float) -> Body:
        return ask.key


def test_handlers_are_found_by_what_they_are_there_for() -> None:
    ear = Ear()
    heard = collect([ear], HEARS)
    assert list(heard) == [Heartbeat]
    heard[Heartbeat](None, None, 2.0)
    assert ear.heard == [2.0]
    assert collect([ear], ANSWERS)[questions.KvGet]((1, 1), questions.KvGet(b"k"), 2.0) == b"k"


def test_two_handlers_of_one_message_are_a_mistake() -> None:
    with pytest.raises(AssertionError, match="Heartbeat has two handlers"):
        collect([Ear(), Ear()], HEARS)
