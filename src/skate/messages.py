"""Every message on every wire, one struct each: this file is the protocol's documentation.

A frame (net/frame.py) carries a MessagePack array of these. Structs are array-like, so fields are
known by position: new fields go last, with a default; a retired tag stays listed here and is never
given again. Tags 1-39 are between a client (driver or worker) and its node, 40-59 between a node
and the GCS, 60-69 for all, 70-89 between nodes (where the one that connected speaks as a client of
the other, so most of 1-39 are said there too), 90-99 on data connections, 100-113 between a client
and its node about lanes, 114-117 on a lane itself. User payloads are opaque bytes
(objects/serialization.py): no daemon opens one.

Retired tags: none yet.
"""

from __future__ import annotations

from typing import Any

import msgspec

from skate.spec import ActorOptions, CallTemplate, Demand, JobConfig, Strategy

# ---------------------------------------------------------------------------------- hello


class Hello(msgspec.Struct, array_like=True, tag=1):
    """The first message of a client: who it is.

    ``role`` is "driver", "worker", "observer" or "node"; of a node, ``worker_id`` is its NodeID.
    ``lanes``: it speaks the messages about lanes, so it may be offered some.
    """

    protocol: int
    python: str  # "3.11": pickles do not travel between minor versions
    role: str
    pid: int
    worker_id: bytes = b""
    job: JobConfig | None = None
    lanes: bool = False


class Welcome(msgspec.Struct, array_like=True, tag=2):
    """The node's answer to a driver: its identity and where the arena is."""

    node_id: bytes
    job_id: bytes
    submitter: bytes
    session: str
    arena_path: str
    arena_bytes: int
    namespace: str


class Refused(msgspec.Struct, array_like=True, tag=3):
    """Why the connection is closed, in a sentence for a human."""

    reason: str


class WorkerSetup(msgspec.Struct, array_like=True, tag=4):
    """The first message to a worker: the job it belongs to for life."""

    job_id: bytes
    node_id: bytes
    submitter: bytes
    session: str
    arena_path: str
    arena_bytes: int
    job: JobConfig
    threads: int
    actor_id: bytes = b""
    actor: ActorOptions | None = None
    worker_id: bytes = b""
    clock_offset: float = 0.0  # the node's wall clock less the machine's monotonic one


# ---------------------------------------------------------------------------------- tasks


class RegisterFunction(msgspec.Struct, array_like=True, tag=5):
    """A pickled function or class, known by the hash of its bytes; to the node, and to workers."""

    function_id: bytes
    data: bytes
    name: str


class RegisterTemplate(msgspec.Struct, array_like=True, tag=6):
    """What later calls on this connection mean by ``number``; both directions.

    ``job_id`` is set between nodes, whose connection serves all jobs.
    """

    number: int
    template: CallTemplate
    job_id: bytes = b""


class Submit(msgspec.Struct, array_like=True, tag=7, gc=False):
    """Run a task. The submitter holds each of its returns from this message on.

    ``arguments`` is pickled (args, kwargs) in which dependency number i stands as a placeholder;
    ``nested`` are refs inside arguments, held by the task but not waited for. ``depth`` is how many
    tasks stand between the driver and this one: deeper ones run first, or recursion would pile up
    blocked workers. ``lane``: it was sent on that lane first (``LaneClosed``), or refused there.
    """

    task_id: bytes
    template: int
    arguments: bytes
    dependencies: list[bytes] | None = None
    nested: list[bytes] | None = None
    depth: int = 0
    lane: int = 0


class CreateActor(msgspec.Struct, array_like=True, tag=8):
    """Create an actor; its id is the TaskID of its construction. The creator holds its handle."""

    task_id: bytes
    template: int
    options: ActorOptions
    arguments: bytes
    dependencies: list[bytes] | None = None
    nested: list[bytes] | None = None


class CallActor(msgspec.Struct, array_like=True, tag=9, gc=False):
    """Call a method. ``sequence`` counts from 0 per (calling connection, actor), gapless.

    ``in_order`` is the actor's option: a node that does not host it has to know. Some of the
    numbers may be those of calls on a lane. ``lane``: this one was sent there first.
    """

    task_id: bytes
    actor_id: bytes
    sequence: int
    template: int
    arguments: bytes
    dependencies: list[bytes] | None = None
    nested: list[bytes] | None = None
    in_order: bool = True
    lane: int = 0


class KillActor(msgspec.Struct, array_like=True, tag=10):
    """End an actor's process now (SIGKILL)."""

    actor_id: bytes
    no_restart: bool = True


class Value(msgspec.Struct, array_like=True, gc=False):
    """A value: inline bytes, or, if ``size`` is not 0, a span of the node's arena."""

    data: bytes = b""
    offset: int = 0
    size: int = 0


class Run(msgspec.Struct, array_like=True, tag=11, gc=False):
    """To a worker: run this. ``values`` are those of the dependencies, in order.

    ``sequence`` and ``caller`` are those of a call whose caller has had a lane to this process: the
    process itself keeps its calls in order then, whichever way they come.
    """

    task_id: bytes
    attempt: int
    template: int
    arguments: bytes
    dependencies: list[bytes] | None = None
    values: list[Value] | None = None
    depth: int = 0
    gpus: list[int] | None = None
    sequence: int = -1
    caller: bytes = b""


class Result(msgspec.Struct, array_like=True, gc=False):
    """One return value, and the refs inside it."""

    value: Value
    contains: list[bytes] | None = None


class Done(msgspec.Struct, array_like=True, tag=12, gc=False):
    """From a worker: this attempt has run. Times are seconds of the wall clock.

    ``failed`` tells that ``data`` is an error, in place of each return; ``retry`` that it is one of
    those that the user wants retried.
    """

    task_id: bytes
    attempt: int
    started: float
    ended: float
    data: bytes = b""  # the one result of most tasks, inline
    results: list[Result] | None = None  # in all other cases
    failed: bool = False
    retry: bool = False


class HandBack(msgspec.Struct, array_like=True, tag=13):
    """From a worker: it will not run these; nobody has begun them."""

    task_ids: list[bytes]


class Blocked(msgspec.Struct, array_like=True, tag=14):
    """From a worker: its task waits in get/wait; the CPU may serve somebody else."""


class Unblocked(msgspec.Struct, array_like=True, tag=15):
    """From a worker: its task goes on."""


class Exit(msgspec.Struct, array_like=True, tag=16):
    """To a worker: finish what was delivered, then end. ``reason`` goes to its log."""

    reason: str


class Leaving(msgspec.Struct, array_like=True, tag=17):
    """From a worker that ends on purpose (exit_actor, max_calls) or a driver that shuts down."""

    reason: str


# ---------------------------------------------------------------------------------- objects


class Put(msgspec.Struct, array_like=True, tag=18, gc=False):
    """A small value, to be held by its creator from this message on."""

    object_id: bytes
    data: bytes
    contains: list[bytes] | None = None


class CreateExtent(msgspec.Struct, array_like=True, tag=19):
    """Space in the arena for one object, please; answered by ``Extent`` when there is some."""

    object_id: bytes
    size: int


class Extent(msgspec.Struct, array_like=True, tag=20):
    """Write here, then ``Seal``. ``error`` is an encoded ErrorRecord if there is no space."""

    object_id: bytes
    offset: int
    error: bytes = b""


class Seal(msgspec.Struct, array_like=True, tag=21):
    """The extent of a put is written; its creator holds the object from this message on."""

    object_id: bytes
    contains: list[bytes] | None = None


class Hold(msgspec.Struct, array_like=True, tag=22):
    """This process has come to know these refs (0 -> 1).

    The first on a line between nodes that is not their first names all refs of that home, and in
    ``kept`` the results of its own tasks that the other node is to keep.
    """

    object_ids: list[bytes]
    kept: list[bytes] = []


class Release(msgspec.Struct, array_like=True, tag=23):
    """The last ref to these in this process is gone (1 -> 0)."""

    object_ids: list[bytes]


class Pin(msgspec.Struct, array_like=True, tag=24):
    """This process has mapped these spans."""

    object_ids: list[bytes]


class Unpin(msgspec.Struct, array_like=True, tag=25):
    """The last view into these spans is gone."""

    object_ids: list[bytes]


class Revoke(msgspec.Struct, array_like=True, tag=85):
    """To a client: forget where these copies lie; their space is wanted. Answered by Revoked."""

    number: int
    object_ids: list[bytes]


class Revoked(msgspec.Struct, array_like=True, tag=86):
    """Where these lie is forgotten; of the others in the Revoke, the client needs the values."""

    number: int
    object_ids: list[bytes]


class Want(msgspec.Struct, array_like=True, tag=26):
    """Send these values as soon as they are there (figure b: the callback is registered)."""

    object_ids: list[bytes]


ELSEWHERE = -1
TROUBLE = -2


class Ready(msgspec.Struct, array_like=True, tag=27, gc=False):
    """A value, to who submitted its task or wanted it.

    ``offset`` is ELSEWHERE for one that lies on another node: who wants it here has to say so
    (``Want``). So it is for any large one to a driver without shared memory: what it wants comes as
    ``Chunk``. It is TROUBLE if ``data`` is an error that tells why it cannot be had here now.
    ``contains``: there are refs inside of ``data``.
    """

    object_id: bytes
    data: bytes
    offset: int = 0
    size: int = 0
    contains: bool = False


# ---------------------------------------------------------------------------------- lanes
# A lane is a socket between a process that calls and the worker that runs its calls, introduced by
# their node (docs/decisions/0012-direct-lanes.md). First what is said about it, on the lines to the
# node; a lane has a number that the node gives once in its life.


class LaneExpected(msgspec.Struct, array_like=True, tag=100):
    """To a worker: a caller may come by this lane; answered by ``LaneListening``.

    ``next`` is, of an actor that runs calls in order, the first number of this caller's calls that
    is not through the node's hands; -1: there is no order to keep.
    """

    lane: int
    caller: bytes  # its submitter id
    next: int = -1


class LaneListening(msgspec.Struct, array_like=True, tag=101):
    """From that worker: it listens. ``error``: it cannot, and says nothing more of this lane."""

    lane: int
    error: str = ""


class LaneOpen(msgspec.Struct, array_like=True, tag=102):
    """To a caller: connect to this worker, by this lane.

    To call the actor; or to run tasks of the class of ``template``, which is the caller's own
    number. At most ``window`` calls may be unanswered.
    """

    lane: int
    worker: bytes
    actor_id: bytes = b""
    template: int = -1
    window: int = 1


HANDED_BACK, OVER, LOST = 0, 1, 2
"""Words of a caller about a lane. Only the first is not its last one."""


class LaneClosed(msgspec.Struct, array_like=True, tag=103):
    """From a caller: the lane has ended. The next ``count`` Submit or CallActor on this line that
    name the lane are its calls that will not be answered there, in order.

    HANDED_BACK: they had not begun, and what had is still to be answered. OVER: so, and that was
    all; or it has never connected. LOST: the stream ended without a word, or before all answers:
    they may have begun.
    """

    lane: int
    how: int
    count: int


class LaneRevoke(msgspec.Struct, array_like=True, tag=104):
    """To a worker: take nothing more on this lane."""

    lane: int


class LaneOver(msgspec.Struct, array_like=True, tag=105):
    """From a worker: it has run all that it took on this lane, and runs nothing of it any more."""

    lane: int


class LaneWanted(msgspec.Struct, array_like=True, tag=106):
    """From a caller: lend me a worker for tasks of this template's class, of which I have ``have``
    now. Answered by ``LaneOpen``, or by nothing."""

    template: int
    have: int


class LaneRow(msgspec.Struct, array_like=True, gc=False):
    """What the event log is told of a call on a lane; times are as in ``Done``."""

    task_id: bytes
    name: str
    kind: str
    started: float
    ended: float
    state: int  # TaskState.FINISHED or FAILED
    error_type: str
    result_bytes: int
    depth: int


class LaneNotes(msgspec.Struct, array_like=True, tag=107):
    """From a worker: these calls of a lane have run."""

    lane: int
    rows: list[LaneRow]


class LaneBegun(msgspec.Struct, array_like=True, tag=108):
    """From a worker: this call of a lane runs for a while; its row in ``LaneNotes`` ends that.

    ``behind``: so many more wait for it.
    """

    lane: int
    task_id: bytes
    name: str
    started: float
    behind: int


class LaneResult(msgspec.Struct, array_like=True, tag=109):
    """From a worker: a call of a lane has returned what does not ride there, or what the node has
    asked for (``Publish``). ``name`` is the template's."""

    lane: int
    task_id: bytes
    result: Result
    failed: bool = False
    name: str = ""


class Publish(msgspec.Struct, array_like=True, tag=110):
    """To a worker: the node wants the results of these calls too, now or once they are there."""

    lane: int
    task_ids: list[bytes]


class Promote(msgspec.Struct, array_like=True, tag=111):
    """From a caller: a ref to the result of a lane call leaves it; it holds the object from here.

    ``data`` is the value; empty: it is still to come, on ``lane``.
    """

    object_id: bytes
    data: bytes = b""
    lane: int = 0


class Fulfil(msgspec.Struct, array_like=True, tag=112):
    """From a caller: the value of what was promoted without one."""

    object_id: bytes
    data: bytes


class CallSkipped(msgspec.Struct, array_like=True, tag=113):
    """To an actor's process: this number of a caller will not come from the node.

    -1: the caller is gone, and nothing more will.
    """

    caller: bytes
    sequence: int


# What is said on the lane.


class LaneHello(msgspec.Struct, array_like=True, tag=114):
    """The caller's first message: which lane this is, and who it is."""

    lane: int
    caller: bytes


class Call(msgspec.Struct, array_like=True, tag=115, gc=False):
    """Run this; answered by ``Outcome``, in the order that calls end.

    ``template`` is a number that the caller has registered on this lane. ``seen``: so many outcomes
    the caller has read and needs no more. ``values`` are those of the dependencies; an empty one is
    the result of an earlier call of this lane, which the callee has kept.
    """

    task_id: bytes
    sequence: int
    template: int
    arguments: bytes
    seen: int
    depth: int = 0
    dependencies: list[bytes] | None = None
    values: list[bytes] | None = None


DATA, AT_NODE, REFUSED = 0, 1, 2
"""Kinds of outcome."""


class Outcome(msgspec.Struct, array_like=True, tag=116, gc=False):
    """What became of a call: its value, or an error in its place.

    AT_NODE: the node has it, and sends ``Ready``. REFUSED: it has not begun, as something that it
    needs is not here; the caller has to submit it to the node.
    """

    task_id: bytes
    data: bytes
    kind: int = DATA


class LaneEnds(msgspec.Struct, array_like=True, tag=117):
    """The first ``taken`` calls, in the order sent, are or will be answered; no other begins."""

    taken: int


# ---------------------------------------------------------------------------------- the rest


class LogLines(msgspec.Struct, array_like=True, tag=28):
    """To a driver: what a worker printed. ``stream`` is 1 for stdout, 2 for stderr."""

    name: str
    pid: int
    stream: int
    lines: list[str]


class Notice(msgspec.Struct, array_like=True, tag=29):
    """To a driver: a warning from the system, for stderr."""

    text: str


class SessionEnds(msgspec.Struct, array_like=True, tag=30):
    """To a client: the node goes down, and why."""

    reason: str


class Chunk(msgspec.Struct, array_like=True, tag=31, gc=False):
    """To a driver without shared memory: the next piece of a large value that it wants.

    The pieces of one value come in order, those of several one value after the other.
    """

    object_id: bytes
    offset: int
    total: int
    data: bytes


class PutChunk(msgspec.Struct, array_like=True, tag=32, gc=False):
    """From a driver without shared memory: write this into its ``Extent``, before ``Seal``."""

    object_id: bytes
    offset: int
    data: bytes


# ---------------------------------------------------------------------------------- node <-> GCS


class NodeJoins(msgspec.Struct, array_like=True, tag=40):
    """A node's first message to the GCS."""

    protocol: int
    node_id: bytes
    pid: int
    address: str
    hostname: str
    resources: dict[str, int]
    labels: dict[str, str]
    object_store_bytes: int


class Demanded(msgspec.Struct, array_like=True):
    """Work that waits on a node, for people: how many calls of what, and why they wait."""

    name: str
    demand: dict[str, int]
    count: int
    reason: str


class Heartbeat(msgspec.Struct, array_like=True, tag=41):
    """Liveness and load, every ``config.HEARTBEAT_S``.

    ``received`` counts all tasks that other nodes have forwarded here, ever: so the global
    scheduler knows which of those that it has placed are in ``queued`` already. ``bandwidth`` is
    the average of transfers to this node in bytes/s; 0: none yet. ``attainable`` is what would be
    free if all tasks that run ended now; actors and bundles of groups stay.
    """

    available: dict[str, int]
    queued: int
    running: int
    store_used_bytes: int
    average_task_s: float
    received: int = 0
    bandwidth: float = 0.0
    pending: list[Demanded] = []
    attainable: dict[str, int] = {}


class HeadAlive(msgspec.Struct, array_like=True, tag=94):
    """Every ``HEAD_BEAT_S``, from the GCS to each node: what passes it on has not frozen."""


class StillAlive(msgspec.Struct, array_like=True, tag=58):
    """Instead of heartbeats, from a thread of a node whose daemon is too busy to send them.

    It comes by a connection of its own. ``is_head``: it is the node that passes on what others say
    to the GCS, so that nothing of them gets through either.
    """

    node_id: bytes
    is_head: bool


class JobChanged(msgspec.Struct, array_like=True, tag=42):
    """A job began or ended."""

    job_id: bytes
    driver_pid: int
    entrypoint: str
    namespace: str
    alive: bool
    at: float


class FunctionStored(msgspec.Struct, array_like=True, tag=43):
    """A row of the function table."""

    function_id: bytes
    name: str
    data: bytes


class ActorChanged(msgspec.Struct, array_like=True, tag=44):
    """A row of the actor table; ``state`` is an ActorState.

    ``cause`` is for people; ``cause_kind`` is the kind of error that calls of a dead actor get.
    """

    actor_id: bytes
    state: int
    class_name: str
    name: str
    namespace: str
    node_id: bytes
    pid: int
    cause: str
    at: float
    restarts: int = 0
    cause_kind: str = ""
    life: int = 0  # counts the nodes that its home has sent it to, one after the other


class ObjectsChanged(msgspec.Struct, array_like=True, tag=45):
    """Locations: objects (id, size in bytes) sealed on, and ids dropped from, the sending node.

    ``freed`` are ids whose home is the sender and that nobody holds any more: every node that has
    a copy is told (``Forget``).
    """

    added: list[tuple[bytes, int]]
    dropped: list[bytes]
    freed: list[bytes] = []


class Events(msgspec.Struct, array_like=True, tag=46):
    """A batch of encoded task events (net/event_batch.py): the GCS opens it only when asked."""

    count: int
    batch: bytes
    dropped: int


class TasksChanged(msgspec.Struct, array_like=True, tag=47):
    """Task-table rows of tasks that live longer than an event batch: (id, name, state, node)."""

    rows: list[tuple[bytes, str, int, bytes]]
    ended: list[bytes]


class Offer(msgspec.Struct, array_like=True, tag=48):
    """Choose nodes for ``count`` tasks of one kind; answered by ``Placed`` with the same number.

    ``inputs`` are their inputs in other arenas: (nodes that have it, bytes). ``queued`` (with the
    offered ones) and ``average_s`` (0: not known) are those of the class on the offering node.
    ``must_leave``: the offering node itself cannot run them now (or ever). ``avoid`` are nodes that
    it cannot reach. ``name`` and ``is_actor`` are for people: in the list of what waits, and in the
    error. A count of 0 takes back what waits under this number, and is not answered.
    """

    number: int
    demand: Demand
    count: int
    queued: int
    average_s: float
    strategy: Strategy | None = None
    inputs: list[tuple[list[bytes], int]] = []
    must_leave: bool = False
    avoid: list[bytes] = []
    name: str = ""
    is_actor: bool = False


class Placed(msgspec.Struct, array_like=True, tag=49):
    """From the GCS: so many tasks of an offer to each of these nodes; the rest stays.

    A task that must leave and is not placed waits in the GCS, which answers again (with the same
    number) once there is a node; ``reason`` says why it waits, and ``rules_unmet`` that a node with
    other labels would have to join. ``error`` is an encoded ErrorRecord: what has no place (the
    offering node is then named too, if it has some) has to fail.
    """

    number: int
    places: list[tuple[bytes, int]]
    reason: str = ""
    error: bytes = b""
    rules_unmet: bool = False


class NodeInfo(msgspec.Struct, array_like=True):
    """A node, as the others need to know it. ``address`` is HOST:PORT."""

    node_id: bytes
    address: str
    resources: dict[str, int]
    labels: dict[str, str]
    alive: bool = True


class NodesChanged(msgspec.Struct, array_like=True, tag=50):
    """From the GCS, to every node: these have joined, changed or died. All of them at first."""

    nodes: list[NodeInfo]


class JobOver(msgspec.Struct, array_like=True, tag=51):
    """From the GCS, to every node: the job has ended, wherever its driver was."""

    job_id: bytes


class Forget(msgspec.Struct, array_like=True, tag=52):
    """From the GCS: nobody holds these any more; a copy is of no use."""

    object_ids: list[bytes]


class WatchActor(msgspec.Struct, array_like=True, tag=53):
    """From a node: send me this actor's row (``ActorChanged``), now and whenever it changes."""

    actor_id: bytes
    watch: bool = True  # False: no longer


class ReserveBundles(msgspec.Struct, array_like=True, tag=54):
    """From the GCS, phase one: set these bundles (index, demand) of a group aside, or none.

    ``is_claim``: if only tasks that run there are in the way, the node keeps for the group what
    they free, and answers when it is enough; ``ReturnBundles`` ends that.
    """

    group_id: bytes
    attempt: int
    bundles: list[tuple[int, Demand]]
    is_claim: bool = False


class BundlesReserved(msgspec.Struct, array_like=True, tag=55):
    """From a node: whether it has."""

    group_id: bytes
    attempt: int
    is_reserved: bool


class CommitBundles(msgspec.Struct, array_like=True, tag=56):
    """From the GCS, phase two: tasks may use what was reserved."""

    group_id: bytes
    attempt: int


class ReturnBundles(msgspec.Struct, array_like=True, tag=57):
    """From the GCS: give back what this group has on the node; whatever uses it is ended."""

    group_id: bytes
    attempt: int = -1  # of a reservation that failed elsewhere; -1: whichever


# ---------------------------------------------------------------------------------- node <-> node
# Between the home of a task (which connected, as a client) and the node that is to run it.


class Introduce(msgspec.Struct, array_like=True, tag=70):
    """A job that the other node may not know; it ends with ``driver_node`` at the latest."""

    job_id: bytes
    job: JobConfig
    driver_node: bytes
    driver_pid: int


class Input(msgspec.Struct, array_like=True, gc=False):
    """A dependency: its inline value, or the nodes that have it in their arena (size > 0)."""

    data: bytes = b""
    size: int = 0
    nodes: list[bytes] | None = None


class Forward(msgspec.Struct, array_like=True, tag=71, gc=False):
    """Run this task; ``Returned`` or ``GivenBack`` follows. The home holds its refs until then."""

    task_id: bytes
    attempt: int
    template: int
    arguments: bytes
    dependencies: list[bytes] | None = None
    nested: list[bytes] | None = None
    inputs: list[Input] | None = None
    depth: int = 0
    retries_left: int = 0
    is_bound: bool = False  # to this node, by its strategy


class ForwardActor(msgspec.Struct, array_like=True, tag=72):
    """Host this actor; ``ActorNews`` tells of its life."""

    task_id: bytes
    template: int
    options: ActorOptions
    arguments: bytes
    dependencies: list[bytes] | None = None
    nested: list[bytes] | None = None
    inputs: list[Input] | None = None
    restarts: int = 0
    life: int = 0


class ForwardCall(msgspec.Struct, array_like=True, tag=73, gc=False):
    """Call a method of an actor that is hosted there; ``Returned`` follows.

    ``sequence`` counts from 0 per (connection, ``caller``, ``life`` of the actor), gapless. A call
    to an older life is given back.
    """

    task_id: bytes
    actor_id: bytes
    caller: bytes
    sequence: int
    attempt: int
    template: int
    arguments: bytes
    dependencies: list[bytes] | None = None
    nested: list[bytes] | None = None
    inputs: list[Input] | None = None
    retries_left: int = 0
    life: int = 0


class Returned(msgspec.Struct, array_like=True, tag=74, gc=False):
    """To the home: a task or call has ended; one result for each return.

    A value with a size lies in the sender's arena. The sender keeps what lies there or contains
    refs until the home releases it.
    """

    task_id: bytes
    attempt: int
    results: list[Result]
    failed: bool = False


class GivenBack(msgspec.Struct, array_like=True, tag=75):
    """To the home: these tasks have not begun here and will not; place them again.

    ``life`` is that of the actor, if they are calls to an older one.
    """

    task_ids: list[bytes]
    reason: str
    node_id: bytes = b""  # where to, if the global scheduler has said so
    life: int = 0


class ActorNews(msgspec.Struct, array_like=True, tag=76):
    """To the actor's home: a change in its life. ``cause`` is an encoded error once it is DEAD."""

    actor_id: bytes
    state: int
    restarts: int
    pid: int
    cause: bytes = b""


class EndActor(msgspec.Struct, array_like=True, tag=77):
    """From the actor's home: no handle is left; end it after the calls that were made."""

    actor_id: bytes


class Located(msgspec.Struct, array_like=True, tag=78):
    """To who wanted it: a value that lies in the arenas of these nodes."""

    object_id: bytes
    size: int
    nodes: list[bytes]


class Registered(msgspec.Struct, array_like=True, tag=80):
    """To who sent ``Hold``: so many Hold messages of this connection are registered, all in all."""

    count: int


class ForDriver(msgspec.Struct, array_like=True, tag=81):
    """To the node of a job's driver: show this there."""

    job_id: bytes
    message: LogLines | Notice


class FlushLogs(msgspec.Struct, array_like=True, tag=83):
    """From the driver's node, at the end: forward what workers of this job have printed by now."""

    job_id: bytes
    number: int


class LogsFlushed(msgspec.Struct, array_like=True, tag=84):
    """To the driver's node, behind the last of those lines: that was all."""

    number: int


class Unreachable(msgspec.Struct, array_like=True, tag=82):
    """To an object's home: I cannot fetch it from these nodes; fetch it yourself, so that I can
    have it from you (``Located`` follows)."""

    object_id: bytes
    nodes: list[bytes]


# ---------------------------------------------------------------------------- data connections
# Between the node that pulls an object (which connected) and one that has it; a frame carries one
# message. For as long as pieces of one object are fetched, the sender keeps it where it is.


class Fetch(msgspec.Struct, array_like=True, tag=90):
    """Send me this piece of an object; answered by ``Lent``.

    ``pull`` is the same on all connections over which one node fetches one object: a node that
    serves many at a time counts them as one.
    """

    object_id: bytes
    offset: int
    length: int
    pull: bytes


class Lent(msgspec.Struct, array_like=True, tag=91):
    """``why`` is "ok", and the bytes of the piece follow; or "busy" or "gone", and nothing does."""

    why: str
    size: int = 0  # of the whole object


class Arrived(msgspec.Struct, array_like=True, tag=92):
    """All pieces that were asked for on this connection are here; answered by ``Confirmed``."""


class Confirmed(msgspec.Struct, array_like=True, tag=93):
    """The object has been kept until now, so what has arrived is true.

    Bytes under way may be the very pages of the sender's arena, not copies: without this answer,
    they may be those of another object.
    """


# ---------------------------------------------------------------------------------- both


class Ask(msgspec.Struct, array_like=True, tag=60):
    """A question that is answered in its own time; ``body`` is plain MessagePack data."""

    number: int
    method: str
    body: dict[str, Any]


class Answer(msgspec.Struct, array_like=True, tag=61):
    """The answer to ``Ask`` number ``number``; ``error`` is an encoded ErrorRecord."""

    number: int
    body: Any = None
    error: bytes = b""


class Part(msgspec.Struct, array_like=True, tag=68, gc=False):
    """A piece of a message too large for a frame; its pieces come in order, nothing in between.

    Together they are the MessagePack array of that one message (net/frame.py).
    """

    number: int
    data: bytes
    is_last: bool = False


class Seen(msgspec.Struct, array_like=True, tag=69):
    """On a line that outlives its connections (net/lasting.py): so many messages have come.

    Not counted itself; what was sent up to there need not be kept for a resumption any more.
    """

    count: int


ToNode = (
    Hello | RegisterFunction | RegisterTemplate | Submit | CreateActor | CallActor | KillActor
    | Done | HandBack | Blocked | Unblocked | Leaving | Put | CreateExtent | PutChunk | Seal
    | Hold | Release | Pin | Unpin | Revoked | Want | Ask | Seen | Introduce | Forward
    | ForwardActor | ForwardCall | EndActor | ForDriver | Unreachable | FlushLogs | LogsFlushed
    | Part | LaneListening | LaneClosed | LaneOver | LaneWanted | LaneNotes | LaneBegun
    | LaneResult | Promote | Fulfil
)  # fmt: skip
ToClient = (
    Welcome | Refused | WorkerSetup | RegisterFunction | RegisterTemplate | Run | Exit | Extent
    | Ready | Revoke | Chunk | LogLines | Notice | SessionEnds | Answer | Seen | Returned
    | GivenBack | ActorNews | Located | Registered | Part | LaneExpected | LaneOpen | LaneRevoke
    | Publish | CallSkipped
)  # fmt: skip
ToGcs = (
    NodeJoins | Heartbeat | StillAlive | JobChanged | FunctionStored | ActorChanged
    | ObjectsChanged | Events | TasksChanged | Offer | WatchActor | BundlesReserved | Ask
)  # fmt: skip
FromGcs = (
    Refused | Answer | Placed | NodesChanged | JobOver | Forget | ActorChanged | ReserveBundles
    | CommitBundles | ReturnBundles | HeadAlive
)  # fmt: skip

ToSender = Fetch | Arrived
ToFetcher = Lent | Confirmed

ToCallee = LaneHello | RegisterFunction | RegisterTemplate | Call
ToCaller = Outcome | LaneEnds

encode = msgspec.msgpack.Encoder().encode
decode_to_node = msgspec.msgpack.Decoder(list[ToNode]).decode
decode_to_client = msgspec.msgpack.Decoder(list[ToClient]).decode
decode_to_gcs = msgspec.msgpack.Decoder(list[ToGcs]).decode
decode_from_gcs = msgspec.msgpack.Decoder(list[FromGcs]).decode
decode_to_sender = msgspec.msgpack.Decoder(list[ToSender]).decode
decode_to_fetcher = msgspec.msgpack.Decoder(list[ToFetcher]).decode
decode_to_callee = msgspec.msgpack.Decoder(list[ToCallee]).decode
decode_to_caller = msgspec.msgpack.Decoder(list[ToCaller]).decode
