"""The arguments of a call, packed: dependencies apart, plain values pickled plainly.

A top-level ObjectRef becomes a placeholder and a dependency; refs inside containers stay refs and
are reported as nested. Arguments over ``config.INLINE_MAX_BYTES`` are put into the object store
and travel as the last dependency.
"""

from __future__ import annotations

from pickle import dumps
from typing import Any

from skate.api.object_ref import ObjectRef
from skate.client.runtime import Runtime
from skate.config import INLINE_MAX_BYTES
from skate.objects.culprit import explain_failure
from skate.objects.serialization import ATOMS, NO_ARGUMENTS, NO_BUFFERS, Placeholder, serialize

# (pickled, dependencies, nested refs, a ref to keep until the message has been queued)
Packed = tuple[bytes, list[bytes] | None, list[bytes] | None, Any]
_PLAIN_CONTAINERS = (list, tuple)
_PLAIN_MAX_ITEMS = 16


def _is_plain(value: Any) -> bool:
    """Whether plain pickle is complete for the value: an atom, or a small list of atoms."""
    kind = type(value)
    if kind in ATOMS:
        return True
    return (
        kind in _PLAIN_CONTAINERS
        and len(value) <= _PLAIN_MAX_ITEMS
        and all(type(item) in ATOMS for item in value)
    )


def pack(runtime: Runtime, what: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Packed:
    """Pack the arguments of a call to ``what`` (for messages)."""
    if not args and not kwargs:
        return NO_ARGUMENTS, None, None, None
    for value in args:
        if type(value) not in ATOMS and not _is_plain(value):
            return _pack_any(runtime, what, args, kwargs)
    for value in kwargs.values():
        if type(value) not in ATOMS and not _is_plain(value):
            return _pack_any(runtime, what, args, kwargs)
    data = NO_BUFFERS + dumps((args, kwargs), 5)
    if len(data) > INLINE_MAX_BYTES:
        return _pack_any(runtime, what, args, kwargs)
    return data, None, None, None


def _pack_any(runtime: Runtime, what: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Packed:
    dependencies: list[bytes] = []

    def replaced(value: Any) -> Any:
        if type(value) is not ObjectRef:
            return value
        dependencies.append(value._id)
        return Placeholder(len(dependencies) - 1)

    packed_args = tuple([replaced(value) for value in args])
    packed_kwargs = {key: replaced(value) for key, value in kwargs.items()}
    try:
        serialized = serialize((packed_args, packed_kwargs))
    except Exception as error:
        raise explain_failure(error, f"an argument of {what}", (args, kwargs)) from error
    if serialized.size <= INLINE_MAX_BYTES:
        return serialized.to_bytes(), dependencies or None, serialized.contains, None
    object_id = runtime.put_serialized(serialized)
    return NO_ARGUMENTS, [*dependencies, object_id], None, ObjectRef(object_id)
