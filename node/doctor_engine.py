"""What ``doctor`` says of the engine: processes beside the cores there are, or a cluster that answers and runs the same release."""

from __future__ import annotations

from collections.abc import Iterator

from node.config import NodeConfig
from node.doctor_report import Check, failed
from node.engine.base import cores, default_workers
from node.engine.cluster import Cluster, check_versions, connect, versions_here
from node.errors import IsthmusError
from node.runtime.engines import cluster_of


def engine(config: NodeConfig) -> Iterator[Check]:
    """The check of the configured engine; a cluster is asked, and nothing is computed on it."""
    cluster = cluster_of(config)
    if cluster is not None:
        yield from _cluster(cluster)
        return
    there = cores()
    if config.engine.kind == "inline":
        yield Check("engine", "ok", f"inline: heavy loops run on one of {there} cores")
        return
    workers = default_workers() if config.engine.workers is None else config.engine.workers
    text = f"{workers} worker process{'' if workers == 1 else 'es'} on {there} core{'' if there == 1 else 's'}"
    if workers > there:
        yield Check("engine", "warn", text, "Lower workers under [engine], or leave it out: all cores but one.", "engine.workers")
    else:
        yield Check("engine", "ok", text)


def _cluster(cluster: Cluster) -> Iterator[Check]:
    try:
        client = connect(cluster)
    except IsthmusError as error:
        yield failed("engine", error)
        return
    try:
        check_versions(client, cluster)
        workers = client.scheduler_info().get("workers", {})
    except IsthmusError as error:
        yield failed("engine", error)
        return
    finally:
        client.close()
    here = ", ".join(f"{name} {version}" for name, version in versions_here().items())
    trusted = {"data": "encoded rows and masks; keys stay here", "keys": "keys, too"}[cluster.trust]
    yield Check("engine", "ok", f"{cluster.address}: {len(workers)} workers, all with {here}; trusted with {trusted}")
    threads = [name for name, worker in workers.items() if worker.get("nthreads", 1) > 1]
    if threads:
        yield Check(
            "engine threads",
            "warn",
            f"{len(threads)} workers have several threads, of which one at a time computes",
            "Start them with `dask worker --nthreads 1 --nworkers N`.",
            "engine.worker_threads",
        )
    if cluster.address.startswith("tcp://"):
        yield Check(
            "engine link",
            "warn",
            "unsafe.cluster_without_tls is set: whoever reaches the cluster's ports can run code on this node",
            "Give the cluster certificates and use tls://.",
            "engine.cluster_without_tls",
        )
