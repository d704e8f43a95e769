"""Whom an auditor trusts: the keys of the logs, from a policy file, from partner files, or from nowhere.

A policy is a TOML file of the auditor's own::

    quorum = 2                       # optional: witnesses that each entry of a job needs; absent: all of the job's other parties
    [[log]]
    name = "bank"
    role = "bank"                    # bank | platform | coordinator
    key = "isthmus.log/bank+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    [[cosigner]]                     # optional: a witness beside the logs' owners
    name = "witness.example"
    key = "witness.example+8d66cf3f+BA..."   # as C2SP tlog-cosignature has it; the type byte may also be that of a log key
    [limits]                         # optional: what the auditor asks of every job, beside the parties' own policies
    key_bits_min = 3072
    minimum_intersection = 1000
    rounds_max = 16

A partner file gives the same for one log (its fingerprint was compared when it was exchanged).  With either, every log to be
verified must be named by one of them.  With neither, the key is taken from the ``log.pub`` beside each log: that shows whether
the logs are whole and agree with each other, but not who wrote them; anyone could have made the whole set.  The result then says
so (``keys`` is ``self-asserted``); it does not change the exit code, because it is known before the run from the command line
alone.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, ValidationError

from audit.checkpoint import log_of
from audit.cosignature import parse_cosigner
from audit.errors import UsageError, VerificationError
from audit.identity import Role
from audit.partner import read_partner
from audit.signing import VerifierKey
from audit.spec import Name, explain
from audit.strict_toml import Strict

POLICY_BYTES_MAX = 256 * 2**10

KeySource = Literal["policy", "partner files", "policy and partner files", "self-asserted"]
KeyText = Annotated[str, StringConstraints(max_length=512)]


class LogPolicy(Strict):
    """One log: its name, its owner's role and the key that must have signed it."""

    name: Name
    role: Role
    key: KeyText


class CosignerPolicy(Strict):
    """One cosigner of checkpoints."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    key: KeyText


class Limits(Strict):
    """What the auditor asks of every job; absent: the parties' own policies alone."""

    key_bits_min: Annotated[int, Field(ge=1)] | None = None
    minimum_intersection: Annotated[int, Field(ge=1)] | None = None
    rounds_max: Annotated[int, Field(ge=1)] | None = None


class AuditPolicy(Strict):
    """The policy file."""

    quorum: Annotated[int, Field(ge=0, le=64)] | None = None
    log: Annotated[list[LogPolicy], Field(min_length=1, max_length=1000)]
    cosigner: list[CosignerPolicy] = Field(default=[], max_length=64)
    limits: Limits = Limits()


@dataclass(frozen=True)
class Trust:
    """Whom the auditor trusts, and where that comes from.

    Attributes:
        keys: by the log's name.
        cosigners: further witnesses by name.
        quorum: witnesses that every entry of a job needs; None: all of the job's other parties whose keys are known.
        limits: what the auditor asks of every job.
    """

    keys: Mapping[str, VerifierKey]
    source: KeySource
    cosigners: Mapping[str, VerifierKey] = field(default_factory=dict)
    quorum: int | None = None
    limits: Limits = field(default_factory=Limits)

    def witnesses(self, log: str) -> dict[str, VerifierKey]:
        """Who may cosign the checkpoints of ``log``: every other log's owner and the further witnesses."""
        return {**{name: key for name, key in self.keys.items() if name != log}, **self.cosigners}


def _invalid(path: Path, reason: str) -> UsageError:
    return UsageError(
        "audit.policy_invalid",
        f"The policy {path} is not valid: {reason.rstrip('.')}.",
        remedy="See `isthmus-audit verify --help`.",
    )


def load_policy(path: Path) -> Trust:
    """What a policy file says.

    Raises:
        UsageError: ``audit.policy_unreadable``, ``audit.policy_invalid`` (names the key).
    """
    try:
        with path.open("rb") as file:
            data = file.read(POLICY_BYTES_MAX + 1)
    except OSError as error:
        raise UsageError(
            "audit.policy_unreadable",
            f"The policy {path} cannot be read: {error.strerror}.",
            remedy="Correct the path after --policy and the rights to the file.",
        ) from None
    if len(data) > POLICY_BYTES_MAX:
        raise _invalid(path, f"it has more than {POLICY_BYTES_MAX} bytes")
    try:
        policy = AuditPolicy.model_validate(tomllib.loads(data.decode()))
    except ValidationError as error:
        raise _invalid(path, explain(error)) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _invalid(path, f"it is not TOML ({error})") from None
    cosigners = {cosigner.name: _key(path, cosigner.name, cosigner.key, parse_cosigner) for cosigner in policy.cosigner}
    for name, key in cosigners.items():
        if key.name != name:
            raise _invalid(path, f"the key of the cosigner {name!r} is one of {key.name!r}")
    possible = len(cosigners) + len(policy.log) - 1
    if policy.quorum is not None and policy.quorum > possible:
        raise _invalid(path, f"a quorum of {policy.quorum} cannot be met: it names {possible} witnesses beside a log's owner")
    keys: dict[str, VerifierKey] = {}
    for log in policy.log:
        if log.name in keys:
            raise _invalid(path, f"the log {log.name!r} stands twice")
        keys[log.name] = _key(path, log.name, log.key)
        if log_of(keys[log.name].name) != log.name:
            raise _invalid(path, f"the key of {log.name!r} is one of {keys[log.name].name!r}")
    return Trust(keys, "policy", cosigners, policy.quorum, policy.limits)


def _key(path: Path, name: str, text: str, parse: Callable[[str], VerifierKey] = VerifierKey.parse) -> VerifierKey:
    try:
        return parse(text)
    except VerificationError as error:
        raise _invalid(path, f"key of {name!r}: {error.message}") from None


def load_trust(policy: Path | None, partners: Sequence[Path]) -> Trust:
    """The keys of a policy file and of partner files together.

    Raises:
        UsageError: as :func:`load_policy` and ``read_partner``; ``audit.policy_conflict`` when two of them name different keys
        for one log.
    """
    trust = load_policy(policy) if policy else Trust({}, "self-asserted")
    keys = dict(trust.keys)
    for path in partners:
        partner = read_partner(path)
        if keys.setdefault(partner.name, partner.log_key) != partner.log_key:
            raise UsageError(
                "audit.policy_conflict",
                f"{path} gives another key for {partner.name!r} than the policy or another partner file.",
                remedy="Find out from the partner, by the fingerprint, which one is its own.",
            )
    if not partners:
        return trust
    return replace(trust, keys=keys, source="policy and partner files" if policy else "partner files")
