"""What one log says of each job: its acts in order, and of every attempt the messages, in memory that does not grow with them.

Messages are kept as *runs*: how often a message of the same type, length and number of items came, one after the other.  Honest
messages of one kind are equal but for the last, so that a million of them are a few runs; the alignment's two kinds take turns, and
a run may be of such a pair.  Where a log's messages fall into more runs than any honest attempt has, they are not kept and have
to be read again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from audit.receipts import Transcript
from audit.spec import KEYS_MAX, JobSpec

ENDED = ("finished", "failed", "cancelled", "rejected")
RUNS_MAX = 4096
PLAIN = frozenset(
    (
        "PsiStart",
        "FilterState",
        "FilterQueries",
        "SharedCount",
        "JobFigures",
        "DirectiveEcho",
        "Aggregates",
        "IntersectionSize",
    ),
)
"""Types of messages that carry public figures alone (:mod:`audit.plain`)."""
ACTS_MAX = 2**16
"""Entries of a job that are not messages or receipts: at most 16 attempts of 68 steps, each with a dozen."""


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


class Shape(NamedTuple):
    """A message without its content: what the protocol's rules speak of."""

    type: str
    items: int
    length: int


@dataclass
class Run:
    """A message, or a pair of messages taking turns, repeated."""

    shapes: tuple[Shape, ...]
    times: int = 1


class Runs:
    """A sequence of messages, folded."""

    def __init__(self) -> None:
        self._runs: list[Run] = []
        self._last: Shape | None = None
        self.folded = True
        """False once there were too many runs to keep."""

    def add(self, shape: tuple[str, int, int]) -> None:
        """Take the next message: type, items, length."""
        if shape == self._last:
            self._runs[-1].times += 1
        elif self.folded:
            self._append(Shape(*shape))

    def _append(self, shape: Shape) -> None:
        runs = self._runs
        runs.append(Run((shape,)))
        if len(runs) > 2:
            self._fold(shape)
        # Only a single message that stands last can be repeated at once.
        self._last = runs[-1].shapes[0] if len(runs[-1].shapes) == 1 else None
        if len(runs) > RUNS_MAX:
            self.folded, self._last = False, None
            runs.clear()

    def _fold(self, shape: Shape) -> None:
        """``[ab]*n a b`` becomes ``[ab]*(n + 1)``, and ``a b a b`` becomes ``[ab]*2``."""
        runs = self._runs
        if runs[-2].times > 1 or len(runs[-2].shapes) > 1:
            return
        pair = (runs[-2].shapes[0], shape)
        if runs[-3].shapes == pair:
            runs[-3].times += 1
            del runs[-2:]
        elif len(runs) > 3 and all(run.times == 1 for run in runs[-4:-2]) and (runs[-4].shapes + runs[-3].shapes) == pair:
            runs[-4:] = [Run(pair, 2)]

    def __iter__(self) -> Iterator[tuple[Shape, int]]:
        """Shapes in order, each with how often it is repeated at once."""
        for run in self._runs:
            if len(run.shapes) == 1:
                yield run.shapes[0], run.times
                continue
            for _ in range(run.times):
                for shape in run.shapes:
                    yield shape, 1


class Direction:
    """The messages of an attempt in one direction: how many, their shapes, and a digest over all of them in order."""

    __slots__ = ("_hash", "bytes", "count", "items", "plain", "runs")

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0
        self._hash = hashlib.sha256()
        self.runs = Runs()
        self.items: dict[str, int] = {}
        """Items by message type."""
        self.plain: dict[tuple[str, int], str] = {}
        """SHA-256 of the first messages of each type in :data:`PLAIN`: one, or one for each key of an alignment."""

    def add(self, message: MessageRecord) -> None:
        """Take the next message."""
        kind, number, length, sha256, items = message
        self._hash.update(f"{kind} {number} {length} {sha256} {items}\n".encode())
        self.count += 1
        self.bytes += length
        before = self.items.get(kind, 0)
        self.items[kind] = before + items
        if kind in PLAIN and before < KEYS_MAX:
            self.plain.setdefault((kind, before), sha256)
        self.runs.add((kind, items, length))

    def fingerprint(self) -> tuple[int, bytes]:
        """Equal at two nodes exactly when their records are."""
        return self.count, self._hash.digest()


class ReceiptRecord(NamedTuple):
    """One receipt, given or got."""

    seq: int
    digest: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Directive:
    """The numbers a step was started with, as text."""

    coefficients: tuple[str, ...] = ()
    lookup_range: str = ""


class FilterRecord(NamedTuple):
    """A clause of a node's policy about published filters (:class:`node.policy.FilterClause`, where there is a node)."""

    partner: str
    dataset: str
    role: str
    reuse_days: int
    filter_days: int
    period_days: int
    queries: int | None


class PolicyRecord(NamedTuple):
    """The bounds of a node's own policy."""

    minimum_intersection: int
    key_bits_min: int
    rounds_max: int
    bands_max: int
    small_keys: int
    short_order_keys: int = 0
    filters: tuple[FilterRecord, ...] = ()


NO_DIRECTIVE = Directive()


@dataclass(slots=True)
class Attempt:
    """One attempt of one step, as one node's log tells it."""

    key: AttemptKey
    first_seq: int
    first_offset: int
    last_seq: int
    last_offset: int
    state: str = "unknown"
    state_seq: int = 0
    was_done: bool = False
    """Whether it was ever recorded done: after a crash it may have become a failure."""
    code: str = ""
    started: str = ""
    ended: str = ""
    done_digest: bytes = b""
    bytes_told: tuple[int, int] | None = None
    """What `done` says was sent and received, in bytes."""
    directive: Directive = NO_DIRECTIVE
    policy: PolicyRecord | None = None
    peer: str = ""
    first_message: int | None = None
    sent: Direction = field(default_factory=Direction)
    received: Direction = field(default_factory=Direction)
    receipts: dict[str, ReceiptRecord] = field(default_factory=dict)
    transcript: Transcript | None = None

    @property
    def done(self) -> bool:
        """Whether this node completed it."""
        return self.state == "done"

    @property
    def interrupted(self) -> bool:
        """Whether it was cut: a crash leaves no entry, and at the next start a failure of this name."""
        return self.state == "start" or (self.state == "failed" and self.code == "job.interrupted")

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


class CommitmentRecord(NamedTuple):
    """A commitment: of what, the digest, and the public sizes beside it."""

    what: str
    sha256: str
    rows: int | None
    columns: int | None
    bits: int | None
    version: int | None = None


class ChoiceRecord(NamedTuple):
    """How an alignment's method was chosen: which, why, and the two sizes that decided."""

    what: str
    method: str
    reason: str
    label_holder: int
    feature_holder: int


@dataclass(frozen=True, slots=True)
class DisclosureRecord:
    """One disclosure: ``by`` is the party it is said of."""

    by: str
    what: str
    to: str
    count: int
    clause: str
    value: str
    salt: str = field(default="", compare=False)
    """A node's own; the same disclosure stands in the coordinator's log without it."""


@dataclass(frozen=True, slots=True)
class ItemRecord:
    """A line of a disclosure receipt."""

    by: str
    what: str
    to: str
    count: int
    clause: str


class EndRecord(NamedTuple):
    """A job's state and its code."""

    state: str
    code: str


class Act(NamedTuple):
    """One entry of a job that is neither message nor receipt."""

    seq: int
    time: str
    kind: str
    """spec, commitment, choice, approval, start, done, failed, directive, report, disclosure, disclosures, job"""
    key: AttemptKey
    data: Any


@dataclass
class JobRecord:
    """One job, as one log tells it."""

    job: str
    spec: JobSpec | None = None
    acts: list[Act] = field(default_factory=list)
    approvals: list[ApprovalRecord] = field(default_factory=list)
    attempts: dict[AttemptKey, Attempt] = field(default_factory=dict)
    reports: dict[tuple[AttemptKey, str], ReportRecord] = field(default_factory=dict)
    policy: PolicyRecord | None = None
    """The policy in force when the log's owner decided."""
    acted_seq: int | None = None
    """The first entry that needs both approvals before it."""
    last_seq: int = 0
    outcome: str = ""
    """How the job ended, where this log says so; ``disclosed`` at a node that wrote its disclosure receipt."""
    end: EndRecord | None = None
    """The entry that ended it."""
    receipt: tuple[ItemRecord, ...] | None = None
    """The disclosure receipt."""

    @property
    def messages(self) -> int:
        """Messages of all attempts, both directions."""
        return sum(a.sent.count + a.received.count for a in self.attempts.values())

    def of(self, kind: str) -> Iterable[Act]:
        """The acts of one kind, in order."""
        return (act for act in self.acts if act.kind == kind)
