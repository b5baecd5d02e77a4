"""Which nodes watch an actor, to be told its changes.

A node that routes calls to an actor, or waits for one, watches it (`messages.WatchActor`);
`ActorHandlers` sends each watcher every change of its row. A dead actor changes no more, so its
death ends the watch.

Invariants (`check`): every actor entered has a watcher, and the two indexes agree.
"""

from __future__ import annotations

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class ActorWatch:
    """Watchers, as peers, by actor and the other way round."""

    def __init__(self) -> None:
        self._peers_of: dict[bytes, dict[int, None]] = {}
        self._actors_of: dict[int, dict[bytes, None]] = {}

    def watch(self, peer: int, actor_id: bytes) -> None:
        """The peer watches the actor from now on."""
        self._peers_of.setdefault(actor_id, {})[peer] = None
        self._actors_of.setdefault(peer, {})[actor_id] = None

    def unwatch(self, peer: int, actor_id: bytes) -> None:
        """The peer does not watch the actor any more. Nothing changes if it did not."""
        _take_out(self._peers_of, actor_id, peer)
        _take_out(self._actors_of, peer, actor_id)

    def watchers(self, actor_id: bytes) -> list[int]:
        """The peers that watch the actor, in the order in which they began."""
        return list(self._peers_of.get(actor_id, ()))

    def watched(self) -> list[bytes]:
        """All actors that any peer watches."""
        return list(self._peers_of)

    def end_actor(self, actor_id: bytes) -> None:
        """The actor is dead, and its watchers have been told."""
        for peer in self.watchers(actor_id):
            self.unwatch(peer, actor_id)

    def forget_peer(self, peer: int) -> None:
        """The peer is gone, and watches nothing any more."""
        for actor_id in list(self._actors_of.get(peer, ())):
            self.unwatch(peer, actor_id)

    def check(self) -> None:
        """Assert the invariants above."""
        assert all(self._peers_of.values()) and all(self._actors_of.values())
        pairs = {(peer, actor) for actor, peers in self._peers_of.items() for peer in peers}
        assert pairs == {(peer, one) for peer, actors in self._actors_of.items() for one in actors}


def _take_out(index: dict[K, dict[V, None]], key: K, value: V) -> None:
    found = index.get(key)
    if found is not None:
        found.pop(value, None)
        if not found:
            del index[key]
