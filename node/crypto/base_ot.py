"""Base transfers on curve25519: random 1-of-2 oblivious transfers, a few hundred of them.

Naor and Pinkas, "Efficient oblivious transfer protocols" (SODA 2001, section 3), with the point C of unknown discrete logarithm
hashed to the curve (RFC 9380) in place of one that the sender draws::

    sender, scalar r                                chooser, bits c_i, scalars b_i
    A = r G                              ->
                                         <-         PK_i = b_i G if c_i = 0, else C - b_i G
    k_i0 = H(i, r PK_i)                             k_i,c = H(i, b_i A)
    k_i1 = H(i, r (C - PK_i))

**Security.**  The choice is hidden statistically: b_i G with a random sign is uniform in the group of prime order up to 2^-124
(X25519's clamped scalars are half of its exponents, their negatives the other half), and so is C less it.  The other key is hidden
under computational Diffie-Hellman with H, SHA-256, as a random oracle: who knew both would know r C.

Multiplication is X25519 of ``cryptography``, in constant time, on u-coordinates.  A sum needs y as well; it is taken with gmpy2 on
points that are sent or could be, whichever bit was chosen: both sums' work is done for either.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import gmpy2
import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from gmpy2 import mpz
from numpy.typing import NDArray

from audit.layout import POINT_BYTES
from node.crypto.curve import SCALAR_BYTES, SUITE, J, P, Point, check_canonical, encode_to_curve, square_root
from node.crypto.drbg import Stream
from node.errors import PeerError

Bytes = NDArray[np.uint8]

KEY_BYTES = 16
_SIGN = 0x80  # in the last byte: y is odd


def nobody_knows(job: str) -> Point:
    """C: a point whose logarithm nobody knows, one for each job."""
    return encode_to_curve(b"point of unknown logarithm", b"isthmus-v1-" + job.encode() + b"-base-ot-with-" + SUITE)


@dataclass(frozen=True)
class Sender:
    """Who gets both keys of every transfer."""

    job: str
    scalar: bytes

    def __repr__(self) -> str:
        return "Sender(<secret>)"

    @classmethod
    def draw(cls, job: str, stream: Stream) -> Sender:
        """A fresh scalar: the next 32 bytes of ``stream``."""
        return cls(job, stream.bytes(SCALAR_BYTES))

    @property
    def point(self) -> bytes:
        """A = r G, 32 bytes."""
        return _private(self.scalar).public_key().public_bytes_raw()

    def keys(self, points: bytes) -> Bytes:
        """Both keys of each transfer; uint8, shape (transfers, 2, 16).

        Args:
            points: the chooser's PK_i, 32 bytes each: u, little-endian, and in the highest bit whether y is odd.

        Raises:
            PeerError: ``psi.base_point`` (not on the curve, or of low order), ``psi.non_canonical_point``.
        """
        own, common, key = self.point, nobody_knows(self.job), _private(self.scalar)
        out = np.empty((len(points) // POINT_BYTES, 2, KEY_BYTES), dtype=np.uint8)
        for index in range(len(out)):
            sent = points[index * POINT_BYTES : (index + 1) * POINT_BYTES]
            first = decode_point(sent)
            second = subtract(common, first)
            for bit, point in enumerate((first, second)):
                shared = _exchange(key, _u_bytes(point))
                out[index, bit] = np.frombuffer(_key(self.job, index, own, sent, shared), dtype=np.uint8)
        return out


def choose(job: str, point: bytes, bits: Bytes, stream: Stream) -> tuple[bytes, Bytes]:
    """The chooser's half.

    Args:
        job: identity of the job.
        point: the sender's A.
        bits: c_i, uint8 of 0 and 1, shape (transfers,).
        stream: 33 bytes of it are read a transfer: a scalar and a sign.

    Returns:
        The points to send, 32 bytes each, and the chosen keys, uint8, shape (transfers, 16).

    Raises:
        PeerError: ``psi.base_point``, ``psi.non_canonical_point``.
    """
    check_canonical(point)
    common, sent = nobody_knows(job), []
    keys = np.empty((len(bits), KEY_BYTES), dtype=np.uint8)
    for index, bit in enumerate(bits.tolist()):
        scalar, sign = stream.bytes(SCALAR_BYTES), stream.bits(1)
        key = _private(scalar)
        u = mpz.from_bytes(key.public_key().public_bytes_raw(), "little")
        own = _with_parity(u, sign)
        pair = own, subtract(common, own)
        sent.append(encode_point(pair[bit]))
        shared = _exchange(key, point)
        keys[index] = np.frombuffer(_key(job, index, point, sent[-1], shared), dtype=np.uint8)
    return b"".join(sent), keys


def _private(scalar: bytes) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(scalar)


def _exchange(key: X25519PrivateKey, point: bytes) -> bytes:
    try:
        return key.exchange(X25519PublicKey.from_public_bytes(point))
    except ValueError:
        raise _bad_point("is of low order") from None


def _key(job: str, index: int, sender: bytes, chooser: bytes, shared: bytes) -> bytes:
    head = b"isthmus base ot v1" + job.encode() + index.to_bytes(4, "big")
    return hashlib.sha256(head + sender + chooser + shared).digest()[:KEY_BYTES]


# ---- points -----------------------------------------------------------------------------------------------------------------


def _bad_point(reason: str) -> PeerError:
    return PeerError(
        "psi.base_point",
        f"A point of the base transfers {reason}.",
        remedy="The other node does not follow the protocol: both sides should run the same release.",
    )


def _u_bytes(point: Point) -> bytes:
    return int(point.x).to_bytes(POINT_BYTES, "little")


def encode_point(point: Point) -> bytes:
    """u, 32 bytes little-endian, its highest bit set when y is odd."""
    data = bytearray(_u_bytes(point))
    data[-1] |= _SIGN if point.y % 2 else 0
    return bytes(data)


def decode_point(data: bytes) -> Point:
    """The point that :func:`encode_point` wrote.

    Raises:
        PeerError: ``psi.non_canonical_point``; ``psi.base_point`` when no point of the curve has this u.
    """
    plain = data[:-1] + bytes([data[-1] & ~_SIGN])
    check_canonical(plain)
    return _with_parity(mpz.from_bytes(plain, "little"), data[-1] >> 7)


def _with_parity(u: mpz, odd: int) -> Point:
    """The point of this u whose y is odd or even."""
    square = u * (u * (u + J) + 1) % P
    if gmpy2.jacobi(square, P) != 1:  # zero, too, is no u of a point in the group
        raise _bad_point("is not on the curve")
    y = square_root(square)
    return Point(u, y if y % 2 == odd else P - y)


def subtract(left: Point, right: Point) -> Point:
    """left - right on affine coordinates (Montgomery 1987, section 10.3.1).

    Raises:
        PeerError: ``psi.base_point`` when they are equal or opposite, which a peer alone can bring about.
    """
    if left.x == right.x:
        raise _bad_point("is the common one")
    slope = (left.y + right.y) * gmpy2.invert(left.x - right.x, P) % P
    x = (slope * slope - J - left.x - right.x) % P
    return Point(x, (slope * (left.x - x) - left.y) % P)
