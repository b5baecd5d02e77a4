"""ObjectRef: a promise of a value somewhere in the cluster. Paper, table 1: a *future*."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from skate.client import runtime as runtime_module
from skate.errors import RuntimeClosedError
from skate.ids import OBJECT_ID_BYTES, TASK_ID_BYTES, job_of
from skate.objects.reference_counter import process_journal
from skate.objects.serialization import pickling

if TYPE_CHECKING:  # at run time where they are used: a program that awaits nothing starts sooner
    import asyncio
    import concurrent.futures

T = TypeVar("T")


class ObjectRef(msgspec.Struct, Generic[T], frozen=True, weakref=True):
    """A reference to an object; equal and hashed by id. The object lives while any ref does.

    A ref may be passed to tasks and actors (at the top level of the arguments it is replaced by its
    value, inside containers it stays a ref), awaited in asyncio code, and stored in other objects.
    It is a C-level struct, because programs hold hundreds of thousands of them.
    """

    _id: bytes

    def __del__(self, _died: Callable[[bytes], None] = process_journal.append) -> None:
        # May run at any bytecode of any thread: nothing but an atomic append (reference_counter).
        _died(self._id)

    def __reduce__(self) -> tuple[Any, ...]:
        if pickling.contained is not None:
            pickling.contained.append(self._id)
        runtime_module.escape(self._id)
        return _rebuild, (self._id,)

    def __copy__(self) -> ObjectRef[T]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> ObjectRef[T]:
        return self

    def __repr__(self) -> str:
        return f"ObjectRef({self._id.hex()})"

    def binary(self) -> bytes:
        """The id: 20 bytes."""
        runtime_module.escape(self._id)
        return self._id

    def hex(self) -> str:
        """The id in hexadecimal."""
        runtime_module.escape(self._id)
        return self._id.hex()

    def is_nil(self) -> bool:
        """Whether this is ``ObjectRef.nil()``."""
        return self._id == NIL

    def job_id(self) -> str:
        """The job whose task made it, in hexadecimal."""
        return job_of(self._id).hex()

    def task_id(self) -> str:
        """The task that makes it (for put: the process that put it), in hexadecimal."""
        return self._id[:TASK_ID_BYTES].hex()

    def future(self) -> concurrent.futures.Future[T]:
        """A concurrent Future of the value. Its callbacks run on a thread of skate's."""
        import concurrent.futures

        runtime = _connected()
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        runtime.when_ready(self._id, partial(_deliver, runtime, self, future))
        return future

    def as_future(self) -> asyncio.Future[T]:
        """An asyncio future of the value, on the running loop."""
        import asyncio

        runtime = _connected()
        loop = asyncio.get_running_loop()
        if runtime.futures.call_soon is None:
            return asyncio.wrap_future(self.future(), loop=loop)
        future: asyncio.Future[T] = loop.create_future()
        runtime.when_ready(self._id, partial(_deliver, runtime, self, future))
        return future

    def __await__(self) -> Generator[Any, None, T]:
        return self.as_future().__await__()

    @classmethod
    def nil(cls) -> ObjectRef[Any]:
        """A ref to nothing."""
        return cls(NIL)

    @classmethod
    def from_binary(cls, data: bytes) -> ObjectRef[Any]:
        """The ref of an id got from ``binary()``."""
        if len(data) != OBJECT_ID_BYTES:
            raise ValueError(f"an ObjectRef id has {OBJECT_ID_BYTES} bytes, not {len(data)}")
        return _rebuild(data)

    @classmethod
    def from_hex(cls, text: str) -> ObjectRef[Any]:
        """The ref of an id got from ``hex()``."""
        return cls.from_binary(bytes.fromhex(text))

    @classmethod
    def size(cls) -> int:
        """The length of an id in bytes."""
        return OBJECT_ID_BYTES


NIL = b"\xff" * OBJECT_ID_BYTES


def _rebuild(object_id: bytes) -> ObjectRef[Any]:
    """A ref out of a pickle: one more in this process (reference_counter)."""
    process_journal.append((object_id,))
    return ObjectRef(object_id)


def _deliver(
    runtime: runtime_module.Runtime,
    ref: ObjectRef[T],
    future: concurrent.futures.Future[T] | asyncio.Future[T],
) -> None:
    """What a future is told once its value is here. No closure: one that names itself is a cycle,
    and would keep the ref until it is collected."""
    import concurrent.futures

    if isinstance(future, concurrent.futures.Future):
        if not future.running() and not future.set_running_or_notify_cancel():
            return
    elif future.cancelled():
        return
    try:
        found = runtime.get_here(ref._id)
        if not found:  # the copy here has been evicted meanwhile: fetch it again
            runtime.when_ready(ref._id, partial(_deliver, runtime, ref, future))
            return
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(found[0])


def _connected() -> runtime_module.Runtime:
    runtime = runtime_module.current()
    if runtime is None:
        raise RuntimeClosedError("skate is not connected: call init() first")
    return runtime
