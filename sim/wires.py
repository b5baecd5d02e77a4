"""What connects: the two directions of a connection, and lines between nodes that outlive theirs.

A ``Line`` is first in, first out; each batch takes a random time. A ``LastingWire`` is the line
that one node has opened to another: connections come and go at random points, and what was under
way is lost with them; the LastingLine at each end (net/lasting.py, the one that ships) hides that.
Each side gives the line up as the node's shell does: who opened it, when it cannot connect for
``LINK_GIVE_UP_S``; the other, when nobody came back for ``LINK_KEPT_S``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from sim.roles import Machine
from sim.simulator import Simulator, Timer
from sim.world import World
from skate import messages as m
from skate.config import LINK_GIVE_UP_S, LINK_KEPT_S
from skate.net.frame import FrameReader, frame
from skate.net.lasting import LastingLine
from skate.rows import Client, OtherNode

RECONNECT_S = 0.05  # as in node/shell/lines.py
RECONNECT_MAX_S = 1.0
SEEN_AFTER_MESSAGES = 7  # few, as runs are short
SEEN_AFTER_BYTES = 1_000


class Line:
    """One direction of one connection: batches arrive in order, each after a random time."""

    def __init__(self, simulator: Simulator, arrive: Callable[[Any], None]) -> None:
        self._simulator = simulator
        self._arrive = arrive
        self._busy_until = 0.0

    def send(self, item: Any, *, is_background: bool = False) -> None:
        """Deliver after everything that was sent before."""
        simulator = self._simulator
        at = max(self._busy_until, simulator.now + simulator.delay())
        self._busy_until = at
        simulator.at(at - simulator.now, self._arrive, item, is_background=is_background)

    def stall(self, seconds: float) -> None:
        """Nothing arrives for so long."""
        self._busy_until = max(self._busy_until, self._simulator.now + seconds)


class End(Machine, Protocol):
    """A node at one end of a wire."""

    @property
    def incoming(self) -> dict[Client, LastingWire]:
        """The lines that others have opened."""

    def turn_soon(self) -> None:
        """Several batches may fall into one turn."""


class LastingWire:
    """See the module's docstring. What is under way carries the number of its connection."""

    def __init__(self, simulator: World, opener: End, neighbour: OtherNode, acceptor: End) -> None:
        self._simulator = simulator
        self.opener = opener
        self.acceptor = acceptor
        self._neighbour = neighbour
        self._near = LastingLine(SEEN_AFTER_MESSAGES, SEEN_AFTER_BYTES)
        self._far: LastingLine | None = None
        self._peer: Client | None = None
        self._to_far = Line(simulator, self._at_far)
        self._to_near = Line(simulator, self._at_near)
        self._connection = 0  # the number of the newest
        self._broken = 0  # up to this number
        self._near_is_up = False
        self._far_is_up = False
        self._is_dialling = False
        self._near_is_over = False
        self._far_is_over = False
        self._dialled_since = 0.0
        self._expiry: Timer | None = None

    # ------------------------------------------------------------------ who opened it

    def write(self, batch: list[Any]) -> None:
        """To the other node, now or once there is a connection."""
        for message in batch:
            self._simulator.tell(self.opener.name, "->", self.acceptor.name, message)
        out = self._near.outgoing(batch)
        if self._near_is_up:
            self._send(self._to_far, out)
        else:
            self._dial()

    def _send(self, line: Line, frames: list[bytes]) -> None:
        for data in frames:
            line.send((self._connection, "data", data))

    def _dial(self) -> None:
        if not self._is_dialling:
            self._is_dialling = True
            self._dialled_since = self._simulator.now
            self._attempt(RECONNECT_S)

    def _attempt(self, pause_s: float) -> None:
        if self._near_is_over or self.opener.dead or self._near_is_up:
            return
        if self.acceptor.dead or self._simulator.settings.is_cut(self.opener, self.acceptor):
            if self._simulator.now + pause_s > self._dialled_since + LINK_GIVE_UP_S:
                self._give_up("it cannot be reached")
                return
            self._simulator.at(pause_s, self._attempt, min(2 * pause_s, RECONNECT_MAX_S))
            return
        self._connection += 1
        self._to_far.send((self._connection, "hello", self._near.received))

    def _at_near(self, item: tuple[int, str, Any]) -> None:
        number, what, body = item
        opener = self.opener
        if number <= self._broken or self._near_is_over or opener.dead:
            return
        if what == "no":
            self._give_up(body)
        elif what == "ok":
            frames = self._near.resume(body)
            self._near_is_up = True
            self._is_dialling = False
            self._send(self._to_far, frames)
        else:
            core = opener.core
            core.begin(self._simulator.now)
            messages = FrameReader(m.decode_to_client).feed(body)
            for message in self._near.incoming(messages, len(body)):
                self._simulator.tell(opener.name, "<-", self.acceptor.name, message)
                core.hear_node(self._neighbour, message)
            seen = self._near.due_seen()
            if seen is not None:
                self._to_far.send((number, "data", frame([seen])))
            opener.turn_soon()

    def _give_up(self, why: str) -> None:
        self._simulator.tell(self.opener.name, "gives up its line to", self.acceptor.name, why)
        self.close()
        opener = self.opener
        if self._neighbour.link is self:
            self._neighbour.link = None
            opener.core.begin(self._simulator.now)
            self._simulator.ledger.cut_off(opener, self.acceptor)
            opener.core.cut_off(self._neighbour)
            opener.turn_soon()

    def close(self) -> None:
        """Who opened it has given the other up."""
        self._near_is_over = True
        self.break_up()

    # ------------------------------------------------------------------ the other side

    def _at_far(self, item: tuple[int, str, Any]) -> None:
        number, what, body = item
        acceptor = self.acceptor
        if number <= self._broken or acceptor.dead:
            return
        if what == "hello":
            self._on_hello(number, body)
            return
        assert self._far is not None and self._peer is not None
        core = acceptor.core
        core.begin(self._simulator.now)
        messages = FrameReader(m.decode_to_node).feed(body)
        for message in self._far.incoming(messages, len(body)):
            self._simulator.tell(acceptor.name, "takes", message, "from", self.opener.name)
            core.handle(self._peer, message)
        seen = self._far.due_seen()
        if seen is not None:
            self._to_near.send((number, "data", frame([seen])))
        acceptor.turn_soon()

    def _on_hello(self, number: int, received: int) -> None:
        acceptor, opener = self.acceptor, self.opener
        if opener.core.me.node_id in acceptor.core.nodes.dead:
            self._to_near.send((number, "no", "this node was given up by the cluster"))
            return
        if opener.core.me.node_id not in acceptor.core.nodes.by_id:
            self.break_up()  # it is tried again
            return
        if self._peer is None or self._far_is_over:
            if received:
                self._to_near.send((number, "no", "this line is over"))
                return
            for old in [wire for wire in acceptor.incoming.values() if wire.opener is opener]:
                old.end("it has opened a new one")
            self._take_in()
        assert self._far is not None
        self._simulator.cancel(self._expiry)
        frames = self._far.resume(received)
        self._far_is_up = True
        self._to_near.send((number, "ok", self._far.received))
        self._send(self._to_near, frames)

    def _take_in(self) -> None:
        acceptor = self.acceptor
        self._far = LastingLine(SEEN_AFTER_MESSAGES, SEEN_AFTER_BYTES)
        self._far_is_over = False
        peer = Client()
        peer.node_id = self.opener.core.me.node_id
        peer.role = "node"
        peer.link = self
        self._peer = peer
        acceptor.incoming[peer] = self
        acceptor.core.begin(self._simulator.now)
        acceptor.core.add_client(peer)

    def write_back(self, batch: list[Any]) -> None:
        """From the other node."""
        assert self._far is not None
        for message in batch:
            self._simulator.tell(self.acceptor.name, "answers", self.opener.name, message)
        out = self._far.outgoing(batch)
        if self._far_is_up:
            self._send(self._to_near, out)

    def end(self, why: str) -> None:
        """The other node gives its peer up."""
        peer = self._peer
        assert peer is not None
        acceptor = self.acceptor
        if acceptor.dead or acceptor.incoming.pop(peer, None) is None:
            return
        self._simulator.tell(acceptor.name, "ends the line of", self.opener.name, why)
        self._far_is_over = True
        self._simulator.cancel(self._expiry)
        if not self.opener.dead:
            self._simulator.ledger.cut_off(self.opener, acceptor)
        self.break_up()
        acceptor.core.begin(self._simulator.now)
        acceptor.core.client_lost(peer)
        acceptor.turn_soon()

    # ------------------------------------------------------------------ connections

    def break_up(self) -> None:
        """The connection ends, at both sides; what is under way is lost."""
        if self._broken == self._connection:
            return
        self._broken = self._connection
        self._simulator.tell("the line from", self.opener.name, "to", self.acceptor.name, "breaks")
        if self._far_is_up:
            self._far_is_up = False
            if not self.acceptor.dead and not self._far_is_over:
                self._expiry = self._simulator.at(LINK_KEPT_S, self.end, "it did not come back")
        if (self._near_is_up or self._is_dialling) and not self._near_is_over:
            self._near_is_up = False
            self._is_dialling = False
            self._simulator.at(self._simulator.delay(), self._redial)

    def _redial(self) -> None:
        if not self._near_is_over and not self.opener.dead and not self._near_is_up:
            self._dial()
