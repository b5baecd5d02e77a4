"""Views of the cluster: nodes, resources, timeline, the running task's context."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from skate.api.actor_handle import ActorHandle
from skate.api.connected import connected
from skate.client.runtime import Runtime, current_call
from skate.scheduler.group_names import parse_name
from skate.spec import Demand, resources_of
from skate.worker import worker_main


def nodes() -> list[dict[str, Any]]:
    """One dict a node, under Ray's names (NodeID, Alive, Resources, ...); dead ones stay."""
    return list(connected().ask("nodes", {}))


def cluster_resources() -> dict[str, float]:
    """All resources of all nodes: name to amount."""
    return dict(connected().ask("cluster_resources", {}))


def available_resources() -> dict[str, float]:
    """What is free now: name to amount; what is used up is left out, as in Ray."""
    return dict(connected().ask("available_resources", {}))


def timeline(filename: str | None = None) -> list[dict[str, Any]] | None:
    """The tasks so far as a Chrome trace: a list of events, or written to a JSON file.

    Open the file in Perfetto or chrome://tracing: one row a worker.
    """
    events: list[dict[str, Any]] = connected().ask("timeline", {})
    if filename is None:
        return events
    with open(filename, "w") as file:
        json.dump(events, file)
    return None


def get_gpu_ids() -> list[int | str]:
    """The GPUs that the running task or actor was given, under the driver's names for them."""
    worker = worker_main.worker
    return worker.executor.gpu_ids() if worker is not None else []


class RuntimeContext:
    """The caller's identity and place. Ids are hexadecimal strings. Ray: ``RuntimeContext``."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._worker = worker_main.worker

    def get_job_id(self) -> str:
        """The job (one a driver)."""
        return self._runtime.job_id.hex()

    def get_node_id(self) -> str:
        """The node."""
        return self._runtime.node_id.hex()

    def get_worker_id(self) -> str:
        """The process."""
        return self._runtime.worker_id.hex()

    def get_task_id(self) -> str | None:
        """The running task; None in a driver."""
        call = current_call.get()
        return None if call is None else call[0].task_id.hex()

    def get_task_name(self) -> str | None:
        """The running task's name; None in a driver."""
        call = current_call.get()
        return None if call is None else call[1].name

    def get_task_function_name(self) -> str | None:
        """The running function's name with its module (and class); None in a driver."""
        call = current_call.get()
        if call is None or self._worker is None:
            return None
        spec = call[1]
        if spec.kind == "task":
            function = self._worker.executor.functions.get(spec.function_id)
            name = getattr(function, "__qualname__", spec.name)
        else:
            function = self._worker.executor.actor_class
            method = spec.method or "__init__"
            name = f"{getattr(function, '__qualname__', spec.name)}.{method}"
        return f"{getattr(function, '__module__', '')}.{name}"

    def get_actor_id(self) -> str | None:
        """The actor that this process hosts; None elsewhere."""
        worker = self._worker
        return worker.setup.actor_id.hex() if worker and worker.setup.actor_id else None

    def get_actor_name(self) -> str | None:
        """The name that this actor was created with ("" if none); None elsewhere."""
        worker = self._worker
        return worker.setup.actor.name if worker and worker.setup.actor else None

    def get_placement_group_id(self) -> str | None:
        """The placement group in which the running task or actor is; None if there is none."""
        return self._runtime.surroundings.group.hex() or None

    def get_node_labels(self) -> dict[str, str]:
        """The labels of this node."""
        mine = self.get_node_id()
        rows = [row for row in nodes() if row["NodeID"] == mine]
        return dict(rows[0]["Labels"]) if rows else {}

    def get_runtime_env_string(self) -> str:
        """The runtime environment as JSON; empty, as none is supported yet."""
        return json.dumps(self.runtime_env)

    def is_canceled(self) -> bool:
        """Whether the running task is to stop; False, as tasks cannot be cancelled yet.

        RuntimeError in a driver.
        """
        if current_call.get() is None:
            raise RuntimeError("is_canceled() can only be called in a task or actor")
        return False

    def get(self) -> dict[str, Any]:
        """The ids, as one dict (Ray: deprecated)."""
        ids = {
            "job_id": self.get_job_id(),
            "node_id": self.get_node_id(),
            "task_id": self.get_task_id(),
            "actor_id": self.get_actor_id(),
            "namespace": self.namespace,
        }
        return {name: value for name, value in ids.items() if value is not None}

    def get_session_name(self) -> str:
        """The session: the name of its folder."""
        return self._runtime.session

    def get_temp_dir(self) -> str:
        """The folder that holds the session's folder."""
        from skate.launch.session_folder import sessions_root

        return str(sessions_root())

    def get_assigned_resources(self) -> dict[str, float]:
        """What the running task (or actor) holds; RuntimeError in a driver.

        In a placement group, what it holds of the bundle.
        """

        call = current_call.get()
        worker = self._worker
        if worker is None or call is None:
            raise RuntimeError("get_assigned_resources() can only be called in a task or actor")
        actor = worker.executor.actor_template
        return _plain_names(call[1].demand if actor is None else actor.running_demand)

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        """The devices that the running task was given."""
        return {"GPU": [str(index) for index in get_gpu_ids()]}

    @property
    def runtime_env(self) -> dict[str, Any]:
        """The runtime environment; empty, as none is supported yet."""
        return {}

    @property
    def should_capture_child_tasks_in_placement_group(self) -> bool:
        """Whether what is submitted here goes to this placement group, unless it says otherwise."""
        return self._runtime.surroundings.captures

    @property
    def namespace(self) -> str:
        """Where names of actors are looked up."""
        return self._runtime.namespace

    @property
    def current_actor(self) -> ActorHandle:
        """A (weak) handle of the actor that this process hosts; RuntimeError elsewhere."""
        worker = self._worker
        if worker is None or worker.setup.actor is None:
            raise RuntimeError("current_actor is only there inside an actor")
        from skate.api.actor_handle import _Shared

        return ActorHandle(_Shared(worker.setup.actor_id, worker.setup.actor), None)

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """Whether this process is a restart of its actor."""
        worker = self._worker
        return bool(worker and worker.executor.restarted)

    @property
    def gcs_address(self) -> str:
        """The address of the cluster; where the GCS listens, in a session of one's own."""
        from skate.launch.session_folder import read_description, sessions_root

        folder = sessions_root() / self._runtime.session
        with contextlib.suppress(OSError, ValueError):
            if address := read_description(folder).cluster_address:
                return address
        return str(folder / "gcs.sock")


def _plain_names(demand: Demand) -> dict[str, float]:
    """A demand's amounts, by the names that the resources have outside of placement groups."""
    plain = {}
    for name, amount in resources_of(demand).items():
        in_group = parse_name(name)
        if in_group is None:
            plain[name] = amount
        elif in_group[0] != "bundle":
            plain[in_group[0]] = amount
    return plain


def get_runtime_context() -> RuntimeContext:
    """The context of the caller; starts skate if the program has not."""
    return RuntimeContext(connected())
