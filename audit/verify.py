"""The verification of a set of logs: a numbered procedure, the same numbers in code, output and tests.

    (0) policy: whose keys are trusted, and which log is which
    (1) every checkpoint is signed by its log's key
    (2) the log continues the auditor's own last checkpoint
    (3) entries: sequence, chain, clock, and the root of every checkpoint
    (4) approvals: both nodes signed this very job before it began
    (5) every sent message was received, the same bytes
    (6) receipts: both nodes signed the transcript of every step done
    (7) the protocol's order: entries, steps, rounds, messages with their counts and lengths; nothing missing, nothing after the end
    (8) bounds: keys, shared customers, rounds and bands as the job, each node's policy and the auditor allow; who received what
    (9) disclosures: the entries and receipts say exactly what the messages carried, and the job allows each

A step passes, is *open* (lawful so far, but something is missing: exit code 2), or fails (:class:`LogRejected`, exit code 1; 3
when the input cannot be used).  What counts as missing and what as contradictory:

- An attempt must be whole, every message of one log standing alike in the other's, as soon as *either* node recorded it done: a
  node does so only with the other's signature on the transcript in hand, and the other signed after writing down every message.
- In any other attempt (failed, or cut by a crash) what was received must have been sent, the same bytes in the same order;
  messages that were sent and never arrived are lawful.
- A log that ends inside or before an attempt is older than the other's, not contradictory; as soon as it goes on after that
  point (a later entry of the job that the other log dates after the attempt, a `done` or `failed`, the end of the job), what it
  lacks is contradictory.
- A witness that refused a checkpoint of another log says that it was shown two histories; it is open until that is explained.
- Entries after the last checkpoint, a log without any checkpoint, a counterpart's log that was not given, a job that has not
  ended, and a job whose specification is in no log are open.
- A line that is cut, too long, not canonical or of another version cannot be used, wherever it stands: exit code 3.

A log is read once, and again only in the stretch where two logs differ.  Memory grows with the number of step attempts, not of
messages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from audit.bounds import check_bounds
from audit.checkpoint import Checkpoint, log_of, parse_checkpoint, parse_note
from audit.cosigned import check_sightings, cosigners, sightings, uncovered
from audit.disclosing import check_disclosures
from audit.errors import IsthmusError, VerificationError
from audit.facts import JobFacts
from audit.figures import Views, views_of
from audit.history import JobRecord
from audit.lawful import check_order
from audit.ledger import Ledger, LogRejected, read_ledger
from audit.matching import check_approvals, check_messages, check_receipts
from audit.policy import Limits, Trust, load_trust
from audit.record import KEY_FILE
from audit.signing import VerifierKey
from audit.sources import READABLE, LogSource, checkpoint_files, locate, own_key, read_small, unusable, verified
from audit.telling import facts_of

STEPS = (
    "policy and keys",
    "checkpoint signatures",
    "continues the last checkpoint",
    "entries, chain and root",
    "approvals",
    "messages sent and received",
    "receipts",
    "protocol order",
    "policy bounds",
    "disclosures",
)
LOGS_MAX = 64

State = Literal["passed", "warning", "open", "failed", "unchecked"]


@dataclass(frozen=True)
class StepResult:
    """One line of the verification."""

    number: int
    state: State
    detail: str

    @property
    def title(self) -> str:
        """What the step checks."""
        return STEPS[self.number]


@dataclass(frozen=True)
class OpenPoint:
    """Something that is missing for the logs to be whole."""

    step: int
    text: str


@dataclass(frozen=True)
class VerifiedLogs:
    """Logs that are lawful, as far as they go; ``open_points`` is empty when they are also whole."""

    steps: tuple[StepResult, ...]
    sources: tuple[LogSource, ...]
    ledgers: tuple[Ledger, ...]
    trust: Trust
    open_points: tuple[OpenPoint, ...]
    jobs: tuple[JobFacts, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether nothing is missing."""
        return not self.open_points

    @property
    def exit_status(self) -> int:
        """0 whole and lawful, 2 lawful so far."""
        return 0 if self.whole else 2


def verify_logs(
    logs: Sequence[Path],
    *,
    policy: Path | None = None,
    partners: Sequence[Path] = (),
    last: Sequence[Path] = (),
    on_step: Callable[[StepResult], None] | None = None,
) -> VerifiedLogs:
    """Verify logs, each by itself and all against each other.

    Args:
        logs: for each log its file, its folder, or the state or node folder above it.
        policy, partners: whose keys to trust; neither: the logs' own word (see :mod:`audit.policy`).
        last: checkpoints that the auditor kept from earlier verifications.
        on_step: told every step's result as it is known.

    Raises:
        LogRejected: carries the step's number, the log, the entry and the exit status; the results of the steps before it were
        told to ``on_step``.
    """
    run = _Run(on_step)
    run.step(0, lambda: run.prepare(logs, policy, partners))
    run.step(1, run.signatures)
    run.step(2, lambda: run.continuation(last))
    run.step(3, run.entries)
    keys = {source.name: source.key for source in run.sources} | dict(run.trust.keys)
    for number, check in ((4, check_approvals), (5, check_messages), (6, check_receipts)):
        run.step(number, lambda check=check: check(run.ledgers, keys, run.missing))  # type: ignore[misc]
    views = list(views_of(run.ledgers))
    run.step(7, lambda: run.order(views))
    run.step(8, lambda: run.bounds(views, run.trust.limits))
    run.step(9, lambda: check_disclosures(run.ledgers, views, run.missing))
    jobs = tuple(facts_of(run.ledgers, job, view) for job, view in views)
    return VerifiedLogs(tuple(run.results), tuple(run.sources), tuple(run.ledgers), run.trust, tuple(run.points), jobs)


class _Run:
    """One verification: the steps' results and what they found, in order."""

    def __init__(self, on_step: Callable[[StepResult], None] | None) -> None:
        self.on_step = on_step
        self.results: list[StepResult] = []
        self.points: list[OpenPoint] = []
        self._known: set[OpenPoint] = set()
        self.sources: list[LogSource] = []
        self.ledgers: list[Ledger] = []
        self.trust = Trust({}, "self-asserted")
        self._current = 0

    def tell(self, number: int, state: State, detail: str) -> None:
        result = StepResult(number, state, detail)
        self.results.append(result)
        if self.on_step:
            self.on_step(result)

    def missing(self, text: str) -> None:
        """Note an open point of the step that is running, once."""
        point = OpenPoint(self._current, text)
        if point not in self._known:
            self._known.add(point)
            self.points.append(point)

    def step(self, number: int, action: Callable[[], tuple[State, str] | str]) -> None:
        self._current = number
        try:
            outcome = action()
        except LogRejected as rejected:
            self.tell(number, "failed", rejected.message)
            raise
        state: State
        state, detail = ("passed", outcome) if isinstance(outcome, str) else outcome
        mine = [point.text for point in self.points if point.step == number]
        if mine and state != "unchecked":
            state, detail = "open", "; ".join([*mine[:3], *([f"and {len(mine) - 3} more"] if len(mine) > 3 else [])])
        self.tell(number, state, detail)

    # ---- (0) --------------------------------------------------------------------------------------------------------------

    def prepare(self, logs: Sequence[Path], policy: Path | None, partners: Sequence[Path]) -> tuple[State, str]:
        if not 0 < len(logs) <= LOGS_MAX:
            reason = f"{len(logs)} logs were given; between 1 and {LOGS_MAX} can be verified together."
            raise unusable("audit.no_logs", reason, "Give the logs of one job's parties and of their coordinator.")
        try:
            self.trust = load_trust(policy, partners)
        except IsthmusError as error:
            raise unusable(error.code, error.message, error.remedy) from None
        for path in logs:
            source = locate(path)
            if any(source.name == other.name for other in self.sources):
                raise unusable("audit.log_twice", f"The log {source.name!r} was given twice.", "Give each log once.")
            source.key = self._trusted_key(source)
            self.sources.append(source)
        names = ", ".join(source.name for source in self.sources)
        if self.trust.source == "self-asserted":
            detail = "the keys are the logs' own word: they may all be another's work (give --policy or --partner)"
            return "warning", f"{names}; {detail}"
        return "passed", f"{names}; keys from {self.trust.source}"

    def _trusted_key(self, source: LogSource) -> VerifierKey | None:
        if self.trust.source == "self-asserted":
            return own_key(source)
        if source.name not in self.trust.keys:
            raise unusable(
                "audit.log_unknown",
                f"No policy or partner file names the log {source.name!r} ({source.path}).",
                "Add it to the policy, or give its partner file (`isthmus-node partner export` on its owner's node).",
            )
        return self.trust.keys[source.name]

    # ---- (1) --------------------------------------------------------------------------------------------------------------

    def signatures(self) -> str:
        total = cosigned = 0
        keys = {source.name: source.key for source in self.sources if source.key is not None} | dict(self.trust.keys)
        self.trust = replace(self.trust, keys=keys)
        for source in self.sources:
            for path in checkpoint_files(source):
                if source.key is None:
                    self.missing(f"{source.name} has no {KEY_FILE} and no key was given")
                    break
                self._take(source, path, source.key)
            if not source.checkpoints:
                self.missing(f"{source.name} has no checkpoint that could be checked: nothing is signed")
            total += len(source.checkpoints)
            cosigned += sum(len(names) for names in source.cosigners.values())
            source.sightings = sightings(source.folder, source.name, self.trust)
        return f"{total} checkpoints signed by {len(self.sources)} logs, {cosigned} cosignatures"

    def _take(self, source: LogSource, path: Path, key: VerifierKey) -> None:
        """Check one checkpoint file and the cosignatures on it."""
        checkpoint = verified(path, key, step=1, log=source.name)
        known = source.checkpoints.setdefault(checkpoint.size, checkpoint)
        if known != checkpoint:
            reason = f"its key signed two different trees of {checkpoint.size} entries"
            raise LogRejected("audit.two_histories", reason, step=1, log=source.name)
        names = cosigners(read_small(path), self.trust.witnesses(source.name), log=source.name, file=path.name)
        source.cosigners[checkpoint.size] = source.cosigners.get(checkpoint.size, frozenset()) | names

    # ---- (2) --------------------------------------------------------------------------------------------------------------

    def continuation(self, last: Sequence[Path]) -> tuple[State, str]:
        """Reads the logs: their roots at the sizes of all checkpoints, the auditor's own among them, come out of one pass."""
        kept = [self._kept(path) for path in last]
        seen = [sighting for source in self.sources for sighting in source.sightings]
        for source in self.sources:
            marks = set(source.checkpoints) | {checkpoint.size for owner, checkpoint in kept if owner is source}
            marks |= {sighting.checkpoint.size for sighting in seen if sighting.log == source.name}
            try:
                ledger = read_ledger(source.path, name=source.name, marks=marks)
            except OSError as error:
                raise unusable("audit.unreadable", f"{source.path} cannot be read: {error.strerror}.", READABLE, step=2) from None
            self.ledgers.append(ledger)
        if self._unusable() is not None:
            return "unchecked", "a log cannot be read to its end"
        for owner, checkpoint in kept:
            ledger = next(ledger for ledger in self.ledgers if ledger.name == owner.name)
            if ledger.size < checkpoint.size:
                reason = f"it has {ledger.size} entries, fewer than the {checkpoint.size} it had before"
                raise LogRejected("audit.rolled_back", reason, step=2, log=owner.name)
            if ledger.roots[checkpoint.size] != checkpoint.root and not self._vouched(owner.name, checkpoint):
                reason = f"its first {checkpoint.size} entries are not those it had before"
                raise LogRejected("audit.rewritten", reason, step=2, log=owner.name)
        witnessed = check_sightings(seen, self.ledgers, self.missing, self._vouched)
        if not kept:
            told = f"; {witnessed} logs continue what others cosigned of them" if witnessed else ""
            return ("passed" if witnessed else "unchecked"), f"no earlier checkpoint was given (--last){told}"
        return "passed", f"{len(kept)} earlier checkpoints and {witnessed} that others cosigned are continued"

    def _vouched(self, name: str, checkpoint: Checkpoint) -> bool:
        """Whether the log itself has this very checkpoint: then entries that do not fit it are step (3)'s to find."""
        source = next(source for source in self.sources if source.name == name)
        return source.checkpoints.get(checkpoint.size) == checkpoint

    def _kept(self, path: Path) -> tuple[LogSource, Checkpoint]:
        try:
            name = log_of(parse_checkpoint(parse_note(read_small(path)).text).origin)
        except VerificationError as error:
            raise unusable(error.code, f"{path}: {error.message}", error.remedy, step=2) from None
        except OSError as error:
            raise unusable("audit.unreadable", f"{path} cannot be read: {error.strerror}.", READABLE, step=2) from None
        for source in self.sources:
            if source.name == name and source.key is not None:
                return source, verified(path, source.key, step=2, log=name)
        reason = f"{path} is a checkpoint of {name!r}, which was not given or has no key."
        raise unusable("audit.other_checkpoint", reason, "Give that log and its key too, or leave this --last out.", step=2)

    # ---- (3) --------------------------------------------------------------------------------------------------------------

    def entries(self) -> str:
        if (fault := self._unusable()) is not None:
            raise fault
        for source, ledger in zip(self.sources, self.ledgers, strict=True):
            if 3 in ledger.faults:
                raise ledger.faults[3]
            _check_roots(source, ledger)
            _check_log_keys(source, ledger)
            if ledger.size > source.signed_size:
                count = ledger.size - source.signed_size
                self.missing(f"{count} entries of {source.name} after its last checkpoint are not signed")
            for job in ledger.jobs.values():
                self._check_cosigned(source, job)
            for refusal in ledger.refusals:
                # An accusation, not a proof: that needs the two checkpoints, which step (2) compares where they are given.
                self.missing(
                    f"{source.name} refused a checkpoint of {refusal.of} (entry {refusal.seq}, {refusal.code}): "
                    f"its owner was shown another history; ask both for what they hold of it"
                )
        return f"{sum(ledger.size for ledger in self.ledgers)} entries"

    def _check_cosigned(self, source: LogSource, job: JobRecord) -> None:
        """Every entry of a job that ran is cosigned by its other parties whose keys are known, or by the policy's quorum."""
        if job.acted_seq is None or job.spec is None or source.key is None:
            return
        parties = {job.spec.label_holder.name, job.spec.feature_holder.name, job.spec.coordinator} - {source.name}
        lacking = uncovered(job.last_seq, source.cosigners, parties & set(self.trust.keys), self.trust.quorum)
        if isinstance(lacking, int):
            self.missing(
                f"{source.name}'s entries of job {job.job[:12]} have {lacking} cosigners; the policy asks for {self.trust.quorum}"
            )
        elif lacking:
            self.missing(f"{source.name}'s entries of job {job.job[:12]} are not all cosigned by {' and '.join(lacking)}")

    def _unusable(self) -> LogRejected | None:
        faults = (ledger.faults.get(3) for ledger in self.ledgers)
        return next((fault for fault in faults if fault is not None and fault.unusable), None)

    # ---- (7), (8) ---------------------------------------------------------------------------------------------------------

    def order(self, views: Views) -> str:
        detail = check_order(self.ledgers, views, self.missing)
        self._unended()
        return detail

    def bounds(self, views: Views, bounds: Limits) -> tuple[State, str]:
        small, detail = check_bounds(views, self.missing, bounds)
        return ("warning" if small == "warning" else "passed"), detail

    def _unended(self) -> None:
        for job in sorted({job for ledger in self.ledgers for job in ledger.jobs}):
            records = {ledger.name: ledger.jobs[job] for ledger in self.ledgers if job in ledger.jobs}
            if any(record.outcome in ("failed", "cancelled", "rejected") for record in records.values()):
                continue
            for name in sorted(name for name, record in records.items() if record.outcome in ("", "disclosed")):
                self.missing(f"job {job[:12]} has not ended in the log of {name}{_last_attempt(records[name])}")


def _last_attempt(record: JobRecord) -> str:
    attempts = sorted(record.attempts.values(), key=lambda attempt: attempt.last_seq)
    return f" (last: {attempts[-1].key}, {attempts[-1].state})" if attempts else ""


def _check_roots(source: LogSource, ledger: Ledger) -> None:
    """The root at the size of every checkpoint is the one that was signed; the first that is not narrows down where."""
    before = 0
    for size in sorted(source.checkpoints):
        if size > ledger.size:
            reason = f"it has {ledger.size} entries, but {size} were signed; the end is missing"
            raise LogRejected("audit.log_shortened", reason, step=3, log=source.name, seq=ledger.size, offset=ledger.end)
        if ledger.roots[size] != source.checkpoints[size].root:
            reason = f"an entry from here to {size - 1} is not the one that was signed"
            raise LogRejected("audit.root", reason, step=3, log=source.name, seq=before)
        before = size


def _check_log_keys(source: LogSource, ledger: Ledger) -> None:
    """Every run bound itself to the key that signs."""
    if source.key is None:
        return
    own = hashlib.sha256(source.key.public).hexdigest()
    for seq, committed in ledger.log_keys:
        if committed != own:
            reason = "this run bound itself to another log key than the one that signed"
            raise LogRejected("audit.other_key", reason, step=3, log=source.name, seq=seq)
