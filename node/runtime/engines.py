"""The engine that a node's configuration asks for."""

from __future__ import annotations

from node.config import NodeConfig
from node.engine import ClusterEngine, Engine, make_engine
from node.engine.base import default_workers
from node.engine.cluster import Cluster


def cluster_of(config: NodeConfig) -> Cluster | None:
    """The cluster of ``kind = "dask"``, its files as absolute paths; None for another kind."""
    section = config.engine
    if section.kind != "dask" or section.address is None or section.trust is None:
        return None
    ca, certificate, key = (
        None if path is None else config.folder / path for path in (section.ca, section.certificate, section.key)
    )
    local = default_workers() if section.workers is None else section.workers
    return Cluster(section.address, section.trust, ca, certificate, key, local)


def engine_of(config: NodeConfig) -> Engine:
    """Make it; a cluster is connected.

    Raises:
        UsageError, TransportError: see :func:`node.engine.make_engine` and :class:`node.engine.ClusterEngine`.
    """
    cluster = cluster_of(config)
    return make_engine(config.engine.kind, config.engine.workers) if cluster is None else ClusterEngine(cluster)
