"""The core's requests to the world: processes, transfers, logs, ids. Pure.

The daemon's shell (node/shell/node_shell.py) performs them, and the simulator's.
"""

from __future__ import annotations

from typing import Protocol

from skate import messages as m
from skate.rows import Client, Job, Worker


class Shell(Protocol):
    """The core's requests to the world. Calls return at once; outcomes come back as events."""

    def start_worker(self, worker: Worker, setup: m.WorkerSetup) -> None:
        """Fork a worker; its connection arrives as a client with ``client.worker`` set.

        ``client_lost`` and ``worker_exited`` both follow, in either order, even if it never came
        up.
        """

    def kill_worker(self, worker: Worker) -> None:
        """SIGKILL; ``worker_exited`` follows."""

    def close(self, client: Client) -> None:
        """Close the connection once its outbox is written; ``client_lost`` follows."""

    def stderr_tail(self, worker: Worker) -> list[str]:
        """The last lines of a worker's stderr."""

    def new_id(self) -> bytes:
        """16 fresh random bytes."""

    def fetch(self, object_id: bytes, offset: int, size: int, node_id: bytes) -> None:
        """Copy an object from a node's arena to this place in ours; ``fetched`` follows."""

    def cancel_fetch(self, object_id: bytes) -> None:
        """Stop a fetch; ``fetched`` follows all the same."""

    def flush_logs(self, client: Client, message: m.FlushLogs) -> None:
        """A driver ends, and its node asks for all that was printed."""

    def logs_flushed(self, client: Client, message: m.LogsFlushed) -> None:
        """Another node has sent all of its prints."""

    def job_ended(self, job: Job, reason: str) -> None:
        """A driver is gone; a local session ends with it."""

    def answer_locally(self, client: Client, question: m.Ask) -> bool:
        """Whether the shell itself answers this question (now or later)."""
