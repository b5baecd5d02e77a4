"""Direct lanes between the processes of a node, in virtual time: the rules at both ends that ship.

What rides, what goes by the switch and what is handed back is decided by LaneBook and LaneServer;
here is what the sockets and the threads about them do: when frames are sent and read, and what of
a process's one core that takes. A program that submits reads its lanes when a frame's worth of
tasks has found no room there (a driver every ``LANE_TICK_S``, too), and as they come once it waits;
a worker looks at its lines between two batches of calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sim.scale.costs import Costs
from sim.scale.leaves import Leaves
from sim.scale.world import Thread, World
from skate import messages as m
from skate.client.lane_book import CallerLane, LaneBook
from skate.config import FLUSH_CALLS, FLUSH_DELAY_S, LANE_LOOK_S
from skate.ids import FIRST_RETURN
from skate.objects.reference_counter import ReferenceCounter
from skate.spec import CallTemplate
from skate.worker.lane_server import CalleeLane, LaneServer

SHORTEST_SLEEP_S = 1e-4  # a time-out of less would come to nothing, of a large float

Tell = Callable[[list[Any], float], None]
"""Say this to the node, then."""


class NoValues:
    """Of a caller whose tasks depend on nothing."""

    def data_here(self, object_id: bytes) -> bytes:
        """No ref leaves the process."""
        raise AssertionError(object_id)

    def plain(self, object_id: bytes) -> bytes | None:
        """No value is an argument."""
        raise AssertionError(object_id)


class Callee:
    """A worker's end of its lanes. ``thread`` is the one that runs tasks, whoever sends them."""

    def __init__(
        self,
        world: World,
        costs: Costs,
        leaves: Leaves,
        thread: Thread,
        result: bytes,
        tell: Tell,
    ) -> None:
        self.server = LaneServer(is_actor=False)
        self._world = world
        self._costs = costs
        self._leaves = leaves
        self._thread = thread
        self._result = result
        self._tell = tell
        self._callers: dict[int, tuple[CalleeLane, Caller]] = {}
        self._arrived: list[tuple[int, list[Any], Caller]] = []
        self._said: list[m.LaneExpected | m.LaneRevoke] = []
        self._is_due = False
        self._is_tick_due = False

    def hear(self, message: m.LaneExpected | m.LaneRevoke) -> None:
        """The node has said this."""
        self._said.append(message)
        self._wake()

    def receive(self, number: int, batch: list[Any], caller: Caller) -> None:
        """A frame of a lane is here."""
        self._arrived.append((number, batch, caller))
        self._wake()

    def _wake(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._world.at(max(self._world.now, self._thread.free_at), self._turn)

    def _tick(self) -> None:
        self._is_tick_due = False
        self._wake()

    def _turn(self) -> None:
        # What a busy worker does between two looks at its lines.
        self._is_due = False
        world, thread, server = self._world, self._thread, self.server
        self._read()
        self._run()
        self._answer()
        words: list[Any] = []
        if not server.queue:
            next_s = server.tick(thread.spend(0.0))
            if next_s is not None and not self._is_tick_due:
                self._is_tick_due = True
                world.at(thread.spend(0.0) + max(next_s, SHORTEST_SLEEP_S), self._tick)
            self._answer()
        server.take(words)
        if words:
            self._tell(words, thread.spend(0.0))
        if server.queue:
            self._wake()

    def _read(self) -> None:
        # The node's line first, but for a revocation: what was sent before it is still taken in.
        said, self._said = self._said, []
        for message in said:
            if isinstance(message, m.LaneExpected):
                self.server.on_expected(message)
                self._tell([m.LaneListening(message.lane)], self._thread.spend(0.0))
        arrived, self._arrived = self._arrived, []
        for number, batch, caller in arrived:
            self._thread.spend(self._costs.lane_frame_s)
            calls = [message for message in batch if type(message) is m.Call]
            for message in batch:
                if type(message) is not m.Call:  # what introduces them goes before
                    self._on_message(number, message, caller)
            if calls and number in self._callers:
                self.server.on_calls(self._callers[number][0], calls)
        for message in said:
            if isinstance(message, m.LaneRevoke):
                self.server.on_revoke(message.lane)

    def _on_message(self, number: int, message: Any, caller: Caller) -> None:
        kind = type(message)
        if kind is m.LaneHello:
            lane = self.server.on_hello(message)
            if lane is not None:
                self._callers[number] = lane, caller
            else:
                self._send(number, [m.LaneEnds(0)], caller)
        elif kind is m.RegisterTemplate and number in self._callers:
            self.server.on_template(self._callers[number][0], message)

    def _run(self) -> None:
        leaves, thread, server = self._leaves, self._thread, self.server
        until = max(self._world.now, thread.free_at) + LANE_LOOK_S
        for _ in range(FLUSH_CALLS):
            work = server.next()
            if work is None:
                return
            began = thread.spend(0.0)
            ended = thread.spend(leaves.task_s)
            leaves.ended(ended)
            server.outcome(work, m.Done(work.run.task_id, 0, began, ended, self._result))
            if thread.spend(self._costs.lane_worker_s) >= until:
                return

    def _answer(self) -> None:
        over = []
        for number, (lane, caller) in self._callers.items():
            if lane.out:
                batch, lane.out = lane.out, []
                self._send(number, batch, caller)
            if number not in self.server.lanes:
                over.append(number)
        for number in over:
            del self._callers[number]

    def _send(self, number: int, batch: list[Any], caller: Caller) -> None:
        at = self._thread.spend(self._costs.lane_frame_s) + self._costs.local_delay_s
        self._world.at(at, caller.receive, number, batch)


Find = Callable[[bytes], Callee | None]
"""The worker of this node with this id."""


class Caller:
    """A program's end of its lanes. ``read`` is called by the program when it looks."""

    def __init__(
        self,
        world: World,
        costs: Costs,
        thread: Thread,
        submitter: bytes,
        find: Find,
        arrived: Callable[[], None],
    ) -> None:
        self.references = ReferenceCounter()
        self.book = LaneBook(submitter, self.references, NoValues())
        self.overflow = 0  # tasks that might ride and went by the switch, since the last look
        self.rode = 0  # calls
        self.frames = 0  # of them
        self._world = world
        self._costs = costs
        self._thread = thread
        self._find = find
        self._has_arrived = arrived
        self._callees: dict[int, Callee] = {}
        self._since: dict[int, float] = {}  # when the first of what waits to be sent was queued
        self._opened: list[m.LaneOpen] = []
        self._arrived: list[tuple[int, list[Any]]] = []

    def register(self, spec: CallTemplate, function: m.RegisterFunction) -> None:
        """The next template of this program."""
        self.book.register(spec, function)

    # ------------------------------------------------------------------ calls

    def ride(self, task_id: bytes, template: int, arguments: bytes, depth: int, at: float) -> bool:
        """Send a task by a lane, if it may and there is one; at that time of the program."""
        book = self.book
        task_class = book.task_classes[template]
        if task_class is None:
            return False
        self.references.born_here(task_id + FIRST_RETURN)
        lane = book.task_lane(task_class)
        if lane is None or task_class.is_loaded:
            book.ask(task_class, template, at)
        if lane is None:
            self.overflow += 1
            return False
        book.send(lane, task_id, template, arguments, depth=depth)
        self.rode += 1
        self._flush_if_due(lane, at)
        return True

    def _flush_if_due(self, lane: CallerLane, at: float) -> None:
        since = self._since.setdefault(lane.number, at)
        if len(lane.unanswered) == 1 or len(lane.out) >= FLUSH_CALLS or at - since > FLUSH_DELAY_S:
            self._flush(lane)

    def _flush(self, lane: CallerLane) -> None:
        batch, lane.out = lane.out, []
        self._since.pop(lane.number, None)
        callee = self._callees[lane.number]
        self.frames += 1
        at = self._thread.spend(self._costs.lane_frame_s) + self._costs.local_delay_s
        self._world.at(at, callee.receive, lane.number, batch, self)

    def flush(self) -> None:
        """Before it waits: everything."""
        for lane in self.book.lanes.values():
            if lane.out:
                self._flush(lane)

    @property
    def is_calling(self) -> bool:
        """Whether something is to come by a lane."""
        return any(lane.unanswered for lane in self.book.lanes.values())

    # ------------------------------------------------------------------ reading

    def opened(self, message: m.LaneOpen) -> None:
        """The node has said so; it is not read yet."""
        self._opened.append(message)
        self._has_arrived()

    def receive(self, number: int, batch: list[Any]) -> None:
        """A frame of a lane is here, and not read yet."""
        self._arrived.append((number, batch))
        self._has_arrived()

    def read(self) -> int:
        """All that has arrived; how many results."""
        opened, self._opened = self._opened, []
        for message in opened:
            callee = self._find(message.worker)
            if callee is None:
                self.book.not_connected(message)
            else:
                self._callees[message.lane] = callee
                self._flush(self.book.opened(message))
        arrived, self._arrived = self._arrived, []
        results = 0
        for number, batch in arrived:
            outcomes = [message for message in batch if type(message) is m.Outcome]
            lane = self.book.lanes.get(number)
            if lane is not None:  # else it is over, and all was answered
                self.book.on_outcomes(lane, outcomes)
                results += sum(outcome.kind == m.DATA for outcome in outcomes)
                for message in batch:
                    if type(message) is m.LaneEnds:
                        self.book.on_end(lane, message.taken)
            self._thread.spend(
                self._costs.lane_frame_s + len(outcomes) * self._costs.lane_outcome_s
            )
        return results

    def gone(self, ids: list[bytes]) -> list[bytes]:
        """The program needs these results no more; of which the node has to be told."""
        for object_id in ids:
            self.references.counts.pop(object_id, None)
        return self.book.gone(ids)
