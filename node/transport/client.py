"""The dialling side: opens a stream to a partner's node for one attempt of one step."""

from __future__ import annotations

import logging
import threading
import time

import grpc

from audit.identity import Identity
from audit.partner import Partner
from node.errors import IsthmusError, PeerError, TransportError
from node.limits import LIMITS, Limits
from node.transport.channel import PROTOCOL_VERSION, GrpcChannel, Link
from node.transport.errors import from_tls
from node.transport.options import TIMEOUTS, Timeouts, client_options
from protos import peer_pb2, peer_pb2_grpc, tls

_log = logging.getLogger("isthmus.node.transport")

_PASSING = ("transport.unreachable", "transport.not_tls", "transport.not_accepted")
"""Causes that may pass while a partner starts up; a wrong certificate does not."""


def check_open(mine: peer_pb2.Open, theirs: peer_pb2.Open, *, peer: str) -> None:
    """Compare what both sides say the stream is for.

    Raises:
        PeerError: ``transport.protocol_version``, ``transport.party_mismatch`` (the name is not the certificate's),
            ``transport.wrong_step``.
    """
    if theirs.protocol != PROTOCOL_VERSION:
        raise PeerError(
            "transport.protocol_version",
            f"{peer} speaks protocol version {theirs.protocol}; this node speaks {PROTOCOL_VERSION}.",
            remedy="Both nodes must speak the same protocol version: update the older one.",
        )
    if theirs.party != peer:
        raise PeerError(
            "transport.party_mismatch",
            f"The node that holds the certificate of {peer} gave another name.",
            remedy=f"Check the name in {peer}'s node.toml and exchange partner files again.",
        )
    if (theirs.job, theirs.step, theirs.round, theirs.attempt) != (mine.job, mine.step, mine.round, mine.attempt):
        raise PeerError(
            "transport.wrong_step",
            f"{peer} is at another step than this node ({mine.step}, round {mine.round}, attempt {mine.attempt}).",
            remedy="The coordinator starts the step again on both nodes.",
        )


def dial(
    partner: Partner,
    identity: Identity,
    opening: peer_pb2.Open,
    *,
    limits: Limits = LIMITS,
    timeouts: Timeouts = TIMEOUTS,
    stop: threading.Event | None = None,
) -> GrpcChannel:
    """Open the stream that ``opening`` describes, dialling again with growing pauses while the partner is not up.

    Raises:
        TransportError: ``transport.no_route``, ``transport.wrong_certificate``, ``transport.stopping``; after
            ``timeouts.dial`` seconds ``transport.unreachable``, ``transport.not_tls`` or ``transport.not_accepted``.
        PeerError: the partner's answer does not fit, see :func:`check_open`.  PeerAborted: the partner refused and told a code.
    """
    if not partner.address:
        raise TransportError(
            "transport.no_route",
            f"{partner.name} has no address, so this node cannot dial it.",
            remedy="Give one of the two nodes an address and exchange its partner file again.",
        )
    stop = stop or threading.Event()
    deadline, pause = time.monotonic() + timeouts.dial, timeouts.backoff
    while True:
        try:
            return _dial_once(partner, identity, opening, limits, timeouts)
        except TransportError as error:
            if error.code != "transport.unreachable":
                raise
            cause = explain(partner)
            if cause.code not in _PASSING or time.monotonic() + pause > deadline:
                raise cause from None
            _log.info("%s is not up at %s yet; dialling again", partner.name, partner.address)
        if stop.wait(pause):
            raise TransportError("transport.stopping", "This node is stopping.", remedy="Start it again; the step is tried again.")
        pause = min(2 * pause, timeouts.backoff_max)


def secure_channel(partner: Partner, identity: Identity, limits: Limits = LIMITS) -> grpc.Channel:
    """A channel to ``partner`` that trusts its pinned certificate alone.  Raises ``TransportError`` ``transport.bad_address``."""
    try:
        return tls.channel(
            partner.address,
            server_name=partner.name,
            server_certificate_pem=partner.certificate_pem,
            key_pem=identity.tls_key_pem,
            certificate_pem=identity.tls_certificate_pem,
            options=client_options(limits),
        )
    except tls.TlsError as error:
        raise from_tls(error) from None


def _dial_once(partner: Partner, identity: Identity, opening: peer_pb2.Open, limits: Limits, timeouts: Timeouts) -> GrpcChannel:
    channel = secure_channel(partner, identity, limits)
    link = Link(peer=partner.name, limits=limits, timeouts=timeouts)
    call = peer_pb2_grpc.PeerStub(channel).Exchange(link.frames())
    if not call.add_callback(link.over):
        link.over()
    threading.Thread(target=link.pump, args=(call,), name=f"read-{partner.name}", daemon=True).start()

    def hang_up() -> None:
        link.wait_over(timeouts.close)
        call.cancel()
        channel.close()

    stream = GrpcChannel(link, limits=limits, on_close=hang_up)
    try:
        link.put(peer_pb2.Frame(open=opening))
        answer = link.get(timeouts.park + timeouts.open)
        if answer.WhichOneof("body") != "open":
            raise PeerError("protocol.unexpected_message", f"{partner.name} did not open the stream.", remedy="Check its version.")
        check_open(opening, answer.open, peer=partner.name)
    except IsthmusError as error:
        stream.abort(error.code)
        raise
    return stream


def explain(partner: Partner) -> TransportError:
    """Why ``partner`` could not be reached: gRPC says the same of a closed port and of a wrong certificate."""
    return from_tls(tls.explain_failure(partner.address, server_name=partner.name, server_certificate_pem=partner.certificate_pem))
