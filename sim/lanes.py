"""Lanes between simulated processes: the two ends that ship, over channels of their own.

A lane is two channels, first in, first out and without loss, whose delays have nothing to do with
those of the lines to the node: so every race between them is drawn. A process that dies sends the
end of the stream behind what it had sent; what it held back in ``out`` is lost with it. Delivery
stands for the moment of reading: ``read_all`` reads what is at hand, as a callee does before it
ends a lane for good.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Protocol

from skate import messages as m
from skate.client.lane_book import CallerLane, LaneBook, values_of
from skate.client.value_table import ValueTable
from skate.objects.reference_counter import ReferenceCounter
from skate.spec import CallTemplate
from skate.worker.lane_server import CalleeLane, LaneServer

FLUSH_MOST_S = 1e-3
STALL_SHARE = 0.002  # of the batches: their reader is deep in user code
STALL_S = 0.2


class World(Protocol):
    """What a channel needs of the simulator."""

    now: float
    random: Random

    def at(self, delay_s: float, call: Callable[..., None], *arguments: Any) -> Any:
        """Call later."""

    def delay(self) -> float:
        """How long a batch is under way."""

    def tell(self, *words: Any) -> None:
        """A line of the story."""


class Host(Protocol):
    """What an end of a lane needs of its process."""

    name: str
    dead: bool

    def say(self) -> None:
        """Something is queued for the node."""

    def flush(self) -> None:
        """Send it."""

    def look_around(self) -> None:
        """Something has come: go on with what waited for it."""


class Channel:
    """One direction of a lane."""

    def __init__(self, world: World, arrive: Callable[[list[Any] | None], None]) -> None:
        self._world = world
        self._arrive = arrive
        self._waiting: deque[list[Any] | None] = deque()
        self._busy_until = 0.0

    def send(self, batch: list[Any] | None) -> None:
        """Queue a batch, or (None) the end of the stream."""
        world = self._world
        delay_s = world.delay()
        if world.random.random() < STALL_SHARE:
            delay_s += STALL_S * world.random.random()
        self._busy_until = max(self._busy_until, world.now + delay_s)
        self._waiting.append(batch)
        world.at(self._busy_until - world.now, self._one)

    def _one(self) -> None:
        if self._waiting:
            self._arrive(self._waiting.popleft())

    def read_all(self) -> None:
        """What is at hand is read now."""
        while self._waiting:
            self._one()


class LaneSocket:
    """A lane's socket, from connect() on."""

    def __init__(self, world: World, caller: CallerEnd, callee: CalleeEnd, number: int) -> None:
        self.number = number
        self.caller = caller
        self.callee = callee
        self.to_callee = Channel(world, lambda batch: callee.arrived(self, batch))
        self.to_caller = Channel(world, lambda batch: caller.arrived(self, batch))
        self.is_shut = False  # by the callee: it says nothing more
        self.lane: CalleeLane | None = None  # once the caller has said hello


class CallerEnd:
    """All lanes on which one process calls."""

    def __init__(
        self,
        world: World,
        host: Host,
        references: ReferenceCounter,
        values: ValueTable,
        listeners: dict[bytes, CalleeEnd],
    ) -> None:
        self._world = world
        self._host = host
        self._references = references
        self._values = values
        self._listeners = listeners  # of the node's workers
        self.book: LaneBook | None = None  # from the moment that the process knows who it is
        self.sockets: dict[int, LaneSocket] = {}
        self._flushes: dict[int, CallerLane] = {}  # due
        self._specs: list[tuple[CallTemplate, m.RegisterFunction | None]] = []

    def begin(self, submitter: bytes) -> None:
        """The process is known to its node."""
        self.book = LaneBook(submitter, self._references, self._values)

    def register(self, spec: CallTemplate, function: m.RegisterFunction | None) -> None:
        """The process has a new template."""
        assert self.book is not None
        self.book.register(spec, function)

    # ------------------------------------------------------------------ calls

    def call(
        self,
        actor_id: bytes,
        template: int,
        task_id: bytes,
        sequence: int,
        arguments: bytes,
        dependencies: Sequence[bytes],
        *,
        in_order: bool,
    ) -> bool:
        """Send a call to an actor on its lane; False if it has to go by the switch."""
        book = self.book
        assert book is not None
        lane = book.actor_lane(actor_id)
        if lane is None or not book.method_rides[template]:
            return False
        values = None
        if dependencies:
            found = book.values_for(dependencies, None)
            if found is None:
                return False
            values = found[1]
        lane.in_order = in_order
        is_first = not lane.unanswered
        book.send(
            lane, task_id, template, arguments, sequence, 0, list(dependencies) or None, values
        )
        self._world.tell(self._host.name, "=>", lane.out[-1])
        self._flush_soon(lane, at_once=is_first)
        return True

    def submit(
        self,
        template: int,
        task_id: bytes,
        arguments: bytes,
        dependencies: Sequence[bytes],
        depth: int,
    ) -> bool:
        """Send a task on a lane of its class; False if it has to go by the switch."""
        book = self.book
        assert book is not None
        task_class = book.task_classes[template]
        if task_class is None:
            return False
        lane = book.task_lane(task_class)
        values = None
        if lane is not None and dependencies:
            found = book.values_for(dependencies, task_class)
            lane, values = (None, None) if found is None else (found[0] or lane, found[1])
        if lane is None or task_class.is_loaded:
            book.ask(task_class, template, self._world.now)
            self._host.say()
        if lane is None:
            return False
        is_first = not lane.unanswered
        book.send(lane, task_id, template, arguments, -1, depth, list(dependencies) or None, values)
        self._world.tell(self._host.name, "=>", lane.out[-1])
        self._flush_soon(lane, at_once=is_first)
        return True

    def escape(self, object_ids: Sequence[bytes]) -> None:
        """Refs leave the process."""
        if self.book is not None and self.book.local:
            for object_id in object_ids:
                self.book.escape(object_id)
            self._host.say()

    def take(self, outbox: list[Any]) -> None:
        """Move what the node has to be told."""
        if self.book is not None:
            self.book.take(outbox)

    def _flush_soon(self, lane: CallerLane, *, at_once: bool) -> None:
        if at_once and self._world.random.random() < 0.8:
            self._flush(lane)
        elif lane.number not in self._flushes:
            self._flushes[lane.number] = lane
            self._world.at(FLUSH_MOST_S * self._world.random.random(), self._flush_due, lane)

    def _flush_due(self, lane: CallerLane) -> None:
        self._flushes.pop(lane.number, None)
        if not self._host.dead:
            self._flush(lane)

    def _flush(self, lane: CallerLane) -> None:
        socket = self.sockets.get(lane.number)
        if socket is None or not lane.out:
            return
        if lane.owes_node and self._world.random.random() < 0.8:  # else the line to it is full
            self._host.flush()
            lane.owes_node = False
        batch, lane.out = lane.out, []
        socket.to_callee.send(m.decode_to_callee(m.encode(batch)))

    # ------------------------------------------------------------------ what comes

    def open(self, message: m.LaneOpen) -> None:
        """The node has introduced us."""
        book = self.book
        assert book is not None
        callee = self._listeners.get(message.worker)
        if callee is None:
            book.not_connected(message)
        else:
            socket = LaneSocket(self._world, self, callee, message.lane)
            self.sockets[message.lane] = socket
            callee.sockets[socket] = None
            self._flush(book.opened(message))
        self._host.say()

    def ready(self, message: m.Ready) -> None:
        """The node has sent a value."""
        book = self.book
        if book is not None and (book.local or book.promised):
            book.ready_from_node(message.object_id)
            self._host.say()

    def arrived(self, socket: LaneSocket, batch: list[Any] | None) -> None:
        """A batch comes from a callee."""
        book = self.book
        if self._host.dead or book is None:
            return
        lane = book.lanes.get(socket.number)
        self._world.tell(self._host.name, "<= lane", socket.number, batch)
        if batch is None:
            self.sockets.pop(socket.number, None)
            if lane is not None:
                book.on_eof(lane)
        elif lane is not None:
            for message in m.decode_to_caller(m.encode(batch)):
                if isinstance(message, m.LaneEnds):
                    book.on_end(lane, message.taken)
                else:
                    self._values.on_all_ready(values_of([message]))
                    book.on_outcomes(lane, [message])
        book.check()
        self._host.say()
        self._host.look_around()

    # ------------------------------------------------------------------ ends

    def died(self) -> None:
        """The process is gone."""
        for socket in self.sockets.values():
            socket.to_callee.send(None)
        self.sockets.clear()

    def check_idle(self) -> None:
        """The process holds nothing and waits for nothing."""
        if self.book is not None:
            self.book.check()
            assert not self.book.local and not self.book.promised and not self.book.due
            assert not any(lane.unanswered or lane.out for lane in self.book.lanes.values())


class CalleeEnd:
    """All lanes on which one worker is called."""

    def __init__(self, world: World, host: Host, server: LaneServer) -> None:
        self._world = world
        self._host = host
        self.server = server
        self.sockets: dict[LaneSocket, None] = {}
        self._is_ticking = False

    def take(self, outbox: list[Any]) -> None:
        """Move what the node has to be told."""
        self.server.take(outbox)

    # ------------------------------------------------------------------ what comes

    def arrived(self, socket: LaneSocket, batch: list[Any] | None) -> None:
        """A batch comes from a caller."""
        self._take_in(socket, batch)
        if not self._host.dead:
            self.flush()
            self._host.look_around()

    def _take_in(self, socket: LaneSocket, batch: list[Any] | None) -> None:
        server = self.server
        if self._host.dead or socket not in self.sockets:
            return
        self._world.tell(self._host.name, "=> lane", socket.number, batch)
        if batch is None:
            del self.sockets[socket]
            if socket.lane is not None:
                server.on_eof(socket.lane)
        for message in batch or ():
            if isinstance(message, m.LaneHello):
                socket.lane = server.on_hello(message)
                if socket.lane is None:
                    socket.to_caller.send([m.LaneEnds(0)])
                    self._shut(socket)
                    return
            assert socket.lane is not None
            if isinstance(message, m.RegisterTemplate):
                server.on_template(socket.lane, message)
            elif isinstance(message, m.Call):
                server.on_calls(socket.lane, [message])
        server.check()

    def read_all(self) -> None:
        """Accept who has connected, and read all lanes."""
        for socket in list(self.sockets):
            socket.to_callee.read_all()

    def hear(self, message: Any) -> bool:
        """What the node says of lanes; False if it is something else."""
        server = self.server
        if isinstance(message, m.LaneExpected):
            server.on_expected(message)
            server.to_node.append(m.LaneListening(message.lane))
        elif isinstance(message, m.LaneRevoke):
            self.read_all()
            server.on_revoke(message.lane)
        elif isinstance(message, m.Publish):
            server.on_publish(message)
        elif isinstance(message, m.CallSkipped):
            server.on_skipped(message)
        else:
            return False
        server.check()
        self.flush()
        return True

    # ------------------------------------------------------------------ what goes

    def flush(self) -> None:
        """Send what there is, the node's part first."""
        self._host.say()
        for socket in list(self.sockets):
            lane = socket.lane
            if lane is None or socket.is_shut:
                continue
            if lane.owes_node:
                self._host.flush()
                lane.owes_node = False
            if lane.out:
                batch, lane.out = lane.out, []
                socket.to_caller.send(batch)
            if lane.number not in self.server.lanes:
                self._shut(socket)

    def _shut(self, socket: LaneSocket) -> None:
        socket.is_shut = True
        socket.to_caller.send(None)
        self.sockets.pop(socket, None)

    def rest(self) -> None:
        """Nothing is left to run: lanes may be idle."""
        if not self._is_ticking:
            next_s = self.server.tick(self._world.now)
            self.flush()
            if next_s is not None:
                self._is_ticking = True
                self._world.at(next_s + 1e-6, self._tick)

    def _tick(self) -> None:
        self._is_ticking = False
        if not self._host.dead:
            self._host.look_around()

    # ------------------------------------------------------------------ ends

    def died(self) -> None:
        """The process is gone."""
        for socket in self.sockets:
            if not socket.is_shut:
                socket.to_caller.send(None)
        self.sockets.clear()

    def check_idle(self) -> None:
        """Nothing runs, and nothing is kept for long."""
        self.server.check()
        for lane in self.server.lanes.values():
            assert not lane.unanswered and not lane.publish and not lane.out
            assert len(lane.order) <= lane.received - lane.seen
        assert not any(gate.early for gate in self.server.gates.values())
