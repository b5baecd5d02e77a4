"""Every error that skate raises, as one tree.

Called by everyone. Three branches under `SkateError` say who can do something about it:

- `UsageError`: the calling program made a mistake; the same call will fail again.
- `RemoteCodeError`: the user's own code, run elsewhere, raised or was stopped.
- `ClusterFailureError`: something below the user's code failed: a process, a node, memory, disk.

`SystemFailureError` is one leaf of the third branch (an internal error), not the branch: whoever
catches internal errors must not swallow, say, a `WorkerCrashedError` that they retry.

Invariant: every class survives pickling with its attributes.
Not here: how errors travel between processes (error_records.py), and who retries what.
"""

from __future__ import annotations

import functools
import pickle
import types
from typing import Any, ClassVar, TypeGuard

from skate.error_pickles import load_cause, pickle_cause
from skate.error_pickles import rebuild as _rebuild

OMITTED = "..."
"""In a chain of tasks: names that were left out."""


class SkateError(Exception):
    """Root of all errors that skate raises on its own account."""

    # What str() says when the error was made without a text.
    _default_text: ClassVar[str] = ""
    # The attribute that holds the text, for classes that promise one.
    _text_attribute: ClassVar[str] = ""

    def __str__(self) -> str:
        return super().__str__() or self._default_text

    def __reduce__(self) -> tuple[Any, ...]:
        # The inherited form calls the class with `args`, which fits few of our constructors.
        return _rebuild, (type(self), self.args, dict(self.__dict__))


# --- the user's mistake ---------------------------------------------------------------------------


class UsageError(SkateError):
    """The calling program made a mistake; trying again changes nothing."""


class AuthenticationError(UsageError):
    """The cluster token is missing or wrong. `message` says which."""

    _text_attribute = "message"
    message: str = ""

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message


class RuntimeEnvSetupError(UsageError):
    """The runtime environment of a task or actor could not be prepared."""

    _default_text = "the runtime environment could not be prepared"
    _text_attribute = "error_message"
    error_message: str | None = None

    def __init__(self, error_message: str | None = None) -> None:
        super().__init__(error_message or "")
        self.error_message = error_message


class PendingCallsLimitExceeded(UsageError):
    """The actor handle has `max_pending_calls` calls under way; raised by `.remote()`."""


class ActorAlreadyExistsError(UsageError, ValueError):
    """An actor of this name already lives in the namespace."""


class ActorHandleNotFoundError(UsageError, ValueError):
    """The actor handle comes from another session, or its actor was never known here."""


# --- the user's remote exception ------------------------------------------------------------------


class RemoteCodeError(SkateError):
    """The user's code, run in another process, raised or was stopped."""


class UserCodeException(RemoteCodeError):
    """For user code to wrap an exception of its own; `retry_exceptions` looks at its cause."""


class UnserializableException(RemoteCodeError):
    """Stands in for an exception that cannot be pickled; `original_stack_trace` is its text."""

    _text_attribute = "original_stack_trace"
    original_stack_trace: str = ""

    def __init__(self, original_stack_trace: str = "") -> None:
        super().__init__(original_stack_trace)
        self.original_stack_trace = original_stack_trace


class AsyncioActorExit(RemoteCodeError):
    """Raised inside an async actor to end it."""


class TaskCancelledError(RemoteCodeError):
    """The task was cancelled before it had a result."""

    _default_text = "the task was cancelled"
    _text_attribute = "error_message"
    task_id: str | None = None
    error_message: str | None = None

    def __init__(self, task_id: str | None = None, error_message: str | None = None) -> None:
        text = error_message or (f"task {task_id} was cancelled" if task_id else "")
        super().__init__(text)
        self.task_id = task_id
        self.error_message = error_message


class TaskError(RemoteCodeError):
    """The user's function raised. What `get` raises is also an instance of the cause's class.

    `cause` is the original exception (`UnserializableException` if it could not travel),
    `traceback_str` its remote traceback, `pid`, `ip`, `actor_repr` and `actor_id` (hex) say where
    it ran. Attributes not known here are looked up on the cause.
    """

    # Class-level defaults, so that a cause's class can never take these names over.
    function_name: str = ""
    traceback_str: str = ""
    cause: BaseException | None = None
    proctitle: str = ""
    pid: int | None = None
    ip: str = ""
    actor_repr: str | None = None
    actor_id: str | None = None
    _chain: tuple[str, ...] = ()

    def __init__(
        self,
        function_name: str = "",
        traceback_str: str = "",
        cause: BaseException | None = None,
        proctitle: str | None = None,
        pid: int | None = None,
        ip: str | None = None,
        actor_repr: str | None = None,
        actor_id: str | None = None,
    ) -> None:
        super().__init__(traceback_str if cause is None else cause)
        self.__dict__.update(
            function_name=function_name,
            traceback_str=traceback_str,
            cause=cause,
            proctitle=proctitle or f"skate::{function_name}()",
            pid=pid,
            ip=ip or "",
            actor_repr=actor_repr or None,
            actor_id=actor_id or None,
        )

    def as_instanceof_cause(self) -> TaskError:
        """This error as an instance of the cause's class too, or itself where that cannot be."""
        cause = self.__dict__.get("cause")
        if not _may_be_dual(cause):
            return self
        try:
            return self if isinstance(self, type(cause)) else _make_dual(self, cause)
        except Exception:  # whatever a foreign class objects to, the plain error tells the same
            return self

    def __getattr__(self, name: str) -> Any:
        cause = self.__dict__.get("cause")
        if cause is None or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(cause, name)

    def __str__(self) -> str:
        where = [f"pid={self.pid}"] if self.pid is not None else []
        where += [f"ip={self.ip}"] if self.ip else []
        where += [f"actor_id={self.actor_id}"] if self.actor_id else []
        where += [f"repr={self.actor_repr}"] if self.actor_repr else []
        title = f"{self.proctitle} ({', '.join(where)})" if where else self.proctitle
        return "\n".join(
            [title, self.traceback_str.rstrip(), *lines_of_chain(self.function_name, self._chain)]
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # The cause goes as bytes, in the form that is known to load; a plain reference to it would
        # let a user's odd constructor break the loading of whatever value holds this error.
        cause = self.__dict__.get("cause")
        copied = {} if cause is None else vars(cause)
        state = {
            name: value
            for name, value in self.__dict__.items()
            if name in _TASK_ERROR_FIELDS or name not in copied or copied[name] is not value
        }
        state.pop("cause", None)
        pickled = None if cause is None else pickled_cause(cause)
        return _rebuild_task_error, (type(self) is not TaskError, state, pickled)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return self.__reduce__()  # before a cause's class puts its own in the way


_TASK_ERROR_FIELDS = frozenset(TaskError.__annotations__)


# --- a failure below the user's code --------------------------------------------------------------


class ClusterFailureError(SkateError):
    """A process, a node, memory, disk or the network failed the call; it may succeed later."""


class SystemFailureError(ClusterFailureError):
    """An internal error, or a value that cannot be deserialized."""

    client_exc: BaseException | None = None
    traceback_str: str | None = None

    def __init__(
        self, client_exc: BaseException | str = "", traceback_str: str | None = None
    ) -> None:
        text = str(client_exc)
        super().__init__(f"{text}\n{traceback_str}" if traceback_str else text)
        self.client_exc = client_exc if isinstance(client_exc, BaseException) else None
        self.traceback_str = traceback_str


class RuntimeClosedError(ClusterFailureError):
    """The connection is gone: after `shutdown()`, in a forked child, or when the node ended."""

    _default_text = "skate is not connected in this process; call skate.init() first"


class WorkerCrashedError(ClusterFailureError):
    """The worker process died while it ran the task."""

    _default_text = "the worker process died while it ran this task"


class LocalNodeDiedError(ClusterFailureError):
    """The node daemon of this machine died."""

    _default_text = "the node daemon of this machine died"


class NodeDiedError(ClusterFailureError):
    """The node that ran the task, or held the object, is lost."""

    _default_text = "the node died"
    _text_attribute = "message"
    message: str = ""

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message


class OutOfMemoryError(ClusterFailureError):
    """The worker was killed because its machine was running out of memory."""

    _default_text = "the worker was killed because the machine ran out of memory"
    _text_attribute = "message"
    message: str = ""

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message


class ObjectStoreFullError(ClusterFailureError):
    """The object store is full and nothing in it can be moved."""

    _default_text = "the object store is full"


class OutOfDiskError(ClusterFailureError):
    """The disk that takes spilled objects is full."""

    _default_text = "the local disk is full"


class GetTimeoutError(ClusterFailureError, TimeoutError):
    """The value did not come within the timeout given; it may still come."""

    _default_text = "the value was not available within the timeout"


class ActorError(ClusterFailureError):
    """An actor could not answer. `actor_id` is hex; `error_msg` says what is known.

    `actor_init_failed`: its constructor raised. `preempted`: its node was taken away on purpose.
    """

    _default_text = "the actor died before this call was finished"
    _text_attribute = "error_msg"
    actor_id: str | None = None
    error_msg: str = ""
    actor_init_failed: bool = False
    preempted: bool = False

    def __init__(
        self,
        error_msg: str | None = None,
        actor_id: str | bytes | None = None,
        *,
        actor_init_failed: bool = False,
        preempted: bool = False,
    ) -> None:
        super().__init__(error_msg or "")
        self.actor_id = actor_id.hex() if isinstance(actor_id, bytes) else actor_id
        self.error_msg = error_msg or self._default_text
        self.actor_init_failed = actor_init_failed
        self.preempted = preempted


class ActorDiedError(ActorError):
    """The actor is dead for good; the text says why."""


class ActorUnavailableError(ActorError):
    """The actor cannot be reached now: the call **may or may not have run**; later ones may."""

    _default_text = "the actor is unavailable for now; this call may or may not have run"


class ObjectLostError(ClusterFailureError):
    """All copies of an object are gone. `object_ref_hex` names it."""

    _default_text = "all copies of the object are lost"
    object_ref_hex: str = ""
    owner_address: str = ""
    call_site: str = ""

    def __init__(
        self,
        object_ref_hex: str = "",
        owner_address: str = "",
        call_site: str = "",
        *,
        message: str = "",
    ) -> None:
        about = f"object {object_ref_hex}: {self._default_text}" if object_ref_hex else ""
        super().__init__(message or about)
        self.object_ref_hex = object_ref_hex
        self.owner_address = owner_address
        self.call_site = call_site


class ObjectFetchTimedOutError(ObjectLostError):
    """The object could not be fetched from the nodes said to hold it."""

    _default_text = "it could not be fetched in time"


class OwnerDiedError(ObjectLostError):
    """The process that the object belonged to is gone, and the value with it."""

    _default_text = "its owner died"


class ObjectFreedError(ObjectLostError):
    """The object was freed by hand while still referred to."""

    _default_text = "it was freed by hand"


class ReferenceCountingAssertionError(ObjectLostError, AssertionError):
    """The object was used after its last reference had gone."""

    _default_text = "it was used after it had been deleted"


class ObjectReconstructionFailedError(ObjectLostError):
    """The object was lost and could not be computed again.

    `reason`: MAX_ATTEMPTS_EXCEEDED, LINEAGE_EVICTED, PUT, RETRIES_DISABLED, BORROWED,
    REF_NOT_FOUND, TASK_CANCELLED or LINEAGE_DISABLED; `reason_message` explains it.
    """

    _default_text = "it was lost and could not be computed again"
    reason: str = ""
    reason_message: str = ""

    def __init__(
        self,
        object_ref_hex: str = "",
        owner_address: str = "",
        call_site: str = "",
        *,
        reason: str = "",
        reason_message: str = "",
        message: str = "",
    ) -> None:
        super().__init__(object_ref_hex, owner_address, call_site, message=message)
        self.reason = reason
        self.reason_message = reason_message


class TaskUnschedulableError(ClusterFailureError):
    """No node can ever run the task (a hard constraint names a node that is gone)."""

    _default_text = "the task cannot be scheduled"
    _text_attribute = "error_message"
    error_message: str = ""

    def __init__(self, error_message: str = "") -> None:
        super().__init__(error_message)
        self.error_message = error_message


class ActorUnschedulableError(ClusterFailureError):
    """No node can ever run the actor (a hard constraint names a node that is gone)."""

    _default_text = "the actor cannot be scheduled"
    _text_attribute = "error_message"
    error_message: str = ""

    def __init__(self, error_message: str = "") -> None:
        super().__init__(error_message)
        self.error_message = error_message


class TaskPlacementGroupRemoved(ClusterFailureError):
    """The placement group that the task was to run in has been removed."""

    _default_text = "the placement group of this task was removed"


class ActorPlacementGroupRemoved(ClusterFailureError):
    """The placement group that the actor lived in has been removed."""

    _default_text = "the placement group of this actor was removed"


CLASSES: dict[str, type[SkateError]] = {
    name: value
    for name, value in list(globals().items())
    if isinstance(value, type) and issubclass(value, SkateError)
}


# --- TaskError as an instance of its cause's class ------------------------------------------------


def _may_be_dual(cause: BaseException | None) -> TypeGuard[Exception]:
    """Whether `get` may raise an instance of the cause's class.

    Not KeyboardInterrupt, SystemExit and the like: they would end the driver. Not StopIteration: it
    would silently end whatever loop the driver calls `get` in.
    """
    return isinstance(cause, Exception) and not isinstance(
        cause, StopIteration | StopAsyncIteration | UnserializableException
    )


@functools.lru_cache(maxsize=256)
def _dual_class(cause_class: type[Exception]) -> tuple[type[TaskError], tuple[Any, ...]]:
    """The class `TaskError(<cause>)`, and the descriptors to copy from cause to error.

    The descriptors are `errno` of OSError, `__slots__` of the user's classes and their like: they
    live on the class, so that looking them up would never reach the cause.
    """
    name = f"TaskError({cause_class.__name__})"
    body = {"__module__": __name__, "__qualname__": name, "__doc__": TaskError.__doc__}
    dual = types.new_class(name, (TaskError, cause_class), exec_body=lambda ns: ns.update(body))
    descriptors = tuple(
        attribute
        for base in cause_class.__mro__
        if base is not BaseException
        for name, attribute in vars(base).items()
        if isinstance(attribute, types.MemberDescriptorType | types.GetSetDescriptorType)
        and not name.startswith("__")
    )
    return dual, descriptors


def _bare_instance(cls: type[TaskError], cause: Exception) -> TaskError:
    """An instance of `cls` made without running any code of the cause's class."""
    base: Any = cls
    while isinstance(base.__new__, types.FunctionType):
        base = base.__base__
    if isinstance(cause, ExceptionGroup):
        return base.__new__(cls, cause.message, cause.exceptions)  # type: ignore[no-any-return]
    return base.__new__(cls)  # type: ignore[no-any-return]


def _make_dual(error: TaskError, cause: Exception) -> TaskError:
    cause_class: Any = type(cause)  # hashable, whatever its instances are
    cls, descriptors = _dual_class(cause_class)
    dual = _bare_instance(cls, cause)
    object.__setattr__(dual, "args", (cause,))
    copied = {name: value for name, value in vars(cause).items() if not name.startswith("__")}
    dual.__dict__.update({**copied, **error.__dict__})
    for descriptor in descriptors:
        try:
            descriptor.__set__(dual, descriptor.__get__(cause, type(cause)))
        except (AttributeError, TypeError):
            continue  # unset in the cause, or read-only
    return dual


def _rebuild_task_error(dual: bool, state: dict[str, Any], pickled: bytes | None) -> TaskError:
    text = state.get("traceback_str", "")
    cause = None
    if pickled is not None:
        loaded, problem = load_cause(pickled, pickle.loads)
        text = "\n".join([text, *problem])
        cause = loaded or UnserializableException(text)
    error = TaskError("", text, cause)
    error.__dict__.update(state, traceback_str=text)
    return error.as_instanceof_cause() if dual else error


def pickled_cause(cause: BaseException | None) -> bytes:
    """The cause of a TaskError as bytes that will load, or b"" for one that has none to send."""
    if cause is None or isinstance(cause, UnserializableException):
        return b""
    return pickle_cause(cause)


def lines_of_chain(failed: str, chain: tuple[str, ...]) -> list[str]:
    """One line for each task that did not run, naming the one it depended on."""
    lines = []
    before = f"{failed}()" if failed else "a task"
    for name in chain:
        if name == OMITTED:
            lines.append("  ...")
            before = "another task"
            continue
        lines.append(f"  {name}() did not run: it depends on {before}, which failed")
        before = f"{name}()"
    return ["This error was passed on:", *lines] if lines else []
