"""A node's log as a replay reads it: for every job its specification, its seed's commitment and its attempts, in order.

The log is read through once, its chain followed and its tree hashed; the messages of an attempt are read again from the file when
it is replayed, one entry in memory.  Whether the log is the one that was signed and cosigned is for ``isthmus-audit verify`` to
say: a replay names the tree head that it read, so that the two can be held against each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from audit.entries import Json, parse_entry, read_lines
from audit.errors import DataError, UsageError
from audit.merkle import Frontier

Entry = Mapping[str, Json]

REPLAYED = ("message", "commitment", "choice")
"""The kinds of entries that a replay must bring forth again, in this very order."""


class AttemptName(NamedTuple):
    """Which attempt of which step, within a job."""

    step: str
    round: int
    attempt: int

    def __str__(self) -> str:
        return f"{self.step}{f' {self.round}' if self.round else ''}{f', attempt {self.attempt}' if self.attempt else ''}"

    @property
    def place(self) -> tuple[str, int]:
        """The step and round alone."""
        return self.step, self.round


@dataclass
class RecordedAttempt:
    """One attempt as the log tells it.

    Attributes:
        coefficients, lookup_range: the coordinator's numbers; the log's texts read back to the same doubles.
        state: ``start``, ``done`` or ``failed`` (with ``code``).
        policy, software: the entries of these kinds that held when it began; empty where the log has none.
        sent, received, committed: how many such entries it has.
        disclosures: its ``disclosure`` entries.
    """

    name: AttemptName
    first_offset: int
    last_offset: int
    policy: Entry
    software: Entry = field(default_factory=dict)
    coefficients: tuple[float, ...] = ()
    lookup_range: float = 0.0
    state: str = "start"
    code: str = ""
    sent: int = 0
    received: int = 0
    committed: int = 0
    disclosures: list[Entry] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """Whether the node completed it."""
        return self.state == "done"

    @property
    def ended(self) -> bool:
        """Whether it is over at all."""
        return self.state != "start"


@dataclass
class RecordedJob:
    """One job as the log tells it; ``state`` is its end, where it has one."""

    job: str
    document: str = ""
    seed_commitment: str = ""
    state: str = ""
    attempts: dict[AttemptName, RecordedAttempt] = field(default_factory=dict)

    @property
    def sent(self) -> int:
        """Messages that this node sent in all attempts."""
        return sum(attempt.sent for attempt in self.attempts.values())


@dataclass
class NodeRecord:
    """One node's log: its tree head and its jobs."""

    name: str
    path: Path
    size: int = 0
    root: str = ""
    jobs: dict[str, RecordedJob] = field(default_factory=dict)

    def chosen(self, prefix: str | None) -> list[RecordedJob]:
        """All jobs with steps, or the one whose hash begins with ``prefix``.

        Raises:
            UsageError: ``replay.job_unknown``, ``replay.job_ambiguous``.
        """
        if prefix is None:
            return [job for job in self.jobs.values() if job.attempts]
        found = [job for name, job in self.jobs.items() if prefix and name.startswith(prefix.lower())]
        if not found:
            raise UsageError(
                "replay.job_unknown",
                f"The log of {self.name} has no job that starts with {prefix!r}.",
                remedy="Check the job's hash.",
            )
        if len(found) > 1:
            raise UsageError(
                "replay.job_ambiguous", f"{len(found)} jobs start with {prefix!r}.", remedy="Give more digits of the job's hash."
            )
        return found

    def entries(self, job: str, attempt: RecordedAttempt) -> Iterator[Entry]:
        """The messages and commitments of an attempt in the order of the log, read again from the file.

        Raises:
            DataError: ``log.entry_malformed``, ``log.line_too_long`` when the file changed meanwhile.
        """
        with self.path.open("rb") as stream:
            stream.seek(attempt.first_offset)
            for line in read_lines(stream, offset=attempt.first_offset):
                if line.offset > attempt.last_offset:
                    return
                entry = parse_entry(line.data)
                if entry["kind"] in REPLAYED and entry["job"] == job and _name(entry) == attempt.name:
                    yield entry


def read_record(path: Path, *, name: str) -> NodeRecord:
    """Read the log at ``path``; a last line without its end, which a crash or a serving node leaves, is not taken in.

    Raises:
        UsageError: ``replay.log_unusable`` names the byte where the file is no log of ``name``, or does not follow from what came
            before.
    """
    record, frontier, reader = NodeRecord(name, path), Frontier(), _Reader()
    previous, offset = "", 0
    try:
        with path.open("rb") as stream:
            for line in read_lines(stream):
                offset = line.offset
                if not line.complete:
                    break
                entry = parse_entry(line.data)
                if (entry["log"], entry["seq"], entry["prev"]) != (name, frontier.size, previous):
                    raise DataError("log.chain", "it does not follow from the entry before it")
                reader.take(record, entry, line.offset)
                previous = frontier.append(line.data).hex()
    except OSError as error:
        raise UsageError(
            "replay.log_unusable", f"The log {path} cannot be read: {error.strerror}.", remedy="Name the node's own folder."
        ) from None
    except DataError as error:
        raise UsageError(
            "replay.log_unusable",
            f"{name} entry {frontier.size} (byte {offset}): {error.message}",
            remedy="Run `isthmus-audit verify` on this log: a log that is not whole cannot be replayed.",
        ) from None
    record.size, record.root = frontier.size, frontier.root().hex()
    return record


class _Reader:
    """Takes in entry after entry; remembers the software that runs and the policy that holds."""

    def __init__(self) -> None:
        self._software: Entry = {}
        self._policy: Entry = {}

    def take(self, record: NodeRecord, entry: dict[str, Json], offset: int) -> None:
        kind = entry["kind"]
        if kind == "software":
            self._software = entry
        elif kind == "policy":
            self._policy = entry
        if not entry["job"]:
            return
        job = record.jobs.setdefault(str(entry["job"]), RecordedJob(str(entry["job"])))
        if kind == "spec":
            job.document = job.document or str(entry.get("document", ""))
        elif kind == "job":
            job.state = str(entry.get("state", ""))
        elif kind == "commitment" and not entry["step"]:
            if entry.get("what") == "seed":
                job.seed_commitment = str(entry.get("sha256", ""))
        elif entry["step"]:
            self._attempt(job, entry, offset)

    def _attempt(self, job: RecordedJob, entry: dict[str, Json], offset: int) -> None:
        name, kind = _name(entry), entry["kind"]
        attempt = job.attempts.get(name)
        if attempt is None:
            attempt = job.attempts[name] = RecordedAttempt(name, offset, offset, self._policy, self._software)
        attempt.last_offset = offset
        if kind == "step":
            attempt.state, attempt.code = str(entry.get("state", "")), str(entry.get("code", ""))
            if attempt.state == "start":
                attempt.coefficients = _numbers(entry.get("coefficients", []))
                (attempt.lookup_range,) = _numbers([entry.get("lookup_range", "0.0")])
        elif kind == "message":
            if entry.get("direction") == "sent":
                attempt.sent += 1
            else:
                attempt.received += 1
        elif kind == "commitment":
            attempt.committed += 1
        elif kind == "disclosure":
            attempt.disclosures.append(entry)


def _numbers(texts: Json) -> tuple[float, ...]:
    try:
        return tuple(float(str(text)) for text in (texts if isinstance(texts, list) else [texts]))
    except ValueError:
        raise DataError("log.entry_malformed", "its coefficients or lookup range are no numbers") from None


def _name(entry: Entry) -> AttemptName:
    return AttemptName(str(entry["step"]), int(str(entry["round"])), int(str(entry["attempt"])))
