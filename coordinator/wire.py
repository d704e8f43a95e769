"""A job as the operators' service tells it: the protobuf message on the wire."""

from __future__ import annotations

from coordinator.jobs import Job, Step
from coordinator.reports import Metrics, StepReport
from coordinator.runner import Runner
from protos import control_pb2


def job_view(job: Job, runner: Runner) -> control_pb2.JobView:
    """The job as it stands, with who is attached and how far each party is."""
    step = job.steps[-1] if job.steps else None
    view = control_pb2.JobView(
        job=job.identity,
        spec=job.spec.canonical().decode(),
        state=job.state,
        code=job.code,
        step=step.step if step else "",
        round=step.round if step else 0,
        attempt=job.attempt,
        submitted=job.submitted,
        updated=job.updated,
        parties=[_party_view(job, party, runner) for party in job.parties],
        steps=[_step_view(job, step, runner) for step in job.steps],
        base_rate=job.base_rate,
        converged=job.converged,
    )
    if job.metrics is not None:
        view.metrics.CopyFrom(_metrics(job.metrics))
    return view


def _party_view(job: Job, party: str, runner: Runner) -> control_pb2.PartyView:
    attached, progress = runner.standing(job, party)
    decision = job.decisions.get(party)
    word = "waiting" if decision is None else {"approve": "approved", "reject": "rejected"}[decision.decision]
    return control_pb2.PartyView(
        party=party, attached=attached, decision=word, phase=progress.phase, done=progress.done, total=progress.total
    )


def _step_view(job: Job, step: Step, runner: Runner) -> control_pb2.StepView:
    return control_pb2.StepView(
        step=step.step,
        round=step.round,
        attempt=step.attempt,
        state=step.state,
        seconds=step.seconds,
        decrement=step.decrement,
        reports=[_step_done(job, report) for report in step.reports.values()],
        reporters=list(step.reports),
        bytes_relayed=runner.relayed((job.identity, step.step, step.round, step.attempt)),
    )


def _step_done(job: Job, report: StepReport) -> control_pb2.StepDone:
    return control_pb2.StepDone(
        job=job.identity,
        step=report.step,
        attempt=report.attempt,
        round=report.round,
        transcript_sha256=report.transcript_sha256,
        seconds=report.seconds,
        bytes_sent=report.bytes_sent,
        bytes_received=report.bytes_received,
        peak_rss_bytes=report.peak_rss_bytes,
        set_size=report.set_size,
        intersection=report.intersection,
        rows_train=report.rows_train,
        rows_holdout=report.rows_holdout,
        columns=report.columns,
        base_rate=report.base_rate,
        inner_products=report.inner_products,
        metrics=_metrics(report.metrics) if report.metrics else None,
    )


def _metrics(metrics: Metrics) -> control_pb2.Metrics:
    return control_pb2.Metrics(
        auc=metrics.auc,
        ks=metrics.ks,
        log_loss=metrics.log_loss,
        base_rate=metrics.base_rate,
        rows=metrics.rows,
        gains=[control_pb2.GainsRow(decile=g.decile, rows=g.rows, positives=g.positives) for g in metrics.gains],
    )
