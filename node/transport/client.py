"""The calling side: opens a session with a partner's node for one attempt of one step, and keeps a stream under it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

import grpc

from audit.identity import Identity
from audit.partner import Partner
from node.errors import IsthmusError, PeerAborted, PeerError, TransportError
from node.limits import LIMITS, Limits
from node.transport.channel import GrpcChannel
from node.transport.errors import from_tls
from node.transport.opening import TOKEN_BYTES
from node.transport.options import TIMEOUTS, Backoff, Timeouts, client_options
from node.transport.outage import OnWait
from node.transport.session import Session
from protos import peer_pb2, peer_pb2_grpc, tls

_log = logging.getLogger("isthmus.node.transport")

_PASSING = (
    "relay.absent",
    "relay.busy",
    "relay.left",
    "relay.stalled",
    "relay.stopping",
    "relay.superseded",
    "relay.truncated",
    "transport.closed",
    "transport.not_accepted",
    "transport.not_tls",
    "transport.silent",
    "transport.timeout",
    "transport.unreachable",
)
"""Causes that may pass while a partner starts up or a link comes back; not a wrong certificate, nor what a peer says itself."""


class Carrier(Protocol):
    """Carries one leg: gives the peer's frames in order, and ends, or raises an ``IsthmusError`` (or gRPC's), when it is cut."""

    def __iter__(self) -> Iterator[peer_pb2.Frame]: ...

    def cancel(self) -> object:
        """Cut it now, from another thread; may be called when it has ended."""


Reach = Callable[[Iterator[peer_pb2.Frame]], Carrier]
"""Begins a new stream to the peer that sends what the iterator gives."""
Latest = Callable[[], tuple[Partner, Identity]]
"""Whom to dial, and as whom, as it is now."""
Explain = Callable[[IsthmusError], IsthmusError]
"""Why a stream really ended, where the carrier says less than can be found out."""


def dial(
    partner: Partner,
    identity: Identity,
    opening: peer_pb2.Open,
    *,
    limits: Limits = LIMITS,
    timeouts: Timeouts = TIMEOUTS,
    stop: threading.Event | None = None,
    on_wait: OnWait | None = None,
    latest: Latest | None = None,
) -> GrpcChannel:
    """Open the session that ``opening`` describes, dialling again with growing pauses while the partner is not up.

    Args:
        latest: gives partner and identity anew for each stream, where certificates may be renewed meanwhile.

    Raises:
        TransportError: ``transport.no_route``, ``transport.wrong_certificate``, ``transport.stopping``; after
            ``timeouts.patience`` seconds ``transport.unreachable``, ``transport.not_tls``, ``transport.not_accepted`` or
            ``transport.not_started``.
        PeerError: the partner's answer does not fit, see :func:`node.transport.opening.check_open`.  PeerAborted: the partner
            refused and told a code.
    """
    if not partner.address:
        raise TransportError(
            "transport.no_route",
            f"{partner.name} has no address, so this node cannot dial it.",
            remedy="Give one of the two nodes an address and exchange its partner file again.",
        )

    now = latest or (lambda: (partner, identity))

    def reach(frames: Iterator[peer_pb2.Frame]) -> Carrier:
        return _Call(secure_channel(*now(), limits), frames)

    def cause_of(error: IsthmusError) -> IsthmusError:
        return explain(now()[0]) if error.code == "transport.unreachable" else error

    session = Session(peer=partner.name, calls=True, token=os.urandom(TOKEN_BYTES), limits=limits, timeouts=timeouts)
    return open_session(session, opening, reach, cause_of, limits=limits, stop=stop, on_wait=on_wait)


def open_session(
    session: Session,
    opening: peer_pb2.Open,
    reach: Reach,
    cause_of: Explain = lambda error: error,
    *,
    limits: Limits = LIMITS,
    stop: threading.Event | None = None,
    on_wait: OnWait | None = None,
) -> GrpcChannel:
    """A channel over a session whose streams this side begins by ``reach``.  Raises as :func:`dial`."""
    session.claim(opening, on_wait=on_wait, stop=stop)
    threading.Thread(target=keep, args=(session, reach, cause_of), name=f"link-{session.peer}", daemon=True).start()
    try:
        session.wait_established()
    except IsthmusError as error:
        session.stop(error, tell=error.code)
        session.wait_said(session.timeouts.close)
        raise
    return GrpcChannel(session, limits=limits)


def keep(session: Session, reach: Reach, cause_of: Explain) -> None:
    """Keep a stream under a session until it needs none: body of a thread."""
    backoff = Backoff(session.timeouts)
    while not session.settled or session.owes_word():
        leg = session.begin()
        try:
            carrier = reach(leg.frames())
        except IsthmusError as error:
            leg.end(error)
        else:
            reader = threading.Thread(target=leg.pump, args=(carrier,), name=f"read-{session.peer}", daemon=True)
            reader.start()
            leg.watch()
            carrier.cancel()
            reader.join(session.timeouts.close)
        if session.settled and not session.owes_word():
            return
        cause = leg.cause or TransportError("transport.closed", f"The link to {session.peer} was cut.")
        if leg.joined:
            backoff.reset()
        else:
            cause = cause_of(cause)
        if isinstance(cause, PeerAborted | PeerError) or cause.code not in _PASSING:
            session.fail(cause)
            return
        session.note(cause)
        if session.check_patience() and not session.owes_word():
            return
        pause = backoff.pause()
        _log.info("the link to %s is down (%s); dialling again in %.1f s", session.peer, cause.code, pause)
        session.rest(pause)


class _Call:
    """One gRPC call on a connection of its own."""

    def __init__(self, channel: grpc.Channel, frames: Iterator[peer_pb2.Frame]) -> None:
        self._channel = channel
        self._call = peer_pb2_grpc.PeerStub(channel).Exchange(frames)

    def __iter__(self) -> Iterator[peer_pb2.Frame]:
        return iter(self._call)

    def cancel(self) -> None:
        self._call.cancel()
        self._channel.close()


def secure_channel(
    partner: Partner, identity: Identity, limits: Limits = LIMITS, *, pinging: Timeouts | None = None
) -> grpc.Channel:
    """A channel to ``partner`` that trusts its pinned certificate, or the two, alone; ``pinging`` as in ``client_options``.

    Raises:
        TransportError: ``transport.bad_address``; ``transport.withdrawn``: none is pinned any more.
    """
    if not partner.trusted_pem:
        raise TransportError(
            "transport.withdrawn",
            f"The partner file of {partner.name} was taken away, or replaced by one with other keys, since this node started.",
            remedy="Add it again with `isthmus-node partner add FILE`; with other keys, start `serve` again too.",
        )
    try:
        return tls.channel(
            partner.address,
            server_name=partner.name,
            server_certificate_pem=partner.trusted_pem,
            key_pem=identity.tls_key_pem,
            certificate_pem=identity.tls_certificate_pem,
            options=client_options(limits, pinging=pinging),
        )
    except tls.TlsError as error:
        raise from_tls(error) from None


def explain(partner: Partner) -> TransportError:
    """Why ``partner`` could not be reached: gRPC says the same of a closed port and of a wrong certificate."""
    return from_tls(tls.explain_failure(partner.address, server_name=partner.name, server_certificate_pem=partner.trusted_pem))
