"""What a live session says of itself to an observer, who changes nothing."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest

import skate
from skate import messages as m
from skate.cli.status import collect
from skate.errors import SystemFailureError
from skate.net.frame import frame
from tests.api.waiting import until


def folder_of_session() -> Path:
    context = skate.get_runtime_context()
    return Path(context.get_temp_dir()) / context.get_session_name()


def test_a_session_tells_its_load_what_waits_and_its_actors() -> None:
    np = pytest.importorskip("numpy")

    @skate.remote
    class Actor:
        def work(self) -> None: ...

    skate.init(num_cpus=1, resources={"oar": 2}, labels={"zone": "a"})
    folder = folder_of_session()
    actor = Actor.options(resources={"oar": 1}).remote()
    skate.get(actor.work.remote())
    kept = skate.put(np.zeros(1 << 20, dtype="u1"))
    waiting = [Actor.options(resources={"oar": 1}).remote() for _ in range(3)]
    never = Actor.options(num_cpus=100).remote()
    # The question goes by a connection of its own: the driver's messages may still be under way.
    skate.available_resources()
    until(lambda: len(collect(folder)["pending"]) == 2)

    report = collect(folder)
    (node,) = report["nodes"]
    assert node["node_id"] == skate.get_runtime_context().get_node_id()
    assert node["alive"] is True and node["labels"]["zone"] == "a"
    assert node["resources_total"]["oar"] == 2 and node["resources_available"]["oar"] == 1
    same, impossible = sorted(report["pending"], key=lambda row: row["demand"]["CPU"])
    assert same["count"] == len(waiting) and same["name"] == "Actor"
    assert same["demand"] == {"CPU": 1, "oar": 1}
    assert impossible["count"] == 1 and "CPU" in impossible["reason"]
    assert report["actors"]["ALIVE"] == 1
    used = report["object_store"]["used_bytes"]
    assert used >= 1 << 20
    total, available = node["resources_total"], node["resources_available"]
    assert total["object_store_memory"] - available["object_store_memory"] == used
    assert report["object_store"]["capacity_bytes"] > 1 << 20

    # Looking has changed nothing: no job more, and everything works as before.
    assert collect(folder)["actors"] == report["actors"]
    assert skate.get(actor.work.remote()) is None
    del kept, never
    skate.shutdown()
    with pytest.raises((OSError, ValueError)):
        collect(folder)


@pytest.mark.parametrize("last_words", [[], [m.Refused("no visitors")], [m.SessionEnds("enough")]])
def test_a_session_that_breaks_off_is_an_error_that_says_so(
    last_words: list[Any], skate_temp_dir: Path
) -> None:
    path = skate_temp_dir / "s"
    path.mkdir(exist_ok=True)
    address = path / "node.sock"
    (path / "session.json").write_text(f'{{"node_socket": "{address}"}}')
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen()

        def answer() -> None:
            line, _ = listener.accept()
            line.recv(1 << 16)
            if last_words:
                line.sendall(frame(last_words))
            line.close()

        thread = threading.Thread(target=answer)
        thread.start()
        expected = last_words[0].reason if last_words else "ended"
        with pytest.raises(SystemFailureError, match=expected):
            collect(path)
        thread.join()
    address.unlink()
