"""Which values came before: a set of rows that holds 16 bytes of each value instead of the value.

A value is known by 96 bits of its BLAKE2b (RFC 7693) under a key of its own set, so nobody can prepare two values that look alike;
by chance two of 200 million do with less than 2^-40.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_WORD = np.dtype([("first", "<u8"), ("second", "<u4")])


@dataclass(frozen=True)
class _Run:
    """Values that came, ascending by ``first``; ``rows`` says where each came first."""

    first: NDArray[np.uint64]
    second: NDArray[np.uint32]
    rows: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.first)

    def find(self, first: NDArray[np.uint64], second: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Where each value came first; -1 where it did not."""
        found = np.full(len(first), -1, dtype=np.int64)
        place = np.searchsorted(self.first, first)
        open_ = np.flatnonzero(place < len(self))
        while len(open_ := open_[self.first[place[open_]] == first[open_]]):  # once more for each value with the same 64 bits
            same = open_[self.second[place[open_]] == second[open_]]
            found[same] = self.rows[place[same]]
            place[open_] += 1
            open_ = open_[(found[open_] < 0) & (place[open_] < len(self))]
        return found


class Seen:
    """Values by row, in the order in which they come; at most 2^32 rows."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._runs: list[_Run] = []
        """Each more than twice as long as the next, so that few are searched and few values are moved often."""

    def add(self, values: Sequence[str], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Take values.

        Args:
            rows: of each value, ascending, none of them below 0 or below those that came before; int64, shape (n,).

        Returns:
            For each the row where it came first, or -1 where it came for the first time; int64, shape (n,).
        """
        if not values:
            return np.zeros(0, dtype=np.int64)
        key, blake2b = self._key, hashlib.blake2b
        digests = [blake2b(value.encode("utf-8", "surrogatepass"), digest_size=12, key=key).digest() for value in values]
        words = np.frombuffer(b"".join(digests), dtype=_WORD)
        order = np.lexsort((words["second"], words["first"]))  # of equal ones the earlier row first
        first, second = words["first"][order], words["second"][order]
        rows = rows[order]
        new = np.ones(len(order), dtype=bool)
        new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
        earlier = rows[np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))]
        known = np.full(len(order), -1, dtype=np.int64)
        for run in self._runs:
            known = np.maximum(known, run.find(first, second))
        answer = np.empty(len(order), dtype=np.int64)
        answer[order] = np.where(known >= 0, known, np.where(new, -1, earlier))
        add = new & (known < 0)
        self._insert(_Run(first[add], second[add], rows[add].astype(np.uint32)))
        return answer

    def _insert(self, run: _Run) -> None:
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            other = self._runs.pop()
            first = np.concatenate((other.first, run.first))
            order = np.argsort(first, kind="stable")
            second, rows = np.concatenate((other.second, run.second)), np.concatenate((other.rows, run.rows))
            run = _Run(first[order], second[order], rows[order])
        if len(run):
            self._runs.append(run)
