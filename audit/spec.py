"""The job specification: one canonical JSON document whose SHA-256 is the job's identity.

All three wings read it: a node to decide, the coordinator to direct, an auditor to check what was allowed.  The bytes that
were signed are what is hashed; a document that is not canonical (RFC 8785) or holds an unknown key is refused.
Non-integers are decimal strings, so that no two JSON libraries can disagree about a number.
"""

from __future__ import annotations

import hashlib
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal

import rfc8785
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from audit.errors import UsageError
from audit.layout import KeyKind

SPEC_VERSION = 1
SPEC_BYTES_MAX = 256 * 2**10
KEYS_MAX = 8
"""Identifier columns that may be tried one after the other."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
"""Names of parties and coordinators: lower case, digits, hyphens; they also serve as TLS host names."""

_VISIBLE = r"^[^\p{C}\p{Zl}\p{Zp}]*$"
"""No control, format or line-separating characters: what a person approves from must not be able to draw on their screen."""

Text = Annotated[str, StringConstraints(max_length=200, pattern=_VISIBLE)]
DatasetName = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=_VISIBLE)]
Column = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=_VISIBLE)]
KeyName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
"""What both parties call an identifier that customers are found by: phone, email, document."""
Rule = Annotated[str, StringConstraints(pattern=r"^(exact|casefold|digits|sha256|email|phone-e164:[A-Z]{2})$")]
"""How an identifier is made comparable (:mod:`node.data.identifiers`)."""


SampleRows = Annotated[int, Field(ge=1, le=2**31)] | None
"""At most so many of the shared rows, by the public coin (:mod:`audit.split`); None for all of them."""

DecimalText = Annotated[str, StringConstraints(pattern=r"^-?[0-9]{1,12}(\.[0-9]{1,24})?$")]
"""A plain decimal number without an exponent: a few characters must not stand for a number of a billion digits."""


def decimal_text(value: str | float | Decimal) -> str:
    """The plain decimal form of what a person wrote (``1e-4`` becomes ``0.0001``).

    Raises:
        UsageError: ``spec.not_a_number`` when it is none of reasonable size.
    """
    try:
        number = Decimal(str(value).strip())
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or abs(number.adjusted()) > 12 or len(number.as_tuple().digits) > 24:
        raise UsageError(
            "spec.not_a_number", f"{value!r} is not a number from 1e-12 to 1e12.", remedy="Write it as 0.0001 or 1e-4."
        )
    return format(number.normalize(), "f") if number else "0"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Party(_Strict):
    """One of the two data parties and what it brings.  A count takes no features."""

    name: Name
    role: Literal["bank", "platform"]
    dataset: DatasetName
    features: Annotated[list[Column], Field(max_length=4096)] = []


class Label(_Strict):
    """The label: a two-valued column of the label holder."""

    column: Column


class JoinKey(_Strict):
    """An identifier that customers are found by: what both parties call it, and how it is made comparable."""

    name: KeyName
    normalise: Rule


class Align(_Strict):
    """How the shared customers are found (protocols.md, section 1): by one identifier, or by several tried in order.

    ``publisher`` stands where the method is ``filter``, and there alone: whose set is published, once, and brought forward from job
    to job; customers are then found by one identifier without a name.

    The canonical form has ``keys`` where several are named (or one by its name), and ``normalise`` otherwise.
    """

    method: Literal["auto", "curve", "ot", "filter"] = "auto"
    normalise: Rule = "casefold"
    keys: Annotated[list[JoinKey], Field(max_length=KEYS_MAX)] = []
    minimum: Annotated[int, Field(ge=1)] = 1000
    publisher: Literal["label_holder", "feature_holder"] | None = None

    @model_validator(mode="after")
    def _whose_filter(self) -> Align:
        if (self.method == "filter") != (self.publisher is not None):
            raise ValueError("publisher must be named where method is filter, and only there")
        if self.publisher is not None and self.keys:
            raise ValueError("a published filter finds customers by one identifier: leave align.keys out")
        return self

    @model_validator(mode="after")
    def _one_form(self) -> Align:
        if self.keys and "normalise" in self.model_fields_set:
            raise ValueError("each of align.keys names its own rule: leave align.normalise out")
        names = [key.name for key in self.keys]
        if len(set(names)) != len(names):
            raise ValueError("one of align.keys is named twice")
        return self

    @model_serializer(mode="wrap")
    def _without(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        document: dict[str, Any] = handler(self)
        del document["normalise" if self.keys else "keys"]
        if self.publisher is None:
            del document["publisher"]
        return document


class Model(_Strict):
    """The model's options (protocols.md, section 5).

    ``train_rows`` and ``evaluate_rows`` stand in the document only where they bound something, ``key_kind`` only where it is not
    ``standard``: a job without them has the identity that it had before these keys were known.
    """

    kind: Literal["logistic"] = "logistic"
    l2: DecimalText = "0.0001"
    rounds: Annotated[int, Field(ge=1, le=64)] = 8
    tolerance: DecimalText = "0.00001"
    key_bits: Annotated[int, Field(ge=512, le=8192)] = 3072
    key_kind: KeyKind = "standard"
    holdout: DecimalText = "0.2"
    lookup_entries: Literal["auto", 32, 64, 128, 256] = "auto"
    bands: Annotated[int, Field(ge=4, le=128)] = 40
    train_rows: SampleRows = None
    evaluate_rows: SampleRows = None

    @field_validator("train_rows", "evaluate_rows", mode="before")
    @classmethod
    def _none_for_all(cls, value: object) -> object:
        return None if type(value) is int and value == 0 else value

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        absent = {name for name in ("train_rows", "evaluate_rows") if getattr(self, name) is None}
        if self.key_kind == "standard":
            absent.add("key_kind")
        return {name: value for name, value in handler(self).items() if name not in absent}

    @model_validator(mode="after")
    def _ranges(self) -> Model:
        if not 0 <= Decimal(self.holdout) < 1:
            raise ValueError("holdout must be at least 0 and below 1")
        if Decimal(self.l2) < 0:
            raise ValueError("l2 must not be negative")
        if Decimal(self.tolerance) <= 0:
            raise ValueError("tolerance must be above 0")
        if self.key_bits % 256:
            raise ValueError("key_bits must be a multiple of 256")
        if self.evaluate_rows is not None and not Decimal(self.holdout):
            raise ValueError("evaluate_rows needs a holdout above 0")
        return self

    def lookup_entries_of(self, rows: int) -> int:
        """Entries N of a lookup table for a training on ``rows`` rows.

        A lookup's rounding leaves noise of about ``columns * kappa * (2 range / N)**2 / (24 rows)`` in the log-loss.
        ``auto`` keeps it at a few
        millionths: fewer rows average less, and cost less, so they get finer tables.
        """
        if self.lookup_entries != "auto":
            return self.lookup_entries
        return 64 if rows >= 16384 else 128 if rows >= 4096 else 256


class Disclose(_Strict):
    """What may be disclosed beyond the fixed table of protocols.md: to whom the label holder may send aggregates of the
    evaluation.
    """

    aggregates_to_feature_holder: bool = False
    aggregates_to_coordinator: bool = False


class Count(_Strict):
    """A count's options (protocols.md, section 8): who learns the exact number, and what is told onwards.

    Everyone but the learner is told the number rounded down to a multiple of ``step``, or that it is below ``align.minimum``.
    """

    learner: Literal["label_holder", "feature_holder"] = "label_holder"
    step: Annotated[int, Field(ge=1, le=10**6)] = 100
    tell_partner: bool = True
    tell_coordinator: bool = True

    def told(self, size: int, minimum: int) -> int:
        """What may be told of a number of shared customers: rounded down; 0 where it is below the minimum."""
        return 0 if size < minimum else size - size % self.step


_OF_KIND = {"train": ("label", "model", "disclose"), "count": ("count",)}
"""The tables that only a job of one kind has; those of the other are no part of its canonical form."""


class JobSpec(_Strict):
    """A whole job.  ``nonce`` makes each submission a job of its own.

    ``kind``: ``train`` fits and evaluates a model; ``count`` tells how many customers the two share, and nothing else.
    """

    v: Literal[1] = 1
    kind: Literal["train", "count"] = "train"
    title: Text = ""
    nonce: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
    coordinator: Name
    label_holder: Party
    feature_holder: Party
    label: Label | None = None
    align: Align = Align()
    model: Model = Model()
    disclose: Disclose = Disclose()
    count: Count = Count()

    @model_validator(mode="after")
    def _two_parties(self) -> JobSpec:
        if self.label_holder.name == self.feature_holder.name:
            raise ValueError("label_holder and feature_holder must be two different parties")
        if self.label_holder.role == self.feature_holder.role:
            raise ValueError("one party must be the bank and the other the platform")
        for party in (self.label_holder, self.feature_holder):
            if len(set(party.features)) != len(party.features):
                raise ValueError(f"{party.name}: a feature is named twice")
        if self.align.method == "ot" and self.align_method != "ot":
            raise ValueError('align.method = "ot" serves neither several keys nor a count')
        return self

    @property
    def align_method(self) -> Literal["auto", "curve", "ot"]:
        """``align.method``, but masking on the curve where the job tries several keys, counts or uses a filter."""
        method = self.align.method
        return "curve" if self.align.keys or self.kind == "count" or method == "filter" else method

    @model_validator(mode="after")
    def _one_kind(self) -> JobSpec:
        other = "train" if self.kind == "count" else "count"
        for table in _OF_KIND[other]:
            if table in self.model_fields_set and getattr(self, table) is not None:
                raise ValueError(f'kind = "{self.kind}" takes no {table}')
        parties = (self.label_holder, self.feature_holder)
        if self.kind == "count":
            if self.align.publisher is not None:
                raise ValueError("customers are counted by no published filter, which tells who is shared")
            if any(party.features for party in parties):
                raise ValueError('kind = "count" takes no features')
            if len(self.align.keys) > 1:
                raise ValueError("customers are counted by one identifier: name one of align.keys")
            if self.align.minimum % self.count.step:
                raise ValueError("align.minimum must be a multiple of count.step, or a rounded number could be below it")
            return self
        if self.label is None:
            raise ValueError("label is missing: a training predicts a column of the label holder")
        for party in parties:
            if not party.features:
                raise ValueError(f"{party.name}: features are missing: a training takes at least one of each party")
        if self.label.column in self.label_holder.features:
            raise ValueError(f"the label column {self.label.column!r} must not be among the label holder's features")
        return self

    @model_serializer(mode="wrap")
    def _of_its_kind(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        document: dict[str, Any] = handler(self)
        for table in _OF_KIND["train" if self.kind == "count" else "count"]:
            del document[table]
        return document

    @property
    def label_column(self) -> str:
        """The column to predict; empty where none is."""
        return self.label.column if self.label is not None else ""

    def label_of(self, name: str) -> str | None:
        """The column to predict where the party called ``name`` holds it."""
        return self.label.column if self.label is not None and self.label_holder.name == name else None

    @property
    def learner(self) -> str:
        """Who learns the exact number in a count."""
        return str(getattr(self, self.count.learner).name)

    def canonical(self) -> bytes:
        """The bytes that are hashed and signed (RFC 8785)."""
        return rfc8785.dumps(self.model_dump(mode="json"))

    def identity(self) -> str:
        """SHA-256 of :meth:`canonical`, hex: the job's identity."""
        return hashlib.sha256(self.canonical()).hexdigest()

    def party(self, name: str) -> Party:
        """The party called ``name``."""
        for party in (self.label_holder, self.feature_holder):
            if party.name == name:
                return party
        raise UsageError(
            "spec.not_a_party",
            f"{name!r} is no party of this job ({self.label_holder.name}, {self.feature_holder.name}).",
            remedy="Name this node in the specification or run it on the node it names.",
        )

    @property
    def publisher(self) -> Party | None:
        """The party whose set is published as a filter, where the job aligns by one."""
        if self.align.publisher is None:
            return None
        return self.label_holder if self.align.publisher == "label_holder" else self.feature_holder

    def relation(self) -> str:
        """SHA-256, hex, of what one filter key may serve for: publisher and querier, their data sets, one way to normalise.

        Raises:
            UsageError: ``spec.no_publisher`` where the job aligns by no filter.
        """
        publisher = self.publisher
        if publisher is None:
            raise UsageError("spec.no_publisher", "This job aligns by no published filter.", remedy="Name align.publisher.")
        querier = self.peer_of(publisher.name)
        parties = {"publisher": publisher, "querier": querier}
        document = {name: {"name": party.name, "dataset": party.dataset} for name, party in parties.items()}
        fields: dict[str, Any] = {"v": 1, "kind": "isthmus.relation", "normalise": self.align.normalise, **document}
        return hashlib.sha256(rfc8785.dumps(fields)).hexdigest()

    def peer_of(self, name: str) -> Party:
        """The other party than ``name``."""
        return self.feature_holder if self.party(name) is self.label_holder else self.label_holder


def parse_spec(data: bytes) -> JobSpec:
    """Read a canonical job specification.

    Raises:
        UsageError: ``spec.too_large``, ``spec.invalid`` (names the key and the reason), ``spec.not_canonical``.
    """
    if len(data) > SPEC_BYTES_MAX:
        raise UsageError(
            "spec.too_large",
            f"The job specification has {len(data)} bytes; at most {SPEC_BYTES_MAX} are read.",
            remedy="Name fewer columns.",
        )
    try:
        spec = JobSpec.model_validate_json(data)
    except ValidationError as error:
        raise UsageError(
            "spec.invalid",
            "The job specification is not valid: " + explain(error),
            remedy="Correct the keys named here; `isthmus-coordinator submit --help` lists them all.",
        ) from None
    if spec.canonical() != data:
        raise UsageError(
            "spec.not_canonical",
            "The job specification is not in canonical form (RFC 8785, every key present but bounds that bound nothing).",
            remedy="Submit it through `isthmus-coordinator submit`, which writes the canonical form.",
        )
    return spec


def explain(error: ValidationError) -> str:
    """A pydantic error as one readable line: key, reason; never the input values."""
    parts = []
    for item in error.errors(include_url=False, include_input=False, include_context=False):
        where = ".".join(str(p) for p in item["loc"]) or "document"
        parts.append(f"{where}: {item['msg'].removeprefix('Value error, ')}")
    return "; ".join(parts)
