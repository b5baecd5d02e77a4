"""The process `skate gcs`: the Global Control Store behind a unix socket.

Its parent has bound the socket and hands over two descriptors: the listening socket, and the read
end of a pipe, the lifeline, whose write end it holds for as long as it lives. EOF there ends this
process. Everything it knows is in one `GcsCore`; this module only moves bytes and time.

Invariants: what a connection does wrong closes that one, with its reason in the log, and no other;
an unexpected exception ends the process with its traceback and exit code 1, since a GCS that goes
on with half a change done is worse than none; SIGINT is for the driver and is ignored here.

The connection of a node that does not read its messages is closed when too many bytes wait. Any
other peer can only ask; its questions are not read until it has read its answers.

Nothing here runs periodically in a local session: a connection on one machine ends with its
process, so silence needs no watching, and an idle GCS costs nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import random
import signal
import socket
import struct
import sys
import time
import warnings
from typing import Any, cast

import msgspec
import uvloop

from skate.config import (
    GCS_CLOSE_WITHIN_S,
    GCS_UNREAD_MAX_BYTES,
    HEAD_BEAT_S,
    HEARTBEAT_S,
    HELLO_TIMEOUT_S,
    NODE_SILENCE_S,
)
from skate.error_records import ErrorRecord, encode_error
from skate.gcs.gcs_core import GcsCore
from skate.gcs.membership import TICK_S
from skate.gcs.outbox import Send
from skate.messages import Answer, Refused, decode_to_gcs
from skate.net.frame import BadFrame, FrameReader, frame
from skate.node.shell import linux
from skate.node.shell.leftovers import kill_session

NODES_LEAVE_WITHIN_S = 1.0
"""At the end of a session, how long nodes have to close before their files are taken away."""

_CREDENTIALS = struct.Struct("3i")  # of SO_PEERCRED: pid, uid, gid

log = logging.getLogger("skate.gcs")


class _Connection(asyncio.Protocol):
    """One peer. `is_deaf` once it is to be closed: its further messages are dropped."""

    def __init__(self, server: GcsServer, peer: int) -> None:
        self._server = server
        self.peer = peer
        self._reader = FrameReader(decode_to_gcs)
        self._transport: asyncio.Transport | None = None
        self._hello: asyncio.TimerHandle | None = None
        self.is_deaf = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.connections[self.peer] = self
        uid = _peer_uid(transport.get_extra_info("socket"))
        if uid != os.getuid():
            self.close(f"it belongs to user {uid}")
            return
        loop = asyncio.get_running_loop()
        self._hello = loop.call_later(HELLO_TIMEOUT_S, self.close, "it has said nothing")

    def data_received(self, data: bytes) -> None:
        if self.is_deaf:
            return
        self._cancel_hello()
        try:
            messages = self._reader.feed(data)
        except BadFrame as error:
            self.close(str(error))
            return
        now = time.time()
        for message in messages:
            self._server.perform(self._server.core.handle(self.peer, message, now))
            if self.is_deaf:
                return

    def send(self, batch: list[msgspec.Struct]) -> None:
        """Write one frame."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write(_frame(batch))
        unread = transport.get_write_buffer_size()
        if unread > GCS_UNREAD_MAX_BYTES:
            self.is_deaf = True
            log.warning("connection %d closed: %d bytes wait to be read", self.peer, unread)
            transport.abort()

    def close(self, reason: str) -> None:
        """Close once everything is written and read, or soon, and say why in the log."""
        self.is_deaf = True
        if self._transport is not None and not self._transport.is_closing():
            log.warning("connection %d closed: %s", self.peer, reason)
            self._transport.close()
            asyncio.get_running_loop().call_later(GCS_CLOSE_WITHIN_S, self.abort)

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    # A peer that does not read its answers may ask nothing more until it does. A node has to be
    # heard all the same, or it would be given up for its silence.

    def pause_writing(self) -> None:
        if self._server.core.is_node(self.peer):
            return
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_deaf = True
        self._cancel_hello()
        self._server.on_connection_lost(self.peer)

    def _cancel_hello(self) -> None:
        if self._hello is not None:
            self._hello.cancel()
            self._hello = None


class GcsServer:
    """The core, its connections, and the messages to write at the end of this turn."""

    def __init__(self, core: GcsCore) -> None:
        self.core = core
        self.connections: dict[int, _Connection] = {}
        self.end: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._outgoing: dict[int, list[msgspec.Struct]] = {}
        self._peers = 0
        self._is_tick_coming = False
        self._no_nodes = asyncio.Event()
        self._no_nodes.set()
        self._loop.set_exception_handler(self._on_exception)

    def accept(self) -> _Connection:
        """The protocol of a new connection."""
        self._peers += 1
        return _Connection(self, self._peers)

    def perform(self, sends: list[Send]) -> None:
        """Send the core's messages: one frame a turn and peer."""
        for peer, message in sends:
            connection = self.connections.get(peer)
            if connection is None:
                continue
            if not self._outgoing:
                self._loop.call_soon(self._flush)
            self._outgoing.setdefault(peer, []).append(message)
            if isinstance(message, Refused):
                connection.is_deaf = True  # `_flush` closes it
        self._watch_nodes()
        if self.core.is_tick_due and not self._is_tick_coming:
            self._is_tick_coming = True
            self._loop.call_later(HEARTBEAT_S, self._tick)

    def on_connection_lost(self, peer: int) -> None:
        """A connection is closed, by either side."""
        del self.connections[peer]
        self._outgoing.pop(peer, None)
        self.perform(self.core.peer_lost(peer, time.time()))

    def stop(self, reason: str) -> None:
        """End the process in good order."""
        if not self.end.done():
            self.end.set_result(reason)

    def watch_silence(self) -> None:
        """Let the core find nodes that have gone silent, from now on."""
        self.perform(self.core.tick(time.time()))
        self._loop.call_later(TICK_S, self.watch_silence)

    def beat(self) -> None:
        """Tell the nodes that the GCS is there, from now on."""
        self.perform(self.core.beat())
        self._loop.call_later(HEAD_BEAT_S, self.beat)

    def _tick(self) -> None:
        self._is_tick_coming = False
        self.perform(self.core.tick(time.time()))

    async def nodes_left(self) -> bool:
        """Wait for all nodes to close; False if some have not in time."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._no_nodes.wait(), NODES_LEAVE_WITHIN_S)
        return self._no_nodes.is_set()

    async def close_connections(self) -> None:
        """Close the connections that are still open."""
        for connection in list(self.connections.values()):
            connection.abort()
        await asyncio.sleep(0)

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, {}
        for peer, batch in outgoing.items():
            connection = self.connections[peer]
            connection.send(batch)
            refusal = next((one for one in batch if isinstance(one, Refused)), None)
            if refusal is not None:
                connection.close(refusal.reason)

    def _watch_nodes(self) -> None:
        if self.core.node_count:
            self._no_nodes.clear()
        else:
            self._no_nodes.set()

    def _on_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback raised: a broken connection concerns its peer alone, the rest are our bugs."""
        error = context.get("exception")
        if error is None or isinstance(error, OSError):
            log.warning("%s: %s", context.get("message"), error)
        elif not self.end.done():
            self.end.set_exception(error)
        else:
            log.error("while ending: %s", context.get("message"), exc_info=error)


def _frame(batch: list[msgspec.Struct]) -> bytes:
    """One frame; an answer that fits none, or has numbers that fit no message, becomes an error."""
    try:
        return frame(batch)
    except (ValueError, OverflowError) as error:
        if len(batch) > 1:
            return b"".join(_frame([message]) for message in batch)
        (message,) = batch
        if not isinstance(message, Answer):
            raise
        record = ErrorRecord("UsageError", f"the answer is too large: {error}")
        return frame([Answer(message.number, None, encode_error(record))])


def _peer_uid(connection: socket.socket) -> int:
    """The user on the other end of a unix socket, as of its connect."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(data)[1])


class _Lifeline:
    """The pipe from the parent; at its EOF the server stops."""

    def __init__(self, descriptor: int, server: GcsServer) -> None:
        self.is_cut = False
        self._descriptor = descriptor
        self._server = server
        os.set_blocking(descriptor, False)
        asyncio.get_running_loop().add_reader(descriptor, self._on_readable)

    def _on_readable(self) -> None:
        with contextlib.suppress(BlockingIOError):
            if os.read(self._descriptor, 4096) == b"":
                self.is_cut = True
                asyncio.get_running_loop().remove_reader(self._descriptor)
                self._server.stop("its parent has gone")


async def _serve(
    listen_fd: int, lifeline_fd: int, session_dir: str, local: bool, parent: int
) -> None:
    silence_s = None if local else NODE_SILENCE_S
    server = GcsServer(GcsCore(silence_s, random=random.random))
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, server.stop, "SIGTERM")
    lifeline = _Lifeline(lifeline_fd, server)
    listener = socket.socket(fileno=listen_fd)
    if listener.family != socket.AF_UNIX:
        raise ValueError(f"--listen-fd {listen_fd} is no unix socket")
    listening = await loop.create_unix_server(server.accept, sock=listener)
    log.info("serving session %s", session_dir)
    if not local:
        server.watch_silence()
        server.beat()
    reason = await server.end
    log.info("ends: %s", reason)
    listening.close()
    # Files in use stay; but once the parent has gone, no other process would remove them.
    if (local or lifeline.is_cut) and (await server.nodes_left() or lifeline.is_cut):
        _remove_session_files(session_dir)
        if not local or os.getppid() != parent:
            # The driver is dead and the node may be: end the processes that they would have ended.
            # (The lifeline of a cluster's GCS is held by the head's node: that one is dead.)
            kill_session(os.path.basename(session_dir))
    await server.close_connections()


def _remove_session_files(session_dir: str) -> None:
    """The sockets and the arena of an ended session, as far as they are still there."""
    with contextlib.suppress(FileNotFoundError), os.scandir(session_dir) as entries:
        for entry in entries:
            if entry.name.endswith(".sock"):
                _remove(entry.path)
    arena_note = os.path.join(session_dir, "arena")
    with contextlib.suppress(FileNotFoundError), open(arena_note, encoding="utf-8") as file:
        arena_path = file.read().strip()
        if arena_path:
            _remove(arena_path)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("%s stays: %s", path, error)


def main(argv: list[str]) -> int:
    """Run until the lifeline or SIGTERM ends it; `argv` is what follows the role's name."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    linux.set_process_name("skate:gcs")
    warnings.simplefilter("ignore")  # PYTHONWARNINGS=error is meant for the user's own code
    parser = argparse.ArgumentParser(prog="skate gcs", description="The Global Control Store.")
    parser.add_argument("--session-dir", required=True, help="folder of the session")
    parser.add_argument("--listen-fd", type=int, required=True, help="a listening unix socket")
    parser.add_argument("--lifeline-fd", type=int, required=True, help="a pipe; EOF ends us")
    parser.add_argument("--local", action="store_true", help="the cluster is this one session")
    # An option, as the parent may have died before we could ask for its pid.
    parser.add_argument("--parent", type=int, default=os.getppid(), help="who started it: a pid")
    options = parser.parse_args(argv)
    linux.close_all_but((options.listen_fd, options.lifeline_fd))
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s gcs[%(process)d] %(message)s",
    )
    serving = _serve(
        options.listen_fd,
        options.lifeline_fd,
        options.session_dir,
        options.local,
        options.parent,
    )
    gc.freeze()  # loaded modules stay: no collection has to look at them
    gc.enable()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serving)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
