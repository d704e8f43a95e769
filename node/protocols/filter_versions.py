"""The versions of a published filter, from one job to the next: how the publisher makes one, and how the querier comes by it.

A version is sent as a whole, or as what left and what came since the one that the querier holds; its digest is chained to that of
the one before.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from audit.layout import (
    FILTER_CHANGE_BYTES,
    FILTER_PREFIX_MAX,
    FILTER_PREFIX_MIN,
    FILTER_REMAINDER_BITS,
    KEPT_BYTES,
    filter_prefix_bits,
)
from node.crypto.curve import SCALAR_BYTES
from node.crypto.elias_fano import CHANGE, VALUE, Filter, changed, check_code, encode, index_bits, shortened
from node.crypto.oprf import key_commitment
from node.engine.filters import mask_all
from node.limits import Limits
from node.protocols.channel import Channel
from node.protocols.filter_state import (
    DIGEST_BYTES,
    TAG_KEY_BYTES,
    Held,
    Published,
    Setting,
    changed_digest,
    encoded,
    tags_of,
    whole_digest,
)
from node.protocols.filter_transfer import deviates, receive_items, send_items
from node.protocols.filter_values import ascending, places
from node.scratch import pieces_of
from protos import peer_pb2 as pb

VERSION_MAX = 2**31


# ---- the publisher -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Edition:
    """The version that a job uses, what the querier needs to come by it, and the row of each of its customers, by tag."""

    key: bytes
    state: Published
    rows: NDArray[np.int64] = field(repr=False)
    base: int
    whole: Filter | None = field(repr=False)
    removed: NDArray[np.void] = field(repr=False)
    added: NDArray[np.void] = field(repr=False)


def make_edition(s: Setting, before: Published | None, ask: pb.FilterAsk) -> Edition:
    """Mask who is new, forget who left, and decide between the whole filter and its changes."""
    if before is None:
        scalar, tag_key = s.drbg.stream("psi.scalar").bytes(SCALAR_BYTES), s.drbg.stream("psi.tags").bytes(TAG_KEY_BYTES)
        before = Published(scalar, tag_key, 0, b"", 0, _nothing(VALUE), _nothing(VALUE))
    key = key_commitment(before.scalar)
    tags, rows = tags_of(s.identifiers, before.tag_key)
    known = places(before.tags, tags)
    new = np.flatnonzero(known < 0)
    fresh = _masked(s, rows[new], before.scalar)
    values = np.zeros(len(tags), dtype=VALUE)
    values[known >= 0], values[new] = before.values[known[known >= 0]], fresh
    left = np.delete(before.values, known[known >= 0])
    holds = (ask.key, ask.version, ask.digest) == (key, before.version, before.digest)
    fits = 1 << (before.prefix_bits - 2) < len(tags) <= 1 << before.prefix_bits if before.prefix_bits >= 2 else False
    changes = len(left) + len(new)
    if holds and fits and s.terms.filter_age < s.terms.filter_days and 2 * changes <= len(tags):
        removed, added = (np.sort(shortened(part, before.prefix_bits)) for part in (left, fresh))
        version, digest = before.version, before.digest
        if changes:
            version += 1
            digest = changed_digest(digest, version, len(tags), removed, added)
        now = Published(before.scalar, before.tag_key, version, digest, before.prefix_bits, tags, values)
        return Edition(key, now, rows, before.version, None, removed, added)
    # A number that the querier has seen under this key never names another set.
    version = max(before.version, ask.version if ask.key == key else 0) + 1
    whole = encode(values[ascending(values)], filter_prefix_bits(len(tags)))
    digest = whole_digest(s.relation, key, version, whole)
    now = Published(before.scalar, before.tag_key, version, digest, whole.prefix_bits, tags, values)
    return Edition(key, now, rows, 0, whole, _nothing(CHANGE), _nothing(CHANGE))


def _masked(s: Setting, chosen: NDArray[np.int64], scalar: bytes) -> NDArray[np.void]:
    """F of the chosen identifiers."""
    values, done = np.empty(len(chosen), dtype=VALUE), 0
    size = s.limits.psi_batch
    bounds = ((first, min(first + size, len(chosen))) for first in range(0, len(chosen), size))
    for names in pieces_of(s.identifiers, chosen, bounds):
        masked = mask_all(s.engine, [encoded(name) for name in names], s.relation, scalar)
        values[done : done + len(names)] = np.frombuffer(masked, dtype=VALUE)
        done += len(names)
        s.progress("align", done, len(chosen))
    return values


def send_edition(ch: Channel, limits: Limits, edition: Edition) -> None:
    if edition.whole is not None:
        whole = edition.whole
        send_items(ch, pb.FilterIndex, whole.index, index_bits(whole.elements, whole.prefix_bits), 1, limits)
        send_items(ch, pb.FilterRemainders, whole.remainders, whole.elements, FILTER_REMAINDER_BITS, limits)
    for kind, part in ((pb.FilterRemoved, edition.removed), (pb.FilterAdded, edition.added)):
        send_items(ch, kind, part.view(np.uint8), len(part), 8 * FILTER_CHANGE_BYTES, limits)


# ---- the querier ---------------------------------------------------------------------------------------------------------------


def check_told(told: pb.FilterState, peer_size: int, usable: Held | None, state: Held | None) -> None:
    """The publisher's version is one that can be and follows from the one held; its key is not one that is done with here."""
    whole = told.base == 0
    same = usable is not None and usable.key == told.key
    if state is not None and usable is None and state.key == told.key:
        raise deviates("psi.filter_key_age", "The publisher uses a key again that has served its days by the policy of this node")
    lawful = (
        len(told.key) == len(told.digest) == DIGEST_BYTES
        and 0 < told.version < VERSION_MAX
        and FILTER_PREFIX_MIN <= told.prefix_bits <= FILTER_PREFIX_MAX
        and peer_size <= 1 << told.prefix_bits
        and told.added <= peer_size
    )
    if lawful and whole:
        lawful = not (told.removed or told.added) and told.prefix_bits == filter_prefix_bits(peer_size)
        lawful = lawful and (not same or usable is None or told.version > usable.version)
    elif lawful:
        changes = told.removed + told.added
        lawful = (
            usable is not None
            and same
            and (told.base, told.prefix_bits) == (usable.version, usable.filter.prefix_bits)
            and told.version == usable.version + (changes > 0)
            and told.removed <= usable.filter.elements
            and usable.filter.elements - told.removed + told.added == peer_size
            and (changes > 0 or told.digest == usable.digest)
        )
    if not lawful:
        raise deviates(
            "psi.filter_state", "The publisher told of a filter that there cannot be, or that does not follow from the last"
        )


def receive_edition(ch: Channel, s: Setting, told: pb.FilterState, held: Held | None, elements: int) -> Filter:
    """The filter of the version told, whole or brought forward, held against its digest."""
    limits, bits = s.limits, told.prefix_bits
    try:
        if told.base == 0 or held is None:
            index = receive_items(ch, pb.FilterIndex, index_bits(elements, bits), 1, limits)
            remainders = receive_items(ch, pb.FilterRemainders, elements, FILTER_REMAINDER_BITS, limits)
            coded = Filter(elements, bits, np.frombuffer(index, dtype=np.uint8), np.frombuffer(remainders, dtype=np.uint8))
            check_code(coded)
            digest = whole_digest(s.relation, told.key, told.version, coded)
        else:
            removed, added = (
                np.frombuffer(receive_items(ch, kind, count, 8 * FILTER_CHANGE_BYTES, limits), dtype=CHANGE)
                for kind, count in ((pb.FilterRemoved, told.removed), (pb.FilterAdded, told.added))
            )
            coded, digest = held.filter, held.digest
            if len(removed) or len(added):
                for part in (removed, added):
                    _check_changes(part, bits)
                coded = changed(coded, removed=removed, added=added)
                digest = changed_digest(digest, told.version, elements, removed, added)
    except ValueError as error:
        raise deviates("psi.filter_malformed", f"The publisher's filter is malformed: {error}") from None
    if digest != told.digest:
        raise deviates("psi.filter_digest", "The publisher's filter is not the one whose digest it told")
    return coded


def _check_changes(part: NDArray[np.void], prefix_bits: int) -> None:
    if (np.sort(part) != part).any():
        raise ValueError("its changes are out of order")
    padded = np.zeros((len(part), KEPT_BYTES), dtype=np.uint8)
    padded[:, :FILTER_CHANGE_BYTES] = part.view(np.uint8).reshape(-1, FILTER_CHANGE_BYTES)
    if (shortened(padded.view(VALUE).reshape(-1), prefix_bits) != part).any():
        raise ValueError("a change has more bits than an element")


def _nothing(dtype: np.dtype) -> NDArray[np.void]:
    return np.zeros(0, dtype=dtype)
