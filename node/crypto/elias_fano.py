"""A large set of masked values in under 8 bytes each: the high-bits, low-bits code of Elias (1974) and Fano (1971).

An element is the first ``prefix_bits + 61`` bits of a uniform 16-byte value.  Sorted, it is stored as::

    index        n + 2**prefix_bits bits: for element i (from 0) with prefix p the bit p + i is set, and no other
    remainders   n times 61 bits: what follows the prefix

With ``prefix_bits = ceil(log2 n)`` these are at most 64 bits an element (1 + 2**prefix_bits / n <= 3 of the index, 61 of the
remainder).  A uniform value that is not of the set matches with a chance of ``n / 2**(prefix_bits + 61) <= 2**-61``.  Bits are
counted from the most significant of a byte.  A value may stand in the set twice: it is a multiset.

Everything is integer arithmetic in numpy; elements are decoded a stretch at a time, so memory is the code itself and a few
megabytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from audit.layout import FILTER_CHANGE_BYTES, FILTER_REMAINDER_BITS, KEPT_BYTES

VALUE = np.dtype(("V", KEPT_BYTES))
"""A masked value, compared as unsigned bytes, first byte first."""
CHANGE = np.dtype(("V", FILTER_CHANGE_BYTES))
"""Its first ``prefix_bits + 61`` bits, filled up with zeros: of the same order."""

_CHUNK = 1 << 16  # elements coded at a time
_BLOCK = 1 << 15  # bytes of the index read at a time
_SPARE = 64 - FILTER_REMAINDER_BITS


@dataclass(frozen=True)
class Filter:
    """A coded set: ``index`` and ``remainders`` are bytes, shapes (ceil((n + 2**prefix_bits) / 8),) and (ceil(61 n / 8),)."""

    elements: int
    prefix_bits: int
    index: NDArray[np.uint8] = field(repr=False)
    remainders: NDArray[np.uint8] = field(repr=False)

    @property
    def size(self) -> int:
        """Bytes of the code."""
        return len(self.index) + len(self.remainders)


def index_bits(elements: int, prefix_bits: int) -> int:
    """Length of the index."""
    return elements + (1 << prefix_bits)


def code_bytes(elements: int, prefix_bits: int) -> tuple[int, int]:
    """Bytes of index and remainders."""
    return -(-index_bits(elements, prefix_bits) // 8), -(-elements * FILTER_REMAINDER_BITS // 8)


def encode(values: NDArray[np.void], prefix_bits: int) -> Filter:
    """The filter of 16-byte values (dtype :data:`VALUE`), which must be in ascending order."""
    writer = _Writer(len(values), prefix_bits)
    for start in range(0, len(values), _CHUNK):
        writer.append(*_split(values[start : start + _CHUNK], prefix_bits))
    return writer.filter()


def shortened(values: NDArray[np.void], prefix_bits: int) -> NDArray[np.void]:
    """The first ``prefix_bits + 61`` bits of 16-byte values, dtype :data:`CHANGE`, in the order given."""
    kept = np.array(np.ascontiguousarray(values).view(np.uint8).reshape(-1, KEPT_BYTES)[:, :FILTER_CHANGE_BYTES])
    whole, rest = divmod(prefix_bits + FILTER_REMAINDER_BITS, 8)
    if rest:
        kept[:, whole] &= 0x100 - (1 << (8 - rest))
        whole += 1
    kept[:, whole:] = 0
    return kept.view(CHANGE).reshape(-1)


def contains(coded: Filter, values: NDArray[np.void]) -> NDArray[np.bool_]:
    """For each 16-byte value whether the set holds its first bits; any order."""
    prefixes, remainders = _split(values, coded.prefix_bits)
    order = np.argsort(prefixes, kind="stable")
    prefixes, remainders = prefixes[order], remainders[order]
    found = np.zeros(len(values), dtype=np.bool_)
    for first, held in _prefixes(coded):
        asked = slice(*np.searchsorted(prefixes, [held[0], held[-1] + 1]))
        start = np.searchsorted(held, prefixes[asked], "left")
        stop = np.searchsorted(held, prefixes[asked], "right")
        hits = np.zeros(len(start), dtype=np.bool_)
        for step in range(int((stop - start).max(initial=0))):
            open_ = np.flatnonzero(start + step < stop)
            hits[open_] |= _remainders(coded, first + start[open_] + step) == remainders[asked][open_]
        found[order[asked]] |= hits
    return found


def changed(coded: Filter, *, removed: NDArray[np.void], added: NDArray[np.void]) -> Filter:
    """The filter without ``removed`` and with ``added``; both of dtype :data:`CHANGE`, ascending, of this filter's prefix.

    Raises:
        ValueError: what is removed is not there, or the prefix is too short for what would be left.
    """
    elements = coded.elements - len(removed) + len(added)
    if not 0 <= elements <= 1 << coded.prefix_bits:
        raise ValueError("as many elements do not fit the prefix")
    writer = _Writer(elements, coded.prefix_bits)
    out, into = 0, 0
    for chunk in _chunks(coded):
        upto = int(np.searchsorted(removed, chunk[-1:], "right")[0])
        chunk = _without(chunk, removed[out:upto])
        out = upto
        if len(chunk):
            upto = int(np.searchsorted(added, chunk[-1:], "right")[0])
            chunk = np.insert(chunk, np.searchsorted(chunk, added[into:upto]), added[into:upto])
            into = upto
        writer.append(*_split(chunk, coded.prefix_bits))
    if out != len(removed):
        raise ValueError("an element that is not there cannot be removed")
    writer.append(*_split(added[into:], coded.prefix_bits))
    return writer.filter()


def check_code(coded: Filter) -> None:
    """Whether index and remainders are those of ``elements`` elements.

    Raises:
        ValueError: another length, another number of set bits, a prefix out of range, or bits after the end.
    """
    lengths = code_bytes(coded.elements, coded.prefix_bits)
    if (len(coded.index), len(coded.remainders)) != lengths:
        raise ValueError("its parts have other lengths than its elements take")
    last, elements = -1, 0
    for _, prefixes in _prefixes(coded):
        elements += len(prefixes)
        last = int(prefixes[-1])
    if elements != coded.elements or last >= 1 << coded.prefix_bits:
        raise ValueError("its index is not that of as many elements")
    spare = len(coded.remainders) * 8 - coded.elements * FILTER_REMAINDER_BITS
    if spare and coded.remainders[-1] & ((1 << spare) - 1):
        raise ValueError("bits follow its last remainder")


# ---- parts ---------------------------------------------------------------------------------------------------------------------


def _split(values: NDArray[np.void], prefix_bits: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Prefixes and remainders of values of either dtype."""
    width = values.dtype.itemsize
    padded = np.zeros((len(values), 16), dtype=np.uint8)
    padded[:, :width] = np.ascontiguousarray(values).view(np.uint8).reshape(-1, width)
    words = padded.view(">u8").astype(np.uint64)
    shift = np.uint64(prefix_bits)
    prefixes = (words[:, 0] >> (np.uint64(64) - shift)).astype(np.int64)
    following = (words[:, 0] << shift) | (words[:, 1] >> (np.uint64(64) - shift))
    return prefixes, following >> np.uint64(_SPARE)


def _joined(prefixes: NDArray[np.int64], remainders: NDArray[np.uint64], prefix_bits: int) -> NDArray[np.void]:
    """Inverse of :func:`_split`, dtype :data:`CHANGE`."""
    beyond = prefix_bits - _SPARE  # bits of a remainder that the first word has no room for
    words = np.zeros((len(prefixes), 2), dtype=">u8")
    words[:, 0] = (prefixes.astype(np.uint64) << np.uint64(64 - prefix_bits)) | (remainders >> np.uint64(beyond))
    if beyond:
        words[:, 1] = remainders << np.uint64(64 - beyond)
    kept = np.ascontiguousarray(words.view(np.uint8).reshape(-1, 16)[:, :FILTER_CHANGE_BYTES])
    return kept.view(CHANGE).reshape(-1)


def _without(chunk: NDArray[np.void], removed: NDArray[np.void]) -> NDArray[np.void]:
    if not len(removed):
        return chunk
    # A value that is removed twice takes two places: its occurrence counts from the first of its equals.
    place = np.searchsorted(chunk, removed) + np.arange(len(removed)) - np.searchsorted(removed, removed)
    if place[-1] >= len(chunk) or not bool((chunk[np.minimum(place, len(chunk) - 1)] == removed).all()):
        raise ValueError("an element that is not there cannot be removed")
    return np.delete(chunk, place)


def _prefixes(coded: Filter) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Prefixes of all elements, a stretch at a time, with the number of the stretch's first element."""
    count = 0
    for start in range(0, len(coded.index), _BLOCK):
        places = np.flatnonzero(np.unpackbits(coded.index[start : start + _BLOCK])) + 8 * start
        if len(places):
            yield count, places - np.arange(count, count + len(places))
            count += len(places)


def _chunks(coded: Filter) -> Iterator[NDArray[np.void]]:
    for first, prefixes in _prefixes(coded):
        numbers = np.arange(first, first + len(prefixes))
        yield _joined(prefixes, _remainders(coded, numbers), coded.prefix_bits)


def _remainders(coded: Filter, numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Remainders of the elements of these numbers: nine bytes hold each, whatever bit it starts at."""
    bits = numbers * FILTER_REMAINDER_BITS
    places = (bits >> 3)[:, None] + np.arange(9)
    parts = np.take(coded.remainders, places, mode="clip")  # beyond the end stands nothing that is kept
    head = np.ascontiguousarray(parts[:, :8]).view(">u8").astype(np.uint64).reshape(-1)
    shift = (bits & 7).astype(np.uint64)
    return ((head << shift) | (parts[:, 8].astype(np.uint64) >> (np.uint64(8) - shift))) >> np.uint64(_SPARE)


class _Writer:
    """Codes elements that come in ascending order."""

    def __init__(self, elements: int, prefix_bits: int) -> None:
        self._elements, self._prefix_bits, self._count = elements, prefix_bits, 0
        index, remainders = code_bytes(elements, prefix_bits)
        self._index = np.zeros(index, dtype=np.uint8)
        self._remainders = np.zeros(remainders, dtype=np.uint8)
        self._waiting = np.zeros(0, dtype=np.uint64)
        self._written = 0

    def append(self, prefixes: NDArray[np.int64], remainders: NDArray[np.uint64]) -> None:
        """Take the next elements; they must be no more than were announced."""
        if not len(prefixes):
            return
        places = prefixes + np.arange(self._count, self._count + len(prefixes))
        self._count += len(prefixes)
        bytes_, bits = places >> 3, (128 >> (places & 7)).astype(np.uint8)
        starts = np.concatenate(([0], np.flatnonzero(np.diff(bytes_)) + 1))
        self._index[bytes_[starts]] |= np.bitwise_or.reduceat(bits, starts)
        self._pack(np.concatenate((self._waiting, remainders)), last=self._count == self._elements)

    def _pack(self, waiting: NDArray[np.uint64], *, last: bool) -> None:
        """Eight remainders fill whole bytes; fewer wait for the next."""
        whole = len(waiting) if last else len(waiting) // 8 * 8
        bits = np.unpackbits(waiting[:whole].astype(">u8").view(np.uint8).reshape(-1, 8), axis=1)[:, _SPARE:]
        packed = np.packbits(bits)
        self._remainders[self._written : self._written + len(packed)] = packed
        self._written += len(packed)
        self._waiting = waiting[whole:]

    def filter(self) -> Filter:
        """The code of all that came."""
        return Filter(self._elements, self._prefix_bits, self._index, self._remainders)
