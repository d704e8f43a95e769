"""Each party's own preconditioner P = (kappa X'X / n + l2 I + ridge I)^-1, as integers that are the same on every machine.

P enters ciphertext products, so its bytes must not depend on a processor's floating point.  X'X is exact (integers), and
the inverse is taken by Gauss-Jordan elimination in MPFR arithmetic of fixed precision, whose every operation is correctly
rounded (Fousse et al., "MPFR", ACM TOMS 33(2), 2007).
"""

from __future__ import annotations

from fractions import Fraction

import gmpy2
import numpy as np
from numpy.typing import NDArray

from node.errors import DataError
from node.protocols.scales import FEATURE_SCALE, PRECONDITIONER_BITS, PRECONDITIONER_RIDGE_BITS, PRECONDITIONER_SCALE

_PRECISION = 192


def gram(matrix: NDArray[np.int32]) -> NDArray[np.int64]:
    """X'X exactly, shape (columns, columns).

    Entries are below 2**13 in size, so partial sums over up to 2**26 rows stay below 2**53 and double-precision BLAS is
    exact in any order.
    """
    total = np.zeros((matrix.shape[1], matrix.shape[1]), dtype=np.int64)
    for start in range(0, len(matrix), 1 << 16):
        part = matrix[start : start + (1 << 16)].astype(np.float64)
        total += (part.T @ part).astype(np.int64)
    return total


def preconditioner(matrix: NDArray[np.int32], *, kappa: Fraction, l2: Fraction, unpenalised: int) -> list[list[int]]:
    """P at scale PRECONDITIONER_SCALE.

    Args:
        matrix: own columns at FEATURE_SCALE, shape (rows, columns).
        kappa: base rate * (1 - base rate), the curvature of the log-loss at the start.
        l2: penalty.
        unpenalised: how many leading columns (the intercept) have no penalty.

    Returns:
        A symmetric integer matrix, |entry| < 2**(PRECONDITIONER_BITS - 1).
    """
    rows, size = matrix.shape
    ridge = Fraction(1, 1 << PRECONDITIONER_RIDGE_BITS)
    factor = kappa / (rows << (2 * FEATURE_SCALE))
    products = gram(matrix).tolist()
    with gmpy2.context(precision=_PRECISION):
        work = np.empty((size, size), dtype=object)
        for i in range(size):
            for j in range(i, size):
                diagonal = (ridge + (l2 if i >= unpenalised else 0)) if i == j else Fraction(0)
                entry = factor * products[i][j] + diagonal
                work[i, j] = gmpy2.mpfr(gmpy2.mpq(entry.numerator, entry.denominator))
        _invert(work)
        scale = gmpy2.mpfr(1 << PRECONDITIONER_SCALE)
        upper = [[int(gmpy2.rint(work[i, j] * scale)) for j in range(i, size)] for i in range(size)]
    if any(abs(value) >> (PRECONDITIONER_BITS - 1) for row in upper for value in row):
        raise DataError(
            "training.preconditioner_range",
            "The preconditioner leaves its range: the columns are not standardised.",
            remedy="Encode the columns as declared; this is a programming error otherwise.",
        )
    return [[upper[min(i, j)][abs(i - j)] for j in range(size)] for i in range(size)]


def _invert(work: NDArray[np.object_]) -> None:
    """Replace the upper triangle of a positive definite matrix by that of its inverse, in place.

    The sweep operator (Goodnight, "A tutorial on the SWEEP operator", 1979) over the upper triangle alone: about size**3 /
    2 products.  Pivots are at least the ridge, so no exchange of rows is needed.
    """
    size = len(work)
    for k in range(size):
        pivot = work[k, k]
        column = np.concatenate([work[:k, k], work[k, k:]])
        scaled = column / pivot
        for i in range(size):
            if i != k:
                work[i, i:] -= scaled[i] * column[i:]
        work[:k, k], work[k, k + 1 :] = scaled[:k], scaled[k + 1 :]
        work[k, k] = -1 / pivot
    for i in range(size):
        work[i, i:] = -work[i, i:]
