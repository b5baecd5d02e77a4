"""Parts of the node, each built alone: what a part needs is what its constructor names."""

from __future__ import annotations

import typing
from collections import deque
from typing import Any

import pytest

from skate import messages as m
from skate.config import AVOID_S, ENDED_JOBS_KEPT, SILENT_NODE_S
from skate.ids import handle_id
from skate.net.event_batch import EventBatch, ObjectEvent, decode_events
from skate.node.actor_resources import ActorResources
from skate.node.asking import Asking
from skate.node.clock import Clock
from skate.node.code import Code
from skate.node.event_notes import EventNotes
from skate.node.hears import (
    ANSWERER,
    CLIENTS,
    DRIVER,
    GCS,
    NODE,
    OBSERVER,
    OVER,
    STRANGER,
    WORKER,
    collect,
    hears,
)
from skate.node.holds import Holds
from skate.node.identity import Identity
from skate.node.jobs import Jobs
from skate.node.node_table import NodeTable
from skate.node.outbox import Outbox
from skate.node.values import Values
from skate.objects.arena import Arena
from skate.objects.object_store import ObjectStore, StoredObject
from skate.rows import Actor, Client, Job, OtherNode, Task, Worker
from skate.scheduler.local_scheduler import LocalScheduler
from skate.spec import ActorOptions, CallTemplate, JobConfig, demand_of
from tests.node.played_node import Node

ME = b"m" * 16
PAGE = 4096
ONE_CPU = demand_of({"CPU": 1.0})


def nothing(*_: object) -> None: ...


class Bench:
    """The tables that parts share, and a few neighbours that only take notes."""

    def __init__(self, cpus: int = 2) -> None:
        self.clock = Clock()
        self.clock.now = 1_000.0
        self.outbox = Outbox()
        self.me = Identity(ME, "s", "", "3.11", is_cluster=True)
        self.store = ObjectStore(Arena(100 * PAGE))
        total = {"CPU": cpus * 10_000}
        self.scheduler = LocalScheduler(total, nothing, nothing, nothing)
        self.nodes = NodeTable(clock=self.clock)
        self.clients: dict[Client, None] = {}
        self.pulled: list[bytes] = []
        self.asked_home: list[bytes] = []
        self.ready: list[tuple[Task, bytes]] = []
        self.doomed: deque[tuple[Task, bytes]] = deque()
        self.ids = iter(range(1, 1_000))
        self.jobs = Jobs(
            clock=self.clock,
            outbox=self.outbox,
            me=self.me,
            shell=self,  # type: ignore[arg-type]  # of the shell it only wants new ids
            scheduler=self.scheduler,
            nodes=self.nodes,
            clients=self.clients,
        )
        self.notes = EventNotes(
            clock=self.clock,
            outbox=self.outbox,
            me=self.me,
            store=self.store,
            nodes=self.nodes,
            task_report=self,
        )
        self.values = Values(
            outbox=self.outbox,
            me=self.me,
            store=self.store,
            notes=self.notes,
            pulls=self,
            finding=self,
            running=self,
        )

    # What the neighbours are asked.

    def new_id(self) -> bytes:
        return next(self.ids).to_bytes(16, "big")

    def flush(self) -> None: ...

    def want(self, stored: StoredObject) -> None:
        self.pulled.append(stored.id)

    def ask_home(self, stored: StoredObject) -> None:
        self.asked_home.append(stored.id)

    def input_ready(self, task: Task, stored: StoredObject) -> None:
        self.ready.append((task, stored.id))

    def doom(self, task: Task, payload: bytes) -> None:
        self.doomed.append((task, payload))

    # Scenes.

    def client(self, role: str = DRIVER) -> Client:
        client = Client()
        client.role = role
        self.clients[client] = None
        return client

    def job(self, number: int = 1, driver: Client | None = None) -> Job:
        job = Job(bytes([0, 0, 0, number]), JobConfig(), driver, ME, 7)
        self.jobs.by_id[job.id] = job
        return job

    def task(self, job: Job, owner: Client, number: int = 1, **spec: Any) -> Task:
        kind = spec.pop("kind", "task")
        template = self.jobs.template_of(job, CallTemplate(kind, b"f" * 16, "f", ONE_CPU, **spec))
        return Task(job.id + number.to_bytes(12, "big"), template, b"", None, None, owner, 0, 0.0)

    def node(self, letter: bytes) -> OtherNode:
        node_id = letter * 16
        self.nodes.add(m.NodeInfo(node_id, f"{letter.decode()}:1", {}, {}))
        return self.nodes.by_id[node_id]


def said(client: Client) -> list[Any]:
    out, client.outbox = client.outbox, []
    return out


def test_values_reach_their_owner_a_reader_and_a_waiting_task() -> None:
    bench = Bench()
    owner, reader = bench.client(), bench.client(WORKER)
    task = bench.task(bench.job(), owner)
    object_id = b"o" * 20
    stored = bench.store.promise(object_id, owner)
    owner.held.add(object_id)
    bench.store.hold(object_id)
    reader.held.add(object_id)
    bench.values.on_want(reader, m.Want([object_id]))
    bench.values.wait(task, stored)
    assert not owner.outbox and not reader.outbox
    assert bench.values.store_result(object_id, m.Value(b"\x03v"), None)
    for client in (owner, reader):
        assert [(x.object_id, x.data) for x in said(client)] == [(object_id, b"\x03v")]
    assert bench.ready == [(task, object_id)]
    assert bench.outbox.clients == [owner, reader], "each has to be written, once"
    # The value of an older attempt comes late: nobody is told twice.
    assert not bench.values.store_result(object_id, m.Value(b"\x03w"), None)
    assert not owner.outbox and stored.data == b"\x03v"


def test_a_client_that_does_not_read_is_told_when_it_does_and_only_of_what_it_still_holds() -> None:
    bench = Bench()
    owner = bench.client()
    owner.paused = True
    ids = [bytes([i]) * 20 for i in (1, 2)]
    for object_id in ids:
        bench.store.promise(object_id, owner)
        owner.held.add(object_id)
        bench.values.store_result(object_id, m.Value(b"\x03v"), None)
    assert not owner.outbox
    bench.store.release(ids[0])
    bench.values.resume(owner)
    assert [x.object_id for x in said(owner)] == [ids[1]]


def test_what_lies_elsewhere_is_pulled_and_what_is_unknown_is_asked_for() -> None:
    bench = Bench()
    bench.store.home = ME[:4]
    bench.store.homes = {b"hhhh": None}
    owner = bench.client()
    task = bench.task(bench.job(), owner)
    foreign = b"\0\0\0\1hhhh" + bytes(12)
    bench.store.hold(foreign)
    unknown = bench.store.objects[foreign]
    bench.values.wait(task, unknown)
    assert bench.asked_home == [foreign] and not bench.pulled
    bench.store.set_remote(unknown, 10 * PAGE, [b"n" * 16], None)
    bench.values.wait(task, unknown)
    assert bench.pulled == [foreign]
    bench.values.tell_trouble(unknown, b"\x00error")
    assert [entry[0] for entry in bench.doomed] == [task, task]


def test_holds_of_a_node_whose_line_broke_are_kept_until_it_says_what_it_holds() -> None:
    bench = Bench()
    other = bench.node(b"n")
    holds = Holds(
        outbox=bench.outbox,
        store=bench.store,
        nodes=bench.nodes,
        clients=bench.clients,
        puts=type("Puts", (), {"memory_lost": nothing})(),
        workers=type("Workers", (), {"is_reaped": nothing})(),
    )
    bench.store.holders = holds.holders
    driver = bench.client()
    line = bench.client(NODE)
    line.node_id = other.node_id
    ids = [bytes([i]) * 20 for i in (1, 2)]
    for object_id in ids:
        bench.values.store_result(object_id, m.Value(b""), None)
        bench.store.fulfil_inline(bench.store.promise(object_id, driver), b"\x03v", None)
        driver.held.add(object_id)
    holds.on_hold(line, m.Hold(ids))
    assert [type(x) for x in said(line)] == [m.Registered]
    holds.on_release(driver, m.Release(ids))
    assert set(bench.store.objects) == set(ids)
    holds.holder_lost(line)
    assert set(bench.store.objects) == set(ids), "the node lives: it will make another line"
    again = bench.client(NODE)
    again.node_id = other.node_id
    holds.on_hold(again, m.Hold([ids[1]]))
    assert set(bench.store.objects) == {ids[1]}
    holds.holder_lost(again)
    holds.node_died(other.node_id)
    assert not bench.store.objects


def test_an_actor_lends_its_cpu_while_its_method_waits_and_gives_back_what_is_left() -> None:
    bench = Bench(cpus=2)
    resources = ActorResources(scheduler=bench.scheduler)
    owner = bench.client()
    creation = bench.task(bench.job(), owner, kind="actor", running_demand=ONE_CPU)
    actor = Actor(creation, ActorOptions(), owner)
    worker = Worker(b"w" * 16, creation.template.queue.pool, 0.0)
    worker.actor, actor.worker = actor, worker
    bench.scheduler.workers[worker.id] = worker
    actor.gpus = bench.scheduler.take(ONE_CPU)
    actor.placed = True
    free = [bench.scheduler.available["CPU"]]
    for step in (resources.blocked, resources.blocked, resources.unblocked, resources.unblocked):
        step(actor)
        free.append(bench.scheduler.available["CPU"])
        bench.scheduler.check(resources.held())
    assert free == [10_000, 20_000, 20_000, 10_000, 10_000], "lent once, taken back once"
    resources.blocked(actor)
    resources.give_back(actor)
    assert bench.scheduler.available == bench.scheduler.total
    resources.give_back(actor)
    assert bench.scheduler.available == bench.scheduler.total


def test_jobs_share_a_function_and_the_last_one_takes_it_along() -> None:
    bench = Bench()
    code = Code(
        outbox=bench.outbox,
        me=bench.me,
        scheduler=bench.scheduler,
        nodes=bench.nodes,
        jobs=bench.jobs,
        notes=bench.notes,
    )
    drivers = []
    for number in (1, 2):
        driver = bench.client()
        driver.job = bench.job(number, driver)
        code.on_register_function(driver, m.RegisterFunction(b"f" * 16, b"code", "f"))
        spec = CallTemplate("task", b"f" * 16, "f", ONE_CPU)
        code.on_register_template(driver, m.RegisterTemplate(0, spec))
        drivers.append(driver)
    stored = [x for x in bench.outbox.gcs if isinstance(x, m.FunctionStored)]
    assert len(stored) == 1, "the GCS is sent its code once"
    first, second = (driver.job for driver in drivers)
    assert first is not None and second is not None
    bench.jobs.forget(first)
    assert bench.jobs.functions and len(bench.jobs.templates) == 1
    bench.jobs.forget(second)
    assert not bench.jobs.functions and not bench.jobs.templates
    for number in range(ENDED_JOBS_KEPT + 10):
        bench.jobs.note_end(number.to_bytes(4, "big"))
    assert len(bench.jobs.ended) == ENDED_JOBS_KEPT


def test_what_no_node_can_hold_is_said_to_the_driver_once() -> None:
    bench = Bench(cpus=2)
    code = Code(
        outbox=bench.outbox,
        me=bench.me,
        scheduler=bench.scheduler,
        nodes=bench.nodes,
        jobs=bench.jobs,
        notes=bench.notes,
    )
    driver = bench.client()
    driver.job = bench.job(1, driver)
    code.on_register_function(driver, m.RegisterFunction(b"f" * 16, b"code", "f"))
    greedy = CallTemplate("task", b"f" * 16, "greedy", demand_of({"CPU": 9.0}))
    code.on_register_template(driver, m.RegisterTemplate(0, greedy))
    [notice] = said(driver)
    assert "greedy cannot be scheduled" in notice.text and "9 CPU asked but 2 in all" in notice.text
    template = driver.templates[0]
    for _ in range(2):
        code.warn_of_rules(template, "infeasible: no node has the label")
    assert len(said(driver)) == 1


def test_an_answer_of_the_gcs_goes_to_who_asked_and_first_to_the_part_that_listens() -> None:
    outbox = Outbox()
    asking = Asking(outbox=outbox)
    client, heard, own = Client(), [], []
    asking.pass_on(client, m.Ask(41, "kv_get", {}), heard.append)
    asking.ask("locate", {}, own.append)
    asking.pass_on(client, m.Ask(42, "kv_get", {}))
    one, two, three = (x.number for x in outbox.gcs)
    asking.on_answer(m.Answer(two, "mine"))
    asking.on_answer(m.Answer(three, "b"))
    asking.on_answer(m.Answer(one, "a"))
    assert own == ["mine"] and [x.body for x in heard] == ["a"]
    assert [(x.number, x.body) for x in client.outbox] == [(42, "b"), (41, "a")]
    assert not asking.asked


def test_a_node_that_was_cut_off_is_avoided_for_a_while_and_out_of_reach_after_a_minute() -> None:
    bench = Bench()
    other = bench.node(b"n")
    assert bench.nodes.home_of(handle_id(b"\0\0\0\1nnnn" + bytes(8))) is other
    other.cut_at = other.silent_since = bench.clock.now
    bench.clock.now += 0.1
    assert bench.nodes.unreachable() == [other.node_id]
    bench.clock.now += max(AVOID_S, SILENT_NODE_S)
    assert bench.nodes.unreachable() == [] and bench.nodes.is_out_of_reach(other)
    bench.nodes.remove(other)
    assert not bench.nodes.alive and other.node_id in bench.nodes.dead
    bench.outbox.send_node(other, m.Release([]))
    assert not other.outbox, "nothing is said to the dead"


def test_every_message_that_may_come_is_heard() -> None:
    """One that is not would end its sender's connection the first time that it is said."""
    tables = Node().core.handlers
    from_clients = {kind for role in (STRANGER, *CLIENTS, OBSERVER, NODE) for kind in tables[role]}
    lanes = {kind for kind in typing.get_args(m.ToNode) if kind.__module__.endswith("lane_wire")}
    # What is of connections, and of the life of the head, the daemon's shell hears itself.
    assert set(typing.get_args(m.ToNode)) - {m.Seen, m.PutChunk} - lanes == from_clients - lanes
    assert set(typing.get_args(m.FromGcs)) - {m.Refused, m.HeadAlive} == set(tables[GCS])
    answers = {m.Registered, m.Ready, m.Located, m.Returned, m.GivenBack, m.ActorNews, m.Part}
    assert set(tables[ANSWERER]) == answers
    assert answers <= set(typing.get_args(m.ToClient))


def test_two_handlers_of_one_message_are_found_when_the_parts_are_wired() -> None:
    class One:
        @hears(m.Put, *CLIENTS)
        def on_put(self, client: Client, message: m.Put) -> None: ...

    class Two:
        @hears(m.Put, WORKER)
        def on_put_too(self, client: Client, message: m.Put) -> None: ...

    assert set(collect([One()])[DRIVER]) == {m.Put}
    with pytest.raises(AssertionError, match="two handlers of Put"):
        collect([One(), Two()])


def test_whatever_a_process_says_whose_job_is_over_is_dropped() -> None:
    table = collect([])[OVER]
    for message in (m.Release([]), m.Done(b"t" * 16, 0, 0.0, 0.0), m.Leaving("")):
        table[type(message)](Client(), message)  # as the daemon's link does
        table.get(type(message))(Client(), message)  # type: ignore[misc]  # as NodeCore does


def test_the_event_batch_is_the_format_that_both_sides_know() -> None:
    bench = Bench()
    bench.notes.object(b"o" * 20, "PUT", 3, 7)
    bench.notes.flush()
    [events] = [x for x in bench.outbox.gcs if isinstance(x, m.Events)]
    assert isinstance(events, m.Events) and isinstance(bench.notes.batch, EventBatch)


@pytest.mark.parametrize(("others", "most"), [(0, 50_000), (3, 50_000), (19, 10_000), (999, 2_000)])
def test_a_node_sends_twice_its_share_of_what_the_gcs_keeps_and_no_more(
    others: int, most: int
) -> None:
    bench = Bench()
    for number in range(others):
        node_id = (number + 1).to_bytes(4, "big") * 4
        bench.nodes.add(m.NodeInfo(node_id, f"h:{number}", {}, {}))
    for _ in range(49_999):
        bench.notes.object(b"o" * 20, "PUT", 3, 7)
    bench.notes.object(b"last".ljust(20), "PUT", 3, 7)
    bench.notes.flush()
    [events] = [x for x in bench.outbox.gcs if isinstance(x, m.Events)]
    assert (events.count, events.count + events.dropped) == (most, 50_000)
    last = decode_events(events.batch)[-1]
    assert isinstance(last, ObjectEvent) and last.object_id == b"last".ljust(20)
