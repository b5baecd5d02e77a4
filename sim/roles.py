"""What the parts of the simulator know of each other: a machine, a process, the run's settings."""

from __future__ import annotations

from collections.abc import Container, Generator, Mapping
from typing import Any, Protocol

from skate import messages as m
from skate.node.node_core import NodeCore
from skate.rows import Client
from skate.spec import CallTemplate

Program = Generator[Any, Any, Any]
"""What runs in a process: it yields whenever it has to wait (sim/process.py)."""


class Machine(Protocol):
    """A simulated node."""

    @property
    def name(self) -> str:
        """Of the story."""

    @property
    def number(self) -> int:
        """In order of joining; 0 is the head."""

    @property
    def dead(self) -> bool:
        """Whether it is gone."""

    @property
    def core(self) -> NodeCore:
        """The core that ships."""


class Inbound(Protocol):
    """The line to a process."""

    def send(self, item: Any, *, is_background: bool = False) -> None:
        """A batch, or, None, the EOF."""


class LocalProcess(Protocol):
    """A driver or worker on a machine."""

    @property
    def name(self) -> str:
        """Of the story."""

    @property
    def node(self) -> Machine:
        """Where it runs."""

    @property
    def dead(self) -> bool:
        """Whether it has ended."""

    @property
    def inbound(self) -> Inbound:
        """What the node says."""

    def die(self, status: int) -> None:
        """The process ends, now and at any place."""

    def vanish(self) -> None:
        """It is gone, and nobody is told."""


class Conditions(Protocol):
    """One run's machines, programs and faults; the workloads' settings are such."""

    @property
    def is_cluster(self) -> bool:
        """Whether there is a GCS."""

    @property
    def has_lanes(self) -> bool:
        """Whether nodes offer them."""

    @property
    def jobs_meet(self) -> bool:
        """Whether refs of one job may come to another."""

    @property
    def is_lossy(self) -> bool:
        """Whether nodes may give up what others still count on."""

    @property
    def frozen(self) -> Container[Machine]:
        """Nodes that the GCS gives up though they live."""

    @property
    def arena_bytes(self) -> int:
        """Of each node."""

    @property
    def bytes_per_s(self) -> float:
        """Of a transfer between nodes."""

    @property
    def check_every(self) -> int:
        """Turns of a node from one full check to the next."""

    @property
    def pause_share(self) -> float:
        """Of batches after which a client is slow to read."""

    @property
    def death_share(self) -> float:
        """Of runs in which the worker dies."""

    @property
    def stillborn_share(self) -> float:
        """Of workers that die before they say hello."""

    @property
    def delay_s(self) -> float:
        """Of most batches."""

    @property
    def stall_s(self) -> float:
        """Of the slowest."""

    def resources_of(self, number: int) -> dict[str, int]:
        """What a node has."""

    def add_machine(self, number: int, like: int) -> None:
        """A node with this number will join, on the machine of another."""

    def is_cut(self, one: Machine, other: Machine) -> bool:
        """Whether no connection can be made between two nodes now."""

    def is_disturbed(self, now: float) -> bool:
        """Whether a fault between nodes may still be under way."""

    def possible_errors(self) -> set[str]:
        """What a value may be instead of a value."""

    def driver(self, fiber: Any) -> Program:
        """A driver's program."""

    def task(self, fiber: Any, run: m.Run, spec: CallTemplate) -> Program:
        """What a task, a constructor or a method does."""


Processes = Mapping[Client, LocalProcess]
