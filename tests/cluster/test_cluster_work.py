"""Programs on three nodes of one host: tasks, objects and actors that cross from node to node."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import skate
from skate.cluster_utils import Cluster
from skate.config import MAX_FRAME_BYTES
from skate.launch.observer import Observer
from skate.util.placement_group import placement_group, remove_placement_group
from skate.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)
from tests.conftest import eventually

STORE_BYTES = 100 << 20
A, B = {"a": 0.01}, {"b": 0.01}  # resources that only the first, or the second, worker node has


@pytest.fixture(scope="module")
def cluster(skate_temp_dir: Any) -> Iterator[Cluster]:
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": STORE_BYTES}
    )
    for name in "ab":
        cluster.add_node(
            num_cpus=2,
            resources={name: 1},
            labels={"side": name},
            object_store_memory=STORE_BYTES,
        )
    yield cluster
    cluster.shutdown()


@pytest.fixture(autouse=True)
def driver(cluster: Cluster) -> Iterator[None]:
    skate.init(address=cluster.address)
    yield
    skate.shutdown()


@skate.remote
def where(*_: object) -> str:
    return skate.get_runtime_context().get_node_id()


@skate.remote
def ones(count: int) -> Any:
    return np.ones(count, dtype=np.uint8)


@skate.remote
def total(array: Any) -> int:
    return int(array.sum())


@skate.remote
class Ledger:
    def __init__(self) -> None:
        self.seen: list[int] = []
        self.kept: list[Any] = []

    def add(self, number: int) -> list[int]:
        self.seen.append(number)
        return self.seen

    def node(self) -> str:
        return skate.get_runtime_context().get_node_id()

    def keep(self, refs: list[Any]) -> None:
        self.kept = refs

    def kept_total(self) -> int:
        return int(skate.get(self.kept[0]).sum())


def stores(cluster: Cluster) -> list[dict[str, int]]:
    found = []
    for node in cluster.list_all_nodes():
        with Observer(node.node_socket) as observer:
            found.append(observer.ask("store", timeout_s=5))
    return found


def test_a_large_result_stays_where_it_was_made_until_it_is_read(cluster: Cluster) -> None:
    ref = ones.options(resources=A).remote(5_000_000)
    assert skate.wait([ref], fetch_local=False, timeout=10) == ([ref], [])
    made_at = next(n for n in cluster.list_all_nodes() if n.node_id == on(A))
    used = {node.node_id: s["used_bytes"] for node, s in zip(
        cluster.list_all_nodes(), stores(cluster), strict=True)}  # fmt: skip
    assert used[made_at.node_id] >= 5_000_000 > used[cluster.head_node.node_id]
    assert skate.get(ref, timeout=10).sum() == 5_000_000
    assert skate.get(total.options(resources=B).remote(ref), timeout=10) == 5_000_000


def on(resources: dict[str, float]) -> str:
    return skate.get(where.options(resources=resources).remote(), timeout=10)


def test_inputs_go_to_where_the_task_is_placed() -> None:
    array = skate.put(np.ones(3_000_000, dtype=np.uint8))
    results = [total.options(resources=r).remote(array) for r in (A, B)]
    results += [total.options(resources=A).remote(ones.options(resources=B).remote(3_000_000))]
    assert skate.get(results, timeout=20) == [3_000_000] * 3


def test_a_task_with_large_inputs_goes_to_them(cluster: Cluster) -> None:
    ref = ones.options(resources=B).remote(70_000_000)
    skate.wait([ref], fetch_local=False, timeout=10)

    def at_b() -> str:
        # A heartbeat that tells of the large result counts all that has run there before.
        with Observer(cluster.head_node.node_socket) as observer:
            rows = observer.ask("nodes", timeout_s=5)
        used = {row["NodeID"]: row["object_store_used_bytes"] for row in rows}
        return next((node_id for node_id in used if used[node_id] >= 70_000_000), "")

    eventually(at_b, "a heartbeat with the large result")
    assert skate.get(where.remote(ref), timeout=10) == at_b()


def test_refs_inside_arguments_results_and_objects_cross_nodes() -> None:
    @skate.remote
    def inner(refs: list[Any]) -> list[Any]:
        return [skate.put(sum(skate.get(refs))), where.options(resources=B).remote()]

    number = skate.put(41)
    back = inner.options(resources=A).remote([number, skate.put(1)])
    del number
    refs = skate.get(back, timeout=10)
    del back
    assert skate.get(refs, timeout=10) == [42, on(B)]
    box = skate.put({"inside": skate.put(np.arange(100_000))})

    @skate.remote
    def open_box(box: dict[str, Any]) -> int:
        return int(skate.get(box["inside"]).sum())

    assert skate.get(open_box.options(resources=B).remote(box), timeout=10) == 4999950000


def test_a_childs_result_comes_back_through_its_parents_node() -> None:
    @skate.remote
    def outer() -> list[str]:
        return skate.get([where.remote() for _ in range(4)])

    assert len(skate.get(outer.options(resources=A).remote(), timeout=10)) == 4


def test_errors_keep_their_class_and_traceback_on_the_way() -> None:
    @skate.remote(max_retries=0)
    def fails() -> None:
        raise KeyError("of a remote node")

    with pytest.raises(KeyError, match="of a remote node"):
        skate.get(fails.options(resources=A).remote(), timeout=10)
    with pytest.raises(skate.exceptions.WorkerCrashedError):
        skate.get(exits.options(resources=A, max_retries=0).remote(), timeout=10)


@skate.remote
def exits() -> None:
    import os

    os._exit(3)


def test_spread_uses_all_nodes_evenly_and_affinity_one() -> None:
    spread = [where.options(scheduling_strategy="SPREAD").remote() for _ in range(60)]
    counts = Counter(skate.get(spread, timeout=20))
    assert len(counts) == 3 and min(counts.values()) >= 10
    at_a = on(A)
    there = NodeAffinitySchedulingStrategy(at_a, soft=False)
    assert set(skate.get([where.options(scheduling_strategy=there).remote() for _ in range(5)],
                         timeout=10)) == {at_a}  # fmt: skip
    labelled = where.options(label_selector={"side": "b"}).remote()
    assert skate.get(labelled, timeout=10) == on(B)


def test_affinity_to_a_node_that_is_not_there_is_an_error_unless_soft() -> None:
    nowhere = "ab" * 16
    soft = NodeAffinitySchedulingStrategy(nowhere, soft=True)
    assert skate.get(where.options(scheduling_strategy=soft).remote(), timeout=10)
    hard = NodeAffinitySchedulingStrategy(nowhere, soft=False)
    with pytest.raises(skate.exceptions.TaskUnschedulableError, match=nowhere):
        skate.get(where.options(scheduling_strategy=hard).remote(), timeout=10)


def test_work_does_not_wait_here_while_another_node_could_take_it() -> None:
    @skate.remote
    def slow() -> str:
        time.sleep(0.5)  # what the task does, not a wait of the test
        return skate.get_runtime_context().get_node_id()

    began = time.monotonic()
    counts = Counter(skate.get([slow.remote() for _ in range(12)], timeout=30))
    assert len(counts) == 3
    assert time.monotonic() - began < 5.9  # on two CPUs alone it takes three seconds more than on 6


def test_an_actor_elsewhere_is_called_in_order_from_several_nodes() -> None:
    actor = Ledger.options(num_cpus=0, resources=A).remote()
    assert skate.get(actor.node.remote(), timeout=10) == on(A)
    refs = [actor.add.remote(i) for i in range(200)]
    assert skate.get(refs[-1], timeout=10) == list(range(200))

    @skate.remote
    def call(actor: Any, first: int) -> None:
        skate.get([actor.add.remote(first + i) for i in range(50)])

    skate.get([call.options(resources=r).remote(actor, k) for r, k in ((A, 1000), (B, 2000))],
              timeout=20)  # fmt: skip
    seen = skate.get(actor.add.remote(0), timeout=10)
    for first in (1000, 2000):
        mine = [n for n in seen if first <= n < first + 50]
        assert mine == list(range(first, first + 50))


def test_an_actor_elsewhere_keeps_what_it_holds_and_ends_with_its_last_handle() -> None:
    actor = Ledger.options(num_cpus=0, resources=B).remote()
    array = skate.put(np.ones(2_000_000, dtype=np.uint8))
    skate.get(actor.keep.remote([array]), timeout=10)
    del array
    assert skate.get(actor.kept_total.remote(), timeout=10) == 2_000_000
    eventually(lambda: skate.available_resources()["b"] < 1, "what it holds is known")
    del actor
    eventually(lambda: skate.available_resources()["b"] == 1, "the actor has ended")


def test_a_named_actor_is_found_and_killed_from_anywhere() -> None:
    actor = Ledger.options(name="known", num_cpus=0, resources=A).remote()
    skate.get(actor.add.remote(1), timeout=10)

    @skate.remote
    def find() -> list[int]:
        return skate.get(skate.get_actor("known").add.remote(2))

    assert skate.get(find.options(resources=B).remote(), timeout=10) == [1, 2]

    @skate.remote
    def kill() -> None:
        skate.kill(skate.get_actor("known"))

    skate.get(kill.options(resources=B).remote(), timeout=10)
    with pytest.raises(skate.exceptions.ActorDiedError, match="kill"):
        skate.get([actor.add.remote(i) for i in range(100)], timeout=10)


def test_an_actor_is_restarted_in_place() -> None:
    @skate.remote(max_restarts=1, max_task_retries=1, num_cpus=0, resources=A)
    class Fragile:
        def pid(self) -> int:
            import os

            return os.getpid()

        def die(self) -> None:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGKILL)

    actor = Fragile.remote()
    first = skate.get(actor.pid.remote(), timeout=10)
    actor.die.options(max_task_retries=0).remote()
    assert skate.get(actor.pid.remote(), timeout=10) != first


def test_a_placement_group_takes_its_place_on_several_nodes() -> None:
    group = placement_group([{"CPU": 1}] * 3, strategy="STRICT_SPREAD")
    assert group.wait(10)
    refs = [
        where.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group, index)).remote()
        for index in range(3)
    ]
    assert len(set(skate.get(refs, timeout=10))) == 3
    remove_placement_group(group)
    eventually(lambda: skate.available_resources()["CPU"] == 6, "the bundles are given back")
    too_many = placement_group([{"CPU": 1}] * 4, strategy="STRICT_SPREAD")
    assert not too_many.wait(0.3)
    remove_placement_group(too_many)


def test_a_broadcast_leaves_a_copy_on_each_node_and_none_when_the_ref_goes(
    cluster: Cluster,
) -> None:
    array = skate.put(np.ones(10_000_000, dtype=np.uint8))
    skate.get([total.options(resources=r).remote(array) for r in (A, B)], timeout=20)
    assert all(s["used_bytes"] >= 10_000_000 for s in stores(cluster))
    del array
    eventually(
        lambda: all(s["used_bytes"] == 0 for s in stores(cluster)), "no copy is left anywhere"
    )


def test_more_than_one_store_holds_passes_through() -> None:
    refs = [ones.options(resources=A).remote(9_000_000) for _ in range(6)]
    refs += [ones.options(resources=B).remote(9_000_000) for _ in range(6)]
    sums = [total.remote(ref) for ref in refs]
    del refs
    assert skate.get(sums, timeout=60) == [9_000_000] * 12


def test_prints_of_tasks_elsewhere_are_shown_before_the_driver_ends(
    capfd: pytest.CaptureFixture[str],
) -> None:
    @skate.remote
    def speak(letter: str) -> None:
        print(f"from afar: {letter}")  # lines that differ in digits alone are shown once

    letters = "abcdefghijklmnopqrst"
    skate.get([speak.options(resources=A).remote(letter) for letter in letters], timeout=10)
    skate.shutdown()
    shown = capfd.readouterr().out
    assert all(f"from afar: {letter}" in shown for letter in letters)


def test_a_detached_actor_outlives_its_driver(cluster: Cluster) -> None:
    skate.shutdown()
    skate.init(address=cluster.address, namespace="kept")
    options = {"name": "still", "lifetime": "detached", "num_cpus": 0, "resources": A}
    skate.get(Ledger.options(**options).remote().add.remote(1), timeout=10)
    skate.shutdown()
    skate.init(address=cluster.address, namespace="kept")
    actor = skate.get_actor("still")
    assert skate.get(actor.add.remote(2), timeout=10) == [1, 2]
    skate.kill(actor)


def test_a_driver_leaves_nothing_on_any_node(cluster: Cluster) -> None:
    actor = Ledger.options(num_cpus=0, resources=A).remote()
    kept = [ones.options(resources=r).remote(1_000_000) for r in (A, B)]
    skate.get(actor.keep.remote(kept), timeout=10)
    skate.get(kept, timeout=10)
    waiting = [where.options(resources={"a": 1.0}).remote() for _ in range(3)]
    skate.shutdown()
    eventually(
        lambda: all(s["objects"] == 0 and s["extents"] == 0 for s in stores(cluster)),
        "every store is empty",
    )
    skate.init(address=cluster.address)
    eventually(lambda: skate.available_resources()["CPU"] == 6, "all CPUs are free")
    del waiting


def test_many_small_values_make_one_large_message_between_nodes() -> None:
    count = MAX_FRAME_BYTES // 99_000 + 10

    @skate.remote(num_returns=count, resources=A)
    def many() -> list[bytes]:
        return [bytes(99_000)] * count

    @skate.remote(resources=A)
    def total(*values: bytes) -> int:
        return sum(map(len, values))

    @skate.remote(resources=B)
    class Adder:
        def total(self, *values: bytes) -> int:
            return sum(map(len, values))

    refs = many.remote()
    assert skate.get(total.remote(*refs)) == count * 99_000
    assert skate.get(Adder.remote().total.remote(*refs)) == count * 99_000


def test_what_no_node_can_run_is_told_with_what_helps(capfd: pytest.CaptureFixture[str]) -> None:
    ref = where.options(num_cpus=64).remote()
    shown = ""

    def told() -> bool:
        nonlocal shown
        shown += capfd.readouterr().err
        return "let a node with that join (skate start --address" in shown

    eventually(told, "the warning")
    assert "init(num_cpus" not in shown
    del ref
