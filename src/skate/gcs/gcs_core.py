"""The Global Control Store as one pure core: messages in, messages out.

The shell (gcs_server.py, or a simulator) numbers its connections as peers and calls `handle` with
each message, `peer_lost` once when a connection ends, and `tick` every `membership.TICK_S` if
there may be silent nodes, and within `config.HEARTBEAT_S` whenever `is_tick_due`. What comes back
are (peer, message) pairs; after a `Refused` the shell closes that connection.

A peer that sends `NodeJoins` speaks for that node until its connection ends, and then the node is
dead: its jobs end, the actors that it spoke for die, its objects and tasks are forgotten. Every
other peer may ask, or say that a busy node lives, and nothing else. Changes of nodes, jobs, actors
and functions enter the event log here, so nodes need not report them as events too.

Nodes are told what concerns them all: who joined, changed or died (`NodesChanged`; a new node reads
of all living ones first), which job is over, which copies nobody needs; and what becomes of the
actors that they watch. What they offer goes to the global scheduler; placement groups are reserved
and committed on them (placement_groups.py).

Invariants: every `Ask` has exactly one `Answer`, unless its peer is lost; what a peer does wrong
is told to that peer alone and harms nobody else's rows.

Deliberately absent: restarts, storage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from skate.config import EVENT_LOG_TASKS, NODE_SILENCE_S
from skate.errors import ErrorRecord, encode_error
from skate.gcs import questions
from skate.gcs.actor_table import ActorRow, ActorTable, view_actor
from skate.gcs.actor_watch import ActorWatch
from skate.gcs.event_log import EventLog
from skate.gcs.function_table import FunctionTable, KeyValueStore
from skate.gcs.group_row import GroupRow, view_group
from skate.gcs.membership import (
    Membership,
    NodeRow,
    available_on,
    for_people,
    info_of,
    view_job,
    view_node,
)
from skate.gcs.object_table import ObjectRow, ObjectTable, view_object
from skate.gcs.placement_groups import Changes, PlacementGroups
from skate.gcs.table import Table
from skate.gcs.task_table import TaskTable, view_task
from skate.ids import home_of
from skate.messages import (
    ActorChanged,
    Answer,
    Ask,
    BundlesReserved,
    Demanded,
    Events,
    Forget,
    FunctionStored,
    HeadAlive,
    Heartbeat,
    JobChanged,
    JobOver,
    NodeJoins,
    NodesChanged,
    ObjectsChanged,
    Offer,
    Placed,
    Refused,
    StillAlive,
    TasksChanged,
    WatchActor,
)
from skate.scheduler.global_scheduler import GlobalScheduler
from skate.scheduler.group_names import uses_group
from skate.spec import resources_of
from skate.states import ActorState, IllegalMove, NodeState, PlacementGroupState

Send = tuple[int, msgspec.Struct]
Body = Any  # plain MessagePack data

_NEVER_BORN = "the process that had reserved its name ended before it had created it"


class _Later:
    """The answer of a question that will be answered in its own time."""


_LATER = _Later()


class GcsCore:
    """All tables of the cluster, and who is connected.

    `silence_s` is how long a node may say nothing before it is given up; None if its connection
    tells all, as on one machine. `max_events` bounds the event log. `random` gives a number in
    [0, 1): it breaks the ties of the global scheduler.
    """

    def __init__(
        self,
        silence_s: float | None = NODE_SILENCE_S,
        max_events: int = EVENT_LOG_TASKS,
        *,
        random: Callable[[], float],
    ) -> None:
        self.membership = Membership(silence_s)
        self.actors = ActorTable()
        self.objects = ObjectTable()
        self.tasks = TaskTable()
        self.functions = FunctionTable()
        self.key_values = KeyValueStore()
        self.events = EventLog(max_events)
        self.scheduler = GlobalScheduler(random)
        self.groups = PlacementGroups(self._on_group_state, self._on_group_resources)
        self._actor_watch = ActorWatch()
        self._node_of: dict[int, bytes] = {}
        self._now = 0.0  # of the stimulus at hand
        self._sends: list[Send] = []  # of it, behind what it is answered with
        self._handlers: dict[type, Callable[[bytes, Any, float], list[Send]]] = {
            Heartbeat: self._on_heartbeat,
            JobChanged: self._on_job_changed,
            FunctionStored: self._on_function_stored,
            ActorChanged: self._on_actor_changed,
            ObjectsChanged: self._on_objects_changed,
            Events: self._on_events,
            TasksChanged: self._on_tasks_changed,
            Offer: self._on_offer,
            WatchActor: self._on_watch_actor,
            BundlesReserved: self._on_bundles_reserved,
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
            "named_actors": lambda _p, _n, q: self.actors.names(q.namespace),
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
            "create_placement_group": self._create_group,
            "remove_placement_group": lambda _p, _n, q: self.groups.remove(q.group_id, self._now),
            "wait_placement_group": self._wait_group,
            "placement_group_table": self._group_table,
            "get_placement_group": self._get_group,
            "cluster_resources": lambda *_: self._cluster_resources(),
            "available_resources": lambda *_: self._available_resources(),
            "pending": lambda *_: self._pending(),
            "summary": lambda *_: self.summary(),
            "watch": self._watch,
        }
        self._watched: dict[str, tuple[Table[bytes, Any], Callable[[Any], dict[str, Any]]]] = {
            "nodes": (self.membership.nodes, view_node),
            "jobs": (self.membership.jobs, view_job),
            "actors": (self.actors.actors, view_actor),
            "tasks": (self.tasks.tasks, view_task),
            "objects": (self.objects.objects, view_object),
            "placement_groups": (self.groups.groups, view_group),
        }

    # ------------------------------------------------------------------------------ stimuli

    def handle(self, peer: int, message: msgspec.Struct, now: float) -> list[Send]:
        """Take one message of a peer; what is to be sent. `now` is wall seconds, here and below."""
        self._now = now
        sends = self._handle(peer, message, now)
        return sends + self._take_sends()

    def _handle(self, peer: int, message: msgspec.Struct, now: float) -> list[Send]:
        kind = type(message)
        node_id = self._node_of.get(peer)
        if node_id is not None:
            self.membership.hear(node_id, now)
        if isinstance(message, Ask):
            return self._on_ask(peer, message)
        if isinstance(message, NodeJoins):
            return self._on_node_joins(peer, message, now)
        if isinstance(message, StillAlive):
            return self._on_still_alive(message, now)
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
        self.groups.forget_peer(peer)
        node_id = self._node_of.get(peer)
        if node_id is None:
            return []
        self._now = now
        sends = self._end_node(peer, node_id, "its connection to the GCS has ended", now)
        return sends + self._take_sends()

    def tick(self, now: float) -> list[Send]:
        """Give up nodes that are silent for too long (they are told), and place what waits."""
        self._now = now
        sends: list[Send] = []
        for row in self.membership.silent(now):
            cause = f"it was silent for {now - row.heard:.1f} s"
            sends += self._end_node(row.peer, row.node_id, cause, now)
            sends.append((row.peer, Refused(f"this node was given up: {cause}")))
        self.groups.tick(now)
        sends += self._take_sends()
        sends += self._answers_to_offers(self.scheduler.tick(now))
        return sends

    def beat(self) -> list[Send]:
        """A sign of life for every node, from time to time."""
        return self._tell_nodes(HeadAlive())

    @property
    def is_tick_due(self) -> bool:
        """Whether something that waits may have found its place: `tick` within HEARTBEAT_S."""
        return self.scheduler.is_tick_due or self.groups.is_tick_due

    @property
    def is_watching(self) -> bool:
        """Whether any node is to be told what becomes of any actor."""
        return bool(self._actor_watch.watched())

    @property
    def node_count(self) -> int:
        """How many connected peers are nodes."""
        return len(self._node_of)

    def is_node(self, peer: int) -> bool:
        """Whether this peer speaks for a living node."""
        return peer in self._node_of

    # ---------------------------------------------------------------------- reports of nodes

    def _on_node_joins(self, peer: int, message: NodeJoins, now: float) -> list[Send]:
        if peer in self._node_of:
            return [(peer, Refused("this connection speaks for a node already"))]
        refusal = self.membership.join(message, peer, now)
        if refusal:
            return [(peer, Refused(refusal))]
        self._node_of[peer] = message.node_id
        self.scheduler.node_joined(message.node_id, message.resources, message.labels)
        self.groups.node_joined(message.node_id, peer, message.resources, message.labels, now)
        self.events.record("node", message.node_id, "ALIVE", now, message.hostname, message.pid)
        alive = [info_of(row) for row in self.membership.alive()]
        sends: list[Send] = [(peer, NodesChanged(alive))]
        return sends + self._tell_nodes(NodesChanged(alive[-1:]), but=peer)

    def _on_heartbeat(self, node_id: bytes, message: Heartbeat, now: float) -> list[Send]:
        self.membership.load(node_id, message)
        self.scheduler.heartbeat(node_id, message)
        self.groups.heartbeat(node_id, message.available, message.attainable)
        return []

    def _on_still_alive(self, message: StillAlive, now: float) -> list[Send]:
        for row in self.membership.alive() if message.is_head else ():
            self.membership.hear(row.node_id, now)
        self.membership.hear(message.node_id, now)
        return []

    def _on_job_changed(self, node_id: bytes, message: JobChanged, now: float) -> list[Send]:
        if self.membership.change_job(node_id, message):
            state = "RUNNING" if message.alive else "FINISHED"
            text, pid = message.entrypoint, message.driver_pid
            self.events.record("job", message.job_id, state, message.at, text, pid)
            if not message.alive:
                for actor_id in self.actors.end_job(message.job_id):
                    self._tell_of_unborn(actor_id)
                self.groups.end_job(message.job_id, now)
                return self._tell_nodes(JobOver(message.job_id), but=self._peer_of(node_id))
        return []

    def _on_function_stored(
        self, node_id: bytes, message: FunctionStored, now: float
    ) -> list[Send]:
        if self.functions.store(message.function_id, message.name, message.data):
            self.events.record("function", message.function_id, "STORED", now, message.name, 0)
        return []

    def _on_actor_changed(self, node_id: bytes, message: ActorChanged, now: float) -> list[Send]:
        before = self.actors.actors.get(message.actor_id)
        is_late = before is not None and before.state is ActorState.DEAD
        if self.actors.change(node_id, message):
            state = ActorState(message.state).name
            text = message.cause or message.class_name
            self.events.record("actor", message.actor_id, state, message.at, text, message.pid)
        return [] if is_late else self._tell_watchers(message.actor_id)

    def _on_objects_changed(
        self, node_id: bytes, message: ObjectsChanged, now: float
    ) -> list[Send]:
        sends: list[Send] = []
        late = [object_id for object_id, _ in message.added if object_id in self.objects.freed]
        if late:
            sends.append((self._peer_of(node_id), Forget(late)))
        for object_id, size in message.added:
            if object_id in self.objects.freed:
                continue
            waiters = self.objects.add(node_id, object_id, size)
            if waiters:
                body = {"size": size, "nodes": [node_id]}
                sends += [(peer, Answer(number, body)) for peer, number in waiters]
        for object_id in message.dropped:
            self.objects.drop(node_id, object_id)
        copies: dict[bytes, list[bytes]] = {}
        for object_id in message.freed:
            for holder in self.objects.free(object_id):
                if holder != node_id:
                    copies.setdefault(holder, []).append(object_id)
        sends += [(self._peer_of(holder), Forget(ids)) for holder, ids in copies.items()]
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

    def _on_offer(self, node_id: bytes, message: Offer, now: float) -> list[Send]:
        why = self.groups.why_gone(message.demand) if message.count else ""
        if why:
            return [(self._peer_of(node_id), _group_is_gone(message, why))]
        return self._answers_to_offers(self.scheduler.offer(node_id, message, now))

    def _on_bundles_reserved(
        self, node_id: bytes, message: BundlesReserved, now: float
    ) -> list[Send]:
        self.groups.reserved(node_id, message, now)
        return []

    def _on_group_state(self, row: GroupRow, now: float) -> list[Send]:
        text = row.reason or row.name
        self.events.record("placement_group", row.group_id, row.state.name, now, text, 0)
        if row.state is not PlacementGroupState.REMOVED:
            return []
        hopeless = self.scheduler.give_up(lambda offer: uses_group(offer.demand, row.group_id))
        return [
            (self._peer_of(node_id), _group_is_gone(offer, self.groups.why_gone(offer.demand)))
            for node_id, offer in hopeless
        ]

    def _on_group_resources(self, changes: Changes) -> list[Send]:
        for node_id, resources in changes.items():
            self.membership.change_resources(node_id, resources)
            self.scheduler.node_changed(node_id, resources)
        return self._tell_nodes(NodesChanged([info_of(self._row_of(i)) for i in changes]))

    def _on_watch_actor(self, node_id: bytes, message: WatchActor, now: float) -> list[Send]:
        peer, actor_id = self._peer_of(node_id), message.actor_id
        if not message.watch:
            self._actor_watch.unwatch(peer, actor_id)
            return []
        self._actor_watch.watch(peer, actor_id)
        news = self._news_of(actor_id, now)
        if news is None:
            return []
        if news.state == ActorState.DEAD:
            self._actor_watch.unwatch(peer, actor_id)
        return [(peer, news)]

    def _end_node(self, peer: int, node_id: bytes, cause: str, now: float) -> list[Send]:
        del self._node_of[peer]
        self._actor_watch.forget_peer(peer)
        row = self._row_of(node_id)
        jobs = self.membership.end_node(node_id, cause, now)
        self.scheduler.node_left(node_id)
        self.groups.node_lost(node_id, now)
        sends = self._tell_nodes(NodesChanged([info_of(row)]))
        self.events.record("node", node_id, "DEAD", now, cause, row.pid)
        why = f"node {node_id.hex()} is dead: {cause}"
        for job in jobs:
            self.events.record("job", job.job_id, "FINISHED", now, why, job.driver_pid)
            for actor_id in self.actors.end_job(job.job_id):
                self._tell_of_unborn(actor_id)
            self.groups.end_job(job.job_id, now)
            sends += self._tell_nodes(JobOver(job.job_id))
        for actor in self.actors.end_node(node_id, why, now):
            self.events.record("actor", actor.actor_id, "DEAD", now, why, actor.pid)
        # Also those that it never came to report: nobody else will.
        for actor_id in self._actor_watch.watched():
            sends += self._tell_watchers_of_end(actor_id, now)
        self.objects.drop_node(node_id)
        self.tasks.drop_node(node_id)
        return sends

    # -------------------------------------------------------------------------- telling nodes

    def _row_of(self, node_id: bytes) -> NodeRow:
        row = self.membership.nodes.get(node_id)
        assert row is not None, f"no row of node {node_id.hex()}"
        return row

    def _peer_of(self, node_id: bytes) -> int:
        return self._row_of(node_id).peer

    def _tell_nodes(self, message: msgspec.Struct, but: int = -1) -> list[Send]:
        return [(peer, message) for peer in self._node_of if peer != but]

    def _take_sends(self) -> list[Send]:
        sends, self._sends = self._sends, []
        return sends + self.groups.take_sends()

    def _answers_to_offers(self, answers: Iterable[tuple[bytes, Placed]]) -> list[Send]:
        return [(self._peer_of(node_id), placed) for node_id, placed in answers]

    def _news_of(self, actor_id: bytes, now: float) -> ActorChanged | None:
        """What a watcher is to know of the actor; None as long as nobody has reported it."""
        row = self.actors.actors.get(actor_id)
        if row is not None and (row.reported or row.state is ActorState.DEAD):
            return _row_as_news(row)
        home = home_of(actor_id)
        if self.membership.home(home) is not None:
            return None
        return _death(actor_id, f"the node that created it, {home.hex()}..., is dead", now)

    def _tell_watchers(self, actor_id: bytes) -> list[Send]:
        row = self.actors.actors.get(actor_id)
        peers = self._actor_watch.watchers(actor_id)
        if row is None or not peers:
            return []
        if row.state is ActorState.DEAD:
            self._actor_watch.end_actor(actor_id)
        return [(peer, _row_as_news(row)) for peer in peers]

    def _tell_watchers_of_end(self, actor_id: bytes, now: float) -> list[Send]:
        news = self._news_of(actor_id, now)
        if news is None or news.state != ActorState.DEAD:
            return []
        peers = self._actor_watch.watchers(actor_id)
        self._actor_watch.end_actor(actor_id)
        return [(peer, news) for peer in peers]

    def _tell_of_unborn(self, actor_id: bytes) -> None:
        # It had its name and could be called; nobody will report it any more.
        news = _death(actor_id, _NEVER_BORN, self._now)
        self._sends += [(peer, news) for peer in self._actor_watch.watchers(actor_id)]
        self._actor_watch.end_actor(actor_id)

    # --------------------------------------------------------------------------- questions

    def _on_ask(self, peer: int, ask: Ask) -> list[Send]:
        answer = self._answers.get(ask.method)
        if answer is None:
            return [(peer, _failure(ask, f"the GCS knows no method {ask.method!r}"))]
        try:
            question = msgspec.convert(ask.body, questions.BODIES[ask.method])
        except ValueError as error:
            return [(peer, _failure(ask, f"{ask.method}: {error}"))]
        try:
            body = answer(peer, ask.number, question)
        except ValueError as error:  # a sentence for the user, who never heard of the method
            return [(peer, _failure(ask, str(error)))]
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
        is_released = self.actors.release_name(ask.name, ask.namespace, ask.actor_id)
        if ask.actor_id is not None and self.actors.never_born(
            ask.actor_id, ask.name, ask.namespace, _NEVER_BORN, self._now
        ):
            self._tell_of_unborn(ask.actor_id)
        return is_released

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

    def _create_group(self, _p: int, _n: int, ask: questions.CreatePlacementGroup) -> Body:
        job = self.membership.jobs.get(ask.job_id)
        if job is not None and not job.alive and not ask.detached:
            raise ValueError(f"job {ask.job_id.hex()} has ended, and its groups with it")
        bundles = [tuple(sorted(bundle.items())) for bundle in ask.bundles]
        row = GroupRow(
            ask.group_id,
            ask.name,
            ask.namespace,
            bundles,
            ask.strategy,
            ask.job_id,
            ask.detached,
            ask.bundle_rules,
            ask.soft_target,
            self._now,
            [b""] * len(bundles),
            [0] * len(bundles),
        )
        self.groups.create(row)

    def _wait_group(self, peer: int, number: int, ask: questions.WaitPlacementGroup) -> Body:
        self.groups.wait(ask.group_id, (peer, number))
        return _LATER

    def _group_table(self, _p: int, _n: int, ask: questions.PlacementGroupTable) -> Body:
        if ask.group_id is None:
            return [view_group(row) for row in self.groups.groups.rows()]
        row = self.groups.groups.get(ask.group_id)
        return [] if row is None else [view_group(row)]

    def _get_group(self, _p: int, _n: int, ask: questions.GetPlacementGroup) -> Body:
        row = self.groups.find(ask.name, ask.namespace)
        return None if row is None else view_group(row)

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

    def _cluster_resources(self) -> Body:
        return for_people(_sum(row.resources for row in self.membership.alive()))

    def _available_resources(self) -> Body:
        free = for_people(_sum(available_on(row) for row in self.membership.alive()))
        return {name: amount for name, amount in free.items() if amount > 0}

    def _pending(self) -> Body:
        rows = []
        for node in self.membership.alive():
            for demanded in node.load.pending if node.load is not None else ():
                rows.append(_view_demanded(node.node_id, demanded))
        for node_id, demanded in self.scheduler.pending_by_node():
            rows.append(_view_demanded(node_id, demanded))
        return rows + self.groups.pending()

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
            "placement_groups": self.groups.counts(),
            "events": {"kept": self.events.kept, "dropped": self.events.dropped},
        }

    def check(self) -> None:
        """Assert the invariants of all tables, and that they agree with each other."""
        for part in (self.membership, self.actors, self.objects, self.tasks, self.events):
            part.check()
        self.scheduler.check()
        self.groups.check()
        self._actor_watch.check()
        self.functions.functions.check()
        alive = {row.peer: row.node_id for row in self.membership.alive()}
        assert alive == self._node_of
        living = set(alive.values())
        for row in self.objects.objects.rows():
            assert row.nodes.keys() <= living
        for actor_id in self._actor_watch.watched():
            actor = self.actors.actors.get(actor_id)
            assert actor is None or actor.state is not ActorState.DEAD
            assert all(peer in self._node_of for peer in self._actor_watch.watchers(actor_id))


def _actor_for_nodes(row: ActorRow) -> dict[str, Any]:
    """An actor as another node needs it: ids and spec as bytes."""
    return view_actor(row) | {
        "actor_id": row.actor_id,
        "node_id": row.node_id,
        "spec": row.spec,
    }


def _row_as_news(row: ActorRow) -> ActorChanged:
    return ActorChanged(
        row.actor_id,
        int(row.state),
        row.class_name,
        row.name,
        row.namespace,
        row.node_id,
        row.pid,
        row.cause,
        row.changed,
        row.restarts,
        row.cause_kind,
        row.life,
    )


def _death(actor_id: bytes, cause: str, now: float) -> ActorChanged:
    return ActorChanged(actor_id, int(ActorState.DEAD), "", "", "", b"", 0, cause, now)


def _group_is_gone(offer: Offer, why: str) -> Placed:
    kind = "ActorPlacementGroupRemoved" if offer.is_actor else "TaskPlacementGroupRemoved"
    return Placed(offer.number, [], error=encode_error(ErrorRecord(kind, why)))


def _sum(parts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for name, units in part.items():
            total[name] = total.get(name, 0) + units
    return total


def _view_demanded(node_id: bytes, demanded: Demanded) -> dict[str, Any]:
    return {
        "name": demanded.name,
        "demand": resources_of(demanded.demand),
        "count": demanded.count,
        "reason": demanded.reason,
        "node_id": node_id.hex(),
    }


def _newest(rows: list[Any], limit: int) -> list[Any]:
    return rows[max(0, len(rows) - limit) :]


def _failure(ask: Ask, text: str) -> Answer:
    return Answer(ask.number, None, encode_error(ErrorRecord("UsageError", text)))
