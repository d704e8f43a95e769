"""Replay of a node on its own premises: every message it sent, made again and held against its log.

The audit wing knows what must come out; the node wing knows how to compute it::

    log ---- entries of an attempt, in order ---->  ReplayWire  <---- send, recv, commit ----  the step's own functions
    kept payloads ---- received messages -------->      |                                       (from snapshot and seed)
                                                        +--> reproduced, or the first entry that differs

The node wing is found through the entry point group ``isthmus.replay``, not imported; what it must offer is :class:`Premises`.
An attempt runs from what the attempts before it brought forth *in the replay*, never from state that the live run left.

What a failed attempt sent is replayed as far as its record goes.  After an attempt that differs, or cannot be reproduced, the steps
that build on its result are left out, unless another attempt of the same step replaces it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Protocol

from audit.entries import Json
from audit.errors import IsthmusError, UsageError, VerificationError
from audit.opening import software_fields
from audit.replay_record import AttemptName, Entry, NodeRecord, RecordedAttempt, RecordedJob, read_record

ENTRY_POINTS = "isthmus.replay"
BUILDS_ON = "replay.builds_on_lost"
"""The code of an attempt that was left out because one before it was not reproduced."""

STEPS = {
    "count": "counts the shared customers: the teller masks the learner's identifiers once more and returns them sorted",
    "align": "finds the shared customers: by masked identifiers, or by tags that one side evaluates blindly",
    "prepare": "exchanges keys and sizes, and prepares masked products of the features and the base oblivious transfers",
    "round": "shares of scores, the residuals by lookup, shares of the gradient and the direction, and the inner products",
    "finish": "each side sends its share of the other's weights",
    "evaluate": "score bands of the held-out rows by oblivious transfer, and the aggregates",
}
MESSAGES = {
    "PsiStart": "how many identifiers this node brings",
    "MaskedPoints": "its identifiers, hashed to the curve and masked by its secret scalar",
    "DoublyMasked": "the other side's masked identifiers, masked once more, in the order received",
    "BasePoint": "a point for the base transfers of the alignment",
    "BaseChoices": "a point for each base transfer, which hides what it chooses",
    "TreeSums": "sums of its key trees, each under the key of a base transfer",
    "StoreColumns": "columns of the oblivious transfer extension: what its identifiers are looked for by, hidden",
    "ItemTags": "the tags of its identifiers, padded, in ascending order",
    "SharedMarks": "which of the other side's tags it has too",
    "CommonOrder": "its random part in the order of the shared rows",
    "FilterAsk": "which key and version of the other side's filter it holds, and how long it may use them",
    "FilterState": "the key, version and digest of its filter, and how it follows from the one the other side holds",
    "FilterQueries": "how many of its identifiers it asks about",
    "FilterIndex": "the prefixes of its masked customers, in order",
    "FilterRemainders": "the 61 bits after each prefix",
    "FilterRemoved": "masked customers that left since the version the other side holds",
    "FilterAdded": "masked customers that came since",
    "BlindedPoints": "its identifiers, hashed to the curve and masked by its secret scalar of this attempt",
    "EvaluatedPoints": "the other side's masked identifiers under the filter's key, in the order received",
    "SharedCount": "how many of its identifiers it found in the filter",
    "SharedValues": "their values under the filter's key, ascending",
    "SharedConfirmed": "which of these are its own customers",
    "SortedDoublyMasked": "the other side's masked identifiers, masked once more, in ascending order",
    "IntersectionSize": "the number of shared customers, rounded down, or that it is below the minimum",
    "PaillierKey": "the public key it drew for this attempt",
    "JobFigures": "its rows and columns and, from the label holder, the base rate",
    "ColumnMasks": "encrypted masks of the residuals, for the gradient's products",
    "ColumnProducts": "products of its features with the other side's masks, hidden",
    "RowMasks": "encrypted masks of the weights, for the scores' products",
    "RowProducts": "products of its rows with the other side's masks, hidden",
    "PreconditionerMasks": "encrypted masks of the gradient, for the direction's products",
    "PreconditionerProducts": "products of its preconditioner with the other side's masks, hidden",
    "BaseOtChoices": "encrypted choice bits of the base oblivious transfers",
    "BaseOtReplies": "the keys chosen by the other side's encrypted bits",
    "OtColumns": "columns of the oblivious transfer extension: which table entries it takes, hidden",
    "LookupTables": "a masked table of residuals for each row",
    "DirectiveEcho": "the numbers that the coordinator gave it",
    "FirstResiduals": "the residuals at the start, under its mask",
    "MaskedWeights": "its share of the other block's weights, less a prepared mask",
    "MaskedResiduals": "its share of the residuals, less a prepared mask",
    "MaskedGradients": "its share of the other block's gradient, less a prepared mask",
    "DotOperands": "its share of the direction, encrypted",
    "DotResults": "products of its gradient share with the other side's direction share, hidden",
    "InnerProductParts": "its part of the inner products that both disclose",
    "WeightShares": "its share of the other side's weights",
    "BandTables": "a masked table of score bands for each held-out row",
    "Aggregates": "the evaluation's aggregates, where the job allows",
}
"""What each message says (protocols.md)."""


class ReplayDiffers(VerificationError):
    """Something comes out other than the log says: where, and of which type."""

    def __init__(self, reason: str, *, seq: int | None = None, type: str = "", code: str = "replay.differs") -> None:
        super().__init__(code, reason, remedy="Keep the node's folder as it is: it is evidence, which its owner has to explain.")
        self.seq, self.type = seq, type


class ReplayMissing(VerificationError):
    """What the replay needs is not there."""

    def __init__(self, reason: str) -> None:
        super().__init__("replay.not_kept", reason)


class EndOfRecord(VerificationError):
    """A failed attempt's record ends here; nothing after it was said."""

    def __init__(self) -> None:
        super().__init__("replay.end_of_record", "The record of this attempt ends here.")


# ---- what the node wing offers ---------------------------------------------------------------------------------------


class Outcome(Protocol):
    """What an attempt brought forth in the replay."""

    def disclosures(self) -> Sequence[Mapping[str, Json]]:
        """What it discloses, as the fields of ``disclosure`` entries."""

    def keep(self) -> None:
        """Let the steps after it build on its result."""


class JobPremises(Protocol):
    """One job on the node's premises."""

    def seed_commitment(self) -> str:
        """The commitment (hex) that the kept seed opens.  Raises :class:`ReplayMissing`."""

    def inbound(self, name: AttemptName) -> Iterator[bytes]:
        """The kept messages of an attempt.  Raises :class:`ReplayMissing`, also while iterating."""

    def run(self, attempt: RecordedAttempt, wire: ReplayWire) -> Outcome:
        """Run the step over ``wire``.  Raises what the step raises, and :class:`ReplayMissing`."""


class Premises(Protocol):
    """A node's folder, opened for reading."""

    name: str
    log_path: Path
    served: bool
    """Whether a process serves the node now: its last attempt may be running."""

    def job(self, job: RecordedJob) -> AbstractContextManager[JobPremises]:
        """What is kept of a job, and a scratch folder for its steps.  Raises :class:`ReplayMissing`, :class:`ReplayDiffers`."""

    def close(self) -> None:
        """Let go of worker processes."""


def open_premises(folder: Path, *, workers: int | None) -> Premises:
    """Open a node's folder through the installed node wing.

    Raises:
        UsageError: ``replay.no_node`` when no node is installed here; those of a configuration that cannot be read.
    """
    found = list(metadata.entry_points(group=ENTRY_POINTS))
    if len(found) != 1:
        raise UsageError(
            "replay.no_node",
            "The node's own functions are not installed here, and a replay runs them.",
            remedy="Run it where the isthmus package is installed as a whole, best on the node's own machine.",
        )
    premises: Premises = found[0].load()(folder, workers=workers)
    return premises


# ---- the wire --------------------------------------------------------------------------------------------------------


class ReplayWire:
    """The other end of a replayed step: holds what it says against the log, and answers with what was received.

    Args:
        log: the log's name.
        attempt: which attempt.
        entries: its messages, commitments and choices, in the order of the log.
        inbound: the kept messages.
    """

    def __init__(self, log: str, attempt: RecordedAttempt, entries: Iterator[Entry], inbound: Iterator[bytes]) -> None:
        self._log, self._attempt, self._entries, self._inbound = log, attempt, entries, inbound
        self.reproduced = 0
        self.items_sent: dict[str, int] = {}
        """Items sent so far, by message type."""

    def send_payload(self, kind: str, payload: bytes, *, items: int = 1) -> None:
        """Take a message the step sends; it must be the log's next entry, byte for byte.

        Raises:
            ReplayDiffers.  EndOfRecord: a failed attempt's record has no more.
        """
        said: dict[str, Json] = {
            "direction": "sent",
            "type": kind,
            "length": len(payload),
            "sha256": hashlib.sha256(payload).hexdigest(),
            "items": items,
        }
        self._same(self._next(f"sends a {kind}"), "message", said, kind)
        self.reproduced += 1
        self.items_sent[kind] = self.items_sent.get(kind, 0) + items

    def recv_payload(self, kind: str) -> bytes:
        """The kept message that the log's next entry describes.

        Raises:
            ReplayDiffers: the log's next entry is another, or the kept bytes are not the ones it describes.  EndOfRecord.
            ReplayMissing: it was not kept.
        """
        entry = self._next(f"waits for a {kind}")
        self._same(entry, "message", {"direction": "received", "type": kind}, kind)
        payload = next(self._inbound, None)
        if payload is None:
            raise ReplayMissing(f"{self._attempt.name}: the {kind} received in entry {entry['seq']} was not kept.")
        if hashlib.sha256(payload).hexdigest() != entry.get("sha256"):
            raise ReplayDiffers(
                f"{self._where(entry)}: the kept {kind} is not the one that was received",
                seq=int(str(entry["seq"])),
                type=kind,
                code="replay.kept_differs",
            )
        return payload

    def commit(self, what: str, sha256: str, **sizes: int) -> None:
        """Take a commitment the step makes; it must be the log's next entry.

        Raises:
            ReplayDiffers, EndOfRecord.
        """
        said: dict[str, Json] = {"what": what, "sha256": sha256, **sizes}
        self._same(self._next(f"commits to the {what}"), "commitment", said, what)

    def choose(self, what: str, **fields: Json) -> None:
        """Take a choice the step makes; it must be the log's next entry.

        Raises:
            ReplayDiffers, EndOfRecord.
        """
        self._same(self._next(f"chooses the {what}"), "choice", {"what": what, **fields}, what)

    def finish(self) -> None:
        """The step has nothing more to say: neither may the log.

        Raises:
            ReplayDiffers.
        """
        for entry in self._entries:
            raise ReplayDiffers(
                f"{self._where(entry)}: the log goes on with {_describe(entry)} where the replay has ended",
                seq=int(str(entry["seq"])),
                type=str(entry.get("type", entry.get("what", ""))),
            )

    def _next(self, doing: str) -> Entry:
        entry = next(self._entries, None)
        if entry is not None:
            return entry
        if self._attempt.done:
            raise ReplayDiffers(f"{self._log}, {self._attempt.name}: the replay {doing} where the log's record has ended")
        raise EndOfRecord

    def _same(self, entry: Entry, kind: str, said: Mapping[str, Json], name: str) -> None:
        if entry["kind"] != kind or entry.get("direction") != said.get("direction"):
            reason = f"the replay has {_article(kind, said)} {name} here, the log {_describe(entry)}"
        else:
            other = [field for field, value in said.items() if entry.get(field) != value]
            if not other:
                return
            reason = f"{_describe(entry)} has another {', '.join(other)} in the replay"
        raise ReplayDiffers(
            f"{self._where(entry)}: {reason}",
            seq=int(str(entry["seq"])),
            type=str(entry.get("type", entry.get("what", ""))),
        )

    def _where(self, entry: Entry) -> str:
        return f"{self._log} entry {entry['seq']}, {self._attempt.name}"


def _article(kind: str, said: Mapping[str, Json]) -> str:
    return {"message": f"a {said.get('direction')}", "choice": "the choice of the"}.get(kind, "a commitment to the")


def _describe(entry: Entry) -> str:
    if entry["kind"] == "commitment":
        return f"the commitment to the {entry.get('what')}"
    if entry["kind"] == "choice":
        return f"the choice of the {entry.get('what')}"
    return f"the {entry.get('direction')} {entry.get('type')} (number {entry.get('number')})"


# ---- results ---------------------------------------------------------------------------------------------------------

Verdict = Literal["reproduced", "differs", "missing"]


@dataclass(frozen=True)
class AttemptResult:
    """How the replay of one attempt, or of the job's commitments before any (``name`` None), went."""

    name: AttemptName | None
    state: str
    sent: int
    reproduced: int
    verdict: Verdict
    detail: str = ""
    code: str = ""
    seq: int | None = None
    type: str = ""

    @property
    def explanation(self) -> str:
        """What the step does, and what the message in question says."""
        step = f"{self.name.step}: {STEPS.get(self.name.step, 'a step unknown here')}" if self.name else ""
        return step + (f"; {self.type}: {MESSAGES[self.type]}" if self.type in MESSAGES else "")


@dataclass
class JobResult:
    """The replay of one job."""

    job: str
    state: str
    sent: int
    results: list[AttemptResult] = field(default_factory=list)

    @property
    def reproduced(self) -> int:
        """Sent messages that came out the same."""
        return sum(result.reproduced for result in self.results)


@dataclass
class Replay:
    """The replay of a node: the tree head of the log it was held against, and its jobs.

    ``other_software`` says what ran live where that was other software than here; empty where it was the same, or is not known.
    """

    name: str
    size: int
    root: str
    served: bool
    other_software: str = ""
    jobs: list[JobResult] = field(default_factory=list)

    @property
    def sent(self) -> int:
        """Messages that the log says this node sent."""
        return sum(job.sent for job in self.jobs)

    @property
    def reproduced(self) -> int:
        """Those that came out the same."""
        return sum(job.reproduced for job in self.jobs)

    def first(self, verdict: Verdict) -> AttemptResult | None:
        """The first attempt with this verdict."""
        return next((result for job in self.jobs for result in job.results if result.verdict == verdict), None)

    @property
    def exit_status(self) -> int:
        """0 all reproduced; 1 something differs; 2 something cannot be reproduced, or there is nothing to reproduce."""
        if self.first("differs"):
            return 1
        return 2 if self.first("missing") or not self.sent else 0


# ---- the replay ------------------------------------------------------------------------------------------------------


def replay_node(premises: Premises, *, prefix: str | None, on_result: Callable[[JobResult, AttemptResult], None]) -> Replay:
    """Replay a node's jobs, or the one whose hash begins with ``prefix``.

    Args:
        on_result: told of every attempt when it is through.

    Raises:
        UsageError: ``replay.log_unusable``, ``replay.job_unknown``, ``replay.job_ambiguous``.
    """
    record = read_record(premises.log_path, name=premises.name)
    replay = Replay(record.name, record.size, record.root, premises.served)
    for job in record.chosen(prefix):
        result = JobResult(job.job, job.state, job.sent)
        replay.other_software = replay.other_software or _other_software(job)
        replay.jobs.append(result)

        def note(one: AttemptResult, result: JobResult = result) -> None:
            result.results.append(one)
            on_result(result, one)

        _replay_job(premises, record, job, note)
    return replay


def _other_software(job: RecordedJob) -> str:
    here = software_fields()
    for attempt in job.attempts.values():
        if any(attempt.software.get(name, value) != value for name, value in here.items()):
            return _software_text(attempt.software)
    return ""


def _software_text(fields: Mapping[str, Json]) -> str:
    """Version, Python and package set in words."""
    return f"isthmus {fields.get('version')}, Python {fields.get('python')}, packages {str(fields.get('lock_sha256'))[:12]}"


def software_here() -> str:
    """What this replay runs on."""
    return _software_text(software_fields())


def _replay_job(premises: Premises, record: NodeRecord, job: RecordedJob, note: Callable[[AttemptResult], None]) -> None:
    try:
        with premises.job(job) as opened:
            if opened.seed_commitment() != job.seed_commitment:
                raise ReplayDiffers(f"{record.name}: the kept seed is not the one that the log commits to", type="seed")
            lost: tuple[str, int] | None = None
            for attempt in job.attempts.values():
                if lost not in (None, attempt.name.place):
                    detail = f"it builds on {_place(lost)}, which was not reproduced"
                    note(_result(attempt, "missing", detail=detail, code=BUILDS_ON))
                    continue
                result = _replay_attempt(premises, record, job, opened, attempt)
                note(result)
                if attempt.done:
                    lost = None if result.verdict == "reproduced" else attempt.name.place
    except (ReplayDiffers, ReplayMissing) as error:
        verdict: Verdict = "differs" if isinstance(error, ReplayDiffers) else "missing"
        note(AttemptResult(None, job.state, job.sent, 0, verdict, error.message, error.code, type=getattr(error, "type", "")))


def _place(place: tuple[str, int] | None) -> str:
    step, number = place or ("", 0)
    return f"{step} {number}" if number else step


def _result(attempt: RecordedAttempt, verdict: Verdict, reproduced: int = 0, **fields: Any) -> AttemptResult:
    state = attempt.state + (f" [{attempt.code}]" if attempt.code else "")
    return AttemptResult(attempt.name, state, attempt.sent, reproduced, verdict, **fields)


def _replay_attempt(
    premises: Premises, record: NodeRecord, job: RecordedJob, opened: JobPremises, attempt: RecordedAttempt
) -> AttemptResult:
    if not attempt.ended and premises.served:
        return _result(attempt, "missing", detail="it is running now", code="replay.running")
    if not (attempt.sent or attempt.received or attempt.committed or attempt.done):
        return _result(attempt, "reproduced", detail="it ended before anything was said")
    wire = ReplayWire(record.name, attempt, record.entries(job.job, attempt), iter(()))
    try:
        wire = ReplayWire(record.name, attempt, record.entries(job.job, attempt), opened.inbound(attempt.name))
        _run(opened, attempt, wire)
    except ReplayDiffers as error:
        return _result(attempt, "differs", wire.reproduced, detail=error.message, code=error.code, seq=error.seq, type=error.type)
    except ReplayMissing as error:
        return _result(attempt, "missing", wire.reproduced, detail=error.message, code=error.code)
    return _result(attempt, "reproduced", wire.reproduced)


def _run(opened: JobPremises, attempt: RecordedAttempt, wire: ReplayWire) -> None:
    """Run one attempt; returns when all that the log says of it came out."""
    try:
        outcome = opened.run(attempt, wire)
    except (ReplayDiffers, ReplayMissing):
        raise
    except EndOfRecord:
        return
    except IsthmusError as error:
        if attempt.done:
            raise ReplayDiffers(f"{attempt.name}: it ends with {error.code} in the replay; the log says that it was done") from None
        wire.finish()  # it failed there, too
        return
    wire.finish()
    if attempt.done:
        _compare_disclosures(attempt, outcome.disclosures())
        outcome.keep()


def _compare_disclosures(attempt: RecordedAttempt, said: Sequence[Mapping[str, Json]]) -> None:
    for index in range(max(len(said), len(attempt.disclosures))):
        entry = attempt.disclosures[index] if index < len(attempt.disclosures) else None
        mine = said[index] if index < len(said) else None
        if entry is None or mine is None or any(entry.get(name) != value for name, value in mine.items()):
            what = str((entry or mine or {}).get("what", ""))
            where = f"entry {entry['seq']}, " if entry else ""
            raise ReplayDiffers(
                f"{where}{attempt.name}: the disclosure of {what!r} is not the one that comes out",
                seq=int(str(entry["seq"])) if entry else None,
                type="disclosure",
            )
