"""Ciphertexts as fixed-width bytes, and several small integers in one plaintext."""

from __future__ import annotations

from collections.abc import Sequence

import gmpy2
from gmpy2 import mpz

from node.crypto.paillier_keys import PublicKey
from node.errors import PeerError, UsageError


def ciphertexts_to_bytes(ciphertexts: Sequence[mpz], public_key: PublicKey) -> bytes:
    """Ciphertexts one after the other, big-endian, ``public_key.ciphertext_bytes`` each."""
    width = public_key.ciphertext_bytes
    return b"".join([c.to_bytes(width, "big") for c in ciphertexts])


def ciphertexts_from_bytes(data: bytes, count: int, public_key: PublicKey) -> list[mpz]:
    """Read and check ``count`` ciphertexts the peer sent: exact length, each in (0, N^2) and a unit.

    The unit test is one greatest common divisor for the whole batch: of N and the product of all, modulo N.

    Raises:
        PeerError: ``paillier.ciphertext_length``, ``paillier.ciphertext_range``, ``paillier.ciphertext_not_unit``.
    """
    width, n, n_squared = public_key.ciphertext_bytes, public_key.n, public_key.n_squared
    if count < 0 or len(data) != count * width:
        raise PeerError(
            "paillier.ciphertext_length", f"{count} ciphertexts of {width} bytes each cannot be read from {len(data)} bytes."
        )
    ciphertexts = [mpz.from_bytes(data[first : first + width], "big") for first in range(0, len(data), width)]
    if any(not 0 < c < n_squared for c in ciphertexts):
        raise PeerError("paillier.ciphertext_range", "A ciphertext from the peer is not between 0 and the square of the modulus.")
    product = mpz(1)
    for c in ciphertexts:
        product = product * (c % n) % n
    if gmpy2.gcd(product, n) != 1:
        raise PeerError("paillier.ciphertext_not_unit", "A ciphertext from the peer shares a factor with the modulus.")
    return ciphertexts


def pack_slots(values: Sequence[int], slot_bits: int) -> int:
    """sum_k values[k] * 2**(slot_bits * k), for values in [0, 2**slot_bits).

    Raises:
        UsageError: ``packing.slot_range`` when a value does not fit its slot.
    """
    packed = 0
    for value in reversed(values):
        if not 0 <= value < 1 << slot_bits:
            raise UsageError("packing.slot_range", f"A value does not fit a slot of {slot_bits} bits.", remedy="Widen the slots.")
        packed = packed << slot_bits | value
    return packed


def unpack_slots(value: int, slot_bits: int, count: int, *, above: int = 0) -> list[int]:
    """The ``count`` slots of a packed plaintext, lowest first.

    Args:
        above: bits that may stand above the slots, and are dropped.

    Raises:
        PeerError: ``packing.plaintext_range`` when the plaintext has further bits: the peer did not compute what it should.
    """
    if not 0 <= value < 1 << slot_bits * count + above:
        raise PeerError("packing.plaintext_range", f"A decrypted plaintext does not fit {count} slots of {slot_bits} bits.")
    mask = (1 << slot_bits) - 1
    return [value >> slot_bits * k & mask for k in range(count)]
