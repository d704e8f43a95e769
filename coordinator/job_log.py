"""What the coordinator's log tells of a job: its submission, decisions, directives, reports, disclosures, and its end."""

from __future__ import annotations

import secrets

from audit.entries import Json
from audit.record import LogWriter
from coordinator import disclosures
from coordinator.jobs import Job, Order, SendStep
from coordinator.logged import Logged
from coordinator.reports import StepReport
from coordinator.standing import outward


class JobLog:
    """Writes the entries of jobs; called under the runner's lock, after the database was written.

    Args:
        log: the coordinator's own.
        name: the coordinator's name.
        logged: what the log held of each job when it was opened; None: of none.
    """

    def __init__(self, log: LogWriter, *, name: str, logged: Logged | None) -> None:
        self._log, self._name = log, name
        self._heard = logged is not None
        self._logged = logged or Logged()

    def catch_up(self, job: Job) -> None:
        """Log what a crash kept out of the log: the database is written first."""
        if not self._heard:
            return
        if job.identity not in self._logged.begun:
            self.submission(job)
            self._logged.begun.add(job.identity)
        if job.ended and job.identity not in self._logged.ended:
            self._end(job)
            self._logged.ended.add(job.identity)

    def submission(self, job: Job) -> None:
        """A job was taken in."""
        self._log.append("spec", job=job.identity, document=job.spec.canonical().decode())
        self._log.append("job", job=job.identity, state="submitted", code="")

    def approval(self, job: Job, statement: str, signature: str) -> None:
        """A node's signed decision came."""
        self._log.append("approval", job=job.identity, statement=statement, signature=signature)

    def report(self, job: Job, party: str, report: StepReport) -> None:
        """A node reported the running step done, and disclosed with it what the step has for the coordinator."""
        where: dict[str, Json] = {
            "job": job.identity, "step": report.step, "attempt": report.attempt, "round": report.round, "party": party,
        }  # fmt: skip
        self._log.append("report", **where, transcript_sha256=report.transcript_sha256)  # type: ignore[arg-type]
        for item in disclosures.of_report(job, party, report):
            self._log.append(
                "disclosure",
                **where,  # type: ignore[arg-type]
                what=item.what, to=self._name, count=item.count, clause=item.clause, value=item.value,
                salt=secrets.token_hex(16),  # the hash of an entry must not let its value be guessed
            )  # fmt: skip
            self._logged.disclosed(job.identity, (party, item.what, self._name, item.clause), item.count)

    def moved(self, before: Job, after: Job, orders: tuple[Order, ...]) -> None:
        """A job went from one state to another, and these orders follow."""
        for order in orders:
            if isinstance(order, SendStep):
                step = order.step
                self._log.append(
                    "directive",
                    job=after.identity, step=step.step, attempt=step.attempt, round=step.round,
                    coefficients=[repr(value) for value in step.coefficients], lookup_range=repr(step.lookup_range),
                )  # fmt: skip
        if after.ended:
            self._end(after)
        elif outward(after) != outward(before):
            self._log.append("job", job=after.identity, state=outward(after), code=after.code)

    def _end(self, job: Job) -> None:
        self._log.append("disclosures", job=job.identity, items=self._logged.receipt(job.identity))
        self._log.append("job", job=job.identity, state=job.state, code=job.code)
