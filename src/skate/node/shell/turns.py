"""The turns of a node's loop, for the parts of its shell that take them.

The node shell gives turns; lines to other machines and transfers of objects take them. Only the
thread of the loop touches the core, and only in a turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from skate.node.node_core import NodeCore
from skate.rows import Client


class Turns(Protocol):
    """The loop, the core, and the one way to give the core an event."""

    loop: asyncio.AbstractEventLoop

    @property
    def core(self) -> NodeCore:
        """The core: read at any time on the loop's thread, changed in a turn."""

    def clock(self) -> float:
        """Wall-clock seconds that never run backwards."""

    def write_out(self) -> None:
        """End a turn: write all that the core has queued."""

    def turn(self, what: Callable[[], None]) -> None:
        """Call ``what``, which gives the core an event, then write out all that follows."""

    def push_deferred(self, client: Client, /) -> None:
        """The client reads again: push the values held back, in turns of their own."""
