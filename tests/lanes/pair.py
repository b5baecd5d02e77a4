"""A caller's book and a callee's server at the two ends of one lane, with a node between them that
keeps the rules; every line delivers when it is told to."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from skate import messages as m
from skate.client.lane_book import CallerLane, LaneBook, values_of
from skate.ids import FIRST_RETURN, TaskIdCounter, handle_id
from skate.objects.reference_counter import ReferenceCounter
from skate.spec import FORMAT_PICKLE, CallTemplate
from skate.worker.lane_server import CalleeLane, LaneServer, Work

SUBMITTER = b"caller7"
ACTOR = b"j" * 4 + SUBMITTER + b"\0\0\0\0\1"
LANE = 1
TASK = CallTemplate("task", b"f" * 16, "f", demand=(("CPU", 10000),), max_retries=3)
METHOD = CallTemplate("method", b"", "A.g", method="g")
EOF = "the end of the stream"
BURIED = "the node has buried the process"
LARGE = FORMAT_PICKLE + bytes(20_000)


class Values:
    """Of the caller: payloads by object."""

    def __init__(self) -> None:
        self.here: dict[bytes, bytes] = {}

    def data_here(self, object_id: bytes) -> bytes:
        return self.here[object_id]

    def plain(self, object_id: bytes) -> bytes | None:
        data = self.here.get(object_id)
        return data if data is not None and len(data) < 16_000 else None


class Pair:
    """The two processes, their node, and the six lines between them."""

    def __init__(self, *, is_actor: bool, before: int = 0, window: int = 8) -> None:
        self.is_actor = is_actor
        self.references = ReferenceCounter()
        self.values = Values()
        self.book = LaneBook(SUBMITTER, self.references, self.values)
        self.server = LaneServer(is_actor=is_actor)
        self.ids = TaskIdCounter(b"j" * 4, SUBMITTER)
        self.lines: dict[str, deque[Any]] = {
            name: deque()
            for name in ("lane>", "lane<", "caller>node", "node>caller", "worker>node",
                         "node>worker")
        }  # fmt: skip
        self.caller_outbox: list[Any] = []
        self.worker_outbox: list[Any] = []
        self.caller_dead = self.worker_dead = False
        self.calls: dict[bytes, int] = {}  # number of each call that the caller made
        self.sequence = 0
        self.has_dropped_handle = False  # and calls the actor no more
        self.read_order: list[bytes] = []  # tasks whose outcomes the caller has read
        self.refs: list[bytes] = []
        # At the worker.
        self.callee: CalleeLane | None = None
        self.refused_hello = False
        self.callee_closed = False
        self.running: list[Work] = []
        self.begun: Counter[bytes] = Counter()
        self.begun_order: list[int] = []
        self.lane_begun: list[bytes] = []
        self.ends_sent_at: int | None = None  # taken, as LaneEnds said
        self.received_at_eof: list[bytes] = []
        # At the node.
        self.lane_state = "open"
        self.was_revoked = False
        self.words: list[int] = []
        self.objects: dict[bytes, bytes | None] = {}
        self.held: set[bytes] = set()
        self.promised: set[bytes] = set()
        self.published: set[bytes] = set()
        self.failed: set[bytes] = set()
        self.switched: dict[bytes, int | None] = {}  # calls by the node, how their lane ended
        self.awaiting = 0
        self.how: int | None = None
        self.overs = 0
        self.rows: list[bytes] = []
        self.node_runs: dict[bytes, None] = {}  # sent to the worker, not done
        self.caller_gone = self.worker_gone = self.handle_released = False
        self.book.register(METHOD if is_actor else TASK, None)
        if is_actor:
            self.references.born_here(handle_id(ACTOR))
        for _ in range(before if is_actor else 0):
            self.call_by_switch()
        self.flush_caller_node_line()
        while self.lines["caller>node"]:
            self.deliver("caller>node")
        self.to_worker(m.LaneExpected(LANE, SUBMITTER, self.sequence if is_actor else -1))
        self.lines["node>caller"].append(
            m.LaneOpen(LANE, b"w" * 16, ACTOR if is_actor else b"", -1 if is_actor else 0, window)
        )
        while any(isinstance(each, m.LaneExpected) for each in self.lines["node>worker"]):
            self.deliver("node>worker")  # LaneListening comes before LaneOpen leaves

    # ------------------------------------------------------------------ the caller

    @property
    def lane(self) -> CallerLane | None:
        return self.book.lanes.get(LANE)

    def call(self, dependencies: list[bytes] | None = None) -> bytes:
        """A call, by the lane if it may ride; its object."""
        if self.has_dropped_handle:
            return b""
        book = self.book
        dependencies = dependencies or None
        lane = book.actor_lane(ACTOR) if self.is_actor else book.task_lane(self.task_class)
        values = None
        if lane is not None and dependencies:
            found = book.values_for(dependencies, None if self.is_actor else self.task_class)
            if found is None:
                lane = None
            else:
                lane, values = found[0] or lane, found[1]
        if lane is None:
            return self.call_by_switch(dependencies)
        task_id, sequence = self._new_call()
        book.send(lane, task_id, 0, b"", sequence, 0, dependencies, values)
        return task_id + FIRST_RETURN

    @property
    def task_class(self) -> Any:
        return self.book.task_classes[0]

    def _new_call(self) -> tuple[bytes, int]:
        task_id = self.ids.next_task()
        sequence = -1
        if self.is_actor:
            sequence, self.sequence = self.sequence, self.sequence + 1
        self.calls[task_id] = sequence
        self.references.born_here(task_id + FIRST_RETURN)
        self.refs.append(task_id + FIRST_RETURN)
        return task_id, sequence

    def call_by_switch(self, dependencies: list[bytes] | None = None) -> bytes:
        if self.has_dropped_handle:
            return b""
        for object_id in dependencies or ():
            self.book.escape(object_id)
        self.book.take(self.caller_outbox)
        task_id, sequence = self._new_call()
        if self.is_actor:
            message: Any = m.CallActor(task_id, ACTOR, sequence, 0, b"", dependencies)
        else:
            message = m.Submit(task_id, 0, b"", dependencies)
        self.caller_outbox.append(message)
        return task_id + FIRST_RETURN

    def escape(self, object_id: bytes) -> None:
        self.book.escape(object_id)
        self.book.take(self.caller_outbox)
        self.caller_outbox.append(("carries", object_id))

    def drop(self, object_id: bytes) -> None:
        self.refs.remove(object_id)
        self.references.journal.append(object_id)

    def drop_handle(self) -> None:
        self.has_dropped_handle = True
        self.references.journal.append(handle_id(ACTOR))

    def flush_caller_node_line(self) -> None:
        self.book.take(self.caller_outbox)
        new, gone = self.references.drain()
        new, gone = self.book.back(new), self.book.gone(gone)
        outbox = [m.Hold(new)] if new else []
        outbox += self.caller_outbox
        self.caller_outbox = []
        if gone:
            outbox.append(m.Release(gone))
        if any(
            isinstance(each, m.Release) and handle_id(ACTOR) in each.object_ids for each in outbox
        ):
            assert self.lane is None or not self.lane.unanswered, "the actor may end too early"
        for object_id in list(self.values.here):
            if object_id not in self.references.counts:
                del self.values.here[object_id]
        self.lines["caller>node"].extend(outbox)
        if self.lane is not None:
            self.lane.owes_node = False

    def flush_caller_lane(self) -> None:
        lane = self.lane
        if lane is not None:
            due = [each.object_id[:16] for each in self.caller_outbox if isinstance(each, m.Fulfil)]
            for message in lane.out:
                if isinstance(message, m.Call):
                    assert not set(self.read_order[: message.seen]) & set(due), "C5"
            if not self.worker_dead:
                self.lines["lane>"].extend(lane.out)
            lane.out = []

    def flush_caller(self) -> None:
        self.flush_caller_node_line()
        self.flush_caller_lane()

    def _caller_reads_lane(self, message: Any) -> None:
        lane = self.lane
        if lane is None:
            assert message == EOF
        elif message == EOF:
            self.book.on_eof(lane)
        elif isinstance(message, m.LaneEnds):
            self.book.on_end(lane, message.taken)
        else:
            self.read_order.append(message.task_id)
            for ready in values_of([message]):
                if ready.object_id in self.references.counts:
                    self.values.here[ready.object_id] = ready.data
            self.book.on_outcomes(lane, [message])
        self.book.take(self.caller_outbox)

    def _caller_reads_node(self, message: Any) -> None:
        if isinstance(message, m.LaneOpen):
            if self.worker_dead or self.refused_hello:
                self.book.not_connected(message)
            else:
                self.book.opened(message)
        else:
            self.book.ready_from_node(message.object_id)
            if message.object_id in self.references.counts:
                self.values.here[message.object_id] = message.data
        self.book.take(self.caller_outbox)

    def kill_caller(self) -> None:
        self.caller_dead = True
        self.lines["lane<"].clear()
        self.lines["node>caller"].clear()
        self.lines["lane>"].append(EOF)
        self.lines["caller>node"].append(EOF)

    # ------------------------------------------------------------------ the worker

    def begin(self) -> None:
        """Run the next; a plain process runs one at a time."""
        if self.running:
            return
        work = self.server.next()
        self._worker_told()
        if work is None:
            return
        task_id = work.run.task_id
        self.running.append(work)
        if task_id in self.calls:
            self.begun[task_id] += 1
            self.begun_order.append(self.calls[task_id])
            if work.lane is not None:
                self.lane_begun.append(task_id)
                for value in work.run.values or ():
                    assert value.data

    def finish(self, data: bytes, *, contains: bool = False) -> None:
        if not self.running:
            return
        work = self.running.pop()
        if work.lane is None:
            self.worker_outbox.append(m.Done(work.run.task_id, 0, 1.0, 2.0, data))
            return
        results = [m.Result(m.Value(data), [b"x" * 20])] if contains else None
        self.server.outcome(work, m.Done(work.run.task_id, 0, 1.0, 2.0, data, results))
        self._worker_told()

    def _worker_told(self) -> None:
        self.server.take(self.worker_outbox)

    def flush_worker_node_line(self) -> None:
        self._worker_told()
        self.lines["worker>node"].extend(self.worker_outbox)
        self.worker_outbox = []
        if self.callee is not None:
            self.callee.owes_node = False

    def flush_worker_lane(self) -> None:
        lane = self.callee
        if lane is None or lane.eof or lane.owes_node or self.callee_closed:
            return
        for message in lane.out:
            if isinstance(message, m.LaneEnds):
                self.ends_sent_at = message.taken
        if not self.caller_dead:
            self.lines["lane<"].extend(lane.out)
        lane.out = []
        if lane.number not in self.server.lanes:
            self.callee_closed = True
            if not self.caller_dead:
                self.lines["lane<"].append(EOF)

    def flush_worker(self) -> None:
        self.flush_worker_node_line()
        self.flush_worker_lane()

    def _worker_reads_lane(self, message: Any) -> None:
        server = self.server
        if isinstance(message, m.LaneHello):
            self.callee = server.on_hello(message)
            if self.callee is None:
                self.refused_hello = True
                if not self.caller_dead:
                    self.lines["lane<"].extend([m.LaneEnds(0), EOF])
        elif self.callee is not None:
            if message == EOF:
                self.received_at_eof = list(self.callee.unanswered)
                server.on_eof(self.callee)
            elif isinstance(message, m.RegisterTemplate):
                server.on_template(self.callee, message)
            elif isinstance(message, m.Call):
                server.on_calls(self.callee, [message])
        self._worker_told()

    def _worker_reads_node(self, message: Any) -> None:
        server = self.server
        if isinstance(message, m.LaneExpected):
            server.on_expected(message)
        elif isinstance(message, m.Run):
            server.on_run(message, METHOD)
        elif isinstance(message, m.CallSkipped):
            server.on_skipped(message)
        elif isinstance(message, m.Publish):
            server.on_publish(message)
        else:
            while self.lines["lane>"]:  # all that is at hand is read first
                self.deliver("lane>")
            server.on_revoke(message.lane)
        self._worker_told()

    def kill_worker(self) -> None:
        self.worker_dead = True
        self.running.clear()
        self.lines["lane>"].clear()
        self.lines["node>worker"].clear()
        self.lines["worker>node"].append(EOF)
        if not self.caller_dead and not self.callee_closed and not self.refused_hello:
            self.lines["lane<"].append(EOF)

    # ------------------------------------------------------------------ the node

    def revoke(self) -> None:
        """Somebody else needs what the lane holds."""
        self.was_revoked = True
        self.to_worker(m.LaneRevoke(LANE))

    def to_worker(self, message: Any) -> None:
        if not self.worker_dead:
            self.lines["node>worker"].append(message)

    def to_caller(self, message: Any) -> None:
        if not self.caller_dead:
            self.lines["node>caller"].append(message)

    def _store(self, object_id: bytes, data: bytes) -> None:
        if self.objects.get(object_id) is None:
            self.objects[object_id] = data
            self.promised.discard(object_id)
            if object_id in self.held:
                self.to_caller(m.Ready(object_id, data))

    def _node_reads_caller(self, message: Any) -> None:
        if message == EOF:
            self.caller_gone = True
            if self.is_actor:
                self.to_worker(m.CallSkipped(SUBMITTER, -1))
            if self.lane_state == "open":
                self.to_worker(m.LaneRevoke(LANE))
            self._ends_of_promised()
            return
        if isinstance(message, tuple):
            assert message[1] in self.objects, "a ref came that the node does not know"
        elif isinstance(message, m.Promote):
            self.held.add(message.object_id)
            if message.object_id not in self.objects:
                self.objects[message.object_id] = message.data or None
                if not message.data:
                    self.promised.add(message.object_id)
                    if self.lane_state == "open":
                        self.published.add(message.object_id)
                        self.to_worker(m.Publish(LANE, [message.object_id[:16]]))
        elif isinstance(message, m.Fulfil):
            self._store(message.object_id, message.data)
        elif isinstance(message, m.Release):
            for object_id in message.object_ids:
                if object_id == handle_id(ACTOR):
                    self.handle_released = True
                else:
                    assert object_id in self.objects, "a release of what the node does not know"
                    assert object_id in self.held, "released twice"
                    self.held.discard(object_id)
        elif isinstance(message, m.LaneClosed):
            assert not self.awaiting
            assert not any(word != m.HANDED_BACK for word in self.words), "two last words"
            self.words.append(message.how)
            self.how, self.awaiting = message.how, message.count
            if message.how == m.OVER and self.lane_state == "open":
                self.to_worker(m.LaneRevoke(LANE))
        elif isinstance(message, m.Submit | m.CallActor):
            self._node_gets_call(message)
        elif isinstance(message, m.Hold):
            assert all(each in self.objects for each in message.object_ids)

    def _node_gets_call(self, call: m.Submit | m.CallActor) -> None:
        object_id = call.task_id + FIRST_RETURN
        for dependency in call.dependencies or ():
            assert dependency in self.objects, "a dependency that the node does not know"
        assert call.task_id not in self.switched, "handed over twice"
        self.switched[call.task_id] = None if not call.lane else self.how
        if call.lane:
            if self.awaiting:
                self.awaiting -= 1
            else:
                self.switched[call.task_id] = m.REFUSED + 10
        self.held.add(object_id)
        if self.objects.setdefault(object_id, None) is not None:
            return
        if isinstance(call, m.CallActor) and not self.worker_gone:
            self.node_runs[call.task_id] = None
            self.to_worker(m.Run(call.task_id, 0, 0, b"", sequence=call.sequence, caller=SUBMITTER))
        else:
            self._store(object_id, FORMAT_PICKLE + b"by the switch")

    def _node_reads_worker(self, message: Any) -> None:
        if message == EOF:
            self.worker_gone = True
            self.lane_state = "over" if self.lane_state == "over" else "lost"
            for task_id in self.node_runs:
                self._store(task_id + FIRST_RETURN, FORMAT_PICKLE + b"died")
            self.node_runs.clear()
            self._ends_of_promised()
        elif isinstance(message, m.LaneResult):
            object_id = message.task_id + FIRST_RETURN
            if object_id not in self.objects and not self.caller_gone:
                self.held.add(object_id)
            if object_id in self.objects or not self.caller_gone:
                self._store(object_id, message.result.value.data)
        elif isinstance(message, m.Done):
            del self.node_runs[message.task_id]
            self._store(message.task_id + FIRST_RETURN, message.data)
        elif isinstance(message, m.LaneOver):
            self.overs += 1
            self.lane_state = "over"
            self._ends_of_promised()
        elif isinstance(message, m.LaneNotes):
            self.rows += [row.task_id for row in message.rows]

    def _ends_of_promised(self) -> None:
        if self.caller_gone and self.lane_state != "open":
            self.failed |= self.promised
            for object_id in list(self.promised):
                self._store(object_id, FORMAT_PICKLE + b"owner died")

    # ------------------------------------------------------------------ the lines

    def deliver(self, name: str) -> None:
        """One message of a line arrives."""
        line = self.lines[name]
        if not line:
            return
        message = line.popleft()
        {
            "lane>": self._worker_reads_lane,
            "lane<": self._caller_reads_lane,
            "caller>node": self._node_reads_caller,
            "node>caller": self._caller_reads_node,
            "worker>node": self._node_reads_worker,
            "node>worker": self._worker_reads_node,
        }[name](message)
        self.check()

    def settle(self) -> None:
        """Everything arrives and runs, until nothing is left to do."""
        self.server.unblock()
        while True:
            before = self.progress()
            if not self.caller_dead:
                self.flush_caller()
            if not self.worker_dead:
                self.begin()
                self.finish(FORMAT_PICKLE + b"late")
                self.flush_worker()
            for name in self.lines:
                while self.lines[name]:
                    self.deliver(name)
            if before == self.progress():
                return

    def progress(self) -> Any:
        return (
            {name: len(line) for name, line in self.lines.items()},
            len(self.begun_order), len(self.server.queue), len(self.running),
            len(self.caller_outbox), len(self.worker_outbox), len(self.book.to_node),
            len(self.references.journal), len(self.values.here), self.lane_state, len(self.words),
        )  # fmt: skip

    def check(self) -> None:
        if not self.caller_dead:
            self.book.check()
        if not self.worker_dead:
            self.server.check()
        assert all(count == 1 for count in self.begun.values()), "begun twice"
        if self.is_actor:
            assert self.begun_order == sorted(self.begun_order), "out of order"
        if self.ends_sent_at is not None and self.callee is not None and not self.callee.eof:
            assert len(self.lane_begun) <= self.ends_sent_at, "C1"
        assert self.overs <= 1
        for task_id, how in self.switched.items():
            if how in (m.HANDED_BACK, m.OVER, m.REFUSED + 10):
                assert task_id not in self.lane_begun, "handed back though it had begun"

    def check_end(self) -> None:
        """Everything has settled: nothing is lost, doubled or kept."""
        self.check()
        assert None not in self.objects.values(), "an object that never comes"
        if not self.caller_dead:
            self._check_caller_end()
        if not self.worker_dead:
            assert not self.server.queue
            assert not any(gate.early for gate in self.server.gates.values())
            assert not self.callee or not self.callee.unanswered
            assert not self.callee or not self.callee.publish
        if not self.worker_dead and self.lane_state == "over":
            assert sorted(self.rows) == sorted(self.lane_begun), "rows"
            assert not self.server.lanes
        for object_id in self.failed & self.published:
            # A lane that was revoked or had ended before its caller died: its results are not asked
            # for any more.
            if not self.was_revoked and self.ends_sent_at is None and not self.worker_dead:
                assert object_id[:16] not in self.lane_begun, "a promised result is lost"

    def _check_caller_end(self) -> None:
        counts = self.references.counts
        for object_id in self.refs:
            assert object_id in self.values.here, "a ref without its value"
        assert set(counts) - {handle_id(ACTOR)} == set(self.refs), "kept"
        assert self.book.local.keys() <= counts.keys()
        assert all(lane is None for lane in self.book.local.values())
        assert not self.book.promised and not self.book.due
        assert self.held == {each for each in counts if each in self.objects}
        if self.lane is not None:
            assert not self.lane.unanswered
        for task_id in self.calls:
            ways = (task_id in self.lane_begun) + (task_id in self.switched)
            died = self.switched.get(task_id) == m.LOST
            assert ways == 1 or (ways == 2 and died), "answered once"
        if self.is_actor and handle_id(ACTOR) not in counts:
            assert self.handle_released
        if self.lane_state != "open":
            assert [word for word in self.words if word != m.HANDED_BACK] != [], "no last word"
