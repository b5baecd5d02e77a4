"""``@remote``: on a function or a class, bare or with options.

Loads little (remote_function.py says why); actors come with the first class.
"""

from __future__ import annotations

import types

from skate.api.remote_function import Decorated, RemoteFunction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_ROUTINES = (
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
)


def remote(*args: Any, **options: Any) -> Any:
    """Make a function a remote function, or a class an actor class.

    ``@remote`` or ``@remote(num_cpus=2, ...)``. ValueError or TypeError for wrong options, as the
    tables of api/options.py say. Ray: ``ray.remote``.
    """
    if len(args) == 1 and not options and callable(args[0]):
        return _decorate(args[0], {})
    if args or not options:
        raise TypeError(
            "The @remote decorator must be applied either with no arguments and no parentheses, "
            "for example '@skate.remote', or it must be applied using some of the arguments, for "
            "example '@skate.remote(num_returns=2)'."
        )

    def decorate(target: Callable[..., Any]) -> Any:
        return _decorate(target, options)

    return decorate


def _decorate(target: Any, options: dict[str, Any]) -> Any:
    if isinstance(target, Decorated):
        raise TypeError(f"{target!r} is decorated with @remote already")
    if isinstance(target, type):
        from skate.api.actor_handle import ActorClass
        from skate.api.options import check_actor_options

        check_actor_options(options)
        return ActorClass(target, options)
    if isinstance(target, _ROUTINES) or hasattr(target, "__code__"):
        if options:
            from skate.api.options import check_task_options

            check_task_options(options, decorator=True)
        return RemoteFunction(target, options)
    raise TypeError(
        f"The @remote decorator must be applied to either a function or a class, not {target!r}."
    )
