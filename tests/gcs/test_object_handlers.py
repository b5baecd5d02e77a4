"""Large objects in the GCS, without the core: who learns of a copy, and who has to forget one."""

from __future__ import annotations

import pytest

from skate.gcs import questions
from skate.gcs.hears import LATER
from skate.gcs.membership import Membership
from skate.gcs.object_handlers import ObjectHandlers
from skate.gcs.object_table import ObjectTable
from skate.gcs.outbox import Outbox
from skate.messages import Answer, Forget, ObjectsChanged
from tests.gcs.joined import NODE_A, NODE_B, NODE_C, join, lose

ONE, TWO = (b"\0\0\0\1" + NODE_A[:4] + bytes([number]) * 12 for number in (1, 2))
A, B, C = 1, 2, 3  # peers


class Objects:
    """The part, and nodes A, B and C."""

    def __init__(self) -> None:
        self.membership = Membership(None)
        self.outbox = Outbox(self.membership.by_peer)
        self.part = ObjectHandlers(ObjectTable(), self.membership, self.outbox)
        self.a = join(self.membership, NODE_A, A)
        self.b = join(self.membership, NODE_B, B)
        self.c = join(self.membership, NODE_C, C)

    def sealed(self, *object_ids: bytes) -> None:
        """On every node."""
        for node in (self.a, self.b, self.c):
            self.part.on_objects_changed(
                node, ObjectsChanged([(i, 7) for i in object_ids], []), 2.0
            )

    def where(self, object_id: bytes, peer: int = C, number: int = 5) -> object:
        return self.part.locate((peer, number), questions.Locate(object_id), 2.0)


def test_copies_of_what_its_home_frees_are_forgotten_with_one_message_a_node() -> None:
    objects = Objects()
    objects.sealed(ONE, TWO)
    objects.part.on_objects_changed(objects.a, ObjectsChanged([], [], [ONE, TWO]), 2.0)
    assert objects.outbox.take() == [(B, Forget([ONE, TWO])), (C, Forget([ONE, TWO]))]
    objects.part.on_objects_changed(objects.b, ObjectsChanged([(ONE, 7)], []), 3.0)
    assert objects.outbox.take() == [(B, Forget([ONE]))]  # a copy that came too late
    assert objects.part.counts() == {"objects": 0, "object_bytes": 0}
    objects.part.check()


def test_a_copy_on_a_dead_node_is_nowhere_and_whoever_asks_waits_for_the_next_one() -> None:
    objects = Objects()
    objects.part.on_objects_changed(objects.a, ObjectsChanged([(ONE, 7)], []), 2.0)
    assert objects.where(ONE) == {"size": 7, "nodes": [NODE_A]}
    objects.part.node_lost(lose(objects.membership, objects.a))
    assert objects.where(ONE, B, 6) is LATER
    assert objects.where(ONE, C, 7) is LATER
    objects.part.peer_lost(B)
    objects.part.on_objects_changed(objects.c, ObjectsChanged([(ONE, 7)], []), 4.0)
    assert objects.outbox.take() == [(C, Answer(7, {"size": 7, "nodes": [NODE_C]}))]
    objects.part.check()


def test_what_is_wrong_in_a_report_takes_no_answer_from_those_who_waited() -> None:
    """The report is refused, but what stood before the mistake is in the table."""
    objects = Objects()
    assert objects.where(ONE) is LATER
    with pytest.raises(ValueError, match="-1 bytes"):
        objects.part.on_objects_changed(objects.a, ObjectsChanged([(ONE, 7), (TWO, -1)], []), 2.0)
    assert objects.outbox.take() == [(C, Answer(5, {"size": 7, "nodes": [NODE_A]}))]
    objects.part.check()
