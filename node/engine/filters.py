"""The curve operations of an alignment by a published filter, in pieces, on any engine, with the same bytes from each.

Every piece comes with a secret scalar, and many with identifiers: they run where the node's own secrets may go
(``Engine.private``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from audit.layout import POINT_BYTES
from node.crypto.curve import Blinder
from node.crypto.oprf import blinded, masked, unblinded
from node.engine.base import Engine

PIECE = 2048
"""Elements of one item: a tenth of a second, and 64 KiB of points."""

Named = tuple[list[bytes], str, bytes]
Pointed = tuple[bytes, str, bytes]


def _mask(item: Named) -> bytes:
    return masked(*item)


def _blind(item: Named) -> bytes:
    return blinded(*item)


def _unblind(item: Pointed) -> bytes:
    return unblinded(*item)


def _multiply(item: tuple[bytes, bytes]) -> bytes:
    scalar, points = item
    return Blinder(scalar).blind(points)


def _named(identifiers: Sequence[bytes], relation: str, scalar: bytes) -> Iterator[Named]:
    for first in range(0, len(identifiers), PIECE):
        yield list(identifiers[first : first + PIECE]), relation, scalar


def _pieces(points: bytes) -> Iterator[bytes]:
    for first in range(0, len(points), PIECE * POINT_BYTES):
        yield points[first : first + PIECE * POINT_BYTES]


def mask_all(engine: Engine, identifiers: Sequence[bytes], relation: str, scalar: bytes) -> bytes:
    """F of each identifier (:func:`node.crypto.oprf.masked`)."""
    return b"".join(engine.private.map(_mask, _named(identifiers, relation, scalar)))


def blind_all(engine: Engine, identifiers: Sequence[bytes], relation: str, scalar: bytes) -> bytes:
    """scalar * H(x) of each identifier (:func:`node.crypto.oprf.blinded`)."""
    return b"".join(engine.private.map(_blind, _named(identifiers, relation, scalar)))


def unblind_all(engine: Engine, points: bytes, relation: str, inverse: bytes) -> bytes:
    """F from answered points (:func:`node.crypto.oprf.unblinded`).

    Raises:
        PeerError: ``psi.low_order_point``.
    """
    return b"".join(engine.private.map(_unblind, ((piece, relation, inverse) for piece in _pieces(points))))


def multiply_all(engine: Engine, points: bytes, scalar: bytes) -> bytes:
    """scalar * point of each point.

    Raises:
        PeerError: ``psi.low_order_point``.
    """
    return b"".join(engine.private.map(_multiply, ((scalar, piece) for piece in _pieces(points))))
