"""Pulls as event lists, against random events, and as a broadcast among many nodes."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from skate import config
from skate.objects.pull_manager import (
    AbandonExtent,
    Action,
    Arrived,
    CancelFetch,
    Failed,
    Locate,
    MakeRoom,
    PullManager,
    StartFetch,
)

SIZE = 1000
ME, A, B, C = b"me", b"A", b"B", b"C"
X, Y, Z = b"x", b"y", b"z"


def first(nodes: Sequence[bytes]) -> bytes:
    return nodes[0]


class Player:
    """A pull manager, and a clock; each event returns the actions that it led to."""

    def __init__(self, **bounds: int) -> None:
        self.pulls = PullManager(ME, first, **bounds)
        self.now = 100.0

    def want(
        self, object_id: bytes, *nodes: bytes, size: int = SIZE, urgent: bool = False
    ) -> list[Action]:
        self.pulls.want(object_id, size, nodes, urgent, self.now)
        return self.actions()

    def drop(self, object_id: bytes) -> list[Action]:
        self.pulls.drop(object_id)
        return self.actions()

    def ready(self, object_id: bytes, offset: int = 0) -> list[Action]:
        self.pulls.extent_ready(object_id, offset, self.now)
        return self.actions()

    def refused(self, object_id: bytes) -> list[Action]:
        self.pulls.extent_refused(object_id)
        return self.actions()

    def located(self, object_id: bytes, *nodes: bytes) -> list[Action]:
        self.pulls.located(object_id, nodes, self.now)
        return self.actions()

    def done(self, object_id: bytes, why: str = "ok", seconds: float = 1.0) -> list[Action]:
        ok = why == "ok"
        self.pulls.fetch_done(object_id, ok, SIZE if ok else 0, seconds, why, self.now)
        return self.actions()

    def died(self, node_id: bytes) -> list[Action]:
        self.pulls.node_died(node_id)
        return self.actions()

    def after(self, seconds: float) -> list[Action]:
        self.now += seconds
        self.pulls.tick(self.now)
        return self.actions()

    def actions(self) -> list[Action]:
        self.pulls.check()
        return self.pulls.take_actions()


@pytest.fixture
def player() -> Player:
    return Player()


# ---------------------------------------------------------------------------------- one pull


def test_a_pull_from_want_to_arrival(player: Player) -> None:
    assert player.want(X, A) == [MakeRoom(X, SIZE)]
    assert player.ready(X, 4096) == [StartFetch(X, 4096, SIZE, A)]
    assert X in player.pulls
    assert player.done(X) == [Arrived(X)]
    assert X not in player.pulls and len(player.pulls) == 0


def test_however_many_ask_it_is_pulled_once(player: Player) -> None:
    player.want(X, A)
    assert player.want(X, A, urgent=True) == []
    player.ready(X)
    assert player.want(X, B) == []
    assert player.done(X) == [Arrived(X)]


def test_an_object_of_unknown_place_is_located_first(player: Player) -> None:
    player.want(X)
    assert player.ready(X, 8192) == [Locate(X)]
    assert player.located(X, B) == [StartFetch(X, 8192, SIZE, B)]


def test_a_want_that_knows_more_ends_the_search(player: Player) -> None:
    player.want(X)
    player.ready(X)
    assert player.want(X, C) == [StartFetch(X, 0, SIZE, C)]
    assert player.located(X) == []  # late, and of no interest


def test_news_that_nobody_asked_for_is_no_answer(player: Player) -> None:
    player.want(X, A)
    player.ready(X)
    assert player.done(X, "gone") == [Locate(X)]
    player.pulls.learned(X, [A], player.now)
    assert player.actions() == []  # the table may know more
    player.pulls.learned(X, [B], player.now)
    assert player.actions() == [StartFetch(X, 0, SIZE, B)]


def test_an_answer_that_does_not_come_is_asked_for_again(player: Player) -> None:
    player.want(X)
    player.ready(X)
    assert player.pulls.deadline() == player.now + config.LOCATE_AGAIN_S
    assert player.after(config.LOCATE_AGAIN_S / 2) == []
    assert player.after(config.LOCATE_AGAIN_S) == [Locate(X)]
    assert player.located(X, A) == [StartFetch(X, 0, SIZE, A)]


def test_this_node_itself_is_never_a_source(player: Player) -> None:
    player.want(X, ME)
    assert player.ready(X) == [Locate(X)]
    assert player.located(X, ME) == [AbandonExtent(X), Failed(X, [], "lost")]


@pytest.mark.parametrize("why", ["gone", "unreachable"])
def test_the_next_source_is_tried_at_once(player: Player, why: str) -> None:
    player.want(X, A, B)
    player.ready(X)
    assert player.done(X, why) == [StartFetch(X, 0, SIZE, B)]
    assert player.done(X) == [Arrived(X)]


def test_when_all_have_failed_the_table_is_asked_and_then_it_is_lost(player: Player) -> None:
    player.want(X, A, B)
    player.ready(X)
    player.done(X, "unreachable")
    assert player.done(X, "gone") == [Locate(X)]
    assert player.located(X, A, C) == [StartFetch(X, 0, SIZE, C)]
    assert player.done(X, "unreachable") == [Locate(X)]
    assert player.located(X, A, B, C) == [AbandonExtent(X), Failed(X, [A, B, C], "lost")]
    assert player.want(X, A) == [MakeRoom(X, SIZE)]  # a new pull tries them all again


def test_an_answer_to_an_older_question_does_not_end_the_search(player: Player) -> None:
    player.want(X, A)
    player.ready(X)
    assert player.done(X, "busy") == [Locate(X)]
    assert player.after(config.BUSY_RETRY_S) == [StartFetch(X, 0, SIZE, A)]
    assert player.done(X, "gone") == [Locate(X)]
    assert player.located(X, A) == []  # from before A lost it: the second answer counts
    assert player.located(X, B) == [StartFetch(X, 0, SIZE, B)]


def test_no_room_for_it_is_final(player: Player) -> None:
    player.want(X, A)
    assert player.refused(X) == [Failed(X, [], "full")]
    assert player.ready(X) == []  # not expected any more


# ---------------------------------------------------------------------------------- busy sources


def test_who_is_told_busy_looks_for_other_copies_and_tries_one(player: Player) -> None:
    player.want(X, A)
    player.ready(X)
    assert player.done(X, "busy") == [Locate(X)]
    assert player.located(X, A, B) == []
    assert player.pulls.deadline() == player.now + config.BUSY_RETRY_S
    assert player.after(config.BUSY_RETRY_S) == [StartFetch(X, 0, SIZE, B)]


def test_it_waits_longer_each_time_up_to_a_bound(player: Player) -> None:
    player.want(X, A)
    player.ready(X)
    waits = []
    for _ in range(6):
        player.done(X, "busy")
        due = player.pulls.deadline()
        assert due is not None
        waits.append(round(due - player.now, 3))
        player.now = due
        assert player.after(0.0) == [StartFetch(X, 0, SIZE, A)]  # there is no other
    assert waits == [0.01, 0.02, 0.04, 0.08, 0.1, 0.1]


def test_without_an_answer_the_known_ones_are_tried(player: Player) -> None:
    """While the GCS is away, transfers between those who know each other go on."""
    player.want(X, A, B)
    player.ready(X)
    player.done(X, "busy")
    assert player.after(config.BUSY_RETRY_S) == [StartFetch(X, 0, SIZE, B)]
    player.done(X, "busy")
    assert player.after(1.0) == [StartFetch(X, 0, SIZE, A)]


# ---------------------------------------------------------------------------------- nobody wants it


def test_dropped_in_the_queue_it_leaves_no_trace() -> None:
    player = Player(pulls_at_once=1)
    player.want(X, A)
    assert player.want(Y, A) == []
    assert player.drop(Y) == []
    player.ready(X)
    assert player.done(X) == [Arrived(X)]


def test_dropped_before_the_fetch_its_extent_is_abandoned(player: Player) -> None:
    player.want(X, A)
    assert player.drop(X) == [AbandonExtent(X)]
    player.want(Y)
    player.ready(Y)
    assert player.drop(Y) == [AbandonExtent(Y)]
    player.want(Z, A)
    player.ready(Z)
    player.done(Z, "busy")
    assert player.drop(Z) == [AbandonExtent(Z)]
    assert player.located(Z, B) == []
    assert player.pulls.deadline() is None


@pytest.mark.parametrize("why", ["ok", "cancelled", "unreachable", "busy", "gone"])
def test_dropped_while_it_is_fetched_its_extent_stays_until_nobody_writes(
    player: Player, why: str
) -> None:
    player.want(X, A)
    player.ready(X)
    assert player.drop(X) == [CancelFetch(X)]
    assert X not in player.pulls
    assert player.drop(X) == []
    assert player.done(X, why) == [AbandonExtent(X)]


def test_wanted_again_before_the_fetch_has_ended(player: Player) -> None:
    player.want(X, A)
    player.ready(X)
    player.drop(X)
    assert player.want(X, A) == []
    assert player.done(X, "cancelled") == [StartFetch(X, 0, SIZE, A)]  # A is not to blame
    player.drop(X)
    player.want(X, A)
    assert player.done(X, "ok") == [Arrived(X)]


# ---------------------------------------------------------------------------------- dead nodes


def test_a_fetch_from_a_dead_node_is_not_waited_for(player: Player) -> None:
    player.want(X, A, B)
    player.ready(X)
    assert player.died(A) == [CancelFetch(X)]
    assert player.done(X, "cancelled") == [StartFetch(X, 0, SIZE, B)]
    assert player.located(X, A, B) == []
    player.done(X, "unreachable")
    assert player.located(X, A, B) == [AbandonExtent(X), Failed(X, [A, B], "lost")]


def test_a_node_that_died_before_the_fetch_is_not_tried(player: Player) -> None:
    player.want(X, A, B)
    assert player.died(A) == []
    assert player.ready(X) == [StartFetch(X, 0, SIZE, B)]


# ---------------------------------------------------------------------------------- order, bounds


def test_in_the_order_wanted_and_urgent_ones_first() -> None:
    player = Player(pulls_at_once=1)
    assert player.want(b"1", A) == [MakeRoom(b"1", SIZE)]
    for object_id, urgent in ((b"2", False), (b"3", False), (b"4", True), (b"5", True)):
        assert player.want(object_id, A, urgent=urgent) == []
    assert player.want(b"3", urgent=True) == []  # somebody else cannot do without it
    order = []
    for object_id in (b"1", b"4", b"5", b"3", b"2"):
        player.ready(object_id)
        order += player.done(object_id)
    assert order == [
        Arrived(b"1"),
        MakeRoom(b"4", SIZE),
        Arrived(b"4"),
        MakeRoom(b"5", SIZE),
        Arrived(b"5"),
        MakeRoom(b"3", SIZE),
        Arrived(b"3"),
        MakeRoom(b"2", SIZE),
        Arrived(b"2"),
    ]


def test_one_that_is_preferred_takes_the_turn_of_who_waits_for_room() -> None:
    player = Player(pulls_at_once=2)
    for object_id in (b"1", b"2", b"3", b"4"):
        player.want(object_id, A, urgent=True)
    player.ready(b"1")  # somebody writes there
    player.pulls.prefer([b"4", b"1"])
    assert player.pulls.take_actions() == [AbandonExtent(b"2"), MakeRoom(b"4", SIZE)]
    player.pulls.prefer([b"4"])
    assert player.pulls.take_actions() == []
    assert player.done(b"1") == [Arrived(b"1"), MakeRoom(b"2", SIZE)]


def test_bytes_are_bounded_and_a_small_one_does_not_overtake() -> None:
    player = Player(bytes_at_once=10)
    assert player.want(X, A, size=6) == [MakeRoom(X, 6)]
    assert player.want(Y, A, size=5) == []
    assert player.want(Z, A, size=1) == []
    assert player.drop(X) == [AbandonExtent(X), MakeRoom(Y, 5), MakeRoom(Z, 1)]


def test_what_is_larger_than_the_bound_goes_alone() -> None:
    player = Player(bytes_at_once=10)
    assert player.want(X, A, size=50) == [MakeRoom(X, 50)]
    assert player.want(Y, A, size=1) == []
    player.ready(X)
    assert player.done(X) == [Arrived(X), MakeRoom(Y, 1)]


def test_the_bandwidth_is_an_average_of_what_has_come(player: Player) -> None:
    assert player.pulls.bandwidth == 0.0
    for seconds, expected in ((1.0, 1000.0), (2.0, 1000.0 / 1.2)):
        player.want(X, A)
        player.ready(X)
        player.done(X, seconds=seconds)
        assert player.pulls.bandwidth == pytest.approx(expected)
    player.want(X, A)
    player.ready(X)
    player.done(X, "unreachable", seconds=500.0)
    assert player.pulls.bandwidth == pytest.approx(1000.0 / 1.2)  # nothing has come


# ---------------------------------------------------------------------------------- random events

OBJECTS = [b"%d" % number for number in range(6)]
NODES = [b"node %d" % number for number in range(4)]


class PullMachine(RuleBasedStateMachine):
    """Any events in any order that a node may see; what is under way is remembered here."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.random = random.Random(0)
        self.pulls = PullManager(ME, self.random.choice, pulls_at_once=3, bytes_at_once=10)
        self.alive = set(NODES)
        self.asked: list[bytes] = []  # Locates without an answer
        self.room: dict[bytes, bool] = {}  # extents: whether granted
        self.fetching: dict[bytes, bytes] = {}
        self.wanted: set[bytes] = set()

    def act(self) -> None:
        for action in self.pulls.take_actions():
            object_id = action.object_id
            match action:
                case MakeRoom():
                    assert object_id not in self.room
                    self.room[object_id] = False
                case AbandonExtent():
                    assert object_id not in self.fetching, "somebody still writes there"
                    del self.room[object_id]
                case StartFetch(node_id=node_id):
                    assert self.room[object_id] and object_id not in self.fetching
                    assert node_id in self.alive
                    self.fetching[object_id] = node_id
                case CancelFetch():
                    assert object_id in self.fetching
                case Locate():
                    self.asked.append(object_id)
                case Arrived():
                    assert self.room.pop(object_id) and object_id not in self.fetching
                    assert object_id in self.wanted
                    self.wanted.discard(object_id)
                case Failed():
                    assert object_id not in self.room
                    assert object_id in self.wanted
                    self.wanted.discard(object_id)

    @rule(
        object_id=st.sampled_from(OBJECTS),
        size=st.integers(1, 15),
        nodes=st.sets(st.sampled_from(NODES), max_size=3),
        urgent=st.booleans(),
    )
    def want(self, object_id: bytes, size: int, nodes: set[bytes], urgent: bool) -> None:
        known = sorted(nodes & self.alive)
        self.pulls.want(object_id, size, known, urgent, self.now)
        self.wanted.add(object_id)
        self.act()

    @rule(object_id=st.sampled_from(OBJECTS))
    def drop(self, object_id: bytes) -> None:
        self.wanted.discard(object_id)
        self.pulls.drop(object_id)
        self.act()

    @rule(object_ids=st.lists(st.sampled_from(OBJECTS), unique=True))
    def prefer(self, object_ids: list[bytes]) -> None:
        self.pulls.prefer(object_ids)
        self.act()

    @precondition(lambda self: any(not granted for granted in self.room.values()))
    @rule(data=st.data(), is_granted=st.booleans())
    def answer_room(self, data: st.DataObject, is_granted: bool) -> None:
        waiting = [object_id for object_id, granted in self.room.items() if not granted]
        object_id = data.draw(st.sampled_from(waiting))
        if is_granted:
            self.room[object_id] = True
            self.pulls.extent_ready(object_id, 0, self.now)
        else:
            del self.room[object_id]
            self.pulls.extent_refused(object_id)
        self.act()

    @precondition(lambda self: self.asked)
    @rule(nodes=st.sets(st.sampled_from(NODES)), is_lost=st.booleans())
    def answer_locate(self, nodes: set[bytes], is_lost: bool) -> None:
        object_id = self.asked.pop(0)
        if not is_lost:
            self.pulls.located(object_id, sorted(nodes & self.alive), self.now)
        self.act()

    @precondition(lambda self: self.fetching)
    @rule(
        data=st.data(),
        why=st.sampled_from(["ok", "busy", "gone", "unreachable", "cancelled"]),
    )
    def end_fetch(self, data: st.DataObject, why: str) -> None:
        object_id = data.draw(st.sampled_from(sorted(self.fetching)))
        del self.fetching[object_id]
        self.pulls.fetch_done(object_id, why == "ok", 5, 0.1, why, self.now)
        self.act()

    @precondition(lambda self: len(self.alive) > 1)
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        # Its id never comes back, and the core drops it from what it hears later.
        node_id = data.draw(st.sampled_from(sorted(self.alive)))
        self.alive.discard(node_id)
        self.pulls.node_died(node_id)
        self.act()

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.1, 2.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.pulls.tick(self.now)
        self.act()

    @invariant()
    def holds(self) -> None:
        self.pulls.check()
        assert {object_id for object_id in OBJECTS if object_id in self.pulls} == self.wanted

    def teardown(self) -> None:
        """With everything that is under way failing from now on, everything ends."""
        for _ in range(1000):
            if not len(self.pulls):
                break
            for object_id, granted in list(self.room.items()):
                if not granted:
                    self.room[object_id] = True
                    self.pulls.extent_ready(object_id, 0, self.now)
            self.act()
            for object_id in list(self.fetching):
                del self.fetching[object_id]
                self.pulls.fetch_done(object_id, False, 0, 0.1, "unreachable", self.now)
            self.act()
            for object_id in self.asked[:]:
                self.asked.remove(object_id)
                self.pulls.located(object_id, [], self.now)
            self.now += config.LOCATE_AGAIN_S
            self.pulls.tick(self.now)
            self.act()
            self.pulls.check()
        assert not len(self.pulls) and not self.room and not self.wanted
        assert self.pulls.deadline() is None


PullMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=60)
TestRandomEvents = PullMachine.TestCase


# ---------------------------------------------------------------------------------- broadcast

TRANSFER_S = 1.0
MESSAGE_S = 0.001
NOTICE_S = 0.05  # until the GCS has told that a node is dead


class PlayedCluster:
    """Nodes that all want one object: their pull managers, the object table, a virtual clock."""

    def __init__(self, count: int, seed: int, transfer_s: float = TRANSFER_S) -> None:
        self.random = random.Random(seed)
        self.transfer_s = transfer_s
        self.ids = [b"node %03d" % number for number in range(count)]
        self.alive = set(self.ids)
        self.copies = {self.ids[0]}
        self.table = [self.ids[0]]
        self.pulls = {node: PullManager(node, self.random.choice) for node in self.ids[1:]}
        self.serving: dict[bytes, set[bytes]] = {node: set() for node in self.ids}
        self.uploads: Counter[bytes] = Counter()
        self.most_at_once = 0
        self.requests = 0
        self.ended: dict[bytes, str] = {}
        self.arrivals: list[float] = []
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def later(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._order), event))

    def run(self) -> None:
        for node, pulls in self.pulls.items():
            pulls.want(X, SIZE, [self.ids[0]], False, 0.0)
            self.act(node)
        while self._events:
            self.now, _, event = heapq.heappop(self._events)
            event()
        for node in self.alive & self.pulls.keys():
            self.pulls[node].check()
            assert len(self.pulls[node]) == 0, f"{node!r} still waits"

    def act(self, node: bytes) -> None:
        if node not in self.alive:
            return
        pulls = self.pulls[node]
        for action in pulls.take_actions():
            match action:
                case MakeRoom():
                    self.tell(node, 0.0, lambda: pulls.extent_ready(X, 0, self.now))
                case StartFetch(node_id=source):
                    self.requests += 1
                    self.later(MESSAGE_S, lambda n=node, s=source: self.serve(n, s))  # type: ignore[misc]
                case Locate():
                    self.tell(
                        node,
                        2 * MESSAGE_S,
                        lambda: pulls.located(X, list(self.table), self.now),
                    )
                case CancelFetch():
                    self.tell(node, 0.0, self.fetch_ends(node, "cancelled"))
                case Arrived():
                    self.ended[node] = "arrived"
                    self.arrivals.append(self.now)
                    self.copies.add(node)
                    self.table.append(node)
                case Failed(why=why):
                    self.ended[node] = why
        due = pulls.deadline()
        if due is not None:
            self.tell(node, max(0.0, due - self.now), lambda: pulls.tick(self.now))

    def tell(self, node: bytes, seconds: float, event: Callable[[], None]) -> None:
        def happen() -> None:
            if node in self.alive:
                event()
                self.act(node)

        self.later(seconds, happen)

    def serve(self, node: bytes, source: bytes) -> None:
        """A request has reached its source."""
        if source not in self.alive:
            self.tell(node, NOTICE_S, self.fetch_ends(node, "unreachable"))
        elif source not in self.copies:
            self.tell(node, MESSAGE_S, self.fetch_ends(node, "gone"))
        elif len(self.serving[source]) >= config.UPLOADS_PER_OBJECT:
            self.tell(node, MESSAGE_S, self.fetch_ends(node, "busy"))
        else:
            self.serving[source].add(node)
            self.most_at_once = max(self.most_at_once, len(self.serving[source]))
            self.later(self.transfer_s, lambda: self.served(node, source))

    def served(self, node: bytes, source: bytes) -> None:
        self.serving[source].discard(node)
        if node not in self.alive:
            return
        if source in self.alive:
            self.uploads[source] += 1
            self.fetch_ends(node, "ok")()
        else:
            self.fetch_ends(node, "unreachable")()
        self.act(node)

    def fetch_ends(self, node: bytes, why: str) -> Callable[[], None]:
        pulls = self.pulls[node]
        ok = why == "ok"
        return lambda: pulls.fetch_done(X, ok, SIZE, self.transfer_s, why, self.now)

    def kill(self, node: bytes) -> None:
        self.alive.discard(node)
        self.copies.discard(node)

        def noticed() -> None:
            self.table = [other for other in self.table if other != node]
            for other in sorted(self.alive & self.pulls.keys()):
                self.pulls[other].node_died(node)
                self.act(other)

        self.later(NOTICE_S, noticed)


@pytest.mark.parametrize("seed", range(5))
def test_a_broadcast_spreads_in_rounds_and_loads_nobody(seed: int) -> None:
    """32 nodes want what one has: copies triple each round, 1, 3, 9, 27, 81."""
    cluster = PlayedCluster(32, seed)
    cluster.run()
    assert all(how == "arrived" for how in cluster.ended.values()) and len(cluster.ended) == 31
    assert cluster.most_at_once == config.UPLOADS_PER_OBJECT
    rounds = 4  # the least there can be, with two uploads at a time
    assert max(cluster.arrivals) < (rounds + 1) * TRANSFER_S + 10 * config.BUSY_RETRY_MAX_S
    assert max(cluster.uploads.values()) <= config.UPLOADS_PER_OBJECT * (rounds + 1)
    # Each asks ten times a second at most, and a little more often at first.
    assert cluster.requests <= 31 * (10 * max(cluster.arrivals) + 10)


def test_four_times_the_nodes_take_little_longer() -> None:
    seconds = []
    for count in (16, 64, 256):
        cluster = PlayedCluster(count, seed=1)
        cluster.run()
        assert len(cluster.ended) == count - 1
        seconds.append(max(cluster.arrivals))
    assert seconds[2] - seconds[1] <= 3 * TRANSFER_S and seconds[1] - seconds[0] <= 3 * TRANSFER_S


@settings(max_examples=60)
@given(
    seed=st.integers(0, 1 << 30),
    count=st.integers(2, 24),
    deaths=st.lists(st.tuples(st.floats(0.0, 5.0), st.integers(0, 23)), max_size=8),
)
def test_deaths_lose_no_pull(seed: int, count: int, deaths: list[tuple[float, int]]) -> None:
    """Whoever lives ends up with a copy, or is told that there is none left."""
    cluster = PlayedCluster(count, seed)
    for at, number in deaths:
        node = cluster.ids[number % count]
        cluster.later(at, lambda node=node: cluster.kill(node))  # type: ignore[misc]
    cluster.run()
    living = cluster.alive & cluster.pulls.keys()
    assert living <= cluster.ended.keys()
    holders = {node for node in living if cluster.ended[node] == "arrived"}
    if holders and cluster.ids[0] in cluster.alive:
        assert holders == living, "somebody gave up although the object was there all the time"
