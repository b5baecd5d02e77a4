"""The cluster that ``init()`` joins: Ray's rules for an address, and this machine's node of it.

An address comes from the call, or else from SKATE_ADDRESS or RAY_ADDRESS:

    none             the cluster that `skate start` runs on this machine, if it does; else no one's
    "auto"           the same, or ConnectionError
    "local"          no one's: a session of the program's own is started
    "HOST:PORT"      that cluster's node on this machine, or ConnectionError; if that very node is
                     named (and not the head), that one
    "scheme://..."   a cluster that this machine is no part of

A driver always talks to a node of its own machine, over a unix socket and shared memory. The
session folders tell which node that is; folders whose node does not listen do not count.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, NamedTuple

from skate.launch.head_start import ADDRESS_VARIABLES
from skate.launch.session_folder import (
    BY_START,
    LiveSession,
    described_sessions,
    is_live,
    sessions_root,
    sweep,
)


class Wanted(NamedTuple):
    """An address, and its origin, for errors."""

    address: str
    source: str

    @property
    def is_remote(self) -> bool:
        """Whether the cluster is one that this machine is no part of."""
        return "://" in self.address


def wanted(address: str | None) -> Wanted:
    """The address of the call or the environment; "" if neither has one. TypeError: no string."""
    if address is not None and not isinstance(address, str):
        raise TypeError(f"address has to be a string, not {address!r}")
    if address in (None, "", "auto"):
        for variable in ADDRESS_VARIABLES:
            if os.environ.get(variable):
                return Wanted(os.environ[variable], variable)
    return Wanted(address or "", "init(address=...)")


def find(asked: Wanted) -> LiveSession | None:
    """This machine's node of the cluster; None to start a session of one's own."""
    if asked.address == "local":
        return None
    sweep(sessions_root())  # or the arena of a killed node would stay in memory
    if asked.address in ("", "auto"):
        found = running()
        if found is None and asked.address == "auto":
            raise ConnectionError(
                f"Could not find a running skate cluster ({asked.source} is 'auto'): start one on "
                "this machine with `skate start --head`, or join one with "
                "`skate start --address HOST:PORT`; init() without an address starts a session "
                "of its own."
            )
        return found
    return _member(asked)


def running() -> LiveSession | None:
    """The node that `skate start` runs here, the newest if there are several; a head first."""
    return _best(
        one for one in described_sessions(sessions_root()) if one.description.started_by == BY_START
    )


def _member(asked: Wanted) -> LiveSession:
    from skate.launch import addresses
    from skate.net.dialing import split_address

    try:
        split_address(asked.address)
    except ValueError as error:
        raise ValueError(f"{asked.source}: {error}, or 'auto', or 'local'") from None
    members = [one for one in described_sessions(sessions_root()) if one.description.address]

    def named(told: str) -> bool:
        return addresses.is_same(told, asked.address)

    found = _best(one for one in members if named(one.description.address)) or _best(
        one for one in members if named(one.description.cluster_address)
    )
    if found is None:
        raise ConnectionError(
            f"{asked.source} is {asked.address!r}, and this machine has no node of that cluster. "
            f"Make it a part of the cluster with `skate start --address {asked.address}`, or "
            f"connect from afar with 'skate://{asked.address}'."
        )
    return found


def _best(sessions: Iterable[LiveSession]) -> LiveSession | None:
    """The live one to join: a head before others, then the newest."""
    ranked = sorted(
        sessions, key=lambda one: (one.description.is_head, one.description.started), reverse=True
    )
    return next((one for one in ranked if is_live(one)), None)


def refuse_settings(found: LiveSession, **settings: Any) -> None:
    """ValueError if a program that joins a cluster gives settings of a node."""
    given = [name for name, value in settings.items() if value is not None]
    if given:
        raise ValueError(
            f"{', '.join(given)}: not for a cluster that runs already, and there is one on this "
            f"machine (at {found.description.cluster_address}), which init() joins. What a node "
            "has is said to `skate start`; init('local', ...) starts a session of its own."
        )
