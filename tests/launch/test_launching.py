"""Starting a node: what is found out about the head before anything runs."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from skate import config
from skate.launch.launching import reach_head
from skate.net.dialing import RefusedError
from skate.net.handshake import NONCE_BYTES, AcceptHandshake, LineOk

TOKEN = b"a token for tests only, not for you"


def answer_as(listener: socket.socket, python: str) -> None:
    """A head that runs this Python lets one probe in."""
    handshake = AcceptHandshake(TOKEN, os.urandom(NONCE_BYTES))
    sock, _ = listener.accept()
    with sock:
        while handshake.peer_hello is None:
            sock.sendall(handshake.feed(sock.recv(4096)))
        sock.sendall(handshake.answer(LineOk(b"N" * 16, python=python)))


@pytest.mark.parametrize("python", [config.PYTHON, "3.99"])
def test_a_head_with_another_python_is_not_joined(python: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        head = threading.Thread(target=answer_as, args=(listener, python))
        head.start()
        try:
            if python == config.PYTHON:
                assert reach_head(address, TOKEN, None, 0.0)
            else:
                with pytest.raises(RefusedError, match=f"runs Python '3.99', .*{config.PYTHON}"):
                    reach_head(address, TOKEN, None, 0.0)
        finally:
            head.join()
