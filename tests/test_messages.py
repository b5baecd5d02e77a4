"""The wire's vocabulary: every message survives its frame, and no tag is given twice."""

from __future__ import annotations

import typing
from typing import Any

import msgspec
import pytest

from skate import messages
from skate.net.frame import FrameReader, frame

DIRECTIONS = {
    "to_node": (messages.ToNode, messages.decode_to_node),
    "to_client": (messages.ToClient, messages.decode_to_client),
    "to_gcs": (messages.ToGcs, messages.decode_to_gcs),
    "from_gcs": (messages.FromGcs, messages.decode_from_gcs),
    "to_sender": (messages.ToSender, messages.decode_to_sender),
    "to_fetcher": (messages.ToFetcher, messages.decode_to_fetcher),
    "to_callee": (messages.ToCallee, messages.decode_to_callee),
    "to_caller": (messages.ToCaller, messages.decode_to_caller),
}
CASES = [
    pytest.param(message, decode, id=f"{direction}-{message.__name__}")
    for direction, (union, decode) in DIRECTIONS.items()
    for message in typing.get_args(union)
]


def sample(kind: msgspec.inspect.Type) -> Any:
    """Some value of a field's type that is not its default."""
    match kind:
        case msgspec.inspect.UnionType(types=types):
            return sample(types[0])
        case msgspec.inspect.BytesType():
            return b"\x00\xff"
        case msgspec.inspect.StrType():
            return "text é"
        case msgspec.inspect.BoolType():
            return True
        case msgspec.inspect.IntType():
            return 7
        case msgspec.inspect.FloatType():
            return 0.25
        case msgspec.inspect.ListType(item_type=item):
            return [sample(item)]
        case msgspec.inspect.VarTupleType(item_type=item):
            return (sample(item),)
        case msgspec.inspect.TupleType(item_types=items):
            return tuple(sample(item) for item in items)
        case msgspec.inspect.DictType(key_type=key, value_type=value):
            return {sample(key): sample(value)}
        case msgspec.inspect.StructType(cls=cls):
            return whole(cls)
        case _:
            return "anything"


def whole(cls: type[Any]) -> Any:
    """An instance with every field set."""
    info = msgspec.inspect.type_info(cls)
    assert isinstance(info, msgspec.inspect.StructType)
    return cls(**{field.name: sample(field.type) for field in info.fields})


@pytest.mark.parametrize(("message", "decode"), CASES)
def test_a_message_survives_its_frame(message: type[Any], decode: Any) -> None:
    """A field whose type does not fit the wire, or a message missing from its union, fails here."""
    sent = whole(message)
    assert FrameReader(decode).feed(frame([sent, sent])) == [sent, sent]


def test_no_tag_is_given_twice() -> None:
    """A tag used again would make an old peer read one message as another."""
    kinds = {kind for union, _ in DIRECTIONS.values() for kind in typing.get_args(union)}
    tags = [kind.__struct_config__.tag for kind in kinds]
    assert len(tags) == len(set(tags))


def test_fields_of_lanes_come_last_so_that_a_client_without_lanes_is_understood() -> None:
    """Array-like structs are read by position: what an older client leaves out is its default."""
    hello = [1, 1, "3.11", "observer", 7, b"", None]
    submit = [7, b"t", 3, b"a", None, None, 2]
    call = [9, b"t", b"actor", 4, 3, b"a", None, None, False]
    read = messages.decode_to_node(msgspec.msgpack.encode([hello, submit, call]))
    assert read[0] == messages.Hello(1, "3.11", "observer", 7) and not read[0].lanes
    assert read[1].depth == 2 and read[1].lane == 0
    assert read[2].sequence == 4 and not read[2].in_order and read[2].lane == 0
    run = [11, b"t", 0, 3, b"a", None, None, 1, [0]]
    ready = [27, b"o", b"data", 0, 0]
    told = messages.decode_to_client(msgspec.msgpack.encode([run, ready]))
    assert told[0].gpus == [0] and told[0].sequence == -1 and told[0].caller == b""
    assert told[1].data == b"data" and not told[1].contains
