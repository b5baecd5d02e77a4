"""The Global Control Store as one pure core: messages in, messages out.

The shell (gcs_server.py, or a simulator) numbers its connections as peers and calls `handle` with
each message, `peer_lost` once when a connection ends, and `tick` every `membership.TICK_S` if
there may be silent nodes, and within `config.HEARTBEAT_S` whenever `is_tick_due`. What comes back
are (peer, message) pairs; after a `Refused` the shell closes that connection.

This module wires the parts, dispatches to them, and ends the turn. The rules are in the parts
(`..._handlers.py`): each marks its handlers with what they are there for (hears.py), is given the
tables and neighbours that it uses, and writes into one outbox. What ends with a node or a job is
in endings.py.

A peer that sends `NodeJoins` speaks for that node until its connection ends, and then the node is
dead. Every other peer may ask, or say that a busy node lives, and nothing else. The GCS itself
enters changes of nodes, jobs, actors and functions in the event log, so nodes need not report them
as events too.

Invariants: every `Ask` has exactly one `Answer`, unless its peer is lost; what a peer does wrong
is told to that peer alone and harms nobody else's rows.

Deliberately absent: restarts, storage.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from skate.config import EVENT_LOG_TASKS, NODE_SILENCE_S
from skate.error_records import ErrorRecord, encode_error
from skate.gcs import hears, questions
from skate.gcs.actor_handlers import ActorHandlers
from skate.gcs.actor_table import ActorTable, view_actor
from skate.gcs.endings import Endings
from skate.gcs.event_log import EventLog
from skate.gcs.function_handlers import FunctionHandlers, KeyValueHandlers
from skate.gcs.function_table import FunctionTable, KeyValueStore
from skate.gcs.group_handlers import GroupHandlers
from skate.gcs.group_row import view_group
from skate.gcs.hears import ANSWERS, HEARS, HEARS_ANYONE, LATER, collect
from skate.gcs.membership import Membership, view_job, view_node
from skate.gcs.membership_handlers import MembershipHandlers
from skate.gcs.object_handlers import ObjectHandlers
from skate.gcs.object_table import ObjectTable, view_object
from skate.gcs.offer_handlers import OfferHandlers
from skate.gcs.outbox import Outbox, Send
from skate.gcs.task_handlers import EventHandlers, TaskHandlers
from skate.gcs.task_table import TaskTable, view_task
from skate.gcs.watch_handlers import Watched, WatchHandlers
from skate.messages import Answer, Ask, HeadAlive, Refused
from skate.scheduler.global_scheduler import GlobalScheduler
from skate.states import IllegalMove


class GcsCore:
    """All tables of the cluster, and its connected peers.

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
        self._outbox = Outbox(self.membership.by_peer)
        self._wire()

    def _wire(self) -> None:
        members, outbox, log = self.membership, self._outbox, self.events
        self._actors = actors = ActorHandlers(self.actors, members, outbox, log)
        self._groups = groups = GroupHandlers(members, self.scheduler, outbox, log)
        self.groups = groups.groups
        self._offers = offers = OfferHandlers(self.scheduler, self.groups, members, outbox)
        self._objects = objects = ObjectHandlers(self.objects, members, outbox)
        tasks = TaskHandlers(self.tasks)
        self._endings = endings = Endings(
            members,
            outbox,
            log,
            offers=offers,
            groups=groups,
            actors=actors,
            objects=objects,
            tasks=tasks,
        )
        nodes = MembershipHandlers(members, outbox, log, (offers, groups), endings)
        functions, events = FunctionHandlers(self.functions, log), EventHandlers(log)
        key_values = KeyValueHandlers(self.key_values)
        counted = (nodes, actors, tasks, objects, functions, key_values, groups, events)
        watched: dict[str, Watched] = {
            "nodes": (members.nodes, view_node),
            "jobs": (members.jobs, view_job),
            "actors": (self.actors.actors, view_actor),
            "tasks": (self.tasks.tasks, view_task),
            "objects": (self.objects.objects, view_object),
            "placement_groups": (self.groups.groups, view_group),
        }
        self._checked = (*counted, offers)
        parts = (*self._checked, WatchHandlers(watched, counted))
        self._of_nodes: dict[type, hears.FromNode] = dict(collect(parts, HEARS))
        self._of_anyone: dict[type, hears.FromAnyone] = dict(collect(parts, HEARS_ANYONE))
        self._of_anyone[Ask] = self._on_ask
        answers = collect(parts, ANSWERS)
        self._answers: dict[str, tuple[type[msgspec.Struct], hears.ToAnswer]] = {
            method: (body, answers[body]) for method, body in questions.BODIES.items()
        }

    # ------------------------------------------------------------------------------ stimuli

    def handle(self, peer: int, message: msgspec.Struct, now: float) -> list[Send]:
        """Take one message of a peer; returns the messages to send. `now` is wall seconds."""
        kind = type(message)
        node = self.membership.by_peer.get(peer)
        if node is not None:
            node.heard = now
        of_node = self._of_nodes.get(kind)
        if node is not None and of_node is not None:
            try:
                of_node(node, message, now)
            except (IllegalMove, ValueError) as error:
                self._outbox.send(peer, Refused(f"{kind.__name__}: {error}"))
        elif kind in self._of_anyone:
            self._of_anyone[kind](peer, message, now)
        else:
            self._outbox.send(peer, Refused(f"{kind.__name__} from a peer that is no node"))
        return self._end_turn()

    def peer_lost(self, peer: int, now: float) -> list[Send]:
        """The connection has ended; its node, if it spoke for one, is dead."""
        self._objects.peer_lost(peer)
        self._groups.peer_lost(peer)
        node = self.membership.by_peer.get(peer)
        if node is not None:
            self._endings.end_node(node, "its connection to the GCS has ended", now)
        return self._end_turn()

    def tick(self, now: float) -> list[Send]:
        """Give up nodes that are silent for too long (they are told), and place waiting work."""
        for node in self.membership.silent(now):
            cause = f"it was silent for {now - node.heard:.1f} s"
            self._endings.end_node(node, cause, now)
            self._outbox.send(node.peer, Refused(f"this node was given up: {cause}"))
        self._groups.tick(now)
        self._settle()
        self._offers.tick(now)
        return self._outbox.take()

    def beat(self) -> list[Send]:
        """A sign of life for every node, from time to time."""
        self._outbox.tell_nodes(HeadAlive())
        return self._outbox.take()

    def _end_turn(self) -> list[Send]:
        self._settle()
        return self._outbox.take()

    def _settle(self) -> None:
        self._actors.settle()  # behind the answer to the peer that gave the actor's name back
        self._groups.settle()  # behind the news of nodes and jobs that moved the groups

    # ------------------------------------------------------------------------------ questions

    def _on_ask(self, peer: int, ask: Ask, now: float) -> None:
        found = self._answers.get(ask.method)
        if found is None:
            self._refuse(peer, ask, f"the GCS knows no method {ask.method!r}")
            return
        kind, handler = found
        try:
            question = msgspec.convert(ask.body, kind)
        except ValueError as error:
            self._refuse(peer, ask, f"{ask.method}: {error}")
            return
        try:
            body = handler((peer, ask.number), question, now)
        except ValueError as error:  # a sentence for the user, without the method's name
            self._refuse(peer, ask, str(error))
            return
        if body is not LATER:
            self._outbox.send(peer, Answer(ask.number, body))

    def _refuse(self, peer: int, ask: Ask, why: str) -> None:
        error = encode_error(ErrorRecord("UsageError", why))
        self._outbox.send(peer, Answer(ask.number, None, error))

    # ------------------------------------------------------------------------------ views

    @property
    def is_tick_due(self) -> bool:
        """Whether waiting work may find a place now: then `tick` within HEARTBEAT_S."""
        return self.scheduler.is_tick_due or self.groups.is_tick_due

    @property
    def is_watching(self) -> bool:
        """Whether any node is to be told what becomes of any actor."""
        return self._actors.is_watching

    @property
    def node_count(self) -> int:
        """How many connected peers are nodes."""
        return len(self.membership.by_peer)

    def is_node(self, peer: int) -> bool:
        """Whether this peer speaks for a living node."""
        return peer in self.membership.by_peer

    def check(self) -> None:
        """Assert the invariants of all tables, and that they agree with each other."""
        for part in self._checked:
            part.check()
