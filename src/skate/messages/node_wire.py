"""Between two nodes: on the line that one of them opened, and on data connections."""

from __future__ import annotations

import msgspec

from skate.messages.client_wire import LogLines, Notice, Result
from skate.spec import ActorOptions, JobConfig

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
    waited_s: float = 0.0  # for resources, at the nodes that it left


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
    waited_s: float = 0.0  # for resources, here and at the nodes before


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
