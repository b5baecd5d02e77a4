"""``skate symmetric-run``: the same command on every machine makes a cluster for one program.

The machine that the address belongs to starts the head, all others join it. Once enough nodes are
there, the head's machine runs the program, with SKATE_ADDRESS set; when that ends, all nodes end,
and each machine's command exits with the program's exit code. So a batch system that starts one
command on each of its machines (Slurm's srun) needs nothing else.

The two sides talk through the GCS's key-value store: the head writes there that it runs a program,
and later the exit code, which the others read; it stays until they have left. On one machine, the
first to bind the port is the head.

Called by the command line only. If this process is killed, its node and its program end too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from types import FrameType

from skate import config
from skate.cli.start_stop import (
    Stopped,
    complain,
    complain_of,
    stop_signals,
    wait_for_end,
)
from skate.errors import SkateError, SystemFailureError
from skate.launch import addresses
from skate.launch.daemons import Daemons
from skate.launch.launching import NodeRequest, launch
from skate.launch.observer import Observer
from skate.net.dialing import split_address
from skate.node.shell.linux import die_with_parent

NAMESPACE, RUNS, EXIT_CODE = "skate.cli.symmetric_run", b"runs", b"exit_code"
"""Where in the key-value store the head's machine tells the others."""

LOOK_AGAIN_S = 0.25
"""How often the exit code is looked for, and the nodes counted."""

OTHERS_LEAVE_WITHIN_S = 10.0
"""After the program's end, how long the head stays for those that have not seen it yet."""


RUN_TOLD_WITHIN_S = 5.0
"""How long a cluster that was joined has to say that it is there for such a run."""


def symmetric_run(request: NodeRequest, command: list[str], min_nodes: int, wait_s: float) -> int:
    """Do this machine's part; the exit code is the program's. ``head_address`` is the address."""
    give_up_at = time.monotonic() + wait_s
    try:
        with stop_signals():
            daemons = _start_node(request, wait_s)
        with _noted_signals() as came:
            part: _Head | _Other
            if daemons.description.is_head:
                part = _Head(daemons, give_up_at, came, command, min_nodes)
            else:
                part = _Other(daemons, give_up_at, came)
            try:
                return part.run()
            finally:
                daemons.stop(time.monotonic() + config.STOP_TIMEOUT_S)
    except Stopped as stopped:
        return 128 + stopped.number
    except (SkateError, OSError, TypeError, ValueError) as error:
        return complain_of(error)


def _start_node(request: NodeRequest, wait_s: float) -> Daemons:
    host, port = split_address(request.head_address)
    own = [ip for ip in _resolve(host, wait_s) if addresses.is_own(ip)]
    if own:
        known_as = next((ip for ip in own if not addresses.is_loopback(ip)), "")
        try:
            return launch(replace(request, head_address="", host=known_as, port=port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    # On the head's own machine the process with the port may be the head of this very run.
    return launch(replace(request, wait_s=wait_s))


def _resolve(host: str, wait_s: float) -> list[str]:
    """The host's addresses; a machine that has just come up may not have its name yet."""
    give_up_at = time.monotonic() + wait_s
    while True:
        try:
            return addresses.resolve(host)
        except OSError:
            if time.monotonic() >= give_up_at:
                raise
        time.sleep(LOOK_AGAIN_S)


@contextlib.contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """Note SIGINT and SIGTERM; the program gets the terminal's Ctrl-C by itself."""
    came: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        came.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Part:
    """The work of both sides."""

    def __init__(self, daemons: Daemons, give_up_at: float, came: list[int]) -> None:
        self._daemons = daemons
        self._give_up_at = give_up_at
        self._signals = came

    def _stopped_code(self) -> int:
        """The exit code as a shell reports a signal; 0 if none has come."""
        return 128 + self._signals[0] if self._signals else 0

    def _check_daemons(self, timeout_s: float = 0.0) -> None:
        """Wait for so long, and raise if a daemon has ended."""
        if how := self._ended(timeout_s):
            raise SystemFailureError(how)

    def _ended(self, timeout_s: float = 0.0) -> str:
        """Wait for so long; returns how a daemon has ended, "" if none has."""
        if ended := wait_for_end(self._daemons, timeout_s):
            how = "; ".join(f"the {role} daemon has ended: {how}" for role, how in ended.items())
            return f"{how}. Its log: {self._daemons.path / 'logs'}"
        return ""


class _Head(_Part):
    """The machine that runs the program."""

    def __init__(
        self,
        daemons: Daemons,
        give_up_at: float,
        came: list[int],
        command: list[str],
        min_nodes: int,
    ) -> None:
        super().__init__(daemons, give_up_at, came)
        self._command = command
        self._min_nodes = min_nodes

    def run(self) -> int:
        """Wait until the program has ended and the others have left."""
        with Observer(self._daemons.node_socket) as observer:
            _tell(observer, RUNS, " ".join(self._command))
            exit_code = 1
            try:
                exit_code = self._await_nodes(observer) or self._run_program()
            finally:
                with contextlib.suppress(SkateError, OSError):
                    _tell(observer, EXIT_CODE, str(exit_code))
                    self._let_others_leave(observer)
        return exit_code

    def _await_nodes(self, observer: Observer) -> int:
        """0 once enough nodes have joined; the exit code if a signal comes first."""
        told = 0
        while (there := _count(observer)) < self._min_nodes and not self._signals:
            if time.monotonic() > self._give_up_at:
                raise SystemFailureError(
                    f"{there} of {self._min_nodes} nodes have come in time (--wait)"
                )
            if there != told:
                told = there
                _note(f"{there} of {self._min_nodes} nodes are there")
            self._check_daemons(LOOK_AGAIN_S)
        if not self._signals:
            _note(f"{there} of {self._min_nodes} nodes are there: running {self._command[0]}")
        return self._stopped_code()

    def _run_program(self) -> int:
        address = self._daemons.description.address
        environ = {**os.environ, "SKATE_ADDRESS": address, "RAY_ADDRESS": address}
        try:
            # Started by the main thread, which ends with this process and not before.
            program = subprocess.Popen(
                self._command, env=environ, preexec_fn=partial(die_with_parent, os.getpid())
            )
        except OSError as error:
            return complain(f"{self._command[0]} cannot be run: {error.strerror}", 127)
        is_asked = is_told = False
        while True:
            try:
                status = program.wait(LOOK_AGAIN_S)
            except subprocess.TimeoutExpired:
                # Calls to the cluster fail now; the program decides what to do.
                if not is_told and (how := self._ended()):
                    is_told = True
                    _note(how)
                if signal.SIGTERM in self._signals and not is_asked:
                    is_asked = True
                    program.terminate()
            else:
                return status if status >= 0 else 128 - status

    def _let_others_leave(self, observer: Observer) -> None:
        deadline = time.monotonic() + OTHERS_LEAVE_WITHIN_S
        with contextlib.suppress(SkateError, OSError):
            while _count(observer) > 1 and time.monotonic() < deadline:
                self._check_daemons(LOOK_AGAIN_S)


class _Other(_Part):
    """A machine that lends its node to the program."""

    def run(self) -> int:
        """Wait until the head's machine tells the exit code."""
        address = self._daemons.description.head_address
        _note(f"joined {address}")
        told_by = time.monotonic() + RUN_TOLD_WITHIN_S
        with Observer(self._daemons.node_socket) as observer:
            while _ask(observer, RUNS) is None:
                if time.monotonic() > told_by:
                    raise SystemFailureError(
                        f"the cluster at {address} was not started by `skate symmetric-run`: stop "
                        "it (`skate stop`), or choose another port"
                    )
                self._check_daemons(LOOK_AGAIN_S)
            while (exit_code := _ask(observer, EXIT_CODE)) is None and not self._signals:
                self._check_daemons(LOOK_AGAIN_S)
        return self._stopped_code() if exit_code is None else int(exit_code)


def _tell(observer: Observer, key: bytes, value: str) -> None:
    observer.ask("kv_put", {"key": key, "value": value.encode(), "namespace": NAMESPACE})


def _ask(observer: Observer, key: bytes) -> str | None:
    value = observer.ask(
        "kv_get", {"key": key, "namespace": NAMESPACE}, timeout_s=config.HEAD_LOST_S
    )
    return None if value is None else bytes(value).decode()


def _count(observer: Observer) -> int:
    return sum(row["Alive"] for row in observer.ask("nodes"))


def _note(text: str) -> None:
    print(f"skate symmetric-run: {text}", file=sys.stderr, flush=True)
