"""Runs one call: a task, an actor's constructor or a method. It knows not where the call came from.

Whoever takes calls in (the loop for what the node sends, or a lane) hands each to ``execute`` with
its template, and gets the ``Done`` by a callback. An event loop does the steps by itself:
``prepare``, the call, then ``done`` or ``ended_by``. What calls share is here: functions,
the actor, the GPUs that are shown.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import time
from collections.abc import Callable
from pickle import dumps
from typing import Any, NoReturn

from skate import messages as m
from skate.client.runtime import Runtime, current_call
from skate.config import INLINE_MAX_BYTES
from skate.error_records import ErrorRecord, encode_error, record_task_error
from skate.errors import TaskError, UserCodeException
from skate.ids import return_id
from skate.messages import Done
from skate.objects.culprit import explain_failure
from skate.objects.serialization import (
    ATOMS,
    NO_ARGUMENTS,
    NO_BUFFERS,
    NONE,
    Placeholder,
    deserialize,
    serialize,
)
from skate.spec import FORMAT_ERROR, CallTemplate


class ActorExit(BaseException):
    """Raised by exit_actor(): the actor ends after this call."""


class Executor:
    """See the module's docstring. ``leave`` is called when the actor ends itself, with why."""

    def __init__(
        self, runtime: Runtime, setup: m.WorkerSetup, leave: Callable[[str], None]
    ) -> None:
        self._runtime = runtime
        self._leave = leave
        self._actor_id = setup.actor_id
        self._clock_offset = setup.clock_offset
        self.pickled: dict[bytes, m.RegisterFunction] = {}
        self.functions: dict[bytes, Any] = {}
        self.actor: Any = None
        self.actor_class: type | None = None
        self.actor_name = setup.actor.class_name if setup.actor is not None else ""
        self.actor_template: CallTemplate | None = None
        self.restarted = False
        self.ended_at = 0.0  # when the last call ended
        self._actor_repr: str | None = None
        self._gpus: list[int] | None = None  # by index among the node's
        self._visible_gpus = os.environ.get("CUDA_VISIBLE_DEVICES")

    def on_function(self, message: m.RegisterFunction) -> None:
        """The code of a function or class; it is unpickled by the first call that needs it."""
        self.pickled[message.function_id] = message

    def execute(
        self,
        run: m.Run,
        spec: CallTemplate,
        answer: Callable[[m.Done], None],
        started: float | None = None,
    ) -> None:
        """Run a task, a constructor or a call, and ``answer``; user code's errors are answers too.

        ``started`` is the time, if it is known.

        The arguments are let go before the answer leaves, but a value with refs inside after it:
        until the node has heard of the container, nobody else may hold those.
        """
        if started is None:
            started = time.monotonic()
        token = current_call.set((run, spec))
        function = arguments = keywords = value = None
        try:
            try:
                function, arguments, keywords = self.prepare(run, spec)
                value = function(*arguments, **keywords)
                if spec.kind == "actor":
                    self.actor, value = value, None
                done = self.done(run, spec, value, started)
            except BaseException as error:
                done = self.ended_by(run, spec, error, started)
        finally:
            current_call.reset(token)
            function = arguments = keywords = None
        if done.results is None:
            value = None
        answer(done)

    def prepare(self, run: m.Run, spec: CallTemplate) -> tuple[Any, Any, Any]:
        """(callable, args, kwargs) of a run."""
        if run.gpus != self._gpus and not (run.gpus is None and self._actor_id):
            self._show_gpus(run.gpus)
        kind = spec.kind
        if kind == "task":
            self._runtime.enter(spec.group, spec.capture)
            function = self.functions.get(spec.function_id) or self.load(spec.function_id)
        elif kind == "actor":
            self._runtime.enter(spec.group, spec.capture)  # for life: its calls say nothing
            function = self.actor_class = self.load(spec.function_id)
            self.actor_template = spec
            self.restarted = run.attempt > 0
        else:
            function = self._method(spec.method)
        data: Any = run.arguments
        if run.values is None:
            if data == NO_ARGUMENTS:
                return function, (), {}
            arguments, keywords = deserialize(data)
            return function, arguments, keywords
        return (function, *self._with_values(run))

    def _show_gpus(self, gpus: list[int] | None) -> None:
        # An actor keeps what its constructor was given; a task worker takes on each task's.
        self._gpus = gpus
        if gpus is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, self.gpu_ids()))
        elif self._visible_gpus is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self._visible_gpus
        else:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)

    def gpu_ids(self) -> list[int | str]:
        """The devices given to what runs here: a part of those that the driver sees."""
        names = [name.strip() for name in (self._visible_gpus or "").split(",") if name.strip()]
        ids = [names[i] if i < len(names) else str(i) for i in self._gpus or ()]
        return [int(name) if name.isdigit() else name for name in ids]

    def _with_values(self, run: m.Run) -> tuple[Any, Any]:
        assert run.values is not None and run.dependencies is not None
        values = [
            self._runtime.value_of(value, object_id)
            for value, object_id in zip(run.values, run.dependencies, strict=True)
        ]
        # Arguments too large for the message are themselves the last dependency.
        if run.arguments == NO_ARGUMENTS:
            arguments, keywords = values.pop()
        else:
            arguments, keywords = deserialize(run.arguments)
        return (
            tuple(values[a.index] if type(a) is Placeholder else a for a in arguments),
            {key: values[a.index] if type(a) is Placeholder else a for key, a in keywords.items()},
        )

    def load(self, function_id: bytes) -> Any:
        """Unpickle a function or class, once."""
        message = self.pickled[function_id]
        function = self.functions[function_id] = pickle.loads(message.data)
        return function

    def _method(self, name: str) -> Any:
        if name == "__ray_call__":
            return lambda function, *args, **kwargs: function(self.actor, *args, **kwargs)
        if name == "__ray_ready__":
            return lambda: True
        if name == "__ray_terminate__":
            return _end_actor
        return getattr(self.actor, name)

    def done(self, run: m.Run, spec: CallTemplate, value: Any, started: float) -> m.Done:
        """The Done of a task that returned ``value``."""
        count = spec.num_returns
        if count == 1:
            if value is None:
                return self._done(run, started, NONE)
            if type(value) in ATOMS and type(value) is not bytes:
                data = NO_BUFFERS + dumps(value, 5)
                if len(data) <= INLINE_MAX_BYTES:
                    return self._done(run, started, data)
            values: Any = (value,)
        elif count == 0:
            values = ()
        else:
            values = self._several(value, count, spec.name)
        results = [
            self._result(return_id(run.task_id, index), one, spec.name)
            for index, one in enumerate(values)
        ]
        if count == 1 and not results[0].contains and not results[0].value.size:
            return self._done(run, started, results[0].value.data)
        return self._done(run, started, results=results)

    def _done(
        self,
        run: m.Run,
        started: float,
        data: bytes = b"",
        *,
        results: list[m.Result] | None = None,
        failed: bool = False,
        retry: bool = False,
    ) -> m.Done:
        offset = self._clock_offset
        self.ended_at = ended = time.monotonic()
        return Done(
            run.task_id, run.attempt, started + offset, ended + offset, data, results, failed,
            retry,
        )  # fmt: skip

    def _several(self, value: Any, count: int, name: str) -> list[Any]:
        try:
            values = list(value)
        except TypeError:
            raise ValueError(
                f"{name} was declared with num_returns={count}, so it has to return "
                f"{count} values in a tuple or list; it returned a {type(value).__name__}"
            ) from None
        if len(values) != count:
            raise ValueError(
                f"{name} was declared with num_returns={count}, so it has to return "
                f"{count} values; it returned {len(values)}"
            )
        return values

    def _result(self, object_id: bytes, value: Any, name: str) -> m.Result:
        try:
            serialized = serialize(value)
        except Exception as error:
            raise explain_failure(error, f"the result of {name}", value) from error
        if serialized.size <= INLINE_MAX_BYTES:
            return m.Result(m.Value(serialized.to_bytes()), serialized.contains)
        return m.Result(self._runtime.extents.write(object_id, serialized), serialized.contains)

    def ended_by(
        self, run: m.Run, spec: CallTemplate, error: BaseException, started: float
    ) -> m.Done:
        """The Done of a task that did not return: it raised, or it ended its actor."""
        if isinstance(error, ActorExit):
            return self._exit_actor(run, spec, started)
        return self._failed(run, spec, error, started)

    def _failed(
        self, run: m.Run, spec: CallTemplate, error: BaseException, started: float
    ) -> m.Done:
        """The Done of a task that raised ``error``."""
        record = record_task_error(
            error,
            f"{self.actor_name}.{spec.method}" if spec.kind == "method" else spec.name,
            pid=os.getpid(),
            actor_repr=self._repr_of_actor() if self._actor_id else "",
            actor_id=self._actor_id.hex(),
        )
        record.fields["cause_type"] = type(error).__name__
        payload = FORMAT_ERROR + encode_error(record)
        retry = self._is_retried(spec, error)
        return self._done(run, started, payload, failed=True, retry=retry)

    def _is_retried(self, spec: CallTemplate, error: BaseException) -> bool:
        wanted = spec.retry_exceptions
        if isinstance(wanted, bool) or not isinstance(error, Exception):
            return wanted is True and isinstance(error, Exception)
        cause: BaseException | None = error
        if isinstance(error, TaskError | UserCodeException):
            cause = getattr(error, "cause", None) or error.__cause__ or error
        return isinstance(cause, pickle.loads(wanted))

    def _repr_of_actor(self) -> str:
        """As of the first use after the constructor, as in Ray; "" without a ``__repr__``."""
        actor = self.actor
        if actor is not None and self._actor_repr is None:
            self._actor_repr = ""  # should it print, or fail
            kind: Any = type(actor)
            if kind.__repr__ is not object.__repr__:
                with contextlib.suppress(Exception):
                    self._actor_repr = str(repr(actor))
        return self._actor_repr or ""

    def _exit_actor(self, run: m.Run, spec: CallTemplate, started: float) -> m.Done:
        self._leave("exit_actor() was called")
        record = ErrorRecord(
            kind="ActorDiedError",
            message=f"The actor {self.actor_name} ended itself: exit_actor() was called in "
            f"{spec.name}.",
            fields={"actor_id": self._actor_id.hex()},
        )
        return self._done(run, started, FORMAT_ERROR + encode_error(record), failed=True)

    def log_name(self) -> str:
        """What prints are labelled with: the task's name, or the actor's repr or class."""
        if self._actor_id:
            return self._repr_of_actor() or self.actor_name
        call = current_call.get()
        return "" if call is None else call[1].name


def _end_actor() -> NoReturn:
    raise ActorExit
