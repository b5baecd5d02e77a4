"""References between nodes whose lines to each other are given up, though all of them live."""

from __future__ import annotations

import pytest

from skate import messages as m
from skate.config import LINK_GIVE_UP_S, REACH_AGAIN_S, SILENT_NODE_S
from skate.rows import Client
from tests.node.played_cluster import Cluster, ClusterNode, to_node
from tests.node.played_node import PAGE, Program, done, runs


def holder(driver: Program, where: ClusterNode, object_id: bytes) -> Client:
    """A process of that node that comes to hold the object, as nobody else does there."""
    task = driver.submit(nested=[object_id], strategy=to_node(where), name="keep")
    where.cluster.run()
    process = where.came_up()
    where.cluster.run()
    assert runs(where, process) == [task[:16]]
    where.say(process, m.Hold([object_id]), done(task))
    where.cluster.run()
    driver.release(task)
    return process


def read(node: ClusterNode, process: Client, object_id: bytes) -> bytes:
    node.say(process, m.Want([object_id]))
    node.cluster.run()
    return [x.data for x in node.said(process) if isinstance(x, m.Ready)][-1]


@pytest.mark.parametrize("end", ["as it opens a new one", "before"])
def test_a_node_whose_line_is_given_up_still_holds_what_it_held(end: str) -> None:
    """Until its home has read the first Hold on the new line."""
    cluster = Cluster()
    home, other = cluster.add("h"), cluster.add("a")
    driver = Program(home)
    cluster.run()
    object_id = driver.put()
    process = holder(driver, other, object_id)
    driver.release(object_id)
    cluster.held.add(("a", "h"))
    cluster.cut("a", "h")
    if end == "before":
        cluster.line_ends("a", "h")
    cluster.held.clear()
    cluster.run()
    assert read(other, process, object_id) == b"\x03put"
    other.say(process, m.Release([object_id]))
    cluster.run()
    assert object_id not in home.core.store.objects


@pytest.mark.parametrize("when", ["on its way", "during the cut"])
def test_what_a_node_lets_go_of_around_a_cut_is_freed(when: str) -> None:
    cluster = Cluster()
    home, other = cluster.add("h"), cluster.add("a")
    driver = Program(home)
    cluster.run()
    object_id = driver.put()
    process = holder(driver, other, object_id)
    driver.release(object_id)
    cluster.held.add(("a", "h"))
    if when == "on its way":
        other.say(process, m.Release([object_id]))
    cluster.cut("a", "h")
    cluster.line_ends("a", "h")
    if when == "during the cut":
        other.say(process, m.Release([object_id]))
    cluster.cut("a", "h")  # and once more, with nothing held
    assert object_id in home.core.store.objects
    cluster.held.clear()
    cluster.run()
    assert object_id not in home.core.store.objects
    assert not home.core.parts.holds.parked and other.core.parts.borrowing.is_idle()


@pytest.mark.parametrize("order", ["line first", "GCS first"])
def test_what_is_kept_for_a_node_goes_with_the_node(order: str) -> None:
    cluster = Cluster()
    home, other = cluster.add("h"), cluster.add("a")
    driver = Program(home)
    cluster.run()
    object_id = driver.put()
    holder(driver, other, object_id)
    driver.release(object_id)
    if order == "line first":
        cluster.line_ends("a", "h")
    assert object_id in home.core.store.objects
    cluster.die("a")
    assert object_id not in home.core.store.objects


def test_a_result_does_not_wait_for_ever_for_a_home_that_cannot_be_reached() -> None:
    """Two nodes cannot reach each other; a third reaches both, and waits for one of them."""
    cluster = Cluster()
    home, host, third = cluster.add("h"), cluster.add("a"), cluster.add("c")
    driver, client = Program(home), Program(third)
    cluster.run()
    object_id = driver.put()
    process = holder(driver, host, object_id)
    cluster.held.add(("a", "h"))
    cluster.cut("a", "h")
    task = client.submit(strategy=to_node(host), name="other")
    cluster.run()
    second = host.came_up()
    cluster.run()
    assert runs(host, second) == [task[:16]]
    host.say(second, done(task))
    cluster.pass_time(LINK_GIVE_UP_S)
    cluster.cut("a", "h")
    assert third.state_of(task) == "INLINE"
    # From now on nothing waits at all, until that home answers.
    again = client.submit(strategy=to_node(host), name="other")
    cluster.run()
    assert runs(host, second) == [again[:16]]
    host.say(second, done(again))
    cluster.run()
    assert third.state_of(again) == "INLINE"
    cluster.held.clear()
    cluster.run()
    assert read(host, process, object_id) == b"\x03put"


def test_a_result_waits_for_the_new_line_to_a_home_that_was_lost_for_a_moment() -> None:
    """What its task has handed over is registered before the giver may let go."""
    cluster = Cluster()
    home, host, giver = cluster.add("h"), cluster.add("a"), cluster.add("c")
    driver = Program(home)
    cluster.run()
    object_id = driver.put()
    between = Program(giver, holder(driver, giver, object_id))
    driver.release(object_id)
    task = between.submit(nested=[object_id], strategy=to_node(host), name="take")
    cluster.run()
    process = host.came_up()
    cluster.run()
    assert runs(host, process) == [task[:16]]
    cluster.held.add(("a", "h"))
    host.say(process, m.Hold([object_id]))
    cluster.cut("a", "h")
    host.say(process, done(task))
    between.release(object_id)
    cluster.run()
    assert giver.state_of(task) == "PENDING"
    cluster.held.clear()
    cluster.run()
    assert giver.state_of(task) == "INLINE"
    assert read(host, process, object_id) == b"\x03put"


def test_nor_does_what_its_task_has_handed_over_wait_without_end() -> None:
    """For a home that is out of reach; who has it reads an error then, if it was the last."""
    cluster = Cluster()
    home, host, giver = cluster.add("h"), cluster.add("a"), cluster.add("c")
    driver = Program(home)
    cluster.run()
    object_id = driver.put()
    between = Program(giver, holder(driver, giver, object_id))
    task = between.submit(nested=[object_id], strategy=to_node(host), name="take")
    cluster.run()
    process = host.came_up()
    cluster.run()
    assert runs(host, process) == [task[:16]]
    cluster.held.add(("a", "h"))
    host.say(process, m.Hold([object_id]))
    cluster.cut("a", "h")
    host.say(process, done(task))
    since = cluster.now
    while cluster.now < since + SILENT_NODE_S - LINK_GIVE_UP_S:
        cluster.pass_time(LINK_GIVE_UP_S)
        cluster.cut("a", "h")
        assert giver.state_of(task) == "PENDING"
    cluster.pass_time(LINK_GIVE_UP_S)
    cluster.cut("a", "h")
    assert giver.state_of(task) == "INLINE"


def test_what_an_attempt_made_before_a_cut_is_what_its_home_gets_and_lets_go_of() -> None:
    """Its ``Returned`` is lost with the line; the next attempt, on the same node, makes another."""
    cluster = Cluster()
    home, host = cluster.add("h"), cluster.add("a", 2)
    driver = Program(home)
    cluster.run()
    inner = driver.put()
    task = driver.submit(nested=[inner], strategy=to_node(host), name="twice")
    cluster.run()
    process = host.came_up()
    cluster.run()
    assert runs(host, process) == [task[:16]]
    reader = holder(driver, host, task)
    host.say(process, m.Hold([inner]))
    cluster.run()
    cluster.held.add(("a", "h"))
    result = m.Result(m.Value(b"\x03first"), [inner])
    host.say(process, m.Done(task[:16], 0, 1.0, 1.001, results=[result]), m.Release([inner]))
    cluster.cut("h", "a")
    assert runs(host, process) == [task[:16]]
    host.say(process, done(task, 1, b"\x03second"))
    cluster.held.clear()
    cluster.run()
    assert read(host, reader, task) == driver.values()[task] == b"\x03first"
    host.say(reader, m.Release([task]))
    driver.release(task, inner)
    cluster.run()
    assert not home.core.store.objects and not host.core.store.objects


def large_result(host: ClusterNode, process: Client, task: bytes) -> None:
    """The process returns a value of a page in the arena of its node."""
    host.say(process, m.CreateExtent(task, PAGE))
    offset = next(x.offset for x in host.said(process) if isinstance(x, m.Extent))
    result = m.Result(m.Value(b"", offset, PAGE))
    host.say(process, m.Done(task[:16], 0, 1.0, 1.001, results=[result]))
    host.cluster.run()


def made_and_held(driver: Program, maker: ClusterNode, reader: ClusterNode) -> tuple[bytes, Client]:
    """A large result that one node has made, and a process of another that has its ref."""
    task = driver.submit(strategy=to_node(maker), name="large")
    maker.cluster.run()
    made_by = maker.came_up()
    maker.cluster.run()
    process = holder(driver, reader, task)
    large_result(maker, made_by, task)
    return task, process


def test_a_value_whose_home_cannot_be_reached_is_not_waited_for_without_end() -> None:
    cluster = Cluster()
    home, other = cluster.add("h"), cluster.add("a")
    driver = Program(home)
    cluster.run()
    process = holder(driver, other, driver.put())
    pending = driver.submit(demand=(("none", 10_000),), name="waits")
    other.say(process, m.Hold([pending]), m.Want([pending]))
    cluster.run()
    cluster.held |= {("a", "h")}
    since = cluster.now
    while cluster.now < since + SILENT_NODE_S:
        assert not other.said(process)
        cluster.pass_time(LINK_GIVE_UP_S)
        cluster.cut("a", "h")
    cluster.pass_time(LINK_GIVE_UP_S)
    cluster.cut("a", "h")
    assert Program(other, process).errors() == {pending: "ObjectFetchTimedOutError"}
    # It is this node that has trouble, not the object.
    assert home.state_of(pending) == "PENDING"


def test_a_copy_is_read_if_the_home_cannot_be_reached() -> None:
    cluster = Cluster()
    home, maker, reader = cluster.add("h"), cluster.add("a"), cluster.add("b")
    driver = Program(home)
    cluster.run()
    task, process = made_and_held(driver, maker, reader)
    cluster.held |= {("b", "h")}
    reader.say(process, m.Want([task]))
    for _ in range(2):
        cluster.cut("b", "h")
    assert [fetch[2] for fetch in reader.fetches] == [maker.core.me.node_id]


def test_a_home_passes_on_what_lies_on_a_node_that_is_cut_off_from_the_reader() -> None:
    """However often their line is given up meanwhile: it began anew each time."""
    cluster = Cluster()
    home, maker, reader = cluster.add("h"), cluster.add("a"), cluster.add("b")
    driver = Program(home)
    cluster.run()
    task, process = made_and_held(driver, maker, reader)
    reader.say(process, m.Want([task]))
    cluster.run()
    cluster.cut("b", "a")
    assert [fetch[2] for fetch in reader.fetches] == [maker.core.me.node_id]
    assert [fetch[2] for fetch in home.fetches] == [maker.core.me.node_id]


def test_a_copy_of_what_a_lost_attempt_made_goes_with_the_object() -> None:
    """Its home was never told of that value: it runs the task again, and frees its own."""
    cluster = Cluster()
    home, host, reader = cluster.add("h"), cluster.add("a", 2), cluster.add("b")
    driver = Program(home)
    cluster.run()
    task = driver.submit(strategy=to_node(host, soft=True), name="large")
    cluster.run()
    made_by = host.came_up()
    cluster.run()
    assert runs(host, made_by) == [task[:16]]
    process = holder(driver, host, task)
    cluster.held |= {("a", "h"), ("h", "a")}
    large_result(host, made_by, task)
    reading = Program(host, process).submit([task], strategy=to_node(reader), name="reads")
    cluster.run()
    assert reader.fetched() == [task]
    reads = reader.came_up()
    cluster.run()
    assert runs(reader, reads) == [reading[:16]]
    reader.say(reads, done(reading))
    cluster.cut("h", "a")
    cluster.line_ends("h", "a")
    again = home.came_up()
    home.say(again, done(task, 1))
    assert home.state_of(task) == "INLINE"
    cluster.cut("a", "h")
    cluster.held.clear()
    cluster.run()
    host.say(process, m.Release([task, reading]))
    driver.release(task)
    cluster.run()
    for node in (home, host, reader):
        assert task not in node.core.store.objects


class Kept:
    """A large result that its maker ``a`` keeps for its home ``h``; their lines are given up."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.home, self.maker = self.cluster.add("h"), self.cluster.add("a")
        self.driver = Program(self.home)
        self.cluster.run()
        self.ref = self.driver.submit(strategy=to_node(self.maker), name="large")
        self.cluster.run()
        made_by = self.maker.came_up()
        self.cluster.run()
        assert runs(self.maker, made_by) == [self.ref[:16]]
        large_result(self.maker, made_by, self.ref)
        self.driver.values()

    def cut(self) -> None:
        self.cluster.held |= {("a", "h"), ("h", "a")}
        self.cluster.cut("h", "a")
        self.cluster.line_ends("h", "a")

    def mend(self) -> None:
        self.cluster.held.clear()
        self.cluster.run()

    def fetches_fail(self) -> None:
        fetches, self.home.fetches = self.home.fetches, []
        for object_id, size, _ in fetches:
            self.home.core.fetched(object_id, "unreachable", size, 0.001)
            self.home.turn()
        self.cluster.run()


def test_a_result_outlives_the_line_to_who_keeps_it() -> None:
    scene = Kept()
    scene.cut()
    scene.home.say(scene.driver.peer, m.Want([scene.ref]))
    scene.fetches_fail()
    assert scene.home.state_of(scene.ref) == "REMOTE"
    assert not scene.driver.values()
    scene.cluster.cut("h", "a")  # and once more
    scene.cluster.pass_time(REACH_AGAIN_S + 1.0)
    scene.mend()
    assert scene.home.fetched() == [scene.ref]
    assert list(scene.driver.values()) == [scene.ref]
    assert not scene.maker.core.parts.holds.parked
    scene.driver.release(scene.ref)
    scene.cluster.run()
    assert not scene.home.core.store.objects and not scene.maker.core.store.objects


def test_a_result_that_is_let_go_of_during_a_cut_goes_where_it_is_kept() -> None:
    scene = Kept()
    scene.cut()
    scene.driver.release(scene.ref)
    scene.cluster.run()
    assert scene.ref in scene.maker.core.store.objects
    scene.mend()
    assert not scene.home.core.store.objects and not scene.maker.core.store.objects
    assert not scene.maker.core.parts.holds.parked


def test_a_result_whose_keeper_is_out_of_reach_is_not_waited_for_without_end() -> None:
    scene = Kept()
    scene.cut()
    scene.home.say(scene.driver.peer, m.Want([scene.ref]))
    since = scene.cluster.now
    while not (errors := scene.driver.errors()):
        assert scene.cluster.now < since + SILENT_NODE_S + 2 * REACH_AGAIN_S
        scene.fetches_fail()
        scene.cluster.pass_time(REACH_AGAIN_S)
    assert scene.cluster.now > since + SILENT_NODE_S
    assert errors == {scene.ref: "ObjectFetchTimedOutError"}
    # It is this node's trouble, now: the next get asks anew.
    scene.mend()
    scene.home.say(scene.driver.peer, m.Want([scene.ref]))
    assert scene.home.fetched() == [scene.ref]
    assert list(scene.driver.values()) == [scene.ref]


def test_a_result_is_lost_with_who_keeps_it() -> None:
    scene = Kept()
    scene.cut()
    scene.cluster.die("a")
    assert scene.driver.errors() == {scene.ref: "ObjectLostError"}


def test_what_is_inside_of_a_small_result_outlives_the_line_to_its_maker() -> None:
    """Until the home of that has heard that it is held where the result is now."""
    cluster = Cluster()
    home, maker, third = cluster.add("h"), cluster.add("a"), cluster.add("c")
    driver, other = Program(home), Program(third)
    cluster.run()
    ref = driver.submit(strategy=to_node(maker), name="maker")
    cluster.run()
    worker = maker.came_up()
    cluster.run()
    assert runs(maker, worker) == [ref[:16]]
    inside = other.put()
    maker.say(worker, m.Hold([inside]))
    cluster.run()
    other.release(inside)
    cluster.held.add(("h", "c"))
    result = m.Result(m.Value(b"\x03value"), [inside])
    maker.say(worker, done(ref, data=b"", results=[result]), m.Release([inside]))
    cluster.run()
    assert home.state_of(ref) == "INLINE"
    cluster.cut("h", "a")
    assert inside in third.core.store.objects
    cluster.held.clear()
    cluster.run()
    assert inside in third.core.store.objects and inside not in maker.core.store.objects
    driver.release(ref)
    cluster.run()
    for node in cluster.nodes.values():
        assert inside not in node.core.store.objects
        assert not node.core.parts.holds.parked and node.core.parts.borrowing.is_idle()
