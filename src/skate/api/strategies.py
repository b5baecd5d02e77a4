"""Where tasks and actors shall run, as values of the option ``scheduling_strategy``.

What users import as ``skate.util.scheduling_strategies``. The strings "DEFAULT" and "SPREAD" are
strategies too. A strategy checks itself when it is made, as far as that is possible without asking
anybody: whether the node or the bundle exists is found out when something is submitted.

Instances travel inside pickled functions and classes, and are never changed once made.
"""

from __future__ import annotations

from typing import Any

from skate.api.group_handle import GroupHandle
from skate.api.label_syntax import check_label_key, check_label_value
from skate.ids import NODE_ID_BYTES
from skate.spec import LabelRule, Strategy


def node_id_from(text: Any, what: str) -> bytes:
    """The NodeID that a user gave in hexadecimal, or as an id with ``hex()``.

    ValueError if it is none.
    """
    if not isinstance(text, str) and hasattr(text, "hex"):
        text = text.hex()
    try:
        node_id = bytes.fromhex(text)
    except (TypeError, ValueError):
        node_id = b""
    if len(node_id) != NODE_ID_BYTES or not any(node_id):
        raise ValueError(
            f"{what} is {text!r}, which is no id of a node: that has {2 * NODE_ID_BYTES} "
            "hexadecimal digits, as nodes() and get_runtime_context().get_node_id() give it"
        )
    return node_id


class PlacementGroupSchedulingStrategy:
    """Into a placement group: its bundle ``placement_group_bundle_index``, or (-1) any of them.

    ``placement_group_capture_child_tasks``: whether what is submitted there goes to the group as
    well, unless it says otherwise; None means "if that is so where I am". ``placement_group`` None
    (or an empty one) stands for no group. Ray: the same.
    """

    def __init__(
        self,
        placement_group: GroupHandle | None,
        placement_group_bundle_index: int = -1,
        placement_group_capture_child_tasks: bool | None = None,
    ) -> None:
        if placement_group is not None and not isinstance(placement_group, GroupHandle):
            raise TypeError(
                "the placement_group of a PlacementGroupSchedulingStrategy must be what "
                f"placement_group() returns, not {placement_group!r}"
            )
        index = placement_group_bundle_index
        if isinstance(index, bool) or not isinstance(index, int):
            raise TypeError(f"placement_group_bundle_index must be an int, not {index!r}")
        if index < -1:
            raise ValueError(f"placement_group_bundle_index must be at least -1, not {index}")
        if not isinstance(placement_group_capture_child_tasks, bool | None):
            raise TypeError(
                "placement_group_capture_child_tasks must be a bool or None, not "
                f"{placement_group_capture_child_tasks!r}"
            )
        self.placement_group = placement_group
        self.placement_group_bundle_index = index
        self.placement_group_capture_child_tasks = placement_group_capture_child_tasks

    def __repr__(self) -> str:
        return (
            f"PlacementGroupSchedulingStrategy({self.placement_group!r}, "
            f"{self.placement_group_bundle_index}, {self.placement_group_capture_child_tasks})"
        )


class NodeAffinitySchedulingStrategy:
    """To the node with this id (hexadecimal). Ray: the same.

    Without ``soft`` it fails if the node is dead or could never run it; with ``soft`` it then goes
    elsewhere. If the node is merely busy it waits there, but goes elsewhere with
    ``_spill_on_unavailable`` (soft ones only) or fails with ``_fail_on_unavailable`` (others only).
    ValueError for what is no id of a node.
    """

    def __init__(
        self,
        node_id: str,
        soft: bool,
        _spill_on_unavailable: bool = False,
        _fail_on_unavailable: bool = False,
    ) -> None:
        what = "the node_id of a NodeAffinitySchedulingStrategy"
        self.node_id = node_id_from(node_id, what).hex()
        if _spill_on_unavailable and not soft:
            raise ValueError("_spill_on_unavailable needs soft=True: it lets others take the work")
        if _fail_on_unavailable and soft:
            raise ValueError("_fail_on_unavailable needs soft=False: a soft strategy never fails")
        self.soft = bool(soft)
        self._spill_on_unavailable = bool(_spill_on_unavailable)
        self._fail_on_unavailable = bool(_fail_on_unavailable)

    def __repr__(self) -> str:
        return f"NodeAffinitySchedulingStrategy({self.node_id!r}, soft={self.soft})"

    def as_spec(self) -> Strategy:
        """What travels with the task."""
        return Strategy(
            kind="NODE",
            node_id=bytes.fromhex(self.node_id),
            soft=self.soft,
            spill_if_busy=self._spill_on_unavailable,
            fail_if_busy=self._fail_on_unavailable,
        )


def _label_values(operator: str, values: tuple[Any, ...]) -> list[str]:
    if not values:
        raise ValueError(f"{operator} needs at least one value, such as {operator}('a', 'b')")
    for value in values:
        if not isinstance(value, str):
            raise ValueError(f"the values of {operator} must be str, not {value!r}")
        check_label_value(value)
    return list(values)


class In:
    """The node has the label, with one of these values."""

    def __init__(self, *values: str) -> None:
        self.values = _label_values("In", values)

    def __repr__(self) -> str:
        return f"In{tuple(self.values)}"


class NotIn:
    """The node has none of these values for the label: another one, or not the label at all."""

    def __init__(self, *values: str) -> None:
        self.values = _label_values("NotIn", values)

    def __repr__(self) -> str:
        return f"NotIn{tuple(self.values)}"


class Exists:
    """The node has the label, whatever its value."""

    def __repr__(self) -> str:
        return "Exists()"


class DoesNotExist:
    """The node does not have the label."""

    def __repr__(self) -> str:
        return "DoesNotExist()"


Condition = In | NotIn | Exists | DoesNotExist


class NodeLabelSchedulingStrategy:
    """To nodes whose labels meet all of ``hard``; of those, to ones that meet ``soft`` if any do.

    Both map label keys to ``In``, ``NotIn``, ``Exists`` or ``DoesNotExist``. ValueError for
    anything else, and if there are no conditions at all. Ray: the same (alpha).
    """

    def __init__(
        self, hard: dict[str, Condition] | None, *, soft: dict[str, Condition] | None = None
    ) -> None:
        self.hard = _conditions("hard", hard)
        self.soft = _conditions("soft", soft)
        if not self.hard and not self.soft:
            raise ValueError("hard and soft of a NodeLabelSchedulingStrategy cannot both be empty")

    def __repr__(self) -> str:
        return f"NodeLabelSchedulingStrategy({self.hard}, soft={self.soft})"

    def as_spec(self) -> Strategy:
        """What travels with the task."""
        return Strategy(rules=_rules(self.hard), soft_rules=_rules(self.soft))


def _conditions(name: str, given: Any) -> dict[str, Condition]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise ValueError(
            f"{name} must be a dict of label key to condition, such as {{'zone': In('a')}}, not "
            f"{given!r}"
        )
    for key, condition in given.items():
        if not isinstance(key, str):
            raise ValueError(f"the keys of {name} must be str, not {key!r}")
        check_label_key(key)
        if not isinstance(condition, Condition):
            raise ValueError(
                f"{name}[{key!r}] must be In(...), NotIn(...), Exists() or DoesNotExist(), not "
                f"{condition!r}"
            )
    return dict(given)


def _rules(conditions: dict[str, Condition]) -> tuple[LabelRule, ...]:
    return tuple(_rule(key, conditions[key]) for key in sorted(conditions))


def _rule(key: str, condition: Condition) -> LabelRule:
    if isinstance(condition, In):
        return LabelRule(key, "in", tuple(condition.values))
    if isinstance(condition, NotIn):
        return LabelRule(key, "not in", tuple(condition.values))
    return LabelRule(key, "exists" if isinstance(condition, Exists) else "absent")


SchedulingStrategyT = (
    None
    | str  # "DEFAULT" or "SPREAD"
    | PlacementGroupSchedulingStrategy
    | NodeAffinitySchedulingStrategy
    | NodeLabelSchedulingStrategy
)
