"""The coordinator's state: jobs, decisions, steps, reports and inner products in one database.

SQLite by default (write-ahead log, foreign keys, full synchronisation), any other SQLAlchemy URL where it is outgrown.  A job is
saved as a whole in one transaction before anything is answered or directed; what is loaded is equal to what was saved.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, cast

from sqlalchemy import BigInteger, Engine, ForeignKey, ForeignKeyConstraint, String, Text, create_engine, event, func, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, NoSuchModuleError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from audit.spec import parse_spec
from coordinator.errors import DataError, UsageError
from coordinator.jobs import ENDED, Decision, Gain, Job, Metrics, State, Step, StepReport

SCHEMA_VERSION = 1


class _Base(DeclarativeBase):
    type_annotation_map: ClassVar = {int: BigInteger}


class _Schema(_Base):
    __tablename__ = "schema"
    version: Mapped[int] = mapped_column(primary_key=True)


class _Job(_Base):
    __tablename__ = "jobs"
    identity: Mapped[str] = mapped_column(String(64), primary_key=True)
    spec: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16), index=True)
    code: Mapped[str] = mapped_column(String(64))
    attempt: Mapped[int]
    converged: Mapped[bool]
    offered: Mapped[str] = mapped_column(Text)
    submitted: Mapped[str] = mapped_column(String(40), index=True)
    updated: Mapped[str] = mapped_column(String(40))
    decisions: Mapped[list[_Decision]] = relationship(cascade="all, delete-orphan", order_by="_Decision.place")
    steps: Mapped[list[_Step]] = relationship(cascade="all, delete-orphan", order_by="_Step.number")


class _Decision(_Base):
    __tablename__ = "decisions"
    job: Mapped[str] = mapped_column(ForeignKey("jobs.identity"), primary_key=True)
    party: Mapped[str] = mapped_column(String(63), primary_key=True)
    place: Mapped[int]
    decision: Mapped[str] = mapped_column(String(8))
    statement: Mapped[str] = mapped_column(Text)
    signature: Mapped[str] = mapped_column(String(128))


class _Step(_Base):
    __tablename__ = "steps"
    job: Mapped[str] = mapped_column(ForeignKey("jobs.identity"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    step: Mapped[str] = mapped_column(String(16))
    round: Mapped[int]
    attempt: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))
    coefficients: Mapped[str] = mapped_column(Text)
    lookup_range: Mapped[float]
    decrement: Mapped[float]
    reports: Mapped[list[_Report]] = relationship(cascade="all, delete-orphan", order_by="_Report.place")


class _Report(_Base):
    __tablename__ = "reports"
    __table_args__ = (ForeignKeyConstraint(["job", "number"], ["steps.job", "steps.number"]),)
    job: Mapped[str] = mapped_column(String(64), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    party: Mapped[str] = mapped_column(String(63), primary_key=True)
    place: Mapped[int]
    transcript_sha256: Mapped[str] = mapped_column(String(64))
    seconds: Mapped[float]
    bytes_sent: Mapped[int]
    bytes_received: Mapped[int]
    peak_rss_bytes: Mapped[int]
    set_size: Mapped[int]
    intersection: Mapped[int]
    rows_train: Mapped[int]
    rows_holdout: Mapped[int]
    columns: Mapped[int]
    base_rate: Mapped[str] = mapped_column(String(12))
    metrics: Mapped[str] = mapped_column(Text)
    inner_products: Mapped[list[_InnerProduct]] = relationship(cascade="all, delete-orphan", order_by="_InnerProduct.earlier")


class _InnerProduct(_Base):
    __tablename__ = "inner_products"
    __table_args__ = (ForeignKeyConstraint(["job", "number", "party"], ["reports.job", "reports.number", "reports.party"]),)
    job: Mapped[str] = mapped_column(String(64), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    party: Mapped[str] = mapped_column(String(63), primary_key=True)
    earlier: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[float]


_PLAIN = (
    "transcript_sha256", "seconds", "bytes_sent", "bytes_received", "peak_rss_bytes", "set_size", "intersection", "rows_train",
    "rows_holdout", "columns", "base_rate",
)  # fmt: skip


class Store:
    """The database.  Thread-safe: each call is a session and a transaction of its own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, url: str) -> Store:
        """Open the database, making its tables where there are none.

        Raises:
            UsageError: ``store.bad_url``; ``store.newer_schema``.
            DataError: ``store.unusable``: not a database, or not readable.
        """
        try:
            engine = create_engine(make_url(url))
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError):
            raise UsageError(
                "store.bad_url",
                "The database URL is not one that can be used here.",
                remedy="Leave `database` out for SQLite in the state folder, or install the driver that the URL names.",
            ) from None
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _sqlite_settings)
        try:
            _Base.metadata.create_all(engine)
            with Session(engine) as session, session.begin():
                found = session.scalars(select(_Schema.version)).first()
                if found is None:
                    session.add(_Schema(version=SCHEMA_VERSION))
        except DatabaseError:
            raise DataError(
                "store.unusable",
                f"The coordinator's database {engine.url.render_as_string(hide_password=True)} cannot be opened.",
                remedy="Check the path, its permissions and the free space, or restore it from a backup.",
            ) from None
        if found is not None and found != SCHEMA_VERSION:
            raise UsageError(
                "store.newer_schema",
                f"The coordinator's database has the schema {found}; this version knows {SCHEMA_VERSION}.",
                remedy="Run the version that made it.",
            )
        return cls(engine)

    @classmethod
    def in_folder(cls, folder: Path) -> Store:
        """The SQLite database of a state folder."""
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
        return cls.open(f"sqlite:///{path}")

    def close(self) -> None:
        """Let the file go."""
        self._engine.dispose()

    def save(self, job: Job) -> None:
        """Write the job as it is now; it is on disk when this returns.

        Raises:
            DataError: ``store.write_failed``; nothing of it was written.
        """
        try:
            with Session(self._engine) as session, session.begin():
                session.merge(_row(job))
        except DatabaseError:
            raise DataError(
                "store.write_failed",
                "The coordinator's database cannot be written.",
                remedy="Check the disk's free space and the file's permissions; the job goes on after a restart.",
            ) from None

    def load(self, identity: str) -> Job | None:
        """The job of exactly this identity."""
        with Session(self._engine) as session:
            row = session.get(_Job, identity)
            return _job(row) if row else None

    def find(self, prefix: str) -> list[str]:
        """Identities that begin with ``prefix`` (hex digits), at most three of them."""
        query = select(_Job.identity).where(_Job.identity.startswith(prefix, autoescape=True)).limit(3)
        with Session(self._engine) as session:
            return list(session.scalars(query))

    def job_counts(self) -> dict[str, int]:
        """How many jobs are in each state that any is in."""
        with Session(self._engine) as session:
            query = select(_Job.state, func.count()).group_by(_Job.state)
            return {str(state): int(count) for state, count in session.execute(query)}

    def open_jobs(self) -> list[Job]:
        """All jobs that have not ended, oldest first."""
        query = select(_Job).where(_Job.state.not_in(ENDED)).order_by(_Job.submitted, _Job.identity)
        with Session(self._engine) as session:
            return [_job(row) for row in session.scalars(query)]

    def recent(self, limit: int) -> list[Job]:
        """The newest jobs, newest first."""
        query = select(_Job).order_by(_Job.submitted.desc(), _Job.identity).limit(limit)
        with Session(self._engine) as session:
            return [_job(row) for row in session.scalars(query)]


def _sqlite_settings(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA busy_timeout = 5000")
    cursor.close()


def _row(job: Job) -> _Job:
    return _Job(
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
            _Decision(job=job.identity, party=party, place=place, decision=d.decision, statement=d.statement, signature=d.signature)
            for place, (party, d) in enumerate(job.decisions.items())
        ],
        steps=[_step_row(job.identity, number, step) for number, step in enumerate(job.steps)],
    )


def _step_row(identity: str, number: int, step: Step) -> _Step:
    return _Step(
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


def _report_row(identity: str, number: int, place: int, party: str, report: StepReport) -> _Report:
    values = [
        _InnerProduct(job=identity, number=number, party=party, earlier=earlier, value=value)
        for earlier, value in enumerate(report.inner_products)
    ]
    metrics = json.dumps(asdict(report.metrics)) if report.metrics else ""
    plain = {name: getattr(report, name) for name in _PLAIN}
    return _Report(job=identity, number=number, party=party, place=place, metrics=metrics, inner_products=values, **plain)


def _job(row: _Job) -> Job:
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


def _step(row: _Step) -> Step:
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


def _report(step: _Step, row: _Report) -> StepReport:
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
