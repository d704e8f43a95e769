"""What the nodes report of a step: all that the coordinator hears of it, what one report must satisfy by itself, and what the two
nodes' reports of one step must have in common.

The coordinator sees none of the data, so it can refuse only what contradicts itself, the specification or the other node's report.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from audit.spec import JobSpec, Model
from coordinator.errors import PeerError


@dataclass(frozen=True)
class Gain:
    """One decile of the gains table: rows and positives."""

    decile: int
    rows: int
    positives: int


@dataclass(frozen=True)
class Metrics:
    """Aggregates of the evaluation on held-out rows, where the specification names the coordinator."""

    auc: float
    ks: float
    log_loss: float
    base_rate: float
    rows: int
    gains: tuple[Gain, ...] = ()


@dataclass(frozen=True)
class StepReport:
    """What one node reported of one attempt of one step: all that the coordinator ever hears of it."""

    step: str
    attempt: int
    round: int
    transcript_sha256: str
    seconds: float = 0.0
    bytes_sent: int = 0
    bytes_received: int = 0
    peak_rss_bytes: int = 0
    set_size: int = 0
    intersection: int = 0
    rows_train: int = 0
    rows_holdout: int = 0
    columns: int = 0
    base_rate: str = ""
    inner_products: tuple[float, ...] = ()
    metrics: Metrics | None = None


def check_alone(done: StepReport, party: str, *, spec: JobSpec, base_rate: str) -> None:
    """What one report must satisfy by itself.

    Args:
        done: what ``party`` reported.
        spec: the job's specification.
        base_rate: as disclosed in a `prepare` before; empty where none was.

    Raises:
        PeerError: ``coordinator.bad_report``, ``coordinator.undisclosed_metrics``, ``coordinator.undisclosed_count``.
    """
    if done.step == "align" and (
        not _possible_split(spec.model, done) or done.intersection > done.set_size or done.rows_train == 0
    ):
        raise PeerError("coordinator.bad_report", f"{party} reported sizes that cannot be those of one alignment.")
    if done.step == "count":
        _check_count(done, party, spec)
    if done.step == "prepare" and (not done.base_rate or not 0.0 < float(done.base_rate) < 1.0):
        raise PeerError("coordinator.bad_report", f"{party} reported no base rate between 0 and 1.")
    if done.step == "prepare" and base_rate and done.base_rate != base_rate:
        raise PeerError("coordinator.bad_report", f"{party} reported another base rate than before.")
    if done.step == "round" and len(done.inner_products) != done.round:
        raise PeerError(
            "coordinator.bad_report", f"{party} reported {len(done.inner_products)} inner products in round {done.round}."
        )
    if done.metrics is not None and not spec.disclose.aggregates_to_coordinator:
        raise PeerError(
            "coordinator.undisclosed_metrics", f"{party} sent aggregates that the specification keeps from the coordinator."
        )


def _check_count(done: StepReport, party: str, spec: JobSpec) -> None:
    """A count's number comes from its learner alone, where the coordinator may hear it, and is rounded."""
    count, size = spec.count, done.intersection
    if size and (party != spec.learner or not count.tell_coordinator):
        raise PeerError(
            "coordinator.undisclosed_count", f"{party} sent a number that the specification keeps from the coordinator."
        )
    if size > done.set_size or (size and size != count.told(size, spec.align.minimum)):
        raise PeerError("coordinator.bad_report", f"{party} reported a number of shared customers that may not be told.")


def _possible_split(model: Model, done: StepReport) -> bool:
    """Whether the rows reported add up: all shared rows, or no more than the job draws of either group.

    Where every row held out serves, the rows left for training are known, and with them how many are drawn.  (An auditor tosses
    the coin again and knows all of it.)
    """
    left = done.intersection - done.rows_holdout
    train_most, evaluate_most = (left if most is None else most for most in (model.train_rows, model.evaluate_rows))
    if model.evaluate_rows is None or done.rows_holdout < evaluate_most:
        return done.rows_train == min(train_most, left)
    return done.rows_holdout == evaluate_most and done.rows_train <= min(train_most, left)


def check_agreement(first: StepReport, second: StepReport) -> None:
    """What two reports of one step must have in common; of a count's number only one speaks.

    Raises:
        PeerError: ``coordinator.reports_differ``.
    """
    if first.step == "count":
        first, second = (replace(report, intersection=0) for report in (first, second))
    for name in ("transcript_sha256", "intersection", "rows_train", "rows_holdout", "base_rate"):
        if getattr(first, name) != getattr(second, name):
            raise PeerError("coordinator.reports_differ", f"The two nodes' reports differ in {name}.")
    if _bits(first.inner_products) != _bits(second.inner_products):
        raise PeerError("coordinator.reports_differ", "The two nodes' reports differ in inner_products.")
    if first.metrics is not None and second.metrics is not None and first.metrics != second.metrics:
        raise PeerError("coordinator.reports_differ", "The two nodes' reports differ in metrics.")


def _bits(values: tuple[float, ...]) -> bytes:
    return struct.pack(f"<{len(values)}d", *values)
