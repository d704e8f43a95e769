"""What watches a serving coordinator, opened and closed with it: figures, health, the loopback endpoint, a local socket."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack

import grpc
from grpc_health.v1 import health_pb2_grpc

from audit.errors import IsthmusError
from coordinator.attachment import CONTROL_VERSION
from coordinator.config import CoordinatorConfig
from coordinator.leader import Leadership
from coordinator.metrics import CoordinatorMetrics, CoordinatorState
from coordinator.runner import Runner
from coordinator.store import Store
from operations.config import check_exposure
from operations.endpoint import Endpoint
from operations.health import Check, Health, LocalHealth, PartnersHealthService, disk_free, log_writable

_log = logging.getLogger("isthmus.coordinator")


class Watch:
    """One coordinator's.  A coordinator without nodes is ready: it waits for them.  A standby is alive and not ready.

    Args:
        leading: on a database that several coordinators share, this one's part in who leads.
    """

    def __init__(self, config: CoordinatorConfig, leading: Leadership | None = None) -> None:
        self._config = config
        self._log = config.state_folder / "log" / "log.jsonl"
        self._local: LocalHealth | None = None
        self._stack = ExitStack()
        self._open = False
        self.metrics = CoordinatorMetrics()
        self.health = Health(
            (
                *([Check("leading", lambda: leading.epoch > 0 and not leading.lost)] if leading is not None else []),
                Check("log", lambda: log_writable(self._log)),
                Check("disk", lambda: disk_free(config.state_folder)),
            )
        )

    def serve_health(self, server: grpc.Server, authenticate: Callable[[grpc.ServicerContext], object]) -> None:
        """Add the standard health service to the coordinator's port."""
        service = PartnersHealthService(self.health, authenticate, protocol=CONTROL_VERSION)
        health_pb2_grpc.add_HealthServicer_to_server(service, server)

    def read_from(self, runner: Runner, store: Store) -> None:
        """Say where the figures of a serving coordinator are read."""
        self.metrics.read_from(
            CoordinatorState(
                attached=runner.attached,
                ready=lambda: not self.health.failing(),
                directives_waiting=runner.waiting,
                jobs=store.job_counts,
                log=self._log,
                folder=self._config.state_folder,
            )
        )

    def listen(self) -> None:
        """Open what can be asked from outside; once it is open, nothing.

        Raises:
            UsageError: ``metrics.port_in_use``, and those of :func:`operations.config.check_exposure`.
        """
        if self._open:
            return
        self._open = True
        self._config.state_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        where = check_exposure(self._config.metrics)
        if where is not None:
            self._stack.callback(Endpoint(*where, self.metrics.figures.registry, self.health).close)
        try:
            self._local = LocalHealth(self._config.state_folder, self.health)
        except IsthmusError as error:
            _log.warning("%s", error, extra={"code": error.code})
        else:
            self._stack.callback(self._local.close)

    def beat(self) -> None:
        """The main loop went round."""
        self.health.beat()
        if self._local is not None:
            self._local.service.refresh()

    def stopping(self) -> None:
        """From now on the coordinator is not ready."""
        self.health.stop()
        self.beat()

    def close(self) -> None:
        """Close what was opened."""
        self._stack.close()
