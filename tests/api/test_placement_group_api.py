"""Placement groups as a program sees them, on one node: made, waited for, used, captured, removed.

What the bundles of a group do on several nodes is told in tests/cluster.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import skate
from skate.util import remove_placement_group
from skate.util.placement_group import (
    PlacementGroup,
    PlacementGroupID,
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
)
from skate.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from tests.api.waiting import until
from tests.conftest import RunProgram

CPUS = 4
NODE = "0123456789abcdef" * 2
NO_ENGINE = "skate.client.runtime"


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    with skate.init(num_cpus=CPUS, resources={"oar": 2}, namespace="here"):
        yield


@pytest.fixture
def group(session: None) -> Iterator[PlacementGroup]:
    """Two bundles, of two CPUs with an oar and of one CPU."""
    made = placement_group([{"CPU": 2, "oar": 1}, {"CPU": 1}])
    assert made.wait(30)
    yield made
    remove_placement_group(made)
    until(lambda: skate.available_resources().get("CPU") == CPUS, 30)


def into(group: PlacementGroup, bundle: int = -1, captures: bool | None = None) -> dict[str, Any]:
    """The option that sends something into a group."""
    strategy = PlacementGroupSchedulingStrategy(group, bundle, captures)
    return {"scheduling_strategy": strategy}


Seen = tuple[PlacementGroup | None, str | None, bool]


def here() -> Seen:
    """What the program can learn of the group that it is in."""
    context = skate.get_runtime_context()
    return (
        get_current_placement_group(),
        context.get_placement_group_id(),
        context.should_capture_child_tasks_in_placement_group,
    )


def inside(group: PlacementGroup, captures: bool) -> Seen:
    return group, group.id.hex(), captures


OUTSIDE: Seen = (None, None, False)


@skate.remote
def look() -> Seen:
    return here()


@skate.remote
class Looker:
    def look(self) -> Seen:
        return here()

    def children(self) -> list[Seen]:
        return see_children()


def see_children() -> list[Seen]:
    """What a task and an actor see that are submitted here without a word on where."""
    actor = Looker.remote()
    return list(skate.get([look.remote(), actor.look.remote()]))


@skate.remote
def children() -> list[Seen]:
    return see_children()


# ------------------------------------------------------------------------ what may be made


@pytest.mark.parametrize(
    "bundles",
    [
        [],
        (),
        {"CPU": 1},
        ["CPU"],
        [{}],
        [{"CPU": 0}],
        [{"CPU": 1}, {"CPU": 0, "GPU": 0}],
        [{"CPU": -1}],
        [{"CPU": "1"}],
        [{1: 1}],
        [{"CPU": 0.00001}],
        [{"GPU": 1.5}],
        [{"": 1}],
        [{"bundle": 1}],
        [{f"CPU_group_0_{NODE}": 1}],
    ],
)
def test_bundles_that_are_none(bundles: Any) -> None:
    with pytest.raises(ValueError):
        placement_group(bundles)
    assert not skate.is_initialized() or skate.cluster_resources()["CPU"] == CPUS


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "PACKED"},
        {"strategy": "pack"},
        {"strategy": "PACK", "topology_strategy": {"ray.io/node-id": "PACK"}},
        {"topology_strategy": {"ray.io/node-id": "NO"}},
        {"topology_strategy": ["PACK"]},
        {"lifetime": "forever"},
        {"lifetime": "non_detached"},
        {"_soft_target_node_id": NODE},
        {"_soft_target_node_id": "node", "strategy": "STRICT_PACK"},
        {"bundle_label_selector": []},
        {"bundle_label_selector": [{"zone": "a"}, {"zone": "b"}]},
        {"bundle_label_selector": [{"zone": "a b"}]},
        {"bundle_label_selector": [{"zone": 1}]},
        {"bundle_label_selector": ["zone"]},
        {"bundle_label_selector": {"zone": "a"}},
    ],
)
def test_options_that_no_group_has(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        placement_group([{"CPU": 1}], **options)


def test_what_is_not_done_yet_is_said() -> None:
    with pytest.raises(NotImplementedError, match="rack"):
        placement_group([{"CPU": 1}], topology_strategy={"rack": "STRICT_PACK"})


def test_only_groups_can_be_removed_or_looked_at() -> None:
    for function in (remove_placement_group, placement_group_table):
        with pytest.raises(TypeError, match=function.__name__):
            function("mine")  # type: ignore[operator]
    for name in ("", None, 3):
        with pytest.raises(ValueError, match="not empty"):
            get_placement_group(name)  # type: ignore[arg-type]


def test_the_empty_group(session: None) -> None:
    empty = PlacementGroup.empty()
    assert empty.is_empty and empty.id.is_nil()
    assert (empty.bundle_count, empty.bundle_specs) == (0, [])
    assert empty.wait(0) and skate.get(empty.ready()) == empty
    assert empty == pickle.loads(pickle.dumps(empty))
    remove_placement_group(empty)
    options = into(empty)
    assert skate.get(look.options(**options).remote()) == OUTSIDE


# ------------------------------------------------------------------------------ its life


def test_a_group_is_made_and_removed(session: None) -> None:
    made = placement_group([{"CPU": 2, "oar": 0.5}, {"CPU": 1}], strategy="STRICT_PACK")
    assert not made.is_empty and len(bytes.fromhex(made.id.hex())) == 16
    assert made.bundle_specs == [{"CPU": 2.0, "oar": 0.5}, {"CPU": 1.0}]
    assert made.bundle_count == 2
    assert skate.get(made.ready(), timeout=30) == made
    assert made.wait(30) and made.wait(0)
    until(lambda: skate.available_resources().get("CPU") == CPUS - 3)
    assert skate.available_resources()["oar"] == 1.5
    assert skate.cluster_resources()["CPU"] == CPUS
    remove_placement_group(made)
    until(lambda: skate.available_resources() == skate.cluster_resources())
    remove_placement_group(made)  # once more does no harm


def test_the_table_of_groups(session: None) -> None:
    made = placement_group([{"CPU": 1}, {"oar": 0.5}], strategy="SPREAD", name="shown")
    assert made.wait(30)
    row = placement_group_table(made)
    (node,) = skate.nodes()
    assert row["placement_group_id"] == made.id.hex()
    assert (row["name"], row["strategy"], row["state"]) == ("shown", "SPREAD", "CREATED")
    assert row["bundles"] == {0: {"CPU": 1.0}, 1: {"oar": 0.5}}
    assert row["bundles_to_node_id"] == {0: node["NodeID"], 1: node["NodeID"]}
    assert placement_group_table()[made.id.hex()] == row
    remove_placement_group(made)
    until(lambda: placement_group_table(made)["state"] == "REMOVED")
    assert placement_group_table(PlacementGroup(PlacementGroupID(b"x" * 16))) == {}


def test_groups_with_names(session: None) -> None:
    with pytest.raises(ValueError, match="'mine'"):
        get_placement_group("mine")
    made = placement_group([{"CPU": 1}], name="mine")
    found = get_placement_group("mine")
    assert found == made and hash(found) == hash(made)
    assert found.bundle_specs == made.bundle_specs
    said = r"^placement_group\(\): there is a placement group named 'mine'"
    with pytest.raises(ValueError, match=said):
        placement_group([{"CPU": 1}], name="mine")

    @skate.remote(num_cpus=0)
    def find() -> PlacementGroup:
        return get_placement_group("mine")

    assert skate.get(find.remote()) == made
    remove_placement_group(made)

    def is_gone() -> bool:
        try:
            return not get_placement_group("mine")
        except ValueError:
            return True

    until(is_gone)
    again = placement_group([{"CPU": 1}], name="mine")
    assert get_placement_group("mine") == again != made
    remove_placement_group(again)


def test_a_group_that_does_not_fit_waits(session: None) -> None:
    made = placement_group([{"CPU": CPUS + 1}])
    assert not made.wait(0) and not made.wait(0.05)
    assert skate.wait([made.ready()], timeout=0.05)[0] == []
    assert placement_group_table(made)["state"] == "PENDING"
    ref = look.options(**into(made, 0)).remote()
    remove_placement_group(made)
    with pytest.raises(skate.exceptions.TaskPlacementGroupRemoved):
        skate.get(ref, timeout=30)
    for late in (0, 10):
        with pytest.raises(Exception, match=made.id.hex()):
            made.wait(late)


def test_groups_wait_for_each_other(session: None) -> None:
    first = placement_group([{"CPU": CPUS}])
    assert first.wait(30)
    second = placement_group([{"CPU": CPUS}])
    ready = second.ready()
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(second.wait(30))) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert not second.wait(0.05)
    remove_placement_group(first)
    assert skate.get(ready, timeout=30) == second and second.wait(30)
    for thread in threads:
        thread.join(30)
    assert answers == [True] * 3
    remove_placement_group(second)
    until(lambda: skate.available_resources().get("CPU") == CPUS)


def test_a_task_that_waits_for_a_group_lends_its_cpu(session: None) -> None:
    @skate.remote(num_cpus=CPUS)
    def make() -> bool:
        made = placement_group([{"CPU": CPUS}])
        try:
            return made.wait(30)
        finally:
            remove_placement_group(made)

    assert skate.get(make.remote(), timeout=60)


# --------------------------------------------------------------------------- what is in it


def test_tasks_and_actors_in_a_group(group: PlacementGroup) -> None:
    @skate.remote
    def held() -> dict[str, float]:
        return skate.get_runtime_context().get_assigned_resources()

    @skate.remote(num_cpus=1, resources={"oar": 0.25})
    class Holder:
        def held(self) -> dict[str, float]:
            return skate.get_runtime_context().get_assigned_resources()

    assert skate.get(look.options(**into(group)).remote()) == inside(group, False)
    assert skate.get(look.options(**into(group, 1)).remote()) == inside(group, False)
    assert skate.get(look.options(placement_group=group).remote()) == inside(group, False)
    looker = Looker.options(**into(group, 0)).remote()
    assert skate.get([looker.look.remote() for _ in range(2)]) == [inside(group, False)] * 2
    assert skate.get(held.options(num_cpus=2, **into(group, 0)).remote()) == {"CPU": 2}
    assert skate.get(held.options(num_cpus=0, **into(group, 1)).remote()) == {}
    holder = Holder.options(**into(group)).remote()
    assert skate.get(holder.held.remote()) == {"CPU": 1, "oar": 0.25}
    assert skate.get(look.remote()) == here() == OUTSIDE


def test_a_group_has_what_it_has_and_no_more(group: PlacementGroup, tmp_path: Path) -> None:
    @skate.remote
    def hold(path: str) -> str:
        until(lambda: os.path.exists(path), 30)
        return path

    gate = str(tmp_path / "gate")
    first = hold.options(**into(group, 1)).remote(gate)
    second = hold.options(**into(group, 1)).remote(gate)
    others = [hold.options(**into(group, 0)).remote(os.devnull) for _ in range(2)]
    assert skate.get(others, timeout=30) == [os.devnull] * 2
    assert skate.wait([first, second], timeout=0.05)[0] == []
    assert skate.get(hold.remote(os.devnull), timeout=30)  # the CPU outside of the group
    Path(gate).touch()
    assert skate.get([first, second], timeout=30) == [gate] * 2


def test_what_a_group_cannot_hold_is_refused(group: PlacementGroup) -> None:
    for options, what in (
        (into(group, 2), "0 to 1"),
        ({"placement_group": group, "placement_group_bundle_index": 2}, "0 to 1"),
        ({"num_cpus": 3, **into(group)}, "any bundle"),
        ({"num_cpus": 2, **into(group, 1)}, "bundle 1"),
        ({"resources": {"rudder": 1}, **into(group)}, "rudder"),
        ({"num_gpus": 1, **into(group, 0)}, "GPU"),
    ):
        for target in (look, Looker):
            with pytest.raises(ValueError, match=what):
                target.options(**options).remote()
    only_oars = placement_group([{"oar": 1}])
    with pytest.raises(ValueError, match="1 CPU to be created"):
        Looker.options(**into(only_oars)).remote()
    remove_placement_group(only_oars)


def test_groups_travel(group: PlacementGroup) -> None:
    @skate.remote
    def send_into(given: PlacementGroup) -> tuple[Any, ...]:
        mine = skate.get(look.options(**into(group, 1)).remote())  # from the function's closure
        theirs = skate.get(look.options(**into(given, 0)).remote())
        return given, given.bundle_specs, mine, theirs

    found, bundles, mine, theirs = skate.get(send_into.remote(group), timeout=30)
    assert found == group and bundles == group.bundle_specs
    assert mine == theirs == inside(group, False)
    copy = pickle.loads(pickle.dumps(group))
    assert copy == group and copy.bundle_specs == group.bundle_specs
    assert PlacementGroup(group.id).bundle_specs == group.bundle_specs  # asked for
    assert len({copy, group}) == 1 and copy != PlacementGroup.empty()
    assert group.id.hex() in repr(copy)


def test_decorated_with_a_group(group: PlacementGroup) -> None:
    @skate.remote(scheduling_strategy=PlacementGroupSchedulingStrategy(group))
    def decorated() -> Seen:
        return here()

    @skate.remote
    def call_it() -> Seen:
        return skate.get(decorated.remote())  # type: ignore[no-any-return]

    assert skate.get(decorated.remote()) == inside(group, False)
    assert skate.get(call_it.remote(), timeout=30) == inside(group, False)
    assert skate.get(decorated.options(scheduling_strategy="DEFAULT").remote()) == OUTSIDE


# -------------------------------------------------------------------------------- capture


def test_without_capture_children_go_their_own_way(group: PlacementGroup) -> None:
    for captures in (None, False):
        options = into(group, captures=captures)
        seen = skate.get(children.options(**options).remote(), timeout=30)
        assert seen == [OUTSIDE, OUTSIDE]
        actor = Looker.options(**options).remote()
        assert skate.get(actor.children.remote(), timeout=30) == [OUTSIDE, OUTSIDE]


def test_with_capture_children_come_along(group: PlacementGroup) -> None:
    options = into(group, captures=True)
    both = [inside(group, True)] * 2
    assert skate.get(children.options(**options).remote(), timeout=30) == both
    assert skate.get(Looker.options(**options).remote().children.remote(), timeout=30) == both
    old = {"placement_group": group, "placement_group_capture_child_tasks": True}
    assert skate.get(children.options(**old).remote(), timeout=30) == both

    @skate.remote
    def grandchildren() -> Any:
        return skate.get(children.remote())

    assert skate.get(grandchildren.options(**options).remote(), timeout=30) == both


def test_children_that_say_otherwise(group: PlacementGroup) -> None:
    @skate.remote
    def say() -> list[Seen]:
        return list(
            skate.get(
                [
                    look.options(scheduling_strategy="DEFAULT").remote(),
                    look.options(placement_group=None).remote(),
                    look.options(scheduling_strategy="SPREAD").remote(),
                    look.options(placement_group_capture_child_tasks=False).remote(),
                    look.options(placement_group_capture_child_tasks=True).remote(),
                    look.options(placement_group_bundle_index=0).remote(),
                    look.options(scheduling_strategy=None, placement_group="default").remote(),
                    look.remote(),
                ]
            )
        )

    mine = inside(group, True)
    seen = skate.get(say.options(**into(group, captures=True)).remote(), timeout=30)
    assert seen == [OUTSIDE] * 4 + [mine] * 4


def test_a_child_may_ask_to_come_along(group: PlacementGroup) -> None:
    @skate.remote
    def ask() -> Seen:
        return skate.get(look.options(placement_group_capture_child_tasks=True).remote())  # type: ignore[no-any-return]

    assert skate.get(ask.options(**into(group)).remote(), timeout=30) == inside(group, True)


def test_one_worker_in_many_groups(group: PlacementGroup) -> None:
    """A function means another template where its caller is in another group."""
    other = placement_group([{"CPU": 1}])
    assert other.wait(30)

    @skate.remote(num_cpus=0)
    def place() -> Any:
        return get_current_placement_group()

    @skate.remote(num_cpus=0)
    def parent() -> tuple[int, Any]:
        return os.getpid(), skate.get(place.remote())

    ways: list[tuple[dict[str, Any], Any]] = [
        (into(group, captures=True), group),
        ({}, None),
        (into(other, captures=True), other),
        (into(other), None),
        (into(group, 1, captures=True), group),
    ]
    pids = set()
    for options, expected in ways * 4:
        pid, found = skate.get(parent.options(**options).remote(), timeout=30)
        pids.add(pid)
        assert found == expected, options
    assert len(pids) < len(ways) * 4, "no worker ran two of them, so nothing was tested"
    remove_placement_group(other)


def test_a_capturing_group_refuses_what_it_cannot_hold(group: PlacementGroup) -> None:
    @skate.remote(num_cpus=0)
    def ask_for_more() -> str:
        try:
            look.options(num_cpus=3).remote()
        except ValueError as error:
            return str(error)
        return ""

    said = skate.get(ask_for_more.options(**into(group, captures=True)).remote(), timeout=30)
    assert "any bundle" in said and group.id.hex() in said


# -------------------------------------------------------------------------------- removal


def test_what_is_in_a_removed_group_is_ended(session: None, tmp_path: Path) -> None:
    made = placement_group([{"CPU": 1}, {"CPU": 1}])
    begun = tmp_path / "begun"

    @skate.remote(max_retries=3)
    def hang() -> None:
        begun.touch()
        threading.Event().wait()

    running = hang.options(**into(made, 0)).remote()
    queued = look.options(**into(made, 0)).remote()
    actor = Looker.options(num_cpus=1, max_restarts=3, **into(made, 1)).remote()
    assert skate.get(actor.look.remote(), timeout=30)
    until(begun.exists, 30)
    remove_placement_group(made)
    for ref in (running, queued):
        with pytest.raises(skate.exceptions.TaskPlacementGroupRemoved):
            skate.get(ref, timeout=30)
    with pytest.raises(
        (skate.exceptions.ActorPlacementGroupRemoved, skate.exceptions.ActorDiedError)
    ):
        while True:
            skate.get(actor.look.remote(), timeout=30)
    until(lambda: skate.available_resources() == skate.cluster_resources(), 30)
    with pytest.raises(skate.exceptions.TaskPlacementGroupRemoved):
        skate.get(look.options(**into(made)).remote(), timeout=30)


# ----------------------------------------------------------------------------- the modules


def test_the_modules_are_there_under_both_names(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import ray\n"
        "assert callable(ray.util.placement_group)\n"
        "from ray.util.placement_group import PlacementGroup, placement_group\n"
        "from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy\n"
        "import ray.util.scheduling_strategies\n"
        "from ray.util import placement_group_table\n"
        "import skate\n"
        "import skate.util.placement_group as again\n"
        "assert ray.util is skate.util\n"
        "assert ray.util.placement_group is placement_group is again\n"
        "assert skate.util.scheduling_strategies is ray.util.scheduling_strategies\n"
        "assert PlacementGroup is skate.api.bundle_groups.PlacementGroup\n"
        "assert 'placement_group' in dir(ray.util)\n"
        "print('same')\n"
    )
    done = _python(["-m", "skate", "run", str(tmp_path / "program.py")])
    assert done.stdout == "same\n", done.stderr


def test_nothing_is_imported_before_it_is_used() -> None:
    done = _python(
        [
            "-c",
            "import skate, sys\n"
            "skate.util\n"
            "print([name for name in sys.modules if name.startswith('skate.')])\n"
            "skate.util.placement_group\n"
            f"print({NO_ENGINE!r} in sys.modules)\n"
            "try:\n"
            "    skate.util.nothing\n"
            "except AttributeError as error:\n"
            "    print(error)\n",
        ]
    )
    assert done.stdout.splitlines() == [
        "['skate.util']",
        "True",
        "module 'skate.util' has no attribute 'nothing'",
    ], done.stderr


def _python(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    sources = str(Path(skate.__file__).resolve().parents[1])
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": sources},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_groups_go_with_their_session(run_program: RunProgram) -> None:
    done = run_program(
        """
        import skate
        from skate.util.placement_group import placement_group, get_placement_group

        for lifetime in (None, "detached"):
            skate.init(num_cpus=1, namespace="same")
            try:
                get_placement_group("mine")
            except ValueError:
                print("none")
            assert placement_group([{"CPU": 1}], name="mine", lifetime=lifetime).wait(30)
            skate.shutdown()
        """
    )
    assert done.stdout.split() == ["none", "none"], done.stderr
