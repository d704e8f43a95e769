"""A whole training of two parties over the in-memory link, as the coordinator would direct it: data, plans, the loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audit.layout import KeyKind
from coordinator.optimizer import Lookup, Next, first_range, plan_next
from node.crypto.drbg import Drbg
from node.crypto.paillier_keys import generate_key
from node.engine import Engine, InlineEngine
from node.limits import LIMITS
from node.protocols import logistic
from node.protocols.training import Prepared, RoundShares, TrainingPlan
from tests.pair import Outcome, run_pair

ROLES = ("label_holder", "feature_holder")
JOB = "ab" * 32


def seed_of(role: str) -> bytes:
    """A fixed test seed, another for each party."""
    return role.encode().ljust(32, b".")


def encode(values: NDArray[np.float64]) -> NDArray[np.int32]:
    """Standardise, clip to +-8 and encode at scale 10."""
    standard = (values - values.mean(axis=0)) / values.std(axis=0)
    return np.clip(np.round(standard * 1024), -8191, 8191).astype(np.int32)


def toy(rows: int, columns: tuple[int, int], *, seed: int = 0) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int8]]:
    """Correlated columns of two parties and a label that depends on all of them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, sum(columns))) + 0.6 * rng.normal(size=(rows, 1))
    truth = rng.normal(size=sum(columns)) * 0.6
    label = (rng.random(rows) < 1 / (1 + np.exp(-(x @ truth - 1)))).astype(np.int8)
    x = encode(x)
    return x[:, : columns[0]], x[:, columns[0] :], label


@dataclass
class Training:
    """Both parties of one training, run step by step."""

    left: NDArray[np.int32]
    right: NDArray[np.int32]
    label: NDArray[np.int8]
    rounds: int = 4
    l2: Fraction = Fraction(1, 1000)
    key_bits: int = 512
    lookup_entries: int = 64
    key_kind: KeyKind = "standard"
    seeds: Callable[[str], bytes] = seed_of
    engine: Engine = field(default_factory=InlineEngine)
    prepared: list[Prepared] = field(default_factory=list)
    earlier: tuple[list[RoundShares], list[RoundShares]] = field(default_factory=lambda: ([], []))
    sent: list[tuple[str, int, bytes]] = field(default_factory=list)

    def plan(self, role: str) -> TrainingPlan:
        return TrainingPlan(
            role=role,  # type: ignore[arg-type]
            job=JOB,
            l2=self.l2,
            rounds=self.rounds,
            key_bits=self.key_bits,
            minimum_key_bits=256,
            lookup_entries=self.lookup_entries,
            rows=len(self.label),
            key_kind=self.key_kind,
        )

    def drbg(self, role: str, step: str, round: int = 0, attempt: int = 0) -> Drbg:
        return Drbg(self.seeds(role), job=JOB, step=step, round=round, attempt=attempt)

    def halves(self, role: str) -> dict[str, Any]:
        """This party's own data."""
        left = role == "label_holder"
        return {"plan": self.plan(role), "matrix": self.left if left else self.right, "label": self.label if left else None}

    def run(self, half: Callable[[str, Any], Any], **tamper: Any) -> Outcome:
        outcome = run_pair(lambda ch: half(ROLES[0], ch), lambda ch: half(ROLES[1], ch), **tamper)
        for side, messages in enumerate((outcome.left_sent, outcome.right_sent)):
            self.sent += [(kind, side, payload) for kind, payload in messages]
        return outcome

    def prepare(self, *, attempt: int = 0, **tamper: Any) -> Outcome:
        def half(role: str, ch: Any) -> Prepared:
            drbg = self.drbg(role, "prepare", attempt=attempt)
            own = generate_key(self.key_bits, drbg.stream("paillier key"), kind=self.key_kind)
            return logistic.prepare(ch, **self.halves(role), own=own, drbg=drbg, engine=self.engine, limits=LIMITS)

        outcome = self.run(half, **tamper)
        self.prepared = [p for p in (outcome.left, outcome.right) if p is not None]
        return outcome

    def round(
        self,
        number: int,
        coefficients: Sequence[float],
        lookup_range: float,
        *,
        slot: int | None = None,
        attempt: int = 0,
        **tamper: Any,
    ) -> Outcome:
        """Run round ``number`` (kept only if both sides end well)."""

        def half(role: str, ch: Any) -> RoundShares:
            side = ROLES.index(role)
            return logistic.run_round(
                ch,
                **self.halves(role),
                prepared=self.prepared[side],
                earlier=self.earlier[side],
                round=number,
                slot=number - 1 + attempt if slot is None else slot,
                coefficients=coefficients,
                lookup_range=lookup_range,
                drbg=self.drbg(role, "round", number, attempt),
                limits=LIMITS,
            )

        outcome = self.run(half, **tamper)
        if outcome.left is not None and outcome.right is not None:
            self.earlier[0].append(outcome.left)
            self.earlier[1].append(outcome.right)
        return outcome

    def finish(self, coefficients: Sequence[float]) -> Outcome:
        def half(role: str, ch: Any) -> NDArray[np.float64]:
            side = ROLES.index(role)
            return logistic.finish(
                ch,
                plan=self.plan(role),
                prepared=self.prepared[side],
                earlier=self.earlier[side],
                coefficients=coefficients,
                limits=LIMITS,
            )

        return self.run(half)

    def train(self, *, tolerance: float = 1e-5) -> tuple[NDArray[np.float64], Next]:
        """All of it as the coordinator would direct it.

        Returns:
            The opened weights (intercept, left, right) and the last directive.
        """
        self.prepare().results()
        base_rate = float(self.prepared[0].base_rate)
        gram: list[list[float]] = []
        history: list[Sequence[float]] = []
        coefficients: Sequence[float] = ()
        lookup_range = first_range(base_rate)
        while True:
            left, right = self.round(len(gram) + 1, coefficients, lookup_range).results()
            if left.inner_products != right.inner_products:
                raise RuntimeError("the two parties report different inner products")
            gram.append(left.inner_products)
            history.append(coefficients)
            columns = sum(p.own_columns for p in self.prepared)
            lookup = Lookup(rows=len(self.label), columns=columns, entries=self.lookup_entries)
            step = plan_next(gram, history, base_rate=base_rate, rounds=self.rounds, tolerance=tolerance, lookup=lookup)
            coefficients, lookup_range = step.coefficients, step.lookup_range
            if step.stop:
                return np.concatenate(self.finish(coefficients).results()), step
