"""The keyed function of an alignment by a published filter, piece by piece.

    F(x) = first 16 bytes of SHA-256(relation || b H(x))        b: the publisher's long-lived X25519 scalar of this relation

H is the hash to the curve under a tag that names the relation (one publisher, one querier, their two data sets, one way to
normalise), not the job.  F is the oblivious pseudorandom function 2HashDH of Jarecki, Kiayias and Krawczyk (2014), without the
identifier in the outer hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from audit.layout import KEPT_BYTES, POINT_BYTES
from node.crypto.curve import SUITE, Blinder, encode_to_u


def key_commitment(scalar: bytes) -> bytes:
    """SHA-256 of the key's public point: names a key, and binds its owner to it."""
    public = X25519PrivateKey.from_private_bytes(scalar).public_key().public_bytes_raw()
    return hashlib.sha256(b"isthmus filter key v1" + public).digest()


def domain_tag(relation: str) -> bytes:
    """What separates the hash to the curve of one relation (hex) from all others."""
    return b"isthmus-v1-" + relation.encode() + b"-filter-with-" + SUITE


def hashed(points: bytes, relation: str) -> bytes:
    """16 bytes of SHA-256 for each 32-byte point under the key."""
    start = hashlib.sha256(b"isthmus filter value v1" + bytes.fromhex(relation))
    out = bytearray()
    for first in range(0, len(points), POINT_BYTES):
        one = start.copy()
        one.update(points[first : first + POINT_BYTES])
        out += one.digest()[:KEPT_BYTES]
    return bytes(out)


def blinded(identifiers: Iterable[bytes], relation: str, scalar: bytes) -> bytes:
    """scalar * H(x) of each identifier, 32 bytes each."""
    return Blinder(scalar).blind(encode_to_u(identifiers, domain_tag(relation)))


def masked(identifiers: Iterable[bytes], relation: str, scalar: bytes) -> bytes:
    """F of each identifier, 16 bytes each, by the key's owner."""
    return hashed(blinded(identifiers, relation, scalar), relation)


def unblinded(points: bytes, relation: str, inverse: bytes) -> bytes:
    """F from points that the key's owner multiplied, given the inverse of what blinded them, 16 bytes each."""
    return hashed(Blinder(inverse).blind(points), relation)
