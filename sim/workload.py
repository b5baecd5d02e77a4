"""What simulated programs do: random scripts, bounded so that they can always come to an end.

A program gets only refs that are older than itself, and holds nothing but CPU while it waits; an
actor's method waits only for tasks of its own that use no actor. So no run can lock itself up by
its own making, and a run that hangs has found a bug.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container
from random import Random

import msgspec

from sim.cluster import Cluster
from sim.driver_process import DriverProcess
from sim.fiber import Failed, Fiber
from sim.invariants import check_empty, check_idle, check_programs
from sim.roles import Machine, Program
from sim.worker_process import WorkerProcess
from skate import messages as m
from skate.ids import handle_id
from skate.spec import ActorOptions, CallTemplate, demand_of

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[bytes]).decode

PAGE = 4_096
NAMESPACE = "everybody's"  # of all names
GOES_DEEPER_THAN = 3


def _task(name: str, demand: dict[str, float], **options: object) -> CallTemplate:
    values: dict[str, object] = {"max_retries": 3, **options}
    return CallTemplate("task", name.encode(), name, demand_of(demand), **values)  # type: ignore[arg-type]


CPU = {"CPU": 1.0}
PLAIN = [
    _task("plain", CPU),
    _task("once", CPU, max_retries=0),
    _task("stubborn", CPU, max_retries=2, retry_exceptions=True),
    _task("half", {"CPU": 0.5}),
    _task("free", {}),
    _task("two_results", CPU, num_returns=2),
    _task("no_result", CPU, num_returns=0),
    _task("mortal", CPU, max_calls=2),
    _task("threads", CPU, threads=4),
]
WIDE = _task("wide", {"CPU": 2.0})
LEAF = _task("leaf", CPU)
ON_GPU = [
    _task("on_gpu", {"CPU": 1.0, "GPU": 1.0}),
    _task("on_half_gpu", {"GPU": 0.5}),
]
ACTOR = CallTemplate("actor", b"Actor", "Actor", demand_of(CPU))
CPU_ACTOR = CallTemplate("actor", b"Actor", "Actor", demand_of(CPU), demand_of(CPU))
HALF_GPU = demand_of({"GPU": 0.5})
GPU_ACTOR = CallTemplate("actor", b"Actor", "Actor", HALF_GPU, HALF_GPU)


class Settings:
    """One run's machine, programs and faults, drawn from a seed."""

    is_cluster = False
    has_lanes = False
    jobs_meet = False  # refs of one may come to another
    bytes_per_s = 1e9
    frozen: Container[Machine] = ()  # nodes that the GCS gives up though they live

    def __init__(self, random: Random) -> None:
        cpus = random.choice([1, 2, 2, 3, 4])
        gpus = random.choice([0, 0, 1, 2])
        self.resources = {"CPU": cpus * 10_000}
        if gpus:
            self.resources["GPU"] = gpus * 10_000
        self.is_tight = random.random() < 0.3
        self.arena_bytes = (2 << 20) if self.is_tight else (256 << 20)
        self.drivers = random.choice([1, 1, 2, 3])
        self.tasks_left = random.randrange(30, 260)
        self.steps = random.randrange(10, 60)
        self.is_calm = random.random() < 0.2
        rough = 0.0 if self.is_calm else random.random()
        self.raise_share = 0.05 * rough
        self.death_share = random.choice([0.0, 0.01, 0.04]) * rough
        self.exit_share = 0.01 * rough
        self.kill_share = random.choice([0.1, 0.7]) * rough
        self.actor_share = random.choice([0.15, 0.15, 0.6])
        self.stillborn_share = random.choice([0.0, 0.05]) * rough
        self.early_end_share = random.choice([0.0, 0.0, 0.3]) * rough
        self.pause_share = random.choice([0.0, 0.02])
        self.delay_s = random.choice([5e-5, 2e-4, 2e-3])
        self.stall_s = random.choice([0.001, 0.01, 0.03])
        self.task_s = random.choice([2e-5, 1e-3, 1e-2])
        self.tasks_forget_calls = random.random() < 0.5
        self.cpu_actors_left = max(0, cpus - 2)
        self.gpu_actors_left = max(0, gpus - 1)
        self.templates = list(PLAIN)
        if cpus >= 2:
            self.templates.append(WIDE)
        if gpus:
            self.templates += ON_GPU
        self.check_every = 1 if self.tasks_left < 60 else 20

    def resources_of(self, number: int) -> dict[str, int]:
        """What a node has."""
        return self.resources

    def add_machine(self, number: int, like: int) -> None:
        """A node with this number will join, on the machine of another."""

    @property
    def is_lossy(self) -> bool:
        """Whether nodes may give up what others still count on."""
        return False

    def is_cut(self, one: Machine, other: Machine) -> bool:
        """Whether no connection can be made between two nodes now."""
        return False

    def is_disturbed(self, now: float) -> bool:
        """Whether a fault between nodes may still be under way."""
        return False

    def possible_errors(self) -> set[str]:
        """What a value may be instead of a value."""
        kinds = {"ObjectStoreFullError", "ActorDiedError"} if self.is_tight else set()
        if not self.is_calm:
            kinds |= {"TaskError", "ActorDiedError", "ActorUnavailableError"}
        if self.death_share or self.exit_share:
            kinds.add("WorkerCrashedError")
        return kinds

    # ------------------------------------------------------------------ programs

    def driver(self, fiber: Fiber) -> Program:
        """A driver's program."""
        random = fiber.random
        early = random.random() < self.early_end_share
        steps = random.randrange(self.steps) if early else self.steps
        for _ in range(steps):
            with contextlib.suppress(Failed):  # the store was full
                yield from self._step(fiber, True)
        if early:
            if random.random() < 0.5:
                fiber.process.die(-9)
                yield ("sleep", 0.0)
            return "leave"
        if random.random() < 0.7:
            yield from fiber.get(list(fiber.refs))
        return "stay"

    def task(self, fiber: Fiber, run: m.Run, spec: CallTemplate) -> Program:
        """What a task, a constructor or a method does; (size, contained refs) of each result."""
        random = fiber.random
        for object_id in _decode(run.arguments):
            fiber.process.simulator.ledger.found(object_id, run.task_id)
            fiber.know(object_id)
        if spec.kind == "method":
            yield from self._method(fiber)
        else:
            yield ("sleep", self._duration(random))
            if spec.kind == "task" and spec is not LEAF and "GPU" not in dict(spec.demand):
                for _ in range(random.randrange(4)):
                    if fiber.depth < GOES_DEEPER_THAN:
                        yield from self._step(fiber, False)
        self._mishaps(fiber, spec)
        results = []
        for _ in range(spec.num_returns if spec.kind != "actor" else 0):
            contains = self._contents(fiber, spec)
            results.append((self._size(random) if random.random() < 0.15 else 0, contains))
        return results

    def _contents(self, fiber: Fiber, spec: CallTemplate) -> list[bytes]:
        if spec.kind != "task":
            return []
        random = fiber.random
        contains = sample(random, fiber.refs, 2)
        if fiber.handles and random.random() < 0.3:
            contains.append(handle_id(random.choice(fiber.handles)))
        return contains

    def _method(self, fiber: Fiber) -> Program:
        random = fiber.random
        process = fiber.process
        assert isinstance(process, WorkerProcess) and process.kept is not None
        yield ("sleep", self._duration(random))
        chance = random.random()
        if chance < 0.2 and self._may_spawn():
            refs = fiber.submit(LEAF, _encode([]), [], [])
            if random.random() < 0.7:
                yield from fiber.get(refs)
        elif chance < 0.3:
            process.kept.put([])  # the actor's state holds it from now on
        elif chance < 0.35 and process.kept.refs:
            process.kept.drop(0)

    def _mishaps(self, fiber: Fiber, spec: CallTemplate) -> None:
        random = fiber.random
        if random.random() < self.raise_share:
            raise Failed("TaskError")
        if random.random() < self.exit_share:
            process = fiber.process
            if spec.kind == "method" and random.random() < 0.5:
                assert isinstance(process, WorkerProcess)
                process.leave("exit_actor")
                raise Failed("ActorDiedError")
            process.die(1)

    # ------------------------------------------------------------------ single steps

    def _step(self, fiber: Fiber, is_driver: bool) -> Program:
        random = fiber.random
        if random.random() < self.actor_share:
            self._use_actors(fiber, is_driver)
            return
        chance = random.random()
        if chance < 0.45:
            for _ in range(random.choice([1, 1, 1, 2, 5, 20]) if is_driver else 1):
                self._spawn(fiber)
        elif chance < 0.55:
            fiber.put(sample(random, fiber.refs, 2))
        elif chance < 0.63:
            yield from fiber.put_large(self._size(random), sample(random, fiber.refs, 1))
        elif chance < 0.77:
            yield from fiber.get(sample(random, fiber.refs, 4))
        elif chance < 0.81:
            yield from fiber.get(sample(random, fiber.refs, 4), random.random() * 0.02)
        elif chance < 0.86 and fiber.refs:
            some = sample(random, fiber.refs, 4)
            count = random.randrange(len(some) + 1)
            yield from fiber.wait(some, count, random.choice([None, 0.01]))
        elif chance < 0.95:
            for _ in range(random.randrange(1, 6)):
                if fiber.refs:
                    fiber.drop(random.randrange(len(fiber.refs)))
            if fiber.views:
                fiber.drop_view(random.randrange(len(fiber.views)))
        else:
            yield ("sleep", self._duration(random) * 3)

    def _use_actors(self, fiber: Fiber, is_driver: bool) -> None:
        chance = fiber.random.random()
        if chance < 0.25 or not (fiber.handles or fiber.weak):
            self._create_actor(fiber)
        elif chance < 0.85:
            self._call_actor(fiber, is_driver)
        else:
            self._end_actor(fiber)

    def _may_spawn(self) -> bool:
        self.tasks_left -= 1
        return self.tasks_left >= 0

    def _spawn(self, fiber: Fiber) -> None:
        if not self._may_spawn():
            return
        random = fiber.random
        nested = sample(random, fiber.refs, 2)
        if fiber.handles and random.random() < 0.3:
            nested.append(handle_id(random.choice(fiber.handles)))
        dependencies = sample(random, fiber.refs, 2)
        fiber.submit(random.choice(self.templates), _encode(nested), dependencies, nested)

    def _create_actor(self, fiber: Fiber) -> None:
        if not self._may_spawn():
            return
        random = fiber.random
        spec = self._actor_template(random)
        options = self._actor_options(random)
        nested = sample(random, fiber.refs, 1)
        fiber.create_actor(spec, options, _encode(nested), sample(random, fiber.refs, 1), nested)

    def _actor_template(self, random: Random) -> CallTemplate:
        if self.cpu_actors_left > 0 and random.random() < 0.3:
            self.cpu_actors_left -= 1
            return CPU_ACTOR
        if self.gpu_actors_left > 0 and random.random() < 0.3:
            self.gpu_actors_left -= 1
            return GPU_ACTOR
        return ACTOR

    def _actor_options(self, random: Random, name: str = "") -> ActorOptions:
        return ActorOptions(
            name=name,
            namespace=NAMESPACE if name else "",
            class_name="Actor",
            max_restarts=random.choice([0, 0, 1, -1]),
            max_task_retries=random.choice([0, 1, -1]),
            in_order=random.random() < 0.8,
        )

    def _call_actor(self, fiber: Fiber, is_driver: bool) -> None:
        if not fiber.handles and not fiber.weak:
            return
        random = fiber.random
        actor_id = random.choice([*fiber.handles, *fiber.weak])
        for _ in range(random.choice([1, 2, 5])):
            if not self._may_spawn():
                return
            spec = CallTemplate(
                "method",
                b"",
                "method",
                max_retries=random.choice([0, 0, 1, 2]),
                retry_exceptions=random.random() < 0.2,
            )
            nested = sample(random, fiber.refs, 1)
            dependencies = sample(random, fiber.refs, 1) if random.random() < 0.4 else []
            if is_driver:
                fiber.call(actor_id, spec, _encode(nested), dependencies, nested)
                continue
            # Tasks that run in one process share its line to the actor. Who calls with an argument
            # that is not there yet holds back the calls of the next task, which may be the one that
            # makes it: so a task either calls with what is there, or waits for no call.
            if not self.tasks_forget_calls:
                dependencies = [ref for ref in dependencies if ref in fiber.process.values.here]
            for _ in fiber.call(actor_id, spec, _encode(nested), dependencies, nested):
                if self.tasks_forget_calls:
                    fiber.drop(len(fiber.refs) - 1)

    def _end_actor(self, fiber: Fiber) -> None:
        random = fiber.random
        if not fiber.handles:
            return
        position = random.randrange(len(fiber.handles))
        if random.random() < self.kill_share:
            no_restart = random.random() < 0.7
            fiber.process.post(m.KillActor(fiber.handles[position], no_restart))
        else:
            fiber.drop_handle(position)

    def _duration(self, random: Random) -> float:
        if random.random() < 0.03:
            return random.random() * 0.2
        return self.task_s * random.random() * 3

    def _size(self, random: Random) -> int:
        """Of a large value."""
        return random.randrange(1, 120) * PAGE


def sample(random: Random, some: list[bytes], most: int) -> list[bytes]:
    """At most so many of them, without repeats."""
    if not some:
        return []
    return list(dict.fromkeys(random.choice(some) for _ in range(random.randrange(most + 1))))


def run(seed: int, *, tell: bool = False, kind: type[Settings] | None = None) -> Cluster:
    """One whole run: programs, idleness, farewell. AssertionError if anything that must hold does
    not; the simulator is in the exception's ``simulator`` attribute."""
    random = Random(seed)
    settings = (kind or Settings)(random)
    simulator = Cluster(settings, seed, tell=tell)
    try:
        node = simulator.add_node()
        drivers = [DriverProcess(node, number) for number in range(settings.drivers)]
        simulator.run_until_quiet()
        processes = simulator.all_processes()
        check_programs(processes)
        for process in processes:
            if isinstance(process, WorkerProcess) and process.kept is not None:
                process.kept.drop_all()
        simulator.run_until_quiet()
        check_idle(node.core, processes)
        for driver in drivers:
            driver.leave()
        simulator.run_until_quiet()
        check_empty(node.core)
    except Exception as error:
        error.simulator = simulator  # type: ignore[attr-defined]
        raise
    return simulator
