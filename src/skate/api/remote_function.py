"""``@remote`` on functions: paper, table 1, ``f.remote(args)``."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from typing import Any

from skate.api.arguments import pack
from skate.api.connected import connected
from skate.api.object_ref import ObjectRef
from skate.api.options import check_task_options, demand_from_options
from skate.api.placement import placement_of
from skate.client.runtime import Runtime, Surroundings
from skate.client.templates import function_id_of
from skate.objects.culprit import explain_failure
from skate.objects.reference_counter import process_journal
from skate.objects.serialization import pickling
from skate.spec import CallTemplate, demand_of

DEFAULT_MAX_RETRIES = 3


def threads_for(num_cpus: float) -> int:
    """The OMP_NUM_THREADS of a worker that was given so many CPUs (Ray's rule)."""
    return max(1, int(num_cpus))


def pickled_exceptions(value: Any) -> bool | bytes:
    """The wire form of ``retry_exceptions``."""
    if isinstance(value, bytes):  # it has travelled with a handle
        return value
    if not value or value is True:
        return bool(value)
    from skate.objects import by_value

    return by_value.dumps(tuple(value))


# (name, kind, whether it has a default) of each parameter: a signature as plain data.
Parameters = list[tuple[str, int, bool]]


class Arity:
    """Checks calls against a signature; the common case costs two comparisons."""

    __slots__ = ("_high", "_low", "_signature")

    def __init__(self, function: Callable[..., Any], *, skip_self: bool = False) -> None:
        self._low, self._high = 0, -1
        self._signature: inspect.Signature | None = None
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):  # builtins without one: the worker will tell
            return
        self._of(list(signature.parameters.values())[1 if skip_self else 0 :])

    @classmethod
    def of_parameters(cls, parameters: Parameters) -> Arity:
        """The arity that ``parameters`` has described in another process."""
        arity = cls.__new__(cls)
        arity._low, arity._high = 0, -1
        arity._of(
            [
                inspect.Parameter(
                    name,
                    inspect._ParameterKind(kind),
                    default=... if has_default else inspect.Parameter.empty,
                )
                for name, kind, has_default in parameters
            ]
        )
        return arity

    @property
    def parameters(self) -> Parameters | None:
        """What has to be known for ``check`` elsewhere; None if nothing is known."""
        if self._signature is None:
            return None
        return [
            (p.name, int(p.kind), p.default is not inspect.Parameter.empty)
            for p in self._signature.parameters.values()
        ]

    def _of(self, parameters: list[inspect.Parameter]) -> None:
        self._signature = inspect.Signature(parameters)
        simple = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        if all(p.kind in simple for p in parameters):
            self._high = len(parameters)
            self._low = sum(p.default is inspect.Parameter.empty for p in parameters)

    def check(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """TypeError if the call does not fit."""
        if not kwargs and self._low <= len(args) <= self._high:
            return
        if self._signature is None:
            return
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{name}{self._signature}: {error}") from None


class RemoteFunction:
    """A function whose ``remote()`` submits a task. Made by ``@remote``."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        if inspect.iscoroutinefunction(function):
            raise ValueError(
                "'async def' cannot be used for remote tasks; use asyncio.run inside a plain "
                "function, or an actor with async methods"
            )
        if inspect.isgeneratorfunction(function) and options.get("num_returns") is None:
            raise NotImplementedError(
                f"{function.__name__} is a generator: streaming its values is not supported yet. "
                "Return a list, or set num_returns to the number of values it yields."
            )
        self._function = function
        self._options = options
        self._name = str(options.get("name") or getattr(function, "__name__", repr(function)))
        self._arity: Arity | None = None
        self._surroundings: Surroundings | None = None  # of the runtime: what _number is good for
        self._number = 0
        self._pickled: tuple[bytes, bytes] | None = None  # function id, pickle
        self._origin: RemoteFunction | None = None  # whose options() made this one
        returns = options.get("num_returns")
        self._returns = 1 if returns is None else returns
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"Remote functions cannot be called directly. Instead of running "
            f"'{self._name}()', try '{self._name}.remote()'."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteFunction, (self._function, self._options)

    def __repr__(self) -> str:
        return f"RemoteFunction({self._name})"

    def options(self, **options: Any) -> RemoteFunction:
        """The same function with other options for the calls made through it."""
        check_task_options(options, decorator=False)
        merged = {**self._options, **options}
        check_task_options(merged, decorator=True)
        other = RemoteFunction(self._function, merged)
        other._origin = self
        other._arity = self._arity
        return other

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        """Task graphs are not supported."""
        raise NotImplementedError("bind() and task graphs are not supported yet; use remote()")

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Submit the task; at once one ref (``num_returns`` 0: None, n: a list of n refs).

        TypeError if the arguments do not fit the signature or cannot be pickled.
        """
        runtime = connected()
        if runtime.surroundings is not self._surroundings:
            self._export(runtime)
        assert self._arity is not None
        self._arity.check(self._name, args, kwargs)
        if args or kwargs:
            data, dependencies, nested, _keep = pack(runtime, self._name, args, kwargs)
        else:
            data, dependencies, nested, _keep = b"", None, None, None
        object_ids = runtime.submit(self._number, data, dependencies, nested, self._returns)
        if self._returns == 1:
            return ObjectRef(object_ids[0])
        return [ObjectRef(object_id) for object_id in object_ids] or None

    def _pickle(self) -> tuple[bytes, bytes]:
        # Once for all that options() has made of it: they are often made anew for each call.
        if self._pickled is None:
            if self._origin is not None:
                self._pickled = self._origin._pickle()
            else:
                pickled = pickle_by_value(self._function, f"the remote function {self._name}")
                self._pickled = function_id_of(pickled, self._name), pickled
        return self._pickled

    def _export(self, runtime: Runtime) -> None:
        surroundings = runtime.surroundings
        if self._arity is None:
            self._arity = Arity(self._function)
        function_id, pickled = self._pickle()
        options = self._options
        amounts, _ = demand_from_options(options, is_actor=False)
        demand = demand_of(amounts)
        placement = placement_of(options, surroundings, self._name, demand)
        retries = options.get("max_retries")
        if retries is None:
            retries = int(os.environ.get("RAY_TASK_MAX_RETRIES", DEFAULT_MAX_RETRIES))
        calls = options.get("max_calls")
        if calls is None:
            calls = 1 if options.get("num_gpus") else 0
        spec = CallTemplate(
            kind="task",
            function_id=function_id,
            name=self._name,
            demand=placement.demand(demand),
            num_returns=self._returns,
            max_retries=retries,
            retry_exceptions=pickled_exceptions(options.get("retry_exceptions")),
            max_calls=calls,
            threads=threads_for(amounts.get("CPU", 0)),
            events=options.get("enable_task_events") is not False,
            **placement._asdict(),
        )
        self._number = runtime.register(spec, pickled, self._name)
        self._surroundings = surroundings


def pickle_by_value(value: Any, what: str) -> bytes:
    """cloudpickle, with an error that names the culprit.

    Refs and handles that a function captures live as long as this process is connected (as in
    Ray): nobody can tell when its pickle will be loaded for the last time.
    """
    from skate.objects import by_value

    outer = pickling.contained
    captured: list[bytes] = []
    pickling.contained = captured
    try:
        pickled = by_value.dumps(value)
    except Exception as error:
        raise explain_failure(error, what, value) from error
    finally:
        pickling.contained = outer
    for object_id in captured:
        process_journal.append((object_id,))  # a birth that no death will follow
    return pickled
