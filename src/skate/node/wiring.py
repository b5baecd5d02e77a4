"""The parts of a node's core, and what each is given. Pure.

The only module that knows all parts. They refer to each other both ways (a task that fails may end
an actor, whose end fails tasks), so all are allocated before the first is constructed; a
constructor keeps what it is given and does not use it yet.
"""

from __future__ import annotations

from typing import TypeVar

from skate.node.actor_births import ActorBirths
from skate.node.actor_calls import ActorCalls
from skate.node.actor_guests import ActorGuests
from skate.node.actor_home import ActorHome
from skate.node.actor_life import ActorLife
from skate.node.actor_names import ActorNames
from skate.node.actor_proxies import ActorProxies
from skate.node.actor_reports import ActorReports
from skate.node.actor_resources import ActorResources
from skate.node.actor_router import ActorRouter
from skate.node.asking import Asking
from skate.node.borrowing import Borrowing
from skate.node.clock import Clock
from skate.node.code import Code
from skate.node.endings import Endings
from skate.node.event_notes import EventNotes
from skate.node.finding import Finding
from skate.node.forwarding import Forwarding
from skate.node.full_store import FullStore
from skate.node.groups import Groups
from skate.node.guests import Guests
from skate.node.hello import Doorkeeper
from skate.node.holds import Holds
from skate.node.identity import Identity
from skate.node.introductions import Introductions
from skate.node.jobs import Jobs
from skate.node.lane_values import LaneValues
from skate.node.lanes import Lanes
from skate.node.load import Load
from skate.node.node_table import NodeTable
from skate.node.other_nodes import OtherNodes
from skate.node.outbox import Outbox
from skate.node.placing import Placing
from skate.node.pulls import Pulls
from skate.node.puts import Puts
from skate.node.questions import Questions
from skate.node.rebalancing import Rebalancing
from skate.node.running import Running
from skate.node.tables import Tables
from skate.node.task_report import TaskReport
from skate.node.values import Values
from skate.node.workers import Workers
from skate.node.world import Shell
from skate.objects.arena import Arena
from skate.objects.object_store import ObjectStore
from skate.scheduler.leases import Leases
from skate.scheduler.local_scheduler import LocalScheduler

Part = TypeVar("Part")


def _blank(kind: type[Part]) -> Part:
    return kind.__new__(kind)


class Parts:
    """All parts, by name."""

    def __init__(self, me: Identity, shell: Shell, resources: dict[str, int], arena: Arena) -> None:
        self.jobs = _blank(Jobs)
        self.notes = _blank(EventNotes)
        self.task_report = _blank(TaskReport)
        self.introductions = _blank(Introductions)
        self.hello = _blank(Doorkeeper)
        self.code = _blank(Code)
        self.asking = _blank(Asking)
        self.questions = _blank(Questions)
        self.load = _blank(Load)
        self.values = _blank(Values)
        self.pulls = _blank(Pulls)
        self.finding = _blank(Finding)
        self.puts = _blank(Puts)
        self.borrowing = _blank(Borrowing)
        self.holds = _blank(Holds)
        self.full_store = _blank(FullStore)
        self.running = _blank(Running)
        self.workers = _blank(Workers)
        self.guests = _blank(Guests)
        self.placing = _blank(Placing)
        self.forwarding = _blank(Forwarding)
        self.rebalancing = _blank(Rebalancing)
        self.groups = _blank(Groups)
        self.actor_names = _blank(ActorNames)
        self.actor_resources = _blank(ActorResources)
        self.actor_reports = _blank(ActorReports)
        self.actor_births = _blank(ActorBirths)
        self.actor_life = _blank(ActorLife)
        self.actor_calls = _blank(ActorCalls)
        self.actor_proxies = _blank(ActorProxies)
        self.actor_home = _blank(ActorHome)
        self.actor_guests = _blank(ActorGuests)
        self.lane_values = _blank(LaneValues)
        self.leases = _blank(Leases)
        self.lanes = _blank(Lanes)
        self.endings = _blank(Endings)
        self.other_nodes = _blank(OtherNodes)
        clock = Clock()
        nodes = NodeTable(clock=clock)
        store = ObjectStore(arena)
        store.homes = nodes.by_home
        store.holders = self.holds.holders
        scheduler = LocalScheduler(
            resources, self.running.send, self.workers.start, self.actor_births.place
        )
        router = ActorRouter(self.actor_calls.deliver, skip=self.actor_calls.skip)
        self.tables = Tables(clock, Outbox(), me, shell, store, scheduler, nodes, router, {}, {})
        self._wire_jobs(self.tables)
        self._wire_questions(self.tables)
        self._wire_values(self.tables)
        self._wire_objects(self.tables)
        self._wire_tasks(self.tables)
        self._wire_places(self.tables)
        self._wire_actors(self.tables)
        self._wire_actor_lives(self.tables)
        self._wire_remote_actors(self.tables)
        self._wire_lanes(self.tables)
        self._wire_ends(self.tables)

    def all(self) -> list[object]:
        """Every part."""
        return [part for name, part in vars(self).items() if name != "tables"]

    def _wire_jobs(self, t: Tables) -> None:
        # Jobs, and reports of them.
        Jobs.__init__(
            self.jobs, clock=t.clock, outbox=t.outbox, me=t.me, shell=t.shell,
            scheduler=t.scheduler, nodes=t.nodes, clients=t.clients,
        )  # fmt: skip
        EventNotes.__init__(
            self.notes, clock=t.clock, outbox=t.outbox, me=t.me, store=t.store,
            nodes=t.nodes, task_report=self.task_report,
        )  # fmt: skip
        TaskReport.__init__(
            self.task_report, clock=t.clock, outbox=t.outbox, me=t.me, store=t.store,
            scheduler=t.scheduler, router=t.router, lanes=t.lanes,
        )  # fmt: skip
        Introductions.__init__(
            self.introductions, outbox=t.outbox, nodes=t.nodes, router=t.router, jobs=self.jobs
        )

    def _wire_questions(self, t: Tables) -> None:
        # Hellos and questions of clients, and questions of the GCS.
        Doorkeeper.__init__(
            self.hello, clock=t.clock, outbox=t.outbox, me=t.me, shell=t.shell, store=t.store,
            scheduler=t.scheduler, jobs=self.jobs, workers=self.workers,
            actor_births=self.actor_births,
        )  # fmt: skip
        Code.__init__(
            self.code, outbox=t.outbox, me=t.me, scheduler=t.scheduler, nodes=t.nodes,
            jobs=self.jobs, notes=self.notes,
        )  # fmt: skip
        Asking.__init__(self.asking, outbox=t.outbox)
        Questions.__init__(
            self.questions, outbox=t.outbox, me=t.me, shell=t.shell, store=t.store,
            scheduler=t.scheduler, nodes=t.nodes, notes=self.notes, asking=self.asking,
            actor_names=self.actor_names, actor_reports=self.actor_reports, lanes=t.lanes,
        )  # fmt: skip
        Load.__init__(
            self.load, store=t.store, scheduler=t.scheduler, pulls=self.pulls, guests=self.guests,
            questions=self.questions,
        )  # fmt: skip

    def _wire_values(self, t: Tables) -> None:
        # Values: their waiters, and their locations.
        Values.__init__(
            self.values, outbox=t.outbox, me=t.me, store=t.store, notes=self.notes,
            pulls=self.pulls, finding=self.finding, running=self.running,
        )  # fmt: skip
        Pulls.__init__(
            self.pulls, clock=t.clock, me=t.me, shell=t.shell, store=t.store, asking=self.asking,
            values=self.values, puts=self.puts, finding=self.finding,
        )  # fmt: skip
        Finding.__init__(
            self.finding, clock=t.clock, outbox=t.outbox, me=t.me, store=t.store, nodes=t.nodes,
            asking=self.asking, values=self.values, pulls=self.pulls, forwarding=self.forwarding,
        )  # fmt: skip

    def _wire_objects(self, t: Tables) -> None:
        # Objects: their places in the arena, and their holders.
        Puts.__init__(
            self.puts, clock=t.clock, outbox=t.outbox, me=t.me, store=t.store, clients=t.clients,
            notes=self.notes, pulls=self.pulls,
        )  # fmt: skip
        Borrowing.__init__(
            self.borrowing, outbox=t.outbox, store=t.store, nodes=t.nodes, finding=self.finding,
            forwarding=self.forwarding,
        )  # fmt: skip
        Holds.__init__(
            self.holds, outbox=t.outbox, store=t.store, nodes=t.nodes, clients=t.clients,
            puts=self.puts, workers=self.workers,
        )  # fmt: skip
        FullStore.__init__(
            self.full_store, clock=t.clock, store=t.store, scheduler=t.scheduler, jobs=self.jobs,
            pulls=self.pulls, puts=self.puts,
        )  # fmt: skip

    def _wire_tasks(self, t: Tables) -> None:
        # Tasks, and the processes that run them.
        Running.__init__(
            self.running, clock=t.clock, outbox=t.outbox, store=t.store, scheduler=t.scheduler,
            notes=self.notes, introductions=self.introductions, values=self.values,
            workers=self.workers, guests=self.guests, placing=self.placing,
            actor_resources=self.actor_resources, actor_calls=self.actor_calls, lanes=self.lanes,
        )  # fmt: skip
        Workers.__init__(
            self.workers, clock=t.clock, outbox=t.outbox, me=t.me, shell=t.shell, store=t.store,
            scheduler=t.scheduler, jobs=self.jobs, puts=self.puts, running=self.running,
            guests=self.guests, actor_life=self.actor_life, endings=self.endings,
            lanes=self.lanes,
        )  # fmt: skip
        Guests.__init__(
            self.guests, clock=t.clock, outbox=t.outbox, shell=t.shell, store=t.store,
            scheduler=t.scheduler, nodes=t.nodes, router=t.router, jobs=self.jobs,
            values=self.values, finding=self.finding, borrowing=self.borrowing,
            running=self.running, placing=self.placing, actor_calls=self.actor_calls,
            endings=self.endings,
        )  # fmt: skip

    def _wire_places(self, t: Tables) -> None:
        # Where tasks run.
        Placing.__init__(
            self.placing, clock=t.clock, outbox=t.outbox, me=t.me, store=t.store,
            scheduler=t.scheduler, nodes=t.nodes, values=self.values, running=self.running,
            guests=self.guests, forwarding=self.forwarding, rebalancing=self.rebalancing,
            code=self.code,
        )  # fmt: skip
        Forwarding.__init__(
            self.forwarding, outbox=t.outbox, me=t.me, store=t.store, nodes=t.nodes,
            introductions=self.introductions, values=self.values, finding=self.finding,
            borrowing=self.borrowing, running=self.running, guests=self.guests,
            placing=self.placing, actor_proxies=self.actor_proxies, actor_home=self.actor_home,
        )  # fmt: skip
        Rebalancing.__init__(
            self.rebalancing, clock=t.clock, outbox=t.outbox, scheduler=t.scheduler,
            nodes=t.nodes, load=self.load, guests=self.guests, placing=self.placing,
            forwarding=self.forwarding, actor_guests=self.actor_guests,
        )  # fmt: skip
        Groups.__init__(
            self.groups, clock=t.clock, outbox=t.outbox, shell=t.shell, scheduler=t.scheduler,
            router=t.router, jobs=self.jobs, running=self.running,
            actor_resources=self.actor_resources, actor_life=self.actor_life,
        )  # fmt: skip

    def _wire_actors(self, t: Tables) -> None:
        # Actors that live here, and their calls.
        ActorNames.__init__(self.actor_names, asking=self.asking, running=self.running)
        ActorResources.__init__(self.actor_resources, scheduler=t.scheduler)
        ActorReports.__init__(
            self.actor_reports, clock=t.clock, outbox=t.outbox, me=t.me, router=t.router,
            notes=self.notes, borrowing=self.borrowing,
        )  # fmt: skip
        ActorBirths.__init__(
            self.actor_births, clock=t.clock, outbox=t.outbox, me=t.me, shell=t.shell,
            store=t.store, scheduler=t.scheduler, router=t.router, jobs=self.jobs,
            notes=self.notes, introductions=self.introductions, values=self.values,
            running=self.running, workers=self.workers, placing=self.placing,
            actor_names=self.actor_names, actor_reports=self.actor_reports,
            actor_life=self.actor_life, actor_calls=self.actor_calls,
        )  # fmt: skip

    def _wire_actor_lives(self, t: Tables) -> None:
        ActorLife.__init__(
            self.actor_life, outbox=t.outbox, me=t.me, shell=t.shell, store=t.store,
            scheduler=t.scheduler, nodes=t.nodes, router=t.router, running=self.running,
            workers=self.workers, placing=self.placing, actor_names=self.actor_names,
            actor_resources=self.actor_resources, actor_reports=self.actor_reports,
            actor_calls=self.actor_calls, actor_proxies=self.actor_proxies, endings=self.endings,
        )  # fmt: skip
        ActorCalls.__init__(
            self.actor_calls, clock=t.clock, outbox=t.outbox, store=t.store, router=t.router,
            introductions=self.introductions, values=self.values, pulls=self.pulls,
            finding=self.finding, running=self.running, guests=self.guests,
            actor_names=self.actor_names, actor_life=self.actor_life,
            actor_births=self.actor_births, actor_proxies=self.actor_proxies, lanes=self.lanes,
        )  # fmt: skip

    def _wire_remote_actors(self, t: Tables) -> None:
        # Actors that live, or are called from, elsewhere.
        ActorProxies.__init__(
            self.actor_proxies, clock=t.clock, outbox=t.outbox, store=t.store, nodes=t.nodes,
            router=t.router, introductions=self.introductions, running=self.running,
            forwarding=self.forwarding, actor_names=self.actor_names, actor_life=self.actor_life,
            actor_calls=self.actor_calls,
        )  # fmt: skip
        ActorHome.__init__(
            self.actor_home, outbox=t.outbox, router=t.router, introductions=self.introductions,
            running=self.running, forwarding=self.forwarding, actor_reports=self.actor_reports,
            actor_life=self.actor_life, actor_proxies=self.actor_proxies,
        )  # fmt: skip
        ActorGuests.__init__(
            self.actor_guests, clock=t.clock, outbox=t.outbox, store=t.store,
            scheduler=t.scheduler, nodes=t.nodes, router=t.router, jobs=self.jobs,
            running=self.running, guests=self.guests, placing=self.placing,
            actor_names=self.actor_names, actor_life=self.actor_life,
            actor_calls=self.actor_calls, actor_proxies=self.actor_proxies,
        )  # fmt: skip

    def _wire_lanes(self, t: Tables) -> None:
        # Calls that pass the node by.
        Leases.__init__(
            self.leases, scheduler=t.scheduler, may_meet=self.lanes.may_meet,
            lend=self.lanes.lend, revoke=self.lanes.revoke,
        )  # fmt: skip
        LaneValues.__init__(
            self.lane_values, clock=t.clock, outbox=t.outbox, store=t.store,
            scheduler=t.scheduler, lanes=t.lanes, leases=self.leases, notes=self.notes,
            values=self.values,
        )  # fmt: skip
        Lanes.__init__(
            self.lanes, clock=t.clock, outbox=t.outbox, me=t.me, shell=t.shell, store=t.store,
            scheduler=t.scheduler, router=t.router, lanes=t.lanes, leases=self.leases,
            jobs=self.jobs, running=self.running, workers=self.workers,
            actor_calls=self.actor_calls, actor_reports=self.actor_reports,
            lane_values=self.lane_values,
        )  # fmt: skip

    def _wire_ends(self, t: Tables) -> None:
        # The ends of clients, jobs and nodes.
        Endings.__init__(
            self.endings, clock=t.clock, outbox=t.outbox, me=t.me, shell=t.shell, store=t.store,
            scheduler=t.scheduler, nodes=t.nodes, router=t.router, clients=t.clients,
            jobs=self.jobs, introductions=self.introductions, holds=self.holds,
            running=self.running, workers=self.workers, guests=self.guests, placing=self.placing,
            forwarding=self.forwarding, rebalancing=self.rebalancing,
            actor_names=self.actor_names, actor_life=self.actor_life,
            actor_proxies=self.actor_proxies, actor_guests=self.actor_guests, lanes=self.lanes,
        )  # fmt: skip
        OtherNodes.__init__(
            self.other_nodes, clock=t.clock, me=t.me, store=t.store, nodes=t.nodes,
            values=self.values, pulls=self.pulls, borrowing=self.borrowing, holds=self.holds,
            forwarding=self.forwarding, actor_proxies=self.actor_proxies, endings=self.endings,
        )  # fmt: skip
