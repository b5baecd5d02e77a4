"""``skate start``, ``stop``, ``status`` and ``symmetric-run`` as a user meets them.

Each test has a folder of sessions of its own, so that clusters of other tests are not met, and
nothing of it is left at its end. All machines are this one; a port tells them apart.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import skate
from skate.launch.session_folder import Description, read_description
from tests.api.waiting import is_running, until_gone
from tests.conftest import Leftovers, eventually

SOURCES = str(Path(__file__).resolve().parents[2] / "src")
SKATE = [sys.executable, "-m", "skate"]
SMALL = ["--num-cpus", "1", "--object-store-memory", "100000000"]
TIMEOUT_S = 60
AT_ONCE_S = 4.0  # rather than after the time-out of an answer

Finished = subprocess.CompletedProcess[str]


class Machine:
    """This machine, with a folder of sessions that belongs to one test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.programs: list[subprocess.Popen[str]] = []

    def begin(self, *command: str, **environ: str) -> subprocess.Popen[str]:
        """Start a program without waiting for its end."""
        program = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": SOURCES, "COLUMNS": "200", **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.programs.append(program)
        return program

    def skate(self, *arguments: str, **environ: str) -> Finished:
        """Run a ``skate`` command to its end."""
        return ended(self.begin(*SKATE, *arguments, **environ))

    def start_head(self, *options: str) -> Description:
        """A head on some port; what its session says."""
        return self.start("--head", "--port", "0", *options)

    def start(self, *options: str) -> Description:
        """A node, detached; what its session says."""
        before = set(self.sessions())
        finished = self.skate("start", *SMALL, *options)
        assert finished.returncode == 0, finished.stderr
        (new,) = set(self.sessions()) - before
        return read_description(self.root / new)

    def sessions(self) -> list[str]:
        return [path.name for path in self.root.glob("session_*")]

    def end(self) -> None:
        for program in self.programs:
            if program.poll() is None:
                program.kill()
            program.communicate()
        assert self.skate("stop", "--force", "--all").returncode == 0


def ended(program: subprocess.Popen[str]) -> Finished:
    out, err = program.communicate(timeout=TIMEOUT_S)
    return Finished(program.args, program.returncode, out, err)


def first_line(program: subprocess.Popen[str]) -> str:
    assert program.stdout is not None
    return program.stdout.readline()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    root = Path(tempfile.mkdtemp(prefix="skate-"))
    monkeypatch.setenv("SKATE_TEMP_DIR", str(root))
    for variable in ("SKATE_ADDRESS", "RAY_ADDRESS", "SKATE_TOKEN", "SKATE_TOKEN_FILE"):
        monkeypatch.delenv(variable, raising=False)
    made = Machine(root)
    yield made
    skate.shutdown()
    names = made.sessions()
    try:
        made.end()
        for name in names:
            Leftovers(root).assert_gone(name)
    finally:
        shutil.rmtree(root)


def port_of(address: str) -> str:
    return address.rpartition(":")[2]


@skate.remote
def where() -> str:
    return skate.get_runtime_context().get_node_id()


# ------------------------------------------------------------------------------- a head


def test_a_head_starts_is_joined_and_stops(machine: Machine) -> None:
    finished = machine.skate(
        "start", "--head", "--port", "0", *SMALL, "--labels", "zone=a,disk=ssd",
        "--resources", '{"tape": 2}',
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    (name,) = machine.sessions()
    told = read_description(machine.root / name)
    for text in (
        f"the head of a cluster at {told.address}\n",
        f"  skate start --address {told.address}\n",
        f"  {machine.root}/cluster_token\n",
        f"skate.init({told.address!r})",
        "  skate stop",
    ):
        assert text in finished.stdout
    assert stat.S_IMODE((machine.root / "cluster_token").stat().st_mode) == 0o600
    assert os.getsid(told.node_pid) == told.node_pid != os.getsid(0), "it is detached"

    localhost = f"localhost:{port_of(told.address)}"
    for address in (None, "auto", told.address, localhost):
        context = skate.init(address)
        assert context.address_info["address"] == told.address
        assert context.address_info["node_ip_address"] == told.host
        assert skate.get(where.remote(), timeout=30) == told.node_id
        total = skate.cluster_resources()
        assert (total["CPU"], total["tape"]) == (1.0, 2.0)
        skate.shutdown()
    status = machine.skate("status")
    assert status.returncode == 0
    for text in (f"cluster at {told.address}\n", "its head is here", "zone=a", "CPU 0 of 1"):
        assert text in status.stdout
    for address in (told.address, localhost, name):
        assert machine.skate("status", "--address", address).stdout == status.stdout
    assert machine.skate("status", "--address", "10.9.8.7:1").returncode == 1

    stopped = machine.skate("stop")
    Leftovers(machine.root).assert_gone(name)
    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert told.address in stopped.stdout
    again = machine.skate("stop")
    assert again.returncode == 0
    assert again.stdout.startswith("No node that `skate start` made is running here")


def test_a_port_that_is_taken_is_an_error_that_names_who_has_it(machine: Machine) -> None:
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        finished = machine.skate("start", "--head", "--port", port)
    assert finished.returncode == 1
    assert finished.stderr.startswith(f"skate: port {port} is taken by ")
    assert f"(pid {os.getpid()})" in finished.stderr
    told = machine.start_head()
    finished = machine.skate("start", "--head", "--port", port_of(told.address))
    assert finished.returncode == 1
    assert f"taken by skate:node (pid {told.node_pid})" in finished.stderr


USAGE = {
    "neither": ((), "--head or --address"),
    "both": (("--head", "--address", "a:1"), "--head or --address"),
    "no port": (("--address", "host"), "HOST:PORT"),
    "port": (("--head", "--port", "70000"), "70000"),
    "resources": (("--head", "--resources", "[1]"), "--resources"),
    "resources text": (("--head", "--resources", "tape"), "JSON"),
    "labels": (("--head", "--labels", "zone"), "--labels"),
    "label syntax": (("--head", "--port", "0", "--labels", "a b=c"), "a b"),
    "cpus": (("--head", "--port", "0", "--num-cpus", "-1"), "num_cpus"),
    "store": (("--head", "--port", "0", "--object-store-memory", "1000"), "object_store_memory"),
    "tls": (("--head", "--port", "0", "--tls-cert", "c.pem"), "--tls-key"),
}


@pytest.mark.parametrize("wrong", USAGE)
def test_options_that_cannot_be_are_usage_errors(wrong: str, machine: Machine) -> None:
    options, says = USAGE[wrong]
    finished = machine.skate("start", *options)
    assert finished.returncode == 2
    assert says in finished.stderr and "Traceback" not in finished.stderr
    assert finished.stdout == ""


def test_an_address_that_is_not_this_machines(machine: Machine) -> None:
    finished = machine.skate("start", "--head", "--port", "0", "--node-ip-address", "203.0.113.9")
    assert finished.returncode == 1
    assert "203.0.113.9 is no address of this machine" in finished.stderr


def test_an_address_that_is_asked_for_is_the_only_one(machine: Machine) -> None:
    told = machine.start_head("--node-ip-address", "127.0.0.1")
    assert told.address.startswith("127.0.0.1:")
    (listener,) = (
        line
        for line in psutil.Process(told.node_pid).net_connections("tcp")
        if line.status == psutil.CONN_LISTEN
    )
    assert listener.laddr.ip == "127.0.0.1"


# ------------------------------------------------------------------------------- the token


def test_a_token_that_others_can_read_is_refused(machine: Machine) -> None:
    token = machine.root / "mine"
    token.write_text("x" * 32)
    token.chmod(0o644)
    finished = machine.skate("start", "--head", "--port", "0", "--token-file", str(token))
    assert finished.returncode == 1
    assert "chmod 600" in finished.stderr


def test_a_token_in_the_environment_is_not_handed_on(machine: Machine) -> None:
    finished = machine.skate("start", "--head", "--port", "0", *SMALL, SKATE_TOKEN="x" * 32)
    assert finished.returncode == 0, finished.stderr
    (name,) = machine.sessions()
    told = read_description(machine.root / name)
    assert Path(told.token_file).read_text().strip() == "x" * 32
    assert stat.S_IMODE(os.stat(told.token_file).st_mode) == 0o600
    assert not (machine.root / "cluster_token").exists()
    assert "SKATE_TOKEN" not in psutil.Process(told.node_pid).environ()


# ------------------------------------------------------------------------------- more nodes


def test_a_node_joins_the_cluster_and_leaves_it(machine: Machine) -> None:
    head = machine.start_head("--resources", '{"head": 1}')
    node = machine.start("--address", head.address, "--resources", '{"tape": 1}')
    assert (node.head_address, node.gcs_pid) == (head.address, 0)
    assert node.address != head.address and node.host == head.host
    skate.init()
    assert skate.get_runtime_context().get_node_id() == head.node_id  # rather than of the other
    total = skate.cluster_resources()
    assert (total["CPU"], total["node:__internal_head__"]) == (2.0, 1.0)
    assert skate.get(where.options(resources={"tape": 1}).remote(), timeout=30) == node.node_id
    skate.shutdown()
    skate.init(node.address)
    assert skate.get(where.options(resources={"head": 1}).remote(), timeout=30) == head.node_id
    status = machine.skate("status").stdout
    assert status.count("cluster at ") == 1
    assert head.address in status and node.address in status
    assert "all 2 nodes: CPU 0 of 2, " in status
    skate.shutdown()

    stopped = machine.skate("stop").stdout
    assert f"the head of the cluster at {head.address}" in stopped
    assert f"a node of the cluster at {head.address} ({node.address}" in stopped
    for told in (head, node):
        Leftovers(machine.root).assert_gone(told.session)


def test_joining_in_vain_is_told_in_a_sentence(machine: Machine) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nowhere = f"127.0.0.1:{unused.getsockname()[1]}"
    finished = machine.skate("start", "--address", nowhere)
    assert finished.returncode == 1
    assert "does not have the cluster's token" in finished.stderr
    head = machine.start_head()
    finished = machine.skate("start", "--address", nowhere)
    assert finished.returncode == 1
    assert nowhere in finished.stderr and finished.stderr.count("\n") == 1
    wrong = machine.root / "wrong"
    wrong.touch(0o600)
    wrong.write_text("y" * 32)
    finished = machine.skate("start", "--address", head.address, "--token-file", str(wrong))
    assert finished.returncode == 1
    assert f"the cluster at {head.address} refused the token" in finished.stderr
    assert len(machine.skate("status").stdout.split("cluster at ")) == 2


def test_a_node_may_be_started_before_its_head(machine: Machine) -> None:
    token = machine.root / "token"
    token.touch(0o600)
    token.write_text("z" * 32)
    with socket.socket() as unused:
        unused.bind(("0.0.0.0", 0))
        port = str(unused.getsockname()[1])
    options = [*SMALL, "--token-file", str(token)]
    node = machine.begin(
        *SKATE, "start", "--address", f"127.0.0.1:{port}", "--wait", "50", *options
    )
    eventually(machine.sessions, "the command has begun")
    head = machine.skate("start", "--head", "--port", port, *options)
    assert head.returncode == 0, head.stderr
    joined = ended(node)
    assert joined.returncode == 0, joined.stderr
    skate.init()
    assert skate.cluster_resources()["CPU"] == 2.0


def test_with_tls_only_members_get_in(machine: Machine, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    from tests.net.certificates import Authority

    authority = Authority(tmp_path)
    cert, key = authority.member()
    tls = ["--tls-cert", cert, "--tls-key", key, "--tls-ca", authority.ca]
    head = machine.start_head(*tls)
    node = machine.start("--address", head.address, "--resources", '{"tape": 1}', *tls)
    skate.init()
    assert skate.get(where.options(resources={"tape": 1}).remote(), timeout=30) == node.node_id
    finished = machine.skate("start", "--address", head.address)
    assert finished.returncode == 1
    assert "requires TLS" in finished.stderr


# ------------------------------------------------------------------------------- init


def test_a_cluster_s_nodes_have_what_they_were_started_with(machine: Machine) -> None:
    head = machine.start_head()
    settings: dict[str, Any] = {
        "num_cpus": 2, "num_gpus": 1, "resources": {"x": 1}, "labels": {"a": "b"},
        "object_store_memory": 10**8,
    }  # fmt: skip
    for address in (None, "auto", head.address):
        for name, value in settings.items():
            with pytest.raises(ValueError, match=name):
                skate.init(address, **{name: value})
    skate.init("local", num_cpus=2)
    assert skate.cluster_resources()["CPU"] == 2.0


def test_where_the_address_comes_from(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    head = machine.start_head()
    for variable, value, argument, joins in [
        ("SKATE_ADDRESS", head.address, None, True),
        ("RAY_ADDRESS", head.address, "auto", True),
        ("RAY_ADDRESS", "local", None, False),
        ("SKATE_ADDRESS", "10.9.8.7:1", head.address, True),
    ]:
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            context = skate.init(argument)
            assert (context.address_info["address"] == head.address) is joins
            skate.shutdown()
    monkeypatch.setenv("SKATE_ADDRESS", "10.9.8.7:1")
    with pytest.raises(ConnectionError, match=r"SKATE_ADDRESS is '10\.9\.8\.7:1'.*skate start"):
        skate.init()
    with pytest.raises(ValueError, match="HOST:PORT"):
        skate.init("10.9.8.7")


def test_a_cluster_that_has_ended_is_not_found(machine: Machine) -> None:
    head = machine.start_head()
    machine.skate("stop")
    for address in ("auto", head.address):
        with pytest.raises(ConnectionError):
            skate.init(address)
    skate.init(num_cpus=1)
    assert skate.get_runtime_context().get_node_id() != head.node_id


def test_a_node_that_waits_for_its_head_says_so(machine: Machine) -> None:
    head = machine.start_head()
    node = machine.start("--address", head.address)
    folder = machine.root / node.session
    for pid in (head.node_pid, head.gcs_pid):
        os.kill(pid, signal.SIGKILL)
        until_gone(pid)
    eventually(lambda: read_description(folder).waits_for_head, "the node notices")
    sentence = f"this node has lost its head at {head.address} and waits for it"
    began = time.monotonic()
    with pytest.raises(skate.exceptions.SystemFailureError, match=sentence):
        skate.init(node.address)
    assert time.monotonic() - began < AT_ONCE_S
    finished = machine.skate("status")
    assert sentence in finished.stdout and "cannot be read" not in finished.stdout
    machine.start("--head", "--port", port_of(head.address))
    eventually(lambda: not read_description(folder).waits_for_head, "the head is back")
    assert sentence not in machine.skate("status", node.address).stdout


def test_a_driver_is_told_of_the_death_of_the_node_that_it_joined(
    machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    head = machine.start_head()
    for number in (signal.SIGKILL, signal.SIGTERM):
        skate.init()
        ref = where.remote()
        skate.get(ref, timeout=30)
        os.kill(head.node_pid, number)
        with pytest.raises(skate.exceptions.LocalRayletDiedError, match="The node daemon") as told:
            while True:
                skate.get(where.remote(), timeout=30)
        assert f"pid {head.node_pid}" in str(told.value)
        assert f"the cluster at {head.address}" in str(told.value)
        assert not skate.is_initialized()
        Leftovers(machine.root).assert_gone(head.session)
        head = machine.start_head()
    assert "skate: The node daemon" in capfd.readouterr().err


def test_sessions_of_programs_and_clusters_let_each_other_alone(machine: Machine) -> None:
    head = machine.start_head()
    program = machine.begin(
        sys.executable,
        "-c",
        "import skate, time\n"
        "c = skate.init('local', num_cpus=1)\n"  # sweeps the folder of sessions
        "print(c.address_info['session_dir'], flush=True)\n"
        "time.sleep(600)",
    )
    session = Path(first_line(program).strip())
    assert is_running(head.node_pid)
    assert "end with those" not in machine.skate("stop").stdout
    Leftovers(machine.root).assert_gone(head.session)
    assert "end with those" in machine.skate("stop").stdout
    told = read_description(session)
    assert is_running(told.node_pid)
    stopped = machine.skate("stop", "--all")
    assert session.name in stopped.stdout
    Leftovers(machine.root).assert_gone(session.name)


# ------------------------------------------------------------------------------- how it ends


@pytest.mark.parametrize("role", ["node", "gcs"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_of_a_head_nothing_is_left_if_a_daemon_dies(
    role: str, number: int, machine: Machine
) -> None:
    head = machine.start_head()
    skate.init()
    skate.get(where.remote(), timeout=30)
    os.kill(head.node_pid if role == "node" else head.gcs_pid, number)
    Leftovers(machine.root).assert_gone(head.session)


def test_stop_kills_what_does_not_end(machine: Machine) -> None:
    head = machine.start_head()
    os.kill(head.node_pid, signal.SIGSTOP)
    asked = time.monotonic()
    stopped = machine.skate("stop", "--grace-period", "0.2")
    assert stopped.returncode == 0 and head.address in stopped.stdout
    Leftovers(machine.root).assert_gone(head.session)
    head = machine.start_head()
    os.kill(head.gcs_pid, signal.SIGSTOP)
    assert machine.skate("stop", "--force").returncode == 0
    Leftovers(machine.root).assert_gone(head.session)
    assert time.monotonic() - asked < TIMEOUT_S


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_in_the_foreground_the_node_lives_as_long_as_the_command(
    number: int, machine: Machine
) -> None:
    command = machine.begin(*SKATE, "start", "--head", "--port", "0", "--block", *SMALL)
    assert "Started the head" in first_line(command)
    skate.init()
    skate.get(where.remote(), timeout=30)
    skate.shutdown()
    (name,) = machine.sessions()
    command.send_signal(number)
    finished = ended(command)
    Leftovers(machine.root).assert_gone(name)
    if number != signal.SIGKILL:
        assert (finished.returncode, finished.stderr) == (0, "")
        assert finished.stdout.endswith("Stopped.\n")


@pytest.mark.parametrize("role", ["node", "gcs"])
def test_in_the_foreground_the_death_of_a_daemon_is_an_error(role: str, machine: Machine) -> None:
    command = machine.begin(*SKATE, "start", "--head", "--port", "0", "--block", *SMALL)
    first_line(command)
    (name,) = machine.sessions()
    pids = json.loads((machine.root / name / "session.json").read_text())
    os.kill(pids[f"{role}_pid"], signal.SIGKILL)
    finished = ended(command)
    assert finished.returncode == 1
    assert "has ended" in finished.stderr and "logs" in finished.stderr
    Leftovers(machine.root).assert_gone(name)


@pytest.mark.parametrize("block", [("--block",), ()], ids=["foreground", "detached"])
def test_a_command_that_is_interrupted_leaves_nothing(
    block: tuple[str, ...], machine: Machine
) -> None:
    for step in range(4):
        command = machine.begin(*SKATE, "start", "--head", "--port", "0", *SMALL, *block)
        with contextlib.suppress(subprocess.TimeoutExpired):
            command.wait(0.15 + 0.1 * step)  # a moment, not a condition: any will do
        command.send_signal(signal.SIGTERM)
        if "To stop this node" in ended(command).stdout and not block:
            machine.skate("stop")  # the signal came too late
    for name in machine.sessions():
        Leftovers(machine.root).assert_gone(name)


def test_everything_was_killed_at_once(machine: Machine) -> None:
    head = machine.start_head()
    for pid in (head.gcs_pid, head.node_pid):  # so that neither can tidy up for the other
        os.kill(pid, signal.SIGSTOP)
    for pid in (head.gcs_pid, head.node_pid):
        os.kill(pid, signal.SIGKILL)
        until_gone(pid)
    assert Leftovers(machine.root).find(head.session), "nothing is left that could be swept"
    with pytest.raises(ConnectionError):
        skate.init("auto")
    Leftovers(machine.root).assert_gone(head.session)


def test_of_a_joined_node_that_was_killed_nothing_stays_in_memory(machine: Machine) -> None:
    head = machine.start_head()
    node = machine.start("--address", head.address)
    os.kill(node.node_pid, signal.SIGKILL)
    until_gone(node.node_pid)
    assert head.address in machine.skate("status").stdout
    Leftovers(machine.root).assert_gone(node.session)


# ------------------------------------------------------------------------------- symmetric-run

PROGRAM = """
import os, skate
skate.init()
print("nodes", sum(row["Alive"] for row in skate.nodes()), os.environ["SKATE_ADDRESS"], flush=True)
raise SystemExit(7)
"""


def symmetric(address: str, *options: str) -> list[str]:
    return [*SKATE, "symmetric-run", "--address", address, *SMALL, *options, "--"]


def free_address(host: str = "127.0.0.1") -> str:
    with socket.socket() as unused:
        unused.bind((host, 0))
        return f"{host}:{unused.getsockname()[1]}"


def test_the_same_command_everywhere_runs_one_program(machine: Machine) -> None:
    address = free_address()
    command = [*symmetric(address, "--min-nodes", "3"), sys.executable, "-c", PROGRAM]
    parts = [ended(part) for part in [machine.begin(*command) for _ in range(3)]]
    assert [part.returncode for part in parts] == [7, 7, 7], [part.stderr for part in parts]
    (printed,) = (part.stdout for part in parts if part.stdout)
    assert re.fullmatch(rf"nodes 3 \S+:{port_of(address)}\n", printed)
    for name in machine.sessions():
        Leftovers(machine.root).assert_gone(name)


def test_without_enough_nodes_the_program_does_not_run(machine: Machine) -> None:
    command = symmetric(free_address(), "--min-nodes", "2", "--wait", "1")
    finished = ended(machine.begin(*command, "echo", "no"))
    assert (finished.returncode, finished.stdout) == (1, "")
    assert "1 of 2 nodes" in finished.stderr


def test_a_program_that_cannot_be_run_ends_all(machine: Machine) -> None:
    finished = ended(machine.begin(*symmetric(free_address()), "/no/such/program"))
    assert finished.returncode == 127
    assert "/no/such/program cannot be run" in finished.stderr


@pytest.mark.slow
def test_another_cluster_on_that_port_is_not_mistaken_for_this_one(machine: Machine) -> None:
    head = machine.start_head()
    finished = ended(machine.begin(*symmetric(head.address), "echo", "no"))
    assert (finished.returncode, finished.stdout) == (1, "")
    assert "was not started by `skate symmetric-run`" in finished.stderr
    assert is_running(head.node_pid)


def test_the_command_says_that_a_daemon_has_ended_while_its_program_runs(
    machine: Machine, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    command = machine.begin(
        *symmetric(free_address()), sys.executable, "-c",
        "import os, time\nprint('runs', flush=True)\n"
        f"while not os.path.exists({str(go)!r}): time.sleep(0.05)",
    )  # fmt: skip
    assert first_line(command) == "runs\n"
    (node,) = (
        child for child in psutil.Process(command.pid).children() if "node" in child.cmdline()
    )
    node.kill()
    assert command.stderr is not None
    said = ""
    while "daemon has ended" not in said:
        line = command.stderr.readline()
        assert line, said
        said += line
    assert "signal 9" in said and "Its log: " in said
    go.touch()
    assert command.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_with_the_command_everything_ends(number: int, machine: Machine) -> None:
    command = machine.begin(
        *symmetric(free_address()), sys.executable, "-c",
        "import time; print('runs', flush=True); time.sleep(600)",
    )  # fmt: skip
    assert first_line(command) == "runs\n"
    (program,) = (
        child for child in psutil.Process(command.pid).children() if "runs" in child.cmdline()[-1]
    )
    command.send_signal(number)
    if number == signal.SIGTERM:
        assert ended(command).returncode == 128 + signal.SIGTERM
        assert not is_running(program.pid)
    else:
        command.wait(TIMEOUT_S)
        eventually(lambda: not is_running(program.pid), "the program to end")
    for name in machine.sessions():
        Leftovers(machine.root).assert_gone(name)
