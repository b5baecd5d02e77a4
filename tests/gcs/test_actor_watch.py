"""Who watches which actor, through comings and goings."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skate.gcs.actor_watch import ActorWatch

A, B = b"A" * 16, b"B" * 16


def test_each_watcher_is_named_once_and_the_first_first() -> None:
    watch = ActorWatch()
    for peer, actor_id in [(2, A), (1, A), (2, A), (2, B)]:
        watch.watch(peer, actor_id)
    assert (watch.watchers(A), watch.watchers(B)) == ([2, 1], [2])
    watch.unwatch(2, A)
    watch.unwatch(9, A)
    assert watch.watchers(A) == [1]
    watch.forget_peer(2)
    assert watch.watched() == [A]
    watch.end_actor(A)
    assert (watch.watched(), watch.watchers(A)) == ([], [])


MOVES = st.tuples(st.integers(0, 3), st.integers(1, 3), st.sampled_from([A, B]))


@given(st.lists(MOVES))
def test_the_indexes_agree(moves: list[tuple[int, int, bytes]]) -> None:
    watch = ActorWatch()
    for what, peer, actor_id in moves:
        if what == 0:
            watch.watch(peer, actor_id)
        elif what == 1:
            watch.unwatch(peer, actor_id)
        elif what == 2:
            watch.end_actor(actor_id)
        else:
            watch.forget_peer(peer)
        watch.check()
