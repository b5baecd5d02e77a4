"""The node core as event lists: messages of clients in, messages to clients out."""

from __future__ import annotations

from typing import Any

import pytest

from skate import messages as m
from skate.config import (
    FULL_STORE_GRACE_S,
    IDLE_WORKER_S,
    PROTOCOL_VERSION,
    PYTHON,
    WORKER_START_ATTEMPTS,
    WRITE_BACKLOG_BYTES,
)
from skate.error_records import decode_error
from skate.ids import handle_id, return_id
from skate.rows import Client
from skate.spec import ActorOptions, JobConfig, demand_of
from skate.states import TaskState
from tests.node.played_node import (
    CPU,
    KILLED,
    LARGE,
    PAGE,
    Node,
    Program,
    done,
    failed,
    runs,
    setting,
)

# ---------------------------------------------------------------------------------- hello


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (m.Hello(PROTOCOL_VERSION + 1, PYTHON, "driver", 1, b"", JobConfig()), "protocol"),
        (m.Hello(PROTOCOL_VERSION, "2.7", "driver", 1, b"", JobConfig()), "Python"),
        (m.Hello(PROTOCOL_VERSION, PYTHON, "worker", 1), "started by their node"),
        (m.Hello(PROTOCOL_VERSION, PYTHON, "king", 1), "role"),
    ],
)
def test_who_does_not_fit_is_refused_in_a_sentence(hello: m.Hello, reason: str) -> None:
    node, peer = Node(), Client()
    node.core.add_client(peer)
    node.say(peer, hello)
    [refused] = node.said(peer)
    assert reason in refused.reason and node.closed == [peer]


def test_strangers_and_observers_may_not_act() -> None:
    node, stranger, observer = Node(), Client(), Client()
    for peer in (stranger, observer):
        node.core.add_client(peer)
    node.say(observer, m.Hello(PROTOCOL_VERSION, PYTHON, "observer", 1))
    for peer in (stranger, observer):
        with pytest.raises(ValueError, match="Put"):
            node.core.handle(peer, m.Put(b"p" * 20, b"x"))
    node.say(observer, m.Ask(1, "status", {}))
    [answer] = node.said(observer)
    assert answer.number == 1 and answer.body["workers"] == 0


def test_a_driver_finds_as_many_workers_starting_as_there_are_cpus() -> None:
    node = Node(cpus=3)
    Program(node)
    assert len(node.started) == 3


# ---------------------------------------------------------------------------------- tasks


def test_a_task_from_submission_to_its_release() -> None:
    node, driver, worker = setting()
    ref = driver.submit()
    code, template, run = node.said(worker)
    assert (code.data, template.template.name) == (b"code", "f")
    assert (run.task_id, run.template, run.arguments) == (ref[:16], template.number, b"args")
    node.say(worker, done(ref))
    assert driver.values() == {ref: b"\x03value"}
    again = driver.submit()
    assert [type(x) for x in node.said(worker)] == [m.Run]
    node.say(worker, done(again))
    driver.release(ref, again)
    assert node.is_clean()


def test_a_worker_is_sent_code_that_it_has_only_ever_submitted() -> None:
    node, driver, worker = setting()
    parent = driver.submit(name="parent")
    node.said(worker)
    child = Program(node, worker).submit(name="child")
    node.say(worker, done(parent))
    code, _, run = node.said(worker)
    assert isinstance(code, m.RegisterFunction) and code.name == "child"
    assert run.task_id == child[:16]


def test_a_task_waits_for_its_inputs_and_gets_their_values() -> None:
    node, driver, worker = setting()
    small = driver.put()
    first = driver.submit()
    second = driver.submit([first, small])
    assert runs(node, worker) == [first[:16]]
    node.say(worker, done(first))
    [run] = [x for x in node.said(worker) if isinstance(x, m.Run)]
    assert run.task_id == second[:16]
    assert [value.data for value in run.values] == [b"\x03value", b"\x03put"]


def test_inputs_stay_while_a_task_needs_them_and_go_with_it() -> None:
    node, driver, worker = setting()
    inner = driver.put()
    outer = driver.put([inner])
    ref = driver.submit([outer], [inner])
    driver.release(inner, outer)
    assert {inner, outer} <= node.core.store.objects.keys()
    node.say(worker, m.Hold([inner]), done(ref))
    assert node.core.store.objects.keys() == {inner, ref}
    node.say(worker, m.Release([inner]))
    driver.release(ref)
    assert node.is_clean()


def test_a_failed_input_fails_what_depends_on_it_and_says_how() -> None:
    node, driver, worker = setting()
    first = driver.submit(name="first")
    second = driver.submit([first], name="second")
    node.say(worker, failed(first))
    late = driver.submit([second], name="late")
    values = driver.values()
    record = decode_error(values[late][1:])
    assert (record.kind, record.chain) == ("TaskError", ["second", "late"])
    driver.release(first, second, late)
    assert node.is_clean()


def test_ten_thousand_tasks_that_hang_on_each_other_fail_without_recursion() -> None:
    node, driver, worker = setting()
    first = last = driver.submit()
    for _ in range(10_000):
        number, task_id = driver.number(), driver.ids.next_task()
        node.core.handle(driver.peer, m.Submit(task_id, number, b"", [last]))
        last = return_id(task_id, 0)
    node.say(worker, failed(first))
    errors = driver.errors()
    assert len(errors) == 10_001 and set(errors.values()) == {"TaskError"}
    driver.release(*errors)
    assert node.is_clean()


def test_an_unknown_input_is_a_lost_object() -> None:
    _, driver, _ = setting()
    ref = driver.submit([b"?" * 20])
    assert driver.errors() == {ref: "ObjectLostError"}


def test_several_returns_are_held_and_told_one_by_one() -> None:
    node, driver, worker = setting()
    ref = driver.submit(num_returns=2)
    other = return_id(ref[:16], 1)
    driver.release(other)
    results = [m.Result(m.Value(b"\x03a")), m.Result(m.Value(b"\x03b"))]
    node.say(worker, done(ref, results=results))
    assert driver.values() == {ref: b"\x03a"}
    driver.release(ref)
    assert node.is_clean()


def test_exceptions_are_retried_as_often_as_asked_for() -> None:
    node, driver, worker = setting()
    ref = driver.submit(max_retries=2, retry_exceptions=True)
    for attempt in range(3):
        [run] = [x for x in node.said(worker) if isinstance(x, m.Run)]
        assert run.attempt == attempt
        node.say(worker, failed(ref, attempt, retry=True))
    assert driver.errors() == {ref: "TaskError"}


def test_a_worker_ends_after_the_calls_it_may_run() -> None:
    node, driver, worker = setting()
    first, second = driver.submit(max_calls=1), driver.submit(max_calls=1)
    node.said(worker)
    node.say(worker, done(first))
    [leave] = node.said(worker)
    assert isinstance(leave, m.Exit)
    node.lose(worker, 0)
    assert runs(node, node.came_up()) == [second[:16]]


def test_idle_workers_beyond_the_cpus_are_asked_to_end() -> None:
    node, driver, worker = setting()
    parent = driver.submit()
    node.said(worker)
    node.say(worker, m.Blocked())
    child = driver.submit()
    helper = node.came_up()
    node.say(helper, done(child))
    node.say(worker, m.Unblocked(), done(parent))
    node.said(helper)
    node.core.clock.now += IDLE_WORKER_S
    node.core.tick()
    assert [type(x) for x in node.said(helper) + node.said(worker)] == [m.Exit]


# ---------------------------------------------------------------------------------- deaths


@pytest.mark.parametrize("exit_first", [False, True])
def test_the_task_of_a_dead_worker_runs_again_elsewhere(exit_first: bool) -> None:
    node, driver, worker = setting()
    ref = driver.submit()
    node.lose(worker, exit_first=exit_first)
    second = node.came_up()
    [run] = [x for x in node.said(second) if isinstance(x, m.Run)]
    assert (run.task_id, run.attempt) == (ref[:16], 1)
    node.say(second, done(ref, 0))  # of another attempt: nobody's result
    assert driver.values() == {}


@pytest.mark.parametrize("exit_first", [False, True])
def test_an_at_most_once_task_is_not_run_again_and_the_error_says_why(exit_first: bool) -> None:
    node, driver, worker = setting()
    ref = driver.submit(max_retries=0)
    node.lose(worker, -11, exit_first=exit_first)
    record = decode_error(driver.values()[ref][1:])
    assert record.kind == "WorkerCrashedError"
    assert "SIGSEGV" in record.message and "last words" in record.message


def test_a_task_that_kills_its_workers_fails_after_its_retries() -> None:
    node, driver, worker = setting()
    ref = driver.submit(max_retries=1)
    node.lose(worker)
    node.lose(node.came_up())
    assert driver.errors() == {ref: "WorkerCrashedError"}


def fail_to_start(node: Node) -> None:
    """The next process that was asked for dies before it says hello."""
    peer: Client = node.started.pop(0).client
    node.core.add_client(peer)
    node.lose(peer, 1)


def test_tasks_are_told_when_no_worker_ever_comes_up() -> None:
    node = Node()
    driver = Program(node)
    ref = driver.submit()
    for _ in range(WORKER_START_ATTEMPTS):
        assert driver.values() == {}
        fail_to_start(node)
    assert node.started == []  # no storm of forks
    node.core.tick()
    node.turn()
    record = decode_error(driver.values()[ref][1:])
    assert record.kind == "WorkerCrashedError"
    assert "No worker could be started" in record.message and "last words" in record.message
    later = driver.submit()  # what was wrong may be right again
    worker = node.came_up()
    node.say(worker, done(later, 0))
    assert set(driver.values()) == {later}


def test_failed_starts_do_no_harm_while_another_worker_runs() -> None:
    node = Node(cpus=2)
    driver = Program(node)
    driver.submit()
    worker = node.came_up()
    waiting = driver.submit()
    for _ in range(WORKER_START_ATTEMPTS):
        fail_to_start(node)
    assert node.started == []
    node.core.tick()
    node.turn()
    assert driver.values() == {}
    assert len(node.started) == 1  # one more try
    second = node.came_up()
    node.say(second, done(waiting, 0))
    assert set(driver.values()) == {waiting}
    assert worker.alive


def test_only_the_task_that_ran_is_blamed_for_a_crash() -> None:
    node, driver, worker = setting()
    warm = driver.submit(max_retries=1)
    node.say(worker, done(warm))
    first, second = driver.submit(max_retries=1), driver.submit(max_retries=1)
    assert runs(node, worker) == [x[:16] for x in (warm, first, second)]
    for _ in range(2):  # `first` dies twice, and has one retry
        node.lose(worker)
        worker = node.came_up()
    assert driver.errors() == {first: "WorkerCrashedError"}
    node.lose(worker)  # now `second` has run, once
    assert driver.errors() == {}
    node.lose(node.came_up())
    assert driver.errors() == {second: "WorkerCrashedError"}


def test_a_task_that_had_begun_behind_others_pays_for_a_crash_too() -> None:
    """What came of the first had not left the process when the second began, and killed it."""
    node, driver, worker = setting()
    warm = driver.submit(max_retries=1)
    node.say(worker, done(warm))
    first, second, third = (driver.submit(max_retries=1) for _ in range(3))
    assert runs(node, worker) == [x[:16] for x in (warm, first, second, third)]
    node.lose(worker, begun=second[:16])
    worker = node.came_up()
    assert runs(node, worker) == [first[:16]], "alone, so that it is certain who kills the next"
    node.say(worker, done(first, 1))
    node.lose(worker, begun=second[:16])
    assert driver.errors() == {second: "WorkerCrashedError"}
    node.lose(node.came_up(), begun=third[:16])
    assert driver.errors() == {}, "the third had not begun when the first worker died"
    node.lose(node.came_up(), begun=third[:16])
    assert driver.errors() == {third: "WorkerCrashedError"}


@pytest.mark.parametrize("first_sign", ["exit", "eof"])
def test_nothing_is_sent_to_a_worker_that_is_known_to_be_dying(first_sign: str) -> None:
    """Else a task that never began would count as run, and an at-most-once task would fail."""
    node, driver, worker = setting()
    assert worker.worker is not None
    if first_sign == "exit":
        node.core.worker_exited(worker.worker, KILLED)
    else:
        node.core.client_lost(worker)
    ref = driver.submit(max_retries=0)
    assert runs(node, node.came_up()) == [ref[:16]]
    if first_sign == "exit":
        node.core.client_lost(worker)
    else:
        node.core.worker_exited(worker.worker, KILLED)
    node.turn()
    assert driver.errors() == {}


def test_the_last_words_of_a_dead_worker_count() -> None:
    node, driver, worker = setting()
    assert worker.worker is not None
    ref = driver.submit(max_retries=0)
    node.core.worker_exited(worker.worker, 0)
    node.say(worker, done(ref))
    node.core.client_lost(worker)
    node.turn()
    assert driver.values() == {ref: b"\x03value"}


def test_a_hello_from_the_grave_makes_no_worker() -> None:
    node = Node()
    driver = Program(node)
    worker = node.started.pop(0)
    node.core.add_client(worker.client)
    node.core.worker_exited(worker, 1)
    node.say(worker.client, m.Hello(PROTOCOL_VERSION, PYTHON, "worker", 1))
    ref = driver.submit()
    assert runs(node, worker.client) == []
    node.core.client_lost(worker.client)
    node.turn()
    assert runs(node, node.came_up()) == [ref[:16]]


def test_a_process_that_dies_before_its_connection_is_up_is_buried_too() -> None:
    node = Node()
    driver = Program(node)
    worker = node.started.pop(0)
    node.core.worker_exited(worker, 1)
    node.core.client_lost(worker.client)
    node.core.add_client(worker.client)  # the connection comes up after all
    ref = driver.submit()
    assert worker.client not in node.core.clients
    assert runs(node, node.came_up()) == [ref[:16]]


def test_the_end_of_a_driver_leaves_nothing_whatever_was_under_way() -> None:
    node, driver, worker = setting()
    running = driver.submit()
    waiting = driver.submit([running], [driver.put()])
    driver.submit([waiting], [running])
    driver.submit(demand=demand_of({"CPU": 9.0}))
    actor = driver.create([waiting])
    driver.call(actor, [driver.put()])
    child = Program(node, worker)
    late = child.submit()
    node.say(worker, m.Hold([running]), m.CreateExtent(late, LARGE))
    node.say(driver.peer, m.Leaving("shutdown"))
    assert len(node.ended) == 1 and worker.worker in node.killed
    node.say(worker, m.Submit(child.ids.next_task(), 0, b""), done(running))  # not heard any more
    assert worker.worker is not None
    node.core.worker_exited(worker.worker, KILLED)
    node.turn()
    assert node.is_clean() and not node.core.jobs.by_id and not node.core.jobs.templates
    assert not node.core.scheduler.workers and not node.core.scheduler.classes


def test_one_driver_survives_another() -> None:
    node = Node(cpus=2)
    doomed, driver = Program(node), Program(node)
    doomed.submit()
    node.core.client_lost(doomed.peer)
    node.turn()
    ref = driver.submit()
    for worker in list(node.started):
        if worker.pool.job_id == driver.peer.job.id:  # type: ignore[union-attr]
            node.started.remove(worker)
            node.started.insert(0, worker)
            break
    assert runs(node, node.came_up()) == [ref[:16]]


# ---------------------------------------------------------------------------------- values


def test_a_value_is_told_to_who_wants_it_before_and_after_it_is_there() -> None:
    node, driver, worker = setting()
    ref = driver.submit()
    node.came_up() if node.started else None
    node.say(worker, m.Hold([ref]), m.Want([ref]))
    node.said(worker)
    node.say(worker, done(ref))
    assert [x.data for x in node.said(worker) if isinstance(x, m.Ready)] == [b"\x03value"]
    node.say(worker, m.Want([ref]))
    assert [x.data for x in node.said(worker)] == [b"\x03value"]
    assert driver.values() == {ref: b"\x03value"}


def test_an_owner_that_let_go_and_asks_again_is_told() -> None:
    node, driver, worker = setting()
    ref = driver.submit()
    keeper = driver.put([ref])
    driver.release(ref)
    node.say(driver.peer, m.Want([ref]))  # its hold comes a moment later
    node.say(worker, done(ref))
    assert driver.values() == {ref: b"\x03value"}
    driver.release(keeper)
    assert node.is_clean()


def test_a_client_that_does_not_read_is_told_later_and_only_what_is_still_there() -> None:
    node, driver, worker = setting()
    kept, dropped = driver.submit(), driver.submit()
    driver.peer.paused = True
    node.say(worker, done(kept))
    node.say(worker, done(dropped))
    driver.release(dropped)
    assert driver.values() == {}
    node.core.resume(driver.peer)
    assert driver.values() == {kept: b"\x03value"}


def test_a_backlog_is_pushed_a_turn_at_a_time() -> None:
    node, driver, _ = setting()
    ids = [bytes([n]) * 20 for n in range(30)]
    driver.peer.paused = True
    for object_id in ids:
        node.say(driver.peer, m.Put(object_id, bytes(90_000)))
    node.say(driver.peer, m.Want(ids))
    turns = []
    while driver.peer.deferred:
        node.core.resume(driver.peer)
        turns.append(len(driver.values()))
    assert max(turns) * 90_000 < 2 * WRITE_BACKLOG_BYTES
    assert sum(turns) == len(ids)


def test_a_large_result_lies_in_the_arena_until_its_last_view_is_gone() -> None:
    node, driver, worker = setting()
    ref = driver.submit()
    node.said(worker)
    node.say(worker, m.CreateExtent(ref, LARGE))
    [extent] = node.said(worker)
    value = m.Value(b"", extent.offset, LARGE)
    node.say(worker, done(ref, results=[m.Result(value)]))
    [ready] = node.said(driver.peer)
    assert (ready.offset, ready.size) == (extent.offset, LARGE)
    node.say(driver.peer, m.Pin([ref]), m.Release([ref]))
    assert len(node.core.store.arena) == 1
    node.say(driver.peer, m.Unpin([ref]))
    assert node.is_clean()


def test_a_large_result_that_nobody_waits_for_takes_no_space() -> None:
    node, driver, worker = setting()
    ref = driver.submit()
    driver.release(ref)
    node.say(worker, m.CreateExtent(ref, LARGE))
    node.say(worker, done(ref, results=[m.Result(m.Value(b"", 0, LARGE))]))
    assert node.is_clean()


@pytest.mark.parametrize("retry", [False, True])
def test_an_attempt_that_fails_half_way_gives_its_extents_back(retry: bool) -> None:
    node, driver, worker = setting()
    ref = driver.submit(num_returns=2, retry_exceptions=True)
    node.say(worker, m.CreateExtent(ref, LARGE))
    failure = failed(ref, retry=retry)
    failure.results = [m.Result(m.Value(failure.data))] * 2
    node.say(worker, failure)
    assert len(node.core.store.arena) == 0


def test_what_a_worker_writes_to_is_its_own_until_it_is_reaped() -> None:
    """Its job has ended, or its line; but a process that is deep in C goes on writing."""
    node, driver, worker = setting()
    node.core.me.is_cluster = True  # the node outlives its drivers
    ref = driver.submit()
    read = driver.ids.next_put()
    node.say(driver.peer, m.CreateExtent(read, LARGE))
    node.say(driver.peer, m.Seal(read))
    node.said(worker)
    node.say(worker, m.Pin([read]), m.CreateExtent(ref, LARGE))
    [extent] = node.said(worker)
    node.say(driver.peer, m.Leaving("shutdown"))
    other = Program(node)
    mine = other.ids.next_put()
    node.say(other.peer, m.CreateExtent(mine, LARGE))
    [given] = node.said(other.peer)
    assert given.offset not in (0, extent.offset)  # the first is what the worker reads
    assert worker.worker is not None
    node.core.worker_exited(worker.worker, KILLED)
    node.turn()
    assert len(node.core.store.arena) == 1
    node.say(other.peer, m.Seal(mine), m.Release([mine]))
    assert node.is_clean()


@pytest.mark.parametrize("exit_first", [False, True])
def test_a_worker_that_dies_leaves_no_space_taken(exit_first: bool) -> None:
    node, driver, worker = setting()
    ref = driver.submit(max_retries=0)
    node.say(worker, m.CreateExtent(ref, LARGE))
    node.lose(worker, exit_first=exit_first)
    assert len(node.core.store.arena) == 0
    driver.release(ref)
    assert node.is_clean()


def test_a_creator_waits_for_space_and_gets_it_when_some_is_freed() -> None:
    node, driver, _ = setting(pages=30)
    first, second = driver.ids.next_put(), driver.ids.next_put()
    node.say(driver.peer, m.CreateExtent(first, 20 * PAGE))
    node.say(driver.peer, m.Seal(first), m.CreateExtent(second, 20 * PAGE))
    [extent] = node.said(driver.peer)
    assert extent.object_id == first
    driver.release(first)
    [extent] = node.said(driver.peer)
    assert (extent.object_id, extent.error) == (second, b"")


def test_a_creator_that_waits_in_vain_learns_who_holds_the_space() -> None:
    node, driver, _ = setting(pages=30)
    first, second = driver.ids.next_put(), driver.ids.next_put()
    node.say(driver.peer, m.CreateExtent(first, 20 * PAGE))
    node.say(driver.peer, m.Seal(first), m.CreateExtent(second, 20 * PAGE))
    node.said(driver.peer)
    for _ in range(3):
        node.core.clock.now += FULL_STORE_GRACE_S
        node.core.tick()
        node.turn()
    [extent] = node.said(driver.peer)
    record = decode_error(extent.error[1:])
    assert record.kind == "ObjectStoreFullError"
    assert first.hex() in record.message and "a reference in driver 7" in record.message
    driver.release(first)
    assert node.is_clean()


@pytest.mark.parametrize("size", [0, -1])
def test_an_extent_of_no_size_breaks_only_who_asks_for_it(size: int) -> None:
    node, driver, _ = setting()
    with pytest.raises(ValueError, match="extent"):
        node.core.handle(driver.peer, m.CreateExtent(driver.ids.next_put(), size))
    node.turn()


# ---------------------------------------------------------------------------------- actors


def actor_of(node: Node, driver: Program, **options: Any) -> tuple[bytes, Client]:
    """An actor that is up: its id, its process."""
    actor_id = driver.create(**options)
    host = node.came_up()
    assert runs(node, host) == [actor_id]
    node.say(host, done(actor_id))
    return actor_id, host


def test_calls_wait_for_the_constructor_and_go_in_order() -> None:
    node, driver, _ = setting()
    actor_id = driver.create()
    calls = [driver.call(actor_id) for _ in range(3)]
    host = node.came_up()
    assert runs(node, host) == [actor_id]
    node.say(host, done(actor_id))
    assert runs(node, host) == [call[:16] for call in calls]
    node.say(host, *map(done, calls))
    assert list(driver.values()) == calls
    driver.release(handle_id(actor_id), *calls)
    assert [type(x) for x in node.said(host)] == [m.Exit]
    node.lose(host, 0)
    assert node.is_clean()


def test_a_late_argument_holds_back_the_same_caller_only() -> None:
    node, driver, worker = setting()
    actor_id, host = actor_of(node, driver)
    slow = driver.submit()
    first, second = driver.call(actor_id, [slow]), driver.call(actor_id)
    node.say(worker, m.Hold([handle_id(actor_id)]))
    other = Program(node, worker).call(actor_id)
    assert runs(node, host) == [other[:16]]
    node.say(worker, done(slow))
    assert runs(node, host) == [first[:16], second[:16]]


def test_a_call_whose_argument_failed_does_not_hold_back_the_next() -> None:
    node, driver, worker = setting()
    actor_id, host = actor_of(node, driver)
    slow = driver.submit()
    first, second = driver.call(actor_id, [slow]), driver.call(actor_id)
    node.say(worker, failed(slow))
    assert runs(node, host) == [second[:16]]
    assert driver.errors() == {slow: "TaskError", first: "TaskError"}


def test_what_a_worker_called_runs_although_the_worker_has_ended() -> None:
    node, driver, worker = setting(cpus=2)
    actor_id = driver.create()
    second, host = node.came_up(), node.came_up()
    node.say(host, done(actor_id))
    slow = driver.submit()
    assert slow[:16] in runs(node, second) + runs(node, worker)
    caller, runner = (
        (worker, second) if second.worker.tasks else (second, worker)  # type: ignore[union-attr]
    )
    node.said(host)
    call = Program(node, caller).call(actor_id, [slow])
    node.say(driver.peer, m.Hold([call]))
    node.lose(caller, 0)
    node.say(runner, done(slow))
    assert runs(node, host) == [call[:16]]
    assert not node.core.router.actors[actor_id].lines


@pytest.mark.parametrize("after", ["call", "argument fails"])
def test_an_actor_without_handles_ends_after_the_calls_that_were_made(after: str) -> None:
    node, driver, worker = setting()
    actor_id, host = actor_of(node, driver)
    slow = driver.submit()
    call = driver.call(actor_id, [slow])
    driver.release(handle_id(actor_id))
    assert node.said(host) == []
    if after == "call":
        node.say(worker, done(slow))
        assert runs(node, host) == [call[:16]]
        node.say(host, done(call))
    else:
        node.say(worker, failed(slow))
    assert [type(x) for x in node.said(host)] == [m.Exit]


def test_a_handle_inside_an_object_keeps_the_actor() -> None:
    node, driver, _ = setting()
    actor_id, host = actor_of(node, driver)
    keeper = driver.put([handle_id(actor_id)])
    driver.release(handle_id(actor_id))
    assert node.said(host) == []
    driver.release(keeper)
    assert [type(x) for x in node.said(host)] == [m.Exit]


def test_a_killed_actor_fails_its_calls_and_keeps_its_resources_until_it_is_gone() -> None:
    node, driver, _ = setting()
    actor_id, host = actor_of(node, driver, running=CPU)
    call = driver.call(actor_id)
    node.say(driver.peer, m.KillActor(actor_id))
    late = driver.call(actor_id)
    assert driver.errors() == {call: "ActorDiedError", late: "ActorDiedError"}
    assert node.killed == [host.worker]
    assert node.core.scheduler.available["CPU"] == 0
    node.say(host, done(call))  # its last word changes nothing
    node.lose(host)
    assert driver.values() == {}
    driver.release(handle_id(actor_id), call, late)
    assert node.is_clean()


def test_what_a_killed_actor_writes_to_is_its_own_until_it_is_gone() -> None:
    node, driver, _ = setting()
    actor_id, host = actor_of(node, driver)
    call = driver.call(actor_id)
    node.said(host)
    node.say(host, m.CreateExtent(call, LARGE))
    [extent] = node.said(host)
    node.say(driver.peer, m.KillActor(actor_id))
    put = driver.ids.next_put()
    node.say(driver.peer, m.CreateExtent(put, LARGE))
    given = next(x for x in node.said(driver.peer) if isinstance(x, m.Extent))
    assert given.offset != extent.offset
    node.lose(host)
    node.say(driver.peer, m.Seal(put), m.Release([put, call, handle_id(actor_id)]))
    assert node.is_clean()


@pytest.mark.parametrize("stage", ["waits for an argument", "starts", "constructs"])
def test_an_actor_that_is_killed_before_it_lives_never_does(stage: str) -> None:
    node, driver, worker = setting()
    slow = driver.submit()
    actor_id = driver.create([slow] if stage == "waits for an argument" else None)
    if stage != "waits for an argument":
        node.say(worker, done(slow))  # the CPU to be placed with
    if stage == "constructs":
        host = node.came_up()
    node.say(driver.peer, m.KillActor(actor_id))
    if stage == "waits for an argument":
        node.say(worker, done(slow))
        assert not node.started
    else:
        if stage == "starts":
            host = node.came_up()
            assert runs(node, host) == []
        node.say(host, done(actor_id))
        node.lose(host)
    call = driver.call(actor_id)
    assert driver.errors()[call] == "ActorDiedError"
    driver.release(slow, call, handle_id(actor_id))
    assert node.is_clean()


def test_an_actor_whose_constructor_fails_says_so_to_every_caller() -> None:
    node, driver, _ = setting()
    actor_id = driver.create()
    early = driver.call(actor_id)
    host = node.came_up()
    node.say(host, failed(actor_id))
    late = driver.call(actor_id)
    values = driver.values()
    for call in (early, late):
        record = decode_error(values[call][1:])
        assert record.kind == "ActorDiedError" and "__init__" in record.message
    assert node.killed == [host.worker]


def test_an_actor_that_ends_itself_is_forgotten_with_its_last_handle() -> None:
    node, driver, _ = setting()
    actor_id, host = actor_of(node, driver, max_restarts=5)
    call = driver.call(actor_id)
    node.say(host, m.Leaving("exit_actor() was called"), failed(call))
    node.lose(host, 0)
    assert not node.started  # on purpose: no restart
    late = driver.call(actor_id)
    assert driver.errors()[late] == "ActorDiedError"
    driver.release(handle_id(actor_id), call, late)
    assert node.is_clean()


def test_a_restarted_actor_gets_its_unanswered_calls_first_and_in_order() -> None:
    node, driver, _ = setting()
    actor_id, host = actor_of(node, driver, max_restarts=1)
    again = [driver.call(actor_id, max_retries=1) for _ in range(2)]
    once = driver.call(actor_id)
    node.said(host)
    node.core.client_lost(host)
    later = driver.call(actor_id)  # between the EOF and the exit status: it has not run
    assert host.worker is not None
    node.core.worker_exited(host.worker, KILLED)
    node.turn()
    assert driver.errors() == {once: "ActorUnavailableError"}
    host = node.came_up()
    assert runs(node, host) == [actor_id]
    node.say(host, done(actor_id, 1))
    sent = [x for x in node.said(host) if isinstance(x, m.Run)]
    expected = [(again[0][:16], 1), (again[1][:16], 1), (later[:16], 0)]
    assert [(run.task_id, run.attempt) for run in sent] == expected
    node.lose(host)
    assert set(driver.errors().values()) == {"ActorDiedError"}


def test_a_call_that_raised_is_delivered_again_if_asked_for() -> None:
    node, driver, _ = setting()
    actor_id, host = actor_of(node, driver)
    call = driver.call(actor_id, max_retries=1, retry_exceptions=True)
    node.said(host)
    node.say(host, failed(call, 0, retry=True))
    [run] = node.said(host)
    assert (run.task_id, run.attempt) == (call[:16], 1)
    node.say(host, failed(call, 1, retry=True))
    assert driver.errors() == {call: "TaskError"}


def test_the_last_handle_may_go_with_the_arguments_of_a_dead_actor() -> None:
    """One end leads to another within one turn: nothing waits for the next event."""
    node, driver, _ = setting()
    inner, host = actor_of(node, driver)
    number = driver.number("actor", "Outer", demand=demand_of({"CPU": 5.0}))
    outer = driver.ids.next_task()
    options = ActorOptions(class_name="Outer")
    nested = [handle_id(inner)]
    node.say(driver.peer, m.CreateActor(outer, number, options, b"", None, nested))
    driver.release(handle_id(inner))
    assert node.said(host) == []
    driver.release(handle_id(outer))  # it could never have started
    assert [type(x) for x in node.said(host)] == [m.Exit]


def test_the_task_table_is_told_of_tasks_that_last_and_of_their_end() -> None:
    node, driver, worker = setting()
    running, waiting = driver.submit(name="long"), driver.submit(name="next")
    node.core.flush_events()
    node.core.clock.now += 1.0
    node.core.flush_events()
    [told] = [
        x for x in node.core.outbox.gcs if isinstance(x, m.TasksChanged)
    ]  # young ones are not told
    assert [(row[0], row[1]) for row in told.rows] == [
        (running[:16], "long"),
        (waiting[:16], "next"),
    ]
    node.core.outbox.gcs.clear()
    node.core.flush_events()
    assert node.core.outbox.gcs == []  # nothing has changed
    node.say(worker, done(running, 0))
    node.core.flush_events()
    [told] = [x for x in node.core.outbox.gcs if isinstance(x, m.TasksChanged)]
    assert told.ended == [running[:16]]
    assert [row[2] for row in told.rows] == [int(TaskState.SENT)]  # "next" runs now
