"""Every message on every wire, one struct each: this file is the protocol's documentation.

A frame (net/frame.py) carries a MessagePack array of these. Structs are array-like, so fields are
known by position: new fields go last, with a default; a retired tag stays listed here and is never
given again. Tags 1-39 are between a client (driver or worker) and its node, 40-59 between a node
and the GCS, 60-69 for both. User payloads are opaque bytes (objects/serialization.py): no daemon
opens one.

Retired tags: none yet.
"""

from __future__ import annotations

from typing import Any

import msgspec

from skate.spec import ActorOptions, CallTemplate, JobConfig

# ---------------------------------------------------------------------------------- hello


class Hello(msgspec.Struct, array_like=True, tag=1):
    """The first message of a client: who it is. ``role`` is "driver", "worker" or "observer"."""

    protocol: int
    python: str  # "3.11": pickles do not travel between minor versions
    role: str
    pid: int
    worker_id: bytes = b""
    job: JobConfig | None = None


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
    """What later calls on this connection mean by ``number``; both directions."""

    number: int
    template: CallTemplate


class Submit(msgspec.Struct, array_like=True, tag=7, gc=False):
    """Run a task. The submitter holds each of its returns from this message on.

    ``arguments`` is pickled (args, kwargs) in which dependency number i stands as a placeholder;
    ``nested`` are refs inside arguments, held by the task but not waited for. ``depth`` is how many
    tasks stand between the driver and this one: deeper ones run first, or recursion would pile up
    blocked workers.
    """

    task_id: bytes
    template: int
    arguments: bytes
    dependencies: list[bytes] | None = None
    nested: list[bytes] | None = None
    depth: int = 0


class CreateActor(msgspec.Struct, array_like=True, tag=8):
    """Create an actor; its id is the TaskID of its construction. The creator holds its handle."""

    task_id: bytes
    template: int
    options: ActorOptions
    arguments: bytes
    dependencies: list[bytes] | None = None
    nested: list[bytes] | None = None


class CallActor(msgspec.Struct, array_like=True, tag=9, gc=False):
    """Call a method. ``sequence`` counts from 0 per (calling connection, actor), gapless."""

    task_id: bytes
    actor_id: bytes
    sequence: int
    template: int
    arguments: bytes
    dependencies: list[bytes] | None = None
    nested: list[bytes] | None = None


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
    """To a worker: run this. ``values`` are those of the dependencies, in order."""

    task_id: bytes
    attempt: int
    template: int
    arguments: bytes
    dependencies: list[bytes] | None = None
    values: list[Value] | None = None
    depth: int = 0
    gpus: list[int] | None = None


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
    """This process has come to know these refs (0 -> 1)."""

    object_ids: list[bytes]


class Release(msgspec.Struct, array_like=True, tag=23):
    """The last ref to these in this process is gone (1 -> 0)."""

    object_ids: list[bytes]


class Pin(msgspec.Struct, array_like=True, tag=24):
    """This process has mapped these spans."""

    object_ids: list[bytes]


class Unpin(msgspec.Struct, array_like=True, tag=25):
    """The last view into these spans is gone."""

    object_ids: list[bytes]


class Want(msgspec.Struct, array_like=True, tag=26):
    """Send these values as soon as they are there (figure b: the callback is registered)."""

    object_ids: list[bytes]


class Ready(msgspec.Struct, array_like=True, tag=27, gc=False):
    """A value, to who submitted its task or wanted it."""

    object_id: bytes
    data: bytes
    offset: int = 0
    size: int = 0


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


class Heartbeat(msgspec.Struct, array_like=True, tag=41):
    """Liveness and load, every ``config.HEARTBEAT_S`` while anything changes."""

    available: dict[str, int]
    queued: int
    running: int
    store_used_bytes: int
    average_task_s: float


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
    """A row of the actor table; ``state`` is an ActorState."""

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


class ObjectsChanged(msgspec.Struct, array_like=True, tag=45):
    """Locations: objects (id, size in bytes) sealed on, and ids dropped from, the sending node."""

    added: list[tuple[bytes, int]]
    dropped: list[bytes]


class Events(msgspec.Struct, array_like=True, tag=46):
    """A batch of encoded task events (gcs/event_log.py): the GCS opens it only when asked."""

    count: int
    batch: bytes
    dropped: int


class TasksChanged(msgspec.Struct, array_like=True, tag=47):
    """Task-table rows of tasks that live longer than an event batch: (id, name, state, node)."""

    rows: list[tuple[bytes, str, int, bytes]]
    ended: list[bytes]


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


ToNode = (
    Hello
    | RegisterFunction
    | RegisterTemplate
    | Submit
    | CreateActor
    | CallActor
    | KillActor
    | Done
    | HandBack
    | Blocked
    | Unblocked
    | Leaving
    | Put
    | CreateExtent
    | Seal
    | Hold
    | Release
    | Pin
    | Unpin
    | Want
    | Ask
)
ToClient = (
    Welcome
    | Refused
    | WorkerSetup
    | RegisterFunction
    | RegisterTemplate
    | Run
    | Exit
    | Extent
    | Ready
    | LogLines
    | Notice
    | SessionEnds
    | Answer
)
ToGcs = (
    NodeJoins
    | Heartbeat
    | JobChanged
    | FunctionStored
    | ActorChanged
    | ObjectsChanged
    | Events
    | TasksChanged
    | Ask
)
FromGcs = Refused | Answer

encode = msgspec.msgpack.Encoder().encode
decode_to_node = msgspec.msgpack.Decoder(list[ToNode]).decode
decode_to_client = msgspec.msgpack.Decoder(list[ToClient]).decode
decode_to_gcs = msgspec.msgpack.Decoder(list[ToGcs]).decode
decode_from_gcs = msgspec.msgpack.Decoder(list[FromGcs]).decode
