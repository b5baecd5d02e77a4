"""Who asks for much gets it in the end, though small tasks keep every node busy without a pause."""

from __future__ import annotations

import threading
import time
from collections import Counter as Tally
from collections.abc import Iterator
from typing import Any

import pytest

import skate
from skate.cluster_utils import Cluster
from skate.util.placement_group import placement_group, remove_placement_group
from skate.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from tests.cluster.many_nodes import get, node_id

SOON_S = 8.0
"""A second of patience, and a few for a machine under load; without fairness it is never."""

WAITING = 60
"""Tasks that always wait or run, of 20 ms on four CPUs."""


@skate.remote
def short() -> str:
    time.sleep(0.02)
    return node_id()


class Stream:
    """A thread that keeps the queues of all nodes full of short tasks."""

    def __init__(self) -> None:
        self.places: Tally[str] = Tally()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        refs = [short.remote() for _ in range(WAITING)]
        while not self._ends.is_set():
            done, refs = skate.wait(refs, num_returns=len(refs) // 2, timeout=5)
            self.places.update(skate.get(done))
            refs += [short.remote() for _ in done]
        skate.get(refs)

    def runs_on(self, nodes: int) -> None:
        """Until all of these nodes have run some more of it."""
        before = Tally(self.places)
        give_up_at = time.monotonic() + SOON_S
        while len(self.places - before) < nodes:
            assert time.monotonic() < give_up_at, (before, self.places)
            time.sleep(0.02)

    def end(self) -> None:
        self._ends.set()
        self._thread.join()


@pytest.fixture
def stream(fresh_cluster: Cluster) -> Iterator[Stream]:
    """Two nodes with two CPUs each, and not one of them free for long."""
    fresh_cluster.add_node(num_cpus=2)
    fresh_cluster.add_node(False, num_cpus=2)
    fresh_cluster.wait_for_nodes()
    fresh_cluster.connect()
    made = Stream()
    try:
        made.runs_on(2)
        yield made
    finally:
        made.end()


def test_a_placement_group_of_whole_nodes(stream: Stream) -> None:
    for _ in range(2):
        group = placement_group([{"CPU": 2}] * 2, strategy="STRICT_SPREAD")
        assert group.wait(SOON_S)
        inside = [
            short.options(
                num_cpus=2, scheduling_strategy=PlacementGroupSchedulingStrategy(group, index)
            ).remote()
            for index in range(2)
        ]
        assert len(set(get(inside))) == 2
        remove_placement_group(group)
        stream.runs_on(2)


def test_a_group_on_one_node_leaves_the_other_to_the_stream(stream: Stream) -> None:
    group = placement_group([{"CPU": 1}] * 2, strategy="STRICT_PACK")
    assert group.wait(SOON_S)
    stream.runs_on(1)
    remove_placement_group(group)
    stream.runs_on(2)


@pytest.mark.parametrize("strategy", ["DEFAULT", "SPREAD"])
def test_a_task_of_a_whole_node(stream: Stream, strategy: str) -> None:
    large = short.options(num_cpus=2, scheduling_strategy=strategy)
    for _ in range(3):  # both nodes look busy: the task may move between them meanwhile
        assert skate.get(large.remote(), timeout=SOON_S)
    stream.runs_on(2)


def test_an_actor_of_a_whole_node(stream: Stream) -> None:
    @skate.remote(num_cpus=2)
    class Large:
        def where(self) -> Any:
            return node_id()

    large = Large.remote()
    assert skate.get(large.where.remote(), timeout=SOON_S)
    stream.runs_on(1)
    del large
    stream.runs_on(2)
