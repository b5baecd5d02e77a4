"""Rows of placement groups, for the tests of what the GCS does with them."""

from __future__ import annotations

from typing import Any

from skate.gcs.group_row import GroupRow
from skate.spec import demand_of

G, H = b"G" * 16, b"H" * 16
JOB = b"\0\0\0\1"
CPU = {"CPU": 1.0}


def group_row(
    *bundles: dict[str, float],
    group_id: bytes = G,
    strategy: str = "PACK",
    name: str = "",
    made: float = 100.0,
    **options: Any,
) -> GroupRow:
    return GroupRow(
        group_id,
        name,
        "space",
        [demand_of(bundle) for bundle in bundles],
        strategy,
        options.get("job_id", JOB),
        options.get("detached", False),
        options.get("rules", []),
        options.get("soft_target", b""),
        made,
        [b""] * len(bundles),
        [0] * len(bundles),
    )
