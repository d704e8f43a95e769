"""Rows in any number within a bounded memory: texts and numbers in chunks, put where a step keeps what is too much to hold.

A step has one :class:`Scratch`.  In memory it is a list; a node's own (:mod:`node.runtime.spill`) goes to an encrypted file once a
step's chunks pass :attr:`node.limits.Limits.scratch_bytes`.  What fits into one chunk is never put anywhere: it stays a list or an
array, and whoever reads rows by slices, by single numbers or by :func:`picked` need not know which it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

CHUNK_ROWS = 65_536
"""Rows of one chunk: what is read back at a time."""


class Piece(Protocol):
    """Bytes that were put away; gone with the last reference to it."""

    def read(self) -> bytes:
        """The bytes.

        Raises:
            DataError: ``state.scratch`` where a file holds them and cannot be read.
        """
        ...


class Scratch(Protocol):
    """Where a step puts bytes that it reads again before it ends."""

    def put(self, data: bytes) -> Piece:
        """Put bytes away.

        Raises:
            DataError: ``state.scratch`` where a file takes them and cannot be written.
        """
        ...


class Held:
    """A :class:`Piece` in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __repr__(self) -> str:
        return "Piece(<secret>)"

    def read(self) -> bytes:
        """See :class:`Piece`."""
        return self._data


class MemoryScratch:
    """All in memory: for few rows, or where nothing may reach a disk."""

    def put(self, data: bytes) -> Piece:
        """See :class:`Scratch`."""
        return Held(data)


class Texts(Sequence[str]):
    """Texts in packed chunks of :data:`CHUNK_ROWS`; made by :class:`TextsBuilder`.  Equal to any sequence of the same texts.

    One chunk is unpacked at a time, so reading in order costs little and reading at random much: use :func:`picked`.
    """

    def __init__(self, pieces: list[Piece], count: int, chunk: int) -> None:
        self._pieces, self._count, self._size = pieces, count, chunk
        self._last: tuple[int, list[str]] = -1, []

    def __repr__(self) -> str:
        return f"Texts(<{self._count} texts>)"

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            first, stop, step = index.indices(self._count)
            if step != 1:
                return [self[place] for place in range(first, stop, step)]
            found: list[str] = []
            while first < stop:
                start = first - first % self._size
                end = min(stop, start + self._size)
                found += self._unpacked(first // self._size)[first - start : end - start]
                first = end
            return found
        place = index + self._count if index < 0 else index
        if not 0 <= place < self._count:
            raise IndexError(index)
        return self._unpacked(place // self._size)[place % self._size]

    def __iter__(self) -> Iterator[str]:
        for number in range(len(self._pieces)):
            yield from self._unpacked(number)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # equal to lists, which have none

    def _unpacked(self, number: int) -> list[str]:
        known, texts = self._last
        if known != number:
            data, ends = self.chunk(number)
            texts = _cut(data, [0, *ends.tolist()], ends.tolist())
            self._last = number, texts
        return texts

    @property
    def chunks(self) -> int:
        """How many chunks there are."""
        return len(self._pieces)

    @property
    def chunk_rows(self) -> int:
        """Texts of each chunk but the last."""
        return self._size

    def chunk(self, number: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """A chunk's texts in UTF-8, one after the other, and where each ends."""
        data = self._pieces[number].read()
        count = min(self._size, self._count - number * self._size)
        ends = np.frombuffer(data, dtype="<i8", count=count)
        return np.frombuffer(data, dtype=np.uint8, offset=8 * count), ends


class TextsBuilder:
    """Collects texts in order; holds one chunk, puts away the others."""

    def __init__(self, scratch: Scratch | None = None, *, chunk: int = CHUNK_ROWS) -> None:
        self._scratch, self._size = scratch or MemoryScratch(), chunk
        self._pieces: list[Piece] = []
        self._pending: list[str] = []
        self._done = 0

    def __len__(self) -> int:
        return self._done + len(self._pending)

    def extend(self, texts: Sequence[str]) -> None:
        """Add texts."""
        self._pending += texts
        while len(self._pending) > self._size:
            self._put(self._pending[: self._size])
            self._pending = self._pending[self._size :]

    def _put(self, texts: list[str]) -> None:
        # Half of a surrogate pair, which some sources let through, is refused later and kept as it is until then.
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        ends = np.cumsum([len(item) for item in encoded], dtype="<i8")
        self._pieces.append(self._scratch.put(ends.tobytes() + b"".join(encoded)))
        self._done += len(texts)

    def result(self) -> Sequence[str]:
        """All texts: a list where they fit into one chunk."""
        if not self._pieces:
            return self._pending
        if self._pending:
            self._put(self._pending)
            self._pending = []
        return Texts(self._pieces, self._done, self._size)


class Numbers:
    """One column of numbers in chunks; made by :class:`NumbersBuilder`.  Read by a number, a slice or an array of row numbers."""

    def __init__(self, pieces: list[Piece], count: int, dtype: np.dtype, chunk: int) -> None:
        self._pieces, self._count, self.dtype, self._size = pieces, count, dtype, chunk
        self._last: tuple[int, NDArray] = -1, np.zeros(0, dtype=dtype)

    def __repr__(self) -> str:
        return f"Numbers(<{self._count} of {self.dtype}>)"

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int | slice | NDArray[np.int64]) -> Any:
        if isinstance(index, int | np.integer):
            place = range(self._count)[int(index)]
            return self._range(place, place + 1)[0]
        if isinstance(index, slice):
            first, stop, step = index.indices(self._count)
            if step != 1:
                return self[np.arange(first, stop, step)]
            return self._range(first, stop)
        rows = np.asarray(index)
        if rows.dtype == np.bool_:
            rows = np.flatnonzero(rows)
        if len(rows) and not 0 <= rows.min() <= rows.max() < self._count:
            raise IndexError("a row that the column does not have")
        out = np.empty(len(rows), dtype=self.dtype)
        for number, places, within in _by_chunk(rows, self._size):
            out[places] = self._chunk(number)[within]
        return out

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray:
        return np.asarray(self._range(0, self._count), dtype=dtype)

    def _range(self, first: int, stop: int) -> NDArray:
        out, done = np.empty(max(0, stop - first), dtype=self.dtype), 0
        while first < stop:
            part = self._chunk(first // self._size)[first % self._size :][: stop - first]
            out[done : done + len(part)] = part
            done, first = done + len(part), first + len(part)
        return out

    def _chunk(self, number: int) -> NDArray:
        known, values = self._last
        if known != number:
            values = np.frombuffer(self._pieces[number].read(), dtype=self.dtype)
            self._last = number, values
        return values


Column = NDArray[Any] | Numbers


class NumbersBuilder:
    """Collects arrays of one dtype into a column; holds one chunk, puts away the others."""

    def __init__(self, dtype: DTypeLike, scratch: Scratch | None = None, *, chunk: int = CHUNK_ROWS) -> None:
        self._dtype, self._scratch, self._size = np.dtype(dtype), scratch or MemoryScratch(), chunk
        self._pieces: list[Piece] = []
        self._pending: list[NDArray] = []
        self._waiting = self._done = 0

    def append(self, values: NDArray) -> None:
        """Add values of the builder's dtype."""
        self._pending.append(values)
        self._waiting += len(values)
        if self._waiting > self._size:
            joined = np.concatenate(self._pending)
            while len(joined) > self._size:
                self._put(joined[: self._size])
                joined = joined[self._size :]
            self._pending, self._waiting = [joined], len(joined)

    def _put(self, values: NDArray) -> None:
        self._pieces.append(self._scratch.put(np.ascontiguousarray(values, dtype=self._dtype).tobytes()))
        self._done += len(values)

    def result(self) -> Column:
        """The column: an array where it fits into one chunk."""
        rest = np.concatenate([np.zeros(0, dtype=self._dtype), *self._pending])
        if not self._pieces:
            return rest
        if len(rest):
            self._put(rest)
        return Numbers(self._pieces, self._done, self._dtype, self._size)


def _by_chunk(rows: NDArray[np.int64], size: int) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    chunks = rows // size
    order = np.argsort(chunks, kind="stable")
    numbers, firsts = np.unique(chunks[order], return_index=True)
    for number, places in zip(numbers.tolist(), np.split(order, firsts[1:]), strict=False):
        yield number, places, rows[places] - number * size


def _cut(data: NDArray[np.uint8], starts: list[int], ends: list[int]) -> list[str]:
    whole = data.tobytes()
    return [whole[start:end].decode("utf-8", "surrogatepass") for start, end in zip(starts, ends, strict=False)]


def picked(texts: Sequence[str], rows: NDArray[np.int64]) -> list[str]:
    """The texts of some rows, in the order of ``rows``; each chunk that holds one is read once."""
    if not isinstance(texts, Texts):
        return [texts[row] for row in rows.tolist()]
    found = [""] * len(rows)
    for number, places, within in _by_chunk(rows, texts.chunk_rows):
        data, ends = texts.chunk(number)
        starts = np.concatenate((np.zeros(1, dtype=np.int64), ends))[within]
        for place, text in zip(places.tolist(), _cut(data, starts.tolist(), ends[within].tolist()), strict=True):
            found[place] = text
    return found


def pieces_of(
    texts: Sequence[str], rows: NDArray[np.int64], bounds: Iterable[tuple[int, int]], *, chunk: int = CHUNK_ROWS
) -> Iterator[list[str]]:
    """The texts of ``rows[first:stop]`` for each of some ascending bounds.

    ``chunk`` rows are picked at a time, and a sixty-fourth of all where that is more: each pick reads every chunk that it needs.
    """
    window: list[str] = []
    start, chunk = 0, max(chunk, len(rows) // 64)
    for first, stop in bounds:
        if stop > start + len(window):
            start, window = first, picked(texts, rows[first : max(stop, first + chunk)])
        yield window[first - start : stop - start]


def chosen(texts: Sequence[str], rows: NDArray[np.int64], scratch: Scratch | None) -> Sequence[str]:
    """The texts of some rows as a sequence of their own."""
    built = TextsBuilder(scratch)
    bounds = ((first, min(first + CHUNK_ROWS, len(rows))) for first in range(0, len(rows), CHUNK_ROWS))
    for part in pieces_of(texts, rows, bounds):
        built.extend(part)
    return built.result()


def packed(texts: Sequence[str], rows: NDArray[np.int64] | None = None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Texts in UTF-8, one after the other, and where each ends (int64): of the given rows in their order, or of all."""
    if not isinstance(texts, Texts):
        encoded = [text.encode("utf-8", "surrogatepass") for text in (texts if rows is None else picked(texts, rows))]
        return np.frombuffer(b"".join(encoded), dtype=np.uint8), np.cumsum([len(item) for item in encoded], dtype=np.int64)
    if rows is None:
        parts = [texts.chunk(number) for number in range(texts.chunks)]
        befores = np.cumsum([0, *(len(data) for data, _ in parts)])
        ends = np.concatenate([stops + before for (_, stops), before in zip(parts, befores.tolist(), strict=False)])
        return np.concatenate([data for data, _ in parts]), ends
    lengths = np.empty(len(rows), dtype=np.int64)
    for number, places, within in _by_chunk(rows, texts.chunk_rows):
        lengths[places] = np.diff(texts.chunk(number)[1], prepend=0)[within]
    ends = np.cumsum(lengths)
    out = np.empty(int(ends[-1]) if len(ends) else 0, dtype=np.uint8)
    for number, places, within in _by_chunk(rows, texts.chunk_rows):
        source, stops = texts.chunk(number)
        sizes = lengths[places]
        inside = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        out[np.repeat(ends[places] - sizes, sizes) + inside] = source[np.repeat(stops[within] - sizes, sizes) + inside]
    return out, ends
