"""Functions and call templates, as one connection knows them: each is sent once, then a number.

The runtime hands a template here before the first call that uses it. A template's number is the
count of those before it; the node keeps the same count.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable

from skate import messages as m
from skate.client.connection import Connection
from skate.config import FUNCTION_WARN_BYTES, MAX_FUNCTION_BYTES
from skate.spec import CallTemplate


class Templates:
    """See the module's docstring."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._functions: set[bytes] = set()
        self._numbers: dict[CallTemplate, int] = {}
        self.on_new: Callable[[CallTemplate, m.RegisterFunction | None], None] = lambda s, f: None

    def register(self, spec: CallTemplate, pickled: bytes | None, name: str) -> int:
        """This connection's number for a template; sends it, and its function, the first time."""
        connection = self._connection
        with connection.lock:
            number = self._numbers.get(spec)
            if number is None:
                function = None
                if pickled is not None:
                    function = m.RegisterFunction(spec.function_id, pickled, name)
                if function is not None and spec.function_id not in self._functions:
                    self._functions.add(spec.function_id)
                    connection.append_locked(function, len(function.data))
                number = self._numbers[spec] = len(self._numbers)
                self.on_new(spec, function)
                connection.append_locked(m.RegisterTemplate(number, spec))
        return number


def function_id_of(pickled: bytes, name: str) -> bytes:
    """The content hash that names a function. ValueError if it is too large to be one."""
    if len(pickled) > MAX_FUNCTION_BYTES:
        raise ValueError(
            f"The remote function {name} is too large ({len(pickled) / 1e6:.0f} MB, at most "
            f"{MAX_FUNCTION_BYTES / 1e6:.0f} MB). It probably captures a large array or other "
            "object. Store that with put() and pass the ref as an argument instead."
        )
    if len(pickled) > FUNCTION_WARN_BYTES:
        warnings.warn(
            f"The remote function {name} is very large ({len(pickled) / 1e6:.0f} MB). Check that "
            "it does not capture a large array by accident; put() that and pass the ref.",
            stacklevel=4,
        )
    return hashlib.blake2b(pickled, digest_size=16).digest()
