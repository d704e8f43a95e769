"""The form of every field a node may send, in one table; docs/control-fields.md is its description for people.

A report that holds anything else (another form, a field of another step, a field this version does not know) ends its stream with
``control.bad_field``.  Nothing of it is stored, logged or passed on: what could carry a datum does not come in.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping

import rfc8785
from google.protobuf.message import Message

from coordinator.errors import PeerError
from coordinator.reports import Gain, Metrics, StepReport
from protos import control_pb2

REPORT_BYTES_MAX = 64 * 2**10
STATEMENT_BYTES_MAX = 2048
ROUNDS_MAX = 64
COUNT_MAX = 2**48
GAINS_MAX = 10
PROOF_HASHES_MAX = 63

FORMS: Mapping[str, re.Pattern[str]] = {
    "Hello.party": re.compile(r"[a-z0-9][a-z0-9-]{0,62}"),
    "Hello.software": re.compile(r"[0-9A-Za-z.+_-]{1,40}"),
    "Decision.job": re.compile(r"[0-9a-f]{64}"),
    "Decision.statement": re.compile(r"\{.*\}", re.DOTALL),
    "Decision.signature": re.compile(r"[0-9a-f]{128}"),
    "StepDone.job": re.compile(r"[0-9a-f]{64}"),
    "StepDone.step": re.compile(r"align|count|prepare|round|finish|evaluate"),
    "StepDone.transcript_sha256": re.compile(r"[0-9a-f]{64}"),
    "StepDone.base_rate": re.compile(r"|0\.[0-9]{1,8}"),
    "StepFailed.job": re.compile(r"[0-9a-f]{64}"),
    "StepFailed.step": re.compile(r"align|count|prepare|round|finish|evaluate"),
    "StepFailed.code": re.compile(r"[a-z0-9_.]{1,64}"),
    "StepProgress.job": re.compile(r"[0-9a-f]{64}"),
    "StepProgress.step": re.compile(r"align|count|prepare|round|finish|evaluate"),
    "StepProgress.phase": re.compile(r"[a-z ]{0,40}"),
    "Checkpoint.log": re.compile(r"[a-z0-9][a-z0-9-]{0,62}"),
    "Checkpoint.witness": re.compile(r"[a-z0-9][a-z0-9-]{0,62}"),
    "Checkpoint.note": re.compile(
        r"isthmus\.log/[a-z0-9-]{1,63}\n[0-9]{1,16}\n[A-Za-z0-9+/]{43}=\n\n\u2014 isthmus\.log/[a-z0-9-]{1,63} [A-Za-z0-9+/]{91}=\n"
    ),
    "Checkpoint.proof": re.compile(r"[0-9a-f]{64}"),
    "Cosignature.log": re.compile(r"[a-z0-9][a-z0-9-]{0,62}"),
    "Cosignature.witness": re.compile(r"[a-z0-9][a-z0-9-]{0,62}"),
    "Cosignature.line": re.compile(r"|\u2014 isthmus\.log/[a-z0-9-]{1,63} [A-Za-z0-9+/]{102}=="),
    "Cosignature.code": re.compile(r"[a-z0-9_.]{0,64}"),
}
"""Message and field -> the whole text's form.  A string field that is not here does not exist (a test walks the descriptors)."""

RANGES: Mapping[str, tuple[float, float]] = {
    "StepDone.seconds": (0.0, 1e8),
    "StepDone.inner_products": (-1e6, 1e6),
    "Metrics.auc": (0.0, 1.0),
    "Metrics.ks": (0.0, 1.0),
    "Metrics.log_loss": (0.0, 1e3),
    "Metrics.base_rate": (0.0, 1.0),
}
"""Bounds of the fields of type ``double``; they are finite as well."""

OF_STEP: Mapping[str, frozenset[str]] = {
    "align": frozenset({"set_size", "intersection", "rows_train", "rows_holdout"}),
    "count": frozenset({"set_size", "intersection"}),
    "prepare": frozenset({"columns", "base_rate"}),
    "round": frozenset({"inner_products"}),
    "finish": frozenset(),
    "evaluate": frozenset({"metrics"}),
}
"""Which of the fields that belong to one step a report of that step may hold."""

_STEP_FIELDS = frozenset().union(*OF_STEP.values())


def check_report(report: control_pb2.Report) -> control_pb2.Report:
    """The report itself, when everything in it has its form.

    Raises:
        PeerError: ``control.bad_field`` names the field, never what it held.
    """
    if report.ByteSize() > REPORT_BYTES_MAX:
        raise _bad("Report", f"has more than {REPORT_BYTES_MAX} bytes")
    known = control_pb2.Report()
    known.CopyFrom(report)
    known.DiscardUnknownFields()
    if known.ByteSize() != report.ByteSize():
        raise _bad("Report", "holds a field that this version does not know")
    kind = report.WhichOneof("body")
    if kind is None:
        raise _bad("Report", "is empty")
    body = getattr(report, kind)
    _check_message(body)
    if kind == "decision":
        _check_statement(body.statement)
    if kind == "step_done":
        _check_step_done(body)
    if kind == "checkpoint" and len(body.proof) > PROOF_HASHES_MAX:
        raise _bad("Checkpoint.proof", f"has more than {PROOF_HASHES_MAX} hashes")
    if kind in ("step_done", "step_failed", "progress") and (body.round > 0) != (body.step == "round"):
        raise _bad(f"{body.DESCRIPTOR.name}.round", "does not fit the step")
    return report


def step_report(done: control_pb2.StepDone) -> StepReport:
    """A checked ``StepDone`` as the state machine's own type."""
    return StepReport(
        step=done.step,
        attempt=done.attempt,
        round=done.round,
        transcript_sha256=done.transcript_sha256,
        seconds=done.seconds,
        bytes_sent=done.bytes_sent,
        bytes_received=done.bytes_received,
        peak_rss_bytes=done.peak_rss_bytes,
        set_size=done.set_size,
        intersection=done.intersection,
        rows_train=done.rows_train,
        rows_holdout=done.rows_holdout,
        columns=done.columns,
        base_rate=done.base_rate,
        inner_products=tuple(done.inner_products),
        metrics=_metrics(done.metrics) if done.HasField("metrics") else None,
    )


def _metrics(metrics: control_pb2.Metrics) -> Metrics:
    return Metrics(
        auc=metrics.auc,
        ks=metrics.ks,
        log_loss=metrics.log_loss,
        base_rate=metrics.base_rate,
        rows=metrics.rows,
        gains=tuple(Gain(row.decile, row.rows, row.positives) for row in metrics.gains),
    )


def _check_message(message: Message) -> None:
    """Every field that is set, and every string whether set or not, by the tables above; sub-messages likewise."""
    for descriptor in message.DESCRIPTOR.fields:
        name = f"{message.DESCRIPTOR.name}.{descriptor.name}"
        value = getattr(message, descriptor.name)
        if descriptor.message_type is not None:
            for part in value if _repeated(value) else [value] if message.HasField(descriptor.name) else []:
                _check_message(part)
        elif descriptor.type == descriptor.TYPE_STRING:
            values = value if _repeated(value) else [value]
            if name not in FORMS or not all(FORMS[name].fullmatch(text) for text in values):
                raise _bad(name, "does not have its form")
        elif descriptor.type == descriptor.TYPE_DOUBLE:
            low, high = RANGES[name]
            if not all(math.isfinite(v) and low <= v <= high for v in (value if _repeated(value) else [value])):
                raise _bad(name, "is not a finite number in its range")
        elif value > COUNT_MAX:
            raise _bad(name, "is out of range")


def _repeated(value: object) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, str | bytes)


def _check_step_done(done: control_pb2.StepDone) -> None:
    for name in _STEP_FIELDS - OF_STEP[done.step]:
        value = getattr(done, name)
        if done.HasField("metrics") if name == "metrics" else bool(value):
            raise _bad(f"StepDone.{name}", f"does not belong to the step {done.step}")
    if len(done.inner_products) > ROUNDS_MAX:
        raise _bad("StepDone.inner_products", f"has more than {ROUNDS_MAX} values")
    if len(done.metrics.gains) > GAINS_MAX:
        raise _bad("Metrics.gains", f"has more than {GAINS_MAX} rows")


def _check_statement(statement: str) -> None:
    data = statement.encode()
    try:
        canonical = len(data) <= STATEMENT_BYTES_MAX and rfc8785.dumps(json.loads(data)) == data
    except (ValueError, RecursionError, rfc8785.CanonicalizationError):
        canonical = False
    if not canonical:
        raise _bad("Decision.statement", "is not canonical JSON")


def _bad(name: str, reason: str) -> PeerError:
    return PeerError("control.bad_field", f"In a node's report, {name} {reason}.", remedy="Check that node's version.")
