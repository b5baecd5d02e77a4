"""A node's connection to the GCS."""

from __future__ import annotations

import asyncio
from typing import Protocol

from skate import messages as m
from skate.net.frame import FrameReader
from skate.node.shell.turns import Turns


class _Shell(Turns, Protocol):
    gcs_heard: float  # when, by ``clock``

    def head_lost(self, reason: str) -> None: ...

    def gcs_lost(self) -> None: ...


class GcsLink(asyncio.Protocol):
    """The connection to the GCS."""

    def __init__(self, shell: _Shell) -> None:
        self.shell = shell
        self.reader = FrameReader(m.decode_from_gcs)

    def data_received(self, data: bytes) -> None:
        """Answers to forwarded questions."""
        core = self.shell.core
        self.shell.gcs_heard = self.shell.clock()
        core.begin(self.shell.gcs_heard)
        for message in self.reader.feed(data):
            if isinstance(message, m.Refused):
                self.shell.head_lost(f"the GCS refused this node: {message.reason}")
            elif not isinstance(message, m.HeadAlive):  # a sign of life, noted above
                core.hear_gcs(message)
        core.end_turn()
        self.shell.write_out()

    def connection_lost(self, error: Exception | None) -> None:
        """EOF, or reset."""
        self.shell.gcs_lost()
