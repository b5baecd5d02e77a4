"""Results of calls on lanes, as far as the node hears of them. Pure.

Most never come here: their caller has them, and nobody else a ref (decision 0012). What does: a
result that is large or has refs inside, from the worker (``LaneResult``); one whose ref has left
its caller (``Promote``), with its value or without. Who comes first makes the row; a value that
comes a second time is dropped. Also here: the rows of what has run on lanes, for the event log.

Invariant: a result that was promoted and has no value yet is in its lane's ``promised``, or has a
task that makes it.
"""

from __future__ import annotations

from skate import messages as m
from skate.config import LANE_VALUE_BYTES
from skate.ids import FIRST_RETURN
from skate.node.clock import Clock
from skate.node.error_payload import error_payload
from skate.node.event_notes import EventNotes
from skate.node.hears import CLIENTS, WORKER, hears
from skate.node.outbox import Outbox
from skate.node.values import Values
from skate.objects.object_store import PENDING, ObjectStore
from skate.rows import Client, Lane, Task, Template
from skate.scheduler.leases import Leases
from skate.scheduler.local_scheduler import LocalScheduler
from skate.states import LaneState

OPEN = LaneState.OPEN


class LaneValues:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        clock: Clock,
        outbox: Outbox,
        store: ObjectStore,
        scheduler: LocalScheduler,
        lanes: dict[int, Lane],
        leases: Leases,
        notes: EventNotes,
        values: Values,
    ) -> None:
        self._clock = clock
        self._outbox = outbox
        self._store = store
        self._scheduler = scheduler
        self._lanes = lanes
        self._leases = leases
        self._notes = notes
        self._values = values

    # ------------------------------------------------------------------ refs that leave

    @hears(m.Promote, *CLIENTS)
    def on_promote(self, client: Client, message: m.Promote) -> None:
        """A ref to a lane call's result leaves its caller."""
        object_id = message.object_id
        if object_id in self._store.objects:  # the worker was quicker
            self._hold(client, object_id)
            return
        stored = self._store.promise(object_id, client)
        client.held.add(object_id)
        if message.data:
            self._store.fulfil_inline(stored, message.data, None)
            self._notes.object(object_id, "STORED", len(message.data), client.pid)
            return
        lane = self._lanes.get(message.lane)
        if lane is None or lane.caller is not client:
            return  # over: the caller submits the call, or has its value to send
        lane.promised[object_id] = None
        if lane.state is OPEN:
            self._outbox.send(
                lane.worker.client, m.Publish(lane.number, [object_id[: -len(FIRST_RETURN)]])
            )

    @hears(m.Fulfil, *CLIENTS)
    def on_fulfil(self, client: Client, message: m.Fulfil) -> None:
        """The value of one that was promoted without; its caller has read it by now."""
        stored = self._store.objects.get(message.object_id)
        if stored is None or stored.state is not PENDING or stored.owner is not client:
            return
        stored.owner = None  # it need not be told
        self._values.store_result(message.object_id, m.Value(message.data), None)
        self._notes.object(message.object_id, "STORED", len(message.data), client.pid)
        for lane in client.lanes.values():
            lane.promised.pop(message.object_id, None)

    @hears(m.LaneResult, WORKER)
    def on_result(self, client: Client, message: m.LaneResult) -> None:
        """A worker has run a lane call whose result is the node's to keep."""
        object_id = message.task_id + FIRST_RETURN
        lane = self._lanes.get(message.lane)
        value = message.result.value
        if object_id not in self._store.objects:
            # What could ride its caller has had on the lane; so it was promoted. What was promoted
            # and has no row any more has been let go by all.
            rode = not (value.size or message.result.contains or len(value.data) > LANE_VALUE_BYTES)
            if lane is None or not lane.caller.alive or rode or object_id in lane.promised:
                if lane is not None:
                    lane.promised.pop(object_id, None)
                creation = self._store.creations.get(object_id)
                if creation is not None:
                    self._store.abandon(creation)
                return
            self._store.promise(object_id, lane.caller)
            lane.caller.held.add(object_id)
        told = self._values.store_result(object_id, value, message.result.contains)
        size, what = (value.size, "SEALED") if value.size else (len(value.data), "STORED")
        self._notes.object(object_id, what, size, client.pid)
        if lane is not None:
            lane.promised.pop(object_id, None)
            if told:
                self._notes.object(object_id, "DELIVERED", size, lane.caller.pid)

    def promise_again(self, client: Client, task: Task, lane: Lane | None) -> bool:
        """A call of a lane comes to the node: its submitter holds its return. False if that has a
        value, so that the call is over."""
        object_id = task.id + FIRST_RETURN
        if lane is not None:
            lane.promised.pop(object_id, None)
        stored = self._store.objects.get(object_id)
        if stored is None:
            self._store.promise(object_id, client)
            client.held.add(object_id)
            return True
        self._hold(client, object_id)
        return stored.state is PENDING

    def _hold(self, client: Client, object_id: bytes) -> None:
        if object_id not in client.held and self._store.hold(object_id):
            client.held.add(object_id)

    def fail_promised(self, lane: Lane) -> None:
        """A lane is over and its caller dead: what it has promised and nobody made never comes."""
        promised, lane.promised = lane.promised, {}
        for object_id in promised:
            stored = self._store.objects.get(object_id)
            if stored is None or stored.state is not PENDING:
                continue
            text = (
                f"Object {object_id.hex()} has no value: its caller (pid {lane.caller.pid}) died "
                "before the value, or the call for it, had left that process."
            )
            if lane.obituary:
                text += f" The process that was to make it has died as well. {lane.obituary}"
            payload = error_payload("OwnerDiedError", text, object_ref_hex=object_id.hex())
            self._values.store_result(object_id, m.Value(payload), None)

    # ------------------------------------------------------------------ what has run

    @hears(m.LaneNotes, WORKER)
    def on_notes(self, client: Client, message: m.LaneNotes) -> None:
        """Calls of a lane have run."""
        lane = self._lanes.get(message.lane)
        if lane is None:
            return
        rows = message.rows
        self._notes.lane_calls(rows, lane)
        if lane.begun:
            for row in rows:
                lane.begun.pop(row.task_id, None)
        if lane.queue is None:  # an actor's
            return
        ran: dict[str, list[float]] = {}
        for row in rows:
            ran.setdefault(row.name, []).append(row.ended - row.started)
        for name, each in ran.items():
            average_s, count = sum(each) / len(each), len(each)
            self._scheduler.ran(self._template_of(lane, name, "task"), average_s, count)
            self._leases.ran(lane, average_s, count, self._clock.now)

    def _template_of(self, lane: Lane, name: str, kind: str) -> Template | None:
        # By its name: its caller has registered it with the node, if it ever went that way.
        if name not in lane.templates:
            templates = lane.caller.templates.values()
            same = (t for t in templates if t.spec.name == name and t.spec.kind == kind)
            lane.templates[name] = next(same, None)
        return lane.templates[name]

    @hears(m.LaneBegun, WORKER)
    def on_begun(self, client: Client, message: m.LaneBegun) -> None:
        """A call of a lane runs for a while."""
        lane = self._lanes.get(message.lane)
        if lane is not None:
            lane.begun[message.task_id] = message
