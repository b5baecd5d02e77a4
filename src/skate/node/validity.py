"""Checks of a well-formed message of a client: the rules between its fields. Pure.

Types and lengths of frames are the decoder's business; the node's parts rely on these rules. They
are called where templates, tasks and actors come in; a breach raises ValueError, which ends the
client's connection and nothing else.
"""

from __future__ import annotations

from skate.config import RETURNS_MAX
from skate.error_records import ErrorRecord, decode_error
from skate.ids import TASK_ID_BYTES
from skate.spec import CallTemplate, Demand

KINDS = ("task", "actor", "method")


def check_template(spec: CallTemplate, function_is_known: bool) -> None:
    """A template names its kind, its function was registered, its numbers make sense."""
    if spec.kind not in KINDS:
        raise ValueError(f"a template of kind {spec.kind!r}")
    if not function_is_known and (spec.function_id or spec.kind != "method"):
        raise ValueError(f"a template of the unknown function {spec.function_id.hex()}")
    if not 0 <= spec.num_returns <= RETURNS_MAX:
        raise ValueError(f"{spec.num_returns} returns; at most {RETURNS_MAX:,}")
    placed = _units(spec.demand)
    for name, units in _units(spec.running_demand).items():
        if units > placed.get(name, 0):
            raise ValueError(f"an actor that keeps more {name} than it is placed with")


def _units(demand: Demand) -> dict[str, int]:
    units = dict(demand)
    if len(units) != len(demand) or any(amount <= 0 for amount in units.values()):
        raise ValueError(f"a demand of {demand}")
    return units


def check_call(task_id: bytes, spec: CallTemplate, kind: str) -> None:
    """A call has an id of the right size and a template of the right kind."""
    if spec.kind != kind or len(task_id) != TASK_ID_BYTES:
        raise ValueError(f"a call of a {kind} with a template of a {spec.kind}")


def read_error(payload: bytes) -> ErrorRecord:
    """The record in an error payload that a client made; a record of the fault if it has none."""
    try:
        return decode_error(payload[1:])
    except ValueError as error:  # of msgspec too
        return ErrorRecord("SystemFailureError", f"an error value that cannot be read: {error}")
