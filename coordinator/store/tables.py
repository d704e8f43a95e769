"""The tables of the coordinator's database; ``coordinator/migrations`` makes them, and a test compares the two."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from sqlalchemy import BigInteger, DateTime, Double, ForeignKey, ForeignKeyConstraint, LargeBinary, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    """All tables of the coordinator."""

    type_annotation_map: ClassVar = {int: BigInteger, float: Double}


class SchemaRow(Base):
    """What version 0.1.0 looks at: it refuses every number but 1."""

    __tablename__ = "schema"
    version: Mapped[int] = mapped_column(primary_key=True)


class JobRow(Base):
    """One job."""

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
    decisions: Mapped[list[DecisionRow]] = relationship(cascade="all, delete-orphan", order_by="DecisionRow.place")
    steps: Mapped[list[StepRow]] = relationship(cascade="all, delete-orphan", order_by="StepRow.number")


class DecisionRow(Base):
    """One party's decision on a job."""

    __tablename__ = "decisions"
    job: Mapped[str] = mapped_column(ForeignKey("jobs.identity"), primary_key=True)
    party: Mapped[str] = mapped_column(String(63), primary_key=True)
    place: Mapped[int]
    decision: Mapped[str] = mapped_column(String(8))
    statement: Mapped[str] = mapped_column(Text)
    signature: Mapped[str] = mapped_column(String(128))


class StepRow(Base):
    """One attempt of one step; ``number`` is its place in the job."""

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
    reports: Mapped[list[ReportRow]] = relationship(cascade="all, delete-orphan", order_by="ReportRow.place")


class ReportRow(Base):
    """What one party reported of a step."""

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
    inner_products: Mapped[list[InnerProductRow]] = relationship(cascade="all, delete-orphan", order_by="InnerProductRow.earlier")


class InnerProductRow(Base):
    """One inner product of a round's report."""

    __tablename__ = "inner_products"
    __table_args__ = (ForeignKeyConstraint(["job", "number", "party"], ["reports.job", "reports.number", "reports.party"]),)
    job: Mapped[str] = mapped_column(String(64), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    party: Mapped[str] = mapped_column(String(63), primary_key=True)
    earlier: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[float]


class LeaderRow(Base):
    """Which coordinator leads (one row); see :mod:`coordinator.leader`.

    ``epoch`` grows by one whenever another takes the lead; ``expires`` is by the database's clock.
    """

    __tablename__ = "leader"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    epoch: Mapped[int]
    name: Mapped[str] = mapped_column(String(63))
    log_key: Mapped[str] = mapped_column(Text)
    holder: Mapped[str] = mapped_column(Text)
    expires: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class LogEntryRow(Base):
    """One entry of the coordinator's log: the line's bytes without the newline."""

    __tablename__ = "log_entries"
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    line: Mapped[bytes] = mapped_column(LargeBinary)


class LogCheckpointRow(Base):
    """One signed tree head of the coordinator's log, with the cosignatures it has so far."""

    __tablename__ = "log_checkpoints"
    size: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    note: Mapped[bytes] = mapped_column(LargeBinary)


class WitnessNoteRow(Base):
    """The last checkpoint of another log that the coordinator cosigned."""

    __tablename__ = "witness_notes"
    log: Mapped[str] = mapped_column(String(63), primary_key=True)
    size: Mapped[int]
    note: Mapped[bytes] = mapped_column(LargeBinary)
