"""Arithmetic on shares: short vectors as Python integers modulo 2**b, row vectors as machine words.

Conventions: the label holder's share of a ring element is taken as it is, the feature holder's is lowered by the modulus
    when shares are converted to integers; the two then sum to the signed value itself (see :mod:`node.protocols.scales` for
    the chance that they do not).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Role = Literal["label_holder", "feature_holder"]

_EXACT_ROWS = 1 << 17
"""Rows summed at once: 13-bit features times 32-bit limbs over 2**17 rows stay below 2**63."""


def reduce(values: Sequence[int], bits: int) -> list[int]:
    """Each value modulo 2**bits."""
    mask = (1 << bits) - 1
    return [int(v) & mask for v in values]


def signed(value: int, bits: int) -> int:
    """The representative of ``value`` modulo 2**bits in [-2**(bits-1), 2**(bits-1))."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def to_integer(share: int, bits: int, role: Role) -> int:
    """One party's integer share of the signed value (both parties' integers sum to it)."""
    share &= (1 << bits) - 1
    return share if role == "label_holder" else share - (1 << bits)


def lift(shares: Sequence[int], from_bits: int, to_bits: int, role: Role) -> list[int]:
    """Shares modulo 2**from_bits to shares of the same signed values modulo 2**to_bits, locally."""
    return reduce([to_integer(s, from_bits, role) for s in shares], to_bits)


def truncate(shares: Sequence[int], shift: int, bits: int, role: Role) -> list[int]:
    """Shares of ``x`` to shares of ``x / 2**shift``, rounded up or down at random without bias (negative shift: exact
    multiplication).

    Each party floors its own integer share.  The two lost fractions sum to 1 on average, which the label holder gives back.
    """
    if shift <= 0:
        return reduce([s << -shift for s in shares], bits)
    correction = 1 if role == "label_holder" else 0
    return reduce([(to_integer(s, bits, role) >> shift) + correction for s in shares], bits)


def combine(multipliers: Sequence[int], vectors: Sequence[Sequence[int]], length: int, bits: int) -> list[int]:
    """sum_t multipliers[t] * vectors[t], modulo 2**bits."""
    total = [0] * length
    for factor, vector in zip(multipliers, vectors, strict=True):
        for i, value in enumerate(vector):
            total[i] += factor * value
    return reduce(total, bits)


def matrix_times(matrix: Sequence[Sequence[int]], vector: Sequence[int], bits: int) -> list[int]:
    """Small dense matrix times vector, modulo 2**bits."""
    return reduce([sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix], bits)


def scores(matrix: NDArray[np.integer], vector: Sequence[int], bits: int) -> NDArray[np.uint64]:
    """matrix @ vector modulo 2**bits (bits <= 64), shape (rows,): machine words wrap, which is the ring's own rule."""
    words = np.array(reduce(vector, 64), dtype=np.uint64)
    product = matrix.astype(np.int64).view(np.uint64) @ words
    return product & word_mask(bits)


def word_mask(bits: int) -> np.uint64:
    """2**bits - 1 as a machine word."""
    return np.uint64((1 << bits) - 1)


def column_sums(matrix: NDArray[np.integer], limbs: NDArray[np.int64]) -> list[int]:
    """matrix' @ v exactly, for v given as 32-bit limbs.

    Args:
        matrix: shape (rows, columns), |entry| <= 8191.
        limbs: int64, shape (rows, L), value = sum_l limbs[:, l] * 2**(32 l); all limbs in [0, 2**32) but the highest, which
            may be signed.

    Returns:
        One Python integer a column.
    """
    totals = [0] * matrix.shape[1]
    for start in range(0, len(matrix), _EXACT_ROWS):
        part = matrix[start : start + _EXACT_ROWS].astype(np.int64).T @ limbs[start : start + _EXACT_ROWS]
        for j, row in enumerate(part.tolist()):
            totals[j] += sum(value << (32 * place) for place, value in enumerate(row))
    return totals


def limbs_of_int64(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Signed 64-bit integers as two limbs, the higher one signed; shape (rows, 2)."""
    return np.stack([values & np.int64(0xFFFFFFFF), values >> np.int64(32)], axis=1)


def limbs_of_bytes(data: bytes, width: int) -> NDArray[np.int64]:
    """Unsigned little-endian integers of ``width`` bytes (a multiple of 4) as limbs; shape (rows, width / 4)."""
    return np.frombuffer(data, dtype="<u4").reshape(-1, width // 4).astype(np.int64)


def ints_to_array(values: Sequence[int], bits: int) -> NDArray[np.uint8]:
    """Ring elements as bytes, little-endian; shape (len(values), bits / 8)."""
    size = bits // 8
    return np.frombuffer(b"".join(v.to_bytes(size, "little") for v in reduce(values, bits)), dtype=np.uint8).reshape(-1, size)


def array_to_ints(array: NDArray[np.uint8]) -> list[int]:
    """Inverse of :func:`ints_to_array`."""
    return [int.from_bytes(row.tobytes(), "little") for row in array]
