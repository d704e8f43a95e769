"""What logs say of a job, gathered for people: terms, approvals, steps, disclosures, software.  Nothing is judged here.

:mod:`audit.verify` decides whether logs can be believed; this reads the same bytes once more and keeps what a report shows.  The
Merkle root over what was read comes with it, so that the caller can tell that it was what had been verified.  Memory grows with
jobs, steps and kinds of disclosures, not with messages; an entry that is not as expected is skipped, since a report is also
written of logs that did not verify.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from audit.entries import Json, parse_entry, read_lines
from audit.errors import DataError, UsageError, VerificationError
from audit.ledger import AttemptKey
from audit.merkle import Frontier
from audit.receipts import Approval, parse_approval
from audit.spec import JobSpec, parse_spec

Entry = Mapping[str, Json]
_HASH = re.compile(r"[0-9a-f]{64}")

JOBS_MAX = 10_000
COMMITMENTS_MAX = 200
DISCLOSURES_MAX = 1_000
ATTEMPTS_MAX = 2_000
"""More than any honest job has: 68 steps of at most 17 attempts each."""
TEXT_MAX = 300
VALUE_MAX = 8_192
"""Characters kept of a name, and of a value: the longest honest value is a list of 64 numbers or a table of ten rows."""
VALUES_MAX = 8
"""Distinct values kept of one kind of disclosure: attempts that were repeated give the same or few."""


class ApprovalSeen(NamedTuple):
    """One party's decision as it stands in a log; its signature is not checked here."""

    approval: Approval
    log: str
    seq: int
    time: str


@dataclass
class AttemptSeen:
    """One attempt of one step in one node's log.  Times are the log's, bytes those of message payloads."""

    start: str = ""
    end: str = ""
    state: str = "started"
    code: str = ""
    messages_sent: int = 0
    bytes_sent: int = 0
    messages_received: int = 0
    bytes_received: int = 0


class DisclosureKey(NamedTuple):
    """Values of one kind, from one party to another, on one ground."""

    by: str
    to: str
    what: str
    clause: str


@dataclass
class DisclosureSeen:
    """How many values in all, and the distinct texts of the values where the log gives them."""

    count: int = 0
    values: list[str] = field(default_factory=list)


class CommitmentSeen(NamedTuple):
    """What a party bound itself to before it acted: a digest, and the sizes beside it (0: none)."""

    what: str
    sha256: str
    rows: int
    columns: int
    bits: int
    key: AttemptKey


class ChoiceSeen(NamedTuple):
    """How the method of an alignment was chosen."""

    method: str
    reason: str
    key: AttemptKey


@dataclass
class JobSeen:
    """One job in one log."""

    job: str
    spec: JobSpec | None = None
    approvals: list[ApprovalSeen] = field(default_factory=list)
    attempts: dict[AttemptKey, AttemptSeen] = field(default_factory=dict)
    commitments: list[CommitmentSeen] = field(default_factory=list)
    choices: list[ChoiceSeen] = field(default_factory=list)
    disclosures: dict[DisclosureKey, DisclosureSeen] = field(default_factory=dict)
    disclosures_left_out: int = 0
    states: list[tuple[str, str, str]] = field(default_factory=list)
    """(time, state, code) as the log has them."""
    first_time: str = ""
    last_time: str = ""


@dataclass
class LogSeen:
    """One log as far as it could be read; ``stopped`` says why not further."""

    name: str
    entries: int = 0
    root: bytes = b""
    stopped: str = ""
    software: list[str] = field(default_factory=list)
    policy: dict[str, Json] = field(default_factory=dict)
    refusals: int = 0
    jobs: dict[str, JobSeen] = field(default_factory=dict)
    first_time: str = ""
    last_time: str = ""


def read_log(path: Path, *, name: str, entries: int | None = None) -> LogSeen:
    """Read the log at ``path``, at most its first ``entries``; one line in memory.

    What cannot be read is no error here: ``stopped`` tells it.
    """
    seen = LogSeen(name)
    frontier = Frontier()
    try:
        with path.open("rb") as stream:
            for line in read_lines(stream):
                if not line.complete or frontier.size == entries:
                    break
                entry = parse_entry(line.data)
                frontier.append(line.data)
                _take(seen, entry)
    except DataError as error:
        seen.stopped = f"entry {frontier.size} cannot be read: {error.message}"
    except OSError as error:
        seen.stopped = f"it cannot be read: {error.strerror}"
    seen.entries, seen.root = frontier.size, frontier.root()
    return seen


def _text(entry: Entry, name: str) -> str:
    value = entry.get(name)
    return value if isinstance(value, str) else ""


def _short(entry: Entry, name: str) -> str:
    value = _text(entry, name)
    return value if len(value) <= TEXT_MAX else value[:TEXT_MAX] + "…"


def _count(entry: Entry, name: str) -> int:
    value = entry.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def _take(seen: LogSeen, entry: Entry) -> None:
    time, kind = _text(entry, "time"), _text(entry, "kind")
    seen.first_time, seen.last_time = seen.first_time or time, time
    if kind == "software":
        text = f"isthmus {_short(entry, 'version')}, Python {_short(entry, 'python')}, packages {_text(entry, 'lock_sha256')[:16]}"
        if text not in seen.software and len(seen.software) < VALUES_MAX:
            seen.software.append(text)
    elif kind == "policy":
        seen.policy = {name: entry[name] for name in POLICY_FIELDS if name in entry}
    elif kind == "refusal":
        seen.refusals += 1
    if _HASH.fullmatch(name := _text(entry, "job")):
        if name not in seen.jobs and len(seen.jobs) >= JOBS_MAX:
            return
        job = seen.jobs.setdefault(name, JobSeen(name))
        job.first_time, job.last_time = job.first_time or time, time
        if kind in _READERS:
            _READERS[kind](job, entry, seen.name)


POLICY_FIELDS = (
    "minimum_intersection",
    "key_bits_min",
    "rounds_max",
    "bands_max",
    "retention",
    "small_keys",
    "short_order_keys",
    "sha256",
)


def _spec(job: JobSeen, entry: Entry, log: str) -> None:
    # Only the document whose hash is the job's name says what the job is.
    with contextlib.suppress(UsageError):
        spec = parse_spec(_text(entry, "document").encode(errors="replace"))
        if spec.identity() == job.job:
            job.spec = spec


def _approval(job: JobSeen, entry: Entry, log: str) -> None:
    with contextlib.suppress(VerificationError):
        approval = parse_approval(_text(entry, "statement").encode(errors="replace"))
        if approval.job == job.job and len(job.approvals) < VALUES_MAX:
            job.approvals.append(ApprovalSeen(approval, log, _count(entry, "seq"), _text(entry, "time")))


def _key(entry: Entry) -> AttemptKey:
    return AttemptKey(_short(entry, "step"), _count(entry, "round"), _count(entry, "attempt"))


def _attempt(job: JobSeen, entry: Entry) -> AttemptSeen:
    key, fresh = _key(entry), AttemptSeen(start=_text(entry, "time"))
    return job.attempts.setdefault(key, fresh) if key in job.attempts or len(job.attempts) < ATTEMPTS_MAX else fresh


def _commitment(job: JobSeen, entry: Entry, log: str) -> None:
    rows, columns, bits = (_count(entry, name) for name in ("rows", "columns", "bits"))
    if len(job.commitments) < COMMITMENTS_MAX:
        job.commitments.append(CommitmentSeen(_short(entry, "what"), _short(entry, "sha256"), rows, columns, bits, _key(entry)))


def _choice(job: JobSeen, entry: Entry, log: str) -> None:
    if len(job.choices) < COMMITMENTS_MAX:
        job.choices.append(ChoiceSeen(_short(entry, "method"), _short(entry, "reason"), _key(entry)))


def _step(job: JobSeen, entry: Entry, log: str) -> None:
    attempt, state = _attempt(job, entry), _text(entry, "state")
    if state in ("done", "failed"):
        attempt.state, attempt.end, attempt.code = state, _text(entry, "time"), _short(entry, "code")


def _message(job: JobSeen, entry: Entry, log: str) -> None:
    attempt, length = _attempt(job, entry), _count(entry, "length")
    if entry.get("direction") == "sent":
        attempt.messages_sent += 1
        attempt.bytes_sent += length
    else:
        attempt.messages_received += 1
        attempt.bytes_received += length


def _disclosure(job: JobSeen, entry: Entry, log: str) -> None:
    key = DisclosureKey(_short(entry, "party") or log, _short(entry, "to"), _short(entry, "what"), _short(entry, "clause"))
    if key not in job.disclosures and len(job.disclosures) >= DISCLOSURES_MAX:
        job.disclosures_left_out += 1
        return
    disclosed = job.disclosures.setdefault(key, DisclosureSeen())
    disclosed.count += _count(entry, "count")
    value = _text(entry, "value")
    if 0 < len(value) <= VALUE_MAX and value not in disclosed.values and len(disclosed.values) < VALUES_MAX:
        disclosed.values.append(value)


def _job(job: JobSeen, entry: Entry, log: str) -> None:
    if len(job.states) < 64:
        job.states.append((_text(entry, "time"), _short(entry, "state"), _short(entry, "code")))


_READERS = {
    "spec": _spec,
    "approval": _approval,
    "commitment": _commitment,
    "choice": _choice,
    "step": _step,
    "message": _message,
    "disclosure": _disclosure,
    "job": _job,
}
