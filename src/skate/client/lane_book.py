"""What a process knows of its lanes as a caller: which calls ride, and who else knows a result.

Pure: no I/O, no clock, no lock of its own; one per process. Every call is made under the lock of
the connection, by whichever thread. What the node has to be told is queued in ``to_node``; whoever
holds the lock moves it (``take``) to the outbox behind each call, before anything else goes there.

A result of a lane call is its caller's own until its ref leaves the process. It is in one state::

            Outcome (data)          escape                   Outcome (data)
    LANE ──────────────► OURS ─Promote(data)─► KNOWN    PROMISED ─────────► KNOWN, Fulfil(data)
     │ escape: Promote(b"", lane) ────────────────────► PROMISED
     │ Outcome (at node) ─► DUE ─Ready─► KNOWN
     │ Ready (before its Outcome), or the call is handed to the node ─► KNOWN (PROMISED likewise)

LANE and DUE are in ``local`` with their lane, OURS with None, PROMISED in ``promised``; KNOWN is in
neither, and like any other object. If the last ref goes: nothing is said in OURS, Release in
PROMISED and KNOWN; LANE and DUE stay until they move on.

Interrupts (client/connection.py): a handler may run twice. So each change is a row of assignments
with one C call at its end, and none before it; what runs again finds the change made.

Invariants: a call is answered, or handed to the node, once. The node hears one last word
(LaneClosed OVER or LOST) of each lane. Promote goes before whatever carries the ref. A Call's
``seen`` covers no outcome whose Fulfil the kernel does not have (``owes_node``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from itertools import repeat
from typing import Any, Protocol

from skate import config
from skate import messages as m
from skate.ids import ACTOR_ID_BYTES, FIRST_RETURN, HANDLE_INDEX, TASK_ID_BYTES
from skate.messages import DATA, Call, Ready
from skate.objects.reference_counter import ReferenceCounter
from skate.spec import CallTemplate, Demand

_KNOWN: Any = object()


class CallerState(Enum):
    """OPEN takes calls; ENDED (LaneEnds was read) still answers those taken; OVER: nothing more."""

    OPEN = "open"
    ENDED = "ended"
    OVER = "over"


OPEN, ENDED, GONE = CallerState.OPEN, CallerState.ENDED, CallerState.OVER


class Values(Protocol):
    """What the book asks of the values in this process."""

    def data_here(self, object_id: bytes) -> bytes:
        """The payload of a value that has come by a lane; an error's, too."""

    def plain(self, object_id: bytes) -> bytes | None:
        """The payload, if it is here, small, no error, and has no refs inside; else None."""


class TaskClass:
    """Tasks that one lent worker can run, whatever their function; and the lanes for them."""

    __slots__ = ("ask_at", "by_switch", "chosen", "had_lanes", "is_loaded", "lanes", "left")

    def __init__(self) -> None:
        self.lanes: list[CallerLane] = []  # open ones
        self.chosen: CallerLane | None = None  # of the last burst, for so many more calls:
        self.left = 0
        self.is_loaded = False  # one more worker would help
        self.by_switch = 0  # tasks that could not ride
        self.had_lanes = False
        self.ask_at = 0.0  # not before


class CallerLane:
    """One lane at its caller. ``out`` is what its socket is still to be given."""

    __slots__ = (
        "actor_id", "functions", "handle_due", "in_order", "number", "out", "owes_node", "sent",
        "state", "task_class", "templates", "told", "unanswered", "window", "worker",
    )  # fmt: skip

    def __init__(self, opened: m.LaneOpen, task_class: TaskClass | None) -> None:
        self.number = opened.lane
        self.worker = opened.worker
        self.actor_id = opened.actor_id
        self.task_class = task_class
        self.window = opened.window
        self.state = OPEN
        self.unanswered: dict[bytes, m.Call] = {}  # by task, in the order sent
        self.sent = 0
        self.told = 0  # outcomes that the callee may forget
        self.owes_node = False  # a Fulfil may not have reached the kernel yet
        self.templates: set[int] = set()
        self.functions: set[bytes] = set()
        self.in_order = True
        self.handle_due = b""  # a handle that has gone: released when nothing is unanswered
        self.out: list[Any] = []

    @property
    def read(self) -> int:
        """Outcomes that were read, while the lane is open."""
        return self.sent - len(self.unanswered)


def rides(spec: CallTemplate, function_bytes: int) -> bool:
    """Whether calls of this template may ride at all (docs/decisions/0012-direct-lanes.md)."""
    if spec.num_returns != 1 or spec.retry_exceptions:
        return False
    if spec.kind == "method":
        return True
    return (
        spec.kind == "task"
        and not spec.group
        and spec.strategy is None
        and not spec.max_calls
        and spec.max_retries != 0
        and function_bytes <= config.LANE_FUNCTION_BYTES
        and all(name != "GPU" for name, _ in spec.demand)
    )


class LaneBook:
    """See the module's docstring."""

    def __init__(
        self,
        submitter: bytes,
        references: ReferenceCounter,
        values: Values,
        sequences: dict[bytes, int] | None = None,
    ) -> None:
        self._submitter = submitter
        self._sequences = {} if sequences is None else sequences  # next call number per actor
        self._references = references
        self._values = values
        self.to_node: deque[Any] = deque()
        self.local: dict[bytes, CallerLane | None] = {}
        self.promised: dict[bytes, CallerLane] = {}
        self.due: dict[bytes, None] = {}  # those in ``local`` of which only a Ready is to come
        self.lanes: dict[int, CallerLane] = {}  # without those that are over
        self.actor_lanes: dict[bytes, CallerLane] = {}
        self._classes: dict[tuple[Demand, int], TaskClass] = {}
        # Of each template of this process, by its number: its class, if it may ride; and what
        # introduces it to a callee.
        self.task_classes: list[TaskClass | None] = []
        self.method_rides: list[bool] = []
        self._introductions: list[tuple[m.RegisterFunction | None, m.RegisterTemplate]] = []

    def take(self, outbox: list[Any]) -> None:
        """Move what the node has to be told, in one step that no interrupt can split."""
        queue = self.to_node
        if queue:
            outbox.extend(map(deque.popleft, repeat(queue, len(queue))))

    # ------------------------------------------------------------------ templates, lanes

    def register(self, spec: CallTemplate, function: m.RegisterFunction | None) -> None:
        """The next template of this process; its number is how many there were before."""
        may_ride = rides(spec, 0 if function is None else len(function.data))
        task_class = None
        if may_ride and spec.kind == "task":
            task_class = self._classes.setdefault((spec.demand, spec.threads), TaskClass())
        template = m.RegisterTemplate(len(self._introductions), spec)
        self.task_classes.append(task_class)
        self.method_rides.append(may_ride and spec.kind == "method")
        self._introductions.append((function if may_ride else None, template))

    def opened(self, message: m.LaneOpen) -> CallerLane:
        """The node has opened a lane, and this process is connected to the callee."""
        lane = self.lanes.get(message.lane) or self.connected(message)
        self.offer(lane)
        return lane

    def connected(self, message: m.LaneOpen) -> CallerLane:
        """A lane that takes no call before it is offered: its socket has to be read first."""
        task_class = None if message.template < 0 else self.task_classes[message.template]
        lane = CallerLane(message, task_class)
        lane.out.append(m.LaneHello(lane.number, self._submitter))
        return lane

    def offer(self, lane: CallerLane) -> None:
        """From now on calls ride there."""
        self.lanes[lane.number] = lane
        task_class = lane.task_class
        if task_class is None:
            self.actor_lanes[lane.actor_id] = lane
        else:
            task_class.had_lanes = True
            if lane not in task_class.lanes:
                task_class.lanes.append(lane)

    def not_connected(self, message: m.LaneOpen) -> None:
        """The node has opened a lane, and the callee could not be reached."""
        self.to_node.append(m.LaneClosed(message.lane, m.OVER, 0))

    # ------------------------------------------------------------------ which lane

    def actor_lane(self, actor_id: bytes) -> CallerLane | None:
        """The lane to this actor, if one more call may ride there."""
        lane = self.actor_lanes.get(actor_id)
        if lane is None or lane.state is not OPEN or len(lane.unanswered) >= lane.window:
            return None
        return lane

    def leave(self, actor_id: bytes) -> None:
        """This process has the actor killed: calls from now on go by the switch, behind that."""
        lane = self.actor_lanes.get(actor_id)
        if lane is not None:
            lane.window = 0

    def task_lane(self, task_class: TaskClass) -> CallerLane | None:
        """The lane for a task of this class without dependencies on others, if it may ride now.

        One by one, all go to the first. In a burst they go to the lane with the fewest unanswered,
        some at a time: fewer frames, for callees that look less often.
        """
        lanes = task_class.lanes
        if not lanes:
            return None
        lane = lanes[0]
        if not lane.unanswered:
            task_class.chosen, task_class.left = lane, config.LANE_CHUNK_CALLS - 1
            task_class.is_loaded = False
            return lane
        chosen = task_class.chosen
        if chosen is not None and task_class.left and len(chosen.unanswered) < chosen.window:
            task_class.left -= 1
            return chosen
        lane = min(lanes, key=_load)
        load = len(lane.unanswered)
        task_class.is_loaded = load >= min(lane.window, config.LANE_LOAD_TASKS)
        if load >= lane.window:
            return None
        task_class.chosen, task_class.left = lane, config.LANE_CHUNK_CALLS - 1
        return lane

    def values_for(
        self, dependencies: Sequence[bytes], task_class: TaskClass | None
    ) -> tuple[CallerLane | None, list[bytes]] | None:
        """How values ride with a call: inline, or (tasks) from the lane where they are made.

        The lane that the task has to go to then, if any; and the values. None: by the switch.
        """
        lane: CallerLane | None = None
        values: list[bytes] = []
        total = 0
        for object_id in dependencies:
            maker = self.local.get(object_id)
            if maker is None:
                data = self._values.plain(object_id)
                if data is None:
                    return None
                total += len(data)
                values.append(data)
                continue
            if task_class is None or maker.task_class is not task_class or object_id in self.due:
                return None
            if maker.state is not OPEN or lane not in (None, maker):
                return None
            lane = maker
            values.append(b"")
        if total > config.LANE_VALUE_BYTES:
            return None
        if lane is not None and len(lane.unanswered) >= lane.window:
            return None
        return lane, values

    def ask(self, task_class: TaskClass, template: int, now: float) -> None:
        """A task of this class goes by the switch, or all its lanes are loaded: want a lane?"""
        have = len(task_class.lanes)
        if not have:
            task_class.by_switch += 1
            if not task_class.had_lanes and task_class.by_switch < config.LEASE_AFTER_TASKS:
                return
        elif not task_class.is_loaded:
            return
        if now >= task_class.ask_at:
            task_class.ask_at = now + config.LEASE_ASK_AGAIN_S
            self.to_node.append(m.LaneWanted(template, have))

    # ------------------------------------------------------------------ calls, outcomes

    def send(
        self,
        lane: CallerLane,
        task_id: bytes,
        template: int,
        arguments: bytes,
        sequence: int = -1,
        depth: int = 0,
        dependencies: list[bytes] | None = None,
        values: list[bytes] | None = None,
    ) -> bytes:
        """Queue a call on a lane that ``actor_lane``, ``task_lane`` or ``values_for`` has named.

        The id of its result, whose first ref the caller has to count before the lane is flushed.
        """
        if template not in lane.templates:
            self._introduce(lane, template)
        if not lane.owes_node:
            lane.told = lane.sent - len(lane.unanswered)
        object_id = task_id + FIRST_RETURN
        call = Call(task_id, sequence, template, arguments, lane.told, depth, dependencies, values)
        if dependencies:  # if it has to go by the switch after all, they must still be there
            self._references.journal.extend([(object_id,) for object_id in dependencies])
        lane.sent += 1
        lane.unanswered[task_id] = call
        self.local[object_id] = lane
        if sequence >= 0:  # with the call: for a number that never comes an actor would wait
            self._sequences[lane.actor_id] = sequence + 1
        lane.out.append(call)
        return object_id

    def _introduce(self, lane: CallerLane, template: int) -> None:
        function, introduction = self._introductions[template]
        if function is not None and function.function_id not in lane.functions:
            lane.out.append(function)
            lane.functions.add(function.function_id)
        lane.out.append(introduction)
        lane.templates.add(template)

    def on_outcomes(self, lane: CallerLane, outcomes: Sequence[m.Outcome]) -> None:
        """What calls came to. Their values (``values_of``) are in this process already."""
        local, unanswered, counts = self.local, lane.unanswered, self._references.counts
        for outcome in outcomes:
            task_id = outcome.task_id
            call = unanswered.get(task_id)
            if call is None:
                continue
            object_id = task_id + FIRST_RETURN
            if outcome.kind == DATA and object_id in local and not call.dependencies:
                # Nearly always. As in _answered.
                if object_id in counts:
                    local[object_id] = None
                else:
                    del local[object_id]
                del unanswered[task_id]
            elif outcome.kind == m.REFUSED:
                self._hand_over(lane, lane.state, [call], ())
                local, unanswered = self.local, lane.unanswered
            else:
                self._answered(lane, call, object_id, outcome)
        if not unanswered and (lane.handle_due or lane.state is ENDED):
            self._all_answered(lane)

    def _answered(
        self, lane: CallerLane, call: m.Call, object_id: bytes, outcome: m.Outcome
    ) -> None:
        if object_id in self.local:
            if outcome.kind == m.AT_NODE:
                self.due[object_id] = None
            elif object_id in self._references.counts:
                self.local[object_id] = None
            else:
                del self.local[object_id]
        elif object_id in self.promised:
            if outcome.kind == m.DATA:
                fulfil = m.Fulfil(object_id, outcome.data)
                lane.owes_node = True
                self.to_node.append(fulfil)  # twice, after an interrupt: the node minds the first
            del self.promised[object_id]
        del lane.unanswered[call.task_id]
        if call.dependencies:
            self._references.journal.extend(call.dependencies)

    def _all_answered(self, lane: CallerLane) -> None:
        if lane.handle_due:
            # As if its last ref went now; if one has come back meanwhile, nothing is to be said.
            self._references.counts[lane.handle_due] = 1
            handle_due, lane.handle_due = lane.handle_due, b""
            self._references.journal.append(handle_due)
        if lane.state is ENDED:
            self._forget(lane)
            word = m.LaneClosed(lane.number, m.OVER, 0)
            lane.state = GONE
            self.to_node.append(word)

    def ready_from_node(self, object_id: bytes) -> None:
        """The node has sent the value of a lane call: it knows the object, and holds it for us."""
        if object_id in self.promised:
            del self.promised[object_id]
        if self.local.get(object_id) is None:
            return
        words = [] if object_id in self._references.counts else [m.Release([object_id])]
        if object_id in self.due:
            del self.due[object_id]
        del self.local[object_id]
        self.to_node.extend(words)

    # ------------------------------------------------------------------ refs

    def escape(self, object_id: bytes) -> None:
        """A ref leaves this process, or its id does: from now on the node knows the object.

        To be called before the message that carries it is queued. Does nothing to what is known.
        """
        lane = self.local.get(object_id, _KNOWN)
        if lane is _KNOWN:
            return
        if lane is None:
            message = m.Promote(object_id, self._values.data_here(object_id))
        else:
            message = m.Promote(object_id, b"", lane.number)
            if object_id in self.due:
                del self.due[object_id]
            else:
                self.promised[object_id] = lane
        del self.local[object_id]
        self.to_node.append(message)

    def gone(self, ids: list[bytes]) -> list[bytes]:
        """Of those whose last ref is gone: what the node has to be told of, now."""
        local = self.local
        if not local and not self.actor_lanes:
            return ids
        told = []
        for object_id in ids:
            if object_id in local:
                if local[object_id] is None:
                    del local[object_id]
                continue
            if object_id[TASK_ID_BYTES:] == HANDLE_INDEX:
                lane = self.actor_lanes.get(object_id[:ACTOR_ID_BYTES])
                if lane is not None and lane.unanswered:
                    lane.handle_due = object_id
                    continue
            told.append(object_id)
        return told

    def back(self, ids: list[bytes]) -> list[bytes]:
        """Of those that a first ref was found of: which the node does not hold for us yet."""
        if not self.actor_lanes:
            return ids
        told = []
        for object_id in ids:
            lane = self.actor_lanes.get(object_id[:ACTOR_ID_BYTES])
            if lane is not None and lane.handle_due == object_id:
                lane.handle_due = b""
            else:
                told.append(object_id)
        return told

    def ahead(self, object_id: bytes) -> tuple[int, int] | None:
        """Of a result that is to come by a lane: which, and how many calls are before it there."""
        lane = self.local.get(object_id) or self.promised.get(object_id)
        if lane is None or object_id[:TASK_ID_BYTES] not in lane.unanswered:
            return None
        return lane.number, list(lane.unanswered).index(object_id[:TASK_ID_BYTES])

    # ------------------------------------------------------------------ the end of a lane

    def on_end(self, lane: CallerLane, taken: int) -> None:
        """LaneEnds was read: of what was sent, all but the first ``taken`` goes by the switch."""
        if lane.state is not OPEN:
            return
        untaken = max(0, lane.sent - taken)
        calls = list(lane.unanswered.values())[max(0, len(lane.unanswered) - untaken) :]
        is_over = len(calls) == len(lane.unanswered)
        word = m.LaneClosed(lane.number, m.OVER if is_over else m.HANDED_BACK, len(calls))
        self._hand_over(lane, GONE if is_over else ENDED, calls, (word,))

    def on_eof(self, lane: CallerLane) -> None:
        """The stream has ended, or was broken off: what is unanswered will not be."""
        if lane.state is GONE:
            return
        calls = [
            call
            for task_id, call in lane.unanswered.items()
            if task_id + FIRST_RETURN in self.local or task_id + FIRST_RETURN in self.promised
        ]  # without those that the node has answered
        self._hand_over(lane, GONE, calls, (m.LaneClosed(lane.number, m.LOST, len(calls)),))

    def _hand_over(
        self,
        lane: CallerLane,
        state: CallerState,
        calls: list[m.Call],
        words: tuple[m.LaneClosed, ...],
    ) -> None:
        """Have the node run these calls; their results are objects like all others from then on."""
        ids = {call.task_id + FIRST_RETURN: None for call in calls}
        for call in calls:
            for object_id in call.dependencies or ():
                if object_id not in ids:
                    self.escape(object_id)
        messages: list[Any] = [*words, *(self._by_switch(lane, call) for call in calls)]
        # A call makes its caller hold its result, also one that was promised and released before.
        unheld = [each for each in ids if each not in self._references.counts]
        if unheld:
            messages.append(m.Release(unheld))
        if state is GONE:
            self._forget(lane)
        elif state is ENDED:
            self._take_no_more(lane)
        joined = self.to_node + deque(messages)
        local = {key: value for key, value in self.local.items() if key not in ids}
        promised = {key: value for key, value in self.promised.items() if key not in ids}
        rest: dict[bytes, m.Call] = {}
        kept: list[bytes] = []
        for task_id, call in lane.unanswered.items():
            if state is not GONE and task_id + FIRST_RETURN not in ids:
                rest[task_id] = call
            else:
                kept += call.dependencies or ()
        out: list[Any] = lane.out if state is OPEN else []
        handle_due = lane.handle_due
        if handle_due and state is GONE:
            kept.append(handle_due)
        # All in one: from here to the C call below no interrupt can come.
        self.to_node = joined
        self.local = local
        self.promised = promised
        lane.unanswered = rest
        lane.out = out
        if handle_due and state is GONE:  # as in _all_answered
            self._references.counts[handle_due] = 1
            lane.handle_due = b""
        lane.state = state
        self._references.journal.extend(kept)

    def _by_switch(self, lane: CallerLane, call: m.Call) -> m.Submit | m.CallActor:
        if lane.task_class is not None:
            return m.Submit(
                call.task_id, call.template, call.arguments, call.dependencies, None, call.depth,
                lane.number,
            )  # fmt: skip
        return m.CallActor(
            call.task_id, lane.actor_id, call.sequence, call.template, call.arguments,
            call.dependencies, None, lane.in_order, lane.number,
        )  # fmt: skip

    def _take_no_more(self, lane: CallerLane) -> None:
        task_class = lane.task_class
        if task_class is not None and lane in task_class.lanes:
            task_class.lanes = [other for other in task_class.lanes if other is not lane]
            if task_class.chosen is lane:
                task_class.chosen = None

    def _forget(self, lane: CallerLane) -> None:
        # May run twice, and before the lane's state says so.
        self._take_no_more(lane)
        self.lanes.pop(lane.number, None)
        if self.actor_lanes.get(lane.actor_id) is lane:
            del self.actor_lanes[lane.actor_id]

    # ------------------------------------------------------------------ checks

    def check(self) -> None:
        """Assert all that the module's docstring says must hold."""
        for number, lane in self.lanes.items():
            assert number == lane.number and lane.state is not GONE
            assert lane.state is OPEN or lane.unanswered, "its last word is due"
            assert len(lane.unanswered) <= min(lane.window or lane.sent, lane.sent)
            assert lane.told <= lane.sent
            assert not lane.handle_due or lane.unanswered
            assert lane.state is OPEN or not lane.out, "something is sent on a lane that has ended"
        for actor_id, lane in self.actor_lanes.items():
            assert lane.actor_id == actor_id and self.lanes[lane.number] is lane
        for task_class in self._classes.values():
            assert all(lane.state is OPEN for lane in task_class.lanes)
            assert task_class.chosen is None or task_class.chosen in task_class.lanes
        for object_id, maker in self.local.items():
            if object_id in self.due:
                assert maker is not None
            elif maker is not None:
                assert object_id[:TASK_ID_BYTES] in maker.unanswered
        for object_id, maker in self.promised.items():
            assert object_id not in self.local
            assert object_id[:TASK_ID_BYTES] in maker.unanswered
        assert all(object_id in self.local for object_id in self.due)


def values_of(outcomes: Sequence[m.Outcome]) -> list[m.Ready]:
    """The values among what calls came to, for the table of values."""
    return [
        Ready(outcome.task_id + FIRST_RETURN, outcome.data)
        for outcome in outcomes
        if outcome.kind == DATA
    ]


_load: Callable[[CallerLane], int] = lambda lane: len(lane.unanswered)  # noqa: E731
