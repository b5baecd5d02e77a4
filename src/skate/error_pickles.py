"""Exceptions of users as bytes that are known to load again, whatever their classes do.

Called where an error is recorded, pickled and raised (errors.py, error_records.py). User code runs
in here, as pickling calls it: any refusal of it is an answer, never an error of ours.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

from skate.config import ERROR_CAUSE_MAX_BYTES, ERROR_TEXT_MAX_CHARS


def rebuild(cls: type[Any], args: tuple[Any, ...], state: dict[str, Any]) -> Any:
    """An exception of `cls` with these args and attributes, without running its `__init__`."""
    error = cls.__new__(cls, *args)
    # Past the class's own __setattr__, which may refuse (a frozen dataclass does).
    object.__setattr__(error, "args", args)
    error.__dict__.update(state)
    return error


def load_cause(
    pickled: bytes, loads: Callable[[bytes], Any]
) -> tuple[BaseException | None, list[str]]:
    """The cause, and lines for the reader if it would not load."""
    if not pickled:
        return None, []
    try:
        cause = loads(pickled)
        if not isinstance(cause, BaseException):
            raise TypeError(f"a {type(cause).__name__} is no exception")
    except Exception as failure:
        reason = f"{type(failure).__name__}: {failure}"
        return None, [f"(the original exception could not be loaded here: {reason})"]
    return cause, []


def pickle_cause(cause: BaseException) -> bytes:
    """The cause as bytes that are known to load again, or b"".

    An exception whose constructor wants other arguments than its `args` pickles but does not load;
    it is then sent as class, args and attributes. One that is too large is sent shortened.
    """
    data = _loadable_pickle(cause) or _loadable_pickle(_ByParts(cause))
    if len(data) > ERROR_CAUSE_MAX_BYTES:
        data = _loadable_pickle(_Shortened(cause))
    return data if len(data) <= ERROR_CAUSE_MAX_BYTES else b""


def _loadable_pickle(form: Any) -> bytes:
    from skate.objects import by_value

    try:
        data = by_value.dumps(form)
        return data if isinstance(pickle.loads(data), BaseException) else b""
    except Exception:  # the user's code runs here: any refusal is an answer
        return b""


class _ByParts:
    """Pickles an exception so that its constructor does not run when it is loaded."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, (type(self.error), self.error.args, dict(vars(self.error)))


class _Shortened:
    """Pickles what is small of an exception: its class, long texts cut, no large attributes."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        error = self.error
        state = {name: value for name, value in vars(error).items() if _is_small(value)}
        args = [value if _is_small(value) else shortened(str(value)) for value in error.args]
        return rebuild, (type(error), tuple(args), state)


def _is_small(value: Any) -> bool:
    if isinstance(value, str | bytes):
        return len(value) <= ERROR_TEXT_MAX_CHARS
    return value is None or type(value) in (int, float, bool)


def shortened(text: str) -> str:
    """The text, its middle left out if it is long beyond reading."""
    over = len(text) - ERROR_TEXT_MAX_CHARS
    if over <= 0:
        return text
    half = ERROR_TEXT_MAX_CHARS // 2
    return f"{text[:half]}\n[... {over} characters left out ...]\n{text[-half:]}"
