"""The way to a peer that this node cannot reach and that cannot reach it: sealed records through the coordinator's relay.

    Leg.frames() -> seal -> Relay.Exchange at the coordinator -> ... the peer's node, likewise
    Leg.pump()   <- open <-

:class:`Carrier` sits below a session's leg: it takes frames and gives records, takes records and gives frames, and knows nothing of
gRPC.  Both nodes dial the coordinator, each stream is sealed with keys of its own, and the session goes on over the next one as on
direct streams.  What the coordinator says of a stream's end is believed only as a reason why the link was cut; what the peer says
arrives sealed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from audit.identity import Identity
from audit.partner import Partner
from audit.spec import JobSpec
from node.errors import IsthmusError, PeerError, TransportError
from node.limits import LIMITS, Limits
from node.transport.channel import GrpcChannel
from node.transport.client import Latest, explain, open_session, secure_channel
from node.transport.opening import TOKEN_BYTES, check_open
from node.transport.options import ENVELOPE_BYTES, TIMEOUTS, Timeouts, chunk_bytes
from node.transport.outage import OnWait
from node.transport.sealing import SEALING_VERSION, Handshake, Kind, Meeting, Opener, Sealer, Side
from node.transport.session import Session
from node.transport.switchboard import Switchboard
from protos import peer_pb2, relay_pb2, relay_pb2_grpc

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
        self.said_end = threading.Event()
        """The end of this node's frames was handed over."""

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
        self.said_end.set()
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
    board: Switchboard,
    limits: Limits = LIMITS,
    timeouts: Timeouts = TIMEOUTS,
    stop: threading.Event | None = None,
    on_wait: OnWait | None = None,
    latest: Latest | None = None,
) -> GrpcChannel:
    """Open the session that ``opening`` describes through the relay; the peer does the same.

    ``latest`` gives coordinator and identity anew for each stream, where certificates may be renewed meanwhile.

    Both nodes begin a new stream when one breaks.  As between two nodes that can both be reached, the feature holder calls
    and the label holder answers.

    Raises:
        TransportError: after ``timeouts.patience`` seconds ``relay.absent`` and the relay's other codes or
            ``transport.unreachable``; ``transport.stopping``.
        VerificationError: whoever answered is not the pinned peer, see :class:`Carrier`.
        PeerError: the peer's answer does not fit, see :func:`node.transport.opening.check_open`.
        PeerAborted: the peer refused and told a code.
    """

    now = latest or (lambda: (coordinator, identity))
    calls = spec.feature_holder.name == identity.name
    if calls:
        session = Session(peer=peer.name, calls=True, token=os.urandom(TOKEN_BYTES), limits=limits, timeouts=timeouts)
    else:
        stopping = stop or threading.Event()
        session = board.claim(peer.name, opening, limits=limits, timeouts=timeouts, stop=stopping, on_wait=on_wait)

    def reach(frames: Iterator[peer_pb2.Frame]) -> _Stream:
        if session.settled:  # a last word is not worth waiting at the relay for: the coordinator tells the peer of the end
            raise TransportError("relay.ended", f"The session with {peer.name} has ended.")
        where = (*now(), peer, spec, opening, frames, limits, timeouts)
        return _Stream(*where) if calls else _Admitting(*where, board=board)

    def cause_of(error: IsthmusError) -> IsthmusError:
        return explain(now()[0]) if error.code == "transport.unreachable" else error

    return open_session(session, opening, reach, cause_of, limits=limits, stop=stop, on_wait=on_wait)


class _Stream:
    """One call of the relay, on a connection of its own (``node.transport.client.Carrier``)."""

    def __init__(
        self,
        coordinator: Partner,
        identity: Identity,
        peer: Partner,
        spec: JobSpec,
        opening: peer_pb2.Open,
        frames: Iterator[peer_pb2.Frame],
        limits: Limits,
        timeouts: Timeouts,
    ) -> None:
        self._coordinator, self.peer, self._close, self._over = coordinator, peer.name, timeouts.close, threading.Event()
        handshake = Handshake(
            meeting_of(spec, opening, identity=identity, peer=peer),
            me=identity.name,
            key=identity.log_key,
            frame_bytes=chunk_bytes(limits) + ENVELOPE_BYTES,
        )
        room = relay_pb2.Room(
            protocol=SEALING_VERSION,
            job=opening.job,
            step=opening.step,
            round=opening.round,
            attempt=opening.attempt,
            peer=peer.name,
        )
        self._carrier = Carrier(handshake, frames, peer=peer.name)
        self._channel = secure_channel(coordinator, identity, limits)
        self._call = relay_pb2_grpc.RelayStub(self._channel).Exchange(_requests(room, self._carrier))
        if not self._call.add_callback(self._over.set):
            self._over.set()

    def __iter__(self) -> Iterator[peer_pb2.Frame]:
        yield from self._carrier.frames(_responses(self._call, self._coordinator, self.peer))
        self._carrier.said_end.wait(self._close)  # the peer's last word may be owed one of ours

    def cancel(self) -> None:
        """Cut it; what was sent up to this node's end may still go out for a little."""
        if self._carrier.said_end.is_set():
            self._over.wait(self._close)
        self._call.cancel()
        self._channel.close()


class _Admitting(_Stream):
    """The answering side's: the switchboard holds the first frame against what it knows of the session, as on a direct stream."""

    def __init__(self, *args: Any, board: Switchboard) -> None:
        super().__init__(*args)
        self._board = board
        self._limits, self._timeouts = args[-2:]

    def __iter__(self) -> Iterator[peer_pb2.Frame]:
        frames = super().__iter__()
        for first in frames:
            if first.WhichOneof("body") == "open":
                check_open(first.open, first.open, peer=self.peer)
                self._board.admit(self.peer, first.open, limits=self._limits, timeouts=self._timeouts)
            yield first
            break
        yield from frames


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
