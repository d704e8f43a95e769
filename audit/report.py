"""The report for people: one model of the page, from which the page and its JSON are both made.

:func:`make_page` runs the verification of :mod:`audit.verify`, reads the same bytes again with :mod:`audit.reading`, and puts
both into words.  It gives a page whatever the outcome: where the verification failed, the fault stands on top and the page says how
far the rest is confirmed.

``confirmed`` is ``"all"`` when nothing failed, ``"entries"`` when the logs are the ones that were signed but a later check failed
(what they say is theirs, and it is unlawful or contradictory), and ``"nothing"`` when not even that is sure.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from audit import wording
from audit.checkpoint import NOTE_BYTES_MAX, Note, log_of, origin_of, parse_note
from audit.cosignature import cosigned_at, verify_cosignature
from audit.errors import DataError, IsthmusError, VerificationError
from audit.ledger import LogRejected
from audit.partner import read_partner
from audit.reading import LogSeen, read_log
from audit.record import CHECKPOINT_FILE
from audit.report_jobs import JobPage, job_pages
from audit.signing import VerifierKey
from audit.sources import LogSource, locate
from audit.verify import STEPS, StepResult, VerifiedLogs, verify_logs

Confirmed = Literal["all", "entries", "nothing"]
PAGE_JOBS_MAX = 200
"""Jobs that one page describes, the latest; more are asked for by their hash."""
ENTRIES_STEP = 3
"""The check after which a log's entries are known to be those that its owner signed."""


@dataclass(frozen=True)
class Failure:
    """The first fault found."""

    step: int
    code: str
    message: str
    remedy: str
    log: str
    seq: int | None
    offset: int | None


@dataclass(frozen=True)
class CheckLine:
    """One check: what it means, and what came of it."""

    number: int
    title: str
    meaning: str
    state: str
    mark: str
    word: str
    detail: str


@dataclass(frozen=True)
class LogPage:
    """One log.  ``signed`` entries are covered by a checkpoint; ``witnesses`` have put a line under the latest one."""

    name: str
    key: str
    fingerprint: str
    entries: int
    signed: int
    checkpoints: int
    root: str
    first_time: str
    last_time: str
    witnesses: list[str]
    software: list[str]
    policy: list[tuple[str, str]]
    refusals: int
    stopped: str


@dataclass(frozen=True)
class Page:
    """Everything on the page, in its order."""

    made: str
    made_by: str
    exit_status: int
    kind: str
    headline: str
    meaning: str
    keys: str
    confirmed: Confirmed
    failure: Failure | None
    missing: list[str]
    checks: list[CheckLine]
    jobs: list[JobPage]
    jobs_left_out: int
    logs: list[LogPage]
    proves: list[str] = field(default_factory=lambda: list(wording.PROVES))
    does_not_prove: list[str] = field(default_factory=lambda: list(wording.DOES_NOT_PROVE))
    trust: str = wording.MODEL_OF_TRUST

    @property
    def tally(self) -> str:
        """How many checks ended how, in words."""
        words = [check.word for check in self.checks]
        return ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))


def make_page(
    logs: Sequence[Path],
    *,
    policy: Path | None = None,
    partners: Sequence[Path] = (),
    last: Sequence[Path] = (),
    job: str = "",
    made: str,
    made_by: str,
) -> Page:
    """Verify logs and describe them.

    Args:
        logs, policy, partners, last: as :func:`audit.verify.verify_logs`.
        job: only jobs whose hash begins so; empty: all.
        made, made_by: when (RFC 3339) and with which version of isthmus.

    Raises:
        DataError: ``report.log_changed`` when a log was written to between its verification and its description.
    """
    results: list[StepResult] = []
    failed: LogRejected | None = None
    verified: VerifiedLogs | None = None
    try:
        verified = verify_logs(logs, policy=policy, partners=partners, last=last, on_step=results.append)
        read = [(source, _read_verified(verified, source)) for source in verified.sources]
    except LogRejected as rejected:
        failed = rejected
        read = [(source, read_log(source.path, name=source.name)) for source in _those_found(logs)]
    status = verified.exit_status if verified else failed.exit_status if failed else 0
    kind, headline, meaning = wording.VERDICTS[status]
    seen = [log for _, log in read]
    jobs = job_pages(seen, facts=verified.jobs if verified else (), prefix=job, approvals=_state(results, 4))
    return Page(
        made=made,
        made_by=made_by,
        exit_status=status,
        kind=kind,
        headline=headline,
        meaning=meaning,
        keys=verified.trust.source if verified else "",
        confirmed="all" if failed is None else "entries" if failed.step > ENTRIES_STEP else "nothing",
        failure=_failure(failed) if failed else None,
        missing=[point.text for point in verified.open_points] if verified else [],
        checks=_checks(results),
        jobs=jobs[-PAGE_JOBS_MAX:],
        jobs_left_out=max(0, len(jobs) - PAGE_JOBS_MAX),
        logs=[_log_page(source, log, _fingerprints(partners), verified) for source, log in read],
    )


def _read_verified(verified: VerifiedLogs, source: LogSource) -> LogSeen:
    """Read a log that was verified, and make sure that it is still the same."""
    ledger = next(ledger for ledger in verified.ledgers if ledger.name == source.name)
    seen = read_log(source.path, name=source.name, entries=ledger.size)
    if seen.entries != ledger.size or seen.root != ledger.roots[ledger.size]:
        raise DataError(
            "report.log_changed",
            f"The log {source.name!r} was changed while the report was made.",
            remedy="Copy the log folders first, and make the report of the copies.",
        )
    return seen


def _those_found(logs: Sequence[Path]) -> list[LogSource]:
    """The logs that can be read at all, each once: for a report of logs that did not verify."""
    found: dict[str, LogSource] = {}
    for path in logs:
        with contextlib.suppress(LogRejected):
            source = locate(path)
            found.setdefault(source.name, source)
    return list(found.values())


def _failure(rejected: LogRejected) -> Failure:
    return Failure(
        rejected.step, rejected.code, rejected.message, rejected.remedy, rejected.log, rejected.seq, rejected.offset
    )  # fmt: skip


def _state(results: Sequence[StepResult], number: int) -> str:
    return next((result.state for result in results if result.number == number), "not reached")


def _checks(results: Sequence[StepResult]) -> list[CheckLine]:
    """All checks, also those that a failure kept from being made."""
    by_number = {result.number: result for result in results}
    lines = []
    for number, title in enumerate(STEPS):
        result = by_number.get(number)
        state = result.state if result else "not reached"
        mark, word = wording.MARKS[state]
        lines.append(CheckLine(number, title, wording.CHECKS[number], state, mark, word, result.detail if result else ""))
    return lines


def _fingerprints(partners: Sequence[Path]) -> dict[str, str]:
    """The fingerprint that two people compared, by the log's name."""
    found = {}
    for path in partners:
        with contextlib.suppress(IsthmusError):
            partner = read_partner(path)
            found[partner.name] = partner.fingerprint
    return found


def _log_page(source: LogSource, seen: LogSeen, fingerprints: dict[str, str], verified: VerifiedLogs | None) -> LogPage:
    return LogPage(
        name=source.name,
        key=str(source.key) if source.key else "",
        fingerprint=fingerprints.get(source.name, ""),
        entries=seen.entries,
        signed=source.signed_size,
        checkpoints=len(source.checkpoints),
        root=seen.root.hex(),
        first_time=seen.first_time,
        last_time=seen.last_time,
        witnesses=_witnesses(source, list(verified.trust.witnesses(source.name).values()) if verified else []),
        software=seen.software,
        policy=[(name.replace("_", " "), str(value)) for name, value in seen.policy.items()],
        refusals=seen.refusals,
        stopped=seen.stopped,
    )


def _witnesses(source: LogSource, keys: Sequence[VerifierKey]) -> list[str]:
    """Who, besides the owner, has put a line under the latest checkpoint, and when; or why that says nothing."""
    try:
        with (source.folder / CHECKPOINT_FILE).open("rb") as file:
            note = parse_note(file.read(NOTE_BYTES_MAX + 1))
    except (OSError, IsthmusError):
        return []
    names = sorted({line.name for line in note.signatures} - {origin_of(source.name)})
    return [_witness(note, name, next((key for key in keys if key.name == name), None)) for name in names]


def _witness(note: Note, name: str, key: VerifierKey | None) -> str:
    if key is None:
        return f"{log_of(name)} (not checked: its key was not given)"
    try:
        return f"{log_of(name)}, {cosigned_at(verify_cosignature(note, key))}"
    except VerificationError:
        return f"{log_of(name)} (its line does not hold)"
