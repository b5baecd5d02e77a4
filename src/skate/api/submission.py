"""How the calls of a remote function are submitted: its pickle, its call template, its arguments.

The other half of remote_function.py, loaded by the first ``remote()``: what a decorator makes has
to cost little, since programs are decorated before they start anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from skate.api.arguments import pack
from skate.api.arity import Arity
from skate.api.connected import connected
from skate.api.object_ref import ObjectRef
from skate.api.options import demand_from_options
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


class Submission:
    """Submits the calls of one remote function with one set of options.

    ``origin`` is that of the function whose ``options()`` made this one: what is the same for both
    is done once.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        options: dict[str, Any],
        origin: Submission | None,
    ) -> None:
        self._function = function
        self._name = name
        self._options = options
        self._origin = origin
        self._arity: Arity = Arity(function) if origin is None else origin._arity
        self._surroundings: Surroundings | None = None  # of the runtime: what _number is good for
        self._number = 0
        self._pickled: tuple[bytes, bytes] | None = None  # function id, pickle
        returns = options.get("num_returns")
        self._returns = 1 if returns is None else returns

    def submit(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One call."""
        runtime = connected()
        if runtime.surroundings is not self._surroundings:
            self._export(runtime)
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
