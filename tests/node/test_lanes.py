"""Lanes of actors, as the node sees them: caller and worker are played as messages.

What goes on a lane itself the node does not see; what the two ends tell it comes in any order, as
their lines are not ordered among each other.
"""

from __future__ import annotations

from typing import Any

import pytest

from skate import messages as m
from skate.config import (
    ACTOR_WINDOW_CALLS,
    LANE_LOST_GRACE_S,
    LANE_VALUE_BYTES,
    LANES_PER_PROCESS,
)
from skate.error_records import ErrorRecord, decode_error, encode_error
from skate.ids import return_id
from skate.net.event_batch import TaskEvent, decode_events
from skate.node.actor_router import ActorRouter
from skate.rows import Client
from skate.spec import FORMAT_ERROR
from skate.states import LaneState, TaskState
from tests.node.played_node import KILLED, LARGE, Node, Program, done

KILL_ORDERS = ("word first", "after the connection", "after the burial", "after the restart")


class Scene:
    """A node, a driver, an actor, and by then a lane from the one to the other."""

    def __init__(self, *, lanes: bool = True, **options: Any) -> None:
        self.node = Node(2, lanes=lanes)
        self.driver = Program(self.node, lanes=True)
        self.idle = self.node.came_up(lanes=True)
        self.actor = self.driver.create(**options)
        self.worker = self.born()

    def born(self) -> Client:
        """The actor's next process comes up and constructs it; other workers are slow."""
        self.node.started = [w for w in self.node.started if w.actor is not None]
        worker = self.node.came_up(lanes=True)
        self.node.said(worker)
        attempt = self.node.core.router.actors[self.actor].restarts
        self.node.say(worker, m.Done(self.actor, attempt, 1.0, 1.0, b"\x03"))
        return worker

    def call(self, caller: Program | None = None, **options: Any) -> bytes:
        """A call by the node."""
        return (caller or self.driver).call(self.actor, **options)

    def called(self, *results: bytes) -> None:
        """The process has run these."""
        self.node.say(self.worker, *(done(result) for result in results))

    def expected(self, caller: Program | None = None) -> m.LaneExpected:
        """Two calls, so that the node introduces the caller; what the process was told."""
        self.called(self.call(caller), self.call(caller))
        return next(x for x in self.node.said(self.worker) if isinstance(x, m.LaneExpected))

    def opened(self, caller: Program | None = None) -> int:
        """The number of a lane that is open."""
        number = self.expected(caller).lane
        self.node.say(self.worker, m.LaneListening(number))
        told = self.node.said((caller or self.driver).peer)
        assert m.LaneOpen(number, self.worker.worker.id, self.actor, -1, 1000) in told
        return number

    def on_lane(self, count: int = 1, caller: Program | None = None) -> list[m.CallActor]:
        """Calls that ride; as they would come to the node if they came back."""
        program = caller or self.driver
        calls = []
        for _ in range(count):
            sequence = program.sequences[self.actor]
            program.sequences[self.actor] += 1
            number = program.number("method", max_retries=self.retries)
            task_id = program.ids.next_task()
            calls.append(m.CallActor(task_id, self.actor, sequence, number, b""))
        return calls

    retries = 0

    def back(self, lane: int, how: int, calls: list[m.CallActor]) -> list[Any]:
        """The caller's word, and what follows it."""
        for call in calls:
            call.lane = lane
        return [m.LaneClosed(lane, how, len(calls)), *calls]

    def sent(self, worker: Client | None = None) -> list[int]:
        """The numbers of the calls that the process was sent; -1 if it is not to order them."""
        said = self.node.said(worker or self.worker)
        return [x.sequence for x in said if isinstance(x, m.Run) and x.task_id != self.actor]

    def told(self, kind: type[Any], client: Client) -> list[Any]:
        return [x for x in self.node.said(client) if isinstance(x, kind)]

    @property
    def lanes(self) -> dict[int, Any]:
        return self.node.core.parts.tables.lanes

    def lose(self, worker: Client | None = None) -> None:
        self.node.lose(worker or self.worker)

    def ends(self) -> None:
        """All leave; nothing may be left."""
        for client in [c for c in self.node.core.clients if c.role == "driver"]:
            self.node.core.client_lost(client)
            self.node.turn()
        for worker in list(self.node.core.scheduler.workers.values()):
            if worker.client is not None:
                self.node.lose(worker.client)
        assert not self.lanes
        assert self.node.is_clean()


def ids_of(said: list[Any]) -> list[bytes]:
    return [x.task_id for x in said if isinstance(x, m.Run)]


def errors(said: list[Any]) -> dict[bytes, str]:
    ready = [x for x in said if isinstance(x, m.Ready) and x.data[:1] == FORMAT_ERROR]
    return {x.object_id: decode_error(x.data[1:]).kind for x in ready}


# ---------------------------------------------------------------------------------- introduction


def test_a_caller_is_introduced_after_two_answers_and_once_the_process_listens() -> None:
    scene = Scene()
    first, second = scene.call(), scene.call()
    third = scene.call()
    scene.called(first)
    assert not scene.told(m.LaneExpected, scene.worker)
    scene.called(second)
    submitter = scene.driver.peer.submitter
    assert scene.told(m.LaneExpected, scene.worker) == [m.LaneExpected(1, submitter, 3)]
    assert not scene.told(m.LaneOpen, scene.driver.peer), "nobody listens yet"
    scene.node.say(scene.worker, m.LaneListening(1))
    assert scene.told(m.LaneOpen, scene.driver.peer) == [
        m.LaneOpen(1, scene.worker.worker.id, scene.actor, -1, 1000)
    ]
    scene.called(third)
    assert not scene.told(m.LaneExpected, scene.worker), "one is enough"
    scene.ends()


@pytest.mark.parametrize("silent", ["node", "caller", "worker"])
def test_no_lane_without_the_consent_of_all_three(silent: str) -> None:
    scene = Scene(lanes=silent != "node")
    scene.driver.peer.speaks_lanes = silent != "caller"
    scene.worker.speaks_lanes = silent != "worker"
    for _ in range(5):
        scene.called(scene.call())
    assert not scene.told(m.LaneExpected, scene.worker) and not scene.lanes


def test_no_lane_for_a_driver_on_another_machine_nor_for_an_actors_calls_to_itself() -> None:
    scene = Scene()
    scene.driver.peer.is_remote = True
    for _ in range(3):
        scene.called(scene.call())
    itself = Program(scene.node, scene.worker)
    for _ in range(3):
        scene.called(scene.call(itself))
    assert not scene.lanes


def test_a_line_with_something_undelivered_gets_its_lane_later() -> None:
    scene = Scene()
    pending = scene.driver.submit()
    first, second = scene.call(), scene.call()
    waiting = scene.call(dependencies=[pending])
    scene.called(first, second)
    assert not scene.lanes, "a call of the line waits for its argument"
    scene.node.say(scene.idle, done(pending))
    scene.called(waiting)
    assert scene.told(m.LaneExpected, scene.worker)[0].next == 3
    scene.ends()


def test_a_process_that_cannot_listen_is_not_asked_again_and_calls_go_on() -> None:
    scene = Scene()
    number = scene.expected().lane
    scene.node.say(scene.worker, m.LaneListening(number, "path too long"))
    assert not scene.lanes and not scene.told(m.LaneOpen, scene.driver.peer)
    for _ in range(4):
        scene.called(scene.call())
    assert not scene.lanes
    scene.ends()


def test_a_process_has_lanes_with_so_many_callers_only() -> None:
    scene = Scene()
    for _ in range(LANES_PER_PROCESS + 1):
        other = Program(scene.node, lanes=True)
        scene.called(scene.call(other), scene.call(other))
    assert len(scene.worker.worker.lanes) == LANES_PER_PROCESS


def test_a_caller_that_cannot_connect_has_the_lane_revoked() -> None:
    scene = Scene()
    number = scene.opened()
    scene.node.say(scene.driver.peer, m.LaneClosed(number, m.OVER, 0))
    assert scene.told(m.LaneRevoke, scene.worker) == [m.LaneRevoke(number)]
    assert number in scene.lanes, "only the worker can say that it runs nothing of it"
    scene.node.say(scene.worker, m.LaneOver(number))
    assert not scene.lanes
    # The process has the caller's gate: it is told numbers for as long as it lives.
    result = scene.call()
    assert scene.sent() == [2]
    scene.called(result)
    scene.ends()


def test_a_lane_that_has_idled_out_is_opened_anew_once_the_next_number_is_known() -> None:
    scene = Scene()
    number = scene.opened()
    scene.on_lane(50)  # all answered there: the node has not heard of any
    scene.node.say(scene.worker, m.LaneOver(number))
    scene.node.say(scene.driver.peer, m.LaneClosed(number, m.OVER, 0))
    assert not scene.lanes
    first, second = scene.call(), scene.call()
    assert scene.sent() == [52, 53]
    scene.called(first, second)
    again = scene.told(m.LaneExpected, scene.worker)
    assert [x.lane for x in again] == [number + 1] and again[0].next == 54
    scene.ends()


# ---------------------------------------------------------------------------------- order


def test_calls_by_the_node_carry_their_number_from_the_lane_on() -> None:
    """Scenario 1: a lane is opened in the middle of a burst."""
    scene = Scene()
    burst = [scene.call() for _ in range(4)]
    assert scene.sent() == [-1] * 4
    scene.called(*burst[:2])
    burst += [scene.call(), scene.call()]
    said = scene.node.said(scene.worker)
    assert [type(x) for x in said] == [m.LaneExpected, m.Run, m.Run], "the gate comes first"
    assert said[0].next == 4
    assert [(x.sequence, x.caller) for x in said[1:]] == [
        (4, scene.driver.peer.submitter),
        (5, scene.driver.peer.submitter),
    ]
    scene.called(*burst[2:])
    scene.ends()


def test_an_actor_out_of_order_has_no_gate() -> None:
    scene = Scene(in_order=False)
    assert scene.expected().next == -1
    scene.call()
    assert scene.sent() == [-1]
    scene.ends()


def test_a_call_that_waits_for_its_argument_holds_back_later_ones_of_its_caller_only() -> None:
    """Scenario 2: numbers 2 and 4 ride, 3 waits in the node, 5 goes behind it."""
    scene = Scene()
    scene.opened()
    pending = scene.driver.submit()
    scene.on_lane()
    waiting = scene.call(dependencies=[pending])
    scene.on_lane()
    behind = scene.call()
    assert scene.sent() == []
    other = Program(scene.node, lanes=True)
    free = scene.call(other)
    assert ids_of(scene.node.said(scene.worker)) == [free[:16]]
    scene.node.say(scene.idle, done(pending))
    assert scene.sent() == [3, 5]
    scene.called(waiting, behind, free)
    scene.ends()


def test_the_gate_is_told_of_a_call_that_fails_before_it_is_delivered() -> None:
    scene = Scene()
    scene.opened()
    pending = scene.driver.submit(max_retries=0)
    waiting = scene.call(dependencies=[pending])
    behind = scene.call()
    record = FORMAT_ERROR + encode_error(ErrorRecord("TaskError", "it raised"))
    scene.node.say(scene.idle, done(pending, data=record, failed=True))
    said = scene.node.said(scene.worker)
    assert m.CallSkipped(scene.driver.peer.submitter, 2) in said
    assert [x.sequence for x in said if isinstance(x, m.Run)] == [3]
    scene.called(behind)
    # One whose argument has failed already never waits at all.
    failed_at_once = scene.call(dependencies=[pending])
    assert scene.told(m.CallSkipped, scene.worker) == [
        m.CallSkipped(scene.driver.peer.submitter, 4)
    ]
    assert {waiting, failed_at_once} <= set(errors(scene.node.said(scene.driver.peer)))
    scene.ends()


def test_lower_numbers_may_come_back_behind_higher_ones() -> None:
    """h: the gate is the authority; the node lets through what it has, the lowest first."""
    scene = Scene()
    number = scene.opened()
    riding = scene.on_lane(2)
    pending = scene.driver.submit()
    waiting = scene.call(dependencies=[pending])
    behind = scene.call()
    scene.node.say(scene.worker, m.LaneOver(number))
    scene.node.say(scene.driver.peer, *scene.back(number, m.OVER, riding))
    assert scene.sent() == [2, 3]
    scene.node.say(scene.idle, done(pending))
    assert scene.sent() == [4, 5]
    scene.called(waiting, behind, *(return_id(call.task_id, 0) for call in riding))
    assert not scene.lanes
    scene.ends()


def test_no_more_is_to_come_of_a_caller_that_has_died_behind_what_it_has_called() -> None:
    """j: else the gate would wait for numbers that died with it."""
    scene = Scene()
    number = scene.opened()
    submitter = scene.driver.peer.submitter
    pending = scene.driver.submit()
    waiting = scene.call(dependencies=[pending])
    scene.driver.peer.job = None  # its job goes on
    scene.node.core.client_lost(scene.driver.peer)
    scene.node.turn()
    assert scene.node.said(scene.worker) == [m.LaneRevoke(number)]
    scene.node.say(scene.idle, done(pending))
    said = scene.node.said(scene.worker)
    assert [x.task_id for x in said if isinstance(x, m.Run)] == [waiting[:16]]
    assert said[-1] == m.CallSkipped(submitter, -1)
    scene.node.say(scene.worker, m.LaneOver(number), done(waiting))
    assert not scene.lanes


# ---------------------------------------------------------------------------------- deaths


def test_a_process_that_dies_while_its_lane_is_idle_leaves_a_line_that_goes_on() -> None:
    """The numbers that were answered on the lane the node has never heard."""
    scene = Scene(max_restarts=1)
    number = scene.opened()
    scene.on_lane(10)
    scene.lose()
    assert scene.lanes[number].state is LaneState.LOST
    scene.node.say(scene.driver.peer, m.LaneClosed(number, m.LOST, 0))
    assert not scene.lanes
    scene.worker = scene.born()
    first, second = scene.call(), scene.call()
    assert scene.sent() == [-1, -1], "a new process has no gate"
    scene.called(first, second)
    assert scene.told(m.LaneExpected, scene.worker)[0].next == 14
    scene.ends()


def test_no_lane_is_opened_by_answers_to_calls_from_before_the_restart() -> None:
    """Which number comes next is not known from those."""
    scene = Scene(max_restarts=1)
    number = scene.opened()
    kept = [scene.call(max_retries=1) for _ in range(3)]
    scene.on_lane(7)
    scene.lose()
    scene.node.say(scene.driver.peer, m.LaneClosed(number, m.LOST, 0))
    scene.worker = scene.born()
    scene.node.say(scene.worker, *(done(result, 1) for result in kept))
    assert not scene.lanes
    scene.called(scene.call())
    assert scene.told(m.LaneExpected, scene.worker)[0].next == 13
    scene.ends()


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize("order", KILL_ORDERS)
def test_calls_lost_with_their_process_are_judged_once_it_is_buried(
    order: str, retries: int
) -> None:
    """Scenarios 3 and 8: lane calls 2, 3 and 6, and 4 and 5 by the node, in number order."""
    scene = Scene(max_restarts=1)
    scene.retries = retries
    number = scene.opened()
    lost = scene.on_lane(2)
    by_node = [scene.call(max_retries=retries) for _ in range(2)]
    lost += scene.on_lane()
    word = scene.back(number, m.LOST, lost)
    peer, worker = scene.driver.peer, scene.worker
    assert worker.worker is not None
    if order == "word first":
        scene.node.say(peer, *word)
        assert not errors(scene.node.said(peer)), "it may live: nothing is decided"
        scene.lose()
    elif order == "after the connection":
        scene.node.core.client_lost(worker)
        scene.node.say(peer, *word)
        assert not errors(scene.node.said(peer))
        scene.node.core.worker_exited(worker.worker, KILLED)
        scene.node.turn()
    else:
        scene.lose()
        if order == "after the restart":
            scene.worker = scene.born()
            assert scene.sent() == [], "its caller's line is held"
        scene.node.say(peer, *word)
    if order != "after the restart":
        scene.worker = scene.born()
    assert not scene.lanes
    runs = scene.told(m.Run, scene.worker)
    in_order = [*lost[:2], *by_node, lost[2]]
    ids = [x.task_id if isinstance(x, m.CallActor) else x[:16] for x in in_order]
    if retries:
        calls = [run for run in runs if run.task_id != scene.actor]
        assert [run.task_id for run in calls] == ids
        assert all(run.attempt == 1 and run.sequence == -1 for run in calls)
        scene.node.say(scene.worker, *(done(return_id(task_id, 0), 1) for task_id in ids))
    else:
        kinds = errors(scene.node.said(peer))
        assert kinds == {return_id(task_id, 0): "ActorUnavailableError" for task_id in ids}
    scene.ends()


def test_only_the_line_of_a_caller_that_has_not_spoken_is_held() -> None:
    """Scenario 9: the process is there again, others go on."""
    scene = Scene(max_restarts=1)
    other = Program(scene.node, lanes=True)
    number, second = scene.opened(), scene.opened(other)
    lost = scene.on_lane()
    behind = scene.call(max_retries=1)
    scene.lose()
    scene.worker = scene.born()
    scene.node.said(scene.worker)
    scene.node.say(other.peer, m.LaneClosed(second, m.LOST, 0))
    free = scene.call(other)
    assert ids_of(scene.node.said(scene.worker)) == [free[:16]]
    assert number in scene.lanes
    # The caller reads at last.
    scene.node.say(scene.driver.peer, *scene.back(number, m.LOST, lost))
    assert ids_of(scene.node.said(scene.worker)) == [behind[:16]]
    scene.ends()


def test_a_caller_that_dies_lets_go_of_its_line() -> None:
    scene = Scene(max_restarts=1)
    number = scene.opened()
    behind = scene.call(max_retries=1)
    scene.lose()
    scene.worker = scene.born()
    assert scene.sent() == [] and number in scene.lanes
    scene.driver.peer.job = None  # its job goes on
    scene.node.core.client_lost(scene.driver.peer)
    scene.node.turn()
    assert ids_of(scene.node.said(scene.worker)) == [behind[:16]], "what it called runs"
    assert not scene.lanes


def test_two_words_of_a_caller_whose_process_died_after_it_handed_back() -> None:
    """g: three were handed back unbegun, one was running."""
    scene = Scene(max_restarts=1)
    number = scene.opened()
    calls = scene.on_lane(4)
    scene.node.say(scene.driver.peer, *scene.back(number, m.HANDED_BACK, calls[1:]))
    assert scene.sent() == [3, 4, 5]
    scene.lose()
    scene.node.say(scene.driver.peer, *scene.back(number, m.LOST, calls[:1]))
    assert errors(scene.node.said(scene.driver.peer)) == {
        return_id(call.task_id, 0): "ActorUnavailableError" for call in calls
    }, "all four were at the process when it died"
    assert not scene.lanes
    scene.ends()


def test_calls_to_an_actor_that_is_dead_for_good_get_its_cause() -> None:
    scene = Scene()
    number = scene.opened()
    calls = scene.on_lane(2)
    early, late = calls[:1], calls[1:]
    word = scene.back(number, m.LOST, calls)
    scene.node.say(scene.driver.peer, *word[:2])
    scene.lose()
    assert scene.lanes, "one is still to come"
    scene.node.say(scene.driver.peer, word[2])
    kinds = errors(scene.node.said(scene.driver.peer))
    assert kinds == {return_id(call.task_id, 0): "ActorDiedError" for call in [*early, *late]}
    assert not scene.lanes
    scene.ends()


def test_a_killed_actor_fails_the_calls_of_its_lanes_at_once() -> None:
    """Scenario 16: kill() waits for no burial."""
    scene = Scene(max_restarts=1)
    number = scene.opened()
    calls = scene.on_lane(2)
    scene.node.say(scene.driver.peer, m.KillActor(scene.actor))
    scene.node.say(scene.driver.peer, *scene.back(number, m.LOST, calls))
    kinds = errors(scene.node.said(scene.driver.peer))
    assert kinds == {return_id(call.task_id, 0): "ActorDiedError" for call in calls}
    scene.lose()
    assert not scene.lanes
    scene.ends()


def test_an_actor_that_leaves_fails_what_its_lane_had_not_answered() -> None:
    """Scenario 16: exit_actor() in the middle of a lane's calls."""
    scene = Scene(max_restarts=1)
    number = scene.opened()
    calls = scene.on_lane(2)
    scene.node.say(scene.worker, m.Leaving("exit_actor() was called"))
    scene.lose()
    scene.node.say(scene.driver.peer, *scene.back(number, m.LOST, calls))
    said = [x for x in scene.node.said(scene.driver.peer) if isinstance(x, m.Ready)]
    texts = [decode_error(x.data[1:]).message for x in said if x.data[:1] == FORMAT_ERROR]
    assert len(texts) == 2 and all("exit_actor() was called" in text for text in texts)
    assert not scene.lanes
    scene.ends()


def test_an_actor_without_handles_ends_and_its_lane_with_it() -> None:
    """Scenario 13: it runs what it has received, then ends; the caller's word may be late."""
    scene = Scene()
    number = scene.opened()
    scene.driver.release(scene.actor + b"\x80\0\0\0")
    assert scene.told(m.Exit, scene.worker)
    scene.node.say(scene.worker, m.LaneOver(number))
    scene.node.lose(scene.worker, 0)
    assert scene.lanes[number].state is LaneState.LOST
    scene.node.say(scene.driver.peer, m.LaneClosed(number, m.OVER, 0))
    assert not scene.lanes
    scene.ends()


def test_a_process_that_lives_without_its_lane_is_killed() -> None:
    """k: user code has closed the descriptor. Its calls must not run beside their retries."""
    scene = Scene(max_restarts=1)
    scene.retries = 1
    number = scene.opened()
    calls = scene.on_lane()
    scene.node.say(scene.driver.peer, *scene.back(number, m.LOST, calls))
    scene.node.core.tick()
    assert not scene.node.killed
    scene.node.core.begin(1_000.0 + 1.1 * LANE_LOST_GRACE_S)
    scene.node.core.tick()
    scene.node.turn()
    assert scene.node.killed == [scene.worker.worker]
    assert ids_of(scene.node.said(scene.worker)) == []
    scene.lose()
    scene.worker = scene.born()
    assert ids_of(scene.node.said(scene.worker)) == [calls[0].task_id]
    scene.ends()


def test_what_a_caller_missed_of_a_lane_that_ended_well_is_judged_at_the_burial_too() -> None:
    """The worker has run it all, and dies before its last outcomes are read."""
    scene = Scene(max_restarts=1)
    scene.retries = 1
    number = scene.opened()
    calls = scene.on_lane()
    scene.node.say(scene.worker, m.LaneOver(number))
    scene.node.say(scene.driver.peer, *scene.back(number, m.LOST, calls))
    assert number in scene.lanes and not ids_of(scene.node.said(scene.worker))
    scene.lose()
    scene.worker = scene.born()
    assert ids_of(scene.node.said(scene.worker)) == [calls[0].task_id]
    assert not scene.lanes
    scene.ends()


def test_the_gate_is_told_that_a_caller_has_died_behind_what_waits_for_room() -> None:
    scene = Scene(detached=True)
    number = scene.opened()
    results = [scene.call() for _ in range(ACTOR_WINDOW_CALLS + 1)]
    scene.node.said(scene.worker)
    scene.driver.peer.job = None  # its job goes on
    scene.node.core.client_lost(scene.driver.peer)
    scene.node.turn()
    assert scene.node.said(scene.worker) == [m.LaneRevoke(number)]
    scene.node.say(scene.worker, done(results[0]))
    last, word = scene.node.said(scene.worker)
    assert last.task_id == results[-1][:16] and word.sequence == -1


def test_the_gate_is_told_of_a_call_that_fails_while_its_input_is_fetched() -> None:
    skipped: list[tuple[bytes, int]] = []

    def skip(actor: Any, caller_id: bytes, sequence: int) -> None:
        skipped.append((caller_id, sequence))

    router = ActorRouter(lambda actor, call: None, skip=skip)
    scene = Scene()
    scene.opened()
    actor = scene.node.core.router.actors[scene.actor]
    actor.window = 0  # it fetches
    scene.call()
    router.dropped(actor, actor.backlog[0])
    assert skipped == [(scene.driver.peer.submitter, 2)] and not actor.backlog


def test_a_process_that_dies_before_it_listens_leaves_nothing() -> None:
    scene = Scene(max_restarts=1)
    scene.expected()
    scene.lose()
    assert not scene.lanes
    scene.worker = scene.born()
    result = scene.call()
    assert ids_of(scene.node.said(scene.worker)) == [result[:16]]
    scene.ends()


@pytest.mark.parametrize("listens", [True, False])
def test_a_caller_that_dies_before_its_lane_is_open(listens: bool) -> None:
    scene = Scene()
    number = scene.expected().lane
    scene.driver.peer.job = None
    scene.node.core.client_lost(scene.driver.peer)
    scene.node.turn()
    assert m.LaneRevoke(number) in scene.node.said(scene.worker)
    if listens:
        scene.node.say(scene.worker, m.LaneListening(number), m.LaneOver(number))
    else:
        scene.node.say(scene.worker, m.LaneListening(number, "no"))
    assert not scene.lanes


# ---------------------------------------------------------------------------------- values


def reader(scene: Scene, object_id: bytes) -> Client:
    """Another process that holds the object and wants it."""
    scene.node.say(scene.idle, m.Hold([object_id]), m.Want([object_id]))
    return scene.idle


def value_at(scene: Scene, client: Client, object_id: bytes) -> bytes:
    found = [x for x in scene.node.said(client) if isinstance(x, m.Ready)]
    assert [x.object_id for x in found] == [object_id]
    return bytes(found[0].data)


def test_a_value_that_leaves_its_caller_is_an_object_like_any_other() -> None:
    scene = Scene()
    scene.opened()
    result = return_id(scene.on_lane()[0].task_id, 0)
    scene.node.say(scene.driver.peer, m.Promote(result, b"\x03v"))
    assert value_at(scene, reader(scene, result), result) == b"\x03v"
    assert not scene.told(m.Ready, scene.driver.peer), "it has the value"
    scene.driver.release(result)
    assert result in scene.node.core.store.objects
    scene.node.say(scene.idle, m.Release([result]))
    assert result not in scene.node.core.store.objects
    scene.ends()


@pytest.mark.parametrize("by", ["caller", "worker", "both"])
def test_a_result_that_was_promised_to_others_comes_from_its_caller_or_the_worker(by: str) -> None:
    """Scenario 11 and rules 6, 7: the worker is asked for it; the second value is dropped."""
    scene = Scene()
    number = scene.opened()
    call = scene.on_lane()[0]
    result = return_id(call.task_id, 0)
    scene.node.say(scene.driver.peer, m.Promote(result, b"", number))
    assert scene.told(m.Publish, scene.worker) == [m.Publish(number, [call.task_id])]
    third = reader(scene, result)
    assert not scene.node.said(third)
    if by != "worker":
        scene.node.say(scene.driver.peer, m.Fulfil(result, b"\x03v"))
        assert not scene.node.said(scene.driver.peer), "it has read it"
    if by != "caller":
        published = m.LaneResult(number, call.task_id, m.Result(m.Value(b"\x03v")))
        scene.node.say(scene.worker, published)
    assert value_at(scene, third, result) == b"\x03v"
    assert not scene.lanes[number].promised
    scene.ends()


def test_a_large_result_is_told_to_its_caller_by_the_node() -> None:
    """Rule 8 and scenario 10: the node's Ready is what says that the node has it."""
    scene = Scene()
    number = scene.opened()
    call = scene.on_lane()[0]
    result = return_id(call.task_id, 0)
    scene.node.say(scene.worker, m.CreateExtent(result, LARGE))
    extent = scene.told(m.Extent, scene.worker)[0]
    value = m.Value(b"", extent.offset, LARGE)
    scene.node.say(scene.worker, m.LaneResult(number, call.task_id, m.Result(value)))
    ready = scene.told(m.Ready, scene.driver.peer)
    assert [(x.object_id, x.size) for x in ready] == [(result, LARGE)]
    scene.driver.release(result)
    assert result not in scene.node.core.store.objects
    scene.ends()


@pytest.mark.parametrize("worker_first", [True, False])
def test_a_promotion_and_the_workers_result_come_in_any_order(worker_first: bool) -> None:
    """a: the caller's line and the worker's are not ordered among each other."""
    scene = Scene()
    number = scene.opened()
    call = scene.on_lane()[0]
    inner = scene.driver.put()
    scene.node.say(scene.worker, m.Hold([inner]))
    result = return_id(call.task_id, 0)
    answer = m.LaneResult(number, call.task_id, m.Result(m.Value(b"\x03v"), [inner]))
    steps = [(scene.worker, answer), (scene.driver.peer, m.Promote(result, b"", number))]
    for client, message in steps if worker_first else reversed(steps):
        scene.node.say(client, message)
    ready = scene.told(m.Ready, scene.driver.peer)
    assert [(x.object_id, x.contains) for x in ready] == [(result, True)]
    stored = scene.node.core.store.objects[result]
    assert stored.holds == 1 and stored.contains == [inner]
    scene.driver.release(result)
    assert result not in scene.node.core.store.objects
    scene.ends()


def test_a_result_whose_caller_is_dead_is_dropped_unless_somebody_else_has_its_ref() -> None:
    """Scenario 4: the worker runs what it has received, and publishes what was promised."""
    scene = Scene(detached=True)
    number = scene.opened()
    own, promised = scene.on_lane(2)
    shared = return_id(promised.task_id, 0)
    scene.node.say(scene.driver.peer, m.Promote(shared, b"", number))
    third = reader(scene, shared)
    scene.driver.peer.job = None  # its job goes on
    scene.node.core.client_lost(scene.driver.peer)
    scene.node.turn()
    scene.node.say(scene.worker, m.CreateExtent(return_id(own.task_id, 0), LARGE))
    extent = scene.told(m.Extent, scene.worker)[0]
    large = m.Result(m.Value(b"", extent.offset, LARGE))
    scene.node.say(
        scene.worker,
        m.LaneResult(number, own.task_id, large),
        m.LaneResult(number, promised.task_id, m.Result(m.Value(b"\x03v"))),
    )
    assert value_at(scene, third, shared) == b"\x03v"
    assert return_id(own.task_id, 0) not in scene.node.core.store.objects
    assert not len(scene.node.core.store.arena)
    scene.node.say(scene.worker, m.LaneOver(number))
    assert not scene.lanes


@pytest.mark.parametrize("both", [False, True])
def test_what_a_dead_caller_had_promised_and_never_sent_fails(both: bool) -> None:
    """e, and scenario 5: a third process holds it; who died is told."""
    scene = Scene()
    number = scene.opened()
    result = return_id(scene.on_lane()[0].task_id, 0)
    scene.node.say(scene.driver.peer, m.Promote(result, b"", number))
    third = reader(scene, result)
    scene.driver.peer.job = None  # its job goes on
    if both:
        scene.lose()
        scene.node.core.client_lost(scene.driver.peer)
        scene.node.turn()
    else:
        scene.node.core.client_lost(scene.driver.peer)
        scene.node.turn()
        assert not scene.node.said(third), "the worker may have it"
        scene.node.say(scene.worker, m.LaneOver(number))
    record = decode_error(value_at(scene, third, result)[1:])
    assert record.kind == "OwnerDiedError" and "pid 7" in record.message
    assert ("last words" in record.message) == both
    assert not scene.lanes


@pytest.mark.parametrize("published", ["before the word", "after the word"])
def test_a_lost_call_whose_result_reached_the_node_is_over(published: str) -> None:
    """Its worker had said so before it died; it neither runs again nor fails."""
    scene = Scene(max_restarts=1)
    scene.retries = 1
    number = scene.opened()
    finished, lost = scene.on_lane(2)
    result = return_id(finished.task_id, 0)
    value = b"\x03" + bytes(LANE_VALUE_BYTES)  # it does not ride
    answer = m.LaneResult(number, finished.task_id, m.Result(m.Value(value)))
    word = scene.back(number, m.LOST, [finished, lost])
    if published == "before the word":
        scene.node.say(scene.worker, answer)
    scene.node.say(scene.driver.peer, *word)
    if published == "after the word":
        scene.node.say(scene.worker, answer)
    scene.lose()
    scene.worker = scene.born()
    assert ids_of(scene.node.said(scene.worker)) == [lost.task_id]
    assert value_at(scene, scene.driver.peer, result) == value
    scene.ends()


def test_a_promised_result_is_made_by_the_call_that_came_back() -> None:
    scene = Scene()
    number = scene.opened()
    call = scene.on_lane()[0]
    result = return_id(call.task_id, 0)
    scene.node.say(scene.driver.peer, m.Promote(result, b"", number))
    third = reader(scene, result)
    scene.node.say(scene.worker, m.LaneOver(number))
    scene.node.say(scene.driver.peer, *scene.back(number, m.OVER, [call]))
    assert not scene.lanes
    scene.called(result)
    assert value_at(scene, third, result) == b"\x03value"
    assert scene.node.core.store.objects[result].holds == 2
    scene.ends()


def test_a_call_that_came_back_and_whose_ref_is_gone_runs_and_leaves_nothing() -> None:
    """v: fire and forget."""
    scene = Scene()
    number = scene.opened()
    call = scene.on_lane()[0]
    result = return_id(call.task_id, 0)
    scene.node.say(scene.worker, m.LaneOver(number))
    word = scene.back(number, m.OVER, [call])
    scene.node.say(scene.driver.peer, *word, m.Release([result]))
    assert scene.sent() == [2]
    scene.called(result)
    assert result not in scene.node.core.store.objects
    scene.ends()


# ---------------------------------------------------------------------------------- views, rules


def test_what_ran_on_a_lane_is_in_the_event_log_and_long_calls_in_the_task_table() -> None:
    scene = Scene()
    number = scene.opened()
    call = scene.on_lane()[0]
    core = scene.node.core
    core.flush_events()
    core.outbox.gcs.clear()
    scene.node.say(scene.worker, m.LaneBegun(number, call.task_id, "f", 1_000.0, 4))
    core.begin(1_001.0)
    core.flush_events()
    changed = [x for x in core.outbox.gcs if isinstance(x, m.TasksChanged)]
    assert changed == [
        m.TasksChanged([(call.task_id, "f", int(TaskState.SENT), core.me.node_id)], [])
    ]
    core.outbox.gcs.clear()
    scene.node.say(scene.driver.peer, m.Ask(1, "lane", {"lane": number}), m.Ask(2, "status", {}))
    one, all_of_them = (x.body for x in scene.told(m.Answer, scene.driver.peer))
    assert one["worker_pid"] == scene.worker.pid and one["state"] == "OPEN"
    assert one["running"] == [{"name": "f", "since": 1_000.0, "behind": 4}]
    assert all_of_them["lanes"] == [one]
    row = m.LaneRow(call.task_id, "f", "method", 1_000.0, 1_002.5, 3, "", 20, 0)
    scene.node.say(scene.worker, m.LaneNotes(number, [row]))
    core.flush_events()
    batch = next(x for x in core.outbox.gcs if isinstance(x, m.Events))
    events = [x for x in decode_events(batch.batch) if isinstance(x, TaskEvent)]
    assert len(events) == 1
    event = events[0]
    assert (event.task_id, event.name, event.kind) == (call.task_id, "f", "method")
    assert (event.submitted, event.started, event.ended) == (1_000.0, 1_000.0, 1_002.5)
    assert event.worker_pid == scene.worker.pid and event.submitter_pid == 7
    assert any(x.ended == [call.task_id] for x in core.outbox.gcs if isinstance(x, m.TasksChanged))
    scene.ends()


def test_words_about_lanes_of_others_are_refused() -> None:
    """Each end speaks for itself; nobody ends a lane twice."""
    scene = Scene()
    number = scene.opened()
    with pytest.raises(ValueError, match="another caller"):
        scene.node.core.handle(scene.idle, m.LaneClosed(number, m.OVER, 0))
    with pytest.raises(ValueError, match="another worker"):
        scene.node.core.handle(scene.idle, m.LaneOver(number))
    scene.node.say(scene.driver.peer, m.LaneClosed(number, m.OVER, 0))
    with pytest.raises(ValueError, match="closed twice"):
        scene.node.core.handle(scene.driver.peer, m.LaneClosed(number, m.LOST, 0))
