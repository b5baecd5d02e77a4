"""The node daemon's event loop: links to clients and the GCS; performs the core's decisions."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import mmap
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import uvloop

from skate import config
from skate import messages as m
from skate.ids import NODE_ID_BYTES
from skate.net import unix_socket
from skate.net.frame import frames
from skate.node.node_core import NodeCore
from skate.node.shell import linux, zygote
from skate.node.shell.client_link import ClientLink
from skate.node.shell.gcs_link import GcsLink
from skate.node.shell.log_forwarder import LogForwarder
from skate.node.shell.node_config import NodeConfig, arena_file, create_arena, remove_files
from skate.node.shell.pulse import Pulse
from skate.node.shell.ticker import Ticker
from skate.node.shell.zygote_line import STATUS_WITHIN_S, ZygoteLine
from skate.objects.arena import Arena
from skate.rows import Client, Job, Worker

if TYPE_CHECKING:
    from skate.node.shell.lines import Lines
    from skate.node.shell.transfer_threads import Transfers


START_AGAIN_S = 0.5
"""After a process could not be started, before the next attempt: something has to end first."""


log = logging.getLogger("skate.node")


class NodeShell:
    """Owns the loop, the core and every resource of the process."""

    def __init__(self, cfg: NodeConfig, zygote_line: socket.socket, zygote_pid: int) -> None:
        self.cfg = cfg
        self.zygote = ZygoteLine(zygote_line, zygote_pid, self._on_report, self.end)
        self._clock_offset = time.time() - time.monotonic()
        self.arena_path, self.arena_warning = arena_file(cfg)
        self.arena_fd = create_arena(self.arena_path, cfg.object_store_bytes)
        with open(os.path.join(cfg.session_dir, "arena"), "w") as file:
            file.write(self.arena_path)
        self.core = NodeCore(
            bytes.fromhex(cfg.node_id),
            cfg.session,
            cfg.resources,
            Arena(cfg.object_store_bytes),
            self.arena_path,
            self,
            config.PYTHON,
            is_cluster=not cfg.local,
        )
        self.core.me.lanes_dir = os.path.join(cfg.session_dir, config.LANES_FOLDER)
        os.makedirs(self.core.me.lanes_dir, mode=0o700, exist_ok=True)
        if self.arena_warning:
            self.core.parts.hello.warnings.append(self.arena_warning)
        self.logs = LogForwarder(
            os.path.join(cfg.session_dir, "logs"),
            self.core,
            lambda seconds, callback: self.loop.call_later(seconds, callback),
            self.write_out,
        )
        self.alive_workers: dict[bytes, Worker] = {}
        self.start_errors: dict[bytes, str] = {}  # of workers whose process never started
        self.gcs_transport: asyncio.Transport | None = None
        self.gcs_heard = 0.0  # when, by ``clock``
        self.lines: Lines | None = None  # to other machines, if the node has a TCP socket
        self.transfers: Transfers | None = None  # of objects, from and to other machines
        self.pulse: Pulse | None = None  # if the GCS judges the node's life by its messages
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._deadline_at = 0.0
        self.is_cut_off = False  # from the head: the node begins anew
        self.ending: asyncio.Future[str] | None = None
        self.ticker = Ticker(
            self.core,
            self.logs,
            self.clock,
            is_local=cfg.local,
            look_around=self._look_around,
            trim=self._trim,
            write_out=self.write_out,
        )
        self.loop: asyncio.AbstractEventLoop

    def clock(self) -> float:
        """Wall-clock seconds that never run backwards."""
        return time.monotonic() + self._clock_offset

    # ------------------------------------------------------------------ what the core asks

    def new_id(self) -> bytes:
        """16 random bytes."""
        return os.urandom(NODE_ID_BYTES)

    def start_worker(self, worker: Worker, setup: m.WorkerSetup) -> None:
        """Ask the zygote for a process; its connection exists at once."""
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            self._not_started(worker, str(error))
            return
        ours.setblocking(False)
        out, err = self.logs.begin(worker)
        self.alive_workers[worker.id] = worker
        self.zygote.ask(zygote.fork_request(worker.id, out, err), theirs)
        setup.clock_offset = self._clock_offset
        peer = Client()
        peer.worker = worker
        worker.client = peer
        self.core.outbox.send(peer, setup)
        self.loop.create_task(self._connect_worker(ours, peer))

    def _not_started(self, worker: Worker, why: str) -> None:
        """Tell the core, with a delay: it would try again and again."""
        log.error("could not start a worker: %s", why)
        self.start_errors[worker.id] = why

        def tell() -> None:
            core = self.core
            core.begin(self.clock())
            core.worker_not_started(worker)
            self.start_errors.pop(worker.id, None)
            self.logs.gone(worker)
            core.end_turn()
            self.write_out()

        self.loop.call_later(START_AGAIN_S, tell)

    async def _connect_worker(self, sock: socket.socket, peer: Client) -> None:
        await self.loop.create_unix_connection(lambda: ClientLink(self, peer), sock=sock)
        self.write_out_peer(peer)

    def kill_worker(self, worker: Worker) -> None:
        """SIGKILL, through the zygote, which knows whether the pid is still its own."""
        self.zygote.ask(zygote.kill_request(worker.id), None)

    def close(self, peer: Client) -> None:
        """Close once the queued messages are written."""
        link = peer.link
        if link is None:
            return
        self.write_out_peer(peer)
        link.close()

    def stderr_tail(self, worker: Worker) -> list[str]:
        """The last lines of a worker's stderr."""
        why = self.start_errors.get(worker.id)
        return [why] if why else self.logs.last_words(worker)

    def job_ended(self, job: Job, reason: str) -> None:
        """A local session ends with its driver."""
        if self.cfg.local and not self.core.jobs.by_id:
            self.end("")

    def flush_logs(self, peer: Client, message: m.FlushLogs) -> None:
        """Another node asks for all prints of a job's workers."""
        self.logs.on_flush_logs(peer, message)

    def logs_flushed(self, peer: Client, message: m.LogsFlushed) -> None:
        """Another node has sent all of its prints."""
        self.logs.on_logs_flushed(peer, message)

    def answer_locally(self, peer: Client, question: m.Ask) -> bool:
        """Questions that need the world: none of them goes to the GCS."""
        if question.method == "flush_logs":
            self.logs.flush(peer, question.number)
            return True
        return False

    # ------------------------------------------------------------------ writing

    def turn(self, what: Callable[[], None]) -> None:
        """One turn of the core: an event, and all that follows from it."""
        self.core.begin(self.clock())
        what()
        self.core.end_turn()
        self.write_out()

    def write_out(self) -> None:
        """End a turn: write all that the core has queued, one frame a client."""
        if self.ticker.dozing is not None:
            self.ticker.wake()
        core = self.core
        while core.outbox.clients:
            dirty, core.outbox.clients = core.outbox.clients, []
            for peer in dirty:
                self.write_out_peer(peer)
        if self.lines is not None:
            self.lines.write_out()
            self.lines.forget_dead()
            self._arm_deadline()
        if core.outbox.gcs and self.gcs_transport is not None:
            batch, core.outbox.gcs = core.outbox.gcs, []
            self.gcs_transport.writelines(frames(batch))

    def write_out_peer(self, peer: Client) -> None:
        """Write one client's outbox."""
        outbox = peer.outbox
        link = peer.link
        if not outbox or link is None:
            return
        peer.outbox = []
        link.write_out(outbox)

    def push_deferred(self, peer: Client) -> None:
        """Push values that were held back while the client did not read, a turn's worth at a time.

        Other clients get their turns in between. It ends when this client pauses again; the
        transport tells when to go on.
        """
        if peer.paused or not peer.alive:
            return
        self.turn(lambda: self.core.resume(peer))
        if peer.deferred:
            self.loop.call_soon(self.push_deferred, peer)

    # ------------------------------------------------------------------ processes

    def _on_report(self, report: dict[str, Any]) -> None:
        worker = self.alive_workers.get(report["id"])
        if worker is None:
            return
        core = self.core
        core.begin(self.clock())
        if report["did"] == "fork":
            worker.pid = report["pid"]
            self.logs.watch(worker)
            return
        status = report.get("status", 1)
        del self.alive_workers[worker.id]
        if report["did"] == "fail":
            self._not_started(worker, report["why"])
            return
        self.logs.died(worker)
        core.worker_exited(worker, status, report["begun"])
        with contextlib.suppress(OSError):  # its lanes' socket; a worker that ended well removed it
            os.unlink(os.path.join(core.me.lanes_dir, worker.id.hex()))
        # A child that the worker forked may still hold its end of the line, so that no EOF comes.
        # The worker's own messages have been read by then.
        self.loop.call_later(0.2, self._cut, worker)
        self.loop.call_later(0.1, self._end_orphans)
        core.end_turn()
        self.write_out()

    def _cut(self, worker: Worker) -> None:
        link = worker.client.link if worker.client is not None else None
        if link is not None and link.transport is not None:
            link.transport.abort()
        elif worker.client is not None and worker.client.alive:
            self.core.client_lost(worker.client)
        self.logs.gone(worker)

    def _end_orphans(self) -> None:
        """End programs that outlived the worker of their task: they are children of ours now."""
        for pid in linux.children(os.getpid()):
            if pid != self.zygote.pid:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        self._reap()

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self.zygote.pid:
                    self.zygote.died(os.waitstatus_to_exitcode(status))

    # ------------------------------------------------------------------ time

    def _look_around(self) -> None:
        """At each tick: check that the head hears this node, and this node the head."""
        if self.pulse is not None:
            self.pulse.beat()
        silent_s = self.core.clock.now - self.gcs_heard
        if self.cfg.head_address and silent_s > self.cfg.head_silent_s:
            self.head_lost(f"nothing was heard of the cluster's head for {silent_s:.0f} s")

    def _trim(self) -> None:
        """Give the pages of freed extents back to the machine."""
        spans = self.core.store.arena.trim()
        if not spans:
            return
        with mmap.mmap(self.arena_fd, self.cfg.object_store_bytes) as view:
            for offset, size in spans:
                view.madvise(mmap.MADV_REMOVE, offset, size)

    # ------------------------------------------------------------------ life

    def end(self, reason: str) -> None:
        """End the node; clients hear the reason, if there is one."""
        if self.ending is not None and not self.ending.done():
            self.ending.set_result(reason)

    async def serve(self) -> int:
        """Run until the parent, the GCS or the last driver is gone."""
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(self._on_exception)
        self.ending = self.loop.create_future()
        self.zygote.start(self.loop)
        if self.cfg.lifeline_fd >= 0:
            os.set_blocking(self.cfg.lifeline_fd, False)
            self.loop.add_reader(self.cfg.lifeline_fd, self._on_lifeline)
        self.loop.add_signal_handler(signal.SIGTERM, self._on_sigterm)
        # A copy: a node that begins anew (``run``) listens on the same socket.
        listener = socket.socket(fileno=os.dup(self.cfg.listen_fd))
        listener.setblocking(False)
        # Kept: a server without a reference is collected, and listens no more.
        server = await self.loop.create_unix_server(
            lambda: ClientLink(self, Client()), sock=listener
        )
        try:
            if self.cfg.tcp_fd >= 0:
                await self._open_lines()
            await self._join_gcs()
            if self.lines is not None:
                is_head = not self.cfg.head_address
                self.pulse = Pulse(self.core.me.node_id, is_head, self.lines.dial_gcs_blocking)
                self.pulse.start()
        except (OSError, ValueError) as error:
            log.error("the node cannot join the cluster: %s", error)
            await self._leave("")
            return 1
        ticker = self.loop.create_task(self.ticker.run())
        ticker.add_done_callback(self._on_ticker_done)
        reason = await self.ending
        ticker.cancel()
        server.close()
        return 0 if await self._leave(reason) else 1

    def _on_sigterm(self) -> None:
        self.end(f"the node daemon (pid {os.getpid()}) died: it was asked to end (SIGTERM)")

    def _on_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback raised: a broken connection concerns its peer alone, the rest are our bugs.

        The core may have made half a change, which no client would hear of: end, and say why.
        """
        error = context.get("exception")
        log.error("%s", context.get("message"), exc_info=error)
        if error is not None and not isinstance(error, OSError):
            self.end(f"the node daemon died of an internal error: {error!r}")

    def _on_ticker_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.error("the node's clock task failed", exc_info=task.exception())
            self.end(f"the node daemon died of an internal error: {task.exception()!r}")

    def _on_lifeline(self) -> None:
        with contextlib.suppress(BlockingIOError):
            if not os.read(self.cfg.lifeline_fd, 1):
                self.loop.remove_reader(self.cfg.lifeline_fd)
                self.end("")

    async def _open_lines(self) -> None:
        """Let other machines in. Imported here: a local session has no use for it."""
        from skate.net.cluster_token import read_token
        from skate.net.tls import load_tls
        from skate.node.shell.lines import Lines
        from skate.node.shell.transfer_threads import Transfers

        cfg = self.cfg
        # Transfer threads have to get their turn beside a loop that is always busy (measured: bulk
        # data to a busy node at 0.2 GB/s with Python's 5 ms, 0.5-0.8 with this).
        sys.setswitchinterval(config.SWITCH_INTERVAL_S)
        tls = load_tls(cfg.tls_cert, cfg.tls_key, cfg.tls_ca)
        self.lines = Lines(self, cfg, self.arena_fd, read_token(cfg.token_file), tls)
        self.transfers = Transfers(self, self.arena_fd, self.lines.dial_data)
        listener = socket.socket(fileno=os.dup(cfg.tcp_fd))
        self.lines.open(listener, self.transfers.serve)

    def fetch(self, object_id: bytes, offset: int, size: int, node_id: bytes) -> None:
        """Copy an object from another node's arena; the core is told the outcome."""
        assert self.transfers is not None
        self.transfers.fetch(object_id, offset, size, node_id)

    def cancel_fetch(self, object_id: bytes) -> None:
        """Stop the fetch of an object."""
        if self.transfers is not None:
            self.transfers.cancel(object_id)

    def _arm_deadline(self) -> None:
        """Wake the core at its deadline, not only at the next tick."""
        due = self.core.deadline()
        if due is None:
            return
        if self._deadline_timer is not None:
            if due >= self._deadline_at:
                return
            self._deadline_timer.cancel()
        self._deadline_at = due
        wait_s = max(0.001, due - self.clock())
        self._deadline_timer = self.loop.call_later(wait_s, self._deadline_passed)

    def _deadline_passed(self) -> None:
        self._deadline_timer = None
        self.turn(self.core.deadline_passed)

    def gcs_lost(self) -> None:
        """The GCS is lost, and gives this node up: end, or begin anew."""
        self.gcs_transport = None
        if self.cfg.head_address:
            self.head_lost("the connection to the cluster's head is lost")
        else:
            self.end("the GCS died")

    def head_lost(self, reason: str) -> None:
        """The head has given this node up, or soon will: end all work, and begin anew."""
        self.is_cut_off = bool(self.cfg.head_address)
        self.end(reason)

    async def _join_gcs(self) -> None:
        self.gcs_heard = self.clock()
        if self.lines is not None and self.cfg.head_address:
            self.gcs_transport = await self.lines.dial_gcs(
                self.cfg.head_address, lambda: GcsLink(self)
            )
        else:
            line = unix_socket.connect(self.cfg.gcs_socket)
            line.setblocking(False)
            transport, _ = await self.loop.create_unix_connection(lambda: GcsLink(self), sock=line)
            self.gcs_transport = transport
        core = self.core
        core.outbox.gcs.insert(
            0,
            m.NodeJoins(
                config.PROTOCOL_VERSION,
                core.me.node_id,
                os.getpid(),
                self.cfg.address,
                socket.gethostname(),
                self.cfg.resources,
                self.cfg.labels,
                self.cfg.object_store_bytes,
            ),
        )
        if self.arena_warning:
            log.warning("%s", self.arena_warning)
        self.write_out()

    async def _leave(self, reason: str) -> bool:
        """Tell clients, end processes, remove files; returns whether nothing is left."""
        core = self.core
        self.logs.finish()
        for peer in list(core.clients):
            if reason and peer.role in ("driver", "observer"):
                core.outbox.send(peer, m.SessionEnds(reason))
        core.flush_events()
        self.write_out()
        for peer in list(core.clients):
            if isinstance(peer.link, ClientLink) and peer.link.transport is not None:
                peer.link.transport.close()
        if self.pulse is not None:
            self.pulse.close()
        if self.transfers is not None:
            self.transfers.close()
        if self.lines is not None:
            self.lines.close()
        await asyncio.sleep(0)
        self.zygote.sock.close()  # EOF: the zygote ends, and its workers with it
        remove_files(self.cfg, self.arena_path, keep_socket=self.is_cut_off)
        gone = await self._end_children()
        if self.gcs_transport is not None:
            self.gcs_transport.abort()
            await asyncio.sleep(0)
        if reason:
            log.error("the node ends: %s", reason)
        return gone

    async def _end_children(self) -> bool:
        """Wait until the zygote, its workers and the programs that they started are gone."""
        now = time.monotonic()
        deadline, patience_ends = now + config.STOP_TIMEOUT_S / 2, now + STATUS_WITHIN_S
        while True:
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            left = linux.children(os.getpid())
            if not left:
                return True
            now = time.monotonic()
            if now > deadline:
                return False
            for pid in left:
                if pid != self.zygote.pid or now > patience_ends:
                    with contextlib.suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.005)


def run(cfg: NodeConfig, zygote_line: socket.socket, zygote_pid: int) -> int:
    """The node's life; returns the exit code."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", force=True
    )
    shell = NodeShell(cfg, zygote_line, zygote_pid)
    try:
        code = uvloop.run(shell.serve())
    finally:
        remove_files(cfg, shell.arena_path, keep_socket=shell.is_cut_off)
    if shell.is_cut_off:
        from skate.node.shell.rejoin import begin_anew

        begin_anew(cfg)  # returns only if the head does not come back
        remove_files(cfg, shell.arena_path)
    return code
