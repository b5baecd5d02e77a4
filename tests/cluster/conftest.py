"""Clusters for tests: one that a module shares, and one of a test's own. See many_nodes.py."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import skate
from skate.cluster_utils import Cluster, ClusterNode
from tests.cluster.many_nodes import Trio, assert_back_to, assert_idle, counts
from tests.conftest import Leftovers


@pytest.fixture(scope="module")
def trio_of_module(skate_temp_dir: Path) -> Iterator[Trio]:
    trio = Trio()
    yield trio
    sessions = [node.session_dir.name for node in trio.nodes]
    trio.cluster.shutdown()
    leftovers = Leftovers(skate_temp_dir)
    for name in sessions:
        leftovers.assert_gone(name)


@pytest.fixture
def trio(trio_of_module: Trio) -> Iterator[Trio]:
    """Three nodes; after the test none of them has an object, an actor or a busy CPU more."""
    before = counts(trio_of_module.nodes)
    yield trio_of_module
    gc.collect()  # an error that was caught keeps the frames, and they the refs
    assert_idle(trio_of_module.nodes)
    assert_back_to(before, trio_of_module.nodes)
    assert trio_of_module.cluster.remaining_processes_alive()


@pytest.fixture
def fresh_cluster(no_leftovers: Leftovers) -> Iterator[Cluster]:
    """No nodes yet; nothing of those that the test adds is left after it."""
    made = Cluster()
    added: list[ClusterNode] = []
    add_node = made.add_node

    def add_and_note(*arguments: Any, **options: Any) -> ClusterNode:
        added.append(add_node(*arguments, **options))
        return added[-1]

    made.add_node = add_and_note  # type: ignore[method-assign]
    yield made
    skate.shutdown()
    made.shutdown()
    for node in added:
        no_leftovers.assert_gone(node.session_dir.name)
