"""What an alignment by oblivious transfer makes of identifiers on one side alone: hashes, bins, stores, tags.

An identifier's 32-byte hash (SHA-256 under a key that both sides' messages decide) is used in parts::

    bytes  0 to 3    its bin                     16 to 24   its 68-bit value in the store (the top half of byte 24 is not used)
           4 to 15   its slot in each segment    25 to 30   its dense slots
                                                 16 to 31   the tweak of its tag

Everything is a function of its inputs; :mod:`node.protocols.psi_ot` does the talking.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from audit.aligning import BinShape
from node.crypto import okvs
from node.crypto.bit_columns import transpose_bits, transpose_rows
from node.crypto.code import MESSAGE_BITS, MESSAGE_SYMBOLS, compression, generator, multiply
from node.crypto.ot import permute
from node.crypto.vole import SenderStreams
from node.engine.batches import not_text
from node.errors import DataError
from node.protocols.psi import duplicate
from node.scratch import MemoryScratch, Piece, Scratch, picked

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint64]

HASH_BYTES = 32
_VALUE_BYTES = -(-MESSAGE_BITS // 8)
_BATCH = 1 << 14  # identifiers hashed between two allocations
_GROUP = 1 << 20  # identifiers sorted at a time: 40 MB, and pieces of a bin that are worth their place in a file


def hash_key(parts: Iterable[bytes]) -> bytes:
    """The key of an alignment's hashes, from all that was said before; 32 bytes."""
    digest = hashlib.sha256(b"isthmus psi items v1")
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


def hash_all(identifiers: Sequence[str], key: bytes) -> Bytes:
    """SHA-256(key, identifier) of each; uint8, shape (n, 32).

    Raises:
        DataError: ``psi.identifier_not_text``.
    """
    out = np.empty((len(identifiers), HASH_BYTES), dtype=np.uint8)
    sha256 = hashlib.sha256
    for first in range(0, len(identifiers), _BATCH):
        batch = identifiers[first : first + _BATCH]
        try:
            joined = b"".join([sha256(key + name.encode()).digest() for name in batch])
        except UnicodeEncodeError:
            raise not_text() from None
        out[first : first + len(batch)] = np.frombuffer(joined, dtype=np.uint8).reshape(-1, HASH_BYTES)
    return out


@dataclass(frozen=True)
class Items:
    """Identifiers of one bin: ``rows``, int64, shape (n,), says which they are; ``hashes`` is uint8, shape (n, 32)."""

    rows: NDArray[np.int64]
    hashes: Bytes

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def values(self) -> Words:
        """What the store gives them: 68 bits in two words, shape (n, 2)."""
        words = np.zeros((len(self), 2), dtype="<u8")
        words.view(np.uint8)[:, :_VALUE_BYTES] = self.hashes[:, 16 : 16 + _VALUE_BYTES]
        words[:, 1] &= (1 << (MESSAGE_BITS - 64)) - 1
        return words

    @property
    def tweaks(self) -> Words:
        """128 bits of each hash, shape (n, 2)."""
        return np.ascontiguousarray(self.hashes[:, 16:]).view("<u8")

    def places(self, segment: int) -> okvs.Places:
        """Where they look in a store."""
        return okvs.places(np.concatenate((self.hashes[:, 4:16], self.hashes[:, 25:31]), axis=1), segment)


class Bins(Sequence[Items]):
    """All identifiers, hashed, by bins; a bin's items are put together when it is asked for.

    Raises:
        DataError: ``psi.duplicate_identifier``, of a bin that holds an identifier twice; what the scratch raises.
    """

    def __init__(self, parts: list[list[tuple[int, Piece]]], identifiers: Sequence[str]) -> None:
        self._parts, self._identifiers = parts, identifiers

    def __len__(self) -> int:
        return len(self._parts)

    @overload
    def __getitem__(self, index: int) -> Items: ...

    @overload
    def __getitem__(self, index: slice) -> list[Items]: ...

    def __getitem__(self, index: int | slice) -> Items | list[Items]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        parts = [_opened(piece.read(), count) for count, piece in self._parts[index]]
        rows = np.concatenate([np.zeros(0, dtype=np.int64), *(rows for rows, _ in parts)])
        items = Items(rows, np.concatenate([np.zeros((0, HASH_BYTES), dtype=np.uint8), *(hashes for _, hashes in parts)]))
        self._check_repeats(items)
        return items

    def _check_repeats(self, items: Items) -> None:
        words = items.tweaks[:, 0]
        ordered = np.sort(words)
        again = ordered[1:][ordered[1:] == ordered[:-1]]
        alike = items.rows[np.isin(words, again)] if len(again) else items.rows[:0]
        if len(set(picked(self._identifiers, alike))) < len(alike):
            raise duplicate()


def _opened(data: bytes, count: int) -> tuple[NDArray[np.int64], Bytes]:
    hashes = np.frombuffer(data, dtype=np.uint8, offset=8 * count).reshape(count, HASH_BYTES)
    return np.frombuffer(data, dtype="<i8", count=count), hashes


def into_bins(
    identifiers: Sequence[str], key: bytes, bins: int, load: int, scratch: Scratch | None = None, *, group: int = _GROUP
) -> Bins:
    """Hash identifiers and sort them into bins; only slices of ``identifiers`` are read, in order.

    Args:
        load: the most that a bin may hold.
        scratch: takes the hashes, 40 bytes an identifier; None: memory.
        group: identifiers that are sorted at a time.

    Raises:
        DataError: ``psi.identifier_not_text``; ``psi.bin_overflow`` (a chance below 2^-40); what the scratch raises.
    """
    scratch = scratch or MemoryScratch()
    parts: list[list[tuple[int, Piece]]] = [[] for _ in range(bins)]
    totals = np.zeros(bins, dtype=np.int64)
    for first in range(0, len(identifiers), group):
        hashes = hash_all(identifiers[first : first + group], key)
        heads = np.ascontiguousarray(hashes[:, :4]).view("<u4").reshape(-1).astype(np.uint64)
        places = (heads * np.uint64(bins) >> np.uint64(32)).astype(np.uint16)  # at most 3,052 bins
        order = np.argsort(places, kind="stable").astype("<i8", copy=False)
        counts = np.bincount(places, minlength=bins)
        totals += counts
        ends = np.cumsum(counts).tolist()
        for number, (end, count) in enumerate(zip(ends, counts.tolist(), strict=True)):
            if count:
                rows = order[end - count : end]
                parts[number].append((count, scratch.put((first + rows).tobytes() + hashes[rows].tobytes())))
    if totals.max() > load:
        raise DataError(
            "psi.bin_overflow",
            "More own identifiers fell into one bin than it holds (a chance below 2^-40).",
            remedy="Run the step again: it draws another hash.",
        )
    return Bins(parts, identifiers)


# ---- stores -------------------------------------------------------------------------------------------------------------------


def store_of(items: Items, shape: BinShape) -> Words:
    """The receiver's store for a bin: each item finds its value; uint64, shape (slots, 2).

    Raises:
        DataError: ``psi.store_failed`` (a chance below 2^-40).
    """
    return okvs.encode(items.places(shape.segment), items.values)


def code_words(store: Words) -> Bytes:
    """The codewords of a store's slots, as planes; uint8, shape (60, 4, slots / 8); slots are a multiple of 64."""
    columns = transpose_rows(store)[:MESSAGE_BITS]
    return multiply(np.ascontiguousarray(generator().T), columns.reshape(MESSAGE_SYMBOLS, 4, -1))


def compressed(planes: Bytes) -> Words:
    """128 bits a slot from the 240 of shares: uint8, shape (60, 4, slots / 8), to uint64, shape (slots, 2)."""
    product = multiply(compression(), planes)
    return transpose_bits(product.reshape(128, -1), 8 * planes.shape[-1]).view("<u8")


class ValueProducts:
    """The sender's map from a 68-bit value h to the 128 bits L(d * C(h)): by tables for each byte of h."""

    def __init__(self, streams: SenderStreams) -> None:
        units = np.zeros((128, 2), dtype="<u8")
        units[np.arange(MESSAGE_BITS), np.arange(MESSAGE_BITS) // 64] = (
            np.uint64(1) << np.arange(MESSAGE_BITS, dtype=np.uint64) % 64
        )
        words = code_words(units)
        products = np.zeros_like(words)
        streams.add_product(products, words)
        self._tables = okvs.subset_tables(compressed(products)[: 8 * _VALUE_BYTES])

    def __repr__(self) -> str:
        return "ValueProducts(<secret>)"

    def add_to(self, found: Words, values: Words) -> None:
        """Add the product of every value, in place; both uint64, shape (n, 2)."""
        columns = np.ascontiguousarray(values.view(np.uint8)[:, :_VALUE_BYTES].T)
        for table, column in zip(self._tables, columns, strict=True):
            found ^= np.take(table, column, axis=0)


# ---- tags ---------------------------------------------------------------------------------------------------------------------


def tags_of(keys: Words, tweaks: Words, width: int) -> Words:
    """TMMO of each key (Guo, Katz, Wang and Yu 2020, section 7.4), cut to its first ``width`` bytes.

    Returns:
        uint64, shape (n, 2), native words of big-endian bytes: ascending as (first, second) is ascending as bytes.
    """
    inner = permute(np.ascontiguousarray(keys))
    hashed = permute(inner ^ tweaks) ^ inner
    hashed.view(np.uint8)[:, width:] = 0
    return hashed.view(">u8").astype(np.uint64)


def tag_order(tags: Words) -> NDArray[np.int64]:
    """What sorts tags in ascending order."""
    return np.lexsort((tags[:, 1], tags[:, 0])).astype(np.int64, copy=False)


def tag_bytes(tags: Words, width: int) -> bytes:
    """Tags as they are sent, ``width`` bytes each."""
    return np.ascontiguousarray(tags.astype(">u8").view(np.uint8)[:, :width]).tobytes()


def tags_from(data: bytes, width: int) -> Words:
    """The inverse of :func:`tag_bytes`."""
    padded = np.zeros((len(data) // width, 16), dtype=np.uint8)
    padded[:, :width] = np.frombuffer(data, dtype=np.uint8).reshape(-1, width)
    return padded.view(">u8").astype(np.uint64)


def ascending(tags: Words) -> bool:
    """Whether each tag is above the one before it."""
    first, second = tags[:, 0], tags[:, 1]
    return bool(np.all((first[:-1] < first[1:]) | (first[:-1] == first[1:]) & (second[:-1] < second[1:])))


def common(own: Words, theirs: Words) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places in ``own`` and in ``theirs`` of the tags that both hold, in ascending order of the tags; no list holds a tag twice."""
    both = np.concatenate((own, theirs))
    order = tag_order(both)
    ordered = both[order]
    same = np.flatnonzero((ordered[1:] == ordered[:-1]).all(axis=1))
    pairs = np.stack((order[same], order[same + 1]))
    return pairs.min(axis=0), pairs.max(axis=0) - len(own)
