"""The new lines in the log files of a node's workers.

The node daemon watches a worker's two files from its start, polls every `config.HEARTBEAT_S`, and
sends the chunks on to the drivers. When the worker has ended it drains and forgets it.

A worker names its current task by a marker line in the same file (worker/named_output.py writes
it), so that a name and the lines under it cannot get out of step. A marker is never delivered. A
worker cannot know whether native code ended its last line, so a marker may follow text: it ends
that line.

Invariants:
  - a file is open from the first poll that finds it until `forget` or `close`, and never after;
  - a line is delivered once, in order, whatever the pieces it was written and read in;
  - no call reads more than its bound of one file, so a noisy worker delays nobody else's lines.

This module does not decide which driver sees a line, folds nothing, and neither rotates nor deletes
files. A file that cannot be read is tried again at the next poll: a log must not end a node.
"""

from __future__ import annotations

import os
from collections.abc import Container
from typing import NamedTuple

from skate.config import LOG_LINE_MAX_BYTES

POLL_BYTES = 256 << 10  # per file and poll: a few milliseconds of splitting and decoding
DRAIN_BYTES = 4 << 20  # per file, when it will not be polled again
TAIL_BYTES = 16 << 10  # for the last lines of a file: they are quoted in an error
PARTIAL_LINE_S = 1.0  # an unfinished line (a prompt, a row of dots) is shown after this long

_MARKER = b"\x1eskate-name:"
_NO_FILE = -1


class LogChunk(NamedTuple):
    """Consecutive lines of one stream (1 stdout, 2 stderr) under one name; "" before the first."""

    worker_id: bytes
    pid: int
    stream: int
    name: str
    lines: list[str]


def tail_lines(path: str, count: int) -> list[str]:
    """The last `count` lines of a log, at most TAIL_BYTES of it; none if it cannot be read."""
    try:
        with open(path, "rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES)
            file.seek(start)
            data = file.read(TAIL_BYTES)
    except OSError:
        return []
    if start > 0:  # most likely in the middle of a line; half a line is better than none
        data = data.partition(b"\n")[2] or data
    splitter = _LineSplitter()
    splitter.feed(data)
    splitter.flush()
    lines = [line for _, named in splitter.take() for line in named]
    return lines[-count:] if count > 0 else []


class LogTail:
    """The logs of a node's workers. `now` is in seconds of the monotonic clock.

    A poll costs one fstat for each file that did not grow. ``behind`` tells whether the last poll
    has left lines unread: then the next should be soon.
    """

    def __init__(self) -> None:
        self._files: dict[bytes, dict[int, _LogFile]] = {}
        self._ended: set[bytes] = set()
        self.behind = False

    def watch(self, worker_id: bytes, pid: int, path: str, stream: int) -> None:
        """Read this file from its start; it may be created later. Watching the same path again
        changes nothing; another path for the stream replaces the first."""
        files = self._files.setdefault(worker_id, {})
        before = files.get(stream)
        if before is not None:
            if before.path == path:
                return
            before.close()
        files[stream] = _LogFile(worker_id, pid, path, stream)

    def forget(self, worker_id: bytes) -> None:
        """Close a worker's files. The driver loses unread lines: `drain` them first."""
        self._ended.discard(worker_id)
        for file in self._files.pop(worker_id, {}).values():
            file.close()

    def end(self, worker_id: bytes) -> None:
        """The worker writes no more: the poll that reaches the end of its files forgets it."""
        if worker_id in self._files:
            self._ended.add(worker_id)

    def watches(self, worker_id: bytes) -> bool:
        """Whether more lines may come from this worker."""
        return worker_id in self._files

    def poll(self, now: float, skip: Container[bytes] = ()) -> list[LogChunk]:
        """The lines completed since the last call, and partial ones older than PARTIAL_LINE_S; not
        those of the workers in ``skip``, whose turn comes later."""
        chunks: list[LogChunk] = []
        self.behind = False
        for worker_id, files in list(self._files.items()):
            if worker_id in skip:
                continue
            behind = False
            for file in files.values():
                file.poll(now, chunks)
                behind = behind or file.behind
            if behind:
                self.behind = True
            elif worker_id in self._ended:
                for file in files.values():
                    file.drain(chunks)
                self.forget(worker_id)
        return chunks

    def cut_partial(self) -> list[LogChunk]:
        """The unfinished lines, for a driver that ends before they do."""
        chunks: list[LogChunk] = []
        for files in self._files.values():
            for file in files.values():
                file.cut_partial(chunks)
        return chunks

    def sizes(self) -> dict[str, int]:
        """The size of each file at this moment, by its path."""
        return {f.path: f.size() for files in self._files.values() for f in files.values()}

    def has_read(self, sizes: dict[str, int]) -> bool:
        """Whether all files have been read up to ``sizes``."""
        return not any(
            file.offset < sizes.get(file.path, 0)
            for files in self._files.values()
            for file in files.values()
        )

    def drain(self, worker_id: bytes | None = None) -> list[LogChunk]:
        """The unread lines of one worker, or of all, partial lines too; at most DRAIN_BYTES a file.
        Polling may go on afterwards."""
        if worker_id is None:
            workers = list(self._files.values())
        else:
            workers = [self._files.get(worker_id, {})]
        chunks: list[LogChunk] = []
        for files in workers:
            for file in files.values():
                file.drain(chunks)
        return chunks

    def close(self) -> None:
        """Forget every worker."""
        for worker_id in list(self._files):
            self.forget(worker_id)


class _LogFile:
    """One watched file, its read offset, and the time since which its last line is unfinished."""

    __slots__ = (
        "_fd", "_splitter", "_waiting_since", "behind", "offset", "path", "pid", "stream", "worker",
    )  # fmt: skip

    def __init__(self, worker_id: bytes, pid: int, path: str, stream: int) -> None:
        self.worker = worker_id
        self.pid = pid
        self.path = path
        self.stream = stream
        self._fd = _NO_FILE
        self.offset = 0
        self.behind = False  # the last poll reached its bound before the file's end
        self._splitter = _LineSplitter()
        self._waiting_since = 0.0

    def poll(self, now: float, into: list[LogChunk]) -> None:
        waited = self._splitter.waiting
        data = self._read(POLL_BYTES)
        self.behind = len(data) == POLL_BYTES
        if data:
            self._splitter.feed(data)
            if not waited or b"\n" in data:  # another line is unfinished now
                self._waiting_since = now
        elif not waited:
            return
        if self._splitter.waiting and now - self._waiting_since >= PARTIAL_LINE_S:
            self._splitter.flush()
            self._waiting_since = now
        self._collect(into)

    def drain(self, into: list[LogChunk]) -> None:
        left = DRAIN_BYTES
        while left > 0 and (data := self._read(min(left, POLL_BYTES))):
            self._splitter.feed(data)
            left -= len(data)
        self._splitter.flush()
        self._collect(into)

    def cut_partial(self, into: list[LogChunk]) -> None:
        self._splitter.flush()
        self._collect(into)

    def size(self) -> int:
        try:
            return os.stat(self.path).st_size
        except OSError:
            return 0

    def close(self) -> None:
        if self._fd != _NO_FILE:
            os.close(self._fd)
            self._fd = _NO_FILE

    def _read(self, limit: int) -> bytes:
        try:
            if self._fd == _NO_FILE:
                # Non-blocking for the open alone: a pipe at the path must not block it.
                self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            size = os.fstat(self._fd).st_size
            if size == self.offset:
                return b""
            if size < self.offset:  # truncated: workers append, so new text starts at its start
                self._splitter.flush()
                self.offset = 0
            data = os.pread(self._fd, limit, self.offset)
        except OSError:
            return b""
        self.offset += len(data)
        return data

    def _collect(self, into: list[LogChunk]) -> None:
        for name, lines in self._splitter.take():
            into.append(LogChunk(self.worker, self.pid, self.stream, name, lines))


class _LineSplitter:
    """Bytes of one stream in, lines under their names out. It reads no file and knows no clock."""

    __slots__ = ("_begun", "_name", "_partial", "_ready")

    def __init__(self) -> None:
        self._name = ""
        self._partial = b""
        self._begun = False  # part of the unfinished line was delivered: its end is no new line
        self._ready: list[tuple[str, list[str]]] = []

    @property
    def waiting(self) -> bool:
        """Whether there is an unfinished line."""
        return bool(self._partial)

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        data = self._partial + data
        *lines, self._partial = data.split(b"\n")
        if self._begun or b"\r" in data or _MARKER in data or _longest(lines) > LOG_LINE_MAX_BYTES:
            for line in lines:
                self._end_line(line)
        elif lines:  # nearly always: three times as fast
            self._lines().extend([line.decode("utf-8", "replace") for line in lines])
        self._shorten_partial()

    def flush(self) -> None:
        """Deliver the unfinished line, without a marker that is not complete."""
        start = _marker_start(self._partial)
        text = _without_overwritten(self._partial[:start])
        if text.strip():  # a progress bar that wiped itself out with spaces is skipped
            self._deliver(text)
            self._begun = True
            self._partial = self._partial[start:]

    def take(self) -> list[tuple[str, list[str]]]:
        """The lines since the last call, as (name, lines), in order."""
        ready, self._ready = self._ready, []
        return ready

    def _end_line(self, line: bytes) -> None:
        text, marker, name = line.partition(_MARKER)
        text = _without_overwritten(text)
        if text or not (marker or self._begun):
            self._deliver(text)
        self._begun = False
        if marker:
            self._name = name.decode("utf-8", errors="replace")

    def _shorten_partial(self) -> None:
        """Keep only the part of an unfinished line that can still be shown: bounds the memory."""
        start = _marker_start(self._partial)
        if len(self._partial) - start > LOG_LINE_MAX_BYTES:
            start = len(self._partial)  # no name is that long: this is text
        text = self._partial[:start]
        if b"\r" in text:
            ended = b"\r" if text.endswith(b"\r") else b""  # it may yet be that of a "\r\n"
            text = _without_overwritten(text) + ended
        if len(text) > LOG_LINE_MAX_BYTES:
            text = self._deliver_pieces(text)
            self._begun = True
        self._partial = text + self._partial[start:]

    def _deliver(self, text: bytes) -> None:
        self._append(self._deliver_pieces(text))

    def _deliver_pieces(self, text: bytes) -> bytes:
        """Deliver text until the rest, which is returned, fits in a line."""
        while len(text) > LOG_LINE_MAX_BYTES:
            cut = _cut(text)
            self._append(text[:cut])
            text = text[cut:]
        return text

    def _append(self, text: bytes) -> None:
        self._lines().append(text.decode("utf-8", "replace"))

    def _lines(self) -> list[str]:
        """The list for the next line: the last one under the current name."""
        if not self._ready or self._ready[-1][0] != self._name:
            self._ready.append((self._name, []))
        return self._ready[-1][1]


def _marker_start(unfinished: bytes) -> int:
    """Where a marker begins whose line is not complete; the length if there is none."""
    start = unfinished.find(_MARKER)
    if start < 0:
        start = unfinished.rfind(_MARKER[:1])
        if start < 0 or not _MARKER.startswith(unfinished[start:]):
            return len(unfinished)
    return start


def _without_overwritten(text: bytes) -> bytes:
    """The text that a terminal would show: after the last carriage return with text behind."""
    shown = text.rstrip(b"\r")
    return shown[shown.rfind(b"\r") + 1 :]


def _longest(lines: list[bytes]) -> int:
    return max(map(len, lines), default=0)


def _cut(text: bytes) -> int:
    """Where to cut text that is too long for a line: not inside a character."""
    cut = LOG_LINE_MAX_BYTES
    while cut > LOG_LINE_MAX_BYTES - 3 and text[cut] & 0xC0 == 0x80:
        cut -= 1
    return cut
