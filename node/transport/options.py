"""Every gRPC option and every waiting time of the node's links, in one place."""

from __future__ import annotations

import random
from dataclasses import dataclass

from node.limits import LIMITS, Limits
from protos import tls

ENVELOPE_BYTES = 64 * 2**10
"""Room above ``limits.chunk_bytes`` for a frame's own fields: a payload a little too large is refused by our check, which names the
code, and one far too large by gRPC before it is held in memory."""

Options = list[tuple[str, int]]


@dataclass(frozen=True)
class Timeouts:
    """How long a link waits, in seconds."""

    patience: float = 600.0
    """A step whose peer cannot be reached: not up yet, its own step not started, or the link cut (policy ``[links] patience``)."""
    peer: float = 600.0
    """``recv`` and a blocked ``send`` while the link is up: the peer may be computing."""
    open: float = 15.0
    """The first word on a new stream."""
    close: float = 5.0
    """The peer's end of a stream that is finished here."""
    heartbeat: float = 10.0
    """After this long without a frame to send, a heartbeat goes out: less than any firewall forgets an idle connection in."""
    silence: float = 60.0
    """After this long without a frame the link counts as cut: a frame of ``chunk_bytes`` gets through in time at 18 kB/s."""
    ack_delay: float = 0.02
    """An acknowledgement waits so long for a message that can carry it."""
    announce: float = 1.0
    """A link that is back within this time is not worth a line to the operator."""
    announce_again: float = 5.0
    """Between two reports that the step still waits."""
    backoff: float = 0.2
    """Upper end of the first pause between two dials; doubled up to ``backoff_max``."""
    backoff_max: float = 5.0
    keepalive: float = 15.0
    """On the stream to the coordinator: between two pings."""
    keepalive_answer: float = 20.0
    """A ping without an answer for so long ends that connection."""


TIMEOUTS = Timeouts()


class Backoff:
    """Pauses between attempts to connect: exponential, with full jitter, so that many nodes do not come back all at once.

    (M. Brooker, "Exponential Backoff and Jitter", 2015.)  The jitter decides nothing on the wire, so it may come from the system.
    """

    def __init__(self, timeouts: Timeouts) -> None:
        self._first, self._most = timeouts.backoff, timeouts.backoff_max
        self._upper = self._first
        self._random = random.SystemRandom()

    def reset(self) -> None:
        """The connection stood: begin again with the shortest pause."""
        self._upper = self._first

    def pause(self) -> float:
        """Seconds until the next attempt."""
        seconds = self._random.uniform(0.0, self._upper)
        self._upper = min(2 * self._upper, self._most)
        return seconds


def chunk_bytes(limits: Limits) -> int:
    """Largest payload of one Data frame."""
    return min(limits.chunk_bytes, limits.message_bytes)


_PINGS = (
    # Sessions have heartbeats of their own.  gRPC's pings wait behind megabytes in the buffers of a slow link, and would end a link
    # on which frames arrive all the time; so they only let go of connections that nobody uses.
    ("grpc.keepalive_time_ms", 300_000),
    ("grpc.keepalive_timeout_ms", 600_000),
    ("grpc.http2.ping_timeout_ms", 600_000),
    ("grpc.http2.max_pings_without_data", 0),
)


def _common(limits: Limits) -> Options:
    size = chunk_bytes(limits) + ENVELOPE_BYTES
    return [("grpc.max_send_message_length", size), ("grpc.max_receive_message_length", size)]


def client_options(limits: Limits = LIMITS, *, pinging: Timeouts | None = None) -> Options:
    """Options of an outbound channel (``protos.tls.channel`` adds those that belong to TLS).

    Args:
        pinging: the connection is kept and watched by gRPC's own pings, for a stream that has no heartbeats.
    """
    if pinging is None:
        pings = list(_PINGS)
    else:
        pings = [
            ("grpc.keepalive_time_ms", int(1000 * pinging.keepalive)),
            ("grpc.keepalive_timeout_ms", int(1000 * pinging.keepalive_answer)),
            ("grpc.http2.ping_timeout_ms", int(1000 * pinging.keepalive_answer)),  # a minute by default, and the longer one counts
            ("grpc.http2.max_pings_without_data", 0),
        ]
    return [
        *_common(limits),
        *pings,
        # Reconnecting is ours (dial, attach), so that a person is told why; gRPC itself tries quickly.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        # A new channel must make a new connection: a shared one may be the very one that is dead and does not know it.
        ("grpc.use_local_subchannel_pool", 1),
    ]


def server_options(limits: Limits = LIMITS) -> Options:
    """Options of the peer server."""
    return [*_common(limits), *_PINGS, ("grpc.http2.min_ping_interval_without_data_ms", 10_000), *tls.SERVER_OPTIONS]
