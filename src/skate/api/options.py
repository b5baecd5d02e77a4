"""Each option of `@remote`, `.options()` and `@method`: name, defaults, check; and what it demands.

Called by remote_function and actor_handle when a decorator or `.options()` is evaluated, never per
call. One table, `_TABLE`, has a row for each option; the places where the option may stand are the
keyword names of its defaults.

Invariants: an option is checked or refused, never silently ignored. None always means "not given".
Errors: unknown name or value out of range `ValueError`, wrong type `TypeError`, known but not
supported yet `NotImplementedError`.

Not here: what an option does, what needs the cluster to be checked (whether a node or a bundle
exists: placement.py), environment variables.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from skate.config import RESOURCE_LIMIT

RESOURCE_GRANULARITY = 0.0001

# Resources that are devices: a share of one, or several whole ones.
UNIT_RESOURCES = frozenset({"GPU", "TPU", "NPU", "HPU", "RBLN", "neuron_cores"})

# What `resources` may not name, and the option to use instead.
_OWN_OPTION = {
    "CPU": "num_cpus",
    "GPU": "num_gpus",
    "memory": "memory",
    "object_store_memory": "object_store_memory",
}

# The share of a node's marker resource that `accelerator_type` asks for: enough to be placed there.
_ACCELERATOR_SHARE = 0.001

_Check = Callable[[str, Any], None]


# --- checks: (name, value that is not None) -> None, or raise -------------------------------------


def _type_error(name: str, value: Any, expected: str) -> TypeError:
    return TypeError(f"option {name!r} must be {expected}, not {type(value).__name__}: {value!r}")


def _instance(expected: str, *types: type) -> _Check:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, types):
            raise _type_error(name, value, expected)

    return check


def _at_least(minimum: int, *, infinite: bool = False) -> _Check:
    """A whole number from `minimum` up; with `infinite`, -1 as well."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, int):
            raise _type_error(name, value, "an int")
        if value < minimum and not (infinite and value == -1):
            also = ", or -1 for no limit" if infinite else ""
            raise ValueError(f"option {name!r} must be at least {minimum}{also}, not {value}")

    return check


def _amount(name: str, value: Any) -> None:
    """A quantity of a resource."""
    if not isinstance(value, int | float):
        raise _type_error(name, value, "a number")
    if not math.isfinite(value) or not 0 <= value <= RESOURCE_LIMIT:
        raise ValueError(f"{name!r} must be from 0 to {RESOURCE_LIMIT:g}, not {value}")
    if 0 < value < RESOURCE_GRANULARITY:
        raise ValueError(
            f"{name!r} is {value}, but resources are counted in steps of {RESOURCE_GRANULARITY}"
        )


def _unit_amount(name: str, value: Any) -> None:
    """A quantity of devices: a fraction of one, or whole ones."""
    _amount(name, value)
    if value > 1 and value != int(value):
        raise ValueError(f"{name!r} above 1 must be a whole number, not {value}")


def check_amount(name: str, value: Any, resource: str) -> None:
    """TypeError or ValueError unless ``value`` may be an amount of this resource."""
    (_unit_amount if resource in UNIT_RESOURCES else _amount)(name, value)


def _resources(name: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise _type_error(name, value, "a dict of resource name to amount")
    for resource, amount in value.items():
        if not isinstance(resource, str):
            raise TypeError(f"the keys of {name!r} must be str, not {resource!r}")
        if resource in _OWN_OPTION:
            raise ValueError(f"use the option {_OWN_OPTION[resource]!r}, not {name}[{resource!r}]")
        if not resource or resource == "bundle":
            raise ValueError(f"{resource!r} cannot be the name of a resource in {name!r}")
        check_amount(f"{name}[{resource!r}]", amount, resource)


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise _type_error(name, value, "a str")


def _filled_text(name: str, value: Any) -> None:
    _text(name, value)
    if not value:
        raise ValueError(f"option {name!r} must not be empty")


def _labels(name: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise _type_error(name, value, "a dict of str to str")
    for key, label in value.items():
        if not isinstance(key, str) or not isinstance(label, str):
            raise TypeError(f"option {name!r} must map str to str, not {key!r} to {label!r}")


def _num_returns(name: str, value: Any) -> None:
    if isinstance(value, str):
        if value not in ("streaming", "dynamic"):
            raise ValueError(f"option {name!r} must be a count, 'streaming' or 'dynamic': {value}")
        return
    _at_least(0)(name, value)


def _retry_exceptions(name: str, value: Any) -> None:
    if isinstance(value, bool):
        return
    if not isinstance(value, list | tuple):
        raise _type_error(name, value, "a bool, or a list of exception classes")
    for item in value:
        if not isinstance(item, type):
            raise TypeError(f"option {name!r} must list exception classes, not {item!r}")
        if not issubclass(item, Exception):
            raise ValueError(f"option {name!r} may list subclasses of Exception only, not {item}")


def _backpressure(name: str, value: Any) -> None:
    _at_least(1, infinite=True)(name, value)


def _lifetime(name: str, value: Any) -> None:
    _text(name, value)
    if value not in ("detached", "non_detached"):
        raise ValueError(f"option {name!r} must be 'detached' or 'non_detached', not {value!r}")


def _scheduling_strategy(name: str, value: Any) -> None:
    if isinstance(value, str):
        if value not in ("DEFAULT", "SPREAD"):
            raise ValueError(
                f"option {name!r} must be 'DEFAULT', 'SPREAD' or an instance of a class of "
                f"skate.util.scheduling_strategies, not {value!r}"
            )
        return
    from skate.api.strategies import (
        NodeAffinitySchedulingStrategy,
        NodeLabelSchedulingStrategy,
        PlacementGroupSchedulingStrategy,
    )

    known = (
        NodeAffinitySchedulingStrategy
        | NodeLabelSchedulingStrategy
        | PlacementGroupSchedulingStrategy
    )
    if not isinstance(value, known):
        raise _type_error(name, value, "'DEFAULT', 'SPREAD' or a scheduling strategy")


def _label_selector(name: str, value: Any) -> None:
    from skate.api.label_syntax import selector_rules

    try:
        selector_rules(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"option {name!r}: {error}") from None


def _fallback_strategy(name: str, value: Any) -> None:
    if not isinstance(value, list | tuple):
        raise _type_error(name, value, "a list of dicts such as {'label_selector': {'zone': 'a'}}")
    for index, alternative in enumerate(value):
        what = f"{name}[{index}]"
        if not isinstance(alternative, dict):
            raise _type_error(what, alternative, "a dict with the key 'label_selector'")
        if set(alternative) != {"label_selector"}:
            raise ValueError(
                f"option {what!r} must have the key 'label_selector' and no other: {alternative!r}"
            )
        if alternative["label_selector"] is not None:
            _label_selector(f"{what}['label_selector']", alternative["label_selector"])


def _placement_group(name: str, value: Any) -> None:
    if isinstance(value, str):
        if value != "default":
            raise ValueError(
                f"option {name!r} must be a placement group, None or 'default', not {value!r}"
            )
        return
    from skate.api.group_handle import GroupHandle

    if not isinstance(value, GroupHandle):
        raise _type_error(name, value, "a placement group, None or 'default'")


def _concurrency_groups(name: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise _type_error(name, value, "a dict of group name to its number of concurrent calls")
    for group, size in value.items():
        _filled_text(f"the keys of {name}", group)
        _at_least(1)(f"{name}[{group!r}]", size)


# --- the table ------------------------------------------------------------------------------------


class Option(NamedTuple):
    """One row: its check, and its default in each place where it may stand."""

    name: str
    check: _Check
    defaults: dict[str, Any]


def _row(name: str, check: _Check, **defaults: Any) -> Option:
    return Option(name, check, defaults)


_bool = _instance("a bool", bool)
_dict = _instance("a dict", dict)

# Places: `decorator` is @remote on a function and nothing else; `task` is that and .options();
# `actor` and `method` are the decorator and .options() alike.
_TABLE = (
    # what a task or actor needs
    _row("num_cpus", _amount, task=1, actor=None),
    _row("num_gpus", _unit_amount, task=None, actor=None),
    _row("memory", _amount, task=None, actor=None),
    _row("object_store_memory", _amount, task=None, actor=None),
    _row("resources", _resources, task=None, actor=None),
    _row("accelerator_type", _filled_text, task=None, actor=None),
    # where it runs
    _row("scheduling_strategy", _scheduling_strategy, task=None, actor=None),
    _row("label_selector", _label_selector, task=None, actor=None),
    _row("fallback_strategy", _fallback_strategy, task=None, actor=None),
    _row("runtime_env", _dict, task=None, actor=None),
    _row("placement_group", _placement_group, task="default", actor="default"),
    _row("placement_group_bundle_index", _at_least(-1), task=-1, actor=-1),
    _row("placement_group_capture_child_tasks", _bool, task=None, actor=None),
    # how it is shown
    _row("name", _text, task=None, actor=None, method=None),
    _row("enable_task_events", _bool, task=True, actor=True, method=True),
    _row("_labels", _labels, task=None, actor=None, method=None),
    # tasks, and methods where they behave alike
    _row("num_returns", _num_returns, task=None, method=None),
    _row("max_calls", _at_least(0), decorator=0),
    _row("max_retries", _at_least(0, infinite=True), task=3),
    _row("retry_exceptions", _retry_exceptions, task=False, method=None),
    _row("_generator_backpressure_num_objects", _backpressure, task=None, method=None),
    _row("_num_objects_per_yield", _at_least(1), decorator=1, method=1),
    # actors
    _row("max_restarts", _at_least(0, infinite=True), actor=0),
    _row("max_task_retries", _at_least(0, infinite=True), actor=0, method=None),
    _row("max_concurrency", _at_least(1), actor=None),
    _row("max_pending_calls", _at_least(0, infinite=True), actor=-1),
    _row("concurrency_groups", _concurrency_groups, actor=None),
    _row("concurrency_group", _filled_text, method=None),
    _row("lifetime", _lifetime, actor=None),
    _row("namespace", _filled_text, actor=None),
    _row("get_if_exists", _bool, actor=False),
    _row("allow_out_of_order_execution", _bool, actor=None),
    _row("enable_tensor_transport", _bool, actor=None),
    _row("tensor_transport", _text, method=None),
    _row("_actor_generator_backpressure_num_objects", _backpressure, actor=None),
)


def _is_empty(value: Any) -> bool:
    return isinstance(value, dict | list | tuple) and not value


def _is_false(value: Any) -> bool:
    return value is False


def _is_minus_one(value: Any) -> bool:
    return bool(value == -1)


# What skate knows and does not do yet: option -> which values ask for nothing and so may pass.
# To support one is to remove its entry.
_NOT_YET: dict[str, Callable[[Any], bool]] = {
    "runtime_env": _is_empty,
    "num_returns": lambda value: not isinstance(value, str),
    "_generator_backpressure_num_objects": _is_minus_one,
    "_actor_generator_backpressure_num_objects": _is_minus_one,
    "_num_objects_per_yield": lambda value: bool(value == 1),
    "concurrency_groups": _is_empty,
    "concurrency_group": lambda value: False,
    "enable_tensor_transport": _is_false,
    "tensor_transport": lambda value: False,
}


def _rows_of(*places: str) -> dict[str, _Check]:
    return {row.name: row.check for row in _TABLE if any(place in row.defaults for place in places)}


def _defaults_of(*places: str) -> Mapping[str, Any]:
    return MappingProxyType(
        {
            row.name: row.defaults[place]
            for row in _TABLE
            for place in places
            if place in row.defaults
        }
    )


_DECORATOR_ROWS = _rows_of("task", "decorator")
_TASK_ROWS = _rows_of("task")
_ACTOR_ROWS = _rows_of("actor")
_METHOD_ROWS = _rows_of("method")

TASK_DEFAULTS = _defaults_of("task", "decorator")
ACTOR_DEFAULTS = _defaults_of("actor")
METHOD_DEFAULTS = _defaults_of("method")


# --- what callers use -----------------------------------------------------------------------------


def check_task_options(options: Mapping[str, Any], *, decorator: bool) -> None:
    """Raise unless `options` may stand in `@remote` on a function or in its `.options()`."""
    if not decorator:
        for name in options:
            if name in _DECORATOR_ROWS and name not in _TASK_ROWS:
                raise ValueError(f"option {name!r} may be set in the decorator only")
    _check_each(options, _DECORATOR_ROWS if decorator else _TASK_ROWS, "a task")
    if options.get("object_store_memory") is not None:
        raise NotImplementedError("option 'object_store_memory' is not supported for tasks")
    _check_one_placement(options)
    _check_supported(options)


def check_actor_options(options: Mapping[str, Any]) -> None:
    """Raise unless `options` may stand in `@remote` on a class or in its `.options()`.

    `name` given with `get_if_exists` is looked for in `options` alone: pass the merged ones.
    """
    _check_each(options, _ACTOR_ROWS, "an actor")
    if options.get("name") == "":
        raise ValueError("the name of an actor must not be empty")
    if options.get("get_if_exists") and options.get("name") is None:
        raise ValueError("option 'get_if_exists' needs 'name', the actor to get")
    if options.get("allow_out_of_order_execution") is False and (
        (options.get("max_concurrency") or 1) > 1
    ):
        raise ValueError(
            "option 'allow_out_of_order_execution' cannot be False with 'max_concurrency' above 1: "
            "concurrent calls have no order"
        )
    _check_one_placement(options)
    _check_supported(options)
    if options.get("object_store_memory") is not None:
        warnings.warn(
            "option 'object_store_memory' is deprecated and changes nothing",
            DeprecationWarning,
            stacklevel=3,
        )


def check_method_options(options: Mapping[str, Any]) -> None:
    """Raise unless `options` may stand in `@method` or in a method's `.options()`."""
    _check_each(options, _METHOD_ROWS, "an actor method")
    _check_supported(options)


def demand_from_options(
    options: Mapping[str, Any], *, is_actor: bool
) -> tuple[dict[str, float], dict[str, float]]:
    """What must be free to place it, and what it holds while it runs; checked options assumed.

    Amounts are in units of the resource (memory in bytes); zeros are left out. A task holds what it
    was placed with, 1 CPU by default. So does an actor that asks for anything but memory; one that
    does not needs 1 CPU to be placed and gives it back.
    """
    running = _amounts_without_cpu(options)
    cpus = options.get("num_cpus")
    asks_for_nothing = cpus is None and all(
        options.get(name) in (None, {}) for name in ("num_gpus", "resources", "accelerator_type")
    )
    if is_actor and asks_for_nothing:
        return {"CPU": 1.0, **running}, running
    held = {"CPU": 1.0 if cpus is None else float(cpus), **running}
    held = {name: amount for name, amount in held.items() if amount}
    return held, dict(held)


def _amounts_without_cpu(options: Mapping[str, Any]) -> dict[str, float]:
    amounts = {"GPU": float(options.get("num_gpus") or 0)}
    # Fractions of a byte come from arithmetic such as 0.3 * total; nobody means them.
    amounts["memory"] = float(int(options.get("memory") or 0))
    for name, amount in (options.get("resources") or {}).items():
        amounts[name] = float(amount)
    accelerator = options.get("accelerator_type")
    if accelerator is not None:
        amounts[f"accelerator_type:{accelerator}"] = _ACCELERATOR_SHARE
    return {name: amount for name, amount in amounts.items() if amount}


def _check_each(options: Mapping[str, Any], rows: dict[str, _Check], what: str) -> None:
    for name, value in options.items():
        check = rows.get(name)
        if check is None:
            raise _unknown(name, rows, what)
        if value is not None:
            check(name, value)


def _unknown(name: str, rows: dict[str, _Check], what: str) -> ValueError:
    if name == "_metadata":
        return ValueError("option '_metadata' is gone; use '_labels', a dict of str to str")
    import difflib

    near = difflib.get_close_matches(name, rows, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    valid = ", ".join(sorted(rows, key=lambda row: (row.startswith("_"), row)))
    return ValueError(f"{name!r} is not an option of {what}.{hint} Options are: {valid}.")


def _check_one_placement(options: Mapping[str, Any]) -> None:
    if options.get("scheduling_strategy") is None:
        return
    group = options.get("placement_group")
    if group is not None and not isinstance(group, str):
        raise ValueError("give the placement group in 'scheduling_strategy' or alone, not in both")
    # Beside a strategy, Ray passes over these without a word.
    for name, unset in (
        ("placement_group_bundle_index", -1),
        ("placement_group_capture_child_tasks", False),
    ):
        if options.get(name) not in (None, unset):
            raise ValueError(
                f"option {name!r} does not go with 'scheduling_strategy': give it to a "
                "PlacementGroupSchedulingStrategy"
            )


def _check_supported(options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        asks_for_nothing = _NOT_YET.get(name)
        if value is not None and asks_for_nothing and not asks_for_nothing(value):
            raise NotImplementedError(f"skate does not support {name}={value!r} yet; leave it out")
