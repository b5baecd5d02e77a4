"""A node dies by SIGKILL, with all of its processes: what each of the others sees of that."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import skate
from skate.cluster_utils import Cluster, ClusterNode
from skate.exceptions import (
    ActorDiedError,
    NodeDiedError,
    ObjectLostError,
    RayActorError,
)
from tests.cluster.many_nodes import (
    MB,
    SOON_S,
    Counter,
    alive_ids,
    assert_back_to,
    assert_idle,
    get,
    node_id,
    on,
    size_of,
    until_given_up,
    wait_for,
    waiting_at,
    where,
    workers_of,
    zeros,
)
from tests.conftest import eventually


def start(cluster: Cluster, *names: str, cpus: int = 2) -> list[ClusterNode]:
    """A head with the driver, and a node with a resource of its name for each."""
    cluster.add_node(num_cpus=1, resources={"head": 100})
    nodes = [
        cluster.add_node(False, num_cpus=cpus, resources={name: 100, "far": 100}) for name in names
    ]
    cluster.wait_for_nodes()
    cluster.connect()
    return nodes


def test_everything_of_a_dead_node_is_gone_and_its_tasks_run_elsewhere(
    fresh_cluster: Cluster, tmp_path: Path
) -> None:
    a, b = start(fresh_cluster, "a", "b")
    go = tmp_path / "go"
    spread = wait_for.options(num_cpus=0.5, scheduling_strategy="SPREAD", **on("far"))
    refs = [spread.remote(str(go), number) for number in range(4)]
    eventually(lambda: len(waiting_at(go)) == 4, "all four run, two on each node")
    doomed = [worker.pid for worker in workers_of(a)]
    assert len(set(doomed) & set(waiting_at(go))) == 2
    a.kill()
    until_given_up(a, 2.0)  # its line has ended: nobody waits for a heartbeat
    eventually(lambda: not any(_runs(pid) for pid in doomed), "its workers end with it", 2.0)
    assert "a" not in skate.cluster_resources()
    assert skate.cluster_resources()["CPU"] == 3.0
    eventually(lambda: len(waiting_at(go)) == 6, "the two that were there run again, at b")
    go.touch()
    assert get(refs) == list(range(4))
    del refs
    rest = [fresh_cluster.list_all_nodes()[0], b]
    assert_idle(rest)
    assert_back_to([(0, 0)] * 2, rest)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_task_that_may_not_run_twice_fails_by_name(
    fresh_cluster: Cluster, tmp_path: Path
) -> None:
    (a,) = start(fresh_cluster, "a")
    go = tmp_path / "go"
    ref = wait_for.options(max_retries=0, **on("a")).remote(str(go))
    dependant = size_of.remote(ref)
    eventually(lambda: waiting_at(go), "it runs")
    a.kill()
    with pytest.raises(NodeDiedError, match=a.node_id):
        get(ref)
    with pytest.raises(NodeDiedError, match="size_of"):
        get(dependant)


def test_tasks_that_only_wait_for_a_dead_node_wait_for_the_next(
    fresh_cluster: Cluster, tmp_path: Path
) -> None:
    (a,) = start(fresh_cluster, "a", cpus=1)
    go = tmp_path / "go"
    # One runs, the others wait behind it in that node's queue.
    refs = [wait_for.options(**on("a")).remote(str(go), number) for number in range(5)]
    eventually(lambda: waiting_at(go), "the first runs")
    a.kill()
    until_given_up(a)
    go.touch()
    assert skate.wait(refs, timeout=0.2)[0] == []
    fresh_cluster.add_node(num_cpus=1, resources={"a": 100})
    assert get(refs) == list(range(5))


def test_objects_that_were_there_alone_are_lost_and_never_waited_for(
    fresh_cluster: Cluster,
) -> None:
    a, b = start(fresh_cluster, "a", "b")

    @skate.remote(num_cpus=0)
    def look(refs: list[Any]) -> str:
        try:
            skate.get(refs[0])
        except ObjectLostError as error:
            return type(error).__name__
        return "it is there"

    @skate.remote
    def make_own() -> list[Any]:
        refs = [skate.put(bytes(MB)), zeros.options(**on("a")).remote(MB)]
        skate.wait(refs, num_returns=2)
        return refs

    lost = zeros.options(**on("a")).remote(MB)
    copied = zeros.options(**on("a")).remote(MB)
    small = zeros.options(**on("a")).remote(5)
    of_a = get(make_own.options(**on("a")).remote())  # whose home is the node that dies
    skate.wait([lost], fetch_local=False, timeout=SOON_S)
    assert get(size_of.options(**on("b")).remote(copied)) == MB
    assert len(get(small)) == 5
    a.kill()
    began = time.monotonic()
    with pytest.raises(ObjectLostError):
        get(lost)
    for ref in of_a:
        with pytest.raises(ObjectLostError):
            get(ref)
    with pytest.raises(ObjectLostError):
        get(size_of.options(**on("b")).remote(lost))
    assert get(look.options(**on("b")).remote([lost])).endswith("Error")
    assert time.monotonic() - began < 10
    # What lies elsewhere as well, or came with its task's end, is not lost.
    assert len(get(copied)) == MB and len(get(small)) == 5
    del lost, copied, small, of_a, ref
    assert_back_to([(0, 0)] * 2, [fresh_cluster.list_all_nodes()[0], b])


def test_a_fetch_from_a_node_that_dies_in_the_middle_ends(fresh_cluster: Cluster) -> None:
    (a,) = start(fresh_cluster, "a")
    refs = [zeros.options(**on("a")).remote(30 * MB) for _ in range(4)]
    skate.wait(refs, num_returns=4, fetch_local=False, timeout=SOON_S)
    outcomes: list[str] = []

    def fetch(ref: Any) -> None:
        try:
            outcomes.append(str(len(skate.get(ref, timeout=SOON_S))))
        except Exception as error:
            outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=fetch, args=(ref,)) for ref in refs]
    for thread in threads:
        thread.start()
    a.kill()
    for thread in threads:
        thread.join()
    allowed = {str(30 * MB), "ObjectLostError", "OwnerDiedError", "NodeDiedError"}
    assert len(outcomes) == 4 and set(outcomes) <= allowed


def test_an_actor_moves_to_another_node_and_its_callers_follow(fresh_cluster: Cluster) -> None:
    a, b = start(fresh_cluster, "a", "b")
    mobile = Counter.options(num_cpus=0, max_restarts=1, max_task_retries=-1, **on("far"))
    counter = mobile.remote(5)
    first = get(counter.node.remote())
    dies, stays = (a, b) if first == a.node_id else (b, a)
    name = "a" if stays is a else "b"
    assert get([counter.increment.remote() for _ in range(3)]) == [6, 7, 8]

    @skate.remote(num_cpus=0, max_retries=0)
    def call(handle: Any, path: str) -> list[int]:
        told = [skate.get(handle.increment.remote())]
        Path(path).touch()
        while told[-1] == max(told):  # until it has begun anew
            told.append(skate.get(handle.increment.remote()))
        return told

    path = fresh_cluster.list_all_nodes()[0].session_dir / "called"
    caller = call.options(**on(name)).remote(counter, str(path))
    eventually(path.exists, "the caller on the other node calls")
    dies.kill()
    assert get(caller)[-1] < 10
    assert get(counter.node.remote()) == stays.node_id
    # It has no further life.
    pid = get(counter.pid.remote())
    os.kill(pid, 9)
    with pytest.raises(ActorDiedError):
        get(counter.increment.remote())


def test_an_actor_without_restarts_dies_with_its_node_for_all_callers(
    fresh_cluster: Cluster,
) -> None:
    a, _ = start(fresh_cluster, "a", "b")
    counter = Counter.options(num_cpus=0, name="tally", **on("a")).remote()
    assert get(counter.increment.remote()) == 1

    @skate.remote(num_cpus=0)
    def call(handle: Any) -> str:
        try:
            return str(skate.get(handle.increment.remote()))
        except RayActorError as error:
            return str(error)

    assert get(call.options(**on("b")).remote(counter)) == "2"
    a.kill()
    with pytest.raises(ActorDiedError, match=a.node_id):
        get(counter.increment.remote())
    assert a.node_id in get(call.options(**on("b")).remote(counter))
    with pytest.raises(ValueError, match="tally"):
        skate.get_actor("tally")
    again = Counter.options(num_cpus=0, name="tally", **on("b")).remote()
    assert get(again.increment.remote()) == 1


def test_what_a_dead_node_held_of_others_is_let_go(fresh_cluster: Cluster) -> None:
    a, b = start(fresh_cluster, "a", "b")
    keeper = Counter.options(num_cpus=0, **on("a")).remote()
    mine, of_b = skate.put(bytes(MB)), zeros.options(**on("b")).remote(MB)
    get(keeper.keep.remote([mine, of_b]))
    friend = Counter.options(num_cpus=0, **on("b")).remote()
    get(friend.increment.remote())
    get(keeper.keep.remote([mine, of_b, friend]))
    del mine, of_b, friend
    assert get(keeper.size_of_kept.remote(1)) == MB
    a.kill()
    until_given_up(a)
    del keeper
    rest = [fresh_cluster.list_all_nodes()[0], b]
    assert_idle(rest)
    assert_back_to([(0, 0)] * 2, rest)


def test_children_of_a_task_on_a_dead_node(fresh_cluster: Cluster, tmp_path: Path) -> None:
    """Their parent, which would have had their results, runs again and submits them again."""
    a, b = start(fresh_cluster, "a", "b")
    go = tmp_path / "go"

    @skate.remote(num_cpus=0, resources={"far": 1})
    def parent() -> tuple[str, list[int]]:
        children = [wait_for.options(num_cpus=0, **on("b")).remote(str(go), i) for i in range(2)]
        return node_id(), skate.get(children)

    refs = [parent.remote() for _ in range(4)]
    eventually(lambda: len(waiting_at(go)) == 8, "all children run")
    a.kill()
    until_given_up(a)
    go.touch()
    assert get(refs) == [(b.node_id, [0, 1])] * 4
    assert_idle([fresh_cluster.list_all_nodes()[0], b])


def test_a_node_dies_and_another_comes_many_times(fresh_cluster: Cluster) -> None:
    """Work of all kinds goes on; everything comes to its one right end."""
    start(fresh_cluster, "a", "b", cpus=1)
    stop = threading.Event()
    errors: list[BaseException] = []
    rounds = [0]

    def work() -> None:
        try:
            while not stop.is_set():
                large = zeros.options(max_retries=-1).remote(300_000)
                refs = [where.options(max_retries=-1, **on("far")).remote() for _ in range(10)]
                refs.append(where.options(max_retries=-1, scheduling_strategy="SPREAD").remote())
                assert all(len(one) == 32 for one in get(refs))
                with contextlib.suppress(ObjectLostError):  # it was on the node that died
                    far = size_of.options(max_retries=-1, **on("far"))
                    assert get(far.remote(large)) == 300_000
                rounds[0] += 1
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(3):
        before = rounds[0]
        eventually(lambda before=before: errors or rounds[0] > before + 1, "work is done")
        victim = fresh_cluster.worker_nodes[0]
        fresh_cluster.remove_node(victim, allow_graceful=False)
        fresh_cluster.add_node(num_cpus=1, resources={"far": 100})
        until_given_up(victim)
    stop.set()
    thread.join()
    assert not errors, errors
    assert len(alive_ids()) == 3
    assert_idle(fresh_cluster.list_all_nodes())
    assert_back_to([(0, 0)] * 3, fresh_cluster.list_all_nodes())
