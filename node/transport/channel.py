"""A protocol channel over a session: messages, their types and sizes; no protocol.

    protocol thread     send -> parts of <= chunk_bytes -> session's window  (blocks while the peer has not taken what was sent)
                        recv <- parts, put together     <- session's inbox

Both windows are bounded, so a slow reader slows the writer down all the way.  A protocol must therefore not send without end while
its peer does the same: batches alternate, or stay below the windows.  One session carries one attempt of one step.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from node.errors import IsthmusError, PeerError, TransportError, UsageError
from node.limits import LIMITS, Limits
from node.transport.opening import PROTOCOL_VERSION as PROTOCOL_VERSION
from node.transport.options import chunk_bytes
from node.transport.session import Session
from node.transport.windows import Part
from protos import peer_pb2

_ENVELOPE = ("Frame", "Open", "Data", "Abort", "Ack", "Fin")
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


class GrpcChannel:
    """One party's end of one attempt of one step: a ``Channel`` and a ``Wire`` over a session."""

    def __init__(self, session: Session, *, limits: Limits = LIMITS) -> None:
        self.session, self._limits, self._chunk = session, limits, chunk_bytes(limits)
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
            PeerError: what the peer did to the session.  PeerAborted: it gave the step up.  TransportError: the link, or
                ``transport.timeout``.
        """
        if len(payload) > self._limits.message_bytes:
            raise UsageError(
                "transport.oversized",
                f"A {kind} message of {len(payload)} bytes is larger than {self._limits.message_bytes}.",
                remedy="Lower the batch limits in node/limits.py.",
            )
        if len(payload) <= self._chunk:
            self.session.put(Part(kind, payload, more=False))
            return
        for start in range(0, len(payload), self._chunk):
            end = start + self._chunk
            self.session.put(Part("" if start else kind, payload[start:end], more=end < len(payload)))

    def recv_payload(self, kind: str) -> bytes:
        """The next message's bytes.

        Raises:
            PeerError: ``transport.oversized``, ``protocol.unexpected_message``, and what the peer did to the session.
            PeerAborted: the peer gave the step up.  TransportError: the link, or ``transport.timeout``.
        """
        part = self.session.get()
        if part.kind not in MESSAGE_TYPES:
            raise self._unexpected(kind, "a message of an unknown type")
        if part.kind != kind:
            raise self._unexpected(kind, part.kind)
        if not part.more:
            return part.payload
        parts, size = [part.payload], len(part.payload)
        while part.more:
            part = self.session.get()
            size += len(part.payload)
            if part.kind or not part.payload:
                raise self._unexpected(kind, "something else in the middle of a message")
            if size > self._limits.message_bytes:
                raise PeerError(
                    "transport.oversized",
                    f"{self.session.peer} sent a {kind} of more than {self._limits.message_bytes} bytes.",
                    remedy="Both nodes must use the same message limit.",
                )
            parts.append(part.payload)
        return b"".join(parts)

    def _unexpected(self, kind: str, what: str) -> PeerError:
        return PeerError(
            "protocol.unexpected_message",
            f"{self.session.peer} sent {what} where {kind} was due.",
            remedy="Check that both nodes run the same version.",
        )

    def depths(self) -> tuple[int, int]:
        """Messages waiting to go out, and messages waiting to be taken."""
        return self.session.depths()

    def abort(self, code: str) -> None:
        """Give the step up and tell the peer ``code`` alone, if it can be told soon."""
        self.session.stop(TransportError(code, "The step was given up here."), tell=code)
        if not self._closed:
            self._closed = True
            self.session.wait_said(self.session.timeouts.close)

    def cancel(self, error: IsthmusError) -> None:
        """From another thread: make the protocol here raise ``error`` at its next message; the peer is told its code."""
        self.session.stop(error, tell=error.code)

    def close(self) -> None:
        """Wait until the peer has taken what was sent, and end the session; never raises, may be called twice."""
        if not self._closed:
            self._closed = True
            self.session.finish()
