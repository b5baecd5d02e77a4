"""``@remote`` on classes, handles and their methods, ``@method``, ``get_actor``, ``kill``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from skate.api.arguments import pack
from skate.api.arity import Arity, Parameters
from skate.api.connected import connected
from skate.api.object_ref import ObjectRef
from skate.api.options import check_actor_options, check_method_options, demand_from_options
from skate.api.placement import placement_of
from skate.api.remote_function import Decorated
from skate.api.submission import pickle_by_value, pickled_exceptions, threads_for
from skate.client.runtime import Runtime
from skate.client.templates import function_id_of
from skate.config import ASYNC_ACTOR_CONCURRENCY
from skate.errors import (
    ActorAlreadyExistsError,
    ActorHandleNotFoundError,
    PendingCallsLimitExceeded,
)
from skate.ids import handle_id, job_of
from skate.messages import encode
from skate.spec import ActorOptions, CallTemplate, demand_of

_METHOD_OPTIONS = "__skate_method_options__"
_INJECTED = ("__ray_ready__", "__ray_call__", "__ray_terminate__")
_decode_options = msgspec.msgpack.Decoder(ActorOptions).decode


class ActorClassInheritanceException(TypeError):
    """A class was derived from one that is decorated; derive from the plain one."""


def method(*args: Any, **options: Any) -> Any:
    """Options of one actor method: ``num_returns``, ``max_task_retries`` and others."""
    if args and callable(args[0]) and not options and len(args) == 1:
        return args[0]
    if args or not options:
        raise TypeError("@method takes keyword arguments only, such as @method(num_returns=2)")
    check_method_options(options)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        setattr(function, _METHOD_OPTIONS, options)
        return function

    return decorate


class ActorMethod:
    """One method of one actor: ``handle.method``."""

    __slots__ = ("_actor_id", "_arity", "_counted", "_name", "_number", "_options", "_returns",
                 "_runtime", "_shared")  # fmt: skip

    def __init__(
        self,
        shared: _Shared,
        counted: ObjectRef[Any] | None,
        name: str,
        options: dict[str, Any],
    ) -> None:
        self._shared = shared
        self._actor_id = shared.actor_id
        self._counted = counted  # a method kept by the user keeps the actor alive
        self._name = name
        self._options = options
        self._arity = shared.arity_of(name)
        returns = options.get("num_returns")
        self._returns = 1 if returns is None else int(returns)
        self._runtime: Runtime | None = None
        self._number = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"Actor methods cannot be called directly. Instead of running "
            f"'object.{self._name}()', try 'object.{self._name}.remote()'."
        )

    def options(self, **options: Any) -> ActorMethod:
        """The same method with other options for the calls made through it."""
        check_method_options(options)
        merged = {**self._options, **options}
        return ActorMethod(self._shared, self._counted, self._name, merged)

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        """Task graphs are not supported."""
        raise NotImplementedError("bind() and task graphs are not supported yet; use remote()")

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method; at once one ref (``num_returns`` 0: None, n: a list of n refs)."""
        runtime = connected()
        if runtime is not self._runtime:
            self._export(runtime)
        shared = self._shared
        if self._arity is not None:
            self._arity.check(self._name, args, kwargs)
        if shared.max_pending_calls > 0:
            shared.check_pending(runtime)
        if args or kwargs:
            data, dependencies, nested, _keep = pack(runtime, self._name, args, kwargs)
        else:
            data, dependencies, nested, _keep = b"", None, None, None
        object_ids = runtime.call_actor(
            self._actor_id,
            self._number,
            data,
            dependencies,
            nested,
            self._returns,
            shared.options.in_order,
        )
        if self._returns == 1 and shared.max_pending_calls <= 0:
            return ObjectRef(object_ids[0])
        refs: list[ObjectRef[Any]] = [ObjectRef(object_id) for object_id in object_ids]
        if shared.max_pending_calls > 0:
            shared.pending.extend(refs[:1])
        return refs[0] if self._returns == 1 else refs or None

    def _export(self, runtime: Runtime) -> None:
        options = self._options
        retries = options.get("max_task_retries")
        spec = CallTemplate(
            kind="method",
            function_id=b"",
            name=options.get("name") or f"{self._shared.options.class_name}.{self._name}",
            num_returns=self._returns,
            max_retries=self._shared.options.max_task_retries if retries is None else retries,
            retry_exceptions=pickled_exceptions(options.get("retry_exceptions")),
            events=options.get("enable_task_events") is not False,
            method=self._name,
        )
        self._number = runtime.register(spec, None, self._name)
        self._runtime = runtime


class _Shared:
    """The state that a handle's methods share."""

    __slots__ = ("actor_id", "arities", "max_pending_calls", "options", "pending")

    def __init__(
        self,
        actor_id: bytes,
        options: ActorOptions,
        arities: dict[str, Arity] | None = None,
    ) -> None:
        self.actor_id = actor_id
        self.options = options
        self.arities = {} if arities is None else arities
        self.max_pending_calls = options.max_pending_calls
        self.pending: list[ObjectRef[Any]] = []  # also refs that the caller has dropped

    def arity_of(self, method: str) -> Arity | None:
        """The signature for a method's calls; None if it is unknown."""
        arity = self.arities.get(method)
        if arity is None and method in self.options.signatures:
            arity = Arity.of_parameters(self.options.signatures[method])
            self.arities[method] = arity
        return arity

    def check_pending(self, runtime: Runtime) -> None:
        """PendingCallsLimitExceeded if too many calls of this handle are unanswered."""
        if len(self.pending) >= self.max_pending_calls:
            runtime.connection.flush()
            runtime.connection.try_read()
            promised = runtime.values.promised
            self.pending = [ref for ref in self.pending if ref._id in promised]
            if len(self.pending) >= self.max_pending_calls:
                raise PendingCallsLimitExceeded(
                    f"{len(self.pending)} calls to {self.options.class_name} are pending, "
                    f"max_pending_calls is {self.max_pending_calls}: wait for some of them."
                )


class ActorHandle:
    """A reference to an actor; may be passed to tasks and other actors.

    The actor ends when its last handle is gone, after the calls already made. Handles from
    ``get_actor`` do not keep it alive (Ray: weak handles).
    """

    def __init__(self, shared: _Shared, counted: ObjectRef[Any] | None) -> None:
        self._shared = shared
        self._counted = counted

    def __getattr__(self, name: str) -> ActorMethod:
        shared = self.__dict__.get("_shared")
        if shared is None:
            raise AttributeError(name)
        options = shared.options.methods.get(name)
        if options is None:
            if name not in _INJECTED:
                raise AttributeError(
                    f"The actor {shared.options.class_name} has no method {name!r}. Attributes of "
                    "an actor cannot be read from outside: write a method that returns them."
                )
            options = {}
        bound = ActorMethod(shared, self._counted, name, options)
        self.__dict__[name] = bound
        return bound

    def __dir__(self) -> list[str]:
        return [*self._shared.options.methods, *_INJECTED]

    def __repr__(self) -> str:
        return f"Actor({self._shared.options.class_name}, {self._shared.actor_id.hex()})"

    def __hash__(self) -> int:
        return hash(self._shared.actor_id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and self._shared.actor_id == other._shared.actor_id

    def __reduce__(self) -> tuple[Any, ...]:
        shared = self._shared
        return _rebuild_handle, (shared.actor_id, encode(shared.options), self._counted)

    @property
    def _actor_id(self) -> _ActorId:
        return _ActorId(self._shared.actor_id)

    _ray_actor_id = _actor_id


_OF_HANDLES = frozenset(dir(ActorHandle))


class _ActorId(msgspec.Struct, frozen=True):
    """An actor's id, as Ray's libraries expect it."""

    _id: bytes

    def hex(self) -> str:
        """In hexadecimal."""
        return self._id.hex()

    def binary(self) -> bytes:
        """The 16 bytes."""
        return self._id


def _rebuild_handle(actor_id: bytes, options: bytes, counted: ObjectRef[Any] | None) -> ActorHandle:
    return ActorHandle(_Shared(actor_id, _decode_options(options)), counted)


def _public_methods(cls: type) -> dict[str, Callable[..., Any]]:
    """Name to function of all that can be called on instances; inherited ones too."""
    found = {}
    for name in dir(cls):
        value = inspect.getattr_static(cls, name, None)
        is_special = name.startswith("__") and name.endswith("__")
        if is_special and (name in _OF_HANDLES or not inspect.isfunction(value)):
            continue  # what every object has is the handle's own
        if isinstance(value, staticmethod | classmethod) or callable(value):
            found[name] = value
    return found


class _Description(NamedTuple):
    """A description of a class's methods, found once."""

    methods: dict[str, dict[str, Any]]  # name to the options of @method
    arities: dict[str, Arity]
    signatures: dict[str, Parameters]
    is_async: bool


class ActorClass(Decorated):
    """A class whose ``remote()`` creates an actor. Made by ``@remote``."""

    def __init__(self, cls: type, options: dict[str, Any]) -> None:
        self._class = cls
        self._options = options
        self._pickled: tuple[bytes, bytes] | None = None
        self._described: _Description | None = None
        self._arity: Arity | None = None
        functools.update_wrapper(self, cls, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"Actors cannot be instantiated directly. Instead of '{self._class.__name__}()', use "
            f"'{self._class.__name__}.remote()'."
        )

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        raise ActorClassInheritanceException(
            f"A class cannot inherit from {self._class.__name__}, which is decorated with "
            "@remote. Keep the plain class, inherit from that, and decorate the results."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return ActorClass, (self._class, self._options)

    def __repr__(self) -> str:
        return f"ActorClass({self._class.__name__})"

    def options(self, **options: Any) -> ActorClass:
        """The same class with other options for the actors made through it."""
        merged = {**self._options, **options}
        check_actor_options(merged)
        other = ActorClass(self._class, merged)
        other._pickled, other._described = self._pickled, self._described
        other._arity = self._arity
        return other

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        """Task graphs are not supported."""
        raise NotImplementedError("bind() and task graphs are not supported yet; use remote()")

    def remote(self, *args: Any, **kwargs: Any) -> ActorHandle:
        """Create an actor; at once its handle. The constructor runs in its own process.

        ActorAlreadyExistsError (a ValueError) if the name is taken in its namespace.
        """
        runtime = connected()
        if self._arity is None:
            self._arity = _constructor_arity(self._class)
        self._arity.check(self._class.__name__, args, kwargs)
        description = self._describe()
        options = self._actor_options(runtime, description)
        actor_id = runtime.new_task_id()
        # Steps that can fail come before the name is taken.
        number = self._export(runtime)
        data, dependencies, nested, _keep = pack(runtime, self._class.__name__, args, kwargs)
        if options.name:
            existing = self._reserve(runtime, options, actor_id)
            if existing is not None:
                return existing
        counted_id = handle_id(actor_id)
        runtime.create_actor(actor_id, counted_id, number, options, data, dependencies, nested)
        return ActorHandle(_Shared(actor_id, options, description.arities), ObjectRef(counted_id))

    def _describe(self) -> _Description:
        if self._described is None:
            methods: dict[str, dict[str, Any]] = {}
            arities: dict[str, Arity] = {}
            is_async = False
            for name, function in _public_methods(self._class).items():
                # A class or a partial that is an attribute gets no self when it is called.
                has_self = not isinstance(function, staticmethod) and hasattr(
                    type(function), "__get__"
                )
                plain = getattr(function, "__func__", function)
                options = methods[name] = dict(getattr(plain, _METHOD_OPTIONS, {}))
                if "retry_exceptions" in options:
                    options["retry_exceptions"] = pickled_exceptions(options["retry_exceptions"])
                arities[name] = Arity(plain, skip_self=has_self)
                is_async = is_async or inspect.iscoroutinefunction(plain)
                yields = inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain)
                if yields and methods[name].get("num_returns") is None:
                    raise NotImplementedError(
                        f"{self._class.__name__}.{name} is a generator: streaming its values "
                        "is not supported yet. Return a list."
                    )
            known = {name: arity.parameters for name, arity in arities.items()}
            signatures = {name: found for name, found in known.items() if found is not None}
            self._described = _Description(methods, arities, signatures, is_async)
        return self._described

    def _actor_options(self, runtime: Runtime, description: _Description) -> ActorOptions:
        given = self._options
        is_async = description.is_async
        concurrency = given.get("max_concurrency")
        if concurrency is None:
            concurrency = ASYNC_ACTOR_CONCURRENCY if is_async else 1
        pending = given.get("max_pending_calls")
        out_of_order = given.get("allow_out_of_order_execution")
        if out_of_order is False and (is_async or concurrency > 1):
            raise ValueError(
                "allow_out_of_order_execution=False cannot be kept by an async or threaded actor"
            )
        return ActorOptions(
            name=given.get("name") or "",
            namespace=given.get("namespace") or runtime.namespace,
            class_name=self._class.__name__,
            methods=description.methods,
            max_restarts=given.get("max_restarts") or 0,
            max_task_retries=given.get("max_task_retries") or 0,
            max_concurrency=concurrency,
            is_async=is_async,
            in_order=not (is_async or concurrency > 1 or bool(out_of_order)),
            detached=given.get("lifetime") == "detached",
            max_pending_calls=-1 if pending is None else pending,
            signatures=description.signatures,
        )

    def _reserve(
        self, runtime: Runtime, options: ActorOptions, actor_id: bytes
    ) -> ActorHandle | None:
        question = {
            "name": options.name,
            "namespace": options.namespace,
            "actor_id": actor_id,
            "class_name": options.class_name,
            "spec": encode(options),
        }
        while True:
            existing = runtime.ask("reserve_actor_name", question)["actor_id"]
            if existing is None:
                return None
            if not self._options.get("get_if_exists"):
                raise ActorAlreadyExistsError(
                    f"The name {options.name!r} (namespace {options.namespace!r}) is already "
                    f"taken by actor {existing.hex()}. Choose another, use get_actor(), or "
                    "get_if_exists=True."
                )
            found = _find_actor(runtime, options.name, options.namespace)
            if found is not None:  # else it has just ended: the name is free
                return found

    def _export(self, runtime: Runtime) -> int:
        name = self._class.__name__
        if self._pickled is None:
            pickled = pickle_by_value(self._class, f"the actor class {name}")
            self._pickled = function_id_of(pickled, name), pickled
        function_id, pickled = self._pickled
        placed_with, keeps = demand_from_options(self._options, is_actor=True)
        demand, running_demand = demand_of(placed_with), demand_of(keeps)
        placement = placement_of(self._options, runtime.surroundings, name, demand)
        spec = CallTemplate(
            kind="actor",
            function_id=function_id,
            name=name,
            demand=placement.demand(demand),
            running_demand=placement.demand(running_demand),
            threads=threads_for(keeps.get("CPU", 1)),
            **placement._asdict(),
        )
        return runtime.register(spec, pickled, name)


def _constructor_arity(cls: type) -> Arity:
    constructor = inspect.getattr_static(cls, "__init__")
    if constructor is object.__init__:
        return Arity(lambda: None)
    return Arity(constructor, skip_self=True)


def get_actor(name: str, namespace: str | None = None) -> ActorHandle:
    """The handle of a named actor. ValueError if there is none. The handle is weak (Ray)."""
    if not isinstance(name, str) or not name:
        raise ValueError("get_actor() takes the name that the actor was created with")
    runtime = connected()
    space = namespace if namespace is not None else runtime.namespace
    found = _find_actor(runtime, name, space)
    if found is None:
        raise ValueError(
            f"Failed to look up actor with name {name!r} in namespace {space!r}: there is none, "
            "or it has ended. Names are seen only inside their namespace; set the same one in "
            "init(namespace=...) of both programs."
        )
    return found


def list_named_actors(all_namespaces: bool = False) -> list[str] | list[dict[str, str]]:
    """The names of the living actors in this namespace, sorted.

    With ``all_namespaces`` those of everywhere, as dicts of "name" and "namespace" (Ray).
    """
    runtime = connected()
    pairs = runtime.ask(
        "named_actors", {"namespace": None if all_namespaces else runtime.namespace}
    )
    if all_namespaces:
        return [{"name": name, "namespace": namespace} for namespace, name in pairs]
    return [name for _, name in pairs]


def _find_actor(runtime: Runtime, name: str, namespace: str) -> ActorHandle | None:
    row = runtime.ask("get_actor", {"name": name, "namespace": namespace})
    if row is None or row["state"] == "DEAD" or not row["spec"]:
        return None
    return ActorHandle(_Shared(row["actor_id"], _decode_options(row["spec"])), None)


def kill(actor: Any, *, no_restart: bool = True) -> None:
    """End an actor's process at once (SIGKILL): no exit handler runs, pending calls fail.

    ValueError for anything but a handle; ActorHandleNotFoundError (a ValueError too) for a handle
    of a session that is over.
    """
    if not isinstance(actor, ActorHandle):
        raise ValueError(f"kill() takes an actor handle, not {type(actor).__name__}: {actor!r}")
    runtime = connected()
    actor_id = actor._shared.actor_id
    foreign = job_of(actor_id) != runtime.job_id
    if foreign and runtime.ask("actor_info", {"actor_id": actor_id}) is None:
        raise ActorHandleNotFoundError(f"{actor!r} is of another session, or was gone long ago")
    runtime.kill_actor(actor_id, no_restart=no_restart)
