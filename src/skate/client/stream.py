"""The bytes of one socket: frames out, messages in. Nothing blocks; an interrupt spoils nothing.

Under the connection to the node, and under each lane. Writing is done under the connection's lock,
reading by its leader; the two halves share nothing.

Interrupts: Ctrl-C may raise KeyboardInterrupt at any call in the main thread, also here. So each
step either leaves the state as it was or has changed it by assignments with no call between them;
what a socket call gave or took is recorded by the same C-level call (``extend(map(...))``).
Handlers of messages may run twice and bear it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Any

from skate.net.frame import HEADER_BYTES, BadFrame, frames, split

_READ_ARGUMENTS = ((256 << 10,), (socket.MSG_DONTWAIT,))
_SEND_FLAGS = (socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL,)

Handlers = Mapping[type, Callable[[Any], None]]


class StreamSource:
    """What the connection reads beside the line to the node: one end of a lane."""

    __slots__ = ("stream",)

    stream: Stream

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self.stream.sock.fileno()

    @property
    def has_unsent(self) -> bool:
        """Whether the socket has not taken all that it was given."""
        return self.stream.has_unsent

    def read(self) -> bool:
        """Handle what has arrived; whether something had."""
        return self.stream.read()


class Stream:
    """See the module's docstring.

    ``handlers`` maps message types to what a reader does with them; ``on_end`` is told, in words,
    why nothing more will come: ``who`` is at the other side. ``many`` is a type of which a lane is
    full: messages that are all of this type go to ``on_many`` at once, others one by one.
    """

    __slots__ = (
        "_decode", "_frame", "_frames", "_many", "_message", "_messages", "_need", "_offset",
        "_on_end", "_on_many", "_raw", "_rest", "_sent", "_who", "handlers", "outbox", "sock",
        "staged",
    )  # fmt: skip

    def __init__(
        self,
        sock: socket.socket,
        decode: Callable[[Any], list[Any]],
        handlers: Handlers,
        on_end: Callable[[str], None],
        who: str,
        many: type | None = None,
        on_many: Callable[[list[Any]], None] = lambda messages: None,
    ) -> None:
        self.sock = sock
        self.handlers = handlers
        self._decode = decode
        self._on_end = on_end
        self._who = who
        self._many = {many}
        self._on_many = on_many
        self.outbox: list[Any] = []
        # Out: the frame that was just cut, those not sent, which of them is next, from which byte,
        # and what the last send took.
        self.staged = b""
        self._frames: list[bytes] = []
        self._frame = 0
        self._offset = 0
        self._sent: list[int] = []
        # In: what was received, the rest of it that is no whole frame, the messages under way.
        self._raw: list[bytes] = []
        self._rest = b""
        self._need = HEADER_BYTES
        self._messages: list[Any] = []
        self._message = 0

    # ------------------------------------------------------------------ writing

    def flush(self) -> bool:
        """Cut what is in ``outbox`` into a frame and send it; whether the socket has taken all."""
        if self.outbox:
            data = b"".join(frames(self.outbox))
            self._settle()
            self.outbox, self.staged = [], data
        return self.pump()

    def _settle(self) -> None:
        """Finish the bookkeeping that an interrupt may have cut short."""
        if self._sent:
            taken = self._sent[0]
            self._offset, self._sent = self._offset + taken, []
        staged = self.staged
        if staged:
            if not self._frames or self._frames[-1] is not staged:
                self._frames.append(staged)
            self.staged = b""

    def pump(self) -> bool:
        """Send what the socket takes; whether all is sent."""
        while True:
            self._settle()
            if self._frame == len(self._frames):
                self._frames, self._frame = [], 0
                return True
            data = self._frames[self._frame]
            if self._offset == len(data):
                self._frame, self._offset = self._frame + 1, 0
                continue
            rest = memoryview(data)[self._offset :]
            try:
                self._sent.extend(map(self.sock.send, (rest,), _SEND_FLAGS))
            except BlockingIOError:
                return False
            except OSError:  # the reader will see why; nothing more can be sent
                self._frames, self._frame, self._offset = [], 0, 0
                return True

    @property
    def has_unsent(self) -> bool:
        """Whether something was cut that the socket has not taken."""
        return self._frame < len(self._frames) or bool(self.staged)

    # ------------------------------------------------------------------ reading

    def read(self) -> bool:
        """Handle what has arrived; whether something had. ``on_end`` may be called."""
        if self._raw or self._message < len(self._messages):
            self._digest()  # left over by an interrupt
        try:
            self._raw.extend(map(self.sock.recv, *_READ_ARGUMENTS))
        except BlockingIOError:
            return False
        except OSError as error:
            self._on_end(f"the connection to {self._who} broke: {error}")
            return False
        if not self._raw[-1]:
            self._on_end(f"{self._who} closed the connection")
            return False
        self._digest()
        return True

    def _digest(self) -> None:
        handlers = self.handlers
        while True:
            messages = self._messages
            if not self._message and set(map(type, messages)) == self._many:
                self._on_many(messages)
                self._message = len(messages)
            while self._message < len(messages):
                message = messages[self._message]
                handler = handlers.get(type(message))
                if handler is None:
                    self._on_end(f"{self._who} sent an unexpected {type(message).__name__}")
                    return
                handler(message)
                self._message += 1
            raw = self._raw
            if not raw or len(self._rest) + sum(map(len, raw)) < self._need:
                return
            data = self._rest + b"".join(raw) if self._rest or len(raw) > 1 else raw[0]
            try:
                found, rest, need = split(data, self._decode)
            except BadFrame as error:
                self._on_end(f"{self._who} broke the protocol: {error}")
                return
            self._raw, self._rest, self._need, self._messages, self._message = (
                [], rest, need, found, 0,
            )  # fmt: skip
