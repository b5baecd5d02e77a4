"""A lane whose ends and lines do everything in any order: nothing is lost, doubled or kept."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from skate.ids import handle_id
from skate.spec import FORMAT_PICKLE
from tests.lanes.pair import ACTOR, LARGE, Pair

LINES = ("lane>", "lane<", "caller>node", "node>caller", "worker>node", "node>worker")


class AnyOrder(RuleBasedStateMachine):
    """See the module's docstring."""

    pair: Pair

    @initialize(is_actor=st.booleans(), before=st.integers(0, 2), window=st.integers(1, 8))
    def start(self, is_actor: bool, before: int, window: int) -> None:
        self.pair = Pair(is_actor=is_actor, before=before, window=window)
        self.now = 1.0

    @rule(name=st.sampled_from(LINES), count=st.integers(1, 4))
    def deliver(self, name: str, count: int) -> None:
        for _ in range(count):
            self.pair.deliver(name)

    # ------------------------------------------------------------------ the caller

    @precondition(lambda self: not self.pair.caller_dead)
    @rule(count=st.integers(1, 3))
    def call(self, count: int) -> None:
        for _ in range(count):
            self.pair.call()

    @precondition(lambda self: not self.pair.caller_dead and self.pair.refs)
    @rule(data=st.data(), count=st.integers(1, 2))
    def call_with(self, data: st.DataObject, count: int) -> None:
        refs = self.pair.refs
        self.pair.call([data.draw(st.sampled_from(refs)) for _ in range(count)])

    @precondition(lambda self: not self.pair.caller_dead)
    @rule()
    def call_by_switch(self) -> None:
        self.pair.call_by_switch()

    @precondition(lambda self: not self.pair.caller_dead and self.pair.refs)
    @rule(data=st.data())
    def escape(self, data: st.DataObject) -> None:
        self.pair.escape(data.draw(st.sampled_from(self.pair.refs)))

    @precondition(lambda self: not self.pair.caller_dead and self.pair.refs)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        self.pair.drop(data.draw(st.sampled_from(self.pair.refs)))

    @precondition(lambda self: not self.pair.caller_dead)
    @rule()
    def flush_caller(self) -> None:
        self.pair.flush_caller()

    @precondition(lambda self: not self.pair.caller_dead)
    @rule()
    def flush_caller_lane(self) -> None:
        self.pair.flush_caller_lane()

    @precondition(lambda self: not self.pair.caller_dead)
    @rule(sure=st.integers(0, 5))
    def kill_caller(self, sure: int) -> None:
        if not sure:
            self.pair.kill_caller()

    # ------------------------------------------------------------------ the worker

    @precondition(lambda self: not self.pair.worker_dead)
    @rule()
    def begin(self) -> None:
        self.pair.begin()

    @precondition(lambda self: not self.pair.worker_dead and self.pair.running)
    @rule(data=st.sampled_from([FORMAT_PICKLE + b"small", FORMAT_PICKLE + b"tiny", LARGE]),
          contains=st.booleans())  # fmt: skip
    def finish(self, data: bytes, contains: bool) -> None:
        self.pair.finish(data, contains=contains and data is not LARGE)
        self.pair.begin()

    @precondition(lambda self: not self.pair.worker_dead)
    @rule()
    def flush_worker(self) -> None:
        self.pair.flush_worker()

    @precondition(lambda self: not self.pair.worker_dead)
    @rule()
    def flush_worker_lane(self) -> None:
        self.pair.flush_worker_lane()

    @precondition(lambda self: not self.pair.worker_dead and not self.pair.running)
    @rule(later_s=st.sampled_from([0.01, 0.03, 6.0]))
    def tick(self, later_s: float) -> None:
        self.now += later_s
        self.pair.server.tick(self.now)

    @precondition(lambda self: not self.pair.worker_dead and self.pair.running)
    @rule()
    def hand_back(self) -> None:
        self.pair.server.long(self.pair.running[0], 1.0)
        self.pair.server.hand_back()

    @precondition(lambda self: not self.pair.worker_dead and self.pair.running)
    @rule()
    def block(self) -> None:
        if self.pair.server.is_blocked:
            self.pair.server.unblock()
        else:
            self.pair.server.block()

    @precondition(lambda self: not self.pair.worker_dead)
    @rule(sure=st.integers(0, 5))
    def kill_worker(self, sure: int) -> None:
        if not sure:
            self.pair.kill_worker()

    @precondition(lambda self: self.pair.lane_state == "open")
    @rule()
    def revoke(self) -> None:
        self.pair.revoke()

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "pair"):
            self.pair.check()

    def teardown(self) -> None:
        if hasattr(self, "pair"):
            self.pair.settle()
            self.pair.check_end()


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestAnyOrder = AnyOrder.TestCase


# ---------------------------------------------------------------------- longer walks, from seeds

Moves = list[tuple[float, Callable[[], object]]]


class Walk:
    """One walk; what is likely is weighted, so that most calls ride."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        pick = self.random
        self.pair = Pair(
            is_actor=pick.random() < 0.5, before=pick.randrange(3), window=pick.choice([1, 3, 50])
        )
        self.has_faults = pick.random() < 0.6
        self.now = 1.0

    def run(self) -> None:
        pair, pick = self.pair, self.random
        if pick.random() < 0.7:
            pair.deliver("node>caller")
            pair.flush_caller()
            pair.deliver("lane>")
        for _ in range(pick.randrange(20, 200)):
            moves: Moves = [(5, lambda name=name: self.deliver(name)) for name in pair.lines]
            if not pair.caller_dead:
                moves += self.caller_moves()
            if not pair.worker_dead:
                moves += self.worker_moves()
            weights, choices = zip(*moves, strict=True)
            pick.choices(choices, weights)[0]()
            pair.check()
        pair.settle()
        pair.check_end()

    def deliver(self, name: str) -> None:
        for _ in range(self.random.randrange(1, 5)):
            self.pair.deliver(name)

    def caller_moves(self) -> Moves:
        pair, pick = self.pair, self.random
        moves: Moves = [
            (6, pair.call), (1, pair.call_by_switch), (6, pair.flush_caller),
            (3, pair.flush_caller_lane), (3, pair.flush_caller_node_line),
        ]  # fmt: skip
        if pair.refs:
            moves += [
                (2, lambda: pair.call([pick.choice(pair.refs[-3:])])),
                (2, lambda: pair.escape(pick.choice(pair.refs))),
                (4, lambda: pair.drop(pick.choice(pair.refs))),
            ]
        handle = handle_id(ACTOR)
        if handle in pair.references.counts and not pair.has_dropped_handle:
            moves.append((0.2, pair.drop_handle))
        if self.has_faults:
            moves.append((0.3, pair.kill_caller))
        return moves

    def worker_moves(self) -> Moves:
        pair, server = self.pair, self.pair.server
        moves: Moves = [
            (8, pair.begin), (8, self.finish), (6, pair.flush_worker), (3, pair.flush_worker_lane),
            (1, self.tick),
        ]  # fmt: skip
        if pair.running:
            moves += [
                (0.3, lambda: (server.long(pair.running[0], 1.0), server.hand_back())),
                (0.5, server.unblock if server.is_blocked else server.block),
            ]
        if self.has_faults:
            moves.append((0.3, pair.kill_worker))
            if pair.lane_state == "open":
                moves.append((0.3, pair.revoke))
        return moves

    def finish(self) -> None:
        small = FORMAT_PICKLE + b"small"
        data = self.random.choice([small, small, small, small, LARGE])
        self.pair.finish(data, contains=self.random.random() < 0.1)
        if self.random.random() < 0.7:
            self.pair.begin()

    def tick(self) -> None:
        self.now += self.random.choice([0.01, 0.03, 6.0])
        if not self.pair.running and not self.pair.server.queue:
            self.pair.server.tick(self.now)


@pytest.mark.parametrize("first", range(0, 400, 100))
def test_walks(first: int) -> None:
    for seed in range(first, first + 100):
        try:
            Walk(seed).run()
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
