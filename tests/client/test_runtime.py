"""The engine of a client, against the other end of its connection."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from skate import messages as m
from skate.client.connection import Connection
from skate.client.runtime import Runtime
from skate.objects.reference_counter import process_journal
from skate.spec import FORMAT_RAW
from tests.client.test_connection import Node, in_threads

PAGE = 4096
PLACE = b"o" * 20


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[tuple[Runtime, Node]]:
    arena = tmp_path / "arena"
    arena.write_bytes(bytes(PAGE))
    ours, theirs = socket.socketpair()
    node = Node(theirs)
    runtime = Runtime(
        Connection(ours),
        job_id=b"jobs",
        node_id=b"n" * 16,
        submitter=b"process",
        session="s",
        arena_path=str(arena),
        arena_bytes=PAGE,
        namespace="",
        is_driver=True,
    )
    yield runtime, node
    runtime.connection.close("the test is over")
    node.socket.close()


def test_nothing_is_left_of_a_result_that_was_waited_for(ends: tuple[Runtime, Node]) -> None:
    runtime, node = ends
    (ref,) = runtime.submit(0, b"", None, None, 1)

    def step(number: int) -> object:
        if number == 0:
            return runtime.get([ref], 10.0)
        while ref not in runtime.values.fetching:  # until the other thread waits
            time.sleep(0.001)
        node.send(m.Ready(ref, FORMAT_RAW + b"value"))
        return None

    assert in_threads(2, step)[0] == [b"value"]
    process_journal.append(ref)  # what the end of its last ref does
    runtime.connection.flush()
    assert runtime.values.is_empty()


class _GetThatEnds(list[bytes]):
    """What a get of another thread needs, which is over as this one is looked at."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__([b"x" * 20])
        self._runtime = runtime

    def __contains__(self, object_id: object) -> bool:
        self._runtime.values.reads.remove(self)
        return False


def test_a_get_that_ends_meanwhile_hides_no_other_from_a_question(
    ends: tuple[Runtime, Node],
) -> None:
    runtime, node = ends
    runtime.references.counts[PLACE] = 1
    ready = runtime.values.here[PLACE] = m.Ready(PLACE, b"", 0, PAGE)
    runtime.values.reads += [_GetThatEnds(runtime), [PLACE]]
    node.send(m.Revoke(1, [PLACE]))
    runtime.connection.try_read()
    assert runtime.values.here == {PLACE: ready}
    assert not runtime.connection.outbox


def test_an_answer_from_before_a_ref_went_and_came_back_counts_for_nothing(
    ends: tuple[Runtime, Node],
) -> None:
    runtime, node = ends

    def tell(*entries: bytes | tuple[bytes]) -> None:
        for entry in entries:  # what ends and births of refs do
            process_journal.append(entry)
            runtime.connection.flush()

    tell((PLACE,))
    runtime.want([PLACE])
    tell(PLACE, (PLACE,))
    runtime.want([PLACE])
    runtime.connection.flush()
    hold, want, release = m.Hold([PLACE]), m.Want([PLACE]), m.Release([PLACE])
    assert node.read(5) == [hold, want, release, hold, want]
    # Sent before the node has read of the end: what lies there is let go of then.
    ready = m.Ready(PLACE, b"", 0, PAGE)
    node.send(ready)
    runtime.connection.try_read()
    runtime.connection.flush()
    assert not runtime.values.here
    assert node.read(6)[5:] == [want]
    node.send(ready)
    runtime.connection.try_read()
    assert runtime.values.here == {PLACE: ready}
