"""Node cores as event lists: values that cannot be had for a while, or go while they are told."""

from __future__ import annotations

from skate import messages as m
from skate.node.peer import Peer
from skate.spec import FORMAT_ERROR
from tests.node.played_cluster import Cluster, ClusterNode, to_node
from tests.node.played_node import PAGE, Client, done, runs

PAGES = 40
"""Of each result: more than fits a message."""


def make(node: ClusterNode, worker: Peer, ref: bytes) -> None:
    """The worker makes the large result."""
    assert runs(node, worker) == [ref[:16]]
    node.say(worker, m.CreateExtent(ref, PAGES * PAGE))
    (extent,) = [x for x in node.said(worker) if isinstance(x, m.Extent)]
    result = m.Result(m.Value(b"", extent.offset, PAGES * PAGE))
    node.say(worker, done(ref, data=b"", results=[result]))
    node.cluster.run()


def test_a_home_whose_store_is_full_spoils_no_value_elsewhere() -> None:
    cluster = Cluster()
    home = cluster.add("h", pages=PAGES)
    maker = cluster.add("m")
    reader = cluster.add("r")
    driver = Client(home)
    cluster.run()
    ref = driver.submit(strategy=to_node(maker))
    cluster.run()
    make(maker, maker.came_up(), ref)
    assert home.state_of(ref) == "REMOTE"
    # The home's store is full of something that stays.
    put = driver.ids.next_put()
    home.say(driver.peer, m.CreateExtent(put, PAGES * PAGE), m.Seal(put))
    # A task on the reader's node wants the value; that cannot reach who has it.
    driver.submit(nested=[ref], strategy=to_node(reader), name="reads")
    cluster.run()
    worker = reader.came_up()
    cluster.run()
    assert runs(reader, worker)
    reader.say(worker, m.Hold([ref]), m.Want([ref]))
    cluster.run()
    for _ in range(40):
        for object_id, size, _ in reader.fetches:
            reader.core.pulls.fetched(object_id, "unreachable", size, 0.001)
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
    driver = Client(home)
    cluster.run()
    ref = driver.submit(strategy=to_node(maker))
    cluster.run()
    make(maker, maker.came_up(), ref)
    driver.submit(nested=[ref], strategy=to_node(reader), name="reads")
    cluster.run()
    worker = reader.came_up()
    cluster.run()
    assert runs(reader, worker)
    # It asks, and does not read what it is told.
    reader.say(worker, m.Hold([ref]), m.Want([ref]))
    cluster.run()
    worker.paused = True
    assert reader.fetched() == [ref]
    assert list(worker.deferred) == [ref] and not reader.said(worker)
    # Its space is wanted, and the node that it came from dies.
    other = Client(reader)
    reader.say(other.peer, m.CreateExtent(other.ids.next_put(), PAGES * PAGE))
    cluster.die("m")
    assert reader.state_of(ref) == "PENDING"
    reader.core.desk.resume(worker)
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
    driver = Client(home)
    cluster.run()
    ref = driver.submit(strategy=to_node(maker))
    cluster.run()
    make(maker, maker.came_up(), ref)
    driver.submit(nested=[ref], strategy=to_node(reader), name="reads")
    cluster.run()
    worker = reader.came_up()
    cluster.run()
    assert runs(reader, worker)
    reader.say(worker, m.Hold([ref]), m.Want([ref]))
    cluster.run()
    assert reader.fetched() == [ref]
    cluster.die("m")
    cluster.pass_time(1.0)
    # Space is wanted, and its place is forgotten: it lies nowhere else.
    other = Client(reader)
    reader.say(other.peer, m.CreateExtent(other.ids.next_put(), PAGES * PAGE))
    for question in [x for x in reader.said(worker) if isinstance(x, m.Revoke)]:
        reader.say(worker, m.Revoked(question.number, question.object_ids))
    cluster.pass_time(5.0)
    assert (home.state_of(ref), reader.state_of(ref)) == ("REMOTE", "SEALED")
    assert home.core.store.objects[ref].nodes == [reader.core.node_id]
