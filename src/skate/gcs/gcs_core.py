"""The Global Control Store as one pure core: messages in, messages out.

The shell (gcs_server.py, or a simulator) numbers its connections as peers and calls `handle` with
each message, `peer_lost` once when a connection ends, and `tick` every `membership.TICK_S` if
there may be silent nodes. What comes back are (peer, message) pairs; after a `Refused` the shell
closes that connection.

A peer that sends `NodeJoins` speaks for that node until its connection ends, and then the node is
dead: its jobs end, its actors die, its objects and tasks are forgotten. Every other peer may ask
and nothing else. Changes of nodes, jobs, actors and functions enter the event log here, so nodes
need not report them as events too.

Invariants: every `Ask` has exactly one `Answer`, unless its peer is lost; what a peer does wrong
is told to that peer alone and harms nobody else's rows.

Deliberately absent: placement, restarts, storage.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from skate.config import EVENT_LOG_TASKS, NODE_SILENCE_S
from skate.errors import ErrorRecord, encode_error
from skate.gcs import questions
from skate.gcs.actor_table import ActorRow, ActorTable, view_actor
from skate.gcs.event_log import EventLog, encode_events
from skate.gcs.function_table import FunctionTable, KeyValueStore
from skate.gcs.membership import Membership, view_job, view_node
from skate.gcs.object_table import ObjectRow, ObjectTable, view_object
from skate.gcs.table import Table
from skate.gcs.task_table import TaskTable, view_task
from skate.messages import (
    ActorChanged,
    Answer,
    Ask,
    Events,
    FunctionStored,
    Heartbeat,
    JobChanged,
    NodeJoins,
    ObjectsChanged,
    Refused,
    TasksChanged,
)
from skate.states import ActorState, IllegalMove, NodeState

Send = tuple[int, msgspec.Struct]
Body = Any  # plain MessagePack data


class _Later:
    """The answer of a question that will be answered in its own time."""


_LATER = _Later()


class GcsCore:
    """All tables of the cluster, and who is connected.

    `silence_s` is how long a node may say nothing before it is given up; None if its connection
    tells all, as on one machine. `max_events` bounds the event log.
    """

    def __init__(
        self, silence_s: float | None = NODE_SILENCE_S, max_events: int = EVENT_LOG_TASKS
    ) -> None:
        self.membership = Membership(silence_s)
        self.actors = ActorTable()
        self.objects = ObjectTable()
        self.tasks = TaskTable()
        self.functions = FunctionTable()
        self.key_values = KeyValueStore()
        self.events = EventLog(max_events)
        self._node_of: dict[int, bytes] = {}
        self._handlers: dict[type, Callable[[bytes, Any, float], list[Send]]] = {
            Heartbeat: self._on_heartbeat,
            JobChanged: self._on_job_changed,
            FunctionStored: self._on_function_stored,
            ActorChanged: self._on_actor_changed,
            ObjectsChanged: self._on_objects_changed,
            Events: self._on_events,
            TasksChanged: self._on_tasks_changed,
        }
        self._answers: dict[str, Callable[[int, int, Any], Body]] = {
            "nodes": lambda *_: [view_node(row) for row in self.membership.nodes.rows()],
            "list_jobs": lambda *_: [view_job(row) for row in self.membership.jobs.rows()],
            "next_job_id": lambda *_: self.membership.next_job_id(),
            "reserve_actor_name": self._reserve_actor_name,
            "release_actor_name": self._release_actor_name,
            "put_actor_spec": self._put_actor_spec,
            "get_actor": self._get_actor,
            "list_actors": self._list_actors,
            "tasks": self._list_tasks,
            "objects": self._list_objects,
            "locate": self._locate,
            "events": lambda _p, _n, q: self.events.rows(q.since, q.limit),
            "story": lambda _p, _n, q: self.events.story(q.id, q.limit),
            "timeline": lambda *_: self.events.timeline(),
            "functions": lambda _p, _n, q: self.functions.data(q.id),
            "kv_put": self._kv_put,
            "kv_get": lambda _p, _n, q: self.key_values.get(q.namespace, q.key),
            "kv_del": lambda _p, _n, q: self.key_values.delete(q.namespace, q.key, q.by_prefix),
            "kv_list": lambda _p, _n, q: self.key_values.keys(q.namespace, q.prefix),
            "kv_exists": lambda _p, _n, q: self.key_values.get(q.namespace, q.key) is not None,
            "summary": lambda *_: self.summary(),
            "watch": self._watch,
        }
        self._watched: dict[str, tuple[Table[bytes, Any], Callable[[Any], dict[str, Any]]]] = {
            "nodes": (self.membership.nodes, view_node),
            "jobs": (self.membership.jobs, view_job),
            "actors": (self.actors.actors, view_actor),
            "tasks": (self.tasks.tasks, view_task),
            "objects": (self.objects.objects, view_object),
        }

    # ------------------------------------------------------------------------------ stimuli

    def handle(self, peer: int, message: msgspec.Struct, now: float) -> list[Send]:
        """Take one message of a peer; what is to be sent. `now` is wall seconds, here and below."""
        kind = type(message)
        node_id = self._node_of.get(peer)
        if node_id is not None:
            self.membership.hear(node_id, now)
        if isinstance(message, Ask):
            return self._on_ask(peer, message)
        if isinstance(message, NodeJoins):
            return self._on_node_joins(peer, message, now)
        handler = self._handlers.get(kind)
        if node_id is None or handler is None:
            return [(peer, Refused(f"{kind.__name__} from a peer that is no node"))]
        try:
            return handler(node_id, message, now)
        except (IllegalMove, ValueError) as error:
            return [(peer, Refused(f"{kind.__name__}: {error}"))]

    def peer_lost(self, peer: int, now: float) -> list[Send]:
        """The connection has ended; its node, if it spoke for one, is dead."""
        self.objects.forget_peer(peer)
        node_id = self._node_of.get(peer)
        if node_id is not None:
            self._end_node(peer, node_id, "its connection to the GCS has ended", now)
        return []

    def tick(self, now: float) -> list[Send]:
        """Give up nodes that are silent for too long; they are told."""
        sends: list[Send] = []
        for row in self.membership.silent(now):
            cause = f"it was silent for {now - row.heard:.1f} s"
            self._end_node(row.peer, row.node_id, cause, now)
            sends.append((row.peer, Refused(f"this node was given up: {cause}")))
        return sends

    @property
    def node_count(self) -> int:
        """How many connected peers are nodes."""
        return len(self._node_of)

    # ---------------------------------------------------------------------- reports of nodes

    def _on_node_joins(self, peer: int, message: NodeJoins, now: float) -> list[Send]:
        if peer in self._node_of:
            return [(peer, Refused("this connection speaks for a node already"))]
        refusal = self.membership.join(message, peer, now)
        if refusal:
            return [(peer, Refused(refusal))]
        self._node_of[peer] = message.node_id
        self._record("node", message.node_id, "ALIVE", now, message.hostname, message.pid)
        return []

    def _on_heartbeat(self, node_id: bytes, message: Heartbeat, now: float) -> list[Send]:
        self.membership.load(node_id, message)
        return []

    def _on_job_changed(self, node_id: bytes, message: JobChanged, now: float) -> list[Send]:
        if self.membership.change_job(node_id, message):
            state = "RUNNING" if message.alive else "FINISHED"
            text, pid = message.entrypoint, message.driver_pid
            self._record("job", message.job_id, state, message.at, text, pid)
            if not message.alive:
                self.actors.end_job(message.job_id)
        return []

    def _on_function_stored(
        self, node_id: bytes, message: FunctionStored, now: float
    ) -> list[Send]:
        if self.functions.store(message.function_id, message.name, message.data):
            self._record("function", message.function_id, "STORED", now, message.name, 0)
        return []

    def _on_actor_changed(self, node_id: bytes, message: ActorChanged, now: float) -> list[Send]:
        if self.actors.change(node_id, message):
            state = ActorState(message.state).name
            text = message.cause or message.class_name
            self._record("actor", message.actor_id, state, message.at, text, message.pid)
        return []

    def _on_objects_changed(
        self, node_id: bytes, message: ObjectsChanged, now: float
    ) -> list[Send]:
        sends: list[Send] = []
        for object_id, size in message.added:
            waiters = self.objects.add(node_id, object_id, size)
            if waiters:
                body = {"size": size, "nodes": [node_id]}
                sends += [(peer, Answer(number, body)) for peer, number in waiters]
        for object_id in message.dropped:
            self.objects.drop(node_id, object_id)
        return sends

    def _on_events(self, node_id: bytes, message: Events, now: float) -> list[Send]:
        self.events.append(message.batch, message.count, message.dropped)
        return []

    def _on_tasks_changed(self, node_id: bytes, message: TasksChanged, now: float) -> list[Send]:
        for task_id, name, state, where in message.rows:
            self.tasks.change(task_id, name, state, where)
        for task_id in message.ended:
            self.tasks.end(task_id)
        return []

    def _end_node(self, peer: int, node_id: bytes, cause: str, now: float) -> None:
        del self._node_of[peer]
        row = self.membership.nodes.get(node_id)
        jobs = self.membership.end_node(node_id, cause, now)
        self._record("node", node_id, "DEAD", now, cause, 0 if row is None else row.pid)
        why = f"node {node_id.hex()} is dead: {cause}"
        for job in jobs:
            self._record("job", job.job_id, "FINISHED", now, why, job.driver_pid)
        for actor in self.actors.end_node(node_id, why, now):
            self._record("actor", actor.actor_id, "DEAD", now, why, actor.pid)
        self.objects.drop_node(node_id)
        self.tasks.drop_node(node_id)

    def _record(self, kind: str, any_id: bytes, state: str, at: float, text: str, pid: int) -> None:
        self.events.append(encode_events([("S", kind, any_id, state, at, text, pid)]), 1, 0)

    # --------------------------------------------------------------------------- questions

    def _on_ask(self, peer: int, ask: Ask) -> list[Send]:
        answer = self._answers.get(ask.method)
        if answer is None:
            return [(peer, _failure(ask, f"the GCS knows no method {ask.method!r}"))]
        try:
            question = msgspec.convert(ask.body, questions.BODIES[ask.method])
            body = answer(peer, ask.number, question)
        except ValueError as error:  # of msgspec too: the body does not fit
            return [(peer, _failure(ask, f"{ask.method}: {error}"))]
        return [] if body is _LATER else [(peer, Answer(ask.number, body))]

    def _reserve_actor_name(self, peer: int, _: int, ask: questions.ReserveActorName) -> Body:
        reporter = self._node_of.get(peer, b"")
        other = self.actors.reserve(ask.name, ask.namespace, ask.actor_id, reporter)
        row = self.actors.actors.get(ask.actor_id)
        if other is None and row is not None:
            row.class_name = ask.class_name or row.class_name
            row.spec = ask.spec or row.spec
        return {"actor_id": other}

    def _release_actor_name(self, _p: int, _n: int, ask: questions.ReleaseActorName) -> Body:
        return self.actors.release_name(ask.name, ask.namespace, ask.actor_id)

    def _put_actor_spec(self, peer: int, _: int, ask: questions.PutActorSpec) -> Body:
        self.actors.put_spec(ask.actor_id, ask.spec, self._node_of.get(peer, b""))

    def _get_actor(self, _p: int, _n: int, ask: questions.GetActor) -> Body:
        if ask.actor_id is not None:
            row = self.actors.actors.get(ask.actor_id)
        else:
            row = self.actors.find(ask.name, ask.namespace)
        return None if row is None or row.state is ActorState.DEAD else _actor_for_nodes(row)

    def _list_actors(self, _p: int, _n: int, ask: questions.ListActors) -> Body:
        return [view_actor(row) for row in _newest(self.actors.actors.rows(), ask.limit)]

    def _list_tasks(self, _p: int, _n: int, ask: questions.Tasks) -> Body:
        return [view_task(row) for row in _newest(self.tasks.tasks.rows(), ask.limit)]

    def _list_objects(self, _p: int, _n: int, ask: questions.ObjectRows) -> Body:
        return [view_object(row) for row in _newest(self.objects.objects.rows(), ask.limit)]

    def _locate(self, peer: int, number: int, ask: questions.Locate) -> Body:
        row: ObjectRow | None
        if not ask.wait:
            row = self.objects.objects.get(ask.object_id)
            return None if row is None else {"size": row.size, "nodes": list(row.nodes)}
        row = self.objects.wait(ask.object_id, (peer, number))
        return _LATER if row is None else {"size": row.size, "nodes": list(row.nodes)}

    def _kv_put(self, _p: int, _n: int, ask: questions.KvPut) -> Body:
        return self.key_values.put(ask.namespace, ask.key, ask.value, ask.overwrite)

    def _watch(self, _p: int, _n: int, ask: questions.Watch) -> Body:
        if ask.table not in self._watched:
            raise ValueError(f"no table {ask.table!r}, only {', '.join(self._watched)}")
        table, view = self._watched[ask.table]
        changes = table.changes_since(ask.since)
        return {
            "version": changes.version,
            "rows": [view(row) for row in changes.rows.values()],
            "removed": [key.hex() for key in changes.removed],
            "complete": changes.complete,
        }

    def summary(self) -> dict[str, Any]:
        """Counts for each table, as plain data."""
        nodes, jobs = self.membership.nodes.rows(), self.membership.jobs.rows()
        alive = sum(row.state is NodeState.ALIVE for row in nodes)
        running = sum(row.alive for row in jobs)
        return {
            "nodes": {"ALIVE": alive, "DEAD": len(nodes) - alive},
            "jobs": {"RUNNING": running, "FINISHED": len(jobs) - running},
            "actors": self.actors.counts(),
            "tasks": self.tasks.counts(),
            "tasks_untracked": self.tasks.untracked,
            "objects": len(self.objects.objects),
            "object_bytes": self.objects.total_bytes,
            "functions": len(self.functions.functions),
            "key_values": len(self.key_values),
            "events": {"kept": self.events.kept, "dropped": self.events.dropped},
        }

    def check(self) -> None:
        """Assert the invariants of all tables, and that they agree with each other."""
        for part in (self.membership, self.actors, self.objects, self.tasks, self.events):
            part.check()
        self.functions.functions.check()
        alive = {row.peer: row.node_id for row in self.membership.alive()}
        assert alive == self._node_of
        living = set(alive.values())
        for row in self.objects.objects.rows():
            assert row.nodes.keys() <= living


def _actor_for_nodes(row: ActorRow) -> dict[str, Any]:
    """An actor as another node needs it: ids and spec as bytes."""
    return view_actor(row) | {
        "actor_id": row.actor_id,
        "node_id": row.node_id,
        "spec": row.spec,
    }


def _newest(rows: list[Any], limit: int) -> list[Any]:
    return rows[max(0, len(rows) - limit) :]


def _failure(ask: Ask, text: str) -> Answer:
    return Answer(ask.number, None, encode_error(ErrorRecord("UsageError", text)))
