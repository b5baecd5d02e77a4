"""Named actors: get_actor, get_if_exists, namespaces, names that are taken and names that are free
again, weak handles."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import skate
from skate import exceptions
from skate.util import list_named_actors
from tests.api.waiting import until, until_gone


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with skate.init(num_cpus=2, namespace="tests"):
        yield


@skate.remote
class Counter:
    def __init__(self, value: int = 0) -> None:
        self.value = value

    def add(self, amount: int = 1) -> int:
        self.value += amount
        return self.value

    def pid(self) -> int:
        return os.getpid()

    def exit(self) -> None:
        skate.actor.exit_actor()


def test_get_actor_finds_the_actor_from_driver_tasks_and_actors() -> None:
    counter = Counter.options(name="found").remote(1)

    @skate.remote
    def add() -> int:
        return int(skate.get(skate.get_actor("found").add.remote()))

    @skate.remote
    class Caller:
        def add(self) -> int:
            return int(skate.get(skate.get_actor("found").add.remote()))

    assert skate.get_actor("found") == counter
    assert skate.get(skate.get_actor("found").add.remote()) == 2
    assert skate.get(add.remote()) == 3
    assert skate.get(Caller.remote().add.remote()) == 4


def test_a_handle_from_get_actor_checks_calls() -> None:
    counter = Counter.options(name="checked").remote()
    found = skate.get_actor("checked")
    with pytest.raises(TypeError, match="too many positional"):
        found.add.remote(1, 2)
    with pytest.raises(AttributeError, match="subtract"):
        found.subtract.remote()
    assert skate.get(counter.add.remote()) == 1


def test_a_name_works_before_the_actor_has_started() -> None:
    Counter.options(name="early", num_cpus=2).remote()
    holder = Counter.options(num_cpus=1).remote()
    skate.get(holder.add.remote())
    waiting = Counter.options(name="waiting", num_cpus=2).remote(5)
    answer = skate.get_actor("waiting").add.remote()
    skate.kill(holder)
    assert skate.get(answer, timeout=10) == 6
    del waiting


@pytest.mark.parametrize("name", ["", None, 5])
def test_get_actor_wants_a_name(name: Any) -> None:
    with pytest.raises(ValueError):
        skate.get_actor(name)


def test_get_actor_of_a_name_that_nobody_has() -> None:
    with pytest.raises(ValueError, match="nobody"):
        skate.get_actor("nobody")
    with pytest.raises(ValueError, match="elsewhere"):
        skate.get_actor("nobody", namespace="elsewhere")


def test_a_name_is_taken_once() -> None:
    counter = Counter.options(name="once").remote()
    with pytest.raises(ValueError, match="once") as caught:
        Counter.options(name="once").remote()
    assert isinstance(caught.value, exceptions.ActorAlreadyExistsError)
    assert skate.get(counter.add.remote()) == 1
    assert skate.get(skate.get_actor("once").add.remote()) == 2


def test_names_are_seen_in_their_namespace_only() -> None:
    ours = Counter.options(name="both").remote(1)
    theirs = Counter.options(name="both", namespace="theirs").remote(2)
    assert skate.get_runtime_context().namespace == "tests"
    assert skate.get_actor("both") == skate.get_actor("both", "tests") == ours
    assert skate.get_actor("both", "theirs") == theirs

    @skate.remote
    def look() -> bool:
        return bool(skate.get_actor("both") == skate.get_actor("both", namespace="tests"))

    assert skate.get(look.remote())
    del theirs
    until(lambda: is_free("both", "theirs"))
    assert skate.get_actor("both") == ours


def is_free(name: str, namespace: str | None = None) -> bool:
    try:
        skate.get_actor(name, namespace)
    except ValueError:
        return True
    return False


def test_get_if_exists_gets_or_creates() -> None:
    shared = Counter.options(name="shared", get_if_exists=True)
    first = shared.remote(10)
    second = shared.remote(20)  # its arguments are passed over: it exists
    assert first == second
    assert skate.get([first.add.remote(), second.add.remote()]) == [11, 12]


def test_many_that_create_at_once_get_one_actor() -> None:
    @skate.remote(num_cpus=0.25)
    def join(name: str) -> tuple[str, int]:
        handle = Counter.options(name=name, get_if_exists=True).remote()
        # The value counts: a second actor behind the same name would start at 1 again.
        return handle._actor_id.hex(), skate.get(handle.add.remote())

    for number in range(5):
        name = f"race {number}"
        # Keep it alive: those that come later must find it.
        keeper = Counter.options(name=name, get_if_exists=True).remote()
        joined = skate.get([join.remote(name) for _ in range(8)], timeout=20)
        assert {actor for actor, _ in joined} == {keeper._actor_id.hex()}
        assert sorted(count for _, count in joined) == list(range(1, 9))


def test_tasks_race_to_create_without_a_keeper() -> None:
    @skate.remote
    class Member:
        """Lives until told otherwise, so that whoever creates the actor keeps it."""

        def join(self, name: str) -> str:
            self.handle = Counter.options(name=name, get_if_exists=True).remote()
            skate.get(self.handle.add.remote())
            return str(self.handle._actor_id.hex())

    members = [Member.remote() for _ in range(8)]
    for number in range(25):
        # Whoever loses finds the actor before its creation has been sent: the call must wait.
        name = f"open race {number}"
        joined = skate.get([member.join.remote(name) for member in members], timeout=20)
        assert len(set(joined)) == 1


def test_threads_race_for_a_name_and_one_wins() -> None:
    outcomes: list[Any] = []
    start = threading.Barrier(6)

    def create() -> None:
        start.wait()
        try:
            outcomes.append(Counter.options(name="contested").remote())
        except exceptions.ActorAlreadyExistsError:
            outcomes.append(None)

    threads = [threading.Thread(target=create) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [outcome for outcome in outcomes if outcome is not None]
    assert skate.get(winner.add.remote()) == 1


def test_a_name_is_free_at_once_after_kill() -> None:
    for number in range(10):
        counter = Counter.options(name="killed").remote(number)
        assert skate.get(skate.get_actor("killed").add.remote()) == number + 1
        skate.kill(counter)
        assert is_free("killed")


def test_a_name_is_free_after_every_other_end() -> None:
    @skate.remote
    class Broken:
        def __init__(self) -> None:
            raise RuntimeError("no")

        def work(self) -> None: ...

    broken = Broken.options(name="ended").remote()
    with pytest.raises(exceptions.ActorDiedError):
        skate.get(broken.work.remote())
    assert is_free("ended")

    leaving = Counter.options(name="ended").remote()
    with pytest.raises(exceptions.ActorDiedError):
        skate.get(leaving.exit.remote())
    until(lambda: is_free("ended"))

    crashing = Counter.options(name="ended").remote()
    os.kill(skate.get(crashing.pid.remote()), 9)
    until(lambda: is_free("ended"))

    dropped = Counter.options(name="ended").remote()
    pid = skate.get(dropped.pid.remote())
    del dropped
    until_gone(pid)
    until(lambda: is_free("ended"))
    assert skate.get(Counter.options(name="ended").remote().add.remote()) == 1


def test_a_creation_that_fails_leaves_the_name_free() -> None:
    with pytest.raises(TypeError, match="lock"):
        Counter.options(name="unborn").remote(threading.Lock())
    assert is_free("unborn")
    with pytest.raises(TypeError):
        Counter.options(name="unborn").remote(1, 2, 3)
    assert skate.get(Counter.options(name="unborn").remote().add.remote()) == 1


def test_a_restarted_actor_keeps_its_name() -> None:
    counter = Counter.options(name="steady", max_restarts=1, max_task_retries=1).remote()
    pid = skate.get(counter.pid.remote())
    os.kill(pid, 9)
    until_gone(pid)
    assert skate.get_actor("steady") == counter
    assert skate.get(skate.get_actor("steady").add.remote(), timeout=10) == 1


def test_a_handle_from_get_actor_is_weak() -> None:
    counter = Counter.options(name="weak").remote()
    found = skate.get_actor("weak")
    pid = skate.get(found.pid.remote())
    del counter
    until_gone(pid)
    with pytest.raises(exceptions.ActorDiedError):
        skate.get(found.add.remote(), timeout=10)


def test_a_weak_handle_stays_weak_when_it_is_passed_on() -> None:
    @skate.remote
    class Keeper:
        def keep(self, handle: Any) -> int:
            self.handle = handle
            return int(skate.get(handle.add.remote()))

    counter = Counter.options(name="weak too").remote()
    pid = skate.get(counter.pid.remote())
    keeper = Keeper.remote()
    assert skate.get(keeper.keep.remote(skate.get_actor("weak too"))) == 1
    del counter
    until_gone(pid)


def test_a_detached_actor_outlives_its_handle() -> None:
    Counter.options(name="detached", lifetime="detached").remote()
    found = skate.get_actor("detached")
    assert skate.get([found.add.remote() for _ in range(3)]) == [1, 2, 3]
    del found
    assert skate.get(skate.get_actor("detached").add.remote()) == 4
    skate.kill(skate.get_actor("detached"))
    assert is_free("detached")


def test_the_names_of_living_actors_are_listed() -> None:
    before = list_named_actors()
    kept = Counter.options(name="listed").remote()
    elsewhere = Counter.options(name="listed", namespace="other").remote()
    Counter.options(name="gone").remote()
    here = sorted([*before, "listed"])
    until(lambda: list_named_actors() == here)  # the one without a handle goes
    everywhere = list_named_actors(all_namespaces=True)
    assert {"name": "listed", "namespace": "other"} in everywhere
    assert {"name": "listed", "namespace": "tests"} in everywhere
    del kept, elsewhere


def test_who_found_an_actor_by_its_name_is_told_why_it_died_however_late() -> None:
    counter = Counter.options(name="doomed", lifetime="detached").remote()
    pid = skate.get(counter.pid.remote())
    found = skate.get_actor("doomed")
    del counter
    os.kill(pid, 9)
    for _ in range(3):
        with pytest.raises(exceptions.ActorDiedError, match="signal 9"):
            skate.get(found.add.remote())
        until(lambda: "doomed" not in list_named_actors())
