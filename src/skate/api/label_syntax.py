"""Labels of nodes as users write them: checks, and selectors turned into `LabelRule`s.

The syntax is that of Kubernetes. A key is a name of at most 63 characters (letters, digits, and
``-``, ``_``, ``.`` inside), with or without a prefix of at most 253 and a slash before it; a value
is empty or looks like a name. A selector is a dict of key to ``"v"``, ``"!v"``, ``"in(a, b)"`` or
``"!in(a, b)"``.

Called by the code that takes labels from a user: options, placement groups, ``init``. Pure.
Matching nodes with rules is elsewhere (scheduler/label_rules.py).
"""

from __future__ import annotations

import re
from typing import Any

from skate.scheduler.label_rules import NODE_ID_LABEL
from skate.spec import LabelRule

PREFIX_MAX_CHARS = 253

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_PREFIX_PART = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?")
_LIST = re.compile(r"(?:in)?\((.*)\)")

_LOOKS = (
    "at most 63 letters, digits, '-', '_' and '.', of which the first and the last are a letter or "
    "a digit"
)


def check_label_key(key: Any) -> None:
    """TypeError or ValueError unless a label may be called that."""
    if not isinstance(key, str):
        raise TypeError(f"the key of a label must be a str, not {key!r}")
    prefix, slash, name = key.rpartition("/")
    if slash and (
        len(prefix) > PREFIX_MAX_CHARS
        or not all(_PREFIX_PART.fullmatch(part) for part in prefix.split("."))
    ):
        raise ValueError(
            f"{prefix!r} cannot stand before the slash of the label key {key!r}: that is a DNS name"
            f" of at most {PREFIX_MAX_CHARS} characters, such as 'example.org'"
        )
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot be (the name of) a label key: that has {_LOOKS}")


def check_label_value(value: Any) -> None:
    """TypeError or ValueError unless a label may have that value."""
    if not isinstance(value, str):
        raise TypeError(f"the value of a label must be a str, not {value!r}")
    if value and not _NAME.fullmatch(value):
        raise ValueError(f"{value!r} cannot be the value of a label: that is empty or has {_LOOKS}")


def check_node_labels(labels: Any) -> None:
    """TypeError or ValueError unless a node may be started with these labels."""
    if not isinstance(labels, dict):
        raise TypeError(f"labels has to be a dict of strings to strings, not {labels!r}")
    for key, value in labels.items():
        try:
            check_label_key(key)
            check_label_value(value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"labels: {error}") from None
    if NODE_ID_LABEL in labels:
        raise ValueError(f"the label {NODE_ID_LABEL!r} is given by skate: it is the node's id")


def selector_rules(selector: Any) -> tuple[LabelRule, ...]:
    """The rules that a label selector stands for, in the order of its keys.

    TypeError or ValueError for one that is not written as it has to be.
    """
    if not isinstance(selector, dict):
        raise TypeError(
            f"a label selector must be a dict of label key to value, such as {{'zone': 'a'}}, not "
            f"{type(selector).__name__}: {selector!r}"
        )
    for key in selector:
        check_label_key(key)
    return tuple(_rule(key, selector[key]) for key in sorted(selector))


def _rule(key: str, text: Any) -> LabelRule:
    if not isinstance(text, str):
        raise TypeError(f"what a selector wants of the label {key!r} must be a str, not {text!r}")
    is_negated = text.startswith("!")
    wanted = text[1:] if is_negated else text
    among = _LIST.fullmatch(wanted)
    values = [part.strip(" ") for part in among[1].split(",")] if among else [wanted]
    # No value at all can be asked for (the label is there and empty), but not excluded or listed.
    if text and not all(_NAME.fullmatch(value) for value in values):
        raise ValueError(
            f"{text!r} is nothing that a selector may want of the label {key!r}: that is 'a', '!a',"
            f" 'in(a, b)' or '!in(a, b)', where each value has {_LOOKS}"
        )
    return LabelRule(key, "not in" if is_negated else "in", tuple(values))
