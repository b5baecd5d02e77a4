"""get, put, wait: paper, table 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from skate.api.connected import connected
from skate.api.object_ref import ObjectRef
from skate.objects.culprit import explain_failure


def get(object_refs: Any, *, timeout: float | None = None, _use_object_store: bool = False) -> Any:
    """The value of a ref, or a list of the values of a list of refs, in its order.

    Waits at most ``timeout`` seconds (None: for ever, 0: not at all), then GetTimeoutError. An
    error of a task is raised, the first that is found, at once. Arrays out of shared memory are
    read-only views without a copy. ValueError for anything but a ref or a list of refs.
    """
    _check_timeout(timeout)
    if type(object_refs) is ObjectRef:
        return connected().get((object_refs._id,), timeout)[0]
    if not isinstance(object_refs, list):
        raise ValueError(
            f"Invalid type of object refs, {type(object_refs)}, is given. 'object_refs' must "
            "either be a single ObjectRef or a list of ObjectRefs."
        )
    try:
        object_ids = [ref._id for ref in object_refs if type(ref) is ObjectRef]
    except AttributeError:  # pragma: no cover - refs always have ids
        object_ids = []
    if len(object_ids) != len(object_refs):
        wrong = next(ref for ref in object_refs if type(ref) is not ObjectRef)
        raise ValueError(
            f"Invalid type of object ref, {type(wrong)}, at position {object_refs.index(wrong)}: "
            "get() takes an ObjectRef or a list of ObjectRefs."
        )
    if not object_ids:
        return []
    return connected().get(object_ids, timeout)


def put(value: Any, *, _owner: Any = None, _tensor_transport: Any = None) -> ObjectRef[Any]:
    """Store a value in the object store of this node; its ref, at once.

    TypeError for an ObjectRef (it is stored already) and for what cannot be pickled (naming the
    culprit); ObjectStoreFullError if there is no room and none becomes free.
    """
    if _owner is not None:
        raise ValueError("put(_owner=...) is not supported: the node keeps what a process has put")
    if _tensor_transport is not None:
        raise NotImplementedError("put(_tensor_transport=...) is not supported yet")
    if type(value) is ObjectRef:
        raise TypeError(
            "Calling 'put' on an ObjectRef is not allowed. If you really want to do this, wrap it "
            "in a list and call 'put' on that."
        )
    runtime = connected()
    from skate.objects.serialization import serialize

    try:
        serialized = serialize(value)
    except Exception as error:
        raise explain_failure(error, "the value given to put()", value) from error
    return ObjectRef(runtime.put_serialized(serialized))


def wait(
    ray_waitables: list[ObjectRef[Any]],
    *,
    num_returns: int = 1,
    timeout: float | None = None,
    fetch_local: bool = True,
) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
    """(ready, not ready): returns once ``num_returns`` are ready, or after ``timeout`` seconds.

    Never more than ``num_returns`` ready ones, even if more are; both lists in input order. A
    failed task counts as ready. What other nodes have is fetched first, unless ``fetch_local`` is
    False. Ray: ``ray.wait``.
    """
    global _checked
    refs: Any = ray_waitables
    if type(refs) is ObjectRef:
        raise TypeError("wait() expected a list of ObjectRefs, got a single ObjectRef")
    if not isinstance(refs, list):
        raise TypeError(f"wait() expected a list of ObjectRefs, got {type(refs)}")
    _check_timeout(timeout)
    if not refs:
        return [], []
    if num_returns != 1 or _fingerprint(refs) != _checked:
        _check_waitables(refs, num_returns)
    runtime = connected()
    positions: list[int] = []
    if num_returns == 1:  # the usual loop: one of the first is ready, no need to look at all
        here = runtime.values.here
        for position, ref in enumerate(refs):
            if ref._id in here:
                positions = [position]
                break
    if not positions:
        positions = runtime.wait(
            [ref._id for ref in refs], num_returns, timeout, anywhere=not fetch_local
        )
    ready = [refs[position] for position in positions]
    if len(positions) == 1:
        position = positions[0]
        rest = refs[:position] + refs[position + 1 :]
        if rest:
            _checked = _fingerprint(rest)
        return ready, rest
    chosen = set(positions)
    return ready, [ref for position, ref in enumerate(refs) if position not in chosen]


# The list that the last wait() left over. `while refs: done, refs = wait(refs)` is the usual loop,
# and checking a thousand refs anew each time would cost more than the waiting.
_checked: tuple[int, int, bytes, bytes] | None = None


def _fingerprint(refs: list[Any]) -> tuple[int, int, bytes, bytes] | None:
    try:
        return id(refs), len(refs), refs[0]._id, refs[-1]._id
    except AttributeError:
        return None


def _check_waitables(refs: Sequence[Any], num_returns: int) -> None:
    if isinstance(num_returns, bool) or not isinstance(num_returns, int):
        raise TypeError(f"num_returns has to be an int, not {num_returns!r}")
    if num_returns <= 0:
        raise ValueError(f"Invalid number of objects to return {num_returns}.")
    if num_returns > len(refs):
        raise ValueError(
            f"num_returns cannot be greater than the number of refs: {num_returns} > {len(refs)}"
        )
    try:
        unique = set(refs)
    except TypeError:
        unique = set()
    if set(map(type, refs)) != {ObjectRef}:
        wrong = next(ref for ref in refs if type(ref) is not ObjectRef)
        raise TypeError(f"wait() expected a list of ObjectRefs, got a list with {type(wrong)}")
    if len(unique) != len(refs):
        raise ValueError("Wait requires a list of unique object refs.")


def _check_timeout(timeout: Any) -> None:
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout has to be a number of seconds or None, not {timeout!r}")
    if timeout < 0:
        raise ValueError(f"The 'timeout' argument must be nonnegative. Received {timeout}")
