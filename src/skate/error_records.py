"""How errors travel between processes, and what `get` raises when one has arrived.

An error travels as an `ErrorRecord`: plain text and plain fields that a node daemon can make, read
and forward, plus the pickled exception of the user, which only drivers and workers ever open.

Invariants: `raise_form` never raises, and never returns what is not an `Exception`; text alone
always tells the whole story, whatever fails to load.

Not here: the classes (errors.py), and the unpickler (an argument, as the runtime knows its own).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from skate.error_pickles import load_cause, rebuild, shortened
from skate.errors import (
    CLASSES,
    OMITTED,
    SystemFailureError,
    TaskError,
    UnserializableException,
    lines_of_chain,
    pickled_cause,
)

if TYPE_CHECKING:
    from traceback import TracebackException

# Frames of files under this prefix are skate's own; users' tracebacks leave them out.
_PACKAGE_PREFIX = __file__.removesuffix("error_records.py")

# Names kept in `ErrorRecord.chain`: half from the start, half from the end, so that ten thousand
# dependent tasks do not carry a list of ten thousand names each.
CHAIN_NAMES = 20


class ErrorRecord(msgspec.Struct, array_like=True, frozen=True):
    """One error on the wire. Daemons read all of it but `pickled_cause`."""

    kind: str
    """Name of a class in errors.py, such as "TaskError" or "WorkerCrashedError"."""
    message: str
    """Text for people; for a TaskError the formatted remote traceback."""
    fields: dict[str, Any] = {}
    """Attributes of the error, plain values only: function_name, pid, ip, actor_id (hex), ..."""
    pickled_cause: bytes = b""
    """The user's exception, cloudpickled; empty when there is none or it cannot be pickled."""
    chain: list[str] = []
    """Tasks that did not run because of it, each depending on the one before."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(ErrorRecord)


def encode_error(record: ErrorRecord) -> bytes:
    """The record as MessagePack; text that is not valid Unicode is escaped, never refused."""
    try:
        return _encoder.encode(record)
    except UnicodeEncodeError:
        return _encoder.encode(_escape(msgspec.to_builtins(record, builtin_types=(bytes,))))


def decode_error(data: bytes) -> ErrorRecord:
    """The record in `data`; `msgspec.DecodeError` if it is none. Fields of newer peers are cut."""
    return _decoder.decode(data)


def with_dependant(record: ErrorRecord, name: str) -> ErrorRecord:
    """The record as task `name` fails with it: `name` joins the chain, within `CHAIN_NAMES`."""
    chain = [*record.chain, name]
    if len(chain) > CHAIN_NAMES:
        half = CHAIN_NAMES // 2
        chain = [*chain[:half], OMITTED, *chain[-half + 1 :]]
    return msgspec.structs.replace(record, chain=chain)


def record_task_error(
    exc: BaseException,
    function_name: str,
    *,
    pid: int,
    ip: str = "",
    actor_repr: str = "",
    actor_id: str = "",
) -> ErrorRecord:
    """The record of `exc`, raised by the user's function `function_name` in this process.

    Called in the worker, with `exc` still carrying its traceback. A task that lets the error of
    another task through keeps that one's cause, and shows both tracebacks.
    """
    cause = exc.cause if isinstance(exc, TaskError) else exc
    pickled = pickled_cause(cause)
    fields: dict[str, Any] = {"function_name": function_name, "pid": pid}
    fields |= {"ip": ip} if ip else {}
    fields |= {"actor_repr": actor_repr} if actor_repr else {}
    fields |= {"actor_id": actor_id} if actor_id else {}
    fields |= {} if pickled else {"unserializable": True}
    return ErrorRecord("TaskError", shortened(_format_traceback(exc)), fields, pickled)


def raise_form(record: ErrorRecord, loads: Callable[[bytes], Any]) -> Exception:
    """The exception that `get` raises for this record; a new one at each call, never a failure.

    `loads` opens `pickled_cause`. Where that fails the error is still of its kind and its text
    complete. A kind that this version does not know becomes a `SystemFailureError`.
    """
    cause, problem = load_cause(record.pickled_cause, loads)
    if record.kind == "TaskError":
        return _raise_form_of_task_error(record, cause, problem)
    known = CLASSES.get(record.kind)
    cls = known or SystemFailureError
    text = record.message if known else f"{record.kind}: {record.message}"
    text = "\n".join([text or cls._default_text, *problem, *_record_chain_lines(record)])
    state = {name: value for name, value in record.fields.items() if not name.startswith("_")}
    if cls._text_attribute:
        state[cls._text_attribute] = text
    if isinstance(cause, BaseException) and issubclass(cls, SystemFailureError):
        state["client_exc"] = cause
    error: Exception = rebuild(cls, (text,), state)
    error.__cause__ = cause
    return error


def _raise_form_of_task_error(
    record: ErrorRecord, cause: BaseException | None, problem: list[str]
) -> TaskError:
    text = "\n".join([record.message.rstrip(), *problem])
    fields = record.fields
    error = TaskError(
        str(fields.get("function_name", "")),
        text,
        cause or UnserializableException(text),
        fields.get("proctitle"),
        fields.get("pid"),
        fields.get("ip"),
        fields.get("actor_repr"),
        fields.get("actor_id"),
    )
    if record.chain:
        error.__dict__["_chain"] = tuple(record.chain)
    return error.as_instanceof_cause()


def _format_traceback(exc: BaseException) -> str:
    """The traceback as Python prints it, with causes and groups, less the frames of skate."""
    from traceback import TracebackException

    whole = TracebackException.from_exception(exc)
    waiting: list[TracebackException | None] = [whole]
    while waiting:
        part = waiting.pop()
        if part is None:
            continue
        _hide_own_frames(part)
        waiting += [part.__cause__, part.__context__, *(part.exceptions or ())]
    return "".join(whole.format()).rstrip()


def _hide_own_frames(part: TracebackException) -> None:
    # With no frame of the user's, the innermost stays: it is the only hint at where.
    users = [frame for frame in part.stack if not frame.filename.startswith(_PACKAGE_PREFIX)]
    part.stack[:] = users or part.stack[-1:]


def _escape(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {_escape(key): _escape(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_escape(item) for item in value]
    return value


def _record_chain_lines(record: ErrorRecord) -> list[str]:
    return lines_of_chain(str(record.fields.get("function_name", "")), tuple(record.chain))
