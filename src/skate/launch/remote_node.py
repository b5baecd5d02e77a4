"""A node of a cluster on other machines: ``init("skate://HOST:PORT")``.

As the session of a driver sees it (``NodeHost``). The program connects over TCP, with the cluster's
token (SKATE_TOKEN, SKATE_TOKEN_FILE or the file in the folder of sessions) and, if the cluster uses
TLS, with the certificates that SKATE_TLS_CERT, SKATE_TLS_KEY and SKATE_TLS_CA name. There is no
shared memory: large values travel over the line (client/remote_line.py), which survives a broken
connection of up to ``config.DRIVER_KEPT_S``.

Errors: ValueError for an address or files that make no sense, ConnectionError if the node cannot be
reached or refuses, AuthenticationError for the token; each a sentence for the user.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

from skate import config
from skate.client.remote_line import RemoteLine
from skate.errors import SystemFailureError
from skate.launch.session_folder import Description, sessions_root
from skate.net.cluster_token import find_token
from skate.net.dialing import split_address
from skate.net.tls import load_tls

SCHEMES = ("skate", "ray")
"""Both mean the same."""

REASON_WITHIN_S = 0.5
"""The line has ended: how long to wait for its thread to say why."""


class RemoteNode:
    """See the module's docstring. The constructor connects."""

    def __init__(self, address: str, source: str) -> None:
        scheme, _, place = address.partition("://")
        if scheme not in SCHEMES:
            raise ValueError(f"{source} is {address!r}: expected skate://HOST:PORT")
        place = place.removesuffix("/")
        try:
            host, _ = split_address(place)
        except ValueError as error:
            raise ValueError(f"{source} is {address!r}: {error}, behind {scheme}://") from None
        environ = os.environ
        tls = load_tls(
            environ.get("SKATE_TLS_CERT"), environ.get("SKATE_TLS_KEY"), environ.get("SKATE_TLS_CA")
        )
        self.line = RemoteLine(place, find_token(sessions_root()), tls)
        self.node_socket = ""
        self.path = Path()
        self.description = Description(
            "",
            session=self.line.session,
            node_id=self.line.node_id.hex(),
            host=host,
            address=place,
        )

    def connect(self) -> socket.socket:
        """The driver's socket."""
        return self.line.plain

    def check_started(self, deadline: float) -> None:
        """SystemFailureError if the node has not answered by the deadline."""
        if time.monotonic() > deadline:
            raise SystemFailureError(
                f"the node at {self.description.address} did not answer within "
                f"{config.START_TIMEOUT_S:.0f} s"
            )

    def welcomed(self) -> None:
        """Nothing."""

    def await_death(self) -> None:
        """The line has ended: wait until the reason is known."""
        self.line.await_end(REASON_WITHIN_S)
        if self.line.why:
            raise ConnectionError(self.line.why)

    def node_ends(self) -> None:
        """The node has told its end: do not connect anew."""
        self.line.node_ends()

    def obituary(self, said: str) -> str:
        """The reason for the line's end. ``said`` is the node's own reason at its end."""
        self.line.await_end(REASON_WITHIN_S)
        what = said or self.line.why or "the connection has ended"
        return (
            f"{what[0].upper()}{what[1:]}. This program has lost its place in the cluster at "
            f"{self.description.address}: its tasks, actors and objects are gone. Check that the "
            "node there runs (`skate status`), and call init() again"
        )

    def stop(self, deadline: float) -> None:
        """Wait until the node has read the last words."""
        self.line.plain.close()
        self.line.finish(deadline)

    def abandon(self) -> None:
        """No time is left: the node notices the end by itself."""

    def abandon_in_child(self) -> None:
        """Nothing: the line itself sees to it."""


def refuse_settings(**settings: Any) -> None:
    """ValueError if a remote program gives settings of a node."""
    given = [name for name, value in settings.items() if value is not None]
    if given:
        raise ValueError(
            f"{', '.join(given)}: not with skate://HOST:PORT, as no node is started here. What a "
            "node has is said to `skate start`."
        )
