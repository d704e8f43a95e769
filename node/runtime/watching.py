"""What watches a serving node, opened and closed with it: figures, health, the loopback endpoint, the socket for ``health``."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping

import grpc
from grpc_health.v1 import health_pb2_grpc

from node.config import NodeConfig
from node.errors import IsthmusError
from node.runtime.metrics import NodeMetrics, NodeState
from node.transport.control import ControlClient
from node.transport.opening import PROTOCOL_VERSION
from operations.config import check_exposure
from operations.endpoint import Endpoint
from operations.health import Check, Health, LocalHealth, PartnersHealthService, disk_free, log_writable
from operations.logs import Line, fault
from protos import tls

_log = logging.getLogger("isthmus.node.transport")


class Watch:
    """One node's.

    Args:
        notify: prints one readable line for the operator.
        control: gives the link to the coordinator, once there is one.
    """

    def __init__(self, config: NodeConfig, notify: Callable[[str], None], control: Callable[[], ControlClient]) -> None:
        self._config, self._tell, self._control = config, notify, control
        self._log = config.state_folder / "log" / "log.jsonl"
        self._local: LocalHealth | None = None
        self.metrics = NodeMetrics()
        self.health = Health(
            (
                Check("attached", lambda: control().connected),
                Check("log", lambda: log_writable(self._log)),
                Check("disk", lambda: disk_free(config.state_folder)),
            )
        )

    def notify(self, line: str) -> None:
        """Tell the operator, and count the code of what is told; a step that failed has been counted already."""
        if isinstance(line, Line) and line.fields.get("code") and "step" not in line.fields:
            self.metrics.error(str(line.fields["code"]))
        self._tell(line)

    def open(self, stack: contextlib.ExitStack, *, jobs: Callable[[], Mapping[str, int]], workers: int) -> None:
        """Open what can be asked from outside, closed again with ``stack``.

        Raises:
            UsageError: ``metrics.port_in_use``, and those of :func:`operations.config.check_exposure`.
        """
        self.metrics.read_from(
            NodeState(
                attached=lambda: self._control().connected,
                ready=lambda: not self.health.failing(),
                reports_waiting=lambda: self._control().waiting,
                jobs=jobs,
                workers=workers,
                log=self._log,
                folder=self._config.state_folder,
            )
        )
        where = check_exposure(self._config.metrics)
        if where is not None:
            stack.callback(Endpoint(*where, self.metrics.figures.registry, self.health).close)
        try:
            self._local = LocalHealth(self._config.state_folder, self.health)
        except IsthmusError as error:
            self.notify(fault(error))
        else:
            stack.callback(self._local.close)

    def refused(self, error: IsthmusError) -> None:
        """A partner's stream was refused."""
        self.metrics.error(error.code)
        _log.info("a stream was refused: %s", error, extra={"code": error.code})

    def serve_health(self, server: grpc.Server, pinned: Mapping[str, bytes]) -> None:
        """Add the standard health service to the listener for partners; they alone may ask."""
        service = PartnersHealthService(self.health, lambda context: tls.authenticate(context, pinned), protocol=PROTOCOL_VERSION)
        health_pb2_grpc.add_HealthServicer_to_server(service, server)

    def beat(self) -> None:
        """The main loop went round."""
        self.health.beat()
        if self._local is not None:
            self._local.service.refresh()

    def stopping(self) -> None:
        """From now on the node is not ready."""
        self.health.stop()
        self.beat()
