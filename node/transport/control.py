"""The stream to the coordinator: opened by this node, kept, and opened again after a cut, with growing pauses and jitter.

A connection whose packets vanish is noticed by gRPC's pings (``Timeouts.keepalive``), on the coordinator's side by its own: the
stream is one hop, its messages are small, and so a ping never waits behind bulk data as it may between nodes.

What must not be lost is not queued here: it stands in the node's database, and ``on_attach`` reports it again after every
reconnect.  So a report made while the stream is down may be dropped, and the coordinator may hear the same report twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import grpc

from audit.identity import Identity
from audit.partner import Partner
from node.errors import IsthmusError, PeerError, TransportError
from node.transport.client import Latest, explain, secure_channel
from node.transport.errors import from_rpc
from node.transport.options import TIMEOUTS, Backoff, Timeouts
from operations.logs import Line
from protos import control_pb2, control_pb2_grpc

_log = logging.getLogger("isthmus.node.control")

CONTROL_VERSION = 1
PROGRESS_INTERVAL = 0.25
"""Seconds between two progress reports of one phase."""
_PERMANENT = (
    "transport.wrong_certificate",
    "transport.protocol_version",
    "transport.refused",
    "transport.bad_address",
    "control.protocol_version",
    "control.party_mismatch",
)
"""Causes that no waiting heals: a node that was never attached gives up on them."""


class _Attachment:
    """One life of the stream: the reports waiting to go out."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[control_pb2.Report] = deque()
        self._over = False

    def put(self, report: control_pb2.Report) -> None:
        with self._changed:
            self._waiting.append(report)
            self._changed.notify_all()

    def __len__(self) -> int:
        return len(self._waiting)

    def finish(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def reports(self) -> Iterator[control_pb2.Report]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._over)
                if not self._waiting:
                    return
                report = self._waiting.popleft()
            yield report


class ControlClient:
    """Keeps this node attached to its coordinator.

    Args:
        handle: called with every directive after ``Welcome``, one at a time, in order; must not block.
        on_attach: called after every ``Welcome``; reports again what the coordinator may have missed.
        notify: called with one readable line whenever the state of the link changes.
        latest: gives coordinator and identity anew for each stream, where certificates may be renewed meanwhile.
    """

    def __init__(
        self,
        *,
        coordinator: Partner,
        identity: Identity,
        software: str,
        handle: Callable[[control_pb2.Directive], None],
        on_attach: Callable[[], None],
        notify: Callable[[str], None],
        timeouts: Timeouts = TIMEOUTS,
        latest: Latest | None = None,
    ) -> None:
        self._coordinator, self._identity, self._software = coordinator, identity, software
        self._latest = latest or (lambda: (coordinator, identity))
        self._renewing = False
        self._handle, self._on_attach, self._notify, self._timeouts = handle, on_attach, notify, timeouts
        self._stop = threading.Event()
        self._current: _Attachment | None = None
        self._call: grpc.Call | None = None
        self._progress: dict[tuple[str, str, int, int, str], float] = {}
        self._lock = threading.Lock()
        self._last_line = ""
        self._attached_now = False
        self.fatal: IsthmusError | None = None
        """Why it gave up for good before it was ever attached: a wrong certificate, another version, an unknown party."""
        self.attached = threading.Event()
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)

    @property
    def connected(self) -> bool:
        """Whether the stream is open now."""
        return self._current is not None

    @property
    def waiting(self) -> int:
        """Reports that wait to go out."""
        current = self._current
        return 0 if current is None else len(current)

    def start(self) -> None:
        """Attach in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Detach; what was reported before still goes out."""
        self._stop.set()
        with self._lock:
            attachment, call = self._current, self._call
        if attachment is not None:
            attachment.finish()
        self._thread.join(self._timeouts.close / 2)
        if call is not None:
            call.cancel()
        self._thread.join(self._timeouts.close / 2)

    def reattach(self) -> None:
        """Attach on a new connection, which shows and accepts the certificates of now.  What is not reported is repeated."""
        with self._lock:
            self._renewing, call = True, self._call
        if call is not None:
            call.cancel()

    def report(self, report: control_pb2.Report) -> None:
        """Send a report if attached; thread-safe, never blocks."""
        with self._lock:
            if self._current is not None:
                self._current.put(report)

    def progress(self, *, job: str, step: str, attempt: int, round: int, phase: str, done: int, total: int) -> None:
        """Report progress, at most every ``PROGRESS_INTERVAL`` seconds a phase; the last item of a phase always."""
        key, now = (job, step, attempt, round, phase), time.monotonic()
        with self._lock:
            if done < total and now - self._progress.get(key, -1e9) < PROGRESS_INTERVAL:
                return
            if key not in self._progress:
                self._progress = {k: v for k, v in self._progress.items() if k[:4] == key[:4]}  # forget finished steps
            self._progress[key] = now
        body = control_pb2.StepProgress(job=job, step=step, attempt=attempt, round=round, phase=phase, done=done, total=total)
        self.report(control_pb2.Report(progress=body))

    def _run(self) -> None:
        backoff = Backoff(self._timeouts)
        while not self._stop.is_set():
            try:
                self._attach_once()
                backoff.reset()
                self._say(f"the coordinator {self._coordinator.name} closed the stream; attaching again")
            except IsthmusError as error:
                if self._renewing:
                    continue
                if error.code in _PERMANENT and not self.attached.is_set():
                    self.fatal = error
                    break
                if self._attached_now:
                    backoff.reset()
                self._say(Line(f"not attached to the coordinator: {error}", code=error.code))
            except Exception as error:  # noqa: BLE001 - without this thread the node would hear nothing more
                _log.exception("a directive ended with a fault of isthmus")
                self._say(f"internal error: {type(error).__name__}; attaching to the coordinator again")
            self._stop.wait(backoff.pause())
        self.ended.set()

    def _say(self, line: str) -> None:
        if line != self._last_line and not self._stop.is_set():
            self._notify(line)
        self._last_line = line

    def _attach_once(self) -> None:
        attachment, self._attached_now = _Attachment(), False
        with self._lock:
            self._renewing = False
        coordinator, identity = self._latest()
        channel = secure_channel(coordinator, identity, pinging=self._timeouts)
        hello = control_pb2.Hello(protocol=CONTROL_VERSION, party=self._identity.name, software=self._software)
        attachment.put(control_pb2.Report(hello=hello))
        try:
            call = control_pb2_grpc.ControlStub(channel).Attach(attachment.reports())
            with self._lock:
                self._call, late = call, self._renewing
            if late:
                call.cancel()
            self._converse(call, attachment)
        except grpc.RpcError as error:
            cause = from_rpc(error, peer=f"the coordinator {coordinator.name}")
            if self._attached_now and cause.code in ("transport.unreachable", "transport.closed"):
                cause = TransportError("transport.closed", f"The stream to the coordinator {coordinator.name} was cut.")
            elif cause.code == "transport.unreachable":
                cause = explain(coordinator)
            raise cause from None
        finally:
            with self._lock:
                self._current = self._call = None
            attachment.finish()
            channel.close()

    def _converse(self, call: Iterator[control_pb2.Directive], attachment: _Attachment) -> None:
        first = next(call, None)
        if first is None:
            return
        self._check_welcome(first)
        with self._lock:
            self._current = attachment
        self._attached_now = True
        self.attached.set()
        self._say(f"attached to the coordinator {self._coordinator.name} at {self._coordinator.address}")
        self._on_attach()
        for directive in call:
            self._handle(directive)

    def _check_welcome(self, directive: control_pb2.Directive) -> None:
        name = self._coordinator.name
        if directive.WhichOneof("body") != "welcome":
            raise PeerError("protocol.unexpected_message", f"{name} did not welcome this node.", remedy="Check its version.")
        if directive.welcome.protocol != CONTROL_VERSION:
            raise PeerError(
                "transport.protocol_version",
                f"{name} speaks control protocol {directive.welcome.protocol}; this node speaks {CONTROL_VERSION}.",
                remedy="Update the older of the two.",
            )
