"""What a callee does with its lanes: what it takes, keeps, publishes and hands back, and when."""

from __future__ import annotations

from typing import Any

import pytest

from skate import config
from skate import messages as m
from skate.error_records import ErrorRecord, decode_error, encode_error
from skate.ids import FIRST_RETURN
from skate.spec import FORMAT_ERROR, FORMAT_PICKLE, CallTemplate
from skate.states import TaskState
from skate.worker.lane_server import CalleeLane, LaneServer, Work

CALLER = b"caller7"
TASK = CallTemplate("task", b"f" * 16, "f", max_retries=3)
METHOD = CallTemplate("method", b"", "A.g", method="g")
ONE, TWO, THREE, FOUR = (bytes([number]) * 16 for number in range(1, 5))
DATA = FORMAT_PICKLE + b"value"
LARGE = FORMAT_PICKLE + bytes(config.LANE_VALUE_BYTES)
ERROR = FORMAT_ERROR + encode_error(
    ErrorRecord("TaskError", "no", fields={"cause_type": "KeyError"})
)


class Callee:
    """A server, and what a worker does with it."""

    def __init__(self, *, is_actor: bool = False) -> None:
        self.server = LaneServer(is_actor=is_actor)
        self.spec = METHOD if is_actor else TASK

    def open(self, number: int = 1, caller: bytes = CALLER, first: int = -1) -> CalleeLane:
        self.server.on_expected(m.LaneExpected(number, caller, first))
        lane = self.server.on_hello(m.LaneHello(number, caller))
        assert lane is not None
        self.server.on_template(lane, m.RegisterTemplate(0, self.spec))
        return lane

    def call(self, lane: CalleeLane, task_id: bytes, sequence: int = -1, **more: Any) -> None:
        more.setdefault("seen", 0)
        self.server.on_calls(lane, [m.Call(task_id, sequence, 0, b"", **more)])
        self.server.check()

    def run(self, data: bytes = DATA, **more: Any) -> bytes:
        """Run the next; which."""
        work = self.next()
        failed = data[:1] == FORMAT_ERROR
        done = m.Done(work.run.task_id, 0, 1.0, 2.0, data, failed=failed, **more)
        self.server.outcome(work, done)
        self.server.check()
        return work.run.task_id

    def next(self) -> Work:
        work = self.server.next()
        assert work is not None
        return work

    def queued(self) -> list[bytes]:
        return [work.run.task_id for work in self.server.queue]

    def told(self) -> list[Any]:
        outbox: list[Any] = []
        self.server.take(outbox)
        self.server.check()
        return outbox


def sent(lane: CalleeLane) -> list[Any]:
    out, lane.out = lane.out, []
    return out


# ---------------------------------------------------------------------------------- calls


def test_a_call_runs_and_is_answered_on_the_lane() -> None:
    callee = Callee()
    lane = callee.open()
    callee.call(lane, ONE, depth=2)
    assert callee.run() == ONE
    assert sent(lane) == [m.Outcome(ONE, DATA)] and callee.told() == []
    assert lane.notes == [
        m.LaneRow(ONE, "f", "task", 1.0, 2.0, int(TaskState.FINISHED), "", len(DATA), 2)
    ]


def test_a_failure_is_an_answer_and_its_row_names_the_error() -> None:
    callee = Callee()
    lane = callee.open()
    callee.call(lane, ONE)
    callee.run(ERROR)
    assert sent(lane) == [m.Outcome(ONE, ERROR)]
    assert lane.notes[0].state == TaskState.FAILED and lane.notes[0].error_type == "KeyError"


@pytest.mark.parametrize(
    "done",
    [
        {"data": LARGE},
        {"data": b"", "results": [m.Result(m.Value(DATA), [b"r" * 20])]},
        {"data": b"", "results": [m.Result(m.Value(b"", 4096, 1 << 20))]},
    ],
)
def test_what_does_not_ride_goes_to_the_node_first(done: dict[str, Any]) -> None:
    callee = Callee()
    lane = callee.open()
    callee.call(lane, ONE)
    callee.run(**done)
    results = done.get("results") or [m.Result(m.Value(LARGE))]
    assert callee.told() == [m.LaneResult(1, ONE, results[0], False, "f")]
    assert sent(lane) == [m.Outcome(ONE, b"", m.AT_NODE)] and lane.owes_node


def test_rows_leave_in_batches() -> None:
    callee = Callee()
    lane = callee.open()
    for number in range(config.LANE_NOTES):
        callee.call(lane, number.to_bytes(16, "big"), seen=number)
        assert callee.told() == []
        callee.run()
    (notes,) = callee.told()
    assert len(notes.rows) == config.LANE_NOTES and lane.notes == []


def test_a_stranger_is_not_let_in() -> None:
    server = Callee().server
    server.on_expected(m.LaneExpected(1, CALLER))
    assert server.on_hello(m.LaneHello(1, b"another")) is None
    assert server.on_hello(m.LaneHello(2, CALLER)) is None
    assert server.on_hello(m.LaneHello(1, CALLER)) is not None
    assert server.on_hello(m.LaneHello(1, CALLER)) is None


# ---------------------------------------------------------------------------------- kept results


def test_results_are_kept_until_they_are_read() -> None:
    callee = Callee()
    lane = callee.open()
    for task_id in (ONE, TWO):
        callee.call(lane, task_id)
        callee.run()
    assert list(lane.kept) == [ONE, TWO]
    callee.call(lane, THREE, seen=1)
    callee.next()
    assert list(lane.kept) == [TWO]


def test_a_task_takes_its_input_from_the_lane_before_it_is_dropped() -> None:
    callee = Callee()
    lane = callee.open()
    callee.call(lane, ONE)
    callee.call(lane, TWO, dependencies=[ONE + FIRST_RETURN], values=[b""])
    callee.run()
    callee.call(lane, THREE, seen=1)  # read by now, but the second has not begun
    work = callee.next()
    assert work.run.task_id == TWO and work.run.values == [m.Value(DATA)]


def test_a_task_whose_input_is_not_here_is_refused() -> None:
    callee = Callee()
    lane = callee.open()
    callee.call(lane, ONE)
    callee.call(lane, TWO, dependencies=[ONE + FIRST_RETURN], values=[b""])
    callee.call(lane, THREE, dependencies=[TWO + FIRST_RETURN], values=[b""])
    callee.run(LARGE)
    assert callee.server.next() is None
    assert [(each.task_id, each.kind) for each in sent(lane)] == [
        (ONE, m.AT_NODE),
        (TWO, m.REFUSED),
        (THREE, m.REFUSED),
    ]
    assert lane.taken == 3 and not lane.unanswered


def test_a_task_whose_input_is_an_error_fails_with_it_and_has_a_row() -> None:
    callee = Callee()
    lane = callee.open()
    callee.call(lane, ONE)
    callee.call(lane, TWO, dependencies=[ONE + FIRST_RETURN], values=[b""])
    callee.run(ERROR)
    assert callee.server.next() is None
    assert decode_error(sent(lane)[1].data[1:]).chain == ["f"]
    assert [row.state for row in lane.notes] == [TaskState.FAILED] * 2


def test_a_promoted_result_is_published_now_or_when_it_is_there() -> None:
    callee = Callee()
    lane = callee.open()
    callee.call(lane, ONE)
    callee.run()
    callee.call(lane, TWO)
    callee.server.on_publish(m.Publish(1, [ONE, TWO, THREE]))
    assert [each.task_id for each in callee.told()] == [ONE]
    callee.run()
    assert [each.task_id for each in callee.told()] == [TWO]
    callee.call(lane, THREE)  # it comes behind the question
    callee.run()
    assert [each.task_id for each in callee.told()] == [THREE]
    assert [each.task_id for each in sent(lane)] == [ONE, TWO, THREE]


def test_what_was_read_is_not_published_as_its_caller_has_sent_it() -> None:
    callee = Callee()
    lane = callee.open()
    callee.call(lane, ONE)
    callee.run()
    callee.call(lane, TWO, seen=1)
    callee.run()
    callee.server.on_publish(m.Publish(1, [ONE]))
    assert callee.told() == [] and not lane.publish


# ---------------------------------------------------------------------------------- ends


def test_a_revoked_task_lane_hands_back_what_has_not_begun() -> None:
    callee = Callee()
    lane = callee.open()
    for task_id in (ONE, TWO, THREE):
        callee.call(lane, task_id)
    work = callee.next()
    callee.server.on_revoke(1)
    assert sent(lane) == [m.LaneEnds(1)] and callee.server.next() is None
    callee.call(lane, FOUR)  # it has crossed the end
    assert callee.told() == []
    callee.server.outcome(work, m.Done(ONE, 0, 1.0, 2.0, DATA))
    assert sent(lane) == [m.Outcome(ONE, DATA)]
    notes, over = callee.told()
    assert isinstance(notes, m.LaneNotes) and over == m.LaneOver(1)
    callee.server.on_revoke(1)
    assert callee.told() == []


def test_a_revoked_actor_lane_runs_all_that_it_has_received() -> None:
    callee = Callee(is_actor=True)
    lane = callee.open(first=0)
    callee.call(lane, ONE, 0)
    callee.call(lane, TWO, 1)
    callee.server.on_revoke(1)
    assert sent(lane) == [m.LaneEnds(2)]
    assert [callee.run(), callee.run()] == [ONE, TWO]
    assert callee.told()[-1] == m.LaneOver(1)


def test_a_revoked_lane_whose_caller_has_not_come_is_over() -> None:
    callee = Callee()
    callee.server.on_expected(m.LaneExpected(1, CALLER))
    callee.server.on_revoke(1)
    assert callee.told() == [m.LaneOver(1)]
    assert callee.server.on_hello(m.LaneHello(1, CALLER)) is None


def test_what_waits_behind_a_long_task_goes_back_and_the_node_is_told() -> None:
    callee = Callee()
    lane = callee.open()
    callee.call(lane, ONE)
    work = callee.next()
    callee.server.hand_back()
    assert sent(lane) == []  # nothing waits: the lane goes on
    callee.call(lane, TWO)
    callee.server.long(work, 1.0)
    callee.server.long(work, 1.0)
    callee.server.hand_back()
    assert callee.told() == [m.LaneBegun(1, ONE, "f", 1.0, 1)]
    assert sent(lane) == [m.LaneEnds(1)]


def test_a_task_that_waits_keeps_its_lane_until_something_comes_behind_it() -> None:
    callee = Callee()
    lane = callee.open()
    callee.call(lane, ONE)
    callee.next()
    callee.server.block()
    assert sent(lane) == []
    callee.call(lane, TWO)
    assert sent(lane) == [m.LaneEnds(1)] and not callee.queued()


def test_an_actor_that_waits_gives_nothing_back() -> None:
    callee = Callee(is_actor=True)
    lane = callee.open(first=0)
    callee.call(lane, ONE, 0)
    callee.next()
    callee.server.block()
    callee.call(lane, TWO, 1)
    assert sent(lane) == [] and callee.queued() == [TWO]


def test_an_idle_lane_ends_and_first_tells_its_rows() -> None:
    callee = Callee()
    lane = callee.open()
    callee.call(lane, ONE)
    callee.run()
    sent(lane)
    assert callee.server.tick(10.0) == pytest.approx(config.LEASE_IDLE_S)
    assert callee.server.tick(10.0 + config.LEASE_IDLE_S / 2) is not None
    assert callee.told() == []
    assert callee.server.tick(10.0 + config.LEASE_IDLE_S * 1.01) is None
    assert [type(message).__name__ for message in callee.told()] == ["LaneNotes", "LaneOver"]
    assert sent(lane) == [m.LaneEnds(1)]


def test_an_idle_actor_lane_tells_its_rows_soon_and_ends_much_later() -> None:
    callee = Callee(is_actor=True)
    lane = callee.open()
    callee.call(lane, ONE)
    callee.run()
    callee.server.tick(10.0)
    left_s = callee.server.tick(10.0 + config.LEASE_IDLE_S * 1.01)
    assert [type(message).__name__ for message in callee.told()] == ["LaneNotes"]
    assert left_s == pytest.approx(config.ACTOR_LANE_IDLE_S, abs=0.1)
    callee.server.tick(10.0 + config.ACTOR_LANE_IDLE_S * 1.01)
    assert callee.told() == [m.LaneOver(1)]
    assert lane.number not in callee.server.lanes


def test_rows_do_not_wait_for_a_call_that_runs_for_ever_nor_have_anybody_look_often() -> None:
    callee = Callee(is_actor=True)
    lane = callee.open()
    callee.call(lane, ONE)
    callee.next()
    callee.call(lane, TWO)
    callee.run()
    callee.server.tick(10.0)
    left_s = callee.server.tick(10.0 + config.LEASE_IDLE_S * 1.01)
    assert [type(message).__name__ for message in callee.told()] == ["LaneNotes"]
    assert left_s is not None and left_s >= 1
    callee.server.tick(10.0 + config.ACTOR_LANE_IDLE_S * 1.01)
    assert lane.number in callee.server.lanes


def test_rows_of_a_call_that_is_answered_while_all_rest_are_told_and_its_lane_ends() -> None:
    """By a thread or a coroutine: nobody takes anything in when it ends."""
    callee = Callee(is_actor=True)
    lane = callee.open()
    callee.call(lane, ONE)
    work = callee.next()
    now = 10.0
    left_s = callee.server.tick(now)
    callee.server.outcome(work, m.Done(ONE, 0, 1.0, 2.0, DATA))
    while left_s is not None and now < 60.0:
        now += left_s + 0.001
        left_s = callee.server.tick(now)
    assert [type(message).__name__ for message in callee.told()] == ["LaneNotes", "LaneOver"]
    assert lane.number not in callee.server.lanes


def test_the_node_is_not_told_that_a_call_runs_which_has_ended() -> None:
    callee = Callee()
    lane = callee.open()
    callee.call(lane, ONE)
    work = callee.next()
    callee.server.outcome(work, m.Done(ONE, 0, 1.0, 2.0, DATA))
    callee.server.long(work, 1.0)
    assert callee.told() == []


def test_calls_of_a_dead_caller_run_and_its_lane_stays_until_it_is_revoked() -> None:
    callee = Callee()
    lane = callee.open()
    callee.call(lane, ONE)
    callee.call(lane, TWO)
    callee.server.on_eof(lane)
    assert [callee.run(), callee.run()] == [ONE, TWO]
    assert sent(lane) == [] and callee.told() == []
    callee.server.on_publish(m.Publish(1, [ONE]))
    callee.server.on_revoke(1)
    result, notes, over = callee.told()
    assert result.task_id == ONE and len(notes.rows) == 2 and over == m.LaneOver(1)


def test_a_process_that_is_to_end_runs_what_it_has_and_ends_its_lanes() -> None:
    callee = Callee(is_actor=True)
    lane = callee.open(1)
    callee.server.on_expected(m.LaneExpected(2, b"second7"))
    callee.call(lane, ONE)
    callee.server.retire()
    assert callee.told() == [m.LaneOver(2)] and sent(lane) == [m.LaneEnds(1)]
    callee.run()
    assert callee.told()[-1] == m.LaneOver(1)


def test_a_process_that_leaves_runs_nothing_more_and_says_nothing_on_its_lanes() -> None:
    callee = Callee(is_actor=True)
    lane = callee.open(first=0)
    callee.call(lane, ONE, 0)
    callee.call(lane, TWO, 1)
    work = callee.next()
    callee.server.leave()
    callee.server.outcome(work, m.Done(ONE, 0, 1.0, 2.0, ERROR, failed=True))
    callee.call(lane, THREE, 2)  # it was on its way
    assert callee.server.next() is None and sent(lane) == [m.Outcome(ONE, ERROR)]


# ---------------------------------------------------------------------------------- gates


def run_of(task_id: bytes, sequence: int, caller: bytes = CALLER) -> m.Run:
    return m.Run(task_id, 0, 0, b"", sequence=sequence, caller=caller)


def test_a_gate_brings_both_ways_into_order() -> None:
    callee = Callee(is_actor=True)
    lane = callee.open(first=4)
    callee.call(lane, TWO, 5)
    callee.call(lane, FOUR, 7)
    assert callee.queued() == []
    callee.server.on_run(run_of(ONE, 4), METHOD)
    assert callee.queued() == [ONE, TWO]
    callee.server.on_run(run_of(THREE, 6), METHOD)
    assert callee.queued() == [ONE, TWO, THREE, FOUR]


def test_one_callers_gate_holds_nobody_else_back() -> None:
    callee = Callee(is_actor=True)
    lane, other = callee.open(1, first=0), callee.open(2, b"second7", 0)
    callee.call(lane, ONE, 1)
    callee.call(other, TWO, 0)
    callee.server.on_run(m.Run(THREE, 0, 0, b""), METHOD)  # of a caller without a gate
    assert callee.queued() == [TWO, THREE]


def test_a_number_that_will_not_come_is_skipped_before_or_after() -> None:
    callee = Callee(is_actor=True)
    lane = callee.open(first=0)
    callee.server.on_skipped(m.CallSkipped(CALLER, 1))
    callee.call(lane, ONE, 0)
    callee.call(lane, TWO, 2)
    callee.call(lane, THREE, 4)
    assert callee.queued() == [ONE, TWO]
    callee.server.on_skipped(m.CallSkipped(CALLER, 3))
    assert callee.queued() == [ONE, TWO, THREE]


def test_a_call_that_is_repeated_runs_at_once() -> None:
    callee = Callee(is_actor=True)
    lane = callee.open(first=3)
    callee.call(lane, TWO, 4)
    callee.server.on_run(run_of(ONE, 1), METHOD)
    assert callee.queued() == [ONE]


@pytest.mark.parametrize("eof_first", [True, False])
def test_a_gate_opens_when_neither_way_can_bring_more(eof_first: bool) -> None:
    callee = Callee(is_actor=True)
    lane = callee.open(first=0)
    callee.call(lane, ONE, 2)
    callee.call(lane, TWO, 4)
    if eof_first:
        callee.server.on_eof(lane)
        assert callee.queued() == []
        callee.server.on_skipped(m.CallSkipped(CALLER, -1))
    else:
        callee.server.on_skipped(m.CallSkipped(CALLER, -1))
        assert callee.queued() == []
        callee.server.on_eof(lane)
    assert callee.queued() == [ONE, TWO] and not callee.server.gates


def test_a_caller_that_died_before_it_came_does_not_keep_its_gate_shut() -> None:
    callee = Callee(is_actor=True)
    callee.server.on_expected(m.LaneExpected(1, CALLER, 0))
    callee.server.on_run(run_of(ONE, 1), METHOD)
    callee.server.on_skipped(m.CallSkipped(CALLER, -1))
    assert callee.queued() == []
    callee.server.on_revoke(1)
    assert callee.queued() == [ONE]


def test_a_second_lane_finds_the_gate_of_the_first() -> None:
    callee = Callee(is_actor=True)
    lane = callee.open(1, first=0)
    callee.call(lane, ONE, 0)
    callee.run()
    callee.server.on_revoke(1)
    second = callee.open(2, first=9)
    callee.call(second, TWO, 1)
    assert callee.queued() == [TWO]
