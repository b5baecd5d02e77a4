"""Marks beside the handlers of the GCS: the message or question that each one handles.

    @hears(Heartbeat)               a message that only nodes may send
    @hears_anyone(StillAlive)       a message that any peer may send
    @answers(questions.KvGet)       a question (`messages.Ask`) that any peer may ask

`GcsCore` collects the marks of its parts once, into dicts by type, and dispatches by these. A
message or question with two handlers is a mistake in the wiring and raises.

Handlers write their messages into an outbox. A handler of a question returns the body of the
answer, or `LATER` if its part will answer later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec

from skate.gcs.membership import NodeRow

Asker = tuple[int, int]
"""The peer that asks, and the number of its question."""

Body = Any
"""Plain MessagePack data."""

FromNode = Callable[[NodeRow, Any, float], None]
FromAnyone = Callable[[int, Any, float], None]
ToAnswer = Callable[[Asker, Any, float], Body]
"""Of a handler, without its part: who speaks, the message, and the time in wall seconds."""

P = TypeVar("P")
M = TypeVar("M", bound=msgspec.Struct)
F = TypeVar("F", bound=Callable[..., Any])

HEARS = "_hears"
HEARS_ANYONE = "_hears_anyone"
ANSWERS = "_answers"


class _Later:
    """The type of `LATER`."""


LATER = _Later()


def hears(
    kind: type[M],
) -> Callable[[Callable[[P, NodeRow, M, float], None]], Callable[[P, NodeRow, M, float], None]]:
    """The method handles this message of a node."""
    return lambda function: _marked(function, HEARS, kind)


def hears_anyone(
    kind: type[M],
) -> Callable[[Callable[[P, int, M, float], None]], Callable[[P, int, M, float], None]]:
    """The method handles this message of any peer, which may be no node."""
    return lambda function: _marked(function, HEARS_ANYONE, kind)


def answers(
    kind: type[M],
) -> Callable[[Callable[[P, Asker, M, float], Body]], Callable[[P, Asker, M, float], Body]]:
    """The method answers this question."""
    return lambda function: _marked(function, ANSWERS, kind)


def collect(parts: Iterable[object], mark: str) -> dict[type[msgspec.Struct], Callable[..., Any]]:
    """The bound methods of these parts that carry the mark, by message or question."""
    found: dict[type[msgspec.Struct], Callable[..., Any]] = {}
    for part in parts:
        for name, function in vars(type(part)).items():
            kind = getattr(function, mark, None)
            if kind is not None:
                assert kind not in found, f"{kind.__name__} has two handlers: {found[kind]}, {name}"
                found[kind] = getattr(part, name)
    return found


def _marked(function: F, mark: str, kind: type[msgspec.Struct]) -> F:
    setattr(function, mark, kind)
    return function
