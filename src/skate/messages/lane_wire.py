"""About lanes, on the lines to the node, and on a lane itself.

A lane is a socket between a process that calls and the worker that runs its calls, introduced by
their node (docs/decisions/0012-direct-lanes.md). First what is said about it, on the lines to the
node; a lane has a number that the node gives once in its life.
"""

from __future__ import annotations

import msgspec

from skate.messages.client_wire import Result


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
