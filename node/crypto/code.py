"""A linear code over GF(16) and a map that make one bilinear product of 60 small ones, on planes of bits in bulk.

The Hermitian curve y^4 + y = x^5 over GF(16) has genus 6 and 64 affine points; the functions x^i y^j (j < 4) with
4 i + 5 j <= m are a basis of L(m P), the functions with no pole but one of order m or less at infinity (Stichtenoth, "Algebraic
function fields and codes", 2nd edition, sections 6.4 and 8.3).  A function of L(m P) other than zero vanishes at no more than m
points.

    C, of dimension 17, are the values of L(22 P) at 60 of the points: the code of what a store holds (68 bits);
    L, from GF(16)^60 to GF(16)^32, has as its rows the values of a basis of L(37 P) at the same points.

**What holds.**  For every h other than zero, the map s -> L(s * C(h)), with * the product coordinate by coordinate, is onto
GF(16)^32: otherwise some function t of L(37 P), not zero, had t * C(h) = 0 at all 60 points, yet a product of functions of
L(22 P) and L(37 P) lies in L(59 P) and vanishes at no more than 59.  So with s uniform L(s * C(h)) is uniform on 128 bits: what a
product with a secret of GF(2^128) gives, at 30 bytes an element.  (The idea of multiplying by evaluation is Chudnovsky and
Chudnovsky's, 1988.)

**Planes.**  m elements of GF(16) are four arrays of m bits, for the coefficients of 1, a, a^2, a^3, with a^4 = a + 1: uint8, shape
(4, m / 8).  Everything is linear over GF(2), so that all is done by xor, 8 m bits at a time.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from audit.aligning import COORDINATES, SYMBOL_BITS

Bytes = NDArray[np.uint8]

MESSAGE_SYMBOLS = 17
"""Symbols of a message of the code."""
MESSAGE_BITS = MESSAGE_SYMBOLS * SYMBOL_BITS
PRODUCT_SYMBOLS = 32
"""Symbols of a product: 128 bits."""

_MESSAGE_DEGREE, _PRODUCT_DEGREE = 22, 37


def _tables() -> tuple[list[int], list[int]]:
    powers, value = [], 1
    for _ in range(15):
        powers.append(value)
        value = value << 1 ^ (0b10011 if value & 8 else 0)
    logs = [0] * 16
    for exponent, element in enumerate(powers):
        logs[element] = exponent
    return powers, logs


_POWERS, _LOGS = _tables()


def times(left: int, right: int) -> int:
    """The product of two elements of GF(16) = GF(2)[a] / (a^4 + a + 1); bit i is the coefficient of a^i."""
    return _POWERS[(_LOGS[left] + _LOGS[right]) % 15] if left and right else 0


def power(base: int, exponent: int) -> int:
    """``base`` to a non-negative power, in GF(16)."""
    result = 1
    for _ in range(exponent):
        result = times(result, base)
    return result


def curve_points() -> list[tuple[int, int]]:
    """The 64 affine points of y^4 + y = x^5 over GF(16), in ascending order."""
    return [(x, y) for x in range(16) for y in range(16) if power(y, 4) ^ y == power(x, 5)]


def _evaluations(degree: int) -> list[list[int]]:
    """A basis of L(degree P), each function's values at the first 60 points."""
    points = curve_points()[:COORDINATES]
    exponents = [(i, j) for j in range(4) for i in range(degree // 4 + 1) if 4 * i + 5 * j <= degree]
    return [[times(power(x, i), power(y, j)) for x, y in points] for i, j in exponents]


def _echelon(rows: list[list[int]]) -> Bytes:
    """The same space's basis in reduced echelon form: the columns of the pivots have but one entry, so that less is to be added."""
    rows = [list(row) for row in rows]
    rank = 0
    for column in range(len(rows[0])):
        pivot = next((i for i in range(rank, len(rows)) if rows[i][column]), None)
        if pivot is None:
            continue
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        inverse = power(rows[rank][column], 14)
        rows[rank] = [times(inverse, value) for value in rows[rank]]
        for i, row in enumerate(rows):
            factor = row[column]
            if i != rank and factor:
                rows[i] = [value ^ times(factor, other) for value, other in zip(row, rows[rank], strict=True)]
        rank += 1
    return np.array(rows, dtype=np.uint8)


@lru_cache(maxsize=1)
def generator() -> Bytes:
    """C: uint8 elements of GF(16), shape (17, 60); a codeword is the message times this."""
    return _echelon(_evaluations(_MESSAGE_DEGREE))


@lru_cache(maxsize=1)
def compression() -> Bytes:
    """L: uint8 elements of GF(16), shape (32, 60); it takes a column of 60 elements to one of 32."""
    return _echelon(_evaluations(_PRODUCT_DEGREE))


# ---- planes -----------------------------------------------------------------------------------------------------------------


def double(planes: Bytes) -> Bytes:
    """The product with a; planes on the last axis but one."""
    out = np.empty_like(planes)
    out[..., 1:, :] = planes[..., :3, :]
    out[..., 0, :] = planes[..., 3, :]
    out[..., 1, :] ^= planes[..., 3, :]
    return out


def _multiples(planes: Bytes) -> Bytes:
    """The products with all 16 elements; shape (16, 4, m)."""
    out = np.empty((16, *planes.shape), dtype=np.uint8)
    out[0] = 0
    out[1] = planes
    for bit in (1, 2, 3):
        first = 1 << bit
        out[first] = double(out[first >> 1])
        np.bitwise_xor(out[1:first], out[first], out=out[first + 1 : 2 * first])
    return out


def multiply(matrix: Bytes, planes: Bytes) -> Bytes:
    """A public matrix times a column of elements, for many columns at once.

    Args:
        matrix: uint8 elements of GF(16), shape (out, in).
        planes: uint8, shape (in, 4, m).

    Returns:
        uint8, shape (out, 4, m).
    """
    out = np.zeros((matrix.shape[0], *planes.shape[1:]), dtype=np.uint8)
    for column, entries in zip(planes, matrix.T, strict=True):
        places = np.flatnonzero(entries).tolist()
        if len(places) == 1 and entries[places[0]] == 1:
            out[places[0]] ^= column
            continue
        products = _multiples(column)
        for place in places:
            target = out[place]
            np.bitwise_xor(target, products[entries[place]], out=target)
    return out
