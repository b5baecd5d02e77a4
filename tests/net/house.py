"""A doorman on a real port, in a uvloop of its own thread, with an echo behind each purpose."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

import uvloop

from skate.net.dialing import Dialled, dial, dial_async
from skate.net.handshake import Identity, LineHello, LineOk
from skate.net.tls import Tls
from skate.node.shell.doorman import Admission, Doorman, Routes

TOKEN = b"a token for tests only, not for you"
NODE_ID = b"NODEIDNODEIDNODE"
SESSION = "session_under_test"
HEARD_WITHIN_S = 10.0
"""Nothing that is waited for here takes so long, not even on a busy machine."""


class Echo(asyncio.Protocol):
    """Says what it hears; "bye" is answered by closing."""

    def __init__(self, house: House, hello: LineHello) -> None:
        self.house = house
        self.hello = hello
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.house.lines.append(self)
        self.house.turns_at_made.append(self.house.turns)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)
        if data.endswith(b"bye"):
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.house.lines.remove(self)


class House:
    """Use as a context manager; ``address`` is where it listens."""

    def __init__(
        self, *, tls: Tls | None = None, gcs_socket: str | None = None, token: bytes = TOKEN
    ) -> None:
        self.tls = tls
        self.token = token
        self.gcs_socket = gcs_socket
        self.has_data_route = True
        self.lines: list[Echo] = []
        self.data_hellos: list[LineHello] = []
        self.complaints: list[dict[str, Any]] = []
        self.turns = 0
        self.turns_at_made: list[int] = []
        self.turns_at_route: list[int] = []
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self.listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.doorman: Doorman
        self.loop: asyncio.AbstractEventLoop
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> House:
        self._thread.start()
        assert self._started.wait(HEARD_WITHIN_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(HEARD_WITHIN_S)
        assert not self._thread.is_alive()
        assert not self.complaints, self.complaints

    def call(self, function: Callable[[], Any]) -> Any:
        """In the loop's thread, as the shell of a node would."""

        async def run() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(HEARD_WITHIN_S)

    def stranger(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=HEARD_WITHIN_S)

    def dial(
        self, purpose: str = "node", *, tls: Tls | None = None, timeout_s: float = HEARD_WITHIN_S
    ) -> Dialled:
        """As a member of the cluster; with the house's TLS unless another is given."""
        hello = LineHello(purpose, node_id=b"caller", received=3, pid=os.getpid())
        line = dial(self.address, hello, TOKEN, tls=tls or self.tls, timeout_s=timeout_s)
        line.sock.settimeout(HEARD_WITHIN_S)
        return line

    def _admit(self, hello: LineHello) -> Admission:
        if hello.node_id == b"unwelcome":
            return "we had a quarrel, you and I"
        if hello.node_id == b"breaks things":
            raise RuntimeError("a bug of the route")
        self.turns_at_route.append(self.turns)
        self.loop.call_soon(self._count_turn)
        ok = LineOk(NODE_ID, hello.session_id, hello.received + 1, SESSION)
        return ok, lambda: Echo(self, hello)

    def _serve_data(self, sock: socket.socket, hello: LineHello) -> None:
        self.data_hellos.append(hello)
        assert threading.current_thread() is not self._thread and sock.gettimeout() is None
        while data := sock.recv(65_536):
            sock.sendall(data)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self.loop.set_exception_handler(lambda loop, context: self.complaints.append(context))
        routes = Routes(
            self._admit,
            self._admit,
            self._serve_data if self.has_data_route else None,
            self.gcs_socket,
        )
        identity = Identity(NODE_ID, SESSION)
        self.doorman = Doorman(self.loop, self.listener, self.token, self.tls, identity, routes)
        self.doorman.start()
        self._started.set()
        await self._stop.wait()
        self.doorman.close()
        for line in list(self.lines):
            line.transport.abort()
        await asyncio.sleep(0.01)  # what is cut is told so in the next turns

    def _count_turn(self) -> None:
        self.turns += 1


def receive_all(sock: socket.socket) -> bytes:
    """Everything until the end, however that comes."""
    data = b""
    while True:
        try:
            part = sock.recv(65_536)
        except ConnectionResetError:
            return data
        if not part:
            return data
        data += part


class Heard(asyncio.Protocol):
    """The dialling side's protocol: keeps what it hears."""

    def __init__(self, ok: LineOk) -> None:
        self.ok = ok
        self.data = b""
        self.end = asyncio.get_running_loop().create_future()
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data

    def connection_lost(self, error: Exception | None) -> None:
        self.end.set_result(error)


def echoed(
    way: str, address: str, words: bytes, hello: LineHello, tls: Tls | None, timeout_s: float
) -> tuple[LineOk, bytes]:
    """Dial ("dial" or "dial_async"), say these words (they end in "bye"), hear what comes back."""
    if way == "dial":
        line = dial(address, hello, TOKEN, tls=tls, timeout_s=timeout_s)
        with line.sock as sock:
            assert sock.gettimeout() is None
            sock.settimeout(HEARD_WITHIN_S)
            sock.sendall(words)
            return line.ok, receive_all(sock)

    async def run() -> tuple[LineOk, bytes]:
        transport, heard = await dial_async(
            address, hello, TOKEN, Heard, tls=tls, timeout_s=timeout_s
        )
        assert transport is heard.transport
        transport.write(words)
        async with asyncio.timeout(HEARD_WITHIN_S):
            await heard.end
        return heard.ok, heard.data

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())
