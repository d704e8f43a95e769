"""What a node's report tells the coordinator in readable form, and what allows it: every row of the log's disclosure entries."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from audit.clauses import BASE_RATE, COUNT_TO_COORDINATOR, INNER_PRODUCTS, SIZES, TO_COORDINATOR
from coordinator.jobs import Job
from coordinator.reports import Metrics, StepReport


@dataclass(frozen=True)
class Disclosure:
    """``count`` values of ``what``, told by ``party``; ``value`` is the values themselves, as text: all are aggregates."""

    party: str
    what: str
    count: int
    clause: str
    value: str


def of_report(job: Job, party: str, report: StepReport) -> list[Disclosure]:
    """The disclosures in one report."""
    if report.step == "align":
        rows = json.dumps([report.intersection, report.rows_train, report.rows_holdout])
        return [
            Disclosure(party, "set_size", 1, SIZES, str(report.set_size)),
            Disclosure(party, "rows", 3, SIZES, rows),
        ]
    if report.step == "count":
        found = [Disclosure(party, "set_size", 1, SIZES, str(report.set_size))]
        if party == job.spec.learner and job.spec.count.tell_coordinator:
            told = str(report.intersection) if report.intersection else f"below {job.spec.align.minimum}"
            found.append(Disclosure(party, "rounded_size", 1, COUNT_TO_COORDINATOR, told))
        return found
    if report.step == "prepare":
        found = [Disclosure(party, "columns", 1, SIZES, str(report.columns))]
        if party == job.spec.label_holder.name:
            found.append(Disclosure(party, "base_rate", 1, BASE_RATE, report.base_rate))
        return found
    if report.step == "round":
        values = json.dumps([repr(value) for value in report.inner_products])
        return [Disclosure(party, "inner_products", len(report.inner_products), INNER_PRODUCTS, values)]
    if report.metrics is not None:
        return [Disclosure(party, "aggregates", 5 + 3 * len(report.metrics.gains), TO_COORDINATOR, _describe(report.metrics))]
    return []


def _describe(metrics: Metrics) -> str:
    values: dict[str, Any] = {name: repr(getattr(metrics, name)) for name in ("auc", "ks", "log_loss", "base_rate")}
    gains: Sequence[tuple[int, int, int]] = [(row.decile, row.rows, row.positives) for row in metrics.gains]
    values |= {"rows": str(metrics.rows), "gains": [[str(part) for part in row] for row in gains]}
    return json.dumps(values, sort_keys=True)
