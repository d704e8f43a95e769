"""Private set intersection by oblivious transfer (protocols.md, section 1): one side blindly evaluates the other's function.

The side whose set is not the larger is the *receiver* (set Y), the other the *sender* (set X)::

    receiver                                                      sender, secret d of 60 elements of GF(16)
    BasePoint     A = r G                                ->
                                                         <-       BaseChoices   a point for each of 240 base transfers
    TreeSums      what the sender's trees lack           ->
    for each bin:
      StoreColumns  A + C(D), D the store of Y's values  ->
                                                         <-       ItemTags      F(x) for each x, padded, ascending
    once all bins are through:
      SharedMarks   which of the tags it has             ->

It is the construction of Pinkas, Rosulek, Trieu and Yanai, "PSI from PaXoS" (EUROCRYPT 2020, section 5), and of Raghuraman and
Rindal (CCS 2022): an oblivious key-value store (:mod:`node.crypto.okvs`) goes into a vector correlation, here one over GF(16) from
oblivious transfer extension (:mod:`node.crypto.vole`) with the code of :mod:`node.crypto.code`.  The receiver holds
Q = L(W), the sender K = L(W + d * C(D)); for the decoded Q(x), K(x), D(x) and an item's value h(x)

    F(x) = H(x, K(x) + L(d * C(h(x)))) = H(x, Q(x) + L(d * C(D(x) + h(x))))

so that the receiver finds F(y) = H(y, Q(y)) for its own y, as D(y) = h(y).

**What each learns.**  The receiver: the tags of X, of which those of shared customers are known to it, and all others are
pseudo-random: D(x) differs from h(x), so d enters with 128 uniform bits.  The sender: nothing from the columns, which are under a
pad; then the marks, that is, the intersection.  Tags are padded to the bin's load with random ones and in ascending order, so
neither their number nor their place says anything.  The common row order is by bin and tag.

**Security.**  Semi-honest parties, as all of this project's protocols: under computational Diffie-Hellman and SHA-256 as a random
oracle for the base transfers and keys, AES-128 as a pseudo-random generator and an ideal permutation for the rest.  Deviation
is found by the audit's replay.  A receiver that deviates could bring more keys than it declared, up to the slots of its store, or
mark what it does not hold; a sender could send tags that match nothing.

**False matches.**  D(x) = h(x) by chance: |X| 2^-68, below 2^-40 for 2^28 elements.  Two tags alike: they have
40 + log2 |X| + log2 |Y| bits and more, so below 2^-40.

**Lock step.**  The receiver prepares the next bin while the sender works on this one, and sends it when it has this one's tags: no
link holds more than one bin's columns, and one that holds a single message cannot deadlock.

**Memory.**  A bin has 65,536 elements of the larger set on average, and both sides pad it to its load.  Beside it, a byte a tag at
the receiver and eight at the sender; the hashes of own elements, 40 bytes each, go bin by bin to the step's scratch, which keeps
them in an encrypted file where they are many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from audit.aligning import BASE_TRANSFERS, CHUNK_SLOTS, COORDINATES, MARKS_BATCH, SYMBOL_BITS, BinShape, bin_shape, chunks
from audit.layout import POINT_BYTES
from node.crypto import base_ot, okvs, vole
from node.crypto.drbg import Drbg, Stream
from node.protocols import psi_items
from node.protocols.channel import Channel, Progress, silent
from node.protocols.psi import Alignment, Peer, check_minimum
from node.protocols.psi_items import Bins, Bytes, Items, Words
from node.scratch import Scratch
from protos.peer_pb2 import BaseChoices, BasePoint, ItemTags, SharedMarks, StoreColumns, TreeSums

_SUM_BYTES = 2 * vole.KEY_BYTES
_COLUMNS = COORDINATES * SYMBOL_BITS

Batch = BasePoint | BaseChoices | TreeSums | StoreColumns | ItemTags | SharedMarks
B = TypeVar("B", BasePoint, BaseChoices, TreeSums, StoreColumns, ItemTags, SharedMarks)


def match(
    ch: Channel,
    peer: Peer,
    *,
    receives: bool,
    job: str,
    identifiers: Sequence[str],
    minimum: int,
    drbg: Drbg,
    scratch: Scratch | None = None,
    progress: Progress = silent,
) -> Alignment:
    """Find the customers both sides have, once both sizes are known (:func:`node.protocols.psi.declare`).

    Args:
        ch: link to the peer, which runs the same function.
        peer: its set.
        receives: whether this side is the receiver; the other must not be.
        job: identity of the job; both sides must name the same.
        identifiers: own identifiers, normalised and without duplicates.
        minimum: fewest shared customers this side's policy accepts.
        drbg: randomness of this attempt; opens ``psi.base`` and ``psi.trees`` (receiver) or ``psi.secret``, ``psi.base`` and
            ``psi.padding`` (sender).
        scratch: takes the hashes of own identifiers, by bins; None: memory.
        progress: told ``("align", bins done, bins)`` once a bin.

    Raises:
        DataError: ``psi.duplicate_identifier``, ``psi.identifier_not_text``; ``psi.store_failed`` and ``psi.bin_overflow``, with a
            chance below 2^-40 each.
        PolicyError: ``psi.too_few_shared``; the receiver raises it before the sender learns anything.
        PeerError: ``psi.wrong_position``, ``psi.wrong_count``, ``psi.wrong_length``, ``psi.non_canonical_point``,
            ``psi.base_point``, ``psi.not_ascending``, ``psi.marked_padding``, ``psi.more_than_declared``.
    """
    sizes = (len(identifiers), peer.size) if receives else (peer.size, len(identifiers))
    run = (_Receiver if receives else _Sender)(ch, peer, bin_shape(*sizes), job, scratch, progress)
    rows = run.match(identifiers, drbg, minimum)
    return Alignment(rows=rows, own_size=len(identifiers), peer_size=peer.size)


class _Side:
    """What both halves share: the link, the sizes, and the checks of what comes."""

    def __init__(self, ch: Channel, peer: Peer, shape: BinShape, job: str, scratch: Scratch | None, progress: Progress) -> None:
        self._ch, self._peer, self._shape, self._job = ch, peer, shape, job
        self._scratch, self._progress = scratch, progress

    def _recv(self, kind: type[B], first: int, count: int, size: int) -> bytes:
        """The values of the next message, which must be this one."""
        message = self._ch.recv(kind)
        if message.first != first:
            raise self._peer.error("psi.wrong_position", f"sent {kind.__name__} from {message.first}; {first} was next")
        if message.count != count:
            raise self._peer.error("psi.wrong_count", f"sent {message.count} items of {kind.__name__}; {count} were due")
        if len(message.values) != size:
            raise self._peer.error("psi.wrong_length", f"sent {len(message.values)} bytes of {kind.__name__}; {size} were due")
        return message.values

    def _bins(self, identifiers: Sequence[str], key: bytes, load: int) -> Bins:
        return psi_items.into_bins(identifiers, key, self._shape.bins, load, self._scratch)

    def _chunks(self, index: int) -> list[tuple[int, int]]:
        """Positions and sizes of the messages that carry a bin's slots."""
        return chunks(index * self._shape.slots, self._shape.slots, CHUNK_SLOTS)

    def _marks(self) -> list[tuple[int, int]]:
        return chunks(0, self._shape.all_tags, MARKS_BATCH)


class _Receiver(_Side):
    def match(self, identifiers: Sequence[str], drbg: Drbg, minimum: int) -> NDArray[np.int64]:
        key, streams = self._set_up(drbg)
        bins = self._bins(identifiers, key, self._shape.receiver_load)
        rows = []
        marks = np.zeros(self._shape.all_tags, dtype=np.bool_)
        items = bins[0]
        columns, own = self._prepare(items, streams)
        self._send(0, columns)
        for index in range(len(bins)):
            tags = self._tags(own, items)
            following = bins[index + 1] if index + 1 < len(bins) else None
            if following is not None:
                columns, own = self._prepare(following, streams)
            theirs = self._recv_tags(index)
            if following is not None:
                self._send(index + 1, columns)
            mine, places = psi_items.common(tags, theirs)
            rows.append(items.rows[mine])
            marks[index * self._shape.sender_load + places] = True
            self._progress("align", index + 1, len(bins))
            if following is not None:
                items = following
        shared = np.concatenate(rows)
        check_minimum(len(shared), minimum, "The two sets share")
        for first, count in self._marks():
            packed = np.packbits(marks[first : first + count], bitorder="little")
            self._ch.send(SharedMarks(first=first, count=count, values=packed.tobytes()))
        return shared

    def _set_up(self, drbg: Drbg) -> tuple[bytes, vole.ReceiverStreams]:
        """Base transfers and key trees; the key of the items' hashes."""
        base = base_ot.Sender.draw(self._job, drbg.stream("psi.base"))
        self._ch.send(BasePoint(first=0, count=1, values=base.point))
        chosen = self._recv(BaseChoices, 0, BASE_TRANSFERS, BASE_TRANSFERS * POINT_BYTES)
        roots = np.frombuffer(drbg.stream("psi.trees").bytes(COORDINATES * vole.KEY_BYTES), dtype=np.uint8)
        leaves, sums = vole.grow(roots.reshape(COORDINATES, vole.KEY_BYTES), base.keys(chosen))
        self._ch.send(TreeSums(first=0, count=BASE_TRANSFERS, values=sums.tobytes()))
        key = psi_items.hash_key((self._job.encode(), base.point, chosen, sums.tobytes()))
        return key, vole.ReceiverStreams(leaves)

    def _prepare(self, items: Items, streams: vole.ReceiverStreams) -> tuple[list[Bytes], Words]:
        """A bin's columns to send, chunk by chunk, and what its items find in the own shares."""
        store = psi_items.store_of(items, self._shape)
        columns, keys = [], np.empty_like(store)
        for first, count in chunks(0, len(store), CHUNK_SLOTS):
            pad, share = streams.read(count)
            pad ^= psi_items.code_words(store[first : first + count])
            columns.append(pad)
            keys[first : first + count] = psi_items.compressed(share)
        return columns, okvs.decode(keys, items.places(self._shape.segment))

    def _tags(self, found: Words, items: Items) -> Words:
        return psi_items.tags_of(found, items.tweaks, self._shape.tag_bytes)

    def _send(self, index: int, columns: list[Bytes]) -> None:
        for (first, count), part in zip(self._chunks(index), columns, strict=True):
            self._ch.send(StoreColumns(first=first, count=count, values=part.tobytes()))

    def _recv_tags(self, index: int) -> Words:
        load, width = self._shape.sender_load, self._shape.tag_bytes
        tags = psi_items.tags_from(self._recv(ItemTags, index * load, load, load * width), width)
        if not psi_items.ascending(tags):
            raise self._peer.error("psi.not_ascending", "sent tags that do not ascend")
        return tags


class _Sender(_Side):
    def match(self, identifiers: Sequence[str], drbg: Drbg, minimum: int) -> NDArray[np.int64]:
        key, streams, products = self._set_up(drbg)
        bins = self._bins(identifiers, key, self._shape.sender_load)
        padding = drbg.stream("psi.padding")
        rows = np.empty(self._shape.all_tags, dtype=np.int64)  # whose tag it is; -1 for padding
        for index, items in enumerate(bins):
            keys = self._shares(index, streams)
            found = okvs.decode(keys, items.places(self._shape.segment))
            products.add_to(found, items.values)
            first, load = index * self._shape.sender_load, self._shape.sender_load
            tags, rows[first : first + load] = self._padded(items, found, padding)
            self._ch.send(ItemTags(first=first, count=load, values=psi_items.tag_bytes(tags, self._shape.tag_bytes)))
            self._progress("align", index + 1, len(bins))
        shared = self._recv_marks(rows)
        check_minimum(len(shared), minimum, "The two sets share")
        return shared

    def _set_up(self, drbg: Drbg) -> tuple[bytes, vole.SenderStreams, psi_items.ValueProducts]:
        secrets = np.frombuffer(drbg.stream("psi.secret").bytes(COORDINATES), dtype=np.uint8) & np.uint8(vole.LEAVES - 1)
        point = self._recv(BasePoint, 0, 1, POINT_BYTES)
        chosen, keys = base_ot.choose(self._job, point, vole.path_choices(secrets), drbg.stream("psi.base"))
        self._ch.send(BaseChoices(first=0, count=BASE_TRANSFERS, values=chosen))
        sums = self._recv(TreeSums, 0, BASE_TRANSFERS, BASE_TRANSFERS * _SUM_BYTES)
        pairs = np.frombuffer(sums, dtype=np.uint8).reshape(BASE_TRANSFERS, 2, vole.KEY_BYTES)
        streams = vole.SenderStreams(secrets, vole.puncture(secrets, keys, pairs))
        return psi_items.hash_key((self._job.encode(), point, chosen, sums)), streams, psi_items.ValueProducts(streams)

    def _shares(self, index: int, streams: vole.SenderStreams) -> Words:
        """K of a bin's slots; uint64, shape (slots, 2)."""
        keys = np.empty((self._shape.slots, 2), dtype=np.uint64)
        done = 0
        for first, count in self._chunks(index):
            share = streams.read(count)
            values = self._recv(StoreColumns, first, count, _COLUMNS * count // 8)
            streams.add_product(share, np.frombuffer(values, dtype=np.uint8).reshape(share.shape))
            keys[done : done + count] = psi_items.compressed(share)
            done += count
        return keys

    def _padded(self, items: Items, found: Words, padding: Stream) -> tuple[Words, NDArray[np.int64]]:
        """A bin's tags in ascending order, and whose each is."""
        width, load = self._shape.tag_bytes, self._shape.sender_load
        random = psi_items.tags_from(padding.bytes((load - len(items)) * width), width)
        tags = np.concatenate((psi_items.tags_of(found, items.tweaks, width), random))
        rows = np.concatenate((items.rows, np.full(len(random), -1, dtype=np.int64)))
        order = psi_items.tag_order(tags)
        return tags[order], rows[order]

    def _recv_marks(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The own rows that the receiver marked, in the common order."""
        found = []
        for first, count in self._marks():
            values = self._recv(SharedMarks, first, count, -(-count // 8))
            bits = np.unpackbits(np.frombuffer(values, dtype=np.uint8), bitorder="little")
            if bits[count:].any() or (rows[first + np.flatnonzero(bits)] < 0).any():
                raise self._peer.error("psi.marked_padding", "marked a tag that is no element's")
            found.append(rows[first + np.flatnonzero(bits)])
        shared = np.concatenate(found)
        if len(shared) > self._peer.size:
            raise self._peer.error("psi.more_than_declared", f"marked {len(shared)} elements; it declared {self._peer.size}")
        return shared
