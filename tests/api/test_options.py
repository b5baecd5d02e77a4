"""Each option where it may stand, what is refused, and the demand that options make."""

from __future__ import annotations

from typing import Any

import pytest

from skate.api.options import (
    ACTOR_DEFAULTS,
    METHOD_DEFAULTS,
    TASK_DEFAULTS,
    check_actor_options,
    check_method_options,
    check_task_options,
    demand_from_options,
)
from skate.util.placement_group import PlacementGroup


def check_task(**options: Any) -> None:
    check_task_options(options, decorator=False)


def check_decorator(**options: Any) -> None:
    check_task_options(options, decorator=True)


def check_actor(**options: Any) -> None:
    check_actor_options(options)


def check_method(**options: Any) -> None:
    check_method_options(options)


# --- accepted -------------------------------------------------------------------------------------


def test_defaults_pass_their_own_checks() -> None:
    check_decorator(**TASK_DEFAULTS)
    check_actor(**ACTOR_DEFAULTS)
    check_method(**METHOD_DEFAULTS)


def test_none_means_not_given() -> None:
    check_decorator(**dict.fromkeys(TASK_DEFAULTS))
    check_actor(**dict.fromkeys(ACTOR_DEFAULTS))
    check_method(**dict.fromkeys(METHOD_DEFAULTS))


@pytest.mark.parametrize(
    "options",
    [
        {"num_cpus": 0.5, "num_gpus": 0.25, "memory": 1e9},
        {"num_cpus": 1.5, "num_gpus": 2.0},
        {"resources": {"special": 0.0001, "TPU": 4, "node:10.0.0.1": 0.001, "none": 0}},
        {"num_returns": 0},
        {"num_returns": 3, "max_retries": -1, "retry_exceptions": True},
        {"retry_exceptions": [ValueError, OSError]},
        {"scheduling_strategy": "SPREAD", "name": "", "accelerator_type": "A100"},
        {"scheduling_strategy": "DEFAULT", "placement_group": "default"},
        {"_labels": {"team": "x"}, "enable_task_events": False},
        {"runtime_env": {}, "label_selector": {}, "fallback_strategy": []},
    ],
)
def test_task_accepts(options: dict[str, Any]) -> None:
    check_task(**options)
    check_decorator(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"name": "a", "lifetime": "detached", "namespace": "n", "get_if_exists": True},
        {"lifetime": "non_detached", "max_restarts": -1, "max_task_retries": -1},
        {"max_concurrency": 8, "max_pending_calls": 10, "allow_out_of_order_execution": True},
        {"max_concurrency": 1, "allow_out_of_order_execution": False},
    ],
)
def test_actor_accepts(options: dict[str, Any]) -> None:
    check_actor(**options)


def test_method_accepts() -> None:
    check_method(num_returns=2, max_task_retries=3, retry_exceptions=(KeyError,), name="n")


# --- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", [check_task, check_decorator, check_actor, check_method])
def test_unknown_option_names_the_likely_one_and_all(check: Any) -> None:
    with pytest.raises(ValueError, match="enable_task_events") as caught:
        check(enabel_task_events=True)
    assert "Did you mean 'enable_task_events'" in str(caught.value)
    assert "_labels" in str(caught.value)
    with pytest.raises(ValueError, match="_labels"):
        check(_metadata={"a": "b"})


@pytest.mark.parametrize(
    ("check", "option"),
    [
        (check_task, "max_restarts"),
        (check_task, "lifetime"),
        (check_task, "max_concurrency"),
        (check_actor, "max_retries"),
        (check_actor, "max_calls"),
        (check_actor, "num_returns"),
        (check_actor, "retry_exceptions"),
        (check_method, "num_cpus"),
        (check_method, "max_retries"),
    ],
)
def test_option_in_the_wrong_place(check: Any, option: str) -> None:
    with pytest.raises(ValueError, match=f"'{option}' is not an option of"):
        check(**{option: None})


def test_max_calls_belongs_to_the_decorator() -> None:
    check_decorator(max_calls=1)
    with pytest.raises(ValueError, match="decorator only"):
        check_task(max_calls=1)


@pytest.mark.parametrize(
    ("check", "option", "value"),
    [
        (check_task, "num_cpus", -1),
        (check_task, "num_cpus", float("nan")),
        (check_task, "num_cpus", float("inf")),
        (check_task, "num_cpus", 1e15),
        (check_task, "num_cpus", 0.00001),
        (check_task, "num_gpus", 1.5),
        (check_task, "memory", -5),
        (check_task, "resources", {"CPU": 1}),
        (check_task, "resources", {"GPU": 1}),
        (check_task, "resources", {"memory": 1}),
        (check_task, "resources", {"object_store_memory": 1}),
        (check_task, "resources", {"bundle": 1}),
        (check_task, "resources", {"": 1}),
        (check_task, "resources", {"x": -1}),
        (check_task, "resources", {"x": 0.00009}),
        (check_task, "resources", {"TPU": 1.5}),
        (check_task, "num_returns", -1),
        (check_task, "num_returns", "stream"),
        (check_task, "max_retries", -2),
        (check_task, "retry_exceptions", [KeyboardInterrupt]),
        (check_task, "scheduling_strategy", "SPRED"),
        (check_task, "placement_group", "mine"),
        (check_task, "accelerator_type", ""),
        (check_task, "_generator_backpressure_num_objects", 0),
        (check_decorator, "max_calls", -1),
        (check_actor, "name", ""),
        (check_actor, "namespace", ""),
        (check_actor, "lifetime", "forever"),
        (check_actor, "max_restarts", -2),
        (check_actor, "max_task_retries", -2),
        (check_actor, "max_concurrency", 0),
        (check_actor, "max_concurrency", -1),
        (check_actor, "max_pending_calls", -2),
        (check_actor, "get_if_exists", True),
        (check_method, "num_returns", -1),
        (check_method, "max_task_retries", -2),
    ],
)
def test_out_of_range(check: Any, option: str, value: Any) -> None:
    with pytest.raises(ValueError) as caught:
        check(**{option: value})
    assert option in str(caught.value)


@pytest.mark.parametrize(
    ("check", "option", "value"),
    [
        (check_task, "num_cpus", "1"),
        (check_task, "num_gpus", [1]),
        (check_task, "memory", "1GB"),
        (check_task, "resources", ["x"]),
        (check_task, "resources", {1: 1}),
        (check_task, "resources", {"x": "1"}),
        (check_task, "resources", {"x": None}),
        (check_task, "num_returns", 1.0),
        (check_task, "max_retries", 1.5),
        (check_task, "retry_exceptions", ValueError),
        (check_task, "retry_exceptions", [ValueError()]),
        (check_task, "scheduling_strategy", 3),
        (check_task, "placement_group", object()),
        (check_task, "runtime_env", "env"),
        (check_task, "label_selector", ["a"]),
        (check_task, "name", 3),
        (check_task, "accelerator_type", 3),
        (check_task, "enable_task_events", 1),
        (check_task, "_labels", {"a": 1}),
        (check_actor, "name", b"a"),
        (check_actor, "namespace", 1),
        (check_actor, "lifetime", True),
        (check_actor, "get_if_exists", "yes"),
        (check_actor, "max_concurrency", 2.0),
        (check_actor, "concurrency_groups", ["io"]),
        (check_method, "concurrency_group", 1),
    ],
)
def test_wrong_type(check: Any, option: str, value: Any) -> None:
    with pytest.raises(TypeError) as caught:
        check(**{option: value})
    assert option in str(caught.value)


def test_options_that_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="concurrent calls have no order"):
        check_actor(max_concurrency=2, allow_out_of_order_execution=False)
    for check in (check_task, check_actor):
        with pytest.raises(ValueError, match="not in both"):
            check(placement_group=PlacementGroup.empty(), scheduling_strategy="SPREAD")


@pytest.mark.parametrize(
    ("check", "option", "value"),
    [
        (check_task, "runtime_env", {"pip": ["x"]}),
        (check_task, "num_returns", "streaming"),
        (check_task, "num_returns", "dynamic"),
        (check_task, "_generator_backpressure_num_objects", 4),
        (check_task, "object_store_memory", 1),
        (check_decorator, "_num_objects_per_yield", 2),
        (check_actor, "runtime_env", {"env_vars": {"A": "1"}}),
        (check_actor, "concurrency_groups", {"io": 2}),
        (check_actor, "enable_tensor_transport", True),
        (check_actor, "_actor_generator_backpressure_num_objects", 4),
        (check_method, "concurrency_group", "io"),
        (check_method, "tensor_transport", "nccl"),
        (check_method, "num_returns", "streaming"),
    ],
)
def test_known_but_unsupported_is_never_ignored(check: Any, option: str, value: Any) -> None:
    with pytest.raises(NotImplementedError, match=option):
        check(**{option: value})


def test_object_store_memory_of_actors_is_deprecated() -> None:
    with pytest.warns(DeprecationWarning, match="object_store_memory"):
        check_actor(object_store_memory=1)


# --- demand ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "demand"),
    [
        ({}, {"CPU": 1}),
        ({"num_cpus": None}, {"CPU": 1}),
        ({"num_cpus": 0}, {}),
        ({"num_cpus": 2, "num_gpus": 0.5}, {"CPU": 2, "GPU": 0.5}),
        ({"memory": 10.9}, {"CPU": 1, "memory": 10}),
        ({"resources": {"x": 2, "zero": 0}}, {"CPU": 1, "x": 2}),
        ({"accelerator_type": "A100"}, {"CPU": 1, "accelerator_type:A100": 0.001}),
    ],
)
def test_task_demand(options: dict[str, Any], demand: dict[str, float]) -> None:
    assert demand_from_options(options, is_actor=False) == (demand, demand)


@pytest.mark.parametrize(
    ("options", "placement", "running"),
    [
        ({}, {"CPU": 1}, {}),
        ({"name": "a", "max_restarts": 3, "num_cpus": None, "resources": {}}, {"CPU": 1}, {}),
        ({"memory": 5}, {"CPU": 1, "memory": 5}, {"memory": 5}),
        ({"num_cpus": 0}, {}, {}),
        ({"num_cpus": 1}, {"CPU": 1}, {"CPU": 1}),
        ({"num_gpus": 1}, {"CPU": 1, "GPU": 1}, {"CPU": 1, "GPU": 1}),
        ({"num_gpus": 0}, {"CPU": 1}, {"CPU": 1}),
        ({"resources": {"x": 1}}, {"CPU": 1, "x": 1}, {"CPU": 1, "x": 1}),
        ({"resources": {"x": 1}, "num_cpus": 0}, {"x": 1}, {"x": 1}),
        (
            {"accelerator_type": "T4"},
            {"CPU": 1, "accelerator_type:T4": 0.001},
            {"CPU": 1, "accelerator_type:T4": 0.001},
        ),
    ],
)
def test_actor_demand(
    options: dict[str, Any], placement: dict[str, float], running: dict[str, float]
) -> None:
    assert demand_from_options(options, is_actor=True) == (placement, running)


def test_demands_are_separate_dicts() -> None:
    placement, running = demand_from_options({"num_cpus": 1}, is_actor=True)
    placement["CPU"] = 5
    assert running == {"CPU": 1}
