"""Node cores as event lists: tasks whose inputs fit a store pair by pair, and not together."""

from __future__ import annotations

import itertools

import pytest

from skate import messages as m
from skate.ids import return_id
from skate.rows import Client
from tests.node.played_cluster import Cluster, ClusterNode, to_node
from tests.node.played_node import PAGE, Program, done, runs

PAGES = 40
"""Of each result: more than fits a message."""


class Scene:
    """A driver whose node has room for two results of the other node; it holds some of them."""

    def __init__(self, count: int) -> None:
        self.cluster = Cluster()
        self.home = self.cluster.add("h", pages=2 * PAGES)
        self.other = self.cluster.add("o", pages=1_000)
        self.driver = Program(self.home)
        self.cluster.run()
        self.refs = [self._result() for _ in range(count)]
        assert [self.home.state_of(ref) for ref in self.refs] == ["REMOTE"] * count
        self.home.said(self.driver.peer)
        self.worker: Client

    def _result(self) -> bytes:
        ref = self.driver.submit(strategy=to_node(self.other))
        self.cluster.run()
        if self.other.started:
            self.worker = self.other.came_up()
        self.cluster.run()
        assert runs(self.other, self.worker) == [ref[:16]]
        make(self.other, self.worker, ref)
        self.cluster.run()
        return ref


def make(node: ClusterNode, worker: Client, ref: bytes) -> None:
    """The worker makes the large result."""
    node.say(worker, m.CreateExtent(ref, PAGES * PAGE))
    (extent,) = [x for x in node.said(worker) if isinstance(x, m.Extent)]
    result = m.Result(m.Value(b"", extent.offset, PAGES * PAGE))
    node.say(worker, done(ref, data=b"", results=[result]))


class Tasks:
    """Tasks of a driver on a node that has room for two of their inputs."""

    def __init__(self, inputs: int, pairs: list[tuple[int, ...]]) -> None:
        self.scene = Scene(inputs)
        self.home = self.scene.home
        self.refs = self.scene.refs
        self.results = [
            self.scene.driver.submit([self.refs[i] for i in pair], strategy=to_node(self.home))
            for pair in pairs
        ]
        self.scene.cluster.run()
        self.ran: list[bytes] = []

    def play(self, seconds: float = 5.0) -> None:
        """Time passes; what is fetched arrives, what is run ends."""
        for _ in range(int(seconds / 0.1)):
            self.home.fetched()
            while self.home.started:
                self.home.came_up()
            for worker in list(self.home.core.scheduler.workers.values()):
                if worker.client is None:
                    continue
                for run in [x for x in self.home.said(worker.client) if isinstance(x, m.Run)]:
                    assert all(value.size == PAGES * PAGE for value in run.values)
                    self.ran.append(return_id(run.task_id, 0))
                    self.home.say(worker.client, done(self.ran[-1]))
            self.scene.cluster.pass_time(0.1)


@pytest.mark.parametrize(
    ("inputs", "pairs"),
    [
        (6, [(0, 1), (2, 3), (4, 5)]),
        (3, [(0, 1), (1, 2), (2, 0)]),
        (4, [(0, 1), (2, 0), (3, 1), (2, 3)]),
        (4, list(itertools.permutations(range(4), 2))),
    ],
)
def test_each_task_gets_all_its_inputs(inputs: int, pairs: list[tuple[int, ...]]) -> None:
    tasks = Tasks(inputs, pairs)
    tasks.play()
    assert tasks.scene.driver.errors() == {}
    assert sorted(tasks.ran) == sorted(tasks.results)


def test_one_whose_inputs_do_not_fit_fails_and_no_other() -> None:
    tasks = Tasks(4, [(0, 1, 2), (1, 2), (2, 3)])
    tasks.play(8.0)
    assert tasks.scene.driver.errors() == {tasks.results[0]: "ObjectStoreFullError"}
    assert sorted(tasks.ran) == sorted(tasks.results[1:])
