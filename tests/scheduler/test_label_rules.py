"""Rules about labels: what they say of a node, and how they read."""

from __future__ import annotations

import pytest

from skate.scheduler.label_rules import NODE_ID_LABEL, labels_of, meets, rules_text
from skate.spec import LabelRule

LABELS = labels_of(b"\xab" * 16, {"zone": "a", "empty": ""})


@pytest.mark.parametrize(
    ("rule", "holds"),
    [
        (LabelRule("zone", "in", ("b", "a")), True),
        (LabelRule("zone", "in", ("b",)), False),
        (LabelRule("nowhere", "in", ("",)), False),
        (LabelRule("zone", "not in", ("b",)), True),
        (LabelRule("zone", "not in", ("a", "b")), False),
        (LabelRule("nowhere", "not in", ("a",)), True),
        (LabelRule("empty", "exists"), True),
        (LabelRule("nowhere", "exists"), False),
        (LabelRule("nowhere", "absent"), True),
        (LabelRule("empty", "absent"), False),
        (LabelRule(NODE_ID_LABEL, "in", ("ab" * 16,)), True),
    ],
)
def test_what_a_rule_says(rule: LabelRule, holds: bool) -> None:
    assert meets(LABELS, [rule]) is holds


def test_all_rules_have_to_hold_and_none_is_no_condition() -> None:
    good, bad = LabelRule("zone", "in", ("a",)), LabelRule("zone", "absent")
    assert meets(LABELS, [])
    assert not meets(LABELS, [good, bad])


def test_nobody_can_take_the_name_of_another_node() -> None:
    assert labels_of(b"\xab" * 16, {NODE_ID_LABEL: "mine"}) == {NODE_ID_LABEL: "ab" * 16}


def test_a_rule_that_is_none_says_so() -> None:
    with pytest.raises(ValueError, match="'zone' says 'like'"):
        meets(LABELS, [LabelRule("zone", "like", ("a",))])


def test_rules_in_words() -> None:
    rules = [
        LabelRule("zone", "in", ("a",)),
        LabelRule("kind", "not in", ("x", "y")),
        LabelRule("disk", "exists"),
        LabelRule("old", "absent"),
    ]
    assert rules_text(rules) == (
        "with label zone = a and with label kind not in (x, y) and with label disk"
        " and without label old"
    )
