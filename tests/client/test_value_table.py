"""What a process knows of its values: any interleaving of program and node."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from skate import messages as m
from skate.client.value_table import UNANSWERED_KEPT, ValueState, ValueTable, Wait
from skate.spec import FORMAT_ERROR, FORMAT_RAW

IDS = [bytes([number]) * 20 for number in range(4)]
SMALL, PLACE = FORMAT_RAW + b"value", 4096
one_id = st.sampled_from(IDS[:2])  # few, so that much happens to each


class Conversation(RuleBasedStateMachine):
    """A program and its node, each of which reads what the other has said some time later."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[bytes, int] = {}
        self.to_node: deque[Any] = deque()
        self.to_client: deque[Any] = deque()
        self.table = ValueTable(self.counts, self.to_node.append)
        self.ends: dict[bytes, str] = {}  # of each object that has come to be: where it is
        self.told: set[bytes] = set()  # the node thinks that the process knows its place
        self.waiting: set[bytes] = set()  # the node owes an answer
        self.made: set[bytes] = set()
        self.revokes = 0

    # ------------------------------------------------------------------ the program

    @rule(object_id=one_id)
    def submit(self, object_id: bytes) -> None:
        if object_id not in self.made:
            self.made.add(object_id)
            self.table.promise(object_id)
            self.waiting.add(object_id)

    @rule(object_id=one_id)
    def ref_comes_back(self, object_id: bytes) -> None:
        if object_id in self.made:
            self.counts[object_id] = self.counts.get(object_id, 0) + 1

    @rule(object_id=one_id)
    def last_ref_goes(self, object_id: bytes) -> None:
        if self.counts.pop(object_id, None) is not None:
            self.to_node.append(m.Release([object_id]))
            self.table.drop([object_id])

    @rule(object_ids=st.lists(one_id, min_size=1))
    def read(self, object_ids: list[bytes]) -> None:
        held = [object_id for object_id in object_ids if object_id in self.counts]
        self.table.forget_troubles(held)
        missing = self.table.missing(held)
        if missing:
            self.table.asked(missing)
            self.to_node.append(m.Want(missing))

    @rule()
    def client_reads(self) -> None:
        if self.to_client:
            message = self.to_client.popleft()
            handle = self.table.on_revoke if isinstance(message, m.Revoke) else self.table.on_ready
            handle(message)

    # ------------------------------------------------------------------ the node

    @rule()
    def node_reads(self) -> None:
        if not self.to_node:
            return
        message = self.to_node.popleft()
        if isinstance(message, m.Release):
            self.told.difference_update(message.object_ids)
            self.waiting.difference_update(message.object_ids)
        elif isinstance(message, m.Revoked):
            self.told.difference_update(message.object_ids)
        else:
            for object_id in message.object_ids:
                self.waiting.add(object_id)
                self.answer(object_id, is_asked=True)

    @rule(object_id=one_id, end=st.sampled_from(["small", "error", "place", "elsewhere"]))
    def task_ends(self, object_id: bytes, end: str) -> None:
        if object_id in self.made and object_id not in self.ends:
            self.ends[object_id] = end
            if object_id in self.waiting:
                self.answer(object_id, is_asked=False)

    def answer(self, object_id: bytes, *, is_asked: bool) -> None:
        end = self.ends.get(object_id)
        if end is None:
            return
        self.waiting.discard(object_id)
        if end == "elsewhere" and not is_asked:
            self.to_client.append(m.Ready(object_id, b"", m.ELSEWHERE))
        elif end in ("place", "elsewhere"):
            self.told.add(object_id)
            self.to_client.append(m.Ready(object_id, b"", 0, PLACE))
        else:
            data = SMALL if end == "small" else FORMAT_ERROR
            self.to_client.append(m.Ready(object_id, data))

    @rule(object_id=one_id)
    def node_wants_space(self, object_id: bytes) -> None:
        if object_id in self.told:
            self.revokes += 1
            self.to_client.append(m.Revoke(self.revokes, [object_id]))

    # ------------------------------------------------------------------ what always holds

    @invariant()
    def no_object_is_in_two_states(self) -> None:
        self.table.check()
        for object_id in IDS:
            state = self.table.state(object_id)
            if object_id not in self.counts:
                assert state in (ValueState.UNKNOWN, ValueState.UNANSWERED), state

    @invariant()
    def no_place_is_known_that_the_node_may_give_away(self) -> None:
        places = {object_id for object_id, ready in self.table.here.items() if ready.size}
        assert places <= self.told

    def teardown(self) -> None:
        """Whoever reads on gets everything that has come to be; then nothing is left."""
        held = list(self.counts)
        for _ in range(20):
            self.read(held)
            while self.to_node or self.to_client:
                self.node_reads()
                self.client_reads()
        for object_id in held:
            is_here = object_id in self.table.here
            assert is_here == (object_id in self.ends), self.table.state(object_id)
            self.last_ref_goes(object_id)
        assert self.table.is_empty()


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)


@pytest.fixture
def table() -> ValueTable:
    return ValueTable(dict.fromkeys(IDS, 1), lambda message: None)


def test_the_states_of_a_value_in_order(table: ValueTable) -> None:
    one = IDS[0]
    seen = [table.state(one)]

    def note() -> None:
        table.check()
        seen.append(table.state(one))

    table.promise(one)
    note()
    table.missing([one])
    note()
    table.on_ready(m.Ready(one, b"", m.ELSEWHERE))
    note()
    table.on_ready(m.Ready(one, FORMAT_ERROR, m.TROUBLE))
    note()
    table.forget_troubles([one])
    note()
    table.asked(table.missing([one]))
    note()
    table.counts.pop(one)
    table.drop([one])
    note()
    table.counts[one] = 1
    table.asked(table.missing([one]))
    note()
    table.on_ready(m.Ready(one, b"", 0, PLACE))  # the answer to the first question
    note()
    table.on_ready(m.Ready(one, b"", 0, PLACE))
    note()
    table.on_revoke(m.Revoke(1, [one]))
    note()
    assert [state.name for state in seen] == [
        "UNKNOWN", "PROMISED", "FETCHING", "WANTED", "TROUBLED", "UNKNOWN", "WANTED", "UNANSWERED",
        "WANTED_AGAIN", "WANTED", "HERE", "ELSEWHERE",
    ]  # fmt: skip


def test_trouble_of_a_read_that_failed_is_not_taken_for_the_next_ones(table: ValueTable) -> None:
    """A get of more than there is room for has asked for all; then they are read one by one."""
    one, two, *_ = IDS
    for object_id in (one, two):
        table.counts[object_id] = 1
    table.asked(table.missing([one, two]))
    table.on_ready(m.Ready(one, FORMAT_ERROR, m.TROUBLE))
    table.gave_up([one, two])
    table.forget_troubles([two])
    assert table.missing([two]) == []  # it is on its way, for all that is known
    table.on_ready(m.Ready(two, FORMAT_ERROR, m.TROUBLE))
    assert table.state(two).name == "WANTED"
    table.check()
    table.on_ready(m.Ready(two, FORMAT_ERROR, m.TROUBLE))  # this is the answer
    assert table.state(two).name == "TROUBLED"


def test_a_place_from_before_a_ref_went_and_came_back_is_not_kept(table: ValueTable) -> None:
    """The node lets go of what it has sent here when it reads that the ref went."""
    one = IDS[0]
    table.promise(one)
    table.counts.pop(one)
    table.drop([one])
    table.counts[one] = 1  # it was inside of another value
    table.on_ready(m.Ready(one, b"", 0, PLACE))
    assert table.state(one) is ValueState.UNKNOWN
    assert table.missing([one]) == [one]


def test_what_was_here_once_counts_for_a_wait_though_it_is_revoked(table: ValueTable) -> None:
    for object_id in IDS[:2]:
        table.on_ready(m.Ready(object_id, b"", 0, PLACE))
    with Wait(table, IDS, 3, anywhere=False) as wait:
        assert not wait.is_over()
        table.on_revoke(m.Revoke(1, IDS[:2]))
        table.on_ready(m.Ready(IDS[3], SMALL))
        assert wait.is_over()
        assert wait.positions() == [0, 1, 3]
    with Wait(table, IDS, 3, anywhere=False) as wait:
        assert not wait.is_over()
    with Wait(table, IDS, 3, anywhere=True) as wait:
        assert wait.is_over()


def test_what_a_get_needs_keeps_its_place(table: ValueTable) -> None:
    told: list[Any] = []
    table = ValueTable(table.counts, told.append)
    for object_id in IDS[:2]:
        table.on_ready(m.Ready(object_id, b"", 0, PLACE))
    table.reads.append(IDS[1:])
    table.on_revoke(m.Revoke(7, IDS[:2]))
    assert told == [m.Revoked(7, [IDS[0]])]
    assert [table.state(object_id).name for object_id in IDS[:2]] == ["ELSEWHERE", "HERE"]


def test_answers_that_never_come_are_not_remembered_for_ever() -> None:
    table = ValueTable({}, lambda message: None)
    for number in range(3 * UNANSWERED_KEPT):
        object_id = number.to_bytes(20, "big")
        table.asked([object_id])
        del table.counts[object_id]
        table.drop([object_id])
        table.check()
    assert table.state(object_id) is ValueState.UNANSWERED
    assert table.state(bytes(20)) is ValueState.UNKNOWN
