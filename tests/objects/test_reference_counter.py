"""Reference counts against a naive model: what a set at the node holds equals "count > 0"."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from skate.objects.reference_counter import ReferenceCounter

A, B = b"a" * 20, b"b" * 20


def test_a_ref_made_by_a_call_is_only_released() -> None:
    counter = ReferenceCounter()
    counter.born_here(A)
    assert counter.drain() == ([], [])
    counter.journal.append(A)
    assert counter.drain() == ([], [A])


def test_a_ref_found_in_a_value_is_held_then_released() -> None:
    counter = ReferenceCounter()
    counter.journal += [(A,), (A,)]
    assert counter.drain() == ([A], [])
    counter.journal.append(A)
    assert counter.drain() == ([], [])
    counter.journal.append(A)
    assert counter.drain() == ([], [A])


def test_the_node_does_not_hear_of_what_lives_between_two_flushes() -> None:
    counter = ReferenceCounter()
    counter.born_here(B)
    counter.journal += [(A,), A, B, (B,)]
    assert counter.drain() == ([], [])
    assert counter.counts == {B: 1}


def test_the_death_of_a_ref_of_an_older_session_is_nobodys_business() -> None:
    counter = ReferenceCounter()
    counter.journal.append(A)
    assert counter.drain() == ([], [])
    counter.check()


def test_what_is_appended_during_a_drain_waits_for_the_next() -> None:
    """A finalizer may run in the middle of the drain, at any bytecode."""
    counter = ReferenceCounter()

    class Meddler(bytes):
        def __hash__(self) -> int:
            counter.journal.append((B,))
            return bytes.__hash__(self)

    counter.journal.append((Meddler(A),))
    assert counter.drain() == ([A], [])
    assert counter.drain()[0] == [B]


class AgainstNaiveCount(RuleBasedStateMachine):
    """The node's set, fed with what is drained, against a plain count of live refs."""

    ids = st.sampled_from([bytes([n]) * 20 for n in range(4)])

    def __init__(self) -> None:
        super().__init__()
        self.counter = ReferenceCounter()
        self.alive: dict[bytes, int] = {}
        self.at_node: set[bytes] = set()
        self.count = 0

    @rule()
    def call(self) -> None:
        self.count += 1
        object_id = self.count.to_bytes(20, "big")
        self.counter.born_here(object_id)
        self.at_node.add(object_id)  # by the message of the call itself
        self.alive[object_id] = 1

    @rule(object_id=ids)
    def unpickle(self, object_id: bytes) -> None:
        self.counter.journal.append((object_id,))
        self.alive[object_id] = self.alive.get(object_id, 0) + 1

    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        alive = [object_id for object_id, count in self.alive.items() if count]
        if alive:
            object_id = data.draw(st.sampled_from(alive))
            self.counter.journal.append(object_id)
            self.alive[object_id] -= 1

    @rule()
    def flush(self) -> None:
        new, gone = self.counter.drain()
        assert not set(new) & set(gone)
        assert not set(new) & self.at_node, "held twice"
        self.at_node |= set(new)
        assert set(gone) <= self.at_node, "released without a hold"
        self.at_node -= set(gone)
        assert self.at_node == {object_id for object_id, count in self.alive.items() if count}
        assert self.counter.counts == {i: count for i, count in self.alive.items() if count}

    @invariant()
    def counts_are_positive(self) -> None:
        self.counter.check()


AgainstNaiveCount.TestCase.settings = settings(max_examples=200, stateful_step_count=40)
TestAgainstNaiveCount = AgainstNaiveCount.TestCase
