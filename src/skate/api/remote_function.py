"""``@remote`` on functions: paper, table 1, ``f.remote(args)``.

Loads little: the first call loads what it takes to submit (submission.py).
"""

from __future__ import annotations

import functools
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from skate.api.submission import Submission

# Of a code object's flags, as module inspect names them.
_CO_GENERATOR, _CO_COROUTINE = 0x20, 0x80


class Decorated:
    """The result of ``@remote``; decorating it again is a mistake."""


class RemoteFunction(Decorated):
    """A function whose ``remote()`` submits a task. Made by ``@remote``."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        flags = _code_flags(function)
        if flags & _CO_COROUTINE:
            raise ValueError(
                "'async def' cannot be used for remote tasks; use asyncio.run inside a plain "
                "function, or an actor with async methods"
            )
        if flags & _CO_GENERATOR and options.get("num_returns") is None:
            raise NotImplementedError(
                f"{function.__name__} is a generator: streaming its values is not supported yet. "
                "Return a list, or set num_returns to the number of values it yields."
            )
        self._function = function
        self._options = options
        self._name = str(options.get("name") or getattr(function, "__name__", repr(function)))
        self._origin: RemoteFunction | None = None  # the function whose options() made this one
        self._submission: Submission | None = None
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
        from skate.api.options import check_task_options

        check_task_options(options, decorator=False)
        merged = {**self._options, **options}
        check_task_options(merged, decorator=True)
        other = RemoteFunction(self._function, merged)
        other._origin = self
        return other

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        """Task graphs are not supported."""
        raise NotImplementedError("bind() and task graphs are not supported yet; use remote()")

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Submit the task; at once one ref (``num_returns`` 0: None, n: a list of n refs).

        TypeError if the arguments do not fit the signature or cannot be pickled.
        """
        submission = self._submission
        if submission is None:
            submission = self._prepare()
        return submission.submit(args, kwargs)

    def _prepare(self) -> Submission:
        """The first call."""
        if self._submission is None:
            from skate.api.submission import Submission

            origin = self._origin._prepare() if self._origin is not None else None
            self._submission = Submission(self._function, self._name, self._options, origin)
        return self._submission


def _code_flags(function: Any) -> int:
    """What kind of function it is, found as module inspect finds it."""
    while isinstance(function, types.MethodType):
        function = function.__func__
    while isinstance(function, functools.partial):
        function = function.func
    code = getattr(function, "__code__", None)
    return code.co_flags if isinstance(code, types.CodeType) else 0
