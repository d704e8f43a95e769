"""The nodes' gRPC service: translation between the wire and :class:`coordinator.runner.Runner`, and who may call.

A node is told an error's code alone.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from typing import NoReturn

import grpc

from audit.errors import IsthmusError
from coordinator.attachment import CONTROL_VERSION, Attachment
from coordinator.control_fields import check_report
from coordinator.errors import PeerError, TransportError
from coordinator.runner import Runner
from operations.gate import Gate, Rate
from protos import control_pb2, control_pb2_grpc, tls
from protos.callers import Callers

_log = logging.getLogger("isthmus.coordinator")

HELLO_SECONDS = 10.0
INTERNAL = "internal.error"
STREAMS_OF_ONE = 8
"""Streams of one node, those among them that were cut and are not noticed yet."""
REPORTS_AT_ONCE = 5_000
"""A node that attaches repeats the decision and the last outcome of each of its open jobs."""
REPORTS_PER_SECOND = 100.0

_STATUS = {
    "transport.wrong_certificate": grpc.StatusCode.UNAUTHENTICATED,
    "control.party_mismatch": grpc.StatusCode.UNAUTHENTICATED,
    "control.not_an_operator": grpc.StatusCode.PERMISSION_DENIED,
    "control.bad_field": grpc.StatusCode.INVALID_ARGUMENT,
    "control.no_hello": grpc.StatusCode.DEADLINE_EXCEEDED,
    "control.too_often": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "control.too_many_streams": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "control.too_many_reports": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "control.superseded": grpc.StatusCode.ABORTED,
    "coordinator.unknown_job": grpc.StatusCode.NOT_FOUND,
    "coordinator.stopping": grpc.StatusCode.UNAVAILABLE,
}


def caller(context: grpc.ServicerContext, pinned: Mapping[str, bytes]) -> str:
    """The name under which the caller's exact certificate is pinned; raises ``transport.wrong_certificate``."""
    try:
        return tls.authenticate(context, pinned)
    except tls.TlsError as error:
        raise TransportError(error.code, error.message, remedy=error.remedy) from None


def enter(context: grpc.ServicerContext, callers: Callers) -> str:
    """As :func:`caller`, for a call that lasts: it is cut once its certificate is not pinned any more."""
    try:
        return callers.enter(context)
    except tls.TlsError as error:
        raise TransportError(error.code, error.message, remedy=error.remedy) from None


def abort(context: grpc.ServicerContext, error: IsthmusError, details: str) -> NoReturn:
    """End the call with the error's status."""
    context.abort(_STATUS.get(error.code, grpc.StatusCode.FAILED_PRECONDITION), details)
    raise error  # not reached: abort raises


class ControlService(control_pb2_grpc.ControlServicer):
    """The nodes' side.  ``pinned``: the data parties' certificates (PEM, one or more) by name, as they are at each look."""

    def __init__(self, runner: Runner, pinned: Mapping[str, bytes]) -> None:
        self._runner, self.callers = runner, Callers(pinned)
        self._gate = Gate("control", streams=STREAMS_OF_ONE)

    def Attach(
        self, request_iterator: Iterator[control_pb2.Report], context: grpc.ServicerContext
    ) -> Iterator[control_pb2.Directive]:
        """One node's stream, for as long as it lasts."""
        attachment: Attachment | None = None
        try:
            party = enter(context, self.callers)
            with self._gate.passing(party):
                self._hello(party, request_iterator, context)
                attachment = self._runner.attach(party)
                context.add_callback(attachment.close)
                threading.Thread(target=self._listen, args=(attachment, request_iterator), daemon=True).start()
                _log.info("%s attached", party, extra={"peer": party})
                yield from attachment.directives()
        except IsthmusError as error:
            if error.code not in ("coordinator.stopping", "control.too_often"):
                self._runner.observer.error(error.code)
                _log.warning("a node's stream ended: %s", error, extra={"code": error.code})
            abort(context, error, error.code)
        except Exception:  # noqa: BLE001 - gRPC would tell the node the exception's text
            _log.exception("a node's stream ended with a fault of isthmus")
            context.abort(grpc.StatusCode.INTERNAL, INTERNAL)
        finally:
            if attachment is not None:
                self._runner.detach(attachment)
                _log.info("%s detached", attachment.party, extra={"peer": attachment.party})

    def _hello(self, party: str, reports: Iterator[control_pb2.Report], context: grpc.ServicerContext) -> None:
        timer = threading.Timer(HELLO_SECONDS, context.cancel)
        timer.start()
        try:
            first = next(reports, None)
        except grpc.RpcError:
            first = None
        finally:
            timer.cancel()
        if first is None:
            raise PeerError("control.no_hello", f"{party} said nothing within {HELLO_SECONDS:.0f} seconds.")
        hello = check_report(first).hello
        if first.WhichOneof("body") != "hello":
            raise PeerError("control.no_hello", f"{party} did not begin with Hello.")
        if hello.protocol != CONTROL_VERSION:
            raise PeerError(
                "control.protocol_version",
                f"{party} speaks control protocol {hello.protocol}; this coordinator speaks {CONTROL_VERSION}.",
                remedy="Update the older of the two.",
            )
        if hello.party != party:
            raise PeerError("control.party_mismatch", f"The node with the certificate of {party} calls itself {hello.party}.")

    def _listen(self, attachment: Attachment, reports: Iterator[control_pb2.Report]) -> None:
        """Runs in a thread of its own: what the node sends, until it stops or breaks a rule."""
        rate = Rate(REPORTS_AT_ONCE, REPORTS_PER_SECOND)
        try:
            for report in reports:
                if not rate.take():
                    raise PeerError("control.too_many_reports", f"{attachment.party} sent reports faster than any node does.")
                try:
                    checked = check_report(report)
                except PeerError as error:
                    self._runner.refuse(attachment, report, error)
                    raise
                self._runner.receive(attachment, checked)
        except IsthmusError as error:
            attachment.close(error)
        except grpc.RpcError:
            pass  # the stream was cut; detach follows
        except Exception:  # noqa: BLE001 - the last resort of this thread; the node attaches again
            _log.exception("a report of %s ended with a fault of isthmus", attachment.party)
        finally:
            attachment.close()
