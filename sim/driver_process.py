"""A simulated driver: a user's program, from Welcome to shutdown()."""

from __future__ import annotations

from random import Random
from typing import Any

from sim.fiber import Fiber
from sim.node import SimulatedNode
from sim.process import Process, Running
from skate import messages as m
from skate.config import PROTOCOL_VERSION, PYTHON
from skate.ids import TaskIdCounter
from skate.rows import Client
from skate.spec import JobConfig


class DriverProcess(Process):
    """A user's program."""

    def __init__(self, node: SimulatedNode, number: int) -> None:
        super().__init__(node, Client(), f"driver{number}")
        self.fiber: Fiber | None = None
        node.connect(self.peer, self)
        job = JobConfig(f"n{number}")
        self.post(m.Hello(PROTOCOL_VERSION, PYTHON, "driver", 100 + number, b"", job, lanes=True))

    def on_message(self, message: Any) -> None:
        """Welcome starts the program."""
        if isinstance(message, m.Welcome):
            self.ids = TaskIdCounter(message.job_id, message.submitter)
            self.lanes.begin(message.submitter)
            self.fiber = Fiber(self, None, Random(self.simulator.random.random()))
            self.start(self.fiber, self.simulator.settings.driver(self.fiber))
        else:
            super().on_message(message)

    def finished(self, fiber: Running, result: Any) -> None:
        """The program's scope ends; the connection stays."""
        assert fiber is self.fiber
        self.fiber.drop_all()
        if result == "leave":
            self.leave()

    def leave(self) -> None:
        """shutdown()."""
        if not self.dead:
            self.post(m.Leaving("shutdown"))
            self.flush()
            self.die(0)
