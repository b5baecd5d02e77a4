"""Several node cores and the GCS as event lists: what races between them must not lose."""

from __future__ import annotations

from typing import Any

import pytest

from skate import messages as m
from skate.config import AVOID_S
from skate.ids import JOB_ID_BYTES, handle_id, return_id
from skate.scheduler.group_names import GROUP_ID_BYTES, wildcard_name
from tests.node.played_cluster import (
    Cluster,
    comes_alive,
    create,
    to_node,
    user_of,
)
from tests.node.played_node import CPU, Program, done, runs

GROUP = b"G" * GROUP_ID_BYTES
DETACHED = {"detached": True, "name": "x", "namespace": "y"}


def test_the_running_task_of_a_driver_that_has_ended_is_not_run_again() -> None:
    """Though a detached actor of its job stays, and with it the job's queues."""
    cluster = Cluster()
    home = cluster.add("h")
    driver = Program(home)
    actor_id = create(driver, DETACHED)
    comes_alive(home, actor_id)
    task = driver.submit()
    worker = home.came_up()
    assert runs(home, worker) == [task[:16]]
    home.say(driver.peer, m.Leaving("bye"))
    assert worker.worker is not None
    home.core.worker_exited(worker.worker, -9)
    home.turn()
    cluster.run()
    assert home.core.scheduler.queued() == 0
    assert home.actor_state(actor_id) == "ALIVE"


def test_an_actor_that_comes_after_its_group_has_gone_is_given_back() -> None:
    """The GCS is quicker than the home: the host has no such resource, and never will have."""
    cluster = Cluster()
    home = cluster.add("h")
    host = cluster.add("a", 2, a=5)
    driver = Program(home)
    cluster.run()
    job_id = driver.ids.next_task()[:JOB_ID_BYTES]
    body = {"group_id": GROUP, "bundles": [{"CPU": 10_000, "a": 10_000}], "job_id": job_id}
    home.say(driver.peer, m.Ask(1, "create_placement_group", body))
    cluster.run()
    demand = ((wildcard_name("CPU", GROUP), 10_000),)
    cluster.held.add(("h", "a"))
    actor_id = create(driver, demand=demand, running_demand=demand, group=GROUP)
    cluster.run()
    assert "ForwardActor" in cluster.on_its_way("h", "a")
    home.say(driver.peer, m.Ask(2, "remove_placement_group", {"group_id": GROUP}))
    cluster.run()
    cluster.held.clear()
    cluster.run()
    call = driver.call(actor_id)
    assert not host.core.scheduler.placing
    assert home.actor_state(actor_id) == "DEAD"
    assert call in driver.errors()


@pytest.mark.parametrize("nodes", ["h", "ha"])
@pytest.mark.parametrize("kind", ["task", "actor"])
def test_what_waits_for_a_bundle_that_is_given_back_before_its_commit_is_told(
    nodes: str, kind: str
) -> None:
    """The names of the group were there for a moment; then the group is removed."""
    cluster = Cluster()
    home, *_ = [cluster.add(name) for name in nodes]
    driver = Program(home)
    cluster.run()
    body = {
        "group_id": GROUP,
        "bundles": [{"CPU": 10_000}],
        "job_id": driver.ids.next_task()[:JOB_ID_BYTES],
    }
    home.core.handle(driver.peer, m.Ask(1, "create_placement_group", body))
    home.core.parts.groups.on_reserve(m.ReserveBundles(GROUP, 1, [(0, CPU)]))
    home.core.outbox.gcs.clear()  # that answer, and the question
    demand = ((wildcard_name("CPU", GROUP), 10_000),)
    if kind == "task":
        ref = driver.submit(demand=demand, group=GROUP)
    else:
        ref = driver.call(create(driver, demand=demand, running_demand=demand, group=GROUP))
    home.core.parts.groups.on_return(m.ReturnBundles(GROUP))
    home.turn()
    cluster.pass_time(1.0)
    assert set(driver.errors()) == {ref}


def test_a_worker_that_a_removed_group_ends_is_given_nothing_more() -> None:
    """Though it says, with the signal on its way, that its task goes on."""
    cluster = Cluster()
    home = cluster.add("h", 2)
    driver = Program(home)
    cluster.run()
    body = {
        "group_id": GROUP,
        "bundles": [{"CPU": 10_000}],
        "job_id": driver.ids.next_task()[:JOB_ID_BYTES],
    }
    home.say(driver.peer, m.Ask(1, "create_placement_group", body))
    cluster.run()
    inside = driver.submit(demand=((wildcard_name("CPU", GROUP), 10_000),), group=GROUP)
    cluster.run()
    worker = home.came_up()
    assert runs(home, worker) == [inside[:16]]
    home.say(worker, m.Blocked())
    home.say(driver.peer, m.Ask(2, "remove_placement_group", {"group_id": GROUP}))
    cluster.run()
    assert worker.worker in home.killed
    driver.submit(name="next")
    home.say(worker, m.Unblocked())
    assert runs(home, worker) == []
    assert driver.errors() == {inside: "TaskPlacementGroupRemoved"}


@pytest.mark.parametrize("end", ["goes on", "goes on and waits", "ends"])
@pytest.mark.parametrize("others", [0, 1])
def test_an_actor_that_waits_as_its_group_is_removed_may_still_say_that_it_goes_on(
    end: str, others: int
) -> None:
    """It has lent the group's CPU, and takes it again with the signal on its way."""
    cluster = Cluster()
    home = cluster.add("h", 2)
    driver = Program(home)
    cluster.run()
    job_id = driver.ids.next_task()[:JOB_ID_BYTES]
    body = {"group_id": GROUP, "bundles": [{"CPU": 10_000}], "job_id": job_id}
    home.say(driver.peer, m.Ask(1, "create_placement_group", body))
    cluster.run()
    demand = ((wildcard_name("CPU", GROUP), 10_000),)
    first = create(driver, demand=demand, running_demand=demand, group=GROUP)
    process = comes_alive(home, first)
    home.say(process, m.Blocked())
    if others:  # who has that CPU meanwhile
        driver.submit(demand=demand, group=GROUP)
        home.came_up()
    home.say(driver.peer, m.Ask(2, "remove_placement_group", {"group_id": GROUP}))
    cluster.run()
    assert process.worker in home.killed
    if end != "ends":
        home.say(process, m.Unblocked())
    if end == "goes on and waits":
        home.say(process, m.Blocked())
        home.say(process, m.Unblocked())
    for worker in list(home.killed):
        home.lose(worker.client)
    home.turn()
    scheduler = home.core.scheduler
    assert scheduler.available == scheduler.total == {"CPU": 20_000}


def test_every_node_says_that_the_group_of_an_actor_was_removed() -> None:
    """Whether the actor lived, or still waited for its bundle's CPU when the group went."""
    cluster = Cluster()
    home = cluster.add("h", 2, h=1)
    caller = cluster.add("c")
    driver = Program(home)
    cluster.run()
    job_id = driver.ids.next_task()[:JOB_ID_BYTES]
    body = {"group_id": GROUP, "bundles": [{"CPU": 10_000, "h": 10_000}], "job_id": job_id}
    home.say(driver.peer, m.Ask(1, "create_placement_group", body))
    cluster.run()
    demand = ((wildcard_name("CPU", GROUP), 10_000),)
    first = create(driver, demand=demand, running_demand=demand, group=GROUP)
    comes_alive(home, first)
    waits = create(driver, demand=demand, running_demand=demand, group=GROUP)
    user = user_of(first, driver, caller)
    home.say(driver.peer, m.Ask(2, "remove_placement_group", {"group_id": GROUP}))
    cluster.run()
    calls = [driver.call(first), driver.call(waits)]
    errors = driver.errors()
    assert [errors[call] for call in calls] == ["ActorPlacementGroupRemoved"] * 2
    far = user.call(first)
    cluster.run()
    assert user.errors()[far] == "ActorPlacementGroupRemoved"


@pytest.mark.parametrize("when", ["in its queue", "at the GCS", "on its way", "at work"])
def test_a_detached_actor_survives_its_driver_whatever_its_creation_waits_for(when: str) -> None:
    cluster = Cluster()
    home = cluster.add("h")
    host = cluster.add("a", 1, a=1)
    driver = Program(home)
    demand: Any = {"in its queue": CPU, "at work": ()}.get(when, (("a", 10_000),))
    if when == "in its queue":
        busy = create(driver, demand=CPU, running_demand=CPU)
        comes_alive(home, busy)
    if when == "at the GCS":
        cluster.held.add(("gcs", "h"))
    if when == "on its way":
        cluster.held.add(("h", "a"))
    actor_id = create(driver, DETACHED, demand=demand)
    cluster.run()
    process = home.actor_up() if when == "at work" else None
    home.say(driver.peer, m.Leaving("bye"))
    cluster.run()
    if when == "in its queue":
        first = next(worker for worker in home.killed if worker.actor is not None)
        home.lose(first.client)
    cluster.held.clear()
    cluster.pass_time(1.0)
    if process is None:
        process = comes_alive(home if demand == CPU else host, actor_id)
    else:
        home.say(process, done(actor_id))
    assert home.actor_state(actor_id) == "ALIVE"


def test_tasks_of_a_detached_actor_outlive_the_driver_in_whatever_order_others_hear_of_it() -> None:
    cluster = Cluster()
    home = cluster.add("h", 2)
    other = cluster.add("a", 2)
    driver = Program(home)
    actor_id = create(driver, DETACHED)
    inside = Program(home, comes_alive(home, actor_id))
    there = to_node(other)

    def runs_there(submitted: bytes) -> None:
        cluster.run()
        worker = other.came_up()
        cluster.run()
        assert runs(other, worker) == [submitted[:16]]
        other.say(worker, done(submitted))
        cluster.run()
        assert home.state_of(submitted) == "INLINE"
        other.lose(worker)

    runs_there(inside.submit(strategy=there))
    cluster.held.add(("gcs", "a"))
    home.say(driver.peer, m.Leaving("bye"))
    second = inside.submit(strategy=there)
    cluster.run()  # the home's word of the end is there, the one of the GCS is not
    cluster.held.clear()
    runs_there(second)
    runs_there(inside.submit(strategy=there))


def test_what_a_detached_actor_submits_as_its_driver_ends_runs() -> None:
    """Though the GCS tells the other node first, and the home of the actor a little later."""
    cluster = Cluster()
    cluster.add("d")
    home = cluster.add("h", 2)
    other = cluster.add("a", 2)
    driver = Program(cluster.nodes["d"])
    actor_id = create(driver, DETACHED, strategy=to_node(home))
    cluster.run()
    inside = Program(home, comes_alive(home, actor_id))
    cluster.held |= {("h", "a"), ("gcs", "h")}
    tasks = [inside.submit(strategy=to_node(other))]
    driver.node.say(driver.peer, m.Leaving("bye"))
    cluster.run()
    cluster.held.discard(("h", "a"))
    cluster.run()
    cluster.held.clear()
    cluster.pass_time(1.0)
    tasks.append(inside.submit(strategy=to_node(other)))
    cluster.run()
    workers = [other.came_up() for _ in other.started[:]]
    cluster.run()
    assert sorted(run for worker in workers for run in runs(other, worker)) == [
        task[:16] for task in tasks
    ]
    assert not inside.errors()


@pytest.mark.parametrize("end", ["of its creator", "of its job"])
@pytest.mark.parametrize("call", ["before", "after"])
def test_a_call_to_an_actor_that_its_creator_had_only_named_fails(end: str, call: str) -> None:
    cluster = Cluster()
    home = cluster.add("h")
    other = cluster.add("c")
    driver = Program(home)
    caller = Program(other)
    driver.submit(name="creator")
    worker = home.came_up()
    actor_id = Program(home, worker).ids.next_task()
    row = {"name": "ada", "namespace": "s", "actor_id": actor_id, "class_name": "A", "spec": b"s"}
    home.say(worker, m.Ask(1, "reserve_actor_name", row))
    cluster.run()
    other.say(caller.peer, m.Ask(1, "get_actor", {"name": "ada", "namespace": "s"}))
    cluster.run()
    calls = [caller.call(actor_id)] if call == "before" else []
    cluster.run()
    if end == "of its creator":
        home.lose(worker)
    else:
        home.say(driver.peer, m.Leaving("bye"))
    cluster.run()
    calls += [caller.call(actor_id)] if call == "after" else []
    cluster.run()
    assert caller.errors() == {calls[0]: "ActorDiedError"}
    other.say(caller.peer, m.Ask(2, "get_actor", {"name": "ada", "namespace": "s"}))
    cluster.run()
    assert [x.body for x in other.said(caller.peer) if isinstance(x, m.Answer)] == [None]


RESTARTS = {"max_restarts": -1, "max_task_retries": -1}


def test_a_call_at_a_node_that_the_actor_has_left_is_made_again_when_that_dies() -> None:
    cluster = Cluster()
    home, former, caller = cluster.add("h"), cluster.add("a"), cluster.add("c")
    driver = Program(home)
    actor_id = create(driver, RESTARTS, strategy=to_node(former, soft=True))
    cluster.run()
    process = comes_alive(former, actor_id)
    user = user_of(actor_id, driver, caller)
    call = user.call(actor_id, max_retries=-1)
    cluster.run()
    assert runs(former, process) == [call[:16]]
    cluster.held.add(("h", "a"))
    cluster.cut("h", "a")
    cluster.pass_time(1.0)
    host = home.core.router.actors[actor_id].host
    now_at = home if host is None else cluster.nodes[host.node_id[:1].decode()]
    process = comes_alive(now_at, actor_id, 1)
    assert not runs(now_at, process)  # it is in flight at the former host, which may answer
    cluster.die("a")
    assert runs(now_at, process) == [call[:16]]
    now_at.say(process, done(call, 1))
    cluster.run()
    assert caller.state_of(call) == "INLINE"


@pytest.mark.parametrize("end", ["answers", "dies", "is killed"])
@pytest.mark.parametrize("lost", ["in flight", "waiting"])
def test_a_call_made_again_waits_for_its_older_attempt(lost: str, end: str) -> None:
    """Its caller has lost the host for a moment; the actor is still at what it was given."""
    cluster = Cluster()
    host, caller = cluster.add("h"), cluster.add("a")
    driver = Program(host)
    argument = driver.put()
    actor_id = create(driver, RESTARTS, strategy=to_node(host))
    cluster.run()
    process = comes_alive(host, actor_id)
    user = user_of(actor_id, driver, caller)
    host.core.router.actors[actor_id].window = 1
    first = user.call(actor_id, [argument], max_retries=-1)
    second = user.call(actor_id, [argument], max_retries=-1)
    cluster.run()
    assert runs(host, process) == [first[:16]]
    lost_call = first if lost == "in flight" else second
    if lost == "waiting":
        host.say(process, done(first))
        cluster.run()
        assert runs(host, process) == [second[:16]]
    cluster.cut("a", "h")
    assert runs(host, process) == []
    if end == "answers":
        host.say(process, done(lost_call))
    elif end == "dies":
        host.lose(process)
        cluster.run()
        process = comes_alive(host, actor_id, 1)
    else:
        host.say(driver.peer, m.KillActor(actor_id, True))
        cluster.run()
        host.lose(process)
    if end != "is killed":
        again = [first, second] if lost == "in flight" else [second]
        while again:
            for task_id in runs(host, process):
                call = again.pop(0)
                assert task_id == call[:16]
                host.say(process, done(call, 1))
            cluster.run()
    assert caller.state_of(first) == caller.state_of(second) == "INLINE"
    caller.say(user.peer, m.Release([first, second, handle_id(actor_id)]))
    driver.release(argument)
    cluster.run()
    assert argument not in host.core.store.objects


def test_the_next_host_of_an_actor_remembers_what_it_has_called_at_the_last() -> None:
    """It gets the actor before it reads of the death of the node that hosted it."""
    cluster = Cluster()
    home, former = cluster.add("h"), cluster.add("a", r=1)
    driver = Program(home)
    actor_id = create(driver, RESTARTS, demand=(("r", 10_000),))
    cluster.run()
    process = comes_alive(former, actor_id)
    caller = cluster.add("c", r=1)
    user = user_of(actor_id, driver, caller)
    call = user.call(actor_id, max_retries=-1)
    cluster.run()
    assert runs(former, process) == [call[:16]]
    cluster.held.add(("gcs", "c"))
    cluster.die("a")
    assert not caller.core.router.actors[actor_id].is_proxy
    assert handle_id(actor_id) not in caller.core.store.watched  # its home counts handles, and says
    cluster.held.clear()
    cluster.run()
    process = comes_alive(caller, actor_id, 1)
    assert runs(caller, process) == [call[:16]]


@pytest.mark.parametrize("news", ["first", "late"])
def test_an_actor_placed_anew_on_the_same_node_numbers_its_calls_afresh(news: str) -> None:
    """Home and host were cut off from each other for a moment, the caller from neither."""
    cluster = Cluster()
    home, host, caller = cluster.add("h"), cluster.add("a", 2, a=1), cluster.add("c")
    driver = Program(home)
    actor_id = create(driver, RESTARTS, demand=(("a", 10_000),))
    cluster.run()
    process = comes_alive(host, actor_id)
    user = user_of(actor_id, driver, caller)
    for _ in range(2):
        call = user.call(actor_id, max_retries=-1)
        cluster.run()
        assert runs(host, process) == [call[:16]]
        host.say(process, done(call))
        cluster.run()
    if news == "late":
        cluster.held.add(("gcs", "c"))
    cluster.cut("h", "a")
    cluster.pass_time(AVOID_S + 1.0)
    process = comes_alive(host, actor_id, 1)
    calls = [user.call(actor_id, max_retries=-1) for _ in range(3)]
    cluster.run()
    cluster.held.clear()
    cluster.run()
    calls.append(user.call(actor_id, max_retries=-1))
    cluster.run()
    assert runs(host, process) == [call[:16] for call in calls]
    for call in calls:
        host.say(process, done(call))
    cluster.run()
    assert [caller.state_of(call) for call in calls] == ["INLINE"] * 4


def test_a_proxy_goes_though_its_caller_has_let_go_of_the_actor_before() -> None:
    """And has had a handle again since, when the actor died."""
    cluster = Cluster()
    home, caller = cluster.add("h"), cluster.add("c", 2)
    driver = Program(home)
    actor_id = create(driver, DETACHED)
    cluster.run()
    process = comes_alive(home, actor_id)
    user = Program(caller)
    call = user.call(actor_id)  # found by its name: no handle
    cluster.run()
    assert runs(home, process) == [call[:16]]
    home.say(process, done(call))
    cluster.run()
    user.release(call)
    actors = caller.core.router.actors
    assert actors[actor_id].lines, "it may call again"
    caller.say(user.peer, m.Hold([handle_id(actor_id)]))
    cluster.run()
    caller.say(user.peer, m.KillActor(actor_id, True))
    cluster.run()
    assert actors[actor_id].state.name == "DEAD"
    user.release(handle_id(actor_id))
    cluster.run()
    assert not actors and not caller.core.store.watched


@pytest.mark.parametrize("is_called", [False, True])
def test_an_actor_that_came_too_late_for_its_room_goes_to_a_node_that_has_it(
    is_called: bool,
) -> None:
    cluster = Cluster()
    home, busy = cluster.add("h"), cluster.add("a", 3, r=1)
    driver, other = Program(home), Program(busy)
    while busy.started:
        busy.came_up()  # those for tasks of the other driver
    cluster.run()
    wants = (("r", 10_000),)
    cluster.held.add(("a", "gcs"))
    first = create(other, demand=wants, running_demand=wants)
    comes_alive(busy, first)
    actor_id = create(driver, demand=wants, running_demand=wants)
    caller = user_of(actor_id, driver, busy) if is_called else None
    call = caller.call(actor_id, max_retries=-1) if caller else driver.call(actor_id)
    cluster.pass_time(0.2)
    assert home.core.router.actors[actor_id].host is cluster.neighbour("h", "a")
    assert not busy.core.router.actors[actor_id].is_proxy
    cluster.held.clear()
    cluster.run()
    cluster.pass_time(1.0)
    room = cluster.add("c", r=1)
    cluster.pass_time(1.0)
    process = comes_alive(room, actor_id)
    assert runs(room, process) == [call[:16]]
    room.say(process, done(call))
    cluster.run()
    assert (busy if is_called else home).state_of(call) == "INLINE"


WANTS = (("r", 10_000),)


def test_an_actor_that_restarts_where_it_lived_waits_there_for_room() -> None:
    """Its home and its callers take that node for its host."""
    cluster = Cluster()
    home, host = cluster.add("h"), cluster.add("a", 3, r=1)
    driver, other = Program(home), Program(host)
    actor_id = create(driver, RESTARTS, demand=WANTS)
    cluster.run()
    process = comes_alive(host, actor_id)
    blocker = comes_alive(host, create(other, demand=WANTS, running_demand=WANTS))
    host.lose(process)
    cluster.add("c", r=1)
    cluster.pass_time(1.0)
    call = driver.call(actor_id, max_retries=-1)
    host.lose(blocker)
    cluster.pass_time(1.0)
    process = comes_alive(host, actor_id, 1)
    assert runs(host, process) == [call[:16]]


def test_an_actor_that_other_nodes_have_called_waits_for_room_where_they_did() -> None:
    """Home and host were cut off from each other for a moment, the caller from neither."""
    cluster = Cluster()
    home, host, caller = cluster.add("h"), cluster.add("a", 3, r=1), cluster.add("c")
    driver, other = Program(home), Program(host)
    actor_id = create(driver, RESTARTS, demand=WANTS)
    cluster.run()
    comes_alive(host, actor_id)
    user = user_of(actor_id, driver, caller)
    user.call(actor_id, max_retries=-1)
    cluster.run()
    assert cluster.neighbour("c", "a").calls
    cluster.held.add(("gcs", "c"))
    cluster.cut("h", "a")
    cluster.pass_time(AVOID_S - 2.0)
    cluster.held.add(("a", "gcs"))
    blocker = comes_alive(host, create(other, demand=WANTS, running_demand=WANTS))
    cluster.pass_time(3.0)
    assert not host.core.router.actors[actor_id].is_proxy
    call = user.call(actor_id, max_retries=-1)
    cluster.run()
    cluster.held.clear()
    cluster.add("d", r=1)
    cluster.pass_time(1.0)
    host.lose(blocker)
    cluster.pass_time(1.0)
    process = comes_alive(host, actor_id, 1)
    for task_id in runs(host, process):
        host.say(process, done(task_id))
    cluster.run()
    assert caller.state_of(call) == "INLINE"


@pytest.mark.parametrize("in_order", [True, False])
def test_calls_at_a_former_host_follow_an_actor_that_finds_its_room_taken(in_order: bool) -> None:
    cluster = Cluster()
    home, former = cluster.add("h"), cluster.add("f", r=1)
    driver = Program(home)
    actor_id = create(driver, {**RESTARTS, "in_order": in_order}, demand=WANTS)
    cluster.run()
    process = comes_alive(former, actor_id)
    create(Program(former), demand=WANTS, running_demand=WANTS)
    busy = cluster.add("a", 3, r=1)
    user = user_of(actor_id, driver, busy)
    number, task_id = user.number("method", max_retries=-1), user.ids.next_task()
    busy.say(user.peer, m.CallActor(task_id, actor_id, 0, number, b"", None, in_order=in_order))
    cluster.run()
    assert runs(former, process) == [task_id]
    cluster.pass_time(0.3)
    cluster.held |= {("h", "f"), ("a", "gcs")}
    comes_alive(busy, create(Program(busy), demand=WANTS, running_demand=WANTS))
    cluster.cut("h", "f")
    cluster.pass_time(0.5)
    assert not busy.core.router.actors[actor_id].is_proxy
    cluster.held.discard(("a", "gcs"))
    room = cluster.add("d", r=1)
    cluster.pass_time(1.0)
    process = comes_alive(room, actor_id, 1)
    cluster.die("f")
    assert runs(room, process) == [task_id]
    room.say(process, done(return_id(task_id, 0), 1))
    cluster.run()
    assert busy.state_of(return_id(task_id, 0)) == "INLINE"
    assert not busy.core.router.actors[actor_id].in_flight


@pytest.mark.parametrize("place", ["same", "other"])
def test_who_calls_from_the_host_follows_an_actor_whose_home_gives_that_up(place: str) -> None:
    cluster = Cluster()
    home, host = cluster.add("h"), cluster.add("a", 3, r=1)
    driver = Program(home)
    actor_id = create(driver, RESTARTS, demand=WANTS)
    cluster.run()
    process = comes_alive(host, actor_id)
    user = user_of(actor_id, driver, host)
    first = user.call(actor_id, max_retries=-1)
    host.say(process, done(first))
    in_flight = user.call(actor_id, max_retries=-1)
    never_again = user.call(actor_id)
    now_at = host if place == "same" else cluster.add("d", r=1)
    cluster.cut("h", "a")
    cluster.line_ends("h", "a")
    meanwhile = user.call(actor_id, max_retries=-1)
    cluster.pass_time(AVOID_S + 1.0)
    process = comes_alive(now_at, actor_id, 1)
    late = user.call(actor_id, max_retries=-1)
    cluster.run()
    calls = [in_flight, meanwhile, late]
    assert runs(now_at, process) == [call[:16] for call in calls]
    for call in calls:
        now_at.say(process, done(call, int(call is in_flight)))
    cluster.run()
    assert user.errors() == {never_again: "ActorUnavailableError"}
    assert {host.state_of(call) for call in calls} == {"INLINE"}
    user.release(first, *calls, never_again, handle_id(actor_id))
    cluster.run()
    if place == "other":
        host.say(user.peer, m.Leaving("bye"))
        host.lose(user.peer)
        cluster.run()
        assert actor_id not in host.core.router.actors
