"""What a caller does with its lanes: which calls ride, who knows a result, what goes back."""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from skate import config
from skate import messages as m
from skate.client import lane_book
from skate.client.lane_book import CallerLane, LaneBook, rides, values_of
from skate.ids import FIRST_RETURN, handle_id
from skate.objects.reference_counter import ReferenceCounter
from skate.spec import FORMAT_PICKLE, CallTemplate

ACTOR = b"a" * 16
TASK = CallTemplate("task", b"f" * 16, "f", demand=(("CPU", 10000),), max_retries=3)
OTHER = CallTemplate("task", b"g" * 16, "g", demand=(("CPU", 20000),), max_retries=3)
METHOD = CallTemplate("method", b"", "A.g", method="g")
FUNCTION = m.RegisterFunction(b"f" * 16, b"code", "f")
ONE, TWO, THREE, FOUR = (bytes([number]) * 16 for number in range(1, 5))
DATA = FORMAT_PICKLE + b"value"


def ref(task_id: bytes) -> bytes:
    return task_id + FIRST_RETURN


class Values:
    def __init__(self) -> None:
        self.here: dict[bytes, bytes] = {}

    def data_here(self, object_id: bytes) -> bytes:
        return self.here[object_id]

    def plain(self, object_id: bytes) -> bytes | None:
        return self.here.get(object_id)


class Caller:
    """A book with templates 0 (TASK), 1 (METHOD) and 2 (OTHER), and what a runtime does with it."""

    def __init__(self) -> None:
        self.references = ReferenceCounter()
        self.values = Values()
        self.book = LaneBook(b"caller7", self.references, self.values)
        self.book.register(TASK, FUNCTION)
        self.book.register(METHOD, None)
        self.book.register(OTHER, FUNCTION)

    def open(self, number: int = 1, window: int = 1000, template: int = 0) -> CallerLane:
        return self.book.opened(m.LaneOpen(number, b"w" * 16, b"", template, window))

    def open_actor(self, number: int = 1, window: int = 1000) -> CallerLane:
        return self.book.opened(m.LaneOpen(number, b"w" * 16, ACTOR, -1, window))

    def call(self, lane: CallerLane, task_id: bytes, **more: Any) -> bytes:
        template = 0 if lane.task_class is not None else 1
        self.references.born_here(ref(task_id))
        self.book.send(lane, task_id, template, b"arguments", **more)
        return ref(task_id)

    def answer(self, lane: CallerLane, task_id: bytes, data: bytes = DATA, kind: int = 0) -> None:
        outcomes = [m.Outcome(task_id, data, kind)]
        for ready in values_of(outcomes):
            if ready.object_id in self.references.counts:
                self.values.here[ready.object_id] = ready.data
        self.book.on_outcomes(lane, outcomes)

    def drop(self, *ids: bytes) -> list[bytes]:
        """The last refs go; what is released at once."""
        self.references.journal.extend(ids)
        return self.book.gone(self.references.drain()[1])

    def told(self) -> list[Any]:
        outbox: list[Any] = []
        self.book.take(outbox)
        self.book.check()
        return outbox


# ---------------------------------------------------------------------------------- what rides


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"num_returns": 2}, False),
        ({"num_returns": 0}, False),
        ({"retry_exceptions": True}, False),
        ({"max_retries": 0}, False),
        ({"max_retries": -1}, True),
        ({"max_calls": 1}, False),
        ({"group": b"g" * 16}, False),
        ({"demand": (("CPU", 10000), ("GPU", 10000))}, False),
        ({"kind": "actor"}, False),
    ],
)
def test_which_templates_ride(changes: dict[str, Any], expected: bool) -> None:
    fields = {"kind": "task", "function_id": b"f" * 16, "name": "f", "max_retries": 3, **changes}
    assert rides(CallTemplate(**fields), 100) is expected


def test_a_task_whose_function_would_fill_the_socket_goes_by_the_switch() -> None:
    assert not rides(TASK, config.LANE_FUNCTION_BYTES + 1)


def test_a_method_rides_whatever_its_class_retries() -> None:
    assert rides(METHOD, 0)
    assert not rides(CallTemplate("method", b"", "A.g", num_returns=2), 0)


def test_the_first_call_brings_its_template_and_function_once() -> None:
    caller = Caller()
    lane = caller.open()
    caller.call(lane, ONE)
    caller.call(lane, TWO)
    kinds = [type(message).__name__ for message in lane.out]
    assert kinds == ["LaneHello", "RegisterFunction", "RegisterTemplate", "Call", "Call"]


def test_a_full_lane_takes_no_more() -> None:
    caller = Caller()
    lane = caller.open_actor(window=1)
    assert caller.book.actor_lane(ACTOR) is lane
    caller.call(lane, ONE, sequence=0)
    assert caller.book.actor_lane(ACTOR) is None
    caller.answer(lane, ONE)
    assert caller.book.actor_lane(ACTOR) is lane


def test_one_by_one_goes_to_the_first_lane_and_a_burst_to_all_in_chunks() -> None:
    caller = Caller()
    first, second = caller.open(1), caller.open(2)
    task_class = caller.book.task_classes[0]
    assert task_class is not None
    number = 0

    def submit() -> CallerLane:
        nonlocal number
        lane = caller.book.task_lane(task_class)
        assert lane is not None
        number += 1
        caller.call(lane, number.to_bytes(16, "big"))
        return lane

    for _ in range(3):
        assert submit() is first
        caller.answer(first, number.to_bytes(16, "big"))
    went = [submit() for _ in range(4 * config.LANE_CHUNK_CALLS)]
    assert went[: config.LANE_CHUNK_CALLS] == [first] * config.LANE_CHUNK_CALLS
    assert len(first.unanswered) == len(second.unanswered) == 2 * config.LANE_CHUNK_CALLS


def test_a_worker_is_asked_for_after_some_tasks_and_then_not_at_once_again() -> None:
    caller = Caller()
    task_class = caller.book.task_classes[0]
    assert task_class is not None
    for _ in range(config.LEASE_AFTER_TASKS - 1):
        caller.book.ask(task_class, 0, 1.0)
    assert caller.told() == []
    caller.book.ask(task_class, 0, 1.0)
    caller.book.ask(task_class, 0, 1.0)
    assert caller.told() == [m.LaneWanted(0, 0)]
    caller.book.ask(task_class, 0, 1.0 + config.LEASE_ASK_AGAIN_S)
    assert caller.told() == [m.LaneWanted(0, 0)]


def test_one_more_worker_is_asked_for_only_if_those_there_are_loaded() -> None:
    caller = Caller()
    lane = caller.open()
    task_class = caller.book.task_classes[0]
    assert task_class is not None
    for number in range(config.LANE_LOAD_TASKS + 1):
        caller.book.ask(task_class, 0, 1.0)
        assert caller.told() == []
        assert caller.book.task_lane(task_class) is lane
        caller.call(lane, number.to_bytes(16, "big"))
    caller.book.ask(task_class, 0, 1.0)
    assert caller.told() == [m.LaneWanted(0, 1)]


def test_values_ride_if_they_are_here_and_plain() -> None:
    caller = Caller()
    caller.open_actor()
    put = b"p" * 20
    assert caller.book.values_for([put], None) is None
    caller.values.here[put] = DATA
    assert caller.book.values_for([put, put], None) == (None, [DATA, DATA])
    caller.values.here[put] = bytes(config.LANE_VALUE_BYTES)
    assert caller.book.values_for([put, put], None) is None


def test_a_value_to_come_rides_by_name_on_its_own_lane_for_tasks_only() -> None:
    caller = Caller()
    lane, other = caller.open(1), caller.open(2)
    task_class, other_class = caller.book.task_classes[0], caller.book.task_classes[2]
    one, two = caller.call(lane, ONE), caller.call(other, TWO)
    assert caller.book.values_for([one], task_class) == (lane, [b""])
    assert caller.book.values_for([one, two], task_class) is None  # of two lanes
    assert caller.book.values_for([one], other_class) is None
    assert caller.book.values_for([one], None) is None  # of an actor's call
    caller.answer(lane, ONE, b"", m.AT_NODE)
    assert caller.book.values_for([one], task_class) is None


# ---------------------------------------------------------------------------------- who knows


def test_nothing_is_said_of_a_result_that_nobody_else_has_heard_of() -> None:
    caller = Caller()
    lane = caller.open()
    one = caller.call(lane, ONE)
    caller.answer(lane, ONE)
    assert caller.drop(one) == [] and caller.told() == [] and not caller.book.local


def test_a_ref_dropped_before_its_answer_is_forgotten_with_it() -> None:
    caller = Caller()
    lane = caller.open()
    one = caller.call(lane, ONE)
    assert caller.drop(one) == []
    caller.answer(lane, ONE)
    assert caller.told() == [] and not caller.book.local


def test_a_value_that_is_here_leaves_with_its_ref_once() -> None:
    caller = Caller()
    lane = caller.open()
    one = caller.call(lane, ONE)
    caller.answer(lane, ONE)
    caller.book.escape(one)
    caller.book.escape(one)
    assert caller.told() == [m.Promote(one, DATA)]
    assert caller.drop(one) == [one]


def test_a_value_to_come_is_promised_and_sent_on() -> None:
    caller = Caller()
    lane = caller.open()
    one = caller.call(lane, ONE)
    caller.book.escape(one)
    assert caller.told() == [m.Promote(one, b"", 1)]
    assert caller.drop(one) == [one]  # others may wait for it all the same
    caller.answer(lane, ONE)
    assert caller.told() == [m.Fulfil(one, DATA)] and not caller.book.promised


def test_read_is_not_said_before_the_node_has_the_value() -> None:
    caller = Caller()
    lane = caller.open()
    caller.book.escape(caller.call(lane, ONE))
    caller.answer(lane, ONE)
    caller.call(lane, TWO)
    assert lane.owes_node and lane.out[-1].seen == 0
    lane.owes_node = False  # the kernel has it
    caller.call(lane, THREE)
    assert lane.out[-1].seen == 1


def test_what_the_node_has_is_released_when_the_node_says_so() -> None:
    caller = Caller()
    lane = caller.open()
    one = caller.call(lane, ONE)
    caller.answer(lane, ONE, b"", m.AT_NODE)
    assert caller.drop(one) == []  # Release now could overtake the result
    caller.book.ready_from_node(one)
    assert caller.told() == [m.Release([one])] and not caller.book.local


def test_the_node_may_be_quicker_than_the_lane() -> None:
    caller = Caller()
    lane = caller.open()
    one = caller.call(lane, ONE)
    caller.book.ready_from_node(one)
    caller.answer(lane, ONE, b"", m.AT_NODE)
    assert caller.told() == [] and not caller.book.local and not caller.book.due
    assert caller.drop(one) == [one]


def test_a_ref_to_what_the_node_has_escapes_before_the_node_says_so() -> None:
    caller = Caller()
    lane = caller.open()
    one = caller.call(lane, ONE)
    caller.answer(lane, ONE, b"", m.AT_NODE)
    caller.book.escape(one)
    assert caller.told() == [m.Promote(one, b"", 1)]
    assert caller.drop(one) == [one]
    caller.book.ready_from_node(one)
    assert caller.told() == []


def test_values_that_ride_stay_until_the_answer() -> None:
    caller = Caller()
    lane = caller.open()
    one = caller.call(lane, ONE)
    caller.answer(lane, ONE)
    caller.call(lane, TWO, dependencies=[one], values=[DATA])
    assert caller.drop(one) == [] and one in caller.references.counts
    caller.answer(lane, TWO)
    caller.drop()
    assert one not in caller.references.counts and one not in caller.book.local


# ---------------------------------------------------------------------------------- ends


def test_what_was_not_taken_goes_by_the_switch_at_once_and_in_order() -> None:
    caller = Caller()
    lane = caller.open()
    for task_id in (ONE, TWO, THREE, FOUR):
        caller.call(lane, task_id)
    caller.answer(lane, ONE)
    assert caller.drop(ref(FOUR)) == []
    caller.book.on_end(lane, 2)
    assert caller.told() == [
        m.LaneClosed(1, m.HANDED_BACK, 2),
        m.Submit(THREE, 0, b"arguments", None, None, 0, 1),
        m.Submit(FOUR, 0, b"arguments", None, None, 0, 1),
        m.Release([ref(FOUR)]),  # it runs though nobody waits
    ]
    caller.answer(lane, TWO)
    assert caller.told() == [m.LaneClosed(1, m.OVER, 0)]
    caller.book.on_eof(lane)
    assert caller.told() == [] and not caller.book.lanes


def test_a_lane_that_ends_with_nothing_to_come_is_over_at_once() -> None:
    caller = Caller()
    lane = caller.open_actor()
    caller.call(lane, ONE, sequence=7)
    caller.book.on_end(lane, 0)
    assert caller.told() == [
        m.LaneClosed(1, m.OVER, 1),
        m.CallActor(ONE, ACTOR, 7, 1, b"arguments", None, None, True, 1),
    ]
    assert caller.book.actor_lane(ACTOR) is None


def test_a_death_before_the_last_word_hands_over_all_that_is_unanswered() -> None:
    caller = Caller()
    lane = caller.open()
    for task_id in (ONE, TWO, THREE):
        caller.call(lane, task_id)
    caller.book.on_end(lane, 2)
    caller.told()
    caller.answer(lane, TWO)
    caller.book.on_eof(lane)
    assert caller.told() == [
        m.LaneClosed(1, m.LOST, 1),
        m.Submit(ONE, 0, b"arguments", None, None, 0, 1),
    ]


def test_what_the_node_has_answered_is_not_handed_over() -> None:
    caller = Caller()
    lane = caller.open()
    caller.call(lane, ONE)
    caller.book.escape(caller.call(lane, TWO))
    caller.told()
    caller.book.ready_from_node(ref(ONE))
    caller.book.ready_from_node(ref(TWO))
    caller.book.on_eof(lane)
    assert caller.told() == [m.LaneClosed(1, m.LOST, 0)]


def test_inputs_are_promoted_before_the_call_that_needs_them() -> None:
    caller = Caller()
    lane = caller.open()
    one = caller.call(lane, ONE)
    caller.answer(lane, ONE)
    two = caller.call(lane, TWO)
    caller.call(lane, THREE, dependencies=[one, two], values=[DATA, b""])
    caller.call(lane, FOUR, dependencies=[ref(THREE)], values=[b""])
    caller.book.on_end(lane, 2)
    assert caller.told() == [
        m.Promote(one, DATA),
        m.Promote(two, b"", 1),  # taken, and still to come
        m.LaneClosed(1, m.HANDED_BACK, 2),
        m.Submit(THREE, 0, b"arguments", [one, two], None, 0, 1),
        m.Submit(FOUR, 0, b"arguments", [ref(THREE)], None, 0, 1),
    ]


def test_a_refused_task_goes_by_the_switch_alone() -> None:
    caller = Caller()
    lane = caller.open()
    one = caller.call(lane, ONE)
    caller.call(lane, TWO, dependencies=[one], values=[b""])
    caller.answer(lane, ONE, b"", m.AT_NODE)
    caller.answer(lane, TWO, b"", m.REFUSED)
    assert caller.told() == [
        m.Promote(one, b"", 1),
        m.Submit(TWO, 0, b"arguments", [one], None, 0, 1),
    ]
    caller.call(lane, THREE)
    assert lane.out[-1].seen == 2


def test_a_callee_that_cannot_be_reached_is_over() -> None:
    caller = Caller()
    caller.book.not_connected(m.LaneOpen(5, b"w" * 16))
    assert caller.told() == [m.LaneClosed(5, m.OVER, 0)]


def test_a_handle_goes_after_the_last_answer() -> None:
    caller = Caller()
    lane = caller.open_actor()
    caller.references.born_here(handle_id(ACTOR))
    caller.call(lane, ONE, sequence=0)
    assert caller.drop(handle_id(ACTOR)) == []
    caller.answer(lane, ONE)
    assert caller.told() == [] and caller.drop() == [handle_id(ACTOR)]


def test_a_handle_that_comes_back_after_the_last_answer_is_still_held() -> None:
    caller = Caller()
    lane = caller.open_actor()
    caller.references.born_here(handle_id(ACTOR))
    caller.call(lane, ONE, sequence=0)
    caller.drop(handle_id(ACTOR))
    caller.answer(lane, ONE)
    caller.references.journal.append((handle_id(ACTOR),))
    assert caller.references.drain() == ([], [])
    assert caller.drop(handle_id(ACTOR)) == [handle_id(ACTOR)]


def test_a_handle_that_comes_back_is_still_held() -> None:
    caller = Caller()
    lane = caller.open_actor()
    caller.references.born_here(handle_id(ACTOR))
    caller.call(lane, ONE, sequence=0)
    assert caller.drop(handle_id(ACTOR)) == []
    caller.references.journal.append((handle_id(ACTOR),))
    assert caller.book.back(caller.references.drain()[0]) == []
    caller.answer(lane, ONE)
    assert caller.told() == []


def test_a_handle_goes_behind_the_calls_that_are_handed_over() -> None:
    caller = Caller()
    lane = caller.open_actor()
    caller.references.born_here(handle_id(ACTOR))
    caller.call(lane, ONE, sequence=0)
    caller.drop(handle_id(ACTOR))
    caller.book.on_eof(lane)
    assert [type(each).__name__ for each in caller.told()] == ["LaneClosed", "CallActor"]
    assert caller.drop() == [handle_id(ACTOR)]


# ---------------------------------------------------------------------------------- interrupts

_MAY_INTERRUPT = ("CALL", "JUMP_BACKWARD", "RESUME")
"""Instructions after which the interpreter looks for signals."""


class Interrupter:
    """Raises KeyboardInterrupt at the nth point of lane_book.py where Ctrl-C may come."""

    def __init__(self, at: int) -> None:
        self.left = at
        self._last: dict[FrameType, str] = {}

    def __call__(self, frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_filename != lane_book.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            last = self._last.get(frame, "")
            self._last[frame] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            if last.startswith(_MAY_INTERRUPT):
                self.left -= 1
                if self.left == 0:
                    raise KeyboardInterrupt
        return self

    def interrupts(self, step: Callable[[], object]) -> bool:
        """Whether the step was interrupted."""
        sys.settrace(self)
        try:
            step()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(None)
        return False


def _loaded() -> tuple[Caller, CallerLane]:
    caller = Caller()
    lane = caller.open()
    one = caller.call(lane, ONE)
    caller.answer(lane, ONE)
    caller.book.escape(caller.call(lane, TWO))
    caller.call(lane, THREE, dependencies=[one], values=[DATA])
    caller.call(lane, FOUR)
    caller.drop(ref(FOUR))
    caller.told()
    return caller, lane


STEPS: dict[str, Callable[[Caller, CallerLane], object]] = {
    "end": lambda caller, lane: caller.book.on_end(lane, 2),
    "end, nothing to come": lambda caller, lane: caller.book.on_end(lane, 1),
    "death": lambda caller, lane: caller.book.on_eof(lane),
    "promised": lambda caller, lane: caller.answer(lane, TWO),
    "at node": lambda caller, lane: caller.answer(lane, THREE, b"", m.AT_NODE),
    "refused": lambda caller, lane: caller.answer(lane, THREE, b"", m.REFUSED),
    "dropped": lambda caller, lane: caller.answer(lane, FOUR),
    "several": lambda caller, lane: caller.book.on_outcomes(
        lane, [m.Outcome(THREE, DATA), m.Outcome(FOUR, DATA)]
    ),
    "ready": lambda caller, lane: caller.book.ready_from_node(ref(FOUR)),
    "escape": lambda caller, lane: caller.book.escape(ref(ONE)),
}


@pytest.mark.parametrize("name", STEPS)
def test_an_interrupted_step_that_runs_again_has_run_once(name: str) -> None:
    step = STEPS[name]
    caller, lane = _loaded()
    step(caller, lane)
    expected = caller.told()
    expected_journal = list(caller.references.journal)
    points = 0
    while True:
        points += 1
        caller, lane = _loaded()
        if not Interrupter(points).interrupts(lambda c=caller, at=lane: step(c, at)):
            break
        step(caller, lane)
        told = caller.told()
        if name == "promised":  # the node minds the first
            told = told[:1]
        assert told == expected, f"interrupted at point {points}"
        assert list(caller.references.journal) == expected_journal
    assert points > 3, "nothing was interrupted"
