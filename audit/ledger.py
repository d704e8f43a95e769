"""One log read through once: its chain, its tree, and what it says of each job, in memory that grows with steps, not messages.

:func:`read_ledger` follows the entries and keeps, for every attempt of every step, a running digest of each direction's
messages.  Two nodes agree about an attempt when these digests do; only where they differ is that stretch of the two files read
again, to name the first entry at fault.  Nothing is judged here but single entries: :mod:`audit.verify` holds the steps.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from audit.entries import Line, parse_entry, read_lines
from audit.errors import DataError, VerificationError
from audit.history import (
    ENDED,
    ApprovalRecord,
    Attempt,
    AttemptKey,
    Direction,
    JobRecord,
    MessageRecord,
    PolicyRecord,
    ReceiptRecord,
    ReportRecord,
)
from audit.merkle import Frontier
from audit.readers import READERS, Disorder, Entry, after_end, digest_of, key_of, message_of, policy_of

__all__ = [
    "ASK_AGAIN",
    "ENDED",
    "EVIDENCE",
    "ApprovalRecord",
    "Attempt",
    "AttemptKey",
    "Direction",
    "Entry",
    "JobRecord",
    "Ledger",
    "LogRejected",
    "MessageRecord",
    "ReceiptRecord",
    "Refusal",
    "ReportRecord",
    "read_ledger",
]

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
ASK_AGAIN = "Ask the log's owner for an untouched copy of the whole log folder."
EVIDENCE = (
    "Ask for an untouched copy of the log folder; where it says the same, keep it as it is: it is evidence, which the log's "
    "owner has to explain."
)


class LogRejected(VerificationError):
    """The logs did not verify: at which step, which log and entry.  ``exit_status`` is 1, or 3 when the input could not be used
    at all.  Where the cause suggests no better remedy, it is what an auditor can always do."""

    def __init__(
        self,
        code: str,
        reason: str,
        *,
        step: int,
        log: str = "",
        seq: int | None = None,
        offset: int | None = None,
        remedy: str = "",
        unusable: bool = False,
    ) -> None:
        where = log if seq is None else f"{log} entry {seq}"
        if offset is not None:
            where += f" (byte {offset})"
        super().__init__(code, f"{where}: {reason}" if where else reason, remedy=remedy or (ASK_AGAIN if unusable else EVIDENCE))
        self.step, self.log, self.seq, self.offset, self.unusable = step, log, seq, offset, unusable
        self.exit_status = 3 if unusable else 1


@dataclass(frozen=True)
class Refusal:
    """A witness says that a log was shown to it with another history than before."""

    of: str
    code: str
    seq: int


@dataclass
class Ledger:
    """Everything read from one log."""

    name: str
    path: Path
    size: int = 0
    end: int = 0
    roots: dict[int, bytes] = field(default_factory=dict)
    """The Merkle root at each size that was asked for, and at the end."""
    jobs: dict[str, JobRecord] = field(default_factory=dict)
    policy: PolicyRecord | None = None
    """The bounds of the last `policy` entry."""
    log_keys: list[tuple[int, str]] = field(default_factory=list)
    """Where a run bound itself to its log key, and SHA-256 of that."""
    refusals: list[Refusal] = field(default_factory=list)
    """Checkpoints of other logs that this log's owner refused as a witness; the first of each log and code."""
    faults: dict[int, LogRejected] = field(default_factory=dict)
    """The first fault by the number of the step that must report it."""

    def fault(self, rejected: LogRejected) -> None:
        """Keep the first fault of each step."""
        self.faults.setdefault(rejected.step, rejected)

    def messages(self, job: str, attempt: Attempt, direction: str) -> Iterator[tuple[int, MessageRecord]]:
        """Read an attempt's messages of one direction again, with their sequence numbers."""
        with self.path.open("rb") as stream:
            stream.seek(attempt.first_offset)
            for line in read_lines(stream, offset=attempt.first_offset):
                if line.offset > attempt.last_offset:
                    return
                entry = parse_entry(line.data)
                if (entry["kind"], entry["job"]) != ("message", job) or key_of(entry) != attempt.key:
                    continue
                if entry["direction"] == direction:
                    yield int(entry["seq"]), message_of(entry)  # type: ignore[arg-type]


def read_ledger(path: Path, *, name: str, marks: Collection[int]) -> Ledger:
    """Read the log at ``path`` from beginning to end, one line in memory.

    A line that cannot be used (cut, not canonical, too long, of another version) is a fault of step (3) and ends the reading.

    Args:
        name: the log's name, which every entry must bear.
        marks: sizes at which the Merkle root is wanted.
    """
    ledger = Ledger(name, path)
    frontier = Frontier()
    if 0 in marks:
        ledger.roots[0] = frontier.root()
    chain = _Chain(ledger)
    try:
        with path.open("rb") as stream:
            for line in read_lines(stream):
                if not line.complete:
                    raise DataError("audit.cut_line", f"the log ends within a line: its last {len(line.data)} bytes have no end")
                chain.follow(line)
                chain.prev = frontier.append(line.data).hex()
                ledger.size, ledger.end = frontier.size, line.offset + len(line.data) + 1
                if frontier.size in marks:
                    ledger.roots[frontier.size] = frontier.root()
    except DataError as error:
        code = "audit.entry_malformed" if error.code == "log.entry_malformed" else error.code
        fault = LogRejected(code, error.message, step=3, log=name, seq=frontier.size, offset=ledger.end, unusable=True)
        ledger.faults[3] = fault
    ledger.roots[frontier.size] = frontier.root()
    return ledger


class _Chain:
    """Follows the entries: sequence, chain, owner and clock; then hands each to its kind's reader."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.seq = 0
        self.prev = ""
        self.time = ""
        self._broken = False

    def follow(self, line: Line) -> None:
        """Check one line; after the first fault of the chain the rest is only parsed and hashed.

        Raises:
            DataError: the line is no entry.
        """
        seq, self.seq = self.seq, self.seq + 1
        entry = parse_entry(line.data)
        if self._broken:
            return
        time = str(entry["time"])
        if entry["seq"] != seq:
            self._reject("audit.sequence", f"it says to be entry {entry['seq']}; an entry was removed, added or moved", seq, line)
        elif entry["prev"] != self.prev:
            # The hash that does not fit is the one of the entry before.
            at = max(seq - 1, 0)
            self._reject("audit.chain", f"it is not the entry that entry {seq} was chained to", at, line if at == seq else None)
        elif entry["log"] != self.ledger.name:
            self._reject("audit.other_log", f"it belongs to the log {entry['log']!r}", seq, line)
        elif time < self.time or not _TIME.fullmatch(time):
            self._reject("audit.clock", "its time is malformed or before its predecessor's", seq, line)
        else:
            self.time = time
            _read_entry(self.ledger, entry, line.offset)

    def _reject(self, code: str, reason: str, seq: int, line: Line | None) -> None:
        self._broken = True
        offset = line.offset if line else None
        self.ledger.fault(LogRejected(code, reason, step=3, log=self.ledger.name, seq=seq, offset=offset))


def _read_run(ledger: Ledger, entry: Entry, seq: int, offset: int) -> None:
    """Take in an entry that belongs to no job."""
    kind = entry["kind"]
    if kind == "policy":
        ledger.policy = policy_of(entry)
    elif kind == "commitment":
        if entry.get("what") == "log key":
            ledger.log_keys.append((seq, str(entry.get("sha256"))))
        elif entry.get("what") == "tls certificate":  # any number of them: certificates are renewed while a process runs
            try:
                digest_of(entry)
            except DataError as error:
                ledger.fault(LogRejected(error.code, error.message, step=7, log=ledger.name, seq=seq, offset=offset))
    elif kind == "refusal":
        told = Refusal(str(entry.get("of")), str(entry.get("code")), seq)
        if (told.of, told.code) not in {(known.of, known.code) for known in ledger.refusals}:
            ledger.refusals.append(told)
    elif kind in READERS:
        reason = f"this {kind} entry belongs to no job"
        ledger.fault(LogRejected("audit.order", reason, step=7, log=ledger.name, seq=seq, offset=offset))


def _read_entry(ledger: Ledger, entry: Entry, offset: int) -> None:
    """Take in what an entry says about its job.  A kind that is not known here only shows that the job went on."""
    name, kind = entry["job"], entry["kind"]
    seq: int = entry["seq"]  # type: ignore[assignment]
    if not name:
        _read_run(ledger, entry, seq, offset)
        return
    job = ledger.jobs.get(name)  # type: ignore[arg-type]
    if job is None:
        job = ledger.jobs[str(name)] = JobRecord(str(name))
    job.last_seq = seq
    attempt = job.attempts.get(key_of(entry))
    if attempt is not None:
        attempt.last_seq, attempt.last_offset = seq, offset
    reader = READERS.get(kind)  # type: ignore[arg-type]
    step, ended = (reader[0] if reader else 7), job.end is not None
    try:
        if ended:
            if not after_end(job, entry, ledger.name):
                raise Disorder("audit.after_end", f"job {job.job[:12]} had ended ({job.outcome}) before this {kind} entry")
        elif reader is not None:
            reader[1](job, entry, offset, ledger.name)
            if kind == "step":
                job.attempts[key_of(entry)].policy = ledger.policy
            elif kind == "approval" and job.policy is None:
                job.policy = ledger.policy
    except Disorder as error:
        ledger.fault(LogRejected(error.code, error.message, step=7, log=ledger.name, seq=seq, offset=offset))
    except DataError as error:
        ledger.fault(LogRejected(error.code, error.message, step=step, log=ledger.name, seq=seq, offset=offset))
