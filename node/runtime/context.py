"""What a step runs with, put together in one place, so that a replay runs with the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from audit.spec import JobSpec
from node.config import DatasetConfig, NodeConfig
from node.crypto.drbg import Drbg
from node.data.load import Table
from node.engine import Engine
from node.limits import LIMITS, Limits
from node.policy import Policy
from node.protocols.channel import Progress, silent
from node.runtime.files import JobFiles
from node.runtime.journal import StepLabels
from node.runtime.relations import Relation
from node.runtime.steps import Choose, Commit, StepContext

TEST_KEY_BITS = 512
"""Smallest keys where ``unsafe.small_keys`` allows keys that protect nothing."""


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
        relation=relation,
    )
