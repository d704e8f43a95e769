"""Whose approval a signed decision is: checked with pinned keys, whoever passed it on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from audit.identity import Identity
from audit.partner import Partner
from audit.receipts import verify_approval
from audit.spec import JobSpec
from node.errors import IsthmusError, VerificationError
from node.runtime.store import SignedDecision
from protos import control_pb2


class Signers(Protocol):
    """What a node knows of keys."""

    @property
    def identity(self) -> Identity:
        """This node's own."""

    @property
    def partners(self) -> Mapping[str, Partner]:
        """The others', by name."""


def author_of(parts: Signers, job: str, spec: JobSpec, decision: control_pb2.Decision) -> str:
    """The party whose key signed an approval of this very job."""
    errors: list[IsthmusError] = []
    for party in (spec.label_holder.name, spec.feature_holder.name):
        try:
            verify_decision(parts, job, spec, party, SignedDecision(decision.statement, decision.signature))
        except VerificationError as error:
            errors.append(error)
        else:
            return party
    raise errors[-1]


def verify_decision(parts: Signers, job: str, spec: JobSpec, party: str, signed: SignedDecision) -> None:
    """Whether ``party`` signed an approval of this job together with the job's other party.

    Raises:
        VerificationError: ``job.not_approved``, ``approval.*``, ``audit.bad_signature``.
    """
    identity = parts.identity
    partner = parts.partners.get(party)
    if party != identity.name and partner is None:
        raise not_approved(job, f"no partner file of {party} is here to check its signature with")
    key = identity.log_key.verifier if partner is None or party == identity.name else partner.log_key
    try:
        signature = bytes.fromhex(signed.signature)
    except ValueError:
        raise VerificationError("audit.bad_signature", f"The signature of {party} is not hexadecimal.") from None
    approval = verify_approval(signed.statement.encode(), signature, key=key, job=job, party=party)
    if approval.decision != "approve" or approval.peer != spec.peer_of(party).name:
        raise not_approved(job, f"{party} signed something else than its approval together with {spec.peer_of(party).name}")


def not_approved(job: str, reason: str) -> VerificationError:
    """The error of a job that lacks an approval."""
    return VerificationError(
        "job.not_approved",
        f"Job {job[:12]} cannot run: {reason}.",
        remedy="Both nodes must approve the job; `isthmus-node jobs` shows what waits here.",
    )
