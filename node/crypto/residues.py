"""Units modulo m^2 as low * (1 + tau * m): the form in which a table entry costs the least to multiply by.

For m = N this is the group Paillier works in; for the key's owner m is p or q.  Every unit x modulo m^2 is low * (1 + tau * m) for
exactly one pair low, tau in [0, m), low being x mod m.  As (1 + s m)(1 + t m) = 1 + (s + t) m modulo m^2, a long product of units
needs one multiplication of a full-length accumulator by a *half*-length low for each factor; the taus are merely added, and
multiplied in once at the end.  Against plain multiplication modulo m^2 this saves about two fifths of the time (bench/crypto.py
measures both).
"""

from __future__ import annotations

from collections.abc import Sequence

import gmpy2
from gmpy2 import f_divmod, mpz

from node.errors import PeerError

Unit = tuple[mpz, mpz, mpz]
"""(low, tau, inverse of low modulo m)."""

ONE: Unit = (mpz(1), mpz(0), mpz(1))


def units(values: Sequence[mpz], root: mpz) -> list[Unit]:
    """The (low, tau, inverse) of units modulo root^2, with one inversion for all (Montgomery 1987, section 10.3.1).

    Raises:
        PeerError: ``paillier.ciphertext_not_unit``.
    """
    parts = [f_divmod(value, root) for value in values]
    running, product = [], mpz(1)
    for _, low in parts:
        running.append(product)
        product = product * low % root
    if gmpy2.gcd(product, root) != 1:
        raise PeerError("paillier.ciphertext_not_unit", "A ciphertext shares a factor with the modulus.")
    inverse, result = gmpy2.invert(product, root), []
    for (high, low), before in zip(reversed(parts), reversed(running), strict=True):
        own = inverse * before % root
        inverse = inverse * low % root
        result.append((low, high * own % root, own))
    return result[::-1]


def times(a: Unit, b: Unit, root: mpz) -> Unit:
    """The product of two units: low * low' = low'' + carry * m, and carry / low'' joins the taus."""
    carry, low = f_divmod(a[0] * b[0], root)
    inverse = a[2] * b[2] % root
    return low, (a[1] + b[1] + carry * inverse) % root, inverse


def power_table(unit: Unit, root: mpz, size: int, start: Unit = ONE) -> tuple[list[mpz], list[mpz]]:
    """The lows and the taus of start * unit^v for v in range(size)."""
    lows, taus, entry = [start[0]], [start[1]], start
    for _ in range(size - 1):
        entry = times(entry, unit, root)
        lows.append(entry[0])
        taus.append(entry[1])
    return lows, taus


def power_of_two(unit: Unit, root: mpz, squarings: int) -> Unit:
    """unit^(2^squarings)."""
    for _ in range(squarings):
        unit = times(unit, unit, root)
    return unit


def finish(product: mpz, taus: mpz, root: mpz, square: mpz) -> mpz:
    """product * (1 + taus * m) modulo m^2."""
    return (product + root * (product % root * (taus % root) % root)) % square
