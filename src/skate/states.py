"""Life cycles: for each, one enum and one transition table. docs/states is generated from here.

``advance`` is the only way to move; an illegal move is a bug of ours and says so with both names.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TypeVar


class TaskState(IntEnum):
    """A task, from the moment its node has heard of it."""

    WAITING = 0  # for arguments that are not there yet
    READY = 1  # in the queue of its scheduling class
    SENT = 2  # to a worker, which alone decides when it begins (decision 0010)
    FINISHED = 3
    FAILED = 4
    OFFERED = 5  # to the global scheduler, which chooses a node
    FORWARDED = 6  # to another node, which answers with the results or gives it back
    PULLING = 7  # to run here, once its inputs have come from other nodes


class ActorState(IntEnum):
    """An actor; the names are Ray's."""

    DEPENDENCIES_UNREADY = 0
    PENDING_CREATION = 1
    ALIVE = 2
    RESTARTING = 3
    DEAD = 4


class WorkerState(IntEnum):
    """A worker process, as its node sees it."""

    STARTING = 0
    IDLE = 1
    LEASED = 2  # holds a class's resources and runs its tasks
    BLOCKED = 3  # its task waits in get/wait: the CPU is lent out
    ACTOR = 4
    ENDING = 5
    DEAD = 6


class ObjectState(IntEnum):
    """An object, as its node sees it."""

    PENDING = 0  # promised by a task
    INLINE = 1  # value kept by the node itself
    SEALED = 2  # value in the arena
    FREED = 3
    REMOTE = 4  # value in the arena of other nodes, and not here


class NodeState(IntEnum):
    """A node, as the GCS sees it."""

    ALIVE = 0
    DEAD = 1


class PlacementGroupState(IntEnum):
    """A placement group; the names are Ray's."""

    PENDING = 0  # its bundles are to be reserved
    PREPARED = 1  # they are, everywhere
    CREATED = 2  # and may be used
    REMOVED = 3
    RESCHEDULING = 4  # some were lost with a node, and are to be reserved elsewhere


class LaneState(IntEnum):
    """A lane between two processes of a node, as the node knows it (decision 0012)."""

    EXPECTED = 0  # its worker has been told, the caller has not
    OPEN = 1  # the caller may use it
    OVER = 2  # the worker runs nothing of it any more; the caller's last word is still to come
    LOST = 3  # the worker is buried; the caller's last word is still to come
    ORPHAN = 4  # the caller is gone; the worker's last word, or its burial, is still to come
    GONE = 5


# The members under names of their own: looking one up through its class costs more than most of
# what the schedulers do with it (measured: 13 % of the node's time for a task).
TASK_WAITING, TASK_READY, TASK_SENT, TASK_FINISHED, TASK_FAILED = list(TaskState)[:5]
TASK_OFFERED, TASK_FORWARDED, TASK_PULLING = list(TaskState)[5:]
WORKER_STARTING, WORKER_IDLE, WORKER_LEASED, WORKER_BLOCKED = list(WorkerState)[:4]
WORKER_ACTOR, WORKER_ENDING, WORKER_DEAD = list(WorkerState)[4:]

TASK_MOVES: dict[TaskState, tuple[TaskState, ...]] = {
    TaskState.WAITING: (
        TaskState.READY,
        TaskState.OFFERED,
        TaskState.FORWARDED,
        TaskState.PULLING,
        TaskState.FAILED,
    ),
    # WAITING again: an input was lost with a node, and is asked for anew.
    TaskState.OFFERED: (
        TaskState.WAITING,
        TaskState.READY,
        TaskState.FORWARDED,
        TaskState.PULLING,
        TaskState.FAILED,
    ),
    # OFFERED again: given back, or its node died and a retry is left.
    TaskState.FORWARDED: (TaskState.FINISHED, TaskState.FAILED, TaskState.OFFERED),
    TaskState.PULLING: (TaskState.READY, TaskState.OFFERED, TaskState.FAILED),
    # FORWARDED: it has waited here, and another node has room.
    TaskState.READY: (
        TaskState.SENT,
        TaskState.OFFERED,
        TaskState.FORWARDED,
        TaskState.PULLING,
        TaskState.FAILED,
    ),
    # READY again: handed back unbegun, or its worker died and a retry is left.
    TaskState.SENT: (TaskState.FINISHED, TaskState.FAILED, TaskState.READY),
    TaskState.FINISHED: (),
    TaskState.FAILED: (),
}

ACTOR_MOVES: dict[ActorState, tuple[ActorState, ...]] = {
    ActorState.DEPENDENCIES_UNREADY: (ActorState.PENDING_CREATION, ActorState.DEAD),
    ActorState.PENDING_CREATION: (ActorState.ALIVE, ActorState.RESTARTING, ActorState.DEAD),
    ActorState.ALIVE: (ActorState.RESTARTING, ActorState.DEAD),
    ActorState.RESTARTING: (ActorState.ALIVE, ActorState.RESTARTING, ActorState.DEAD),
    ActorState.DEAD: (),
}

WORKER_MOVES: dict[WorkerState, tuple[WorkerState, ...]] = {
    WorkerState.STARTING: (WorkerState.IDLE, WorkerState.ACTOR, WorkerState.DEAD),
    WorkerState.IDLE: (WorkerState.LEASED, WorkerState.ENDING, WorkerState.DEAD),
    WorkerState.LEASED: (
        WorkerState.IDLE,
        WorkerState.BLOCKED,
        WorkerState.ENDING,
        WorkerState.DEAD,
    ),
    WorkerState.BLOCKED: (WorkerState.LEASED, WorkerState.ENDING, WorkerState.DEAD),
    WorkerState.ACTOR: (WorkerState.ENDING, WorkerState.DEAD),
    WorkerState.ENDING: (WorkerState.DEAD,),
    WorkerState.DEAD: (),
}

OBJECT_MOVES: dict[ObjectState, tuple[ObjectState, ...]] = {
    ObjectState.PENDING: (
        ObjectState.INLINE,
        ObjectState.SEALED,
        ObjectState.REMOTE,
        ObjectState.FREED,
    ),
    # PENDING again: every copy was on nodes that have died, and it is being made anew.
    ObjectState.REMOTE: (
        ObjectState.SEALED,
        ObjectState.INLINE,
        ObjectState.PENDING,
        ObjectState.FREED,
    ),
    ObjectState.INLINE: (ObjectState.FREED,),
    ObjectState.SEALED: (
        ObjectState.REMOTE,  # a copy, whose space was wanted
        ObjectState.FREED,
    ),
    ObjectState.FREED: (),
}

NODE_MOVES: dict[NodeState, tuple[NodeState, ...]] = {
    NodeState.ALIVE: (NodeState.DEAD,),
    NodeState.DEAD: (),
}

PLACEMENT_GROUP_MOVES: dict[PlacementGroupState, tuple[PlacementGroupState, ...]] = {
    PlacementGroupState.PENDING: (PlacementGroupState.PREPARED, PlacementGroupState.REMOVED),
    PlacementGroupState.PREPARED: (PlacementGroupState.CREATED,),
    PlacementGroupState.CREATED: (
        PlacementGroupState.RESCHEDULING,
        PlacementGroupState.REMOVED,
    ),
    PlacementGroupState.RESCHEDULING: (
        PlacementGroupState.PREPARED,
        PlacementGroupState.REMOVED,
    ),
    PlacementGroupState.REMOVED: (),
}

LANE_MOVES: dict[LaneState, tuple[LaneState, ...]] = {
    LaneState.EXPECTED: (LaneState.OPEN, LaneState.ORPHAN, LaneState.GONE),
    LaneState.OPEN: (LaneState.OVER, LaneState.LOST, LaneState.ORPHAN, LaneState.GONE),
    LaneState.OVER: (LaneState.LOST, LaneState.GONE),
    LaneState.LOST: (LaneState.GONE,),
    LaneState.ORPHAN: (LaneState.GONE,),
    LaneState.GONE: (),
}

State = TypeVar(
    "State",
    TaskState,
    ActorState,
    WorkerState,
    ObjectState,
    NodeState,
    PlacementGroupState,
    LaneState,
)


class IllegalMove(AssertionError):
    """A life cycle was asked to make a move that its table does not have: a bug in skate."""


def advance(moves: dict[State, tuple[State, ...]], current: State, to: State) -> State:
    """``to``, if the table allows the move from ``current``."""
    if to not in moves[current]:
        raise IllegalMove(f"{type(current).__name__} {current.name} -> {to.name}")
    return to
