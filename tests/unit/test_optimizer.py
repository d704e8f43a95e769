"""The coordinator's L-BFGS against a floating-point simulation of the protocol, with scikit-learn as the judge."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from coordinator.errors import PeerError
from coordinator.optimizer import Next, first_range, first_step, plan_next

Array = NDArray[np.float64]
FLOOR = 1e-3


def standardised(columns: Array) -> Array:
    spread = columns.std(axis=0)
    return np.clip((columns - columns.mean(axis=0)) / np.where(spread > 0, spread, 1.0), -8, 8)


@dataclass
class Simulation:
    """Both nodes in floating point: two blocks, each with its own preconditioner, floored; a gradient with noise of relative size
    1e-4."""

    left: Array
    right: Array
    label: Array
    l2: float
    noise: float = 1e-4
    gram: list[list[float]] = field(default_factory=list)
    history: list[tuple[float, ...]] = field(default_factory=list)
    directives: list[Next] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.x = np.hstack([np.ones((len(self.label), 1)), self.left, self.right])
        self.penalty = np.full(self.x.shape[1], self.l2)
        self.penalty[0] = 0.0
        self.base_rate = float(f"{self.label.mean():.2g}")
        kappa = self.base_rate * (1 - self.base_rate)
        self.start = np.zeros(self.x.shape[1])
        self.start[0] = math.log(self.base_rate / (1 - self.base_rate))
        cut = self.left.shape[1] + 1
        self.inverse = np.zeros((self.x.shape[1],) * 2)
        for block in (slice(0, cut), slice(cut, None)):
            part = self.x[:, block]
            if not part.shape[1]:
                continue
            values, vectors = np.linalg.eigh(kappa * part.T @ part / len(part) + self.l2 * np.eye(part.shape[1]))
            self.inverse[block, block] = vectors / np.maximum(values, FLOOR * values.max()) @ vectors.T
        self.rng = np.random.default_rng(0)
        self.gradients: list[Array] = []

    def weights(self, coefficients: tuple[float, ...]) -> Array:
        directions = [self.inverse @ g for g in self.gradients[: len(coefficients)]]
        return self.start - sum((c * p for c, p in zip(coefficients, directions, strict=True)), np.zeros_like(self.start))

    def evaluate(self, coefficients: tuple[float, ...]) -> list[float]:
        w = self.weights(coefficients)
        g = self.x.T @ (1 / (1 + np.exp(-self.x @ w)) - self.label) / len(self.label) + self.penalty * w
        g = g + self.noise * np.linalg.norm(g) / math.sqrt(len(g)) * self.rng.standard_normal(len(g))
        self.gradients.append(g)
        return [float(g @ self.inverse @ earlier) for earlier in self.gradients]

    def run(self, rounds: int, tolerance: float = 2e-6) -> Next:
        coefficients: tuple[float, ...] = ()
        while True:
            self.history.append(coefficients)
            self.gram.append(self.evaluate(coefficients))
            following = plan_next(self.gram, self.history, base_rate=self.base_rate, rounds=rounds, tolerance=tolerance)
            self.directives.append(following)
            spread = np.abs(self.x @ self.weights(following.coefficients)).max()
            assert spread < following.lookup_range, "a score left the lookup's range"
            coefficients = following.coefficients
            if following.stop:
                return following

    def pooled(self) -> LogisticRegression:
        model = LogisticRegression(C=1 / (self.l2 * len(self.label)), max_iter=5000, tol=1e-10)
        return model.fit(self.x[:, 1:], self.label)

    def loss(self, w: Array) -> float:
        return float(log_loss(self.label, 1 / (1 + np.exp(-self.x @ w))))

    def auc(self, w: Array) -> float:
        return float(roc_auc_score(self.label, self.x @ w))

    def compare(self) -> list[tuple[float, float]]:
        """By round: log-loss and AUC over scikit-learn's, at the weights that would be final if the job ended there."""
        model = self.pooled()
        best = np.concatenate([model.intercept_, model.coef_[0]])
        loss, auc = self.loss(best), self.auc(best)
        points = [self.weights(d.coefficients) for d in self.directives]
        return [(self.loss(w) - loss, self.auc(w) - auc) for w in points]


def show(name: str, simulation: Simulation) -> list[tuple[float, float]]:
    rows = simulation.compare()
    for number, ((loss, auc), directive) in enumerate(zip(rows, simulation.directives, strict=True), 1):
        figures = f"log-loss {loss:+.1e} AUC {auc:+.1e} decrement {directive.decrement:.1e} range {directive.lookup_range:g}"
        print(f"{name} round {number}: {figures}")
    return rows


def synthetic(
    base_rate: float, *, rows: int = 8000, columns: int = 24, strength: float = 1.0, seed: int = 1
) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    x = standardised(
        0.5 * rng.standard_normal((rows, 4)) @ rng.standard_normal((4, columns)) + rng.standard_normal((rows, columns))
    )
    z = x @ rng.standard_normal(columns) * 1.2 * strength / math.sqrt(columns)
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if (1 / (1 + np.exp(-z - middle))).mean() > base_rate else (middle, high)
    label = (rng.random(rows) < 1 / (1 + np.exp(-z - low))).astype(float)
    return x[:, : columns // 2], x[:, columns // 2 :], label


def cancer() -> tuple[Array, Array, Array]:
    x, y = load_breast_cancer(return_X_y=True)
    x = standardised(x)
    return x[:, :15], x[:, 15:], y.astype(float)


def test_synthetic_cards_converge() -> None:
    """Four factors shared by both blocks, of which P knows nothing: the hardest of the ordinary cases."""
    simulation = Simulation(*synthetic(0.2), l2=1e-4)
    assert simulation.run(12).converged
    rows = show("synthetic 20%", simulation)
    assert abs(rows[7][0]) < 3e-5
    assert abs(rows[7][1]) < 2e-4
    assert abs(rows[-1][0]) < 1e-6


@pytest.mark.parametrize("strength", [1.0, 2.0])
def test_five_percent_positives(strength: float) -> None:
    simulation = Simulation(*synthetic(0.05, rows=20000, strength=strength), l2=1e-4)
    simulation.run(8)
    rows = show(f"5% positives, strength {strength}", simulation)
    assert abs(rows[min(5, len(rows) - 1)][0]) < 1e-4
    assert abs(rows[min(5, len(rows) - 1)][1]) < 2e-4
    assert abs(rows[-1][0]) < 1e-5


def test_breast_cancer_nearly_separable() -> None:
    left, right, label = cancer()
    simulation = Simulation(left, right, label, l2=1 / len(label))
    simulation.run(8)
    rows = show("breast cancer", simulation)
    assert all(abs(auc) < 1e-3 for _, auc in rows[5:])
    losses = [loss for loss, _ in rows]
    assert losses == sorted(losses, reverse=True), "a round made the model worse"


@pytest.mark.parametrize("l2", [1e-4, 1 / 18000])
def test_card_defaults(l2: float) -> None:
    folder = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
    if not (folder / "uci_default_bank.csv").exists():
        pytest.skip(f"the card-default files are not at {folder}")
    with (folder / "uci_default_bank.csv").open() as bank_file, (folder / "uci_default_platform.csv").open() as platform_file:
        bank = {row.pop("customer_id").lower(): row for row in csv.DictReader(bank_file)}
        platform = {row.pop("user_id").lower(): row for row in csv.DictReader(platform_file)}
    shared = sorted(bank.keys() & platform.keys())
    assert len(shared) == 18_000
    label = np.array([float(bank[key].pop("default")) for key in shared])
    left = standardised(np.array([[float(value) for value in bank[key].values()] for key in shared]))
    right = standardised(np.array([[float(value) for value in platform[key].values()] for key in shared]))
    simulation = Simulation(left, right, label, l2=l2)
    simulation.run(8)
    rows = show(f"card defaults, l2 {l2:.1e}", simulation)
    assert len(rows) <= 8
    assert abs(rows[-1][0]) < 2e-5
    assert abs(rows[-1][1]) < 3e-4
    assert all(abs(loss) < 1e-4 and abs(auc) < 1e-3 for loss, auc in rows[3:])


def test_one_step_is_newtons_where_the_hessian_is_known() -> None:
    """One block, base rate one half, scores hardly spread: P is the Hessian's inverse and the first step lands at the minimum."""
    rng = np.random.default_rng(3)
    x = standardised(rng.standard_normal((20000, 6)))
    label = (rng.random(20000) < 1 / (1 + np.exp(-0.05 * x.sum(axis=1)))).astype(float)
    simulation = Simulation(x, np.zeros((20000, 0)), label, l2=1e-4)
    following = simulation.run(3)
    assert following.converged
    assert abs(simulation.compare()[0][0]) < 1e-6


def test_exact_on_a_quadratic() -> None:
    """Without the sigmoid the minimum of a quadratic is found in about as many rounds as its Hessian has distinct eigenvalues."""
    eigenvalues = np.array([0.4, 0.4, 1.0, 1.0, 1.6])
    minimum = np.array([0.1, -0.2, 0.1, 0.15, -0.1])
    gradients: list[Array] = []
    gram: list[list[float]] = []
    history: list[tuple[float, ...]] = []
    coefficients: tuple[float, ...] = ()
    for _ in range(6):
        w = -sum((c * g for c, g in zip(coefficients, gradients, strict=True)), np.zeros(5))
        gradients.append(eigenvalues * (w - minimum))
        history.append(coefficients)
        gram.append([float(gradients[-1] @ g) for g in gradients])
        coefficients = plan_next(gram, history, base_rate=0.5, rounds=9, tolerance=1e-30).coefficients
    assert gram[5][5] < 1e-5 * gram[0][0]


def test_overshoot_is_sent_back_and_still_converges() -> None:
    """A first step three times too long: the point is rejected, the next is better than the start, and nothing is lost."""
    simulation = Simulation(*synthetic(0.2), l2=1e-4)
    simulation.history.append(())
    simulation.gram.append(simulation.evaluate(()))
    tripled = (3.5,)
    simulation.history.append(tripled)
    simulation.gram.append(simulation.evaluate(tripled))
    second = plan_next(simulation.gram, simulation.history, base_rate=simulation.base_rate, rounds=20, tolerance=2e-6)
    assert not second.accepted
    assert not second.converged
    losses = [simulation.loss(simulation.weights(c)) for c in ((), tripled, second.coefficients)]
    assert losses[2] < losses[0] < losses[1]
    coefficients = second.coefficients
    for _ in range(12):
        simulation.history.append(coefficients)
        simulation.gram.append(simulation.evaluate(coefficients))
        following = plan_next(simulation.gram, simulation.history, base_rate=simulation.base_rate, rounds=20, tolerance=2e-6)
        coefficients = following.coefficients
        if following.stop:
            break
    assert following.converged


@pytest.mark.parametrize("problem", [lambda: synthetic(0.05, rows=6000), cancer, lambda: synthetic(0.5, rows=4000, strength=3.0)])
def test_the_last_step_without_evaluation_is_safe(problem: Callable[[], tuple[Array, Array, Array]]) -> None:
    """The final weights take one step that no round has evaluated: it must not be worse than the last point that was."""
    left, right, label = problem()
    for rounds in range(1, 10):
        simulation = Simulation(left, right, label, l2=1e-3, noise=1e-3)
        simulation.run(rounds, tolerance=1e-9)
        last, final = simulation.weights(simulation.history[-1]), simulation.weights(simulation.directives[-1].coefficients)

        def objective(w: Array, of: Simulation = simulation) -> float:
            return of.loss(w) + 0.5 * float(of.penalty @ w**2)

        assert objective(final) <= objective(last) + 1e-7


def test_no_step_spreads_the_scores_beyond_the_bound() -> None:
    """Hardly any curvature along the last step: the secant alone would go a thousand times as far."""
    first, kappa = 0.16, 0.2 * 0.8
    gram = [[first], [first * 0.999, first * 0.998002]]
    following = plan_next(gram, [(), (1.0,)], base_rate=0.2, rounds=9, tolerance=1e-9)
    step = np.array(following.coefficients) - np.array([1.0, 0.0])
    matrix = np.array([[gram[0][0], gram[1][0]], gram[1]])
    assert math.sqrt(step @ matrix @ step / kappa) == pytest.approx(3.0)


def test_first_step_follows_the_base_rate() -> None:
    assert first_step(0.5, 0.5) == 1.0
    assert first_step(0.0, 0.05) == pytest.approx(1.0, abs=1e-9)
    lengths = [first_step(k, 0.05) for k in (0.01, 0.05, 0.15, 0.5)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] < 0.8
    assert all(0.25 <= length <= 1.0 for length in lengths)


def test_ranges() -> None:
    assert first_range(0.5) == 1.0
    assert first_range(0.22) == 2.0
    assert first_range(0.01) == 8.0
    following = plan_next([[0.16]], [()], base_rate=0.2, rounds=8, tolerance=1e-6)
    a = following.coefficients[0]
    bound = abs(math.log(0.25)) + 8 * math.sqrt(2 * a * a * 0.16 / 0.16)
    assert following.lookup_range / 2 <= bound < following.lookup_range


def test_stop_by_tolerance_and_by_rounds() -> None:
    ended = plan_next([[1e-6]], [()], base_rate=0.2, rounds=8, tolerance=2e-6)
    assert (ended.stop, ended.converged, len(ended.coefficients)) == (True, True, 1)
    ended = plan_next([[0.1]], [()], base_rate=0.2, rounds=1, tolerance=2e-6)
    assert (ended.stop, ended.converged) == (True, False)
    going = plan_next([[0.1]], [()], base_rate=0.2, rounds=2, tolerance=2e-6)
    assert (going.stop, going.decrement) == (False, pytest.approx(0.05))
    # No gradient at all, and one that noise carries just below zero.
    for value in (0.0, -1e-12):
        assert plan_next([[0.1], [0.0, value]], [(), (1.0,)], base_rate=0.2, rounds=8, tolerance=2e-6).converged


@pytest.mark.parametrize(
    "gram",
    [
        [[math.nan]],
        [[math.inf]],
        [[1e7]],
        [[-0.1]],
        [[]],
        [[0.1, 0.1]],
        [[0.1], [0.1]],
        [[0.1], [0.01, -0.01]],
        [[0.1], [0.5, 0.1]],
        [[0.1], [math.nan, 0.1]],
    ],
)
def test_nonsense_is_refused(gram: list[list[float]]) -> None:
    with pytest.raises(PeerError) as caught:
        plan_next(gram, [(0.1,) * i for i in range(len(gram))], base_rate=0.2, rounds=8, tolerance=1e-6)
    assert caught.value.code == "optimizer.bad_inner_products"


@pytest.mark.parametrize("base_rate", [0.0, 1.0, -0.1, 1.5, math.nan, math.inf])
def test_bad_base_rates_are_refused(base_rate: float) -> None:
    with pytest.raises(PeerError) as caught:
        plan_next([[0.1]], [()], base_rate=base_rate, rounds=8, tolerance=1e-6)
    assert caught.value.code == "optimizer.bad_base_rate"
    with pytest.raises(PeerError):
        first_range(base_rate)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(0, 2**32 - 1), st.floats(0.001, 0.999), st.floats(1e-6, 1e2))
def test_any_gram_matrix_gives_a_finite_bounded_directive(count: int, seed: int, base_rate: float, scale: float) -> None:
    """Whatever vectors two nodes may hold, related to a model or not: numbers that can be published, twice the same."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, 3)) * scale
    gram = [[float(vectors[i] @ vectors[j]) for j in range(i + 1)] for i in range(count)]
    history = [tuple(float(c) for c in rng.standard_normal(i)) for i in range(count)]
    first, again = (plan_next(gram, history, base_rate=base_rate, rounds=9, tolerance=1e-6) for _ in range(2))
    assert first == again
    assert len(first.coefficients) == count
    assert all(math.isfinite(value) for value in first.coefficients)
    assert math.isfinite(first.decrement)
    assert math.log2(first.lookup_range) == int(math.log2(first.lookup_range))
