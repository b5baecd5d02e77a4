"""Actors that are named before their creation, and why dead actors died. Pure.

The GCS gives an actor its name before its ``CreateActor`` comes: from then on other clients may
find and call it. Calls that overtake the creation wait here for it.
"""

from __future__ import annotations

from typing import Any

from skate import messages as m
from skate.config import DEAD_ACTORS_KEPT
from skate.error_records import ErrorRecord, encode_error
from skate.node.asking import Asking
from skate.node.running import Running
from skate.rows import Client, Task
from skate.spec import FORMAT_ERROR
from skate.states import TaskState


class UnbornActor:
    """An actor that has its name and can be called, but whose CreateActor is still to come."""

    __slots__ = ("calls", "creator", "name", "namespace")

    def __init__(self, creator: Client, name: str, namespace: str) -> None:
        self.creator = creator
        self.name = name
        self.namespace = namespace
        self.calls: list[Task] = []


class ActorNames:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        asking: Asking,
        running: Running,
    ) -> None:
        self._asking = asking
        self._running = running
        self.unborn: dict[bytes, UnbornActor] = {}  # named actors without a CreateActor yet
        self.dead_by_name: dict[bytes, bytes] = {}  # why the newest dead named actors died

    def on_reserved(self, client: Client, asked: dict[str, Any], answer: m.Answer) -> None:
        """The GCS has named an actor, or refused; named, other clients may find and call it.

        Its CreateActor is still to come: calls that overtake it wait for it.
        """
        if not answer.error and answer.body["actor_id"] is None:
            self.unborn[asked["actor_id"]] = UnbornActor(client, asked["name"], asked["namespace"])
            if not client.alive:
                self.creator_gone(client)

    def creator_gone(self, client: Client) -> None:
        """A process has ended: the actors that it named and did not create will never come."""
        for actor_id in [i for i, unborn in self.unborn.items() if unborn.creator is client]:
            unborn = self.unborn.pop(actor_id)
            body = {"name": unborn.name, "namespace": unborn.namespace, "actor_id": actor_id}
            self._asking.pass_on(client, m.Ask(0, "release_actor_name", body))
            for call in unborn.calls:
                if call.state is TaskState.WAITING:
                    self._running.fail(call, self.unknown(actor_id))

    def note_death(self, actor_id: bytes, cause: bytes) -> None:
        """A named actor is forgotten: clients that got it by its name may still ask why it died."""
        self.dead_by_name[actor_id] = cause
        if len(self.dead_by_name) > DEAD_ACTORS_KEPT:
            del self.dead_by_name[next(iter(self.dead_by_name))]

    def unknown(self, actor_id: bytes) -> bytes:
        """The cause of death of an actor that this node has forgotten."""
        if actor_id in self.dead_by_name:
            return self.dead_by_name[actor_id]
        record = ErrorRecord(
            kind="ActorDiedError",
            message=f"Actor {actor_id.hex()} is not known to this cluster: the handle comes from "
            "another session, or the actor ended long ago.",
            fields={"actor_id": actor_id.hex()},
        )
        return FORMAT_ERROR + encode_error(record)
