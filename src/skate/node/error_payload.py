"""Error values that a node makes itself; it never opens those of users."""

from __future__ import annotations

from typing import Any

from skate.error_records import ErrorRecord, encode_error
from skate.spec import FORMAT_ERROR


def error_payload(kind: str, message: str, **fields: Any) -> bytes:
    """A payload that makes get() raise the named error."""
    return FORMAT_ERROR + encode_error(ErrorRecord(kind=kind, message=message, fields=fields))
