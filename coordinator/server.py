"""The serving process: one TLS port for nodes and operators, the runner behind it, an orderly end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent import futures
from datetime import UTC, datetime
from importlib import metadata

import grpc

from audit.identity import Identity
from audit.opening import write_opening, write_renewal
from audit.record import LogWriter
from audit.spec import SPEC_BYTES_MAX
from audit.trust import DataParties, Trust, accepted
from audit.witness import Witness
from coordinator.config import CoordinatorConfig
from coordinator.errors import DataError, IsthmusError, TransportError
from coordinator.leader import Leadership, NotLeader
from coordinator.logged import Logged
from coordinator.operators import OperatorService
from coordinator.relay import RelayService
from coordinator.rooms import RelayLimits
from coordinator.runner import Runner
from coordinator.service import ControlService, caller
from coordinator.store import Store
from coordinator.store.engine import is_postgresql
from coordinator.store.log import LogMirror
from coordinator.watching import Watch
from operations.stopping import wait_for
from protos import control_pb2_grpc, relay_pb2_grpc, tls

_log = logging.getLogger("isthmus.coordinator")

STREAMS_MAX = 128
"""Threads: one for each attached node, watcher or relayed stream."""
STOP_SECONDS = 5.0
OPTIONS = (
    ("grpc.max_receive_message_length", 2 * SPEC_BYTES_MAX),
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),  # a minute by default, and the longer of the two counts
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    *tls.SERVER_OPTIONS,
)


def software_version() -> str:
    """This package's version."""
    return metadata.version("isthmus")


def utc_now() -> datetime:
    """The process's clock."""
    return datetime.now(UTC)


class Server:
    """A coordinator that listens.

    Args:
        watch: what watches the process from before this server on.
        leading: on a database that several coordinators share, this one's lead (:meth:`coordinator.leader.Leadership.wait`).

    Raises (on construction):
        UsageError, TransportError: keys, partner files, database or log cannot be used; ``transport.port_in_use``.
        DataError: ``coordinator.not_leader``.
    """

    def __init__(
        self,
        config: CoordinatorConfig,
        *,
        clock: Callable[[], datetime] = utc_now,
        grace: float | None = None,
        leading: Leadership | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._leading, self.watch = leading, watch or Watch(config, leading)
        identity = config.identity()
        self._trust = Trust(
            identity, keys=config.keys_folder, key_file=config.key_file, partners=config.partners_folder, told=_not_taken_up
        )
        own, pinned = self._trust.own(), self._trust.pinned()
        self._pool = futures.ThreadPoolExecutor(STREAMS_MAX, thread_name_prefix="stream")
        self._grpc = grpc.server(self._pool, options=OPTIONS, maximum_concurrent_rpcs=STREAMS_MAX)
        try:
            self.port = tls.bind(self._grpc, config.coordinator.listen, tls.renewable_credentials(self._shown))
        except tls.TlsError as error:
            self._pool.shutdown(wait=False)
            raise TransportError(error.code, error.message, remedy=error.remedy) from None
        # Nothing is opened before the port is ours, so that a second server on one folder changes nothing.
        mirror = _mirror(leading, identity)
        logged = Logged()
        log_folder = config.state_folder / "log"
        self._record = LogWriter.open(log_folder, key=identity.log_key, clock=clock, mirror=mirror, told=logged.hear)
        try:
            self._store = _store(config, leading)
        except BaseException:
            self._record.close()
            raise
        write_opening(self._record, identity)
        self.runner = Runner(
            name=identity.name,
            software=software_version(),
            partners=DataParties(self._trust.partners),
            store=self._store,
            log=self._record,
            witness=Witness(log_folder, key=identity.log_key, clock=clock, mirror=mirror),
            clock=clock,
            logged=logged,
            detach_grace=config.jobs.detach_grace if grace is None else grace,
            jobs_open=config.jobs.open,
            observer=self.watch.metrics,
        )
        self._trust.committed = self._commit
        self.watch.serve_health(self._grpc, lambda context: caller(context, {**own, **pinned}))
        control = ControlService(self.runner, pinned)
        control_pb2_grpc.add_ControlServicer_to_server(control, self._grpc)
        control_pb2_grpc.add_OperatorServicer_to_server(OperatorService(self.runner, own), self._grpc)
        asked = config.relay
        limits = RelayLimits(rooms=asked.rooms, bytes_per_second=asked.mebibytes_per_second * 2**20)
        self.relay = RelayService(pinned=pinned, running=self.runner.running, limits=limits, enabled=asked.enabled)
        self._callers = (control.callers, self.relay.callers)
        self.runner.relayed = self.relay.rooms.relayed
        relay_pb2_grpc.add_RelayServicer_to_server(self.relay, self._grpc)
        self.address = f"{config.coordinator.listen.rpartition(':')[0]}:{self.port}"

    @property
    def identity(self) -> Identity:
        """Its own, with the certificate that is in use now."""
        return self._trust.identity

    def start(self) -> None:
        """Begin to serve.

        Raises:
            UsageError: ``metrics.port_in_use``.
        """
        self.watch.read_from(self.runner, self._store)
        self.watch.listen()
        self._grpc.start()

    def beat(self) -> None:
        """Called by the main loop: it goes round, and the runner's lock can be had; renewed certificates are taken up."""
        with self.runner.changed:
            self.watch.beat()
        change = self._trust.refresh()
        if not change:
            return
        if change.own:
            _log.info("this coordinator's new certificate is used from now on")
        for name in sorted(change.partners):
            _log.info("the partner file of %s changed: %s", name, accepted(self._trust.partners[name]), extra={"peer": name})
        for callers in self._callers:
            callers.recheck()

    def _shown(self) -> tls.Shown:
        """What the listener shows, and whom it lets in."""
        identity = self._trust.identity
        pinned = [*self._trust.own().values(), *self._trust.pinned().values()]
        return identity.tls_key_pem, identity.tls_certificate_pem, b"".join(pinned)

    def _commit(self, renewed: Identity) -> None:
        with self.runner.changed:
            write_renewal(self._record, renewed)

    def drain(self, seconds: float, at_once: threading.Event) -> bool:
        """Direct no further step and wait, at most ``seconds``, for the reports of those that run; whether all have come."""
        self.watch.stopping()
        self.runner.drain()
        return wait_for(self.runner.quiet, seconds, at_once)

    def stop(self) -> None:
        """End all streams, then close database and log.  Open jobs are continued at the next start."""
        self.runner.stop()
        self.relay.rooms.stop()
        self._grpc.stop(STOP_SECONDS).wait()
        self._pool.shutdown(wait=True)
        self.watch.close()
        try:
            self._record.close()
        except DataError:
            # A coordinator that leads no more cannot sign its last entries: whoever leads now has them, and signs.
            if self._leading is None or not self._leading.lost:
                raise
        finally:
            self._store.close()


def _not_taken_up(error: IsthmusError) -> None:
    _log.warning("%s", error, extra={"code": error.code})


def _mirror(leading: Leadership | None, identity: Identity) -> LogMirror | None:
    if leading is None:
        return None
    return LogMirror(leading.engine, key=identity.log_key.verifier, fence=leading.check, failed=leading.lose)


def _store(config: CoordinatorConfig, leading: Leadership | None) -> Store:
    if leading is not None:
        return Store(leading.engine, fence=leading.check)
    url = config.store_url()
    if url is not None and is_postgresql(url):
        raise NotLeader("nobody asked for the lead on a database that several coordinators may share")
    return Store.open(url) if url is not None else Store.in_folder(config.state_folder)
