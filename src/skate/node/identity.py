"""This node's id and setting, and the numbers that it gives to processes. Pure."""

from __future__ import annotations

from skate.ids import HOME_BYTES, SUBMITTER_BYTES


class Identity:
    """The facts that a node knows of itself from its start on.

    ``is_cluster``: it outlives its drivers. ``python``: the minor version, which clients share.
    ``offers_lanes``: to clients that speak of them.
    """

    def __init__(
        self,
        node_id: bytes,
        session: str,
        arena_path: str,
        python: str,
        *,
        is_cluster: bool,
        offers_lanes: bool = False,
    ) -> None:
        self.node_id = node_id
        self.session = session
        self.arena_path = arena_path
        self.python = python
        self.is_cluster = is_cluster
        self.lanes_dir = ""  # where workers accept lanes; the daemon enters it
        self.offers_lanes = offers_lanes
        self.submitters = 0  # processes that were given a number so far

    @property
    def home(self) -> bytes:
        """The prefix of all ids that are created here."""
        return self.node_id[:HOME_BYTES]

    def new_submitter(self) -> bytes:
        """The id of a process as a creator of tasks and objects (ids.py)."""
        self.submitters += 1
        number = self.submitters.to_bytes(SUBMITTER_BYTES - HOME_BYTES, "big")
        return self.home + number
