"""What one pass over the data costs with Paillier as one would write it first, through phe's own objects.

One iteration of logistic regression on vertically split data encrypts a residual for each row, takes the gradient X'[[e]] and the
scores X [[w]] under encryption: for n rows and d columns, n + d encryptions and 2 n d products of a ciphertext and a number with
their sums.  Here these are ``PaillierPublicKey.encrypt``, ``EncryptedNumber * float`` and ``EncryptedNumber + EncryptedNumber``, on
floats as they come; no packing, no fixed point, no tables.  Decryption is left out, so the figure errs in phe's favour.

Rows are taken in blocks until ``seconds`` are used up or all are done.  Every row costs the same, so where rows are left the
measured time is multiplied by what share of the rows was done, and the figures say so.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from phe.paillier import EncryptedNumber, PaillierPublicKey, generate_paillier_keypair

BLOCK_PRODUCTS = 240
"""Products of a block, about: a block takes a fraction of a second."""


@dataclass
class NaivePass:
    """One pass, measured piece by piece; the pieces may lie apart in time.

    Args:
        bits: of the modulus.
        rows, columns: of the whole pass.
    """

    bits: int
    rows: int
    columns: int
    done: int = 0
    encrypting: float = 0.0
    column_products: float = 0.0
    row_products: float = 0.0

    def __post_init__(self) -> None:
        self._public: PaillierPublicKey
        self._public, self.private = generate_paillier_keypair(n_length=self.bits)
        self._rng = np.random.default_rng(3)
        start = time.process_time()
        self.weights: list[float] = self._rng.normal(scale=0.1, size=self.columns).tolist()
        self._weights = [self._public.encrypt(weight) for weight in self.weights]
        self._once = time.process_time() - start
        self._gradient: list[EncryptedNumber | int] = [0] * self.columns

    def measure(self, seconds: float) -> None:
        """Go on for so many processor seconds, at least one block, at most to the end of the rows."""
        ends = time.process_time() + seconds
        while self.done < self.rows:
            self.block(min(max(1, BLOCK_PRODUCTS // self.columns), self.rows - self.done))
            if time.process_time() > ends:
                return

    def block(self, rows: int) -> tuple[list[list[float]], list[float], list[EncryptedNumber], list[EncryptedNumber]]:
        """So many rows; their features, residuals, and what came out: their part of the gradient so far, their scores."""
        matrix = self._rng.normal(size=(rows, self.columns)).tolist()
        errors = self._rng.uniform(-1.0, 1.0, rows).tolist()
        start = time.process_time()
        residuals = [self._public.encrypt(e) for e in errors]
        encrypted = time.process_time()
        for j in range(self.columns):
            for i in range(rows):
                self._gradient[j] += residuals[i] * matrix[i][j]
        summed = time.process_time()
        scores = []
        for row in matrix:
            score: EncryptedNumber | int = 0
            for weight, x in zip(self._weights, row, strict=True):
                score += weight * x
            scores.append(score)
        ended = time.process_time()
        self.encrypting += encrypted - start
        self.column_products += summed - encrypted
        self.row_products += ended - summed
        self.done += rows
        return matrix, errors, self._gradient, scores

    def data(self) -> dict[str, Any]:
        """Processor seconds of the whole pass on one core, and from how many rows they were computed."""
        share = self.rows / self.done
        parts = {
            "encryptions": self.encrypting * share + self._once,
            "column_products": self.column_products * share,
            "row_products": self.row_products * share,
        }
        return {
            "rows": self.rows,
            "columns": self.columns,
            "rows_measured": self.done,
            "extrapolated": self.done < self.rows,
            "cpu_seconds": sum(parts.values()),
            "cpu_seconds_by_part": parts,
        }


def ratios(naive_cpu_seconds: float, prepare_cpu_seconds: float, rounds_cpu_seconds: float, rounds: int) -> dict[str, float]:
    """One naive pass over what a sealed training spends, all in processor seconds of both nodes together.

    The preparation does all Paillier work of all rounds at once, and here it counts whole: reading the data again, the keys,
    encryption, products, decryption, messages, logs.

    Returns:
        ``prepare``: over the whole preparation, although that serves ``rounds`` passes.  ``prepare_per_round``: over its share of
        one round.  ``training_per_round``: over a round with its share of the preparation, the lookups and everything else.
    """
    return {
        "prepare": naive_cpu_seconds / prepare_cpu_seconds,
        "prepare_per_round": naive_cpu_seconds / (prepare_cpu_seconds / rounds),
        "training_per_round": naive_cpu_seconds / ((prepare_cpu_seconds + rounds_cpu_seconds) / rounds),
    }
