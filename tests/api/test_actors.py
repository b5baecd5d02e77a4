"""Actors as a program sees them: state, order, handles, methods and their options, resources."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import skate
from skate import exceptions
from skate.api.actor_handle import ActorClassInheritanceException
from tests.api.waiting import opened, until


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with skate.init(num_cpus=2, resources={"oar": 4}):
        yield


@skate.remote
class Counter:
    def __init__(self, value: int = 0) -> None:
        self.value = value

    def add(self, amount: int = 1) -> int:
        self.value += amount
        return self.value

    def get(self) -> int:
        return self.value

    def pid(self) -> int:
        return os.getpid()


@skate.remote
class Recorder:
    """Remembers what it was called with, in the order of the calls."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def record(self, *values: Any) -> int:
        self.seen.extend(values)
        return len(self.seen)

    def all(self) -> list[Any]:
        return self.seen


@skate.remote
def wait_for(path: str) -> str:
    """A slow task, which ends when the test says so."""
    return opened(path)


@skate.remote
def fail(text: str) -> None:
    raise ValueError(text)


# ---------------------------------------------------------------------------- state and order


def test_each_actor_has_a_state_and_a_process_of_its_own() -> None:
    first, second = Counter.remote(), Counter.remote(100)
    assert skate.get([first.add.remote() for _ in range(10)]) == list(range(1, 11))
    assert skate.get(second.add.remote(amount=5)) == 105
    pids = skate.get([first.pid.remote(), second.pid.remote()])
    assert len({*pids, os.getpid()}) == 3


def test_ten_thousand_calls_of_one_caller_run_in_order() -> None:
    recorder = Recorder.remote()
    answers = [recorder.record.remote(number) for number in range(10_000)]
    assert skate.get(answers) == list(range(1, 10_001))
    assert skate.get(recorder.all.remote()) == list(range(10_000))


def test_a_call_whose_argument_is_pending_holds_back_the_later_ones(tmp_path: Path) -> None:
    recorder = Recorder.remote()
    gates = [tmp_path / str(number) for number in range(2)]
    slow = [wait_for.remote(str(gate)) for gate in gates]
    for number in range(20):
        recorder.record.remote(number)
        if number == 5:
            recorder.record.remote(slow[0])
        if number == 15:
            last = recorder.record.remote(slow[1])
    # Open the second first: the order must not be that of the arguments' coming.
    gates[1].write_text("second")
    assert skate.get(slow[1]) == "second"
    assert skate.wait([last], timeout=0) == ([], [last])
    gates[0].write_text("first")
    expected = [*range(6), "first", *range(6, 16), "second", *range(16, 20)]
    assert skate.get(recorder.all.remote()) == expected


def test_a_call_whose_argument_failed_fails_and_lets_the_later_ones_pass() -> None:
    recorder = Recorder.remote()
    recorder.record.remote(1)
    bad = recorder.record.remote(fail.remote("no such value"))
    recorder.record.remote(2)
    with pytest.raises(ValueError, match="no such value"):
        skate.get(bad)
    assert skate.get(recorder.all.remote()) == [1, 2]


def test_a_pending_call_of_one_caller_does_not_hold_back_another(tmp_path: Path) -> None:
    recorder = Recorder.remote()
    gate = tmp_path / "gate"
    recorder.record.remote(wait_for.remote(str(gate)))

    @skate.remote
    def call(actor: Any) -> int:
        return int(skate.get(actor.record.remote("task")))

    assert skate.get(call.remote(recorder)) == 1
    gate.write_text("driver")
    assert skate.get(recorder.all.remote()) == ["task", "driver"]


def test_calls_of_several_callers_keep_the_order_of_each() -> None:
    recorder = Recorder.remote()

    @skate.remote(num_cpus=0.5)
    def call(actor: Any, caller: int) -> None:
        skate.get([actor.record.remote((caller, number)) for number in range(300)])

    tasks = [call.remote(recorder, caller) for caller in range(1, 5)]
    for number in range(300):
        recorder.record.remote((0, number))
    skate.get(tasks)
    seen = skate.get(recorder.all.remote())
    for caller in range(5):
        assert [number for who, number in seen if who == caller] == list(range(300))


def test_threads_of_the_driver_may_call_the_same_actor() -> None:
    counter = Counter.remote()
    answers: list[int] = []

    def call() -> None:
        answers.extend(skate.get([counter.add.remote() for _ in range(200)]))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == list(range(1, 801))


# -------------------------------------------------------------------------------- arguments


def test_refs_as_arguments_become_values_and_refs_in_containers_stay_refs() -> None:
    @skate.remote
    class Kinds:
        def __init__(self, value: Any, nested: list[Any], keyword: Any = None) -> None:
            self.kinds = [type(value).__name__, type(nested[0]).__name__, keyword]

        def of(self, value: Any, nested: list[Any], keyword: Any = None) -> list[Any]:
            assert skate.get(nested[0]) == 2
            return [type(value).__name__, type(nested[0]).__name__, keyword]

        def first(self) -> list[Any]:
            return self.kinds

    one, two, three = skate.put(1), skate.put(2), skate.put(3)
    kinds = Kinds.remote(one, [two], keyword=three)
    assert skate.get(kinds.of.remote(one, [two], keyword=three)) == ["int", "ObjectRef", 3]
    assert skate.get(kinds.first.remote()) == ["int", "ObjectRef", 3]


def test_large_arrays_travel_both_ways_without_a_copy() -> None:
    np = pytest.importorskip("numpy")

    @skate.remote
    class Holder:
        def __init__(self, array: Any) -> None:
            self.array = array

        def look(self, array: Any) -> tuple[bool, bool, float]:
            return array.flags.writeable, self.array.flags.writeable, float(array.sum())

        def make(self, count: int) -> Any:
            return np.full(count, 2.0)

        def give(self) -> Any:
            return self.array

    array = np.ones(1_000_000)
    holder = Holder.remote(array)
    # Read-only, as only a mapped array is: a copy could be written to.
    assert skate.get(holder.look.remote(array)) == (False, False, 1e6)
    made = skate.get(holder.make.remote(500_000))
    assert made.sum() == 1e6 and not made.flags.writeable
    given = skate.get(holder.give.remote())
    assert (given == array).all() and not given.flags.writeable


def test_an_unpicklable_argument_is_named_at_once_and_takes_no_number() -> None:
    recorder = Recorder.remote()
    recorder.record.remote("before")
    with pytest.raises(TypeError, match="lock"):
        recorder.record.remote([threading.Lock()])
    with pytest.raises(TypeError, match="lock"):
        Counter.remote(threading.Lock())
    recorder.record.remote("after")
    assert skate.get(recorder.all.remote(), timeout=10) == ["before", "after"]


def test_an_unpicklable_result_is_an_error_and_the_actor_lives_on() -> None:
    @skate.remote
    class Locked:
        def lock(self) -> Any:
            return threading.Lock()

        def fine(self) -> str:
            return "fine"

    locked = Locked.remote()
    with pytest.raises(TypeError, match="lock"):
        skate.get(locked.lock.remote())
    assert skate.get(locked.fine.remote()) == "fine"


def test_an_exception_of_a_method_is_of_its_class_and_leaves_the_state_alone() -> None:
    @skate.remote
    class Touchy:
        def __init__(self) -> None:
            self.calls = 0

        def touch(self, key: str) -> int:
            self.calls += 1
            return {"a": self.calls}[key]

    touchy = Touchy.remote()
    with pytest.raises(KeyError) as caught:
        skate.get(touchy.touch.remote("b"))
    assert isinstance(caught.value, exceptions.TaskError)
    assert "Touchy.touch" in str(caught.value) and "KeyError: 'b'" in str(caught.value)
    assert caught.value.actor_id == touchy._actor_id.hex()
    assert skate.get(touchy.touch.remote("a")) == 2


# ----------------------------------------------------------------------------------- handles


def test_a_handle_may_be_passed_to_tasks_and_actors_also_in_containers_and_results() -> None:
    @skate.remote
    def add(handle: Any) -> int:
        return int(skate.get(handle.add.remote()))

    @skate.remote
    def add_nested(handles: dict[str, list[Any]]) -> int:
        return int(skate.get(handles["all"][0].add.remote()))

    @skate.remote
    class Friend:
        def __init__(self, handle: Any) -> None:
            self.handle = handle

        def add(self) -> int:
            return int(skate.get(self.handle.add.remote()))

        def give(self) -> list[Any]:
            return [self.handle]

    counter = Counter.remote()
    assert skate.get(add.remote(counter)) == 1
    assert skate.get(add_nested.remote({"all": [counter]})) == 2
    friend = Friend.remote(counter)
    assert skate.get(friend.add.remote()) == 3
    (again,) = skate.get(friend.give.remote())
    assert again == counter and hash(again) == hash(counter)
    assert skate.get(again.add.remote()) == 4
    assert skate.get(skate.get(skate.put({"x": counter}))["x"].add.remote()) == 5


def test_a_handle_that_was_passed_on_checks_calls_too() -> None:
    @skate.remote
    def call_wrongly(handle: Any) -> list[str]:
        said = []
        for call in (lambda: handle.subtract, lambda: handle.add.remote(1, 2, 3)):
            try:
                call()
            except (AttributeError, TypeError) as error:
                said.append(type(error).__name__)
        return said

    counter = Counter.remote()
    assert skate.get(call_wrongly.remote(counter)) == ["AttributeError", "TypeError"]


def test_an_actor_made_inside_a_task_answers_the_driver() -> None:
    @skate.remote
    def make() -> Any:
        counter = Counter.remote(41)
        counter.add.remote()
        return counter

    counter = skate.get(make.remote())
    assert skate.get(counter.get.remote()) == 42


def test_a_tree_of_actors_that_make_actors() -> None:
    @skate.remote
    class Node:
        def __init__(self, depth: int) -> None:
            self.children = [Node.remote(depth - 1) for _ in range(2)] if depth else []

        def count(self) -> int:
            return 1 + sum(skate.get([child.count.remote() for child in self.children]))

    assert skate.get(Node.remote(3).count.remote()) == 15


def test_an_actor_may_call_itself_through_its_own_handle() -> None:
    @skate.remote
    class Relay:
        def __init__(self) -> None:
            self.hops = 0

        def hop(self, left: int) -> Any:
            self.hops += 1
            me = skate.get_runtime_context().current_actor
            return me.hop.remote(left - 1) if left else self.hops

    answer: Any = Relay.remote().hop.remote(3)
    relay = Relay.remote()
    answer = relay.hop.remote(3)
    while isinstance(answer, skate.ObjectRef):
        answer = skate.get(answer)
    assert answer == 4


def test_what_a_handle_shows_of_itself() -> None:
    counter = Counter.remote()
    assert repr(counter) == f"Actor(Counter, {counter._actor_id.hex()})"
    assert {"add", "get", "pid"} <= set(dir(counter))
    assert counter != Counter.remote()


# ----------------------------------------------------------------------------------- methods


def test_methods_with_several_returns() -> None:
    @skate.remote
    class Giver:
        @skate.method(num_returns=2)
        def two(self) -> tuple[int, int]:
            return 1, 2

        @skate.method(num_returns=0)
        def none(self) -> None:
            return None

        def some(self, count: int) -> list[int]:
            return list(range(count))

    giver = Giver.remote()
    assert skate.get(giver.two.remote()) == [1, 2]
    assert giver.none.remote() is None
    assert skate.get(giver.some.options(num_returns=3).remote(3)) == [0, 1, 2]
    for ref in giver.some.options(num_returns=3).remote(2):
        with pytest.raises(ValueError, match="3"):
            skate.get(ref)
    assert skate.get(giver.some.remote(1)) == [0]


def test_options_of_a_call_win_over_those_of_the_method() -> None:
    @skate.remote
    class Giver:
        @skate.method(num_returns=2)
        def give(self, count: int) -> list[int]:
            return list(range(count))

    giver = Giver.remote()
    assert skate.get(giver.give.options(num_returns=3).remote(3)) == [0, 1, 2]
    assert skate.get(giver.give.options(num_returns=1).remote(3)) == [0, 1, 2]
    assert skate.get(giver.give.options(name="other").remote(2)) == [0, 1]


def test_retry_exceptions_of_a_method() -> None:
    @skate.remote
    class Flaky:
        def __init__(self) -> None:
            self.calls = 0

        @skate.method(max_task_retries=3, retry_exceptions=[OSError])
        def work(self, fail_times: int) -> int:
            self.calls += 1
            if self.calls <= fail_times:
                raise OSError("not now")
            return self.calls

        @skate.method(max_task_retries=3, retry_exceptions=[OSError])
        def other(self) -> int:
            self.calls += 1
            raise KeyError(self.calls)

    assert skate.get(Flaky.remote().work.remote(3)) == 4
    with pytest.raises(OSError, match="not now"):
        skate.get(Flaky.remote().work.remote(4))
    with pytest.raises(KeyError, match="1"):
        skate.get(Flaky.remote().other.remote())


def test_unknown_methods_and_attributes() -> None:
    counter = Counter.remote()
    with pytest.raises(AttributeError, match="subtract"):
        counter.subtract.remote()
    with pytest.raises(AttributeError, match="value"):
        _ = counter.value


def test_calls_that_do_not_fit_fail_at_once() -> None:
    counter = Counter.remote()
    with pytest.raises(TypeError, match="too many positional"):
        counter.add.remote(1, 2)
    with pytest.raises(TypeError, match="unexpected keyword"):
        counter.add.remote(number=2)
    with pytest.raises(TypeError, match="too many positional"):
        Counter.remote(1, 2)
    assert skate.get(counter.add.remote()) == 1


def test_direct_calls_are_refused() -> None:
    counter = Counter.remote()
    with pytest.raises(TypeError, match=r"Counter\.remote\(\)"):
        Counter()
    with pytest.raises(TypeError, match=r"add\.remote\(\)"):
        counter.add()


def test_static_and_class_methods_and_call() -> None:
    @skate.remote
    class Kit:
        size = 3

        @staticmethod
        def double(number: int) -> int:
            return 2 * number

        @classmethod
        def sized(cls, number: int) -> int:
            return cls.size * number

        def __call__(self, number: int) -> int:
            return number + 1

        def __len__(self) -> int:
            return 7

        def _private(self) -> str:
            return "private"

    kit = Kit.remote()
    calls = [kit.double.remote(4), kit.sized.remote(4), kit.__call__.remote(4)]
    assert skate.get(calls) == [8, 12, 5]
    assert skate.get([kit.__len__.remote(), kit._private.remote()]) == [7, "private"]
    with pytest.raises(TypeError):
        kit.double.remote()
    with pytest.raises(TypeError):
        kit.sized.remote(1, 2)


def test_inheritance_is_from_plain_classes() -> None:
    class Base:
        def __init__(self) -> None:
            self.names = ["base"]

        def who(self) -> list[str]:
            return self.names

        def only_base(self) -> str:
            return "base"

    class Derived(Base):
        def __init__(self) -> None:
            super().__init__()
            self.names.append("derived")

        def who(self) -> list[str]:
            return [*super().who(), "!"]

    actor = skate.remote(Derived).remote()
    assert skate.get(actor.who.remote()) == ["base", "derived", "!"]
    assert skate.get(actor.only_base.remote()) == "base"
    decorated = skate.remote(Base)
    with pytest.raises(ActorClassInheritanceException):

        class Wrong(decorated):  # type: ignore[misc, valid-type]
            pass

    assert issubclass(ActorClassInheritanceException, TypeError)


def test_injected_methods() -> None:
    counter = Counter.remote(7)
    assert skate.get(counter.__ray_ready__.remote()) is True
    assert skate.get(counter.__ray_call__.remote(lambda self, x: self.value + x, 3)) == 10
    assert skate.get(counter.__ray_call__.remote(lambda self: type(self).__name__)) == "Counter"


# ----------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"num_cpu": 1}, ValueError),
        ({"num_cpus": -1}, ValueError),
        ({"num_cpus": "2"}, TypeError),
        ({"max_restarts": -2}, ValueError),
        ({"max_restarts": 1.5}, TypeError),
        ({"max_concurrency": 0}, ValueError),
        ({"lifetime": "forever"}, ValueError),
        ({"namespace": ""}, ValueError),
        ({"name": ""}, ValueError),
        ({"name": 5}, TypeError),
        ({"get_if_exists": True}, ValueError),
        ({"resources": {"CPU": 1}}, ValueError),
        ({"max_retries": 1}, ValueError),
        ({"max_calls": 1}, ValueError),
        ({"num_returns": 2}, ValueError),
        ({"max_concurrency": 2, "allow_out_of_order_execution": False}, ValueError),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], error: type[Exception]) -> None:
    class Plain:
        pass

    named = next(reversed(options))
    with pytest.raises(error, match=named):
        skate.remote(**options)(Plain)
    with pytest.raises(error, match=named):
        skate.remote(Plain).options(**options)


def test_wrong_options_of_methods_are_named() -> None:
    counter = Counter.remote()
    with pytest.raises(ValueError, match="num_cpus"):
        counter.add.options(num_cpus=1)
    with pytest.raises(ValueError, match="max_restarts"):
        skate.method(max_restarts=1)
    with pytest.raises(TypeError):
        skate.method(2)
    with pytest.raises(ValueError, match="num_returns"):
        counter.add.options(num_returns=-1)


def test_options_replace_only_what_they_name() -> None:
    base = Counter.options(resources={"oar": 1}, max_restarts=1)
    actor = base.options(max_restarts=0).remote()
    skate.get(actor.get.remote())
    until(lambda: skate.available_resources()["oar"] == 3)
    del actor
    until(lambda: skate.available_resources()["oar"] == 4)


def test_max_pending_calls_bounds_what_a_handle_may_have_under_way(tmp_path: Path) -> None:
    @skate.remote
    class Slow:
        def wait(self, path: str) -> None:
            until(lambda: os.path.exists(path), 30)

    @skate.remote
    def call(handle: Any, path: str) -> str:
        try:
            for _ in range(4):
                handle.wait.remote(path)
        except exceptions.PendingCallsLimitExceeded as error:
            return str(error)
        return ""

    gate = tmp_path / "gate"
    slow = Slow.options(max_pending_calls=3).remote()
    calls = [slow.wait.remote(str(gate)), slow.wait.remote(str(gate))]
    slow.wait.remote(str(gate))  # its ref is dropped: it is pending none the less
    with pytest.raises(exceptions.PendingCallsLimitExceeded):
        slow.wait.remote(str(gate))
    assert "max_pending_calls is 3" in skate.get(call.remote(slow, str(gate)))
    gate.touch()
    skate.get(calls)
    skate.get(slow.__ray_ready__.options(name="last").remote())
    skate.get([slow.wait.remote(str(gate)) for _ in range(3)])


# --------------------------------------------------------------------------------- resources


def cpus_free() -> float:
    return skate.available_resources().get("CPU", 0)


def test_forty_default_actors_live_on_two_cpus_and_leave_them_free() -> None:
    counters = [Counter.remote(number) for number in range(40)]
    assert skate.get([counter.get.remote() for counter in counters]) == list(range(40))
    until(lambda: cpus_free() == 2)

    @skate.remote
    def task() -> str:
        return "ran"

    assert skate.get(task.remote()) == "ran"


def test_an_actor_with_num_cpus_holds_them_while_it_lives() -> None:
    until(lambda: cpus_free() == 2)
    counter = Counter.options(num_cpus=1).remote()
    assert skate.get(counter.get.remote()) == 0
    assert cpus_free() == 1
    second, third = (Counter.options(num_cpus=1).remote() for _ in range(2))
    skate.get(second.get.remote())
    assert "CPU" not in skate.available_resources()
    waiting = third.get.remote()
    assert skate.wait([waiting], timeout=0)[0] == []
    del second
    assert skate.get(waiting, timeout=10) == 0
    del counter, third
    until(lambda: cpus_free() == 2)


def test_an_actor_that_waits_in_get_lends_its_cpu() -> None:
    until(lambda: cpus_free() == 2)

    @skate.remote
    def task() -> str:
        return "ran"

    @skate.remote(num_cpus=2)
    class Greedy:
        def __init__(self) -> None:
            self.first = skate.get(task.remote())  # in the constructor too

        def work(self) -> list[str]:
            ready, _ = skate.wait([task.remote()])
            return [self.first, *skate.get([task.remote(), *ready])]

    greedy = Greedy.remote()
    assert skate.get(greedy.work.remote(), timeout=20) == ["ran", "ran", "ran"]
    assert cpus_free() == 0
    del greedy
    until(lambda: cpus_free() == 2)


def test_custom_resources_and_fractions_are_held_and_given_back() -> None:
    until(lambda: skate.available_resources().get("oar") == 4)
    rowers = [Counter.options(resources={"oar": 0.5}, num_cpus=0).remote() for _ in range(8)]
    skate.get([rower.get.remote() for rower in rowers])
    assert "oar" not in skate.available_resources()
    assert cpus_free() == 2
    del rowers
    until(lambda: skate.available_resources().get("oar") == 4)
