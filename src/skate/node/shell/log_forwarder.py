"""The prints of workers, on their way from log files to drivers.

The node shell (its only caller) tells when a worker begins, has a pid, dies and is gone, polls ten
times a second, and asks for a flush when a driver is about to leave. While there is more than one
poll may read, the next follows at once; while a driver does not read, its workers' files wait, so
that nothing piles up in memory.

Invariants: lines written before a worker's exit are forwarded before its death is told (up to a
bound); an answer to a flush follows all lines that were written before the question.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from skate import config
from skate import messages as m
from skate.node.shell.log_tail import LogChunk, LogTail, tail_lines
from skate.rows import Client, Worker

if TYPE_CHECKING:
    from skate.node.node_core import NodeCore

AGAIN_S = 0.002
"""How soon to poll again while there is more to read: between, the node switches messages."""


class LogForwarder:
    """See the module's docstring. ``call_later(seconds, callback)`` and ``write_out`` are the
    shell's; the latter is called when a poll happens outside of the shell's own turn."""

    def __init__(
        self,
        folder: str,
        core: NodeCore,
        call_later: Callable[[float, Callable[[], None]], object],
        write_out: Callable[[], None],
    ) -> None:
        self._folder = folder
        self._core = core
        self._call_later = call_later
        self._write_out = write_out
        self._tail = LogTail()
        self._paths: dict[bytes, tuple[str, str]] = {}
        self._workers: dict[bytes, Worker] = {}  # with files not yet read to their end
        self._flushes: list[tuple[Callable[[], None], dict[str, int]]] = []
        # Flushes for drivers, with the nodes that have not finished theirs.
        self._awaited: dict[int, tuple[Client, int, set[bytes]]] = {}
        self._flush_count = 0
        self._again_due = False

    # ------------------------------------------------------------------ a worker's life

    def begin(self, worker: Worker) -> tuple[str, str]:
        """The files for a new worker's stdout and stderr."""
        stem = os.path.join(self._folder, f"worker-{worker.id[:6].hex()}")
        self._paths[worker.id] = (stem + ".out", stem + ".err")
        return self._paths[worker.id]

    def watch(self, worker: Worker) -> None:
        """The worker has a process: read its files."""
        job = self._core.jobs.by_id.get(worker.pool.job_id)
        if job is None or not job.config.log_to_driver:
            return
        self._workers[worker.id] = worker
        for stream, path in enumerate(self._paths[worker.id], start=1):
            self._tail.watch(worker.id, worker.pid, path, stream)

    def died(self, worker: Worker) -> None:
        """The worker's process has ended: forward its last lines before the news."""
        self._forward(self._tail.drain(worker.id))

    def gone(self, worker: Worker) -> None:
        """The worker's own children write no more either: forget it once all is read."""
        self._tail.end(worker.id)
        if not self._tail.watches(worker.id):
            self._forget(worker.id)

    def last_words(self, worker: Worker) -> list[str]:
        """The last lines of the worker's stderr."""
        paths = self._paths.get(worker.id)
        return tail_lines(paths[1], config.STDERR_TAIL_LINES) if paths else []

    def _forget(self, worker_id: bytes) -> None:
        self._workers.pop(worker_id, None)
        for path in self._paths.pop(worker_id, ()):
            with contextlib.suppress(OSError):
                if os.path.getsize(path) == 0:  # nothing was printed: remove the file
                    os.unlink(path)

    # ------------------------------------------------------------------ forwarding

    def poll(self) -> bool:
        """Forward the lines that are there now; returns whether there were any."""
        jobs = self._core.jobs.by_id
        paused = {job_id for job_id, job in jobs.items() if job.driver and job.driver.paused}
        skip = [w.id for w in self._workers.values() if w.pool.job_id in paused] if paused else ()
        chunks = self._tail.poll(self._core.clock.now, skip)
        self._forward(chunks)
        for worker_id in [i for i in self._workers if not self._tail.watches(i)]:
            self._forget(worker_id)
        self._answer_flushes()
        if (self._tail.behind or self._flushes) and not self._again_due:
            self._again_due = True
            self._call_later(AGAIN_S, self._poll_again)
        return bool(chunks)

    def _poll_again(self) -> None:
        self._again_due = False
        self.poll()
        self._write_out()

    def flush(self, peer: Client, number: int) -> None:
        """Answer question ``number`` once all lines written by now have been forwarded.

        All nodes that work for the job take part. If one is lost meanwhile, only the driver's
        time-out ends the wait for it.
        """
        core = self._core
        self._flush_count += 1
        flush = self._flush_count
        job_id = peer.job.id if peer.job is not None else b""
        shown = core.parts.jobs.prints_of(job_id)
        others = [n for n in core.nodes.by_id.values() if not shown.isdisjoint(n.jobs)]
        for old in [i for i, (asker, _, _) in self._awaited.items() if not asker.alive]:
            del self._awaited[old]
        self._awaited[flush] = (peer, number, {n.node_id for n in others} | {core.me.node_id})
        for neighbour in others:
            core.outbox.send_node(neighbour, m.FlushLogs(job_id, flush))
        self._flush_here(lambda: self._flushed(flush, core.me.node_id))

    def on_flush_logs(self, peer: Client, message: m.FlushLogs) -> None:
        """A driver's node asks for a flush here; the answer follows the lines."""
        core = self._core
        driver_node = core.nodes.by_id.get(peer.node_id)
        if driver_node is not None:
            answer = m.LogsFlushed(message.number)
            self._flush_here(lambda: core.outbox.send_node(driver_node, answer))

    def on_logs_flushed(self, peer: Client, message: m.LogsFlushed) -> None:
        """Another node has forwarded all its lines."""
        self._flushed(message.number, peer.node_id)

    def _flush_here(self, then: Callable[[], None]) -> None:
        self._flushes.append((then, self._tail.sizes()))
        self.poll()

    def _flushed(self, flush: int, node_id: bytes) -> None:
        peer, number, awaited = self._awaited.get(flush, (None, 0, set()))
        awaited.discard(node_id)
        if peer is not None and not awaited:
            del self._awaited[flush]
            self._core.outbox.send(peer, m.Answer(number))

    def _answer_flushes(self) -> None:
        waiting, self._flushes = self._flushes, []
        for then, sizes in waiting:
            if self._tail.has_read(sizes):
                self._forward(self._tail.cut_partial())
                then()
            else:
                self._flushes.append((then, sizes))

    def finish(self) -> None:
        """The node ends: forward what is left."""
        self.poll()
        self._forward(self._tail.drain())

    def _forward(self, chunks: list[LogChunk]) -> None:
        for chunk in chunks:
            worker = self._workers[chunk.worker_id]
            job = self._core.jobs.by_id.get(worker.pool.job_id)
            if job is None:
                continue
            actor = worker.actor
            name = chunk.name or (actor.options.class_name if actor is not None else "worker")
            lines = m.LogLines(name, chunk.pid, chunk.stream, list(chunk.lines))
            self._core.jobs.tell_driver(job, lines)
