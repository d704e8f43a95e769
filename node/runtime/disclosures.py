"""What crossed from this node to another party in readable form, and what allowed it.

Every row of the table in protocols.md, "What anyone learns", that this node causes is listed here, in one function a step.
What a failed attempt had
already sent is listed too: a message cannot be taken back.  Masked values, shares and ciphertexts say nothing by themselves
and are not disclosures; they stand in the log as messages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
from audit.spec import JobSpec
from node.crypto.drbg import Stream
from node.errors import UsageError
from node.protocols.metrics import Metrics

DISCLOSURE_SALTS = "disclosure salts"
"""The random stream of an attempt that salts its disclosure entries."""


@dataclass(frozen=True)
class Disclosure:
    """One kind of value that crossed: ``count`` values of ``what`` to the party ``to``; ``value`` only for aggregates."""

    what: str
    to: str
    count: int
    clause: str
    value: str = ""

    def fields(self) -> dict[str, Any]:
        """As fields of a log entry."""
        return {"what": self.what, "to": self.to, "count": self.count, "clause": self.clause, "value": self.value}


@dataclass(frozen=True)
class Facts:
    """The few plain figures a finished step leaves: what a report to the coordinator may hold, and what the peer learned.

    ``intersection``: in a count, what the coordinator is told of it.  ``by_key``: of each key of the job, the own identifiers
    brought and the customers found.  ``told``: at the learner of a count, what may be told of the number; 0 for "below the
    minimum".
    """

    set_size: int = 0
    intersection: int = 0
    rows_train: int = 0
    rows_holdout: int = 0
    columns: int = 0
    base_rate: str = ""
    inner_products: Sequence[float] = field(default=())
    metrics: Metrics | None = None
    by_key: Sequence[tuple[int, int]] = field(default=())
    told: int | None = None


def item_salt(stream: Stream | None) -> str:
    """The salt of the next disclosure entry, 32 hexadecimal digits: the entry's leaf hash must not let its value be guessed.

    Raises:
        UsageError: ``disclosure.no_salt`` when nothing can have been disclosed, for the attempt's streams were never opened.
    """
    if stream is None:
        raise UsageError("disclosure.no_salt", "An attempt whose random streams were never opened cannot have disclosed anything.")
    return stream.bytes(16).hex()


def of_step(step: str, *, spec: JobSpec, me: str, sent: Mapping[str, int], facts: Facts | None) -> list[Disclosure]:
    """What one attempt of a step disclosed.

    Args:
        sent: items sent, by message type.
        facts: the step's figures, or None when it failed (then the coordinator got none, and values are not known).
    """
    peer, coordinator = spec.peer_of(me).name, spec.coordinator
    holds_label = spec.label_holder.name == me
    found: list[Disclosure] = []

    def add(what: str, to: str, count: int, clause: str, value: object = "") -> None:
        found.append(Disclosure(what, to, count, clause, str(value)))

    if step == "align":
        _align(add, spec, peer, sent, facts)
    elif step == "count":
        _count(add, spec, peer, sent, facts)
    elif step == "prepare" and sent.get("JobFigures"):
        for to in (peer, coordinator) if facts else (peer,):
            add("columns", to, 1, SIZES, facts.columns if facts else "")
            if holds_label:
                add("base_rate", to, 1, BASE_RATE, facts.base_rate if facts else "")
    elif step == "round" and sent.get("InnerProductParts"):
        for to in (peer, coordinator) if facts else (peer,):
            count = len(facts.inner_products) if facts else sent["InnerProductParts"]
            add("inner_products", to, count, INNER_PRODUCTS, json.dumps([repr(k) for k in facts.inner_products]) if facts else "")
    elif step == "finish" and sent.get("WeightShares"):
        add("weights_of_the_receiver", peer, sent["WeightShares"], WEIGHTS)
    elif step == "evaluate":
        _evaluate(add, spec, me, sent, facts)
    return found


def _align(add: Any, spec: JobSpec, peer: str, sent: Mapping[str, int], facts: Facts | None) -> None:
    coordinator = spec.coordinator
    if sent.get("PsiStart"):
        add("set_size", peer, 1, SIZES, facts.set_size if facts else "")
        if spec.align.keys:
            add("by_key", peer, sent["PsiStart"], BY_KEY, json.dumps([list(pair) for pair in facts.by_key]) if facts else "")
    if sent.get("FilterState"):
        add("filter_version", peer, 1, FILTER)
    if facts:
        add("shared_customers", peer, facts.intersection, SHARED, facts.intersection)
        add("set_size", coordinator, 1, SIZES, facts.set_size)
        add("rows", coordinator, 3, SIZES, json.dumps([facts.intersection, facts.rows_train, facts.rows_holdout]))
    else:
        # An attempt that failed late: the peer can tell which of its customers are among those answered, however few.
        for kind in ("DoublyMasked", "ItemTags", "SharedMarks", "EvaluatedPoints"):
            if sent.get(kind):
                add("shared_customers_at_most", peer, sent[kind], SHARED)
        if sent.get("SharedCount"):
            add("shared_number", peer, 1, SHARED)
            if sent.get("SharedValues"):
                add("shared_customers_at_most", peer, sent["SharedValues"], SHARED)


def _count(add: Any, spec: JobSpec, peer: str, sent: Mapping[str, int], facts: Facts | None) -> None:
    if sent.get("PsiStart"):
        for to in (peer, spec.coordinator) if facts else (peer,):
            add("set_size", to, 1, SIZES, facts.set_size if facts else "")
    if sent.get("SortedDoublyMasked"):
        add("intersection_size", peer, 1, SIZE)  # the value is the learner's alone to know
    told = ""
    if facts and facts.told is not None:
        told = str(facts.told) if facts.told else f"below {spec.align.minimum}"
    if sent.get("IntersectionSize"):
        add("rounded_size", peer, 1, TO_PARTNER, told)
    if told and spec.count.tell_coordinator:
        add("rounded_size", spec.coordinator, 1, COUNT_TO_COORDINATOR, told)


def _evaluate(add: Any, spec: JobSpec, me: str, sent: Mapping[str, int], facts: Facts | None) -> None:
    peer, coordinator = spec.peer_of(me).name, spec.coordinator
    if sent.get("BandTables"):
        add("score_bands", peer, sent["BandTables"], BANDS)
    metrics = facts.metrics if facts else None
    if sent.get("Aggregates"):
        add("aggregates", peer, 5, TO_FEATURE_HOLDER, describe_metrics(metrics) if metrics else "")
    if metrics and spec.label_holder.name == me and spec.disclose.aggregates_to_coordinator:
        add("aggregates", coordinator, 5 + 3 * len(metrics.gains), TO_COORDINATOR, describe_metrics(metrics, gains=True))


def describe_metrics(metrics: Metrics, *, gains: bool = False) -> str:
    """Aggregates as JSON with numbers as strings, for the log."""
    values: dict[str, Any] = {name: repr(float(getattr(metrics, name))) for name in ("auc", "ks", "log_loss", "base_rate")}
    values["rows"] = str(metrics.rows)
    if gains:
        values["gains"] = [[str(int(part)) for part in row] for row in metrics.gains]
    return json.dumps(values, sort_keys=True)


def receipt(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A job's disclosure receipt: what crossed, to whom, how many in all, and what allowed it."""
    totals: dict[tuple[str, str, str], int] = {}
    for row in rows:
        key = (row["what"], row["to"], row["clause"])
        totals[key] = totals.get(key, 0) + int(row["count"])
    return [{"what": what, "to": to, "count": count, "clause": clause} for (what, to, clause), count in totals.items()]
