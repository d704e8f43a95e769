"""Is the process alive, and could it take a step now?  One answer for the gRPC health service, HTTP and the command ``health``.

    live      the process's main loop has gone round within LIVE_SECONDS
    ready     live, not about to stop, and every check holds: attached, log writable, disk not full

The standard gRPC health service (grpc.health.v1) has a name for each: "" and "readiness", "liveness", and one for each check.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent import futures
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from audit.errors import IsthmusError
from operations.figures import free_bytes

LIVE_SECONDS = 60.0
"""The main loop goes round several times a second; a minute's silence is no busy disk any more."""
DISK_FREE_BYTES = 64 * 2**20
"""Below it no step is begun in good conscience: log, results and database need to be written."""
ASK_SECONDS = 5.0
VERSION_KEY, PROTOCOL_KEY, TIME_KEY = "isthmus-version", "isthmus-protocol", "isthmus-time"
"""Metadata for partners: a version, a number, seconds since 1970."""
READINESS, LIVENESS, STOPPING = "readiness", "liveness", "stopping"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass(frozen=True)
class Check:
    """One condition of readiness."""

    name: str
    holds: Callable[[], bool]


class Health:
    """What a process knows of its own health.

    Args:
        checks: names ``attached``, ``log``, ``disk``, as they apply.
        clock: seconds, monotonic.
    """

    def __init__(self, checks: Sequence[Check], *, clock: Callable[[], float] = time.monotonic) -> None:
        self.checks, self._clock = tuple(checks), clock
        self._last = clock()
        self._stopping = False

    def beat(self) -> None:
        """The main loop went round."""
        self._last = self._clock()

    def stop(self) -> None:
        """From now on it is not ready, whatever else."""
        self._stopping = True

    def live(self) -> bool:
        """Whether the main loop still turns."""
        return self._clock() - self._last < LIVE_SECONDS

    def failing(self) -> list[str]:
        """The names of what keeps it from being ready."""
        found = [] if self.live() else [LIVENESS]
        if self._stopping:
            found.append(STOPPING)
        return found + [check.name for check in self.checks if not _holds(check)]

    def statuses(self) -> dict[str, Any]:
        """The standard service's status by service name."""
        failing = self.failing()
        names = {"": not failing, READINESS: not failing, LIVENESS: LIVENESS not in failing}
        names |= {check.name: check.name not in failing for check in self.checks}
        return {name: SERVING if well else NOT_SERVING for name, well in names.items()}


def _holds(check: Check) -> bool:
    try:
        return check.holds()
    except Exception:  # noqa: BLE001 - a check that cannot be made does not hold
        return False


def log_writable(path: Path) -> bool:
    """Whether the log can be opened for writing now; nothing is written."""
    with path.open("ab"):
        return True


def disk_free(folder: Path) -> bool:
    """Whether enough is free on the folder's file system."""
    return free_bytes(folder) >= DISK_FREE_BYTES


class HealthService(health.HealthServicer):
    """The standard service over a :class:`Health`; every answer is fresh."""

    def __init__(self, state: Health) -> None:
        super().__init__(experimental_non_blocking=True)
        self._state = state
        self.refresh()

    def refresh(self) -> None:
        """Tell those who watch what has changed."""
        for name, status in self._state.statuses().items():
            if self._server_status.get(name) != status:
                self.set(name, status)

    def Check(self, request: Any, context: grpc.ServicerContext) -> Any:
        """See grpc.health.v1."""
        self.refresh()
        return super().Check(request, context)


class PartnersHealthService(health_pb2_grpc.HealthServicer):
    """The same on a port that partners reach: for pinned certificates alone, and one answer a call.

    ``Watch`` is not implemented there, as the protocol allows: a partner's open streams would take the place of nodes' streams.

    With each answer it tells, as metadata, its version, the version of its wire protocol and its clock: so ``doctor`` finds what
    does not fit before a job does.

    Args:
        authenticate: raises for a caller whose certificate is not pinned.
        protocol: the version of the wire protocol that this port speaks.
    """

    def __init__(self, state: Health, authenticate: Callable[[grpc.ServicerContext], object], *, protocol: int) -> None:
        self._state, self._authenticate, self._protocol = state, authenticate, protocol

    def Check(self, request: Any, context: grpc.ServicerContext) -> Any:
        """See grpc.health.v1."""
        try:
            self._authenticate(context)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller hears a code
            code = str(getattr(error, "code", "internal.error"))
            context.abort(grpc.StatusCode.UNAUTHENTICATED, code)
        told = (VERSION_KEY, version("isthmus")), (PROTOCOL_KEY, str(self._protocol)), (TIME_KEY, f"{time.time():.3f}")
        context.send_initial_metadata(told)
        status = self._state.statuses().get(request.service)
        if status is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "health.unknown_service")
        return health_pb2.HealthCheckResponse(status=status)


# ---- the socket beside the state, for the command `health` and for probes on this machine ----------------------------------------

SOCKET = "health.sock"
_PATH_MAX = 100
"""A Unix socket's path has at most 107 bytes on Linux, 103 elsewhere."""


def _target(folder: Path) -> str:
    path = folder.resolve() / SOCKET
    if len(str(path).encode()) > _PATH_MAX:
        raise IsthmusError(
            "health.path_too_long",
            f"The path of {path} is too long for a socket, so `health` cannot ask this process.",
            remedy="Give the state folder a shorter path, or probe /readyz under [metrics].",
        )
    return f"unix:{path}"


class LocalHealth:
    """The health service on a Unix socket in the state folder, which its owner alone may open.

    Raises (on construction):
        IsthmusError: ``health.path_too_long``.
    """

    def __init__(self, folder: Path, state: Health) -> None:
        target = _target(folder)
        self._path = folder.resolve() / SOCKET
        self.service = HealthService(state)
        self._server = grpc.server(futures.ThreadPoolExecutor(2, thread_name_prefix="health"), maximum_concurrent_rpcs=16)
        health_pb2_grpc.add_HealthServicer_to_server(self.service, self._server)
        self._path.unlink(missing_ok=True)  # of a process that was killed; the folder's lock is ours
        self._server.add_secure_port(target, grpc.local_server_credentials(grpc.LocalConnectionType.UDS))
        self._path.chmod(0o600)
        self._server.start()

    def close(self) -> None:
        """Stop, and remove the socket."""
        self._server.stop(0.2).wait(2.0)
        self._path.unlink(missing_ok=True)


def ask(folder: Path, services: Sequence[str]) -> dict[str, bool]:
    """Ask the process that serves this state folder.

    Args:
        services: names of the health service; one that the process does not have is left out of the answer.

    Raises:
        IsthmusError: ``health.not_served``: nobody answers; ``health.path_too_long``.
    """
    found: dict[str, bool] = {}
    with grpc.secure_channel(_target(folder), grpc.local_channel_credentials(grpc.LocalConnectionType.UDS)) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in services:
            try:
                answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=ASK_SECONDS)
            except grpc.RpcError as error:
                if isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.NOT_FOUND:
                    continue
                raise IsthmusError(
                    "health.not_served",
                    f"No process that serves {folder} answers.",
                    remedy="Start `serve`, or look at what it printed when it ended.",
                ) from None
            found[name] = answer.status == SERVING
    return found
