"""The way to a peer that this node cannot reach and that cannot reach it: sealed records through the coordinator's relay.

    Link.frames() -> seal -> Relay.Exchange at the coordinator -> ... the peer's node, likewise
    Link.pump()   <- open <-

:class:`Carrier` sits below the link: it takes frames and gives records, takes records and gives frames, and knows nothing of gRPC.
Both nodes dial the coordinator and both begin with an ``Open``, which each compares with its own as on a direct stream.  What the
coordinator says of a stream's end is believed only as a reason why the link was cut; what the peer says arrives sealed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator

import grpc
from google.protobuf.message import DecodeError

from audit.identity import Identity
from audit.partner import Partner
from audit.spec import JobSpec
from node.errors import IsthmusError, PeerError, TransportError
from node.limits import LIMITS, Limits
from node.transport.channel import GrpcChannel, Link
from node.transport.client import check_open, explain, secure_channel
from node.transport.options import ENVELOPE_BYTES, TIMEOUTS, Timeouts
from node.transport.sealing import SEALING_VERSION, Handshake, Kind, Meeting, Opener, Sealer, Side
from protos import peer_pb2, relay_pb2, relay_pb2_grpc

_log = logging.getLogger("isthmus.node.transport")

_POLL_SECONDS = 0.2
_PASSING = ("transport.unreachable", "relay.busy", "relay.superseded")
"""Causes after which this node dials the relay again, until ``Timeouts.dial`` has passed."""
_ENDS = {
    "relay.absent": "did not come to the relay",
    "relay.busy": "could not be met: the relay is full",
    "relay.disabled": "cannot be met: the coordinator's relay is switched off",
    "relay.expired": "was cut off: the relay holds no stream that long",
    "relay.left": "left the relay before the step ended",
    "relay.not_running": "cannot be met: the coordinator runs no such attempt of a job of this node",
    "relay.protocol_version": "cannot be met: the coordinator's relay speaks another version",
    "relay.stopping": "was cut off: the coordinator is stopping",
    "relay.stalled": "took nothing for too long, and the relay let go",
    "relay.superseded": "was met anew: one of the two nodes came to the relay again",
}
_REMEDIES = {
    "relay.absent": "Check that it is serving.  Both nodes must take the relay: if one has an address, the other's partner file"
    " must hold it, or both name each other under relay.always_with in node.toml.",
    "relay.disabled": "Its operators switch it on under [relay] in coordinator.toml, or one node gets an address.",
    "relay.protocol_version": "Update the older of the two.",
}


def meeting_of(spec: JobSpec, opening: peer_pb2.Open, *, identity: Identity, peer: Partner) -> Meeting:
    """What the session that ``opening`` describes is for, with the log keys as pinned."""
    sides = {identity.name: Side(identity.name, identity.log_key.verifier), peer.name: Side(peer.name, peer.log_key)}
    return Meeting(
        opening.job,
        opening.step,
        opening.round,
        opening.attempt,
        label_holder=sides[spec.label_holder.name],
        feature_holder=sides[spec.feature_holder.name],
    )


class Carrier:
    """One sealed session as two iterators; each is used from one thread.

    Args:
        handshake: this node's, unused so far.
        outgoing: the frames to send, ending when nothing more will come.
        peer: the other node's name.
    """

    def __init__(self, handshake: Handshake, outgoing: Iterable[peer_pb2.Frame], *, peer: str) -> None:
        self._handshake, self._outgoing, self._peer = handshake, outgoing, peer
        self._sealer: Sealer | None = None
        self._opener: Opener | None = None
        self._keyed, self._settled = threading.Event(), threading.Event()

    def records(self) -> Iterator[bytes]:
        """What goes to the relay.  No frame leaves before the peer has proven who it is."""
        yield self._handshake.ephemeral
        self._keyed.wait()
        if self._sealer is None:
            return
        yield self._sealer.seal(Kind.PROOF, self._handshake.proof())
        self._settled.wait()
        if self._opener is None:
            return
        for frame in self._outgoing:
            yield from self._sealer.frame(frame.SerializeToString())
        yield self._sealer.seal(Kind.END)

    def shake(self, records: Iterator[bytes]) -> Opener:
        """Take the peer's key and proof; no frame goes out before.

        Raises:
            VerificationError: ``relay.bad_key``, ``relay.wrong_identity``.
            PeerError: ``relay.malformed``.  TransportError: ``relay.truncated``.
        """
        try:
            self._sealer, opener = self._handshake.meet(self._next(records))
            self._keyed.set()
            self._handshake.check(opener, self._next(records))
            self._opener = opener
            return opener
        finally:
            self._keyed.set()
            self._settled.set()

    def frames(self, records: Iterator[bytes]) -> Iterator[peer_pb2.Frame]:
        """The peer's frames, from what comes out of the relay; begins with :meth:`shake` where that was not done.

        Raises:
            VerificationError: as :meth:`shake`; ``relay.bad_seal``.
            PeerError: ``relay.malformed``, ``transport.oversized``.
            TransportError: ``relay.truncated`` when the records end before the peer's end of them.
        """
        opener = self._opener or self.shake(records)
        while True:
            kind, content = opener.take(self._next(records))
            if kind is Kind.END:
                return
            if kind is Kind.FRAME:
                try:
                    yield peer_pb2.Frame.FromString(content)
                except DecodeError:
                    raise PeerError(
                        "relay.malformed",
                        f"{self._peer} sealed what is no frame.",
                        remedy="Check that both nodes run the same version.",
                    ) from None

    def _next(self, records: Iterator[bytes]) -> bytes:
        record = next(records, None)
        if record is None:
            raise TransportError(
                "relay.truncated",
                f"The relay ended the stream with {self._peer} before {self._peer} did.",
                remedy="The step is tried again; if that repeats, ask the coordinator's operators.",
            )
        return record


def ended_by(error: grpc.RpcError, *, coordinator: Partner, peer: str) -> TransportError:
    """The error here when the relay ended a stream with ``error``.

    The coordinator is not the peer: of the codes it could send, only the relay's own are taken from it.
    """
    status = error.code() if isinstance(error, grpc.Call) else None
    code = (error.details() or "") if isinstance(error, grpc.Call) else ""
    if code in _ENDS:
        return TransportError(code, f"{peer} {_ENDS[code]}.", remedy=_REMEDIES.get(code, "The step is tried again."))
    if status is grpc.StatusCode.UNIMPLEMENTED:
        return ended_by_version(coordinator, peer)
    if status is grpc.StatusCode.UNAVAILABLE:
        return TransportError(
            "transport.unreachable",
            f"The coordinator {coordinator.name} cannot be reached, so neither can {peer} through its relay.",
            remedy="Check that it is running.",
        )
    return TransportError(
        "transport.closed",
        f"The relayed link to {peer} was cut before the step ended.",
        remedy="The step is tried again when the link is back.",
    )


def ended_by_version(coordinator: Partner, peer: str) -> TransportError:
    """The coordinator knows no relay."""
    return TransportError(
        "relay.protocol_version",
        f"{peer} cannot be met: the coordinator {coordinator.name} has no relay.",
        remedy="Update it, or give one of the two nodes an address and exchange its partner file again.",
    )


def meet(
    coordinator: Partner,
    identity: Identity,
    peer: Partner,
    spec: JobSpec,
    opening: peer_pb2.Open,
    *,
    limits: Limits = LIMITS,
    timeouts: Timeouts = TIMEOUTS,
    stop: threading.Event | None = None,
) -> GrpcChannel:
    """Open the stream that ``opening`` describes through the relay; the peer does the same.

    Raises:
        TransportError: ``relay.absent`` and the relay's other codes, ``transport.unreachable``, ``transport.timeout``,
            ``transport.stopping``.
        VerificationError: whoever answered is not the pinned peer, see :class:`Carrier`.
        PeerError: the peer's answer does not fit, see :func:`node.transport.client.check_open`.
        PeerAborted: the peer refused and told a code.
    """
    stop = stop or threading.Event()
    deadline, pause = time.monotonic() + timeouts.dial, timeouts.backoff
    while True:
        try:
            return _meet_once(coordinator, identity, peer, spec, opening, limits, timeouts, stop)
        except TransportError as error:
            if error.code not in _PASSING:
                raise
            if time.monotonic() + pause > deadline:
                raise (explain(coordinator) if error.code == "transport.unreachable" else error) from None
            _log.info("%s cannot be met through the relay yet (%s); trying again", peer.name, error.code)
        if stop.wait(pause):
            raise _stopping()
        pause = min(2 * pause, timeouts.backoff_max)


def _stopping() -> TransportError:
    return TransportError("transport.stopping", "This node is stopping.", remedy="Start it again; the step is tried again.")


def _meet_once(
    coordinator: Partner,
    identity: Identity,
    peer: Partner,
    spec: JobSpec,
    opening: peer_pb2.Open,
    limits: Limits,
    timeouts: Timeouts,
    stop: threading.Event,
) -> GrpcChannel:
    channel = secure_channel(coordinator, identity, limits)
    link = Link(peer=peer.name, limits=limits, timeouts=timeouts)
    handshake = Handshake(
        meeting_of(spec, opening, identity=identity, peer=peer),
        me=identity.name,
        key=identity.log_key,
        frame_bytes=limits.message_bytes + ENVELOPE_BYTES,
    )
    carrier = Carrier(handshake, link.frames(), peer=peer.name)
    room = relay_pb2.Room(
        protocol=SEALING_VERSION,
        job=opening.job,
        step=opening.step,
        round=opening.round,
        attempt=opening.attempt,
        peer=peer.name,
    )
    call = relay_pb2_grpc.RelayStub(channel).Exchange(_requests(room, carrier))
    if not call.add_callback(link.over):
        link.over()

    def read() -> None:
        try:
            link.pump(carrier.frames(_responses(call, coordinator, peer.name)))
        except IsthmusError as error:
            link.stop(error, tell=error.code)

    threading.Thread(target=read, name=f"read-{peer.name}", daemon=True).start()

    def hang_up() -> None:
        link.wait_over(timeouts.close)
        call.cancel()
        channel.close()

    stream = GrpcChannel(link, limits=limits, on_close=hang_up)
    try:
        link.put(peer_pb2.Frame(open=opening))
        answer = _first(link, timeouts, stop)
        if answer.WhichOneof("body") != "open":
            raise PeerError("protocol.unexpected_message", f"{peer.name} did not open the stream.", remedy="Check its version.")
        check_open(opening, answer.open, peer=peer.name)
    except IsthmusError as error:
        stream.abort(error.code)
        raise
    return stream


def _first(link: Link, timeouts: Timeouts, stop: threading.Event) -> peer_pb2.Frame:
    """The peer's first frame; it may come to the relay later than this node."""
    deadline = time.monotonic() + timeouts.park + timeouts.open
    while not stop.is_set():
        try:
            return link.get(_POLL_SECONDS)
        except TransportError as error:
            if error.code != "transport.timeout" or time.monotonic() > deadline:
                raise
    raise _stopping()


def _requests(room: relay_pb2.Room, carrier: Carrier) -> Iterator[relay_pb2.Sealed]:
    yield relay_pb2.Sealed(room=room)
    for record in carrier.records():
        yield relay_pb2.Sealed(record=record)


def _responses(call: Iterator[relay_pb2.Sealed], coordinator: Partner, peer: str) -> Iterator[bytes]:
    try:
        for sealed in call:
            yield sealed.record
    except grpc.RpcError as error:
        raise ended_by(error, coordinator=coordinator, peer=peer) from None
