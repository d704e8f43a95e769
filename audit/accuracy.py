"""How sure a model's figures are: what a sample gave up against all rows, and the standard error of an AUC.

All of it follows from sizes and aggregates that whoever calls this knows already; nothing here needs a row of anyone.

*The excess of the log-loss.*  Weights fitted to n rows cost, on rows not seen, d / (2n) more of mean log-loss (nats) than the best
weights of all: n times twice that excess tends to a chi-squared variable of d degrees of freedom (van der Vaart, Asymptotic
Statistics, 1998, theorems 5.23 and 5.39, and a second-order expansion of the loss).  d counts the columns of both parties and the
intercept.  The expectation is exact for a model that is true and without penalty; a penalty makes it less, and a model that is not
quite true puts the trace of J^-1 V in the place of d (ibid., theorem 5.23), which is mostly near it.

*Standard errors of weights* go with one over the square root of the rows.  A sample drawn without replacement from n rows
differs from what all n would have given by the share sqrt(1 - K/n) of its own standard error (the finite population correction:
Cochran, Sampling Techniques, 3rd ed., 1977, section 2.6).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt


@dataclass(frozen=True)
class Accuracy:
    """What a training on ``rows`` of ``available`` rows can be expected to give up.

    Attributes:
        rows: rows trained on, K.
        available: rows that were there to train on, n >= K.
        columns: encoded columns of both parties, the intercept counted, d.
    """

    rows: int
    available: int
    columns: int

    @property
    def excess(self) -> float:
        """Expected excess of the mean log-loss over the best weights' (nats): d / (2K)."""
        return self.columns / (2 * self.rows)

    @property
    def excess_of_all(self) -> float:
        """The same, had all rows been trained on: d / (2n)."""
        return self.columns / (2 * self.available)

    @property
    def given_up(self) -> float:
        """What the sample costs in mean log-loss (nats): d/2 (1/K - 1/n)."""
        return self.excess - self.excess_of_all

    @property
    def error_ratio(self) -> float:
        """Standard errors of the weights against those that all rows would have given: sqrt(n/K)."""
        return sqrt(self.available / self.rows)

    @property
    def shift(self) -> float:
        """Typical distance of a weight from the one that all rows would have given, in its own standard errors: sqrt(1 - K/n)."""
        return sqrt(1 - self.rows / self.available)

    @classmethod
    def of(cls, document: Mapping[str, float]) -> Accuracy:
        """From :meth:`document`."""
        return cls(*(int(document[name]) for name in ("rows", "rows_available", "columns")))

    def document(self) -> dict[str, float]:
        """As JSON."""
        return {
            "rows": self.rows,
            "rows_available": self.available,
            "columns": self.columns,
            "excess_log_loss": self.excess,
            "excess_log_loss_of_all_rows": self.excess_of_all,
            "log_loss_given_up": self.given_up,
            "standard_error_ratio": self.error_ratio,
            "shift_in_standard_errors": self.shift,
        }


def accuracy_of(*, rows: int, available: int, columns: int) -> Accuracy | None:
    """None where a figure is not known yet (0) or the figures are none of one training."""
    return Accuracy(rows, available, columns) if 0 < rows <= available and columns > 0 else None


def auc_standard_error(auc: float, *, rows: int, base_rate: float) -> float | None:
    """Standard error of an AUC from the AUC, the rows and their share of positives.

    Hanley and McNeil, The meaning and use of the area under a receiver operating characteristic (ROC) curve, Radiology 143, 1982,
    with their Q1 and Q2 for exponentially distributed scores, which they found to err slightly on the careful side.

    Returns:
        The standard error, or None where a class is missing or the figures are no shares.
    """
    positives = round(base_rate * rows)
    negatives = rows - positives
    if positives < 1 or negatives < 1 or not 0 <= auc <= 1:
        return None
    square = auc * auc
    q1, q2 = auc / (2 - auc), 2 * square / (1 + auc)
    variance = auc * (1 - auc) + (positives - 1) * (q1 - square) + (negatives - 1) * (q2 - square)
    return sqrt(max(variance, 0.0) / (positives * negatives))
