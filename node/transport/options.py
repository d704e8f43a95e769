"""Every gRPC option and every waiting time of the node's links, in one place."""

from __future__ import annotations

from dataclasses import dataclass

from node.limits import LIMITS, Limits
from protos import tls

ENVELOPE_BYTES = 64 * 2**10
"""Room above ``limits.message_bytes`` for a frame's own fields: a payload a little too large is refused by our check, which
names the
code, and one far too large by gRPC before it is held in memory."""

Options = list[tuple[str, int]]


@dataclass(frozen=True)
class Timeouts:
    """How long a link waits, in seconds."""

    peer: float = 600.0
    """``recv`` and a blocked ``send``: the peer may be computing."""
    dial: float = 60.0
    """Dialling again while the peer is not up yet."""
    park: float = 120.0
    """A stream that arrived before the accepting node's own step started."""
    open: float = 15.0
    """The first frame of an incoming stream."""
    close: float = 5.0
    """The peer's end of a stream that is finished here."""
    backoff: float = 0.2
    """First pause between two dials; doubled up to ``backoff_max``."""
    backoff_max: float = 5.0


TIMEOUTS = Timeouts()


def _common(limits: Limits) -> Options:
    size = limits.message_bytes + ENVELOPE_BYTES
    return [
        ("grpc.max_send_message_length", size),
        ("grpc.max_receive_message_length", size),
        # A dead link is noticed within 40 seconds, also while both sides compute and nothing is sent.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
    ]


def client_options(limits: Limits = LIMITS) -> Options:
    """Options of an outbound channel (``protos.tls.channel`` adds those that belong to TLS)."""
    return [
        *_common(limits),
        ("grpc.keepalive_permit_without_calls", 1),
        # Reconnecting is ours (dial, attach), so that a person is told why; gRPC itself tries quickly.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5_000),
    ]


def server_options(limits: Limits = LIMITS) -> Options:
    """Options of the peer server."""
    return [
        *_common(limits),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        *tls.SERVER_OPTIONS,
    ]
