"""``ray.cluster_utils``: several nodes on this machine that play a cluster, for tests."""

from __future__ import annotations

from skate.api.local_cluster import Cluster, ClusterNode

__all__ = ["Cluster", "ClusterNode"]
