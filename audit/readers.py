"""What each kind of entry says, read into a job's history (:mod:`audit.history`); nothing is judged here but the single entry."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from audit.entries import Json
from audit.errors import DataError, UsageError
from audit.history import (
    ACTS_MAX,
    ENDED,
    Act,
    ApprovalRecord,
    Attempt,
    AttemptKey,
    ChoiceRecord,
    CommitmentRecord,
    Directive,
    DisclosureRecord,
    EndRecord,
    FilterRecord,
    ItemRecord,
    JobRecord,
    MessageRecord,
    PolicyRecord,
    ReceiptRecord,
    ReportRecord,
)
from audit.receipts import Transcript
from audit.spec import parse_spec

Entry = Mapping[str, Json]

_HASH = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")
_HEX = re.compile(r"([0-9a-f]{2}){0,256}")
_SALT = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_WAY = re.compile("sent|received")
_STATE = re.compile("start|done|failed")
_NUMBER = re.compile(r"-?[0-9]{1,17}(\.[0-9]{1,25})?(e[-+][0-9]{1,3})?|-?inf|nan")
_TEXT_MAX = 2**13
_ITEMS_MAX = 256
_DAYS_MAX = 36_500


class Disorder(DataError):
    """An entry where none of its kind may stand: a matter of the protocol's order, whatever its kind."""


def malformed(reason: str) -> DataError:
    """A field that is not what its kind says."""
    return DataError("audit.field", reason)


def digest_of(entry: Entry) -> str:
    """What a commitment binds to.

    Raises:
        DataError: ``audit.field``.
    """
    return text(entry, "sha256", _HASH)


def text(entry: Entry, name: str, pattern: re.Pattern[str] | None = None) -> str:
    """A field that is text (of a pattern)."""
    value = entry.get(name)
    if type(value) is not str or (pattern is not None and not pattern.fullmatch(value)):
        raise malformed(f"the field {name!r} of this {entry['kind']} entry is missing or malformed")
    return value


def short(entry: Entry, name: str) -> str:
    """A field that is text of a length that can be kept."""
    value = text(entry, name)
    if len(value) > _TEXT_MAX:
        raise malformed(f"the field {name!r} of this {entry['kind']} entry has {len(value)} characters")
    return value


def integer(entry: Entry, name: str) -> int:
    """A field that is a count."""
    value = entry.get(name)
    if type(value) is not int or value < 0:
        raise malformed(f"the field {name!r} of this {entry['kind']} entry is missing or not a count")
    return value


def _optional(entry: Entry, name: str) -> int | None:
    return integer(entry, name) if name in entry else None


def key_of(entry: Entry) -> AttemptKey:
    """The labels of an entry, whose types the parser has checked."""
    return AttemptKey(entry["step"], entry["round"], entry["attempt"])  # type: ignore[arg-type]


def message_of(entry: Entry) -> MessageRecord:
    """The fields of a message that both nodes record alike."""
    get = entry.get
    kind, number, length, sha256, items = get("type"), get("number"), get("length"), get("sha256"), get("items")
    if (
        type(kind) is not str
        or type(sha256) is not str
        or not _HASH.fullmatch(sha256)
        or not type(number) is type(length) is type(items) is int
        or min(number, length, items) < 0
    ):
        for name in ("number", "length", "items"):
            integer(entry, name)
        text(entry, "type")
        text(entry, "sha256", _HASH)
    return MessageRecord(kind, number, length, sha256, items)  # type: ignore[arg-type]


def _act(job: JobRecord, entry: Entry, kind: str, data: Any = None) -> None:
    if len(job.acts) >= ACTS_MAX:
        raise Disorder("audit.too_many_entries", f"a job has at most {ACTS_MAX} entries beside its messages")
    job.acts.append(Act(integer(entry, "seq"), str(entry["time"]), kind, key_of(entry), data))


def _attempt(job: JobRecord, entry: Entry, offset: int) -> Attempt:
    key = key_of(entry)
    attempt = job.attempts.get(key)
    if attempt is None:
        seq = integer(entry, "seq")
        attempt = job.attempts[key] = Attempt(key, seq, offset, seq, offset)
        if job.acted_seq is None:
            job.acted_seq = seq
    return attempt


def _set_peer(attempt: Attempt, entry: Entry, job: str, own: str) -> Transcript:
    peer = text(entry, "peer", _NAME)
    if attempt.transcript is None:
        if peer == own:
            raise DataError("audit.peer", "the log's owner is named as its own peer")
        attempt.peer = peer
        step, number, again = attempt.key
        attempt.transcript = Transcript(job=job, step=step, round=number, attempt=again, parties=(own, peer))
    if attempt.peer != peer:
        raise DataError("audit.peer", f"this attempt has two peers, {attempt.peer!r} and {peer!r}")
    return attempt.transcript


def _message(job: JobRecord, entry: Entry, offset: int, own: str) -> None:
    attempt = _attempt(job, entry, offset)
    way = entry.get("direction")
    if way not in ("sent", "received"):
        text(entry, "direction", _WAY)
    message = message_of(entry)
    transcript = attempt.transcript
    if transcript is None or attempt.peer != entry.get("peer"):
        transcript = _set_peer(attempt, entry, job.job, own)
    direction = attempt.sent if way == "sent" else attempt.received
    if message.number != direction.count:
        reason = f"it is numbered {message.number} where {direction.count} comes next: a message is missing or stands twice"
        raise DataError("audit.message_number", reason)
    if attempt.first_message is None:
        attempt.first_message = attempt.last_seq
    direction.add(message)
    transcript.add(own if way == "sent" else attempt.peer, message.type, bytes.fromhex(message.sha256), message.length)
    if attempt.state != "start":
        _check_running(attempt, "message")


def _check_running(attempt: Attempt, what: str) -> None:
    if attempt.state != "start":
        after = "after its end" if attempt.state in ("done", "failed") else "before its start"
        raise Disorder("audit.order", f"{attempt.key} has a {what} {after}")


def _receipt(job: JobRecord, entry: Entry, offset: int, own: str) -> None:
    attempt = _attempt(job, entry, offset)
    way = text(entry, "direction", _WAY)
    _set_peer(attempt, entry, job.job, own)
    if way in attempt.receipts:
        raise DataError("audit.receipt_twice", f"a second receipt was {way} in this attempt")
    # Whatever a peer sent is recorded; whether it is a receipt at all is judged only where the step was done on its strength.
    digest, signature = bytes.fromhex(text(entry, "digest", _HEX)), bytes.fromhex(text(entry, "signature", _HEX))
    attempt.receipts[way] = ReceiptRecord(integer(entry, "seq"), digest, signature)
    _check_running(attempt, "receipt")


def _step(job: JobRecord, entry: Entry, offset: int, own: str) -> None:
    known = key_of(entry) in job.attempts
    attempt = _attempt(job, entry, offset)
    state, before = text(entry, "state", _STATE), attempt.state
    attempt.state, attempt.state_seq = state, integer(entry, "seq")
    if state == "start":
        attempt.started = str(entry["time"])
        attempt.directive = _directive_of(entry)
    else:
        attempt.ended = str(entry["time"])
        attempt.code = short(entry, "code") if state == "failed" else ""
    if attempt.done:
        attempt.was_done = True
        if "bytes_sent" in entry or "bytes_received" in entry:
            attempt.bytes_told = integer(entry, "bytes_sent"), integer(entry, "bytes_received")
        if "transcript_sha256" in entry:
            attempt.done_digest = bytes.fromhex(text(entry, "transcript_sha256", _HASH))
    _act(job, entry, state)
    if state not in _FOLLOWS[before] or (state == "start" and known):
        raise Disorder("audit.order", f"{attempt.key}: {state} follows {'nothing' if before == 'unknown' else before}")


_FOLLOWS = {"unknown": ("start", "failed"), "start": ("done", "failed"), "done": ("failed",), "failed": ()}
"""What a `step` entry may say after what.  A failure alone is an attempt that could not begin; a failure after `done` one that the
node could not store, because it crashed just then."""


def _directive_of(entry: Entry) -> Directive:
    if "lookup_range" not in entry and "coefficients" not in entry:
        return Directive()
    numbers = entry.get("coefficients")
    if not isinstance(numbers, list) or len(numbers) > _ITEMS_MAX:
        raise malformed(f"the field 'coefficients' of this {entry['kind']} entry is missing or malformed")
    if not all(map(_is_number, [*numbers, entry.get("lookup_range")])):
        raise malformed(f"a coefficient or the lookup range of this {entry['kind']} entry is no number in its one form")
    return Directive(tuple(map(str, numbers)), text(entry, "lookup_range"))


def _is_number(value: object) -> bool:
    """Whether it is the text of a double as Python's ``repr`` writes it."""
    return type(value) is str and _NUMBER.fullmatch(value) is not None and repr(float(value)) == value


def _directive(job: JobRecord, entry: Entry, offset: int, own: str) -> None:
    if job.acted_seq is None:
        job.acted_seq = integer(entry, "seq")
    _act(job, entry, "directive", _directive_of(entry))


def _spec(job: JobRecord, entry: Entry, offset: int, own: str) -> None:
    document = text(entry, "document").encode()
    if hashlib.sha256(document).hexdigest() != job.job:
        raise DataError("audit.spec_mismatch", "the specification's SHA-256 is not the job's identity")
    if job.spec is None:
        try:
            job.spec = parse_spec(document)
        except UsageError as error:
            raise DataError(error.code, error.message) from None
    _act(job, entry, "spec")


def _approval(job: JobRecord, entry: Entry, offset: int, own: str) -> None:
    statement, signature = text(entry, "statement"), text(entry, "signature", _SIGNATURE)
    record = ApprovalRecord(integer(entry, "seq"), statement.encode(), bytes.fromhex(signature))
    job.approvals.append(record)
    _act(job, entry, "approval", record)


def _commitment(job: JobRecord, entry: Entry, offset: int, own: str) -> None:
    sizes = (_optional(entry, name) for name in ("rows", "columns", "bits", "version"))
    _act(job, entry, "commitment", CommitmentRecord(short(entry, "what"), text(entry, "sha256", _HASH), *sizes))


def _choice(job: JobRecord, entry: Entry, offset: int, own: str) -> None:
    what, method, reason = (short(entry, name) for name in ("what", "method", "reason"))
    sizes = integer(entry, "label_holder"), integer(entry, "feature_holder")
    _act(job, entry, "choice", ChoiceRecord(what, method, reason, *sizes))


def _report(job: JobRecord, entry: Entry, offset: int, own: str) -> None:
    digest = bytes.fromhex(text(entry, "transcript_sha256", _HASH))
    party, key = text(entry, "party", _NAME), key_of(entry)
    job.reports[key, party] = ReportRecord(integer(entry, "seq"), digest)
    _act(job, entry, "report", party)


def _disclosure(job: JobRecord, entry: Entry, offset: int, own: str) -> None:
    by = text(entry, "party", _NAME) if "party" in entry else own
    salt = text(entry, "salt", _SALT) if "salt" in entry else ""
    what, clause, value = (short(entry, name) for name in ("what", "clause", "value"))
    _act(
        job, entry, "disclosure", DisclosureRecord(by, what, text(entry, "to", _NAME), integer(entry, "count"), clause, value, salt)
    )


def _disclosures(job: JobRecord, entry: Entry, offset: int, own: str) -> None:
    items = entry.get("items")
    if not isinstance(items, list) or len(items) > _ITEMS_MAX:
        raise malformed("the field 'items' of this disclosures entry is missing or malformed")
    found = []
    for item in items:
        if not isinstance(item, dict):
            raise malformed("an item of this disclosures entry is no object")
        line: dict[str, Json] = {"kind": "disclosures", **item}
        by = text(line, "party", _NAME) if "party" in line else own
        found.append(ItemRecord(by, short(line, "what"), text(line, "to", _NAME), integer(line, "count"), short(line, "clause")))
    job.outcome = job.outcome or "disclosed"
    job.receipt = tuple(found)
    _act(job, entry, "disclosures", job.receipt)


def _job(job: JobRecord, entry: Entry, offset: int, own: str) -> None:
    end = EndRecord(short(entry, "state"), short(entry, "code") if "code" in entry else "")
    if end.state in ENDED:
        job.outcome, job.end = end.state, end
    _act(job, entry, "job", end)


def policy_of(entry: Entry) -> PolicyRecord | None:
    """The bounds that a `policy` entry names; None where it names a digest alone, as the first version did."""
    entry = {"short_order_keys": 0, **entry}
    names = [name for name in PolicyRecord._fields if name != "filters"]
    if not all(type(entry.get(name)) is int for name in names):
        return None
    minimum, key_bits, rounds, bands, small, short_order = (integer(entry, name) for name in names)
    return PolicyRecord(minimum, key_bits, rounds, bands, small, short_order, _filters_of(entry))


def _filters_of(entry: Entry) -> tuple[FilterRecord, ...]:
    """The clauses about published filters; one that cannot be read allows nothing."""
    clauses = entry.get("filters", [])
    found = []
    for clause in clauses[:_ITEMS_MAX] if isinstance(clauses, list) else []:
        line: dict[str, Json] = {"kind": "policy", **clause} if isinstance(clause, dict) else {"kind": "policy"}
        with contextlib.suppress(DataError):
            reuse, whole, period = (integer(line, name) for name in ("reuse_days", "filter_days", "period_days"))
            partner, dataset, role = text(line, "partner", _NAME), short(line, "dataset"), short(line, "role")
            reuse, whole, period = (min(days, _DAYS_MAX) for days in (reuse, whole, period))
            found.append(FilterRecord(partner, dataset, role, reuse, whole, period, _optional(line, "queries")))
    return tuple(found)


def after_end(job: JobRecord, entry: Entry, own: str) -> bool:
    """Whether an entry after a job's end may stand there: a node that crashed just then writes the same end once more."""
    if entry["kind"] not in ("disclosures", "job"):
        return False
    again = JobRecord(job.job)
    READERS[str(entry["kind"])][1](again, entry, 0, own)
    return again.receipt == job.receipt if entry["kind"] == "disclosures" else again.end == job.end


READERS: dict[str, tuple[int, Callable[[JobRecord, Entry, int, str], None]]] = {
    "message": (5, _message),
    "receipt": (6, _receipt),
    "step": (5, _step),
    "spec": (4, _spec),
    "approval": (4, _approval),
    "directive": (4, _directive),
    "commitment": (7, _commitment),
    "choice": (7, _choice),
    "report": (6, _report),
    "disclosure": (9, _disclosure),
    "disclosures": (9, _disclosures),
    "job": (5, _job),
}
"""The kinds that the verification reads, each with the step that reports a malformed one."""
