"""One log read through once: its chain, its tree, and what it says of each job, in memory that grows with steps, not messages.

:func:`read_ledger` follows the entries and keeps, for every attempt of every step, a running digest of each direction's
messages.  Two nodes agree about an attempt when these digests do; only where they differ is that stretch of the two files read
again, to name the first entry at fault.  Nothing is judged here but single entries: :mod:`audit.verify` holds the steps.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import rfc8785

from audit.errors import DataError, VerificationError
from audit.merkle import Frontier
from audit.receipts import Transcript
from audit.record import Json, Line, parse_entry, read_lines

Entry = Mapping[str, Json]

_HASH = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")
_HEX = re.compile(r"([0-9a-f]{2}){0,256}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
ENDED = ("finished", "failed", "cancelled", "rejected")
FAILED = ENDED[1:]
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


class AttemptKey(NamedTuple):
    """Which attempt of which step (within a job)."""

    step: str
    round: int
    attempt: int

    def __str__(self) -> str:
        return f"{self.step}{f' {self.round}' if self.round else ''}, attempt {self.attempt}"


class MessageRecord(NamedTuple):
    """What both nodes must have recorded alike about one message."""

    type: str
    number: int
    length: int
    sha256: str
    items: int


@dataclass
class Direction:
    """The messages of an attempt in one direction: how many, and a digest over all of them in order."""

    count: int = 0
    _hash: hashlib._Hash = field(default_factory=hashlib.sha256)

    def add(self, message: MessageRecord) -> None:
        """Take the next message."""
        self._hash.update(rfc8785.dumps(list(message)) + b"\n")
        self.count += 1

    def fingerprint(self) -> tuple[int, bytes]:
        """Equal at two nodes exactly when their records are."""
        return self.count, self._hash.digest()


class ReceiptRecord(NamedTuple):
    """One receipt, given or got."""

    seq: int
    digest: bytes
    signature: bytes


@dataclass
class Attempt:
    """One attempt of one step, as one node's log tells it."""

    key: AttemptKey
    first_seq: int
    first_offset: int
    last_seq: int
    last_offset: int
    state: str = "unknown"
    state_seq: int = 0
    done_digest: bytes = b""
    peer: str = ""
    sent: Direction = field(default_factory=Direction)
    received: Direction = field(default_factory=Direction)
    receipts: dict[str, ReceiptRecord] = field(default_factory=dict)
    transcript: Transcript | None = None

    @property
    def done(self) -> bool:
        """Whether this node completed it."""
        return self.state == "done"

    def direction(self, name: str) -> Direction:
        """``sent`` or ``received``."""
        return self.sent if name == "sent" else self.received


class ApprovalRecord(NamedTuple):
    """An approval as it stands in a log; not verified yet."""

    seq: int
    statement: bytes
    signature: bytes


class ReportRecord(NamedTuple):
    """What the coordinator was told about an attempt."""

    seq: int
    digest: bytes


@dataclass
class JobRecord:
    """One job, as one log tells it."""

    job: str
    approvals: list[ApprovalRecord] = field(default_factory=list)
    attempts: dict[AttemptKey, Attempt] = field(default_factory=dict)
    reports: dict[tuple[AttemptKey, str], ReportRecord] = field(default_factory=dict)
    acted_seq: int | None = None
    """The first entry that needs both approvals before it."""
    last_seq: int = 0
    outcome: str = ""
    """How the job ended, where this log says so; ``disclosed`` at a node that wrote its disclosure receipt."""

    @property
    def messages(self) -> int:
        """Messages of all attempts, both directions."""
        return sum(a.sent.count + a.received.count for a in self.attempts.values())


@dataclass
class Ledger:
    """Everything read from one log."""

    name: str
    path: Path
    size: int = 0
    end: int = 0
    torn: bool = False
    roots: dict[int, bytes] = field(default_factory=dict)
    """The Merkle root at each size that was asked for, and at the end."""
    jobs: dict[str, JobRecord] = field(default_factory=dict)
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
                if (entry["kind"], entry["job"]) != ("message", job) or _key(entry) != attempt.key:
                    continue
                if entry["direction"] == direction:
                    yield _integer(entry, "seq"), _message(entry)


def read_ledger(path: Path, *, name: str, marks: Collection[int], signed_size: int) -> Ledger:
    """Read the log at ``path`` from beginning to end, one line in memory.

    Args:
        name: the log's name, which every entry must bear.
        marks: sizes at which the Merkle root is wanted.
        signed_size: entries that a checkpoint covers; an unreadable line among them is tampering, beyond them unusable input.
    """
    ledger = Ledger(name, path)
    frontier = Frontier()
    if 0 in marks:
        ledger.roots[0] = frontier.root()
    chain = _Chain(ledger, signed_size)
    try:
        with path.open("rb") as stream:
            for line in read_lines(stream):
                if not line.complete:
                    ledger.torn = True
                    break
                chain.follow(line)
                chain.prev = frontier.append(line.data).hex()
                ledger.size, ledger.end = frontier.size, line.offset + len(line.data) + 1
                if frontier.size in marks:
                    ledger.roots[frontier.size] = frontier.root()
    except DataError as error:
        ledger.fault(LogRejected(error.code, error.message, step=3, log=name, seq=frontier.size, offset=ledger.end, unusable=True))
    ledger.roots[frontier.size] = frontier.root()
    return ledger


class _Chain:
    """Follows the entries: sequence, chain, owner and clock; then hands each to its kind's reader."""

    def __init__(self, ledger: Ledger, signed_size: int) -> None:
        self.ledger, self.signed_size = ledger, signed_size
        self.seq = 0
        self.prev = ""
        self.time = ""

    def follow(self, line: Line) -> None:
        """Check one line; after the first fault of the chain the rest is hashed and no longer read."""
        seq, self.seq = self.seq, self.seq + 1
        if 3 in self.ledger.faults:
            return
        try:
            entry = parse_entry(line.data)
        except DataError as error:
            unusable = seq >= self.signed_size
            self._reject("audit.entry_malformed", error.message, seq, line, unusable=unusable)
            return
        if entry["seq"] != seq:
            self._reject("audit.sequence", f"it says to be entry {entry['seq']}; an entry was removed, added or moved", seq, line)
        elif entry["prev"] != self.prev:
            # The hash that does not fit is the one of the entry before.
            at = max(seq - 1, 0)
            self._reject("audit.chain", f"it is not the entry that entry {seq} was chained to", at, line if at == seq else None)
        elif entry["log"] != self.ledger.name:
            self._reject("audit.other_log", f"it belongs to the log {entry['log']!r}", seq, line)
        elif not _TIME.fullmatch(str(entry["time"])) or str(entry["time"]) < self.time:
            self._reject("audit.clock", "its time is malformed or before its predecessor's", seq, line)
        else:
            self.time = str(entry["time"])
            _read_entry(self.ledger, entry, line)

    def _reject(self, code: str, reason: str, seq: int, line: Line | None, *, unusable: bool = False) -> None:
        offset = line.offset if line else None
        self.ledger.fault(LogRejected(code, reason, step=3, log=self.ledger.name, seq=seq, offset=offset, unusable=unusable))


def _read_entry(ledger: Ledger, entry: Entry, line: Line) -> None:
    """Take in what an entry says about its job.  A kind that is not known here only shows that the job went on."""
    if not entry["job"]:
        return
    seq = _integer(entry, "seq")
    job = ledger.jobs.setdefault(str(entry["job"]), JobRecord(str(entry["job"])))
    job.last_seq = seq
    if (attempt := job.attempts.get(_key(entry))) is not None:
        attempt.last_seq, attempt.last_offset = seq, line.offset
    reader = _READERS.get(str(entry["kind"]))
    if reader is None:
        return
    step, read = reader
    try:
        read(job, entry, line, ledger.name)
    except DataError as error:
        ledger.fault(LogRejected(error.code, error.message, step=step, log=ledger.name, seq=seq, offset=line.offset))


def _text(entry: Entry, name: str, pattern: re.Pattern[str] | None = None) -> str:
    value = entry.get(name)
    if not isinstance(value, str) or (pattern is not None and not pattern.fullmatch(value)):
        raise DataError("audit.field", f"the field {name!r} of this {entry['kind']} entry is missing or malformed")
    return value


def _integer(entry: Entry, name: str) -> int:
    value = entry.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise DataError("audit.field", f"the field {name!r} of this {entry['kind']} entry is missing or not a count")
    return value


def _key(entry: Entry) -> AttemptKey:
    return AttemptKey(str(entry["step"]), _integer(entry, "round"), _integer(entry, "attempt"))


def _message(entry: Entry) -> MessageRecord:
    return MessageRecord(
        _text(entry, "type"),
        _integer(entry, "number"),
        _integer(entry, "length"),
        _text(entry, "sha256", _HASH),
        _integer(entry, "items"),
    )


def _attempt(job: JobRecord, entry: Entry, line: Line) -> Attempt:
    key, seq = _key(entry), _integer(entry, "seq")
    if key not in job.attempts:
        job.attempts[key] = Attempt(key, seq, line.offset, seq, line.offset)
    if job.acted_seq is None:
        job.acted_seq = seq
    return job.attempts[key]


def _set_peer(attempt: Attempt, entry: Entry, job: str, own: str) -> Transcript:
    peer = _text(entry, "peer", _NAME)
    if attempt.transcript is None:
        if peer == own:
            raise DataError("audit.peer", "the log's owner is named as its own peer")
        attempt.peer = peer
        step, number, again = attempt.key
        attempt.transcript = Transcript(job=job, step=step, round=number, attempt=again, parties=(own, peer))
    if attempt.peer != peer:
        raise DataError("audit.peer", f"this attempt has two peers, {attempt.peer!r} and {peer!r}")
    return attempt.transcript


def _read_message(job: JobRecord, entry: Entry, line: Line, own: str) -> None:
    attempt = _attempt(job, entry, line)
    way = _text(entry, "direction", re.compile("sent|received"))
    message, transcript = _message(entry), _set_peer(attempt, entry, job.job, own)
    direction = attempt.direction(way)
    if message.number != direction.count:
        reason = f"it is numbered {message.number} where {direction.count} comes next: a message is missing or stands twice"
        raise DataError("audit.message_number", reason)
    direction.add(message)
    transcript.add(own if way == "sent" else attempt.peer, message.type, bytes.fromhex(message.sha256), message.length)


def _read_receipt(job: JobRecord, entry: Entry, line: Line, own: str) -> None:
    attempt = _attempt(job, entry, line)
    way = _text(entry, "direction", re.compile("sent|received"))
    _set_peer(attempt, entry, job.job, own)
    if way in attempt.receipts:
        raise DataError("audit.receipt_twice", f"a second receipt was {way} in this attempt")
    # Whatever a peer sent is recorded; whether it is a receipt at all is judged only where the step was done on its strength.
    digest, signature = bytes.fromhex(_text(entry, "digest", _HEX)), bytes.fromhex(_text(entry, "signature", _HEX))
    attempt.receipts[way] = ReceiptRecord(_integer(entry, "seq"), digest, signature)


def _read_step(job: JobRecord, entry: Entry, line: Line, own: str) -> None:
    attempt = _attempt(job, entry, line)
    attempt.state, attempt.state_seq = _text(entry, "state", re.compile("start|done|failed")), _integer(entry, "seq")
    if attempt.done and "transcript_sha256" in entry:
        attempt.done_digest = bytes.fromhex(_text(entry, "transcript_sha256", _HASH))


def _read_approval(job: JobRecord, entry: Entry, line: Line, own: str) -> None:
    statement, signature = _text(entry, "statement"), _text(entry, "signature", _SIGNATURE)
    job.approvals.append(ApprovalRecord(_integer(entry, "seq"), statement.encode(), bytes.fromhex(signature)))


def _read_report(job: JobRecord, entry: Entry, line: Line, own: str) -> None:
    digest = bytes.fromhex(_text(entry, "transcript_sha256", _HASH))
    job.reports[_key(entry), _text(entry, "party", _NAME)] = ReportRecord(_integer(entry, "seq"), digest)


def _read_directive(job: JobRecord, entry: Entry, line: Line, own: str) -> None:
    if job.acted_seq is None:
        job.acted_seq = _integer(entry, "seq")


def _read_job(job: JobRecord, entry: Entry, line: Line, own: str) -> None:
    state = _text(entry, "state")
    if state in ENDED:
        job.outcome = state


def _read_disclosures(job: JobRecord, entry: Entry, line: Line, own: str) -> None:
    job.outcome = job.outcome or "disclosed"


_READERS: dict[str, tuple[int, Callable[[JobRecord, Entry, Line, str], None]]] = {
    "approval": (4, _read_approval),
    "directive": (4, _read_directive),
    "step": (5, _read_step),
    "message": (5, _read_message),
    "job": (5, _read_job),
    "disclosures": (5, _read_disclosures),
    "receipt": (6, _read_receipt),
    "report": (6, _read_report),
}
"""The kinds that the verification reads, each with the step that reports a malformed one."""
