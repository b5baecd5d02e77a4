"""The life of a task that is here: its inputs, its run, its results, its end. Pure.

Every accepted task ends in exactly one of FINISHED and FAILED; then each of its returns that is
held has a value.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from skate import messages as m
from skate.error_records import encode_error, with_dependant
from skate.ids import FIRST_RETURN, handle_id, return_id
from skate.node.clock import Clock
from skate.node.error_payload import error_payload
from skate.node.event_notes import EventNotes
from skate.node.hears import CLIENTS, WORKER, hears
from skate.node.introductions import Introductions
from skate.node.outbox import Outbox
from skate.node.validity import check_call, read_error
from skate.node.values import Values
from skate.objects.object_store import PENDING, REMOTE, ObjectStore
from skate.objects.stored_object import StoredObject
from skate.rows import Actor, Client, Task, Template, Worker
from skate.scheduler.local_scheduler import LocalScheduler
from skate.spec import FORMAT_ERROR
from skate.states import TASK_FAILED, TASK_FINISHED, TASK_MOVES, TASK_PULLING, TASK_WAITING, advance


class _Workers(Protocol):
    def count_call(self, worker: Worker, template: Template) -> None: ...


class _Guests(Protocol):
    def completed(self, task: Task, results: list[m.Result], failed: bool) -> None: ...

    def disown_returns(self, task: Task) -> list[StoredObject]: ...

    def is_orphan(self, task: Task) -> bool: ...

    def orphan_ended(self, task: Task) -> None: ...

    def drop_orphans(self, task_ids: list[bytes]) -> None: ...


class _Placing(Protocol):
    def place(self, task: Task) -> None: ...


class _Lanes(Protocol):
    def comes_back(self, client: Client, task: Task, number: int) -> bool: ...


class _ActorResources(Protocol):
    def blocked(self, actor: Actor) -> None: ...

    def unblocked(self, actor: Actor) -> None: ...


class _ActorCalls(Protocol):
    def arguments_ready(self, call: Task) -> None: ...

    def on_done(self, worker: Worker, done: m.Done) -> None: ...

    def task_failed(self, task: Task, payload: bytes, was_waiting: bool) -> None: ...


class Running:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        clock: Clock,
        outbox: Outbox,
        store: ObjectStore,
        scheduler: LocalScheduler,
        notes: EventNotes,
        introductions: Introductions,
        values: Values,
        workers: _Workers,
        guests: _Guests,
        placing: _Placing,
        actor_resources: _ActorResources,
        actor_calls: _ActorCalls,
        lanes: _Lanes,
    ) -> None:
        self._clock = clock
        self._outbox = outbox
        self._store = store
        self._scheduler = scheduler
        self._notes = notes
        self._introductions = introductions
        self._values = values
        self._workers = workers
        self._guests = guests
        self._placing = placing
        self._actor_resources = actor_resources
        self._actor_calls = actor_calls
        self._lanes = lanes
        self.doomed: deque[tuple[Task, bytes]] = deque()  # tasks with a failed input

    # ------------------------------------------------------------------ a task is here

    @hears(m.Submit, *CLIENTS)
    def on_submit(self, client: Client, message: m.Submit) -> None:
        """Steps 1 and 5 of figure a: a task has come; are its inputs here?"""
        template = client.templates[message.template]
        task_id = message.task_id
        task = Task(
            task_id,
            template,
            message.arguments,
            message.dependencies,
            message.nested,
            client,
            message.depth,
            self._clock.now,
        )
        check_call(task_id, template.spec, "task")
        if not message.lane:
            self.promise_returns(client, task)
        elif not self._lanes.comes_back(client, task, message.lane):
            return
        if task.dependencies is None and task.nested is None:
            if template.is_plain:  # nearly always
                self._scheduler.enqueue(task, self._clock.now)
            else:
                self._placing.place(task)
        elif self.hold_arguments(task):
            self._placing.place(task)

    def promise_returns(self, client: Client, task: Task) -> None:
        """The submitter holds each return of the task."""
        count = task.template.spec.num_returns
        if count == 1:
            object_id = task.id + FIRST_RETURN
            self._store.promise(object_id, client)
            client.held.add(object_id)
            return
        for index in range(count):
            object_id = return_id(task.id, index)
            self._store.promise(object_id, client)
            client.held.add(object_id)

    def hold_arguments(self, task: Task, *, here: bool = False) -> bool:
        """Hold a task's inputs; returns whether all exist. A failed input fails the task.

        ``here``: whether all are in this node's own store.
        """
        store = self._store
        objects = store.objects
        task.is_here = here
        if task.nested is not None:
            task.nested = [i for i in task.nested if store.hold(i, idle=True)]
        failed: bytes | None = None
        for object_id in task.dependencies or ():
            if not store.hold(object_id):
                failed = self._values.lost_payload(object_id)
                continue
            stored = objects[object_id]
            if stored.state is PENDING or (here and stored.state is REMOTE):
                task.missing += 1
                self._values.wait(task, stored)
            elif stored.is_error:
                failed = stored.data
        if failed is not None:
            self.fail(task, failed, dependant=True)
            return False
        return task.missing == 0

    def wait_for_inputs_here(self, task: Task) -> bool:
        """Have the (borrowed) inputs of a call brought here; False if one has failed it."""
        task.is_here = True
        failed: bytes | None = None
        for object_id in task.dependencies or ():
            stored = self._store.objects[object_id]
            if stored.is_error:
                failed = stored.data
            elif stored.state is PENDING or stored.state is REMOTE:
                task.missing += 1
                self._values.wait(task, stored)
        if failed is not None:
            self.fail(task, failed, dependant=True)
        return failed is None

    def input_ready(self, task: Task, stored: StoredObject) -> None:
        """An object that the task waits for exists now."""
        if task.state is not TASK_WAITING and task.state is not TASK_PULLING:
            return  # another input has failed the task
        if stored.is_error:
            self.doom(task, stored.data)
            return
        task.missing -= 1
        if task.missing == 0:
            if task.template.spec.kind == "method":
                self._actor_calls.arguments_ready(task)
            elif task.is_here:
                self._scheduler.enqueue(task, self._clock.now)
            else:
                self._placing.place(task)

    def doom(self, task: Task, payload: bytes) -> None:
        """An input has failed: the task will fail too (``fail_doomed``)."""
        self.doomed.append((task, payload))

    def fail_doomed(self) -> None:
        """Fail the tasks whose inputs have failed."""
        # A loop and no recursion: ten thousand tasks may depend on each other in a chain.
        while self.doomed:
            task, payload = self.doomed.popleft()
            if task.state is TASK_WAITING or task.state is TASK_PULLING:
                self.fail(task, payload, dependant=True)

    # ------------------------------------------------------------------ it runs

    def send(self, worker: Worker, task: Task) -> None:
        """The scheduler has chosen: hand the task to the worker."""
        client = worker.client
        self._introductions.to_worker(client, task.template)
        values = None
        if task.dependencies is not None:
            values = self._values.values_of(task.dependencies)
        self._outbox.send(
            client,
            m.Run(
                task.id,
                task.attempt,
                task.template.number,
                task.arguments,
                task.dependencies,
                values,
                task.depth,
                task.gpus,
            ),
        )

    @hears(m.Done, WORKER)
    def on_done(self, client: Client, done: m.Done) -> None:
        """A worker has run a task (or an actor's call): store, tell, go on."""
        worker = client.worker
        assert worker is not None
        if worker.actor is not None:
            self._actor_calls.on_done(worker, done)
            return
        task = self._scheduler.finished(worker, done.task_id, done.ended - done.started)
        if task is None or task.attempt != done.attempt:
            return  # an older attempt: no client waits for it
        if done.retry and task.retries_left != 0 and not self._guests.is_orphan(task):
            task.next_attempt()
            if task.owner.node_id:
                task.is_bound = True  # its attempts are counted here
            self._values.abandon_results(task)
            self._scheduler.requeue(task)
            return
        self.complete(task, done, worker)
        if task.template.spec.max_calls:
            self._workers.count_call(worker, task.template)

    def complete(self, task: Task, done: m.Done, worker: Worker) -> None:
        """Store the results of a task that has run."""
        if self._guests.is_orphan(task):
            self._values.abandon_results(task)
            self._guests.orphan_ended(task)
            return
        state = TASK_FAILED if done.failed else TASK_FINISHED
        results = done.results
        if done.failed:
            self._values.abandon_results(task)
            count = task.template.spec.num_returns
            if results is None and count != 1:
                results = [m.Result(m.Value(done.data))] * count
        told = False
        if results is None:
            told = self._values.store_result(task.id + FIRST_RETURN, m.Value(done.data), None)
        else:
            for index, result in enumerate(results):
                self._store_one_of(task, return_id(task.id, index), result, worker)
        task.state = advance(TASK_MOVES, task.state, state)
        if task.owner.node_id:
            self._guests.completed(task, results or [m.Result(m.Value(done.data))], done.failed)
        self._notes.task(
            task,
            done.started,
            done.ended,
            worker,
            done.data if done.failed else b"",
            self._clock.now if results is None else 0.0,
            len(done.data),
            told,
        )
        self.drop_arguments(task)

    def _store_one_of(self, task: Task, object_id: bytes, result: m.Result, worker: Worker) -> None:
        told = self._values.store_result(object_id, result.value, result.contains)
        value = result.value
        size, what = (value.size, "SEALED") if value.size else (len(value.data), "STORED")
        self._notes.object(object_id, what, size, worker.pid)
        if told:
            self._notes.object(object_id, "DELIVERED", size, task.owner.pid)

    @hears(m.HandBack, WORKER)
    def on_hand_back(self, client: Client, message: m.HandBack) -> None:
        """A worker hands these tasks back; other workers may run them."""
        assert client.worker is not None
        self._scheduler.handed_back(client.worker, message.task_ids)
        self._guests.drop_orphans(message.task_ids)

    @hears(m.Blocked, WORKER)
    def on_blocked(self, client: Client, message: m.Blocked) -> None:
        """A worker's task waits: its CPU is free for another."""
        worker = client.worker
        assert worker is not None
        if worker.actor is not None:
            self._actor_resources.blocked(worker.actor)
        else:
            self._scheduler.blocked(worker)

    @hears(m.Unblocked, WORKER)
    def on_unblocked(self, client: Client, message: m.Unblocked) -> None:
        """The worker's task goes on."""
        worker = client.worker
        assert worker is not None
        if worker.actor is not None:
            self._actor_resources.unblocked(worker.actor)
        else:
            self._scheduler.unblocked(worker)

    # ------------------------------------------------------------------ it ends

    def fail(self, task: Task, payload: bytes, *, dependant: bool = False) -> None:
        """The task will not run (again): each of its returns is this error."""
        if dependant:
            record = with_dependant(read_error(payload), task.template.spec.name)
            payload = FORMAT_ERROR + encode_error(record)
        was_waiting = task.state is TASK_WAITING
        task.state = advance(TASK_MOVES, task.state, TASK_FAILED)
        if self._guests.is_orphan(task):
            self._guests.orphan_ended(task)
            if task.actor is not None:
                self._actor_calls.task_failed(task, payload, was_waiting)
            return
        # Extents that a process has begun to write stay its own until it is reaped.
        for index in range(task.template.spec.num_returns):
            self._values.store_result(return_id(task.id, index), m.Value(payload), None)
        if task.owner.node_id:
            results = [m.Result(m.Value(payload))] * task.template.spec.num_returns
            self._guests.completed(task, results, True)
        self._notes.task(task, 0.0, self._clock.now, task.worker, payload)
        self.drop_arguments(task)
        if task.actor is not None:
            self._actor_calls.task_failed(task, payload, was_waiting)

    def drop_arguments(self, task: Task) -> None:
        """Let go of the task's inputs."""
        borrowed = bool(task.owner.node_id)
        for object_id in task.dependencies or ():
            self._store.release(object_id, borrowed=borrowed)
        for object_id in task.nested or ():
            self._store.release(object_id, idle=True)
        task.dependencies = task.nested = None
        task.arguments = b""
        if task.holds_handle:
            task.holds_handle = False
            self._store.release(handle_id(task.actor.id))

    def drop_tasks(self, tasks: list[Task]) -> None:
        """These tasks' job is over: drop all, then tell holders of results in other jobs."""
        dropped = []
        for task in tasks:
            if task.state not in (TASK_FINISHED, TASK_FAILED):
                task.state = TASK_FAILED
                dropped.append(task)
        for task in dropped:
            self.drop_arguments(task)
        for task in dropped:
            if task.owner.node_id:
                self._guests.disown_returns(task)  # its home will not ask for them either
            for index in range(task.template.spec.num_returns):
                object_id = return_id(task.id, index)
                if object_id in self._store.objects:
                    payload = error_payload(
                        "OwnerDiedError",
                        f"Object {object_id.hex()} was never made: the job of its task "
                        f"{task.template.spec.name} has ended.",
                        object_ref_hex=object_id.hex(),
                    )
                    self._values.store_result(object_id, m.Value(payload), None)
