"""Actor calls: from their callers, in order, to the one process that hosts the actor.

Pure; its caller is the node core. A caller numbers its calls to an actor from 0. The
router lets them through gapless and in order: a call whose arguments are not there yet holds back
the later ones of the same caller, and of nobody else. An actor that runs calls out of order (async,
threaded) gets each as soon as its arguments are there. Delivered and unanswered calls are bounded
(``config.ACTOR_WINDOW_CALLS``); the rest waits here. A call runs also if its caller has ended
since.

A caller that has had a lane to the actor (lanes.py) makes some calls there, so its numbers have
gaps here. The router lets known numbers through in ascending order; the process fills the gaps, and
is told of numbers that will not come (``skip``). If the process dies with calls of the lane
unanswered, the router holds that line, and no other, until they have come.

Invariants (``check``): a call is in exactly one of: a caller's line, the backlog, in flight; the
numbers in a line without gaps are all >= the line's next; nothing is in flight unless the actor is
alive (or this is a stand-in for one that died elsewhere); only a line with gaps is held or gated.
What it does not do: create processes, store results, decide on restarts (the node core does).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from skate.config import ACTOR_WINDOW_CALLS
from skate.rows import Actor, Caller, CallOrder, Task
from skate.states import ActorState


class ActorRouter:
    """See the module's docstring. ``deliver(actor, call)`` hands a call to the actor's process;
    ``skip(actor, caller id, number)`` tells it that one will not come, or, -1, that none will."""

    def __init__(
        self,
        deliver: Callable[[Actor, Task], None],
        window_calls: int = ACTOR_WINDOW_CALLS,
        skip: Callable[[Actor, bytes, int], None] | None = None,
    ) -> None:
        self.actors: dict[bytes, Actor] = {}
        self._deliver = deliver
        self._window = window_calls
        self._skip = skip
        self._closing: dict[bytes, None] = {}  # actors with calls of a gone caller in their backlog

    def add(self, actor: Actor) -> None:
        """A new actor."""
        self.actors[actor.id] = actor

    def arrived(self, actor: Actor, caller: Caller, call: Task) -> None:
        """A call came in; ``call.missing`` says whether its arguments are there."""
        if not actor.options.in_order:
            if not call.missing:
                self._let_through(actor, call)
            else:
                self.line(actor, caller).early[call.sequence] = call
            return
        line = self.line(actor, caller)
        if line.is_sparse:
            self._arrived_with_gaps(actor, line, call)
        elif call.sequence == line.next and not call.missing:
            line.next += 1
            self._let_through(actor, call)
            if line.early:
                self._advance(actor, line)
        else:
            line.early[call.sequence] = call

    def arguments_ready(self, actor: Actor, caller: Caller, call: Task) -> None:
        """The arguments of a call that had arrived are there now."""
        line = self.line(actor, caller)
        if actor.options.in_order:
            self._advance(actor, line)
        elif line.early.pop(call.sequence, None) is not None:
            self._let_through(actor, call)
        self._forget_if_over(actor, caller, line)

    def failed_before_delivery(self, actor: Actor, caller: Caller, sequence: int) -> None:
        """A call will never be delivered: its number is closed, so that later ones may pass."""
        line = self.line(actor, caller)
        if not actor.options.in_order:
            line.early.pop(sequence, None)
        elif line.is_sparse:
            self._note(line, sequence)
            line.early.pop(sequence, None)
            self._tell_skipped(actor, caller, sequence)
            self._advance(actor, line)
        elif sequence >= line.next:
            line.early[sequence] = None
            self._advance(actor, line)
        self._forget_if_over(actor, caller, line)

    def answered(self, actor: Actor, task_id: bytes) -> Task | None:
        """The process is done with a call; None if it was not in flight."""
        call = actor.in_flight.pop(task_id, None)
        if call is not None and actor.backlog:
            self._deliver_some(actor)
        return call

    def dropped(self, actor: Actor, call: Task) -> None:
        """A call that had been let through has failed before it was delivered."""
        actor.backlog.remove(call)
        self._tell_skipped(actor, call.line, call.sequence)

    def retry(self, actor: Actor, call: Task) -> None:
        """The process has run a call in vain: deliver it once more, before all that wait."""
        del actor.in_flight[call.id]
        actor.backlog.appendleft(call)
        self._deliver_some(actor)

    def now_alive(self, actor: Actor) -> None:
        """The constructor has run: calls that waited may go."""
        actor.window = self._window
        self._deliver_some(actor)

    def go_on(self, actor: Actor) -> None:
        """Let through the calls that wait, as far as the window allows."""
        self._deliver_some(actor)

    def caller_gone(self, caller: Caller) -> None:
        """A caller's connection is closed: its line goes once its calls are through."""
        for actor in self.actors.values():
            line = actor.lines.get(caller)
            if line is not None:
                line.closed = True
                self._forget_if_over(actor, caller, line)

    def take_node(self, peer: Any) -> list[Task]:
        """Another node's line is closed: take the undelivered calls of all callers that it spoke
        for, (peer, caller)."""
        taken: list[Task] = []
        for actor in self.actors.values():
            undelivered = [call for call in actor.backlog if call.owner is peer]
            if undelivered:
                taken += undelivered
                rest = [call for call in actor.backlog if call.owner is not peer]
                actor.backlog = deque(rest)
            for key in [k for k in actor.lines if type(k) is tuple and k[0] is peer]:
                taken += [call for call in actor.lines.pop(key).early.values() if call]
        return taken

    def take_job(self, actor: Actor, job_id: bytes) -> list[Task]:
        """Take the undelivered calls of a job that is over; their numbers are closed.

        The job's callers are gone, or will be: some nodes hear of its end before others.
        """
        taken = [call for call in actor.backlog if call.template.job_id == job_id]
        for call in taken:
            actor.backlog.remove(call)
        for caller, line in list(actor.lines.items()):
            early = [call for call in line.early.values() if call]
            if not early or early[0].template.job_id != job_id:
                continue
            taken += early
            for call in early:
                line.early[call.sequence] = None
            if actor.options.in_order and not line.closed and not line.is_sparse:
                self._advance(actor, line)
            else:
                line.early.clear()
            self._forget_if_over(actor, caller, line)
        return taken

    def take_all(self, actor: Actor) -> tuple[list[Task], list[Task]]:
        """(in flight, not delivered) calls of an actor whose process is gone."""
        in_flight = list(actor.in_flight.values())
        actor.in_flight.clear()
        waiting = list(actor.backlog)
        actor.backlog.clear()
        return in_flight, waiting

    def take_early(self, actor: Actor) -> list[Task]:
        """Calls that still wait for arguments or for earlier ones; their numbers are closed."""
        waiting = []
        self._closing.pop(actor.id, None)
        for caller in actor.gated:
            actor.lines[caller].gated = False
        actor.gated.clear()
        for caller, line in list(actor.lines.items()):
            waiting += [task for task in line.early.values() if task]
            if line.early:
                if not line.is_sparse:
                    line.next = max(line.next, max(line.early) + 1)
                line.early.clear()
                self._forget_if_over(actor, caller, line)
        return waiting

    def again(self, actor: Actor, calls: list[Task]) -> None:
        """Calls to be delivered once more, before all others, in their order."""
        free = []
        for call in calls:
            line = actor.lines.get(call.line)
            if line is not None and line.hold:
                line.early[call.sequence] = call
            else:
                free.append(call)
        actor.backlog.extendleft(reversed(free))

    def line(self, actor: Actor, caller: Caller) -> CallOrder:
        """The order of a caller's calls to an actor."""
        line = actor.lines.get(caller)
        if line is None:
            line = actor.lines[caller] = CallOrder()
        return line

    def _forget_if_over(self, actor: Actor, caller: Caller, line: CallOrder) -> None:
        if not line.closed or line.early:
            return
        if caller in actor.gated:
            if any(call.line is caller for call in actor.backlog):
                self._closing[actor.id] = None
                return  # its calls go first
            self._tell_skipped(actor, caller, -1)
            del actor.gated[caller]
        del actor.lines[caller]

    # ------------------------------------------------------------------ lines with a lane

    def gate(self, actor: Actor, caller: Caller, caller_id: bytes) -> int:
        """The actor's process keeps this caller's calls in order from now on. The first number that
        is not through here: nothing of the line waits."""
        line = actor.lines[caller]
        if not line.is_sparse:
            line.is_sparse = True
            line.heard = line.next
        line.is_current = False
        line.gated = True
        actor.gated[caller] = caller_id
        return line.heard

    def came_back(self, actor: Actor, caller: Caller, sequence: int) -> None:
        """A call was lost with the process of its lane: its number is through here, too."""
        line = self.line(actor, caller)
        line.heard = max(line.heard, sequence + 1)

    def process_lost(self, actor: Actor) -> None:
        """The process is gone, and its order with it: hold the lines that it kept in order."""
        self._closing.pop(actor.id, None)
        for caller in actor.gated:
            line = actor.lines[caller]
            line.gated = False
            line.hold = True
        actor.gated.clear()

    def let_go(self, actor: Actor, caller: Caller) -> None:
        """All calls of a line that was held are known now."""
        line = actor.lines[caller]
        line.hold = False
        self._advance(actor, line)
        self._forget_if_over(actor, caller, line)

    def let_go_all(self, actor: Actor) -> None:
        """The same for all lines whose lane is over."""
        for caller, line in list(actor.lines.items()):
            if line.hold and line.lane is None:
                self.let_go(actor, caller)

    def _note(self, line: CallOrder, sequence: int) -> None:
        if sequence >= line.heard:
            line.heard = sequence + 1
        if line.lane is None:  # else later ones may be on the lane
            line.is_current = True

    def _arrived_with_gaps(self, actor: Actor, line: CallOrder, call: Task) -> None:
        self._note(line, call.sequence)
        early = line.early
        if not early and not call.missing and not line.hold:
            self._let_through(actor, call)
            return
        is_last = bool(early) and call.sequence > next(iter(early))  # and that one waits
        early[call.sequence] = call
        if not is_last:
            self._advance(actor, line)

    def _advance_with_gaps(self, actor: Actor, line: CallOrder) -> None:
        if line.hold:
            return
        for sequence in sorted(line.early):
            call = line.early[sequence]
            if call is not None and call.missing:
                return
            del line.early[sequence]
            if call is not None:
                self._let_through(actor, call)

    def _tell_skipped(self, actor: Actor, caller: Caller, sequence: int) -> None:
        caller_id = actor.gated.get(caller)
        if caller_id is not None and self._skip is not None:
            self._skip(actor, caller_id, sequence)

    # ------------------------------------------------------------------ letting through

    def _advance(self, actor: Actor, line: CallOrder) -> None:
        if line.is_sparse:
            self._advance_with_gaps(actor, line)
            return
        early = line.early
        while line.next in early:
            call = early[line.next]
            if call is not None and call.missing:
                return
            del early[line.next]
            line.next += 1
            if call is not None:
                self._let_through(actor, call)

    def _let_through(self, actor: Actor, call: Task) -> None:
        if (
            actor.state is ActorState.ALIVE
            and not actor.backlog
            and len(actor.in_flight) < actor.window
        ):
            actor.in_flight[call.id] = call
            self._deliver(actor, call)
        else:
            actor.backlog.append(call)

    def _deliver_some(self, actor: Actor) -> None:
        if actor.state is not ActorState.ALIVE:
            return
        backlog = actor.backlog
        while backlog and len(actor.in_flight) < actor.window:
            call = backlog.popleft()
            actor.in_flight[call.id] = call
            self._deliver(actor, call)
        if actor.id in self._closing:
            del self._closing[actor.id]
            for caller in list(actor.gated):
                self._forget_if_over(actor, caller, actor.lines[caller])

    def check(self) -> None:
        """Assert the invariants; for tests and the simulator."""
        for actor in self.actors.values():
            seen: set[bytes] = set(actor.in_flight)
            for call in actor.backlog:
                assert call.id not in seen
                seen.add(call.id)
            assert set(actor.gated) == {c for c, line in actor.lines.items() if line.gated}
            for line in actor.lines.values():
                assert line.early or not line.closed or line.gated
                assert line.is_sparse or not (line.gated or line.hold)
                assert not (line.gated and line.hold)
                for sequence, early in line.early.items():
                    if actor.options.in_order and not line.is_sparse:
                        assert sequence >= line.next
                    if early is not None:  # it may wait for an older attempt to end
                        assert early.id not in seen or early.missing
                        seen.add(early.id)
            if actor.in_flight:  # the answers of a dead proxy's host are still to come
                is_dead_proxy = actor.is_proxy and actor.state is ActorState.DEAD
                assert actor.state is ActorState.ALIVE or is_dead_proxy
                assert len(actor.in_flight) <= self._window
