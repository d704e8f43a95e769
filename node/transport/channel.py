"""A protocol channel over one bidirectional gRPC stream: translation, order, sizes, back-pressure; no protocol.

    protocol thread     send -> [ <= send_queue frames ] -> gRPC's thread -> wire
                        recv <- [ <= INBOUND_BYTES     ] <- reader thread <- wire

Both buffers are bounded, so a slow reader slows the writer down all the way.  A protocol must therefore not send without end while
its peer does the same: batches alternate, or stay below the buffers.  One stream carries one attempt of one step.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from node.errors import IsthmusError, PeerError, TransportError, UsageError
from node.limits import LIMITS, Limits
from node.transport.errors import closed, from_rpc, told_by
from node.transport.options import TIMEOUTS, Timeouts
from protos import peer_pb2

PROTOCOL_VERSION = 1
INBOUND_BYTES = 32 * 2**20
"""Received bytes that may wait for the protocol before the reader stops reading."""
_ENVELOPE = ("Frame", "Open", "Data", "Abort")
MESSAGE_TYPES = frozenset(peer_pb2.DESCRIPTOR.message_types_by_name) - frozenset(_ENVELOPE)

M = TypeVar("M", bound=Message)


class Wire(Protocol):
    """A channel seen as serialised messages; the journal stands between this and the protocol."""

    def send_payload(self, kind: str, payload: bytes) -> None:
        """Hand the serialised message of type ``kind`` to the link."""

    def recv_payload(self, kind: str) -> bytes:
        """The next message's bytes, which must be of type ``kind``."""


def parse(kind: type[M], payload: bytes) -> M:
    """Read a message and refuse anything that its definition does not name.

    Raises:
        PeerError: ``protocol.malformed_message`` when the bytes cannot be parsed or are not the one serialisation of what they say:
            an unknown field, or a field written twice, would carry what no journal entry describes.
    """
    name = kind.DESCRIPTOR.name
    message = kind()
    try:
        message.ParseFromString(payload)
    except DecodeError:
        raise _malformed(name, "cannot be parsed") from None
    message.DiscardUnknownFields()
    if message.SerializeToString(deterministic=True) != payload:
        raise _malformed(name, "is not in its one canonical form")
    return message


def _malformed(name: str, reason: str) -> PeerError:
    return PeerError(
        "protocol.malformed_message", f"A received {name} message {reason}.", remedy="Check that both nodes run the same version."
    )


class Link:
    """The two bounded buffers of one stream, between gRPC's threads and the protocol's."""

    def __init__(self, *, peer: str, limits: Limits = LIMITS, timeouts: Timeouts = TIMEOUTS) -> None:
        self.peer, self.timeouts = peer, timeouts
        self._limits = limits
        self._changed = threading.Condition()
        self._out: deque[peer_pb2.Frame] = deque()
        self._in: deque[peer_pb2.Frame] = deque()
        self._in_bytes = 0
        self._sent_all = False  # nothing more will be put
        self._rpc_over = False  # gRPC says the call ended
        self._read_all = False  # the reader met the end
        self._failure: IsthmusError | None = None  # why reading ended; frames before it can still be taken
        self._stopped: IsthmusError | None = None  # given up here: at once
        self.claimed = False
        """Set by the switchboard when a step has taken the stream."""

    # -- the protocol's side
    def put(self, frame: peer_pb2.Frame) -> None:
        """Queue a frame; blocks while the queue is full.  Raises why the link ended, or ``transport.timeout``."""
        with self._changed:
            room = self._changed.wait_for(
                lambda: self._stopped or self._rpc_over or self._read_all or len(self._out) < self._limits.send_queue,
                self.timeouts.peer,
            )
            if self._rpc_over or self._read_all:  # a reason may still be on its way through the reader
                self._changed.wait_for(lambda: self._stopped or self._read_all, self.timeouts.close)
            if self._stopped:
                raise self._stopped
            if self._rpc_over or self._read_all or self._sent_all:
                raise self._failure or closed(self.peer)
            if not room:
                raise _timeout(self.peer, self.timeouts.peer, "did not take a message")
            self._out.append(frame)
            self._changed.notify_all()

    def get(self, timeout: float | None = None) -> peer_pb2.Frame:
        """The next frame.  Raises why the link ended, or ``transport.timeout``."""
        seconds = self.timeouts.peer if timeout is None else timeout
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._in or self._read_all, seconds)
            if self._stopped:
                raise self._stopped
            if self._in:
                frame = self._in.popleft()
                self._in_bytes -= frame.ByteSize()
                self._changed.notify_all()
                return frame
            if self._read_all:
                raise self._failure or closed(self.peer)
            raise _timeout(self.peer, seconds, "said nothing")

    def finish(self) -> None:
        """Nothing more will be sent; what is queued still goes out."""
        with self._changed:
            self._sent_all = True
            self._changed.notify_all()

    def stop(self, error: IsthmusError, *, tell: str = "") -> None:
        """Give up: both ends of this side raise ``error`` from now on; the peer is told the code ``tell`` if one is given."""
        with self._changed:
            if self._stopped is None:
                self._stopped = error
            if tell and not self._sent_all:
                self._out.clear()
                self._out.append(peer_pb2.Frame(abort=peer_pb2.Abort(code=tell)))
            self._sent_all = True
            self._changed.notify_all()

    def depths(self) -> tuple[int, int]:
        """Frames waiting to go out and to be taken; none once the call is over."""
        with self._changed:
            return (0, 0) if self._rpc_over else (len(self._out), len(self._in))

    def wait_over(self, seconds: float) -> bool:
        """Wait until the call has ended."""
        with self._changed:
            return self._changed.wait_for(lambda: self._rpc_over, seconds)

    # -- gRPC's side
    def frames(self) -> Iterator[peer_pb2.Frame]:
        """What gRPC sends, until :meth:`finish`, :meth:`stop` or the end of the call."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._out or self._sent_all or self._rpc_over)
                if not self._out or self._rpc_over:
                    return
                frame = self._out.popleft()
                self._changed.notify_all()
            yield frame

    def pump(self, frames: Iterable[peer_pb2.Frame]) -> None:
        """Body of the reader thread: move frames in until the stream ends."""
        failure: IsthmusError | None = None
        try:
            for frame in frames:
                if frame.WhichOneof("body") == "abort":
                    failure = told_by(self.peer, frame.abort.code)
                    break
                if not self._take(frame):
                    break
        except grpc.RpcError as error:
            failure = from_rpc(error, peer=self.peer)
        with self._changed:
            self._failure, self._read_all = failure, True
            self._changed.notify_all()

    def _take(self, frame: peer_pb2.Frame) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._in_bytes < INBOUND_BYTES or self._stopped or self._rpc_over)
            self._in.append(frame)
            self._in_bytes += frame.ByteSize()
            self._changed.notify_all()
            return not self._stopped

    def over(self, *_: object) -> None:
        """Called by gRPC when the call has ended, however it ended."""
        with self._changed:
            self._rpc_over = True
            self._changed.notify_all()


def _timeout(peer: str, seconds: float, what: str) -> TransportError:
    return TransportError(
        "transport.timeout", f"{peer} {what} for {seconds:g} seconds.", remedy="Check that it is running and try again."
    )


class GrpcChannel:
    """One party's end of one attempt of one step: a ``Channel`` and a ``Wire`` over a :class:`Link`."""

    def __init__(self, link: Link, *, limits: Limits = LIMITS, on_close: Callable[[], None] | None = None) -> None:
        self._link, self._limits, self._on_close = link, limits, on_close
        self._sent = self._received = 0
        self._closed = False

    def send(self, message: Message) -> None:
        """Hand one message to the link (``node.protocols.channel.Channel``)."""
        self.send_payload(message.DESCRIPTOR.name, message.SerializeToString(deterministic=True))

    def recv(self, kind: type[M]) -> M:
        """The next message, which must be of type ``kind``."""
        return parse(kind, self.recv_payload(kind.DESCRIPTOR.name))

    def send_payload(self, kind: str, payload: bytes) -> None:
        """Send a serialised message.

        Raises:
            UsageError: ``transport.oversized`` (a protocol here made too large a batch).
            PeerAborted: the peer gave the step up.  TransportError: ``transport.closed``, ``transport.timeout``.
        """
        if len(payload) > self._limits.message_bytes:
            raise UsageError(
                "transport.oversized",
                f"A {kind} message of {len(payload)} bytes is larger than {self._limits.message_bytes}.",
                remedy="Lower the batch limits in node/limits.py.",
            )
        self._link.put(peer_pb2.Frame(data=peer_pb2.Data(type=kind, seq=self._sent, payload=payload)))
        self._sent += 1

    def recv_payload(self, kind: str) -> bytes:
        """The next message's bytes.

        Raises:
            PeerError: ``transport.out_of_order``, ``transport.oversized``, ``protocol.unexpected_message``.
            PeerAborted: the peer gave the step up.  TransportError: ``transport.closed``, ``transport.timeout``.
        """
        frame = self._link.get()
        if frame.WhichOneof("body") != "data":
            raise self._unexpected(kind, "a frame that is no message")
        data = frame.data
        if data.seq != self._received:
            raise PeerError(
                "transport.out_of_order",
                f"{self._link.peer} sent message {data.seq} where {self._received} was due.",
                remedy="The step is given up; check that nothing between the nodes repeats or reorders messages.",
            )
        if len(data.payload) > self._limits.message_bytes:
            raise PeerError(
                "transport.oversized",
                f"{self._link.peer} sent {len(data.payload)} bytes at once; at most {self._limits.message_bytes} are accepted.",
                remedy="Both nodes must use the same message limit.",
            )
        if data.type not in MESSAGE_TYPES:
            raise self._unexpected(kind, "a message of an unknown type")
        if data.type != kind:
            raise self._unexpected(kind, data.type)
        self._received += 1
        return data.payload

    def _unexpected(self, kind: str, what: str) -> PeerError:
        return PeerError(
            "protocol.unexpected_message",
            f"{self._link.peer} sent {what} where {kind} was due.",
            remedy="Check that both nodes run the same version.",
        )

    def depths(self) -> tuple[int, int]:
        """Messages waiting to go out, and messages waiting to be taken."""
        return self._link.depths()

    def abort(self, code: str) -> None:
        """Give the step up and tell the peer ``code`` alone."""
        self._link.stop(TransportError(code, "The step was given up here."), tell=code)
        self.close()

    def cancel(self, error: IsthmusError) -> None:
        """From another thread: make the protocol here raise ``error`` at its next message; the peer is told its code."""
        self._link.stop(error, tell=error.code)

    def close(self) -> None:
        """End this side of the stream and wait a little for the other; never raises, may be called twice."""
        if self._closed:
            return
        self._closed = True
        self._link.finish()
        if self._on_close:
            self._on_close()
