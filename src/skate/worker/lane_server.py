"""A worker's lanes as a callee: what it has received and taken, keeps, publishes and hands back.

Pure: no I/O, no clock, no lock of its own; one per worker. Every call is made under the lock of the
connection, by whichever thread: the reader brings what has come, whoever runs calls pops them with
``next`` and brings their ends, the courier hands back. What the node has to be told is queued in
``to_node``; whoever holds the lock moves it (``take``) to the outbox behind each call. What the
socket of a lane has to send is in its ``out``.

A lane is EXPECTED, OPEN once its caller has said hello, DRAINING from LaneEnds on (nothing more is
taken, what was taken runs), and OVER with LaneOver. A task is taken when it is popped, an actor's
call when it is received, so an actor never gives back. A caller that has died (end of stream) gets
nothing back: all that it sent is taken. Its lane stays until the node revokes it, as the node may
still ask for results (``Publish``) until then.

A result that rides is kept until its caller says that it was read (``Call.seen``): for the node,
and for a later call of the lane that needs it. Larger ones, and those with refs inside, go to the
node; the lane only says so, and not before the kernel has that (``owes_node``).

Invariants: no call with a number of ``taken`` or more begins once LaneEnds is queued. Each taken
call has one outcome. Each lane ends by one LaneOver, behind its rows, or with its process. A gate
releases the numbers of its caller ascending, and holds none for ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import Enum
from itertools import repeat
from typing import Any

import msgspec

from skate import config
from skate import messages as m
from skate.config import LANE_NOTES, LANE_VALUE_BYTES
from skate.error_records import decode_error, encode_error, with_dependant
from skate.ids import TASK_ID_BYTES
from skate.messages import LaneRow, Outcome, Run
from skate.spec import FORMAT_ERROR, CallTemplate
from skate.states import TaskState

_FINISHED, _FAILED = int(TaskState.FINISHED), int(TaskState.FAILED)
_ERROR_TAG = FORMAT_ERROR[0]


class CalleeState(Enum):
    """See the module's docstring."""

    EXPECTED = "expected"
    OPEN = "open"
    DRAINING = "draining"
    OVER = "over"


EXPECTED, OPEN, DRAINING, OVER = CalleeState


class Work(msgspec.Struct, eq=False):
    """One thing to run, whichever way it came: by a lane, or (None) from the node."""

    run: m.Run
    spec: CallTemplate
    lane: CalleeLane | None = None
    seen: int = 0
    is_told: bool = False  # the node was told that it runs, as it takes its time


class CalleeLane:
    """One lane at its callee. ``out`` is what its socket is still to be given."""

    __slots__ = (
        "caller", "eof", "kept", "mark", "notes", "number", "order", "out", "owes_node", "publish",
        "quiet_since", "received", "seen", "state", "taken", "takes_at_once", "templates",
        "unanswered", "youngest",
    )  # fmt: skip

    def __init__(self, number: int, caller: bytes, *, takes_at_once: bool) -> None:
        self.number = number
        self.caller = caller
        self.state = EXPECTED
        self.takes_at_once = takes_at_once
        self.templates: dict[int, CallTemplate] = {}
        self.received = 0
        self.youngest = b""  # the last task received: their ids ascend
        self.taken = 0
        self.unanswered: dict[bytes, Work] = {}  # received, and not handed back
        self.kept: dict[bytes, bytes] = {}  # results that the caller may not have read, by task
        self.order: deque[bytes] = deque()  # tasks with an outcome that it may not have read
        self.seen = 0
        self.publish: set[bytes] = set()  # tasks whose results the node wants when they are there
        self.owes_node = False  # a LaneResult may not have reached the kernel yet
        self.eof = False
        self.notes: list[m.LaneRow] = []
        self.mark = 0  # how much had happened when tick() looked last
        self.quiet_since = 0.0
        self.out: list[Any] = []

    @property
    def may_bring(self) -> bool:
        """Whether calls of its caller may still come by this lane."""
        return not self.eof and (self.state is EXPECTED or self.state is OPEN)


class Gate:
    """Brings the calls of one caller to an actor into the order of their numbers."""

    __slots__ = ("early", "gone", "next", "skipped")

    def __init__(self, first: int) -> None:
        self.next = first
        self.early: dict[int, Work] = {}
        self.skipped: set[int] = set()
        self.gone = False  # the caller is, and nothing more comes from the node

    def advance(self, queue: deque[Work], *, skip_holes: bool) -> None:
        """Release what is next; over holes, if nothing can come to fill them."""
        early = self.early
        while True:
            if self.next in early:
                queue.append(early.pop(self.next))
            elif self.next in self.skipped:
                self.skipped.discard(self.next)
            elif skip_holes and early:
                self.next = min(early)
                continue
            else:
                return
            self.next += 1


class LaneServer:
    """See the module's docstring. ``queue`` is all that the worker has to run, in order."""

    def __init__(self, *, is_actor: bool) -> None:
        self._is_actor = is_actor
        self._idle_s = config.ACTOR_LANE_IDLE_S if is_actor else config.LEASE_IDLE_S
        self.to_node: deque[Any] = deque()
        self.queue: deque[Work] = deque()
        self.lanes: dict[int, CalleeLane] = {}  # without those that are over
        self.gates: dict[bytes, Gate] = {}
        self.is_blocked = False
        self.has_left = False
        self._last_ended = 0.0

    def take(self, outbox: list[Any]) -> None:
        """Move what the node has to be told, in one step that no interrupt can split."""
        queue = self.to_node
        if queue:
            outbox.extend(map(deque.popleft, repeat(queue, len(queue))))

    # ------------------------------------------------------------------ what the node says

    def on_expected(self, message: m.LaneExpected) -> None:
        """A caller may come. The shell listens, and then says LaneListening."""
        if message.lane in self.lanes:
            return
        if message.next >= 0 and message.caller not in self.gates:
            self.gates[message.caller] = Gate(message.next)
        self.lanes[message.lane] = CalleeLane(
            message.lane, message.caller, takes_at_once=self._is_actor
        )

    def on_run(self, run: m.Run, spec: CallTemplate) -> None:
        """The node has sent a task or a call."""
        work = Work(run, spec)
        gate = self.gates.get(run.caller) if run.sequence >= 0 else None
        if gate is None:
            self.queue.append(work)
        else:
            self._at_gate(run.caller, gate, run.sequence, work)

    def on_skipped(self, message: m.CallSkipped) -> None:
        """A number will not come from the node; or (-1) none will, of a caller that is gone."""
        gate = self.gates.get(message.caller)
        if gate is None:
            return
        if message.sequence < 0:
            gate.gone = True
        elif message.sequence >= gate.next:
            gate.skipped.add(message.sequence)
        self._advance(message.caller, gate)

    def on_publish(self, message: m.Publish) -> None:
        """The node wants results too: those that are here at once, others when they are."""
        lane = self.lanes.get(message.lane)
        if lane is None:
            return
        for task_id in message.task_ids:
            data = lane.kept.get(task_id)
            if data is not None:
                result = m.Result(m.Value(data))
                failed = data[:1] == FORMAT_ERROR
                self.to_node.append(m.LaneResult(lane.number, task_id, result, failed))
            elif task_id in lane.unanswered or task_id > lane.youngest:
                lane.publish.add(task_id)
            # Else the caller has read it: it has sent the value to the node before it said so.

    def on_revoke(self, number: int) -> None:
        """The node takes the lane back, or its caller is dead.

        The shell has accepted who had connected, and has read all lanes, before it says this.
        """
        lane = self.lanes.get(number)
        if lane is None or lane.state is DRAINING:
            return
        if lane.state is OPEN and not lane.eof:
            self.end(lane)
            return
        lane.state = DRAINING
        self._closed(lane)

    # ------------------------------------------------------------------ what a caller says

    def on_hello(self, hello: m.LaneHello) -> CalleeLane | None:
        """Somebody has connected. None: that lane is over (LaneEnds(0)), or not theirs."""
        lane = self.lanes.get(hello.lane)
        if lane is None or lane.caller != hello.caller or lane.state is not EXPECTED:
            return None
        lane.state = OPEN
        return lane

    def on_template(self, lane: CalleeLane, message: m.RegisterTemplate) -> None:
        """The caller's number of a template."""
        lane.templates[message.number] = message.template

    def on_calls(self, lane: CalleeLane, calls: Sequence[m.Call]) -> None:
        """Calls have come; they are queued, unless they have crossed the end of the lane.

        KeyError if the template of one is not registered: the caller breaks the protocol.
        """
        if self.has_left:
            return
        templates, unanswered, queue = lane.templates, lane.unanswered, self.queue
        gate = self.gates.get(lane.caller)
        for call in calls:
            if lane.state is not OPEN:
                return
            task_id = call.task_id
            given = call.values
            run = Run(
                task_id,
                0,
                call.template,
                call.arguments,
                call.dependencies,
                None if given is None else [m.Value(data) for data in given],
                call.depth,
            )
            work = Work(run, templates[call.template], lane, call.seen)
            lane.received += 1
            lane.youngest = task_id
            if self._is_actor:
                lane.taken += 1
                if lane.seen < call.seen:
                    self._drop_seen(lane, call.seen)
            elif self.is_blocked:
                self.end(lane)
                return
            unanswered[task_id] = work
            if gate is None:
                queue.append(work)
            else:
                self._at_gate(lane.caller, gate, call.sequence, work)

    def on_eof(self, lane: CalleeLane) -> None:
        """The caller is dead, or the stream broke: run what it sent. The node says the rest."""
        if lane.eof:
            return
        lane.eof = True
        lane.out = []
        if lane.state is OPEN:
            lane.takes_at_once = True
            lane.taken = lane.received
        self._may_open(lane.caller)

    def _at_gate(self, caller: bytes, gate: Gate, sequence: int, work: Work) -> None:
        if sequence < gate.next:
            self.queue.append(work)  # it was here before, and is repeated
        elif sequence == gate.next and not gate.early and not gate.skipped:  # nearly always
            gate.next += 1
            self.queue.append(work)
        else:
            gate.early[sequence] = work
            self._advance(caller, gate)

    def _advance(self, caller: bytes, gate: Gate) -> None:
        is_open = gate.gone and not any(
            lane.caller == caller and lane.may_bring for lane in self.lanes.values()
        )
        gate.advance(self.queue, skip_holes=is_open)
        if is_open:
            del self.gates[caller]

    def _may_open(self, caller: bytes) -> None:
        gate = self.gates.get(caller)
        if gate is not None and gate.gone:
            self._advance(caller, gate)

    # ------------------------------------------------------------------ what runs

    def next(self) -> Work | None:
        """Pop what to run now. A task that cannot, for its inputs, is answered here."""
        queue = self.queue
        while queue:
            work = queue.popleft()
            lane = work.lane
            if lane is None or self._is_actor:
                return work
            if not lane.takes_at_once:
                if lane.state is not OPEN:
                    continue
                lane.taken += 1
            if work.run.values is None or self._fill_in(lane, work, work.run.values):
                if lane.seen < work.seen:
                    self._drop_seen(lane, work.seen)
                return work
            self._drop_seen(lane, work.seen)
        return None

    def _fill_in(self, lane: CalleeLane, work: Work, values: list[m.Value]) -> bool:
        """Put in what was kept for this task; False if it is answered without having run."""
        run = work.run
        for index, object_id in enumerate(run.dependencies or ()):
            if values[index].data:
                continue
            data = lane.kept.get(object_id[:TASK_ID_BYTES])
            if data is None:
                self._settle(lane, work, m.Outcome(run.task_id, b"", m.REFUSED))
                return False
            if data[0] == _ERROR_TAG:
                record = with_dependant(decode_error(data[1:]), work.spec.name)
                error = FORMAT_ERROR + encode_error(record)
                at = self._last_ended  # about now: when its input failed, or what came after that
                self.outcome(work, m.Done(run.task_id, 0, at, at, error, failed=True))
                return False
            values[index] = m.Value(data)
        return True

    def _drop_seen(self, lane: CalleeLane, seen: int) -> None:
        while lane.seen < seen and lane.order:
            lane.kept.pop(lane.order.popleft(), None)
            lane.seen += 1

    def outcome(self, work: Work, done: m.Done) -> None:
        """A call of a lane has run. Its ``out`` may be sent from here on."""
        lane = work.lane
        assert lane is not None
        task_id = work.run.task_id
        results = done.results
        result = None if results is None else results[0]
        data = done.data if result is None else result.value.data
        is_large = len(data) > LANE_VALUE_BYTES
        if is_large or (result is not None and (result.contains or result.value.size)):
            self._publish(lane, work, done, result)
            lane.owes_node = True
            answer = Outcome(task_id, b"", m.AT_NODE)
        else:
            lane.kept[task_id] = data
            if lane.publish and task_id in lane.publish:
                self._publish(lane, work, done, result)
            answer = Outcome(task_id, data)
        self._last_ended = done.ended
        if work.spec.events:
            self._note(lane, work, done)
        self._settle(lane, work, answer)

    def _publish(self, lane: CalleeLane, work: Work, done: m.Done, result: m.Result | None) -> None:
        result = m.Result(m.Value(done.data)) if result is None else result
        self.to_node.append(
            m.LaneResult(lane.number, work.run.task_id, result, done.failed, work.spec.name)
        )

    def _note(self, lane: CalleeLane, work: Work, done: m.Done) -> None:
        spec = work.spec
        state, error_type, size = _FINISHED, "", len(done.data)
        if done.failed:
            record = decode_error(done.data[1:])
            state = _FAILED
            error_type = str(record.fields.get("cause_type", record.kind))
        elif done.results is not None:
            value = done.results[0].value
            size = value.size or len(value.data)
        run = work.run
        lane.notes.append(
            LaneRow(
                run.task_id, spec.name, spec.kind, done.started, done.ended, state,
                error_type, size, run.depth,
            )
        )  # fmt: skip
        if len(lane.notes) >= LANE_NOTES:
            self._tell_notes(lane)

    def _settle(self, lane: CalleeLane, work: Work, answer: m.Outcome) -> None:
        task_id = answer.task_id
        lane.order.append(task_id)
        if lane.publish:
            lane.publish.discard(task_id)
        if not lane.eof:
            lane.out.append(answer)
        unanswered = lane.unanswered
        del unanswered[task_id]
        if not unanswered and lane.state is DRAINING:
            self._over(lane)

    def _tell_notes(self, lane: CalleeLane) -> None:
        rows = lane.notes
        if rows:
            lane.notes = []
            self.to_node.append(m.LaneNotes(lane.number, rows))

    def long(self, work: Work, started: float) -> None:
        """What runs takes its time (``started`` is wall-clock): the node is told, once."""
        lane = work.lane
        if lane is None or work.is_told or work.run.task_id not in lane.unanswered:
            return  # it has ended by now: its row may have left, and would not end this
        work.is_told = True
        behind = len(lane.unanswered) - 1
        self.to_node.append(
            m.LaneBegun(lane.number, work.run.task_id, work.spec.name, started, behind)
        )

    # ------------------------------------------------------------------ ends

    def end(self, lane: CalleeLane) -> None:
        """Take nothing more on an open lane: what is behind ``taken`` is the caller's again."""
        lane.state = DRAINING
        if not self._is_actor:
            others = []
            for work in self.queue:
                if work.lane is lane:
                    del lane.unanswered[work.run.task_id]
                else:
                    others.append(work)
            self.queue.clear()
            self.queue.extend(others)
        lane.out.append(m.LaneEnds(lane.taken))
        self._closed(lane)

    def _closed(self, lane: CalleeLane) -> None:
        # It has just begun to drain.
        if not lane.unanswered:
            self._over(lane)
        self._may_open(lane.caller)

    def _over(self, lane: CalleeLane) -> None:
        self._tell_notes(lane)
        lane.state = OVER
        self.to_node.append(m.LaneOver(lane.number))
        lane.kept = {}
        lane.order.clear()
        lane.publish.clear()
        self.lanes.pop(lane.number, None)

    def hand_back(self) -> None:
        """What runs takes its time: nothing that has not begun waits behind it. Tasks only."""
        for lane in list(self.lanes.values()):
            if lane.state is OPEN and lane.received > lane.taken:
                self.end(lane)

    def block(self) -> None:
        """The running task waits: what is behind it goes back, now and later."""
        self.is_blocked = True
        self.hand_back()

    def unblock(self) -> None:
        """It goes on."""
        self.is_blocked = False

    def retire(self) -> None:
        """The process is to end: run what was received (actor) or has begun, take nothing more.

        The shell has read all lanes before it says this.
        """
        for lane in list(self.lanes.values()):
            if lane.state is OPEN and not lane.eof:
                self.end(lane)
            elif lane.state is EXPECTED:
                lane.state = DRAINING
                self._closed(lane)

    def leave(self) -> None:
        """The process ends behind the running call, by its own will: nothing else is run.

        No last words: callers see a death, and the node says why.
        """
        self.has_left = True
        for lane in self.lanes.values():
            self._tell_notes(lane)
        self.queue.clear()
        for gate in self.gates.values():
            gate.early.clear()

    def tick(self, now: float) -> float | None:
        """End lanes that are idle, tell rows that are old; seconds to the next look, if any.

        To be called when nothing is left to run, before the process sleeps.
        """
        next_s: float | None = None
        for lane in list(self.lanes.values()):
            mark = 2 * lane.received - len(lane.unanswered)  # grows with each call and each answer
            if mark != lane.mark or not lane.quiet_since:
                lane.mark = mark
                lane.quiet_since = now
            quiet_s = now - lane.quiet_since
            if lane.notes and quiet_s >= config.LEASE_IDLE_S:
                self._tell_notes(lane)
            is_idle = not lane.unanswered and not lane.eof
            if is_idle and quiet_s >= self._idle_s:
                if lane.state is OPEN:
                    self.end(lane)
                else:
                    lane.state = DRAINING
                    self._closed(lane)
                continue
            if lane.notes:
                left_s = config.LEASE_IDLE_S - quiet_s
            elif is_idle:
                left_s = self._idle_s - quiet_s
            elif lane.unanswered:  # nobody may say when it has been answered: look now and then
                left_s = self._idle_s
            else:
                continue
            left_s = max(0.0, left_s)
            next_s = left_s if next_s is None else min(next_s, left_s)
        return next_s

    # ------------------------------------------------------------------ checks

    def check(self) -> None:
        """Assert all that the module's docstring says must hold."""
        for number, lane in self.lanes.items():
            assert number == lane.number and lane.state is not OVER
            assert lane.taken <= lane.received
            assert lane.state is not EXPECTED or not lane.received
            assert lane.state is not DRAINING or lane.unanswered, "LaneOver is due"
            assert lane.kept.keys() <= set(lane.order)
            assert not lane.unanswered.keys() & set(lane.order)
            assert not lane.publish & set(lane.kept), "the node waits for what is here"
            if self.is_blocked and lane.state is OPEN:
                assert lane.received == lane.taken, "something waits behind a task that waits"
            waiting = sum(work.lane is lane for work in self.queue)
            held = sum(work.lane is lane for g in self.gates.values() for work in g.early.values())
            assert waiting + held <= len(lane.unanswered)
        for gate in self.gates.values():
            assert all(sequence > gate.next for sequence in gate.early)
            assert all(sequence > gate.next for sequence in gate.skipped)
            assert self._is_actor
        assert all(work.lane is None or work.lane.unanswered for work in self.queue)
