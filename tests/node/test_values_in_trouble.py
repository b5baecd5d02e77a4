"""Node cores as event lists: values that cannot be had for a while, or go while they are told."""

from __future__ import annotations

import pytest

from skate import messages as m
from skate.rows import Client
from skate.spec import FORMAT_ERROR
from tests.node.played_cluster import Cluster, ClusterNode, to_node
from tests.node.played_node import PAGE, Program, done, runs

PAGES = 40
"""Of each result: more than fits a message."""


def make(node: ClusterNode, worker: Client, ref: bytes, attempt: int = 0) -> None:
    """The worker makes the large result."""
    assert runs(node, worker) == [ref[:16]]
    node.say(worker, m.CreateExtent(ref, PAGES * PAGE))
    (extent,) = [x for x in node.said(worker) if isinstance(x, m.Extent)]
    result = m.Result(m.Value(b"", extent.offset, PAGES * PAGE))
    node.say(worker, done(ref, attempt, data=b"", results=[result]))
    node.cluster.run()


def made_at(maker: ClusterNode, driver: Program) -> bytes:
    """A large result that lies on this node."""
    ref = driver.submit(strategy=to_node(maker))
    maker.cluster.run()
    make(maker, maker.came_up(), ref)
    return ref


def reads_at(reader: ClusterNode, driver: Program, ref: bytes) -> Client:
    """A task on this node has the ref, and asks for nothing yet."""
    driver.submit(nested=[ref], strategy=to_node(reader), name="reads")
    reader.cluster.run()
    worker = reader.came_up()
    reader.cluster.run()
    assert runs(reader, worker)
    return worker


def test_a_home_whose_store_is_full_spoils_no_value_elsewhere() -> None:
    cluster = Cluster()
    home = cluster.add("h", pages=PAGES)
    maker = cluster.add("m")
    reader = cluster.add("r")
    driver = Program(home)
    cluster.run()
    ref = made_at(maker, driver)
    assert home.state_of(ref) == "REMOTE"
    # The home's store is full of something that stays.
    put = driver.ids.next_put()
    home.say(driver.peer, m.CreateExtent(put, PAGES * PAGE), m.Seal(put))
    # A task on the reader's node wants the value; that cannot reach who has it.
    worker = reads_at(reader, driver, ref)
    reader.say(worker, m.Hold([ref]), m.Want([ref]))
    cluster.run()
    for _ in range(40):
        for object_id, size, _ in reader.fetches:
            reader.core.fetched(object_id, "unreachable", size, 0.001)
        reader.fetches.clear()
        reader.turn()
        cluster.pass_time(0.1)
    told = [x for x in reader.said(worker) if isinstance(x, m.Ready)]
    assert [x.offset for x in told] == [m.TROUBLE]
    assert reader.state_of(ref) == "PENDING"
    # Later it can.
    reader.say(worker, m.Want([ref]))
    cluster.run()
    assert reader.fetched() == [ref]
    (ready,) = [x for x in reader.said(worker) if isinstance(x, m.Ready)]
    assert ready.size == PAGES * PAGE and ready.offset >= 0


def test_a_value_that_is_lost_before_who_asked_reads_on_is_asked_for_anew() -> None:
    cluster = Cluster()
    home = cluster.add("h")
    maker = cluster.add("m")
    reader = cluster.add("r", pages=PAGES)
    driver = Program(home)
    cluster.run()
    ref = made_at(maker, driver)
    worker = reads_at(reader, driver, ref)
    # It asks, and does not read what it is told.
    reader.say(worker, m.Hold([ref]), m.Want([ref]))
    cluster.run()
    worker.paused = True
    assert reader.fetched() == [ref]
    assert list(worker.deferred) == [ref] and not reader.said(worker)
    # Its space is wanted, and the node that it came from dies.
    other = Program(reader)
    reader.say(other.peer, m.CreateExtent(other.ids.next_put(), PAGES * PAGE))
    cluster.die("m")
    assert reader.state_of(ref) == "PENDING"
    reader.core.resume(worker)
    reader.turn()
    cluster.run()
    cluster.pass_time(5.0)
    (told,) = [x for x in reader.said(worker) if isinstance(x, m.Ready)]
    assert told.data[:1] == FORMAT_ERROR


def test_the_last_copy_of_a_value_stays_while_it_is_held() -> None:
    cluster = Cluster()
    home = cluster.add("h")
    maker = cluster.add("m")
    reader = cluster.add("r", pages=PAGES)
    driver = Program(home)
    cluster.run()
    ref = made_at(maker, driver)
    worker = reads_at(reader, driver, ref)
    reader.say(worker, m.Hold([ref]), m.Want([ref]))
    cluster.run()
    assert reader.fetched() == [ref]
    cluster.die("m")
    cluster.pass_time(1.0)
    # Space is wanted, and its place is forgotten: it lies nowhere else.
    other = Program(reader)
    reader.say(other.peer, m.CreateExtent(other.ids.next_put(), PAGES * PAGE))
    for question in [x for x in reader.said(worker) if isinstance(x, m.Revoke)]:
        reader.say(worker, m.Revoked(question.number, question.object_ids))
    cluster.pass_time(5.0)
    assert (home.state_of(ref), reader.state_of(ref)) == ("REMOTE", "SEALED")
    assert home.core.store.objects[ref].nodes == [reader.core.me.node_id]


@pytest.mark.parametrize("first", ["the copy", "the task"])
def test_a_value_comes_from_elsewhere_while_a_task_that_was_given_up_makes_it(first: str) -> None:
    cluster = Cluster()
    home, other = cluster.add("h"), cluster.add("a", cpus=2)
    driver = Program(home)
    cluster.run()
    ref = driver.submit(strategy=to_node(other, soft=True))
    cluster.run()
    orphan = other.came_up()
    cluster.run()
    assert runs(other, orphan) == [ref[:16]]
    driver.submit(nested=[ref], strategy=to_node(other), name="reads")
    cluster.run()
    reader = other.came_up()
    cluster.run()
    assert runs(other, reader)
    other.say(reader, m.Hold([ref]), m.Want([ref]))
    cluster.run()
    if first == "the task":
        other.say(orphan, m.CreateExtent(ref, PAGES * PAGE))
    # Its home gives the other node up, and has the value made anew.
    cluster.cut("h", "a")
    cluster.line_ends("h", "a")
    worker = home.came_up()
    cluster.run()
    make(home, worker, ref, attempt=1)
    if first == "the copy":
        other.say(orphan, m.CreateExtent(ref, PAGES * PAGE))
    (extent,) = [x for x in other.said(orphan) if isinstance(x, m.Extent)]
    assert other.fetched() == [ref]
    (ready,) = [x for x in other.said(reader) if isinstance(x, m.Ready)]
    assert ready.size and ready.offset >= 0 and ready.offset != extent.offset
    result = m.Result(m.Value(b"", extent.offset, PAGES * PAGE))
    other.say(orphan, done(ref, data=b"", results=[result]))
    assert len(other.core.store.arena) == 1
