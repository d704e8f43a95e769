"""The abstract channel a protocol is written over, and nothing else.

A protocol is a straight-line function of one party.  ``send`` may return before the peer has the message; ``recv`` blocks until
the next message is there and raises ``PeerError("protocol.unexpected_message")`` when it is of another type.  Messages are the
protobuf classes of ``protos/peer.proto``; their serialised bytes are what the journal digests.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from google.protobuf.message import Message

M = TypeVar("M", bound=Message)


class Channel(Protocol):
    """One party's end of an ordered, reliable link to the other party."""

    def send(self, message: Message) -> None:
        """Hand one message to the link."""

    def recv(self, kind: type[M]) -> M:
        """Return the next message, which must be of type ``kind``."""


class Progress(Protocol):
    """Where a protocol says how far it is; called at most once per batch, never decides anything."""

    def __call__(self, phase: str, done: int, total: int) -> None: ...


def silent(phase: str, done: int, total: int) -> None:
    """The progress that nobody watches."""
