"""How good a model is, from score bands and labels: what the label holder computes on held-out rows.

All of it works on bands (higher is riskier), because bands are all that the label holder learns of the joint score.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import sqrt

import gmpy2
import numpy as np
from numpy.typing import NDArray

from node.errors import DataError

DECILES = 10


@dataclass(frozen=True)
class Errors:
    """Standard errors of an evaluation's figures over other rows like these; None where a class has one row only.

    They never leave the party that holds bands and labels, so that plain floating point will do.
    """

    auc: float | None
    log_loss: float | None


@dataclass(frozen=True)
class Metrics:
    """Aggregates of an evaluation.

    Attributes:
        auc: area under the ROC curve, rows of one band counting as ties (Mann-Whitney).
        ks: Kolmogorov-Smirnov distance between the bands of positives and negatives, in [0, 1].
        log_loss: mean negative log-likelihood (nats) of the bands' probabilities.
        base_rate: share of positives.
        rows: held-out rows.
        gains: (decile from 1 = highest scores, rows, positives); empty where only the figures above were told.
        errors: at the label holder alone.
    """

    auc: float
    ks: float
    log_loss: float
    base_rate: float
    rows: int
    gains: list[tuple[int, int, int]]
    errors: Errors | None = field(default=None, compare=False)


def check_two_classes(label: NDArray[np.integer]) -> None:
    """Held-out labels must take both values, else no curve exists.

    Raises:
        DataError: ``scoring.one_class``.
    """
    if int(label.sum()) in (0, len(label)):
        raise DataError(
            "scoring.one_class",
            f"All {len(label)} held-out rows have the same label, so the model can't be evaluated on them.",
            remedy="Hold out a larger fraction, or use more shared customers.",
        )


def metrics(bands: NDArray[np.integer], label: NDArray[np.integer], probabilities: NDArray[np.float64]) -> Metrics:
    """Metrics of bands against labels.

    Args:
        bands: band of each row, shape (rows,), 0 <= band < len(probabilities), higher means a higher score.
        label: 0 or 1, shape (rows,).
        probabilities: predicted probability in each band, inside (0, 1).

    Raises:
        DataError: ``scoring.one_class``.
    """
    check_two_classes(label)
    rows, positives = len(label), int(label.sum())
    total = np.bincount(bands, minlength=len(probabilities)).astype(np.int64)
    ones = np.bincount(bands[label == 1], minlength=len(probabilities)).astype(np.int64)
    zeros = total - ones
    below = np.cumsum(zeros) - zeros
    pairs = int((2 * ones * below + ones * zeros).sum())
    curves = np.cumsum(ones) / positives - np.cumsum(zeros) / (rows - positives)
    return Metrics(
        auc=pairs / (2 * positives * (rows - positives)),
        ks=float(np.abs(curves).max()),
        log_loss=_losses(ones, zeros, probabilities) / rows,
        base_rate=positives / rows,
        rows=rows,
        gains=_gains(bands, label),
        errors=Errors(auc=auc_error(ones, zeros), log_loss=log_loss_error(ones, zeros, probabilities)),
    )


def auc_error(ones: NDArray[np.int64], zeros: NDArray[np.int64]) -> float | None:
    """Standard error of the AUC, by DeLong, DeLong and Clarke-Pearson (Biometrics 44, 1988), from the counts of each band.

    A positive's placement is the share of negatives below it, a negative's the share of positives above it, ties counting half; the
    variance is the sum of both placements' variances over their numbers.

    Args:
        ones, zeros: positives and negatives of each band from the lowest scores up, shape (bands,).
    """
    positives, negatives = int(ones.sum()), int(zeros.sum())
    if min(positives, negatives) < 2:
        return None
    of_ones = (np.cumsum(zeros) - zeros / 2) / negatives
    of_zeros = (positives - np.cumsum(ones) + ones / 2) / positives
    variance = _variance(of_ones, ones) / positives + _variance(of_zeros, zeros) / negatives
    return sqrt(variance)


def log_loss_error(ones: NDArray[np.int64], zeros: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float | None:
    """Standard error of the mean log-loss: the rows' standard deviation over the square root of their number."""
    with gmpy2.context(precision=96):  # the same on every machine
        chances = [gmpy2.mpfr(p) for p in probabilities.tolist()]
        losses = np.array([float(-gmpy2.log(p)) for p in chances] + [float(-gmpy2.log1p(-p)) for p in chances])
    counts = np.concatenate([ones, zeros])
    rows = int(counts.sum())
    return sqrt(_variance(losses, counts) / rows) if rows > 1 else None


def _variance(values: NDArray[np.float64], counts: NDArray[np.int64]) -> float:
    """Sample variance (divisor one less) of values that stand ``counts`` times."""
    rows = int(counts.sum())
    mean = float(values @ counts) / rows
    return float(((values - mean) ** 2) @ counts) / (rows - 1)


def _losses(ones: NDArray[np.int64], zeros: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Sum of all rows' log-losses: in MPFR, the same on every machine, because it may be sent."""
    total = gmpy2.mpfr(0)
    with gmpy2.context(precision=96):
        for p, one, zero in zip(probabilities.tolist(), ones.tolist(), zeros.tolist(), strict=True):
            total -= one * gmpy2.log(gmpy2.mpfr(p)) + zero * gmpy2.log1p(-gmpy2.mpfr(p))
        return float(total)


def _gains(bands: NDArray[np.integer], label: NDArray[np.integer]) -> list[tuple[int, int, int]]:
    """Rows and positives by decile of the score, highest first; ties stay in row order, which is random."""
    order = np.argsort(-bands.astype(np.int64), kind="stable")
    parts = np.array_split(label[order], DECILES)
    return [(decile, len(part), int(part.sum())) for decile, part in enumerate(parts, start=1)]
