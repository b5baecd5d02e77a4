"""Large objects from one node's arena to another's, in threads, so that the switch stays fair.

``DataServer`` is the side that has an object: it answers the requests of one data connection after
another, in the thread that each connection has from the doorman. ``Fetcher`` is the side that
pulls: it keeps connections for reuse, and a few threads that receive. The pull manager
(objects/pull_manager.py) chooses objects and sources; the bytes pass through net/data_line.py.

``sendfile`` sends the very pages of the arena, not copies of them. So the sender keeps the object
until the receiver says that all has arrived, and the receiver trusts its copy only when the sender
confirms that the object was kept until then: no client ever reads bytes of a later object at the
same place.

Invariants: each fetch ends with exactly one call of ``on_done``, and from then on no thread writes
to its extent; each object that was lent is given back, however the connection ends; of a pull, all
connections count as one; threads are daemons, ``TRANSFER_THREADS`` at most, and end when idle.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable

from skate import config
from skate import messages as m
from skate.net.data_line import ArenaWriter, DataLine, Quiet
from skate.net.frame import BadFrame

OK, BUSY, GONE, UNREACHABLE, CANCELLED = "ok", "busy", "gone", "unreachable", "cancelled"

CLOSE_WITHIN_S = 0.2
"""At the end of the process: threads that dial somebody just now are not waited for any longer."""

log = logging.getLogger("skate.node")

Lend = Callable[[bytes], tuple[int, int] | str]
"""Pin an object: its (offset, size) in the arena file, or "busy" or "gone"."""

OnDone = Callable[[bytes, bool, int, float, str], None]
"""(object id, ok, bytes, seconds, why: "ok", "busy", "gone", "unreachable", "cancelled")."""


# ---------------------------------------------------------------------------------- the sender


class _Upload:
    """A pull that is being served: its number of connections, and whether bytes move."""

    __slots__ = ("last_sent", "lines", "sending")

    def __init__(self) -> None:
        self.lines = 0
        self.sending = 0
        self.last_sent = 0.0


class _Loan:
    """An object that is kept for one connection."""

    __slots__ = ("object_id", "offset", "pull", "size", "upload")

    def __init__(self, request: m.Fetch, span: tuple[int, int], upload: _Upload) -> None:
        self.object_id = request.object_id
        self.pull = request.pull
        self.offset, self.size = span
        self.upload = upload


class DataServer:
    """See the module's docstring. ``lend`` and ``give_back`` are called in any thread."""

    def __init__(
        self,
        lend: Lend,
        give_back: Callable[[bytes], None],
        arena_fd: int,
        *,
        silence_s: float = config.TRANSFER_SILENCE_S,
        idle_s: float = 2 * config.TRANSFER_IDLE_S,  # so that the fetcher closes first
    ) -> None:
        self._lend = lend
        self._give_back = give_back
        self._arena_fd = arena_fd
        self._silence_s = silence_s
        self._idle_s = idle_s
        self._changed = threading.Condition()
        self._lines: set[DataLine] = set()
        self._uploads: dict[bytes, dict[bytes, _Upload]] = {}  # object -> pull -> its state
        self._is_closed = False

    def serve(self, sock: socket.socket) -> None:
        """Answer the requests of a connection until it ends; in a thread of its own."""
        line = DataLine(sock, self._silence_s)
        with self._changed:
            if self._is_closed:
                line.close()
                return
            self._lines.add(line)
            is_welcome = len(self._lines) <= config.TRANSFER_SERVED_MAX
        try:
            self._converse(line, is_welcome)
        except BadFrame as error:
            log.warning("closed a data connection: %s", error)
        except OSError as error:
            log.info("a data connection ended: %s", error)
        finally:
            line.close()
            with self._changed:
                self._lines.discard(line)
                self._changed.notify_all()

    def close(self) -> None:
        """End all connections; objects are given back before this returns, or soon after."""
        with self._changed:
            self._is_closed = True
            for line in self._lines:
                line.cut()
            self._changed.wait_for(lambda: not self._lines, CLOSE_WITHIN_S)

    def _converse(self, line: DataLine, is_welcome: bool) -> None:
        loan: _Loan | None = None
        try:
            while (request := self._next(line, loan)) is not None:
                if isinstance(request, m.Fetch):
                    if loan is not None and not self._is_of(loan, request):
                        self._end(loan)
                        loan = None
                    if loan is None:
                        begun = self._begin(request) if is_welcome else BUSY
                        if isinstance(begun, str):
                            line.send(m.Lent(begun))
                            if not is_welcome:
                                return
                            continue
                        loan = begun
                    self._send_piece(line, loan, request)
                elif loan is None:
                    raise BadFrame("the arrival of nothing")
                else:
                    line.send(m.Confirmed())
                    self._end(loan)
                    loan = None
        finally:
            if loan is not None:
                self._end(loan)

    def _next(self, line: DataLine, loan: _Loan | None) -> m.Fetch | m.Arrived | None:
        """The next request; None at the end, or if none comes for too long."""
        began = time.monotonic()
        while True:
            try:
                request: m.Fetch | m.Arrived = line.read(m.decode_to_sender)
                return request
            except Quiet:
                now = time.monotonic()
                if loan is None:
                    if now - began >= self._idle_s:
                        return None
                # The fetcher may wait for another connection of the same pull.
                elif not loan.upload.sending and now - loan.upload.last_sent >= self._silence_s:
                    return None
            except ConnectionError:
                return None

    def _is_of(self, loan: _Loan, request: m.Fetch) -> bool:
        return loan.object_id == request.object_id and loan.pull == request.pull

    def _begin(self, request: m.Fetch) -> _Loan | str:
        object_id, pull = request.object_id, request.pull
        with self._changed:
            uploads = self._uploads.setdefault(object_id, {})
            upload = uploads.get(pull)
            if upload is None:
                if len(uploads) >= config.UPLOADS_PER_OBJECT:
                    return BUSY
                upload = uploads[pull] = _Upload()
            upload.lines += 1
        span: tuple[int, int] | str = GONE
        try:
            span = self._lend(object_id)
        finally:
            if isinstance(span, str):
                self._leave(object_id, pull, upload)
        return span if isinstance(span, str) else _Loan(request, span, upload)

    def _end(self, loan: _Loan) -> None:
        try:
            self._give_back(loan.object_id)
        finally:
            self._leave(loan.object_id, loan.pull, loan.upload)

    def _leave(self, object_id: bytes, pull: bytes, upload: _Upload) -> None:
        with self._changed:
            upload.lines -= 1
            if not upload.lines:
                uploads = self._uploads[object_id]
                del uploads[pull]
                if not uploads:
                    del self._uploads[object_id]

    def _send_piece(self, line: DataLine, loan: _Loan, request: m.Fetch) -> None:
        begin, end = request.offset, request.offset + request.length
        if not 0 <= begin < end <= loan.size:
            raise BadFrame(f"bytes {begin} to {end} of an object of {loan.size}")
        upload = loan.upload
        with self._changed:
            upload.sending += 1
        try:
            line.send(m.Lent(OK, loan.size), more=True)
            line.send_file(self._arena_fd, loan.offset + begin, request.length)
        finally:
            with self._changed:
                upload.sending -= 1
                upload.last_sent = time.monotonic()


# ---------------------------------------------------------------------------------- the receiver


class _Job:
    """One object being fetched: its missing pieces, and the connections that fetch them.

    Its leader is the thread that ends it; others help. The leader's own connection is the last to
    say that all has arrived, so that the sender counts one pull from beginning to end.
    """

    def __init__(self, object_id: bytes, offset: int, size: int, node_id: bytes, pull: bytes):
        self.object_id = object_id
        self.offset = offset
        self.size = size
        self.node_id = node_id
        self.pull = pull
        chunk = config.TRANSFER_CHUNK_BYTES
        self._pieces = deque((start, min(chunk, size - start)) for start in range(0, size, chunk))
        self._changed = threading.Condition()
        self._lines: set[DataLine] = set()  # connections to cut if the job is cancelled
        self._helpers = 0
        self.is_over = False  # no thread may write any more

    def count_missing(self) -> int:
        """The number of pieces that no thread has taken."""
        return len(self._pieces)

    def join(self, line: DataLine, is_leader: bool) -> bool:
        """This connection begins to write; False if it may not any more."""
        with self._changed:
            if self.is_over or not (is_leader or self._pieces):
                return False
            self._lines.add(line)
            self._helpers += not is_leader
            return True

    def leave(self, line: DataLine, is_leader: bool) -> None:
        """This connection writes no more."""
        with self._changed:
            self._lines.discard(line)
            self._helpers -= not is_leader
            self._changed.notify_all()

    def take(self, is_leader: bool) -> tuple[int, int] | None:
        """A piece (offset in the object, length) to fetch; None if there will be none.

        The leader waits for its helpers: one of them may fail and put its pieces back.
        """
        with self._changed:
            while not self.is_over:
                if self._pieces:
                    return self._pieces.popleft()
                if not is_leader or not self._helpers:
                    return None
                self._changed.wait()
            return None

    def put_back(self, pieces: list[tuple[int, int]]) -> None:
        """Give back pieces that have not arrived."""
        if pieces:
            with self._changed:
                self._pieces.extendleft(reversed(pieces))
                self._changed.notify_all()

    def cut(self) -> None:
        """Stop the job, and cut its connections."""
        with self._changed:
            self.is_over = True
            for line in self._lines:
                line.cut()
            self._changed.notify_all()

    def finish(self) -> None:
        """Stop the job, and wait until no thread writes."""
        self.cut()
        with self._changed:
            self._changed.wait_for(lambda: not self._lines)


class Fetcher:
    """See the module's docstring. Thread-safe; nothing but ``close`` blocks.

    ``dial`` gives a connected, authenticated, blocking socket to a node, or raises; it is called in
    a thread of the fetcher, and so is ``on_done``.
    """

    def __init__(
        self,
        dial: Callable[[bytes], socket.socket],
        arena_fd: int,
        on_done: OnDone,
        *,
        silence_s: float = config.TRANSFER_SILENCE_S,
        idle_s: float = config.TRANSFER_IDLE_S,
        streams: int = config.TRANSFER_STREAMS,
    ) -> None:
        self._dial = dial
        self._arena_fd = arena_fd
        self._on_done = on_done
        self._silence_s = silence_s
        self._idle_s = idle_s
        self._streams = streams
        self._changed = threading.Condition()
        self._jobs: dict[bytes, _Job] = {}
        self._queue: deque[tuple[_Job, bool]] = deque()  # (job, whether to lead it)
        self._threads: set[threading.Thread] = set()
        self._idle_threads = 0
        self._named = 0
        self._pool: dict[bytes, list[tuple[DataLine, float]]] = {}  # idle lines, since when
        self._name = os.urandom(8)  # its pulls are told from those of other nodes
        self._pulls = 0
        self._is_closed = False

    # ------------------------------------------------------------------ for its owner

    def fetch(self, object_id: bytes, offset: int, size: int, node_id: bytes) -> None:
        """Bring an object of ``size`` bytes from that node to ``offset`` of the arena file."""
        with self._changed:
            if object_id in self._jobs:
                raise ValueError(f"object {object_id.hex()} is being fetched already")
            self._pulls += 1
            pull = self._name + self._pulls.to_bytes(8, "little")
            job = _Job(object_id, offset, size, node_id, pull)
            is_closed = self._is_closed
            if not is_closed:
                self._jobs[object_id] = job
                self._enqueue(job, is_leader=True)
        if is_closed:
            self._on_done(object_id, False, 0, 0.0, CANCELLED)

    def cancel(self, object_id: bytes) -> None:
        """Stop fetching an object; ``on_done`` follows, unless it has been called."""
        with self._changed:
            job = self._jobs.get(object_id)
        if job is not None:
            job.cut()

    def close(self) -> None:
        """Cancel everything, close the connections, end the threads."""
        with self._changed:
            self._is_closed = True
            jobs = list(self._jobs.values())
            threads = list(self._threads)
            idle = [line for lines in self._pool.values() for line, _ in lines]
            self._pool.clear()
            self._changed.notify_all()
        for job in jobs:
            job.cut()
        for line in idle:
            line.close()
        deadline = time.monotonic() + CLOSE_WITHIN_S
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    # ------------------------------------------------------------------ threads

    def _enqueue(self, job: _Job, *, is_leader: bool) -> None:
        self._queue.append((job, is_leader))
        if len(self._queue) <= self._idle_threads:
            self._changed.notify()
        elif len(self._threads) < config.TRANSFER_THREADS:
            self._named += 1
            thread = threading.Thread(
                target=self._run, name=f"skate-fetch-{self._named}", daemon=True
            )
            self._threads.add(thread)
            thread.start()

    def _run(self) -> None:
        writer = ArenaWriter(self._arena_fd)
        try:
            while (found := self._next()) is not None:
                job, is_leader = found
                if is_leader:
                    self._lead(job, writer)
                else:
                    self._attempt(job, writer, is_leader=False)
        finally:
            writer.close()
            with self._changed:
                self._threads.discard(threading.current_thread())

    def _next(self) -> tuple[_Job, bool] | None:
        """The next job; None once there was none for a while, or the fetcher is closed."""
        with self._changed:
            is_told = True
            while is_told and not self._queue and not self._is_closed:
                self._idle_threads += 1
                is_told = self._changed.wait(self._idle_s)
                self._idle_threads -= 1
            if self._queue:
                return self._queue.popleft()
            self._threads.discard(threading.current_thread())
        self._close_idle()
        return None

    def _call_helpers(self, job: _Job) -> None:
        """Have idle threads help, as many as the job has work for."""
        with self._changed:
            working = len(self._threads) - self._idle_threads
            spare = config.TRANSFER_THREADS - working - len(self._queue)
            for _ in range(min(spare, job.count_missing(), self._streams - 1)):
                self._enqueue(job, is_leader=False)

    # ------------------------------------------------------------------ connections

    def _line_to(self, node_id: bytes) -> tuple[DataLine, bool]:
        """A connection, and whether it was used before (and may have been closed meanwhile)."""
        with self._changed:
            lines = self._pool.get(node_id)
            if lines:
                line, _ = lines.pop()
                if not lines:
                    del self._pool[node_id]
                line.has_answered = False
                return line, True
        return DataLine(self._dial(node_id), self._silence_s), False

    def _keep(self, node_id: bytes, line: DataLine) -> None:
        with self._changed:
            if not self._is_closed:
                self._pool.setdefault(node_id, []).append((line, time.monotonic()))
                return
        line.close()

    def _close_idle(self) -> None:
        """Close lines unused for long; each line's last thread calls this later."""
        oldest = time.monotonic() - 0.9 * self._idle_s
        with self._changed:
            closing = []
            for node_id, lines in list(self._pool.items()):
                closing += [line for line, since in lines if since <= oldest]
                self._pool[node_id] = [pair for pair in lines if pair[1] > oldest]
                if not self._pool[node_id]:
                    del self._pool[node_id]
        for line in closing:
            line.close()

    def _close_all_to(self, node_id: bytes) -> None:
        with self._changed:
            lines = self._pool.pop(node_id, [])
        for line, _ in lines:
            line.close()

    # ------------------------------------------------------------------ fetching

    def _lead(self, job: _Job, writer: ArenaWriter) -> None:
        began = time.monotonic()
        why = UNREACHABLE
        try:
            why = self._attempt(job, writer, is_leader=True)
        finally:
            job.finish()
            with self._changed:
                del self._jobs[job.object_id]
            ok = why == OK
            seconds = time.monotonic() - began
            self._on_done(job.object_id, ok, job.size if ok else 0, seconds, why)

    def _attempt(self, job: _Job, writer: ArenaWriter, *, is_leader: bool) -> str:
        """Fetch pieces over one connection, until none are left; returns why it ended."""
        while True:
            line: DataLine | None = None
            was_used = False
            try:
                if job.is_over:
                    return CANCELLED
                line, was_used = self._line_to(job.node_id)
                if not job.join(line, is_leader):
                    self._keep(job.node_id, line)
                    return CANCELLED
                try:
                    why = self._fetch_pieces(job, line, writer, is_leader)
                finally:
                    job.leave(line, is_leader)
                self._keep(job.node_id, line)
                return why
            except Exception as error:
                if line is not None:
                    line.close()
                if job.is_over:
                    return CANCELLED
                if (
                    line is not None
                    and was_used
                    and not line.has_answered
                    and isinstance(error, OSError)
                    and not isinstance(error, TimeoutError)
                ):
                    self._close_all_to(job.node_id)  # the other idle lines are as old, or older
                    continue
                self._explain(job, error, is_leader)
                return UNREACHABLE

    def _fetch_pieces(self, job: _Job, line: DataLine, writer: ArenaWriter, is_leader: bool) -> str:
        taken: list[tuple[int, int]] = []
        try:
            while (piece := job.take(is_leader)) is not None:
                start, length = piece
                taken.append(piece)
                line.send(m.Fetch(job.object_id, start, length, job.pull))
                lent = line.read(m.decode_to_fetcher)
                if not isinstance(lent, m.Lent) or lent.why not in (OK, BUSY, GONE):
                    raise BadFrame(f"{lent} in answer to a request for a piece of an object")
                if lent.why != OK:
                    return str(lent.why)
                if lent.size != job.size:
                    raise BadFrame(f"an object of {lent.size} bytes there, of {job.size} here")
                if is_leader and start == 0:
                    self._call_helpers(job)
                writer.receive(line, job.offset + start, length)
            if job.is_over:
                raise ConnectionAbortedError("the fetch was cancelled")
            line.send(m.Arrived())
            if not isinstance(line.read(m.decode_to_fetcher), m.Confirmed):
                raise BadFrame("no confirmation of what has arrived")
            taken = []
            return OK
        finally:
            job.put_back(taken)

    def _explain(self, job: _Job, error: Exception, is_leader: bool) -> None:
        log.log(
            logging.WARNING if is_leader else logging.INFO,  # a lost helper only costs time
            "%s object %s (%d bytes) from node %s: %s: %s",
            "could not fetch" if is_leader else "one connection less to fetch",
            job.object_id.hex(),
            job.size,
            job.node_id.hex(),
            type(error).__name__,
            error,
            exc_info=not isinstance(error, OSError | BadFrame),
        )
