"""Between a client (driver or worker) and its node; the last four are said on other lines too."""

from __future__ import annotations

from typing import Any

import msgspec

from skate.spec import ActorOptions, CallTemplate, JobConfig

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
    lanes_dir: str = ""  # where workers accept lanes; empty: there are none


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
    lanes_dir: str = ""  # as in ``Welcome``


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


# ---------------------------------------------------------------------------------- on every line


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
