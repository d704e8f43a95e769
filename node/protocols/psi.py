"""Private set intersection by double masking on curve25519 (protocols.md, section 1).

H is the hash to the curve under a tag that names the job; a and b are fresh X25519 scalars; each side shuffles its own set in
secret::

    label holder, set X, scalar a                            feature holder, set Y, scalar b
    PsiStart |X|                          <->                PsiStart |Y|
    for each batch k, until both lists are through:
      MaskedPoints  a H(x), shuffled      <->                MaskedPoints  b H(y), shuffled
      DoublyMasked  [a b H(y)]            <->                DoublyMasked  [b a H(x)]      in the order received, 16 bytes each
    both now hold [a b H(x)] and [a b H(y)]; equal values are shared customers; their ascending order is the common row order.

The scheme is Meadows' (1986) and Huberman, Franklin and Hogg's (1999), secure against semi-honest parties under decisional
Diffie-Hellman with H as a random oracle.  It is symmetric: the role only says how errors name the peer.

**Lock step.**  A side sends one batch, masks its next one while the peer doubles the first, answers the peer's batch and waits
for its own answer.  So both processors work at once, also when one set is far larger, and in each direction at most two messages
are unread: no link buffers without bound and a link that holds a single message cannot deadlock.  Batches may differ in size
between the sides.

**Truncation.**  Two different customers are taken for one, or a set is refused for a repeat that is none, with a chance below
(|X| + |Y|)^2 / 2^129: for twice 200 million elements 2^-71.

**Memory.**  16 bytes a peer element, 32 an own one (its doubly-masked value, its place in the secret order, its rank), and one
batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from audit.layout import KEPT_BYTES
from node.crypto.curve import POINT_BYTES, SCALAR_BYTES, SUITE, check_canonical
from node.crypto.drbg import Drbg
from node.engine import Engine, InlineEngine, batches
from node.errors import DataError, PeerError, PolicyError
from node.limits import Limits
from node.protocols.channel import Channel, Progress, silent
from node.scratch import pieces_of
from protos.peer_pb2 import DoublyMasked, MaskedPoints, PsiStart

Role = Literal["label_holder", "feature_holder"]

VALUE = np.dtype(("V", KEPT_BYTES))  # compared as unsigned bytes, first byte first
_CHUNK = 1 << 16  # values compared at a time
PEER_OF = {"label_holder": "feature holder", "feature_holder": "label holder"}
_SAME_RELEASE = "The other node does not follow the protocol: both sides should run the same release."


@dataclass(frozen=True)
class Alignment:
    """The shared customers, as both sides hold them.

    ``rows`` has shape (shared,), int64: the index into this side's own identifiers of each shared customer, in the order common
    to both sides.  ``own_size`` and ``peer_size`` are the sizes of the two sets.
    """

    rows: NDArray[np.int64] = field(repr=False)
    own_size: int
    peer_size: int


def align(
    ch: Channel,
    *,
    role: Role,
    job: str,
    identifiers: Sequence[str],
    minimum: int,
    drbg: Drbg,
    limits: Limits,
    engine: Engine | None = None,
    progress: Progress = silent,
    key: str = "",
    found: int = 0,
    empty: bool = False,
) -> Alignment:
    """Find the customers both sides have.

    Args:
        ch: link to the peer, which runs the same function in the other role.
        role: this side's role.
        job: identity of the job; both sides must name the same, for it enters the hash.
        identifiers: own identifiers, normalised and without duplicates.
        minimum: fewest shared customers this side's policy accepts.
        drbg: randomness of this attempt; opens ``psi.scalar`` and ``psi.order``, each with the key's name where there is one.
        limits: ``psi_elements``, ``psi_batch`` (own batches) and ``message_bytes`` (the peer's) are used.
        engine: where identifiers are hashed and masked; None: here.
        progress: told ``("align", elements masked and answered, own size + peer size)`` once a batch.
        key: name of the identifier where a job tries several (:mod:`node.protocols.joins`); it enters the hash.
        found: shared customers that other keys found; they count towards the minimum.
        empty: whether a set may be empty, as it may after other keys.

    Raises:
        DataError: ``psi.empty_set`` or ``psi.too_many_elements`` (own set), ``psi.duplicate_identifier``,
            ``psi.identifier_not_text``.
        PolicyError: ``psi.too_few_shared``; when already a set's size is below the minimum, before anything masked is sent.
        PeerError: ``psi.empty_set``, ``psi.too_many_elements``, ``psi.batch_size``, ``psi.wrong_length``, ``psi.wrong_position``,
            ``psi.more_than_declared``, ``psi.less_than_declared``, ``psi.non_canonical_point``, ``psi.low_order_point``,
            ``psi.repeated_element``.
    """
    peer = declare(ch, role=role, elements=len(identifiers), minimum=minimum, limits=limits, found=found, empty=empty)
    return match(
        ch,
        peer,
        job=job,
        identifiers=identifiers,
        minimum=minimum,
        drbg=drbg,
        engine=engine,
        progress=progress,
        key=key,
        found=found,
    )


def declare(ch: Channel, *, role: Role, elements: int, minimum: int, limits: Limits, found: int = 0, empty: bool = False) -> Peer:
    """Tell each other the sizes of the sets: how every alignment begins, whatever its method.

    Raises:
        DataError, PolicyError, PeerError: as :func:`align`, of the sizes alone.
    """
    check_own_size(elements, limits, least=0 if empty else 1)
    ch.send(PsiStart(elements=elements))
    peer = Peer(name=PEER_OF[role], size=ch.recv(PsiStart).elements, limits=limits)
    peer.check_size(least=0 if empty else 1)
    check_minimum(found + min(elements, peer.size), minimum, "The smaller of the two sets has")
    return peer


def match(
    ch: Channel,
    peer: Peer,
    *,
    job: str,
    identifiers: Sequence[str],
    minimum: int,
    drbg: Drbg,
    engine: Engine | None = None,
    progress: Progress = silent,
    key: str = "",
    found: int = 0,
) -> Alignment:
    """:func:`align` once both sizes are known."""
    own_size = len(identifiers)
    order = drbg.stream(_named("psi.order", key)).permutation(own_size)
    masking = Masking(drbg.stream(_named("psi.scalar", key)).bytes(SCALAR_BYTES), engine or InlineEngine())
    outgoing = masked_batches(identifiers, order, domain_tag(job, key), masking, peer.limits.psi_batch)
    own, theirs = _exchange(ch, outgoing, own_size, peer, masking, progress)

    ranked = np.argsort(own).astype(np.int64, copy=False)
    _check_own_repeats(own, ranked, order, identifiers, peer)
    theirs.sort()
    check_peer_repeats(theirs, peer)
    rows = order[ranked_matches(own, ranked, theirs)]
    check_minimum(found + len(rows), minimum, "The two sets share")
    return Alignment(rows=rows, own_size=own_size, peer_size=peer.size)


def domain_tag(job: str, key: str = "", use: str = "psi") -> bytes:
    """What parts the hashes of one job, key and use from those of all others (RFC 9380, section 3.1)."""
    return b"isthmus-v1-" + job.encode() + f"-{_named(use, key, '-')}-with-".encode() + SUITE


def _named(what: str, key: str, sign: str = " ") -> str:
    return f"{what}{sign}{key}" if key else what


# ---- the exchange ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Masking:
    """This side's scalar, and where points are multiplied by it."""

    scalar: bytes = field(repr=False)
    engine: Engine

    def double(self, points: bytes) -> bytes:
        """The peer's points times the scalar, truncated as they are kept."""
        return batches.blinded_points(self.engine, self.scalar, points, keep=KEPT_BYTES)


def masked_batches(
    identifiers: Sequence[str], order: NDArray[np.int64], tag: bytes, masking: Masking, batch: int
) -> Iterator[MaskedPoints]:
    """The own list, masked, a message after the other; the engine works ahead on the next ones."""
    size = min(batch, batches.POINTS)

    pieces = pieces_of(identifiers, order, _pieces(len(order), batch, size))
    masked = batches.masked_points(masking.engine, masking.scalar, tag, pieces)
    for first in range(0, len(order), batch):
        stop = min(first + batch, len(order))
        values = b"".join(next(masked) for _ in _pieces(stop - first, batch, size))
        yield MaskedPoints(first=first, count=stop - first, values=values)


def _pieces(count: int, batch: int, size: int) -> Iterator[tuple[int, int]]:
    """Bounds of pieces of at most ``size``, none of which crosses the border of a batch."""
    for first in range(0, count, batch):
        end = min(first + batch, count)
        yield from ((start, min(start + size, end)) for start in range(first, end, size))


def _exchange(
    ch: Channel, outgoing: Iterator[MaskedPoints], own_size: int, peer: Peer, masking: Masking, progress: Progress
) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """Both lists of doubly-masked values, in the order in which their single-masked ones were sent."""
    own, theirs = bytearray(), bytearray()  # they grow by what has come, never by what was announced
    sent = received = 0
    batch = next(outgoing, None)
    while batch is not None or received < peer.size:
        if batch is not None:
            ch.send(batch)
        following = next(outgoing, None)  # the peer doubles `batch` meanwhile
        if received < peer.size:
            points = peer.check_masked(ch.recv(MaskedPoints), received)
            doubled = masking.double(points)
            count = len(points) // POINT_BYTES
            ch.send(DoublyMasked(first=received, count=count, values=doubled))
            theirs += doubled
            received += count
        if batch is not None:
            own += peer.check_doubled(ch.recv(DoublyMasked), batch)
            sent += batch.count
        progress("align", sent + received, own_size + peer.size)
        batch = following
    return np.frombuffer(own, dtype=VALUE), np.frombuffer(theirs, dtype=VALUE)


@dataclass(frozen=True)
class Peer:
    """What the peer declared, and the checks of what it sends; each comes before memory is taken for it."""

    name: str
    size: int
    limits: Limits

    def error(self, code: str, reason: str) -> PeerError:
        """The error of a peer that does not follow the protocol."""
        return PeerError(code, f"The {self.name} {reason}.", remedy=_SAME_RELEASE)

    def check_size(self, *, least: int = 1) -> None:
        """Raise ``psi.empty_set`` or ``psi.too_many_elements``."""
        if self.size < least:
            raise PeerError(
                "psi.empty_set", f"The {self.name} declared an empty set.", remedy="Ask the other side to check its data set."
            )
        if self.size > self.limits.psi_elements:
            raise PeerError(
                "psi.too_many_elements",
                f"The {self.name} declared {self.size} elements; at most {self.limits.psi_elements} are accepted.",
                remedy="Ask the other side to bring fewer rows.",
            )

    def check_masked(self, message: MaskedPoints, received: int) -> bytes:
        """The points of the next batch, of which ``received`` came before."""
        if message.first != received:
            raise self.error("psi.wrong_position", f"sent masked points from {message.first}; {received} was next")
        if message.count < 1:
            raise self.error("psi.less_than_declared", f"ended its list after {received} elements; it declared {self.size}")
        if message.count > self.size - received:
            raise self.error("psi.more_than_declared", f"sent more than the {self.size} elements it declared")
        most = self.limits.message_bytes // POINT_BYTES
        if message.count > most:
            raise self.error("psi.batch_size", f"sent {message.count} points at once; at most {most} are accepted")
        if len(message.values) != message.count * POINT_BYTES:
            raise self.error("psi.wrong_length", f"sent {len(message.values)} bytes for {message.count} points")
        check_canonical(message.values)
        return message.values

    def check_doubled(self, message: DoublyMasked, batch: MaskedPoints) -> bytes:
        """The doubly-masked values that answer ``batch``."""
        if message.first != batch.first:
            raise self.error("psi.wrong_position", f"answered from {message.first}; {batch.first} was next")
        if message.count > batch.count:
            raise self.error("psi.more_than_declared", f"answered {message.count} values to {batch.count} points")
        if message.count < batch.count:
            raise self.error("psi.less_than_declared", f"answered {message.count} values to {batch.count} points")
        if len(message.values) != message.count * KEPT_BYTES:
            raise self.error("psi.wrong_length", f"sent {len(message.values)} bytes for {message.count} doubly-masked values")
        return message.values


# ---- the two lists ---------------------------------------------------------------------------------------------------


def _same(left: NDArray[np.void], right: NDArray[np.void]) -> NDArray[np.bool_]:
    """Elementwise equality of two contiguous arrays of values."""
    pair = (left.view(np.uint64) == right.view(np.uint64)).reshape(-1, 2)
    return pair[:, 0] & pair[:, 1]


def ranked_matches(own: NDArray[np.void], ranked: NDArray[np.int64], theirs: NDArray[np.void]) -> NDArray[np.int64]:
    """Positions in ``own`` of the values that ``theirs`` (ascending) holds too, by ascending value; ``ranked`` sorts ``own``."""
    found = [ranked[:0]]
    for start in range(0, len(ranked) if len(theirs) else 0, _CHUNK):
        index = ranked[start : start + _CHUNK]
        values = own[index]
        place = np.minimum(np.searchsorted(theirs, values), len(theirs) - 1)
        found.append(index[_same(theirs[place], values)])
    return np.concatenate(found)


def check_peer_repeats(ordered: NDArray[np.void], peer: Peer) -> None:
    """Refuse a list (ascending) that holds a value twice: the peer sent one point twice, or two that differ by one of low order."""
    for start in range(0, len(ordered) - 1, _CHUNK):
        part = ordered[start : start + _CHUNK + 1]
        if _same(part[:-1], part[1:]).any():
            raise peer.error("psi.repeated_element", "sent an element twice")


def _check_own_repeats(
    own: NDArray[np.void], ranked: NDArray[np.int64], order: NDArray[np.int64], identifiers: Sequence[str], peer: Peer
) -> None:
    """Refuse an answer that holds a value twice, unless it was this side that asked twice."""
    for start in range(0, len(ranked) - 1, _CHUNK):
        index = ranked[start : start + _CHUNK + 1]
        part = own[index]
        repeats = np.flatnonzero(_same(part[:-1], part[1:]))
        if not len(repeats):
            continue
        first, second = order[index[repeats[0]]], order[index[repeats[0] + 1]]
        if identifiers[first] == identifiers[second]:
            raise duplicate()
        raise peer.error("psi.repeated_element", "answered two different points with the same value")


def duplicate() -> DataError:
    """An own identifier was given twice."""
    return DataError(
        "psi.duplicate_identifier",
        "An own identifier was given to the alignment twice.",
        remedy="Remove duplicate identifiers before the alignment.",
    )


# ---- sizes -----------------------------------------------------------------------------------------------------------


def check_own_size(size: int, limits: Limits, *, least: int = 1) -> None:
    """Raise ``psi.empty_set`` or ``psi.too_many_elements`` of the own set."""
    if size < least:
        raise DataError(
            "psi.empty_set",
            "The own data set has no identifiers to align.",
            remedy="Check the data set's source and its identifier column.",
        )
    if size > limits.psi_elements:
        raise DataError(
            "psi.too_many_elements",
            f"The own data set has {size} identifiers; at most {limits.psi_elements} can be aligned.",
            remedy="Bring fewer rows to the job.",
        )


def check_minimum(size: int, minimum: int, what: str) -> None:
    """Raise ``psi.too_few_shared``."""
    if size < minimum:
        raise PolicyError(
            "psi.too_few_shared",
            f"{what} {size} customers; at least {minimum} shared ones are required.",
            remedy="Check that both sides normalise the same identifier the same way; job and policy set the minimum.",
        )
