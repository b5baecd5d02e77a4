"""Actor calls reach their process in each caller's order, gapless, whatever comes late or fails."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from skate.node.actor_router import ActorRouter
from skate.rows import Actor, Task, Template
from skate.scheduler.local_scheduler import LocalScheduler
from skate.spec import ActorOptions, CallTemplate
from skate.states import ActorState

JOB, OTHER_JOB = b"job1", b"job2"


class Host:
    """A router, one actor, and a log of what its process was sent."""

    def __init__(self, *, in_order: bool = True, window_calls: int = 100) -> None:
        self.sent: list[str] = []
        self.scheduler = LocalScheduler({}, lambda w, t: None, lambda p: None, lambda t: None)
        self.router = ActorRouter(self._deliver, window_calls)
        self.calls: dict[str, Task] = {}
        self.next: dict[str, int] = {}
        self.actor = Actor(self._task("new", "actor"), ActorOptions(in_order=in_order), "creator")
        self.router.add(self.actor)

    def _deliver(self, actor: Actor, call: Task) -> None:
        assert actor is self.actor and call.missing == 0
        self.sent.append(call.id.decode())

    def _task(self, name: str, kind: str, job_id: bytes = JOB) -> Task:
        spec = CallTemplate(kind, b"", kind)
        template = Template(1, job_id, spec, self.scheduler.class_of(job_id, spec))
        return Task(name.encode(), template, b"", None, None, None, 0, 0.0)

    def come_alive(self) -> None:
        """Its constructor has run."""
        if self.actor.state is ActorState.DEPENDENCIES_UNREADY:
            self.actor.move(ActorState.PENDING_CREATION)
        self.actor.move(ActorState.ALIVE)
        self.router.now_alive(self.actor)

    def call(self, caller: str, *, missing: int = 0, job_id: bytes = JOB) -> str:
        """The caller's next call arrives: "a0", "a1", ..."""
        number = self.next.get(caller, 0)
        self.next[caller] = number + 1
        name = f"{caller}{number}"
        task = self.calls[name] = self._task(name, "method", job_id)
        task.owner, task.sequence, task.missing = caller, number, missing
        self.router.arrived(self.actor, caller, task)
        return name

    def arguments_of(self, name: str) -> None:
        """They are there now."""
        self.calls[name].missing = 0
        self.router.arguments_ready(self.actor, self.calls[name].owner, self.calls[name])

    def fail(self, name: str) -> None:
        """An argument of the call failed."""
        call = self.calls[name]
        self.router.failed_before_delivery(self.actor, call.owner, call.sequence)

    def answer(self, name: str) -> None:
        """The process is done with it."""
        assert self.router.answered(self.actor, name.encode()) is self.calls[name]

    def check(self) -> list[str]:
        """Invariants; what has been sent so far."""
        self.router.check()
        return self.sent


def test_nothing_goes_before_the_actor_is_alive() -> None:
    host = Host()
    for caller in "aba":
        host.call(caller)
    assert host.check() == []
    host.come_alive()
    assert host.check() == ["a0", "b0", "a1"]


def test_late_arguments_hold_back_their_own_caller_only() -> None:
    host = Host()
    host.come_alive()
    host.call("a", missing=1)
    host.call("a")
    host.call("b")
    assert host.check() == ["b0"]
    host.arguments_of("a0")
    assert host.check() == ["b0", "a0", "a1"]


def test_a_failed_call_closes_its_number() -> None:
    host = Host()
    host.come_alive()
    for missing in (1, 1, 0):
        host.call("a", missing=missing)
    host.fail("a1")
    assert host.check() == []
    host.fail("a0")
    assert host.check() == ["a2"]
    host.call("a")
    assert host.check() == ["a2", "a3"]


def test_an_actor_without_order_gets_calls_as_their_arguments_come() -> None:
    host = Host(in_order=False)
    host.come_alive()
    for missing in (1, 0, 1):
        host.call("a", missing=missing)
    host.fail("a0")
    host.arguments_of("a2")
    assert host.check() == ["a1", "a2"]
    assert not host.actor.lines["a"].early


def test_no_more_than_the_window_is_in_flight() -> None:
    host = Host(window_calls=2)
    host.come_alive()
    for _ in range(5):
        host.call("a")
    assert host.check() == ["a0", "a1"]
    host.answer("a1")
    assert host.check() == ["a0", "a1", "a2"]
    host.router.retry(host.actor, host.calls["a0"])  # goes again before what waits
    assert host.check() == ["a0", "a1", "a2", "a0"]


def test_after_a_restart_what_was_in_flight_goes_first() -> None:
    host = Host(window_calls=2)
    host.come_alive()
    for _ in range(4):
        host.call("a")
    in_flight, waiting = host.router.take_all(host.actor)
    host.actor.move(ActorState.RESTARTING)
    host.call("a")
    host.router.again(host.actor, in_flight + waiting)
    host.sent.clear()
    host.come_alive()
    for name in ("a0", "a1", "a2"):
        host.answer(name)
    assert host.check() == ["a0", "a1", "a2", "a3", "a4"]


def test_a_process_that_is_lost_is_sent_nothing() -> None:
    host = Host()
    host.come_alive()
    host.call("a")
    host.actor.window = 0  # as the node core does at the first sign
    host.call("a")
    assert host.check() == ["a0"]


@pytest.mark.parametrize("in_order", [True, False])
def test_the_calls_of_a_caller_that_is_gone_still_go_and_then_it_is_forgotten(
    in_order: bool,
) -> None:
    host = Host(in_order=in_order)
    host.come_alive()
    host.call("a", missing=1)
    host.call("a", missing=1)
    host.call("b")
    for caller in "ab":
        host.router.caller_gone(caller)
    host.fail("a0")
    assert list(host.actor.lines) == ["a"]
    host.arguments_of("a1")
    assert host.check() == ["b0", "a1"]
    assert not host.actor.lines


def test_a_job_that_is_over_takes_its_undelivered_calls_along() -> None:
    host = Host(window_calls=1)
    host.come_alive()
    host.call("a")
    kept = host.call("a")
    host.call("b", job_id=OTHER_JOB)
    host.call("b", job_id=OTHER_JOB, missing=1)
    host.router.caller_gone("b")
    taken = host.router.take_job(host.actor, OTHER_JOB)
    assert [call.id for call in taken] == [b"b0", b"b1"]
    host.answer("a0")
    assert host.check() == ["a0", kept]


@pytest.mark.parametrize("in_order", [True, False])
def test_a_caller_that_outlives_its_job_calls_on(in_order: bool) -> None:
    """It is a detached actor; what it had called before its driver ended is taken."""
    host = Host(in_order=in_order)
    host.come_alive()
    host.call("x", job_id=OTHER_JOB)
    waits = [host.call("x", job_id=OTHER_JOB, missing=missing) for missing in (1, in_order)]
    taken = host.router.take_job(host.actor, OTHER_JOB)
    assert [call.id.decode() for call in taken] == waits[: len(taken)]
    again = host.call("x", job_id=OTHER_JOB)
    assert host.check()[-1] == again
    host.router.caller_gone("x")
    host.check()
    assert not host.actor.lines


def test_a_dead_actor_is_left_with_no_call() -> None:
    host = Host(window_calls=1)
    host.come_alive()
    for missing in (0, 0, 1, 0):
        host.call("a", missing=missing)
    host.router.caller_gone("a")
    in_flight, waiting = host.router.take_all(host.actor)
    early = host.router.take_early(host.actor)
    assert [call.id for call in in_flight + waiting + early] == [b"a0", b"a1", b"a2", b"a3"]
    host.check()
    assert host.actor.is_drained() and not host.actor.lines


class AnyOrder(RuleBasedStateMachine):
    """Callers, late arguments, failures, restarts: each caller's calls arrive in order, once."""

    def __init__(self) -> None:
        super().__init__()
        self.host = Host(window_calls=3)
        self.late: list[str] = []
        self.failed: set[str] = set()
        self.answered: set[str] = set()
        self.in_flight: deque[str] = deque()
        self.seen = 0
        self.life: list[str] = []  # what this life of the actor has been sent

    def _look(self) -> None:
        new = self.host.check()[self.seen :]
        self.seen += len(new)
        self.life += new
        self.in_flight += new
        assert not self.failed & set(new) and not self.answered & set(new)

    @rule(caller=st.sampled_from("abc"), late=st.booleans())
    def call(self, caller: str, late: bool) -> None:
        name = self.host.call(caller, missing=int(late))
        if late:
            self.late.append(name)
        self._look()

    @precondition(lambda self: self.late)
    @rule(data=st.data(), fails=st.booleans())
    def argument_comes(self, data: st.DataObject, fails: bool) -> None:
        name = self.late.pop(data.draw(st.integers(0, len(self.late) - 1)))
        if fails:
            self.failed.add(name)
            self.host.fail(name)
        else:
            self.host.arguments_of(name)
        self._look()

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.in_flight)))
        self.in_flight.remove(name)
        self.answered.add(name)
        self.host.answer(name)
        self._look()

    @precondition(lambda self: self.host.actor.state is not ActorState.ALIVE)
    @rule()
    def come_alive(self) -> None:
        self.life = []
        self.host.come_alive()
        self._look()

    @precondition(lambda self: self.host.actor.state is ActorState.ALIVE)
    @rule()
    def restart(self) -> None:
        router, actor = self.host.router, self.host.actor
        in_flight, waiting = router.take_all(actor)
        actor.move(ActorState.RESTARTING)
        router.again(actor, in_flight + waiting)
        self.in_flight.clear()
        self._look()

    @invariant()
    def each_caller_is_served_in_order(self) -> None:
        for caller in "abc":
            numbers = [int(name[1:]) for name in self.life if name[0] == caller]
            assert numbers == sorted(set(numbers))

    def teardown(self) -> None:
        """All that can be delivered is, and nothing else."""
        while self.late:
            self.host.arguments_of(self.late.pop())
        if self.host.actor.state is not ActorState.ALIVE:
            self.come_alive()
        self._look()
        while self.in_flight:
            name = self.in_flight.popleft()
            self.answered.add(name)
            self.host.answer(name)
            self._look()
        assert self.answered == set(self.host.calls) - self.failed
        self.each_caller_is_served_in_order()
        assert self.host.actor.is_drained()


AnyOrder.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestAnyOrder = AnyOrder.TestCase
