"""Whether the arguments of a call fit a signature, told before anything is sent."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

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
        """The parameters for ``check`` in another process; None if they are unknown."""
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
