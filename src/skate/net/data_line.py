"""One data connection between two nodes, used by one blocking thread at a time.

It carries small frames of one message each, and between them the bytes of objects, without any
framing: out of the arena file with ``sendfile``, into the arena file with ``splice`` (measured in
benchmarks/transfer.py: each beats a copy through this process, and a write to the file takes none
of the page faults of a write to its mapping; a full file system is an error there, and no SIGBUS).
Under TLS, and where the system has no splice, the bytes pass through one small buffer.

Called by node/shell/transfer.py. Every call blocks, in the kernel and without the GIL, for as long
as bytes keep coming; ``silence_s`` without any raises TimeoutError. Only ``cut`` may be called by
another thread: a thread blocked in the line then finds it closed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from skate import config
from skate.net.frame import HEADER_BYTES, BadFrame, frame

_LENGTH = struct.Struct("<I")
_MORE = getattr(socket, "MSG_MORE", 0)
_NO_SPLICE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


class Quiet(TimeoutError):
    """No message has begun for a while; the reader may go on waiting."""


class DataLine:
    """See the module's docstring. ``sock`` is connected, authenticated, and its own from now on."""

    def __init__(self, sock: socket.socket, silence_s: float = config.TRANSFER_SILENCE_S) -> None:
        self._sock = sock
        self._silence_s = silence_s
        self.is_tls = isinstance(sock, ssl.SSLSocket)
        self.has_answered = False  # for its owner: whether the other side has sent anything lately
        if self.is_tls:
            sock.settimeout(silence_s)
            return
        # Not settimeout(), which would make it non-blocking: sendfile and splice are to wait.
        sock.settimeout(None)
        limit = struct.pack("@ll", int(silence_s), int(silence_s % 1 * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    # ------------------------------------------------------------------ messages

    def send(self, message: msgspec.Struct, *, more: bool = False) -> None:
        """One message; ``more``: bytes follow at once."""
        with self._timed():
            data = frame([message])
            if more and not self.is_tls:
                self._sock.sendall(data, _MORE)
            else:
                self._sock.sendall(data)

    def read(self, decode: Callable[[Any], list[Any]]) -> Any:
        """The next message. Quiet if none begins; ConnectionError at the end; BadFrame."""
        (size,) = _LENGTH.unpack(self._read_exactly(HEADER_BYTES, may_be_quiet=True))
        if not 0 < size <= config.DATA_MESSAGE_MAX_BYTES:
            raise BadFrame(f"a message of {size:,} bytes on a data connection")
        data = self._read_exactly(size)
        try:
            messages = decode(data)
        except Exception as error:
            raise BadFrame(f"a message that does not decode: {error}") from None
        if len(messages) != 1:
            raise BadFrame(f"{len(messages)} messages in one frame of a data connection")
        self.has_answered = True
        return messages[0]

    def _read_exactly(self, count: int, *, may_be_quiet: bool = False) -> bytes:
        data = b""
        while len(data) < count:
            try:
                with self._timed():
                    part = self._sock.recv(count - len(data))
            except TimeoutError as error:
                if may_be_quiet and not data:
                    raise Quiet(str(error)) from None
                raise
            if not part:
                raise self._ended()
            data += part
        return data

    # ------------------------------------------------------------------ bytes of objects

    def send_file(self, fd: int, offset: int, length: int) -> None:
        """A span of a file."""
        with self._timed():
            if self.is_tls:
                self._send_copied(fd, offset, length)
                return
            while length:
                sent = os.sendfile(self._sock.fileno(), fd, offset, length)
                if not sent:
                    raise ValueError(f"the arena file ends before byte {offset + length}")
                offset += sent
                length -= sent

    def _send_copied(self, fd: int, offset: int, length: int) -> None:
        buffer = memoryview(bytearray(min(length, config.TRANSFER_PIECE_BYTES)))
        while length:
            count = os.preadv(fd, [buffer[:length]], offset)
            if not count:
                raise ValueError(f"the arena file ends before byte {offset + length}")
            self._sock.sendall(buffer[:count])
            offset += count
            length -= count

    def fill(self, buffer: memoryview) -> None:
        """The next bytes, as many as the buffer takes (TLS gives 16 KiB at a time)."""
        while buffer:
            with self._timed():
                if self.is_tls:
                    count = self._sock.recv_into(buffer)
                else:
                    count = self._sock.recv_into(buffer, 0, socket.MSG_WAITALL)
            if not count:
                raise self._ended()
            buffer = buffer[count:]

    def splice_into(self, pipe: int, length: int) -> int:
        """Move received bytes, at most so many, into a pipe without copying; not under TLS."""
        with self._timed():
            count = os.splice(self._sock.fileno(), pipe, length)
        if not count:
            raise self._ended()
        return count

    # ------------------------------------------------------------------ its end

    def cut(self) -> None:
        """End the line now, from any thread."""
        with contextlib.suppress(OSError):
            # Past ssl's own shutdown, which would take the session from under the reading thread.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the descriptor; no thread may be in a call."""
        self._sock.close()

    def _ended(self) -> ConnectionError:
        return ConnectionResetError("the other side closed the data connection")

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        try:
            yield
        except (BlockingIOError, TimeoutError):
            raise TimeoutError(
                f"no byte moved for {self._silence_s:.3g} s on a data connection"
            ) from None


class ArenaWriter:
    """Brings bytes of a line into the arena file; each thread has its own. Close it at the end."""

    def __init__(self, arena_fd: int) -> None:
        self._arena_fd = arena_fd
        self._pipe: tuple[int, int] | None = None
        self._buffer: memoryview | None = None
        self._may_splice = hasattr(os, "splice")

    def receive(self, line: DataLine, offset: int, length: int) -> None:
        """The next ``length`` bytes of the line, to ``offset`` in the file."""
        end = offset + length
        if self._may_splice and not line.is_tls:
            offset = self._splice(line, offset, end)
        if self._buffer is None and offset < end:
            self._buffer = memoryview(bytearray(config.TRANSFER_PIECE_BYTES))
        while offset < end:
            assert self._buffer is not None
            piece = self._buffer[: end - offset]
            line.fill(piece)
            self._write(piece, offset)
            offset += len(piece)

    def _splice(self, line: DataLine, offset: int, end: int) -> int:
        """The offset that it reached: the end, or less where the system has no splice."""
        read_end, write_end = self._open_pipe()
        in_pipe = 0
        try:
            while offset < end:
                in_pipe = line.splice_into(
                    write_end, min(end - offset, config.TRANSFER_PIECE_BYTES)
                )
                while in_pipe:
                    count = os.splice(read_end, self._arena_fd, in_pipe, None, offset)
                    offset += count
                    in_pipe -= count
        except OSError as error:
            if error.errno in _NO_SPLICE:
                self._may_splice = False
                while in_pipe:
                    data = os.read(read_end, in_pipe)
                    self._write(memoryview(data), offset)
                    offset += len(data)
                    in_pipe -= len(data)
                self.close()
                return offset
            self.close()  # drop bytes that may be left in the pipe
            raise
        return offset

    def _open_pipe(self) -> tuple[int, int]:
        if self._pipe is None:
            self._pipe = os.pipe()
            # The system refuses more large pipes to a user with many: a small one works too.
            with contextlib.suppress(OSError):
                fcntl.fcntl(self._pipe[1], fcntl.F_SETPIPE_SZ, config.TRANSFER_PIECE_BYTES)
        return self._pipe

    def _write(self, data: memoryview, offset: int) -> None:
        while data:
            count = os.pwrite(self._arena_fd, data, offset)
            offset += count
            data = data[count:]

    def close(self) -> None:
        """Give the pipe back."""
        if self._pipe is not None:
            for end in self._pipe:
                os.close(end)
            self._pipe = None
