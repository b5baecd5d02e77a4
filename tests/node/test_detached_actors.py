"""A detached actor has its own job: what it owns outlives the driver and ends with the actor."""

from __future__ import annotations

from skate import messages as m
from skate.ids import job_of
from skate.scheduler.group_names import GROUP_ID_BYTES
from tests.node.played_cluster import Cluster, ClusterNode, comes_alive, create, to_node
from tests.node.played_node import CPU, Program, done, runs

GROUP = b"G" * GROUP_ID_BYTES
DETACHED = {"detached": True, "name": "x", "namespace": "y"}


def job_id_of(client: Program) -> bytes:
    return job_of(client.ids.next_task())


class Scene:
    """A driver at ``d``, its detached actor at ``h`` (whose home is ``d``), and another node."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.at_driver = self.cluster.add("d")
        self.host = self.cluster.add("h", 2)
        self.other = self.cluster.add("a", 2)
        self.driver = Program(self.at_driver)
        self.cluster.run()
        self.actor_id = create(self.driver, DETACHED, strategy=to_node(self.host))
        self.cluster.run()
        self.process = comes_alive(self.host, self.actor_id)
        self.inside = Program(self.host, self.process)

    @property
    def nodes(self) -> list[ClusterNode]:
        return list(self.cluster.nodes.values())

    def end_driver(self) -> None:
        self.at_driver.say(self.driver.peer, m.Leaving("bye"))
        self.cluster.run()

    def kill(self, client: Program) -> None:
        client.node.say(client.peer, m.KillActor(self.actor_id, True))
        self.cluster.run()

    def group_state(self) -> str:
        row = self.cluster.gcs.groups.groups.get(GROUP)
        assert row is not None
        return row.state.name


def test_what_it_has_submitted_and_created_outlives_the_driver_and_ends_with_it() -> None:
    scene = Scene()
    inside, other = scene.inside, scene.other
    child = create(inside, strategy=to_node(other))
    scene.cluster.run()
    inside_child = comes_alive(other, child)
    running = inside.submit(strategy=to_node(other))
    scene.cluster.run()
    worker = other.came_up()
    scene.cluster.run()
    assert runs(other, worker) == [running[:16]]
    queued = [inside.submit(strategy=to_node(other), demand=CPU) for _ in range(3)]
    job_id = job_id_of(inside)
    body = {"group_id": GROUP, "bundles": [{"CPU": 10_000}], "job_id": job_id}
    scene.host.say(inside.peer, m.Ask(1, "create_placement_group", body))
    scene.cluster.run()
    assert scene.group_state() == "CREATED"

    scene.end_driver()
    call = inside.call(child)
    scene.cluster.run()
    assert runs(other, inside_child) == [call[:16]]
    other.say(inside_child, done(call))
    other.say(worker, done(running))
    scene.cluster.run()
    assert scene.host.state_of(call) == scene.host.state_of(running) == "INLINE"
    assert scene.group_state() == "CREATED"
    assert other.actor_state(child) == "ALIVE"

    later = Program(other)
    scene.kill(later)
    assert scene.group_state() == "REMOVED"
    assert inside_child.worker in other.killed or not inside_child.alive
    assert [job.id for node in scene.nodes for job in node.core.jobs.by_id.values()] == [
        job_id_of(later)
    ]
    assert not other.core.scheduler.queued() and queued
    rows = scene.cluster.gcs.membership.jobs.rows()
    assert [row.job_id for row in rows if row.alive] == [job_id_of(later)]


def test_calls_of_other_drivers_go_on_when_its_own_ends() -> None:
    scene = Scene()
    scene.driver.submit(strategy=to_node(scene.other))  # so the caller's node knows that job
    caller = Program(scene.other)
    first = caller.call(scene.actor_id)
    scene.cluster.run()
    assert runs(scene.host, scene.process) == [first[:16]]
    scene.end_driver()
    second = caller.call(scene.actor_id)
    scene.cluster.run()
    assert runs(scene.host, scene.process) == [second[:16]]
    for call in (first, second):
        scene.host.say(scene.process, done(call))
    scene.cluster.run()
    assert not caller.errors()
    assert [scene.other.state_of(call) for call in (first, second)] == ["INLINE"] * 2


def test_what_it_prints_is_shown_at_the_driver_that_created_it() -> None:
    scene = Scene()
    lines = m.LogLines("Actor", 1, 1, ["hello"])

    def prints() -> None:
        job = scene.host.core.jobs.by_id[job_id_of(scene.inside)]
        scene.host.core.parts.jobs.tell_driver(job, lines)
        scene.host.turn()
        scene.cluster.run()

    prints()
    told = scene.at_driver.said(scene.driver.peer)
    assert [x.lines for x in told if isinstance(x, m.LogLines)] == [["hello"]]
    assert scene.at_driver.core.parts.jobs.prints_of(job_id_of(scene.driver)) == {
        job_id_of(scene.driver),
        job_id_of(scene.inside),
    }
    scene.end_driver()
    prints()


def test_a_detached_actor_of_a_detached_actor_outlives_that() -> None:
    scene = Scene()
    options = {**DETACHED, "name": "z"}
    second = create(scene.inside, options, strategy=to_node(scene.other))
    scene.cluster.run()
    comes_alive(scene.other, second)
    scene.end_driver()
    scene.kill(Program(scene.at_driver))
    assert scene.other.actor_state(second) == "ALIVE"


def test_the_end_of_its_home_ends_it_and_all_that_it_owns() -> None:
    scene = Scene()
    child = create(scene.inside, strategy=to_node(scene.other))
    scene.cluster.run()
    inside_child = comes_alive(scene.other, child)
    scene.cluster.die("d")
    assert inside_child.worker in scene.other.killed or not inside_child.alive
    assert not scene.host.core.jobs.by_id and not scene.other.core.jobs.by_id


def test_who_asks_for_it_later_reads_why_it_is_dead() -> None:
    scene = Scene()
    scene.end_driver()
    scene.kill(Program(scene.other))
    late = Program(scene.at_driver)
    call = late.call(scene.actor_id)
    scene.cluster.run()
    assert late.errors() == {call: "ActorDiedError"}
    assert not scene.at_driver.core.router.actors, "and nothing is kept for that"
