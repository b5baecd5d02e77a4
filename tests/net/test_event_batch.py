"""A node's batch of events: bounded, counted, and readable by whoever gets it."""

from __future__ import annotations

import msgspec

from skate.messages import LaneRow
from skate.net.event_batch import EventBatch, ObjectEvent, decode_events, encode_events

NODE = b"N" * 16


def put_event(at: float) -> tuple[str, bytes, str, int, float, int, bytes]:
    return ("O", b"o", "PUT", 1000, at, 77, NODE)


def test_a_batch_is_bounded_and_starts_afresh() -> None:
    batch = EventBatch(max_events=2)
    assert batch.take() is None
    for second in range(5):
        batch.add(put_event(float(second)))
    message = batch.take()
    assert message is not None
    assert (message.count, message.dropped) == (2, 3)
    assert decode_events(message.batch) == [
        ObjectEvent(b"o", "PUT", 1000, 0.0, 77, NODE),
        ObjectEvent(b"o", "PUT", 1000, 1.0, 77, NODE),
    ]
    assert batch.take() is None


def test_of_too_many_events_the_newest_go_and_every_change_of_state() -> None:
    batch = EventBatch()
    batch.add(("S", "actor", b"a", "DEAD", 0.5, "", 77))
    batch.add(put_event(1.0))
    batch.add(
        ("L", 1, b"w", NODE, 2, [LaneRow(b"t" * 16, "f", "task", 2.0, 2.5, 4, "", 1, 0)] * 3), 3
    )
    batch.add(put_event(3.0))
    message = batch.take(2)
    assert message is not None
    assert (message.count, message.dropped) == (5, 1)  # the row of a lane is whole
    kinds = [type(event).__name__ for event in decode_events(message.batch)]
    assert kinds == ["StateEvent", *["TaskEvent"] * 3, "ObjectEvent"]
    assert batch.take(2) is None


def test_the_encoding_is_plain_messagepack() -> None:
    """A node in any language can write it."""
    assert msgspec.msgpack.decode(encode_events([put_event(1.0)])) == [
        ["O", b"o", "PUT", 1000, 1.0, 77, NODE]
    ]
