"""How many customers two parties share, and nothing of who they are (protocols.md, section 8).

As the alignment, but the list that comes back to the *learner* comes sorted instead of in the order received, so that it cannot
tell which of its own values are in the intersection; the *teller* gets nothing back (De Cristofaro, Gasti and Tsudik, "Fast and
Private Computation of Cardinality of Set Intersection and Union", CANS 2012, section 3, with X25519 in place of their group)::

    learner, set X, scalar a                                 teller, set Y, scalar b
    PsiStart |X|                          <->                PsiStart |Y|
    MaskedPoints  a H(x), shuffled        <->                MaskedPoints  b H(y), shuffled
                                           <-                SortedDoublyMasked  [b a H(x)]  all of them, ascending
    doubles b H(y) itself, counts the values in both
    IntersectionSize, rounded down         ->                only where the job says so

Secure against semi-honest parties under decisional Diffie-Hellman with H as a random oracle: to the learner both lists are random
values in an order that says nothing, of which as many are equal as customers are shared.

**Who learns what.**  The learner cannot but learn the exact number; the rounding and the minimum apply to what leaves it.  The
teller sees random points alone.  Both learn the size of the other's set.  A set smaller than the minimum is refused before anything
masked is sent: a set of one customer would ask whether that one is the other's too.

**Memory.**  16 bytes an element of either set, and one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from audit.layout import KEPT_BYTES
from node.crypto.curve import POINT_BYTES, SCALAR_BYTES
from node.crypto.drbg import Drbg
from node.engine import Engine, InlineEngine
from node.limits import Limits
from node.protocols import psi
from node.protocols.channel import Channel, Progress, silent
from protos.peer_pb2 import IntersectionSize, MaskedPoints, PsiStart, SortedDoublyMasked


@dataclass(frozen=True)
class Counted:
    """What one side knows at the end.

    ``size`` is the exact number, at the learner where it is not below the minimum; ``told`` what was told of it: rounded down, 0
    for "below the minimum"; None at a teller that was told nothing.
    """

    own_size: int
    peer_size: int
    size: int | None = None
    told: int | None = None


def count(
    ch: Channel,
    *,
    role: psi.Role,
    learns: bool,
    job: str,
    identifiers: Sequence[str],
    minimum: int,
    told: Callable[[int], int],
    tells: bool,
    drbg: Drbg,
    limits: Limits,
    engine: Engine | None = None,
    progress: Progress = silent,
    key: str = "",
) -> Counted:
    """Count the customers both sides have.

    Args:
        ch: link to the peer, which runs the same function in the other role.
        learns: whether this side learns the number; the peer does where this one does not.
        identifiers: own identifiers, normalised and without duplicates.
        minimum: fewest customers of either set, and of the intersection for its size to be told.
        told: what may be told of an exact number.
        tells: whether the learner tells the teller.
        drbg: opens ``count.scalar`` and ``count.order``; ``role``, ``job``, ``limits``, ``engine``, ``progress`` and ``key`` as in
            :func:`node.protocols.psi.align`.

    Raises:
        DataError, PolicyError, PeerError: those of :func:`node.protocols.psi.align`; ``psi.not_sorted`` where the list that comes
            back is not ascending, ``psi.impossible_size`` where the number told cannot be one.
    """
    own_size = len(identifiers)
    psi.check_own_size(own_size, limits)
    ch.send(PsiStart(elements=own_size))
    peer = psi.Peer(name=psi.PEER_OF[role], size=ch.recv(PsiStart).elements, limits=limits)
    peer.check_size()
    psi.check_minimum(min(own_size, peer.size), minimum, "The smaller of the two sets has")

    order = drbg.stream("count.order").permutation(own_size)
    masking = psi.Masking(drbg.stream("count.scalar").bytes(SCALAR_BYTES), engine or InlineEngine())
    outgoing = psi.masked_batches(identifiers, order, psi.domain_tag(job, key, "count"), masking, limits.psi_batch)
    theirs = _swap(ch, outgoing, own_size, peer, masking, progress)
    theirs.sort()
    psi.check_peer_repeats(theirs, peer)
    if not learns:
        _return_sorted(ch, theirs, limits.psi_batch)
        heard = _check_told(ch.recv(IntersectionSize).size, min(own_size, peer.size), minimum, told, peer) if tells else None
        return Counted(own_size, peer.size, told=heard)
    own = _receive_sorted(ch, own_size, peer, limits)
    size = len(psi.ranked_matches(own, np.arange(own_size), theirs))
    rounded = told(size)
    if tells:
        ch.send(IntersectionSize(size=rounded))
    return Counted(own_size, peer.size, size=size if size >= minimum else None, told=rounded)


def _swap(
    ch: Channel, outgoing: Iterator[MaskedPoints], own_size: int, peer: psi.Peer, masking: psi.Masking, progress: Progress
) -> NDArray[np.void]:
    """Send the own masked list, a batch for each of the peer's; returns the peer's, doubly masked, in the order received."""
    theirs = bytearray()  # it grows by what has come, never by what was announced
    sent = received = 0
    batch = next(outgoing, None)
    while batch is not None or received < peer.size:
        if batch is not None:
            ch.send(batch)
            sent += batch.count
        following = next(outgoing, None)
        if received < peer.size:
            points = peer.check_masked(ch.recv(MaskedPoints), received)
            theirs += masking.double(points)
            received += len(points) // POINT_BYTES
        progress("count", sent + received, own_size + peer.size)
        batch = following
    return np.frombuffer(theirs, dtype=psi.VALUE)


def _return_sorted(ch: Channel, values: NDArray[np.void], batch: int) -> None:
    for first in range(0, len(values), batch):
        part = values[first : first + batch]
        ch.send(SortedDoublyMasked(first=first, count=len(part), values=part.tobytes()))


def _receive_sorted(ch: Channel, own_size: int, peer: psi.Peer, limits: Limits) -> NDArray[np.void]:
    """The own list, doubly masked, as the peer sorted it."""
    own = bytearray()
    received, most, last = 0, limits.message_bytes // KEPT_BYTES, b""
    while received < own_size:
        message = ch.recv(SortedDoublyMasked)
        if message.first != received:
            raise peer.error("psi.wrong_position", f"returned values from {message.first}; {received} was next")
        if message.count < 1:
            raise peer.error("psi.less_than_declared", f"returned {received} values to {own_size} points")
        if message.count > own_size - received:
            raise peer.error("psi.more_than_declared", f"returned more values than the {own_size} points it was sent")
        if message.count > most:
            raise peer.error("psi.batch_size", f"returned {message.count} values at once; at most {most} are accepted")
        if len(message.values) != message.count * KEPT_BYTES:
            raise peer.error("psi.wrong_length", f"sent {len(message.values)} bytes for {message.count} doubly-masked values")
        for start in range(0, len(message.values), KEPT_BYTES):
            value = message.values[start : start + KEPT_BYTES]
            if value <= last:  # the first is above the empty text
                raise peer.error("psi.not_sorted", "returned a list that is not in ascending order, or holds a value twice")
            last = value
        own += message.values
        received += message.count
    return np.frombuffer(own, dtype=psi.VALUE)


def _check_told(size: int, most: int, minimum: int, told: Callable[[int], int], peer: psi.Peer) -> int:
    """The number told, which is 0 or one that rounding leaves as it is, within the smaller set."""
    if size and not (minimum <= size <= most and told(size) == size):
        raise peer.error("psi.impossible_size", f"told of {size} shared customers, which is no number that may be told")
    return size
