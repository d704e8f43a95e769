"""What verified logs say of a job, as plain values: for a report, and for the machine-readable result.

Everything here was read from the logs that were given and passed the checks; a value that no given log tells is empty or None.
Facts of a job whose specification is in no log name no roles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from audit.accuracy import Accuracy
from audit.spec import JobSpec


@dataclass(frozen=True)
class ApprovalFact:
    """One party's signed decision; ``time`` is the signer's own word."""

    party: str
    decision: str
    by: str
    time: str


@dataclass(frozen=True)
class StepFact:
    """One attempt of one step at one node.  ``started`` and ``ended`` are that log's times; ``ended`` is empty when it was cut."""

    node: str
    step: str
    round: int
    attempt: int
    state: str
    started: str
    ended: str
    code: str = ""
    messages: int = 0


@dataclass(frozen=True)
class DisclosureFact:
    """``count`` values of ``what`` that ``by`` disclosed to ``to`` in one attempt; ``value`` where it is an aggregate.

    ``listed`` is false where the messages of an attempt that a crash cut had disclosed it before any entry could say so.
    """

    by: str
    to: str
    what: str
    count: int
    clause: str
    value: str
    step: str
    round: int
    attempt: int
    listed: bool = True


@dataclass(frozen=True)
class JobFacts:
    """One job.

    Attributes:
        job: SHA-256 of the specification, hex.
        spec: the specification, or None when no log holds it.
        outcome: finished, failed, cancelled, rejected, or empty while it runs; ``code`` says why it failed.
        set_sizes, columns: by party.
        counted: what a count told, as the logs have it: a rounded number, or that it is below the minimum.
        rows_train, rows_holdout: shared customers that the training and the evaluation use.
        accuracy: what the training can be expected to give up for the rows it left out, once prepared.
        rounds_done: rounds of training that were completed.
        key_bits: of the Paillier keys, as the specification says and the messages' lengths show.
        inner_products: a round's, as text, in the order of the rounds done.
        minimum: the least shared customers: the specification's or a node's policy's, whichever is more.
        small_keys: nodes that allowed keys below their policy's bound.
    """

    job: str
    spec: JobSpec | None = None
    title: str = ""
    outcome: str = ""
    code: str = ""
    label_holder: str = ""
    feature_holder: str = ""
    coordinator: str = ""
    approvals: tuple[ApprovalFact, ...] = ()
    timeline: tuple[StepFact, ...] = ()
    disclosures: tuple[DisclosureFact, ...] = ()
    set_sizes: Mapping[str, int] = field(default_factory=dict)
    matching: tuple[str, str] | None = None
    """The method of the last alignment that was done and why, where the specification left it open."""
    intersection: int | None = None
    counted: str = ""
    rows_train: int | None = None
    rows_holdout: int | None = None
    accuracy: Accuracy | None = None
    columns: Mapping[str, int] = field(default_factory=dict)
    base_rate: str = ""
    rounds_done: int = 0
    key_bits: int | None = None
    lookup_entries: int | None = None
    inner_products: tuple[tuple[str, ...], ...] = ()
    minimum: int | None = None
    small_keys: tuple[str, ...] = ()
    commitments: tuple[tuple[str, str, str], ...] = ()
    """(node, what, sha256), in the order they stand in the logs."""
    started: str = ""
    ended: str = ""

    def data(self) -> dict[str, Any]:
        """The JSON form; the specification as its own document."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("spec", "approvals", "timeline")}
        plain |= {name: dict(getattr(self, name)) for name in ("set_sizes", "columns")}
        plain["accuracy"] = self.accuracy.document() if self.accuracy else None
        plain["approvals"] = [vars(item) for item in self.approvals]
        plain["timeline"] = [vars(item) for item in self.timeline]
        plain["disclosures"] = [vars(item) for item in self.disclosures]
        plain["spec"] = self.spec.model_dump(mode="json") if self.spec else None
        return plain
