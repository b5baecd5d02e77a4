"""Actor calls: from their callers, in order, to the one process that hosts the actor.

Pure; its caller is the node core. A caller numbers its calls to an actor from 0. The
router lets them through gapless and in order: a call whose arguments are not there yet holds back
the later ones of the same caller, and of nobody else. An actor that runs calls out of order (async,
threaded) gets each as soon as its arguments are there. Delivered and unanswered calls are bounded
(``config.ACTOR_WINDOW_CALLS``); the rest waits here. What a caller called runs, also if the caller
has ended since.

Invariants (``check``): a call is in exactly one of: a caller's line, the backlog, in flight; the
numbers in a line are all >= the line's next; nothing is in flight unless the actor is alive (or
this is a stand-in for one that died elsewhere).
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
    """See the module's docstring. ``deliver(actor, call)`` hands a call to the actor's process."""

    def __init__(
        self, deliver: Callable[[Actor, Task], None], window_calls: int = ACTOR_WINDOW_CALLS
    ) -> None:
        self.actors: dict[bytes, Actor] = {}
        self._deliver = deliver
        self._window = window_calls

    def add(self, actor: Actor) -> None:
        """A new actor."""
        self.actors[actor.id] = actor

    def arrived(self, actor: Actor, caller: Caller, call: Task) -> None:
        """A call came in; ``call.missing`` says whether its arguments are there."""
        if not actor.options.in_order:
            if not call.missing:
                self._let_through(actor, call)
            else:
                self._line(actor, caller).early[call.sequence] = call
            return
        line = self._line(actor, caller)
        if call.sequence == line.next and not call.missing:
            line.next += 1
            self._let_through(actor, call)
            if line.early:
                self._advance(actor, line)
        else:
            line.early[call.sequence] = call

    def arguments_ready(self, actor: Actor, caller: Caller, call: Task) -> None:
        """The arguments of a call that had arrived are there now."""
        line = self._line(actor, caller)
        if actor.options.in_order:
            self._advance(actor, line)
        elif line.early.pop(call.sequence, None) is not None:
            self._let_through(actor, call)
        self._forget_if_over(actor, caller, line)

    def failed_before_delivery(self, actor: Actor, caller: Caller, sequence: int) -> None:
        """A call will never be delivered: its number is closed, so that later ones may pass."""
        line = self._line(actor, caller)
        if not actor.options.in_order:
            line.early.pop(sequence, None)
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

    def retry(self, actor: Actor, call: Task) -> None:
        """The process has run a call in vain: it is delivered once more, before what waits."""
        del actor.in_flight[call.id]
        actor.backlog.appendleft(call)
        self._deliver_some(actor)

    def now_alive(self, actor: Actor) -> None:
        """The constructor has run: what waited may go."""
        actor.window = self._window
        self._deliver_some(actor)

    def go_on(self, actor: Actor) -> None:
        """Something has come to wait: it may go, as far as the window lets it."""
        self._deliver_some(actor)

    def caller_gone(self, caller: Caller) -> None:
        """A caller's connection is closed: its line goes once its calls are through."""
        for actor in self.actors.values():
            line = actor.lines.get(caller)
            if line is not None:
                line.closed = True
                self._forget_if_over(actor, caller, line)

    def take_node(self, peer: Any) -> list[Task]:
        """Another node's line is closed: the undelivered calls of all callers that it spoke for,
        (peer, caller)."""
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
        """The undelivered calls of a job that is over; their numbers are closed.

        Its callers are gone, or will be: some nodes hear of its end before others.
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
            if actor.options.in_order and not line.closed:
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
        for caller, line in list(actor.lines.items()):
            waiting += [task for task in line.early.values() if task]
            if line.early:
                line.next = max(line.next, max(line.early) + 1)
                line.early.clear()
                self._forget_if_over(actor, caller, line)
        return waiting

    def again(self, actor: Actor, calls: list[Task]) -> None:
        """Calls to be delivered once more, before all others, in their order."""
        actor.backlog.extendleft(reversed(calls))

    def _line(self, actor: Actor, caller: Caller) -> CallOrder:
        line = actor.lines.get(caller)
        if line is None:
            line = actor.lines[caller] = CallOrder()
        return line

    def _forget_if_over(self, actor: Actor, caller: Caller, line: CallOrder) -> None:
        if line.closed and not line.early:
            del actor.lines[caller]

    def _advance(self, actor: Actor, line: CallOrder) -> None:
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

    def check(self) -> None:
        """Assert the invariants; for tests and the simulator."""
        for actor in self.actors.values():
            seen: set[bytes] = set(actor.in_flight)
            for call in actor.backlog:
                assert call.id not in seen
                seen.add(call.id)
            for line in actor.lines.values():
                assert line.early or not line.closed
                for sequence, early in line.early.items():
                    if actor.options.in_order:
                        assert sequence >= line.next
                    if early is not None:  # it may wait for an older attempt to end
                        assert early.id not in seen or early.missing
                        seen.add(early.id)
            if actor.in_flight:  # the answers of a dead proxy's host are still to come
                is_dead_proxy = actor.is_proxy and actor.state is ActorState.DEAD
                assert actor.state is ActorState.ALIVE or is_dead_proxy
                assert len(actor.in_flight) <= self._window
