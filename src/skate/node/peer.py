"""A client of the node (driver, worker, observer or other node), as the core sees it. Pure."""

from __future__ import annotations

from collections import deque
from typing import Any

from skate import messages as m
from skate.net.frame import PartReader
from skate.scheduler.local_scheduler import Template, Worker
from skate.spec import JobConfig


class Job:
    """A driver's program: its workers, functions and configuration live and die with it.

    Or a detached actor in a cluster, with all that it submits and creates.
    """

    __slots__ = (
        "actor_id",
        "config",
        "driver",
        "driver_node",
        "driver_pid",
        "function_ids",
        "id",
        "parent",
    )

    def __init__(
        self,
        job_id: bytes,
        config: JobConfig,
        driver: Peer | None,
        driver_node: bytes,
        driver_pid: int,
    ) -> None:
        self.id = job_id
        self.config = config
        self.driver = driver  # None: it is at another node, or an actor
        self.driver_node = driver_node
        self.driver_pid = driver_pid
        self.actor_id = b""  # of the detached actor that it ends with, at the actor's home
        self.parent = b""  # and the job that created this, whose driver is shown what it prints
        self.function_ids: dict[bytes, None] = {}


class Peer:
    """One connection. ``outbox`` is what the shell has to write at the end of the turn."""

    __slots__ = (
        "alive",
        "deferred",
        "held",
        "holds_heard",
        "is_remote",
        "job",
        "known_functions",
        "known_templates",
        "link",
        "node_id",
        "outbox",
        "parts",
        "paused",
        "pid",
        "pins",
        "role",
        "templates",
        "worker",
    )

    def __init__(self, link: Any = None) -> None:
        self.link = link  # the shell's own: a transport
        self.role = ""  # until hello
        self.pid = 0
        self.alive = True
        self.job: Job | None = None
        self.worker: Worker | None = None
        self.outbox: list[Any] = []
        self.parts = PartReader(m.decode_to_node)
        self.templates: dict[int, Template] = {}  # what this peer's numbers mean
        self.known_templates: set[int] = set()  # node numbers that this worker has been told
        self.known_functions: set[bytes] = set()
        self.node_id = b""  # of another node
        self.held: set[bytes] = set()
        self.is_remote = False  # a driver on another machine: it has no shared memory
        self.holds_heard = 0  # Hold messages of another node: it is told how many are registered
        self.pins: dict[bytes, int] = {}
        self.paused = False  # it does not read as fast as we write
        self.deferred: deque[bytes] = deque()  # values to push once it reads again
