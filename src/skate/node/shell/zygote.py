"""The zygote: a warm, single-threaded interpreter that forks workers.

A child of the node daemon, forked before the daemon starts its event loop. It gets requests over a
SEQPACKET socketpair (one datagram each, the worker's end of its connection attached) and reports
each start and exit. It ends on EOF; its workers carry PR_SET_PDEATHSIG and end with it. It
shares a few bytes with each worker, which notes there the task that it begins: the report of its
exit names the last one, whatever killed the worker. The zygote never runs user code and never opens
the job's data: the worker learns its job from its node.

    node -> zygote   {"do": "fork", "id": worker id, "out": path, "err": path} + 1 fd
                     {"do": "kill", "id": worker id}
    zygote -> node   {"did": "fork", "id": .., "pid": ..} | {"did": "fail", "id": .., "why": text}
                     {"did": "exit", "id": .., "status": .., "begun": TaskID or zeros}
"""

from __future__ import annotations

import errno
import gc
import importlib
import mmap
import os
import select
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from skate.ids import TASK_ID_BYTES
from skate.node.shell import linux

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, Any]).decode
MAX_REQUEST_BYTES = 64 << 10

RunWorker = Callable[[socket.socket, mmap.mmap], None]  # its connection; what it has begun last


class Zygote:
    """The zygote's loop."""

    def __init__(self, line: socket.socket, run_worker: RunWorker) -> None:
        self._line = line
        self._run_worker = run_worker
        self._pids: dict[bytes, int] = {}
        # pidfd -> worker id, pid, and the memory where it notes what it has begun
        self._pidfds: dict[int, tuple[bytes, int, mmap.mmap]] = {}
        self._poll = select.poll()
        self._poll.register(line, select.POLLIN)

    def run(self, warm_modules: Sequence[str]) -> None:
        """Import these, then serve until the node is gone."""
        for module in warm_modules:
            importlib.import_module(module)
        gc.freeze()  # warm modules stay shared: no collection in a child touches them
        while True:
            for fd, _ in self._poll.poll():
                if fd == self._line.fileno():
                    if not self._serve():
                        return
                else:
                    self._reap(fd)

    def _serve(self) -> bool:
        try:
            data, fds, _, _ = socket.recv_fds(self._line, MAX_REQUEST_BYTES, 1)
        except ConnectionError:
            return False
        if not data:
            return False
        request = _decode(data)
        if request["do"] == "fork":
            if fds:
                self._fork(request, fds[0])
            else:  # the process had no room for the descriptor, and the kernel dropped it
                self._tell_failure(request["id"], OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
        elif request["do"] == "kill":
            pid = self._pids.get(request["id"])
            if pid is not None:  # not reaped yet, so the pid is still its own
                os.kill(pid, signal.SIGKILL)
        return True

    def _fork(self, request: dict[str, Any], fd: int) -> None:
        parent = os.getpid()
        try:
            begun = mmap.mmap(-1, TASK_ID_BYTES)
            pid = os.fork()
        except OSError as error:
            os.close(fd)
            self._tell_failure(request["id"], error)
            return
        if pid == 0:
            self._become_worker(request, fd, parent, begun)
        os.close(fd)
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self._tell_failure(request["id"], error)
            return
        self._pids[request["id"]] = pid
        self._pidfds[pidfd] = (request["id"], pid, begun)
        self._poll.register(pidfd, select.POLLIN)
        self._tell({"did": "fork", "id": request["id"], "pid": pid})

    def _become_worker(
        self, request: dict[str, Any], fd: int, parent: int, begun: mmap.mmap
    ) -> None:
        code = 1
        try:
            linux.die_with_parent(parent)
            linux.set_process_name("skate:worker")
            self._line.close()
            for pidfd in self._pidfds:
                os.close(pidfd)
            for number, path in ((1, request["out"]), (2, request["err"])):
                log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                os.dup2(log, number)
                os.close(log)
            gc.enable()
            self._run_worker(socket.socket(fileno=fd), begun)
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)

    def _reap(self, pidfd: int) -> None:
        worker_id, pid, begun = self._pidfds.pop(pidfd)
        _, status = os.waitpid(pid, 0)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        del self._pids[worker_id]
        code = os.waitstatus_to_exitcode(status)
        self._tell({"did": "exit", "id": worker_id, "status": code, "begun": begun[:]})
        begun.close()

    def _tell_failure(self, worker_id: bytes, error: OSError) -> None:
        self._tell({"did": "fail", "id": worker_id, "why": str(error)})

    def _tell(self, report: dict[str, Any]) -> None:
        try:
            self._line.send(_encode(report))
        except OSError:
            os._exit(0)  # the node is gone; our workers end with this process


def start(
    run_worker: RunWorker,
    not_for_workers: Sequence[int] = (),
    warm_modules: Sequence[str] = (),
) -> tuple[socket.socket, int]:
    """Fork the zygote; returns the node's end of its line, and its pid. No thread may run yet.

    The zygote imports ``warm_modules`` while the node imports its own, on another core if there
    is one. ``not_for_workers`` are descriptors of the node for zygote and workers to close: a
    program that a worker forked, and that outlives the node, would keep a port or a lock taken.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            for fd in not_for_workers:
                os.close(fd)
            linux.die_with_parent(parent)
            linux.set_process_name("skate:zygote")
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            Zygote(theirs, run_worker).run(warm_modules)
        except Exception:
            import traceback

            traceback.print_exc()
            os._exit(1)
        finally:
            os._exit(0)
    theirs.close()
    return ours, pid


def fork_request(worker_id: bytes, out: str, err: str) -> bytes:
    """The datagram that asks for a worker."""
    return _encode({"do": "fork", "id": worker_id, "out": out, "err": err})


def kill_request(worker_id: bytes) -> bytes:
    """The datagram that asks for a worker's end."""
    return _encode({"do": "kill", "id": worker_id})


def decode_report(data: bytes) -> dict[str, Any]:
    """A report of the zygote."""
    return _decode(data)
