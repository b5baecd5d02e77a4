"""A cluster of several nodes on this machine, for tests.

What users import as ``skate.cluster_utils``, as in Ray.

Each node is as `skate start` makes it: a node daemon with its own session folder, object store and
TCP port (on 127.0.0.1), the first with the GCS. They are children of this process and live for it:
however it ends, they end, by the EOF of pipes that only it holds.

Call it from one thread at a time.
"""

from __future__ import annotations

import atexit
import os
import time
import weakref
from pathlib import Path
from typing import Any

from skate import config
from skate.api import session as session_module
from skate.api import start
from skate.errors import SkateError
from skate.launch.addresses import join_address
from skate.launch.daemons import Daemons
from skate.launch.launching import NodeRequest, await_registered, launch
from skate.launch.observer import ANSWER_TIMEOUT_S, Observer
from skate.launch.session_folder import BY_CLUSTER_UTILS

HOST = "127.0.0.1"
OBJECT_STORE_BYTES = 150 << 20
"""Of a node that is not told otherwise, as in Ray: many of them fit one machine."""

LOOK_AGAIN_S = 0.02
"""How often the GCS is asked which nodes there are, while they are waited for."""

# Ray's parameters of a node that have no meaning here: there are no such ports and no dashboard.
_ACCEPTED = frozenset(
    {
        "dashboard_host", "dashboard_port", "include_dashboard", "min_worker_port",
        "max_worker_port", "node_manager_port", "object_manager_port", "node_ip_address",
        "node_name", "redis_port", "temp_dir", "_system_config",
    }
)  # fmt: skip


class ClusterNode:
    """One node of a ``Cluster``."""

    def __init__(self, daemons: Daemons) -> None:
        self._daemons = daemons
        told = daemons.description
        self.node_id: str = told.node_id
        self.unique_id: str = told.node_id
        self.address: str = told.address
        self.node_ip_address: str = told.host
        self.node_socket: str = told.node_socket
        self.session_dir: Path = daemons.path
        self.logs: Path = daemons.path / "logs"
        self.token_file: str = told.token_file
        self.pids: dict[str, int] = daemons.pids

    @property
    def is_alive(self) -> bool:
        """Whether its daemons run."""
        return not self._daemons.ended()

    def kill(self) -> None:
        """SIGKILL to the node daemon, and thereby to its workers: the machine breaks down."""
        self._daemons.kill()

    def kill_raylet(self, check_alive: bool = True) -> None:
        """The same, by Ray's name."""
        self.kill()

    def stop(self, graceful: bool = True) -> None:
        """End it and all of its processes; return once they are gone, and its files."""
        if not graceful:
            self._daemons.kill()
        self._daemons.stop(time.monotonic() + config.STOP_TIMEOUT_S)

    def begin_to_stop(self) -> None:
        """Let it end; ``stop`` waits for it."""
        self._daemons.abandon()

    def abandon_in_child(self) -> None:
        """This process is a fork of the one whose node it is."""
        self._daemons.abandon_in_child()

    def wait_registered(self, timeout_s: float = config.START_TIMEOUT_S) -> None:
        """Return once the GCS knows it; SystemFailureError, with its log, if it does not come."""
        await_registered(self._daemons, time.monotonic() + timeout_s)

    def __repr__(self) -> str:
        return f"ClusterNode({self.address}, {self.node_id})"


class Cluster:
    """A cluster whose nodes come and go at the test's word.

    ``initialize_head`` adds the first node (with ``head_node_args``), ``connect`` also makes this
    process a driver on it. ``shutdown_at_exit`` ends all when the interpreter does; if the process
    is killed they end all the same.
    """

    def __init__(
        self,
        initialize_head: bool = False,
        connect: bool = False,
        head_node_args: dict[str, Any] | None = None,
        shutdown_at_exit: bool = True,
    ) -> None:
        if connect and not initialize_head:
            raise RuntimeError("connect=True needs initialize_head=True: there is no node yet")
        self.head_node: ClusterNode | None = None
        self.worker_nodes: list[ClusterNode] = []
        self.connected = False
        self._address = ""
        _clusters.add(self)
        if shutdown_at_exit:
            atexit.register(self.shutdown)
        if initialize_head:
            self.add_node(**(head_node_args or {}))
            if connect:
                self.connect()

    @property
    def address(self) -> str:
        """HOST:PORT, for ``init()``."""
        return self._address

    @property
    def gcs_address(self) -> str:
        """The same: the GCS is reached through the head's node."""
        return self._address

    @property
    def token_file(self) -> str:
        """The file with the token that nodes and remote drivers need."""
        return self.list_all_nodes()[0].token_file

    def list_all_nodes(self) -> list[ClusterNode]:
        """The nodes that were added and not removed, the head first."""
        head = [] if self.head_node is None else [self.head_node]
        return head + self.worker_nodes

    def connect(self, namespace: str | None = None) -> None:
        """Make this process a driver of the cluster, on its head's node."""
        if self.head_node is None:
            raise RuntimeError("this cluster has no head to connect to: call add_node() first")
        start.init(address=self.head_node.address, namespace=namespace)
        self.connected = True

    # ------------------------------------------------------------------ nodes

    def add_node(
        self,
        wait: bool = True,
        *,
        num_cpus: float = 1,
        num_gpus: float = 0,
        resources: dict[str, float] | None = None,
        labels: dict[str, str] | None = None,
        object_store_memory: float = OBJECT_STORE_BYTES,
        tls_cert: str | None = None,
        tls_key: str | None = None,
        tls_ca: str | None = None,
        **others: Any,
    ) -> ClusterNode:
        """Start a node, the head if there is none; with ``wait`` return once the cluster has it.

        Without, several start at the same time: ``wait_for_nodes`` waits for all of them.
        """
        if unknown := sorted(set(others) - _ACCEPTED):
            raise TypeError(f"add_node() knows no {', '.join(unknown)}")
        is_head = self.head_node is None
        request = NodeRequest(
            head_address="" if is_head else self._address,
            ip=HOST,
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            resources=dict(resources or {}),
            labels=dict(labels or {}),
            object_store_memory=object_store_memory,
            token_file=None if is_head else self.token_file,
            tls_cert=tls_cert,
            tls_key=tls_key,
            tls_ca=tls_ca,
        )
        node = ClusterNode(launch(request, started_by=BY_CLUSTER_UTILS, wait=wait or is_head))
        if is_head:
            self.head_node = node
            self._address = node.address
        else:
            self.worker_nodes.append(node)
        return node

    def remove_node(self, node: ClusterNode, allow_graceful: bool = True) -> None:
        """End a node: in good order, or by SIGKILL. Returns once its processes are gone."""
        if node not in self.list_all_nodes():
            raise ValueError(f"{node} is no node of this cluster, or was removed from it")
        if node is self.head_node:
            self.head_node = None
        else:
            self.worker_nodes.remove(node)
        node.stop(graceful=allow_graceful)

    def wait_for_nodes(self, timeout: float = 30.0) -> None:
        """Return once the cluster consists of the nodes that were added and not removed.

        TimeoutError names what is missing, or is there still.
        """
        give_up_at = time.monotonic() + timeout
        expected = {node.address for node in self.list_all_nodes()}
        while True:
            try:
                alive = self._alive(max(0.1, min(ANSWER_TIMEOUT_S, give_up_at - time.monotonic())))
            except (SkateError, OSError):
                alive = set()
            if alive == expected:
                return
            if time.monotonic() > give_up_at:
                raise TimeoutError(
                    f"not within {timeout} s: missing {sorted(expected - alive)}, still there "
                    f"{sorted(alive - expected)}"
                )
            time.sleep(LOOK_AGAIN_S)

    def _alive(self, timeout_s: float) -> set[str]:
        """The addresses of the living nodes: one that lost its head comes back by another id."""
        nodes = self.list_all_nodes()
        if not nodes:
            return set()
        with Observer(nodes[0].node_socket) as observer:
            return {
                join_address(row["NodeManagerAddress"], row["NodeManagerPort"])
                for row in observer.ask("nodes", timeout_s=timeout_s)
                if row["Alive"]
            }

    def remaining_processes_alive(self) -> bool:
        """Whether no daemon of these nodes has ended by itself."""
        return all(node.is_alive for node in self.list_all_nodes())

    # ------------------------------------------------------------------ the end

    def shutdown(self) -> None:
        """Disconnect this process, if it is a driver of this cluster, and end all nodes."""
        atexit.unregister(self.shutdown)
        self.connected = False
        current = session_module.current_session()
        sessions = {node.session_dir for node in self.list_all_nodes()}
        if current is not None and current.host.path in sessions:
            session_module.shutdown()
        for node in self.worker_nodes:  # all at once, and the head last
            node.begin_to_stop()
        for node in reversed(self.list_all_nodes()):
            self.remove_node(node)

    def abandon_in_child(self) -> None:
        """After a fork: the parent's nodes live by the parent's pipe ends alone."""
        for node in self.list_all_nodes():
            node.abandon_in_child()
        self.head_node, self.worker_nodes, self.connected = None, [], False


_clusters: weakref.WeakSet[Cluster] = weakref.WeakSet()


def _after_fork() -> None:
    for cluster in list(_clusters):
        cluster.abandon_in_child()


os.register_at_fork(after_in_child=_after_fork)
