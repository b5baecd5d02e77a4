"""The turns of a node's loop, as the parts of its shell that need them see them.

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
    """The loop, the core, and the one way to let something happen to the core."""

    loop: asyncio.AbstractEventLoop

    @property
    def core(self) -> NodeCore:
        """To be read at any time on the loop's thread, and changed in a turn."""

    def clock(self) -> float:
        """Wall-clock seconds that never run backwards."""

    def write_out(self) -> None:
        """The end of a turn: everything that the core has queued."""

    def turn(self, what: Callable[[], None]) -> None:
        """Call ``what``, which tells the core something, then write out all that follows."""

    def push_deferred(self, client: Client, /) -> None:
        """The client reads again: send what was held back, in turns of their own."""
