"""The part of a value that cannot be pickled: the path to the innermost one, for the error."""

from __future__ import annotations

import inspect
from typing import Any

_MAX_DEPTH = 6
_MAX_PARTS = 200


def _can_pickle(value: Any) -> bool:
    from skate.objects import by_value

    try:
        by_value.dumps(value, lambda buffer: False)
    except Exception:
        return False
    return True


def _parts(value: Any) -> list[tuple[str, Any]]:
    """The named parts of a value that its pickle would contain."""
    if isinstance(value, dict):
        return [(f"[{key!r}]", item) for key, item in list(value.items())[:_MAX_PARTS]]
    if isinstance(value, list | tuple | set | frozenset):
        return [(f"[{index}]", item) for index, item in enumerate(list(value)[:_MAX_PARTS])]
    if inspect.ismethod(value):
        return [(".__self__", value.__self__)]
    if inspect.isfunction(value):
        closure = inspect.getclosurevars(value)
        found = [(f" captures {name}", item) for name, item in closure.nonlocals.items()]
        return found + [(f" uses global {name}", item) for name, item in closure.globals.items()]
    state = getattr(value, "__dict__", None)
    if isinstance(state, dict):
        return [(f".{name}", item) for name, item in list(state.items())[:_MAX_PARTS]]
    return []


def find_culprit(name: str, value: Any) -> tuple[str, Any]:
    """(path, object) of the innermost part that fails to pickle."""
    for _ in range(_MAX_DEPTH):
        for suffix, part in _parts(value):
            if not _can_pickle(part):
                name, value = name + suffix, part
                break
        else:
            break
    return name, value


def explain_failure(error: Exception, what: str, value: Any) -> TypeError:
    """The error for the user: what failed, which part is to blame, what to do."""
    if what.startswith("an argument of "):
        args, kwargs = value
        for label, part in [
            *((f"argument {index}", item) for index, item in enumerate(args)),
            *((f"argument {key!r}", item) for key, item in kwargs.items()),
        ]:
            if not _can_pickle(part):
                what = f"{label} of {what.removeprefix('an argument of ')}"
                value = part
                break
    path, culprit = find_culprit("it", value)
    where = "" if path == "it" else f" The culprit is {path.removeprefix('it').strip(' ')}:"
    try:
        shown = repr(culprit)[:200]
    except Exception:
        shown = object.__repr__(culprit)
    return TypeError(
        f"Could not serialize {what}: {type(error).__name__}: {error}.{where} "
        f"{shown} (type {type(culprit).__module__}.{type(culprit).__qualname__}). Make it inside "
        "the task, or pass what it can be made from (a path, an address) instead."
    )
