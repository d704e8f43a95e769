"""Error codes to gRPC status and back, in one place.

A status carries the code alone as its details, never a text of ours: the texts name files, columns and reasons that are the
operator's business.  What arrives is believed only if it has the form of a code.
"""

from __future__ import annotations

import re

import grpc

from node.errors import IsthmusError, PeerAborted, PeerError, PolicyError, TransportError, UsageError, VerificationError
from protos import tls

UNKNOWN_CODE = "peer.unknown_code"
INTERNAL = "internal.error"
"""What everybody but this node's operators hears of a fault of isthmus itself."""
_CODE = re.compile(r"[a-z0-9_]{1,40}(\.[a-z0-9_]{1,60}){1,2}")

_STATUS: dict[str, grpc.StatusCode] = {
    "transport.wrong_certificate": grpc.StatusCode.UNAUTHENTICATED,
    "transport.party_mismatch": grpc.StatusCode.UNAUTHENTICATED,
    "transport.protocol_version": grpc.StatusCode.FAILED_PRECONDITION,
    "transport.oversized": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "transport.too_often": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "transport.too_many_streams": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "transport.timeout": grpc.StatusCode.DEADLINE_EXCEEDED,
    "transport.not_started": grpc.StatusCode.DEADLINE_EXCEEDED,
    "transport.session_lost": grpc.StatusCode.NOT_FOUND,
    "transport.stopping": grpc.StatusCode.UNAVAILABLE,
    "job.unknown": grpc.StatusCode.NOT_FOUND,
    "job.not_approved": grpc.StatusCode.PERMISSION_DENIED,
}
_STATUS_BY_CLASS: list[tuple[type[IsthmusError], grpc.StatusCode]] = [
    (PolicyError, grpc.StatusCode.PERMISSION_DENIED),
    (VerificationError, grpc.StatusCode.UNAUTHENTICATED),
    (UsageError, grpc.StatusCode.INVALID_ARGUMENT),
    (PeerError, grpc.StatusCode.FAILED_PRECONDITION),
    (TransportError, grpc.StatusCode.UNAVAILABLE),
]

# What an operator here can do about a code that the other side told; otherwise the other side's own log has the reason.
_REMEDIES = {
    "transport.protocol_version": "Both nodes must speak the same protocol version: update the older one.",
    "transport.session_lost": "The other node has started again; the coordinator starts the step again on both.",
    "transport.wrong_certificate": "Give the other side this node's partner file (`isthmus-node partner export`).",
    "control.protocol_version": "Node and coordinator must speak the same protocol version: update the older one.",
    "control.party_mismatch": "The coordinator knows this node's certificate under another name: exchange partner files again.",
    "control.superseded": "Another process attached under this node's name: run one node under one name.",
    "coordinator.stopping": "Nothing is to be done: this node attaches again when the coordinator is back.",
    "job.not_approved": "The job must be approved on both nodes before a step can run.",
    "psi.too_few_shared": "Fewer customers are shared than one side's policy or the job asks for.",
}


def is_code(text: str) -> bool:
    """Whether ``text`` has the form of an error code."""
    return _CODE.fullmatch(text) is not None


def status_of(error: IsthmusError) -> grpc.StatusCode:
    """The gRPC status under which ``error`` ends a stream."""
    if error.code in _STATUS:
        return _STATUS[error.code]
    return next((status for kind, status in _STATUS_BY_CLASS if isinstance(error, kind)), grpc.StatusCode.FAILED_PRECONDITION)


def told_by(peer: str, code: str) -> PeerAborted:
    """The error here when ``peer`` gave the step up and told ``code``."""
    known = code if is_code(code) else UNKNOWN_CODE
    remedy = _REMEDIES.get(known, f"The reason stands in the log of {peer}; ask its operators about this code.")
    return PeerAborted(known, f"{peer} ended the exchange with the code {known}.", remedy=remedy)


def from_rpc(error: grpc.RpcError, *, peer: str) -> IsthmusError:
    """The error here when the RPC with ``peer`` ended with ``error``.

    Returns:
        ``PeerAborted`` with the peer's code where it told one; ``TransportError`` ``transport.oversized``, ``transport.timeout``,
        ``transport.refused``, ``transport.unreachable`` or ``transport.closed`` otherwise.
    """
    status = error.code() if isinstance(error, grpc.Call) else None
    details = (error.details() or "") if isinstance(error, grpc.Call) else ""
    if is_code(details):
        return told_by(peer, details)
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
        return TransportError(
            "transport.oversized",
            f"A message in the exchange with {peer} is larger than the link accepts.",
            remedy="Both nodes must use the same message limit; check that they run the same version.",
        )
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TransportError(
            "transport.timeout", f"{peer} did not answer in time.", remedy="Check that it is running and try again."
        )
    if status in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED):
        return TransportError(
            "transport.refused",
            f"{peer} refused the connection.",
            remedy="Check that its address belongs to the right service and that it has this node's partner file.",
        )
    if status is grpc.StatusCode.UNAVAILABLE:
        return TransportError(
            "transport.unreachable",
            f"{peer} cannot be reached.",
            remedy="Check that it is running and that its address in the partner file is right.",
        )
    return closed(peer)


def from_tls(error: tls.TlsError) -> TransportError:
    """The same error as this wing's kind."""
    return TransportError(error.code, error.message, remedy=error.remedy)


def closed(peer: str) -> TransportError:
    """The link was cut without a word."""
    return TransportError(
        "transport.closed",
        f"The link to {peer} was cut before the step ended.",
        remedy="The step is tried again when the link is back.",
    )


def silent_peer(peer: str, seconds: float, what: str) -> TransportError:
    """The link is up, and the peer did not do ``what`` was due."""
    return TransportError(
        "transport.timeout", f"{peer} {what} for {seconds:g} seconds.", remedy="Check that it is running and try again."
    )


def impatient(peer: str, seconds: float, cause: IsthmusError | None, *, calls: bool) -> TransportError:
    """The patience is at an end; the code is that of the last cause."""
    if cause is not None:
        text = f"{cause.message} The link was not there for {seconds:g} seconds (policy links.patience)."
        return TransportError(cause.code, text, remedy=cause.remedy)
    if calls:
        return TransportError(
            "transport.not_started",
            f"{peer} is there, but its own step did not start within {seconds:g} seconds (policy links.patience).",
            remedy=f"Ask what {peer} is doing; the coordinator starts the step again on both nodes.",
        )
    return TransportError(
        "transport.no_stream",
        f"{peer} did not open its stream for the step within {seconds:g} seconds (policy links.patience).",
        remedy=f"Check that {peer} is serving and can reach this node's address through the firewall.",
    )
