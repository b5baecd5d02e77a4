"""A line that outlives its connections: messages are kept until the other side has seen them.

Pure. One ``LastingLine`` at each end of a node's link to another node, and of a remote driver's to
its node. Messages are counted, per direction, from the line's beginning. A sent message is kept
until ``messages.Seen`` has come for it. When the connection breaks and another is made, each side
tells in the handshake how many messages it has ``received``, and the other sends again from there.
So both cores see one gapless FIFO line.

    out: transport.writelines(line.outgoing(batch)), or nothing while there is no connection
    in:  for message in line.incoming(reader.feed(data), len(data)): ...
         if seen := line.due_seen(): transport.write(frame([seen]))
    new connection: ``received`` goes into the handshake, writelines(line.resume(peer_received))

Invariants: the messages handed over, over all connections, are those that the other side sent, in
order and each once. Frames are sent again as they were, so a number always lies between two frames.
``kept_bytes`` is the length of the kept frames.

The owner's duty: from the moment it takes ``received`` for a handshake until ``resume``, it hands
nothing to ``incoming``: it cuts an old connection before. A ``BadFrame`` or a ``LineBroken`` ends
the line and not only the connection, since the same bytes sent again would be as bad.

Not here: giving a line up; ``is_full`` is a reason to, while there is no connection.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from skate import config
from skate.messages import Seen
from skate.net.frame import counted_frames


class LineBroken(ValueError):
    """The other side's count differs: it has lost its state, or is another process."""


class LastingLine:
    """One end. ``sent`` and ``received`` count messages since the line began."""

    __slots__ = (
        "_kept", "_released", "_seen_after_bytes", "_seen_after_messages", "_told",
        "_untold_bytes", "kept_bytes", "received", "sent",
    )  # fmt: skip

    def __init__(
        self,
        seen_after_messages: int = config.SEEN_AFTER_MESSAGES,
        seen_after_bytes: int = config.SEEN_AFTER_BYTES,
    ) -> None:
        self.sent = 0
        self.received = 0
        self.kept_bytes = 0
        self._kept: deque[tuple[int, bytes]] = deque()  # (count of messages up to its end, frame)
        self._released = 0  # messages that need not be kept: the other side has them
        self._told = 0  # how many of `received` the other side knows of
        self._untold_bytes = 0
        self._seen_after_messages = seen_after_messages
        self._seen_after_bytes = seen_after_bytes

    @property
    def is_full(self) -> bool:
        """Whether the line keeps more than one without a connection may."""
        return self.kept_bytes > config.KEPT_MAX_BYTES

    def outgoing(self, batch: list[Any]) -> list[bytes]:
        """The batch (without ``Seen``) as frames to write now, if there is a connection."""
        out = []
        for data, count in counted_frames(batch) if batch else ():
            self.sent += count  # a message in parts counts as many
            self.kept_bytes += len(data)
            self._kept.append((self.sent, data))
            out.append(data)
        return out

    def forward(self, data: bytes, count: int) -> None:
        """Send a frame that was made elsewhere, of so many messages (without ``Seen``)."""
        self.sent += count
        self.kept_bytes += len(data)
        self._kept.append((self.sent, data))

    def forwarded(self, count: int, size_bytes: int) -> None:
        """A frame with so many messages (without ``Seen``) came, and was passed on as it is."""
        self.received += count
        self._untold_bytes += size_bytes

    def seen(self, count: int) -> None:
        """Note a ``Seen`` that did not come by ``incoming``. LineBroken if it is too high."""
        self._release(count)

    def incoming(self, messages: list[Any], size_bytes: int = 0) -> list[Any]:
        """The messages to be handled, of those in whole frames, as the reader gave them.

        They count as received from now on. LineBroken if a ``Seen`` among them is too high.
        """
        self._untold_bytes += size_bytes
        seen = [message for message in messages if type(message) is Seen]
        if seen:
            for one in seen:
                self._release(one.count)
            messages = [message for message in messages if type(message) is not Seen]
        self.received += len(messages)
        return messages

    def due_seen(self) -> Seen | None:
        """An acknowledgement to send at once, past ``outgoing``, if enough came since the last."""
        untold = self.received - self._told
        if untold < self._seen_after_messages and (
            self._untold_bytes < self._seen_after_bytes or not untold
        ):
            return None
        return self.tell()

    def tell(self) -> Seen:
        """An acknowledgement, due or not: a sign of life."""
        self._told, self._untold_bytes = self.received, 0
        return Seen(self.received)

    def resume(self, peer_received: int) -> list[bytes]:
        """The frames to write first on a new connection. LineBroken if the line cannot go on."""
        if peer_received < self._released:
            raise LineBroken(
                f"the other side says that it has received {peer_received} messages, and said "
                f"{self._released} before: it has begun anew"
            )
        self._release(peer_received)
        if self._released != peer_received:
            raise LineBroken(f"no frame ends at message {peer_received}")
        self._told, self._untold_bytes = self.received, 0  # the handshake has told
        return [data for _, data in self._kept]

    def _release(self, count: int) -> None:
        if count > self.sent:
            raise LineBroken(
                f"the other side says that it has received {count} messages; {self.sent} were sent"
            )
        kept = self._kept
        while kept and kept[0][0] <= count:
            self._released, data = kept.popleft()
            self.kept_bytes -= len(data)
