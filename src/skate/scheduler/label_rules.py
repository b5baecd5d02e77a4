"""Which nodes a task may go to by their labels (`spec.LabelRule`).

The global scheduler and the choice of bundles ask it. Every node has one label more than it was
started with: `NODE_ID_LABEL`, its NodeID in hex. The API parses what users write and turns it into
rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from skate.spec import LabelRule

NODE_ID_LABEL = "ray.io/node-id"


def labels_of(node_id: bytes, labels: Mapping[str, str]) -> dict[str, str]:
    """All labels of a node, with the one that names it."""
    return {**labels, NODE_ID_LABEL: node_id.hex()}


def meets(labels: Mapping[str, str], rules: Iterable[LabelRule]) -> bool:
    """Whether all rules hold of a node with these labels. ValueError for an unknown `op`."""
    return all(_holds(labels, rule) for rule in rules)


def rules_text(rules: Iterable[LabelRule]) -> str:
    """The rules in words, for errors and for the list of what waits."""
    return " and ".join(_text(rule) for rule in rules)


def _holds(labels: Mapping[str, str], rule: LabelRule) -> bool:
    value = labels.get(rule.key)
    if rule.op == "in":
        return value is not None and value in rule.values
    if rule.op == "not in":  # a node without the label has none of the values
        return value is None or value not in rule.values
    if rule.op == "exists":
        return value is not None
    if rule.op == "absent":
        return value is None
    raise ValueError(
        f"a rule for label {rule.key!r} says {rule.op!r}: it has to be"
        ' "in", "not in", "exists" or "absent"'
    )


def _text(rule: LabelRule) -> str:
    if rule.op == "exists":
        return f"with label {rule.key}"
    if rule.op == "absent":
        return f"without label {rule.key}"
    if rule.op == "in" and len(rule.values) == 1:
        return f"with label {rule.key} = {rule.values[0]}"
    return f"with label {rule.key} {rule.op} ({', '.join(rule.values)})"
