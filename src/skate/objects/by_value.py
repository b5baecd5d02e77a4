"""cloudpickle, with one thing kept: the file that a function was written in.

cloudpickle 3.1.3 and newer name the file of every function that travels by value
`<dynamic-code>`, so that code in different folders has equal pickles. A traceback from a worker
then lacks the user's lines. Here the file's name goes along with the code.

Import it where it is used: cloudpickle is not cheap to import.
"""

from __future__ import annotations

import io
import types
from collections import ChainMap
from typing import Any, ClassVar

import cloudpickle


def _code(arguments: tuple[Any, ...], filename: str) -> types.CodeType:
    return types.CodeType(*arguments).replace(co_filename=filename)


def _reduce_code(code: types.CodeType) -> tuple[Any, ...]:
    _, arguments = cloudpickle.CloudPickler.dispatch_table[types.CodeType](code)
    return _code, (arguments, code.co_filename)


class ByValuePickler(cloudpickle.CloudPickler):  # type: ignore[misc]
    """Also pickles functions and classes that other processes cannot import."""

    dispatch_table: ClassVar[Any] = ChainMap(
        {types.CodeType: _reduce_code}, *cloudpickle.CloudPickler.dispatch_table.maps
    )


def dumps(value: Any, buffer_callback: Any = None) -> bytes:
    """The pickle (protocol 5) of a value; `pickle.loads` reads it wherever skate is installed."""
    file = io.BytesIO()
    ByValuePickler(file, 5, buffer_callback=buffer_callback).dump(value)
    return file.getvalue()
