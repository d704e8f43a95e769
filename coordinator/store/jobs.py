"""Jobs, decisions, steps, reports and inner products, as they are kept and found.

A job is saved as a whole in one transaction before anything is answered or directed; what is loaded is equal to what was saved.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias, cast

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from audit.spec import parse_spec
from coordinator.errors import DataError
from coordinator.jobs import ENDED, Decision, Job, State, Step
from coordinator.reports import Gain, Metrics, StepReport
from coordinator.store.engine import make_engine, read_failed, write_failed
from coordinator.store.schema import upgrade
from coordinator.store.tables import DecisionRow, InnerProductRow, JobRow, ReportRow, StepRow

Fence: TypeAlias = Callable[[Connection], None]
"""Called first in every transaction that writes, on its connection; raises when this coordinator may not write any more."""

_PLAIN = (
    "transcript_sha256", "seconds", "bytes_sent", "bytes_received", "peak_rss_bytes", "set_size", "intersection", "rows_train",
    "rows_holdout", "columns", "base_rate",
)  # fmt: skip


class Store:
    """The jobs of a database at its newest schema.  Thread-safe: each call is a session and a transaction of its own.

    Args:
        engine: the database.
        fence: where several coordinators share it.
    """

    def __init__(self, engine: Engine, *, fence: Fence | None = None) -> None:
        self._engine, self._fence = engine, fence

    @classmethod
    def open(cls, url: str) -> Store:
        """Open a database that is this coordinator's alone, at its newest schema.

        Raises:
            UsageError: ``store.bad_url``, ``store.no_driver``, ``store.newer_schema``.
            DataError: ``store.unusable``: not a database, or not readable; ``store.backup_failed``.
        """
        engine = make_engine(url)
        try:
            upgrade(engine)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine)

    @classmethod
    def in_folder(cls, folder: Path) -> Store:
        """The SQLite database of a state folder."""
        return cls.open(sqlite_url(folder))

    def close(self) -> None:
        """Let the file go."""
        self._engine.dispose()

    def save(self, job: Job) -> None:
        """Write the job as it is now; it is on disk when this returns.

        Raises:
            DataError: ``store.write_failed``; nothing of it was written, unless the database went while it answered.
                ``coordinator.not_leader``; nothing of it was written.
        """
        try:
            with Session(self._engine) as session, session.begin():
                if self._fence is not None:
                    self._fence(session.connection())
                session.merge(_row(job))
        except DBAPIError as error:
            raise write_failed(self._engine.url, error) from None

    def load(self, identity: str) -> Job | None:
        """The job of exactly this identity."""
        with self._reading() as session:
            row = session.get(JobRow, identity)
            return _job(row) if row else None

    def find(self, prefix: str) -> list[str]:
        """Identities that begin with ``prefix`` (hex digits), at most three of them."""
        query = select(JobRow.identity).where(JobRow.identity.startswith(prefix, autoescape=True)).limit(3)
        with self._reading() as session:
            return list(session.scalars(query))

    def open_jobs(self) -> list[Job]:
        """All jobs that have not ended, oldest first."""
        query = select(JobRow).where(JobRow.state.not_in(ENDED)).order_by(JobRow.submitted, JobRow.identity)
        with self._reading() as session:
            return [_job(row) for row in session.scalars(query)]

    def job_counts(self) -> dict[str, int]:
        """How many jobs are in each state that any is in."""
        query = select(JobRow.state, func.count()).group_by(JobRow.state)
        with self._reading() as session:
            return {str(state): int(count) for state, count in session.execute(query)}

    def recent(self, limit: int | None) -> list[Job]:
        """The newest jobs, or all of them, newest first."""
        query = select(JobRow).order_by(JobRow.submitted.desc(), JobRow.identity).limit(limit)
        with self._reading() as session:
            return [_job(row) for row in session.scalars(query)]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Session]:
        """A session whose failures are told as ``store.read_failed``."""
        try:
            with Session(self._engine) as session:
                yield session
        except DBAPIError as error:
            raise read_failed(self._engine.url, error) from None


def sqlite_url(folder: Path) -> str:
    """The URL of a state folder's SQLite database; folder and file are made, readable by this user alone.

    Raises:
        DataError: ``store.unusable``.
    """
    path = folder / "coordinator.db"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
    except OSError as error:
        raise DataError(
            "store.unusable",
            f"The coordinator's database {path} cannot be opened: {error.strerror}.",
            remedy="Give this user write access to the state folder, or name another under `state`.",
        ) from None
    return f"sqlite:///{path}"


def _row(job: Job) -> JobRow:
    return JobRow(
        identity=job.identity,
        spec=job.spec.canonical().decode(),
        state=job.state,
        code=job.code,
        attempt=job.attempt,
        converged=job.converged,
        offered=json.dumps(job.offered),
        submitted=job.submitted,
        updated=job.updated,
        decisions=[
            DecisionRow(
                job=job.identity, party=party, place=place, decision=d.decision, statement=d.statement, signature=d.signature
            )
            for place, (party, d) in enumerate(job.decisions.items())
        ],
        steps=[_step_row(job.identity, number, step) for number, step in enumerate(job.steps)],
    )


def _step_row(identity: str, number: int, step: Step) -> StepRow:
    return StepRow(
        job=identity,
        number=number,
        step=step.step,
        round=step.round,
        attempt=step.attempt,
        state=step.state,
        coefficients=json.dumps(step.coefficients),
        lookup_range=step.lookup_range,
        decrement=step.decrement,
        reports=[_report_row(identity, number, place, *item) for place, item in enumerate(step.reports.items())],
    )


def _report_row(identity: str, number: int, place: int, party: str, report: StepReport) -> ReportRow:
    values = [
        InnerProductRow(job=identity, number=number, party=party, earlier=earlier, value=value)
        for earlier, value in enumerate(report.inner_products)
    ]
    metrics = json.dumps(asdict(report.metrics)) if report.metrics else ""
    plain = {name: getattr(report, name) for name in _PLAIN}
    return ReportRow(job=identity, number=number, party=party, place=place, metrics=metrics, inner_products=values, **plain)


def _job(row: JobRow) -> Job:
    return Job(
        identity=row.identity,
        spec=parse_spec(row.spec.encode()),
        state=cast(State, row.state),
        code=row.code,
        attempt=row.attempt,
        decisions={d.party: Decision(cast(Any, d.decision), d.statement, d.signature) for d in row.decisions},
        steps=tuple(_step(step) for step in row.steps),
        converged=row.converged,
        offered=tuple(json.loads(row.offered)),
        submitted=row.submitted,
        updated=row.updated,
    )


def _step(row: StepRow) -> Step:
    return Step(
        step=cast(State, row.step),
        round=row.round,
        attempt=row.attempt,
        state=cast(Any, row.state),
        coefficients=tuple(json.loads(row.coefficients)),
        lookup_range=row.lookup_range,
        reports={report.party: _report(row, report) for report in row.reports},
        decrement=row.decrement,
    )


def _report(step: StepRow, row: ReportRow) -> StepReport:
    return StepReport(
        step=step.step,
        attempt=step.attempt,
        round=step.round,
        inner_products=tuple(item.value for item in row.inner_products),
        metrics=_metrics(json.loads(row.metrics)) if row.metrics else None,
        **{name: getattr(row, name) for name in _PLAIN},
    )


def _metrics(fields: dict[str, Any]) -> Metrics:
    gains: Sequence[dict[str, int]] = fields.pop("gains")
    return Metrics(**fields, gains=tuple(Gain(**row) for row in gains))
