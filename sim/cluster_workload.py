"""What programs do in a cluster, beside what they do on one node: spread and bind tasks and actors,
find actors by name, keep refs in actors of other nodes, and ask for more than one node has.

The first node is the head: it has some of everything that tasks may ask for, and never dies. So
whatever happens to the others, no run can lock itself up by its own making.
"""

from __future__ import annotations

from random import Random

import msgspec

from sim.cluster import Cluster
from sim.cluster_invariants import check_cluster_empty, check_cluster_idle
from sim.driver_process import DriverProcess
from sim.faults import ENDLESS_KINDS, KINDS, Faults
from sim.fiber import Fiber
from sim.invariants import check_empty, check_idle, check_programs
from sim.node import node_id_of
from sim.roles import Machine, Program
from sim.worker_process import WorkerProcess
from sim.workload import ACTOR, CPU, NAMESPACE, PAGE, PLAIN, WIDE, Settings, sample
from skate import messages as m
from skate.spec import CallTemplate, Strategy, demand_of

_encode = msgspec.msgpack.Encoder().encode
NAMES = ("ada", "bob", "eve")
UNIT = 10_000
BEGUN_S = 4.0  # by then all drivers have begun, and all faults
ENDLESS_S = 300.0  # so long may programs need to end while nodes cannot reach each other


class ClusterSettings(Settings):
    """One run's machines, programs and faults, drawn from a seed."""

    is_cluster = True
    fault_kinds: tuple[str, ...] = KINDS

    def __init__(self, random: Random, nodes: int) -> None:
        super().__init__(random)
        self.node_count = nodes
        self.machines = [self._head()]
        gpus = self.machines[0].get("GPU", 0)
        for _ in range(nodes - 1):
            machine = {"CPU": random.choice([1, 1, 2, 2, 4]) * UNIT}
            if gpus and random.random() < 0.5:
                machine["GPU"] = UNIT
            self.machines.append(machine)
        self.bytes_per_s = random.choice([1e8, 1e9, 1e10])
        self.drivers = random.choice([1, 2, 3, 4])
        self.name_share = random.choice([0.0, 0.1])
        self.jobs_meet = self.name_share > 0
        self.keep_share = random.choice([0.0, 0.2])
        self.is_large = not self.is_tight and random.random() < 0.3
        self.is_busy = random.random() < 0.3  # more tasks, and longer ones
        if self.is_busy:
            self.tasks_left += 200
            self.task_s = random.choice([1e-2, 3e-2])
        self.faults = Faults(random, nodes, self.fault_kinds, is_calm=self.is_calm)
        self.frozen = self.faults.frozen
        self.first_nodes = nodes - self.faults.joins
        self.cpu_actors_left = 0
        self._bound_actors = self._make_bound_actors(random)
        self.templates += self._make_bound_tasks()

    def _head(self) -> dict[str, int]:
        head = dict(self.resources)
        if head["CPU"] < 2 * UNIT:
            head["CPU"] = 2 * UNIT
            self.templates.append(WIDE)
        return head

    def _make_bound_tasks(self) -> list[CallTemplate]:
        by_name = {template.name: template for template in PLAIN}
        made = []
        for name in ("plain", "once", "half"):
            made.append(_bound(by_name[name], Strategy("SPREAD")))
        for number in range(self.first_nodes):
            node_id = node_id_of(number)
            made.append(_bound(by_name["plain"], Strategy("NODE", node_id)))
            made.append(_bound(by_name["two_results"], Strategy("NODE", node_id, soft=True)))
        return made

    def _make_bound_actors(self, random: Random) -> list[CallTemplate]:
        # As many with a CPU of their own as leave their node two.
        made: list[CallTemplate] = []
        if self.faults.endless_cuts:
            return made  # they would wait for a node that cannot be reached, and rightly so
        for number, machine in enumerate(self.machines[: self.first_nodes]):
            strategy = Strategy("NODE", node_id_of(number))
            spec = CallTemplate(
                "actor", b"Actor", "Actor", demand_of(CPU), demand_of(CPU), strategy=strategy
            )
            made += [spec] * max(0, machine["CPU"] // UNIT - 2)
        random.shuffle(made)
        return made

    def resources_of(self, number: int) -> dict[str, int]:
        """What a node has."""
        return self.machines[number]

    def add_machine(self, number: int, like: int) -> None:
        """A node with this number will join, on the machine of another; later ones follow."""
        self.machines.insert(number, self.machines[like])

    @property
    def is_lossy(self) -> bool:
        """Whether a living node was given up, or one was out of reach for over a minute."""
        return bool(self.frozen or self.faults.long_cuts or self.faults.endless_cuts)

    def is_cut(self, one: Machine, other: Machine) -> bool:
        """Whether no connection can be made between two nodes now."""
        return self.faults.is_cut(one, other)

    def is_disturbed(self, now: float) -> bool:
        """Whether a fault between nodes may still be under way."""
        return self.faults.is_under_way(now)

    def possible_errors(self) -> set[str]:
        """What a value may be instead of a value."""
        kinds = super().possible_errors()
        if self.name_share:
            kinds.add("ActorDiedError")
            if self.early_end_share:
                kinds.add("OwnerDiedError")
        return kinds

    def close(self, simulator: Cluster, number: int) -> DriverProcess | None:
        """All programs are over: a driver that ends what would not end by itself, if anything."""
        return None

    # ------------------------------------------------------------------ programs

    def _step(self, fiber: Fiber, is_driver: bool) -> Program:
        random = fiber.random
        if random.random() < self.name_share:
            yield from self._use_name(fiber)
        elif fiber.refs and random.random() < 0.03:
            some = sample(random, fiber.refs, 4)
            yield from fiber.wait(some, len(some), 0.05, anywhere=True)
        elif is_driver and self.is_busy and random.random() < 0.1:
            for _ in range(random.randrange(10, 60)):
                self._spawn(fiber)
        else:
            yield from super()._step(fiber, is_driver)

    def _use_name(self, fiber: Fiber) -> Program:
        random = fiber.random
        name = random.choice(NAMES)
        if random.random() < 0.5 and self._may_spawn():
            options = self._actor_options(random, name)
            actor_id = fiber.process.ids.next_task()
            fiber.process.simulator.in_order[actor_id] = options.in_order
            question = {
                "name": name,
                "namespace": NAMESPACE,
                "actor_id": actor_id,
                "class_name": "Actor",
                "spec": _encode(options),
            }
            answer = yield from fiber.ask("reserve_actor_name", question)
            if answer["actor_id"] is None:
                nested = sample(random, fiber.refs, 1)
                spec = self._actor_template(random)
                fiber.create_actor(spec, options, _encode(nested), [], nested, actor_id)
                return
        row = yield from fiber.ask("get_actor", {"name": name, "namespace": NAMESPACE})
        if row is not None and row["state"] != "DEAD" and row["spec"]:
            fiber.weak.append(row["actor_id"])
            if random.random() < self.kill_share * 0.1:
                fiber.process.post(m.KillActor(row["actor_id"], random.random() < 0.7))

    def _actor_template(self, random: Random) -> CallTemplate:
        chance = random.random()
        if chance < 0.2:
            return _bound(ACTOR, Strategy("SPREAD"))
        if chance < 0.4:
            node_id = node_id_of(random.randrange(self.first_nodes))
            soft = random.random() < 0.5 or self.faults.endless_cuts > 0
            return _bound(ACTOR, Strategy("NODE", node_id, soft=soft))
        if chance < 0.5 and self._bound_actors:
            return self._bound_actors.pop()
        return super()._actor_template(random)

    def _method(self, fiber: Fiber) -> Program:
        process = fiber.process
        assert isinstance(process, WorkerProcess) and process.kept is not None
        yield from super()._method(fiber)
        if fiber.refs and fiber.random.random() < self.keep_share:
            process.kept.know(fiber.random.choice(fiber.refs))

    def _contents(self, fiber: Fiber, spec: CallTemplate) -> list[bytes]:
        process = fiber.process
        if spec.kind == "method" and isinstance(process, WorkerProcess) and self.keep_share:
            assert process.kept is not None
            older = [object_id for object_id in process.kept.refs if fiber.is_older(object_id)]
            return sample(fiber.random, older, 2)
        return super()._contents(fiber, spec)

    def _size(self, random: Random) -> int:
        if self.is_large and random.random() < 0.3:
            return random.randrange(200, 1_000) * PAGE
        return super()._size(random)


class CutSettings(ClusterSettings):
    """Nodes cannot reach each other for long or without end, or lose the GCS."""

    fault_kinds = ENDLESS_KINDS


def _bound(template: CallTemplate, strategy: Strategy) -> CallTemplate:
    return msgspec.structs.replace(template, strategy=strategy)


def _is_busy(simulator: Cluster) -> bool:
    """Whether a fault or a driver is still to come, or a program still runs."""
    assert isinstance(simulator.settings, ClusterSettings)
    if simulator.now < 1_000.0 + BEGUN_S:
        return True
    living = [process for process in simulator.all_processes() if not process.dead]
    return any(process.fibers or getattr(process, "queue", None) for process in living)


def run_cluster(
    seed: int,
    nodes: int,
    *,
    tell: bool = False,
    kind: type[ClusterSettings] = ClusterSettings,
) -> Cluster:
    """One whole run on so many nodes: programs and faults, idleness, farewell. Raises as ``run``
    does."""
    random = Random(seed)
    settings = kind(random, nodes)
    simulator = Cluster(settings, seed, tell=tell)
    try:
        for _ in range(settings.first_nodes):
            simulator.add_node()
        drivers: list[DriverProcess] = []

        def start_driver(number: int) -> None:
            assert simulator.gcs is not None
            first = map(node_id_of, range(settings.first_nodes))
            if not all(map(simulator.gcs.has_joined, first)):  # else nothing could be bound to them
                simulator.at(0.01, start_driver, number)
                return
            node = random.choice(simulator.alive)
            drivers.append(DriverProcess(node, number))

        for number in range(settings.drivers):
            simulator.at(random.random() * 0.1, start_driver, number)
        settings.faults.begin(simulator)
        if settings.faults.endless_cuts:
            simulator.run_while(lambda: _is_busy(simulator), ENDLESS_S)
            check_programs(simulator.all_processes())
            settings.faults.mend_all()
        simulator.run_until_quiet()
        check_programs(simulator.all_processes())
        closer = settings.close(simulator, settings.drivers)
        if closer is not None:
            drivers.append(closer)
            simulator.run_until_quiet()
        processes = simulator.all_processes()
        for process in processes:
            if not process.dead and isinstance(process, WorkerProcess) and process.kept is not None:
                process.kept.drop_all()
        simulator.run_until_quiet()
        for node in simulator.alive:
            check_idle(node.core, list(node.processes.values()))
        check_cluster_idle(simulator)
        for driver in drivers:
            driver.leave()
        simulator.run_until_quiet()
        for node in simulator.alive:
            check_empty(node.core)
        check_cluster_empty(simulator)
    except Exception as error:
        error.simulator = simulator  # type: ignore[attr-defined]
        raise
    return simulator
