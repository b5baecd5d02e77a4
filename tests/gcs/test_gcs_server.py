"""The real process over a real socket: it serves the good, closes the bad, and ends when told."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from skate.config import PROTOCOL_VERSION
from skate.error_records import decode_error
from skate.messages import (
    Answer,
    Ask,
    Heartbeat,
    JobChanged,
    JobOver,
    NodeJoins,
    NodesChanged,
    Offer,
    Placed,
    Refused,
    decode_from_gcs,
)
from skate.net.frame import FrameReader, frame

NODE = b"N" * 16
START_TIMEOUT_S = 20.0
ENDS_WITHIN_S = 2.0
"""The promise: this long after the parent has gone, the process and its files have gone too."""


def joins(
    node_id: bytes = NODE, protocol: int = PROTOCOL_VERSION, resource: str = "CPU"
) -> NodeJoins:
    total = {resource: 10_000}
    return NodeJoins(protocol, node_id, os.getpid(), "/s/node.sock", "host", total, {}, 1)


def command(folder: Path, listen_fd: int, lifeline_fd: int) -> list[str]:
    role = [sys.executable, "-m", "skate", "gcs", "--session-dir", str(folder)]
    return [*role, "--listen-fd", str(listen_fd), "--lifeline-fd", str(lifeline_fd)]


class Client:
    """A connection to the process, in blocking calls."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(START_TIMEOUT_S)
        self.socket.connect(str(path))
        self._reader = FrameReader(decode_from_gcs)
        self._received: list[Any] = []

    def send(self, *batch: msgspec.Struct) -> None:
        self.socket.sendall(frame(batch))

    def receive(self) -> Any:
        """The next message; None at the end of the connection."""
        while not self._received:
            data = self.socket.recv(1 << 20)
            if not data:
                return None
            self._received += self._reader.feed(data)
        return self._received.pop(0)

    def ask(self, method: str, **body: Any) -> Any:
        """The body of the answer; what a node is told in between is passed over."""
        self.send(Ask(1, method, body))
        answer = self.receive()
        while not isinstance(answer, Answer):
            assert answer is not None
            answer = self.receive()
        assert answer.error == b"", decode_error(answer.error)
        return answer.body


class Gcs:
    """The process, with this one as its parent."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.socket_path = folder / "gcs.sock"
        self.log_path = folder / "gcs.err"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.socket_path))
        listener.listen()
        lifeline, self.lifeline = os.pipe()
        descriptors = (listener.fileno(), lifeline)
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [*command(folder, *descriptors), *options],
                pass_fds=descriptors,
                stderr=log,
            )
        listener.close()
        os.close(lifeline)
        self.clients: list[Client] = []

    def connect(self) -> Client:
        client = Client(self.socket_path)
        self.clients.append(client)
        return client

    def cut_lifeline(self) -> None:
        os.close(self.lifeline)
        self.lifeline = -1

    def ended(self) -> int:
        """The exit code, soon."""
        return self.process.wait(ENDS_WITHIN_S)

    def log(self) -> str:
        return self.log_path.read_text()

    def clean_up(self) -> None:
        if self.lifeline >= 0:
            self.cut_lifeline()
        for client in self.clients:
            client.socket.close()
        try:
            self.process.wait(START_TIMEOUT_S)
        finally:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def gcs(skate_temp_dir: Path, request: pytest.FixtureRequest) -> Iterator[Gcs]:
    """A GCS that serves; parametrize indirectly with its options, --local by default."""
    folder = skate_temp_dir / f"gcs-{abs(hash(request.node.name))}"
    folder.mkdir()
    process = Gcs(folder, *getattr(request, "param", ["--local"]))
    try:
        process.connect().ask("summary")  # up
        yield process
    finally:
        process.clean_up()


def test_garbage_on_one_connection_is_that_connection_s_end_alone(gcs: Gcs) -> None:
    node = gcs.connect()
    node.send(joins(), Heartbeat({"CPU": 5_000}, 1, 1, 0, 0.0))
    (row,) = node.ask("nodes")
    assert (row["NodeID"], row["available"]) == (NODE.hex(), {"CPU": 0.5})
    stranger = gcs.connect()
    stranger.socket.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert stranger.receive() is None
    other = gcs.connect()
    other.socket.sendall(b"\x03\0\0\0\xc1\xc1\xc1")
    assert other.receive() is None
    assert [row["Alive"] for row in node.ask("nodes")] == [True]
    assert "at most" in gcs.log()
    assert "does not decode" in gcs.log()
    node.socket.close()
    assert [row["Alive"] for row in gcs.connect().ask("nodes")] == [False]


def test_a_refused_peer_reads_why_before_the_end(gcs: Gcs) -> None:
    node = gcs.connect()
    node.send(joins(protocol=99), Ask(1, "nodes", {}))
    refused = node.receive()
    assert isinstance(refused, Refused)
    assert "protocol" in refused.reason
    assert node.receive() is None
    assert gcs.connect().ask("nodes") == []


def test_an_answer_too_large_for_a_frame_is_an_error_and_the_others_arrive(gcs: Gcs) -> None:
    client = gcs.connect()
    prefix = b"x" * (12 << 20)
    for number in range(6):  # six keys fit a frame one by one, and no frame together
        assert client.ask("kv_put", key=prefix + bytes([number]), value=b"v")
    client.send(Ask(7, "kv_list", {}), Ask(8, "kv_exists", {"key": prefix + b"\0"}))
    large, small = client.receive(), client.receive()
    assert (large.number, small.number, small.body) == (7, 8, True)
    assert "too large" in decode_error(large.error).message


def test_with_its_parent_it_goes_and_takes_the_session_s_files_along(gcs: Gcs) -> None:
    arena = gcs.folder / "some-arena"
    arena.write_bytes(b"shared memory")
    (gcs.folder / "arena").write_text(f"{arena}\n")
    (gcs.folder / "node.sock").touch()
    node = gcs.connect()
    node.send(joins())
    assert node.ask("nodes")
    gcs.cut_lifeline()
    assert gcs.ended() == 0  # although the node has not closed
    assert sorted(path.name for path in gcs.folder.iterdir()) == ["arena", "gcs.err"]


def test_sigterm_ends_it_and_sigint_does_not(gcs: Gcs) -> None:
    gcs.process.send_signal(signal.SIGINT)
    assert gcs.connect().ask("kv_list") == []
    gcs.process.send_signal(signal.SIGTERM)
    assert gcs.ended() == 0
    assert "SIGTERM" in gcs.log()


def test_while_a_node_and_the_parent_live_sigterm_leaves_their_files(gcs: Gcs) -> None:
    node = gcs.connect()
    node.send(joins())
    assert node.ask("nodes")
    gcs.process.send_signal(signal.SIGTERM)
    assert gcs.ended() == 0
    assert gcs.socket_path.exists()


@pytest.mark.parametrize("gcs", [[], ["--local"]], indirect=True)
def test_nodes_hear_of_each_other_and_what_waited_for_a_node_is_placed_on_it(gcs: Gcs) -> None:
    first, second = gcs.connect(), gcs.connect()
    first.send(joins(), Offer(7, (("GPU", 10_000),), 1, 1, 0.0))
    assert [info.node_id for info in first.receive().nodes] == [NODE]
    waits = first.receive()
    assert (type(waits), waits.places) == (Placed, [])
    assert "GPU" in waits.reason
    second.send(joins(b"M" * 16, resource="GPU"))
    assert [info.node_id for info in second.receive().nodes] == [NODE, b"M" * 16]
    assert [info.node_id for info in first.receive().nodes] == [b"M" * 16]
    assert first.receive() == Placed(7, [(b"M" * 16, 1)])
    second.send(JobChanged(b"\0\0\0\1", 1, "", "", False, 1.0))
    assert first.receive() == JobOver(b"\0\0\0\1")
    second.socket.close()
    gone = first.receive()
    assert isinstance(gone, NodesChanged)
    assert [(info.node_id, info.alive) for info in gone.nodes] == [(b"M" * 16, False)]


@pytest.mark.slow
def test_a_node_that_does_not_read_is_heard_until_too_much_waits_for_it(gcs: Gcs) -> None:
    other = gcs.connect()
    assert other.ask("kv_put", key=b"k", value=bytes(60 << 20))
    node = gcs.connect()
    node.send(joins(), *[Ask(number, "kv_get", {"key": b"k"}) for number in range(3)])
    node.send(Heartbeat({"CPU": 1_000}, 0, 0, 0, 0.0))
    while [row["available"] for row in other.ask("nodes")] != [{"CPU": 0.1}]:
        pass
    node.send(*[Ask(number, "kv_get", {"key": b"k"}) for number in range(3)])
    while other.ask("nodes")[0]["Alive"]:
        pass
    assert "bytes wait to be read" in gcs.log()


@pytest.mark.parametrize("gcs", [[]], indirect=True)
def test_in_a_cluster_sigterm_leaves_the_files_to_others(gcs: Gcs) -> None:
    gcs.process.send_signal(signal.SIGTERM)
    assert gcs.ended() == 0
    assert gcs.socket_path.exists()


@pytest.mark.parametrize("gcs", [[]], indirect=True)
def test_in_a_cluster_it_ends_with_the_head_s_node_and_tidies_up_after_that(gcs: Gcs) -> None:
    of_another_node = gcs.folder.parent / f"{gcs.folder.name}-other"
    of_another_node.mkdir()
    (of_another_node / "node.sock").touch()
    node = gcs.connect()
    node.send(joins())
    assert node.ask("nodes")
    gcs.cut_lifeline()
    assert gcs.ended() == 0
    assert not gcs.socket_path.exists()
    assert (of_another_node / "node.sock").exists()


def test_without_a_unix_socket_it_ends_loudly(tmp_path: Path) -> None:
    lifeline, parent_end = os.pipe()
    with socket.socket(socket.AF_INET) as wrong:
        outcome = subprocess.run(
            command(tmp_path, wrong.fileno(), lifeline),
            pass_fds=(wrong.fileno(), lifeline),
            stderr=subprocess.PIPE,
            timeout=START_TIMEOUT_S,
            check=False,
        )
    os.close(lifeline)
    os.close(parent_end)
    assert outcome.returncode == 1
    assert b"Traceback" in outcome.stderr
    assert b"is no unix socket" in outcome.stderr
