"""A job as ``--json`` prints it: what the operator commands make of the message on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from audit.accuracy import accuracy_of, auc_standard_error
from audit.spec import JobSpec, Model, parse_spec
from audit.split import ROWS_MAX, split_sizes
from protos import control_pb2

_REPORT_FIELDS = (
    "transcript_sha256", "seconds", "bytes_sent", "bytes_received", "peak_rss_bytes", "set_size", "intersection", "rows_train",
    "rows_holdout", "columns", "base_rate",
)  # fmt: skip


def as_json(view: control_pb2.JobView) -> dict[str, Any]:
    """The same for ``--json``: every key always present, ``null`` where there is nothing yet."""
    spec = parse_spec(view.spec.encode())
    steps = [_step_json(step) for step in view.steps]
    done = {step["step"]: step for step in steps if step["state"] == "done"}
    sizes = done["align"]["reports"][0] if "align" in done else {}
    rounds = [step for step in steps if step["step"] == "round" and step["state"] == "done"]
    return {
        "job": view.job,
        "kind": spec.kind,
        "title": spec.title,
        "state": view.state,
        "code": view.code,
        "step": view.step,
        "round": view.round,
        "attempt": view.attempt,
        "submitted": view.submitted,
        "updated": view.updated,
        "label_holder": spec.label_holder.name,
        "feature_holder": spec.feature_holder.name,
        "parties": [
            {"party": p.party, "attached": p.attached, "decision": p.decision, "phase": p.phase, "done": p.done, "total": p.total}
            for p in view.parties
        ],
        "intersection": sizes.get("intersection"),
        "counted": _counted(spec, done.get("count")),
        "rows_train": sizes.get("rows_train"),
        "rows_holdout": sizes.get("rows_holdout"),
        "accuracy": _accuracy(view.job, spec.model, sizes, done.get("prepare")),
        "base_rate": view.base_rate or None,
        "rounds": len(rounds),
        "rounds_max": spec.model.rounds,
        "tolerance": spec.model.tolerance,
        "decrement": rounds[-1]["decrement"] if rounds else None,
        "converged": view.converged,
        "metrics": _metrics_json(view.metrics) if view.HasField("metrics") else None,
        "steps": steps,
        "spec": spec.model_dump(mode="json"),
    }


def _counted(spec: JobSpec, step: dict[str, Any] | None) -> dict[str, Any] | None:
    """What a count told the coordinator: ``told`` is null where the number is below the minimum."""
    if step is None or not spec.count.tell_coordinator:
        return None
    told = next((report["intersection"] for report in step["reports"] if report["party"] == spec.learner), 0)
    return {"told": told or None, "step": spec.count.step, "minimum": spec.align.minimum}


def _accuracy(job: str, model: Model, sizes: Mapping[str, Any], prepared: Mapping[str, Any] | None) -> Mapping[str, float] | None:
    """What the training can be expected to give up for the rows it leaves out: by the sizes that the nodes reported."""
    if prepared is None or not sizes:
        return None
    columns = sum(report["columns"] for report in prepared["reports"])
    available = _available(job, model, sizes["intersection"]) if model.train_rows else sizes["rows_train"]
    found = accuracy_of(rows=sizes["rows_train"], available=available, columns=columns)
    return found.document() if found else None


@lru_cache(maxsize=64)
def _available(job: str, model: Model, shared: int) -> int:
    """Rows that were there to train on, by the public coin; kept, because a job that is watched is looked at again and again."""
    return split_sizes(job, shared, model).train_available if shared <= ROWS_MAX else 0


def _step_json(step: control_pb2.StepView) -> dict[str, Any]:
    reports = [
        {"party": party}
        | {name: getattr(report, name) for name in _REPORT_FIELDS}
        | {"inner_products": list(report.inner_products)}
        for party, report in zip(step.reporters, step.reports, strict=True)
    ]
    return {
        "step": step.step,
        "round": step.round,
        "attempt": step.attempt,
        "state": step.state,
        "seconds": step.seconds,
        "decrement": step.decrement if step.step == "round" and step.state == "done" else None,
        "bytes_relayed": step.bytes_relayed,
        "reporters": list(step.reporters),
        "reports": reports,
    }


def _metrics_json(metrics: control_pb2.Metrics) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(metrics, name) for name in ("auc", "ks", "log_loss", "base_rate", "rows")}
    values["auc_standard_error"] = auc_standard_error(metrics.auc, rows=metrics.rows, base_rate=metrics.base_rate)
    return values | {"gains": [{"decile": g.decile, "rows": g.rows, "positives": g.positives} for g in metrics.gains]}
