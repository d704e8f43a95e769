"""L-BFGS in the space of coefficients: the coordinator directs a training of which it sees only inner products.

Pure: no clock, no input or output, no randomness; the same numbers give the same directive.

Theory of operation (protocols.md, section 5, items 6 and 7)

    round t is evaluated at     w(t) = w_0 - sum_{j<t} c(t)_j p_j         c(1) = (), w_0: intercept logit(base rate), the rest 0
    the nodes hold shares of    g_t = gradient of the mean objective,  p_t = P g_t
    the nodes report            K_tj = g_t' P g_j  for j <= t             (K is symmetric)

Every vector that L-BFGS needs is a combination of p_1..p_t (iterates, steps s) or of g_1..g_t (gradients, differences y), and P
maps the one basis to the other without touching the coefficients.  With step coefficients sigma and difference coefficients eta,

    s'y = sigma' K eta        y' P y = eta' K eta        s' P^-1 s = sigma' K sigma

so the two-loop recursion (Nocedal and Wright, Numerical Optimization, 2nd ed., algorithm 7.4) runs on short lists of numbers, with
gamma P for its initial inverse Hessian.  Six choices were measured (tests/unit/test_optimizer.py holds the outcome):

* **Three sweeps** over the pairs instead of one.  One BFGS update satisfies only the newest secant equation; going through all
  pairs three times nearly satisfies all of them.  The pairs cost nothing here, a round costs minutes.
* **gamma = s'y / y'Py of the newest pair, kept within [1, 1.5]** (ibid., 7.20).  The curvature p(1 - p) mostly falls as scores
  spread, so P is too short a step rather than too long; below 1 it would undo what P knows.
* **First step.**  P is the inverse Hessian at the start (block by block), so the natural step is 1; for rare positives curvature
  grows along it and 1 overshoots.  If scores were Gaussian, spread v^2 = K_11 / kappa, the slope along the step vanishes (Stein's
  lemma) where tau E[sigmoid'(logit + tau v x)] = kappa; the step is that tau, at most 1.
* **A rejected point.**  Where K_tt more than doubled and the slope along the step turned and grew as well, the search goes back to
  the last accepted point, but keeps the curvature that the rejected one showed: the next step is then cut by measured curvature
  (by half when the slope turned to its mirror image) rather than by a blind half.
* **Noise.**  A lookup rounds, so that each gradient carries noise whose size follows from public figures (:class:`Lookup`).  A pair
  whose s'y is within two and a half standard deviations of that noise says nothing of curvature and is left out (two let one of
  some thousand trainings on few rows end 1e-4 above the optimum; three cost those that need many rounds a tenth); the training
  ends where the decrement has sunk into the noise; and the last step, which no further round will check, is shortened by the
  share of noise in K_tt.
* **A step's bound.**  No step may spread the scores by more than three units (root mean square): whatever the nodes report, the
  next iterate stays where the lookup reaches.  Nor may it be longer than twenty times the preconditioned gradient's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coordinator.errors import PeerError

GROWTH_MAX = 2.0
"""K_tt may grow by this factor before a point is suspected (protocols.md, section 5, item 6)."""
SWEEPS = 3
GAMMA_MAX = 1.5
CURVATURE_MIN = 1e-4
"""A pair with s'y at most this fraction of s'P^-1 s is noise or no curvature at all, and is left out."""
SPREAD_MAX = 3.0
STEP_MAX = 20.0
SIGNIFICANCE = 2.5
"""Standard deviations of noise below which a pair's s'y says nothing."""
FIRST_STEP_MIN = 0.25
K_MAX = 1e6
"""Residuals lie in [-1, 1], so that K_tt is at most about 2 / kappa; a report beyond this is nonsense."""
NOISE = 1e-5
"""How far, against the largest K_tt, fixed-point noise may carry an entry beyond what inner products can be."""

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(41)


@dataclass(frozen=True)
class Next:
    """What the coordinator publishes after a round.

    Attributes:
        coefficients: c(t+1), one per round so far: the next iterate, or the final weights where ``stop``.
        lookup_range: a power of two R; scores of the next iterate lie within [-R, R).
        stop: no further round.
        converged: the decrement fell below the tolerance.
        decrement: estimate of what the mean objective still exceeds its minimum by, at this round's point.
        accepted: this round's point became the point to go on from.
    """

    coefficients: tuple[float, ...]
    lookup_range: float
    stop: bool
    converged: bool
    decrement: float
    accepted: bool


@dataclass(frozen=True)
class Lookup:
    """What is publicly known of the lookups, and with it of the noise in every gradient.

    A lookup over [-R, R) with N entries shifts each score by a uniform error of one window h = 2 R / N, a residual therefore by
    sigmoid'(z) times that: variance E[sigmoid'^2] h^2 / 12.  Summed over n rows and measured by P, each of the d columns adds
    E[sigmoid'^2] h^2 / (12 n kappa) to K_tt.

    Attributes:
        rows: training rows n.
        columns: encoded columns of both parties d, the intercept counted.
        entries: N.
    """

    rows: int
    columns: int
    entries: int

    def noise(self, lookup_range: float, spread: float, base_rate: float) -> float:
        """Noise of one column in K_tt, for scores of the given standard deviation around logit(base rate)."""
        probability = _sigmoid(_logit(base_rate) + spread * _NODES)
        slope = float(_WEIGHTS @ (probability * (1.0 - probability)) ** 2) / float(_WEIGHTS.sum())
        return slope * (2.0 * lookup_range / self.entries) ** 2 / (12.0 * self.rows * _kappa(base_rate))


@dataclass(frozen=True)
class _Pair:
    step: NDArray[np.float64]
    difference: NDArray[np.float64]
    curvature: float


def first_range(base_rate: float) -> float:
    """The lookup range of round 1, where every score is logit(base rate)."""
    return _power_of_two_above(abs(_logit(base_rate)))


def plan_next(
    gram: Sequence[Sequence[float]],
    history: Sequence[Sequence[float]],
    *,
    base_rate: float,
    rounds: int,
    tolerance: float,
    lookup: Lookup | None = None,
) -> Next:
    """The directive that follows the rounds so far.

    Args:
        gram: row t - 1 holds K_t1 .. K_tt as both nodes reported them.
        history: entry t - 1 holds the t - 1 coefficients that round t was evaluated at.
        base_rate: share of positives, in (0, 1).
        rounds: the most rounds the job allows.
        tolerance: stop when the decrement is below it.
        lookup: what noise to expect in the reports; None where gradients are exact.

    Raises:
        PeerError: ``optimizer.bad_inner_products`` (not finite, wrong length, or no inner products of any vectors),
            ``optimizer.bad_base_rate``.
    """
    kappa = _kappa(base_rate)
    matrix = _checked(gram)
    count = len(matrix)
    points = [_padded(coefficients, index, count) for index, coefficients in enumerate(history)]
    if len(points) != count:
        raise ValueError(f"{count} rounds were reported and {len(points)} directed")
    noise = [0.0, *(_noise(matrix, point, base_rate, lookup) for point in points[1:])]
    current, accepted, pairs = _replay(matrix, points, noise)
    direction = _direction(matrix, pairs, current)
    own = max(float(matrix[-1, -1]), 0.0)
    # K_tt / 2 takes P for the inverse Hessian; where scores have spread P is too small, and the secant pairs know better.
    decrement = 0.5 * (max(own, float(direction @ matrix[current])) if accepted else own)
    if count == 1:
        direction = direction * first_step(own, base_rate)
    columns = lookup.columns if lookup is not None else 0
    converged = accepted and decrement < max(tolerance, 0.5 * columns * noise[-1])
    stop = converged or count >= rounds
    length = max(float(matrix[current, current]), 0.0)
    if stop and length > 0.0:
        direction = direction * max(0.0, 1.0 - columns * noise[current] / length)
    coefficients = points[current] + _bounded(matrix, direction, kappa, length)
    return Next(
        coefficients=tuple(float(c) for c in coefficients),
        lookup_range=_range(matrix, coefficients, base_rate),
        stop=stop,
        converged=converged,
        decrement=decrement,
        accepted=accepted,
    )


def first_step(inner_product: float, base_rate: float) -> float:
    """The length of the first step along p_1, in [1/4, 1] (see the head of this module).

    Args:
        inner_product: K_11.
        base_rate: share of positives.
    """
    kappa, centre = _kappa(base_rate), _logit(base_rate)
    spread = math.sqrt(max(inner_product, 0.0) / kappa)

    def excess(tau: float) -> float:
        probability = _sigmoid(centre + tau * spread * _NODES)
        return tau * float(_WEIGHTS @ (probability * (1.0 - probability))) / float(_WEIGHTS.sum()) - kappa

    low, high = FIRST_STEP_MIN, 1.0
    if excess(high) <= 0.0:
        return high
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if excess(middle) > 0.0 else (middle, high)
    return low


def _noise(matrix: NDArray[np.float64], point: NDArray[np.float64], base_rate: float, lookup: Lookup | None) -> float:
    """Noise of one column in K_tt of a round at ``point``."""
    if lookup is None:
        return 0.0
    spread = math.sqrt(max(float(point @ matrix @ point), 0.0) / _kappa(base_rate))
    return lookup.noise(_range(matrix, point, base_rate), spread, base_rate)


def _replay(
    matrix: NDArray[np.float64], points: list[NDArray[np.float64]], noise: Sequence[float]
) -> tuple[int, bool, list[_Pair]]:
    """The point to go on from, whether it is this round's, and the curvature pairs, oldest first.

    Acceptance follows from K and the coefficients alone, so the whole course is decided again each time and nothing is kept
    between rounds.
    """
    base, pairs, good = 0, [], True
    for index in range(1, len(points)):
        step = points[base] - points[index]  # coefficients are subtracted from w_0, hence the sign
        difference = np.zeros(len(matrix))
        difference[index], difference[base] = 1.0, -1.0
        curvature = float(step @ matrix @ difference)
        length = max(float(step @ matrix @ step), 0.0)
        doubt = SIGNIFICANCE * math.sqrt(length * (noise[index] + noise[base]))
        if curvature > max(CURVATURE_MIN * length, doubt):
            pairs.append(_Pair(step, difference, curvature))
        slope_before, slope_after = float(step @ matrix[base]), float(step @ matrix[index])
        grew = matrix[index, index] > GROWTH_MAX * matrix[base, base]
        good = not (grew and slope_after > -slope_before)
        if good:
            base = index
    return base, good, pairs


def _direction(matrix: NDArray[np.float64], pairs: list[_Pair], current: int) -> NDArray[np.float64]:
    """Coefficients of H g_current in the basis p: the two-loop recursion over ``SWEEPS`` repetitions of the pairs."""
    vector = np.zeros(len(matrix))
    vector[current] = 1.0
    chain = pairs * SWEEPS
    weights = []
    for pair in reversed(chain):
        weight = float(pair.step @ matrix @ vector) / pair.curvature
        vector = vector - weight * pair.difference
        weights.append(weight)
    if pairs:
        newest = pairs[-1]
        length = float(newest.difference @ matrix @ newest.difference)
        vector = vector * (min(max(newest.curvature / length, 1.0), GAMMA_MAX) if length > 0.0 else 1.0)
    for pair, weight in zip(chain, reversed(weights), strict=True):
        correction = float(pair.difference @ matrix @ vector) / pair.curvature
        vector = vector + (weight - correction) * pair.step
    return vector


def _bounded(matrix: NDArray[np.float64], direction: NDArray[np.float64], kappa: float, own: float) -> NDArray[np.float64]:
    """The direction, shortened where it would spread the scores by more than ``SPREAD_MAX`` or is ``STEP_MAX`` gradients long."""
    length = math.sqrt(max(float(direction @ matrix @ direction), 0.0))
    most = min(SPREAD_MAX * math.sqrt(kappa), STEP_MAX * math.sqrt(own))
    return direction if length <= most else direction * (most / length)


def _sigmoid(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(z, -500.0, 500.0))))


def _range(matrix: NDArray[np.float64], coefficients: NDArray[np.float64], base_rate: float) -> float:
    """The power of two above |logit| + 8 sqrt(2 a'Ka / kappa): two blocks at most double the spread that P predicts."""
    energy = max(float(coefficients @ matrix @ coefficients), 0.0)
    return _power_of_two_above(abs(_logit(base_rate)) + 8.0 * math.sqrt(2.0 * energy / _kappa(base_rate)))


def _power_of_two_above(value: float) -> float:
    mantissa, exponent = math.frexp(value)
    return 2.0 ** max(exponent, 0) if mantissa else 1.0


def _kappa(base_rate: float) -> float:
    if not (math.isfinite(base_rate) and 0.0 < base_rate < 1.0):
        raise PeerError(
            "optimizer.bad_base_rate", "The reported base rate is not between 0 and 1.", remedy="Check the label column."
        )
    return base_rate * (1.0 - base_rate)


def _logit(base_rate: float) -> float:
    _kappa(base_rate)
    return math.log(base_rate / (1.0 - base_rate))


def _padded(coefficients: Sequence[float], index: int, count: int) -> NDArray[np.float64]:
    if len(coefficients) != index:
        raise ValueError(f"round {index + 1} was directed with {len(coefficients)} coefficients; {index} were due")
    return np.concatenate([np.asarray(coefficients, dtype=np.float64), np.zeros(count - index)])


def _checked(gram: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """The symmetric matrix K, after checking that it can be one of inner products."""
    count = len(gram)
    if count == 0:
        raise ValueError("no round was reported")
    matrix = np.zeros((count, count))
    for index, row in enumerate(gram):
        if len(row) != index + 1:
            raise _bad(index, f"{len(row)} values came instead of {index + 1}")
        if not all(math.isfinite(value) and abs(value) <= K_MAX for value in row):
            raise _bad(index, "a value is not finite or out of range")
        matrix[index, : index + 1] = matrix[: index + 1, index] = row
    own = np.diagonal(matrix)
    slack = NOISE * max(float(own.max()), 0.0)
    for index in range(count):
        if own[index] < -slack:
            raise _bad(index, "a squared length is negative")
        bound = 1.1 * np.sqrt(np.maximum(own[index] * own[: index + 1], 0.0)) + slack
        if np.any(np.abs(matrix[index, : index + 1]) > bound):
            raise _bad(index, "a value breaks the inequality of Cauchy and Schwarz")
    return matrix


def _bad(index: int, reason: str) -> PeerError:
    return PeerError(
        "optimizer.bad_inner_products",
        f"The inner products reported for round {index + 1} cannot be right: {reason}.",
        remedy="Submit the job again; if it recurs, compare the two nodes' versions and logs.",
    )
