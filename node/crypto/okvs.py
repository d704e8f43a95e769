"""An oblivious key-value store: a vector in which every key finds its value as the xor of a few of its entries.

A garbled cuckoo table of three hash functions (Garimella, Pinkas, Rosulek, Trieu, Yanai, "Oblivious key-value stores and
amplification for private set intersection", CRYPTO 2021; Raghuraman and Rindal, "Blazing fast PSI from improved OKVS and subfield
VOLE", CCS 2022, section 3).  A key takes one slot from each of three segments and, by 48 bits of its hash, a subset of the dense
slots; its value is the xor of them all.

**Encoding** peels: a slot that one key alone uses can serve that key whatever the others do, so the key is taken away, and so on,
all such slots of a layer at once.  What cannot be peeled (nothing or a few keys, seldom more) is solved by elimination over GF(2)
with the dense slots; then values are assigned layer by layer, the last peeled first.

**Failure.**  The left-over keys' equations lack rank by the few sets of keys that use the same slots (of n keys, two do with a
chance of about 7 / n).  Each missing rank costs a dense slot, and the remaining random ones make up for d missing ranks with a
chance of 1 - 2^(d - 48).  So encoding fails with a chance below 2^-40 as long as no more than 8 ranks are missing, which
``tests/unit/test_okvs.py`` counts.

Values are 128 bits, two 64-bit words.  Slots that no key needs hold zero: a store is not to be shown, but sent under a pad.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from audit.aligning import DENSE_SLOTS
from node.errors import DataError

DENSE_BYTES = 6
"""Bytes of a key's hash that choose dense slots."""

Words = NDArray[np.uint64]
Bytes = NDArray[np.uint8]
Slots = NDArray[np.int64]


@dataclass(frozen=True)
class Places:
    """Where many keys look.

    Attributes:
        slots: int64, shape (3, keys): one slot of each segment, numbered through.
        dense: uint8, shape (keys, 6): bit i % 8 of byte i // 8 says whether dense slot i counts.
        segment: slots of a segment.
    """

    slots: Slots
    dense: Bytes
    segment: int

    @property
    def size(self) -> int:
        """Slots of the whole store."""
        return 3 * self.segment + DENSE_SLOTS


def places(hashes: Bytes, segment: int) -> Places:
    """Where keys look, by 18 uniform bytes of each one's hash; uint8, shape (keys, 18).

    A slot is a 32-bit word times the segment's size, cut to its high half: off uniform by less than segment / 2^32.
    """
    words = np.ascontiguousarray(hashes[:, :12]).view("<u4").astype(np.uint64)
    slots = (words * np.uint64(segment) >> np.uint64(32)).astype(np.int64).T + segment * np.arange(3)[:, None]
    return Places(np.ascontiguousarray(slots), np.ascontiguousarray(hashes[:, 12:18]), segment)


def encode(where: Places, values: Words) -> Words:
    """A store in which each key of ``where`` finds its value.

    Args:
        where: of keys that differ from each other.
        values: uint64, shape (keys, 2).

    Returns:
        uint64, shape (``where.size``, 2).

    Raises:
        DataError: ``psi.store_failed`` when there is none (a chance below 2^-40).
    """
    layers, left = _peel(where)
    store = np.zeros((where.size, 2), dtype=np.uint64)
    if len(left):
        _solve(where, values, left, store)
    for keys, slots in reversed(layers):
        part = Places(where.slots[:, keys], where.dense[keys], where.segment)
        store[slots] = values[keys] ^ decode(store, part, dense=bool(len(left)))
    return store


def decode(store: Words, where: Places, *, dense: bool = True) -> Words:
    """What each key finds in a store; uint64, shape (keys, 2).

    Args:
        store: uint64, shape (``where.size``, 2).
        where: of the keys.
        dense: False where the dense slots are known to hold zero.
    """
    found = np.take(store, where.slots[0], axis=0)
    found ^= np.take(store, where.slots[1], axis=0)
    found ^= np.take(store, where.slots[2], axis=0)
    if dense:
        _add_dense(found, store[3 * where.segment :], where.dense)
    return found


def subset_tables(entries: Words) -> Words:
    """The xor of every subset of eight entries, for each eight; uint64, shape (len(entries) // 8, 256, 2)."""
    tables = np.zeros((len(entries) // 8, 256, 2), dtype=np.uint64)
    grouped = entries.reshape(-1, 8, 2)
    for bit in range(8):
        np.bitwise_xor(tables[:, : 1 << bit], grouped[:, bit, None], out=tables[:, 1 << bit : 2 << bit])
    return tables


def _add_dense(found: Words, entries: Words, chosen: Bytes) -> None:
    for table, column in zip(subset_tables(entries)[:DENSE_BYTES], chosen.T, strict=True):
        found ^= np.take(table, column, axis=0)


# ---- peeling ----------------------------------------------------------------------------------------------------------------


def _peel(where: Places) -> tuple[list[tuple[Slots, Slots]], Slots]:
    """Layers of keys, each with the slot that serves it, in the order of peeling; and the keys that are left.

    A slot keeps how many keys use it and the xor of their numbers: where there is one, that is its number.
    """
    keys = where.slots.shape[1]
    numbers = np.arange(keys, dtype=np.int64)
    used = np.bincount(where.slots.reshape(-1), minlength=3 * where.segment)
    names = np.zeros(3 * where.segment, dtype=np.int64)
    np.bitwise_xor.at(names, where.slots.reshape(-1), np.tile(numbers, 3))
    layers = []
    alone = np.flatnonzero(used == 1)
    serving = np.full(keys, -1, dtype=np.int64)  # the slot that serves a key
    while len(alone):
        peeled, first = np.unique(names[alone], return_index=True)  # a key that several slots could serve takes the first of them
        alone = alone[first]
        serving[peeled] = alone
        layers.append((peeled, alone))
        touched = where.slots[:, peeled].reshape(-1)
        np.subtract.at(used, touched, 1)
        np.bitwise_xor.at(names, touched, np.tile(peeled, 3))
        alone = np.unique(touched[used[touched] == 1])
    return layers, np.flatnonzero(serving < 0)


def _solve(where: Places, values: Words, left: Slots, store: Words) -> None:
    """Fill the slots that the left-over keys use, dense ones included, by elimination over GF(2)."""
    names, columns = np.unique(where.slots[:, left], return_inverse=True)
    columns = columns.reshape(3, -1)
    width = len(names)
    reduced: dict[int, tuple[int, int]] = {}  # by highest bit: an equation's unknowns and value
    for place, key in enumerate(left.tolist()):
        unknowns = int.from_bytes(where.dense[key].tobytes(), "little")
        for column in columns[:, place].tolist():
            unknowns ^= 1 << (column + 8 * DENSE_BYTES)
        value = int(values[key, 0]) | int(values[key, 1]) << 64
        while unknowns:
            top = unknowns.bit_length()
            if top not in reduced:
                reduced[top] = (unknowns, value)
                break
            unknowns, value = unknowns ^ reduced[top][0], value ^ reduced[top][1]
        else:
            raise DataError(
                "psi.store_failed",
                "The own identifiers do not fit the store that was drawn for them (a chance below 2^-40).",
                remedy="Run the step again: it draws another.",
            )
    _substitute(reduced, width, names, store, 3 * where.segment)


def _substitute(reduced: dict[int, tuple[int, int]], width: int, names: Slots, store: Words, dense_from: int) -> None:
    """Values of the unknowns from the lowest on; those that no equation leads with are zero."""
    found: dict[int, int] = {}
    for top in sorted(reduced):
        unknowns, value = reduced[top]
        rest = unknowns ^ 1 << (top - 1)
        while rest:
            bit = rest.bit_length()
            value ^= found.get(bit, 0)
            rest ^= 1 << (bit - 1)
        found[top] = value
    for top, value in found.items():
        slot = names[top - 1 - 8 * DENSE_BYTES] if top > 8 * DENSE_BYTES else dense_from + top - 1
        store[slot] = value & (1 << 64) - 1, value >> 64
