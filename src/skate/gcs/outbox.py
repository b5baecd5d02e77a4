"""The GCS's messages of one turn, in the order in which its parts wrote them.

Every part of `GcsCore` writes into the same outbox, and the core takes all of it at the end of the
turn. A peer is the number of a connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

Send = tuple[int, msgspec.Struct]
"""A peer, and a message to it."""


class Outbox:
    """Messages to be sent. `nodes` are the peers that speak for living nodes, kept by others."""

    def __init__(self, nodes: Mapping[int, object]) -> None:
        self._nodes = nodes
        self._sends: list[Send] = []

    def send(self, peer: int, message: msgspec.Struct) -> None:
        """To one peer."""
        self._sends.append((peer, message))

    def send_all(self, sends: Iterable[Send]) -> None:
        """Several messages, each to its peer."""
        self._sends.extend(sends)

    def tell_nodes(self, message: msgspec.Struct, but: int = -1) -> None:
        """To every living node, except the one at peer `but`."""
        self._sends.extend((peer, message) for peer in self._nodes if peer != but)

    def take(self) -> list[Send]:
        """All of it, and start afresh."""
        sends, self._sends = self._sends, []
        return sends
