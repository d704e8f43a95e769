"""What the two nodes sign: approvals of a job, and receipts over the messages of a step.

Both are canonical JSON objects (RFC 8785) that name their own kind, so that one is never taken for the other.

The transcript of an attempt hashes each direction on its own, in that direction's order, because two nodes need not see the two
directions interleaved alike::

    direction digest = SHA-256( for each message: field(type) || length (8 bytes) || SHA-256 of the payload )
    transcript       = SHA-256( domain || field(job) || field(step) || round || attempt (8 bytes each)
                                || for the label holder, then the feature holder:
                                   field(name) || count (8 bytes) || direction digest )

with ``field(x)`` = length of x in 4 bytes, then x in UTF-8; all integers big-endian.  Both nodes get the same value, or the step
fails.
"""

from __future__ import annotations

import functools
import hashlib
import json
import struct
from typing import Annotated, Literal

import rfc8785
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from audit.errors import UsageError, VerificationError
from audit.signing import VerifierKey
from audit.spec import Name, explain

DIGEST_BYTES = 32
STATEMENT_BYTES_MAX = 4096
_DOMAIN = b"isthmus transcript v1"


@functools.lru_cache(maxsize=256)
def _field(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">I", len(data)) + data


class Transcript:
    """The running digest of one attempt of one step, the same at both nodes.

    Args:
        job, step, round, attempt: which attempt.
        parties: the label holder's name, then the feature holder's.
    """

    def __init__(self, *, job: str, step: str, round: int, attempt: int, parties: tuple[str, str]) -> None:
        if len(set(parties)) != 2:
            raise UsageError("receipt.parties", "A transcript has two parties of different names.")
        self._head = _DOMAIN + _field(job) + _field(step) + struct.pack(">QQ", round, attempt)
        self._parties = parties
        self._directions = {party: hashlib.sha256() for party in parties}
        self._counts = dict.fromkeys(parties, 0)

    def add(self, sender: str, kind: str, payload_sha256: bytes, length: int) -> None:
        """Add the next message of ``sender``: its type, the SHA-256 of its serialised bytes, and how many these are."""
        if sender not in self._counts:
            raise UsageError("receipt.sender", f"{sender!r} is no party of this transcript.")
        if len(payload_sha256) != DIGEST_BYTES:
            raise UsageError("receipt.payload_digest", f"A message's SHA-256 has {DIGEST_BYTES} bytes, not {len(payload_sha256)}.")
        self._directions[sender].update(_field(kind) + length.to_bytes(8) + payload_sha256)
        self._counts[sender] += 1

    def digest(self) -> bytes:
        """The transcript's SHA-256 over everything added so far (32 bytes)."""
        return self._digest(self._parties)

    def digest_reversed(self) -> bytes:
        """The digest with the parties' roles exchanged, for a reader who has the messages but not the specification."""
        return self._digest((self._parties[1], self._parties[0]))

    def _digest(self, parties: tuple[str, str]) -> bytes:
        whole = hashlib.sha256(self._head)
        for party in parties:
            whole.update(_field(party) + struct.pack(">Q", self._counts[party]) + self._directions[party].digest())
        return whole.digest()


def receipt_statement(*, job: str, step: str, round: int, attempt: int, digest: bytes) -> bytes:
    """The bytes a node signs in a ``StepReceipt``: this attempt had this transcript."""
    return rfc8785.dumps(
        {"v": 1, "kind": "isthmus.receipt", "job": job, "step": step, "round": round, "attempt": attempt, "digest": digest.hex()}
    )


class Approval(BaseModel):
    """One party's decision on one job, as signed.  ``time`` is the signer's own word."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    v: Literal[1]
    kind: Literal["isthmus.approval"]
    job: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    party: Name
    peer: Name
    decision: Literal["approve", "reject"]
    by: Annotated[str, StringConstraints(max_length=200)]
    time: Annotated[str, StringConstraints(max_length=40)]


def approval_statement(*, job: str, party: str, peer: str, decision: str, by: str, time: str) -> bytes:
    """The bytes a node signs to approve or reject a job (canonical JSON).

    Args:
        job: SHA-256 of the specification, hex: the statement is over this very document.
        party, peer: the signer and the other node.
        decision: ``"approve"`` or ``"reject"``.
        by: the person, or ``"policy"``.
        time: RFC 3339, UTC.

    Raises:
        UsageError: ``approval.invalid``.
    """
    fields: dict[str, str | int] = {
        "v": 1,
        "kind": "isthmus.approval",
        "job": job,
        "party": party,
        "peer": peer,
        "decision": decision,
        "by": by,
        "time": time,
    }
    try:
        Approval.model_validate(fields)
    except ValidationError as error:
        raise UsageError("approval.invalid", "The approval cannot be written: " + explain(error)) from None
    return rfc8785.dumps({**fields})


def parse_approval(statement: bytes) -> Approval:
    """Read an approval statement; its signature is not checked.

    Raises:
        VerificationError: ``approval.malformed``.
    """
    try:
        if len(statement) > STATEMENT_BYTES_MAX:
            raise ValueError
        fields = json.loads(statement)
        approval = Approval.model_validate(fields)
        canonical = rfc8785.dumps(fields) == statement
    except (ValueError, RecursionError, rfc8785.CanonicalizationError):
        # pydantic's ValidationError is a ValueError: whatever the reason, the remedy is the same.
        raise VerificationError("approval.malformed", "The approval is not a canonical approval statement.") from None
    if not canonical:
        raise VerificationError("approval.malformed", "The approval is not in canonical form (RFC 8785).")
    return approval


def verify_approval(statement: bytes, signature: bytes, *, key: VerifierKey, job: str, party: str) -> Approval:
    """The decision in ``statement``, when ``key`` signed it and it is ``party``'s on ``job``.

    Raises:
        VerificationError: ``approval.malformed``, ``approval.other_job``, ``approval.other_party``, ``audit.bad_signature``.
    """
    key.verify(statement, signature)
    approval = parse_approval(statement)
    if approval.job != job:
        raise VerificationError(
            "approval.other_job",
            f"{approval.party} signed job {approval.job[:12]}, not job {job[:12]}.",
            remedy="The specification was changed after it was approved: submit it again and let both parties approve it.",
        )
    if approval.party != party:
        raise VerificationError("approval.other_party", f"The approval is one of {approval.party!r}, not of {party!r}.")
    return approval
