"""Placement groups in a whole small cluster, in any order: the bundles and local schedulers of real
nodes are at the other ends of its lines.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from skate.config import GROUP_RETRY_S
from skate.gcs.group_row import GroupRow
from skate.gcs.placement_groups import PlacementGroups
from skate.messages import (
    Answer,
    CommitBundles,
    Heartbeat,
    ReserveBundles,
    ReturnBundles,
)
from skate.rows import Pool, Task, Template, Worker
from skate.scheduler.bundle_choice import STRATEGIES, NodeRoom, Wanted, choose
from skate.scheduler.bundles import Bundles
from skate.scheduler.group_names import rewrite_demand
from skate.scheduler.local_scheduler import LocalScheduler
from skate.spec import CallTemplate, Demand, demand_of
from skate.states import PlacementGroupState
from tests.gcs.group_rows import JOB, group_row


class PlayedNode:
    """A node with real bundles, whose lines to and from the GCS deliver when they are told to."""

    def __init__(self, resources: dict[str, float]) -> None:
        self.resources = dict(demand_of(resources))
        self.scheduler = LocalScheduler(
            self.resources, lambda w, t: self.running.append(t), self._start, lambda t: None
        )
        self.bundles = Bundles(self.scheduler)
        self.inbox: deque[Any] = deque()
        self.outbox: deque[Any] = deque()
        self.leases: list[Demand] = []  # of actors
        self.running: list[Task] = []
        self._count = 0

    def _start(self, pool: Pool) -> None:
        self._count += 1
        worker = Worker(b"w%d" % self._count, pool, 0.0)
        self.scheduler.add_worker(worker)
        self.scheduler.worker_ready(worker, 0.0)

    def submit(self, demand: Demand) -> None:
        """A task, which runs once there is room."""
        if self.scheduler.missing(demand):
            return
        self._count += 1
        spec = CallTemplate("task", b"", "f", demand)
        template = Template(0, JOB, spec, self.scheduler.class_of(JOB, spec))
        task = Task(b"t%d" % self._count, template, b"", None, None, None, 0, 0.0)
        self.scheduler.enqueue(task, 0.0)

    def end_task(self, index: int) -> None:
        task = self.running.pop(index % len(self.running))
        assert task.worker is not None
        self.scheduler.finished(task.worker, task.id, 0.1)

    def end_all_tasks(self) -> None:
        self.turn()
        while self.running:
            self.end_task(0)
            self.turn()

    def turn(self) -> None:
        self.bundles.settle()
        self.scheduler.release_emptied(0.0)
        answer = self.bundles.serve_claim()
        if answer is not None:
            self.outbox.append(answer)
        for _ in range(2):  # once more with the workers that have come
            self.scheduler.dispatch(0.0)

    def take(self, demand: Demand) -> None:
        if self.scheduler.fits(demand):
            self.scheduler.take(demand)
            self.leases.append(demand)

    def end_lease(self, index: int) -> None:
        self.scheduler.give_back(self.leases.pop(index % len(self.leases)))
        self.turn()

    def deliver(self) -> None:
        message = self.inbox.popleft()
        if isinstance(message, ReserveBundles):
            answer = self.bundles.reserve(message)
            if answer is not None:
                self.outbox.append(answer)
        elif isinstance(message, CommitBundles):
            self.bundles.commit(message)
        else:
            assert isinstance(message, ReturnBundles)
            self.bundles.give_back(message)

    def heartbeat(self) -> None:
        message = Heartbeat(
            self.scheduler.free_soon(), 0, 0, 0, 0.0, attainable=self.scheduler.attainable()
        )
        self.outbox.append(message)

    def check(self) -> None:
        held = Counter(self.bundles.held())
        for demand in self.leases:
            held.update(dict(demand))
        self.scheduler.check(dict(held))
        self.bundles.check()

    def has(self) -> dict[tuple[bytes, int], bool]:
        """The bundles here: whether each is committed."""
        return {
            (group_id, index): bundle.is_committed
            for group_id, bundles in self.bundles.groups.items()
            for index, bundle in bundles.items()
        }


AMOUNTS = st.fixed_dictionaries(
    {}, optional={"CPU": st.sampled_from([0.5, 1.0, 2.0]), "oar": st.just(1.0)}
).filter(bool)
ROOMS = st.fixed_dictionaries(
    {"CPU": st.sampled_from([1.0, 2.0, 4.0]), "oar": st.sampled_from([0.0, 1.0, 2.0])}
)
JOBS = [JOB, b"\0\0\0\2"]


class AnyOrder(RuleBasedStateMachine):
    """Joins, deaths, tasks that come first, removals, delays and second answers."""

    def __init__(self) -> None:
        super().__init__()
        self.groups = PlacementGroups(lambda *_: [], self._on_resources)
        self.nodes: dict[bytes, PlayedNode] = {}
        self.peers: dict[int, bytes] = {}
        self.totals: dict[bytes, dict[str, int]] = {}
        self.now = 1_000.0
        self.count = 0
        self.asked: dict[int, bytes] = {}  # questions under way: their group

    def _on_resources(self, changes: dict[bytes, dict[str, int]]) -> list[Any]:
        self.totals.update(changes)
        return []

    def _send(self) -> None:
        for peer, message in self.groups.take_sends():
            if isinstance(message, Answer):
                group_id = self.asked.pop(message.number)  # KeyError: answered twice
                row = self.groups.groups.get(group_id)
                assert row is not None
                is_there = row.state is PlacementGroupState.CREATED
                assert is_there == (message.body is True) == (not message.error)
            else:
                node = self.nodes.get(self.peers[peer])
                if node is not None:
                    node.inbox.append(message)

    def _living(self) -> list[bytes]:
        return list(self.nodes)

    def _rows(self, *states: str) -> list[GroupRow]:
        rows = self.groups.groups.rows()
        return [row for row in rows if not states or row.state.name in states]

    # ---- nodes

    @precondition(lambda self: len(self.nodes) < 5)
    @rule(resources=ROOMS)
    def join(self, resources: dict[str, float]) -> None:
        self.count += 1
        node_id = self.count.to_bytes(16, "big")
        self.peers[self.count] = node_id
        node = self.nodes[node_id] = PlayedNode(resources)
        self.totals[node_id] = node.resources
        self.groups.node_joined(node_id, self.count, node.resources, {}, self.now)
        self._send()

    @precondition(lambda self: self.nodes)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        node_id = data.draw(st.sampled_from(self._living()))
        del self.nodes[node_id], self.totals[node_id]
        self.groups.node_lost(node_id, self.now)
        self._send()

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), most=st.integers(1, 4))
    def to_node(self, data: st.DataObject, most: int) -> None:
        node = self.nodes[data.draw(st.sampled_from(self._living()))]
        for _ in range(min(most, len(node.inbox))):
            node.deliver()

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), twice=st.booleans())
    def from_node(self, data: st.DataObject, twice: bool) -> None:
        node_id = data.draw(st.sampled_from(self._living()))
        self._from_node(node_id, twice)

    def _from_node(self, node_id: bytes, twice: bool = False) -> None:
        node = self.nodes[node_id]
        if not node.outbox:
            return
        message = node.outbox.popleft()
        for _ in range(2 if twice else 1):
            if isinstance(message, Heartbeat):
                self.groups.heartbeat(node_id, message.available, message.attainable)
            else:
                self.groups.reserved(node_id, message, self.now)
            self._send()

    @rule()
    def everything_is_delivered(self) -> None:
        """Once there and back."""
        for node_id, node in self.nodes.items():
            while node.inbox:
                node.deliver()
            while node.outbox:
                self._from_node(node_id)

    @precondition(lambda self: self.nodes)
    @rule(data=st.data())
    def heartbeat(self, data: st.DataObject) -> None:
        self.nodes[data.draw(st.sampled_from(self._living()))].heartbeat()

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), resources=AMOUNTS)
    def actor_begins(self, data: st.DataObject, resources: dict[str, float]) -> None:
        node = self.nodes[data.draw(st.sampled_from(self._living()))]
        node.take(demand_of(resources))

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), resources=AMOUNTS, count=st.integers(1, 5))
    def submit(self, data: st.DataObject, resources: dict[str, float], count: int) -> None:
        node = self.nodes[data.draw(st.sampled_from(self._living()))]
        for _ in range(count):
            node.submit(demand_of(resources))
        node.turn()

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), index=st.integers(0, 9))
    def task_ends(self, data: st.DataObject, index: int) -> None:
        node = self.nodes[data.draw(st.sampled_from(self._living()))]
        if node.running:
            node.end_task(index)
            node.turn()

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), resources=AMOUNTS, bundle=st.integers(-1, 2))
    def actor_in_a_group_begins(
        self, data: st.DataObject, resources: dict[str, float], bundle: int
    ) -> None:
        node = self.nodes[data.draw(st.sampled_from(self._living()))]
        for group_id in node.bundles.groups:
            node.take(rewrite_demand(demand_of(resources), group_id, bundle))

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), index=st.integers(0, 9))
    def actor_ends(self, data: st.DataObject, index: int) -> None:
        node = self.nodes[data.draw(st.sampled_from(self._living()))]
        if node.leases:
            node.end_lease(index)

    # ---- users

    @rule(
        bundles=st.lists(AMOUNTS, min_size=1, max_size=3),
        strategy=st.sampled_from(STRATEGIES),
        job_id=st.sampled_from(JOBS),
        detached=st.booleans(),
    )
    def create(
        self, bundles: list[dict[str, float]], strategy: str, job_id: bytes, detached: bool
    ) -> None:
        self.count += 1
        self.groups.create(
            group_row(
                *bundles,
                group_id=self.count.to_bytes(16, "big"),
                strategy=strategy,
                made=self.now,
                job_id=job_id,
                detached=detached,
            )
        )
        self._send()

    @precondition(lambda self: self._rows())
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        row = data.draw(st.sampled_from(self._rows()))
        self.groups.remove(row.group_id, self.now)
        self._send()

    @precondition(lambda self: self._rows())
    @rule(data=st.data())
    def wait(self, data: st.DataObject) -> None:
        row = data.draw(st.sampled_from(self._rows()))
        self.count += 1
        self.asked[self.count] = row.group_id
        self.groups.wait(row.group_id, (0, self.count))
        self._send()

    @rule(job_id=st.sampled_from(JOBS))
    def end_job(self, job_id: bytes) -> None:
        self.groups.end_job(job_id, self.now)
        self._send()

    @rule(seconds=st.sampled_from([0.05, 0.1, 1.0, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        if self.groups.is_tick_due:
            self.groups.tick(self.now)
            self._send()

    # ---- what holds

    @invariant()
    def all_parts_are_sound(self) -> None:
        self.groups.check()
        for node in self.nodes.values():
            node.check()

    @invariant()
    def no_bundle_is_committed_twice(self) -> None:
        committed = Counter(
            key for node in self.nodes.values() for key, is_it in node.has().items() if is_it
        )
        assert all(count == 1 for count in committed.values())

    @invariant()
    def who_waits_is_answered_in_time(self) -> None:
        for group_id in self.asked.values():
            row = self.groups.groups.get(group_id)
            assert row is not None and row.state.name in ("PENDING", "RESCHEDULING")

    def _quiet(self) -> None:
        """Deliver everything, tick after tick, until nothing has changed for a while."""
        for _ in range(60):
            for _ in range(3):
                self.everything_is_delivered()
            for node in self.nodes.values():
                node.end_all_tasks()
                node.heartbeat()
            self.time_passes(GROUP_RETRY_S)

    def teardown(self) -> None:
        for node in self.nodes.values():
            while node.leases:
                node.end_lease(0)
        self._nobody_starves_beside_a_stream()
        self._quiet()
        self._nothing_is_forgotten()
        self._who_waits_waits_for_room()
        for row in self._rows():
            self.groups.remove(row.group_id, self.now)
            self._send()
        self._quiet()
        self.all_parts_are_sound()
        assert not self.asked
        for node_id, node in self.nodes.items():
            assert node.scheduler.available == node.scheduler.total == node.resources
            assert self.totals[node_id] == node.resources

    def _nobody_starves_beside_a_stream(self) -> None:
        """The first group that could be made if nothing ran is made, however many tasks wait."""
        for _ in range(3):  # what is being given back makes room for others as well
            self.everything_is_delivered()
        waiting = self._rows("PENDING", "RESCHEDULING")
        before = [row for row in waiting if self._has_room_for(row, to_claim=True)]
        for round_ in range(300):
            for node in self.nodes.values():
                while len(node.running) < 20 and round_ < 290:
                    node.submit(demand_of({"CPU": 0.5}))
                    node.turn()
                    if node.scheduler.queued() > 3:
                        break
                if node.running:
                    node.end_task(round_)
                node.turn()
                node.heartbeat()
            self.everything_is_delivered()
            self.time_passes(GROUP_RETRY_S)
            if any(row.state is PlacementGroupState.CREATED for row in before):
                return
        assert not before, [(row.group_id, row.bundles, row.strategy) for row in before]

    def _has_room_for(self, row: GroupRow, *, to_claim: bool) -> bool:
        rooms = [
            NodeRoom(
                node_id,
                node.resources,
                node.scheduler.attainable() if to_claim else node.scheduler.available,
                {},
            )
            for node_id, node in self.nodes.items()
        ]
        wanted = [
            Wanted(index, demand)
            for index, demand in enumerate(row.bundles)
            if not row.nodes[index]
        ]
        placed = Counter(node_id for node_id in row.nodes if node_id)
        return choose(wanted, row.strategy, rooms, placed) is not None

    def _nothing_is_forgotten(self) -> None:
        for node_id, node in self.nodes.items():
            assert node.has() == {
                (row.group_id, index): True
                for row in self._rows()
                for index, where in enumerate(row.nodes)
                if where == node_id
            }
            assert self.totals[node_id] == node.scheduler.total

    def _who_waits_waits_for_room(self) -> None:
        for row in self._rows("PENDING", "RESCHEDULING"):
            assert not self._has_room_for(row, to_claim=False)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=120, stateful_step_count=60, deadline=None)
