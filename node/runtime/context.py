"""What a step runs with, put together in one place, so that a replay runs with the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from numpy.typing import NDArray

from audit.spec import JobSpec
from node.config import DatasetConfig, NodeConfig
from node.crypto.drbg import Drbg
from node.data.load import Table
from node.engine import Engine
from node.limits import LIMITS, Limits
from node.policy import Policy
from node.protocols.channel import Progress, silent
from node.protocols.psi_filter import Outcome
from node.runtime.disclosures import Facts
from node.runtime.files import JobFiles
from node.runtime.journal import StepLabels
from node.runtime.relations import Relation
from node.scratch import MemoryScratch, Scratch

TEST_KEY_BITS = 512
"""Smallest keys where ``unsafe.small_keys`` allows keys that protect nothing."""


Role = Literal["label_holder", "feature_holder"]
Arrays = Mapping[str, NDArray]


class Commit(Protocol):
    """Puts a commitment into the log."""

    def __call__(self, what: str, sha256: str, **sizes: int) -> None: ...


class Choose(Protocol):
    """Puts a choice that both sides make alike into the log."""

    def __call__(self, what: str, **chosen: str | int) -> None: ...


@dataclass(frozen=True)
class StepContext:
    """All a step needs besides the channel."""

    spec: JobSpec
    job: str
    me: str
    dataset: DatasetConfig
    files: JobFiles
    drbg: Drbg = field(repr=False)
    engine: Engine = field(repr=False)
    limits: Limits
    minimum_shared: int
    minimum_key_bits: int
    round: int
    attempt: int
    coefficients: Sequence[float]
    lookup_range: float
    progress: Progress
    commit: Commit
    choose: Choose
    load: Callable[[], Table]
    """Reads the data set: the source's rows or, in a replay, those kept."""
    keep: Callable[[Table], None]
    """Keeps the data set as it was loaded for the alignment, where the policy says so."""
    scratch: Scratch = field(default_factory=MemoryScratch, repr=False)
    """Where rows go that are too many for memory, until the step ends."""
    relation: Relation | None = None
    """What is kept from job to job where the job aligns by a published filter."""

    def load_rows(self) -> Table:
        """Read the data set, and say so; not how many rows there are, which is not for those who watch."""
        self.progress("reading rows", 0, 1)
        return self.load()

    @property
    def role(self) -> Role:
        return "label_holder" if self.spec.label_holder.name == self.me else "feature_holder"

    @property
    def holds_label(self) -> bool:
        return self.role == "label_holder"

    @property
    def features(self) -> Sequence[str]:
        """Names of this node's features, in the order of the job."""
        return self.spec.party(self.me).features


@dataclass(frozen=True)
class StepResult:
    """What a step leaves: figures for the report, and files (bytes, or arrays for an ``.npz``)."""

    facts: Facts
    files: Mapping[str, bytes | Arrays] = field(repr=False)
    outcome: Outcome | None = field(repr=False, default=None)
    """Of an alignment by a published filter: what the relation keeps."""


@dataclass(frozen=True)
class Bounds:
    """What of a node's policy decides inside a step; in a log the fields of its ``policy`` entry."""

    minimum_intersection: int
    key_bits_min: int
    small_keys: bool

    @classmethod
    def of(cls, policy: Policy, config: NodeConfig) -> Bounds:
        """Those that hold now."""
        limits = policy.limits
        return cls(limits.minimum_intersection, limits.key_bits_min, config.unsafe.small_keys)


@dataclass(frozen=True)
class Numbers:
    """The coordinator's numbers for a step."""

    coefficients: Sequence[float]
    lookup_range: float


def step_context(
    labels: StepLabels,
    *,
    spec: JobSpec,
    me: str,
    dataset: DatasetConfig,
    files: JobFiles,
    seed: bytes,
    engine: Engine,
    bounds: Bounds,
    numbers: Numbers,
    commit: Commit,
    choose: Choose,
    load: Callable[[], Table],
    keep: Callable[[Table], None],
    limits: Limits = LIMITS,
    progress: Progress = silent,
    scratch: Scratch | None = None,
    relation: Relation | None = None,
) -> StepContext:
    """The context of one attempt, live or in a replay."""
    return StepContext(
        spec=spec,
        job=labels.job,
        me=me,
        dataset=dataset,
        files=files,
        drbg=Drbg(seed, **labels.fields()),
        engine=engine,
        limits=limits,
        minimum_shared=max(spec.align.minimum, bounds.minimum_intersection),
        minimum_key_bits=TEST_KEY_BITS if bounds.small_keys else bounds.key_bits_min,
        round=labels.round,
        attempt=labels.attempt,
        coefficients=list(numbers.coefficients),
        lookup_range=numbers.lookup_range,
        progress=progress,
        commit=commit,
        choose=choose,
        load=load,
        keep=keep,
        scratch=scratch or MemoryScratch(),
        relation=relation,
    )
