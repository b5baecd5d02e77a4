"""Bundles on a node: what reserving, committing and giving back does to its resources, and that
everything adds up at each step, whoever uses what.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from skate.config import RESOURCE_UNITS
from skate.messages import BundlesReserved, CommitBundles, ReserveBundles, ReturnBundles
from skate.rows import Pool, Task, Template, Worker
from skate.scheduler.bundles import Bundles
from skate.scheduler.group_names import (
    BUNDLE_SHARE_UNITS,
    BUNDLE_UNITS,
    bundle_resources,
    indexed_name,
    is_cpu,
    parse_name,
    rewrite_demand,
    uses_group,
    wildcard_name,
)
from skate.scheduler.local_scheduler import LocalScheduler
from skate.spec import CallTemplate, Demand, demand_of, resources_of
from skate.states import WorkerState

G, H = b"G" * 16, b"H" * 16
JOB = b"job1"


class Node:
    """A scheduler with bundles, whose workers come up at once."""

    def __init__(self, **resources: float) -> None:
        self.scheduler = LocalScheduler(
            dict(demand_of(resources)), self._send, self._start, lambda task: None
        )
        self.bundles = Bundles(self.scheduler)
        self.sent: list[str] = []
        self.served: list[tuple[bytes, int]] = []  # claims: (group, attempt)
        self.held_by_actors: dict[str, int] = {}
        self._count = 0
        self._starting: list[Worker] = []

    def _send(self, worker: Worker, task: Task) -> None:
        self.sent.append(task.id.decode())

    def _start(self, pool: Pool) -> None:
        self._count += 1
        worker = Worker(b"w%d" % self._count, pool, 0.0)
        self.scheduler.add_worker(worker)
        self._starting.append(worker)

    def check(self) -> None:
        held = dict(self.held_by_actors)
        for name, units in self.bundles.held().items():
            held[name] = held.get(name, 0) + units
        self.scheduler.check(held)
        self.bundles.check()

    def turn(self) -> list[str]:
        """What is sent to workers this turn."""
        self.sent.clear()
        self.bundles.settle()
        self.scheduler.release_emptied(0.0)
        answer = self.bundles.serve_claim()
        if answer is not None:
            self.served.append((answer.group_id, answer.attempt))
        self.scheduler.dispatch(0.0)
        while self._starting:
            self.scheduler.worker_ready(self._starting.pop(), 0.0)
            self.scheduler.dispatch(0.0)
        self.check()
        return list(self.sent)

    def submit(self, name: str, demand: Demand) -> Task:
        spec = CallTemplate("task", b"", "f", demand)
        template = Template(0, JOB, spec, self.scheduler.class_of(JOB, spec))
        task = Task(name.encode(), template, b"", None, None, None, 0, 0.0)
        self.scheduler.enqueue(task, 0.0)
        return task

    def end(self, task: Task) -> None:
        """The task is done."""
        assert task.worker is not None
        assert self.scheduler.finished(task.worker, task.id, 0.1) is task

    def die(self, worker: Worker) -> list[Task]:
        """The worker's process is gone."""
        self.scheduler.lost(worker)
        self.check()
        return self.scheduler.remove_worker(worker)

    def reserve(self, *bundles: dict[str, float], group: bytes = G, attempt: int = 1) -> bool:
        """Ask for these bundles, numbered from 0."""
        pairs = [(index, demand_of(bundle)) for index, bundle in enumerate(bundles)]
        answer = self.bundles.reserve(ReserveBundles(group, attempt, pairs))
        assert answer is not None
        assert (answer.group_id, answer.attempt) == (group, attempt)
        self.check()
        return answer.is_reserved

    def claim(self, *bundles: dict[str, float], group: bytes = G, attempt: int = 1) -> str:
        """Ask for these bundles, if need be once tasks have ended."""
        pairs = [(index, demand_of(bundle)) for index, bundle in enumerate(bundles)]
        answer = self.bundles.reserve(ReserveBundles(group, attempt, pairs, True))
        self.check()
        return "claimed" if answer is None else "reserved" if answer.is_reserved else "refused"

    def commit(self, group: bytes = G, attempt: int = 1) -> None:
        self.bundles.commit(CommitBundles(group, attempt))
        self.check()

    def make(self, *bundles: dict[str, float], group: bytes = G) -> None:
        """Reserve and commit."""
        assert self.reserve(*bundles, group=group)
        self.commit(group)

    def give_back(self, group: bytes = G, attempt: int = -1) -> bool:
        is_used = self.bundles.give_back(ReturnBundles(group, attempt))
        self.check()
        return is_used

    def free(self) -> dict[str, float]:
        """What is available under plain names."""
        plain = {n: u for n, u in self.scheduler.available.items() if "_group_" not in n}
        return resources_of(plain)


def within(group: bytes, bundle: int, **resources: float) -> Demand:
    return rewrite_demand(demand_of(resources), group, bundle)


# ------------------------------------------------------------------------------------ names


def test_a_demand_in_a_bundle_takes_from_the_bundle_and_from_the_group() -> None:
    assert dict(within(G, 2, CPU=1.5)) == {
        f"CPU_group_2_{G.hex()}": 15_000,
        f"CPU_group_{G.hex()}": 15_000,
        f"bundle_group_2_{G.hex()}": BUNDLE_SHARE_UNITS,
        f"bundle_group_{G.hex()}": BUNDLE_SHARE_UNITS,
    }


def test_a_demand_for_nothing_is_bound_to_the_group_all_the_same() -> None:
    assert within(G, -1) == ((f"bundle_group_{G.hex()}", BUNDLE_SHARE_UNITS),)
    assert BUNDLE_UNITS // BUNDLE_SHARE_UNITS == 1_000_000


@pytest.mark.parametrize("resource", ["CPU", "my_group_0_x", "ray.io/TPU", "a_group_7"])
def test_names_tell_what_they_are_made_of(resource: str) -> None:
    assert parse_name(indexed_name(resource, G, 12)) == (resource, G, 12)
    assert parse_name(wildcard_name(resource, G)) == (resource, G, -1)


def test_other_names_are_no_groups() -> None:
    for name in ("CPU", "CPU_group_", "CPU_group_1_beef", f"_group_{G.hex()}", f"CPU_{G.hex()}"):
        assert parse_name(name) is None
        assert not uses_group(((name, 1),), G)
    assert uses_group(within(G, 0, CPU=1), G)
    assert not uses_group(within(G, 0, CPU=1), H)


def test_cpus_of_groups_are_cpus() -> None:
    assert [is_cpu(name) for name, _ in within(G, 1, CPU=1, GPU=1)] == [True, True, *[False] * 4]
    assert is_cpu("CPU") and not is_cpu("CPU_group_therapy") and not is_cpu("GPU")


def test_an_id_or_a_bundle_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes, not 3"):
        rewrite_demand((), b"abc", 0)
    with pytest.raises(ValueError, match="not -2"):
        rewrite_demand((), G, -2)


# ------------------------------------------------------------------ reserve, commit, give back


def test_a_reserved_bundle_is_taken_and_a_committed_one_can_be_used() -> None:
    node = Node(CPU=4)
    assert node.reserve({"CPU": 2})
    assert node.free() == {"CPU": 2}
    assert node.scheduler.total["CPU"] == 4 * RESOURCE_UNITS
    assert not node.scheduler.fits(within(G, 0, CPU=1))
    node.commit()
    assert node.free() == {"CPU": 2}
    assert node.scheduler.fits(within(G, 0, CPU=2))
    assert node.scheduler.fits(within(G, -1, CPU=2))
    assert not node.scheduler.fits(within(G, 0, CPU=2.5))
    assert not node.scheduler.fits(within(G, 1, CPU=1))
    assert node.give_back()
    assert node.scheduler.available == node.scheduler.total == {"CPU": 4 * RESOURCE_UNITS}


def test_all_bundles_or_none() -> None:
    node = Node(CPU=4, GPU=1)
    before = dict(node.scheduler.available)
    assert not node.reserve({"CPU": 1, "GPU": 1}, {"CPU": 1}, {"CPU": 3})
    assert node.scheduler.available == node.scheduler.total == before
    assert node.scheduler.gpu_free == [RESOURCE_UNITS]
    assert not node.give_back()


def test_a_claim_keeps_what_tasks_free_until_it_can_be_reserved() -> None:
    node = Node(CPU=2)
    tasks = [node.submit(f"t{number}", demand_of({"CPU": 1})) for number in range(6)]
    assert len(node.turn()) == 2
    assert node.claim({"CPU": 1}, {"CPU": 1}) == "claimed"
    assert not node.reserve({"CPU": 1}, group=H), "nobody else's is what becomes free"
    node.end(tasks[0])
    assert node.turn() == [] and node.served == []
    assert node.free() == {"CPU": 1}
    assert not node.reserve({"CPU": 1}, group=H)
    node.end(tasks[1])
    assert node.turn() == [] and node.served == [(G, 1)]
    node.commit()
    assert node.scheduler.fits(within(G, 0, CPU=1))
    node.give_back()
    assert len(node.turn()) == 2, "the tasks go on"


@pytest.mark.parametrize("attempt", [1, -1])
def test_a_claim_that_is_called_off_leaves_nothing(attempt: int) -> None:
    node = Node(CPU=2)
    tasks = [node.submit(f"t{number}", demand_of({"CPU": 1})) for number in range(4)]
    node.turn()
    assert node.claim({"CPU": 2}) == "claimed"
    assert node.claim({"CPU": 1}, group=H) == "refused", "one at a time"
    node.end(tasks[0])
    assert node.turn() == []
    assert not node.give_back(attempt=0), "another attempt's"
    assert node.turn() == []
    assert not node.give_back(attempt=attempt)
    assert node.turn() == ["t2"]
    assert node.claim({"CPU": 1}, group=H) == "claimed"


def test_what_is_free_is_reserved_at_once_though_it_may_be_claimed() -> None:
    node = Node(CPU=2)
    assert node.claim({"CPU": 2}) == "reserved"
    assert node.bundles.claim is None


def test_nobody_claims_what_only_actors_and_groups_could_free() -> None:
    node = Node(CPU=3)
    node.make({"CPU": 1}, group=H)
    demand = demand_of({"CPU": 1})
    node.scheduler.take(demand)
    node.held_by_actors = dict(demand)
    node.submit("t", demand)
    node.turn()
    assert node.claim({"CPU": 2}) == "refused"
    assert node.claim({"CPU": 1}) == "claimed"


def test_only_what_is_free_now_can_be_reserved() -> None:
    node = Node(CPU=2)
    task = node.submit("t", demand_of({"CPU": 1}))
    assert node.turn() == ["t"]
    assert not node.reserve({"CPU": 2})
    node.end(task)
    node.turn()
    assert node.reserve({"CPU": 2}, attempt=2)


def test_bundles_of_a_group_on_one_node_add_up_in_the_wildcard_name() -> None:
    node = Node(CPU=8)
    node.make({"CPU": 1}, {"CPU": 3})
    total = node.scheduler.total
    assert total[wildcard_name("CPU", G)] == 4 * RESOURCE_UNITS
    assert total[indexed_name("CPU", G, 1)] == 3 * RESOURCE_UNITS
    assert total[wildcard_name("bundle", G)] == 2 * BUNDLE_UNITS
    one = node.submit("one", within(G, 1, CPU=3))
    any_ = node.submit("any", within(G, -1, CPU=2))
    assert node.turn() == ["one"]  # 1 of 4 is left in the group
    node.end(one)
    assert node.turn() == ["any"]
    node.end(any_)
    assert node.turn() == []


def test_a_second_word_of_the_same_attempt_changes_nothing() -> None:
    node = Node(CPU=4)
    for _ in range(2):
        assert node.reserve({"CPU": 2})
        assert node.free() == {"CPU": 2}
    node.commit()
    node.commit()
    assert node.reserve({"CPU": 2})
    assert node.scheduler.available[wildcard_name("CPU", G)] == 2 * RESOURCE_UNITS
    assert not node.reserve({"CPU": 2}, attempt=2)  # the bundle is here already
    node.commit(attempt=2)
    assert not node.give_back(attempt=2)
    assert node.free() == {"CPU": 2}
    assert node.give_back()
    assert not node.give_back()
    node.commit()
    assert node.scheduler.total == {"CPU": 4 * RESOURCE_UNITS}


def test_an_attempt_that_failed_elsewhere_leaves_the_committed_bundles() -> None:
    node = Node(CPU=4)
    node.make({"CPU": 1})
    task = node.submit("t", within(G, -1, CPU=1))
    assert node.turn() == ["t"]
    again = ReserveBundles(G, 2, [(1, demand_of({"CPU": 2}))])
    assert node.bundles.reserve(again) == BundlesReserved(G, 2, True)
    assert node.free() == {"CPU": 1}
    assert not node.give_back(attempt=2)
    assert node.free() == {"CPU": 3}
    node.end(task)
    assert node.turn() == []
    assert node.scheduler.available[wildcard_name("CPU", G)] == RESOURCE_UNITS


def test_a_commit_is_for_the_bundles_of_its_attempt() -> None:
    node = Node(CPU=4)
    assert node.reserve({"CPU": 1})
    second = ReserveBundles(G, 2, [(1, demand_of({"CPU": 1}))])
    assert node.bundles.reserve(second).is_reserved
    node.commit(attempt=2)
    assert not node.scheduler.fits(within(G, 0))
    assert node.scheduler.fits(within(G, 1, CPU=1))


def test_a_task_ahead_of_the_commit_is_not_infeasible() -> None:
    node = Node(CPU=1)
    assert node.reserve({"CPU": 1})
    demand = within(G, 0, CPU=1)
    assert node.scheduler.missing(demand) == {}
    node.submit("t", demand)
    assert node.turn() == []
    node.commit()
    assert node.turn() == ["t"]


def test_half_a_device_more_than_one_is_no_bundle() -> None:
    node = Node(CPU=1, GPU=4)
    assert not node.reserve({"GPU": 1.5})
    assert node.reserve({"GPU": 2})


# -------------------------------------------------------------------------- given back in use


def test_what_is_in_use_is_freed_when_its_lease_ends() -> None:
    node = Node(CPU=4)
    node.make({"CPU": 1}, {"CPU": 2})
    runs = node.submit("runs", within(G, 1, CPU=1))
    assert node.turn() == ["runs"]
    waits = node.submit("waits", within(G, 1, CPU=2))
    assert node.turn() == []
    assert node.give_back()
    assert node.bundles.users(G) == [runs.worker]
    assert node.bundles.take_waiting(G) == [waits]
    assert node.free() == {"CPU": 3}  # of which 2 were the group's
    late = node.submit("late", within(G, 0, CPU=1))
    assert set(node.scheduler.missing(within(G, 0))) == {
        indexed_name("bundle", G, 0),
        wildcard_name("bundle", G),
    }
    assert runs.worker is not None
    assert node.die(runs.worker) == [runs]
    assert node.turn() == []
    assert node.free() == {"CPU": 4}
    assert node.scheduler.total == {"CPU": 4 * RESOURCE_UNITS}
    assert node.bundles.users(G) == []
    assert node.bundles.take_waiting(G) == [late]


def test_while_a_group_leaves_it_cannot_come_again() -> None:
    node = Node(CPU=2)
    node.make({"CPU": 1})
    task = node.submit("t", within(G, 0, CPU=1))
    node.turn()
    node.give_back()
    assert not node.reserve({"CPU": 1}, attempt=2)
    assert task.worker is not None
    node.die(task.worker)
    node.turn()
    assert node.reserve({"CPU": 1}, attempt=3)


def test_a_task_that_ends_by_itself_gives_nothing_to_those_behind_it() -> None:
    node = Node(CPU=1)
    node.make({"CPU": 1})
    first = node.submit("first", within(G, 0, CPU=1))
    node.submit("second", within(G, 0, CPU=1))
    assert node.turn() == ["first"]
    node.give_back()
    node.end(first)
    assert node.turn() == []
    node.turn()
    assert node.free() == {"CPU": 1}


def test_an_actor_that_holds_nothing_of_worth_keeps_the_names_until_it_is_gone() -> None:
    node = Node(CPU=1)
    node.make({"CPU": 1})
    demand = within(G, 0)
    node.scheduler.take(demand)
    node.held_by_actors = dict(demand)
    assert node.give_back()
    assert node.free() == {"CPU": 1}
    assert list(node.bundles.leaving) == [G]
    node.scheduler.give_back(demand)
    node.held_by_actors = {}
    node.turn()
    assert not node.bundles.leaving
    assert node.scheduler.total == {"CPU": RESOURCE_UNITS}


def test_another_group_is_not_touched() -> None:
    node = Node(CPU=4)
    node.make({"CPU": 1}, group=G)
    node.make({"CPU": 1}, group=H)
    mine, other = node.submit("mine", within(G, 0, CPU=1)), node.submit("other", within(H, 0))
    assert sorted(node.turn()) == ["mine", "other"]
    node.give_back(G)
    assert node.bundles.users(G) == [mine.worker]
    assert node.bundles.users(H) == [other.worker]
    assert node.scheduler.fits(within(H, 0, CPU=1))


# ------------------------------------------------------------------------------------- GPUs


def test_a_bundle_has_its_own_devices() -> None:
    node = Node(CPU=4, GPU=4)
    plain = node.submit("plain", demand_of({"GPU": 1}))
    node.turn()
    node.make({"GPU": 1}, {"GPU": 2})
    tasks = [
        node.submit("b1", within(G, 1, GPU=2)),
        node.submit("b0", within(G, 0, GPU=1)),
    ]
    node.turn()
    assert plain.gpus == [0]
    assert [task.gpus for task in tasks] == [[2, 3], [1]]
    assert node.scheduler.gpu_free == [0, 0, 0, 0]
    for task in tasks:
        node.end(task)
    node.turn()
    assert node.scheduler.gpus[wildcard_name("GPU", G)] == [0, *[RESOURCE_UNITS] * 3]
    node.give_back()
    assert node.scheduler.gpu_free == [0, *[RESOURCE_UNITS] * 3]
    assert list(node.scheduler.gpus) == ["GPU"]


def test_a_device_that_any_bundle_may_use_is_not_used_twice() -> None:
    node = Node(CPU=4, GPU=2)
    node.make({"GPU": 1}, {"GPU": 1})
    any_ = node.submit("any", within(G, -1, GPU=1))
    assert node.turn() == ["any"]
    assert any_.gpus == [0]
    # Bundle 0 has its share still, but its device is taken.
    node.submit("b0", within(G, 0, GPU=1))
    one = node.submit("b1", within(G, 1, GPU=1))
    assert node.turn() == ["b1"]
    assert one.gpus == [1]
    node.end(any_)
    assert node.turn() == ["b0"]


def test_halves_of_a_device_in_two_bundles() -> None:
    node = Node(CPU=4, GPU=2)
    node.make({"GPU": 0.5}, {"GPU": 0.5})
    assert node.scheduler.gpu_free == [0, RESOURCE_UNITS]
    whole = node.submit("whole", within(G, -1, GPU=1))
    assert node.turn() == ["whole"]
    assert whole.gpus == [0]
    node.submit("half", within(G, 1, GPU=0.5))
    assert node.turn() == []
    node.end(whole)
    assert node.turn() == ["half"]


def test_a_device_in_use_is_freed_with_its_lease() -> None:
    node = Node(CPU=4, GPU=2)
    node.make({"GPU": 2})
    task = node.submit("t", within(G, 0, GPU=1))
    node.turn()
    node.give_back()
    assert node.scheduler.gpu_free == [0, RESOURCE_UNITS]
    assert not node.scheduler.fits(demand_of({"GPU": 2}))
    assert task.worker is not None
    node.die(task.worker)
    node.turn()
    assert node.scheduler.gpu_free == [RESOURCE_UNITS] * 2


# ----------------------------------------------------------------------------- at random

GROUPS = [bytes([65 + number]) * 16 for number in range(3)]
AMOUNTS = {"CPU": [0.5, 1.0, 2.0], "GPU": [0.25, 0.5, 1.0, 2.0], "oar": [1.0]}
RESOURCES = st.dictionaries(st.sampled_from(sorted(AMOUNTS)), st.integers(0, 3), max_size=2).map(
    lambda drawn: {name: AMOUNTS[name][n % len(AMOUNTS[name])] for name, n in drawn.items()}
)
TOTAL = {"CPU": 8.0, "GPU": 4.0, "oar": 3.0}


class AnyOrder(RuleBasedStateMachine):
    """Reservations, commits, returns, tasks, actors and deaths in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.node = Node(**TOTAL)
        self.attempt = 0
        self.open: list[tuple[bytes, int]] = []  # reserved, and neither committed nor returned
        self.tasks: list[Task] = []
        self.actors: list[tuple[Demand, list[int] | None]] = []
        self.count = 0

    @rule(
        group=st.sampled_from(GROUPS),
        bundles=st.dictionaries(st.integers(0, 3), RESOURCES.filter(bool), min_size=1, max_size=3),
        is_claim=st.booleans(),
    )
    def reserve(self, group: bytes, bundles: dict[int, dict[str, float]], is_claim: bool) -> None:
        self.attempt += 1
        pairs = [(index, demand_of(bundle)) for index, bundle in bundles.items()]
        before = dict(self.node.scheduler.available)
        message = ReserveBundles(group, self.attempt, pairs, is_claim)
        answer = self.node.bundles.reserve(message)
        if answer is not None and answer.is_reserved:
            self.open.append((group, self.attempt))
        else:
            assert self.node.scheduler.available == before
            assert (self.node.bundles.claim is message) == (answer is None)

    @precondition(lambda self: self.node.bundles.claim is not None)
    @rule()
    def call_off(self) -> None:
        claim = self.node.bundles.claim
        assert claim is not None
        assert not self.node.give_back(claim.group_id, claim.attempt)
        assert self.node.bundles.claim is None

    @precondition(lambda self: self.open)
    @rule(data=st.data(), is_committed=st.booleans())
    def conclude(self, data: st.DataObject, is_committed: bool) -> None:
        group, attempt = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        if is_committed:
            self.node.commit(group, attempt)
        else:
            assert not self.node.give_back(group, attempt)

    @rule(group=st.sampled_from(GROUPS))
    def remove(self, group: bytes) -> None:
        """All of it goes; some of its users are killed now, the others later."""
        self.open = [pair for pair in self.open if pair[0] != group]
        self.node.give_back(group)

    @rule(group=st.sampled_from(GROUPS), bundle=st.integers(-1, 3), resources=RESOURCES)
    def submit(self, group: bytes, bundle: int, resources: dict[str, float]) -> None:
        self.count += 1
        demand = within(group, bundle, **resources)
        self.tasks.append(self.node.submit(f"t{self.count}", demand))

    @rule(resources=RESOURCES)
    def submit_plain(self, resources: dict[str, float]) -> None:
        self.count += 1
        self.tasks.append(self.node.submit(f"t{self.count}", demand_of(resources)))

    @rule()
    def turn(self) -> None:
        self.node.turn()
        self.open += self.node.served
        self.node.served.clear()

    @rule(data=st.data(), how=st.sampled_from(["ends", "dies", "blocks", "goes on"]))
    def task_moves(self, data: st.DataObject, how: str) -> None:
        sent = [task for task in self.tasks if task.worker is not None]
        if not sent:
            return
        task = data.draw(st.sampled_from(sent))
        worker = task.worker
        assert worker is not None
        if how == "blocks":
            self.node.scheduler.blocked(worker)
        elif how == "goes on":
            self.node.scheduler.unblocked(worker)
        elif how == "ends" and worker.state is WorkerState.LEASED:
            self.node.end(task)
            self.tasks.remove(task)
        elif how == "dies":
            for gone in self.node.die(worker):
                self.tasks.remove(gone)

    @rule(group=st.sampled_from(GROUPS), bundle=st.integers(-1, 3), resources=RESOURCES)
    def actor_comes(self, group: bytes, bundle: int, resources: dict[str, float]) -> None:
        demand = within(group, bundle, **resources)
        if self.node.scheduler.fits(demand):
            self.actors.append((demand, self.node.scheduler.take(demand)))
            self._count_actors()

    @precondition(lambda self: self.actors)
    @rule(data=st.data())
    def actor_goes(self, data: st.DataObject) -> None:
        demand, gpus = self.actors.pop(data.draw(st.integers(0, len(self.actors) - 1)))
        self.node.scheduler.give_back(demand, gpus)
        self._count_actors()

    def _count_actors(self) -> None:
        held: dict[str, int] = {}
        for demand, _ in self.actors:
            for name, units in demand:
                held[name] = held.get(name, 0) + units
        self.node.held_by_actors = held

    @invariant()
    def everything_adds_up(self) -> None:
        self.node.check()

    @invariant()
    def no_device_is_given_twice(self) -> None:
        scheduler = self.node.scheduler
        used = list(scheduler.gpu_free)
        for name, table in scheduler.gpus.items():
            found = parse_name(name)
            if found is not None and found[2] == -1:
                used = [left + more for left, more in zip(used, table, strict=True)]
        for bundles in self.node.bundles.groups.values():
            for bundle in bundles.values():
                if not bundle.is_committed:
                    _give(used, bundle.demand, bundle.gpus)
        for worker in scheduler.workers.values():
            if worker.lease is not None:
                _give(used, worker.lease.demand, worker.gpus)
        for demand, gpus in self.actors:
            _give(used, demand, gpus)
        assert used == [RESOURCE_UNITS] * len(used)

    @invariant()
    def what_runs_has_the_devices_of_its_bundle(self) -> None:
        for worker in self.node.scheduler.workers.values():
            if worker.lease is None:
                continue
            for name, units in worker.lease.demand:
                resource, group, index = parse_name(name) or (name, b"", -1)
                if resource == "GPU":
                    assert len(worker.gpus or ()) == max(1, units // RESOURCE_UNITS)
                if resource == "GPU" and index >= 0 and group in self.node.bundles.groups:
                    bundle = self.node.bundles.groups[group][index]
                    assert set(worker.gpus or ()) <= set(bundle.gpus or ())

    def teardown(self) -> None:
        for group in GROUPS:
            self.node.give_back(group)
            self.node.bundles.take_waiting(group)
        for worker in list(self.node.scheduler.workers.values()):
            self.node.die(worker)
        for demand, gpus in self.actors:
            self.node.scheduler.give_back(demand, gpus)
        self.node.held_by_actors = {}
        self.node.bundles.settle()
        self.node.check()
        total = dict(demand_of(TOTAL))
        assert self.node.scheduler.available == self.node.scheduler.total == total
        assert not self.node.bundles.groups and not self.node.bundles.leaving


def _give(used: list[int], demand: Demand, gpus: list[int] | None) -> None:
    units = max((units for name, units in demand if name.startswith("GPU")), default=0)
    for device in gpus or ():
        used[device] += min(units, RESOURCE_UNITS)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


def test_what_a_bundle_gives_is_what_a_demand_in_it_takes() -> None:
    """The two ends of the naming agree, for each resource."""
    demand: Any = demand_of({"CPU": 1, "oar": 2})
    given_names = bundle_resources(G, 3, demand)
    assert given_names.keys() == dict(rewrite_demand(demand, G, 3)).keys()
