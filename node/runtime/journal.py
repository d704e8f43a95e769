"""A channel that wraps another and writes down every message before it leaves and before it is acted on.

    protocol -> JournalChannel.send -> log entry on disk -> wire
    protocol <- JournalChannel.recv <- log entry on disk <- wire

At the end of a step both nodes sign the same digest over all messages of the attempt, both directions (audit-log.md,
"Receipt"); if they saw
different conversations the step fails here.  An entry holds a message's type, length, digest and number of items, never its
content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from google.protobuf.message import Message

from audit.receipts import Transcript, receipt_statement
from audit.signing import SigningKey, VerifierKey
from node.errors import VerificationError
from node.transport.channel import Wire, parse
from protos.peer_pb2 import StepReceipt

M = TypeVar("M", bound=Message)


class Log(Protocol):
    """What the runtime needs of ``audit.record.LogWriter``."""

    def append(self, kind: str, *, job: str = "", step: str = "", attempt: int = 0, round: int = 0, **fields: Any) -> int:
        """Write an entry; it is on disk when this returns."""

    def checkpoint(self) -> str:
        """Sign the tree head."""


@dataclass(frozen=True)
class StepLabels:
    """Which attempt of which step of which job."""

    job: str
    step: str
    round: int
    attempt: int

    def fields(self) -> dict[str, Any]:
        """As keyword arguments of ``Log.append``, ``Drbg`` and the protobuf messages."""
        return {"job": self.job, "step": self.step, "round": self.round, "attempt": self.attempt}


class JournalChannel:
    """The ``Channel`` that protocols get.

    Args:
        wire: the link underneath.
        log: where entries go.
        labels: the attempt this channel belongs to.
        me, peer: names of this node and the other.
        parties: the label holder's name, then the feature holder's.
        keep: takes each received message's bytes, for a replay; None where the policy keeps nothing.
    """

    def __init__(
        self,
        wire: Wire,
        *,
        log: Log,
        labels: StepLabels,
        me: str,
        peer: str,
        parties: tuple[str, str],
        keep: Callable[[bytes], None] | None = None,
    ) -> None:
        self._wire, self._log, self._labels, self._me, self._peer = wire, log, labels, me, peer
        self._keep = keep
        self._transcript = Transcript(**labels.fields(), parties=parties)
        self._count = {"sent": 0, "received": 0}
        self.bytes_sent = 0
        self.bytes_received = 0
        self.items_sent: dict[str, int] = {}
        """Items sent so far, by message type: what has crossed, also when the step fails later."""

    def send(self, message: Message) -> None:
        """Write the message down, then hand it to the wire."""
        kind, payload = serialised(message)
        items = items_of(message)
        self._record("sent", self._me, kind, payload, items)
        self.items_sent[kind] = self.items_sent.get(kind, 0) + items
        self.bytes_sent += len(payload)
        self._wire.send_payload(kind, payload)

    def recv(self, kind: type[M]) -> M:
        """Take the next message from the wire and write it down before the protocol sees it."""
        name = kind.DESCRIPTOR.name
        payload = self._wire.recv_payload(name)
        message = parse(kind, payload)
        if self._keep is not None:
            self._keep(payload)
        self._record("received", self._peer, name, payload, items_of(message))
        self.bytes_received += len(payload)
        return message

    def _record(self, direction: str, sender: str, kind: str, payload: bytes, items: int) -> None:
        digest = hashlib.sha256(payload)
        self._log.append(
            "message",
            **self._labels.fields(),
            direction=direction,
            peer=self._peer,
            type=kind,
            seq=self._count[direction],
            length=len(payload),
            sha256=digest.hexdigest(),
            items=items,
        )
        self._count[direction] += 1
        self._transcript.add(sender, kind, digest.digest(), len(payload))

    def exchange_receipts(self, *, key: SigningKey, peer_key: VerifierKey) -> bytes:
        """Sign the transcript, swap signatures with the peer and compare; returns the digest (32 bytes).

        Raises:
            VerificationError: ``journal.receipts_differ`` (the two nodes saw different conversations), ``audit.bad_signature``.
        """
        digest = self._transcript.digest()
        statement = receipt_statement(**self._labels.fields(), digest=digest)
        own = StepReceipt(digest=digest, signature=key.sign(statement))
        self._record_receipt("sent", own)
        self._wire.send_payload("StepReceipt", own.SerializeToString(deterministic=True))
        theirs = parse(StepReceipt, self._wire.recv_payload("StepReceipt"))
        self._record_receipt("received", theirs)
        if theirs.digest != digest:
            raise VerificationError(
                "journal.receipts_differ",
                f"This node and {self._peer} recorded different conversations in {self._labels.step}, round {self._labels.round}.",
                remedy="Compare both logs with `isthmus-audit verify`: the first message that differs is named there.",
            )
        peer_key.verify(statement, theirs.signature)
        return digest

    def _record_receipt(self, direction: str, receipt: StepReceipt) -> None:
        self._log.append(
            "receipt",
            **self._labels.fields(),
            direction=direction,
            peer=self._peer,
            # A peer may send any bytes here; what is no digest or signature is cut to a bounded length and fails right after.
            digest=receipt.digest[:64].hex(),
            signature=receipt.signature[:128].hex(),
        )


def serialised(message: Message) -> tuple[str, bytes]:
    """A message's type by name and its one canonical serialisation."""
    return message.DESCRIPTOR.name, message.SerializeToString(deterministic=True)


def items_of(message: Message) -> int:
    """How many items a message holds: the count of a batch, else one."""
    return int(getattr(message, "count", 1))
