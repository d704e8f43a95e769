"""The node's state: a SQLite database for what happened, one folder a job for what a step left behind.

    state.db               jobs, requests, signed decisions, steps and their reports, disclosures (``node.runtime.tables``)
    jobs/<hash>/           seed.sealed, directive-<step>-<round>.json, <result>.npz, model.json, metrics.json, disclosures.json
    relations/<hash>/      of published filters, from job to job (``node.runtime.relations``)
    jobs/<hash>/kept/      what a replay needs, where the policy says so (``node.runtime.kept``)

Every file is written whole or not at all: to a temporary name, to disk, then renamed.  Files are readable by their owner alone;
those of arrays, with keys, masks, shares and who is shared, are sealed where the node's own keys are
(``node.runtime.sealed_files``).
Two processes use the database: the serving node, and the command line of the person who approves; SQLite's own locks keep them
apart.
"""

from __future__ import annotations

import fcntl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from audit.sealed import derive
from node.errors import DataError, UsageError
from node.runtime.disclosures import Disclosure
from node.runtime.files import JobFiles
from node.runtime.tables import DECISIONS, DISCLOSURES, JOBS, META, QUERIES, REQUESTS, STEPS

DATABASE = "state.db"
SERVE_LOCK = "serve.lock"
"""Held by the one process that serves a state folder."""

TRANSITIONS: dict[str, frozenset[str]] = {
    "waiting": frozenset({"approved", "rejected", "cancelled", "failed"}),
    "approved": frozenset({"running", "rejected", "cancelled", "failed"}),
    "running": frozenset({"finished", "cancelled", "failed"}),
    "finished": frozenset(),
    "rejected": frozenset(),
    "cancelled": frozenset(),
    "failed": frozenset(),
}
"""How a job moves on this node: waiting for a person, approved here, its steps running, and the four ends."""
FINAL = frozenset(state for state, following in TRANSITIONS.items() if not following)


@dataclass(frozen=True)
class JobRow:
    """One job as the database has it; times are RFC 3339."""

    job: str
    spec: str
    state: str
    code: str
    received: str
    updated: str


@dataclass(frozen=True)
class StepRow:
    """One attempt of one step."""

    job: str
    step: str
    round: int
    attempt: int
    state: str
    code: str
    report: bytes
    started: str
    ended: str


@dataclass(frozen=True)
class Request:
    """What a person asked for at the command line."""

    job: str
    decision: str
    by: str
    reason: str


@dataclass(frozen=True)
class SignedDecision:
    """A signed approval or rejection: canonical statement, Ed25519 signature in hex."""

    statement: str
    signature: str


def is_served(folder: Path) -> bool:
    """Whether a process serves this state folder (it holds the lock of ``node.runtime.serve.state_lock``)."""
    try:
        with (folder / SERVE_LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


class Store:
    """The database and the job folders of one node.  Thread-safe.

    Args:
        state_key: what secrets of jobs are sealed under (:attr:`audit.identity.Identity.state_key`); without it what is sealed
            does not open, and what is written rests in clear.
    """

    def __init__(self, folder: Path, state_key: bytes | None = None) -> None:
        self.folder, self._state_key = folder, state_key
        try:
            for name in ("jobs", "relations"):
                (folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
            path = folder / DATABASE
            path.touch(mode=0o600)
        except OSError as error:
            raise UsageError(
                "state.unwritable",
                f"The state folder {folder} cannot be written: {error.strerror}.",
                remedy="Give this user write access to it, or name another under `state` in node.toml.",
            ) from None
        self._engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})
        sa.event.listen(self._engine, "connect", _on_connect)
        try:
            # Two processes may meet at a new database: the first makes it, the second waits.  SQLite's own locks do not
            # cover the change of the journal's mode.
            with (folder / "state.lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                META.create_all(self._engine)
        except sa.exc.DatabaseError:
            raise DataError(
                "state.unreadable",
                f"The database {path} cannot be read.",
                remedy="Restore it from a backup, or name another folder under `state` in node.toml.",
            ) from None

    def close(self) -> None:
        """Let the database go."""
        self._engine.dispose()

    # -- jobs
    def add_job(self, job: str, spec: str, *, state: str, code: str, now: str) -> bool:
        """Add a job unless it is there; returns whether it was added."""
        with self._engine.begin() as db:
            if db.execute(sa.select(JOBS.c.job).where(JOBS.c.job == job)).first():
                return False
            db.execute(sa.insert(JOBS).values(job=job, spec=spec, state=state, code=code, received=now, updated=now))
            return True

    def job(self, job: str) -> JobRow | None:
        """The job with this very hash."""
        rows = self._jobs(JOBS.c.job == job)
        return rows[0] if rows else None

    def jobs(self) -> list[JobRow]:
        """All jobs, oldest first."""
        return self._jobs(sa.true())

    def job_counts(self) -> dict[str, int]:
        """How many jobs are in each state that any is in."""
        with self._engine.connect() as db:
            query = sa.select(JOBS.c.state, sa.func.count()).group_by(JOBS.c.state)
            return {str(state): int(count) for state, count in db.execute(query)}

    def resolve(self, prefix: str) -> JobRow:
        """The one job whose hash starts with ``prefix``.

        Raises:
            UsageError: ``job.unknown``, ``job.ambiguous``.
        """
        rows = self._jobs(JOBS.c.job.startswith(prefix.lower(), autoescape=True))
        if not rows or not prefix:
            raise UsageError("job.unknown", f"No job starts with {prefix!r}.", remedy="`isthmus-node jobs` lists them all.")
        if len(rows) > 1:
            raise UsageError(
                "job.ambiguous", f"{len(rows)} jobs start with {prefix!r}.", remedy="Give more digits of the job's hash."
            )
        return rows[0]

    def _jobs(self, where: Any) -> list[JobRow]:
        with self._engine.connect() as db:
            query = sa.select(JOBS).where(where).order_by(JOBS.c.received, JOBS.c.job)
            return [JobRow(**row._mapping) for row in db.execute(query)]

    def move(self, job: str, state: str, *, now: str, code: str = "") -> None:
        """Move a job along ``TRANSITIONS``; to its present state is no move.

        Raises:
            UsageError: ``job.unknown``, ``job.illegal_transition``.
        """
        with self._engine.begin() as db:
            present = db.execute(sa.select(JOBS.c.state).where(JOBS.c.job == job)).scalar()
            if present is None:
                raise UsageError("job.unknown", f"This node has no job {job[:12]}.")
            if present == state:
                return
            if state not in TRANSITIONS[present]:
                raise UsageError("job.illegal_transition", f"Job {job[:12]} is {present} and cannot become {state}.")
            db.execute(sa.update(JOBS).where(JOBS.c.job == job).values(state=state, code=code, updated=now))

    # -- decisions
    def request(self, job: str, *, decision: str, by: str, reason: str = "") -> None:
        """Ask the serving node to approve or reject a job that waits.

        Raises:
            UsageError: ``job.not_waiting``.
        """
        with self._engine.begin() as db:
            state = db.execute(sa.select(JOBS.c.state).where(JOBS.c.job == job)).scalar()
            asked = db.execute(sa.select(REQUESTS.c.decision).where(REQUESTS.c.job == job)).scalar()
            if state != "waiting" or asked is not None:
                what = state if state != "waiting" else f"already asked to be {'approved' if asked == 'approve' else 'rejected'}"
                raise UsageError(
                    "job.not_waiting",
                    f"Job {job[:12]} does not wait for a decision: it is {what}.",
                    remedy="`isthmus-node jobs` shows which jobs wait.",
                )
            db.execute(sa.insert(REQUESTS).values(job=job, decision=decision, by=by, reason=reason))

    def requests(self) -> list[Request]:
        """Requests not yet acted on: those of jobs that still wait."""
        waiting = sa.select(JOBS.c.job).where(JOBS.c.state == "waiting")
        with self._engine.connect() as db:
            return [Request(**row._mapping) for row in db.execute(sa.select(REQUESTS).where(REQUESTS.c.job.in_(waiting)))]

    def request_of(self, job: str) -> Request | None:
        """What a person asked for, if anything."""
        with self._engine.connect() as db:
            row = db.execute(sa.select(REQUESTS).where(REQUESTS.c.job == job)).first()
        return Request(**row._mapping) if row else None

    def drop_request(self, job: str) -> None:
        """Forget what a person asked for, because it could not be done."""
        with self._engine.begin() as db:
            db.execute(sa.delete(REQUESTS).where(REQUESTS.c.job == job))

    def put_decision(self, job: str, party: str, decision: SignedDecision) -> bool:
        """Keep a party's signed decision; the first one counts.  Returns whether this was the first."""
        with self._engine.begin() as db:
            where = (DECISIONS.c.job == job, DECISIONS.c.party == party)
            if db.execute(sa.select(DECISIONS.c.job).where(*where)).first():
                return False
            values = {"job": job, "party": party, "statement": decision.statement, "signature": decision.signature}
            db.execute(sa.insert(DECISIONS).values(values))
            return True

    def decisions(self, job: str) -> dict[str, SignedDecision]:
        """Signed decisions by party."""
        with self._engine.connect() as db:
            rows = db.execute(sa.select(DECISIONS).where(DECISIONS.c.job == job))
            return {row.party: SignedDecision(row.statement, row.signature) for row in rows}

    # -- steps
    def begin_step(self, job: str, step: str, round: int, attempt: int, *, now: str) -> None:
        """Put an attempt down as used, before anything of it happens.

        An attempt number never goes down within a job and serves a step of a round once; the slot of a round, ``round - 1 +
        attempt``, only grows: masks taken from a slot never serve twice.

        Raises:
            UsageError: ``job.attempt_reused``.
        """
        with self._engine.begin() as db:
            rows = db.execute(sa.select(STEPS.c.step, STEPS.c.round, STEPS.c.attempt).where(STEPS.c.job == job)).all()
            used = any((row.step, row.round, row.attempt) == (step, round, attempt) for row in rows)
            lower = any(attempt < row.attempt for row in rows)
            slots = [row.round - 1 + row.attempt for row in rows if row.step == "round"]
            taken = step == "round" and any(round - 1 + attempt <= slot for slot in slots)
            if used or lower or taken:
                raise UsageError(
                    "job.attempt_reused",
                    f"Attempt {attempt} of {step}, round {round}, of job {job[:12]} was used before: "
                    "its random numbers must not serve twice.",
                    remedy="The coordinator must start the step again with a higher attempt.",
                )
            values = {"job": job, "step": step, "round": round, "attempt": attempt, "state": "started", "started": now}
            db.execute(sa.insert(STEPS).values(values))

    def end_step(
        self, job: str, step: str, round: int, attempt: int, *, state: str, now: str, code: str = "", report: bytes = b""
    ) -> None:
        """Put down how an attempt ended: ``done`` with its report, or ``failed`` with its code."""
        where = (STEPS.c.job == job, STEPS.c.step == step, STEPS.c.round == round, STEPS.c.attempt == attempt)
        with self._engine.begin() as db:
            db.execute(sa.update(STEPS).where(*where).values(state=state, code=code, report=report, ended=now))

    def steps(self, job: str) -> list[StepRow]:
        """Every attempt of every step of a job, in the order in which they began."""
        columns = [column for column in STEPS.c if column.name != "id"]
        with self._engine.connect() as db:
            rows = db.execute(sa.select(*columns).where(STEPS.c.job == job).order_by(STEPS.c.id))
            return [StepRow(**row._mapping) for row in rows]

    def interrupt_steps(self, *, now: str) -> list[StepRow]:
        """After a restart: attempts that were running are over, and their numbers stay used.  Returns them."""
        with self._engine.begin() as db:
            columns = [column for column in STEPS.c if column.name != "id"]
            rows = [StepRow(**row._mapping) for row in db.execute(sa.select(*columns).where(STEPS.c.state == "started"))]
            values = {"state": "failed", "code": "job.interrupted", "ended": now}
            db.execute(sa.update(STEPS).where(STEPS.c.state == "started").values(values))
            return rows

    # -- disclosures
    def add_disclosures(self, job: str, step: str, round: int, attempt: int, items: Sequence[Disclosure]) -> None:
        """Keep what crossed in one attempt of one step."""
        labels = {"job": job, "step": step, "round": round, "attempt": attempt}
        if items:
            with self._engine.begin() as db:
                db.execute(sa.insert(DISCLOSURES), [labels | item.fields() for item in items])

    def disclosures(self, job: str) -> list[dict[str, Any]]:
        """What crossed in a job so far: ``step, round, attempt, what, to, count, clause, value``, in order."""
        columns = [column for column in DISCLOSURES.c if column.name not in ("id", "job")]
        with self._engine.connect() as db:
            rows = db.execute(sa.select(*columns).where(DISCLOSURES.c.job == job).order_by(DISCLOSURES.c.id))
            return [dict(row._mapping) for row in rows]

    # -- published filters
    def count_queries(self, asker: str, *, job: str, attempt: int, count: int, now: str, since: str, most: int) -> bool:
        """Put queries down as asked, before one is answered, unless ``asker`` would have more than ``most`` later than ``since``.

        Returns whether they were put down.  They stay counted whatever becomes of the attempt: an answer cannot be taken back.
        """
        with self._engine.connect() as db:
            values = {"asker": asker, "job": job, "attempt": attempt, "count": count, "time": now}
            db.execute(sa.insert(QUERIES).values(values))  # first: from here on no other thread counts
            if allowed := self._queries(db, asker, since) <= most:
                db.commit()
            return allowed

    def queries(self, asker: str, *, since: str) -> int:
        """Queries of ``asker`` later than ``since``."""
        with self._engine.connect() as db:
            return self._queries(db, asker, since)

    @staticmethod
    def _queries(db: sa.Connection, asker: str, since: str) -> int:
        total = sa.select(sa.func.coalesce(sa.func.sum(QUERIES.c.count), 0))
        return int(db.execute(total.where(QUERIES.c.asker == asker, QUERIES.c.time > since)).scalar_one())

    def relation_files(self, relation: str) -> JobFiles:
        """The folder of what is kept of a relation from job to job; made when first written to."""
        key = None if self._state_key is None else derive(self._state_key, f"relation {relation}")
        return JobFiles(self.folder / "relations" / relation, key)

    def files(self, job: str) -> JobFiles:
        """The folder of a job; made when first written to."""
        return JobFiles(self.folder / "jobs" / job, None if self._state_key is None else derive(self._state_key, f"files of {job}"))


def _on_connect(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # a used attempt must survive a power cut
    cursor.close()
