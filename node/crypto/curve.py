"""Identifiers as points of curve25519, and their blinding.

Hashing follows RFC 9380, suite ``curve25519_XMD:SHA-512_ELL2_NU_`` (sections 5.2, 5.3.1, 6.7.1, 7; vectors in appendix J.4):
expand_message_xmd, hash_to_field with m = 1 and L = 48, Elligator 2 with Z = 2, multiplication by the cofactor 8.  Blinding is
X25519 (RFC 7748, section 5).

Two forms of the same hash stand here.  :func:`encode_to_curve` is the RFC's text on affine points, with y.  :func:`encode_to_u`
gives the same u-coordinates in bulk and does what X25519 needs alone: no y, hence no square root (a Jacobi symbol decides the
branch), x-only projective doublings for the cofactor, one inversion for a whole batch (Montgomery's trick).
``bench/alignment.py`` times both.

Hashing runs in variable time: it touches the node's own identifiers only, on the node's own machine.  The secret scalar is
handled by ``cryptography``'s X25519 alone, which is constant time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import gmpy2
import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from gmpy2 import mpz

from audit.layout import POINT_BYTES
from node.crypto.drbg import Stream
from node.errors import PeerError, UsageError

SUITE = b"curve25519_XMD:SHA-512_ELL2_NU_"
SCALAR_BYTES = 32

P = mpz(2) ** 255 - 19
"""The field prime."""
ORDER = mpz(2) ** 252 + 27742317777372353535851937790883648493
"""The prime order of the subgroup that every hash lies in (RFC 7748, section 4.1)."""
J = mpz(486662)
"""The curve is y^2 = x^3 + J x^2 + x."""

_FIELD_BYTES = 48  # L = ceil((ceil(log2 p) + k) / 8) with k = 128, RFC 9380 section 5
_HASH_BYTES = 64
_BLOCK_BYTES = 128
_TAG_MAX = 255
_ZERO_BLOCK = hashlib.sha512(bytes(_BLOCK_BYTES))  # Z_pad, absorbed once; copied for each message
_A24 = (J + 2) // 4
_J_SQUARED = J * J
_SQRT_MINUS_ONE = gmpy2.powmod(2, (P - 1) // 4, P)  # 2 is not a square modulo p


class Point(NamedTuple):
    """An affine point of curve25519; coordinates in [0, p).  The identity has no affine form and cannot be held."""

    x: mpz
    y: mpz


def _tag_prime(tag: bytes) -> bytes:
    """DST_prime of RFC 9380, section 5.3.1; a tag over 255 bytes is hashed first (section 5.3.3)."""
    if not tag:
        raise UsageError("curve.empty_tag", "A domain separation tag must not be empty (RFC 9380, section 3.1).")
    if len(tag) > _TAG_MAX:
        tag = hashlib.sha512(b"H2C-OVERSIZE-DST-" + tag).digest()
    return tag + bytes([len(tag)])


def expand_message_xmd(message: bytes, tag: bytes, length: int) -> bytes:
    """``length`` uniform bytes from a message (RFC 9380, section 5.3.1, SHA-512).

    Raises:
        UsageError: ``curve.empty_tag``; ``curve.expand_length`` when more than 255 blocks or 65,535 bytes are asked for, or none.
    """
    blocks = -(-length // _HASH_BYTES)
    if not 1 <= blocks <= 255:
        raise UsageError("curve.expand_length", f"expand_message_xmd gives 1 to {255 * _HASH_BYTES} bytes, not {length}.")
    suffix = _tag_prime(tag)
    state = _ZERO_BLOCK.copy()
    state.update(message + length.to_bytes(2, "big") + b"\x00" + suffix)
    first = state.digest()
    block = hashlib.sha512(first + b"\x01" + suffix).digest()
    out = [block]
    for index in range(2, blocks + 1):
        mixed = bytes(a ^ b for a, b in zip(first, block, strict=True))
        block = hashlib.sha512(mixed + bytes([index]) + suffix).digest()
        out.append(block)
    return b"".join(out)[:length]


def hash_to_field(message: bytes, tag: bytes, count: int = 1) -> list[mpz]:
    """``count`` elements of GF(p) from a message (RFC 9380, section 5.2, m = 1, L = 48)."""
    data = expand_message_xmd(message, tag, count * _FIELD_BYTES)
    return [mpz.from_bytes(data[i : i + _FIELD_BYTES], "big") % P for i in range(0, len(data), _FIELD_BYTES)]


def square_root(value: mpz) -> mpz:
    """A square root modulo p = 5 (mod 8) of a value known to be a square (RFC 9380, appendix I.2)."""
    root = gmpy2.powmod(value, (P + 3) // 8, P)
    return root if root * root % P == value % P else root * _SQRT_MINUS_ONE % P


def map_to_curve(u: mpz) -> Point:
    """Elligator 2 (RFC 9380, section 6.7.1): the point Q of a field element, before the cofactor is cleared.

    The exceptional case 1 + 2 u^2 = 0 cannot occur: -1/2 is not a square modulo p.
    """
    x = -J * gmpy2.invert(1 + 2 * u * u, P) % P
    first_is_square = gmpy2.jacobi(x * (x * (x + J) + 1), P) == 1
    if not first_is_square:
        x = (-x - J) % P
    y = square_root(x * (x * (x + J) + 1) % P)
    # sgn0(y) is 1 on the first branch and 0 on the second
    if (y % 2 == 1) != first_is_square:
        y = P - y
    return Point(x, y)


def clear_cofactor(point: Point) -> Point:
    """8 * point, on affine coordinates (RFC 9380, section 7)."""
    x, y = point
    for _ in range(3):
        slope = (3 * x * x + 2 * J * x + 1) * gmpy2.invert(2 * y, P) % P
        doubled = (slope * slope - J - 2 * x) % P
        x, y = doubled, (slope * (x - doubled) - y) % P
    return Point(x, y)


def encode_to_curve(message: bytes, tag: bytes) -> Point:
    """The point P of a message: RFC 9380, encode_to_curve of the suite."""
    return clear_cofactor(map_to_curve(hash_to_field(message, tag)[0]))


def encode_to_u(messages: Iterable[bytes], tag: bytes) -> bytes:
    """u-coordinates of :func:`encode_to_curve` for many messages.

    Args:
        messages: any number of byte strings; they should come in batches, for all are held until the batch's one inversion.
        tag: domain separation tag, not empty.

    Returns:
        The points' canonical little-endian u-coordinates, 32 bytes each, concatenated.

    A message that maps to the identity (chance 2**-250, no way known to find one) ends in ``ZeroDivisionError`` from the inversion.
    """
    numerators: list[mpz] = []
    denominators: list[mpz] = []
    suffix = _tag_prime(tag)
    # One block of output covers L = 48 bytes, so b_0 and b_1 of expand_message_xmd are all there is.
    tail, suffix = _FIELD_BYTES.to_bytes(2, "big") + b"\x00" + suffix, b"\x01" + suffix
    sha512, from_bytes, jacobi = hashlib.sha512, mpz.from_bytes, gmpy2.jacobi
    for message in messages:
        state = _ZERO_BLOCK.copy()
        state.update(message + tail)
        u = from_bytes(sha512(state.digest() + suffix).digest()[:_FIELD_BYTES], "big")
        # x1 = -J/d with d = 1 + 2u^2; g(x1) is a square exactly when -J d (J^2 - J^2 d + d^2) is: g(x1) times d^4.
        z = (2 * u * u + 1) % P
        x = -J if jacobi(-J * z * (z * (z - _J_SQUARED) + _J_SQUARED), P) == 1 else J - J * z
        for _ in range(3):  # x-only doubling (Montgomery 1987, section 10.3.1; the same as in RFC 7748, section 5)
            plus, minus = x + z, x - z
            plus, minus = plus * plus % P, minus * minus % P
            difference = plus - minus
            x, z = plus * minus % P, difference * (minus + _A24 * difference) % P
        numerators.append(x)
        denominators.append(z)
    return _divide_all(numerators, denominators)


def _divide_all(numerators: list[mpz], denominators: list[mpz]) -> bytes:
    """numerator / denominator modulo p for each pair, as 32 little-endian bytes each, with one inversion (Montgomery's trick)."""
    if not denominators:
        return b""
    products = []
    product = mpz(1)
    for z in denominators:
        products.append(product)
        product = product * z % P
    inverse = gmpy2.invert(product, P)
    out = []
    for x, z, before in zip(reversed(numerators), reversed(denominators), reversed(products), strict=True):
        out.append((x * (before * inverse % P) % P).to_bytes(POINT_BYTES, "little"))
        inverse = inverse * z % P
    out.reverse()
    return b"".join(out)


def check_canonical(points: bytes) -> None:
    """Refuse u-coordinates that are not the one canonical encoding of a field element.

    X25519 ignores the top bit and reduces modulo p (RFC 7748, section 5), so that one point could come in several encodings.

    Args:
        points: 32-byte little-endian u-coordinates, concatenated.

    Raises:
        PeerError: ``psi.non_canonical_point`` when a value is p or above, or has its top bit set.
    """
    table = np.frombuffer(points, dtype=np.uint8).reshape(-1, POINT_BYTES)
    top = table[:, POINT_BYTES - 1]
    beyond = (top == 0x7F) & (table[:, 0] >= 0xED)
    if beyond.any():
        beyond[beyond] = (table[beyond, 1 : POINT_BYTES - 1] == 0xFF).all(axis=1)
    if bool(np.any(beyond | (top >= 0x80))):
        raise PeerError(
            "psi.non_canonical_point",
            "A masked point is not a canonical u-coordinate: it is not below 2^255 - 19.",
            remedy="The other node does not follow the protocol: both sides should run the same release.",
        )


def inverse_scalar(scalar: bytes) -> bytes:
    """The X25519 scalar that undoes another's multiplication, up to the sign that a u-coordinate does not show.

    A clamped scalar a is 8 m with 2**251 <= m < 2**252, so not 0 modulo the subgroup's order l.  Sought is c = 8 k with k in the
    same range and a c = +-1 modulo l.  Either r = (8 a)**-1 mod l or l - r is above l / 2 > 2**251: the larger is k, unless it is
    2**252 or more, whose chance is 2**-127.  So clamping changes nothing of c, and X25519 takes it in constant time like any other
    scalar; the inversion here is a modular exponentiation in constant time, too.

    Args:
        scalar: 32 bytes; clamped as RFC 7748, section 5, says.

    Raises:
        UsageError: ``curve.scalar`` for another length, or in the one case in 2**127 without an answer.
    """
    if len(scalar) != SCALAR_BYTES:
        raise UsageError("curve.scalar", f"An X25519 scalar has {SCALAR_BYTES} bytes, not {len(scalar)}.")
    clamped = bytes([scalar[0] & 0xF8]) + scalar[1:-1] + bytes([scalar[-1] & 0x7F | 0x40])
    root = gmpy2.powmod_sec(8 * mpz.from_bytes(clamped, "little") % ORDER, ORDER - 2, ORDER)
    larger = max(root, ORDER - root)
    if larger >> 252:
        raise UsageError(
            "curve.scalar", "This scalar's inverse has no clamped form.", remedy="Run the step again: it draws another."
        )
    return (8 * larger).to_bytes(SCALAR_BYTES, "little")


class Blinder:
    """X25519 with one secret scalar on many points."""

    def __init__(self, scalar: bytes) -> None:
        if len(scalar) != SCALAR_BYTES:
            raise UsageError("curve.scalar", f"An X25519 scalar has {SCALAR_BYTES} bytes, not {len(scalar)}.")
        self._key = X25519PrivateKey.from_private_bytes(scalar)

    @classmethod
    def draw(cls, stream: Stream) -> Blinder:
        """A fresh scalar: the next 32 bytes of ``stream``, clamped as RFC 7748, section 5, says."""
        return cls(stream.bytes(SCALAR_BYTES))

    def __repr__(self) -> str:
        return "Blinder(<secret>)"

    def blind(self, points: bytes, *, keep: int = POINT_BYTES) -> bytes:
        """scalar * point for each point.

        Args:
            points: 32-byte u-coordinates, concatenated.
            keep: leading bytes of each result that are kept.

        Returns:
            ``keep`` bytes for each point, concatenated, in the order given.

        Raises:
            UsageError: ``curve.points_length`` when ``points`` is not a whole number of points.
            PeerError: ``psi.low_order_point`` when a result is all zero, that is, when the point's order divides 8.  A hash to the
                curve is such a point with chance 2**-250: only a peer's point can be one.
        """
        if len(points) % POINT_BYTES:
            raise UsageError("curve.points_length", f"{len(points)} bytes are not a whole number of {POINT_BYTES}-byte points.")
        exchange, load = self._key.exchange, X25519PublicKey.from_public_bytes
        try:
            return b"".join(
                [exchange(load(points[i : i + POINT_BYTES]))[:keep] for i in range(0, len(points), POINT_BYTES)],
            )
        except ValueError:
            raise PeerError(
                "psi.low_order_point",
                "A masked point is of low order: masking it gives the all-zero value (RFC 7748, section 6.1).",
                remedy="The other node does not follow the protocol: do not run jobs with it until that is explained.",
            ) from None
