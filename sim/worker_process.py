"""A simulated worker: of tasks, or of one actor.

A task worker runs its queue one by one, hands back what waits behind a long task or a blocked one,
and batches its ``Done``s; an actor's process runs calls in order, or all at once if it is
concurrent.
"""

from __future__ import annotations

from random import Random
from typing import Any

from sim.fiber import Failed, Fiber, payload
from sim.lanes import CalleeEnd
from sim.node import SimulatedNode
from sim.process import Process, Running
from sim.roles import Program
from skate import messages as m
from skate.config import HAND_BACK_AFTER_S, PROTOCOL_VERSION, PYTHON
from skate.error_records import ErrorRecord, encode_error
from skate.ids import TaskIdCounter, return_id
from skate.rows import Client, Worker
from skate.spec import FORMAT_ERROR, ActorOptions, CallTemplate
from skate.worker.lane_server import LaneServer, Work


class WorkerProcess(Process):
    """A worker: of tasks, or of one actor."""

    def __init__(self, node: SimulatedNode, peer: Client, worker: Worker) -> None:
        simulator = node.simulator
        super().__init__(node, peer, f"worker{len(simulator.processes)}")
        self.worker = worker
        self.server = LaneServer(is_actor=worker.actor is not None)
        self.called = CalleeEnd(simulator, self, self.server)
        self.templates: dict[int, CallTemplate] = {}
        self.functions: set[bytes] = set()
        self.running: Fiber | None = None
        self.begun = b""  # the last task that did
        self.exiting = False
        self.options: ActorOptions | None = None
        self.kept: Fiber | None = None  # what outlives a call: the actor's own state
        self._hand_back_due = False

    @property
    def in_order(self) -> bool:
        """Whether calls run one by one."""
        return self.options is None or self.options.in_order

    # ------------------------------------------------------------------ messages

    def on_message(self, message: Any) -> None:
        """What only workers are sent."""
        if isinstance(message, m.Run):
            assert message.template in self.templates, "a run of an unknown template"
            if self.running is not None and self.running.blocked and self.options is None:
                self.post(m.HandBack([message.task_id]))
                self.flush()
            else:
                self.server.on_run(message, self.templates[message.template])
        elif isinstance(message, m.RegisterTemplate):
            function_id = message.template.function_id
            assert not function_id or function_id in self.functions, "code that never came"
            self.templates[message.number] = message.template
        elif isinstance(message, m.RegisterFunction):
            self.functions.add(message.function_id)
        elif isinstance(message, m.WorkerSetup):
            self._set_up(message)
        elif isinstance(message, m.Exit):
            self.exiting = True
            self.called.read_all()
            self.server.retire()
            self.called.flush()
        elif not self.called.hear(message):
            super().on_message(message)

    def _set_up(self, setup: m.WorkerSetup) -> None:
        simulator = self.simulator
        self.ids = TaskIdCounter(setup.job_id, setup.submitter)
        self.lanes.begin(setup.submitter)
        self.options = setup.actor
        assert (setup.actor is not None) == (self.worker.actor is not None)
        self.kept = Fiber(self, None, Random(simulator.random.random()))
        if simulator.random.random() < simulator.settings.stillborn_share:
            self.die(1)
            return
        pid = 1_000 + len(simulator.processes)
        hello = m.Hello(PROTOCOL_VERSION, PYTHON, "worker", pid, setup.submitter, lanes=True)
        self.node.listeners[self.worker.id] = self.called
        simulator.at(simulator.random.random() * 0.003, self.post, hello)

    def after_batch(self) -> None:
        """Begin what can begin; look after what waits behind a long task."""
        queue = self.server.queue
        while queue and (self.running is None or not self.in_order) and not self.dead:
            work = self.server.next()
            self.called.flush()
            if work is not None:
                self._begin(work)
        if self.dead:
            return
        if not queue and not self.fibers:
            if self.exiting:
                self.called.flush()
                self.flush()
                self.die(0)
                return
            self.called.rest()
        if queue and self.running is not None and self.options is None:
            self._hand_back_later(self.running)

    def _take_lanes(self) -> None:
        super()._take_lanes()
        self.called.take(self._outbox)

    # ------------------------------------------------------------------ hand-backs

    def _hand_back_later(self, running: Fiber) -> None:
        if not self._hand_back_due:
            self._hand_back_due = True
            now = self.simulator.now
            due = max(0.0, running.began + HAND_BACK_AFTER_S - now)
            self.simulator.at(due, self._hand_back_if_long)

    def _hand_back_if_long(self) -> None:
        self._hand_back_due = False
        running = self.running
        if self.dead or running is None or not self.server.queue:
            return
        if self.simulator.now - running.began >= HAND_BACK_AFTER_S - 1e-9:
            self._hand_back()
        else:
            self._hand_back_later(running)

    def _hand_back(self) -> None:
        server = self.server
        if self.running is not None and self.running.work is not None:
            server.long(self.running.work, self.running.began)
        server.hand_back()
        self.called.flush()
        if server.queue:
            self.post(m.HandBack([work.run.task_id for work in server.queue]))
            server.queue.clear()
            self.flush()

    def block(self, fiber: Running) -> None:
        """The main thread waits: what has not begun goes back, the CPU is lent out."""
        if fiber is self.running and self.in_order:
            fiber.blocked = True
            if self.options is None:
                self.server.block()
                self._hand_back()
            self.post(m.Blocked())

    def unblock(self, fiber: Running) -> None:
        """It goes on."""
        if fiber.blocked:
            fiber.blocked = False
            self.server.unblock()
            self.post(m.Unblocked())

    # ------------------------------------------------------------------ runs

    def _begin(self, work: Work) -> None:
        simulator = self.simulator
        run, spec = work.run, work.spec
        simulator.tell(self.name, "begins", run.task_id, run.attempt, spec.name)
        self.begun = run.task_id
        simulator.ledger.began(self, run.task_id, run.attempt, spec, self.in_order)
        fiber = Fiber(self, run, Random(simulator.random.random()))
        fiber.work = work
        self.running = fiber
        settings = simulator.settings
        if simulator.random.random() < settings.death_share:
            simulator.at(simulator.random.random() * 0.03, self.die, -9)
        self.start(fiber, self._run(fiber, run, spec))

    def _run(self, fiber: Fiber, run: m.Run, spec: CallTemplate) -> Program:
        started = self.simulator.now
        results: list[m.Result] = []
        try:
            assert len(run.values or ()) == len(run.dependencies or ())
            for object_id, value in zip(run.dependencies or (), run.values or (), strict=True):
                assert not fiber.read(object_id, value), "an error as an argument"
            outcome = yield from self.simulator.settings.task(fiber, run, spec)
            for index, (size, contains) in enumerate(outcome):
                object_id = return_id(run.task_id, index)
                if size:
                    offset = yield from fiber.write_extent(object_id, size)
                    self.node.memory.contain(object_id, contains)
                    self.node.memory.written(object_id)
                    value = m.Value(b"", offset, size)
                else:
                    value = m.Value(payload(object_id, contains))
                self.lanes.escape(contains)
                results.append(m.Result(value, contains or None))
        except Failed as failed:
            error = FORMAT_ERROR + encode_error(ErrorRecord(failed.kind, "in a task"))
            return self._failed(fiber, run, spec, started, error)
        ended = self.simulator.now
        if len(results) == 1 and not results[0].value.size and not results[0].contains:
            return m.Done(run.task_id, run.attempt, started, ended, results[0].value.data)
        return m.Done(run.task_id, run.attempt, started, ended, results=results)

    def _failed(
        self, fiber: Fiber, run: m.Run, spec: CallTemplate, started: float, error: bytes
    ) -> m.Done:
        results = None
        if spec.num_returns != 1:
            results = [m.Result(m.Value(error)) for _ in range(spec.num_returns)]
        retry = spec.retry_exceptions is True
        for index in range(spec.num_returns):
            self.node.memory.written(return_id(run.task_id, index))
        if retry:
            self.simulator.ledger.runs[run.task_id][-1].retried = True
        now = self.simulator.now
        return m.Done(run.task_id, run.attempt, started, now, error, results, True, retry)

    def finished(self, fiber: Running, result: Any) -> None:
        """A task or call is over: tell, and go on with the next."""
        if fiber is self.running:
            self.running = None
        assert isinstance(fiber, Fiber)
        fiber.drop_all()
        work = fiber.work
        if work is not None and work.lane is not None:
            self.server.outcome(work, result)
            self.called.flush()
        elif self.server.queue:
            self.post(result)
        else:
            self._take_lanes()
            self._outbox.append(result)
            self.flush()
        self.simulator.at(0.0, self._next)

    def _next(self) -> None:
        if not self.dead:
            self.after_batch()

    def leave(self, reason: str) -> None:
        """exit_actor()."""
        self.server.leave()
        self.say()
        self.post(m.Leaving(reason))
        self.exiting = True

    def check_lanes_idle(self) -> None:
        """Nor on those where it is called."""
        super().check_lanes_idle()
        self.called.check_idle()

    def die(self, status: int) -> None:
        """The zygote reaps it, and says so by its own way."""
        if not self.dead:
            super().die(status)
            self.node.listeners.pop(self.worker.id, None)
            self.called.died()
            simulator = self.simulator
            delay = simulator.random.random() ** 3 * 0.02
            simulator.at(delay, self.node.worker_exited, self.worker, status, self.begun)
