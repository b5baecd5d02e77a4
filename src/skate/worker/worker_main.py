"""A worker process: takes over its job's world, then runs what its node sends, until told to end.

The process's one ``Worker`` wires the parts: ``inbox`` holds what the node has sent, ``executor``
runs one call, and a loop takes calls from the one to the other: one by one (task_loop.py), on a
pool of threads (threaded_actor.py, for ``max_concurrency``) or on an event loop (async_actor.py,
for actors with async methods).
"""

from __future__ import annotations

import atexit
import contextlib
import mmap
import os
import signal
import socket
import sys
import traceback
from typing import NoReturn, Protocol

from skate import config
from skate import messages as m
from skate.client import runtime as runtime_module
from skate.client.connection import Connection
from skate.client.runtime import Runtime
from skate.worker.executor import ActorExit, Executor
from skate.worker.inbox import Inbox
from skate.worker.named_output import name_output
from skate.worker.takeover import take_over
from skate.worker.task_loop import TaskLoop


class Loop(Protocol):
    """Takes calls from the inbox, has the executor run them, and sends their answers."""

    def run(self) -> None:
        """Until asked to end; what was delivered before that is run."""


class Worker:
    """The parts of this process; ``worker`` is the one of this process."""

    def __init__(self, connection: Connection, setup: m.WorkerSetup, begun: mmap.mmap) -> None:
        self._connection = connection
        self._begun = begun
        self.setup = setup
        self.runtime = Runtime(
            connection,
            job_id=setup.job_id,
            node_id=setup.node_id,
            submitter=setup.submitter,
            session=setup.session,
            arena_path=setup.arena_path,
            arena_bytes=setup.arena_bytes,
            namespace=setup.job.namespace,
            is_driver=False,
            lanes_dir=setup.lanes_dir,
        )
        self.runtime.worker_id = setup.worker_id
        self.executor = Executor(self.runtime, setup, self._leave)
        self._inbox = Inbox(connection, setup, self.executor.on_function)
        connection.handlers[m.RegisterFunction] = self.executor.on_function

    def _leave(self, reason: str) -> None:
        self._inbox.leave(reason)

    def run(self) -> None:
        """From hello to the end."""
        connection, setup = self._connection, self.setup
        runtime_module.set_current(self.runtime)
        name_output(self.executor.log_name)
        loop = self._loop()
        connection.append(
            m.Hello(
                config.PROTOCOL_VERSION,
                config.PYTHON,
                "worker",
                os.getpid(),
                setup.submitter,
                lanes=config.LANES,
            )
        )
        loop.run()
        self._finish()

    def _loop(self) -> Loop:
        parts = self._connection, self.runtime, self._inbox, self.executor
        options = self.setup.actor
        if options is not None and options.is_async:
            from skate.worker.async_actor import AsyncLoop

            return AsyncLoop(*parts, options.max_concurrency)
        if options is not None and options.max_concurrency > 1:
            from skate.worker.threaded_actor import ThreadedLoop

            return ThreadedLoop(*parts, options.max_concurrency)
        offset = self.setup.clock_offset
        is_of_tasks = options is None
        return TaskLoop(*parts, hands_back=is_of_tasks, clock_offset=offset, begun=self._begun)

    def _finish(self) -> None:
        """An intended end: the user's hooks, then the last words."""
        hook = getattr(self.executor.actor, "__ray_shutdown__", None)
        if hook is not None:
            try:
                hook()
            except Exception:
                traceback.print_exc()
        with contextlib.suppress(Exception):
            self._connection.flush()
        self._inbox.close()
        self.executor.actor = None
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()


worker: Worker | None = None


def exit_actor() -> NoReturn:
    """End the actor whose method calls this, in good order. TypeError outside of an actor."""
    if worker is None or not worker.setup.actor_id:
        raise TypeError("exit_actor() can only be called inside an actor's method")
    raise ActorExit


def main(line: socket.socket, begun: mmap.mmap) -> None:
    """Entry of a freshly forked worker; ``line`` is its connection.

    ``begun``: where the id of each task is noted as it begins, for whoever reaps the process.
    """
    global worker
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    connection = Connection(line)
    setups: list[m.WorkerSetup] = []
    connection.handlers[m.WorkerSetup] = setups.append
    connection.on_lost = lambda reason: os._exit(0)  # the node is gone: nobody to work for
    connection.wait_for(lambda: setups)
    take_over(setups[0])
    worker = Worker(connection, setups[0], begun)
    worker.run()
