"""The engine of several machines: a ``dask.distributed`` cluster that the node's operator runs.

    node  -- tls -->  scheduler  -- tls -->  worker processes (the same package, one thread each)

**What a cluster is.**  distributed sends functions and results pickled, and whoever can make the other end unpickle something runs
code there.  So a cluster is machines of this node's operator and of nobody else, never a peer's, and the links are TLS with
certificates both ways; without them anyone who reaches a port could run code on the node.  Plain ``tcp://`` is refused unless the
configuration asks for it by name.

**What it is trusted with** says ``trust``.  With ``"data"`` workers are sent what products need: encoded rows, masks, ciphertexts.
With ``"keys"`` also private keys of Paillier, the scalar and the identifiers of an alignment.  Where they are not, those loops run
in a pool of processes on the node's own machine (:attr:`ClusterEngine.private`).

**A worker that is lost** takes nothing along: items carry all they need and their functions draw no randomness, so the scheduler
gives its items to another worker and the same bits come out.  A worker runs one item at a time, for the tables it keeps are not
made for threads.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import CancelledError, Executor
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar

from audit.hardening import forbid_core_dumps
from node.engine.executor import ExecutorEngine, Item, Refusal, call, closed
from node.engine.pool import PoolEngine
from node.errors import IsthmusError, TransportError, UsageError

T = TypeVar("T")
R = TypeVar("R")

Trust = Literal["data", "keys"]

CONNECT_SECONDS = 10.0
ASK_SECONDS = 10.0
_WORKERS_SECONDS = 1.0
"""How old the number of workers may be that decides how many items are in flight."""
_PACKAGES = ("isthmus", "dask", "distributed")
"""Of these, scheduler and workers have the node's versions."""

_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Cluster:
    """Where a cluster is and what it is trusted with.

    Attributes:
        address: of the scheduler: ``tls://host:port``, or ``tcp://host:port``.
        trust: see the module's head.
        ca, certificate, key: PEM files: who signs for the scheduler, and what this node shows; none over ``tcp``.
        local_workers: processes on this machine for what the cluster is not trusted with.
    """

    address: str
    trust: Trust
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    local_workers: int = 1


def call_in_worker(item: Item[T, R]) -> R | Refusal:
    """Run an item in a worker of the cluster; a second thread of the same worker waits."""
    _harden()
    with _one_at_a_time:
        return call(item)


@lru_cache(maxsize=1)
def _harden() -> None:
    forbid_core_dumps()


def versions_here() -> dict[str, str]:
    """Versions of the packages that must agree; runs at the node and in workers."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


class ClusterEngine(ExecutorEngine):
    """Items go to the workers of a cluster; connected when it is made, and again when a step finds the connection lost.

    Raises:
        UsageError: ``engine.no_dask``, ``engine.cluster_files``, ``engine.versions_differ``.
        TransportError: ``engine.cluster_unreachable``, ``engine.no_workers``.
    """

    run = staticmethod(call_in_worker)

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._lock, self._closed = cluster, threading.RLock(), False
        self._client: Any = None
        self._executor: Executor | None = None
        self._counted, self._count = 0.0, 0
        self._local = PoolEngine(cluster.local_workers) if cluster.trust != "keys" else None
        self.executor()

    def __repr__(self) -> str:
        return f"ClusterEngine({self._cluster.address}, trusted with {self._cluster.trust})"

    @property
    def private(self) -> ExecutorEngine:
        """A pool on this machine, unless the cluster is trusted with keys."""
        return self._local or self

    @property
    def workers(self) -> int:
        """Worker processes of the cluster now, at least one."""
        with self._lock:
            client = self._client
            if client is None:
                return 1
            now = time.monotonic()
            if not self._count or now - self._counted > _WORKERS_SECONDS:
                self._counted = now
                with contextlib.suppress(OSError, ValueError, RuntimeError):  # a lost scheduler shows at the next result
                    self._count = len(client.scheduler_info().get("workers", {}))
            return max(1, self._count)

    def executor(self) -> Executor:
        """The client's executor, connected anew where the connection was lost."""
        with self._lock:
            if self._closed:
                raise closed()
            if self._client is not None and self._client.status not in ("running", "connecting"):
                self._drop()
            if self._executor is None:
                self._client = connect(self._cluster)
                try:
                    check_versions(self._client, self._cluster)
                except IsthmusError:
                    self._drop()
                    raise
                self._executor = self._client.get_executor(pure=False)
            return self._executor

    def explain(self, error: Exception) -> IsthmusError | None:
        """Named errors of the cluster.

        ``engine.worker_died`` when as many workers that an item was given to were lost as the scheduler allows
        (``distributed.scheduler.allowed-failures``); ``engine.cluster_lost`` when the scheduler was.
        """
        if self._closed:
            return closed()
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if "KilledWorker" in kinds:
            return UsageError(
                "engine.worker_died",
                "Every worker of the cluster that one item was given to was lost.",
                remedy="See the workers' logs (mostly memory: give each more, or run fewer on a machine), and run the step again.",
            )
        if isinstance(error, (CancelledError, OSError)) or kinds & {"CommClosedError", "FutureCancelledError", "TimeoutError"}:
            return TransportError(
                "engine.cluster_lost",
                f"The connection to the cluster at {self._cluster.address} was lost while work was under way.",
                remedy="Start the scheduler again, see `isthmus-node doctor`, and run the step again.",
            )
        return None

    def close(self) -> None:
        """Cancel what is under way and leave; scheduler and workers stay, for others may use them."""
        with self._lock:
            self._closed = True
            self._drop()
        if self._local is not None:
            self._local.close()

    def _drop(self) -> None:
        client, self._client, self._executor, self._count = self._client, None, None, 0
        if client is not None:
            client.close(timeout=ASK_SECONDS)


def connect(cluster: Cluster) -> Any:
    """A ``distributed.Client`` of the cluster.

    Raises:
        UsageError: ``engine.no_dask``, ``engine.cluster_files``.  TransportError: ``engine.cluster_unreachable``.
    """
    if find_spec("distributed") is None:
        raise UsageError(
            "engine.no_dask",
            "The engine is a dask cluster, and the package distributed is not installed.",
            remedy="Install it with `pip install 'isthmus[dask]'`, here and on every machine of the cluster.",
        )
    from distributed import Client

    _log_like_everything_else()
    security = _security(cluster)
    try:
        return Client(
            cluster.address,
            security=security,
            timeout=CONNECT_SECONDS,
            set_as_default=False,
            name="isthmus-node",
            heartbeat_interval=2000,
        )
    except (OSError, TimeoutError, ValueError) as error:
        raise TransportError(
            "engine.cluster_unreachable",
            f"No scheduler answers at {cluster.address} ({type(error).__name__}).",
            remedy="Start it, correct engine.address, and see that its certificates and this node's are signed by engine.ca.",
        ) from None


def _log_like_everything_else() -> None:
    """distributed gives its loggers a handler of their own when it is imported: take it away, so that the node's takes them."""
    for name in ("distributed", "distributed.client", "tornado", "tornado.application"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("distributed").setLevel(logging.WARNING)


def _security(cluster: Cluster) -> Any:
    from distributed.security import Security

    if cluster.address.startswith("tcp://"):
        return Security(require_encryption=False)
    for name in ("ca", "certificate", "key"):
        path = getattr(cluster, name)
        try:
            if path is None:
                raise FileNotFoundError
            path.read_bytes()
        except OSError as error:
            raise UsageError(
                "engine.cluster_files",
                f"engine.{name} cannot be read: {path or 'it is not set'} ({error.strerror or 'no such file'}).",
                remedy="Name the PEM file; a cluster over tls:// takes engine.ca, engine.certificate and engine.key.",
            ) from None
    files = {"tls_ca_file": str(cluster.ca), "tls_client_cert": str(cluster.certificate), "tls_client_key": str(cluster.key)}
    return Security(require_encryption=True, **files)


def check_versions(client: Any, cluster: Cluster) -> Mapping[str, Any]:
    """Ask the scheduler and every worker what they run; what each said, by name.

    Raises:
        TransportError: ``engine.no_workers``, ``engine.cluster_unreachable``.  UsageError: ``engine.versions_differ``.
    """
    here = versions_here()
    try:
        found = client.run(versions_here, on_error="return")
        found = found and {"scheduler": client.run_on_scheduler(versions_here), **found}
    except ImportError:
        found = {"scheduler": None}  # it has not even this function
    except Exception as error:  # noqa: BLE001 - whatever a cluster answers, it is no use to this node
        raise TransportError(
            "engine.cluster_unreachable",
            f"The cluster at {cluster.address} does not answer ({type(error).__name__}).",
            remedy="See the scheduler's and the workers' logs.",
        ) from None
    if not found:
        raise TransportError(
            "engine.no_workers",
            f"The scheduler at {cluster.address} has no worker.",
            remedy="Start workers with `dask worker --nthreads 1` and the scheduler's address, where isthmus[dask] is installed.",
        )
    for name, versions in found.items():
        told = versions if isinstance(versions, dict) else {}
        other = [f"{part} {told.get(part, 'missing')} (here {here[part]})" for part in here if told.get(part) != here[part]]
        if other:
            raise UsageError(
                "engine.versions_differ",
                f"Of the cluster at {cluster.address}, {name} has {', '.join(other)}.",
                remedy="Install the same isthmus[dask], with the same dask, on the node, the scheduler and every worker.",
            )
    return found
