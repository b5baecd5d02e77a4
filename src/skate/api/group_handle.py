"""A placement group's name: its id, and its bundles as far as they are known.

Made by bundle_groups.py for users, and by placement.py for the group that the caller runs in. The
bundles of a group that is known by its id alone are asked for when they are first wanted.
"""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from skate.api.connected import connected
from skate.scheduler.group_names import GROUP_ID_BYTES

_BUNDLES_KEPT = 128  # of groups that are known by their id alone: the current one, nearly always


class PlacementGroupID(msgspec.Struct, frozen=True):
    """The 16 bytes that name a placement group."""

    _id: bytes

    @classmethod
    def nil(cls) -> PlacementGroupID:
        """The id of no group."""
        return cls(b"\xff" * GROUP_ID_BYTES)

    def is_nil(self) -> bool:
        """Whether it is the id of no group."""
        return self._id == b"\xff" * GROUP_ID_BYTES

    def hex(self) -> str:
        """In hexadecimal."""
        return self._id.hex()

    def binary(self) -> bytes:
        """The bytes."""
        return self._id

    def __repr__(self) -> str:
        return f"PlacementGroupID({self._id.hex()})"


class GroupHandle:
    """Names a placement group; users hold its subclass ``PlacementGroup``."""

    def __init__(
        self, id: PlacementGroupID, bundle_cache: list[dict[str, float]] | None = None
    ) -> None:
        self.id = id
        self.bundle_cache = bundle_cache

    @property
    def is_empty(self) -> bool:
        """Whether this stands for no group."""
        return self.id.is_nil()

    @property
    def bundle_specs(self) -> list[dict[str, float]]:
        """The bundles, each as a dict of resource name to amount.

        ValueError if the handle does not know them and there is no such group (any more).
        """
        if self.bundle_cache is None:
            self.bundle_cache = [] if self.is_empty else list(_bundles_of(self.id.binary()))
        return self.bundle_cache

    @property
    def bundle_count(self) -> int:
        """How many bundles there are."""
        return len(self.bundle_specs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GroupHandle) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return "PlacementGroup.empty()" if self.is_empty else f"PlacementGroup({self.id.hex()})"


def row_of(group_id: bytes) -> dict[str, Any] | None:
    """The GCS's row of the group; None if there is none."""
    rows = connected().ask("placement_group_table", {"group_id": group_id})
    return rows[0] if rows else None


@functools.lru_cache(_BUNDLES_KEPT)
def _bundles_of(group_id: bytes) -> list[dict[str, float]]:
    row = row_of(group_id)
    if row is None:
        raise ValueError(
            f"there is no placement group {group_id.hex()}: it was removed long ago, or it is of "
            "another session"
        )
    return bundles_in(row)


def bundles_in(row: dict[str, Any]) -> list[dict[str, float]]:
    """The bundles of such a row, in the order of their index."""
    bundles = row["bundles"]
    return [bundles[index] for index in sorted(bundles)]
