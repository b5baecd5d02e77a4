"""Identities: how wide each id is and how it derives from its parent.

Ids are plain ``bytes`` on every path that counts; this module is the only place that knows their
layout. No id needs coordination: a node numbers the processes that connect to it, and each process
(its *submitter* id: the first bytes of the NodeID, and its number there) numbers its own tasks.
So every id of a task, actor or object tells its home node: the one whose process created it.

    JobID     4 random               NodeID   16 random        WorkerID  16 random
    TaskID   16 = job 4 + submitter 7 (home node 4 + process 3) + counter 5
    ActorID  16 = job 4 + submitter 7 (home node 4 + process 3) + counter 5
                                       (an actor is known by its creation task)
    ObjectID 20 = task 16 + index 4    (returns count from 0, puts from the top downwards)

The GCS refuses a node whose first four bytes are another living node's.

An actor handle is counted like an object: its id is the ActorID with index ``HANDLE_INDEX``.
"""

from __future__ import annotations

JOB_ID_BYTES = 4
NODE_ID_BYTES = 16
HOME_BYTES = 4
SUBMITTER_BYTES = 7
COUNTER_BYTES = 5
TASK_ID_BYTES = 16
ACTOR_ID_BYTES = 16
OBJECT_ID_BYTES = 20

FIRST_RETURN = b"\x00\x00\x00\x00"
HANDLE_INDEX = b"\x80\x00\x00\x00"


class TaskIdCounter:
    """Hands out the ids of one submitting process; not thread-safe, its caller holds the lock."""

    __slots__ = ("_next_put", "_next_task", "_prefix")

    def __init__(self, job_id: bytes, submitter: bytes) -> None:
        if len(job_id) != JOB_ID_BYTES or len(submitter) != SUBMITTER_BYTES:
            raise ValueError("a TaskID prefix is 4 bytes of job and 7 bytes of submitter")
        self._prefix = job_id + submitter
        self._next_task = 0
        self._next_put = 0

    def next_task(self) -> bytes:
        """The next TaskID; number 0 is the process itself, the parent of its puts."""
        self._next_task += 1
        return self._prefix + self._next_task.to_bytes(COUNTER_BYTES, "big")

    def next_put(self) -> bytes:
        """The next put's ObjectID: the process's own TaskID and an index that counts downwards."""
        # 2^31 - 1 puts fit one parent: indexes above HANDLE_INDEX. Past that the parent's counter
        # moves on, from the top.
        round_, below_top = divmod(self._next_put, 0x7FFFFFFF)
        self._next_put += 1
        parent = (1 << 8 * COUNTER_BYTES) - round_ if round_ else 0
        index = 0xFFFFFFFF - below_top
        return self._prefix + parent.to_bytes(COUNTER_BYTES, "big") + index.to_bytes(4, "big")


def return_id(task_id: bytes, index: int) -> bytes:
    """The ObjectID of a task's return value number ``index``."""
    return task_id + index.to_bytes(4, "big")


def task_of(object_id: bytes) -> bytes:
    """The TaskID that an object came from (its creator for puts)."""
    return object_id[:TASK_ID_BYTES]


def job_of(any_id: bytes) -> bytes:
    """The JobID inside a task, actor or object id."""
    return any_id[:JOB_ID_BYTES]


def home_of(any_id: bytes) -> bytes:
    """The first bytes of the NodeID of a task's, actor's or object's home node."""
    return any_id[JOB_ID_BYTES : JOB_ID_BYTES + HOME_BYTES]


def submitter_of(any_id: bytes) -> bytes:
    """The process that created a task, actor or object."""
    return any_id[JOB_ID_BYTES : JOB_ID_BYTES + SUBMITTER_BYTES]


def handle_id(actor_id: bytes) -> bytes:
    """The counted id that stands for all handles of one actor."""
    return actor_id + HANDLE_INDEX


def is_handle_id(object_id: bytes) -> bool:
    """Whether a counted id stands for an actor's handles."""
    return object_id[TASK_ID_BYTES:] == HANDLE_INDEX
