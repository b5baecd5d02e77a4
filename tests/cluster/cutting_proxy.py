"""A TCP proxy for tests: between a driver and a node, and cut at the test's word."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from types import TracebackType

from skate.net.dialing import split_address

_AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: a close is a reset


class CuttingProxy:
    """Listens on ``address`` and passes bytes on to ``target``, both ways."""

    def __init__(self, target: str) -> None:
        self._target = split_address(target)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.cuts = 0  # connections that were cut
        self.connections = 0  # that were let through, ever
        self._is_open = True
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._silent: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> CuttingProxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close_door()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def close_door(self) -> None:
        """Cut what there is, and let nobody in."""
        self._is_open = False
        self.cut()

    def open_door(self) -> None:
        """Let connections through again."""
        self._is_open = True

    def cut(self, *, reset: bool = True) -> None:
        """End all connections, by a reset or as a program that closes its sockets does."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            self.cuts += 1
            for end in pair:
                with contextlib.suppress(OSError):
                    if reset:
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
                    else:
                        end.shutdown(socket.SHUT_RDWR)
                    # A thread may be in recv: its descriptor has to stay until that returns.
                    end.shutdown(socket.SHUT_RD)
            for end in pair:
                end.close()

    def swallow(self) -> None:
        """Accept and acknowledge everything on today's connections, and pass on nothing more."""
        with self._lock:
            for pair in self._pairs:
                self._silent.update(pair)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self._is_open:
                near.close()
                continue
            try:
                far = socket.create_connection(self._target)
            except OSError:
                near.close()
                continue
            with self._lock:
                self._pairs.append((near, far))
                self.connections += 1
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(64 << 10):
                if source not in self._silent:
                    sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
