"""Between a node and the GCS."""

from __future__ import annotations

import msgspec

from skate.spec import Demand, Strategy


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
