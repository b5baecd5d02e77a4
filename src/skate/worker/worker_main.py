"""A worker process: takes over its job's world, then runs what its node sends.

A task worker runs its queue one by one. An actor's process runs its calls in order on the main
thread, on a pool of threads (``max_concurrency``), or on an event loop (async methods). What is in
the queue and not begun can be handed back: when the running task blocks, or runs for more than
25 ms (the courier thread sees to that). Whoever pops a task from the queue decides: it has begun,
or it is handed back, never both.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from skate import config
from skate import messages as m
from skate.client import runtime as runtime_module
from skate.client.connection import Connection
from skate.client.runtime import Runtime, current_run
from skate.error_records import encode_error, record_task_error
from skate.ids import return_id
from skate.objects.culprit import explain_failure
from skate.objects.serialization import ATOMS, NO_BUFFERS, deserialize, serialize
from skate.spec import FORMAT_ERROR, CallTemplate, JobConfig
from skate.worker.named_output import name_output

NO_ARGUMENTS = b""


class ActorExit(BaseException):
    """Raised by exit_actor(): the actor ends after this call."""


class Placeholder:
    """Stands in pickled arguments for dependency number ``index``."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index

    def __reduce__(self) -> tuple[Any, ...]:
        return Placeholder, (self.index,)


class Worker:
    """The process's state and loop; ``worker`` is the one of this process."""

    def __init__(self, connection: Connection, setup: m.WorkerSetup) -> None:
        self.connection = connection
        self.setup = setup
        self.queue: deque[m.Run] = deque()
        self.templates: dict[int, CallTemplate] = {}
        self.pickled: dict[bytes, m.RegisterFunction] = {}
        self.functions: dict[bytes, Any] = {}
        self.exit_reason = ""
        self.begun_at = 0.0  # when the running task began; 0: none runs
        self.is_blocked = False  # the main thread's task waits in get/wait
        self.courier_awake = False
        self.last_active = 0.0
        self.main_thread = threading.get_ident()
        self.actor: Any = None
        self.actor_class: type | None = None
        self.actor_name = ""
        self.actor_repr: str | None = None
        self.actor_template: CallTemplate | None = None
        self.restarted = False
        self.gpus: list[int] | None = None  # by index among the node's
        self.visible_gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
        self.pid = os.getpid()
        self.clock_offset = setup.clock_offset
        self.runtime = Runtime(
            connection,
            job_id=setup.job_id,
            node_id=setup.node_id,
            submitter=setup.submitter,
            session=setup.session,
            arena_path=setup.arena_path,
            arena_bytes=setup.arena_bytes,
            namespace=setup.job.namespace,
            is_driver=False,
        )
        self.runtime.worker_id = setup.worker_id
        self.run_calls: Callable[[], None] = self.run_queue
        connection.handlers.update(
            {
                m.Run: self._on_run,
                m.RegisterFunction: self._on_function,
                m.RegisterTemplate: self._on_template,
                m.Exit: self.on_exit,
            }
        )

    # ------------------------------------------------------------------ what arrives

    def _on_run(self, run: m.Run) -> None:
        self.queue.append(run)
        if self.is_blocked:  # sent before the node had heard of it
            self.hand_back()

    def _on_function(self, message: m.RegisterFunction) -> None:
        self.pickled[message.function_id] = message

    def _on_template(self, message: m.RegisterTemplate) -> None:
        self.templates[message.number] = message.template

    def on_exit(self, message: m.Exit) -> None:
        """The node wants this process to end."""
        self.exit_reason = message.reason or "asked to end"

    # ------------------------------------------------------------------ the plain loop

    def run_queue(self) -> None:
        """Run tasks (or calls), one by one, until asked to end."""
        queue = self.queue
        connection = self.connection
        while True:
            connection.wait_for(lambda: queue or self.exit_reason)
            while True:
                try:
                    run = queue.popleft()
                except IndexError:  # empty, or the courier has handed it back
                    break
                self.begun_at = time.monotonic()
                if not self.courier_awake:
                    self.courier_awake = True
                    self.last_active = self.begun_at  # or it would sleep again, if this is short
                    with connection.lock:
                        connection.arm()
                self.execute(run, self._answer)
            if self.exit_reason:
                return

    def _answer(self, done: m.Done) -> None:
        """Queue what a call came to; at once on its way if there is nothing else to do."""
        self.begun_at = 0.0
        connection = self.connection
        if self.queue:
            connection.append(done, len(done.data))
        else:
            with connection.lock:
                connection.outbox.append(done)
                connection.flush_locked()

    def courier_tick(self) -> float | None:
        """Called by the courier: hand back what waits behind a long task; seconds to the next.

        While tasks run, somebody has to look at what the node sends ahead: the main thread may be
        deep in user code. A second after the last task, the courier sleeps until the next.
        """
        now = time.monotonic()
        begun = self.begun_at
        if begun:
            self.last_active = now
            if now - begun >= config.HAND_BACK_AFTER_S - 0.005:
                self.connection.try_read()
                if begun == self.begun_at:
                    self.hand_back()
            return config.HAND_BACK_AFTER_S
        if now - self.last_active < 1.0:
            return config.HAND_BACK_AFTER_S
        self.courier_awake = False
        if self.begun_at:  # it began while we fell asleep
            self.courier_awake = True
            return config.HAND_BACK_AFTER_S
        return None

    def hand_back(self) -> None:
        """Give back all that has not begun."""
        if self.setup.actor_id:
            return
        task_ids = []
        while True:
            try:
                task_ids.append(self.queue.popleft().task_id)
            except IndexError:
                break
        if task_ids:
            self.connection.append(m.HandBack(task_ids))
            self.connection.flush()

    def lend_cpu(self) -> Callable[[], None]:
        """The running task is about to wait: what to call when it goes on."""
        if threading.get_ident() != self.main_thread or not self.begun_at:
            return lambda: None
        begun, self.begun_at = self.begun_at, 0.0
        self.is_blocked = True
        self.hand_back()
        self.connection.append(m.Blocked())

        def go_on() -> None:
            self.is_blocked = False
            self.begun_at = begun
            if not self.connection.closed:
                self.connection.append(m.Unblocked())

        return go_on

    # ------------------------------------------------------------------ one task

    def execute(self, run: m.Run, answer: Callable[[m.Done], None]) -> None:
        """Run a task, a constructor or a call, and ``answer``; user code's errors are answers too.

        The arguments are let go before the answer leaves, but a value with refs inside after it:
        until the node has heard of the container, nobody else may hold those.
        """
        started = time.monotonic()
        spec = self.templates[run.template]
        token = current_run.set(run)
        function = arguments = keywords = value = None
        try:
            try:
                function, arguments, keywords = self.prepare(run, spec)
                value = function(*arguments, **keywords)
                if spec.kind == "actor":
                    self.actor, value = value, None
                done = self.done(run, spec, value, started)
            except BaseException as error:
                done = self.ended_by(run, spec, error, started)
        finally:
            current_run.reset(token)
            function = arguments = keywords = None
        if done.results is None:
            value = None
        answer(done)

    def prepare(self, run: m.Run, spec: CallTemplate) -> tuple[Any, Any, Any]:
        """(callable, args, kwargs) of a run."""
        if run.gpus != self.gpus and not (run.gpus is None and self.setup.actor_id):
            self._show_gpus(run.gpus)
        if spec.kind == "task":
            self.runtime.enter(spec.group, spec.capture)
            function = self.functions.get(spec.function_id) or self.load(spec.function_id)
        elif spec.kind == "actor":
            self.runtime.enter(spec.group, spec.capture)  # for life: its calls say nothing
            function = self._constructor(spec)
            self.actor_template = spec
            self.restarted = run.attempt > 0
        else:
            function = self._method(spec.method)
        data: Any = run.arguments
        if run.values is None:
            if data == NO_ARGUMENTS:
                return function, (), {}
            arguments, keywords = deserialize(data)
            return function, arguments, keywords
        return (function, *self._with_values(run))

    def _show_gpus(self, gpus: list[int] | None) -> None:
        # An actor keeps what its constructor was given; a task worker takes on each task's.
        self.gpus = gpus
        if gpus is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, self.gpu_ids()))
        elif self.visible_gpus is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.visible_gpus
        else:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)

    def gpu_ids(self) -> list[int | str]:
        """The devices given to what runs here: a part of those that the driver sees."""
        names = [name.strip() for name in (self.visible_gpus or "").split(",") if name.strip()]
        ids = [names[i] if i < len(names) else str(i) for i in self.gpus or ()]
        return [int(name) if name.isdigit() else name for name in ids]

    def _with_values(self, run: m.Run) -> tuple[Any, Any]:
        assert run.values is not None and run.dependencies is not None
        values = [
            self.runtime.value_of(value, object_id)
            for value, object_id in zip(run.values, run.dependencies, strict=True)
        ]
        # Arguments too large for the message are themselves the last dependency.
        if run.arguments == NO_ARGUMENTS:
            arguments, keywords = values.pop()
        else:
            arguments, keywords = deserialize(run.arguments)
        return (
            tuple(values[a.index] if type(a) is Placeholder else a for a in arguments),
            {key: values[a.index] if type(a) is Placeholder else a for key, a in keywords.items()},
        )

    def load(self, function_id: bytes) -> Any:
        """Unpickle a function or class, once."""
        message = self.pickled[function_id]
        function = self.functions[function_id] = pickle.loads(message.data)
        return function

    def _constructor(self, spec: CallTemplate) -> Any:
        self.actor_class = self.load(spec.function_id)
        return self.actor_class

    def _method(self, name: str) -> Any:
        if name == "__ray_call__":
            return lambda function, *args, **kwargs: function(self.actor, *args, **kwargs)
        if name == "__ray_ready__":
            return lambda: True
        if name == "__ray_terminate__":
            return exit_actor
        return getattr(self.actor, name)

    def done(self, run: m.Run, spec: CallTemplate, value: Any, started: float) -> m.Done:
        """The Done of a task that returned ``value``."""
        count = spec.num_returns
        offset = self.clock_offset
        ended = time.monotonic()
        if count == 1:
            if type(value) in ATOMS and type(value) is not bytes:
                data = NO_BUFFERS + pickle.dumps(value, 5)
                if len(data) <= config.INLINE_MAX_BYTES:
                    return m.Done(run.task_id, run.attempt, started + offset, ended + offset, data)
            values: Any = (value,)
        elif count == 0:
            values = ()
        else:
            values = self._several(value, count, spec.name)
        results = [
            self._result(return_id(run.task_id, index), one, spec.name)
            for index, one in enumerate(values)
        ]
        ended = time.monotonic()
        if count == 1 and not results[0].contains and not results[0].value.size:
            return m.Done(
                run.task_id, run.attempt, started + offset, ended + offset, results[0].value.data
            )
        return m.Done(run.task_id, run.attempt, started + offset, ended + offset, results=results)

    def _several(self, value: Any, count: int, name: str) -> list[Any]:
        try:
            values = list(value)
        except TypeError:
            raise ValueError(
                f"{name} was declared with num_returns={count}, so it has to return "
                f"{count} values in a tuple or list; it returned a {type(value).__name__}"
            ) from None
        if len(values) != count:
            raise ValueError(
                f"{name} was declared with num_returns={count}, so it has to return "
                f"{count} values; it returned {len(values)}"
            )
        return values

    def _result(self, object_id: bytes, value: Any, name: str) -> m.Result:
        try:
            serialized = serialize(value)
        except Exception as error:
            raise explain_failure(error, f"the result of {name}", value) from error
        if serialized.size <= config.INLINE_MAX_BYTES:
            return m.Result(m.Value(serialized.to_bytes()), serialized.contains)
        return m.Result(self.runtime.extents.write(object_id, serialized), serialized.contains)

    def ended_by(
        self, run: m.Run, spec: CallTemplate, error: BaseException, started: float
    ) -> m.Done:
        """The Done of a task that did not return: it raised, or it ended its actor."""
        if isinstance(error, ActorExit):
            return self._exit_actor(run, spec, started)
        return self.failed(run, spec, error, started)

    def failed(
        self, run: m.Run, spec: CallTemplate, error: BaseException, started: float
    ) -> m.Done:
        """The Done of a task that raised ``error``."""
        record = record_task_error(
            error,
            f"{self.actor_name}.{spec.method}" if spec.kind == "method" else spec.name,
            pid=self.pid,
            actor_repr=self._actor_repr() if self.setup.actor_id else "",
            actor_id=self.setup.actor_id.hex(),
        )
        record.fields["cause_type"] = type(error).__name__
        payload = FORMAT_ERROR + encode_error(record)
        offset = self.clock_offset
        return m.Done(
            run.task_id,
            run.attempt,
            started + offset,
            time.monotonic() + offset,
            payload,
            failed=True,
            retry=self._is_retried(spec, error),
        )

    def _is_retried(self, spec: CallTemplate, error: BaseException) -> bool:
        wanted = spec.retry_exceptions
        if isinstance(wanted, bool) or not isinstance(error, Exception):
            return wanted is True and isinstance(error, Exception)
        from skate.errors import TaskError, UserCodeException

        cause: BaseException | None = error
        if isinstance(error, TaskError | UserCodeException):
            cause = getattr(error, "cause", None) or error.__cause__ or error
        return isinstance(cause, pickle.loads(wanted))

    def _actor_repr(self) -> str:
        """As of the first use after the constructor, as in Ray; "" without a ``__repr__``."""
        actor = self.actor
        if actor is not None and self.actor_repr is None:
            self.actor_repr = ""  # should it print, or fail
            kind: Any = type(actor)
            if kind.__repr__ is not object.__repr__:
                with contextlib.suppress(Exception):
                    self.actor_repr = str(repr(actor))
        return self.actor_repr or ""

    def _exit_actor(self, run: m.Run, spec: CallTemplate, started: float) -> m.Done:
        from skate.error_records import ErrorRecord

        self.leave("exit_actor() was called")
        payload = FORMAT_ERROR + encode_error(
            ErrorRecord(
                kind="ActorDiedError",
                message=f"The actor {self.actor_name} ended itself: exit_actor() was called in "
                f"{spec.name}.",
                fields={"actor_id": self.setup.actor_id.hex()},
            )
        )
        offset = self.clock_offset
        return m.Done(
            run.task_id,
            run.attempt,
            started + offset,
            time.monotonic() + offset,
            payload,
            failed=True,
        )

    def leave(self, reason: str) -> None:
        """End after what runs now: say so first, so that the node expects the exit."""
        self.connection.append(m.Leaving(reason))
        self.exit_reason = reason
        self.queue.clear()

    # ------------------------------------------------------------------ life

    def log_name(self) -> str:
        """What prints are labelled with: the task's name, or the actor's repr or class."""
        if self.setup.actor_id:
            return self._actor_repr() or self.actor_name
        run = current_run.get()
        if run is None:
            return ""
        spec = self.templates.get(run.template)
        return spec.name if spec is not None else ""

    def run(self) -> None:
        """From hello to the end."""
        setup = self.setup
        connection = self.connection
        connection.on_tick = self.courier_tick
        self.runtime.blocking = self.lend_cpu
        runtime_module.set_current(self.runtime)
        name_output(self.log_name)
        if setup.actor is not None:
            self.actor_name = setup.actor.class_name
            self._choose_loop(setup.actor)
        connection.append(
            m.Hello(
                config.PROTOCOL_VERSION,
                config.PYTHON,
                "worker",
                self.pid,
                setup.submitter,
            )
        )
        self.run_calls()
        self._finish()

    def _choose_loop(self, options: Any) -> None:
        if options.is_async:
            from skate.worker.async_actor import AsyncLoop

            self.run_calls = AsyncLoop(self, options.max_concurrency).run
        elif options.max_concurrency > 1:
            from skate.worker.threaded_actor import ThreadedLoop

            self.run_calls = ThreadedLoop(self, options.max_concurrency).run

    def _finish(self) -> None:
        """An intended end: the user's hooks, then the last words."""
        hook = getattr(self.actor, "__ray_shutdown__", None)
        if hook is not None:
            try:
                hook()
            except Exception:
                import traceback

                traceback.print_exc()
        with contextlib.suppress(Exception):
            self.connection.flush()
        self.actor = None
        import atexit

        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()


worker: Worker | None = None


def exit_actor() -> None:
    """End the actor whose method calls this, in good order. TypeError outside of an actor."""
    if worker is None or not worker.setup.actor_id:
        raise TypeError("exit_actor() can only be called inside an actor's method")
    raise ActorExit


def _module_path(job: JobConfig, own: list[str]) -> list[str]:
    """The driver's; if that is of another machine, what it lacks here is looked for in our own."""
    path = [os.fsdecode(part) for part in job.sys_path]
    missing = {part for part in path if os.path.isabs(part) and not os.path.exists(part)}
    if missing <= set(own):  # the library in a zip file, which nobody has
        return path
    found = [part for part in path if part not in missing]
    return found + [part for part in own if part not in found]


def take_over(setup: m.WorkerSetup) -> None:
    """Make the driver's world this process's own: environment, module path, folder."""
    job = setup.job
    os.environ.clear()
    os.environb.update(job.environ)
    os.environ["SKATE_SESSION"] = setup.session
    # As Ray does: a task gets as many native threads as CPUs, unless the user chose.
    os.environ.setdefault("OMP_NUM_THREADS", str(setup.threads))
    sys.path[:] = _module_path(job, sys.path)
    sys.argv = [job.entrypoint] if job.entrypoint else [""]
    with contextlib.suppress(OSError):
        os.chdir(job.working_dir)
    time.tzset()
    if os.environ.get("SKATE_ALIAS_RAY"):
        from skate.client.ray_alias import install_ray_alias

        install_ray_alias()


def main(line: socket.socket) -> None:
    """Entry of a freshly forked worker; ``line`` is its connection."""
    global worker
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    connection = Connection(line)
    setups: list[m.WorkerSetup] = []
    connection.handlers[m.WorkerSetup] = setups.append
    connection.on_lost = lambda reason: os._exit(0)  # the node is gone: nobody to work for
    connection.wait_for(lambda: setups)
    take_over(setups[0])
    worker = Worker(connection, setups[0])
    worker.run()
