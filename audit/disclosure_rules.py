"""What an attempt of a step discloses: the table :data:`RULES`, and the entries that follow from it and from what was sent.

The table is the auditor's own: made from protocols.md, "What anyone learns", not from the nodes' code.  An attempt that ended well
discloses its figures to the coordinator too, and the entries hold the values; one that failed disclosed what its messages had
already carried, without values.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from audit.clauses import (
    BANDS,
    BASE_RATE,
    BY_KEY,
    COUNT_TO_COORDINATOR,
    FILTER,
    INNER_PRODUCTS,
    SHARED,
    SIZE,
    SIZES,
    TO_COORDINATOR,
    TO_FEATURE_HOLDER,
    TO_PARTNER,
    WEIGHTS,
)
from audit.disclosed_values import told_text
from audit.figures import JobView
from audit.history import AttemptKey, DisclosureRecord
from audit.spec import JobSpec

GAIN_VALUES = 3
AGGREGATE_VALUES = 5
GAINS_MAX = 10

Count = Literal["one", "items", "shared", "round", "rows", "aggregates", "aggregates and gains"]


@dataclass(frozen=True)
class Rule:
    """One row: when an attempt of ``step`` sent messages of type ``carried``, it disclosed ``what``.

    Attributes:
        to: "peer" or "coordinator"; the coordinator hears of a step only when it is done.
        when: whether only a done attempt, only a failed one, or any discloses it.
        flag: the clause of the specification that must allow it.
        learner_only: in a count, whether it is the learner who discloses it.
    """

    step: str
    carried: str
    what: str
    to: Literal["peer", "coordinator"]
    count: Count
    clause: str
    when: Literal["any", "done", "failed"] = "any"
    label_holder_only: bool = False
    flag: Callable[[JobSpec], bool] = lambda spec: True
    learner_only: bool = False


RULES = (
    Rule("align", "PsiStart", "set_size", "peer", "one", SIZES),
    Rule("align", "DoublyMasked", "shared_customers", "peer", "shared", SHARED, when="done"),
    Rule("align", "DoublyMasked", "shared_customers_at_most", "peer", "items", SHARED, when="failed"),
    Rule("align", "ItemTags", "shared_customers", "peer", "shared", SHARED, when="done"),
    Rule("align", "ItemTags", "shared_customers_at_most", "peer", "items", SHARED, when="failed"),
    Rule("align", "SharedMarks", "shared_customers", "peer", "shared", SHARED, when="done"),
    Rule("align", "SharedMarks", "shared_customers_at_most", "peer", "items", SHARED, when="failed"),
    Rule("align", "FilterState", "filter_version", "peer", "one", FILTER),
    Rule("align", "SharedConfirmed", "shared_customers", "peer", "shared", SHARED, when="done"),
    Rule("align", "SharedValues", "shared_customers", "peer", "shared", SHARED, when="done"),
    Rule("align", "EvaluatedPoints", "shared_customers_at_most", "peer", "items", SHARED, when="failed"),
    Rule("align", "SharedValues", "shared_customers_at_most", "peer", "items", SHARED, when="failed"),
    Rule("align", "SharedCount", "shared_number", "peer", "one", SHARED, when="failed"),
    Rule("align", "PsiStart", "set_size", "coordinator", "one", SIZES, when="done"),
    Rule("align", "PsiStart", "rows", "coordinator", "rows", SIZES, when="done"),
    Rule("align", "PsiStart", "by_key", "peer", "items", BY_KEY, flag=lambda spec: bool(spec.align.keys)),
    Rule("count", "PsiStart", "set_size", "peer", "one", SIZES),
    Rule("count", "PsiStart", "set_size", "coordinator", "one", SIZES, when="done"),
    Rule("count", "SortedDoublyMasked", "intersection_size", "peer", "one", SIZE),
    Rule(
        "count", "IntersectionSize", "rounded_size", "peer", "one", TO_PARTNER,
        learner_only=True, flag=lambda spec: spec.count.tell_partner,
    ),
    Rule(
        "count", "PsiStart", "rounded_size", "coordinator", "one", COUNT_TO_COORDINATOR,
        when="done", learner_only=True, flag=lambda spec: spec.count.tell_coordinator,
    ),
    Rule("prepare", "JobFigures", "columns", "peer", "one", SIZES),
    Rule("prepare", "JobFigures", "base_rate", "peer", "one", BASE_RATE, label_holder_only=True),
    Rule("prepare", "JobFigures", "columns", "coordinator", "one", SIZES, when="done"),
    Rule("prepare", "JobFigures", "base_rate", "coordinator", "one", BASE_RATE, when="done", label_holder_only=True),
    Rule("round", "InnerProductParts", "inner_products", "peer", "items", INNER_PRODUCTS),
    Rule("round", "InnerProductParts", "inner_products", "coordinator", "round", INNER_PRODUCTS, when="done"),
    Rule("finish", "WeightShares", "weights_of_the_receiver", "peer", "items", WEIGHTS),
    Rule("evaluate", "BandTables", "score_bands", "peer", "items", BANDS),
    Rule(
        "evaluate", "Aggregates", "aggregates", "peer", "aggregates", TO_FEATURE_HOLDER,
        label_holder_only=True, flag=lambda spec: spec.disclose.aggregates_to_feature_holder,
    ),
    Rule(
        "evaluate", "OtColumns", "aggregates", "coordinator", "aggregates and gains", TO_COORDINATOR,
        when="done", label_holder_only=True, flag=lambda spec: spec.disclose.aggregates_to_coordinator,
    ),
)  # fmt: skip
"""What crosses in readable form.  Masked values, shares and ciphertexts say nothing by themselves and are not disclosures."""


@dataclass(frozen=True)
class Expected:
    """A disclosure that an attempt made; ``value`` is None where no figure of the log decides it."""

    by: str
    what: str
    to: str
    count: int | None
    clause: str
    value: str | None

    def is_said_by(self, entry: DisclosureRecord) -> bool:
        """Whether an entry says just this."""
        same = (self.by, self.what, self.to, self.clause) == (entry.by, entry.what, entry.to, entry.clause)
        counted = entry.count == self.count if self.count is not None else _gains_count(entry)
        return same and counted and (self.value is None or entry.value == self.value)


def _gains_count(entry: DisclosureRecord) -> bool:
    """Aggregates with gains: five values, and three for each decile of the table that the entry itself holds."""
    try:
        gains = json.loads(entry.value).get("gains", [])
        return len(gains) <= GAINS_MAX and entry.count == AGGREGATE_VALUES + GAIN_VALUES * len(gains)
    except (ValueError, RecursionError, AttributeError, TypeError):
        return False


def expected_of(view: JobView, by: str, key: AttemptKey, sent: Mapping[str, int], *, done: bool) -> list[Expected]:
    """What an attempt disclosed that sent these items by message type."""
    spec = view.spec
    to = {"peer": spec.peer_of(by).name, "coordinator": spec.coordinator}
    found = []
    for rule in RULES:
        if rule.step != key.step or not sent.get(rule.carried) or rule.when == ("failed" if done else "done"):
            continue
        if rule.label_holder_only and by != view.parties[0]:
            continue
        if rule.learner_only and by != spec.learner:
            continue
        if rule.carried in ("OtColumns", "PsiStart") and not rule.flag(spec):
            continue  # what no message of its own carries happens only where it is allowed
        count = _count(rule, view, key, sent)
        value = _value(rule, view, by, key) if done else ""
        found.append(Expected(by, rule.what, to[rule.to], count, rule.clause, value))
    return found


def _count(rule: Rule, view: JobView, key: AttemptKey, sent: Mapping[str, int]) -> int | None:
    fixed = {"one": 1, "rows": 3, "round": key.round, "aggregates": AGGREGATE_VALUES, "items": sent[rule.carried]}
    if rule.count == "shared":
        return view.shared
    return fixed.get(rule.count)


def _value(rule: Rule, view: JobView, by: str, key: AttemptKey) -> str | None:
    """The value that follows from the figures; "" where an entry holds none."""
    if rule.what in ("weights_of_the_receiver", "score_bands", "intersection_size", "filter_version", "shared_number"):
        return ""
    if rule.what == "rounded_size":
        told = view.counted(key)
        return None if told is None else told_text(told, view.spec.align.minimum)
    if rule.what == "by_key":
        sizes, found = view.sizes_by_key(key, by), view.found_by_key
        return json.dumps([list(pair) for pair in zip(sizes, found, strict=True)]) if len(sizes) == len(found) else None
    if rule.what == "set_size":
        return str(view.set_sizes[by]) if by in view.set_sizes else None
    if rule.what == "columns":
        return str(view.columns[by]) if by in view.columns else None
    if rule.what == "shared_customers":
        return str(view.shared)
    if rule.what == "rows" and view.split is not None:
        return json.dumps([view.shared, *view.split])
    return view.base_rate if rule.what == "base_rate" else None
