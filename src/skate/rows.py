"""The rows of a node's tables: jobs, clients, other nodes, workers, tasks, actors. Pure.

Data, and methods on that data alone; the parts of the node (node/) and the local scheduler decide
what becomes of it. They lie in one module because they refer to each other: a task has an owner (a
client), a client may be a worker's, and a worker has tasks. Their life cycles are in states.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from skate import messages as m
from skate.config import AVERAGE_WEIGHT, FIND_AMONG_TASKS, LANE_WINDOW_CALLS
from skate.net.frame import PartReader
from skate.spec import ActorOptions, CallTemplate, Demand, JobConfig, Strategy
from skate.states import (
    ACTOR_MOVES,
    LANE_MOVES,
    TASK_WAITING,
    WORKER_MOVES,
    WORKER_STARTING,
    ActorState,
    LaneState,
    WorkerState,
    advance,
)


class Job:
    """A driver's program: its workers, functions and configuration live and die with it.

    Or a detached actor in a cluster, with all that it submits and creates.
    """

    __slots__ = (
        "actor_id",
        "config",
        "driver",
        "driver_node",
        "driver_pid",
        "function_ids",
        "id",
        "parent",
    )

    def __init__(
        self,
        job_id: bytes,
        config: JobConfig,
        driver: Client | None,
        driver_node: bytes,
        driver_pid: int,
    ) -> None:
        self.id = job_id
        self.config = config
        self.driver = driver  # None: it is at another node, or an actor
        self.driver_node = driver_node
        self.driver_pid = driver_pid
        self.actor_id = b""  # of the detached actor that it ends with, at the actor's home
        self.parent = b""  # and the job that created this, whose driver is shown what it prints
        self.function_ids: dict[bytes, None] = {}


class Client:
    """One connection. ``outbox`` is what the shell has to write at the end of the turn."""

    __slots__ = (
        "alive",
        "deferred",
        "held",
        "holds_heard",
        "is_remote",
        "job",
        "known_functions",
        "known_templates",
        "lanes",
        "link",
        "node_id",
        "outbox",
        "parts",
        "paused",
        "pid",
        "pins",
        "role",
        "speaks_lanes",
        "submitter",
        "templates",
        "worker",
    )

    def __init__(self, link: Any = None) -> None:
        self.link = link  # the shell's own: a transport
        self.role = ""  # until hello
        self.pid = 0
        self.alive = True
        self.job: Job | None = None
        self.worker: Worker | None = None
        self.outbox: list[Any] = []
        self.parts = PartReader(m.decode_to_node)
        self.templates: dict[int, Template] = {}  # what this peer's numbers mean
        self.known_templates: set[int] = set()  # node numbers that this worker has been told
        self.known_functions: set[bytes] = set()
        self.node_id = b""  # of another node
        self.held: set[bytes] = set()
        self.is_remote = False  # a driver on another machine: it has no shared memory
        self.holds_heard = 0  # Hold messages of another node: it is told how many are registered
        self.pins: dict[bytes, int] = {}
        self.paused = False  # it does not read as fast as we write
        self.deferred: deque[bytes] = deque()  # values to push once it reads again
        self.submitter = b""  # its id as a creator of tasks and objects, if it is one
        self.speaks_lanes = False
        self.lanes: dict[int, Lane] = {}  # on which it calls


class OtherNode:
    """Another node."""

    __slots__ = (
        "calls",
        "cut_at",
        "functions",
        "holds_registered",
        "holds_sent",
        "info",
        "is_alive",
        "jobs",
        "lines",
        "link",
        "new_hold",
        "node_id",
        "numbers",
        "outbox",
        "parts",
        "silent_since",
        "tasks",
        "templates",
    )

    def __init__(self, info: m.NodeInfo) -> None:
        self.info = info
        self.node_id = info.node_id
        self.is_alive = True
        self.link: Any = None  # the shell's own
        self.outbox: list[Any] = []
        self.cut_at = -1e9  # when it was last found unreachable
        self.silent_since = 0.0  # when it was first found so, if it has not been heard since
        self.tasks: dict[bytes, Task] = {}  # forwarded there and not returned
        self.new_hold = 0  # the number of the last Hold of something new, on whatever line
        self.start_afresh()

    def start_afresh(self) -> None:
        """The next line to it is a new one: whoever answers knows nothing of the old one."""
        self.outbox.clear()
        self.parts = PartReader(m.decode_to_client)
        self.jobs: set[bytes] = set()
        self.functions: set[tuple[bytes, bytes]] = set()  # (job, function): forgotten job by job
        self.templates: dict[Template, int] = {}
        self.numbers = 0  # given to templates on this line
        self.holds_sent = 0  # Hold messages
        self.holds_registered = 0
        self.lines: dict[tuple[bytes, bytes], int] = {}  # next call per (actor, caller)
        self.calls: dict[bytes, Task] = {}  # of actors hosted there, not returned

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return self.info.address


class Pool:
    """The workers of one job and thread count."""

    __slots__ = ("failed_starts", "idle", "job_id", "starting", "threads")

    def __init__(self, job_id: bytes, threads: int) -> None:
        self.job_id = job_id
        self.threads = threads
        self.idle: list[Worker] = []  # last in, first out: its caches are warm
        self.starting = 0
        self.failed_starts = 0  # in a row: processes that died before they said hello


class Template:
    """A call template as its node knows it: shared by all connections of a job that use it."""

    __slots__ = (
        "average_s", "is_plain", "is_warned", "job_id", "may_move", "number", "queue", "rules",
        "spec",
    )  # fmt: skip

    def __init__(
        self, number: int, job_id: bytes, spec: CallTemplate, queue: SchedulingClass
    ) -> None:
        self.number = number
        self.job_id = job_id
        self.spec = spec
        self.queue = queue
        self.is_plain = spec.strategy is None  # its tasks run here unless others are less busy
        self.may_move = spec.strategy is None or spec.strategy.kind != "NODE"
        self.rules = _rules_of(spec.strategy)  # of nodes, for what moves once it is queued
        self.is_warned = False  # the driver has been told that no node meets its rules
        self.average_s = -1.0  # exponentially averaged run time; below 0: not known yet

    def ran(self, seconds: float, count: int = 1) -> None:
        """So many tasks of this template took so long each."""
        if self.average_s < 0:
            self.average_s = seconds
        else:
            self.average_s += weight_of(count) * (seconds - self.average_s)


def weight_of(count: int) -> float:
    """Of so many new values in an exponential average, if they are the same."""
    return AVERAGE_WEIGHT if count == 1 else 1.0 - (1.0 - AVERAGE_WEIGHT) ** count


def _rules_of(strategy: Strategy | None) -> Strategy | None:
    # SPREAD chooses the first node; what waits there for long may go wherever it waits less.
    if strategy is None or not (strategy.rules or strategy.soft_rules or strategy.fallbacks):
        return None
    rules, soft_rules, fallbacks = strategy.rules, strategy.soft_rules, strategy.fallbacks
    return Strategy(rules=rules, soft_rules=soft_rules, fallbacks=fallbacks)


class Task:
    """A task, from submission until its results are stored."""

    __slots__ = (
        "actor",
        "arguments",
        "attempt",
        "came_after",
        "dependencies",
        "depth",
        "expected_s",
        "gpus",
        "holds_handle",
        "host",
        "id",
        "is_bound",
        "is_here",
        "line",
        "missing",
        "nested",
        "owner",
        "ready_at",
        "retries_left",
        "sent_at",
        "sequence",
        "state",
        "submitted_at",
        "template",
        "waited_s",
        "worker",
    )

    def __init__(
        self,
        task_id: bytes,
        template: Template,
        arguments: bytes,
        dependencies: list[bytes] | None,
        nested: list[bytes] | None,
        owner: Client,
        depth: int,
        now: float,
    ) -> None:
        self.id = task_id
        self.template = template
        self.arguments = arguments
        self.dependencies = dependencies
        self.nested = nested
        self.owner = owner
        self.depth = depth
        self.state = TASK_WAITING
        self.attempt = 0
        self.retries_left = template.spec.max_retries
        self.missing = 0
        self.worker: Worker | None = None
        self.host: OtherNode | None = None  # that runs it
        self.is_here = False  # it waits for its inputs to be in this node's own store
        self.is_bound = False  # it was sent to this node for good
        self.waited_s = 0.0  # how long it waited for resources at the nodes that it left
        self.actor: Any = None  # of a call, or of a construction
        self.line: Caller = owner  # of a call: whose order it keeps
        self.holds_handle = False  # of a call: it holds its actor's handle while it is under way
        self.sequence = 0
        self.gpus: list[int] | None = None
        self.expected_s = 0.0  # its part of its worker's load_s
        self.submitted_at = now
        self.came_after = 0  # from another node: after so many new Holds (node/borrowing.py)
        self.ready_at = 0.0
        self.sent_at = 0.0

    def next_attempt(self) -> None:
        """It is to run once more: one retry less, unless they are without end (-1)."""
        self.retries_left -= self.retries_left > 0
        self.attempt += 1


class Worker:
    """A worker process, as the node sees it."""

    __slots__ = (
        "actor",
        "calls",
        "client",
        "gpus",
        "id",
        "idle_since",
        "lane",
        "lanes",
        "last_begun",
        "lease",
        "listens",
        "load_s",
        "pid",
        "pool",
        "stalled",
        "state",
        "submitter",
        "tasks",
    )

    def __init__(self, worker_id: bytes, pool: Pool, now: float) -> None:
        self.id = worker_id
        self.pool = pool
        self.state = WORKER_STARTING
        self.client: Any = None  # its connection
        self.pid = 0
        self.lease: SchedulingClass | None = None
        self.tasks: dict[bytes, Task] = {}  # sent and not done, in the order they run
        self.load_s = 0.0  # expected run time of what is in ``tasks``
        self.stalled = False  # handed back because its task is long: sent nothing until done
        self.idle_since = now
        self.gpus: list[int] | None = None
        self.calls: dict[int, int] = {}  # per template with max_calls: how often
        self.actor: Any = None  # that it hosts
        self.submitter = b""  # given to it at its start
        self.last_begun = b""  # a task; known once the process is reaped
        self.lanes: dict[int, Lane] = {}  # on which it is called
        self.listens = True  # for callers on lanes; False: it has said that it cannot
        self.lane: Lane | None = None  # on which it is lent: the node sends it no tasks

    def move(self, to: WorkerState) -> None:
        """Change state; illegal moves raise."""
        self.state = advance(WORKER_MOVES, self.state, to)


class SchedulingClass:
    """The ready tasks that can stand in for each other: same job, demand and pool."""

    __slots__ = ("by_depth", "count", "demand", "leased", "pool", "waiting_since")

    def __init__(self, pool: Pool, demand: Demand) -> None:
        self.pool = pool
        self.demand = demand
        self.by_depth: dict[int, deque[Task]] = {}
        self.count = 0
        self.leased: dict[bytes, Worker] = {}
        self.waiting_since = 0.0  # for resources that others have; 0: not waiting

    def push(self, task: Task, *, front: bool = False) -> None:
        """Queue a task behind (or before) those of its depth."""
        if not self.count:
            self.waiting_since = 0.0  # what waited before has gone, maybe long ago
        queue = self.by_depth.get(task.depth)
        if queue is None:
            queue = self.by_depth[task.depth] = deque()
        if front:
            queue.appendleft(task)
        else:
            queue.append(task)
        self.count += 1

    def head(self) -> Task:
        """The next task: the first of the deepest."""
        return self.by_depth[max(self.by_depth)][0]

    def pop(self) -> Task:
        """Take the next task out."""
        depth = max(self.by_depth) if len(self.by_depth) > 1 else next(iter(self.by_depth))
        queue = self.by_depth[depth]
        task = queue.popleft()
        if not queue:
            del self.by_depth[depth]
        self.count -= 1
        return task

    def find(self, wanted: Callable[[Task], bool]) -> Task | None:
        """The first task that is wanted, among those that may soon be next."""
        return next((task for task in islice(self, FIND_AMONG_TASKS) if wanted(task)), None)

    def take_out(self, task: Task) -> None:
        """Take this task out, wherever it stands."""
        queue = self.by_depth[task.depth]
        queue.remove(task)
        if not queue:
            del self.by_depth[task.depth]
        self.count -= 1

    def take_back(self, count: int, rules: Strategy | None) -> list[Task]:
        """Take out up to so many tasks that may run elsewhere, by these rules: those that would
        come last here."""
        taken: list[Task] = []
        for depth in sorted(self.by_depth):
            queue = self.by_depth[depth]
            stay: list[Task] = []
            while queue and len(taken) < count and len(stay) < FIND_AMONG_TASKS:
                task = queue.pop()
                if not may_leave(task) or task.template.rules != rules:
                    stay.append(task)
                else:
                    taken.append(task)
            queue.extend(reversed(stay))
            if not queue:
                del self.by_depth[depth]
        self.count -= len(taken)
        return taken

    def __iter__(self) -> Iterator[Task]:
        for depth in sorted(self.by_depth, reverse=True):
            yield from self.by_depth[depth]

    def clear(self) -> list[Task]:
        """Take all tasks out."""
        tasks = list(self)
        self.by_depth.clear()
        self.count = 0
        return tasks


def may_leave(task: Task) -> bool:
    """Whether another node may run it, though it is queued here."""
    return not task.is_bound and task.template.may_move


class CallOrder:
    """The calls of one caller to one actor.

    Once its caller has had a lane to the actor, the node hears of some numbers only, in ascending
    order but for calls that have come back from the lane: the order is *sparse* for good. For the
    life of the process that had the lane it is *gated* as well: the process itself brings what
    comes both ways into order.
    """

    __slots__ = (
        "answered", "closed", "early", "gated", "heard", "hold", "is_current", "is_sparse", "lane",
        "next",
    )  # fmt: skip

    def __init__(self) -> None:
        self.next = 0  # of one that is not sparse
        self.closed = False  # the caller is gone: no more will come
        self.early: dict[int, Task | None] = {}  # arrived, not let through; None: failed, skip it
        self.answered = 0  # calls, since its last lane ended
        self.lane: Lane | None = None
        self.is_sparse = False
        self.gated = False
        self.hold = False  # nothing is let through: a lost lane's calls are still to come
        self.heard = 0  # of a sparse one: above the highest number that has come
        self.is_current = True  # and no higher number was ever given, unless its call is under way


class Actor:
    """One actor, on the node that hosts it."""

    __slots__ = (
        "backlog",
        "cause",
        "creation",
        "creator",
        "fetching",
        "gated",
        "gpus",
        "has_handles",
        "host",
        "host_pid",
        "id",
        "in_flight",
        "is_guest",
        "is_proxy",
        "leaving",
        "life",
        "lines",
        "options",
        "placed",
        "restarts",
        "state",
        "window",
        "worker",
    )

    def __init__(self, creation: Task, options: ActorOptions, creator: Client) -> None:
        self.id = creation.id
        self.creation = creation
        self.options = options
        self.creator = creator
        self.state = ActorState.DEPENDENCIES_UNREADY
        self.worker: Worker | None = None
        self.lines: dict[Caller, CallOrder] = {}
        self.backlog: deque[Task] = deque()  # let through, not delivered
        self.in_flight: dict[bytes, Task] = {}
        self.window = 0  # calls that may be in flight now
        self.restarts = 0
        self.cause = b""  # encoded ErrorRecord, once DEAD
        self.has_handles = True
        self.leaving = False  # asked to end after what was delivered
        self.placed = False  # holds its running demand
        self.gpus: list[int] | None = None
        self.host: OtherNode | None = None  # that it lives on, if not here (actor_home.py)
        self.life = 0  # counts its placements on other nodes: each numbers its calls afresh
        self.host_pid = 0  # of its process there
        self.is_proxy = False  # of another home, and not hosted here
        self.is_guest = False  # of another home, and hosted here
        self.fetching: Task | None = None  # a call whose inputs have to come here first
        self.gated: dict[Caller, bytes] = {}  # whose calls its process keeps in order; their ids

    def move(self, to: ActorState) -> None:
        """Change state; illegal moves raise."""
        self.state = advance(ACTOR_MOVES, self.state, to)

    def is_drained(self) -> bool:
        """Whether no call is anywhere."""
        return not (
            self.in_flight
            or self.backlog
            or any(task for line in self.lines.values() for task in line.early.values())
        )


class Lane:
    """A lane between two processes of this node, as the node knows it (node/lanes.py)."""

    __slots__ = (
        "actor", "adopted", "average_s", "awaiting", "begun", "caller", "has_run", "how",
        "is_revoked", "last_word", "lost_at", "number", "obituary", "promised", "queue", "state",
        "status", "template", "templates", "window", "worker",
    )  # fmt: skip

    def __init__(self, number: int, caller: Client, worker: Worker, actor: Actor | None) -> None:
        self.number = number
        self.caller = caller
        self.worker = worker
        self.actor = actor  # None: it is for tasks
        self.queue: SchedulingClass | None = None  # of those tasks
        self.template = -1  # the caller's number of the template that it asked with
        self.average_s = -1.0  # of tasks that have run there; below 0: not known yet
        self.window = LANE_WINDOW_CALLS  # that may be unanswered
        self.state = LaneState.EXPECTED
        self.is_revoked = False
        self.has_run = False  # all that was taken there
        self.promised: dict[bytes, None] = {}  # results that are still to come to the node
        self.how = m.HANDED_BACK  # what the caller has said last, and of how many
        self.awaiting = 0  # calls that then have still to come
        self.last_word = m.HANDED_BACK  # OVER or LOST, once it is said
        self.lost_at = 0.0  # when the caller said LOST
        self.adopted: list[Task] = []  # calls that may have begun: the burial decides
        self.begun: dict[bytes, m.LaneBegun] = {}  # long calls that run
        self.templates: dict[str, Template | None] = {}  # of what has run there, by name
        self.status = 0  # of the worker's process, and how it ended, once it is buried
        self.obituary = ""

    def move(self, to: LaneState) -> None:
        """Change state; illegal moves raise."""
        self.state = advance(LANE_MOVES, self.state, to)

    @property
    def is_closed(self) -> bool:
        """Whether nothing more of it can come from its caller."""
        return not self.caller.alive or (self.last_word != m.HANDED_BACK and not self.awaiting)


Caller = Client | tuple[Client, bytes]
"""Whose calls to an actor keep an order: a process here, or one of another node's, by its id."""
