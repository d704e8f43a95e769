"""The node's local policy: what a job may ask of this node, whoever submits it (:mod:`node.admission` holds a job against it).

Absent settings are the safe ones: an empty policy allows no partner and offers no data set.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from audit.layout import KeyKind
from audit.spec import JobSpec, Name
from audit.strict_toml import Strict, load_toml
from node.data.schema import Role
from node.errors import PolicyError
from node.limits import LIMITS

Roles = list[Role]


class PartnersSection(Strict):
    """Who may be the other party: ``"added"`` is every partner whose file a person added and compared, a list only those named."""

    allow: Literal["added"] | list[Name] = Field(default_factory=list)


class DatasetsSection(Strict):
    """The roles in which any configured data set may serve, unless a [[dataset]] of the policy says otherwise."""

    offer: Roles = Field(default_factory=list)


class DatasetClause(Strict):
    """What one data set may serve for; ``partners`` absent means every allowed partner."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    roles: Roles
    partners: list[Name] | None = None


class LimitsSection(Strict):
    """Bounds on what a job may ask."""

    minimum_intersection: Annotated[int, Field(ge=1)] = 1000
    key_bits_min: Annotated[int, Field(ge=LIMITS.key_bits_min, le=LIMITS.key_bits_max)] = 2048
    key_kinds: list[KeyKind] = Field(default=["standard"], max_length=2)
    rounds_max: Annotated[int, Field(ge=1, le=LIMITS.rounds)] = 16
    bands_max: Annotated[int, Field(ge=4, le=128)] = 64
    features_max: Annotated[int, Field(ge=1, le=LIMITS.columns)] = 1024


class DiscloseSection(Strict):
    """Whether the aggregates of an evaluation (AUC, KS, gains) may go to anyone but the label holder."""

    aggregates_to_feature_holder: bool = False
    aggregates_to_coordinator: bool = False


class CountSection(Strict):
    """Whether and how this node takes part in counts, jobs that tell how many customers are shared and nothing else.

    ``partner_learns``: whether the partner may be the one that learns the exact number; this node may be in any case.
    ``step``: least rounding of what is told onwards.  ``per_period``: attempts of a count with one partner within ``period_days``:
    the differences of many counts over data that change tell of single customers.
    """

    allow: bool = False
    partner_learns: bool = False
    step: Annotated[int, Field(ge=1, le=10**6)] = 100
    per_period: Annotated[int, Field(ge=1, le=10_000)] = 4
    period_days: Annotated[int, Field(ge=1, le=3_650)] = 30


class LinksSection(Strict):
    """How long a step waits for its peer: not up yet, its own step not started, or the link cut (seconds)."""

    patience: Annotated[int, Field(ge=1, le=604_800)] = 600


class RetentionSection(Strict):
    """How long what a replay needs is kept after a job's end: the data set as aligned, the messages received, the seed.

    Absent: ``keep = "none"``, which keeps nothing.
    """

    keep: Literal["none", "always"] | None = None
    days: Annotated[int, Field(ge=1, le=36_500)] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> RetentionSection:
        if self.keep is not None and self.days is not None:
            raise ValueError('either keep ("none" or "always") or a number of days stands here, not both')
        return self

    @property
    def keeps(self) -> bool:
        """Whether anything is kept at all."""
        return self.days is not None or self.keep == "always"

    @property
    def text(self) -> str:
        """As the log says it: ``none``, ``always`` or the number of days."""
        return str(self.days) if self.days is not None else self.keep or "none"


class FilterClause(Strict):
    """Lets jobs with one partner align one data set by a published filter, in one of its two roles; without a clause none may.

    Attributes:
        role: whether this node publishes its masked customers to the partner, or asks about its own against the partner's.
        reuse_days: how long a key, the filter under it and this node's own masked customers serve further jobs; 0: each job starts
            afresh.
        filter_days: how long a filter is brought forward by its changes before it is published as a whole again (publisher).
        queries: most customers that the partner may ask about in any ``period_days`` (publisher).
    """

    partner: Name
    dataset: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    role: Literal["publisher", "querier"]
    reuse_days: Annotated[int, Field(ge=0, le=366)] = 0
    filter_days: Annotated[int, Field(ge=1, le=366)] = 30
    queries: Annotated[int, Field(ge=1, le=10**12)] | None = None
    period_days: Annotated[int, Field(ge=1, le=366)] = 30

    @model_validator(mode="after")
    def _bounded(self) -> FilterClause:
        if (self.role == "publisher") != (self.queries is not None):
            raise ValueError("a publisher's clause says how many queries it answers, and no other does")
        return self


JobKind = Literal["train", "count"]


def _trainings() -> list[JobKind]:
    return ["train"]


class AutoApprove(Strict):
    """A rule that approves a job without a person.  Every field must match; only the spec's own checks remain.

    ``kinds`` are the kinds of job it approves: a rule that does not name counts leaves them to a person.
    """

    name: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    partner: Name
    dataset: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    coordinator: Name
    kinds: Annotated[list[JobKind], Field(min_length=1)] = Field(default_factory=_trainings)


class Policy(Strict):
    """The whole file."""

    partners: PartnersSection = PartnersSection()
    datasets: DatasetsSection = DatasetsSection()
    limits: LimitsSection = LimitsSection()
    disclose: DiscloseSection = DiscloseSection()
    count: CountSection = CountSection()
    links: LinksSection = LinksSection()
    retention: RetentionSection = RetentionSection()
    dataset: list[DatasetClause] = Field(default_factory=list)
    filter: list[FilterClause] = Field(default_factory=list)
    auto_approve: list[AutoApprove] = Field(default_factory=list)

    @model_validator(mode="after")
    def _names_once(self) -> Policy:
        for what, names in (
            ("data set", [clause.name for clause in self.dataset]),
            ("auto_approve rule", [rule.name for rule in self.auto_approve]),
            ("filter clause", [f"{clause.dataset} with {clause.partner} as {clause.role}" for clause in self.filter]),
        ):
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"the {what} {name!r} stands twice")
        return self

    def filter_clause(self, spec: JobSpec, me: str) -> FilterClause:
        """The clause that lets this node take its part in a job that aligns by a published filter.

        Raises:
            PolicyError: ``policy.filter``.
        """
        role = "publisher" if spec.publisher is not None and spec.publisher.name == me else "querier"
        partner, dataset = spec.peer_of(me).name, spec.party(me).dataset
        for clause in self.filter:
            if (clause.partner, clause.dataset, clause.role) == (partner, dataset, role):
                return clause
        raise PolicyError(
            "policy.filter",
            f"The job aligns {dataset!r} with {partner!r} by a published filter, this node as {role}; no [[filter]] clause of the"
            " policy allows it.",
            remedy='Add the clause, or submit the job with align.method = "curve".',
        )


def load_policy(path: Path) -> Policy:
    """Read a policy file.

    Raises:
        UsageError: see :func:`audit.strict_toml.load_toml`.
    """
    return load_toml(path, Policy, what="policy", init="isthmus-node init")
