"""Private set intersection of a small set with a large one that was masked once: a published filter.

H, F and the relation are those of :mod:`node.crypto.oprf`; b is the publisher's scalar of the relation, a the querier's
of this attempt::

    publisher, set Y, scalar b                                   querier, set X, fresh scalar a
    PsiStart |Y|                             <->                 PsiStart |X|
    CommonOrder r                            <->                 CommonOrder s      fresh, for the order of rows
                                             <--                 FilterAsk      the key and version it holds, its days of reuse
    FilterState  key, version, digest        -->
                                             <--                 FilterQueries  how many of X have no F(x) here yet
    FilterIndex, FilterRemainders            -->                 the filter of all F(y), where it holds no version that this follows
    FilterRemoved, FilterAdded               -->                 or what left and came since the one it holds, or nothing
                                             <--                 BlindedPoints  a H(x), shuffled, for those without F(x)
    EvaluatedPoints  b a H(x)                -->                 b H(x) = a^-1 (b a H(x)), so F(x); the filter holds F(x) or not
                                             <--                 SharedCount, SharedValues  the F(x) it holds, ascending
    SharedConfirmed  whose F(y) they are     -->                 the common order of rows is that of SHA-256(r || s || F)

The asymmetric use of an oblivious pseudorandom function is that of Kiss, Liu, Schneider, Asokan and Pinkas (2017) and of Kales,
Rechberger, Schneider, Senker and Weinert (2019), who list the compact codes of the large set as well; secure against semi-honest
parties under the one-more Diffie-Hellman assumption with the hashes as random oracles.

**What a job costs.**  The first one masks Y and X once and sends the filter, at most 8 bytes an element.  A later one under the
same key masks what is new in either set, sends 12 bytes for each change of Y, and 64 for each new element of X.

**Exact.**  A value of the filter has 61 bits beside its prefix: one of X that is not in Y is found in it with a chance below 2^-61.
The publisher compares all 16 bytes of what was found, so even such a one is removed.  And a value that the querier did not get by a
query it cannot name: the filter does not tell the other bits.

**Order of rows.**  Under one key the order of F is known before a job is; the public coins that hold rows out and draw samples go
by a row's place, and whoever names the job could try identities until they please him.  So both sides' fresh randomness decides on
the order, as both scalars do in the symmetric alignment.

**Order of messages.**  The querier's next batch leaves when the last was answered; while the publisher works on one, it masks the
next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from audit.layout import KEPT_BYTES, ORDER_BYTES, POINT_BYTES
from node.crypto.curve import SCALAR_BYTES, check_canonical, inverse_scalar
from node.crypto.elias_fano import VALUE, Filter, contains
from node.engine.filters import blind_all, multiply_all, unblind_all
from node.errors import DataError, PeerError, PolicyError
from node.protocols.channel import Channel
from node.protocols.filter_state import DIGEST_BYTES, TAG_KEY_BYTES, Held, Published, Setting, encoded, tags_of
from node.protocols.filter_transfer import deviates, receive_items, send_items, take_items
from node.protocols.filter_values import ascending, places
from node.protocols.filter_versions import VERSION_MAX, Edition, check_told, make_edition, receive_edition, send_edition
from node.protocols.psi import Alignment
from node.scratch import CHUNK_ROWS, pieces_of
from protos import peer_pb2 as pb


@dataclass(frozen=True)
class Outcome:
    """The alignment; what is to be kept for the next job, or None; whether the key, and the filter as a whole, are new."""

    alignment: Alignment
    state: Published | Held | None = field(repr=False)
    new_key: bool
    whole: bool


# ---- the publisher -------------------------------------------------------------------------------------------------------------


def publish(
    ch: Channel,
    s: Setting,
    *,
    state: Published | None,
    reserve: Callable[[int], None],
    save: Callable[[Published], None] = lambda state: None,
) -> Outcome:
    """Find the shared customers as the side whose set was, or now is, published.

    Args:
        ch: link to the peer, which runs :func:`query`.
        state: what was kept of this relation.
        save: keeps the whole set under a new key as soon as it is masked, so that an attempt that fails later has not masked it in
            vain; not called where the key serves one job.
        reserve: counts the queries that are to be answered, before any is; raises where the policy allows no more.

    Raises:
        DataError: ``psi.empty_set``, ``psi.too_many_elements``, ``psi.duplicate_identifier``, ``psi.identifier_not_text``.
        PolicyError: ``psi.too_few_shared``; what ``reserve`` raises.
        PeerError: ``psi.empty_set``, ``psi.too_many_elements``, ``psi.filter_request``, ``psi.more_than_declared``,
            ``psi.batch_size``, ``psi.wrong_length``, ``psi.wrong_position``, ``psi.non_canonical_point``, ``psi.low_order_point``,
            ``psi.filter_values``.
    """
    peer_size = _sizes(ch, s, "querier")
    own, theirs = _order_shares(ch, s)
    ask = ch.recv(pb.FilterAsk)
    if len(ask.key) not in (0, DIGEST_BYTES) or len(ask.digest) != len(ask.key) or ask.version >= VERSION_MAX:
        raise deviates("psi.filter_request", "The querier asked for a filter in a form that there is not")
    days = min(s.terms.reuse_days, ask.reuse_days)
    if ask.renew or s.terms.key_age >= days:
        state = None
    edition = make_edition(s, state, ask)
    now = edition.state
    if state is None and days > 0:
        save(now)
    s.commit("filter key", edition.key.hex())
    s.commit("filter", now.digest.hex(), rows=len(now.tags), version=now.version)
    ch.send(
        pb.FilterState(
            key=edition.key,
            version=now.version,
            digest=now.digest,
            prefix_bits=now.prefix_bits,
            base=edition.base,
            removed=len(edition.removed),
            added=len(edition.added),
            reusable=days > 0,
        )
    )
    queries = ch.recv(pb.FilterQueries).elements
    if queries > peer_size:
        raise deviates("psi.more_than_declared", f"The querier has {peer_size} elements and wants to ask about {queries}")
    reserve(queries)
    send_edition(ch, s.limits, edition)
    _answer(ch, s, now.scalar, queries)
    rows = _confirm(ch, s, edition, peer_size, own + theirs)
    alignment = Alignment(rows=rows, own_size=len(s.identifiers), peer_size=peer_size)
    return Outcome(alignment, now if days > 0 else None, new_key=state is None, whole=edition.whole is not None)


def _answer(ch: Channel, s: Setting, scalar: bytes, queries: int) -> None:
    done = 0
    while done < queries:
        points, count = take_items(ch, pb.BlindedPoints, done, queries, 8 * POINT_BYTES, s.limits)
        check_canonical(points)
        ch.send(pb.EvaluatedPoints(first=done, count=count, values=multiply_all(s.engine, points, scalar)))
        done += count
        s.progress("align", done, queries)


def _confirm(ch: Channel, s: Setting, edition: Edition, peer_size: int, shares: bytes) -> NDArray[np.int64]:
    """Rows of the values that the querier found, in the common order; those that are none of the own ones are left out."""
    claimed = ch.recv(pb.SharedCount).elements
    if claimed > min(peer_size, len(s.identifiers)):
        raise deviates("psi.more_than_declared", f"The querier says that {claimed} customers are shared, more than the sets have")
    _check_minimum(claimed, s.minimum, "The two sets share")
    found = np.frombuffer(receive_items(ch, pb.SharedValues, claimed, 8 * KEPT_BYTES, s.limits), dtype=VALUE)
    if (np.sort(found) != found).any() or (found[1:] == found[:-1]).any():
        raise deviates("psi.filter_values", "The querier named shared values out of order or twice")
    place = _own_places(edition.state.values, found)
    send_items(ch, pb.SharedConfirmed, np.packbits(place >= 0), claimed, 1, s.limits)
    rows = edition.rows[place[place >= 0]]
    _check_minimum(len(rows), s.minimum, "The two sets share")
    return rows[common_order(found[place >= 0], shares)]


def _own_places(values: NDArray[np.void], found: NDArray[np.void]) -> NDArray[np.int64]:
    """Where each of ``found`` (ascending) stands among many values in no order, or -1; a stretch at a time, none sorted."""
    place = np.full(len(found), -1, dtype=np.int64)
    for first in range(0, len(values), CHUNK_ROWS):
        at = places(found, values[first : first + CHUNK_ROWS])
        hits = np.flatnonzero(at >= 0)
        place[at[hits]] = first + hits
    return place


# ---- the querier ---------------------------------------------------------------------------------------------------------------


def query(ch: Channel, s: Setting, *, state: Held | None) -> Outcome:
    """Find the shared customers as the side that holds the other's filter.

    Args:
        ch: link to the peer, which runs :func:`publish`.
        state: what was kept of this relation.

    Raises:
        DataError: ``psi.empty_set``, ``psi.too_many_elements``, ``psi.duplicate_identifier``, ``psi.identifier_not_text``.
        PolicyError: ``psi.too_few_shared``.
        PeerError: ``psi.empty_set``, ``psi.too_many_elements``, ``psi.filter_state``, ``psi.filter_digest``,
            ``psi.filter_malformed``, ``psi.filter_key_age``, ``psi.more_than_declared``, ``psi.batch_size``, ``psi.wrong_length``,
            ``psi.wrong_position``, ``psi.non_canonical_point``, ``psi.low_order_point``, ``psi.repeated_element``.
    """
    peer_size = _sizes(ch, s, "publisher")
    own, theirs = _order_shares(ch, s)
    usable = state if state is not None and s.terms.key_age < s.terms.reuse_days else None
    ask = pb.FilterAsk(reuse_days=s.terms.reuse_days, renew=state is not None and usable is None)
    if usable is not None:
        ask.key, ask.version, ask.digest = usable.key, usable.version, usable.digest
    ch.send(ask)
    told = ch.recv(pb.FilterState)
    check_told(told, peer_size, usable, state)
    held = usable if usable is not None and usable.key == told.key else None
    tag_key = held.tag_key if held else s.drbg.stream("psi.tags").bytes(TAG_KEY_BYTES)
    tags, order = tags_of(s.identifiers, tag_key)
    known = np.full(len(tags), -1, dtype=np.int64)
    if held is not None:
        known[order] = places(held.tags, tags)
    new = np.flatnonzero(known < 0)
    ch.send(pb.FilterQueries(elements=len(new)))
    coded = receive_edition(ch, s, told, held, peer_size)
    s.commit("filter key", told.key.hex())
    s.commit("filter", told.digest.hex(), rows=coded.elements, version=told.version)
    values = np.zeros(len(tags), dtype=VALUE)
    if held is not None:
        values[known >= 0] = held.values[known[known >= 0]]
    _ask(ch, s, new, values)
    rows = _find(ch, s, coded, values, theirs + own)
    kept = Held(told.key, tag_key, told.version, told.digest, coded, tags, values[order])
    alignment = Alignment(rows=rows, own_size=len(tags), peer_size=peer_size)
    keeps = told.reusable and s.terms.reuse_days > 0
    return Outcome(alignment, kept if keeps else None, new_key=held is None, whole=told.base == 0)


def _ask(ch: Channel, s: Setting, new: NDArray[np.int64], values: NDArray[np.void]) -> None:
    """F of the identifiers that have none yet, into ``values``; asked in a secret order."""
    order = new[s.drbg.stream("psi.order").permutation(len(new))]
    scalar, size = s.drbg.stream("psi.scalar").bytes(SCALAR_BYTES), s.limits.psi_batch
    inverse = inverse_scalar(scalar)
    bounds = ((first, min(first + size, len(order))) for first in range(0, len(order), size))
    batches = (
        blind_all(s.engine, [encoded(name) for name in names], s.relation, scalar)
        for names in pieces_of(s.identifiers, order, bounds)
    )
    done, batch = 0, next(batches, None)
    while batch is not None:
        count = len(batch) // POINT_BYTES
        ch.send(pb.BlindedPoints(first=done, count=count, values=batch))
        following = next(batches, None)  # the publisher answers meanwhile
        points, answered = take_items(ch, pb.EvaluatedPoints, done, done + count, 8 * POINT_BYTES, s.limits)
        if answered < count:
            raise deviates("psi.less_than_declared", "The publisher answered fewer points than it was asked about")
        check_canonical(points)
        values[order[done : done + count]] = np.frombuffer(unblind_all(s.engine, points, s.relation, inverse), dtype=VALUE)
        done, batch = done + count, following
        s.progress("align", done, len(order))


def _find(ch: Channel, s: Setting, coded: Filter, values: NDArray[np.void], shares: bytes) -> NDArray[np.int64]:
    """Rows whose value the filter holds and the publisher confirms, in the common order."""
    order = ascending(values)
    ordered = values[order]
    if (ordered[1:] == ordered[:-1]).any():
        raise deviates("psi.repeated_element", "The publisher answered two different points with the same value")
    rows = order[contains(coded, ordered)]
    _check_minimum(len(rows), s.minimum, "The two sets share")
    ch.send(pb.SharedCount(elements=len(rows)))
    send_items(ch, pb.SharedValues, values[rows].view(np.uint8), len(rows), 8 * KEPT_BYTES, s.limits)
    bits = np.frombuffer(receive_items(ch, pb.SharedConfirmed, len(rows), 1, s.limits), dtype=np.uint8)
    rows = rows[np.unpackbits(bits, count=len(rows)).astype(np.bool_)].astype(np.int64, copy=False)
    _check_minimum(len(rows), s.minimum, "The two sets share")
    return rows[common_order(values[rows], shares)]


# ---- both ----------------------------------------------------------------------------------------------------------------------


def _sizes(ch: Channel, s: Setting, peer: str) -> int:
    """Tell each other the sizes; neither set is empty, too large or below the minimum."""
    own, most = len(s.identifiers), s.limits.psi_elements
    if not 1 <= own <= most:
        code = "psi.empty_set" if own < 1 else "psi.too_many_elements"
        raise DataError(code, f"The own data set has {own} identifiers; 1 to {most} can be aligned.", remedy="Check the data set.")
    ch.send(pb.PsiStart(elements=own))
    size = int(ch.recv(pb.PsiStart).elements)
    if not 1 <= size <= most:
        code = "psi.empty_set" if size < 1 else "psi.too_many_elements"
        raise PeerError(code, f"The {peer} declared {size} elements; 1 to {most} can be aligned.", remedy="Ask the other side.")
    _check_minimum(min(own, size), s.minimum, "The smaller of the two sets has")
    return size


def _order_shares(ch: Channel, s: Setting) -> tuple[bytes, bytes]:
    """This side's and the other's part in the order of rows."""
    own = s.drbg.stream("psi.common order").bytes(ORDER_BYTES)
    ch.send(pb.CommonOrder(share=own))
    theirs = ch.recv(pb.CommonOrder).share
    if len(theirs) != ORDER_BYTES:
        raise deviates("psi.wrong_length", f"A part in the order of rows has {len(theirs)} bytes where {ORDER_BYTES} are due")
    return own, theirs


def common_order(values: NDArray[np.void], shares: bytes) -> NDArray[np.int64]:
    """Places that put values in the order common to both sides: of their hashes under the publisher's share, then the querier's."""
    start = hashlib.sha256(b"isthmus filter order v1" + shares)
    data = bytearray()
    for value in values:
        one = start.copy()
        one.update(value.tobytes())
        data += one.digest()[:KEPT_BYTES]
    return np.argsort(np.frombuffer(bytes(data), dtype=VALUE)).astype(np.int64, copy=False)


def _check_minimum(size: int, minimum: int, what: str) -> None:
    if size < minimum:
        raise PolicyError(
            "psi.too_few_shared",
            f"{what} {size} customers; at least {minimum} shared ones are required.",
            remedy="Check that both sides normalise the same identifier the same way; job and policy set the minimum.",
        )
