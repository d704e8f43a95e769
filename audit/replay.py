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

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from audit.entries import Json
from audit.errors import IsthmusError, UsageError
from audit.opening import software_fields
from audit.replay_record import AttemptName, NodeRecord, RecordedAttempt, RecordedJob, read_record
from audit.replay_results import AttemptResult, JobResult, Replay, Verdict
from audit.replay_wire import EndOfRecord, ReplayDiffers, ReplayMissing, ReplayWire

ENTRY_POINTS = "isthmus.replay"
BUILDS_ON = "replay.builds_on_lost"
"""The code of an attempt that was left out because one before it was not reproduced."""


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
